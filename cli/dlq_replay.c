/* rouse dlq replay: puts dead letters back, each once, whatever happens to the one who does it.
 *
 *   read -> filter -> ledger -> edit -> batch -> transaction (letters, ledger pages, progress) -> audit */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json_writer.h"
#include "cli/dlq_audit.h"
#include "cli/dlq_edit.h"
#include "cli/dlq_filter.h"
#include "cli/dlq_groups.h"
#include "cli/dlq_pace.h"
#include "cli/dlq_sender.h"
#include "cli/dlq_verify.h"

#define BATCH_MAX       10000
#define BATCH_BYTES_MAX (16u << 20)
#define BATCH_AGE_NS    1000000000u
#define TARGETS_MAX     64
#define OVERHEAD_BYTES  512 /* what the protocol adds to key, value and headers, generously */

enum skip { SKIP_REPLAYED, SKIP_LOOP, SKIP_UNREADABLE, SKIP_NO_TARGET, SKIP_EDIT, SKIP_TOO_LARGE, SKIP_N };
static const char *const skip_names[SKIP_N] = {"replayed-already", "replayed-too-often", "unreadable-headers",
                                               "no-target",        "edit-failed",        "too-large"};

static const char *to, *round_name, *audit_path, *by, *lag_group, *on_lag;
static struct base_option_list sets;
static struct dlq_edit edit;
static bool dry_run, verify;
static uint64_t limit, rate, lag_max, replay_max;

struct pending {
    rd_kafka_message_t *m;
    void *memory; /* headers and their text */
    uint8_t *edited;
    bool refused;
};

struct target {
    char name[250];
    bool exists;
};

struct replay {
    struct dlq_reader reader;
    struct dlq_ledger ledger;
    struct dlq_sender sender;
    struct dlq_audit audit;
    struct dlq_groups groups;
    struct dlq_pace pace;
    struct dlq_verify verify;
    struct target targets[TARGETS_MAX];
    size_t n_targets;
    struct pending *pending;    /* [BATCH_MAX] */
    struct dlq_record *records; /* [BATCH_MAX] */
    size_t n_pending, batch_max, pending_bytes;
    uint64_t pending_since_ns;
    uint64_t n_selected, n_sent, n_skipped[SKIP_N]; /* n_sent: committed, or in a dry run, would be */
    size_t n_bytes_max;
    char run_id[64], ledger_topic[300];
    struct base_buffer edited;
};

/* What goes out */

static void pending_done(struct pending *p)
{
    rd_kafka_message_destroy(p->m);
    free(p->memory);
    free(p->edited);
    *p = (struct pending){0};
}

/* The original's headers with ours of the replay in place of older ones. NULL: out of memory. */
static struct schema_header *headers_make(const struct replay *s, const struct dlq_letter *l, uint32_t *out_n)
{
    struct text {
        char count[12], of[300];
    } * text;
    struct schema_header *h = malloc((l->n_headers + 3) * sizeof *h + sizeof *text);
    uint32_t n = 0;
    if (!h)
        return NULL;
    text = (struct text *)(h + l->n_headers + 3);
    for (uint32_t i = 0; i < l->n_headers; i++)
        if (strncmp(l->headers[i].name, "x-replay-", 9) != 0)
            h[n++] = l->headers[i];
    snprintf(text->count, sizeof text->count, "%" PRIu32, l->meta.replay_count + 1);
    snprintf(text->of, sizeof text->of, "%s/%" PRId32 "/%" PRId64, dlq_common.topic, l->m->partition, l->m->offset);
    h[n++] = (struct schema_header){"x-replay-id", s->run_id, strlen(s->run_id)};
    h[n++] = (struct schema_header){"x-replay-count", text->count, strlen(text->count)};
    h[n++] = (struct schema_header){"x-replay-of", text->of, strlen(text->of)};
    *out_n = n;
    return h;
}

static size_t record_bytes(const struct publish_record *r)
{
    size_t n = r->n_key + r->n_value + OVERHEAD_BYTES;
    for (uint32_t i = 0; i < r->n_headers; i++)
        n += strlen(r->headers[i].name) + r->headers[i].n + 8;
    return n;
}

/* NULL: no such topic, or too many of them. */
static const char *target_of(struct replay *s, const char *topic)
{
    struct base_error ignored;
    int32_t n;
    for (size_t i = 0; i < s->n_targets; i++)
        if (strcmp(s->targets[i].name, topic) == 0)
            return s->targets[i].exists ? s->targets[i].name : NULL;
    if (s->n_targets == TARGETS_MAX || strlen(topic) >= sizeof s->targets[0].name)
        return NULL;
    struct target *t = &s->targets[s->n_targets++];
    snprintf(t->name, sizeof t->name, "%s", topic);
    t->exists = cli_kafka_n_partitions(s->reader.rk, topic, 2000, &n, &ignored) == 0;
    return t->exists ? t->name : NULL;
}

