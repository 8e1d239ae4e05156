/* The table for people, and the same as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench_restore.h"

static void row(struct base_buffer *out, const char *name, struct bench_summary s, double unit, const char *unit_name,
                struct bench_summary ratio, const char *of)
{
    if (!s.n)
        return;
    base_buffer_printf(out, "  %-30s %9.2f %-4s (%.2f .. %.2f)", name, s.median * unit, unit_name, s.low * unit,
                       s.high * unit);
    if (ratio.n)
        base_buffer_printf(out, "  %.2f x %s", ratio.median, of);
    base_buffer_byte(out, '\n');
}

static const struct bench_summary no_ratio;

static void print_limits(const struct bench_restore *b, struct base_buffer *out)
{
    static const struct {
        const char *metric, *name;
    } rows[] = {{"disk_gbs", "disk, O_DIRECT, best depth"},
                {"fio_gbs", "disk, fio, best depth"},
                {"touch_gbs", "first touch of memory"},
                {"mapped_gbs", "cached pages, where they lie"},
                {"copied_gbs", "cached pages, copied"}};
    base_buffer_string(out, "\nlimits of these minutes\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        row(out, rows[i].name, bench_samples_summary(&b->samples, "limit", rows[i].metric), 1, "GB/s", no_ratio, "");
    if (b->fio_note[0])
        base_buffer_printf(out, "  disk, fio: no figure: %s\n", b->fio_note);
    row(out, "so cold: the slower of the two", bench_samples_summary(&b->samples, "limit", "cold_s"), 1e3, "ms",
        no_ratio, "");
    row(out, "and cached", bench_samples_summary(&b->samples, "limit", "cached_s"), 1e3, "ms", no_ratio, "");
}

static struct bench_summary of_case(const struct bench_restore *b, const char *name, const char *metric)
{
    return bench_samples_summary(&b->samples, name, metric);
}

static void print_case(const struct bench_restore *b, const struct bench_case *c, struct base_buffer *out)
{
    const char *limit = bench_restore_limit_of(c->name);
    base_buffer_printf(out, "\n%s", c->name);
    if (c->left_out || !of_case(b, c->name, "ready_s").n) {
        base_buffer_printf(out, ": %s\n", c->note[0] ? c->note : "no figure");
        return;
    }
    base_buffer_printf(out, "  (before: %.2f %% of the file cached%s%s)\n",
                       100 * of_case(b, c->name, "cached_before").median, c->note[0] ? "; " : "", c->note);
    row(out, "exec to ready", of_case(b, c->name, "ready_s"), 1e3, "ms",
        bench_samples_ratio(&b->samples, c->name, "ready_s", "limit", limit), "the limit");
    row(out, "exec to first token", of_case(b, c->name, "first_token_s"), 1e3, "ms", no_ratio, "");
    for (const char *const *p = bench_restore_phases; *p; p++) {
        char name[40];
        snprintf(name, sizeof name, "  %.*s", (int)strlen(*p) - 2, *p); /* without "_s" */
        row(out, name, of_case(b, c->name, *p), 1e3, "ms", no_ratio, "");
    }
    row(out, "first request", of_case(b, c->name, "request1_s"), 1e3, "ms",
        bench_samples_ratio(&b->samples, c->name, "request1_s", c->name, "request2_s"), "the second");
    row(out, "peak memory over the weights", of_case(b, c->name, "peak_over_weights_bytes"), 1e-6, "MB", no_ratio, "");
    row(out, "read from storage", of_case(b, c->name, "storage_bytes"), 1e-6, "MB", no_ratio, "");
    row(out, "memory, by proportion", of_case(b, c->name, "pss_bytes"), 1e-6, "MB", no_ratio, "");
}

static void print_budget(const struct bench_restore *b, struct base_buffer *out)
{
    struct bench_summary r = bench_samples_ratio(&b->samples, "cold", "ready_s", "limit", "budget_s");
    if (r.n)
        base_buffer_printf(out,
                           "  cold, to ready: %.2f (%.2f .. %.2f) of the budget, which is 1.10 x limit + 50 ms: %s\n",
                           r.median, r.low, r.high, r.median <= 1 ? "kept" : "not kept");
    struct bench_summary cached = of_case(b, "cached", "ready_s");
    if (cached.n)
        base_buffer_printf(out, "  cached, to ready: %.1f ms (%.1f .. %.1f) of a budget of 20 ms at any size: %s\n",
                           1e3 * cached.median, 1e3 * cached.low, 1e3 * cached.high,
                           cached.median <= 0.02 ? "kept" : "not kept");
}

static void print_compared(const struct bench_restore *b, struct base_buffer *out)
{
    const struct bench_samples *s = &b->samples;
    struct bench_summary r = bench_samples_ratio(s, "cold-checked", "ready_s", "cold-unchecked", "ready_s");
    if (r.n)
        base_buffer_printf(out, "  checksums: a cold start with them takes %.3f (%.3f .. %.3f) of one without\n",
                           r.median, r.low, r.high);
    r = bench_samples_ratio(s, "cold-load", "first_token_s", "cold", "first_token_s");
    if (r.n)
        base_buffer_printf(out, "  without a snapshot: %.1f (%.1f .. %.1f) times as long to the first token\n",
                           r.median, r.low, r.high);
}

