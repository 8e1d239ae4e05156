/* ledger - which prompts of which record of which partition are ours, how far each one is, and what may be committed.
 *
 * A plain data structure: no lock, no Kafka. The worker guards it with one mutex, because the poll thread takes and revokes,
 * the device thread finishes and the commit thread collects and settles.
 *
 * A partition has an epoch, bumped when it comes and when it goes: whoever holds a record of an old epoch learns here that it
 * is nobody's any more. (A fresh group metadata does not fence a partition that has moved: only this does.) Within an epoch
 * the records that were taken lie in a ring, in order of offset, from the first one that is not done. A record has one part
 * for each prompt, at least one:
 *
 *   OPEN -> FINISHED        ledger_finish              PUBLISHING -> DONE       ledger_settle, committed
 *   OPEN -> LEFT            ledger_leave               PUBLISHING -> FINISHED   ledger_settle, not committed
 *   FINISHED -> PUBLISHING  ledger_collect
 *   (new) -> DONE           ledger_take, ledger_pass: the map of the partition's last owner says so
 *
 * (1) The offset to commit is that of the first record that is not done: a crash now replays it. What is done beyond it goes
 *     with it as a progress map (schemas/progress_map.h), in the same transaction as the answers themselves. ledger_collect
 *     is the one place that decides what may be published, and makes both.
 * (2) The map always fits: ledger_has_room counts the worst that can become of what is taken, and nothing is taken beyond it.
 * (3) What the last owner's map says of records that have not come yet stays in every map that is committed.
 * (4) Offsets below the next expected one are refused: Kafka clients have delivered records twice. Gaps are normal
 *     (transaction markers, compaction); an offset that was passed over counts as done with the record behind it.
 * (5) A map says whether its owner still holds the partition. One that is found held had an owner that died: `crashes` counts
 *     those in a row, over the records that may have been in flight then (ledger_deaths). ledger_hold makes sure that this is
 *     committed before the first record is worked on; a closing partition commits that it is not held any more.
 * (6) A drained partition is committed up to the consumer's position, which steps over transaction markers: the lag of an
 *     idle pool reads 0. */
#ifndef ROUSE_WORKER_LEDGER_H
#define ROUSE_WORKER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "schemas/progress_map.h"

#define LEDGER_PARTITIONS_MAX 100000                      /* partition numbers are below this */
#define LEDGER_PARTS_MAX      SCHEMA_PROGRESS_PROMPTS_MAX /* of one record */
#define LEDGER_SUSPECTS       1024                        /* offsets from the first that was open at a crash */
#define LEDGER_RECORDS_MAX    (1u << 20) /* of one partition, from the first that is not done: 40 MiB of ring */

struct ledger;

/* One part that is being published. */
struct ledger_item {
    void *item; /* its record's */
    int32_t partition;
    uint32_t part;
    int64_t offset;
};

/* What a commit says of one partition. */
struct ledger_span {
    int32_t partition;
    uint64_t epoch;
    int64_t next;                            /* the offset to commit: everything below it is done */
    uint32_t first_item, n_items;            /* what becomes done with it, in ledger_batch.items; may be none */
    bool held;                               /* what the map says of it */
    uint32_t crashes;                        /* the same */
    char map[SCHEMA_PROGRESS_CHARS_MAX + 1]; /* the metadata to commit */
};

/* What one transaction carries. The arrays are kept from one collect to the next. */
struct ledger_batch {
    struct ledger_item *items;
    struct ledger_span *spans;
    uint32_t n_items, n_items_max, n_spans, n_spans_max;
};

struct ledger_counts {
    uint32_t partitions; /* owned */
    uint32_t records;    /* taken and not done */
    uint32_t ready;      /* finished parts that are not being published */
    uint32_t idle;       /* partitions with something to commit that is no record */
    uint32_t urgent;     /* of those, where somebody waits for it */
};

/* Of one partition. */
struct ledger_state {
    uint64_t epoch;
    bool owned, closing;
    uint32_t open;      /* parts that are OPEN */
    uint32_t unsettled; /* parts that are FINISHED or PUBLISHING, and a map that is to be committed: on their way out */
    uint32_t records;   /* taken and not done */
    uint32_t window;    /* records in the ring: from the first that is not done to the last that was taken */
    int64_t first;      /* the offset of the first record that is not done; -1: none */
    int64_t committed;  /* in this epoch, or as the last owner left it; -1: nothing */
};

/* The ledger does not refer to item any more. */
typedef void ledger_drop_fn(void *context, void *item);

