/* completion - completion/1: one record a prompt, key = batch_id. CDDL: schemas/completion.cddl. Unknown keys are ignored. */
#ifndef ROUSE_SCHEMAS_COMPLETION_H
#define ROUSE_SCHEMAS_COMPLETION_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "schemas/codes.h"
#include "schemas/prompt_batch.h"

enum schema_finish { SCHEMA_FINISH_EOS, SCHEMA_FINISH_STOP, SCHEMA_FINISH_LENGTH, SCHEMA_FINISH_EXPIRED, SCHEMA_FINISH_ERROR };
const char *schema_finish_name(enum schema_finish finish); /* "eos", "stop", "length", "expired", "error" */

#define SCHEMA_LOGPROB_MIN (-9999.0f) /* stands for minus infinity, which not every reader of msgpack or JSON takes */

struct schema_token_logprob {
    int32_t id;
    float logprob;
    uint32_t n_top;             /* alternatives, most likely first */
    const int32_t *top_ids;     /* [n_top] */
    const float *top_logprobs;  /* [n_top]; what is not finite is written as SCHEMA_LOGPROB_MIN */
};

struct schema_completion {
    struct schema_string batch_id, id;
    uint32_t index, n_prompts; /* position in the batch, and how many the batch has */
    struct schema_string model, version, snapshot;
    struct schema_string text;
    const int32_t *tokens; /* [n_tokens], without eos and what a stop string cut off */
    uint32_t n_tokens;
    enum schema_finish finish;
    enum schema_code error; /* SCHEMA_OK: none. Given exactly when finish is SCHEMA_FINISH_ERROR */
    struct schema_string error_text;
    uint32_t prompt_tokens, completion_tokens;
    const struct schema_token_logprob *logprobs; /* [n_logprobs]; 0: not asked for */
    uint32_t n_logprobs;
    uint64_t queue_us, prefill_us, decode_us, total_us;
    struct schema_string worker;
    void *memory; /* set by decode */
};

/* Appends the canonical form. Strings without text are written as ""; text that is not UTF-8 is ERR_INTERNAL. */
int schema_completion_encode(const struct schema_completion *c, struct base_buffer *out, struct base_error *err);
/* ERR_INPUT: not a completion/1. An error code that this program does not know reads as SCHEMA_INTERNAL. */
int schema_completion_decode(const void *bytes, size_t n, struct schema_completion **out_c, struct base_error *err);
void schema_completion_free(struct schema_completion *c);

#endif
