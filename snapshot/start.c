/* The cold path, step by step. What each step does is in the file of its name; what follows from its failing is here. */
#include "snapshot/start.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "snapshot/chunk_scan.h"
#include "snapshot/snap_build.h"
#include "snapshot/snap_cold.h"
#include "snapshot/snap_lookup.h"
#include "snapshot/snap_model.h"
#include "snapshot/snap_restore.h"
#include "snapshot/snap_store.h"
#include "snapshot/use.h"

struct start {
    struct gpu_device *device;
    const struct snap_start_options *options;
    struct snap_request request;
    struct snap_store *store; /* NULL: not usable */
    struct snap_model_owned *out;
    struct snap_lease *lease; /* NULL: not ours */
    struct snap_cold cold;
    enum restore_way way;
    char tried[SNAP_ID_CHARS + 1]; /* the snapshot that failed already */
    struct base_error why;         /* and why */
};

/* ---- what the next start will restore ---- */

/* The lease: who gets it builds; who does not serves without. */
static void start_lease(struct start *s, const char *dtype)
{
    struct base_error err = {0};
    int rc = s->store ? snap_build_lease(s->store, &s->request, dtype, &s->lease, &err) : ERR_NOTFOUND;
    if (rc == ERR_AGAIN)
        base_log_info("snapshot is being built by another worker", LOG_STR("model", s->request.name),
                      LOG_STR("reason", err.text));
    else if (rc < 0 && s->store)
        base_log_warn("snapshot not created", LOG_STR("model", s->request.name), LOG_STR("reason", err.text));
}

static void start_give_up_building(struct start *s, const struct base_error *why)
{
    base_log_warn("snapshot not created", LOG_STR("model", s->request.name), LOG_STR("reason", why->text));
    snap_lease_release(s->lease);
    s->lease = NULL;
}

/* The snapshot that this process lives on, from now on; NULL: none. */
static void start_use(struct start *s, const char *id)
{
    snap_use_end(s->out->use);
    s->out->use = id ? snap_use_begin(s->store, s->options->redis, id) : NULL;
}

static void start_built(struct start *s, int rc, const struct schema_snapshot_record *record,
                        const struct base_error *why)
{
    struct snap_model *m = &s->out->model;
    base_trace_end(s->options->trace, BASE_TRACE_BUILD);
    if (rc < 0) {
        start_give_up_building(s, why);
        return;
    }
    m->built = true;
    m->snapshot_bytes = record->bytes;
    memcpy(m->snapshot_id, record->id, sizeof(m->snapshot_id));
    start_use(s, record->id);
    base_trace_note(s->options->trace, "snapshot", record->id);
}

static void start_build(struct start *s)
{
    struct schema_snapshot_record record;
    struct base_error err = {0};
    base_trace_begin(s->options->trace, BASE_TRACE_BUILD);
    int rc = snap_cold_build(&s->cold, s->store, s->lease, &s->request, s->options->progress, &record, &err);
    start_built(s, rc, &record, &err);
}

/* A host snapshot was restored and the device has warmed up: with its choices and a proof it is a device snapshot. */
static void start_build_from_host(struct start *s, const struct snap_restored *r)
{
    const char *dtype = r->manifest.fingerprint.value[SNAP_FP_DTYPE];
    struct schema_snapshot_record record;
    struct base_error err = {0};
    if (!s->lease)
        start_lease(s, dtype);
    if (!s->lease)
        return;
    struct snap_build build = {.store = s->store,
                               .lease = s->lease,
                               .model = r->gpu,
                               .tokenizer = r->tokenizer_blob,
                               .tokenizer_bytes = r->tokenizer_bytes,
                               .manifest = r->manifest,
                               .progress = s->options->progress};
    struct snap_fingerprint *f = &build.manifest.fingerprint;
    snap_fingerprint_set(f, SNAP_FP_ARCH, s->request.wanted.value[SNAP_FP_ARCH]);
    snap_fingerprint_set(f, SNAP_FP_DRIVER, s->request.wanted.value[SNAP_FP_DRIVER]);
    base_trace_begin(s->options->trace, BASE_TRACE_BUILD);
    int rc = snap_build_publish(&build, &s->request, &record, &err);
    start_built(s, rc, &record, &err);
}

