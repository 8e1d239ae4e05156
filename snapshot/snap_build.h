/* snap_build - writes a loaded model's snapshot into a store.
 *
 *   choices, proof -> sizes -> temporary file, preallocated -> chunks, hashed as they are written -> header -> fsync -> lease
 *   still ours? -> rename -> fsync of the directory
 *
 * The indexes are told afterwards, by the caller. On failure nothing is left of it. */
#ifndef ROUSE_SNAPSHOT_SNAP_BUILD_H
#define ROUSE_SNAPSHOT_SNAP_BUILD_H

#include <stdbool.h>

#include "gpu/device.h"
#include "snapshot/snap_lease.h"
#include "snapshot/snap_lookup.h"
#include "snapshot/snap_manifest.h"
#include "snapshot/snap_store.h"

struct snap_build {
    struct snap_store *store;
    struct snap_lease *lease;
    struct gpu_model
        *model; /* LOADED and warmed up; its KV is overwritten by the proof. Or a planner's, for a host snapshot */
    const void *tokenizer; /* the compiled blob */
    size_t tokenizer_bytes;
    struct snap_manifest manifest; /* fingerprint, name, file_dtype and files are set; the rest is filled in here */
    bool progress;
};

/* The right to build what is asked for, with that dtype. ERR_AGAIN: another builder has it. */
int snap_build_lease(struct snap_store *store, const struct snap_request *request, const char *dtype,
                     struct snap_lease **out_lease, struct base_error *err);

/* Writes it, after what dead builders left is removed, and tells the indexes what is asked for. */
int snap_build_publish(struct snap_build *build, const struct snap_request *request,
                       struct schema_snapshot_record *out_record, struct base_error *err);

/* Logs `snapshot created`. ERR_IO with the bytes needed and free when the disk is full; ERR_AGAIN: the lease was lost. */
int snap_build_write(struct snap_build *build, struct schema_snapshot_record *out_record, struct base_error *err);

#endif
