#include "worker/kafka_consumer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "worker/history.h"
#include "worker/intake.h"
#include "worker/kafka_config.h"
#include "worker/takeover.h"
#include "worker/wait.h"
#include "worker/worker_state.h"

#define POLL_MS       50  /* nothing to do but wait for records */
#define POLL_BUSY_MS  2   /* records wait in line for the model or for room in the queue */
#define TAKE_MAX      256 /* records between two looks at everything else */
#define TOKENISE_MS   50  /* of work between two polls */
#define POSITION_MS   100 /* between two looks at the consumer's positions */
#define HOLD_MS       200 /* full for longer than this: the partitions pause */
#define ROOM_MS       50  /* between two looks at partitions whose map is full */
#define SAME_ERROR_MS 60000

/* Partitions that are about to go. What runs of theirs may finish, for a while; then they are given back. */
struct handover {
    rd_kafka_topic_partition_list_t *list; /* NULL: none */
    uint64_t run_until_ns, publish_until_ns;
    bool publishing; /* nothing of theirs runs any more */
};

/* A record that workers died with is worked on alone, so that the next death says whether it was it. */
struct worker_alone {
    bool active;
    int32_t partition;
    uint64_t epoch;
    int64_t offset;
};

struct poller {
    struct worker *w;
    rd_kafka_t *rk;
    struct worker_job *head, *tail; /* taken, not yet with the device thread; oldest first */
    struct worker_intake_guard guard;
    bool paused;                                  /* what flow_control did last */
    uint64_t full_since_ns;                       /* and not paused yet; 0: not full */
    bool flow_unsure;                             /* the assignment changed: look at its partitions again */
    rd_kafka_topic_partition_list_t *paused_list; /* by us, and not resumed since, ours at the moment or not */
    bool tight;                                   /* some partition's map is full */
    uint64_t room_at_ns;                          /* looked at last */
    struct handover handover;
    struct worker_alone alone;
    uint64_t positions_at_ns;
    char protocol[16];              /* of rebalances, as last known; "": not yet */
    rd_kafka_resp_err_t last_error; /* logged at error_at_ns */
    uint64_t error_at_ns;
};

/* The line of jobs */

static void line_append(struct poller *c, struct worker_job *job)
{
    job->behind = NULL;
    if (c->tail)
        c->tail->behind = job;
    else
        c->head = job;
    c->tail = job;
}

static void line_prepend(struct poller *c, struct worker_job *job)
{
    job->behind = c->head;
    c->head = job;
    if (!c->tail)
        c->tail = job;
}

/* before: the job in front of it; NULL: it is the head. */
static void line_remove(struct poller *c, struct worker_job *before, struct worker_job *job)
{
    if (before)
        before->behind = job->behind;
    else
        c->head = job->behind;
    if (c->tail == job)
        c->tail = before;
}

/* Jobs whose partition has gone, or goes, leave the line: nothing of them is begun. */
static void line_purge(struct poller *c)
{
    struct worker_job *job = c->head;
    c->head = c->tail = NULL;
    while (job) {
        struct worker_job *behind = job->behind;
        pthread_mutex_lock(&c->w->lock);
        bool stays = !ledger_is_closing(c->w->ledger, job->partition, job->epoch);
        if (!stays)
            worker_job_dropped_locked(c->w, job);
        pthread_mutex_unlock(&c->w->lock);
        if (stays)
            line_append(c, job);
        job = behind;
    }
}

/* Taking a record */

static uint32_t copy_headers(rd_kafka_message_t *m, struct schema_header out[WORKER_JOB_HEADERS_MAX])
{
    rd_kafka_headers_t *headers = NULL;
    uint32_t n = 0;
    if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0;
    while (n < WORKER_JOB_HEADERS_MAX &&
           rd_kafka_header_get_all(headers, n, &out[n].name, &out[n].value, &out[n].n) == RD_KAFKA_RESP_ERR_NO_ERROR)
        n++;
    return n;
}

