#include "model/sampler.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/exp_sum.h"

struct model_sampler {
    uint32_t vocab;   /* V */
    float *scores;    /* [V] logits as filtered so far; no -0, so that equal floats have equal keys */
    uint32_t *keys;   /* [V] see descending_key */
    uint64_t *ranked; /* [V] key << 32 | id, ascending: most likely first, lowest id first among equals */
    uint64_t *spare;  /* [V] the sort's other half */
    double *weights;  /* [V] of the ranked tokens */
    uint32_t *counts; /* [N_BINS] tokens by the upper bits of their keys */
};

/* 14 bits of a key are sign, exponent and 5 bits of mantissa: bins of 3 % of the score. */
enum { BIN_SHIFT = 18, N_BINS = 1 << 14 };

const struct model_sampling model_sampling_default = {.top_p = 1, .repetition_penalty = 1};

/* ---- random numbers ---- */

void model_philox4x32(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1], c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = 0xd2511f53ull * c0, p1 = 0xcd9e8d57ull * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void model_philox(uint64_t key, uint64_t counter, uint32_t out[4])
{
    const uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    const uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
    model_philox4x32(k, c, out);
}

/* 53 random bits: every multiple of 2^-53 in [0, 1) alike. */
static double draw_uniform(uint64_t seed, uint64_t draw)
{
    uint32_t r[4];
    model_philox(seed, draw, r);
    return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

/* ---- passes over all of [V] ---- */

/* Four at a time, which every 64-bit cpu can do. */
typedef float vec4f __attribute__((vector_size(16)));
typedef int32_t vec4i __attribute__((vector_size(16)));

static float scores_max(const float *scores, uint32_t n)
{
    vec4f max = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        vec4f v;
        memcpy(&v, scores + i, sizeof v);
        vec4i larger = v > max;
        max = (vec4f)(((vec4i)v & larger) | ((vec4i)max & ~larger));
    }
    float best = max[0];
    for (int lane = 1; lane < 4; lane++)
        best = max[lane] > best ? max[lane] : best;
    for (; i < n; i++)
        best = scores[i] > best ? scores[i] : best;
    return best;
}

static int32_t scores_first(const float *scores, uint32_t n, float value)
{
    uint32_t i = 0;
    while (i < n && scores[i] != value)
        i++;
    assert(i < n);
    return (int32_t)i;
}

/* Takes the logits in, -0 as 0; their largest. */
static int scores_load(struct model_sampler *s, const float *logits, float *out_max, struct base_error *err)
{
    vec4i bad = {0};
    uint32_t i = 0, n = s->vocab;
    for (; i + 4 <= n; i += 4) {
        vec4f v;
        memcpy(&v, logits + i, sizeof v);
        v += 0.0f;
        bad |= ~(v < INFINITY);
        memcpy(s->scores + i, &v, sizeof v);
    }
    bool any_bad = bad[0] | bad[1] | bad[2] | bad[3];
    for (; i < n; i++) {
        s->scores[i] = logits[i] + 0.0f;
        any_bad |= !(logits[i] < INFINITY);
    }
    for (i = 0; any_bad && i < n; i++) {
        if (!(logits[i] < INFINITY))
            return base_fail(err, ERR_INTERNAL, "sample: the logit of token %" PRIu32 " is %g", i, (double)logits[i]);
    }
    *out_max = scores_max(s->scores, n);
    if (*out_max == -INFINITY)
        return base_fail(err, ERR_INTERNAL, "sample: all %" PRIu32 " logits are -infinity", n);
    return 0;
}

/* From the untouched logits each time, so that an id seen twice counts once. */
static void scores_penalise(struct model_sampler *s, const float *logits, float penalty, const int32_t *seen,
                            size_t n_seen)
{
    for (size_t i = 0; i < n_seen; i++) {
        if (seen[i] < 0 || (uint32_t)seen[i] >= s->vocab)
            continue;
        float v = logits[seen[i]];
        v = (v < 0 ? v * penalty : v / penalty) + 0.0f;
        s->scores[seen[i]] = v > FLT_MAX ? FLT_MAX : v; /* a tiny penalty does not make infinities */
    }
}

/* ---- the most likely tokens in order, without sorting the rest ---- */

