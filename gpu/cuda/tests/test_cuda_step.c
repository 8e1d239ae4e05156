/* Steps on a CUDA device: the same sequence gives the same bits however it is run, tokens are drawn as the sampler draws them,
 * and what comes and goes around steps: weights that are still arriving, sleep. */
#include <math.h>

#include "gpu/cuda/tests/cuda_testing.h"

enum { N_CTX = 160, N_BLOCKS = 90, N_SEQS = 8, VOCAB = 97 };

static const struct gpu_limits limits_usual = {400, N_SEQS, 400, N_CTX, N_BLOCKS};

/* Tails everywhere: rows, vocabulary and sizes that tiles do not divide. */
static struct model_config config_of(bool parallel, uint32_t head_dim, uint32_t n_layers)
{
    return (struct model_config){.n_layers = n_layers,
                                 .hidden = 3 * head_dim,
                                 .n_heads = 3,
                                 .head_dim = head_dim,
                                 .rotary_dims = parallel ? 10 : head_dim,
                                 .intermediate = 296,
                                 .vocab = VOCAB,
                                 .n_positions = 200,
                                 .rotary_base = 10000,
                                 .norm_eps = 1e-5f,
                                 .parallel_residual = parallel,
                                 .attention_bias = parallel,
                                 .tied = !parallel,
                                 .act = parallel ? MODEL_ACT_GELU_ERF : MODEL_ACT_GELU_TANH};
}

/* As by default, without graphs, with the fastest GEMMs: opened once, for compiling the kernels takes longer than most tests here. */
enum { USUAL, NO_GRAPHS, FASTEST, N_DEVICES };
static struct gpu_device *devices[N_DEVICES];

struct fixture {
    struct gpu_device *device; /* of these */
    struct gpu_model *model;
    uint8_t *weights;
};

static void fixture_open(struct fixture *f, int device, const struct model_config *config, enum model_dtype dtype,
                         const struct gpu_limits *limits)
{
    f->device = devices[device];
    f->model = testing_model(f->device, config, dtype, limits);
    f->weights = cuda_testing_weights(gpu_model_plan(f->model), 1234);
}

static void fixture_load(struct fixture *f)
{
    struct base_error err = {0};
    cuda_testing_upload(f->device, f->model, f->weights);
    testing_ok(gpu_model_warm_up(f->model, &err), &err);
}

static void fixture_close(struct fixture *f)
{
    free(f->weights);
    gpu_model_free(f->model);
}

static void random_tokens(int32_t *tokens, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(testing_random(&seed) % VOCAB);
}

static void shuffle(uint32_t *v, uint32_t n, uint64_t seed)
{
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t j = (uint32_t)(testing_random(&seed) % i), other = v[j];
        v[j] = v[i - 1];
        v[i - 1] = other;
    }
}

static struct gpu_result step(struct gpu_model *model, const struct gpu_sequence *s, uint32_t n)
{
    struct base_error err = {0};
    struct gpu_result result = {0};
    testing_ok(gpu_model_forward(model, s, n, &result, &err), &err);
    return result;
}

static void check_same(const float *got, const float *want, uint32_t n, const char *what, uint32_t number)
{
    for (size_t i = 0; i < (size_t)n * VOCAB; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s %u: logit %zu of token %zu is %a, was %a", what, number, i % VOCAB, i / VOCAB, (double)got[i],
                     (double)want[i]);
}

/* ---- the same bits ---- */

/* A sequence: so many tokens of prompt, and the rest as if they had been generated. */
struct told {
    int32_t tokens[N_CTX];
    uint32_t n_prompt, n;
    uint32_t blocks[N_CTX / GPU_BLOCK_TOKENS];
    float *logits; /* [n][VOCAB] */
};

static void told_init(struct told *t, uint32_t n_prompt, uint32_t n, uint64_t seed)
{
    random_tokens(t->tokens, N_CTX, seed);
    t->n_prompt = n_prompt;
    t->n = n;
    t->logits = testing_alloc((size_t)n * VOCAB, sizeof(float));
}

