#include "snapshot/snap_bucket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "snapshot/events.h"
#include "snapshot/node_cache.h"
#include "snapshot/s3_client.h"
#include "snapshot/s3_upload.h"
#include "snapshot/snap_fetch.h"

enum {
    DRAW_MS = 100,
    BRING_TRIES = 3,
    REASON_BYTES_MAX = 4096,
    STALE_UPLOAD_MS = 24 * 3600 * 1000 /* of other snapshots: no builder takes a day for one */
};

#define QUARANTINE "quarantine/"

static void object_key(const char *id, char out[SNAP_ID_CHARS + 8])
{
    snprintf(out, SNAP_ID_CHARS + 8, "%.32s.snap", id);
}

static void quarantine_key(const char *id, char out[SNAP_ID_CHARS + 16])
{
    snprintf(out, SNAP_ID_CHARS + 16, QUARANTINE "%.32s", id);
}

/* ERR_NOTFOUND: it is not quarantined. */
static int quarantine_reason(const struct snap_store *store, const char *id, struct base_buffer *out,
                             struct base_error *err)
{
    char key[SNAP_ID_CHARS + 16];
    quarantine_key(id, key);
    return store->objects->ops->get(store->objects, key, REASON_BYTES_MAX, out, NULL, err);
}

bool snap_bucket_has(const struct snap_store *store, const char *id)
{
    char key[SNAP_ID_CHARS + 8];
    struct base_buffer reason;
    object_key(id, key);
    const struct s3_request head = {.method = "HEAD", .key = key};
    if (s3_request(store->s3, &head, NULL, NULL) < 0)
        return false;
    base_buffer_init(&reason, REASON_BYTES_MAX);
    bool quarantined = quarantine_reason(store, id, &reason, NULL) == 0;
    base_buffer_done(&reason);
    return !quarantined;
}

/* ---- bring ---- */

static int quarantined(const struct snap_store *store, const char *id, struct base_error *err)
{
    struct base_buffer reason;
    base_buffer_init(&reason, REASON_BYTES_MAX);
    int rc = quarantine_reason(store, id, &reason, NULL);
    if (rc == 0) {
        size_t n = strcspn(base_buffer_cstr(&reason), "\n");
        rc = base_fail(err, ERR_NOTFOUND, "snapshot %s is quarantined in %s: %.*s", id, store->name, (int)n,
                       base_buffer_cstr(&reason));
    } else {
        rc = 0; /* what else is wrong, the fetch says */
    }
    base_buffer_done(&reason);
    return rc;
}

static int wait_whole(struct snap_fetch *f, bool progress, struct base_error *err)
{
    struct base_progress bar = {.on = false};
    uint64_t total = snap_fetch_layout(f)->file_bytes;
    if (progress && !snap_fetch_was_there(f))
        base_progress_begin(&bar, "fetching snapshot", "B", total);
    int rc;
    while ((rc = snap_fetch_wait_ms(f, total, DRAW_MS, err)) > 0)
        base_progress_set(&bar, snap_fetch_arrived(f));
    base_progress_end(&bar);
    return rc;
}

static int bring_once(struct snap_store *store, const char *id, bool progress, int *out_fd, bool *out_fresh,
                      struct base_error *err)
{
    struct snap_fetch *f = NULL;
    int fd = -1, rc = node_cache_is_copy(store->dir, id) ? 0 : quarantined(store, id, err);
    if (rc == 0)
        rc = snap_fetch_begin(store, id, &f, err);
    if (rc == 0)
        rc = wait_whole(f, progress, err);
    bool fresh = f && !snap_fetch_was_there(f);
    if (rc == 0 && (fd = dup(snap_fetch_fd(f))) < 0)
        rc = base_fail_errno(err, "snapshot %s", id);
    int end = snap_fetch_end(f, rc < 0, rc < 0 ? NULL : err);
    if (rc == 0)
        rc = end;
    if (rc < 0) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *out_fd = fd;
    *out_fresh = fresh;
    return 0;
}

int snap_store_bring(struct snap_store *store, const char *id, bool progress, int *out_fd, bool *out_fresh,
                     struct base_error *err)
{
    *out_fd = -1;
    *out_fresh = false;
    if (!store->s3)
        return 0;
    int rc = ERR_AGAIN;
    for (int i = 0; rc == ERR_AGAIN && i < BRING_TRIES; i++) /* replaced, or who fetched it gave up */
        rc = bring_once(store, id, progress, out_fd, out_fresh, err);
    return rc;
}

/* ---- publish ---- */

