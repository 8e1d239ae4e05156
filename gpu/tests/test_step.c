/* Devices, models and steps on random weights: what is refused, and that the same sequence gives the same bits. */
#include "gpu/tests/gpu_testing.h"

enum { N_CTX = 160, N_BLOCKS = 80 };

/* Tails everywhere: K, N and D that vectors and tiles do not divide. */
static struct model_config config_of(bool parallel, uint32_t rotary_dims, uint32_t intermediate)
{
    return (struct model_config){.n_layers = 2,
                                 .hidden = 120,
                                 .n_heads = 3,
                                 .head_dim = 40,
                                 .rotary_dims = rotary_dims,
                                 .intermediate = intermediate,
                                 .vocab = 97,
                                 .n_positions = 200,
                                 .rotary_base = 10000,
                                 .norm_eps = 1e-5f,
                                 .parallel_residual = parallel,
                                 .attention_bias = parallel,
                                 .tied = !parallel,
                                 .act = parallel ? MODEL_ACT_GELU_ERF : MODEL_ACT_GELU_TANH};
}

static const struct gpu_limits limits_usual = {400, 8, 400, N_CTX, N_BLOCKS};

static const uint32_t vocab = 97;

static void random_tokens(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(testing_random(&seed) % vocab);
}

static void shuffle(uint32_t *v, uint32_t n, uint64_t seed)
{
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t j = (uint32_t)(testing_random(&seed) % i), other = v[j];
        v[j] = v[i - 1];
        v[i - 1] = other;
    }
}

static void forward(struct gpu_model *model, const struct gpu_sequence *s, uint32_t n, const float **out_logits)
{
    struct base_error err = {0};
    struct gpu_result result;
    testing_ok(gpu_model_forward(model, s, n, &result, &err), &err);
    *out_logits = result.logits;
}

/* Logits [n][V] of one sequence, in chunks. */
static void run_chunks(struct gpu_model *model, const int32_t *tokens, uint32_t n, uint32_t chunk,
                       const uint32_t *blocks, float *logits)
{
    for (uint32_t at = 0; at < n; at += chunk) {
        const uint32_t n_here = n - at < chunk ? n - at : chunk;
        const struct gpu_sequence s = {tokens + at, n_here, at, blocks, n_here};
        const float *out;
        forward(model, &s, 1, &out);
        memcpy(logits + (size_t)at * vocab, out, (size_t)n_here * vocab * sizeof *out);
    }
}

/* The same sequence among five others of other lengths and phases: each step takes 1 to 23 tokens of each, until all are
 * through. Every sequence is compared, not only the first. */
static void run_mixed(struct gpu_model *model, int32_t tokens[6][N_CTX], const uint32_t *lengths,
                      uint32_t blocks[6][10], float *logits[6])
{
    uint32_t at[6] = {0};
    uint64_t seed = 77;
    for (;;) {
        struct gpu_sequence step[6];
        uint32_t who[6], n = 0;
        for (uint32_t i = 0; i < 6; i++) {
            const uint32_t left = lengths[i] - at[i], want = 1 + (uint32_t)(testing_random(&seed) % 23);
            if (left == 0)
                continue;
            const uint32_t n_here = want < left ? want : left;
            step[n] = (struct gpu_sequence){tokens[i] + at[i], n_here, at[i], blocks[i], n_here};
            who[n++] = i;
        }
        if (n == 0)
            return;
        const float *out;
        forward(model, step, n, &out);
        for (uint32_t i = 0; i < n; i++) {
            memcpy(logits[who[i]] + (size_t)at[who[i]] * vocab, out, (size_t)step[i].n_tokens * vocab * sizeof *out);
            out += (size_t)step[i].n_tokens * vocab;
            at[who[i]] += step[i].n_tokens;
        }
    }
}

static void check_same(const float *got, const float *want, uint32_t n, const char *what, uint32_t number)
{
    for (size_t i = 0; i < (size_t)n * vocab; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s %u: logit %zu of token %zu is %a, was %a", what, number, i % vocab, i / vocab, (double)got[i],
                     (double)want[i]);
}

