/* What a name may stand for and how that changes: no store, no clock, no I/O. */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "snapshot/names.h"

/* ---- references ---- */

static bool is_word_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
}

int snap_version_check(const char *version, struct base_error *err)
{
    size_t n = strnlen(version, SNAP_VERSION_MAX + 1);
    bool ok = n > 0 && n <= SNAP_VERSION_MAX && version[0] != '-' && version[0] != '.';
    for (size_t i = 0; ok && i < n; i++)
        ok = is_word_char(version[i]);
    return ok ? 0
              : base_fail(err, ERR_USAGE,
                          "'%.80s' is not a version: 1 to %d of letters, digits, '.', '_' and '-', not beginning with "
                          "'.' or '-'",
                          version, SNAP_VERSION_MAX);
}

int snap_name_check(const char *name, struct base_error *err)
{
    size_t n = strnlen(name, SNAP_NAME_MAX + 1);
    bool ok = n > 0 && n <= SNAP_NAME_MAX && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    for (size_t i = 0; ok && i < n; i++)
        ok = (unsigned char)name[i] >= 0x20 && name[i] != 0x7f && name[i] != '/' && name[i] != '@';
    return ok ? 0
              : base_fail(err, ERR_USAGE,
                          "'%.140s' is not a name: 1 to %d bytes without '/', '@' and control characters", name,
                          SNAP_NAME_MAX);
}

int snap_ref_parse(const char *ref, char out_name[SNAP_NAME_MAX + 1], char out_version[SNAP_VERSION_MAX + 1],
                   struct base_error *err)
{
    char name[SNAP_NAME_MAX + 2];
    size_t n = strcspn(ref, "@");
    snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : sizeof(name)), ref);
    int rc = snap_name_check(name, err);
    if (rc == 0 && ref[n] == '@')
        rc = snap_version_check(ref + n + 1, err);
    if (rc < 0)
        return rc;
    memcpy(out_name, name, n + 1);
    snprintf(out_version, SNAP_VERSION_MAX + 1, "%s", ref[n] == '@' ? ref + n + 1 : "");
    return 0;
}

/* ---- looking ---- */

const struct snap_version *snap_name_find(const struct snap_name *name, const char *version)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (strcmp(name->versions[i].version, version) == 0)
            return &name->versions[i];
    }
    return NULL;
}

const struct snap_version *snap_name_find_digest(const struct snap_name *name, const char *model_digest)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (strcmp(name->versions[i].model_digest, model_digest) == 0)
            return &name->versions[i];
    }
    return NULL;
}

static const struct snap_version *find_active(const struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (name->versions[i].active)
            return &name->versions[i];
    }
    return NULL;
}

static uint64_t total_weight(const struct snap_name *name)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < name->n_versions; i++)
        total += name->versions[i].weight;
    return total;
}

static const struct snap_version *find_heaviest(const struct snap_name *name)
{
    const struct snap_version *v = &name->versions[0];
    for (uint32_t i = 1; i < name->n_versions; i++) {
        if (name->versions[i].weight > v->weight)
            v = &name->versions[i];
    }
    return v;
}

static const struct snap_version *find_by_key(const struct snap_name *name, uint64_t total, const void *key,
                                              size_t n_key)
{
    uint64_t at = XXH3_64bits(key, n_key) % total, sum = 0;
    uint32_t i = 0;
    while ((sum += name->versions[i].weight) <= at)
        i++;
    return &name->versions[i];
}

const struct snap_version *snap_name_route(const struct snap_name *name, const char *version, const void *key,
                                           size_t n_key)
{
    uint64_t total = total_weight(name);
    if (version[0])
        return snap_name_find(name, version);
    if (name->n_versions == 0)
        return NULL;
    if (total > 0 && key)
        return find_by_key(name, total, key, n_key);
    const struct snap_version *active = find_active(name);
    if (active)
        return active;
    return total > 0 ? find_heaviest(name) : &name->versions[name->n_versions - 1];
}

bool snap_name_serves(const struct snap_name *name, const struct snap_version *v)
{
    return v->active || v->weight > 0 || strcmp(v->version, name->previous) == 0 ||
           v == snap_name_route(name, "", NULL, 0);
}

/* ---- changing ---- */

static int no_version(const struct snap_name *name, const char *version, struct base_error *err)
{
    char known[200] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < name->n_versions && n < sizeof(known); i++) /* the newest first: likely what was meant */
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "",
                              name->versions[name->n_versions - 1 - i].version);
    return base_fail(err, ERR_NOTFOUND, "'%s' has no version '%s'; it has %s", name->name, version,
                     known[0] ? known : "none");
}

static struct snap_version *find_to_change(struct snap_name *name, const char *version)
{
    const struct snap_version *v = snap_name_find(name, version);
    return v ? &name->versions[v - name->versions] : NULL;
}

static void remove_at(struct snap_name *name, uint32_t i)
{
    memmove(&name->versions[i], &name->versions[i + 1], (name->n_versions - i - 1) * sizeof(name->versions[0]));
    name->n_versions--;
    memset(&name->versions[name->n_versions], 0, sizeof(name->versions[0]));
}

/* The oldest that nothing points at. */
static bool forget_oldest(struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (name->versions[i].pinned || snap_name_serves(name, &name->versions[i]))
            continue;
        remove_at(name, i);
        return true;
    }
    return false;
}

