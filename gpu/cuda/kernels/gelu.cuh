/* gelu - x times the normal distribution's share below x: exactly (erf), or by tanh as GPT-NeoX-20b was trained.
 *
 * Multiply-adds are spelled out, so that the compiler cannot fuse them one way in one kernel and another way in the next:
 * the kernel here and matmul's end give the same bits for the same f32. */
#ifndef ROUSE_GPU_CUDA_GELU_CUH
#define ROUSE_GPU_CUDA_GELU_CUH

#include "half.cuh"

/* erfc(a / sqrt(2)) / 2, the share above a >= 0; relative error 1.5e-6 for a < 4, 2e-5 at 8; erf is off by 2^-23 at most.
 * 2^(-a P(a)) with P from fit_gelu.py. Behind 8 it is below 7e-16, and 0 here. */
static __device__ __forceinline__ float gelu_tail(float a)
{
    float p = 9.50157314e-11f;
    p = fmaf(p, a, -5.06174391e-09f);
    p = fmaf(p, a, 1.20059553e-07f);
    p = fmaf(p, a, -1.66666462e-06f);
    p = fmaf(p, a, 1.48784211e-05f);
    p = fmaf(p, a, -8.65912371e-05f);
    p = fmaf(p, a, 0.000289987016f);
    p = fmaf(p, a, 1.08101503e-05f);
    p = fmaf(p, a, -0.00698645785f);
    p = fmaf(p, a, 0.0524799488f);
    p = fmaf(p, a, 0.459205806f);
    p = fmaf(p, a, 1.151106f);
    return a < 8.0f ? __fmul_rn(0.5f, exp2_fast(__fmul_rn(-a, p))) : 0.0f;
}

static __device__ __forceinline__ float gelu_erf(float x)
{
    const float tail = gelu_tail(fabsf(x));
    return __fmul_rn(x, x > 0.0f ? __fadd_rn(1.0f, -tail) : tail);
}

/* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x / (1 + e^(-2 sqrt(2 / pi) (x + 0.044715 x^3))), which cancels nowhere. */
static __device__ __forceinline__ float gelu_tanh(float x)
{
    const float linear = -2.30220819f, cubic = -0.102943240f; /* -2 sqrt(2 / pi) log2(e), and 0.044715 times it */
    const float exponent = __fmul_rn(x, fmaf(cubic, __fmul_rn(x, x), linear));
    return __fdividef(x, __fadd_rn(1.0f, exp2_fast(exponent)));
}

static __device__ __forceinline__ float gelu_of(uint32_t act, float x)
{
    return act == CUDA_ACT_GELU_TANH ? gelu_tanh(x) : gelu_erf(x);
}

template <class half> static __device__ __forceinline__ uint32_t gelu_pair(uint32_t act, uint32_t pair)
{
    const float2 x = half::widen2(pair);
    return half::narrow2(gelu_of(act, x.x), gelu_of(act, x.y));
}

template <class half> static __device__ __forceinline__ void gelu_kernel(const struct cuda_gelu_args &a)
{
    if (blockIdx.x >= a.counts->n_rows)
        return;
    uint4 *row = (uint4 *)(a.x + (size_t)blockIdx.x * a.f);
    for (uint32_t i = blockIdx.y * CUDA_ROW_THREADS + threadIdx.x; i < a.f / 8; i += gridDim.y * CUDA_ROW_THREADS) {
        const uint4 v = row[i];
        store_16(row + i, make_uint4(gelu_pair<half>(a.act, v.x), gelu_pair<half>(a.act, v.y),
                                     gelu_pair<half>(a.act, v.z), gelu_pair<half>(a.act, v.w)));
    }
}

#endif
