/* dlq_edit - a letter's value changed on its way back: keys set in the batch, or whatever a command of the user's makes of it. */
#ifndef ROUSE_CLI_DLQ_EDIT_H
#define ROUSE_CLI_DLQ_EDIT_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/options.h"
#include "cli/dlq_letter.h"

#define DLQ_EDITS_MAX 16

struct dlq_edit {
    const struct base_option_list *sets; /* KEY=VALUE */
    const char *command;                 /* for sh -c; NULL: none */
    uint64_t timeout_s;                  /* of the command */
};

/* Tries the keys on a batch of ours. ERR_USAGE: a key that cannot be set, a value that no batch may have. */
int dlq_edit_check(const struct dlq_edit *e, struct base_error *err);
bool dlq_edit_is_on(const struct dlq_edit *e);

/* The new value into *out: first the keys, then the command. ERR_INPUT: this letter cannot be edited (it is no batch, the
 * command says no or takes too long, what came out is no batch); ERR_STOPPED. */
int dlq_edit_run(const struct dlq_edit *e, const struct dlq_letter *l, struct base_buffer *out, struct base_error *err);

/* The value with the keys set, appended to *out. ERR_INPUT: it is no msgpack map. */
int dlq_edit_sets(const struct dlq_edit *e, const void *value, size_t n, struct base_buffer *out,
                  struct base_error *err);
/* Runs sh -c command, `in` on its standard input, its standard output appended to *out. ROUSE_DLQ_LETTER (PARTITION/OFFSET),
 * ROUSE_DLQ_CODE, ROUSE_DLQ_STAGE and ROUSE_DLQ_MESSAGE are in its environment. */
int dlq_edit_command(const struct dlq_edit *e, const struct dlq_letter *l, const void *in, size_t n,
                     struct base_buffer *out, struct base_error *err);

#endif
