/* generate - the device thread: brings the first model up, then feeds the engines and takes what they finish.
 *
 * It drives every model that is loaded, a step of each in turn; jobs come by the queue to_device and leave through the ledger.
 * A job's prompts stand in the lines of their models: those of a model that is being loaded wait there, the others pass. Between
 * two rounds of steps it looks for new jobs, for jobs whose partition has gone, for models that are wanted, and for the end. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "worker/intake.h"
#include "worker/model_load.h"
#include "worker/worker_state.h"

#define IDLE_MS       100
#define REST_MS       20  /* how often one that sleeps looks up */
#define SWEEP_MS      100 /* how often deadlines of prompts that wait for a model are looked at */
#define TOKENISE_MS   5   /* of prompts that waited for their model, between two steps */
#define STEPS_BAD_MAX 3   /* in a row: then it is the device */
#define MS_NS         1000000ull

struct generator {
    struct worker *w;
    struct gpu_device *device;                      /* the worker's own: of the model that it began with */
    struct worker_model *models[WORKER_MODELS_MAX]; /* [n_models] all entries, as of this round */
    uint32_t n_models;
    struct worker_prompt *finished; /* chained by behind: said when no line and no loop stands on them */
    struct worker_job *refused;     /* the same, of records that are refused as a whole */
    struct engine_counts counts;    /* of all engines that ever were; the first four: of those that are */
    uint64_t swept_ns;
    uint32_t n_steps_bad;
};

/* Bringing the first model up */

static int open_and_start(struct generator *g, struct worker_loaded *loaded, struct base_error *err)
{
    struct worker *w = g->w;
    struct snap_start_options start = w->options.start;
    start.trace = w->trace;
    base_trace_begin(w->trace, BASE_TRACE_DEVICE_OPEN);
    int rc = gpu_open(w->options.device, &w->options.open, &g->device, err);
    base_trace_end(w->trace, BASE_TRACE_DEVICE_OPEN);
    if (rc < 0)
        return rc;
    rc = snap_start(g->device, &start, &loaded->model, err);
    return rc < 0 ? rc : worker_loaded_finish(loaded, err);
}

static int make_set(struct generator *g, struct worker_models **out_models, struct base_error *err)
{
    struct worker *w = g->w;
    uint64_t bound = w->options.models_bytes;
    const struct worker_models_options options = {
        .bytes_max = bound ? bound : gpu_device_info(g->device)->memory_bytes / 5 * 4,
        .bytes_asked_for = bound != 0,
        .loader = worker_model_loader(w),
    };
    return worker_models_new(&options, out_models, err);
}

static int bring_up(struct generator *g, struct worker_model **out_first, struct base_error *err)
{
    struct worker_loaded loaded = {.model = NULL};
    struct worker_models *models = NULL;
    int rc = open_and_start(g, &loaded, err);
    if (rc == 0)
        rc = make_set(g, &models, err);
    if (rc == 0)
        rc = worker_models_begin(models, &loaded, out_first, err);
    if (rc < 0) {
        worker_loaded_close(&loaded);
        worker_models_free(models);
        return rc;
    }
    g->w->models = models;
    return 0;
}

static void set_rules(struct worker_route_rules *rules, const struct snap_model *model)
{
    snprintf(rules->name, sizeof rules->name, "%s", model->name);
    snprintf(rules->own_version, sizeof rules->own_version, "%s", model->version);
    snprintf(rules->own_digest, sizeof rules->own_digest, "%s", model->model_digest);
}

