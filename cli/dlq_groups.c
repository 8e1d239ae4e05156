#include "cli/dlq_groups.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_writer.h"
#include "cli/cli.h"
#include "cli/dlq_text.h"
#include "cli/dlq_time.h"

enum field { CODE, STAGE, DAY, HOUR, MODEL, TOPIC, PARTITION, ATTEMPTS, WORKER, REPLAYS, N_FIELDS };
static const char *const names[N_FIELDS] = {"code",  "stage",     "day",      "hour",   "model",
                                            "topic", "partition", "attempts", "worker", "replays"};

static int field_find(const char *word, size_t n)
{
    for (int i = 0; i < N_FIELDS; i++)
        if (strlen(names[i]) == n && memcmp(names[i], word, n) == 0)
            return i;
    return -1;
}

int dlq_groups_init(struct dlq_groups *g, const char *by, struct base_error *err)
{
    *g = (struct dlq_groups){0};
    for (const char *at = by; *at; at += strcspn(at, ","), at += *at == ',') {
        size_t n = strcspn(at, ",");
        int field = field_find(at, n);
        if (field < 0)
            return base_fail(err, ERR_USAGE,
                             "--by '%.*s': letters are grouped by code, stage, day, hour, model, topic, partition, "
                             "attempts, worker, replays",
                             (int)(n < 40 ? n : 40), at);
        if (g->n_fields == DLQ_GROUP_FIELDS_MAX)
            return base_fail(err, ERR_USAGE, "--by takes %d words at most", DLQ_GROUP_FIELDS_MAX);
        g->fields[g->n_fields++] = field;
    }
    return g->n_fields ? 0 : base_fail(err, ERR_USAGE, "--by is empty");
}

void dlq_groups_done(struct dlq_groups *g)
{
    free(g->items);
    free(g->slots);
    *g = (struct dlq_groups){0};
}

static void field_text(int field, struct dlq_letter *l, char out[DLQ_GROUP_WORD])
{
    char time[32];
    const struct schema_prompt_batch *b;
    switch (field) {
    case CODE:
        strcpy(out, l->code);
        break;
    case STAGE:
        strcpy(out, l->stage);
        break;
    case DAY:
    case HOUR:
        dlq_time_text(l->when_ms, time);
        snprintf(out, DLQ_GROUP_WORD, "%.*s", field == DAY ? 10 : 13, time);
        break;
    case MODEL:
        b = dlq_letter_batch(l);
        dlq_text_safe(!b ? "?" : b->model.text ? b->model.text : "-", out, DLQ_GROUP_WORD);
        break;
    case TOPIC:
        dlq_text_safe(l->meta.topic[0] ? l->meta.topic : "-", out, DLQ_GROUP_WORD);
        break;
    case PARTITION:
        snprintf(out, DLQ_GROUP_WORD, "%" PRId32, l->m->partition);
        break;
    case ATTEMPTS:
        snprintf(out, DLQ_GROUP_WORD, "%" PRIu32, l->meta.delivery_count);
        break;
    case WORKER:
        dlq_text_safe(l->meta.worker[0] ? l->meta.worker : "-", out, DLQ_GROUP_WORD);
        break;
    case REPLAYS:
        snprintf(out, DLQ_GROUP_WORD, "%" PRIu32, l->meta.replay_count);
        break;
    default:
        break;
    }
}

static uint64_t hash_of(const struct dlq_group *key)
{
    uint64_t h = 14695981039346656037u;
    for (size_t f = 0; f < DLQ_GROUP_FIELDS_MAX; f++) {
        for (const char *c = key->words[f]; *c; c++)
            h = (h ^ (unsigned char)*c) * 1099511628211u;
        h = (h ^ 0xff) * 1099511628211u;
    }
    return h;
}

static bool is_same(const struct dlq_group *a, const struct dlq_group *b)
{
    for (size_t f = 0; f < DLQ_GROUP_FIELDS_MAX; f++)
        if (strcmp(a->words[f], b->words[f]) != 0)
            return false;
    return true;
}

static int grow(struct dlq_groups *g, struct base_error *err)
{
    size_t capacity = g->capacity ? g->capacity * 2 : 64;
    struct dlq_group *items = realloc(g->items, capacity * sizeof *items);
    if (items)
        g->items = items;
    uint32_t *slots = calloc(capacity * 2, sizeof *slots);
    if (!items || !slots) {
        free(slots);
        return base_fail(err, ERR_NOMEM, "out of memory for %zu groups", capacity);
    }
    free(g->slots);
    g->slots = slots;
    g->capacity = capacity;
    g->n_slots = capacity * 2;
    for (size_t i = 0; i < g->n; i++) {
        size_t at = hash_of(&g->items[i]) % g->n_slots;
        while (g->slots[at])
            at = (at + 1) % g->n_slots;
        g->slots[at] = (uint32_t)i + 1;
    }
    return 0;
}

