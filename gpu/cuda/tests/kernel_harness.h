/* kernel_harness - what the tests of kernels share: a card (or the emulated driver), the image, buffers that lie on both sides,
 * launches by name.
 *
 * Device memory is taken in exact sizes, so that whoever checks bounds sees the first byte too far. Every failure is the test's. */
#ifndef ROUSE_CUDA_KERNEL_HARNESS_H
#define ROUSE_CUDA_KERNEL_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/cuda/kernel_args.h"
#include "model/config.h"

/* Opens device 0 and loads the kernels: the image (PTX or cubin) that ROUSE_KERNELS_PTX names, else the built-in one for this
 * card. Exits with 77 and a reason when there is no driver or no device. */
void kernels_open(void);
void kernels_close(void);

struct kernel_buffer {
    void *host;
    uint64_t device;
    size_t bytes;
};

struct kernel_buffer kernel_buffer_new(size_t n, size_t element_bytes); /* zeros here, unwritten there */
void kernel_buffer_free(struct kernel_buffer *b);
void kernel_buffer_upload(const struct kernel_buffer *b);
void kernel_buffer_download(const struct kernel_buffer *b, void *to); /* b->bytes */

/* The buffer's address for an argument struct: of the kernel's, or of its twin's. */
static inline void *kernel_at(const struct kernel_buffer *b, bool on_device)
{
    return on_device ? (void *)(uintptr_t)b->device : b->host; /* an address, not followed here */
}

/* Launches and waits. shared_bytes: dynamic. */
void kernel_run(const char *name, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t n_threads,
                uint32_t shared_bytes, const void *args);
/* "prefill_f16_d64" by "prefill_%s_d%u"; lent until the next call. */
const char *kernel_name(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Address space without memory, at the distances that large caches have: mapped piece by piece, each `bytes` of zeros. */
uint64_t kernel_reserve(size_t bytes);
void kernel_map(uint64_t at, size_t bytes); /* multiples of kernel_granularity() */
void kernel_unmap(uint64_t at, size_t bytes);
void kernel_unreserve(uint64_t at, size_t bytes);
size_t kernel_granularity(void);
void kernel_copy_to(uint64_t device, const void *from, size_t bytes);
void kernel_copy_from(void *to, uint64_t device, size_t bytes);

/* splitmix64, in (-1, 1). */
static inline float kernel_uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((double)(int64_t)(z ^ (z >> 31)) / 9223372036854775808.0);
}

/* Unless |got - want| <= allowed: fails, with both values and what fmt says they are of. */
void kernel_close_to(double got, double want, double allowed, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
