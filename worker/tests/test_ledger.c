/* The ledger: what may be committed, and whose records are whose after a rebalance. */
#include "worker/tests/test_worker.h"

#include "worker/ledger.h"

struct dropped {
    void *items[64];
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
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_int_equal(ledger_new(&f->ledger, NULL), 0);
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

static void take_weighing(struct fixture *f, int32_t partition, int64_t offset, uint32_t weight)
{
    struct base_error err = {0};
    assert_ok(ledger_take(f->ledger, partition, offset, weight, item_of(offset), &f->epoch, &err), err);
}
static void take(struct fixture *f, int32_t partition, int64_t offset)
{
    take_weighing(f, partition, offset, 1);
}

static void finish(struct fixture *f, int32_t partition, int64_t offset)
{
    assert_true(ledger_finish(f->ledger, partition, f->epoch, offset));
}

static const struct ledger_span *collect(struct fixture *f, uint32_t weight_max)
{
    assert_int_equal(ledger_collect(f->ledger, weight_max, &f->batch, NULL), 0);
    return f->batch.spans;
}

static void settle(struct fixture *f, bool committed)
{
    f->dropped.n = 0;
    ledger_settle(f->ledger, &f->batch, committed, drop, &f->dropped);
}

static uint32_t ready(struct fixture *f)
{
    struct ledger_counts n;
    ledger_count(f->ledger, &n);
    return n.ready;
}

static void test_commit_stops_at_the_first_gap(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(ledger_assign(f->ledger, 3, NULL), 0);
    for (int64_t offset = 40; offset < 44; offset++)
        take(f, 3, offset);
    finish(f, 3, 41);
    finish(f, 3, 43);
    assert_int_equal(ready(f), 0);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 0);

    finish(f, 3, 40);
    assert_int_equal(ready(f), 2);
    const struct ledger_span *s = collect(f, 100);
    assert_int_equal(f->batch.n_spans, 1);
    assert_int_equal(f->batch.n_items, 2);
    assert_int_equal(s->partition, 3);
    assert_int_equal(s->next, 42);
    assert_ptr_equal(f->batch.items[0], item_of(40));
    assert_ptr_equal(f->batch.items[1], item_of(41));
    settle(f, true);
    assert_int_equal(f->dropped.n, 2);
    assert_int_equal(ledger_committed(f->ledger, 3), 42);

    finish(f, 3, 42);
    assert_int_equal(collect(f, 100)->next, 44);
    assert_int_equal(f->batch.n_items, 2);
    settle(f, true);
}

static void test_an_aborted_batch_is_collected_again(void **state)
{
    struct fixture *f = *state;
    ledger_assign(f->ledger, 0, NULL);
    take(f, 0, 7);
    take(f, 0, 9);
    finish(f, 0, 7);
    collect(f, 100);
    settle(f, false);
    assert_int_equal(f->dropped.n, 0);
    finish(f, 0, 9); /* meanwhile the next one is done: both go together */
    assert_int_equal(collect(f, 100)->next, 10);
    assert_int_equal(f->batch.n_items, 2);
    settle(f, true);
    assert_int_equal(f->dropped.n, 2);
}

static void test_weight_bounds_a_batch(void **state)
{
    struct fixture *f = *state;
    ledger_assign(f->ledger, 0, NULL);
    ledger_assign(f->ledger, 1, NULL);
    for (int64_t offset = 0; offset < 4; offset++) {
        take_weighing(f, 0, offset, 50);
        finish(f, 0, offset);
    }
    take_weighing(f, 1, 0, 500);
    finish(f, 1, 0);
    collect(f, 120); /* two of partition 0; the record of 500 does not fit beside them */
    assert_int_equal(f->batch.weight, 100);
    settle(f, true);
    collect(f, 120); /* partition 1's turn: one record goes, whatever it weighs */
    assert_int_equal(f->batch.weight, 500);
    assert_int_equal(f->batch.spans[0].partition, 1);
    settle(f, true);
    collect(f, 120);
    assert_int_equal(f->batch.weight, 100);
    settle(f, true);
    assert_int_equal(ready(f), 0);
}