static int make_job(rd_kafka_message_t *m, struct worker_job **out_job, struct base_error *err)
{
    struct schema_header headers[WORKER_JOB_HEADERS_MAX];
    rd_kafka_timestamp_type_t type;
    int64_t timestamp = rd_kafka_message_timestamp(m, &type);
    struct worker_record record = {
        .partition = m->partition,
        .offset = m->offset,
        .timestamp_ms = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || timestamp < 0 ? 0 : timestamp,
        .key = m->key,
        .value = m->payload,
        .n_key = m->key_len,
        .n_value = m->len,
        .headers = headers,
        .n_headers = copy_headers(m, headers),
    };
    int rc = worker_job_new(&record, out_job, err);
    if (rc < 0)
        return rc;
    rc = worker_intake_decode(*out_job, err);
    if (rc < 0)
        worker_job_free(*out_job);
    return rc;
}

static int enter_ledger(struct worker *w, struct worker_job *job, struct base_error *err)
{
    uint8_t answered[LEDGER_PARTS_MAX / 8];
    pthread_mutex_lock(&w->lock);
    int rc =
        ledger_take(w->ledger, job->partition, job->offset, worker_job_n_parts(job), job, &job->epoch, answered, err);
    if (rc == 0) {
        job->deaths = ledger_deaths(w->ledger, job->partition, job->offset, job->timestamp_ms, w->options.deaths_max);
        worker_job_skip(job, answered);
        worker_jobs_add_locked(w, job);
    }
    pthread_mutex_unlock(&w->lock);
    metrics_add(&w->metrics.prompts_answered, job->n_skipped);
    return rc;
}

/* What is to be done with a record, before anything is made of it; one that was answered is noted. */
static enum ledger_record look(struct worker *w, const rd_kafka_message_t *m, struct base_error *err)
{
    pthread_mutex_lock(&w->lock);
    enum ledger_record what = ledger_look(w->ledger, m->partition, m->offset);
    if (MUTANT(record_not_skipped) && what == LEDGER_RECORD_DONE)
        what = LEDGER_RECORD_NEW;
    if (what == LEDGER_RECORD_DONE)
        (void)ledger_pass(w->ledger, m->partition, m->offset, err);
    pthread_mutex_unlock(&w->lock);
    metrics_add(&w->metrics.records_duplicate, what == LEDGER_RECORD_AGAIN);
    metrics_add(&w->metrics.records_answered, what == LEDGER_RECORD_DONE);
    return what;
}

static void take(struct poller *c, rd_kafka_message_t *m)
{
    struct worker *w = c->w;
    if (w->draining)
        return; /* not taken: whoever gets the partition next finds it behind the committed offset */
    FAILPOINT(POLL_BEFORE_TAKE);
    struct base_error err = {0};
    struct worker_job *job = NULL;
    if (look(w, m, &err) != LEDGER_RECORD_NEW) {
        if (err.code)
            worker_fail(w, &err);
        return;
    }
    int rc = make_job(m, &job, &err);
    if (rc == 0) {
        rc = enter_ledger(w, job, &err);
        if (rc < 0)
            worker_job_free(job);
    }
    if (rc < 0) {
        worker_fail(w, &err);
        return;
    }
    base_trace_mark(w->trace, BASE_TRACE_FIRST_RECORD);
    metrics_add(&w->metrics.records, 1);
    metrics_add(&w->metrics.record_bytes, m->len + m->key_len);
    HISTORY("take", job->partition, job->offset, -1, job->epoch);
    FAILPOINT(POLL_AFTER_TAKE);
    line_append(c, job);
}

/* Tokenise and hand over */

static void halt(struct poller *c, const struct worker_job *job)
{
    pthread_mutex_lock(&c->w->lock);
    snprintf(c->w->halted_why, sizeof c->w->halted_why, "%d records in a row failed with %s: %.380s",
             WORKER_GUARD_RECORDS, schema_code_name(job->code), job->why);
    pthread_mutex_unlock(&c->w->lock);
    base_log_error("worker stopped taking records", LOG_STR("code", schema_code_name(job->code)),
                   LOG_STR("reason", job->why), LOG_INT("records", WORKER_GUARD_RECORDS),
                   LOG_INT("again_in_ms", WORKER_GUARD_PAUSE_MS));
}

static void resume_after_halt(struct poller *c)
{
    if (!worker_intake_guard_resume(&c->guard, base_clock_mono_ns()))
        return;
    pthread_mutex_lock(&c->w->lock);
    c->w->halted_why[0] = '\0';
    pthread_mutex_unlock(&c->w->lock);
    base_log_info("worker tries a record again", LOG_STR("code", schema_code_name(c->guard.code)));
}

