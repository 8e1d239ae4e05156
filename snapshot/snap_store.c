#include "snapshot/snap_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshot/events.h"
#include "snapshot/node_cache.h"
#include "snapshot/objects_s3.h"
#include "snapshot/s3_upload.h"
#include "snapshot/snap_bucket.h"

#define SUFFIX             ".snap"
#define SUFFIX_QUARANTINED ".quarantined.snap"
#define SUFFIX_BUILDING    ".building"

enum {
    RANDOM_CHARS = 16,
    /* Temporaries of index and objects are written in one go; an hour later their writer is gone. */
    STALE_TEMPORARY_S = 3600
};

/* Where copies go when nobody says. */
static int default_cache(char out[PATH_MAX], struct base_error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (cache && cache[0] == '/')
        n = snprintf(out, PATH_MAX, "%s/rouse", cache);
    else if (home && home[0] == '/')
        n = snprintf(out, PATH_MAX, "%s/.cache/rouse", home);
    return n > 0 && n < PATH_MAX
               ? 0
               : base_fail(err, ERR_USAGE, "no place for copies of snapshots: give --cache DIR, or set HOME");
}

static int open_dir(struct snap_store *s, const char *dir, struct base_error *err)
{
    s->dir = strdup(dir);
    s->name = strdup(dir);
    if (!s->dir || !s->name)
        return base_fail(err, ERR_NOMEM, "store %s: out of memory", dir);
    return snap_objects_dir_open(dir, &s->objects, err);
}

static int open_bucket(struct snap_store *s, const struct snap_start_options *o, struct base_error *err)
{
    char cache[PATH_MAX];
    int rc = s3_client_open(o->store, &s->s3, err);
    if (rc == 0 && !(o->cache && o->cache[0]))
        rc = default_cache(cache, err);
    if (rc < 0)
        return rc;
    s->dir = strdup(o->cache && o->cache[0] ? o->cache : cache);
    s->name = strdup(s3_client_url(s->s3));
    s->cache_bytes = o->cache_bytes;
    if (!s->dir || !s->name)
        return base_fail(err, ERR_NOMEM, "store %s: out of memory", o->store);
    return snap_objects_s3_open(s->s3, &s->objects, err);
}

int snap_store_open_with(const struct snap_start_options *options, struct snap_store **out_store,
                         struct base_error *err)
{
    struct snap_store *s = calloc(1, sizeof(*s));
    bool bucket = strncmp(options->store, "s3://", 5) == 0;
    if (!s)
        return base_fail(err, ERR_NOMEM, "store %s: out of memory", options->store);
    int rc = options->redis && options->redis[0] ? snap_redis_open(options->redis, &s->redis, err) : 0;
    if (rc == 0)
        rc = bucket ? open_bucket(s, options, err) : open_dir(s, options->store, err);
    if (rc == 0)
        rc = base_file_make_dirs(s->dir, err);
    if (rc == 0 && s->redis)
        rc = snap_index_redis_open(s->redis, &s->indexes[SNAP_STORE_REDIS], err);
    if (rc == 0)
        rc = snap_index_objects_open(s->objects, &s->indexes[SNAP_STORE_FILES], err);
    if (rc < 0) {
        snap_store_close(s);
        return rc;
    }
    *out_store = s;
    return 0;
}

int snap_store_open(const char *store, const char *redis, struct snap_store **out_store, struct base_error *err)
{
    const struct snap_start_options options = {.store = store, .redis = redis};
    return snap_store_open_with(&options, out_store, err);
}

void snap_store_close(struct snap_store *store)
{
    if (!store)
        return;
    for (int i = 0; i < SNAP_STORE_INDEXES; i++) {
        if (store->indexes[i])
            store->indexes[i]->ops->close(store->indexes[i]);
    }
    if (store->objects)
        store->objects->ops->close(store->objects);
    s3_client_close(store->s3);
    snap_redis_close(store->redis);
    free(store->dir);
    free(store->name);
    free(store);
}

static int store_join(const struct snap_store *store, char out[PATH_MAX], struct base_error *err, const char *id,
                      const char *suffix)
{
    int n = snprintf(out, PATH_MAX, "%s/%s%s", store->dir, id, suffix);
    return n < 0 || n >= PATH_MAX ? base_fail(err, ERR_USAGE, "store %s: the path is too long", store->dir) : 0;
}

