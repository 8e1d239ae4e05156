/* ptx_access - loads, stores, atomics and copies: addresses to bytes, with everything checked and counted on the way.
 *
 * Order of the checks of one access: alignment, then that the memory is there and may be used so, then races and
 * initialisation, then the bytes move. */
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "ptx_exec.h"

namespace
{

constexpr size_t COPIES_KEPT = 64; /* finished ones are cleared away when there are more */

struct addresses {
    uint64_t at[PTX_LANES];
};

template <class F> inline void for_lanes(uint32_t mask, F f)
{
    for (; mask; mask &= mask - 1)
        f(__builtin_ctz(mask));
}

uint8_t log_of(unsigned bytes)
{
    return static_cast<uint8_t>(__builtin_ctz(bytes));
}

addresses row_addresses(ptx_lanes &w, uint32_t row, bool wide, int64_t offset)
{
    addresses a;
    if (wide) {
        const uint64_t *r = ptx_row<uint64_t>(w, row);
        for (int l = 0; l < PTX_LANES; l++)
            a.at[l] = r[l] + static_cast<uint64_t>(offset);
    } else {
        const uint32_t *r = ptx_row<uint32_t>(w, row);
        for (int l = 0; l < PTX_LANES; l++)
            a.at[l] = static_cast<uint32_t>(r[l] + static_cast<uint32_t>(offset));
    }
    return a;
}

std::string hex(uint64_t x)
{
    char text[24];
    snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(x));
    return text;
}

std::string access_text(const char *verb, unsigned bytes, uint64_t addr)
{
    return std::string(verb) + " " + std::to_string(bytes) + " bytes at " + hex(addr);
}

void check_alignment(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes)
{
    uint64_t low = 0;
    for (int l = 0; l < PTX_LANES; l++)
        low |= w.mask >> l & 1 ? a.at[l] : 0;
    if (!(low & (bytes - 1)))
        return;
    for_lanes(w.mask, [&](int l) {
        if (a.at[l] & (bytes - 1))
            w.block->run->stop("misaligned", w, i, l, access_text("accesses", bytes, a.at[l]));
    });
}

/* --- counters ----------------------------------------------------------------------------------------------------- */

/* Distinct values of addr / PTX_SECTOR among the active lanes. Most often they ascend. */
unsigned count_sectors(uint32_t mask, const addresses &a)
{
    uint64_t found[PTX_LANES];
    unsigned n = 0;
    bool ascending = true;
    for_lanes(mask, [&](int l) {
        uint64_t x = a.at[l] / PTX_SECTOR;
        if (n && found[n - 1] == x)
            return;
        ascending &= n == 0 || x > found[n - 1];
        found[n++] = x;
    });
    if (ascending)
        return n;
    std::sort(found, found + n);
    return static_cast<unsigned>(std::unique(found, found + n) - found);
}

/* Rounds of the 32 banks, 4 bytes each, that lanes [from, from + n) take. Lanes that read one word share it. */
unsigned wavefronts_with_conflicts(uint32_t mask, const addresses &a, int from, int n, unsigned unit)
{
    const unsigned n_banks = 128 / unit;
    uint64_t words[32][32];
    uint8_t depth[32] = {};
    unsigned most = 0;
    for (int l = from; l < from + n; l++) {
        if (!(mask >> l & 1))
            continue;
        uint64_t word = a.at[l] / unit, bank = word % n_banks, *end = words[bank] + depth[bank];
        if (std::find(words[bank], end, word) == end)
            words[bank][depth[bank]++] = word;
        most = std::max<unsigned>(most, depth[bank]);
    }
    return most;
}

/* The same, where each bank is mostly asked for one word. */
unsigned wavefronts(uint32_t mask, const addresses &a, int from, int n, unsigned unit)
{
    const unsigned n_banks = 128 / unit, shift = log_of(unit);
    uint64_t word_in[32];
    uint32_t used = 0;
    for (int l = from; l < from + n; l++) {
        if (!(mask >> l & 1))
            continue;
        uint64_t word = a.at[l] >> shift, bank = word & (n_banks - 1);
        if (!(used >> bank & 1))
            word_in[bank] = word;
        else if (word_in[bank] != word)
            return wavefronts_with_conflicts(mask, a, from, n, unit);
        used |= 1u << bank;
    }
    return used != 0;
}

