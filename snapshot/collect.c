#include "snapshot/collect.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/events.h"
#include "snapshot/lock_file.h"
#include "snapshot/use.h"

#define FILES_TTL_MS (INT64_C(90) * 24 * 3600 * 1000) /* as in Redis */

struct collection {
    struct snap_store *store;
    const struct snap_collect *how;
    void (*visit)(void *context, const struct snap_collected *collected);
    void *context;
    struct snap_collect_sum sum;
    int64_t now_ms;
};

/* ---- saying ---- */

static void say(struct collection *c, const struct snap_admin_item *item, const char *file, const char *what,
                const char *reason, uint64_t bytes)
{
    const struct snap_collected collected = {item, file, what, reason, bytes};
    if (c->visit)
        c->visit(c->context, &collected);
}

static void keep(struct collection *c, const struct snap_admin_item *item, const char *reason)
{
    c->sum.n_kept++;
    say(c, item, item->record.file, "kept", reason, item->stored_bytes);
}

static void removed(struct collection *c, const struct snap_admin_item *item, const char *what, const char *reason)
{
    c->sum.n_removed++;
    c->sum.freed_bytes += item->stored_bytes;
    c->sum.left_bytes -= item->stored_bytes;
    say(c, item, item->record.file, what, reason, item->stored_bytes);
    if (!c->how->dry_run)
        snap_event(c->store, &(struct snap_event){.what = what,
                                                  .id = item->record.id,
                                                  .name = item->name,
                                                  .version = item->version,
                                                  .reason = reason,
                                                  .bytes = item->stored_bytes});
}

/* ---- what may go ---- */

static int64_t last_use_ms(const struct snap_admin_item *item)
{
    return item->last_used_ms > item->record.created_ms ? item->last_used_ms : item->record.created_ms;
}

/* Why it stays whatever the bounds are; NULL: it may go. */
static const char *protected_by(const struct collection *c, const struct snap_admin_item *item)
{
    if (item->active)
        return "active version";
    if (item->weight > 0)
        return "part of the split";
    if (item->previous)
        return "what rollback goes to";
    if (item->newest)
        return "newest version, and nothing was promoted";
    if (item->pinned)
        return "pinned";
    if (!item->names_known)
        return "a name's record cannot be read, which may need it";
    if (item->held)
        return "in use by a process of this machine";
    if (item->n_uses > 0)
        return "in use, by Redis";
    if (!item->uses_known)
        return "Redis does not say whether another machine uses it";
    if (c->now_ms - last_use_ms(item) < c->how->grace_s * 1000)
        return "used or made a moment ago";
    if (c->how->keep_versions > 0 && item->version[0] && item->rank < c->how->keep_versions)
        return "among the newest versions";
    return NULL;
}

/* Why it goes even when there is room; NULL: only for room. */
static const char *condemned_by(const struct collection *c, const struct snap_admin_item *item)
{
    if (c->how->keep_versions > 0 && item->version[0] && item->rank >= c->how->keep_versions)
        return "older than the newest versions";
    if (c->how->max_age_s > 0 && c->now_ms - last_use_ms(item) >= c->how->max_age_s * 1000)
        return "not used for longer than --max-age";
    return NULL;
}

/* ---- removing ---- */

struct still {
    const struct collection *c;
    const struct snap_admin_item *item;
};

/* Under the lock of the file: nobody began or announced a use since the store was listed. */
static bool is_still_unused(void *context)
{
    const struct still *s = context;
    uint32_t n_uses = 0;
    return snap_use_last_ms(s->c->store, s->item->record.id) == s->item->last_used_ms &&
           snap_use_count(s->c->store, s->item->record.id, &n_uses, NULL) == 0 && n_uses == 0;
}

static void take(struct collection *c, const struct snap_admin_item *item, const char *what, const char *reason)
{
    struct base_error err = {0};
    struct still still = {c, item};
    char path[PATH_MAX];
    int rc = base_file_join(path, sizeof(path), c->store->dir, item->record.file, &err);
    if (rc == 0 && !c->how->dry_run)
        rc = snap_collect_remove(c->store, item->record.id, path, is_still_unused, &still, &err);
    if (rc == 0 || rc == ERR_NOTFOUND)
        removed(c, item, what, reason);
    else
        keep(c, item, err.text);
}

