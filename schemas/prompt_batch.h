/* prompt_batch - prompt-batch/1: what a producer puts on the topic. CDDL: schemas/prompt_batch.cddl.
 *
 * Everything in a decoded batch lives until schema_prompt_batch_free. Two kinds of fault: bytes that are no batch fail the
 * whole (decode returns ERR_INPUT); a prompt that breaks a rule carries its own error, and its neighbours are fine. A prompt
 * whose id is missing, unusable or taken by an earlier one is called by its index, "#3". Unknown keys are ignored. */
#ifndef ROUSE_SCHEMAS_PROMPT_BATCH_H
#define ROUSE_SCHEMAS_PROMPT_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "schemas/codes.h"

struct schema_string {
    const char *text; /* NUL-terminated copy; NULL: absent. n counts bytes and may include NULs of its own */
    size_t n;
};

/* Which fields of a schema_sampling were given (in the prompt, or else in the batch's defaults). */
enum {
    SCHEMA_HAS_MAX_TOKENS = 1 << 0,
    SCHEMA_HAS_TEMPERATURE = 1 << 1,
    SCHEMA_HAS_TOP_K = 1 << 2,
    SCHEMA_HAS_TOP_P = 1 << 3,
    SCHEMA_HAS_MIN_P = 1 << 4,
    SCHEMA_HAS_REPETITION_PENALTY = 1 << 5,
    SCHEMA_HAS_STOP = 1 << 6,
    SCHEMA_HAS_SEED = 1 << 7,
    SCHEMA_HAS_LOGPROBS = 1 << 8,
    SCHEMA_HAS_PRIORITY = 1 << 9,
    SCHEMA_HAS_IGNORE_EOS = 1 << 10
};

struct schema_sampling {
    uint32_t has;
    uint32_t max_tokens; /* 1..limits.max_tokens_max */
    double temperature;        /* [0, 100] */
    double top_p, min_p;       /* (0, 1], [0, 1] */
    double repetition_penalty; /* (0, 100] */
    uint32_t top_k;            /* 0..2^31 - 1; 0: off */
    uint64_t seed;
    uint32_t logprobs; /* 0..20 */
    int32_t priority;  /* -1000..1000, higher first */
    bool ignore_eos;   /* go on to max_tokens */
    const struct schema_string *stop; /* [n_stop] */
    uint32_t n_stop;
};

struct schema_prompt {
    struct schema_string id;   /* unique among the prompts without an error; a refused one's "#3" may be another's as well */
    struct schema_string text; /* exactly one of text and tokens is given */
    const int32_t *tokens;     /* [n_tokens] */
    uint32_t n_tokens;
    struct schema_sampling sampling; /* defaults already merged in */
    enum schema_code error;          /* SCHEMA_OK, or why this prompt alone is refused */
    const char *error_text;          /* names field, value and limit; NULL when fine */
};

struct schema_prompt_batch {
    struct schema_string batch_id;
    struct schema_string model; /* absent: the worker's own */
    int64_t created_ms, deadline_ms; /* 0: absent */
    struct schema_prompt *prompts;   /* [n_prompts] */
    uint32_t n_prompts;
    void *memory; /* holds all of the above; set by decode */
};

struct schema_batch_limits {
    size_t bytes_max;        /* 8 MiB: of one record */
    uint32_t prompts_max;    /* 1024 */
    size_t text_bytes_max;   /* 1 MiB: of one prompt's text */
    uint32_t tokens_max;     /* 131072: given as tokens */
    uint32_t max_tokens_max; /* 32768 */
    uint32_t stops_max;      /* 16 */
    size_t stop_bytes_max;   /* 256 */
    size_t id_bytes_max;     /* 256: batch_id, id and model */
};
extern const struct schema_batch_limits schema_batch_limits_default;

/* limits NULL: the defaults. On ERR_INPUT out_code (may be NULL) says why. */
int schema_prompt_batch_decode(const void *bytes, size_t n, const struct schema_batch_limits *limits,
                               struct schema_prompt_batch **out_batch, enum schema_code *out_code, struct base_error *err);
void schema_prompt_batch_free(struct schema_prompt_batch *batch);

/* Appends the canonical form: keys in the order of the CDDL, shortest encodings, only fields that `has` names. The memory
 * field is not used: a caller may fill the struct by hand. */
int schema_prompt_batch_encode(const struct schema_prompt_batch *batch, struct base_buffer *out, struct base_error *err);

/* The same bytes' batch cut down to one prompt, all else byte for byte (unknown keys too): the value of that prompt's dead
 * letter. ERR_INPUT: no batch, or no such prompt. */
int schema_prompt_batch_single(const void *bytes, size_t n, uint32_t index, struct base_buffer *out, struct base_error *err);

#endif
