/* The index as small files in the store, each published by rename:
 *
 *   index/models/<128 bits of selector and env>   "id <hex>\n"
 *   index/files/<identity>                        "digest <hex>\ndtype f16\n"
 *   index/records/<id>                            snapshot-record/1
 *
 * A file that cannot be parsed counts as missing: the next put overwrites it. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "snapshot/snap_index.h"

enum { FILE_BYTES_MAX = 4096, KEY_MAX = 80 };

struct index_file {
    struct snap_index base;
    char *dir; /* <store>/index */
};

static struct index_file *file_of(struct snap_index *ix)
{
    return (struct index_file *)ix;
}

static int entry_path(const struct index_file *ix, const char *folder, const char *key, char out[PATH_MAX],
                      struct base_error *err)
{
    int n = snprintf(out, PATH_MAX, "%s/%s%s%s", ix->dir, folder, key[0] ? "/" : "", key);
    return n < 0 || n >= PATH_MAX ? base_fail(err, ERR_INPUT, "index %s: the path is too long", ix->dir) : 0;
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

/* out is "" when there is no such file, or one that cannot be an entry. */
static int entry_read(const struct index_file *ix, const char *folder, const char *key, struct base_buffer *out,
                      struct base_error *err)
{
    char path[PATH_MAX];
    int rc = entry_path(ix, folder, key, path, err);
    if (rc < 0)
        return rc;
    base_buffer_clear(out);
    rc = base_file_read(path, FILE_BYTES_MAX, out, err);
    if (rc == ERR_NOTFOUND || rc == ERR_INPUT) {
        base_buffer_clear(out);
        return 0;
    }
    return rc;
}

static int entry_write(const struct index_file *ix, const char *folder, const char *key, const void *bytes, size_t n,
                       struct base_error *err)
{
    char path[PATH_MAX];
    int rc = entry_path(ix, folder, "", path, err);
    if (rc == 0)
        rc = base_file_make_dirs(path, err);
    if (rc == 0)
        rc = entry_path(ix, folder, key, path, err);
    return rc < 0 ? rc : base_file_publish(path, bytes, n, err);
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

static int file_record(struct snap_index *base, const char *id, struct schema_snapshot_record *out_record,
                       struct base_error *err)
{
    struct base_buffer text;
    base_buffer_init(&text, FILE_BYTES_MAX);
    int rc = entry_read(file_of(base), "records", id, &text, err);
    if (rc == 0 && text.n == 0)
        rc = base_fail(err, ERR_NOTFOUND, "index %s: no record of %s", file_of(base)->dir, id);
    if (rc == 0)
        rc = schema_snapshot_record_decode(text.data, text.n, out_record, err);
    base_buffer_done(&text);
    return rc;
}

/* out_id stays "" when nothing is known. */
static int find_id(const struct index_file *ix, const struct snap_index_query *q, const char *env,
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

static int file_find(struct snap_index *base, const struct snap_index_query *q, struct snap_index_entry *out_entry,
                     struct base_error *err)
{
    struct snap_index_entry entry = {.id = ""};
    struct base_buffer text;
    base_buffer_init(&text, FILE_BYTES_MAX);
    int rc = find_id(file_of(base), q, q->env, &text, entry.id, err);
    if (rc == 0 && entry.id[0] == '\0' && q->env_host)
        rc = find_id(file_of(base), q, q->env_host, &text, entry.id, err);
    if (rc == 0 && q->files[0]) {
        rc = entry_read(file_of(base), "files", q->files, &text, err);
        if (rc == 0)
            parse_files(base_buffer_cstr(&text), &entry);
    }
    base_buffer_done(&text);
    if (rc < 0)
        return rc;
    if (entry.id[0])
        entry.has_record = file_record(base, entry.id, &entry.record, NULL) == 0;
    *out_entry = entry;
    return 0;
}

static int put_id(struct index_file *ix, const struct snap_index_query *q, const char *id, struct base_error *err)
{
    char key[SNAP_ID_CHARS + 1], text[SNAP_ID_CHARS + 8];
    int rc = model_key(q, q->env, key, err);
    if (rc < 0)
        return rc;
    int n = snprintf(text, sizeof(text), "id %s\n", id);
    return entry_write(ix, "models", key, text, (size_t)n, err);
}

static int put_files(struct index_file *ix, const struct snap_index_change *c, struct base_error *err)
{
    char text[KEY_MAX + 32];
    int n = snprintf(text, sizeof(text), "digest %.64s\ndtype %.7s\n", c->model_digest, c->file_dtype);
    return entry_write(ix, "files", c->files, text, (size_t)n, err);
}

static int put_record(struct index_file *ix, const struct schema_snapshot_record *record, struct base_error *err)
{
    struct base_buffer bytes;
    base_buffer_init(&bytes, FILE_BYTES_MAX);
    int rc = schema_snapshot_record_encode(record, &bytes, err);
    if (rc == 0)
        rc = entry_write(ix, "records", record->id, bytes.data, bytes.n, err);
    base_buffer_done(&bytes);
    return rc;
}

/* The record first: whoever finds the id by name finds what it leads to. */
static int file_put(struct snap_index *base, const struct snap_index_change *c, struct base_error *err)
{
    struct index_file *ix = file_of(base);
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

/* All entries of a folder that lead to id: looked for one by one, for this is not on the way of a start that succeeds. */
static int drop_ids(struct index_file *ix, const char *id, struct base_error *err)
{
    char dir[PATH_MAX], path[PATH_MAX];
    int rc = entry_path(ix, "models", "", dir, err);
    DIR *d = rc == 0 ? opendir(dir) : NULL;
    if (!d)
        return rc;
    struct base_buffer text;
    base_buffer_init(&text, FILE_BYTES_MAX);
    for (struct dirent *e; (e = readdir(d));) {
        char found[SNAP_ID_CHARS + 1] = "";
        if (!snap_is_hex(e->d_name, SNAP_ID_CHARS) || entry_read(ix, "models", e->d_name, &text, NULL) < 0)
            continue;
        parse_id(base_buffer_cstr(&text), found);
        if (strcmp(found, id) == 0 && entry_path(ix, "models", e->d_name, path, NULL) == 0 && unlink(path) < 0 &&
            errno != ENOENT)
            rc = base_fail_errno(err, "remove %s", path);
    }
    base_buffer_done(&text);
    closedir(d);
    return rc;
}

static int file_drop(struct snap_index *base, const char *id, const struct snap_index_query *q, struct base_error *err)
{
    (void)q; /* everything that leads to the id is looked for */
    struct index_file *ix = file_of(base);
    char path[PATH_MAX];
    int rc = entry_path(ix, "records", id, path, err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = base_fail_errno(err, "remove %s", path);
    int ids = drop_ids(ix, id, err);
    return rc < 0 ? rc : ids;
}

static void file_close(struct snap_index *base)
{
    struct index_file *ix = file_of(base);
    free(ix->dir);
    free(ix);
}

static const struct snap_index_ops file_ops = {file_find, file_record, file_put, file_drop, file_close};

int snap_index_file_open(const char *store_dir, struct snap_index **out_index, struct base_error *err)
{
    struct index_file *ix = calloc(1, sizeof(*ix));
    if (!ix || asprintf(&ix->dir, "%s/index", store_dir) < 0) {
        free(ix);
        return base_fail(err, ERR_NOMEM, "index of %s: out of memory", store_dir);
    }
    ix->base.ops = &file_ops;
    ix->base.kind = "files";
    *out_index = &ix->base;
    return 0;
}
