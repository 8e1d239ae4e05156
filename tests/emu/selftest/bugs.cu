/* bugs - kernels with one planted bug each, bug_NAME, and their correct twins, good_NAME. */
#include <cassert>
#include <stdint.h>

struct bug_args {
    const float *in;       /* [1024], initialised */
    float *out;            /* [1024], not initialised */
    const float *exact;    /* [96], initialised: the allocation ends there */
    float *read_only;      /* [64], initialised */
    float *unmapped;       /* [64] */
    float *host;           /* [64], of the host */
    const uint32_t *table; /* [8], blocks of 128 floats within in */
    uint32_t *word;        /* [4], zero */
    uint32_t n;            /* 64 */
};

#define PAIR(name)                                                                                                     \
    extern "C" __global__ void bug_##name(bug_args a)                                                                  \
    {                                                                                                                  \
        name<true>(a);                                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void good_##name(bug_args a)                                                                 \
    {                                                                                                                  \
        name<false>(a);                                                                                                \
    }
#define BODY(name) template <bool BUG> __device__ __forceinline__ void name(const bug_args &a)
#define ALL        0xffffffffu

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copy_16(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

/* --- order -------------------------------------------------------------------------------------------------------- */

BODY(missing_barrier)
{
    __shared__ float s[64];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    if (!BUG)
        __syncthreads();
    a.out[t] = s[63 - t];
}
PAIR(missing_barrier)

/* The second half of a loop: the buffer is filled again while others still read it. */
BODY(missing_barrier_before_reuse)
{
    __shared__ float s[64];
    const uint32_t t = threadIdx.x;
    float sum = 0;
    for (int k = 0; k < 3; k++) {
        s[t] = a.in[64 * k + t];
        __syncthreads();
        sum += s[(t + 32) % 64];
        if (!BUG)
            __syncthreads();
    }
    a.out[t] = sum;
}
PAIR(missing_barrier_before_reuse)

BODY(missing_syncwarp)
{
    __shared__ float s[32];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    if (!BUG)
        __syncwarp();
    a.out[t] = s[t ^ 1];
}
PAIR(missing_syncwarp)

/* A shuffle orders nothing in memory. */
BODY(shuffle_is_no_fence)
{
    __shared__ float s[32];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    const float x = __shfl_xor_sync(ALL, a.in[t], 4);
    if (!BUG)
        __syncwarp();
    a.out[t] = s[t ^ 8] + x;
}
PAIR(shuffle_is_no_fence)

BODY(half_warp_sync)
{
    __shared__ float s[32];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    if (t < 16)
        __syncwarp(0x0000ffffu);
    else
        __syncwarp(0xffff0000u);
    a.out[t] = s[BUG ? t ^ 16 : t ^ 8];
}
PAIR(half_warp_sync)

BODY(named_barrier)
{
    __shared__ float s[128];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    if (t < 64)
        asm volatile("bar.sync 1, 64;" ::: "memory");
    else
        asm volatile("bar.sync 2, 64;" ::: "memory");
    a.out[t] = s[BUG ? t ^ 64 : t ^ 32];
}
PAIR(named_barrier)

BODY(race_in_block)
{
    const uint32_t t = threadIdx.x;
    a.out[t] = a.in[t];
    if (!BUG)
        __syncthreads();
    a.out[64 + t] = a.out[t ^ 32];
}
PAIR(race_in_block)

BODY(race_between_blocks)
{
    if (threadIdx.x == 0)
        a.out[BUG ? 0 : blockIdx.x] = static_cast<float>(blockIdx.x);
}
PAIR(race_between_blocks)

BODY(reads_another_block)
{
    const uint32_t i = blockIdx.x * 64 + threadIdx.x;
    a.out[i] = a.in[i];
    __syncthreads();
    a.out[512 + i] = a.out[BUG ? (i + 64) % 256 : i];
}
PAIR(reads_another_block)

/* Read first, overwritten later, by different blocks. */
BODY(overwrites_what_was_read)
{
    float *x = const_cast<float *>(a.in);
    const uint32_t i = blockIdx.x * 64 + threadIdx.x;
    const float y = x[BUG ? (i + 1) % 256 : i];
    x[i] = y + 1;
}
PAIR(overwrites_what_was_read)

BODY(plain_beside_atomic)
{
    if (BUG && threadIdx.x == 5)
        a.word[0] = 1;
    else
        atomicAdd(a.word, 1u);
}
PAIR(plain_beside_atomic)

BODY(constant_load_of_written)
{
    const uint32_t t = threadIdx.x;
    a.out[t] = a.in[t];
    a.out[64 + t] = BUG ? __ldg(a.out + t) : a.out[t];
}
PAIR(constant_load_of_written)

/* --- lanes that wait for each other ------------------------------------------------------------------------------- */

BODY(shuffle_in_branch)
{
    const uint32_t t = threadIdx.x;
    float x = a.in[t];
    if (!BUG)
        x += __shfl_down_sync(ALL, x, 8);
    else if (t < 16)
        x += __shfl_down_sync(ALL, x, 8);
    else
        x += __shfl_up_sync(ALL, x, 8) * 2;
    a.out[t] = x;
}
PAIR(shuffle_in_branch)

BODY(shuffle_after_return)
{
    const uint32_t t = threadIdx.x;
    float x = a.in[t];
    if (BUG && t >= 20)
        return;
    x += __shfl_xor_sync(ALL, x, 1);
    if (t < 20)
        a.out[t] = x;
}
PAIR(shuffle_after_return)

BODY(lane_not_in_its_mask)
{
    const uint32_t t = threadIdx.x;
    float x = a.in[t];
    const uint32_t mask = t < 16 ? 0x0000ffffu : BUG ? 0x00ffffffu : 0xffff0000u;
    a.out[t] = __shfl_xor_sync(mask, x, 1);
}
PAIR(lane_not_in_its_mask)

BODY(masks_differ)
{
    const uint32_t t = threadIdx.x;
    a.out[t] = static_cast<float>(__ballot_sync(BUG && t == 3 ? 0x0000ffffu : ALL, a.in[t] > 0));
}
PAIR(masks_differ)

/* The good one reads lanes of its own mask only. */
BODY(shuffle_from_nobody)
{
    const uint32_t t = threadIdx.x;
    if (t < 24)
        a.out[t] = __shfl_xor_sync(0x00ffffffu, a.in[t], BUG ? 16 : 4);
}
PAIR(shuffle_from_nobody)

BODY(early_return)
{
    __shared__ float s[64];
    const uint32_t t = threadIdx.x;
    const bool in_range = t < a.n - 4;
    if (BUG && !in_range)
        return;
    s[t] = in_range ? a.in[t] : 0;
    __syncthreads();
    if (in_range)
        a.out[t] = s[t ^ 1];
}
PAIR(early_return)

BODY(early_return_of_a_warp)
{
    const uint32_t t = threadIdx.x;
    if (BUG && t >= 32)
        return;
    __syncthreads();
    a.out[t] = a.in[t];
}
PAIR(early_return_of_a_warp)

BODY(syncwarp_after_return)
{
    const uint32_t t = threadIdx.x;
    if (t == 9 && BUG)
        return;
    __syncwarp();
    a.out[t] = a.in[t];
}
PAIR(syncwarp_after_return)

BODY(barrier_in_branch)
{
    const uint32_t t = threadIdx.x;
    if (BUG && t % 2)
        asm volatile("bar.sync 0;" ::: "memory");
    else
        __syncthreads();
    a.out[t] = a.in[t];
}
PAIR(barrier_in_branch)

BODY(barrier_not_for_all)
{
    const uint32_t t = threadIdx.x;
    if (t < 32 || !BUG)
        asm volatile("bar.sync 3, 64;" ::: "memory");
    a.out[t] = a.in[t];
}
PAIR(barrier_not_for_all)

BODY(barrier_counts_differ)
{
    const uint32_t t = threadIdx.x;
    /* One instruction for all: synccheck takes two of the same barrier for divergence, however sound. */
    asm volatile("bar.sync 1, %0;" ::"r"(BUG && t >= 32 ? 96 : 64) : "memory");
    a.out[t] = a.in[t];
}
PAIR(barrier_counts_differ)

BODY(mma_in_branch)
{
    const uint32_t t = threadIdx.x;
    float d[4] = {0, 0, 0, 0};
    const uint32_t x = 0x3c003c00;
    if (!BUG || t < 31)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%4},{%4},{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(x));
    a.out[t] = d[0] + d[1] + d[2] + d[3];
}
PAIR(mma_in_branch)

/* --- bounds and alignment ----------------------------------------------------------------------------------------- */

BODY(shared_read_past_end)
{
    __shared__ float s[64], behind[64];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    behind[t] = 1;
    __syncthreads();
    a.out[t] = s[BUG ? t + 1 : (t + 1) % 64] + behind[t];
}
PAIR(shared_read_past_end)

BODY(shared_write_past_end)
{
    __shared__ float s[64], behind[64];
    const uint32_t t = threadIdx.x;
    behind[t] = 1;
    s[BUG ? t + 1 : t] = a.in[t];
    __syncthreads();
    a.out[t] = s[63 - t] + behind[63 - t];
}
PAIR(shared_write_past_end)

/* 256 bytes are asked for at the launch; the good one is content with them. */
BODY(dynamic_shared_too_small)
{
    extern __shared__ __align__(16) unsigned char dynamic[];
    float *s = reinterpret_cast<float *>(dynamic);
    const uint32_t t = threadIdx.x;
    s[BUG ? 2 * t : t] = a.in[t];
    a.out[t] = s[BUG ? 2 * t : t];
}
PAIR(dynamic_shared_too_small)

BODY(global_read_past_end)
{
    const uint32_t i = blockIdx.x * 64 + threadIdx.x;
    if (BUG ? i <= 96 : i < 96)
        a.out[i] = a.exact[i];
}
PAIR(global_read_past_end)

BODY(global_write_past_end)
{
    float *x = const_cast<float *>(a.exact);
    const uint32_t i = blockIdx.x * 64 + threadIdx.x;
    if (BUG ? i <= 96 : i < 96)
        x[i] = 1;
}
PAIR(global_write_past_end)

BODY(vector_across_the_end)
{
    const float4 *x = reinterpret_cast<const float4 *>(a.exact);
    const uint32_t t = threadIdx.x;
    if (t < (BUG ? 25 : 24))
        a.out[t] = x[t].w;
}
PAIR(vector_across_the_end)

BODY(index_wraps_at_32_bits)
{
    const uint32_t blocks = 1u << 20, stride = 1u << 13;
    const int32_t narrow = static_cast<int32_t>((threadIdx.x + blocks - 1) * stride);
    const int64_t wide = static_cast<int64_t>(threadIdx.x) * 8;
    a.out[threadIdx.x] = a.in[BUG ? narrow : wide];
}
PAIR(index_wraps_at_32_bits)

BODY(block_table_one_too_far)
{
    const uint32_t t = threadIdx.x;
    for (uint32_t b = 0; BUG ? b <= 8 : b < 8; b++)
        a.out[b % 8 * 64 + t] = a.in[a.table[b] * 128 + t];
}
PAIR(block_table_one_too_far)

BODY(local_past_end)
{
    const uint32_t t = threadIdx.x;
    float x[16];
    for (uint32_t k = 0; k < 16; k++)
        x[(k * 3 + a.n) % 16] = a.in[k];
    a.out[t] = x[BUG ? t % 32 : t % 16];
}
PAIR(local_past_end)

BODY(misaligned_vector)
{
    const uint32_t t = threadIdx.x;
    const float4 x = *reinterpret_cast<const float4 *>(a.in + (BUG ? 4 * t + 2 : 4 * t));
    a.out[t] = x.x + x.w;
}
PAIR(misaligned_vector)

BODY(misaligned_shared_vector)
{
    __shared__ __align__(16) float s[64 + 8];
    const uint32_t t = threadIdx.x;
    s[t] = a.in[t];
    if (t < 8)
        s[64 + t] = 0;
    __syncthreads();
    const float2 x = *reinterpret_cast<const float2 *>(s + (BUG ? t : t / 2 * 2));
    a.out[t] = x.x + x.y;
}
PAIR(misaligned_shared_vector)

/* Rows of 8 halves, 24 bytes apart: every other one begins on a border of 16. */
BODY(ldmatrix_misaligned_row)
{
    __shared__ __align__(16) uint16_t s[8 * 16];
    const uint32_t t = threadIdx.x;
    for (uint32_t i = t; i < 128; i += 32)
        s[i] = static_cast<uint16_t>(i);
    __syncwarp();
    uint32_t r;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r)
                 : "r"(shared_address(s + t % 8 * (BUG ? 12 : 16))));
    a.out[t] = static_cast<float>(r);
}
PAIR(ldmatrix_misaligned_row)

