/* metrics - what a worker counts, and its text in the Prometheus exposition format 0.0.4.
 *
 * Counters and histograms are relaxed atomics that any thread adds to; gauges are a snapshot that the caller of
 * metrics_render takes under its own locks. Every name begins with rouse_; every family has HELP and TYPE. */
#ifndef ROUSE_WORKER_METRICS_H
#define ROUSE_WORKER_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/trace.h"
#include "schemas/codes.h"
#include "schemas/completion.h"
#include "worker/models.h"

#define METRICS_BUCKETS  14
#define METRICS_MODELS   64 /* series a family: more loaded models than this are summed up, not listed */
#define METRICS_FINISHES (SCHEMA_FINISH_ERROR + 1)

typedef _Atomic uint64_t metrics_counter;

struct metrics_histogram {
    metrics_counter buckets[METRICS_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    metrics_counter sum_us;
};

struct worker_metrics {
    metrics_counter records, record_bytes; /* taken from the topic */
    metrics_counter records_duplicate,
        records_answered; /* delivered again; answered by an earlier owner of the partition */
    metrics_counter prompts_answered, prompts_revoked; /* the same of single prompts; dropped with their partition */
    metrics_counter prompts[METRICS_FINISHES];         /* published */
    metrics_counter prompt_tokens, completion_tokens;  /* of published prompts */
    metrics_counter dead_letters[SCHEMA_CODE_N][SCHEMA_STAGE_N];
    metrics_counter transactions_committed, transactions_aborted, producers_replaced;
    metrics_counter partitions_gained, partitions_revoked, partitions_lost, owners_fenced;
    struct metrics_histogram commit, queue, total; /* of a transaction; of a prompt before and until its end */
};

/* Read by the caller when somebody asks. */
struct worker_gauges {
    const char *version, *librdkafka, *device, *arch, *model, *snapshot, *state; /* NULL: not known yet */
    bool ready, restored, brokers_reachable;
    uint64_t inflight_prompts, inflight_records, inflight_bytes, queue_jobs;
    uint64_t engine_waiting, engine_running, engine_blocks_used, engine_blocks, engine_steps, engine_step_ns;
    uint64_t engine_generated;
    uint64_t partitions_assigned, partitions_paused;
    int64_t lag;                /* records behind the end of the log, all partitions; -1: not known */
    int64_t last_completion_ms; /* wall clock; 0: none yet */
    uint64_t http_requests;
    const struct base_trace *trace;
    struct worker_models_counts models;
    const struct worker_model_view *loaded; /* [n_loaded] those with memory: bounded by what fits */
    uint32_t n_loaded;
};

static inline void metrics_add(metrics_counter *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}
static inline uint64_t metrics_get(const metrics_counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}
void metrics_observe_us(struct metrics_histogram *h, uint64_t us);

void metrics_render(const struct worker_metrics *m, const struct worker_gauges *g, struct base_buffer *out);

/* A label's value, escaped as the format wants it: backslash, double quote, line feed. */
void metrics_label(struct base_buffer *out, const char *value);

#endif
