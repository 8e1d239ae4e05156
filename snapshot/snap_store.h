/* snap_store - a directory of snapshots with its indexes, or a bucket with a directory in front of it.
 *
 *   <id>.snap                     a snapshot; immutable
 *   <id>.quarantined.snap         one that failed to restore: kept to be looked into, never restored again
 *   <id>.<16 hex>.building        being written; flock'ed by its builder for as long as that lives
 *   locks/<key>.lock              flock'ed by who builds (snap_lease); the file stays
 *   index/                        snap_index_objects.c
 *   names/, used/                 objects.h
 *
 * A bucket holds <id>.snap, index/ and names/ under the same keys, and quarantine/<id> with the reason in place of a renamed file. Its
 * directory is the node's cache: node_cache.h says what else lies there, snap_fetch.h how it comes there.
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

struct s3_client;
struct s3_upload;
struct snap_store_item;

struct snap_store {
    char *dir;                                      /* of the snapshots, or of the cache */
    char *name;                                     /* as messages call it: the directory, or s3://bucket/prefix */
    struct s3_client *s3;                           /* NULL: a directory */
    uint64_t cache_bytes;                           /* bound of the cache; 0: none */
    struct snap_redis *redis;                       /* NULL: none configured */
    struct snap_objects *objects;                   /* names and what else is small */
    struct snap_index *indexes[SNAP_STORE_INDEXES]; /* in the order they are asked; [SNAP_STORE_REDIS] may be NULL */
};

int snap_store_path(const struct snap_store *store, const char *id, char out[PATH_MAX], struct base_error *err);
/* A bucket is asked only when the cache has no copy; what is quarantined there is not there. */
bool snap_store_has(const struct snap_store *store, const char *id);

/* Sees to it that snap_store_path leads to the snapshot's file: nothing to do in a directory, fetched from a bucket. *out_fd keeps
 * the copy from being given up: close it when the file is opened; -1 in a directory. *out_fresh: it was fetched right now.
 * Errors as of snap_fetch. */
int snap_store_bring(struct snap_store *store, const char *id, bool progress, int *out_fd, bool *out_fresh,
                     struct base_error *err);

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
    bool progress;
    struct snap_store *store;
    char id[SNAP_ID_CHARS + 1];
    struct s3_upload *upload; /* NULL until sync, and in a directory */
};

/* What snap_admin_find finds, and where its file lies (admin.c). */
int snap_store_resolve(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                       char path[PATH_MAX], struct base_error *err);

/* What the file says of itself, under that name. */
int snap_store_record_of_file(const char *path, const char *file_name, struct schema_snapshot_record *out_record,
                              struct base_error *err);

int snap_store_record_of_item(struct snap_store *store, const struct snap_store_item *item,
                              struct schema_snapshot_record *out_record, struct base_error *err);
/* The same of the snapshot with that id that the store has. */
int snap_store_record_of_id(struct snap_store *store, const char *id, struct schema_snapshot_record *out_record,
                            struct base_error *err);

/* A name for a temporary of that snapshot, used by nobody. */
int snap_store_building_path(const struct snap_store *store, const char *id, char out[PATH_MAX],
                             struct base_error *err);

/* The same, and it does lie there: fetched first where it is only in a bucket. */
int snap_store_resolve_here(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                            char path[PATH_MAX], struct base_error *err);

/* A new .building file. */
int snap_store_build_begin(struct snap_store *store, const char *id, struct snap_building *out_b,
                           struct base_error *err);
/* Its bytes are on disk, and sent to the bucket, where nobody sees them yet: what may take long, before the lease is checked for the
 * last time. */
int snap_store_build_sync(struct snap_building *b, struct base_error *err);
/* After sync: the object appears in the bucket; rename to <id>.snap, fsync of the directory. On failure nothing of it is left, as after abort; only when
 * the directory cannot be synced, the file is there, whole, and may be gone after a power failure. */
int snap_store_build_publish(struct snap_store *store, const char *id, struct snap_building *b, struct base_error *err);
void snap_store_build_abort(struct snap_building *b);

/* Moves the file out of the way and says so, unless its name stands for another file by now. reason: one line. True
 * when it is gone from under its name. */
bool snap_store_quarantine(struct snap_store *store, const char *id, dev_t device, ino_t inode, const char *reason);

/* Why that snapshot lies in quarantine; out is left alone when it does not. */
void snap_store_quarantine_reason(struct snap_store *store, const char *id, char out_reason[256]);
/* The bucket's own object is at fault: quarantine/<id> says why, and it is not fetched any more. Nothing to do in a directory. */
void snap_store_quarantine_object(struct snap_store *store, const char *id, const char *reason);

/* What a snapshot says of itself, wherever it lies: opened, or of a bucket's object as much as is needed for that (then its chunks
 * cannot be read). snap_file_close it. */
int snap_store_open_item(struct snap_store *store, const struct snap_store_item *item, struct snap_file **out_file,
                         struct base_error *err);

/* The item that a file of that name is: in the directory, or only in the bucket. Borrows file. */
void snap_store_item_of(const struct snap_store *store, const char *id, const char *file, struct snap_store_item *out);

/* The snapshot's file, and the bucket's object. ERR_NOTFOUND is none of its errors. */
int snap_store_remove(struct snap_store *store, const struct snap_store_item *item, struct base_error *err);

/* Removes what dead builders and dead writers of index and objects left; with dry_run only says so. seen (may be NULL) is called for
 * each: its name relative to the store, and its bytes on disk. */
void snap_store_clean(struct snap_store *store, bool dry_run,
                      void (*seen)(void *context, const char *file, uint64_t bytes), void *context);

/* Calls visit for every <id>.snap and <id>.quarantined.snap; it returns false to stop. ERR_IO: the directory is not
 * readable; a missing one is empty. A bucket's: those of the cache first, then the others; while it does not answer, those of the
 * cache alone, and ERR_SERVICE. */
struct snap_store_item {
    const char *file; /* its name in the store */
    char id[SNAP_ID_CHARS + 1];
    enum schema_snapshot_state state; /* READY, QUARANTINED, BUILDING */
    bool remote;                      /* only the bucket has it */
    uint64_t bytes;                   /* when it is remote: of the object, or 0 */
    int64_t modified_ms;
};
int snap_store_each(struct snap_store *store, bool (*visit)(void *context, const struct snap_store_item *item),
                    void *context, struct base_error *err);

#endif
