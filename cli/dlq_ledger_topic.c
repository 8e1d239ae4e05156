/* The ledger's topic: made, and read. */
#include <inttypes.h>

#include "base/clock.h"
#include "cli/dlq_ledger.h"
#include "cli/dlq_reader.h"
#include "cli/dlq_verbs.h"

static int take_message(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    (void)keep;
    return dlq_ledger_take(context, m->key, m->key_len, m->payload, m->len, err);
}

static int topic_exists(const char *topic, bool *out_exists, struct base_error *err)
{
    rd_kafka_t *rk = NULL;
    int32_t n;
    int rc = cli_kafka_open(RD_KAFKA_PRODUCER, dlq_common.brokers, NULL, &dlq_common.properties, NULL, &rk, err);
    if (rc < 0)
        return rc;
    uint64_t until = base_clock_mono_ns() + dlq_common.timeout_s * 1000000000u;
    do /* a topic that is not there is not waited for; brokers are */
        rc = cli_kafka_n_partitions(rk, topic, 0, &n, err);
    while (rc == ERR_SERVICE && base_clock_mono_ns() < until && !dlq_stop);
    rd_kafka_destroy(rk);
    *out_exists = rc == 0;
    return rc == ERR_NOTFOUND ? 0 : rc;
}

int dlq_ledger_load(struct dlq_ledger *l, const char *topic, bool must_exist, struct base_error *err)
{
    struct dlq_reader r = {0};
    bool exists = must_exist;
    int rc = must_exist ? 0 : topic_exists(topic, &exists, err);
    if (rc < 0 || !exists)
        return rc;
    rc = dlq_reader_open(topic, must_exist ? DLQ_WRITTEN : DLQ_COMMITTED, &r, err);
    if (rc == 0)
        rc = dlq_reader_run(&r, NULL, take_message, l, err);
    dlq_reader_close(&r);
    if (rc == 0 && l->n_strange)
        rc = base_fail(err, ERR_INPUT,
                       "topic '%s' has %" PRIu64 " records that are no pages of a ledger of %" PRId32
                       " partitions: is it another topic, or of an older dead letter topic that had more?",
                       topic, l->n_strange, l->n_partitions);
    return rc;
}

int dlq_ledger_create_topic(const char *topic, struct base_error *err)
{
    char why[256];
    rd_kafka_t *rk = NULL;
    int rc = cli_kafka_open(RD_KAFKA_PRODUCER, dlq_common.brokers, NULL, &dlq_common.properties, NULL, &rk, err);
    if (rc < 0)
        return rc;
    rd_kafka_NewTopic_t *made = rd_kafka_NewTopic_new(topic, 1, -1, why, sizeof why);
    if (!made) {
        rd_kafka_destroy(rk);
        return base_fail(err, ERR_USAGE, "topic '%s': %s", topic, why);
    }
    rd_kafka_NewTopic_set_config(made, "cleanup.policy", "compact");
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreateTopics(rk, &made, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, (int)dlq_common.timeout_s * 1000);
    if (!event || rd_kafka_event_error(event)) {
        rc = base_fail(err, ERR_SERVICE, "creating topic '%s': %s", topic,
                       event ? rd_kafka_event_error_string(event) : "no broker answers");
    } else {
        size_t n = 0;
        const rd_kafka_topic_result_t **results =
            rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
        rd_kafka_resp_err_t e = n ? rd_kafka_topic_result_error(results[0]) : RD_KAFKA_RESP_ERR_NO_ERROR;
        if (e && e != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
            rc = base_fail(err, ERR_SERVICE,
                           "creating topic '%s', which keeps what was replayed: %s (make it by hand: 1 partition, "
                           "cleanup.policy=compact)",
                           topic, rd_kafka_err2str(e));
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(made);
    rd_kafka_destroy(rk);
    return rc;
}
