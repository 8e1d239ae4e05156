/* safetensors files and their index: what is right is read exactly, and each thing that can be wrong is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "model/float16.h"
#include "model/safetensors.h"
#include "model/weights.h"

static char dir[64];

static int dir_setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/rouse-weights-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static void dir_clear(void)
{
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (d)
        closedir(d);
}

static int dir_teardown(void **state)
{
    (void)state;
    dir_clear();
    return rmdir(dir);
}

static void write_file(const char *name, const void *bytes, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Length, header, and n_data bytes 0, 1, 2, ... */
static void write_safetensors(const char *name, const char *header, size_t n_data)
{
    struct base_buffer out;
    base_buffer_init(&out, 1 << 20);
    base_buffer_u64(&out, strlen(header));
    base_buffer_string(&out, header);
    for (size_t i = 0; i < n_data; i++)
        base_buffer_byte(&out, (uint8_t)i);
    write_file(name, out.data, out.n);
    base_buffer_done(&out);
}

static void expect_open_fails(const char *what, int code, const char *says)
{
    struct model_weights *w = NULL;
    struct base_error err = {0};
    int rc = model_weights_open(dir, &w, &err);
    if (rc != code || w || !strstr(err.text, says))
        fail_msg("%s: rc %d, '%s', wanted %d, '%s'", what, rc, err.text, code, says);
}

static struct model_weights *opened(void)
{
    struct model_weights *w = NULL;
    struct base_error err = {0};
    if (model_weights_open(dir, &w, &err) != 0)
        fail_msg("%s", err.text);
    return w;
}

/* ---- the format ---- */

