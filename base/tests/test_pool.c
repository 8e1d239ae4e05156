#include "base/tests/test_base.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/pool.h"

enum { TASKS_MAX = 2000 };

struct tally {
    uint32_t runs[TASKS_MAX]; /* plain on purpose: each task is one thread's, and the run's end orders it */
    uint64_t sum[64];         /* per thread */
    uint32_t n_threads;
    _Atomic uint32_t n_bad;
};

static void count(void *context, uint32_t task, uint32_t thread)
{
    struct tally *t = context;
    if (thread >= t->n_threads || task >= TASKS_MAX) {
        atomic_fetch_add(&t->n_bad, 1);
        return;
    }
    t->runs[task]++;
    t->sum[thread] += task;
}

static void check_run(struct base_pool *pool, uint32_t n_tasks)
{
    static struct tally t;
    memset(&t, 0, sizeof(t));
    t.n_threads = base_pool_n_threads(pool);
    base_pool_run(pool, count, &t, n_tasks);
    uint64_t sum = 0;
    for (size_t i = 0; i < N_OF(t.sum); i++)
        sum += t.sum[i];
    for (uint32_t i = 0; i < TASKS_MAX; i++) {
        if (t.runs[i] != (i < n_tasks))
            fail_msg("task %u of %u ran %u times", i, n_tasks, t.runs[i]);
    }
    assert_int_equal(t.n_bad, 0);
    assert_true(sum == (uint64_t)n_tasks * (n_tasks - (n_tasks > 0)) / 2);
}

static void test_every_task_once(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 3, 8, 40};
    static const uint32_t tasks[] = {0, 1, 2, 3, 7, 64, 1000, TASKS_MAX};
    for (size_t i = 0; i < N_OF(threads); i++) {
        struct base_pool *pool = NULL;
        struct base_error err = {0};
        assert_int_equal(base_pool_new(threads[i], &pool, &err), 0);
        assert_int_equal(base_pool_n_threads(pool), threads[i]);
        for (size_t k = 0; k < N_OF(tasks); k++) {
            for (int again = 0; again < 20; again++)
                check_run(pool, tasks[k]);
        }
        base_pool_free(pool);
    }
}

struct total {
    _Atomic uint64_t sum;
};

static void add_task(void *context, uint32_t task, uint32_t thread)
{
    (void)thread;
    struct total *total = context;
    atomic_fetch_add_explicit(&total->sum, task + 1, memory_order_relaxed);
}

/* Runs back to back, with the context on a stack that changes: a thread that came late to an old run would be seen. */
static void test_many_runs(void **state)
{
    (void)state;
    static const uint32_t threads[] = {2, 4, 16};
    for (size_t i = 0; i < N_OF(threads); i++) {
        struct base_pool *pool = NULL;
        assert_int_equal(base_pool_new(threads[i], &pool, NULL), 0);
        for (uint32_t run = 0; run < 5000; run++) {
            struct total total = {0};
            uint32_t n = 2 + run % 13;
            base_pool_run(pool, add_task, &total, n);
            uint64_t got = atomic_load(&total.sum);
            if (got != (uint64_t)n * (n + 1) / 2)
                fail_msg("run %u of %u tasks: sum %llu", run, n, (unsigned long long)got);
        }
        base_pool_free(pool);
    }
}

static void sleep_task(void *context, uint32_t task, uint32_t thread)
{
    (void)thread;
    base_clock_sleep_ms(task == 0 ? 0 : 5); /* long enough for the caller to stop spinning and sleep */
    struct total *total = context;
    atomic_fetch_add(&total->sum, 1);
}

