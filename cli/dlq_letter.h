/* dlq_letter - one record of the dead letter topic as people ask about it. Any bytes whatever may come from there: what does not
 * parse is said, never a reason to stop. */
#ifndef ROUSE_CLI_DLQ_LETTER_H
#define ROUSE_CLI_DLQ_LETTER_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "schemas/dead_letter.h"
#include "schemas/prompt_batch.h"

#define DLQ_HEADERS_MAX 256 /* more are not looked at, and such a letter is not sent */

struct dlq_letter {
    const rd_kafka_message_t *m; /* borrowed; headers point into it */
    struct schema_header headers[DLQ_HEADERS_MAX];
    uint32_t n_headers;
    bool is_cut;                    /* it has more than these */
    struct schema_dead_letter meta; /* zero when unreadable, but for replay_count */
    char unreadable[200];           /* why the headers do not parse; "": they do */
    char code[48], stage[48];       /* as written, so that codes newer than this program can be asked for; "-": none */
    int64_t when_ms;                /* of the last failure, else the record's own time; 0: unknown */
    bool decoded;                   /* whether batch was tried */
    struct schema_prompt_batch *batch; /* NULL: not tried, or no batch */
    char no_batch[256];                /* why */
};

/* Done with dlq_letter_done. */
void dlq_letter_init(struct dlq_letter *l, const rd_kafka_message_t *m);
void dlq_letter_done(struct dlq_letter *l);

/* The value as a batch, decoded at the first call; NULL when it is none. */
const struct schema_prompt_batch *dlq_letter_batch(struct dlq_letter *l);

/* The last header of this name, or NULL. */
const struct schema_header *dlq_letter_header(const struct dlq_letter *l, const char *name);

#endif
