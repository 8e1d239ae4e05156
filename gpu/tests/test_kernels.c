/* Every operation of every table the processor has: against sums in double where there is a bound to hold, against its
 * plain twin otherwise, at the edges of its shapes; and the promise that no result depends on what shares the call. */
#include <float.h>
#include <math.h>

#include "gpu/cpu/cpu_kernels.h"
#include "gpu/tests/gpu_testing.h"
#include "model/float16.h"

#define UNIT                                                                                                           \
    5.9604645e-8 /* 2^-24: half a unit in the last place, the error of one f32 operation relative to its result */

static const struct cpu_kernels *tables[2];
static int n_tables;

static const enum model_dtype dtypes[] = {MODEL_F32, MODEL_F16, MODEL_BF16};

/* What a buffer is filled with. */
enum fill { FILL_UNIFORM, FILL_LARGE, FILL_DENORMAL, FILL_ZEROS, FILL_N };
static const char *const fill_names[] = {"uniform", "large", "denormal", "zeros of both signs"};

static float fill_value(enum fill fill, uint64_t *state)
{
    const float u = testing_uniform(state);
    switch (fill) {
    case FILL_LARGE:
        return u * 1e15f;
    case FILL_DENORMAL:
        return u * 1e-40f;
    case FILL_ZEROS:
        return u < 0 ? -0.0f : 0.0f;
    default:
        return u;
    }
}

/* A weight's value: the same kinds, within what the dtype holds. */
static float fill_weight(enum fill fill, enum model_dtype dtype, uint64_t *state)
{
    const float v = fill_value(fill, state);
    if (dtype == MODEL_F16 && fill == FILL_LARGE)
        return v / 1e15f * 60000.0f;
    if (dtype == MODEL_F16 && fill == FILL_DENORMAL)
        return v / 1e-40f * 6e-6f;
    return v;
}

static float widen_half(enum model_dtype dtype, uint16_t h)
{
    return dtype == MODEL_F16 ? model_f16_to_f32(h) : model_bf16_to_f32(h);
}

static float widen_one(enum model_dtype dtype, const void *w, size_t i)
{
    return dtype == MODEL_F32 ? ((const float *)w)[i] : widen_half(dtype, ((const uint16_t *)w)[i]);
}

/* ---- matmul ---- */

struct problem {
    struct cpu_matmul m;
    float *x, *bias, *scratch;
    void *w;
};

static struct problem problem_new(enum model_dtype dtype, uint32_t t, uint32_t n, uint32_t k, enum fill fill,
                                  bool biased)
{
    uint64_t state = ((uint64_t)t << 40) ^ ((uint64_t)n << 20) ^ k ^ ((uint64_t)dtype << 60);
    struct problem p;
    p.x = testing_alloc((size_t)t * k, sizeof(float));
    p.w = testing_alloc((size_t)n * k, model_dtype_bytes(dtype)); /* exact: a sanitizer sees any read past the end */
    p.bias = testing_alloc(n, sizeof(float));
    p.scratch = testing_alloc(cpu_scratch_floats(k, 1), sizeof(float));
    float *y = testing_alloc((size_t)t * n, sizeof(float));
    for (size_t i = 0; i < (size_t)t * k; i++)
        p.x[i] = fill_value(fill, &state);
    for (size_t i = 0; i < (size_t)n * k; i++) {
        const float v = fill_weight(fill, dtype, &state);
        cpu_kernels_plain.narrow(dtype, &v, 1, (uint8_t *)p.w + i * model_dtype_bytes(dtype));
    }
    for (uint32_t i = 0; i < n; i++)
        p.bias[i] = fill_value(fill, &state);
    p.m = (struct cpu_matmul){p.x, p.w, biased ? p.bias : NULL, y, dtype, t, n, k};
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->x);
    free(p->w);
    free(p->bias);
    free(p->scratch);
    free(p->m.y);
}

/* A sum of K products in f32, in any order, is off by at most K units of the sum of their magnitudes (Higham, 3.1), plus
 * one for the bias, plus half a denormal for every product that underflows. */
