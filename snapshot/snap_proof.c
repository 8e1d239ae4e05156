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

/* The next n tokens of the one sequence, with logits of the last n_logits of them. */
static int proof_step(struct gpu_model *model, const int32_t *tokens, uint32_t n, uint32_t position, uint32_t n_logits,
                      const float **out_logits, struct base_error *err)
{
    static const uint32_t blocks[1] = {0};
    assert(position + n <= GPU_BLOCK_TOKENS);
    const struct gpu_sequence s = {
        .tokens = tokens, .n_tokens = n, .position = position, .blocks = blocks, .n_logits = n_logits};
    return gpu_model_forward(model, &s, 1, out_logits, err);
}

/* ERR_CORRUPT: logits that are no numbers prove nothing. */
static int proof_pick(const float *logits, uint32_t vocab, int32_t *out_token, float *out_logprob,
                      struct base_error *err)
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

/* Token by token, as generation goes. */
static int proof_generate(struct gpu_model *model, struct snap_proof *p, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    const float *logits = NULL;
    int rc = 0;
    for (uint32_t at = 0; rc == 0 && at < p->n_prompt;) {
        uint32_t n = min_u32(p->n_prompt - at, plan->limits.n_tokens_max);
        rc = proof_step(model, p->prompt + at, n, at, at + n == p->n_prompt, &logits, err);
        at += n;
    }
    for (uint32_t i = 0; rc == 0 && i < p->n_tokens; i++) {
        rc = proof_pick(logits, plan->config.vocab, &p->tokens[i], &p->logprobs[i], err);
        if (rc == 0 && i + 1 < p->n_tokens)
            rc = proof_step(model, &p->tokens[i], 1, p->n_prompt + i, 1, &logits, err);
    }
    return rc;
}

static int proof_compare(const struct snap_proof *p, uint32_t i, const float *logits, uint32_t vocab,
                         struct base_error *err)
{
    int32_t token;
    float logprob;
    int rc = proof_pick(logits, vocab, &token, &logprob, err);
    if (rc < 0)
        return rc;
    if (token != p->tokens[i] || memcmp(&logprob, &p->logprobs[i], sizeof(float)) != 0)
        return base_fail(err, ERR_CORRUPT, "token %u is %d (logprob %.9g), the builder got %d (%.9g)", i, token,
                         (double)logprob, p->tokens[i], (double)p->logprobs[i]);
    return 0;
}

/* All at once: prompt and tokens are one sequence whose logits must say each next token. Where the limits admit it
 * that is a single pass over the weights, not one a token; that the bits are the same is the forward pass's promise. */
static int proof_replay(struct gpu_model *model, const struct snap_proof *p, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    int32_t sequence[SNAP_PROOF_PROMPT_MAX + SNAP_PROOF_TOKENS_MAX];
    uint32_t n_all = p->n_prompt + p->n_tokens - 1, n_checked = 0;
    memcpy(sequence, p->prompt, p->n_prompt * sizeof(int32_t));
    memcpy(sequence + p->n_prompt, p->tokens, (p->n_tokens - 1) * sizeof(int32_t));
    for (uint32_t at = 0; at < n_all;) {
        uint32_t n = min_u32(n_all - at, plan->limits.n_tokens_max);
        uint32_t n_silent = at + 1 < p->n_prompt ? min_u32(p->n_prompt - 1 - at, n) : 0;
        n = n_silent + min_u32(n - n_silent, plan->limits.n_logits_max);
        const float *logits = NULL;
        int rc = proof_step(model, sequence + at, n, at, n - n_silent, &logits, err);
        for (uint32_t i = 0; rc == 0 && i < n - n_silent; i++)
            rc = proof_compare(p, n_checked++, logits + (size_t)i * plan->config.vocab, plan->config.vocab, err);
        if (rc < 0)
            return rc;
        at += n;
    }
    assert(n_checked == p->n_tokens);
    return 0;
}

int snap_proof_make(struct gpu_model *model, struct snap_proof *out_proof, struct base_error *err)
{
    struct snap_proof p = {0};
    proof_prompt(&gpu_model_plan(model)->config, &p);
    int rc = proof_generate(model, &p, err);
    if (rc == 0) /* one that does not hold here would hold nowhere */
        rc = proof_replay(model, &p, err);
    if (rc < 0) {
        base_fail_in(err, "proof");
        return rc;
    }
    *out_proof = p;
    return 0;
}

int snap_proof_check(struct gpu_model *model, const struct snap_proof *proof, struct base_error *err)
{
    int rc = proof_replay(model, proof, err);
    if (rc < 0)
        base_fail_in(err, "proof");
    return rc;
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
        return base_fail(err, ERR_CORRUPT, "proof: %u prompt ids and %u tokens in %zu bytes", p.n_prompt, p.n_tokens,
                         n);
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
