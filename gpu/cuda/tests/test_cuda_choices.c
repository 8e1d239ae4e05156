/* What a model found out, as bytes: a model that is given them answers bit for bit as the one that chose, without choosing; and
 * bytes that are not what was written are refused. */
#include "gpu/backend.h"
#include "gpu/cuda/cuda_choices.h"
#include "gpu/cuda/tests/cuda_testing.h"

enum { VOCAB = 72, N_TOKENS = 24, N_PROMPT = 16, BYTES_MAX = 64 << 20 };

static const struct model_config config = {.n_layers = 2,
                                           .hidden = 64,
                                           .n_heads = 2,
                                           .head_dim = 32,
                                           .rotary_dims = 8,
                                           .intermediate = 96,
                                           .vocab = VOCAB,
                                           .n_positions = 64,
                                           .rotary_base = 10000,
                                           .norm_eps = 1e-5f,
                                           .parallel_residual = true,
                                           .attention_bias = true};
static const struct gpu_limits limits_usual = {64, 2, 64, 64, 8}, limits_other = {48, 3, 48, 64, 9};

static struct gpu_device *device;
static uint8_t *weights;

static struct gpu_model *loaded_model(struct gpu_device *on, const struct gpu_limits *limits)
{
    struct gpu_model *model = testing_model(on, &config, MODEL_F16, limits);
    if (!weights)
        weights = cuda_testing_weights(gpu_model_plan(model), 21);
    cuda_testing_upload(on, model, weights);
    return model;
}

/* Prompt, then generated tokens one by one and in a run. out: [N_TOKENS][VOCAB] */
static void answer(struct gpu_model *model, float *out)
{
    static const uint32_t runs[] = {N_PROMPT, 1, 1, 3, N_TOKENS - N_PROMPT - 5};
    int32_t tokens[N_TOKENS];
    const uint32_t blocks[] = {5, 2};
    uint32_t at = 0;
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)(i * 29 % VOCAB);
    for (size_t r = 0; r < sizeof runs / sizeof *runs; at += runs[r++]) {
        const struct gpu_sequence s = {.tokens = tokens + at,
                                       .n_tokens = runs[r],
                                       .position = at,
                                       .blocks = blocks,
                                       .n_logits = runs[r],
                                       .generated = at > 0};
        struct base_error err = {0};
        struct gpu_result result;
        testing_ok(gpu_model_forward(model, &s, 1, &result, &err), &err);
        memcpy(out + (size_t)at * VOCAB, result.logits, (size_t)runs[r] * VOCAB * sizeof *out);
    }
}

static void check_answer(struct gpu_model *model, const float *want, const char *what)
{
    float got[N_TOKENS * VOCAB];
    answer(model, got);
    for (size_t i = 0; i < N_TOKENS * VOCAB; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s: logit %zu of token %zu is %a, was %a", what, i % VOCAB, i / VOCAB, (double)got[i],
                     (double)want[i]);
}

static struct base_buffer export(struct gpu_model *model)
{
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, BYTES_MAX);
    testing_ok(gpu_model_choices_export(model, &out, &err), &err);
    return out;
}

/* What the one that was warmed up exports and answers. */
static struct base_buffer original(float *out_answer)
{
    struct base_error err = {0};
    struct gpu_model *model = loaded_model(device, &limits_usual);
    testing_ok(gpu_model_warm_up(model, &err), &err);
    answer(model, out_answer);
    const struct base_buffer bytes = export(model);
    gpu_model_free(model);
    return bytes;
}

static struct cuda_choices *decoded(const struct base_buffer *bytes)
{
    struct base_error err = {0};
    struct cuda_choices *c = testing_alloc(1, sizeof *c);
    testing_ok(cuda_choices_decode(c, bytes->data, bytes->n, &err), &err);
    return c;
}

static void decoded_free(struct cuda_choices *c)
{
    cuda_choices_done(c);
    free(c);
}

static void imported_choices_give_the_same_bits(void **state)
{
    (void)state;
    float want[N_TOKENS * VOCAB];
    struct base_error err = {0};
    struct base_buffer bytes = original(want);
    struct gpu_model *model = loaded_model(device, &limits_usual);
    testing_ok(gpu_model_choices_import(model, bytes.data, bytes.n, &err), &err);
    check_answer(model, want, "imported");
    testing_ok(gpu_model_warm_up(model, &err), &err); /* has nothing to do */
    check_answer(model, want, "imported and warmed up");
    struct base_buffer again = export(model);
    assert_int_equal(again.n, bytes.n);
    assert_memory_equal(again.data, bytes.data, bytes.n);
    base_buffer_done(&again);
    gpu_model_free(model);

    /* another process, as it were: kernels come from the bytes as well */
    struct gpu_device *other = cuda_testing_open(NULL);
    model = loaded_model(other, &limits_usual);
    testing_ok(gpu_model_choices_import(model, bytes.data, bytes.n, &err), &err);
    check_answer(model, want, "imported on a fresh device");
    gpu_model_free(model);
    gpu_close(other);
    base_buffer_done(&bytes);
}

