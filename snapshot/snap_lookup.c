#include "snapshot/snap_lookup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "model/files.h"

static int request_name(struct snap_request *r, const char *model, struct base_error *err)
{
    char real[PATH_MAX];
    size_t n;
    const char *name = base_file_name(model, &n);
    if (((n == 1 && name[0] == '.') || (n == 2 && memcmp(name, "..", 2) == 0)) && realpath(model, real))
        name = base_file_name(real, &n);
    if (n == 0 || n >= sizeof(r->name) + sizeof(r->version))
        return base_fail(err, ERR_USAGE, "--model '%.80s': a name has 1 to %zu bytes", model, sizeof(r->name) - 1);
    char ref[sizeof(r->name) + sizeof(r->version)];
    memcpy(ref, name, n);
    ref[n] = '\0';
    if (!base_file_is_dir(model) && strchr(ref, '@')) {
        int rc = snap_ref_parse(ref, r->name, r->version, err);
        return rc < 0 ? base_fail_in(err, "--model '%.80s'", model) : 0;
    }
    if (n >= sizeof(r->name))
        return base_fail(err, ERR_USAGE, "--model '%.80s': a name has 1 to %zu bytes", model, sizeof(r->name) - 1);
    memcpy(r->name, ref, n + 1);
    return 0;
}

static int request_dir(struct snap_request *r, const char *model, struct base_error *err)
{
    struct model_file_digest identity;
    struct base_error why = {0};
    if (!base_file_is_dir(model)) {
        snprintf(r->no_dir, sizeof(r->no_dir), "there is no such directory");
        return 0;
    }
    int rc = model_files_identity(model, &identity, &why);
    if (rc == ERR_NOTFOUND) {
        snprintf(r->no_dir, sizeof(r->no_dir), "%.199s", why.text);
        return 0;
    }
    if (rc < 0)
        return base_fail(err, why.code, "%s", why.text);
    r->dir = model;
    snap_hex(identity.bytes, sizeof(identity.bytes), r->files);
    return 0;
}

int snap_request_init(struct snap_request *out, const struct gpu_device *device,
                      const struct snap_start_options *options, struct base_error *err)
{
    struct snap_request r = {.device = device, .dtype = options->dtype ? options->dtype : "auto"};
    struct base_error why = {0};
    enum model_dtype dtype;
    if (strcmp(r.dtype, "auto") != 0 && model_dtype_parse(r.dtype, &dtype, &why) < 0)
        return base_fail(err, ERR_USAGE, "--dtype: %s", why.text);
    int rc = request_name(&r, options->model, err);
    if (rc == 0)
        rc = snap_fingerprint_init(&r.wanted, gpu_device_info(device), r.dtype, options->snapshot_key, err);
    if (rc == 0)
        rc = request_dir(&r, options->model, err);
    if (rc == 0)
        *out = r;
    return rc;
}

struct envs {
    char device[SNAP_ID_CHARS + 1], host[SNAP_ID_CHARS + 1];
};

static int request_query(const struct snap_request *r, struct envs *envs, struct snap_index_query *out)
{
    const struct snap_fingerprint host = snap_fingerprint_host(&r->wanted);
    *out = (struct snap_index_query){.name = r->name, .files = r->files, .env = envs->device, .known_as = r->name};
    int rc = snap_fingerprint_env(&r->wanted, r->dtype, envs->device, NULL);
    if (rc == 0 && gpu_device_uploads(r->device)) {
        out->env_host = envs->host;
        rc = snap_fingerprint_env(&host, r->dtype, envs->host, NULL);
    }
    return rc;
}

