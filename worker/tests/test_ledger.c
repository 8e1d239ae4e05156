/* The ledger: what may be committed, what its map says, and whose records are whose after a rebalance. */
#include "worker/tests/test_worker.h"

#include "worker/ledger.h"

struct dropped {
    void *items[4096];
    uint32_t n;
};

static void drop(void *context, void *item)
{
    struct dropped *d = context;
    assert_true(d->n < N_OF(d->items));
    d->items[d->n++] = item;
}

static void *item_of(int64_t offset)
{
    return (void *)(uintptr_t)(offset + 1);
}

struct fixture {
    struct ledger *ledger;
    struct ledger_batch batch;
    struct dropped dropped;
    uint64_t epoch;
    uint8_t done[LEDGER_PARTS_MAX / 8];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_int_equal(ledger_new("rouse-0", &f->ledger, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    ledger_batch_done(&f->batch);
    ledger_free(f->ledger);
    free(f);
    return 0;
}

static void assign(struct fixture *f, int32_t partition)
{
    struct base_error err = {0};
    assert_ok(ledger_assign(f->ledger, partition, -1, NULL, 1000, &err), err);
}

/* As a worker that gets the partition after this span was committed. */
static void assign_after(struct fixture *f, const struct ledger_span *s)
{
    struct base_error err = {0};
    struct schema_progress *p = NULL;
    assert_ok(schema_progress_decode(s->map, strlen(s->map), s->next, &p, &err), err);
    assert_ok(ledger_assign(f->ledger, s->partition, s->next, p, 1000, &err), err);
}

static void take_parts(struct fixture *f, int32_t partition, int64_t offset, uint32_t n_parts)
{
    struct base_error err = {0};
    assert_int_equal(ledger_look(f->ledger, partition, offset), LEDGER_RECORD_NEW);
    assert_ok(ledger_take(f->ledger, partition, offset, n_parts, item_of(offset), &f->epoch, f->done, &err), err);
}
static void take(struct fixture *f, int32_t partition, int64_t offset)
{
    take_parts(f, partition, offset, 1);
}

static void finish(struct fixture *f, int32_t partition, int64_t offset)
{
    assert_true(ledger_finish(f->ledger, partition, f->epoch, offset, 0));
}

static void collect(struct fixture *f, uint32_t n_max)
{
    struct base_error err = {0};
    assert_ok(ledger_collect(f->ledger, n_max, &f->batch, &err), err);
}

static void settle(struct fixture *f, bool committed)
{
    f->dropped.n = 0;
    ledger_settle(f->ledger, &f->batch, committed, drop, &f->dropped);
}

static struct schema_progress *map_of(const struct ledger_span *s)
{
    struct base_error err = {0};
    struct schema_progress *p = NULL;
    assert_ok(schema_progress_decode(s->map, strlen(s->map), s->next, &p, &err), err);
    assert_string_equal(p->writer, "rouse-0");
    return p;
}

static void test_records_go_out_as_they_finish_and_the_offset_waits_for_the_first(void **state)
{
    struct fixture *f = *state;
    assign(f, 3);
    for (int64_t o = 10; o < 16; o++)
        take(f, 3, o);
    finish(f, 3, 12);
    finish(f, 3, 14);
    collect(f, 100);
    assert_int_equal(f->batch.n_items, 2);
    assert_int_equal(f->batch.spans[0].next, 10);
    struct schema_progress *p = map_of(&f->batch.spans[0]);
    assert_int_equal(p->n_runs, 2);
    assert_int_equal(p->runs[0].from, 12);
    assert_int_equal(p->runs[0].end, 13);
    assert_int_equal(p->runs[1].from, 14);
    assert_true(p->held);
    schema_progress_free(p);
    settle(f, true);
    assert_int_equal(f->dropped.n, 2);

    finish(f, 3, 10);
    finish(f, 3, 11);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 13);
    settle(f, true);
    finish(f, 3, 13);
    finish(f, 3, 15);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 16);
    p = map_of(&f->batch.spans[0]);
    assert_int_equal(p->n_runs, 0);
    schema_progress_free(p);
    settle(f, true);
    assert_int_equal(ledger_committed(f->ledger, 3), 16);
}

