/* cuda_arena - one range of device addresses, and the memory behind it; private to gpu/cuda.
 *
 * Addresses are reserved once and stay; memory is mapped behind them and can be taken away and put back (sleep, wake), so that
 * graphs and tables of pointers stay right. */
#ifndef ROUSE_GPU_CUDA_ARENA_H
#define ROUSE_GPU_CUDA_ARENA_H

#include "gpu/cuda/cuda_device.h"

struct cuda_arena {
    struct cuda_device *device;
    CUdeviceptr base;
    uint64_t bytes;                       /* a multiple of the granularity */
    uint64_t piece_bytes;                 /* of every piece but the last */
    CUmemGenericAllocationHandle *pieces; /* [ceil(bytes / piece_bytes)] */
    uint32_t n_mapped;                    /* of which these are behind the first addresses */
};

/* Reserves addresses and maps. On an error nothing is left behind. */
int cuda_arena_init(struct cuda_arena *a, struct cuda_device *d, uint64_t n_bytes, struct base_error *err);
void cuda_arena_done(struct cuda_arena *a);

int cuda_arena_map(struct cuda_arena *a,
                   struct base_error *err); /* all, or nothing on an error; its content is undefined */
int cuda_arena_unmap(struct cuda_arena *a, struct base_error *err); /* nothing may be using it */

#endif
