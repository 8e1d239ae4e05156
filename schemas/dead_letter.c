#include "schemas/dead_letter.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* The headers, in the order they are written. TEXT goes into a char array, the numbers into an integer of their width. */
enum letter_kind { LETTER_TEXT, LETTER_U32, LETTER_I32, LETTER_I64, LETTER_CODE, LETTER_STAGE };

struct letter_field {
    const char *name;
    enum letter_kind kind;
    size_t offset, size; /* in struct schema_dead_letter */
    bool required;       /* written even when empty or 0 */
};

#define LETTER_AT(member) offsetof(struct schema_dead_letter, member), sizeof(((struct schema_dead_letter *)0)->member)

static const struct letter_field letter_fields[] = {
    {"__dlq.errors.topic", LETTER_TEXT, LETTER_AT(topic), true},
    {"__dlq.errors.partition", LETTER_I32, LETTER_AT(partition), true},
    {"__dlq.errors.offset", LETTER_I64, LETTER_AT(offset), true},
    {"__dlq.errors.group", LETTER_TEXT, LETTER_AT(group), true},
    {"__dlq.errors.delivery.count", LETTER_U32, LETTER_AT(delivery_count), true},
    {"__dlq.errors.message", LETTER_TEXT, LETTER_AT(message), true},
    {"x-error-code", LETTER_CODE, LETTER_AT(code), true},
    {"x-error-stage", LETTER_STAGE, LETTER_AT(stage), true},
    {"x-orig-timestamp-ms", LETTER_I64, LETTER_AT(orig_timestamp_ms), false},
    {"x-first-failed-ms", LETTER_I64, LETTER_AT(first_failed_ms), false},
    {"x-last-failed-ms", LETTER_I64, LETTER_AT(last_failed_ms), false},
    {"x-worker", LETTER_TEXT, LETTER_AT(worker), false},
    {"x-replay-id", LETTER_TEXT, LETTER_AT(replay_id), false},
    {"x-replay-count", LETTER_U32, LETTER_AT(replay_count), false},
    {"x-replay-of", LETTER_TEXT, LETTER_AT(replay_of), false},
    {"traceparent", LETTER_TEXT, LETTER_AT(traceparent), false},
};
enum { N_LETTER_FIELDS = sizeof(letter_fields) / sizeof(letter_fields[0]) };

static const struct letter_field *letter_field_find(const char *name)
{
    for (size_t i = 0; i < N_LETTER_FIELDS; i++) {
        if (strcmp(letter_fields[i].name, name) == 0)
            return &letter_fields[i];
    }
    return NULL;
}

/* Writing */

/* Text up to where it stops being UTF-8: a message that quotes a path may not be, or be cut inside a character. */
static size_t letter_text_bytes(const char *text, size_t n)
{
    size_t n_good = 0;
    int k;
    while ((k = base_utf8_next((const uint8_t *)text + n_good, n - n_good, NULL)) > 0)
        n_good += (size_t)k;
    return n_good;
}

/* The field's value as text, appended; the number of bytes. */
static size_t letter_value_write(const struct letter_field *field, const struct schema_dead_letter *letter,
                                 struct base_buffer *out)
{
    const char *at = (const char *)letter + field->offset;
    size_t began = out->n;
    switch (field->kind) {
    case LETTER_TEXT:
        base_buffer_append(out, at, letter_text_bytes(at, strnlen(at, field->size)));
        break;
    case LETTER_U32:
        base_buffer_printf(out, "%" PRIu32, *(const uint32_t *)at);
        break;
    case LETTER_I32:
        base_buffer_printf(out, "%" PRId32, *(const int32_t *)at);
        break;
    case LETTER_I64:
        base_buffer_printf(out, "%" PRId64, *(const int64_t *)at);
        break;
    case LETTER_CODE:
        base_buffer_string(out, schema_code_name(*(const enum schema_code *)at));
        break;
    case LETTER_STAGE:
        base_buffer_string(out, schema_stage_name(*(const enum schema_stage *)at));
        break;
    }
    return out->n - began;
}

/* Of the fields that may be left out. librdkafka's time of a record that has none is -1. */
static bool letter_value_is_empty(const struct letter_field *field, const struct schema_dead_letter *letter)
{
    const char *at = (const char *)letter + field->offset;
    if (field->kind == LETTER_I64)
        return *(const int64_t *)at <= 0;
    if (field->kind == LETTER_U32)
        return *(const uint32_t *)at == 0;
    return at[0] == '\0';
}

static void letter_keep(char *to, size_t size, const char *from)
{
    if (to[0] == '\0')
        snprintf(to, size, "%s", from);
}