BODY(ldmatrix_past_end)
{
    __shared__ __align__(16) uint16_t s[16 * 16];
    const uint32_t t = threadIdx.x;
    for (uint32_t i = t; i < 256; i += 32)
        s[i] = static_cast<uint16_t>(i);
    __syncwarp();
    uint32_t r[4];
    const uint16_t *row = s + (t % 16 + (BUG ? 1 : 0)) * 16 + t / 16 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
    a.out[t] = static_cast<float>(r[0] + r[1] + r[2] + r[3]);
}
PAIR(ldmatrix_past_end)

BODY(use_after_unmap)
{
    a.out[threadIdx.x] = BUG ? a.unmapped[threadIdx.x] : a.in[threadIdx.x];
}
PAIR(use_after_unmap)

BODY(host_pointer)
{
    (BUG ? a.host : a.out)[threadIdx.x] = a.in[threadIdx.x];
}
PAIR(host_pointer)

BODY(null_pointer)
{
    a.out[threadIdx.x] = BUG ? reinterpret_cast<const float *>(a.n - 64)[threadIdx.x] : 1.0f;
}
PAIR(null_pointer)

BODY(store_to_read_only)
{
    (BUG ? a.read_only : a.out)[threadIdx.x] = a.read_only[threadIdx.x] + 1;
}
PAIR(store_to_read_only)

