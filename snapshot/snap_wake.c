/* Sleeping and waking: the same weights into the same addresses, by the same checks. */
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/snap_cold.h"
#include "snapshot/snap_model.h"
#include "snapshot/snap_restore.h"
#include "snapshot/snap_store.h"

int snap_model_sleep(struct snap_model *model, struct base_error *err)
{
    struct snap_model_owned *m = (struct snap_model_owned *)model;
    int rc = 0;
    if (m->proof.n_tokens == 0) /* loaded cold: what it computes now is what it must compute again */
        rc = snap_proof_make(model->gpu, &m->proof, err);
    return rc < 0 ? rc : gpu_model_sleep(model->gpu, err);
}

/* As a start does with what does not restore. Without Redis: that entry is dropped by the next start that follows it. */
static void blame(const struct snap_model_owned *m, const struct stat *st, const struct base_error *why)
{
    struct snap_store *store = NULL;
    const struct snap_start_options open = {.store = m->store, .cache = m->cache};
    const char *id = m->model.snapshot_id;
    if (why->code == ERR_CORRUPT && snap_store_open_with(&open, &store, NULL) == 0)
        snap_store_quarantine(store, id, st->st_dev, st->st_ino, why->text);
    else
        base_log_warn("snapshot not restored", LOG_STR("id", id), LOG_STR("path", m->path),
                      LOG_STR("reason", why->text));
    snap_store_close(store);
}

static int refill_from_snapshot(const struct snap_model_owned *m, struct base_error *why)
{
    struct stat st = {.st_ino = 0}; /* which file is judged, should it be replaced meanwhile */
    if (m->path[0] == '\0')
        return base_fail(why, ERR_NOTFOUND, "there is none");
    (void)!stat(m->path, &st);
    int rc = snap_restore_refill(m->device, m->path, m->model.snapshot_id, m->model.gpu, &m->proof, why);
    if (rc < 0)
        blame(m, &st, why);
    return rc;
}

static int refill_from_directory(const struct snap_model_owned *m, struct base_error *err)
{
    if (m->dir[0] == '\0')
        return base_fail(err, ERR_NOTFOUND, "there is no directory of the model");
    int rc = snap_cold_refill(m->dir, m->files, m->model.gpu, err);
    return rc < 0 ? rc : snap_proof_check(m->model.gpu, &m->proof, err);
}

static int refill(const struct snap_model_owned *m, const char **out_from, struct base_error *err)
{
    struct base_error why = {0}, cold = {0};
    *out_from = "snapshot";
    if (refill_from_snapshot(m, &why) == 0)
        return 0;
    *out_from = "directory";
    if (refill_from_directory(m, &cold) == 0)
        return 0;
    return base_fail(err, why.code == ERR_NOTFOUND ? cold.code : why.code, "snapshot %s: %.200s; directory: %.200s",
                     m->model.snapshot_id, why.text, cold.text);
}

int snap_model_wake(struct snap_model *model, struct base_error *err)
{
    struct snap_model_owned *m = (struct snap_model_owned *)model;
    const char *from = NULL;
    uint64_t began_ns = base_clock_mono_ns();
    int rc = gpu_model_wake(model->gpu, err);
    if (rc < 0)
        return rc;
    rc = refill(m, &from, err);
    if (rc < 0) {
        struct base_error again = {0};
        if (gpu_model_sleep(model->gpu, &again) < 0)
            base_log_error("memory of a model that did not wake is kept", LOG_STR("reason", again.text));
        return rc;
    }
    base_log_info("model awake", LOG_STR("model", model->name), LOG_STR("from", from),
                  LOG_F64("seconds", (double)(base_clock_mono_ns() - began_ns) * 1e-9));
    return 0;
}
