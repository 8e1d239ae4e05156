/* dlq_verify - after a replay: is each letter on its target, once, with the bytes it was sent with? */
#ifndef ROUSE_CLI_DLQ_VERIFY_H
#define ROUSE_CLI_DLQ_VERIFY_H

#include "base/error.h"
#include "worker/publish.h"

struct dlq_expected {
    int64_t offset;
    const char *topic; /* borrowed from the table of targets */
    uint64_t digest;   /* of key and value; 0: sent by an earlier run, unknown */
    int32_t partition;
    uint32_t n_found, n_other; /* n_other: found with other bytes */
};

struct dlq_verify {
    struct dlq_expected *items;
    size_t n, capacity;
};

/* record NULL: an earlier run of this round sent it. topic NULL: not looked for. */
int dlq_verify_expect(struct dlq_verify *v, int32_t partition, int64_t offset, const struct publish_record *record,
                      const char *topic, struct base_error *err);
/* ERR_CORRUPT: one is missing, there more than once, or has other bytes; the first few are named on stderr. */
int dlq_verify_run(struct dlq_verify *v, const char *round, bool json, struct base_error *err);
void dlq_verify_done(struct dlq_verify *v);

#endif
