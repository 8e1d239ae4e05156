/* What the card and its link do at most. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/cuda/bench_cuda.h"

/* limits.cu as PTX, with a NUL behind it. */
extern const uint8_t limits_ptx[];
__asm__(".pushsection .rodata\n"
        "limits_ptx:\n"
        ".incbin \"" BENCH_PTX "\"\n"
        ".byte 0\n"
        ".popsection\n");

enum { READ_THREADS = 512, MMA_THREADS = 256, MMA_CHAINS = 8, COPIES = 8, LAUNCHES = 1000 };

struct limits {
    struct bench *b;
    CUstream stream;
    CUmodule module;
    CUfunction read, mma;
    size_t bytes; /* of each buffer */
    CUdeviceptr from, to;
    uint8_t *pinned, *pageable;
    uint32_t n_sms, mma_rounds, product; /* product: rows, columns and depth of the cublasLt product */
};

static void limits_init(struct limits *l, struct bench *b)
{
    int n_sms = 0;
    memset(l, 0, sizeof *l);
    l->b = b;
    l->stream = b->d->compute;
    l->bytes = b->quick ? (size_t)2 << 20 : (size_t)256 << 20;
    l->mma_rounds = b->quick ? 2 : 20000;
    l->product = b->quick ? 64 : 8192;
    bench_cu(b, b->cu->DeviceGetAttribute(&n_sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, b->d->number),
             "counting SMs");
    l->n_sms = b->quick ? 2 : (uint32_t)n_sms;
    bench_cu(b, b->cu->ModuleLoadData(&l->module, limits_ptx), "loading the limits' kernels");
    bench_cu(b, b->cu->ModuleGetFunction(&l->read, l->module, "limit_read"), "limit_read");
    bench_cu(b, b->cu->ModuleGetFunction(&l->mma, l->module, "limit_mma"), "limit_mma");
    bench_cu(b, b->more.MemAlloc(&l->from, l->bytes), "device memory");
    bench_cu(b, b->more.MemAlloc(&l->to, l->bytes), "device memory");
    bench_cu(b, b->more.MemsetD8Async(l->from, 0x35, l->bytes, l->stream), "filling device memory");
    bench_cu(b, b->cu->MemHostAlloc((void **)&l->pinned, l->bytes, 0), "pinned memory");
    l->pageable = malloc(l->bytes);
    if (!l->pageable)
        abort();
    memset(l->pinned, 1, l->bytes);
    memset(l->pageable, 1, l->bytes);
}

static void limits_done(struct limits *l)
{
    struct bench *b = l->b;
    free(l->pageable);
    bench_cu(b, b->cu->MemFreeHost(l->pinned), "pinned memory");
    bench_cu(b, b->more.MemFree(l->to), "device memory");
    bench_cu(b, b->more.MemFree(l->from), "device memory");
    bench_cu(b, b->cu->ModuleUnload(l->module), "the limits' kernels");
}

/* ---- what is measured: each enqueues once ---- */

static void to_device_pinned(struct limits *l)
{
    bench_cu(l->b, l->b->cu->MemcpyHtoDAsync(l->to, l->pinned, l->bytes, l->stream), "copying to the device");
}

static void to_device_pageable(struct limits *l)
{
    bench_cu(l->b, l->b->cu->MemcpyHtoDAsync(l->to, l->pageable, l->bytes, l->stream), "copying to the device");
}

static void to_host_pinned(struct limits *l)
{
    bench_cu(l->b, l->b->cu->MemcpyDtoHAsync(l->pinned, l->from, l->bytes, l->stream), "copying to the host");
}

static void device_to_device(struct limits *l)
{
    bench_cu(l->b, l->b->more.MemcpyDtoDAsync(l->to, l->from, l->bytes, l->stream), "copying on the device");
}

static void launch(struct limits *l, CUfunction function, uint32_t grid, uint32_t block, void **args, const char *name)
{
    bench_cu(l->b, l->b->cu->LaunchKernel(function, grid, 1, 1, block, 1, 1, 0, l->stream, args, NULL), name);
}

static void read_memory(struct limits *l)
{
    uint64_t n = l->bytes / 16;
    void *args[] = {&l->from, &n, &l->to};
    launch(l, l->read, l->n_sms * 4, READ_THREADS, args, "limit_read");
}

static void multiply(struct limits *l)
{
    void *args[] = {&l->mma_rounds, &l->to};
    launch(l, l->mma, l->n_sms * 2, MMA_THREADS, args, "limit_mma");
}

static double multiply_flop(const struct limits *l)
{
    return 2.0 * l->n_sms * (MMA_THREADS / 32.0) * l->mma_rounds * MMA_CHAINS * 2 * 16 * 8 * 16;
}

static void launch_nothing(struct limits *l)
{
    uint32_t no_rounds = 0;
    void *args[] = {&no_rounds, &l->to};
    launch(l, l->mma, 1, 32, args, "limit_mma");
}

/* ---- measuring ---- */

/* Seconds of one of n, enqueued in a row behind one that is not counted. */
static double seconds_each(struct limits *l, void (*enqueue)(struct limits *l), uint32_t n)
{
    struct bench *b = l->b;
    enqueue(l);
    bench_cu(b, b->cu->StreamSynchronize(l->stream), "waiting");
    const uint64_t began = base_clock_mono_ns();
    for (uint32_t i = 0; i < n; i++)
        enqueue(l);
    bench_cu(b, b->cu->StreamSynchronize(l->stream), "waiting");
    return bench_seconds_since(began) / n;
}

