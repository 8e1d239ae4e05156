/* rouse bench queue - the worker's path from Kafka to Kafka with a model that answers at once, beside what librdkafka can do. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/json_writer.h"
#include "bench/bench_process.h"
#include "bench/bench_queue.h"
#include "bench/bench_samples.h"
#include "cli/cli.h"
#include "cli/cmd_bench.h"
#include "cli/kafka_client.h"

enum { ARGS_MAX = 128, TOPICS_MS = 30000, LEAVE_SECONDS = 60, ROUNDS_MAX = 1000 };

static const char *brokers, *model, *store, *csv_path;
static struct base_option_list properties, worker_args;
static uint64_t n_prompts, n_loop_prompts, n_rounds, rate, latency_s, commit_ms, inflight, patience_s;
static bool json;

const struct base_options_usage cmd_bench_queue_usage = {
    .command = "rouse bench queue",
    .synopsis = "--model DIR|NAME --brokers LIST [options]",
    .summary =
        "Prompts in, completions out, in transactions, with a model that answers at once: the prompts' deadline has "
        "passed, so that all of the worker's path runs but no step. A worker in a process of its own is measured in "
        "turn with a bare librdkafka loop (consume, produce, commit offsets in the transaction), which sends answers "
        "of the same bytes with the same commit interval. 16 partitions; topics are made and deleted.",
    .examples = "  rouse bench queue --model models/oracle --brokers localhost:9092 --rounds 3\n",
};

const struct base_option cmd_bench_queue_options[] = {
    {"model", BASE_OPTION_STRING, &model, "DIR|NAME[@VERSION]", NULL, NULL, 0, 0, "Worker",
     "What the worker starts with; it runs no step of it.", true},
    {"store", BASE_OPTION_STRING, &store, "DIR", NULL, NULL, 0, 0, "Worker", "Its snapshots.", false},
    {"worker", BASE_OPTION_LIST, &worker_args, "ARG", NULL, NULL, 0, 0, "Worker",
     "A further argument for the worker, as in --worker=--device=cpu. May be given again.", false},
    {"inflight", BASE_OPTION_UINT, &inflight, "N", "4096", NULL, 1, 1000000, "Worker",
     "Its --inflight. Prompts a second are at most this over the commit interval.", false},
    {"rounds", BASE_OPTION_UINT, &n_rounds, "N", "3", NULL, 1, ROUNDS_MAX, "Bench",
     "Every case once in each, in turn; every other round backwards.", false},
    {"prompts", BASE_OPTION_UINT, &n_prompts, "N", "20000", NULL, 1000, 100000000, "Bench",
     "For the worker's throughput; they become visible at once, when the worker has started.", false},
    {"loop-prompts", BASE_OPTION_UINT, &n_loop_prompts, "N", "200000", NULL, 1000, 100000000, "Bench",
     "For the loop's. Should last for a second or more: what is committed together is seen together.", false},
    {"rate", BASE_OPTION_UINT, &rate, "N", "200", NULL, 1, 100000, "Bench", "For latency: prompts a second.", false},
    {"latency-s", BASE_OPTION_UINT, &latency_s, "SECONDS", "5", NULL, 1, 3600, "Bench", "For latency: for so long.",
     false},
    {"commit-ms", BASE_OPTION_UINT, &commit_ms, "MS", "100", NULL, 0, 60000, "Bench",
     "Between commits, of the worker and of the loop.", false},
    {"patience-s", BASE_OPTION_UINT, &patience_s, "SECONDS", "60", NULL, 1, 3600, "Bench",
     "Fail when no completion comes for so long.", false},
    CLI_OPTIONS_KAFKA(&brokers, &properties),
    {"json", BASE_OPTION_FLAG, &json, NULL, NULL, NULL, 0, 0, "Output", "Print JSON, one object a line, for programs.",
     false},
    {"csv", BASE_OPTION_STRING, &csv_path, "FILE", NULL, NULL, 0, 0, "Output", "Write every single measurement.",
     false},
    CLI_OPTIONS_END,
};

enum what { WORKER, LOOP, AT_LEAST_ONCE };

/* The worker first: its answers are what the loops send. */
static const struct bench_case {
    enum what what;
    uint32_t batch;
    const char *name;
} cases[] = {
    {WORKER, 1, "worker 1"},   {LOOP, 1, "loop 1"},   {AT_LEAST_ONCE, 1, "at-least-once 1"},
    {WORKER, 10, "worker 10"}, {LOOP, 10, "loop 10"}, {WORKER, 100, "worker 100"},
    {LOOP, 100, "loop 100"},
};
#define N_CASES (sizeof cases / sizeof cases[0])

static uint64_t prompts_of(const struct bench_case *c)
{
    return c->what == WORKER ? n_prompts : n_loop_prompts;
}

struct session {
    rd_kafka_t *admin;
    char in[64], out[64], dlq[64], group[64];
    struct bench_queue queue;
    struct base_buffer answer;
    struct bench_samples samples;
    char self[4096];
};

