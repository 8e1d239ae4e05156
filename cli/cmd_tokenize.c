/* rouse tokenize - text to token ids, and back, by a model's own tokenizer.json. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_writer.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "model/tokenizer.h"

static struct cli_model_options model_options;
static const char *text_path;
static bool decode;

static const struct base_options_usage usage = {
    .command = "rouse tokenize",
    .synopsis = "--model DIR|NAME --text FILE [--decode] [--json]",
    .summary = "Prints the token ids of a text, or with --decode the text of token ids. From a directory only "
               "tokenizer.json is "
               "read; by name the model is restored from its snapshot.",
    .examples = "  echo -n 'Hello world' | rouse tokenize --model models/oracle --text - --json\n"
                "  echo '[15496, 995]' | rouse tokenize --model models/oracle --decode --text -\n",
};

static const struct base_option options[] = {
    {"model", BASE_OPTION_STRING, &model_options.model, "DIR|FILE|NAME", NULL, NULL, 0, 0, "Input",
     "A model directory, a tokenizer.json itself, or the name of a model that has a snapshot in the store.", true},
    {"text", BASE_OPTION_STRING, &text_path, "FILE", "-", NULL, 0, 0, "Input",
     "What to read; - for standard input. With --decode: ids, as JSON ([1, 2] or {\"ids\": [1, 2]}) or as words.",
     false},
    {"decode", BASE_OPTION_FLAG, &decode, NULL, NULL, NULL, 0, 0, "Input",
     "From ids to text; special tokens are shown.", false},
    CLI_OPTION_JSON(&model_options),
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTIONS_END,
};

/* Where the tokenizer's tables are: compiled here, or a restored model's. */
struct source {
    struct base_buffer blob;
    struct model_tokenizer *compiled;
    struct gpu_device *device;
    struct snap_model *restored;
};

static int source_open(struct source *s, const struct model_tokenizer **out, struct base_error *err)
{
    char path[4096];
    const char *model = model_options.model;
    bool is_dir = base_file_is_dir(model);
    int rc = 0;
    if (!is_dir && !base_file_exists(model)) {
        rc = cli_open_model(&model_options, 0, NULL, &s->device, &s->restored, err);
        if (rc == 0)
            *out = s->restored->tokenizer;
        return rc;
    }
    if (is_dir)
        rc = base_file_join(path, sizeof path, model, "tokenizer.json", err);
    if (rc == 0)
        rc = model_tokenizer_compile_file(is_dir ? path : model, &s->blob, err);
    if (rc == 0)
        rc = model_tokenizer_open(s->blob.data, s->blob.n, &s->compiled, err);
    if (rc == 0)
        *out = s->compiled;
    return rc;
}

static void source_close(struct source *s)
{
    model_tokenizer_close(s->compiled);
    base_buffer_done(&s->blob);
    snap_model_close(s->restored);
    gpu_close(s->device);
}

static int encode_text(const struct model_tokenizer *t, const struct base_buffer *in, struct base_buffer *out,
                       struct base_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    int rc = model_tokenizer_encode(t, (const char *)in->data, in->n, SIZE_MAX / sizeof *ids, &ids, &n, err);
    if (rc < 0)
        return base_fail_in(err, "%s", text_path);
    base_buffer_string(out, model_options.json ? "{\"ids\":[" : "");
    for (size_t i = 0; i < n; i++)
        base_buffer_printf(out, "%s%" PRId32, i ? (model_options.json ? "," : " ") : "", ids[i]);
    base_buffer_string(out, model_options.json ? "]}\n" : "\n");
    free(ids);
    return 0;
}

/* Numbers separated by anything but digits: covers a JSON array, the "ids" of an object, and plain words. */
static int parse_ids(const struct base_buffer *in, uint32_t n_ids, int32_t **out_ids, size_t *out_n,
                     struct base_error *err)
{
    int32_t *ids = malloc((in->n / 2 + 1) * sizeof *ids);
    if (!ids)
        return base_fail(err, ERR_NOMEM, "out of memory for %zu bytes of ids", in->n);
    const char *at = base_buffer_cstr(in), *end = at + in->n;
    const char *object = strstr(at, "\"ids\"");
    size_t n = 0;
    for (at = object ? object + 5 : at; at < end;) {
        if (*at < '0' || *at > '9') {
            if (!*at || !strchr(" \t\r\n,:[]{}", *at)) {
                free(ids);
                return base_fail(err, ERR_INPUT, "%s: byte %zu (0x%02x) is part of no token id", text_path,
                                 (size_t)(at - base_buffer_cstr(in)), (unsigned char)*at);
            }
            at++;
            continue;
        }
        char *after;
        unsigned long v = strtoul(at, &after, 10);
        if (v >= n_ids) {
            free(ids);
            return base_fail(err, ERR_INPUT, "%s: token id %.*s: the tokenizer has ids up to %u", text_path,
                             (int)(after - at), at, n_ids - 1);
        }
        ids[n++] = (int32_t)v;
        at = after;
    }
    *out_ids = ids;
    *out_n = n;
    return 0;
}

static int decode_ids(const struct model_tokenizer *t, const struct base_buffer *in, struct base_buffer *out,
                      struct base_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    int rc = parse_ids(in, model_tokenizer_n_ids(t), &ids, &n, err);
    if (rc < 0)
        return rc;
    if (model_options.json) {
        struct base_buffer text;
        base_buffer_init(&text, (size_t)1 << 30);
        model_tokenizer_decode(t, ids, n, false, &text);
        struct base_json j;
        base_json_init(&j, out);
        base_json_object_begin(&j);
        base_json_key(&j, "text");
        base_json_string_n(&j, base_buffer_cstr(&text), text.n);
        base_json_object_end(&j);
        base_buffer_byte(out, '\n');
        base_buffer_done(&text);
    } else {
        model_tokenizer_decode(t, ids, n, false, out);
    }
    free(ids);
    return 0;
}

int cmd_tokenize(int argc, char **argv)
{
    struct base_error err = {0};
    struct base_buffer in, out;
    struct source source = {0};
    const struct model_tokenizer *tokenizer = NULL;
    base_buffer_init(&source.blob, (size_t)1 << 30);
    base_buffer_init(&in, 0);
    base_buffer_init(&out, (size_t)2 << 30);
    int rc = base_options_parse(&usage, options, argc, argv, NULL, &err);
    if (rc != 0)
        goto out;
    rc = source_open(&source, &tokenizer, &err);
    if (rc == 0)
        rc = cli_read_all(text_path, &in, &err);
    if (rc == 0)
        rc = decode ? decode_ids(tokenizer, &in, &out, &err) : encode_text(tokenizer, &in, &out, &err);
    if (rc == 0 && out.failed)
        rc = base_fail(&err, out.failed, "the output does not fit into memory");
    if (rc == 0)
        fwrite(out.data, 1, out.n, stdout);
out:
    source_close(&source);
    base_buffer_done(&in);
    base_buffer_done(&out);
    base_options_done(options);
    return rc < 0 ? cli_fail("tokenize", rc, &err) : 0;
}
