#include "base/tests/test_base.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/file.h"

static char scratch[128];

static int make_scratch(void **state)
{
    (void)state;
    test_scratch_new(scratch);
    return 0;
}

static int drop_scratch(void **state)
{
    (void)state;
    test_scratch_free(scratch);
    return 0;
}

static const char *in_scratch(const char *name)
{
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", scratch, name);
    return path;
}

static void publish(const char *path, const char *text)
{
    struct base_error err = {0};
    if (base_file_publish(path, text, strlen(text), &err) < 0)
        fail_msg("%s", err.text);
}

static void assert_holds(const char *path, const char *text)
{
    struct base_buffer b;
    struct base_error err = {0};
    base_buffer_init(&b, 1 << 20);
    if (base_file_read(path, 1 << 20, &b, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(base_buffer_cstr(&b), text);
    base_buffer_done(&b);
}

static void test_read(void **state)
{
    (void)state;
    publish(in_scratch("empty"), "");
    publish(in_scratch("ten"), "0123456789");
    static const struct {
        const char *name, *file;
        size_t n_max, ceiling;
        int rc;
        const char *want; /* behind the "old" that the buffer holds before */
    } cases[] = {
        {"whole", "ten", 100, 100, 0, "old0123456789"},
        {"exactly the limit", "ten", 10, 13, 0, "old0123456789"},
        {"one over the limit", "ten", 9, 100, ERR_INPUT, "old"},
        {"one over the ceiling", "ten", 100, 12, ERR_INPUT, "old"},
        {"empty, nothing allowed", "empty", 0, 100, 0, "old"},
        {"not there", "none", 100, 100, ERR_NOTFOUND, "old"},
        {"below a file", "ten/x", 100, 100, ERR_NOTFOUND, "old"},
        {"a directory", ".", 100, 100, ERR_IO, "old"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_buffer b;
        struct base_error err = {0};
        base_buffer_init(&b, cases[i].ceiling);
        base_buffer_string(&b, "old");
        int rc = base_file_read(in_scratch(cases[i].file), cases[i].n_max, &b, &err);
        if (rc != cases[i].rc || strcmp(base_buffer_cstr(&b), cases[i].want) != 0)
            fail_msg("%s: %d \"%s\" (%s), want %d \"%s\"", cases[i].name, rc, base_buffer_cstr(&b), err.text,
                     cases[i].rc, cases[i].want);
        if (rc < 0 && !strstr(err.text, cases[i].file))
            fail_msg("%s: \"%s\" does not name the file", cases[i].name, err.text);
        base_buffer_done(&b);
    }
}

static void test_read_of_files_that_do_not_tell_their_size(void **state)
{
    (void)state;
    struct base_buffer b;
    base_buffer_init(&b, 1 << 16);
    assert_int_equal(base_file_read("/proc/self/stat", 1 << 16, &b, NULL), 0);
    assert_true(b.n > 0);
    base_buffer_clear(&b);
    assert_int_equal(base_file_read("/dev/zero", 1 << 16, &b, NULL), ERR_INPUT); /* endless: the limit holds */
    assert_int_equal(b.n, 0);
    base_buffer_done(&b);
}

static void test_pread_and_pwrite(void **state)
{
    (void)state;
    const char *path = in_scratch("at");
    struct base_error err = {0};
    char got[8] = "........";
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(base_file_pwrite(fd, "abcdef", 6, 4, path, &err), 0);
    assert_int_equal(base_file_pread(fd, got, 3, 5, path, &err), 0);
    assert_memory_equal(got, "bcd.", 4);
    assert_int_equal(base_file_pread(fd, got, 0, 100, path, &err), 0);
    assert_int_equal(base_file_pread(fd, got, 7, 4, path, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "ends at 10, 1 bytes too early"));
    assert_int_equal(base_file_pread(fd, got, 1, UINT64_MAX, path, &err), ERR_INPUT);
    close(fd);
    assert_int_equal(base_file_pread(-1, got, 1, 0, path, &err), ERR_IO);

    fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        assert_int_equal(base_file_pwrite(fd, "abc", 3, 0, "/dev/full", &err), ERR_IO);
        assert_non_null(strstr(err.text, "No space left"));
        close(fd);
    }
}

static void test_publish_replaces(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_scratch("pub"), 0755), 0);
    publish(in_scratch("pub/a"), "one");
    assert_holds(in_scratch("pub/a"), "one");
    publish(in_scratch("pub/a"), "two, longer");
    assert_holds(in_scratch("pub/a"), "two, longer");
    assert_int_equal(test_count_entries(in_scratch("pub")), 1);

    assert_int_equal(chdir(in_scratch("pub")), 0); /* a bare name: its directory is "." */
    publish("bare", "x");
    assert_holds("bare", "x");
    assert_int_equal(chdir("/"), 0);
}

