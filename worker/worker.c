/* worker_run: starts the threads of the data path in the order that makes the start short, watches over them, and ends them in
 * the order that loses nothing. The steps of the path itself:
 *
 *   poll -> decode -> tokenise           kafka_consumer.c, intake.c      poll thread
 *   admit -> forward -> sample -> text   generate.c, engine.c            device thread
 *   encode -> publish + commit           commit.c, publish.c             commit thread
 *
 * and beside it: names (name_cache.c) and models (models.c) come and go.
 *
 * Broker connections, the group's join and the restore of the model do not depend on each other: they run at the same time. */
#include "worker/worker.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "worker/health.h"
#include "worker/http_server.h"
#include "worker/kafka_config.h"
#include "worker/kafka_consumer.h"
#include "worker/kafka_producer.h"
#include "worker/model_load.h"
#include "worker/wait.h"
#include "worker/worker_state.h"

#define TICK_MS                  10
#define INFLIGHT_DEFAULT         256
#define NAMES_REFRESH_DEFAULT_MS 2000
#define END_GRACE_MS             2000 /* for a thread to end by itself, beyond what it may be waiting for */
#define ABANDON_MS               1000 /* for the same, once it was told to drop everything */

/* Stopping */

static atomic_int stop_requests, workers_running;

void worker_request_stop(void)
{
    atomic_fetch_add(&stop_requests, 1);
}

/* Requests of before the first worker count: a signal may come while it starts. The last one to leave clears them. */
static void stop_listen_begin(void)
{
    atomic_fetch_add(&workers_running, 1);
}
static void stop_listen_end(void)
{
    if (atomic_fetch_sub(&workers_running, 1) == 1)
        atomic_store(&stop_requests, 0);
}

/* Making and freeing */

static void name_worker(struct worker *w)
{
    char host[65] = "localhost";
    gethostname(host, sizeof host - 1);
    host[sizeof host - 1] = '\0';
    snprintf(w->id, sizeof w->id, "%s:%ld", host, (long)getpid());
    if (w->options.transactional_id)
        snprintf(w->transactional_id, sizeof w->transactional_id, "%s", w->options.transactional_id);
    else
        snprintf(w->transactional_id, sizeof w->transactional_id, "%.150s-%s-%ld", w->options.group, host,
                 (long)getpid());
}

static void worker_free(struct worker *w)
{
    if (!w)
        return;
    if (w->consumer) /* the poll thread has closed it, or there is no time to */
        rd_kafka_destroy_flags(w->consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    for (struct worker_job *job = w->jobs, *next; job; job = next) {
        next = job->next;
        worker_job_free(job);
    }
    worker_models_free(w->models);
    worker_names_free(w->names);
    worker_answerer_drop(w->self);
    ledger_batch_done(&w->batch);
    ledger_free(w->ledger);
    worker_queue_done(&w->to_device);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    if (w->trace != w->options.trace)
        base_trace_free(w->trace);
    free(w);
}

static int worker_new(const struct worker_options *options, struct worker **out_worker, struct base_error *err)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return base_fail(err, ERR_NOMEM, "worker: out of memory");
    w->options = *options;
    if (w->options.n_inflight_max == 0)
        w->options.n_inflight_max = INFLIGHT_DEFAULT;
    if (w->options.names_refresh_ms == 0)
        w->options.names_refresh_ms = NAMES_REFRESH_DEFAULT_MS;
    w->lag = -1;
    w->trace = options->trace ? options->trace : base_trace_new();
    pthread_mutex_init(&w->lock, NULL);
    worker_cond_init(&w->changed);
    name_worker(w);
    int rc = ledger_new(w->transactional_id, &w->ledger, err);
    if (rc == 0) /* jobs are never more than prompts, but for one batch that exceeds the limit by itself */
        rc = worker_queue_init(&w->to_device, w->options.n_inflight_max + 1, err);
    if (rc == 0)
        rc = worker_names_new(worker_names_ask, w, w->options.names_refresh_ms, &w->names, err);
    if (rc == 0)
        rc = worker_route_rules_init(&w->rules, w->options.start.model, w->options.models, w->options.start.store, err);
    if (rc < 0) {
        worker_free(w);
        return rc;
    }
    *out_worker = w;
    return 0;
}