/* Wide accesses go in parts of the warp, 128 bytes each. */
void count_shared(ptx_warp &w, const addresses &a, unsigned bytes, uint32_t mask)
{
    ptx_counters &c = w.block->run->counters;
    unsigned unit = std::max(4u, bytes);
    int lanes = static_cast<int>(128 / unit);
    c.shared_requests++;
    for (int from = 0; from < PTX_LANES; from += lanes) {
        unsigned n = wavefronts(mask, a, from, lanes, unit);
        c.shared_wavefronts += n;
        c.shared_wavefronts_min += n > 0;
    }
}

void count_global(ptx_warp &w, const addresses &a, unsigned bytes, bool store)
{
    ptx_counters &c = w.block->run->counters;
    unsigned sectors = count_sectors(w.mask, a), n = static_cast<unsigned>(__builtin_popcount(w.mask)) * bytes;
    (store ? c.global_store_requests : c.global_load_requests)++;
    (store ? c.global_store_sectors : c.global_load_sectors) += sectors;
    (store ? c.global_store_bytes : c.global_load_bytes) += n;
}

/* --- races and initialisation ------------------------------------------------------------------------------------- */

void report_race(ptx_warp &w, const ptx_inst &i, int lane, const char *space, const std::string &what, ptx_stamp other)
{
    ptx_run &run = *w.block->run;
    std::string name = other.kind() == PTX_ACCESS_ASYNC ? "cp-async-unwaited" : std::string(space) + "-race";
    if (!run.known(name.c_str(), i))
        run.report(name.c_str(), w, i, lane,
                   what +
                       (other.kind() == PTX_ACCESS_ASYNC ? ", where a cp.async has not been waited for, of "
                                                         : ", not ordered with an access by ") +
                       run.thread_name(other));
}

template <bool Write> inline ptx_stamp note(ptx_record *r, unsigned n, const ptx_accessor &a)
{
    ptx_stamp other = Write ? ptx_note_write(r[0], a) : ptx_note_read(r[0], a);
    for (unsigned k = 1; k < n; k++) {
        ptx_stamp found = Write ? ptx_note_write(r[k], a) : ptx_note_read(r[k], a);
        if (found)
            other = found;
    }
    return other;
}

bool is_module_data(uint64_t addr)
{
    return addr >= PTX_DATA_WINDOW && addr < PTX_DATA_END;
}

template <bool Write>
void shadow_global(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes, ptx_access_kind kind)
{
    ptx_run &run = *w.block->run;
    ptx_global_shadow &shadow = *run.shadow;
    ptx_accessor who = ptx_accessor_of(w, kind);
    uint8_t log = log_of(bytes);
    for_lanes(w.mask, [&](int l) {
        uint64_t addr = a.at[l], offset = addr % PTX_PAGE;
        ptx_page &page = shadow.page(addr);
        uint64_t *sectors = Write ? page.stored : page.loaded, bit = 1ull << (offset / PTX_SECTOR % 64);
        uint64_t &set = sectors[offset / PTX_SECTOR / 64];
        (Write ? run.counters.unique_store_bytes : run.counters.unique_load_bytes) += set & bit ? 0 : PTX_SECTOR;
        set |= bit;
        if (Write)
            page.initialise(offset, bytes);
        else if (!page.holds(offset, bytes) && !is_module_data(addr) && !run.known("global-uninitialised", i))
            run.report("global-uninitialised", w, i, l,
                       access_text("reads", bytes, addr) + ", which nobody has written");
        unsigned n;
        ptx_record *r = ptx_granule_records(page.granules[offset / PTX_GRANULE], shadow.launch(), offset % PTX_GRANULE,
                                            log, shadow.pool, &n);
        who.at(l);
        ptx_stamp other = note<Write>(r, n, who);
        if (other)
            report_race(w, i, l, "global", access_text(Write ? "writes" : "reads", bytes, addr), other);
        if (!Write && i.flags & PTX_NC && r->write)
            run.report("nc-read-of-written", w, i, l,
                       access_text("reads", bytes, addr) + " as constant, which this launch wrote");
    });
}

ptx_record *shared_records(ptx_block &b, uint64_t offset, unsigned bytes, unsigned *out_n)
{
    return ptx_granule_records(b.shared_shadow[offset / PTX_GRANULE], b.serial, offset % PTX_GRANULE, log_of(bytes),
                               b.pool, out_n);
}

