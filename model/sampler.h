/* sampler - logits to one token, with counter-based randomness.
 *
 * Order as in Hugging Face transformers: repetition penalty, temperature, top-k, top-p, min-p, draw. The draw number n of a
 * sequence is Philox4x32-10(key = seed, counter = n): it depends on nothing but the seed and the position, so a prompt run
 * again, elsewhere, in another batch, draws the same. (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.)
 *
 * Which tokens stay, as in transformers: top-k keeps all that equal the k-th; top-p the smallest set, most likely first,
 * whose probabilities reach top_p; min-p those of at least min_p times the largest probability. One difference: when
 * top-p's border runs through equal logits, transformers leaves to an unstable sort which of them stay; here it is the
 * lowest ids, so that top_p -> 0 is greedy. Everything is computed by IEEE operations in a fixed order and by an exp of our
 * own (libm's differs between cpus): the same logits draw the same token on every machine. */
#ifndef ROUSE_MODEL_SAMPLER_H
#define ROUSE_MODEL_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define MODEL_TOP_LOGPROBS_MAX 20

struct model_sampling {
    float temperature;        /* 0: greedy (lowest id among equals); else (0, 100] */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off: drops tokens below min_p * the most likely one's probability */
    float repetition_penalty; /* (0, 100]; 1: off */
    uint64_t seed;
    uint32_t n_logprobs; /* how many of the most likely tokens to report, 0..MODEL_TOP_LOGPROBS_MAX */
};

struct model_sampled {
    int32_t id;
    float logprob; /* of id under the model's own distribution: log softmax of the untouched logits */
    uint32_t n_top;
    int32_t top_ids[MODEL_TOP_LOGPROBS_MAX]; /* most likely first; lowest id first among equals */
    float top_logprobs[MODEL_TOP_LOGPROBS_MAX];
};

struct model_sampler; /* scratch for one thread: 32 bytes a token of the vocabulary, allocated once */

int model_sampler_new(uint32_t vocab, struct model_sampler **out_sampler, struct base_error *err);
void model_sampler_free(struct model_sampler *s);

/* logits [V] of the untouched model, left as they are. seen: the ids of prompt and completion so far, for the penalty.
 * draw: number of tokens sampled before this one in the sequence. ERR_INTERNAL: a logit is NaN or +infinity, or all are
 * -infinity (alone, a token of -infinity is one that is never drawn). how is within its ranges (model_sampling_check). */
int model_sampler_draw(struct model_sampler *s, const struct model_sampling *how, const float *logits, const int32_t *seen,
                       size_t n_seen, uint64_t draw, struct model_sampled *out, struct base_error *err);

/* Each field within its range, else ERR_INPUT names it, its value and the limit. */
int model_sampling_check(const struct model_sampling *how, struct base_error *err);
extern const struct model_sampling model_sampling_default; /* temperature 0 */

/* The same with the random number given, u in [0, 1): the kept tokens, most likely first (lowest id first among equals),
 * share [0, 1) by their probabilities, and u falls on one of them. */
int model_sampler_draw_at(struct model_sampler *s, const struct model_sampling *how, const float *logits,
                          const int32_t *seen, size_t n_seen, double u, struct model_sampled *out,
                          struct base_error *err);

/* Low words first; the upper half of the 128-bit counter is 0. */
void model_philox(uint64_t key, uint64_t counter, uint32_t out[4]);
/* Philox4x32-10 as published. */
void model_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);

#endif
