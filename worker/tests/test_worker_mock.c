/* worker_run on librdkafka's mock cluster: the whole data path, and what it does when things are in its way. */
#include "worker/tests/mock_kafka.h"

#include <ftw.h>
#include <jansson.h>
#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "schemas/prompt_batch.h"
#include "snapshot/tests/fake_device.h"
#include "worker/worker.h"

#define IN_PARTITIONS  4
#define OUT_PARTITIONS 2
#define PATIENCE_MS    60000

static char scratch[128], store[160], model_dir[1024];
static uint32_t n_started; /* so that no two workers of the tests share a group */

/* One running worker with its cluster. */
struct fixture {
    struct mock_kafka kafka;
    struct mock_reader completions, letters;
    struct worker_options options;
    char http[64], group[32], trace_file[200];
    uint16_t port;
    const char *kafka_items[4];
    pthread_t thread;
    bool running;
    int rc;
    struct base_error err;
    struct base_buffer head, body;
};

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int open_group(void **state)
{
    (void)state;
    const char *source = getenv("ROUSE_SOURCE_DIR"), *level = getenv("ROUSE_TEST_LOG");
    base_log_setup(level ? BASE_LOG_DEBUG : BASE_LOG_OFF, BASE_LOG_TEXT);
    snprintf(model_dir, sizeof model_dir, "%s/models/oracle", source ? source : ".");
    snprintf(scratch, sizeof scratch, "/tmp/rouse-worker-XXXXXX");
    assert_non_null(mkdtemp(scratch));
    snprintf(store, sizeof store, "%s/store", scratch);
    return 0;
}

static int close_group(void **state)
{
    (void)state;
    return nftw(scratch, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    mock_kafka_open(&f->kafka);
    base_buffer_init(&f->head, 1u << 20);
    base_buffer_init(&f->body, 4u << 20);
    n_started++;
    f->port = mock_free_port();
    snprintf(f->http, sizeof f->http, "127.0.0.1:%u", f->port);
    snprintf(f->group, sizeof f->group, "group-%u", n_started);
    snprintf(f->trace_file, sizeof f->trace_file, "%s/trace-%u.json", scratch, n_started);
    f->options = (struct worker_options){
        .brokers = f->kafka.brokers,
        .group = f->group,
        .topic_in = "prompts",
        .topic_out = "completions",
        .topic_dlq = "letters",
        .http = f->http,
        .device = "cpu",
        .open = {.n_threads = 2},
        .start = {.model = model_dir, .store = store, .dtype = "f32", .build = SNAP_BUILD_AUTO},
        .trace_file = f->trace_file,
        .n_inflight_max = 64,
        .commit_ms = 20,
        .drain_ms = 30000,
    };
    *state = f;
    return 0;
}

static void make_topics(struct fixture *f)
{
    mock_kafka_topic(&f->kafka, "prompts", IN_PARTITIONS);
    mock_kafka_topic(&f->kafka, "completions", OUT_PARTITIONS);
    mock_kafka_topic(&f->kafka, "letters", 1);
    mock_reader_open(&f->completions, &f->kafka, "completions", OUT_PARTITIONS);
    mock_reader_open(&f->letters, &f->kafka, "letters", 1);
}

static void *run(void *context)
{
    struct fixture *f = context;
    f->rc = worker_run(&f->options, &f->err);
    return NULL;
}

static void start(struct fixture *f)
{
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
    f->running = true;
}

static int wait_end(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    f->running = false;
    return f->rc;
}

static void stop(struct fixture *f)
{
    worker_request_stop();
    if (wait_end(f) != 0)
        fail_msg("worker_run: %s", f->err.text);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->running) {
        worker_request_stop();
        worker_request_stop();
        wait_end(f);
    }
    if (f->completions.rk)
        mock_reader_close(&f->completions);
    if (f->letters.rk)
        mock_reader_close(&f->letters);
    mock_kafka_close(&f->kafka);
    base_buffer_done(&f->head);
    base_buffer_done(&f->body);
    free(f);
    return 0;
}

/* Batches */

static struct schema_string string_of(const char *text)
{
    return (struct schema_string){text, strlen(text)};
}

struct batch {
    char id[32];
    uint32_t n_prompts;
    uint32_t max_tokens;
    const char *text, *model;
    int64_t deadline_ms;
};

static void encode_batch(const struct batch *b, struct base_buffer *out)
{
    static char ids[64][16];
    struct schema_prompt prompts[64] = {0};
    struct base_error err = {0};
    assert_true(b->n_prompts <= 64);
    for (uint32_t i = 0; i < b->n_prompts; i++) {
        snprintf(ids[i], sizeof ids[i], "p%u", i);
        prompts[i].id = string_of(ids[i]);
        prompts[i].text = string_of(b->text ? b->text : "And God said");
        prompts[i].sampling.has = SCHEMA_HAS_MAX_TOKENS | SCHEMA_HAS_IGNORE_EOS;
        prompts[i].sampling.max_tokens = b->max_tokens;
        prompts[i].sampling.ignore_eos = true;
    }
    struct schema_prompt_batch batch = {
        .batch_id = string_of(b->id), .prompts = prompts, .n_prompts = b->n_prompts, .deadline_ms = b->deadline_ms};
    if (b->model)
        batch.model = string_of(b->model);
    base_buffer_init(out, 1u << 20);
    assert_ok(schema_prompt_batch_encode(&batch, out, &err), err);
}

