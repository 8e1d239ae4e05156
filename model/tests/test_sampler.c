/* The sampler against transformers' answers, against a plain re-implementation, and against statistics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "model/exp_sum.h"
#include "model/sampler.h"

/* ---- random numbers ---- */

/* kat_vectors of Random123: counter, key, result. */
static void test_philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t out[4];
        model_philox4x32(cases[i].key, cases[i].counter, out);
        assert_memory_equal(out, cases[i].out, sizeof out);
    }
    uint32_t a[4], b[4];
    model_philox(0x299f31d0a4093822, 0x85a308d3243f6a88, a);
    model_philox4x32((uint32_t[]){0xa4093822, 0x299f31d0}, (uint32_t[]){0x243f6a88, 0x85a308d3, 0, 0}, b);
    assert_memory_equal(a, b, sizeof a);
}

/* For the tests' own needs; seeded by its state. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static double random_uniform(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

static float random_normal(uint64_t *state)
{
    double u = random_uniform(state), v = random_uniform(state);
    return (float)(sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v));
}

/* ---- exp and log ---- */

static void test_exp_and_log(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (int i = 0; i < 200000; i++) {
        double x = -708 * random_uniform(&seed) * (i % 2 ? 1 : random_uniform(&seed)), want = exp(x),
               got = model_exp(x);
        if (!(fabs(got - want) <= 1e-11 * want))
            fail_msg("exp(%.17g): %.17g, wanted %.17g", x, got, want);
        double y = exp(200 * random_uniform(&seed) * random_uniform(&seed));
        want = log(y), got = model_log(y);
        if (!(fabs(got - want) <= 4e-16 * (want > 1 ? want : 1)))
            fail_msg("log(%.17g): %.17g, wanted %.17g", y, got, want);
    }
    assert_true(model_exp(0) == 1 && model_log(1) == 0);
    assert_true(model_exp(-708) > 0 && model_exp(-708.0001) == 0 && model_exp(-INFINITY) == 0);
}

/* The vector sum has the plain one's bits. */
static void test_exp_sum_twins(void **state)
{
    (void)state;
    uint64_t seed = 2;
    float scores[300];
    for (uint32_t n = 0; n < 300; n++) {
        float max = -INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            scores[i] = n % 7 == 3 && i % 5 == 1 ? -INFINITY : 20 * random_normal(&seed);
            max = scores[i] > max ? scores[i] : max;
        }
        for (double scale = 0.01; scale < 1e44; scale *= n % 2 ? 10 : 1e9) {
            double fast = model_exp_sum(scores, n, max, scale), plain = model_exp_sum_plain(scores, n, max, scale);
            if (memcmp(&fast, &plain, sizeof fast) != 0)
                fail_msg("n %" PRIu32 ", scale %g: %.17g, plain %.17g", n, scale, fast, plain);
        }
    }
}

/* ---- against transformers ---- */

enum { GOLDEN_VOCAB = 64 };

static float number_or_lowest(const json_t *v)
{
    return json_is_null(v) ? -INFINITY : (float)json_number_value(v);
}

static int32_t drawn(struct model_sampler *s, const struct model_sampling *how, const float *logits,
                     const int32_t *seen, size_t n_seen, double u)
{
    struct model_sampled out;
    struct base_error err = {0};
    if (model_sampler_draw_at(s, how, logits, seen, n_seen, u, &out, &err) != 0)
        fail_msg("%s", err.text);
    return out.id;
}

