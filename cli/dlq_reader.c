#include "cli/dlq_reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cli/dlq_verbs.h"

#define BATCH   2048
#define WAIT_MS 200
#define SAY_NS  1000000000u

static const char *const settings[] = {"group.id",
                                       "rouse-dlq-reader", /* never joined nor committed to */
                                       "enable.auto.commit",
                                       "false",
                                       "isolation.level",
                                       "read_committed",
                                       "enable.partition.eof",
                                       "true",
                                       "auto.offset.reset",
                                       "earliest",
                                       "fetch.wait.max.ms",
                                       "100",
                                       "queued.max.messages.kbytes",
                                       "32768",
                                       NULL};
static const char *const settings_of_asker[] = {
    "group.id", "rouse-dlq-reader", "enable.auto.commit", "false", "isolation.level", "read_uncommitted", NULL};

/* A topic that was just made has no leader for a moment. */
static int find_end(struct dlq_reader *r, rd_kafka_t *asker, int32_t p, struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + dlq_common.timeout_s * 1000000000u;
    rd_kafka_resp_err_t e;
    while ((e = rd_kafka_query_watermark_offsets(asker, r->topic, p, &r->from[p], &r->end[p], 5000)) &&
           e != RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED && base_clock_mono_ns() < until && !dlq_stop)
        base_clock_sleep_ms(WAIT_MS);
    return e ? base_fail(err, ERR_SERVICE, "topic '%s' partition %" PRId32 ": %s", r->topic, p, rd_kafka_err2str(e))
             : 0;
}

static int find_ends(struct dlq_reader *r, struct base_error *err)
{
    r->from = calloc((size_t)r->n_partitions * 3, sizeof *r->from);
    if (!r->from)
        return base_fail(err, ERR_NOMEM, "out of memory for %" PRId32 " partitions", r->n_partitions);
    r->end = r->from + r->n_partitions;
    r->at = r->end + r->n_partitions;
    rd_kafka_t *asker = r->rk; /* is told the last stable offset */
    int rc = 0;
    if (r->extent == DLQ_WRITTEN)
        rc = cli_kafka_open(RD_KAFKA_CONSUMER, dlq_common.brokers, settings_of_asker, &dlq_common.properties, NULL,
                            &asker, err);
    for (int32_t p = 0; rc == 0 && p < r->n_partitions; p++)
        rc = find_end(r, asker, p, err);
    if (asker != r->rk && asker)
        rd_kafka_destroy(asker);
    return rc;
}

int dlq_reader_open(const char *topic, enum dlq_extent extent, struct dlq_reader *out, struct base_error *err)
{
    struct dlq_reader r = {.topic = topic, .extent = extent};
    int rc = cli_kafka_open(RD_KAFKA_CONSUMER, dlq_common.brokers, settings, &dlq_common.properties, NULL, &r.rk, err);
    if (rc == 0) {
        rd_kafka_poll_set_consumer(r.rk);
        rc = cli_kafka_n_partitions(r.rk, topic, (int)dlq_common.timeout_s * 1000, &r.n_partitions, err);
    }
    if (rc == 0)
        rc = find_ends(&r, err);
    if (rc < 0) {
        dlq_reader_close(&r);
        return rc;
    }
    *out = r;
    return 0;
}

void dlq_reader_close(struct dlq_reader *r)
{
    if (r->rk) {
        rd_kafka_consumer_close(r->rk);
        rd_kafka_destroy(r->rk);
    }
    free(r->from);
    *r = (struct dlq_reader){0};
}

/* Partitions with something to read; the count of offsets in them. */
static int assign(struct dlq_reader *r, uint64_t *out_n, struct base_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(r->n_partitions);
    *out_n = 0;
    for (int32_t p = 0; p < r->n_partitions; p++) {
        r->at[p] = r->from[p];
        if (r->from[p] >= r->end[p])
            continue;
        rd_kafka_topic_partition_list_add(list, r->topic, p)->offset = r->from[p];
        *out_n += (uint64_t)(r->end[p] - r->from[p]);
    }
    rd_kafka_resp_err_t e = *out_n ? rd_kafka_assign(r->rk, list) : RD_KAFKA_RESP_ERR_NO_ERROR;
    rd_kafka_topic_partition_list_destroy(list);
    return e ? base_fail(err, ERR_SERVICE, "topic '%s': %s", r->topic, rd_kafka_err2str(e)) : 0;
}

