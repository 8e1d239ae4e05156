#include "worker/health.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "worker/worker_state.h"

enum {
    OK_200 = 200,
    ACCEPTED_202 = 202,
    NOT_FOUND_404 = 404,
    METHOD_405 = 405,
    CONFLICT_409 = 409,
    UNAVAILABLE_503 = 503
};

static bool is_wish(const char *path)
{
    return strcmp(path, "/sleep") == 0 || strcmp(path, "/wake") == 0;
}

static void gauges(struct worker *w, struct worker_gauges *g)
{
    char why[16];
    struct ledger_counts n;
    *g = (struct worker_gauges){.version = ROUSE_VERSION, .librdkafka = rd_kafka_version_str(), .trace = w->trace};
    g->ready = !worker_not_ready(w, why, sizeof why);
    g->state = worker_phase_name(worker_phase(w));
    g->queue_jobs = worker_queue_count(&w->to_device);
    g->engine_waiting = w->engine_waiting;
    g->engine_running = w->engine_running;
    g->engine_blocks_used = w->engine_blocks_used;
    g->engine_blocks = w->engine_blocks;
    g->engine_steps = w->engine_steps;
    g->engine_step_ns = w->engine_step_ns;
    g->engine_generated = w->engine_generated;
    g->http_requests = w->http_requests;

    pthread_mutex_lock(&w->lock);
    ledger_count(w->ledger, &n);
    g->device = w->device ? w->device->kind : NULL;
    g->arch = w->device ? w->device->arch : NULL;
    g->model = w->self ? w->self->model : NULL;
    g->snapshot = w->self ? w->self->snapshot : NULL;
    g->restored = w->restored;
    g->brokers_reachable = !w->consumer_link.down && !w->producer_link.down;
    g->inflight_prompts = w->n_prompts;
    g->inflight_records = w->n_records;
    g->inflight_bytes = w->n_bytes;
    g->lag = w->lag;
    g->last_completion_ms = w->last_completion_ms;
    pthread_mutex_unlock(&w->lock);
    g->partitions_assigned = n.partitions;
    g->partitions_paused = w->paused ? n.partitions : 0;
}

static bool is_alive(struct worker *w, char *why, size_t size)
{
    uint64_t now = base_clock_mono_ns(), beat = w->poll_beat_ns, step = w->step_began_ns;
    if (beat && now > beat + WORKER_POLL_SILENCE_S * 1000000000ull) {
        snprintf(why, size, "the poll loop has not come round for %llu s",
                 (unsigned long long)((now - beat) / 1000000000));
        return false;
    }
    if (step && now > step + WORKER_STEP_S * 1000000000ull) {
        snprintf(why, size, "a forward step has taken %llu s so far", (unsigned long long)((now - step) / 1000000000));
        return false;
    }
    return true;
}

static void json_model(struct worker *w, struct base_json *j)
{
    pthread_mutex_lock(&w->lock);
    const struct worker_answerer *m = w->self;
    const struct gpu_info *d = w->device;
    base_json_key(j, "device");
    base_json_object_begin(j);
    base_json_kv_string(j, "kind", d ? d->kind : NULL);
    base_json_kv_string(j, "name", d ? d->name : NULL);
    base_json_kv_string(j, "arch", d ? d->arch : NULL);
    base_json_kv_uint(j, "memory_bytes", d ? d->memory_bytes : 0);
    base_json_object_end(j);
    base_json_kv_string(j, "model", m ? m->model : NULL);
    base_json_kv_string(j, "model_version", m ? m->version : NULL);
    base_json_kv_string(j, "snapshot", m ? m->snapshot : NULL);
    base_json_kv_bool(j, "restored", w->restored);
    base_json_kv_uint(j, "snapshot_bytes", w->snapshot_bytes);
    pthread_mutex_unlock(&w->lock);
}