static double launch_and_wait_seconds(struct limits *l, uint32_t n)
{
    const uint64_t began = base_clock_mono_ns();
    for (uint32_t i = 0; i < n; i++) {
        launch_nothing(l);
        bench_cu(l->b, l->b->cu->StreamSynchronize(l->stream), "waiting");
    }
    return bench_seconds_since(began) / n;
}

static void measure_copies(struct limits *l, uint32_t round)
{
    static const struct {
        const char *name;
        void (*enqueue)(struct limits *l);
        double passes; /* over the memory of the device, or over the link */
    } copies[] = {
        {"host to device, pinned", to_device_pinned, 1},
        {"host to device, pageable", to_device_pageable, 1},
        {"device to host, pinned", to_host_pinned, 1},
        {"device to device, read and written", device_to_device, 2},
        {"device memory, read by a kernel", read_memory, 1},
    };
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        const double s = seconds_each(l, copies[i].enqueue, l->b->quick ? 1 : COPIES);
        bench_print("limits", round, copies[i].name, copies[i].passes * (double)l->bytes / s / 1e9, "GB/s");
    }
}

/* ---- a large product by cublasLt: on newer cards the only way to all of the tensor cores ---- */

struct product {
    const struct cuda_lt *lt;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layout;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
};

static void lt_ok(const struct cuda_lt *lt, cublasStatus_t status, const char *what)
{
    struct base_error err = {0};
    if (status != CUBLAS_STATUS_SUCCESS)
        bench_ok(base_fail(&err, ERR_INTERNAL, "%s: %s", what, lt->GetStatusName(status)), &err);
}

/* Whether cublasLt is here and has something for it. */
static bool product_init(struct product *p, const struct limits *l)
{
    const struct cuda_lt *lt = l->b->d->lt;
    const uint64_t workspace_bytes = l->bytes / 4;
    const int32_t transposed = CUBLAS_OP_T;
    int n = 0;
    *p = (struct product){.lt = lt};
    if (!lt)
        return false;
    lt_ok(lt, lt->MatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
    lt_ok(lt, lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
          "a product");
    lt_ok(lt, lt->MatrixLayoutCreate(&p->layout, CUDA_R_16F, l->product, l->product, l->product), "a layout");
    lt_ok(lt, lt->MatmulPreferenceCreate(&p->preference), "a preference");
    lt_ok(lt,
          lt->MatmulPreferenceSetAttribute(p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                           sizeof workspace_bytes),
          "a preference");
    const cublasStatus_t status = lt->MatmulAlgoGetHeuristic(l->b->d->lt_handle, p->desc, p->layout, p->layout,
                                                             p->layout, p->layout, p->preference, 1, &p->found, &n);
    return status == CUBLAS_STATUS_SUCCESS && n > 0;
}

static void product_done(struct product *p)
{
    if (!p->lt)
        return;
    lt_ok(p->lt, p->lt->MatmulPreferenceDestroy(p->preference), "a preference");
    lt_ok(p->lt, p->lt->MatrixLayoutDestroy(p->layout), "a layout");
    lt_ok(p->lt, p->lt->MatmulDescDestroy(p->desc), "a product");
}

/* to = from times from; the product takes half of `to` or less, and the workspace the end of it. */
static void product_run(const struct product *p, const struct limits *l)
{
    const float one = 1, zero = 0;
    void *from = (void *)(uintptr_t)l->from, *to = (void *)(uintptr_t)l->to;
    void *workspace = (void *)(uintptr_t)(l->to + l->bytes / 4 * 3);
    lt_ok(p->lt,
          p->lt->Matmul(l->b->d->lt_handle, p->desc, &one, from, p->layout, from, p->layout, &zero, to, p->layout, to,
                        p->layout, &p->found.algo, workspace, l->bytes / 4, l->stream),
          "cublasLtMatmul");
}

static void measure_product(struct limits *l, const struct product *p, uint32_t round)
{
    struct bench *b = l->b;
    const uint32_t n = b->quick ? 1 : 4;
    product_run(p, l);
    bench_cu(b, b->cu->StreamSynchronize(l->stream), "waiting");
    const uint64_t began = base_clock_mono_ns();
    for (uint32_t i = 0; i < n; i++)
        product_run(p, l);
    bench_cu(b, b->cu->StreamSynchronize(l->stream), "waiting");
    const double side = l->product, s = bench_seconds_since(began) / n;
    bench_print("limits", round, "tensor cores, cublasLt f16", 2 * side * side * side / s / 1e12, "TFLOP/s");
}

void bench_limits(struct bench *b)
{
    struct limits l;
    struct product p;
    bench_open(b);
    limits_init(&l, b);
    const bool has_product = product_init(&p, &l);
    const uint32_t launches = b->quick ? 4 : LAUNCHES;
    for (uint32_t round = 0; round < b->n_rounds; round++) {
        measure_copies(&l, round);
        const double s = seconds_each(&l, multiply, b->quick ? 1 : 4);
        bench_print("limits", round, "tensor cores, mma f16", multiply_flop(&l) / s / 1e12, "TFLOP/s");
        if (has_product)
            measure_product(&l, &p, round);
        bench_print("limits", round, "a launch, of many", seconds_each(&l, launch_nothing, launches) * 1e6, "us");
        bench_print("limits", round, "a launch, waited for", launch_and_wait_seconds(&l, launches) * 1e6, "us");
    }
    product_done(&p);
    limits_done(&l);
    bench_close(b);
}
