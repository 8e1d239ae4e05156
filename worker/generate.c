/* generate - the device thread: brings the model up, then feeds the engine and takes what it finishes.
 *
 * It owns the device, the model and the engine; jobs come by the queue to_device and leave through the ledger. Between two
 * steps it looks for new jobs, for jobs whose partition has gone, and for the end. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/worker_state.h"

#define IDLE_MS       100
#define REST_MS       20 /* how often one that sleeps looks up */
#define STEPS_BAD_MAX 3  /* in a row: then it is the device */

struct generator {
    struct worker *w;
    struct gpu_device *device;
    struct snap_model *model;
    struct engine *engine;
    struct worker_job *head, *tail; /* taken from the queue, not yet wholly inside the engine */
    uint32_t n_steps_bad;
};

/* Bringing the model up */

static int bring_up(struct generator *g, struct base_error *err)
{
    struct worker *w = g->w;
    struct snap_start_options start = w->options.start;
    start.trace = w->trace;
    base_trace_begin(w->trace, BASE_TRACE_DEVICE_OPEN);
    int rc = gpu_open(w->options.device, &w->options.open, &g->device, err);
    base_trace_end(w->trace, BASE_TRACE_DEVICE_OPEN);
    if (rc < 0)
        return rc;
    rc = snap_start(g->device, &start, &g->model, err);
    if (rc < 0)
        return rc;
    return engine_new(g->model->gpu, g->model->tokenizer, NULL, &g->engine, err);
}

static void publish_model(struct generator *g)
{
    struct worker *w = g->w;
    const struct gpu_info *info = gpu_device_info(g->device);
    struct base_error why = {0};
    if (!gpu_device_uploads(g->device)) /* none of its own: it says so itself, in its own words */
        (void)gpu_model_sleep(g->model->gpu, &why);
    pthread_mutex_lock(&w->lock);
    snprintf(w->no_sleep, sizeof w->no_sleep, "%.255s", why.text);
    w->model = g->model;
    w->device = info;
    pthread_mutex_unlock(&w->lock);
    w->model_ready = true;
    worker_note_ready(w);
    base_log_info("model ready", LOG_STR("model", g->model->name), LOG_STR("snapshot", g->model->snapshot_id),
                  LOG_STR("restored", g->model->restored ? "true" : "false"), LOG_STR("device", info->kind),
                  LOG_STR("arch", info->arch));
}

/* The line of jobs on their way into the engine */

static void line_append(struct generator *g, struct worker_job *job)
{
    job->behind = NULL;
    if (g->tail)
        g->tail->behind = job;
    else
        g->head = job;
    g->tail = job;
}

static void line_shift(struct generator *g)
{
    g->head = g->head->behind;
    if (!g->head)
        g->tail = NULL;
}

/* 0: in, or answered. ERR_AGAIN: the engine is full. */
static int submit(struct generator *g, struct worker_prompt *p)
{
    struct base_error err = {0};
    int rc = engine_submit(g->engine, &p->request, &err);
    if (rc == ERR_AGAIN)
        return rc;
    if (rc < 0) {
        worker_prompt_refuse(p, rc == ERR_INPUT ? SCHEMA_PROMPT_TOO_LONG : SCHEMA_INTERNAL, SCHEMA_STAGE_ADMIT,
                             err.text);
        return 0;
    }
    p->request.prompt = NULL;
    p->state = WORKER_PROMPT_RUNNING;
    return 0;
}

/* true: the whole job is in. */
static bool submit_job(struct generator *g, struct worker_job *job)
{
    for (; job->n_seen < job->n_prompts; job->n_seen++) {
        struct worker_prompt *p = &job->prompts[job->n_seen];
        if (p->state == WORKER_PROMPT_READY && submit(g, p) == ERR_AGAIN)
            return false;
    }
    return true;
}

static void feed(struct generator *g, bool idle)
{
    struct worker *w = g->w;
    struct worker_job *job = worker_queue_pop(&w->to_device, idle ? IDLE_MS : 0);
    while (job) {
        line_append(g, job);
        job = worker_queue_pop(&w->to_device, 0);
    }
    while (g->head && submit_job(g, g->head)) {
        job = g->head;
        line_shift(g);
        if (job->n_open == 0)
            worker_job_finished(w, job);
    }
}

/* Jobs whose partition has gone */

struct cancelling {
    struct worker *w;
    struct worker_job *gone; /* no prompt of theirs is in the engine any more; freed when engine_cancel is through */
};

static bool is_gone(const struct worker *w, const struct worker_job *job)
{
    return !ledger_is_current(w->ledger, job->partition, job->epoch);
}

static bool cancel_matches(void *context, void *tag)
{
    struct cancelling *c = context;
    struct worker_prompt *p = tag;
    if (!is_gone(c->w, p->job))
        return false;
    assert(p->state == WORKER_PROMPT_RUNNING && p->job->n_open > 0);
    p->state = WORKER_PROMPT_DONE;
    if (--p->job->n_open == 0) {
        p->job->behind = c->gone;
        c->gone = p->job;
    }
    return true;
}

/* The line first: what is not in the engine yet will not get there. A job that is in with some prompts ends with those. */
static void cancel_line(struct generator *g, struct cancelling *c)
{
    struct worker_job *job = g->head;
    g->head = g->tail = NULL;
    while (job) {
        struct worker_job *behind = job->behind;
        if (!is_gone(g->w, job)) {
            line_append(g, job);
        } else {
            for (; job->n_seen < job->n_prompts; job->n_seen++) {
                struct worker_prompt *p = &job->prompts[job->n_seen];
                job->n_open -= p->state == WORKER_PROMPT_READY;
                p->state = WORKER_PROMPT_DONE;
            }
            if (job->n_open == 0) {
                job->behind = c->gone;
                c->gone = job;
            }
        }
        job = behind;
    }
}