/* NULL: out of memory. */
static struct dlq_group *group_of(struct dlq_groups *g, const struct dlq_group *key, struct base_error *err)
{
    if (g->n == g->capacity && grow(g, err) < 0)
        return NULL;
    size_t at = hash_of(key) % g->n_slots;
    while (g->slots[at] && !is_same(&g->items[g->slots[at] - 1], key))
        at = (at + 1) % g->n_slots;
    if (!g->slots[at]) {
        g->items[g->n] = *key;
        g->slots[at] = (uint32_t)++g->n;
    }
    return &g->items[g->slots[at] - 1];
}

int dlq_groups_add(struct dlq_groups *g, struct dlq_letter *l, bool replayed, struct base_error *err)
{
    struct dlq_group key = {0};
    for (int i = 0; i < g->n_fields; i++)
        if (g->n < DLQ_GROUPS_MAX)
            field_text(g->fields[i], l, key.words[i]);
        else
            strcpy(key.words[i], "(others)");
    struct dlq_group *group = group_of(g, &key, err);
    if (!group)
        return ERR_NOMEM;
    group->n++;
    group->n_replayed += replayed;
    group->n_bytes += l->m->len;
    if (l->when_ms && (!group->oldest_ms || l->when_ms < group->oldest_ms))
        group->oldest_ms = l->when_ms;
    if (l->when_ms > group->newest_ms)
        group->newest_ms = l->when_ms;
    return 0;
}

static int by_count(const void *a, const void *b)
{
    const struct dlq_group *x = a, *y = b;
    if (x->n != y->n)
        return x->n < y->n ? 1 : -1;
    for (size_t f = 0; f < DLQ_GROUP_FIELDS_MAX; f++)
        if (strcmp(x->words[f], y->words[f]) != 0)
            return strcmp(x->words[f], y->words[f]);
    return 0;
}

static int print_json(const struct dlq_groups *g, const struct dlq_group *group, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 1u << 20);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    for (int f = 0; f < g->n_fields; f++)
        base_json_kv_string(&j, names[g->fields[f]], group->words[f]);
    base_json_kv_uint(&j, "letters", group->n);
    base_json_kv_uint(&j, "replayed", group->n_replayed);
    base_json_kv_uint(&j, "value_bytes", group->n_bytes);
    base_json_kv_int(&j, "oldest_ms", group->oldest_ms);
    base_json_kv_int(&j, "newest_ms", group->newest_ms);
    base_json_object_end(&j);
    puts(base_buffer_cstr(&out));
    base_buffer_done(&out);
    return cli_flush(err);
}

int dlq_groups_print(struct dlq_groups *g, bool json, struct base_error *err)
{
    int widths[DLQ_GROUP_FIELDS_MAX];
    int rc = 0;
    if (g->n)
        qsort(g->items, g->n, sizeof *g->items, by_count);
    for (int f = 0; f < g->n_fields; f++) {
        widths[f] = (int)strlen(names[g->fields[f]]);
        for (size_t i = 0; i < g->n; i++)
            if ((int)strlen(g->items[i].words[f]) > widths[f])
                widths[f] = (int)strlen(g->items[i].words[f]);
    }
    for (int f = 0; !json && g->n && f < g->n_fields; f++)
        printf("%-*s  ", widths[f], names[g->fields[f]]);
    if (!json && g->n)
        printf("%10s  %10s  %-20s  %-20s\n", "letters", "replayed", "oldest", "newest");
    for (size_t i = 0; rc == 0 && i < g->n; i++) {
        char oldest[32], newest[32];
        if (json) {
            rc = print_json(g, &g->items[i], err);
            continue;
        }
        dlq_time_text(g->items[i].oldest_ms, oldest);
        dlq_time_text(g->items[i].newest_ms, newest);
        for (int f = 0; f < g->n_fields; f++)
            printf("%-*s  ", widths[f], g->items[i].words[f]);
        printf("%10" PRIu64 "  %10" PRIu64 "  %-20s  %-20s\n", g->items[i].n, g->items[i].n_replayed, oldest, newest);
    }
    return rc;
}