static void check_products(const struct problem *p, const char *name, enum fill fill)
{
    const struct cpu_matmul *m = &p->m;
    for (uint32_t t = 0; t < m->n_tokens; t++)
        for (uint32_t n = 0; n < m->n_rows; n++) {
            double sum = m->bias ? m->bias[n] : 0, magnitude = fabs(sum);
            for (uint32_t k = 0; k < m->n_cols; k++) {
                const double product =
                    (double)m->x[(size_t)t * m->n_cols + k] * widen_one(m->dtype, m->w, (size_t)n * m->n_cols + k);
                sum += product;
                magnitude += fabs(product);
            }
            const double got = m->y[(size_t)t * m->n_rows + n];
            const double allowed = (m->n_cols + 1) * (UNIT * magnitude + 1e-45);
            if (!(fabs(got - sum) <= allowed))
                fail_msg("%s %s, %s: y[%u][%u] of T=%u N=%u K=%u is %.9g, should be %.9g +- %.2g", name,
                         model_dtype_name(m->dtype), fill_names[fill], t, n, m->n_tokens, m->n_rows, m->n_cols, got,
                         sum, allowed);
        }
}

static void run_matmul(enum model_dtype dtype, uint32_t t, uint32_t n, uint32_t k, enum fill fill, bool biased)
{
    struct problem p = problem_new(dtype, t, n, k, fill, biased);
    for (int i = 0; i < n_tables; i++) {
        for (size_t j = 0; j < (size_t)t * n; j++)
            p.m.y[j] = NAN;
        tables[i]->matmul(&p.m, 0, n, p.scratch);
        check_products(&p, tables[i]->name, fill);
    }
    problem_free(&p);
}

static void matmul_at_edge_shapes(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64, 67};
    static const uint32_t cols[] = {1, 7, 8, 9, 24, 61, 136};
    for (size_t d = 0; d < 3; d++)
        for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
            for (uint32_t n = 1; n <= 17; n++)
                for (size_t k = 0; k < sizeof cols / sizeof *cols; k++)
                    run_matmul(dtypes[d], tokens[t], n, cols[k], FILL_UNIFORM, n % 2 == 0);
}

static void matmul_of_long_rows(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {{65, 13, 1025}, {130, 25, 2049}, {17, 12, 1024},
                                         {20, 99, 1031}, {1, 5, 3001},    {8, 7, 2051}};
    for (size_t d = 0; d < 3; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            run_matmul(dtypes[d], shapes[i][0], shapes[i][1], shapes[i][2], FILL_UNIFORM, true);
}

static void matmul_of_extreme_values(void **state)
{
    (void)state;
    for (size_t d = 0; d < 3; d++)
        for (enum fill fill = FILL_LARGE; fill < FILL_N; fill++) {
            run_matmul(dtypes[d], 1, 9, 45, fill, true);
            run_matmul(dtypes[d], 6, 9, 45, fill, false);
            run_matmul(dtypes[d], 33, 14, 45, fill, true);
        }
}

/* Columns of y computed with one token, a few, many, and row by row: the same bits. */
static void matmul_does_not_depend_on_the_tiling(void **state)
{
    (void)state;
    static const uint32_t parts[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 63, 64, 65};
    const uint32_t t_all = 70, n = 61, k = 2100;
    for (int i = 0; i < n_tables; i++)
        for (size_t d = 0; d < 3; d++) {
            struct problem p = problem_new(dtypes[d], t_all, n, k + (uint32_t)d, FILL_UNIFORM, true);
            const struct cpu_matmul whole = p.m;
            tables[i]->matmul(&whole, 0, n, p.scratch);
            float *y = testing_alloc((size_t)t_all * n, sizeof(float));
            for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
                struct cpu_matmul part = whole;
                part.x = whole.x + (size_t)(t_all - parts[j]) * part.n_cols;
                part.y = y;
                part.n_tokens = parts[j];
                for (uint32_t row = 0; row < n; row += 17)
                    tables[i]->matmul(&part, row, row + 17 < n ? row + 17 : n, p.scratch);
                assert_memory_equal(y, whole.y + (size_t)(t_all - parts[j]) * n, (size_t)parts[j] * n * sizeof(float));
            }
            free(y);
            problem_free(&p);
        }
}