/* Each kept token owns its stretch of [0, 1), up to what f32 softmax may be off. */
static void expect_golden(size_t number, const json_t *c)
{
    const double slack = 2e-6;
    const json_t *kept = json_object_get(c, "kept"), *seen_json = json_object_get(c, "seen");
    struct model_sampling how = model_sampling_default;
    how.temperature = (float)json_number_value(json_object_get(c, "temperature"));
    how.top_k = (uint32_t)json_integer_value(json_object_get(c, "top_k"));
    how.top_p = (float)json_number_value(json_object_get(c, "top_p"));
    how.min_p = (float)json_number_value(json_object_get(c, "min_p"));
    how.repetition_penalty = (float)json_number_value(json_object_get(c, "repetition_penalty"));
    float logits[GOLDEN_VOCAB];
    int32_t seen[GOLDEN_VOCAB];
    for (size_t i = 0; i < GOLDEN_VOCAB; i++)
        logits[i] = number_or_lowest(json_array_get(json_object_get(c, "logits"), i));
    for (size_t i = 0; i < json_array_size(seen_json); i++)
        seen[i] = (int32_t)json_integer_value(json_array_get(seen_json, i));
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(GOLDEN_VOCAB, &s, NULL), 0);
    double begin = 0;
    for (size_t i = 0; i < json_array_size(kept); i++) {
        const json_t *entry = json_array_get(kept, i);
        int32_t id = (int32_t)json_integer_value(json_array_get(entry, 0));
        double end = begin + json_number_value(json_array_get(entry, 1));
        const double at[3] = {i == 0 ? 0 : begin + slack, (begin + end) / 2,
                              i + 1 == json_array_size(kept) ? 1 - 0x1p-53 : end - slack};
        for (int k = 0; k < 3 && end - begin > 3 * slack; k++) {
            int32_t got = drawn(s, &how, logits, seen, json_array_size(seen_json), at[k]);
            if (got != id)
                fail_msg("case %zu: u %.9f: token %d, transformers has %d at [%.9f, %.9f)", number, at[k], got, id,
                         begin, end);
        }
        begin = end;
    }
    assert_true(fabs(begin - 1) < slack);
    model_sampler_free(s);
}

static void test_transformers(void **state)
{
    (void)state;
    const char *root = getenv("ROUSE_SOURCE_DIR");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/tests/golden/sampler.json", root ? root : ".");
    json_error_t fault;
    json_t *golden = json_load_file(path, 0, &fault);
    if (!golden)
        fail_msg("%s: %s", path, fault.text);
    json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) >= 40);
    for (size_t i = 0; i < json_array_size(cases); i++)
        expect_golden(i, json_array_get(cases, i));
    json_decref(golden);
}

/* ---- against a plain re-implementation ---- */

struct plain_token {
    int32_t id;
    double score, p;
};

