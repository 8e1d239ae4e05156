/* The engine on a small model: what it answers must not depend on who else is being served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "worker/engine.h"

#define N_CTX 192

static struct gpu_device *device;
static struct model_weights *weights;
static struct model_config config;
static struct model_tokenizer *tokenizer;
static struct base_buffer blob;

struct fixture {
    struct gpu_model *model;
    struct engine *engine;
    uint32_t n_failed; /* steps */
};

static const char *env(const char *name)
{
    const char *value = getenv(name);
    assert_non_null(value);
    return value;
}

static int open_all(void **state)
{
    (void)state;
    struct base_error err = {0};
    char dir[1024], json[1024];
    snprintf(dir, sizeof dir, "%s/golden-models/hd32-par-r25-untied-f16-one-pub-buffers", env("ROUSE_BINARY_DIR"));
    snprintf(json, sizeof json, "%s/tests/data/gpt-neox-tokenizer.json", env("ROUSE_SOURCE_DIR"));
    base_buffer_init(&blob, 64u << 20);
    struct gpu_open_options open = {.n_threads = 2};
    int rc = gpu_open("cpu", &open, &device, &err);
    if (rc == 0)
        rc = model_config_read(dir, &config, &err);
    if (rc == 0)
        rc = model_weights_open(dir, &weights, &err);
    if (rc == 0)
        rc = model_tokenizer_compile_file(json, &blob, &err);
    if (rc == 0)
        rc = model_tokenizer_open(blob.data, blob.n, &tokenizer, &err);
    if (rc < 0)
        print_error("%s\n", err.text);
    return rc;
}

static int close_all(void **state)
{
    (void)state;
    model_tokenizer_close(tokenizer);
    model_weights_close(weights);
    gpu_close(device);
    base_buffer_done(&blob);
    return 0;
}

static struct fixture fixture_open(uint32_t n_seqs, uint32_t n_tokens, uint32_t n_blocks, uint32_t n_waiting)
{
    struct base_error err = {0};
    struct fixture f = {.n_failed = 0};
    struct gpu_limits limits = {.n_tokens_max = n_tokens,
                                .n_seqs_max = n_seqs,
                                .n_logits_max = n_seqs,
                                .n_ctx_max = N_CTX,
                                .n_blocks = n_blocks};
    struct engine_limits engine_limits = {.n_waiting_max = n_waiting};
    assert_int_equal(gpu_model_new(device, &config, MODEL_F32, &limits, &f.model, &err), 0);
    assert_int_equal(gpu_model_load(f.model, weights, NULL, NULL, &err), 0);
    assert_int_equal(engine_new(f.model, tokenizer, &engine_limits, &f.engine, &err), 0);
    return f;
}

static void fixture_close(struct fixture *f)
{
    engine_free(f->engine);
    gpu_model_free(f->model);
}

/* Request number i: prompts of 1 to 60 tokens, some greedy, some drawn. */
static struct engine_request request_of(uint32_t i)
{
    struct engine_request r = {.tag = (void *)(uintptr_t)(i + 1),
                               .n_prompt = 1 + (i * 37) % 60,
                               .max_tokens = 1 + (i * 11) % 40,
                               .sampling = model_sampling_default,
                               .ignore_eos = true};
    if (i % 2) {
        r.sampling.temperature = 0.9f;
        r.sampling.seed = i;
    }
    r.prompt = malloc(r.n_prompt * sizeof *r.prompt);
    for (uint32_t t = 0; t < r.n_prompt; t++)
        r.prompt[t] = (int32_t)((i * 131 + t * 17) % config.vocab);
    return r;
}

struct outcome {
    int32_t tokens[64];
    uint32_t n;
    enum schema_finish finish;
    bool seen;
};

/* A device that fails now and then, in the middle of a pass. */
static int flaky_gate(void *context, uint64_t end, struct base_error *err)
{
    uint32_t *n_calls = context;
    (void)end;
    return ++*n_calls % 11 == 0 ? base_fail(err, ERR_INTERNAL, "call %u of the device failed", *n_calls) : 0;
}

