#include "worker/prompt_request.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/failpoint.h"

#define IDS_COUNTED_MAX (1u << 20) /* a text with more tokens than this is refused without saying how many it has */

/* Unseeded prompts of two workers restored from one snapshot must not draw alike: the seed comes from the kernel, now. */
static uint64_t random_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = base_clock_mono_ns() * 0x9e3779b97f4a7c15u;
    return seed;
}

static void sampling_make(const struct schema_sampling *from, struct engine_request *r)
{
    struct model_sampling *to = &r->sampling;
    *to = model_sampling_default;
    r->max_tokens = from->has & SCHEMA_HAS_MAX_TOKENS ? from->max_tokens : WORKER_MAX_TOKENS_DEFAULT;
    if (from->has & SCHEMA_HAS_TEMPERATURE)
        to->temperature = (float)from->temperature;
    if (from->has & SCHEMA_HAS_TOP_K)
        to->top_k = from->top_k;
    if (from->has & SCHEMA_HAS_TOP_P)
        to->top_p = (float)from->top_p;
    if (from->has & SCHEMA_HAS_MIN_P)
        to->min_p = (float)from->min_p;
    if (from->has & SCHEMA_HAS_REPETITION_PENALTY)
        to->repetition_penalty = (float)from->repetition_penalty;
    to->seed = from->has & SCHEMA_HAS_SEED && !MUTANT(seed_ignored) ? from->seed : random_seed();
    to->n_logprobs = from->has & SCHEMA_HAS_LOGPROBS ? from->logprobs : 0;
    r->logprobs = to->n_logprobs > 0;
    r->priority = from->has & SCHEMA_HAS_PRIORITY ? from->priority : 0;
    r->ignore_eos = (from->has & SCHEMA_HAS_IGNORE_EOS) && from->ignore_eos;
}

static int stops_make(const struct schema_sampling *from, struct engine_request *r, struct base_error *err)
{
    if (!(from->has & SCHEMA_HAS_STOP) || from->n_stop == 0)
        return 0;
    r->stops = malloc(from->n_stop * sizeof *r->stops);
    if (!r->stops)
        return base_fail(err, ERR_NOMEM, "out of memory for %u stop strings", from->n_stop);
    for (uint32_t i = 0; i < from->n_stop; i++)
        r->stops[i] = (struct model_stop){from->stop[i].text, from->stop[i].n};
    r->n_stops = from->n_stop;
    return 0;
}

static int prompt_ids(const struct schema_prompt *prompt, const struct model_tokenizer *tokenizer, size_t n_max,
                      struct engine_request *r, struct base_error *err)
{
    if (!prompt->text.text) {
        r->prompt = malloc(((size_t)prompt->n_tokens + 1) * sizeof *r->prompt);
        if (!r->prompt)
            return base_fail(err, ERR_NOMEM, "out of memory for %u tokens", prompt->n_tokens);
        memcpy(r->prompt, prompt->tokens, prompt->n_tokens * sizeof *r->prompt);
        r->n_prompt = prompt->n_tokens;
        return 0;
    }
    size_t n = 0;
    int rc = model_tokenizer_encode(tokenizer, prompt->text.text, prompt->text.n, n_max, &r->prompt, &n, err);
    if (rc == 0)
        r->n_prompt = (uint32_t)n;
    return rc;
}

int worker_request_make(const struct schema_prompt *prompt, const struct model_tokenizer *tokenizer,
                        const struct gpu_plan *plan, struct engine_request *out_request, enum schema_code *out_code,
                        enum schema_stage *out_stage, struct base_error *err)
{
    struct engine_request r = {.arrived_ns = base_clock_mono_ns()};
    *out_stage = SCHEMA_STAGE_DECODE;
    *out_code = prompt->error;
    if (prompt->error != SCHEMA_OK)
        return base_fail(err, ERR_INPUT, "%s", prompt->error_text);

