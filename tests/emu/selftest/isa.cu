/* isa - the kernels of the ISA comparison: one instruction each (isa_cases.h), and those that need a warp or memory. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define ASM(text, ...)   asm volatile(text : __VA_ARGS__)
#define F16_TO_FLOAT(x)  __half2float(__half(__half_raw{x}))
#define BF16_TO_FLOAT(x) __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{x}))

struct case_args {
    const void *x, *y, *z;
    void *r;
    uint32_t n;
};

#define KERNEL(name, R, loads, instruction)                                                                            \
    extern "C" __global__ void isa_##name(case_args a)                                                                 \
    {                                                                                                                  \
        uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;                                                            \
        if (i >= a.n)                                                                                                  \
            return;                                                                                                    \
        loads;                                                                                                         \
        R r;                                                                                                           \
        instruction;                                                                                                   \
        static_cast<R *>(a.r)[i] = r;                                                                                  \
    }
#define LOAD(x, X)                                         X x = static_cast<const X *>(a.x)[i]
#define CASE1(name, R, X, compare, instruction, expect)    KERNEL(name, R, LOAD(x, X), instruction)
#define CASE2(name, R, X, Y, compare, instruction, expect) KERNEL(name, R, LOAD(x, X); LOAD(y, Y), instruction)
#define CASE3(name, R, X, Y, Z, compare, instruction, expect)                                                          \
    KERNEL(name, R, LOAD(x, X); LOAD(y, Y); LOAD(z, Z), instruction)

#include "isa_cases.h"

/* --- lanes -------------------------------------------------------------------------------------------------------- */

struct lane_args {
    const uint32_t *in; /* [32] */
    uint32_t *out;      /* [n][32] */
};

extern "C" __global__ void lanes(lane_args a)
{
    const uint32_t all = 0xffffffffu, l = threadIdx.x, x = a.in[l];
    uint32_t *out = a.out + l;
    int k = 0;
    auto put = [&](uint32_t value) { out[32 * k++] = value; };
    put(__shfl_sync(all, x, l * 7 + 3));
    put(__shfl_sync(all, x, 5, 8));
    put(__shfl_up_sync(all, x, 3));
    put(__shfl_up_sync(all, x, 2, 8));
    put(__shfl_down_sync(all, x, 5));
    put(__shfl_down_sync(all, x, 1, 4));
    put(__shfl_xor_sync(all, x, 21));
    put(__shfl_xor_sync(all, x, 5, 16));
    put(__ballot_sync(all, x & 1));
    put(__any_sync(all, x == 77));
    put(__all_sync(all, x < 1000));
    put(__match_any_sync(all, x & 3));
    int same;
    put(__match_all_sync(all, x >> 20, &same));
    put(same);
    put(__reduce_add_sync(all, x));
    put(__reduce_min_sync(all, static_cast<int>(x << 30)));
    put(__reduce_max_sync(all, x));
    put(__reduce_and_sync(all, x | 8));
    put(__reduce_or_sync(all, x));
    put(__reduce_xor_sync(all, x));
    if (l < 16)
        put(__shfl_xor_sync(0x0000ffffu, x, 1) + __activemask());
    else
        put(__shfl_xor_sync(0xffff0000u, x, 2) - __activemask());
    uint32_t in_range;
    asm volatile("{ .reg .pred p; shfl.sync.down.b32 %0|p, %1, 4, 0x1f, -1; selp.u32 %0, 1, 0, p; }"
                 : "=r"(in_range)
                 : "r"(x));
    put(in_range);
    uint32_t lt, ge;
    asm volatile("mov.u32 %0, %%lanemask_lt; mov.u32 %1, %%lanemask_ge;" : "=r"(lt), "=r"(ge));
    put(lt ^ ge << 1);
}

/* --- matrices ----------------------------------------------------------------------------------------------------- */

struct matrix_args {
    const uint16_t *a; /* [16][16] */
    const uint16_t *b; /* [8][16]: columns of B */
    const float *c;    /* [16][8] */
    float *d;
    const int8_t *a8; /* [16][32] */
    const int8_t *b8; /* [8][32] */
    int32_t *d8;      /* [16][8] */
    uint16_t *d16;    /* [16][8] */
    uint16_t *moved;  /* [8][8] */
};