/* The letter with what an earlier one, or a replay, has put into the original's headers. */
static struct schema_dead_letter letter_with_origin(const struct schema_dead_letter *letter,
                                                    const struct schema_header *original, uint32_t n_original)
{
    struct schema_dead_letter merged = *letter, origin;
    if (merged.first_failed_ms == 0)
        merged.first_failed_ms = merged.last_failed_ms;
    if (schema_dead_letter_parse(original, n_original, &origin, NULL) < 0)
        return merged; /* headers of somebody else that happen to have our names */
    letter_keep(merged.traceparent, sizeof(merged.traceparent), origin.traceparent);
    letter_keep(merged.replay_id, sizeof(merged.replay_id), origin.replay_id);
    letter_keep(merged.replay_of, sizeof(merged.replay_of), origin.replay_of);
    if (merged.replay_count == 0)
        merged.replay_count = origin.replay_count;
    if (origin.topic[0] == '\0')
        return merged;
    memcpy(merged.topic, origin.topic, sizeof(merged.topic));
    merged.partition = origin.partition;
    merged.offset = origin.offset;
    if (origin.orig_timestamp_ms != 0)
        merged.orig_timestamp_ms = origin.orig_timestamp_ms;
    if (origin.first_failed_ms != 0)
        merged.first_failed_ms = origin.first_failed_ms;
    return merged;
}

uint32_t schema_dead_letter_headers(const struct schema_dead_letter *letter, const struct schema_header *original,
                                    uint32_t n_original, struct base_buffer *memory,
                                    struct schema_header out[SCHEMA_DEAD_LETTER_HEADERS_MAX])
{
    struct schema_dead_letter merged = letter_with_origin(letter, original, n_original);
    size_t at[N_LETTER_FIELDS], n_bytes = 0; /* offsets in memory, which moves while it grows */
    uint32_t n = 0;
    for (size_t i = 0; i < N_LETTER_FIELDS; i++) {
        const struct letter_field *field = &letter_fields[i];
        if (!field->required && letter_value_is_empty(field, &merged))
            continue;
        at[n] = memory->n;
        out[n] = (struct schema_header){.name = field->name, .n = letter_value_write(field, &merged, memory)};
        n_bytes += strlen(field->name) + out[n].n;
        base_buffer_byte(memory, 0);
        n++;
    }
    if (memory->failed)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        out[i].value = memory->data + at[i];
    assert(n_bytes <= SCHEMA_DEAD_LETTER_BYTES_MAX); /* the sizes of the struct's arrays see to that */

    for (uint32_t i = 0; i < n_original && n < SCHEMA_DEAD_LETTER_HEADERS_MAX; i++) {
        const struct schema_header *h = &original[i];
        size_t n_more = strlen(h->name) + h->n;
        if (letter_field_find(h->name) || n_more < h->n || n_more > SCHEMA_DEAD_LETTER_BYTES_MAX - n_bytes)
            continue;
        out[n++] = *h;
        n_bytes += n_more;
    }
    return n;
}

/* Reading */

/* Digits alone: no sign, no space, no leading zero beside "0" itself. */
static bool letter_parse_number(const char *text, size_t n, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (n == 0 || (n > 1 && text[0] == '0'))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint64_t digit = (uint64_t)(unsigned char)text[i] - '0';
        if (digit > 9 || v > (max - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

/* False: text that does not parse. text is NUL-terminated at n. */
static bool letter_value_parse(const struct letter_field *field, const char *text, size_t n,
                               struct schema_dead_letter *letter)
{
    char *at = (char *)letter + field->offset;
    uint64_t v = 0;
    switch (field->kind) {
    case LETTER_TEXT:
        if (n >= field->size)
            return false;
        memset(at, 0, field->size);
        memcpy(at, text, n);
        return true;
    case LETTER_U32:
        if (!letter_parse_number(text, n, UINT32_MAX, &v))
            return false;
        *(uint32_t *)at = (uint32_t)v;
        return true;
    case LETTER_I32:
        if (!letter_parse_number(text, n, INT32_MAX, &v))
            return false;
        *(int32_t *)at = (int32_t)v;
        return true;
    case LETTER_I64:
        if (!letter_parse_number(text, n, INT64_MAX, &v))
            return false;
        *(int64_t *)at = (int64_t)v;
        return true;
    case LETTER_CODE:
        letter->code = schema_code_find(text);
        if (letter->code == SCHEMA_CODE_N || letter->code == SCHEMA_OK) /* the list may grow: wire.md, "Evolution" */
            letter->code = SCHEMA_INTERNAL;
        return true;
    case LETTER_STAGE:
        while (v < SCHEMA_STAGE_N && strcmp(schema_stage_name((enum schema_stage)v), text) != 0)
            v++;
        if (v == SCHEMA_STAGE_N)
            return false;
        letter->stage = (enum schema_stage)v;
        return true;
    }
    return false;
}

int schema_dead_letter_parse(const struct schema_header *headers, uint32_t n, struct schema_dead_letter *out_letter,
                             struct base_error *err)
{
    struct schema_dead_letter letter = {0};
    for (uint32_t i = 0; i < n; i++) {
        const struct schema_header *h = &headers[i];
        const struct letter_field *field = letter_field_find(h->name);
        if (!field)
            continue;
        char text[sizeof(letter.message)] = ""; /* the longest of all values */
        bool fits =
            h->n < sizeof(text) && (h->n == 0 || !memchr(h->value, '\0', h->n)) && base_utf8_valid(h->value, h->n);
        if (fits && h->n > 0)
            memcpy(text, h->value, h->n);
        if (!fits || !letter_value_parse(field, text, h->n, &letter))
            return base_fail(err, ERR_INPUT, "header %s: '%.64s' (%zu bytes) does not parse", field->name, text, h->n);
    }
    *out_letter = letter;
    return 0;
}
