/* snap_index - how a name or a directory leads to a snapshot. Two kinds behind one interface: Redis, and objects in
 * the store.
 *
 * An index is a hint, never the truth: that a snapshot exists is decided by its file, what it is by the file's
 * manifest. So an index may be empty, stale or wrong; the next in line is asked then, and the store's files are the
 * last.
 *
 * What it holds:
 *   (name, env)   -> id                     of the newest snapshot of that name for such a worker
 *   (files, env)  -> id                     the same for the identity of a model directory's files (model/files.h)
 *   files         -> model digest, dtype    so that nobody reads the weights to learn it
 *   id            -> snapshot-record/1 */
#ifndef ROUSE_SNAPSHOT_SNAP_INDEX_H
#define ROUSE_SNAPSHOT_SNAP_INDEX_H

#include <stdbool.h>

#include "base/error.h"
#include "schemas/snapshot_record.h"
#include "snapshot/names.h"
#include "snapshot/objects.h"
#include "snapshot/snap_digest.h"
#include "snapshot/snap_redis.h"

struct snap_index;

struct snap_index_query {
    const char *name;     /* used when files is "" */
    const char *files;    /* identity in hex */
    const char *env;      /* of a fingerprint whose dtype is as asked for, "auto" included */
    const char *env_host; /* the same of a host snapshot, which answers when env leads nowhere; NULL: none would do */
    const char *known_as; /* the name whose versions are wanted too, in the same question; NULL or "": none */
};

/* Each part may be missing ("" or has_record false). */
struct snap_index_entry {
    char id[SNAP_ID_CHARS + 1];
    char model_digest[SNAP_SHA256_CHARS + 1];
    char file_dtype[8];
    bool has_record;
    struct schema_snapshot_record record;
    struct snap_name known; /* of known_as, where the index holds a copy; n_versions 0: none */
};

/* The lease that its writer holds (snap_lease.h): an index that can see that it was lost takes no change. */
struct snap_index_fence {
    const char *lease, *fence; /* keys */
    const char *value, *token;
};

/* Everything that one built (or newly found) snapshot adds. "" or NULL: nothing of that kind. */
struct snap_index_change {
    const struct schema_snapshot_record *record;
    const char *name, *files;
    const char *env;      /* with the snapshot's own dtype */
    const char *env_auto; /* when "auto" means this dtype for these files */
    const char *model_digest, *file_dtype;
    const struct snap_name *known;        /* the name as it is now; NULL: not told */
    const struct snap_index_fence *fence; /* NULL: whoever comes */
};

struct snap_index_ops {
    /* One question (Redis: one round trip). 0 also when the entry is empty; ERR_SERVICE, ERR_INPUT (garbage), ERR_IO. */
    int (*find)(struct snap_index *ix, const struct snap_index_query *q, struct snap_index_entry *out_entry,
                struct base_error *err);
    int (*record)(struct snap_index *ix, const char *id, struct schema_snapshot_record *out_record,
                  struct base_error *err);
    /* ERR_AGAIN: the fence says that another holds the lease. */
    int (*put)(struct snap_index *ix, const struct snap_index_change *change, struct base_error *err);
    /* Forgets the snapshot's record, and what q (may be NULL) leads to if that is the snapshot. */
    int (*drop)(struct snap_index *ix, const char *id, const struct snap_index_query *q, struct base_error *err);
    void (*close)(struct snap_index *ix);
};

struct snap_index {
    const struct snap_index_ops *ops;
    const char *kind; /* "redis", "files" (objects of the store): for messages */
    bool said;        /* its failure was logged */
    bool away;        /* set by find: nobody answered */
};

/* Objects of the store below "index/". Borrows them. */
int snap_index_objects_open(struct snap_objects *objects, struct snap_index **out_index, struct base_error *err);
/* Borrows the connection. */
int snap_index_redis_open(struct snap_redis *redis, struct snap_index **out_index, struct base_error *err);

/* The copy of a name (names.h). put leaves one of a higher revision alone, unless forced. ERR_NOTFOUND, ERR_SERVICE, ERR_INPUT (garbage). */
int snap_index_redis_name(struct snap_redis *redis, const char *name, struct snap_name *out, struct base_error *err);
int snap_index_redis_name_put(struct snap_redis *redis, const struct snap_name *name, bool force,
                              struct base_error *err);

/* The value of a selector in keys: "files:<hex>" or "name:<escaped>". */
enum { SNAP_SELECTOR_MAX = 512 };
int snap_index_selector(const struct snap_index_query *q, char out[SNAP_SELECTOR_MAX], struct base_error *err);

#endif
