/* rouse demo - prompts in, completions out, from a snapshot, with nothing to install.
 *
 *   broker (librdkafka's mock cluster in this process, or --brokers) <- prompts
 *   worker, as a process of its own, so that what it measures is a real start; the first one of a store loads the slow way and
 *   builds the snapshot, the next one restores it
 *   completions -> stdout, each worker's cold start as a chart */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/completion_json.h"
#include "cli/kafka_client.h"
#include "schemas/completion.h"
#include "snapshot/admin.h"

static const char *const prompts[] = {
    "In the beginning", "And God said,", "Blessed are they",    "The LORD is my", "Fear not;", "And Jesus answered",
    "Thou shalt not",   "Behold, I",     "And it came to pass", "A wise man",     "Let us go", "The king said unto",
};
#define N_PROMPTS    (sizeof prompts / sizeof prompts[0])
#define N_PARTITIONS 3
#define PATIENCE_MS  180000
#define LEAVE_MS     5000 /* for the worker, once the demo was asked to stop */

static struct cli_model_options model_options;
static const char *brokers;
static volatile sig_atomic_t stopped;

static const struct base_options_usage usage = {
    .command = "rouse demo",
    .synopsis = "[--brokers LIST --redis URL] [options]",
    .summary = "Runs the main job once: a producer, a broker, a worker that starts from a snapshot, and a consumer. "
               "The broker is "
               "librdkafka's mock cluster in this process unless --brokers names a real one.",
    .examples = NULL,
};

static const struct base_option options[] = {
    {"brokers", BASE_OPTION_STRING, &brokers, "LIST", NULL, NULL, 0, 0, "Kafka",
     "Use these instead of the mock cluster.", false},
    {"model", BASE_OPTION_STRING, &model_options.model, "DIR", NULL, NULL, 0, 0, "Model",
     "The model to show. Default: models/oracle, found from here or from the program.", false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTION_JSON(&model_options),
    CLI_OPTIONS_END,
};

struct demo {
    rd_kafka_t *producer, *consumer;
    rd_kafka_mock_cluster_t *mock;
    char brokers[256], model[1024], self[1024], folder[64];
    char topic_in[64], topic_out[64], topic_dlq[64];
    unsigned long long run; /* names topics of this run alone: an earlier run's records are not in the way */
    uint32_t n_workers, n_sent, n_seen, n_errors, n_refused;
    char refusal[256]; /* why the first of n_refused batches did not get to the topic */
};

struct start { /* what a worker says of its start */
    bool restored;
    double ready_s, first_token_s;
    char chart[16384];
};

static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk, (void)opaque;
    struct demo *d = m->_private;
    if (m->err && d->n_refused++ == 0)
        snprintf(d->refusal, sizeof d->refusal, "%s", rd_kafka_err2str(m->err));
}

static int find_model(struct demo *d, struct base_error *err)
{
    ssize_t n = readlink("/proc/self/exe", d->self, sizeof d->self - 1);
    if (n <= 0)
        return base_fail_errno(err, "/proc/self/exe");
    d->self[n] = '\0';
    if (model_options.model) {
        snprintf(d->model, sizeof d->model, "%s", model_options.model);
        return 0;
    }
    char beside[1024]; /* build/release/bin/rouse -> the source tree */
    snprintf(beside, sizeof beside, "%s", d->self);
    for (int up = 0; up < 4; up++)
        if (strrchr(beside, '/'))
            *strrchr(beside, '/') = '\0';
    const char *const places[] = {".", beside, "/usr/share/rouse"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        int length = snprintf(d->model, sizeof d->model, "%s/models/oracle", places[i]);
        if (length > 0 && (size_t)length < sizeof d->model && base_file_is_dir(d->model))
            return 0;
    }
    return base_fail(err, ERR_NOTFOUND, "models/oracle is neither here nor beside the program; give --model DIR");
}

static int create_topic(struct demo *d, const char *topic, struct base_error *err)
{
    if (!d->mock)
        return cli_kafka_create_topics(d->producer, &topic, 1, N_PARTITIONS, 30000, err);
    rd_kafka_mock_topic_create(d->mock, topic, N_PARTITIONS, 1);
    return 0;
}

