/* `rouse snapshot reindex`: what the indexes hold, made again from what the store holds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "snapshot/admin.h"
#include "snapshot/snap_store.h"

struct reindex {
    struct snap_store *store;
    struct gpu_device *cpu, *cuda; /* for what --dtype auto means there; cuda NULL: not in this build */
    struct snap_admin_reindexed sum;
};

static void env_auto_of(const struct reindex *r, const struct snap_manifest *m, char out[SNAP_ID_CHARS + 1])
{
    bool cpu = strcmp(m->fingerprint.value[SNAP_FP_DEVICE], "cpu") == 0;
    const struct gpu_device *device = cpu ? r->cpu : r->cuda;
    const char *auto_dtype = device ? snap_auto_dtype(device, m->file_dtype) : m->file_dtype;
    if (strcmp(auto_dtype, m->fingerprint.value[SNAP_FP_DTYPE]) == 0)
        (void)snap_fingerprint_env(&m->fingerprint, "auto", out, NULL);
}

/* The snapshot's model as a version of the name that it was built under. NULL: such a name has none, or its record cannot be read. */
static const struct snap_name *version_again(struct reindex *r, const struct snap_manifest *m, struct snap_name *name)
{
    struct snap_version made = {.created_ms = m->created_ms};
    struct base_error err = {0};
    if (snap_name_check(m->name, NULL) < 0)
        return NULL;
    snprintf(made.model_digest, sizeof(made.model_digest), "%.64s", m->fingerprint.value[SNAP_FP_MODEL]);
    snprintf(made.file_dtype, sizeof(made.file_dtype), "%s", m->file_dtype);
    int rc = snap_names_add(r->store, m->name, &made, name, &err);
    if (rc < 0) {
        base_log_warn("version not recorded", LOG_STR("name", m->name), LOG_STR("snapshot", m->id),
                      LOG_STR("error", err.text));
        return NULL;
    }
    r->sum.n_versions += rc > 0;
    return name;
}

static void reindex_file(struct reindex *r, const struct snap_file *f, const struct schema_snapshot_record *record)
{
    const struct snap_manifest *m = &f->manifest;
    struct snap_name name;
    char env[SNAP_ID_CHARS + 1], env_auto[SNAP_ID_CHARS + 1] = "";
    if (snap_fingerprint_env(&m->fingerprint, m->fingerprint.value[SNAP_FP_DTYPE], env, NULL) < 0)
        return;
    env_auto_of(r, m, env_auto);
    const struct snap_index_change change = {.record = record,
                                             .name = m->name,
                                             .files = m->files,
                                             .env = env,
                                             .env_auto = env_auto,
                                             .model_digest = m->fingerprint.value[SNAP_FP_MODEL],
                                             .file_dtype = m->file_dtype,
                                             .known = version_again(r, m, &name)};
    snap_store_put(r->store, &change, SNAP_STORE_ALL);
    r->sum.n_snapshots++;
}

static void reindex_record(struct reindex *r, const struct schema_snapshot_record *record)
{
    struct snap_file *f = NULL;
    struct schema_snapshot_record own;
    struct base_error err = {0};
    struct snap_store_item item;
    if (record->state != SCHEMA_SNAPSHOT_READY)
        return;
    snap_store_item_of(r->store, record->id, record->file, &item);
    int rc = snap_store_open_item(r->store, &item, &f, &err);
    if (rc == 0 && strcmp(f->manifest.id, record->id) != 0)
        rc = base_fail(&err, ERR_CORRUPT, "it says that it is %s", f->manifest.id);
    if (rc == 0) {
        snap_file_record(f, record->file, &own);
        reindex_file(r, f, &own);
    } else {
        r->sum.n_unreadable++;
        base_log_warn("snapshot not readable, left out of the index", LOG_STR("path", record->file),
                      LOG_STR("error", err.text));
    }
    snap_file_close(f);
}

/* Redis takes the store's word even when its own copy is newer: of a store that was set back. */
static bool reindex_name(void *context, const struct snap_name *name)
{
    struct reindex *r = context;
    struct base_error err = {0};
    r->sum.n_names++;
    if (r->store->redis && snap_index_redis_name_put(r->store->redis, name, true, &err) < 0)
        base_log_warn("Redis not told of a name", LOG_STR("name", name->name), LOG_STR("error", err.text));
    return true;
}

int snap_admin_reindex(struct snap_store *store, bool progress, struct snap_admin_reindexed *out,
                       struct base_error *err)
{
    const struct gpu_open_options one_thread = {.n_threads = 1};
    struct reindex r = {.store = store};
    struct schema_snapshot_record *records = NULL;
    struct base_progress bar = {.on = false};
    size_t n = 0;
    int rc = snap_admin_list(store, &records, &n, err);
    if (rc == 0)
        rc = gpu_open("cpu", &one_thread, &r.cpu, err);
    if (rc == 0)
        (void)gpu_open_planner("cuda", NULL, &r.cuda, NULL);
    if (progress && rc == 0)
        base_progress_begin(&bar, "reading snapshots", "", n);
    for (size_t i = n; rc == 0 && i > 0; i--) { /* the oldest first: the newest has the last word */
        reindex_record(&r, &records[i - 1]);
        base_progress_set(&bar, n - i + 1);
    }
    base_progress_end(&bar);
    if (rc == 0)
        rc = snap_names_each(store, reindex_name, &r, NULL, err);
    gpu_close(r.cpu);
    gpu_close(r.cuda);
    free(records);
    if (rc == 0)
        *out = r.sum;
    return rc;
}
