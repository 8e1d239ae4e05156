/* The forward pass on a CUDA device against Hugging Face transformers, on the models and logits of tests/golden: all head
 * sizes, both residual forms, f16 and bf16, prompts in uneven chunks over shuffled blocks, generated tokens through the graphs. */
#include <jansson.h>
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "gpu/cuda/quantise.h"
#include "gpu/cuda/tests/cuda_testing.h"

enum { N_BLOCKS = 16, N_CTX = 256, N_PROMPT_MAX = 173 };

/* Largest logit error allowed, relative to the largest |logit|. Weights and what goes from kernel to kernel are rounded to 11 or
 * 8 bits; transformers itself in these types is at 3e-3 and 2.5e-2 on these models (transformers_error in golden.json). */
static double allowed(enum model_dtype dtype)
{
    return dtype == MODEL_F16 ? 1e-2 : 8e-2;
}

struct golden {
    const char *name;
    json_t *prompt, *greedy;
    uint32_t n_prompt, n_prefix, n_greedy, vocab;
    double logit_abs_max, margin_min;
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

/* A .npy of little-endian f32 in C order: its header is checked by test_forward. */
static void read_npy(struct golden *g, const char *path)
{
    struct base_error err = {0};
    base_buffer_init(&g->npy, 64 << 20);
    testing_ok(base_file_read(path, 64 << 20, &g->npy, &err), &err);
    const size_t header = 10 + (size_t)g->npy.data[8] + ((size_t)g->npy.data[9] << 8);
    assert_int_equal(g->npy.n, header + (size_t)g->n_prompt * g->vocab * sizeof(float));
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
    g->margin_min = json_number_value(json_object_get(entry, "greedy_margin_min"));
    assert_true(g->n_prompt == N_PROMPT_MAX && g->n_greedy > 0 && g->n_prefix > 0 && g->logit_abs_max > 0);
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

static double error_of(const float *got, const float *want, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        const double error = fabs((double)got[i] - (double)want[i]);
        worst = error <= worst ? worst : error; /* a NaN becomes the worst */
    }
    return worst;
}

/* Chunks of prompt, and in between tokens as if they had been generated. Largest error over all, relative to the largest |logit|. */
static double prompt_error(struct gpu_model *model, const struct golden *g)
{
    static const struct {
        uint32_t n;
        bool generated;
    } chunks[] = {{1, false}, {16, false}, {3, true},  {48, false}, {64, false},
                  {1, true},  {5, true},   {2, false}, {33, false}};
    int32_t tokens[N_PROMPT_MAX];
    uint32_t blocks[N_BLOCKS], at = 0;
    double worst = 0;
    shuffled_blocks(blocks, 99);
    for (uint32_t i = 0; i < g->n_prompt; i++)
        tokens[i] = token_at(g->prompt, i);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        const struct gpu_sequence s = {.tokens = tokens + at,
                                       .n_tokens = chunks[c].n,
                                       .position = at,
                                       .blocks = blocks,
                                       .n_logits = chunks[c].n,
                                       .generated = chunks[c].generated};
        struct base_error err = {0};
        struct gpu_result out;
        testing_ok(gpu_model_forward(model, &s, 1, &out, &err), &err);
        worst = fmax(worst, error_of(out.logits, g->logits + (size_t)at * g->vocab, (size_t)chunks[c].n * g->vocab));
        at += chunks[c].n;
    }
    assert_int_equal(at, g->n_prompt);
    return worst / g->logit_abs_max;
}

/* The tokens of transformers in f32, drawn on the device. Where its two best are closer than what rounding may move them, the
 * other one is right too, and the rest of the sequence says nothing. */
