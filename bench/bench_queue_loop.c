/* The loop that every Kafka client's documentation shows, and nothing else: what the worker's path is measured against. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bench/bench_queue.h"

enum { CALL_MS = 30000 };

struct bench_queue_loop {
    const struct bench_queue *q;
    const struct base_buffer *answer;
    bool transactions;
    rd_kafka_t *consumer, *producer;
    int64_t next[BENCH_QUEUE_PARTITIONS]; /* offsets to commit; -1: nothing new */
    pthread_t thread;
    atomic_bool stop;
    int rc;
    struct base_error err;
};

static int failed(rd_kafka_error_t *e, const char *what, struct base_error *err)
{
    if (!e)
        return 0;
    int rc = base_fail(err, ERR_SERVICE, "bare loop: %s: %s", what, rd_kafka_error_string(e));
    rd_kafka_error_destroy(e);
    return rc;
}

static rd_kafka_topic_partition_list_t *take_offsets(struct bench_queue_loop *l)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(BENCH_QUEUE_PARTITIONS);
    for (int32_t p = 0; p < BENCH_QUEUE_PARTITIONS; p++) {
        if (l->next[p] >= 0)
            rd_kafka_topic_partition_list_add(list, l->q->in, p)->offset = l->next[p];
        l->next[p] = -1;
    }
    return list;
}

static int commit_transaction(struct bench_queue_loop *l, const rd_kafka_topic_partition_list_t *offsets,
                              struct base_error *err)
{
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata(l->consumer);
    int rc = failed(rd_kafka_send_offsets_to_transaction(l->producer, offsets, group, CALL_MS), "send_offsets", err);
    rd_kafka_consumer_group_metadata_destroy(group);
    if (rc == 0)
        rc = failed(rd_kafka_commit_transaction(l->producer, CALL_MS), "commit", err);
    return rc;
}

static int commit_offsets(struct bench_queue_loop *l, const rd_kafka_topic_partition_list_t *offsets,
                          struct base_error *err)
{
    rd_kafka_resp_err_t e = rd_kafka_flush(l->producer, CALL_MS);
    if (!e)
        e = rd_kafka_commit(l->consumer, offsets, 1);
    return e ? base_fail(err, ERR_SERVICE, "bare loop: commit: %s", rd_kafka_err2str(e)) : 0;
}

static int answer(struct bench_queue_loop *l, const rd_kafka_message_t *m, struct base_error *err)
{
    for (uint32_t i = 0; i < l->q->batch; i++) {
        rd_kafka_resp_err_t e;
        while ((e = rd_kafka_producev(l->producer, RD_KAFKA_V_TOPIC(l->q->out), RD_KAFKA_V_KEY(m->key, m->key_len),
                                      RD_KAFKA_V_VALUE(l->answer->data, l->answer->n),
                                      RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
               RD_KAFKA_RESP_ERR__QUEUE_FULL)
            rd_kafka_poll(l->producer, 10);
        if (e)
            return base_fail(err, ERR_SERVICE, "bare loop: topic '%s': %s", l->q->out, rd_kafka_err2str(e));
    }
    if (m->partition >= 0 && m->partition < BENCH_QUEUE_PARTITIONS)
        l->next[m->partition] = m->offset + 1;
    return 0;
}

/* What comes within the commit interval, and its commit. */
static int one_group(struct bench_queue_loop *l, struct base_error *err)
{
    uint64_t n = 0, until = base_clock_mono_ns() + l->q->commit_ms * 1000000ull;
    int rc = l->transactions ? failed(rd_kafka_begin_transaction(l->producer), "begin", err) : 0;
    while (rc == 0 && (n == 0 || base_clock_mono_ns() < until) && !l->stop) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(l->consumer, 1);
        if (m && !m->err) {
            if (n == 0) /* the interval begins with the first record, as a worker's does with its first answer */
                until = base_clock_mono_ns() + l->q->commit_ms * 1000000ull;
            n++;
            rc = answer(l, m, err);
        }
        if (m)
            rd_kafka_message_destroy(m);
        rd_kafka_poll(l->producer, 0);
    }
    if (rc < 0 || n == 0)
        return rc;
    rd_kafka_topic_partition_list_t *offsets = take_offsets(l);
    rc = l->transactions ? commit_transaction(l, offsets, err) : commit_offsets(l, offsets, err);
    rd_kafka_topic_partition_list_destroy(offsets);
    return rc;
}

static void *run(void *loop)
{
    struct bench_queue_loop *l = loop;
    while (l->rc == 0 && !l->stop)
        l->rc = one_group(l, &l->err);
    return NULL;
}

static int open_clients(struct bench_queue_loop *l, struct base_error *err)
{
    const struct bench_queue *q = l->q;
    const char *consumer[] = {"group.id",
                              q->group,
                              "enable.auto.commit",
                              "false",
                              "isolation.level",
                              "read_committed",
                              "auto.offset.reset",
                              "earliest",
                              "fetch.wait.max.ms",
                              "100",
                              NULL};
    const char *producer[] = {"enable.idempotence",
                              "true",
                              "linger.ms",
                              "1",
                              "retry.backoff.ms",
                              "5",
                              l->transactions ? "transactional.id" : NULL,
                              q->group,
                              NULL};
    int rc = q->open(q->context, RD_KAFKA_CONSUMER, consumer, &l->consumer, err);
    if (rc == 0)
        rc = q->open(q->context, RD_KAFKA_PRODUCER, producer, &l->producer, err);
    if (rc == 0 && l->transactions)
        rc = failed(rd_kafka_init_transactions(l->producer, CALL_MS), "init_transactions", err);
    if (rc < 0)
        return rc;
    rd_kafka_poll_set_consumer(l->consumer);
    rd_kafka_topic_partition_list_t *topics = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(topics, q->in, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t e = rd_kafka_subscribe(l->consumer, topics);
    rd_kafka_topic_partition_list_destroy(topics);
    return e ? base_fail(err, ERR_SERVICE, "bare loop: topic '%s': %s", q->in, rd_kafka_err2str(e)) : 0;
}

static void loop_free(struct bench_queue_loop *l)
{
    if (l->consumer) {
        rd_kafka_consumer_close(l->consumer);
        rd_kafka_destroy(l->consumer);
    }
    if (l->producer)
        rd_kafka_destroy(l->producer); /* an open transaction holds nothing: it began without a record */
    free(l);
}

int bench_queue_loop_start(const struct bench_queue *q, bool transactions, const struct base_buffer *answer_value,
                           struct bench_queue_loop **out_loop, struct base_error *err)
{
    struct bench_queue_loop *l = calloc(1, sizeof *l);
    if (!l)
        return base_fail(err, ERR_NOMEM, "out of memory for the bare loop");
    *l = (struct bench_queue_loop){.q = q, .answer = answer_value, .transactions = transactions};
    for (int32_t p = 0; p < BENCH_QUEUE_PARTITIONS; p++)
        l->next[p] = -1;
    int rc = open_clients(l, err);
    if (rc == 0 && pthread_create(&l->thread, NULL, run, l) != 0)
        rc = base_fail(err, ERR_NOMEM, "no thread for the bare loop");
    if (rc < 0) {
        loop_free(l);
        return rc;
    }
    *out_loop = l;
    return 0;
}

int bench_queue_loop_stop(struct bench_queue_loop *l, struct base_error *err)
{
    l->stop = true;
    pthread_join(l->thread, NULL);
    int rc = l->rc;
    if (rc < 0)
        *err = l->err;
    loop_free(l);
    return rc;
}
