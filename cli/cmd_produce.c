/* rouse produce - lines of text or JSON to prompt batches on a topic. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/kafka_client.h"
#include "cli/prompt_lines.h"
#include "cli/sampling_options.h"

static struct cli_sampling_options sampling_options;
static const char *brokers, *topic, *in_path, *prompt_text, *model, *batch_prefix;
static struct base_option_list properties;
static uint64_t batch_size, deadline_s, timeout_s;
static bool json;

static const struct base_options_usage usage = {
    .command = "rouse produce",
    .synopsis = "--brokers LIST (--in FILE | --prompt TEXT) [options]",
    .summary =
        "Puts prompts on the topic as msgpack prompt batches (docs/wire.md), keyed by batch id, and waits until the "
        "brokers have them all.",
    .examples = "  rouse produce --brokers localhost:9092 --prompt 'In the beginning'\n"
                "  rouse produce --brokers localhost:9092 --in prompts.jsonl --batch 8 --temperature 0.7\n",
};

static const struct base_option options[] = {
    {"prompt", BASE_OPTION_STRING, &prompt_text, "TEXT", NULL, NULL, 0, 0, "Input", "One prompt.", false},
    {"in", BASE_OPTION_STRING, &in_path, "FILE", NULL, NULL, 0, 0, "Input",
     "A prompt a line, as text or as JSON {id, text|tokens, max_tokens, temperature, ...}; - for standard input.",
     false},
    {"batch", BASE_OPTION_UINT, &batch_size, "N", "1", NULL, 1, 1024, "Batches",
     "Prompts in one record. A record is taken by one worker as a whole.", false},
    {"batch-id", BASE_OPTION_STRING, &batch_prefix, "PREFIX", NULL, NULL, 0, 0, "Batches",
     "Batch ids are PREFIX-1, PREFIX-2, ...; a random prefix when not given.", false},
    {"model", BASE_OPTION_STRING, &model, "NAME", NULL, NULL, 0, 0, "Batches",
     "The model that shall answer. Not given: whichever the workers serve.", false},
    {"deadline-s", BASE_OPTION_UINT, &deadline_s, "SECONDS", "0", NULL, 0, 31536000, "Batches",
     "From now; a prompt not started by then is answered 'expired'. 0: none.", false},
    CLI_OPTIONS_SAMPLING(&sampling_options),
    CLI_OPTIONS_KAFKA(&brokers, &properties),
    {"topic", BASE_OPTION_STRING, &topic, "TOPIC", "rouse.prompts", NULL, 0, 0, "Kafka", "Where to.", false},
    {"timeout-s", BASE_OPTION_UINT, &timeout_s, "SECONDS", "60", NULL, 1, 86400, "Kafka",
     "How long to wait for the brokers and for the topic.", false},
    {"json", BASE_OPTION_FLAG, &json, NULL, NULL, NULL, 0, 0, "Output", "The summary as JSON.", false},
    CLI_OPTIONS_END,
};

struct session {
    rd_kafka_t *rk;
    struct schema_sampling defaults;
    struct schema_prompt_batch **lines; /* [batch_size] the prompts of the batch that is being filled */
    struct schema_prompt *prompts;      /* [batch_size] */
    uint32_t n_lines;
    uint64_t n_prompts, n_batches, n_bytes, n_failed;
    char failure[256];
    struct base_progress progress;
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk, (void)opaque;
    struct session *s = m->_private;
    if (m->err && s->n_failed++ == 0)
        snprintf(s->failure, sizeof s->failure, "%s", rd_kafka_err2str(m->err));
}

static int open_producer(struct session *s, struct base_error *err)
{
    char timeout_ms[24];
    snprintf(timeout_ms, sizeof timeout_ms, "%" PRIu64, timeout_s * 1000);
    const char *settings[] = {"enable.idempotence", "true", "linger.ms", "5", "message.timeout.ms", timeout_ms, NULL};
    int rc = cli_kafka_open(RD_KAFKA_PRODUCER, brokers, settings, &properties, on_delivery, &s->rk, err);
    int32_t n;
    return rc < 0 ? rc : cli_kafka_n_partitions(s->rk, topic, (int)timeout_s * 1000, &n, err);
}

static int send_bytes(struct session *s, const char *key, const struct base_buffer *bytes, struct base_error *err)
{
    for (;;) {
        rd_kafka_resp_err_t e = rd_kafka_producev(
            s->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, strlen(key)), RD_KAFKA_V_VALUE(bytes->data, bytes->n),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(s), RD_KAFKA_V_END);
        if (e == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            rd_kafka_poll(s->rk, 100);
            continue;
        }
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR)
            return base_fail(err, e == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ? ERR_INPUT : ERR_SERVICE,
                             "batch %s of %zu bytes: %s", key, bytes->n, rd_kafka_err2str(e));
        rd_kafka_poll(s->rk, 0);
        return 0;
    }
}

