#include "bench/bench_speed.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/pool.h"
#include "bench/bench_pages.h"

enum { PAGE_BYTES = 4096, TOUCH_BYTES = 32 << 20 };

static double gbs(uint64_t bytes, uint64_t began_ns)
{
    uint64_t ns = base_clock_mono_ns() - began_ns;
    return ns ? (double)bytes / (double)ns : 0;
}

static uint8_t *fresh(uint64_t bytes, struct base_error *err)
{
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        (void)base_fail_errno(err, "memory for %llu bytes", (unsigned long long)bytes);
        return NULL;
    }
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

/* ---- the disk ---- */

struct sweep {
    int fd;
    uint64_t bytes;
    uint32_t n_blocks, depth;
    uint8_t *buffers; /* [BENCH_DEPTH_MAX][BENCH_BLOCK_BYTES], touched */
    int failed;       /* errno of a read; threads race for it, any will do */
};

static uint32_t block_bytes(const struct sweep *s, uint32_t block)
{
    uint64_t left = s->bytes - (uint64_t)block * BENCH_BLOCK_BYTES;
    uint64_t n = left < BENCH_BLOCK_BYTES ? (left + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES : BENCH_BLOCK_BYTES;
    return (uint32_t)n;
}

static void submit(const struct sweep *s, struct io_uring *ring, uint32_t slot, uint32_t block)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring); /* never NULL: as many entries as slots */
    io_uring_prep_read(sqe, s->fd, s->buffers + (size_t)slot * BENCH_BLOCK_BYTES, block_bytes(s, block),
                       (uint64_t)block * BENCH_BLOCK_BYTES);
    io_uring_sqe_set_data64(sqe, slot);
}

/* One pass with `depth` reads in flight; negative errno when one failed. */
static int pass_uring(const struct sweep *s, struct io_uring *ring)
{
    uint32_t next = 0, flying = 0;
    int failed = 0;
    for (; next < s->n_blocks && next < s->depth; next++, flying++)
        submit(s, ring, next, next);
    while (flying) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_submit_and_wait(ring, 1);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN)
            return rc;
        while (io_uring_peek_cqe(ring, &cqe) == 0) {
            uint32_t slot = (uint32_t)io_uring_cqe_get_data64(cqe);
            failed = cqe->res < 0 ? cqe->res : failed;
            io_uring_cqe_seen(ring, cqe);
            flying--;
            if (!failed && next < s->n_blocks) {
                submit(s, ring, slot, next++);
                flying++;
            }
        }
    }
    return failed;
}

static void read_block(void *context, uint32_t task, uint32_t thread)
{
    struct sweep *s = context;
    if (pread(s->fd, s->buffers + (size_t)thread * BENCH_BLOCK_BYTES, block_bytes(s, task),
              (off_t)task * BENCH_BLOCK_BYTES) < 0)
        s->failed = errno;
}

static int pass_threads(struct sweep *s, double *out_gbs, struct base_error *err)
{
    struct base_pool *pool = NULL;
    int rc = base_pool_new(s->depth, &pool, err);
    if (rc < 0)
        return rc;
    uint64_t began = base_clock_mono_ns();
    base_pool_run(pool, read_block, s, s->n_blocks);
    *out_gbs = gbs(s->bytes, began);
    base_pool_free(pool);
    return s->failed ? -s->failed : 0;
}

static int pass(struct sweep *s, bool *uring, double *out_gbs, struct base_error *err)
{
    struct io_uring ring;
    if (!*uring || io_uring_queue_init(s->depth, &ring, 0) < 0) {
        *uring = false; /* a container's seccomp profile may forbid it */
        return pass_threads(s, out_gbs, err);
    }
    uint64_t began = base_clock_mono_ns();
    int rc = pass_uring(s, &ring);
    *out_gbs = gbs(s->bytes, began);
    io_uring_queue_exit(&ring);
    return rc;
}

static int sweep_depths(struct sweep *s, struct bench_disk *out, struct base_error *err)
{
    bool uring = true;
    struct bench_disk best = {0};
    for (s->depth = BENCH_DEPTH_MIN; s->depth <= BENCH_DEPTH_MAX; s->depth *= 2) {
        double speed = 0;
        int rc = pass(s, &uring, &speed, err);
        if (rc < 0) {
            errno = -rc;
            return base_fail_errno(err, "reading with O_DIRECT, %u in flight", s->depth);
        }
        if (speed > best.gbs)
            best = (struct bench_disk){speed, s->depth, uring};
    }
    *out = best;
    return 0;
}

static int open_for(const char *path, int flags, struct sweep *s, struct base_error *err)
{
    struct stat st;
    s->fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (s->fd < 0 || fstat(s->fd, &st) < 0)
        return base_fail_errno(err, "%s%s", path, flags ? " with O_DIRECT" : "");
    s->bytes = (uint64_t)st.st_size < BENCH_SPEED_BYTES ? (uint64_t)st.st_size : BENCH_SPEED_BYTES;
    s->n_blocks = (uint32_t)((s->bytes + BENCH_BLOCK_BYTES - 1) / BENCH_BLOCK_BYTES);
    return s->n_blocks ? 0 : base_fail(err, ERR_INPUT, "%s is empty", path);
}

