/* prompt_request - from a prompt as producers write it to a request that the engine takes, and from the engine's result to
 * the completion that consumers read. The worker and `rouse generate` share this, so that both answer alike. */
#ifndef ROUSE_WORKER_PROMPT_REQUEST_H
#define ROUSE_WORKER_PROMPT_REQUEST_H

#include "base/error.h"
#include "gpu/device.h"
#include "model/tokenizer.h"
#include "schemas/completion.h"
#include "schemas/prompt_batch.h"
#include "worker/engine.h"

#define WORKER_MAX_TOKENS_DEFAULT 64

/* Tokenises, maps the sampling fields over model_sampling_default, draws a random seed when none was given. On success the
 * caller owns request.prompt (until engine_submit takes it) and request.stops, which must live until the result is out:
 * worker_request_done. ERR_INPUT: out_code and out_stage say why and where. */
int worker_request_make(const struct schema_prompt *prompt, const struct model_tokenizer *tokenizer,
                        const struct gpu_plan *plan, struct engine_request *out_request, enum schema_code *out_code,
                        enum schema_stage *out_stage, struct base_error *err);
void worker_request_done(struct engine_request *request); /* frees prompt and stops */

/* What every completion of one worker says of its model; strings are borrowed. */
struct worker_identity {
    const char *model, *version, *snapshot, *worker;
};

/* Fills c from a result; strings and arrays are borrowed from batch, prompt, result and identity. logprobs: [n_tokens],
 * filled and lent by the caller when result->sampled is not NULL. */
void worker_completion_make(const struct schema_string *batch_id, const struct schema_prompt *prompt, uint32_t index,
                            uint32_t n_prompts, const struct worker_identity *identity,
                            const struct engine_result *result, struct schema_token_logprob *logprobs,
                            struct schema_completion *c);

/* The completion of a prompt that was refused. */
void worker_completion_refuse(const struct schema_string *batch_id, const struct schema_prompt *prompt, uint32_t index,
                              uint32_t n_prompts, const struct worker_identity *identity, enum schema_code code,
                              const char *why, struct schema_completion *c);

#endif
