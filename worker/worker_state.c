#include "worker/worker_state.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"

void worker_fail(struct worker *w, const struct base_error *why)
{
    pthread_mutex_lock(&w->lock);
    bool first = w->failure.code == 0;
    if (first)
        w->failure = *why;
    pthread_mutex_unlock(&w->lock);
    w->draining = true; /* nothing more is taken, and no position runs ahead of what was */
    if (first)
        base_log_error("worker failed", LOG_STR("reason", why->text), LOG_STR("kind", base_error_name(why->code)));
}

/* Jobs */

void worker_jobs_add_locked(struct worker *w, struct worker_job *job)
{
    job->refs = 2;
    job->before = NULL;
    job->next = w->jobs;
    if (w->jobs)
        w->jobs->before = job;
    w->jobs = job;
    w->n_records++;
    w->n_prompts += job->weight;
    w->n_bytes += job->bytes;
}

static void jobs_remove(struct worker *w, struct worker_job *job)
{
    if (job->before)
        job->before->next = job->next;
    else
        w->jobs = job->next;
    if (job->next)
        job->next->before = job->before;
    w->n_records--;
    w->n_prompts -= job->weight;
    w->n_bytes -= job->bytes;
    worker_job_free(job);
}

void worker_job_hold_locked(struct worker_job *job)
{
    job->refs++;
}

void worker_job_let_go_locked(struct worker *w, struct worker_job *job)
{
    assert(job->refs > 0);
    if (--job->refs == 0)
        jobs_remove(w, job);
}

void worker_job_settled_locked(struct worker *w, struct worker_job *job)
{
    assert(job->weight > 0);
    job->weight--;
    w->n_prompts--;
}

static void hand_is_empty(struct worker *w, struct worker_job *job)
{
    w->n_on_device -= job->on_device;
    job->on_device = false;
    worker_job_let_go_locked(w, job);
}

/* One prompt less in the hand. */
static void hand_gives(struct worker *w, struct worker_prompt *p)
{
    assert(!p->said && p->job->n_in_hand > 0);
    p->said = true;
    if (--p->job->n_in_hand > 0)
        return;
    hand_is_empty(w, p->job);
}

void worker_prompt_finished(struct worker *w, struct worker_prompt *p)
{
    const struct worker_job *job = p->job;
    assert(p->state == WORKER_PROMPT_DONE);
    FAILPOINT(LEDGER_BEFORE_FINISH);
    pthread_mutex_lock(&w->lock);
    bool ours = ledger_finish(w->ledger, job->partition, job->epoch, job->offset, p->index);
    hand_gives(w, p);
    if (ours)
        pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    metrics_add(&w->metrics.prompts_revoked, !ours);
    FAILPOINT(LEDGER_AFTER_FINISH);
}

void worker_prompt_dropped_locked(struct worker *w, struct worker_prompt *p)
{
    worker_prompt_drop(p);
    ledger_leave(w->ledger, p->job->partition, p->job->epoch, p->job->offset, p->index);
    hand_gives(w, p);
    metrics_add(&w->metrics.prompts_revoked, 1);
}

void worker_job_finished(struct worker *w, struct worker_job *job)
{
    pthread_mutex_lock(&w->lock);
    bool ours = ledger_finish_all(w->ledger, job->partition, job->epoch, job->offset);
    hand_is_empty(w, job);
    if (ours)
        pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    metrics_add(&w->metrics.prompts_revoked, !ours);
}

void worker_job_dropped_locked(struct worker *w, struct worker_job *job)
{
    for (uint32_t i = 0; i < worker_job_n_parts(job); i++)
        if (job->n_prompts == 0 || !job->prompts[i].said) {
            ledger_leave(w->ledger, job->partition, job->epoch, job->offset, i);
            metrics_add(&w->metrics.prompts_revoked, 1);
        }
    worker_job_let_go_locked(w, job);
}

/* Links */

void worker_link_set(struct worker *w, struct worker_link *link, const char *which, const char *why_down)
{
    char why[sizeof link->why] = "";
    uint64_t now = base_clock_mono_ns(), was_down_ns = 0;
    if (why_down)
        snprintf(why, sizeof why, "%s", why_down);
    pthread_mutex_lock(&w->lock);
    bool changed = link->down != (why_down != NULL);
    if (changed) {
        was_down_ns = now - link->since_ns;
        link->down = why_down != NULL;
        link->since_ns = now;
    }
    memcpy(link->why, why, sizeof why);
    pthread_mutex_unlock(&w->lock);
    if (changed && why_down)
        base_log_warn("brokers away", LOG_STR("link", which), LOG_STR("reason", why));
    else if (changed)
        base_log_info("brokers back", LOG_STR("link", which), LOG_INT("away_ms", was_down_ns / 1000000));
}

/* Phases */

void worker_note_ready(struct worker *w)
{
    if (!w->model_ready || !w->joined || atomic_exchange(&w->ready_noted, true))
        return;
    base_trace_mark(w->trace, BASE_TRACE_READY);
    base_trace_log(w->trace, "cold start"); /* before anybody can see that it is over */
    w->ready = true;
}

enum worker_phase worker_phase(const struct worker *w)
{
    if (w->draining)
        return WORKER_DRAINING;
    if (w->rest == WORKER_ASLEEP || w->rest == WORKER_WAKING)
        return WORKER_PHASE_ASLEEP;
    return w->ready ? WORKER_READY : WORKER_STARTING;
}

const char *worker_phase_name(enum worker_phase phase)
{
    static const char *const names[] = {"starting", "ready", "draining", "asleep"};
    return names[phase];
}

bool worker_not_ready(struct worker *w, char *out, size_t size)
{
    bool no = true;
    pthread_mutex_lock(&w->lock);
    if (w->draining)
        snprintf(out, size, "draining");
    else if (!w->model_ready)
        snprintf(out, size, "the model is not restored yet");
    else if (w->rest == WORKER_FALLING_ASLEEP)
        snprintf(out, size, "going to sleep");
    else if (w->rest == WORKER_WAKING)
        snprintf(out, size, "waking up");
    else if (w->rest == WORKER_ASLEEP)
        snprintf(out, size, "asleep%s%s", w->asleep_why[0] ? ", and did not wake: " : "", w->asleep_why);
    else if (w->consumer_link.down)
        snprintf(out, size, "brokers away: %s", w->consumer_link.why);
    else if (w->producer_link.down)
        snprintf(out, size, "brokers away: %s", w->producer_link.why);
    else if (w->topics_missing[0])
        snprintf(out, size, "%.700s", w->topics_missing);
    else if (!w->ready)
        snprintf(out, size, "the group is not joined yet");
    else if (w->halted_why[0])
        snprintf(out, size, "%s", w->halted_why);
    else
        no = false;
    pthread_mutex_unlock(&w->lock);
    return no;
}

struct kafka_config worker_kafka_config(const struct worker *w, const char *transactional_id)
{
    const struct worker_options *o = &w->options;
    return (struct kafka_config){.brokers = o->brokers,
                                 .client_id = w->id,
                                 .group = o->group,
                                 .transactional_id = transactional_id,
                                 .rebalance = o->rebalance,
                                 .properties = &o->kafka};
}
