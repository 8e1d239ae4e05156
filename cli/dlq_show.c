/* rouse dlq show: what a dead letter says, and what is in it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_writer.h"
#include "base/utf8.h"
#include "cli/dlq_filter.h"
#include "cli/dlq_verbs.h"

#define HEX_BYTES  256 /* of what is no batch */
#define TEXT_BYTES 400 /* of a prompt, without --json */

static uint64_t limit;

struct showing {
    uint64_t n;
};

/* Text from outside, safe on a terminal: what is no UTF-8, and control characters (C1 too), as \xNN. */
static void put_text(const char *text, size_t n, size_t n_max)
{
    size_t i = 0;
    while (i < n && i < n_max) {
        uint32_t code = 0;
        int k = base_utf8_next((const uint8_t *)text + i, n - i, &code);
        bool plain = k > 0 && code >= ' ' && code != '\\' && (code < 127 || code > 159);
        size_t n_chars = k > 0 ? (size_t)k : 1;
        if (plain)
            fwrite(text + i, 1, n_chars, stdout);
        for (size_t c = 0; !plain && c < n_chars; c++)
            printf("\\x%02x", (unsigned char)text[i + c]);
        i += n_chars;
    }
    if (n > n_max)
        printf("... (%zu bytes)", n);
}

static void put_line(const char *label, const char *text)
{
    fputs(label, stdout);
    put_text(text, strlen(text), 1024);
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
        put_text(p->id.text ? p->id.text : "", p->id.n, 256);
        fputs(": ", stdout);
        if (p->text.text)
            put_text(p->text.text, p->text.n, TEXT_BYTES);
        else
            printf("%" PRIu32 " tokens", p->n_tokens);
        if (p->error != SCHEMA_OK)
            put_line("  refused: ", p->error_text ? p->error_text : schema_code_name(p->error));
        putchar('\n');
    }
}

static void show_text(struct dlq_letter *l)
{
    char when[32];
    const rd_kafka_message_t *m = l->m;
    dlq_time_text(l->when_ms, when);
    printf("letter %" PRId32 "/%" PRId64 "  %s at %s  %s\n", m->partition, m->offset, l->code, l->stage, when);
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
        put_text(l->headers[i].name, strlen(l->headers[i].name), 128);
        fputs(" = ", stdout);
        put_text(l->headers[i].value, l->headers[i].n, 256);
        putchar('\n');
    }
    fputs("  key      ", stdout);
    if (m->key)
        put_text(m->key, m->key_len, 256);
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

static void json_hex(struct base_json *j, const char *key, const uint8_t *bytes, size_t n)
{
    char *text = malloc(2 * n + 1);
    if (!text)
        return;
    text[0] = '\0';
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    base_json_kv_string(j, key, text);
    free(text);
}

static void json_batch(struct base_json *j, const struct schema_prompt_batch *b)
{
    base_json_key(j, "batch");
    base_json_object_begin(j);
    base_json_key(j, "batch_id");
    base_json_string_n(j, b->batch_id.text, b->batch_id.n);
    if (b->model.text) {
        base_json_key(j, "model");
        base_json_string_n(j, b->model.text, b->model.n);
    }
    if (b->deadline_ms)
        base_json_kv_int(j, "deadline_ms", b->deadline_ms);
    base_json_key(j, "prompts");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < b->n_prompts; i++) {
        const struct schema_prompt *p = &b->prompts[i];
        base_json_object_begin(j);
        base_json_key(j, "id");
        base_json_string_n(j, p->id.text ? p->id.text : "", p->id.n);
        if (p->text.text) {
            base_json_key(j, "text");
            base_json_string_n(j, p->text.text, p->text.n);
        }
        if (p->n_tokens)
            base_json_kv_uint(j, "n_tokens", p->n_tokens);
        if (p->sampling.has & SCHEMA_HAS_MAX_TOKENS)
            base_json_kv_uint(j, "max_tokens", p->sampling.max_tokens);
        if (p->error != SCHEMA_OK) {
            base_json_kv_string(j, "error", schema_code_name(p->error));
            base_json_kv_string(j, "error_text", p->error_text);
        }
        base_json_object_end(j);
    }
    base_json_array_end(j);
    base_json_object_end(j);
}

