/* Objects as files of a directory.
 *
 * What put writes is a temporary file that is renamed over the old one, so get needs no lock. put and remove take a flock'ed file
 * (locks/objects-<0..f>.lock, chosen by the key) from the comparison to the rename: compare and swap is as good as the
 * file system's locks. A process that dies gives its lock back; one that is stopped with it holds up writers of those keys, who give up
 * after LOCK_WAIT_MS with an error.
 *
 * Folders of a key are walked without following symbolic links, and an object is a regular file: whatever lies in the directory, no key
 * leads out of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/objects.h"
#include "snapshot/snap_digest.h"

enum { LOCK_WAIT_MS = 10000, LOCK_POLL_MS = 2, COMPARED_BYTES_MAX = 16 << 20 };

struct objects_dir {
    struct snap_objects base;
    char *dir;
};

static struct objects_dir *dir_of(struct snap_objects *o)
{
    return (struct objects_dir *)o;
}

/* ---- folders ---- */

/* The folder that holds the key's file, opened; *out_leaf is the file's name in it. ERR_NOTFOUND: no such folder (and not `make`). */
static int folder_open(const struct objects_dir *o, const char *key, bool make, const char **out_leaf,
                       struct base_error *err)
{
    if (make) {
        int rc = base_file_make_dirs(o->dir, err);
        if (rc < 0)
            return rc;
    }
    int fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    while (fd >= 0 && strchr(key, '/')) {
        char part[SNAP_OBJECT_KEY_MAX + 1];
        size_t n = strcspn(key, "/");
        memcpy(part, key, n);
        part[n] = '\0';
        if (make)
            (void)mkdirat(fd, part, 0755); /* what is wrong, openat says */
        int next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int why = errno;
        close(fd);
        errno = why;
        fd = next;
        key += n + 1;
    }
    if (fd < 0 && errno == ENOENT)
        return base_fail(err, ERR_NOTFOUND, "object %s in %s: no such folder", key, o->dir);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return base_fail(err, ERR_IO, "object %s in %s: its folder is a file or a symbolic link", key, o->dir);
    if (fd < 0)
        return base_fail_errno(err, "open the folder of object %s in %s", key, o->dir);
    *out_leaf = key;
    return fd;
}

/* ---- reading ---- */

static int file_read(int fd, const char *key, size_t n_max, struct base_buffer *out, struct base_error *err)
{
    char part[1 << 14];
    size_t n = 0;
    for (;;) {
        ssize_t got = read(fd, part, sizeof(part));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return base_fail_errno(err, "read object %s", key);
        if (got == 0)
            return 0;
        n += (size_t)got;
        if (n > n_max)
            return base_fail(err, ERR_INPUT, "object %s: longer than %zu bytes", key, n_max);
        base_buffer_append(out, part, (size_t)got);
        if (out->failed)
            return base_fail(err, out->failed, "object %s: no room for %zu bytes", key, n);
    }
}

static void etag_of(const struct base_buffer *bytes, char out[SNAP_ETAG_MAX])
{
    XXH128_hash_t h = XXH3_128bits(bytes->data, bytes->n);
    snprintf(out, SNAP_ETAG_MAX, "%016" PRIx64 "%016" PRIx64 "-%zu", (uint64_t)h.high64, (uint64_t)h.low64, bytes->n);
}

