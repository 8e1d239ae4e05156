#include "cli/dlq_outgoing.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OVERHEAD_BYTES 512 /* what the protocol adds to key, value and headers, generously */

const char *const dlq_skip_names[DLQ_SKIP_N] = {"replayed-already", "replayed-too-often", "unreadable-headers",
                                                "no-target",        "edit-failed",        "too-large"};

void dlq_outgoing_done(struct dlq_outgoing *o)
{
    free(o->headers);
    free(o->edited);
    *o = (struct dlq_outgoing){0};
}

/* The letter's headers with ours of the replay in place of older ones, in one block with the texts of ours. */
static int make_headers(const struct dlq_maker *m, const struct dlq_letter *l, struct dlq_outgoing *out,
                        struct base_error *err)
{
    struct text {
        char count[12], of[300];
    } * text;
    struct schema_header *h = malloc((l->n_headers + 3) * sizeof *h + sizeof *text);
    uint32_t n = 0;
    if (!h)
        return base_fail(err, ERR_NOMEM, "out of memory for headers");
    text = (struct text *)(h + l->n_headers + 3);
    for (uint32_t i = 0; i < l->n_headers; i++)
        if (strncmp(l->headers[i].name, "x-replay-", 9) != 0)
            h[n++] = l->headers[i];
    snprintf(text->count, sizeof text->count, "%" PRIu32, l->meta.replay_count + 1);
    snprintf(text->of, sizeof text->of, "%s/%" PRId32 "/%" PRId64, dlq_common.topic, l->m->partition, l->m->offset);
    h[n++] = (struct schema_header){"x-replay-id", m->run_id, strlen(m->run_id)};
    h[n++] = (struct schema_header){"x-replay-count", text->count, strlen(text->count)};
    h[n++] = (struct schema_header){"x-replay-of", text->of, strlen(text->of)};
    out->headers = h;
    out->record.record.headers = h;
    out->record.record.n_headers = n;
    return 0;
}

static size_t record_bytes(const struct publish_record *r)
{
    size_t n = r->n_key + r->n_value + OVERHEAD_BYTES;
    for (uint32_t i = 0; i < r->n_headers; i++)
        n += strlen(r->headers[i].name) + r->headers[i].n + 8;
    return n;
}

static int find_target(struct dlq_maker *m, const struct dlq_letter *l, struct dlq_outgoing *out, char why[256],
                       struct base_error *err)
{
    const char *wanted = m->to ? m->to : l->meta.topic;
    int rc = dlq_route_find(&m->route, wanted, &out->record.topic, err);
    if (rc < 0 || out->record.topic)
        return rc;
    if (wanted[0])
        snprintf(why, 256, "topic '%.200s' does not exist; --to TOPIC sends it elsewhere", wanted);
    else
        snprintf(why, 256, "it says no original topic; give --to");
    return 1 + DLQ_SKIP_NO_TARGET;
}

static int edit_value(struct dlq_maker *m, struct dlq_letter *l, struct dlq_outgoing *out, char why[256],
                      struct base_error *err)
{
    struct base_error edit_err = {0};
    int rc = dlq_edit_run(m->edit, l, &m->edited, &edit_err);
    if (rc == ERR_INPUT) {
        snprintf(why, 256, "%.255s", edit_err.text);
        return 1 + DLQ_SKIP_EDIT;
    }
    if (rc < 0) {
        *err = edit_err;
        return rc;
    }
    out->edited = base_buffer_take(&m->edited, &out->record.record.n_value);
    out->record.record.value = out->edited;
    return 0;
}

static int refuse(const struct dlq_maker *m, const struct dlq_letter *l, char why[256])
{
    why[0] = '\0';
    if (dlq_ledger_has(m->ledger, l->m->partition, l->m->offset, m->any_round))
        return 1 + DLQ_SKIP_REPLAYED;
    if (l->meta.replay_count >= m->replay_max)
        return 1 + DLQ_SKIP_LOOP;
    if (l->is_cut) { /* sending what was read of it would lose the rest */
        snprintf(why, 256, "it has more than %d headers", DLQ_HEADERS_MAX);
        return 1 + DLQ_SKIP_UNREADABLE;
    }
    if (l->unreadable[0] && !m->to) {
        snprintf(why, 256, "%s; with --to TOPIC it is sent all the same", l->unreadable);
        return 1 + DLQ_SKIP_UNREADABLE;
    }
    return 0;
}

static int make(struct dlq_maker *m, struct dlq_letter *l, struct dlq_outgoing *out, char why[256],
                struct base_error *err)
{
    int rc = refuse(m, l, why);
    if (rc == 0)
        rc = find_target(m, l, out, why, err);
    if (rc == 0 && dlq_edit_is_on(m->edit))
        rc = edit_value(m, l, out, why, err);
    if (rc == 0)
        rc = make_headers(m, l, out, err);
    if (rc == 0 && record_bytes(&out->record.record) > m->route.n_bytes_max) {
        snprintf(why, 256, "%zu bytes; message.max.bytes allows %zu (--kafka message.max.bytes=N)",
                 record_bytes(&out->record.record), m->route.n_bytes_max);
        rc = 1 + DLQ_SKIP_TOO_LARGE;
    }
    return rc;
}

int dlq_outgoing_make(struct dlq_maker *m, struct dlq_letter *l, struct dlq_outgoing *out, char why[256],
                      struct base_error *err)
{
    *out = (struct dlq_outgoing){
        .record = {.partition = l->m->partition,
                   .offset = l->m->offset,
                   .record = {.key = l->m->key, .n_key = l->m->key_len, .value = l->m->payload, .n_value = l->m->len}}};
    int rc = make(m, l, out, why, err);
    if (rc != 0)
        dlq_outgoing_done(out);
    return rc;
}