/* Prompts that needed no device. With the last one the job may be gone. */
static void say_finished(struct worker *w, struct worker_job *job)
{
    uint32_t n = job->n_prompts;
    for (uint32_t i = 0, n_left = job->n_in_hand; i < n && n_left; i++) {
        struct worker_prompt *p = &job->prompts[i];
        if (p->state != WORKER_PROMPT_DONE || p->said)
            continue;
        n_left--;
        worker_prompt_finished(w, p);
    }
}

/* Deaths */

static bool is_suspect(const struct poller *c, const struct worker_job *job)
{
    return c->w->options.deaths_max && job->deaths >= WORKER_DEATHS_ALONE && job->deaths < c->w->options.deaths_max;
}

static void refuse_poison(struct poller *c, struct worker_job *job)
{
    char why[128];
    if (!c->w->options.deaths_max || job->deaths < c->w->options.deaths_max || job->code != SCHEMA_OK)
        return;
    snprintf(why, sizeof why, "%u workers died while they worked on it", job->deaths);
    base_log_error("record set aside", LOG_INT("partition", job->partition), LOG_INT("offset", job->offset),
                   LOG_STR("reason", why));
    worker_job_refuse(job, SCHEMA_POISON, SCHEMA_STAGE_GENERATE, why);
}

/* Until its answer is committed: else a death of the next one would be put down to it. */
static bool one_is_alone(struct poller *c)
{
    struct worker *w = c->w;
    if (!c->alone.active)
        return false;
    pthread_mutex_lock(&w->lock);
    c->alone.active = ledger_is_open(w->ledger, c->alone.partition, c->alone.epoch, c->alone.offset);
    pthread_mutex_unlock(&w->lock);
    return c->alone.active;
}

enum begin { BEGIN_NOW, BEGIN_LATER, BEGIN_NONE };

/* Before the device sees it, the group knows that we hold its partition: should we die with it, that will be counted. */
static enum begin may_begin(struct poller *c, const struct worker_job *job)
{
    struct worker *w = c->w;
    bool suspect = is_suspect(c, job);
    if (!w->options.deaths_max || job->n_open == 0)
        return BEGIN_NOW;
    pthread_mutex_lock(&w->lock);
    bool held = ledger_hold(w->ledger, job->partition), busy = w->n_on_device > 0;
    if (!held)
        pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return suspect && busy ? BEGIN_NONE : held ? BEGIN_NOW : BEGIN_LATER;
}

static void note_begun(struct poller *c, const struct worker_job *job)
{
    if (is_suspect(c, job))
        c->alone = (struct worker_alone){true, job->partition, job->epoch, job->offset};
}

static void note_on_device(struct worker *w, struct worker_job *job, bool there)
{
    pthread_mutex_lock(&w->lock);
    job->on_device = there;
    w->n_on_device += there ? 1 : -1ull;
    pthread_mutex_unlock(&w->lock);
}

/* The job has left the line. false: the queue is full, and it is the caller's again. */
static bool hand_over(struct poller *c, struct worker_job *job)
{
    struct worker *w = c->w;
    bool refused = job->code != SCHEMA_OK || job->n_prompts == 0, open = job->n_open > 0;
    if (!refused)
        say_finished(w, job);
    if (!refused && open) {
        FAILPOINT(POLL_BEFORE_QUEUE);
        note_on_device(w, job, true);
        note_begun(c, job);
        if (worker_queue_push(&w->to_device, job) < 0) {
            note_on_device(w, job, false);
            c->alone.active = false;
            return false;
        }
        FAILPOINT(POLL_AFTER_QUEUE);
        worker_intake_guard_note(&c->guard, SCHEMA_OK, 0);
        return true;
    }
    if (!refused) { /* all of it is said */
        worker_intake_guard_note(&c->guard, SCHEMA_OK, 0);
        return true;
    }
    if (worker_intake_guard_note(&c->guard, job->code, base_clock_mono_ns()))
        halt(c, job);
    worker_job_finished(w, job);
    return true;
}

