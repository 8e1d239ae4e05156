/* rouse dlq replay: puts dead letters back, each once, whatever happens to the one who does it.
 *
 *   read -> filter -> make (ledger, target, edit) -> outbox (pace, transaction, audit) */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "cli/dlq_filter.h"
#include "cli/dlq_groups.h"
#include "cli/dlq_outbox.h"
#include "cli/dlq_text.h"
#include "cli/dlq_verify.h"

#define FIRST_ROUND     "first"
#define NAMED_SKIPS_MAX 5 /* letters of each kind that are left are named, then counted */

static const char *to, *round_name, *audit_path, *by, *lag_group, *on_lag;
static struct base_option_list sets;
static struct dlq_edit edit;
static bool dry_run, verify;
static uint64_t limit, rate, lag_max, replay_max;

struct replay {
    struct dlq_reader reader;
    struct dlq_ledger ledger;
    struct dlq_sender sender;
    struct dlq_audit audit;
    struct dlq_pace pace;
    struct dlq_maker maker;
    struct dlq_outbox outbox;
    struct dlq_groups groups; /* of a dry run */
    struct dlq_verify verify;
    uint64_t n_selected, n_would_send, n_skipped[DLQ_SKIP_N];
    char run_id[64], ledger_topic[300];
};

/* Letters */

static void skip_letter(struct replay *s, const struct dlq_letter *l, enum dlq_skip reason, const char *why)
{
    char text[320], safe[400];
    snprintf(text, sizeof text, "%s%s%s", dlq_skip_names[reason], why[0] ? ": " : "", why);
    dlq_text_safe(text, safe, sizeof safe);
    if (!dry_run)
        dlq_audit_letter(&s->audit, l->m->partition, l->m->offset, safe, NULL, NULL);
    if (s->n_skipped[reason]++ < NAMED_SKIPS_MAX && reason != DLQ_SKIP_REPLAYED)
        fprintf(stderr, "rouse dlq replay: letter %" PRId32 "/%" PRId64 " is left: %s\n", l->m->partition, l->m->offset,
                safe);
}

/* What --verify will look for: what goes now, and what an earlier run of this round sent. */
static int expect_letter(struct replay *s, const struct dlq_letter *l, const struct dlq_outgoing *out,
                         struct base_error *err)
{
    const char *topic = out ? out->record.topic : NULL;
    int rc = out ? 0 : dlq_route_find(&s->maker.route, to ? to : l->meta.topic, &topic, err);
    return rc < 0 ? rc
                  : dlq_verify_expect(&s->verify, l->m->partition, l->m->offset, out ? &out->record.record : NULL,
                                      topic, err);
}

static int send_letter(struct replay *s, rd_kafka_message_t *m, struct dlq_letter *l, struct dlq_outgoing *out,
                       bool *keep, struct base_error *err)
{
    int rc = verify ? expect_letter(s, l, out, err) : 0;
    if (rc == 0 && dry_run) {
        rc = dlq_groups_add(&s->groups, l, false, err);
        s->n_would_send++;
    } else if (rc == 0) {
        *keep = true;
        rc = dlq_outbox_add(&s->outbox, m, out, err);
    }
    dlq_outgoing_done(out);
    return rc;
}

static int take_letter(struct replay *s, rd_kafka_message_t *m, struct dlq_letter *l, bool *keep,
                       struct base_error *err)
{
    struct dlq_outgoing out;
    char why[256];
    s->n_selected++;
    int rc = dlq_outgoing_make(&s->maker, l, &out, why, err);
    if (rc == 0)
        return send_letter(s, m, l, &out, keep, err);
    if (rc < 0)
        return rc;
    skip_letter(s, l, (enum dlq_skip)(rc - 1), why);
    return verify && rc - 1 == DLQ_SKIP_REPLAYED ? expect_letter(s, l, NULL, err) : 0;
}

static int take(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct replay *s = context;
    struct dlq_letter l;
    int rc = 0;
    dlq_letter_init(&l, m);
    if (dlq_filter_matches(&dlq_filter, &l))
        rc = take_letter(s, m, &l, keep, err);
    dlq_letter_done(&l);
    return rc < 0 ? rc : limit && s->n_would_send + s->outbox.n_sent + s->outbox.n >= limit;
}

