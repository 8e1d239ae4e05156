/* bench_forward - the forward pass against what the machine could do; run by hand, not by ctest.
 *
 *   bench_forward [DTYPE [THREADS [KERNELS [LAYERS]]]]
 *
 * A model of pythia-410m's shape with random weights. Decoding reads every weight once per step, so its limit is the
 * memory's read bandwidth, measured here by summing the weight range with the same threads. A prompt's limit is the
 * multiply-adds the units can start: measured with 12 independent sums in registers. Best of a few rounds. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <math.h>

#include "base/clock.h"
#include "base/pool.h"
#include "gpu/tests/gpu_testing.h"

enum { ROUNDS = 7, CHUNK = 1 << 20 };
#define SECONDS_MIN 1.0 /* keep trying: the best of many short steps finds the moments when nobody else runs */

static double seconds_since(uint64_t ns)
{
    return (double)(base_clock_mono_ns() - ns) * 1e-9;
}

struct read_job {
    const uint8_t *data;
    uint64_t sums[64]; /* [thread], so that nothing is optimised away */
};

static void read_task(void *context, uint32_t task, uint32_t thread)
{
    struct read_job *job = context;
    const uint64_t *v = (const uint64_t *)(const void *)(job->data + (size_t)task * CHUNK);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < CHUNK / 8; i += 8) { /* one word a line and some: more reading than adding */
        a += v[i] + v[i + 1];
        b += v[i + 2] + v[i + 3];
        c += v[i + 4] + v[i + 5];
        d += v[i + 6] + v[i + 7];
    }
    job->sums[thread % 64] += a + b + c + d;
}

static double read_gb_per_s(struct base_pool *pool, const uint8_t *data, uint64_t n)
{
    double best = INFINITY;
    struct read_job job = {.data = data};
    for (int i = 0; i < ROUNDS; i++) {
        const uint64_t began = base_clock_mono_ns();
        base_pool_run(pool, read_task, &job, (uint32_t)(n / CHUNK));
        best = fmin(best, seconds_since(began));
    }
    return (double)(n / CHUNK * CHUNK) / best * 1e-9;
}

#if defined(__x86_64__)
enum { FMA_STEPS = 1 << 20 };

__attribute__((target("avx2,fma"))) static void fma_task(void *context, uint32_t task, uint32_t thread)
{
    (void)task;
    __m256 s[12];
    float *sink = context;
    const __m256 x = _mm256_set1_ps(0.999f);
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++)
        s[j] = _mm256_set1_ps((float)j);
    for (int i = 0; i < FMA_STEPS; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++)
            s[j] = _mm256_fmadd_ps(s[j], x, x);
    }
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++)
        sink[thread % 64] += _mm256_cvtss_f32(s[j]);
}

static double peak_gflops(struct base_pool *pool)
{
    static float sink[64];
    const uint32_t n = base_pool_n_threads(pool) * 4;
    double best = INFINITY;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return NAN;
    for (int i = 0; i < ROUNDS; i++) {
        const uint64_t began = base_clock_mono_ns();
        base_pool_run(pool, fma_task, sink, n);
        best = fmin(best, seconds_since(began));
    }
    return (double)n * FMA_STEPS * 12 * 16 / best * 1e-9;
}
#else
static double peak_gflops(struct base_pool *pool)
{
    (void)pool;
    return NAN;
}
#endif

/* Best seconds of one step: n_seqs sequences of n_tokens each, from this position. */
static double step_seconds(struct gpu_model *model, uint32_t n_seqs, uint32_t n_tokens, uint32_t position,
                           uint32_t n_logits)
{
    static int32_t tokens[512];
    static uint32_t blocks[8][128];
    struct gpu_sequence s[8];
    struct gpu_result result;
    struct base_error err = {0};
    double best = INFINITY;
    for (uint32_t i = 0; i < 512; i++)
        tokens[i] = (int32_t)(i * 31 % 50000);
    for (uint32_t i = 0; i < n_seqs; i++) {
        for (uint32_t j = 0; j < 128; j++)
            blocks[i][j] = i * 64 + j % 64;
        s[i] = (struct gpu_sequence){tokens, n_tokens, position, blocks[i], n_logits};
    }
    double spent = 0;
    for (int i = 0; i < ROUNDS || spent < SECONDS_MIN; i++) {
        const uint64_t began = base_clock_mono_ns();
        testing_ok(gpu_model_forward(model, s, n_seqs, &result, &err), &err);
        const double seconds = seconds_since(began);
        best = fmin(best, seconds);
        spent += seconds;
    }
    return best;
}

int main(int argc, char **argv)
{
    struct base_error err = {0};
    enum model_dtype dtype = MODEL_F16;
    const uint32_t n_threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    if (argc > 1)
        testing_ok(model_dtype_parse(argv[1], &dtype, &err), &err);
    struct model_config config = {.n_layers = 24,
                                  .hidden = 1024,
                                  .n_heads = 16,
                                  .head_dim = 64,
                                  .rotary_dims = 16,
                                  .intermediate = 4096,
                                  .vocab = 50304,
                                  .n_positions = 2048,
                                  .rotary_base = 10000,
                                  .norm_eps = 1e-5f,
                                  .parallel_residual = true,
                                  .attention_bias = true};
    if (argc > 4)
        config.n_layers = (uint32_t)atoi(argv[4]);
    const struct gpu_limits limits = {512, 8, 8, 1024, 512};
    struct gpu_device *device = testing_open(argc > 3 ? argv[3] : "auto", n_threads);
    struct gpu_model *model = testing_model(device, &config, dtype, &limits);
    testing_fill(model, 1);

    struct base_pool *pool;
    testing_ok(base_pool_new(n_threads, &pool, &err), &err);
    const struct gpu_plan *plan = gpu_model_plan(model);
    const double bandwidth = read_gb_per_s(pool, gpu_model_host(model), plan->weights_bytes), peak = peak_gflops(pool);
    base_pool_free(pool);
    printf("%s, %s, %u threads, %s; read %.1f GB/s, fma %.0f GFLOP/s\n", gpu_device_info(device)->name,
           gpu_device_info(device)->arch, gpu_device_info(device)->n_threads, model_dtype_name(dtype), bandwidth, peak);

    /* the embedding is looked up, all other weights are read and multiplied */
    const double per_token = (double)(plan->weights_bytes - plan->tensors[0].bytes);
    const double embedding = (double)config.vocab * config.hidden;
    const double matrices = (double)(model_config_n_parameters(&config)) - embedding;
    for (uint32_t b = 1; b <= 8; b *= 2) {
        const double s = step_seconds(model, b, 1, 100, 1);
        printf("decode  B=%u      %7.1f tokens/s   %5.1f GB/s of weights, %3.0f %% of read\n", b, b / s,
               per_token / s * 1e-9, per_token / s * 1e-7 / bandwidth);
    }
    printf("decode  at 1000  %7.1f tokens/s\n", 1 / step_seconds(model, 1, 1, 1000, 1));
    for (uint32_t t = 16; t <= 512; t *= t < 128 ? 2 : 4) {
        const double s = step_seconds(model, 1, t, 0, 1);
        const double flop = 2 * (t * (matrices - embedding) + embedding);
        printf("prompt  T=%-4u   %7.1f tokens/s   %5.1f GFLOP/s in the matrices, %3.0f %% of fma\n", t, t / s,
               flop / s * 1e-9, flop / s * 1e-7 / peak);
    }
    gpu_model_free(model);
    gpu_close(device);
    return 0;
}