/* O_NONBLOCK: a FIFO of that name must not hang us. */
static int object_open(const struct objects_dir *o, const char *key, struct base_error *err)
{
    const char *leaf;
    struct stat st;
    int dir = folder_open(o, key, false, &leaf, err);
    if (dir < 0)
        return dir;
    int fd = openat(dir, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int why = errno;
    close(dir);
    if (fd < 0 && why == ENOENT)
        return base_fail(err, ERR_NOTFOUND, "object %s in %s: not there", key, o->dir);
    if (fd < 0) {
        errno = why;
        return base_fail_errno(err, "open object %s in %s", key, o->dir);
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return base_fail(err, ERR_IO, "object %s in %s: not a regular file", key, o->dir);
    }
    return fd;
}

static int object_read(const struct objects_dir *o, const char *key, size_t n_max, struct base_buffer *out,
                       struct base_error *err)
{
    int fd = object_open(o, key, err);
    if (fd < 0)
        return fd;
    size_t n_before = out->n;
    int rc = file_read(fd, key, n_max, out, err);
    close(fd);
    if (rc < 0)
        base_buffer_truncate(out, n_before);
    return rc;
}

static int dir_get(struct snap_objects *base, const char *key, size_t n_max, struct base_buffer *out,
                   char out_etag[SNAP_ETAG_MAX], struct base_error *err)
{
    struct base_buffer bytes;
    int rc = snap_object_key_check(key, err);
    if (rc < 0)
        return rc;
    base_buffer_init(&bytes, n_max ? n_max : 1);
    rc = object_read(dir_of(base), key, n_max, &bytes, err);
    if (rc == 0)
        base_buffer_append(out, bytes.data, bytes.n);
    if (rc == 0 && out->failed)
        rc = base_fail(err, out->failed, "object %s: no room for %zu bytes", key, bytes.n);
    if (rc == 0 && out_etag)
        etag_of(&bytes, out_etag);
    base_buffer_done(&bytes);
    return rc;
}

/* ---- writing ---- */

static int lock_open(const struct objects_dir *o, const char *key, struct base_error *err)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s/" SNAP_OBJECTS_LOCKS, o->dir);
    if (n < 0 || n >= PATH_MAX - 32)
        return base_fail(err, ERR_USAGE, "store %s: the path is too long", o->dir);
    int rc = base_file_make_dirs(path, err);
    if (rc < 0)
        return rc;
    snprintf(path + n, sizeof(path) - (size_t)n, "/objects-%x.lock", (unsigned)(XXH3_64bits(key, strlen(key)) & 15));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    return fd < 0 ? base_fail_errno(err, "open lock %s", path) : fd;
}

/* The lock, held until it is closed. `must`: a file system without locks is an error. */
static int lock_take(const struct objects_dir *o, const char *key, bool must, struct base_error *err)
{
    int fd = lock_open(o, key, err);
    if (fd < 0)
        return fd;
    uint64_t until_ns = base_clock_mono_ns() + (uint64_t)LOCK_WAIT_MS * 1000000;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        int why = errno;
        if (why == EINTR)
            continue;
        if (why == EWOULDBLOCK && base_clock_mono_ns() < until_ns) {
            base_clock_sleep_ms(LOCK_POLL_MS);
            continue;
        }
        if (why != EWOULDBLOCK && !must)
            break;
        close(fd);
        if (why == EWOULDBLOCK)
            return base_fail(err, ERR_IO, "object %s in %s: another process holds its lock for more than %d s", key,
                             o->dir, LOCK_WAIT_MS / 1000);
        return base_fail(err, ERR_IO,
                         "object %s in %s: the file system has no locks (%s), so it cannot be changed safely", key,
                         o->dir, strerror(why));
    }
    return fd;
}

/* Under the lock. ERR_AGAIN. */
static int etag_check(const struct objects_dir *o, const char *key, const char *if_etag, struct base_error *err)
{
    struct base_buffer bytes;
    struct base_error why = {0};
    char etag[SNAP_ETAG_MAX] = SNAP_ETAG_NONE;
    base_buffer_init(&bytes, COMPARED_BYTES_MAX);
    int rc = object_read(o, key, COMPARED_BYTES_MAX, &bytes, &why);
    if (rc == 0)
        etag_of(&bytes, etag);
    base_buffer_done(&bytes);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return base_fail(err, rc, "%s", why.text);
    return strcmp(etag, if_etag) == 0 ? 0 : base_fail(err, ERR_AGAIN, "object %s: changed meanwhile", key);
}

static int object_write(const struct objects_dir *o, const char *key, const void *bytes, size_t n,
                        struct base_error *err)
{
    char path[PATH_MAX];
    const char *leaf;
    int rc = base_file_join(path, sizeof(path), o->dir, key, err);
    int dir = rc < 0 ? rc : folder_open(o, key, true, &leaf, err); /* made; and no link among its parts */
    if (dir < 0)
        return dir;
    close(dir);
    return base_file_publish(path, bytes, n, err);
}

static int dir_put(struct snap_objects *base, const char *key, const void *bytes, size_t n, const char *if_etag,
                   struct base_error *err)
{
    struct objects_dir *o = dir_of(base);
    int rc = snap_object_key_check(key, err);
    int lock = rc < 0 ? rc : lock_take(o, key, if_etag != NULL, err);
    if (lock < 0)
        return lock;
    if (if_etag)
        rc = etag_check(o, key, if_etag, err);
    if (rc == 0)
        rc = object_write(o, key, bytes, n, err);
    close(lock);
    return rc;
}

