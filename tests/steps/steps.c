/* steps - a library to preload: counts the calls by which a program changes files or talks to others, and lets one of them be its
 * last, or fail. The program under test is the one that ships.
 *
 *   STEPS_KILL=N          SIGKILL in the place of call N (from 1), in whichever thread that comes
 *   STEPS_STOP=N          the same with SIGSTOP: who sends SIGCONT lets it go on with call N
 *   STEPS_FAIL=N:ERRNO    call N fails with that number, once; only calls that may fail so (writing, allocating, creating)
 *   STEPS_REPORT=FILE     at exit, how many calls there were, as text
 *
 * Counted: open with O_CREAT, write, pwrite, ftruncate, fallocate, fsync, rename, link, unlink, unlinkat, mkdir, mkdirat, flock, futimens,
 * send; of files under STEPS_ROOT only, where that can be told cheaply (by path or descriptor), so that logs and libraries do not
 * count. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long n_steps;
static long kill_at, stop_at, fail_at;
static int fail_with;
static const char *root, *report;

static void *next(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        abort();
    return f;
}
#define NEXT(name)                                                                                                     \
    static __typeof__(name) *real;                                                                                     \
    if (!real)                                                                                                         \
    *(void **)&real = next(#name)

__attribute__((constructor)) static void begin(void)
{
    const char *kill_text = getenv("STEPS_KILL"), *fail_text = getenv("STEPS_FAIL"), *stop_text = getenv("STEPS_STOP");
    root = getenv("STEPS_ROOT");
    report = getenv("STEPS_REPORT");
    kill_at = kill_text ? strtol(kill_text, NULL, 10) : 0;
    stop_at = stop_text ? strtol(stop_text, NULL, 10) : 0;
    if (fail_text && sscanf(fail_text, "%ld:%d", &fail_at, &fail_with) != 2)
        abort();
}

__attribute__((destructor)) static void end(void)
{
    FILE *f = report ? fopen(report, "we") : NULL;
    if (!f)
        return;
    fprintf(f, "%ld\n", atomic_load(&n_steps));
    fclose(f);
}

/* True: the call is to fail, errno is set. */
static bool step(bool may_fail)
{
    long n = atomic_fetch_add(&n_steps, 1) + 1;
    if (n == kill_at)
        kill(getpid(), SIGKILL);
    if (n == stop_at)
        raise(SIGSTOP);  /* in this thread, so that it comes at once */
    while (n == kill_at) /* the signal is on its way */
        pause();
    if (n != fail_at || !may_fail)
        return false;
    errno = fail_with;
    return true;
}

static bool is_ours(const char *path)
{
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static bool fd_is_ours(int fd)
{
    char link[32], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    errno = before;
    if (n < 0)
        return false;
    path[n] = '\0';
    return is_ours(path);
}

static bool fd_is_socket(int fd)
{
    struct stat st;
    int before = errno;
    bool is = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
    errno = before;
    return is;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        NEXT(name);                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (flags & O_CREAT) {                                                                                         \
            va_list args;                                                                                              \
            va_start(args, flags);                                                                                     \
            mode = va_arg(args, mode_t);                                                                               \
            va_end(args);                                                                                              \
            if (is_ours(path) && step(true))                                                                           \
                return -1;                                                                                             \
        }                                                                                                              \
        return real(path, flags, mode);                                                                                \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *bytes, size_t n)
{
    NEXT(write);
    return (fd_is_ours(fd) && step(true)) || (fd_is_socket(fd) && step(false)) ? -1 : real(fd, bytes, n);
}

ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
    NEXT(send);
    return step(false) ? -1 : real(fd, bytes, n, flags);
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    NEXT(pwrite);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, bytes, n, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at)
{
    NEXT(pwrite64);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, bytes, n, at);
}

int ftruncate(int fd, off_t n)
{
    NEXT(ftruncate);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, n);
}

int ftruncate64(int fd, off64_t n)
{
    NEXT(ftruncate64);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, n);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
    NEXT(fallocate);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, mode, at, n);
}

int fallocate64(int fd, int mode, off64_t at, off64_t n)
{
    NEXT(fallocate64);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd, mode, at, n);
}

int fsync(int fd)
{
    NEXT(fsync);
    return fd_is_ours(fd) && step(true) ? -1 : real(fd);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    return is_ours(to) && step(true) ? -1 : real(from, to);
}

int link(const char *from, const char *to)
{
    NEXT(link);
    return is_ours(to) && step(true) ? -1 : real(from, to);
}

int unlink(const char *path)
{
    NEXT(unlink);
    return is_ours(path) && step(false) ? -1 : real(path);
}

int unlinkat(int dir, const char *path, int flags)
{
    NEXT(unlinkat);
    return fd_is_ours(dir) && step(false) ? -1 : real(dir, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    NEXT(mkdir);
    return is_ours(path) && step(true) ? -1 : real(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    NEXT(mkdirat);
    return fd_is_ours(dir) && step(true) ? -1 : real(dir, path, mode);
}

int flock(int fd, int how)
{
    NEXT(flock);
    return fd_is_ours(fd) && step(false) ? -1 : real(fd, how);
}

int futimens(int fd, const struct timespec times[2])
{
    NEXT(futimens);
    return fd_is_ours(fd) && step(false) ? -1 : real(fd, times);
}
