/* publish - what comes of a finished prompt: a completion, and a dead letter if it failed.
 *
 *   the record as a whole is refused   one dead letter with the original bytes; an `error` completion for each prompt, as
 *                                      far as the prompts could be read
 *   a prompt is refused, or failed     a dead letter with that prompt alone (the original bytes if it is the only one), and
 *                                      an `error` completion
 *   anything else                      a completion
 *
 * Sizes are checked before a record goes out: one that is too large for the broker would fail its whole transaction. */
#ifndef ROUSE_WORKER_PUBLISH_H
#define ROUSE_WORKER_PUBLISH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"
#include "worker/job.h"
#include "worker/metrics.h"
#include "worker/prompt_request.h"

struct publish_record {
    bool is_dead_letter;
    const void *key, *value; /* NULL: absent; lent during the call */
    size_t n_key, n_value;
    const struct schema_header *headers; /* [n_headers] */
    uint32_t n_headers;
    bool *refused; /* to be set when the broker says that this record is too large; lives as long as the job */
};

/* 0, or an error that ends publish_job. */
typedef int publish_fn(void *context, const struct publish_record *record, struct base_error *err);

struct publisher {
    const struct worker_identity *identity; /* of prompts that no model answered: the worker's own */
    const char *topic, *group;              /* where the records came from: for dead letters */
    size_t n_bytes_max;                     /* of one record: key, value and headers */
    publish_fn *send;
    void *context;
    struct base_buffer value, header_text; /* scratch */
};

void publish_init(struct publisher *p, const struct worker_identity *identity, const char *topic, const char *group,
                  size_t n_bytes_max, publish_fn *send, void *context);
void publish_done(struct publisher *p);

/* part: the prompt's index. A record that is refused as a whole goes out with part 0; its other parts, which are in the same
 * transaction, add nothing. */
int publish_part(struct publisher *p, struct worker_job *job, uint32_t part, struct base_error *err);

/* Counts what publish_part sent, once its transaction is committed; returns how many prompts were answered. */
uint32_t publish_count(const struct worker_job *job, uint32_t part, struct worker_metrics *metrics);

#endif
