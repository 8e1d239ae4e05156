#include "snapshot/snap_proof.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "model/exp_sum.h"

/* What a builder takes. A start waits for the proof: 7 rows through a model on a few cores are half the time of 15, and one flipped bit
 * in any matrix changes the log-probabilities of either. */
enum { PROMPT_IDS = 4, TOKENS = 4 };

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Ids spread over the vocabulary; the same for every model of that size. */
static void proof_prompt(const struct model_config *config, struct snap_proof *p)
{
    p->n_prompt = min_u32(PROMPT_IDS, config->n_positions);
    for (uint32_t i = 0; i < p->n_prompt; i++)
        p->prompt[i] = (int32_t)((i + 1) * UINT64_C(2654435761) % config->vocab);
    p->n_tokens = min_u32(TOKENS, config->n_positions - p->n_prompt + 1);
}

/* The next n tokens of the one sequence, all of the prompt or all generated, with logits of the last n_logits of them. */
static struct gpu_sequence proof_part(const struct snap_proof *p, const int32_t *tokens, uint32_t n, uint32_t position,
                                      uint32_t n_logits)
{
    static const uint32_t blocks[1] = {0};
    assert(position + n <= GPU_BLOCK_TOKENS);
    return (struct gpu_sequence){.tokens = tokens,
                                 .n_tokens = n,
                                 .position = position,
                                 .blocks = blocks,
                                 .n_logits = n_logits,
                                 .generated = position >= p->n_prompt};
}

static int proof_step(struct gpu_model *model, const struct gpu_sequence *parts, uint32_t n_parts,
                      const float **out_logits, struct base_error *err)
{
    struct gpu_result result;
    int rc = gpu_model_forward(model, parts, n_parts, &result, err);
    if (rc == 0)
        *out_logits = result.logits;
    return rc;
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
        const struct gpu_sequence part = proof_part(p, p->prompt + at, n, at, at + n == p->n_prompt);
        rc = proof_step(model, &part, 1, &logits, err);
        at += n;
    }
    for (uint32_t i = 0; rc == 0 && i < p->n_tokens; i++) {
        rc = proof_pick(logits, plan->config.vocab, &p->tokens[i], &p->logprobs[i], err);
        if (rc < 0 || i + 1 == p->n_tokens)
            break;
        const struct gpu_sequence part = proof_part(p, &p->tokens[i], 1, p->n_prompt + i, 1);
        rc = proof_step(model, &part, 1, &logits, err);
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

/* One part, whose rows of logits must say tokens *n_checked on. */
static int proof_compare_rows(struct gpu_model *model, const struct snap_proof *p, const struct gpu_sequence *parts,
                              uint32_t n_parts, uint32_t *n_checked, struct base_error *err)
{
    const uint32_t vocab = gpu_model_plan(model)->config.vocab;
    const float *logits = NULL;
    int rc = proof_step(model, parts, n_parts, &logits, err);
    for (uint32_t k = 0; k < n_parts; k++)
        for (uint32_t i = 0; rc == 0 && i < parts[k].n_logits; i++, logits += vocab)
            rc = proof_compare(p, (*n_checked)++, logits, vocab, err);
    return rc;
}

/* All at once: the prompt, then the generated tokens, are one sequence whose logits must say each next token. Where the
 * limits admit it that is a single pass over the weights, not one a token; that the bits are the same is the forward pass's
 * promise. */
static int proof_replay(struct gpu_model *model, const struct snap_proof *p, struct base_error *err)
{
    const struct gpu_limits *max = &gpu_model_plan(model)->limits;
    struct gpu_sequence parts[SNAP_PROOF_PROMPT_MAX + SNAP_PROOF_TOKENS_MAX];
    uint32_t n_parts = 0, n_checked = 0;
    int rc = 0;
    for (uint32_t at = 0; at < p->n_prompt; at += parts[n_parts++].n_tokens) {
        uint32_t n = min_u32(p->n_prompt - at, max->n_tokens_max);
        parts[n_parts] = proof_part(p, p->prompt + at, n, at, at + n == p->n_prompt);
    }
    for (uint32_t at = 0; at + 1 < p->n_tokens; at += parts[n_parts++].n_tokens) {
        uint32_t n = min_u32(p->n_tokens - 1 - at, min_u32(max->n_tokens_max, max->n_logits_max));
        parts[n_parts] = proof_part(p, p->tokens + at, n, p->n_prompt + at, n);
    }
    if (n_parts == 2 && max->n_seqs_max >= 2 && p->n_prompt + p->n_tokens - 1 <= max->n_tokens_max &&
        p->n_tokens <= max->n_logits_max) {
        rc = proof_compare_rows(model, p, parts, 2, &n_checked, err);
    } else {
        for (uint32_t i = 0; rc == 0 && i < n_parts; i++)
            rc = proof_compare_rows(model, p, &parts[i], 1, &n_checked, err);
    }
    assert(rc < 0 || n_checked == p->n_tokens);
    return rc;
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
