/* rouse snapshot build, reindex: what makes something. */
#include <string.h>

#include "base/clock.h"
#include "cli/snapshot_verbs.h"

static struct snap_admin_build how;
static const char *kind;

static int print_built(const struct snap_admin_built *b, double seconds, struct base_error *err)
{
    const struct schema_snapshot_record *r = &b->record;
    struct base_buffer out;
    struct base_json j;
    if (!snapshot_options.json) {
        printf("%s %s: %s%s%s, %.1f MB, %s %s %s, %.2f s%s\n", b->built ? "built" : "already there", r->id, r->name,
               b->version[0] ? "@" : "", b->version, (double)r->bytes / 1e6, r->device, r->arch, r->dtype, seconds,
               b->promoted ? ", active" : "");
        return 0;
    }
    snapshot_json_begin(&j, &out);
    snapshot_record_json(r, &j);
    base_json_kv_string(&j, "version", b->version);
    base_json_kv_bool(&j, "built", b->built);
    base_json_kv_bool(&j, "promoted", b->promoted);
    base_json_kv_double(&j, "seconds", seconds, 6);
    base_json_object_end(&j);
    return snapshot_json_print(&out, err);
}

static int build(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct snap_start_options start;
    struct gpu_open_options open = cli_open_options(&snapshot_options);
    struct snap_admin_built built;
    (void)store, (void)n_args, (void)args;
    int rc = cli_start_options(&snapshot_options, NULL, &start, err);
    if (rc == 0)
        rc = strcmp(kind, "host") == 0 ? gpu_open_planner(snapshot_options.device, &open, &device, err)
                                       : gpu_open(snapshot_options.device, &open, &device, err);
    uint64_t began = base_clock_mono_ns();
    if (rc == 0)
        rc = snap_admin_build(device, &start, &how, &built, err);
    if (rc == 0)
        rc = print_built(&built, (double)(base_clock_mono_ns() - began) / 1e9, err);
    gpu_close(device);
    return rc;
}

static const struct base_option build_options[] = {
    CLI_OPTIONS_MODEL(&snapshot_options),
    CLI_OPTIONS_DEVICE(&snapshot_options),
    CLI_OPTIONS_SNAPSHOT(&snapshot_options),
    {"kind", BASE_OPTION_CHOICE, &kind, "KIND", "device", "device|host", 0, 0, "Snapshot",
     "device: taken on the device itself, complete. host: for any card of --device cuda, built where there is none; "
     "the "
     "first worker on a card finishes it.",
     false},
    {"force", BASE_OPTION_FLAG, &how.force, NULL, NULL, NULL, 0, 0, "Snapshot", "Build it anew even when it is there.",
     false},
    {"version", BASE_OPTION_STRING, &how.word, "WORD", NULL, NULL, 0, 0, "Name",
     "What this model is called as a version of its name. Default: the next of v1, v2, ...; a model that is a version "
     "already stays that one.",
     false},
    {"promote", BASE_OPTION_FLAG, &how.promote, NULL, NULL, NULL, 0, 0, "Name",
     "Make that version the active one. Without it, a build never changes what an active version answers.", false},
    CLI_OPTION_JSON(&snapshot_options),
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_build = {
    .name = "build",
    .synopsis = "--model DIR [options]",
    .summary = "Loads a model and writes its snapshot, unless the store has it.",
    .examples = "  rouse snapshot build --model models/pythia-12b --dtype f16\n"
                "  rouse snapshot build --model models/pythia-12b --version 2026-11 --promote\n"
                "  rouse snapshot build --model models/pythia-12b --device cuda --kind host\n",
    .options = build_options,
    .opens_no_store = true,
    .run = build,
};

/* ---- reindex ---- */

static int reindex(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_admin_reindexed r;
    (void)n_args, (void)args;
    int rc = snap_admin_reindex(store, true, &r, err);
    if (rc == 0 && snapshot_options.json)
        printf("{\"snapshots\":%u,\"names\":%u,\"versions_added\":%u,\"unreadable\":%u}\n", r.n_snapshots, r.n_names,
               r.n_versions, r.n_unreadable);
    else if (rc == 0)
        printf("%u snapshots indexed, %u names told, %u versions added%s", r.n_snapshots, r.n_names, r.n_versions,
               r.n_unreadable ? "" : "\n");
    if (rc == 0 && !snapshot_options.json && r.n_unreadable)
        printf("; %u files cannot be read as snapshots\n", r.n_unreadable);
    return rc;
}

static const struct base_option reindex_options[] = {SNAPSHOT_STORE_OPTIONS, CLI_OPTIONS_END};

const struct snapshot_verb snapshot_reindex = {
    .name = "reindex",
    .synopsis = "[options]",
    .summary = "Makes the index (Redis and files) again from the store's snapshots and names.",
    .examples = "  rouse snapshot reindex --store /store --redis redis://redis:6379     # after Redis lost its data\n",
    .options = reindex_options,
    .run = reindex,
};
