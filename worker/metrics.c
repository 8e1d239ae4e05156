#include "worker/metrics.h"

#include <inttypes.h>
#include <stdlib.h>

/* One scale for all: a commit takes some ms, a long completion minutes. */
static const uint64_t bounds_us[METRICS_BUCKETS] = {1000,   2500,   5000,    10000,   25000,    50000,    100000,
                                                    250000, 500000, 1000000, 2500000, 10000000, 30000000, 120000000};

void metrics_observe_us(struct metrics_histogram *h, uint64_t us)
{
    uint32_t i = 0;
    while (i < METRICS_BUCKETS && us > bounds_us[i])
        i++;
    metrics_add(&h->buckets[i], 1);
    metrics_add(&h->sum_us, us);
}

void metrics_label(struct base_buffer *out, const char *value)
{
    for (const char *c = value; *c; c++) {
        if (*c == '\\' || *c == '"') {
            base_buffer_byte(out, '\\');
            base_buffer_byte(out, (uint8_t)*c);
        } else if (*c == '\n') {
            base_buffer_string(out, "\\n");
        } else {
            base_buffer_byte(out, (uint8_t)*c);
        }
    }
}

static void family(struct base_buffer *out, const char *name, const char *type, const char *help)
{
    base_buffer_printf(out, "# HELP rouse_%s %s\n# TYPE rouse_%s %s\n", name, help, name, type);
}

static void label(struct base_buffer *out, char before, const char *name, const char *value)
{
    base_buffer_byte(out, (uint8_t)before);
    base_buffer_string(out, name);
    base_buffer_string(out, "=\"");
    metrics_label(out, value ? value : "");
    base_buffer_byte(out, '"');
}

/* One sample with up to one label. */
static void sample(struct base_buffer *out, const char *name, const char *key, const char *value, uint64_t v)
{
    base_buffer_printf(out, "rouse_%s", name);
    if (key) {
        label(out, '{', key, value);
        base_buffer_byte(out, '}');
    }
    base_buffer_printf(out, " %" PRIu64 "\n", v);
}

static void single(struct base_buffer *out, const char *name, const char *type, const char *help, uint64_t v)
{
    family(out, name, type, help);
    sample(out, name, NULL, NULL, v);
}

static void seconds(struct base_buffer *out, uint64_t us)
{
    base_buffer_printf(out, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);
}