static void test_publish_that_cannot_begin_or_end(void **state)
{
    (void)state;
    char too_long[5000];
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    assert_int_equal(mkdir(in_scratch("fail"), 0755), 0);
    assert_int_equal(mkdir(in_scratch("fail/dir"), 0755), 0);
    publish(in_scratch("fail/dir/x"), "");
    struct base_error err = {0};
    assert_int_equal(base_file_publish(in_scratch("nowhere/a"), "x", 1, &err), ERR_IO);
    assert_int_equal(base_file_publish(in_scratch("fail/dir"), "x", 1, &err), ERR_IO); /* rename refuses */
    assert_int_equal(base_file_publish(too_long, "x", 1, &err), ERR_INPUT);
    assert_int_equal(test_count_entries(in_scratch("fail")), 1);
}

/* The limit on a file's size stops the write in its middle, as a full disk does, and needs no privilege. */
static void test_publish_that_stops_in_the_middle(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_scratch("full"), 0755), 0);
    publish(in_scratch("full/a"), "old");
    static char big[100000];
    struct rlimit before, limit;
    struct base_error err = {0};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int rc = base_file_publish(in_scratch("full/a"), big, sizeof(big), &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, ERR_IO);
    assert_holds(in_scratch("full/a"), "old");
    assert_int_equal(test_count_entries(in_scratch("full")), 1);
}

enum { CHILD_CANNOT = 10 };

/* In a mount namespace of its own: 0 when all held, CHILD_CANNOT without the right to mount. */
static int child_on_full_file_system(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0)
        return CHILD_CANNOT;
    const char *dir = in_scratch("tmpfs");
    mkdir(dir, 0755);
    if (mount("tmpfs", dir, "tmpfs", 0, "size=64k") < 0)
        return CHILD_CANNOT;
    static char big[200000];
    struct base_error err = {0};
    if (base_file_publish(in_scratch("tmpfs/a"), "old", 3, &err) < 0)
        return 1;
    if (base_file_publish(in_scratch("tmpfs/a"), big, sizeof(big), &err) != ERR_IO ||
        !strstr(err.text, "No space left on device"))
        return 2;
    if (test_count_entries(dir) != 1)
        return 3;
    if (mount("none", dir, "none", MS_REMOUNT | MS_RDONLY, NULL) < 0)
        return CHILD_CANNOT;
    if (base_file_publish(in_scratch("tmpfs/a"), "new", 3, &err) != ERR_IO || !strstr(err.text, "Read-only"))
        return 4;
    if (base_file_make_dirs(dir, &err) < 0 || base_file_make_dirs(in_scratch("tmpfs/d"), &err) != ERR_IO)
        return 5;
    return 0;
}

