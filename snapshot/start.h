/* start - the cold path: from a model's name to a model that can answer. Its steps, in order, are in start.c:
 *
 *   fingerprint -> index -> restore (disk -> arena, checked on the way) -> proof -> ready
 *   any step fails: quarantine what is at fault, say so once, next location, then cold load, then build the snapshot
 *
 * A name leads to its snapshot through the index; a directory through the identity of its files (model/files.h), or,
 * when the directory is gone, through its last part as the name. Nothing is computed from bytes whose checksum was not
 * verified, and nothing is handed out before the proof holds. Redis away, empty or wrong: the file index in the store
 * serves. */
#ifndef ROUSE_SNAPSHOT_START_H
#define ROUSE_SNAPSHOT_START_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/trace.h"
#include "gpu/device.h"
#include "model/tokenizer.h"

enum snap_build_policy {
    SNAP_BUILD_AUTO, /* cold-loaded and no one else is building: build, then go on */
    SNAP_BUILD_NEVER /* neither look for a snapshot nor build one: a plain cold load */
};

struct snap_start_options {
    const char *model;    /* NAME[@VERSION] or DIR */
    const char *store;    /* directory, made when missing, or s3://BUCKET[/PREFIX]. NULL only with SNAP_BUILD_NEVER */
    const char *cache;    /* directory of a bucket's copies; NULL: $XDG_CACHE_HOME/rouse or ~/.cache/rouse */
    uint64_t cache_bytes; /* bound of all copies there; 0: what the disk holds */
    const char *redis;    /* redis://[user:password@]host[:port][/db], no rediss:// yet; NULL: the file index alone */
    const char *dtype;    /* "f32", "f16", "bf16", or "auto": as the model's files are */
    const char
        *restore_plan;    /* "attach", "stream", "ring": the way that weights take, instead of the best; NULL: "auto" */
    const char *node_dir; /* node.h; NULL: /dev/shm/rouse-UID */
    const char *snapshot_key; /* part of the fingerprint: changing it makes other snapshots; NULL is "" */
    enum snap_build_policy build;
    struct gpu_limits limits; /* fields that are 0 get defaults from the model: see snap_limits_default */
    uint64_t kv_bytes_max;    /* bound for n_blocks when that is 0; 0: 1 GiB */
    struct base_trace *trace; /* may be NULL */
    bool progress;            /* a bar on stderr for long steps */
};

struct snap_model {
    struct gpu_model *gpu;             /* its arena is filled */
    struct model_tokenizer *tokenizer; /* on the snapshot's own tables, or compiled in this process */
    char name[129];                    /* last part of the directory, or the name asked for */
    char version[33];                  /* of the name that this model is (names.h); "": none, or not known */
    char snapshot_id[33];              /* "" after a plain cold load */
    char model_digest[65];             /* "" when it was not needed */
    bool restored;                     /* from a snapshot; else cold-loaded */
    bool built;                        /* this start wrote the snapshot */
    uint64_t snapshot_bytes;
};

/* Everything is undone on failure. ERR_NOTFOUND: neither directory nor snapshot; ERR_INPUT: the model's files are
 * wrong. */
int snap_start(struct gpu_device *device, const struct snap_start_options *options, struct snap_model **out_model,
               struct base_error *err);
void snap_model_close(struct snap_model *model);

/* The device's memory, given back while there is nothing to do, and filled again: from the same snapshot, through the same
 * checks, and proven; from the model's directory when the snapshot is gone or at fault. No step may be under way, all KV is lost,
 * and the thread is the one that drives the model.
 * sleep: ERR_USAGE where there is nothing to give back (cpu). On any error the model is as it was.
 * wake: on any error it sleeps on. */
int snap_model_sleep(struct snap_model *model, struct base_error *err);
int snap_model_wake(struct snap_model *model, struct base_error *err);

/* Fills the zero fields: n_ctx_max = n_positions (at most 4096), 16 sequences, 512 tokens a step, as many logits rows
 * as sequences (or as given), blocks for all sequences at full length within kv_bytes_max, but for one at least. */
void snap_limits_default(struct gpu_limits *limits, const struct model_config *config, uint32_t kv_value_bytes,
                         uint64_t kv_bytes_max);

#endif