/* What is wrong with the configuration is said before anything is started. */
static int check_options(const struct worker_options *o, struct base_error *err)
{
    const struct {
        const char *name, *value;
    } needed[] = {{"--brokers", o->brokers},
                  {"--group", o->group},
                  {"--in", o->topic_in},
                  {"--out", o->topic_out},
                  {"--dlq", o->topic_dlq}};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!needed[i].value || !needed[i].value[0])
            return base_fail(err, ERR_USAGE, "the worker needs %s", needed[i].name);
    if (strcmp(o->topic_in, o->topic_out) == 0 || strcmp(o->topic_in, o->topic_dlq) == 0)
        return base_fail(err, ERR_USAGE,
                         "--in '%s' is also where answers or dead letters go: they would come back as prompts",
                         o->topic_in);
    struct kafka_config config = {.brokers = o->brokers,
                                  .client_id = "rouse",
                                  .group = o->group,
                                  .transactional_id = "rouse",
                                  .rebalance = o->rebalance,
                                  .properties = &o->kafka};
    for (int role = KAFKA_CONSUMER; role <= KAFKA_PRODUCER; role++) {
        rd_kafka_conf_t *conf = NULL;
        int rc = kafka_config_make((enum kafka_role)role, &config, &conf, err);
        if (rc < 0)
            return rc;
        rd_kafka_conf_destroy(conf);
    }
    return 0;
}

/* Threads */

enum { POLL, COMMIT, DEVICE, WATCH, MODELS, NAMES, N_THREADS };

struct threads {
    pthread_t ids[N_THREADS];
    bool started[N_THREADS], joined[N_THREADS];
};

static _Atomic bool *ended_flag(struct worker *w, int thread)
{
    _Atomic bool *const flags[N_THREADS] = {&w->poll_ended,  &w->commit_ended, &w->device_ended,
                                            &w->watch_ended, &w->models_ended, &w->names_ended};
    return flags[thread];
}

static int start_threads(struct worker *w, struct threads *t, struct base_error *err)
{
    static void *(*const mains[N_THREADS])(void *) = {worker_poll_main,  worker_commit_main, worker_device_main,
                                                      worker_watch_main, worker_models_main, worker_names_main};
    static const char *const names[N_THREADS] = {"rouse-poll",  "rouse-commit", "rouse-device",
                                                 "rouse-watch", "rouse-models", "rouse-names"};
    for (int i = 0; i < N_THREADS; i++) {
        if (pthread_create(&t->ids[i], NULL, mains[i], w) != 0)
            return base_fail(err, ERR_NOMEM, "cannot start the thread %s", names[i]);
        pthread_setname_np(t->ids[i], names[i]);
        t->started[i] = true;
    }
    return 0;
}

/* Waits for the thread's end; at the second stop request, or after limit_ms, everybody is told to drop everything. */
static void end_thread(struct worker *w, struct threads *t, int i, uint64_t limit_ms)
{
    if (!t->started[i] || t->joined[i])
        return;
    uint64_t until = base_clock_mono_ns() + limit_ms * 1000000;
    while (!*ended_flag(w, i)) {
        uint64_t now = base_clock_mono_ns();
        if (!w->abandon && (now > until || stop_requests > 1)) {
            w->abandon = true;
            until = now + ABANDON_MS * 1000000ull;
        } else if (w->abandon && now > until) {
            return;
        }
        base_clock_sleep_ms(TICK_MS / 2);
    }
    pthread_join(t->ids[i], NULL);
    t->joined[i] = true;
}

static bool all_joined(const struct threads *t)
{
    for (int i = 0; i < N_THREADS; i++)
        if (t->started[i] && !t->joined[i])
            return false;
    return true;
}

/* Watching over */

static void write_trace(struct worker *w)
{
    struct base_error err = {0};
    if (w->options.trace_file && base_trace_write_chrome(w->trace, w->options.trace_file, &err) < 0)
        base_log_warn("trace not written", LOG_STR("reason", err.text));
}

/* The whole of the cold start is known with the first commit: said again, and written down. */
static void note_progress(struct worker *w, bool *said_complete)
{
    if (*said_complete || !base_trace_at_ns(w->trace, BASE_TRACE_FIRST_COMMIT))
        return;
    *said_complete = true;
    base_trace_log(w->trace, "cold start");
    write_trace(w);
}

static bool has_failed(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool failed = w->failure.code != 0;
    pthread_mutex_unlock(&w->lock);
    return failed;
}

static bool has_done_enough(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool enough = w->options.exit_after && w->n_published >= w->options.exit_after;
    pthread_mutex_unlock(&w->lock);
    return enough;
}

static void watch_over(struct worker *w, bool *said_complete)
{
    while (stop_requests == 0 && !has_failed(w) && !has_done_enough(w)) {
        note_progress(w, said_complete);
        base_clock_sleep_ms(TICK_MS);
    }
    note_progress(w, said_complete);
}

/* Ending */

static bool is_drained(struct worker *w)
{
    struct ledger_counts n;
    pthread_mutex_lock(&w->lock);
    ledger_count(w->ledger, &n);
    bool drained = n.records == 0 && n.idle == 0 && !w->publishing;
    if (!w->model_ready) /* what waits for the model would wait for long: somebody else takes it */
        drained = n.ready == 0 && !w->publishing;
    pthread_mutex_unlock(&w->lock);
    return drained;
}

