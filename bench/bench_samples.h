/* bench_samples - every single measurement of a bench: (round, case, metric) -> value. Medians are made from it, and the CSV
 * is all of it, so that whoever doubts a median can make another.
 *
 * Names are borrowed for as long as the samples live, or interned: bench_samples_name. */
#ifndef ROUSE_BENCH_SAMPLES_H
#define ROUSE_BENCH_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct bench_sample {
    uint32_t round; /* from 1 */
    const char *what, *metric;
    double value;
};

struct bench_samples {
    struct bench_sample *all;
    size_t n, capacity;
    char **names; /* interned */
    size_t n_names;
    bool failed; /* out of memory; later additions do nothing */
};

struct bench_summary {
    uint32_t n; /* 0: no such sample, and the rest is 0 */
    double median, low, high;
};

void bench_samples_done(struct bench_samples *s);
const char *bench_samples_name(struct bench_samples *s,
                               const char *name); /* a copy that lives as long as s; "" without memory */
void bench_samples_add(struct bench_samples *s, uint32_t round, const char *what, const char *metric, double value);

struct bench_summary bench_samples_summary(const struct bench_samples *s, const char *what, const char *metric);

/* The median of value(what, metric) / value(of, by) within each round: of what was measured in the same minute. */
struct bench_summary bench_samples_ratio(const struct bench_samples *s, const char *what, const char *metric,
                                         const char *of, const char *by);

/* "round,case,metric,value", published whole. */
int bench_samples_csv(const struct bench_samples *s, const char *path, struct base_error *err);

#endif
