/* dlq_reader - all committed records of a topic between two offsets of each partition, without a consumer group: nothing is taken
 * away from anybody. One thread drives it.
 *
 * (1) What to read is fixed when it opens: records that come later are another run's business.
 * (2) read_committed. The broker answers a commit before its markers are written, so what was committed a moment ago may
 *     lie behind a transaction that still looks open: whoever must see it reads DLQ_WRITTEN. */
#ifndef ROUSE_CLI_DLQ_READER_H
#define ROUSE_CLI_DLQ_READER_H

#include "base/progress.h"
#include "cli/kafka_client.h"

enum dlq_extent {
    DLQ_COMMITTED, /* ends where the oldest open transaction begins, and says nothing of what lies behind */
    DLQ_WRITTEN,   /* waits for the transactions that are open when it opens; ERR_SERVICE when they take too long */
};

struct dlq_reader {
    rd_kafka_t *rk;
    const char *topic; /* borrowed */
    enum dlq_extent extent;
    int32_t n_partitions;
    int64_t *from,
        *end;    /* [n_partitions] the first offset to read, and the first one not to; the caller may narrow them */
    int64_t *at; /* [n_partitions] behind the last record seen; >= end: done */
    const uint64_t *n_sent; /* borrowed: shown with the progress; NULL: there is no such thing */
};

int dlq_reader_open(const char *topic, enum dlq_extent extent, struct dlq_reader *out, struct base_error *err);
void dlq_reader_close(struct dlq_reader *r);

/* *keep set: the callee destroys the message. 0: go on; 1: enough; negative: an error. */
typedef int dlq_reader_fn(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err);

/* Each record of [from, end), in order within a partition. label: of the progress, a bar on a terminal and with --json a line
 * a second on stderr; NULL: none. ERR_SERVICE: nothing
 * came for --timeout-s; ERR_STOPPED: a signal. */
int dlq_reader_run(struct dlq_reader *r, const char *label, dlq_reader_fn *fn, void *context, struct base_error *err);

#endif
