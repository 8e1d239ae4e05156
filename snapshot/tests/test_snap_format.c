/* Header, tables, manifest, plan and proof: what we write reads back, and nothing else is accepted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/snap_format.h"
#include "snapshot/snap_lookup.h"
#include "snapshot/snap_manifest.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_proof.h"
#include "snapshot/tests/snapshot_fixture.h"

static const uint64_t sizes[SNAP_SECTION_N] = {
    [SNAP_MANIFEST] = 500,  [SNAP_PLAN] = 9000,          [SNAP_PROOF] = 104,
    [SNAP_CHOICES] = 70000, [SNAP_TOKENIZER] = 5u << 20, [SNAP_WEIGHTS] = 40u << 20};

struct front {
    struct snap_layout layout;
    uint64_t hashes[64];
    struct base_buffer bytes;
    char digest[65];
};

static void front_make(struct front *f)
{
    assert_int_equal(snap_layout_plan(sizes, &f->layout, NULL), 0);
    assert_in_range(f->layout.n_chunks, 1, 64);
    for (uint32_t i = 0; i < f->layout.n_chunks; i++)
        f->hashes[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    base_buffer_init(&f->bytes, 1 << 20);
    assert_int_equal(snap_front_encode(&f->layout, f->hashes, &f->bytes, f->digest, NULL), 0);
    assert_int_equal(f->bytes.n, f->layout.front_bytes);
}

static int front_read(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct snap_layout *out)
{
    uint64_t hashes[64];
    char digest[65];
    struct base_error err = {0};
    int rc = snap_header_decode(bytes, file_bytes, out, &err);
    if (rc == 0 && (out->front_bytes > n || out->n_chunks > 64))
        rc = base_fail(&err, ERR_CORRUPT, "not the same sizes");
    if (rc == 0)
        rc = snap_front_check(out, bytes, hashes, digest, &err);
    if (rc < 0) {
        assert_int_equal(rc, ERR_CORRUPT);
        assert_int_equal(err.code, ERR_CORRUPT);
    }
    return rc;
}

/* As somebody would who changes a field and makes the digest right again. */
static void front_seal(uint8_t *bytes, size_t n)
{
    uint8_t digest[32];
    memset(bytes + 48, 0, 32);
    assert_int_equal(snap_sha256(&(struct snap_part){bytes, n}, 1, digest, NULL), 0);
    memcpy(bytes + 48, digest, 32);
}

static void test_layout(void **state)
{
    (void)state;
    struct snap_layout l;
    assert_int_equal(snap_layout_plan(sizes, &l, NULL), 0);
    uint64_t end = l.front_bytes;
    uint32_t chunk = 0;
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *s = &l.sections[i];
        assert_int_equal(s->offset % SNAP_SECTION_ALIGN, 0);
        assert_true(s->offset >= end && s->offset - end < SNAP_SECTION_ALIGN);
        assert_true(s->stored_bytes >= s->bytes && s->stored_bytes % SNAP_PAGE_BYTES == 0);
        uint64_t at = 0;
        for (uint32_t k = 0; k < s->n_chunks; k++, chunk++) {
            struct snap_chunk c = snap_layout_chunk(&l, chunk);
            assert_int_equal(c.kind, i);
            assert_int_equal(c.at, at);
            assert_int_equal(c.offset, s->offset + at);
            assert_true(c.bytes > 0 && c.bytes <= SNAP_CHUNK_BYTES);
            at += c.bytes;
        }
        assert_int_equal(at, s->stored_bytes);
        end = s->offset + s->stored_bytes;
    }
    assert_int_equal(chunk, l.n_chunks);
    assert_int_equal(end, l.file_bytes);

    for (int i = 0; i < SNAP_SECTION_N; i++) {
        uint64_t bad[SNAP_SECTION_N];
        memcpy(bad, sizes, sizeof(bad));
        bad[i] = 0;
        bool may_be_empty = i == SNAP_PROOF || i == SNAP_CHOICES;
        assert_int_equal(snap_layout_plan(bad, &l, NULL), may_be_empty ? 0 : ERR_INPUT);
        if (may_be_empty) { /* it takes no chunk, and the next section's are still its own */
            assert_int_equal(l.sections[i].n_chunks, 0);
            assert_int_equal(snap_layout_chunk(&l, l.sections[i].first_chunk).kind, i + 1);
        }
        bad[i] = UINT64_MAX;
        assert_int_equal(snap_layout_plan(bad, &l, NULL), ERR_INPUT);
    }
}