/* The next tokens of t from `at` on, at most `chunk`, of one kind. */
static struct gpu_sequence next_of(const struct told *t, uint32_t at, uint32_t chunk)
{
    const bool generated = at >= t->n_prompt;
    const uint32_t left = (generated ? t->n : t->n_prompt) - at, n = left < chunk ? left : chunk;
    return (struct gpu_sequence){.tokens = t->tokens + at,
                                 .n_tokens = n,
                                 .position = at,
                                 .blocks = t->blocks,
                                 .n_logits = n,
                                 .generated = generated};
}

static void run_alone(struct gpu_model *model, struct told *t, uint32_t chunk)
{
    for (uint32_t at = 0; at < t->n;) {
        const struct gpu_sequence s = next_of(t, at, chunk);
        memcpy(t->logits + (size_t)at * VOCAB, step(model, &s, 1).logits, (size_t)s.n_tokens * VOCAB * sizeof(float));
        at += s.n_tokens;
    }
}

/* All of them, each step 1 to 23 tokens of each, until all are through; where a prompt ends, its sequence may stand in the step
 * twice. */
static void run_mixed(struct gpu_model *model, struct told *all, uint32_t n_all, uint64_t seed)
{
    uint32_t at[N_SEQS] = {0};
    for (;;) {
        struct gpu_sequence s[N_SEQS];
        uint32_t who[N_SEQS], n = 0;
        for (uint32_t i = 0; i < n_all; i++)
            for (uint32_t twice = 0; twice < 2 && at[i] < all[i].n && n + (n_all - i - 1) < N_SEQS; twice++) {
                const bool prompt = at[i] < all[i].n_prompt;
                s[n] = next_of(&all[i], at[i], 1 + (uint32_t)(testing_random(&seed) % 23));
                at[i] += s[n].n_tokens;
                who[n++] = i;
                if (!prompt || at[i] < all[i].n_prompt)
                    break;
            }
        if (n == 0)
            return;
        const float *out = step(model, s, n).logits;
        for (uint32_t i = 0; i < n; i++) {
            const size_t values = (size_t)s[i].n_tokens * VOCAB;
            memcpy(all[who[i]].logits + (size_t)s[i].position * VOCAB, out, values * sizeof *out);
            out += values;
        }
    }
}

static void deal_blocks(struct told *all, uint32_t n_all, uint64_t seed)
{
    uint32_t blocks[N_BLOCKS], used = 0;
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        blocks[i] = i;
    shuffle(blocks, N_BLOCKS, seed);
    for (uint32_t i = 0; i < n_all; i++)
        for (uint32_t j = 0; j < N_CTX / GPU_BLOCK_TOKENS; j++)
            all[i].blocks[j] = blocks[used++];
    assert_true(used <= N_BLOCKS);
}

static void check_same_bits(const struct model_config *config, enum model_dtype dtype, size_t n_chunks)
{
    enum { N = 5 };
    static const uint32_t n_prompt[N] = {40, 1, 100, 33, 17}, n_all[N] = {110, 3, 101, 40, 18}, chunks[] = {7, 64, 1};
    struct told want[N], got[N];
    struct fixture f;
    for (uint32_t i = 0; i < N; i++) {
        told_init(&want[i], n_prompt[i], n_all[i], i + 1);
        told_init(&got[i], n_prompt[i], n_all[i], i + 1);
    }
    /* what all others are compared with: alone, each kind in one run (generated tokens: in several passes), blocks in order */
    fixture_open(&f, USUAL, config, dtype, &limits_usual);
    fixture_load(&f);
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t j = 0; j < N_CTX / GPU_BLOCK_TOKENS; j++)
            want[i].blocks[j] = j;
        run_alone(f.model, &want[i], N_CTX);
    }
    for (size_t c = 0; c < n_chunks; c++) {
        deal_blocks(got, N, c);
        run_alone(f.model, &got[0], chunks[c]);
        check_same(got[0].logits, want[0].logits, got[0].n, "chunks of", chunks[c]);
    }
    fixture_close(&f);
    for (int device = USUAL; device <= NO_GRAPHS; device++) {
        fixture_open(&f, device, config, dtype, &limits_usual);
        fixture_load(&f);
        deal_blocks(got, N, 7);
        run_mixed(f.model, got, N, 77 + (uint64_t)device);
        for (uint32_t i = 0; i < N; i++)
            check_same(got[i].logits, want[i].logits, got[i].n,
                       device == NO_GRAPHS ? "without graphs, sequence" : "mixed, sequence", i);
        fixture_close(&f);
    }
    for (uint32_t i = 0; i < N; i++) {
        free(want[i].logits);
        free(got[i].logits);
    }
}

