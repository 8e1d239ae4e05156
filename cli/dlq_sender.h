/* dlq_sender - the transaction that puts letters back: the records, the ledger's pages that say so, and the progress of the group
 * "rouse-dlq.<dlq>", all or nothing.
 *
 * Its transactional.id is that of the dead letter topic, so that there is one replay of a topic at a time: a run that was killed
 * is fenced by the next, which also ends what it left open. Each transaction has a token, which is committed as the metadata of
 * partition 0.
 *
 * (1) After a new producer (at the start, after an error) the token that is committed tells how the last transaction ended: ours - it
 *     is done; the one before - it is not, and is sent again; any other - somebody has taken over, and we stop. */
#ifndef ROUSE_CLI_DLQ_SENDER_H
#define ROUSE_CLI_DLQ_SENDER_H

#include "cli/dlq_ledger.h"
#include "cli/dlq_verbs.h"
#include "worker/kafka_producer.h"

struct dlq_record {
    const char *topic;
    struct publish_record record; /* borrowed until the transaction is over */
    int32_t partition;            /* of the dead letter */
    int64_t offset;
};

struct dlq_sender {
    struct kafka_config config;
    struct kafka_producer *producer;
    rd_kafka_t *asker; /* a consumer of the group, never a member: asks for what is committed */
    rd_kafka_consumer_group_metadata_t *group;
    struct dlq_ledger *ledger;
    const char *dlq, *ledger_topic, *run_id;
    char id[300], token[128], pending[128]; /* committed last, by anybody; of the transaction under way */
    uint64_t n_transactions, n_replaced;
    int64_t *positions; /* [n_partitions] behind the last letter sent; -1: none */
};

/* Fences the predecessor, so that the ledger may be read; out->token is what it committed last. */
int dlq_sender_open(struct dlq_sender *out, struct dlq_ledger *ledger, const char *dlq, const char *ledger_topic,
                    const char *run_id, struct base_error *err);
void dlq_sender_close(struct dlq_sender *s);
size_t dlq_sender_bytes_max(const struct dlq_sender *s); /* of one record */

/* The token that the next dlq_sender_send will have. */
void dlq_sender_token(const struct dlq_sender *s, char out[128]);
/* Their bits are set in the ledger already. 0: all of them are committed. ERR_SERVICE, ERR_STOPPED: none is, or (said in the text) it
 * is not known; the next run finds out. */
int dlq_sender_send(struct dlq_sender *s, const struct dlq_record *records, size_t n, struct base_error *err);

#endif
