/* Device addresses, what lies behind them, and pinned host memory.
 *
 * A device address means nothing to the host: its pages are reserved without any access, so that a host that follows a device
 * pointer crashes. The bytes lie elsewhere. Each reservation has a mirror of the same size; mapping a handle moves its pages
 * into the mirror, so that what is contiguous for the device is so here. New memory is 0xCB throughout and costs nothing until
 * it is touched: it is a private mapping of one small file of such bytes, over and over. Addresses are not used twice unless
 * the program asks for one by name; so stale ones are told. */
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "libcuda_state.h"

constexpr uint8_t FRESH = 0xCB, FREED = 0xDD;
constexpr uint64_t POISON_BYTES = 8ull << 20;
constexpr uint64_t PAGE = 4096;
constexpr uint64_t FIRST_ADDRESS = 0x200000000000ull;
/* Where a program may ask for an address: not among the lowest, and not where the interpreter has its own. */
constexpr uint64_t HINT_BEGIN = 0x1000000000ull, HINT_END = 0x7e0000000000ull;
constexpr uint64_t WINDOW_BEGIN = 0x7000000000ull, WINDOW_END = 0x8000000000ull;

struct reservation {
    uint64_t begin, bytes;
    uint8_t *mirror;
};

struct physical {
    uint64_t bytes;
    uint8_t *home;              /* its pages while it is not mapped */
    uint64_t mapped_at;         /* 0: nowhere */
    bool released, alive, used; /* used: was mapped before, so it may hold what was written then */
};

struct mapping {
    uint64_t begin, bytes;
    CUmemGenericAllocationHandle handle;
    bool readable, writable;
    uint64_t allocation;
};

struct allocation {
    uint64_t begin, bytes;
    uint8_t *host;
    uint64_t number;
};

struct pinned {
    uint64_t begin, bytes;
    uint8_t *alias;
    bool registered, shadowed;
    uint64_t number;
    std::vector<uint32_t> n_protected; /* per page */
};

/* A variable of a module: the interpreter keeps it, copies reach it. */
struct variable {
    uint64_t begin, bytes;
    uint8_t *host;
    bool writable;
};

struct grave {
    uint64_t end;
    const char *name;
    std::string text;
};

struct memory_state {
    std::map<uint64_t, reservation> reservations;
    std::unordered_map<CUmemGenericAllocationHandle, physical> handles;
    std::map<uint64_t, mapping> mappings;
    std::map<uint64_t, allocation> allocations;
    std::map<uint64_t, pinned> pins;
    std::map<uint64_t, variable> variables;
    std::map<uint64_t, grave> graves;
    uint64_t next_address = FIRST_ADDRESS, next_handle = 1, next_number = 1;
    uint64_t used_bytes = 0;
};

static memory_state &mem()
{
    static memory_state *state = new memory_state;
    return *state;
}

/* The last entry that begins at or before address, if it reaches it. */
template <class T> static T *around(std::map<uint64_t, T> &map, uint64_t address)
{
    auto it = map.upper_bound(address);
    if (it == map.begin())
        return nullptr;
    --it;
    return address < it->second.begin + it->second.bytes ? &it->second : nullptr;
}

template <class T> static bool overlaps(const std::map<uint64_t, T> &map, uint64_t begin, uint64_t bytes)
{
    auto it = map.lower_bound(begin + bytes);
    if (it == map.begin())
        return false;
    --it;
    return it->second.begin + it->second.bytes > begin;
}

/* --- pages ------------------------------------------------------------------------------------------------------------ */

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

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

static uint8_t *pages_reserve(uint64_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? nullptr : (uint8_t *)p;
}