static int open_client(void *context, rd_kafka_type_t type, const char *const *settings, rd_kafka_t **out_rk,
                       struct base_error *err)
{
    (void)context;
    return cli_kafka_open(type, brokers, settings, &properties, NULL, out_rk, err);
}

/* The worker's process */

static int still_runs(void *process, struct base_error *err)
{
    int rc = bench_process_check(process, err);
    return rc < 0 ? base_fail_in(err, "its worker") : 0;
}

static int start_worker(struct session *s, struct bench_process *p, struct base_error *err)
{
    const char *argv[ARGS_MAX];
    char commit[24], room[24];
    size_t n = 0;
    if (worker_args.n + 2 * properties.n + 24 > ARGS_MAX)
        return base_fail(err, ERR_USAGE, "more than %d arguments for the worker", ARGS_MAX - 24);
    snprintf(commit, sizeof commit, "%" PRIu64, commit_ms);
    snprintf(room, sizeof room, "%" PRIu64, inflight);
    const char *const ours[] = {s->self,  "worker", "--model",     model,   "--brokers",  brokers, "--group",
                                s->group, "--in",   s->in,         "--out", s->out,       "--dlq", s->dlq,
                                "--http", "off",    "--commit-ms", commit,  "--inflight", room};
    for (; n < sizeof ours / sizeof ours[0]; n++)
        argv[n] = ours[n];
    if (store) {
        argv[n++] = "--store";
        argv[n++] = store;
    }
    for (size_t i = 0; i < properties.n; i++) {
        argv[n++] = "--kafka";
        argv[n++] = properties.items[i];
    }
    for (size_t i = 0; i < worker_args.n; i++)
        argv[n++] = worker_args.items[i];
    argv[n] = NULL;
    return bench_process_start(argv, NULL, p, err);
}

static int stop_worker(struct bench_process *p, struct base_error *err)
{
    if (p->pid > 0)
        kill(p->pid, SIGTERM);
    int rc = bench_process_end(p, LEAVE_SECONDS, err);
    bench_process_done(p);
    return rc < 0 ? base_fail_in(err, "worker") : 0;
}

/* One case: its own topics, filled; what answers is started, measured and stopped. */

static int measure(struct session *s, const struct bench_case *c, uint32_t round, rd_kafka_t *reader,
                   struct base_error *err)
{
    double per_s = 0, p50 = 0, p95 = 0;
    int rc = bench_queue_rate(&s->queue, reader, prompts_of(c), &s->answer, &per_s, err);
    if (rc == 0)
        bench_samples_add(&s->samples, round, c->name, "per_s", per_s);
    if (rc < 0 || c->batch > 1)
        return rc;
    rc = bench_queue_latency(&s->queue, reader, (uint32_t)(rate * latency_s), (double)rate, &p50, &p95, err);
    if (rc == 0) {
        bench_samples_add(&s->samples, round, c->name, "p50_s", p50);
        bench_samples_add(&s->samples, round, c->name, "p95_s", p95);
    }
    return rc;
}

static int answer_and_measure(struct session *s, const struct bench_case *c, uint32_t round, struct base_error *err)
{
    struct bench_process process = {.pid = 0};
    struct bench_queue_loop *loop = NULL;
    rd_kafka_t *reader = NULL;
    bool worker = c->what == WORKER;
    struct base_error ignored = {0};
    int rc = bench_queue_reader(&s->queue, &reader, err);
    if (rc < 0)
        return rc;
    rc = worker ? start_worker(s, &process, err)
                : bench_queue_loop_start(&s->queue, c->what == LOOP, &s->answer, &loop, err);
    bool started = rc == 0;
    s->queue.check = worker ? still_runs : NULL;
    s->queue.check_context = &process;
    if (rc == 0)
        rc = measure(s, c, round, reader, err);
    struct base_error *to = rc < 0 ? &ignored : err; /* what came first says most */
    int ended = !started ? 0 : worker ? stop_worker(&process, to) : bench_queue_loop_stop(loop, to);
    bench_queue_reader_close(reader);
    return rc < 0 ? rc : ended;
}

static int run_case(struct session *s, const struct bench_case *c, uint32_t round, struct base_error *err)
{
    uint64_t tag = 0;
    const char *const topics[] = {s->in, s->out, s->dlq};
    struct base_error ignored = {0};
    if (getrandom(&tag, sizeof tag, 0) != (ssize_t)sizeof tag)
        return base_fail_errno(err, "getrandom");
    snprintf(s->in, sizeof s->in, "rouse.bench.%016" PRIx64 ".in", tag);
    snprintf(s->out, sizeof s->out, "rouse.bench.%016" PRIx64 ".out", tag);
    snprintf(s->dlq, sizeof s->dlq, "rouse.bench.%016" PRIx64 ".dlq", tag);
    snprintf(s->group, sizeof s->group, "rouse.bench.%016" PRIx64, tag);
    s->queue = (struct bench_queue){.open = open_client,
                                    .in = s->in,
                                    .out = s->out,
                                    .group = s->group,
                                    .batch = c->batch,
                                    .commit_ms = (uint32_t)commit_ms,
                                    .patience_s = (uint32_t)patience_s};
    int rc = cli_kafka_create_topics(s->admin, topics, 3, BENCH_QUEUE_PARTITIONS, TOPICS_MS, err);
    if (rc == 0)
        rc = answer_and_measure(s, c, round, err);
    int deleted = cli_kafka_delete_topics(s->admin, topics, 3, TOPICS_MS, rc < 0 ? &ignored : err);
    return rc < 0 ? base_fail_in(err, "%s a record", c->name) : deleted;
}

