/* rouse eval - how well a model predicts a text: tokens -> forward -> negative log-likelihood; logits as .npy. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_writer.h"
#include "base/progress.h"
#include "cli/cli.h"
#include "cli/commands.h"

#define CHUNK_TOKENS 64 /* rows of logits that one step returns: 64 x 50,304 floats are 13 MB */

static struct cli_model_options model_options;
static const char *text_path, *tokens_path, *logits_path;

static const struct base_options_usage usage = {
    .command = "rouse eval",
    .synopsis = "--model DIR|NAME (--text FILE | --tokens FILE.json) [--logits OUT.npy] [options]",
    .summary = "Perplexity of a text. A text longer than the context is cut into windows of that many tokens, each on "
               "its own.",
    .examples = "  rouse eval --model models/oracle --text models/oracle/heldout.txt\n",
};

static const struct base_option options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    {"text", BASE_OPTION_STRING, &text_path, "FILE", NULL, NULL, 0, 0, "Input", "UTF-8 text; - for standard input.",
     false},
    {"tokens", BASE_OPTION_STRING, &tokens_path, "FILE", NULL, NULL, 0, 0, "Input",
     "Token ids as JSON: [1, 2, ...] or {\"ids\": [...]}.", false},
    CLI_OPTION_JSON(&model_options),
    {"logits", BASE_OPTION_STRING, &logits_path, "FILE", NULL, NULL, 0, 0, "Output",
     "Write the logits of every position as a NumPy array, float32 [T][V].", false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTIONS_END,
};

struct ids {
    int32_t *v;
    size_t n;
};

static int read_token_file(const char *path, struct ids *out, struct base_error *err)
{
    struct base_buffer in;
    int rc = cli_read_all(path, &in, err);
    json_error_t fault;
    json_t *root = rc == 0 ? json_loadb(base_buffer_cstr(&in), in.n, 0, &fault) : NULL;
    base_buffer_done(&in);
    if (rc < 0)
        return rc;
    if (!root)
        return base_fail(err, ERR_INPUT, "%s:%d: not JSON: %s", path, fault.line, fault.text);
    json_t *list = json_is_object(root) ? json_object_get(root, "ids") : root;
    size_t n = json_array_size(list);
    rc = json_is_array(list) && n ? 0
                                  : base_fail(err, ERR_INPUT, "%s: neither a list of ids nor {\"ids\": [...]}", path);
    if (rc == 0 && !(out->v = malloc(n * sizeof *out->v)))
        rc = base_fail(err, ERR_NOMEM, "out of memory for %zu tokens", n);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        json_int_t v = json_is_integer(json_array_get(list, i)) ? json_integer_value(json_array_get(list, i)) : -1;
        if (v < 0 || v > INT32_MAX)
            rc = base_fail(err, ERR_INPUT, "%s: entry %zu is no token id", path, i);
        out->v[i] = (int32_t)v;
    }
    out->n = n;
    json_decref(root);
    return rc;
}

static int read_text_file(const char *path, const struct model_tokenizer *t, struct ids *out, struct base_error *err)
{
    struct base_buffer in;
    int rc = cli_read_all(path, &in, err);
    if (rc == 0)
        rc = model_tokenizer_encode(t, base_buffer_cstr(&in), in.n, SIZE_MAX / sizeof *out->v, &out->v, &out->n, err);
    base_buffer_done(&in);
    if (rc == 0 && out->n == 0)
        rc = base_fail(err, ERR_INPUT, "the text is empty");
    return rc < 0 ? base_fail_in(err, "%s", path) : 0;
}

/* NumPy's format 1.0: magic, version, u16 header length, a Python dict padded with spaces to a multiple of 64.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
static void npy_header(FILE *f, size_t rows, size_t cols)
{
    char head[128];
    int n = snprintf(head, sizeof head, "%cNUMPY%c%c  {'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                     0x93, 1, 0, rows, cols);
    memset(head + n, ' ', sizeof head - (size_t)n);
    head[sizeof head - 1] = '\n';
    head[8] = (char)(sizeof head - 10);
    head[9] = 0;
    fwrite(head, 1, sizeof head, f);
}

/* -log softmax(row)[id], in double: the sum over a long text must not drown in rounding. */
static double nll_of(const float *row, uint32_t vocab, int32_t id)
{
    float top = row[0];
    for (uint32_t i = 1; i < vocab; i++)
        top = row[i] > top ? row[i] : top;
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        sum += exp((double)row[i] - (double)top);
    return log(sum) + (double)top - (double)row[id];
}

struct score {
    double nll;
    size_t n_scored; /* tokens with a prediction: all but the first of each window */
};

