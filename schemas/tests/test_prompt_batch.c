#include "schemas/tests/schema_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/prompt_batch.h"

static const struct {
    const char *key;
    uint32_t bit;
} sampling_keys[] = {
    {"max_tokens", SCHEMA_HAS_MAX_TOKENS},
    {"temperature", SCHEMA_HAS_TEMPERATURE},
    {"top_k", SCHEMA_HAS_TOP_K},
    {"top_p", SCHEMA_HAS_TOP_P},
    {"min_p", SCHEMA_HAS_MIN_P},
    {"repetition_penalty", SCHEMA_HAS_REPETITION_PENALTY},
    {"stop", SCHEMA_HAS_STOP},
    {"seed", SCHEMA_HAS_SEED},
    {"logprobs", SCHEMA_HAS_LOGPROBS},
    {"priority", SCHEMA_HAS_PRIORITY},
    {"ignore_eos", SCHEMA_HAS_IGNORE_EOS},
};

static void check_number(const char *where, const char *key, double got, const json_t *want)
{
    double number = json_is_string(want) ? strtod(json_string_value(want), NULL) : json_number_value(want);
    if (got != number)
        fail_msg("%s: %s is %.17g, expected %.17g", where, key, got, number);
}

static void check_sampling(const char *where, const struct schema_sampling *s, const json_t *want)
{
    uint32_t has = 0;
    for (size_t i = 0; i < sizeof(sampling_keys) / sizeof(sampling_keys[0]); i++)
        has |= json_object_get(want, sampling_keys[i].key) ? sampling_keys[i].bit : 0;
    if (s->has != has)
        fail_msg("%s: fields 0x%x are given, expected 0x%x", where, s->has, has);
    const json_t *v;
    if ((v = json_object_get(want, "max_tokens")))
        check_number(where, "max_tokens", s->max_tokens, v);
    if ((v = json_object_get(want, "temperature")))
        check_number(where, "temperature", s->temperature, v);
    if ((v = json_object_get(want, "top_k")))
        check_number(where, "top_k", s->top_k, v);
    if ((v = json_object_get(want, "top_p")))
        check_number(where, "top_p", s->top_p, v);
    if ((v = json_object_get(want, "min_p")))
        check_number(where, "min_p", s->min_p, v);
    if ((v = json_object_get(want, "repetition_penalty")))
        check_number(where, "repetition_penalty", s->repetition_penalty, v);
    if ((v = json_object_get(want, "seed")))
        assert_true(s->seed == strtoull(json_string_value(v), NULL, 10));
    if ((v = json_object_get(want, "logprobs")))
        check_number(where, "logprobs", s->logprobs, v);
    if ((v = json_object_get(want, "priority")))
        check_number(where, "priority", s->priority, v);
    if ((v = json_object_get(want, "ignore_eos")))
        assert_int_equal(s->ignore_eos, json_is_true(v));
    if ((v = json_object_get(want, "stop"))) {
        assert_int_equal(s->n_stop, json_array_size(v));
        for (uint32_t i = 0; i < s->n_stop; i++)
            check_string(where, s->stop[i], json_array_get(v, i));
    }
}

static void check_prompt(const char *where, const struct schema_prompt *p, const json_t *want)
{
    const char *error = vector_text(want, "error");
    check_string(where, p->id, json_object_get(want, "id"));
    if (strcmp(schema_code_name(p->error), error ? error : "ok") != 0)
        fail_msg("%s: %s, expected %s", where, schema_code_name(p->error), error ? error : "ok");
    assert_true(!p->error_text == !error);
    if (error) {
        check_says(where, p->error_text, want);
        return;
    }
    check_string(where, p->text, json_object_get(want, "text"));
    if (!p->text.text)
        check_ids(where, p->tokens, p->n_tokens, json_object_get(want, "tokens"));
    check_sampling(where, &p->sampling, json_object_get(want, "sampling"));
}

static void check_batch(const char *where, const struct schema_prompt_batch *batch, const json_t *want)
{
    check_string(where, batch->batch_id, json_object_get(want, "batch_id"));
    check_string(where, batch->model, json_object_get(want, "model"));
    assert_int_equal(batch->created_ms, vector_int(want, "created_ms"));
    assert_int_equal(batch->deadline_ms, vector_int(want, "deadline_ms"));
    const json_t *prompts = json_object_get(want, "prompts");
    assert_int_equal(batch->n_prompts, json_array_size(prompts));
    for (uint32_t i = 0; i < batch->n_prompts; i++)
        check_prompt(where, &batch->prompts[i], json_array_get(prompts, i));
}

