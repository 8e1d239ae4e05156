/* rouse dlq ls: what lies in the dead letter topic, counted. */
#include <inttypes.h>

#include "cli/dlq_filter.h"
#include "cli/dlq_groups.h"
#include "cli/dlq_ledger.h"
#include "cli/dlq_verbs.h"

static const char *by;

struct listing {
    struct dlq_groups groups;
    struct dlq_ledger ledger;
    uint64_t n;
};

static int count(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct listing *s = context;
    struct dlq_letter letter;
    int rc = 0;
    (void)keep;
    dlq_letter_init(&letter, m);
    if (dlq_filter_matches(&dlq_filter, &letter)) {
        rc = dlq_groups_add(&s->groups, &letter, dlq_ledger_has(&s->ledger, m->partition, m->offset, true), err);
        s->n++;
    }
    dlq_letter_done(&letter);
    return rc;
}

static int list(int n_args, char **args, struct base_error *err)
{
    struct dlq_reader r = {0};
    struct listing s = {0};
    char ledger_topic[300];
    (void)n_args, (void)args;
    snprintf(ledger_topic, sizeof ledger_topic, "%s.replayed", dlq_common.topic);
    int rc = dlq_groups_init(&s.groups, by, err);
    if (rc == 0)
        rc = dlq_filter_init(&dlq_filter, err);
    if (rc == 0)
        rc = dlq_reader_open(dlq_common.topic, DLQ_COMMITTED, &r, err);
    if (rc == 0)
        rc = dlq_ledger_init(&s.ledger, "first", r.n_partitions, err);
    if (rc == 0)
        rc = dlq_ledger_load(&s.ledger, ledger_topic, false, err);
    if (rc == 0)
        rc = dlq_filter_narrow(&dlq_filter, &r, err);
    if (rc == 0)
        rc = dlq_reader_run(&r, "reading dead letters", count, &s, err);
    if (rc == 0)
        rc = dlq_groups_print(&s.groups, dlq_common.json, err);
    if (rc == 0 && !dlq_common.json)
        fprintf(stderr, "%" PRIu64 " dead letters in '%s'%s\n", s.n, dlq_common.topic,
                dlq_filter_is_empty(&dlq_filter) ? "" : " match");
    dlq_ledger_done(&s.ledger);
    dlq_groups_done(&s.groups);
    dlq_reader_close(&r);
    return rc;
}

static const struct base_option options[] = {
    {"by", BASE_OPTION_STRING, &by, "WORDS", "code,stage,day", NULL, 0, 0, "What",
     "Counted by: code, stage, day, hour, model, topic, partition, attempts, worker, replays; up to 4 of them.", false},
    DLQ_OPTIONS_FILTER,
    DLQ_OPTIONS_COMMON,
    CLI_OPTIONS_END,
};

const struct dlq_verb dlq_ls = {
    .name = "ls",
    .synopsis = "--brokers LIST [options]",
    .summary = "Counts the dead letters, by code, stage and time or what else they have in common.",
    .examples = "  rouse dlq ls --brokers localhost:9092\n"
                "  rouse dlq ls --brokers localhost:9092 --by code,model --since 2h --json\n",
    .options = options,
    .run = list,
};