/* Rows outside [begin, end) stay as they were. */
static void matmul_writes_its_rows_alone(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {1, 5, 40};
    for (int i = 0; i < n_tables; i++)
        for (size_t j = 0; j < 3; j++) {
            struct problem p = problem_new(MODEL_F16, tokens[j], 30, 40, FILL_UNIFORM, true);
            for (size_t l = 0; l < (size_t)tokens[j] * 30; l++)
                p.m.y[l] = 77;
            tables[i]->matmul(&p.m, 7, 21, p.scratch);
            for (uint32_t t = 0; t < tokens[j]; t++)
                for (uint32_t n = 0; n < 30; n++)
                    assert_int_equal(p.m.y[(size_t)t * 30 + n] == 77, n < 7 || n >= 21);
            problem_free(&p);
        }
}

/* ---- widen, narrow ---- */

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void widen_is_exact(void **state)
{
    (void)state;
    enum { N = 65536 };
    uint16_t *h = testing_alloc(N, sizeof *h);
    float *f = testing_alloc(N, sizeof *f);
    for (uint32_t i = 0; i < N; i++)
        h[i] = (uint16_t)i;
    for (int i = 0; i < n_tables; i++)
        for (size_t d = 1; d < 3; d++) {
            tables[i]->widen(dtypes[d], h, N, f);
            for (uint32_t j = 0; j < N; j++)
                if (!same_float(f[j], widen_one(dtypes[d], h, j)))
                    fail_msg("%s: %s %04x widens to %a", tables[i]->name, model_dtype_name(dtypes[d]), j, (double)f[j]);
            for (size_t n = 0; n < 20; n++) { /* and at lengths that are no multiple of anything */
                float few[21];
                few[n] = 55;
                tables[i]->widen(dtypes[d], h + 0x3c00, n, few);
                assert_memory_equal(few, f + 0x3c00, n * sizeof *few);
                assert_true(few[n] == 55);
            }
        }
    free(h);
    free(f);
}

static bool same_half(enum model_dtype dtype, uint16_t a, uint16_t b)
{
    return a == b || (isnan(widen_half(dtype, a)) && isnan(widen_half(dtype, b)));
}

/* Halfway cases, the ends of the range, and random bits. */
static void narrow_rounds_to_nearest_even(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    static const uint32_t special[] = {0x00000000, 0x80000000, 0x33000000, 0x33000001, 0x337fffff, 0x387fc000,
                                       0x387fe000, 0x38800000, 0x3f801000, 0x3f803000, 0x3f808000, 0x3f818000,
                                       0x477fe000, 0x477fefff, 0x477ff000, 0x7f7fffff, 0x7f800000, 0xff800000,
                                       0x7fc00000, 0x7f800001, 0x00000001, 0x807fffff};
    uint64_t seed = 5;
    float *f = testing_alloc(N, sizeof *f);
    uint16_t *h = testing_alloc(N, sizeof *h);
    for (uint32_t i = 0; i < N; i++) {
        const uint32_t bits = i < sizeof special / sizeof *special ? special[i] : (uint32_t)testing_random(&seed);
        memcpy(&f[i], &bits, sizeof bits);
    }
    for (int i = 0; i < n_tables; i++)
        for (size_t d = 1; d < 3; d++) {
            tables[i]->narrow(dtypes[d], f, N, h);
            for (uint32_t j = 0; j < N; j++) {
                const uint16_t want = dtypes[d] == MODEL_F16 ? model_f32_to_f16(f[j]) : model_f32_to_bf16(f[j]);
                if (!same_half(dtypes[d], h[j], want))
                    fail_msg("%s: %a narrows to %s %04x, should be %04x", tables[i]->name, (double)f[j],
                             model_dtype_name(dtypes[d]), h[j], want);
            }
        }
    free(f);
    free(h);
}

/* ---- layernorm, gelu, rotary, add ---- */

/* The mean is off by at most E units of the mean magnitude, the deviation from it by as much again; dividing by the
 * standard deviation scales that; the variance is off by E units of itself. Gain and bias add a rounding each. */
