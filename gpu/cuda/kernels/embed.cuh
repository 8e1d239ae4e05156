/* embed - rows of the embedding, widened: where the residual begins. */
#ifndef ROUSE_GPU_CUDA_EMBED_CUH
#define ROUSE_GPU_CUDA_EMBED_CUH

#include "half.cuh"

/* 8 bytes in, 16 out, for each thread: so both sides of a warp are one run of bytes; 16 in would make its two stores skip. */
template <class half> static __device__ __forceinline__ void embed_kernel(const struct cuda_embed_args &a)
{
    if (blockIdx.x >= a.counts->n_rows)
        return;
    const uint2 *from = (const uint2 *)(a.embedding + (size_t)(uint32_t)a.tokens[blockIdx.x] * a.e);
    float4 *to = (float4 *)(a.x + (size_t)blockIdx.x * a.e);
    for (uint32_t i = threadIdx.x; i < a.e / 4; i += CUDA_ROW_THREADS) {
        const uint2 pairs = __ldg(from + i);
        const float2 low = half::widen2(pairs.x), high = half::widen2(pairs.y);
        to[i] = make_float4(low.x, low.y, high.x, high.y);
    }
}

#endif
