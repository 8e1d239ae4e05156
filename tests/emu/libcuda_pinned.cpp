/* Pinned host memory, and what the program may not do to it while copies are about it.
 *
 * Memory of cuMemHostAlloc is mapped twice: the program's view can be closed by pages while the driver writes through its own.
 * Memory that was registered is the program's, and stays as it is. */
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "libcuda_memory.h"

constexpr uint8_t FRESH = 0xCB, FREED = 0xDD;

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
