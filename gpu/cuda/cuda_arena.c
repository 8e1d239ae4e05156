#include "gpu/cuda/cuda_arena.h"

#include <assert.h>
#include <stdlib.h>

/* Where the first arena of a process would like to lie: below what Linux and the driver hand out by themselves, and where none of
 * the sanitizers keeps its shadow. Only a wish; snapshots hold offsets. */
#define ADDRESS_HINT ((CUdeviceptr)0x550000000000u)

/* Enough that an arena is some hundred pieces at most, little enough that one is found in fragmented memory. */
#define PIECE_BYTES ((uint64_t)512 << 20)

static CUmemAllocationProp memory_on(const struct cuda_device *d)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = d->number}};
}

static uint64_t round_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

static uint64_t piece_bytes(const struct cuda_arena *a, uint32_t i)
{
    const uint64_t at = i * a->piece_bytes;
    return a->bytes - at < a->piece_bytes ? a->bytes - at : a->piece_bytes;
}

static int map_piece(struct cuda_arena *a, uint32_t i, struct base_error *err)
{
    struct cuda_device *d = a->device;
    const CUmemAllocationProp where = memory_on(d);
    const uint64_t bytes = piece_bytes(a, i);
    CUresult result = d->cu->MemCreate(&a->pieces[i], bytes, &where, 0);
    int rc = cuda_check(d, result, err, "%.2f GB of memory on %s, after %.2f of %.2f GB", (double)bytes / 1e9,
                        d->base.info.name, (double)(i * a->piece_bytes) / 1e9, (double)a->bytes / 1e9);
    if (rc < 0)
        return rc;
    result = d->cu->MemMap(a->base + i * a->piece_bytes, bytes, 0, a->pieces[i], 0);
    rc = cuda_check(d, result, err, "mapping %.2f GB on %s", (double)bytes / 1e9, d->base.info.name);
    if (rc < 0)
        (void)d->cu->MemRelease(a->pieces[i]); /* the first error is the one to tell */
    return rc;
}

int cuda_arena_map(struct cuda_arena *a, struct base_error *err)
{
    struct cuda_device *d = a->device;
    const CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = d->number},
                                    .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    int rc = 0;
    assert(a->n_mapped == 0);
    while (rc == 0 && a->n_mapped * a->piece_bytes < a->bytes) {
        rc = map_piece(a, a->n_mapped, err);
        if (rc == 0)
            a->n_mapped++;
    }
    if (rc == 0)
        rc = cuda_check(d, d->cu->MemSetAccess(a->base, a->bytes, &access, 1), err, "access to %.2f GB on %s",
                        (double)a->bytes / 1e9, d->base.info.name);
    if (rc < 0)
        (void)cuda_arena_unmap(a, NULL);
    return rc;
}

int cuda_arena_unmap(struct cuda_arena *a, struct base_error *err)
{
    struct cuda_device *d = a->device;
    int rc = 0;
    for (uint32_t i = a->n_mapped; i-- > 0;) { /* all of them, also after an error: the first is told */
        CUresult result = d->cu->MemUnmap(a->base + i * a->piece_bytes, piece_bytes(a, i));
        if (result == CUDA_SUCCESS)
            result = d->cu->MemRelease(a->pieces[i]);
        if (result != CUDA_SUCCESS && rc == 0)
            rc = cuda_check(d, result, err, "giving back memory of %s", d->base.info.name);
    }
    a->n_mapped = 0;
    return rc;
}

int cuda_arena_init(struct cuda_arena *a, struct cuda_device *d, uint64_t n_bytes, struct base_error *err)
{
    const CUmemAllocationProp where = memory_on(d);
    size_t granularity = 0;
    CUresult result = d->cu->MemGetAllocationGranularity(&granularity, &where, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    int rc = cuda_check(d, result, err, "granularity of memory on %s", d->base.info.name);
    if (rc < 0)
        return rc;
    *a = (struct cuda_arena){.device = d, .bytes = round_up(n_bytes, granularity)};
    a->piece_bytes = round_up(PIECE_BYTES, granularity);
    const uint64_t n_pieces = (a->bytes + a->piece_bytes - 1) / a->piece_bytes;
    a->pieces = calloc(n_pieces, sizeof *a->pieces);
    if (!a->pieces)
        return base_fail(err, ERR_NOMEM, "no memory for %llu handles", (unsigned long long)n_pieces);
    rc = cuda_check(d, d->cu->MemAddressReserve(&a->base, a->bytes, 0, ADDRESS_HINT, 0), err,
                    "addresses for %.2f GB on %s", (double)a->bytes / 1e9, d->base.info.name);
    if (rc == 0) {
        rc = cuda_arena_map(a, err);
        if (rc < 0)
            (void)d->cu->MemAddressFree(a->base, a->bytes);
    }
    if (rc < 0) {
        free(a->pieces);
        a->pieces = NULL;
    }
    return rc;
}

void cuda_arena_done(struct cuda_arena *a)
{
    (void)cuda_arena_unmap(a, NULL); /* fails when the context has: then the driver has taken everything back */
    (void)a->device->cu->MemAddressFree(a->base, a->bytes);
    free(a->pieces);
}
