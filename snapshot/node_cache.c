#include "snapshot/node_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "snapshot/lock_file.h"
#include "snapshot/snap_digest.h"

#define USED ".used"

/* What may lie behind a copy's id, each with disk space of its own. */
static const char *const suffixes[] = {".snap", ".quarantined.snap", ".fetching", ".fetching.map"};
enum { SUFFIXES = sizeof(suffixes) / sizeof(suffixes[0]) };

static bool entry_path(const char *dir, const char *id, const char *suffix, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/%.32s%s", dir, id, suffix);
    return n > 0 && n < PATH_MAX;
}

void node_cache_use(const char *dir, const char *id)
{
    char path[PATH_MAX];
    if (!entry_path(dir, id, USED, path))
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return;
    (void)futimens(fd, NULL);
    close(fd);
}

bool node_cache_is_copy(const char *dir, const char *id)
{
    char path[PATH_MAX];
    struct stat st;
    return entry_path(dir, id, USED, path) && stat(path, &st) == 0;
}

struct copy {
    char id[SNAP_ID_CHARS + 1];
    struct timespec used;
    uint64_t bytes; /* on disk */
};

static uint64_t copy_bytes(const char *dir, const char *id)
{
    char path[PATH_MAX];
    struct stat st;
    uint64_t bytes = 0;
    for (int i = 0; i < SUFFIXES; i++) {
        if (entry_path(dir, id, suffixes[i], path) && stat(path, &st) == 0)
            bytes += (uint64_t)st.st_blocks * 512;
    }
    return bytes;
}

static int oldest_first(const void *a, const void *b)
{
    const struct timespec *x = &((const struct copy *)a)->used, *y = &((const struct copy *)b)->used;
    if (x->tv_sec != y->tv_sec)
        return x->tv_sec < y->tv_sec ? -1 : 1;
    return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

/* *out is malloc'ed. */
static size_t copies_read(const char *dir, struct copy **out)
{
    struct copy *copies = NULL;
    size_t n = 0, capacity = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct copy c;
        struct stat st;
        if (strlen(e->d_name) != SNAP_ID_CHARS + strlen(USED) || strcmp(e->d_name + SNAP_ID_CHARS, USED) != 0)
            continue;
        snprintf(c.id, sizeof(c.id), "%.32s", e->d_name);
        if (!snap_is_hex(c.id, SNAP_ID_CHARS) || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        if (n == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            void *more = realloc(copies, capacity * sizeof(*copies));
            if (!more)
                break;
            copies = more;
        }
        c.used = st.st_mtim;
        c.bytes = copy_bytes(dir, c.id);
        copies[n++] = c;
    }
    if (d)
        closedir(d);
    if (n > 1)
        qsort(copies, n, sizeof(*copies), oldest_first);
    *out = copies;
    return n;
}

/* Under its exclusive lock, so that no reader loses what it is about to open twice. Missing counts as removed. */
static bool remove_unused(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    bool removed = flock(fd, LOCK_EX | LOCK_NB) == 0 && unlink(path) == 0;
    close(fd);
    return removed;
}

static bool copy_remove(const char *dir, const struct copy *c)
{
    char path[PATH_MAX];
    bool all = true;
    for (int i = 0; i < SUFFIXES && all; i++)
        all = entry_path(dir, c->id, suffixes[i], path) && remove_unused(path);
    if (all && entry_path(dir, c->id, USED, path))
        unlink(path);
    if (all && c->bytes)
        base_log_info("copy of a snapshot given up", LOG_STR("id", c->id), LOG_STR("cache", dir),
                      LOG_INT("bytes", c->bytes));
    return all;
}

static bool disk_has(const char *dir, uint64_t needed)
{
    struct statvfs fs;
    return statvfs(dir, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize >= needed;
}

/* One at a time: two who make room for themselves would each give up what the other did. */
static int evict_lock(const char *dir)
{
    char path[PATH_MAX];
    int fd;
    if (snap_lock_file_open(dir, "cache.lock", path, &fd, NULL) < 0)
        return -1;
    (void)flock(fd, LOCK_EX);
    return fd;
}

void node_cache_make_room(const char *dir, uint64_t bytes_max, uint64_t needed, const char *keep_id)
{
    struct copy *copies = NULL;
    uint64_t held = 0;
    int lock = evict_lock(dir);
    size_t n = copies_read(dir, &copies);
    for (size_t i = 0; i < n; i++)
        held += strcmp(copies[i].id, keep_id) == 0 ? 0 : copies[i].bytes;
    for (size_t i = 0; i < n; i++) {
        bool fits = bytes_max == 0 || held + needed <= bytes_max;
        if (fits && disk_has(dir, needed))
            break;
        if (strcmp(copies[i].id, keep_id) != 0 && copy_remove(dir, &copies[i]))
            held -= copies[i].bytes;
    }
    if (bytes_max && held + needed > bytes_max)
        base_log_warn("the cache outgrows its bound", LOG_STR("cache", dir), LOG_INT("cache_bytes", bytes_max),
                      LOG_INT("in_use_bytes", held), LOG_INT("needed_bytes", needed));
    free(copies);
    if (lock >= 0)
        close(lock);
}

void node_cache_drop(const char *dir, const char *id)
{
    char path[PATH_MAX];
    for (int i = 0; i < SUFFIXES; i++) {
        if (entry_path(dir, id, suffixes[i], path))
            unlink(path);
    }
    if (entry_path(dir, id, USED, path))
        unlink(path);
}
