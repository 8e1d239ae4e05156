/* `rouse snapshot rm`, and what collection removes with: entries of the indexes first, then the file, then the note of its last use. Killed
 * anywhere in between, what is left is a snapshot without entries, which is found as any other, or a note without a snapshot, which the
 * next collection removes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "snapshot/admin.h"
#include "snapshot/collect.h"
#include "snapshot/events.h"
#include "snapshot/use.h"

/* ---- the indexes ---- */

struct forget {
    struct snap_store *store;
    const struct snap_manifest *manifest;
};

static void forget_under(struct snap_store *store, const struct snap_manifest *m, const char *name)
{
    const char *dtypes[] = {m->fingerprint.value[SNAP_FP_DTYPE], "auto"};
    for (int i = 0; i < 2; i++) {
        char env[SNAP_ID_CHARS + 1];
        if (snap_fingerprint_env(&m->fingerprint, dtypes[i], env, NULL) < 0)
            continue;
        const struct snap_index_query by_name = {.name = name, .files = "", .env = env};
        const struct snap_index_query by_files = {.name = "", .files = m->files, .env = env};
        snap_store_drop(store, m->id, &by_name);
        if (strcmp(name, m->name) == 0)
            snap_store_drop(store, m->id, &by_files);
    }
}

static bool forget_visit(void *context, const struct snap_name *name)
{
    const struct forget *f = context;
    if (strcmp(name->name, f->manifest->name) != 0 &&
        snap_name_find_digest(name, f->manifest->fingerprint.value[SNAP_FP_MODEL]))
        forget_under(f->store, f->manifest, name->name);
    return true;
}

static void forget_file(struct snap_store *store, const struct snap_file *f)
{
    struct forget forget = {store, &f->manifest};
    forget_under(store, &f->manifest, f->manifest.name);
    snap_names_each(store, forget_visit, &forget, NULL, NULL);
}

void snap_collect_forget(struct snap_store *store, const char *id, const char *path)
{
    struct snap_file *f = NULL;
    if (snap_file_open(path, &f, NULL) < 0) {
        snap_store_drop(store, id, NULL);
        return;
    }
    forget_file(store, f);
    snap_file_close(f);
}

/* ---- the file ---- */

/* The file that path stands for, locked so that no use of it can begin. */
static int lock_alone(const char *path, struct base_error *err)
{
    struct stat named, opened;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? base_fail(err, ERR_NOTFOUND, "%s: gone already", path)
                               : base_fail_errno(err, "open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) {
        close(fd);
        return base_fail(err, ERR_AGAIN, "in use by a process of this machine");
    }
    if (fstat(fd, &opened) < 0 || stat(path, &named) < 0 || named.st_ino != opened.st_ino ||
        named.st_dev != opened.st_dev) {
        close(fd);
        return base_fail(err, ERR_AGAIN, "%s: replaced meanwhile", path);
    }
    return fd;
}

/* The same of the note; 0 and *out_fd -1 when there is none. */
static int lock_note(struct snap_store *store, const char *id, int *out_fd, struct base_error *err)
{
    char path[PATH_MAX];
    *out_fd = -1;
    if (!snap_use_note_path(store, id, path))
        return 0;
    int fd = lock_alone(path, err);
    if (fd >= 0)
        *out_fd = fd;
    return fd == ERR_NOTFOUND || fd >= 0 ? 0 : fd;
}

/* A name cannot be removed together with a look at what it stands for. So the file is first moved to the name of a dead builder's
 * temporary (which any clean-up removes, should this process die here), looked at there, and moved back if a builder published another
 * one in between. */
static int unlink_exactly(struct snap_store *store, const char *id, const char *path, int fd, struct base_error *err)
{
    char aside[PATH_MAX];
    struct stat moved, ours;
    int rc = snap_store_building_path(store, id, aside, err);
    if (rc < 0)
        return rc;
    if (rename(path, aside) < 0)
        return errno == ENOENT ? base_fail(err, ERR_NOTFOUND, "%s: gone already", path)
                               : base_fail_errno(err, "move %s", path);
    if (lstat(aside, &moved) == 0 && fstat(fd, &ours) == 0 && moved.st_ino != ours.st_ino) {
        (void)!link(aside, path); /* unless there is a newer one still */
        (void)unlink(aside);
        return base_fail(err, ERR_AGAIN, "%s: replaced meanwhile", path);
    }
    if (unlink(aside) < 0)
        return base_fail_errno(err, "remove %s", aside);
    return base_file_fsync_parent(path, err);
}