static int show_json(struct dlq_letter *l, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 256u << 20);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_int(&j, "partition", l->m->partition);
    base_json_kv_int(&j, "offset", l->m->offset);
    base_json_kv_string(&j, "code", l->code);
    base_json_kv_string(&j, "stage", l->stage);
    base_json_kv_int(&j, "failed_ms", l->when_ms);
    if (l->unreadable[0])
        base_json_kv_string(&j, "unreadable_headers", l->unreadable);
    base_json_key(&j, "headers");
    base_json_array_begin(&j); /* a name may be there twice */
    for (uint32_t i = 0; i < l->n_headers; i++) {
        base_json_object_begin(&j);
        base_json_kv_string(&j, "name", l->headers[i].name);
        base_json_key(&j, "value");
        base_json_string_n(&j, l->headers[i].value ? l->headers[i].value : "", l->headers[i].n);
        base_json_object_end(&j);
    }
    base_json_array_end(&j);
    base_json_key(&j, "key");
    if (l->m->key)
        base_json_string_n(&j, l->m->key, l->m->key_len);
    else
        base_json_null(&j);
    base_json_kv_uint(&j, "value_bytes", l->m->len);
    const struct schema_prompt_batch *b = dlq_letter_batch(l);
    if (b) {
        json_batch(&j, b);
    } else {
        base_json_kv_string(&j, "no_batch", l->no_batch);
        json_hex(&j, "value_hex", l->m->payload, l->m->payload ? l->m->len : 0);
    }
    base_json_object_end(&j);
    int rc = out.failed ? base_fail(err, out.failed, "JSON: no room") : 0;
    if (rc == 0)
        puts(base_buffer_cstr(&out));
    base_buffer_done(&out);
    return rc < 0 ? rc : cli_flush(err);
}

static int take(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct showing *s = context;
    struct dlq_letter l;
    int rc = 0;
    (void)keep;
    dlq_letter_init(&l, m);
    if (dlq_filter_matches(&dlq_filter, &l)) {
        s->n++;
        if (dlq_common.json)
            rc = show_json(&l, err);
        else
            show_text(&l);
    }
    dlq_letter_done(&l);
    return rc < 0 ? rc : limit && s->n >= limit;
}

/* PARTITION/OFFSET, as ls and the audit write it. */
static int take_place(const char *place, struct base_error *err)
{
    uint32_t partition;
    uint64_t offset;
    int n = 0;
    const char *slash = strrchr(place, '/'); /* topic/partition/offset is as good */
    while (slash && slash > place && slash[-1] != '/')
        slash--;
    if (sscanf(slash ? slash : place, "%9" SCNu32 "/%18" SCNu64 "%n", &partition, &offset, &n) != 2 ||
        (slash ? slash : place)[n])
        return base_fail(err, ERR_USAGE, "'%.60s' is no letter; say PARTITION/OFFSET, as in 3/1207", place);
    dlq_filter.partition = partition;
    dlq_filter.from = dlq_filter.to = offset;
    return 0;
}

static int show(int n_args, char **args, struct base_error *err)
{
    struct dlq_reader r = {0};
    struct showing s = {0};
    int rc = n_args ? take_place(args[0], err) : 0;
    if (rc == 0)
        rc = dlq_filter_init(&dlq_filter, err);
    if (rc == 0)
        rc = dlq_reader_open(dlq_common.topic, &r, err);
    if (rc == 0)
        rc = dlq_filter_narrow(&dlq_filter, &r, err);
    if (rc == 0)
        rc = dlq_reader_run(&r, NULL, take, &s, err);
    if (rc == 0 && s.n == 0)
        rc = base_fail(err, ERR_NOTFOUND, "no letter of '%s' matches; rouse dlq ls counts what is there",
                       dlq_common.topic);
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
