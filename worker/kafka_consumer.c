#include "worker/kafka_consumer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/intake.h"
#include "worker/kafka_config.h"
#include "worker/wait.h"
#include "worker/worker_state.h"

#define POLL_MS       50  /* nothing to do but wait for records */
#define POLL_BUSY_MS  2   /* records wait in line for the model or for room in the queue */
#define TOKENISE_MS   50  /* of work between two polls */
#define POSITION_MS   100 /* between two looks at the consumer's positions */
#define SAME_ERROR_MS 60000

struct poller {
    struct worker *w;
    rd_kafka_t *rk;
    struct worker_job *head, *tail; /* taken, not yet with the device thread; oldest first */
    struct worker_intake_guard guard;
    bool paused;                                  /* what flow_control did last */
    bool flow_unsure;                             /* the assignment changed: look at its partitions again */
    rd_kafka_topic_partition_list_t *paused_list; /* by us, and not resumed since, ours at the moment or not */
    uint64_t positions_at_ns;
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

/* After a revoke: jobs whose partition has gone leave the line. */
static void line_purge(struct poller *c)
{
    struct worker_job *job = c->head;
    c->head = c->tail = NULL;
    while (job) {
        struct worker_job *behind = job->behind;
        pthread_mutex_lock(&c->w->lock);
        bool current = ledger_is_current(c->w->ledger, job->partition, job->epoch);
        if (!current)
            worker_jobs_drop_locked(c->w, job);
        pthread_mutex_unlock(&c->w->lock);
        if (current)
            line_append(c, job);
        else
            metrics_add(&c->w->metrics.records_revoked, 1);
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
    pthread_mutex_lock(&w->lock);
    int rc = ledger_take(w->ledger, job->partition, job->offset, job->weight, job, &job->epoch, err);
    if (rc == 0)
        worker_jobs_add_locked(w, job);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

static void take(struct poller *c, rd_kafka_message_t *m)
{
    struct worker *w = c->w;
    if (w->draining)
        return; /* not taken: whoever gets the partition next finds it behind the committed offset */
    struct base_error err = {0};
    struct worker_job *job = NULL;
    int rc = make_job(m, &job, &err);
    if (rc < 0) {
        worker_fail(w, &err);
        return;
    }
    rc = enter_ledger(w, job, &err);
    if (rc < 0) {
        worker_job_free(job);
        if (rc == ERR_INPUT) {
            metrics_add(&w->metrics.records_duplicate, 1);
            base_log_debug("record came twice", LOG_STR("reason", err.text));
        } else if (rc != ERR_NOTFOUND) {
            worker_fail(w, &err);
        }
        return;
    }
    base_trace_mark(w->trace, BASE_TRACE_FIRST_RECORD);
    metrics_add(&w->metrics.records, 1);
    metrics_add(&w->metrics.record_bytes, m->len + m->key_len);
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

/* The job has left the line. false: the queue is full, and it is the caller's again. */
static bool hand_over(struct poller *c, struct worker_job *job)
{
    struct worker *w = c->w;
    if (job->n_open > 0) {
        if (worker_queue_push(&w->to_device, job) < 0)
            return false;
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
    while (job && base_clock_mono_ns() < until) {
        struct worker_job *behind = job->behind;
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

static bool want_pause(struct poller *c)
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
    return full || w->draining || w->rest != WORKER_AWAKE || c->guard.halted_until_ns;
}

/* The assigned partitions whose state has to change; what we paused is remembered in c->paused_list, because it stays paused
 * through a rebalance, and because resuming one that is not paused throws its prefetched records away. */
static rd_kafka_topic_partition_list_t *flow_changes(struct poller *c, const rd_kafka_topic_partition_list_t *assigned,
                                                     bool pause)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(assigned->cnt);
    for (int i = 0; i < assigned->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &assigned->elems[i];
        bool paused = rd_kafka_topic_partition_list_find(c->paused_list, p->topic, p->partition) != NULL;
        if (paused == pause)
            continue;
        rd_kafka_topic_partition_list_add(list, p->topic, p->partition);
        if (pause)
            rd_kafka_topic_partition_list_add(c->paused_list, p->topic, p->partition);
        else
            rd_kafka_topic_partition_list_del(c->paused_list, p->topic, p->partition);
    }
    return list;
}

static void apply_flow(struct poller *c, bool pause)
{
    rd_kafka_topic_partition_list_t *assigned = NULL;
    if (rd_kafka_assignment(c->rk, &assigned) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return;
    rd_kafka_topic_partition_list_t *changes = flow_changes(c, assigned, pause);
    if (changes->cnt) {
        if (pause)
            rd_kafka_pause_partitions(c->rk, changes);
        else
            rd_kafka_resume_partitions(c->rk, changes);
        base_log_debug(pause ? "partitions paused" : "partitions resumed", LOG_INT("partitions", changes->cnt));
    }
    rd_kafka_topic_partition_list_destroy(changes);
    rd_kafka_topic_partition_list_destroy(assigned);
    c->paused = pause;
    c->flow_unsure = false;
    c->w->paused = pause;
}

static void flow_control(struct poller *c)
{
    resume_after_halt(c);
    uint64_t wish = c->w->rest_wish; /* before rest is looked at: a wish that is newer gets its own answer */
    bool pause = want_pause(c);
    if (pause != c->paused || c->flow_unsure)
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

/* Rebalance */

static void drop_item(void *context, void *item)
{
    struct worker *w = context;
    metrics_add(&w->metrics.records_revoked, 1);
    worker_jobs_drop_locked(w, item);
}

static void gain(struct poller *c, const rd_kafka_topic_partition_list_t *list)
{
    struct worker *w = c->w;
    struct base_error err = {0};
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < list->cnt && err.code == 0; i++) {
        ledger_revoke(w->ledger, list->elems[i].partition, drop_item, w); /* given twice without a revoke: start anew */
        ledger_assign(w->ledger, list->elems[i].partition, &err);
    }
    pthread_mutex_unlock(&w->lock);
    if (err.code)
        worker_fail(w, &err);
    metrics_add(&w->metrics.partitions_gained, (uint64_t)list->cnt);
}

/* What is finished is published before the partitions go: a bounded wish, far below max.poll.interval.ms. */
static void publish_before_revoke(struct worker *w)
{
    struct timespec until = worker_deadline(WORKER_REVOKE_WAIT_MS);
    pthread_mutex_lock(&w->lock);
    uint64_t wish = ++w->flush_wanted;
    pthread_cond_broadcast(&w->changed);
    int rc = 0;
    while (w->flush_done < wish && rc == 0 && !w->abandon && !w->commit_gone)
        rc = pthread_cond_timedwait(&w->changed, &w->lock, &until);
    pthread_mutex_unlock(&w->lock);
}

static void lose(struct poller *c, const rd_kafka_topic_partition_list_t *list, bool lost)
{
    struct worker *w = c->w;
    if (!lost)
        publish_before_revoke(w);
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < list->cnt; i++)
        ledger_revoke(w->ledger, list->elems[i].partition, drop_item, w);
    w->lag = -1;
    pthread_mutex_unlock(&w->lock);
    metrics_add(lost ? &w->metrics.partitions_lost : &w->metrics.partitions_revoked, (uint64_t)list->cnt);
    line_purge(c);
    w->cancel = true;
    worker_queue_wake(&w->to_device);
}

static void log_rebalance(struct poller *c, const char *event, const rd_kafka_topic_partition_list_t *list)
{
    char text[512];
    size_t n = 0;
    text[0] = '\0';
    for (int i = 0; i < list->cnt && n + 12 < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, i ? ",%d" : "%d", list->elems[i].partition);
    base_log_info(event, LOG_STR("topic", c->w->options.topic_in), LOG_INT("count", list->cnt),
                  LOG_STR("partitions", text), LOG_STR("protocol", rd_kafka_rebalance_protocol(c->rk)));
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t what, rd_kafka_topic_partition_list_t *list, void *opaque)
{
    struct poller *c = opaque;
    bool incremental = strcmp(rd_kafka_rebalance_protocol(rk), "COOPERATIVE") == 0;
    rd_kafka_error_t *error = NULL;
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

    if (what == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
        gain(c, list);
        if (incremental)
            error = rd_kafka_incremental_assign(rk, list);
        else
            err = rd_kafka_assign(rk, list);
        note_positions(c, true);
        base_trace_end(c->w->trace, BASE_TRACE_GROUP_JOIN);
        c->w->joined = true;
        worker_note_ready(c->w);
        log_rebalance(c, "partitions assigned", list);
    } else {
        bool lost = rd_kafka_assignment_lost(rk);
        lose(c, list, lost);
        if (incremental)
            error = rd_kafka_incremental_unassign(rk, list);
        else
            err = rd_kafka_assign(rk, NULL);
        log_rebalance(c, lost ? "partitions lost" : "partitions revoked", list);
    }
    c->flow_unsure = true;
    if (error || err) {
        base_log_error("rebalance failed",
                       LOG_STR("reason", error ? rd_kafka_error_string(error) : rd_kafka_err2str(err)));
        if (error)
            rd_kafka_error_destroy(error);
    }
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
    struct kafka_config config = {
        .brokers = o->brokers, .client_id = c->w->id, .group = o->group, .properties = &o->kafka};
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

static void poll_once(struct poller *c)
{
    c->w->poll_beat_ns = base_clock_mono_ns();
    rd_kafka_message_t *m = rd_kafka_consumer_poll(c->rk, c->head ? POLL_BUSY_MS : POLL_MS);
    if (m) {
        if (m->err)
            on_consumer_error(c, m);
        else
            take(c, m);
        rd_kafka_message_destroy(m);
    }
    work_on_line(c);
    flow_control(c);
    note_positions(c, false);
}

/* Leaving tells the group at once, instead of after the session timeout. Revoke callbacks come in here. */
static void leave_group(struct poller *c)
{
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
    if (rc == 0 && !c.w->abandon)
        leave_group(&c);
    rd_kafka_topic_partition_list_destroy(c.paused_list);
    c.w->poll_ended = true;
    return NULL;
}