/* Without a warm-up the heuristic's first algorithms hold, from the first step on. */
static void without_a_warm_up_the_first_choice_stays(void **state)
{
    (void)state;
    float want[N_TOKENS * VOCAB];
    struct base_error err = {0};
    struct gpu_model *model = loaded_model(device, &limits_usual);
    struct base_buffer none;
    base_buffer_init(&none, BYTES_MAX);
    assert_int_equal(gpu_model_choices_export(model, &none, &err), ERR_USAGE);
    answer(model, want);
    testing_ok(gpu_model_warm_up(model, &err), &err);
    check_answer(model, want, "warmed up late");
    gpu_model_free(model);
}

/* What is in the bytes: a graph a bucket, every launch once, its addresses in the arena, `up` beside the attention. */
static void graphs_are_what_the_pass_launches(void **state)
{
    (void)state;
    float want[N_TOKENS * VOCAB];
    struct base_buffer bytes = original(want);
    struct cuda_choices *c = decoded(&bytes);
    assert_int_equal(c->n_graphs, 7); /* 1 to 64 rows */
    for (uint32_t g = 0; g < c->n_graphs; g++) {
        const struct cuda_topology *t = &c->graphs[g];
        uint32_t forks = 0, joins = 0;
        assert_int_equal(t->n, 1 + config.n_layers * 8 + 3);
        assert_int_equal(t->nodes[0].kernel, CUDA_EMBED);
        assert_int_equal(t->nodes[0].n_after, 0);
        assert_int_equal(t->nodes[0].grid[0], 1u << g);
        assert_int_equal(t->nodes[t->n - 1].kernel, CUDA_SAMPLE);
        for (uint32_t i = 1; i < t->n; i++) {
            forks += t->nodes[i].n_after == 1 && t->nodes[i].after[0] != i - 1;
            joins += t->nodes[i].n_after == 2;
        }
        assert_int_equal(forks, config.n_layers);
        assert_int_equal(joins, config.n_layers);
    }
    decoded_free(c);
    base_buffer_done(&bytes);
}

/* A worker with other limits: its graphs are its own, the algorithms are the snapshot's, and so are the bits. */
static void other_limits_take_the_algorithms(void **state)
{
    (void)state;
    float want[N_TOKENS * VOCAB];
    struct base_error err = {0};
    struct base_buffer bytes = original(want);
    struct gpu_model *model = loaded_model(device, &limits_other);
    testing_ok(gpu_model_choices_import(model, bytes.data, bytes.n, &err), &err);
    check_answer(model, want, "other limits");
    gpu_model_free(model);
    base_buffer_done(&bytes);
}

/* ---- of another device, library, program ---- */

static struct base_buffer encoded(const struct cuda_choices *c)
{
    struct base_buffer out;
    base_buffer_init(&out, BYTES_MAX);
    cuda_choices_encode(c, &out);
    assert_int_equal(out.failed, 0);
    return out;
}

static void change_arch(struct cuda_choices *c)
{
    strcpy(c->arch, "sm_999");
}

static void change_driver(struct cuda_choices *c)
{
    strcat(c->driver, "7");
}

static void change_kernels(struct cuda_choices *c)
{
    c->kernels_id++;
    c->image = (const uint8_t *)"another rouse's";
    c->image_bytes = 15;
    c->graphs[0].nodes[0].grid[0] = 3;
}

static void change_lt(struct cuda_choices *c)
{
    c->lt_version++;
    for (uint32_t i = 0; i < 8; i++)
        c->gemms[CUDA_QKV][0].algo.data[i] = i;
}

static void change_algorithm(struct cuda_choices *c)
{
    memset(&c->gemms[CUDA_UP][0].algo, 0xee, sizeof c->gemms[CUDA_UP][0].algo);
}

