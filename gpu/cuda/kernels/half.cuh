/* half - the two 16-bit types that a model computes in, and the instructions of sm_80 that the kernels are made of.
 *
 * A kernel is a template over `f16` or `bf16`, which carry what differs. Storage is uint16_t, or uint32_t for a pair with the
 * lower index in the lower half. No header of the toolkit is needed, so that NVRTC compiles the same text. */
#ifndef ROUSE_GPU_CUDA_HALF_CUH
#define ROUSE_GPU_CUDA_HALF_CUH

#include "gpu/cuda/kernel_args.h"

#define WARP_ALL 0xffffffffu

/* ---- the types ----
 *
 * narrow rounds to nearest even, once. mma: d += a b, of 16 x 16 by 16 x 8, sums in f32. With g = lane / 4, c = lane % 4:
 *   a[0] (row g,     k 2c 2c+1)   a[1] (row g + 8, k 2c 2c+1)   a[2] (row g, k 2c+8 2c+9)   a[3] (row g + 8, k 2c+8 2c+9)
 *   b[0] (k 2c 2c+1, column g)    b[1] (k 2c+8 2c+9, column g)
 *   d[0] (row g, column 2c)   d[1] (row g, column 2c+1)   d[2] (row g + 8, column 2c)   d[3] (row g + 8, column 2c+1) */

struct f16 {
    static __device__ __forceinline__ float widen(uint16_t h)
    {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
        return x;
    }

    static __device__ __forceinline__ uint16_t narrow(float x)
    {
        uint16_t h;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
        return h;
    }

    static __device__ __forceinline__ float2 widen2(uint32_t pair)
    {
        return make_float2(widen((uint16_t)(pair & 0xffff)), widen((uint16_t)(pair >> 16)));
    }

    static __device__ __forceinline__ uint32_t narrow2(float low, float high)
    {
        uint32_t pair;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
        return pair;
    }

    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct bf16 {
    static __device__ __forceinline__ float widen(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }

    static __device__ __forceinline__ uint16_t narrow(float x)
    {
        uint16_t h;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
        return h;
    }

    static __device__ __forceinline__ float2 widen2(uint32_t pair)
    {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    }

    static __device__ __forceinline__ uint32_t narrow2(float low, float high)
    {
        uint32_t pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
        return pair;
    }

    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
    {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

/* ---- arithmetic ---- */

/* 2^x, at most 2 units in the last place off; 2^0 is 1, 2^-infinity is 0. Results below 2^-126 are 0. */
static __device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float minus_infinity(void)
{
    return __uint_as_float(0xff800000u);
}

/* ---- 16 bytes at a time ---- */

/* From memory that nobody writes while this kernel runs. */
static __device__ __forceinline__ uint4 load_16(const void *from)
{
    uint4 v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

static __device__ __forceinline__ void store_16(void *to, uint4 v)
{
    *(uint4 *)to = v;
}

/* A shared address as the instructions below take it. */
static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, asynchronously; zeros, and `from` is not read, when !wanted. */
static __device__ __forceinline__ void copy_16(uint32_t to_shared, const void *from, bool wanted)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(to_shared), "l"(from), "r"(wanted ? 16 : 0)
                 : "memory");
}

/* Ends a group of this thread's copies; a group may be empty. */
static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

/* Until at most n_pending of this thread's groups are on their way. Others see the bytes after a barrier. */
template <int n_pending> static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" : : "n"(n_pending) : "memory");
}

/* Four 8 x 8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8, and gets (row lane / 4, columns
 * 2 (lane % 4) and the next) of each; transposed: (rows 2 (lane % 4) and the next, column lane / 4). */
static __device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t row_shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row_shared)
                 : "memory");
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&m)[4], uint32_t row_shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(row_shared)
                 : "memory");
}

#endif