static void put_batch(struct fixture *f, const struct batch *b)
{
    struct base_buffer value;
    encode_batch(b, &value);
    mock_kafka_put(&f->kafka, "prompts", b->id, strlen(b->id), value.data, value.n, NULL, NULL);
    base_buffer_done(&value);
}

static void put_batches(struct fixture *f, const char *name, uint32_t n, uint32_t n_prompts, uint32_t max_tokens)
{
    for (uint32_t i = 0; i < n; i++) {
        struct batch b = {.n_prompts = n_prompts, .max_tokens = max_tokens};
        snprintf(b.id, sizeof b.id, "%.20s-%u", name, i);
        put_batch(f, &b);
    }
}

/* Results */

static struct schema_completion *next_completion(struct fixture *f, int wait_ms)
{
    uint64_t until = base_clock_mono_ns() + (uint64_t)wait_ms * 1000000;
    rd_kafka_message_t *m = NULL;
    while (!m && base_clock_mono_ns() < until)
        m = mock_reader_next(&f->completions, 50);
    if (!m)
        return NULL;
    struct base_error err = {0};
    struct schema_completion *c = NULL;
    assert_ok(schema_completion_decode(m->payload, m->len, &c, &err), err);
    assert_int_equal(m->key_len, c->batch_id.n);
    assert_memory_equal(m->key, c->batch_id.text, c->batch_id.n);
    rd_kafka_message_destroy(m);
    return c;
}

/* Exactly n completions, of the given end, each once; and nothing behind them. */
static void expect_completions(struct fixture *f, uint32_t n, enum schema_finish finish, uint32_t n_tokens)
{
    char seen[256][64];
    assert_true(n <= N_OF(seen));
    for (uint32_t i = 0; i < n; i++) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        if (!c)
            fail_msg("%u completions of %u came", i, n);
        assert_string_equal(schema_finish_name(c->finish), schema_finish_name(finish));
        assert_int_equal(c->n_tokens, n_tokens);
        assert_string_equal(c->model.text, "oracle");
        snprintf(seen[i], sizeof seen[i], "%.40s/%u", c->batch_id.text, c->index);
        for (uint32_t k = 0; k < i; k++)
            assert_string_not_equal(seen[k], seen[i]);
        schema_completion_free(c);
    }
}

static void expect_no_more_completions(struct fixture *f)
{
    assert_null(next_completion(f, 500));
}

static rd_kafka_message_t *next_letter(struct fixture *f, struct schema_dead_letter *out)
{
    struct schema_header headers[64];
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    rd_kafka_message_t *m = NULL;
    while (!m && base_clock_mono_ns() < until)
        m = mock_reader_next(&f->letters, 50);
    assert_non_null(m);
    struct base_error err = {0};
    assert_ok(schema_dead_letter_parse(headers, mock_headers(m, headers, 64), out, &err), err);
    return m;
}

static unsigned get(struct fixture *f, const char *path)
{
    return mock_http(f->port, "GET", path, &f->head, &f->body);
}

static void wait_for_status(struct fixture *f, const char *path, unsigned status)
{
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while (get(f, path) != status && base_clock_mono_ns() < until)
        base_clock_sleep_ms(20);
    if (get(f, path) != status)
        fail_msg("%s is not %u: %s", path, status, base_buffer_cstr(&f->body));
}

/* A sample's value; -1: there is none. */
static double metric(struct fixture *f, const char *name)
{
    char line[128];
    assert_int_equal(get(f, "/metrics"), 200);
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(base_buffer_cstr(&f->body), line);
    return at ? strtod(at + strlen(line), NULL) : -1;
}

static void wait_for_metric(struct fixture *f, const char *name, double at_least)
{
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while (metric(f, name) < at_least && base_clock_mono_ns() < until)
        base_clock_sleep_ms(50);
    if (metric(f, name) < at_least)
        fail_msg("%s is %g, wanted %g", name, metric(f, name), at_least);
}

/* Tests */

static void check_healthz(struct fixture *f)
{
    json_error_t why;
    assert_int_equal(get(f, "/healthz"), 200);
    assert_non_null(strstr(base_buffer_cstr(&f->head), "application/json"));
    json_t *j = json_loadb(base_buffer_cstr(&f->body), f->body.n, 0, &why);
    if (!j)
        fail_msg("healthz: %s: %s", why.text, base_buffer_cstr(&f->body));
    assert_string_equal(json_string_value(json_object_get(j, "state")), "ready");
    assert_string_equal(json_string_value(json_object_get(j, "model")), "oracle");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "device"), "kind")), "cpu");
    assert_true(json_is_true(json_object_get(j, "alive")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "kafka"), "partitions")), IN_PARTITIONS);
    assert_int_equal(json_integer_value(json_object_get(j, "inflight_prompts")), 0);
    assert_true(json_is_real(json_object_get(j, "last_completion_age_s")));
    assert_true(json_is_object(json_object_get(j, "cold_start")));
    json_decref(j);
}

