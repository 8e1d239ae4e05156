#include "bench/bench_queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "schemas/prompt_batch.h"

#define BATCH_BYTES_MAX ((size_t)8 << 20)
#define PASSED_MS       1 /* a deadline in 1970 */

enum { FLUSH_MS = 60000, CALL_MS = 60000, CHECK_MS = 200 };

/* Producing */

static const char *const producer_settings[] = {"enable.idempotence", "true", "linger.ms", "1", NULL};

static int encode(char kind, uint64_t number, uint32_t n, char id[32], struct base_buffer *out, struct base_error *err)
{
    struct schema_prompt *prompts = calloc(n, sizeof *prompts);
    char(*names)[16] = calloc(n, sizeof *names);
    int rc = prompts && names ? 0 : base_fail(err, ERR_NOMEM, "out of memory for %u prompts", n);
    snprintf(id, 32, "%c%" PRIu64, kind, number);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        snprintf(names[i], sizeof names[i], "p%u", i);
        prompts[i].id = (struct schema_string){names[i], strlen(names[i])};
        prompts[i].text = (struct schema_string){"In the beginning", 16};
    }
    struct schema_prompt_batch batch = {.batch_id = {id, strlen(id)},
                                        .created_ms = base_clock_unix_ms(),
                                        .deadline_ms = PASSED_MS,
                                        .prompts = prompts,
                                        .n_prompts = n};
    base_buffer_clear(out);
    if (rc == 0)
        rc = schema_prompt_batch_encode(&batch, out, err);
    free(prompts), free(names);
    return rc;
}

