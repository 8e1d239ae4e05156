/* kafka_producer - the transactional producer, and what to do when it fails. The commit thread alone calls it.
 *
 *   NONE -> MADE       kafka_producer_ready         READY -> OPEN    kafka_producer_begin
 *   MADE -> READY      kafka_producer_ready         OPEN  -> READY   kafka_producer_commit, kafka_producer_abort
 *   any  -> NONE       kafka_producer_replace: destroyed; the next one has the same transactional.id
 *
 * librdkafka's errors come in three kinds: abortable (abort, send again), retriable (ask again), and everything else, which
 * asks for another producer. So does any request that timed out, and any connection lost inside a transaction: a delayed EndTxn could
 * end the next transaction instead; another init_transactions fences it off.
 *
 * (1) Whoever waits here looks up at least twice a second: kafka_producer_stop ends it. (The exception is librdkafka's own
 *     send_offsets_to_transaction, which does not keep to its timeout.)
 * (2) After commit said ERR_AGAIN with *out_unknown, only the committed offsets of the group tell how the transaction ended,
 *     and only after the next kafka_producer_ready. */
#ifndef ROUSE_WORKER_KAFKA_PRODUCER_H
#define ROUSE_WORKER_KAFKA_PRODUCER_H

#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "worker/kafka_config.h"
#include "worker/publish.h"

#define KAFKA_PRODUCER_TOPICS 2

struct kafka_producer;

/* Connects nothing yet. config is borrowed. stop: ends waits when it becomes true. ERR_USAGE: librdkafka refuses the configuration. */
int kafka_producer_new(const struct kafka_config *config, const _Atomic bool *stop,
                       struct kafka_producer **out_producer, struct base_error *err);
void kafka_producer_free(struct kafka_producer *p); /* an open transaction is left to its timeout or its successor */
size_t kafka_producer_n_bytes_max(const struct kafka_producer *p); /* message.max.bytes */

/* Brings it to READY. ERR_AGAIN: the brokers are away, or it was fenced: call again after a pause. ERR_STOPPED. */
int kafka_producer_ready(struct kafka_producer *p, struct base_error *err);
/* READY: fetches the partitions of the topics that will be written to, which must exist. Without it, the first transaction
 * waits a second for librdkafka to look. Does nothing the second time. */
void kafka_producer_learn(struct kafka_producer *p, const char *const topics[KAFKA_PRODUCER_TOPICS]);
int kafka_producer_begin(struct kafka_producer *p, struct base_error *err);
int kafka_producer_send(struct kafka_producer *p, const char *topic, const struct publish_record *record,
                        struct base_error *err);
/* offsets may be empty. On any failure the transaction is over or the producer gone: nothing is left to abort. */
int kafka_producer_commit(struct kafka_producer *p, const rd_kafka_topic_partition_list_t *offsets,
                          const rd_kafka_consumer_group_metadata_t *group, bool *out_unknown, struct base_error *err);
void kafka_producer_abort(struct kafka_producer *p); /* falls back to replace */
void kafka_producer_replace(struct kafka_producer *p, const char *why);
uint64_t kafka_producer_n_replaced(const struct kafka_producer *p);
void kafka_producer_serve(struct kafka_producer *p); /* callbacks, between transactions */

#endif
