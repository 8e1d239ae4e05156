#include "base/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum { FILE_READ_BYTES = 64 * 1024 };

/* One read or write moves at most 2 GiB - 4 KiB on Linux; asking for less keeps the count in an ssize_t on all systems. */
static size_t file_step(size_t n)
{
    const size_t step_max = (size_t)1 << 30;
    return n < step_max ? n : step_max;
}

static int file_read_fd(int fd, const char *path, size_t n_max, struct base_buffer *out, struct base_error *err)
{
    uint8_t chunk[FILE_READ_BYTES];
    size_t n = 0;
    for (;;) {
        ssize_t got = read(fd, chunk, sizeof(chunk));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return base_fail_errno(err, "read %s", path);
        if (got == 0)
            return 0;
        if ((size_t)got > n_max - n)
            return base_fail(err, ERR_INPUT, "read %s: the file is longer than %zu bytes", path, n_max);
        n += (size_t)got;
        base_buffer_append(out, chunk, (size_t)got);
        if (out->failed == ERR_NOMEM)
            return base_fail(err, ERR_NOMEM, "read %s: out of memory after %zu bytes", path, n);
        if (out->failed)
            return base_fail(err, ERR_INPUT, "read %s: the file does not fit a buffer of %zu bytes", path, out->n_max);
    }
}

int base_file_read(const char *path, size_t n_max, struct base_buffer *out, struct base_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return base_fail(err, ERR_NOTFOUND, "open %s: no such file", path);
    if (fd < 0)
        return base_fail_errno(err, "open %s", path);
    size_t n_before = out->n;
    int rc = file_read_fd(fd, path, n_max, out, err);
    if (rc < 0)
        base_buffer_truncate(out, n_before);
    close(fd);
    return rc;
}

int base_file_pread(int fd, void *to, size_t n, uint64_t offset, const char *path, struct base_error *err)
{
    uint8_t *p = to;
    if (offset > INT64_MAX || n > INT64_MAX - offset)
        return base_fail(err, ERR_INPUT, "read %s: offset %" PRIu64 " is beyond any file", path, offset);
    for (size_t at = 0; at < n;) {
        ssize_t got = pread(fd, p + at, file_step(n - at), (off_t)(offset + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return base_fail_errno(err, "read %s at %" PRIu64, path, offset + at);
        if (got == 0)
            return base_fail(err, ERR_INPUT, "read %s: the file ends at %" PRIu64 ", %zu bytes too early", path,
                             offset + at, n - at);
        at += (size_t)got;
    }
    return 0;
}

int base_file_pwrite(int fd, const void *from, size_t n, uint64_t offset, const char *path, struct base_error *err)
{
    const uint8_t *p = from;
    assert(offset <= INT64_MAX && n <= INT64_MAX - offset);
    for (size_t at = 0; at < n;) {
        ssize_t put = pwrite(fd, p + at, file_step(n - at), (off_t)(offset + at));
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return base_fail_errno(err, "write %s at %" PRIu64, path, offset + at);
        at += (size_t)put;
    }
    return 0;
}

/* Without the trailing slashes; at least one byte stays, so that "/" is "/". */
static size_t file_trimmed(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n;
}

int base_file_fsync_parent(const char *path, struct base_error *err)
{
    size_t n = file_trimmed(path);
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    char dir[PATH_MAX];
    if (n >= sizeof(dir))
        return base_fail(err, ERR_INPUT, "sync directory of %s: the path is longer than %d bytes", path, PATH_MAX - 1);
    memcpy(dir, n > 0 ? path : ".", n > 0 ? n : 1);
    dir[n > 0 ? n : 1] = '\0';

    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return base_fail_errno(err, "open directory %s", dir);
    int rc = 0;
    /* EINVAL: a file system without durable directories (some network and FUSE ones); there is nothing to wait for. */
    if (fsync(fd) < 0 && errno != EINVAL)
        rc = base_fail_errno(err, "sync directory %s", dir);
    close(fd);
    return rc;
}

/* The names of two writers on two machines must differ too (pid 1 in every container), hence the random part. */
static int file_temporary_open(const char *path, char *out_temp, size_t size, struct base_error *err)
{
    uint64_t random = base_clock_mono_ns();
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    int n = snprintf(out_temp, size, "%s.tmp-%016" PRIx64, path, random);
    if (n < 0 || (size_t)n >= size)
        return base_fail(err, ERR_INPUT, "create %s: the path is longer than %zu bytes", path, size - 1);
    int fd = open(out_temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd >= 0 ? fd : base_fail_errno(err, "create %s", out_temp);
}

int base_file_publish(const char *path, const void *bytes, size_t n, struct base_error *err)
{
    char temp[PATH_MAX];
    int fd = file_temporary_open(path, temp, sizeof(temp), err);
    if (fd < 0)
        return fd;
    int rc = base_file_pwrite(fd, bytes, n, 0, temp, err);
    if (rc == 0 && fsync(fd) < 0)
        rc = base_fail_errno(err, "sync %s", temp);
    if (close(fd) < 0 && rc == 0)
        rc = base_fail_errno(err, "close %s", temp);
    if (rc == 0 && rename(temp, path) < 0)
        rc = base_fail_errno(err, "rename %s to %s", temp, path);
    if (rc < 0) {
        unlink(temp);
        return rc;
    }
    return base_file_fsync_parent(path, err);
}

bool base_file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool base_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

int base_file_make_dirs(const char *path, struct base_error *err)
{
    char part[PATH_MAX];
    size_t n = file_trimmed(path);
    if (n >= sizeof(part))
        return base_fail(err, ERR_INPUT, "create directory %s: the path is longer than %d bytes", path, PATH_MAX - 1);
    memcpy(part, path, n);
    part[n] = '\0';
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        char after = part[i];
        part[i] = '\0';
        /* Whatever mkdir says of a directory that is there (EEXIST, EROFS, EACCES), it is there. */
        int cause = mkdir(part, 0755) < 0 ? errno : 0;
        if (cause == EEXIST && !base_file_is_dir(part))
            return base_fail(err, ERR_IO, "create directory %s: %s is not a directory", path, part);
        if (cause != 0 && !base_file_is_dir(part)) {
            errno = cause;
            return base_fail_errno(err, "create directory %s", part);
        }
        part[i] = after;
    }
    return 0;
}

int base_file_join(char *out, size_t size, const char *dir, const char *name, struct base_error *err)
{
    size_t n_dir = strlen(dir), n_name = strlen(name);
    bool slash = n_dir > 0 && dir[n_dir - 1] != '/';
    if (n_dir + slash + n_name + 1 > size)
        return base_fail(err, ERR_INPUT, "path %s/%s is longer than %zu bytes", dir, name, size - 1);
    memcpy(out, dir, n_dir);
    if (slash)
        out[n_dir] = '/';
    memcpy(out + n_dir + slash, name, n_name + 1);
    return 0;
}

const char *base_file_name(const char *path, size_t *out_n)
{
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    *out_n = end - begin;
    return path + begin;
}