static void test_duplicates_and_foreign_records_are_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t epoch;
    struct base_error err = {0};
    assert_int_equal(ledger_take(f->ledger, 5, 1, 1, item_of(1), &epoch, &err), ERR_NOTFOUND);
    ledger_assign(f->ledger, 5, NULL);
    take(f, 5, 10);
    take(f, 5, 15); /* a gap: markers, compaction */
    assert_int_equal(ledger_take(f->ledger, 5, 15, 1, item_of(15), &epoch, &err), ERR_INPUT);
    assert_int_equal(ledger_take(f->ledger, 5, 12, 1, item_of(12), &epoch, &err), ERR_INPUT);
    finish(f, 5, 10);
    collect(f, 100);
    settle(f, true);
    assert_int_equal(ledger_take(f->ledger, 5, 10, 1, item_of(10), &epoch, &err), ERR_INPUT);
    assert_int_equal(ledger_assign(f->ledger, LEDGER_PARTITIONS_MAX, &err), ERR_INPUT);
}

static void test_a_partition_that_moved_takes_its_records_along(void **state)
{
    struct fixture *f = *state;
    ledger_assign(f->ledger, 2, NULL);
    take(f, 2, 1);
    take(f, 2, 2);
    take(f, 2, 3);
    finish(f, 2, 1);
    finish(f, 2, 3);
    uint64_t old = f->epoch;
    collect(f, 1); /* record 1 is being published while the partition goes */
    ledger_revoke(f->ledger, 2, drop, &f->dropped);
    assert_int_equal(f->dropped.n, 1); /* 3 was finished: dropped here */
    assert_ptr_equal(f->dropped.items[0], item_of(3));
    assert_false(ledger_owns(f->ledger, 2));

    assert_false(ledger_finish(f->ledger, 2, old, 2)); /* 2 is the device thread's to free */
    settle(f, false);
    assert_int_equal(f->dropped.n, 1); /* 1 was the commit thread's */
    assert_ptr_equal(f->dropped.items[0], item_of(1));

    ledger_assign(f->ledger, 2, NULL); /* and back: the same offsets come again, under another epoch */
    assert_false(ledger_is_current(f->ledger, 2, old));
    take(f, 2, 1);
    assert_true(f->epoch > old);
    assert_false(ledger_finish(f->ledger, 2, old, 1));
    finish(f, 2, 1);
    assert_int_equal(collect(f, 100)->next, 2);
    settle(f, true);
}

static void test_a_committed_batch_of_an_old_epoch_changes_nothing(void **state)
{
    struct fixture *f = *state;
    ledger_assign(f->ledger, 0, NULL);
    take(f, 0, 5);
    finish(f, 0, 5);
    collect(f, 100);
    ledger_revoke(f->ledger, 0, drop, &f->dropped);
    ledger_assign(f->ledger, 0, NULL);
    take(f, 0, 5);
    settle(f, true);
    assert_int_equal(f->dropped.n, 1);
    assert_int_equal(ledger_committed(f->ledger, 0), -1);
    finish(f, 0, 5); /* still there */
    assert_int_equal(collect(f, 100)->next, 6);
    settle(f, true);
}

static void test_a_drained_partition_commits_its_position(void **state)
{
    struct fixture *f = *state;
    struct ledger_counts n;
    ledger_assign(f->ledger, 0, NULL);
    take(f, 0, 8);
    ledger_note_position(f->ledger, 0, 9);
    finish(f, 0, 8);
    assert_int_equal(collect(f, 100)->next, 9);
    settle(f, true);
    ledger_count(f->ledger, &n);
    assert_int_equal(n.idle, 0);

    ledger_note_position(f->ledger, 0, 10); /* the producer's commit marker was stepped over */
    ledger_count(f->ledger, &n);
    assert_int_equal(n.idle, 1);
    assert_int_equal(collect(f, 100)->next, 10);
    assert_int_equal(f->batch.n_items, 0);
    settle(f, true);
    ledger_count(f->ledger, &n);
    assert_int_equal(n.idle, 0);

    take(f, 0, 10);
    ledger_note_position(f->ledger, 0, 12); /* the marker is known already when the record finishes */
    ledger_count(f->ledger, &n);
    assert_int_equal(n.idle, 0);
    finish(f, 0, 10);
    assert_int_equal(collect(f, 100)->next, 12);
    settle(f, true);
}