static void check_same_bits(const struct model_config *config, enum model_dtype dtype, const char *kernels)
{
    static const uint32_t chunks[] = {1, 7, 16, 64}, lengths[6] = {N_CTX, 1, 15, 90, 33, 160};
    int32_t tokens[6][N_CTX];
    uint32_t blocks[6][10], all[N_BLOCKS];
    float *want[6], *got[6];
    for (uint32_t i = 0; i < 6; i++) {
        random_tokens(tokens[i], N_CTX, i + 1);
        want[i] = testing_alloc((size_t)N_CTX * vocab, sizeof(float));
        got[i] = testing_alloc((size_t)N_CTX * vocab, sizeof(float));
    }
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        all[i] = i;

    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++) {
        struct gpu_device *device = testing_open(kernels, n_threads);
        struct gpu_model *model = testing_model(device, config, dtype, &limits_usual);
        testing_fill(model, 1234);
        if (n_threads == 1) /* what all others are compared with: alone, in one chunk, blocks in order */
            for (uint32_t i = 0; i < 6; i++)
                run_chunks(model, tokens[i], lengths[i], N_CTX, all, want[i]);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            shuffle(all, N_BLOCKS, c * 3 + n_threads);
            run_chunks(model, tokens[0], lengths[0], chunks[c], all, got[0]);
            check_same(got[0], want[0], lengths[0], "chunks of", chunks[c]);
        }
        for (uint32_t i = 0; i < 6; i++)
            memcpy(blocks[i], all + 10 * i, sizeof blocks[i]);
        run_mixed(model, tokens, lengths, blocks, got);
        for (uint32_t i = 0; i < 6; i++)
            check_same(got[i], want[i], lengths[i], "mixed, sequence", i);
        gpu_model_free(model);
        gpu_close(device);
    }
    for (uint32_t i = 0; i < 6; i++) {
        free(want[i]);
        free(got[i]);
    }
}

static void same_sequence_same_bits(void **state)
{
    const char *kernels = *state;
    /* the generic matmul has one way for all dtypes and lengths, and is slow */
    const bool generic = strcmp(kernels, "generic") == 0;
    const enum model_dtype last = generic ? MODEL_F32 : MODEL_BF16;
    for (int parallel = 0; parallel < 2; parallel++)
        for (enum model_dtype dtype = MODEL_F32; dtype <= last; dtype++) {
            const struct model_config narrow = config_of(parallel, 10, 301);
            check_same_bits(&narrow, dtype, kernels);
        }
    const struct model_config wide = config_of(true, 40, 2077);
    if (!generic)
        check_same_bits(&wide, MODEL_F16, kernels);
}

/* Two sequences may read the same blocks: a prefix that a third one wrote. */
static void a_shared_prefix_is_read_by_all(void **state)
{
    struct gpu_device *device = testing_open(*state, 2);
    const struct model_config config = config_of(true, 10, 64);
    struct gpu_model *model = testing_model(device, &config, MODEL_F32, &limits_usual);
    testing_fill(model, 5);
    int32_t tokens[40];
    random_tokens(tokens, 40, 8);
    const uint32_t alone[] = {4, 5, 6}, first[] = {10, 11, 12}, second[] = {10, 11, 13};
    float want[8][97];
    const float *out;
    const struct gpu_sequence whole = {tokens, 40, 0, alone, 8};
    forward(model, &whole, 1, &out);
    memcpy(want, out, sizeof want);
    const struct gpu_sequence prefix = {tokens, 32, 0, first, 0};
    forward(model, &prefix, 1, &out);
    const struct gpu_sequence both[] = {{tokens + 32, 8, 32, first, 8}, {tokens + 32, 8, 32, second, 8}};
    forward(model, both, 2, &out);
    assert_memory_equal(out, want, sizeof want);
    assert_memory_equal(out + (size_t)8 * vocab, want, sizeof want);
    gpu_model_free(model);
    gpu_close(device);
}

/* Rows of logits belong to the last n_logits tokens, sequences in order; some may want none. */
static void logits_are_those_asked_for(void **state)
{
    struct gpu_device *device = testing_open(*state, 1);
    const struct model_config config = config_of(false, 40, 64);
    struct gpu_model *model = testing_model(device, &config, MODEL_F32, &limits_usual);
    testing_fill(model, 6);
    int32_t tokens[3][20];
    uint32_t blocks[3][2] = {{0, 1}, {2, 3}, {4, 5}};
    float *full[3];
    for (uint32_t i = 0; i < 3; i++) {
        random_tokens(tokens[i], 20, i + 50);
        full[i] = testing_alloc((size_t)20 * vocab, sizeof(float));
        run_chunks(model, tokens[i], 20, 20, blocks[i], full[i]);
    }
    const struct gpu_sequence step[] = {
        {tokens[0], 20, 0, blocks[0], 2}, {tokens[1], 20, 0, blocks[1], 0}, {tokens[2], 7, 0, blocks[2], 7}};
    const float *out;
    forward(model, step, 3, &out);
    check_same(out, full[0] + (size_t)18 * vocab, 2, "last rows of sequence", 0);
    check_same(out + (size_t)2 * vocab, full[2], 7, "rows of sequence", 2);
    for (uint32_t i = 0; i < 3; i++)
        free(full[i]);
    gpu_model_free(model);
    gpu_close(device);
}