static void test_front_reads_back(void **state)
{
    (void)state;
    struct front f;
    struct snap_layout l;
    front_make(&f);
    assert_int_equal(front_read(f.bytes.data, f.bytes.n, f.layout.file_bytes, &l), 0);
    assert_memory_equal(&l, &f.layout, sizeof(l));
    for (uint64_t n = f.layout.file_bytes - 4097; n < f.layout.file_bytes + 4097; n++)
        assert_int_equal(front_read(f.bytes.data, f.bytes.n, n, &l), n == f.layout.file_bytes ? 0 : ERR_CORRUPT);
    base_buffer_done(&f.bytes);
}

/* Every byte of header and chunk table, with the digest left as it was: all refused. */
static void test_front_every_byte(void **state)
{
    (void)state;
    struct front f;
    struct snap_layout l;
    front_make(&f);
    for (size_t i = 0; i < f.bytes.n; i++) {
        static const uint8_t flips[] = {0x01, 0x80, 0xff};
        for (size_t k = 0; k < sizeof(flips); k++) {
            f.bytes.data[i] ^= flips[k];
            if (front_read(f.bytes.data, f.bytes.n, f.layout.file_bytes, &l) == 0)
                fail_msg("byte %zu changed by %02x is accepted", i, flips[k]);
            f.bytes.data[i] ^= flips[k];
        }
    }
    base_buffer_done(&f.bytes);
}

/* Every bit of the header with the digest made right again: either refused, or a layout that lies inside the file. */
static void test_header_resealed(void **state)
{
    (void)state;
    struct front f;
    struct snap_layout l;
    front_make(&f);
    uint8_t *copy = malloc(f.bytes.n);
    assert_non_null(copy);
    for (size_t bit = 0; bit < 256 * 8; bit++) {
        memcpy(copy, f.bytes.data, f.bytes.n);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        front_seal(copy, f.bytes.n);
        if (front_read(copy, f.bytes.n, f.layout.file_bytes, &l) < 0)
            continue;
        assert_int_equal(l.file_bytes, f.layout.file_bytes);
        for (int i = 0; i < SNAP_SECTION_N; i++)
            assert_true(l.sections[i].offset + l.sections[i].stored_bytes <= l.file_bytes);
    }
    free(copy);
    base_buffer_done(&f.bytes);
}

static void test_header_cases(void **state)
{
    (void)state;
    /* offset in the header, width, value; the digest is made right again */
    static const struct {
        const char *name;
        size_t at, width;
        uint64_t value;
    } cases[] = {
        {"another format version", 8, 4, SNAP_FORMAT_VERSION + 1},
        {"no sections", 12, 4, 0},
        {"more sections than there are", 12, 4, 7},
        {"shorter file", 16, 8, 4096},
        {"front beyond the file", 24, 8, UINT64_C(1) << 40},
        {"chunk size 0", 32, 4, 0},
        {"more chunks", 36, 4, 4000000000},
        {"reserved", 40, 8, 1},
        {"kinds swapped", 80, 4, 1},
        {"chunks of the manifest", 84, 4, 2},
        {"plan over the manifest", 80 + 32 + 8, 8, 2u << 20},
        {"weights over the tokenizer", 80 + 5 * 32 + 8, 8, 10u << 20},
        {"weights not at a section's place", 80 + 5 * 32 + 8, 8, (18u << 20) + 4096},
        {"weights behind the end", 80 + 5 * 32 + 8, 8, UINT64_MAX - 100},
        {"weights of 2^63 bytes", 80 + 5 * 32 + 16, 8, UINT64_C(1) << 63},
        {"empty weights", 80 + 5 * 32 + 16, 8, 0},
        {"manifest too long", 80 + 16, 8, 1 << 20},
        {"first chunk of the weights", 80 + 5 * 32 + 24, 4, 0},
        {"reserved of the weights", 80 + 5 * 32 + 28, 4, 7},
    };
    struct front f;
    struct snap_layout l;
    front_make(&f);
    uint8_t *copy = malloc(f.bytes.n);
    assert_non_null(copy);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memcpy(copy, f.bytes.data, f.bytes.n);
        for (size_t k = 0; k < cases[i].width; k++)
            copy[cases[i].at + k] = (uint8_t)(cases[i].value >> 8 * k);
        front_seal(copy, f.bytes.n);
        if (front_read(copy, f.bytes.n, f.layout.file_bytes, &l) == 0)
            fail_msg("%s: accepted", cases[i].name);
    }
    free(copy);
    base_buffer_done(&f.bytes);
}

