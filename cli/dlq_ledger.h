/* dlq_ledger - which letters were put back: a bit a letter, in a compacted topic beside the dead letter topic, "<dlq>.replayed".
 *
 * A record is a page, its key "1/<round>/<partition>/<page>" and its value the bits of DLQ_PAGE_BITS offsets, trimmed of zero bytes at the
 * end. The newest record of a key holds. Pages go out in the transaction that carries the letters, so that a letter is sent exactly when
 * its bit is set. A round is one time of putting back: round "first", and what --again names.
 *
 * (1) The reader of a ledger that wants to write must have fenced its predecessor before it reads.
 * (2) Bits are only ever set. */
#ifndef ROUSE_CLI_DLQ_LEDGER_H
#define ROUSE_CLI_DLQ_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DLQ_PAGE_BYTES 512
#define DLQ_PAGE_BITS  (DLQ_PAGE_BYTES * 8)

struct dlq_page {
    int64_t number; /* offset / DLQ_PAGE_BITS */
    bool dirty;
    uint8_t mine[DLQ_PAGE_BYTES], any[DLQ_PAGE_BYTES]; /* of this round; of all */
};

struct dlq_pages { /* of one partition, sorted by number */
    struct dlq_page **items;
    size_t n, capacity, last; /* last: where the last search ended */
};

struct dlq_ledger {
    const char *round;
    int32_t n_partitions;
    struct dlq_pages *partitions;
    uint64_t n_strange; /* records that are no pages */
};

int dlq_ledger_init(struct dlq_ledger *l, const char *round, int32_t n_partitions, struct base_error *err);
void dlq_ledger_done(struct dlq_ledger *l);

/* One record of the ledger topic. What is no page is counted and left. ERR_NOMEM. */
int dlq_ledger_take(struct dlq_ledger *l, const void *key, size_t n_key, const void *value, size_t n_value,
                    struct base_error *err);
bool dlq_ledger_has(struct dlq_ledger *l, int32_t partition, int64_t offset, bool any_round);
int dlq_ledger_set(struct dlq_ledger *l, int32_t partition, int64_t offset,
                   struct base_error *err);                            /* and the page is dirty */
int64_t dlq_ledger_end(const struct dlq_ledger *l, int32_t partition); /* behind the last bit of any round */

/* The key and value of a page of this round. n_value 0: no bit is set. */
void dlq_ledger_key(const struct dlq_ledger *l, int32_t partition, const struct dlq_page *page, char *out, size_t size);
size_t dlq_ledger_value(const struct dlq_page *page);

/* Reads what is committed of `topic`; a topic that does not exist is an empty ledger, unless it must. */
int dlq_ledger_load(struct dlq_ledger *l, const char *topic, bool must_exist, struct base_error *err);
int dlq_ledger_create_topic(const char *topic, struct base_error *err); /* one that exists is fine */
/* The topic's offsets are behind what the ledger knows: it is another topic of that name. ERR_INPUT. */
int dlq_ledger_check(const struct dlq_ledger *l, const char *topic, const int64_t *ends, struct base_error *err);

#endif