/* Every check of a step, on the edge and past it. The model answers as before afterwards. */
static void bad_steps_are_refused(void **state)
{
    struct gpu_device *device = testing_open(*state, 2);
    const struct model_config config = config_of(true, 10, 64);
    const struct gpu_limits limits = {40, 2, 3, 33, 4};
    struct gpu_model *model = testing_model(device, &config, MODEL_BF16, &limits);
    testing_fill(model, 7);
    int32_t good[64], negative[3] = {1, 2, -1}, large[3] = {1, 97, 2}, huge[1] = {INT32_MAX}, last[1] = {96};
    random_tokens(good, 64, 3);
    const uint32_t blocks[] = {3, 1, 0, 2, 2}, bad_block[] = {3, 4, 0}, worse_block[] = {UINT32_MAX};
    const struct {
        const char *name;
        struct gpu_sequence s[3];
        uint32_t n;
        int rc;
    } cases[] = {
        {"the largest id", {{last, 1, 0, blocks, 1}}, 1, 0},
        {"a negative token", {{negative, 3, 0, blocks, 1}}, 1, ERR_INPUT},
        {"a token past the vocabulary", {{large, 3, 0, blocks, 1}}, 1, ERR_INPUT},
        {"the largest int", {{huge, 1, 0, blocks, 1}}, 1, ERR_INPUT},
        {"exactly the context", {{good, 33, 0, blocks, 1}}, 1, 0},
        {"one past the context", {{good, 34, 0, blocks, 1}}, 1, ERR_INPUT},
        {"the last position", {{good, 1, 32, blocks, 1}}, 1, 0},
        {"a position past it", {{good, 1, 33, blocks, 1}}, 1, ERR_INPUT},
        {"a position that wraps", {{good, 2, UINT32_MAX, blocks, 1}}, 1, ERR_INPUT},
        {"no tokens", {{good, 0, 0, blocks, 0}}, 1, ERR_USAGE},
        {"more logits than tokens", {{good, 2, 0, blocks, 3}}, 1, ERR_USAGE},
        {"exactly the rows of logits", {{good, 3, 0, blocks, 3}}, 1, 0},
        {"too many rows of logits", {{good, 4, 0, blocks, 4}}, 1, ERR_USAGE},
        {"too many rows in two", {{good, 2, 0, blocks, 2}, {good, 2, 0, blocks + 2, 2}}, 2, ERR_USAGE},
        {"too many tokens in two", {{good, 25, 0, blocks, 0}, {good, 16, 0, blocks + 2, 0}}, 2, ERR_USAGE},
        {"no sequences", {{good, 1, 0, blocks, 1}}, 0, ERR_USAGE},
        {"too many sequences",
         {{good, 1, 0, blocks, 1}, {good, 1, 0, blocks + 1, 1}, {good, 1, 0, blocks + 2, 1}},
         3,
         ERR_USAGE},
        {"a block past the last", {{good, 17, 0, bad_block, 1}}, 1, ERR_USAGE},
        {"a bad block that is not reached", {{good, 16, 0, bad_block, 1}}, 1, 0},
        {"the largest block", {{good, 1, 0, worse_block, 1}}, 1, ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct base_error err = {0};
        struct gpu_result out = {.logits = NULL};
        const int rc = gpu_model_forward(model, cases[i].s, cases[i].n, &out, &err);
        if (rc != cases[i].rc)
            fail_msg("%s: %d (%s), should be %d", cases[i].name, rc, err.text, cases[i].rc);
        assert_int_equal(out.logits != NULL, rc == 0);
        assert_int_equal(err.text[0] != '\0', rc != 0);
    }
    gpu_model_free(model);
    gpu_close(device);
}

static void devices_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *which, *kernels;
        int rc;
        const char *text; /* part of it */
    } cases[] = {
        {"auto", NULL, 0, NULL},
        {"cpu", "auto", 0, NULL},
        {"cpu", "generic", 0, NULL},
        {"auto", "sse9", ERR_USAGE, "no kernels 'sse9'"},
        {"cuda:9999", NULL, ERR_SERVICE, "device cuda:9999: "}, /* no build, no driver or no such card */
        {"cuda", "sse9", ERR_SERVICE, "device cuda: "},
        {"cuda:", NULL, ERR_USAGE, "no device 'cuda:'"},
        {"cuda:x", NULL, ERR_USAGE, "no device 'cuda:x'"},
        {"cuda:99999", NULL, ERR_USAGE, "no device"},
        {"cpu:0", NULL, ERR_USAGE, "no device 'cpu:0'"},
        {"", NULL, ERR_USAGE, "no device ''"},
        {"cp", NULL, ERR_USAGE, "no device 'cp'"},
        {"gpu", NULL, ERR_USAGE, "known are auto, cpu, cuda and cuda:N"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct gpu_open_options options = {.n_threads = 1, .kernels = cases[i].kernels};
        struct gpu_device *device = NULL;
        struct base_error err = {0};
        const int rc = gpu_open(cases[i].which, &options, &device, &err);
        if (rc != cases[i].rc || (rc < 0 && !strstr(err.text, cases[i].text)))
            fail_msg("%s: %d (%s)", cases[i].which, rc, err.text);
        assert_int_equal(device != NULL, rc == 0);
        gpu_close(device);
    }
    struct gpu_device *device;
    assert_int_equal(gpu_open("cpu", NULL, &device, NULL), 0);
    const struct gpu_info *info = gpu_device_info(device);
    assert_string_equal(info->kind, "cpu");
    assert_string_equal(info->driver, "");
    assert_true(strlen(info->name) > 0 && strlen(info->arch) > 0);
    assert_true(info->n_threads >= 1 && info->memory_bytes > (64u << 20));
    gpu_close(device);
}

