/* commit - the commit thread: publishes what is finished, in transactions, until it is told to end.
 *
 *   wait -> group metadata -> collect -> begin -> completions, dead letters -> offsets -> commit -> settle
 *
 * The metadata is taken before the batch is collected: if the group changes in between, the broker refuses the offsets, and
 * the batch is collected again from what is still ours. A failed transaction changes nothing: its jobs wait in the ledger.
 * When nobody can say how a commit ended, the group's committed offsets are asked, once the successor of the producer has
 * fenced the old one off. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "worker/history.h"
#include "worker/kafka_config.h"
#include "worker/kafka_producer.h"
#include "worker/publish.h"
#include "worker/wait.h"
#include "worker/worker_state.h"

#define EARLY_PROMPTS    512  /* so many are published before the interval is over */
#define BATCH_PROMPTS    2048 /* about, in one transaction: its cost is its round trips; more go into the next */
#define IDLE_COMMIT_MS   100 /* positions of drained partitions that moved without a record */
#define LOOK_UP_MS       50
#define BACKOFF_MS       20
#define BACKOFF_MAX_MS   5000
#define PATIENT_FAILURES 4    /* of init_transactions, half a second each, before the brokers count as away */
#define COMMITTED_MS     2000 /* for the group's offsets, after a commit that nobody answered */

struct committer {
    struct worker *w;
    struct kafka_config config;
    struct kafka_producer *producer;
    struct worker_identity identity;
    struct publisher publisher;
    uint64_t published_at_ns; /* the last transaction's end */
    uint32_t n_failures;      /* in a row */
};

/* Waiting */

static void pause_after_failure(struct committer *c)
{
    uint64_t until =
        base_clock_mono_ns() +
        base_clock_backoff_ms(c->n_failures < 16 ? c->n_failures : 16, BACKOFF_MS, BACKOFF_MAX_MS) * 1000000ull;
    c->n_failures++;
    while (!c->w->abandon && base_clock_mono_ns() < until) {
        pthread_mutex_lock(&c->w->lock);
        c->w->flush_done = c->w->flush_wanted; /* nothing can be published now: a revoke must not wait for it */
        pthread_cond_broadcast(&c->w->changed);
        struct timespec look_up = worker_deadline(LOOK_UP_MS);
        pthread_cond_timedwait(&c->w->changed, &c->w->lock, &look_up);
        bool quit = c->w->commit_quit;
        pthread_mutex_unlock(&c->w->lock);
        if (quit)
            return;
    }
}

static uint64_t after_ms(uint64_t ns, uint64_t ms)
{
    return ns + ms * 1000000;
}

/* lock held. How long until something is to be done, 0: now. */
static uint32_t due_in_ms(const struct committer *c, const struct ledger_counts *n)
{
    const struct worker *w = c->w;
    uint64_t now = base_clock_mono_ns(), at = UINT64_MAX;
    bool hurry = w->flush_wanted > w->flush_done || w->draining || w->commit_quit;
    if (n->urgent)
        at = now;
    else if (n->ready)
        at = hurry || n->ready >= EARLY_PROMPTS ? now : after_ms(c->published_at_ns, w->options.commit_ms);
    else if (n->idle)
        at = hurry ? now : after_ms(c->published_at_ns, IDLE_COMMIT_MS);
    if (at <= now)
        return 0;
    uint64_t ms = (at - now) / 1000000 + 1;
    return ms < LOOK_UP_MS ? (uint32_t)ms : LOOK_UP_MS;
}

enum wake { WAKE_END, WAKE_TOPICS, WAKE_WORK };

