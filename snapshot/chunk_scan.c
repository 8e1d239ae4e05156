#include "snapshot/chunk_scan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/pool.h"
#include "base/progress.h"
#include "snapshot/chunk_reader.h"
#include "snapshot/restore_plan.h"

enum { DEPTH_MAX = 8, THREADS_MAX = 8, DRAW_MS = 50 };

struct scan {
    const struct chunk_scan *o;
    bool uring;
    uint8_t *buffers;          /* [DEPTH_MAX][SNAP_CHUNK_BYTES] */
    uint32_t n_threads, depth; /* of one thread */
    atomic_uint next, n_running;
    atomic_uint_fast64_t done;
    pthread_mutex_t lock; /* guards first and err */
    uint32_t first;
    struct base_error err;
};

struct scan_thread {
    struct scan *scan;
    uint32_t number;
};

static void note_fault(struct scan *s, uint32_t chunk, const struct base_error *err)
{
    pthread_mutex_lock(&s->lock);
    if (chunk < s->first) {
        s->first = chunk;
        s->err = *err;
    }
    pthread_mutex_unlock(&s->lock);
}

/* A buffer for each chunk under way: slot by slot, as they come free. */
static void scan_chunks(struct scan *s, struct chunk_reader *r, uint8_t *buffers)
{
    const uint32_t n_chunks = s->o->file->layout.n_chunks;
    uint32_t n_free = s->depth, free_slots[DEPTH_MAX];
    for (uint32_t i = 0; i < s->depth; i++)
        free_slots[i] = i;
    for (;;) {
        while (n_free > 0 && chunk_reader_has_room(r)) {
            uint32_t chunk = atomic_fetch_add(&s->next, 1);
            if (chunk >= n_chunks)
                break;
            uint32_t slot = free_slots[--n_free];
            chunk_reader_submit(r, chunk, buffers + (size_t)slot * SNAP_CHUNK_BYTES, slot);
        }
        if (chunk_reader_n_pending(r) == 0)
            return;
        struct base_error err = {0};
        struct chunk_read read;
        if (chunk_reader_take(r, &read, &err) < 0)
            note_fault(s, read.chunk, &err);
        free_slots[n_free++] = read.slot;
        atomic_fetch_add(&s->done, snap_layout_chunk(&s->o->file->layout, read.chunk).bytes);
    }
}

static void *scan_main(void *arg)
{
    struct scan_thread *t = arg;
    struct scan *s = t->scan;
    struct chunk_reader *r = NULL;
    struct base_error err = {0};
    const struct chunk_reader_options options = {
        .file = s->o->file, .uring = s->uring, .direct = true, .depth = s->depth, .n_slots = s->depth};
    if (chunk_reader_open(&options, &r, &err) < 0)
        note_fault(s, 0, &err);
    else
        scan_chunks(s, r, s->buffers + (size_t)t->number * s->depth * SNAP_CHUNK_BYTES);
    chunk_reader_close(r);
    atomic_fetch_sub(&s->n_running, 1);
    return NULL;
}

static void watch(struct scan *s)
{
    struct base_progress bar = {0};
    uint64_t total = 0;
    for (uint32_t i = 0; i < s->o->file->layout.n_chunks; i++)
        total += snap_layout_chunk(&s->o->file->layout, i).bytes;
    base_progress_begin(&bar, "verifying", "B", total);
    while (atomic_load(&s->n_running) > 0) {
        base_progress_set(&bar, atomic_load(&s->done));
        base_clock_sleep_ms(DRAW_MS);
    }
    base_progress_end(&bar);
}

static int scan_threads(struct scan *s, struct base_error *err)
{
    struct scan_thread args[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    uint32_t n = 0;
    int rc = 0;
    for (; n < s->n_threads; n++) {
        args[n] = (struct scan_thread){s, n};
        atomic_fetch_add(&s->n_running, 1);
        if (pthread_create(&threads[n], NULL, scan_main, &args[n]) != 0) {
            atomic_fetch_sub(&s->n_running, 1);
            rc = n > 0 ? 0 : base_fail(err, ERR_NOMEM, "verify: no thread");
            break;
        }
    }
    if (s->o->progress && rc == 0)
        watch(s);
    for (uint32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return rc;
}

static void choose_reader(struct scan *s)
{
    struct snap_rates rates = {{0}};
    const bool works = s->o->reader != CHUNK_SCAN_THREADS && chunk_reader_uring_works();
    const uint32_t n_cores = base_pool_default_threads();
    if (s->o->reader == CHUNK_SCAN_AUTO)
        snap_node_rates(s->o->node_dir, s->o->file->device, &rates);
    s->uring = restore_by_uring(&rates, works);
    s->n_threads = restore_threads(s->uring, restore_depth(s->uring, n_cores), n_cores, &s->depth);
}

int chunk_scan_run(const struct chunk_scan *scan, struct chunk_scan_result *out, struct base_error *err)
{
    struct scan s = {.o = scan, .first = UINT32_MAX};
    const size_t n_bytes = (size_t)DEPTH_MAX * SNAP_CHUNK_BYTES;
    const bool cold = snap_file_cached_share(scan->file, SNAP_WEIGHTS) < RESTORE_COLD_SHARE;
    choose_reader(&s);
    s.buffers = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.buffers == MAP_FAILED)
        return base_fail_errno(err, "verify: %zu bytes of buffers", n_bytes);
    (void)madvise(s.buffers, n_bytes, MADV_HUGEPAGE);
    memset(s.buffers, 0, n_bytes); /* first touch is not what is measured */
    pthread_mutex_init(&s.lock, NULL);
    uint64_t began_ns = base_clock_mono_ns();
    int rc = scan_threads(&s, err);
    double seconds = (double)(base_clock_mono_ns() - began_ns) * 1e-9;
    if (rc == 0 && s.err.code)
        rc = base_fail(err, s.err.code, "%s", s.err.text);
    pthread_mutex_destroy(&s.lock);
    munmap(s.buffers, n_bytes);
    if (rc < 0)
        return rc;
    *out = (struct chunk_scan_result){atomic_load(&s.done), seconds, s.n_threads, s.depth, s.uring};
    if (cold && seconds > 0 && scan->reader == CHUNK_SCAN_AUTO)
        snap_node_note_rate(scan->node_dir, scan->file->device, s.uring ? SNAP_RATE_URING : SNAP_RATE_THREADS,
                            (double)out->bytes / seconds);
    return 0;
}