static int oldest_use_first(const void *a, const void *b)
{
    int64_t x = last_use_ms(a), y = last_use_ms(b);
    return x < y ? -1
           : x > y
               ? 1
               : strcmp(((const struct snap_admin_item *)a)->record.id, ((const struct snap_admin_item *)b)->record.id);
}

static void collect_ready(struct collection *c, const struct snap_admin_item *item)
{
    const char *why_not = protected_by(c, item), *why = condemned_by(c, item);
    if (why_not)
        keep(c, item, why_not);
    else if (why)
        take(c, item, "collected", why);
    else if (c->how->max_bytes > 0 && c->sum.left_bytes > c->how->max_bytes)
        take(c, item, "evicted", "least recently used, and the store is over --max-bytes");
    else
        keep(c, item, "within the bounds");
}

static void collect_quarantined(struct collection *c, const struct snap_admin_item *item)
{
    char path[PATH_MAX];
    struct stat st;
    if (base_file_join(path, sizeof(path), c->store->dir, item->record.file, NULL) < 0 || stat(path, &st) < 0)
        return;
    int64_t age_ms =
        c->now_ms - ((int64_t)st.st_ctim.tv_sec * 1000 + st.st_ctim.tv_nsec / 1000000); /* since its rename */
    if (age_ms < c->how->quarantine_age_s * 1000) {
        keep(c, item, "quarantined, to be looked into");
        return;
    }
    if (!c->how->dry_run && !snap_store_has(c->store, item->record.id))
        snap_collect_forget(c->store, item->record.id, path);
    if (c->how->dry_run || unlink(path) == 0 || errno == ENOENT)
        removed(c, item, "collected", "quarantined for longer than --quarantine-age");
    else
        keep(c, item, strerror(errno));
}

static int collect_snapshots(struct collection *c, struct base_error *err)
{
    struct snap_admin_item *items = NULL;
    size_t n = 0;
    int rc = snap_admin_items(c->store, &items, &n, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        c->sum.left_bytes += items[i].stored_bytes;
    qsort(items, n, sizeof(*items), oldest_use_first);
    /* What goes in any case makes room first. */
    for (size_t i = 0; i < n; i++) {
        if (items[i].record.state == SCHEMA_SNAPSHOT_QUARANTINED)
            collect_quarantined(c, &items[i]);
        else if (items[i].record.state == SCHEMA_SNAPSHOT_BUILDING)
            keep(c, &items[i], "being built");
        else if (!protected_by(c, &items[i]) && condemned_by(c, &items[i]))
            collect_ready(c, &items[i]);
    }
    for (size_t i = 0; i < n; i++) {
        if (items[i].record.state == SCHEMA_SNAPSHOT_READY &&
            (protected_by(c, &items[i]) || !condemned_by(c, &items[i])))
            collect_ready(c, &items[i]);
    }
    free(items);
    if (c->how->max_bytes > 0 && c->sum.left_bytes > c->how->max_bytes)
        c->sum.over_bytes = c->sum.left_bytes - c->how->max_bytes;
    return 0;
}

/* ---- leftovers ---- */

static void leftover(struct collection *c, const char *file, const char *reason, uint64_t bytes)
{
    c->sum.n_leftovers++;
    c->sum.freed_bytes += bytes;
    say(c, NULL, file, "leftover", reason, bytes);
}

static void leftover_seen(void *context, const char *file, uint64_t bytes)
{
    leftover(context, file, "its writer is dead", bytes);
}

/* The last part of a key, when it is the id of no snapshot here, quarantined ones included. */
static bool leads_nowhere(const struct snap_store *store, const char *id)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/%s.quarantined.snap", store->dir, id);
    return snap_is_hex(id, SNAP_ID_CHARS) && n > 0 && n < PATH_MAX && !snap_store_has(store, id) &&
           !base_file_exists(path);
}

