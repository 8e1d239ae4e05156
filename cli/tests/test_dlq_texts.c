/* What people type and what lies on topics: times, places, ledger pages, text for a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/dlq_ledger.h"
#include "cli/dlq_place.h"
#include "cli/dlq_text.h"
#include "cli/dlq_time.h"

#define NOW 1764158400000 /* 2025-11-26T12:00Z */

static void test_times(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms; /* -1: none */
    } cases[] = {
        {"2025-11-26", 1764115200000},
        {"2025-11-26T10:30", 1764153000000},
        {"2025-11-26 10:30Z", 1764153000000},
        {"2025-11-26T10:30:15Z", 1764153015000},
        {"1764153000000", 1764153000000},
        {"10000", 10000},
        {"0s", NOW},
        {"90s", NOW - 90000},
        {"30m", NOW - 1800000},
        {"2h", NOW - 7200000},
        {"7d", NOW - 604800000},
        {"", -1},
        {"-1", -1},
        {"+5m", -1},
        {" 5m", -1},
        {"5m ", -1},
        {"5", -1},
        {"2026", -1},
        {"5w", -1},
        {"5mm", -1},
        {"0x10", -1},
        {"99999999999999999999", -1},
        {"253402300800000", -1},
        {"18446744073709551616s", -1},
        {"100000000d", -1},
        {"2025-02-30", -1},
        {"2025-13-01", -1},
        {"2025-00-01", -1},
        {"2025-11-26T24:00", -1},
        {"2025-11-26T10:60", -1},
        {"2025-11-26T10:30:60", -1},
        {"2025-11-26T10", -1},
        {"2025-11-26T10:30ZZ", -1},
        {"2025-1-26", -1},
        {"1969-12-31", -1},
        {"yesterday", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct base_error err = {0};
        int64_t ms = -1;
        int rc = dlq_time_parse(cases[i].text, NOW, &ms, &err);
        if (cases[i].ms < 0 ? rc != ERR_USAGE || !strstr(err.text, "is no time") : rc != 0 || ms != cases[i].ms)
            fail_msg("'%s': %d, %lld, %s", cases[i].text, rc, (long long)ms, err.text);
    }
}

static void test_times_are_shown(void **state)
{
    (void)state;
    char out[32];
    dlq_time_text(1764153015000, out);
    assert_string_equal(out, "2025-11-26 10:30:15Z");
    static const int64_t none[] = {0, -1, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        dlq_time_text(none[i], out);
        assert_string_equal(out, "-");
    }
}

static void test_places(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int32_t partition; /* -1: none */
        int64_t offset;
    } cases[] = {
        {"0/0", 0, 0},
        {"3/1207", 3, 1207},
        {"letters/3/1207", 3, 1207},
        {"2147483647/9223372036854775807", INT32_MAX, INT64_MAX},
        {"2147483648/0", -1, 0},
        {"0/9223372036854775808", -1, 0},
        {"others/3/1207", -1, 0},
        {"letters/letters/3/1207", -1, 0},
        {"letters/3", -1, 0},
        {"", -1, 0},
        {"/", -1, 0},
        {"3", -1, 0},
        {"3/", -1, 0},
        {"/3", -1, 0},
        {"3/4/5", -1, 0},
        {"-3/4", -1, 0},
        {"3/-4", -1, 0},
        {"3/+4", -1, 0},
        {" 3/4", -1, 0},
        {"3/4 ", -1, 0},
        {"3/0x4", -1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t partition = -1;
        int64_t offset = -1;
        bool is = dlq_place_parse(cases[i].text, "letters", &partition, &offset);
        if (is != (cases[i].partition >= 0) || (is && (partition != cases[i].partition || offset != cases[i].offset)))
            fail_msg("'%s': %d, %d/%lld", cases[i].text, is, (int)partition, (long long)offset);
    }
}

static void take(struct dlq_ledger *l, const char *key, const void *value, size_t n)
{
    struct base_error err = {0};
    assert_int_equal(dlq_ledger_take(l, key, strlen(key), value, n, &err), 0);
}

