#include "worker/kafka_producer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"

#define SLICE_MS      500 /* of one wait inside librdkafka */
#define SEND_FULL_MS  100 /* librdkafka's queue is full: wait for deliveries, this long at a time */
#define OFFSETS_TRIES 5

enum state { NONE, MADE, READY, OPEN };

struct kafka_producer {
    const struct kafka_config *config;
    const _Atomic bool *stop;
    rd_kafka_t *rk;
    enum state state;
    rd_kafka_topic_t *topics[KAFKA_PRODUCER_TOPICS]; /* known to rk; NULL: not yet */
    size_t n_bytes_max;
    long transaction_ms;
    uint64_t n_replaced;
    bool link_lost;       /* a connection broke since begin */
    char last_error[256]; /* librdkafka's last word, for "the brokers are away" */
};

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    (void)rk;
    struct kafka_producer *p = opaque;
    if (code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT ||
        code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
        p->link_lost = true;
    snprintf(p->last_error, sizeof p->last_error, "%s", reason);
}

/* The transaction fails with the delivery; what is noted here is that sending the same again would fail again. */
static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    (void)opaque;
    bool *refused = m->_private;
    if (m->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && refused)
        *refused = true;
}

static int make(struct kafka_producer *p, struct base_error *err)
{
    char why[256];
    rd_kafka_conf_t *conf = NULL;
    int rc = kafka_config_make(KAFKA_PRODUCER, p->config, &conf, err);
    if (rc < 0)
        return rc;
    p->n_bytes_max = (size_t)kafka_config_get_number(conf, "message.max.bytes", 1000000);
    p->transaction_ms = kafka_config_get_number(conf, "transaction.timeout.ms", 6000);
    rd_kafka_conf_set_opaque(conf, p);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    p->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!p->rk) {
        rd_kafka_conf_destroy(conf);
        return base_fail(err, ERR_USAGE, "Kafka producer: %s", why);
    }
    p->state = MADE;
    return 0;
}

int kafka_producer_new(const struct kafka_config *config, const _Atomic bool *stop,
                       struct kafka_producer **out_producer, struct base_error *err)
{
    struct kafka_producer *p = calloc(1, sizeof *p);
    if (!p)
        return base_fail(err, ERR_NOMEM, "Kafka producer: out of memory");
    p->config = config;
    p->stop = stop;
    int rc = make(p, err);
    if (rc < 0) {
        free(p);
        return rc;
    }
    *out_producer = p;
    return 0;
}