int snap_bucket_send(struct snap_building *b, struct base_error *err)
{
    char key[SNAP_ID_CHARS + 8];
    struct stat st;
    object_key(b->id, key);
    if (fstat(b->fd, &st) < 0)
        return base_fail_errno(err, "%s", b->path);
    /* We hold the lease: what else is under way for this key has a dead builder, or one that lost it. */
    (void)s3_upload_clean(b->store->s3, key, INT64_MAX, NULL);
    int rc = s3_upload_begin(b->store->s3, key, &b->upload, err);
    return rc < 0 ? rc : s3_upload_parts(b->upload, b->fd, (uint64_t)st.st_size, b->progress, err);
}

int snap_bucket_publish(struct snap_building *b, struct base_error *err)
{
    char key[SNAP_ID_CHARS + 16];
    struct s3_upload *upload = b->upload;
    b->upload = NULL;
    int rc = s3_upload_complete(upload, err);
    if (rc < 0)
        return rc;
    quarantine_key(b->id, key);
    (void)b->store->objects->ops->remove(b->store->objects, key, NULL);
    return 0;
}

void snap_bucket_clean(struct snap_store *store)
{
    struct base_error err = {0};
    int n = s3_upload_clean(store->s3, NULL, base_clock_unix_ms() - STALE_UPLOAD_MS, &err);
    if (n > 0)
        base_log_info("unfinished uploads of dead builders ended", LOG_STR("store", store->name),
                      LOG_INT("uploads", n));
}

/* ---- quarantine ---- */

void snap_store_quarantine_object(struct snap_store *store, const char *id, const char *reason)
{
    char key[SNAP_ID_CHARS + 16], text[512];
    struct base_error err = {0};
    if (!store->s3)
        return;
    quarantine_key(id, key);
    int n = snprintf(text, sizeof(text), "%.500s\n", reason);
    int rc = store->objects->ops->put(store->objects, key, text, (size_t)n, NULL, &err);
    base_log_warn("snapshot quarantined", LOG_STR("id", id), LOG_STR("object", key), LOG_STR("store", store->name),
                  LOG_STR("reason", reason), LOG_STR("error", rc < 0 ? err.text : NULL));
    snap_store_record_quarantine(store, id, reason);
    snap_event_tell(store, &(struct snap_event){.what = "quarantined", .id = id, .reason = reason});
}

void snap_bucket_quarantine_reason(struct snap_store *store, const char *id, char out_reason[256])
{
    struct base_buffer reason;
    base_buffer_init(&reason, REASON_BYTES_MAX);
    if (quarantine_reason(store, id, &reason, NULL) == 0) {
        size_t n = strcspn(base_buffer_cstr(&reason), "\n");
        snprintf(out_reason, 256, "%.*s", n < 255 ? (int)n : 255, base_buffer_cstr(&reason));
    }
    base_buffer_done(&reason);
}

/* ---- what is there ---- */

enum { SEEN_MAX = 4096 };

struct each {
    struct snap_store *store;
    snap_store_visit *visit;
    void *context;
    char (*seen)[SNAP_ID_CHARS + 1]; /* [n_seen] ids of the bucket */
    uint64_t *bytes;
    int64_t *modified_ms;
    bool *quarantined;
    size_t n_seen;
    bool answered, stopped;
};

static bool each_object(void *context, const struct s3_item *item)
{
    struct each *e = context;
    char id[SNAP_ID_CHARS + 1];
    if (strlen(item->key) != SNAP_ID_CHARS + 5 || strcmp(item->key + SNAP_ID_CHARS, ".snap") != 0)
        return true;
    snprintf(id, sizeof(id), "%.32s", item->key);
    if (!snap_is_hex(id, SNAP_ID_CHARS))
        return true;
    memcpy(e->seen[e->n_seen], id, sizeof(id));
    e->bytes[e->n_seen] = item->bytes;
    e->modified_ms[e->n_seen++] = item->modified_ms;
    return e->n_seen < SEEN_MAX;
}

static struct each *each_find(struct each *e, const char *id, size_t *out_i)
{
    for (size_t i = 0; i < e->n_seen; i++) {
        if (strcmp(e->seen[i], id) == 0) {
            *out_i = i;
            return e;
        }
    }
    return NULL;
}

static bool each_quarantine(void *context, const struct s3_item *item)
{
    struct each *e = context;
    size_t i;
    if (each_find(e, item->key + strlen(QUARANTINE), &i))
        e->quarantined[i] = true;
    return true;
}