struct dangling {
    struct collection *c;
    struct base_buffer keys; /* key, bytes; one a line: removed after the listing */
};

/* index/models holds ids as content, the others as names. */
static bool content_leads_nowhere(struct snap_store *store, const char *key)
{
    struct base_buffer text;
    bool nowhere = false;
    base_buffer_init(&text, 256);
    if (store->objects->ops->get(store->objects, key, 255, &text, NULL, NULL) == 0) {
        char id[SNAP_ID_CHARS + 1] = "";
        const char *p = base_buffer_cstr(&text);
        if (strncmp(p, "id ", 3) == 0)
            snprintf(id, sizeof(id), "%.*s", (int)strcspn(p + 3, "\n"), p + 3);
        nowhere = leads_nowhere(store, id);
    }
    base_buffer_done(&text);
    return nowhere;
}

static bool dangling_visit(void *context, const struct snap_object *object)
{
    struct dangling *d = context;
    const char *last = strrchr(object->key, '/') + 1;
    bool models = strncmp(object->key, "index/models/", 13) == 0;
    bool files = strncmp(object->key, "index/files/", 12) == 0; /* of directories, not of snapshots: they come and go */
    if (files    ? d->c->now_ms - object->modified_ms > FILES_TTL_MS
        : models ? content_leads_nowhere(d->c->store, object->key)
                 : leads_nowhere(d->c->store, last))
        base_buffer_printf(&d->keys, "%s %llu\n", object->key, (unsigned long long)object->bytes);
    return d->keys.failed == 0;
}

static int collect_dangling(struct collection *c, const char *prefix, struct base_error *err)
{
    struct snap_objects *o = c->store->objects;
    struct dangling d = {.c = c};
    base_buffer_init(&d.keys, 64 << 20);
    int rc = o->ops->list(o, prefix, dangling_visit, &d, err);
    for (char *key = (char *)d.keys.data, *end; rc == 0 && key && *key; key = end + 1) {
        end = strchr(key, '\n');
        char *space = strchr(key, ' ');
        *end = *space = '\0';
        if (!c->how->dry_run)
            rc = o->ops->remove(o, key, err);
        if (rc == 0)
            leftover(c, key,
                     strcmp(prefix, "index/files/") == 0 ? "recorded 90 days ago" : "of a snapshot that is gone",
                     strtoull(space + 1, NULL, 10));
    }
    base_buffer_done(&d.keys);
    return rc;
}

/* ---- all of it ---- */

static int lock_collection(const struct snap_store *store, struct base_error *err)
{
    char path[PATH_MAX];
    int fd, rc = snap_lock_file_open(store->dir, "gc.lock", path, &fd, err);
    if (rc < 0)
        return rc;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(fd);
        return base_fail(err, ERR_AGAIN, "another collection of %s is running", store->dir);
    }
    return fd;
}

int snap_collect_run(struct snap_store *store, const struct snap_collect *how,
                     void (*visit)(void *context, const struct snap_collected *collected), void *context,
                     struct snap_collect_sum *out_sum, struct base_error *err)
{
    static const char *const prefixes[] = {"index/models/", "index/records/", "index/files/", "used/"};
    struct collection c = {
        .store = store, .how = how, .visit = visit, .context = context, .now_ms = base_clock_unix_ms()};
    if (store->s3)
        return base_fail(
            err, ERR_USAGE,
            "%s: a bucket is not collected yet: remove single snapshots with `rouse snapshot rm`; copies on a "
            "node are bounded by --cache-bytes",
            store->name);
    int lock = lock_collection(store, err);
    if (lock < 0)
        return lock;
    snap_store_clean(store, how->dry_run, leftover_seen, &c);
    int rc = collect_snapshots(&c, err);
    for (size_t i = 0; rc == 0 && i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        rc = collect_dangling(&c, prefixes[i], err);
    close(lock);
    if (rc == 0)
        *out_sum = c.sum;
    return rc;
}
