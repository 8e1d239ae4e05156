#include "cli/dlq_ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/dlq_place.h"

int dlq_ledger_init(struct dlq_ledger *l, const char *round, int32_t n_partitions, struct base_error *err)
{
    *l = (struct dlq_ledger){.round = round, .n_partitions = n_partitions};
    l->partitions = calloc((size_t)n_partitions, sizeof *l->partitions);
    return l->partitions ? 0 : base_fail(err, ERR_NOMEM, "ledger: out of memory");
}

void dlq_ledger_done(struct dlq_ledger *l)
{
    for (int32_t p = 0; l->partitions && p < l->n_partitions; p++) {
        for (size_t i = 0; i < l->partitions[p].n; i++)
            free(l->partitions[p].items[i]);
        free(l->partitions[p].items);
    }
    free(l->partitions);
    *l = (struct dlq_ledger){0};
}

/* The first page whose number is not below. */
static size_t page_at(struct dlq_pages *pages, int64_t number)
{
    size_t low = 0, high = pages->n;
    if (pages->last < pages->n && pages->items[pages->last]->number == number)
        return pages->last;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (pages->items[middle]->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return pages->last = low;
}

static struct dlq_page *page_find(struct dlq_pages *pages, int64_t number)
{
    size_t i = page_at(pages, number);
    return i < pages->n && pages->items[i]->number == number ? pages->items[i] : NULL;
}

/* NULL: out of memory. */
static struct dlq_page *page_make(struct dlq_pages *pages, int64_t number)
{
    struct dlq_page *page = page_find(pages, number);
    if (page)
        return page;
    if (pages->n == pages->capacity) {
        size_t capacity = pages->capacity ? pages->capacity * 2 : 16;
        struct dlq_page **items = realloc(pages->items, capacity * sizeof *items);
        if (!items)
            return NULL;
        pages->items = items;
        pages->capacity = capacity;
    }
    page = calloc(1, sizeof *page);
    if (!page)
        return NULL;
    page->number = number;
    size_t i = page_at(pages, number);
    memmove(pages->items + i + 1, pages->items + i, (pages->n - i) * sizeof *pages->items);
    pages->items[i] = page;
    pages->n++;
    return page;
}

bool dlq_ledger_has(struct dlq_ledger *l, int32_t partition, int64_t offset, bool any_round)
{
    const struct dlq_page *page = page_find(&l->partitions[partition], offset / DLQ_PAGE_BITS);
    int bit = (int)(offset % DLQ_PAGE_BITS);
    return page && ((any_round ? page->any : page->mine)[bit / 8] >> (bit % 8) & 1);
}

int dlq_ledger_set(struct dlq_ledger *l, int32_t partition, int64_t offset, struct base_error *err)
{
    struct dlq_page *page = page_make(&l->partitions[partition], offset / DLQ_PAGE_BITS);
    int bit = (int)(offset % DLQ_PAGE_BITS);
    if (!page)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory");
    page->mine[bit / 8] |= (uint8_t)(1u << (bit % 8));
    page->any[bit / 8] |= (uint8_t)(1u << (bit % 8));
    page->dirty = true;
    return 0;
}

int64_t dlq_ledger_end(const struct dlq_ledger *l, int32_t partition)
{
    const struct dlq_pages *pages = &l->partitions[partition];
    for (size_t i = pages->n; i-- > 0;)
        for (int bit = DLQ_PAGE_BITS; bit-- > 0;)
            if (pages->items[i]->any[bit / 8] >> (bit % 8) & 1)
                return pages->items[i]->number * DLQ_PAGE_BITS + bit + 1;
    return 0;
}

/* "1/<round>/<partition>/<page>"; a round has no slash. */
static bool key_parse(const char *key, char round[64], int32_t *out_partition, int64_t *out_page)
{
    uint64_t partition, page;
    const char *at = key + 2;
    size_t n_round = strncmp(key, "1/", 2) == 0 ? strcspn(at, "/") : 0;
    if (n_round == 0 || n_round > 63 || at[n_round] != '/')
        return false;
    memcpy(round, at, n_round);
    round[n_round] = '\0';
    at += n_round + 1;
    if (!dlq_number_parse(&at, INT32_MAX, &partition) || *at++ != '/' ||
        !dlq_number_parse(&at, INT64_MAX / DLQ_PAGE_BITS - 1, &page) || *at)
        return false;
    *out_partition = (int32_t)partition;
    *out_page = (int64_t)page;
    return true;
}

int dlq_ledger_take(struct dlq_ledger *l, const void *key, size_t n_key, const void *value, size_t n_value,
                    struct base_error *err)
{
    char text[128] = "", round[64];
    int32_t partition;
    int64_t number;
    if (n_key > 0 && n_key < sizeof text)
        memcpy(text, key, n_key);
    if (strlen(text) != n_key || n_value > DLQ_PAGE_BYTES || !key_parse(text, round, &partition, &number) ||
        partition >= l->n_partitions) {
        l->n_strange++;
        return 0;
    }
    struct dlq_page *page = page_make(&l->partitions[partition], number);
    if (!page)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory");
    const uint8_t *bytes = value;
    bool mine = strcmp(round, l->round) == 0;
    for (size_t i = 0; i < n_value; i++) {
        page->any[i] |= bytes[i];
        page->mine[i] |= mine ? bytes[i] : 0;
    }
    return 0;
}

void dlq_ledger_key(const struct dlq_ledger *l, int32_t partition, const struct dlq_page *page, char *out, size_t size)
{
    snprintf(out, size, "1/%s/%" PRId32 "/%" PRId64, l->round, partition, page->number);
}

size_t dlq_ledger_value(const struct dlq_page *page)
{
    size_t n = DLQ_PAGE_BYTES;
    while (n > 0 && page->mine[n - 1] == 0)
        n--;
    return n;
}

int dlq_ledger_check(const struct dlq_ledger *l, const char *topic, const int64_t *ends, struct base_error *err)
{
    for (int32_t p = 0; p < l->n_partitions; p++)
        if (dlq_ledger_end(l, p) > ends[p])
            return base_fail(err, ERR_INPUT,
                             "topic '%s' partition %" PRId32 " ends at %" PRId64 ", but letters up to %" PRId64
                             " were replayed: it was made anew. Delete the ledger topic '%s.replayed' with it",
                             topic, p, ends[p], dlq_ledger_end(l, p), topic);
    return 0;
}
