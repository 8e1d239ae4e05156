/* ptx_shadow - what is remembered of each byte of memory: who touched it last, and whether it was ever written.
 *
 * A stamp names a thread and the moment: its block, and how many barriers and warp barriers it had passed. Two accesses of
 * one byte by two threads, one of them a write, race unless a barrier of the block or of the warp lies between them. Blocks of
 * a launch are never ordered: an algorithm that lets the last block read what others wrote, by fences and counters, is
 * reported. Atomics do not race with atomics.
 *
 * Bytes are kept in granules of 16, all bytes of which share one record until an access smaller than its record splits it:
 * every access is aligned to its size, so a granule has records of 16, 8, 4, 2 or 1 bytes. */
#ifndef ROUSE_EMU_PTX_SHADOW_H
#define ROUSE_EMU_PTX_SHADOW_H

#include <deque>

#include "ptx_module.h"

constexpr uint64_t PTX_GRANULE = 16;
constexpr uint64_t PTX_SECTOR = 32;
constexpr uint64_t PTX_PAGE = 4096;

enum ptx_access_kind : uint8_t { PTX_ACCESS_PLAIN, PTX_ACCESS_STRONG, PTX_ACCESS_ASYNC };

/* In one word, from the top: block (1 and up; 24 bits), thread (10), kind (2), barriers and warp barriers passed (14 each).
 * Counts wrap and are compared by their distance. Zero: nobody. */
class ptx_stamp
{
  public:
    static constexpr uint32_t BLOCKS = (1u << 24) - 1, COUNT = (1u << 14) - 1;

    ptx_stamp() = default;
    ptx_stamp(uint32_t block, uint32_t thread, ptx_access_kind kind, uint32_t barriers, uint32_t warp_syncs)
        : bits(static_cast<uint64_t>(block) << 40 | static_cast<uint64_t>(thread) << 30 |
               static_cast<uint64_t>(kind) << 28 | (barriers & COUNT) << 14 | (warp_syncs & COUNT))
    {
    }
    ptx_stamp of_lane(int lane) const /* of the stamp of lane 0 */
    {
        ptx_stamp s;
        s.bits = bits + (static_cast<uint64_t>(lane) << 30);
        return s;
    }
    explicit operator bool() const { return bits != 0; }
    uint32_t block() const { return static_cast<uint32_t>(bits >> 40); }
    uint32_t thread() const { return bits >> 30 & 1023; }
    ptx_access_kind kind() const { return static_cast<ptx_access_kind>(bits >> 28 & 3); }
    uint32_t barriers() const { return bits >> 14 & COUNT; }
    uint32_t warp_syncs() const { return bits & COUNT; }
    bool same_thread(ptx_stamp o) const { return (bits ^ o.bits) >> 30 == 0; }

  private:
    uint64_t bits = 0;
};

/* What the threads of one block know of each other. */
class ptx_order
{
  public:
    void begin_block(uint32_t number, uint32_t n_warps);
    /* A barrier gathers what the warps that arrive know, and tells those that wait for it. */
    void arrive(uint32_t warp, std::vector<uint16_t> &gathered);
    void learn(uint32_t warp, const std::vector<uint16_t> &gathered);
    void warp_sync(uint32_t warp, uint32_t mask, bool whole);
    bool before(ptx_stamp then, uint32_t warp, int lane) const
    {
        if (then.block() != block)
            return false;
        uint32_t other = then.thread() / PTX_LANES;
        if (later(seen[warp * n + other], then.barriers()))
            return true;
        if (other != warp)
            return false;
        const lanes &s = syncs[warp];
        return later(s.by_all, then.warp_syncs()) ||
               (s.partial && later(s.by_lane[lane][then.thread() % PTX_LANES], then.warp_syncs()));
    }
    uint16_t barriers(uint32_t warp) const { return seen[warp * n + warp]; }
    uint16_t warp_syncs(uint32_t warp) const { return syncs[warp].count; }

  private:
    struct lanes {
        uint16_t count = 1;
        uint16_t by_all = 1; /* the last sync of the whole warp */
        bool partial = false;
        uint16_t by_lane[PTX_LANES][PTX_LANES];
    };
    static bool later(uint32_t a, uint32_t b) { return ((a - b - 1) & ptx_stamp::COUNT) < ptx_stamp::COUNT / 2; }
    uint32_t block = 0, n = 0;
    std::vector<uint16_t> seen; /* [n][n] barriers of a warp that another has been told of; diagonal: its own count */
    std::vector<lanes> syncs;
};

struct ptx_record {
    ptx_stamp write, read, read2; /* read2: another thread's, of another block where there was one */
};

struct ptx_granule {
    ptx_record one;
    ptx_record *parts = nullptr; /* [16] */
    uint32_t serial = 0;         /* of the launch or block that this is about; others are forgotten */
    uint8_t log = 4;             /* log2 of the bytes of one record */
};

