/* libcuda_state - what the parts of the emulated driver share.
 *
 *   log       settings from the environment, misuse reports, failing on request, what is left at exit
 *   clock     virtual time of links and the disk
 *   threads   virtual time of threads; what stands before libc's functions when this library is preloaded
 *   memory    addresses and allocations; vmm: virtual memory management; pinned: host memory, and protecting it in flight
 *   work      operations: their order, races between them, running them late or at random
 *   stream    streams and events; copy: what is submitted to them, but for launches
 *   graph     capture, graphs
 *   module    PTX, launches
 *   device    initialisation, the device, contexts, names
 *
 * One lock guards all of it. It is taken by `entry` at the top of every driver call, held while work runs, and dropped around
 * host functions alone. Objects whose handles were given out are never freed, only marked dead: a stale handle is then told
 * apart from a wrong one. */
#ifndef ROUSE_EMU_LIBCUDA_STATE_H
#define ROUSE_EMU_LIBCUDA_STATE_H

#include <cstdarg>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include "libcuda_emu.h"
#include "ptx.h"

/* --- log ------------------------------------------------------------------------------------------------------------ */

struct emu_settings {
    bool strict, random_order;
    uint64_t seed;
    int jitter_ulps;
    uint64_t budget;
    int cc_major, cc_minor, driver_version;
    std::string device_name, ptx_file, coverage_file, counters_file, clock_file, disk_files;
    uint64_t memory_bytes;
    double link_bytes_per_ns, disk_bytes_per_ns, scale;
    double link_latency_ns, init_ns, context_ns, module_ns, jit_ns, pin_ns_per_byte;
};
const emu_settings &settings();

/* An object whose handle is given out: kept for good, and within sight of leak checkers. */
void keep(const void *object);
template <class T> T *kept(T *object)
{
    keep(object);
    return object;
}

