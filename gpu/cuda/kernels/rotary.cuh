/* rotary - rotates the first R of D dims of q and k, and moves k and v to where attention reads them. */
#ifndef ROUSE_GPU_CUDA_ROTARY_CUH
#define ROUSE_GPU_CUDA_ROTARY_CUH

#include "gpu/cuda/kernels/half.cuh"

/* Dim `dim` of a q or k, rotated. all: its dims, before. */
template <typename T>
static __device__ __forceinline__ float rotary_turn(float x, const uint16_t *all, uint32_t dim, uint32_t half,
                                                    const float *cos, const float *sin)
{
    const bool second = dim >= half;
    const uint32_t angle = second ? dim - half : dim;
    const float product = __fmul_rn(T::widen(all[second ? angle : dim + half]), sin[angle]);
    return __fmaf_rn(x, cos[angle], second ? product : -product);
}

/* Dims `dim` to `dim` + 7. Their partners need not lie in one segment, nor in the same places of it: R/2 may be any number. */
template <typename T>
static __device__ __forceinline__ uint4 rotary_segment(const uint4 &segment, const uint16_t *all, uint32_t dim,
                                                       uint32_t rotary_dims, const float *cos, const float *sin)
{
    const uint32_t half = rotary_dims / 2;
    uint32_t pairs[4] = {segment.x, segment.y, segment.z, segment.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t d = dim + 2 * i;
        const float2 x = T::widen2(pairs[i]);
        if (d < rotary_dims) /* R is even, so that the next one rotates too */
            pairs[i] = T::narrow2(rotary_turn<T>(x.x, all, d, half, cos, sin),
                                  rotary_turn<T>(x.y, all, d + 1, half, cos, sin));
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

/* Each thread one 16-byte segment of one row's [heads][3][D], contiguous in qkv. q is written where it was read, by other
 * threads too, hence the copy in shared memory. */
template <typename T> static __device__ __forceinline__ void rotary_kernel(const cuda_rotary_args &a)
{
    __shared__ uint4 segments[CUDA_ROTARY_THREADS];
    const uint32_t row = blockIdx.x, thread = threadIdx.x, d = a.head_dim;
    if (row >= a.counts->n_rows)
        return;
    const uint32_t per_head = 3 * d / 8, n_heads = cuda_rotary_heads(d);
    const uint32_t head = blockIdx.y * n_heads + thread / per_head, which = thread % per_head / (d / 8);
    const uint32_t dim = thread % (d / 8) * 8;
    const bool has = thread < n_heads * per_head && head < a.n_heads;
    const uint32_t position = a.positions[row];
    uint16_t *qkv = a.qkv + ((uint64_t)row * a.n_heads + blockIdx.y * n_heads) * 3 * d + thread * 8;
    uint4 segment = make_uint4(0, 0, 0, 0);
    if (has)
        segments[thread] = segment = *(const uint4 *)qkv;
    __syncthreads();
    if (!has)
        return;

    if (which < 2 && dim < a.rotary_dims) {
        const uint64_t angles = (uint64_t)position * (a.rotary_dims / 2);
        const uint16_t *all = (const uint16_t *)segments + (thread - dim / 8) * 8;
        segment = rotary_segment<T>(segment, all, dim, a.rotary_dims, a.cos + angles, a.sin + angles);
        if (which == 0)
            store_16(qkv, segment);
    }
    if (which == 0)
        return;
    const uint32_t block = a.blocks[(uint64_t)a.slots[row] * a.blocks_stride + position / CUDA_BLOCK_TOKENS];
    const uint64_t line = ((uint64_t)block * 2 + which - 1) * a.n_heads + head; /* of [n_blocks][2][H] */
    store_16(a.kv + (line * CUDA_BLOCK_TOKENS + position % CUDA_BLOCK_TOKENS) * d + dim, segment);
}

#endif