/* ---- restore ---- */

/* A snapshot failed: set aside what is at fault, say so once, and go on without it. */
static void start_blame(struct start *s, const char *id, const char *path, const struct stat *st)
{
    snprintf(s->tried, sizeof(s->tried), "%s", id);
    if (s->why.code == ERR_CORRUPT) {
        snap_store_quarantine(s->store, id, st->st_dev, st->st_ino, s->why.text);
        return;
    }
    if (s->why.code == ERR_NOTFOUND || s->why.code == ERR_INPUT)
        snap_look_up_forget(s->store, &s->request, id);
    base_log_warn("snapshot not restored", LOG_STR("id", id), LOG_STR("path", path), LOG_STR("reason", s->why.text));
}

static void start_take_restored(struct start *s, struct snap_restored *r)
{
    struct snap_model *m = &s->out->model;
    m->gpu = r->gpu;
    m->tokenizer = r->tokenizer;
    m->restored = true;
    m->snapshot_bytes = r->file_bytes;
    s->out->tokenizer_blob = r->tokenizer_blob;
    s->out->proof = r->proof;
    snprintf(m->snapshot_id, sizeof(m->snapshot_id), "%s", r->manifest.id);
    snprintf(m->model_digest, sizeof(m->model_digest), "%.64s", r->manifest.fingerprint.value[SNAP_FP_MODEL]);
    base_trace_note(s->options->trace, "start", "restored");
    base_trace_note(s->options->trace, "snapshot", m->snapshot_id);
}

static int start_read(struct start *s, const char *path, const char *id, struct snap_restored *out)
{
    const struct snap_restore restore = {.device = s->device,
                                         .path = path,
                                         .id = id,
                                         .wanted = &s->request.wanted,
                                         .limits = &s->options->limits,
                                         .way = s->way,
                                         .node_dir = s->options->node_dir,
                                         .kv_bytes_max = s->options->kv_bytes_max,
                                         .trace = s->options->trace,
                                         .progress = s->options->progress};
    return snap_restore_read(&restore, out, &s->why);
}

/* Whether every chunk of it matches its checksum. */
static bool is_whole(const char *path, const char *node_dir)
{
    struct snap_file *f = NULL;
    struct chunk_scan_result result;
    if (snap_file_open(path, &f, NULL) < 0)
        return false;
    const struct chunk_scan scan = {.file = f, .node_dir = node_dir};
    bool whole = chunk_scan_run(&scan, &result, NULL) == 0;
    snap_file_close(f);
    return whole;
}

/* A copy that was just fetched, chunk by chunk checked, and does not restore: what it says is wrong, unless the disk lost it since. */
static void start_blame_object(struct start *s, const char *id)
{
    char aside[PATH_MAX];
    int n = snprintf(aside, sizeof(aside), "%s/%s.quarantined.snap", s->store->dir, id);
    if (n > 0 && n < PATH_MAX && is_whole(aside, s->options->node_dir))
        snap_store_quarantine_object(s->store, id, s->why.text);
}

/* One snapshot, tried. *out_again: it was an older copy of a bucket's object, which is set aside now. */
static int start_try(struct start *s, const char *id, struct snap_restored *out, bool *out_again)
{
    char path[PATH_MAX];
    struct stat st = {.st_ino = 0}; /* which file is judged, should it be replaced meanwhile */
    int fd = -1, rc = snap_store_path(s->store, id, path, &s->why);
    bool fresh = false;
    *out_again = false;
    if (rc < 0)
        return rc;
    base_trace_begin(s->options->trace, BASE_TRACE_RESTORE);
    rc = snap_store_bring(s->store, id, s->options->progress, &fd, &fresh, &s->why);
    if (rc == ERR_CORRUPT)
        snap_store_quarantine_object(s->store, id, s->why.text);
    (void)!stat(path, &st);
    if (rc == 0) {
        start_use(s, id);
        rc = start_read(s, path, id, out);
        if (rc < 0)
            start_use(s, NULL);
    }
    if (rc < 0)
        start_blame(s, id, path, &st);
    if (fd >= 0)
        close(fd);
    *out_again = rc == ERR_CORRUPT && fd >= 0 && !fresh;
    if (rc == ERR_CORRUPT && fd >= 0 && fresh)
        start_blame_object(s, id);
    return rc;
}