static void test_prompts_of_a_record_go_out_one_by_one(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take_parts(f, 0, 7, 3);
    take_parts(f, 0, 8, 2);
    assert_true(ledger_finish(f->ledger, 0, f->epoch, 7, 2));
    assert_true(ledger_finish(f->ledger, 0, f->epoch, 8, 0));
    collect(f, 100);
    assert_int_equal(f->batch.n_items, 2);
    assert_int_equal(f->batch.items[0].part, 2);
    struct schema_progress *p = map_of(&f->batch.spans[0]);
    assert_int_equal(p->base, 7);
    assert_int_equal(p->n_partials, 2);
    assert_int_equal(p->partials[0].offset, 7);
    assert_int_equal(p->partials[0].n_prompts, 3);
    assert_int_equal(p->partials[0].done[0], 4);
    assert_int_equal(p->partials[1].done[0], 1);
    schema_progress_free(p);
    settle(f, true);
    assert_int_equal(f->dropped.n, 0);
    struct ledger_state s;
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.open, 3);
    assert_int_equal(s.records, 2);
}

static void test_an_aborted_batch_is_collected_again(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    for (int64_t o = 0; o < 3; o++)
        take(f, 0, o);
    finish(f, 0, 1);
    finish(f, 0, 0);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 2);
    settle(f, false);
    assert_int_equal(f->dropped.n, 0);
    assert_int_equal(ledger_committed(f->ledger, 0), -1);
    collect(f, 100);
    assert_int_equal(f->batch.n_items, 2);
    assert_int_equal(f->batch.spans[0].next, 2);
    settle(f, true);
    assert_int_equal(f->dropped.n, 2);
}

static void test_a_batch_is_bounded_but_a_refused_record_is_whole(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take_parts(f, 0, 0, 1);
    take_parts(f, 0, 1, 10);
    take_parts(f, 0, 2, 1);
    finish(f, 0, 0);
    assert_true(ledger_finish_all(f->ledger, 0, f->epoch, 1));
    finish(f, 0, 2);
    collect(f, 2);
    assert_int_equal(f->batch.n_items, 11);
    assert_int_equal(f->batch.spans[0].next, 2);
    settle(f, true);
    collect(f, 2);
    assert_int_equal(f->batch.n_items, 1);
    settle(f, true);
}

static void test_duplicates_and_foreign_records_are_refused(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ledger_look(f->ledger, 1, 0), LEDGER_RECORD_FOREIGN);
    assign(f, 1);
    take(f, 1, 5);
    assert_int_equal(ledger_look(f->ledger, 1, 5), LEDGER_RECORD_AGAIN);
    assert_int_equal(ledger_look(f->ledger, 1, 4), LEDGER_RECORD_AGAIN);
    take(f, 1, 9); /* gaps are normal */
    assert_false(ledger_finish(f->ledger, 1, f->epoch + 1, 9, 0));
    ledger_close(f->ledger, 1);
    assert_int_equal(ledger_look(f->ledger, 1, 10), LEDGER_RECORD_FOREIGN);
}

static void test_a_partition_that_moved_takes_its_records_along(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take(f, 0, 1);
    take(f, 0, 2);
    take(f, 0, 3);
    uint64_t before = f->epoch;
    finish(f, 0, 2);
    collect(f, 100);
    ledger_revoke(f->ledger, 0, drop, &f->dropped);
    assert_int_equal(f->dropped.n, 3);
    assert_false(ledger_finish(f->ledger, 0, before, 1, 0));
    assign(f, 0);
    take(f, 0, 1);
    assert_true(f->epoch != before);
    settle(f, true); /* of the old epoch: nothing of the new one changes */
    assert_int_equal(ledger_committed(f->ledger, 0), -1);
    struct ledger_state s;
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.open, 1);
}

