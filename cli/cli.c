#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define LINE_BYTES_MAX  (16u << 20)
#define INPUT_BYTES_MAX (256u << 20)

enum base_log_level cli_log_level = BASE_LOG_INFO;
static char default_store[1024];

static int find_default_store(struct base_error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = -1;
    if (cache && cache[0] == '/')
        n = snprintf(default_store, sizeof default_store, "%s/rouse", cache);
    else if (home && home[0] == '/')
        n = snprintf(default_store, sizeof default_store, "%s/.cache/rouse", home);
    if (n <= 0 || (size_t)n >= sizeof default_store)
        return base_fail(err, ERR_USAGE, "no place for snapshots: give --store DIR, or set HOME");
    return 0;
}

int cli_start_options(struct cli_model_options *o, struct base_trace *trace, struct snap_start_options *out,
                      struct base_error *err)
{
    if (!o->store && !o->no_snapshot) {
        int rc = find_default_store(err);
        if (rc < 0)
            return rc;
        o->store = default_store;
    }
    *out = (struct snap_start_options){
        .model = o->model,
        .store = o->no_snapshot ? NULL : o->store,
        .redis = o->redis,
        .cache = o->cache,
        .cache_bytes = o->cache_bytes,
        .dtype = o->dtype ? o->dtype : "auto",
        .snapshot_key = o->snapshot_key,
        .restore_plan = o->restore_plan,
        .node_dir = o->node_dir,
        .build = o->no_snapshot ? SNAP_BUILD_NEVER : SNAP_BUILD_AUTO,
        .limits = {.n_ctx_max = (uint32_t)o->n_ctx,
                   .n_seqs_max = (uint32_t)o->n_seqs,
                   .n_tokens_max = (uint32_t)o->n_step_tokens},
        .kv_bytes_max = o->kv_bytes,
        .trace = trace,
        .progress = true,
    };
    return 0;
}

struct gpu_open_options cli_open_options(const struct cli_model_options *o)
{
    return (struct gpu_open_options){.n_threads = (uint32_t)o->n_threads,
                                     .kernels = o->kernels,
                                     .fastest_gemms = strcmp(o->deterministic, "off") == 0,
                                     .no_graphs = strcmp(o->graphs, "off") == 0};
}

int cli_open_model(struct cli_model_options *o, uint32_t min_logits, struct base_trace *trace,
                   struct gpu_device **out_device, struct snap_model **out_model, struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct snap_start_options start;
    int rc = cli_start_options(o, trace, &start, err);
    if (rc < 0)
        return rc;
    start.limits.n_logits_max = min_logits;
    base_trace_begin(trace, BASE_TRACE_DEVICE_OPEN);
    struct gpu_open_options open = cli_open_options(o);
    rc = gpu_open(o->device, &open, &device, err);
    base_trace_end(trace, BASE_TRACE_DEVICE_OPEN);
    if (rc < 0)
        return rc;
    rc = snap_start(device, &start, out_model, err);
    if (rc < 0) {
        gpu_close(device);
        return rc;
    }
    *out_device = device;
    return 0;
}

int cli_fail(const char *command, int rc, const struct base_error *err)
{
    fprintf(stderr, "rouse %s: %s\n", command, err->text[0] ? err->text : base_error_name(rc));
    return base_exit_code(rc);
}

int cli_flush(struct base_error *err)
{
    if (fflush(stdout) != 0)
        return base_fail_errno(err, "stdout");
    return ferror(stdout) ? base_fail(err, ERR_IO, "stdout: not everything could be written") : 0;
}

int cli_lines_open(struct cli_lines *l, const char *path, struct base_error *err)
{
    *l = (struct cli_lines){.path = path};
    l->file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!l->file)
        return errno == ENOENT ? base_fail(err, ERR_INPUT, "%s: no such file", path) : base_fail_errno(err, "%s", path);
    return 0;
}

int cli_lines_next(struct cli_lines *l, char **out_line, size_t *out_n, struct base_error *err)
{
    size_t n = 0;
    int c = EOF;
    while ((c = getc_unlocked(l->file)) != EOF && c != '\n') {
        if (n == LINE_BYTES_MAX)
            return base_fail(err, ERR_INPUT, "%s: line %llu is longer than %u bytes", l->path,
                             (unsigned long long)l->number + 1, LINE_BYTES_MAX);
        if (n + 1 >= l->capacity) {
            size_t capacity = l->capacity ? 2 * l->capacity : 4096;
            char *line = realloc(l->line, capacity);
            if (!line)
                return base_fail(err, ERR_NOMEM, "%s: out of memory for a line of %zu bytes", l->path, capacity);
            l->line = line;
            l->capacity = capacity;
        }
        l->line[n++] = (char)c;
    }
    if (ferror(l->file))
        return base_fail_errno(err, "%s", l->path);
    if (c == EOF && n == 0)
        return 0;
    if (!l->line && !(l->line = malloc(l->capacity = 4096)))
        return base_fail(err, ERR_NOMEM, "out of memory");
    if (n && l->line[n - 1] == '\r')
        n--;
    l->line[n] = '\0';
    l->number++;
    *out_line = l->line;
    *out_n = n;
    return 1;
}

void cli_lines_close(struct cli_lines *l)
{
    if (l->file && l->file != stdin)
        fclose(l->file);
    free(l->line);
    *l = (struct cli_lines){0};
}

int cli_read_all(const char *path, struct base_buffer *out, struct base_error *err)
{
    base_buffer_init(out, INPUT_BYTES_MAX);
    if (strcmp(path, "-") != 0)
        return base_file_read(path, INPUT_BYTES_MAX, out, err);
    char block[1 << 16];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stdin)) > 0)
        base_buffer_append(out, block, n);
    if (ferror(stdin))
        return base_fail_errno(err, "stdin");
    if (out->failed)
        return base_fail(err, out->failed, "stdin: more than %u bytes", INPUT_BYTES_MAX);
    return 0;
}
