/* ptx_machine - launches: blocks in their order, reports, counters. */
#include <algorithm>
#include <cstring>

#include "ptx_exec.h"

/* Every name that a report can carry. */
const std::vector<const char *> ptx_fault_names = {
    "aligned-divergence",      "assert",        "barrier-count",        "barrier-divergence",   "branch-bounds",
    "branch-not-uniform",      "budget",        "cp-async-size",        "cp-async-unwaited",    "early-exit-barrier",
    "global-bounds",           "global-race",   "global-uninitialised", "launch-shape",         "local-bounds",
    "local-uninitialised",     "mask-mismatch", "misaligned",           "nc-read-of-written",   "param-bounds",
    "read-only-store",         "shared-bounds", "shared-race",          "shared-uninitialised", "shuffle-divergence",
    "shuffle-inactive-source", "trap"};

namespace
{

constexpr size_t RESIDENT = 4; /* blocks that take turns when the order is random */

void add_counters(ptx_counters &to, const ptx_counters &c)
{
    static_assert(sizeof(ptx_counters) % sizeof(uint64_t) == 0, "all fields are counts");
    uint64_t *a = reinterpret_cast<uint64_t *>(&to);
    const uint64_t *b = reinterpret_cast<const uint64_t *>(&c);
    for (size_t k = 0; k < sizeof(ptx_counters) / sizeof(uint64_t); k++)
        a[k] += b[k];
}

std::string place(const uint32_t at[3])
{
    return "(" + std::to_string(at[0]) + "," + std::to_string(at[1]) + "," + std::to_string(at[2]) + ")";
}

std::string split_thread(const ptx_launch_args &a, uint32_t t)
{
    uint32_t at[3] = {t % a.block[0], t / a.block[0] % a.block[1], t / a.block[0] / a.block[1]};
    return place(at);
}

} // namespace

/* --- a launch ----------------------------------------------------------------------------------------------------- */

uint64_t ptx_run::next_random()
{
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random >> 11;
}

std::string ptx_run::thread_name(ptx_stamp s) const
{
    uint32_t b = s.block() - 1;
    uint32_t at[3] = {b % args.grid[0], b / args.grid[0] % args.grid[1], b / args.grid[0] / args.grid[1]};
    return "block " + place(at) + " thread " + split_thread(args, s.thread());
}

void ptx_run::report(const char *name, const ptx_warp &w, const ptx_inst &i, int lane, const std::string &text,
                     bool sticky)
{
    if (!reported.emplace(std::make_pair(std::string(name), i.index), true).second)
        return;
    ptx_report r;
    r.name = name;
    r.kernel = kernel->info.name;
    r.text = "line " + std::to_string(kernel->lines[i.index].number) + ": " + kernel->lines[i.index].text + "  block " +
             place(w.block->at);
    if (lane >= 0)
        r.text += " thread " + split_thread(args, w.id * PTX_LANES + static_cast<uint32_t>(lane));
    r.text += ": " + text;
    r.sticky = sticky;
    deliver(r);
}

void ptx_run::stop(const char *name, const ptx_warp &w, const ptx_inst &i, int lane, const std::string &text)
{
    report(name, w, i, lane, text, true);
    throw ptx_stop();
}

/* --- the machine -------------------------------------------------------------------------------------------------- */

struct ptx_machine::state {
    struct known_kernel {
        ptx_counters counters;
        std::vector<uint64_t> coverage;
    };

    ptx_memory *memory;
    ptx_options options;
    ptx_global_shadow shadow;
    std::unordered_map<const ptx_kernel *, known_kernel> kernels;
    std::vector<std::unique_ptr<ptx_block>> blocks;
    uint32_t next_serial = 1;
    uint64_t random;

    known_kernel &of(const ptx_kernel *k)
    {
        known_kernel &known = kernels[k];
        known.coverage.resize(k->code.size());
        return known;
    }

    void begin(ptx_run &run);
    void run_blocks(ptx_run &run);
    std::string refuse(const ptx_kernel *k, const ptx_launch_args &args) const;
};

/* The bits of shared memory that belong to a variable, and where it ends. */
static void lay_out_shared(ptx_run &run)
{
    const ptx_kernel &k = *run.kernel;
    run.shared_bytes = k.dynamic_base + run.args.dynamic_shared_bytes;
    run.shared_valid.assign(run.shared_bytes / 64 + 2, 0);
    auto allow = [&](uint64_t from, uint64_t n) {
        for (uint64_t at = from; at < from + n; at++)
            run.shared_valid[at / 64] |= 1ull << (at % 64);
    };
    for (auto &s : k.shared)
        allow(s.offset, s.bytes);
    allow(k.dynamic_base, run.args.dynamic_shared_bytes);
}

