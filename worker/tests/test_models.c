/* models: who is loaded, who makes room, who waits, and what follows a failure; with a loader that loads nothing. */
#include "worker/tests/test_worker.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/start.h"
#include "worker/models.h"

#define MB  ((uint64_t)1 << 20)
#define SEC 1000000000ull

/* What the store of the tests has: how large each is, and how loading it goes. */
struct item {
    const char *name;
    uint64_t bytes, on_disk; /* on_disk 0: not known before it is loaded */
    int rc;
    uint32_t n_loads;
    bool loaded;
};

struct fixture {
    struct item items[8];
    struct worker_models *s;
    uint64_t loaded_bytes, loaded_bytes_max;
    uint32_t n_changed;
};

static struct item *item_of(struct fixture *f, const char *name)
{
    for (struct item *i = f->items; i->name; i++)
        if (strcmp(i->name, name) == 0)
            return i;
    return NULL;
}

static struct worker_loaded make_loaded(const char *name, uint64_t bytes)
{
    struct snap_model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    snprintf(model->name, sizeof model->name, "%s", name);
    return (struct worker_loaded){.model = model, .bytes = bytes, .answerer = worker_answerer_new(model)};
}

static int fake_load(void *context, const struct worker_model_ref *ref, struct worker_loaded *out,
                     struct base_error *err)
{
    struct fixture *f = context;
    struct item *i = item_of(f, ref->name);
    if (!i)
        return base_fail(err, ERR_NOTFOUND, "there is no '%s'", ref->name);
    i->n_loads++;
    if (i->rc < 0)
        return base_fail(err, i->rc, "told to fail");
    assert_false(i->loaded);
    i->loaded = true;
    *out = make_loaded(i->name, i->bytes);
    f->loaded_bytes += i->bytes;
    if (f->loaded_bytes > f->loaded_bytes_max)
        f->loaded_bytes_max = f->loaded_bytes;
    return 0;
}

static void fake_close(void *context, struct worker_loaded *loaded)
{
    struct fixture *f = context;
    struct item *i = item_of(f, loaded->model->name);
    assert_true(i->loaded);
    i->loaded = false;
    f->loaded_bytes -= loaded->bytes;
    worker_answerer_drop(loaded->answerer);
    free(loaded->model);
}

static uint64_t fake_estimate(void *context, const struct worker_model_ref *ref)
{
    const struct item *i = item_of(context, ref->name);
    return i ? i->on_disk : 0;
}

static void fake_changed(void *context)
{
    ((struct fixture *)context)->n_changed++;
}

/* `first` of `first_bytes` is loaded and the default. */
static struct fixture *begin(uint64_t bound, bool asked, const struct item *items, size_t n)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct worker_model *m = NULL;
    struct base_error err = {0};
    assert_non_null(f);
    assert_true(n < 8);
    memcpy(f->items, items, n * sizeof *items);
    const struct worker_models_options options = {
        .bytes_max = bound,
        .bytes_asked_for = asked,
        .loader = {
            .load = fake_load, .close = fake_close, .estimate = fake_estimate, .changed = fake_changed, .context = f}};
    assert_int_equal(worker_models_new(&options, &f->s, &err), 0);
    struct worker_loaded first = make_loaded(items[0].name, items[0].bytes);
    f->items[0].loaded = true;
    f->loaded_bytes = f->loaded_bytes_max = items[0].bytes;
    assert_int_equal(worker_models_begin(f->s, &first, &m, &err), 0);
    assert_true(m->is_default);
    return f;
}

static void end(struct fixture *f)
{
    worker_models_close(f->s);
    for (struct item *i = f->items; i->name; i++)
        assert_false(i->loaded);
    assert_int_equal(f->loaded_bytes, 0);
    worker_models_free(f->s);
    free(f);
}

static struct worker_model *want(struct fixture *f, const char *name)
{
    struct worker_model *m = worker_models_want(f->s, name, "", "");
    assert_non_null(m);
    return m;
}

/* Plans and loads until nothing happens any more. */
static void settle(struct fixture *f, uint64_t now)
{
    for (int i = 0; i < 50; i++) {
        worker_models_plan(f->s, now);
        if (!worker_models_serve_once(f->s))
            return;
    }
    fail_msg("it does not come to rest");
}

static void use(struct fixture *f, struct worker_model *m, uint32_t n_in_engine, uint64_t now)
{
    assert_int_equal(m->state, WORKER_MODEL_READY);
    worker_models_used(f->s, m, n_in_engine, now);
}

static const struct item three[] = {
    {.name = "a", .bytes = 40 * MB}, {.name = "b", .bytes = 40 * MB}, {.name = "c", .bytes = 40 * MB}};

