/* rouse worker - one worker: options in, worker_run, signals to drain. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "worker/worker.h"

static struct cli_model_options model_options;
static struct worker_options worker_options;
static uint64_t inflight, commit_ms, drain_s, handover_ms, deaths_max, exit_after, names_refresh;

static const struct base_options_usage usage = {
    .command = "rouse worker",
    .synopsis = "--model DIR|NAME --brokers LIST [options]",
    .summary =
        "Takes prompt batches from a topic, generates, and publishes completions, dead letters and offsets in one "
        "transaction. Starts from a snapshot when there is one, and builds it when there is none. SIGTERM drains; a "
        "second one leaves at once.",
    .examples = "  rouse worker --model models/oracle --brokers localhost:9092 --redis redis://localhost:6379\n",
};

static const struct base_option options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    {"models", BASE_OPTION_STRING, &worker_options.models, "LIST", NULL, NULL, 0, 0, "Models",
     "What batches may ask for besides --model: NAME or NAME@VERSION, separated by commas, or * for all that the store "
     "has. NAME admits all of its versions. They are restored from their snapshots when a batch asks for them. "
     "Default: "
     "the name of --model alone, with its versions.",
     false},
    {"models-bytes", BASE_OPTION_UINT, &worker_options.models_bytes, "BYTES", "0", NULL, 0, 0, "Models",
     "Memory for all loaded models together: weights (shared pages too), workspace, keys and values. The model that "
     "was "
     "used least recently makes room. 0: 80 % of the device's memory, and no bound for a model that is alone.",
     false},
    {"names-refresh", BASE_OPTION_UINT, &names_refresh, "MS", "2000", NULL, 50, 3600000, "Models",
     "How often the store is asked which versions names stand for: that much later a promotion or a split is followed.",
     false},
    {"brokers", BASE_OPTION_STRING, &worker_options.brokers, "LIST", NULL, NULL, 0, 0, "Kafka",
     "host:port[,host:port...]. Brokers that are away are waited for.", true},
    {"group", BASE_OPTION_STRING, &worker_options.group, "NAME", "rouse", NULL, 0, 0, "Kafka",
     "Consumer group: the pool that shares the topic's partitions.", false},
    {"in", BASE_OPTION_STRING, &worker_options.topic_in, "TOPIC", "rouse.prompts", NULL, 0, 0, "Kafka",
     "Prompt batches.", false},
    {"out", BASE_OPTION_STRING, &worker_options.topic_out, "TOPIC", "rouse.completions", NULL, 0, 0, "Kafka",
     "Completions.", false},
    {"dlq", BASE_OPTION_STRING, &worker_options.topic_dlq, "TOPIC", "rouse.dead-letters", NULL, 0, 0, "Kafka",
     "Dead letters.", false},
    {"transactional-id", BASE_OPTION_STRING, &worker_options.transactional_id, "ID", NULL, NULL, 0, 0, "Kafka",
     "Unique to this worker and the same after a restart, so that a successor ends what a dead worker left open at "
     "once. "
     "Default: GROUP-HOST-PID.",
     false},
    {"rebalance", BASE_OPTION_CHOICE, &worker_options.rebalance, "HOW", "auto", "auto|eager|cooperative|consumer", 0, 0,
     "Kafka",
     "How partitions move; the same for all workers of a group. cooperative: only those that move stand still. "
     "consumer: "
     "KIP-848. auto: cooperative with librdkafka 2.10.1 or newer, else eager.",
     false},
    {"kafka", BASE_OPTION_LIST, &worker_options.kafka, "KEY=VALUE", NULL, NULL, 0, 0, "Kafka",
     "Any librdkafka property, over our own setting of it: --kafka security.protocol=sasl_ssl. May be given again.",
     false},
    {"inflight", BASE_OPTION_UINT, &inflight, "N", "256", NULL, 1, 1000000, "Work",
     "Prompts taken and not yet published; partitions pause above it. Bounds memory and what a crash repeats.", false},
    {"commit-ms", BASE_OPTION_UINT, &commit_ms, "MS", "50", NULL, 0, 60000, "Work",
     "Publish at most this long after the first finished prompt. Longer makes fewer, larger transactions.", false},
    {"deaths-max", BASE_OPTION_UINT, &deaths_max, "N", "3", NULL, 0, 1000, "Work",
     "A record that N workers died with goes to the dead letters; from the second death on it is worked on alone. 0: "
     "never, "
     "and deaths are not counted.",
     false},
    {"drain-s", BASE_OPTION_UINT, &drain_s, "SECONDS", "30", NULL, 0, 86400, "Work",
     "After SIGTERM: time for what was taken to finish. Keep it below the pod's termination grace period.", false},
    {"handover-ms", BASE_OPTION_UINT, &handover_ms, "MS", "3000", NULL, 0, 600000, "Work",
     "When the group moves a partition away: time for its prompts that run to finish and be published; what waits is "
     "left "
     "to the next owner at once. Longer repeats less work, shorter moves sooner.",
     false},
    {"exit-after", BASE_OPTION_UINT, &exit_after, "N", "0", NULL, 0, 0, "Work",
     "Drain and leave after N prompts are published. 0: run until stopped.", false},
    {"http", BASE_OPTION_STRING, &worker_options.http, "ADDR:PORT", "127.0.0.1:8080", NULL, 0, 0, "Observing",
     "Serves /startupz /livez /readyz /healthz /metrics, and on loopback addresses POST /sleep and /wake; port 0 takes "
     "a free "
     "one, 'off' none.",
     false},
    {"http-admin", BASE_OPTION_FLAG, &worker_options.http_admin, NULL, NULL, NULL, 0, 0, "Observing",
     "Answer POST /sleep and /wake (a card's memory given back and taken again) on an address that is not loopback "
     "too.",
     false},
    {"trace", BASE_OPTION_STRING, &worker_options.trace_file, "FILE", NULL, NULL, 0, 0, "Observing",
     "Write the cold start as a Chrome trace (chrome://tracing, ui.perfetto.dev), or as a chart when FILE ends in "
     ".txt.",
     false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    {"json", BASE_OPTION_FLAG, &model_options.json, NULL, NULL, NULL, 0, 0, "Observing",
     "Log as JSON, one object a line (as ROUSE_LOG_FORMAT=json does).", false},
    CLI_OPTIONS_END,
};

/* The chart, for people. */
static int write_chart(const struct base_trace *trace, const char *path, struct base_error *err)
{
    struct base_buffer text;
    base_buffer_init(&text, 1 << 20);
    base_trace_print(trace, &text);
    int rc = base_file_publish(path, text.data, text.n, err);
    base_buffer_done(&text);
    return rc;
}

