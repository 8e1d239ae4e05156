/* ptx - the interpreter of the emulated driver: the PTX that nvcc emitted, executed strictly.
 *
 *   ptx_parse     text -> module: instructions once, operands resolved to register rows
 *   ptx_launch    runs one grid to its end on the calling thread; everything it finds wrong goes to machine.report
 *
 * The machine sees device memory through `memory` alone; whoever owns allocations (libcuda.cpp, or a test) answers it. */
#ifndef ROUSE_EMU_PTX_H
#define ROUSE_EMU_PTX_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/* [begin, end) of device addresses that behave alike; host: where the byte at `begin` lies in this process. */
struct ptx_range {
    uint64_t begin = 0, end = 0;
    uint8_t *host = nullptr;
    bool readable = false, writable = false;
    uint64_t allocation = 0; /* a number that no other allocation has had */
};

struct ptx_memory {
    virtual ~ptx_memory() = default;
    /* The range around addr; false: nothing there, and *why says what is known ("unmapped by cuMemUnmap", "a host pointer"). */
    virtual bool find(uint64_t addr, ptx_range *out, std::string *why) = 0;
};

/* What went wrong, by name, so that tests can ask for it: "global-bounds", "global-race", "global-uninitialised", "shared-race",
 * "shared-bounds", "shared-uninitialised", "misaligned", "barrier-divergence", "shuffle-divergence", "mask-mismatch",
 * "cp-async-unwaited", "early-exit-barrier", "budget", "unknown-opcode", ... (the list is ptx_fault_names). */
struct ptx_report {
    std::string name;
    std::string kernel, text; /* the PTX instruction, its line, block and thread, the address and what is known of it */
    bool sticky = false;      /* a real card would end the context with it */
};

struct ptx_counters { /* of one launch, or summed by kernel name */
    uint64_t launches = 0, blocks = 0, warp_instructions = 0, lane_instructions = 0;
    uint64_t global_load_requests = 0, global_load_sectors = 0,
             global_load_bytes = 0; /* 32-byte sectors; bytes asked for by active lanes */
    uint64_t global_store_requests = 0, global_store_sectors = 0, global_store_bytes = 0;
    uint64_t unique_load_bytes = 0,
             unique_store_bytes = 0; /* distinct 32-byte sectors of the launch times 32: what DRAM must move */
    uint64_t shared_requests = 0, shared_wavefronts = 0; /* shared_wavefronts above _min are bank conflicts: */
    uint64_t shared_wavefronts_min = 0;                  /* 1 a request of up to 4 bytes a lane, 2 of 8, 4 of 16 */
    uint64_t barriers = 0, mma_flops = 0, fma_flops = 0;
};

struct ptx_kernel;
struct ptx_module;

struct ptx_param {
    uint32_t offset, bytes, align;
};
struct ptx_kernel_info {
    std::string name;
    std::vector<ptx_param> params;
    uint32_t param_bytes, static_shared_bytes, max_threads /* .maxntid product, 0: none */, n_instructions;
};

std::unique_ptr<ptx_module, void (*)(ptx_module *)> ptx_parse(const char *text, size_t n, std::string *out_error);
const ptx_kernel *ptx_find(const ptx_module *module, const char *name); /* NULL: no such entry */
const ptx_kernel_info &ptx_info(const ptx_kernel *kernel);
std::vector<const ptx_kernel *> ptx_kernels(const ptx_module *module);
/* A .global or .const variable, for cuModuleGetGlobal: it lives in the module, not in ptx_memory. Copies to and from it go to
 * out->host; kernels reach it without asking ptx_memory. */
bool ptx_find_data(ptx_module *module, const char *name, ptx_range *out);

struct ptx_options {
    uint64_t seed = 0;    /* order of blocks and warps; 0: plain order */
    bool preempt = false; /* switch warps at random instructions too */
    int jitter_ulps = 0;  /* noise on approx instructions */
    uint64_t budget = 0;  /* lane instructions a launch may take; 0: none */
    bool shadow = true;   /* races, initialisation */
};

struct ptx_launch_args {
    uint32_t grid[3], block[3], dynamic_shared_bytes;
    const void *params; /* [param_bytes], as in the kernel's .param space */
};

class ptx_machine
{
  public:
    ptx_machine(ptx_memory *memory, const ptx_options &options);
    ~ptx_machine();
    std::function<void(const ptx_report &)> report;
    /* False: the grid ended by a sticky fault. */
    bool launch(const ptx_kernel *kernel, const ptx_launch_args &args);
    const ptx_counters &counters(const ptx_kernel *kernel) const;
    /* [n_instructions] how often each was executed; and its text with the line in the PTX. */
    const std::vector<uint64_t> &coverage(const ptx_kernel *kernel) const;
    static std::string instruction_text(const ptx_kernel *kernel, uint32_t index);
    /* The host wrote or freed [addr, addr + bytes): its shadow is initialised (written) or forgotten. Memory that a stream
     * orders before a later launch does not race with it. */
    void host_wrote(uint64_t addr, uint64_t bytes);
    void forget(uint64_t addr, uint64_t bytes);
    bool initialised(uint64_t addr, uint64_t bytes) const;

  private:
    struct state;
    std::unique_ptr<state> s;
};

/* Generic addresses that are not device memory lie in [PTX_SHARED_WINDOW, 0x8000000000): shared memory first (static, then
 * dynamic), local memory, variables of modules. ptx_memory has nothing there. */
constexpr uint64_t PTX_SHARED_WINDOW = 0x7100000000ull;

extern const std::vector<const char *> ptx_fault_names;

#endif