/* Oldest first; a job whose model cannot be told yet lets the others pass. */
static void work_on_line(struct poller *c)
{
    struct worker *w = c->w;
    if (!w->model_ready)
        return;
    uint64_t until = base_clock_mono_ns() + TOKENISE_MS * 1000000ull;
    struct worker_job *before = NULL, *job = c->head;
    while (job && base_clock_mono_ns() < until && !one_is_alone(c)) {
        struct worker_job *behind = job->behind;
        refuse_poison(c, job);
        enum begin begin = may_begin(c, job);
        if (begin == BEGIN_NONE)
            return;
        if (begin == BEGIN_LATER) {
            before = job;
            job = behind;
            continue;
        }
        if (!worker_route_job(&w->rules, w->names, w->models, job)) {
            before = job;
            job = behind;
            continue;
        }
        if (!worker_intake_tokenise(job, w->models, until))
            return;
        line_remove(c, before, job);
        if (!hand_over(c, job)) { /* full: flow control has paused the partitions */
            line_prepend(c, job);
            return;
        }
        job = behind;
    }
}

/* Backpressure */

static bool is_full(struct poller *c)
{
    struct worker *w = c->w;
    uint64_t prompts_max = w->options.n_inflight_max, bytes_max = WORKER_INFLIGHT_BYTES_MAX;
    if (c->paused) {
        prompts_max -= prompts_max / 4;
        bytes_max -= bytes_max / 4;
    }
    pthread_mutex_lock(&w->lock);
    bool full = w->n_prompts >= prompts_max || w->n_bytes >= bytes_max;
    pthread_mutex_unlock(&w->lock);
    return full;
}

static bool must_rest(const struct poller *c)
{
    return c->w->draining || c->w->rest != WORKER_AWAKE || c->guard.halted_until_ns;
}

static bool want_pause(struct poller *c)
{
    return is_full(c) || must_rest(c);
}

/* Full, but not for long: nothing is asked for, and nothing is paused. A pause throws away what was fetched ahead, and after it
 * librdkafka (2.0.2) takes most of a second to fetch again; the next commit makes room sooner. */
static bool hold_on(struct poller *c)
{
    uint64_t now = base_clock_mono_ns();
    if (c->paused || must_rest(c) || !is_full(c)) {
        c->full_since_ns = 0;
        return false;
    }
    if (c->full_since_ns == 0)
        c->full_since_ns = now;
    return now - c->full_since_ns < HOLD_MS * 1000000ull;
}

/* Whether the map of what is done would still fit with another record; else its partition rests until older ones are done. */
static bool has_room(struct poller *c, int32_t partition)
{
    pthread_mutex_lock(&c->w->lock);
    bool room = ledger_has_room(c->w->ledger, partition);
    pthread_mutex_unlock(&c->w->lock);
    return room;
}

struct flow_changes {
    rd_kafka_topic_partition_list_t *pause, *resume;
};

/* The assigned partitions whose state has to change; what we paused is remembered in c->paused_list, because it stays paused
 * through a rebalance, and because resuming one that is not paused throws its prefetched records away. */
static void flow_changes(struct poller *c, const rd_kafka_topic_partition_list_t *assigned, bool pause,
                         struct flow_changes *out)
{
    c->tight = false;
    for (int i = 0; i < assigned->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &assigned->elems[i];
        bool paused = rd_kafka_topic_partition_list_find(c->paused_list, p->topic, p->partition) != NULL;
        bool tight = !has_room(c, p->partition);
        c->tight |= tight;
        if (paused == (pause || tight))
            continue;
        rd_kafka_topic_partition_list_add(paused ? out->resume : out->pause, p->topic, p->partition);
        if (paused)
            rd_kafka_topic_partition_list_del(c->paused_list, p->topic, p->partition);
        else
            rd_kafka_topic_partition_list_add(c->paused_list, p->topic, p->partition);
    }
}