int snap_collect_remove(struct snap_store *store, const char *id, const char *path, bool (*still)(void *context),
                        void *context, struct base_error *err)
{
    int note = -1, fd = lock_alone(path, err);
    if (fd < 0)
        return fd;
    int rc = lock_note(store, id, &note, err);
    if (rc == 0 && still && !still(context))
        rc = base_fail(err, ERR_AGAIN, "%s: used meanwhile", path);
    if (rc == 0)
        snap_collect_forget(store, id, path);
    if (rc == 0)
        rc = unlink_exactly(store, id, path, fd, err);
    if (rc == 0)
        snap_use_forget(store, id);
    if (note >= 0)
        close(note);
    close(fd);
    return rc;
}

/* ---- rm ---- */

static const char *why_kept(const struct snap_admin_item *i)
{
    return i->active     ? "is active"
           : i->weight   ? "is part of the split"
           : i->previous ? "is what rollback goes to"
           : i->pinned   ? "is pinned"
                         : NULL;
}

static int check_removable(struct snap_store *store, const struct schema_snapshot_record *r, struct base_error *err)
{
    struct snap_admin_item *items = NULL;
    size_t n = 0;
    int rc = snap_admin_items(store, &items, &n, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const struct snap_admin_item *item = &items[i];
        if (strcmp(item->record.id, r->id) != 0 || item->record.state != SCHEMA_SNAPSHOT_READY)
            continue;
        if (why_kept(item))
            rc = base_fail(err, ERR_USAGE, "snapshot %s is of %s@%s, which %s: --force removes it all the same", r->id,
                           item->name, item->version, why_kept(item));
        else if (item->held || item->n_uses)
            rc = base_fail(err, ERR_AGAIN, "snapshot %s is in use: --force removes it all the same", r->id);
    }
    free(items);
    return rc;
}

/* Who reads a copy on another node keeps it; who fetches the object now fails, and loads cold. */
static int remove_from_bucket(struct snap_store *store, const struct schema_snapshot_record *r, struct base_error *err)
{
    struct snap_store_item item;
    struct snap_file *f = NULL;
    snap_store_item_of(store, r->id, r->file, &item);
    item.state = r->state;
    if (snap_store_open_item(store, &item, &f, NULL) < 0) {
        snap_store_drop(store, r->id, NULL);
    } else {
        forget_file(store, f);
        snap_file_close(f);
    }
    int rc = snap_store_remove(store, &item, err);
    if (rc == 0)
        snap_use_forget(store, r->id);
    return rc;
}

int snap_admin_remove(struct snap_store *store, const char *which, bool force,
                      struct schema_snapshot_record *out_record, struct base_error *err)
{
    struct schema_snapshot_record record;
    char path[PATH_MAX];
    if (strchr(which, '/'))
        return base_fail(err, ERR_USAGE, "'%.200s' is a path: what is outside the store is not removed", which);
    int rc = snap_store_resolve(store, which, &record, path, err);
    if (rc < 0)
        return rc;
    if (record.state == SCHEMA_SNAPSHOT_BUILDING)
        return base_fail(err, ERR_AGAIN, "snapshot %s is being built", record.id);
    bool ready = record.state == SCHEMA_SNAPSHOT_READY;
    if (ready && !force)
        rc = check_removable(store, &record, err);
    if (rc < 0)
        return rc;
    if (store->s3) {
        rc = remove_from_bucket(store, &record, err);
    } else if (ready && !force) {
        rc = snap_collect_remove(store, record.id, path, NULL, NULL, err);
    } else {
        if (ready || !snap_store_has(store, record.id))
            snap_collect_forget(store, record.id, path);
        rc = unlink(path) < 0 ? base_fail_errno(err, "remove %s", path) : base_file_fsync_parent(path, err);
        if (ready)
            snap_use_forget(store, record.id);
    }
    if (rc < 0)
        return rc;
    snap_event(store,
               &(struct snap_event){.what = "removed", .id = record.id, .name = record.name, .bytes = record.bytes});
    *out_record = record;
    return 0;
}