static uint32_t check_greedy(struct gpu_model *model, const struct golden *g, double error)
{
    const struct model_sampling greedy = model_sampling_default;
    int32_t tokens[N_PROMPT_MAX];
    uint32_t blocks[N_BLOCKS], i;
    shuffled_blocks(blocks, 7);
    for (i = 0; i < g->n_prefix; i++)
        tokens[i] = token_at(g->prompt, i);
    struct gpu_sequence s = {
        .tokens = tokens, .n_tokens = g->n_prefix, .blocks = blocks, .n_logits = 1, .sampling = &greedy};
    for (i = 0; i < g->n_greedy; i++) {
        struct base_error err = {0};
        struct gpu_result out;
        testing_ok(gpu_model_forward(model, &s, 1, &out, &err), &err);
        if (out.sampled[0] != token_at(g->greedy, i)) {
            if (g->margin_min > 2 * error * g->logit_abs_max)
                fail_msg("%s: greedy token %u is %d, transformers says %d", g->name, i, out.sampled[0],
                         token_at(g->greedy, i));
            break;
        }
        tokens[0] = out.sampled[0];
        s.n_tokens = 1;
        s.position = g->n_prefix + i;
        s.generated = true;
    }
    return i;
}

static double check_model(struct gpu_device *device, const struct golden *g, enum model_dtype dtype, uint32_t *n_greedy)
{
    const struct gpu_limits limits = {64, 1, 64, N_CTX, N_BLOCKS};
    struct model_config config;
    struct model_weights *weights;
    struct base_error err = {0};
    char dir[1024];
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", g->name);
    testing_ok(model_config_read(dir, &config, &err), &err);
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    struct gpu_model *model = testing_model(device, &config, dtype, &limits);
    testing_ok(gpu_model_load(model, weights, NULL, NULL, &err), &err);
    testing_ok(gpu_model_warm_up(model, &err), &err);
    const double error = prompt_error(model, g);
    if (!(error <= allowed(dtype)))
        fail_msg("%s, %s: worst logit error is %.2e of the largest logit, allowed are %.0e", g->name,
                 model_dtype_name(dtype), error, allowed(dtype));
    *n_greedy += check_greedy(model, g, error);
    gpu_model_free(model);
    model_weights_close(weights);
    return error;
}

/* Each in the type that its files have; f32 files as f16. */
static void every_case_as_transformers(void **state)
{
    (void)state;
    struct gpu_device *device = cuda_testing_open(NULL);
    double worst[MODEL_BF16 + 1] = {0};
    uint32_t n_greedy = 0;
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(golden_root, "cases"), i, entry)
    {
        struct golden g;
        golden_read(&g, entry);
        const enum model_dtype dtype = gpu_device_dtype(device, strstr(g.name, "-bf16-")  ? MODEL_BF16
                                                                : strstr(g.name, "-f32-") ? MODEL_F32
                                                                                          : MODEL_F16);
        worst[dtype] = fmax(worst[dtype], check_model(device, &g, dtype, &n_greedy));
        base_buffer_done(&g.npy);
    }
    assert_true(i >= 16);
    printf("%s: %zu cases, worst logit error f16 %.1e, bf16 %.1e; %u greedy tokens as transformers\n",
           gpu_device_info(device)->arch, i, worst[MODEL_F16], worst[MODEL_BF16], n_greedy);
    gpu_close(device);
}

/* The same bytes as the cpu's range, whatever the number of threads: snapshots of both rest on one layout. */
static void loading_gives_the_bytes_of_the_cpu(void **state)
{
    (void)state;
    const struct gpu_limits limits = {8, 1, 8, 32, 2};
    struct model_config config;
    struct model_weights *weights;
    struct base_error err = {0};
    char dir[1024];
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", "hd96-seq-r50-tied-f32-shards-pub-eps");
    testing_ok(model_config_read(dir, &config, &err), &err);
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2)
        for (enum model_dtype dtype = MODEL_F16; dtype <= MODEL_BF16; dtype++) {
            const struct gpu_open_options options = {.n_threads = n_threads};
            struct gpu_device *cpu = testing_open("auto", 1), *cuda = cuda_testing_open(&options);
            struct gpu_model *want = testing_model(cpu, &config, dtype, &limits);
            struct gpu_model *got = testing_model(cuda, &config, dtype, &limits);
            const size_t n = gpu_model_plan(want)->weights_bytes;
            uint8_t *bytes = testing_alloc(n, 1);
            testing_ok(gpu_model_load(want, weights, NULL, NULL, &err), &err);
            testing_ok(gpu_model_load(got, weights, NULL, NULL, &err), &err);
            assert_int_equal(gpu_model_plan(got)->weights_bytes, n);
            testing_ok(gpu_model_read(got, 0, n, bytes, &err), &err);
            assert_memory_equal(bytes, gpu_model_host(want), n);
            free(bytes);
            gpu_model_free(got);
            gpu_model_free(want);
            gpu_close(cuda);
            gpu_close(cpu);
        }
    model_weights_close(weights);
}

