/* snap_fetch - one snapshot from a bucket into the node's cache, usable while it arrives.
 *
 *   header and chunk table, their digest checked -> room in the cache -> chunks, in file order, by parallel ranges
 *   -> each hashed, written where it belongs, marked -> all there: on disk, renamed to <id>.snap
 *
 * One process of a node fetches a snapshot (flock on locks/<id>.fetch); the others watch the marks in <id>.fetching.map, which all of
 * them map, and use what is there. When the fetching one dies, another goes on where it stopped: chunks that are marked are hashed
 * again, not fetched.
 *
 *   FETCHING  -> COMPLETE   the last chunk is marked        FOLLOWING -> FETCHING   the fetching process died
 *   FOLLOWING -> COMPLETE   all marks are there             COMPLETE  -> PUBLISHED  snap_fetch_end, at the latest
 *   any       -> FAILED     snap_fetch_wait says why
 *
 * (1) A chunk is marked after it matched its checksum and was written. What is read from the file is checked by its reader once more.
 * (2) All ranges are of one object (If-Match): a snapshot that is replaced meanwhile ends the fetch with ERR_AGAIN.
 * (3) <id>.snap appears complete and on disk, or not at all.
 *
 * ERR_NOTFOUND: no such object. ERR_CORRUPT: the object itself is at fault: a chunk did not match however often it was fetched.
 * ERR_AGAIN: replaced meanwhile. ERR_SERVICE: the bucket does not answer. ERR_IO: the disk, when it is full with the bytes needed and
 * free. After ERR_CORRUPT and ERR_IO nothing is left of it; else what arrived stays, for the next one to go on with. */
#ifndef ROUSE_SNAPSHOT_SNAP_FETCH_H
#define ROUSE_SNAPSHOT_SNAP_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/snap_format.h"

struct snap_fetch;
struct snap_file;
struct snap_store;

/* Returns when header and chunk table are in the file. At once when the copy is there already. store: one in a bucket. */
int snap_fetch_begin(struct snap_store *store, const char *id, struct snap_fetch **out_fetch, struct base_error *err);

/* The file, in its full length, with the bytes that snap_fetch_wait vouches for; readable until snap_fetch_end. The path is one that
 * opens the same file, whatever it is renamed to. */
int snap_fetch_fd(const struct snap_fetch *f);
const char *snap_fetch_path(const struct snap_fetch *f);
const struct snap_layout *snap_fetch_layout(const struct snap_fetch *f);
bool snap_fetch_was_there(const struct snap_fetch *f); /* nothing had to be fetched: an older copy */

/* Until all bytes before that offset are verified and in the file. Any number of threads. */
int snap_fetch_wait(struct snap_fetch *f, uint64_t end_offset, struct base_error *err);
/* The same, for ms at most: 1 when they are not there yet. */
int snap_fetch_wait_ms(struct snap_fetch *f, uint64_t end_offset, uint32_t ms, struct base_error *err);
uint64_t snap_fetch_arrived(const struct snap_fetch *f); /* bytes, for a progress bar; any thread */

/* An object's header, tables and manifest, checked, without the rest: what snap_file_open reads of a file. Its chunks cannot be read. */
int snap_fetch_peek(struct snap_store *store, const char *id, struct snap_file **out_file, struct base_error *err);

/* Waits until it is published. give_up: stops instead; what arrived stays. Frees f (NULL is fine) in any case. */
int snap_fetch_end(struct snap_fetch *f, bool give_up, struct base_error *err);

#endif