/* ---- fingerprint ---- */

static const struct gpu_info info = {.kind = "cpu", .arch = "x86-64-avx2", .driver = ""};

static struct snap_fingerprint a_fingerprint(void)
{
    struct snap_fingerprint f;
    char model[65];
    assert_int_equal(snap_fingerprint_init(&f, &info, "f16", "blue \xe2\x82\xac 50%", NULL), 0);
    memset(model, 'a', 64);
    model[64] = '\0';
    snap_fingerprint_set(&f, SNAP_FP_MODEL, model);
    return f;
}

static void test_fingerprint(void **state)
{
    (void)state;
    struct snap_fingerprint f = a_fingerprint();
    char id[33], other[33], env[33], diff[200];
    struct base_buffer text;
    base_buffer_init(&text, 10000);
    snap_fingerprint_text(&f, &text);
    assert_string_equal(base_buffer_cstr(&text),
                        "format 2\nlayout 1\n"
                        "model aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
                        "dtype f16\ndevice cpu\narch x86-64-avx2\ndriver \nkey blue%20%E2%82%AC%2050%25\n");
    base_buffer_done(&text);
    assert_int_equal(snap_fingerprint_id(&f, id, NULL), 0);
    assert_int_equal(snap_fingerprint_env(&f, "f16", env, NULL), 0);
    assert_int_equal(snap_fingerprint_diff(&f, &f, diff, sizeof(diff)), 0);
    for (int i = 0; i < SNAP_FP_N; i++) {
        struct snap_fingerprint g = f;
        snap_fingerprint_set(&g, (enum snap_fingerprint_field)i, "x");
        assert_int_equal(snap_fingerprint_id(&g, other, NULL), 0);
        assert_string_not_equal(id, other);
        assert_int_equal(snap_fingerprint_env(&g, "f16", other, NULL), 0);
        if (i == SNAP_FP_MODEL || i == SNAP_FP_DTYPE)
            assert_string_equal(env, other);
        else
            assert_string_not_equal(env, other);
        assert_int_equal(snap_fingerprint_diff(&g, &f, diff, sizeof(diff)), 1);
        assert_int_equal(strncmp(diff, snap_fingerprint_field_name((enum snap_fingerprint_field)i), 3), 0);
    }
    struct snap_fingerprint wanted = f;
    snap_fingerprint_set(&wanted, SNAP_FP_MODEL, "");
    snap_fingerprint_set(&wanted, SNAP_FP_DTYPE, "auto");
    assert_int_equal(snap_fingerprint_diff(&f, &wanted, diff, sizeof(diff)), 0);
    char key[200];
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = '\0';
    assert_int_equal(snap_fingerprint_init(&f, &info, "f16", key, NULL), ERR_USAGE);
}

