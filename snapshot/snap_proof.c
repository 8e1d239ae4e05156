#include "snapshot/snap_proof.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "model/exp_sum.h"

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Ids spread over the vocabulary; the same for every model of that size. */
static void proof_prompt(const struct model_config *config, struct snap_proof *p)
{
    p->n_prompt = min_u32(SNAP_PROOF_PROMPT_MAX, config->n_positions);
    for (uint32_t i = 0; i < p->n_prompt; i++)
        p->prompt[i] = (int32_t)((i + 1) * UINT64_C(2654435761) % config->vocab);
    p->n_tokens = min_u32(SNAP_PROOF_TOKENS_MAX, config->n_positions - p->n_prompt + 1);
}

/* n tokens at position, in steps that fit the limits; logits of the last one. */
static int proof_feed(struct gpu_model *model, const int32_t *tokens, uint32_t n, uint32_t position,
                      const float **out_logits, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    static const uint32_t blocks[1] = {0};
    assert(position + n <= GPU_BLOCK_TOKENS);
    for (uint32_t at = 0; at < n;) {
        uint32_t k = min_u32(n - at, plan->limits.n_tokens_max);
        struct gpu_sequence s = {.tokens = tokens + at, .n_tokens = k, .position = position + at, .blocks = blocks,
                                 .n_logits = at + k == n};
        int rc = gpu_model_forward(model, &s, 1, out_logits, err);
        if (rc < 0)
            return rc;
        at += k;
    }
    return 0;
}

/* ERR_CORRUPT: logits that are no numbers prove nothing. */
static int proof_pick(const float *logits, uint32_t vocab, int32_t *out_token, float *out_logprob, struct base_error *err)
{
    uint32_t best = 0;
    bool finite = true;
    for (uint32_t v = 0; v < vocab; v++) {
        finite = finite && isfinite(logits[v]);
        if (logits[v] > logits[best])
            best = v;
    }
    if (!finite)
        return base_fail(err, ERR_CORRUPT, "the model computes logits that are not finite");
    *out_token = (int32_t)best;
    *out_logprob = (float)-model_log(model_exp_sum(logits, vocab, logits[best], 1.0));
    return 0;
}

/* Greedy tokens 0 .. n-1 of p's prompt into tokens and logprobs. */
static int proof_run(struct gpu_model *model, const struct snap_proof *p, uint32_t n, int32_t *tokens, float *logprobs,
                     struct base_error *err)
{
    uint32_t vocab = gpu_model_plan(model)->config.vocab;
    const float *logits = NULL;
    int rc = proof_feed(model, p->prompt, p->n_prompt, 0, &logits, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = proof_pick(logits, vocab, &tokens[i], &logprobs[i], err);
        if (rc == 0 && i + 1 < n)
            rc = proof_feed(model, &tokens[i], 1, p->n_prompt + i, &logits, err);
    }
    if (rc < 0)
        base_fail_in(err, "proof");
    return rc;
}

int snap_proof_make(struct gpu_model *model, struct snap_proof *out_proof, struct base_error *err)
{
    struct snap_proof p = {0};
    proof_prompt(&gpu_model_plan(model)->config, &p);
    int rc = proof_run(model, &p, p.n_tokens, p.tokens, p.logprobs, err);
    if (rc == 0)
        *out_proof = p;
    return rc;
}

int snap_proof_check(struct gpu_model *model, const struct snap_proof *proof, struct base_error *err)
{
    int32_t tokens[SNAP_PROOF_TOKENS_MAX];
    float logprobs[SNAP_PROOF_TOKENS_MAX];
    int rc = proof_run(model, proof, proof->n_tokens, tokens, logprobs, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < proof->n_tokens; i++) {
        if (tokens[i] == proof->tokens[i] && memcmp(&logprobs[i], &proof->logprobs[i], sizeof(float)) == 0)
            continue;
        return base_fail(err, ERR_CORRUPT, "proof: token %u is %d (logprob %.9g), the builder got %d (%.9g)", i, tokens[i],
                         (double)logprobs[i], proof->tokens[i], (double)proof->logprobs[i]);
    }
    return 0;
}

static uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return u;
}

void snap_proof_encode(const struct snap_proof *proof, struct base_buffer *out)
{
    base_buffer_u32(out, proof->n_prompt);
    base_buffer_u32(out, proof->n_tokens);
    for (uint32_t i = 0; i < proof->n_prompt; i++)
        base_buffer_u32(out, (uint32_t)proof->prompt[i]);
    for (uint32_t i = 0; i < proof->n_tokens; i++) {
        base_buffer_u32(out, (uint32_t)proof->tokens[i]);
        base_buffer_u32(out, f32_bits(proof->logprobs[i]));
    }
}

static bool decode_id(struct base_bytes *r, uint32_t vocab, int32_t *out)
{
    uint32_t id = base_bytes_u32(r);
    *out = (int32_t)id;
    return id < vocab;
}

int snap_proof_decode(const void *bytes, size_t n, uint32_t vocab, struct snap_proof *out_proof, struct base_error *err)
{
    struct snap_proof p = {0};
    struct base_bytes r = base_bytes_of(bytes, n);
    p.n_prompt = base_bytes_u32(&r);
    p.n_tokens = base_bytes_u32(&r);
    if (r.failed || p.n_prompt - 1 >= SNAP_PROOF_PROMPT_MAX || p.n_tokens - 1 >= SNAP_PROOF_TOKENS_MAX ||
        base_bytes_left(&r) != 4 * (size_t)p.n_prompt + 8 * (size_t)p.n_tokens)
        return base_fail(err, ERR_CORRUPT, "proof: %u prompt ids and %u tokens in %zu bytes", p.n_prompt, p.n_tokens, n);
    bool ids = true;
    for (uint32_t i = 0; i < p.n_prompt; i++)
        ids = decode_id(&r, vocab, &p.prompt[i]) && ids;
    for (uint32_t i = 0; i < p.n_tokens; i++) {
        ids = decode_id(&r, vocab, &p.tokens[i]) && ids;
        p.logprobs[i] = base_bytes_f32(&r);
    }
    if (!ids)
        return base_fail(err, ERR_CORRUPT, "proof: an id outside the vocabulary of %u", vocab);
    *out_proof = p;
    return 0;
}
