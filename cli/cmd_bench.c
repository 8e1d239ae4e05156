/* rouse bench - figures beside the limits of this machine, measured in the same minutes. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/cmd_bench.h"
#include "cli/commands.h"

static const struct verb {
    const char *name, *summary;
    const struct base_options_usage *usage;
    const struct base_option *options;
    int (*run)(struct base_error *err, struct base_trace *trace);
} verbs[] = {
    {"restore", "starts from a snapshot, cold and cached, against disk and memory", &cmd_bench_restore_usage,
     cmd_bench_restore_options, cmd_bench_restore},
    {"reader", "a snapshot file through the program's own reader, against the disk", &cmd_bench_reader_usage,
     cmd_bench_reader_options, cmd_bench_reader},
    {"limits", "what bounds a restore of a file on this machine, once", &cmd_bench_limits_usage,
     cmd_bench_limits_options, cmd_bench_limits},
    {"queue", "prompts a second through Kafka with a model that answers at once", &cmd_bench_queue_usage,
     cmd_bench_queue_options, cmd_bench_queue},
    {"start", "one start, measured from within: what restore runs in fresh processes", &cmd_bench_start_usage,
     cmd_bench_start_options, cmd_bench_start},
};
#define N_VERBS (sizeof verbs / sizeof verbs[0])

static void print_help(FILE *out)
{
    fprintf(out, "usage: rouse bench VERB [options]        rouse bench VERB --help for a verb's options\n\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
}

static int usage_error(const char *word)
{
    const char *names[N_VERBS + 1] = {NULL};
    for (size_t i = 0; i < N_VERBS; i++)
        names[i] = verbs[i].name;
    const char *near = word ? base_options_nearest(word, names) : NULL;
    if (word)
        fprintf(stderr, "rouse bench: unknown verb '%s'%s%s%s\n", word, near ? "; did you mean '" : "",
                near ? near : "", near ? "'?" : "");
    print_help(stderr);
    return base_exit_code(ERR_USAGE);
}

int cmd_bench(int argc, char **argv)
{
    const struct verb *verb = NULL;
    for (size_t i = 0; argc > 1 && i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            verb = &verbs[i];
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help(stdout);
        return 0;
    }
    if (!verb)
        return usage_error(argc > 1 ? argv[1] : NULL);

    char label[32];
    struct base_error err = {0};
    struct base_trace *trace = base_trace_new();
    snprintf(label, sizeof label, "bench %s", verb->name);
    base_trace_begin(trace, BASE_TRACE_CONFIG);
    int rc = base_options_parse(verb->usage, verb->options, argc - 1, argv + 1, NULL, &err);
    base_trace_end(trace, BASE_TRACE_CONFIG);
    if (rc == 0)
        rc = verb->run(&err, trace);
    base_options_done(verb->options);
    base_trace_free(trace);
    return rc < 0 ? cli_fail(label, rc, &err) : 0;
}