static void check_norm(const struct cpu_kernels *k, const float *x, const float *gain, const float *bias, float eps,
                       uint32_t e)
{
    float *y = testing_alloc(e, sizeof *y);
    k->layernorm(x, gain, bias, eps, e, y);
    double mean = 0, magnitude = 0, var = 0;
    for (uint32_t i = 0; i < e; i++) {
        mean += x[i] / (double)e;
        magnitude += fabs((double)x[i]) / e;
    }
    for (uint32_t i = 0; i < e; i++)
        var += (x[i] - mean) * (x[i] - mean) / e;
    const double scale = 1 / sqrt(var + (double)eps);
    for (uint32_t i = 0; i < e; i++) {
        const double z = (x[i] - mean) * scale, want = z * gain[i] + bias[i];
        const double allowed = (e + 8) * UNIT * (magnitude * scale + fabs(z)) * fabs((double)gain[i]) +
                               4 * UNIT * (fabs(want) + fabs((double)bias[i])) + 1e-44;
        if (!(fabs(y[i] - want) <= allowed))
            fail_msg("%s: norm of %u, element %u: %.9g, should be %.9g +- %.2g", k->name, e, i, (double)y[i], want,
                     allowed);
    }
    float *in_place = testing_alloc(e, sizeof *in_place);
    memcpy(in_place, x, e * sizeof *x);
    k->layernorm(in_place, gain, bias, eps, e, in_place);
    assert_memory_equal(in_place, y, e * sizeof *y);
    free(in_place);
    free(y);
}

static void layernorm_at_all_scales(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {8, 24, 64, 320, 1024, 5120};
    static const struct {
        float offset, spread;
    } inputs[] = {{0, 1}, {100, 1}, {0, 1e15f}, {-3e4f, 0.5f}, {0, 1e-20f}, {0, 1e-40f}, {7, 0}};
    static const float eps[] = {1e-5f, 0.25f};
    float *x = testing_alloc(5120, sizeof *x), *gain = testing_alloc(5120, sizeof *x),
          *bias = testing_alloc(5120, sizeof *x);
    uint64_t seed = 9;
    for (int i = 0; i < n_tables; i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t in = 0; in < sizeof inputs / sizeof *inputs; in++)
                for (size_t p = 0; p < 2; p++) {
                    for (uint32_t j = 0; j < sizes[s]; j++) {
                        x[j] = inputs[in].offset + inputs[in].spread * testing_uniform(&seed);
                        gain[j] = 1 + testing_uniform(&seed);
                        bias[j] = testing_uniform(&seed);
                    }
                    check_norm(tables[i], x, gain, bias, eps[p], sizes[s]);
                }
    free(x);
    free(gain);
    free(bias);
}

static double gelu_in_double(enum model_act act, double x)
{
    if (act == MODEL_ACT_GELU_ERF)
        return 0.5 * x * erfc(-x * 0.70710678118654752);
    return x / (1 + exp(-2 * 0.79788456080286536 * (x + 0.044715 * x * x * x)));
}

/* Phi(x) is between 0 and 1 and off by a few units, the tanh form's by the rounding of its argument too: four units in the
 * last place of x cover both. Where Phi is tiny the plain form cancels, so no relative bound holds. */
static void check_gelu(const struct cpu_kernels *k, enum model_act act, float x)
{
    float y = x;
    k->gelu(act, &y, 1);
    const double want = gelu_in_double(act, x), allowed = 8 * UNIT * fabs((double)x) + 1e-44;
    if (!(fabs(y - want) <= allowed))
        fail_msg("%s: gelu %d of %.9g is %.9g, should be %.9g +- %.2g", k->name, act, (double)x, (double)y, want,
                 allowed);
}

/* In the place of libm's: their last bits differ between its versions and cpus, and with them a snapshot's proof would. */
static unsigned n_libm_calls;

float expf(float x)
{
    n_libm_calls++;
    return (float)exp((double)x);
}

float erff(float x)
{
    n_libm_calls++;
    return (float)erf((double)x);
}

float tanhf(float x)
{
    n_libm_calls++;
    return (float)tanh((double)x);
}

