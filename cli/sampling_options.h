/* sampling_options - the options that say how to sample, shared by `rouse generate` and `rouse produce`. */
#ifndef ROUSE_CLI_SAMPLING_OPTIONS_H
#define ROUSE_CLI_SAMPLING_OPTIONS_H

#include "base/options.h"
#include "schemas/prompt_batch.h"

#define CLI_SAMPLING_STOPS_MAX 16

/* What is not given on the command line stays NAN or UINT64_MAX, and is then left to the prompt or to the worker. */
struct cli_sampling_options {
    uint64_t max_tokens, top_k, seed, logprobs;
    double temperature, top_p, min_p, repetition_penalty;
    struct base_option_list stop;
    bool ignore_eos;
    struct schema_string stops[CLI_SAMPLING_STOPS_MAX];
};

extern const struct cli_sampling_options cli_sampling_unset;

#define CLI_OPTIONS_SAMPLING(s)                                                                                        \
    {"max-tokens",                                                                                                     \
     BASE_OPTION_UINT,                                                                                                 \
     &(s)->max_tokens,                                                                                                 \
     "N",                                                                                                              \
     "64",                                                                                                             \
     NULL,                                                                                                             \
     1,                                                                                                                \
     32768,                                                                                                            \
     "Sampling",                                                                                                       \
     "New tokens at most, for prompts that do not say.",                                                               \
     false},                                                                                                           \
        {"temperature",                                                                                                \
         BASE_OPTION_DOUBLE,                                                                                           \
         &(s)->temperature,                                                                                            \
         "T",                                                                                                          \
         "0",                                                                                                          \
         NULL,                                                                                                         \
         0,                                                                                                            \
         100,                                                                                                          \
         "Sampling",                                                                                                   \
         "0 takes the most likely token; higher is more random.",                                                      \
         false},                                                                                                       \
        {"top-k",     BASE_OPTION_UINT,                                                                                \
         &(s)->top_k, "N",                                                                                             \
         NULL,        NULL,                                                                                            \
         0,           1000000,                                                                                         \
         "Sampling",  "Draw from the N most likely tokens only. 0: off.",                                              \
         false},                                                                                                       \
        {"top-p",     BASE_OPTION_DOUBLE,                                                                              \
         &(s)->top_p, "P",                                                                                             \
         NULL,        NULL,                                                                                            \
         0,           1,                                                                                               \
         "Sampling",  "Draw from the fewest tokens that together have probability P. 1: off.",                         \
         false},                                                                                                       \
        {"min-p",     BASE_OPTION_DOUBLE,                                                                              \
         &(s)->min_p, "P",                                                                                             \
         NULL,        NULL,                                                                                            \
         0,           1,                                                                                               \
         "Sampling",  "Drop tokens less likely than P times the most likely one. 0: off.",                             \
         false},                                                                                                       \
        {"repetition-penalty",                                                                                         \
         BASE_OPTION_DOUBLE,                                                                                           \
         &(s)->repetition_penalty,                                                                                     \
         "R",                                                                                                          \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         100,                                                                                                          \
         "Sampling",                                                                                                   \
         "Above 1: tokens that were seen already become less likely.",                                                 \
         false},                                                                                                       \
        {"seed",     BASE_OPTION_UINT,                                                                                 \
         &(s)->seed, "N",                                                                                              \
         NULL,       NULL,                                                                                             \
         0,          0,                                                                                                \
         "Sampling", "Same seed, same completion. Without one, each prompt draws its own.",                            \
         false},                                                                                                       \
        {"stop",     BASE_OPTION_LIST,                                                                                 \
         &(s)->stop, "TEXT",                                                                                           \
         NULL,       NULL,                                                                                             \
         0,          0,                                                                                                \
         "Sampling", "End the completion before this text. May be given up to 16 times.",                              \
         false},                                                                                                       \
        {"logprobs",                                                                                                   \
         BASE_OPTION_UINT,                                                                                             \
         &(s)->logprobs,                                                                                               \
         "N",                                                                                                          \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         20,                                                                                                           \
         "Sampling",                                                                                                   \
         "Report each token's log-probability and those of N alternatives.",                                           \
         false},                                                                                                       \
    {                                                                                                                  \
        "ignore-eos", BASE_OPTION_FLAG, &(s)->ignore_eos, NULL, NULL, NULL, 0, 0, "Sampling",                          \
            "Go on to --max-tokens, whatever the model says.", false                                                   \
    }

/* Only what was given has its bit. Borrows from s. ERR_USAGE: too many stops, an empty one. */
int cli_sampling_make(struct cli_sampling_options *s, struct schema_sampling *out, struct base_error *err);

#endif
