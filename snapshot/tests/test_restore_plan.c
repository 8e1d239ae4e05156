/* The choice of a way, as a table; what a node's processes say to each other; and attached weights as a worker lives on them. */
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/node.h"
#include "snapshot/restore_plan.h"
#include "snapshot/tests/snapshot_fixture.h"

#define GB 1e9

/* ---- choosing ---- */

static void test_choose(void **state)
{
    (void)state;
#define CPU  .device_maps = true, .mappable = true, .direct = true, .uring = true, .weights_bytes = 1 << 30, .n_cores = 2
#define CARD .device_uploads = true, .mappable = true, .direct = true, .weights_bytes = 1 << 30, .n_cores = 8
    static const struct {
        const char *name;
        struct restore_ground ground;
        enum restore_way forced, way;
        bool trusted, direct, uring;
        const char *reason;
    } cases[] = {
        {"cold", {CPU}, 0, RESTORE_ATTACH, false, false, false, "cold: read once for the node (0 % cached)"},
        {"cached", {CPU, .cached = 1}, 0, RESTORE_ATTACH, false, false, false, "cached: shared"},
        {"cached and proven",
         {CPU, .cached = 1, .proven = true},
         0,
         RESTORE_ATTACH,
         true,
         false,
         false,
         "verified on this node"},
        {"proven, and not all cached",
         {CPU, .cached = 0.999, .proven = true},
         0,
         RESTORE_ATTACH,
         false,
         false,
         false,
         "cached"},
        {"proven, and cold", {CPU, .proven = true}, 0, RESTORE_ATTACH, false, false, false, "cold"},
        {"over NFS",
         {CPU, .fs = RESTORE_FS_NETWORK, .cached = 1, .proven = true},
         0,
         RESTORE_STREAM,
         false,
         true,
         true,
         "network"},
        {"in tmpfs", {CPU, .fs = RESTORE_FS_MEMORY, .cached = 1}, 0, RESTORE_ATTACH, false, false, false, "in memory"},
        {"not mappable",
         {.device_maps = true, .n_cores = 2},
         0,
         RESTORE_STREAM,
         false,
         false,
         false,
         "cannot be mapped"},
        {"io_uring refused",
         {.device_maps = true, .mappable = true, .direct = true, .fs = RESTORE_FS_NETWORK},
         0,
         RESTORE_STREAM,
         false,
         true,
         false,
         "threads"},
        {"past the page cache is much faster here",
         {CPU, .memory_free = 4ull << 30,
          .rates = {{[SNAP_RATE_ATTACH] = 2 * GB, [SNAP_RATE_URING] = 6 * GB, [SNAP_RATE_THREADS] = GB}}},
         0,
         RESTORE_STREAM,
         false,
         true,
         true,
         "much faster"},
        {"a little faster is not worth a copy of one's own",
         {CPU, .memory_free = 4ull << 30,
          .rates = {{[SNAP_RATE_ATTACH] = 2 * GB, [SNAP_RATE_URING] = 3.8 * GB, [SNAP_RATE_THREADS] = GB}}},
         0,
         RESTORE_ATTACH,
         false,
         false,
         false,
         "cold"},
        {"much faster, but no memory for it",
         {CPU, .memory_free = 1 << 29,
          .rates = {{[SNAP_RATE_ATTACH] = 2 * GB, [SNAP_RATE_URING] = 6 * GB, [SNAP_RATE_THREADS] = GB}}},
         0,
         RESTORE_ATTACH,
         false,
         false,
         false,
         "cold"},
        {"much faster, but it is cached",
         {CPU, .cached = 0.9, .memory_free = 4ull << 30,
          .rates = {{[SNAP_RATE_ATTACH] = 2 * GB, [SNAP_RATE_URING] = 6 * GB, [SNAP_RATE_THREADS] = GB}}},
         0,
         RESTORE_ATTACH,
         false,
         false,
         false,
         "cached"},
        {"a card", {CARD, .cached = 1, .proven = true}, 0, RESTORE_RING, false, true, false, "memory of its own"},
        {"forced to stream",
         {CPU, .cached = 1, .proven = true},
         RESTORE_STREAM,
         RESTORE_STREAM,
         false,
         true,
         true,
         "forced"},
        {"forced to attach over NFS",
         {CPU, .fs = RESTORE_FS_NETWORK},
         RESTORE_ATTACH,
         RESTORE_ATTACH,
         false,
         false,
         false,
         "forced"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct restore_plan p;
        struct base_error err = {0};
        if (restore_choose(&cases[i].ground, cases[i].forced, &p, &err) < 0)
            fail_msg("%s: %s", cases[i].name, err.text);
        if (p.way != cases[i].way || p.trusted != cases[i].trusted || p.direct != cases[i].direct ||
            p.uring != cases[i].uring || !strstr(p.reason, cases[i].reason) || p.depth == 0)
            fail_msg("%s: %s, trusted %d, direct %d, io_uring %d, %s", cases[i].name, restore_way_name(p.way),
                     p.trusted, p.direct, p.uring, p.reason);
    }
}

static void test_cannot(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct restore_ground ground;
        enum restore_way forced;
        const char *why;
    } cases[] = {
        {"a ring on a cpu", {CPU}, RESTORE_RING, "needs no ring"},
        {"a card attached to", {CARD}, RESTORE_ATTACH, "memory of its own"},
        {"a card streamed to", {CARD}, RESTORE_STREAM, "memory of its own"},
        {"nothing to map", {.device_maps = true}, RESTORE_ATTACH, "cannot be mapped"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct restore_plan p;
        struct base_error err = {0};
        if (restore_choose(&cases[i].ground, cases[i].forced, &p, &err) != ERR_USAGE || !strstr(err.text, cases[i].why))
            fail_msg("%s: %s", cases[i].name, err.text);
    }
    enum restore_way way;
    for (int i = 0; i <= RESTORE_RING; i++)
        assert_true(restore_way_parse(restore_way_name((enum restore_way)i), &way) && (int)way == i);
    assert_false(restore_way_parse("fast", &way));
}

/* io_uring first, then threads, then whichever was faster here. */
static void test_reader(void **state)
{
    (void)state;
    static const struct {
        double uring, threads;
        bool works, by_uring;
    } cases[] = {{0, 0, true, true},       {0, 0, false, false},      {GB, 0, true, false},
                 {2 * GB, GB, true, true}, {GB, 2 * GB, true, false}, {2 * GB, GB, false, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct snap_rates rates = {{[SNAP_RATE_URING] = cases[i].uring, [SNAP_RATE_THREADS] = cases[i].threads}};
        if (restore_by_uring(&rates, cases[i].works) != cases[i].by_uring)
            fail_msg("case %zu", i);
    }
    uint32_t each;
    assert_int_equal(restore_threads(true, 8, 2, &each), 2);
    assert_int_equal(each, 4);
    assert_int_equal(restore_threads(true, 8, 64, &each), 4);
    assert_int_equal(each, 2);
    assert_int_equal(restore_threads(true, 1, 64, &each), 1);
    assert_int_equal(each, 1);
    assert_int_equal(restore_threads(false, 6, 2, &each), 6);
    assert_int_equal(each, 1);
    assert_int_equal(restore_depth(false, 1), 4);
    assert_int_equal(restore_depth(false, 3), 6);
    assert_int_equal(restore_depth(false, 64), 8);
}

static void test_estimate(void **state)
{
    (void)state;
    struct restore_ground g = {
        CPU, .rates = {{[SNAP_RATE_ATTACH] = 1 << 30, [SNAP_RATE_URING] = 1 << 28, [SNAP_RATE_THREADS] = 1 << 29}}};
    struct restore_plan p;
    assert_int_equal(restore_choose(&g, RESTORE_AUTO, &p, NULL), 0);
    assert_true(p.estimate_s > 0.99 && p.estimate_s < 1.01);
    assert_int_equal(restore_choose(&g, RESTORE_STREAM, &p, NULL), 0);
    assert_true(p.estimate_s > 1.99 && p.estimate_s < 2.01);
    g.cached = 0.75; /* what is cached need not be read */
    assert_int_equal(restore_choose(&g, RESTORE_AUTO, &p, NULL), 0);
    assert_true(p.estimate_s > 0.24 && p.estimate_s < 0.26);
    g.rates = (struct snap_rates){{0}};
    assert_int_equal(restore_choose(&g, RESTORE_AUTO, &p, NULL), 0);
    assert_true(p.estimate_s < 0); /* unknown */
}

/* ---- the node ---- */

/* A file and a place for marks; identity as a snapshot's would be. */
struct place {
    char dir[PATH_MAX];
    struct snap_file file;
};

static struct place make_place(const struct fixture *f)
{
    struct place p = {.file = {.device = 7, .inode = 11, .mtime_ns = 13, .ctime_ns = 17, .layout = {.file_bytes = 19}}};
    snprintf(p.dir, sizeof(p.dir), "%s/node", f->root);
    snprintf(p.file.digest, sizeof(p.file.digest), "%064d", 23);
    return p;
}

static struct snap_node *open_node(const struct place *p, const char *arch)
{
    struct snap_node *node = NULL;
    struct base_error err = {0};
    if (snap_node_open(p->dir, &p->file, arch, &node, &err) < 0)
        fail_msg("%s", err.text);
    return node;
}

/* Whatever differs, the mark is another's. */
static void test_mark(void **state)
{
    struct place p = make_place(*state);
    struct snap_node *node = open_node(&p, "x86-64-avx2");
    assert_false(snap_node_is_proven(node));
    snap_node_set_proven(node);
    assert_true(snap_node_is_proven(node));
    snap_node_close(node);
    node = open_node(&p, "x86-64-avx2");
    assert_true(snap_node_is_proven(node));
    snap_node_close(node);
    struct place others[] = {p, p, p, p};
    others[0].file.mtime_ns++;
    others[1].file.ctime_ns--;
    others[2].file.layout.file_bytes++;
    others[3].file.digest[5] = '1';
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        node = open_node(&others[i], "x86-64-avx2");
        assert_false(snap_node_is_proven(node));
        snap_node_close(node);
    }
    node = open_node(&p, "x86-64-generic");
    assert_false(snap_node_is_proven(node));
    snap_node_close(node);
}

/* A place that others write to says nothing. */
static void test_place(void **state)
{
    struct place p = make_place(*state);
    struct snap_node *node = NULL;
    struct base_error err = {0};
    fixture_shell("mkdir '%s' && chmod 777 '%s'", p.dir, p.dir);
    assert_int_equal(snap_node_open(p.dir, &p.file, "a", &node, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "only this user"));
    fixture_shell("rmdir '%s' && mkdir '%s.other' && ln -s '%s.other' '%s'", p.dir, p.dir, p.dir, p.dir);
    assert_int_equal(snap_node_open(p.dir, &p.file, "a", &node, &err), ERR_USAGE);
    fixture_shell("rm '%s' && : > '%s'", p.dir, p.dir);
    assert_int_equal(snap_node_open(p.dir, &p.file, "a", &node, &err), ERR_USAGE);
}

/* Another process holds the turn and does `act` with it. */
enum act { PROVES, DIES, HANGS };

static pid_t holder(const struct place *p, enum act act)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct snap_node *node = open_node(p, "a");
        bool ours = snap_node_await(node) == SNAP_NODE_OURS;
        (void)!write(ready[1], &byte, ours);
        close(ready[1]);
        for (uint64_t i = 0; act != HANGS && i < 20; i++) {
            snap_node_advance(node, i);
            base_clock_sleep_ms(10);
        }
        if (act == PROVES)
            snap_node_set_proven(node);
        base_clock_sleep_ms(act == PROVES ? 200 : 0);
        while (act == HANGS)
            pause();
        _exit(0);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void test_turn(void **state)
{
    static const struct {
        enum act act;
        enum snap_node_turn turn;
        uint64_t ms_min, ms_max;
    } cases[] = {{PROVES, SNAP_NODE_PROVEN, 50, 4000},
                 {DIES, SNAP_NODE_OURS, 50, 4000},
                 {HANGS, SNAP_NODE_ALONE, SNAP_NODE_STALLED_MS - 100, SNAP_NODE_STALLED_MS + 4000}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct place p = make_place(*state);
        p.file.inode += i;
        pid_t pid = holder(&p, cases[i].act);
        struct snap_node *node = open_node(&p, "a");
        uint64_t began_ns = base_clock_mono_ns();
        assert_int_equal(snap_node_await(node), cases[i].turn);
        uint64_t ms = (base_clock_mono_ns() - began_ns) / 1000000;
        if (ms < cases[i].ms_min || ms > cases[i].ms_max)
            fail_msg("case %zu: waited %llu ms", i, (unsigned long long)ms);
        snap_node_close(node);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

static void test_rates(void **state)
{
    struct place p = make_place(*state);
    struct snap_rates r;
    snap_node_rates(p.dir, 5, &r);
    for (int i = 0; i < SNAP_RATE_N; i++)
        assert_true(r.bytes_s[i] == 0);
    snap_node_note_rate(p.dir, 5, SNAP_RATE_THREADS, 2 * GB);
    snap_node_note_rate(p.dir, 5, SNAP_RATE_THREADS, 4 * GB);
    snap_node_note_rate(p.dir, 5, SNAP_RATE_THREADS, 5 * GB);
    snap_node_note_rate(p.dir, 5, SNAP_RATE_THREADS, GB); /* somebody else was at the disk */
    snap_node_note_rate(p.dir, 5, SNAP_RATE_TOUCH, GB);
    snap_node_note_rate(p.dir, 6, SNAP_RATE_ATTACH, GB);
    snap_node_rates(p.dir, 5, &r);
    assert_true(r.bytes_s[SNAP_RATE_THREADS] > 4.7 * GB && r.bytes_s[SNAP_RATE_THREADS] < 5 * GB &&
                r.bytes_s[SNAP_RATE_TOUCH] == GB && r.bytes_s[SNAP_RATE_ATTACH] == 0);
    static const char *const hostile[] = {"threads nan", "threads -1", "threads 1e300", "threads",
                                          "threads  ",   "\\0\\0",     "thread",        "threads inf\nring x"};
    for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
        fixture_shell("printf '%s' > '%s'/rates-5", hostile[i], p.dir);
        snap_node_rates(p.dir, 5, &r);
        assert_true(r.bytes_s[SNAP_RATE_THREADS] == 0);
    }
}

/* ---- attached ---- */

/* Pages of the mapping that holds `at`: KiB resident, and whether it is of a file. */
static void mapping_of(const void *at, char *out_file, size_t size, unsigned long *out_anonymous_kib)
{
    char line[512];
    bool inside = false;
    FILE *maps = fopen("/proc/self/smaps", "r");
    assert_non_null(maps);
    out_file[0] = '\0';
    *out_anonymous_kib = 0;
    while (fgets(line, sizeof(line), maps)) {
        unsigned long begin, end, inode;
        char path[256] = "";
        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu %255s", &begin, &end, &inode, path) >= 3) {
            inside = (uintptr_t)at >= begin && (uintptr_t)at < end;
            if (inside)
                snprintf(out_file, size, "%s", path);
        } else if (inside) {
            (void)sscanf(line, "Anonymous: %lu kB", out_anonymous_kib);
        }
    }
    fclose(maps);
}

static struct snap_model *start_model(struct gpu_device *device, const struct snap_start_options *o)
{
    struct snap_model *m = NULL;
    struct base_error err = {0};
    if (snap_start(device, o, &m, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

/* The weights are the file's pages, not a copy; forced to stream, a copy. The second start reads nothing. Answers are the same. */
static void test_attached(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char node_dir[PATH_MAX], file[256];
    unsigned long anonymous_kib;
    struct fixture_run cold = fixture_start(&o);
    assert_true(cold.built);
    snprintf(node_dir, sizeof(node_dir), "%s/node", f->root);
    o.node_dir = node_dir;
    base_clock_sleep_ms(60); /* a file of this instant is not marked */
    static const struct {
        const char *plan, *note;
        bool is_file;
    } cases[] = {{NULL, "verified on this node", false},
                 {"auto", "verified on this node", true},
                 {"attach", "verified on this node", true},
                 {"stream", "forced", false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct gpu_device *device = fixture_device(NULL);
        o.restore_plan = cases[i].plan;
        o.trace = base_trace_new();
        struct snap_model *m = start_model(device, &o);
        assert_true(m->restored);
        mapping_of(gpu_model_host(m->gpu), file, sizeof(file), &anonymous_kib);
        bool is_file = strstr(file, ".snap") != NULL;
        assert_true(is_file == (i < 3));
        if (is_file)
            assert_int_equal(anonymous_kib, 0);
        struct base_buffer text;
        base_buffer_init(&text, 1 << 16);
        base_trace_print(o.trace, &text);
        assert_true((strstr(base_buffer_cstr(&text), cases[i].note) != NULL) == (i > 0));
        assert_true((strstr(base_buffer_cstr(&text), "  verify ") != NULL) == !cases[i].is_file);
        base_buffer_done(&text);
        base_trace_free(o.trace);
        o.trace = NULL;
        snap_model_close(m);
        gpu_close(device);
        struct fixture_run warm = fixture_start(&o);
        fixture_assert_same_answers(&cold, &warm);
        fixture_run_done(&warm);
    }
    o.restore_plan = "ring";
    struct fixture_run ring = fixture_start(&o); /* falls back to a cold load, and says why */
    assert_true(ring.rc == 0 && !ring.restored);
    fixture_run_done(&ring);
    fixture_run_done(&cold);
}

static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    fsync(fd);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
}

/* tmpfs keeps its pages whatever it is told. */
static bool is_in_memory(const char *path)
{
    struct statfs s;
    assert_int_equal(statfs(path, &s), 0);
    return s.f_type == TMPFS_MAGIC;
}

/* Of several starts at once one proves the file: one that nobody knows yet, and one that was proven and has left the page cache. */
static void test_burst(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char node_dir[PATH_MAX], path[PATH_MAX];
    enum { N = 6 };
    pid_t pids[N];
    struct fixture_run cold = fixture_start(&o);
    base_clock_sleep_ms(60);
    snprintf(node_dir, sizeof(node_dir), "%s/node", f->root);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    o.node_dir = node_dir;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            pids[i] = fork();
            if (pids[i] == 0) {
                struct fixture_run run = fixture_start(&o);
                _exit(!run.restored ? 2 : strstr(run.trace, "verify_s") ? 1 : 0);
            }
        }
        int n_proved = 0;
        for (int i = 0; i < N; i++) {
            int status = 0;
            waitpid(pids[i], &status, 0);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
            n_proved += WEXITSTATUS(status);
        }
        bool dropped = round > 0 && !is_in_memory(path);
        assert_int_equal(n_proved, round == 0 || dropped ? 1 : 0);
        drop_cache(path);
    }
    fixture_run_done(&cold);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_cannot),
        cmocka_unit_test(test_reader),
        cmocka_unit_test(test_estimate),
        cmocka_unit_test_setup_teardown(test_mark, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_place, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_turn, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_rates, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_attached, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_burst, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