static void test_prompts_become_completions(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    put_batches(f, "before", 10, 3, 5); /* there before the worker is */
    start(f);
    expect_completions(f, 30, SCHEMA_FINISH_LENGTH, 5);
    put_batches(f, "after", 10, 1, 4);
    expect_completions(f, 10, SCHEMA_FINISH_LENGTH, 4);
    expect_no_more_completions(f);

    assert_int_equal(get(f, "/startupz"), 200);
    assert_int_equal(get(f, "/livez"), 200);
    assert_int_equal(get(f, "/readyz"), 200);
    assert_int_equal(get(f, "/nowhere"), 404);
    assert_int_equal(mock_http(f->port, "POST", "/healthz", &f->head, &f->body), 405);
    assert_non_null(strstr(base_buffer_cstr(&f->head), "Allow: GET, HEAD"));
    assert_int_equal(mock_http(f->port, "HEAD", "/livez", &f->head, &f->body), 200);
    assert_int_equal(f->body.n, 0);
    check_healthz(f);
    assert_true(metric(f, "rouse_records_total") == 20);
    assert_true(metric(f, "rouse_prompts_total{finish_reason=\"length\"}") == 40);
    assert_true(metric(f, "rouse_completion_tokens_total") == 190);
    assert_true(metric(f, "rouse_ready") == 1);
    assert_true(metric(f, "rouse_cold_start_seconds{phase=\"first_commit\"}") > 0);
    wait_for_metric(f, "rouse_lag_records", 0);
    stop(f);
    assert_int_equal(access(f->trace_file, R_OK), 0);
}

static void test_same_prompt_same_answer(void **state)
{
    struct fixture *f = *state;
    char first[2048] = "";
    make_topics(f);
    put_batches(f, "same", 8, 4, 24);
    start(f);
    for (int i = 0; i < 32; i++) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        assert_non_null(c);
        if (i == 0)
            snprintf(first, sizeof first, "%s", c->text.text);
        assert_string_equal(c->text.text, first);
        schema_completion_free(c);
    }
    assert_true(strlen(first) > 8);
    stop(f);
}

struct bad_record {
    const char *name;
    struct base_buffer value;
    enum schema_code code;
    enum schema_stage stage;
    uint32_t n_completions; /* all of them errors */
};

static void bad_records(struct bad_record out[5])
{
    static const uint8_t bomb[] = {0xdf, 0xff, 0xff, 0xff, 0xff};
    static char longest[6000];
    struct batch foreign = {.id = "foreign", .n_prompts = 2, .max_tokens = 3, .model = "pythia-12b@v3"};
    struct batch too_long = {.id = "long", .n_prompts = 1, .max_tokens = 3, .text = longest};
    for (size_t i = 0; i + 2 < sizeof longest; i += 2)
        memcpy(longest + i, "a ", 2);
    memset(out, 0, 5 * sizeof *out);
    for (int i = 0; i < 5; i++)
        base_buffer_init(&out[i].value, 1u << 20);
    out[0].name = "not msgpack";
    base_buffer_string(&out[0].value, "hello");
    out[0].code = SCHEMA_MALFORMED;
    out[1].name = "a bomb";
    base_buffer_append(&out[1].value, bomb, sizeof bomb);
    out[1].code = SCHEMA_CODE_N; /* whichever the scanner says */
    out[2].name = "another model";
    encode_batch(&foreign, &out[2].value);
    out[2].code = SCHEMA_UNKNOWN_MODEL;
    out[2].stage = SCHEMA_STAGE_ADMIT;
    out[2].n_completions = 2;
    out[3].name = "too long";
    encode_batch(&too_long, &out[3].value);
    out[3].code = SCHEMA_PROMPT_TOO_LONG;
    out[3].stage = SCHEMA_STAGE_ADMIT;
    out[3].n_completions = 1;
    out[4].name = "empty";
    out[4].code = SCHEMA_MALFORMED;
}

static void test_bad_records_become_dead_letters(void **state)
{
    struct fixture *f = *state;
    struct bad_record bad[5];
    make_topics(f);
    bad_records(bad);
    start(f);
    for (int i = 0; i < 5; i++) {
        struct schema_dead_letter letter;
        mock_kafka_put(&f->kafka, "prompts", "key", 3, bad[i].value.data, bad[i].value.n, "traceparent", "00-ab-cd-01");
        rd_kafka_message_t *m = next_letter(f, &letter);
        if (m->len != bad[i].value.n ||
            memcmp(m->payload ? m->payload : "", base_buffer_cstr(&bad[i].value), m->len) != 0)
            fail_msg("%s: the value is not what was sent", bad[i].name);
        assert_memory_equal(m->key, "key", 3);
        if (bad[i].code != SCHEMA_CODE_N)
            assert_string_equal(schema_code_name(letter.code), schema_code_name(bad[i].code));
        assert_string_equal(schema_stage_name(letter.stage), schema_stage_name(bad[i].stage));
        assert_string_equal(letter.topic, "prompts");
        assert_string_equal(letter.group, f->group);
        assert_string_equal(letter.traceparent, "00-ab-cd-01");
        assert_true(letter.message[0] && letter.last_failed_ms > 0 && letter.orig_timestamp_ms > 0);
        rd_kafka_message_destroy(m);
        expect_completions(f, bad[i].n_completions, SCHEMA_FINISH_ERROR, 0);
        base_buffer_done(&bad[i].value);
    }
    put_batches(f, "good", 1, 1, 2); /* alive after all of it */
    expect_completions(f, 1, SCHEMA_FINISH_LENGTH, 2);
    expect_no_more_completions(f);
    stop(f);
}

