#include "model/config.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "model/json_load.h"

enum {
    CONFIG_JSON_BYTES_MAX = 1 << 20,
    CONFIG_JSON_VALUES_MAX = 10000,
    CONFIG_HEAD_DIM_MAX = 256,
    CONFIG_HEAD_DIM_UNIT = 8, /* kernels work on groups of 8 */
};

/* The sizes, and what keeps every product of them far from overflow. */
static const struct config_size {
    const char *key;
    size_t field;
    uint32_t min, max;
} config_sizes[] = {
    {"num_hidden_layers", offsetof(struct model_config, n_layers), 1, 256},
    {"hidden_size", offsetof(struct model_config, hidden), 8, 65536},
    {"num_attention_heads", offsetof(struct model_config, n_heads), 1, 8192},
    {"intermediate_size", offsetof(struct model_config, intermediate), 1, 1 << 18},
    {"vocab_size", offsetof(struct model_config, vocab), 1, 1 << 22},
    {"max_position_embeddings", offsetof(struct model_config, n_positions), 1, 1 << 20},
};
enum { N_CONFIG_SIZES = sizeof config_sizes / sizeof *config_sizes };

static const double config_base_min = 1, config_base_max = 1e12, config_eps_max = 1;

static uint32_t config_size_get(const struct model_config *c, size_t i)
{
    uint32_t v;
    memcpy(&v, (const char *)c + config_sizes[i].field, sizeof v);
    return v;
}

static void config_size_set(struct model_config *c, size_t i, uint32_t v)
{
    memcpy((char *)c + config_sizes[i].field, &v, sizeof v);
}

static int config_size_fail(size_t i, const char *value, const char *where, int code, struct base_error *err)
{
    const struct config_size *s = &config_sizes[i];
    return base_fail(err, code, "%s: %s %s is outside %" PRIu32 "..%" PRIu32, where, s->key, value, s->min, s->max);
}

/* All that the rest of the program takes for granted. where and code: whose bytes these are. */
static int config_check(const struct model_config *c, const char *where, int code, struct base_error *err)
{
    for (size_t i = 0; i < N_CONFIG_SIZES; i++) {
        uint32_t v = config_size_get(c, i);
        char text[16];
        snprintf(text, sizeof text, "%" PRIu32, v);
        if (v < config_sizes[i].min || v > config_sizes[i].max)
            return config_size_fail(i, text, where, code, err);
    }
    if (c->hidden % c->n_heads != 0)
        return base_fail(err, code, "%s: hidden_size %" PRIu32 " is not a multiple of num_attention_heads %" PRIu32,
                         where, c->hidden, c->n_heads);
    uint32_t head_dim = c->hidden / c->n_heads;
    if (c->head_dim != head_dim)
        return base_fail(err, code, "%s: head_dim %" PRIu32 " is not hidden_size / num_attention_heads, %" PRIu32,
                         where, c->head_dim, head_dim);
    if (head_dim % CONFIG_HEAD_DIM_UNIT != 0 || head_dim > CONFIG_HEAD_DIM_MAX)
        return base_fail(err, code,
                         "%s: hidden_size %" PRIu32 " / num_attention_heads %" PRIu32 " is %" PRIu32
                         "; the head size must be a multiple of %d up to %d",
                         where, c->hidden, c->n_heads, head_dim, CONFIG_HEAD_DIM_UNIT, CONFIG_HEAD_DIM_MAX);
    if (c->rotary_dims > head_dim || c->rotary_dims % 2 != 0)
        return base_fail(err, code,
                         "%s: rotary_pct rotates %" PRIu32 " of %" PRIu32 " dimensions; it must be an even number",
                         where, c->rotary_dims, head_dim);
    if (!(c->rotary_base >= config_base_min && c->rotary_base <= config_base_max))
        return base_fail(err, code, "%s: rotary base %g is outside %g..%g", where, (double)c->rotary_base,
                         config_base_min, config_base_max);
    if (!(c->norm_eps > 0 && c->norm_eps <= config_eps_max))
        return base_fail(err, code, "%s: layer_norm_eps %g is outside 0..%g", where, (double)c->norm_eps,
                         config_eps_max);
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"bos_token_id", c->bos_id}, {"eos_token_id", c->eos_id}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].id < -1 || (ids[i].id >= 0 && (uint32_t)ids[i].id >= c->vocab))
            return base_fail(err, code, "%s: %s %" PRId32 " is not a token: vocab_size is %" PRIu32, where, ids[i].key,
                             ids[i].id, c->vocab);
    }
    return 0;
}

