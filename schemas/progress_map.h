/* progress_map - what is done beyond the committed offset of a partition, as the text that travels in the offset's commit
 * metadata. CDDL: schemas/progress_map.cddl.
 *
 * Records of a partition are answered in any order, prompts of one record too. The committed offset is the base: everything
 * below it is done. The map names the records above it that are done, and of those that are partly done the prompts; whoever
 * owns the partition next skips exactly these. It also names its writer by transactional id, so that a successor can end the
 * transaction that a dead owner left open, and carries what is known of owners that died.
 *
 * The text is "r1:" and base64 (RFC 4648, with padding) of bytes, because brokers keep 4096 characters and clients mangle
 * raw bytes. Unsigned LEB128 is written as `varint`:
 *
 *   varint flags          1: the body is bits, else runs; 2: held
 *   varint crashes, varint suspects, varint n_writer, u8[n_writer] writer (UTF-8)
 *   varint span           offsets [base, base + span) are described; above it nothing is done
 *   body, as runs         varint open, varint done, varint open, ... lengths that add up to span
 *   body, as bits         u8[ceil(span / 8)]: bit i % 8 of byte i / 8 is 1 when base + i is done
 *   varint n_partial      records that are partly done; for each:
 *     varint delta          its offset less base, or less the one before it
 *     varint n_prompts, u8[ceil(n_prompts / 8)]: bit i % 8 of byte i / 8 is 1 when prompt i is done */
#ifndef ROUSE_SCHEMAS_PROGRESS_MAP_H
#define ROUSE_SCHEMAS_PROGRESS_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SCHEMA_PROGRESS_CHARS_MAX  4096 /* what a broker takes: offset.metadata.max.bytes */
#define SCHEMA_PROGRESS_BYTES_MAX  3069 /* before base64 */
#define SCHEMA_PROGRESS_WRITER_MAX 255
#define SCHEMA_PROGRESS_HEAD_MAX                                                                                       \
    (5 * 10 + SCHEMA_PROGRESS_WRITER_MAX) /* of these, before body and partly done records */
#define SCHEMA_PROGRESS_PROMPTS_MAX 1024  /* of one record: as a prompt batch */

struct schema_progress_run {
    int64_t from, end; /* offsets [from, end) are done */
};

struct schema_progress_partial {
    int64_t offset;
    uint32_t n_prompts;
    const uint8_t *done; /* [ceil(n_prompts / 8)], bits */
};

struct schema_progress {
    int64_t base;                           /* the offset that is committed with it; not in the text */
    const char *writer;                     /* transactional id; "": not said */
    bool held;                              /* its owner had work in flight when it wrote this, and has not come back */
    uint32_t crashes;                       /* owners in a row that died holding the partition */
    int64_t suspects_end;                   /* records below it were in flight then; base: none */
    const struct schema_progress_run *runs; /* [n_runs] ascending, apart from each other, none below base */
    const struct schema_progress_partial *partials; /* [n_partials] ascending, none inside a run or below base */
    uint32_t n_runs, n_partials;
    void *memory; /* set by decode */
};

/* Writes the shorter of the two forms, NUL-terminated. ERR_INPUT: it does not fit. */
int schema_progress_encode(const struct schema_progress *p, char out[SCHEMA_PROGRESS_CHARS_MAX + 1],
                           struct base_error *err);

/* text: [n] as committed at offset base. ERR_NOTFOUND: not one of ours (empty, or another program's): nothing is known beyond
 * base. ERR_INPUT: ours but damaged, or of a newer version. ERR_NOMEM. */
int schema_progress_decode(const char *text, size_t n, int64_t base, struct schema_progress **out_progress,
                           struct base_error *err);
void schema_progress_free(struct schema_progress *p);

/* Bits, as in schema_progress_partial. */
static inline bool schema_progress_bit(const uint8_t *bits, uint32_t i)
{
    return bits[i / 8] >> (i % 8) & 1;
}
static inline void schema_progress_bit_set(uint8_t *bits, uint32_t i)
{
    bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

#endif