/* Unsigned order against float order: the larger the score, the smaller the key. */
static uint32_t descending_key(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

/* A key that at least n keys do not exceed, and few more than n: the end of the bin that the n-th smallest is in. */
static uint32_t rank_bound(struct model_sampler *s, uint32_t n)
{
    uint32_t bin = 0;
    memset(s->counts, 0, N_BINS * sizeof *s->counts);
    for (uint32_t i = 0; i < s->vocab; i++)
        s->counts[s->keys[i] >> BIN_SHIFT]++;
    while (s->counts[bin] < n)
        n -= s->counts[bin++];
    assert(bin < N_BINS);
    return bin << BIN_SHIFT | ((1u << BIN_SHIFT) - 1);
}

/* By the upper halves, byte by byte from the lowest; equal ones keep their order, which is that of their ids. */
static void rank_sort(struct model_sampler *s, uint32_t n)
{
    for (int shift = 32; shift < 64; shift += 8) {
        uint32_t at[256] = {0}, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            at[s->ranked[i] >> shift & 0xff]++;
        for (int b = 0; b < 256; b++) {
            uint32_t count = at[b];
            at[b] = sum;
            sum += count;
        }
        for (uint32_t i = 0; i < n; i++)
            s->spare[at[s->ranked[i] >> shift & 0xff]++] = s->ranked[i];
        uint64_t *sorted = s->spare;
        s->spare = s->ranked;
        s->ranked = sorted;
    }
}

/* Ranks the n most likely tokens, 1 <= n, and all that equal the last of them; returns how many those are. */
static uint32_t rank_top(struct model_sampler *s, uint32_t n)
{
    uint32_t n_ranked = 0;
    for (uint32_t i = 0; i < s->vocab; i++)
        s->keys[i] = descending_key(s->scores[i]);
    uint32_t bound = n < s->vocab ? rank_bound(s, n) : UINT32_MAX;
    for (uint32_t i = 0; i < s->vocab; i++) {
        if (s->keys[i] <= bound)
            s->ranked[n_ranked++] = (uint64_t)s->keys[i] << 32 | i;
    }
    rank_sort(s, n_ranked);
    while (n_ranked > n && s->ranked[n_ranked - 1] >> 32 != s->ranked[n - 1] >> 32)
        n_ranked--;
    return n_ranked;
}

static int32_t ranked_id(const struct model_sampler *s, uint32_t rank)
{
    return (int32_t)(uint32_t)s->ranked[rank];
}

/* ---- one token ---- */

/* What is left of the vocabulary, as far as it is ranked. */
struct candidates {
    double scale;          /* 1 / temperature */
    const double *weights; /* [n] exp((score - max) * scale), falling from 1 */
    uint32_t n;
    bool complete; /* no candidate is left unranked */
    double total;  /* of the weights of all candidates, the unranked ones included */
};

static void candidates_rank(struct model_sampler *s, uint32_t n, float max, struct candidates *c)
{
    c->n = rank_top(s, n);
    c->complete = c->complete || c->n == s->vocab;
    for (uint32_t i = 0; i < c->n; i++)
        s->weights[i] = model_exp(((double)s->scores[ranked_id(s, i)] - (double)max) * c->scale);
    c->weights = s->weights;
}

/* How many candidates top-p and min-p leave, and their weight; false: more must be ranked to tell. */
static bool candidates_cut(const struct candidates *c, const struct model_sampling *how, uint32_t *out_n,
                           double *out_total)
{
    bool top_p = how->top_p < 1;
    bool min_p = how->min_p > 0;
    double sum = 0, enough = (double)how->top_p * c->total;
    uint32_t n = 0;
    if (!top_p && !min_p) {
        *out_n = c->n;
        *out_total = c->total;
        return true;
    }
    while (n < c->n && (n == 0 || ((!top_p || sum < enough) && (!min_p || c->weights[n] >= (double)how->min_p))))
        sum += c->weights[n++];
    *out_n = n;
    *out_total = sum;
    return n < c->n || c->complete;
}

/* The rank that u falls on among the first n; n when it falls behind them. */
static uint32_t candidates_find(const struct candidates *c, uint32_t n, double total, double u)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += c->weights[i];
        if (sum > u * total)
            return i;
    }
    return n;
}

/* The last one that can be drawn at all: rounding made the sum of all fall short of u times the total. */
static uint32_t candidates_last(const struct candidates *c, uint32_t n)
{
    while (n > 1 && c->weights[n - 1] == 0)
        n--;
    return n - 1;
}

/* A few hundred tokens nearly always hold the answer; when they do not, more are ranked, in the end all. */
static int32_t sampler_pick(struct model_sampler *s, const struct model_sampling *how, double u)
{
    enum { RANKED_FIRST = 256, RANKED_GROWTH = 16 };
    float max = scores_max(s->scores, s->vocab);
    bool top_k = how->top_k > 0 && how->top_k < s->vocab;
    uint32_t n_wanted = top_k ? how->top_k : RANKED_FIRST;
    struct candidates c = {.scale = 1 / (double)how->temperature, .complete = top_k};
    if (!top_k)
        c.total = model_exp_sum(s->scores, s->vocab, max, c.scale);
    for (;;) {
        uint32_t n;
        double total;
        candidates_rank(s, n_wanted, max, &c);
        for (uint32_t i = 0; top_k && i < c.n; i++)
            c.total += c.weights[i];
        if (candidates_cut(&c, how, &n, &total)) {
            uint32_t rank = candidates_find(&c, n, total, u);
            if (rank < n)
                return ranked_id(s, rank);
            if (n < c.n || c.complete)
                return ranked_id(s, candidates_last(&c, n));
        }
        n_wanted = n_wanted < s->vocab / RANKED_GROWTH ? n_wanted * RANKED_GROWTH : s->vocab;
    }
}

