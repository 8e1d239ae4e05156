/* rouse dlq purge: deletes dead letters, as far as Kafka can: everything of a partition before an offset (DeleteRecords). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/dlq_filter.h"
#include "cli/dlq_ledger.h"
#include "cli/dlq_verbs.h"

static bool dry_run, yes;

struct part {
    int64_t before; /* what is deleted ends here */
    bool ended;     /* a letter that stays has been seen */
    uint64_t n_prefix, n_behind,
        n_unreplayed; /* selected and deleted; selected behind one that stays; never replayed, and deleted */
};

struct purge {
    struct dlq_reader reader;
    struct dlq_ledger ledger;
    struct part *parts;
    uint64_t n_prefix, n_behind, n_unreplayed;
};

static int take(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct purge *s = context;
    struct part *part = &s->parts[m->partition];
    struct dlq_letter l;
    (void)keep, (void)err;
    dlq_letter_init(&l, m);
    bool in_range = (dlq_filter.partition == DLQ_NONE || dlq_filter.partition == (uint64_t)m->partition) &&
                    (dlq_filter.from == DLQ_NONE || m->offset >= (int64_t)dlq_filter.from) &&
                    (dlq_filter.to == DLQ_NONE || (uint64_t)m->offset <= dlq_filter.to);
    if (!in_range || !dlq_filter_matches(&dlq_filter, &l)) {
        part->ended = true;
    } else if (part->ended) {
        part->n_behind++;
    } else {
        part->n_prefix++;
        part->n_unreplayed += !dlq_ledger_has(&s->ledger, m->partition, m->offset, true);
        part->before = m->offset + 1;
    }
    dlq_letter_done(&l);
    return 0;
}

static void say_plan(const struct purge *s)
{
    for (int32_t p = 0; p < s->reader.n_partitions; p++) {
        const struct part *part = &s->parts[p];
        if (!part->n_prefix && !part->n_behind)
            continue;
        if (dlq_common.json)
            printf("{\"partition\":%" PRId32 ",\"before\":%" PRId64 ",\"letters\":%" PRIu64
                   ",\"never_replayed\":%" PRIu64 ",\"selected_but_kept\":%" PRIu64 "}\n",
                   p, part->before, part->n_prefix, part->n_unreplayed, part->n_behind);
        else
            printf("partition %" PRId32 ": %" PRIu64 " letters before offset %" PRId64 ", %" PRIu64
                   " of them never replayed%s\n",
                   p, part->n_prefix, part->before, part->n_unreplayed, part->n_behind ? "; more stay, see below" : "");
    }
    if (s->n_behind)
        fprintf(
            stderr,
            "%" PRIu64
            " selected letters stay: Kafka deletes only from the beginning of a partition, and a letter that "
            "is not selected lies before them. Select more (a time: --until 7d), replay what lies before and purge it "
            "too, or leave it to the topic's retention.ms\n",
            s->n_behind);
}

static int ask(const struct purge *s, struct base_error *err)
{
    char answer[16] = "";
    if (yes)
        return 0;
    if (!isatty(STDIN_FILENO))
        return base_fail(err, ERR_USAGE, "deleting %" PRIu64 " letters wants a yes: --yes, or a terminal to ask on",
                         s->n_prefix);
    fprintf(stderr,
            "Delete %" PRIu64 " letters of '%s', %" PRIu64 " of them never replayed? They do not come back. [yes/no] ",
            s->n_prefix, dlq_common.topic, s->n_unreplayed);
    if (!fgets(answer, sizeof answer, stdin) || strcmp(answer, "yes\n") != 0)
        return base_fail(err, ERR_STOPPED, "nothing was deleted");
    return 0;
}

