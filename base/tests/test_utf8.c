#include "base/tests/test_base.h"

#include "base/utf8.h"

/* What strings of up to three bytes are, built from the definition: every code point, encoded by arithmetic. */
enum { NOTHING, PREFIX, WHOLE };
static uint8_t one[256], two[1 << 16], three[1 << 24];

static size_t naive_encode(uint32_t c, uint8_t out[4])
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c /= 64)
        out[i] = (uint8_t)(128 + c % 64);
    static const int marks[] = {0, 0, 192, 224, 240};
    out[0] = (uint8_t)(marks[n] + (int)c);
    return n;
}

static int build_tables(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        uint8_t s[4];
        size_t n = naive_encode(c, s);
        one[s[0]] = n == 1 ? WHOLE : PREFIX;
        if (n >= 2)
            two[s[0] << 8 | s[1]] = n == 2 ? WHOLE : PREFIX;
        if (n >= 3)
            three[s[0] << 16 | s[1] << 8 | s[2]] = n == 3 ? WHOLE : PREFIX;
    }
    return 0;
}

static int want_next(const uint8_t s[3], size_t n)
{
    if (one[s[0]] == WHOLE)
        return 1;
    if (one[s[0]] == NOTHING)
        return 0;
    if (n == 1)
        return -1;
    int pair = two[s[0] << 8 | s[1]];
    if (pair != PREFIX)
        return pair == WHOLE ? 2 : 0;
    if (n == 2)
        return -1;
    int triple = three[s[0] << 16 | s[1] << 8 | s[2]];
    return triple == WHOLE ? 3 : triple == PREFIX ? -1 : 0;
}

static size_t want_bad_length(const uint8_t s[3], size_t n)
{
    if (n >= 3 && three[s[0] << 16 | s[1] << 8 | s[2]] == PREFIX)
        return 3;
    return n >= 2 && two[s[0] << 8 | s[1]] == PREFIX ? 2 : 1;
}

static void test_every_string_of_three_bytes(void **state)
{
    (void)state;
    for (uint32_t v = 0; v < 1 << 24; v++) {
        const uint8_t s[3] = {(uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v};
        for (size_t n = s[2] == 0 ? 1 : 3; n <= 3; n++) { /* the shorter ones once, not 256 times */
            int got = base_utf8_next(s, n, NULL), want = want_next(s, n);
            if (got != want)
                fail_msg("next %02x %02x %02x of %zu: %d, want %d", s[0], s[1], s[2], n, got, want);
            if (want <= 0 && base_utf8_bad_length(s, n) != want_bad_length(s, n))
                fail_msg("bad length %02x %02x %02x of %zu: %zu, want %zu", s[0], s[1], s[2], n,
                         base_utf8_bad_length(s, n), want_bad_length(s, n));
        }
    }
}

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x110000; c++) {
        uint8_t s[4], t[4];
        size_t n = base_utf8_encode(c, s);
        if ((c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff) {
            assert_int_equal(n, 0);
            continue;
        }
        uint32_t back = 0;
        if (n != naive_encode(c, t) || memcmp(s, t, n) != 0 || base_utf8_next(s, n, &back) != (int)n || back != c)
            fail_msg("U+%04X does not survive: %zu bytes, back U+%04X", c, n, back);
        /* A wrong fourth byte is invalid, and the three before it are one mistake. */
        if (n == 4) {
            s[3] = 'x';
            assert_int_equal(base_utf8_next(s, 4, NULL), 0);
            assert_int_equal(base_utf8_bad_length(s, 4), 3);
        }
    }
    assert_int_equal(base_utf8_encode(UINT32_MAX, (uint8_t[4]){0}), 0);
}

static void test_valid_and_complete(void **state)
{
    (void)state;
    static const struct {
        const char *name, *s;
        bool valid;
        size_t complete;
    } cases[] = {
        {"empty", "", true, 0},
        {"ascii", "abc", true, 3},
        {"first and last of two bytes", "\xc2\x80\xdf\xbf", true, 4},
        {"first and last of three", "\xe0\xa0\x80\xef\xbf\xbf", true, 6},
        {"around the surrogates", "\xed\x9f\xbf\xee\x80\x80", true, 6},
        {"first and last of four", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", true, 8},
        {"overlong slash", "\xc0\xaf", false, 2},
        {"overlong, three bytes", "\xe0\x9f\xbf", false, 3},
        {"overlong, four bytes", "\xf0\x8f\xbf\xbf", false, 4},
        {"surrogate", "\xed\xa0\x80", false, 3},
        {"above the last", "\xf4\x90\x80\x80", false, 4},
        {"five-byte form", "\xf8\x88\x80\x80\x80", false, 5},
        {"FE and FF", "\xfe\xff", false, 2},
        {"lone continuation", "a\x80", false, 2},
        {"cut after one of two", "a\xc3", false, 1},
        {"cut after one of three", "a\xe2", false, 1},
        {"cut after two of three", "a\xe2\x82", false, 1},
        {"cut after one of four", "a\xf0", false, 1},
        {"cut after two of four", "a\xf0\x9f", false, 1},
        {"cut after three of four", "a\xf0\x9f\x98", false, 1},
        {"only a cut", "\xf0\x9f\x98", false, 0},
        {"cut, but already wrong", "a\xf0\x80", false, 3},
        {"bad in the middle, good at the end", "\xff\xc3\xa9", false, 3},
        {"bad in the middle, cut at the end", "\xff\xe2\x82", false, 1},
        {"cut before a lead, cut at the end", "\xe2\xe2\x82", false, 1},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        size_t n = strlen(cases[i].s), complete = base_utf8_complete(cases[i].s, n);
        bool valid = base_utf8_valid(cases[i].s, n);
        if (valid != cases[i].valid || complete != cases[i].complete)
            fail_msg("%s: valid %d complete %zu, want %d %zu", cases[i].name, valid, complete, cases[i].valid,
                     cases[i].complete);
    }
    assert_true(base_utf8_valid("a\0b", 3));
    assert_int_equal(base_utf8_next((const uint8_t *)"", 0, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_string_of_three_bytes),
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_valid_and_complete),
    };
    return cmocka_run_group_tests(tests, build_tables, NULL);
}
