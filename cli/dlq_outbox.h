/* dlq_outbox - letters on their way, collected and sent by the transaction: their bits in the ledger, their lines in the audit, at the
 * pace that is asked for.
 *
 * Owns the messages that are put into it, and what dlq_outgoing_make made of them. */
#ifndef ROUSE_CLI_DLQ_OUTBOX_H
#define ROUSE_CLI_DLQ_OUTBOX_H

#include "cli/dlq_audit.h"
#include "cli/dlq_outgoing.h"
#include "cli/dlq_pace.h"
#include "cli/dlq_sender.h"

struct dlq_pending {
    rd_kafka_message_t *m;
    struct dlq_outgoing out;
    bool refused;
};

struct dlq_outbox {
    struct dlq_sender *sender; /* borrowed, as are the next three */
    struct dlq_ledger *ledger;
    struct dlq_audit *audit;
    struct dlq_pace *pace;
    struct dlq_pending *pending; /* [DLQ_BATCH_MAX] */
    struct dlq_record *records;  /* [DLQ_BATCH_MAX] */
    size_t n, n_max, n_bytes;
    uint64_t since_ns; /* when the oldest of them came */
    uint64_t n_sent;   /* committed */
};

#define DLQ_BATCH_MAX 10000

/* rate: letters a second, 0: no matter; a batch is a tenth of a second's then. */
int dlq_outbox_init(struct dlq_outbox *b, uint64_t rate, struct base_error *err);
void dlq_outbox_done(struct dlq_outbox *b);

/* Takes m and *out over, whatever it returns; sends when the batch is full, or a second old. */
int dlq_outbox_add(struct dlq_outbox *b, rd_kafka_message_t *m, struct dlq_outgoing *out, struct base_error *err);
/* Sends all that is there. On an error, what was not sent is dropped: the next run finds it in the topic again. */
int dlq_outbox_flush(struct dlq_outbox *b, struct base_error *err);

#endif
