/* snap_cold - the slow way: from a model's directory to a model, and to the snapshot that spares the next start all
 * this.
 *
 *   OPEN       configuration and tensor headers are read and checked; the dtype is known
 *   -> LOADED  snap_cold_load: weights converted and packed, tokenizer compiled, device warmed up
 *   -> (snapshot written)  snap_cold_build, under a lease */
#ifndef ROUSE_SNAPSHOT_SNAP_COLD_H
#define ROUSE_SNAPSHOT_SNAP_COLD_H

#include "base/buffer.h"
#include "base/trace.h"
#include "gpu/device.h"
#include "model/tokenizer.h"
#include "model/weights.h"
#include "snapshot/snap_lease.h"
#include "snapshot/snap_lookup.h"

struct snap_cold {
    const char *dir; /* borrowed */
    struct model_config config;
    struct model_weights *weights;
    enum model_dtype dtype, file_dtype;
    struct gpu_model *gpu;             /* LOADED on */
    struct model_tokenizer *tokenizer; /* stands on blob */
    struct base_buffer blob;
};

/* ERR_INPUT: the files are wrong. */
int snap_cold_open(struct snap_cold *cold, const struct gpu_device *device, const char *dir, const char *dtype,
                   struct base_error *err);
int snap_cold_load(struct snap_cold *cold, struct gpu_device *device, const struct snap_start_options *options,
                   struct base_error *err);
void snap_cold_done(struct snap_cold *cold);

/* The weights once more into a model that was woken. ERR_INPUT: files is not the identity of the directory's files any more. */
int snap_cold_refill(const char *dir, const char *files, struct gpu_model *model, struct base_error *err);

/* Completes the request's fingerprint: dtype, and the model's digest, which is computed when no index knew it, and
 * recorded. */
int snap_cold_identify(const struct snap_cold *cold, struct snap_store *store, struct snap_request *request,
                       bool progress, char out_id[SNAP_ID_CHARS + 1], struct base_error *err);

/* Writes the snapshot and tells the indexes. ERR_INPUT: the directory's files changed since the request was made. */
int snap_cold_build(struct snap_cold *cold, struct snap_store *store, struct snap_lease *lease,
                    const struct snap_request *request, bool progress, struct schema_snapshot_record *out_record,
                    struct base_error *err);

#endif
