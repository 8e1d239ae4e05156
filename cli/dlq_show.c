/* rouse dlq show: what a dead letter says, and what is in it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/dlq_filter.h"
#include "cli/dlq_ledger.h"
#include "cli/dlq_place.h"
#include "cli/dlq_show.h"
#include "cli/dlq_text.h"
#include "cli/dlq_time.h"
#include "cli/dlq_verbs.h"

#define HEX_BYTES  256 /* of what is no batch */
#define TEXT_BYTES 400 /* of a prompt, without --json */

static uint64_t limit;

struct showing {
    struct dlq_ledger ledger; /* in the page of which round a bit is does not matter here */
    uint64_t n;
};

static void put_line(const char *label, const char *text)
{
    fputs(label, stdout);
    dlq_text_put(text, strlen(text), 1024);
}

static void put_hex(const uint8_t *bytes, size_t n, size_t n_max)
{
    for (size_t at = 0; at < n && at < n_max; at += 16) {
        printf("    %06zx ", at);
        for (size_t i = at; i < at + 16; i++)
            if (i < n)
                printf(" %02x", bytes[i]);
            else
                fputs("   ", stdout);
        fputs("  ", stdout);
        for (size_t i = at; i < at + 16 && i < n; i++)
            putchar(isprint(bytes[i]) && bytes[i] < 127 ? bytes[i] : '.');
        putchar('\n');
    }
    if (n > n_max)
        printf("    ... %zu bytes in all\n", n);
}

static void put_prompts(const struct schema_prompt_batch *b)
{
    put_line("  batch    ", b->batch_id.text);
    put_line(", model ", b->model.text ? b->model.text : "(any)");
    printf(", %" PRIu32 " prompts\n", b->n_prompts);
    for (uint32_t i = 0; i < b->n_prompts; i++) {
        const struct schema_prompt *p = &b->prompts[i];
        fputs("  prompt   ", stdout);
        dlq_text_put(p->id.text ? p->id.text : "", p->id.n, 256);
        fputs(": ", stdout);
        if (p->text.text)
            dlq_text_put(p->text.text, p->text.n, TEXT_BYTES);
        else
            printf("%" PRIu32 " tokens", p->n_tokens);
        if (p->error != SCHEMA_OK)
            put_line("  refused: ", p->error_text ? p->error_text : schema_code_name(p->error));
        putchar('\n');
    }
}

static void show_text(struct dlq_letter *l, bool replayed)
{
    char when[32];
    const rd_kafka_message_t *m = l->m;
    dlq_time_text(l->when_ms, when);
    printf("letter %" PRId32 "/%" PRId64 "  %s at %s  %s%s\n", m->partition, m->offset, l->code, l->stage, when,
           replayed ? "  (replayed)" : "");
    if (l->unreadable[0])
        put_line("  headers do not parse: ", l->unreadable);
    else
        put_line("  message  ", l->meta.message);
    if (!l->unreadable[0]) {
        put_line("\n  from     ", l->meta.topic);
        printf("/%" PRId32 "/%" PRId64, l->meta.partition, l->meta.offset);
        put_line(" by group ", l->meta.group);
        printf(", tried %" PRIu32 " times", l->meta.delivery_count);
    }
    putchar('\n');
    for (uint32_t i = 0; i < l->n_headers; i++) {
        fputs("  header   ", stdout);
        dlq_text_put(l->headers[i].name, strlen(l->headers[i].name), 128);
        fputs(" = ", stdout);
        dlq_text_put(l->headers[i].value, l->headers[i].n, 256);
        putchar('\n');
    }
    fputs("  key      ", stdout);
    if (m->key)
        dlq_text_put(m->key, m->key_len, 256);
    else
        fputs("(none)", stdout);
    putchar('\n');
    const struct schema_prompt_batch *b = dlq_letter_batch(l);
    if (b)
        put_prompts(b);
    else
        printf("  value    %zu bytes", m->len);
    if (!b)
        put_line(", no batch: ", l->no_batch);
    putchar('\n');
    if (!b && m->payload)
        put_hex(m->payload, m->len, HEX_BYTES);
    putchar('\n');
}

static int take(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct showing *s = context;
    struct dlq_letter l;
    int rc = 0;
    (void)keep;
    dlq_letter_init(&l, m);
    if (dlq_filter_matches(&dlq_filter, &l)) {
        bool replayed = dlq_ledger_has(&s->ledger, m->partition, m->offset, true);
        s->n++;
        if (dlq_common.json)
            rc = dlq_show_json(&l, replayed, err);
        else
            show_text(&l, replayed);
    }
    dlq_letter_done(&l);
    return rc < 0 ? rc : limit && s->n >= limit;
}

static int take_place(const char *place, struct base_error *err)
{
    int32_t partition;
    int64_t offset;
    if (!dlq_place_parse(place, dlq_common.topic, &partition, &offset))
        return base_fail(err, ERR_USAGE, "'%.300s' is no letter of '%s'; say PARTITION/OFFSET, as in 3/1207", place,
                         dlq_common.topic);
    dlq_filter.partition = (uint64_t)partition;
    dlq_filter.from = dlq_filter.to = (uint64_t)offset;
    return 0;
}

static int show(int n_args, char **args, struct base_error *err)
{
    struct dlq_reader r = {0};
    struct showing s = {0};
    char ledger_topic[300];
    snprintf(ledger_topic, sizeof ledger_topic, "%s.replayed", dlq_common.topic);
    int rc = n_args ? take_place(args[0], err) : 0;
    if (rc == 0)
        rc = dlq_filter_init(&dlq_filter, err);
    if (rc == 0)
        rc = dlq_reader_open(dlq_common.topic, DLQ_COMMITTED, &r, err);
    if (rc == 0)
        rc = dlq_filter_narrow(&dlq_filter, &r, err);
    if (rc == 0)
        rc = dlq_ledger_init(&s.ledger, "first", r.n_partitions, err);
    if (rc == 0)
        rc = dlq_ledger_load(&s.ledger, ledger_topic, false, err);
    if (rc == 0)
        rc = dlq_reader_run(&r, NULL, take, &s, err);
    if (rc == 0 && s.n == 0)
        rc = base_fail(err, ERR_NOTFOUND, "no letter of '%s' matches; rouse dlq ls counts what is there",
                       dlq_common.topic);
    dlq_ledger_done(&s.ledger);
    dlq_reader_close(&r);
    return rc;
}

static const struct base_option options[] = {
    {"limit", BASE_OPTION_UINT, &limit, "N", "10", NULL, 0, 0, "Output", "Show N letters at most. 0: all.", false},
    DLQ_OPTIONS_FILTER,
    DLQ_OPTIONS_COMMON,
    CLI_OPTIONS_END,
};

const struct dlq_verb dlq_show = {
    .name = "show",
    .synopsis = "--brokers LIST [PARTITION/OFFSET] [options]",
    .summary = "Shows dead letters: why, where from, all headers, the prompts; bytes where there is no batch.",
    .examples = "  rouse dlq show 3/1207 --brokers localhost:9092\n"
                "  rouse dlq show --brokers localhost:9092 --code malformed --limit 3\n",
    .options = options,
    .n_args_max = 1,
    .run = show,
};