static void publish_model(struct generator *g, const struct worker_model *first)
{
    struct worker *w = g->w;
    const struct snap_model *model = first->loaded.model;
    const struct gpu_info *info = gpu_device_info(g->device);
    struct base_error why = {0};
    if (!gpu_device_uploads(g->device)) /* none of its own: it says so itself, in its own words */
        (void)gpu_model_sleep(model->gpu, &why);
    pthread_mutex_lock(&w->lock);
    snprintf(w->no_sleep, sizeof w->no_sleep, "%.255s", why.text);
    w->self = worker_answerer_hold(first->loaded.answerer);
    w->device = info;
    w->restored = model->restored;
    w->snapshot_bytes = model->snapshot_bytes;
    set_rules(&w->rules, model);
    pthread_mutex_unlock(&w->lock);
    w->model_ready = true;
    worker_note_ready(w);
    base_log_info("model ready", LOG_STR("model", model->name), LOG_STR("version", model->version),
                  LOG_STR("snapshot", model->snapshot_id), LOG_STR("restored", model->restored ? "true" : "false"),
                  LOG_STR("device", info->kind), LOG_STR("arch", info->arch), LOG_INT("bytes", first->bytes));
}

/* Lines */

static void line_append(struct worker_model *m, struct worker_prompt *p)
{
    p->behind = NULL;
    if (m->tail)
        m->tail->behind = p;
    else
        m->head = p;
    m->tail = p;
}

static struct worker_prompt *line_shift(struct worker_model *m)
{
    struct worker_prompt *p = m->head;
    m->head = p->behind;
    if (!m->head)
        m->tail = NULL;
    return p;
}

static struct worker_prompt *line_take(struct worker_model *m)
{
    struct worker_prompt *p = m->head;
    m->head = m->tail = NULL;
    return p;
}

static void list_models(struct generator *g)
{
    g->n_models = worker_models_list(g->w->models, g->models, WORKER_MODELS_MAX);
}

/* What is done goes to the ledger when no line and no loop stands on it. */

static void note_done(struct generator *g, struct worker_prompt *p)
{
    if (p->state != WORKER_PROMPT_DONE)
        return;
    p->behind = g->finished;
    g->finished = p;
}

static void say_finished(struct generator *g)
{
    while (g->finished) {
        struct worker_prompt *p = g->finished;
        g->finished = p->behind;
        worker_prompt_finished(g->w, p);
    }
    while (g->refused) {
        struct worker_job *job = g->refused;
        g->refused = job->behind;
        worker_job_finished(g->w, job);
    }
}

static void distribute(struct worker_job *job)
{
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        struct worker_prompt *p = &job->prompts[i];
        if (p->state != WORKER_PROMPT_DONE)
            line_append(p->model, p);
    }
}

static void take_jobs(struct generator *g, bool idle)
{
    struct worker *w = g->w;
    for (struct worker_job *job = worker_queue_pop(&w->to_device, idle ? IDLE_MS : 0); job;
         job = worker_queue_pop(&w->to_device, 0))
        distribute(job);
    list_models(g); /* what the jobs want is among them */
}

/* Into the engine */

/* 0: in, or answered. ERR_AGAIN: the engine is full. */
static int submit(struct worker_model *m, struct worker_prompt *p)
{
    struct base_error err = {0};
    FAILPOINT(DEVICE_BEFORE_SUBMIT);
    int rc = engine_submit(m->loaded.engine, &p->request, &err);
    if (rc == ERR_AGAIN)
        return rc;
    if (rc < 0) {
        worker_prompt_refuse(p, rc == ERR_INPUT ? SCHEMA_PROMPT_TOO_LONG : SCHEMA_INTERNAL, SCHEMA_STAGE_ADMIT,
                             err.text);
        return 0;
    }
    p->request.prompt = NULL;
    p->state = WORKER_PROMPT_RUNNING;
    p->answerer = worker_answerer_hold(m->loaded.answerer);
    return 0;
}

