/* Programs in fresh processes: what they say, how they end, and what they hold. */
#include "bench/tests/test_bench.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/bench_process.h"

static int start(const char *script, const char *env, struct bench_process *p, struct base_error *err)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    return bench_process_start(argv, env, p, err);
}

static void ends_as_the_program_does(void **state)
{
    (void)state;
    static const struct {
        const char *script, *out, *words;
        int rc;
    } cases[] = {
        {"echo one; echo two", "one\ntwo\n", "", 0},
        {"cat", "", "", 0}, /* its input is closed */
        {"echo no >&2; echo really no >&2; exit 3", "", "exit code 3: really no", ERR_SERVICE},
        {"exit 7", "", "exit code 7: ", ERR_SERVICE},
        {"kill -9 $$", "", "signal 9", ERR_SERVICE},
        {"head -c 6000000 /dev/zero; echo late >&2; exit 1", NULL, "late", ERR_SERVICE}, /* more than is kept */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bench_process p;
        struct base_error err = {0};
        assert_int_equal(start(cases[i].script, NULL, &p, &err), 0);
        int rc = bench_process_end(&p, 20, &err);
        if (rc != cases[i].rc)
            fail_msg("%s: %d, expected %d: %s", cases[i].script, rc, cases[i].rc, err.text);
        assert_non_null(strstr(err.text, cases[i].words));
        if (cases[i].out)
            assert_string_equal(base_buffer_cstr(&p.text), cases[i].out);
        assert_true(p.text.n <= BENCH_OUTPUT_MAX);
        bench_process_done(&p);
    }
}

static void a_program_that_is_not_there(void **state)
{
    (void)state;
    const char *const argv[] = {"/nonexistent/program", NULL};
    struct bench_process p;
    struct base_error err = {0};
    assert_int_equal(bench_process_start(argv, NULL, &p, &err), 0);
    assert_int_equal(bench_process_end(&p, 20, &err), ERR_NOTFOUND);
    bench_process_done(&p);
}

static void held_between_its_line_and_the_end_of_input(void **state)
{
    (void)state;
    struct bench_process p;
    struct base_error err = {0};
    uint64_t pss = 0;
    assert_int_equal(start("echo $NAME; cat >/dev/null; echo bye", "NAME=value", &p, &err), 0);
    assert_int_equal(bench_process_line(&p, 20, &err), 0);
    assert_string_equal(base_buffer_cstr(&p.text), "value\n");
    assert_int_equal(bench_process_pss(&p, &pss, &err), 0);
    assert_true(pss > 4096 && pss < 1 << 30);
    assert_int_equal(kill(p.pid, 0), 0); /* it is still there */
    assert_int_equal(bench_process_end(&p, 20, &err), 0);
    assert_string_equal(base_buffer_cstr(&p.text), "value\nbye\n");
    bench_process_done(&p);
}

static void one_that_says_nothing(void **state)
{
    (void)state;
    struct bench_process p;
    struct base_error err = {0};
    assert_int_equal(start("sleep 100", NULL, &p, &err), 0);
    assert_int_equal(bench_process_line(&p, 0, &err), ERR_AGAIN);
    uint64_t began = base_clock_mono_ns();
    bench_process_done(&p); /* which ends it */
    assert_true(base_clock_mono_ns() - began < 20000000000u);

    assert_int_equal(start("echo 'cannot: no memory' >&2; exit 1", NULL, &p, &err), 0);
    assert_int_equal(bench_process_line(&p, 20, &err), ERR_SERVICE);
    assert_non_null(strstr(err.text, "cannot: no memory"));
    bench_process_done(&p);
}

static void one_that_does_not_end_is_killed(void **state)
{
    (void)state;
    struct bench_process p;
    struct base_error err = {0};
    assert_int_equal(start("trap '' TERM; while :; do sleep 1; done", NULL, &p, &err), 0);
    assert_int_equal(bench_process_end(&p, 1, &err), ERR_SERVICE);
    assert_non_null(strstr(err.text, "signal 9"));
    bench_process_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_as_the_program_does),
        cmocka_unit_test(a_program_that_is_not_there),
        cmocka_unit_test(held_between_its_line_and_the_end_of_input),
        cmocka_unit_test(one_that_says_nothing),
        cmocka_unit_test(one_that_does_not_end_is_killed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