static int plain_compare(const void *a, const void *b)
{
    const struct plain_token *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void plain_softmax(struct plain_token *t, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += t[i].p = exp(t[i].score - t[0].score);
    for (size_t i = 0; i < n; i++)
        t[i].p /= sum;
}

/* The kept tokens with their probabilities, sorted; returns how many. The text of transformers, in f64. */
static size_t plain_kept(const struct model_sampling *how, const float *logits, size_t V, const int32_t *seen,
                         size_t n_seen, struct plain_token *t)
{
    for (size_t i = 0; i < V; i++)
        t[i] = (struct plain_token){(int32_t)i, (double)logits[i], 0};
    for (size_t i = 0; i < n_seen; i++) {
        float v = logits[seen[i]];
        t[seen[i]].score = (double)(v < 0 ? v * how->repetition_penalty : v / how->repetition_penalty);
    }
    for (size_t i = 0; i < V; i++)
        t[i].score /= (double)how->temperature;
    qsort(t, V, sizeof *t, plain_compare);
    size_t n = V;
    if (how->top_k > 0 && how->top_k < V) {
        for (n = how->top_k; n < V && t[n].score == t[how->top_k - 1].score;)
            n++;
    }
    plain_softmax(t, n);
    if (how->top_p < 1) {
        double sum = 0;
        size_t k = 0;
        while (k < n && (k == 0 || sum < (double)how->top_p))
            sum += t[k++].p;
        n = k;
        plain_softmax(t, n);
    }
    if (how->min_p > 0) {
        size_t k = 0;
        while (k < n && t[k].p >= (double)how->min_p * t[0].p)
            k++;
        n = k;
        plain_softmax(t, n);
    }
    return n;
}

static struct model_sampling random_settings(uint64_t *seed, size_t V)
{
    struct model_sampling how = model_sampling_default;
    how.temperature = (float)(0.05 + 2 * random_uniform(seed));
    if (random_next(seed) % 2)
        how.top_k = (uint32_t)(1 + random_next(seed) % (random_next(seed) % 2 ? V + 3 : 50));
    if (random_next(seed) % 2)
        how.top_p = (float)(1 - random_uniform(seed) * random_uniform(seed));
    if (random_next(seed) % 2)
        how.min_p = (float)(random_uniform(seed) * random_uniform(seed));
    if (random_next(seed) % 2)
        how.repetition_penalty = (float)(0.5 + random_uniform(seed));
    return how;
}

/* How close to a border of [0, 1) a draw or a cut may come before f64 sums in another order may differ. */
static const double border = 1e-9;

static bool plain_cut_is_close(const struct model_sampling *how, const float *logits, size_t V, const int32_t *seen,
                               size_t n_seen, size_t n, struct plain_token *scratch)
{
    struct model_sampling nudged = *how;
    for (int sign = -1; sign <= 1; sign += 2) {
        nudged.top_p = how->top_p < 1 ? (float)((double)how->top_p * (1 + sign * 3e-7)) : 1;
        nudged.min_p = (float)((double)how->min_p * (1 + sign * 3e-7));
        if (plain_kept(&nudged, logits, V, seen, n_seen, scratch) != n)
            return true;
    }
    return false;
}

/* How many draws were compared. */
static int expect_plain(struct model_sampler *s, const struct model_sampling *how, const float *logits, size_t V,
                        const int32_t *seen, size_t n_seen, struct plain_token *t, uint64_t *seed)
{
    size_t n = plain_kept(how, logits, V, seen, n_seen, t);
    if (plain_cut_is_close(how, logits, V, seen, n_seen, n, t))
        return 0;
    int n_compared = 0;
    n = plain_kept(how, logits, V, seen, n_seen, t);
    for (int draw = 0; draw < 8; draw++) {
        double u = draw == 0 ? 0 : draw == 1 ? 1 - 1e-7 : random_uniform(seed), sum = 0;
        size_t k = 0;
        while (k + 1 < n && (sum += t[k].p) <= u)
            k++;
        if (fabs(sum - u) < border || (k > 0 && fabs(sum - t[k].p - u) < border))
            continue;
        int32_t got = drawn(s, how, logits, seen, n_seen, u);
        if (got != t[k].id)
            fail_msg("V %zu, T %g, top_k %u, top_p %g, min_p %g, penalty %g, u %.12f: token %d, plain %d of %zu", V,
                     (double)how->temperature, how->top_k, (double)how->top_p, (double)how->min_p,
                     (double)how->repetition_penalty, u, got, t[k].id, n);
        n_compared++;
    }
    return n_compared;
}

static void test_plain_twin(void **state)
{
    (void)state;
    static const struct {
        size_t V;
        int n_rounds;
    } sizes[] = {{1, 20}, {2, 50}, {7, 300}, {64, 500}, {257, 200}, {1000, 200}, {5000, 40}, {50304, 12}};
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t V = sizes[i].V;
        struct model_sampler *s;
        assert_int_equal(model_sampler_new((uint32_t)V, &s, NULL), 0);
        float *logits = malloc(V * sizeof *logits);
        struct plain_token *t = malloc(V * sizeof *t);
        assert_true(logits && t);
        int n_compared = 0;
        for (int round = 0; round < sizes[i].n_rounds; round++) {
            float spread = (float)(0.1 + 5 * random_uniform(&seed));
            for (size_t j = 0; j < V; j++) {
                logits[j] = spread * random_normal(&seed);
                if (round % 3 == 1) /* many equals, 0 and -0 among them */
                    logits[j] = roundf(logits[j] * 2) / 2;
                if (round % 5 == 4 && j > 0 && random_next(&seed) % 3 == 0)
                    logits[j] = -INFINITY;
            }
            struct model_sampling how = random_settings(&seed, V);
            int32_t seen[20];
            for (size_t j = 0; j < 20; j++)
                seen[j] = (int32_t)(random_next(&seed) % V);
            n_compared += expect_plain(s, &how, logits, V, seen, random_next(&seed) % 21, t, &seed);
        }
        assert_true(n_compared > 6 * sizes[i].n_rounds); /* few lie too close to a border to tell */
        free(logits);
        free(t);
        model_sampler_free(s);
    }
}

