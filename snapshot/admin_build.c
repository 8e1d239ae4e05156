/* `rouse snapshot build`: what a start does when it finds nothing, on purpose. */
#include <stdio.h>
#include <string.h>

#include "snapshot/admin.h"
#include "snapshot/snap_build.h"
#include "snapshot/snap_cold.h"
#include "snapshot/snap_lookup.h"
#include "snapshot/snap_store.h"

struct build {
    struct gpu_device *device;
    const struct snap_start_options *options;
    const struct snap_admin_build *how;
    struct snap_store *store;
    struct snap_request request;
    struct snap_lease *lease;
    struct snap_cold cold;
};

/* 1: it is there (a broken one counts as missing: the new one replaces it). */
static int build_is_there(struct build *b, const char *id, struct schema_snapshot_record *out_record)
{
    return !b->how->force && snap_store_has(b->store, id) &&
           snap_store_record_of_id(b->store, id, out_record, NULL) == 0;
}

static struct snap_version version_of(const struct build *b, int64_t created_ms)
{
    struct snap_version v = {.created_ms = created_ms};
    memcpy(v.version, b->request.word, sizeof(v.version));
    memcpy(v.model_digest, b->request.wanted.value[SNAP_FP_MODEL], sizeof(v.model_digest));
    memcpy(v.file_dtype, b->request.file_dtype, sizeof(v.file_dtype));
    return v;
}

/* Before minutes of work: whether the model can be called that. */
static int build_check_word(const struct build *b, struct base_error *err)
{
    struct snap_name name;
    struct base_error why = {0};
    if (b->request.word[0] == '\0')
        return 0;
    const struct snap_version v = version_of(b, 0);
    int rc = snap_names_get(b->store, b->request.name, &name, &why);
    if (rc == ERR_NOTFOUND)
        return 0;
    rc = rc < 0 ? base_fail(err, rc, "%s", why.text) : snap_name_add(&name, &v, err);
    return rc < 0 ? rc : 0;
}

static int build_run(struct build *b, struct schema_snapshot_record *out_record, bool *out_built,
                     struct base_error *err)
{
    struct snap_found found;
    char id[SNAP_ID_CHARS + 1];
    *out_built = false;
    if (!b->request.dir)
        return base_fail(err, ERR_NOTFOUND, "model '%s': %s", b->options->model, b->request.no_dir);
    if (snap_look_up(b->store, &b->request, &found) && build_is_there(b, found.id, out_record))
        return build_check_word(b, err);
    int rc = snap_cold_open(&b->cold, b->device, b->request.dir, b->request.dtype, err);
    if (rc == 0)
        rc = snap_build_lease(b->store, &b->request, model_dtype_name(b->cold.dtype), &b->lease, err);
    if (rc == 0)
        rc = snap_cold_identify(&b->cold, b->store, &b->request, b->options->progress, id, err);
    if (rc == 0)
        rc = build_check_word(b, err);
    if (rc < 0 || build_is_there(b, id, out_record))
        return rc;
    rc = snap_cold_load(&b->cold, b->device, b->options, err);
    if (rc == 0)
        rc = snap_cold_build(&b->cold, b->store, b->lease, &b->request, b->options->progress, out_record, err);
    *out_built = rc == 0;
    return rc;
}

/* What was built, or was there, is a version of the name; and the active one, if that was asked for. */
static int build_name(struct build *b, struct snap_admin_built *out, struct base_error *err)
{
    struct snap_name name;
    char ref[SNAP_REF_MAX + 1];
    if (snap_name_check(b->request.name, NULL) < 0)
        return b->how->promote || b->request.word[0] ? snap_name_check(b->request.name, err) : 0;
    struct snap_version v = version_of(b, out->record.created_ms);
    memcpy(v.model_digest, out->record.model_digest, sizeof(v.model_digest));
    int rc = snap_names_add(b->store, b->request.name, &v, &name, err);
    if (rc < 0)
        return rc;
    if (rc > 0)
        snap_names_tell(b->store, &name);
    snprintf(out->version, sizeof(out->version), "%s", snap_name_find_digest(&name, v.model_digest)->version);
    if (!b->how->promote)
        return 0;
    snprintf(ref, sizeof(ref), "%s@%s", b->request.name, out->version);
    rc = snap_admin_promote(b->store, ref, true, &name, err);
    out->promoted = rc >= 0;
    return rc < 0 ? rc : 0;
}

int snap_admin_build(struct gpu_device *device, const struct snap_start_options *options,
                     const struct snap_admin_build *how, struct snap_admin_built *out_built, struct base_error *err)
{
    struct build b = {.device = device, .options = options, .how = how};
    struct snap_admin_built built = {.built = false};
    if (!options->store)
        return base_fail(err, ERR_USAGE, "no store for snapshots is given");
    int rc = how->word && how->word[0] ? snap_version_check(how->word, err) : 0;
    if (rc == 0)
        rc = snap_request_init(&b.request, device, options, err);
    if (rc == 0) {
        snprintf(b.request.word, sizeof(b.request.word), "%s", how->word ? how->word : "");
        rc = snap_store_open_with(options, &b.store, err);
    }
    if (rc == 0)
        rc = build_run(&b, &built.record, &built.built, err);
    if (rc == 0)
        rc = build_name(&b, &built, err);
    snap_lease_release(b.lease);
    snap_cold_done(&b.cold);
    snap_store_close(b.store);
    if (rc == 0)
        *out_built = built;
    return rc;
}
