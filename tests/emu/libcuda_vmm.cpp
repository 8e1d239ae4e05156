/* Virtual memory management: reservations, handles, mappings, access. */
#include <algorithm>
#include <sys/mman.h>

#include "libcuda_memory.h"

static bool prop_is_device(const CUmemAllocationProp *prop)
{
    return prop && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED && prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
           prop->location.id == 0;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    ENTER(NEEDS_INIT);
    if (!granularity || !prop_is_device(prop) ||
        (option != CU_MEM_ALLOC_GRANULARITY_MINIMUM && option != CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)) {
        misuse("invalid-value", "cuMemGetAllocationGranularity: properties other than pinned memory of device 0");
        return CUDA_ERROR_INVALID_VALUE;
    }
    *granularity = DEVICE_GRANULE;
    return CUDA_SUCCESS;
}

static bool hint_is_usable(uint64_t at, uint64_t bytes, uint64_t alignment)
{
    bool in_window = at < WINDOW_END && at + bytes > WINDOW_BEGIN;
    return at % std::max(alignment, DEVICE_GRANULE) == 0 && at >= HINT_BEGIN && at + bytes <= HINT_END && !in_window &&
           hold_addresses(at, bytes);
}

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                             unsigned long long flags)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    if (!ptr || size == 0 || size % DEVICE_GRANULE != 0 || (alignment & (alignment - 1)) != 0 || flags != 0) {
        misuse("unaligned-reserve",
               "cuMemAddressReserve(size 0x%zx, alignment 0x%zx, flags 0x%llx): sizes are multiples of 2 MiB", size,
               alignment, flags);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (addr % DEVICE_GRANULE != 0) {
        misuse("unaligned-reserve", "cuMemAddressReserve at 0x%llx: addresses are multiples of 2 MiB", addr);
        return CUDA_ERROR_INVALID_VALUE;
    }
    uint64_t at = addr && hint_is_usable(addr, size, alignment) ? addr : new_addresses(size, alignment);
    uint8_t *mirror = at ? pages_reserve(size) : nullptr;
    if (!mirror)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mem().reservations[at] = {at, size, mirror};
    *ptr = at;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    memory_state &m = mem();
    auto it = m.reservations.find(ptr);
    if (it == m.reservations.end() || it->second.bytes != size) {
        misuse("invalid-value", "cuMemAddressFree(0x%llx, 0x%zx): no such reservation", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (overlaps(m.mappings, ptr, size)) {
        if (emu_leaks_count()) /* else cuMemUnmap may have failed on request */
            misuse("free-while-mapped", "cuMemAddressFree(0x%llx, 0x%zx): something is still mapped there", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    munmap(it->second.mirror, size);
    let_go_of_addresses(ptr, size);
    bury(ptr, size, "use-after-free", "was freed by cuMemAddressFree");
    m.reservations.erase(it);
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    if (!handle || flags != 0 || !prop_is_device(prop)) {
        misuse("invalid-value", "cuMemCreate: properties other than pinned memory of device 0");
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (size == 0 || size % DEVICE_GRANULE != 0) {
        misuse("unaligned-create", "cuMemCreate of 0x%zx bytes: sizes are multiples of 2 MiB", size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!take_memory(size))
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint8_t *home = pages_new(size);
    if (!home) {
        mem().used_bytes -= size;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = mem().next_handle++;
    mem().handles[*handle] = {size, home, 0, false, true, false};
    return CUDA_SUCCESS;
}

static physical *handle_find(CUmemGenericAllocationHandle handle, const char *call)
{
    auto it = mem().handles.find(handle);
    if (it != mem().handles.end() && it->second.alive && !it->second.released)
        return &it->second;
    misuse("stale-handle", "%s: handle %llu %s", call, handle,
           it == mem().handles.end() ? "was never created" : "was released");
    return nullptr;
}

/* Memory lives until it is unmapped and released. */
static void physical_drop(physical &p)
{
    if (!p.alive || !p.released || p.mapped_at)
        return;
    munmap(p.home, p.bytes);
    mem().used_bytes -= p.bytes;
    p.alive = false;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    physical *p = handle_find(handle, "cuMemRelease");
    if (!p)
        return CUDA_ERROR_INVALID_VALUE;
    p->released = true;
    physical_drop(*p);
    return CUDA_SUCCESS;
}

static CUresult refuse_map(CUdeviceptr ptr, size_t size, size_t offset, const physical &p)
{
    memory_state &m = mem();
    if (ptr % DEVICE_GRANULE != 0 || size % DEVICE_GRANULE != 0) {
        misuse("unaligned-map", "cuMemMap(0x%llx, 0x%zx): multiples of 2 MiB", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (offset != 0 || size != p.bytes) {
        misuse("partial-map", "cuMemMap of 0x%zx bytes at +0x%zx of a handle of 0x%llx: only whole handles", size,
               offset, (unsigned long long)p.bytes);
        return CUDA_ERROR_INVALID_VALUE;
    }
    const reservation *r = around(m.reservations, ptr);
    if (!r || ptr + size > r->begin + r->bytes) {
        misuse("map-unreserved", "cuMemMap(0x%llx, 0x%zx): not within one reservation", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (overlaps(m.mappings, ptr, size)) {
        misuse("map-twice", "cuMemMap(0x%llx, 0x%zx): something is mapped there", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (p.mapped_at) {
        misuse("map-twice", "cuMemMap(0x%llx, 0x%zx): the handle is mapped at 0x%llx; twice is legal, but not emulated",
               ptr, size, (unsigned long long)p.mapped_at);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    physical *p = handle_find(handle, "cuMemMap");
    if (!p || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult rc = refuse_map(ptr, size, offset, *p);
    if (rc != CUDA_SUCCESS)
        return rc;
    memory_state &m = mem();
    const reservation *r = around(m.reservations, ptr);
    pages_move(r->mirror + (ptr - r->begin), p->home, size);
    munmap(p->home, size);
    p->home = nullptr;
    p->mapped_at = ptr;
    if (p->used)
        work_machine()->host_wrote(ptr, size);
    p->used = true;
    m.mappings[ptr] = {ptr, size, handle, false, false, m.next_number++};
    return CUDA_SUCCESS;
}

/* Calls fn for the mappings that make up [ptr, ptr + size), whole and without a gap; false: they do not. */
static bool each_mapping(CUdeviceptr ptr, size_t size, const std::function<void(mapping &)> &fn)
{
    std::vector<mapping *> found;
    for (uint64_t at = ptr; at < ptr + size;) {
        auto it = mem().mappings.find(at);
        if (it == mem().mappings.end() || at + it->second.bytes > ptr + size)
            return false;
        found.push_back(&it->second);
        at += it->second.bytes;
    }
    for (mapping *m : found)
        fn(*m);
    return !found.empty();
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    if (!desc || count != 1 || desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE || desc->location.id != 0) {
        misuse("invalid-value", "cuMemSetAccess: for something other than device 0");
        return CUDA_ERROR_INVALID_VALUE;
    }
    auto set = [&](mapping &m) {
        m.readable = desc->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
        m.writable = desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    };
    if (!each_mapping(ptr, size, set)) {
        misuse("access-unmapped", "cuMemSetAccess(0x%llx, 0x%zx): not exactly what was mapped", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static void unmap_one(mapping &m)
{
    physical &p = mem().handles[m.handle];
    const reservation *r = around(mem().reservations, m.begin);
    p.home = pages_reserve(m.bytes);
    pages_move(p.home, r->mirror + (m.begin - r->begin), m.bytes);
    p.mapped_at = 0;
    work_machine()->forget(m.begin, m.bytes);
    bury(m.begin, m.bytes, "use-after-unmap", "was unmapped by cuMemUnmap");
    physical_drop(p);
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    ENTER(NEEDS_INIT | UNSAFE_IN_CAPTURE);
    work_finish();
    std::vector<uint64_t> gone;
    auto unmap = [&](mapping &m) {
        unmap_one(m);
        gone.push_back(m.begin);
    };
    if (!each_mapping(ptr, size, unmap)) {
        misuse("unmap-unmapped", "cuMemUnmap(0x%llx, 0x%zx): not exactly what was mapped", ptr, size);
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (uint64_t at : gone)
        mem().mappings.erase(at);
    return CUDA_SUCCESS;
}