static void test_a_closing_partition_lets_what_runs_finish(void **state)
{
    struct fixture *f = *state;
    struct ledger_state s;
    assign(f, 0);
    take(f, 0, 1);
    take(f, 0, 2);
    ledger_close(f->ledger, 0);
    assert_true(ledger_is_closing(f->ledger, 0, f->epoch));
    ledger_leave(f->ledger, 0, f->epoch, 1, 0);
    finish(f, 0, 2);
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.open, 0);
    assert_int_equal(s.unsettled, 1);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 1);
    ledger_note_position(f->ledger, 0, 50); /* records are let pass */
    settle(f, true);
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.unsettled, 0);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 0);
    settle(f, true);
}

static void commit(struct fixture *f)
{
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 1);
    settle(f, true);
}

/* The worker dies, and the next one gets the partition. */
static void die(struct fixture *f)
{
    struct ledger_span span = f->batch.spans[0];
    ledger_revoke(f->ledger, 0, drop, &f->dropped);
    assign_after(f, &span);
}

static void test_deaths_are_counted_in_the_map(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take(f, 0, 0);
    take(f, 0, 1);
    assert_int_equal(ledger_deaths(f->ledger, 0, 0, 500, 3), 0);
    assert_false(ledger_hold(f->ledger, 0));
    commit(f);
    assert_true(ledger_hold(f->ledger, 0));
    for (uint32_t n = 1; n <= 2; n++) {
        die(f);
        assert_int_equal(ledger_deaths(f->ledger, 0, 0, 500, 3), n);
        assert_int_equal(ledger_deaths(f->ledger, 0, 1, 500, 3), n);
        assert_int_equal(ledger_deaths(f->ledger, 0, 1, 1001, 3), 0); /* came later */
        assert_int_equal(ledger_deaths(f->ledger, 0, LEDGER_SUSPECTS, 500, 3), 0);
        take(f, 0, 0);
        assert_false(ledger_hold(f->ledger, 0)); /* not before the count is written down */
        commit(f);
    }
    die(f); /* while the first was alone: it was it */
    assert_int_equal(ledger_deaths(f->ledger, 0, 0, 500, 3), 3);
    assert_int_equal(ledger_deaths(f->ledger, 0, 1, 500, 3), 2);
    take(f, 0, 0);
    take(f, 0, 1);
    finish(f, 0, 0);
    finish(f, 0, 1);
    ledger_note_position(f->ledger, 0, 2);
    commit(f);
    die(f); /* with nothing left of then */
    assert_int_equal(ledger_deaths(f->ledger, 0, 2, 500, 3), 1);
}

static void test_a_partition_that_is_given_back_is_not_held(void **state)
{
    struct fixture *f = *state;
    struct ledger_state s;
    assign(f, 0);
    take(f, 0, 0);
    ledger_hold(f->ledger, 0);
    commit(f);
    ledger_close(f->ledger, 0);
    ledger_leave(f->ledger, 0, f->epoch, 0, 0);
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.unsettled, 1); /* the map */
    commit(f);
    assert_true(ledger_state(f->ledger, 0, &s));
    assert_int_equal(s.unsettled, 0);
    die(f);
    assert_int_equal(ledger_deaths(f->ledger, 0, 0, 500, 3), 0);
}

