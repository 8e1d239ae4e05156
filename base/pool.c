/* A run is one number: `remaining`, the tasks that nobody has claimed yet. It is the queue, the wake-up word and the stop
 * signal in one, which keeps a run at microseconds: the kernel calls it many thousand times a second.
 *
 *   run      writes fn, context, n_tasks, unfinished; then stores remaining = n_tasks (release); wakes sleepers
 *   claim    remaining: r -> r - 1 (acquire), task n_tasks - r. fn, context and n_tasks are read only behind a claim
 *   done     unfinished -= what this thread did (release); who brings it to 0 wakes the caller
 *
 * (1) While a claimed task is unfinished the run does not return, so what a claim reads cannot change under it.
 * (2) A thread that slept through a run finds remaining == 0, or the tasks of a later run: both are right to act on. */
#include "base/pool.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"

#define POOL_STOP UINT32_MAX /* in remaining: threads leave */

enum {
    POOL_THREADS_MAX = 1024,
    POOL_SPIN_NS = 30 * 1000, /* about what a futex sleep and wake cost; longer only burns a core */
    POOL_LINE_BYTES = 64      /* counters that different threads hammer lie on different cache lines */
};

struct pool_thread {
    struct base_pool *pool;
    pthread_t handle;
    uint32_t index;
};

struct base_pool {
    _Alignas(POOL_LINE_BYTES) _Atomic uint32_t remaining;
    _Alignas(POOL_LINE_BYTES) _Atomic uint32_t unfinished;
    _Atomic uint32_t caller_sleeps;
    _Alignas(POOL_LINE_BYTES) _Atomic uint32_t n_sleeping;
    _Alignas(POOL_LINE_BYTES) base_pool_fn *fn; /* these three: written by run, read behind a claim */
    void *context;
    uint32_t n_tasks;
    uint32_t n_threads; /* the caller is thread 0 */
    uint32_t n_started; /* threads[0 .. n_started) exist */
    uint64_t spin_ns;
    struct pool_thread threads[];
};