static void check_encodes_to(const char *where, const struct schema_prompt_batch *batch, const void *bytes, size_t n)
{
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, SIZE_MAX);
    if (schema_prompt_batch_encode(batch, &out, &err) != 0)
        fail_msg("%s: encode: %s", where, err.text);
    check_bytes(where, out.data, out.n, bytes, n);
    base_buffer_done(&out);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("prompt_batch"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        const char *name = vector_text(vector, "name");
        size_t n;
        uint8_t *bytes = vectors_bytes_of(vector, &n);
        struct schema_prompt_batch *batch = NULL;
        enum schema_code code = SCHEMA_OK;
        struct base_error err = {0};
        int rc = schema_prompt_batch_decode(bytes, n, NULL, &batch, &code, &err);
        if (strcmp(schema_code_name(code), vector_text(vector, "outcome")) != 0 || rc != (code ? ERR_INPUT : 0))
            fail_msg("%s: %d %s (%s), expected %s", name, rc, schema_code_name(code), err.text,
                     vector_text(vector, "outcome"));
        if (rc == 0) {
            memset(bytes, 0xee, n); /* a batch borrows nothing from the record */
            check_batch(name, batch, json_object_get(vector, "expect"));
        } else {
            assert_null(batch);
            check_says(name, err.text, vector);
        }
        free(bytes);
        if (json_is_true(json_object_get(vector, "canonical"))) {
            bytes = vectors_bytes_of(vector, &n);
            check_encodes_to(name, batch, bytes, n);
            free(bytes);
        }
        schema_prompt_batch_free(batch);
    }
    json_decref(vectors);
}

static void test_encode_by_hand(void **state)
{
    (void)state;
    const int32_t tokens[] = {0, 127, 128};
    const struct schema_string stop[] = {{"\n", 1}};
    struct schema_prompt prompts[] = {
        {.id = {"a", 1}, .text = {"hi", 2}, .sampling = {.max_tokens = 7, .priority = -1}},
        {.id = {"b", 1},
         .tokens = tokens,
         .n_tokens = 3,
         .sampling = {.has = SCHEMA_HAS_TEMPERATURE | SCHEMA_HAS_STOP, .temperature = 0.1, .stop = stop, .n_stop = 1}},
    };
    const struct schema_prompt_batch batch = {
        .batch_id = {"B", 1}, .created_ms = 5, .prompts = prompts, .n_prompts = 2};
    size_t n;
    uint8_t *want =
        vectors_bytes("84 a176 01 a862617463685f6964 a142 aa637265617465645f6d73 05 a770726f6d707473 92"
                      " 82 a26964 a161 a474657874 a26869"
                      " 84 a26964 a162 a6746f6b656e73 93007fcc80 ab74656d7065726174757265 cb3fb999999999999a"
                      " a473746f70 91a10a",
                      &n);
    check_encodes_to("two prompts", &batch, want, n);
    free(want);
}

static void test_encode_failures(void **state)
{
    (void)state;
    struct schema_prompt prompt = {.id = {"a", 1}, .text = {"hi\xff", 3}};
    const struct schema_prompt_batch batch = {.batch_id = {"B", 1}, .prompts = &prompt, .n_prompts = 1};
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, 48);
    base_buffer_string(&out, "before");
    assert_int_equal(schema_prompt_batch_encode(&batch, &out, &err), ERR_INTERNAL);
    assert_string_equal(err.text, "text is not UTF-8");
    assert_int_equal(out.n, 6);
    prompt.text.n = 2;
    assert_int_equal(schema_prompt_batch_encode(&batch, &out, &err), 0);
    assert_int_equal(out.n, 6 + 38);
    assert_int_equal(schema_prompt_batch_encode(&batch, &out, &err), ERR_INPUT);
    assert_string_equal(err.text, "the record is longer than 48 bytes");
    assert_int_equal(out.n, 6 + 38);
    base_buffer_done(&out);
}

static void test_limits_given(void **state)
{
    (void)state;
    struct schema_batch_limits limits = schema_batch_limits_default;
    struct schema_prompt_batch *batch = NULL;
    struct base_error err = {0};
    enum schema_code code = SCHEMA_OK;
    size_t n;
    uint8_t *bytes =
        vectors_bytes("83 a176 01 a862617463685f6964 a162 a770726f6d707473 91 82 a26964 a161 a474657874 a26869", &n);
    limits.text_bytes_max = 1;
    assert_int_equal(schema_prompt_batch_decode(bytes, n, &limits, &batch, &code, &err), 0);
    assert_int_equal(batch->prompts[0].error, SCHEMA_TOO_LARGE);
    assert_string_equal(batch->prompts[0].error_text, "prompt 0 ('a'): text of 2 bytes is longer than 1");
    schema_prompt_batch_free(batch);
    limits.bytes_max = n - 1;
    assert_int_equal(schema_prompt_batch_decode(bytes, n, &limits, &batch, &code, &err), ERR_INPUT);
    assert_int_equal(code, SCHEMA_TOO_LARGE);
    assert_int_equal(schema_prompt_batch_decode(bytes, n, &limits, &batch, NULL, NULL), ERR_INPUT);
    free(bytes);
    schema_prompt_batch_free(NULL);
}