/* Rows are quantised on their way, those on the borders of pieces too; and the answers are near. */
static void eight_bit_weights_are_made_at_load(void **state)
{
    (void)state;
    struct gpu_device *device = cuda_testing_open(NULL);
    const struct gpu_limits limits = {64, 1, 64, N_CTX, N_BLOCKS};
    struct model_config config;
    struct model_weights *weights;
    struct golden g;
    struct base_error err = {0};
    char dir[1024];
    size_t i, n_rows = 0;
    json_t *entry = NULL;
    json_array_foreach(json_object_get(golden_root, "cases"), i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), "hd256-par-r25-untied-f16-shards-pub") == 0)
            break;
    }
    assert_non_null(entry);
    golden_read(&g, entry);
    path_of(dir, sizeof dir, "ROUSE_BINARY_DIR", "golden-models", g.name);
    testing_ok(model_config_read(dir, &config, &err), &err);
    testing_ok(model_weights_open(dir, &weights, &err), &err);
    struct gpu_model *model = testing_model(device, &config, MODEL_Q8, &limits);
    const struct gpu_plan *plan = gpu_model_plan(model);
    testing_ok(gpu_model_load(model, weights, NULL, NULL, &err), &err);
    for (uint32_t t = 0; t < plan->n_tensors; t++) {
        const struct gpu_tensor *tensor = &plan->tensors[t];
        if (tensor->dtype != MODEL_Q8)
            continue;
        float *row = testing_alloc(tensor->cols, sizeof *row), scale;
        int8_t *want = testing_alloc(tensor->cols, 1);
        uint8_t *got = testing_alloc(tensor->bytes, 1);
        testing_ok(gpu_model_read(model, tensor->offset, tensor->bytes, got, &err), &err);
        for (uint32_t r = 0; r < tensor->rows; r++, n_rows++) {
            const uint64_t at = (uint64_t)r * tensor->cols;
            testing_ok(
                model_weights_read_f32(weights, model_weights_find(weights, tensor->name), at, tensor->cols, row, &err),
                &err);
            assert_true(cuda_quantise_row(row, tensor->cols, want, &scale));
            assert_memory_equal(got + at, want, tensor->cols);
            assert_memory_equal(got + gpu_tensor_scales(tensor) + r * sizeof scale, &scale, sizeof scale);
        }
        free(row);
        free(want);
        free(got);
    }
    assert_true(n_rows > 0 && plan->weights_bytes > 1 << 20);
    /* half a scale is 1/254 of a row's largest weight, at each of two layers' products */
    const double error = prompt_error(model, &g);
    if (!(error <= 5e-2))
        fail_msg("worst logit error is %.2e of the largest logit", error);
    printf("q8: %zu rows, worst logit error %.1e\n", n_rows, error);
    base_buffer_done(&g.npy);
    gpu_model_free(model);
    model_weights_close(weights);
    gpu_close(device);
}

int main(void)
{
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
        cmocka_unit_test(loading_gives_the_bytes_of_the_cpu),
        cmocka_unit_test(eight_bit_weights_are_made_at_load),
        cmocka_unit_test(every_case_as_transformers),
    };
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(golden_root);
    return rc;
}
