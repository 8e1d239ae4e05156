/* The forward pass against Hugging Face transformers, on the models and logits of tests/golden: all head sizes, both
 * residual forms, all dtypes, both kernel sets. Prompts go through paged KV, in uneven chunks and shuffled blocks. */
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "gpu/tests/gpu_testing.h"

enum { N_BLOCKS = 16, N_CTX = 256 };

/* Largest logit error allowed, relative to the largest |logit|. f32: two correct programs differ by the order of their
 * sums, some 1e-5 here. f16 and bf16 weights: rounding a weight to 11 or 8 bits; transformers itself, which also rounds
 * its activations, is at 3e-3 and 2.5e-2 on these models (transformers_error in golden.json). */
static const double allowed[] = {[MODEL_F32] = 2e-4, [MODEL_F16] = 5e-3, [MODEL_BF16] = 4e-2};

struct golden {
    const char *name;
    json_t *prompt, *greedy;
    uint32_t n_prompt, n_prefix, n_greedy, vocab;
    double logit_abs_max;
    struct base_buffer npy;
    const float *logits; /* [n_prompt][vocab], in npy */
};

static json_t *golden_root;

static void path_of(char *out, size_t size, const char *variable, const char *below, const char *name)
{
    const char *root = getenv(variable);
    assert_non_null(root);
    const int n = snprintf(out, size, "%s/%s/%s", root, below, name);
    assert_true(n > 0 && (size_t)n < size);
}

/* A .npy of little-endian f32 in C order, format 1.0: magic, version, u16 header length, header, data. */
static void read_npy(struct golden *g, const char *path)
{
    struct base_error err = {0};
    char shape[64];
    base_buffer_init(&g->npy, 64 << 20);
    testing_ok(base_file_read(path, 64 << 20, &g->npy, &err), &err);
    assert_true(g->npy.n > 128 && memcmp(g->npy.data, "\x93NUMPY\x01\x00", 8) == 0);
    const size_t header = 10 + (size_t)g->npy.data[8] + ((size_t)g->npy.data[9] << 8);
    assert_int_equal(g->npy.n, header + (size_t)g->n_prompt * g->vocab * sizeof(float));
    snprintf(shape, sizeof shape, "'shape': (%u, %u)", g->n_prompt, g->vocab);
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)(header - 10), (const char *)g->npy.data + 10);
    assert_non_null(strstr(text, shape));
    assert_non_null(strstr(text, "'descr': '<f4'"));
    g->logits = (const float *)(const void *)(g->npy.data + header);
}

static void golden_read(struct golden *g, json_t *entry)
{
    char path[1024];
    g->name = json_string_value(json_object_get(entry, "name"));
    g->prompt = json_object_get(entry, "prompt");
    g->greedy = json_object_get(entry, "greedy");
    g->n_prompt = (uint32_t)json_array_size(g->prompt);
    g->n_greedy = (uint32_t)json_array_size(g->greedy);
    g->n_prefix = (uint32_t)json_integer_value(json_object_get(entry, "n_prefix"));
    g->vocab = (uint32_t)json_integer_value(json_object_get(entry, "vocab"));
    g->logit_abs_max = json_number_value(json_object_get(entry, "logit_abs_max"));
    assert_true(g->n_prompt == 173 && g->n_greedy == 40 && g->n_prefix > 0 && g->logit_abs_max > 0);
    path_of(path, sizeof path, "ROUSE_SOURCE_DIR", "tests/golden", json_string_value(json_object_get(entry, "logits")));
    read_npy(g, path);
}

static int32_t token_at(json_t *tokens, uint32_t i)
{
    return (int32_t)json_integer_value(json_array_get(tokens, i));
}

static void shuffled_blocks(uint32_t blocks[N_BLOCKS], uint64_t seed)
{
    for (uint32_t i = 0; i < N_BLOCKS; i++) {
        const uint32_t j = (uint32_t)(testing_random(&seed) % (i + 1));
        blocks[i] = blocks[j];
        blocks[j] = i;
    }
}

