#include "worker/ledger.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"

#define PARTIAL_BYTES 7 /* of a partly done record, beside its bits: delta and count */

enum part { OPEN, LEFT, FINISHED, PUBLISHING, DONE };

struct entry {
    int64_t offset;
    void *item;               /* NULL: no part is left */
    uint32_t n_parts, n_left; /* left: not DONE */
    union {
        uint8_t one;   /* n_parts 1 */
        uint8_t *many; /* [n_parts] enum part; NULL once no part is left */
    } parts;
};

struct finished {
    int64_t offset;
    uint32_t part;
};

struct partition {
    uint64_t epoch;
    bool owned, closing;
    bool position_believed; /* it was seen unset, or a record came, in this epoch */
    int64_t next;           /* the next offset expected; -1: any */
    int64_t position;       /* -1: unknown */
    int64_t committed;      /* -1: nothing */

    bool hold_wanted;
    bool held, held_by_us; /* what the last map that was committed says; we committed it */
    uint32_t crashes;      /* owners that died in a row */
    int64_t suspects_end;  /* records below it may have been in flight then */
    int64_t assigned_at;   /* the first offset that was not done when it came; -1: unknown */
    int64_t assigned_ms;

    struct entry *ring; /* [capacity], a power of two or 0; the first one, if any, is not done */
    uint32_t capacity, head, n;
    uint32_t n_records; /* entries that are not done */
    uint32_t n_live;    /* parts that are not DONE */
    uint32_t n_open;    /* parts that are OPEN */
    uint32_t n_publishing;
    size_t partial_bytes; /* of the map, if all records with several prompts were partly done */

    struct finished *finished; /* [finished_capacity] a ring as well: room for every live part */
    uint32_t finished_capacity, finished_head, n_finished;

    struct schema_progress *before; /* what the last owner's map says; NULL: nothing */
    uint32_t run, partial;          /* of before: the first that does not end below next */
    size_t before_partial_bytes;    /* of those */
};

struct ledger {
    char writer[SCHEMA_PROGRESS_WRITER_MAX + 1];
    struct partition *partitions; /* by number */
    uint32_t n_partitions, n_owned;
    uint32_t turn;                    /* where the next collect begins: no partition waits for ever behind a busy one */
    bool collected;                   /* a batch is out */
    struct schema_progress_run *runs; /* [n_runs_max] scratch of a map */
    struct schema_progress_partial *partials;
    uint8_t *bits;
    size_t n_runs_max, n_partials_max, n_bits_max;
};

int ledger_new(const char *writer, struct ledger **out_ledger, struct base_error *err)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (!l)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory");
    ledger_set_writer(l, writer);
    *out_ledger = l;
    return 0;
}

void ledger_set_writer(struct ledger *l, const char *writer)
{
    snprintf(l->writer, sizeof l->writer, "%s", writer);
}

/* Records */

static struct entry *entry_at(const struct partition *p, uint32_t i)
{
    assert(i < p->n);
    return &p->ring[(p->head + i) & (p->capacity - 1)];
}

static uint8_t *parts_of(struct entry *e)
{
    return e->n_parts == 1 ? &e->parts.one : e->parts.many;
}

static size_t partial_bytes(uint32_t n_parts)
{
    return n_parts > 1 ? PARTIAL_BYTES + (n_parts + 7) / 8 : 0;
}

static void entry_done(struct partition *p, struct entry *e)
{
    if (e->n_parts > 1)
        free(e->parts.many);
    e->parts.many = NULL;
    e->item = NULL;
    p->n_records--;
    p->partial_bytes -= partial_bytes(e->n_parts);
}