static void apply_flow(struct poller *c, bool pause)
{
    rd_kafka_topic_partition_list_t *assigned = NULL;
    if (rd_kafka_assignment(c->rk, &assigned) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    struct flow_changes changes = {rd_kafka_topic_partition_list_new(assigned->cnt),
                                   rd_kafka_topic_partition_list_new(assigned->cnt)};
    flow_changes(c, assigned, pause, &changes);
    if (changes.pause->cnt || changes.resume->cnt)
        FAILPOINT(POLL_BEFORE_FLOW);
    if (changes.pause->cnt)
        rd_kafka_pause_partitions(c->rk, changes.pause);
    if (changes.resume->cnt)
        rd_kafka_resume_partitions(c->rk, changes.resume);
    if (changes.pause->cnt || changes.resume->cnt)
        base_log_debug("flow", LOG_INT("paused", changes.pause->cnt), LOG_INT("resumed", changes.resume->cnt));
    rd_kafka_topic_partition_list_destroy(changes.pause);
    rd_kafka_topic_partition_list_destroy(changes.resume);
    rd_kafka_topic_partition_list_destroy(assigned);
    c->paused = pause;
    c->flow_unsure = false;
    c->room_at_ns = base_clock_mono_ns();
    c->w->paused = pause || c->tight;
}

static void flow_control(struct poller *c)
{
    resume_after_halt(c);
    uint64_t wish = c->w->rest_wish; /* before rest is looked at: a wish that is newer gets its own answer */
    bool pause = want_pause(c) && !hold_on(c);
    bool look_again = c->tight && base_clock_mono_ns() > c->room_at_ns + ROOM_MS * 1000000ull;
    if (pause != c->paused || c->flow_unsure || look_again)
        apply_flow(c, pause);
    if (c->paused && !c->flow_unsure && !c->head && c->w->rest == WORKER_FALLING_ASLEEP)
        c->w->rest_quiet = wish;
}

/* Positions step over transaction markers; this thread is the one that moves them, so none is ahead of the ledger: until it
 * leaves, when it lets records pass that it does not take. */
static void note_positions(struct poller *c, bool now)
{
    struct worker *w = c->w;
    uint64_t at = base_clock_mono_ns();
    if (w->draining || w->leaving || (!now && at < c->positions_at_ns + POSITION_MS * 1000000ull))
        return;
    c->positions_at_ns = at;
    rd_kafka_topic_partition_list_t *list = NULL;
    if (rd_kafka_assignment(c->rk, &list) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    if (list->cnt && rd_kafka_position(c->rk, list) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < list->cnt; i++)
            ledger_note_position(w->ledger, list->elems[i].partition, list->elems[i].offset);
        pthread_mutex_unlock(&w->lock);
    }
    rd_kafka_topic_partition_list_destroy(list);
}

/* Rebalance: partitions come */

static void drop_item(void *context, void *item)
{
    worker_job_let_go_locked(context, item);
}

/* The partition is ours, from where its last owner got to. */
static int gain_partition(struct poller *c, const rd_kafka_topic_partition_t *p, struct base_error *err)
{
    struct worker *w = c->w;
    struct schema_progress *progress = NULL;
    int64_t committed = p->offset >= 0 ? p->offset : -1;
    int rc = p->metadata && committed >= 0 && !MUTANT(map_not_read)
                 ? schema_progress_decode(p->metadata, p->metadata_size, committed, &progress, err)
                 : ERR_NOTFOUND;
    if (rc < 0 && rc != ERR_NOTFOUND)
        return base_fail_in(err, "partition %d", p->partition);
    err->code = 0;
    pthread_mutex_lock(&w->lock);
    ledger_revoke(w->ledger, p->partition, drop_item, w); /* given twice without a revoke: start anew */
    rc = ledger_assign(w->ledger, p->partition, committed, progress, base_clock_unix_ms(), err);
    pthread_mutex_unlock(&w->lock);
    if (rc < 0)
        schema_progress_free(progress);
    return rc;
}

/* list: as committed. Failing is for good: a map that cannot be read must not be passed over. */
static void gain(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    struct base_error err = {0};
    for (int i = 0; i < list->cnt; i++)
        if (gain_partition(c, &list->elems[i], &err) < 0) {
            worker_fail(c->w, &err);
            return;
        }
    metrics_add(&c->w->metrics.partitions_gained, (uint64_t)list->cnt);
}

/* librdkafka does not know it at times (NULL), when a member was fenced or the consumer closes: then it is what it was. */
static const char *rebalance_protocol(struct poller *c)
{
    const char *now = rd_kafka_rebalance_protocol(c->rk);
    if (now && strcmp(now, "NONE") != 0)
        snprintf(c->protocol, sizeof c->protocol, "%s", now);
    return c->protocol;
}

static bool is_incremental(struct poller *c)
{
    return strcmp(rebalance_protocol(c), "COOPERATIVE") == 0;
}

static void log_rebalance(struct poller *c, const char *event, const rd_kafka_topic_partition_list_t *list)
{
    char text[512];
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < list->cnt && n + 12 < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, i ? ",%d" : "%d", list->elems[i].partition);
    base_log_info(event, LOG_STR("topic", c->w->options.topic_in), LOG_INT("count", list->cnt),
                  LOG_STR("partitions", text), LOG_STR("protocol", rebalance_protocol(c)));
}

