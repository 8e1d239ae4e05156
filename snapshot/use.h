/* use - a snapshot's file that a process needs, or may need again, so that collection leaves it where it is.
 *
 * On this machine: a shared lock (flock) on the file, and one on the note of its last use (a snapshot that is built anew is another file,
 * of the same id); gone with their holder however that dies. Collection takes both exclusively before it removes. On other machines, where there is Redis: an entry in the sorted set rouse:use:<id> (host:pid:random -> when it runs out),
 * which a thread renews. Between the start of a use and the first entry, and where a file system's locks end at the machine, the time of
 * the last use counts: <store>/used/<id>, an empty file whose mtime is set when a use begins (never the snapshot's own: its
 * times are part of how it is known). Who collects spares what was used a moment ago.
 *
 * None of it is a reason not to start: what cannot be locked or written is used without. */
#ifndef ROUSE_SNAPSHOT_USE_H
#define ROUSE_SNAPSHOT_USE_H

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/snap_store.h"

enum { SNAP_USE_TTL_MS = 60000 }; /* of an entry in Redis; renewed three times as often */

struct snap_use;

/* NULL: there is no such file, or no memory; snap_use_end(NULL) is nothing. redis: a URL or NULL, copied. */
struct snap_use *snap_use_begin(const struct snap_store *store, const char *redis, const char *id);
void snap_use_end(struct snap_use *use);

/* ---- for who collects ---- */

/* When a use last began, Unix ms; 0: never. */
int64_t snap_use_last_ms(const struct snap_store *store, const char *id);
/* Whether a process of this machine holds that snapshot, or the file that `path` stands for. */
bool snap_use_is_held(const struct snap_store *store, const char *id, const char *path);
/* Where the note is, if there is one. */
bool snap_use_note_path(const struct snap_store *store, const char *id, char out[PATH_MAX]);
/* How many processes hold it by Redis; 0 without Redis. ERR_SERVICE: it does not say. */
int snap_use_count(const struct snap_store *store, const char *id, uint32_t *out_n, struct base_error *err);
/* After the snapshot itself is gone. */
void snap_use_forget(const struct snap_store *store, const char *id);

#endif
