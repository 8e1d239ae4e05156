/* Device addresses, and what lies behind them.
 *
 * A device address means nothing to the host: its pages are reserved without any access, so that a host that follows a device
 * pointer crashes. The bytes lie elsewhere. Each reservation has a mirror of the same size; mapping a handle moves its pages
 * into the mirror, so that what is contiguous for the device is so here. New memory is 0xCB throughout and costs nothing until
 * it is touched: it is a private mapping of one small file of such bytes, over and over. Addresses are not used twice unless
 * the program asks for one by name; so stale ones are told. */
#include <algorithm>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "libcuda_memory.h"

constexpr uint8_t FRESH = 0xCB;
constexpr uint64_t POISON_BYTES = 8ull << 20;

memory_state &mem()
{
    static memory_state *state = new memory_state;
    return *state;
}

/* --- pages ------------------------------------------------------------------------------------------------------------ */

static int poison_file()
{
    static int fd = [] {
        int f = memfd_create("emu-poison", MFD_CLOEXEC);
        std::vector<uint8_t> bytes(POISON_BYTES, FRESH);
        if (f < 0 || write(f, bytes.data(), bytes.size()) != (ssize_t)bytes.size())
            abort();
        return f;
    }();
    return fd;
}

uint8_t *pages_reserve(uint64_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : (uint8_t *)p;
}

uint8_t *pages_new(uint64_t bytes)
{
    uint8_t *base = pages_reserve(bytes);
    for (uint64_t at = 0; base && at < bytes; at += POISON_BYTES) {
        uint64_t n = std::min(POISON_BYTES, bytes - at);
        if (mmap(base + at, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, poison_file(), 0) ==
            MAP_FAILED) {
            munmap(base, bytes);
            return nullptr;
        }
    }
    return base;
}