static void log_failed(rd_kafka_error_t *error, rd_kafka_resp_err_t err)
{
    if (error || err)
        base_log_error("rebalance failed",
                       LOG_STR("reason", error ? rd_kafka_error_string(error) : rd_kafka_err2str(err)));
    if (error)
        rd_kafka_error_destroy(error);
}

/* Fetching begins where the last owner's offset is: librdkafka need not ask for it again. */
static void assign(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    rd_kafka_topic_partition_list_t *from = rd_kafka_topic_partition_list_new(list->cnt);
    for (int i = 0; i < list->cnt; i++)
        rd_kafka_topic_partition_list_add(from, list->elems[i].topic, list->elems[i].partition)->offset =
            list->elems[i].offset;
    if (is_incremental(c))
        log_failed(rd_kafka_incremental_assign(c->rk, from), RD_KAFKA_RESP_ERR_NO_ERROR);
    else
        log_failed(NULL, rd_kafka_assign(c->rk, from));
    rd_kafka_topic_partition_list_destroy(from);
}

static void on_assign(struct poller *c, rd_kafka_topic_partition_list_t *list)
{
    FAILPOINT(POLL_BEFORE_PROGRESS);
    if (list->cnt &&
        takeover_read(c->w, c->rk, list) < 0) { /* taken back, or we are leaving: nothing is taken of them */
        assign(c, list);
        return;
    }
    FAILPOINT(POLL_AFTER_PROGRESS);
    gain(c, list);
    for (int i = 0; i < list->cnt; i++)
        HISTORY("assign", list->elems[i].partition, list->elems[i].offset, -1, -1);
    FAILPOINT(POLL_AFTER_GAIN);
    assign(c, list);
    note_positions(c, true);
    base_trace_end(c->w->trace, BASE_TRACE_GROUP_JOIN);
    c->w->joined = true;
    worker_note_ready(c->w);
    log_rebalance(c, "partitions assigned", list);
}

/* Rebalance: partitions go */

static void wish_for_publish(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    w->flush_wanted++;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* Parts of these partitions that are still generated, or else on their way out. */
static uint32_t count_parts(struct worker *w, const rd_kafka_topic_partition_list_t *list, bool running)
{
    uint32_t n = 0;
    struct ledger_state s;
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < list->cnt; i++)
        if (ledger_state(w->ledger, list->elems[i].partition, &s))
            n += running ? s.open : s.unsettled;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* Nothing more of these is begun. */
static void close_partitions(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    struct worker *w = c->w;
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < list->cnt; i++)
        ledger_close(w->ledger, list->elems[i].partition);
    pthread_mutex_unlock(&w->lock);
    line_purge(c);
    w->cancel = true;
    worker_queue_wake(&w->to_device);
}

/* They are somebody else's from here on. */
static void lose(struct poller *c, const rd_kafka_topic_partition_list_t *list, bool lost)
{
    struct worker *w = c->w;
    FAILPOINT(POLL_BEFORE_LOSE);
    for (int i = 0; i < list->cnt; i++)
        HISTORY(lost ? "lost" : "revoke", list->elems[i].partition, -1, -1, -1);
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < list->cnt && !MUTANT(revoke_ignored); i++)
        ledger_revoke(w->ledger, list->elems[i].partition, drop_item, w);
    w->lag = -1;
    pthread_mutex_unlock(&w->lock);
    metrics_add(lost ? &w->metrics.partitions_lost : &w->metrics.partitions_revoked, (uint64_t)list->cnt);
    line_purge(c);
    w->cancel = true;
    worker_queue_wake(&w->to_device);
    if (is_incremental(c))
        log_failed(rd_kafka_incremental_unassign(c->rk, list), RD_KAFKA_RESP_ERR_NO_ERROR);
    else
        log_failed(NULL, rd_kafka_assign(c->rk, NULL));
    log_rebalance(c, lost ? "partitions lost" : "partitions revoked", list);
    c->flow_unsure = true;
    FAILPOINT(POLL_AFTER_LOSE);
}

/* Drain first, fence second: the rebalance goes on when the partitions are given back, and until then what runs of theirs may
 * finish and be published. The other partitions' prompts go on meanwhile; librdkafka fetches nothing, though. */
static void handover_begin(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    FAILPOINT(POLL_BEFORE_HANDOVER);
    uint64_t now = base_clock_mono_ns();
    close_partitions(c, list);
    c->handover = (struct handover){.list = rd_kafka_topic_partition_list_copy(list),
                                    .run_until_ns = now + c->w->options.handover_ms * 1000000ull};
}