template <bool Write>
void shadow_shared(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes, ptx_access_kind kind,
                   uint32_t mask)
{
    ptx_run &run = *w.block->run;
    ptx_accessor who = ptx_accessor_of(w, kind);
    for_lanes(mask, [&](int l) {
        unsigned n;
        ptx_record *r = shared_records(*w.block, a.at[l], bytes, &n);
        if (!Write)
            for (unsigned k = 0; k < n; k++)
                if (!r[k].write && !run.known("shared-uninitialised", i))
                    run.report("shared-uninitialised", w, i, l,
                               access_text("reads", bytes, a.at[l]) + " of shared memory, which nobody has written");
        who.at(l);
        ptx_stamp other = note<Write>(r, n, who);
        if (other)
            report_race(w, i, l, "shared",
                        access_text(Write ? "writes" : "reads", bytes, a.at[l]) + " of shared memory", other);
    });
}

/* --- where the bytes are ------------------------------------------------------------------------------------------ */

using places = std::array<uint8_t *, PTX_LANES>;

bool module_data(ptx_run &run, uint64_t addr, ptx_range *out)
{
    ptx_module &m = *run.kernel->module;
    if (addr < m.data_base || addr >= m.data_base + m.data.size())
        return false;
    for (auto &s : m.symbols)
        if (addr >= m.data_base + s.offset && addr < m.data_base + s.offset + s.bytes) {
            *out = {m.data_base + s.offset, m.data_base + s.offset + s.bytes,
                    &m.data[s.offset],      true,
                    s.space == PTX_GLOBAL,  0};
            return true;
        }
    return false;
}

const ptx_range &range_around(ptx_warp &w, const ptx_inst &i, int lane, uint64_t addr, unsigned bytes, bool write)
{
    ptx_run &run = *w.block->run;
    for (size_t k = 0; k < run.ranges.size(); k++)
        if (addr >= run.ranges[k].begin && addr < run.ranges[k].end) {
            run.range_of[i.index] = static_cast<uint16_t>(k);
            return run.ranges[k];
        }
    ptx_range found;
    std::string why = "nothing is there";
    if (!module_data(run, addr, &found) && !run.memory->find(addr, &found, &why))
        run.stop("global-bounds", w, i, lane, access_text(write ? "writes" : "reads", bytes, addr) + ": " + why);
    run.ranges.push_back(found);
    run.range_of[i.index] = static_cast<uint16_t>(run.ranges.size() - 1);
    return run.ranges.back();
}

void check_range(ptx_warp &w, const ptx_inst &i, int lane, const ptx_range &r, uint64_t addr, unsigned bytes,
                 bool write)
{
    ptx_run &run = *w.block->run;
    std::string text =
        access_text(write ? "writes" : "reads", bytes, addr) + " in [" + hex(r.begin) + ", " + hex(r.end) + ")";
    if (addr + bytes > r.end)
        run.stop("global-bounds", w, i, lane, text + ", across its end");
    if (write && !r.writable)
        run.stop("read-only-store", w, i, lane, text + ", which is only read");
    if (!write && !r.readable)
        run.stop("global-bounds", w, i, lane, text + ", to which there is no access");
}

void locate(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes, bool write, places &out)
{
    ptx_run &run = *w.block->run;
    const ptx_range *r = nullptr;
    size_t first = run.range_of[i.index];
    if (first < run.ranges.size())
        r = &run.ranges[first];
    for_lanes(w.mask, [&](int l) {
        uint64_t addr = a.at[l];
        if (!r || addr < r->begin || addr >= r->end)
            r = &range_around(w, i, l, addr, bytes, write);
        if (addr + bytes > r->end || !(write ? r->writable : r->readable))
            check_range(w, i, l, *r, addr, bytes, write);
        out[static_cast<size_t>(l)] = r->host + (addr - r->begin);
    });
}

void locate_shared(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes, places &out, uint32_t mask)
{
    ptx_run &run = *w.block->run;
    uint64_t want = (1ull << bytes) - 1;
    for_lanes(mask, [&](int l) {
        uint64_t at = a.at[l];
        if (at + bytes > run.shared_bytes || (run.shared_valid[at / 64] >> (at % 64) & want) != want)
            run.stop("shared-bounds", w, i, l,
                     access_text("accesses", bytes, at) + " of shared memory, outside its variables");
        out[static_cast<size_t>(l)] = w.block->shared.data() + at;
    });
}

