/* What fio may print, by a program of that name that stands in front of the real one in PATH. */
#include "bench/tests/test_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench_speed.h"

static char dir[] = "/tmp/rouse-test-XXXXXX", program[64], target[64];

static int make_dir(void **state)
{
    (void)state;
    char path[4096];
    const char *old = getenv("PATH");
    assert_non_null(mkdtemp(dir));
    snprintf(program, sizeof program, "%s/fio", dir);
    snprintf(target, sizeof target, "%s/file", dir);
    FILE *f = fopen(target, "w");
    assert_non_null(f);
    fputs("some bytes", f);
    fclose(f);
    snprintf(path, sizeof path, "%s:%s", dir, old ? old : "/usr/bin:/bin");
    return setenv("PATH", path, 1);
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(program);
    unlink(target);
    return rmdir(dir);
}

static void install(const char *script)
{
    FILE *f = fopen(program, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", script);
    fclose(f);
    assert_int_equal(chmod(program, 0755), 0);
}

static void reports(void **state)
{
    (void)state;
    static const struct {
        const char *name, *script, *words;
        int rc;
        double gbs;
    } cases[] = {
        {"a report", "echo '{\"jobs\":[{\"read\":{\"bw_bytes\":2000000000}}]}'", "", 0, 2},
        {"words in front", "echo 'fio: note'; echo '{\"jobs\":[{\"read\":{\"bw_bytes\":5e8}}]}'", "", 0, 0.5},
        {"the best depth counts",
         "case \"$*\" in *iodepth=16*) b=3000000000;; *) b=1000000000;; esac; "
         "echo \"{\\\"jobs\\\":[{\\\"read\\\":{\\\"bw_bytes\\\":$b}}]}\"",
         "", 0, 3},
        {"nothing", "", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"no JSON", "echo 'fio: broken {'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"no jobs", "echo '{\"jobs\":[]}'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"jobs are no list", "echo '{\"jobs\":7}'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"zero", "echo '{\"jobs\":[{\"read\":{\"bw_bytes\":0}}]}'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"negative", "echo '{\"jobs\":[{\"read\":{\"bw_bytes\":-1}}]}'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"text", "echo '{\"jobs\":[{\"read\":{\"bw_bytes\":\"fast\"}}]}'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"cut off", "echo '{\"jobs\":[{\"read\":{\"bw_bytes\":20'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"too deep", "head -c 100000 /dev/zero | tr '\\0' '{'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"more than is kept", "head -c 9000000 /dev/zero | tr '\\0' 'x'", "jobs[0].read.bw_bytes", ERR_SERVICE, 0},
        {"it fails", "echo 'fio: engine io_uring not loadable' >&2; exit 1", "not loadable", ERR_SERVICE, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bench_disk disk = {.gbs = -1};
        struct base_error err = {0};
        install(cases[i].script);
        int rc = bench_speed_fio(target, &disk, &err);
        if (rc != cases[i].rc || (rc == 0 ? disk.gbs != cases[i].gbs : disk.gbs != -1) ||
            !strstr(err.text, cases[i].words))
            fail_msg("%s: %d \"%s\", %g GB/s; expected %d \"%s\", %g", cases[i].name, rc, err.text, disk.gbs,
                     cases[i].rc, cases[i].words, cases[i].gbs);
    }
}

static void paths_that_fio_would_split(void **state)
{
    (void)state;
    struct bench_disk disk;
    struct base_error err = {0};
    assert_int_equal(bench_speed_fio("/tmp/a:b", &disk, &err), ERR_SERVICE);
    assert_non_null(strstr(err.text, "colon"));
    assert_int_equal(bench_speed_fio("/nonexistent", &disk, &err), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(reports), cmocka_unit_test(paths_that_fio_would_split)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
