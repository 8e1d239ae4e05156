/* Medians, ratios within a round, and the CSV. */
#include "bench/tests/test_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "bench/bench_samples.h"

static void near(double have, double want)
{
    if (have - want > 1e-12 || want - have > 1e-12)
        fail_msg("%.15g, expected %.15g", have, want);
}

static void medians_of_odd_and_even_counts(void **state)
{
    (void)state;
    static const struct {
        double values[5];
        uint32_t n;
        double median, low, high;
    } cases[] = {{{7}, 1, 7, 7, 7},
                 {{3, 1}, 2, 2, 1, 3},
                 {{9, -1, 4}, 3, 4, -1, 9},
                 {{4, 1, 3, 2}, 4, 2.5, 1, 4},
                 {{5, 5, 1, 9, 5}, 5, 5, 1, 9}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct bench_samples s = {0};
        for (uint32_t i = 0; i < cases[c].n; i++)
            bench_samples_add(&s, i + 1, "cold", "ready_s", cases[c].values[i]);
        bench_samples_add(&s, 1, "cold", "other", 1000);
        bench_samples_add(&s, 1, "cached", "ready_s", 1000);
        struct bench_summary m = bench_samples_summary(&s, "cold", "ready_s");
        assert_int_equal(m.n, cases[c].n);
        near(m.median, cases[c].median);
        near(m.low, cases[c].low);
        near(m.high, cases[c].high);
        bench_samples_done(&s);
    }
}

static void what_was_not_measured_has_no_median(void **state)
{
    (void)state;
    struct bench_samples s = {0};
    assert_int_equal(bench_samples_summary(&s, "cold", "ready_s").n, 0);
    bench_samples_add(&s, 1, "cold", "ready_s", 1);
    assert_int_equal(bench_samples_summary(&s, "cold", "ready").n, 0);
    assert_int_equal(bench_samples_ratio(&s, "cold", "ready_s", "limit", "cold_s").n, 0);
    bench_samples_done(&s);
}

/* The machine was twice as slow in round 2, limit and start alike: that is no spread of the ratio. */
static void ratios_are_made_within_a_round(void **state)
{
    (void)state;
    struct bench_samples s = {0};
    bench_samples_add(&s, 1, "limit", "cold_s", 1);
    bench_samples_add(&s, 2, "limit", "cold_s", 2);
    bench_samples_add(&s, 3, "limit", "cold_s", 0); /* nothing can be divided by this */
    bench_samples_add(&s, 2, "cold", "ready_s", 2.4);
    bench_samples_add(&s, 1, "cold", "ready_s", 1.2);
    bench_samples_add(&s, 3, "cold", "ready_s", 5);
    bench_samples_add(&s, 4, "cold", "ready_s", 5); /* without a limit */
    struct bench_summary r = bench_samples_ratio(&s, "cold", "ready_s", "limit", "cold_s");
    assert_int_equal(r.n, 2);
    near(r.low, 1.2);
    near(r.high, 1.2);
    bench_samples_done(&s);
}

static void names_are_kept_once(void **state)
{
    (void)state;
    struct bench_samples s = {0};
    char name[16] = "cold-x8";
    const char *first = bench_samples_name(&s, name);
    strcpy(name, "cold-x9");
    assert_string_equal(first, "cold-x8");
    assert_ptr_equal(bench_samples_name(&s, "cold-x8"), first);
    assert_ptr_not_equal(bench_samples_name(&s, name), first);
    bench_samples_done(&s);
}

static void csv_has_every_measurement(void **state)
{
    (void)state;
    struct bench_samples s = {0};
    struct base_error err = {0};
    struct base_buffer text;
    char path[] = "/tmp/rouse-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (uint32_t i = 0; i < 1000; i++) /* more than the first allocation holds */
        bench_samples_add(&s, i, "cold", "ready_s", i / 4.0);
    assert_int_equal(bench_samples_csv(&s, path, &err), 0);
    base_buffer_init(&text, 1 << 20);
    assert_int_equal(base_file_read(path, 1 << 20, &text, &err), 0);
    const char *all = base_buffer_cstr(&text);
    assert_int_equal(strncmp(all, "round,case,metric,value\n0,cold,ready_s,0\n1,cold,ready_s,0.25\n", 60), 0);
    size_t lines = 0;
    for (; *all; all++)
        lines += *all == '\n';
    assert_int_equal(lines, 1001);
    assert_int_equal(bench_samples_csv(&s, "/nonexistent/a.csv", &err), ERR_IO);
    unlink(path);
    base_buffer_done(&text);
    bench_samples_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(medians_of_odd_and_even_counts), cmocka_unit_test(what_was_not_measured_has_no_median),
        cmocka_unit_test(ratios_are_made_within_a_round), cmocka_unit_test(names_are_kept_once),
        cmocka_unit_test(csv_has_every_measurement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