static void handover_end(struct poller *c, bool lost)
{
    rd_kafka_topic_partition_list_t *list = c->handover.list;
    c->handover.list = NULL;
    lose(c, list, lost);
    rd_kafka_topic_partition_list_destroy(list);
}

static void handover_go_on(struct poller *c)
{
    struct handover *h = &c->handover;
    if (!h->list)
        return;
    uint64_t now = base_clock_mono_ns();
    if (rd_kafka_assignment_lost(c->rk) || c->w->abandon) {
        handover_end(c, true);
        return;
    }
    if (!h->publishing && (now > h->run_until_ns || count_parts(c->w, h->list, true) == 0)) {
        h->publishing = true;
        h->publish_until_ns = now + WORKER_REVOKE_WAIT_MS * 1000000ull;
        wish_for_publish(c->w);
        FAILPOINT(POLL_HANDOVER_PUBLISH);
    }
    if (h->publishing && (now > h->publish_until_ns || count_parts(c->w, h->list, false) == 0))
        handover_end(c, false);
}

/* While the group is left: what is finished is published first, a bounded wait. */
static void handover_now(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    struct worker *w = c->w;
    uint64_t until = base_clock_mono_ns() + WORKER_REVOKE_WAIT_MS * 1000000ull;
    close_partitions(c, list);
    wish_for_publish(w);
    while (count_parts(w, list, false) && !w->abandon && !w->commit_gone && base_clock_mono_ns() < until)
        base_clock_sleep_ms(1);
    lose(c, list, false);
}

static void on_revoke(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    if (rd_kafka_assignment_lost(c->rk))
        lose(c, list, true);
    else if (c->w->leaving || c->w->abandon)
        handover_now(c, list);
    else
        handover_begin(c, list);
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t what, rd_kafka_topic_partition_list_t *list, void *opaque)
{
    (void)rk;
    struct poller *c = opaque;
    if (c->handover.list) /* it never got its answer: the group has gone on without us */
        handover_end(c, true);
    if (what == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assign(c, list);
    else
        on_revoke(c, list);
    c->flow_unsure = true;
}

/* Errors */

static void fail_if_fatal(struct poller *c)
{
    char text[384];
    struct base_error err = {0};
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(c->rk, text, sizeof text);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    base_fail(&err, ERR_SERVICE, "Kafka consumer: %s: %s", rd_kafka_err2name(code), text);
    worker_fail(c->w, &err);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk;
    struct poller *c = opaque;
    if (code == RD_KAFKA_RESP_ERR__FATAL)
        fail_if_fatal(c);
    else if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
             code == RD_KAFKA_RESP_ERR__SSL)
        worker_link_set(c->w, &c->w->consumer_link, "consumer", reason);
    else
        base_log_debug("consumer", LOG_STR("error", rd_kafka_err2name((rd_kafka_resp_err_t)code)),
                       LOG_STR("reason", reason));
}

/* Once a minute for the same error: librdkafka repeats some with every attempt. */
static void on_consumer_error(struct poller *c, const rd_kafka_message_t *m)
{
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
        return;
    uint64_t now = base_clock_mono_ns();
    if (m->err == c->last_error && now < c->error_at_ns + SAME_ERROR_MS * 1000000ull)
        return;
    c->last_error = m->err;
    c->error_at_ns = now;
    bool missing = m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || m->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    base_log_write(missing ? BASE_LOG_DEBUG : BASE_LOG_WARN, "consumer error", /* missing topics: kafka_watch says so */
                   (struct base_log_field[]){LOG_STR("error", rd_kafka_err2name(m->err)),
                                             LOG_STR("reason", rd_kafka_message_errstr(m))},
                   2);
    fail_if_fatal(c);
}

/* The thread */