static const float *forward(struct gpu_model *model, const struct gpu_sequence *s)
{
    struct base_error err = {0};
    struct gpu_result out;
    testing_ok(gpu_model_forward(model, s, 1, &out, &err), &err);
    return out.logits;
}

/* Largest error over all positions, relative to the largest |logit|. */
static double prompt_error(struct gpu_model *model, const struct golden *g)
{
    static const uint32_t chunks[] = {1, 16, 3, 40, 2, 64, 5, 9, 33}; /* 173 */
    int32_t tokens[173];
    uint32_t blocks[N_BLOCKS], at = 0;
    double worst = 0;
    shuffled_blocks(blocks, 99);
    for (uint32_t i = 0; i < g->n_prompt; i++)
        tokens[i] = token_at(g->prompt, i);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        const struct gpu_sequence s = {tokens + at, chunks[c], at, blocks, chunks[c]};
        const float *got = forward(model, &s), *want = g->logits + (size_t)at * g->vocab;
        for (size_t i = 0; i < (size_t)chunks[c] * g->vocab; i++) {
            const double error = fabs((double)got[i] - (double)want[i]);
            worst = error <= worst ? worst : error; /* a NaN becomes the worst */
        }
        at += chunks[c];
    }
    assert_int_equal(at, g->n_prompt);
    return worst / g->logit_abs_max;
}