/* untold: the indexes that hear of it when it works. */
static int start_restore(struct start *s, const char *id, unsigned untold)
{
    struct snap_restored restored = {.gpu = NULL};
    bool again = false;
    int rc = start_try(s, id, &restored, &again);
    if (again) /* the next location: the bucket */
        rc = start_try(s, id, &restored, &again);
    if (rc < 0)
        return rc;
    if (untold)
        snap_look_up_tell(s->store, &s->request, &restored.manifest, &restored.record, NULL, untold);
    start_take_restored(s, &restored);
    if (restored.manifest.kind == SNAP_KIND_HOST)
        start_build_from_host(s, &restored);
    return 0;
}

static int start_from_snapshot(struct start *s)
{
    struct snap_found found;
    base_trace_begin(s->options->trace, BASE_TRACE_INDEX);
    bool any = snap_look_up(s->store, &s->request, &found);
    base_trace_end(s->options->trace, BASE_TRACE_INDEX);
    if (any)
        return start_restore(s, found.id, found.untold);
    return snap_look_up_failed(s->store, &s->request, &found, &s->why);
}

/* ---- cold load ---- */

static void start_take_cold(struct start *s)
{
    struct snap_model *m = &s->out->model;
    size_t n;
    m->gpu = s->cold.gpu;
    m->tokenizer = s->cold.tokenizer;
    s->out->tokenizer_blob = base_buffer_take(&s->cold.blob, &n);
    s->cold.gpu = NULL;
    s->cold.tokenizer = NULL;
    base_trace_note(s->options->trace, "start", "cold");
}

/* From here on the directory is needed. */
static int start_from_directory(struct start *s, struct base_error *err)
{
    struct base_trace *trace = s->options->trace;
    char id[SNAP_ID_CHARS + 1] = "", host_id[SNAP_ID_CHARS + 1];
    base_trace_begin(trace, BASE_TRACE_COLD_LOAD);
    int rc = snap_cold_open(&s->cold, s->device, s->request.dir, s->request.dtype, err);
    if (rc < 0)
        return rc;
    start_lease(s, model_dtype_name(s->cold.dtype));
    if (s->lease) {
        struct base_error why = {0};
        if (snap_cold_identify(&s->cold, s->store, &s->request, s->options->progress, id, &why) < 0)
            start_give_up_building(s, &why);
        snprintf(s->out->model.model_digest, sizeof(s->out->model.model_digest), "%.64s",
                 s->request.wanted.value[SNAP_FP_MODEL]);
    }
    /* The same model from another directory, or another worker was faster: it is there already. */
    bool there = s->lease && snap_store_has(s->store, id);
    if (s->lease && !there && snap_look_up_host(s->store, &s->request, model_dtype_name(s->cold.dtype), host_id) &&
        strcmp(host_id, s->tried) != 0) {
        base_trace_end(trace, BASE_TRACE_COLD_LOAD);
        if (start_restore(s, host_id, SNAP_STORE_ALL) == 0)
            return 0;
    }
    if (there && strcmp(id, s->tried) != 0) {
        base_trace_end(trace, BASE_TRACE_COLD_LOAD);
        if (start_restore(s, id, SNAP_STORE_ALL) == 0)
            return 0;
        there = snap_store_has(s->store, id);
    }
    rc = snap_cold_load(&s->cold, s->device, s->options, err);
    base_trace_end(trace, BASE_TRACE_COLD_LOAD);
    if (rc < 0)
        return rc;
    if (s->lease && !there) /* there: one that could not be set aside, or was not at fault */
        start_build(s);
    start_take_cold(s);
    return 0;
}

