/* dlq_route - the topics that letters go to: does each exist, and does it take what we send? Asked once for each. */
#ifndef ROUSE_CLI_DLQ_ROUTE_H
#define ROUSE_CLI_DLQ_ROUTE_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define DLQ_TARGETS_MAX 64 /* in one run */

struct dlq_target {
    char name[250];
    bool exists;
};

struct dlq_route {
    rd_kafka_t *rk;     /* borrowed */
    size_t n_bytes_max; /* message.max.bytes of the producer */
    struct dlq_target targets[DLQ_TARGETS_MAX];
    size_t n;
};

/* *out_name: the target's name, the same pointer each time and as long as the route; NULL: the topic does not exist. A topic whose
 * max.message.bytes is below the producer's message.max.bytes is ERR_USAGE: the broker would refuse a whole transaction.
 * ERR_SERVICE: no broker answers within --timeout-s. */
int dlq_route_find(struct dlq_route *r, const char *topic, const char **out_name, struct base_error *err);

#endif
