/* rouse snapshot ls, show, verify, diff: what only looks. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/snapshot_verbs.h"

/* ---- ls ---- */

static void item_marks(const struct snap_admin_item *i, char *out, size_t size)
{
    size_t n = 0;
    const struct {
        bool is;
        const char *word;
    } marks[] = {{i->active, "active"},     {i->weight > 0, "split"}, {i->newest, "newest"},
                 {i->previous, "previous"}, {i->pinned, "pinned"},    {i->held || i->n_uses > 0, "in use"}};
    snprintf(out, size, "-");
    for (size_t k = 0; k < sizeof marks / sizeof marks[0] && n < size; k++) {
        if (!marks[k].is)
            continue;
        n += (size_t)snprintf(out + n, size - n, "%s%s", n ? "," : "", marks[k].word);
        if (marks[k].word[0] == 's' && n < size)
            n += (size_t)snprintf(out + n, size - n, "=%u", i->weight);
    }
}

static int item_json(const struct snap_admin_item *i, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    snapshot_json_begin(&j, &out);
    snapshot_record_json(&i->record, &j);
    base_json_kv_string(&j, "version", i->version);
    base_json_kv_string(&j, "version_of", i->version[0] ? i->name : "");
    base_json_kv_bool(&j, "active", i->active);
    base_json_kv_bool(&j, "newest", i->newest);
    base_json_kv_bool(&j, "previous", i->previous);
    base_json_kv_bool(&j, "pinned", i->pinned);
    base_json_kv_uint(&j, "weight", i->weight);
    base_json_kv_int(&j, "last_used_ms", i->last_used_ms);
    base_json_kv_bool(&j, "in_use", i->held || i->n_uses > 0);
    base_json_kv_uint(&j, "uses_by_redis", i->n_uses);
    base_json_kv_uint(&j, "stored_bytes", i->stored_bytes);
    base_json_object_end(&j);
    return snapshot_json_print(&out, err);
}

static void item_text(const struct snap_admin_item *i)
{
    char used[32], marks[64], ref[SNAP_REF_MAX + 1];
    snapshot_time_text(i->last_used_ms, used);
    item_marks(i, marks, sizeof marks);
    snprintf(ref, sizeof ref, "%s%s%s", i->name, i->version[0] ? "@" : "", i->version);
    printf("%-32s  %-11s  %-22s  %-16s  %10.1f  %-4s  %-16s  %s\n", i->record.id,
           schema_snapshot_state_name(i->record.state), ref, marks, (double)i->record.bytes / 1e6, i->record.dtype,
           i->record.arch, used);
}

static int list(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_admin_item *items = NULL;
    size_t n = 0;
    (void)n_args, (void)args;
    int rc = snap_admin_items(store, &items, &n, err);
    if (rc < 0)
        return rc;
    if (!snapshot_options.json && n)
        printf("%-32s  %-11s  %-22s  %-16s  %10s  %-4s  %-16s  %s\n", "ID", "STATE", "MODEL", "MARKS", "MB", "TYPE",
               "FOR", "LAST USED");
    for (size_t i = 0; rc == 0 && i < n; i++) {
        if (snapshot_options.json)
            rc = item_json(&items[i], err);
        else
            item_text(&items[i]);
    }
    if (!n && !snapshot_options.json)
        fprintf(stderr, "no snapshots in this store; rouse snapshot build --model DIR makes one\n");
    free(items);
    return rc;
}

static const struct base_option store_options[] = {SNAPSHOT_STORE_OPTIONS, CLI_OPTIONS_END};

const struct snapshot_verb snapshot_ls = {
    .name = "ls",
    .synopsis = "[options]",
    .summary = "Lists the snapshots of a store: versions, what is active, split, pinned or in use, last use.",
    .examples = "  rouse snapshot ls --json | jq -r 'select(.active) | .name + \"@\" + .version'\n",
    .options = store_options,
    .run = list,
};

/* ---- show ---- */

