/* ptx_exec - a launch in progress: its blocks, their warps, and where the lanes of a warp are.
 *
 *   machine (ptx_machine.cpp)  what outlives a launch: shadow, counters, coverage, warps' registers
 *   block   (ptx_exec.cpp)     runs its warps one at a time until each waits or is done
 *   warp                       lanes that are at one instruction form a path; the path with the smallest pc goes first, which
 *                              brings the lanes of structured code together again. A seed makes the choice random instead.
 *
 * A path waits when its instruction needs lanes that are elsewhere. Paths that meet at one instruction merge. When every
 * path of every warp waits, the reason is reported and the launch ends. */
#ifndef ROUSE_EMU_PTX_EXEC_H
#define ROUSE_EMU_PTX_EXEC_H

#include <array>

#include "ptx_handlers.h"
#include "ptx_lanes.h"
#include "ptx_shadow.h"

constexpr int PTX_BARRIERS = 16;

struct ptx_block;
struct ptx_run;

/* Thrown when a launch cannot go on; the report has been made. */
struct ptx_stop {
};

struct ptx_path {
    uint32_t pc, mask;
    bool waits; /* for lanes of its warp, at pc */
};

/* cp.async: performed when its thread waits for it, as late as the language allows. */
struct ptx_async_copy {
    uint32_t mask; /* lanes whose copy is not done yet; the others' values below are not set */
    uint8_t bytes;
    std::array<uint32_t, PTX_LANES> to; /* in shared memory */
    std::array<const uint8_t *, PTX_LANES> from;
    std::array<uint8_t, PTX_LANES> n_read; /* the rest of bytes is zero */
    std::array<uint32_t, PTX_LANES> group; /* of its thread */
    ptx_async_copy() {}                    /* a large thing, often made: not filled first */
};

enum ptx_warp_state : uint8_t { PTX_READY, PTX_AT_BARRIER, PTX_DONE };

struct ptx_warp : ptx_lanes {
    ptx_block *block = nullptr;
    uint32_t id = 0;
    uint32_t exist = 0, alive = 0; /* lanes that the block has; that have not left the kernel */
    ptx_warp_state state = PTX_READY;
    int n_paths = 0, current = 0;
    ptx_path paths[PTX_LANES];
    uint32_t barrier_pc = 0;
    ptx_row_space registers;
    std::vector<uint8_t> local, local_written; /* [lane][local_bytes] */
    std::vector<ptx_async_copy> copies;
    uint32_t committed[PTX_LANES]; /* groups of cp.async */
};

struct ptx_barrier {
    bool open = false; /* some warp has arrived */
    std::vector<uint32_t> waiting;
    std::vector<uint16_t> gathered;    /* see ptx_order */
    uint32_t n_threads = 0, count = 0; /* arrived; asked for, 0: all of the block */
    uint32_t pc = 0, n_true = 0;       /* of the first to arrive; predicates of bar.red */
};

struct ptx_block {
    ptx_run *run = nullptr;
    uint32_t at[3] = {0, 0, 0};
    uint32_t serial = 0; /* no other block of this machine has had it */
    uint32_t number = 0; /* in its launch, as stamps have it */
    std::vector<std::unique_ptr<ptx_warp>> warps;
    uint32_t n_warps = 0, n_threads = 0;
    std::vector<uint8_t> shared;
    std::vector<ptx_granule> shared_shadow;
    ptx_record_pool pool;
    ptx_order order;
    ptx_barrier barriers[PTX_BARRIERS];
    uint32_t last_warp = 0;
    bool done = true;
};

/* What the handlers need of the launch. */
struct ptx_run {
    const ptx_kernel *kernel;
    ptx_launch_args args;
    const uint8_t *params;
    ptx_memory *memory;
    const ptx_options *options;
    ptx_global_shadow *shadow;
    ptx_counters counters;
    uint64_t *coverage;
    uint64_t budget;                    /* lane instructions left */
    uint64_t random;                    /* state of the scheduler's generator */
    uint32_t first_serial;              /* of its blocks */
    std::vector<ptx_range> ranges;      /* found so far */
    std::vector<uint16_t> range_of;     /* [instruction] where to look first */
    std::vector<uint64_t> shared_valid; /* a bit for each byte of shared memory that belongs to a variable */
    uint32_t shared_bytes;
    std::function<void(const ptx_report &)> deliver;
    std::map<std::pair<std::string, uint32_t>, bool> reported; /* one of a kind an instruction is enough */

    uint64_t next_random();
    bool known(const char *name, const ptx_inst &i) const { return reported.count({name, i.index}) != 0; }
    /* lane -1: none in particular. stop reports what a card would end the context by, and ends the launch by ptx_stop. */
    void report(const char *name, const ptx_warp &w, const ptx_inst &i, int lane, const std::string &text,
                bool sticky = false);
    [[noreturn]] void stop(const char *name, const ptx_warp &w, const ptx_inst &i, int lane, const std::string &text);
    std::string thread_name(ptx_stamp s) const;
};

void ptx_begin_block(ptx_block &b, uint32_t linear);
/* Runs until all of its warps are done (true) or, when the run preempts, for a while. */
bool ptx_run_block(ptx_block &b);

/* For barriers, in ptx_sync.cpp. */
void ptx_arrive(ptx_warp &w, const ptx_inst &i);
void ptx_check_barriers(ptx_block &b); /* releases what is complete, after a lane left */

inline ptx_warp &ptx_warp_of(ptx_lanes &l)
{
    return static_cast<ptx_warp &>(l);
}

inline ptx_accessor ptx_accessor_of(const ptx_warp &w, ptx_access_kind kind)
{
    const ptx_order &order = w.block->order;
    ptx_accessor a;
    a.lane0 = ptx_stamp(w.block->number, w.id * PTX_LANES, kind, order.barriers(w.id), order.warp_syncs(w.id));
    a.order = &order;
    a.warp = w.id;
    a.at(0);
    return a;
}

#endif
