/* dead_letter - the headers of a dead letter; its key and value are the original bytes. CDDL: schemas/dead_letter.cddl.
 *
 * Kafka's own names (KIP-1191) and ours beside them, decimal text, 4 KiB in all; the first origin is kept when a letter fails
 * again; no stack traces. Headers of the original record that are not ours travel on, as far as they fit. */
#ifndef ROUSE_SCHEMAS_DEAD_LETTER_H
#define ROUSE_SCHEMAS_DEAD_LETTER_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "schemas/codes.h"

#define SCHEMA_DEAD_LETTER_HEADERS_MAX 64
#define SCHEMA_DEAD_LETTER_BYTES_MAX   4096 /* names and values together */

struct schema_header {
    const char *name;
    const void *value; /* may be NULL */
    size_t n;
};

struct schema_dead_letter {
    char topic[250], group[256], worker[128], message[1024];
    char traceparent[64]; /* W3C trace context, as the producer sent it */
    char replay_id[64];   /* of the replay run that put the record back */
    char replay_of[300];  /* which dead letter that was: topic/partition/offset in the dead letter topic */
    int32_t partition; /* topic, partition, offset: where the record was read first */
    int64_t offset;
    uint32_t delivery_count; /* attempts so far, this one included */
    enum schema_code code;
    enum schema_stage stage;
    int64_t orig_timestamp_ms, first_failed_ms, last_failed_ms; /* 0: unknown */
    uint32_t replay_count;
};

/* The headers to write: the letter's own, then foreign headers of the original record, in their order, each that still fits.
 * What is empty or 0 among worker, traceparent, the times and the replay fields is left out. Own values are text in
 * *memory, which the caller clears after use; foreign ones stay where they are. If the original was itself a dead letter
 * or a replay (its headers say so), topic, partition, offset, original time and first failure come from there, and so do the
 * traceparent and the replay fields that the letter does not give. Returns the number of headers; 0: memory ran out. */
uint32_t schema_dead_letter_headers(const struct schema_dead_letter *letter, const struct schema_header *original,
                                    uint32_t n_original, struct base_buffer *memory,
                                    struct schema_header out[SCHEMA_DEAD_LETTER_HEADERS_MAX]);

/* From headers of a record; of one name the last counts, unknown ones are ignored, missing ones left 0. ERR_INPUT for text
 * that does not parse. An error code that this program does not know reads as SCHEMA_INTERNAL. */
int schema_dead_letter_parse(const struct schema_header *headers, uint32_t n, struct schema_dead_letter *out_letter,
                             struct base_error *err);

#endif
