/* cuda_launch - the kernels by name, and one launch of one of them as plain data: run at once, made into a node of a graph, or
 * written into a snapshot; private to gpu/cuda. */
#ifndef ROUSE_GPU_CUDA_LAUNCH_H
#define ROUSE_GPU_CUDA_LAUNCH_H

#include "gpu/cuda/cuda_module.h"
#include "model/config.h"

/* In the order of kernel_args.h. A model uses one variant of each: of its half type and its head size. */
enum cuda_kernel {
    CUDA_EMBED,
    CUDA_NORM,
    CUDA_ROTARY,
    CUDA_PREFILL,
    CUDA_DECODE,
    CUDA_MERGE,
    CUDA_GELU,
    CUDA_MATMUL_T8,
    CUDA_MATMUL_T16,
    CUDA_MATMUL_T32,
    CUDA_MATMUL_T64,
    CUDA_MATMUL_Q8_T8,
    CUDA_MATMUL_Q8_T16,
    CUDA_MATMUL_Q8_T32,
    CUDA_MATMUL_Q8_T64,
    CUDA_SAMPLE,
    CUDA_KERNELS
};

enum {
    CUDA_KERNEL_NAME_BYTES = 32,
    CUDA_ARGS_BYTES = 96,   /* the largest struct of kernel_args.h fits */
    CUDA_POINTERS_MAX = 10, /* in one struct */
    CUDA_AFTER_MAX = 2
};

/* "prefill_f16_d64" */
void cuda_kernel_name(enum cuda_kernel kernel, bool bf16, uint32_t head_dim, char out[CUDA_KERNEL_NAME_BYTES]);
uint32_t cuda_kernel_args_bytes(enum cuda_kernel kernel);
/* Where pointers lie in the kernel's arguments. */
uint32_t cuda_kernel_pointers(enum cuda_kernel kernel, const uint16_t **out_offsets);

struct cuda_launch {
    enum cuda_kernel kernel;
    uint32_t grid[3], block, shared_bytes;
    uint32_t n_after, after[CUDA_AFTER_MAX]; /* in a graph: the nodes it waits for, by number, each before its own */
    _Alignas(8) uint8_t args[CUDA_ARGS_BYTES];
};

/* A model's variants of the kernels. */
struct cuda_functions {
    CUfunction of[CUDA_KERNELS];
};

/* Finds them, and allows the attention kernels the shared memory they ask for. */
int cuda_functions_find(struct cuda_functions *f, struct cuda_module *module, bool bf16, uint32_t head_dim,
                        struct base_error *err);

/* Onto the compute stream. */
int cuda_launch_run(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_launch *launch,
                    struct base_error *err);

/* For the driver's calls: `values` and `pointer` belong to the caller and live as long as the result. */
CUDA_KERNEL_NODE_PARAMS cuda_launch_params(const struct cuda_functions *f, const struct cuda_launch *launch,
                                           void **pointer);

#endif