static void bits_do_not_depend_on_libm(void **state)
{
    (void)state;
    enum { D = 8, N = 5 };
    const uint32_t blocks[] = {0};
    float data[2 * GPU_BLOCK_TOKENS * D], q[D], out[D];
    const struct cpu_kv kv = {data, 2 * GPU_BLOCK_TOKENS * D, 1, D};
    float *scratch = testing_alloc(cpu_scratch_floats(D, N), sizeof(float));
    for (int i = 0; i < n_tables; i++) {
        for (int j = 0; j < 2 * GPU_BLOCK_TOKENS * D; j++)
            data[j] = (float)(j % 7) * 0.25f - 0.5f;
        memcpy(q, data + 3, sizeof q);
        n_libm_calls = 0;
        tables[i]->attention(&kv, blocks, 0, N - 1, q, out, scratch);
        tables[i]->gelu(MODEL_ACT_GELU_ERF, q, D);
        tables[i]->gelu(MODEL_ACT_GELU_TANH, q, D);
        assert_int_equal(n_libm_calls, 0);
    }
    free(scratch);
}

static void gelu_at_all_scales(void **state)
{
    (void)state;
    static const float special[] = {0,       -0.0f,    1e-45f, -1e-45f, 1e-40f, 1e-20f, 5.4999f, 7.7781f,
                                    7.7783f, -7.7781f, -7.79f, 8.5f,    -8.5f,  20,     -20,     88,
                                    -88,     1e4f,     -1e4f,  1e15f,   -1e15f, 3e38f,  -3e38f};
    for (int i = 0; i < n_tables; i++)
        for (enum model_act act = MODEL_ACT_GELU_ERF; act <= MODEL_ACT_GELU_TANH; act++) {
            for (size_t j = 0; j < sizeof special / sizeof *special; j++)
                check_gelu(tables[i], act, special[j]);
            for (float x = -12; x < 12; x += 0.00037f)
                check_gelu(tables[i], act, x);
            float nan = NAN;
            tables[i]->gelu(act, &nan, 1);
            assert_true(isnan(nan));
        }
}

/* An element's result is the same wherever in the slice it is. */
static void gelu_does_not_depend_on_the_place(void **state)
{
    (void)state;
    float x[40], y[40];
    uint64_t seed = 3;
    for (int i = 0; i < n_tables; i++)
        for (enum model_act act = MODEL_ACT_GELU_ERF; act <= MODEL_ACT_GELU_TANH; act++)
            for (size_t n = 1; n < 40; n++) {
                for (size_t j = 0; j < n; j++)
                    x[j] = y[j] = 4 * testing_uniform(&seed);
                tables[i]->gelu(act, y, n);
                for (size_t j = 0; j < n; j++) {
                    tables[i]->gelu(act, &x[j], 1);
                    assert_memory_equal(&x[j], &y[j], sizeof *x);
                }
            }
}