/* Reads key after key; the first fault sticks in rc and makes the rest do nothing, so that the caller checks once. */
struct config_reader {
    const json_t *object;
    const char *path;
    struct base_error *err;
    int rc;
};

/* The value of key, or NULL: absent or null, or a fault came before. */
static const json_t *reader_find(const struct config_reader *r, const json_t *object, const char *key)
{
    const json_t *value = r->rc < 0 ? NULL : json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static void reader_wrong_type(struct config_reader *r, const char *key, const json_t *value, const char *wanted)
{
    char text[64];
    r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %s is not %s", r->path, key, model_json_text(value, text, sizeof text),
                      wanted);
}

static void reader_size(struct config_reader *r, size_t i, struct model_config *c)
{
    const struct config_size *s = &config_sizes[i];
    const json_t *value = reader_find(r, r->object, s->key);
    if (r->rc < 0)
        return;
    if (!value) {
        r->rc = base_fail(r->err, ERR_INPUT, "%s: %s is missing", r->path, s->key);
        return;
    }
    if (!json_is_integer(value)) {
        reader_wrong_type(r, s->key, value, "a whole number");
        return;
    }
    json_int_t v = json_integer_value(value);
    char text[64];
    if (v < s->min || v > s->max)
        r->rc = config_size_fail(i, model_json_text(value, text, sizeof text), r->path, ERR_INPUT, r->err);
    else
        config_size_set(c, i, (uint32_t)v);
}

static bool reader_bool(struct config_reader *r, const char *key, bool fallback)
{
    const json_t *value = reader_find(r, r->object, key);
    if (value && !json_is_boolean(value))
        reader_wrong_type(r, key, value, "true or false");
    return value ? json_is_true(value) : fallback;
}

static const char *reader_string(struct config_reader *r, const json_t *object, const char *key, const char *fallback)
{
    const json_t *value = reader_find(r, object, key);
    if (value && !json_is_string(value))
        reader_wrong_type(r, key, value, "a string");
    return value && json_is_string(value) ? json_string_value(value) : fallback;
}

static double reader_number(struct config_reader *r, const json_t *object, const char *key, double fallback, double min,
                            double max)
{
    const json_t *value = reader_find(r, object, key);
    if (!value)
        return fallback;
    char text[64];
    double v = json_number_value(value);
    if (!json_is_number(value))
        reader_wrong_type(r, key, value, "a number");
    else if (!(v >= min && v <= max))
        r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %s is outside %g..%g", r->path, key,
                          model_json_text(value, text, sizeof text), min, max);
    return v;
}

/* One number under up to three names: in rope_parameters (transformers 5), as published, and as late versions of
 * transformers 4 wrote it beside that. Two that differ are an error: we cannot know which one the weights grew up with. */
static double reader_rope(struct config_reader *r, const json_t *rope, const char *const names[3], double fallback,
                          double min, double max)
{
    double found = NAN;
    const char *found_as = NULL;
    for (int i = 0; i < 3; i++) {
        double v = reader_number(r, i == 0 ? rope : r->object, names[i], NAN, min, max);
        if (r->rc < 0 || isnan(v))
            continue;
        if (found_as && v != found)
            r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %g and %s %g contradict each other", r->path, found_as, found,
                              names[i], v);
        found = v;
        found_as = names[i];
    }
    return found_as ? found : fallback;
}

