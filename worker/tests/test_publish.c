/* From a job to the records that leave: completions, dead letters, and what is too large for the broker. */
#include "worker/tests/test_worker.h"

#include "schemas/completion.h"
#include "schemas/prompt_batch.h"
#include "worker/intake.h"
#include "worker/publish.h"

static const struct worker_identity identity = {"oracle", "v1", "abcd", "host:1"};

/* What was sent, copied. */
struct sent {
    struct {
        bool is_dead_letter, has_value;
        struct base_buffer key, value;
        struct schema_dead_letter letter;
        bool *refused;
    } records[16];
    uint32_t n;
};

static int send_record(void *context, const struct publish_record *r, struct base_error *err)
{
    struct sent *s = context;
    assert_true(s->n < N_OF(s->records));
    uint32_t i = s->n++;
    s->records[i].is_dead_letter = r->is_dead_letter;
    s->records[i].has_value = r->value != NULL;
    s->records[i].refused = r->refused;
    base_buffer_init(&s->records[i].key, 1u << 20);
    base_buffer_init(&s->records[i].value, 8u << 20);
    base_buffer_append(&s->records[i].key, r->key, r->n_key);
    base_buffer_append(&s->records[i].value, r->value, r->n_value);
    return r->is_dead_letter ? schema_dead_letter_parse(r->headers, r->n_headers, &s->records[i].letter, err) : 0;
}

static void sent_done(struct sent *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        base_buffer_done(&s->records[i].key);
        base_buffer_done(&s->records[i].value);
    }
    s->n = 0;
}

static void publish(struct sent *s, struct worker_job *job, size_t n_bytes_max)
{
    struct base_error err = {0};
    struct publisher p;
    sent_done(s);
    publish_init(&p, &identity, "prompts", "workers", n_bytes_max, send_record, s);
    for (uint32_t i = 0; i < worker_job_n_parts(job); i++)
        assert_ok(publish_part(&p, job, i, &err), err);
    publish_done(&p);
}

static struct schema_completion *completion_at(struct sent *s, uint32_t i)
{
    struct base_error err = {0};
    struct schema_completion *c = NULL;
    assert_true(i < s->n && !s->records[i].is_dead_letter);
    assert_ok(schema_completion_decode(s->records[i].value.data, s->records[i].value.n, &c, &err), err);
    return c;
}

static struct worker_job *job_of(const void *value, size_t n)
{
    static const struct schema_header headers[] = {{"traceparent", "00-1-2-3", 8}, {"shop", "north", 5}};
    struct base_error err = {0};
    struct worker_record record = {.partition = 7,
                                   .offset = 42,
                                   .timestamp_ms = 1000,
                                   .key = "k",
                                   .n_key = 1,
                                   .value = value,
                                   .n_value = n,
                                   .headers = headers,
                                   .n_headers = 2};
    struct worker_job *job = NULL;
    assert_ok(worker_job_new(&record, &job, &err), err);
    assert_ok(worker_intake_decode(job, &err), err);
    return job;
}

static struct worker_job *batch_job(uint32_t n_prompts)
{
    struct schema_prompt prompts[8] = {0};
    static const char *const ids[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    struct base_error err = {0};
    struct base_buffer value;
    for (uint32_t i = 0; i < n_prompts; i++) {
        prompts[i].id = (struct schema_string){ids[i], 1};
        prompts[i].text = (struct schema_string){"Hear ye", 7};
    }
    struct schema_prompt_batch batch = {.batch_id = {"batch", 5}, .prompts = prompts, .n_prompts = n_prompts};
    base_buffer_init(&value, 1u << 20);
    assert_ok(schema_prompt_batch_encode(&batch, &value, &err), err);
    struct worker_job *job = job_of(value.data, value.n);
    assert_non_null(job->batch);
    assert_int_equal(job->n_open, n_prompts);
    base_buffer_done(&value);
    return job;
}

/* As if the engine had answered. */
static void answer(struct worker_prompt *p, const char *text, uint32_t n_tokens)
{
    struct engine_result r = {
        .finish = SCHEMA_FINISH_LENGTH, .n_tokens = n_tokens, .n_prompt = 2, .n_generated = n_tokens};
    base_buffer_init(&r.text, 1u << 20);
    base_buffer_string(&r.text, text);
    r.tokens = calloc(n_tokens + 1, sizeof *r.tokens);
    p->state = WORKER_PROMPT_RUNNING;
    worker_prompt_finish(p, &r);
}

static void test_completions(void **state)
{
    (void)state;
    struct sent s = {0};
    struct worker_metrics m = {0};
    struct worker_job *job = batch_job(2);
    answer(&job->prompts[0], "one", 3);
    worker_prompt_expire(&job->prompts[1]);
    assert_int_equal(job->n_open, 0);
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 2);
    for (uint32_t i = 0; i < 2; i++) {
        struct schema_completion *c = completion_at(&s, i);
        assert_string_equal(base_buffer_cstr(&s.records[i].key), "batch");
        assert_int_equal(c->index, i);
        assert_int_equal(c->n_prompts, 2);
        assert_string_equal(c->model.text, "oracle");
        assert_string_equal(c->snapshot.text, "abcd");
        assert_string_equal(c->worker.text, "host:1");
        assert_string_equal(c->text.text, i ? "" : "one");
        assert_int_equal(c->finish, i ? SCHEMA_FINISH_EXPIRED : SCHEMA_FINISH_LENGTH);
        assert_int_equal(c->n_tokens, i ? 0 : 3);
        schema_completion_free(c);
    }
    for (uint32_t i = 0; i < worker_job_n_parts(job); i++)
        (void)publish_count(job, i, &m);
    assert_int_equal(metrics_get(&m.prompts[SCHEMA_FINISH_LENGTH]), 1);
    assert_int_equal(metrics_get(&m.prompts[SCHEMA_FINISH_EXPIRED]), 1);
    assert_int_equal(metrics_get(&m.completion_tokens), 3);
    sent_done(&s);
    worker_job_free(job);
}

