/* A snapshot tried: every checksum, or the whole of a restore, of which nothing is kept. */
#include <limits.h>

#include "snapshot/admin.h"
#include "snapshot/chunk_scan.h"
#include "snapshot/snap_restore.h"
#include "snapshot/snap_store.h"

/* The snapshot's own model and key, this device's everything else. */
static int wanted_here(const struct snap_file *f, const struct gpu_device *device, struct snap_fingerprint *out,
                       struct base_error *err)
{
    const struct snap_fingerprint *have = &f->manifest.fingerprint;
    int rc = snap_fingerprint_init(out, gpu_device_info(device), have->value[SNAP_FP_DTYPE], "", err);
    if (rc < 0)
        return rc;
    snap_fingerprint_set(out, SNAP_FP_MODEL, have->value[SNAP_FP_MODEL]);
    snap_fingerprint_set(out, SNAP_FP_KEY, have->value[SNAP_FP_KEY]);
    return 0;
}

static int try_restore(const struct snap_file *f, struct snap_restore *restore, struct restore_plan *out_plan,
                       struct base_error *err)
{
    const struct gpu_limits limits = {.n_tokens_max = 64, .n_seqs_max = 1};
    struct snap_fingerprint wanted;
    struct snap_restored restored;
    int rc = wanted_here(f, restore->device, &wanted, err);
    if (rc < 0)
        return rc;
    restore->path = f->path;
    restore->wanted = &wanted;
    restore->limits = &limits;
    rc = snap_restore_read(restore, &restored, err);
    if (rc < 0)
        return rc;
    if (out_plan)
        *out_plan = restored.plan;
    snap_restored_done(&restored);
    return 0;
}

static int open_which(struct snap_store *store, const char *which, char path[PATH_MAX], struct snap_file **out_file,
                      struct base_error *err)
{
    struct schema_snapshot_record record;
    int rc = snap_store_resolve_here(store, which, &record, path, err);
    if (rc < 0)
        return rc;
    rc = snap_file_open(path, out_file, err);
    if (rc < 0)
        base_fail_in(err, "snapshot %s", path);
    return rc;
}

int snap_admin_verify(struct snap_store *store, const char *which, struct gpu_device *device, bool progress,
                      uint64_t *out_bytes, struct base_error *err)
{
    struct snap_file *f = NULL;
    struct chunk_scan_result result = {0};
    struct snap_restore restore = {.device = device, .progress = progress};
    char path[PATH_MAX];
    int rc = open_which(store, which, path, &f, err);
    if (rc < 0)
        return rc;
    const struct chunk_scan scan = {.file = f, .progress = progress};
    rc = chunk_scan_run(&scan, &result, err);
    if (rc == 0 && device)
        rc = try_restore(f, &restore, NULL, err);
    if (rc == 0 && out_bytes)
        *out_bytes = result.bytes + f->layout.front_bytes;
    snap_file_close(f);
    if (rc < 0)
        base_fail_in(err, "snapshot %s", path);
    return rc;
}

int snap_admin_restore(struct snap_store *store, const char *which, const struct snap_admin_restore *options,
                       struct schema_snapshot_record *out_record, struct restore_plan *out_plan, struct base_error *err)
{
    struct snap_file *f = NULL;
    char path[PATH_MAX];
    struct snap_restore restore = {.device = options->device,
                                   .way = options->way,
                                   .node_dir = options->node_dir,
                                   .trace = options->trace,
                                   .progress = options->progress};
    int rc = open_which(store, which, path, &f, err);
    if (rc < 0)
        return rc;
    rc = try_restore(f, &restore, out_plan, err);
    if (rc == 0)
        snap_file_record(f, path, out_record);
    snap_file_close(f);
    if (rc < 0)
        base_fail_in(err, "snapshot %s", path);
    return rc;
}