static void test_positions_never_pass_a_record_in_flight(void **state)
{
    struct fixture *f = *state;
    ledger_assign(f->ledger, 0, NULL);
    take(f, 0, 20);
    take(f, 0, 21);
    ledger_note_position(f->ledger, 0, 23);
    finish(f, 0, 20);
    assert_int_equal(collect(f, 100)->next, 21);
    settle(f, true);
    collect(f, 100);
    assert_int_equal(f->batch.n_spans, 0);
}

static void test_a_position_of_before_the_epoch_is_not_believed(void **state)
{
    struct fixture *f = *state;
    struct ledger_counts n;
    ledger_assign(f->ledger, 0, NULL);
    ledger_note_position(f->ledger, 0, 500); /* the client has not forgotten the last assignment yet */
    ledger_count(f->ledger, &n);
    assert_int_equal(n.idle, 0);
    ledger_note_position(f->ledger, 0, -1001);
    ledger_note_position(f->ledger, 0, 101); /* nothing but a marker behind the committed offset */
    assert_int_equal(collect(f, 100)->next, 101);
    settle(f, true);
    ledger_note_position(f->ledger, 7, 5); /* not ours: no harm */
}

static void test_many_records_against_a_model(void **state)
{
    struct fixture *f = *state;
    enum { N = 5000, P = 5 };
    static bool done[P][N];
    int64_t taken[P] = {0}, committed[P] = {0};
    uint32_t random = 1, n_published = 0;
    memset(done, 0, sizeof done);
    for (int32_t p = 0; p < P; p++)
        ledger_assign(f->ledger, p, NULL);
    while (n_published < P * 1000) {
        random = random * 1664525u + 1013904223u;
        int32_t p = (int32_t)(random >> 8) % P;
        uint32_t what = (random >> 20) % 8;
        if (what < 4 && taken[p] < 1000) {
            take(f, p, taken[p]++);
        } else if (what < 7 && taken[p] > committed[p]) {
            int64_t offset = committed[p] + (int64_t)(random >> 12) % (taken[p] - committed[p]);
            if (!done[p][offset])
                finish(f, p, offset);
            done[p][offset] = true;
        } else if (what == 7) {
            collect(f, 64);
            bool commit = random & (1u << 16);
            for (uint32_t i = 0; commit && i < f->batch.n_spans; i++) {
                const struct ledger_span *s = &f->batch.spans[i];
                for (int64_t offset = committed[s->partition]; offset < s->next; offset++)
                    assert_true(done[s->partition][offset]);
                n_published += s->n_items;
                committed[s->partition] = s->next;
            }
            f->dropped.n = 0;
            for (uint32_t i = 0; i < f->batch.n_items; i++)
                assert_non_null(f->batch.items[i]);
            ledger_settle(f->ledger, &f->batch, commit, drop, &f->dropped);
            assert_int_equal(f->dropped.n, commit ? f->batch.n_items : 0);
        }
    }
    struct ledger_counts n;
    ledger_count(f->ledger, &n);
    assert_int_equal(n.records, 0);
    assert_int_equal(n.partitions, P);
    int32_t owned[2];
    assert_int_equal(ledger_partitions(f->ledger, owned, 2), P);
    assert_int_equal(owned[1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_commit_stops_at_the_first_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_aborted_batch_is_collected_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_weight_bounds_a_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_duplicates_and_foreign_records_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_partition_that_moved_takes_its_records_along, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_committed_batch_of_an_old_epoch_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_drained_partition_commits_its_position, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions_never_pass_a_record_in_flight, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_position_of_before_the_epoch_is_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_records_against_a_model, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