static int open_consumer(struct poller *c, struct base_error *err)
{
    const struct worker_options *o = &c->w->options;
    struct kafka_config config = worker_kafka_config(c->w, NULL);
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_config_make(KAFKA_CONSUMER, &config, &conf, err);
    if (rc < 0)
        return rc;
    char why[256], protocol[16];
    kafka_config_get(conf, "group.protocol", protocol, sizeof protocol);
    rd_kafka_conf_set_opaque(conf, c);
    rd_kafka_conf_set_rebalance_cb(conf, on_rebalance);
    rd_kafka_conf_set_error_cb(conf, on_error);
    c->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!c->rk) {
        rd_kafka_conf_destroy(conf);
        return base_fail(err, ERR_USAGE, "Kafka consumer: %s", why);
    }
    c->w->consumer = c->rk;
    rd_kafka_poll_set_consumer(c->rk);
    base_log_info("group join", LOG_STR("group", o->group), LOG_STR("protocol", protocol[0] ? protocol : "classic"),
                  LOG_STR("librdkafka", rd_kafka_version_str()));
    return 0;
}

static int subscribe(struct poller *c, struct base_error *err)
{
    base_trace_begin(c->w->trace, BASE_TRACE_GROUP_JOIN);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, c->w->options.topic_in, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t res = rd_kafka_subscribe(c->rk, topics);
    rd_kafka_topic_partition_list_destroy(topics);
    if (res != RD_KAFKA_RESP_ERR_NO_ERROR)
        return base_fail(err, ERR_USAGE, "subscribe to '%s': %s", c->w->options.topic_in, rd_kafka_err2str(res));
    c->w->consumer_made = true;
    return 0;
}

static bool take_one(struct poller *c, int wait_ms)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(c->rk, wait_ms);
    if (!m)
        return false;
    bool more = !m->err;
    if (m->err) {
        on_consumer_error(c, m);
    } else {
        take(c, m);
        more = has_room(c, m->partition);
        c->flow_unsure |= !more;
    }
    rd_kafka_message_destroy(m);
    return more;
}

/* One after the other, not by batch: before 2.1 librdkafka counts batches wrongly over a pause. */
static void take_some(struct poller *c)
{
    bool more = take_one(c, c->head || c->handover.list ? POLL_BUSY_MS : POLL_MS);
    for (int i = 1; more && i < TAKE_MAX && !want_pause(c); i++)
        more = take_one(c, 0);
}

static void wait_for_room(struct poller *c)
{
    pthread_mutex_lock(&c->w->lock);
    struct timespec until = worker_deadline(POLL_BUSY_MS);
    pthread_cond_timedwait(&c->w->changed, &c->w->lock, &until);
    pthread_mutex_unlock(&c->w->lock);
}

static void poll_once(struct poller *c)
{
    c->w->poll_beat_ns = base_clock_mono_ns();
    if (!c->handover.list && hold_on(c))
        wait_for_room(c);
    else
        take_some(c);
    handover_go_on(c);
    work_on_line(c);
    flow_control(c);
    note_positions(c, false);
}

/* Leaving tells the group at once, instead of after the session timeout. Revoke callbacks come in here. */
static void leave_group(struct poller *c)
{
    FAILPOINT(POLL_BEFORE_LEAVE);
    uint64_t until = base_clock_mono_ns() + WORKER_CLOSE_WAIT_MS * 1000000ull;
    rd_kafka_queue_t *queue = rd_kafka_queue_new(c->rk);
    rd_kafka_error_t *error = rd_kafka_consumer_close_queue(c->rk, queue);
    while (!error && !rd_kafka_consumer_closed(c->rk) && !c->w->abandon && base_clock_mono_ns() < until) {
        /* Not rd_kafka_queue_poll_callback: a message that was fetched before the close has no callback to go to, and 2.0.2
         * aborts the process over it. */
        rd_kafka_message_t *m = rd_kafka_consume_queue(queue, 20);
        if (m)
            rd_kafka_message_destroy(m); /* never taken: somebody else's now */
    }
    if (error)
        rd_kafka_error_destroy(error);
    rd_kafka_queue_destroy(queue);
}

void *worker_poll_main(void *worker)
{
    struct poller c = {.w = worker, .paused_list = rd_kafka_topic_partition_list_new(16)};
    struct base_error err = {0};
    int rc = open_consumer(&c, &err);
    if (rc == 0)
        rc = subscribe(&c, &err);
    if (rc < 0)
        worker_fail(c.w, &err);
    while (rc == 0 && !c.w->leaving && !c.w->abandon)
        poll_once(&c);
    if (c.handover.list)
        handover_end(&c, c.w->abandon);
    if (rc == 0 && !c.w->abandon)
        leave_group(&c);
    rd_kafka_topic_partition_list_destroy(c.paused_list);
    c.w->poll_ended = true;
    return NULL;
}
