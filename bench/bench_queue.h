/* bench_queue - the queue path without a model: prompts go on a topic, something answers them onto another, and a read_committed
 * reader sees when. What answers is a worker, or the least that librdkafka alone can do: the loop here, which consumes a record,
 * produces its answers and commits its offset every so often, in transactions or at least once. */
#ifndef ROUSE_BENCH_QUEUE_H
#define ROUSE_BENCH_QUEUE_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

#define BENCH_QUEUE_PARTITIONS  16
#define BENCH_QUEUE_SAMPLES_MAX 1000000u /* latencies of one run */

struct bench_queue {
    /* A client with these settings (key, value, ..., NULL), connected as the user says. */
    int (*open)(void *context, rd_kafka_type_t type, const char *const *settings, rd_kafka_t **out_rk,
                struct base_error *err);
    void *context;
    const char *in, *out, *group; /* topics of BENCH_QUEUE_PARTITIONS */
    uint32_t batch;               /* prompts in a record */
    uint32_t commit_ms;           /* of the loop */
    uint32_t patience_s;          /* ERR_SERVICE when nothing comes for so long */
    int (*check)(void *context,
                 struct base_error *err); /* whether what answers still runs; a few times a second; or NULL */
    void *check_context;
};

/* From the beginning of the topic of answers. */
int bench_queue_reader(const struct bench_queue *q, rd_kafka_t **out_reader, struct base_error *err);
void bench_queue_reader_close(rd_kafka_t *reader);

/* First one prompt a partition, until it is answered: then what answers has started. Then n prompts (or less, whole records), spread
 * over the partitions, with a deadline that has passed, in one transaction: they become visible at once. out_per_s: from its
 * commit until the last answer is visible. answer: set to the value of one, if it is empty. */
int bench_queue_rate(const struct bench_queue *q, rd_kafka_t *reader, uint64_t n, struct base_buffer *answer,
                     double *out_per_s, struct base_error *err);

/* n prompts, one a record, per_s of them a second; seconds from the time each was due to be produced until its answer was
 * visible. Everything before is answered. */
int bench_queue_latency(const struct bench_queue *q, rd_kafka_t *reader, uint32_t n, double per_s, double *out_p50,
                        double *out_p95, struct base_error *err);

struct bench_queue_loop; /* a thread with a consumer and a producer of its own */
/* answer: the value of every answer. Borrows q and answer until it is stopped. */
int bench_queue_loop_start(const struct bench_queue *q, bool transactions, const struct base_buffer *answer,
                           struct bench_queue_loop **out_loop, struct base_error *err);
int bench_queue_loop_stop(struct bench_queue_loop *loop,
                          struct base_error *err); /* frees it; what it failed of, if it did */

#endif
