/* snap_restore - a snapshot file becomes a model that can answer.
 *
 *   header, tables, manifest -> does it fit? -> which way (restore_plan) -> tokenizer and weights read in parallel, each chunk checked
 *   by the thread that read it (snap_fill); meanwhile plan, computed anew and compared -> arena -> choices -> proof
 *
 * A file that lies in the page cache and was verified and proven on this node is mapped, and that is all.
 *
 * A host snapshot is finished here as far as a device can: it is warmed up. Its proof is for who builds the device snapshot.
 *
 * It either succeeds whole or leaves nothing behind: no memory, no file. What the codes mean for the caller:
 * ERR_CORRUPT    the file is at fault: set it aside
 * ERR_NOTFOUND   it is not there (any more)
 * ERR_INPUT      a sound file, but for something else than was wanted
 * anything else  the circumstances: memory, device, permissions
 * Messages do not name the file. */
#ifndef ROUSE_SNAPSHOT_SNAP_RESTORE_H
#define ROUSE_SNAPSHOT_SNAP_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/trace.h"
#include "gpu/device.h"
#include "model/tokenizer.h"
#include "snapshot/restore_plan.h"
#include "snapshot/snap_proof.h"

struct snap_restore {
    struct gpu_device *device;
    const char *path;
    const char *id;                        /* what the file is called: it must be that; NULL: whatever it is */
    const struct snap_fingerprint *wanted; /* its model may be "", its dtype "auto" */
    const struct gpu_limits *limits;       /* zeros get defaults */
    uint64_t kv_bytes_max;
    enum restore_way way; /* RESTORE_AUTO: as the plan sees fit */
    const char *node_dir; /* node.h; NULL: the default */
    bool unverified;      /* no chunk is hashed: to measure what that costs. The model must not answer anyone */
    struct base_trace *trace;
    bool progress;
};

struct snap_restored {
    struct gpu_model *gpu;
    struct model_tokenizer *tokenizer;
    void *tokenizer_blob; /* what it stands on: free() after closing it */
    size_t tokenizer_bytes;
    struct snap_proof proof;
    struct restore_plan plan;
    struct snap_manifest manifest;
    struct schema_snapshot_record record;
    uint64_t file_bytes;
};

int snap_restore_read(const struct snap_restore *restore, struct snap_restored *out, struct base_error *err);
void snap_restored_done(struct snap_restored *restored);

/* The weights of the snapshot with that id once more into a model that was woken, and the proof that they are those. Codes as
 * above; after an error the weights are undefined. */
int snap_restore_refill(struct gpu_device *device, const char *path, const char *id, struct gpu_model *model,
                        const struct snap_proof *proof, struct base_error *err);

/* Defaults, and steps that have room for the proof. ERR_USAGE: a context that is too short for it. */
int snap_limits_resolve(const struct gpu_limits *given, const struct gpu_device *device, uint64_t kv_bytes_max,
                        const struct model_config *config, struct gpu_limits *out_limits, struct base_error *err);

#endif
