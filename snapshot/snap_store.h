/* snap_store - a directory of snapshots with its indexes.
 *
 *   <id>.snap                     a snapshot; immutable
 *   <id>.quarantined.snap         one that failed to restore: kept to be looked into, never restored again
 *   <id>.<16 hex>.building        being written; flock'ed by its builder for as long as that lives
 *   locks/<key>.lock              flock'ed by who builds (snap_lease); the file stays
 *   index/                        snap_index_file.c
 *   names/, used/                 objects.h
 *
 * (1) A name <id>.snap appears by rename of a file that is complete and on disk.
 * (2) A .building file whose lock is free has no builder: whoever gets the lock may remove it.
 *
 * Errors of an index are logged once and are not errors of the store: its files are the truth. */
#ifndef ROUSE_SNAPSHOT_SNAP_STORE_H
#define ROUSE_SNAPSHOT_SNAP_STORE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "snapshot/admin.h"
#include "snapshot/objects.h"
#include "snapshot/snap_file.h"
#include "snapshot/snap_index.h"

enum { SNAP_STORE_REDIS, SNAP_STORE_FILES, SNAP_STORE_INDEXES };

struct snap_store {
    char *dir;
    struct snap_redis *redis;                       /* NULL: none configured */
    struct snap_objects *objects;                   /* names and what else is small */
    struct snap_index *indexes[SNAP_STORE_INDEXES]; /* in the order they are asked; [SNAP_STORE_REDIS] may be NULL */
};

int snap_store_path(const struct snap_store *store, const char *id, char out[PATH_MAX], struct base_error *err);
bool snap_store_has(const struct snap_store *store, const char *id);

/* Asks one index. False: it had nothing usable to say. */
bool snap_store_find(struct snap_store *store, int index, const struct snap_index_query *q,
                     struct snap_index_entry *out);
/* It did not answer the last question: the next one would wait for it again. */
bool snap_store_index_away(const struct snap_store *store, int index);
/* Tells the indexes in `which` (a bit each). */
enum { SNAP_STORE_ALL = (1 << SNAP_STORE_INDEXES) - 1 };
void snap_store_put(struct snap_store *store, const struct snap_index_change *change, unsigned which);
void snap_store_drop(struct snap_store *store, const char *id, const struct snap_index_query *q);

struct snap_building {
    char path[PATH_MAX];
    int fd; /* flock'ed */
};

/* What snap_admin_find finds, and where its file lies (admin.c). */
int snap_store_resolve(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                       char path[PATH_MAX], struct base_error *err);

/* What the file says of itself, under that name. */
int snap_store_record_of_file(const char *path, const char *file_name, struct schema_snapshot_record *out_record,
                              struct base_error *err);

/* A name for a temporary of that snapshot, used by nobody. */
int snap_store_building_path(const struct snap_store *store, const char *id, char out[PATH_MAX],
                             struct base_error *err);

/* A new .building file. */
int snap_store_build_begin(struct snap_store *store, const char *id, struct snap_building *out_b,
                           struct base_error *err);
/* Its bytes are on disk: what may take long, before the lease is checked for the last time. */
int snap_store_build_sync(struct snap_building *b, struct base_error *err);
/* After sync: rename to <id>.snap, fsync of the directory. On failure nothing of it is left, as after abort; only when
 * the directory cannot be synced, the file is there, whole, and may be gone after a power failure. */
int snap_store_build_publish(struct snap_store *store, const char *id, struct snap_building *b, struct base_error *err);
void snap_store_build_abort(struct snap_building *b);

/* Moves the file out of the way and says so, unless its name stands for another file by now. reason: one line. True
 * when it is gone from under its name. */
bool snap_store_quarantine(struct snap_store *store, const char *id, dev_t device, ino_t inode, const char *reason);

/* Why that snapshot lies in quarantine; out is left alone when it does not. */
void snap_store_quarantine_reason(struct snap_store *store, const char *id, char out_reason[256]);

/* Removes what dead builders and dead writers of index and objects left; with dry_run only says so. seen (may be NULL) is called for
 * each: its name relative to the store, and its bytes on disk. */
void snap_store_clean(struct snap_store *store, bool dry_run,
                      void (*seen)(void *context, const char *file, uint64_t bytes), void *context);

/* Calls visit for every <id>.snap and <id>.quarantined.snap; it returns false to stop. ERR_IO: the directory is not
 * readable; a missing one is empty. */
struct snap_store_item {
    const char *file; /* its name in the store */
    char id[SNAP_ID_CHARS + 1];
    enum schema_snapshot_state state; /* READY, QUARANTINED, BUILDING */
};
int snap_store_each(struct snap_store *store, bool (*visit)(void *context, const struct snap_store_item *item),
                    void *context, struct base_error *err);

#endif