/* A copy is shown for its object; another store's file that lies in the cache is not of this store. */
static bool each_file_visit(void *context, const struct snap_store_item *item)
{
    struct each *e = context;
    size_t i = 0;
    bool known = each_find(e, item->id, &i) != NULL;
    if (item->state == SCHEMA_SNAPSHOT_READY) {
        if (!node_cache_is_copy(e->store->dir, item->id) || (e->answered && (!known || e->quarantined[i])))
            return true;
        if (known)
            e->seen[i][0] = '\0';
    }
    e->stopped = !e->visit(e->context, item);
    return !e->stopped;
}

static void each_remote(struct each *e)
{
    for (size_t i = 0; i < e->n_seen && !e->stopped; i++) {
        char file[SNAP_ID_CHARS + 8];
        struct snap_store_item item = {.file = file,
                                       .state = e->quarantined[i] ? SCHEMA_SNAPSHOT_QUARANTINED : SCHEMA_SNAPSHOT_READY,
                                       .remote = true,
                                       .bytes = e->bytes[i],
                                       .modified_ms = e->modified_ms[i]};
        if (e->seen[i][0] == '\0')
            continue;
        memcpy(item.id, e->seen[i], sizeof(item.id));
        object_key(item.id, file);
        e->stopped = !e->visit(e->context, &item);
    }
}

int snap_bucket_each(struct snap_store *store,
                     int (*files)(struct snap_store *, snap_store_visit *, void *, struct base_error *),
                     snap_store_visit *visit, void *context, struct base_error *err)
{
    struct each e = {.store = store, .visit = visit, .context = context};
    e.seen = calloc(SEEN_MAX, sizeof(*e.seen));
    e.bytes = calloc(SEEN_MAX, sizeof(*e.bytes));
    e.modified_ms = calloc(SEEN_MAX, sizeof(*e.modified_ms));
    e.quarantined = calloc(SEEN_MAX, sizeof(*e.quarantined));
    int rc = 0;
    if (!e.seen || !e.bytes || !e.modified_ms || !e.quarantined)
        rc = base_fail(err, ERR_NOMEM, "list store %s: out of memory", store->name);
    if (rc == 0) {
        int remote = s3_list(store->s3, "", true, each_object, &e, err);
        if (remote == 0)
            remote = s3_list(store->s3, QUARANTINE, true, each_quarantine, &e, err);
        e.answered = remote == 0;
        rc = files(store, each_file_visit, &e, remote == 0 ? err : NULL);
        if (e.answered)
            each_remote(&e);
        if (remote < 0)
            rc = remote;
    }
    free(e.seen);
    free(e.bytes);
    free(e.modified_ms);
    free(e.quarantined);
    return rc;
}

int snap_store_open_item(struct snap_store *store, const struct snap_store_item *item, struct snap_file **out_file,
                         struct base_error *err)
{
    char path[PATH_MAX];
    if (item->remote)
        return snap_fetch_peek(store, item->id, out_file, err);
    int rc = base_file_join(path, sizeof(path), store->dir, item->file, err);
    return rc < 0 ? rc : snap_file_open(path, out_file, err);
}

void snap_store_item_of(const struct snap_store *store, const char *id, const char *file, struct snap_store_item *out)
{
    char path[PATH_MAX];
    *out = (struct snap_store_item){.file = file, .state = SCHEMA_SNAPSHOT_READY};
    snprintf(out->id, sizeof(out->id), "%.32s", id);
    out->remote =
        store->s3 && (base_file_join(path, sizeof(path), store->dir, file, NULL) < 0 || !base_file_exists(path));
}

static int remove_objects(struct snap_store *store, const char *id, struct base_error *err)
{
    char key[SNAP_ID_CHARS + 16];
    object_key(id, key);
    int rc = store->objects->ops->remove(store->objects, key, err);
    quarantine_key(id, key);
    return rc < 0 ? rc : store->objects->ops->remove(store->objects, key, err);
}

int snap_store_remove(struct snap_store *store, const struct snap_store_item *item, struct base_error *err)
{
    char path[PATH_MAX];
    bool copy_only =
        store->s3 && item->state == SCHEMA_SNAPSHOT_QUARANTINED && !item->remote; /* set aside here alone */
    int rc = store->s3 && !copy_only ? remove_objects(store, item->id, err) : 0;
    if (rc == 0)
        rc = base_file_join(path, sizeof(path), store->dir, item->file, err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = base_fail_errno(err, "remove %s", path);
    if (rc == 0 && store->s3 && !copy_only)
        node_cache_drop(store->dir, item->id);
    return rc < 0 ? rc : base_file_fsync_parent(path, err);
}