static bool has_memory(const struct worker_model_view *v)
{
    return v->state == WORKER_MODEL_READY || v->state == WORKER_MODEL_LOADING || v->state == WORKER_MODEL_CLOSING;
}

static void json_view(const struct worker_model_view *v, struct base_json *j)
{
    uint64_t now = base_clock_mono_ns();
    base_json_object_begin(j);
    base_json_kv_string(j, "name", v->name);
    base_json_kv_string(j, "version", v->version);
    base_json_kv_string(j, "state", worker_model_state_name(v->state));
    base_json_kv_bool(j, "default", v->is_default);
    base_json_kv_string(j, "snapshot", v->snapshot);
    base_json_kv_uint(j, "bytes", v->bytes);
    base_json_kv_uint(j, "prompts", v->n_prompts);
    base_json_key(j, "last_use_age_s");
    if (v->last_used_ns)
        base_json_fixed(j, now > v->last_used_ns ? (now - v->last_used_ns) / 1000000 : 0, 3);
    else
        base_json_null(j);
    base_json_kv_string(j, "failed", v->why[0] ? v->why : NULL);
    base_json_object_end(j);
}

static void json_models(struct worker *w, struct base_json *j)
{
    struct worker_model_view views[METRICS_MODELS];
    struct worker_models_counts n = {.bytes = 0};
    uint32_t n_views = 0;
    if (w->model_ready) {
        n_views = worker_models_view(w->models, views, METRICS_MODELS);
        worker_models_count(w->models, &n);
    }
    base_json_kv_uint(j, "models_bytes", n.bytes);
    base_json_kv_uint(j, "models_bytes_limit", n.bytes_max);
    base_json_key(j, "models");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < n_views; i++)
        json_view(&views[i], j);
    base_json_array_end(j);
}

static void json_kafka(struct worker *w, const struct worker_gauges *g, struct base_json *j)
{
    base_json_key(j, "kafka");
    base_json_object_begin(j);
    base_json_kv_string(j, "group", w->options.group);
    base_json_kv_bool(j, "reachable", g->brokers_reachable);
    base_json_kv_uint(j, "partitions", g->partitions_assigned);
    base_json_kv_uint(j, "paused", g->partitions_paused);
    base_json_key(j, "lag");
    if (g->lag < 0)
        base_json_null(j);
    else
        base_json_int(j, g->lag);
    base_json_object_end(j);
}

static unsigned healthz(struct worker *w, struct base_buffer *body)
{
    struct worker_gauges g;
    struct base_json j;
    char not_ready[768] = "", not_alive[96] = "";
    gauges(w, &g);
    bool ready = !worker_not_ready(w, not_ready, sizeof not_ready);
    bool alive = is_alive(w, not_alive, sizeof not_alive);
    base_json_init(&j, body);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "state", g.state);
    base_json_kv_bool(&j, "ready", ready);
    base_json_kv_string(&j, "not_ready", ready ? NULL : not_ready);
    base_json_kv_bool(&j, "alive", alive);
    base_json_kv_string(&j, "not_alive", alive ? NULL : not_alive);
    base_json_kv_string(&j, "version", g.version);
    base_json_kv_string(&j, "worker", w->id);
    json_model(w, &j);
    json_models(w, &j);
    json_kafka(w, &g, &j);
    base_json_kv_uint(&j, "inflight_prompts", g.inflight_prompts);
    base_json_kv_uint(&j, "inflight_records", g.inflight_records);
    base_json_key(&j, "last_completion_age_s");
    if (g.last_completion_ms)
        base_json_fixed(&j, (uint64_t)(base_clock_unix_ms() - g.last_completion_ms), 3);
    else
        base_json_null(&j);
    base_json_key(&j, "cold_start");
    base_trace_json(w->trace, &j);
    base_json_object_end(&j);
    base_buffer_string(body, "\n");
    return OK_200;
}