static void test_caller_sleeps_until_the_last_is_done(void **state)
{
    (void)state;
    struct base_pool *pool = NULL;
    assert_int_equal(base_pool_new(4, &pool, NULL), 0);
    for (int run = 0; run < 10; run++) {
        struct total total = {0};
        base_pool_run(pool, sleep_task, &total, 4);
        assert_int_equal(atomic_load(&total.sum), 4);
        base_clock_sleep_ms(2); /* and for the others to sleep before the next run */
    }
    base_pool_free(pool);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void test_idle_pool_burns_nothing(void **state)
{
    (void)state;
    struct base_pool *pool = NULL;
    assert_int_equal(base_pool_new(0, &pool, NULL), 0);
    check_run(pool, 100);
    base_clock_sleep_ms(5);
    double before = cpu_seconds();
    base_clock_sleep_ms(300);
    double burnt = cpu_seconds() - before;
    base_pool_free(pool);
    if (burnt > 0.03) /* one spinning thread would have burnt 0.3 */
        fail_msg("%.3f s of cpu in 0.3 s of idleness", burnt);
}

struct meeting {
    _Atomic uint32_t n_arrived;
    uint32_t n_threads;
};

/* Ends when every thread has come: so the caller cannot do the others' tasks, and a run costs a real fork and join. */
static void meet(void *context, uint32_t task, uint32_t thread)
{
    (void)task;
    (void)thread;
    struct meeting *m = context;
    atomic_fetch_add(&m->n_arrived, 1);
    while (atomic_load(&m->n_arrived) < m->n_threads)
        sched_yield();
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Figures to look at; the limit only says that nobody waits for a timer tick, and leaves room for a loaded machine. */
static void time_runs(const char *what, struct base_pool *pool, uint32_t pause_ms, size_t n_runs)
{
    uint64_t ns[2000];
    assert_true(n_runs <= N_OF(ns));
    for (size_t i = 0; i < n_runs; i++) {
        struct meeting m = {.n_threads = base_pool_n_threads(pool)};
        if (pause_ms > 0)
            base_clock_sleep_ms(pause_ms);
        uint64_t before = base_clock_mono_ns();
        base_pool_run(pool, meet, &m, m.n_threads);
        ns[i] = base_clock_mono_ns() - before;
    }
    qsort(ns, n_runs, sizeof(ns[0]), by_size);
    print_message("%s, %u threads: median %.2f us, 9 of 10 below %.2f us\n", what, base_pool_n_threads(pool),
                  (double)ns[n_runs / 2] * 1e-3, (double)ns[n_runs * 9 / 10] * 1e-3);
    assert_true(ns[n_runs / 2] < 20 * 1000000);
}

static void test_runs_cost_microseconds(void **state)
{
    (void)state;
    struct base_pool *pool = NULL;
    assert_int_equal(base_pool_new(0, &pool, NULL), 0);
    time_runs("runs back to back", pool, 0, 2000);
    time_runs("runs that wake sleepers", pool, 1, 100);
    base_pool_free(pool);
}

static _Atomic uint32_t n_signals_elsewhere;
static pid_t main_thread;

static void on_signal(int signal_number)
{
    (void)signal_number;
    if (gettid() != main_thread)
        atomic_fetch_add(&n_signals_elsewhere, 1);
}

static void test_signals_are_left_to_the_program(void **state)
{
    (void)state;
    main_thread = gettid();
    struct base_pool *pool = NULL;
    assert_int_equal(base_pool_new(4, &pool, NULL), 0);
    struct sigaction act = {.sa_handler = on_signal}, before;
    sigaction(SIGUSR1, &act, &before);
    for (int i = 0; i < 20; i++) {
        kill(getpid(), SIGUSR1);
        check_run(pool, 50);
    }
    sigaction(SIGUSR1, &before, NULL);
    base_pool_free(pool);
    assert_int_equal(n_signals_elsewhere, 0);
}

static void test_limits(void **state)
{
    (void)state;
    struct base_error err = {0};
    struct base_pool *pool = NULL;
    assert_int_equal(base_pool_new(100000, &pool, &err), ERR_USAGE);
    assert_null(pool);
    base_pool_free(NULL);
    assert_true(base_pool_default_threads() >= 1);
}

/* ---- cgroup quota ---- */

struct quota_file {
    const char *path, *text;
};

static void test_quota(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct quota_file files[5];
        uint32_t want;
    } cases[] = {
        {"no cgroups at all", {{0}}, 0},
        {"v2 in a container", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "250000 100000\n"}}, 3},
        {"v2 without limit", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "max 100000\n"}}, 0},
        {"v2, exactly two", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "200000 100000\n"}}, 2},
        {"v2, a tenth of a core", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "10000 100000\n"}}, 1},
        {"v2, the parent is tighter",
         {{"/proc/self/cgroup", "0::/a/b\n"},
          {"/sys/fs/cgroup/a/b/cpu.max", "800000 100000\n"},
          {"/sys/fs/cgroup/a/cpu.max", "400000 100000\n"}},
         4},
        {"v2, the path is the host's",
         {{"/proc/self/cgroup", "0::/kubepods/pod1\n"}, {"/sys/fs/cgroup/cpu.max", "600000 100000\n"}},
         6},
        {"v2, rubbish", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "some words\n"}}, 0},
        {"v2, empty", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", ""}}, 0},
        {"v2, a period of 0", {{"/proc/self/cgroup", "0::/\n"}, {"/sys/fs/cgroup/cpu.max", "100000 0\n"}}, 0},
        {"lines that are none", {{"/proc/self/cgroup", "0\n:\n::\nx:y\n"}}, 0},
        {"v1",
         {{"/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n"},
          {"/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "150000\n"},
          {"/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n"}},
         2},
        {"v1 below its usual link, in a container",
         {{"/proc/self/cgroup", "4:cpuacct,cpu:/docker/1\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
         3},
        {"v1 without limit",
         {{"/proc/self/cgroup", "4:cpu:/\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
         0},
        {"v1, cpuset is not cpu",
         {{"/proc/self/cgroup", "4:cpuset:/\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
         0},
        {"both, the tighter one counts",
         {{"/proc/self/cgroup", "4:cpu:/\n0::/\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "700000\n"},
          {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
          {"/sys/fs/cgroup/cpu.max", "500000 100000\n"}},
         5},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        char root[128], path[512];
        test_scratch_new(root);
        for (size_t k = 0; k < N_OF(cases[i].files) && cases[i].files[k].path; k++) {
            snprintf(path, sizeof(path), "%s%s", root, cases[i].files[k].path);
            *strrchr(path, '/') = '\0';
            assert_int_equal(base_file_make_dirs(path, NULL), 0);
            path[strlen(path)] = '/';
            assert_int_equal(base_file_publish(path, cases[i].files[k].text, strlen(cases[i].files[k].text), NULL), 0);
        }
        uint32_t got = base_pool_quota(root);
        test_scratch_free(root);
        if (got != cases[i].want)
            fail_msg("%s: %u, want %u", cases[i].name, got, cases[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_many_runs),
        cmocka_unit_test(test_caller_sleeps_until_the_last_is_done),
        cmocka_unit_test(test_idle_pool_burns_nothing),
        cmocka_unit_test(test_runs_cost_microseconds),
        cmocka_unit_test(test_signals_are_left_to_the_program),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
