#include "snapshot/snap_fetch_pace.h"

#include "snapshot/snap_format.h"

enum { WINDOW_MS = 200, HOLD_WINDOWS = 20 };

static const double pays = 1.10; /* less is within what a network varies by */

void snap_fetch_pace_init(struct snap_fetch_pace *p, uint64_t now_ns)
{
    *p = (struct snap_fetch_pace){.ranges = SNAP_FETCH_RANGES_MIN, .before = SNAP_FETCH_RANGES_MIN, .began_ns = now_ns};
}

static void pace_grow(struct snap_fetch_pace *p, double rate)
{
    p->best = rate;
    p->before = p->ranges;
    p->ranges += p->ranges / 2;
    if (p->ranges > SNAP_FETCH_RANGES_MAX)
        p->ranges = SNAP_FETCH_RANGES_MAX;
}

void snap_fetch_pace_tick(struct snap_fetch_pace *p, uint64_t bytes, uint64_t now_ns)
{
    p->bytes += bytes;
    /* Each range has finished about two chunks: the window is not only the ends of what began before it. */
    if (now_ns - p->began_ns < WINDOW_MS * 1000000ull || p->bytes < 2ull * p->ranges * SNAP_CHUNK_BYTES)
        return;
    double rate = (double)p->bytes * 1e9 / (double)(now_ns - p->began_ns);
    p->began_ns = now_ns;
    p->bytes = 0;
    if (p->hold > 0 && --p->hold > 0)
        return;
    if (p->ranges == p->before || rate > p->best * pays) {
        if (p->ranges < SNAP_FETCH_RANGES_MAX)
            pace_grow(p, rate);
        return;
    }
    p->ranges = p->before;
    p->hold = HOLD_WINDOWS;
}
