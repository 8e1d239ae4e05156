/* rouse bench start - one start, as a worker starts: model -> engine -> a request, and one more; then it says what that took and
 * holds. `rouse bench restore` runs it in fresh processes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "cli/cli.h"
#include "cli/cmd_bench.h"
#include "snapshot/snap_restore.h"
#include "worker/engine.h"

enum { PROMPT_TOKENS = 16, REQUESTS_MAX = 16 };

static struct cli_model_options model_options;
static const char *file;
static bool unverified, hold;
static uint64_t n_requests;

const struct base_options_usage cmd_bench_start_usage = {
    .command = "rouse bench start",
    .synopsis = "--model DIR|NAME [options]",
    .summary =
        "Starts a model as a worker does, answers requests of 16 tokens with one token each, and prints one line of "
        "JSON: when it was ready, when the first token was there (monotonic clock, seconds), the phases, memory and "
        "bytes read from storage.",
};

const struct base_option cmd_bench_start_options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    {"requests", BASE_OPTION_UINT, &n_requests, "N", "2", NULL, 1, REQUESTS_MAX, "Start",
     "Requests, one after the other, each with other tokens.", false},
    {"hold", BASE_OPTION_FLAG, &hold, NULL, NULL, NULL, 0, 0, "Start",
     "Stay, with the model in memory, until standard input ends.", false},
    {"file", BASE_OPTION_STRING, &file, "FILE", NULL, NULL, 0, 0, "Start",
     "Restore this snapshot file, without index and fall-backs.", false},
    {"unverified", BASE_OPTION_FLAG, &unverified, NULL, NULL, NULL, 0, 0, "Start",
     "With --file: check no checksum, to measure what checking costs.", false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTIONS_END,
};

struct started {
    struct gpu_device *device;
    struct snap_model *model;      /* NULL with --file */
    struct snap_restored restored; /* with --file */
    struct gpu_model *gpu;
    struct model_tokenizer *tokenizer;
    const char *snapshot; /* its id */
    bool is_restored;
};

struct memory {
    uint64_t peak, rss, anonymous, of_files, shared;
};

static uint64_t field_of(const char *text, const char *name, uint64_t unit)
{
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * unit : 0;
}

static void read_proc(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, size - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
}

static struct memory memory_now(void)
{
    char text[8192];
    read_proc("/proc/self/status", text, sizeof text);
    return (struct memory){field_of(text, "VmHWM:", 1024), field_of(text, "VmRSS:", 1024),
                           field_of(text, "RssAnon:", 1024), field_of(text, "RssFile:", 1024),
                           field_of(text, "RssShmem:", 1024)};
}

/* From storage, not from the page cache; reading ahead on our behalf included. */
static uint64_t storage_bytes(void)
{
    char text[1024];
    read_proc("/proc/self/io", text, sizeof text);
    return field_of(text, "\nread_bytes:", 1);
}

static int restore_file(struct started *s, struct base_trace *trace, struct base_error *err)
{
    struct gpu_open_options open = cli_open_options(&model_options);
    struct gpu_limits limits = {.n_ctx_max = (uint32_t)model_options.n_ctx,
                                .n_seqs_max = (uint32_t)model_options.n_seqs,
                                .n_tokens_max = (uint32_t)model_options.n_step_tokens};
    struct snap_file *f = NULL;
    enum restore_way way = RESTORE_AUTO;
    (void)restore_way_parse(model_options.restore_plan, &way); /* one of the option's choices */
    base_trace_begin(trace, BASE_TRACE_DEVICE_OPEN);
    int rc = gpu_open(model_options.device, &open, &s->device, err);
    base_trace_end(trace, BASE_TRACE_DEVICE_OPEN);
    if (rc == 0)
        rc = snap_file_open(file, &f, err);
    if (rc < 0)
        return base_fail_in(err, "%s", file);
    struct snap_restore restore = {.device = s->device,
                                   .path = file,
                                   .wanted = &f->manifest.fingerprint,
                                   .limits = &limits,
                                   .kv_bytes_max = model_options.kv_bytes,
                                   .way = way,
                                   .node_dir = model_options.node_dir,
                                   .unverified = unverified,
                                   .trace = trace};
    rc = snap_restore_read(&restore, &s->restored, err);
    snap_file_close(f);
    if (rc < 0)
        return base_fail_in(err, "%s", file);
    s->gpu = s->restored.gpu;
    s->tokenizer = s->restored.tokenizer;
    s->snapshot = s->restored.manifest.id;
    s->is_restored = true;
    return 0;
}

static int start(struct started *s, struct base_trace *trace, struct base_error *err)
{
    if (file)
        return restore_file(s, trace, err);
    int rc = cli_open_model(&model_options, 0, trace, &s->device, &s->model, err);
    if (rc < 0)
        return rc;
    s->gpu = s->model->gpu;
    s->tokenizer = s->model->tokenizer;
    s->snapshot = s->model->snapshot_id;
    s->is_restored = s->model->restored;
    return 0;
}