int model_sampler_draw_at(struct model_sampler *s, const struct model_sampling *how, const float *logits,
                          const int32_t *seen, size_t n_seen, double u, struct model_sampled *out,
                          struct base_error *err)
{
    assert(model_sampling_check(how, NULL) == 0 && u >= 0 && u < 1);
    float max;
    int rc = scores_load(s, logits, &max, err);
    if (rc < 0)
        return rc;
    double log_total = model_log(model_exp_sum(s->scores, s->vocab, max, 1));
    struct model_sampled got = {.n_top = how->n_logprobs < s->vocab ? how->n_logprobs : s->vocab};
    if (got.n_top > 0)
        rank_top(s, got.n_top);
    for (uint32_t i = 0; i < got.n_top; i++) {
        got.top_ids[i] = ranked_id(s, i);
        got.top_logprobs[i] = (float)((double)s->scores[got.top_ids[i]] - (double)max - log_total);
    }
    if (how->repetition_penalty != 1.0f)
        scores_penalise(s, logits, how->repetition_penalty, seen, n_seen);
    if (how->temperature > 0)
        got.id = sampler_pick(s, how, u);
    else
        got.id = scores_first(s->scores, s->vocab, scores_max(s->scores, s->vocab));
    got.logprob = (float)((double)logits[got.id] - (double)max - log_total);
    *out = got;
    return 0;
}

int model_sampler_draw(struct model_sampler *s, const struct model_sampling *how, const float *logits,
                       const int32_t *seen, size_t n_seen, uint64_t draw, struct model_sampled *out,
                       struct base_error *err)
{
    return model_sampler_draw_at(s, how, logits, seen, n_seen, draw_uniform(how->seed, draw), out, err);
}

int model_sampler_new(uint32_t vocab, struct model_sampler **out_sampler, struct base_error *err)
{
    assert(vocab > 0 && vocab <= INT32_MAX);
    struct model_sampler *s = calloc(1, sizeof *s);
    if (s) {
        s->vocab = vocab;
        s->scores = calloc(vocab, sizeof *s->scores);
        s->keys = calloc(vocab, sizeof *s->keys);
        s->ranked = calloc(vocab, sizeof *s->ranked);
        s->spare = calloc(vocab, sizeof *s->spare);
        s->weights = calloc(vocab, sizeof *s->weights);
        s->counts = calloc(N_BINS, sizeof *s->counts);
    }
    if (!s || !s->scores || !s->keys || !s->ranked || !s->spare || !s->weights || !s->counts) {
        model_sampler_free(s);
        return base_fail(err, ERR_NOMEM, "no memory for a sampler of %" PRIu32 " tokens", vocab);
    }
    *out_sampler = s;
    return 0;
}

void model_sampler_free(struct model_sampler *s)
{
    if (!s)
        return;
    free(s->scores);
    free(s->keys);
    free(s->ranked);
    free(s->spare);
    free(s->weights);
    free(s->counts);
    free(s);
}

int model_sampling_check(const struct model_sampling *how, struct base_error *err)
{
    const struct {
        const char *name;
        float value, min, max;
        bool min_allowed;
    } numbers[] = {
        {"temperature", how->temperature, 0, 100, true},
        {"top_p", how->top_p, 0, 1, false},
        {"min_p", how->min_p, 0, 1, true},
        {"repetition_penalty", how->repetition_penalty, 0, 100, false},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        float v = numbers[i].value;
        if (v >= numbers[i].min && v <= numbers[i].max && (numbers[i].min_allowed || v > numbers[i].min))
            continue;
        return base_fail(err, ERR_INPUT, "%s %g is outside %c%g, %g]", numbers[i].name, (double)v,
                         numbers[i].min_allowed ? '[' : '(', (double)numbers[i].min, (double)numbers[i].max);
    }
    if (how->n_logprobs > MODEL_TOP_LOGPROBS_MAX)
        return base_fail(err, ERR_INPUT, "logprobs %" PRIu32 " is outside 0..%d", how->n_logprobs,
                         MODEL_TOP_LOGPROBS_MAX);
    return 0;
}