static void test_escape(void **state)
{
    (void)state;
    char text[256], escaped[800], back[256];
    for (int c = 1; c < 256; c++)
        text[c - 1] = (char)c;
    text[255] = '\0';
    assert_true(snap_escape(text, escaped, sizeof(escaped)));
    assert_true(snap_unescape(escaped, back, sizeof(back)));
    assert_string_equal(text, back);
    static const char *const bad[] = {"%", "%4", "%41", "%00", "%zz", "a b", "%e2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(snap_unescape(bad[i], back, sizeof(back)));
    assert_false(snap_escape("abc", escaped, 3));
    assert_true(snap_escape("abc", escaped, 4));
}

/* ---- manifest ---- */

static struct snap_manifest a_manifest(void)
{
    struct snap_manifest m = {.fingerprint = a_fingerprint(), .name = "my model", .file_dtype = "f16"};
    memset(m.files, 'b', 64);
    snap_manifest_stamp(&m);
    assert_int_equal(snap_fingerprint_id(&m.fingerprint, m.id, NULL), 0);
    return m;
}

static void test_manifest(void **state)
{
    (void)state;
    struct snap_manifest m = a_manifest(), back;
    struct base_buffer text;
    base_buffer_init(&text, 10000);
    assert_int_equal(snap_manifest_encode(&m, &text, NULL), 0);
    assert_int_equal(snap_manifest_decode(text.data, text.n, &back, NULL), 0);
    assert_string_equal(back.id, m.id);
    assert_string_equal(back.name, m.name);
    assert_string_equal(back.builder, m.builder);
    assert_int_equal(back.created_ms, m.created_ms);
    assert_memory_equal(&back.fingerprint, &m.fingerprint, sizeof(m.fingerprint));

    for (size_t n = 0; n < text.n; n++) { /* every truncation that cuts something that must be there */
        uint8_t *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, text.data, n);
        int rc = snap_manifest_decode(cut, n, &back, NULL);
        assert_true(rc == ERR_CORRUPT || (rc == 0 && n > 0 && cut[n - 1] == '\n'));
        free(cut);
    }
    size_t fingerprint_bytes = (size_t)(strstr(base_buffer_cstr(&text), "\n\n") - base_buffer_cstr(&text));
    for (size_t i = 0; i < text.n; i++) {
        uint8_t was = text.data[i];
        for (int v = 0; v < 256; v++) {
            text.data[i] = (uint8_t)v;
            int rc = snap_manifest_decode(text.data, text.n, &back, NULL);
            if (v != was && i <= fingerprint_bytes && rc == 0)
                fail_msg("fingerprint byte %zu = %02x is accepted", i, (unsigned)v);
        }
        text.data[i] = was;
    }
    static const char *const more[] = {"\n",       "x",           "created -5\n", "created 99999999999999999999\n",
                                       "id 00\n",  "kind host\n", "kind x\n",     "name \n",
                                       "name %\n", "files zz\n",  "no-space\n",   "\t tab\n"};
    for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
        size_t n = text.n;
        base_buffer_string(&text, more[i]);
        assert_int_equal(snap_manifest_decode(text.data, text.n, &back, NULL), ERR_CORRUPT);
        base_buffer_truncate(&text, n);
    }
    base_buffer_string(&text, "colour green\n"); /* of a later program: skipped */
    assert_int_equal(snap_manifest_decode(text.data, text.n, &back, NULL), 0);
    base_buffer_done(&text);
}

/* ---- plan and proof ---- */

