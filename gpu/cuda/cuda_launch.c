#include "gpu/cuda/cuda_launch.h"

#include "gpu/cuda/kernel_args.h"

/* Above 48 KiB a kernel has to be allowed its dynamic shared memory, before it is launched or put into a graph. */
static int allow_shared(struct cuda_device *d, CUfunction function, uint32_t bytes, const char *name,
                        struct base_error *err)
{
    return cuda_check(d, d->cu->FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)bytes),
                      err, "kernel %s: %u bytes of shared memory", name, bytes);
}

int cuda_functions_find(struct cuda_functions *f, struct cuda_module *module, bool bf16, uint32_t head_dim,
                        struct base_error *err)
{
    for (enum cuda_kernel k = 0; k < CUDA_KERNELS; k++) {
        char name[CUDA_KERNEL_NAME_BYTES];
        cuda_kernel_name(k, bf16, head_dim, name);
        int rc = cuda_module_function(module, name, &f->of[k], err);
        if (rc == 0 && k == CUDA_PREFILL)
            rc = allow_shared(module->device, f->of[k], cuda_prefill_shared_bytes(head_dim), name, err);
        if (rc == 0 && k == CUDA_DECODE)
            rc = allow_shared(module->device, f->of[k], cuda_decode_shared_bytes(head_dim), name, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

CUDA_KERNEL_NODE_PARAMS cuda_launch_params(const struct cuda_functions *f, const struct cuda_launch *launch,
                                           void **pointer)
{
    /* the driver copies the arguments and does not write to them */
    *pointer = (void *)(uintptr_t)launch->args;
    return (CUDA_KERNEL_NODE_PARAMS){.func = f->of[launch->kernel],
                                     .gridDimX = launch->grid[0],
                                     .gridDimY = launch->grid[1],
                                     .gridDimZ = launch->grid[2],
                                     .blockDimX = launch->block,
                                     .blockDimY = 1,
                                     .blockDimZ = 1,
                                     .sharedMemBytes = launch->shared_bytes,
                                     .kernelParams = pointer};
}

int cuda_launch_run(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_launch *launch,
                    struct base_error *err)
{
    void *pointer;
    const CUDA_KERNEL_NODE_PARAMS p = cuda_launch_params(f, launch, &pointer);
    const CUresult result = d->cu->LaunchKernel(p.func, p.gridDimX, p.gridDimY, p.gridDimZ, p.blockDimX, 1, 1,
                                                p.sharedMemBytes, d->compute, p.kernelParams, NULL);
    return cuda_check(d, result, err, "launching %s, grid %u x %u x %u", cuda_kernel_base(launch->kernel),
                      launch->grid[0], launch->grid[1], launch->grid[2]);
}
