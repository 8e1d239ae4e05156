/* rouse - the one binary. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/options.h"
#include "cli/cli.h"
#include "cli/commands.h"

#ifndef ROUSE_VERSION
#define ROUSE_VERSION "unknown"
#endif

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"worker", cmd_worker, "run one worker: prompts from Kafka, completions back"},
    {"generate", cmd_generate, "prompts to completions, without Kafka"},
    {"produce", cmd_produce, "lines of text or JSON to prompt batches on a topic"},
    {"consume", cmd_consume, "completions from a topic to stdout"},
    {"dlq", cmd_dlq, "dead letters: ls show replay purge"},
    {"snapshot", cmd_snapshot, "build ls show verify diff promote rollback split pin unpin rm gc reindex"},
    {"tokenize", cmd_tokenize, "text to token ids, and back"},
    {"eval", cmd_eval, "perplexity of a text; logits as .npy"},
    {"bench", cmd_bench, "starts from a snapshot against the limits of disk and memory"},
    {"demo", cmd_demo, "all of it at once: a broker, a worker started from a snapshot, prompts and completions"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void print_help(FILE *out)
{
    fputs("rouse - a Kafka worker pool for Pythia / GPT-NeoX models that starts from memory snapshots\n\n"
          "usage: rouse COMMAND [options]        rouse COMMAND --help for a command's options\n\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\nEvery option can be an environment variable: --step-tokens is ROUSE_STEP_TOKENS.\n"
          "ROUSE_LOG=debug|info|warn|error|off sets the log level, ROUSE_LOG_FORMAT=text|json its form.\n"
          "Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 a service is missing.\n",
          out);
}

/* The position of word in "a|b|c", or -1. */
static int choice_of(const char *word, const char *choices)
{
    int i = 0;
    for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL, i++) {
        size_t n = strcspn(at, "|");
        if (strlen(word) == n && memcmp(word, at, n) == 0)
            return i;
    }
    return -1;
}

static int setup_log(void)
{
    const char *level = getenv("ROUSE_LOG"), *format = getenv("ROUSE_LOG_FORMAT");
    int l = level && *level ? choice_of(level, "debug|info|warn|error|off") : BASE_LOG_INFO;
    int f = format && *format ? choice_of(format, "text|json") : BASE_LOG_TEXT;
    if (l < 0 || f < 0) {
        fprintf(stderr, "rouse: %s is '%s'; it must be %s\n", l < 0 ? "ROUSE_LOG" : "ROUSE_LOG_FORMAT",
                l < 0 ? level : format, l < 0 ? "debug, info, warn, error or off" : "text or json");
        return -1;
    }
    cli_log_level = (enum base_log_level)l;
    base_log_setup(cli_log_level, (enum base_log_format)f);
    return 0;
}

/* A result that could not be written is not a success. */
static int end(const char *command, int code)
{
    struct base_error err = {0};
    int rc = cli_flush(&err);
    return rc < 0 && code == 0 ? cli_fail(command, rc, &err) : code;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_help(stderr);
        return base_exit_code(ERR_USAGE);
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "version") || !strcmp(argv[1], "--version")) {
        puts("rouse " ROUSE_VERSION);
        return 0;
    }
    if (setup_log() < 0)
        return base_exit_code(ERR_USAGE);
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return end(commands[i].name, commands[i].run(argc - 1, argv + 1));

    const char *names[N_COMMANDS + 1] = {NULL};
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i].name;
    const char *near = base_options_nearest(argv[1], names);
    fprintf(stderr, "rouse: unknown command '%s'%s%s%s; rouse help lists them\n", argv[1],
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return base_exit_code(ERR_USAGE);
}
