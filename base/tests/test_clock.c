#include "base/tests/test_base.h"

#include "base/clock.h"

static uint64_t main_ns; /* when main() began */

static void test_process_start_is_just_before_main(void **state)
{
    (void)state;
    uint64_t start = base_clock_process_start_ns();
    if (start == 0) {
        print_message("skipped: /proc/self/stat does not tell when the process started\n");
        skip();
    }
    assert_true(start <= main_ns);
    assert_true(main_ns - start < UINT64_C(20) * 1000000000u); /* a loaded machine may take its time */
    uint64_t again = base_clock_process_start_ns();
    assert_true(again - start < 1000000u || start - again < 1000000u);
}

static void test_sleep_takes_at_least_its_time(void **state)
{
    (void)state;
    uint64_t before = base_clock_mono_ns();
    base_clock_sleep_ms(20);
    assert_true(base_clock_mono_ns() - before >= 20 * 1000000u);
    base_clock_sleep_ms(0);
}

static void test_unix_time_is_of_this_century(void **state)
{
    (void)state;
    assert_true(base_clock_unix_ms() > INT64_C(1700000000000));
    assert_true(base_clock_unix_ms() < INT64_C(4102444800000));
}

static void test_backoff(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t attempt, base_ms, max_ms, low, high;
    } cases[] = {
        {"first", 0, 100, 10000, 50, 100},
        {"second", 1, 100, 10000, 100, 200},
        {"fifth", 4, 100, 10000, 800, 1600},
        {"at the limit", 20, 100, 10000, 5000, 10000},
        {"shift beyond 32 bits", 4000000000u, 100, 10000, 5000, 10000},
        {"largest of all", 31, UINT32_MAX, UINT32_MAX, 2147483648u, UINT32_MAX},
        {"one", 0, 1, 10, 1, 1},
        {"none", 5, 0, 10, 0, 0},
        {"limit below base", 0, 100, 10, 5, 10},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        for (int k = 0; k < 200; k++) {
            uint32_t ms = base_clock_backoff_ms(cases[i].attempt, cases[i].base_ms, cases[i].max_ms);
            if (ms < cases[i].low || ms > cases[i].high)
                fail_msg("%s: %u ms, want %u to %u", cases[i].name, ms, cases[i].low, cases[i].high);
        }
    }
    bool differ = false;
    uint32_t first = base_clock_backoff_ms(20, 100, 1000000);
    for (int k = 0; k < 50; k++)
        differ |= base_clock_backoff_ms(20, 100, 1000000) != first;
    assert_true(differ);
}

int main(void)
{
    main_ns = base_clock_mono_ns();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process_start_is_just_before_main),
        cmocka_unit_test(test_sleep_takes_at_least_its_time),
        cmocka_unit_test(test_unix_time_is_of_this_century),
        cmocka_unit_test(test_backoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
