/* A file is dropped from the page cache and read into it, and mincore says so; and the limits give figures. */
#include "bench/tests/test_bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "bench/bench_pages.h"
#include "bench/bench_speed.h"

#define FILE_BYTES ((size_t)24 << 20)

static char path[512];

static int make_file(void **state)
{
    (void)state;
    const char *dir = getenv("ROUSE_BINARY_DIR"); /* a disk: what is in tmpfs cannot be dropped */
    snprintf(path, sizeof path, "%s/bench-pages-XXXXXX", dir ? dir : ".");
    int fd = mkstemp(path);
    char *bytes = calloc(1, FILE_BYTES);
    assert_true(fd >= 0 && bytes);
    memset(bytes, 7, FILE_BYTES);
    assert_true(write(fd, bytes, FILE_BYTES) == (ssize_t)FILE_BYTES);
    free(bytes);
    close(fd);
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void skip_where_files_stay_in_memory(void)
{
    struct statfs s;
    if (statfs(path, &s) == 0 && (unsigned long)s.f_type == 0x01021994) { /* tmpfs */
        print_message("the build directory is in memory: its files cannot be dropped\n");
        skip();
    }
}

static void dropped_and_read_again(void **state)
{
    (void)state;
    struct base_error err = {0};
    double fraction = -1;
    skip_where_files_stay_in_memory();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(bench_pages_fill(path, &fraction, &err), 0);
        assert_true(fraction == 1);
        assert_int_equal(bench_pages_resident(path, &fraction, &err), 0);
        assert_true(fraction == 1);
        assert_int_equal(bench_pages_evict(path, &fraction, &err), 0); /* the first time it is dirty, too */
        assert_true(fraction < BENCH_COLD_MAX);
        assert_int_equal(bench_pages_resident(path, &fraction, &err), 0);
        assert_true(fraction < BENCH_COLD_MAX);
    }
}

/* A part that is read is counted as that part, within what the kernel reads ahead. */
static void half_a_file(void **state)
{
    (void)state;
    struct base_error err = {0};
    double fraction;
    static char bytes[FILE_BYTES / 2];
    skip_where_files_stay_in_memory();
    assert_int_equal(bench_pages_evict(path, &fraction, &err), 0);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* no reading ahead */
    assert_true(pread(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes);
    close(fd);
    assert_int_equal(bench_pages_resident(path, &fraction, &err), 0);
    if (fraction < 0.49 || fraction > 0.51)
        fail_msg("half the file was read, %.3f of it is cached", fraction);
}

/* A start with these pages would not be cold, so there is an error and no figure. */
static void what_is_mapped_stays_and_is_an_error(void **state)
{
    (void)state;
    struct base_error err = {0};
    double fraction;
    skip_where_files_stay_in_memory();
    int fd = open(path, O_RDONLY);
    uint8_t *map = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    assert_true(fd >= 0 && map != MAP_FAILED);
    assert_int_equal(bench_pages_evict(path, &fraction, &err), ERR_AGAIN);
    assert_non_null(strstr(err.text, "mapped"));
    munmap(map, FILE_BYTES);
    close(fd);
}

static void what_is_no_file(void **state)
{
    (void)state;
    struct base_error err = {0};
    struct bench_disk disk;
    double fraction;
    assert_int_equal(bench_pages_resident("/nonexistent", &fraction, &err), ERR_IO);
    assert_int_equal(bench_pages_evict("/tmp", &fraction, &err), ERR_INPUT);
    assert_int_equal(bench_pages_fill("/dev/null", &fraction, &err), ERR_INPUT);
    assert_int_equal(bench_speed_disk("/nonexistent", &disk, &err), ERR_IO);
    assert_non_null(strstr(err.text, "/nonexistent"));
}

static void limits_are_figures(void **state)
{
    (void)state;
    struct base_error err = {0};
    struct bench_disk disk = {0};
    double touch = 0, mapped = 0, copied = 0, fraction;
    skip_where_files_stay_in_memory();
    assert_int_equal(bench_pages_evict(path, &fraction, &err), 0);
    int rc = bench_speed_disk(path, &disk, &err);
    if (rc == 0) {
        assert_true(disk.gbs > 0.001 && disk.gbs < 1000 && disk.depth >= BENCH_DEPTH_MIN &&
                    disk.depth <= BENCH_DEPTH_MAX);
        assert_int_equal(bench_pages_resident(path, &fraction, &err), 0);
        assert_true(fraction < BENCH_COLD_MAX); /* it went past the page cache */
    } else {
        print_message("no O_DIRECT here: %s\n", err.text);
    }
    assert_true(bench_pages_prime(8 << 20) == 8 << 20);
    assert_int_equal(bench_speed_touch(64 << 20, &touch, &err), 0);
    assert_int_equal(bench_pages_fill(path, &fraction, &err), 0);
    assert_int_equal(bench_speed_cached(path, &mapped, &copied, &err), 0);
    assert_true(touch > 0.001 && mapped > 0.001 && copied > 0.001);
    assert_true(touch < 1000 && mapped < 1000 && copied < 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropped_and_read_again),
        cmocka_unit_test(half_a_file),
        cmocka_unit_test(what_is_mapped_stays_and_is_an_error),
        cmocka_unit_test(what_is_no_file),
        cmocka_unit_test(limits_are_figures),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