/* ---- all of it ---- */

/* A store that cannot be used is no reason not to serve, as long as there is a directory; a wrong URL is one. */
static int start_open_store(struct start *s, struct base_error *err)
{
    struct base_error why = {0};
    if (s->options->build == SNAP_BUILD_NEVER)
        return 0;
    if (!s->options->store)
        return base_fail(err, ERR_USAGE, "no store for snapshots is given");
    int rc = snap_store_open_with(s->options, &s->store, &why);
    if (rc == ERR_USAGE || rc == ERR_NOMEM)
        return base_fail(err, rc, "%s", why.text);
    if (rc < 0)
        base_log_warn("store not usable, going on without it", LOG_STR("store", s->options->store),
                      LOG_STR("reason", why.text));
    if (rc < 0)
        s->why = why;
    return 0;
}

static int start_no_way(const struct start *s, struct base_error *err)
{
    if (s->why.code == 0 || s->why.code == ERR_NOTFOUND)
        return base_fail(err, ERR_NOTFOUND, "model '%.100s': %.150s%s%.200s", s->options->model, s->request.no_dir,
                         s->why.code ? ", and " : "", s->why.text);
    return base_fail(err, s->why.code, "model '%.100s': %.100s, and %s%s: %.180s", s->options->model, s->request.no_dir,
                     s->tried[0] ? "snapshot " : "store", s->tried, s->why.text);
}

static int start_run(struct start *s, struct base_error *err)
{
    const char *plan = s->options->restore_plan ? s->options->restore_plan : "auto";
    if (!restore_way_parse(plan, &s->way))
        return base_fail(err, ERR_USAGE, "restore plan '%s': auto, attach, stream or ring", plan);
    int rc = snap_request_init(&s->request, s->device, s->options, err);
    if (rc == 0)
        rc = start_open_store(s, err);
    if (rc < 0)
        return rc;
    memcpy(s->out->model.name, s->request.name, sizeof(s->out->model.name));
    if (s->store && start_from_snapshot(s) == 0)
        return 0;
    if (!s->request.dir)
        return start_no_way(s, err);
    return start_from_directory(s, err);
}

/* Where the weights came from: a model that slept wakes from there. */
static void start_remember(struct start *s)
{
    struct snap_model_owned *m = s->out;
    m->device = s->device;
    if (s->store && m->model.snapshot_id[0] && snap_store_path(s->store, m->model.snapshot_id, m->path, NULL) == 0)
        snprintf(m->store, sizeof(m->store), "%s", s->options->store);
    snprintf(m->cache, sizeof(m->cache), "%s", s->options->cache ? s->options->cache : "");
    if (s->request.dir)
        snprintf(m->dir, sizeof(m->dir), "%s", s->request.dir);
    snap_look_up_version(s->store, &s->request, m->model.model_digest, m->model.version);
    memcpy(m->files, s->request.files, sizeof(m->files));
}

int snap_start(struct gpu_device *device, const struct snap_start_options *options, struct snap_model **out_model,
               struct base_error *err)
{
    struct start s = {.device = device, .options = options, .out = calloc(1, sizeof(struct snap_model_owned))};
    if (!s.out)
        return base_fail(err, ERR_NOMEM, "start: out of memory");
    int rc = start_run(&s, err);
    if (rc == 0)
        start_remember(&s);
    snap_lease_release(s.lease);
    snap_cold_done(&s.cold);
    snap_store_close(s.store);
    if (rc < 0) {
        snap_model_close(&s.out->model);
        return rc;
    }
    *out_model = &s.out->model;
    return 0;
}

void snap_model_close(struct snap_model *model)
{
    if (!model)
        return;
    struct snap_model_owned *m = (struct snap_model_owned *)model;
    model_tokenizer_close(model->tokenizer);
    free(m->tokenizer_blob);
    gpu_model_free(model->gpu);
    snap_use_end(m->use);
    free(m);
}
