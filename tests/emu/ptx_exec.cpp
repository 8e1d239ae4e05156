/* ptx_exec - runs blocks: which warp, which path, which instruction. */
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "ptx_exec.h"

namespace
{

constexpr uint64_t TURN =
    1 << 20; /* instructions before another warp gets its turn, so that a spinning one is not alone */

/* --- paths -------------------------------------------------------------------------------------------------------- */

void remove_path(ptx_warp &w, int k)
{
    w.paths[k] = w.paths[--w.n_paths];
    if (w.current == w.n_paths)
        w.current = k < w.n_paths ? k : 0; /* it has moved, or it was the last and is gone */
}

void merge_with_current(ptx_warp &w)
{
    for (int k = w.n_paths - 1; k >= 0; k--) {
        ptx_path &p = w.paths[w.current];
        if (k == w.current || w.paths[k].pc != p.pc)
            continue;
        p.mask |= w.paths[k].mask;
        p.waits = false;
        remove_path(w, k);
    }
}

[[noreturn]] void report_stuck(ptx_warp &w)
{
    ptx_run &run = *w.block->run;
    const ptx_path *least =
        std::min_element(w.paths, w.paths + w.n_paths, [](auto &a, auto &b) { return a.pc < b.pc; });
    const ptx_inst &i = run.kernel->code[least->pc];
    const char *name = i.kind == PTX_BARRIER      ? "barrier-divergence"
                       : i.kind == PTX_ALIGNED    ? "aligned-divergence"
                       : i.fn == ptx_do_warp_sync ? "barrier-divergence"
                                                  : "shuffle-divergence";
    std::string text = "lanes wait here for lanes that wait elsewhere:";
    for (int k = 0; k < w.n_paths; k++) {
        char part[80];
        snprintf(part, sizeof part, " %08x at line %u;", w.paths[k].mask, run.kernel->lines[w.paths[k].pc].number);
        text += part;
    }
    run.stop(name, w, i, __builtin_ctz(least->mask), text);
}

/* The current path has moved or waits: which one goes on? */
void choose_path(ptx_warp &w)
{
    merge_with_current(w);
    ptx_run &run = *w.block->run;
    int best = -1, n_ready = 0;
    for (int k = 0; k < w.n_paths; k++) {
        if (w.paths[k].waits)
            continue;
        n_ready++;
        bool better =
            run.options->seed ? run.next_random() % n_ready == 0 : best < 0 || w.paths[k].pc < w.paths[best].pc;
        if (better)
            best = k;
    }
    if (best < 0)
        report_stuck(w);
    w.current = best;
}

/* Lanes of the current path that leave it for pc. */
void split_off(ptx_warp &w, uint32_t mask, uint32_t pc)
{
    w.paths[w.current].mask &= ~mask;
    w.paths[w.n_paths++] = {pc, mask, false};
}

void wake_paths(ptx_warp &w)
{
    for (int k = 0; k < w.n_paths; k++)
        w.paths[k].waits = false;
}

/* The lanes of `done` have executed the instruction of the current path; the rest of it waits there. */
void advance_some(ptx_warp &w, uint32_t done)
{
    ptx_path &p = w.paths[w.current];
    if (done == p.mask) {
        p.pc++;
        return;
    }
    p.waits = true;
    if (done)
        split_off(w, done, p.pc + 1);
}

/* --- instructions that are more than a handler -------------------------------------------------------------------- */

void run_handler(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    w.mask = mask;
    w.whole = mask == w.alive;
    i.fn(w, i);
}

void branch(ptx_warp &w, uint32_t taken, uint32_t target)
{
    ptx_path &p = w.paths[w.current];
    if (taken == p.mask) {
        p.pc = target;
        return;
    }
    p.pc++;
    if (taken)
        split_off(w, taken, target);
}

void branch_uniform_check(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    const ptx_path &p = w.paths[w.current];
    if (i.flags & PTX_UNIFORM && mask != p.mask && mask != 0)
        w.block->run->report("branch-not-uniform", w, i, __builtin_ctz(mask), "a .uni branch that not all lanes take");
}

void branch_table(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    const uint32_t *index = ptx_row<uint32_t>(w, i.row[0]);
    const std::vector<uint32_t> &table = w.block->run->kernel->tables[i.target];
    uint32_t stay = w.paths[w.current].mask & ~mask;
    std::map<uint32_t, uint32_t> targets;
    for (uint32_t m = mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        if (index[l] >= table.size())
            w.block->run->stop("branch-bounds", w, i, l, "index " + std::to_string(index[l]) + " of a table");
        targets[table[index[l]]] |= 1u << l;
    }
    if (stay)
        targets[w.paths[w.current].pc + 1] |= stay;
    auto first = targets.begin();
    w.paths[w.current] = {first->first, first->second, false};
    for (auto it = std::next(first); it != targets.end(); ++it)
        w.paths[w.n_paths++] = {it->first, it->second, false};
}

void leave(ptx_warp &w, uint32_t mask)
{
    ptx_path &p = w.paths[w.current];
    w.alive &= ~mask;
    p.mask &= ~mask;
    p.pc++;
    if (p.mask == 0)
        remove_path(w, w.current);
    wake_paths(w);
    if (w.n_paths == 0)
        w.state = PTX_DONE;
    ptx_check_barriers(*w.block);
}

void report_exited(ptx_warp &w, const ptx_inst &i, uint32_t exited)
{
    const char *name = i.fn == ptx_do_warp_sync ? "early-exit-barrier" : "shuffle-divergence";
    if (exited)
        w.block->run->report(name, w, i, __builtin_ctz(exited), "this lane is in the mask but has left the kernel");
}

/* Lanes of mask whose member masks are complete and agree have executed when this returns; they are the result. */
uint32_t sync_by_mask(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    const uint32_t *member = ptx_row<uint32_t>(w, i.row[PTX_AT_MASK]);
    uint32_t done = 0;
    for (uint32_t left = mask; left;) {
        int leader = __builtin_ctz(left);
        uint32_t want = member[leader], same = 0;
        for (uint32_t m = left; m; m &= m - 1)
            if (member[__builtin_ctz(m)] == want)
                same |= m & -m;
        left &= ~same;
        char text[100];
        snprintf(text, sizeof text, "mask %08x, at this instruction are %08x, with this mask %08x", want, mask, same);
        if (same & ~want)
            w.block->run->stop("mask-mismatch", w, i, __builtin_ctz(same & ~want),
                               std::string("lane not in its own mask: ") + text);
        if (want & mask & ~same)
            w.block->run->stop("mask-mismatch", w, i, __builtin_ctz(want & mask & ~same),
                               std::string("masks differ: ") + text);
        if ((want & w.alive) != same)
            continue;
        report_exited(w, i, want & w.exist & ~w.alive);
        run_handler(w, i, same);
        done |= same;
    }
    return done;
}

/* The common case of sync_by_mask: one mask, everybody here. */
bool sync_whole(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    if (mask != w.alive || w.alive != w.exist)
        return false;
    const uint32_t *member = ptx_row<uint32_t>(w, i.row[PTX_AT_MASK]);
    uint32_t differ = 0;
    for (int l = 0; l < PTX_LANES; l++)
        differ |= (member[l] ^ PTX_ALL_LANES) & (0 - (mask >> l & 1));
    if (differ)
        return false;
    run_handler(w, i, mask);
    return true;
}

bool aligned(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    if (mask != w.alive)
        return false;
    if (i.kind == PTX_ALIGNED && w.alive != PTX_ALL_LANES)
        w.block->run->stop("aligned-divergence", w, i, __builtin_ctz(~w.alive),
                           "this lane has left the kernel or never was");
    return true;
}

/* Everything but plain instructions. mask: lanes of the path whose guard holds, at least one of them. */
void run_special(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    uint32_t skip = w.paths[w.current].mask & ~mask;
    switch (i.kind) {
    case PTX_BRANCH:
        branch_uniform_check(w, i, mask);
        return branch(w, mask, i.target);
    case PTX_BRANCH_TABLE:
        return branch_table(w, i, mask);
    case PTX_EXIT:
        return leave(w, mask);
    case PTX_TRAP:
        w.block->run->stop("trap", w, i, __builtin_ctz(mask), "the kernel trapped");
    case PTX_ASSERT:
        w.block->run->stop("assert", w, i, __builtin_ctz(mask), "an assert of the kernel failed");
    case PTX_WARP_SYNC:
        return advance_some(w, skip | (sync_whole(w, i, mask) ? mask : sync_by_mask(w, i, mask)));
    case PTX_ALIGNED:
        if (!aligned(w, i, mask))
            return advance_some(w, skip);
        run_handler(w, i, mask);
        return advance_some(w, PTX_ALL_LANES & (skip | mask));
    case PTX_BARRIER:
        if (!aligned(w, i, mask))
            return advance_some(w, skip);
        w.paths[w.current].pc++;
        return ptx_arrive(w, i);
    case PTX_PLAIN:
        break;
    }
}

/* --- warps -------------------------------------------------------------------------------------------------------- */

inline uint32_t guarded(ptx_warp &w, const ptx_inst &i, uint32_t mask)
{
    if (!i.guard)
        return mask;
    uint32_t p = *ptx_row<uint32_t>(w, i.guard_row);
    return mask & (i.guard == 1 ? p : ~p);
}

void spend(ptx_warp &w, const ptx_inst &i, uint64_t lanes)
{
    ptx_run &run = *w.block->run;
    run.counters.lane_instructions += lanes;
    if (run.options->budget == 0)
        return;
    if (run.budget < lanes)
        run.stop("budget", w, i, -1,
                 "the launch took more than " + std::to_string(run.options->budget) + " lane instructions");
    run.budget -= lanes;
}

void run_warp(ptx_warp &w, uint64_t turn)
{
    ptx_run &run = *w.block->run;
    const ptx_inst *code = run.kernel->code.data();
    uint64_t lanes = 0, flops = 0, n = 0;
    const ptx_inst *i = nullptr;
    while (n < turn && w.state == PTX_READY) {
        ptx_path &p = w.paths[w.current];
        i = &code[p.pc];
        uint32_t mask = guarded(w, *i, p.mask);
        n++;
        if (mask == 0) {
            p.pc++;
        } else {
            uint64_t n_active = static_cast<uint64_t>(__builtin_popcount(mask));
            lanes += n_active;
            flops += n_active * i->fma_flops;
            run.coverage[p.pc]++;
            if (i->kind == PTX_PLAIN) {
                w.mask = mask;
                w.whole = mask == w.alive;
                i->fn(w, *i);
                p.pc++;
            } else {
                run_special(w, *i, mask);
            }
        }
        if (w.n_paths > 1 && w.state == PTX_READY)
            choose_path(w);
        else if (w.n_paths == 1 && w.paths[w.current].waits)
            report_stuck(w);
    }
    run.counters.warp_instructions += n;
    run.counters.fma_flops += flops;
    if (i)
        spend(w, *i, lanes);
}

/* --- blocks ------------------------------------------------------------------------------------------------------- */

void fill_row(ptx_warp &w, uint32_t row, uint32_t value)
{
    std::fill_n(ptx_row<uint32_t>(w, row), PTX_LANES, value);
}

void fill_special(ptx_warp &w, ptx_special which, uint32_t row)
{
    const ptx_block &b = *w.block;
    const ptx_launch_args &a = b.run->args;
    if (which >= PTX_NTID_X && which <= PTX_NTID_Z)
        return fill_row(w, row, a.block[which - PTX_NTID_X]);
    if (which >= PTX_CTAID_X && which <= PTX_CTAID_Z)
        return fill_row(w, row, b.at[which - PTX_CTAID_X]);
    if (which >= PTX_NCTAID_X && which <= PTX_NCTAID_Z)
        return fill_row(w, row, a.grid[which - PTX_NCTAID_X]);
    uint32_t *r = ptx_row<uint32_t>(w, row);
    for (uint32_t l = 0; l < PTX_LANES; l++) {
        uint32_t t = w.id * PTX_LANES + l, bit = 1u << l;
        switch (which) {
        case PTX_TID_X:
            r[l] = t % a.block[0];
            break;
        case PTX_TID_Y:
            r[l] = t / a.block[0] % a.block[1];
            break;
        case PTX_TID_Z:
            r[l] = t / a.block[0] / a.block[1];
            break;
        case PTX_LANEID:
            r[l] = l;
            break;
        case PTX_WARPID:
            r[l] = w.id;
            break;
        case PTX_NWARPID:
            r[l] = b.n_warps;
            break;
        case PTX_LANEMASK_EQ:
            r[l] = bit;
            break;
        case PTX_LANEMASK_LT:
            r[l] = bit - 1;
            break;
        case PTX_LANEMASK_LE:
            r[l] = bit | (bit - 1);
            break;
        case PTX_LANEMASK_GT:
            r[l] = ~(bit | (bit - 1));
            break;
        case PTX_LANEMASK_GE:
            r[l] = ~(bit - 1);
            break;
        case PTX_DYNAMIC_SMEM_SIZE:
            r[l] = a.dynamic_shared_bytes;
            break;
        default:
            r[l] = b.run->kernel->info.static_shared_bytes + a.dynamic_shared_bytes;
            break;
        }
    }
}

/* What earlier blocks left in the registers is the garbage that this one starts with. */
void begin_warp(ptx_warp &w)
{
    const ptx_run &run = *w.block->run;
    const ptx_kernel &k = *run.kernel;
    if (w.registers.size() < k.register_bytes) {
        w.registers.resize(k.register_bytes);
        uint64_t garbage = run.random | 1;
        for (size_t at = 0; at + 8 <= k.register_bytes; at += 8) {
            garbage = garbage * 6364136223846793005ull + 1442695040888963407ull;
            memcpy(w.registers.data() + at, &garbage, 8);
        }
    }
    w.base[0] = w.registers.data();
    w.base[1] = k.constants.data();
    uint32_t n_threads = w.block->n_threads, first = w.id * PTX_LANES;
    w.exist = n_threads - first >= PTX_LANES ? PTX_ALL_LANES : (1u << (n_threads - first)) - 1;
    w.alive = w.exist;
    w.state = PTX_READY;
    w.n_paths = 1;
    w.current = 0;
    w.paths[0] = {0, w.exist, false};
    w.jitter_ulps = run.options->jitter_ulps;
    w.copies.clear();
    std::fill_n(w.committed, PTX_LANES, 0);
    w.local.resize(static_cast<size_t>(PTX_LANES) * k.local_bytes);
    w.local_written.assign(w.local.size(), 0);
    for (auto &s : k.specials)
        fill_special(w, s.first, s.second);
}

ptx_warp *pick_warp(ptx_block &b)
{
    ptx_warp *picked = nullptr;
    uint64_t n_ready = 0;
    for (uint32_t k = 0; k < b.n_warps; k++) {
        ptx_warp *w = b.warps[(b.last_warp + 1 + k) % b.n_warps].get();
        if (w->state != PTX_READY)
            continue;
        if (!b.run->options->seed) {
            picked = w;
            break;
        }
        if (b.run->next_random() % ++n_ready == 0)
            picked = w;
    }
    if (picked)
        b.last_warp = picked->id;
    return picked;
}

void end_block(ptx_block &b)
{
    b.done = true;
    for (uint32_t k = 0; k < b.n_warps; k++) {
        b.run->counters.mma_flops += b.warps[k]->mma_flops;
        b.warps[k]->mma_flops = 0;
    }
}

[[noreturn]] void report_unfinished(ptx_block &b)
{
    for (uint32_t k = 0; k < b.n_warps; k++) {
        ptx_warp &w = *b.warps[k];
        if (w.state == PTX_AT_BARRIER)
            b.run->stop("barrier-divergence", w, b.run->kernel->code[w.barrier_pc], __builtin_ctz(w.alive),
                        "this warp waits for threads that will not come");
    }
    throw ptx_stop(); /* cannot be: a block that is not done has a warp that is ready or waits */
}

} // namespace