static void pop_done(struct partition *p)
{
    while (p->n && entry_at(p, 0)->n_left == 0) {
        p->head = (p->head + 1) & (p->capacity - 1);
        p->n--;
    }
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

static void forget_records(struct partition *p, ledger_drop_fn *drop, void *context)
{
    for (uint32_t i = 0; i < p->n; i++) {
        struct entry *e = entry_at(p, i);
        if (e->n_left == 0)
            continue;
        if (drop)
            drop(context, e->item);
        entry_done(p, e);
    }
    p->n = p->head = p->n_live = p->n_open = p->n_publishing = 0;
    p->finished_head = p->n_finished = 0;
    schema_progress_free(p->before);
    p->before = NULL;
    p->run = p->partial = 0;
    p->before_partial_bytes = 0;
}

void ledger_free(struct ledger *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->n_partitions; i++) {
        forget_records(&l->partitions[i], NULL, NULL);
        free(l->partitions[i].ring);
        free(l->partitions[i].finished);
    }
    free(l->partitions);
    free(l->runs);
    free(l->partials);
    free(l->bits);
    free(l);
}

/* Partitions */

static struct partition *find_owned(const struct ledger *l, int32_t partition)
{
    struct partition *p = partition >= 0 && (uint32_t)partition < l->n_partitions ? &l->partitions[partition] : NULL;
    return p && p->owned ? p : NULL;
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

int ledger_assign(struct ledger *l, int32_t partition, int64_t committed, struct schema_progress *progress,
                  int64_t now_ms, struct base_error *err)
{
    if (partition < 0 || partition >= LEDGER_PARTITIONS_MAX)
        return base_fail(err, ERR_INPUT, "partition %d is outside 0..%d", partition, LEDGER_PARTITIONS_MAX - 1);
    int rc = grow_partitions(l, (uint32_t)partition + 1, err);
    if (rc < 0)
        return rc;
    struct partition *p = &l->partitions[partition];
    assert(!p->owned && p->n == 0 && !p->before && (!progress || progress->base == committed));
    p->epoch++;
    p->owned = true;
    p->closing = p->position_believed = false;
    p->position = -1;
    p->next = p->committed = committed < 0 ? -1 : committed;
    p->assigned_at = p->committed;
    p->assigned_ms = now_ms;
    p->hold_wanted = p->held_by_us = false;
    p->held = progress && progress->held;
    p->crashes = progress ? progress->crashes : 0;
    p->suspects_end = progress ? progress->suspects_end : 0;
    if (progress && progress->held) {
        p->crashes++;
        p->suspects_end = committed + LEDGER_SUSPECTS;
    }
    p->before = progress;
    for (uint32_t i = 0; progress && i < progress->n_partials; i++)
        p->before_partial_bytes += partial_bytes(progress->partials[i].n_prompts);
    l->n_owned++;
    return 0;
}

void ledger_close(struct ledger *l, int32_t partition)
{
    struct partition *p = find_owned(l, partition);
    if (p)
        p->closing = true;
}

void ledger_revoke(struct ledger *l, int32_t partition, ledger_drop_fn *drop, void *context)
{
    struct partition *p = find_owned(l, partition);
    if (!p)
        return;
    forget_records(p, drop, context);
    p->owned = false;
    p->epoch++;
    l->n_owned--;
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

bool ledger_is_closing(const struct ledger *l, int32_t partition, uint64_t epoch)
{
    return !ledger_is_current(l, partition, epoch) || l->partitions[partition].closing;
}

/* What is committed says otherwise than what is so. */
static bool hold_changed(const struct partition *p)
{
    return p->closing ? p->held : p->hold_wanted && !p->held_by_us;
}

bool ledger_state(const struct ledger *l, int32_t partition, struct ledger_state *out)
{
    const struct partition *p = find_owned(l, partition);
    if (!p)
        return false;
    *out = (struct ledger_state){.epoch = p->epoch,
                                 .owned = true,
                                 .closing = p->closing,
                                 .open = p->n_open,
                                 .unsettled = p->n_finished + p->n_publishing + hold_changed(p),
                                 .records = p->n_records,
                                 .window = p->n,
                                 .first = p->n ? entry_at(p, 0)->offset : -1,
                                 .committed = p->committed};
    return true;
}

/* What the last owner has done */

static int64_t before_end(const struct partition *p)
{
    int64_t end = -1;
    if (!p->before)
        return end;
    if (p->before->n_runs)
        end = p->before->runs[p->before->n_runs - 1].end;
    if (p->before->n_partials && p->before->partials[p->before->n_partials - 1].offset >= end)
        end = p->before->partials[p->before->n_partials - 1].offset + 1;
    return end;
}

/* Offsets below come no more. */
static void before_advance(struct partition *p, int64_t offset)
{
    const struct schema_progress *b = p->before;
    if (!b)
        return;
    while (p->run < b->n_runs && b->runs[p->run].end <= offset)
        p->run++;
    while (p->partial < b->n_partials && b->partials[p->partial].offset < offset) {
        p->before_partial_bytes -= partial_bytes(b->partials[p->partial].n_prompts);
        p->partial++;
    }
    if (p->run == b->n_runs && p->partial == b->n_partials) {
        schema_progress_free(p->before);
        p->before = NULL;
        p->run = p->partial = 0;
    }
}

static bool before_has(const struct partition *p, int64_t offset)
{
    const struct schema_progress *b = p->before;
    for (uint32_t i = p->run; b && i < b->n_runs && b->runs[i].from <= offset; i++)
        if (offset < b->runs[i].end)
            return true;
    return false;
}

/* One that counts other prompts than the record has is of another record: nothing is believed of it. */
static const uint8_t *before_parts(const struct partition *p, int64_t offset, uint32_t n_parts)
{
    const struct schema_progress *b = p->before;
    for (uint32_t i = p->partial; b && i < b->n_partials && b->partials[i].offset <= offset; i++)
        if (b->partials[i].offset == offset && b->partials[i].n_prompts == n_parts)
            return b->partials[i].done;
    return NULL;
}

/* Taking */

static size_t varint_bytes(uint64_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

bool ledger_has_room(const struct ledger *l, int32_t partition)
{
    const struct partition *p = find_owned(l, partition);
    if (!p)
        return true;
    int64_t end = before_end(p);
    if (p->next < end) /* the last owner had room for these */
        return true;
    int64_t first = p->n ? entry_at(p, 0)->offset : p->next;
    size_t bits = (size_t)((p->next - first) / 8 + 2);
    size_t runs = (size_t)(p->n_records + 2) * 2 * varint_bytes((uint64_t)(p->next - first) + 1);
    size_t need =
        SCHEMA_PROGRESS_HEAD_MAX + p->partial_bytes + partial_bytes(LEDGER_PARTS_MAX) + (bits < runs ? bits : runs);
    return need <= SCHEMA_PROGRESS_BYTES_MAX && p->n < LEDGER_RECORDS_MAX;
}

enum ledger_record ledger_look(struct ledger *l, int32_t partition, int64_t offset)
{
    struct partition *p = find_owned(l, partition);
    if (!p || p->closing)
        return LEDGER_RECORD_FOREIGN;
    if (offset < p->next)
        return LEDGER_RECORD_AGAIN;
    return before_has(p, offset) ? LEDGER_RECORD_DONE : LEDGER_RECORD_NEW;
}

static int ring_grow(struct partition *p, struct base_error *err)
{
    if (p->n < p->capacity)
        return 0;
    uint32_t capacity = p->capacity ? p->capacity * 2 : 16;
    struct entry *ring = malloc(capacity * sizeof *ring);
    if (!ring)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for %u records", capacity);
    for (uint32_t i = 0; i < p->n; i++)
        ring[i] = *entry_at(p, i);
    free(p->ring);
    p->ring = ring;
    p->capacity = capacity;
    p->head = 0;
    return 0;
}

static int finished_grow(struct partition *p, uint32_t n, struct base_error *err)
{
    uint32_t capacity = p->finished_capacity ? p->finished_capacity : 16;
    while (capacity < n)
        capacity *= 2;
    if (capacity == p->finished_capacity)
        return 0;
    struct finished *ring = malloc(capacity * sizeof *ring);
    if (!ring)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for %u prompts", capacity);
    for (uint32_t i = 0; i < p->n_finished; i++)
        ring[i] = p->finished[(p->finished_head + i) & (p->finished_capacity - 1)];
    free(p->finished);
    p->finished = ring;
    p->finished_capacity = capacity;
    p->finished_head = 0;
    return 0;
}

static void finished_push(struct partition *p, int64_t offset, uint32_t part)
{
    assert(p->n_finished < p->finished_capacity);
    uint32_t at = (p->finished_head + p->n_finished++) & (p->finished_capacity - 1);
    p->finished[at] = (struct finished){offset, part};
}

static void note_taken(struct partition *p, int64_t offset)
{
    p->next = offset + 1;
    p->position_believed = true;
    before_advance(p, p->next);
}

int ledger_pass(struct ledger *l, int32_t partition, int64_t offset, struct base_error *err)
{
    struct partition *p = find_owned(l, partition);
    assert(p && offset >= p->next);
    if (p->n > 0) { /* else everything below next is done anyway */
        int rc = ring_grow(p, err);
        if (rc < 0)
            return rc;
        p->n++;
        *entry_at(p, p->n - 1) = (struct entry){.offset = offset, .n_parts = 1};
    }
    note_taken(p, offset);
    return 0;
}

static int entry_new(int64_t offset, uint32_t n_parts, void *item, struct entry *out, struct base_error *err)
{
    *out = (struct entry){.offset = offset, .item = item, .n_parts = n_parts, .n_left = n_parts};
    if (n_parts == 1)
        return 0;
    out->parts.many = calloc(n_parts, 1);
    return out->parts.many ? 0 : base_fail(err, ERR_NOMEM, "ledger: out of memory for %u prompts", n_parts);
}

/* What is answered already; the last one always stays: a record without open parts would be in a run of the map. */
static void skip_answered(struct entry *e, const uint8_t *answered, uint8_t *done)
{
    for (uint32_t i = 0; answered && !MUTANT(parts_ignored) && i < e->n_parts && e->n_left > 1; i++)
        if (schema_progress_bit(answered, i)) {
            parts_of(e)[i] = DONE;
            e->n_left--;
            schema_progress_bit_set(done, i);
        }
}

int ledger_take(struct ledger *l, int32_t partition, int64_t offset, uint32_t n_parts, void *item, uint64_t *out_epoch,
                uint8_t *done, struct base_error *err)
{
    struct partition *p = find_owned(l, partition);
    assert(p && offset >= p->next && n_parts >= 1);
    memset(done, 0, (n_parts + 7) / 8);
    if (n_parts > LEDGER_PARTS_MAX)
        return base_fail(err, ERR_INPUT, "partition %d, offset %lld: %u prompts are more than %d", partition,
                         (long long)offset, n_parts, LEDGER_PARTS_MAX);
    struct entry e;
    int rc = ring_grow(p, err);
    if (rc == 0)
        rc = finished_grow(p, p->n_live + n_parts, err);
    if (rc == 0)
        rc = entry_new(offset, n_parts, item, &e, err);
    if (rc < 0)
        return rc;
    skip_answered(&e, before_parts(p, offset, n_parts), done);
    p->n++;
    *entry_at(p, p->n - 1) = e;
    p->n_records++;
    p->n_live += e.n_left;
    p->n_open += e.n_left;
    p->partial_bytes += partial_bytes(n_parts);
    note_taken(p, offset);
    *out_epoch = p->epoch;
    return 0;
}

/* Owners that died */

bool ledger_hold(struct ledger *l, int32_t partition)
{
    struct partition *p = find_owned(l, partition);
    if (!p)
        return true;
    p->hold_wanted = true;
    return p->held_by_us;
}

uint32_t ledger_deaths(const struct ledger *l, int32_t partition, int64_t offset, int64_t timestamp_ms, uint32_t limit)
{
    const struct partition *p = find_owned(l, partition);
    if (!p || p->crashes == 0 || offset >= p->suspects_end || timestamp_ms > p->assigned_ms)
        return 0;
    return p->crashes < limit || offset <= p->assigned_at ? p->crashes : limit - 1;
}

bool ledger_is_open(const struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset)
{
    if (!ledger_is_current(l, partition, epoch))
        return false;
    const struct entry *e = entry_find(&l->partitions[partition], offset);
    return e && e->n_left > 0;
}

/* Finishing */

static void finish_part(struct partition *p, struct entry *e, uint32_t part)
{
    parts_of(e)[part] = FINISHED;
    p->n_open--;
    finished_push(p, e->offset, part);
}

bool ledger_finish(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset, uint32_t part)
{
    if (!ledger_is_current(l, partition, epoch))
        return false;
    struct partition *p = &l->partitions[partition];
    struct entry *e = entry_find(p, offset);
    assert(e && part < e->n_parts && e->n_left && parts_of(e)[part] == OPEN); /* of this epoch, and finished once */
    finish_part(p, e, part);
    return true;
}

bool ledger_finish_all(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset)
{
    if (!ledger_is_current(l, partition, epoch))
        return false;
    struct partition *p = &l->partitions[partition];
    struct entry *e = entry_find(p, offset);
    assert(e && e->n_left == e->n_parts);
    for (uint32_t i = 0; i < e->n_parts; i++) {
        assert(parts_of(e)[i] == OPEN);
        finish_part(p, e, i);
    }
    return true;
}

void ledger_leave(struct ledger *l, int32_t partition, uint64_t epoch, int64_t offset, uint32_t part)
{
    if (!ledger_is_current(l, partition, epoch))
        return;
    struct partition *p = &l->partitions[partition];
    struct entry *e = entry_find(p, offset);
    assert(p->closing && e && e->n_left && parts_of(e)[part] == OPEN);
    parts_of(e)[part] = LEFT;
    p->n_open--;
}

void ledger_note_position(struct ledger *l, int32_t partition, int64_t position)
{
    struct partition *p = find_owned(l, partition);
    if (!p || p->closing) /* then records are let pass */
        return;
    if (position < 0)
        p->position_believed = true; /* the client forgot the old epoch's: what comes next is this one's */
    else if (p->position_believed)
        p->position = position;
}

/* Collecting */

static bool position_moved(const struct partition *p)
{
    return p->n == 0 && p->position > p->committed && p->position >= p->next;
}

/* Something to say that is not a record's. */
static bool has_news(const struct partition *p)
{
    return position_moved(p) || (hold_changed(p) && (p->n || p->next >= 0));
}

static void *grown(void *memory, size_t *n_max, size_t n, size_t size)
{
    if (n <= *n_max && memory)
        return memory;
    void *more = realloc(memory, n * 2 * size + size);
    if (more)
        *n_max = n * 2;
    return more;
}

static int reserve_scratch(struct ledger *l, const struct partition *p, struct base_error *err)
{
    size_t n_before = p->before ? p->before->n_runs + (size_t)p->before->n_partials : 0, n = p->n + n_before + 1;
    void *runs = grown(l->runs, &l->n_runs_max, n, sizeof *l->runs);
    l->runs = runs ? runs : l->runs;
    void *partials = grown(l->partials, &l->n_partials_max, p->n_records + n_before + 1, sizeof *l->partials);
    l->partials = partials ? partials : l->partials;
    void *bits = grown(l->bits, &l->n_bits_max, p->partial_bytes + 1, 1);
    l->bits = bits ? bits : l->bits;
    return runs && partials && bits ? 0 : base_fail(err, ERR_NOMEM, "ledger: out of memory for a progress map");
}

static void add_run(struct schema_progress *m, struct schema_progress_run *runs, int64_t from, int64_t end)
{
    if (m->n_runs && runs[m->n_runs - 1].end == from)
        runs[m->n_runs - 1].end = end;
    else
        runs[m->n_runs++] = (struct schema_progress_run){from, end};
}

/* Parts that this transaction makes done count as done. false: none is. */
static bool done_bits(struct entry *e, uint8_t *bits)
{
    bool any = false;
    memset(bits, 0, (e->n_parts + 7) / 8);
    for (uint32_t i = 0; i < e->n_parts; i++)
        if (parts_of(e)[i] >= PUBLISHING) {
            schema_progress_bit_set(bits, i);
            any = true;
        }
    return any;
}

static bool will_be_done(struct entry *e)
{
    for (uint32_t i = 0; e->n_left && i < e->n_parts; i++)
        if (parts_of(e)[i] < PUBLISHING)
            return false;
    return true;
}

/* The partition's records from the i-th on, then what is left of the last owner's map. */
static void describe(struct ledger *l, const struct partition *p, uint32_t i, struct schema_progress *m)
{
    uint8_t *bits = l->bits;
    int64_t at = m->base;
    for (; i < p->n; i++) {
        struct entry *e = entry_at(p, i);
        if (will_be_done(e)) {
            add_run(m, l->runs, at, e->offset + 1);
        } else if (e->n_parts > 1 && done_bits(e, bits)) {
            l->partials[m->n_partials++] = (struct schema_progress_partial){e->offset, e->n_parts, bits};
            bits += (e->n_parts + 7) / 8;
        }
        at = e->offset + 1;
    }
    const struct schema_progress *b = p->before;
    for (uint32_t k = p->run; b && k < b->n_runs; k++)
        if (b->runs[k].end > m->base)
            add_run(m, l->runs, b->runs[k].from > at ? b->runs[k].from : at, b->runs[k].end);
    for (uint32_t k = p->partial; b && k < b->n_partials; k++)
        if (b->partials[k].offset >= m->base)
            l->partials[m->n_partials++] = b->partials[k];
}

/* What will be committed if this batch is. */
static int make_map(struct ledger *l, const struct partition *p, struct ledger_span *s, struct base_error *err)
{
    uint32_t i = 0;
    while (i < p->n && will_be_done(entry_at(p, i)))
        i++;
    if (MUTANT(position_committed))
        i = p->n;
    if (i < p->n)
        s->next = entry_at(p, i)->offset;
    else
        s->next = p->position > p->next ? p->position : p->next;
    int rc = reserve_scratch(l, p, err);
    if (rc < 0)
        return rc;
    /* Once nothing of then is left, the next crash is the first again. */
    bool drained = i == p->n && p->position_believed && p->position >= p->next;
    s->crashes = drained || s->next >= p->suspects_end ? 0 : p->crashes;
    struct schema_progress m = {.base = s->next,
                                .crashes = s->crashes,
                                .suspects_end = s->crashes ? p->suspects_end : s->next,
                                .writer = l->writer,
                                .held = !p->closing,
                                .runs = l->runs,
                                .partials = l->partials};
    describe(l, p, i, &m);
    s->held = m.held;
    rc = schema_progress_encode(&m, s->map, err);
    return rc < 0 ? base_fail_in(err, "partition %d", s->partition) : 0;
}

static int reserve_items(struct ledger_batch *b, uint32_t n, struct base_error *err)
{
    if (n <= b->n_items_max)
        return 0;
    struct ledger_item *items = realloc(b->items, n * 2 * sizeof *items);
    if (!items)
        return base_fail(err, ERR_NOMEM, "ledger: out of memory for a batch of %u prompts", n);
    b->items = items;
    b->n_items_max = n * 2;
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

/* Oldest first, about n_max in the whole batch; never some of the parts that were finished as a whole. */
static int collect_items(struct partition *p, int32_t number, uint32_t n_max, struct ledger_batch *b,
                         struct base_error *err)
{
    int rc = reserve_items(b, b->n_items + p->n_finished, err);
    int64_t last = -1;
    while (rc == 0 && p->n_finished) {
        struct finished f = p->finished[p->finished_head];
        if (b->n_items >= n_max && f.offset != last)
            break;
        struct entry *e = entry_find(p, f.offset);
        assert(e && parts_of(e)[f.part] == FINISHED);
        parts_of(e)[f.part] = PUBLISHING;
        p->n_publishing++;
        b->items[b->n_items++] = (struct ledger_item){e->item, number, f.part, f.offset};
        p->finished_head = (p->finished_head + 1) & (p->finished_capacity - 1);
        p->n_finished--;
        last = f.offset;
    }
    return rc;
}

static int collect_partition(struct ledger *l, int32_t number, uint32_t n_max, struct ledger_batch *b,
                             struct base_error *err)
{
    struct partition *p = &l->partitions[number];
    bool full = b->n_items >= n_max;
    if ((p->n_finished == 0 || full) && !has_news(p))
        return 0;
    struct ledger_span *s = &b->spans[b->n_spans++];
    s->partition = number;
    s->epoch = p->epoch;
    s->first_item = b->n_items;
    int rc = full ? 0 : collect_items(p, number, n_max, b, err);
    s->n_items = b->n_items - s->first_item;
    return rc < 0 ? rc : make_map(l, p, s, err);
}

static void put_back(struct partition *p, const struct ledger_item *item)
{
    struct entry *e = entry_find(p, item->offset);
    assert(e && parts_of(e)[item->part] == PUBLISHING);
    parts_of(e)[item->part] = FINISHED;
    p->n_publishing--;
    finished_push(p, item->offset, item->part);
}

static void uncollect(struct ledger *l, struct ledger_batch *b)
{
    for (uint32_t i = 0; i < b->n_items; i++)
        put_back(&l->partitions[b->items[i].partition], &b->items[i]);
    b->n_items = b->n_spans = 0;
}

int ledger_collect(struct ledger *l, uint32_t n_max, struct ledger_batch *b, struct base_error *err)
{
    assert(!l->collected);
    b->n_items = b->n_spans = 0;
    int rc = reserve_spans(b, l->n_owned, err);
    for (uint32_t i = 0; rc == 0 && i < l->n_partitions; i++) {
        uint32_t number = (l->turn + i) % l->n_partitions;
        if (l->partitions[number].owned)
            rc = collect_partition(l, (int32_t)number, n_max, b, err);
    }
    if (rc < 0) {
        uncollect(l, b);
        return rc;
    }
    l->turn = l->n_partitions ? (l->turn + 1) % l->n_partitions : 0;
    l->collected = b->n_spans > 0;
    return 0;
}

/* Settling */

static void settle_done(struct partition *p, const struct ledger_item *item, ledger_drop_fn *drop, void *context)
{
    struct entry *e = entry_find(p, item->offset);
    assert(e && parts_of(e)[item->part] == PUBLISHING);
    parts_of(e)[item->part] = DONE;
    p->n_publishing--;
    p->n_live--;
    if (--e->n_left > 0)
        return;
    drop(context, e->item);
    entry_done(p, e);
}

void ledger_settle(struct ledger *l, const struct ledger_batch *b, bool committed, ledger_drop_fn *drop, void *context)
{
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct ledger_span *s = &b->spans[i];
        if (!ledger_is_current(l, s->partition, s->epoch))
            continue;
        struct partition *p = &l->partitions[s->partition];
        for (uint32_t k = 0; k < s->n_items; k++)
            if (committed)
                settle_done(p, &b->items[s->first_item + k], drop, context);
            else
                put_back(p, &b->items[s->first_item + k]);
        pop_done(p);
        if (!committed)
            continue;
        p->committed = s->next;
        p->held = p->held_by_us = s->held;
        p->crashes = s->crashes;
    }
    l->collected = false;
}

void ledger_batch_done(struct ledger_batch *batch)
{
    free(batch->items);
    free(batch->spans);
    *batch = (struct ledger_batch){0};
}

/* Looking */

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
        out->partitions++;
        out->records += p->n_records;
        out->ready += p->n_finished;
        out->idle += has_news(p);
        out->urgent += hold_changed(p);
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