static void test_the_least_recently_used_makes_room(void **state)
{
    (void)state;
    struct fixture *f = begin(100 * MB, true, three, 3);
    uint64_t now = base_clock_mono_ns() + SEC;
    struct worker_model *a = want(f, "a"), *b = want(f, "b");
    settle(f, now);
    assert_int_equal(a->state, WORKER_MODEL_READY);
    assert_int_equal(b->state, WORKER_MODEL_READY); /* there was room for both */
    use(f, b, 0, now + 1);
    use(f, a, 0, now + 2);
    worker_model_let_go(a);
    worker_model_let_go(b);
    settle(f, now + 3);
    assert_int_equal(b->state, WORKER_MODEL_READY); /* idle ones stay while nobody wants the room */

    struct worker_model *c = want(f, "c");
    settle(f, now + 4);
    assert_int_equal(a->state, WORKER_MODEL_READY);
    assert_int_equal(b->state, WORKER_MODEL_ABSENT);
    assert_int_equal(c->state, WORKER_MODEL_READY);
    assert_true(f->n_changed >= 3);

    assert_ptr_equal(want(f, "b"), b); /* the entry has stayed */
    worker_model_let_go(c);
    use(f, c, 0, now + 5);
    settle(f, now + 6);
    assert_int_equal(a->state, WORKER_MODEL_ABSENT); /* the default is like the others */
    assert_int_equal(b->state, WORKER_MODEL_READY);
    assert_int_equal(item_of(f, "b")->n_loads, 2);
    assert_int_equal(item_of(f, "c")->n_loads, 2); /* once too large beside both, which nobody could know before */
    worker_model_let_go(b);
    end(f);
}

static void test_one_in_use_never_makes_room(void **state)
{
    (void)state;
    struct fixture *f = begin(50 * MB, true, three, 3);
    uint64_t now = base_clock_mono_ns() + SEC;
    struct worker_model *a = want(f, "a"), *b = want(f, "b");
    use(f, a, 1, now); /* a sequence is in its engine */
    for (uint64_t t = now; t < now + 100 * SEC; t += SEC) {
        settle(f, t);
        assert_int_equal(a->state, WORKER_MODEL_READY);
    }
    assert_int_equal(b->state, WORKER_MODEL_ABSENT);
    assert_true(a->yields); /* and nothing more gets in */

    assert_non_null(worker_models_pin(f->s, a));
    use(f, a, 0, now + 101 * SEC); /* empty, but somebody tokenises with it */
    settle(f, now + 101 * SEC);
    assert_int_equal(a->state, WORKER_MODEL_READY);
    worker_models_unpin(f->s, a);
    settle(f, now + 102 * SEC);
    assert_int_equal(a->state, WORKER_MODEL_ABSENT);
    assert_int_equal(b->state, WORKER_MODEL_READY);
    assert_null(worker_models_pin(f->s, a));
    worker_model_let_go(a);
    worker_model_let_go(b);
    end(f);
}

/* Both are wanted all the time and only one fits: each gets its turn, and a turn is not cut short. */
static void test_turns(void **state)
{
    (void)state;
    struct fixture *f = begin(50 * MB, true, three, 3);
    uint64_t t = base_clock_mono_ns();
    struct worker_model *both[2] = {want(f, "a"), want(f, "b")};
    uint32_t n_turns = 0, last = 0;
    uint64_t turn_ms = 0;
    for (uint64_t end_ns = t + 60 * SEC; t < end_ns; t += 10000000) {
        worker_models_plan(f->s, t);
        while (worker_models_serve_once(f->s)) {
            for (uint32_t i = 0; i < 2; i++)
                if (both[i]->state == WORKER_MODEL_READY)
                    both[i]->ready_ns = t; /* the loader's clock is the machine's, this one is not */
            worker_models_plan(f->s, t);
        }
        uint32_t at = both[0]->state == WORKER_MODEL_READY ? 0 : 1;
        assert_int_equal(both[at]->state, WORKER_MODEL_READY);
        worker_models_used(f->s, both[at], 0, t);
        if (at != last) {
            assert_true(turn_ms >= WORKER_MODEL_TURN_MS - 20);
            n_turns++;
            turn_ms = 0;
        }
        turn_ms += 10;
        last = at;
    }
    assert_in_range(n_turns, 20, 61);
    assert_true(f->loaded_bytes_max <= 80 * MB); /* two only while the second was not known */
    worker_model_let_go(both[0]);
    worker_model_let_go(both[1]);
    end(f);
}

