/* snap_proof - a short prompt with the tokens and logprobs that the builder got: what a restored model must reproduce.
 *
 * Checksums show that the bytes are the builder's; the proof shows that this process computes with them what the
 * builder did. Equality is bit for bit, which the forward pass promises for equal fingerprints. */
#ifndef ROUSE_SNAPSHOT_SNAP_PROOF_H
#define ROUSE_SNAPSHOT_SNAP_PROOF_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "gpu/device.h"

enum { SNAP_PROOF_PROMPT_MAX = 8, SNAP_PROOF_TOKENS_MAX = 8, SNAP_PROOF_CTX = 16 };

struct snap_proof {
    uint32_t n_prompt, n_tokens;
    int32_t prompt[SNAP_PROOF_PROMPT_MAX];
    int32_t tokens[SNAP_PROOF_TOKENS_MAX]; /* greedy: the lowest id among the largest logits */
    float logprobs[SNAP_PROOF_TOKENS_MAX]; /* of each, under softmax over the whole vocabulary */
};

/* Chooses the prompt from the configuration alone and runs it. The model must be LOADED; block 0 of its KV is
 * overwritten. */
int snap_proof_make(struct gpu_model *model, struct snap_proof *out_proof, struct base_error *err);
/* Runs it again. ERR_CORRUPT names the first token that differs. */
int snap_proof_check(struct gpu_model *model, const struct snap_proof *proof, struct base_error *err);

void snap_proof_encode(const struct snap_proof *proof, struct base_buffer *out);
int snap_proof_decode(const void *bytes, size_t n, uint32_t vocab, struct snap_proof *out_proof,
                      struct base_error *err);

#endif
