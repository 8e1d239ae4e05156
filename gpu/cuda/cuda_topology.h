/* cuda_topology - the kernels by name, and launches of them as plain data: who runs on what, and who waits for whom; private to
 * gpu/cuda. Run one after the other, made into a graph, or written into a snapshot. Knows no driver. */
#ifndef ROUSE_GPU_CUDA_TOPOLOGY_H
#define ROUSE_GPU_CUDA_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

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
    CUDA_ARGS_BYTES = 96, /* the largest struct of kernel_args.h fits */
    CUDA_AFTER_MAX = 2
};

/* "prefill" */
const char *cuda_kernel_base(enum cuda_kernel kernel);
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

/* The pointer at one of the offsets of its kernel. */
uint64_t cuda_launch_pointer(const struct cuda_launch *launch, uint16_t offset);

struct cuda_topology {
    struct cuda_launch *nodes; /* [n], owned; in an order in which they may run */
    uint32_t n, capacity;
};

/* Room for n_max nodes. */
int cuda_topology_init(struct cuda_topology *t, uint32_t n_max, struct base_error *err);
void cuda_topology_done(struct cuda_topology *t);

/* Pointers in arguments as a snapshot has them - the offset in the arena plus 1, 0 for none - to addresses, and back. */
void cuda_topology_to_addresses(struct cuda_topology *t, uint64_t base);
void cuda_topology_to_offsets(struct cuda_topology *t, uint64_t base);

#endif
