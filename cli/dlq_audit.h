/* dlq_audit - the audit file of a replay, JSON lines: what becomes of each selected letter, on the disk before its transaction commits;
 * then, that the transaction is committed. A letter counts as sent when its transaction has such a line; the next run writes the one that
 * a killed run could not. */
#ifndef ROUSE_CLI_DLQ_AUDIT_H
#define ROUSE_CLI_DLQ_AUDIT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/error.h"

struct dlq_audit {
    FILE *file; /* NULL: none is wanted, and all of this does nothing */
    const char *path, *dlq;
    struct base_buffer line;
};

int dlq_audit_open(struct dlq_audit *a, const char *path, const char *dlq,
                   struct base_error *err); /* appends; path may be NULL */
void dlq_audit_close(struct dlq_audit *a);
/* why NULL: it is sent, to `to`, in transaction `token`. */
void dlq_audit_letter(struct dlq_audit *a, int32_t partition, int64_t offset, const char *why, const char *to,
                      const char *token);
void dlq_audit_committed(struct dlq_audit *a, const char *token, uint64_t n_letters, bool learned);
int dlq_audit_sync(struct dlq_audit *a, struct base_error *err);

#endif