static void pool_futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void pool_futex_wake(_Atomic uint32_t *word, uint32_t n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static inline void pool_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Until the word has (until_zero) or has no longer (!until_zero) the value 0, or the time for spinning is over. */
static uint32_t pool_spin(const struct base_pool *pool, _Atomic uint32_t *word, bool until_zero)
{
    uint32_t v = atomic_load_explicit(word, memory_order_acquire);
    if (pool->spin_ns == 0 || (v == 0) == until_zero)
        return v;
    uint64_t until = base_clock_mono_ns() + pool->spin_ns;
    do {
        for (int i = 0; i < 16; i++) {
            pool_pause();
            v = atomic_load_explicit(word, memory_order_acquire);
            if ((v == 0) == until_zero)
                return v;
        }
    } while (base_clock_mono_ns() < until);
    return v;
}

/* Claims and runs tasks until none is left. */
static void pool_work(struct base_pool *pool, uint32_t thread)
{
    uint32_t n_done = 0;
    uint32_t r = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    while (r > 0 && r != POOL_STOP) {
        if (!atomic_compare_exchange_weak_explicit(&pool->remaining, &r, r - 1, memory_order_acquire,
                                                   memory_order_acquire))
            continue;
        pool->fn(pool->context, pool->n_tasks - r, thread);
        n_done++;
        r = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    }
    /* One subtraction for all of them: until it is made, no other run can begin. */
    if (n_done > 0 && atomic_fetch_sub(&pool->unfinished, n_done) == n_done && atomic_load(&pool->caller_sleeps))
        pool_futex_wake(&pool->unfinished, 1);
}

static void *pool_thread_main(void *arg)
{
    const struct pool_thread *self = arg;
    struct base_pool *pool = self->pool;
    for (;;) {
        uint32_t r = pool_spin(pool, &pool->remaining, false);
        if (r == POOL_STOP)
            return NULL;
        if (r > 0) {
            pool_work(pool, self->index);
            continue;
        }
        /* run stores remaining, then looks for sleepers; we do it the other way round: one of the two sees the other. */
        atomic_fetch_add(&pool->n_sleeping, 1);
        pool_futex_wait(&pool->remaining, 0);
        atomic_fetch_sub(&pool->n_sleeping, 1);
    }
}

static void pool_publish(struct base_pool *pool, uint32_t remaining)
{
    atomic_store(&pool->remaining, remaining);
    uint32_t n_sleeping = atomic_load(&pool->n_sleeping);
    if (n_sleeping > 0)
        pool_futex_wake(&pool->remaining, n_sleeping < remaining ? n_sleeping : remaining);
}

void base_pool_run(struct base_pool *pool, base_pool_fn *fn, void *context, uint32_t n_tasks)
{
    assert(n_tasks < POOL_STOP);
    if (pool->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t i = 0; i < n_tasks; i++)
            fn(context, i, 0);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    pool->n_tasks = n_tasks;
    atomic_store_explicit(&pool->unfinished, n_tasks, memory_order_relaxed);
    pool_publish(pool, n_tasks);
    pool_work(pool, 0);
    while (pool_spin(pool, &pool->unfinished, true) > 0) {
        atomic_store(&pool->caller_sleeps, 1);
        uint32_t left = atomic_load(&pool->unfinished);
        if (left > 0)
            pool_futex_wait(&pool->unfinished, left);
        atomic_store(&pool->caller_sleeps, 0);
    }
}

static int pool_start(struct base_pool *pool, struct base_error *err)
{
    /* Signals are the program's business: they go to threads that wait for them. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int cause = 0;
    while (cause == 0 && pool->n_started + 1 < pool->n_threads) {
        struct pool_thread *t = &pool->threads[pool->n_started];
        *t = (struct pool_thread){.pool = pool, .index = pool->n_started + 1};
        cause = pthread_create(&t->handle, NULL, pool_thread_main, t);
        if (cause == 0) {
            char name[16];
            snprintf(name, sizeof(name), "pool-%u", t->index);
            pthread_setname_np(t->handle, name);
            pool->n_started++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (cause == 0)
        return 0;
    errno = cause;
    return base_fail_errno(err, "start thread %u of %u", pool->n_started + 1, pool->n_threads);
}

int base_pool_new(uint32_t n_threads, struct base_pool **out_pool, struct base_error *err)
{
    uint32_t n_cores = base_pool_default_threads();
    if (n_threads == 0)
        n_threads = n_cores < POOL_THREADS_MAX ? n_cores : POOL_THREADS_MAX;
    if (n_threads > POOL_THREADS_MAX)
        return base_fail(err, ERR_USAGE, "%u threads are more than the %d that a pool may have", n_threads,
                         POOL_THREADS_MAX);
    size_t n_bytes = sizeof(struct base_pool) + (n_threads - 1) * sizeof(struct pool_thread);
    n_bytes = (n_bytes + POOL_LINE_BYTES - 1) / POOL_LINE_BYTES * POOL_LINE_BYTES;
    struct base_pool *pool = aligned_alloc(POOL_LINE_BYTES, n_bytes);
    if (!pool)
        return base_fail(err, ERR_NOMEM, "thread pool: out of memory");
    memset(pool, 0, n_bytes);
    pool->n_threads = n_threads;
    /* With more threads than cores, who spins keeps the one it waits for from running. */
    pool->spin_ns = n_threads <= n_cores ? POOL_SPIN_NS : 0;
    int rc = pool_start(pool, err);
    if (rc < 0) {
        base_pool_free(pool);
        return rc;
    }
    *out_pool = pool;
    return 0;
}

void base_pool_free(struct base_pool *pool)
{
    if (!pool)
        return;
    pool_publish(pool, POOL_STOP);
    for (uint32_t i = 0; i < pool->n_started; i++)
        pthread_join(pool->threads[i].handle, NULL);
    free(pool);
}

uint32_t base_pool_n_threads(const struct base_pool *pool)
{
    return pool->n_threads;
}