void locate_local(ptx_warp &w, const ptx_inst &i, const addresses &a, unsigned bytes, bool write, places &out)
{
    size_t each = w.block->run->kernel->local_bytes;
    for_lanes(w.mask, [&](int l) {
        if (a.at[l] + bytes > each)
            w.block->run->stop("local-bounds", w, i, l, access_text("accesses", bytes, a.at[l]) + " of local memory");
        size_t at = static_cast<size_t>(l) * each + a.at[l];
        out[static_cast<size_t>(l)] = w.local.data() + at;
        uint8_t *written = w.local_written.data() + at;
        if (write)
            memset(written, 1, bytes);
        else if (memchr(written, 0, bytes) && !w.block->run->known("local-uninitialised", i))
            w.block->run->report("local-uninitialised", w, i, l,
                                 access_text("reads", bytes, a.at[l]) + " of local memory");
    });
}

/* Checks, counts and places one access of `bytes` a lane by w.mask, in a space that is not generic. */
void access_space(ptx_warp &w, const ptx_inst &i, ptx_space space, const addresses &a, unsigned bytes, bool write,
                  ptx_access_kind kind, places &out)
{
    check_alignment(w, i, a, bytes);
    const bool shadow = w.block->run->options->shadow;
    if (space == PTX_SHARED) {
        locate_shared(w, i, a, bytes, out, w.mask);
        count_shared(w, a, bytes, w.mask);
        if (shadow)
            write ? shadow_shared<true>(w, i, a, bytes, kind, w.mask)
                  : shadow_shared<false>(w, i, a, bytes, kind, w.mask);
    } else if (space == PTX_LOCAL) {
        locate_local(w, i, a, bytes, write, out);
    } else {
        locate(w, i, a, bytes, write, out);
        count_global(w, a, bytes, write);
        if (shadow)
            write ? shadow_global<true>(w, i, a, bytes, kind) : shadow_global<false>(w, i, a, bytes, kind);
    }
}

ptx_space space_of(uint64_t addr)
{
    if (addr - PTX_SHARED_WINDOW < PTX_WINDOW_BYTES)
        return PTX_SHARED;
    return addr - PTX_LOCAL_WINDOW < PTX_WINDOW_BYTES ? PTX_LOCAL : PTX_GLOBAL;
}

uint64_t window_of(ptx_space space)
{
    return space == PTX_SHARED ? PTX_SHARED_WINDOW : space == PTX_LOCAL ? PTX_LOCAL_WINDOW : 0;
}

/* The same, where lanes of a generic access may be in different spaces. */
void access_any(ptx_warp &w, const ptx_inst &i, addresses &a, unsigned bytes, bool write, ptx_access_kind kind,
                places &out)
{
    if (i.space != PTX_GENERIC)
        return access_space(w, i, i.space, a, bytes, write, kind, out);
    const uint32_t all = w.mask;
    for (ptx_space space : {PTX_GLOBAL, PTX_SHARED, PTX_LOCAL}) {
        w.mask = 0;
        for_lanes(all, [&](int l) { w.mask |= static_cast<uint32_t>(space_of(a.at[l]) == space) << l; });
        if (!w.mask)
            continue;
        addresses part = a;
        for (uint64_t &at : part.at)
            at -= window_of(space);
        access_space(w, i, space, part, bytes, write, kind, out);
    }
    w.mask = all;
}

/* --- between memory and rows -------------------------------------------------------------------------------------- */

template <class Row, class T> void load_rows(ptx_lanes &w, const ptx_inst &i, const places &at)
{
    for (unsigned k = 0; k < i.vector; k++) {
        Row *d = ptx_row<Row>(w, i.row[k]);
        for_lanes(w.mask, [&](int l) {
            T x;
            memcpy(&x, at[static_cast<size_t>(l)] + k * sizeof(T), sizeof(T));
            d[l] = static_cast<Row>(x);
        });
    }
}

