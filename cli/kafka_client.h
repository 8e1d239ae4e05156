/* kafka_client - what `rouse produce`, `consume` and `demo` need of librdkafka: a configured handle, and topics. */
#ifndef ROUSE_CLI_KAFKA_CLIENT_H
#define ROUSE_CLI_KAFKA_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "base/error.h"
#include "base/options.h"

#define CLI_OPTIONS_KAFKA(brokers, properties)                                                                         \
    {"brokers", BASE_OPTION_STRING, brokers, "LIST", NULL, NULL, 0, 0, "Kafka", "host:port[,host:port...].", true},    \
    {                                                                                                                  \
        "kafka", BASE_OPTION_LIST, properties, "KEY=VALUE", NULL, NULL, 0, 0, "Kafka",                                 \
            "Any librdkafka property, over our own setting of it. May be given again.", false                          \
    }

/* Called from rd_kafka_poll and rd_kafka_flush for each record that was accepted or given up; m->_private is the record's own. */
typedef void cli_kafka_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque);

/* settings: key, value, key, value, ..., NULL: ours; then the user's KEY=VALUE list over them. ERR_USAGE: a property that
 * librdkafka refuses, in its own words (values that are secret are not repeated). on_delivery: producers only; may be NULL. */
int cli_kafka_open(rd_kafka_type_t type, const char *brokers, const char *const *settings,
                   const struct base_option_list *properties, cli_kafka_delivery *on_delivery, rd_kafka_t **out_rk,
                   struct base_error *err);

/* Partitions of topic, waiting up to timeout_ms for it and for the brokers. ERR_SERVICE: no broker answers; ERR_NOTFOUND. */
int cli_kafka_n_partitions(rd_kafka_t *rk, const char *topic, int timeout_ms, int32_t *out_n, struct base_error *err);

/* Creates what is missing of topics[]; one that exists is fine. */
int cli_kafka_create_topics(rd_kafka_t *rk, const char *const *topics, size_t n, int n_partitions, int timeout_ms,
                            struct base_error *err);

/* Deletes them; one that does not exist is fine. */
int cli_kafka_delete_topics(rd_kafka_t *rk, const char *const *topics, size_t n, int timeout_ms,
                            struct base_error *err);

#endif
