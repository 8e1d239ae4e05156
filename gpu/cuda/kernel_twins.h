/* kernel_twins - every kernel of kernel_args.h in plain C: the same argument structs with host pointers, to check against the
 * paper, and what the tests compare the kernels with.
 *
 * Sums are in double, in whatever order is plainest, and rounded once, to the type that the kernel writes: a twin is the right
 * answer, which a kernel may miss by what its f32 sums can lose. sample and hash are exact, and so are their twins.
 *
 * half: MODEL_F16 or MODEL_BF16. Rows come from `counts`, as they do in the kernels; what a kernel takes from its grid or its
 * name is an argument. */
#ifndef ROUSE_GPU_CUDA_KERNEL_TWINS_H
#define ROUSE_GPU_CUDA_KERNEL_TWINS_H

#include <stdbool.h>

#include "gpu/cuda/kernel_args.h"
#include "model/config.h"

float cuda_twin_widen(enum model_dtype half, uint16_t h);
uint16_t cuda_twin_narrow(enum model_dtype half, double x);

void cuda_twin_embed(enum model_dtype half, const struct cuda_embed_args *a);
void cuda_twin_norm(enum model_dtype half, const struct cuda_norm_args *a);
void cuda_twin_gelu(enum model_dtype half, const struct cuda_gelu_args *a);
double cuda_twin_gelu_of(enum cuda_act act, double x);
/* q8: the weights are int8 with a scale for each row; half is the type of x and y then. */
void cuda_twin_matmul(enum model_dtype half, bool q8, const struct cuda_matmul_args *a);
/* model_sampler_draw for each row; scratch is not used. ERR_NOMEM. */
int cuda_twin_sample(const struct cuda_sample_args *a, struct base_error *err);
/* libxxhash's, for each chunk. */
void cuda_twin_hash(const struct cuda_hash_args *a);

/* In kernel_twins_attention.c. */
void cuda_twin_rotary(enum model_dtype half, const struct cuda_rotary_args *a);
void cuda_twin_prefill(enum model_dtype half, uint32_t head_dim, uint32_t n_tiles, const struct cuda_prefill_args *a);
void cuda_twin_decode(enum model_dtype half, uint32_t head_dim, const struct cuda_decode_args *a);
void cuda_twin_merge(enum model_dtype half, const struct cuda_merge_args *a);

#endif
