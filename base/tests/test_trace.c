#include "base/tests/test_base.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/trace.h"

/* config, then index and restore overlapping without nesting, and three marks. */
static struct base_trace *example(void)
{
    struct base_trace *t = base_trace_new();
    assert_non_null(t);
    base_trace_begin(t, BASE_TRACE_CONFIG);
    base_clock_sleep_ms(5);
    base_trace_end(t, BASE_TRACE_CONFIG);
    base_trace_begin(t, BASE_TRACE_INDEX);
    base_clock_sleep_ms(2);
    base_trace_begin(t, BASE_TRACE_RESTORE);
    base_clock_sleep_ms(2);
    base_trace_end(t, BASE_TRACE_INDEX);
    base_clock_sleep_ms(2);
    base_trace_end(t, BASE_TRACE_RESTORE);
    base_trace_mark(t, BASE_TRACE_READY);
    base_trace_mark(t, BASE_TRACE_FIRST_TOKEN);
    base_trace_note(t, "plan", "stream");
    base_trace_note(t, "restored", "false");
    base_trace_note(t, "restored", "true");
    return t;
}

static void test_spans_and_marks(void **state)
{
    (void)state;
    uint64_t before = base_clock_mono_ns();
    struct base_trace *t = example();
    double config = base_trace_seconds(t, BASE_TRACE_CONFIG), restore = base_trace_seconds(t, BASE_TRACE_RESTORE);
    assert_true(config >= 0.005 && config < 10);
    assert_true(restore >= 0.004 && restore < 10);
    assert_true(base_trace_seconds(t, BASE_TRACE_VERIFY) < 0);
    assert_true(base_trace_seconds(t, BASE_TRACE_FIRST_COMMIT) < 0);
    assert_true(base_trace_at_ns(t, BASE_TRACE_FIRST_COMMIT) == 0);
    assert_true(base_trace_at_ns(t, BASE_TRACE_READY) >= base_trace_at_ns(t, BASE_TRACE_RESTORE));
    assert_true(base_trace_at_ns(t, BASE_TRACE_CONFIG) > before);
    /* Seconds of a mark count from process start, which lies before everything here. */
    uint64_t start = base_clock_process_start_ns();
    if (start > 0) {
        double want = (double)(base_trace_at_ns(t, BASE_TRACE_READY) - start) * 1e-9;
        assert_true(fabs(base_trace_seconds(t, BASE_TRACE_READY) - want) < 1e-3);
        assert_true(base_trace_seconds(t, BASE_TRACE_EXEC) >= 0);
        assert_true(base_trace_at_ns(t, BASE_TRACE_EXEC) >= before);
    }
    base_trace_free(t);
}

static void test_the_first_start_counts(void **state)
{
    (void)state;
    struct base_trace *t = example();
    uint64_t config = base_trace_at_ns(t, BASE_TRACE_CONFIG), ready = base_trace_at_ns(t, BASE_TRACE_READY);
    double seconds = base_trace_seconds(t, BASE_TRACE_CONFIG), exec = base_trace_seconds(t, BASE_TRACE_EXEC);
    base_clock_sleep_ms(2);
    base_trace_begin(t, BASE_TRACE_CONFIG);
    base_trace_end(t, BASE_TRACE_CONFIG);
    base_trace_mark(t, BASE_TRACE_READY);
    base_trace_end(t, BASE_TRACE_VERIFY); /* never begun */
    if (exec >= 0) {
        base_trace_begin(t, BASE_TRACE_EXEC);
        base_trace_end(t, BASE_TRACE_EXEC);
        assert_true(base_trace_seconds(t, BASE_TRACE_EXEC) == exec);
    }
    assert_true(base_trace_at_ns(t, BASE_TRACE_CONFIG) == config);
    assert_true(base_trace_seconds(t, BASE_TRACE_CONFIG) == seconds);
    assert_true(base_trace_at_ns(t, BASE_TRACE_READY) == ready);
    assert_true(base_trace_seconds(t, BASE_TRACE_VERIFY) < 0);
    base_trace_free(t);
}

