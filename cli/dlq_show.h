/* dlq_show - one letter as JSON, for programs; dlq_show.c has it as text. */
#ifndef ROUSE_CLI_DLQ_SHOW_H
#define ROUSE_CLI_DLQ_SHOW_H

#include "cli/dlq_letter.h"

/* A line on stdout: all headers, the key, the batch, or the value's bytes in hex and why they are no batch. */
int dlq_show_json(struct dlq_letter *l, bool replayed, struct base_error *err);

#endif