int snap_store_path(const struct snap_store *store, const char *id, char out[PATH_MAX], struct base_error *err)
{
    return store_join(store, out, err, id, SUFFIX);
}

bool snap_store_has(const struct snap_store *store, const char *id)
{
    char path[PATH_MAX];
    if (!snap_is_hex(id, SNAP_ID_CHARS) || snap_store_path(store, id, path, NULL) < 0)
        return false;
    if (!store->s3)
        return base_file_exists(path);
    /* What lies in the cache's directory without being a copy is another store's: the bucket may not have it. */
    return (node_cache_is_copy(store->dir, id) && base_file_exists(path)) || snap_bucket_has(store, id);
}

/* ---- the indexes ---- */

/* Once per store: a worker that starts with Redis away says so in one line, not with every question. */
static void index_failed(struct snap_index *ix, const char *doing, const struct base_error *err)
{
    if (ix->said)
        return;
    ix->said = true;
    base_log_warn("snapshot index failed, going on without it", LOG_STR("index", ix->kind), LOG_STR("doing", doing),
                  LOG_STR("error", err->text));
}

bool snap_store_find(struct snap_store *store, int index, const struct snap_index_query *q,
                     struct snap_index_entry *out)
{
    struct base_error err = {0};
    struct snap_index *ix = store->indexes[index];
    if (!ix)
        return false;
    if (ix->ops->find(ix, q, out, &err) < 0) {
        index_failed(ix, "find", &err);
        return false;
    }
    return out->id[0] || out->model_digest[0];
}

bool snap_store_index_away(const struct snap_store *store, int index)
{
    return store->indexes[index] && store->indexes[index]->away;
}

void snap_store_put(struct snap_store *store, const struct snap_index_change *change, unsigned which)
{
    for (int i = 0; i < SNAP_STORE_INDEXES; i++) {
        struct base_error err = {0};
        struct snap_index *ix = store->indexes[i];
        if (ix && (which >> i & 1) && ix->ops->put(ix, change, &err) < 0)
            index_failed(ix, "record", &err);
    }
}

void snap_store_drop(struct snap_store *store, const char *id, const struct snap_index_query *q)
{
    for (int i = 0; i < SNAP_STORE_INDEXES; i++) {
        struct base_error err = {0};
        struct snap_index *ix = store->indexes[i];
        if (ix && ix->ops->drop(ix, id, q, &err) < 0)
            index_failed(ix, "forget", &err);
    }
}

/* ---- building ---- */

int snap_store_building_path(const struct snap_store *store, const char *id, char out[PATH_MAX], struct base_error *err)
{
    char suffix[40];
    uint64_t random = base_clock_mono_ns();
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    snprintf(suffix, sizeof(suffix), ".%016" PRIx64 SUFFIX_BUILDING, random);
    return store_join(store, out, err, id, suffix);
}