/* ---- statistics ---- */

/* Chi-square of 100,000 draws against the model's own distribution over 40 tokens; 39 degrees of freedom: 72.05 is
 * exceeded by chance once in 1000 seeds, and these seeds are fixed. */
static void test_frequencies(void **state)
{
    (void)state;
    enum { V = 40, N = 100000 };
    float logits[V];
    double p[V], sum = 0;
    uint64_t seed = 4;
    for (int i = 0; i < V; i++) {
        logits[i] = random_normal(&seed);
        sum += p[i] = exp((double)logits[i]);
    }
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(V, &s, NULL), 0);
    struct model_sampling how = model_sampling_default;
    how.temperature = 1;
    for (int by_seed = 0; by_seed < 2; by_seed++) { /* one sequence, then the first token of many */
        int counts[V] = {0};
        for (uint64_t n = 0; n < N; n++) {
            struct model_sampled out;
            how.seed = by_seed ? n : 12345;
            assert_int_equal(model_sampler_draw(s, &how, logits, NULL, 0, by_seed ? 0 : n, &out, NULL), 0);
            assert_in_range(out.id, 0, V - 1);
            counts[out.id]++;
            assert_true(fabs((double)out.logprob - log(p[out.id] / sum)) < 1e-6);
        }
        double chi2 = 0;
        for (int i = 0; i < V; i++) {
            double want = N * p[i] / sum;
            chi2 += (counts[i] - want) * (counts[i] - want) / want;
        }
        if (chi2 > 72.05)
            fail_msg("chi-square %.1f over 39 degrees of freedom", chi2);
    }
    model_sampler_free(s);
}

static void test_draws_depend_on_seed_and_position_alone(void **state)
{
    (void)state;
    enum { V = 1000 };
    float logits[V];
    uint64_t seed = 5;
    for (int i = 0; i < V; i++)
        logits[i] = random_normal(&seed);
    struct model_sampler *a, *b;
    assert_int_equal(model_sampler_new(V, &a, NULL), 0);
    assert_int_equal(model_sampler_new(V, &b, NULL), 0);
    struct model_sampling how = model_sampling_default;
    how.temperature = 0.9f;
    how.seed = 0xfedcba9876543210;
    int n_same_elsewhere = 0;
    for (uint64_t n = 100; n-- > 0;) {
        struct model_sampled x, y, other;
        how.n_logprobs = 3;
        assert_int_equal(model_sampler_draw(a, &how, logits, NULL, 0, n, &x, NULL), 0);
        how.n_logprobs = 0;
        drawn(b, &how, logits, NULL, 0, 0.123); /* what a sampler did before leaves no trace */
        assert_int_equal(model_sampler_draw(b, &how, logits, NULL, 0, n, &y, NULL), 0);
        assert_int_equal(x.id, y.id);
        struct model_sampling others = how;
        others.seed ^= (uint64_t)1 << 40;
        assert_int_equal(model_sampler_draw(b, &others, logits, NULL, 0, n, &other, NULL), 0);
        n_same_elsewhere += other.id == x.id;
    }
    assert_true(n_same_elsewhere < 10);
    model_sampler_free(a);
    model_sampler_free(b);
}