static void run_all(struct fixture *f, struct outcome *outcomes, uint32_t n_from, uint32_t n_to)
{
    struct base_error err = {0};
    uint32_t next = n_from, n_done = n_from;
    while (n_done < n_to) {
        while (next < n_to) {
            struct engine_request r = request_of(next);
            int rc = engine_submit(f->engine, &r, &err);
            if (rc < 0)
                free(r.prompt);
            if (rc == ERR_AGAIN)
                break;
            assert_int_equal(rc, 0);
            next++;
        }
        bool busy;
        int rc = engine_step(f->engine, &busy, &err);
        assert_true(rc == 0 || (rc == ERR_INTERNAL && strstr(err.text, "of the device failed")));
        f->n_failed += rc < 0;
        struct engine_result result;
        while (engine_take(f->engine, &result)) {
            struct outcome *o = &outcomes[(uintptr_t)result.tag - 1];
            assert_false(o->seen);
            o->seen = true;
            o->n = result.n_tokens;
            o->finish = result.finish;
            assert_true(result.n_tokens <= 64);
            memcpy(o->tokens, result.tokens, result.n_tokens * sizeof *o->tokens);
            engine_result_done(&result);
            n_done++;
        }
    }
}

static void test_answers_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    enum { N = 40 };
    static struct outcome alone[N], crowded[N], starved[N];
    struct fixture f = fixture_open(1, 256, 12, 0);
    for (uint32_t i = 0; i < N; i++)
        run_all(&f, alone, i, i + 1);
    fixture_close(&f);
    f = fixture_open(16, 29, 16 * 12, 0); /* a token budget that cuts prompts into odd chunks */
    run_all(&f, crowded, 0, N);
    fixture_close(&f);
    f = fixture_open(7, 64, 13, 3); /* few blocks and a short queue */
    run_all(&f, starved, 0, N);
    struct engine_counts counts;
    engine_counts(f.engine, &counts);
    assert_int_equal(counts.blocks_used, 0);
    assert_int_equal(counts.finished, N);
    assert_int_equal(counts.running + counts.waiting, 0);
    fixture_close(&f);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(alone[i].n, 1 + (i * 11) % 40);
        assert_int_equal(alone[i].finish, SCHEMA_FINISH_LENGTH);
        assert_int_equal(crowded[i].n, alone[i].n);
        assert_memory_equal(crowded[i].tokens, alone[i].tokens, alone[i].n * sizeof(int32_t));
        assert_int_equal(starved[i].n, alone[i].n);
        assert_memory_equal(starved[i].tokens, alone[i].tokens, alone[i].n * sizeof(int32_t));
    }
}

static int submit(struct fixture *f, struct engine_request *r, struct base_error *err)
{
    int rc = engine_submit(f->engine, r, err);
    if (rc < 0)
        free(r->prompt);
    return rc;
}

/* A failed step changes nothing: tried again, it gives what it would have given. */
static void test_failed_steps_lose_nothing(void **state)
{
    (void)state;
    enum { N = 12 };
    static struct outcome calm[N], flaky[N];
    uint32_t n_calls = 0;
    struct fixture f = fixture_open(4, 29, 4 * 12, 0);
    run_all(&f, calm, 0, N);
    assert_int_equal(f.n_failed, 0);
    fixture_close(&f);
    f = fixture_open(4, 29, 4 * 12, 0);
    gpu_model_gate(f.model, flaky_gate, &n_calls);
    run_all(&f, flaky, 0, N);
    assert_true(f.n_failed > 10);
    fixture_close(&f);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(flaky[i].n, calm[i].n);
        assert_int_equal(flaky[i].finish, calm[i].finish);
        assert_memory_equal(flaky[i].tokens, calm[i].tokens, calm[i].n * sizeof *calm[i].tokens);
    }
}