static void test_the_next_owner_skips_what_is_done(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    for (int64_t o = 0; o < 10; o++)
        take_parts(f, 0, o, 2);
    for (int64_t o = 4; o < 8; o++)
        assert_true(ledger_finish_all(f->ledger, 0, f->epoch, o));
    assert_true(ledger_finish(f->ledger, 0, f->epoch, 2, 1));
    collect(f, 100);
    settle(f, true);
    struct ledger_span span = f->batch.spans[0];
    ledger_revoke(f->ledger, 0, drop, &f->dropped);

    struct base_error err = {0};
    assign_after(f, &span);
    assert_int_equal(ledger_committed(f->ledger, 0), 0);
    take_parts(f, 0, 0, 2);
    take_parts(f, 0, 1, 2);
    take_parts(f, 0, 2, 2);
    assert_int_equal(f->done[0], 2);
    /* What has not come yet stays in the map that is committed next. */
    assert_true(ledger_finish_all(f->ledger, 0, f->epoch, 0));
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 1);
    struct schema_progress *p = map_of(&f->batch.spans[0]);
    assert_int_equal(p->n_runs, 1);
    assert_int_equal(p->runs[0].from, 4);
    assert_int_equal(p->runs[0].end, 8);
    assert_int_equal(p->n_partials, 1);
    assert_int_equal(p->partials[0].done[0], 2);
    schema_progress_free(p);
    settle(f, true);
    take_parts(f, 0, 3, 2);
    for (int64_t o = 4; o < 8; o++) {
        assert_int_equal(ledger_look(f->ledger, 0, o), LEDGER_RECORD_DONE);
        assert_ok(ledger_pass(f->ledger, 0, o, &err), err);
        assert_int_equal(ledger_look(f->ledger, 0, o), LEDGER_RECORD_AGAIN);
    }
    take_parts(f, 0, 8, 2);
    assert_true(ledger_finish_all(f->ledger, 0, f->epoch, 1));
    assert_true(ledger_finish(f->ledger, 0, f->epoch, 2, 0));
    assert_true(ledger_finish_all(f->ledger, 0, f->epoch, 3));
    collect(f, 100);
    assert_int_equal(f->batch.n_items, 5);
    assert_int_equal(f->batch.spans[0].next, 8);
    settle(f, true);
}

static void test_a_map_of_another_record_is_not_believed(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take_parts(f, 0, 0, 3);
    assert_true(ledger_finish(f->ledger, 0, f->epoch, 0, 1));
    collect(f, 100);
    struct ledger_span span = f->batch.spans[0];
    settle(f, true);
    ledger_revoke(f->ledger, 0, drop, &f->dropped);
    assign_after(f, &span);
    take_parts(f, 0, 0, 4);
    assert_int_equal(f->done[0], 0);
}

static void test_a_drained_partition_commits_its_position(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take(f, 0, 0);
    ledger_note_position(f->ledger, 0, 1);
    finish(f, 0, 0);
    ledger_note_position(f->ledger, 0, 3); /* over a marker */
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 3);
    settle(f, true);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 0);
    settle(f, true);
    ledger_note_position(f->ledger, 0, 4);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 1);
    assert_int_equal(f->batch.spans[0].n_items, 0);
    assert_int_equal(f->batch.spans[0].next, 4);
    settle(f, true);
}

static void test_positions_never_pass_a_record_in_flight(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take(f, 0, 0);
    take(f, 0, 1);
    ledger_note_position(f->ledger, 0, 9);
    finish(f, 0, 0);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 1);
    settle(f, true);
}

static void test_a_position_of_before_the_epoch_is_not_believed(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    ledger_note_position(f->ledger, 0, 100);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 0);
    settle(f, true);
    ledger_note_position(f->ledger, 0, -1001);
    ledger_note_position(f->ledger, 0, 5);
    collect(f, 100);
    assert_int_equal(f->batch.spans[0].next, 5);
    settle(f, true);
}

static void test_a_straggler_does_not_fill_the_map(void **state)
{
    struct fixture *f = *state;
    assign(f, 0);
    take(f, 0, 0);
    for (int64_t o = 1; o < 100000; o++) {
        assert_true(ledger_has_room(f->ledger, 0));
        take(f, 0, o);
        finish(f, 0, o);
        if (o % 256)
            continue;
        collect(f, 512);
        settle(f, true);
    }
    collect(f, 512);
    assert_int_equal(f->batch.spans[0].next, 0);
    assert_true(strlen(f->batch.spans[0].map) < 40);
    settle(f, true);
    finish(f, 0, 0);
    collect(f, 512);
    assert_int_equal(f->batch.spans[0].next, 100000);
    settle(f, true);
}