static int32_t most_likely(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static void check_greedy(struct gpu_model *model, const struct golden *g)
{
    int32_t tokens[173];
    uint32_t blocks[N_BLOCKS];
    shuffled_blocks(blocks, 7);
    for (uint32_t i = 0; i < g->n_prefix; i++)
        tokens[i] = token_at(g->prompt, i);
    struct gpu_sequence s = {tokens, g->n_prefix, 0, blocks, 1};
    for (uint32_t i = 0; i < g->n_greedy; i++) {
        const int32_t token = most_likely(forward(model, &s), g->vocab);
        if (token != token_at(g->greedy, i))
            fail_msg("%s: greedy token %u is %d, transformers says %d", g->name, i, token, token_at(g->greedy, i));
        tokens[0] = token;
        s = (struct gpu_sequence){tokens, 1, g->n_prefix + i, blocks, 1};
    }
}

struct seen {
    uint64_t last, total;
    uint32_t n;
};

static void note_progress(void *context, uint64_t done, uint64_t total)
{
    struct seen *seen = context;
    assert_true(done >= seen->last && done <= total);
    seen->last = done;
    seen->total = total;
    seen->n++;
}

static double check_model(struct gpu_device *device, const struct golden *g, enum model_dtype dtype)
{
    const struct gpu_limits limits = {64, 1, 64, N_CTX, N_BLOCKS};
    struct model_config config;
    struct model_weights *weights;
    struct base_error err = {0};
    struct seen seen = {0};
    char dir[1024];
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", g->name);
    testing_ok(model_config_read(dir, &config, &err), &err);
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    struct gpu_model *model = testing_model(device, &config, dtype, &limits);
    memset(gpu_model_host(model), 0xff, gpu_model_plan(model)->weights_bytes); /* nothing may rest on fresh zeros */
    testing_ok(gpu_model_load(model, weights, note_progress, &seen, &err), &err);
    assert_true(seen.n > 0 && seen.last == seen.total && seen.total == gpu_model_plan(model)->weights_bytes);

    const double error = prompt_error(model, g);
    if (!(error <= allowed[dtype]))
        fail_msg("%s, %s, %s: worst logit error is %.2e of the largest logit, allowed are %.0e", g->name,
                 gpu_device_info(device)->arch, model_dtype_name(dtype), error, allowed[dtype]);
    if (dtype == MODEL_F32)
        check_greedy(model, g);
    gpu_model_free(model);
    model_weights_close(weights);
    return error;
}

static void every_case_as_transformers(void **state)
{
    const struct gpu_open_options options = {.n_threads = 2, .kernels = *state};
    struct gpu_device *device;
    struct base_error err = {0};
    double worst[3] = {0};
    size_t i;
    json_t *entry;
    testing_ok(gpu_open("cpu", &options, &device, &err), &err);
    json_array_foreach(json_object_get(golden_root, "cases"), i, entry)
    {
        struct golden g;
        golden_read(&g, entry);
        for (enum model_dtype dtype = MODEL_F32; dtype <= MODEL_BF16; dtype++)
            worst[dtype] = fmax(worst[dtype], check_model(device, &g, dtype));
        base_buffer_done(&g.npy);
    }
    assert_true(i >= 16);
    printf("%s: %zu cases, worst logit error f32 %.1e, f16 %.1e, bf16 %.1e\n", gpu_device_info(device)->arch, i,
           worst[MODEL_F32], worst[MODEL_F16], worst[MODEL_BF16]);
    gpu_close(device);
}

/* The bytes of the weight range do not depend on threads or kernels, or on what was there before: snapshots rely on it. */
static void loading_gives_the_same_bytes(void **state)
{
    (void)state;
    const struct gpu_limits limits = {8, 1, 8, 32, 2};
    static const char *const kernels[] = {"generic", "auto", "auto"};
    struct model_config config;
    struct model_weights *weights;
    struct base_error err = {0};
    char dir[1024];
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", "hd96-seq-r50-tied-f32-shards-pub-eps");
    testing_ok(model_config_read(dir, &config, &err), &err);
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    for (enum model_dtype dtype = MODEL_F32; dtype <= MODEL_BF16; dtype++) {
        uint8_t *first = NULL;
        for (uint32_t i = 0; i < 3; i++) {
            struct gpu_device *device = testing_open(kernels[i], i + 1);
            struct gpu_model *model = testing_model(device, &config, dtype, &limits);
            const size_t n = gpu_model_plan(model)->weights_bytes;
            memset(gpu_model_host(model), (int)i * 85, n);
            testing_ok(gpu_model_load(model, weights, NULL, NULL, &err), &err);
            if (!first) {
                first = testing_alloc(n, 1);
                memcpy(first, gpu_model_host(model), n);
            }
            assert_memory_equal(first, gpu_model_host(model), n);
            gpu_model_free(model);
            gpu_close(device);
        }
        free(first);
    }
    model_weights_close(weights);
}

/* Files of another model: an answer, and the model can be loaded with the right ones afterwards. */
static void other_files_are_refused(void **state)
{
    (void)state;
    const struct gpu_limits limits = {8, 1, 8, 32, 2};
    struct gpu_device *device = testing_open("auto", 2);
    struct model_config config;
    struct model_weights *weights;
    struct base_error err = {0};
    char dir[1024];
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", "hd128-par-r25-untied-f16-one-pub");
    testing_ok(model_config_read(dir, &config, &err), &err);
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", "hd96-seq-r50-tied-f32-shards-pub-eps");
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    struct gpu_model *model = testing_model(device, &config, MODEL_F16, &limits);
    assert_int_equal(gpu_model_load(model, weights, NULL, NULL, &err), ERR_INPUT);
    assert_true(err.text[0] != '\0');
    gpu_model_free(model);
    model_weights_close(weights);
    gpu_close(device);
}

int main(void)
{
    static char generic[] = "generic", best[] = "auto";
    char path[1024];
    json_error_t json_error;
    path_of(path, sizeof path, "ROUSE_BINARY_DIR", "golden-models", "");
    if (access(path, R_OK) != 0) {
        printf("skipped: no models in %s (tests/golden/make_models.py makes them)\n", path);
        return 77;
    }
    path_of(path, sizeof path, "ROUSE_SOURCE_DIR", "tests/golden", "golden.json");
    golden_root = json_load_file(path, 0, &json_error);
    if (!golden_root) {
        printf("%s: %s\n", path, json_error.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(every_case_as_transformers, generic),
        cmocka_unit_test_prestate(every_case_as_transformers, best),
        cmocka_unit_test(loading_gives_the_same_bytes),
        cmocka_unit_test(other_files_are_refused),
    };
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden_root);
    return rc;
}
