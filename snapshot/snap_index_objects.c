/* The index as small objects of the store (objects.h), the same in a directory and in a bucket:
 *
 *   index/models/<128 bits of selector and env>   "id <hex>\n"
 *   index/files/<identity>                        "digest <hex>\ndtype f16\n"
 *   index/records/<id>                            snapshot-record/1
 *
 * An object that cannot be parsed counts as missing: the next put overwrites it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/snap_index.h"

enum { ENTRY_BYTES_MAX = 4096, TEXT_MAX = 80 };

#define MODELS "index/models/"

struct index_objects {
    struct snap_index base;
    struct snap_objects *objects; /* borrowed */
};

static struct index_objects *index_of(struct snap_index *ix)
{
    return (struct index_objects *)ix;
}

static void entry_key(const char *folder, const char *key, char out[SNAP_OBJECT_KEY_MAX + 1])
{
    snprintf(out, SNAP_OBJECT_KEY_MAX + 1, "index/%s/%s", folder, key);
}

static int model_key(const struct snap_index_query *q, const char *env, char out[SNAP_ID_CHARS + 1],
                     struct base_error *err)
{
    char selector[SNAP_SELECTOR_MAX], text[SNAP_SELECTOR_MAX + SNAP_ID_CHARS + 2];
    int rc = snap_index_selector(q, selector, err);
    if (rc < 0)
        return rc;
    int n = snprintf(text, sizeof(text), "%s\n%s", selector, env);
    return snap_digest_id(text, (size_t)n, out, err);
}

/* out is "" when there is no such object, or one that cannot be an entry. */
static int entry_read(const struct index_objects *ix, const char *folder, const char *key, struct base_buffer *out,
                      struct base_error *err)
{
    char object[SNAP_OBJECT_KEY_MAX + 1];
    struct base_error why = {0};
    entry_key(folder, key, object);
    base_buffer_clear(out);
    int rc = ix->objects->ops->get(ix->objects, object, ENTRY_BYTES_MAX, out, NULL, &why);
    if (rc == ERR_NOTFOUND || rc == ERR_INPUT) {
        base_buffer_clear(out);
        return 0;
    }
    return rc < 0 ? base_fail(err, rc, "%s", why.text) : 0;
}

static int entry_write(const struct index_objects *ix, const char *folder, const char *key, const void *bytes, size_t n,
                       struct base_error *err)
{
    char object[SNAP_OBJECT_KEY_MAX + 1];
    entry_key(folder, key, object);
    return ix->objects->ops->put(ix->objects, object, bytes, n, NULL, err);
}

static int entry_remove(const struct index_objects *ix, const char *folder, const char *key, struct base_error *err)
{
    char object[SNAP_OBJECT_KEY_MAX + 1];
    entry_key(folder, key, object);
    return ix->objects->ops->remove(ix->objects, object, err);
}

/* "field value\n" at *text: copies the value, steps over the line. False leaves out alone. */
static bool take_line(const char **text, const char *field, char *out, size_t size)
{
    size_t n_field = strlen(field);
    if (strncmp(*text, field, n_field) != 0 || (*text)[n_field] != ' ')
        return false;
    const char *value = *text + n_field + 1;
    size_t n = strcspn(value, "\n");
    if (value[n] != '\n' || n == 0 || n >= size)
        return false;
    memcpy(out, value, n);
    out[n] = '\0';
    *text = value + n + 1;
    return true;
}

static void parse_id(const char *text, char out_id[SNAP_ID_CHARS + 1])
{
    char id[SNAP_ID_CHARS + 1];
    if (take_line(&text, "id", id, sizeof(id)) && snap_is_hex(id, SNAP_ID_CHARS))
        memcpy(out_id, id, sizeof(id));
}

static void parse_files(const char *text, struct snap_index_entry *entry)
{
    char digest[SNAP_SHA256_CHARS + 1], dtype[8];
    if (!take_line(&text, "digest", digest, sizeof(digest)) || !snap_is_hex(digest, SNAP_SHA256_CHARS) ||
        !take_line(&text, "dtype", dtype, sizeof(dtype)))
        return;
    memcpy(entry->model_digest, digest, sizeof(digest));
    memcpy(entry->file_dtype, dtype, sizeof(dtype));
}

static int objects_record(struct snap_index *base, const char *id, struct schema_snapshot_record *out_record,
                          struct base_error *err)
{
    struct base_buffer text;
    base_buffer_init(&text, ENTRY_BYTES_MAX);
    int rc = entry_read(index_of(base), "records", id, &text, err);
    if (rc == 0 && text.n == 0)
        rc = base_fail(err, ERR_NOTFOUND, "index: no record of %s", id);
    if (rc == 0)
        rc = schema_snapshot_record_decode(text.data, text.n, out_record, err);
    base_buffer_done(&text);
    return rc;
}

/* out_id stays "" when nothing is known. */
static int find_id(const struct index_objects *ix, const struct snap_index_query *q, const char *env,
                   struct base_buffer *text, char out_id[SNAP_ID_CHARS + 1], struct base_error *err)
{
    char key[SNAP_ID_CHARS + 1];
    int rc = model_key(q, env, key, err);
    if (rc == 0)
        rc = entry_read(ix, "models", key, text, err);
    if (rc == 0)
        parse_id(base_buffer_cstr(text), out_id);
    return rc;
}