/* The run */

static int check_options(struct base_error *err)
{
    size_t n = strlen(round_name);
    if (n < 1 || n > 32 || strcspn(round_name, "/. ") != n)
        return base_fail(err, ERR_USAGE, "--again '%.40s': a round's name has 1-32 characters, no '/', '.' or space",
                         round_name);
    if ((lag_max > 0) != (lag_group != NULL))
        return base_fail(err, ERR_USAGE, "--lag-max and --group go together: whose lag, and how much of it");
    if (to && strcmp(to, dlq_common.topic) == 0)
        return base_fail(err, ERR_USAGE, "--to %s is the dead letter topic itself: letters would double there", to);
    edit.sets = &sets;
    int rc = dlq_edit_check(&edit, err);
    return rc < 0 ? rc : dlq_filter_init(&dlq_filter, err);
}

/* As the producer will have it, where there is none. */
static size_t n_bytes_max(const struct replay *s)
{
    size_t n = 1000000;
    if (!dry_run)
        return dlq_sender_bytes_max(&s->sender);
    for (size_t i = 0; i < dlq_common.properties.n; i++)
        if (strncmp(dlq_common.properties.items[i], "message.max.bytes=", 18) == 0)
            n = strtoul(dlq_common.properties.items[i] + 18, NULL, 10);
    return n;
}

static int name_run(struct replay *s, struct base_error *err)
{
    uint8_t random[6];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return base_fail_errno(err, "getrandom");
    snprintf(s->run_id, sizeof s->run_id, "%s.%02x%02x%02x%02x%02x%02x", round_name, random[0], random[1], random[2],
             random[3], random[4], random[5]);
    snprintf(s->ledger_topic, sizeof s->ledger_topic, "%s.replayed", dlq_common.topic);
    if (to && strcmp(to, s->ledger_topic) == 0)
        return base_fail(err, ERR_USAGE, "--to %s is the ledger of replays", to);
    return 0;
}

/* Fences whoever replayed before, then reads what they have done: in this order, (1) of dlq_ledger.h. */
static int open_ledger(struct replay *s, struct base_error *err)
{
    int rc = dlq_ledger_init(&s->ledger, round_name, s->reader.n_partitions, err);
    if (rc == 0 && !dry_run)
        rc = dlq_ledger_create_topic(s->ledger_topic, err);
    if (rc == 0 && !dry_run)
        rc = dlq_sender_open(&s->sender, &s->ledger, dlq_common.topic, s->ledger_topic, s->run_id, err);
    if (rc == 0)
        rc = dlq_ledger_load(&s->ledger, s->ledger_topic, !dry_run, err);
    return rc < 0 ? rc : dlq_ledger_check(&s->ledger, dlq_common.topic, s->reader.end, err);
}

static int open_audit(struct replay *s, struct base_error *err)
{
    int rc = dry_run ? 0 : dlq_audit_open(&s->audit, audit_path, dlq_common.topic, err);
    if (rc == 0 && !dry_run && s->sender.token[0])
        dlq_audit_committed(&s->audit, s->sender.token, 0, true);
    return rc;
}

