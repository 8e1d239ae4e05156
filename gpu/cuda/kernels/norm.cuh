/* norm - LayerNorm of a row, or both LayerNorms of a parallel residual: x is read once and stays in registers.
 *
 * Mean first, then the variance of what is left: a sum of squares would lose what a large mean hides. */
#ifndef ROUSE_GPU_CUDA_NORM_CUH
#define ROUSE_GPU_CUDA_NORM_CUH

#include "half.cuh"

enum {
    NORM_WARPS = CUDA_ROW_THREADS / CUDA_WARP,
    NORM_KEPT = 6 /* 16-byte pieces of a row in each thread: E up to 6144. What lies behind is read again,
                     in loops that are not unrolled, since the models that there are have none */
};

/* The block's sum, the same bits in every thread. parts is used once. */
static __device__ __forceinline__ float norm_block_sum(float v, float (&parts)[NORM_WARPS])
{
    for (int step = CUDA_WARP / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(WARP_ALL, v, step);
    if (threadIdx.x % CUDA_WARP == 0)
        parts[threadIdx.x / CUDA_WARP] = v;
    __syncthreads();
    v = parts[0];
    for (int warp = 1; warp < NORM_WARPS; warp++)
        v += parts[warp];
    return v;
}

static __device__ __forceinline__ float norm_sum4(float4 v)
{
    return (v.x + v.y) + (v.z + v.w);
}

static __device__ __forceinline__ float4 norm_centre(float4 v, float mean)
{
    return make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
}

static __device__ __forceinline__ float norm_squares4(float4 v)
{
    return (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
}

/* v: centred. */
template <class half>
static __device__ __forceinline__ void norm_write(const float *gain, const float *bias, uint16_t *y, uint32_t i,
                                                  float4 v, float scale)
{
    const float4 g = __ldg((const float4 *)gain + i), b = __ldg((const float4 *)bias + i);
    ((uint2 *)y)[i] = make_uint2(half::narrow2(fmaf(v.x * scale, g.x, b.x), fmaf(v.y * scale, g.y, b.y)),
                                 half::narrow2(fmaf(v.z * scale, g.z, b.z), fmaf(v.w * scale, g.w, b.w)));
}

template <class half> static __device__ __forceinline__ void norm_kernel(const struct cuda_norm_args &a)
{
    __shared__ float sums[NORM_WARPS], squares[NORM_WARPS];
    if (blockIdx.x >= (a.rows ? a.counts->n_logits : a.counts->n_rows))
        return;
    const uint32_t n = a.e / 4, behind = threadIdx.x + NORM_KEPT * CUDA_ROW_THREADS;
    const size_t from = a.rows ? a.rows[blockIdx.x] : blockIdx.x, to = blockIdx.x;
    const float4 *x = (const float4 *)(a.x + from * a.e);
    float4 kept[NORM_KEPT];
    float sum = 0, square = 0;

#pragma unroll
    for (uint32_t j = 0; j < NORM_KEPT; j++) {
        const uint32_t i = threadIdx.x + j * CUDA_ROW_THREADS;
        kept[j] = i < n ? __ldg(x + i) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (uint32_t j = 0; j < NORM_KEPT; j++)
        sum += norm_sum4(kept[j]);
#pragma unroll 1
    for (uint32_t i = behind; i < n; i += CUDA_ROW_THREADS)
        sum += norm_sum4(__ldg(x + i));
    const float mean = norm_block_sum(sum, sums) / (float)a.e;

#pragma unroll
    for (uint32_t j = 0; j < NORM_KEPT; j++) {
        kept[j] = norm_centre(kept[j], mean);
        square += threadIdx.x + j * CUDA_ROW_THREADS < n ? norm_squares4(kept[j]) : 0.0f;
    }
#pragma unroll 1
    for (uint32_t i = behind; i < n; i += CUDA_ROW_THREADS)
        square += norm_squares4(norm_centre(__ldg(x + i), mean));
    const float scale = 1.0f / sqrtf(norm_block_sum(square, squares) / (float)a.e + a.eps);

#pragma unroll
    for (uint32_t j = 0; j < NORM_KEPT; j++) {
        const uint32_t i = threadIdx.x + j * CUDA_ROW_THREADS;
        if (i < n) {
            norm_write<half>(a.gain1, a.bias1, a.y1 + to * a.e, i, kept[j], scale);
            if (a.y2)
                norm_write<half>(a.gain2, a.bias2, a.y2 + to * a.e, i, kept[j], scale);
        }
    }
#pragma unroll 1
    for (uint32_t i = behind; i < n; i += CUDA_ROW_THREADS) {
        const float4 v = norm_centre(__ldg(x + i), mean);
        norm_write<half>(a.gain1, a.bias1, a.y1 + to * a.e, i, v, scale);
        if (a.y2)
            norm_write<half>(a.gain2, a.bias2, a.y2 + to * a.e, i, v, scale);
    }
}

#endif