static void gauges_models(struct worker *w, struct worker_gauges *g, struct worker_model_view out[METRICS_MODELS])
{
    if (!w->model_ready)
        return;
    uint32_t n = worker_models_view(w->models, out, METRICS_MODELS);
    for (uint32_t i = 0; i < n; i++)
        if (has_memory(&out[i]))
            out[g->n_loaded++] = out[i];
    g->loaded = out;
    worker_models_count(w->models, &g->models);
}

static unsigned verdict(bool good, const char *why, struct base_buffer *body)
{
    base_buffer_printf(body, "%s\n", good ? "ok" : why);
    return good ? OK_200 : UNAVAILABLE_503;
}

unsigned worker_health_answer(void *context, const char *path, struct base_buffer *body, const char **out_content_type)
{
    struct worker *w = context;
    char why[768] = "";
    w->http_requests++;
    if (strcmp(path, "/startupz") == 0)
        return verdict(w->model_ready, "the model is not restored yet", body);
    if (strcmp(path, "/livez") == 0)
        return verdict(is_alive(w, why, sizeof why), why, body);
    if (strcmp(path, "/readyz") == 0)
        return verdict(!worker_not_ready(w, why, sizeof why), why, body);
    if (strcmp(path, "/healthz") == 0) {
        *out_content_type = "application/json";
        return healthz(w, body);
    }
    if (strcmp(path, "/metrics") == 0) {
        struct worker_gauges g;
        struct worker_model_view loaded[METRICS_MODELS];
        *out_content_type = "text/plain; version=0.0.4; charset=utf-8";
        gauges(w, &g);
        gauges_models(w, &g, loaded);
        metrics_render(&w->metrics, &g, body);
        return OK_200;
    }
    if (is_wish(path)) {
        base_buffer_string(body, "POST only\n");
        return METHOD_405;
    }
    return NOT_FOUND_404;
}

/* Wishes */

static unsigned say(struct base_buffer *body, unsigned status, const char *text)
{
    base_buffer_printf(body, "%s\n", text);
    return status;
}

static unsigned ask_sleep(struct worker *w, struct base_buffer *body)
{
    int rest = WORKER_AWAKE;
    if (w->no_sleep[0])
        return say(body, CONFLICT_409, w->no_sleep);
    if (atomic_compare_exchange_strong(&w->rest, &rest, WORKER_FALLING_ASLEEP)) {
        w->rest_wish++; /* after rest: who sees the number sees the wish */
        worker_queue_wake(&w->to_device);
        rest = WORKER_FALLING_ASLEEP;
    }
    switch (rest) {
    case WORKER_ASLEEP:
        return say(body, OK_200, "asleep");
    case WORKER_WAKING:
        return say(body, CONFLICT_409, "it is waking up");
    default:
        return say(body, ACCEPTED_202, "going to sleep when what was taken is published");
    }
}

static unsigned ask_wake(struct worker *w, struct base_buffer *body)
{
    int rest = WORKER_ASLEEP;
    if (atomic_compare_exchange_strong(&w->rest, &rest, WORKER_WAKING))
        rest = WORKER_WAKING;
    switch (rest) {
    case WORKER_AWAKE:
        return say(body, OK_200, "awake");
    case WORKER_FALLING_ASLEEP:
        return say(body, CONFLICT_409, "it is going to sleep: wait until it is asleep");
    default:
        return say(body, ACCEPTED_202, "waking up");
    }
}

unsigned worker_rest_ask(void *context, const char *path, struct base_buffer *body, const char **out_content_type)
{
    struct worker *w = context;
    (void)out_content_type;
    w->http_requests++;
    if (!is_wish(path))
        return say(body, METHOD_405, "GET and HEAD only");
    if (w->draining)
        return say(body, CONFLICT_409, "draining");
    if (!w->model_ready)
        return say(body, CONFLICT_409, "the model is not restored yet");
    return strcmp(path, "/sleep") == 0 ? ask_sleep(w, body) : ask_wake(w, body);
}