static enum wake wait_for_work(struct committer *c)
{
    struct worker *w = c->w;
    bool found = false, end = false, knew_topics = w->topics_known;
    pthread_mutex_lock(&w->lock);
    while (!found && !end && !w->abandon && knew_topics == w->topics_known) {
        struct ledger_counts n;
        ledger_count(w->ledger, &n);
        bool any = n.ready || n.idle;
        if ((!any || !w->topics_known) && w->flush_done < w->flush_wanted) {
            w->flush_done = w->flush_wanted;
            pthread_cond_broadcast(&w->changed);
        }
        uint32_t wait_ms = due_in_ms(c, &n);
        found = any && wait_ms == 0 && w->topics_known && w->consumer_made;
        end = w->commit_quit && !found;
        if (found || end)
            break;
        struct timespec until = worker_deadline(wait_ms ? wait_ms : LOOK_UP_MS);
        pthread_cond_timedwait(&w->changed, &w->lock, &until);
        if (wait_ms == LOOK_UP_MS) { /* now and then, without the lock: the client's own callbacks */
            pthread_mutex_unlock(&w->lock);
            kafka_producer_serve(c->producer);
            pthread_mutex_lock(&w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    if (end || w->abandon)
        return WAKE_END;
    return found ? WAKE_WORK : WAKE_TOPICS;
}

/* The producer */

/* 0, or ERR_STOPPED: waits as long as it takes. */
static int wait_for_producer(struct committer *c)
{
    struct worker *w = c->w;
    struct base_error err = {0};
    uint32_t n_tries = 0;
    int rc = kafka_producer_ready(c->producer, &err);
    while (rc == ERR_AGAIN && !w->abandon) {
        if (++n_tries > PATIENT_FAILURES) /* a coordinator that finishes somebody's transaction first is not away */
            worker_link_set(w, &w->producer_link, "producer", err.text);
        pause_after_failure(c);
        pthread_mutex_lock(&w->lock);
        bool quit = w->commit_quit;
        pthread_mutex_unlock(&w->lock);
        if (quit)
            return ERR_STOPPED;
        rc = kafka_producer_ready(c->producer, &err);
    }
    if (rc < 0 && rc != ERR_STOPPED && rc != ERR_AGAIN)
        worker_fail(w, &err);
    if (rc < 0)
        return ERR_STOPPED;
    worker_link_set(w, &w->producer_link, "producer", NULL);
    if (w->topics_known) {
        const char *const topics[KAFKA_PRODUCER_TOPICS] = {w->options.topic_out, w->options.topic_dlq};
        kafka_producer_learn(c->producer, topics);
    }
    return 0;
}

static int send_record(void *context, const struct publish_record *record, struct base_error *err)
{
    struct committer *c = context;
    const struct worker_options *o = &c->w->options;
    if (record->is_dead_letter && MUTANT(letter_forgotten))
        return 0;
    return kafka_producer_send(c->producer, record->is_dead_letter ? o->topic_dlq : o->topic_out, record, err);
}

/* One transaction */

/* What cannot even be written down becomes a dead letter; if that fails as well, there is a bug. */
static void part_failed(struct committer *c, const struct ledger_item *item, const struct base_error *why)
{
    struct worker_job *job = item->item;
    struct worker_prompt *p = job->code == SCHEMA_OK ? &job->prompts[item->part] : NULL;
    if (why->code == ERR_AGAIN || why->code == ERR_NOMEM)
        return;
    if (!p || p->code == SCHEMA_INTERNAL) {
        worker_fail(c->w, why);
        return;
    }
    base_log_error("prompt cannot be published", LOG_INT("partition", job->partition), LOG_INT("offset", job->offset),
                   LOG_INT("prompt", item->part), LOG_STR("reason", why->text));
    p->code = SCHEMA_INTERNAL;
    p->stage = SCHEMA_STAGE_PUBLISH;
    free(p->why);
    p->why = strdup(why->text);
}

static int send_all(struct committer *c, struct base_error *err)
{
    const struct ledger_batch *b = &c->w->batch;
    for (uint32_t i = 0; i < b->n_items; i++) {
        if (i)
            FAILPOINT(COMMIT_BETWEEN_SENDS);
        HISTORY("send", b->items[i].partition, b->items[i].offset, b->items[i].part, -1);
        int rc = publish_part(&c->publisher, b->items[i].item, b->items[i].part, err);
        if (rc < 0) {
            part_failed(c, &b->items[i], err);
            return rc;
        }
    }
    return 0;
}

static rd_kafka_topic_partition_list_t *offsets_of(const struct committer *c)
{
    const struct ledger_batch *b = &c->w->batch;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)b->n_spans);
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct ledger_span *s = &b->spans[i];
        rd_kafka_topic_partition_t *to = rd_kafka_topic_partition_list_add(list, c->w->options.topic_in, s->partition);
        to->offset = s->next + (MUTANT(base_too_far) ? 1 : MUTANT(base_too_short) && s->next > 0 ? -1 : 0);
        HISTORY("offset", s->partition, to->offset, -1, s->epoch);
        to->metadata = strdup(MUTANT(map_dropped)      ? ""
                              : MUTANT(map_of_another) ? b->spans[(i + 1) % b->n_spans].map
                                                       : s->map); /* the list's to free */
        to->metadata_size = to->metadata ? strlen(to->metadata) : 0;
        if (!to->metadata) {
            rd_kafka_topic_partition_list_destroy(list);
            return NULL;
        }
    }
    return list;
}