template <class Row> void load_rows_of(ptx_lanes &w, const ptx_inst &i, const places &at)
{
    bool s = i.flags & PTX_SIGNED;
    switch (i.bytes) {
    case 1:
        return s ? load_rows<Row, int8_t>(w, i, at) : load_rows<Row, uint8_t>(w, i, at);
    case 2:
        return s ? load_rows<Row, int16_t>(w, i, at) : load_rows<Row, uint16_t>(w, i, at);
    case 4:
        return s ? load_rows<Row, int32_t>(w, i, at) : load_rows<Row, uint32_t>(w, i, at);
    default:
        return load_rows<Row, uint64_t>(w, i, at);
    }
}

void load_to_rows(ptx_lanes &w, const ptx_inst &i, const places &at)
{
    if (i.row_bytes == 2)
        load_rows_of<uint16_t>(w, i, at);
    else if (i.row_bytes == 4)
        load_rows_of<uint32_t>(w, i, at);
    else
        load_rows_of<uint64_t>(w, i, at);
}

/* The low bytes of the register; this machine has them first, like the card. */
void store_from_rows(ptx_lanes &w, const ptx_inst &i, const places &at)
{
    for (unsigned k = 0; k < i.vector; k++) {
        const uint8_t *s = ptx_row<uint8_t>(w, i.row[k]);
        for_lanes(w.mask, [&](int l) {
            memcpy(at[static_cast<size_t>(l)] + k * i.bytes, s + static_cast<size_t>(l) * i.row_bytes, i.bytes);
        });
    }
}

/* --- atomics ------------------------------------------------------------------------------------------------------ */

template <class T> T atom_integer(uint8_t op, T old, T b, T c)
{
    switch (op) {
    case PTX_ATOM_ADD:
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(b));
    case PTX_ATOM_MIN:
        return std::min(old, b);
    case PTX_ATOM_MAX:
        return std::max(old, b);
    case PTX_ATOM_INC:
        return old >= b ? T(0) : static_cast<T>(old + 1);
    case PTX_ATOM_DEC:
        return old == 0 || old > b ? b : static_cast<T>(old - 1);
    case PTX_ATOM_AND:
        return old & b;
    case PTX_ATOM_OR:
        return old | b;
    case PTX_ATOM_XOR:
        return old ^ b;
    case PTX_ATOM_EXCH:
        return b;
    default:
        return old == b ? c : old;
    }
}

template <class T> void atom_step(ptx_lanes &w, const ptx_inst &i, int l, uint8_t *at)
{
    T old, value;
    memcpy(&old, at, sizeof old);
    if constexpr (std::is_floating_point_v<T>)
        value = old + ptx_row<T>(w, i.row[1])[l];
    else
        value = atom_integer<T>(i.what, old, ptx_row<T>(w, i.row[1])[l], ptx_row<T>(w, i.row[2])[l]);
    memcpy(at, &value, sizeof value);
    ptx_row<T>(w, i.row[0])[l] = old;
}

void atom_lane(ptx_lanes &w, const ptx_inst &i, int l, uint8_t *at)
{
    switch (i.to) {
    case PTX_F32:
        return atom_step<float>(w, i, l, at);
    case PTX_F64:
        return atom_step<double>(w, i, l, at);
    case PTX_S32:
        return atom_step<int32_t>(w, i, l, at);
    case PTX_S64:
        return atom_step<int64_t>(w, i, l, at);
    case PTX_B16:
        return atom_step<uint16_t>(w, i, l, at);
    case PTX_B32:
    case PTX_U32:
        return atom_step<uint32_t>(w, i, l, at);
    default:
        return atom_step<uint64_t>(w, i, l, at);
    }
}

/* --- cp.async ----------------------------------------------------------------------------------------------------- */

void copy_sizes(ptx_warp &w, const ptx_inst &i, ptx_async_copy &c)
{
    for_lanes(w.mask, [&](int l) {
        uint32_t n = i.bytes;
        if (i.what == PTX_CP_BYTES)
            n = ptx_row<uint32_t>(w, i.row[PTX_AT_SIZE])[l];
        if (i.what == PTX_CP_IGNORE && *ptx_row<uint32_t>(w, i.row[PTX_AT_SIZE]) >> l & 1)
            n = 0;
        if (n > i.bytes)
            w.block->run->stop("cp-async-size", w, i, l,
                               "reads " + std::to_string(n) + " bytes of a copy of " + std::to_string(i.bytes));
        c.n_read[static_cast<size_t>(l)] = static_cast<uint8_t>(n);
    });
}

