/* rouse snapshot rm, gc: what removes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/snapshot_verbs.h"
#include "snapshot/collect.h"

/* ---- rm ---- */

static bool force;

static int remove_one(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct schema_snapshot_record record = {0};
    struct base_buffer out;
    struct base_json j;
    (void)n_args;
    int rc = snap_admin_remove(store, args[0], force, &record, err);
    if (rc < 0)
        return rc;
    if (!snapshot_options.json) {
        printf("removed %s (%s, %.1f MB)\n", record.id, record.name, (double)record.bytes / 1e6);
        return 0;
    }
    snapshot_json_begin(&j, &out);
    snapshot_record_json(&record, &j);
    base_json_object_end(&j);
    return snapshot_json_print(&out, err);
}

static const struct base_option rm_options[] = {
    {"force", BASE_OPTION_FLAG, &force, NULL, NULL, NULL, 0, 0, "Snapshot",
     "Even when its version is active, split, pinned or what rollback goes to, or a process uses it. A running process "
     "goes on; one that slept wakes from the model's directory.",
     false},
    SNAPSHOT_STORE_OPTIONS,
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_rm = {
    .name = "rm",
    .synopsis = "ID|NAME[@VERSION] [options]",
    .summary = "Removes one snapshot: from the index, then the file. Its version stays known.",
    .examples = "  rouse snapshot rm 580a5a77\n",
    .options = rm_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = remove_one,
};

/* ---- gc ---- */

static uint64_t max_bytes, keep_versions;
static const char *max_age, *quarantine_age, *grace;
static bool dry_run;

/* "30s", "15m", "12h", "7d". NULL is 0. */
static int parse_duration(const char *option, const char *text, int64_t *out_s, struct base_error *err)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    *out_s = 0;
    if (!text)
        return 0;
    size_t n = strspn(text, "0123456789");
    for (size_t i = 0; n > 0 && n < 8 && i < sizeof units / sizeof units[0]; i++) {
        if (text[n] == units[i].unit && text[n + 1] == '\0') {
            *out_s = strtol(text, NULL, 10) * units[i].seconds;
            return 0;
        }
    }
    return base_fail(err, ERR_USAGE, "%s '%.40s': a time is a number of at most 7 digits and s, m, h or d: 30m, 7d",
                     option, text);
}

static int collect_json(const struct snap_collected *c)
{
    struct base_buffer out;
    struct base_json j;
    snapshot_json_begin(&j, &out);
    base_json_kv_string(&j, "action", c->what);
    base_json_kv_string(&j, "file", c->file);
    base_json_kv_string(&j, "reason", c->reason);
    base_json_kv_uint(&j, "stored_bytes", c->bytes);
    if (c->item) {
        base_json_kv_string(&j, "id", c->item->record.id);
        base_json_kv_string(&j, "state", schema_snapshot_state_name(c->item->record.state));
        base_json_kv_string(&j, "name", c->item->name);
        base_json_kv_string(&j, "version", c->item->version);
        base_json_kv_int(&j, "last_used_ms", c->item->last_used_ms);
    }
    base_json_kv_bool(&j, "dry_run", dry_run);
    base_json_object_end(&j);
    return snapshot_json_print(&out, NULL);
}

static void collect_visit(void *context, const struct snap_collected *c)
{
    char used[32] = "", ref[SNAP_REF_MAX + 1] = "";
    (void)context;
    if (snapshot_options.json) {
        (void)collect_json(c); /* out of memory for a line: the sum at the end still comes */
        return;
    }
    if (c->item) {
        snprintf(ref, sizeof ref, "%s%s%s", c->item->name, c->item->version[0] ? "@" : "", c->item->version);
        snapshot_time_text(c->item->last_used_ms, used);
    }
    printf("%-9s  %-32.32s  %-22s  %10.1f MB  %s%s%s%s\n", c->what, c->item ? c->item->record.id : c->file, ref,
           (double)c->bytes / 1e6, c->reason, used[0] ? " (last used " : "", used, used[0] ? ")" : "");
}

