/* Addresses, allocations and virtual memory management. */
#include <csignal>
#include <cstring>

#include "hosttest.h"

constexpr uint32_t N = 1000;
constexpr size_t GRANULE = 2 << 20;

static CUmemAllocationProp device_memory()
{
    CUmemAllocationProp prop = {};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    return prop;
}

static CUmemAccessDesc access(CUmemAccess_flags flags)
{
    CUmemAccessDesc desc = {};
    desc.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    desc.flags = flags;
    return desc;
}

/* Two granules reserved, one handle of that size mapped; leaves nothing behind. */
struct mapped {
    explicit mapped(bool give_access = true, CUdeviceptr hint = 0)
    {
        CUmemAllocationProp prop = device_memory();
        OK(cuMemAddressReserve(&base, 2 * GRANULE, 0, hint, 0));
        OK(cuMemCreate(&handle, 2 * GRANULE, &prop, 0));
        map(give_access);
    }
    ~mapped()
    {
        cuMemUnmap(base, 2 * GRANULE);
        cuMemRelease(handle);
        cuMemAddressFree(base, 2 * GRANULE);
    }
    void map(bool give_access)
    {
        CUmemAccessDesc all = access(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        OK(cuMemMap(base, 2 * GRANULE, 0, handle, 0));
        if (give_access)
            OK(cuMemSetAccess(base, 2 * GRANULE, &all, 1));
    }
    CUdeviceptr base;
    CUmemGenericAllocationHandle handle;
};

static void unmapped_copy(bool buggy)
{
    fixture f;
    mapped m;
    uint32_t word = 1;
    OK(cuMemcpyHtoD(m.base, &word, 4));
    if (buggy)
        OK(cuMemUnmap(m.base, 2 * GRANULE));
    CHECK_RC(cuMemcpyDtoH(&word, m.base, 4), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (buggy)
        m.map(true);
}

static void unmapped_kernel(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    mapped m;
    if (buggy)
        OK(cuMemUnmap(m.base, 2 * GRANULE));
    f.fill(m.base, 1, N, s);
    CHECK_RC(cuStreamSynchronize(s), buggy ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS);
    /* and so does every later call */
    CUevent e;
    if (buggy)
        CHECK_RC(cuEventCreate(&e, 0), CUDA_ERROR_ILLEGAL_ADDRESS);
}

/* Unmapping waits for what uses the memory. */
static void unmap_waits(bool)
{
    fixture f;
    CUstream s = f.stream();
    mapped m;
    f.fill(m.base, 8, N, s);
    OK(cuMemUnmap(m.base, 2 * GRANULE));
    OK(cuStreamSynchronize(s));
    m.map(true);
    CHECK(f.words(m.base, 1)[0] == 8);
}

/* Memory lives on through release, as long as it is mapped, and through unmapping, as long as it is not released. */
static void lifetimes(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemAccessDesc all = access(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CUmemGenericAllocationHandle handle;
    CUdeviceptr base;
    size_t free_before, free_after, total;
    OK(cuMemGetInfo(&free_before, &total));
    OK(cuMemAddressReserve(&base, GRANULE, 0, 0, 0));
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    OK(cuMemMap(base, GRANULE, 0, handle, 0));
    OK(cuMemSetAccess(base, GRANULE, &all, 1));
    OK(cuMemRelease(handle));
    f.fill(base, 6, N, nullptr);
    CHECK(f.words(base, 1)[0] == 6);
    OK(cuMemUnmap(base, GRANULE));
    OK(cuMemGetInfo(&free_after, &total));
    CHECK(free_before == free_after);
    if (buggy)
        CHECK_RC(cuMemMap(base, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemAddressFree(base, GRANULE));
}

static void no_access(bool buggy)
{
    fixture f;
    mapped m(!buggy);
    uint32_t word = 1;
    CHECK_RC(cuMemcpyHtoD(m.base, &word, 4), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void read_only(bool buggy)
{
    fixture f;
    mapped m;
    uint32_t word = 1;
    CUmemAccessDesc only_read = access(CU_MEM_ACCESS_FLAGS_PROT_READ);
    OK(cuMemcpyHtoD(m.base, &word, 4));
    OK(cuMemSetAccess(m.base, 2 * GRANULE, &only_read, 1));
    OK(cuMemcpyDtoH(&word, m.base, 4));
    if (buggy)
        CHECK_RC(cuMemcpyHtoD(m.base, &word, 4), CUDA_ERROR_INVALID_VALUE);
}

static void unaligned_reserve(bool buggy)
{
    fixture f;
    CUdeviceptr base;
    size_t bytes = GRANULE + (buggy ? 4096 : 0);
    CHECK_RC(cuMemAddressReserve(&base, bytes, 0, 0, 0), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuMemAddressFree(base, bytes));
}

static void unaligned_create(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    CHECK_RC(cuMemCreate(&handle, buggy ? GRANULE / 2 : GRANULE, &prop, 0),
             buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuMemRelease(handle));
}

/* A handle of two granules, of which one is asked for. */
static void half_a_handle(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr base;
    OK(cuMemAddressReserve(&base, 2 * GRANULE, 0, 0, 0));
    OK(cuMemCreate(&handle, 2 * GRANULE, &prop, 0));
    size_t bytes = buggy ? GRANULE : 2 * GRANULE;
    CHECK_RC(cuMemMap(base, bytes, 0, handle, 0), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuMemUnmap(base, bytes));
    OK(cuMemRelease(handle));
    OK(cuMemAddressFree(base, 2 * GRANULE));
}

static void map_unreserved(bool buggy)
{
    fixture f;
    mapped m;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    if (buggy)
        CHECK_RC(cuMemMap(m.base + 16 * GRANULE, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemRelease(handle));
}

static void map_over(bool buggy)
{
    fixture f;
    mapped m;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    if (buggy)
        CHECK_RC(cuMemMap(m.base + GRANULE, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemRelease(handle));
}

static void unaligned_map(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr base;
    OK(cuMemAddressReserve(&base, 2 * GRANULE, 0, 0, 0));
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    CUdeviceptr at = base + (buggy ? 4096 : GRANULE);
    CHECK_RC(cuMemMap(at, GRANULE, 0, handle, 0), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuMemUnmap(at, GRANULE));
    OK(cuMemRelease(handle));
    OK(cuMemAddressFree(base, 2 * GRANULE));
}

static void never_mapped(bool buggy)
{
    fixture f;
    CUdeviceptr base;
    uint32_t word = 1;
    OK(cuMemAddressReserve(&base, GRANULE, 0, 0, 0));
    if (buggy)
        CHECK_RC(cuMemcpyHtoD(base, &word, 4), CUDA_ERROR_INVALID_VALUE);
    OK(cuMemAddressFree(base, GRANULE));
}

static void wild(bool buggy)
{
    fixture f;
    CUdeviceptr to = buggy ? 0x1234567000 : f.alloc(64);
    uint32_t word = 1;
    CHECK_RC(cuMemcpyHtoD(to, &word, 4), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void unaligned_fill(bool buggy)
{
    fixture f;
    CUdeviceptr to = f.alloc(64) + (buggy ? 2 : 4);
    CHECK_RC(cuMemsetD32Async(to, 1, 4, nullptr), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

static void leak_mapping(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr base;
    OK(cuMemAddressReserve(&base, GRANULE, 0, 0, 0));
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    OK(cuMemMap(base, GRANULE, 0, handle, 0));
    OK(cuMemRelease(handle));
    if (buggy)
        return;
    OK(cuMemUnmap(base, GRANULE));
    OK(cuMemAddressFree(base, GRANULE));
}

static void free_while_mapped(bool buggy)
{
    fixture f;
    mapped m;
    if (buggy)
        CHECK_RC(cuMemAddressFree(m.base, 2 * GRANULE), CUDA_ERROR_INVALID_VALUE);
}

static void half_an_unmap(bool buggy)
{
    fixture f;
    mapped m;
    if (buggy)
        CHECK_RC(cuMemUnmap(m.base, GRANULE), CUDA_ERROR_INVALID_VALUE);
}

static void access_too_far(bool buggy)
{
    fixture f;
    mapped m;
    CUmemAccessDesc all = access(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    size_t bytes = buggy ? 3 * GRANULE : 2 * GRANULE;
    CHECK_RC(cuMemSetAccess(m.base, bytes, &all, 1), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void host_as_device_copy(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(64);
    uint32_t words[4] = {1, 2, 3, 4}, more[4];
    CUdeviceptr from = buggy ? (CUdeviceptr)words : memory;
    OK(cuMemcpyHtoD(memory, words, sizeof words));
    CHECK_RC(cuMemcpyDtoH(more, from, sizeof more), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void host_as_device_kernel(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    std::vector<uint32_t> pageable(N);
    uint32_t *pinned = f.pinned(N); /* which a kernel may write to */
    f.fill(buggy ? (CUdeviceptr)pageable.data() : (CUdeviceptr)pinned, 4, N, s);
    CHECK_RC(cuStreamSynchronize(s), buggy ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS);
    CHECK(buggy || pinned[N - 1] == 4);
}

static void device_as_host(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(64), other = f.alloc(64);
    uint32_t words[4] = {1, 2, 3, 4};
    OK(cuMemcpyHtoD(memory, words, sizeof words));
    const void *from = buggy ? (const void *)memory : words;
    CHECK_RC(cuMemcpyHtoD(other, from, sizeof words), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void dereference(bool buggy)
{
    fixture f;
    uint32_t here = 0;
    volatile uint32_t *p = buggy ? (volatile uint32_t *)f.alloc(64) : &here;
    CHECK(*p == 0);
}

static void after_free(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory;
    OK(cuMemAlloc(&memory, N * 4));
    if (buggy)
        OK(cuMemFree(memory));
    f.fill(memory, 1, N, s);
    cuStreamSynchronize(s);
    if (!buggy)
        OK(cuMemFree(memory));
}

static void past_the_end(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    std::vector<uint32_t> words(N + 1);
    size_t bytes = (buggy ? N + 1 : N) * 4;
    CHECK_RC(cuMemcpyHtoD(memory, words.data(), bytes), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void half_pinned(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    std::vector<uint32_t> words(N);
    OK(cuMemHostRegister(words.data(), N * 2, 0));
    size_t bytes = buggy ? N * 4 : N * 2;
    CHECK_RC(cuMemcpyHtoDAsync(memory, words.data(), bytes, nullptr), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
    OK(cuMemHostUnregister(words.data()));
}

static void registered_twice(bool buggy)
{
    fixture f;
    std::vector<uint32_t> words(N);
    OK(cuMemHostRegister(words.data(), N * 4, 0));
    if (buggy)
        CHECK_RC(cuMemHostRegister(words.data() + 1, 4, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    OK(cuMemHostUnregister(words.data()));
}

/* 30 GiB that nobody touches but at its ends cost nothing; fresh bytes are 0xCB; a hint is honoured; pieces side by side are
 * one range for a copy. */
static void large_and_sparse(bool)
{
    fixture f;
    const size_t piece = 15ull << 30;
    CUdeviceptr base, hint = 0x300000000000ull;
    CUmemAllocationProp prop = device_memory();
    CUmemAccessDesc all = access(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CUmemGenericAllocationHandle handles[2];
    OK(cuMemAddressReserve(&base, 2 * piece, 0, hint, 0));
    CHECK(base == hint);
    for (int i = 0; i < 2; i++) {
        OK(cuMemCreate(&handles[i], piece, &prop, 0));
        OK(cuMemMap(base + i * piece, piece, 0, handles[i], 0));
    }
    OK(cuMemSetAccess(base, 2 * piece, &all, 1));
    CUdeviceptr border = base + piece - 2 * N;
    f.fill(border, 77, N, nullptr);
    std::vector<uint32_t> got = f.words(border - 4, N + 2);
    CHECK(got[0] == 0xCBCBCBCB && got[1] == 77 && got[N] == 77 && got[N + 1] == 0xCBCBCBCB);
    CHECK(f.words(base + 2 * piece - 4, 1)[0] == 0xCBCBCBCB);
    CUmemGenericAllocationHandle third;
    CHECK_RC(cuMemCreate(&third, piece, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    for (int i = 0; i < 2; i++) {
        OK(cuMemUnmap(base + i * piece, piece));
        OK(cuMemRelease(handles[i]));
    }
    OK(cuMemAddressFree(base, 2 * piece));
}

/* What was mapped, unmapped and mapped elsewhere still holds its bytes. */
static void moves(bool)
{
    fixture f;
    mapped m;
    CUdeviceptr other;
    CUmemAccessDesc all = access(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    f.fill(m.base + GRANULE, 21, N, nullptr);
    OK(cuCtxSynchronize());
    OK(cuMemAddressReserve(&other, 2 * GRANULE, 0, 0, 0));
    OK(cuMemUnmap(m.base, 2 * GRANULE));
    OK(cuMemMap(other, 2 * GRANULE, 0, m.handle, 0));
    OK(cuMemSetAccess(other, 2 * GRANULE, &all, 1));
    CHECK(f.words(other + GRANULE, N)[N - 1] == 21);
    OK(cuMemUnmap(other, 2 * GRANULE));
    OK(cuMemAddressFree(other, 2 * GRANULE));
    m.map(true);
}

static void leak_handle(bool buggy)
{
    fixture f;
    CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle handle;
    OK(cuMemCreate(&handle, GRANULE, &prop, 0));
    if (!buggy)
        OK(cuMemRelease(handle));
}

static void leak_reservation(bool buggy)
{
    fixture f;
    CUdeviceptr base;
    OK(cuMemAddressReserve(&base, GRANULE, 0, 0, 0));
    if (!buggy)
        OK(cuMemAddressFree(base, GRANULE));
}

static void leak_pinned(bool buggy)
{
    fixture f;
    void *p;
    OK(cuMemHostAlloc(&p, 100, 0));
    if (!buggy)
        OK(cuMemFreeHost(p));
}

static void leak_memory(bool buggy)
{
    fixture f;
    CUdeviceptr p;
    OK(cuMemAlloc(&p, 100));
    if (!buggy)
        OK(cuMemFree(p));
}

static void leak_context(bool buggy)
{
    fixture f;
    CUcontext again;
    OK(cuDevicePrimaryCtxRetain(&again, 0));
    if (!buggy)
        OK(cuDevicePrimaryCtxRelease(0));
}

const std::vector<hosttest_case> hosttest_memory = {
    {"copy after unmap", "use-after-unmap", unmapped_copy, nullptr, 0},
    {"kernel after unmap", "use-after-unmap", unmapped_kernel, nullptr, 0},
    {"unmap waits", nullptr, unmap_waits, nullptr, 0},
    {"lifetime of a handle", "stale-handle", lifetimes, nullptr, 0},
    {"access before cuMemSetAccess", "no-access", no_access, nullptr, 0},
    {"write to what may be read", "no-access", read_only, nullptr, 0},
    {"unaligned reserve", "unaligned-reserve", unaligned_reserve, nullptr, 0},
    {"unaligned create", "unaligned-create", unaligned_create, nullptr, 0},
    {"half a handle mapped", "partial-map", half_a_handle, nullptr, 0},
    {"map where nothing is reserved", "map-unreserved", map_unreserved, nullptr, 0},
    {"map over a mapping", "map-twice", map_over, nullptr, 0},
    {"unaligned map", "unaligned-map", unaligned_map, nullptr, 0},
    {"copy to what was never mapped", "unmapped", never_mapped, nullptr, 0},
    {"copy to nowhere", "wild-address", wild, nullptr, 0},
    {"unaligned fill", "misaligned", unaligned_fill, nullptr, 0},
    {"mapping left over", "leak-mapping", leak_mapping, nullptr, 0},
    {"addresses freed while mapped", "free-while-mapped", free_while_mapped, nullptr, 0},
    {"half a mapping unmapped", "unmap-unmapped", half_an_unmap, nullptr, 0},
    {"access past what is mapped", "access-unmapped", access_too_far, nullptr, 0},
    {"host pointer in a copy", "host-pointer", host_as_device_copy, nullptr, 0},
    {"host pointer in a kernel", "host-pointer", host_as_device_kernel, nullptr, 0},
    {"device pointer as a source", "device-pointer-as-host", device_as_host, nullptr, 0},
    {"device pointer followed", "host-dereference", dereference, nullptr, SIGSEGV},
    {"kernel after free", "use-after-free", after_free, nullptr, 0},
    {"copy past the end", "out-of-bounds", past_the_end, nullptr, 0},
    {"copy half pinned", "half-pinned", half_pinned, nullptr, 0},
    {"registered twice", "registered-twice", registered_twice, nullptr, 0},
    {"30 GiB, sparse", nullptr, large_and_sparse, nullptr, 0},
    {"memory that moves", nullptr, moves, nullptr, 0},
    {"handle left over", "leak-handle", leak_handle, nullptr, 0},
    {"reservation left over", "leak-reservation", leak_reservation, nullptr, 0},
    {"pinned memory left over", "leak-pinned", leak_pinned, nullptr, 0},
    {"memory left over", "leak-memory", leak_memory, nullptr, 0},
    {"context left over", "leak-context", leak_context, nullptr, 0},
};