/* The first tokens of a fixed stream: a change here changes every seeded completion there is. */
static void test_stream_is_fixed(void **state)
{
    (void)state;
    enum { V = 50304 };
    float *logits = malloc(V * sizeof *logits);
    assert_non_null(logits);
    for (uint32_t i = 0; i < V; i++)
        logits[i] = (float)((i * 2654435761u) >> 16) * 0x1p-12f; /* 0..16, no libm */
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(V, &s, NULL), 0);
    static const struct {
        struct model_sampling how;
        int32_t ids[6];
    } cases[] = {
        {{.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 7}, {30210, 24696, 33825, 27513, 35443, 9891}},
        {{.temperature = 0.8f, .top_k = 50, .top_p = 0.95f, .min_p = 0.01f, .repetition_penalty = 1.1f, .seed = 7},
         {1974, 33825, 39603, 44771, 48952, 16114}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (uint64_t n = 0; n < 6; n++) {
            struct model_sampled out;
            assert_int_equal(model_sampler_draw(s, &cases[c].how, logits, NULL, 0, n, &out, NULL), 0);
            if (out.id != cases[c].ids[n])
                fail_msg("stream %zu, draw %" PRIu64 ": token %d, wanted %d", c, n, out.id, cases[c].ids[n]);
        }
    }
    model_sampler_free(s);
    free(logits);
}

/* ---- corners ---- */

static void test_greedy(void **state)
{
    (void)state;
    const float logits[6] = {1, 3, -2, 3, 2.5f, -INFINITY};
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(6, &s, NULL), 0);
    struct model_sampling how = model_sampling_default;
    const int32_t seen[5] = {1, 1, 3, -1, 6}; /* ids outside the vocabulary are passed over */
    struct model_sampled out;
    assert_int_equal(model_sampler_draw(s, &how, logits, seen, 5, 0, &out, NULL), 0);
    assert_int_equal(out.id, 1);
    how.repetition_penalty = 1.1f; /* once: 2.73 still leads, twice would be 2.48 */
    assert_int_equal(model_sampler_draw(s, &how, logits, seen, 5, 0, &out, NULL), 0);
    assert_int_equal(out.id, 1);
    how.repetition_penalty = 1.5f;
    assert_int_equal(model_sampler_draw(s, &how, logits, seen, 5, 0, &out, NULL), 0);
    assert_int_equal(out.id, 4);
    double sum = exp(1) + exp(3) + exp(-2) + exp(3) + exp(2.5);
    assert_true(fabs((double)out.logprob - (2.5 - log(sum))) < 1e-6); /* of the untouched logits */
    how.repetition_penalty = 1e-38f;
    assert_int_equal(model_sampler_draw(s, &how, logits, seen, 5, 0, &out, NULL), 0);
    assert_int_equal(out.id, 1);
    how.temperature = 1;
    assert_int_equal(drawn(s, &how, logits, seen, 5, 0.999), 3);
    model_sampler_free(s);
}

static void test_top_logprobs(void **state)
{
    (void)state;
    const float logits[5] = {0.5f, 2, -0.0f, 2, 0};
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(5, &s, NULL), 0);
    struct model_sampling how = model_sampling_default;
    how.n_logprobs = 20;
    how.repetition_penalty = 50;
    struct model_sampled out;
    assert_int_equal(model_sampler_draw(s, &how, logits, (int32_t[]){1, 3}, 2, 0, &out, NULL), 0);
    assert_int_equal(out.id, 0);
    assert_int_equal(out.n_top, 5);
    const int32_t ids[5] = {1, 3, 0, 2, 4}; /* -0 equals 0 */
    double sum = 2 * exp(2) + exp(0.5) + 2;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(out.top_ids[i], ids[i]);
        assert_true(fabs((double)out.top_logprobs[i] - ((double)logits[ids[i]] - log(sum))) < 1e-6);
    }
    how.n_logprobs = 1;
    assert_int_equal(model_sampler_draw(s, &how, logits, NULL, 0, 0, &out, NULL), 0);
    assert_int_equal(out.n_top, 1);
    assert_int_equal(out.top_ids[0], 1);
    model_sampler_free(s);
}