/* {v, batch_id, prompts: [{id, text, max_tokens}, ...]} with max_tokens as given, good or bad. */
static void put_raw_batch(struct fixture *f, const char *id, const int *max_tokens, uint8_t n)
{
    struct base_buffer b;
    base_buffer_init(&b, 4096);
    base_buffer_append(&b,
                       "\x83\xa1v\x01\xa8"
                       "batch_id",
                       13);
    base_buffer_byte(&b, (uint8_t)(0xa0 | strlen(id)));
    base_buffer_string(&b, id);
    base_buffer_append(&b, "\xa7prompts", 8);
    base_buffer_byte(&b, (uint8_t)(0x90 | n));
    for (uint8_t i = 0; i < n; i++) {
        base_buffer_append(&b, "\x83\xa2id\xa1", 5);
        base_buffer_byte(&b, (uint8_t)('a' + i));
        base_buffer_append(&b, "\xa4text\xa5In th\xaamax_tokens\xd2", 23);
        for (int shift = 24; shift >= 0; shift -= 8)
            base_buffer_byte(&b, (uint8_t)((uint32_t)max_tokens[i] >> shift));
    }
    mock_kafka_put(&f->kafka, "prompts", id, strlen(id), b.data, b.n, NULL, NULL);
    base_buffer_done(&b);
}

static void test_a_bad_prompt_goes_alone(void **state)
{
    struct fixture *f = *state;
    static const int max_tokens[] = {3, 0, 3, -5, 2000000000};
    make_topics(f);
    start(f);
    put_raw_batch(f, "mixed", max_tokens, N_OF(max_tokens));
    int n_good = 0, n_bad = 0;
    for (size_t i = 0; i < N_OF(max_tokens); i++) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        assert_non_null(c);
        bool good = max_tokens[c->index] == 3;
        assert_int_equal(c->n_prompts, N_OF(max_tokens));
        assert_true(good ? c->finish != SCHEMA_FINISH_ERROR : c->error == SCHEMA_BAD_VALUE && c->text.n == 0);
        n_good += good;
        n_bad += !good;
        schema_completion_free(c);
    }
    assert_int_equal(n_good, 2);
    assert_int_equal(n_bad, 3);
    for (int i = 0; i < 3; i++) {
        struct schema_dead_letter letter;
        struct schema_prompt_batch *batch = NULL;
        struct base_error err = {0};
        rd_kafka_message_t *m = next_letter(f, &letter);
        assert_ok(schema_prompt_batch_decode(m->payload, m->len, NULL, &batch, NULL, &err), err);
        assert_int_equal(batch->n_prompts, 1);
        assert_string_equal(batch->batch_id.text, "mixed");
        assert_int_equal(batch->prompts[0].error, SCHEMA_BAD_VALUE);
        schema_prompt_batch_free(batch);
        rd_kafka_message_destroy(m);
    }
    stop(f);
}

static void test_past_deadlines_are_not_worked_on(void **state)
{
    struct fixture *f = *state;
    struct batch b = {.id = "late", .n_prompts = 3, .max_tokens = 100, .deadline_ms = base_clock_unix_ms() - 1000};
    make_topics(f);
    put_batch(f, &b);
    start(f);
    expect_completions(f, 3, SCHEMA_FINISH_EXPIRED, 0);
    assert_true(metric(f, "rouse_engine_steps_total") == 0);
    stop(f);
}

static void test_drain_finishes_what_was_taken(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    put_batches(f, "drain", 12, 2, 60);
    wait_for_metric(f, "rouse_records_total", 12);
    stop(f); /* returns 0: drained */
    expect_completions(f, 24, SCHEMA_FINISH_LENGTH, 60);
    expect_no_more_completions(f);
}

static void test_second_stop_leaves_now(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    put_batches(f, "endless", 30, 2, 400);
    wait_for_metric(f, "rouse_inflight_prompts", 20);
    uint64_t began = base_clock_mono_ns();
    worker_request_stop();
    worker_request_stop();
    assert_int_equal(wait_end(f), ERR_STOPPED);
    assert_true(base_clock_mono_ns() - began < 10 * 1000000000ull);
}

static void test_exit_after(void **state)
{
    struct fixture *f = *state;
    f->options.exit_after = 6;
    make_topics(f);
    put_batches(f, "some", 3, 2, 3);
    start(f);
    assert_int_equal(wait_end(f), 0);
    expect_completions(f, 6, SCHEMA_FINISH_LENGTH, 3);
}

static void test_backpressure(void **state)
{
    struct fixture *f = *state;
    f->options.n_inflight_max = 8;
    make_topics(f);
    put_batches(f, "many", 60, 2, 6);
    start(f);
    wait_for_status(f, "/startupz", 200);
    for (int i = 0; i < 20; i++) {
        assert_true(metric(f, "rouse_inflight_prompts") <= 8 + 2);
        base_clock_sleep_ms(20);
    }
    expect_completions(f, 120, SCHEMA_FINISH_LENGTH, 6);
    expect_no_more_completions(f);
    stop(f);
}

static void test_brokers_away_and_back(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    rd_kafka_mock_broker_set_down(f->kafka.cluster, 1);
    start(f);
    wait_for_status(f, "/startupz", 200); /* the restore does not wait for them */
    wait_for_status(f, "/readyz", 503);
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while (!strstr(base_buffer_cstr(&f->body), "brokers away") && base_clock_mono_ns() < until) {
        base_clock_sleep_ms(50);
        get(f, "/readyz");
    }
    assert_non_null(strstr(base_buffer_cstr(&f->body), "brokers away"));
    assert_int_equal(get(f, "/livez"), 200);
    rd_kafka_mock_broker_set_up(f->kafka.cluster, 1);
    wait_for_status(f, "/readyz", 200);
    put_batches(f, "first", 4, 1, 3);
    expect_completions(f, 4, SCHEMA_FINISH_LENGTH, 3);

    rd_kafka_mock_broker_set_down(f->kafka.cluster, 1);
    wait_for_status(f, "/readyz", 503);
    rd_kafka_mock_broker_set_up(f->kafka.cluster, 1);
    put_batches(f, "second", 4, 1, 3);
    expect_completions(f, 4, SCHEMA_FINISH_LENGTH, 3);
    stop(f);
}

