#include "schemas/tests/schema_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/dead_letter.h"

enum { N_HEADERS_MAX = 200 };

/* [["name", "value" or null], ...]; borrows from the JSON. */
static uint32_t headers_of(const json_t *list, struct schema_header out[N_HEADERS_MAX])
{
    uint32_t n = (uint32_t)json_array_size(list);
    assert_true(n <= N_HEADERS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(list, i), *value = json_array_get(pair, 1);
        out[i] = (struct schema_header){.name = json_string_value(json_array_get(pair, 0)),
                                        .value = json_string_value(value),
                                        .n = json_string_length(value)};
    }
    return n;
}

static void copy_text(char *to, size_t size, const json_t *letter, const char *key)
{
    const char *text = vector_text(letter, key);
    assert_non_null(text);
    assert_true(strlen(text) < size);
    memcpy(to, text, strlen(text) + 1);
}

static struct schema_dead_letter letter_of(const json_t *want)
{
    struct schema_dead_letter letter = {.partition = (int32_t)vector_int(want, "partition"),
                                        .offset = vector_int(want, "offset"),
                                        .delivery_count = (uint32_t)vector_int(want, "delivery_count"),
                                        .code = schema_code_find(vector_text(want, "code")),
                                        .orig_timestamp_ms = vector_int(want, "orig_timestamp_ms"),
                                        .first_failed_ms = vector_int(want, "first_failed_ms"),
                                        .last_failed_ms = vector_int(want, "last_failed_ms"),
                                        .replay_count = (uint32_t)vector_int(want, "replay_count")};
    unsigned stage = 0;
    while (strcmp(schema_stage_name((enum schema_stage)stage), vector_text(want, "stage")) != 0)
        stage++;
    letter.stage = (enum schema_stage)stage;
    copy_text(letter.topic, sizeof(letter.topic), want, "topic");
    copy_text(letter.group, sizeof(letter.group), want, "group");
    copy_text(letter.worker, sizeof(letter.worker), want, "worker");
    copy_text(letter.message, sizeof(letter.message), want, "message");
    copy_text(letter.traceparent, sizeof(letter.traceparent), want, "traceparent");
    copy_text(letter.replay_id, sizeof(letter.replay_id), want, "replay_id");
    copy_text(letter.replay_of, sizeof(letter.replay_of), want, "replay_of");
    const char *hex = vector_text(want, "message_hex"); /* what JSON cannot hold */
    if (hex) {
        size_t n;
        uint8_t *bytes = vectors_bytes(hex, &n);
        memset(letter.message, 0, sizeof(letter.message));
        memcpy(letter.message, bytes, n);
        free(bytes);
    }
    return letter;
}

static void check_write(const char *name, const json_t *vector)
{
    struct schema_header original[N_HEADERS_MAX], want[N_HEADERS_MAX], got[SCHEMA_DEAD_LETTER_HEADERS_MAX];
    uint32_t n_original = headers_of(json_object_get(vector, "original"), original);
    uint32_t n_want = headers_of(json_object_get(vector, "headers"), want);
    struct schema_dead_letter letter = letter_of(json_object_get(vector, "write")), back;
    struct base_buffer memory;
    struct base_error err = {0};
    base_buffer_init(&memory, SIZE_MAX);
    base_buffer_string(&memory, "what the caller has there already");
    uint32_t n = schema_dead_letter_headers(&letter, original, n_original, &memory, got);
    size_t n_bytes = 0;
    for (uint32_t i = 0; i < n && i < n_want; i++) {
        assert_string_equal(got[i].name, want[i].name);
        assert_int_equal(!got[i].value, !want[i].value);
        check_bytes(got[i].name, got[i].value, got[i].n, want[i].value, want[i].n);
        n_bytes += strlen(got[i].name) + got[i].n;
    }
    if (n != n_want)
        fail_msg("%s: %u headers, expected %u", name, n, n_want);
    assert_true(n_bytes <= SCHEMA_DEAD_LETTER_BYTES_MAX);
    if (schema_dead_letter_parse(got, n, &back, &err) != 0)
        fail_msg("%s: reading it back: %s", name, err.text);
    base_buffer_done(&memory);
}

static void check_letter(const struct schema_dead_letter *got, const struct schema_dead_letter *want)
{
    assert_string_equal(got->topic, want->topic);
    assert_string_equal(got->group, want->group);
    assert_string_equal(got->worker, want->worker);
    assert_string_equal(got->message, want->message);
    assert_string_equal(got->traceparent, want->traceparent);
    assert_string_equal(got->replay_id, want->replay_id);
    assert_string_equal(got->replay_of, want->replay_of);
    assert_int_equal(got->partition, want->partition);
    assert_int_equal(got->offset, want->offset);
    assert_int_equal(got->delivery_count, want->delivery_count);
    assert_int_equal(got->code, want->code);
    assert_int_equal(got->stage, want->stage);
    assert_int_equal(got->orig_timestamp_ms, want->orig_timestamp_ms);
    assert_int_equal(got->first_failed_ms, want->first_failed_ms);
    assert_int_equal(got->last_failed_ms, want->last_failed_ms);
    assert_int_equal(got->replay_count, want->replay_count);
}

static void check_parse(const char *name, const json_t *vector)
{
    struct schema_header headers[N_HEADERS_MAX];
    uint32_t n = headers_of(json_object_get(vector, "parse"), headers);
    struct schema_dead_letter letter, want, untouched;
    struct base_error err = {0};
    memset(&letter, 0x5a, sizeof(letter));
    memcpy(&untouched, &letter, sizeof(letter));
    bool ok = strcmp(vector_text(vector, "outcome"), "ok") == 0;
    int rc = schema_dead_letter_parse(headers, n, &letter, &err);
    if (rc != (ok ? 0 : ERR_INPUT))
        fail_msg("%s: %d (%s), expected %s", name, rc, err.text, vector_text(vector, "outcome"));
    if (ok) {
        want = letter_of(json_object_get(vector, "letter"));
        check_letter(&letter, &want);
    } else {
        assert_memory_equal(&letter, &untouched, sizeof(letter));
    }
}

static void test_golden(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("dead_letter"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        const char *name = vector_text(vector, "name");
        if (json_object_get(vector, "write"))
            check_write(name, vector);
        else
            check_parse(name, vector);
    }
    json_decref(vectors);
}

static void test_error_text(void **state)
{
    (void)state;
    const struct schema_header header = {"x-replay-count", "many\n", 5};
    struct schema_dead_letter letter;
    struct base_error err = {0};
    assert_int_equal(schema_dead_letter_parse(&header, 1, &letter, &err), ERR_INPUT);
    assert_string_equal(err.text, "header x-replay-count: 'many ' (5 bytes) does not parse");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_error_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
