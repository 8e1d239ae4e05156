/* ptx_shadow - see ptx_shadow.h. */
#include <algorithm>
#include <cstring>

#include "ptx_shadow.h"

/* --- the order of threads ----------------------------------------------------------------------------------------- */

void ptx_order::begin_block(uint32_t number, uint32_t n_warps)
{
    block = number;
    n = n_warps;
    seen.assign(static_cast<size_t>(n) * n, 1);
    syncs.resize(n);
    for (auto &s : syncs) {
        s.count = s.by_all = 1;
        s.partial = false;
    }
}

void ptx_order::arrive(uint32_t warp, std::vector<uint16_t> &gathered)
{
    seen[warp * n + warp]++;
    gathered.resize(n, 0);
    for (uint32_t v = 0; v < n; v++)
        if (later(seen[warp * n + v], gathered[v]))
            gathered[v] = seen[warp * n + v];
}

void ptx_order::learn(uint32_t warp, const std::vector<uint16_t> &gathered)
{
    for (uint32_t v = 0; v < n; v++)
        if (later(gathered[v], seen[warp * n + v]))
            seen[warp * n + v] = gathered[v];
}

void ptx_order::warp_sync(uint32_t warp, uint32_t mask, bool whole)
{
    lanes &s = syncs[warp];
    s.count++;
    if (whole) {
        s.by_all = s.count;
        s.partial = false;
        return;
    }
    if (!s.partial) {
        std::fill(&s.by_lane[0][0], &s.by_lane[0][0] + PTX_LANES * PTX_LANES, s.by_all);
        s.partial = true;
    }
    uint16_t joined[PTX_LANES];
    for (int k = 0; k < PTX_LANES; k++) {
        joined[k] = s.by_all;
        for (int l = 0; l < PTX_LANES; l++)
            if (mask >> l & 1 && later(s.by_lane[l][k], joined[k]))
                joined[k] = s.by_lane[l][k];
        if (mask >> k & 1)
            joined[k] = s.count;
    }
    for (int l = 0; l < PTX_LANES; l++)
        if (mask >> l & 1)
            memcpy(s.by_lane[l], joined, sizeof joined);
}

/* --- granules ----------------------------------------------------------------------------------------------------- */

ptx_record *ptx_record_pool::take()
{
    if (used == chunks.size())
        chunks.emplace_back();
    return chunks[used++].r;
}

void ptx_renew_granule(ptx_granule &g, uint32_t serial, const ptx_record_pool &pool)
{
    if (g.serial < pool.first_serial)
        g.log = 4;
    g.serial = serial;
    if (g.log == 4)
        g.one = ptx_record();
    else
        std::fill(g.parts, g.parts + (PTX_GRANULE >> g.log), ptx_record());
}

void ptx_split_granule(ptx_granule &g, uint8_t log, ptx_record_pool &pool)
{
    ptx_record old[PTX_GRANULE];
    unsigned n_old = 16u >> g.log, n_new = 16u >> log;
    if (g.log == 4) {
        old[0] = g.one;
        g.parts = pool.take();
    } else {
        std::copy(g.parts, g.parts + n_old, old);
    }
    for (unsigned i = 0; i < n_new; i++)
        g.parts[i] = old[i * n_old / n_new];
    g.log = log;
}

/* --- global memory ------------------------------------------------------------------------------------------------ */

ptx_page::ptx_page() : loaded(), stored(), initialised() {}

void ptx_page::enter(uint32_t to_launch)
{
    if (launch == to_launch)
        return;
    launch = to_launch;
    memset(loaded, 0, sizeof loaded);
    memset(stored, 0, sizeof stored);
}

void ptx_global_shadow::begin_launch()
{
    serial++;
    pool.reset(serial);
    last_number = ~0ull;
}

ptx_page &ptx_global_shadow::look_up(uint64_t number)
{
    auto &slot = pages[number];
    if (!slot) {
        slot = std::make_unique<ptx_page>();
        slot->all_initialised = in_whole(number);
        if (slot->all_initialised)
            remove_whole(number, number + 1);
    }
    last_number = number;
    last = slot.get();
    last->enter(serial);
    return *last;
}

bool ptx_global_shadow::in_whole(uint64_t number) const
{
    auto it = whole.upper_bound(number);
    return it != whole.begin() && std::prev(it)->second > number;
}

void ptx_global_shadow::remove_whole(uint64_t from, uint64_t to)
{
    auto it = whole.upper_bound(from);
    if (it != whole.begin())
        --it;
    while (it != whole.end() && it->first < to) {
        uint64_t begin = it->first, end = it->second;
        if (end <= from) {
            ++it;
            continue;
        }
        it = whole.erase(it);
        if (begin < from)
            whole[begin] = from;
        if (end > to)
            whole[to] = end;
    }
}

void ptx_global_shadow::add_whole(uint64_t from, uint64_t to)
{
    remove_whole(from, to);
    whole[from] = to;
}

/* Pages of [from, to) that have been made are changed, the others noted. */
void ptx_global_shadow::set_initialised(uint64_t addr, uint64_t bytes)
{
    for (uint64_t at = addr, end = addr + bytes; at < end;) {
        uint64_t number = at / PTX_PAGE, page_end = (number + 1) * PTX_PAGE, stop = std::min(end, page_end);
        if (at % PTX_PAGE != 0 || stop != page_end) {
            ptx_page &p = page(at);
            for (; at < stop; at++)
                p.initialise(at % PTX_PAGE, 1);
            continue;
        }
        uint64_t last_whole = end / PTX_PAGE;
        uint64_t from = number;
        while (number < last_whole) {
            auto it = pages.find(number);
            if (it != pages.end()) {
                it->second->all_initialised = true;
                if (from < number)
                    add_whole(from, number);
                from = number + 1;
            }
            number++;
        }
        if (from < number)
            add_whole(from, number);
        at = number * PTX_PAGE;
    }
}

void ptx_page::forget(uint64_t offset, uint64_t end)
{
    if (all_initialised)
        memset(initialised, 0xff, sizeof initialised);
    all_initialised = false;
    for (; offset < end; offset++)
        initialised[offset / 64] &= ~(1ull << (offset % 64));
}

void ptx_global_shadow::forget(uint64_t addr, uint64_t bytes)
{
    uint64_t end = addr + bytes, from = (addr + PTX_PAGE - 1) / PTX_PAGE, to = end / PTX_PAGE;
    if (addr % PTX_PAGE)
        page(addr).forget(addr % PTX_PAGE, std::min(PTX_PAGE, addr % PTX_PAGE + bytes));
    if (end % PTX_PAGE && end / PTX_PAGE >= from)
        page(end).forget(0, end % PTX_PAGE);
    if (from >= to)
        return;
    remove_whole(from, to);
    last_number = ~0ull;
    if (to - from < pages.size()) {
        for (uint64_t number = from; number < to; number++)
            pages.erase(number);
        return;
    }
    for (auto it = pages.begin(); it != pages.end();)
        it = it->first >= from && it->first < to ? pages.erase(it) : std::next(it);
}

bool ptx_global_shadow::initialised(uint64_t addr, uint64_t bytes) const
{
    for (uint64_t at = addr; at < addr + bytes;) {
        auto it = pages.find(at / PTX_PAGE);
        bool all = it == pages.end() ? in_whole(at / PTX_PAGE) : it->second->all_initialised;
        if (!all && (it == pages.end() || !it->second->holds(at % PTX_PAGE, 1)))
            return false;
        at = all ? (at / PTX_PAGE + 1) * PTX_PAGE : at + 1;
    }
    return true;
}