static int show(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct gpu_open_options open = cli_open_options(&snapshot_options);
    struct base_buffer out, text;
    struct base_json j;
    (void)n_args;
    int rc = gpu_open(snapshot_options.device, &open, &device, err);
    if (rc < 0)
        return rc;
    base_buffer_init(&out, 64u << 20);
    base_buffer_init(&text, 64u << 20);
    base_json_init(&j, &out);
    rc = snap_admin_show(store, args[0], device, &j, &text, err);
    if (rc == 0)
        puts(base_buffer_cstr(snapshot_options.json ? &out : &text));
    base_buffer_done(&out);
    base_buffer_done(&text);
    gpu_close(device);
    return rc;
}

static const struct base_option show_options[] = {
    CLI_OPTIONS_DEVICE(&snapshot_options),
    SNAPSHOT_STORE_OPTIONS,
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_show = {
    .name = "show",
    .synopsis = "ID|NAME[@VERSION]|FILE [options]",
    .summary = "Prints what a snapshot says of itself, and whether a start on this machine's device would restore it.",
    .examples = "  rouse snapshot show pythia-12b@v3\n"
                "  rouse snapshot show 580a5a77 --device cpu --json | jq .differs_here\n",
    .options = show_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = show,
};

/* ---- verify ---- */

static bool proof;

static int verify(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct gpu_device *device = NULL;
    struct gpu_open_options open = cli_open_options(&snapshot_options);
    uint64_t bytes = 0, began = base_clock_mono_ns();
    (void)n_args;
    int rc = proof ? gpu_open(snapshot_options.device, &open, &device, err) : 0;
    if (rc == 0)
        rc = snap_admin_verify(store, args[0], device, true, &bytes, err);
    double seconds = (double)(base_clock_mono_ns() - began) / 1e9;
    if (rc == 0 && snapshot_options.json)
        printf("{\"ok\":true,\"bytes\":%" PRIu64 ",\"seconds\":%.6f,\"proof\":%s}\n", bytes, seconds,
               proof ? "true" : "false");
    else if (rc == 0)
        printf("ok: %.1f MB in %.2f s (%.2f GB/s)%s\n", (double)bytes / 1e6, seconds, (double)bytes / 1e9 / seconds,
               proof ? ", the proof holds" : "");
    gpu_close(device);
    return rc;
}

static const struct base_option verify_options[] = {
    {"proof", BASE_OPTION_FLAG, &proof, NULL, NULL, NULL, 0, 0, "Verify",
     "Restore it too, and check that it reproduces the builder's tokens and log-probabilities.", false},
    CLI_OPTIONS_DEVICE(&snapshot_options),
    SNAPSHOT_STORE_OPTIONS,
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_verify = {
    .name = "verify",
    .synopsis = "ID|NAME[@VERSION]|FILE [options]",
    .summary = "Reads a whole snapshot and checks every checksum.",
    .examples = "  rouse snapshot verify pythia-12b@v3 --proof\n",
    .options = verify_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = verify,
};

/* ---- diff ---- */

static int diff(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct base_buffer out, text;
    struct base_json j;
    (void)n_args;
    base_buffer_init(&out, 64u << 20);
    base_buffer_init(&text, 64u << 20);
    base_json_init(&j, &out);
    int rc = snap_admin_diff(store, args[0], args[1], &j, &text, err);
    if (rc == 0)
        puts(base_buffer_cstr(snapshot_options.json ? &out : &text));
    base_buffer_done(&out);
    base_buffer_done(&text);
    return rc;
}

const struct snapshot_verb snapshot_diff = {
    .name = "diff",
    .synopsis = "A B [options]     (each ID|NAME[@VERSION]|FILE)",
    .summary = "Compares two snapshots: fingerprints, sections, tensors, and how many bytes they share.",
    .examples = "  rouse snapshot diff pythia-12b@v2 pythia-12b@v3\n",
    .options = store_options,
    .n_args_min = 2,
    .n_args_max = 2,
    .run = diff,
};