static void test_refused_requests_say_why(void **state)
{
    (void)state;
    struct fixture f = fixture_open(2, 64, 4, 2);
    const struct {
        const char *name;
        uint32_t n_prompt, max_tokens;
        int32_t token;
        float temperature;
        const char *fragment;
    } cases[] = {
        {"no tokens", 0, 4, 1, 0, "no tokens"},
        {"nothing to generate", 4, 0, 1, 0, "max_tokens 0"},
        {"no room in the context", N_CTX, 4, 1, 0, "context"},
        {"more blocks than there are", 64, 60, 1, 0, "KV blocks"},
        {"token too large", 4, 4, (int32_t)config.vocab, 0, "vocabulary"},
        {"token negative", 4, 4, -1, 0, "-1"},
        {"temperature", 4, 4, 1, -2, "temperature"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct base_error err = {0};
        struct engine_request r = {
            .n_prompt = cases[i].n_prompt, .max_tokens = cases[i].max_tokens, .sampling = model_sampling_default};
        r.sampling.temperature = cases[i].temperature;
        r.prompt = malloc((N_CTX + 1) * sizeof *r.prompt);
        for (uint32_t t = 0; t < N_CTX; t++)
            r.prompt[t] = cases[i].token;
        if (submit(&f, &r, &err) != ERR_INPUT || !strstr(err.text, cases[i].fragment))
            fail_msg("%s: '%s'", cases[i].name, err.text);
    }
    struct base_error err = {0};
    for (uint32_t i = 0; i < 3; i++) {
        struct engine_request r = request_of(0);
        assert_int_equal(submit(&f, &r, &err), i < 2 ? 0 : ERR_AGAIN);
    }
    fixture_close(&f);
}

static void test_priority_then_age(void **state)
{
    (void)state;
    struct fixture f = fixture_open(1, 64, 12, 0);
    const int32_t priorities[] = {0, 5, 0, -3, 5};
    const uintptr_t order[] = {2, 5, 1, 3, 4};
    struct base_error err = {0};
    for (uint32_t i = 0; i < 5; i++) {
        struct engine_request r = request_of(0);
        r.tag = (void *)(uintptr_t)(i + 1);
        r.priority = priorities[i];
        assert_int_equal(submit(&f, &r, &err), 0);
    }
    for (uint32_t n = 0; n < 5;) {
        bool busy;
        struct engine_result result;
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
        while (engine_take(f.engine, &result)) {
            assert_int_equal((uintptr_t)result.tag, order[n++]);
            engine_result_done(&result);
        }
    }
    fixture_close(&f);
}

static void test_expired_without_work(void **state)
{
    (void)state;
    struct fixture f = fixture_open(1, 64, 12, 0);
    struct base_error err = {0};
    struct engine_request r = request_of(3);
    r.deadline_ms = base_clock_unix_ms() - 1;
    assert_int_equal(submit(&f, &r, &err), 0);
    bool busy;
    struct engine_result result;
    assert_int_equal(engine_step(f.engine, &busy, &err), 0);
    assert_true(engine_take(f.engine, &result));
    assert_int_equal(result.finish, SCHEMA_FINISH_EXPIRED);
    assert_int_equal(result.n_generated, 0);
    engine_result_done(&result);
    struct engine_counts counts;
    engine_counts(f.engine, &counts);
    assert_int_equal(counts.steps, 0);
    fixture_close(&f);
}

static bool tag_is_even(void *context, void *tag)
{
    (void)context;
    return (uintptr_t)tag % 2 == 0;
}

static void test_cancel_gives_blocks_back(void **state)
{
    (void)state;
    struct fixture f = fixture_open(3, 32, 24, 0);
    struct base_error err = {0};
    for (uint32_t i = 0; i < 8; i++) {
        struct engine_request r = request_of(i);
        r.max_tokens = 40;
        assert_int_equal(submit(&f, &r, &err), 0);
    }
    bool busy = true;
    for (int i = 0; i < 4; i++)
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
    assert_int_equal(engine_cancel(f.engine, tag_is_even, NULL), 4);
    uint32_t n = 0;
    while (busy) {
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
        struct engine_result result;
        while (engine_take(f.engine, &result)) {
            assert_int_equal((uintptr_t)result.tag % 2, 1);
            n++;
            engine_result_done(&result);
        }
    }
    assert_int_equal(n, 4);
    struct engine_counts counts;
    engine_counts(f.engine, &counts);
    assert_int_equal(counts.blocks_used, 0);
    fixture_close(&f);
}

/* Generates once freely, then again with a stop string taken from the middle of the text. */
static void test_stop_string_cuts_text_and_tokens(void **state)
{
    (void)state;
    struct fixture f = fixture_open(1, 64, 12, 0);
    struct base_error err = {0};
    struct engine_result whole, cut;
    bool busy;
    struct engine_request r = request_of(3);
    r.max_tokens = 40;
    r.logprobs = true;
    assert_int_equal(submit(&f, &r, &err), 0);
    do
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
    while (busy);
    assert_true(engine_take(f.engine, &whole));
    assert_non_null(whole.sampled);
    for (uint32_t i = 0; i < whole.n_tokens; i++)
        assert_int_equal(whole.sampled[i].id, whole.tokens[i]);

    const char *text = base_buffer_cstr(&whole.text);
    assert_true(whole.text.n > 12);
    char needle[4] = {text[8], text[9], text[10], 0};
    size_t at = (size_t)(strstr(text, needle) - text);
    struct model_stop stop = {needle, 3};
    r = request_of(3);
    r.max_tokens = 40;
    r.stops = &stop;
    r.n_stops = 1;
    assert_int_equal(submit(&f, &r, &err), 0);
    do
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
    while (busy);
    assert_true(engine_take(f.engine, &cut));
    assert_int_equal(cut.finish, SCHEMA_FINISH_STOP);
    assert_int_equal(cut.text.n, at);
    assert_memory_equal(cut.text.data, text, at);
    assert_true(cut.n_tokens < whole.n_tokens);
    assert_memory_equal(cut.tokens, whole.tokens, cut.n_tokens * sizeof(int32_t));
    engine_result_done(&whole);
    engine_result_done(&cut);
    fixture_close(&f);
}

static void test_eos_ends_unless_ignored(void **state)
{
    (void)state;
    struct fixture f = fixture_open(1, 64, 12, 0);
    struct base_error err = {0};
    bool busy;
    struct engine_result result;
    /* A high temperature meets id 0, the end of text, soon; the draw is fixed by the seed. */
    for (uint32_t i = 0; i < 200; i++) {
        struct engine_request r = request_of(1);
        r.ignore_eos = false;
        r.max_tokens = 100;
        r.sampling.temperature = 100;
        r.sampling.seed = i;
        assert_int_equal(submit(&f, &r, &err), 0);
        do
            assert_int_equal(engine_step(f.engine, &busy, &err), 0);
        while (busy);
        assert_true(engine_take(f.engine, &result));
        bool ended = result.finish == SCHEMA_FINISH_EOS;
        if (ended) {
            assert_int_equal(result.n_generated, result.n_tokens + 1);
            for (uint32_t t = 0; t < result.n_tokens; t++)
                assert_int_not_equal(result.tokens[t], config.eos_id);
        }
        engine_result_done(&result);
        if (ended) {
            fixture_close(&f);
            return;
        }
    }
    fail_msg("no end of text in 200 completions of 100 tokens each");
}

static void test_completion_is_cut_to_the_context(void **state)
{
    (void)state;
    struct fixture f = fixture_open(1, 64, 12, 0);
    struct base_error err = {0};
    struct engine_request r = request_of(0);
    free(r.prompt);
    r.n_prompt = N_CTX - 3;
    r.prompt = calloc(r.n_prompt, sizeof *r.prompt);
    r.max_tokens = 1000;
    assert_int_equal(submit(&f, &r, &err), 0);
    bool busy;
    struct engine_result result;
    do
        assert_int_equal(engine_step(f.engine, &busy, &err), 0);
    while (busy);
    assert_true(engine_take(f.engine, &result));
    assert_int_equal(result.n_tokens, 3);
    assert_int_equal(result.finish, SCHEMA_FINISH_LENGTH);
    engine_result_done(&result);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_do_not_depend_on_the_batch),
        cmocka_unit_test(test_failed_steps_lose_nothing),
        cmocka_unit_test(test_refused_requests_say_why),
        cmocka_unit_test(test_priority_then_age),
        cmocka_unit_test(test_expired_without_work),
        cmocka_unit_test(test_cancel_gives_blocks_back),
        cmocka_unit_test(test_stop_string_cuts_text_and_tokens),
        cmocka_unit_test(test_eos_ends_unless_ignored),
        cmocka_unit_test(test_completion_is_cut_to_the_context),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