/* One piece of as many lanes as need it, behind what they have already. */
void copy_piece(ptx_warp &w, const ptx_inst &i, ptx_async_copy &c, const addresses &a, unsigned piece,
                std::array<uint8_t, PTX_LANES> &done)
{
    addresses part = a;
    for (size_t k = 0; k < PTX_LANES; k++)
        part.at[k] += done[k];
    places at;
    access_space(w, i, PTX_GLOBAL, part, piece, false, PTX_ACCESS_PLAIN, at);
    for_lanes(w.mask, [&](int l) {
        size_t k = static_cast<size_t>(l);
        c.from[k] = done[k] ? c.from[k] : at[k];
        done[k] = static_cast<uint8_t>(done[k] + piece);
    });
}

/* The global side: n_read bytes a lane, in aligned pieces of one size at a time. Mostly it is all of them. */
void copy_sources(ptx_warp &w, const ptx_inst &i, ptx_async_copy &c)
{
    addresses a = row_addresses(w, i.row[PTX_AT_SOURCE], true, i.offset);
    const uint32_t all = w.mask;
    std::array<uint8_t, PTX_LANES> done = {};
    uint32_t reading = 0;
    for (size_t k = 0; k < PTX_LANES; k++)
        reading |= static_cast<uint32_t>(c.n_read[k] != 0) << k;
    w.mask = all & reading;
    check_alignment(w, i, a, i.bytes);
    for (unsigned piece = i.bytes; piece > 0; piece /= 2) {
        w.mask = 0;
        for (size_t k = 0; k < PTX_LANES; k++)
            w.mask |= static_cast<uint32_t>(c.n_read[k] - done[k] >= static_cast<int>(piece)) << k;
        w.mask &= all;
        if (w.mask)
            copy_piece(w, i, c, a, piece, done);
        if (piece == i.bytes && w.mask == (all & reading))
            break;
    }
    w.mask = all;
}

void move_bytes(uint8_t *to, const uint8_t *from, unsigned bytes, unsigned n_read)
{
    if (bytes == 16 && n_read == 16) {
        memcpy(to, from, 16);
        return;
    }
    memset(to, 0, bytes);
    if (n_read)
        memcpy(to, from, n_read);
}

void finish_copy(ptx_warp &w, ptx_async_copy &c, uint32_t lanes)
{
    ptx_block &b = *w.block;
    ptx_accessor who = ptx_accessor_of(w, PTX_ACCESS_PLAIN);
    for_lanes(lanes, [&](int l) {
        size_t k = static_cast<size_t>(l);
        move_bytes(b.shared.data() + c.to[k], c.from[k], c.bytes, c.n_read[k]);
        if (!b.run->options->shadow)
            return;
        who.at(l);
        unsigned n;
        ptx_record *r = shared_records(b, c.to[k], c.bytes, &n);
        for (; n > 0; n--, r++)
            r->write = who.me;
    });
    c.mask &= ~lanes;
}

/* Lanes whose group is no longer among the last `may_stay` that they committed; negative: all. */
uint32_t copies_due(const ptx_warp &w, const ptx_async_copy &c, int64_t may_stay)
{
    if (may_stay < 0)
        return c.mask & w.mask;
    uint32_t due = 0;
    for (size_t k = 0; k < PTX_LANES; k++)
        due |= static_cast<uint32_t>(c.group[k] + may_stay < w.committed[k]) << k;
    return due & c.mask & w.mask;
}

} // namespace

/* --- handlers ----------------------------------------------------------------------------------------------------- */

void ptx_do_ld(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    addresses a = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, i.offset);
    places at;
    access_any(w, i, a, i.bytes * i.vector, false, i.flags & PTX_STRONG ? PTX_ACCESS_STRONG : PTX_ACCESS_PLAIN, at);
    load_to_rows(w, i, at);
}

void ptx_do_ld_param(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    places at;
    at.fill(const_cast<uint8_t *>(w.block->run->params) + i.offset);
    load_to_rows(w, i, at);
}

void ptx_do_ld_param_by_register(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    const ptx_run &run = *w.block->run;
    const unsigned bytes = i.bytes * i.vector, end = run.kernel->info.param_bytes;
    addresses a = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, i.offset);
    check_alignment(w, i, a, bytes);
    places at;
    for_lanes(w.mask, [&](int l) {
        if (a.at[l] + bytes > end)
            w.block->run->stop("param-bounds", w, i, l, access_text("reads", bytes, a.at[l]) + " of the parameters");
        at[static_cast<size_t>(l)] = const_cast<uint8_t *>(run.params) + a.at[l];
    });
    load_to_rows(w, i, at);
}

