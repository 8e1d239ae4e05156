/* rouse snapshot promote, rollback, split, pin, unpin: what a name stands for. */
#include <stdlib.h>
#include <string.h>

#include "cli/snapshot_verbs.h"

static bool force;

static int name_json(const struct snap_name *name, bool changed, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    snapshot_json_begin(&j, &out);
    base_json_kv_string(&j, "name", name->name);
    base_json_kv_bool(&j, "changed", changed);
    base_json_kv_string(&j, "answers", snap_name_route(name, "", NULL, 0)->version);
    base_json_kv_string(&j, "previous", name->previous);
    base_json_kv_uint(&j, "revision", name->revision);
    base_json_key(&j, "versions");
    base_json_array_begin(&j);
    for (uint32_t i = 0; i < name->n_versions; i++) {
        const struct snap_version *v = &name->versions[i];
        base_json_object_begin(&j);
        base_json_kv_string(&j, "version", v->version);
        base_json_kv_string(&j, "model_digest", v->model_digest);
        base_json_kv_int(&j, "created_ms", v->created_ms);
        base_json_kv_bool(&j, "active", v->active);
        base_json_kv_uint(&j, "weight", v->weight);
        base_json_kv_bool(&j, "pinned", v->pinned);
        base_json_object_end(&j);
    }
    base_json_array_end(&j);
    base_json_object_end(&j);
    return snapshot_json_print(&out, err);
}

static bool name_is_split(const struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++) {
        if (name->versions[i].weight)
            return true;
    }
    return false;
}

static void name_text(const struct snap_name *name, bool changed)
{
    const struct snap_version *v = snap_name_route(name, "", NULL, 0);
    printf("%s: ", name->name);
    if (name_is_split(name)) {
        printf("split");
        for (uint32_t i = 0; i < name->n_versions; i++) {
            if (name->versions[i].weight)
                printf(" %s=%u", name->versions[i].version, name->versions[i].weight);
        }
    } else {
        printf("%s %s", v->version, v->active ? "is active" : "answers, the newest: nothing is promoted");
    }
    if (name->previous[0])
        printf("; rollback goes to %s", name->previous);
    for (uint32_t i = 0, n = 0; i < name->n_versions; i++) {
        if (name->versions[i].pinned)
            printf("%s%s", n++ ? ", " : "; pinned: ", name->versions[i].version);
    }
    printf("%s\n", changed ? "" : " (as before)");
}

static int print_name(int rc, const struct snap_name *name, struct base_error *err)
{
    if (rc < 0)
        return rc;
    if (snapshot_options.json)
        return name_json(name, rc > 0, err);
    name_text(name, rc > 0);
    return 0;
}

static int promote(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_name name;
    (void)n_args;
    return print_name(snap_admin_promote(store, args[0], force, &name, err), &name, err);
}

static int rollback(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_name name;
    (void)n_args;
    return print_name(snap_admin_rollback(store, args[0], &name, err), &name, err);
}

static int pin(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_name name;
    (void)n_args;
    return print_name(snap_admin_pin(store, args[0], true, &name, err), &name, err);
}

static int unpin(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_name name;
    (void)n_args;
    return print_name(snap_admin_pin(store, args[0], false, &name, err), &name, err);
}

/* "v3=10". */
static int parse_part(const char *text, struct snap_split *out, struct base_error *err)
{
    size_t n = strcspn(text, "=");
    char *end = NULL;
    if (text[n] != '=' || n == 0 || n > SNAP_VERSION_MAX || text[n + 1] < '0' || text[n + 1] > '9')
        return base_fail(err, ERR_USAGE, "'%.80s' is not VERSION=WEIGHT, a weight being a number from 0 to %d", text,
                         SNAP_WEIGHT_MAX);
    unsigned long weight = strtoul(text + n + 1, &end, 10);
    if (*end || weight > SNAP_WEIGHT_MAX)
        return base_fail(err, ERR_USAGE, "'%.80s': a weight is a number from 0 to %d", text, SNAP_WEIGHT_MAX);
    snprintf(out->version, sizeof(out->version), "%.*s", (int)n, text);
    out->weight = (uint32_t)weight;
    return 0;
}

static int split(struct snap_store *store, int n_args, char **args, struct base_error *err)
{
    struct snap_split parts[SNAP_VERSIONS_MAX];
    struct snap_name name;
    size_t n = 0;
    bool off = n_args == 2 && strcmp(args[1], "off") == 0;
    for (int i = 1; !off && i < n_args; i++, n++) {
        int rc = parse_part(args[i], &parts[n], err);
        if (rc < 0)
            return rc;
    }
    return print_name(snap_admin_split(store, args[0], parts, n, &name, err), &name, err);
}

static const struct base_option promote_options[] = {
    {"force", BASE_OPTION_FLAG, &force, NULL, NULL, NULL, 0, 0, "Name",
     "Even when the store has no snapshot of that version: workers without the model's directory will not start.",
     false},
    SNAPSHOT_STORE_OPTIONS,
    CLI_OPTIONS_END,
};
static const struct base_option store_options[] = {SNAPSHOT_STORE_OPTIONS, CLI_OPTIONS_END};

const struct snapshot_verb snapshot_promote = {
    .name = "promote",
    .synopsis = "NAME@VERSION [options]",
    .summary = "Makes a version the active one: NAME means it from now on. A split ends.",
    .examples = "  rouse snapshot promote pythia-12b@v3\n",
    .options = promote_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = promote,
};

const struct snapshot_verb snapshot_rollback = {
    .name = "rollback",
    .synopsis = "NAME [options]",
    .summary = "Undoes the last step: a split ends, or else the version that was active before is active again.",
    .examples = "  rouse snapshot rollback pythia-12b\n",
    .options = store_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = rollback,
};

const struct snapshot_verb snapshot_split = {
    .name = "split",
    .synopsis = "NAME VERSION=WEIGHT... | NAME off [options]",
    .summary = "Divides requests between versions by weight; the same key always gets the same version.",
    .examples = "  rouse snapshot split pythia-12b v2=90 v3=10     # a tenth of the keys to v3\n"
                "  rouse snapshot split pythia-12b off\n",
    .options = store_options,
    .n_args_min = 2,
    .n_args_max = SNAP_VERSIONS_MAX,
    .run = split,
};

const struct snapshot_verb snapshot_pin = {
    .name = "pin",
    .synopsis = "NAME@VERSION [options]",
    .summary = "Keeps a version's snapshots from collection.",
    .examples = "  rouse snapshot pin pythia-12b@v1\n",
    .options = store_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = pin,
};

const struct snapshot_verb snapshot_unpin = {
    .name = "unpin",
    .synopsis = "NAME@VERSION [options]",
    .summary = "Lets collection have a version's snapshots again.",
    .examples = "  rouse snapshot unpin pythia-12b@v1\n",
    .options = store_options,
    .n_args_min = 1,
    .n_args_max = 1,
    .run = unpin,
};