static int32_t reader_token(struct config_reader *r, const char *key, int32_t fallback)
{
    if (!json_object_get(r->object, key))
        return fallback;
    const json_t *value = reader_find(r, r->object, key);
    if (!value)
        return -1;
    if (json_is_array(value) && json_array_size(value) == 1)
        value = json_array_get(value, 0);
    if (!json_is_integer(value)) {
        reader_wrong_type(r, key, value, "one token id");
        return -1;
    }
    json_int_t v = json_integer_value(value);
    if (v < 0 || v > INT32_MAX) {
        char text[64];
        r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %s is outside 0..%d", r->path, key,
                          model_json_text(value, text, sizeof text), INT32_MAX);
        return -1;
    }
    return (int32_t)v;
}

static enum model_act reader_act(struct config_reader *r)
{
    const char *name = reader_string(r, r->object, "hidden_act", "gelu");
    if (strcmp(name, "gelu") == 0)
        return MODEL_ACT_GELU_ERF;
    if (strcmp(name, "gelu_new") == 0 || strcmp(name, "gelu_fast") == 0 || strcmp(name, "gelu_pytorch_tanh") == 0)
        return MODEL_ACT_GELU_TANH;
    if (r->rc == 0)
        r->rc = base_fail(r->err, ERR_INPUT, "%s: hidden_act %s is not one of gelu, gelu_new, gelu_fast, %s", r->path,
                          name, "gelu_pytorch_tanh");
    return MODEL_ACT_GELU_ERF;
}

static enum model_dtype reader_dtype(struct config_reader *r)
{
    static const struct {
        const char *name;
        enum model_dtype dtype;
    } names[] = {{"float32", MODEL_F32}, {"float16", MODEL_F16}, {"bfloat16", MODEL_BF16}};
    const char *key = reader_find(r, r->object, "dtype") ? "dtype" : "torch_dtype";
    const char *name = reader_string(r, r->object, key, "float32");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) == 0)
            return names[i].dtype;
    }
    if (r->rc == 0)
        r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %s is not one of float32, float16, bfloat16", r->path, key, name);
    return MODEL_F32;
}

/* What would make this another model than the one we compute. */
static void reader_kind(struct config_reader *r)
{
    const char *type = reader_string(r, r->object, "model_type", "");
    if (r->rc == 0 && strcmp(type, "gpt_neox") != 0)
        r->rc = base_fail(r->err, ERR_INPUT, "%s: model_type '%s' is not gpt_neox", r->path, type);
    static const char *const refused[] = {"rope_scaling", "quantization_config"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        const json_t *value = reader_find(r, r->object, refused[i]);
        char text[64];
        if (value)
            r->rc = base_fail(r->err, ERR_INPUT, "%s: %s %s is not supported; it must be null", r->path, refused[i],
                              model_json_text(value, text, sizeof text));
    }
}

/* How much of a head rotates, and how fast. */
static void reader_rotary(struct config_reader *r, struct model_config *c)
{
    static const char *const base_names[3] = {"rope_theta", "rotary_emb_base", "rope_theta"};
    static const char *const part_names[3] = {"partial_rotary_factor", "rotary_pct", "partial_rotary_factor"};
    const json_t *rope = reader_find(r, r->object, "rope_parameters");
    if (rope && !json_is_object(rope))
        reader_wrong_type(r, "rope_parameters", rope, "an object");
    const char *type = reader_string(r, rope, "rope_type", reader_string(r, rope, "type", "default"));
    if (r->rc == 0 && strcmp(type, "default") != 0)
        r->rc = base_fail(r->err, ERR_INPUT, "%s: rope_type %s is not supported; it must be default", r->path, type);
    c->rotary_base = (float)reader_rope(r, rope, base_names, 10000, config_base_min, config_base_max);
    double part = reader_rope(r, rope, part_names, 0.25, 0, 1);
    if (r->rc == 0)
        c->rotary_dims = (uint32_t)(c->head_dim * part); /* in double and cut, as Python's int() */
}