void ptx_machine::state::begin(ptx_run &run)
{
    uint64_t n_blocks = 1ull * run.args.grid[0] * run.args.grid[1] * run.args.grid[2];
    if (next_serial + n_blocks > UINT32_MAX) { /* serial numbers of blocks start again: no record may be left */
        blocks.clear();
        next_serial = 1;
    }
    shadow.begin_launch();
    run.memory = memory;
    run.options = &options;
    run.shadow = &shadow;
    run.counters = ptx_counters();
    run.counters.launches = 1;
    run.coverage = of(run.kernel).coverage.data();
    run.budget = options.budget;
    run.random = random;
    run.first_serial = next_serial;
    run.range_of.assign(run.kernel->code.size(), UINT16_MAX);
    next_serial += static_cast<uint32_t>(n_blocks);
    lay_out_shared(run);
}

/* Blocks in order, or in a random one with several resident at a time. */
void ptx_machine::state::run_blocks(ptx_run &run)
{
    uint32_t n = run.args.grid[0] * run.args.grid[1] * run.args.grid[2];
    std::vector<uint32_t> order(options.seed ? n : 0);
    for (uint32_t k = 0; k < order.size(); k++)
        order[k] = k;
    for (uint32_t k = n; options.seed && k > 1; k--)
        std::swap(order[k - 1], order[run.next_random() % k]);
    size_t n_resident = std::min<size_t>(options.preempt ? RESIDENT : 1, n);
    while (blocks.size() < n_resident)
        blocks.push_back(std::make_unique<ptx_block>());
    uint32_t next = 0, left = n;
    for (auto &b : blocks)
        b->done = true;
    while (left > 0)
        for (size_t r = 0; r < n_resident; r++) {
            ptx_block &b = *blocks[r];
            b.run = &run;
            if (b.done && next < n) {
                ptx_begin_block(b, order.empty() ? next : order[next]);
                next++;
            }
            if (!b.done && ptx_run_block(b))
                left--;
        }
}

std::string ptx_machine::state::refuse(const ptx_kernel *k, const ptx_launch_args &args) const
{
    uint64_t threads = 1ull * args.block[0] * args.block[1] * args.block[2];
    uint64_t blocks_asked = 1ull * args.grid[0] * args.grid[1] * args.grid[2];
    if (threads == 0 || threads > 1024 || args.block[2] > 64)
        return std::to_string(threads) + " threads in a block";
    if (k->info.max_threads && threads > k->info.max_threads)
        return std::to_string(threads) + " threads in a block of at most " + std::to_string(k->info.max_threads);
    if (k->required_block[0] && !std::equal(args.block, args.block + 3, k->required_block))
        return "a block of a shape that .reqntid forbids";
    if (blocks_asked == 0 || args.grid[1] > 65535 || args.grid[2] > 65535 || blocks_asked >= UINT32_MAX)
        return "a grid of " + place(args.grid);
    return "";
}

ptx_machine::ptx_machine(ptx_memory *memory, const ptx_options &options) : s(new state)
{
    s->memory = memory;
    s->options = options;
    s->random = (options.seed + 1) * 0x9e3779b97f4a7c15ull;
}

ptx_machine::~ptx_machine() = default;

bool ptx_machine::launch(const ptx_kernel *kernel, const ptx_launch_args &args)
{
    std::string why = s->refuse(kernel, args);
    if (!why.empty()) {
        report({"launch-shape", kernel->info.name, why, false});
        return false;
    }
    ptx_run run;
    run.kernel = kernel;
    run.args = args;
    run.params = static_cast<const uint8_t *>(args.params);
    run.deliver = report;
    s->begin(run);
    bool whole = true;
    try {
        s->run_blocks(run);
    } catch (const ptx_stop &) {
        whole = false;
    }
    s->random = run.next_random() | 1;
    add_counters(s->of(kernel).counters, run.counters);
    return whole;
}

const ptx_counters &ptx_machine::counters(const ptx_kernel *kernel) const
{
    return s->of(kernel).counters;
}

const std::vector<uint64_t> &ptx_machine::coverage(const ptx_kernel *kernel) const
{
    return s->of(kernel).coverage;
}

std::string ptx_machine::instruction_text(const ptx_kernel *kernel, uint32_t index)
{
    return std::to_string(kernel->lines[index].number) + ": " + kernel->lines[index].text;
}

void ptx_machine::host_wrote(uint64_t addr, uint64_t bytes)
{
    s->shadow.set_initialised(addr, bytes);
}

void ptx_machine::forget(uint64_t addr, uint64_t bytes)
{
    s->shadow.forget(addr, bytes);
}

bool ptx_machine::initialised(uint64_t addr, uint64_t bytes) const
{
    return s->shadow.initialised(addr, bytes);
}