static int objects_find(struct snap_index *base, const struct snap_index_query *q, struct snap_index_entry *out_entry,
                        struct base_error *err)
{
    struct snap_index_entry entry = {.id = ""};
    struct base_buffer text;
    base_buffer_init(&text, ENTRY_BYTES_MAX);
    int rc = find_id(index_of(base), q, q->env, &text, entry.id, err);
    if (rc == 0 && entry.id[0] == '\0' && q->env_host)
        rc = find_id(index_of(base), q, q->env_host, &text, entry.id, err);
    if (rc == 0 && q->files[0]) {
        rc = entry_read(index_of(base), "files", q->files, &text, err);
        if (rc == 0)
            parse_files(base_buffer_cstr(&text), &entry);
    }
    base_buffer_done(&text);
    base->away = rc == ERR_SERVICE;
    if (rc < 0)
        return rc;
    if (entry.id[0])
        entry.has_record = objects_record(base, entry.id, &entry.record, NULL) == 0;
    *out_entry = entry;
    return 0;
}

static int put_id(struct index_objects *ix, const struct snap_index_query *q, const char *id, struct base_error *err)
{
    char key[SNAP_ID_CHARS + 1], text[SNAP_ID_CHARS + 8];
    int rc = model_key(q, q->env, key, err);
    if (rc < 0)
        return rc;
    int n = snprintf(text, sizeof(text), "id %s\n", id);
    return entry_write(ix, "models", key, text, (size_t)n, err);
}

static int put_files(struct index_objects *ix, const struct snap_index_change *c, struct base_error *err)
{
    char text[TEXT_MAX + 32];
    int n = snprintf(text, sizeof(text), "digest %.64s\ndtype %.7s\n", c->model_digest, c->file_dtype);
    return entry_write(ix, "files", c->files, text, (size_t)n, err);
}

static int put_record(struct index_objects *ix, const struct schema_snapshot_record *record, struct base_error *err)
{
    struct base_buffer bytes;
    base_buffer_init(&bytes, ENTRY_BYTES_MAX);
    int rc = schema_snapshot_record_encode(record, &bytes, err);
    if (rc == 0)
        rc = entry_write(ix, "records", record->id, bytes.data, bytes.n, err);
    base_buffer_done(&bytes);
    return rc;
}

/* The record first: whoever finds the id by name finds what it leads to. */
static int objects_put(struct snap_index *base, const struct snap_index_change *c, struct base_error *err)
{
    struct index_objects *ix = index_of(base);
    int rc = c->record ? put_record(ix, c->record, err) : 0;
    if (rc == 0 && c->files[0])
        rc = put_files(ix, c, err);
    const char *const envs[] = {c->env, c->env_auto};
    for (int i = 0; rc == 0 && c->record && i < 2; i++) {
        const struct snap_index_query by_name = {.name = c->name, .files = "", .env = envs[i]};
        const struct snap_index_query by_files = {.name = "", .files = c->files, .env = envs[i]};
        if (envs[i][0] && c->name[0])
            rc = put_id(ix, &by_name, c->record->id, err);
        if (rc == 0 && envs[i][0] && c->files[0])
            rc = put_id(ix, &by_files, c->record->id, err);
    }
    return rc;
}

struct drop {
    struct index_objects *ix;
    const char *id;
    struct base_buffer text;
    int rc;
    struct base_error *err;
};

static bool drop_visit(void *context, const struct snap_object *object)
{
    struct drop *d = context;
    const char *key = object->key + strlen(MODELS);
    char found[SNAP_ID_CHARS + 1] = "";
    if (!snap_is_hex(key, SNAP_ID_CHARS) || entry_read(d->ix, "models", key, &d->text, NULL) < 0)
        return true;
    parse_id(base_buffer_cstr(&d->text), found);
    if (strcmp(found, d->id) == 0)
        d->rc = entry_remove(d->ix, "models", key, d->err);
    return d->rc == 0;
}

/* All entries that lead to id: looked for one by one, for this is not on the way of a start that succeeds. */
static int drop_ids(struct index_objects *ix, const char *id, struct base_error *err)
{
    struct drop d = {.ix = ix, .id = id, .err = err};
    base_buffer_init(&d.text, ENTRY_BYTES_MAX);
    int rc = ix->objects->ops->list(ix->objects, MODELS, drop_visit, &d, err);
    base_buffer_done(&d.text);
    return rc < 0 ? rc : d.rc;
}

static int objects_drop(struct snap_index *base, const char *id, const struct snap_index_query *q,
                        struct base_error *err)
{
    (void)q; /* everything that leads to the id is looked for */
    struct index_objects *ix = index_of(base);
    int rc = entry_remove(ix, "records", id, err);
    int ids = drop_ids(ix, id, err);
    return rc < 0 ? rc : ids;
}

static void objects_close(struct snap_index *base)
{
    free(base);
}

static const struct snap_index_ops objects_ops = {objects_find, objects_record, objects_put, objects_drop,
                                                  objects_close};

int snap_index_objects_open(struct snap_objects *objects, struct snap_index **out_index, struct base_error *err)
{
    struct index_objects *ix = calloc(1, sizeof(*ix));
    if (!ix)
        return base_fail(err, ERR_NOMEM, "index of the store: out of memory");
    ix->base.ops = &objects_ops;
    ix->base.kind = "files";
    ix->objects = objects;
    *out_index = &ix->base;
    return 0;
}
