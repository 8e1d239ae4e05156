/* collect - what nobody needs is removed, and what somebody does is not.
 *
 * Kept, whatever is asked for: what a process holds (use.h) or used a moment ago; the active version of a name, the versions of its
 * split, what rollback goes to, and while nothing was promoted the newest; a pin; what is being built.
 *
 *   removed                                       when
 *   leftovers of dead builders, of dead writers   always: their lock is free, or they are an hour old
 *   notes and entries that lead nowhere           always; what is known of a directory's files: after 90 days
 *   quarantined snapshots                         older than quarantine_age_s
 *   snapshots of versions behind the newest keep  keep_versions > 0; the newest ones are then kept, whatever the bounds
 *   snapshots not used for                        max_age_s > 0
 *   snapshots, the least recently used first      while the store holds more than max_bytes > 0
 *
 * Order of one removal: entries of the indexes, the file, the note of its last use (admin_remove.c). A collection that is killed
 * anywhere leaves nothing that the next one does not see. */
#ifndef ROUSE_SNAPSHOT_COLLECT_H
#define ROUSE_SNAPSHOT_COLLECT_H

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/admin.h"
#include "snapshot/snap_store.h"

struct snap_collect {
    uint64_t max_bytes;     /* on disk, quarantined and half-built ones included; 0: no bound */
    int64_t max_age_s;      /* since the last use; 0: no bound */
    uint32_t keep_versions; /* 0: no rule */
    int64_t quarantine_age_s;
    int64_t grace_s; /* what was used or made within this counts as in use */
    bool dry_run;
};

/* One decision. */
struct snap_collected {
    const struct snap_admin_item *item; /* NULL: a leftover */
    const char *file;                   /* relative to the store */
    const char *what;                   /* "kept", "collected", "evicted", "leftover"; with dry_run what would be */
    const char *reason;
    uint64_t bytes; /* on disk */
};
struct snap_collect_sum {
    uint64_t freed_bytes, left_bytes; /* left: snapshots, quarantined and half-built ones */
    uint64_t over_bytes;              /* how far the bound is missed: all that is left is kept */
    uint32_t n_removed, n_leftovers, n_kept;
};

/* visit (may be NULL) is called for every decision. ERR_AGAIN: another collection of this store runs. */
int snap_collect_run(struct snap_store *store, const struct snap_collect *how,
                     void (*visit)(void *context, const struct snap_collected *collected), void *context,
                     struct snap_collect_sum *out_sum, struct base_error *err);

/* ---- for rm ---- */

/* Everything that the indexes have of a snapshot, under every name that it has. */
void snap_collect_forget(struct snap_store *store, const char *id, const char *path);
/* The file that path stands for, if no process holds it and `still` (may be NULL), asked under the lock, agrees. ERR_AGAIN: not. */
int snap_collect_remove(struct snap_store *store, const char *id, const char *path, bool (*still)(void *context),
                        void *context, struct base_error *err);

#endif