/* Nothing may be delivered after this: delivery reports point into jobs. */
static void destroy(struct kafka_producer *p)
{
    for (int i = 0; i < KAFKA_PRODUCER_TOPICS; i++) {
        if (p->topics[i])
            rd_kafka_topic_destroy(p->topics[i]);
        p->topics[i] = NULL;
    }
    if (p->rk) {
        rd_kafka_purge(p->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
        rd_kafka_destroy(p->rk);
    }
    p->rk = NULL;
    p->state = NONE;
}

void kafka_producer_free(struct kafka_producer *p)
{
    if (!p)
        return;
    destroy(p);
    free(p);
}

size_t kafka_producer_n_bytes_max(const struct kafka_producer *p)
{
    return p->n_bytes_max;
}
uint64_t kafka_producer_n_replaced(const struct kafka_producer *p)
{
    return p->n_replaced;
}

void kafka_producer_replace(struct kafka_producer *p, const char *why)
{
    base_log_warn("producer replaced", LOG_STR("transactional_id", p->config->transactional_id),
                  LOG_STR("reason", why));
    FAILPOINT(PRODUCER_BEFORE_REPLACE);
    destroy(p);
    p->n_replaced++;
    FAILPOINT(PRODUCER_AFTER_REPLACE);
}

void kafka_producer_serve(struct kafka_producer *p)
{
    if (p->rk)
        rd_kafka_poll(p->rk, 0);
}

/* Copies the words, destroys the error. code: what the caller should return. */
static int fail_with(rd_kafka_error_t *error, int code, const char *what, struct base_error *err)
{
    base_fail(err, code, "%s: %s: %s", what, rd_kafka_error_name(error), rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return code;
}

int kafka_producer_ready(struct kafka_producer *p, struct base_error *err)
{
    if (p->state == NONE) {
        int rc = make(p, err);
        if (rc < 0)
            return rc;
    }
    if (p->state != MADE)
        return 0;
    if (*p->stop)
        return base_fail(err, ERR_STOPPED, "stopped while the producer was starting");
    FAILPOINT(PRODUCER_BEFORE_INIT);
    rd_kafka_error_t *error = rd_kafka_init_transactions(p->rk, SLICE_MS);
    rd_kafka_poll(p->rk, 0);
    if (!error) {
        FAILPOINT(PRODUCER_AFTER_INIT);
        p->state = READY;
        return 0;
    }
    bool again = rd_kafka_error_is_retriable(error) && !rd_kafka_error_is_fatal(error);
    if (again && p->last_error[0]) { /* "timed out" says less than why */
        rd_kafka_error_destroy(error);
        return base_fail(err, ERR_AGAIN, "init_transactions: %s", p->last_error);
    }
    int rc = fail_with(error, ERR_AGAIN, "init_transactions", err);
    if (!again)
        kafka_producer_replace(p, err->text);
    return rc;
}

void kafka_producer_learn(struct kafka_producer *p, const char *const topics[KAFKA_PRODUCER_TOPICS])
{
    assert(p->state == READY);
    for (int i = 0; i < KAFKA_PRODUCER_TOPICS; i++) {
        const struct rd_kafka_metadata *metadata = NULL;
        if (p->topics[i])
            continue;
        p->topics[i] = rd_kafka_topic_new(p->rk, topics[i], NULL);
        if (p->topics[i] &&
            rd_kafka_metadata(p->rk, 0, p->topics[i], &metadata, SLICE_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
            rd_kafka_metadata_destroy(metadata);
    }
}

int kafka_producer_begin(struct kafka_producer *p, struct base_error *err)
{
    assert(p->state == READY);
    rd_kafka_poll(p->rk, 0);
    p->link_lost = false;
    rd_kafka_error_t *error = rd_kafka_begin_transaction(p->rk);
    if (error) {
        fail_with(error, ERR_AGAIN, "begin_transaction", err);
        kafka_producer_replace(p, err->text);
        return ERR_AGAIN;
    }
    p->state = OPEN;
    return 0;
}

static rd_kafka_headers_t *headers_of(const struct publish_record *r)
{
    if (r->n_headers == 0)
        return NULL;
    rd_kafka_headers_t *headers = rd_kafka_headers_new(r->n_headers);
    for (uint32_t i = 0; i < r->n_headers; i++)
        rd_kafka_header_add(headers, r->headers[i].name, -1, r->headers[i].value, (ssize_t)r->headers[i].n);
    return headers;
}

static rd_kafka_resp_err_t produce(struct kafka_producer *p, const char *topic, const struct publish_record *r,
                                   rd_kafka_headers_t *headers)
{
    union { /* librdkafka copies, but its va_list takes plain pointers */
        const void *from;
        void *to;
    } key = {.from = r->key}, value = {.from = r->value};
    if (headers)
        return rd_kafka_producev(p->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key.to, r->n_key),
                                 RD_KAFKA_V_VALUE(value.to, r->n_value), RD_KAFKA_V_HEADERS(headers),
                                 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(r->refused),
                                 RD_KAFKA_V_END);
    return rd_kafka_producev(p->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key.to, r->n_key),
                             RD_KAFKA_V_VALUE(value.to, r->n_value), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                             RD_KAFKA_V_OPAQUE(r->refused), RD_KAFKA_V_END);
}

int kafka_producer_send(struct kafka_producer *p, const char *topic, const struct publish_record *r,
                        struct base_error *err)
{
    assert(p->state == OPEN);
    rd_kafka_headers_t *headers = headers_of(r);
    rd_kafka_resp_err_t res = produce(p, topic, r, headers);
    while (res == RD_KAFKA_RESP_ERR__QUEUE_FULL && !*p->stop) {
        rd_kafka_poll(p->rk, SEND_FULL_MS);
        res = produce(p, topic, r, headers);
    }
    if (res == RD_KAFKA_RESP_ERR_NO_ERROR)
        return 0; /* librdkafka owns the headers */
    if (headers)
        rd_kafka_headers_destroy(headers);
    if (res == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && r->refused)
        *r->refused = true;
    return base_fail(err, ERR_AGAIN, "produce to '%s': %s", topic, rd_kafka_err2str(res));
}

void kafka_producer_abort(struct kafka_producer *p)
{
    if (p->state != OPEN)
        return;
    FAILPOINT(COMMIT_BEFORE_ABORT);
    uint64_t until = base_clock_mono_ns() + (uint64_t)p->transaction_ms * 1000000;
    rd_kafka_error_t *error = rd_kafka_abort_transaction(p->rk, SLICE_MS);
    while (error && rd_kafka_error_is_retriable(error) && !*p->stop && base_clock_mono_ns() < until) {
        rd_kafka_error_destroy(error);
        error = rd_kafka_abort_transaction(p->rk, SLICE_MS);
    }
    rd_kafka_poll(p->rk, 0);
    p->state = READY;
    if (!error && !p->link_lost)
        return;
    struct base_error why = {0};
    if (error)
        fail_with(error, ERR_AGAIN, "abort_transaction", &why);
    else
        base_fail(&why, ERR_AGAIN, "a connection was lost during the transaction: %s", p->last_error);
    kafka_producer_replace(p, why.text);
}

static bool is_timeout(const rd_kafka_error_t *error)
{
    rd_kafka_resp_err_t code = rd_kafka_error_code(error);
    return code == RD_KAFKA_RESP_ERR__TIMED_OUT || code == RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE ||
           code == RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT;
}

/* Aborts, or gives the producer up: what the error asks for. */
static int leave_transaction(struct kafka_producer *p, rd_kafka_error_t *error, const char *what,
                             struct base_error *err)
{
    bool abortable = rd_kafka_error_txn_requires_abort(error) && !rd_kafka_error_is_fatal(error) && !is_timeout(error);
    int rc = fail_with(error, ERR_AGAIN, what, err);
    if (abortable)
        kafka_producer_abort(p);
    else
        kafka_producer_replace(p, err->text);
    return rc;
}

static int send_offsets(struct kafka_producer *p, const rd_kafka_topic_partition_list_t *offsets,
                        const rd_kafka_consumer_group_metadata_t *group, struct base_error *err)
{
    rd_kafka_error_t *error = rd_kafka_send_offsets_to_transaction(p->rk, offsets, group, -1);
    for (int i = 1; i < OFFSETS_TRIES && error && rd_kafka_error_is_retriable(error) && !is_timeout(error) &&
                    !rd_kafka_error_txn_requires_abort(error) && !*p->stop;
         i++) {
        rd_kafka_error_destroy(error);
        base_clock_sleep_ms(base_clock_backoff_ms((uint32_t)i, 10, 200));
        error = rd_kafka_send_offsets_to_transaction(p->rk, offsets, group, -1);
    }
    return error ? leave_transaction(p, error, "send_offsets_to_transaction", err) : 0;
}

int kafka_producer_commit(struct kafka_producer *p, const rd_kafka_topic_partition_list_t *offsets,
                          const rd_kafka_consumer_group_metadata_t *group, bool *out_unknown, struct base_error *err)
{
    assert(p->state == OPEN);
    *out_unknown = false;
    FAILPOINT(COMMIT_BEFORE_OFFSETS);
    int rc = offsets->cnt ? send_offsets(p, offsets, group, err) : 0;
    FAILPOINT(COMMIT_AFTER_OFFSETS);
    if (rc < 0)
        return rc;

    uint64_t until = base_clock_mono_ns() + (uint64_t)p->transaction_ms * 1000000;
    FAILPOINT(COMMIT_BEFORE_END);
    rd_kafka_error_t *error = rd_kafka_commit_transaction(p->rk, SLICE_MS);
    while (error && rd_kafka_error_is_retriable(error) && !*p->stop && base_clock_mono_ns() < until) {
        rd_kafka_error_destroy(error);
        error = rd_kafka_commit_transaction(p->rk, SLICE_MS); /* goes on where it was */
    }
    FAILPOINT(COMMIT_AFTER_END);
    rd_kafka_poll(p->rk, 0);
    if (error) {
        *out_unknown = true; /* even an abortable error can hide an EndTxn that the coordinator has carried out */
        return leave_transaction(p, error, "commit_transaction", err);
    }
    p->state = READY;
    if (p->link_lost)
        kafka_producer_replace(p, p->last_error);
    return 0;
}