/* A and B through shared memory and ldmatrix. TRANS: B lies in shared memory by rows, and ldmatrix turns it. */
template <bool BF16, int K, bool TRANS> __device__ void matrix(const matrix_args &m)
{
    __shared__ __align__(16) uint16_t a[16][16], b[16][16];
    const uint32_t l = threadIdx.x;
    for (uint32_t i = l; i < 256; i += 32)
        a[i / 16][i % 16] = m.a[i];
    for (uint32_t i = l; i < 128; i += 32)
        (TRANS ? b[i % 16][i / 16] : b[i / 16][i % 16]) = m.b[i];
    __syncwarp();
    uint32_t ra[4], rb[2];
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(&a[l % 16][l / 16 * 8]));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
                 : "r"(at));
    const uint16_t *row = TRANS ? &b[l % 16][0] : &b[l % 8][l / 8 % 2 * 8];
    at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(rb[0]), "=r"(rb[1])
                     : "r"(at));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(rb[0]), "=r"(rb[1]) : "r"(at));
    const uint32_t g = l / 4, t = l % 4;
    float d[4] = {m.c[g * 8 + 2 * t], m.c[g * 8 + 2 * t + 1], m.c[(g + 8) * 8 + 2 * t], m.c[(g + 8) * 8 + 2 * t + 1]};
#define MMA16(t)                                                                                                       \
    "mma.sync.aligned.m16n8k16.row.col.f32." t "." t ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
#define MMA8(t) "mma.sync.aligned.m16n8k8.row.col.f32." t "." t ".f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
#define SUMS    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define ALL_A   "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1])
#define HALF_A  "r"(ra[0]), "r"(ra[1]), "r"(rb[0])
    if (K == 16 && BF16)
        asm volatile(MMA16("bf16") : SUMS : ALL_A);
    else if (K == 16)
        asm volatile(MMA16("f16") : SUMS : ALL_A);
    else if (BF16)
        asm volatile(MMA8("bf16") : SUMS : HALF_A);
    else
        asm volatile(MMA8("f16") : SUMS : HALF_A);
    m.d[g * 8 + 2 * t] = d[0];
    m.d[g * 8 + 2 * t + 1] = d[1];
    m.d[(g + 8) * 8 + 2 * t] = d[2];
    m.d[(g + 8) * 8 + 2 * t + 1] = d[3];
}

extern "C" __global__ void matrix_f16_k16(matrix_args m)
{
    matrix<false, 16, false>(m);
}
extern "C" __global__ void matrix_f16_k16_trans(matrix_args m)
{
    matrix<false, 16, true>(m);
}
extern "C" __global__ void matrix_f16_k8(matrix_args m)
{
    matrix<false, 8, false>(m);
}
extern "C" __global__ void matrix_bf16_k16(matrix_args m)
{
    matrix<true, 16, false>(m);
}
extern "C" __global__ void matrix_bf16_k8(matrix_args m)
{
    matrix<true, 8, false>(m);
}

/* Fragments straight from memory: 32-bit words, four bytes or two halves. */
extern "C" __global__ void matrix_words(matrix_args m)
{
    const uint32_t l = threadIdx.x, g = l / 4, t = l % 4;
    auto word = [](const void *p, uint32_t i) { return static_cast<const uint32_t *>(p)[i]; };
    uint32_t a[4] = {word(m.a8, g * 8 + t), word(m.a8, (g + 8) * 8 + t), word(m.a8, g * 8 + t + 4),
                     word(m.a8, (g + 8) * 8 + t + 4)};
    uint32_t b[2] = {word(m.b8, g * 8 + t), word(m.b8, g * 8 + t + 4)};
    int d[4] = {1, 2, 3, 4};
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    for (int k = 0; k < 4; k++)
        m.d8[(g + k / 2 * 8) * 8 + 2 * t + k % 2] = d[k];
    uint32_t h[4] = {word(m.a, g * 8 + t), word(m.a, (g + 8) * 8 + t), word(m.a, g * 8 + t + 4),
                     word(m.a, (g + 8) * 8 + t + 4)};
    uint32_t hb[2] = {word(m.b, g * 8 + t), word(m.b, g * 8 + t + 4)}, hd[2];
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3,%4,%5},{%6,%7},{%8,%8};"
                 : "=r"(hd[0]), "=r"(hd[1])
                 : "r"(h[0]), "r"(h[1]), "r"(h[2]), "r"(h[3]), "r"(hb[0]), "r"(hb[1]), "r"(0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3},{%4},{%0,%1};"
                 : "+r"(hd[0]), "+r"(hd[1])
                 : "r"(h[0]), "r"(h[1]), "r"(hb[0]));
    reinterpret_cast<uint32_t *>(m.d16)[g * 4 + t] = hd[0];
    reinterpret_cast<uint32_t *>(m.d16)[(g + 8) * 4 + t] = hd[1];
    uint32_t moved;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(moved) : "r"(hb[0]));
    reinterpret_cast<uint32_t *>(m.moved)[l] = moved;
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

struct memory_args {
    const uint8_t *in;  /* [4096] */
    uint8_t *out;       /* [4096] */
    uint32_t *counters; /* [16] */
    uint32_t n;
};

