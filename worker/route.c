#include "worker/route.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"

#define KEY_BYTES_MAX 640 /* batch_id and id have 256 bytes each at most */

/* The list */

/* The next reference of a list, or NULL. */
static const char *next_ref(const char **at, char out[SNAP_REF_MAX + 2])
{
    if (!*at || !**at)
        return NULL;
    size_t n = strcspn(*at, ",");
    snprintf(out, SNAP_REF_MAX + 2, "%.*s", (int)(n < SNAP_REF_MAX + 1 ? n : SNAP_REF_MAX + 1), *at);
    *at += n;
    *at += **at == ',';
    return out;
}

static int check_list(const char *list, struct base_error *err)
{
    const char *at = list;
    char ref[SNAP_REF_MAX + 2], name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    if (strcmp(list, "*") == 0)
        return 0;
    while (next_ref(&at, ref)) {
        int rc = strcmp(ref, "*") == 0 ? base_fail(err, ERR_USAGE, "* among others")
                                       : snap_ref_parse(ref, name, version, err);
        if (rc < 0)
            return base_fail_in(err, "--models '%.80s': a list of NAME or NAME@VERSION, or * alone", list);
    }
    return 0;
}

/* A version of the list admits that version alone; a name all of its versions, and what its split gives. */
static bool is_listed(const char *list, const char *name, const char *version)
{
    char ref[SNAP_REF_MAX + 2], listed[SNAP_NAME_MAX + 1], listed_version[SNAP_VERSION_MAX + 1];
    if (!list)
        return false;
    if (strcmp(list, "*") == 0)
        return true;
    while (next_ref(&list, ref)) {
        if (snap_ref_parse(ref, listed, listed_version, NULL) < 0 || strcmp(listed, name) != 0)
            continue;
        if (listed_version[0] == '\0' || strcmp(listed_version, version) == 0)
            return true;
    }
    return false;
}

int worker_route_rules_init(struct worker_route_rules *rules, const char *model, const char *allowed, bool has_store,
                            struct base_error *err)
{
    *rules = (struct worker_route_rules){.allowed = allowed && allowed[0] ? allowed : NULL, .has_store = has_store};
    if (!base_file_is_dir(model) && strchr(model, '@') && snap_ref_parse(model, rules->name, rules->version, err) < 0)
        return base_fail_in(err, "--model");
    if (!rules->allowed)
        return 0;
    if (!has_store)
        return base_fail(err, ERR_USAGE, "--models needs a store to find them in: leave out --no-snapshot");
    return check_list(rules->allowed, err);
}

/* One record */

static bool refuse(struct worker_job *job, enum schema_code code, const char *why)
{
    worker_job_refuse(job, code, SCHEMA_STAGE_ADMIT, why);
    return true;
}

static bool refuse_unknown(struct worker_job *job, const struct worker_route_rules *r, const char *detail)
{
    char why[480];
    const struct schema_string *wanted = &job->batch->model;
    snprintf(why, sizeof why, "the batch is for model '%.128s'%s; this worker runs '%.128s'%s%.64s",
             wanted->text ? wanted->text : r->name, detail, r->name, r->allowed ? " and --models " : "",
             r->allowed ? r->allowed : "");
    return refuse(job, SCHEMA_UNKNOWN_MODEL, why);
}

static size_t make_key(const struct worker_job *job, uint32_t i, char key[KEY_BYTES_MAX])
{
    const struct schema_string *batch = &job->batch->batch_id, *id = &job->batch->prompts[i].id;
    size_t n_batch = batch->n < KEY_BYTES_MAX / 2 - 1 ? batch->n : KEY_BYTES_MAX / 2 - 1;
    size_t n_id = id->n < KEY_BYTES_MAX / 2 ? id->n : KEY_BYTES_MAX / 2;
    memcpy(key, batch->text, n_batch);
    key[n_batch] = '\0';
    memcpy(key + n_batch + 1, id->text, n_id);
    return n_batch + 1 + n_id;
}

static void be_own(const struct worker_route_rules *r, struct worker_routed *to)
{
    memcpy(to->version, r->own_version, sizeof to->version);
    memcpy(to->digest, r->own_digest, sizeof to->digest);
}

