/* ptx_sync - lanes that look at each other, and barriers. */
#include <cstring>

#include "ptx_exec.h"

namespace
{

template <class F> void for_lanes(uint32_t mask, F f)
{
    for (; mask; mask &= mask - 1)
        f(__builtin_ctz(mask));
}

void set_predicate(ptx_lanes &w, uint32_t row, uint32_t value)
{
    uint32_t *p = ptx_row<uint32_t>(w, row);
    *p = (*p & ~w.mask) | (value & w.mask);
}

void set_all(ptx_lanes &w, uint32_t row, uint32_t value)
{
    uint32_t *d = ptx_row<uint32_t>(w, row);
    for_lanes(w.mask, [=](int l) { d[l] = value; });
}

/* The lane that shfl reads, as the manual computes it; *in_range is its predicate. */
uint32_t shuffle_source(uint8_t mode, uint32_t lane, uint32_t b, uint32_t c, bool *in_range)
{
    uint32_t n = b & 31, segment = c >> 8 & 31, limit = (lane & segment) | (c & 31 & ~segment), j;
    switch (mode) {
    case PTX_SHFL_UP:
        *in_range = static_cast<int>(lane) - static_cast<int>(n) >= static_cast<int>(limit);
        j = lane - n;
        break;
    case PTX_SHFL_DOWN:
        j = lane + n;
        *in_range = j <= limit;
        break;
    case PTX_SHFL_BFLY:
        j = lane ^ n;
        *in_range = j <= limit;
        break;
    default:
        j = (lane & segment) | (n & ~segment);
        *in_range = j <= limit;
    }
    return *in_range ? j : lane;
}

uint32_t combine(const ptx_inst &i, uint32_t a, uint32_t b)
{
    bool is_signed = i.flags & PTX_SIGNED;
    bool less = is_signed ? static_cast<int32_t>(a) < static_cast<int32_t>(b) : a < b;
    switch (i.what) {
    case PTX_REDUX_ADD:
        return a + b;
    case PTX_REDUX_MIN:
        return less ? a : b;
    case PTX_REDUX_MAX:
        return less ? b : a;
    case PTX_REDUX_AND:
        return a & b;
    case PTX_REDUX_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

uint64_t wide_value(ptx_lanes &w, const ptx_inst &i, int l)
{
    return i.bytes == 4 ? ptx_row<uint32_t>(w, i.row[1])[l] : ptx_row<uint64_t>(w, i.row[1])[l];
}

/* --- barriers of the block ---------------------------------------------------------------------------------------- */

uint32_t threads_alive(const ptx_block &b)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < b.n_warps; k++)
        n += static_cast<uint32_t>(__builtin_popcount(b.warps[k]->alive));
    return n;
}

void give_result(ptx_warp &w, const ptx_barrier &bar)
{
    const ptx_inst &i = w.block->run->kernel->code[w.barrier_pc];
    w.mask = w.alive;
    if (i.what == PTX_BAR_POPC)
        set_all(w, i.row[2], bar.n_true);
    else if (i.what != PTX_BAR_PLAIN)
        set_predicate(w, i.row[2], (i.what == PTX_BAR_AND ? bar.n_true == bar.n_threads : bar.n_true > 0) ? ~0u : 0u);
}

void report_exits(ptx_block &b, const ptx_barrier &bar)
{
    if (bar.count || threads_alive(b) == b.n_threads)
        return;
    ptx_warp &w = *b.warps[bar.waiting[0]];
    b.run->report("early-exit-barrier", w, b.run->kernel->code[bar.pc], __builtin_ctz(w.alive),
                  std::to_string(b.n_threads - threads_alive(b)) +
                      " threads of the block have left the kernel before this barrier");
}

void release_if_complete(ptx_block &b, ptx_barrier &bar)
{
    if (!bar.open || bar.n_threads < (bar.count ? bar.count : threads_alive(b)))
        return;
    if (bar.waiting.empty()) { /* only bar.arrive so far: the warp that waits is still to come */
        return;
    }
    report_exits(b, bar);
    for (uint32_t id : bar.waiting) {
        ptx_warp &w = *b.warps[id];
        give_result(w, bar);
        b.order.learn(id, bar.gathered);
        w.state = PTX_READY;
    }
    bar = ptx_barrier();
}

uint32_t uniform_operand(ptx_warp &w, const ptx_inst &i, uint32_t row)
{
    const uint32_t *r = ptx_row<uint32_t>(w, row);
    int first = __builtin_ctz(w.alive);
    for_lanes(w.alive, [&](int l) {
        if (r[l] != r[first])
            w.block->run->stop("barrier-divergence", w, i, l, "lanes of a warp name different barriers or counts");
    });
    return r[first];
}

void check_arrival(ptx_warp &w, const ptx_inst &i, ptx_barrier &bar, uint32_t count)
{
    ptx_run &run = *w.block->run;
    int lane = __builtin_ctz(w.alive);
    if (count % PTX_LANES)
        run.stop("barrier-count", w, i, lane, "a count of " + std::to_string(count) + " threads");
    if (!bar.open)
        return;
    if (bar.count != count)
        run.stop("barrier-count", w, i, lane,
                 "this warp counts " + std::to_string(count) + " threads, the one before it " +
                     std::to_string(bar.count));
    if (count == 0 && bar.pc != i.index)
        run.report("barrier-divergence", w, i, lane,
                   "another warp waits at the barrier of line " + std::to_string(run.kernel->lines[bar.pc].number));
}

} // namespace