static bool is_done(const struct dlq_reader *r)
{
    for (int32_t p = 0; p < r->n_partitions; p++)
        if (r->at[p] < r->end[p])
            return false;
    return true;
}

static int take(struct dlq_reader *r, rd_kafka_message_t *m, dlq_reader_fn *fn, void *context, bool *keep,
                struct base_error *err)
{
    if (m->err && m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        if (m->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
            return base_fail(err, ERR_SERVICE, "topic '%s': %s", r->topic, rd_kafka_err2str(m->err));
        return 0; /* brokers that come and go: librdkafka's business, up to the timeout */
    }
    int32_t p = m->partition;
    if (p < 0 || p >= r->n_partitions || r->at[p] >= r->end[p])
        return 0;
    if (m->err) { /* the end of what is committed */
        r->at[p] = r->extent == DLQ_COMMITTED ? r->end[p] : m->offset;
        return 0;
    }
    r->at[p] = m->offset + 1;
    return m->offset < r->end[p] ? fn(context, m, keep, err) : 0;
}

static int take_batch(struct dlq_reader *r, rd_kafka_message_t **messages, size_t n, dlq_reader_fn *fn, void *context,
                      struct base_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        bool keep = false;
        if (rc == 0)
            rc = take(r, messages[i], fn, context, &keep, err);
        if (!keep)
            rd_kafka_message_destroy(messages[i]);
    }
    return rc;
}

static uint64_t n_read(const struct dlq_reader *r)
{
    uint64_t n = 0;
    for (int32_t p = 0; p < r->n_partitions; p++)
        n += (uint64_t)((r->at[p] < r->end[p] ? r->at[p] : r->end[p]) - r->from[p]) * (r->end[p] > r->from[p]);
    return n;
}

/* With --json, a line a second. */
static void say_progress(const struct dlq_reader *r, const char *label, uint64_t total, uint64_t *said_ns)
{
    uint64_t now_ns = base_clock_mono_ns();
    if (!label || !dlq_common.json || now_ns - *said_ns < SAY_NS)
        return;
    *said_ns = now_ns;
    fprintf(stderr, "{\"progress\":\"%s\",\"offsets\":%" PRIu64 ",\"of\":%" PRIu64, label, n_read(r), total);
    if (r->n_sent)
        fprintf(stderr, ",\"sent\":%" PRIu64, *r->n_sent);
    fputs("}\n", stderr);
}

/* Messages until all is read. */
static int read_all(struct dlq_reader *r, rd_kafka_queue_t *queue, const char *label, uint64_t total, dlq_reader_fn *fn,
                    void *context, struct base_error *err)
{
    rd_kafka_message_t *messages[BATCH];
    struct base_progress progress = {0};
    uint64_t heard_ns = base_clock_mono_ns(), said_ns = heard_ns;
    int rc = 0;
    if (label && !dlq_common.json)
        base_progress_begin(&progress, label, "offsets", total);
    while (rc == 0 && !is_done(r)) {
        ssize_t n = rd_kafka_consume_batch_queue(queue, WAIT_MS, messages, BATCH);
        if (n > 0) {
            rc = take_batch(r, messages, (size_t)n, fn, context, err);
            heard_ns = base_clock_mono_ns();
        }
        if (rc == 0 && dlq_stop)
            rc = base_fail(err, ERR_STOPPED, "a signal came");
        if (rc == 0 && base_clock_mono_ns() - heard_ns > dlq_common.timeout_s * 1000000000u)
            rc = base_fail(err, ERR_SERVICE, "topic '%s': nothing came for %" PRIu64 " s", r->topic,
                           dlq_common.timeout_s);
        base_progress_set(&progress, n_read(r));
        say_progress(r, label, total, &said_ns);
    }
    base_progress_end(&progress);
    return rc;
}

int dlq_reader_run(struct dlq_reader *r, const char *label, dlq_reader_fn *fn, void *context, struct base_error *err)
{
    uint64_t total;
    int rc = assign(r, &total, err);
    if (rc < 0)
        return rc;
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(r->rk);
    rc = read_all(r, queue, label, total, fn, context, err);
    rd_kafka_queue_destroy(queue);
    rd_kafka_assign(r->rk, NULL);
    return rc < 0 ? rc : 0;
}