static void histogram(struct base_buffer *out, const char *name, const char *help, const struct metrics_histogram *h)
{
    family(out, name, "histogram", help);
    uint64_t n = 0;
    for (uint32_t i = 0; i < METRICS_BUCKETS; i++) {
        n += metrics_get(&h->buckets[i]);
        base_buffer_printf(out, "rouse_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, (double)bounds_us[i] / 1e6, n);
    }
    n += metrics_get(&h->buckets[METRICS_BUCKETS]);
    base_buffer_printf(out, "rouse_%s_bucket{le=\"+Inf\"} %" PRIu64 "\nrouse_%s_sum ", name, n, name);
    seconds(out, metrics_get(&h->sum_us));
    base_buffer_printf(out, "\nrouse_%s_count %" PRIu64 "\n", name, n);
}

static void render_build(const struct worker_gauges *g, struct base_buffer *out)
{
    family(out, "build_info", "gauge", "The program, and what it runs on; always 1.");
    base_buffer_string(out, "rouse_build_info");
    label(out, '{', "version", g->version);
    label(out, ',', "librdkafka", g->librdkafka);
    label(out, ',', "device", g->device);
    label(out, ',', "arch", g->arch);
    label(out, ',', "model", g->model);
    label(out, ',', "snapshot", g->snapshot);
    base_buffer_string(out, "} 1\n");
}

static void render_records(const struct worker_metrics *m, struct base_buffer *out)
{
    single(out, "records_total", "counter", "Records taken from the prompt topic.", metrics_get(&m->records));
    single(out, "record_bytes_total", "counter", "Bytes of key and value of the records taken.",
           metrics_get(&m->record_bytes));
    family(out, "records_dropped_total", "counter",
           "Records not taken: delivered a second time, or answered by an earlier owner of the partition.");
    sample(out, "records_dropped_total", "reason", "duplicate", metrics_get(&m->records_duplicate));
    sample(out, "records_dropped_total", "reason", "answered", metrics_get(&m->records_answered));
    family(out, "prompts_dropped_total", "counter",
           "Prompts of records taken that are not answered here: an earlier owner has, or the partition has gone.");
    sample(out, "prompts_dropped_total", "reason", "answered", metrics_get(&m->prompts_answered));
    sample(out, "prompts_dropped_total", "reason", "revoked", metrics_get(&m->prompts_revoked));

    family(out, "prompts_total", "counter", "Prompts published, by finish reason.");
    for (unsigned i = 0; i < METRICS_FINISHES; i++)
        sample(out, "prompts_total", "finish_reason", schema_finish_name((enum schema_finish)i),
               metrics_get(&m->prompts[i]));
    single(out, "prompt_tokens_total", "counter", "Tokens in the prompts published.", metrics_get(&m->prompt_tokens));
    single(out, "completion_tokens_total", "counter", "Tokens generated for the prompts published.",
           metrics_get(&m->completion_tokens));
}

static void render_dead_letters(const struct worker_metrics *m, struct base_buffer *out)
{
    family(out, "dead_letters_total", "counter", "Dead letters, by reason and by the step that failed.");
    for (unsigned code = SCHEMA_OK + 1; code < SCHEMA_CODE_N; code++) {
        for (unsigned stage = 0; stage < SCHEMA_STAGE_N; stage++) {
            uint64_t n = metrics_get(&m->dead_letters[code][stage]);
            if (n == 0)
                continue;
            base_buffer_string(out, "rouse_dead_letters_total");
            label(out, '{', "code", schema_code_name((enum schema_code)code));
            label(out, ',', "stage", schema_stage_name((enum schema_stage)stage));
            base_buffer_printf(out, "} %" PRIu64 "\n", n);
        }
    }
}

static void render_kafka(const struct worker_metrics *m, const struct worker_gauges *g, struct base_buffer *out)
{
    family(out, "transactions_total", "counter", "Kafka transactions, by how they ended.");
    sample(out, "transactions_total", "result", "committed", metrics_get(&m->transactions_committed));
    sample(out, "transactions_total", "result", "aborted", metrics_get(&m->transactions_aborted));
    single(out, "producers_replaced_total", "counter",
           "Transactional producers given up for a new one with the same id.", metrics_get(&m->producers_replaced));
    histogram(out, "commit_seconds", "One transaction, from its begin to its commit.", &m->commit);
    family(out, "partition_changes_total", "counter", "Partitions that came and went.");
    sample(out, "partition_changes_total", "change", "gained", metrics_get(&m->partitions_gained));
    sample(out, "partition_changes_total", "change", "revoked", metrics_get(&m->partitions_revoked));
    sample(out, "partition_changes_total", "change", "lost", metrics_get(&m->partitions_lost));
    single(out, "owners_fenced_total", "counter", "Transactions of dead owners ended, by transactional id.",
           metrics_get(&m->owners_fenced));
    family(out, "partitions", "gauge", "Partitions of the prompt topic at this worker.");
    sample(out, "partitions", "state", "assigned", g->partitions_assigned);
    sample(out, "partitions", "state", "paused", g->partitions_paused);
    single(out, "brokers_reachable", "gauge", "1 while the brokers answer.", g->brokers_reachable);
    if (g->lag >= 0)
        single(out, "lag_records", "gauge",
               "Records between the committed offsets and the ends of the partitions here.", (uint64_t)g->lag);
}

static void render_work(const struct worker_metrics *m, const struct worker_gauges *g, struct base_buffer *out)
{
    single(out, "inflight_prompts", "gauge", "Prompts taken and not yet committed.", g->inflight_prompts);
    single(out, "inflight_records", "gauge", "Records taken and not yet committed.", g->inflight_records);
    single(out, "inflight_bytes", "gauge", "Memory held by them, about.", g->inflight_bytes);
    single(out, "queue_records", "gauge", "Records waiting for the device thread.", g->queue_jobs);
    family(out, "engine_sequences", "gauge", "Prompts inside the engine.");
    sample(out, "engine_sequences", "state", "waiting", g->engine_waiting);
    sample(out, "engine_sequences", "state", "running", g->engine_running);
    family(out, "engine_kv_blocks", "gauge", "KV blocks of the model's arena.");
    sample(out, "engine_kv_blocks", "state", "used", g->engine_blocks_used);
    sample(out, "engine_kv_blocks", "state", "free", g->engine_blocks - g->engine_blocks_used);
    single(out, "engine_steps_total", "counter", "Forward steps.", g->engine_steps);
    family(out, "engine_step_seconds_total", "counter", "Time spent in forward steps.");
    base_buffer_string(out, "rouse_engine_step_seconds_total ");
    seconds(out, g->engine_step_ns / 1000);
    base_buffer_string(out, "\n");
    single(out, "engine_generated_tokens_total", "counter",
           "Tokens generated, published or not; what exceeds completion_tokens_total was lost with partitions or is "
           "under way.",
           g->engine_generated);
    histogram(out, "prompt_queue_seconds", "A prompt, from taken to admitted.", &m->queue);
    histogram(out, "prompt_seconds", "A prompt, from taken to its last token.", &m->total);
    single(out, "last_completion_timestamp_seconds", "gauge", "When the last completion was committed; 0: none yet.",
           (uint64_t)(g->last_completion_ms / 1000));
}

static void render_models(const struct worker_gauges *g, struct base_buffer *out)
{
    const struct worker_models_counts *n = &g->models;
    family(out, "models", "gauge", "Models that were asked for, by where they stand.");
    for (unsigned i = 0; i <= WORKER_MODEL_FAILED; i++)
        sample(out, "models", "state", worker_model_state_name((enum worker_model_state)i), n->states[i]);
    single(out, "models_bytes", "gauge", "Memory of all loaded models: weights, workspace, KV.", n->bytes);
    single(out, "models_bytes_limit", "gauge", "What it is kept within.", n->bytes_max);
    family(out, "model_loads_total", "counter", "Models loaded, by how it ended.");
    sample(out, "model_loads_total", "result", "ok", n->loads);
    sample(out, "model_loads_total", "result", "failed", n->loads_failed);
    single(out, "model_evictions_total", "counter", "Models that made room.", n->evictions);
    family(out, "model_load_seconds_total", "counter", "Time spent loading models after the first.");
    base_buffer_string(out, "rouse_model_load_seconds_total ");
    seconds(out, n->load_ms * 1000);
    base_buffer_string(out, "\n");
    family(out, "model_bytes", "gauge", "Memory of one loaded model.");
    for (uint32_t i = 0; i < g->n_loaded; i++) {
        base_buffer_string(out, "rouse_model_bytes");
        label(out, '{', "model", g->loaded[i].name);
        label(out, ',', "version", g->loaded[i].version);
        base_buffer_printf(out, "} %" PRIu64 "\n", g->loaded[i].bytes);
    }
}

/* The way that the first model's weights took, and why. */
static void render_restore(const struct worker_gauges *g, struct base_buffer *out)
{
    char plan[16], reason[200], value[32];
    if (!base_trace_get_note(g->trace, "plan", plan, sizeof plan))
        return;
    (void)base_trace_get_note(g->trace, "plan_reason", reason, sizeof reason);
    family(out, "restore_info", "gauge", "How the weights took their place, and why so; always 1.");
    base_buffer_string(out, "rouse_restore_info");
    label(out, '{', "plan", plan);
    label(out, ',', "reason", reason);
    base_buffer_string(out, "} 1\n");
    if (base_trace_get_note(g->trace, "bytes", value, sizeof value))
        single(out, "restore_bytes", "gauge", "Bytes that this start read and verified.", strtoull(value, NULL, 10));
}

static void render_start(const struct worker_gauges *g, struct base_buffer *out)
{
    render_restore(g, out);
    family(out, "cold_start_seconds", "gauge",
           "The cold start: spans take this long, marks come this long after exec.");
    for (unsigned i = 0; i < BASE_TRACE_N; i++) {
        enum base_trace_phase phase = (enum base_trace_phase)i;
        double s = base_trace_seconds(g->trace, phase);
        if (s < 0)
            continue;
        base_buffer_string(out, "rouse_cold_start_seconds");
        label(out, '{', "phase", base_trace_phase_name(phase));
        base_buffer_printf(out, "} %.6f\n", s);
    }
    single(out, "restored", "gauge", "1: this start restored a snapshot; 0: cold load.", g->restored);
    single(out, "ready", "gauge", "1 while prompts are taken and answered.", g->ready);
    family(out, "state", "gauge", "Where the worker stands; 1 for the state that holds.");
    sample(out, "state", "state", g->state, 1);
    single(out, "http_requests_total", "counter", "Requests to this port.", g->http_requests);
}

void metrics_render(const struct worker_metrics *m, const struct worker_gauges *g, struct base_buffer *out)
{
    render_build(g, out);
    render_records(m, out);
    render_dead_letters(m, out);
    render_work(m, g, out);
    render_models(g, out);
    render_kafka(m, g, out);
    render_start(g, out);
}