/* What answers one prompt. OK and NONE (no versions: the name alone leads to it) are answers. */
static enum worker_route route_prompt(const struct worker_route_rules *r, struct worker_names *names,
                                      const struct worker_job *job, uint32_t i, const char *name, const char *version,
                                      struct worker_routed *to)
{
    char key[KEY_BYTES_MAX];
    bool is_own_name = strcmp(name, r->name) == 0;
    if (is_own_name && version[0] && strcmp(version, r->own_version) == 0) {
        be_own(r, to);
        return WORKER_ROUTE_OK;
    }
    if (!r->has_store) {
        be_own(r, to);
        return version[0] ? WORKER_ROUTE_NO_VERSION : WORKER_ROUTE_OK; /* no name but our own gets here */
    }
    size_t n_key = make_key(job, i, key);
    enum worker_route way = worker_names_route(names, name, version, key, n_key, job->taken_ns, to);
    if (way == WORKER_ROUTE_OK &&
        !to->chosen) { /* nobody said which: the one that this kind of worker has a snapshot of */
        *to = (struct worker_routed){.chosen = false};
        way = WORKER_ROUTE_NONE;
    }
    if (is_own_name && !version[0] && (way == WORKER_ROUTE_NONE || way == WORKER_ROUTE_AWAY)) {
        be_own(r, to);
        return WORKER_ROUTE_OK;
    }
    return way == WORKER_ROUTE_NONE && version[0] ? WORKER_ROUTE_NO_VERSION : way;
}

/* true: the prompt has its model, or is answered. */
static bool place(const struct worker_route_rules *r, struct worker_models *models, struct worker_prompt *p,
                  const char *name, const struct worker_routed *to, const char *version)
{
    if (!is_listed(r->allowed, name, to->version) && !is_listed(r->allowed, name, version) &&
        strcmp(name, r->name) != 0) {
        worker_prompt_refuse(p, SCHEMA_UNKNOWN_MODEL, SCHEMA_STAGE_ADMIT,
                             "the version that the name leads to is not one that this worker may serve (--models)");
        return true;
    }
    p->model = worker_models_want(models, name, to->version, to->digest);
    return p->model != NULL;
}

/* When everything that a record asks for has failed already, it fails as a whole, before it gets anywhere. */
static void refuse_failed(struct worker_models *models, struct worker_job *job)
{
    struct base_error why = {0};
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        struct worker_prompt *p = &job->prompts[i];
        if (!p->model || !worker_models_failed(models, p->model, &why))
            return;
    }
    if (job->n_prompts > 0)
        refuse(job, worker_route_failure(&why), why.text);
}

static bool may_be_listed(const struct worker_route_rules *r, const char *name)
{
    char ref[SNAP_REF_MAX + 2], listed[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    const char *list = r->allowed;
    if (strcmp(name, r->name) == 0 || is_listed(list, name, ""))
        return true;
    while (list && next_ref(&list, ref))
        if (snap_ref_parse(ref, listed, version, NULL) == 0 && strcmp(listed, name) == 0)
            return true;
    return false;
}

bool worker_route_job(const struct worker_route_rules *r, struct worker_names *names, struct worker_models *models,
                      struct worker_job *job)
{
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    if (!job->batch || job->code != SCHEMA_OK || job->routed)
        return true;
    const struct schema_string *wanted = &job->batch->model;
    if (!wanted->text) {
        memcpy(name, r->name, sizeof name);
        memcpy(version, r->version, sizeof version);
    } else if (memchr(wanted->text, '\0', wanted->n) || snap_ref_parse(wanted->text, name, version, NULL) < 0) {
        return refuse_unknown(job, r, ", which is no NAME or NAME@VERSION");
    }
    if (!may_be_listed(r, name))
        return refuse_unknown(job, r, "");
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        struct worker_prompt *p = &job->prompts[i];
        struct worker_routed to = {.chosen = false};
        if (p->model || p->state != WORKER_PROMPT_NEW)
            continue;
        enum worker_route way = route_prompt(r, names, job, i, name, version, &to);
        if (way == WORKER_ROUTE_NO_VERSION)
            return refuse_unknown(job, r, ", a version that the store does not know");
        if (way != WORKER_ROUTE_OK && way != WORKER_ROUTE_NONE)
            return false;
        if (!place(r, models, p, name, &to, version))
            return false;
    }
    job->routed = true;
    refuse_failed(models, job);
    return true;
}

enum schema_code worker_route_failure(const struct base_error *why)
{
    return why->code == ERR_NOTFOUND ? SCHEMA_UNKNOWN_MODEL : SCHEMA_DEVICE;
}