static void test_null_does_nothing(void **state)
{
    (void)state;
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1000);
    base_json_init(&j, &b);
    base_trace_begin(NULL, BASE_TRACE_CONFIG);
    base_trace_end(NULL, BASE_TRACE_CONFIG);
    base_trace_mark(NULL, BASE_TRACE_READY);
    base_trace_note(NULL, "a", "b");
    base_trace_log(NULL, "event");
    base_trace_print(NULL, &b);
    assert_int_equal(b.n, 0);
    base_trace_json(NULL, &j); /* a value has to stand there */
    assert_string_equal(base_buffer_cstr(&b), "{}");
    assert_true(base_trace_seconds(NULL, BASE_TRACE_READY) < 0);
    assert_true(base_trace_at_ns(NULL, BASE_TRACE_READY) == 0);
    assert_int_equal(base_trace_write_chrome(NULL, "/nowhere/at/all", NULL), 0);
    base_trace_free(NULL);
    base_buffer_done(&b);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const want[BASE_TRACE_N] = {
        "exec",      "config",    "index", "device_open", "restore",      "choices",     "verify",
        "cold_load", "tokenizer", "build", "group_join",  "first_record", "first_token", "first_commit",
        "ready"};
    for (int p = 0; p < BASE_TRACE_N; p++) {
        assert_string_equal(base_trace_phase_name((enum base_trace_phase)p), want[p]);
        assert_true(base_trace_phase_is_mark((enum base_trace_phase)p) == (p >= BASE_TRACE_FIRST_RECORD));
    }
}

static void test_json(void **state)
{
    (void)state;
    struct base_trace *t = example();
    base_trace_begin(t, BASE_TRACE_VERIFY); /* still running: not in the figures */
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1 << 16);
    base_json_init(&j, &b);
    base_trace_json(t, &j);
    json_t *o = json_loads(base_buffer_cstr(&b), 0, NULL);
    assert_non_null(o);
    static const char *const keys[] = {"config_s", "index_s",       "restore_s",     "ready_s",
                                       "ready_at", "first_token_s", "first_token_at"};
    for (size_t i = 0; i < N_OF(keys); i++) {
        if (!json_is_real(json_object_get(o, keys[i])))
            fail_msg("%s is missing in %s", keys[i], base_buffer_cstr(&b));
    }
    static const char *const absent[] = {"verify_s", "config_at", "first_commit_s", "first_commit_at"};
    for (size_t i = 0; i < N_OF(absent); i++)
        assert_null(json_object_get(o, absent[i]));
    double at = json_real_value(json_object_get(o, "ready_at"));
    assert_true(fabs(at - (double)base_trace_at_ns(t, BASE_TRACE_READY) * 1e-9) < 1e-6);
    char nine_decimals[64];
    uint64_t ns = base_trace_at_ns(t, BASE_TRACE_READY);
    snprintf(nine_decimals, sizeof(nine_decimals), "\"ready_at\":%llu.%09llu", (unsigned long long)(ns / 1000000000u),
             (unsigned long long)(ns % 1000000000u));
    assert_non_null(strstr(base_buffer_cstr(&b), nine_decimals));
    json_t *notes = json_object_get(o, "notes");
    assert_int_equal(json_object_size(notes), 2);
    assert_string_equal(json_string_value(json_object_get(notes, "restored")), "true");
    json_decref(o);
    base_buffer_done(&b);
    base_trace_free(t);
}

static int columns_of(const char *s, size_t n)
{
    int columns = 0;
    for (size_t i = 0; i < n; i++)
        columns += ((unsigned char)s[i] & 0xc0) != 0x80;
    return columns;
}

static void test_chart(void **state)
{
    (void)state;
    struct base_trace *t = example();
    base_trace_begin(t, BASE_TRACE_GROUP_JOIN); /* still running */
    for (int i = 0; i < 12; i++) {
        char key[16];
        snprintf(key, sizeof(key), "note%d", i);
        base_trace_note(t, key, "a value of some length");
    }
    struct base_buffer b;
    base_buffer_init(&b, 1 << 16);
    base_trace_print(t, &b);
    print_message("%s", base_buffer_cstr(&b));
    static const char *const order[] = {"phase", "config", "index", "restore", "ready", "first_token", "group_join"};
    const char *at = base_buffer_cstr(&b);
    for (size_t i = 0; i < N_OF(order); i++) {
        at = strstr(at, order[i]);
        if (!at)
            fail_msg("%s is missing or out of order", order[i]);
    }
    for (const char *line = base_buffer_cstr(&b); *line; line = strchr(line, '\n') + 1) {
        size_t n = strcspn(line, "\n");
        if (columns_of(line, n) > 100)
            fail_msg("%d columns: %.*s", columns_of(line, n), (int)n, line);
    }
    base_buffer_done(&b);
    base_trace_free(t);
}

static void test_chart_of_nothing(void **state)
{
    (void)state;
    struct base_trace *t = base_trace_new();
    struct base_buffer b;
    base_buffer_init(&b, 1 << 16);
    base_trace_print(t, &b);
    assert_int_equal(b.failed, 0);
    base_buffer_done(&b);
    base_trace_free(t);
}