/* Where a letter goes, or why it is left: SKIP_N and *out_record, or the reason and `why`. Negative: an error. */
static int decide(struct replay *s, struct dlq_letter *l, struct pending *p, struct dlq_record *out, char why[256],
                  struct base_error *err)
{
    const rd_kafka_message_t *m = l->m;
    struct base_error edit_err = {0};
    why[0] = '\0';
    if (dlq_ledger_has(&s->ledger, m->partition, m->offset, strcmp(round_name, "first") == 0))
        return SKIP_REPLAYED;
    if (l->meta.replay_count >= replay_max)
        return SKIP_LOOP;
    if (l->unreadable[0] && !to) {
        snprintf(why, 256, "%s; with --to TOPIC it is sent all the same", l->unreadable);
        return SKIP_UNREADABLE;
    }
    const char *wanted = to ? to : l->meta.topic;
    out->topic = target_of(s, wanted);
    if (!out->topic) {
        snprintf(why, 256, wanted[0] ? "topic '%.200s' does not exist" : "it says no original topic; give --to%s",
                 wanted);
        return SKIP_NO_TARGET;
    }
    out->partition = m->partition;
    out->offset = m->offset;
    out->record = (struct publish_record){
        .key = m->key, .n_key = m->key_len, .value = m->payload, .n_value = m->len, .refused = &p->refused};
    if (dlq_edit_is_on(&edit)) {
        int rc = dlq_edit_run(&edit, m->payload, m->len, &s->edited, &edit_err);
        if (rc == ERR_INPUT) {
            snprintf(why, 256, "%.255s", edit_err.text);
            return SKIP_EDIT;
        }
        if (rc < 0) {
            *err = edit_err;
            return rc;
        }
        p->edited = base_buffer_take(&s->edited, &out->record.n_value);
        out->record.value = p->edited;
    }
    struct schema_header *headers = headers_make(s, l, &out->record.n_headers);
    if (!headers)
        return base_fail(err, ERR_NOMEM, "out of memory for headers");
    p->memory = headers;
    out->record.headers = headers;
    if (record_bytes(&out->record) > s->n_bytes_max) {
        snprintf(why, 256, "%zu bytes; message.max.bytes allows %zu (--kafka message.max.bytes=N)",
                 record_bytes(&out->record), s->n_bytes_max);
        return SKIP_TOO_LARGE;
    }
    return SKIP_N;
}

/* Transactions */

static int flush(struct replay *s, struct base_error *err)
{
    char token[128];
    size_t done = 0;
    int rc = 0;
    dlq_sender_token(&s->sender, token);
    while (rc == 0 && done < s->n_pending) {
        size_t n = s->n_pending - done, n_same = 1;
        rc = dlq_pace_wait(&s->pace, s->records[done].topic, n, &n, err);
        while (n_same < n && s->records[done + n_same].topic == s->records[done].topic)
            n_same++;
        n = lag_max ? n_same : n; /* the lag is that of one topic */
        dlq_sender_token(&s->sender, token);
        for (size_t i = done; rc == 0 && i < done + n; i++) {
            const struct dlq_record *r = &s->records[i];
            dlq_audit_letter(&s->audit, r->partition, r->offset, NULL, r->topic, token);
            rc = dlq_ledger_set(&s->ledger, r->partition, r->offset, err);
        }
        if (rc == 0)
            rc = dlq_audit_sync(&s->audit, err);
        if (rc == 0)
            rc = dlq_sender_send(&s->sender, s->records + done, n, err);
        if (rc < 0)
            break;
        dlq_audit_committed(&s->audit, token, n, false);
        dlq_pace_sent(&s->pace, n);
        s->n_sent += n;
        done += n;
    }
    for (size_t i = 0; i < s->n_pending; i++)
        pending_done(&s->pending[i]);
    s->n_pending = s->pending_bytes = 0;
    return rc;
}

static int add(struct replay *s, rd_kafka_message_t *m, const struct pending *p, const struct dlq_record *r,
               struct base_error *err)
{
    size_t i = s->n_pending++;
    if (i == 0)
        s->pending_since_ns = base_clock_mono_ns();
    s->pending[i] = *p;
    s->pending[i].m = m;
    s->records[i] = *r;
    s->records[i].record.refused = &s->pending[i].refused;
    s->pending_bytes += r->record.n_value + r->record.n_key;
    if (s->n_pending < s->batch_max && s->pending_bytes < BATCH_BYTES_MAX &&
        base_clock_mono_ns() - s->pending_since_ns < BATCH_AGE_NS)
        return 0;
    return flush(s, err);
}

