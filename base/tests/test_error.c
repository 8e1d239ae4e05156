#include "base/tests/test_base.h"

#include "base/utf8.h"

static void test_text_is_one_bounded_line(void **state)
{
    (void)state;
    char longest[2000];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    char accents[1000];
    for (size_t i = 0; i + 2 < sizeof(accents); i += 2)
        memcpy(accents + i, "\xc3\xa9", 3);
    const struct {
        const char *name, *given, *want; /* want NULL: only the bounds count */
    } cases[] = {
        {"plain", "open /a/b: no such file", "open /a/b: no such file"},
        {"empty", "", ""},
        {"newline and tab", "a\nb\tc\r", "a b c "},
        {"escape sequence", "a\033[2Jb", "a [2Jb"},
        {"C1 control and line separator",
         "a\xc2\x9b"
         "b\xe2\x80\xa8"
         "c",
         "a b c"},
        {"not UTF-8",
         "a\xff"
         "b\xf0\x9f\x98",
         "a?b?"},
        {"escape sequence of one character",
         "a\xc2\x9b"
         "2Jb",
         "a 2Jb"},
        {"what some readers end a line at",
         "a\xc2\x85"
         "b\xe2\x80\xa8"
         "c\xe2\x80\xa9"
         "d",
         "a b c d"},
        {"bytes of no character",
         "a\xff"
         "b\xe2\x82"
         "c\xc3",
         "a?b?c?"},
        {"too long", longest, NULL},
        {"too long, two bytes a character", accents, NULL},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        assert_int_equal(base_fail(&err, ERR_INPUT, "%s", cases[i].given), ERR_INPUT);
        assert_int_equal(err.code, ERR_INPUT);
        size_t n = strnlen(err.text, sizeof(err.text));
        if (n >= sizeof(err.text) || !base_utf8_valid(err.text, n))
            fail_msg("%s: text of %zu bytes is not whole", cases[i].name, n);
        if (cases[i].want)
            assert_string_equal(err.text, cases[i].want);
        else
            assert_string_equal(err.text + n - 3, "...");
    }
}

static void test_arguments_may_point_into_the_error(void **state)
{
    (void)state;
    struct base_error err;
    base_fail(&err, ERR_IO, "inner");
    assert_int_equal(base_fail(&err, ERR_SERVICE, "outer (%s)", err.text), ERR_SERVICE);
    assert_string_equal(err.text, "outer (inner)");
}

static void test_fail_in_adds_the_object(void **state)
{
    (void)state;
    struct base_error err;
    base_fail(&err, ERR_CORRUPT, "chunk %d does not match", 3);
    assert_int_equal(base_fail_in(&err, "snapshot %s", "ab12"), ERR_CORRUPT);
    assert_string_equal(err.text, "snapshot ab12: chunk 3 does not match");

    char path[1000];
    for (size_t i = 0; i + 2 < sizeof(path); i += 2)
        memcpy(path + i, "\xc3\xa9", 3);
    base_fail(&err, ERR_INPUT, "line 3 is no JSON");
    base_fail_in(&err, "x%s", path);
    const char *cause = "...: line 3 is no JSON"; /* a long name does not push the cause out */
    assert_string_equal(err.text + strlen(err.text) - strlen(cause), cause);
    assert_true(base_utf8_valid(err.text, strlen(err.text)) && !strchr(err.text, '?'));

    base_fail(&err, ERR_INPUT, "%s", path);
    base_fail_in(&err, "line 3");
    assert_memory_equal(err.text, "line 3: \xc3\xa9", 10);
}

static void test_a_long_object_leaves_the_cause(void **state)
{
    (void)state;
    char object[1000];
    memset(object, 'o', sizeof(object) - 1);
    object[sizeof(object) - 1] = '\0';
    struct base_error err;
    base_fail(&err, ERR_CORRUPT, "chunk 3 does not match");
    assert_int_equal(base_fail_in(&err, "snapshot %s", object), ERR_CORRUPT);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_non_null(strstr(err.text, "ooo...: chunk 3 does not match"));

    /* Two long ones share the room. */
    base_fail(&err, ERR_INPUT, "%s", object);
    base_fail_in(&err, "%.1000s", object);
    assert_non_null(strstr(err.text, "ooo...: ooo"));
    assert_string_equal(err.text + sizeof(err.text) - 4, "...");
}

static void test_fail_errno(void **state)
{
    (void)state;
    struct base_error err;
    errno = ENOSPC;
    assert_int_equal(base_fail_errno(&err, "write %s", "/x"), ERR_IO);
    assert_string_equal(err.text, "write /x: No space left on device");
    errno = ENOMEM;
    assert_int_equal(base_fail_errno(&err, "map"), ERR_NOMEM);

    char path[700];
    memset(path, 'p', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    errno = EACCES;
    base_fail_errno(&err, "open %s", path);
    assert_non_null(strstr(err.text, "Permission denied")); /* a long path does not push the cause out */
}

static void test_null_error_is_allowed(void **state)
{
    (void)state;
    errno = EIO;
    assert_int_equal(base_fail(NULL, ERR_AGAIN, "x"), ERR_AGAIN);
    assert_int_equal(base_fail_errno(NULL, "x"), ERR_IO);
    assert_int_equal(base_fail_in(NULL, "x"), ERR_INTERNAL);
}

static void test_names_and_exit_codes(void **state)
{
    (void)state;
    static const struct {
        int rc;
        const char *name;
        int exit_code;
    } cases[] = {
        {0, "none", 0},
        {1, "none", 0},
        {ERR_AGAIN, "again", 4},
        {ERR_INPUT, "input", 3},
        {ERR_USAGE, "usage", 2},
        {ERR_NOTFOUND, "not_found", 3},
        {ERR_IO, "io", 1},
        {ERR_NOMEM, "no_memory", 1},
        {ERR_SERVICE, "service", 4},
        {ERR_CORRUPT, "corrupt", 3},
        {ERR_STOPPED, "stopped", 1},
        {ERR_INTERNAL, "internal", 1},
        {-99, "unknown", 1},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        assert_string_equal(base_error_name(cases[i].rc), cases[i].name);
        assert_int_equal(base_exit_code(cases[i].rc), cases[i].exit_code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_one_bounded_line),
        cmocka_unit_test(test_arguments_may_point_into_the_error),
        cmocka_unit_test(test_fail_in_adds_the_object),
        cmocka_unit_test(test_a_long_object_leaves_the_cause),
        cmocka_unit_test(test_fail_errno),
        cmocka_unit_test(test_null_error_is_allowed),
        cmocka_unit_test(test_names_and_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
