#include "cli/dlq_letter.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

const struct schema_header *dlq_letter_header(const struct dlq_letter *l, const char *name)
{
    for (uint32_t i = l->n_headers; i-- > 0;)
        if (strcmp(l->headers[i].name, name) == 0)
            return &l->headers[i];
    return NULL;
}

static void take_headers(struct dlq_letter *l)
{
    rd_kafka_headers_t *headers = NULL;
    const char *name;
    const void *value;
    size_t n;
    if (rd_kafka_message_headers(l->m, &headers))
        return;
    while (l->n_headers < DLQ_HEADERS_MAX && !rd_kafka_header_get_all(headers, l->n_headers, &name, &value, &n))
        l->headers[l->n_headers++] = (struct schema_header){.name = name, .value = value, .n = value ? n : 0};
    l->is_cut =
        l->n_headers == DLQ_HEADERS_MAX && !rd_kafka_header_get_all(headers, DLQ_HEADERS_MAX, &name, &value, &n);
}

/* Of headers that do not parse as a whole: loops end all the same. One that is no number stands for more than any bound. */
static uint32_t replay_count_alone(const struct dlq_letter *l)
{
    struct schema_dead_letter meta;
    const struct schema_header *count = dlq_letter_header(l, "x-replay-count");
    if (!count)
        return 0;
    return schema_dead_letter_parse(count, 1, &meta, NULL) == 0 ? meta.replay_count : UINT32_MAX;
}

/* A word for grouping and filters: printable ASCII without spaces, or a dash. */
static void take_word(const struct dlq_letter *l, const char *name, char *out, size_t size)
{
    const struct schema_header *h = dlq_letter_header(l, name);
    bool good = h && h->n > 0 && h->n < size;
    for (size_t i = 0; good && i < h->n; i++)
        good = ((const unsigned char *)h->value)[i] > ' ' && ((const unsigned char *)h->value)[i] < 127;
    snprintf(out, size, "%.*s", good ? (int)h->n : 1, good ? (const char *)h->value : h ? "?" : "-");
}

void dlq_letter_init(struct dlq_letter *l, const rd_kafka_message_t *m)
{
    struct base_error err = {0};
    l->m = m;
    l->n_headers = 0;
    l->unreadable[0] = l->no_batch[0] = '\0';
    l->is_cut = l->decoded = false;
    l->batch = NULL;
    take_headers(l);
    if (schema_dead_letter_parse(l->headers, l->n_headers, &l->meta, &err) < 0) {
        l->meta = (struct schema_dead_letter){.replay_count = replay_count_alone(l)};
        snprintf(l->unreadable, sizeof l->unreadable, "%.199s", err.text);
    }
    take_word(l, "x-error-code", l->code, sizeof l->code);
    take_word(l, "x-error-stage", l->stage, sizeof l->stage);
    rd_kafka_timestamp_type_t type;
    int64_t written_ms = rd_kafka_message_timestamp(m, &type);
    l->when_ms = l->meta.last_failed_ms ? l->meta.last_failed_ms : written_ms > 0 ? written_ms : 0;
}

void dlq_letter_done(struct dlq_letter *l)
{
    schema_prompt_batch_free(l->batch);
    l->batch = NULL;
}

const struct schema_prompt_batch *dlq_letter_batch(struct dlq_letter *l)
{
    struct base_error err = {0};
    if (l->decoded)
        return l->batch;
    l->decoded = true;
    if (!l->m->payload)
        snprintf(l->no_batch, sizeof l->no_batch, "the record has no value");
    else if (schema_prompt_batch_decode(l->m->payload, l->m->len, NULL, &l->batch, NULL, &err) < 0) {
        l->batch = NULL;
        snprintf(l->no_batch, sizeof l->no_batch, "%.255s", err.text);
    }
    return l->batch;
}