/* The snapshot of that kind, model and dtype for this device, if it is in the store. "": not known, so not found. */
static bool store_has_kind(const struct snap_store *store, const struct snap_request *r, const char *model_digest,
                           const char *dtype, enum snap_kind kind, char out_id[SNAP_ID_CHARS + 1])
{
    struct snap_fingerprint f = kind == SNAP_KIND_HOST ? snap_fingerprint_host(&r->wanted) : r->wanted;
    char id[SNAP_ID_CHARS + 1];
    if (model_digest[0] == '\0' || dtype[0] == '\0' || (kind == SNAP_KIND_HOST && !gpu_device_uploads(r->device)))
        return false;
    snap_fingerprint_set(&f, SNAP_FP_MODEL, model_digest);
    snap_fingerprint_set(&f, SNAP_FP_DTYPE, dtype);
    if (snap_fingerprint_id(&f, id, NULL) < 0 || !snap_store_has(store, id))
        return false;
    memcpy(out_id, id, sizeof(id));
    return true;
}

bool snap_look_up_host(const struct snap_store *store, const struct snap_request *request, const char *dtype,
                       char out_id[SNAP_ID_CHARS + 1])
{
    return store_has_kind(store, request, request->wanted.value[SNAP_FP_MODEL], dtype, SNAP_KIND_HOST, out_id);
}

static void request_learn(struct snap_request *r, const struct snap_index_entry *e)
{
    if (r->files[0] == '\0' || e->model_digest[0] == '\0')
        return;
    snap_fingerprint_set(&r->wanted, SNAP_FP_MODEL, e->model_digest);
    memcpy(r->file_dtype, e->file_dtype, sizeof(r->file_dtype));
}

/* What the dtype asked for means here; "" while that is not known. */
static const char *request_dtype(const struct snap_request *r)
{
    if (strcmp(r->dtype, "auto") != 0)
        return r->dtype;
    return r->file_dtype[0] ? snap_auto_dtype(r->device, r->file_dtype) : "";
}

/* Whether what one index said leads to a file. Sets *out_told when it named the id itself. */
static bool entry_leads(struct snap_store *store, struct snap_request *r, const struct snap_index_query *q,
                        const struct snap_index_entry *e, struct snap_found *out, bool *out_told)
{
    *out_told = false;
    request_learn(r, e);
    if (e->id[0] && snap_store_has(store, e->id)) {
        /* A host snapshot answers; but a device one of it may have been made since, which this index has not heard of. */
        if (e->has_record && strcmp(e->record.arch, GPU_ARCH_HOST) == 0 &&
            store_has_kind(store, r, e->record.model_digest, e->record.dtype, SNAP_KIND_DEVICE, out->id))
            return true;
        *out_told = true;
        memcpy(out->id, e->id, sizeof(out->id));
        return true;
    }
    if (e->id[0] && e->has_record && e->record.state == SCHEMA_SNAPSHOT_QUARANTINED)
        snprintf(out->reason, sizeof(out->reason), "%s", e->record.reason[0] ? e->record.reason : "no reason recorded");
    else if (e->id[0])
        snap_store_drop(store, e->id, q);
    const char *digest = r->wanted.value[SNAP_FP_MODEL], *dtype = request_dtype(r);
    return store_has_kind(store, r, digest, dtype, SNAP_KIND_DEVICE, out->id) ||
           store_has_kind(store, r, digest, dtype, SNAP_KIND_HOST, out->id);
}

/* ---- the store's own files, when no index knows ---- */

struct scan {
    struct snap_store *store;
    const struct snap_request *request;
    struct snap_found *found;
    int64_t created_ms; /* of the newest so far */
    bool any, device;   /* and its kind: a device snapshot goes before every host one */
};

static bool manifest_answers(const struct snap_manifest *m, const struct snap_request *r)
{
    char diff[8];
    bool is_auto = strcmp(r->dtype, "auto") == 0, host = m->kind == SNAP_KIND_HOST && gpu_device_uploads(r->device);
    const struct snap_fingerprint wanted = host ? snap_fingerprint_host(&r->wanted) : r->wanted;
    if (snap_fingerprint_diff(&m->fingerprint, &wanted, diff, sizeof(diff)) > 0)
        return false;
    if (is_auto && strcmp(m->fingerprint.value[SNAP_FP_DTYPE], snap_auto_dtype(r->device, m->file_dtype)) != 0)
        return false;
    return r->files[0] ? strcmp(m->files, r->files) == 0 : strcmp(m->name, r->name) == 0;
}

