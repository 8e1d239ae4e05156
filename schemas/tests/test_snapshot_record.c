#include "schemas/tests/schema_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/snapshot_record.h"

static void check_record(const struct schema_snapshot_record *r, const json_t *want)
{
    assert_string_equal(r->id, vector_text(want, "id"));
    assert_string_equal(schema_snapshot_state_name(r->state), vector_text(want, "state"));
    assert_string_equal(r->name, vector_text(want, "name"));
    assert_string_equal(r->file, vector_text(want, "file"));
    assert_int_equal(r->bytes, vector_int(want, "bytes"));
    assert_string_equal(r->model_digest, vector_text(want, "model_digest"));
    assert_string_equal(r->device, vector_text(want, "device"));
    assert_string_equal(r->arch, vector_text(want, "arch"));
    assert_string_equal(r->dtype, vector_text(want, "dtype"));
    assert_string_equal(r->file_digest, vector_text(want, "file_digest"));
    assert_int_equal(r->created_ms, vector_int(want, "created_ms"));
    assert_string_equal(r->builder, vector_text(want, "builder"));
    assert_string_equal(r->reason, vector_text(want, "reason"));
}

static void test_golden(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("snapshot_record"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        const char *name = vector_text(vector, "name"), *outcome = vector_text(vector, "outcome");
        size_t n;
        uint8_t *bytes = vectors_bytes_of(vector, &n);
        struct schema_snapshot_record r, untouched;
        memset(&r, 0x5a, sizeof(r));
        untouched = r;
        struct base_error err = {0};
        struct base_buffer out;
        base_buffer_init(&out, SIZE_MAX);
        int rc = schema_snapshot_record_decode(bytes, n, &r, &err);
        if (rc != (strcmp(outcome, "ok") == 0 ? 0 : ERR_INPUT))
            fail_msg("%s: %d (%s), expected %s", name, rc, err.text, outcome);
        if (rc == 0) {
            check_record(&r, json_object_get(vector, "expect"));
            assert_int_equal(schema_snapshot_record_encode(&r, &out, &err), 0);
            if (json_is_true(json_object_get(vector, "canonical")))
                check_bytes(name, out.data, out.n, bytes, n);
        } else {
            assert_memory_equal(&r, &untouched, sizeof(r));
            check_says(name, err.text, vector);
        }
        base_buffer_done(&out);
        free(bytes);
    }
    json_decref(vectors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