/* What the viewers demand: X events of one tid do not overlap (ours never nest), all times are microseconds >= 0. */
static void check_chrome(const json_t *root)
{
    json_t *events = json_object_get(root, "traceEvents");
    assert_true(json_is_array(events));
    double lane_end[BASE_TRACE_N] = {0};
    int n_spans = 0, n_marks = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        json_t *e = json_array_get(events, i);
        const char *ph = json_string_value(json_object_get(e, "ph"));
        assert_non_null(json_string_value(json_object_get(e, "name")));
        assert_true(json_is_integer(json_object_get(e, "pid")) && json_is_integer(json_object_get(e, "tid")));
        if (strcmp(ph, "M") == 0)
            continue;
        double ts = json_real_value(json_object_get(e, "ts")), dur = json_real_value(json_object_get(e, "dur"));
        assert_true(ts >= 0 && dur >= 0);
        if (strcmp(ph, "i") == 0) {
            n_marks++;
            assert_string_equal(json_string_value(json_object_get(e, "s")), "p");
            continue;
        }
        assert_string_equal(ph, "X");
        json_int_t lane = json_integer_value(json_object_get(e, "tid"));
        assert_in_range(lane, 0, BASE_TRACE_N - 1);
        assert_true(ts >= lane_end[lane] - 0.002);
        lane_end[lane] = ts + dur;
        n_spans++;
    }
    assert_int_equal(n_spans, base_clock_process_start_ns() > 0 ? 4 : 3);
    assert_int_equal(n_marks, 2);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "otherData"), "plan")), "stream");
}

static void test_chrome(void **state)
{
    (void)state;
    char dir[128], path[160];
    test_scratch_new(dir);
    snprintf(path, sizeof(path), "%s/trace.json", dir);
    struct base_trace *t = example();
    struct base_error err = {0};
    if (base_trace_write_chrome(t, path, &err) < 0)
        fail_msg("%s", err.text);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    check_chrome(root);
    json_decref(root);
    assert_int_equal(base_trace_write_chrome(t, "/nowhere/at/all", &err), ERR_IO);
    base_trace_free(t);
    test_scratch_free(dir);
}

static void test_notes_are_bounded(void **state)
{
    (void)state;
    struct base_trace *t = base_trace_new();
    char value[1000];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    base_trace_note(t, "long", value);
    base_trace_note(t, "lines", "a\nb");
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%d", i);
        base_trace_note(t, key, "x");
    }
    base_trace_note(t, "lines", "c\nd"); /* still replaced when the table is full */
    struct base_buffer b;
    struct base_json j;
    base_buffer_init(&b, 1 << 16);
    base_json_init(&j, &b);
    base_trace_json(t, &j);
    json_t *o = json_loads(base_buffer_cstr(&b), 0, NULL), *notes = json_object_get(o, "notes");
    assert_int_equal(json_object_size(notes), 32);
    assert_string_equal(json_string_value(json_object_get(notes, "lines")), "c d");
    assert_int_equal(strlen(json_string_value(json_object_get(notes, "long"))), 159);
    json_decref(o);
    base_buffer_done(&b);
    base_trace_free(t);
}

static void *fill(void *arg)
{
    struct base_trace *t = arg;
    for (int i = 0; i < 200; i++) {
        for (int p = BASE_TRACE_CONFIG; p < BASE_TRACE_FIRST_RECORD; p++) {
            base_trace_begin(t, (enum base_trace_phase)p);
            base_trace_end(t, (enum base_trace_phase)p);
        }
        base_trace_mark(t, BASE_TRACE_READY);
        base_trace_note(t, "k", i % 2 ? "odd" : "even");
        struct base_buffer b;
        base_buffer_init(&b, 1 << 16);
        base_trace_print(t, &b);
        base_buffer_done(&b);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct base_trace *t = base_trace_new();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fill, t), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int p = BASE_TRACE_CONFIG; p < BASE_TRACE_FIRST_RECORD; p++)
        assert_true(base_trace_seconds(t, (enum base_trace_phase)p) >= 0);
    base_trace_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans_and_marks),
        cmocka_unit_test(test_the_first_start_counts),
        cmocka_unit_test(test_null_does_nothing),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_chart),
        cmocka_unit_test(test_chart_of_nothing),
        cmocka_unit_test(test_chrome),
        cmocka_unit_test(test_notes_are_bounded),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