static struct gpu_model *a_model(struct gpu_device *device, uint32_t n_tokens_max, uint32_t n_logits_max)
{
    const struct gpu_limits limits = {
        .n_tokens_max = n_tokens_max, .n_seqs_max = 1, .n_logits_max = n_logits_max, .n_ctx_max = 32, .n_blocks = 2};
    const struct model_config c = {.n_layers = 2,
                                   .hidden = 64,
                                   .n_heads = 2,
                                   .head_dim = 32,
                                   .rotary_dims = 8,
                                   .intermediate = 128,
                                   .vocab = 96,
                                   .n_positions = 64,
                                   .rotary_base = 10000,
                                   .norm_eps = 1e-5f,
                                   .parallel_residual = true,
                                   .attention_bias = true,
                                   .file_dtype = MODEL_F16,
                                   .bos_id = 0,
                                   .eos_id = 0};
    struct gpu_model *m = NULL;
    struct base_error err = {0};
    if (gpu_model_new(device, &c, MODEL_F16, &limits, &m, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

static void test_plan(void **state)
{
    (void)state;
    struct gpu_device *device = fixture_device(NULL);
    struct gpu_model *m = a_model(device, 16, 1);
    struct snap_plan plan;
    struct base_buffer bytes;
    base_buffer_init(&bytes, 1 << 20);
    assert_int_equal(snap_plan_encode(gpu_model_plan(m), &bytes, NULL), 0);
    assert_int_equal(snap_plan_decode(bytes.data, bytes.n, &plan, NULL), 0);
    assert_int_equal(snap_plan_check(&plan, gpu_model_plan(m), NULL), 0);
    snap_plan_done(&plan);
    for (size_t n = 0; n < bytes.n; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, bytes.data, n);
        assert_int_equal(snap_plan_decode(cut, n, &plan, NULL), ERR_CORRUPT);
        free(cut);
    }
    size_t accepted = 0;
    uint32_t n_config = bytes.data[0];
    for (size_t bit = 0; bit < bytes.n * 8; bit++) {
        bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (snap_plan_decode(bytes.data, bytes.n, &plan, NULL) == 0) {
            /* Fields of the configuration that do not change the layout may pass here; the digest covers them. */
            size_t at = bit / 8;
            bool in_config = at >= 24 && at < 24 + n_config;
            if (snap_plan_check(&plan, gpu_model_plan(m), NULL) == 0) {
                accepted++;
                size_t in_entry = at < 24 + n_config ? 0 : (at - 24 - n_config) % 96;
                bool behind_name = at >= 24 + n_config && in_entry < 64;
                if (!in_config && !behind_name)
                    fail_msg("plan bit %zu is accepted", bit);
            }
            snap_plan_done(&plan);
        }
        bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(accepted > 0);
    base_buffer_done(&bytes);
    gpu_model_free(m);
    gpu_close(device);
}

static void test_proof(void **state)
{
    (void)state;
    struct snap_proof p = {
        .n_prompt = 2, .n_tokens = 3, .prompt = {1, 95}, .tokens = {0, 4, 95}, .logprobs = {-0.5f, -1.25f, 0}};
    struct snap_proof back;
    struct base_buffer bytes;
    base_buffer_init(&bytes, 1000);
    snap_proof_encode(&p, &bytes);
    assert_int_equal(snap_proof_decode(bytes.data, bytes.n, 96, &back, NULL), 0);
    assert_memory_equal(&p, &back, sizeof(p));
    assert_int_equal(snap_proof_decode(bytes.data, bytes.n, 95, &back, NULL), ERR_CORRUPT);
    for (size_t n = 0; n < bytes.n; n++)
        assert_int_equal(snap_proof_decode(bytes.data, n, 96, &back, NULL), ERR_CORRUPT);
    base_buffer_byte(&bytes, 0);
    assert_int_equal(snap_proof_decode(bytes.data, bytes.n, 96, &back, NULL), ERR_CORRUPT);
    static const uint32_t counts[][2] = {{0, 3},          {9, 3},          {2, 0},         {2, 9},
                                         {UINT32_MAX, 3}, {2, UINT32_MAX}, {0x80000002, 3}};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        base_buffer_clear(&bytes);
        base_buffer_u32(&bytes, counts[i][0]);
        base_buffer_u32(&bytes, counts[i][1]);
        base_buffer_zeros(&bytes, 32);
        assert_int_equal(snap_proof_decode(bytes.data, bytes.n, 96, &back, NULL), ERR_CORRUPT);
    }
    base_buffer_done(&bytes);
}

/* The memory of a new model is zero: every logit is 0, so token 0 wins and all are as likely. */
static void test_proof_runs(void **state)
{
    (void)state;
    /* tokens and rows of logits in a step: what one pass does, many must do the same */
    static const uint32_t steps[][2] = {{64, 64}, {16, 1}, {1, 1}, {3, 2}, {15, 8}, {5, 16}};
    struct gpu_device *device = fixture_device(NULL);
    struct snap_proof first = {.n_prompt = 0};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct snap_proof p;
        struct base_error err = {0};
        struct gpu_model *m = a_model(device, steps[i][0], steps[i][1]);
        memset(gpu_model_host(m), 0, gpu_model_plan(m)->weights_bytes);
        if (snap_proof_make(m, &p, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(p.n_prompt, 4);
        assert_int_equal(p.n_tokens, 4);
        assert_float_equal(p.logprobs[0], -4.564348f, 1e-5f); /* -ln 96 */
        assert_int_equal(snap_proof_check(m, &p, NULL), 0);
        if (i == 0)
            first = p;
        assert_memory_equal(&p, &first, sizeof(p));
        p.logprobs[3] = p.logprobs[3] * 1.0000002f;
        assert_int_equal(snap_proof_check(m, &p, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, "proof: token 3 is 0"));
        gpu_model_free(m);
    }
    gpu_close(device);
}

static void test_limits(void **state)
{
    (void)state;
    const struct model_config c = {.n_layers = 24, .hidden = 2048, .n_positions = 2048};
    struct gpu_limits l = {0};
    snap_limits_default(&l, &c, 4, 0);
    assert_int_equal(l.n_ctx_max, 2048);
    assert_int_equal(l.n_seqs_max, 16);
    assert_int_equal(l.n_tokens_max, 512);
    assert_int_equal(l.n_logits_max, 16);
    /* 24 * 2 * 2048 * 16 * 4 = 6 MiB a block: 170 in a GiB, more than the 128 of one sequence */
    assert_int_equal(l.n_blocks, 170);
    l = (struct gpu_limits){.n_seqs_max = 1, .n_logits_max = 5};
    snap_limits_default(&l, &c, 4, 1);
    assert_int_equal(l.n_blocks, 128);
    assert_int_equal(l.n_logits_max, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_front_reads_back),
        cmocka_unit_test(test_front_every_byte),
        cmocka_unit_test(test_header_resealed),
        cmocka_unit_test(test_header_cases),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_proof),
        cmocka_unit_test(test_proof_runs),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("snap_format", tests, NULL, NULL);
}
