/* events - what happens to snapshots and names, one line in the log each, and where there is Redis one entry of the stream
 * rouse:events (the last 10000 or so), for whoever watches a pool:
 *
 *   event    created, promoted, rolled back, split, pinned, unpinned, quarantined, collected, evicted, removed
 *   at_ms    Unix, by the clock of who did it          by   host:pid
 *   id, name, version, reason, bytes                   left out where there is none
 *
 * Telling fails silently: an event is news, the state is in the store. Any thread. */
#ifndef ROUSE_SNAPSHOT_EVENTS_H
#define ROUSE_SNAPSHOT_EVENTS_H

#include <stdint.h>

#include "snapshot/snap_store.h"

struct snap_event {
    const char *what;
    const char *id, *name, *version, *reason; /* NULL or "": none */
    uint64_t bytes;                           /* 0: none */
};

/* Logs "snapshot <what>" and tells Redis. */
void snap_event(struct snap_store *store, const struct snap_event *event);
/* Redis alone: the caller logs it with more than this. */
void snap_event_tell(struct snap_store *store, const struct snap_event *event);

#endif
