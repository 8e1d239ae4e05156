#include "snapshot/admin.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "snapshot/snap_restore.h"
#include "snapshot/snap_store.h"

enum { PREFIX_CHARS_MIN = 4 };

int snap_store_record_of_file(const char *path, const char *file_name, struct schema_snapshot_record *out,
                              struct base_error *err)
{
    struct snap_file *f = NULL;
    int rc = snap_file_open(path, &f, err);
    if (rc < 0) {
        base_fail_in(err, "snapshot %s", path);
        return rc;
    }
    snap_file_record(f, file_name, out);
    snap_file_close(f);
    return 0;
}

int snap_store_record_of_item(struct snap_store *store, const struct snap_store_item *item,
                              struct schema_snapshot_record *out, struct base_error *err)
{
    struct snap_file *f = NULL;
    int rc = snap_store_open_item(store, item, &f, err);
    if (rc < 0) {
        base_fail_in(err, "snapshot %s/%s", item->remote ? store->name : store->dir, item->file);
        return rc;
    }
    snap_file_record(f, item->file, out);
    snap_file_close(f);
    return 0;
}

int snap_store_record_of_id(struct snap_store *store, const char *id, struct schema_snapshot_record *out,
                            struct base_error *err)
{
    char name[SNAP_ID_CHARS + 8];
    struct snap_store_item item;
    snprintf(name, sizeof(name), "%.32s.snap", id);
    snap_store_item_of(store, id, name, &item);
    return snap_store_record_of_item(store, &item, out, err);
}

/* ---- list ---- */

struct list {
    struct snap_store *store;
    struct schema_snapshot_record *records;
    size_t n, capacity;
    bool failed;
};

/* What can be said of a file that does not open: its name, size and time. */
static void record_unreadable(const struct snap_store_item *item, const struct stat *st, const char *why,
                              struct schema_snapshot_record *out)
{
    *out = (struct schema_snapshot_record){
        .state = item->state, .bytes = (uint64_t)st->st_size, .created_ms = (int64_t)st->st_mtime * 1000};
    memcpy(out->id, item->id, sizeof(out->id));
    snprintf(out->file, sizeof(out->file), "%s", item->file);
    snprintf(out->reason, sizeof(out->reason), "%.255s", why);
}

/* A temporary whose lock is free has no builder any more: the next build removes it. */
static bool is_being_built(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool free_lock = flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    return !free_lock;
}

static void list_reason(const struct list *l, const struct snap_store_item *item, struct schema_snapshot_record *out)
{
    struct schema_snapshot_record known;
    struct snap_index *index = l->store->indexes[SNAP_STORE_FILES];
    if (item->state == SCHEMA_SNAPSHOT_QUARANTINED && index->ops->record(index, item->id, &known, NULL) == 0)
        memcpy(out->reason, known.reason, sizeof(out->reason));
}

/* The record in the bucket's index says it with one request; the object itself takes two. */
static void list_describe_remote(const struct list *l, const struct snap_store_item *item,
                                 struct schema_snapshot_record *out)
{
    struct base_error err = {0};
    struct snap_index *index = l->store->indexes[SNAP_STORE_FILES];
    if (index->ops->record(index, item->id, out, NULL) < 0 &&
        snap_store_record_of_item(l->store, item, out, &err) < 0) {
        const struct stat st = {.st_size = (off_t)item->bytes, .st_mtime = item->modified_ms / 1000};
        record_unreadable(item, &st, err.text, out);
        return;
    }
    out->state = item->state;
    snprintf(out->file, sizeof(out->file), "%s", item->file);
    list_reason(l, item, out);
}

static bool list_describe(const struct list *l, const struct snap_store_item *item, struct schema_snapshot_record *out)
{
    struct base_error err = {0};
    struct stat st;
    char path[PATH_MAX];
    if (item->remote) {
        list_describe_remote(l, item, out);
        return true;
    }
    if (snprintf(path, sizeof(path), "%s/%s", l->store->dir, item->file) >= PATH_MAX || stat(path, &st) < 0)
        return false;
    if (item->state == SCHEMA_SNAPSHOT_BUILDING) {
        record_unreadable(item, &st, "", out);
        return is_being_built(path);
    }
    if (snap_store_record_of_file(path, item->file, out, &err) < 0) {
        record_unreadable(item, &st, err.text, out);
        return true;
    }
    out->state = item->state;
    list_reason(l, item, out);
    return true;
}

static bool list_visit(void *context, const struct snap_store_item *item)
{
    struct list *l = context;
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? 2 * l->capacity : 16;
        void *more = realloc(l->records, capacity * sizeof(*l->records));
        if (!more) {
            l->failed = true;
            return false;
        }
        l->records = more;
        l->capacity = capacity;
    }
    if (list_describe(l, item, &l->records[l->n]))
        l->n++;
    return true;
}

static int newest_first(const void *a, const void *b)
{
    const struct schema_snapshot_record *x = a, *y = b;
    if (x->created_ms != y->created_ms)
        return x->created_ms < y->created_ms ? 1 : -1;
    return strcmp(x->file, y->file);
}

