/* bench_cuda - what a card and the CUDA back end do, as JSON lines; one program, a section per file:
 *
 *   record    bench_record.c   the card, the driver, cublasLt, which kernel image it took, how long the driver compiles one
 *   limits    bench_limits.c   bandwidths and arithmetic: what everything else is divided by
 *   memory    bench_memory.c   what it costs to map device memory and to pin memory of the host
 *   model     bench_model.c    decode and prompts of real shapes with random weights
 *
 * A measured line is {section, round, name, value, unit, ...}; medians, spreads and ratios are made by whoever reads them
 * (tests/gpu/run_gpu.py). A figure is as good as the device it comes from: on the emulated driver it is none. */
#ifndef ROUSE_BENCH_CUDA_H
#define ROUSE_BENCH_CUDA_H

#include "base/json_writer.h"
#include "gpu/cuda/cuda_device.h"

/* Calls that only benches make. */
#define BENCH_DRIVER_CALLS(X)                                                                                          \
    X(MemAlloc, cuMemAlloc)                                                                                            \
    X(MemFree, cuMemFree)                                                                                              \
    X(MemGetInfo, cuMemGetInfo)                                                                                        \
    X(MemcpyDtoDAsync, cuMemcpyDtoDAsync)                                                                              \
    X(MemsetD8Async, cuMemsetD8Async)                                                                                  \
    X(CtxSynchronize, cuCtxSynchronize)

struct bench_driver {
#define BENCH_DRIVER_FIELD(field, function) __typeof__(function) *field;
    BENCH_DRIVER_CALLS(BENCH_DRIVER_FIELD)
#undef BENCH_DRIVER_FIELD
};

struct bench {
    uint32_t n_rounds;
    bool quick; /* sizes for an emulated device: that it runs, not how fast */
    struct gpu_device *device;
    struct cuda_device *d;        /* the same */
    const struct cuda_driver *cu; /* of d */
    struct bench_driver more;
};

/* Opens cuda:0 with default options and waits until it is ready. Benches end the program when something fails. */
void bench_open(struct bench *b);
void bench_close(struct bench *b);
void bench_ok(int rc, const struct base_error *err);
void bench_cu(const struct bench *b, CUresult result, const char *what);
double bench_seconds_since(uint64_t ns);

/* A line is begun, gets more keys, and ends. */
struct bench_line {
    struct base_buffer buffer;
    struct base_json json;
};
void bench_line_begin(struct bench_line *line, const char *section);
void bench_line_end(struct bench_line *line); /* prints it */
/* A measured line without more keys. */
void bench_print(const char *section, uint32_t round, const char *name, double value, const char *unit);

void bench_record(struct bench *b);
void bench_limits(struct bench *b);
void bench_memory(struct bench *b);
void bench_model(struct bench *b, const char *shape, const char *dtype);

#endif
