/* snap_fetch_pace - how many ranges are fetched at a time: as many as pay.
 *
 * Measured over windows: while more ranges bring more bytes a second, there are more of them; when they do not, the number before is
 * kept, and tried again some windows later. Pure; its owner's lock guards it. */
#ifndef ROUSE_SNAPSHOT_SNAP_FETCH_PACE_H
#define ROUSE_SNAPSHOT_SNAP_FETCH_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { SNAP_FETCH_RANGES_MIN = 4, SNAP_FETCH_RANGES_MAX = 16 };

struct snap_fetch_pace {
    uint32_t ranges;          /* at a time, now */
    uint32_t before;          /* what it goes back to when more does not pay */
    uint32_t hold;            /* windows until more is tried again */
    uint64_t began_ns, bytes; /* of this window */
    double best;              /* bytes a second with `before` ranges */
};

void snap_fetch_pace_init(struct snap_fetch_pace *p, uint64_t now_ns);
/* So many bytes arrived. */
void snap_fetch_pace_tick(struct snap_fetch_pace *p, uint64_t bytes, uint64_t now_ns);

#endif