static void print_sum(const struct snap_collect_sum *s)
{
    if (snapshot_options.json) {
        printf("{\"action\":\"sum\",\"removed\":%u,\"leftovers\":%u,\"kept\":%u,\"freed_bytes\":%" PRIu64
               ",\"left_bytes\":%" PRIu64 ",\"over_bytes\":%" PRIu64 ",\"dry_run\":%s}\n",
               s->n_removed, s->n_leftovers, s->n_kept, s->freed_bytes, s->left_bytes, s->over_bytes,
               dry_run ? "true" : "false");
        return;
    }
    printf("%s %u snapshots and %u leftovers, %.1f MB; %u snapshots stay, %.1f MB\n",
           dry_run ? "would remove" : "removed", s->n_removed, s->n_leftovers, (double)s->freed_bytes / 1e6, s->n_kept,
           (double)s->left_bytes / 1e6);
    if (s->over_bytes)
        printf("still %.1f MB over --max-bytes: all that is left has a reason to stay\n", (double)s->over_bytes / 1e6);
}

static int collect(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_collect how = {.max_bytes = max_bytes, .keep_versions = (uint32_t)keep_versions, .dry_run = dry_run};
    struct snap_collect_sum sum;
    (void)n_args, (void)args;
    int rc = parse_duration("--max-age", max_age, &how.max_age_s, err);
    if (rc == 0)
        rc = parse_duration("--quarantine-age", quarantine_age, &how.quarantine_age_s, err);
    if (rc == 0)
        rc = parse_duration("--grace", grace, &how.grace_s, err);
    if (rc == 0)
        rc = snap_collect_run(store, &how, collect_visit, NULL, &sum, err);
    if (rc == 0)
        print_sum(&sum);
    return rc;
}

static const struct base_option gc_options[] = {
    {"max-bytes", BASE_OPTION_UINT, &max_bytes, "BYTES", "0", NULL, 0, 0, "Bounds",
     "Remove the least recently used snapshots until the store holds no more than this on disk. 0: no bound.", false},
    {"max-age", BASE_OPTION_STRING, &max_age, "TIME", NULL, NULL, 0, 0, "Bounds",
     "Remove snapshots that were not used for this long: 12h, 30d. Default: no bound.", false},
    {"keep", BASE_OPTION_UINT, &keep_versions, "N", "0", NULL, 0, 64, "Bounds",
     "Remove snapshots of versions older than the N newest of their name, and keep those N whatever the other bounds. "
     "0: "
     "no rule.",
     false},
    {"quarantine-age", BASE_OPTION_STRING, &quarantine_age, "TIME", "7d", NULL, 0, 0, "Bounds",
     "Remove quarantined snapshots this long after they were set aside.", false},
    {"grace", BASE_OPTION_STRING, &grace, "TIME", "2m", NULL, 0, 0, "Bounds",
     "What was made or last used within this stays: a start on another machine may be reading it. What a process "
     "holds, "
     "the active version, those of a split, what rollback goes to and pins stay in any case.",
     false},
    {"dry-run", BASE_OPTION_FLAG, &dry_run, NULL, NULL, NULL, 0, 0, "Bounds",
     "Say what would be removed; remove nothing.", false},
    SNAPSHOT_STORE_OPTIONS,
    CLI_OPTIONS_END,
};

const struct snapshot_verb snapshot_gc = {
    .name = "gc",
    .synopsis = "[--max-bytes BYTES] [--max-age TIME] [--keep N] [--dry-run] [options]",
    .summary = "Removes leftovers and what is beyond the bounds, least recently used first; never what is needed.",
    .examples = "  rouse snapshot gc --dry-run --max-bytes 200G\n"
                "  rouse snapshot gc --keep 3 --max-age 30d --json\n",
    .options = gc_options,
    .run = collect,
};