/* Only as a mutant: outputs and offsets in transactions of their own. */
static int commit_apart(struct committer *c, rd_kafka_topic_partition_list_t *offsets,
                        const rd_kafka_consumer_group_metadata_t *group, struct base_error *err)
{
    bool unknown = false;
    int rc = offsets ? kafka_producer_commit(c->producer, offsets, group, &unknown, err) : ERR_NOMEM;
    if (offsets)
        rd_kafka_topic_partition_list_destroy(offsets);
    return rc < 0 ? rc : kafka_producer_begin(c->producer, err);
}

static int transact(struct committer *c, const rd_kafka_consumer_group_metadata_t *group, bool *out_unknown,
                    struct base_error *err)
{
    int rc = kafka_producer_begin(c->producer, err);
    if (rc < 0)
        return rc;
    HISTORY_NEXT();
    HISTORY("begin", -1, -1, -1, -1);
    FAILPOINT(COMMIT_AFTER_BEGIN);
    if (MUTANT(offsets_first))
        rc = commit_apart(c, offsets_of(c), group, err);
    rc = rc < 0 ? rc : send_all(c, err);
    FAILPOINT(COMMIT_AFTER_SENDS);
    if (MUTANT(outputs_first) && rc == 0)
        rc = commit_apart(c, rd_kafka_topic_partition_list_new(0), group, err);
    if (rc < 0) {
        kafka_producer_abort(c->producer);
        return rc;
    }
    rd_kafka_topic_partition_list_t *offsets = offsets_of(c);
    if (!offsets) {
        kafka_producer_abort(c->producer);
        return base_fail(err, ERR_NOMEM, "out of memory for the offsets of %u partitions", c->w->batch.n_spans);
    }
    if (MUTANT(offsets_left_out))
        rd_kafka_topic_partition_list_del_by_idx(offsets, 0);
    rc = kafka_producer_commit(c->producer, offsets, group, out_unknown, err);
    rd_kafka_topic_partition_list_destroy(offsets);
    return rc;
}

/* After a commit without an answer */

static bool find_witness(struct committer *c, struct ledger_span *out_span)
{
    bool found = false;
    pthread_mutex_lock(&c->w->lock);
    for (uint32_t i = 0; !found && i < c->w->batch.n_spans; i++) {
        *out_span = c->w->batch.spans[i];
        found = out_span->n_items && ledger_is_current(c->w->ledger, out_span->partition, out_span->epoch);
    }
    pthread_mutex_unlock(&c->w->lock);
    return found;
}