/* Each prompt of each golden batch, cut out: the same prompt, alone, and nothing else has changed. */
static void test_single(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("prompt_batch"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        size_t n;
        uint8_t *bytes = vectors_bytes_of(vector, &n);
        struct base_buffer one;
        base_buffer_init(&one, SIZE_MAX);
        struct schema_prompt_batch *batch = NULL, *cut = NULL;
        struct base_error err = {0};
        if (schema_prompt_batch_decode(bytes, n, NULL, &batch, NULL, NULL) == 0) {
            for (uint32_t p = 0; p < batch->n_prompts && p < 20; p++) {
                base_buffer_clear(&one);
                assert_int_equal(schema_prompt_batch_single(bytes, n, p, &one, &err), 0);
                assert_int_equal(schema_prompt_batch_decode(one.data, one.n, NULL, &cut, NULL, &err), 0);
                assert_int_equal(cut->n_prompts, 1);
                check_bytes("batch_id", cut->batch_id.text, cut->batch_id.n, batch->batch_id.text, batch->batch_id.n);
                check_bytes("text", cut->prompts[0].text.text, cut->prompts[0].text.n, batch->prompts[p].text.text,
                            batch->prompts[p].text.n);
                assert_int_equal(cut->prompts[0].sampling.has, batch->prompts[p].sampling.has);
                bool duplicate = batch->prompts[p].error_text && strstr(batch->prompts[p].error_text, "already");
                assert_int_equal(cut->prompts[0].error, duplicate ? SCHEMA_OK : batch->prompts[p].error);
                if (batch->n_prompts == 1 && json_is_true(json_object_get(vector, "canonical")))
                    check_bytes("record", one.data, one.n, bytes, n);
                schema_prompt_batch_free(cut);
            }
            assert_int_equal(schema_prompt_batch_single(bytes, n, batch->n_prompts, &one, &err), ERR_INPUT);
            schema_prompt_batch_free(batch);
        }
        base_buffer_done(&one);
        free(bytes);
    }
    json_decref(vectors);
}

static void test_single_keeps_unknown_keys(void **state)
{
    (void)state;
    size_t n, n_want;
    /* {"x": [1, nil], "prompts": [{}, {"k": "v", "n": 7}], "y": {"z": bin}}, the first in wider encodings than needed */
    uint8_t *bytes =
        vectors_bytes("83 d90178 9201c0 a770726f6d707473 dd00000002 80 82a16ba176a16e07 a179 81a17ac4020102", &n);
    uint8_t *want = vectors_bytes("83 d90178 9201c0 a770726f6d707473 91 82a16ba176a16e07 a179 81a17ac4020102", &n_want);
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, SIZE_MAX);
    assert_int_equal(schema_prompt_batch_single(bytes, n, 1, &out, &err), 0);
    check_bytes("single", out.data, out.n, want, n_want);
    assert_int_equal(schema_prompt_batch_single(bytes, n, 2, &out, &err), ERR_INPUT);
    assert_string_equal(err.text, "no prompt 2 in a batch of 2");
    assert_int_equal(schema_prompt_batch_single(bytes, n - 1, 0, &out, &err), ERR_INPUT);
    assert_int_equal(schema_prompt_batch_single("\x80", 1, 0, &out, &err), ERR_INPUT);
    assert_int_equal(out.n, n_want);
    base_buffer_done(&out);
    free(bytes);
    free(want);
}

/* A caller that decodes under a larger limit can cut up what it got. */
static void test_single_of_a_large_record(void **state)
{
    (void)state;
    enum { N_LARGE = 9 << 20 };
    size_t n_head, n_tail;
    uint8_t *head = vectors_bytes("82 a178 c600900000", &n_head); /* {"x": 9 MiB of binary, "prompts": [{}]} */
    uint8_t *tail = vectors_bytes("a770726f6d707473 91 80", &n_tail);
    struct base_buffer record, out;
    struct base_error err = {0};
    base_buffer_init(&record, SIZE_MAX);
    base_buffer_init(&out, SIZE_MAX);
    base_buffer_append(&record, head, n_head);
    base_buffer_zeros(&record, N_LARGE);
    base_buffer_append(&record, tail, n_tail);
    if (schema_prompt_batch_single(record.data, record.n, 0, &out, &err) != 0)
        fail_msg("%s", err.text);
    check_bytes("single", out.data, out.n, record.data, record.n);
    base_buffer_done(&record);
    base_buffer_done(&out);
    free(head);
    free(tail);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_encode_by_hand),
        cmocka_unit_test(test_encode_failures),
        cmocka_unit_test(test_limits_given),
        cmocka_unit_test(test_single),
        cmocka_unit_test(test_single_keeps_unknown_keys),
        cmocka_unit_test(test_single_of_a_large_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
