#include "snapshot/names.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/snap_store.h"

enum { ATTEMPTS = 60, BACKOFF_MS = 2, BACKOFF_MS_MAX = 200 };

/* An object that is there but empty of versions is a name that was forgotten: its revision goes on. */
static int record_read(struct snap_store *store, const char *name, struct snap_name *out, char etag[SNAP_ETAG_MAX],
                       struct base_error *err)
{
    char key[SNAP_OBJECT_KEY_MAX + 1];
    struct base_buffer bytes;
    base_buffer_init(&bytes, SNAP_NAME_BYTES_MAX);
    int rc = snap_name_key(name, key, err);
    if (rc == 0)
        rc = store->objects->ops->get(store->objects, key, SNAP_NAME_BYTES_MAX, &bytes, etag, err);
    if (rc == 0) {
        rc = snap_name_decode(bytes.data, bytes.n, out, err);
        if (rc == 0 && strcmp(out->name, name) != 0)
            rc = base_fail(err, ERR_INPUT, "it is of '%s'", out->name);
        if (rc < 0)
            base_fail_in(err, "%s in %s", key, store->name);
    }
    base_buffer_done(&bytes);
    return rc;
}

int snap_names_read(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err)
{
    struct snap_name known;
    int rc = snap_name_check(name, err);
    if (rc == 0)
        rc = record_read(store, name, &known, NULL, err);
    if (rc == 0 && known.n_versions == 0)
        rc = base_fail(err, ERR_NOTFOUND, "no name '%s' in %s", name, store->name);
    if (rc == 0)
        *out = known;
    return rc;
}

int snap_names_get(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err)
{
    struct snap_name known;
    struct base_error why = {0};
    int rc = snap_name_check(name, err);
    if (rc < 0)
        return rc;
    if (store->objects->far && store->redis && snap_index_redis_name(store->redis, name, &known, NULL) == 0)
        rc = 0;
    else
        rc = record_read(store, name, &known, NULL, &why);
    if (rc < 0 && rc != ERR_NOTFOUND && !store->objects->far && store->redis &&
        snap_index_redis_name(store->redis, name, &known, NULL) == 0)
        rc = 0; /* the store does not answer: the copy does */
    if (rc == 0 && known.n_versions == 0)
        rc = ERR_NOTFOUND;
    if (rc == ERR_NOTFOUND)
        return base_fail(err, ERR_NOTFOUND, "no name '%s' in %s", name, store->name);
    if (rc < 0)
        return base_fail(err, rc, "%s", why.text);
    *out = known;
    return 0;
}

/* ---- all of them ---- */

struct keys {
    struct base_buffer text; /* one a line */
};

static bool keys_visit(void *context, const struct snap_object *object)
{
    struct keys *k = context;
    base_buffer_printf(&k->text, "%s\n", object->key);
    return k->text.failed == 0;
}

static int record_read_key(struct snap_store *store, const char *key, struct snap_name *out, struct base_error *err)
{
    struct base_buffer bytes;
    base_buffer_init(&bytes, SNAP_NAME_BYTES_MAX);
    int rc = store->objects->ops->get(store->objects, key, SNAP_NAME_BYTES_MAX, &bytes, NULL, err);
    if (rc == 0)
        rc = snap_name_decode(bytes.data, bytes.n, out, err);
    base_buffer_done(&bytes);
    return rc;
}

int snap_names_each(struct snap_store *store, bool (*visit)(void *context, const struct snap_name *name), void *context,
                    uint32_t *out_unreadable, struct base_error *err)
{
    struct keys keys;
    uint32_t n_unreadable = 0;
    bool go_on = true;
    base_buffer_init(&keys.text, 16 << 20);
    int rc = store->objects->ops->list(store->objects, "names/", keys_visit, &keys, err);
    if (rc == 0 && keys.text.failed)
        rc = base_fail(err, keys.text.failed, "names in %s: no room for their list", store->name);
    for (char *key = (char *)keys.text.data, *end; rc == 0 && go_on && key && *key; key = end + 1) {
        struct snap_name name;
        struct base_error why = {0};
        end = strchr(key, '\n');
        *end = '\0';
        if (record_read_key(store, key, &name, &why) < 0) {
            if (why.code == ERR_NOTFOUND) /* gone since */
                continue;
            base_log_warn("name not readable", LOG_STR("object", key), LOG_STR("error", why.text));
            n_unreadable++;
        } else if (name.n_versions > 0) {
            go_on = visit(context, &name);
        }
    }
    base_buffer_done(&keys.text);
    if (rc == 0 && out_unreadable)
        *out_unreadable = n_unreadable;
    return rc;
}