static void test_topics_that_come_later(void **state)
{
    struct fixture *f = *state;
    make_topics(f); /* the mock would make them by itself: it is told to say that it does not know them */
    rd_kafka_mock_topic_set_error(f->kafka.cluster, "prompts", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    start(f);
    wait_for_status(f, "/startupz", 200);
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while ((get(f, "/readyz"), !strstr(base_buffer_cstr(&f->body), "topic 'prompts'")) && base_clock_mono_ns() < until)
        base_clock_sleep_ms(50);
    assert_non_null(strstr(base_buffer_cstr(&f->body), "topic 'prompts'"));
    assert_true(metric(f, "rouse_ready") == 0);
    rd_kafka_mock_topic_set_error(f->kafka.cluster, "prompts", RD_KAFKA_RESP_ERR_NO_ERROR);
    put_batches(f, "patience", 3, 1, 3);
    expect_completions(f, 3, SCHEMA_FINISH_LENGTH, 3);
    stop(f);
}

/* The mock does not hide aborted records, so what is asked for is that everything comes at least once, and that the worker
 * says what it did. */
static void expect_each_at_least_once(struct fixture *f, uint32_t n_batches)
{
    bool seen[64] = {false};
    uint32_t n_seen = 0;
    while (n_seen < n_batches) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        if (!c)
            fail_msg("%u of %u batches were answered", n_seen, n_batches);
        unsigned i = (unsigned)strtoul(strchr(c->batch_id.text, '-') + 1, NULL, 10);
        assert_true(i < n_batches);
        n_seen += !seen[i];
        seen[i] = true;
        schema_completion_free(c);
    }
}

static void test_failed_transactions_are_sent_again(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *name;
        int16_t request;
        rd_kafka_resp_err_t errors[2];
        const char *metric;
    } cases[] = {
        {"generation has changed",
         MOCK_TXN_OFFSET_COMMIT,
         {RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, 0},
         "transactions_aborted"},
        {"no such partition for a moment",
         MOCK_ADD_PARTITIONS,
         {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 0},
         "transactions_aborted"},
        {"coordinator moves", MOCK_ADD_OFFSETS, {RD_KAFKA_RESP_ERR_NOT_COORDINATOR, 0}, NULL},
        {"fenced at the end", MOCK_END_TXN, {RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, 0}, "producers_replaced"},
        {"end fails in a way nobody knows", MOCK_END_TXN, {RD_KAFKA_RESP_ERR_UNKNOWN, 0}, "transactions_aborted"},
        {"record refused", MOCK_PRODUCE, {RD_KAFKA_RESP_ERR_INVALID_MSG, 0}, "transactions_aborted"},
    };
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    for (size_t i = 0; i < N_OF(cases); i++) {
        char name[20];
        snprintf(name, sizeof name, "case%zu", i);
        put_batches(f, name, 1, 1, 40);
        rd_kafka_mock_push_request_errors_array(f->kafka.cluster, cases[i].request, 1, cases[i].errors);
        expect_each_at_least_once(f, 1);
        base_clock_sleep_ms(200);
        for (struct schema_completion *c; (c = next_completion(f, 300));) /* the aborted copies */
            schema_completion_free(c);
        if (cases[i].metric && strcmp(cases[i].metric, "producers_replaced") == 0)
            wait_for_metric(f, "rouse_producers_replaced_total", 1);
    }
    wait_for_metric(f, "rouse_transactions_total{result=\"aborted\"}", 3);
    stop(f);
}

static void test_a_completion_too_large_for_the_broker(void **state)
{
    struct fixture *f = *state;
    struct schema_dead_letter letter;
    f->kafka_items[0] = "message.max.bytes=2000";
    f->options.kafka = (struct base_option_list){f->kafka_items, 1};
    make_topics(f);
    put_batches(f, "big", 1, 1, 400);
    start(f);
    struct schema_completion *c = next_completion(f, PATIENCE_MS);
    assert_non_null(c);
    assert_int_equal(c->finish, SCHEMA_FINISH_ERROR);
    assert_int_equal(c->error, SCHEMA_OUTPUT_TOO_LARGE);
    assert_int_equal(c->text.n, 0);
    schema_completion_free(c);
    rd_kafka_message_t *m = next_letter(f, &letter);
    assert_int_equal(letter.code, SCHEMA_OUTPUT_TOO_LARGE);
    assert_int_equal(letter.stage, SCHEMA_STAGE_PUBLISH);
    rd_kafka_message_destroy(m);

    /* The same, when only the broker knows: told by the delivery, remembered on the next attempt. */
    static const rd_kafka_resp_err_t refused[] = {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE};
    put_batches(f, "small", 1, 1, 60);
    rd_kafka_mock_push_request_errors_array(f->kafka.cluster, MOCK_PRODUCE, 1, refused);
    c = next_completion(f, PATIENCE_MS);
    assert_non_null(c);
    assert_int_equal(c->error, SCHEMA_OUTPUT_TOO_LARGE);
    schema_completion_free(c);
    rd_kafka_message_destroy(next_letter(f, &letter));
    assert_string_equal(letter.topic, "prompts");
    assert_int_equal(letter.code, SCHEMA_OUTPUT_TOO_LARGE);
    stop(f);
}