int bench_speed_disk(const char *path, struct bench_disk *out, struct base_error *err)
{
    size_t n = (size_t)BENCH_DEPTH_MAX * BENCH_BLOCK_BYTES;
    struct sweep s = {.fd = -1};
    int rc = open_for(path, O_DIRECT, &s, err);
    s.buffers = rc == 0 ? fresh(n, err) : NULL;
    if (rc == 0 && !s.buffers)
        rc = err->code;
    if (rc == 0) {
        memset(s.buffers, 1, n);
        rc = sweep_depths(&s, out, err);
    }
    if (s.buffers)
        munmap(s.buffers, n);
    if (s.fd >= 0)
        close(s.fd);
    return rc;
}

/* ---- memory ---- */

struct area {
    uint8_t *memory; /* fresh, or the mapped file */
    uint64_t bytes, piece_bytes;
    int fd;
    uint8_t *buffers; /* [n_threads][BENCH_BLOCK_BYTES] */
    uint64_t *sums;   /* [n_threads][8]: a cache line each */
};

static uint64_t piece_at(const struct area *a, uint32_t task, uint64_t *out_n)
{
    uint64_t at = (uint64_t)task * a->piece_bytes;
    *out_n = a->bytes - at < a->piece_bytes ? a->bytes - at : a->piece_bytes;
    return at;
}

static void touch(void *context, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct area *a = context;
    uint64_t n, at = piece_at(a, task, &n);
    bench_pages_touch(a->memory + at, n);
}

static void sum_mapped(void *context, uint32_t task, uint32_t thread)
{
    const struct area *a = context;
    uint64_t n, at = piece_at(a, task, &n), x = 0, y = 0, z = 0, w = 0;
    (void)base_memory_populate_read(a->memory + at, n);
    const uint64_t *p = (const uint64_t *)(const void *)(a->memory + at);
    for (uint64_t i = 0; i + 8 <= n / 8; i += 8) {
        x += p[i] ^ p[i + 1];
        y += p[i + 2] ^ p[i + 3];
        z += p[i + 4] ^ p[i + 5];
        w += p[i + 6] ^ p[i + 7];
    }
    a->sums[thread * 8] += x ^ y ^ z ^ w;
}

static void copy_cached(void *context, uint32_t task, uint32_t thread)
{
    const struct area *a = context;
    uint64_t n, at = piece_at(a, task, &n);
    a->sums[thread * 8] += (uint64_t)pread(a->fd, a->buffers + (size_t)thread * BENCH_BLOCK_BYTES, n, (off_t)at);
}

static double run(struct base_pool *pool, base_pool_fn *fn, struct area *a)
{
    uint64_t began = base_clock_mono_ns();
    base_pool_run(pool, fn, a, (uint32_t)((a->bytes + a->piece_bytes - 1) / a->piece_bytes));
    return gbs(a->bytes, began);
}

int bench_speed_touch(uint64_t bytes, double *out_gbs, struct base_error *err)
{
    uint64_t most = base_memory_available() / 3;
    struct area a = {.bytes = bytes < most || !most ? bytes : most, .piece_bytes = TOUCH_BYTES};
    struct base_pool *pool = NULL;
    int rc = base_pool_new(0, &pool, err);
    if (rc < 0)
        return rc;
    a.memory = fresh(a.bytes, err);
    if (a.memory) {
        *out_gbs = run(pool, touch, &a);
        munmap(a.memory, a.bytes);
    } else {
        rc = err->code;
    }
    base_pool_free(pool);
    return rc;
}

int bench_speed_cached(const char *path, double *out_mapped_gbs, double *out_copied_gbs, struct base_error *err)
{
    struct sweep s = {.fd = -1};
    struct area a = {.memory = MAP_FAILED, .piece_bytes = BENCH_BLOCK_BYTES};
    struct base_pool *pool = NULL;
    size_t buffer_bytes = 0;
    int rc = open_for(path, 0, &s, err);
    if (rc == 0)
        rc = base_pool_new(0, &pool, err);
    if (rc == 0) { /* per thread: a block to copy to, and behind those a page for sums */
        buffer_bytes = (size_t)base_pool_n_threads(pool) * (BENCH_BLOCK_BYTES + PAGE_BYTES);
        a.fd = s.fd;
        a.bytes = s.bytes;
        a.buffers = fresh(buffer_bytes, err);
        a.memory = mmap(NULL, a.bytes, PROT_READ, MAP_SHARED, s.fd, 0);
        if (!a.buffers)
            rc = err->code;
        else if (a.memory == MAP_FAILED)
            rc = base_fail_errno(err, "%s: mmap", path);
    }
    if (rc == 0) {
        memset(a.buffers, 0, buffer_bytes);
        a.sums = (uint64_t *)(void *)(a.buffers + (size_t)base_pool_n_threads(pool) * BENCH_BLOCK_BYTES);
        *out_mapped_gbs = run(pool, sum_mapped, &a);
        *out_copied_gbs = run(pool, copy_cached, &a);
    }
    if (a.memory != MAP_FAILED)
        munmap(a.memory, a.bytes);
    if (a.buffers)
        munmap(a.buffers, buffer_bytes);
    base_pool_free(pool);
    if (s.fd >= 0)
        close(s.fd);
    return rc;
}