    sampling_make(&prompt->sampling, &r);
    int rc = stops_make(&prompt->sampling, &r, err);
    *out_stage = SCHEMA_STAGE_TOKENIZE;
    *out_code = SCHEMA_INTERNAL;
    if (rc < 0)
        goto fail;
    rc = prompt_ids(prompt, tokenizer, IDS_COUNTED_MAX, &r, err);
    *out_code = rc == ERR_INPUT ? SCHEMA_PROMPT_TOO_LONG : SCHEMA_INTERNAL;
    if (rc < 0)
        goto fail;

    *out_stage = SCHEMA_STAGE_ADMIT;
    if (r.n_prompt >= plan->limits.n_ctx_max) {
        *out_code = SCHEMA_PROMPT_TOO_LONG;
        rc = base_fail(err, ERR_INPUT, "the prompt has %u tokens; the context holds %u, one of them to generate",
                       r.n_prompt, plan->limits.n_ctx_max);
        goto fail;
    }
    *out_code = SCHEMA_BAD_VALUE;
    if (r.n_prompt == 0) {
        rc = base_fail(err, ERR_INPUT, "the prompt is empty");
        goto fail;
    }
    rc = model_sampling_check(&r.sampling, err);
    if (rc < 0)
        goto fail;
    *out_code = SCHEMA_OK;
    *out_request = r;
    return 0;
fail:
    worker_request_done(&r);
    return rc;
}

void worker_request_done(struct engine_request *request)
{
    free(request->prompt);
    free(request->stops);
    request->prompt = NULL;
    request->stops = NULL;
}

static struct schema_string string_of(const char *text)
{
    return (struct schema_string){text, text ? strlen(text) : 0};
}

static void completion_begin(const struct schema_string *batch_id, const struct schema_prompt *prompt, uint32_t index,
                             uint32_t n_prompts, const struct worker_identity *identity, struct schema_completion *c)
{
    *c = (struct schema_completion){
        .batch_id = *batch_id,
        .id = prompt->id,
        .index = index,
        .n_prompts = n_prompts,
        .model = string_of(identity->model),
        .version = string_of(identity->version),
        .snapshot = string_of(identity->snapshot),
        .worker = string_of(identity->worker),
        .text = string_of(""),
    };
}

void worker_completion_make(const struct schema_string *batch_id, const struct schema_prompt *prompt, uint32_t index,
                            uint32_t n_prompts, const struct worker_identity *identity,
                            const struct engine_result *result, struct schema_token_logprob *logprobs,
                            struct schema_completion *c)
{
    completion_begin(batch_id, prompt, index, n_prompts, identity, c);
    c->finish = result->finish;
    c->prompt_tokens = result->n_prompt;
    c->completion_tokens = result->n_generated;
    c->queue_us = result->queue_us;
    c->prefill_us = result->prefill_us;
    c->decode_us = result->decode_us;
    c->total_us = result->total_us;
    if (result->finish == SCHEMA_FINISH_ERROR) {
        c->error = SCHEMA_DEVICE;
        c->error_text = string_of(result->error.text);
        return;
    }
    c->text = (struct schema_string){base_buffer_cstr(&result->text), result->text.n};
    c->tokens = result->tokens;
    c->n_tokens = result->n_tokens;
    if (!result->sampled)
        return;
    for (uint32_t i = 0; i < result->n_tokens; i++) {
        const struct model_sampled *s = &result->sampled[i];
        logprobs[i] = (struct schema_token_logprob){s->id, s->logprob, s->n_top, s->top_ids, s->top_logprobs};
    }
    c->logprobs = logprobs;
    c->n_logprobs = result->n_tokens;
}

void worker_completion_refuse(const struct schema_string *batch_id, const struct schema_prompt *prompt, uint32_t index,
                              uint32_t n_prompts, const struct worker_identity *identity, enum schema_code code,
                              const char *why, struct schema_completion *c)
{
    completion_begin(batch_id, prompt, index, n_prompts, identity, c);
    c->finish = SCHEMA_FINISH_ERROR;
    c->error = code;
    c->error_text = string_of(why);
}