/* What was taken while its model was not loaded is tokenised here, a little at a time. */
static void feed(struct generator *g, struct worker_model *m)
{
    uint64_t until = base_clock_mono_ns() + TOKENISE_MS * MS_NS;
    while (m->head) {
        struct worker_prompt *p = m->head;
        if (p->state == WORKER_PROMPT_NEW && base_clock_mono_ns() > until)
            return;
        if (p->state == WORKER_PROMPT_NEW && !worker_intake_expire(p, base_clock_unix_ms()))
            worker_intake_tokenise_prompt(p, m->loaded.model);
        if (p->state == WORKER_PROMPT_READY && submit(m, p) == ERR_AGAIN)
            return;
        line_shift(m);
        note_done(g, p);
    }
}

/* Models that do not come */

static bool asks_for_this_alone(const struct worker_job *job, const struct worker_model *m)
{
    for (uint32_t i = 0; i < job->n_prompts; i++)
        if (job->prompts[i].model != m)
            return false;
    return true;
}

/* Whoever waits for it is answered with the reason: a record that wants nothing else as a whole, as if it had come later. */
static void fail_line(struct generator *g, struct worker_model *m, const struct base_error *why)
{
    enum schema_code code = worker_route_failure(why);
    struct worker_prompt *behind;
    for (struct worker_prompt *p = line_take(m); p; p = behind) {
        behind = p->behind;
        if (p->job->code != SCHEMA_OK) /* with the record */
            continue;
        if (asks_for_this_alone(p->job, m)) {
            worker_job_refuse(p->job, code, SCHEMA_STAGE_ADMIT, why->text);
            p->job->behind = g->refused;
            g->refused = p->job;
        } else {
            worker_prompt_refuse(p, code, SCHEMA_STAGE_ADMIT, why->text);
            note_done(g, p);
        }
    }
}

static void expire_line(struct generator *g, struct worker_model *m, int64_t now_ms)
{
    struct worker_prompt *behind;
    for (struct worker_prompt *p = line_take(m); p; p = behind) {
        behind = p->behind;
        if (worker_intake_expire(p, now_ms))
            note_done(g, p);
        else
            line_append(m, p);
    }
}

static void look_at_waiting(struct generator *g)
{
    uint64_t now = base_clock_mono_ns();
    bool sweep = now > g->swept_ns + SWEEP_MS * MS_NS;
    struct base_error why = {0};
    if (sweep)
        g->swept_ns = now;
    for (uint32_t i = 0; i < g->n_models; i++) {
        struct worker_model *m = g->models[i];
        if (m->head && worker_models_failed(g->w->models, m, &why))
            fail_line(g, m, &why);
        if (m->head && sweep)
            expire_line(g, m, base_clock_unix_ms());
    }
    say_finished(g);
}

/* Prompts whose partition has gone, or goes */

static bool cancel_matches(void *context, void *tag)
{
    struct worker *w = context;
    struct worker_prompt *p = tag;
    if (ledger_is_current(w->ledger, p->job->partition, p->job->epoch))
        return false;
    assert(p->state == WORKER_PROMPT_RUNNING);
    worker_prompt_dropped_locked(w, p);
    return true;
}

/* A partition that is about to go: what runs may finish, what waits is not begun. */
static bool cancel_matches_closing(void *context, void *tag)
{
    struct worker *w = context;
    struct worker_prompt *p = tag;
    if (!ledger_is_closing(w->ledger, p->job->partition, p->job->epoch))
        return false;
    worker_prompt_dropped_locked(w, p);
    return true;
}

/* The line first: what is not in the engine yet will not get there. */
static uint32_t cancel_model(struct worker *w, struct worker_model *m, bool drives)
{
    uint32_t n = 0;
    struct worker_prompt *behind;
    for (struct worker_prompt *p = line_take(m); p; p = behind) {
        behind = p->behind;
        if (ledger_is_closing(w->ledger, p->job->partition, p->job->epoch)) {
            worker_prompt_dropped_locked(w, p);
            n++;
        } else {
            line_append(m, p);
        }
    }
    if (drives)
        n += engine_cancel(m->loaded.engine, cancel_matches, w) +
             engine_cancel_waiting(m->loaded.engine, cancel_matches_closing, w);
    return n;
}

