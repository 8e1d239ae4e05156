/* Names as operators change them: checked against what the store has, changed by compare and swap, told. */
#include <stdio.h>
#include <string.h>

#include "snapshot/admin.h"
#include "snapshot/events.h"
#include "snapshot/snap_store.h"

/* ---- what the store has of a version ---- */

struct tally {
    struct snap_store *store;
    const char *model_digest;
    uint32_t n;
};

static bool tally_visit(void *context, const struct snap_store_item *item)
{
    struct tally *t = context;
    struct snap_file *f = NULL;
    if (item->state != SCHEMA_SNAPSHOT_READY || snap_store_open_item(t->store, item, &f, NULL) < 0)
        return true;
    t->n += strcmp(f->manifest.fingerprint.value[SNAP_FP_MODEL], t->model_digest) == 0;
    snap_file_close(f);
    return true;
}

int snap_admin_count(struct snap_store *store, const char *model_digest, uint32_t *out_n, struct base_error *err)
{
    struct tally t = {.store = store, .model_digest = model_digest};
    int rc = snap_store_each(store, tally_visit, &t, err);
    if (rc == 0)
        *out_n = t.n;
    return rc;
}

static int check_has_snapshot(struct snap_store *store, const char *name, const char *version, struct base_error *err)
{
    struct snap_name now;
    uint32_t n = 0;
    int rc = snap_names_get(store, name, &now, err);
    const struct snap_version *v = rc == 0 ? snap_name_find(&now, version) : NULL;
    if (!v) /* the change itself says it, with what there is */
        return rc;
    rc = snap_admin_count(store, v->model_digest, &n, err);
    if (rc == 0 && n == 0)
        rc = base_fail(err, ERR_NOTFOUND,
                       "no snapshot of '%s@%s' is in %s: workers would find nothing; build it first, or --force", name,
                       version, store->name);
    return rc;
}

/* ---- changes ---- */

static int parse_with_version(const char *ref, char name[SNAP_NAME_MAX + 1], char version[SNAP_VERSION_MAX + 1],
                              struct base_error *err)
{
    int rc = snap_ref_parse(ref, name, version, err);
    if (rc == 0 && version[0] == '\0')
        rc = base_fail(err, ERR_USAGE, "'%s' names no version: NAME@VERSION is wanted", ref);
    return rc;
}

static void tell(struct snap_store *store, const char *what, const char *name, const char *version, const char *reason)
{
    snap_event(store, &(struct snap_event){.what = what, .name = name, .version = version, .reason = reason});
}

static int step_promote(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_promote(name, context, err);
}

int snap_admin_promote(struct snap_store *store, const char *ref, bool force, struct snap_name *out,
                       struct base_error *err)
{
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    int rc = parse_with_version(ref, name, version, err);
    if (rc == 0 && !force)
        rc = check_has_snapshot(store, name, version, err);
    if (rc == 0)
        rc = snap_names_change(store, name, false, step_promote, version, out, err);
    if (rc > 0)
        tell(store, "promoted", name, version, NULL);
    return rc;
}

static int step_rollback(struct snap_name *name, const void *context, struct base_error *err)
{
    (void)context;
    return snap_name_rollback(name, err);
}

int snap_admin_rollback(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err)
{
    int rc = snap_names_change(store, name, false, step_rollback, NULL, out, err);
    if (rc > 0)
        tell(store, "rolled back", name, snap_name_route(out, "", NULL, 0)->version, NULL);
    return rc;
}

struct split {
    const struct snap_split *parts;
    size_t n;
};

static int step_split(struct snap_name *name, const void *context, struct base_error *err)
{
    const struct split *s = context;
    return snap_name_split(name, s->parts, s->n, err);
}

int snap_admin_split(struct snap_store *store, const char *name, const struct snap_split *parts, size_t n,
                     struct snap_name *out, struct base_error *err)
{
    struct split split = {parts, n};
    char text[256] = "off";
    size_t at = 0;
    int rc = snap_names_change(store, name, false, step_split, &split, out, err);
    for (size_t i = 0; i < n && at < sizeof(text); i++)
        at +=
            (size_t)snprintf(text + at, sizeof(text) - at, "%s%s=%u", i ? " " : "", parts[i].version, parts[i].weight);
    if (rc > 0)
        tell(store, "split", name, NULL, text);
    return rc;
}

static int step_pin(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_pin(name, context, true, err);
}

static int step_unpin(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_pin(name, context, false, err);
}

int snap_admin_pin(struct snap_store *store, const char *ref, bool pinned, struct snap_name *out,
                   struct base_error *err)
{
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    int rc = parse_with_version(ref, name, version, err);
    if (rc == 0)
        rc = snap_names_change(store, name, false, pinned ? step_pin : step_unpin, version, out, err);
    if (rc > 0)
        tell(store, pinned ? "pinned" : "unpinned", name, version, NULL);
    return rc;
}
