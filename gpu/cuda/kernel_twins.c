#include "gpu/cuda/kernel_twins.h"

#include <assert.h>
#include <math.h>
#include <xxhash.h>

#include "model/float16.h"
#include "model/sampler.h"

/* ---- halves ---- */

float cuda_twin_widen(enum model_dtype half, uint16_t h)
{
    assert(half == MODEL_F16 || half == MODEL_BF16);
    return half == MODEL_F16 ? model_f16_to_f32(h) : model_bf16_to_f32(h);
}

/* Through f32, so rounded twice; the first time moves x by 2^-25 of it, the second by 2^-12 at least. */
uint16_t cuda_twin_narrow(enum model_dtype half, double x)
{
    assert(half == MODEL_F16 || half == MODEL_BF16);
    return half == MODEL_F16 ? model_f32_to_f16((float)x) : model_f32_to_bf16((float)x);
}

/* ---- rows ---- */

void cuda_twin_embed(enum model_dtype half, const struct cuda_embed_args *a)
{
    for (uint32_t t = 0; t < a->counts->n_rows; t++) {
        const uint16_t *from = a->embedding + (size_t)a->tokens[t] * a->e;
        for (uint32_t i = 0; i < a->e; i++)
            a->x[(size_t)t * a->e + i] = cuda_twin_widen(half, from[i]);
    }
}

/* y = (x - mean x) / sqrt(var x + eps) * gain + bias */
static void norm_row(enum model_dtype half, const float *x, const float *gain, const float *bias, float eps, uint32_t e,
                     uint16_t *y)
{
    double mean = 0, var = 0;
    for (uint32_t i = 0; i < e; i++)
        mean += (double)x[i] / e;
    for (uint32_t i = 0; i < e; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / e;
    const double scale = 1 / sqrt(var + (double)eps);
    for (uint32_t i = 0; i < e; i++)
        y[i] = cuda_twin_narrow(half, ((double)x[i] - mean) * scale * (double)gain[i] + (double)bias[i]);
}

void cuda_twin_norm(enum model_dtype half, const struct cuda_norm_args *a)
{
    const uint32_t n = a->rows ? a->counts->n_logits : a->counts->n_rows;
    for (uint32_t i = 0; i < n; i++) {
        const float *x = a->x + (size_t)(a->rows ? a->rows[i] : i) * a->e;
        norm_row(half, x, a->gain1, a->bias1, a->eps, a->e, a->y1 + (size_t)i * a->e);
        if (a->y2)
            norm_row(half, x, a->gain2, a->bias2, a->eps, a->e, a->y2 + (size_t)i * a->e);
    }
}

/* x Phi(x), by erfc so that the left side does not cancel; or GPT-NeoX-20b's form of it. */
double cuda_twin_gelu_of(enum cuda_act act, double x)
{
    const double sqrt_half = 0.70710678118654752, sqrt_2_by_pi = 0.79788456080286536;
    if (act == CUDA_ACT_GELU_ERF)
        return 0.5 * x * erfc(-x * sqrt_half);
    return x / (1 + exp(-2 * sqrt_2_by_pi * (x + 0.044715 * x * x * x)));
}

void cuda_twin_gelu(enum model_dtype half, const struct cuda_gelu_args *a)
{
    for (size_t i = 0; i < (size_t)a->counts->n_rows * a->f; i++)
        a->x[i] = cuda_twin_narrow(half, cuda_twin_gelu_of(a->act, (double)cuda_twin_widen(half, a->x[i])));
}

/* ---- matmul ---- */

static double matmul_weight(enum model_dtype half, bool q8, const struct cuda_matmul_args *a, size_t at)
{
    return q8 ? ((const int8_t *)a->w)[at] : (double)cuda_twin_widen(half, ((const uint16_t *)a->w)[at]);
}

static double matmul_sum(enum model_dtype half, bool q8, const struct cuda_matmul_args *a, uint32_t t, uint32_t n)
{
    double sum = 0;
    for (uint32_t k = 0; k < a->k; k++)
        sum += (double)cuda_twin_widen(half, a->x[(size_t)t * a->k + k]) *
               matmul_weight(half, q8, a, (size_t)n * a->k + k);
    return (q8 ? sum * (double)a->scale[n] : sum) + (a->bias ? (double)a->bias[n] : 0);
}

void cuda_twin_matmul(enum model_dtype half, bool q8, const struct cuda_matmul_args *a)
{
    const uint32_t n_rows = a->logits ? a->counts->n_logits : a->counts->n_rows;
    for (uint32_t t = 0; t < n_rows; t++)
        for (uint32_t n = 0; n < a->n; n++) {
            const size_t at = (size_t)t * a->n + n;
            const double sum = matmul_sum(half, q8, a, t, n);
            switch ((enum cuda_after)a->after) {
            case CUDA_AFTER_HALF:
                ((uint16_t *)a->y)[at] = cuda_twin_narrow(half, sum);
                break;
            case CUDA_AFTER_GELU:
                ((uint16_t *)a->y)[at] = cuda_twin_narrow(half, cuda_twin_gelu_of(a->act, sum));
                break;
            case CUDA_AFTER_ADD:
                ((float *)a->y)[at] = (float)((double)((float *)a->y)[at] + sum);
                break;
            case CUDA_AFTER_F32:
                ((float *)a->y)[at] = (float)sum;
                break;
            }
        }
}

/* ---- exact ones ---- */

int cuda_twin_sample(const struct cuda_sample_args *a, struct base_error *err)
{
    struct model_sampler *sampler;
    const int rc = model_sampler_new(a->vocab, &sampler, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < a->counts->n_sample; i++) {
        const struct cuda_draw *draw = &a->draws[i];
        struct model_sampling how = model_sampling_default;
        struct model_sampled sampled;
        how.temperature = draw->temperature;
        how.top_k = draw->top_k;
        how.top_p = draw->top_p;
        how.min_p = draw->min_p;
        how.seed = draw->seed;
        const float *logits = a->logits + (size_t)i * a->vocab;
        const bool drawn = model_sampler_draw(sampler, &how, logits, NULL, 0, draw->draw, &sampled, NULL) == 0;
        a->tokens[i] = drawn ? sampled.id : -1;
    }
    model_sampler_free(sampler);
    return 0;
}

void cuda_twin_hash(const struct cuda_hash_args *a)
{
    for (uint64_t begin = 0; begin < a->n_bytes; begin += CUDA_HASH_BYTES) {
        const uint64_t left = a->n_bytes - begin;
        a->hashes[begin / CUDA_HASH_BYTES] =
            XXH3_64bits(a->bytes + begin, left < CUDA_HASH_BYTES ? left : CUDA_HASH_BYTES);
    }
}
