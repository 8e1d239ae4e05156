/* mock_kafka - librdkafka's mock cluster in the process, with what a test says to it.
 *
 * What it cannot show (anchored in the tests on real Kafka): aborted records are visible to read_committed readers, offsets
 * inside transactions are not stored, a member of the wrong generation may commit. */
#ifndef ROUSE_WORKER_TESTS_MOCK_KAFKA_H
#define ROUSE_WORKER_TESTS_MOCK_KAFKA_H

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "schemas/completion.h"
#include "schemas/dead_letter.h"
#include "worker/tests/test_worker.h"

/* Requests, by the protocol's numbers: for injected errors. */
enum {
    MOCK_ADD_PARTITIONS = 24,
    MOCK_ADD_OFFSETS = 25,
    MOCK_END_TXN = 26,
    MOCK_TXN_OFFSET_COMMIT = 28,
    MOCK_PRODUCE = 0
};

struct mock_kafka {
    rd_kafka_t *owner; /* the cluster lives in its threads */
    rd_kafka_mock_cluster_t *cluster;
    rd_kafka_t *producer;
    char brokers[256];
};

void mock_kafka_open(struct mock_kafka *k);
void mock_kafka_close(struct mock_kafka *k);
void mock_kafka_topic(struct mock_kafka *k, const char *name, int n_partitions);

/* Puts a record on a topic and waits until it is there. */
void mock_kafka_put(struct mock_kafka *k, const char *topic, const void *key, size_t n_key, const void *value,
                    size_t n_value, const char *header, const char *header_value);

/* A reader from the beginning of a topic's partitions. */
struct mock_reader {
    rd_kafka_t *rk;
};
void mock_reader_open(struct mock_reader *r, struct mock_kafka *k, const char *topic, int n_partitions);
void mock_reader_close(struct mock_reader *r);
/* The next record, or NULL after wait_ms. rd_kafka_message_destroy. */
rd_kafka_message_t *mock_reader_next(struct mock_reader *r, int wait_ms);

/* Headers of a record, borrowed; returns how many. */
uint32_t mock_headers(rd_kafka_message_t *m, struct schema_header *out, uint32_t n_max);

/* GET or another method; the body into body. Returns the status, 0: no connection. */
unsigned mock_http(uint16_t port, const char *method, const char *path, struct base_buffer *head,
                   struct base_buffer *body);
uint16_t mock_free_port(void);

#endif
