/* rouse consume - completions from a topic to stdout, committed ones only. */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/completion_json.h"
#include "cli/kafka_client.h"
#include "schemas/completion.h"

static const char *brokers, *topic, *from, *batch;
static struct base_option_list properties;
static uint64_t count, timeout_s;
static bool json, until_end;
static volatile sig_atomic_t stopped;

static const struct base_options_usage usage = {
    .command = "rouse consume",
    .synopsis = "--brokers LIST [options]",
    .summary =
        "Prints completions as they are committed (read_committed), of all partitions, without a consumer group: it "
        "takes nothing away from other readers.",
    .examples = "  rouse consume --brokers localhost:9092 --json --count 10\n",
};

static const struct base_option options[] = {
    CLI_OPTIONS_KAFKA(&brokers, &properties),
    {"topic", BASE_OPTION_STRING, &topic, "TOPIC", "rouse.completions", NULL, 0, 0, "Kafka", "Where from.", false},
    {"from", BASE_OPTION_CHOICE, &from, "WHERE", "beginning", "beginning|end", 0, 0, "What", "Where to begin.", false},
    {"batch", BASE_OPTION_STRING, &batch, "PREFIX", NULL, NULL, 0, 0, "What",
     "Only completions whose batch id begins with this.", false},
    {"count", BASE_OPTION_UINT, &count, "N", "0", NULL, 0, 0, "What", "End after N completions. 0: go on.", false},
    {"until-end", BASE_OPTION_FLAG, &until_end, NULL, NULL, NULL, 0, 0, "What",
     "End when all partitions are read to their end.", false},
    {"timeout-s", BASE_OPTION_UINT, &timeout_s, "SECONDS", "0", NULL, 0, 86400, "What",
     "End, with exit code 4, when nothing came for this long. 0: wait.", false},
    {"json", BASE_OPTION_FLAG, &json, NULL, NULL, NULL, 0, 0, "Output", "One JSON object a completion (docs/wire.md).",
     false},
    CLI_OPTIONS_END,
};

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static int assign_all(rd_kafka_t *rk, int32_t *out_n, struct base_error *err)
{
    int rc = cli_kafka_n_partitions(rk, topic, (int)(timeout_s ? timeout_s : 60) * 1000, out_n, err);
    if (rc < 0)
        return rc;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(*out_n);
    for (int32_t p = 0; p < *out_n; p++)
        rd_kafka_topic_partition_list_add(list, topic, p)->offset =
            strcmp(from, "end") == 0 ? RD_KAFKA_OFFSET_END : RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_resp_err_t e = rd_kafka_assign(rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return e ? base_fail(err, ERR_SERVICE, "topic '%s': %s", topic, rd_kafka_err2str(e)) : 0;
}

static void print_text(const struct schema_completion *c)
{
    printf("[%s %s] ", c->batch_id.text, c->id.text);
    bool bad = c->error != SCHEMA_OK;
    const struct schema_string *text = bad ? &c->error_text : &c->text;
    if (bad)
        printf("error %s: ", schema_code_name(c->error));
    else
        printf("(%s) ", schema_finish_name(c->finish));
    if (text->n)
        fwrite(text->text, 1, text->n, stdout); /* may hold NUL */
    putchar('\n');
}

/* Prints one record; true when it counted. */
static bool print_record(const rd_kafka_message_t *m, uint64_t *n_bad)
{
    struct base_error err = {0};
    struct schema_completion *c = NULL;
    if (schema_completion_decode(m->payload, m->len, &c, &err) < 0) {
        fprintf(stderr, "rouse consume: %s partition %" PRId32 " offset %" PRId64 ": %s\n", topic, m->partition,
                m->offset, err.text);
        (*n_bad)++;
        return false;
    }
    bool wanted = !batch || strncmp(c->batch_id.text, batch, strlen(batch)) == 0;
    if (wanted && json) {
        struct base_buffer out;
        base_buffer_init(&out, (size_t)1 << 30);
        cli_completion_json(c, &out);
        fwrite(out.data, 1, out.n, stdout);
        base_buffer_done(&out);
    } else if (wanted) {
        print_text(c);
    }
    schema_completion_free(c);
    return wanted;
}

static int consume(rd_kafka_t *rk, int32_t n_partitions, uint64_t *n_bad, struct base_error *err)
{
    uint64_t n = 0, heard_ns = base_clock_mono_ns();
    int32_t n_at_end = 0;
    int rc = 0;
    bool *at_end = calloc((size_t)n_partitions, sizeof *at_end); /* an end is told again after each record behind it */
    if (!at_end)
        return base_fail(err, ERR_NOMEM, "out of memory for %" PRId32 " partitions", n_partitions);
    while (rc == 0 && !stopped && (!count || n < count) && !(until_end && n_at_end == n_partitions)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
        if (m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            if (m->partition >= 0 && m->partition < n_partitions && !at_end[m->partition]) {
                at_end[m->partition] = true;
                n_at_end++;
            }
        } else if (m && m->err) {
            fprintf(stderr, "rouse consume: %s\n", rd_kafka_message_errstr(m));
        } else if (m) {
            heard_ns = base_clock_mono_ns();
            n += print_record(m, n_bad);
            rc = cli_flush(err);
        }
        if (m)
            rd_kafka_message_destroy(m);
        if (rc == 0 && timeout_s && base_clock_mono_ns() - heard_ns > timeout_s * 1000000000u)
            rc = base_fail(err, ERR_SERVICE, "nothing came for %" PRIu64 " s; %" PRIu64 " completions until then",
                           timeout_s, n);
    }
    free(at_end);
    return rc;
}

int cmd_consume(int argc, char **argv)
{
    struct base_error err = {0};
    rd_kafka_t *rk = NULL;
    uint64_t n_bad = 0;
    int32_t n_partitions = 0;
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc != 0)
        goto out;
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    static const char *const settings[] = {"group.id",
                                           "rouse-consume",
                                           "enable.auto.commit",
                                           "false",
                                           "isolation.level",
                                           "read_committed",
                                           "enable.partition.eof",
                                           "true",
                                           NULL};
    rc = cli_kafka_open(RD_KAFKA_CONSUMER, brokers, settings, &properties, NULL, &rk, &err);
    if (rc == 0) {
        rd_kafka_poll_set_consumer(rk);
        rc = assign_all(rk, &n_partitions, &err);
    }
    if (rc == 0)
        rc = consume(rk, n_partitions, &n_bad, &err);
out:
    if (rk) {
        rd_kafka_consumer_close(rk);
        rd_kafka_destroy(rk);
    }
    base_options_done(options);
    if (rc < 0)
        return cli_fail("consume", rc, &err);
    return n_bad ? base_exit_code(ERR_INPUT) : 0;
}
