/* cuda_launch - a model's kernels, found in the module, and launches of them; private to gpu/cuda. */
#ifndef ROUSE_GPU_CUDA_LAUNCH_H
#define ROUSE_GPU_CUDA_LAUNCH_H

#include "gpu/cuda/cuda_module.h"
#include "gpu/cuda/cuda_topology.h"

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

/* For the driver's calls; points at `launch` and `pointer`, which is the caller's. */
CUDA_KERNEL_NODE_PARAMS cuda_launch_params(const struct cuda_functions *f, const struct cuda_launch *launch,
                                           void **pointer);

#endif