static bool scan_visit(void *context, const struct snap_store_item *item)
{
    struct scan *s = context;
    struct snap_file *f = NULL;
    if (item->state != SCHEMA_SNAPSHOT_READY || snap_store_open_item(s->store, item, &f, NULL) < 0)
        return true;
    const struct snap_manifest *m = &f->manifest;
    bool device = m->kind == SNAP_KIND_DEVICE;
    bool better = !s->any || device > s->device || (device == s->device && m->created_ms > s->created_ms);
    if (strcmp(m->id, item->id) == 0 && better && manifest_answers(m, s->request)) {
        s->any = true;
        s->device = device;
        s->created_ms = m->created_ms;
        memcpy(s->found->id, m->id, sizeof(s->found->id));
    }
    snap_file_close(f);
    return true;
}

/* ---- names ---- */

/* The copy that came with Redis' answer. It counts where the store is far, or cannot be read: another store than this one may have
 * written it. */
static void request_know(struct snap_request *r, const struct snap_store *store, const struct snap_name *known)
{
    if (known->n_versions > 0 && r->known.n_versions == 0 && (store->objects->far || r->name_wrong[0]))
        r->known = *known;
}

/* A store that is near is asked itself; one that is far only when Redis does not know. */
static void request_ask_store(struct snap_request *r, struct snap_store *store)
{
    struct snap_name known;
    struct base_error err = {0};
    if (snap_name_check(r->name, NULL) < 0)
        return;
    int rc = snap_names_read(store, r->name, &known, &err);
    if (rc == 0)
        r->known = known;
    else if (rc == ERR_INPUT)
        snprintf(r->name_wrong, sizeof(r->name_wrong), "%.159s", err.text);
}

/* The snapshot of one version for this worker. Its model becomes the one that is wanted. */
static bool version_leads(struct snap_store *store, struct snap_request *r, const struct snap_version *v,
                          struct snap_found *out)
{
    snap_fingerprint_set(&r->wanted, SNAP_FP_MODEL, v->model_digest);
    memcpy(r->file_dtype, v->file_dtype, sizeof(r->file_dtype));
    memcpy(out->version, v->version, sizeof(out->version));
    if (store_has_kind(store, r, v->model_digest, request_dtype(r), SNAP_KIND_DEVICE, out->id) ||
        store_has_kind(store, r, v->model_digest, request_dtype(r), SNAP_KIND_HOST, out->id))
        return true;
    struct snap_fingerprint f = r->wanted;
    char id[SNAP_ID_CHARS + 1];
    snap_fingerprint_set(&f, SNAP_FP_DTYPE, request_dtype(r));
    if (snap_fingerprint_id(&f, id, NULL) == 0)
        snap_store_quarantine_reason(store, id, out->reason);
    return false;
}

static bool any_was_promoted(const struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (name->versions[i].active || name->versions[i].weight > 0)
            return true;
    }
    return false;
}

/* What the name's versions lead to. *out_final: nothing else may answer. */
static bool name_leads(struct snap_store *store, struct snap_request *r, struct snap_found *out, bool *out_final)
{
    const struct snap_name *name = &r->known;
    *out_final = r->version[0] || any_was_promoted(name);
    if (*out_final) {
        const struct snap_version *v = snap_name_route(name, r->version, NULL, 0);
        return v && version_leads(store, r, v, out);
    }
    for (uint32_t i = name->n_versions; i > 0; i--) {
        if (version_leads(store, r, &name->versions[i - 1], out))
            return true;
        if (out->reason[0]) /* a version that was set aside must not quietly become an older one */
            break;
    }
    if (out->reason[0])
        *out_final = true;
    else {
        snap_fingerprint_set(&r->wanted, SNAP_FP_MODEL, "");
        r->file_dtype[0] = '\0';
        out->version[0] = '\0';
    }
    return false;
}