void misuse(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
std::string text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum { NEEDS_INIT = 1, NEEDS_CONTEXT = 2, UNSAFE_IN_CAPTURE = 4, ALLOWED_AFTER_FAULT = 8 };

/* One driver call: takes the lock, counts, fails on request, and refuses what no call may do in this state. */
class entry
{
  public:
    entry(const char *name, unsigned needs);
    ~entry();
    CUresult refused = CUDA_SUCCESS;
};
#define ENTER(needs)                                                                                                   \
    entry call(__func__, needs);                                                                                       \
    if (call.refused != CUDA_SUCCESS)                                                                                  \
    return call.refused

/* Counts a call of any library; 0 or the code to fail with. The lock is not needed. */
int count_call(const char *name);

void lock_enter();
void lock_leave();
void lock_wait(); /* until another thread has finished a piece of work */
void lock_wake();
bool in_host_function();
/* Runs fn without the lock. */
void run_unlocked(const std::function<void()> &fn);

/* --- clock (nanoseconds of virtual time) --------------------------------------------------------------------------- */

/* A resource that does one thing at a time. Work may be added out of order, so what is busy is kept as intervals. */
class calendar
{
  public:
    double take(double from, double length); /* -> when it has ended */
    double busy() const { return busy_ns; }

  private:
    std::map<double, double> intervals; /* begin -> end, touching ones merged */
    double busy_ns = 0;
};

enum link { LINK_NONE, LINK_IN, LINK_OUT, LINK_COMPUTE };

double thread_now();
void thread_advance(double to);
void thread_spend(double ns);
/* When preloaded: returns when no thread that could still act has an earlier clock, so that what threads do to each other
 * happens in the order of virtual time. Not with a lock held that others need. */
void thread_take_turn();
void disk_announce(int fd, uint64_t offset, uint64_t bytes); /* bytes 0: to the end */
double link_take(enum link link, double from, double ns, uint64_t bytes);
double link_ns(uint64_t bytes); /* of a copy over the host link, latency included */
void clock_launch(double at);
void clock_synchronised(double at);
void clock_pinned(int64_t bytes); /* more pinned, and the time that takes; or fewer */
void clock_write();               /* at exit */

/* --- memory --------------------------------------------------------------------------------------------------------- */

struct span {
    uint64_t address, bytes;
    bool write;
};

struct op;

/* Why bytes cannot be reached, or where they lie in this process. */
struct place {
    uint8_t *host = nullptr;
    uint64_t bytes = 0; /* that follow in one piece */
    std::string why;
};
bool memory_is_device(uint64_t address);
bool memory_pinned_block(uint64_t address, span *out); /* the pinned memory around it, as written */
/* [address, ...) as the device may touch it. host == NULL: why. */
place memory_place(uint64_t address, bool write);
bool memory_find(uint64_t address, ptx_range *out, std::string *why);
/* The whole of [address, address + bytes) is there. Otherwise *why. */
bool memory_check(uint64_t address, uint64_t bytes, bool write, std::string *why);

/* Reports by the name that `why` begins with, otherwise by the one given. */
void memory_report(const char *otherwise, const std::string &why, const std::string &what);

enum class host_kind { pageable, pinned, mixed };
host_kind memory_host_kind(uint64_t address, uint64_t bytes);
/* Where the driver itself reads and writes pinned memory, whatever the program's view of it is protected against. */
uint8_t *memory_pinned_alias(uint64_t address);
/* The program must not touch a copy's target from submission until it has waited for the copy. */
void memory_protect(uint64_t address, uint64_t bytes);
void memory_unprotect(uint64_t address, uint64_t bytes);
void memory_install_fault_handler();
void memory_add_variable(const ptx_range &r); /* of a module, which keeps it */
void memory_remove_variable(uint64_t address);
void memory_report_leaks();
void memory_host_wrote_pinned(ptx_machine *machine);

/* --- work ----------------------------------------------------------------------------------------------------------- */

/* The latest operation of each stream that is known to come before something: [stream id] -> sequence number. */
class order_clock
{
  public:
    void join(const order_clock &other);
    void set(uint32_t stream, uint64_t sequence);
    bool covers(uint32_t stream, uint64_t sequence) const;

  private:
    std::vector<uint64_t> at;
};

enum class job_kind { marker, kernel, copy, fill, host, library };

/* What an operation does, apart from when: the same job may run many times as a node of a graph. */
struct job {
    job_kind kind = job_kind::marker;
    std::string what;
    std::vector<span> spans; /* of a kernel: unknown, empty */
    enum link link = LINK_NONE;
    /* kernel */
    CUfunction function = nullptr;
    uint32_t grid[3] = {0, 0, 0}, block[3] = {0, 0, 0}, shared_bytes = 0;
    std::vector<uint8_t> params;
    /* copy; fill: target, bytes, pattern */
    uint64_t target = 0, source = 0, bytes = 0;
    bool target_host = false, source_host = false, target_pinned = false, source_pinned = false;
    std::shared_ptr<std::vector<uint8_t>> staged; /* of a pageable source: its bytes at the call */
    uint32_t pattern = 0, pattern_bytes = 1;
    /* host */
    CUhostFn host_function = nullptr;
    void *host_data = nullptr;
    /* library */
    void (*run)(void *) = nullptr;
    std::shared_ptr<void> argument;
    uint64_t flops = 0;
};

using op_ref = std::shared_ptr<op>;

/* The nodes of one graph launch, for who comes before whom among them. */
struct launch_order {
    uint32_t stream;
    uint64_t end_sequence = 0;
    std::shared_ptr<const std::vector<std::vector<bool>>> before; /* [node][node]: the first comes before the second */
};

struct op {
    job what;
    uint32_t stream = 0;
    uint64_t sequence = 0;
    order_clock clock;
    std::shared_ptr<launch_order> launch; /* of a graph's node */
    size_t node = 0;
    std::vector<op_ref> after;
    std::vector<op *> next;
    size_t n_waiting = 0;
    enum { PENDING, RUNNING, DONE } state = PENDING;
    bool known = false; /* the program has waited for it, or for something after it */
    uint64_t tick = 0, known_tick = 0;
    uint64_t source_hash = 0;
    bool source_open = false; /* other work may have changed it, in order */
    double ready_ns = 0, end_ns = 0;
    unsigned n_queries = 0;
    std::vector<op_ref> batch; /* of a graph launch's end: its nodes, which run in a random order */
};

struct capture;

struct CUstream_st {
    uint32_t id = 0;
    bool legacy = false, blocking = true;
    op_ref tail;
    order_clock tail_clock;
    uint64_t sequence = 0;
    std::shared_ptr<capture> capturing;
    std::set<CUgraphNode> capture_tail;
};

struct CUevent_st {
    bool timing = true;
    op_ref recorded;
    std::shared_ptr<capture> captured;
    std::set<CUgraphNode> captured_nodes;
};

CUresult stream_of(CUstream handle, CUstream *out); /* legacy and per-thread handles resolved */
CUstream stream_legacy();
std::vector<CUstream> streams_all(); /* but the legacy one; destroyed ones are among them, for their work goes on */
uint32_t stream_new_id();
void stream_report_leaks();
/* Fills j in from its target, source and bytes; refuses addresses that are not there. */
CUresult copy_job(const char *call, job *j);
job fill_job(const char *call, CUdeviceptr target, uint32_t pattern, uint32_t pattern_bytes, uint64_t n);
/* Onto a stream, or into the graph that it captures. */
CUresult work_submit(CUstream stream, job &&j, op_ref *out = nullptr);
/* The same, apart from capture. */
op_ref work_push(CUstream stream, job &&j, const std::vector<op_ref> &more_after);
op_ref work_push_node(CUstream stream, const job &j, const std::vector<op_ref> &after, const order_clock &clock,
                      const std::shared_ptr<launch_order> &launch, size_t node);
CUresult work_wait(const op_ref &target); /* runs what it needs; the program knows it then */
CUresult work_wait_all();
void work_run_all();
void work_finish(); /* the same, as an order between all that was and all that comes: what unmapping does */
bool work_touches(uint64_t address, uint64_t bytes,
                  std::string *what); /* something in flight that the program has not waited for */
uint64_t work_random();
/* A copy from the host that happens now, whatever is in flight. */
CUresult work_write_now(job &&j, const void *from);
void work_run_now_and_then(); /* in random order: something that could run, or nothing */
CUresult work_fault();        /* the sticky one */
void work_set_fault(CUresult code);
/* The part of [*begin, *end) around address that the running kernel may touch: other streams' copies cut it. */
bool work_cut_hazards(uint64_t address, ptx_range *range, std::string *why);
ptx_machine *work_machine();

/* --- graph ---------------------------------------------------------------------------------------------------------- */

/* For a call that may not be made while a capture is under way, as this thread's mode has it: kills those captures. */
CUresult capture_refuse_unsafe(const char *name);
CUresult capture_refuse_legacy(CUstream stream, const char *name);
CUresult capture_add(CUstream stream, job &&j);
CUresult capture_wait(CUstream stream, CUevent event);
bool capture_active(CUstream stream);
void capture_kill(CUstream stream, const char *name);
void graph_report_leaks();

/* --- module ---------------------------------------------------------------------------------------------------------- */

CUresult kernel_run(const job &j, double *out_ns);
CUresult launch_job(CUfunction f, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes, void **params,
                    void **extra, job *out);
void module_report_leaks();
void module_write_records();
/* Where each parameter begins in a job's params. */
std::vector<ptx_param> kernel_params(CUfunction f);

/* --- device ---------------------------------------------------------------------------------------------------------- */

bool device_initialised();
CUcontext device_current();
void device_report_leaks();

constexpr uint64_t DEVICE_GRANULE = 2ull << 20;
constexpr uint32_t DEVICE_SHARED_DEFAULT = 48 << 10, DEVICE_SHARED_OPTIN = 163 << 10;

#endif
