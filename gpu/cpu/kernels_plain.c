/* The operations as the paper has them: one loop per sum, from the first element to the last, in f32.
 *
 * exp, erf and tanh are not libm's: its last bits differ between versions and cpus, and a snapshot's proof would not hold
 * on a machine with another one. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "gpu/cpu/cpu_kernels.h"
#include "model/exp_sum.h"
#include "model/float16.h"

static void plain_widen(enum model_dtype dtype, const void *from, size_t n, float *to)
{
    const uint16_t *h = from;
    switch (dtype) {
    case MODEL_F32:
        memcpy(to, from, n * sizeof *to);
        break;
    case MODEL_F16:
        for (size_t i = 0; i < n; i++)
            to[i] = model_f16_to_f32(h[i]);
        break;
    case MODEL_BF16:
        for (size_t i = 0; i < n; i++)
            to[i] = model_bf16_to_f32(h[i]);
        break;
    case MODEL_Q8: /* cpu_check refuses it */
        assert(false);
        break;
    }
}

static void plain_narrow(enum model_dtype dtype, const float *from, size_t n, void *to)
{
    uint16_t *h = to;
    switch (dtype) {
    case MODEL_F32:
        memcpy(to, from, n * sizeof *from);
        break;
    case MODEL_F16:
        for (size_t i = 0; i < n; i++)
            h[i] = model_f32_to_f16(from[i]);
        break;
    case MODEL_BF16:
        for (size_t i = 0; i < n; i++)
            h[i] = model_f32_to_bf16(from[i]);
        break;
    case MODEL_Q8: /* cpu_check refuses it */
        assert(false);
        break;
    }
}

static void plain_matmul(const struct cpu_matmul *m, uint32_t row_begin, uint32_t row_end, float *scratch)
{
    const size_t row_bytes = (size_t)m->n_cols * model_dtype_bytes(m->dtype);
    float *w = scratch; /* [K] */

    for (uint32_t n = row_begin; n < row_end; n++) {
        plain_widen(m->dtype, (const uint8_t *)m->w + n * row_bytes, m->n_cols, w);
        for (uint32_t t = 0; t < m->n_tokens; t++) {
            const float *x = m->x + (size_t)t * m->n_cols;
            float sum = 0;
            for (uint32_t k = 0; k < m->n_cols; k++)
                sum += x[k] * w[k];
            m->y[(size_t)t * m->n_rows + n] = m->bias ? sum + m->bias[n] : sum;
        }
    }
}

static void plain_layernorm(const float *x, const float *gain, const float *bias, float eps, uint32_t e, float *y)
{
    float mean = 0, var = 0;
    for (uint32_t i = 0; i < e; i++)
        mean += x[i];
    mean /= (float)e;
    for (uint32_t i = 0; i < e; i++)
        var += (x[i] - mean) * (x[i] - mean);
    var /= (float)e;
    const float scale = 1.0f / sqrtf(var + eps);
    for (uint32_t i = 0; i < e; i++)
        y[i] = (x[i] - mean) * scale * gain[i] + bias[i];
}

static void plain_rotary(float *x, const float *cos, const float *sin, uint32_t r)
{
    const uint32_t half = r / 2;
    for (uint32_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

void cpu_kv_write(const struct cpu_kv *kv, uint32_t block, uint32_t head, uint32_t position, const float *k,
                  const float *v)
{
    const size_t at = (size_t)(position % GPU_BLOCK_TOKENS) * kv->head_dim;
    memcpy(cpu_kv_block(kv, block, 0, head) + at, k, kv->head_dim * sizeof *k);
    memcpy(cpu_kv_block(kv, block, 1, head) + at, v, kv->head_dim * sizeof *v);
}

static const float *kv_at(const struct cpu_kv *kv, const uint32_t *blocks, uint32_t is_v, uint32_t head, uint32_t p)
{
    const size_t at = (size_t)(p % GPU_BLOCK_TOKENS) * kv->head_dim;
    return cpu_kv_block(kv, blocks[p / GPU_BLOCK_TOKENS], is_v, head) + at;
}

/* e^x for x <= 0; NaN stays. */
static float plain_exp(float x)
{
    return isnan(x) ? x : (float)model_exp((double)x);
}

static void plain_attention(const struct cpu_kv *kv, const uint32_t *blocks, uint32_t head, uint32_t position,
                            const float *q, float *out, float *scratch)
{
    const uint32_t d = kv->head_dim, n = position + 1;
    const float scale = 1.0f / sqrtf((float)d);
    float *score = scratch; /* [n] */

    float max = -INFINITY;
    for (uint32_t p = 0; p < n; p++) {
        const float *k = kv_at(kv, blocks, 0, head, p);
        float dot = 0;
        for (uint32_t i = 0; i < d; i++)
            dot += q[i] * k[i];
        score[p] = dot * scale;
        if (score[p] > max)
            max = score[p];
    }
    float sum = 0;
    for (uint32_t p = 0; p < n; p++) {
        score[p] = plain_exp(score[p] - max);
        sum += score[p];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] = 0;
    for (uint32_t p = 0; p < n; p++) {
        const float *v = kv_at(kv, blocks, 1, head, p);
        const float weight = score[p] / sum;
        for (uint32_t i = 0; i < d; i++)
            out[i] += weight * v[i];
    }
}

/* erf x = 2 / sqrt(pi) e^(-x^2) (x + 2 x^3 / 3 + 4 x^5 / (3 5) + ...): all terms of one sign, so none cancel. */
static double plain_erf(double x)
{
    const double two_by_sqrt_pi = 1.1283791670955126;
    if (!(fabs(x) < 6)) /* erfc 6 = 2e-17; NaN stays */
        return isnan(x) ? x : copysign(1, x);
    double term = x, sum = x;
    for (double odd = 3; fabs(term) > 1e-12 * fabs(sum); odd += 2) {
        term *= 2 * x * x / odd;
        sum += term;
    }
    return two_by_sqrt_pi * model_exp(-x * x) * sum;
}

static double plain_tanh(double x)
{
    const double e = model_exp(-2 * fabs(x));
    return copysign((1 - e) / (1 + e), x);
}

static void plain_gelu(enum model_act act, float *x, size_t n)
{
    const double sqrt_half = 0.70710678118654752, sqrt_2_by_pi = 0.79788456080286536;
    for (size_t i = 0; i < n; i++) {
        const double v = (double)x[i];
        if (act == MODEL_ACT_GELU_ERF)
            x[i] = (float)(0.5 * v * (1 + plain_erf(v * sqrt_half)));
        else
            x[i] = (float)(0.5 * v * (1 + plain_tanh(sqrt_2_by_pi * (v + 0.044715 * v * v * v))));
    }
}

static void plain_add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

const struct cpu_kernels cpu_kernels_plain = {
    .name = "generic",
#if defined(__x86_64__)
    .arch = "x86-64-generic",
#elif defined(__aarch64__)
    .arch = "aarch64-generic",
#else
    .arch = "generic",
#endif
    .widen = plain_widen,
    .narrow = plain_narrow,
    .matmul = plain_matmul,
    .layernorm = plain_layernorm,
    .rotary = plain_rotary,
    .kv_write = cpu_kv_write,
    .attention = plain_attention,
    .gelu = plain_gelu,
    .add = plain_add,
};
