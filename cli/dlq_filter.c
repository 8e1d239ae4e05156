#include "cli/dlq_filter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/dlq_time.h"

struct dlq_filter dlq_filter = DLQ_FILTER_UNSET;

int dlq_filter_init(struct dlq_filter *f, struct base_error *err)
{
    int64_t now_ms = base_clock_unix_ms();
    if (f->since && dlq_time_parse(f->since, now_ms, &f->since_ms, err) < 0)
        return base_fail_in(err, "--since");
    if (f->until && dlq_time_parse(f->until, now_ms, &f->until_ms, err) < 0)
        return base_fail_in(err, "--until");
    if (f->since_ms && f->until_ms && f->since_ms >= f->until_ms)
        return base_fail(err, ERR_USAGE, "--since %s is not before --until %s", f->since, f->until);
    if (f->from != DLQ_NONE && f->to != DLQ_NONE && f->from > f->to)
        return base_fail(err, ERR_USAGE, "--from %" PRIu64 " is behind --to-offset %" PRIu64, f->from, f->to);
    for (size_t i = 0; i < f->headers.n; i++)
        if (!f->headers.items[i][0] || f->headers.items[i][0] == '=')
            return base_fail(err, ERR_USAGE, "--header '%s' names no header; it takes NAME=VALUE or NAME",
                             f->headers.items[i]);
    return 0;
}

int dlq_filter_check_partition(const struct dlq_filter *f, const struct dlq_reader *r, struct base_error *err)
{
    if (f->partition != DLQ_NONE && f->partition >= (uint64_t)r->n_partitions)
        return base_fail(err, ERR_USAGE, "--partition %" PRIu64 ": topic '%s' has %" PRId32, f->partition, r->topic,
                         r->n_partitions);
    return 0;
}

int dlq_filter_narrow(const struct dlq_filter *f, struct dlq_reader *r, struct base_error *err)
{
    int rc = dlq_filter_check_partition(f, r, err);
    if (rc < 0)
        return rc;
    for (int32_t p = 0; p < r->n_partitions; p++) {
        if (f->from != DLQ_NONE && (int64_t)f->from > r->from[p])
            r->from[p] = (int64_t)f->from;
        if (f->to != DLQ_NONE && f->to < (uint64_t)r->end[p])
            r->end[p] = (int64_t)f->to + 1;
        if (f->partition != DLQ_NONE && (uint64_t)p != f->partition)
            r->end[p] = r->from[p];
        if (r->end[p] < r->from[p])
            r->end[p] = r->from[p];
    }
    return 0;
}

static bool is_one_of(const struct base_option_list *list, const char *word)
{
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i], word) == 0)
            return true;
    return list->n == 0;
}

static bool header_matches(const struct dlq_letter *l, const char *wanted)
{
    const char *equals = strchr(wanted, '=');
    size_t n_name = equals ? (size_t)(equals - wanted) : strlen(wanted);
    for (uint32_t i = 0; i < l->n_headers; i++) {
        const struct schema_header *h = &l->headers[i];
        if (strlen(h->name) != n_name || memcmp(h->name, wanted, n_name) != 0)
            continue;
        if (!equals || (h->n == strlen(equals + 1) && (h->n == 0 || memcmp(h->value, equals + 1, h->n) == 0)))
            return true;
    }
    return false;
}

static bool is_text(const struct schema_string *s, const char *text)
{
    return s->n == strlen(text) && (s->n == 0 || memcmp(s->text, text, s->n) == 0);
}

static bool request_matches(const struct schema_prompt_batch *b, const char *id)
{
    if (!b)
        return false;
    for (uint32_t i = 0; i < b->n_prompts; i++)
        if (is_text(&b->prompts[i].id, id))
            return true;
    return is_text(&b->batch_id, id);
}

bool dlq_filter_matches(const struct dlq_filter *f, struct dlq_letter *l)
{
    const rd_kafka_message_t *m = l->m;
    if (!is_one_of(&f->codes, l->code) || !is_one_of(&f->stages, l->stage))
        return false;
    if ((f->since_ms && l->when_ms < f->since_ms) || (f->until_ms && l->when_ms >= f->until_ms))
        return false;
    if (f->key && (!m->key || m->key_len != strlen(f->key) || memcmp(m->key, f->key, m->key_len) != 0))
        return false;
    if (f->attempts_min != DLQ_NONE && l->meta.delivery_count < f->attempts_min)
        return false;
    for (size_t i = 0; i < f->headers.n; i++)
        if (!header_matches(l, f->headers.items[i]))
            return false;
    if (f->request && !request_matches(dlq_letter_batch(l), f->request))
        return false;
    return !f->model || (dlq_letter_batch(l) && is_text(&l->batch->model, f->model));
}

bool dlq_filter_is_empty(const struct dlq_filter *f)
{
    return !f->codes.n && !f->stages.n && !f->headers.n && !f->since && !f->until && !f->key && !f->request &&
           !f->model && f->attempts_min == DLQ_NONE && f->partition == DLQ_NONE && f->from == DLQ_NONE &&
           f->to == DLQ_NONE;
}