static void give_word(struct snap_name *name, struct snap_version *v)
{
    do
        snprintf(v->version, sizeof(v->version), "v%u", name->next++);
    while (snap_name_find(name, v->version));
}

/* By the time at which they were made: a builder that was held up does not become the newest. */
static void insert_by_time(struct snap_name *name, const struct snap_version *v)
{
    uint32_t i = name->n_versions;
    while (i > 0 && name->versions[i - 1].created_ms > v->created_ms)
        i--;
    memmove(&name->versions[i + 1], &name->versions[i], (name->n_versions - i) * sizeof(*v));
    name->versions[i] = *v;
    name->n_versions++;
}

int snap_name_add(struct snap_name *name, const struct snap_version *made, struct base_error *err)
{
    const struct snap_version *same = snap_name_find_digest(name, made->model_digest);
    const struct snap_version *called = made->version[0] ? snap_name_find(name, made->version) : NULL;
    if (same && made->version[0] && same != called)
        return base_fail(err, ERR_USAGE, "this model is version '%s' of '%s' already, so it cannot be '%s'",
                         same->version, name->name, made->version);
    if (called && !same)
        return base_fail(err, ERR_USAGE, "version '%s' of '%s' is another model (digest %.12s...): choose another word",
                         called->version, name->name, called->model_digest);
    if (same)
        return 0;
    struct snap_version v = {.created_ms = made->created_ms < 0 ? 0 : made->created_ms};
    if (name->n_versions == SNAP_VERSIONS_MAX && !forget_oldest(name))
        return base_fail(err, ERR_INPUT, "'%s' has %d versions, all serving or pinned: unpin or forget one first",
                         name->name, SNAP_VERSIONS_MAX);
    memcpy(v.version, made->version, sizeof(v.version));
    memcpy(v.model_digest, made->model_digest, sizeof(v.model_digest));
    memcpy(v.file_dtype, made->file_dtype, sizeof(v.file_dtype));
    if (v.version[0] == '\0')
        give_word(name, &v);
    insert_by_time(name, &v);
    return 1;
}

static void end_split(struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++)
        name->versions[i].weight = 0;
}

static void make_active(struct snap_name *name, struct snap_version *v)
{
    for (uint32_t i = 0; i < name->n_versions; i++)
        name->versions[i].active = &name->versions[i] == v;
}

int snap_name_promote(struct snap_name *name, const char *version, struct base_error *err)
{
    struct snap_version *v = find_to_change(name, version);
    const struct snap_version *active = find_active(name), *answers = snap_name_route(name, "", NULL, 0);
    if (!v)
        return no_version(name, version, err);
    if (v == active && total_weight(name) == 0)
        return 0;
    if (v != active)
        snprintf(name->previous, sizeof(name->previous), "%s", answers == v ? "" : answers->version);
    end_split(name);
    make_active(name, v);
    return 1;
}

int snap_name_rollback(struct snap_name *name, struct base_error *err)
{
    struct snap_version *v = find_to_change(name, name->previous);
    if (total_weight(name) > 0) {
        end_split(name);
        return 1;
    }
    if (!v)
        return base_fail(err, ERR_USAGE, "'%s' has no step to go back: promote the version that is wanted", name->name);
    make_active(name, v);
    name->previous[0] = '\0';
    return 1;
}

int snap_name_split(struct snap_name *name, const struct snap_split *parts, size_t n, struct base_error *err)
{
    uint32_t weights[SNAP_VERSIONS_MAX] = {0};
    bool changed = false, any = n == 0;
    for (size_t i = 0; i < n; i++) {
        const struct snap_version *v = snap_name_find(name, parts[i].version);
        if (!v)
            return no_version(name, parts[i].version, err);
        if (parts[i].weight > SNAP_WEIGHT_MAX)
            return base_fail(err, ERR_USAGE, "a weight is at most %d", SNAP_WEIGHT_MAX);
        if (weights[v - name->versions])
            return base_fail(err, ERR_USAGE, "version '%s' has two weights", parts[i].version);
        weights[v - name->versions] = parts[i].weight;
        any = any || parts[i].weight > 0;
    }
    if (!any)
        return base_fail(err, ERR_USAGE, "a split in which every weight is 0 sends nothing anywhere");
    for (uint32_t i = 0; i < name->n_versions; i++) {
        changed = changed || name->versions[i].weight != weights[i];
        name->versions[i].weight = weights[i];
    }
    return changed;
}

int snap_name_pin(struct snap_name *name, const char *version, bool pinned, struct base_error *err)
{
    struct snap_version *v = find_to_change(name, version);
    if (!v)
        return no_version(name, version, err);
    if (v->pinned == pinned)
        return 0;
    v->pinned = pinned;
    return 1;
}

int snap_name_forget(struct snap_name *name, const char *version, struct base_error *err)
{
    struct snap_version *v = find_to_change(name, version);
    if (!v)
        return no_version(name, version, err);
    if (v->pinned)
        return base_fail(err, ERR_USAGE, "version '%s' of '%s' is pinned: unpin it first", version, name->name);
    bool last = name->n_versions == 1 && !v->active && v->weight == 0;
    if (!last && snap_name_serves(name, v))
        return base_fail(err, ERR_USAGE,
                         "version '%s' of '%s' serves (active, in the split, or what rollback goes to): "
                         "promote another one first",
                         version, name->name);
    remove_at(name, (uint32_t)(v - name->versions));
    return 1;
}