static void test_publish_on_a_full_and_on_a_read_only_file_system(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_on_full_file_system());
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == CHILD_CANNOT) {
        print_message("skipped: mounting a tmpfs needs privileges that this process lacks\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

struct republisher {
    char path[256];
    _Atomic bool stop;
    int rc;
};

static void *republish(void *arg)
{
    struct republisher *r = arg;
    char text[20000];
    for (unsigned i = 0; !atomic_load(&r->stop) && r->rc == 0; i++) {
        memset(text, 'a' + (int)(i % 26), sizeof(text));
        r->rc = base_file_publish(r->path, text, 1000 + i % 2 * 19000, NULL);
    }
    return NULL;
}

static void test_readers_see_whole_files(void **state)
{
    (void)state;
    struct republisher r = {.rc = 0};
    snprintf(r.path, sizeof(r.path), "%s", in_scratch("whole"));
    publish(r.path, "a");
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, republish, &r), 0);
    struct base_buffer b;
    base_buffer_init(&b, 1 << 16);
    int n_bad = 0;
    for (int i = 0; i < 300; i++) {
        base_buffer_clear(&b);
        n_bad += base_file_read(r.path, 1 << 16, &b, NULL) < 0;
        n_bad += b.n != 1 && b.n != 1000 && b.n != 20000;
        n_bad += b.n > 0 && memchr(b.data, b.data[0] == 'a' ? 'b' : 'a', b.n) != NULL;
    }
    atomic_store(&r.stop, true);
    pthread_join(writer, NULL);
    base_buffer_done(&b);
    assert_int_equal(n_bad, 0);
    assert_int_equal(r.rc, 0);
}

static void test_make_dirs(void **state)
{
    (void)state;
    publish(in_scratch("plain"), "");
    char too_long[5000];
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    static const struct {
        const char *name, *path;
        int rc;
    } cases[] = {
        {"several", "d/e/f", 0},        {"again", "d/e/f", 0},          {"trailing", "d/g//", 0},
        {"doubled slashes", "d//h", 0}, {"on a file", "plain", ERR_IO}, {"below a file", "plain/x", ERR_IO},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        int rc = base_file_make_dirs(in_scratch(cases[i].path), &err);
        if (rc != cases[i].rc || base_file_is_dir(in_scratch(cases[i].path)) != (rc == 0))
            fail_msg("%s: %d (%s), want %d", cases[i].name, rc, err.text, cases[i].rc);
    }
    assert_int_equal(base_file_make_dirs("/", NULL), 0);
    assert_int_equal(base_file_make_dirs(too_long, NULL), ERR_INPUT);
    assert_true(base_file_exists(in_scratch("plain")));
    assert_false(base_file_is_dir(in_scratch("plain")));
    assert_false(base_file_exists(in_scratch("none")));
}

static void test_join(void **state)
{
    (void)state;
    static const struct {
        const char *dir, *name, *want;
        size_t size;
        int rc;
    } cases[] = {
        {"a", "b", "a/b", 4, 0}, {"a/", "b", "a/b", 4, 0},         {"/", "b", "/b", 3, 0},
        {"", "b", "b", 2, 0},    {"a", "b", "keep", 3, ERR_INPUT}, {"a", "", "a/", 8, 0},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        char out[16] = "keep";
        struct base_error err = {0};
        assert_int_equal(base_file_join(out, cases[i].size, cases[i].dir, cases[i].name, &err), cases[i].rc);
        assert_string_equal(out, cases[i].want);
    }
}

static void test_name(void **state)
{
    (void)state;
    static const struct {
        const char *path, *want;
    } cases[] = {
        {"/models/pythia-70m", "pythia-70m"},
        {"pythia-70m///", "pythia-70m"},
        {"./x", "x"},
        {"x", "x"},
        {"/", ""},
        {"", ""},
        {"..", ".."},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        size_t n = 99;
        const char *name = base_file_name(cases[i].path, &n);
        assert_int_equal(n, strlen(cases[i].want));
        assert_memory_equal(name, cases[i].want, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_of_files_that_do_not_tell_their_size),
        cmocka_unit_test(test_pread_and_pwrite),
        cmocka_unit_test(test_publish_replaces),
        cmocka_unit_test(test_publish_that_cannot_begin_or_end),
        cmocka_unit_test(test_publish_that_stops_in_the_middle),
        cmocka_unit_test(test_publish_on_a_full_and_on_a_read_only_file_system),
        cmocka_unit_test(test_readers_see_whole_files),
        cmocka_unit_test(test_make_dirs),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_name),
    };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