static void test_group_rebalance(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    put_batches(f, "one", 20, 2, 30);

    struct fixture second = {.port = mock_free_port()};
    second.options = f->options;
    snprintf(second.http, sizeof second.http, "127.0.0.1:%u", second.port);
    second.options.http = second.http;
    second.options.transactional_id = "second";
    second.options.trace_file = NULL;
    base_buffer_init(&second.head, 1u << 20);
    base_buffer_init(&second.body, 1u << 20);
    start(&second);
    wait_for_status(&second, "/readyz", 200); /* some partitions have moved */
    put_batches(f, "one", 20, 2, 30);
    expect_each_at_least_once(f, 20);
    assert_true(metric(f, "rouse_partition_changes_total{change=\"revoked\"}") >= IN_PARTITIONS);
    worker_request_stop(); /* both: requests are the process's */
    assert_int_equal(wait_end(f), 0);
    assert_int_equal(wait_end(&second), 0);
    base_buffer_done(&second.head);
    base_buffer_done(&second.body);
}

static void expect_failure(struct fixture *f, int code, const char *text)
{
    struct base_error err = {0};
    uint64_t began = base_clock_mono_ns();
    int rc = worker_run(&f->options, &err);
    if (rc != code || !strstr(err.text, text))
        fail_msg("wanted %s with '%s', got %s: %s", base_error_name(code), text, base_error_name(rc), err.text);
    assert_true(base_clock_mono_ns() - began < 20 * 1000000000ull);
}

static void test_what_is_wrong_is_said(void **state)
{
    struct fixture *f = *state;
    struct worker_options good = f->options;
    make_topics(f);

    f->options.topic_in = "";
    expect_failure(f, ERR_USAGE, "--in");
    f->options = good;
    f->options.topic_out = "prompts";
    expect_failure(f, ERR_USAGE, "come back as prompts");
    f->options = good;
    f->kafka_items[0] = "no.such.property=1";
    f->options.kafka = (struct base_option_list){f->kafka_items, 1};
    expect_failure(f, ERR_USAGE, "No such configuration property");
    f->kafka_items[0] =
        "transaction.timeout.ms=3000"; /* only rd_kafka_new sees that the deliveries would take longer */
    expect_failure(f, ERR_USAGE, "transaction.timeout.ms");
    f->options = good;
    f->options.http = "nonsense";
    expect_failure(f, ERR_USAGE, "ADDR:PORT");
    f->options = good;
    f->options.device = "cuda";
    f->options.start.model = "/nowhere/at/all";
    expect_failure(f, ERR_SERVICE, "cuda");
    f->options.device = "cpu";
    expect_failure(f, ERR_NOTFOUND, "/nowhere/at/all");
    f->options = good;

    start(f);
    wait_for_status(f, "/startupz", 200);
    struct fixture second = {.options = f->options};
    second.options.trace_file = NULL;
    expect_failure(&second, ERR_IO, "cannot listen");
    stop(f);
}

/* Sleep */

/* In the place of gpu_open: a device with memory of its own to give back. */
int __real_gpu_open(const char *which, const struct gpu_open_options *options, struct gpu_device **out_device,
                    struct base_error *err);
int __wrap_gpu_open(const char *which, const struct gpu_open_options *options, struct gpu_device **out_device,
                    struct base_error *err);
int __wrap_gpu_open(const char *which, const struct gpu_open_options *options, struct gpu_device **out_device,
                    struct base_error *err)
{
    if (strcmp(which, "fake") != 0)
        return __real_gpu_open(which, options, out_device, err);
    *out_device = &fake_open()->base;
    return 0;
}

static void ask(struct fixture *f, const char *path, unsigned status, const char *said)
{
    unsigned is = mock_http(f->port, "POST", path, &f->head, &f->body);
    if (is != status || !strstr(base_buffer_cstr(&f->body), said))
        fail_msg("POST %s: %u %s", path, is, base_buffer_cstr(&f->body));
}

static void wait_for_state(struct fixture *f, const char *state)
{
    char wanted[64];
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    snprintf(wanted, sizeof wanted, "{\"state\":\"%s\",\"ready\":", state); /* the worker's, not a model's */
    do {
        assert_int_equal(get(f, "/healthz"), 200);
        if (strstr(base_buffer_cstr(&f->body), wanted))
            return;
        base_clock_sleep_ms(20);
    } while (base_clock_mono_ns() < until);
    fail_msg("not %s: %s", state, base_buffer_cstr(&f->body));
}

static void start_fake(struct fixture *f)
{
    f->options.device = "fake";
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
}