static void choices_of_others(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*change)(struct cuda_choices *c);
        int rc;
        const char *text;
        bool same_bits; /* nothing is chosen anew: a card's timing may choose otherwise */
    } cases[] = {
        {"another architecture", change_arch, ERR_CORRUPT, "of sm_999"},
        {"another driver", change_driver, ERR_CORRUPT, "choices: of "},
        {"another rouse's kernels: its graphs and code are left", change_kernels, 0, "", true},
        {"another cublasLt", change_lt, ERR_SERVICE, "which does not work here"},
        {"an algorithm that cublasLt does not know", change_algorithm, ERR_SERVICE, "does not admit the algorithm"},
    };
    float want[N_TOKENS * VOCAB], other[N_TOKENS * VOCAB];
    struct base_buffer bytes = original(want);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct base_error err = {0};
        struct gpu_model *model = loaded_model(device, &limits_usual);
        struct cuda_choices *c = decoded(&bytes);
        if (!c->gemms[CUDA_UP][0].usable && cases[i].change == change_algorithm)
            continue; /* no cublasLt here */
        cases[i].change(c);
        struct base_buffer changed = encoded(c);
        const int rc = gpu_model_choices_import(model, changed.data, changed.n, &err);
        if (rc != cases[i].rc || !strstr(err.text, cases[i].text))
            fail_msg("%s: %d (%s)", cases[i].name, rc, err.text);
        testing_ok(gpu_model_warm_up(model, &err), &err); /* whatever was left is chosen here */
        if (cases[i].same_bits)
            check_answer(model, want, cases[i].name);
        else
            answer(model, other);
        base_buffer_done(&changed);
        decoded_free(c);
        gpu_model_free(model);
    }
    base_buffer_done(&bytes);
}

/* ---- damage ---- */

static void refused(const void *bytes, size_t n, const char *what)
{
    static struct cuda_choices c;
    struct base_error err = {0};
    const int rc = cuda_choices_decode(&c, bytes, n, &err);
    if (rc != ERR_CORRUPT || strncmp(err.text, "choices: ", 9) != 0)
        fail_msg("%s: %d (%s)", what, rc, err.text);
}

static void change_pointer(struct cuda_choices *c)
{
    const uint64_t outside = c->layout[CUDA_CHOICES_ARENA] + 1;
    const uint16_t *at;
    (void)cuda_kernel_pointers(c->graphs[3].nodes[2].kernel, &at);
    memcpy(c->graphs[3].nodes[2].args + at[0], &outside, sizeof outside);
}

static void change_order(struct cuda_choices *c)
{
    c->graphs[1].nodes[4].after[0] = 4;
}

static void change_grid(struct cuda_choices *c)
{
    c->graphs[6].nodes[1].grid[1] = 0;
}

static void change_block(struct cuda_choices *c)
{
    c->graphs[6].nodes[1].block = 1025;
}

static void damage_is_seen(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        void (*change)(struct cuda_choices *c);
    } changes[] = {{"an address past the arena", change_pointer},
                   {"a launch that waits for itself", change_order},
                   {"a grid of nothing", change_grid},
                   {"more threads than a block has", change_block}};
    float want[N_TOKENS * VOCAB];
    struct base_buffer bytes = original(want);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct cuda_choices *c = decoded(&bytes);
        changes[i].change(c);
        struct base_buffer changed = encoded(c);
        refused(changed.data, changed.n, changes[i].name);
        base_buffer_done(&changed);
        decoded_free(c);
    }
    struct cuda_choices *c = decoded(&bytes);
    const size_t front = bytes.n - c->image_bytes;
    decoded_free(c);
    for (size_t n = 0; n < front; n++) /* a cut in the code is another length than is told */
        refused(bytes.data, n, "cut");
    refused(bytes.data, bytes.n - 1, "cut in the code");
    base_buffer_byte(&bytes, 0);
    refused(bytes.data, bytes.n, "a byte too many");

    /* refused as a whole, and the model is as before */
    struct base_error err = {0};
    struct gpu_model *model = loaded_model(device, &limits_usual);
    assert_int_equal(gpu_model_choices_import(model, bytes.data, front / 2, &err), ERR_CORRUPT);
    testing_ok(gpu_model_warm_up(model, &err), &err);
    answer(model, want);
    gpu_model_free(model);
    base_buffer_done(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(imported_choices_give_the_same_bits),
        cmocka_unit_test(without_a_warm_up_the_first_choice_stays),
        cmocka_unit_test(graphs_are_what_the_pass_launches),
        cmocka_unit_test(other_limits_take_the_algorithms),
        cmocka_unit_test(choices_of_others),
        cmocka_unit_test(damage_is_seen),
    };
    device = cuda_testing_open(NULL);
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_close(device);
    free(weights);
    return rc;
}