/* N at once beside one: time, bytes read, and what each further one adds. */
static void print_many(const struct bench_restore *b, const char *one, const char *many_of, struct base_buffer *out)
{
    char many[32];
    const struct bench_samples *s = &b->samples;
    const uint32_t n = b->o.n_workers;
    snprintf(many, sizeof many, "%s-x%u", many_of, n);
    struct bench_summary time = bench_samples_ratio(s, many, "ready_s", one, "ready_s");
    if (!time.n)
        return;
    double read = bench_samples_summary(s, many, "storage_bytes").median / (double)b->o.file_bytes;
    double added =
        (bench_samples_summary(s, many, "pss_bytes").median - bench_samples_summary(s, one, "pss_bytes").median) /
        (n - 1) / (double)b->o.weights_bytes;
    base_buffer_printf(out,
                       "  %u at once, %s: all ready after %.1f ms, %.2f (%.2f .. %.2f) of one's time; %.3f of the file "
                       "read from storage; "
                       "each further one adds %.1f %% of the weights\n",
                       n, many_of, 1e3 * of_case(b, many, "ready_s").median, time.median, time.low, time.high, read,
                       100 * added);
}

void bench_restore_print(const struct bench_restore *b, struct base_buffer *out)
{
    base_buffer_printf(out,
                       "%s %s, snapshot %s: %.3f GB, %.3f GB of it weights\n"
                       "%u rounds, medians (min .. max); order from seed %" PRIu64
                       "; memory %s; load average %.2f .. %.2f; "
                       "%u void runs repeated\n",
                       b->o.model, b->o.dtype, b->o.snapshot, (double)b->o.file_bytes / 1e9,
                       (double)b->o.weights_bytes / 1e9, b->o.n_rounds, b->o.seed,
                       b->o.prime ? "primed before every run (touched and freed, 2.2 x the file)" : "not primed",
                       b->load_low, b->load_high, b->n_void);
    print_limits(b, out);
    for (uint32_t i = 0; i < b->n_cases; i++)
        print_case(b, &b->cases[i], out);
    base_buffer_string(out, "\nbudgets and comparisons\n");
    print_budget(b, out);
    print_compared(b, out);
    print_many(b, "cold", "cold", out);
    print_many(b, "cold", "cold-again", out);
    print_many(b, "cached", "cached", out);
}

/* ---- JSON ---- */

static void metrics_json(const struct bench_restore *b, const char *what, struct base_json *j)
{
    const struct bench_samples *s = &b->samples;
    base_json_object_begin(j);
    for (size_t i = 0; i < s->n; i++) {
        bool seen = strcmp(s->all[i].what, what) != 0;
        for (size_t k = 0; k < i && !seen; k++)
            seen = strcmp(s->all[k].what, what) == 0 && strcmp(s->all[k].metric, s->all[i].metric) == 0;
        if (seen)
            continue;
        struct bench_summary m = bench_samples_summary(s, what, s->all[i].metric);
        base_json_key(j, s->all[i].metric);
        base_json_object_begin(j);
        base_json_kv_uint(j, "n", m.n);
        base_json_kv_double(j, "median", m.median, 9);
        base_json_kv_double(j, "min", m.low, 9);
        base_json_kv_double(j, "max", m.high, 9);
        base_json_object_end(j);
    }
    base_json_object_end(j);
}

static void ratio_json(const struct bench_restore *b, const char *key, const char *what, const char *metric,
                       const char *of, const char *by, struct base_json *j)
{
    struct bench_summary r = bench_samples_ratio(&b->samples, what, metric, of, by);
    if (r.n)
        base_json_kv_double(j, key, r.median, 6);
}

void bench_restore_json(const struct bench_restore *b, struct base_json *j)
{
    base_json_object_begin(j);
    base_json_kv_string(j, "model", b->o.model);
    base_json_kv_string(j, "dtype", b->o.dtype);
    base_json_kv_string(j, "snapshot", b->o.snapshot);
    base_json_kv_uint(j, "file_bytes", b->o.file_bytes);
    base_json_kv_uint(j, "weights_bytes", b->o.weights_bytes);
    base_json_kv_uint(j, "rounds", b->o.n_rounds);
    base_json_kv_uint(j, "seed", b->o.seed);
    base_json_kv_bool(j, "primed", b->o.prime);
    base_json_kv_uint(j, "workers", b->o.n_workers);
    base_json_kv_uint(j, "void_runs", b->n_void);
    base_json_key(j, "limit");
    metrics_json(b, "limit", j);
    base_json_key(j, "cases");
    base_json_object_begin(j);
    for (uint32_t i = 0; i < b->n_cases; i++) {
        base_json_key(j, b->cases[i].name);
        base_json_object_begin(j);
        base_json_kv_bool(j, "left_out", b->cases[i].left_out);
        base_json_kv_string(j, "note", b->cases[i].note);
        ratio_json(b, "ready_of_limit", b->cases[i].name, "ready_s", "limit", bench_restore_limit_of(b->cases[i].name),
                   j);
        ratio_json(b, "request1_of_request2", b->cases[i].name, "request1_s", b->cases[i].name, "request2_s", j);
        base_json_key(j, "metrics");
        metrics_json(b, b->cases[i].name, j);
        base_json_object_end(j);
    }
    base_json_object_end(j);
    ratio_json(b, "cold_of_budget", "cold", "ready_s", "limit", "budget_s", j);
    ratio_json(b, "checked_of_unchecked", "cold-checked", "ready_s", "cold-unchecked", "ready_s", j);
    base_json_object_end(j);
}
