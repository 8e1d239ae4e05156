/* admin - snapshots as operators handle them: build, list, look into, verify, remove. Used by `rouse snapshot`. */
#ifndef ROUSE_SNAPSHOT_ADMIN_H
#define ROUSE_SNAPSHOT_ADMIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json_writer.h"
#include "schemas/snapshot_record.h"
#include "snapshot/start.h"

struct snap_store; /* a store directory with its index */

int snap_store_open(const char *dir, const char *redis, struct snap_store **out_store, struct base_error *err);
void snap_store_close(struct snap_store *store);

/* Builds the snapshot that `options` describes unless it is there (force: builds it anew). out_built may be NULL. */
int snap_admin_build(struct gpu_device *device, const struct snap_start_options *options, bool force,
                     struct schema_snapshot_record *out_record, bool *out_built, struct base_error *err);

/* All snapshots of the store, newest first: index entries, and files the index does not know (read from their own
 * manifests). *out_records is malloc'ed. */
int snap_admin_list(struct snap_store *store, struct schema_snapshot_record **out_records, size_t *out_n,
                    struct base_error *err);

/* which: an id, a unique prefix of one (>= 4 characters), a model's name (its newest), or a path of a .snap file. */
int snap_admin_find(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                    struct base_error *err);

/* What the file says of itself: fingerprint field by field, sections, chunks, tensors, proof; as JSON or for people.
 * Checks the header's digest first. */
int snap_admin_show(struct snap_store *store, const char *which, struct base_json *json, struct base_buffer *text,
                    struct base_error *err);

/* Reads the whole file and checks every checksum; device not NULL: restores it and checks the proof too. ERR_CORRUPT
 * names the section, chunk and offset of the first fault. */
int snap_admin_verify(struct snap_store *store, const char *which, struct gpu_device *device, bool progress,
                      uint64_t *out_bytes, struct base_error *err);

/* Removes index entries first, then the file. */
int snap_admin_remove(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                      struct base_error *err);

#endif