static void test_ledger_pages(void **state)
{
    (void)state;
    struct dlq_ledger l;
    struct base_error err = {0};
    assert_int_equal(dlq_ledger_init(&l, "first", 2, &err), 0);
    take(&l, "1/first/1/0", "\x05", 1);
    take(&l, "1/second/1/2", "\x80", 1);
    assert_true(dlq_ledger_has(&l, 1, 0, false) && dlq_ledger_has(&l, 1, 2, false));
    assert_false(dlq_ledger_has(&l, 1, 1, true) || dlq_ledger_has(&l, 0, 0, true));
    assert_false(dlq_ledger_has(&l, 1, 2 * DLQ_PAGE_BITS + 7, false));
    assert_true(dlq_ledger_has(&l, 1, 2 * DLQ_PAGE_BITS + 7, true));
    assert_int_equal(dlq_ledger_end(&l, 1), 2 * DLQ_PAGE_BITS + 8);
    assert_int_equal(dlq_ledger_end(&l, 0), 0);

    assert_int_equal(dlq_ledger_set(&l, 0, INT64_MAX - 1, &err), 0);
    assert_true(dlq_ledger_has(&l, 0, INT64_MAX - 1, false));
    assert_int_equal(l.n_strange, 0);
    const int64_t ends[] = {INT64_MAX, 2 * DLQ_PAGE_BITS};
    assert_int_equal(dlq_ledger_check(&l, "letters", ends, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "partition 1 ends at 8192"));
    dlq_ledger_done(&l);
}

/* Whoever may write to the ledger's topic must not be able to do more than set bits. */
static void test_strange_ledger_records(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        size_t n_key, n_value;
    } cases[] = {
        {"", 0, 1},
        {"1/", 2, 1},
        {"1//0/0", 6, 1},
        {"2/first/0/0", 11, 1},
        {"1/first/0", 9, 1},
        {"1/first/0/", 10, 1},
        {"1/first/0/0/0", 13, 1},
        {"1/first/-1/0", 12, 1},
        {"1/first/2/0", 11, 1},
        {"1/first/4294967296/0", 20, 1},
        {"1/first/0/9223372036854775807", 29, 1},
        {"1/first/0/0\0", 12, 1},
        {"1/first/0/0", 11, DLQ_PAGE_BYTES + 1},
        {"1/0123456789012345678901234567890123456789012345678901234567890123/0/0", 70, 1},
        {NULL, 0, 0},
    };
    static const uint8_t bytes[DLQ_PAGE_BYTES + 1] = {0xff};
    static char longest[4096];
    struct dlq_ledger l;
    struct base_error err = {0};
    size_t n = sizeof cases / sizeof cases[0];
    assert_int_equal(dlq_ledger_init(&l, "first", 2, &err), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(dlq_ledger_take(&l, cases[i].key, cases[i].n_key, bytes, cases[i].n_value, &err), 0);
    memset(longest, '1', sizeof longest);
    assert_int_equal(dlq_ledger_take(&l, longest, sizeof longest, bytes, 1, &err), 0);
    assert_int_equal(l.n_strange, n + 1);
    assert_int_equal(l.partitions[0].n + l.partitions[1].n, 0);
    take(&l, "1/first/0/0", NULL, 0); /* a tombstone */
    assert_int_equal(dlq_ledger_end(&l, 0), 0);
    dlq_ledger_done(&l);
}

static void test_text_for_a_terminal(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t size;
        const char *safe;
    } cases[] = {
        {"plain", 64, "plain"},  {"gr\xc3\xbc\xc3\x9f", 64, "gr\xc3\xbc\xc3\x9f"},
        {"\x1b[2J", 64, "?[2J"}, {"a\nb\tc\x7f", 64, "a?b?c?"},
        {"\xff\xfe", 64, "??"},  {"\xc2\x9b", 64, "?"}, /* C1: another way to say ESC [ */
        {"ab\xc3\xbc", 4, "ab"}, {"abc", 1, ""},
        {"\xe2\x82", 64, "??"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[64];
        dlq_text_safe(cases[i].text, out, cases[i].size);
        assert_string_equal(out, cases[i].safe);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_times_are_shown),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_ledger_pages),
        cmocka_unit_test(test_strange_ledger_records),
        cmocka_unit_test(test_text_for_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