/* Takes as long as there is room, then finishes what makes the longest map. */
static uint32_t fill(struct fixture *f, uint32_t n_parts)
{
    uint32_t n = 0;
    while (ledger_has_room(f->ledger, 0) && n < 30000)
        take_parts(f, 0, n++, n_parts);
    return n;
}

static void test_the_longest_map_fits(void **state)
{
    static const uint32_t parts[] = {1, 2, 5, 64, LEDGER_PARTS_MAX};
    static const uint32_t records_min[] = {20000, 300, 300, 150, 15};
    for (uint32_t i = 0; i < N_OF(parts); i++) {
        struct fixture *f;
        setup((void **)&f);
        ledger_set_writer(f->ledger, "w");
        (void)state;
        assign(f, 0);
        uint32_t n = fill(f, parts[i]);
        if (n < records_min[i])
            fail_msg("%u prompts a record: room for %u records only", parts[i], n);
        for (uint32_t o = 1; o < n; o += parts[i] == 1 ? 2 : 1)
            finish(f, 0, o);
        collect(f, UINT32_MAX);
        assert_true(strlen(f->batch.spans[0].map) <= SCHEMA_PROGRESS_CHARS_MAX);
        settle(f, false);
        teardown((void **)&f);
    }
}

/* Against a model: random takes, finishes, aborts and handovers, over records with several prompts and gaps between offsets.
 * What a committed map says is what was committed, and in the end each prompt was committed once. */
enum { RECORDS = 1500, PARTS = 5 };

struct world {
    int64_t offsets[RECORDS];
    uint32_t n_parts[RECORDS], n_published[RECORDS][PARTS];
    struct ledger_span committed; /* what the group has */
    bool any;
};

static uint32_t draw(uint64_t *seed, uint32_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33) % n;
}

static uint32_t record_at(const struct world *w, int64_t offset)
{
    for (uint32_t r = 0; r < RECORDS; r++)
        if (w->offsets[r] == offset)
            return r;
    fail_msg("no record has the offset %lld", (long long)offset);
    return 0;
}

static bool says_done(const struct schema_progress *p, int64_t offset, uint32_t part)
{
    if (offset < p->base)
        return true;
    for (uint32_t i = 0; i < p->n_runs; i++)
        if (offset >= p->runs[i].from && offset < p->runs[i].end)
            return true;
    for (uint32_t i = 0; i < p->n_partials; i++)
        if (p->partials[i].offset == offset)
            return schema_progress_bit(p->partials[i].done, part);
    return false;
}

static void check_committed(const struct world *w)
{
    struct schema_progress *p = map_of(&w->committed);
    for (uint32_t r = 0; r < RECORDS; r++)
        for (uint32_t k = 0; k < w->n_parts[r]; k++)
            if (says_done(p, w->offsets[r], k) != (w->n_published[r][k] == 1))
                fail_msg("offset %lld, prompt %u: published %u times, the map (base %lld) says %s",
                         (long long)w->offsets[r], k, w->n_published[r][k], (long long)p->base,
                         says_done(p, w->offsets[r], k) ? "done" : "open");
    schema_progress_free(p);
}

static void publish(struct fixture *f, struct world *w, uint64_t *seed)
{
    collect(f, 1 + draw(seed, 30));
    bool committed = draw(seed, 4) > 0;
    for (uint32_t i = 0; committed && i < f->batch.n_items; i++)
        w->n_published[record_at(w, f->batch.items[i].offset)][f->batch.items[i].part]++;
    if (committed && f->batch.n_spans) {
        w->committed = f->batch.spans[0];
        w->any = true;
    }
    settle(f, committed);
    if (w->any)
        check_committed(w);
}

struct hand { /* open parts */
    int64_t offset[RECORDS * PARTS];
    uint32_t part[RECORDS * PARTS];
    uint32_t n;
};