/* Pages of pages_new; what is left behind cannot be touched. */
void pages_move(uint8_t *to, uint8_t *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += POISON_BYTES) {
        uint64_t n = std::min(POISON_BYTES, bytes - at);
        if (mremap(from + at, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, to + at) == MAP_FAILED)
            abort();
        if (mmap(from + at, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            abort();
    }
}

/* ThreadSanitizer keeps this stretch without access already, for itself. */
extern "C" void __tsan_init() __attribute__((weak));
constexpr uint64_t TSAN_GAP_END = 0x300000000000ull;

static bool held_by_sanitizer(uint64_t address, uint64_t bytes)
{
    return __tsan_init && address >= FIRST_ADDRESS && address + bytes <= TSAN_GAP_END;
}

bool hold_addresses(uint64_t address, uint64_t bytes)
{
    if (held_by_sanitizer(address, bytes))
        return !overlaps(mem().reservations, address, bytes) && !overlaps(mem().allocations, address, bytes);
    /* The system call itself: a sanitizer's mmap would choose another place. */
    long p = syscall(SYS_mmap, address, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == -1)
        return false;
    if ((uint64_t)p != address)
        munmap((void *)p, bytes);
    return (uint64_t)p == address;
}

void let_go_of_addresses(uint64_t address, uint64_t bytes)
{
    if (!held_by_sanitizer(address, bytes))
        munmap((void *)address, bytes);
}

/* Beyond what is taken, by ever larger steps. */
uint64_t new_addresses(uint64_t bytes, uint64_t alignment)
{
    memory_state &m = mem();
    uint64_t unit = std::max(alignment, DEVICE_GRANULE);
    for (uint64_t step = unit;; step *= 2) {
        uint64_t at = round_up(m.next_address, unit);
        if (at + bytes > HINT_END)
            return 0;
        if (hold_addresses(at, round_up(bytes, PAGE))) {
            m.next_address = at + round_up(bytes, DEVICE_GRANULE) + DEVICE_GRANULE;
            return at;
        }
        m.next_address = at + step;
    }
}

void bury(uint64_t begin, uint64_t bytes, const char *name, std::string text)
{
    mem().graves[begin] = {begin + bytes, name, std::move(text)};
}

/* --- looking up ------------------------------------------------------------------------------------------------------- */

static bool host_mapped(uint64_t address)
{
    unsigned char in_core;
    return mincore((void *)(address & ~(PAGE - 1)), 1, &in_core) == 0;
}

bool memory_is_device(uint64_t address)
{
    return around(mem().allocations, address) || around(mem().reservations, address);
}

void memory_add_variable(const ptx_range &r)
{
    mem().variables[r.begin] = {r.begin, r.end - r.begin, r.host, r.writable};
}

void memory_remove_variable(uint64_t address)
{
    mem().variables.erase(address);
}

/* "name: text" of why nothing can be reached at address. */
static std::string why_not(uint64_t address)
{
    memory_state &m = mem();
    auto it = m.graves.upper_bound(address);
    const grave *g = it == m.graves.begin() ? nullptr : &std::prev(it)->second;
    bool in_grave = g && address < g->end;
    if (const reservation *r = around(m.reservations, address)) {
        if (in_grave)
            return text_of("%s: 0x%llx %s", g->name, (unsigned long long)address, g->text.c_str());
        return text_of("unmapped: 0x%llx is reserved, at +0x%llx of %llu bytes, with nothing mapped there",
                       (unsigned long long)address, (unsigned long long)(address - r->begin),
                       (unsigned long long)r->bytes);
    }
    if (in_grave)
        return text_of("%s: 0x%llx %s", g->name, (unsigned long long)address, g->text.c_str());
    auto after = m.allocations.upper_bound(address);
    if (after != m.allocations.begin()) {
        const allocation &a = std::prev(after)->second;
        if (address - (a.begin + a.bytes) < DEVICE_GRANULE)
            return text_of("out-of-bounds: 0x%llx is %llu bytes past the end of an allocation of %llu",
                           (unsigned long long)address, (unsigned long long)(address - a.begin - a.bytes),
                           (unsigned long long)a.bytes);
    }
    if (host_mapped(address))
        return text_of("host-pointer: 0x%llx is an address of this process, not of the device",
                       (unsigned long long)address);
    return text_of("wild-address: 0x%llx was never given out", (unsigned long long)address);
}

bool memory_find(uint64_t address, ptx_range *out, std::string *why)
{
    memory_state &m = mem();
    if (const mapping *p = around(m.mappings, address)) {
        if (!p->readable) {
            *why = text_of("no-access: 0x%llx is mapped, but cuMemSetAccess was not called for it",
                           (unsigned long long)address);
            return false;
        }
        const reservation *r = around(m.reservations, address);
        *out = {p->begin,    p->begin + p->bytes, r->mirror + (p->begin - r->begin),
                p->readable, p->writable,         p->allocation};
        return true;
    }
    if (const allocation *a = around(m.allocations, address)) {
        *out = {a->begin, a->begin + a->bytes, a->host, true, true, a->number};
        return true;
    }
    if (const variable *v = around(m.variables, address)) {
        *out = {v->begin, v->begin + v->bytes, v->host, true, v->writable, 0};
        return true;
    }
    if (pinned *p = around(m.pins, address)) {
        *out = {p->begin, p->begin + p->bytes, p->alias, true, true, p->number};
        return true;
    }
    *why = why_not(address);
    return false;
}

place memory_place(uint64_t address, bool write)
{
    place found;
    ptx_range r;
    if (!memory_find(address, &r, &found.why))
        return found;
    if (write && !r.writable) {
        found.why = text_of("no-access: 0x%llx may be read, not written", (unsigned long long)address);
        return found;
    }
    found.host = r.host + (address - r.begin);
    found.bytes = r.end - address;
    /* Mappings side by side in one reservation lie so in its mirror. */
    ptx_range next;
    std::string ignored;
    while (around(mem().mappings, r.begin) && memory_find(r.end, &next, &ignored) && around(mem().mappings, r.end) &&
           next.host == r.host + (r.end - r.begin) && (next.writable || !write)) {
        found.bytes += next.end - next.begin;
        r = next;
    }
    return found;
}

bool memory_check(uint64_t address, uint64_t bytes, bool write, std::string *why)
{
    while (bytes > 0) {
        place p = memory_place(address, write);
        if (!p.host) {
            *why = p.why;
            return false;
        }
        uint64_t n = std::min(bytes, p.bytes);
        address += n;
        bytes -= n;
    }
    return true;
}

void memory_report(const char *otherwise, const std::string &why, const std::string &what)
{
    size_t colon = why.find(": ");
    if (colon == std::string::npos)
        misuse(otherwise, "%s: %s", what.c_str(), why.c_str());
    else
        misuse(why.substr(0, colon).c_str(), "%s: %s", what.c_str(), why.substr(colon + 2).c_str());
}

/* --- cuMemAlloc ------------------------------------------------------------------------------------------------------- */

bool take_memory(uint64_t bytes)
{
    if (bytes > settings().memory_bytes - mem().used_bytes)
        return false;
    mem().used_bytes += bytes;
    return true;
}

CUresult cuMemGetInfo(size_t *free, size_t *total)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!free || !total)
        return CUDA_ERROR_INVALID_VALUE;
    *free = settings().memory_bytes - mem().used_bytes;
    *total = settings().memory_bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *dptr, size_t bytesize)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    memory_state &m = mem();
    if (!dptr || bytesize == 0) {
        misuse("invalid-value", "cuMemAlloc of %zu bytes", bytesize);
        return CUDA_ERROR_INVALID_VALUE;
    }
    uint64_t whole = round_up(bytesize, PAGE);
    if (!take_memory(whole))
        return CUDA_ERROR_OUT_OF_MEMORY;
    uint8_t *host = pages_new(whole);
    uint64_t base = host ? new_addresses(whole + PAGE, DEVICE_GRANULE) : 0;
    if (!base) {
        if (host)
            munmap(host, whole);
        m.used_bytes -= whole;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    /* The real one promises 256 bytes of alignment, and nothing more. */
    uint64_t address = base + 256 * (1 + 2 * (m.next_number % 7));
    m.allocations[address] = {address, bytesize, host, m.next_number++};
    *dptr = address;
    return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr dptr)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    memory_state &m = mem();
    if (dptr == 0)
        return CUDA_SUCCESS;
    auto it = m.allocations.find(dptr);
    if (it == m.allocations.end()) {
        misuse("invalid-value", "cuMemFree(0x%llx): not from cuMemAlloc, or freed before", dptr);
        return CUDA_ERROR_INVALID_VALUE;
    }
    work_finish();
    work_machine()->forget(it->second.begin, it->second.bytes);
    uint64_t whole = round_up(it->second.bytes, PAGE);
    munmap(it->second.host, whole);
    m.used_bytes -= whole;
    bury(dptr, it->second.bytes, "use-after-free", "was freed by cuMemFree");
    m.allocations.erase(it);
    return CUDA_SUCCESS;
}