static int building_create(struct snap_store *store, const char *id, struct snap_building *b, struct base_error *err)
{
    int rc = snap_store_building_path(store, id, b->path, err);
    if (rc < 0)
        return rc;
    b->fd = open(b->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return b->fd < 0 ? base_fail_errno(err, "create %s", b->path) : 0;
}

int snap_store_build_begin(struct snap_store *store, const char *id, struct snap_building *out_b,
                           struct base_error *err)
{
    out_b->store = store;
    out_b->progress = false;
    out_b->upload = NULL;
    snprintf(out_b->id, sizeof(out_b->id), "%.32s", id);
    /* Between our open and our flock a cleaner may take the new file for a dead builder's and remove it: then it has no
     * name any more, and the next one is tried. */
    for (int attempt = 0; attempt < 8; attempt++) {
        struct stat st;
        int rc = building_create(store, id, out_b, err);
        if (rc < 0)
            return rc;
        bool locked = flock(out_b->fd, LOCK_EX | LOCK_NB) == 0;
        if (!locked && errno != EWOULDBLOCK)
            return 0; /* no locks here: no cleaner gets one either */
        if (locked && fstat(out_b->fd, &st) == 0 && st.st_nlink > 0)
            return 0;
        snap_store_build_abort(out_b);
    }
    return base_fail(err, ERR_IO, "create a temporary file in %s: it is removed again and again", store->dir);
}

void snap_store_build_abort(struct snap_building *b)
{
    s3_upload_abort(b->upload);
    b->upload = NULL;
    unlink(b->path);
    close(b->fd);
    b->fd = -1;
}

int snap_store_build_sync(struct snap_building *b, struct base_error *err)
{
    if (fsync(b->fd) < 0)
        return base_fail_errno(err, "sync %s", b->path);
    return b->store->s3 ? snap_bucket_send(b, err) : 0;
}

int snap_store_build_publish(struct snap_store *store, const char *id, struct snap_building *b, struct base_error *err)
{
    char path[PATH_MAX];
    int rc = snap_store_path(store, id, path, err);
    if (rc == 0 && store->s3)
        rc = snap_bucket_publish(b, err);
    if (rc == 0 && rename(b->path, path) < 0)
        rc = base_fail_errno(err, "rename %s to %s", b->path, path);
    if (rc < 0) {
        snap_store_build_abort(b);
        return rc;
    }
    close(b->fd);
    b->fd = -1;
    if (store->s3) {
        node_cache_use(store->dir, id);
        node_cache_make_room(store->dir, store->cache_bytes, 0, "");
    }
    return base_file_fsync_parent(path, err);
}

/* ---- quarantine ---- */

void snap_store_record_quarantine(struct snap_store *store, const char *id, const char *reason)
{
    struct schema_snapshot_record r;
    struct snap_index *files = store->indexes[SNAP_STORE_FILES];
    if (files->ops->record(files, id, &r, NULL) < 0)
        return;
    r.state = SCHEMA_SNAPSHOT_QUARANTINED;
    snprintf(r.file, sizeof(r.file), "%.32s" SUFFIX_QUARANTINED, id);
    snprintf(r.reason, sizeof(r.reason), "%.255s", reason);
    const struct snap_index_change change = {
        .record = &r, .name = "", .files = "", .env = "", .env_auto = "", .model_digest = "", .file_dtype = ""};
    snap_store_put(store, &change, SNAP_STORE_ALL);
}

bool snap_store_quarantine(struct snap_store *store, const char *id, dev_t device, ino_t inode, const char *reason)
{
    char path[PATH_MAX], aside[PATH_MAX];
    struct stat st;
    if (snap_store_path(store, id, path, NULL) < 0 || store_join(store, aside, NULL, id, SUFFIX_QUARANTINED) < 0)
        return false;
    if (stat(path, &st) < 0)
        return errno == ENOENT;
    if (inode != 0 && (st.st_dev != device || st.st_ino != inode))
        return false; /* somebody built it anew meanwhile */
    if (rename(path, aside) < 0) {
        base_log_warn("snapshot not quarantined", LOG_STR("id", id), LOG_STR("path", path), LOG_STR("reason", reason),
                      LOG_STR("error", strerror(errno)));
        return errno == ENOENT;
    }
    base_file_fsync_parent(path, NULL);
    base_log_warn("snapshot quarantined", LOG_STR("id", id), LOG_STR("path", aside), LOG_STR("reason", reason));
    if (!store->s3) /* a copy at fault says nothing of the bucket's object */
        snap_store_record_quarantine(store, id, reason);
    snap_event_tell(store, &(struct snap_event){.what = "quarantined", .id = id, .reason = reason});
    return true;
}

void snap_store_quarantine_reason(struct snap_store *store, const char *id, char out_reason[256])
{
    struct schema_snapshot_record r;
    struct snap_index *files = store->indexes[SNAP_STORE_FILES];
    char aside[PATH_MAX];
    if (store->s3) {
        snap_bucket_quarantine_reason(store, id, out_reason);
        return;
    }
    if (store_join(store, aside, NULL, id, SUFFIX_QUARANTINED) < 0 || !base_file_exists(aside))
        return;
    bool known = files->ops->record(files, id, &r, NULL) == 0 && r.state == SCHEMA_SNAPSHOT_QUARANTINED && r.reason[0];
    snprintf(out_reason, 256, "%s", known ? r.reason : "no reason recorded");
}

/* ---- what is there ---- */

static bool ends_with(const char *text, size_t n, const char *suffix)
{
    size_t k = strlen(suffix);
    return n >= k && memcmp(text + n - k, suffix, k) == 0;
}

/* Whether a name is one of ours, and what it says. */
static bool item_of(const char *name, struct snap_store_item *out)
{
    if (strnlen(name, SNAP_ID_CHARS + 1) <= SNAP_ID_CHARS)
        return false;
    memcpy(out->id, name, SNAP_ID_CHARS);
    out->id[SNAP_ID_CHARS] = '\0';
    out->file = name;
    const char *rest = name + SNAP_ID_CHARS;
    size_t n_rest = strlen(rest);
    if (strcmp(rest, SUFFIX) == 0)
        out->state = SCHEMA_SNAPSHOT_READY;
    else if (strcmp(rest, SUFFIX_QUARANTINED) == 0)
        out->state = SCHEMA_SNAPSHOT_QUARANTINED;
    else if (ends_with(rest, n_rest, SUFFIX_BUILDING) && n_rest == 1 + RANDOM_CHARS + strlen(SUFFIX_BUILDING))
        out->state = SCHEMA_SNAPSHOT_BUILDING;
    else
        return false;
    return snap_is_hex(out->id, SNAP_ID_CHARS);
}

/* Those of the directory. */
static int each_file(struct snap_store *store, bool (*visit)(void *context, const struct snap_store_item *item),
                     void *context, struct base_error *err)
{
    DIR *d = opendir(store->dir);
    if (!d && errno == ENOENT)
        return 0;
    if (!d)
        return base_fail_errno(err, "list store %s", store->dir);
    struct snap_store_item item = {.file = NULL};
    bool go_on = true;
    for (struct dirent *e; go_on && (e = readdir(d));) {
        if (item_of(e->d_name, &item))
            go_on = visit(context, &item);
    }
    closedir(d);
    return 0;
}

int snap_store_each(struct snap_store *store, bool (*visit)(void *context, const struct snap_store_item *item),
                    void *context, struct base_error *err)
{
    return store->s3 ? snap_bucket_each(store, each_file, visit, context, err) : each_file(store, visit, context, err);
}

/* ---- leftovers ---- */

struct cleaning {
    struct snap_store *store;
    bool dry_run;
    void (*seen)(void *context, const char *file, uint64_t bytes);
    void *context;
};

static void clean_one(const struct cleaning *c, const char *path, const struct stat *st)
{
    if (!c->dry_run && unlink(path) < 0)
        return;
    if (c->seen)
        c->seen(c->context, path + strlen(c->store->dir) + 1, (uint64_t)st->st_blocks * 512);
    else
        base_log_info("leftover of a dead builder removed", LOG_STR("path", path));
}

/* Takes the lock before it removes: a living builder holds it. */
static bool clean_building(void *context, const struct snap_store_item *item)
{
    struct cleaning *c = context;
    char path[PATH_MAX];
    struct stat st;
    if (item->state != SCHEMA_SNAPSHOT_BUILDING || store_join(c->store, path, NULL, item->file, "") < 0)
        return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return true;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &st) == 0)
        clean_one(c, path, &st);
    close(fd);
    return true;
}

/* base_file_publish names its temporaries <path>.tmp-<16 hex>. */
static void clean_temporaries(const struct cleaning *c, const char *dir)
{
    char path[PATH_MAX];
    struct stat st;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *mark = strstr(e->d_name, ".tmp-");
        if (!mark || !snap_is_hex(mark + 5, RANDOM_CHARS) ||
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) >= PATH_MAX)
            continue;
        if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_mtime + STALE_TEMPORARY_S < time(NULL))
            clean_one(c, path, &st);
    }
    if (d)
        closedir(d);
}

void snap_store_clean(struct snap_store *store, bool dry_run,
                      void (*seen)(void *context, const char *file, uint64_t bytes), void *context)
{
    static const char *const folders[] = {"index/models", "index/files", "index/records", "names", "used"};
    struct cleaning c = {store, dry_run, seen, context};
    char dir[PATH_MAX];
    each_file(store, clean_building, &c, NULL);
    if (store->s3 && !dry_run)
        snap_bucket_clean(store);
    if (store->s3)
        return;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        if (snprintf(dir, sizeof(dir), "%s/%s", store->dir, folders[i]) < PATH_MAX)
            clean_temporaries(&c, dir);
    }
}