static void same_sequence_same_bits(void **state)
{
    (void)state;
    const struct model_config parallel = config_of(true, 32, 2), sequential = config_of(false, 64, 2);
    check_same_bits(&parallel, MODEL_F16, 3);
    check_same_bits(&sequential, MODEL_BF16, 1);
}

static void same_bits_with_8_bit_weights(void **state)
{
    (void)state;
    struct model_config config = config_of(true, 32, 1);
    config.intermediate = 304; /* rows of 16 bytes */
    check_same_bits(&config, MODEL_Q8, 1);
}

/* ---- drawing ---- */

static const struct model_sampling samplings[] = {
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1},
    {.temperature = 0.7f, .top_k = 5, .top_p = 1, .repetition_penalty = 1, .seed = 2},
    {.temperature = 1.3f, .top_p = 0.8f, .repetition_penalty = 1, .seed = 3},
    {.temperature = 1, .top_k = 40, .top_p = 0.95f, .min_p = 0.02f, .repetition_penalty = 1, .seed = UINT64_MAX},
    {.temperature = 100, .top_p = 1, .repetition_penalty = 1, .seed = 5},
};

static int32_t draw_here(struct model_sampler *sampler, const struct model_sampling *how, const float *logits,
                         uint64_t draw)
{
    struct base_error err = {0};
    struct model_sampled out;
    testing_ok(model_sampler_draw(sampler, how, logits, NULL, 0, draw, &out, &err), &err);
    return out.id;
}

/* Of each pair of equal sequences one is drawn for on the device, the other gives its logits: so the sampler here draws from the
 * same numbers. Both kinds of tokens, drawn and not drawn in turns. */
static void tokens_are_drawn_as_the_sampler_does(void **state)
{
    (void)state;
    const struct model_config config = config_of(true, 32, 1);
    struct fixture f;
    struct model_sampler *sampler;
    struct base_error err = {0};
    int32_t tokens[40];
    uint32_t blocks[N_SEQS][3];
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    testing_ok(model_sampler_new(VOCAB, &sampler, &err), &err);
    for (uint32_t i = 0; i < N_SEQS; i++)
        for (uint32_t j = 0; j < 3; j++)
            blocks[i][j] = i * 3 + j;
    for (size_t how = 0; how < sizeof samplings / sizeof *samplings; how++) {
        assert_true(gpu_model_samples(f.model, &samplings[how]));
        random_tokens(tokens, 40, how);
        struct gpu_sequence s[N_SEQS];
        for (uint32_t i = 0; i < N_SEQS; i++) {
            const bool generated = i >= N_SEQS / 2, drawn = i % 2 == 0;
            s[i] = (struct gpu_sequence){.tokens = tokens,
                                         .n_tokens = 5 + i / 2,
                                         .blocks = blocks[i],
                                         .n_logits = 1,
                                         .generated = generated,
                                         .sampling = drawn ? &samplings[how] : NULL,
                                         .draw = drawn ? 1000 * how + i : 0};
        }
        const struct gpu_result out = step(f.model, s, N_SEQS);
        for (uint32_t i = 0; i < N_SEQS; i += 2) {
            const int32_t want = draw_here(sampler, &samplings[how], out.logits + (size_t)(i / 2) * VOCAB, s[i].draw);
            if (out.sampled[i] != want)
                fail_msg("sampling %zu, sequence %u: %d, the sampler draws %d", how, i, out.sampled[i], want);
        }
    }
    const struct model_sampling penalty = {.temperature = 1, .top_p = 1, .repetition_penalty = 1.1f};
    const struct model_sampling logprobs = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_logprobs = 1};
    assert_false(gpu_model_samples(f.model, &penalty));
    assert_false(gpu_model_samples(f.model, &logprobs));
    model_sampler_free(sampler);
    fixture_close(&f);
}