static void test_known_sizes_keep_the_bound(void **state)
{
    (void)state;
    const struct item items[] = {{.name = "a", .bytes = 40 * MB, .on_disk = 30 * MB},
                                 {.name = "b", .bytes = 40 * MB, .on_disk = 30 * MB},
                                 {.name = "big", .bytes = 70 * MB, .on_disk = 60 * MB},
                                 {.name = "huge", .bytes = 200 * MB, .on_disk = 190 * MB},
                                 {.name = "sly", .bytes = 200 * MB}};
    struct fixture *f = begin(65 * MB, true, items, 5);
    uint64_t now = base_clock_mono_ns() + SEC;
    struct worker_model *b = want(f, "b");
    settle(f, now);
    assert_int_equal(b->state, WORKER_MODEL_READY);
    assert_int_equal(f->loaded_bytes_max, 40 * MB); /* never both */
    worker_model_let_go(b);
    for (size_t i = 2; i < 5; i++) { /* larger than the bound, as it shows before or after the load */
        struct worker_model *m = want(f, items[i].name);
        struct base_error why = {0};
        settle(f, now);
        assert_int_equal(m->state, WORKER_MODEL_FAILED);
        assert_true(worker_models_failed(f->s, m, &why));
        assert_non_null(strstr(why.text, "--models-bytes"));
        assert_int_equal(item_of(f, items[i].name)->n_loads, i == 3 ? 0 : 1);
        worker_model_let_go(m);
    }
    end(f);
}

static void test_alone_beyond_a_bound_that_nobody_asked_for(void **state)
{
    (void)state;
    const struct item items[] = {{.name = "a", .bytes = 40 * MB},
                                 {.name = "big", .bytes = 200 * MB, .on_disk = 190 * MB}};
    struct fixture *f = begin(60 * MB, false, items, 2);
    struct worker_model *big = want(f, "big");
    settle(f, base_clock_mono_ns() + SEC);
    assert_int_equal(big->state, WORKER_MODEL_READY);
    assert_int_equal(f->loaded_bytes_max, 200 * MB);
    worker_model_let_go(big);
    end(f);

    struct worker_models *s = NULL;
    struct worker_model *m = NULL;
    struct base_error err = {0};
    const struct worker_models_options options = {.bytes_max = 60 * MB, .bytes_asked_for = true};
    assert_int_equal(worker_models_new(&options, &s, &err), 0);
    struct worker_loaded first = make_loaded("a", 61 * MB);
    assert_int_equal(worker_models_begin(s, &first, &m, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "--models-bytes"));
    worker_answerer_drop(first.answerer);
    free(first.model);
    worker_models_free(s);
}

static void test_failures(void **state)
{
    (void)state;
    static const struct {
        int rc;
        bool own; /* its prompts fail; else they wait, and it is tried again */
    } cases[] = {{ERR_NOTFOUND, true}, {ERR_CORRUPT, true}, {ERR_INPUT, true},     {ERR_USAGE, true},
                 {ERR_SERVICE, false}, {ERR_IO, false},     {ERR_INTERNAL, false}, {ERR_AGAIN, false}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct item items[] = {{.name = "a", .bytes = 40 * MB}, {.name = "b", .bytes = 40 * MB, .rc = cases[k].rc}};
        struct fixture *f = begin(100 * MB, true, items, 2);
        struct base_error why = {0};
        uint64_t now = base_clock_mono_ns();
        struct worker_model *a = want(f, "a"), *b = want(f, "b");
        settle(f, now);
        assert_int_equal(b->state, cases[k].own ? WORKER_MODEL_FAILED : WORKER_MODEL_ABSENT);
        assert_true(worker_models_failed(f->s, b, &why) == cases[k].own);
        if (cases[k].own)
            assert_int_equal(why.code, cases[k].rc);
        settle(f, now); /* not at once again */
        assert_int_equal(item_of(f, "b")->n_loads, 1);
        use(f, a, 1, now); /* the other is none the worse */
        settle(f, now + 2 * SEC);
        assert_in_range(item_of(f, "b")->n_loads, cases[k].own ? 1 : 2, cases[k].own ? 1 : 10);
        item_of(f, "b")->rc = 0;
        if (cases[k].own) {
            b->try_ns = 1; /* the verdict is old */
            assert_false(worker_models_failed(f->s, b, &why));
        }
        settle(f, now + 100 * SEC);
        assert_int_equal(b->state, WORKER_MODEL_READY);
        assert_int_equal(b->n_failures, 0);
        worker_model_let_go(a);
        worker_model_let_go(b);
        end(f);
    }
}

