#include "worker/ledger.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum state { TAKEN, FINISHED, PUBLISHING };

struct entry {
    int64_t offset;
    void *item;
    uint32_t weight;
    enum state state;
};

struct partition {
    uint64_t epoch;
    bool owned;
    bool position_believed; /* it was seen unset, or a record came, in this epoch */
    int64_t next;           /* the next offset expected; -1: none came yet */
    int64_t position;       /* -1: unknown */
    int64_t committed;      /* by us in this epoch; -1: nothing */
    struct entry *ring;     /* [capacity], a power of two or 0 */
    uint32_t capacity, head, n;
};

struct ledger {
    struct partition *partitions; /* by number */
    uint32_t n_partitions;
    uint32_t turn;  /* where the next collect begins: no partition waits for ever behind a busy one */
    bool collected; /* a batch is out */
};

int ledger_new(struct ledger **out_ledger, struct base_error *err)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (!l)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory");
    *out_ledger = l;
    return 0;
}

void ledger_free(struct ledger *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->n_partitions; i++)
        free(l->partitions[i].ring);
    free(l->partitions);
    free(l);
}

static struct partition *find(const struct ledger *l, int32_t partition)
{
    return partition >= 0 && (uint32_t)partition < l->n_partitions ? &l->partitions[partition] : NULL;
}

static struct partition *find_owned(const struct ledger *l, int32_t partition)
{
    struct partition *p = find(l, partition);
    return p && p->owned ? p : NULL;
}

static struct entry *entry_at(const struct partition *p, uint32_t i)
{
    assert(i < p->n);
    return &p->ring[(p->head + i) & (p->capacity - 1)];
}

static int grow_partitions(struct ledger *l, uint32_t n, struct base_error *err)
{
    if (n <= l->n_partitions)
        return 0;
    struct partition *grown = realloc(l->partitions, n * sizeof *grown);
    if (!grown)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for %u partitions", n);
    memset(grown + l->n_partitions, 0, (n - l->n_partitions) * sizeof *grown);
    l->partitions = grown;
    l->n_partitions = n;
    return 0;
}

int ledger_assign(struct ledger *l, int32_t partition, struct base_error *err)
{
    if (partition < 0 || partition >= LEDGER_PARTITIONS_MAX)
        return base_fail(err, ERR_INPUT, "partition %d is outside 0..%d", partition, LEDGER_PARTITIONS_MAX - 1);
    int rc = grow_partitions(l, (uint32_t)partition + 1, err);
    if (rc < 0)
        return rc;
    struct partition *p = &l->partitions[partition];
    assert(!p->owned && p->n == 0);
    p->epoch++;
    p->owned = true;
    p->position_believed = false;
    p->next = p->position = p->committed = -1;
    return 0;
}

void ledger_revoke(struct ledger *l, int32_t partition, ledger_drop_fn *drop, void *context)
{
    struct partition *p = find_owned(l, partition);
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n; i++)
        if (entry_at(p, i)->state == FINISHED)
            drop(context, entry_at(p, i)->item);
    p->n = p->head = 0;
    p->owned = false;
    p->epoch++;
}

bool ledger_owns(const struct ledger *l, int32_t partition)
{
    return find_owned(l, partition) != NULL;
}

bool ledger_is_current(const struct ledger *l, int32_t partition, uint64_t epoch)
{
    const struct partition *p = find_owned(l, partition);
    return p && p->epoch == epoch;
}

static int ring_grow(struct partition *p, struct base_error *err)
{
    if (p->n < p->capacity)
        return 0;
    uint32_t capacity = p->capacity ? p->capacity * 2 : 16;
    struct entry *ring = malloc(capacity * sizeof *ring);
    if (!ring)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for %u records in flight", capacity);
    for (uint32_t i = 0; i < p->n; i++)
        ring[i] = *entry_at(p, i);
    free(p->ring);
    p->ring = ring;
    p->capacity = capacity;
    p->head = 0;
    return 0;
}

int ledger_take(struct ledger *l, int32_t partition, int64_t offset, uint32_t weight, void *item, uint64_t *out_epoch,
                struct base_error *err)
{
    assert(weight >= 1);
    struct partition *p = find_owned(l, partition);
    if (!p)
        return base_fail(err, ERR_NOTFOUND, "partition %d is not assigned", partition);
    if (offset < p->next)
        return base_fail(err, ERR_INPUT, "partition %d: offset %lld came again, %lld is next", partition,
                         (long long)offset, (long long)p->next);
    int rc = ring_grow(p, err);
    if (rc < 0)
        return rc;
    p->n++;
    *entry_at(p, p->n - 1) = (struct entry){.offset = offset, .item = item, .weight = weight, .state = TAKEN};
    p->next = offset + 1;
    p->position_believed = true;
    *out_epoch = p->epoch;
    return 0;
}

static struct entry *entry_find(const struct partition *p, int64_t offset)
{
    uint32_t low = 0, high = p->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entry_at(p, middle)->offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->n && entry_at(p, low)->offset == offset ? entry_at(p, low) : NULL;
}

bool ledger_finish(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset)
{
    if (!ledger_is_current(l, partition, epoch))
        return false;
    struct entry *e = entry_find(&l->partitions[partition], offset);
    assert(e && e->state == TAKEN); /* of this epoch, and finished once */
    e->state = FINISHED;
    return true;
}

void ledger_note_position(struct ledger *l, int32_t partition, int64_t position)
{
    struct partition *p = find_owned(l, partition);
    if (!p)
        return;
    if (position < 0)
        p->position_believed = true; /* the client forgot the old epoch's: what comes next is this one's */
    else if (p->position_believed)
        p->position = position;
}