/* ---- all of it ---- */

/* What the indexes know, in their order. out_final: nothing else may answer. */
static bool look_up_by_index(struct snap_store *store, struct snap_request *r, const struct snap_index_query *q,
                             struct snap_found *found, bool *out_final)
{
    *out_final = false;
    for (int i = 0; i < SNAP_STORE_INDEXES; i++) {
        if (!store->indexes[i])
            continue;
        struct snap_index_entry entry = {.id = ""};
        bool told = false, leads = false, answered = snap_store_find(store, i, q, &entry);
        request_know(r, store, &entry.known);
        if (r->known.n_versions == 0 && store->objects->far)
            request_ask_store(r, store);
        /* What is promoted cannot be told: to guess would be to serve a version that nobody chose. */
        *out_final = r->files[0] == '\0' && r->known.n_versions == 0 && r->name_wrong[0];
        if (r->files[0] == '\0' && r->known.n_versions > 0) {
            leads = name_leads(store, r, found, out_final);
            told = leads && (strcmp(entry.id, found->id) == 0 || (r->version[0] && entry.id[0]));
        }
        if (!leads && !*out_final && answered && r->version[0] == '\0')
            leads = entry_leads(store, r, q, &entry, found, &told);
        bool knows = i != SNAP_STORE_REDIS || entry.known.revision >= r->known.revision;
        if ((!told || !knows) && !snap_store_index_away(store, i))
            found->untold |= 1u << i;
        if (leads || *out_final)
            return leads;
    }
    return false;
}

/* A directory whose model is no version of its name yet: it becomes one with the telling. */
static bool is_new_version(const struct snap_request *r)
{
    const char *digest = r->wanted.value[SNAP_FP_MODEL];
    return r->dir && digest[0] && snap_name_check(r->name, NULL) == 0 && !snap_name_find_digest(&r->known, digest);
}

bool snap_look_up(struct snap_store *store, struct snap_request *request, struct snap_found *out_found)
{
    struct snap_found found = {.untold = 0};
    struct snap_index_query q;
    struct envs envs;
    bool final = false, leads = false;
    *out_found = found;
    if (request_query(request, &envs, &q) < 0)
        return false;
    if (!store->objects->far)
        request_ask_store(request, store);
    leads = look_up_by_index(store, request, &q, &found, &final);
    struct scan scan = {.store = store, .request = request, .found = &found};
    /* A name whose snapshot was set aside must not quietly become an older one of that name. */
    if (!leads && !final && found.reason[0] == '\0' && request->version[0] == '\0') {
        snap_store_each(store, scan_visit, &scan, NULL);
        leads = scan.any;
    }
    if (leads && is_new_version(request))
        found.untold = SNAP_STORE_ALL;
    *out_found = found;
    return leads;
}

int snap_look_up_failed(const struct snap_store *store, const struct snap_request *r, const struct snap_found *found,
                        struct base_error *err)
{
    const char *at = r->version[0] ? "@" : "";
    if (r->known.n_versions == 0 && r->name_wrong[0])
        return base_fail(err, ERR_NOTFOUND, "%s; mend it, or remove it and `rouse snapshot reindex`", r->name_wrong);
    if (found->reason[0] && found->version[0] && any_was_promoted(&r->known) && r->version[0] == '\0')
        return base_fail(
            err, ERR_NOTFOUND,
            "version '%s' of '%s' was quarantined: %.100s; build it again, or `rouse snapshot rollback %s`",
            found->version, r->name, found->reason, r->name);
    if (found->reason[0])
        return base_fail(err, ERR_NOTFOUND, "no snapshot in %s answers to '%s%s%s'; it was quarantined: %s",
                         store->name, r->name, at, r->version, found->reason);
    if (r->version[0] && r->known.n_versions > 0 && !snap_name_find(&r->known, r->version))
        return base_fail(err, ERR_NOTFOUND, "'%s' has no version '%s' (newest: '%s')", r->name, r->version,
                         r->known.versions[r->known.n_versions - 1].version);
    if (r->version[0] && r->known.n_versions == 0)
        return base_fail(err, ERR_NOTFOUND, "no name '%s' in %s has versions", r->name, store->name);
    if (found->version[0])
        return base_fail(err, ERR_NOTFOUND, "version '%s' of '%s' has no snapshot for this worker (%s, %s) in %s",
                         found->version, r->name, r->wanted.value[SNAP_FP_ARCH], r->dtype, store->name);
    return base_fail(err, ERR_NOTFOUND, "no snapshot in %s answers to '%s%s%s'", store->name, r->name, at, r->version);
}