static void rotary_is_the_same_in_every_table(void **state)
{
    (void)state;
    static const uint32_t dims[] = {8, 24, 32, 64, 80, 96, 128, 256};
    float x[256], y[256], cos[128], sin[128];
    uint64_t seed = 11;
    for (int i = 0; i < n_tables; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (uint32_t r = 0; r <= dims[d]; r += 2) {
                for (uint32_t j = 0; j < dims[d]; j++)
                    x[j] = y[j] = testing_uniform(&seed);
                for (uint32_t j = 0; j < r / 2; j++) {
                    const double angle = 100 * (double)testing_uniform(&seed);
                    cos[j] = (float)__builtin_cos(angle);
                    sin[j] = (float)__builtin_sin(angle);
                }
                tables[i]->rotary(x, cos, sin, r);
                for (uint32_t j = 0; j < r / 2;
                     j++) { /* by the definition: a turn in the plane of dims j and j + R/2 */
                    const double a = y[j], b = y[j + r / 2];
                    assert_true(fabs(x[j] - (a * cos[j] - b * sin[j])) <= 4 * UNIT);
                    assert_true(fabs(x[j + r / 2] - (b * cos[j] + a * sin[j])) <= 4 * UNIT);
                }
                assert_memory_equal(x + r, y + r, (dims[d] - r) * sizeof *x);
                cpu_kernels_plain.rotary(y, cos, sin, r);
                assert_memory_equal(x, y, dims[d] * sizeof *x);
            }
}

static void add_adds(void **state)
{
    (void)state;
    float x[33], y[33], z[33];
    uint64_t seed = 12;
    for (int i = 0; i < n_tables; i++)
        for (size_t n = 0; n < 33; n++) {
            for (size_t j = 0; j < 33; j++) {
                x[j] = z[j] = testing_uniform(&seed);
                y[j] = testing_uniform(&seed);
            }
            tables[i]->add(x, y, n);
            for (size_t j = 0; j < 33; j++)
                assert_true(x[j] == (j < n ? z[j] + y[j] : z[j]));
        }
}

/* ---- attention ---- */

struct cache {
    struct cpu_kv kv;
    uint32_t *blocks; /* [n_blocks] shuffled */
    uint32_t n_blocks;
    float *q, *k, *v; /* q: [D] of the last token; k, v: [n][D] of the one head that is looked at */
};

/* Blocks are full of NaN but for what kv_write puts there: a slot read past the token would show. */
static struct cache cache_new(const struct cpu_kernels *kernels, uint32_t d, uint32_t n, uint32_t head, enum fill fill,
                              uint64_t seed)
{
    const uint32_t n_heads = head + 2;
    struct cache c = {.n_blocks = (n + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS};
    const size_t block_floats = (size_t)3 * n_heads * GPU_BLOCK_TOKENS * d; /* another layer's lie between them */
    const size_t n_floats = c.n_blocks * block_floats;
    c.kv = (struct cpu_kv){testing_alloc(n_floats, sizeof(float)), block_floats, n_heads, d};
    c.blocks = testing_alloc(c.n_blocks, sizeof *c.blocks);
    c.q = testing_alloc(d, sizeof(float));
    c.k = testing_alloc((size_t)n * d, sizeof(float));
    c.v = testing_alloc((size_t)n * d, sizeof(float));
    for (size_t i = 0; i < n_floats; i++)
        c.kv.data[i] = NAN;
    for (uint32_t i = 0; i < c.n_blocks; i++) {
        const uint32_t j = (uint32_t)(testing_random(&seed) % (i + 1));
        c.blocks[i] = c.blocks[j];
        c.blocks[j] = i;
    }
    const float scale = fill == FILL_LARGE ? 1e-12f : 1; /* scores in the thousands: one position takes all */
    for (uint32_t i = 0; i < d; i++)
        c.q[i] = fill_value(fill, &seed) * scale;
    for (size_t i = 0; i < (size_t)n * d; i++) {
        c.k[i] = fill == FILL_LARGE ? testing_uniform(&seed) : 3 * fill_value(fill, &seed);
        c.v[i] = fill_value(fill, &seed);
    }
    for (uint32_t p = 0; p < n; p++)
        kernels->kv_write(&c.kv, c.blocks[p / GPU_BLOCK_TOKENS], head, p, c.k + (size_t)p * d, c.v + (size_t)p * d);
    return c;
}

static void cache_free(struct cache *c)
{
    free(c->kv.data);
    free(c->blocks);
    free(c->q);
    free(c->k);
    free(c->v);
}

/* A score is off by D units of its products' magnitudes, so a weight by that much relative to itself, twice (its own and
 * its share of the sum); adding n weights and n products costs n units each. All of it scales the largest |v|. */
static void check_attention(const struct cpu_kernels *kernels, uint32_t d, uint32_t n, enum fill fill)
{
    const uint32_t head = d % 3;
    struct cache c = cache_new(kernels, d, n, head, fill, d * 1000 + n);
    float *out = testing_alloc(d, sizeof *out), *scratch = testing_alloc(cpu_scratch_floats(1, n), sizeof *scratch);
    double *score = testing_alloc(n, sizeof *score);
    kernels->attention(&c.kv, c.blocks, head, n - 1, c.q, out, scratch);

    double max = -INFINITY, magnitude_max = 0, sum = 0, v_max = 0;
    for (uint32_t p = 0; p < n; p++) {
        double magnitude = 0;
        score[p] = 0;
        for (uint32_t i = 0; i < d; i++) {
            const double product = (double)c.q[i] * c.k[(size_t)p * d + i] / sqrt(d);
            score[p] += product;
            magnitude += fabs(product);
            v_max = fmax(v_max, fabs((double)c.v[(size_t)p * d + i]));
        }
        max = fmax(max, score[p]);
        magnitude_max = fmax(magnitude_max, magnitude);
    }
    for (uint32_t p = 0; p < n; p++)
        sum += exp(score[p] - max);
    const double allowed = (2 * (d + 4) * UNIT * magnitude_max + (2 * n + 16) * UNIT) * v_max + 1e-42;
    for (uint32_t i = 0; i < d; i++) {
        double want = 0;
        for (uint32_t p = 0; p < n; p++)
            want += exp(score[p] - max) / sum * c.v[(size_t)p * d + i];
        if (!(fabs(out[i] - want) <= allowed))
            fail_msg("%s: attention over %u positions, D=%u, %s: out[%u] is %.9g, should be %.9g +- %.2g",
                     kernels->name, n, d, fill_names[fill], i, (double)out[i], want, allowed);
    }
    free(out);
    free(scratch);
    free(score);
    cache_free(&c);
}

static void attention_at_edge_shapes(void **state)
{
    (void)state;
    static const uint32_t dims[] = {8, 24, 32, 40, 64, 72, 80, 96, 104, 128, 248, 256};
    static const uint32_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 300};
    for (int i = 0; i < n_tables; i++)
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++)
                for (enum fill fill = FILL_UNIFORM; fill < FILL_N; fill++)
                    check_attention(tables[i], dims[d], lengths[n], fill);
}