/* Entries at the head that are FINISHED, up to weight_max; at least one if there is one and may_exceed. */
static uint32_t finished_prefix(const struct partition *p, uint32_t weight_max, bool may_exceed, uint32_t *out_weight)
{
    uint32_t n = 0, weight = 0;
    while (n < p->n && entry_at(p, n)->state == FINISHED) {
        uint32_t more = entry_at(p, n)->weight;
        if (weight + more > weight_max && !(may_exceed && n == 0))
            break;
        weight += more;
        n++;
    }
    *out_weight = weight;
    return n;
}

static bool position_moved(const struct partition *p)
{
    return p->position > p->committed && p->position >= p->next;
}

static int reserve_items(struct ledger_batch *b, uint32_t n, struct base_error *err)
{
    if (b->n_items + n <= b->n_items_max)
        return 0;
    uint32_t n_max = (b->n_items + n) * 2;
    void **items = realloc(b->items, n_max * sizeof *items);
    if (!items)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for a batch of %u records", n_max);
    b->items = items;
    b->n_items_max = n_max;
    return 0;
}

static int reserve_spans(struct ledger_batch *b, uint32_t n, struct base_error *err)
{
    if (n <= b->n_spans_max)
        return 0;
    struct ledger_span *spans = realloc(b->spans, n * sizeof *spans);
    if (!spans)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for a batch over %u partitions", n);
    b->spans = spans;
    b->n_spans_max = n;
    return 0;
}

static int collect_partition(struct partition *p, int32_t number, uint32_t weight_max, struct ledger_batch *b,
                             struct base_error *err)
{
    uint32_t weight = 0, left = weight_max > b->weight ? weight_max - b->weight : 0;
    uint32_t n = finished_prefix(p, left, b->weight == 0, &weight);
    bool drained = n == p->n;
    if (n == 0 && !(drained && position_moved(p)))
        return 0;
    int rc = reserve_items(b, n, err);
    if (rc < 0)
        return rc;

    struct ledger_span *s = &b->spans[b->n_spans++];
    *s = (struct ledger_span){number, p->epoch, p->position, b->n_items, n};
    for (uint32_t i = 0; i < n; i++) {
        struct entry *e = entry_at(p, i);
        e->state = PUBLISHING;
        b->items[b->n_items++] = e->item;
    }
    if (n) {
        int64_t after = entry_at(p, n - 1)->offset + 1;
        s->next = drained && p->position > after ? p->position : after;
    }
    b->weight += weight;
    return 0;
}

static void uncollect(struct ledger *l, const struct ledger_batch *b)
{
    for (uint32_t i = 0; i < b->n_spans; i++)
        for (uint32_t k = 0; k < b->spans[i].n_items; k++)
            entry_at(&l->partitions[b->spans[i].partition], k)->state = FINISHED;
}

int ledger_collect(struct ledger *l, uint32_t weight_max, struct ledger_batch *b, struct base_error *err)
{
    assert(!l->collected);
    b->n_items = b->n_spans = b->weight = 0;
    int rc = reserve_spans(b, l->n_partitions, err);
    for (uint32_t i = 0; rc == 0 && i < l->n_partitions; i++) {
        uint32_t number = (l->turn + i) % l->n_partitions;
        if (l->partitions[number].owned)
            rc = collect_partition(&l->partitions[number], (int32_t)number, weight_max, b, err);
    }
    if (rc < 0) {
        uncollect(l, b);
        b->n_items = b->n_spans = b->weight = 0;
        return rc;
    }
    l->turn = l->n_partitions ? (l->turn + 1) % l->n_partitions : 0;
    l->collected = b->n_spans > 0;
    return 0;
}

static void settle_current(struct partition *p, const struct ledger_span *s, bool committed)
{
    assert(s->n_items <= p->n);
    for (uint32_t i = 0; i < s->n_items; i++) {
        assert(entry_at(p, i)->state == PUBLISHING);
        entry_at(p, i)->state = FINISHED;
    }
    if (!committed)
        return;
    if (p->capacity)
        p->head = (p->head + s->n_items) & (p->capacity - 1);
    p->n -= s->n_items;
    p->committed = s->next;
}

void ledger_settle(struct ledger *l, const struct ledger_batch *b, bool committed, ledger_drop_fn *drop, void *context)
{
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct ledger_span *s = &b->spans[i];
        bool current = ledger_is_current(l, s->partition, s->epoch);
        if (current)
            settle_current(&l->partitions[s->partition], s, committed);
        for (uint32_t k = 0; k < s->n_items && (committed || !current); k++)
            drop(context, b->items[s->first_item + k]);
    }
    l->collected = false;
}

void ledger_batch_done(struct ledger_batch *b)
{
    free(b->items);
    free(b->spans);
    *b = (struct ledger_batch){0};
}

int64_t ledger_committed(const struct ledger *l, int32_t partition)
{
    const struct partition *p = find_owned(l, partition);
    return p ? p->committed : -1;
}

void ledger_count(const struct ledger *l, struct ledger_counts *out)
{
    *out = (struct ledger_counts){0};
    for (uint32_t i = 0; i < l->n_partitions; i++) {
        const struct partition *p = &l->partitions[i];
        if (!p->owned)
            continue;
        uint32_t weight = 0;
        finished_prefix(p, UINT32_MAX, false, &weight);
        out->partitions++;
        out->records += p->n;
        out->ready += weight;
        out->idle += p->n == 0 && position_moved(p);
    }
}

uint32_t ledger_partitions(const struct ledger *l, int32_t *out, uint32_t n_max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n_partitions; i++) {
        if (!l->partitions[i].owned)
            continue;
        if (n < n_max)
            out[n] = (int32_t)i;
        n++;
    }
    return n;
}
