/* The text of /metrics: every line is checked against the exposition format 0.0.4. */
#include "worker/tests/test_worker.h"

#include <regex.h>

#include "worker/metrics.h"

static const char *render(struct base_buffer *out, const struct worker_metrics *m, const struct worker_gauges *g)
{
    base_buffer_init(out, 1u << 20);
    metrics_render(m, g, out);
    assert_int_equal(out->failed, 0);
    return base_buffer_cstr(out);
}

static bool matches(const char *pattern, const char *line)
{
    regex_t re;
    assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool yes = regexec(&re, line, 0, NULL, 0) == 0;
    regfree(&re);
    return yes;
}

/* The family a sample belongs to: its name without a histogram's endings. */
static void family_of(const char *line, char *out, size_t size)
{
    size_t n = strcspn(line, "{ ");
    snprintf(out, size, "%.*s", (int)n, line);
    const char *const endings[] = {"_bucket", "_sum", "_count"};
    for (size_t i = 0; i < N_OF(endings); i++) {
        size_t k = strlen(endings[i]);
        if (n > k && strcmp(out + n - k, endings[i]) == 0 && !strstr(out, "_total"))
            out[n - k] = '\0';
    }
}

static void check_lines(const char *text)
{
    static const char sample[] = "^rouse_[a-z_]+(\\{[a-z_]+=\"([^\"\\]|\\\\.)*\"(,[a-z_]+=\"([^\"\\]|\\\\.)*\")*\\})? "
                                 "([0-9]+(\\.[0-9]+)?|\\+Inf)$";
    char *copy = strdup(text), *rest = copy, family[128] = "", name[128], seen[128][128];
    size_t n_seen = 0;
    assert_int_equal(text[strlen(text) - 1], '\n');
    for (char *line; (line = strsep(&rest, "\n")) && (rest || *line);) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            snprintf(family, sizeof family, "%.*s", (int)strcspn(line + 7, " "), line + 7);
            for (size_t i = 0; i < n_seen; i++)
                assert_string_not_equal(seen[i], family);
            assert_true(n_seen < N_OF(seen));
            snprintf(seen[n_seen++], sizeof seen[0], "%s", family);
            line = strsep(&rest, "\n");
            if (!matches("^# TYPE rouse_[a-z_]+ (counter|gauge|histogram)$", line) || !strstr(line, family))
                fail_msg("no TYPE for %s: %s", family, line);
            continue;
        }
        if (!matches(sample, line))
            fail_msg("not a sample: %s", line);
        family_of(line, name, sizeof name);
        assert_string_equal(name, family);
    }
    free(copy);
}

static void test_format_with_nothing_and_with_everything(void **state)
{
    (void)state;
    static struct worker_metrics m;
    struct worker_gauges g = {.lag = -1, .state = "starting"};
    struct base_buffer out;
    check_lines(render(&out, &m, &g));
    assert_null(strstr(base_buffer_cstr(&out), "rouse_lag_records"));
    base_buffer_done(&out);

    struct base_trace *trace = base_trace_new();
    base_trace_begin(trace, BASE_TRACE_RESTORE);
    base_trace_end(trace, BASE_TRACE_RESTORE);
    base_trace_mark(trace, BASE_TRACE_READY);
    base_trace_note(trace, "plan", "attach");
    base_trace_note(trace, "plan_reason", "cold: read \"once\"");
    base_trace_note(trace, "bytes", "4096");
    g = (struct worker_gauges){.version = "1",
                               .librdkafka = "2",
                               .device = "cpu",
                               .arch = "x86-64-avx2",
                               .model = "a\"b\\c\nd",
                               .snapshot = "ab",
                               .state = "ready",
                               .ready = true,
                               .restored = true,
                               .lag = 12,
                               .trace = trace,
                               .engine_blocks = 10,
                               .engine_blocks_used = 4,
                               .engine_step_ns = 1500000000};
    metrics_add(&m.records, 3);
    metrics_add(&m.prompts[SCHEMA_FINISH_STOP], 2);
    metrics_add(&m.dead_letters[SCHEMA_MALFORMED][SCHEMA_STAGE_DECODE], 1);
    const char *text = render(&out, &m, &g);
    check_lines(text);
    static const char *const wanted[] = {
        "\nrouse_records_total 3\n",
        "\nrouse_prompts_total{finish_reason=\"stop\"} 2\n",
        "\nrouse_dead_letters_total{code=\"malformed\",stage=\"decode\"} 1\n",
        "model=\"a\\\"b\\\\c\\nd\"",
        "\nrouse_lag_records 12\n",
        "\nrouse_engine_kv_blocks{state=\"free\"} 6\n",
        "\nrouse_engine_step_seconds_total 1.500000\n",
        "\nrouse_cold_start_seconds{phase=\"restore\"} ",
        "\nrouse_restore_info{plan=\"attach\",reason=\"cold: read \\\"once\\\"\"} 1\n",
        "\nrouse_restore_bytes 4096\n",
        "\nrouse_restored 1\n",
        "\nrouse_state{state=\"ready\"} 1\n",
    };
    for (size_t i = 0; i < N_OF(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no '%s' in:\n%s", wanted[i], text);
    base_buffer_done(&out);
    base_trace_free(trace);
}

static void test_histogram_is_cumulative(void **state)
{
    (void)state;
    static struct worker_metrics m;
    struct worker_gauges g = {.lag = -1, .state = "ready"};
    struct base_buffer out;
    const uint64_t us[] = {500, 1000, 1001, 90000, 500000000};
    for (size_t i = 0; i < N_OF(us); i++)
        metrics_observe_us(&m.commit, us[i]);
    const char *text = render(&out, &m, &g);
    static const char *const wanted[] = {
        "rouse_commit_seconds_bucket{le=\"0.001\"} 2\n",
        "rouse_commit_seconds_bucket{le=\"0.0025\"} 3\n",
        "rouse_commit_seconds_bucket{le=\"0.1\"} 4\n",
        "rouse_commit_seconds_bucket{le=\"120\"} 4\n",
        "rouse_commit_seconds_bucket{le=\"+Inf\"} 5\n",
        "rouse_commit_seconds_sum 500.092501\n",
        "rouse_commit_seconds_count 5\n",
    };
    for (size_t i = 0; i < N_OF(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no '%s' in:\n%s", wanted[i], text);
    base_buffer_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_with_nothing_and_with_everything),
        cmocka_unit_test(test_histogram_is_cumulative),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
