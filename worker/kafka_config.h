/* kafka_config - librdkafka's configuration: our settings, then the user's KEY=VALUE over them.
 *
 * What exactly-once rests on cannot be overridden (group, transactions, commits, isolation). A property that does not exist, a
 * value that does not fit, and a combination that breaks a promise are ERR_USAGE, with the reason. Values never appear in
 * messages when the property holds a secret. */
#ifndef ROUSE_WORKER_KAFKA_CONFIG_H
#define ROUSE_WORKER_KAFKA_CONFIG_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/options.h"

enum kafka_role { KAFKA_CONSUMER, KAFKA_PRODUCER };

struct kafka_config {
    const char *brokers;
    const char *client_id;
    const char *group;                         /* consumer: required */
    const char *transactional_id;              /* producer: NULL for one without transactions */
    const char *rebalance;                     /* below; NULL: auto. A property that says it comes first */
    const struct base_option_list *properties; /* "KEY=VALUE"; may be NULL */
};

/* rebalance, how partitions move; all members of a group must do it the same way:
 *   eager        everybody gives up everything each time
 *   cooperative  only what moves is given up; librdkafka 2.6.1
 *   consumer     KIP-848, the broker decides; librdkafka 2.12, Kafka 4.0
 *   auto         cooperative where librdkafka is sound (2.10.1), else eager */

/* The caller owns *out_conf: rd_kafka_new takes it, else rd_kafka_conf_destroy. */
int kafka_config_make(enum kafka_role role, const struct kafka_config *config, rd_kafka_conf_t **out_conf,
                      struct base_error *err);

/* A property's value as it came out; "" when there is none. */
void kafka_config_get(const rd_kafka_conf_t *conf, const char *key, char *out, size_t size);
long kafka_config_get_number(const rd_kafka_conf_t *conf, const char *key, long otherwise);

/* Whether a property's value must not be shown: passwords, keys, tokens. */
bool kafka_config_is_secret(const char *key);

/* For rd_kafka_conf_set_log_cb: librdkafka's lines through base/log. It says every failed connection many times over: those go to debug,
 * because the worker itself says when brokers go and come. */
void kafka_config_log(const rd_kafka_t *rk, int level, const char *facility, const char *text);

#endif
