/* snapshot_verbs - `rouse snapshot VERB`: a row for each verb, which lies with its function in snapshot_<group>.c. cmd_snapshot.c holds
 * the table. */
#ifndef ROUSE_CLI_SNAPSHOT_VERBS_H
#define ROUSE_CLI_SNAPSHOT_VERBS_H

#include "base/json_writer.h"
#include "cli/cli.h"
#include "snapshot/admin.h"

struct snapshot_verb {
    const char *name, *synopsis, *summary, *examples;
    const struct base_option *options;
    int n_args_min, n_args_max;
    bool opens_no_store; /* store is NULL */
    int (*run)(struct snap_store *store, int n_args, char **args, struct base_error *err);
};

extern const struct snapshot_verb snapshot_build, snapshot_ls, snapshot_show, snapshot_verify, snapshot_restore,
    snapshot_diff, snapshot_promote, snapshot_rollback, snapshot_split, snapshot_pin, snapshot_unpin, snapshot_rm,
    snapshot_gc, snapshot_reindex;

extern struct cli_model_options snapshot_options; /* what any verb's table fills in */

/* One object a line; the buffer is the caller's, begun by snapshot_json_begin. */
void snapshot_json_begin(struct base_json *j, struct base_buffer *out);
int snapshot_json_print(struct base_buffer *out, struct base_error *err);

/* The members of a record, without the braces. */
void snapshot_record_json(const struct schema_snapshot_record *r, struct base_json *j);
void snapshot_time_text(int64_t unix_ms, char out[32]); /* "-" for 0 */

#define SNAPSHOT_STORE_OPTIONS                                                                                         \
    CLI_OPTIONS_STORE(&snapshot_options), CLI_OPTION_REDIS(&snapshot_options), CLI_OPTION_JSON(&snapshot_options)

#endif
