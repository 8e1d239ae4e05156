/* rouse generate - prompts to completions, without Kafka: model -> lines -> engine -> one line a completion. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/completion_json.h"
#include "cli/prompt_lines.h"
#include "cli/sampling_options.h"
#include "worker/engine.h"
#include "worker/prompt_request.h"

static struct cli_model_options model_options;
static struct cli_sampling_options sampling_options;
static const char *in_path, *prompt_text, *trace_path;

static const struct base_options_usage usage = {
    .command = "rouse generate",
    .synopsis = "--model DIR|NAME (--prompt TEXT | --in FILE.jsonl) [options]",
    .summary =
        "Completes prompts and prints each completion as it finishes. The first start of a model builds its snapshot; "
        "the next ones restore it.",
    .examples = "  rouse generate --model models/oracle --prompt \"In the beginning\" --max-tokens 40\n"
                "  echo '{\"id\": \"a\", \"text\": \"And God said\", \"temperature\": 0.7, \"seed\": 1}' | \\\n"
                "      rouse generate --model models/oracle --in - --json\n",
};

static const struct base_option options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    {"prompt", BASE_OPTION_STRING, &prompt_text, "TEXT", NULL, NULL, 0, 0, "Input", "One prompt.", false},
    {"in", BASE_OPTION_STRING, &in_path, "FILE", NULL, NULL, 0, 0, "Input",
     "A prompt a line, as text or as JSON {id, text|tokens, max_tokens, temperature, ...}; - for standard input.",
     false},
    CLI_OPTIONS_SAMPLING(&sampling_options),
    CLI_OPTION_JSON(&model_options),
    {"trace", BASE_OPTION_STRING, &trace_path, "FILE", NULL, NULL, 0, 0, "Output",
     "Write the cold start as a Chrome trace (chrome://tracing, ui.perfetto.dev).", false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTIONS_END,
};

/* One prompt on its way through the engine. */
struct item {
    struct schema_prompt_batch *batch; /* of one prompt */
    struct model_stop *stops;
    uint32_t index;
};

struct session {
    const struct snap_model *model;
    struct engine *engine;
    struct base_trace *trace;
    struct schema_sampling defaults;
    uint32_t n_submitted, n_failed, n_done;
    struct base_progress progress;
};

static void item_free(struct item *item)
{
    if (!item)
        return;
    schema_prompt_batch_free(item->batch);
    free(item->stops);
    free(item);
}

static void print_completion(const struct schema_completion *c, const struct schema_prompt *prompt)
{
    if (model_options.json) {
        struct base_buffer out;
        base_buffer_init(&out, (size_t)1 << 30);
        cli_completion_json(c, &out);
        fwrite(out.data, 1, out.n, stdout);
        base_buffer_done(&out);
    } else if (c->error != SCHEMA_OK) {
        fprintf(stderr, "rouse generate: prompt '%s': %s\n", c->id.text, c->error_text.text);
    } else {
        if (prompt->text.text)
            fwrite(prompt->text.text, 1, prompt->text.n, stdout);
        fwrite(c->text.text, 1, c->text.n, stdout);
        putchar('\n');
    }
}

static const struct worker_identity *identity_of(const struct snap_model *m)
{
    static struct worker_identity identity;
    identity = (struct worker_identity){.model = m->name, .version = m->version, .snapshot = m->snapshot_id};
    return &identity;
}

static int print_result(struct session *s, struct engine_result *r, struct base_error *err)
{
    struct item *item = r->tag;
    struct schema_token_logprob *logprobs = NULL;
    if (r->sampled) {
        logprobs = calloc(r->n_tokens + 1, sizeof *logprobs);
        if (!logprobs)
            return base_fail(err, ERR_NOMEM, "out of memory for %u log-probabilities", r->n_tokens);
    }
    const struct schema_prompt *prompt = &item->batch->prompts[0];
    struct schema_string no_batch = {0};
    struct schema_completion c;
    worker_completion_make(&no_batch, prompt, item->index, s->n_submitted, identity_of(s->model), r, logprobs, &c);
    s->n_failed += c.error != SCHEMA_OK;
    print_completion(&c, prompt);
    free(logprobs);
    s->n_done++;
    base_progress_set(&s->progress, s->n_done);
    return cli_flush(err);
}

/* One step, and everything that it finished. */
static int advance(struct session *s, bool *out_busy, struct base_error *err)
{
    int rc = engine_step(s->engine, out_busy, err);
    if (rc < 0)
        return rc;
    struct engine_counts counts;
    engine_counts(s->engine, &counts);
    if (counts.generated_tokens)
        base_trace_mark(s->trace, BASE_TRACE_FIRST_TOKEN);
    struct engine_result r;
    while (rc == 0 && engine_take(s->engine, &r)) {
        rc = print_result(s, &r, err);
        item_free(r.tag);
        engine_result_done(&r);
    }
    return rc;
}