static void test_a_refused_prompt(void **state)
{
    (void)state;
    struct sent s = {0};
    struct worker_metrics m = {0};
    struct worker_job *job = batch_job(3);
    answer(&job->prompts[0], "one", 1);
    worker_prompt_refuse(&job->prompts[1], SCHEMA_PROMPT_TOO_LONG, SCHEMA_STAGE_ADMIT, "too many tokens");
    answer(&job->prompts[2], "three", 1);
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 4);
    assert_true(s.records[1].is_dead_letter);
    assert_string_equal(base_buffer_cstr(&s.records[1].key), "k");
    const struct schema_dead_letter *l = &s.records[1].letter;
    assert_string_equal(l->topic, "prompts");
    assert_string_equal(l->group, "workers");
    assert_string_equal(l->traceparent, "00-1-2-3");
    assert_int_equal(l->partition, 7);
    assert_int_equal(l->offset, 42);
    assert_int_equal(l->orig_timestamp_ms, 1000);
    assert_int_equal(l->code, SCHEMA_PROMPT_TOO_LONG);
    assert_int_equal(l->stage, SCHEMA_STAGE_ADMIT);
    assert_string_equal(l->message, "too many tokens");
    struct schema_prompt_batch *batch = NULL;
    assert_int_equal(
        schema_prompt_batch_decode(s.records[1].value.data, s.records[1].value.n, NULL, &batch, NULL, NULL), 0);
    assert_int_equal(batch->n_prompts, 1);
    assert_string_equal(batch->prompts[0].id.text, "b");
    schema_prompt_batch_free(batch);
    struct schema_completion *c = completion_at(&s, 2);
    assert_int_equal(c->finish, SCHEMA_FINISH_ERROR);
    assert_int_equal(c->error, SCHEMA_PROMPT_TOO_LONG);
    assert_string_equal(c->error_text.text, "too many tokens");
    schema_completion_free(c);
    for (uint32_t i = 0; i < worker_job_n_parts(job); i++)
        (void)publish_count(job, i, &m);
    assert_int_equal(metrics_get(&m.dead_letters[SCHEMA_PROMPT_TOO_LONG][SCHEMA_STAGE_ADMIT]), 1);
    assert_int_equal(metrics_get(&m.prompts[SCHEMA_FINISH_ERROR]), 1);
    sent_done(&s);
    worker_job_free(job);
}

static void test_a_record_that_is_no_batch(void **state)
{
    (void)state;
    struct sent s = {0};
    struct worker_job *job = job_of("not msgpack", 11);
    assert_int_equal(job->n_open, 0);
    assert_int_equal(job->weight, 1);
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 1);
    assert_true(s.records[0].is_dead_letter);
    assert_string_equal(base_buffer_cstr(&s.records[0].value), "not msgpack");
    assert_int_equal(s.records[0].letter.stage, SCHEMA_STAGE_DECODE);
    worker_job_free(job);

    job = job_of(NULL, 0); /* a tombstone */
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 1);
    assert_false(s.records[0].has_value);
    worker_job_free(job);
    sent_done(&s);
}