/* No memory beside another, whatever the bound says: the other makes room; alone it is the model's own fault. */
static void test_no_memory(void **state)
{
    (void)state;
    struct item items[] = {{.name = "a", .bytes = 40 * MB}, {.name = "b", .bytes = 40 * MB, .rc = ERR_NOMEM}};
    struct fixture *f = begin(1000 * MB, true, items, 2);
    uint64_t now = base_clock_mono_ns();
    struct worker_model *a = want(f, "a"), *b = want(f, "b");
    worker_model_let_go(a);
    settle(f, now);
    assert_int_equal(a->state, WORKER_MODEL_READY);
    assert_int_equal(b->state, WORKER_MODEL_ABSENT);
    worker_models_plan(f->s, now + 2 * SEC);
    assert_int_equal(a->state, WORKER_MODEL_CLOSING);
    item_of(f, "b")->rc = 0;
    settle(f, now + 2 * SEC);
    assert_int_equal(b->state, WORKER_MODEL_READY);
    worker_model_let_go(b);
    item_of(f, "a")->rc = ERR_NOMEM;
    a = want(f, "a");
    settle(f, now + 3 * SEC); /* beside b */
    settle(f, now + 6 * SEC); /* alone */
    assert_int_equal(a->state, WORKER_MODEL_FAILED);
    worker_model_let_go(a);
    end(f);
}

static void test_entries_are_bounded(void **state)
{
    (void)state;
    struct fixture *f = begin(100 * MB, true, three, 3);
    struct worker_model *held[WORKER_MODELS_MAX];
    char name[32];
    for (int i = 1; i < WORKER_MODELS_MAX; i++) {
        snprintf(name, sizeof name, "m%d", i);
        held[i] = want(f, name);
    }
    assert_null(worker_models_want(f->s, "one more", "", ""));
    worker_model_let_go(held[7]);
    assert_ptr_equal(worker_models_want(f->s, "one more", "", ""), held[7]);
    assert_string_equal(held[7]->name, "one more");
    assert_ptr_equal(worker_models_want(f->s, "one more", "", ""), held[7]);
    worker_model_let_go(held[7]);
    end(f);
}

static void test_versions_are_models(void **state)
{
    (void)state;
    struct fixture *f = begin(100 * MB, true, three, 3);
    struct worker_model *v1 = worker_models_want(f->s, "b", "v1", "11"),
                        *v2 = worker_models_want(f->s, "b", "v2", "22");
    assert_ptr_not_equal(v1, v2);
    assert_ptr_equal(worker_models_want(f->s, "b", "v1", "11"), v1);
    assert_ptr_equal(worker_models_want(f->s, "b", "again", "11"), v1);  /* another word for the same */
    assert_ptr_not_equal(worker_models_want(f->s, "b", "v1", "33"), v1); /* the word stands for another by now */
    assert_ptr_not_equal(worker_models_want(f->s, "c", "v1", "11"), v1);
    end(f);
}

/* The threads as in the worker, for the sanitizers. */
static _Atomic bool quit;

static void *serve(void *context)
{
    worker_models_serve(((struct fixture *)context)->s, &quit);
    return NULL;
}

static void *tokenise(void *context)
{
    struct fixture *f = context;
    while (!quit) {
        struct worker_model *m = worker_models_want(f->s, "b", "", "");
        const struct snap_model *model = worker_models_pin(f->s, m);
        if (model) {
            assert_string_equal(model->name, "b");
            worker_models_unpin(f->s, m);
        }
        worker_model_let_go(m);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct fixture *f = begin(50 * MB, true, three, 3);
    pthread_t threads[2];
    quit = false;
    assert_int_equal(pthread_create(&threads[0], NULL, serve, f), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, tokenise, f), 0);
    static const char *const names[] = {"a", "b", "c"};
    for (int round = 0; round < 30; round++) {
        struct worker_model *m = worker_models_want(f->s, names[round % 3], "", "");
        bool yields = false;
        uint64_t until = base_clock_mono_ns() + 20 * SEC;
        do {
            struct worker_model_view views[8];
            worker_models_plan(f->s, base_clock_mono_ns());
            worker_models_view(f->s, views, 8);
            assert_true(base_clock_mono_ns() < until);
        } while (!worker_models_drives(f->s, m, &yields));
        worker_models_used(f->s, m, 1, base_clock_mono_ns());
        worker_models_used(f->s, m, 0, base_clock_mono_ns());
        worker_model_let_go(m);
    }
    quit = true;
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    end(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_least_recently_used_makes_room),
        cmocka_unit_test(test_one_in_use_never_makes_room),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_known_sizes_keep_the_bound),
        cmocka_unit_test(test_alone_beyond_a_bound_that_nobody_asked_for),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_entries_are_bounded),
        cmocka_unit_test(test_versions_are_models),
        cmocka_unit_test(test_threads),
    };
    base_log_setup(getenv("ROUSE_TEST_LOG") ? BASE_LOG_DEBUG : BASE_LOG_OFF, BASE_LOG_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