static void test_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *what, *header;
        size_t n_data;
        const char *says;
    } cases[] = {
        {"array", "[]", 0, "model.safetensors: the header does not begin with '{'"},
        {"space first", " {}", 0, "the header does not begin with '{'"},
        {"no header", "", 0, "the header does not begin with '{'"},
        {"cut JSON", "{\"a\":", 0, "model.safetensors: line 1"},
        {"text behind", "{} {}", 0, "end of file expected"},
        {"same key twice",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "duplicate object key"},
        {"metadata list", "{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"metadata number", "{\"__metadata__\":{\"format\":1}}", 0, "__metadata__: format is not a string"},
        {"tensor no object", "{\"a\":7}", 0, "tensor a is not described by an object"},
        {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor a: dtype is missing"},
        {"odd dtype", "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "tensor a: unknown dtype \"F33\""},
        {"dtype number", "{\"a\":{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "tensor a: unknown dtype 32"},
        {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor a: shape is not a list"},
        {"shape number", "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "shape is not a list"},
        {"negative dim", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
         "tensor a: shape[0] is -1, not a size"},
        {"real dim", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1.0],\"data_offsets\":[0,1]}}", 1,
         "tensor a: shape[1] is 1.0, not a size"},
        {"huge shape", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "tensor a: a shape of more than 2^61 bytes"},
        {"huge dim", "{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,4]}}", 4,
         "a shape of more than 2^61 bytes"},
        {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor a: data_offsets is not [begin, end]"},
        {"one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "is not [begin, end]"},
        {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1,
         "is not [begin, end]"},
        {"negative offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1,
         "is not [begin, end]"},
        {"backwards", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1,
         "tensor a: data_offsets end at 0 before they begin at 1"},
        {"span too short", "{\"a\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,11]}}", 11,
         "tensor a: data_offsets span 11 bytes, shape and dtype F16 need 12"},
        {"half a byte", "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
         "tensor a: data_offsets span 1 bytes, shape and dtype F4 need 2"},
        {"hole at the start", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
         "hole between the header and tensor a: one ends at 0, the other begins at 1"},
        {"hole",
         "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         5, "hole between a and tensor b: one ends at 2, the other begins at 3"},
        {"overlap",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "overlap between a and tensor b: one ends at 2, the other begins at 1"},
        {"same bytes twice",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         2, "overlap between a and tensor b"},
        {"one byte missing", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
         "truncated: tensor a ends at byte 70, the file has 69 bytes"},
        {"one byte more", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
         "over-long: the last byte used, by a, is 70, the file has 71 bytes"},
        {"bytes without a tensor", "{}", 1, "over-long: the last byte used, by the header, is 10, the file has 11"},
        {"two spellings",
         "{\"gpt_neox.x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "tensor gpt_neox.x in"},
        {"two heads",
         "{\"lm_head.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"embed_out.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "are the same one"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_safetensors("model.safetensors", cases[i].header, cases[i].n_data);
        expect_open_fails(cases[i].what, ERR_INPUT, cases[i].says);
    }
    dir_clear();
}

static void test_bad_files(void **state)
{
    (void)state;
    expect_open_fails("empty directory", ERR_NOTFOUND, "neither model.safetensors nor model.safetensors.index.json");
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } cases[] = {
        {"", 0, "truncated: a safetensors file has 8 bytes at least, this one 0"},
        {"\2\0\0\0\0\0\0", 7, "this one 7"},
        {"\3\0\0\0\0\0\0\0{}", 10, "truncated: the header ends at byte 11, the file has 10 bytes"},
        {"\1\xe1\xf5\5\0\0\0\0{}", 10, "header of 100000001 bytes; the limit is 100000000"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "header of 18446744073709551615 bytes"},
        {"\2\0\0\0\0\0\0\0[]", 10, "does not begin with '{'"},
        {"\4\0\0\0\0\0\0\0{}\0 ", 12, "model.safetensors: line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file("model.safetensors", cases[i].bytes, cases[i].n);
        expect_open_fails(cases[i].says, ERR_INPUT, cases[i].says);
    }
    dir_clear();
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_open_fails("pipe", ERR_INPUT, "not a regular file");
    dir_clear();
    assert_int_equal(mkdir(path, 0700), 0);
    expect_open_fails("directory", ERR_INPUT, "not a regular file");
    rmdir(path);
}

/* 2^20 + 1 values in a header that the length limit would allow. */
static void test_flooded_header(void **state)
{
    (void)state;
    size_t n = 8 + (1 << 20) + 2;
    char *bytes = malloc(n);
    assert_non_null(bytes);
    memset(bytes, '[', n);
    memcpy(bytes, (uint8_t[8]){2, 0, 16}, 8);
    bytes[8] = '{';
    write_file("model.safetensors", bytes, n);
    free(bytes);
    expect_open_fails("flood", ERR_INPUT, "JSON of up to 1048579 values; the limit is 1048576");
    dir_clear();
}

static void test_find(void **state)
{
    (void)state;
    write_safetensors(
        "model.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"gpt_neox.layers.0.attention.bias\":{\"dtype\":\"BOOL\",\"shape\":[1,1,2,2],\"data_offsets\":[0,4]},"
        "\"gpt_neox.embed_in.weight\":{\"dtype\":\"F16\",\"shape\":[3,1],\"data_offsets\":[4,10]},"
        "\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[10,12]},"
        "\"empty\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[10,10]},"
        "\"nothing\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[10,10]}," /* by name behind lm_head, by data before it */
        "\"five\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[12,16]},"
        "\"packed\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18],\"more\":null},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[18,22]}}   ",
        22);
    struct model_weights *w = opened();
    const struct model_tensor *t = model_weights_find(w, "embed_in.weight");
    assert_non_null(t);
    assert_ptr_equal(t, model_weights_find(w, "gpt_neox.embed_in.weight"));
    assert_string_equal(t->name, "gpt_neox.embed_in.weight");
    assert_int_equal(t->dtype, MODEL_F16);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->shape[0], 3);
    assert_int_equal(t->shape[1], 1);
    assert_int_equal(t->bytes, 6);
    uint8_t bytes[4];
    assert_int_equal(model_weights_read_raw(w, t, 1, 2, bytes, NULL), 0);
    assert_memory_equal(bytes, ((uint8_t[]){6, 7, 8, 9}), 4);
    t = model_weights_find(w, "embed_out.weight");
    assert_non_null(t);
    assert_ptr_equal(t, model_weights_find(w, "lm_head.weight"));
    assert_int_equal(t->dtype, MODEL_BF16);
    t = model_weights_find(w, "scalar");
    assert_non_null(t);
    assert_int_equal(t->n_dims, 0);
    assert_int_equal(model_weights_read_raw(w, t, 0, 1, bytes, NULL), 0);
    assert_memory_equal(bytes, ((uint8_t[]){18, 19, 20, 21}), 4);
    assert_non_null(model_weights_find(w, "empty"));
    assert_non_null(model_weights_find(w, "nothing"));
    static const char *const absent[] = {"layers.0.attention.bias", "five", "packed", "__metadata__", "", "gpt_neox."};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        assert_null(model_weights_find(w, absent[i]));
    model_weights_close(w);
    model_weights_close(NULL);
    dir_clear();
}

/* ---- whole models ---- */

static const struct model_config small = {
    .n_layers = 2,
    .hidden = 16,
    .n_heads = 2,
    .head_dim = 8,
    .rotary_dims = 2,
    .intermediate = 24,
    .vocab = 10,
    .n_positions = 32,
    .rotary_base = 10000,
    .norm_eps = 1e-5f,
    .parallel_residual = true,
    .attention_bias = true,
};

/* What a value of a tensor is: exact in f16 and bf16. */
static float value_at(const char *name, uint64_t i)
{
    uint32_t h = 2166136261u;
    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    h = (h ^ (uint32_t)i) * 2654435761u;
    return ((float)(h >> 24) - 127.5f) * 0.0078125f;
}

struct piece {
    const char *name;
    uint64_t rows, columns; /* columns 0: one dimension */
};

static size_t all_pieces(const struct model_config *c, struct piece *out)
{
    static char names[2 * 12][80];
    size_t n = 0, k = 0;
    const uint64_t E = c->hidden, F = c->intermediate, V = c->vocab;
    out[n++] = (struct piece){"gpt_neox.embed_in.weight", V, E};
    for (uint32_t l = 0; l < c->n_layers; l++) {
        const struct piece layer[] = {{"input_layernorm.weight", E, 0},
                                      {"input_layernorm.bias", E, 0},
                                      {"post_attention_layernorm.weight", E, 0},
                                      {"post_attention_layernorm.bias", E, 0},
                                      {"attention.query_key_value.weight", 3 * E, E},
                                      {"attention.query_key_value.bias", 3 * E, 0},
                                      {"attention.dense.weight", E, E},
                                      {"attention.dense.bias", E, 0},
                                      {"mlp.dense_h_to_4h.weight", F, E},
                                      {"mlp.dense_h_to_4h.bias", F, 0},
                                      {"mlp.dense_4h_to_h.weight", E, F},
                                      {"mlp.dense_4h_to_h.bias", E, 0}};
        for (size_t i = 0; i < 12; i++, k++) {
            snprintf(names[k], sizeof names[k], "gpt_neox.layers.%u.%s", l, layer[i].name);
            out[n++] = (struct piece){names[k], layer[i].rows, layer[i].columns};
        }
    }
    out[n++] = (struct piece){"gpt_neox.final_layer_norm.weight", E, 0};
    out[n++] = (struct piece){"gpt_neox.final_layer_norm.bias", E, 0};
    out[n++] = (struct piece){"embed_out.weight", V, E};
    return n;
}
enum { N_PIECES_MAX = 40 };

static uint64_t piece_n(const struct piece *p)
{
    return p->rows * (p->columns ? p->columns : 1);
}

/* Piece i in dtypes[i % 3]. */
static void write_pieces(const char *file, const struct piece *pieces, size_t n, const enum model_dtype dtypes[3])
{
    static const char *const names[] = {"F32", "F16", "BF16"};
    struct base_buffer header, data, out;
    base_buffer_init(&header, 1 << 20);
    base_buffer_init(&data, 1 << 20);
    base_buffer_init(&out, 1 << 21);
    for (size_t i = 0; i < n; i++) {
        enum model_dtype dtype = dtypes[i % 3];
        size_t begin = data.n;
        for (uint64_t j = 0; j < piece_n(&pieces[i]); j++) {
            float f = value_at(pieces[i].name, j);
            uint32_t bits;
            memcpy(&bits, &f, sizeof bits);
            if (dtype == MODEL_F32)
                base_buffer_u32(&data, bits);
            else
                base_buffer_u16(&data, dtype == MODEL_F16 ? model_f32_to_f16(f) : model_f32_to_bf16(f));
        }
        base_buffer_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64, i ? "," : "{", pieces[i].name,
                           names[dtype], pieces[i].rows);
        if (pieces[i].columns)
            base_buffer_printf(&header, ",%" PRIu64, pieces[i].columns);
        base_buffer_printf(&header, "],\"data_offsets\":[%zu,%zu]}", begin, data.n);
    }
    base_buffer_string(&header, "}");
    base_buffer_u64(&out, header.n);
    base_buffer_append(&out, header.data, header.n);
    base_buffer_append(&out, data.data, data.n);
    assert_int_equal(out.failed, 0);
    write_file(file, out.data, out.n);
    base_buffer_done(&header);
    base_buffer_done(&data);
    base_buffer_done(&out);
}

static const enum model_dtype mixed[3] = {MODEL_F32, MODEL_F16, MODEL_BF16};

static void write_shards(const struct piece *pieces, size_t n, size_t n_first)
{
    write_pieces("model-00001-of-00002.safetensors", pieces, n_first, mixed);
    write_pieces("model-00002-of-00002.safetensors", pieces + n_first, n - n_first, mixed);
    struct base_buffer out;
    base_buffer_init(&out, 1 << 20);
    base_buffer_string(&out, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < n; i++)
        base_buffer_printf(&out, "%s\"%s\":\"model-0000%d-of-00002.safetensors\"", i ? "," : "", pieces[i].name,
                           i < n_first ? 1 : 2);
    base_buffer_string(&out, "}}");
    write_file("model.safetensors.index.json", out.data, out.n);
    base_buffer_done(&out);
}

static void expect_values(const struct model_weights *w, const struct piece *pieces, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct model_tensor *t = model_weights_find(w, pieces[i].name);
        assert_non_null(t);
        const uint64_t n_all = piece_n(&pieces[i]);
        for (uint64_t first = 0; first < n_all; first += first < 3 ? 1 : 37) {
            uint64_t n_some = n_all - first;
            float *out = malloc((n_some + 1) * sizeof *out);
            assert_non_null(out);
            out[n_some] = 77;
            struct base_error err = {0};
            if (model_weights_read_f32(w, t, first, n_some, out, &err) != 0)
                fail_msg("%s", err.text);
            for (uint64_t j = 0; j < n_some; j++) {
                if (out[j] != value_at(pieces[i].name, first + j))
                    fail_msg("%s[%" PRIu64 "]: %g, wanted %g", pieces[i].name, first + j, (double)out[j],
                             (double)value_at(pieces[i].name, first + j));
            }
            assert_true(out[n_some] == 77.0f);
            free(out);
        }
    }
}

static void test_single_file_and_shards(void **state)
{
    (void)state;
    struct piece pieces[N_PIECES_MAX];
    size_t n = all_pieces(&small, pieces);
    for (int sharded = 0; sharded < 2; sharded++) {
        if (sharded)
            write_shards(pieces, n, 11);
        else
            write_pieces("model.safetensors", pieces, n, mixed);
        struct model_weights *w = opened();
        struct base_error err = {0};
        if (model_weights_check(w, &small, &err) != 0)
            fail_msg("%s", err.text);
        expect_values(w, pieces, n);
        model_weights_close(w);
        dir_clear();
    }
    /* With both there, the single file counts, as in transformers. */
    write_shards(pieces, n, 11);
    write_safetensors("model.safetensors", "{\"only\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1);
    struct model_weights *w = opened();
    assert_null(model_weights_find(w, "embed_in.weight"));
    model_weights_close(w);
    dir_clear();
}

static void test_cut_while_open(void **state)
{
    (void)state;
    struct piece pieces[N_PIECES_MAX];
    size_t n = all_pieces(&small, pieces);
    write_pieces("model.safetensors", pieces, n, mixed);
    struct model_weights *w = opened();
    const struct model_tensor *t = model_weights_find(w, "embed_out.weight");
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(truncate(path, (off_t)(t->offset + t->bytes - 1)), 0);
    float *out = malloc(160 * sizeof *out);
    struct base_error err = {0};
    assert_int_equal(model_weights_read_f32(w, t, 0, 160, out, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "model.safetensors: the file ends at"));
    free(out);
    model_weights_close(w);
    dir_clear();
}

static void test_index(void **state)
{
    (void)state;
    struct piece pieces[N_PIECES_MAX];
    size_t n = all_pieces(&small, pieces);
    static const struct {
        const char *index, *says;
        int code;
    } cases[] = {
        {"[]", "index.json: not a JSON object", ERR_INPUT},
        {"{}", "weight_map is not an object", ERR_INPUT},
        {"{\"weight_map\":[]}", "weight_map is not an object", ERR_INPUT},
        {"{\"weight_map\":{}}", "weight_map is empty", ERR_INPUT},
        {"{\"weight_map\":{\"a\":1}}", "tensor a: 1 is not a file name in this directory", ERR_INPUT},
        {"{\"weight_map\":{\"a\":\"\"}}", "tensor a: \"\" is not a file name", ERR_INPUT},
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "is not a file name in this directory", ERR_INPUT},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is not a file name in this directory", ERR_INPUT},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is not a file name in this directory", ERR_INPUT},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors: no such file", ERR_NOTFOUND},
        {"{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\"}}",
         "00001-of-00002.safetensors: tensor a is not there, though the index says so", ERR_INPUT},
        {"{\"weight_map\":{\"embed_in.weight\":\"model-00001-of-00002.safetensors\"}}",
         "tensor embed_in.weight is not there", ERR_INPUT},
        {"{\"weight_map\":{\"embed_out.weight\":\"model-00001-of-00002.safetensors\","
         "\"gpt_neox.embed_in.weight\":\"model-00002-of-00002.safetensors\"}}",
         "though the index says so", ERR_INPUT},
        {"{\"weight_map\":{\"gpt_neox.final_layer_norm.bias\":\"model-00002-of-00002.safetensors\","
         "\"embed_out.weight\":\"model-00003-of-00003.safetensors\"}}",
         "are the same one", ERR_INPUT},
    };
    write_shards(pieces, n, 11);
    write_pieces("model-00003-of-00003.safetensors", pieces + n - 4, 4, mixed);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file("model.safetensors.index.json", cases[i].index, strlen(cases[i].index));
        expect_open_fails(cases[i].index, cases[i].code, cases[i].says);
    }
    struct base_buffer out;
    base_buffer_init(&out, 1 << 20);
    for (int i = 0; i <= 512; i++)
        base_buffer_printf(&out, "%s\"t%d\":\"%d\"", i ? "," : "{\"weight_map\":{", i, i);
    base_buffer_string(&out, "}}");
    write_file("model.safetensors.index.json", out.data, out.n);
    base_buffer_done(&out);
    expect_open_fails("513 files", ERR_INPUT, "index.json: more than 512 files");
    dir_clear();
}

static void expect_answer(const struct model_config *c, const char *what, const char *says)
{
    struct model_weights *w = opened();
    struct base_error err = {0};
    int rc = model_weights_check(w, c, &err);
    if (says ? rc != ERR_INPUT || !strstr(err.text, says) : rc != 0)
        fail_msg("%s: rc %d, '%s', wanted '%s'", what, rc, err.text, says ? says : "success");
    model_weights_close(w);
}

/* Each tensor in turn: absent, another shape, another rank. */
static void test_check_names_each_tensor(void **state)
{
    (void)state;
    struct piece all[N_PIECES_MAX], some[N_PIECES_MAX];
    size_t n = all_pieces(&small, all);
    for (size_t i = 0; i < n; i++) {
        const char *bare = strncmp(all[i].name, "gpt_neox.", 9) == 0 ? all[i].name + 9 : all[i].name;
        char says[200];
        memcpy(some, all, n * sizeof *all);
        memmove(some + i, some + i + 1, (n - i - 1) * sizeof *some);
        write_pieces("model.safetensors", some, n - 1, mixed);
        snprintf(says, sizeof says, i == n - 1 ? "tensor %s (or lm_head.weight) is missing" : "tensor %s is missing",
                 bare);
        expect_answer(&small, all[i].name, says);

        memcpy(some, all, n * sizeof *all);
        some[i].rows++;
        write_pieces("model.safetensors", some, n, mixed);
        if (all[i].columns)
            snprintf(says, sizeof says,
                     "tensor %s has shape [%" PRIu64 ", %" PRIu64 "]; config.json asks for [%" PRIu64, all[i].name,
                     all[i].rows + 1, all[i].columns, all[i].rows);
        else
            snprintf(says, sizeof says, "tensor %s has shape [%" PRIu64 "]; config.json asks for [%" PRIu64 "]",
                     all[i].name, all[i].rows + 1, all[i].rows);
        expect_answer(&small, all[i].name, says);

        memcpy(some, all, n * sizeof *all);
        some[i].columns = all[i].columns ? 0 : 1;
        write_pieces("model.safetensors", some, n, mixed);
        expect_answer(&small, all[i].name, "has shape [");
    }
    dir_clear();
}

static void test_check_choices(void **state)
{
    (void)state;
    struct piece all[N_PIECES_MAX], some[N_PIECES_MAX];
    size_t n = all_pieces(&small, all), n_some = 0;
    struct model_config tied = small, no_bias = small;
    tied.tied = true;
    no_bias.attention_bias = false;

    write_pieces("model.safetensors", all, n, mixed);
    expect_answer(&small, "whole", NULL);
    expect_answer(&tied, "tied, with an output matrix", NULL);
    expect_answer(&no_bias, "biases that are not asked for", NULL);

    write_pieces("model.safetensors", all, n - 1, mixed);
    expect_answer(&tied, "tied", NULL);
    expect_answer(&small, "no output matrix", "config.json does not set tie_word_embeddings");

    for (size_t i = 0; i < n; i++) {
        if (!strstr(all[i].name, "attention.dense.bias") && !strstr(all[i].name, "query_key_value.bias"))
            some[n_some++] = all[i];
    }
    assert_int_equal(n_some, n - 4);
    write_pieces("model.safetensors", some, n_some, mixed);
    expect_answer(&no_bias, "no attention bias", NULL);
    expect_answer(&small, "attention bias", "layers.0.attention.query_key_value.bias is missing");

    memcpy(some, all, n * sizeof *all);
    some[n - 1].name = "lm_head.weight";
    write_pieces("model.safetensors", some, n, mixed);
    expect_answer(&small, "lm_head", NULL);

    struct model_config deeper = small;
    deeper.n_layers = 3;
    expect_answer(&deeper, "one layer more", "layers.2.input_layernorm.weight is missing");

    write_safetensors("model.safetensors",
                      "{\"gpt_neox.embed_in.weight\":{\"dtype\":\"I64\",\"shape\":[10,16],\"data_offsets\":[0,1280]}}",
                      1280);
    expect_answer(&small, "integers", "tensor gpt_neox.embed_in.weight has dtype I64; it must be F32, F16 or BF16");
    write_safetensors("model.safetensors", "{}", 0);
    expect_answer(&small, "nothing", "tensor embed_in.weight is missing");
    dir_clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_flooded_header),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_single_file_and_shards),
        cmocka_unit_test(test_cut_while_open),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_check_names_each_tensor),
        cmocka_unit_test(test_check_choices),
    };
    return cmocka_run_group_tests(tests, dir_setup, dir_teardown);
}