static void test_a_completion_that_is_too_large(void **state)
{
    (void)state;
    char text[4000];
    struct sent s = {0};
    struct worker_job *job = batch_job(1);
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    answer(&job->prompts[0], text, 100);
    publish(&s, job, 3000);
    assert_int_equal(s.n, 2);
    assert_true(s.records[0].is_dead_letter);
    assert_int_equal(s.records[0].letter.code, SCHEMA_OUTPUT_TOO_LARGE);
    assert_int_equal(s.records[0].letter.stage, SCHEMA_STAGE_PUBLISH);
    assert_int_equal(s.records[0].value.n, job->n_value); /* the only prompt: the original bytes */
    struct schema_completion *c = completion_at(&s, 1);
    assert_int_equal(c->error, SCHEMA_OUTPUT_TOO_LARGE);
    assert_int_equal(c->text.n, 0);
    schema_completion_free(c);
    assert_int_equal(worker_prompt_outcome(&job->prompts[0]), SCHEMA_FINISH_ERROR);
    sent_done(&s);
    worker_job_free(job);
}

static void test_what_only_the_broker_finds_too_large(void **state)
{
    (void)state;
    struct sent s = {0};
    struct worker_job *job = batch_job(2);
    answer(&job->prompts[0], "one", 1);
    answer(&job->prompts[1], "two", 1);
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 2);
    *s.records[1].refused = true; /* as the delivery report does; the transaction is aborted and sent again */
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 3);
    struct schema_completion *c = completion_at(&s, 0);
    assert_string_equal(c->text.text, "one");
    schema_completion_free(c);
    assert_true(s.records[1].is_dead_letter);
    *s.records[1].refused = true; /* and the dead letter, too */
    publish(&s, job, 1000000);
    assert_int_equal(s.n, 3);
    assert_true(s.records[1].is_dead_letter);
    assert_false(s.records[1].has_value);
    assert_null(s.records[1].refused);
    *s.records[2].refused = true; /* and even the error completion */
    publish(&s, job, 1000000);
    c = completion_at(&s, 2);
    assert_int_equal(c->error, SCHEMA_OUTPUT_TOO_LARGE);
    assert_int_equal(c->error_text.n, 0);
    assert_null(s.records[2].refused);
    schema_completion_free(c);
    sent_done(&s);
    worker_job_free(job);
}

static void test_a_dead_letter_that_is_too_large(void **state)
{
    (void)state;
    char value[5000];
    struct sent s = {0};
    memset(value, 'z', sizeof value);
    struct worker_job *job = job_of(value, sizeof value);
    publish(&s, job, 4000);
    assert_int_equal(s.n, 1);
    assert_false(s.records[0].has_value);
    assert_non_null(strstr(s.records[0].letter.message, "5000 bytes"));
    assert_int_equal(s.records[0].letter.offset, 42);
    sent_done(&s);
    worker_job_free(job);
}

static void test_guard_against_emptying_the_topic(void **state)
{
    (void)state;
    struct worker_intake_guard g = {0};
    const uint64_t pause = WORKER_GUARD_PAUSE_MS * 1000000ull;
    for (int i = 1; i < WORKER_GUARD_RECORDS; i++)
        assert_false(worker_intake_guard_note(&g, i % 10 ? SCHEMA_UNKNOWN_MODEL : SCHEMA_OK, 5));
    g = (struct worker_intake_guard){0};
    for (int i = 1; i < WORKER_GUARD_RECORDS; i++)
        assert_false(worker_intake_guard_note(&g, SCHEMA_UNKNOWN_MODEL, 5));
    assert_true(worker_intake_guard_note(&g, SCHEMA_UNKNOWN_MODEL, 5));
    assert_false(worker_intake_guard_note(&g, SCHEMA_UNKNOWN_MODEL, 6)); /* said once */
    assert_false(worker_intake_guard_resume(&g, pause));
    assert_true(worker_intake_guard_resume(&g, pause + 5));
    assert_true(worker_intake_guard_note(&g, SCHEMA_UNKNOWN_MODEL, pause + 6)); /* still the same */
    assert_true(worker_intake_guard_resume(&g, 3 * pause));
    assert_false(worker_intake_guard_note(&g, SCHEMA_OK, 3 * pause)); /* well again */
    assert_false(worker_intake_guard_note(&g, SCHEMA_UNKNOWN_MODEL, 3 * pause));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_a_refused_prompt),
        cmocka_unit_test(test_a_record_that_is_no_batch),
        cmocka_unit_test(test_a_completion_that_is_too_large),
        cmocka_unit_test(test_what_only_the_broker_finds_too_large),
        cmocka_unit_test(test_a_dead_letter_that_is_too_large),
        cmocka_unit_test(test_guard_against_emptying_the_topic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