void ptx_begin_block(ptx_block &b, uint32_t linear)
{
    const ptx_launch_args &a = b.run->args;
    b.at[0] = linear % a.grid[0];
    b.at[1] = linear / a.grid[0] % a.grid[1];
    b.at[2] = linear / a.grid[0] / a.grid[1];
    b.serial = b.run->first_serial + linear;
    b.n_threads = a.block[0] * a.block[1] * a.block[2];
    b.n_warps = (b.n_threads + PTX_LANES - 1) / PTX_LANES;
    b.last_warp = b.n_warps - 1;
    b.done = false;
    b.number = linear % ptx_stamp::BLOCKS + 1;
    b.order.begin_block(b.number, b.n_warps);
    if (b.shared.size() < b.run->shared_bytes) {
        b.shared.resize(b.run->shared_bytes, 0xa5);
        b.shared_shadow.resize(b.run->shared_bytes / PTX_GRANULE + 1);
    }
    if (b.pool.first_serial != b.run->first_serial)
        b.pool.reset(b.run->first_serial);
    for (auto &barrier : b.barriers)
        barrier = ptx_barrier();
    for (uint32_t k = 0; k < b.n_warps; k++) {
        if (k == b.warps.size())
            b.warps.push_back(std::make_unique<ptx_warp>());
        b.warps[k]->block = &b;
        b.warps[k]->id = k;
        begin_warp(*b.warps[k]);
    }
    b.run->counters.blocks++;
}

bool ptx_run_block(ptx_block &b)
{
    const ptx_options &o = *b.run->options;
    for (int turns = 0; !o.preempt || turns < 16; turns++) {
        ptx_warp *w = pick_warp(b);
        if (!w) {
            for (uint32_t k = 0; k < b.n_warps; k++)
                if (b.warps[k]->state != PTX_DONE)
                    report_unfinished(b);
            end_block(b);
            return true;
        }
        run_warp(*w, o.preempt ? 1 + b.run->next_random() % 64 : TURN);
    }
    return false;
}