/* --- questions ----------------------------------------------------------------------------------------------------------- */

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    ptx_range r;
    std::string why;
    bool is_pinned = around(mem().pins, ptr) != nullptr;
    if (!data || !memory_find(ptr, &r, &why))
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(CUmemorytype *)data = is_pinned ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!is_pinned)
            return CUDA_ERROR_INVALID_VALUE;
        *(void **)data = (void *)ptr;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = r.begin;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = r.end - r.begin;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

void memory_report_leaks()
{
    memory_state &m = mem();
    for (auto &e : m.allocations)
        misuse("leak-memory", "0x%llx of %llu bytes was not given to cuMemFree", (unsigned long long)e.first,
               (unsigned long long)e.second.bytes);
    for (auto &e : m.mappings)
        misuse("leak-mapping", "0x%llx of %llu bytes is still mapped", (unsigned long long)e.first,
               (unsigned long long)e.second.bytes);
    for (auto &e : m.handles)
        if (e.second.alive && !e.second.released)
            misuse("leak-handle", "handle %llu of %llu bytes was not released", e.first,
                   (unsigned long long)e.second.bytes);
    for (auto &e : m.reservations)
        misuse("leak-reservation", "0x%llx of %llu bytes is still reserved", (unsigned long long)e.first,
               (unsigned long long)e.second.bytes);
    for (auto &e : m.pins)
        misuse(e.second.registered ? "leak-registered" : "leak-pinned", "0x%llx of %llu bytes is still pinned",
               (unsigned long long)e.first, (unsigned long long)e.second.bytes);
}
