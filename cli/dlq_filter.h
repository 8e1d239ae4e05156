/* dlq_filter - which letters: the options that select, shared by all verbs. All that is given must hold. */
#ifndef ROUSE_CLI_DLQ_FILTER_H
#define ROUSE_CLI_DLQ_FILTER_H

#include "base/options.h"
#include "cli/dlq_letter.h"
#include "cli/dlq_reader.h"

#define DLQ_NONE       UINT64_MAX
#define DLQ_OFFSET_MAX 9007199254740992.0 /* what the options can bound exactly */

struct dlq_filter {
    struct base_option_list codes, stages, headers; /* any of the codes, any of the stages, all of the headers */
    const char *since, *until, *key, *request, *model;
    uint64_t attempts_min, partition, from, to; /* DLQ_NONE: not given */
    int64_t since_ms, until_ms;                 /* made from the texts; 0: not given */
};
extern struct dlq_filter dlq_filter;

#define DLQ_FILTER_UNSET                                                                                               \
    {                                                                                                                  \
        .attempts_min = DLQ_NONE, .partition = DLQ_NONE, .from = DLQ_NONE, .to = DLQ_NONE                              \
    }

/* Once, after the options are parsed. ERR_USAGE names the option. */
int dlq_filter_init(struct dlq_filter *f, struct base_error *err);
int dlq_filter_check_partition(const struct dlq_filter *f, const struct dlq_reader *r, struct base_error *err);
/* Partition and offsets are left to the reader, which need not fetch the rest. ERR_USAGE: no such partition. */
int dlq_filter_narrow(const struct dlq_filter *f, struct dlq_reader *r, struct base_error *err);
bool dlq_filter_matches(const struct dlq_filter *f, struct dlq_letter *l);
bool dlq_filter_is_empty(const struct dlq_filter *f); /* nothing is given: all letters */

#define DLQ_OPTION_(name_, kind_, field_, arg_, help_)                                                                 \
    {                                                                                                                  \
        name_, kind_, &dlq_filter.field_, arg_, NULL, NULL, 0, DLQ_OFFSET_MAX, "Which letters", help_, false           \
    }
#define DLQ_OPTIONS_FILTER                                                                                             \
    DLQ_OPTION_("code", BASE_OPTION_LIST, codes, "CODE", "With this x-error-code. Given again: or that one."),         \
        DLQ_OPTION_("stage", BASE_OPTION_LIST, stages, "STAGE", "With this x-error-stage. Given again: or that one."), \
        DLQ_OPTION_("since", BASE_OPTION_STRING, since, "TIME",                                                        \
                    "Last failed then or later: 2026-11-26T10:30Z, Unix milliseconds, or 30m, 2h, 7d before now."),    \
        DLQ_OPTION_("until", BASE_OPTION_STRING, until, "TIME", "Last failed before then."),                           \
        DLQ_OPTION_("key", BASE_OPTION_STRING, key, "KEY", "With exactly this key."),                                  \
        DLQ_OPTION_("request", BASE_OPTION_STRING, request, "ID", "Whose batch_id this is, or the id of a prompt."),   \
        DLQ_OPTION_("model", BASE_OPTION_STRING, model, "NAME",                                                        \
                    "That ask for this model; '' for those that name none."),                                          \
        DLQ_OPTION_("attempts-min", BASE_OPTION_UINT, attempts_min, "N", "Tried at least N times."),                   \
        DLQ_OPTION_("header", BASE_OPTION_LIST, headers, "NAME=VALUE",                                                 \
                    "With this header; NAME alone: whatever its value. Given again: and that one."),                   \
        DLQ_OPTION_("partition", BASE_OPTION_UINT, partition, "P", "Of this partition of the dead letter topic."),     \
        DLQ_OPTION_("from", BASE_OPTION_UINT, from, "OFFSET", "From this offset in the dead letter topic."),           \
        DLQ_OPTION_("to-offset", BASE_OPTION_UINT, to, "OFFSET", "Up to and with this offset.")

#endif