static int dir_remove(struct snap_objects *base, const char *key, struct base_error *err)
{
    struct objects_dir *o = dir_of(base);
    const char *leaf;
    int rc = snap_object_key_check(key, err);
    int dir = rc < 0 ? rc : folder_open(o, key, false, &leaf, err);
    if (dir == ERR_NOTFOUND)
        return 0;
    if (dir < 0)
        return dir;
    int lock = lock_take(o, key, false, err);
    rc = lock < 0 ? lock : 0;
    if (rc == 0 && unlinkat(dir, leaf, 0) < 0 && errno != ENOENT)
        rc = base_fail_errno(err, "remove object %s in %s", key, o->dir);
    if (rc == 0 && fsync(dir) < 0 && errno != EINVAL)
        rc = base_fail_errno(err, "sync the folder of object %s in %s", key, o->dir);
    if (lock >= 0)
        close(lock);
    close(dir);
    return rc;
}

/* ---- listing ---- */

struct listing {
    const char *prefix;
    bool (*visit)(void *context, const struct snap_object *object);
    void *context;
    char key[SNAP_OBJECT_KEY_MAX + 1]; /* of the folder or file that is looked at */
    bool stopped;
};

/* base_file_publish names its temporaries <path>.tmp-<16 hex>. */
static bool is_temporary(const char *name)
{
    const char *mark = strstr(name, ".tmp-");
    return mark && snap_is_hex(mark + 5, 16);
}

/* Whether anything under that folder, or the object itself, may begin with the prefix. */
static bool may_match(const struct listing *l, bool folder)
{
    size_t n = strlen(l->key), n_prefix = strlen(l->prefix);
    if (!folder || n >= n_prefix)
        return strncmp(l->key, l->prefix, n_prefix) == 0;
    return strncmp(l->key, l->prefix, n) == 0 && l->prefix[n] == '/';
}

static int list_folder(struct listing *l, int fd, struct base_error *err);

static int list_entry(struct listing *l, int dir, const char *name, struct base_error *err)
{
    struct stat st;
    size_t n = strlen(l->key);
    int k = snprintf(l->key + n, sizeof(l->key) - n, "%s%s", n ? "/" : "", name);
    int rc = 0;
    if (k < 0 || n + (size_t)k >= sizeof(l->key) || snap_object_key_check(l->key, NULL) < 0 || is_temporary(name) ||
        fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        l->key[n] = '\0';
        return 0;
    }
    if (S_ISREG(st.st_mode) && may_match(l, false)) {
        const struct snap_object object = {.key = l->key,
                                           .bytes = (uint64_t)st.st_size,
                                           .modified_ms =
                                               (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000};
        l->stopped = !l->visit(l->context, &object);
    } else if (S_ISDIR(st.st_mode) && may_match(l, true)) {
        int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = fd < 0 ? 0 : list_folder(l, fd, err); /* gone since */
    }
    l->key[n] = '\0';
    return rc;
}

/* Depth is bounded by the length of a key. Takes fd. */
static int list_folder(struct listing *l, int fd, struct base_error *err)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return base_fail(err, ERR_NOMEM, "list objects: out of memory");
    }
    int rc = 0;
    errno = 0;
    for (struct dirent *e; rc == 0 && !l->stopped && (e = readdir(d)); errno = 0)
        rc = list_entry(l, dirfd(d), e->d_name, err);
    if (rc == 0 && !l->stopped && errno != 0)
        rc = base_fail_errno(err, "list objects");
    closedir(d);
    return rc;
}

static int dir_list(struct snap_objects *base, const char *prefix, bool (*visit)(void *, const struct snap_object *),
                    void *context, struct base_error *err)
{
    struct objects_dir *o = dir_of(base);
    struct listing l = {.prefix = prefix, .visit = visit, .context = context};
    int fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    return fd < 0 ? base_fail_errno(err, "list objects in %s", o->dir) : list_folder(&l, fd, err);
}

static void dir_close(struct snap_objects *base)
{
    free(dir_of(base)->dir);
    free(base);
}

static const struct snap_objects_ops dir_ops = {dir_get, dir_put, dir_remove, dir_list, dir_close};

int snap_objects_dir_open(const char *dir, struct snap_objects **out_objects, struct base_error *err)
{
    struct objects_dir *o = calloc(1, sizeof(*o));
    if (!o || !(o->dir = strdup(dir))) {
        free(o);
        return base_fail(err, ERR_NOMEM, "objects of %s: out of memory", dir);
    }
    o->base.ops = &dir_ops;
    *out_objects = &o->base;
    return 0;
}
