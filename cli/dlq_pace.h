/* dlq_pace - how fast a replay may go: letters a second, and how far the workers may fall behind. */
#ifndef ROUSE_CLI_DLQ_PACE_H
#define ROUSE_CLI_DLQ_PACE_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct dlq_pace {
    uint64_t rate, lag_max; /* 0: no matter */
    bool stop_at_lag;
    const char *group;
    rd_kafka_t *asker;
    uint64_t began_ns, n_sent; /* the bucket is filled since then; moved on when it is full */
    uint64_t said_ns;          /* when it was said last that we wait */
};

int dlq_pace_open(struct dlq_pace *p, uint64_t rate, uint64_t lag_max, const char *group, bool stop_at_lag,
                  struct base_error *err);
void dlq_pace_close(struct dlq_pace *p);
void dlq_pace_begin(struct dlq_pace *p);
/* Waits until some of n letters for topic may go; *out_n of them, 1 at least. ERR_STOPPED: a signal, or the lag and on-lag is stop. */
int dlq_pace_wait(struct dlq_pace *p, const char *topic, size_t n, size_t *out_n, struct base_error *err);
void dlq_pace_sent(struct dlq_pace *p, size_t n);

#endif