int snap_admin_list(struct snap_store *store, struct schema_snapshot_record **out_records, size_t *out_n,
                    struct base_error *err)
{
    struct list l = {.store = store};
    int rc = snap_store_each(store, list_visit, &l, err);
    if (rc == 0 && l.failed)
        rc = base_fail(err, ERR_NOMEM, "list store %s: out of memory", store->name);
    if (rc < 0) {
        free(l.records);
        return rc;
    }
    if (l.n > 1)
        qsort(l.records, l.n, sizeof(*l.records), newest_first);
    *out_records = l.records;
    *out_n = l.n;
    return 0;
}

/* ---- find ---- */

/* The first of the records (newest first) that the predicate takes; one that is ready before others. */
typedef bool record_match(const struct schema_snapshot_record *r, const char *which);

static bool match_id(const struct schema_snapshot_record *r, const char *which)
{
    return strcmp(r->id, which) == 0;
}

static bool match_name(const struct schema_snapshot_record *r, const char *which)
{
    return r->name[0] && strcmp(r->name, which) == 0;
}

static bool match_prefix(const struct schema_snapshot_record *r, const char *which)
{
    return strncmp(r->id, which, strlen(which)) == 0;
}

static const struct schema_snapshot_record *find_best(const struct schema_snapshot_record *records, size_t n,
                                                      record_match *match, const char *which)
{
    const struct schema_snapshot_record *best = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!match(&records[i], which))
            continue;
        if (!best || (best->state != SCHEMA_SNAPSHOT_READY && records[i].state == SCHEMA_SNAPSHOT_READY))
            best = &records[i];
    }
    return best;
}

static bool prefix_is_unique(const struct schema_snapshot_record *records, size_t n, const char *which, const char *id)
{
    for (size_t i = 0; i < n; i++) {
        if (match_prefix(&records[i], which) && strcmp(records[i].id, id) != 0)
            return false;
    }
    return true;
}

static int find_in(const struct snap_store *store, const struct schema_snapshot_record *records, size_t n,
                   const char *which, struct schema_snapshot_record *out, struct base_error *err)
{
    const struct schema_snapshot_record *r = find_best(records, n, match_id, which);
    if (!r)
        r = find_best(records, n, match_name, which);
    if (!r && strlen(which) >= PREFIX_CHARS_MIN) {
        r = find_best(records, n, match_prefix, which);
        if (r && !prefix_is_unique(records, n, which, r->id))
            return base_fail(err, ERR_USAGE, "'%s' is the beginning of more than one id", which);
    }
    if (!r)
        return base_fail(err, ERR_NOTFOUND, "no snapshot in %s has the id or name '%.120s'", store->name, which);
    *out = *r;
    return 0;
}

static bool match_model(const struct schema_snapshot_record *r, const char *which)
{
    return strcmp(r->model_digest, which) == 0;
}

/* NAME@VERSION. */
static int find_version(struct snap_store *store, const struct schema_snapshot_record *records, size_t n,
                        const char *which, struct schema_snapshot_record *out, struct base_error *err)
{
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1];
    struct snap_name known;
    int rc = snap_ref_parse(which, name, version, err);
    if (rc == 0)
        rc = snap_names_get(store, name, &known, err);
    if (rc < 0)
        return rc;
    const struct snap_version *v = snap_name_find(&known, version);
    const struct schema_snapshot_record *r = v ? find_best(records, n, match_model, v->model_digest) : NULL;
    if (!r)
        return base_fail(err, ERR_NOTFOUND, v ? "no snapshot of '%.170s' is in %s" : "no version '%.170s' in %s", which,
                         store->name);
    *out = *r;
    return 0;
}

static bool is_path(const char *which)
{
    size_t n = strlen(which);
    return strchr(which, '/') || (n > 5 && strcmp(which + n - 5, ".snap") == 0);
}

int snap_store_resolve(struct snap_store *store, const char *which, struct schema_snapshot_record *out,
                       char path[PATH_MAX], struct base_error *err)
{
    if (is_path(which) && base_file_exists(which)) {
        snprintf(path, PATH_MAX, "%s", which);
        return snap_store_record_of_file(which, which, out, err);
    }
    struct schema_snapshot_record *records = NULL;
    size_t n = 0;
    int rc = snap_admin_list(store, &records, &n, err);
    if (rc == 0)
        rc = strchr(which, '@') ? find_version(store, records, n, which, out, err)
                                : find_in(store, records, n, which, out, err);
    free(records);
    return rc < 0 ? rc : base_file_join(path, PATH_MAX, store->dir, out->file, err);
}

int snap_store_resolve_here(struct snap_store *store, const char *which, struct schema_snapshot_record *out,
                            char path[PATH_MAX], struct base_error *err)
{
    int fd = -1, rc = snap_store_resolve(store, which, out, path, err);
    bool fresh;
    if (rc < 0 || !store->s3 || is_path(which) || base_file_exists(path))
        return rc;
    rc = snap_store_bring(store, out->id, true, &fd, &fresh, err);
    if (fd >= 0)
        close(fd);
    return rc < 0 ? rc : snap_store_path(store, out->id, path, err);
}

int snap_admin_find(struct snap_store *store, const char *which, struct schema_snapshot_record *out_record,
                    struct base_error *err)
{
    char path[PATH_MAX];
    return snap_store_resolve(store, which, out_record, path, err);
}