/* The report */

static const char *loop_of(uint32_t batch)
{
    for (size_t i = 0; i < N_CASES; i++)
        if (cases[i].what == LOOP && cases[i].batch == batch)
            return cases[i].name;
    return "";
}

static void kv_summary(struct base_json *j, const char *key, const struct bench_summary *m)
{
    base_json_key(j, key);
    base_json_object_begin(j);
    base_json_kv_double(j, "median", m->median, 6);
    base_json_kv_double(j, "low", m->low, 6);
    base_json_kv_double(j, "high", m->high, 6);
    base_json_object_end(j);
}

static void print_json(const struct session *s, const struct bench_case *c)
{
    static const char *const names[] = {"worker", "loop", "at-least-once"};
    static const char *const metrics[] = {"per_s", "p50_s", "p95_s"};
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1 << 20);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "case", names[c->what]);
    base_json_kv_uint(&j, "batch", c->batch);
    base_json_kv_uint(&j, "rounds", n_rounds);
    base_json_kv_uint(&j, "prompts", prompts_of(c));
    base_json_kv_uint(&j, "answer_bytes", s->answer.n);
    for (size_t i = 0; i < 3; i++) {
        struct bench_summary m = bench_samples_summary(&s->samples, c->name, metrics[i]);
        if (m.n)
            kv_summary(&j, metrics[i], &m);
    }
    if (c->what == WORKER) {
        struct bench_summary r = bench_samples_ratio(&s->samples, c->name, "per_s", loop_of(c->batch), "per_s");
        kv_summary(&j, "of_loop", &r);
    }
    base_json_object_end(&j);
    printf("%s\n", base_buffer_cstr(&out));
    base_buffer_done(&out);
}

static void print_text(const struct session *s, const struct bench_case *c)
{
    struct bench_summary m = bench_samples_summary(&s->samples, c->name, "per_s");
    struct bench_summary p50 = bench_samples_summary(&s->samples, c->name, "p50_s");
    struct bench_summary p95 = bench_samples_summary(&s->samples, c->name, "p95_s");
    printf("%-16s %8.0f /s  (%.0f..%.0f)", c->name, m.median, m.low, m.high);
    if (c->what == WORKER)
        printf("  %.2f of the loop",
               bench_samples_ratio(&s->samples, c->name, "per_s", loop_of(c->batch), "per_s").median);
    if (p50.n)
        printf("  at %" PRIu64 " /s: p50 %.0f ms, p95 %.0f ms", rate, 1e3 * p50.median, 1e3 * p95.median);
    printf("\n");
}

static int report(struct session *s, struct base_error *err)
{
    if (!json)
        printf("answered at once, by prompts a record: %" PRIu64 " prompts (loops: %" PRIu64 "), %zu bytes an answer, "
               "commits every %" PRIu64 " ms, medians of %" PRIu64 "\n",
               n_prompts, n_loop_prompts, s->answer.n, commit_ms, n_rounds);
    for (size_t i = 0; i < N_CASES; i++)
        if (json)
            print_json(s, &cases[i]);
        else
            print_text(s, &cases[i]);
    int rc = csv_path ? bench_samples_csv(&s->samples, csv_path, err) : 0;
    return rc < 0 ? rc : cli_flush(err);
}

int cmd_bench_queue(struct base_error *err, struct base_trace *trace)
{
    static struct session s;
    (void)trace;
    if (rate * latency_s > BENCH_QUEUE_SAMPLES_MAX)
        return base_fail(err, ERR_USAGE, "--rate %" PRIu64 " for --latency-s %" PRIu64 " is more than %u prompts", rate,
                         latency_s, BENCH_QUEUE_SAMPLES_MAX);
    ssize_t n = readlink("/proc/self/exe", s.self, sizeof s.self - 1);
    if (n <= 0)
        return base_fail_errno(err, "/proc/self/exe");
    base_buffer_init(&s.answer, 1 << 20);
    int rc = open_client(NULL, RD_KAFKA_PRODUCER, NULL, &s.admin, err);
    for (uint32_t round = 1; rc == 0 && round <= n_rounds; round++)
        for (size_t i = 0; rc == 0 && i < N_CASES; i++)
            rc = run_case(&s, &cases[round % 2 ? i : N_CASES - 1 - i], round, err);
    if (rc == 0 && s.samples.failed)
        rc = base_fail(err, ERR_NOMEM, "out of memory for the samples");
    if (rc == 0)
        rc = report(&s, err);
    if (s.admin)
        rd_kafka_destroy(s.admin);
    bench_samples_done(&s.samples);
    base_buffer_done(&s.answer);
    return rc;
}
