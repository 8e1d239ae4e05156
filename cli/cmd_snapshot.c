/* rouse snapshot - build, list, look into, verify and remove snapshots. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "snapshot/admin.h"

static struct cli_model_options model_options;
static bool force, proof;
static const char *kind;

#define STORE_OPTIONS                                                                                                  \
    {"store",                                                                                                          \
     BASE_OPTION_STRING,                                                                                               \
     &model_options.store,                                                                                             \
     "DIR",                                                                                                            \
     NULL,                                                                                                             \
     NULL,                                                                                                             \
     0,                                                                                                                \
     0,                                                                                                                \
     "Snapshot",                                                                                                       \
     "Where snapshots live. Default: $XDG_CACHE_HOME/rouse, else ~/.cache/rouse.",                                     \
     false},                                                                                                           \
        {"redis",                                                                                                      \
         BASE_OPTION_STRING,                                                                                           \
         &model_options.redis,                                                                                         \
         "URL",                                                                                                        \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         "Snapshot",                                                                                                   \
         "redis://[user:password@]host[:port][/db]: the index that workers share.",                                    \
         false},                                                                                                       \
        CLI_OPTION_JSON(&model_options)

static int open_store(struct snap_store **out_store, struct base_error *err)
{
    struct snap_start_options start;
    int rc = cli_start_options(&model_options, NULL, &start, err);
    return rc < 0 ? rc : snap_store_open(start.store, start.redis, out_store, err);
}

static void record_json(const struct schema_snapshot_record *r, struct base_json *j)
{
    base_json_object_begin(j);
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
    base_json_object_end(j);
}

static void print_record_json(const struct schema_snapshot_record *r)
{
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1 << 20);
    base_json_init(&j, &out);
    record_json(r, &j);
    printf("%s\n", base_buffer_cstr(&out));
    base_buffer_done(&out);
}

static int build(struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct snap_start_options start;
    struct gpu_open_options open = cli_open_options(&model_options);
    struct schema_snapshot_record record = {0};
    bool built = false;
    int rc = cli_start_options(&model_options, NULL, &start, err);
    if (rc == 0)
        rc = strcmp(kind, "host") == 0 ? gpu_open_planner(model_options.device, &open, &device, err)
                                       : gpu_open(model_options.device, &open, &device, err);
    if (rc == 0) {
        uint64_t began = base_clock_mono_ns();
        rc = snap_admin_build(device, &start, force, &record, &built, err);
        if (rc == 0 && model_options.json)
            print_record_json(&record);
        else if (rc == 0)
            printf("%s %s: %s, %.1f MB, %s %s %s, %.2f s\n", built ? "built" : "already there", record.id, record.name,
                   (double)record.bytes / 1e6, record.device, record.arch, record.dtype,
                   (double)(base_clock_mono_ns() - began) / 1e9);
    }
    gpu_close(device);
    return rc;
}

static int list(struct snap_store *store, struct base_error *err)
{
    struct schema_snapshot_record *records = NULL;
    size_t n = 0;
    int rc = snap_admin_list(store, &records, &n, err);
    if (rc < 0)
        return rc;
    if (!model_options.json && n)
        printf("%-32s  %-11s  %-20s  %10s  %-4s  %-16s  %s\n", "ID", "STATE", "MODEL", "MB", "TYPE", "FOR", "CREATED");
    for (size_t i = 0; i < n; i++) {
        const struct schema_snapshot_record *r = &records[i];
        if (model_options.json) {
            print_record_json(r);
            continue;
        }
        char when[32] = "-";
        time_t seconds = (time_t)(r->created_ms / 1000);
        struct tm tm;
        if (r->created_ms && gmtime_r(&seconds, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%SZ", &tm);
        printf("%-32s  %-11s  %-20s  %10.1f  %-4s  %-16s  %s\n", r->id, schema_snapshot_state_name(r->state), r->name,
               (double)r->bytes / 1e6, r->dtype, r->arch, when);
    }
    if (!n && !model_options.json)
        fprintf(stderr, "no snapshots in this store; rouse snapshot build --model DIR makes one\n");
    free(records);
    return 0;
}

static int show(struct snap_store *store, const char *which, struct base_error *err)
{
    struct base_buffer out, text;
    struct base_json j;
    base_buffer_init(&out, 64u << 20);
    base_buffer_init(&text, 64u << 20);
    base_json_init(&j, &out);
    int rc = snap_admin_show(store, which, &j, &text, err);
    if (rc == 0)
        puts(base_buffer_cstr(model_options.json ? &out : &text));
    base_buffer_done(&out);
    base_buffer_done(&text);
    return rc;
}

static int verify(struct snap_store *store, const char *which, struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct gpu_open_options open = cli_open_options(&model_options);
    uint64_t bytes = 0, began = base_clock_mono_ns();
    int rc = proof ? gpu_open(model_options.device, &open, &device, err) : 0;
    if (rc == 0)
        rc = snap_admin_verify(store, which, device, true, &bytes, err);
    double seconds = (double)(base_clock_mono_ns() - began) / 1e9;
    if (rc == 0 && model_options.json)
        printf("{\"ok\":true,\"bytes\":%" PRIu64 ",\"seconds\":%.6f,\"proof\":%s}\n", bytes, seconds,
               proof ? "true" : "false");
    else if (rc == 0)
        printf("ok: %.1f MB in %.2f s (%.2f GB/s)%s\n", (double)bytes / 1e6, seconds, (double)bytes / 1e9 / seconds,
               proof ? ", the proof holds" : "");
    gpu_close(device);
    return rc;
}

static int remove_one(struct snap_store *store, const char *which, struct base_error *err)
{
    struct schema_snapshot_record record = {0};
    int rc = snap_admin_remove(store, which, &record, err);
    if (rc == 0 && model_options.json)
        print_record_json(&record);
    else if (rc == 0)
        printf("removed %s (%s, %.1f MB)\n", record.id, record.name, (double)record.bytes / 1e6);
    return rc;
}

static const struct base_option build_options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    {"kind", BASE_OPTION_CHOICE, &kind, "KIND", "device", "device|host", 0, 0, "Snapshot",
     "device: taken on the device itself, complete. host: for any card of --device cuda, built where there is none; "
     "the "
     "first worker on a card finishes it.",
     false},
    {"force", BASE_OPTION_FLAG, &force, NULL, NULL, NULL, 0, 0, "Snapshot", "Build it anew even when it is there.",
     false},
    CLI_OPTION_JSON(&model_options),
    CLI_OPTIONS_END,
};
static const struct base_option store_options[] = {STORE_OPTIONS, CLI_OPTIONS_END};
static const struct base_option verify_options[] = {
    {"proof", BASE_OPTION_FLAG, &proof, NULL, NULL, NULL, 0, 0, "Verify",
     "Restore it too, and check that it reproduces the builder's tokens and log-probabilities.", false},
    CLI_OPTIONS_DEVICE(&model_options),
    STORE_OPTIONS,
    CLI_OPTIONS_END,
};

static const struct verb {
    const char *name, *synopsis, *summary;
    const struct base_option *options;
    bool takes_which;
} verbs[] = {
    {"build", "--model DIR [options]", "Loads a model and writes its snapshot, unless the store has it.", build_options,
     false},
    {"ls", "[options]", "Lists the snapshots of a store.", store_options, false},
    {"show", "ID|NAME|FILE [options]", "Prints what a snapshot says of itself: fingerprint, sections, tensors.",
     store_options, true},
    {"verify", "ID|NAME|FILE [options]", "Reads a whole snapshot and checks every checksum.", verify_options, true},
    {"rm", "ID|NAME [options]", "Removes a snapshot: from the index, then the file.", store_options, true},
};
#define N_VERBS (sizeof verbs / sizeof verbs[0])

static int usage_error(const char *word)
{
    if (word)
        fprintf(stderr, "rouse snapshot: unknown verb '%s'\n", word);
    fprintf(stderr, "usage: rouse snapshot VERB [options]        rouse snapshot VERB --help for a verb's options\n\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(stderr, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
    return base_exit_code(ERR_USAGE);
}

static int run_verb(const struct verb *verb, const char *which, struct base_error *err)
{
    if (strcmp(verb->name, "build") == 0)
        return build(err);
    struct snap_store *store = NULL;
    int rc = open_store(&store, err);
    if (rc < 0)
        return rc;
    if (strcmp(verb->name, "ls") == 0)
        rc = list(store, err);
    else if (strcmp(verb->name, "show") == 0)
        rc = show(store, which, err);
    else if (strcmp(verb->name, "verify") == 0)
        rc = verify(store, which, err);
    else
        rc = remove_one(store, which, err);
    snap_store_close(store);
    return rc;
}

int cmd_snapshot(int argc, char **argv)
{
    const struct verb *verb = NULL;
    for (size_t i = 0; argc > 1 && i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            verb = &verbs[i];
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage_error(NULL);
        return 0;
    }
    if (!verb)
        return usage_error(argc > 1 ? argv[1] : NULL);

    char command[64], label[32];
    snprintf(command, sizeof command, "rouse snapshot %s", verb->name);
    snprintf(label, sizeof label, "snapshot %s", verb->name);
    struct base_options_usage usage = {.command = command, .synopsis = verb->synopsis, .summary = verb->summary};
    struct base_error err = {0};
    int n_args = 0;
    argc--, argv++;
    int rc = base_options_parse(&usage, verb->options, argc, argv, verb->takes_which ? &n_args : NULL, &err);
    if (rc == 0 && verb->takes_which && n_args != 1)
        rc = base_fail(&err, ERR_USAGE, "takes one snapshot: %s", verb->synopsis);
    if (rc == 0)
        rc = run_verb(verb, verb->takes_which ? argv[1] : NULL, &err);
    base_options_done(verb->options);
    return rc < 0 ? cli_fail(label, rc, &err) : 0;
}