static int open_kafka(struct demo *d, struct base_error *err)
{
    int rc = 0;
    if (brokers) {
        snprintf(d->brokers, sizeof d->brokers, "%s", brokers);
        rc = cli_kafka_open(RD_KAFKA_PRODUCER, d->brokers, NULL, NULL, on_delivery, &d->producer, err);
    } else {
        rc = cli_kafka_open(RD_KAFKA_PRODUCER, "127.0.0.1:1", NULL, NULL, on_delivery, &d->producer,
                            err); /* this address only until the mock has one */
        if (rc == 0 && !(d->mock = rd_kafka_mock_cluster_new(d->producer, 1)))
            rc = base_fail(err, ERR_INTERNAL, "librdkafka's mock cluster did not start");
        if (rc == 0) {
            snprintf(d->brokers, sizeof d->brokers, "%s", rd_kafka_mock_cluster_bootstraps(d->mock));
            rd_kafka_brokers_add(d->producer, d->brokers);
        }
    }
    if (rc < 0)
        return rc;
    d->run = (unsigned long long)base_clock_unix_ms();
    snprintf(d->topic_out, sizeof d->topic_out, "rouse.demo.%llu.completions", d->run);
    snprintf(d->topic_dlq, sizeof d->topic_dlq, "rouse.demo.%llu.dead-letters", d->run);
    rc = create_topic(d, d->topic_out, err);
    if (rc == 0)
        rc = create_topic(d, d->topic_dlq, err);
    static const char *const settings[] = {"group.id", "rouse-demo", "isolation.level", "read_committed", NULL};
    if (rc == 0)
        rc = cli_kafka_open(RD_KAFKA_CONSUMER, d->brokers, settings, NULL, NULL, &d->consumer, err);
    if (rc < 0)
        return rc;
    rd_kafka_poll_set_consumer(d->consumer);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(N_PARTITIONS);
    for (int32_t p = 0; p < N_PARTITIONS; p++)
        rd_kafka_topic_partition_list_add(list, d->topic_out, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_assign(d->consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
    return 0;
}

/* Batches of two prompts. */
static int send_prompts(struct demo *d, uint32_t n, struct base_error *err)
{
    for (uint32_t sent = 0; sent < n; sent += 2) {
        char batch_id[32], ids[2][24];
        struct schema_prompt pair[2] = {0};
        uint32_t n_pair = n - sent < 2 ? 1 : 2;
        snprintf(batch_id, sizeof batch_id, "demo-%u", d->n_sent / 2 + 1);
        for (uint32_t i = 0; i < n_pair; i++, d->n_sent++) {
            const char *text = prompts[d->n_sent % N_PROMPTS];
            snprintf(ids[i], sizeof ids[i], "%u", d->n_sent);
            pair[i].id = (struct schema_string){ids[i], strlen(ids[i])};
            pair[i].text = (struct schema_string){text, strlen(text)};
            pair[i].sampling = (struct schema_sampling){.has = SCHEMA_HAS_MAX_TOKENS | SCHEMA_HAS_TEMPERATURE |
                                                               SCHEMA_HAS_SEED | SCHEMA_HAS_TOP_P,
                                                        .max_tokens = 48,
                                                        .temperature = 0.7,
                                                        .top_p = 0.95,
                                                        .seed = 7 + d->n_sent};
        }
        struct schema_prompt_batch batch = {.batch_id = {batch_id, strlen(batch_id)},
                                            .created_ms = base_clock_unix_ms(),
                                            .prompts = pair,
                                            .n_prompts = n_pair};
        struct base_buffer bytes;
        base_buffer_init(&bytes, 1 << 20);
        int rc = schema_prompt_batch_encode(&batch, &bytes, err);
        rd_kafka_resp_err_t e = RD_KAFKA_RESP_ERR_NO_ERROR;
        if (rc == 0)
            e = rd_kafka_producev(d->producer, RD_KAFKA_V_TOPIC(d->topic_in),
                                  RD_KAFKA_V_KEY(batch_id, strlen(batch_id)), RD_KAFKA_V_VALUE(bytes.data, bytes.n),
                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(d), RD_KAFKA_V_END);
        base_buffer_done(&bytes);
        if (rc < 0)
            return rc;
        if (e)
            return base_fail(err, ERR_SERVICE, "producing: %s", rd_kafka_err2str(e));
    }
    rd_kafka_resp_err_t e = rd_kafka_flush(d->producer, 30000);
    if (d->n_refused) /* without this, the worker would be waited for in vain */
        return base_fail(err, ERR_SERVICE, "producing: %u batches were not accepted: %s", d->n_refused, d->refusal);
    return e ? base_fail(err, ERR_SERVICE, "producing: %s", rd_kafka_err2str(e)) : 0;
}

static void print_completion(struct demo *d, const struct schema_completion *c)
{
    d->n_seen++;
    d->n_errors += c->error != SCHEMA_OK;
    if (model_options.json) {
        struct base_buffer out;
        base_buffer_init(&out, 1 << 24);
        cli_completion_json(c, &out);
        fwrite(out.data, 1, out.n, stdout);
        base_buffer_done(&out);
    } else if (c->error != SCHEMA_OK) {
        printf("  %s: error %s: %s\n", c->id.text, schema_code_name(c->error), c->error_text.text);
    } else {
        const char *prompt = prompts[strtoul(c->id.text, NULL, 10) % N_PROMPTS];
        const char *bold = isatty(STDOUT_FILENO) ? "\033[1m" : "", *plain = *bold ? "\033[0m" : "";
        printf("  %s%s%s", bold, prompt, plain);
        for (size_t i = 0; i < c->text.n; i++) /* verses are separated by newlines */
            c->text.text[i] == '\n' ? fputs("\n    ", stdout) : putchar(c->text.text[i]);
        putchar('\n');
    }
    fflush(stdout);
}

static void poll_completions(struct demo *d, int timeout_ms)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(d->consumer, timeout_ms);
    struct base_error err = {0};
    struct schema_completion *c = NULL;
    if (m && !m->err && schema_completion_decode(m->payload, m->len, &c, &err) == 0)
        print_completion(d, c);
    schema_completion_free(c);
    if (m)
        rd_kafka_message_destroy(m);
}

/* In the child: becomes the worker, which ends with the demo, however that ends. */
static void become(const char *const argv[], int log, pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent && dup2(log, STDERR_FILENO) >= 0)
        execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static int spawn_worker(const struct demo *d, uint32_t n_prompts, const char *log, const char *chart, pid_t *out_pid,
                        struct base_error *err)
{
    char count[16];
    snprintf(count, sizeof count, "%u", n_prompts);
    const char *argv[64] = {d->self,
                            "worker",
                            "--model",
                            d->model,
                            "--brokers",
                            d->brokers,
                            "--group",
                            d->topic_in,
                            "--in",
                            d->topic_in,
                            "--out",
                            d->topic_out,
                            "--dlq",
                            d->topic_dlq,
                            "--http",
                            "off",
                            "--exit-after",
                            count,
                            "--drain-s",
                            "5",
                            "--trace",
                            chart,
                            "--store",
                            model_options.store,
                            "--json",
                            "--device",
                            model_options.device,
                            "--cpu-kernels",
                            model_options.kernels};
    size_t n = 29;
    char threads[24];
    if (model_options.n_threads) {
        snprintf(threads, sizeof threads, "%" PRIu64, model_options.n_threads);
        argv[n++] = "--threads";
        argv[n++] = threads;
    }
    if (model_options.cache) {
        argv[n++] = "--cache";
        argv[n++] = model_options.cache;
    }
    char cache_bytes[24];
    if (model_options.cache_bytes) {
        snprintf(cache_bytes, sizeof cache_bytes, "%" PRIu64, model_options.cache_bytes);
        argv[n++] = "--cache-bytes";
        argv[n++] = cache_bytes;
    }
    if (model_options.redis) {
        argv[n++] = "--redis";
        argv[n++] = model_options.redis;
    }
    if (model_options.snapshot_key && *model_options.snapshot_key) {
        argv[n++] = "--snapshot-key";
        argv[n++] = model_options.snapshot_key;
    }
    if (model_options.no_snapshot)
        argv[n++] = "--no-snapshot";
    argv[n] = NULL;

    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return base_fail_errno(err, "%s", log);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(argv, fd, parent);
    close(fd);
    if (pid < 0)
        return base_fail_errno(err, "starting %s worker", d->self);
    *out_pid = pid;
    return 0;
}

/* From here on a signal ends the worker first. */
static void listen_to_signals(void)
{
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
}

/* The worker's log, a JSON object a line: the events worth showing, and the figures of its cold start. */
static void read_log(const char *path, struct start *start)
{
    struct base_error err = {0};
    struct cli_lines lines;
    char *line;
    size_t n;
    if (cli_lines_open(&lines, path, &err) < 0)
        return;
    while (cli_lines_next(&lines, &line, &n, &err) == 1) {
        json_t *entry = json_loadb(line, n, 0, NULL);
        const char *event = json_string_value(json_object_get(entry, "event"));
        const char *level = json_string_value(json_object_get(entry, "level"));
        if (!event) {
            fprintf(stderr, "  worker: %s\n", line);
        } else if (strcmp(event, "cold start") == 0) {
            const char *how = json_string_value(json_object_get(entry, "start"));
            start->restored = how && strcmp(how, "restored") == 0;
            start->ready_s = json_number_value(json_object_get(entry, "ready_s"));
            start->first_token_s = json_number_value(json_object_get(entry, "first_token_s"));
        } else if (strcmp(event, "snapshot created") == 0) {
            fprintf(stderr, "  worker: snapshot created: %s (%.1f MB)\n",
                    json_string_value(json_object_get(entry, "path")),
                    json_number_value(json_object_get(entry, "bytes")) / 1e6);
        } else if (level && (strcmp(level, "error") == 0 || (strcmp(level, "warn") == 0 && brokers))) {
            /* the mock cluster is too simple for some of a worker's requests, and librdkafka says so */
            fprintf(stderr, "  worker: %s\n", line);
        }
        json_decref(entry);
    }
    cli_lines_close(&lines);
}

/* Prints completions until the worker has left and all have come; kills it when its time is over, which returns false. */
static bool wait_for_worker(struct demo *d, pid_t pid, int *out_status)
{
    uint64_t end = base_clock_mono_ns() + (uint64_t)PATIENCE_MS * 1000000u;
    *out_status = 0;
    bool running = true, told = false;
    while (running || (d->n_seen < d->n_sent && !stopped)) {
        poll_completions(d, 50);
        if (stopped && !told && running) {
            told = true;
            kill(pid, SIGTERM);
            end = base_clock_mono_ns() + LEAVE_MS * 1000000ull;
        }
        if (running && waitpid(pid, out_status, WNOHANG) == pid) {
            running = false;
            bool done = WIFEXITED(*out_status) && WEXITSTATUS(*out_status) == 0 && !stopped;
            end = base_clock_mono_ns() + (done ? 10000000000u : 0); /* what it committed must be here soon */
        }
        if (base_clock_mono_ns() > end)
            break;
    }
    if (running) {
        kill(pid, SIGKILL);
        waitpid(pid, out_status, 0);
    }
    return !running;
}

/* Starts a worker, prints completions until it has published n prompts and left, and tells how it started. */
static int run_worker(struct demo *d, uint32_t n, struct start *start, struct base_error *err)
{
    char log[128], chart[128];
    snprintf(log, sizeof log, "%s/worker.log", d->folder);
    snprintf(chart, sizeof chart, "%s/start.txt", d->folder);
    pid_t pid = 0;
    /* A topic and so a group for each: in a group that somebody has just left, the mock cluster makes a new member wait. */
    snprintf(d->topic_in, sizeof d->topic_in, "rouse.demo.%llu.prompts-%u", d->run, ++d->n_workers);
    int rc = create_topic(d, d->topic_in, err);
    if (rc == 0)
        rc = send_prompts(d, n, err);
    if (rc == 0)
        listen_to_signals();
    if (rc == 0)
        rc = spawn_worker(d, n, log, chart, &pid, err);
    if (rc < 0)
        return rc;
    int status;
    bool left = wait_for_worker(d, pid, &status);
    if (stopped)
        return base_fail(err, ERR_STOPPED, "stopped by a signal; the worker %s",
                         left ? "has left" : "had to be killed");
    read_log(log, start);
    if (!left || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return base_fail(err, left ? ERR_INTERNAL : ERR_SERVICE, "the worker %s",
                         left ? "failed; its log is above" : "did not finish within 3 minutes");
    if (d->n_seen < d->n_sent)
        return base_fail(err, ERR_INTERNAL, "%u completions of %u came", d->n_seen, d->n_sent);
    struct base_buffer text;
    base_buffer_init(&text, sizeof start->chart - 1);
    if (base_file_read(chart, sizeof start->chart - 1, &text, err) == 0)
        snprintf(start->chart, sizeof start->chart, "%s", base_buffer_cstr(&text));
    base_buffer_done(&text);
    return 0;
}

static bool has_snapshot(const struct demo *d)
{
    struct base_error err = {0};
    struct snap_store *store = NULL;
    struct schema_snapshot_record record;
    char name[256];
    size_t n;
    const char *last = base_file_name(d->model, &n);
    snprintf(name, sizeof name, "%.*s", (int)n, last);
    const struct snap_start_options open = {
        .store = model_options.store, .cache = model_options.cache, .cache_bytes = model_options.cache_bytes};
    bool found = snap_store_open_with(&open, &store, &err) == 0 && snap_admin_find(store, name, &record, &err) == 0 &&
                 record.state == SCHEMA_SNAPSHOT_READY;
    snap_store_close(store);
    return found;
}

static void print_start(const char *title, const struct start *start)
{
    if (model_options.json)
        printf("{\"start\":\"%s\",\"ready_s\":%.6f,\"first_token_s\":%.6f}\n", start->restored ? "restored" : "cold",
               start->ready_s, start->first_token_s);
    else
        printf("\n%s\n%s\n", title, start->chart);
    fflush(stdout);
}

static int demo(struct demo *d, struct base_error *err)
{
    struct start cold = {0}, warm = {0};
    bool first_time = !model_options.no_snapshot && !has_snapshot(d);
    bool quiet = model_options.json;
    if (!quiet)
        printf("broker: %s %s, model: %s, snapshots: %s\n\n", brokers ? "Kafka at" : "librdkafka's mock cluster at",
               d->brokers, d->model, model_options.store);
    int rc = 0;
    if (first_time) {
        if (!quiet)
            printf(
                "No snapshot yet: this worker loads the model the slow way, serves, and leaves a snapshot behind.\n\n");
        rc = run_worker(d, 4, &cold, err);
        if (rc < 0)
            return rc;
        print_start("cold start, loading the model:", &cold);
    }
    if (!quiet)
        printf("%s\n\n", model_options.no_snapshot ? "A worker starts, without a snapshot."
                                                   : "A worker starts from the snapshot.");
    rc = run_worker(d, N_PROMPTS, &warm, err);
    if (rc < 0)
        return rc;
    print_start(warm.restored ? "cold start, from the snapshot:" : "cold start, loading the model:", &warm);
    if (!quiet && warm.restored)
        printf("%u prompts, %u completions, each published once; the worker was ready %.0f ms after exec%s\n",
               d->n_sent, d->n_seen, warm.ready_s * 1e3,
               brokers ? "" : " (the mock broker lets a new group wait for 3 s)");
    return d->n_errors ? base_fail(err, ERR_INTERNAL, "%u completions say error", d->n_errors) : 0;
}

int cmd_demo(int argc, char **argv)
{
    struct base_error err = {0};
    static struct demo d;
    struct snap_start_options start;
    strcpy(d.folder, "/tmp/rouse-demo-XXXXXX");
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc == 0)
        rc = cli_start_options(&model_options, NULL, &start, &err);
    if (rc == 0 && model_options.no_snapshot && !model_options.store)
        model_options.store = "";
    if (rc == 0)
        rc = find_model(&d, &err);
    if (rc == 0)
        rc = open_kafka(&d, &err);
    if (rc == 0 && !mkdtemp(d.folder))
        rc = base_fail_errno(&err, "%s", d.folder);
    if (rc == 0) {
        rc = demo(&d, &err);
        char path[128];
        snprintf(path, sizeof path, "%s/worker.log", d.folder);
        unlink(path);
        snprintf(path, sizeof path, "%s/start.txt", d.folder);
        unlink(path);
        rmdir(d.folder);
    }
    if (d.consumer) {
        rd_kafka_consumer_close(d.consumer);
        rd_kafka_destroy(d.consumer);
    }
    if (d.mock)
        rd_kafka_mock_cluster_destroy(d.mock);
    if (d.producer)
        rd_kafka_destroy(d.producer);
    base_options_done(options);
    return rc < 0 ? cli_fail("demo", rc, &err) : 0;
}