/* Letters */

static int skip_letter(struct replay *s, const struct dlq_letter *l, int reason, const char *why)
{
    char text[320];
    snprintf(text, sizeof text, "%s%s%s", skip_names[reason], why[0] ? ": " : "", why);
    for (char *c = text; *c; c++) /* it may quote bytes from outside, and goes to a terminal */
        *c = (unsigned char)*c < ' ' || *c == 127 ? '?' : *c;
    if (!dry_run)
        dlq_audit_letter(&s->audit, l->m->partition, l->m->offset, text, NULL, NULL);
    if (reason != SKIP_REPLAYED && s->n_skipped[reason]++ < 5)
        fprintf(stderr, "rouse dlq replay: letter %" PRId32 "/%" PRId64 " is left: %s\n", l->m->partition, l->m->offset,
                text);
    else if (reason == SKIP_REPLAYED)
        s->n_skipped[reason]++;
    return 0;
}

static int take_letter(struct replay *s, rd_kafka_message_t *m, struct dlq_letter *l, bool *keep,
                       struct base_error *err)
{
    struct pending p = {0};
    struct dlq_record r = {0};
    char why[256];
    s->n_selected++;
    int rc = decide(s, l, &p, &r, why, err);
    if (rc >= 0 && verify && (rc == SKIP_N || rc == SKIP_REPLAYED))
        if (dlq_verify_expect(&s->verify, m->partition, m->offset, rc == SKIP_N ? &r.record : NULL,
                              to ? target_of(s, to) : target_of(s, l->meta.topic), err) < 0)
            rc = ERR_NOMEM;
    if (rc == SKIP_N && !dry_run) {
        *keep = true;
        rc = add(s, m, &p, &r, err);
    } else {
        if (rc == SKIP_N) {
            rc = dlq_groups_add(&s->groups, l, false, err);
            s->n_sent++;
        } else if (rc >= 0) {
            rc = skip_letter(s, l, rc, why);
        }
        free(p.memory);
        free(p.edited);
    }
    return rc < 0 ? rc : limit && s->n_sent + s->n_pending >= limit;
}

static int take(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct dlq_letter l;
    int rc = 0;
    dlq_letter_init(&l, m);
    if (dlq_filter_matches(&dlq_filter, &l))
        rc = take_letter(context, m, &l, keep, err);
    dlq_letter_done(&l);
    return rc;
}

/* The run */

static int check_options(struct base_error *err)
{
    if (strlen(round_name) > 32 || strcspn(round_name, "/. ") != strlen(round_name) || !round_name[0])
        return base_fail(err, ERR_USAGE, "--again '%.40s': a round's name has 1-32 characters, no '/', '.' or space",
                         round_name);
    if ((lag_max > 0) != (lag_group != NULL))
        return base_fail(err, ERR_USAGE, "--lag-max and --group go together: whose lag, and how much of it");
    edit.sets = &sets;
    int rc = dlq_edit_check(&edit, err);
    return rc < 0 ? rc : dlq_filter_init(&dlq_filter, err);
}

static int start(struct replay *s, struct base_error *err)
{
    uint8_t random[6];
    int rc = dlq_reader_open(dlq_common.topic, &s->reader, err);
    if (rc < 0)
        return rc;
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return base_fail_errno(err, "getrandom");
    snprintf(s->run_id, sizeof s->run_id, "%s.%02x%02x%02x%02x%02x%02x", round_name, random[0], random[1], random[2],
             random[3], random[4], random[5]);
    snprintf(s->ledger_topic, sizeof s->ledger_topic, "%s.replayed", dlq_common.topic);
    rc = dlq_ledger_init(&s->ledger, round_name, s->reader.n_partitions, err);
    if (rc == 0 && !dry_run)
        rc = dlq_ledger_create_topic(s->ledger_topic, err);
    if (rc == 0 && !dry_run)
        rc = dlq_sender_open(&s->sender, &s->ledger, dlq_common.topic, s->ledger_topic, s->run_id, err);
    if (rc == 0)
        rc = dlq_ledger_load(&s->ledger, s->ledger_topic, !dry_run, err);
    if (rc == 0)
        rc = dlq_ledger_check(&s->ledger, dlq_common.topic, s->reader.end, err);
    if (rc < 0 || dry_run)
        return rc;
    s->n_bytes_max = dlq_sender_bytes_max(&s->sender);
    rc = dlq_audit_open(&s->audit, audit_path, dlq_common.topic, err);
    if (rc == 0 && s->sender.token[0])
        dlq_audit_committed(&s->audit, s->sender.token, 0, true);
    return rc;
}

