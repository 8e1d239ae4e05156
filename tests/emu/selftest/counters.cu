/* counters - kernels whose traffic can be told by hand; counters_test.cpp says what it is. All with 32 threads a block. */
#include <stdint.h>

struct counter_args {
    const float *in; /* [32 * 32] */
    float *out;      /* [32] a block */
    uint32_t stride;
};

/* 32 floats a request, stride floats apart. */
extern "C" __global__ void count_loads(counter_args a)
{
    a.out[blockIdx.x * 32 + threadIdx.x] = a.in[threadIdx.x * a.stride];
}

extern "C" __global__ void count_vector_loads(counter_args a)
{
    const float4 x = reinterpret_cast<const float4 *>(a.in)[threadIdx.x];
    a.out[threadIdx.x] = x.x + x.y + x.z + x.w;
}

/* A third of the lanes. */
extern "C" __global__ void count_few_lanes(counter_args a)
{
    if (threadIdx.x % 3 == 0)
        a.out[threadIdx.x] = a.in[threadIdx.x];
}

/* One store and one load of shared memory, stride words apart. */
extern "C" __global__ void count_banks(counter_args a)
{
    __shared__ float s[32 * 33];
    float *x = s + threadIdx.x * a.stride;
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(x))), "f"(1.0f));
    float y;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(y) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(x))));
    a.out[threadIdx.x] = y;
}

/* Vectors of 16 bytes, stride vectors apart, written and then read by ldmatrix. */
extern "C" __global__ void count_matrix_banks(counter_args a)
{
    __shared__ uint4 s[32 * 9];
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(s + threadIdx.x * a.stride));
    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(1));
    __syncwarp();
    uint32_t r[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
    a.out[threadIdx.x] = static_cast<float>(r[0] + r[1] + r[2] + r[3]);
}

extern "C" __global__ void count_work(counter_args a)
{
    float d[4] = {0, 0, 0, 0}, x = 1;
    for (uint32_t k = 0; k < a.stride; k++) {
        asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(x));
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%4,%4,%4},{%4,%4},{%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(0));
        __syncthreads();
    }
    a.out[blockIdx.x * 32 + threadIdx.x] = d[0] + x;
}

/* What jitter may move, and how far. */
extern "C" __global__ void approximate(counter_args a)
{
    float x = a.in[threadIdx.x], y;
    asm volatile("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    a.out[threadIdx.x] = y;
}