/* Stop taking, finish what fits into drain_ms, publish it. */
static void drain(struct worker *w)
{
    uint64_t until = base_clock_mono_ns() + w->options.drain_ms * 1000000ull;
    base_log_info("worker draining", LOG_INT("drain_ms", w->options.drain_ms),
                  LOG_STR("state", worker_phase_name(worker_phase(w))));
    w->draining = true;
    FAILPOINT(DRAIN_BEGUN);
    pthread_mutex_lock(&w->lock);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    while (!is_drained(w) && !has_failed(w) && stop_requests < 2 && base_clock_mono_ns() < until)
        base_clock_sleep_ms(TICK_MS);
    FAILPOINT(DRAIN_OVER);
}

static void end_threads(struct worker *w, struct threads *t, struct http_server *http)
{
    w->leaving = true;
    end_thread(w, t, POLL, WORKER_REVOKE_WAIT_MS + WORKER_CLOSE_WAIT_MS + END_GRACE_MS);
    pthread_mutex_lock(&w->lock);
    w->commit_quit = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    end_thread(w, t, COMMIT, END_GRACE_MS);
    end_thread(w, t, WATCH, END_GRACE_MS);
    http_server_close(http);
    w->models_quit = true;
    /* A model that is being loaded cannot be called off: it may take what a drain may take. */
    bool patient = stop_requests < 2 && !has_failed(w);
    uint64_t load_ms = patient && w->options.drain_ms > END_GRACE_MS ? w->options.drain_ms : END_GRACE_MS;
    end_thread(w, t, MODELS, load_ms);
    end_thread(w, t, NAMES, END_GRACE_MS);
    w->device_quit = true;
    worker_queue_stop(&w->to_device);
    end_thread(w, t, DEVICE, load_ms);
}

static int result_of(struct worker *w, bool ended, struct base_error *err)
{
    pthread_mutex_lock(&w->lock);
    struct base_error failure = w->failure;
    unsigned long long left = w->n_prompts, published = w->n_published;
    pthread_mutex_unlock(&w->lock);
    base_log_info("worker stopped", LOG_INT("published", published), LOG_INT("unfinished", left));
    if (failure.code)
        return base_fail(err, failure.code, "%s", failure.text);
    if (stop_requests > 1)
        return base_fail(err, ERR_STOPPED, "left at the second stop request with %llu prompts unfinished", left);
    if (!ended)
        return base_fail(err, ERR_STOPPED, "left while a thread was still waiting for Kafka or for the device");
    if (left)
        base_log_warn("drain incomplete", LOG_INT("prompts", left), LOG_INT("drain_ms", w->options.drain_ms));
    return 0;
}

static int open_http(struct worker *w, struct http_server **out_http, struct base_error *err)
{
    const struct http_handlers handlers = {
        .get = worker_health_answer, .post = worker_rest_ask, .context = w, .post_from_afar = w->options.http_admin};
    struct http_server *http = NULL;
    if (!w->options.http)
        return 0;
    int rc = http_server_open(w->options.http, &handlers, &http, err);
    if (rc < 0)
        return rc;
    base_log_info("http listening", LOG_STR("address", w->options.http), LOG_INT("port", http_server_port(http)));
    *out_http = http;
    return 0;
}

static int start_and_watch(struct worker *w, struct threads *t, struct http_server **out_http, struct base_error *err)
{
    bool said_complete = false;
    int rc = open_http(w, out_http, err);
    if (rc < 0)
        return rc;
    base_trace_end(w->trace, BASE_TRACE_CONFIG);
    base_log_info("worker starting", LOG_STR("worker", w->id), LOG_STR("model", w->options.start.model),
                  LOG_STR("brokers", w->options.brokers), LOG_STR("in", w->options.topic_in),
                  LOG_STR("out", w->options.topic_out), LOG_STR("dlq", w->options.topic_dlq),
                  LOG_STR("transactional_id", w->transactional_id));
    rc = start_threads(w, t, err);
    if (rc < 0)
        return rc;
    watch_over(w, &said_complete);
    if (!has_failed(w))
        drain(w);
    note_progress(w, &said_complete);
    if (!said_complete)
        write_trace(w);
    return 0;
}

int worker_run(const struct worker_options *options, struct base_error *err)
{
    struct worker *w = NULL;
    struct threads threads = {0};
    struct http_server *http = NULL;
    base_trace_begin(options->trace, BASE_TRACE_CONFIG);
    int rc = check_options(options, err);
    if (rc < 0)
        return rc;
    rc = worker_new(options, &w, err);
    if (rc < 0)
        return rc;
    assert(w);

    stop_listen_begin();
    rc = start_and_watch(w, &threads, &http, err);
    if (rc < 0)
        w->draining = w->abandon = true;
    end_threads(w, &threads, http);
    bool ended = all_joined(&threads);
    if (rc == 0)
        rc = result_of(w, ended, err);
    stop_listen_end();
    if (ended)
        worker_free(w); /* else a thread still stands on it, and the process is about to end */
    return rc;
}