void snap_look_up_version(struct snap_store *store, const struct snap_request *request, const char *model_digest,
                          char out_version[SNAP_VERSION_MAX + 1])
{
    struct snap_name now;
    const struct snap_version *v = model_digest[0] ? snap_name_find_digest(&request->known, model_digest) : NULL;
    if (!v && model_digest[0] && store && snap_name_check(request->name, NULL) == 0 &&
        snap_names_get(store, request->name, &now, NULL) == 0)
        v = snap_name_find_digest(&now, model_digest);
    snprintf(out_version, SNAP_VERSION_MAX + 1, "%s", v ? v->version : "");
}

/* What came from a directory is a version of its name from now on. NULL: there is no such name, or it could not be said. */
static const struct snap_name *tell_name(struct snap_store *store, const struct snap_request *r,
                                         const struct snap_manifest *m, struct snap_name *name)
{
    struct snap_version made = {.created_ms = m->created_ms};
    struct base_error err = {0};
    if (snap_name_check(r->name, NULL) < 0)
        return NULL;
    if (!r->dir) {
        *name = r->known;
        return name->n_versions > 0 ? name : NULL;
    }
    memcpy(made.version, r->word, sizeof(made.version));
    snprintf(made.model_digest, sizeof(made.model_digest), "%.64s", m->fingerprint.value[SNAP_FP_MODEL]);
    snprintf(made.file_dtype, sizeof(made.file_dtype), "%s", m->file_dtype);
    if (snap_names_add(store, r->name, &made, name, &err) >= 0)
        return name;
    base_log_warn("version not recorded", LOG_STR("name", r->name), LOG_STR("snapshot", m->id),
                  LOG_STR("error", err.text));
    return NULL;
}

void snap_look_up_tell(struct snap_store *store, const struct snap_request *request,
                       const struct snap_manifest *manifest, const struct schema_snapshot_record *record,
                       const struct snap_index_fence *fence, unsigned which)
{
    const char *dtype = manifest->fingerprint.value[SNAP_FP_DTYPE];
    char env[SNAP_ID_CHARS + 1], env_auto[SNAP_ID_CHARS + 1] = "";
    if (snap_fingerprint_env(&manifest->fingerprint, dtype, env, NULL) < 0)
        return;
    if (strcmp(dtype, snap_auto_dtype(request->device, manifest->file_dtype)) == 0 &&
        snap_fingerprint_env(&manifest->fingerprint, "auto", env_auto, NULL) < 0)
        return;
    struct snap_name name;
    const struct snap_index_change change = {.record = record,
                                             .name = request->name,
                                             .files = request->files,
                                             .env = env,
                                             .env_auto = env_auto,
                                             .model_digest = manifest->fingerprint.value[SNAP_FP_MODEL],
                                             .file_dtype = manifest->file_dtype,
                                             .known = tell_name(store, request, manifest, &name),
                                             .fence = fence};
    snap_store_put(store, &change, which);
}

void snap_look_up_forget(struct snap_store *store, const struct snap_request *request, const char *id)
{
    struct snap_index_query q;
    struct envs envs;
    if (request_query(request, &envs, &q) == 0)
        snap_store_drop(store, id, &q);
}
