/* node_cache - copies of a bucket's snapshots on this node's disk, bounded, the least recently used given up first.
 *
 *   <id>.snap        a copy, whole and verified, as it lies in the bucket (or what was built here and then uploaded)
 *   <id>.used        says that <id>.snap is a copy, and with its mtime when it was last used
 *   <id>.fetching, <id>.fetching.map        being fetched (snap_fetch)
 *
 * A directory store keeps its snapshots under the same names, but without a .used: what has none is never given up. The snapshot's own
 * times stay what they are, for they are part of its identity.
 *
 * (1) Who reads a copy holds a shared flock on it (snap_file_open); it is removed under an exclusive one alone.
 * (2) Copies and what is to be fetched stay within the bound, unless what is in use or asked for exceeds it by itself: then a warning
 *     says so. */
#ifndef ROUSE_SNAPSHOT_NODE_CACHE_H
#define ROUSE_SNAPSHOT_NODE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Now it is a copy, and used. Failing is no error: it is then given up too late or too early. */
void node_cache_use(const char *dir, const char *id);
bool node_cache_is_copy(const char *dir, const char *id);

/* Removes copies until `needed` bytes more fit into bytes_max (0: no bound), and until the disk has them free. Never keep_id's. */
void node_cache_make_room(const char *dir, uint64_t bytes_max, uint64_t needed, const char *keep_id);

/* A copy and all that belongs to it, whether in use or not: its object is gone. */
void node_cache_drop(const char *dir, const char *id);

#endif
