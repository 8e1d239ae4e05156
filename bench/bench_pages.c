#include "bench/bench_pages.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/pool.h"

enum {
    PAGE_BYTES = 4096,
    PIECE_BYTES = 32 << 20, /* touched at once: sixteen huge pages */
    READ_BYTES = 4 << 20,
    TRIES = 5,
    TRY_MS = 200 /* between two tries at dropping pages: writeback or another reader may hold them */
};

static int open_sized(const char *path, int *out_fd, uint64_t *out_bytes, struct base_error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return base_fail_errno(err, "%s", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0) {
        close(fd);
        return base_fail(err, ERR_INPUT, "%s: not a regular file with bytes in it", path);
    }
    if (st.st_uid != geteuid() && access(path, W_OK) < 0) { /* mincore would say that all of it is cached */
        close(fd);
        return base_fail(
            err, ERR_USAGE,
            "%s: the kernel tells only its owner, or who may write it, which of its pages are cached; run as "
            "uid %u, or on a copy of your own",
            path, (unsigned)st.st_uid);
    }
    *out_fd = fd;
    *out_bytes = (uint64_t)st.st_size;
    return 0;
}

static int count_resident(int fd, uint64_t bytes, const char *path, double *out_fraction, struct base_error *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (bytes + page - 1) / page, resident = 0;
    unsigned char *pages = malloc(n);
    void *map = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, fd, 0);
    int rc = 0;
    if (!pages)
        rc = base_fail(err, ERR_NOMEM, "out of memory for a map of %zu pages", n);
    else if (map == MAP_FAILED || mincore(map, bytes, pages) < 0)
        rc = base_fail_errno(err, "%s: mincore", path);
    for (size_t i = 0; rc == 0 && i < n; i++)
        resident += pages[i] & 1;
    if (map != MAP_FAILED)
        munmap(map, bytes);
    free(pages);
    if (rc == 0)
        *out_fraction = (double)resident / (double)n;
    return rc;
}

int bench_pages_resident(const char *path, double *out_fraction, struct base_error *err)
{
    int fd = -1;
    uint64_t bytes = 0;
    int rc = open_sized(path, &fd, &bytes, err);
    if (rc < 0)
        return rc;
    rc = count_resident(fd, bytes, path, out_fraction, err);
    close(fd);
    return rc;
}

int bench_pages_evict(const char *path, double *out_fraction, struct base_error *err)
{
    int fd = -1;
    uint64_t bytes = 0;
    double fraction = 1;
    int rc = open_sized(path, &fd, &bytes, err);
    if (rc < 0)
        return rc;
    for (int i = 0; rc == 0 && i < TRIES && fraction >= BENCH_COLD_MAX; i++) {
        if (i)
            base_clock_sleep_ms(TRY_MS);
        (void)fsync(fd); /* dirty pages are not dropped */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        rc = count_resident(fd, bytes, path, &fraction, err);
    }
    close(fd);
    if (rc == 0 && fraction >= BENCH_COLD_MAX)
        rc = base_fail(err, ERR_AGAIN,
                       "%s: %.1f %% of it stay in the page cache after %d tries at dropping them; a process "
                       "that uses this snapshot has it mapped: end it, or measure with --cached",
                       path, 100 * fraction, TRIES);
    if (rc == 0)
        *out_fraction = fraction;
    return rc;
}

int bench_pages_fill(const char *path, double *out_fraction, struct base_error *err)
{
    int fd = -1;
    uint64_t bytes = 0;
    double fraction = 0;
    int rc = open_sized(path, &fd, &bytes, err);
    if (rc < 0)
        return rc;
    uint8_t *buffer = malloc(READ_BYTES);
    if (!buffer)
        rc = base_fail(err, ERR_NOMEM, "out of memory for a buffer of %d bytes", READ_BYTES);
    for (int i = 0; rc == 0 && i < TRIES && fraction < BENCH_CACHED_MIN; i++) {
        ssize_t n = 1;
        for (uint64_t at = 0; rc == 0 && at < bytes && n > 0; at += (uint64_t)n)
            if ((n = pread(fd, buffer, READ_BYTES, (off_t)at)) < 0)
                rc = base_fail_errno(err, "%s: read", path);
        if (rc == 0)
            rc = count_resident(fd, bytes, path, &fraction, err);
    }
    free(buffer);
    close(fd);
    if (rc == 0 && fraction < BENCH_CACHED_MIN)
        rc = base_fail(err, ERR_AGAIN,
                       "%s: only %.1f %% of it stay in the page cache; memory is short (%.1f GB available)", path,
                       100 * fraction, (double)base_memory_available() / 1e9);
    if (rc == 0)
        *out_fraction = fraction;
    return rc;
}

/* ---- fresh memory ---- */

struct touched {
    uint8_t *memory;
    uint64_t bytes;
};

void bench_pages_touch(uint8_t *memory, uint64_t n)
{
    if (base_memory_populate_write(memory, n) == 0)
        return;
    for (uint64_t i = 0; i < n; i += PAGE_BYTES)
        ((volatile uint8_t *)memory)[i] = 1;
}

static void touch_piece(void *context, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct touched *t = context;
    uint64_t at = (uint64_t)task * PIECE_BYTES, n = t->bytes - at < PIECE_BYTES ? t->bytes - at : PIECE_BYTES;
    bench_pages_touch(t->memory + at, n);
}

uint64_t bench_pages_prime(uint64_t bytes)
{
    uint64_t most = base_memory_available() / 10 * 7;
    struct touched t = {.bytes = bytes < most || !most ? bytes : most};
    struct base_pool *pool = NULL;
    struct base_error err = {0};
    t.memory = mmap(NULL, t.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.memory == MAP_FAILED)
        return 0;
    if (base_pool_new(0, &pool, &err) == 0) {
        (void)madvise(t.memory, t.bytes, MADV_HUGEPAGE);
        base_pool_run(pool, touch_piece, &t, (uint32_t)((t.bytes + PIECE_BYTES - 1) / PIECE_BYTES));
    } else {
        t.bytes = 0;
    }
    base_pool_free(pool);
    munmap(t.memory, t.bytes);
    return t.bytes;
}
