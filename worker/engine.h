/* engine - generation: continuous batching over a model's paged KV. Used by the worker and by `rouse generate`.
 *
 * Requests wait in one queue, by priority, then age. Each step takes every decoding sequence's next token and fills the
 * rest of the token budget with prefill chunks of admitted prompts, oldest first, so a long prompt does not hold up the
 * others. A request is admitted when a sequence slot and all the KV blocks that it can ever need are free: an admitted request
 * always finishes, nothing is preempted, nothing deadlocks. Finished requests come out in the order in which they finish.
 *
 * Single-threaded: the device thread drives it. engine_submit may fail with ERR_AGAIN (queue full: bounded whatever comes).
 *
 *   WAITING -> PREFILL   engine_step (admission)        any -> DONE  engine_step, engine_cancel
 *   PREFILL -> DECODE    engine_step (last chunk done)
 *
 * (1) The tokens of a request depend on its prompt, its sampling and the model alone.
 * (2) A request past its deadline when it would be admitted is answered EXPIRED without work. */
#ifndef ROUSE_WORKER_ENGINE_H
#define ROUSE_WORKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "gpu/device.h"
#include "model/sampler.h"
#include "model/text_stream.h"
#include "model/tokenizer.h"
#include "schemas/completion.h"

struct engine;

struct engine_request {
    void *tag;           /* the caller's; comes back with the result */
    int32_t *prompt;     /* [n_prompt] malloc'ed: submit takes it over on success */
    uint32_t n_prompt;   /* >= 1 */
    uint32_t max_tokens; /* >= 1; cut so that prompt and completion fit the context */
    struct model_sampling sampling;
    struct model_stop *stops; /* [n_stops] borrowed until the result is out */
    uint32_t n_stops;
    bool ignore_eos;
    bool logprobs;       /* keep what was sampled, with sampling.n_logprobs alternatives a token */
    int32_t priority;    /* higher first */
    int64_t deadline_ms; /* wall clock; 0: none */
    uint64_t arrived_ns; /* monotonic: when the queue time began; 0: now */
};

struct engine_result {
    void *tag;
    enum schema_finish finish;
    struct base_error error; /* when finish is SCHEMA_FINISH_ERROR */
    struct base_buffer text; /* owned: base_buffer_done */
    int32_t *tokens; /* [n_tokens] owned: without eos, and without tokens that lie behind the start of a stop string */
    uint32_t n_tokens;
    uint32_t n_prompt, n_generated; /* usage: generated counts every sampled token, eos too */
    struct model_sampled *sampled;  /* [n_tokens] owned, only when logprobs were asked for; else NULL */
    uint64_t queue_us, prefill_us, decode_us, total_us;
    uint64_t first_token_ns; /* monotonic; 0: none */
    bool text_too_long;
};

struct engine_limits {
    uint32_t n_waiting_max; /* requests in the queue; 0: 1024 */
};

struct engine_counts { /* for metrics; monotonic but for the first four */
    uint32_t waiting, running, blocks_used, blocks;
    uint64_t steps, prompt_tokens, generated_tokens, finished;
    uint64_t step_ns; /* spent inside steps */
};

/* Borrows model and tokenizer until engine_free. */
int engine_new(struct gpu_model *model, const struct model_tokenizer *tokenizer, const struct engine_limits *limits,
               struct engine **out_engine, struct base_error *err);
void engine_free(struct engine *e); /* requests still inside are dropped */

/* 0: taken over. ERR_AGAIN: full. ERR_INPUT: the prompt is longer than the context or than all the KV blocks can hold, a token is outside
 * the vocabulary, or a sampling value is out of range; the text says the numbers. */
int engine_submit(struct engine *e, const struct engine_request *request, struct base_error *err);

/* One step of work. *out_busy: whether there is more to do. ERR_*: the device failed and nothing has changed: what the step
 * held is where it was, and the next call tries the same again. */
int engine_step(struct engine *e, bool *out_busy, struct base_error *err);

/* The next finished request; false when there is none. The caller owns what is in it: engine_result_done. */
bool engine_take(struct engine *e, struct engine_result *out_result);
void engine_result_done(struct engine_result *r);

/* Ends all requests for which match returns true (waiting or running) without a result; returns how many. The tag is the
 * caller's again. */
uint32_t engine_cancel(struct engine *e, bool (*match)(void *context, void *tag), void *context);
uint32_t engine_cancel_waiting(struct engine *e, bool (*match)(void *context, void *tag),
                               void *context); /* not begun yet */

void engine_counts(const struct engine *e, struct engine_counts *out);

#endif
