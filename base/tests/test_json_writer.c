#include "base/tests/test_base.h"

#include <jansson.h>
#include <math.h>

#include "base/json_writer.h"

static void test_strings(void **state)
{
    (void)state;
    static const struct {
        const char *name, *given;
        size_t n;
        const char *want;
    } cases[] = {
        {"empty", "", 0, "\"\""},
        {"plain", "abc", 3, "\"abc\""},
        {"quote and backslash", "a\"b\\c", 5, "\"a\\\"b\\\\c\""},
        {"short escapes", "\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\""},
        {"NUL and other controls", "\0\1\x1f", 3, "\"\\u0000\\u0001\\u001f\""},
        {"DEL", "\x7f", 1, "\"\\u007f\""},
        {"two bytes", "\xc3\xa9", 2, "\"\xc3\xa9\""},
        {"four bytes", "\xf0\x9f\x98\x80", 4, "\"\xf0\x9f\x98\x80\""},
        {"lone continuation", "a\x80z", 3, "\"a\xef\xbf\xbdz\""},
        {"cut sequence is one sign", "a\xf0\x9f\x98", 4, "\"a\xef\xbf\xbd\""},
        {"surrogate is three", "\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"cut, then good", "\xe2\x82z", 3, "\"\xef\xbf\xbdz\""},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_buffer b;
        struct base_json j;
        base_buffer_init(&b, 1000);
        base_json_init(&j, &b);
        base_json_string_n(&j, cases[i].given, cases[i].n);
        if (strcmp(base_buffer_cstr(&b), cases[i].want) != 0)
            fail_msg("%s: %s, want %s", cases[i].name, base_buffer_cstr(&b), cases[i].want);
        json_t *parsed = json_loadb((const char *)b.data, b.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(parsed);
        json_decref(parsed);
        base_buffer_done(&b);
    }
}

static void test_numbers(void **state)
{
    (void)state;
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1000);
    base_json_init(&j, &b);
    base_json_array_begin(&j);
    base_json_int(&j, INT64_MIN);
    base_json_uint(&j, UINT64_MAX);
    base_json_double(&j, 0.1, 17);
    base_json_double(&j, 1e300, 3);
    base_json_double(&j, NAN, 6);
    base_json_double(&j, -INFINITY, 6);
    base_json_fixed(&j, 5, 3);
    base_json_fixed(&j, 1234567890123456789u, 9);
    base_json_array_end(&j);
    assert_string_equal(base_buffer_cstr(&b),
                        "[-9223372036854775808,18446744073709551615,0.10000000000000001,1e+300,null,null,0.005,"
                        "1234567890.123456789]");
    base_buffer_done(&b);
}

static void test_nesting_and_commas(void **state)
{
    (void)state;
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1000);
    base_json_init(&j, &b);
    base_json_object_begin(&j);
    base_json_key(&j, "a");
    base_json_array_begin(&j);
    base_json_array_end(&j);
    base_json_key(&j, "b");
    base_json_array_begin(&j);
    base_json_object_begin(&j);
    base_json_object_end(&j);
    base_json_object_begin(&j);
    base_json_kv_bool(&j, "x", true);
    base_json_kv_string(&j, "y", NULL);
    base_json_object_end(&j);
    base_json_null(&j);
    base_json_array_end(&j);
    base_json_kv_int(&j, "c\n", -1);
    base_json_kv_uint(&j, "d", 2);
    base_json_kv_double(&j, "e", 2.5, 6);
    base_json_kv_string(&j, "f", "g");
    base_json_object_end(&j);
    assert_string_equal(base_buffer_cstr(&b), "{\"a\":[],\"b\":[{},{\"x\":true,\"y\":null},null],\"c\\n\":-1,\"d\":2,"
                                              "\"e\":2.5,\"f\":\"g\"}");
    json_t *parsed = json_loads(base_buffer_cstr(&b), 0, NULL);
    assert_non_null(parsed);
    json_decref(parsed);

    base_buffer_clear(&b); /* JSON lines: values at the top are the caller's to separate */
    base_json_int(&j, 1);
    base_buffer_byte(&b, '\n');
    base_json_int(&j, 2);
    assert_string_equal(base_buffer_cstr(&b), "1\n2");
    base_buffer_done(&b);
}

static void test_deepest(void **state)
{
    (void)state;
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1000);
    base_json_init(&j, &b);
    for (int i = 0; i < 31; i++) {
        base_json_array_begin(&j);
        base_json_int(&j, i);
    }
    for (int i = 0; i < 31; i++) {
        base_json_int(&j, i);
        base_json_array_end(&j);
    }
    json_t *parsed = json_loads(base_buffer_cstr(&b), 0, NULL);
    assert_non_null(parsed);
    assert_int_equal(json_array_size(parsed), 3);
    json_decref(parsed);
    base_buffer_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_nesting_and_commas),
        cmocka_unit_test(test_deepest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