static void sizes_are_told_before_they_are_taken(void **state)
{
    struct gpu_device *device = testing_open(*state, 2);
    const struct model_config config = config_of(true, 10, 64);
    struct base_error err = {0};
    uint64_t weights = 0, arena = 0;
    testing_ok(gpu_plan_bytes(device, &config, MODEL_F16, &limits_usual, &weights, &arena, &err), &err);
    struct gpu_model *model = testing_model(device, &config, MODEL_F16, &limits_usual);
    assert_int_equal(weights, gpu_model_plan(model)->weights_bytes);
    assert_int_equal(arena, gpu_model_plan(model)->arena_bytes);
    assert_int_equal((uintptr_t)gpu_model_host(model) % 4096, 0);
    gpu_model_free(model);

    struct gpu_limits greedy = limits_usual;
    greedy.n_blocks = 1u << 31; /* 2 * 120 * 16 * 4 bytes each, times two layers: 66 TB */
    assert_int_equal(gpu_model_new(device, &config, MODEL_F16, &greedy, &model, &err), ERR_NOMEM);
    assert_non_null(strstr(err.text, "KV 65970.70 in 2147483648 blocks"));
    struct model_config odd = config;
    odd.head_dim = 60;
    odd.n_heads = 2;
    assert_int_equal(gpu_model_new(device, &odd, MODEL_F16, &limits_usual, &model, &err), ERR_USAGE);
    assert_int_equal(gpu_plan_bytes(device, &odd, MODEL_F16, &limits_usual, &weights, &arena, &err), ERR_USAGE);
    gpu_close(device);
    gpu_close(NULL);
    gpu_model_free(NULL);
}

int main(void)
{
    static char generic[] = "generic", best[] = "auto";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_by_name),
        cmocka_unit_test_prestate(sizes_are_told_before_they_are_taken, best),
        cmocka_unit_test_prestate(bad_steps_are_refused, generic),
        cmocka_unit_test_prestate(bad_steps_are_refused, best),
        cmocka_unit_test_prestate(logits_are_those_asked_for, generic),
        cmocka_unit_test_prestate(logits_are_those_asked_for, best),
        cmocka_unit_test_prestate(a_shared_prefix_is_read_by_all, generic),
        cmocka_unit_test_prestate(a_shared_prefix_is_read_by_all, best),
        cmocka_unit_test_prestate(same_sequence_same_bits, generic),
        cmocka_unit_test_prestate(same_sequence_same_bits, best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