/* ---- changes ---- */

static int record_write(struct snap_store *store, struct snap_name *name, const char *etag, struct base_error *err)
{
    char key[SNAP_OBJECT_KEY_MAX + 1];
    struct base_buffer bytes;
    base_buffer_init(&bytes, SNAP_NAME_BYTES_MAX);
    name->revision++;
    int rc = snap_name_key(name->name, key, err);
    if (rc == 0)
        rc = snap_name_encode(name, &bytes, err);
    if (rc == 0)
        rc = store->objects->ops->put(store->objects, key, bytes.data, bytes.n, etag, err);
    base_buffer_done(&bytes);
    return rc;
}

/* One attempt. ERR_AGAIN: somebody else wrote meanwhile. */
static int change_once(struct snap_store *store, const char *name, bool make, snap_names_step *step,
                       const void *context, struct snap_name *out, struct base_error *err)
{
    struct snap_name now = {.next = 1};
    struct base_error why = {0};
    char etag[SNAP_ETAG_MAX] = SNAP_ETAG_NONE;
    int rc = record_read(store, name, &now, etag, &why);
    if (rc == ERR_NOTFOUND && make)
        strcpy(now.name, name); /* checked: it fits */
    else if (rc == ERR_NOTFOUND || (rc == 0 && !make && now.n_versions == 0))
        return base_fail(err, ERR_NOTFOUND, "no name '%s' in %s; rouse snapshot ls shows what there is", name,
                         store->name);
    else if (rc < 0)
        return base_fail(err, rc, "%s", why.text);
    int changed = step(&now, context, err);
    if (changed > 0) {
        rc = record_write(store, &now, etag, err);
        if (rc < 0)
            return rc;
    }
    if (changed >= 0)
        *out = now;
    return changed;
}

static int change(struct snap_store *store, const char *name, bool make, snap_names_step *step, const void *context,
                  struct snap_name *out, struct base_error *err)
{
    int rc = snap_name_check(name, err);
    if (rc < 0)
        return rc;
    rc = ERR_AGAIN;
    for (uint32_t i = 0; rc == ERR_AGAIN && i < ATTEMPTS; i++) {
        if (i > 0)
            base_clock_sleep_ms(base_clock_backoff_ms(i - 1, BACKOFF_MS, BACKOFF_MS_MAX));
        rc = change_once(store, name, make, step, context, out, err);
    }
    return rc;
}

int snap_names_change(struct snap_store *store, const char *name, bool make, snap_names_step *step, const void *context,
                      struct snap_name *out, struct base_error *err)
{
    struct snap_name now;
    int rc = change(store, name, make, step, context, &now, err);
    if (rc > 0)
        snap_names_tell(store, &now);
    if (rc >= 0 && out)
        *out = now;
    return rc;
}

void snap_names_tell(struct snap_store *store, const struct snap_name *name)
{
    struct base_error err = {0};
    if (store->redis && snap_index_redis_name_put(store->redis, name, false, &err) < 0)
        base_log_warn("Redis not told of a name; workers that ask it first see the old state until it is told",
                      LOG_STR("name", name->name), LOG_STR("error", err.text),
                      LOG_STR("then", "rouse snapshot reindex"));
}

static int step_add(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_add(name, context, err);
}

int snap_names_add(struct snap_store *store, const char *name, const struct snap_version *made, struct snap_name *out,
                   struct base_error *err)
{
    return change(store, name, true, step_add, made, out, err);
}
