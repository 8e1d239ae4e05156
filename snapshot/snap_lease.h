/* snap_lease - the right to build, held by one process at a time.
 *
 * Always a flock'ed file in the store: builders of one node, and Redis away. With Redis a lease as well (SET PX with a
 * fencing token from INCR), which a small thread renews while the build lasts. What is leased is (name, env): known
 * before anything was read, so that who comes second serves at once instead of computing a digest first.
 *
 *   FREE -> HELD  snap_lease_take        HELD -> FREE  snap_lease_release, or the process dies (flock at once, Redis 15 s)
 *
 * (1) While Redis answers, no two holders of one lease pass snap_lease_check.
 * (2) Without Redis, none on one node do. Two nodes may then build the same snapshot: same id, one rename wins, and whoever
 * reads has the whole of one of them.
 * (3) A holder that was stopped for longer than the lease lasts, at whatever point, changes no index afterwards: its token is compared
 * in the script that would (snap_lease_fence). What it can still do is to rename a whole snapshot onto the name that follows from
 * its content, and to add its model to the name's versions, by the time at which it was made. Tokens grow also when
 * Redis loses its memory. Times are the server's; here only the steady clock is asked. */
#ifndef ROUSE_SNAPSHOT_SNAP_LEASE_H
#define ROUSE_SNAPSHOT_SNAP_LEASE_H

#include "base/error.h"
#include "snapshot/snap_store.h"

struct snap_lease;

/* key: 32 hex digits. ERR_AGAIN: another builder holds it. Redis away is no error. */
int snap_lease_take(struct snap_store *store, const char *key, struct snap_lease **out_lease, struct base_error *err);
/* Right before publishing: ERR_AGAIN when the lease was lost meanwhile (this process was stopped for longer than it
 * lasts). */
int snap_lease_check(struct snap_lease *lease, struct base_error *err);
/* For the change of an index that is to count only while the lease is ours. NULL: there is no Redis in it. Lent. */
const struct snap_index_fence *snap_lease_fence(const struct snap_lease *lease);
void snap_lease_release(struct snap_lease *lease);

int snap_lease_key(const char *name, const char *env, char out_key[SNAP_ID_CHARS + 1], struct base_error *err);

#endif