/* --- what was never written --------------------------------------------------------------------------------------- */

BODY(shared_uninitialised)
{
    __shared__ float s[64];
    const uint32_t t = threadIdx.x;
    if (!BUG || t != 17)
        s[t] = a.in[t];
    __syncthreads();
    a.out[t] = s[63 - t];
}
PAIR(shared_uninitialised)

BODY(global_uninitialised)
{
    a.out[threadIdx.x] = BUG ? a.out[512 + threadIdx.x] : a.in[threadIdx.x];
}
PAIR(global_uninitialised)

BODY(local_uninitialised)
{
    const uint32_t t = threadIdx.x;
    float x[16];
    for (uint32_t k = 0; k < (BUG ? 15 : 16); k++)
        x[(k * 3 + a.n) % 16] = a.in[k];
    a.out[t] = x[t % 16];
}
PAIR(local_uninitialised)

/* --- asynchronous copies ------------------------------------------------------------------------------------------ */

BODY(copy_unwaited)
{
    __shared__ __align__(16) float s[4 * 64];
    const uint32_t t = threadIdx.x;
    copy_16(s + 4 * t, a.in + 4 * t);
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (!BUG)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    a.out[t] = s[4 * (63 - t)];
}
PAIR(copy_unwaited)

BODY(copy_waited_for_too_few)
{
    __shared__ __align__(16) float s[2][4 * 64];
    const uint32_t t = threadIdx.x;
    for (int k = 0; k < 2; k++) {
        copy_16(s[k] + 4 * t, a.in + 256 * k + 4 * t);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    a.out[t] = s[BUG ? 1 : 0][4 * (63 - t)];
    asm volatile("cp.async.wait_all;" ::: "memory");
}
PAIR(copy_waited_for_too_few)

BODY(copy_not_committed)
{
    __shared__ __align__(16) float s[4 * 64];
    const uint32_t t = threadIdx.x;
    copy_16(s + 4 * t, a.in + 4 * t);
    if (!BUG)
        asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    a.out[t] = s[4 * (63 - t)];
}
PAIR(copy_not_committed)

BODY(copy_without_barrier)
{
    __shared__ __align__(16) float s[4 * 64];
    const uint32_t t = threadIdx.x;
    copy_16(s + 4 * t, a.in + 4 * t);
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (!BUG)
        __syncthreads();
    a.out[t] = s[4 * (63 - t)];
}
PAIR(copy_without_barrier)

/* The next tile comes in while the last one is still being read. */
BODY(copy_over_what_is_read)
{
    __shared__ __align__(16) float s[4 * 64];
    const uint32_t t = threadIdx.x;
    float sum = 0;
    copy_16(s + 4 * t, a.in + 4 * t);
    for (int k = 1; k < 3; k++) {
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        sum += s[4 * (63 - t)];
        if (!BUG)
            __syncthreads();
        copy_16(s + 4 * t, a.in + 256 * k + 4 * t);
    }
    a.out[t] = sum;
    asm volatile("cp.async.wait_all;" ::: "memory");
}
PAIR(copy_over_what_is_read)

/* --- ends --------------------------------------------------------------------------------------------------------- */

BODY(never_ends)
{
    volatile float *x = a.out;
    x[threadIdx.x] = 1;
    while (x[threadIdx.x] < (BUG ? 3 : 1))
        ;
}
PAIR(never_ends)

BODY(failed_assert)
{
    assert(a.in[threadIdx.x] >= (BUG ? 1.0f : -1e30f));
}
PAIR(failed_assert)

BODY(trapped)
{
    if (BUG && threadIdx.x == 63)
        __trap();
}
PAIR(trapped)
