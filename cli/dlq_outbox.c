#include "cli/dlq_outbox.h"

#include <stdlib.h>

#include "base/clock.h"

#define BATCH_BYTES_MAX (16u << 20)
#define BATCH_AGE_NS    1000000000u

int dlq_outbox_init(struct dlq_outbox *b, uint64_t rate, struct base_error *err)
{
    b->n_max = rate && rate / 10 < DLQ_BATCH_MAX ? (rate / 10 ? rate / 10 : 1) : DLQ_BATCH_MAX;
    b->pending = calloc(DLQ_BATCH_MAX, sizeof *b->pending);
    b->records = calloc(DLQ_BATCH_MAX, sizeof *b->records);
    if (!b->pending || !b->records)
        return base_fail(err, ERR_NOMEM, "out of memory for a batch of %d letters", DLQ_BATCH_MAX);
    return 0;
}

static void drop_all(struct dlq_outbox *b)
{
    for (size_t i = 0; i < b->n; i++) {
        rd_kafka_message_destroy(b->pending[i].m);
        dlq_outgoing_done(&b->pending[i].out);
    }
    b->n = b->n_bytes = 0;
}

void dlq_outbox_done(struct dlq_outbox *b)
{
    drop_all(b);
    free(b->pending);
    free(b->records);
    *b = (struct dlq_outbox){0};
}

/* How many of records[0..n) go to the topic of the first. */
static size_t n_of_one_topic(const struct dlq_record *records, size_t n)
{
    size_t i = 1;
    while (i < n && records[i].topic == records[0].topic)
        i++;
    return i;
}

/* On the disk, and in the ledger's pages, before the transaction that makes it true. */
static int write_down(struct dlq_outbox *b, const struct dlq_record *records, size_t n, struct base_error *err)
{
    char token[128];
    dlq_sender_token(b->sender, token);
    for (size_t i = 0; i < n; i++) {
        const struct dlq_record *r = &records[i];
        dlq_audit_letter(b->audit, r->partition, r->offset, NULL, r->topic, token);
        int rc = dlq_ledger_set(b->ledger, r->partition, r->offset, err);
        if (rc < 0)
            return rc;
    }
    return dlq_audit_sync(b->audit, err);
}

/* As many of them as may go now, in one transaction. */
static int send_some(struct dlq_outbox *b, const struct dlq_record *records, size_t n, size_t *out_n,
                     struct base_error *err)
{
    char token[128];
    if (b->pace->lag_max) /* the lag is that of one topic */
        n = n_of_one_topic(records, n);
    int rc = dlq_pace_wait(b->pace, records[0].topic, n, &n, err);
    dlq_sender_token(b->sender, token);
    if (rc == 0)
        rc = write_down(b, records, n, err);
    if (rc == 0)
        rc = dlq_sender_send(b->sender, records, n, err);
    if (rc < 0)
        return rc;
    dlq_audit_committed(b->audit, token, n, false);
    dlq_pace_sent(b->pace, n);
    b->n_sent += n;
    *out_n = n;
    return 0;
}

int dlq_outbox_flush(struct dlq_outbox *b, struct base_error *err)
{
    size_t done = 0, n;
    int rc = 0;
    while (rc == 0 && done < b->n) {
        rc = send_some(b, b->records + done, b->n - done, &n, err);
        done += rc == 0 ? n : 0;
    }
    drop_all(b);
    return rc;
}

int dlq_outbox_add(struct dlq_outbox *b, rd_kafka_message_t *m, struct dlq_outgoing *out, struct base_error *err)
{
    struct dlq_pending *p = &b->pending[b->n];
    struct dlq_record *r = &b->records[b->n];
    if (b->n++ == 0)
        b->since_ns = base_clock_mono_ns();
    *p = (struct dlq_pending){.m = m, .out = *out};
    *r = out->record;
    r->record.refused = &p->refused;
    *out = (struct dlq_outgoing){0};
    b->n_bytes += r->record.n_value + r->record.n_key;
    if (b->n < b->n_max && b->n_bytes < BATCH_BYTES_MAX && base_clock_mono_ns() - b->since_ns < BATCH_AGE_NS)
        return 0;
    return dlq_outbox_flush(b, err);
}