static int start(struct replay *s, struct base_error *err)
{
    int rc = name_run(s, err);
    if (rc == 0)
        rc = dlq_groups_init(&s->groups, by, err);
    if (rc == 0)
        rc = dlq_outbox_init(&s->outbox, rate, err);
    if (rc == 0)
        rc = dlq_pace_open(&s->pace, rate, lag_max, lag_group, strcmp(on_lag, "stop") == 0, err);
    if (rc == 0)
        rc = dlq_reader_open(dlq_common.topic, DLQ_COMMITTED, &s->reader, err);
    if (rc == 0)
        rc = dlq_filter_narrow(&dlq_filter, &s->reader, err);
    if (rc == 0)
        rc = open_ledger(s, err);
    if (rc == 0)
        rc = open_audit(s, err);
    if (rc < 0)
        return rc;
    s->maker = (struct dlq_maker){.to = to,
                                  .round = round_name,
                                  .run_id = s->run_id,
                                  .any_round = strcmp(round_name, FIRST_ROUND) == 0,
                                  .replay_max = replay_max,
                                  .edit = &edit,
                                  .ledger = &s->ledger,
                                  .route = {.rk = s->reader.rk, .n_bytes_max = n_bytes_max(s)}};
    base_buffer_init(&s->maker.edited, 64u << 20);
    s->outbox.sender = &s->sender;
    s->outbox.ledger = &s->ledger;
    s->outbox.audit = &s->audit;
    s->outbox.pace = &s->pace;
    s->reader.n_sent = &s->outbox.n_sent;
    return 0;
}

static int run(struct replay *s, struct base_error *err)
{
    struct base_error audit_err = {0};
    dlq_pace_begin(&s->pace);
    int rc = dlq_reader_run(&s->reader, dry_run ? "counting dead letters" : "replaying dead letters", take, s, err);
    if (rc == 0)
        rc = dlq_outbox_flush(&s->outbox, err);
    int audit_rc = dlq_audit_sync(&s->audit, &audit_err); /* after an error too */
    return rc < 0 || audit_rc == 0 ? rc : base_fail(err, audit_rc, "%s", audit_err.text);
}

static void finish(struct replay *s)
{
    dlq_outbox_done(&s->outbox);
    base_buffer_done(&s->maker.edited);
    dlq_pace_close(&s->pace);
    dlq_verify_done(&s->verify);
    dlq_groups_done(&s->groups);
    dlq_audit_close(&s->audit);
    dlq_sender_close(&s->sender);
    dlq_ledger_done(&s->ledger);
    dlq_reader_close(&s->reader);
}

static void print_json(const struct replay *s, double seconds)
{
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1u << 16);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "run", s->run_id);
    base_json_kv_bool(&j, "dry_run", dry_run);
    base_json_kv_uint(&j, "selected", s->n_selected);
    base_json_kv_uint(&j, dry_run ? "would_send" : "sent", dry_run ? s->n_would_send : s->outbox.n_sent);
    base_json_key(&j, "skipped");
    base_json_object_begin(&j);
    for (int i = 0; i < DLQ_SKIP_N; i++)
        base_json_kv_uint(&j, dlq_skip_names[i], s->n_skipped[i]);
    base_json_object_end(&j);
    base_json_kv_double(&j, "seconds", seconds, 6);
    base_json_object_end(&j);
    puts(base_buffer_cstr(&out));
    base_buffer_done(&out);
}

static void print_text(const struct replay *s, double seconds)
{
    printf("%" PRIu64 " letters selected, %" PRIu64 " %s", s->n_selected, dry_run ? s->n_would_send : s->outbox.n_sent,
           dry_run ? "would be sent" : "sent");
    for (int i = 0; i < DLQ_SKIP_N; i++)
        if (s->n_skipped[i])
            printf(", %" PRIu64 " left (%s)", s->n_skipped[i], dlq_skip_names[i]);
    if (!dry_run)
        printf("; %.2f s, %.0f letters/s", seconds, (double)s->outbox.n_sent / seconds);
    putchar('\n');
}

static int replay(int n_args, char **args, struct base_error *err)
{
    static struct replay s;
    (void)n_args, (void)args;
    int rc = check_options(err);
    if (rc == 0)
        rc = start(&s, err);
    uint64_t began_ns = base_clock_mono_ns();
    if (rc == 0)
        rc = run(&s, err);
    double seconds = (double)(base_clock_mono_ns() - began_ns) / 1e9;
    if (rc == 0 && dry_run)
        rc = dlq_groups_print(&s.groups, dlq_common.json, err);
    if (rc == 0 || s.outbox.n_sent)
        (dlq_common.json ? print_json : print_text)(&s, seconds);
    if (rc == 0 && verify && !dry_run)
        rc = dlq_verify_run(&s.verify, round_name, dlq_common.json, err);
    if (rc == ERR_STOPPED)
        base_fail_in(err, "stopped; what was sent is committed, and the same command goes on from there");
    finish(&s);
    return rc;
}

