/* What it costs to give device memory back and take it again (sleep, wake), and to pin memory of the host (the ring). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "bench/cuda/bench_cuda.h"

static const uint32_t sizes_mib[] = {2, 16, 64, 256, 1024};

static double us_since(uint64_t ns)
{
    return bench_seconds_since(ns) * 1e6;
}

static void print_us(uint32_t round, const char *what, uint32_t mib, double us)
{
    char name[64];
    snprintf(name, sizeof name, "%s, %u MiB", what, mib);
    bench_print("memory", round, name, us, "us");
}

/* One piece of device memory of this size: from reserving addresses to giving everything back. */
static void measure_mapping(struct bench *b, uint32_t round, uint32_t mib)
{
    const struct cuda_driver *cu = b->cu;
    const size_t bytes = (size_t)mib << 20;
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, b->d->number}};
    const CUmemAccessDesc access = {prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr at;
    CUmemGenericAllocationHandle piece;

    uint64_t began = base_clock_mono_ns();
    bench_cu(b, cu->MemAddressReserve(&at, bytes, 0, 0, 0), "cuMemAddressReserve");
    print_us(round, "cuMemAddressReserve", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemCreate(&piece, bytes, &prop, 0), "cuMemCreate");
    print_us(round, "cuMemCreate", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemMap(at, bytes, 0, piece, 0), "cuMemMap");
    print_us(round, "cuMemMap", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemSetAccess(at, bytes, &access, 1), "cuMemSetAccess");
    print_us(round, "cuMemSetAccess", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemUnmap(at, bytes), "cuMemUnmap");
    print_us(round, "cuMemUnmap", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemRelease(piece), "cuMemRelease");
    print_us(round, "cuMemRelease", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, cu->MemAddressFree(at, bytes), "cuMemAddressFree");
    print_us(round, "cuMemAddressFree", mib, us_since(began));
}

/* Pinning what is touched already, as the ring does, and what the driver touches itself. */
static void measure_pinning(struct bench *b, uint32_t round, uint32_t mib)
{
    const size_t bytes = (size_t)mib << 20;
    struct base_error err = {0};
    void *pinned, *plain = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (plain == MAP_FAILED)
        bench_ok(base_fail_errno(&err, "%zu bytes", bytes), &err);
    memset(plain, 1, bytes);
    uint64_t began = base_clock_mono_ns();
    bench_cu(b, b->cu->MemHostRegister(plain, bytes, 0), "cuMemHostRegister");
    print_us(round, "cuMemHostRegister, touched", mib, us_since(began));
    began = base_clock_mono_ns();
    bench_cu(b, b->cu->MemHostUnregister(plain), "cuMemHostUnregister");
    print_us(round, "cuMemHostUnregister", mib, us_since(began));
    munmap(plain, bytes);
    began = base_clock_mono_ns();
    bench_cu(b, b->cu->MemHostAlloc(&pinned, bytes, 0), "cuMemHostAlloc");
    print_us(round, "cuMemHostAlloc", mib, us_since(began));
    bench_cu(b, b->cu->MemFreeHost(pinned), "cuMemFreeHost");
}

static void print_free(struct bench *b)
{
    struct bench_line line;
    size_t free_bytes = 0, bytes = 0, granularity = 0;
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, b->d->number}};
    bench_cu(b, b->more.MemGetInfo(&free_bytes, &bytes), "cuMemGetInfo");
    bench_cu(b, b->cu->MemGetAllocationGranularity(&granularity, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
             "cuMemGetAllocationGranularity");
    bench_line_begin(&line, "memory");
    base_json_kv_uint(&line.json, "free_bytes", free_bytes);
    base_json_kv_uint(&line.json, "bytes", bytes);
    base_json_kv_uint(&line.json, "granularity_bytes", granularity);
    bench_line_end(&line);
}

void bench_memory(struct bench *b)
{
    bench_open(b);
    print_free(b);
    const size_t n = b->quick ? 2 : sizeof sizes_mib / sizeof *sizes_mib;
    for (uint32_t round = 0; round < b->n_rounds; round++)
        for (size_t i = 0; i < n; i++) {
            measure_mapping(b, round, sizes_mib[i]);
            measure_pinning(b, round, sizes_mib[i]);
        }
    bench_close(b);
}