static int send_batch(struct session *s, struct base_error *err)
{
    if (s->n_lines == 0)
        return 0;
    char id[300];
    snprintf(id, sizeof id, "%s-%" PRIu64, batch_prefix, s->n_batches + 1);
    int64_t now = base_clock_unix_ms();
    struct schema_prompt_batch batch = {
        .batch_id = {id, strlen(id)},
        .model = {model, model ? strlen(model) : 0},
        .created_ms = now,
        .deadline_ms = deadline_s ? now + (int64_t)deadline_s * 1000 : 0,
        .prompts = s->prompts,
        .n_prompts = s->n_lines,
    };
    for (uint32_t i = 0; i < s->n_lines; i++)
        s->prompts[i] = s->lines[i]->prompts[0];
    struct base_buffer bytes;
    base_buffer_init(&bytes, (size_t)1 << 30);
    int rc = schema_prompt_batch_encode(&batch, &bytes, err);
    if (rc == 0)
        rc = send_bytes(s, id, &bytes, err);
    s->n_bytes += bytes.n;
    base_buffer_done(&bytes);
    for (uint32_t i = 0; i < s->n_lines; i++)
        schema_prompt_batch_free(s->lines[i]);
    s->n_prompts += s->n_lines;
    s->n_batches++;
    s->n_lines = 0;
    base_progress_set(&s->progress, s->n_prompts);
    return rc;
}

static int add_line(struct session *s, const char *line, size_t n, const char *path, uint64_t number,
                    enum cli_line_kind kind, struct base_error *err)
{
    int rc = cli_prompt_parse(line, n, path, number, kind, &s->defaults, &s->lines[s->n_lines], err);
    if (rc < 0)
        return rc;
    s->n_lines++;
    return s->n_lines == batch_size ? send_batch(s, err) : 0;
}

static int send_all(struct session *s, struct base_error *err)
{
    int rc = 0;
    if (prompt_text) {
        rc = add_line(s, prompt_text, strlen(prompt_text), "--prompt", 1, CLI_LINE_TEXT, err);
    } else {
        struct cli_lines lines;
        char *line;
        size_t n;
        rc = cli_lines_open(&lines, in_path, err);
        while (rc == 0 && (rc = cli_lines_next(&lines, &line, &n, err)) == 1)
            rc = n ? add_line(s, line, n, lines.path, lines.number, CLI_LINE_ANY, err) : 0;
        cli_lines_close(&lines);
    }
    if (rc == 0)
        rc = send_batch(s, err);
    /* What was accepted goes out even when a later line is bad. */
    rd_kafka_flush(s->rk, (int)timeout_s * 1000);
    if (rc == 0 && (s->n_failed || rd_kafka_outq_len(s->rk)))
        rc = base_fail(err, ERR_SERVICE, "%" PRIu64 " batches were not accepted: %s",
                       s->n_failed + (uint64_t)rd_kafka_outq_len(s->rk), s->n_failed ? s->failure : "timed out");
    return rc;
}

static void print_summary(const struct session *s, double seconds)
{
    if (!json) {
        printf("%" PRIu64 " prompts in %" PRIu64 " batches (%" PRIu64 " bytes) to %s in %.2f s: %.0f prompts/s\n",
               s->n_prompts, s->n_batches, s->n_bytes, topic, seconds, (double)s->n_prompts / seconds);
        return;
    }
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1 << 16);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "topic", topic);
    base_json_kv_string(&j, "batch_id_prefix", batch_prefix);
    base_json_kv_uint(&j, "prompts", s->n_prompts);
    base_json_kv_uint(&j, "batches", s->n_batches);
    base_json_kv_uint(&j, "bytes", s->n_bytes);
    base_json_kv_double(&j, "seconds", seconds, 6);
    base_json_kv_double(&j, "prompts_per_s", (double)s->n_prompts / seconds, 6);
    base_json_object_end(&j);
    printf("%s\n", base_buffer_cstr(&out));
    base_buffer_done(&out);
}

int cmd_produce(int argc, char **argv)
{
    struct base_error err = {0};
    static struct session s;
    static char prefix[20];
    sampling_options = cli_sampling_unset;
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc == 0 && !prompt_text == !in_path)
        rc = base_fail(&err, ERR_USAGE, "give either --prompt or --in; see rouse produce --help");
    if (rc == 0 && batch_prefix && strlen(batch_prefix) > 200)
        rc = base_fail(&err, ERR_USAGE, "--batch-id has %zu bytes; at most 200", strlen(batch_prefix));
    if (rc == 0)
        rc = cli_sampling_make(&sampling_options, &s.defaults, &err);
    if (rc != 0)
        goto out;
    if (!batch_prefix) {
        uint64_t random = base_clock_mono_ns();
        if (getrandom(&random, sizeof random, 0) < 0)
            random ^= (uint64_t)base_clock_unix_ms() << 20;
        snprintf(prefix, sizeof prefix, "%016" PRIx64, random);
        batch_prefix = prefix;
    }
    s.lines = calloc(batch_size, sizeof(struct schema_prompt_batch *));
    s.prompts = calloc(batch_size, sizeof *s.prompts);
    rc = s.lines && s.prompts ? open_producer(&s, &err) : base_fail(&err, ERR_NOMEM, "out of memory");
    if (rc == 0) {
        uint64_t began = base_clock_mono_ns();
        base_progress_begin(&s.progress, "producing", "prompts", 0);
        rc = send_all(&s, &err);
        base_progress_end(&s.progress);
        if (rc == 0)
            print_summary(&s, (double)(base_clock_mono_ns() - began) / 1e9);
    }
out:
    if (s.rk)
        rd_kafka_destroy(s.rk);
    for (uint32_t i = 0; i < s.n_lines; i++)
        schema_prompt_batch_free(s.lines[i]);
    free(s.lines);
    free(s.prompts);
    base_options_done(options);
    return rc < 0 ? cli_fail("produce", rc, &err) : 0;
}