/* What is running when it is asked is finished; what comes while it sleeps waits on the topic; then it goes on as before. */
static void test_sleep_and_wake(void **state)
{
    struct fixture *f = *state;
    start_fake(f);
    put_batches(f, "before", 8, 2, 5);
    wait_for_metric(f, "rouse_records_total", 1);
    ask(f, "/sleep", 202, "going to sleep");
    wait_for_state(f, "asleep");
    assert_int_equal(get(f, "/readyz"), 503);
    assert_string_equal(base_buffer_cstr(&f->body), "asleep\n");
    assert_int_equal(get(f, "/livez"), 200);
    assert_int_equal(get(f, "/startupz"), 200);
    assert_true(metric(f, "rouse_state{state=\"asleep\"}") == 1);
    assert_true(metric(f, "rouse_ready") == 0);
    assert_true(metric(f, "rouse_partitions{state=\"paused\"}") == IN_PARTITIONS);
    assert_true(metric(f, "rouse_inflight_records") == 0);
    double taken = metric(f, "rouse_records_total");
    ask(f, "/sleep", 200, "asleep");
    put_batches(f, "asleep", 4, 1, 5);
    uint32_t n = 2 * (uint32_t)taken; /* each was answered before it slept */
    expect_completions(f, n, SCHEMA_FINISH_LENGTH, 5);
    expect_no_more_completions(f);
    assert_true(metric(f, "rouse_records_total") == taken);

    ask(f, "/wake", 202, "waking up");
    wait_for_status(f, "/readyz", 200);
    ask(f, "/wake", 200, "awake");
    expect_completions(f, 16 + 4 - n, SCHEMA_FINISH_LENGTH, 5);
    for (int i = 0; i < 3; i++) {
        ask(f, "/sleep", 202, "going to sleep");
        wait_for_state(f, "asleep");
        ask(f, "/wake", 202, "waking up");
        wait_for_state(f, "ready");
    }
    put_batches(f, "after", 2, 1, 3);
    expect_completions(f, 2, SCHEMA_FINISH_LENGTH, 3);
    ask(f, "/sleep", 202, "going to sleep");
    wait_for_state(f, "asleep");
    stop(f); /* from its sleep, at once and clean */
}

static void test_does_not_wake(void **state)
{
    struct fixture *f = *state;
    char own_store[200], own_model[200], command[1600];
    snprintf(own_store, sizeof own_store, "%s/store-%u", scratch, n_started);
    snprintf(own_model, sizeof own_model, "%s/oracle", scratch);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", model_dir, own_model);
    assert_int_equal(system(command), 0);
    f->options.start.store = own_store;
    f->options.start.model = own_model;
    start_fake(f);
    ask(f, "/sleep", 202, "going to sleep");
    wait_for_state(f, "asleep");
    snprintf(command, sizeof command, "mv '%s' '%s.away' && mv '%s' '%s.away'", own_store, own_store, own_model,
             own_model);
    assert_int_equal(system(command), 0);
    ask(f, "/wake", 202, "waking up");
    uint64_t until = base_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while (get(f, "/readyz") != 503 || !strstr(base_buffer_cstr(&f->body), "did not wake")) {
        assert_true(base_clock_mono_ns() < until);
        base_clock_sleep_ms(20);
    }
    assert_non_null(strstr(base_buffer_cstr(&f->body), "not there"));
    wait_for_state(f, "asleep");
    assert_int_equal(get(f, "/livez"), 200);

    snprintf(command, sizeof command, "mv '%s.away' '%s'", own_store, own_store);
    assert_int_equal(system(command), 0);
    ask(f, "/wake", 202, "waking up");
    wait_for_status(f, "/readyz", 200);
    put_batches(f, "after", 2, 1, 3);
    expect_completions(f, 2, SCHEMA_FINISH_LENGTH, 3);
    stop(f);
    snprintf(command, sizeof command, "rm -r '%s.away'", own_model);
    assert_int_equal(system(command), 0);
}

/* Several models */

/* The same model with other norms, under another name; only its snapshot is left. Returns what the arena takes. */
static uint64_t build_other(const char *name, const char *own_store)
{
    char dir[200], command[1600];
    struct gpu_device *device = NULL;
    struct snap_model *model = NULL;
    struct base_error err = {0};
    const struct gpu_open_options open = {.n_threads = 2}; /* as the workers: the workspace depends on it */
    snprintf(dir, sizeof dir, "%s/%s", scratch, name);
    snprintf(command, sizeof command,
             "cp -r '%s' '%s' && sed -i 's/\"layer_norm_eps\": *[^,}]*/\"layer_norm_eps\": 0.5/' '%s/config.json'",
             model_dir, dir, dir);
    assert_int_equal(system(command), 0);
    const struct snap_start_options start = {.model = dir, .store = own_store, .dtype = "f32"};
    assert_ok(gpu_open("cpu", &open, &device, &err), err);
    assert_ok(snap_start(device, &start, &model, &err), err);
    assert_true(model->built);
    uint64_t bytes = gpu_model_plan(model->gpu)->arena_bytes;
    snap_model_close(model);
    gpu_close(device);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    assert_int_equal(system(command), 0);
    return bytes;
}

static void put_for(struct fixture *f, const char *model, uint32_t i)
{
    struct batch b = {.n_prompts = 2, .max_tokens = 8, .model = model};
    snprintf(b.id, sizeof b.id, "%s-%u", model, i);
    put_batch(f, &b);
}