__constant__ uint32_t constant_words[4] = {11, 22, 33, 44};
__device__ uint32_t device_word = 5;

/* 64 threads: copies of every width, signs, vectors, cp.async of every size with every count of bytes read. */
extern "C" __global__ void memory_widths(memory_args m)
{
    extern __shared__ __align__(16) uint8_t dynamic[];
    __shared__ uint16_t halves[64];
    const uint32_t t = threadIdx.x;
    m.out[t] = m.in[t];
    reinterpret_cast<int32_t *>(m.out)[64 + t] =
        static_cast<int8_t>(m.in[t]) + reinterpret_cast<const int16_t *>(m.in)[t];
    reinterpret_cast<uint2 *>(m.out)[64 + t] = reinterpret_cast<const uint2 *>(m.in)[t];
    reinterpret_cast<uint4 *>(m.out)[64 + t] = reinterpret_cast<const uint4 *>(m.in)[t];
    halves[t] = static_cast<uint16_t>(t * 3);
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(dynamic)) + 32 * t;
    const uint8_t *from = m.in + 16 * t;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(t % 17));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to + 16), "l"(from));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to + 24), "l"(from), "r"(t % 5));
    asm volatile("{ .reg .pred p; setp.eq.u32 p, %2, 3; cp.async.ca.shared.global [%0], [%1], 4, p; }" ::"r"(to + 28),
                 "l"(from), "r"(t));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    reinterpret_cast<uint2 *>(m.out + 2048)[2 * t] = *reinterpret_cast<const uint2 *>(dynamic + 32 * t);
    asm volatile("cp.async.wait_all;");
    __syncthreads();
    reinterpret_cast<uint2 *>(m.out + 2048)[2 * t + 1] = *reinterpret_cast<const uint2 *>(dynamic + 32 * (63 - t) + 24);
    uint8_t local[16];
    for (uint32_t i = 0; i < 16; i++)
        local[(i * 5 + m.n) % 16] = static_cast<uint8_t>(i + t);
    reinterpret_cast<uint16_t *>(m.out)[1536 + t] = halves[63 - t] + local[t % 16];
    reinterpret_cast<uint32_t *>(m.out)[960 + t] = constant_words[t % 4] + device_word;
}

/* Any number of blocks of 64 threads. */
extern "C" __global__ void memory_atomics(memory_args m)
{
    __shared__ uint32_t sum;
    const uint32_t t = threadIdx.x, i = blockIdx.x * 64 + t;
    if (t == 0)
        sum = 0;
    __syncthreads();
    atomicAdd(&sum, t);
    atomicAdd(&m.counters[0], 1u);
    atomicMin(reinterpret_cast<int *>(&m.counters[1]), static_cast<int>(i) - 100);
    atomicMax(&m.counters[2], i);
    atomicOr(&m.counters[3], 1u << (i % 32));
    atomicXor(&m.counters[4], i);
    atomicInc(&m.counters[5], 9);
    atomicAnd(&m.counters[6], ~(1u << (i % 7)));
    atomicAdd(reinterpret_cast<float *>(&m.counters[7]), 0.5f);
    atomicCAS(&m.counters[8], i, i + 1);
    atomicDec(&m.counters[9], 6);
    atomicAdd(reinterpret_cast<unsigned long long *>(&m.counters[10]), 1ull << 31);
    __syncthreads();
    if (t == 0)
        atomicAdd(&m.counters[12], sum);
    int odd = __syncthreads_count(t & 1), all = __syncthreads_and(t < 64), some = __syncthreads_or(t == 64);
    if (t == 5)
        atomicAdd(&m.counters[13], odd + 1000 * all + 100000 * some);
}

/* --- control ------------------------------------------------------------------------------------------------------ */

/* Loops and branches that every lane leaves elsewhere; a switch that may become a table. */
extern "C" __global__ void control(memory_args m)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m.n)
        return;
    uint32_t x = i * 7 + 1, steps = 0;
    while (x != 1) {
        x = x % 2 ? 3 * x + 1 : x / 2;
        steps++;
        if (steps % 11 == 10)
            continue;
        if (steps > 90 + i % 13)
            break;
    }
    uint32_t r = 0;
    for (uint32_t k = 0; k < i % 9; k++)
        switch ((x + k) % 8) {
        case 0:
            r += 3;
            break;
        case 1:
            r ^= 0x55;
            break;
        case 2:
            r = r * 5 + 1;
            break;
        case 3:
            r -= k; /* fall through */
        case 4:
            r += 9;
            break;
        case 5:
            r = ~r;
            break;
        case 6:
            r <<= 1;
            break;
        default:
            r |= 4;
        }
    reinterpret_cast<uint32_t *>(m.out)[i] = steps * 1000 + r;
}
