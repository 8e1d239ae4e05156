#include "cli/dlq_verify.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/dlq_letter.h"
#include "cli/dlq_place.h"
#include "cli/dlq_reader.h"
#include "cli/dlq_verbs.h"

static uint64_t mix(uint64_t h, const void *bytes, size_t n)
{
    const uint8_t *b = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 1099511628211u;
    return (h ^ n) * 1099511628211u;
}

static uint64_t digest(const void *key, size_t n_key, const void *value, size_t n_value)
{
    uint64_t h = mix(mix(14695981039346656037u, key, n_key), value, n_value);
    return h ? h : 1;
}

int dlq_verify_expect(struct dlq_verify *v, int32_t partition, int64_t offset, const struct publish_record *record,
                      const char *topic, struct base_error *err)
{
    if (!topic)
        return 0;
    if (v->n == v->capacity) {
        size_t capacity = v->capacity ? v->capacity * 2 : 1024;
        struct dlq_expected *items = realloc(v->items, capacity * sizeof *items);
        if (!items)
            return base_fail(err, ERR_NOMEM, "--verify: out of memory for %zu letters", capacity);
        v->items = items;
        v->capacity = capacity;
    }
    v->items[v->n++] = (struct dlq_expected){
        .partition = partition,
        .offset = offset,
        .topic = topic,
        .digest = record ? digest(record->key, record->n_key, record->value, record->n_value) : 0};
    return 0;
}

void dlq_verify_done(struct dlq_verify *v)
{
    free(v->items);
    *v = (struct dlq_verify){0};
}

static int by_place(const void *a, const void *b)
{
    const struct dlq_expected *x = a, *y = b;
    if (x->partition != y->partition)
        return x->partition < y->partition ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

struct search {
    struct dlq_verify *v;
    const char *topic, *round;
};

static void compare(const struct search *s, const struct dlq_letter *l)
{
    struct dlq_expected key = {0};
    const struct schema_header *id = dlq_letter_header(l, "x-replay-id"), *of = dlq_letter_header(l, "x-replay-of");
    size_t n_round = strlen(s->round);
    char text[320] = "";
    if (!id || !of || id->n <= n_round || memcmp(id->value, s->round, n_round) != 0 ||
        ((const char *)id->value)[n_round] != '.' || of->n >= sizeof text)
        return;
    memcpy(text, of->value, of->n);
    if (strlen(text) != of->n || !dlq_place_parse(text, dlq_common.topic, &key.partition, &key.offset))
        return;
    struct dlq_expected *e = bsearch(&key, s->v->items, s->v->n, sizeof key, by_place);
    if (!e || strcmp(e->topic, s->topic) != 0)
        return;
    e->n_found++;
    e->n_other += e->digest && digest(l->m->key, l->m->key_len, l->m->payload, l->m->len) != e->digest;
}

static int look_at(void *context, rd_kafka_message_t *m, bool *keep, struct base_error *err)
{
    struct dlq_letter l;
    (void)keep, (void)err;
    dlq_letter_init(&l, m);
    compare(context, &l);
    dlq_letter_done(&l);
    return 0;
}

static int read_target(struct search *s, struct base_error *err)
{
    struct dlq_reader r = {0};
    int rc = dlq_reader_open(s->topic, DLQ_WRITTEN, &r, err);
    if (rc == 0)
        rc = dlq_reader_run(&r, "verifying", look_at, s, err);
    dlq_reader_close(&r);
    return rc;
}

/* Whether an earlier letter goes to the same topic: then it is read already. */
static bool is_read(const struct dlq_verify *v, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (v->items[k].topic == v->items[i].topic)
            return true;
    return false;
}

int dlq_verify_run(struct dlq_verify *v, const char *round, bool json, struct base_error *err)
{
    uint64_t n_missing = 0, n_doubled = 0, n_other = 0, n_named = 0;
    int rc = 0;
    if (v->n)
        qsort(v->items, v->n, sizeof *v->items, by_place);
    for (size_t i = 0; rc == 0 && i < v->n; i++) {
        struct search s = {v, v->items[i].topic, round};
        if (!is_read(v, i))
            rc = read_target(&s, err);
    }
    for (size_t i = 0; rc == 0 && i < v->n; i++) {
        const struct dlq_expected *e = &v->items[i];
        n_missing += e->n_found == 0;
        n_doubled += e->n_found > 1;
        n_other += e->n_other > 0;
        if ((e->n_found != 1 || e->n_other) && n_named++ < 5)
            fprintf(stderr, "rouse dlq replay: letter %" PRId32 "/%" PRId64 " is on '%s' %" PRIu32 " times%s\n",
                    e->partition, e->offset, e->topic, e->n_found, e->n_other ? ", with other bytes" : "");
    }
    if (rc < 0)
        return rc;
    if (json)
        printf("{\"verified\":%zu,\"missing\":%" PRIu64 ",\"doubled\":%" PRIu64 ",\"different\":%" PRIu64 "}\n", v->n,
               n_missing, n_doubled, n_other);
    else
        printf("verified %zu letters on their targets: %" PRIu64 " missing, %" PRIu64 " more than once, %" PRIu64
               " with other bytes\n",
               v->n, n_missing, n_doubled, n_other);
    return n_missing || n_doubled || n_other ? base_fail(err, ERR_CORRUPT, "the targets are not what was sent") : 0;
}