/* Interleaved batches, with room for one model: everything is answered once and by the right one, while partitions come and go. */
static void test_two_models_with_room_for_one(void **state)
{
    struct fixture *f = *state;
    char own_store[200], texts[2][2048] = {"", ""};
    enum { N = 24 };
    bool seen[2][N][2] = {{{false}}};
    snprintf(own_store, sizeof own_store, "%s/store-%u", scratch, n_started);
    uint64_t bytes = build_other("other", own_store);
    f->options.start.store = own_store;
    f->options.models = "other";
    f->options.models_bytes = bytes + bytes / 2;
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    for (uint32_t i = 0; i < N; i++) {
        put_for(f, "oracle", i);
        put_for(f, "other", i);
    }
    for (int n = 0; n < 2 * 2 * N; n++) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        if (!c)
            fail_msg("%d completions of %d came", n, 2 * 2 * N);
        int which = strcmp(c->model.text, "other") == 0;
        unsigned i = (unsigned)strtoul(strchr(c->batch_id.text, '-') + 1, NULL, 10);
        assert_memory_equal(c->batch_id.text, which ? "other-" : "oracle-", which ? 6 : 7);
        assert_true(i < N && c->index < 2 && !seen[which][i][c->index]);
        seen[which][i][c->index] = true;
        assert_string_equal(schema_finish_name(c->finish), "length");
        if (!texts[which][0])
            snprintf(texts[which], sizeof texts[which], "%s", c->text.text);
        assert_string_equal(c->text.text, texts[which]);
        schema_completion_free(c);
    }
    assert_string_not_equal(texts[0], texts[1]);
    assert_true(metric(f, "rouse_model_evictions_total") >= 1);
    assert_true(metric(f, "rouse_models{state=\"ready\"}") == 1);
    assert_true(metric(f, "rouse_models_bytes") == (double)bytes);
    assert_true(metric(f, "rouse_models_bytes_limit") == (double)f->options.models_bytes);
    expect_no_more_completions(f);
    put_for(f, "nobody", 0);
    expect_completions(f, 2, SCHEMA_FINISH_ERROR, 0);
    assert_int_equal(get(f, "/healthz"), 200);
    assert_non_null(strstr(base_buffer_cstr(&f->body), "\"models\":["));
    stop(f);
}

/* The store goes away while a model is wanted: its prompts wait, and are answered when it is back. */
static void test_prompts_wait_for_a_store_that_is_away(void **state)
{
    struct fixture *f = *state;
    char own_store[200], command[1000];
    snprintf(own_store, sizeof own_store, "%s/store-%u", scratch, n_started);
    build_other("late", own_store);
    f->options.start.store = own_store;
    f->options.models = "late";
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    snprintf(command, sizeof command, "mv '%s' '%s.away' && touch '%s'", own_store, own_store, own_store);
    assert_int_equal(system(command), 0); /* a file in its place: no store, and no empty one can be made */
    put_for(f, "late", 0);
    put_for(f, "oracle", 0);
    expect_completions(f, 2, SCHEMA_FINISH_LENGTH, 8); /* oracle's: nobody waits for the other */
    expect_no_more_completions(f);
    assert_int_equal(get(f, "/readyz"), 200);
    snprintf(command, sizeof command, "rm '%s' && mv '%s.away' '%s'", own_store, own_store, own_store);
    assert_int_equal(system(command), 0);
    for (int i = 0, n_again = 0; i < 2; i++) {
        struct schema_completion *c = next_completion(f, PATIENCE_MS);
        assert_non_null(c);
        if (strcmp(c->model.text, "oracle") == 0 && n_again++ < 2) { /* sent again: the mock shows aborted ones too */
            schema_completion_free(c);
            i--;
            continue;
        }
        assert_string_equal(c->model.text, "late");
        assert_string_equal(schema_finish_name(c->finish), "length");
        schema_completion_free(c);
    }
    stop(f);
}

static void test_who_may_ask(void **state)
{
    struct fixture *f = *state;
    make_topics(f);
    start(f);
    wait_for_status(f, "/readyz", 200);
    ask(f, "/sleep", 409, "a cpu has no memory of its own");
    ask(f, "/wake", 200, "awake");
    ask(f, "/readyz", 405, "GET and HEAD");
    assert_int_equal(get(f, "/sleep"), 405);
    assert_non_null(strstr(base_buffer_cstr(&f->head), "Allow: POST"));
    assert_int_equal(mock_http(f->port, "DELETE", "/sleep", &f->head, &f->body), 405);
    ask(f, "/wake HTTP/1.1\r\nOrigin: http://example.org\r\nX-Rest:", 403, "browser");
    ask(f, "/wake HTTP/1.1\r\nContent-Length: 9\r\nX-Rest: x\r\n\r\nsome-body", 200, "awake");
    stop(f);

    snprintf(f->http, sizeof f->http, "0.0.0.0:%u", f->port);
    start(f);
    wait_for_status(f, "/readyz", 200);
    ask(f, "/wake", 405, "--http-admin");
    stop(f);
    f->options.http_admin = true;
    start(f);
    wait_for_status(f, "/readyz", 200);
    ask(f, "/wake", 200, "awake");
    stop(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_prompts_become_completions),
        TEST(test_same_prompt_same_answer),
        TEST(test_bad_records_become_dead_letters),
        TEST(test_a_bad_prompt_goes_alone),
        TEST(test_past_deadlines_are_not_worked_on),
        TEST(test_drain_finishes_what_was_taken),
        TEST(test_second_stop_leaves_now),
        TEST(test_exit_after),
        TEST(test_backpressure),
        TEST(test_brokers_away_and_back),
        TEST(test_topics_that_come_later),
        TEST(test_failed_transactions_are_sent_again),
        TEST(test_a_completion_too_large_for_the_broker),
        TEST(test_group_rebalance),
        TEST(test_what_is_wrong_is_said),
        TEST(test_sleep_and_wake),
        TEST(test_does_not_wake),
        TEST(test_two_models_with_room_for_one),
        TEST(test_prompts_wait_for_a_store_that_is_away),
        TEST(test_who_may_ask),
    };
    return cmocka_run_group_tests(tests, open_group, close_group);
}