/* Whether what the group has is what the span would have made of it. A span with items is unlike everything before it. */
static int ask_committed(struct committer *c, const struct ledger_span *span, bool *out_same, int64_t *out_offset,
                         struct base_error *err)
{
    int32_t partition = span->partition;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, c->w->options.topic_in, partition);
    rd_kafka_resp_err_t res = rd_kafka_committed(c->w->consumer, list, COMMITTED_MS);
    if (res == RD_KAFKA_RESP_ERR_NO_ERROR)
        res = list->elems[0].err;
    const rd_kafka_topic_partition_t *now = &list->elems[0];
    size_t n = strlen(span->map);
    *out_offset = now->offset;
    *out_same = now->offset == span->next && now->metadata_size == n && memcmp(now->metadata, span->map, n) == 0;
    rd_kafka_topic_partition_list_destroy(list);
    return res ? base_fail(err, ERR_AGAIN, "committed offset of partition %d: %s", partition, rd_kafka_err2str(res))
               : 0;
}

/* A partition that is still ours is the witness: nobody else can have moved its offset. None left: it does not matter. */
static bool was_committed(struct committer *c)
{
    struct ledger_span span, again;
    struct base_error err = {0};
    HISTORY("unknown", -1, -1, -1, -1);
    FAILPOINT(COMMIT_IN_DOUBT);
    if (MUTANT(doubt_is_aborted) || MUTANT(doubt_is_committed))
        return MUTANT(doubt_is_committed);
    while (!c->w->abandon && find_witness(c, &span)) {
        int64_t offset = -1;
        bool same = false;
        int rc = wait_for_producer(c);
        if (rc < 0)
            return false;
        rc = ask_committed(c, &span, &same, &offset, &err);
        if (rc < 0) {
            base_log_warn("transaction in doubt", LOG_STR("reason", err.text));
            pause_after_failure(c);
        } else if (find_witness(c, &again) && again.partition == span.partition && again.epoch == span.epoch) {
            base_log_warn("transaction resolved", LOG_STR("was", same ? "committed" : "aborted"),
                          LOG_INT("partition", span.partition), LOG_INT("committed", offset),
                          LOG_INT("wanted", span.next));
            FAILPOINT(COMMIT_RESOLVED);
            return same;
        }
    }
    return false;
}

/* Settling */

static void drop_item(void *context, void *item)
{
    worker_job_let_go_locked(context, item);
}

static void settle(struct committer *c, bool committed)
{
    HISTORY(committed ? "commit" : "abort", -1, -1, -1, -1);
    FAILPOINT(COMMIT_BEFORE_SETTLE);
    struct worker *w = c->w;
    uint64_t n_prompts = 0;
    for (uint32_t i = 0; committed && i < w->batch.n_items; i++)
        n_prompts += publish_count(w->batch.items[i].item, w->batch.items[i].part, &w->metrics);
    bool any = w->batch.n_items > 0;
    pthread_mutex_lock(&w->lock);
    ledger_settle(w->ledger, &w->batch, committed || MUTANT(results_dropped), drop_item, w);
    for (uint32_t i = 0; i < w->batch.n_items; i++) {
        if (committed)
            worker_job_settled_locked(w, w->batch.items[i].item);
        worker_job_let_go_locked(w, w->batch.items[i].item);
    }
    w->publishing = false;
    if (committed && any)
        w->last_completion_ms = base_clock_unix_ms();
    w->n_published += n_prompts;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    FAILPOINT(COMMIT_AFTER_SETTLE);
    if (committed && any)
        base_trace_mark(w->trace, BASE_TRACE_FIRST_COMMIT);
}

static bool collect(struct committer *c)
{
    struct worker *w = c->w;
    struct base_error err = {0};
    pthread_mutex_lock(&w->lock);
    int rc = ledger_collect(w->ledger, BATCH_PROMPTS, &w->batch, &err);
    w->publishing = rc == 0 && w->batch.n_spans > 0;
    for (uint32_t i = 0; i < w->batch.n_items; i++)
        worker_job_hold_locked(w->batch.items[i].item);
    pthread_mutex_unlock(&w->lock);
    if (rc < 0)
        worker_fail(w, &err);
    return rc == 0 && w->batch.n_spans > 0;
}

