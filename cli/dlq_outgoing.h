/* dlq_outgoing - what a letter becomes on its way back, or why it is left where it is.
 *
 *   MADE -> with the batch that sends it (dlq_outbox), or dlq_outgoing_done */
#ifndef ROUSE_CLI_DLQ_OUTGOING_H
#define ROUSE_CLI_DLQ_OUTGOING_H

#include "cli/dlq_edit.h"
#include "cli/dlq_ledger.h"
#include "cli/dlq_letter.h"
#include "cli/dlq_route.h"
#include "cli/dlq_sender.h"

enum dlq_skip {
    DLQ_SKIP_REPLAYED,
    DLQ_SKIP_LOOP,
    DLQ_SKIP_UNREADABLE,
    DLQ_SKIP_NO_TARGET,
    DLQ_SKIP_EDIT,
    DLQ_SKIP_TOO_LARGE,
    DLQ_SKIP_N
};
extern const char *const dlq_skip_names[DLQ_SKIP_N];

/* How letters are made; the same for all of a run. */
struct dlq_maker {
    const char *to, *round, *run_id; /* to NULL: each to the topic it came from */
    bool any_round;                  /* a letter of whatever round counts as replayed */
    uint64_t replay_max;
    const struct dlq_edit *edit;
    struct dlq_ledger *ledger;
    struct dlq_route route;
    struct base_buffer edited; /* scratch */
};

struct dlq_outgoing {
    struct dlq_record record; /* borrows from the letter's message, and from these: */
    void *headers;
    uint8_t *edited;
};

/* 0: made, into *out. 1 + enum dlq_skip: it is left, and `why` has the particulars, or is empty. Negative: an error. */
int dlq_outgoing_make(struct dlq_maker *m, struct dlq_letter *l, struct dlq_outgoing *out, char why[256],
                      struct base_error *err);
void dlq_outgoing_done(struct dlq_outgoing *o);

#endif