static uint8_t *pages_new(uint64_t bytes)
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
static void pages_move(uint8_t *to, uint8_t *from, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += POISON_BYTES) {
        uint64_t n = std::min(POISON_BYTES, bytes - at);
        if (mremap(from + at, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, to + at) == MAP_FAILED)
            abort();
        if (mmap(from + at, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            abort();
    }
}

/* Holds [address, address + bytes) against the host's own allocations and against its touch. */
static bool hold_addresses(uint64_t address, uint64_t bytes)
{
    /* The system call itself: a sanitizer's mmap would choose another place. */
    long p = syscall(SYS_mmap, address, bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == -1)
        return false;
    if ((uint64_t)p != address)
        munmap((void *)p, bytes);
    return (uint64_t)p == address;
}

/* Beyond what is taken, by ever larger steps. */
static uint64_t new_addresses(uint64_t bytes, uint64_t alignment)
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

static void bury(uint64_t begin, uint64_t bytes, const char *name, std::string text)
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

/* --- pinned memory ------------------------------------------------------------------------------------------------------ */

host_kind memory_host_kind(uint64_t address, uint64_t bytes)
{
    pinned *p = around(mem().pins, address);
    if (p && address + bytes <= p->begin + p->bytes)
        return host_kind::pinned;
    return overlaps(mem().pins, address, bytes) ? host_kind::mixed : host_kind::pageable;
}

bool memory_pinned_block(uint64_t address, span *out)
{
    const pinned *p = around(mem().pins, address);
    if (p)
        *out = {p->begin, p->bytes, true};
    return p != nullptr;
}

uint8_t *memory_pinned_alias(uint64_t address)
{
    const pinned *p = around(mem().pins, address);
    return p ? p->alias + (address - p->begin) : nullptr;
}

static void protect_page(const pinned &p, uint64_t page, int access)
{
    if (mprotect((uint8_t *)p.begin + page * PAGE, PAGE, access) != 0)
        abort();
}

/* Registered memory belongs to the program's allocator, which may keep its own books on the same pages: left alone. */
void memory_protect(uint64_t address, uint64_t bytes)
{
    pinned *p = around(mem().pins, address);
    if (!p || p->registered)
        return;
    for (uint64_t page = (address - p->begin) / PAGE; page * PAGE < address + bytes - p->begin; page++)
        if (p->n_protected[page]++ == 0)
            protect_page(*p, page, PROT_NONE);
}

void memory_unprotect(uint64_t address, uint64_t bytes)
{
    pinned *p = around(mem().pins, address);
    if (!p || p->registered)
        return;
    for (uint64_t page = (address - p->begin) / PAGE; page * PAGE < address + bytes - p->begin; page++)
        if (--p->n_protected[page] == 0)
            protect_page(*p, page, PROT_READ | PROT_WRITE);
}

static struct sigaction fault_before, trap_before;
/* The page that this thread touches by one instruction, and that is to be protected again behind it. */
static thread_local uint64_t stepped_page;

static bool is_write(const void *context)
{
#ifdef __x86_64__
    return (((const ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#else
    (void)context;
    return false;
#endif
}

/* Lets the instruction at hand through, and stops behind it. */
static void single_step(void *context, bool on)
{
#ifdef __x86_64__
    constexpr greg_t TRAP_FLAG = 0x100;
    greg_t &flags = ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    flags = on ? flags | TRAP_FLAG : flags & ~TRAP_FLAG;
#else
    (void)context;
    (void)on;
#endif
}

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)info;
    if (!stepped_page) {
        sigaction(number, &trap_before, nullptr);
        return;
    }
    single_step(context, false);
    lock_enter();
    pinned *p = around(mem().pins, stepped_page);
    uint64_t page = p ? (stepped_page - p->begin) / PAGE : 0;
    if (p && p->n_protected[page] > 0)
        protect_page(*p, page, PROT_NONE);
    lock_leave();
    stepped_page = 0;
}

/* True: the access may be tried again. What lies beside a copy's bytes on the same page may be touched; the page is only open
 * for that one instruction. */
static bool fault_in_pinned(uint64_t address, void *context)
{
    lock_enter();
    pinned *p = around(mem().pins, address);
    if (p) {
        bool write = is_write(context);
        std::string what;
        if (work_touches(address, 1, &what)) {
            misuse(write ? "pinned-write-early" : "pinned-read-early",
                   "the host %s pinned memory at 0x%llx without having waited for %s", write ? "writes" : "reads",
                   (unsigned long long)address, what.c_str());
        } else {
            stepped_page = address & ~(PAGE - 1);
            single_step(context, true);
        }
        protect_page(*p, (address - p->begin) / PAGE, PROT_READ | PROT_WRITE);
    }
    lock_leave();
    return p != nullptr;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    uint64_t address = (uint64_t)info->si_addr;
    if (fault_in_pinned(address, context))
        return;
    lock_enter();
    if (memory_is_device(address))
        misuse("host-dereference", "the host %s 0x%llx, an address of the device",
               is_write(context) ? "writes to" : "reads from", (unsigned long long)address);
    auto it = mem().graves.upper_bound(address);
    if (it != mem().graves.begin() && address < std::prev(it)->second.end)
        misuse(std::prev(it)->second.name, "the host touches 0x%llx, which %s", (unsigned long long)address,
               std::prev(it)->second.text.c_str());
    lock_leave();
    /* The instruction runs again, and meets whoever was here before us. */
    sigaction(number, &fault_before, nullptr);
}

void memory_install_fault_handler()
{
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &fault_before);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, &trap_before);
}

static uint8_t *map_shared(int fd, uint64_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? nullptr : (uint8_t *)p;
}

