/* admin - snapshots as operators handle them: build, list, look into, verify, remove. Used by `rouse snapshot`. */
#ifndef ROUSE_SNAPSHOT_ADMIN_H
#define ROUSE_SNAPSHOT_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json_writer.h"
#include "schemas/snapshot_record.h"
#include "snapshot/names.h"
#include "snapshot/restore_plan.h"
#include "snapshot/start.h"

struct snap_store; /* a store with its index */

/* store: a directory, or s3://BUCKET[/PREFIX] (snapshot/s3_client.h says how that is configured). */
int snap_store_open(const char *store, const char *redis, struct snap_store **out_store, struct base_error *err);
/* With the cache as the options say. */
int snap_store_open_with(const struct snap_start_options *options, struct snap_store **out_store,
                         struct base_error *err);
void snap_store_close(struct snap_store *store);

/* Builds the snapshot that `options` describes unless it is there, and sees to it that its model is a version of the name. */
struct snap_admin_build {
    bool force;       /* builds it anew even when it is there */
    bool promote;     /* the version becomes the active one */
    const char *word; /* what a new version is called; NULL or "": the next vN */
};
struct snap_admin_built {
    struct schema_snapshot_record record;
    char version[SNAP_VERSION_MAX + 1]; /* "": the name cannot have versions */
    bool built, promoted;
};
int snap_admin_build(struct gpu_device *device, const struct snap_start_options *options,
                     const struct snap_admin_build *how, struct snap_admin_built *out_built, struct base_error *err);

/* All snapshots of the store, newest first: index entries, and files the index does not know (read from their own
 * manifests). *out_records is malloc'ed. */
int snap_admin_list(struct snap_store *store, struct schema_snapshot_record **out_records, size_t *out_n,
                    struct base_error *err);

/* One snapshot with what names and uses say of it. A model may be a version of several names: then it is the record's, else the first. */
struct snap_admin_item {
    struct schema_snapshot_record record;
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1]; /* version "": of none */
    bool active, previous, pinned;
    bool newest;           /* and nothing of the name was promoted: it answers */
    uint32_t weight;       /* in the name's split */
    uint32_t rank;         /* 0: the newest version of its name */
    int64_t last_used_ms;  /* 0: never */
    bool held;             /* by a process of this machine */
    bool names_known;      /* every name of the store could be read */
    bool uses_known;       /* Redis answered, or there is none */
    uint32_t n_uses;       /* by Redis */
    uint64_t stored_bytes; /* on disk */
};
/* The same as snap_admin_list with all that. *out_items is malloc'ed. */
int snap_admin_items(struct snap_store *store, struct snap_admin_item **out_items, size_t *out_n,
                     struct base_error *err);

/* How many snapshots that are ready the store has of a model. */
int snap_admin_count(struct snap_store *store, const char *model_digest, uint32_t *out_n, struct base_error *err);

/* which: an id, a unique prefix of one (>= 4 characters), a model's name (its newest), NAME@VERSION, or a path of a .snap file. */
int snap_admin_find(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                    struct base_error *err);

/* What the file says of itself: fingerprint field by field, sections, chunks, tensors, proof; as JSON or for people.
 * Checks the header's digest first. device not NULL: and field by field why a start on it would not restore this one. */
int snap_admin_show(struct snap_store *store, const char *which, const struct gpu_device *device,
                    struct base_json *json, struct base_buffer *text, struct base_error *err);

/* Reads the whole file and checks every checksum; device not NULL: restores it and checks the proof too. ERR_CORRUPT
 * names the section, chunk and offset of the first fault. */
int snap_admin_verify(struct snap_store *store, const char *which, struct gpu_device *device, bool progress,
                      uint64_t *out_bytes, struct base_error *err);

/* Restores it as a start would, and lets go of it again: whether it works here, how long it takes, and by which way. On a cpu the
 * file is in the page cache afterwards, verified and marked for this node: the next start only maps it. */
struct snap_admin_restore {
    struct gpu_device *device;
    enum restore_way way;
    const char *node_dir; /* NULL: the default */
    struct base_trace *trace;
    bool progress;
};
int snap_admin_restore(struct snap_store *store, const char *which, const struct snap_admin_restore *options,
                       struct schema_snapshot_record *out_record, struct restore_plan *out_plan,
                       struct base_error *err);

/* What two snapshots have in common: fingerprint, sections, tensors, and how many bytes lie in chunks that both have. */
int snap_admin_diff(struct snap_store *store, const char *a, const char *b, struct base_json *json,
                    struct base_buffer *text, struct base_error *err);

/* Removes index entries first, then the file. ERR_AGAIN: a process holds it; ERR_USAGE: its version is active, part of a split, what
 * rollback goes to, or pinned; force: all the same. */
int snap_admin_remove(struct snap_store *store, const char *which, bool force,
                      struct schema_snapshot_record *out_record, struct base_error *err);

/* Index (Redis and files) and names, made again from the snapshots themselves and from the names in the store. */
struct snap_admin_reindexed {
    uint32_t n_snapshots, n_versions /* new ones */, n_names, n_unreadable;
};
int snap_admin_reindex(struct snap_store *store, bool progress, struct snap_admin_reindexed *out,
                       struct base_error *err);

/* Names (names.h). 1: changed, 0: it was so. out: as it is afterwards. promote refuses a version that no snapshot is there of (ERR_NOTFOUND)
 * unless forced. */
int snap_admin_promote(struct snap_store *store, const char *ref, bool force, struct snap_name *out,
                       struct base_error *err);
int snap_admin_rollback(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err);
int snap_admin_split(struct snap_store *store, const char *name, const struct snap_split *parts, size_t n,
                     struct snap_name *out, struct base_error *err);
int snap_admin_pin(struct snap_store *store, const char *ref, bool pinned, struct snap_name *out,
                   struct base_error *err);

#endif
