/* kernel_bed - runs one kernel after the other on named buffers and writes down what went in and what came out.
 *
 * Into DIR/kernels.bin: the bytes of all outputs, one behind the other. Into DIR/kernels.json: the device, and for each run
 * the kernel, its shape, each buffer's name, type and XXH3, and where an output lies in kernels.bin. Inputs are made anew from
 * the same numbers whenever they are needed; their hash says whether that succeeded.
 *
 * One thread; the first failure ends the program. */
#ifndef ROUSE_TESTS_KERNEL_BED_H
#define ROUSE_TESTS_KERNEL_BED_H

#include <stdio.h>

#include "base/json_writer.h"
#include "gpu/cuda/cuda_arena.h"
#include "gpu/cuda/kernel_args.h"
#include "model/config.h"

enum { BED_BUFFERS_MAX = 12, BED_SHAPE_BYTES = 128 };

enum bed_type { BED_F16, BED_BF16, BED_F32, BED_I32, BED_U64, BED_I8, BED_BYTES };

struct bed_buffer {
    const char *name;
    enum bed_type type;
    size_t bytes;
    uint8_t *host;
    void *device;
    bool is_output; /* read back and kept */
};

struct bed {
    struct gpu_device *gpu;
    struct cuda_device *d;
    struct cuda_arena arena;
    uint64_t used_bytes; /* of the arena, by this run's buffers */
    struct bed_buffer buffers[BED_BUFFERS_MAX];
    uint32_t n_buffers;
    uint64_t random; /* splitmix64 */
    FILE *bin, *json_file;
    uint64_t bin_bytes;
    struct base_buffer text;
    struct base_json json;
};

void bed_open(struct bed *bed, const char *dir);
void bed_close(struct bed *bed);

/* A run's buffers: the host's side, to be written before bed_run; 0xCB at first, so that what a kernel must leave alone shows. */
void *bed_add(struct bed *bed, const char *name, enum bed_type type, size_t n);
/* The same, read back. What the kernel reads of it is an input too. */
void *bed_add_output(struct bed *bed, const char *name, enum bed_type type, size_t n);
/* Where a buffer lies on the device; NULL: there is none of that name in this run. */
void *bed_at(const struct bed *bed, const char *name);

/* Numbers that are the same everywhere; each run begins with the first ones. */
uint32_t bed_random(struct bed *bed, uint32_t below);
/* n numbers, uniform in (-scale, scale) around `around`, in the buffer's type (a float type or BED_I8). */
void bed_fill(struct bed *bed, const char *name, float around, float scale);

struct bed_launch {
    const char *kernel;
    uint32_t grid[3], block, shared_bytes;
    const void *args;
};

/* Runs it, writes it down, and forgets the buffers. */
void bed_run(struct bed *bed, const struct bed_launch *launch, const char *shape, ...)
    __attribute__((format(printf, 3, 4)));

#endif