static void note_use(struct generator *g, struct worker_model *m);

static void cancel_gone(struct generator *g)
{
    struct worker *w = g->w;
    if (!atomic_exchange(&w->cancel, false))
        return;
    FAILPOINT(DEVICE_BEFORE_CANCEL);
    uint32_t n_prompts = 0;
    bool yields;
    take_jobs(g, false); /* so that no job is in between */
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < g->n_models; i++)
        n_prompts += cancel_model(w, g->models[i], worker_models_drives(w->models, g->models[i], &yields));
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < g->n_models; i++)
        if (worker_models_drives(w->models, g->models[i], &yields))
            note_use(g, g->models[i]);
    if (n_prompts)
        base_log_info("work dropped with its partitions", LOG_INT("prompts", n_prompts));
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

/* The model on the worker's own device, if it is loaded: the only one that sleeps. The others are closed, and come when they are
 * wanted again. */
static struct snap_model *own_model(struct generator *g)
{
    bool yields;
    for (uint32_t i = 0; i < g->n_models; i++)
        if (worker_models_drives(g->w->models, g->models[i], &yields) && !g->models[i]->loaded.device)
            return g->models[i]->loaded.model;
    return NULL;
}

static void fall_asleep(struct generator *g)
{
    struct worker *w = g->w;
    struct base_error err = {0};
    struct snap_model *own = own_model(g);
    int rc = own ? snap_model_sleep(own, &err) : 0;
    if (rc < 0)
        base_log_error("worker does not sleep", LOG_STR("reason", err.text));
    else
        base_log_info("worker asleep", LOG_STR("model", own ? own->name : ""));
    w->rest = rc < 0 ? WORKER_AWAKE : WORKER_ASLEEP;
}

static void wake(struct generator *g)
{
    struct worker *w = g->w;
    struct base_error err = {0};
    struct snap_model *own = own_model(g);
    int rc = own ? snap_model_wake(own, &err) : 0;
    if (rc < 0)
        base_log_error("worker does not wake", LOG_STR("reason", err.text));
    pthread_mutex_lock(&w->lock);
    snprintf(w->asleep_why, sizeof w->asleep_why, "%s", err.text);
    pthread_mutex_unlock(&w->lock);
    w->rest = rc < 0 ? WORKER_ASLEEP : WORKER_AWAKE;
}

/* Whether there are models to work with. */
static bool is_awake(struct generator *g)
{
    struct worker *w = g->w;
    if (w->rest == WORKER_FALLING_ASLEEP && is_quiet(w) && worker_models_rest(w->models))
        fall_asleep(g);
    if (w->rest == WORKER_WAKING)
        wake(g);
    if (w->rest != WORKER_ASLEEP)
        return true;
    base_clock_sleep_ms(REST_MS);
    return false;
}

/* Steps */

static void publish_counts(struct generator *g)
{
    struct worker *w = g->w;
    const struct engine_counts *n = &g->counts;
    w->engine_waiting = n->waiting;
    w->engine_running = n->running;
    w->engine_blocks_used = n->blocks_used;
    w->engine_blocks = n->blocks;
    w->engine_steps = n->steps;
    w->engine_step_ns = n->step_ns;
    w->engine_generated = n->generated_tokens;
    if (n->generated_tokens)
        base_trace_mark(w->trace, BASE_TRACE_FIRST_TOKEN);
}

static void add_counts(struct engine_counts *sum, const struct engine_counts *before, const struct engine_counts *now)
{
    sum->waiting += now->waiting;
    sum->running += now->running;
    sum->blocks_used += now->blocks_used;
    sum->blocks += now->blocks;
    sum->steps += now->steps - before->steps;
    sum->step_ns += now->step_ns - before->step_ns;
    sum->generated_tokens += now->generated_tokens - before->generated_tokens;
}

static void note_use(struct generator *g, struct worker_model *m)
{
    struct engine_counts n;
    engine_counts(m->loaded.engine, &n);
    worker_models_used(g->w->models, m, n.waiting + n.running, base_clock_mono_ns());
}