/* Logits that are no numbers cannot be drawn from: -1, and the others of the step are drawn. */
static void a_nan_is_no_token(void **state)
{
    (void)state;
    const struct model_config config = config_of(false, 32, 1);
    struct fixture f;
    int32_t good[] = {1, 2, 3}, bad[] = {1, 5, 3};
    uint32_t blocks[2] = {0, 1};
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    const struct gpu_tensor *embedding = &gpu_model_plan(f.model)->tensors[0];
    const uint16_t nan = 0x7e00;
    memcpy(f.weights + embedding->offset + 5 * embedding->cols * sizeof nan, &nan, sizeof nan);
    fixture_load(&f);
    struct model_sampling how = model_sampling_default;
    const struct gpu_sequence s[] = {
        {.tokens = bad, .n_tokens = 3, .blocks = blocks, .n_logits = 1, .sampling = &how},
        {.tokens = good, .n_tokens = 3, .blocks = blocks + 1, .n_logits = 1, .sampling = &how},
    };
    const struct gpu_result out = step(f.model, s, 2);
    assert_int_equal(out.sampled[0], -1);
    /* tied: the NaN is one of the output's weights, too */
    assert_int_equal(out.sampled[1], -1);
    fixture_close(&f);
}

/* ---- rows ---- */

/* Rows of logits belong to the last n_logits tokens, sequences in order, whatever passes they were computed in. */
static void logits_are_those_asked_for(void **state)
{
    (void)state;
    const struct model_config config = config_of(true, 32, 1);
    struct fixture f;
    struct told t[4];
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    for (uint32_t i = 0; i < 4; i++)
        told_init(&t[i], i % 2 ? 0 : 20, 20, i + 50); /* generated, prompt, .. */
    deal_blocks(t, 4, 3);
    for (uint32_t i = 0; i < 4; i++)
        run_alone(f.model, &t[i], 20);
    struct gpu_sequence s[4];
    static const uint32_t wanted[] = {2, 3, 0, 20};
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = next_of(&t[i], 0, 20);
        s[i].n_logits = wanted[i];
    }
    const float *out = step(f.model, s, 4).logits;
    for (uint32_t i = 0; i < 4; i++) {
        check_same(out, t[i].logits + (size_t)(20 - wanted[i]) * VOCAB, wanted[i], "last rows of sequence", i);
        out += (size_t)wanted[i] * VOCAB;
        free(t[i].logits);
    }
    fixture_close(&f);
}

static double largest_of(const float *v, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)v[i]));
    return largest;
}

/* Random weights, the cpu's numbers: nothing but rounding is between them. */
static void logits_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const struct {
        bool parallel;
        uint32_t head_dim;
        enum model_dtype dtype;
        double allowed; /* 11 and 8 bits, at every one of some dozen steps */
    } cases[] = {{true, 32, MODEL_F16, 5e-3}, {false, 80, MODEL_BF16, 4e-2}};
    for (size_t c = 0; c < 2; c++) {
        const struct model_config config = config_of(cases[c].parallel, cases[c].head_dim, 2);
        struct gpu_device *cpu = testing_open("auto", 1);
        struct gpu_model *model = testing_model(cpu, &config, cases[c].dtype, &limits_usual);
        struct fixture f;
        struct told t;
        double worst = 0;
        fixture_open(&f, USUAL, &config, cases[c].dtype, &limits_usual);
        fixture_load(&f);
        memcpy(gpu_model_host(model), f.weights, gpu_model_plan(model)->weights_bytes);
        told_init(&t, 50, 90, 5);
        deal_blocks(&t, 1, 5);
        run_alone(f.model, &t, 50);
        struct gpu_sequence s = next_of(&t, 0, 50);
        s.n_tokens = s.n_logits = t.n;
        const float *want = step(model, &s, 1).logits;
        for (size_t i = 0; i < (size_t)t.n * VOCAB; i++) {
            const double error = fabs((double)t.logits[i] - (double)want[i]);
            worst = error <= worst ? worst : error;
        }
        const double largest = largest_of(want, (size_t)t.n * VOCAB);
        if (!(worst <= cases[c].allowed * largest))
            fail_msg("heads of %u, %s: worst error %.2e of the largest logit", cases[c].head_dim,
                     model_dtype_name(cases[c].dtype), worst / largest);
        free(t.logits);
        fixture_close(&f);
        gpu_model_free(model);
        gpu_close(cpu);
    }
}