static const struct base_option options[] = {
    {"dry-run", BASE_OPTION_FLAG, &dry_run, NULL, NULL, NULL, 0, 0, "How",
     "Count what would be sent, by --by; write nothing, anywhere. Edits are tried.", false},
    {"by", BASE_OPTION_STRING, &by, "WORDS", "code,stage,day", NULL, 0, 0, "How", "How a dry run counts; see dlq ls.",
     false},
    {"to", BASE_OPTION_STRING, &to, "TOPIC", NULL, NULL, 0, 0, "How",
     "Where they go. Not given: each to the topic it came from.", false},
    {"again", BASE_OPTION_STRING, &round_name, "ROUND", "first", NULL, 0, 0, "How",
     "Send letters that were replayed before, once more: in a round of this name. Within a round a letter goes once.",
     false},
    {"limit", BASE_OPTION_UINT, &limit, "N", "0", NULL, 0, 0, "How", "Send N letters at most. 0: all.", false},
    {"rate", BASE_OPTION_UINT, &rate, "N", "0", NULL, 0, 10000000, "How", "Letters a second. 0: as fast as it goes.",
     false},
    {"lag-max", BASE_OPTION_UINT, &lag_max, "N", "0", NULL, 0, 0, "How",
     "Send no more while --group would be more than N records behind on the target topic. 0: no matter.", false},
    {"group", BASE_OPTION_STRING, &lag_group, "GROUP", NULL, NULL, 0, 0, "How", "The workers' group, for --lag-max.",
     false},
    {"on-lag", BASE_OPTION_CHOICE, &on_lag, "WHAT", "wait", "wait|stop", 0, 0, "How",
     "What to do at --lag-max. A later run goes on where this one stopped.", false},
    {"replay-max", BASE_OPTION_UINT, &replay_max, "N", "3", NULL, 1, 1000000, "How",
     "Leave letters alone that came back N times: they would go round for ever.", false},
    {"set", BASE_OPTION_LIST, &sets, "KEY=VALUE", NULL, NULL, 0, 0, "Edit",
     "Set model, deadline_ms, max_tokens or another sampling key, in every prompt; KEY= takes it away.", false},
    {"edit-command", BASE_OPTION_STRING, &edit.command, "COMMAND", NULL, NULL, 0, 0, "Edit",
     "Run by sh for each letter: the value on its standard input, what it writes is sent. Another exit code than 0: "
     "the "
     "letter is left.",
     false},
    {"edit-timeout-s", BASE_OPTION_UINT, &edit.timeout_s, "SECONDS", "10", NULL, 1, 3600, "Edit",
     "How long the command may take for one letter; then the letter is left.", false},
    {"audit", BASE_OPTION_STRING, &audit_path, "FILE", NULL, NULL, 0, 0, "Output",
     "Append what became of each letter, as JSON lines, on disk before it is sent.", false},
    {"verify", BASE_OPTION_FLAG, &verify, NULL, NULL, NULL, 0, 0, "Output",
     "Afterwards read the targets and compare: each selected letter there once, with the bytes it was sent with.",
     false},
    DLQ_OPTIONS_FILTER,
    DLQ_OPTIONS_COMMON,
    CLI_OPTIONS_END,
};

const struct dlq_verb dlq_replay = {
    .name = "replay",
    .synopsis = "--brokers LIST [filters] [options]",
    .summary =
        "Puts dead letters back, each exactly once: a run that was killed is gone on with, a second one sends nothing.",
    .examples =
        "  rouse dlq replay --brokers localhost:9092 --code device --since 2h --dry-run\n"
        "  rouse dlq replay --brokers localhost:9092 --code prompt-too-long --set max_tokens=64 --audit replay.jsonl\n"
        "  rouse dlq replay --brokers localhost:9092 --rate 50 --lag-max 500 --group rouse-workers --verify\n",
    .options = options,
    .run = replay,
};