/* head_dim is only ever redundant here. */
static void reader_head_dim(struct config_reader *r, struct model_config *c)
{
    if (r->rc < 0)
        return;
    c->head_dim = c->hidden / c->n_heads;
    const json_t *value = reader_find(r, r->object, "head_dim");
    char text[64];
    if (value && (!json_is_integer(value) || json_integer_value(value) != (json_int_t)c->head_dim))
        r->rc = base_fail(r->err, ERR_INPUT, "%s: head_dim %s is not hidden_size / num_attention_heads, %" PRIu32,
                          r->path, model_json_text(value, text, sizeof text), c->head_dim);
}

static int config_from_json(const json_t *object, const char *path, struct model_config *out_config,
                            struct base_error *err)
{
    struct config_reader r = {.object = object, .path = path, .err = err};
    struct model_config c = {0};
    reader_kind(&r);
    for (size_t i = 0; i < N_CONFIG_SIZES; i++)
        reader_size(&r, i, &c);
    reader_head_dim(&r, &c);
    reader_rotary(&r, &c);
    /* Defaults are those of transformers' GPTNeoXConfig. */
    c.norm_eps = (float)reader_number(&r, object, "layer_norm_eps", 1e-5, 1e-30, config_eps_max);
    c.parallel_residual = reader_bool(&r, "use_parallel_residual", true);
    c.tied = reader_bool(&r, "tie_word_embeddings", false);
    c.attention_bias = reader_bool(&r, "attention_bias", true);
    c.act = reader_act(&r);
    c.file_dtype = reader_dtype(&r);
    c.bos_id = reader_token(&r, "bos_token_id", 0);
    c.eos_id = reader_token(&r, "eos_token_id", 2);
    if (r.rc < 0)
        return r.rc;
    int rc = config_check(&c, path, ERR_INPUT, err);
    if (rc == 0)
        *out_config = c;
    return rc;
}

int model_config_parse(const char *json, size_t n, const char *path, struct model_config *out_config,
                       struct base_error *err)
{
    if (n > CONFIG_JSON_BYTES_MAX)
        return base_fail(err, ERR_INPUT, "%s: %zu bytes; the limit is %d", path, n, CONFIG_JSON_BYTES_MAX);
    json_t *object = NULL;
    int rc = model_json_load(json, n, CONFIG_JSON_VALUES_MAX, path, &object, err);
    if (rc < 0)
        return rc;
    rc = config_from_json(object, path, out_config, err);
    json_decref(object);
    return rc;
}

int model_config_read(const char *dir, struct model_config *out_config, struct base_error *err)
{
    char path[PATH_MAX];
    int rc = base_file_join(path, sizeof path, dir, "config.json", err);
    if (rc < 0)
        return rc;
    struct base_buffer text;
    base_buffer_init(&text, CONFIG_JSON_BYTES_MAX);
    rc = base_file_read(path, CONFIG_JSON_BYTES_MAX, &text, err);
    if (rc == 0)
        rc = model_config_parse(base_buffer_cstr(&text), text.n, path, out_config, err);
    base_buffer_done(&text);
    return rc;
}

/* Binary form, little-endian:
 *  0  u32 x 8  n_layers, hidden, n_heads, head_dim, rotary_dims, intermediate, vocab, n_positions
 * 32  f32 x 2  rotary_base, norm_eps
 * 40  u8 x 8   parallel_residual, tied, attention_bias (0 or 1), act, file_dtype, zero, zero, zero
 * 48  i32 x 2  bos_id, eos_id */

static void encode_f32(struct base_buffer *out, float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    base_buffer_u32(out, bits);
}