static void log_failure(struct committer *c, const struct base_error *err)
{
    metrics_add(&c->w->metrics.transactions_aborted, 1);
    base_log_warn("transaction failed", LOG_STR("reason", err->text), LOG_INT("prompts", c->w->batch.n_items),
                  LOG_INT("in_a_row", c->n_failures + 1));
}

static void publish_once(struct committer *c)
{
    struct worker *w = c->w;
    struct base_error err = {0};
    bool unknown = false;
    FAILPOINT(COMMIT_BEFORE_COLLECT);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata(w->consumer);
    if (!group || !collect(c)) {
        if (group)
            rd_kafka_consumer_group_metadata_destroy(group);
        else
            pause_after_failure(c);
        return;
    }
    FAILPOINT(COMMIT_AFTER_COLLECT);
    if (MUTANT(group_after_collect)) {
        rd_kafka_consumer_group_metadata_destroy(group);
        group = rd_kafka_consumer_group_metadata(w->consumer);
    }
    uint64_t began = base_clock_mono_ns();
    int rc = transact(c, group, &unknown, &err);
    rd_kafka_consumer_group_metadata_destroy(group);
    metrics_observe_us(&w->metrics.commit, (base_clock_mono_ns() - began) / 1000);
    if (w->batch.n_items) /* what is only said of partitions makes no answer wait */
        c->published_at_ns = base_clock_mono_ns();
    if (rc < 0)
        log_failure(c, &err);
    bool committed = rc == 0 || (unknown && was_committed(c));
    settle(c, committed);
    metrics_add(&w->metrics.transactions_committed, committed);
    metrics_add(&w->metrics.producers_replaced,
                kafka_producer_n_replaced(c->producer) - metrics_get(&w->metrics.producers_replaced));
    if (committed)
        c->n_failures = 0;
    else
        pause_after_failure(c);
}

static int begin(struct committer *c, struct base_error *err)
{
    struct worker *w = c->w;
    c->config = worker_kafka_config(w, w->transactional_id);
    return kafka_producer_new(&c->config, &w->abandon, &c->producer, err);
}

/* Only once there is something to publish is the model there to speak of. */
static void introduce(struct committer *c)
{
    struct worker *w = c->w;
    const struct worker_answerer *a = w->model_ready ? w->self : NULL;
    c->identity = (struct worker_identity){
        .model = a ? a->model : "", .version = a ? a->version : "", .snapshot = a ? a->snapshot : "", .worker = w->id};
}

void *worker_commit_main(void *worker)
{
    struct committer c = {.w = worker};
    struct base_error err = {0};
    if (begin(&c, &err) < 0) {
        worker_fail(c.w, &err);
    } else {
        const struct worker_options *o = &c.w->options;
        publish_init(&c.publisher, &c.identity, o->topic_in, o->group, kafka_producer_n_bytes_max(c.producer),
                     send_record, &c);
        for (enum wake wake = WAKE_TOPICS; wait_for_producer(&c) == 0 && (wake = wait_for_work(&c)) != WAKE_END;) {
            if (wake != WAKE_WORK)
                continue; /* the topics are there now: the producer learns them before they are needed */
            introduce(&c);
            publish_once(&c);
        }
        publish_done(&c.publisher);
        kafka_producer_free(c.producer);
    }
    pthread_mutex_lock(&c.w->lock);
    c.w->commit_gone = true; /* no revoke waits for us any more */
    pthread_cond_broadcast(&c.w->changed);
    pthread_mutex_unlock(&c.w->lock);
    c.w->commit_ended = true;
    return NULL;
}
