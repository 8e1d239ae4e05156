/* kernels - every kernel's entry, in the order of kernel_args.h; what they do is in the files below, why in kernels.md. One
 * translation unit, so that one image per architecture holds all. */
#include "attention.cuh"
#include "embed.cuh"
#include "gelu.cuh"
#include "hash.cuh"
#include "matmul.cuh"
#include "norm.cuh"
#include "rotary.cuh"
#include "sample.cuh"

/* blocks: how many of them an SM shall hold at least, which bounds the registers. */
#define KERNEL(name, args, threads, blocks, body)                                                                      \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ struct args a)          \
    {                                                                                                                  \
        body(a);                                                                                                       \
    }

KERNEL(embed_f16, cuda_embed_args, CUDA_ROW_THREADS, 1, embed_kernel<f16>)
KERNEL(embed_bf16, cuda_embed_args, CUDA_ROW_THREADS, 1, embed_kernel<bf16>)

KERNEL(norm_f16, cuda_norm_args, CUDA_ROW_THREADS, 3, norm_kernel<f16>)
KERNEL(norm_bf16, cuda_norm_args, CUDA_ROW_THREADS, 3, norm_kernel<bf16>)

KERNEL(rotary_f16, cuda_rotary_args, CUDA_ROTARY_THREADS, 1, rotary_kernel<f16>)
KERNEL(rotary_bf16, cuda_rotary_args, CUDA_ROTARY_THREADS, 1, rotary_kernel<bf16>)

#define ATTENTION(type, d, prefill_blocks, decode_blocks)                                                              \
    KERNEL(prefill_##type##_d##d, cuda_prefill_args, CUDA_PREFILL_THREADS,                                             \
           attention_blocks(cuda_prefill_shared_bytes(d), prefill_blocks), (prefill_kernel<type, d>))                  \
    KERNEL(decode_##type##_d##d, cuda_decode_args, CUDA_DECODE_WARPS *CUDA_WARP,                                       \
           attention_blocks(cuda_decode_shared_bytes(d), decode_blocks), (decode_kernel<type, d>))
#define ATTENTIONS(type)                                                                                               \
    ATTENTION(type, 32, 4, 8)                                                                                          \
    ATTENTION(type, 64, 4, 5)                                                                                          \
    ATTENTION(type, 80, 3, 4)                                                                                          \
    ATTENTION(type, 96, 3, 3)                                                                                          \
    ATTENTION(type, 128, 3, 2)                                                                                         \
    ATTENTION(type, 256, 2, 2)                                                                                         \
    KERNEL(merge_##type, cuda_merge_args, CUDA_WARP, 16, merge_kernel<type>)
ATTENTIONS(f16)
ATTENTIONS(bf16)

KERNEL(gelu_f16, cuda_gelu_args, CUDA_ROW_THREADS, 1, gelu_kernel<f16>)
KERNEL(gelu_bf16, cuda_gelu_args, CUDA_ROW_THREADS, 1, gelu_kernel<bf16>)

#define MATMUL(t, blocks, blocks_q8)                                                                                   \
    KERNEL(matmul_f16_t##t, cuda_matmul_args, MATMUL_THREADS, blocks, (matmul_kernel<matmul_halves<f16>, t>))          \
    KERNEL(matmul_bf16_t##t, cuda_matmul_args, MATMUL_THREADS, blocks, (matmul_kernel<matmul_halves<bf16>, t>))        \
    KERNEL(matmul_q8_t##t, cuda_matmul_args, MATMUL_THREADS, blocks_q8, (matmul_kernel<matmul_int8, t>))
MATMUL(8, 2, 2)
MATMUL(16, 2, 2)
MATMUL(32, 2, 1)
MATMUL(64, 1, 1)

KERNEL(sample, cuda_sample_args, CUDA_SAMPLE_THREADS, 1, sample_kernel)

KERNEL(hash, cuda_hash_args, CUDA_WARP, 1, hash_kernel)