static int eval_window(struct gpu_model *gpu, const int32_t *ids, size_t n, const uint32_t *blocks, FILE *npy,
                       struct score *score, struct base_error *err)
{
    uint32_t vocab = gpu_model_plan(gpu)->config.vocab;
    for (size_t at = 0; at < n;) {
        uint32_t chunk = n - at < CHUNK_TOKENS ? (uint32_t)(n - at) : CHUNK_TOKENS;
        struct gpu_sequence s = {
            .tokens = ids + at, .n_tokens = chunk, .position = (uint32_t)at, .blocks = blocks, .n_logits = chunk};
        struct gpu_result result;
        int rc = gpu_model_forward(gpu, &s, 1, &result, err);
        if (rc < 0)
            return rc;
        for (uint32_t i = 0; i < chunk && at + i + 1 < n; i++) {
            score->nll += nll_of(result.logits + (size_t)i * vocab, vocab, ids[at + i + 1]);
            score->n_scored++;
        }
        if (npy && fwrite(result.logits, sizeof(float) * vocab, chunk, npy) != chunk)
            return base_fail_errno(err, "%s", logits_path);
        at += chunk;
    }
    return 0;
}

static int eval_all(struct gpu_model *gpu, const struct ids *ids, struct score *score, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(gpu);
    uint32_t window = plan->limits.n_ctx_max, n_blocks = (window + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    for (size_t i = 0; i < ids->n; i++)
        if (ids->v[i] < 0 || (uint32_t)ids->v[i] >= plan->config.vocab)
            return base_fail(err, ERR_INPUT, "token %zu is %d; the vocabulary has %u", i, ids->v[i],
                             plan->config.vocab);
    if (n_blocks > plan->limits.n_blocks)
        return base_fail(err, ERR_USAGE, "a context of %u tokens needs %u KV blocks, --kv-bytes has room for %u",
                         window, n_blocks, plan->limits.n_blocks);
    uint32_t *blocks = malloc(n_blocks * sizeof *blocks);
    FILE *npy = logits_path ? fopen(logits_path, "we") : NULL;
    int rc = 0;
    if (!blocks)
        rc = base_fail(err, ERR_NOMEM, "out of memory for %u blocks", n_blocks);
    else if (logits_path && !npy)
        rc = base_fail_errno(err, "%s", logits_path);
    for (uint32_t i = 0; rc == 0 && i < n_blocks; i++)
        blocks[i] = i;
    if (npy)
        npy_header(npy, ids->n, plan->config.vocab);
    struct base_progress progress;
    base_progress_begin(&progress, "evaluating", "tokens", ids->n);
    for (size_t at = 0; rc == 0 && at < ids->n; at += window) {
        size_t n = ids->n - at < window ? ids->n - at : window;
        rc = eval_window(gpu, ids->v + at, n, blocks, npy, score, err);
        base_progress_set(&progress, at + n);
    }
    base_progress_end(&progress);
    if (npy && fclose(npy) != 0 && rc == 0)
        rc = base_fail_errno(err, "%s", logits_path);
    free(blocks);
    return rc;
}

static void print_score(const struct snap_model *model, const struct ids *ids, const struct score *score)
{
    double perplexity = score->n_scored ? exp(score->nll / (double)score->n_scored) : NAN;
    const char *dtype = model_dtype_name(gpu_model_plan(model->gpu)->dtype);
    if (!model_options.json) {
        printf("%s %s: %zu tokens, nll %.6f (%.6f a token), perplexity %.4f\n", model->name, dtype, ids->n, score->nll,
               score->n_scored ? score->nll / (double)score->n_scored : NAN, perplexity);
        return;
    }
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1 << 16);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "model", model->name);
    base_json_kv_string(&j, "dtype", dtype);
    base_json_kv_uint(&j, "n_tokens", ids->n);
    base_json_kv_uint(&j, "n_scored", score->n_scored);
    base_json_kv_double(&j, "nll", score->nll, 12);
    base_json_kv_double(&j, "perplexity", perplexity, 9);
    base_json_kv_string(&j, "logits", logits_path);
    base_json_object_end(&j);
    printf("%s\n", base_buffer_cstr(&out));
    base_buffer_done(&out);
}

int cmd_eval(int argc, char **argv)
{
    struct base_error err = {0};
    struct gpu_device *device = NULL;
    struct snap_model *model = NULL;
    struct ids ids = {0};
    struct score score = {0};
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc == 0 && !text_path == !tokens_path)
        rc = base_fail(&err, ERR_USAGE, "give either --text or --tokens; see rouse eval --help");
    if (rc == 0 && tokens_path)
        rc = read_token_file(tokens_path, &ids, &err);
    if (rc != 0)
        goto out;
    rc = cli_open_model(&model_options, CHUNK_TOKENS, NULL, &device, &model, &err);
    if (rc == 0 && text_path)
        rc = read_text_file(text_path, model->tokenizer, &ids, &err);
    if (rc == 0)
        rc = eval_all(model->gpu, &ids, &score, &err);
    if (rc == 0)
        print_score(model, &ids, &score);
out:
    free(ids.v);
    snap_model_close(model);
    gpu_close(device);
    base_options_done(options);
    return rc < 0 ? cli_fail("eval", rc, &err) : 0;
}