static int delete_records(struct purge *s, struct base_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(s->reader.n_partitions);
    for (int32_t p = 0; p < s->reader.n_partitions; p++)
        if (s->parts[p].n_prefix)
            rd_kafka_topic_partition_list_add(list, dlq_common.topic, p)->offset = s->parts[p].before;
    rd_kafka_DeleteRecords_t *request = rd_kafka_DeleteRecords_new(list);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(s->reader.rk);
    rd_kafka_DeleteRecords(s->reader.rk, &request, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, (int)dlq_common.timeout_s * 1000);
    int rc = 0;
    if (!event || rd_kafka_event_error(event)) {
        rc = base_fail(err, ERR_SERVICE, "deleting: %s",
                       event ? rd_kafka_event_error_string(event) : "no broker answers");
    } else {
        const rd_kafka_topic_partition_list_t *done =
            rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event));
        for (int i = 0; i < done->cnt; i++)
            if (done->elems[i].err)
                rc = base_fail(err, ERR_SERVICE, "deleting from '%s' partition %" PRId32 ": %s", dlq_common.topic,
                               done->elems[i].partition, rd_kafka_err2str(done->elems[i].err));
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteRecords_destroy(request);
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

static int find_plan(struct purge *s, struct base_error *err)
{
    char ledger_topic[300];
    snprintf(ledger_topic, sizeof ledger_topic, "%s.replayed", dlq_common.topic);
    int rc = dlq_reader_open(dlq_common.topic, DLQ_COMMITTED, &s->reader, err);
    if (rc == 0)
        rc = dlq_filter_check_partition(&dlq_filter, &s->reader, err);
    if (rc == 0)
        rc = dlq_ledger_init(&s->ledger, "first", s->reader.n_partitions, err);
    if (rc == 0)
        rc = dlq_ledger_load(&s->ledger, ledger_topic, false, err);
    if (rc < 0)
        return rc;
    s->parts = calloc((size_t)s->reader.n_partitions, sizeof *s->parts);
    if (!s->parts)
        return base_fail(err, ERR_NOMEM, "out of memory for %" PRId32 " partitions", s->reader.n_partitions);
    rc = dlq_reader_run(&s->reader, "reading dead letters", take, s, err); /* all: what lies before must be seen */
    for (int32_t p = 0; p < s->reader.n_partitions; p++) {
        s->n_prefix += s->parts[p].n_prefix;
        s->n_behind += s->parts[p].n_behind;
        s->n_unreplayed += s->parts[p].n_unreplayed;
    }
    return rc;
}

static int purge(int n_args, char **args, struct base_error *err)
{
    struct purge s = {0};
    (void)n_args, (void)args;
    int rc = dlq_filter_init(&dlq_filter, err);
    if (rc == 0)
        rc = find_plan(&s, err);
    if (rc == 0)
        say_plan(&s);
    if (rc == 0 && s.n_prefix && !dry_run) {
        rc = ask(&s, err);
        if (rc == 0)
            rc = delete_records(&s, err);
        if (rc == 0 && !dlq_common.json)
            printf("%" PRIu64 " letters deleted\n", s.n_prefix);
    } else if (rc == 0 && !dlq_common.json) {
        printf("%" PRIu64 " letters %s\n", s.n_prefix, dry_run ? "would be deleted" : "deleted");
    }
    free(s.parts);
    dlq_ledger_done(&s.ledger);
    dlq_reader_close(&s.reader);
    return rc;
}

static const struct base_option options[] = {
    {"dry-run", BASE_OPTION_FLAG, &dry_run, NULL, NULL, NULL, 0, 0, "How",
     "Say what would be deleted, and delete nothing.", false},
    {"yes", BASE_OPTION_FLAG, &yes, NULL, NULL, NULL, 0, 0, "How", "Do not ask. For scripts.", false},
    DLQ_OPTIONS_FILTER,
    DLQ_OPTIONS_COMMON,
    CLI_OPTIONS_END,
};

const struct dlq_verb dlq_purge = {
    .name = "purge",
    .synopsis = "--brokers LIST [filters] [options]",
    .summary = "Deletes dead letters from the beginning of each partition up to the first one that is not selected.",
    .examples = "  rouse dlq purge --brokers localhost:9092 --until 7d --dry-run\n"
                "  rouse dlq purge --brokers localhost:9092 --until 7d --yes\n",
    .options = options,
    .run = purge,
};
