#include "base/tests/test_base.h"

#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>

#include "base/log.h"
#include "base/utf8.h"

static int saved_stderr = -1;
static FILE *captured;

/* stderr goes to a file until capture_end, which returns what was written (static memory). */
static void capture_begin(void)
{
    captured = tmpfile();
    assert_non_null(captured);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
    fcntl(STDERR_FILENO, F_SETFL, fcntl(STDERR_FILENO, F_GETFL) | O_APPEND);
}

static const char *capture_end(void)
{
    static char text[1 << 20];
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ssize_t n = pread(fileno(captured), text, sizeof(text) - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    fclose(captured);
    return text;
}

static void assert_one_line(const char *name, const char *text)
{
    size_t n = strlen(text);
    if (n == 0 || strchr(text, '\n') != text + n - 1)
        fail_msg("%s: not one line: \"%s\"", name, text);
}

static void test_text_values(void **state)
{
    (void)state;
    static const struct {
        const char *name, *value, *want;
    } cases[] = {
        {"plain", "/store/ab12.snap", "v=/store/ab12.snap"},
        {"empty", "", "v=\"\""},
        {"space", "a b", "v=\"a b\""},
        {"quote", "a\"b", "v=\"a\\\"b\""},
        {"equals", "a=b", "v=\"a=b\""},
        {"backslash alone", "a\\b", "v=a\\b"},
        {"backslash in quotes", "a \\b", "v=\"a \\\\b\""},
        {"newline", "a\nlevel=error", "v=\"a\\nlevel=error\""},
        {"tab and return", "\t\r", "v=\"\\t\\r\""},
        {"escape", "\033[2J", "v=\"\\u001b[2J\""},
        {"C1 control", "a\xc2\x9bz", "v=\"a\\u009bz\""},
        {"line separator", "a\xe2\x80\xa8z", "v=\"a\\u2028z\""},
        {"UTF-8", "h\xc3\xa9", "v=h\xc3\xa9"},
        {"not UTF-8", "a\xffz", "v=a\xef\xbf\xbdz"},
    };
    base_log_setup(BASE_LOG_INFO, BASE_LOG_TEXT);
    for (size_t i = 0; i < N_OF(cases); i++) {
        capture_begin();
        base_log_info("event", LOG_STR("v", cases[i].value));
        const char *line = capture_end();
        assert_one_line(cases[i].name, line);
        char want[128];
        snprintf(want, sizeof(want), " info  event  %s\n", cases[i].want);
        if (strlen(line) != 24 + strlen(want) || strcmp(line + 24, want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", cases[i].name, line + 24, want);
    }
}

static void test_text_line(void **state)
{
    (void)state;
    base_log_setup(BASE_LOG_DEBUG, BASE_LOG_TEXT);
    capture_begin();
    base_log_warn("two\nlines", LOG_STR("left_out", NULL), LOG_INT("i", -5), LOG_F64("d", 0.25), LOG_STR("s", "x"));
    const char *line = capture_end();
    int year, month, day, hour, minute, second, ms, used = 0;
    assert_int_equal(
        sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &year, &month, &day, &hour, &minute, &second, &ms, &used), 7);
    assert_int_equal(used, 24);
    assert_string_equal(line + used, " warn  two\\nlines  i=-5 d=0.25 s=x\n");
}

static void test_levels(void **state)
{
    (void)state;
    static const struct {
        enum base_log_level set;
        int n_lines;
    } cases[] = {
        {BASE_LOG_DEBUG, 4}, {BASE_LOG_INFO, 3}, {BASE_LOG_WARN, 2}, {BASE_LOG_ERROR, 1}, {BASE_LOG_OFF, 0},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        base_log_setup(cases[i].set, BASE_LOG_TEXT);
        capture_begin();
        base_log_debug("e", LOG_INT("i", 1));
        base_log_info("e", LOG_INT("i", 1));
        base_log_warn("e", LOG_INT("i", 1));
        base_log_error("e", LOG_INT("i", 1));
        base_log_write(BASE_LOG_OFF, "e", NULL, 0); /* a threshold, not a level to write at */
        int n = 0;
        for (const char *p = capture_end(); *p; p++)
            n += *p == '\n';
        assert_int_equal(n, cases[i].n_lines);
        assert_true(base_log_enabled(BASE_LOG_ERROR) == (cases[i].n_lines > 0));
    }
}

static void test_json_line(void **state)
{
    (void)state;
    base_log_setup(BASE_LOG_INFO, BASE_LOG_JSON);
    capture_begin();
    base_log_error("it \"broke\"\n", LOG_STR("s", "a\nb\xff"), LOG_STR("none", NULL), LOG_INT("i", INT64_MIN),
                   LOG_F64("d", 0.125), LOG_F64("nan", 0.0 / 0.0));
    const char *line = capture_end();
    assert_one_line("json", line);
    json_t *o = json_loads(line, 0, NULL);
    assert_non_null(o);
    assert_int_equal(json_object_size(o), 7);
    assert_int_equal(strlen(json_string_value(json_object_get(o, "ts"))), 24);
    assert_string_equal(json_string_value(json_object_get(o, "level")), "error");
    assert_string_equal(json_string_value(json_object_get(o, "event")), "it \"broke\"\n");
    assert_string_equal(json_string_value(json_object_get(o, "s")), "a\nb\xef\xbf\xbd");
    assert_true(json_integer_value(json_object_get(o, "i")) == INT64_MIN);
    assert_true(json_real_value(json_object_get(o, "d")) == 0.125);
    assert_true(json_is_null(json_object_get(o, "nan")));
    json_decref(o);
}

static void test_long_values_are_cut_between_characters(void **state)
{
    (void)state;
    static char value[100001];
    for (size_t i = 0; i + 3 <= sizeof(value) - 1; i += 3)
        memcpy(value + i, "\xe2\x82\xac", 3);
    for (int format = BASE_LOG_TEXT; format <= BASE_LOG_JSON; format++) {
        base_log_setup(BASE_LOG_INFO, (enum base_log_format)format);
        capture_begin();
        base_log_info("e", LOG_STR("v", value), LOG_STR("after", "here"));
        const char *line = capture_end();
        assert_one_line("long", line);
        assert_true(strlen(line) < 3000);
        assert_true(base_utf8_valid(line, strlen(line)));
        assert_null(strstr(line, "\xef\xbf\xbd"));
        assert_non_null(strstr(line, "..."));
        assert_non_null(strstr(line, "here"));
    }
}

static void test_a_line_too_long_keeps_its_event(void **state)
{
    (void)state;
    static char value[2001];
    memset(value, '\1', sizeof(value) - 1);
    struct base_log_field fields[40];
    for (size_t i = 0; i < N_OF(fields); i++)
        fields[i] = LOG_STR("v", value);
    for (int format = BASE_LOG_TEXT; format <= BASE_LOG_JSON; format++) {
        base_log_setup(BASE_LOG_INFO, (enum base_log_format)format);
        capture_begin();
        base_log_write(BASE_LOG_INFO, "the event", fields, N_OF(fields));
        const char *line = capture_end();
        assert_one_line("too long", line);
        assert_true(strlen(line) < 100);
        assert_non_null(strstr(line, "the event"));
    }
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 200; i++)
        base_log_info("from a thread", LOG_STR("thread", (const char *)arg), LOG_INT("i", i));
    return NULL;
}

static void test_threads_do_not_mix_lines(void **state)
{
    (void)state;
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[4];
    base_log_setup(BASE_LOG_INFO, BASE_LOG_TEXT);
    capture_begin();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, names[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    int n = 0;
    for (const char *p = capture_end(); *p; p = strchr(p, '\n') + 1, n++)
        assert_memory_equal(p + 24, " info  from a thread  thread=", 29);
    assert_int_equal(n, 800);
}

static void test_errno_survives(void **state)
{
    (void)state;
    base_log_setup(BASE_LOG_INFO, BASE_LOG_TEXT);
    capture_begin();
    int before = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    errno = ENOENT;
    base_log_info("nobody reads this", LOG_INT("i", 1));
    int after = errno;
    dup2(before, STDERR_FILENO);
    close(before);
    assert_string_equal(capture_end(), "");
    assert_int_equal(after, ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_values),
        cmocka_unit_test(test_text_line),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_json_line),
        cmocka_unit_test(test_long_values_are_cut_between_characters),
        cmocka_unit_test(test_a_line_too_long_keeps_its_event),
        cmocka_unit_test(test_threads_do_not_mix_lines),
        cmocka_unit_test(test_errno_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
