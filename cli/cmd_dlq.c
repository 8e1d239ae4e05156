/* rouse dlq - dead letters: what there is, what each says, putting them back, deleting them. */
#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/dlq_verbs.h"

struct dlq_common dlq_common;
_Atomic bool dlq_stop;

static const struct dlq_verb *const verbs[] = {&dlq_ls, &dlq_show, &dlq_replay, &dlq_purge};
#define N_VERBS (sizeof verbs / sizeof verbs[0])

static int usage_error(const char *word)
{
    FILE *out = word ? stderr : stdout;
    if (word && word[0])
        fprintf(out, "rouse dlq: unknown verb '%s'\n", word);
    fprintf(out, "usage: rouse dlq VERB [options]        rouse dlq VERB --help for a verb's options\n\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(out, "  %-7s %s\n", verbs[i]->name, verbs[i]->summary);
    return base_exit_code(ERR_USAGE);
}

static void on_signal(int number)
{
    (void)number;
    dlq_stop = true;
}

/* A worker's environment, in whose pod this may run, sets ROUSE_MODEL, ROUSE_GROUP and more: where the brokers are is as true here, but
 * it must not choose letters, or how they are sent. */
static void forget_environment(const struct base_option *options)
{
    for (; options->name; options++) {
        char name[64] = "ROUSE_";
        for (size_t i = 0; options->name[i] && i + 7 < sizeof name; i++)
            name[6 + i] = options->name[i] == '-' ? '_' : (char)toupper((unsigned char)options->name[i]);
        if (strcmp(options->group, "Kafka") != 0)
            unsetenv(name);
    }
}

int cmd_dlq(int argc, char **argv)
{
    const struct dlq_verb *verb = NULL;
    for (size_t i = 0; argc > 1 && i < N_VERBS; i++)
        if (strcmp(argv[1], verbs[i]->name) == 0)
            verb = verbs[i];
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage_error(NULL);
        return 0;
    }
    if (!verb)
        return usage_error(argc > 1 ? argv[1] : "");

    char command[64], label[32];
    snprintf(command, sizeof command, "rouse dlq %s", verb->name);
    snprintf(label, sizeof label, "dlq %s", verb->name);
    struct base_options_usage usage = {
        .command = command, .synopsis = verb->synopsis, .summary = verb->summary, .examples = verb->examples};
    struct base_error err = {0};
    int n_args = 0;
    argc--, argv++;
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* a second one ends us at once */
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    forget_environment(verb->options);
    int rc = base_options_parse(&usage, verb->options, argc, argv, verb->n_args_max ? &n_args : NULL, &err);
    if (rc == 0 && n_args > verb->n_args_max)
        rc = base_fail(&err, ERR_USAGE, "takes %s", verb->synopsis);
    if (rc == 0)
        rc = verb->run(n_args, argv + 1, &err);
    if (rc == 0)
        rc = cli_flush(&err);
    base_options_done(verb->options);
    return rc < 0 ? cli_fail(label, rc, &err) : 0;
}