static void on_signal(int number)
{
    (void)number;
    worker_request_stop();
}

int cmd_worker(int argc, char **argv)
{
    struct base_error err = {0};
    struct base_trace *trace = base_trace_new();
    base_trace_begin(trace, BASE_TRACE_CONFIG);
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc == 0)
        rc = cli_start_options(&model_options, trace, &worker_options.start, &err);
    if (rc == 0) {
        if (model_options.json)
            base_log_setup(cli_log_level, BASE_LOG_JSON);
        if (strcmp(worker_options.http, "off") == 0)
            worker_options.http = NULL;
        worker_options.start.progress = false; /* the log says it */
        worker_options.device = model_options.device;
        worker_options.open = cli_open_options(&model_options);
        worker_options.n_inflight_max = (uint32_t)inflight;
        worker_options.commit_ms = (uint32_t)commit_ms;
        worker_options.drain_ms = (uint32_t)(drain_s * 1000);
        worker_options.deaths_max = (uint32_t)deaths_max;
        worker_options.handover_ms = (uint32_t)handover_ms;
        worker_options.exit_after = exit_after;
        worker_options.names_refresh_ms = (uint32_t)names_refresh;
        worker_options.trace = trace;
        struct sigaction act = {.sa_handler = on_signal};
        sigaction(SIGTERM, &act, NULL);
        sigaction(SIGINT, &act, NULL);
        base_trace_end(trace, BASE_TRACE_CONFIG);
        const char *chart = worker_options.trace_file, *suffix = chart ? strrchr(chart, '.') : NULL;
        if (suffix && strcmp(suffix, ".txt") == 0)
            worker_options.trace_file = NULL;
        else
            chart = NULL;
        rc = worker_run(&worker_options, &err);
        if (rc == ERR_STOPPED) { /* a thread may still stand on the trace and on the options */
            fflush(NULL);
            _exit(cli_fail("worker", rc, &err));
        }
        if (rc == 0 && chart)
            rc = write_chart(trace, chart, &err);
    }
    base_trace_free(trace);
    base_options_done(options);
    return rc < 0 ? cli_fail("worker", rc, &err) : 0;
}