static void take_next(struct fixture *f, const struct world *w, uint32_t *next, struct hand *h)
{
    struct base_error err = {0};
    uint32_t r = (*next)++;
    enum ledger_record what = ledger_look(f->ledger, 0, w->offsets[r]);
    if (what == LEDGER_RECORD_DONE) {
        assert_ok(ledger_pass(f->ledger, 0, w->offsets[r], &err), err);
        return;
    }
    take_parts(f, 0, w->offsets[r], w->n_parts[r]);
    for (uint32_t k = 0; k < w->n_parts[r]; k++) {
        bool skip = schema_progress_bit(f->done, k);
        assert_int_equal(skip, w->n_published[r][k]);
        if (skip)
            continue;
        h->offset[h->n] = w->offsets[r];
        h->part[h->n++] = k;
    }
}

static void finish_any(struct fixture *f, struct hand *h, uint64_t *seed)
{
    uint32_t i = draw(seed, h->n);
    assert_true(ledger_finish(f->ledger, 0, f->epoch, h->offset[i], h->part[i]));
    h->n--;
    h->offset[i] = h->offset[h->n];
    h->part[i] = h->part[h->n];
}

static void hand_over(struct fixture *f, struct world *w, uint32_t *next, struct hand *h)
{
    f->dropped.n = 0;
    ledger_revoke(f->ledger, 0, drop, &f->dropped);
    if (w->any)
        assign_after(f, &w->committed);
    else
        assign(f, 0);
    h->n = 0;
    for (*next = 0; w->any && w->offsets[*next] < w->committed.next;)
        ++*next;
}

static void run_model(uint64_t seed)
{
    struct fixture *f;
    struct world *w = calloc(1, sizeof *w);
    struct hand *h = calloc(1, sizeof *h);
    uint32_t next = 0;
    int64_t offset = draw(&seed, 50);
    setup((void **)&f);
    for (uint32_t r = 0; r < RECORDS; r++) {
        w->offsets[r] = offset;
        offset += 1 + (draw(&seed, 5) == 0) + (draw(&seed, 50) == 0 ? 40 : 0);
        w->n_parts[r] = draw(&seed, 3) ? 1 : 1 + draw(&seed, PARTS);
    }
    assign(f, 0);
    while (next < RECORDS || h->n) {
        uint32_t what = draw(&seed, 100);
        if (what == 0 && draw(&seed, 5) == 0)
            hand_over(f, w, &next, h);
        else if (what < 50 && next < RECORDS && ledger_has_room(f->ledger, 0))
            take_next(f, w, &next, h);
        else if (what < 96 && h->n)
            finish_any(f, h, &seed);
        else
            publish(f, w, &seed);
    }
    struct ledger_counts n;
    for (ledger_count(f->ledger, &n); n.ready; ledger_count(f->ledger, &n))
        publish(f, w, &seed);
    for (uint32_t r = 0; r < RECORDS; r++)
        for (uint32_t k = 0; k < w->n_parts[r]; k++)
            assert_int_equal(w->n_published[r][k], 1);
    teardown((void **)&f);
    free(w);
    free(h);
}

static void test_handovers_against_a_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++)
        run_model(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_records_go_out_as_they_finish_and_the_offset_waits_for_the_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_prompts_of_a_record_go_out_one_by_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_aborted_batch_is_collected_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_batch_is_bounded_but_a_refused_record_is_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicates_and_foreign_records_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_partition_that_moved_takes_its_records_along, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_closing_partition_lets_what_runs_finish, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deaths_are_counted_in_the_map, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_partition_that_is_given_back_is_not_held, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_next_owner_skips_what_is_done, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_map_of_another_record_is_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_drained_partition_commits_its_position, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions_never_pass_a_record_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_position_of_before_the_epoch_is_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_straggler_does_not_fill_the_map, setup, teardown),
        cmocka_unit_test(test_the_longest_map_fits),
        cmocka_unit_test(test_handovers_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