static void test_corners(void **state)
{
    (void)state;
    const float logits[6] = {1, 3, -2, 3, 2.5f, -INFINITY};
    static const struct {
        const char *what;
        struct model_sampling how;
        double u;
        int32_t id;
    } cases[] = {
        {"top_k 1 keeps equals, first", {1, 1, 1, 0, 1, 0, 0}, 0.499, 1},
        {"top_k 1 keeps equals, second", {1, 1, 1, 0, 1, 0, 0}, 0.501, 3},
        {"top_k beyond the vocabulary", {1, 4000000000u, 1, 0, 1, 0, 0}, 1 - 0x1p-53, 2},
        {"top_p tiny is greedy", {1, 0, 1e-30f, 0, 1, 0, 0}, 1 - 0x1p-53, 1},
        {"top_p just below 1", {1, 0, 0x1.fffffep-1f, 0, 1, 0, 0}, 1 - 0x1p-53, 2},
        {"min_p 1 keeps equals", {1, 0, 1, 1, 1, 0, 0}, 1 - 0x1p-53, 3},
        {"min_p tiny", {1, 0, 1, 1e-30f, 1, 0, 0}, 1 - 0x1p-53, 2},
        {"temperature tiny", {1e-45f, 0, 1, 0, 1, 0, 0}, 1 - 0x1p-53, 3},
        {"temperature 100", {100, 0, 1, 0, 1, 0, 0}, 1 - 0x1p-53, 2},
        {"first", {1, 0, 1, 0, 1, 0, 0}, 0, 1},
        {"-infinity is never drawn", {100, 0, 1, 0, 1, 0, 0}, 1 - 0x1p-53, 2},
    };
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(6, &s, NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t id = drawn(s, &cases[i].how, logits, NULL, 0, cases[i].u);
        if (id != cases[i].id)
            fail_msg("%s: token %d, wanted %d", cases[i].what, id, cases[i].id);
    }
    model_sampler_free(s);
}

/* Scores that a penalty drives out of a float's range are drawn from all the same. */
static void test_tiny_penalty(void **state)
{
    (void)state;
    const float logits[3] = {1e10f, 1e10f, 1};
    const int32_t seen[2] = {0, 1};
    struct model_sampling how = model_sampling_default;
    how.temperature = 1;
    how.repetition_penalty = 1e-38f;
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(3, &s, NULL), 0);
    assert_int_equal(drawn(s, &how, logits, seen, 2, 0.25), 0);
    assert_int_equal(drawn(s, &how, logits, seen, 2, 0.75), 1);
    model_sampler_free(s);
}

/* All of a flat vocabulary: every stage of the ranking, and the very last token. */
static void test_flat(void **state)
{
    (void)state;
    enum { V = 50304 };
    float *logits = calloc(V, sizeof *logits);
    assert_non_null(logits);
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(V, &s, NULL), 0);
    struct model_sampling how = model_sampling_default;
    how.temperature = 1;
    assert_int_equal(drawn(s, &how, logits, NULL, 0, 0), 0);
    assert_int_equal(drawn(s, &how, logits, NULL, 0, 0.5), V / 2);
    assert_int_equal(drawn(s, &how, logits, NULL, 0, 1 - 0x1p-53), V - 1);
    how.top_p = 0.5f; /* half of them reach it: the next one is not needed any more, as in transformers */
    assert_int_equal(drawn(s, &how, logits, NULL, 0, 1 - 0x1p-53), V / 2 - 1);
    how.top_p = 1;
    for (uint32_t i = 0; i < V; i++)
        logits[i] = -(float)i * 0x1p-20f; /* all different, nearly flat */
    assert_int_equal(drawn(s, &how, logits, NULL, 0, 1 - 0x1p-53), V - 1);
    how.top_p = 0.5f;
    assert_in_range(drawn(s, &how, logits, NULL, 0, 1 - 0x1p-53), 24000, 26000);
    model_sampler_free(s);
    free(logits);
}