static int send_batch(rd_kafka_t *rk, const char *topic, char kind, uint64_t number, uint32_t n,
                      struct base_buffer *value, struct base_error *err)
{
    char id[32];
    rd_kafka_resp_err_t e = RD_KAFKA_RESP_ERR_NO_ERROR;
    int32_t partition = (int32_t)(number % BENCH_QUEUE_PARTITIONS);
    int rc = encode(kind, number, n, id, value, err);
    while (rc == 0 && (e = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                                             RD_KAFKA_V_KEY(id, strlen(id)), RD_KAFKA_V_VALUE(value->data, value->n),
                                             RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
                          RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(rk, 10);
    rd_kafka_poll(rk, 0);
    return rc < 0 ? rc : e ? base_fail(err, ERR_SERVICE, "topic '%s': %s", topic, rd_kafka_err2str(e)) : 0;
}

static int failed(rd_kafka_error_t *e, const char *topic, struct base_error *err)
{
    if (!e)
        return 0;
    int rc = base_fail(err, ERR_SERVICE, "topic '%s': %s", topic, rd_kafka_error_string(e));
    rd_kafka_error_destroy(e);
    return rc;
}

/* Reading */

int bench_queue_reader(const struct bench_queue *q, rd_kafka_t **out_reader, struct base_error *err)
{
    static const char *const settings[] = {"group.id",
                                           "rouse-bench-reader",
                                           "enable.auto.commit",
                                           "false",
                                           "isolation.level",
                                           "read_committed",
                                           "fetch.wait.max.ms",
                                           "100",
                                           "fetch.error.backoff.ms",
                                           "10",
                                           NULL};
    rd_kafka_t *rk = NULL;
    int rc = q->open(q->context, RD_KAFKA_CONSUMER, settings, &rk, err);
    if (rc < 0)
        return rc;
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(BENCH_QUEUE_PARTITIONS);
    for (int32_t p = 0; p < BENCH_QUEUE_PARTITIONS; p++)
        rd_kafka_topic_partition_list_add(list, q->out, p)->offset = 0;
    rd_kafka_resp_err_t e = rd_kafka_assign(rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (e) {
        bench_queue_reader_close(rk);
        return base_fail(err, ERR_SERVICE, "topic '%s': %s", q->out, rd_kafka_err2str(e));
    }
    *out_reader = rk;
    return 0;
}

void bench_queue_reader_close(rd_kafka_t *reader)
{
    if (!reader)
        return;
    rd_kafka_consumer_close(reader);
    rd_kafka_destroy(reader);
}

/* How long nothing came, and whether what answers still runs. */
struct patience {
    uint64_t heard_ns, checked_ns;
};

static int be_patient(const struct bench_queue *q, struct patience *p, uint64_t n_seen, uint64_t n,
                      struct base_error *err)
{
    uint64_t now = base_clock_mono_ns();
    if (now - p->heard_ns > q->patience_s * 1000000000ull)
        return base_fail(err, ERR_SERVICE, "%" PRIu64 " of %" PRIu64 " answers, and then none for %u s", n_seen, n,
                         q->patience_s);
    if (!q->check || now - p->checked_ns < CHECK_MS * 1000000ull)
        return 0;
    p->checked_ns = now;
    return q->check(q->check_context, err);
}

/* Waits for n answers to prompts of a kind. */
static int wait_for(const struct bench_queue *q, rd_kafka_t *reader, char kind, uint64_t n, struct base_buffer *answer,
                    struct base_error *err)
{
    uint64_t n_seen = 0;
    struct patience patience = {base_clock_mono_ns(), 0};
    int rc = 0;
    while (rc == 0 && n_seen < n) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(reader, 50);
        if (m && !m->err) {
            patience.heard_ns = base_clock_mono_ns();
            if (answer->n == 0)
                base_buffer_append(answer, m->payload, m->len);
            n_seen += m->key_len > 0 && *(const char *)m->key == kind;
        }
        if (m)
            rd_kafka_message_destroy(m);
        rc = be_patient(q, &patience, n_seen, n, err);
    }
    return rc;
}

/* One prompt for each partition: whoever answers them has started, and is connected. */
static int warm(const struct bench_queue *q, rd_kafka_t *rk, rd_kafka_t *reader, struct base_buffer *answer,
                struct base_buffer *value, struct base_error *err)
{
    int rc = failed(rd_kafka_begin_transaction(rk), q->in, err);
    for (uint64_t i = 0; rc == 0 && i < BENCH_QUEUE_PARTITIONS; i++)
        rc = send_batch(rk, q->in, 'W', i, 1, value, err);
    if (rc == 0)
        rc = failed(rd_kafka_commit_transaction(rk, CALL_MS), q->in, err);
    return rc < 0 ? rc : wait_for(q, reader, 'W', BENCH_QUEUE_PARTITIONS, answer, err);
}

int bench_queue_rate(const struct bench_queue *q, rd_kafka_t *reader, uint64_t n, struct base_buffer *answer,
                     double *out_per_s, struct base_error *err)
{
    const char *const settings[] = {"enable.idempotence",     "true",   "linger.ms", "20", "transactional.id", q->in,
                                    "transaction.timeout.ms", "600000", NULL};
    rd_kafka_t *rk = NULL;
    struct base_buffer value;
    uint64_t began = 0, n_records = n / q->batch;
    base_buffer_init(&value, BATCH_BYTES_MAX);
    int rc = q->open(q->context, RD_KAFKA_PRODUCER, settings, &rk, err);
    if (rc == 0)
        rc = failed(rd_kafka_init_transactions(rk, CALL_MS), q->in, err);
    if (rc == 0)
        rc = warm(q, rk, reader, answer, &value, err);
    if (rc == 0)
        rc = failed(rd_kafka_begin_transaction(rk), q->in, err);
    for (uint64_t i = 0; rc == 0 && i < n_records; i++)
        rc = send_batch(rk, q->in, 'F', i, q->batch, &value, err);
    if (rc == 0 && rd_kafka_flush(rk, FLUSH_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
        rc = base_fail(err, ERR_SERVICE, "topic '%s': the brokers did not take %d records within %d s", q->in,
                       rd_kafka_outq_len(rk), FLUSH_MS / 1000);
    if (rc == 0) {
        began = base_clock_mono_ns();
        rc = failed(rd_kafka_commit_transaction(rk, CALL_MS), q->in, err);
    }
    if (rc == 0)
        rc = wait_for(q, reader, 'F', n_records * q->batch, answer, err);
    if (rc == 0)
        *out_per_s = (double)(n_records * q->batch) / ((double)(base_clock_mono_ns() - began) / 1e9);
    if (rk)
        rd_kafka_destroy(rk);
    base_buffer_done(&value);
    return rc;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The number in the key of an answer to a timed prompt, or n. */
static uint64_t number_of(const rd_kafka_message_t *m, uint64_t n)
{
    char text[24] = "";
    const char *key = m->key;
    if (m->key_len < 2 || m->key_len >= sizeof text || key[0] != 'L')
        return n;
    memcpy(text, key + 1, m->key_len - 1);
    return strtoull(text, NULL, 10);
}

int bench_queue_latency(const struct bench_queue *q, rd_kafka_t *reader, uint32_t n, double per_s, double *out_p50,
                        double *out_p95, struct base_error *err)
{
    rd_kafka_t *rk = NULL;
    struct base_buffer value;
    uint32_t n_sent = 0, n_seen = 0;
    double *took = calloc(n, sizeof *took);
    base_buffer_init(&value, BATCH_BYTES_MAX);
    int rc = took ? q->open(q->context, RD_KAFKA_PRODUCER, producer_settings, &rk, err)
                  : base_fail(err, ERR_NOMEM, "out of memory for %u latencies", n);
    if (rc == 0) /* one ahead, so that no connection is made and no topic looked up while the clock runs */
        rc = send_batch(rk, q->in, 'W', 0, 1, &value, err);
    if (rc == 0)
        rd_kafka_flush(rk, FLUSH_MS);
    uint64_t began = base_clock_mono_ns() + 1000000000u;
    struct patience patience = {began, 0};
    while (rc == 0 && n_seen < n) {
        rd_kafka_poll(rk, 0);
        while (rc == 0 && n_sent < n && base_clock_mono_ns() >= began + (uint64_t)((double)n_sent * 1e9 / per_s))
            rc = send_batch(rk, q->in, 'L', n_sent++, 1, &value, err);
        rd_kafka_message_t *m = rd_kafka_consumer_poll(reader, 1);
        if (m && !m->err) {
            patience.heard_ns = base_clock_mono_ns();
            uint64_t i = number_of(m, n);
            if (i < n && took[i] == 0) { /* at least once may be twice */
                took[i] = (double)(patience.heard_ns - began) / 1e9 - (double)i / per_s;
                n_seen++;
            }
        }
        if (m)
            rd_kafka_message_destroy(m);
        if (rc == 0 && base_clock_mono_ns() > began)
            rc = be_patient(q, &patience, n_seen, n, err);
    }
    if (rc == 0) {
        qsort(took, n, sizeof *took, compare);
        *out_p50 = took[n / 2];
        *out_p95 = took[(uint64_t)n * 95 / 100];
    }
    if (rk)
        rd_kafka_destroy(rk);
    base_buffer_done(&value);
    free(took);
    return rc;
}