/* The same numbers up to rounding; chosen for each size of a prompt, they survive a snapshot like the others. */
static void the_fastest_gemms_are_close(void **state)
{
    (void)state;
    struct model_config config = config_of(true, 64, 2);
    config.intermediate = 768; /* long enough to be split */
    config.vocab = VOCAB;
    struct told usual, fastest, restored;
    struct fixture f;
    struct base_error err = {0};
    struct base_buffer choices;
    told_init(&usual, 100, 104, 3);
    told_init(&fastest, 100, 104, 3);
    told_init(&restored, 100, 104, 3);
    deal_blocks(&usual, 1, 1);
    deal_blocks(&fastest, 1, 2);
    deal_blocks(&restored, 1, 3);
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    run_alone(f.model, &usual, 37);
    fixture_close(&f);
    fixture_open(&f, FASTEST, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    run_alone(f.model, &fastest, 37);
    base_buffer_init(&choices, 64 << 20);
    testing_ok(gpu_model_choices_export(f.model, &choices, &err), &err);
    fixture_close(&f);

    const double largest = largest_of(usual.logits, (size_t)usual.n * VOCAB);
    for (size_t i = 0; i < (size_t)usual.n * VOCAB; i++)
        if (!(fabs((double)usual.logits[i] - (double)fastest.logits[i]) <= 5e-3 * largest))
            fail_msg("logit %zu of token %zu is %g, and %g by the usual way", i % VOCAB, i / VOCAB,
                     (double)fastest.logits[i], (double)usual.logits[i]);
    fixture_open(&f, FASTEST, &config, MODEL_F16, &limits_usual);
    cuda_testing_upload(f.device, f.model, f.weights);
    testing_ok(gpu_model_choices_import(f.model, choices.data, choices.n, &err), &err);
    run_alone(f.model, &restored, 37);
    check_same(restored.logits, fastest.logits, restored.n, "fastest, restored", 0);
    fixture_close(&f);
    base_buffer_done(&choices);
    free(usual.logits);
    free(fastest.logits);
    free(restored.logits);
}

/* ---- weights that are still arriving ---- */

struct arriving {
    struct gpu_upload *upload;
    struct gpu_model *model;
    const uint8_t *weights;
    uint64_t done;
    uint32_t n_calls;
    uint64_t fail_at; /* 0: never */
};

enum { ARRIVING_BYTES = 16 << 10 };

/* As a restore does it: returns once all up to `end` has been put, not more. */
static int arrive(void *context, uint64_t end, struct base_error *err)
{
    struct arriving *a = context;
    const uint64_t total = gpu_model_plan(a->model)->weights_bytes;
    a->n_calls++;
    if (a->fail_at && end >= a->fail_at)
        return base_fail(err, ERR_CORRUPT, "chunk 7 does not match its checksum");
    while (a->done < end) {
        const uint64_t left = total - a->done, n = left < ARRIVING_BYTES ? left : ARRIVING_BYTES;
        uint32_t slot;
        uint8_t *buffer;
        testing_ok(gpu_upload_take(a->upload, &slot, &buffer, err), err);
        memcpy(buffer, a->weights + a->done, n);
        testing_ok(gpu_upload_put(a->upload, slot, a->model, a->done, n, err), err);
        a->done += n;
    }
    return 0;
}

static void early_layers_compute_while_late_ones_arrive(void **state)
{
    (void)state;
    for (int parallel = 0; parallel < 2; parallel++) {
        const struct model_config config = config_of(parallel, 32, 4);
        struct fixture f;
        struct told want, got;
        struct base_error err = {0};
        told_init(&want, 30, 40, 9);
        told_init(&got, 30, 40, 9);
        deal_blocks(&want, 1, 1);
        deal_blocks(&got, 1, 2);
        fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
        fixture_load(&f);
        run_alone(f.model, &want, N_CTX);

        struct base_buffer choices;
        base_buffer_init(&choices, 64 << 20);
        testing_ok(gpu_model_choices_export(f.model, &choices, &err), &err);
        gpu_model_free(f.model);
        f.model = testing_model(f.device, &config, MODEL_F16, &limits_usual);
        testing_ok(gpu_model_choices_import(f.model, choices.data, choices.n, &err), &err);
        base_buffer_done(&choices);

        struct arriving a = {.model = f.model, .weights = f.weights};
        testing_ok(gpu_upload_open(f.device, 2, ARRIVING_BYTES, &a.upload, &err), &err);
        gpu_model_gate(f.model, arrive, &a);
        struct gpu_sequence s = next_of(&got, 0, 30);
        s.n_logits = 0; /* the last weights are not needed yet */
        (void)step(f.model, &s, 1);
        assert_true(a.n_calls > 4 && (config.tied || a.done < gpu_model_plan(f.model)->weights_bytes));
        assert_int_equal(arrive(&a, gpu_model_plan(f.model)->weights_bytes, &err), 0);
        gpu_model_gate(f.model, NULL, NULL);
        run_alone(f.model, &got, N_CTX);
        check_same(got.logits, want.logits, got.n, "arrived late, parallel", (uint32_t)parallel);
        testing_ok(gpu_upload_sync(a.upload, &err), &err);
        gpu_upload_close(a.upload);
        free(want.logits);
        free(got.logits);
        fixture_close(&f);
    }
}

/* What the gate says is what the step says; afterwards the model runs as before. */
static void a_gate_that_fails_fails_the_step(void **state)
{
    (void)state;
    const struct model_config config = config_of(true, 32, 3);
    struct fixture f;
    struct told want, got;
    struct base_error err = {0};
    struct gpu_result out = {0};
    told_init(&want, 30, 33, 9);
    told_init(&got, 30, 33, 9);
    deal_blocks(&want, 1, 1);
    deal_blocks(&got, 1, 1);
    fixture_open(&f, USUAL, &config, MODEL_BF16, &limits_usual);
    fixture_load(&f);
    run_alone(f.model, &want, N_CTX);
    struct arriving a = {.model = f.model, .done = UINT64_MAX, .fail_at = gpu_model_plan(f.model)->weights_bytes / 2};
    gpu_model_gate(f.model, arrive, &a);
    for (uint32_t at = 0; at <= 30; at += 30) { /* a prompt, then generated tokens */
        const struct gpu_sequence s = next_of(&got, at, 30);
        assert_int_equal(gpu_model_forward(f.model, &s, 1, &out, &err), ERR_CORRUPT);
        assert_string_equal(err.text, "chunk 7 does not match its checksum");
        assert_null(out.logits);
    }
    gpu_model_gate(f.model, NULL, NULL);
    run_alone(f.model, &got, N_CTX);
    check_same(got.logits, want.logits, got.n, "after a gate that failed", 0);
    free(want.logits);
    free(got.logits);
    fixture_close(&f);
}

/* ---- sleep ---- */

static void a_model_that_slept_answers_as_before(void **state)
{
    (void)state;
    const struct model_config config = config_of(true, 32, 2);
    struct fixture f;
    struct told want, got;
    struct base_error err = {0};
    told_init(&want, 30, 40, 9);
    told_init(&got, 30, 40, 9);
    deal_blocks(&want, 1, 1);
    deal_blocks(&got, 1, 2);
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    run_alone(f.model, &want, N_CTX);
    for (uint32_t i = 0; i < 2; i++) {
        testing_ok(gpu_model_sleep(f.model, &err), &err);
        testing_ok(gpu_model_wake(f.model, &err), &err);
        cuda_testing_upload(f.device, f.model, f.weights); /* nothing is chosen anew */
        memset(got.logits, 0, (size_t)got.n * VOCAB * sizeof(float));
        run_alone(f.model, &got, N_CTX);
        check_same(got.logits, want.logits, got.n, "after sleep", i);
    }
    testing_ok(gpu_model_sleep(f.model, &err), &err); /* and can be freed */
    free(want.logits);
    free(got.logits);
    fixture_close(&f);
}

/* ---- what is refused ---- */

static void what_the_kernels_lack_is_refused(void **state)
{
    (void)state;
    struct gpu_device *device = devices[USUAL];
    const struct model_config good = config_of(true, 32, 1);
    struct model_config odd_head = good, odd_size = good;
    odd_head.head_dim = odd_head.hidden = 40;
    odd_head.n_heads = 1;
    odd_size.intermediate = 300;
    struct gpu_limits greedy = limits_usual;
    greedy.n_blocks = 1u << 31;
    const struct {
        const struct model_config *config;
        enum model_dtype dtype;
        const struct gpu_limits *limits;
        int rc;
        const char *text;
    } cases[] = {
        {&odd_head, MODEL_F16, &limits_usual, ERR_USAGE, "heads of 40"},
        {&good, MODEL_F32, &limits_usual, ERR_USAGE, "use --dtype f16"},
        {&odd_size, MODEL_F16, &limits_usual, ERR_USAGE, "multiples of 8"},
        {&good, MODEL_Q8, &limits_usual, ERR_USAGE, "multiples of 16"},
        {&good, MODEL_F16, &greedy, ERR_NOMEM, "in 2147483648 blocks"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gpu_model *model;
        struct base_error err = {0};
        const int rc = gpu_model_new(device, cases[i].config, cases[i].dtype, cases[i].limits, &model, &err);
        if (rc != cases[i].rc || !strstr(err.text, cases[i].text))
            fail_msg("case %zu: %d (%s)", i, rc, err.text);
    }
    assert_int_equal(gpu_device_dtype(device, MODEL_F32), MODEL_F16);
    assert_int_equal(gpu_device_dtype(device, MODEL_BF16), MODEL_BF16);
}

/* A prefix that a third sequence wrote may be read by two. */
static void a_shared_prefix_is_read_by_all(void **state)
{
    (void)state;
    const struct model_config config = config_of(true, 32, 1);
    struct fixture f;
    int32_t tokens[40];
    fixture_open(&f, USUAL, &config, MODEL_F16, &limits_usual);
    fixture_load(&f);
    random_tokens(tokens, 40, 8);
    const uint32_t alone[] = {4, 5, 6}, first[] = {10, 11, 12}, second[] = {10, 11, 13};
    float want[8 * VOCAB];
    const struct gpu_sequence whole = {.tokens = tokens, .n_tokens = 40, .blocks = alone, .n_logits = 8};
    memcpy(want, step(f.model, &whole, 1).logits, sizeof want);
    const struct gpu_sequence prefix = {.tokens = tokens, .n_tokens = 32, .blocks = first};
    (void)step(f.model, &prefix, 1);
    const struct gpu_sequence both[] = {
        {.tokens = tokens + 32, .n_tokens = 8, .position = 32, .blocks = first, .n_logits = 8},
        {.tokens = tokens + 32, .n_tokens = 8, .position = 32, .blocks = second, .n_logits = 8},
    };
    const float *out = step(f.model, both, 2).logits;
    check_same(out, want, 8, "reader", 0);
    check_same(out + 8 * VOCAB, want, 8, "reader", 1);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_kernels_lack_is_refused),
        cmocka_unit_test(logits_are_those_of_the_cpu),
        cmocka_unit_test(logits_are_those_asked_for),
        cmocka_unit_test(a_shared_prefix_is_read_by_all),
        cmocka_unit_test(same_sequence_same_bits),
        cmocka_unit_test(same_bits_with_8_bit_weights),
        cmocka_unit_test(the_fastest_gemms_are_close),
        cmocka_unit_test(tokens_are_drawn_as_the_sampler_does),
        cmocka_unit_test(a_nan_is_no_token),
        cmocka_unit_test(early_layers_compute_while_late_ones_arrive),
        cmocka_unit_test(a_gate_that_fails_fails_the_step),
        cmocka_unit_test(a_model_that_slept_answers_as_before),
    };
    static const struct gpu_open_options options[N_DEVICES] = {
        [NO_GRAPHS] = {.no_graphs = true}, [FASTEST] = {.fastest_gemms = true}};
    for (int i = 0; i < N_DEVICES; i++)
        devices[i] = cuda_testing_open(&options[i]);
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < N_DEVICES; i++)
        gpu_close(devices[i]);
    return rc;
}