static void cancel_gone(struct generator *g)
{
    struct worker *w = g->w;
    if (!atomic_exchange(&w->cancel, false))
        return;
    struct cancelling c = {.w = w};
    uint32_t n_jobs = 0;
    feed(g, false); /* so that no job is in between */
    pthread_mutex_lock(&w->lock);
    cancel_line(g, &c);
    uint32_t n_prompts = engine_cancel(g->engine, cancel_matches, &c);
    while (c.gone) {
        struct worker_job *job = c.gone;
        c.gone = job->behind;
        worker_jobs_drop_locked(w, job);
        n_jobs++;
    }
    pthread_mutex_unlock(&w->lock);
    metrics_add(&w->metrics.records_revoked, n_jobs);
    if (n_jobs)
        base_log_info("work dropped with its partitions", LOG_INT("records", n_jobs), LOG_INT("prompts", n_prompts));
}

/* Sleep */

/* The poll thread has paused for the wish that counts, and what was taken before is published. */
static bool is_quiet(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool quiet = w->n_records == 0 && !w->publishing;
    pthread_mutex_unlock(&w->lock);
    return quiet && w->rest_quiet == w->rest_wish;
}

static void fall_asleep(struct generator *g)
{
    struct worker *w = g->w;
    struct base_error err = {0};
    int rc = snap_model_sleep(g->model, &err);
    if (rc < 0)
        base_log_error("worker does not sleep", LOG_STR("reason", err.text));
    else
        base_log_info("worker asleep", LOG_STR("model", g->model->name));
    w->rest = rc < 0 ? WORKER_AWAKE : WORKER_ASLEEP;
}

static void wake(struct generator *g)
{
    struct worker *w = g->w;
    struct base_error err = {0};
    int rc = snap_model_wake(g->model, &err);
    if (rc < 0)
        base_log_error("worker does not wake", LOG_STR("reason", err.text));
    pthread_mutex_lock(&w->lock);
    snprintf(w->asleep_why, sizeof w->asleep_why, "%s", err.text);
    pthread_mutex_unlock(&w->lock);
    w->rest = rc < 0 ? WORKER_ASLEEP : WORKER_AWAKE;
}

/* Whether there is a model to work with. */
static bool is_awake(struct generator *g)
{
    struct worker *w = g->w;
    if (w->rest == WORKER_FALLING_ASLEEP && is_quiet(w))
        fall_asleep(g);
    if (w->rest == WORKER_WAKING)
        wake(g);
    if (w->rest != WORKER_ASLEEP)
        return true;
    base_clock_sleep_ms(REST_MS);
    return false;
}

/* Steps */

static void note_counts(struct generator *g)
{
    struct worker *w = g->w;
    struct engine_counts n;
    engine_counts(g->engine, &n);
    w->engine_waiting = n.waiting;
    w->engine_running = n.running;
    w->engine_blocks_used = n.blocks_used;
    w->engine_blocks = n.blocks;
    w->engine_steps = n.steps;
    w->engine_step_ns = n.step_ns;
    if (n.generated_tokens)
        base_trace_mark(w->trace, BASE_TRACE_FIRST_TOKEN);
}

static void take_results(struct generator *g)
{
    struct engine_result result;
    while (engine_take(g->engine, &result)) {
        struct worker_prompt *p = result.tag;
        worker_prompt_finish(p, &result);
        if (p->job->n_open == 0)
            worker_job_finished(g->w, p->job);
    }
}

/* A step that fails is tried again; several in a row, and the device is given up. Its prompts are not answered then: whoever
 * gets their partitions next, on a device that works, computes them. */
static int step(struct generator *g, bool *out_busy, struct base_error *err)
{
    g->w->step_began_ns = base_clock_mono_ns();
    int rc = engine_step(g->engine, out_busy, err);
    g->w->step_began_ns = 0;
    g->n_steps_bad = rc < 0 ? g->n_steps_bad + 1 : 0;
    if (rc < 0)
        base_log_error("forward step failed", LOG_STR("reason", err->text), LOG_INT("in_a_row", g->n_steps_bad));
    return g->n_steps_bad < STEPS_BAD_MAX && rc != ERR_SERVICE ? 0 : rc; /* ERR_SERVICE: the device is gone for good */
}

static int run(struct generator *g, struct base_error *err)
{
    struct worker *w = g->w;
    bool busy = false;
    while (!w->device_quit && !w->abandon) {
        cancel_gone(g);
        if (!is_awake(g))
            continue;
        feed(g, !busy && !g->head);
        int rc = step(g, &busy, err);
        if (rc < 0)
            return base_fail_in(err, "the device failed %u steps in a row", g->n_steps_bad);
        note_counts(g);
        take_results(g);
    }
    return 0;
}

void *worker_device_main(void *worker)
{
    struct generator g = {.w = worker};
    struct base_error err = {0};
    int rc = bring_up(&g, &err);
    if (rc == 0) {
        publish_model(&g);
        rc = run(&g, &err);
    }
    if (rc < 0)
        worker_fail(g.w, &err);
    /* Others look at the model and its tokenizer until they have all ended: main lets this thread go last. */
    while (!g.w->device_quit)
        base_clock_sleep_ms(5);
    engine_free(g.engine);
    snap_model_close(g.model);
    gpu_close(g.device);
    g.w->device_ended = true;
    return NULL;
}