/* Other blocks, another head count around it, the same bits. */
static void attention_does_not_depend_on_the_blocks(void **state)
{
    (void)state;
    const uint32_t d = 80, n = 77;
    for (int i = 0; i < n_tables; i++) {
        struct cache c = cache_new(tables[i], d, n, 1, FILL_UNIFORM, 42);
        float a[80], b[80], *scratch = testing_alloc(cpu_scratch_floats(1, n), sizeof *scratch);
        tables[i]->attention(&c.kv, c.blocks, 1, n - 1, c.q, a, scratch);
        for (uint32_t j = 0; j < c.n_blocks; j++) /* reversed; contents follow */
            c.blocks[j] = c.n_blocks - 1 - j;
        for (size_t j = 0; j < (size_t)c.n_blocks * 2 * 3 * GPU_BLOCK_TOKENS * d; j++)
            c.kv.data[j] = INFINITY;
        for (uint32_t p = 0; p < n; p++)
            tables[i]->kv_write(&c.kv, c.blocks[p / GPU_BLOCK_TOKENS], 1, p, c.k + (size_t)p * d, c.v + (size_t)p * d);
        tables[i]->attention(&c.kv, c.blocks, 1, n - 1, c.q, b, scratch);
        assert_memory_equal(a, b, sizeof a);
        free(scratch);
        cache_free(&c);
    }
}

static void pick_knows_its_names(void **state)
{
    (void)state;
    const struct cpu_kernels *k = NULL;
    struct base_error err = {0};
    assert_int_equal(cpu_kernels_pick("generic", &k, &err), 0);
    assert_ptr_equal(k, &cpu_kernels_plain);
    assert_int_equal(cpu_kernels_pick("avx1024", &k, &err), ERR_USAGE);
    assert_string_equal(err.text, "no kernels 'avx1024'; known are auto, generic and avx2");
    assert_ptr_equal(k, &cpu_kernels_plain);
}

int main(void)
{
    const struct cpu_kernels *best;
    tables[n_tables++] = &cpu_kernels_plain;
    if (cpu_kernels_pick("auto", &best, NULL) == 0 && best != &cpu_kernels_plain)
        tables[n_tables++] = best;
    else
        printf("only the generic kernels are tested: this processor lacks AVX2, FMA or F16C\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pick_knows_its_names),
        cmocka_unit_test(widen_is_exact),
        cmocka_unit_test(narrow_rounds_to_nearest_even),
        cmocka_unit_test(matmul_at_edge_shapes),
        cmocka_unit_test(matmul_of_long_rows),
        cmocka_unit_test(matmul_of_extreme_values),
        cmocka_unit_test(matmul_does_not_depend_on_the_tiling),
        cmocka_unit_test(matmul_writes_its_rows_alone),
        cmocka_unit_test(layernorm_at_all_scales),
        cmocka_unit_test(bits_do_not_depend_on_libm),
        cmocka_unit_test(gelu_at_all_scales),
        cmocka_unit_test(gelu_does_not_depend_on_the_place),
        cmocka_unit_test(rotary_is_the_same_in_every_table),
        cmocka_unit_test(add_adds),
        cmocka_unit_test(attention_at_edge_shapes),
        cmocka_unit_test(attention_does_not_depend_on_the_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
