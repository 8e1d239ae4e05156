#include "cli/kafka_client.h"

#include <string.h>

#include "base/clock.h"
#include "worker/kafka_config.h"

static int set(rd_kafka_conf_t *conf, const char *key, const char *value, struct base_error *err)
{
    char why[256];
    if (rd_kafka_conf_set(conf, key, value, why, sizeof why) != RD_KAFKA_CONF_OK) {
        if (kafka_config_is_secret(key)) /* librdkafka repeats the value */
            return base_fail(err, ERR_USAGE, "--kafka %s: librdkafka refuses this value", key);
        return base_fail(err, ERR_USAGE, "--kafka %s: %s", key, why);
    }
    return 0;
}

static int set_pair(rd_kafka_conf_t *conf, const char *pair, struct base_error *err)
{
    char key[128];
    const char *equals = strchr(pair, '=');
    if (!equals || equals == pair || (size_t)(equals - pair) >= sizeof key)
        return base_fail(err, ERR_USAGE, "--kafka takes KEY=VALUE, as in --kafka security.protocol=ssl");
    memcpy(key, pair, (size_t)(equals - pair));
    key[equals - pair] = '\0';
    return set(conf, key, equals + 1, err);
}

/* Connections that come and go are librdkafka's business; a caller that waits says so itself. */
static void drop_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk, (void)level, (void)facility, (void)text;
}

int cli_kafka_open(rd_kafka_type_t type, const char *brokers, const char *const *settings,
                   const struct base_option_list *properties, cli_kafka_delivery *on_delivery, rd_kafka_t **out_rk,
                   struct base_error *err)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, drop_log);
    if (on_delivery)
        rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    int rc = set(conf, "bootstrap.servers", brokers, err);
    if (rc == 0)
        rc = set(conf, "client.id", "rouse", err);
    for (; rc == 0 && settings && settings[0]; settings += 2)
        rc = set(conf, settings[0], settings[1], err);
    for (size_t i = 0; rc == 0 && properties && i < properties->n; i++)
        rc = set_pair(conf, properties->items[i], err);
    if (rc < 0) {
        rd_kafka_conf_destroy(conf);
        return rc;
    }
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why); /* takes conf over */
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        return base_fail(err, ERR_USAGE, "Kafka client: %s", why);
    }
    *out_rk = rk;
    return 0;
}

int cli_kafka_n_partitions(rd_kafka_t *rk, const char *topic, int timeout_ms, int32_t *out_n, struct base_error *err)
{
    uint64_t end = base_clock_mono_ns() + (uint64_t)timeout_ms * 1000000u;
    rd_kafka_topic_t *t = rd_kafka_topic_new(rk, topic, NULL);
    int rc = t ? ERR_AGAIN : base_fail(err, ERR_USAGE, "'%s' is no topic name", topic);
    while (rc == ERR_AGAIN) {
        const struct rd_kafka_metadata *m = NULL;
        rd_kafka_resp_err_t e = rd_kafka_metadata(rk, 0, t, &m, 1000);
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR && m->topic_cnt == 1 && m->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
            m->topics[0].partition_cnt > 0) {
            *out_n = m->topics[0].partition_cnt;
            rc = 0;
        } else if (base_clock_mono_ns() > end) {
            rc = e != RD_KAFKA_RESP_ERR_NO_ERROR
                     ? base_fail(err, ERR_SERVICE, "no broker answers: %s", rd_kafka_err2str(e))
                     : base_fail(err, ERR_NOTFOUND, "topic '%s': %s", topic, rd_kafka_err2str(m->topics[0].err));
        } else {
            base_clock_sleep_ms(50);
        }
        if (m)
            rd_kafka_metadata_destroy(m);
    }
    if (t)
        rd_kafka_topic_destroy(t);
    return rc;
}

int cli_kafka_create_topics(rd_kafka_t *rk, const char *const *topics, size_t n, int n_partitions, int timeout_ms,
                            struct base_error *err)
{
    rd_kafka_NewTopic_t *new_topics[16];
    char why[256];
    if (n > 16)
        return base_fail(err, ERR_INTERNAL, "%zu topics at once", n);
    for (size_t i = 0; i < n; i++) {
        new_topics[i] = rd_kafka_NewTopic_new(topics[i], n_partitions, -1, why, sizeof why);
        if (!new_topics[i]) {
            rd_kafka_NewTopic_destroy_array(new_topics, i);
            return base_fail(err, ERR_USAGE, "topic '%s': %s", topics[i], why);
        }
    }
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreateTopics(rk, new_topics, n, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, timeout_ms);
    int rc = 0;
    if (!event || rd_kafka_event_error(event)) {
        rc = base_fail(err, ERR_SERVICE, "creating topics: %s",
                       event ? rd_kafka_event_error_string(event) : "no broker answers");
    } else {
        size_t n_results = 0;
        const rd_kafka_topic_result_t **results =
            rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n_results);
        for (size_t i = 0; rc == 0 && i < n_results; i++) {
            rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[i]);
            if (e != RD_KAFKA_RESP_ERR_NO_ERROR && e != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
                rc = base_fail(err, ERR_SERVICE, "creating topic '%s': %s", rd_kafka_topic_result_name(results[i]),
                               rd_kafka_err2str(e));
        }
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy_array(new_topics, n);
    return rc;
}

int cli_kafka_delete_topics(rd_kafka_t *rk, const char *const *topics, size_t n, int timeout_ms, struct base_error *err)
{
    rd_kafka_DeleteTopic_t *old[16];
    if (n > 16)
        return base_fail(err, ERR_INTERNAL, "%zu topics at once", n);
    for (size_t i = 0; i < n; i++)
        old[i] = rd_kafka_DeleteTopic_new(topics[i]);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DeleteTopics(rk, old, n, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, timeout_ms);
    int rc = 0;
    if (!event || rd_kafka_event_error(event)) {
        rc = base_fail(err, ERR_SERVICE, "deleting topics: %s",
                       event ? rd_kafka_event_error_string(event) : "no broker answers");
    } else {
        size_t n_results = 0;
        const rd_kafka_topic_result_t **results =
            rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n_results);
        for (size_t i = 0; rc == 0 && i < n_results; i++) {
            rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[i]);
            if (e != RD_KAFKA_RESP_ERR_NO_ERROR && e != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
                rc = base_fail(err, ERR_SERVICE, "deleting topic '%s': %s", rd_kafka_topic_result_name(results[i]),
                               rd_kafka_err2str(e));
        }
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteTopic_destroy_array(old, n);
    return rc;
}
