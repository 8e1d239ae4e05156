/* ledger - which records of which partition are ours, how far each one is, and what may be committed.
 *
 * A plain data structure: no lock, no Kafka. The worker guards it with one mutex, because the poll thread takes and revokes,
 * the device thread finishes and the commit thread collects and settles.
 *
 * A partition has an epoch, bumped when it comes and when it goes: whoever holds a record of an old epoch learns here that it
 * is nobody's any more. (A fresh group metadata does not fence a partition that has moved: only this does.) Within an epoch
 * the records in flight lie in a ring, in order of offset:
 *
 *   TAKEN -> FINISHED      ledger_finish            PUBLISHING -> (gone)     ledger_settle, committed
 *   FINISHED -> PUBLISHING ledger_collect           PUBLISHING -> FINISHED   ledger_settle, not committed
 *
 * (1) Only the finished prefix of a partition is collected, so the offset to commit never passes a record that is not
 *     finished: a crash now replays it. ledger_collect is the one place that decides what may be published.
 * (2) A record that was revoked while TAKEN or PUBLISHING still belongs to who works on it; ledger_finish and ledger_settle
 *     say so, and the holder frees it.
 * (3) Offsets below the next expected one are refused: Kafka clients have delivered records twice. Gaps are normal
 *     (transaction markers, compaction).
 * (4) A drained partition is committed up to the consumer's position, which steps over transaction markers: the lag of an
 *     idle pool reads 0. */
#ifndef ROUSE_WORKER_LEDGER_H
#define ROUSE_WORKER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define LEDGER_PARTITIONS_MAX 100000 /* partition numbers are below this */

struct ledger;

/* What a commit says of one partition. */
struct ledger_span {
    int32_t partition;
    uint64_t epoch;
    int64_t next;                 /* the offset to commit: everything below it is finished */
    uint32_t first_item, n_items; /* its records in ledger_batch.items; none: only the position moves */
};

/* What one transaction carries. The arrays are kept from one collect to the next. */
struct ledger_batch {
    void **items;
    struct ledger_span *spans;
    uint32_t n_items, n_items_max, n_spans, n_spans_max;
    uint32_t weight;
};

struct ledger_counts {
    uint32_t partitions; /* owned */
    uint32_t records;    /* in flight: in some ring */
    uint32_t ready;      /* weight of all finished prefixes that are not being published */
    uint32_t idle;       /* drained partitions whose position is ahead of what is committed */
};

typedef void ledger_drop_fn(void *context, void *item);

int ledger_new(struct ledger **out_ledger, struct base_error *err);
void ledger_free(struct ledger *l); /* forgets what is inside: items are the caller's */

/* The partition is ours from now on, under a new epoch. Must not be owned. */
int ledger_assign(struct ledger *l, int32_t partition, struct base_error *err);
/* It is not ours any more. Finished records are dropped; (2) holds for the rest. Not owned: nothing happens. */
void ledger_revoke(struct ledger *l, int32_t partition, ledger_drop_fn *drop, void *context);
bool ledger_owns(const struct ledger *l, int32_t partition);
bool ledger_is_current(const struct ledger *l, int32_t partition, uint64_t epoch);

/* Appends a record as TAKEN. weight: its prompts, 1 at least. ERR_NOTFOUND: not ours; ERR_INPUT: had this offset already. */
int ledger_take(struct ledger *l, int32_t partition, int64_t offset, uint32_t weight, void *item, uint64_t *out_epoch,
                struct base_error *err);
/* false: the record is of an old epoch, and the caller's to free. */
bool ledger_finish(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset);

/* The consumer's position: the offset after the last one that it has handed out or skipped; negative: none yet. Called by the
 * thread that takes, after it has taken. A position that was there before the epoch is not believed. */
void ledger_note_position(struct ledger *l, int32_t partition, int64_t position);

/* Fills batch with finished prefixes, about weight_max of them (one record at least), and with the drained partitions whose
 * position moved. One batch at a time: settle comes before the next collect. ERR_NOMEM: nothing was collected. */
int ledger_collect(struct ledger *l, uint32_t weight_max, struct ledger_batch *batch, struct base_error *err);
/* committed: the records are done and dropped. Else they wait for the next collect, unless their partition has gone. */
void ledger_settle(struct ledger *l, const struct ledger_batch *batch, bool committed, ledger_drop_fn *drop,
                   void *context);
void ledger_batch_done(struct ledger_batch *batch);

/* What was committed of it here, in this epoch; -1: nothing yet. */
int64_t ledger_committed(const struct ledger *l, int32_t partition);
void ledger_count(const struct ledger *l, struct ledger_counts *out);
/* The owned partitions in ascending order; returns how many there are, writes at most n_max. */
uint32_t ledger_partitions(const struct ledger *l, int32_t *out, uint32_t n_max);

#endif
