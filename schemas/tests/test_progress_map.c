#include "schemas/tests/schema_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/progress_map.h"

static void check_runs(const char *name, const struct schema_progress *p, const json_t *want)
{
    const json_t *runs = json_object_get(want, "runs"), *partials = json_object_get(want, "partials");
    if (p->n_runs != json_array_size(runs) || p->n_partials != json_array_size(partials))
        fail_msg("%s: %u runs and %u partly done records, expected %zu and %zu", name, p->n_runs, p->n_partials,
                 json_array_size(runs), json_array_size(partials));
    for (uint32_t i = 0; i < p->n_runs; i++) {
        const json_t *run = json_array_get(runs, i);
        assert_int_equal(p->runs[i].from, json_integer_value(json_array_get(run, 0)));
        assert_int_equal(p->runs[i].end, json_integer_value(json_array_get(run, 1)));
    }
    for (uint32_t i = 0; i < p->n_partials; i++) {
        const json_t *partial = json_array_get(partials, i);
        size_t n;
        uint8_t *bits = vectors_bytes(json_string_value(json_array_get(partial, 2)), &n);
        assert_int_equal(p->partials[i].offset, json_integer_value(json_array_get(partial, 0)));
        assert_int_equal(p->partials[i].n_prompts, json_integer_value(json_array_get(partial, 1)));
        check_bytes(name, p->partials[i].done, (p->partials[i].n_prompts + 7) / 8, bits, n);
        free(bits);
    }
}

static void check_good(const char *name, const char *text, const json_t *vector)
{
    char back[SCHEMA_PROGRESS_CHARS_MAX + 1];
    struct base_error err = {0};
    struct schema_progress *p = NULL;
    const json_t *want = json_object_get(vector, "expect");
    int rc = schema_progress_decode(text, strlen(text), vector_int(vector, "base"), &p, &err);
    if (rc < 0)
        fail_msg("%s: %s", name, err.text);
    assert_string_equal(p->writer, vector_text(want, "writer"));
    assert_int_equal(p->held, json_is_true(json_object_get(want, "held")));
    assert_int_equal(p->crashes, vector_int(want, "crashes"));
    assert_int_equal(p->suspects_end, vector_int(want, "suspects_end"));
    check_runs(name, p, want);
    assert_int_equal(schema_progress_encode(p, back, &err), 0);
    if (json_is_true(json_object_get(vector, "canonical")) ? strcmp(back, text) != 0 : strlen(back) > strlen(text))
        fail_msg("%s: encodes as %s, expected %s", name, back, text);
    schema_progress_free(p);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *vectors = vectors_load("progress_map"), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        const char *name = vector_text(vector, "name"), *text = vector_text(vector, "text");
        if (json_object_get(vector, "expect")) {
            check_good(name, text, vector);
            continue;
        }
        struct base_error err = {0};
        struct schema_progress *p = NULL;
        int rc = schema_progress_decode(text, strlen(text), vector_int(vector, "base"), &p, &err);
        bool foreign = strcmp(vector_text(vector, "says"), "no progress map") == 0;
        if (rc != (foreign ? ERR_NOTFOUND : ERR_INPUT))
            fail_msg("%s: %d (%s)", name, rc, err.text);
        assert_null(p);
        check_says(name, err.text, vector);
    }
    json_decref(vectors);
}

static void test_what_does_not_fit_is_said(void **state)
{
    (void)state;
    enum { N = 30000 };
    char text[SCHEMA_PROGRESS_CHARS_MAX + 1];
    struct base_error err = {0};
    struct schema_progress_run *runs = calloc(N, sizeof *runs);
    struct schema_progress p = {.writer = "w", .runs = runs};
    for (uint32_t i = 0; i < N; i++)
        runs[i] = (struct schema_progress_run){2 * i + 1, 2 * i + 2};
    p.n_runs = 12000; /* 24,000 offsets, as bits */
    assert_int_equal(schema_progress_encode(&p, text, &err), 0);
    assert_true(strlen(text) <= SCHEMA_PROGRESS_CHARS_MAX);
    p.n_runs = N;
    assert_int_equal(schema_progress_encode(&p, text, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "more than 3069 bytes"));
    char writer[300];
    memset(writer, 'w', sizeof writer - 1);
    writer[sizeof writer - 1] = '\0';
    p = (struct schema_progress){.writer = writer};
    assert_int_equal(schema_progress_encode(&p, text, &err), ERR_INPUT);
    free(runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_what_does_not_fit_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