static CUresult host_alloc(void **out, size_t bytes)
{
    if (!out || bytes == 0) {
        misuse("invalid-value", "pinned memory of %zu bytes", bytes);
        return CUDA_ERROR_INVALID_VALUE;
    }
    uint64_t whole = round_up(bytes, PAGE);
    int fd = memfd_create("emu-pinned", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)whole) != 0) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    uint8_t *user = map_shared(fd, whole), *alias = map_shared(fd, whole);
    close(fd);
    if (!user || !alias)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(alias, FRESH, whole);
    memory_state &m = mem();
    pinned p = {(uint64_t)user, bytes, alias, false, false, m.next_number++, std::vector<uint32_t>(whole / PAGE)};
    m.graves.erase((uint64_t)user);
    m.pins[p.begin] = std::move(p);
    clock_pinned((int64_t)bytes);
    *out = user;
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (Flags & ~(unsigned)(CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED)) {
        misuse("invalid-value", "cuMemHostAlloc: flags 0x%x", Flags);
        return CUDA_ERROR_INVALID_VALUE;
    }
    return host_alloc(pp, bytesize);
}

CUresult cuMemAllocHost(void **pp, size_t bytesize)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return host_alloc(pp, bytesize);
}

/* Whoever lets go of pinned memory while a copy may still touch it. The copy runs now, so that nothing worse follows. */
static void report_in_flight(const pinned &p, const char *name, const char *call)
{
    std::string what;
    if (work_touches(p.begin, p.bytes, &what))
        misuse(name, "%s(0x%llx) without having waited for %s", call, (unsigned long long)p.begin, what.c_str());
    work_run_all();
}

CUresult cuMemFreeHost(void *p)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    memory_state &m = mem();
    auto it = m.pins.find((uint64_t)p);
    if (it == m.pins.end() || it->second.registered) {
        misuse("invalid-value", "cuMemFreeHost(%p): not from cuMemHostAlloc, or freed before", p);
        return CUDA_ERROR_INVALID_VALUE;
    }
    report_in_flight(it->second, "pinned-freed-in-flight", "cuMemFreeHost");
    uint64_t whole = round_up(it->second.bytes, PAGE);
    memset(it->second.alias, FREED, it->second.bytes);
    munmap(it->second.alias, whole);
    /* Kept, so that nothing else comes to lie there, and untouchable. */
    mmap(p, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    bury((uint64_t)p, whole, "use-after-free", "was freed by cuMemFreeHost");
    clock_pinned(-(int64_t)it->second.bytes);
    m.pins.erase(it);
    return CUDA_SUCCESS;
}

static bool all_host_mapped(uint64_t address, uint64_t bytes)
{
    uint64_t begin = address & ~(PAGE - 1), end = round_up(address + bytes, PAGE);
    std::vector<unsigned char> in_core((end - begin) / PAGE);
    return mincore((void *)begin, end - begin, in_core.data()) == 0;
}

CUresult cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    (void)Flags;
    memory_state &m = mem();
    if (!p || bytesize == 0 || !all_host_mapped((uint64_t)p, bytesize) || memory_is_device((uint64_t)p)) {
        misuse("invalid-value", "cuMemHostRegister(%p, %zu): not memory of this process", p, bytesize);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (overlaps(m.pins, (uint64_t)p, bytesize)) {
        misuse("registered-twice", "cuMemHostRegister(%p, %zu): some of it is pinned already", p, bytesize);
        return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    m.pins[(uint64_t)p] = {(uint64_t)p, bytesize, (uint8_t *)p, true, false, m.next_number++, {}};
    clock_pinned((int64_t)bytesize);
    return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void *p)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    memory_state &m = mem();
    auto it = m.pins.find((uint64_t)p);
    if (it == m.pins.end() || !it->second.registered) {
        misuse("invalid-value", "cuMemHostUnregister(%p): not registered", p);
        return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    }
    report_in_flight(it->second, "pinned-freed-in-flight", "cuMemHostUnregister");
    clock_pinned(-(int64_t)it->second.bytes);
    m.pins.erase(it);
    return CUDA_SUCCESS;
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!pdptr || Flags != 0 || !around(mem().pins, (uint64_t)p)) {
        misuse("invalid-value", "cuMemHostGetDevicePointer(%p): not pinned", p);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *pdptr = (CUdeviceptr)p;
    return CUDA_SUCCESS;
}

/* The host writes pinned memory without telling anyone, so all of it counts as written. */
void memory_host_wrote_pinned(ptx_machine *machine)
{
    for (auto &entry : mem().pins) {
        pinned &p = entry.second;
        if (!p.shadowed)
            machine->host_wrote(p.begin, p.bytes);
        p.shadowed = true;
    }
}

/* --- cuMemAlloc ------------------------------------------------------------------------------------------------------- */

static bool take_memory(uint64_t bytes)
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

/* --- virtual memory management ------------------------------------------------------------------------------------------ */

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
    munmap((void *)ptr, size);
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
