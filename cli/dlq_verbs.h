/* dlq_verbs - `rouse dlq VERB`: a row for each verb, which lies with its function in dlq_<verb>.c. cmd_dlq.c holds the table. */
#ifndef ROUSE_CLI_DLQ_VERBS_H
#define ROUSE_CLI_DLQ_VERBS_H

#include <stdatomic.h>

#include "cli/cli.h"
#include "cli/kafka_client.h"

struct dlq_verb {
    const char *name, *synopsis, *summary, *examples;
    const struct base_option *options;
    int n_args_max;
    int (*run)(int n_args, char **args, struct base_error *err);
};

extern const struct dlq_verb dlq_ls, dlq_show, dlq_replay, dlq_purge;

/* What every verb's table fills in. */
struct dlq_common {
    const char *brokers, *topic;
    struct base_option_list properties;
    uint64_t timeout_s;
    bool json;
};
extern struct dlq_common dlq_common;

extern _Atomic bool dlq_stop; /* SIGINT or SIGTERM came */

#define DLQ_OPTIONS_COMMON                                                                                             \
    CLI_OPTIONS_KAFKA(&dlq_common.brokers, &dlq_common.properties),                                                    \
        {"dlq",                                                                                                        \
         BASE_OPTION_STRING,                                                                                           \
         &dlq_common.topic,                                                                                            \
         "TOPIC",                                                                                                      \
         "rouse.dead-letters",                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         "Kafka",                                                                                                      \
         "The dead letter topic.",                                                                                     \
         false},                                                                                                       \
        {"timeout-s",                                                                                                  \
         BASE_OPTION_UINT,                                                                                             \
         &dlq_common.timeout_s,                                                                                        \
         "SECONDS",                                                                                                    \
         "60",                                                                                                         \
         NULL,                                                                                                         \
         1,                                                                                                            \
         86400,                                                                                                        \
         "Kafka",                                                                                                      \
         "How long to wait for brokers that do not answer.",                                                           \
         false},                                                                                                       \
    {                                                                                                                  \
        "json", BASE_OPTION_FLAG, &dlq_common.json, NULL, NULL, NULL, 0, 0, "Output", "JSON, an object a line.", false \
    }

#endif
