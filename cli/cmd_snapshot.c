/* rouse snapshot - the life of snapshots: build, look into, name, collect. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli/commands.h"
#include "cli/snapshot_verbs.h"

struct cli_model_options snapshot_options;

static const struct snapshot_verb *const verbs[] = {
    &snapshot_build, &snapshot_ls,      &snapshot_show,     &snapshot_verify, &snapshot_restore,
    &snapshot_diff,  &snapshot_promote, &snapshot_rollback, &snapshot_split,  &snapshot_pin,
    &snapshot_unpin, &snapshot_rm,      &snapshot_gc,       &snapshot_reindex};
#define N_VERBS (sizeof verbs / sizeof verbs[0])

/* ---- what the verbs share ---- */

void snapshot_json_begin(struct base_json *j, struct base_buffer *out)
{
    base_buffer_init(out, 64u << 20);
    base_json_init(j, out);
    base_json_object_begin(j);
}

int snapshot_json_print(struct base_buffer *out, struct base_error *err)
{
    int rc = out->failed ? base_fail(err, out->failed, "JSON: no room") : 0;
    if (rc == 0)
        puts(base_buffer_cstr(out));
    base_buffer_done(out);
    return rc;
}

void snapshot_record_json(const struct schema_snapshot_record *r, struct base_json *j)
{
    base_json_kv_string(j, "id", r->id);
    base_json_kv_string(j, "state", schema_snapshot_state_name(r->state));
    base_json_kv_string(j, "name", r->name);
    base_json_kv_string(j, "file", r->file);
    base_json_kv_uint(j, "bytes", r->bytes);
    base_json_kv_string(j, "device", r->device);
    base_json_kv_string(j, "arch", r->arch);
    base_json_kv_string(j, "dtype", r->dtype);
    base_json_kv_string(j, "model_digest", r->model_digest);
    base_json_kv_int(j, "created_ms", r->created_ms);
    base_json_kv_string(j, "builder", r->builder);
    if (r->reason[0])
        base_json_kv_string(j, "reason", r->reason);
}

void snapshot_time_text(int64_t unix_ms, char out[32])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm tm;
    strcpy(out, "-");
    if (unix_ms && gmtime_r(&seconds, &tm))
        strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm);
}

/* ---- the command ---- */

static int usage_error(const char *word)
{
    if (word)
        fprintf(stderr, "rouse snapshot: unknown verb '%s'\n", word);
    fprintf(stderr, "usage: rouse snapshot VERB [options]        rouse snapshot VERB --help for a verb's options\n\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(stderr, "  %-9s %s\n", verbs[i]->name, verbs[i]->summary);
    return base_exit_code(ERR_USAGE);
}

static int run_verb(const struct snapshot_verb *verb, int n_args, char **args, struct base_error *err)
{
    struct snap_start_options start;
    struct snap_store *store = NULL;
    if (verb->opens_no_store)
        return verb->run(NULL, n_args, args, err);
    int rc = cli_start_options(&snapshot_options, NULL, &start, err);
    if (rc == 0)
        rc = snap_store_open_with(&start, &store, err);
    if (rc == 0)
        rc = verb->run(store, n_args, args, err);
    snap_store_close(store);
    return rc;
}

int cmd_snapshot(int argc, char **argv)
{
    const struct snapshot_verb *verb = NULL;
    for (size_t i = 0; argc > 1 && i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i]->name) == 0)
            verb = verbs[i];
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage_error(NULL);
        return 0;
    }
    if (!verb)
        return usage_error(argc > 1 ? argv[1] : NULL);

    char command[64], label[32];
    snprintf(command, sizeof command, "rouse snapshot %s", verb->name);
    snprintf(label, sizeof label, "snapshot %s", verb->name);
    struct base_options_usage usage = {
        .command = command, .synopsis = verb->synopsis, .summary = verb->summary, .examples = verb->examples};
    struct base_error err = {0};
    int n_args = 0;
    argc--, argv++;
    int rc = base_options_parse(&usage, verb->options, argc, argv, verb->n_args_max ? &n_args : NULL, &err);
    if (rc == 0 && (n_args < verb->n_args_min || n_args > verb->n_args_max))
        rc = base_fail(&err, ERR_USAGE, "takes %s", verb->synopsis);
    if (rc == 0)
        rc = run_verb(verb, n_args, argv + 1, &err);
    if (rc == 0)
        rc = cli_flush(&err);
    base_options_done(verb->options);
    return rc < 0 ? cli_fail(label, rc, &err) : 0;
}