void model_config_encode(const struct model_config *c, struct base_buffer *out)
{
    const uint32_t sizes[] = {c->n_layers,    c->hidden,       c->n_heads, c->head_dim,
                              c->rotary_dims, c->intermediate, c->vocab,   c->n_positions};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        base_buffer_u32(out, sizes[i]);
    encode_f32(out, c->rotary_base);
    encode_f32(out, c->norm_eps);
    const uint8_t choices[8] = {c->parallel_residual, c->tied, c->attention_bias, (uint8_t)c->act,
                                (uint8_t)c->file_dtype};
    base_buffer_append(out, choices, sizeof choices);
    base_buffer_u32(out, (uint32_t)c->bos_id);
    base_buffer_u32(out, (uint32_t)c->eos_id);
}

int model_config_decode(struct base_bytes *in, struct model_config *out_config, struct base_error *err)
{
    struct model_config c = {0};
    uint32_t *const sizes[] = {&c.n_layers,    &c.hidden,       &c.n_heads, &c.head_dim,
                               &c.rotary_dims, &c.intermediate, &c.vocab,   &c.n_positions};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        *sizes[i] = base_bytes_u32(in);
    c.rotary_base = base_bytes_f32(in);
    c.norm_eps = base_bytes_f32(in);
    uint8_t choices[8];
    for (size_t i = 0; i < sizeof choices; i++)
        choices[i] = base_bytes_u8(in);
    c.bos_id = (int32_t)base_bytes_u32(in);
    c.eos_id = (int32_t)base_bytes_u32(in);
    if (in->failed)
        return base_fail(err, ERR_CORRUPT, "model config: cut short");
    const uint8_t choices_max[8] = {1, 1, 1, MODEL_ACT_GELU_TANH, MODEL_BF16, 0, 0, 0};
    for (size_t i = 0; i < sizeof choices; i++) {
        if (choices[i] > choices_max[i])
            return base_fail(err, ERR_CORRUPT, "model config: byte %zu is %u; the limit is %u", 40 + i, choices[i],
                             choices_max[i]);
    }
    c.parallel_residual = choices[0];
    c.tied = choices[1];
    c.attention_bias = choices[2];
    c.act = (enum model_act)choices[3];
    c.file_dtype = (enum model_dtype)choices[4];
    int rc = config_check(&c, "model config", ERR_CORRUPT, err);
    if (rc == 0)
        *out_config = c;
    return rc;
}

uint64_t model_config_n_parameters(const struct model_config *c)
{
    uint64_t E = c->hidden, F = c->intermediate, V = c->vocab;
    uint64_t layer = 2 * 2 * E + (3 * E * E + E * E) + (E * F + F) + (F * E + E); /* norms, attention, mlp */
    if (c->attention_bias)
        layer += 3 * E + E;
    return V * E + c->n_layers * layer + 2 * E + (c->tied ? 0 : V * E);
}

static const char *const dtype_names[] = {[MODEL_F32] = "f32", [MODEL_F16] = "f16", [MODEL_BF16] = "bf16", [MODEL_Q8] = "q8"};
enum { N_DTYPES = sizeof dtype_names / sizeof *dtype_names };

size_t model_dtype_bytes(enum model_dtype dtype)
{
    static const size_t bytes[] = {[MODEL_F32] = 4, [MODEL_F16] = 2, [MODEL_BF16] = 2, [MODEL_Q8] = 1};
    assert((size_t)dtype < N_DTYPES);
    return bytes[dtype];
}

const char *model_dtype_name(enum model_dtype dtype)
{
    assert((size_t)dtype < N_DTYPES);
    return dtype_names[dtype];
}

int model_dtype_parse(const char *name, enum model_dtype *out_dtype, struct base_error *err)
{
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (strcmp(name, dtype_names[i]) == 0) {
            *out_dtype = (enum model_dtype)i;
            return 0;
        }
    }
    return base_fail(err, ERR_USAGE, "dtype '%s' is not one of f32, f16, bf16, q8", name);
}