static void take_results(struct generator *g, struct worker_model *m)
{
    struct engine_result result;
    while (engine_take(m->loaded.engine, &result)) {
        struct worker_prompt *p = result.tag;
        worker_prompt_finish(p, &result);
        note_done(g, p);
    }
}

/* A step that fails is tried again; several in a row, and the device is given up. Its prompts are not answered then: whoever
 * gets their partitions next, on a device that works, computes them. */
static int step(struct generator *g, struct worker_model *m, bool *out_busy, struct base_error *err)
{
    g->w->step_began_ns = base_clock_mono_ns();
    int rc = engine_step(m->loaded.engine, out_busy, err);
    g->w->step_began_ns = 0;
    m->n_steps_bad = rc < 0 ? m->n_steps_bad + 1 : 0;
    g->n_steps_bad = m->n_steps_bad;
    if (rc < 0)
        base_log_error("forward step failed", LOG_STR("model", m->name), LOG_STR("reason", err->text),
                       LOG_INT("in_a_row", m->n_steps_bad));
    return m->n_steps_bad < STEPS_BAD_MAX && rc != ERR_SERVICE ? 0 : rc; /* ERR_SERVICE: the device is gone for good */
}

/* One step of one model, if it has anything to do. */
static int drive(struct generator *g, struct worker_model *m, bool yields, bool *busy, struct base_error *err)
{
    struct engine_counts before, now;
    bool more = false;
    engine_counts(m->loaded.engine, &before);
    if (!yields)
        feed(g, m);
    engine_counts(m->loaded.engine, &now);
    int rc = 0;
    if (now.waiting + now.running > 0) {
        rc = step(g, m, &more, err);
        FAILPOINT(DEVICE_AFTER_STEP);
        take_results(g, m);
        note_use(g, m);
        engine_counts(m->loaded.engine, &now);
    }
    add_counts(&g->counts, &before, &now);
    *busy = *busy || more || (m->head && !yields);
    say_finished(g);
    return rc;
}

/* A step of each in turn. */
static int drive_all(struct generator *g, bool *out_busy, struct base_error *err)
{
    bool yields;
    int rc = 0;
    *out_busy = false;
    g->counts.waiting = g->counts.running = g->counts.blocks_used = g->counts.blocks = 0;
    for (uint32_t i = 0; rc == 0 && i < g->n_models; i++)
        if (worker_models_drives(g->w->models, g->models[i], &yields))
            rc = drive(g, g->models[i], yields, out_busy, err);
    publish_counts(g);
    return rc;
}

static int run(struct generator *g, struct base_error *err)
{
    struct worker *w = g->w;
    bool busy = false;
    while (!w->device_quit && !w->abandon) {
        cancel_gone(g);
        if (!is_awake(g))
            continue;
        take_jobs(g, !busy);
        look_at_waiting(g);
        int rc = drive_all(g, &busy, err);
        if (rc < 0)
            return base_fail_in(err, "the device failed %u steps in a row", g->n_steps_bad);
        worker_models_plan(w->models, base_clock_mono_ns()); /* behind the step that may have been somebody's last */
    }
    return 0;
}

void *worker_device_main(void *worker)
{
    struct generator g = {.w = worker};
    struct worker_model *first = NULL;
    struct base_error err = {0};
    int rc = bring_up(&g, &first, &err);
    if (rc == 0) {
        publish_model(&g, first);
        rc = run(&g, &err);
    }
    if (rc < 0)
        worker_fail(g.w, &err);
    /* Others look at the models and their tokenizers until they have all ended: main lets this thread go last. */
    while (!g.w->device_quit)
        base_clock_sleep_ms(5);
    if (g.w->models)
        worker_models_close(g.w->models);
    gpu_close(g.device);
    g.w->device_ended = true;
    return NULL;
}