void ptx_arrive(ptx_warp &w, const ptx_inst &i)
{
    ptx_block &b = *w.block;
    uint32_t id = uniform_operand(w, i, i.row[0]);
    uint32_t count = i.flags & PTX_SECOND ? uniform_operand(w, i, i.row[1]) : 0;
    if (id >= PTX_BARRIERS)
        b.run->stop("barrier-divergence", w, i, __builtin_ctz(w.alive), "no barrier " + std::to_string(id));
    ptx_barrier &bar = b.barriers[id];
    check_arrival(w, i, bar, count);
    if (!bar.open) {
        bar.open = true;
        bar.count = count;
        bar.pc = i.index;
        b.run->counters.barriers++;
    }
    bar.n_threads += count ? PTX_LANES : static_cast<uint32_t>(__builtin_popcount(w.alive));
    if (i.what != PTX_BAR_PLAIN)
        bar.n_true += static_cast<uint32_t>(__builtin_popcount(*ptx_row<uint32_t>(w, i.row[3]) & w.alive));
    b.order.arrive(w.id, bar.gathered);
    w.barrier_pc = i.index;
    if (!(i.flags & PTX_ARRIVE)) {
        bar.waiting.push_back(w.id);
        w.state = PTX_AT_BARRIER;
    }
    release_if_complete(b, bar);
}

void ptx_check_barriers(ptx_block &b)
{
    for (auto &bar : b.barriers)
        release_if_complete(b, bar);
}

/* --- handlers ----------------------------------------------------------------------------------------------------- */

void ptx_do_nothing(ptx_lanes &, const ptx_inst &) {}

void ptx_do_warp_sync(ptx_lanes &lanes, const ptx_inst &)
{
    ptx_warp &w = ptx_warp_of(lanes);
    w.block->order.warp_sync(w.id, w.mask, w.whole);
}

void ptx_do_activemask(ptx_lanes &w, const ptx_inst &i)
{
    set_all(w, i.row[0], w.mask);
}

void ptx_do_shfl(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    uint32_t a[PTX_LANES];
    memcpy(a, ptx_row<uint32_t>(w, i.row[2]), sizeof a);
    const uint32_t *b = ptx_row<uint32_t>(w, i.row[3]), *c = ptx_row<uint32_t>(w, i.row[4]);
    uint32_t out[PTX_LANES], in_range = 0;
    for_lanes(w.mask, [&](int l) {
        bool ok;
        uint32_t from = shuffle_source(i.what, static_cast<uint32_t>(l), b[l], c[l], &ok);
        in_range |= static_cast<uint32_t>(ok) << l;
        if (!(w.mask >> from & 1) && !w.block->run->known("shuffle-inactive-source", i))
            w.block->run->report("shuffle-inactive-source", w, i, l,
                                 "reads lane " + std::to_string(from) + ", which does not take part");
        out[l] = w.mask >> from & 1 ? a[from] : static_cast<uint32_t>(w.block->run->next_random());
    });
    uint32_t *d = ptx_row<uint32_t>(w, i.row[0]);
    for_lanes(w.mask, [&](int l) { d[l] = out[l]; });
    if (i.flags & PTX_SECOND)
        set_predicate(w, i.row[1], in_range);
}

void ptx_do_vote(ptx_lanes &w, const ptx_inst &i)
{
    uint32_t yes = *ptx_row<uint32_t>(w, i.row[1]) & w.mask;
    bool all = yes == w.mask, any = yes != 0;
    switch (i.what) {
    case PTX_VOTE_BALLOT:
        return set_all(w, i.row[0], yes);
    case PTX_VOTE_ALL:
        return set_predicate(w, i.row[0], all ? ~0u : 0);
    case PTX_VOTE_ANY:
        return set_predicate(w, i.row[0], any ? ~0u : 0);
    default:
        return set_predicate(w, i.row[0], all || !any ? ~0u : 0);
    }
}

void ptx_do_match_any(ptx_lanes &w, const ptx_inst &i)
{
    uint32_t out[PTX_LANES] = {};
    for_lanes(w.mask, [&](int l) {
        for_lanes(w.mask,
                  [&](int k) { out[l] |= static_cast<uint32_t>(wide_value(w, i, l) == wide_value(w, i, k)) << k; });
    });
    uint32_t *d = ptx_row<uint32_t>(w, i.row[0]);
    for_lanes(w.mask, [&](int l) { d[l] = out[l]; });
}

void ptx_do_match_all(ptx_lanes &w, const ptx_inst &i)
{
    uint64_t first = wide_value(w, i, __builtin_ctz(w.mask));
    bool all = true;
    for_lanes(w.mask, [&](int l) { all &= wide_value(w, i, l) == first; });
    set_all(w, i.row[0], all ? w.mask : 0);
    set_predicate(w, i.row[2], all ? ~0u : 0);
}

void ptx_do_redux(ptx_lanes &w, const ptx_inst &i)
{
    const uint32_t *a = ptx_row<uint32_t>(w, i.row[1]);
    uint32_t first = static_cast<uint32_t>(__builtin_ctz(w.mask)), sum = a[first];
    for_lanes(w.mask & (w.mask - 1), [&](int l) { sum = combine(i, sum, a[l]); });
    set_all(w, i.row[0], sum);
}