static int plan(struct replay *s, struct base_error *err)
{
    s->n_bytes_max = 1000000;
    for (size_t i = 0; i < dlq_common.properties.n; i++) /* as the producer will have it */
        if (strncmp(dlq_common.properties.items[i], "message.max.bytes=", 18) == 0)
            s->n_bytes_max = strtoul(dlq_common.properties.items[i] + 18, NULL, 10);
    s->batch_max = rate && rate / 10 < BATCH_MAX ? (rate / 10 ? rate / 10 : 1) : BATCH_MAX;
    s->pending = calloc(BATCH_MAX, sizeof *s->pending);
    s->records = calloc(BATCH_MAX, sizeof *s->records);
    base_buffer_init(&s->edited, 64u << 20);
    if (!s->pending || !s->records)
        return base_fail(err, ERR_NOMEM, "out of memory for a batch of %d letters", BATCH_MAX);
    int rc = dlq_pace_open(&s->pace, rate, lag_max, lag_group, strcmp(on_lag, "stop") == 0, err);
    return rc < 0 ? rc : dlq_groups_init(&s->groups, by, err);
}

static void finish(struct replay *s)
{
    for (size_t i = 0; i < s->n_pending; i++)
        pending_done(&s->pending[i]);
    free(s->pending);
    free(s->records);
    base_buffer_done(&s->edited);
    dlq_pace_close(&s->pace);
    dlq_verify_done(&s->verify);
    dlq_groups_done(&s->groups);
    dlq_audit_close(&s->audit);
    if (s->sender.id[0])
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
    base_json_kv_uint(&j, dry_run ? "would_send" : "sent", s->n_sent);
    base_json_key(&j, "skipped");
    base_json_object_begin(&j);
    for (int i = 0; i < SKIP_N; i++)
        base_json_kv_uint(&j, skip_names[i], s->n_skipped[i]);
    base_json_object_end(&j);
    base_json_kv_double(&j, "seconds", seconds, 6);
    base_json_object_end(&j);
    puts(base_buffer_cstr(&out));
    base_buffer_done(&out);
}

static void print_text(const struct replay *s, double seconds)
{
    printf("%" PRIu64 " letters selected, %" PRIu64 " %s", s->n_selected, s->n_sent,
           dry_run ? "would be sent" : "sent");
    for (int i = 0; i < SKIP_N; i++)
        if (s->n_skipped[i])
            printf(", %" PRIu64 " left (%s)", s->n_skipped[i], skip_names[i]);
    if (!dry_run)
        printf("; %.2f s, %.0f letters/s", seconds, (double)s->n_sent / seconds);
    putchar('\n');
}

static int replay(int n_args, char **args, struct base_error *err)
{
    static struct replay s;
    uint64_t began_ns = 0;
    (void)n_args, (void)args;
    int rc = check_options(err);
    if (rc == 0)
        rc = plan(&s, err);
    if (rc == 0)
        rc = start(&s, err);
    if (rc == 0)
        rc = dlq_filter_narrow(&dlq_filter, &s.reader, err);
    began_ns = base_clock_mono_ns();
    if (rc == 0) {
        dlq_pace_begin(&s.pace);
        rc = dlq_reader_run(&s.reader, dry_run ? "counting dead letters" : "replaying dead letters", take, &s, err);
    }
    if (rc == 0 && s.n_pending)
        rc = flush(&s, err);
    if (s.audit.file) {
        struct base_error audit_err;
        if (dlq_audit_sync(&s.audit, &audit_err) < 0 && rc == 0)
            rc = base_fail(err, audit_err.code, "%s", audit_err.text);
    }
    double seconds = (double)(base_clock_mono_ns() - began_ns) / 1e9;
    if (rc == 0 && dry_run)
        rc = dlq_groups_print(&s.groups, dlq_common.json, err);
    if (rc == 0 || s.n_sent) {
        if (dlq_common.json)
            print_json(&s, seconds);
        else
            print_text(&s, seconds);
    }
    if (rc == 0 && verify && !dry_run)
        rc = dlq_verify_run(&s.verify, round_name, dlq_common.json, err);
    if (rc == ERR_STOPPED)
        base_fail(err, rc, "stopped; what was sent is committed, and the same command goes on from there");
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