/* writer: named in every map; "": none. */
int ledger_new(const char *writer, struct ledger **out_ledger, struct base_error *err);
void ledger_free(struct ledger *l); /* forgets what is inside: items are the caller's */
void ledger_set_writer(struct ledger *l, const char *writer);

/* The partition is ours from now on, under a new epoch. Must not be owned. committed: the group's offset; negative: none.
 * progress: what came with it; NULL: nothing. Taken over on success. now_ms: wall clock. */
int ledger_assign(struct ledger *l, int32_t partition, int64_t committed, struct schema_progress *progress,
                  int64_t now_ms, struct base_error *err);
/* It will be revoked: nothing more is taken; what is open may still finish and be published. */
void ledger_close(struct ledger *l, int32_t partition);
/* It is not ours any more: the ledger drops all its records. Not owned: nothing happens. */
void ledger_revoke(struct ledger *l, int32_t partition, ledger_drop_fn *drop, void *context);
bool ledger_owns(const struct ledger *l, int32_t partition);
bool ledger_is_current(const struct ledger *l, int32_t partition, uint64_t epoch);
bool ledger_is_closing(const struct ledger *l, int32_t partition,
                       uint64_t epoch); /* or gone: what has not begun need not */
bool ledger_state(const struct ledger *l, int32_t partition, struct ledger_state *out); /* false: not owned */

/* Whether another record may be asked for: a map with it would fit whatever becomes of it. */
bool ledger_has_room(const struct ledger *l, int32_t partition);

enum ledger_record { LEDGER_RECORD_NEW, LEDGER_RECORD_DONE, LEDGER_RECORD_AGAIN, LEDGER_RECORD_FOREIGN };
/* What to do with a record that came: take it; pass it, it was answered; drop it, it came before; drop it, its partition is
 * not ours. Changes nothing. */
enum ledger_record ledger_look(struct ledger *l, int32_t partition, int64_t offset);
/* Notes a record that was answered by an earlier owner. */
int ledger_pass(struct ledger *l, int32_t partition, int64_t offset, struct base_error *err);
/* Appends a record that ledger_look called NEW. done: bits of [n_parts], set to those that an earlier owner has answered: they
 * are not finished here. ERR_NOMEM, ERR_INPUT: too many parts. */
int ledger_take(struct ledger *l, int32_t partition, int64_t offset, uint32_t n_parts, void *item, uint64_t *out_epoch,
                uint8_t *done, struct base_error *err);
/* false: the record is of an old epoch. A record whose parts are all finished at once is published as a whole. */
bool ledger_finish(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset, uint32_t part);
/* Whether the group knows that we hold the partition; if not, it is told with the next commit. */
bool ledger_hold(struct ledger *l, int32_t partition);
/* How many owners died while this record may have been in flight, by the maps. timestamp_ms: the record's; 0: unknown.
 * assigned_ms, of ledger_assign: what is younger was not there. From the limit-th on all but the first open record count as one
 * less: suspects are worked on one by one, in order, so that one was it. */
uint32_t ledger_deaths(const struct ledger *l, int32_t partition, int64_t offset, int64_t timestamp_ms, uint32_t limit);
/* Whether any part of the record is not DONE. Of another epoch: false. */
bool ledger_is_open(const struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset);
bool ledger_finish_all(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset);
/* An OPEN part that will not be finished here, because its partition is closing. */
void ledger_leave(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset, uint32_t part);

/* The consumer's position: the offset after the last one that it has handed out or skipped; negative: none yet. Called by the
 * thread that takes, after it has taken. A position that was there before the epoch is not believed. */
void ledger_note_position(struct ledger *l, int32_t partition, int64_t position);

/* Fills batch with finished parts, about n_max of them (all of one record's at a time), and with the partitions whose position
 * moved. One batch at a time: settle comes before the next collect. ERR_NOMEM: nothing was collected. */
int ledger_collect(struct ledger *l, uint32_t n_max, struct ledger_batch *batch, struct base_error *err);
/* committed: its parts are done; records without other parts are dropped. Else they wait for the next collect. What has moved
 * away in between was dropped before. */
void ledger_settle(struct ledger *l, const struct ledger_batch *batch, bool committed, ledger_drop_fn *drop,
                   void *context);
void ledger_batch_done(struct ledger_batch *batch);

/* What was committed of it here, in this epoch; -1: nothing yet. */
int64_t ledger_committed(const struct ledger *l, int32_t partition);
void ledger_count(const struct ledger *l, struct ledger_counts *out);
/* The owned partitions in ascending order; returns how many there are, writes at most n_max. */
uint32_t ledger_partitions(const struct ledger *l, int32_t *out, uint32_t n_max);

#endif
