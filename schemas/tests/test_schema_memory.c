/* Every allocation of every codec fails once: each time an answer of ERR_NOMEM, nothing lost, nothing touched. */
#include "schemas/tests/schema_vectors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/completion.h"
#include "schemas/dead_letter.h"
#include "schemas/snapshot_record.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
int main(void)
{
    puts("skipped: the sanitizer brings its own malloc");
    return 77;
}
#else
/* The program's malloc comes before the C library's for msgpack-c too. */
void *__libc_malloc(size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_calloc(size_t n, size_t size);

static long fail_at; /* 0: never; else counts down */

static bool fails_now(void)
{
    if (fail_at == 0 || --fail_at > 0)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n)
{
    return fails_now() ? NULL : __libc_malloc(n);
}

void *realloc(void *p, size_t n)
{
    return fails_now() ? NULL : __libc_realloc(p, n);
}

void *calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __libc_calloc(n, size);
}

typedef int codec(const uint8_t *bytes, size_t n, struct base_error *err);

static int prompt_batch_there_and_back(const uint8_t *bytes, size_t n, struct base_error *err)
{
    struct schema_prompt_batch *batch = NULL;
    struct base_buffer out;
    base_buffer_init(&out, SIZE_MAX);
    enum schema_code code = SCHEMA_OK;
    int rc = schema_prompt_batch_decode(bytes, n, NULL, &batch, &code, err);
    if (rc == 0)
        rc = schema_prompt_batch_encode(batch, &out, err);
    if (rc == 0)
        rc = schema_prompt_batch_single(bytes, n, 0, &out, err);
    schema_prompt_batch_free(batch);
    base_buffer_done(&out);
    return rc;
}

static int completion_there_and_back(const uint8_t *bytes, size_t n, struct base_error *err)
{
    struct schema_completion *c = NULL;
    struct base_buffer out;
    base_buffer_init(&out, SIZE_MAX);
    int rc = schema_completion_decode(bytes, n, &c, err);
    if (rc == 0)
        rc = schema_completion_encode(c, &out, err);
    schema_completion_free(c);
    base_buffer_done(&out);
    return rc;
}

static int snapshot_record_there_and_back(const uint8_t *bytes, size_t n, struct base_error *err)
{
    struct schema_snapshot_record r;
    struct base_buffer out;
    base_buffer_init(&out, SIZE_MAX);
    int rc = schema_snapshot_record_decode(bytes, n, &r, err);
    if (rc == 0)
        rc = schema_snapshot_record_encode(&r, &out, err);
    base_buffer_done(&out);
    return rc;
}

static int dead_letter_headers(const uint8_t *bytes, size_t n, struct base_error *err)
{
    (void)bytes;
    (void)n;
    const struct schema_dead_letter letter = {.topic = "prompts", .message = "because"};
    struct schema_header out[SCHEMA_DEAD_LETTER_HEADERS_MAX];
    struct base_buffer memory;
    base_buffer_init(&memory, SIZE_MAX);
    uint32_t n_headers = schema_dead_letter_headers(&letter, NULL, 0, &memory, out);
    base_buffer_done(&memory);
    return n_headers > 0 ? 0 : base_fail(err, ERR_NOMEM, "no headers");
}

static void fail_each(const char *name, codec *run, const uint8_t *bytes, size_t n)
{
    for (long k = 1; k < 10000; k++) {
        struct base_error err = {0};
        fail_at = k;
        int rc = run(bytes, n, &err);
        bool done = fail_at > 0;
        fail_at = 0;
        if (rc != (done ? 0 : ERR_NOMEM))
            fail_msg("%s: with allocation %ld failing: %d (%s)", name, k, rc, err.text);
        if (done)
            return;
    }
    fail_msg("%s: no end of allocations", name);
}

static void fail_each_of(const char *record, codec *run)
{
    json_t *vectors = vectors_load(record), *vector;
    size_t i;
    json_array_foreach(vectors, i, vector)
    {
        size_t n;
        uint8_t *bytes = vectors_bytes_of(vector, &n);
        if (strcmp(vector_text(vector, "outcome"), "ok") == 0 && n < 1000)
            fail_each(vector_text(vector, "name"), run, bytes, n);
        free(bytes);
    }
    json_decref(vectors);
}

static void test_prompt_batch(void **state)
{
    (void)state;
    fail_each_of("prompt_batch", prompt_batch_there_and_back);
}

static void test_completion(void **state)
{
    (void)state;
    fail_each_of("completion", completion_there_and_back);
}

static void test_snapshot_record(void **state)
{
    (void)state;
    fail_each_of("snapshot_record", snapshot_record_there_and_back);
}

static void test_dead_letter(void **state)
{
    (void)state;
    fail_each("dead letter", dead_letter_headers, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_batch),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_snapshot_record),
        cmocka_unit_test(test_dead_letter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