class ptx_record_pool
{
  public:
    ptx_record *take();
    /* All records handed out are void; granules of a serial before this one have none. */
    void reset(uint32_t serial)
    {
        used = 0;
        first_serial = serial;
    }
    uint32_t first_serial = 0;

  private:
    struct sixteen {
        ptx_record r[PTX_GRANULE];
    };
    std::deque<sixteen> chunks;
    size_t used = 0;
};

/* The thread that accesses, for the functions below. */
struct ptx_accessor {
    ptx_stamp lane0, me;
    const ptx_order *order;
    uint32_t warp;
    int lane;

    void at(int l)
    {
        lane = l;
        me = lane0.of_lane(l);
    }
};

void ptx_split_granule(ptx_granule &g, uint8_t log, ptx_record_pool &pool);
/* Forgets what it knew. Its split stays while its records do: the next block will mostly access as the last one did. */
void ptx_renew_granule(ptx_granule &g, uint32_t serial, const ptx_record_pool &pool);

/* The records of an access of 2^log bytes at offset, and how many they are. */
inline ptx_record *ptx_granule_records(ptx_granule &g, uint32_t serial, unsigned offset, uint8_t log,
                                       ptx_record_pool &pool, unsigned *out_n)
{
    if (g.serial != serial)
        ptx_renew_granule(g, serial, pool);
    if (g.log > log)
        ptx_split_granule(g, log, pool);
    *out_n = 1u << (log - g.log);
    return g.log == 4 ? &g.one : g.parts + (offset >> g.log);
}

inline bool ptx_conflict(ptx_stamp then, const ptx_accessor &a)
{
    if (!then || (then.same_thread(a.me) && then.kind() != PTX_ACCESS_ASYNC))
        return false;
    if (then.kind() == PTX_ACCESS_ASYNC)
        return true;
    if (then.kind() == PTX_ACCESS_STRONG && a.me.kind() == PTX_ACCESS_STRONG)
        return false;
    return !a.order->before(then, a.warp, a.lane);
}

/* Notes an access and gives the other thread's if the two race, or the unfinished copy that it meets. */
inline ptx_stamp ptx_note_read(ptx_record &r, const ptx_accessor &a)
{
    ptx_stamp other = ptx_conflict(r.write, a) ? r.write : ptx_stamp();
    if (!r.read.same_thread(a.me) && (!r.read2 || r.read2.block() == a.me.block() || r.read.block() != a.me.block()))
        r.read2 = r.read;
    r.read = a.me;
    return other;
}

inline ptx_stamp ptx_note_write(ptx_record &r, const ptx_accessor &a)
{
    ptx_stamp other = ptx_conflict(r.read2, a) ? r.read2 : ptx_stamp();
    other = ptx_conflict(r.read, a) ? r.read : other;
    other = ptx_conflict(r.write, a) ? r.write : other;
    r = {a.me, {}, {}};
    return other;
}

/* One page of global memory. */
struct ptx_page {
    uint32_t launch = 0; /* that the sector sets are about */
    bool all_initialised = false;
    uint64_t loaded[PTX_PAGE / PTX_SECTOR / 64], stored[PTX_PAGE / PTX_SECTOR / 64]; /* sectors */
    uint64_t initialised[PTX_PAGE / 64];                                             /* bytes */
    ptx_granule granules[PTX_PAGE / PTX_GRANULE];

    ptx_page();
    bool holds(uint64_t offset, unsigned bytes) const
    {
        return all_initialised || (initialised[offset / 64] >> (offset % 64) & mask(bytes)) == mask(bytes);
    }
    void initialise(uint64_t offset, unsigned bytes) { initialised[offset / 64] |= mask(bytes) << (offset % 64); }
    void enter(uint32_t to_launch);
    void forget(uint64_t offset, uint64_t end);

  private:
    static uint64_t mask(unsigned bytes) { return (1ull << bytes) - 1; }
};

class ptx_global_shadow
{
  public:
    ptx_page &page(uint64_t addr) /* made when it is not there */
    {
        return addr / PTX_PAGE == last_number ? *last : look_up(addr / PTX_PAGE);
    }
    void begin_launch();
    uint32_t launch() const { return serial; }
    ptx_record_pool pool;
    void set_initialised(uint64_t addr, uint64_t bytes);
    void forget(uint64_t addr, uint64_t bytes);
    bool initialised(uint64_t addr, uint64_t bytes) const;

  private:
    uint32_t serial = 0;
    std::unordered_map<uint64_t, std::unique_ptr<ptx_page>> pages; /* by addr / PTX_PAGE */
    /* Written as a whole by the host, of pages that no kernel has touched: [begin, end) of page numbers. */
    std::map<uint64_t, uint64_t> whole;
    ptx_page &look_up(uint64_t number);
    bool in_whole(uint64_t number) const;
    void add_whole(uint64_t from, uint64_t to);
    void remove_whole(uint64_t from, uint64_t to);
    uint64_t last_number = ~0ull;
    ptx_page *last = nullptr;
};

#endif
