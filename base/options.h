/* options - one table describes every option: it feeds parsing, --help, the environment and the reference page.
 *
 * A value comes from the command line, else from the environment (--lease-ms is ROUSE_LEASE_MS), else the default. An
 * unknown option is answered with the nearest known one. "--name VALUE" and "--name=VALUE" both work; "--" ends options. */
#ifndef ROUSE_BASE_OPTIONS_H
#define ROUSE_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum base_option_kind {
    BASE_OPTION_FLAG,   /* bool *: true when given; env: 1/true/yes/on, 0/false/no/off */
    BASE_OPTION_STRING, /* const char **: borrowed from argv or the environment */
    BASE_OPTION_UINT,   /* uint64_t *, within [min, max]; decimal, optional suffix K, M, G (powers of 1024) */
    BASE_OPTION_DOUBLE, /* double *, within [min, max] */
    BASE_OPTION_CHOICE, /* const char **: one of choices, "a|b|c" */
    BASE_OPTION_LIST    /* struct base_option_list *: may be given again; env: newline-separated */
};

struct base_option_list {
    const char **items; /* borrowed strings; the array is freed by base_options_done */
    size_t n;
};

struct base_option {
    const char *name; /* without dashes; NULL ends the table */
    enum base_option_kind kind;
    void *target;
    const char *arg;     /* "N", "DIR", "FILE"; NULL for flags */
    const char *text;    /* default as text: parsed like input, and shown; NULL: none (target keeps its value) */
    const char *choices; /* for CHOICE */
    double min, max;     /* for UINT and DOUBLE; max 0: no limit */
    const char *group;   /* heading in --help */
    const char *help;    /* unit, consequence; wrapped to the terminal */
    bool required;
};

struct base_options_usage {
    const char *command;  /* "rouse worker" */
    const char *synopsis; /* "--model DIR|NAME --brokers LIST [options]" */
    const char *summary;  /* one or two sentences */
    const char *examples; /* may be NULL */
};

/* Applies defaults, environment, then argv[1..argc). Positional arguments are moved to the front: argv[1..1+*out_n_args).
 * out_n_args NULL: positionals are an error. ERR_USAGE with a text that ends in a hint. `--help` prints to stdout and
 * returns 1. Targets point into argv and the environment. */
int base_options_parse(const struct base_options_usage *usage, const struct base_option *table, int argc, char **argv,
                       int *out_n_args, struct base_error *err);
void base_options_done(const struct base_option *table); /* frees lists */
void base_options_help(const struct base_options_usage *usage, const struct base_option *table, FILE *out);

/* The nearest of names (NULL-terminated) within about a third of its length in edits, or NULL. */
const char *base_options_nearest(const char *word, const char *const *names);

#endif