static void test_bad_logits(void **state)
{
    (void)state;
    struct model_sampler *s;
    assert_int_equal(model_sampler_new(11, &s, NULL), 0);
    for (int at = 0; at < 11; at++) {
        static const struct {
            float bad;
            const char *says;
        } cases[] = {{NAN, "is nan"}, {-NAN, "is -nan"}, {INFINITY, "is inf"}};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            float logits[11] = {0};
            char says[40];
            logits[at] = cases[i].bad;
            snprintf(says, sizeof says, "the logit of token %d ", at);
            struct base_error err = {0};
            struct model_sampled out = {.id = -7};
            assert_int_equal(model_sampler_draw(s, &model_sampling_default, logits, NULL, 0, 0, &out, &err),
                             ERR_INTERNAL);
            if (out.id != -7 || !strstr(err.text, says) || !strstr(err.text, cases[i].says))
                fail_msg("'%s'", err.text);
        }
    }
    float logits[11];
    for (int i = 0; i < 11; i++)
        logits[i] = -INFINITY;
    struct base_error err = {0};
    struct model_sampled out;
    assert_int_equal(model_sampler_draw(s, &model_sampling_default, logits, NULL, 0, 0, &out, &err), ERR_INTERNAL);
    assert_non_null(strstr(err.text, "all 11 logits are -infinity"));
    model_sampler_free(s);
    model_sampler_free(NULL);
}

static void test_settings_check(void **state)
{
    (void)state;
    assert_int_equal(model_sampling_check(&model_sampling_default, NULL), 0);
    static const struct {
        struct model_sampling how;
        const char *says; /* NULL: fine */
    } cases[] = {
        {{0, 0, 1, 0, 1, 0, 0}, NULL},
        {{100, 4000000000u, 1e-30f, 1, 100, 1, 20}, NULL},
        {{-0.1f, 0, 1, 0, 1, 0, 0}, "temperature -0.1 is outside [0, 100]"},
        {{100.5f, 0, 1, 0, 1, 0, 0}, "temperature 100.5 is outside"},
        {{NAN, 0, 1, 0, 1, 0, 0}, "temperature nan is outside"},
        {{INFINITY, 0, 1, 0, 1, 0, 0}, "temperature inf is outside"},
        {{1, 0, 0, 0, 1, 0, 0}, "top_p 0 is outside (0, 1]"},
        {{1, 0, 1.01f, 0, 1, 0, 0}, "top_p 1.01 is outside"},
        {{1, 0, NAN, 0, 1, 0, 0}, "top_p nan is outside"},
        {{1, 0, 1, -0.5f, 1, 0, 0}, "min_p -0.5 is outside [0, 1]"},
        {{1, 0, 1, 1.5f, 1, 0, 0}, "min_p 1.5 is outside"},
        {{1, 0, 1, 0, 0, 0, 0}, "repetition_penalty 0 is outside (0, 100]"},
        {{1, 0, 1, 0, 101, 0, 0}, "repetition_penalty 101 is outside"},
        {{1, 0, 1, 0, 1, 0, 21}, "logprobs 21 is outside 0..20"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct base_error err = {0};
        int rc = model_sampling_check(&cases[i].how, &err);
        if (cases[i].says ? rc != ERR_INPUT || !strstr(err.text, cases[i].says) : rc != 0)
            fail_msg("case %zu: rc %d, '%s', wanted '%s'", i, rc, err.text, cases[i].says ? cases[i].says : "success");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_exp_and_log),
        cmocka_unit_test(test_exp_sum_twins),
        cmocka_unit_test(test_transformers),
        cmocka_unit_test(test_plain_twin),
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_draws_depend_on_seed_and_position_alone),
        cmocka_unit_test(test_stream_is_fixed),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_top_logprobs),
        cmocka_unit_test(test_corners),
        cmocka_unit_test(test_tiny_penalty),
        cmocka_unit_test(test_flat),
        cmocka_unit_test(test_bad_logits),
        cmocka_unit_test(test_settings_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