void ptx_do_st(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    addresses a = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, i.offset);
    places at;
    access_any(w, i, a, i.bytes * i.vector, true, i.flags & PTX_STRONG ? PTX_ACCESS_STRONG : PTX_ACCESS_PLAIN, at);
    store_from_rows(w, i, at);
}

/* Reads, then writes: uninitialised memory under an atomic is reported by the read. */
void ptx_do_atom(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    addresses a = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, i.offset);
    places at;
    access_any(w, i, a, i.bytes, false, PTX_ACCESS_STRONG, at);
    access_any(w, i, a, i.bytes, true, PTX_ACCESS_STRONG, at);
    for_lanes(w.mask, [&](int l) { atom_lane(w, i, l, at[static_cast<size_t>(l)]); });
}

void ptx_do_isspacep(ptx_lanes &w, const ptx_inst &i)
{
    const uint64_t *a = ptx_row<uint64_t>(w, i.row[1]);
    uint32_t *p = ptx_row<uint32_t>(w, i.row[0]);
    for_lanes(w.mask, [&](int l) {
        uint32_t bit = 1u << l;
        *p = space_of(a[l]) == i.space ? *p | bit : *p & ~bit;
    });
}

void ptx_do_cp_async(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    w.copies.emplace_back();
    ptx_async_copy &c = w.copies.back();
    c.mask = w.mask;
    c.bytes = i.bytes;
    addresses to = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, static_cast<int32_t>(i.target));
    copy_sizes(w, i, c);
    copy_sources(w, i, c);
    places unused;
    access_space(w, i, PTX_SHARED, to, i.bytes, true, PTX_ACCESS_ASYNC, unused);
    for_lanes(w.mask, [&](int l) {
        size_t k = static_cast<size_t>(l);
        c.to[k] = static_cast<uint32_t>(to.at[l]);
        c.group[k] = w.committed[k];
    });
}

void ptx_do_cp_commit(ptx_lanes &lanes, const ptx_inst &)
{
    ptx_warp &w = ptx_warp_of(lanes);
    for_lanes(w.mask, [&](int l) { w.committed[l]++; });
}

void ptx_do_cp_wait(ptx_lanes &lanes, const ptx_inst &i)
{
    ptx_warp &w = ptx_warp_of(lanes);
    bool left = false;
    for (auto &c : w.copies) {
        finish_copy(w, c, copies_due(w, c, i.offset));
        left |= c.mask != 0;
    }
    if (!left)
        w.copies.clear();
    else if (w.copies.size() > COPIES_KEPT)
        w.copies.erase(w.copies.begin(),
                       std::find_if(w.copies.begin(), w.copies.end(), [](auto &c) { return c.mask != 0; }));
}

/* Lane 8 m + r gives the address of row r of tile m. Row r goes to lanes 4 r to 4 r + 3, four bytes each; with .trans, columns
 * go where rows went. */
void ptx_do_ldmatrix(ptx_lanes &lanes, const ptx_inst &i)
{
    constexpr int TILE = 8;
    ptx_warp &w = ptx_warp_of(lanes);
    const uint32_t all = w.mask;
    w.mask = i.vector == 4 ? PTX_ALL_LANES : (1u << (TILE * i.vector)) - 1;
    addresses a = row_addresses(w, i.row[PTX_AT_ADDRESS], i.flags & PTX_ADD64, i.offset);
    places at;
    access_space(w, i, PTX_SHARED, a, i.bytes, false, PTX_ACCESS_PLAIN, at);
    w.mask = all;
    for (int m = 0; m < i.vector; m++) {
        uint16_t tile[TILE][TILE];
        for (int r = 0; r < TILE; r++)
            memcpy(tile[r], at[static_cast<size_t>(TILE * m + r)], sizeof tile[r]);
        uint16_t *d = ptx_row<uint16_t>(w, i.row[m]);
        if (!(i.flags & PTX_TRANS)) {
            memcpy(d, tile, sizeof tile);
            continue;
        }
        for (int r = 0; r < TILE; r++)
            for (int col = 0; col < TILE; col++)
                d[r * TILE + col] = tile[col][r];
    }
}