static void started_done(struct started *s)
{
    snap_model_close(s->model);
    if (s->restored.gpu)
        snap_restored_done(&s->restored);
    gpu_close(s->device);
}

/* Seconds from submitting to the first token. */
static int request(struct engine *engine, uint32_t vocab, uint64_t n, double *out_s, int32_t *out_token,
                   struct base_error *err)
{
    struct engine_request r = {.n_prompt = PROMPT_TOKENS,
                               .max_tokens = 1,
                               .sampling = {.top_p = 1, .repetition_penalty = 1},
                               .ignore_eos = true};
    struct engine_result result;
    bool busy = true;
    r.prompt = calloc(PROMPT_TOKENS, sizeof *r.prompt);
    if (!r.prompt)
        return base_fail(err, ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
        r.prompt[i] = (int32_t)((7919 * (i + 1) + 104729 * (n + 1)) % vocab);
    uint64_t began = base_clock_mono_ns();
    int rc = engine_submit(engine, &r, err);
    if (rc < 0) {
        free(r.prompt);
        return rc;
    }
    while (rc == 0 && busy)
        rc = engine_step(engine, &busy, err);
    if (rc < 0)
        return rc;
    if (!engine_take(engine, &result))
        return base_fail(err, ERR_INTERNAL, "the engine is idle and has no result");
    if (result.finish == SCHEMA_FINISH_ERROR)
        rc = base_fail(err, result.error.code, "%s", result.error.text);
    if (rc == 0)
        *out_token = result.tokens[0]; /* ignore_eos: there is one */
    *out_s = (double)(result.first_token_ns - began) / 1e9;
    engine_result_done(&result);
    return rc;
}

static void print_memory(const char *name, const struct memory *m, struct base_json *j)
{
    base_json_key(j, name);
    base_json_object_begin(j);
    base_json_kv_uint(j, "peak", m->peak);
    base_json_kv_uint(j, "resident", m->rss);
    base_json_kv_uint(j, "anonymous", m->anonymous);
    base_json_kv_uint(j, "of_files", m->of_files);
    base_json_kv_uint(j, "shared", m->shared);
    base_json_object_end(j);
}

static int run_requests(const struct started *s, struct base_trace *trace, struct base_json *j, struct base_error *err)
{
    struct engine *engine = NULL;
    double took[REQUESTS_MAX] = {0};
    int32_t first = 0, other;
    int rc = engine_new(s->gpu, s->tokenizer, NULL, &engine, err);
    if (rc < 0)
        return rc;
    base_trace_mark(trace, BASE_TRACE_READY);
    struct memory ready = memory_now();
    for (uint64_t i = 0; rc == 0 && i < n_requests; i++) {
        rc = request(engine, gpu_model_plan(s->gpu)->config.vocab, i, &took[i], i ? &other : &first, err);
        if (i == 0)
            base_trace_mark(trace, BASE_TRACE_FIRST_TOKEN);
    }
    struct memory end = memory_now();
    engine_free(engine);
    if (rc < 0)
        return rc;
    base_json_kv_int(j, "first_token", first);
    base_json_key(j, "requests_s");
    base_json_array_begin(j);
    for (uint64_t i = 0; i < n_requests; i++)
        base_json_double(j, took[i], 9);
    base_json_array_end(j);
    print_memory("memory_ready", &ready, j);
    print_memory("memory_end", &end, j);
    base_json_kv_uint(j, "weights_bytes", gpu_model_plan(s->gpu)->weights_bytes);
    base_json_kv_uint(j, "storage_bytes", storage_bytes());
    return 0;
}

static void wait_for_end_of_input(void)
{
    char c;
    while (read(STDIN_FILENO, &c, 1) > 0)
        ;
}

int cmd_bench_start(struct base_error *err, struct base_trace *trace)
{
    struct started s = {.device = NULL};
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1 << 20);
    base_json_init(&j, &out);
    if (unverified && !file)
        return base_fail(err, ERR_USAGE, "--unverified goes with --file: a start through the index always checks");
    int rc = start(&s, trace, err);
    if (rc == 0) {
        base_json_object_begin(&j);
        base_json_kv_string(&j, "snapshot", s.snapshot);
        base_json_kv_bool(&j, "restored", s.is_restored);
        rc = run_requests(&s, trace, &j, err);
    }
    if (rc == 0) {
        base_json_key(&j, "start");
        base_trace_json(trace, &j);
        base_json_object_end(&j);
        printf("%s\n", base_buffer_cstr(&out));
        rc = cli_flush(err);
    }
    if (rc == 0 && hold)
        wait_for_end_of_input();
    base_buffer_done(&out);
    started_done(&s);
    return rc;
}
