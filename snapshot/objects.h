/* objects - the small files of a store (names, index, pins, leases) behind one interface: a directory or a bucket.
 *
 * A key is a relative path of 1 to 255 printable ASCII characters without empty, "." or ".." parts: "names/pythia-12b". What put wrote is
 * read whole or not at all, whoever dies meanwhile. Any thread.
 *
 * An etag stands for the bytes of one object at one time. put and remove can be bound to it: compare and swap, so that of several
 * writers who read the same state one succeeds and the others read again. */
#ifndef ROUSE_SNAPSHOT_OBJECTS_H
#define ROUSE_SNAPSHOT_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

enum { SNAP_ETAG_MAX = 80, SNAP_OBJECT_KEY_MAX = 255 };

#define SNAP_ETAG_NONE "" /* if_etag: the object must not exist */

struct snap_objects;

struct snap_object {
    const char *key;
    uint64_t bytes;
    int64_t modified_ms; /* Unix, by the store's clock */
};

struct snap_objects_ops {
    /* ERR_NOTFOUND; ERR_INPUT: larger than n_max; ERR_SERVICE, ERR_IO: the store does not answer. out_etag may be NULL. */
    int (*get)(struct snap_objects *o, const char *key, size_t n_max, struct base_buffer *out,
               char out_etag[SNAP_ETAG_MAX], struct base_error *err);
    /* if_etag NULL: whatever is there. ERR_AGAIN: it is not what if_etag stands for. */
    int (*put)(struct snap_objects *o, const char *key, const void *bytes, size_t n, const char *if_etag,
               struct base_error *err);
    /* One that is not there is removed already: 0. */
    int (*remove)(struct snap_objects *o, const char *key, struct base_error *err);
    /* Every object whose key begins with prefix ("names/"), in no order; visit returns false to stop. */
    int (*list)(struct snap_objects *o, const char *prefix,
                bool (*visit)(void *context, const struct snap_object *object), void *context, struct base_error *err);
    void (*close)(struct snap_objects *o);
};

struct snap_objects {
    const struct snap_objects_ops *ops;
    bool far; /* every call is a journey over a network: what Redis answered is not asked here again */
};

/* Whether a key is one (see above; "locks/..." is the directory's own). ERR_INPUT. What every implementation asks first. */
int snap_object_key_check(const char *key, struct base_error *err);

/* objects_dir.c: files under `dir`, published by rename; compare and swap under a lock file. Made when first written. */
#define SNAP_OBJECTS_LOCKS "locks"
int snap_objects_dir_open(const char *dir, struct snap_objects **out_objects, struct base_error *err);

#endif
