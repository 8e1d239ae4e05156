/* bench_restore - starts from one snapshot, in fresh processes, beside what bounds them, round by round.
 *
 * A round: the limits, then every case once, in an order drawn from the seed, so that a minute in which the machine is slow is
 * spread over all of them. A cold case drops the file from the page cache and proves it by mincore; a round in which that does
 * not hold is no figure. Ratios are made within a round.
 *
 *   cold            dropped; not verified here yet                         cached-first  cached; nothing on this node has verified it
 *   cached          cached; verified by a start before        cold-load     the model's own files, dropped, no snapshot
 *   cold-attach, cold-stream       each way forced            cold-xN, cached-xN   N starts at once
 *   cold-checked, cold-unchecked   past the index, with and without checksums: what those cost
 *   cold-again-xN   N at once on a node that had verified the file before it was dropped
 *
 * Metrics: seconds from fork to ready and to the first token; each phase from the start's own trace; both requests; memory from
 * /proc at the end of the second one; bytes read from storage. */
#ifndef ROUSE_BENCH_BENCH_RESTORE_H
#define ROUSE_BENCH_BENCH_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json_writer.h"
#include "bench/bench_samples.h"

enum { BENCH_CASES_MAX = 16, BENCH_WORKERS_MAX = 64, BENCH_ROUNDS_MAX = 1000 };

struct bench_restore_options {
    const char *const *start; /* argv of a start, NULL-terminated: program, verb, model, store, device ... */
    const char *model;        /* as shown; for cold-load also the directory whose files are dropped */
    const char *snapshot;     /* id */
    const char *file;         /* the snapshot's path */
    const char *dtype;
    uint64_t file_bytes, weights_bytes;
    uint32_t n_rounds, n_workers; /* workers 0: no such cases */
    uint64_t seed;
    bool cold, cached, load, ways, verification, prime, fio;
};

struct bench_case {
    char name[32];
    char note[256]; /* the way that the last start took; or why there is no figure */
    bool left_out;
};

struct bench_restore {
    struct bench_restore_options o; /* what it points to is borrowed */
    struct bench_samples samples;
    struct bench_case cases[BENCH_CASES_MAX];
    uint32_t n_cases, n_void; /* void runs, each repeated */
    char fio_note[480];       /* why there is no figure of fio's; "" */
    double load_low, load_high;
    char node_dir[64]; /* what the starts tell each other, apart from that of real workers */
    int node_fd;       /* which is locked */
};

/* Progress goes to stderr. ERR_AGAIN: the page cache could not be brought into the state that a case needs. */
int bench_restore_run(const struct bench_restore_options *options, struct bench_restore *out, struct base_error *err);
void bench_restore_done(struct bench_restore *b);

/* bench_restore_report.c. */
void bench_restore_print(const struct bench_restore *b, struct base_buffer *out);
void bench_restore_json(const struct bench_restore *b, struct base_json *j);
/* bench_restore_chart.c: for each case a bar a phase, and a line at the limit. */
void bench_restore_svg(const struct bench_restore *b, struct base_buffer *out);

/* The phases that charts and tables show, in the order of the budget, NULL-terminated: metric names. */
extern const char *const bench_restore_phases[];
/* Which limit bounds a case: a metric of case "limit", in seconds. */
const char *bench_restore_limit_of(const char *case_name);

#endif
