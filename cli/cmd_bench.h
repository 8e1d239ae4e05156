/* cmd_bench - the verbs of `rouse bench`: each a file, an option table and a function that runs when its options are parsed. */
#ifndef ROUSE_CLI_CMD_BENCH_H
#define ROUSE_CLI_CMD_BENCH_H

#include "base/error.h"
#include "base/options.h"
#include "base/trace.h"

extern const struct base_options_usage cmd_bench_start_usage, cmd_bench_restore_usage, cmd_bench_reader_usage,
    cmd_bench_limits_usage, cmd_bench_queue_usage;
extern const struct base_option cmd_bench_start_options[], cmd_bench_restore_options[], cmd_bench_reader_options[],
    cmd_bench_limits_options[], cmd_bench_queue_options[];

/* trace: of this process, options parsed. */
int cmd_bench_start(struct base_error *err, struct base_trace *trace);
int cmd_bench_restore(struct base_error *err, struct base_trace *trace);
int cmd_bench_limits(struct base_error *err, struct base_trace *trace);
int cmd_bench_queue(struct base_error *err, struct base_trace *trace);
int cmd_bench_reader(struct base_error *err, struct base_trace *trace);

#endif