/* Takes batch over. A prompt that cannot be computed is answered at once, and the others go on. */
static int submit(struct session *s, struct schema_prompt_batch *batch, struct base_error *err)
{
    struct item *item = calloc(1, sizeof *item);
    if (!item) {
        schema_prompt_batch_free(batch);
        return base_fail(err, ERR_NOMEM, "out of memory");
    }
    *item = (struct item){.batch = batch, .index = s->n_submitted++};
    const struct schema_prompt *prompt = &batch->prompts[0];
    struct engine_request request;
    enum schema_code code = SCHEMA_INTERNAL;
    enum schema_stage stage;
    int rc =
        worker_request_make(prompt, s->model->tokenizer, gpu_model_plan(s->model->gpu), &request, &code, &stage, err);
    if (rc == 0) {
        item->stops = request.stops;
        request.tag = item;
        while ((rc = engine_submit(s->engine, &request, err)) == ERR_AGAIN) {
            bool busy;
            int failed = advance(s, &busy, err);
            if (failed < 0) {
                free(request.prompt);
                item_free(item);
                return failed;
            }
        }
        if (rc < 0)
            free(request.prompt);
    }
    if (rc == ERR_INPUT) {
        struct schema_string no_batch = {0};
        struct schema_completion c;
        worker_completion_refuse(&no_batch, prompt, item->index, s->n_submitted, identity_of(s->model),
                                 code == SCHEMA_OK ? SCHEMA_BAD_VALUE : code, err->text, &c);
        print_completion(&c, prompt);
        s->n_failed++;
        s->n_done++;
        rc = 0;
        item_free(item);
    } else if (rc < 0) {
        item_free(item);
    }
    return rc;
}

static int submit_line(struct session *s, const char *line, size_t n, const char *path, uint64_t number,
                       enum cli_line_kind kind, struct base_error *err)
{
    struct schema_prompt_batch *batch = NULL;
    int rc = cli_prompt_parse(line, n, path, number, kind, &s->defaults, &batch, err);
    return rc < 0 ? rc : submit(s, batch, err);
}

static int run_prompts(struct session *s, struct base_error *err)
{
    int rc = 0;
    if (prompt_text) {
        rc = submit_line(s, prompt_text, strlen(prompt_text), "--prompt", 1, CLI_LINE_TEXT, err);
    } else {
        struct cli_lines lines;
        rc = cli_lines_open(&lines, in_path, err);
        char *line;
        size_t n;
        while (rc == 0 && (rc = cli_lines_next(&lines, &line, &n, err)) == 1)
            rc = n ? submit_line(s, line, n, lines.path, lines.number, CLI_LINE_ANY, err) : 0;
        cli_lines_close(&lines);
    }
    bool busy = true;
    while (rc == 0 && busy)
        rc = advance(s, &busy, err);
    return rc;
}

static void print_summary(const struct session *s, const struct base_trace *trace, uint64_t began_ns)
{
    struct engine_counts counts;
    engine_counts(s->engine, &counts);
    double seconds = (double)(base_clock_mono_ns() - began_ns) / 1e9;
    struct base_buffer out;
    base_buffer_init(&out, 1 << 20);
    if (model_options.json) {
        struct base_json j;
        base_json_init(&j, &out);
        base_json_object_begin(&j);
        base_json_key(&j, "cold_start");
        base_trace_json(trace, &j);
        base_json_key(&j, "first_token_at"); /* CLOCK_MONOTONIC seconds */
        base_json_fixed(&j, base_trace_at_ns(trace, BASE_TRACE_FIRST_TOKEN), 9);
        base_json_kv_bool(&j, "restored", s->model->restored);
        base_json_kv_string(&j, "snapshot", s->model->snapshot_id);
        base_json_kv_uint(&j, "prompts", s->n_done);
        base_json_kv_uint(&j, "failed", s->n_failed);
        base_json_kv_uint(&j, "prompt_tokens", counts.prompt_tokens);
        base_json_kv_uint(&j, "completion_tokens", counts.generated_tokens);
        base_json_kv_double(&j, "seconds", seconds, 6);
        base_json_object_end(&j);
        base_buffer_byte(&out, '\n');
        fwrite(out.data, 1, out.n, stdout);
    } else {
        base_buffer_printf(&out, "\n%u prompts, %llu tokens in %.2f s; start: %s, first token %.3f s after exec\n",
                           s->n_done, (unsigned long long)counts.generated_tokens, seconds,
                           s->model->restored ? "restored from a snapshot" : "cold load",
                           base_trace_seconds(trace, BASE_TRACE_FIRST_TOKEN));
        base_trace_print(trace, &out);
        fwrite(out.data, 1, out.n, stderr);
    }
    base_buffer_done(&out);
}

int cmd_generate(int argc, char **argv)
{
    struct base_error err = {0};
    sampling_options = cli_sampling_unset;
    struct base_trace *trace = base_trace_new();
    base_trace_begin(trace, BASE_TRACE_CONFIG);
    struct session s = {.trace = trace};
    struct gpu_device *device = NULL;
    struct snap_model *model = NULL;

    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc == 0 && !prompt_text == !in_path)
        rc = base_fail(&err, ERR_USAGE, "give either --prompt or --in; see rouse generate --help");
    if (rc == 0)
        rc = cli_sampling_make(&sampling_options, &s.defaults, &err);
    base_trace_end(trace, BASE_TRACE_CONFIG);
    if (rc != 0)
        goto out;
    rc = cli_open_model(&model_options, 0, trace, &device, &model, &err);
    if (rc < 0)
        goto out;
    s.model = model;
    rc = engine_new(model->gpu, model->tokenizer, NULL, &s.engine, &err);
    if (rc < 0)
        goto out;
    base_trace_mark(trace, BASE_TRACE_READY);
    uint64_t began = base_clock_mono_ns();
    if (!isatty(STDOUT_FILENO))
        base_progress_begin(&s.progress, "generating", "prompts", 0);
    rc = run_prompts(&s, &err);
    base_progress_end(&s.progress);
    if (rc == 0)
        print_summary(&s, trace, began);
    if (rc == 0 && trace_path)
        rc = base_trace_write_chrome(trace, trace_path, &err);
out:
    engine_free(s.engine);
    snap_model_close(model);
    gpu_close(device);
    base_trace_free(trace);
    base_options_done(options);
    if (rc < 0)
        return cli_fail("generate", rc, &err);
    return rc == 1 ? 0 : base_exit_code(s.n_failed ? ERR_INPUT : 0);
}
