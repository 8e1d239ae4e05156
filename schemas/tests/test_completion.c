#include "schemas/tests/schema_vectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/completion.h"

static void check_logprobs(const char *where, const struct schema_completion *c, const json_t *want)
{
    assert_int_equal(c->n_logprobs, json_array_size(want));
    for (uint32_t i = 0; i < c->n_logprobs; i++) {
        const json_t *w = json_array_get(want, i), *top = json_object_get(w, "top_logprobs");
        assert_int_equal(c->logprobs[i].id, vector_int(w, "id"));
        assert_true(c->logprobs[i].logprob == (float)json_number_value(json_object_get(w, "logprob")));
        check_ids(where, c->logprobs[i].top_ids, c->logprobs[i].n_top, json_object_get(w, "top_ids"));
        assert_int_equal(c->logprobs[i].n_top, json_array_size(top));
        for (uint32_t k = 0; k < c->logprobs[i].n_top; k++)
            assert_true(c->logprobs[i].top_logprobs[k] == (float)json_number_value(json_array_get(top, k)));
    }
}

static void check_completion(const char *where, const struct schema_completion *c, const json_t *want)
{
    const json_t *error = json_object_get(want, "error"), *usage = json_object_get(want, "usage");
    const json_t *timing = json_object_get(want, "timing_us");
    check_string(where, c->batch_id, json_object_get(want, "batch_id"));
    check_string(where, c->id, json_object_get(want, "id"));
    assert_int_equal(c->index, vector_int(want, "index"));
    assert_int_equal(c->n_prompts, vector_int(want, "n_prompts"));
    check_string(where, c->model, json_object_get(want, "model"));
    check_string(where, c->version, json_object_get(want, "version"));
    check_string(where, c->snapshot, json_object_get(want, "snapshot"));
    check_string(where, c->text, json_object_get(want, "text"));
    check_ids(where, c->tokens, c->n_tokens, json_object_get(want, "tokens"));
    assert_string_equal(schema_finish_name(c->finish), vector_text(want, "finish_reason"));
    assert_string_equal(schema_code_name(c->error), error ? vector_text(error, "code") : "ok");
    check_string(where, c->error_text, error ? json_object_get(error, "message") : NULL);
    assert_int_equal(c->prompt_tokens, vector_int(usage, "prompt_tokens"));
    assert_int_equal(c->completion_tokens, vector_int(usage, "completion_tokens"));
    check_logprobs(where, c, json_object_get(want, "logprobs"));
    assert_int_equal(c->queue_us, vector_int(timing, "queue"));
    assert_int_equal(c->prefill_us, vector_int(timing, "prefill"));
    assert_int_equal(c->decode_us, vector_int(timing, "decode"));
    assert_int_equal(c->total_us, vector_int(timing, "total"));
    check_string(where, c->worker, json_object_get(want, "worker"));
}

static void test_golden(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("completion"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        const char *name = vector_text(vector, "name"), *outcome = vector_text(vector, "outcome");
        size_t n;
        uint8_t *bytes = vectors_bytes_of(vector, &n);
        struct schema_completion *c = NULL;
        struct base_error err = {0};
        struct base_buffer out;
        base_buffer_init(&out, SIZE_MAX);
        int rc = schema_completion_decode(bytes, n, &c, &err);
        if (rc != (strcmp(outcome, "ok") == 0 ? 0 : ERR_INPUT))
            fail_msg("%s: %d (%s), expected %s", name, rc, err.text, outcome);
        if (rc == 0) {
            check_completion(name, c, json_object_get(vector, "expect"));
            assert_int_equal(schema_completion_encode(c, &out, &err), 0);
            if (json_is_true(json_object_get(vector, "canonical")))
                check_bytes(name, out.data, out.n, bytes, n);
        } else {
            assert_null(c);
            check_says(name, err.text, vector);
        }
        schema_completion_free(c);
        base_buffer_done(&out);
        free(bytes);
    }
    json_decref(vectors);
}

static void test_every_cut_is_refused(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("completion");
    size_t n_whole;
    uint8_t *whole = vectors_bytes_of(json_array_get(vectors, 0), &n_whole);
    for (size_t n = 0; n < n_whole; n++) {
        uint8_t *cut = malloc(n > 0 ? n : 1);
        assert_non_null(cut);
        memcpy(cut, whole, n);
        struct schema_completion *c = NULL;
        assert_int_equal(schema_completion_decode(cut, n, &c, NULL), ERR_INPUT);
        assert_null(c);
        free(cut);
    }
    free(whole);
    json_decref(vectors);
}

static void test_encode_strange(void **state)
{
    (void)state;
    const int32_t ids[] = {3, 4};
    const float logprobs[] = {NAN, -INFINITY};
    const struct schema_token_logprob logprob = {3, -INFINITY, 2, ids, logprobs};
    struct schema_completion c = {.batch_id = {"b", 1},
                                  .id = {"a", 1},
                                  .n_prompts = 1,
                                  .logprobs = &logprob,
                                  .n_logprobs = 1,
                                  .finish = SCHEMA_FINISH_EOS};
    struct schema_completion *back = NULL;
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, SIZE_MAX);
    assert_int_equal(schema_completion_encode(&c, &out, &err), 0);
    assert_int_equal(schema_completion_decode(out.data, out.n, &back, &err), 0);
    assert_string_equal(back->model.text, ""); /* absent text is written as "" */
    assert_true(back->logprobs[0].logprob == SCHEMA_LOGPROB_MIN);
    assert_true(back->logprobs[0].top_logprobs[0] == SCHEMA_LOGPROB_MIN);
    assert_true(back->logprobs[0].top_logprobs[1] == SCHEMA_LOGPROB_MIN);
    schema_completion_free(back);

    base_buffer_clear(&out);
    c.finish = SCHEMA_FINISH_ERROR;
    assert_int_equal(schema_completion_encode(&c, &out, &err), ERR_INTERNAL);
    assert_string_equal(err.text, "a completion that finished with 'error' carries the error code 'ok'");
    c.finish = SCHEMA_FINISH_EOS;
    c.text = (struct schema_string){"\xc3", 1};
    assert_int_equal(schema_completion_encode(&c, &out, &err), ERR_INTERNAL);
    assert_string_equal(err.text, "text is not UTF-8");
    assert_int_equal(out.n, 0);
    base_buffer_done(&out);
    schema_completion_free(NULL);
}

static void test_names(void **state)
{
    (void)state;
    for (unsigned code = 0; code < SCHEMA_CODE_N; code++)
        assert_int_equal(schema_code_find(schema_code_name((enum schema_code)code)), code);
    assert_int_equal(schema_code_find("no-such-code"), SCHEMA_CODE_N);
    assert_string_equal(schema_code_name(SCHEMA_CODE_N), "unknown");
    assert_string_equal(schema_stage_name(SCHEMA_STAGE_GENERATE), "generate");
    assert_string_equal(schema_stage_name(SCHEMA_STAGE_N), "unknown");
    assert_string_equal(schema_finish_name((enum schema_finish)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_encode_strange),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
