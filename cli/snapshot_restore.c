/* rouse snapshot restore: a start without a worker. */
#include <inttypes.h>

#include "base/trace.h"
#include "cli/snapshot_verbs.h"

static int print_json(const struct schema_snapshot_record *record, const struct restore_plan *plan,
                      const struct base_trace *trace, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    snapshot_json_begin(&j, &out);
    snapshot_record_json(record, &j);
    base_json_kv_string(&j, "plan", restore_way_name(plan->way));
    base_json_kv_bool(&j, "trusted", plan->trusted);
    base_json_kv_string(&j, "reason", plan->reason);
    base_json_key(&j, "trace");
    base_trace_json(trace, &j);
    base_json_object_end(&j);
    return snapshot_json_print(&out, err);
}

static int print_text(const struct schema_snapshot_record *record, const struct base_trace *trace,
                      struct base_error *err)
{
    struct base_buffer text;
    base_buffer_init(&text, 1 << 16);
    base_trace_print(trace, &text);
    int rc = text.failed ? base_fail(err, text.failed, "no room for the trace") : 0;
    if (rc == 0)
        printf("restored %s: %s, %.1f MB\n\n%s", record->id, record->name, (double)record->bytes / 1e6,
               base_buffer_cstr(&text));
    base_buffer_done(&text);
    return rc;
}

static int restore(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct gpu_open_options open = cli_open_options(&snapshot_options);
    struct base_trace *trace = base_trace_new();
    struct schema_snapshot_record record;
    struct restore_plan plan;
    struct snap_admin_restore options = {.node_dir = snapshot_options.node_dir, .trace = trace, .progress = true};
    (void)n_args;
    (void)restore_way_parse(snapshot_options.restore_plan, &options.way); /* one of the option's choices */
    base_trace_begin(trace, BASE_TRACE_DEVICE_OPEN);
    int rc = gpu_open(snapshot_options.device, &open, &options.device, err);
    base_trace_end(trace, BASE_TRACE_DEVICE_OPEN);
    if (rc == 0)
        rc = snap_admin_restore(store, args[0], &options, &record, &plan, err);
    if (rc == 0) {
        base_trace_mark(trace, BASE_TRACE_READY);
        rc = snapshot_options.json ? print_json(&record, &plan, trace, err) : print_text(&record, trace, err);
    }
    gpu_close(options.device);
    base_trace_free(trace);
    return rc;
}

static const struct base_option restore_options[] = {
    CLI_OPTIONS_DEVICE(&snapshot_options),
    CLI_OPTIONS_SNAPSHOT(&snapshot_options),
    CLI_OPTION_JSON(&snapshot_options),
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_restore = {
    .name = "restore",
    .synopsis = "ID|NAME[@VERSION]|FILE [options]",
    .summary = "Restores a snapshot and lets go of it: does it work here, how fast. On a cpu this warms the node.",
    .examples =
        "  rouse snapshot restore pythia-12b@v3\n  rouse snapshot restore pythia-12b --restore-plan stream --json\n",
    .options = restore_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = restore,
};
