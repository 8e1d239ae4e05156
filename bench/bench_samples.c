#include "bench/bench_samples.h"

#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"

#define CSV_BYTES_MAX ((size_t)256 << 20)

void bench_samples_done(struct bench_samples *s)
{
    for (size_t i = 0; i < s->n_names; i++)
        free(s->names[i]);
    free(s->names);
    free(s->all);
    *s = (struct bench_samples){0};
}

const char *bench_samples_name(struct bench_samples *s, const char *name)
{
    for (size_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return s->names[i];
    char *copy = strdup(name);
    char **names = copy ? realloc(s->names, (s->n_names + 1) * sizeof *names) : NULL;
    if (!names) {
        free(copy);
        s->failed = true;
        return "";
    }
    s->names = names;
    return names[s->n_names++] = copy;
}

void bench_samples_add(struct bench_samples *s, uint32_t round, const char *what, const char *metric, double value)
{
    if (s->n == s->capacity && !s->failed) {
        size_t capacity = s->capacity ? 2 * s->capacity : 256;
        struct bench_sample *all = realloc(s->all, capacity * sizeof *all);
        if (!all) {
            s->failed = true;
            return;
        }
        s->all = all;
        s->capacity = capacity;
    }
    if (!s->failed)
        s->all[s->n++] = (struct bench_sample){round, what, metric, value};
}

static const struct bench_sample *find(const struct bench_samples *s, uint32_t round, const char *what,
                                       const char *metric)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->all[i].round == round && strcmp(s->all[i].what, what) == 0 && strcmp(s->all[i].metric, metric) == 0)
            return &s->all[i];
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static struct bench_summary summarise(double *values, uint32_t n)
{
    if (!n)
        return (struct bench_summary){0};
    qsort(values, n, sizeof *values, ascending);
    double median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (struct bench_summary){n, median, values[0], values[n - 1]};
}

struct bench_summary bench_samples_summary(const struct bench_samples *s, const char *what, const char *metric)
{
    double *values = calloc(s->n + 1, sizeof *values);
    uint32_t n = 0;
    for (size_t i = 0; values && i < s->n; i++)
        if (strcmp(s->all[i].what, what) == 0 && strcmp(s->all[i].metric, metric) == 0)
            values[n++] = s->all[i].value;
    struct bench_summary out = summarise(values, n);
    free(values);
    return out;
}

struct bench_summary bench_samples_ratio(const struct bench_samples *s, const char *what, const char *metric,
                                         const char *of, const char *by)
{
    double *values = calloc(s->n + 1, sizeof *values);
    uint32_t n = 0;
    for (size_t i = 0; values && i < s->n; i++) {
        const struct bench_sample *a = &s->all[i], *b;
        if (strcmp(a->what, what) != 0 || strcmp(a->metric, metric) != 0)
            continue;
        b = find(s, a->round, of, by);
        if (b && b->value > 0)
            values[n++] = a->value / b->value;
    }
    struct bench_summary out = summarise(values, n);
    free(values);
    return out;
}

int bench_samples_csv(const struct bench_samples *s, const char *path, struct base_error *err)
{
    struct base_buffer out;
    base_buffer_init(&out, CSV_BYTES_MAX);
    base_buffer_string(&out, "round,case,metric,value\n");
    for (size_t i = 0; i < s->n; i++)
        base_buffer_printf(&out, "%u,%s,%s,%.9g\n", s->all[i].round, s->all[i].what, s->all[i].metric, s->all[i].value);
    int rc = s->failed || out.failed ? base_fail(err, ERR_NOMEM, "%s: out of memory", path)
                                     : base_file_publish(path, out.data, out.n, err);
    base_buffer_done(&out);
    return rc;
}
