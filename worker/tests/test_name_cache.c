/* name_cache: what it says before, while and after the store answers. */
#include "worker/tests/test_worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "worker/name_cache.h"

#define SEC 1000000000ull

/* The store of the tests: one name, "m", and how asking for it goes. */
struct store {
    struct snap_name name;
    int rc;
    uint32_t n_asked;
};

static int fetch(void *context, const char *name, struct snap_name *out, struct base_error *err)
{
    struct store *s = context;
    s->n_asked++;
    if (s->rc < 0)
        return base_fail(err, s->rc, "told to fail");
    if (strcmp(name, "m") != 0)
        return base_fail(err, ERR_NOTFOUND, "no name '%s'", name);
    *out = s->name;
    return 0;
}

static void add_version(struct store *s, const char *version, uint32_t weight, bool active)
{
    struct snap_version *v = &s->name.versions[s->name.n_versions++];
    snprintf(s->name.name, sizeof s->name.name, "m");
    snprintf(v->version, sizeof v->version, "%s", version);
    snprintf(v->model_digest, sizeof v->model_digest, "digest of %s", version);
    v->weight = weight;
    v->active = active;
    s->name.revision++;
}

static struct worker_names *make(struct store *s)
{
    struct worker_names *n = NULL;
    struct base_error err = {0};
    assert_int_equal(worker_names_new(fetch, s, 2000, &n, &err), 0);
    return n;
}

static enum worker_route ask(struct worker_names *n, const char *name, const char *version, uint64_t since,
                             struct worker_routed *out)
{
    return worker_names_route(n, name, version, "key", 3, since, out);
}

static void test_first_answer(void **state)
{
    (void)state;
    struct store s = {.rc = 0};
    struct worker_routed to;
    uint64_t now = base_clock_mono_ns();
    add_version(&s, "v1", 0, false);
    struct worker_names *n = make(&s);
    assert_false(worker_names_serve_once(n, now)); /* nobody has asked */
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_WAIT);
    assert_int_equal(ask(n, "other", "", now, &to), WORKER_ROUTE_WAIT);
    while (worker_names_serve_once(n, now))
        ;
    assert_int_equal(s.n_asked, 2);
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_OK);
    assert_string_equal(to.version, "v1");
    assert_string_equal(to.digest, "digest of v1");
    assert_false(to.chosen); /* the newest, because nobody said */
    assert_int_equal(ask(n, "m", "v1", now, &to), WORKER_ROUTE_OK);
    assert_true(to.chosen);
    assert_int_equal(ask(n, "other", "", now, &to), WORKER_ROUTE_NONE);
    assert_int_equal(ask(n, "other", "v1", now, &to), WORKER_ROUTE_NONE);
    worker_names_free(n);
}

static void test_a_change_is_seen_when_it_is_due(void **state)
{
    (void)state;
    struct store s = {.rc = 0};
    struct worker_routed to;
    uint64_t now = base_clock_mono_ns();
    add_version(&s, "v1", 0, true);
    struct worker_names *n = make(&s);
    ask(n, "m", "", now, &to);
    worker_names_serve_once(n, now);
    add_version(&s, "v2", 1, false);
    assert_false(worker_names_serve_once(n, now + SEC));
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_OK);
    assert_string_equal(to.version, "v1");
    assert_true(worker_names_serve_once(n, now + 3 * SEC));
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_OK);
    assert_string_equal(to.version, "v2"); /* all of the split */
    assert_true(to.chosen);
    for (uint64_t t = now; t < now + 1000 * SEC; t += SEC) /* a name that nobody asks for any more is left alone */
        worker_names_serve_once(n, t);
    assert_in_range(s.n_asked, 10, 30);
    worker_names_free(n);
}

static void test_a_version_that_was_made_just_now(void **state)
{
    (void)state;
    struct store s = {.rc = 0};
    struct worker_routed to;
    uint64_t now = base_clock_mono_ns();
    add_version(&s, "v1", 0, true);
    struct worker_names *n = make(&s);
    ask(n, "m", "", now, &to);
    worker_names_serve_once(n, now);
    assert_int_equal(ask(n, "m", "v2", now - 1, &to), WORKER_ROUTE_NO_VERSION); /* we looked after that was sent */
    assert_int_equal(ask(n, "m", "v2", now + 5, &to), WORKER_ROUTE_WAIT);
    add_version(&s, "v2", 0, false);
    assert_true(worker_names_serve_once(n, now + 10));
    assert_int_equal(ask(n, "m", "v2", now + 5, &to), WORKER_ROUTE_OK);
    assert_int_equal(ask(n, "m", "v3", now + 5, &to), WORKER_ROUTE_NO_VERSION);
    worker_names_free(n);
}

static void test_a_store_that_is_away(void **state)
{
    (void)state;
    struct store s = {.rc = ERR_SERVICE};
    struct worker_routed to;
    uint64_t now = base_clock_mono_ns();
    add_version(&s, "v1", 0, true);
    struct worker_names *n = make(&s);
    ask(n, "m", "", now, &to);
    assert_true(worker_names_serve_once(n, now));
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_AWAY);
    assert_non_null(strstr(to.why, "told to fail"));
    assert_false(worker_names_serve_once(n, now + SEC / 10)); /* not in a loop */
    s.rc = 0;
    assert_true(worker_names_serve_once(n, now + SEC));
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_OK);

    s.rc = ERR_IO; /* what is known holds, and nobody waits for more */
    assert_true(worker_names_serve_once(n, now + 10 * SEC));
    assert_int_equal(ask(n, "m", "", now, &to), WORKER_ROUTE_OK);
    assert_string_equal(to.version, "v1");
    assert_int_equal(ask(n, "m", "v9", now + 11 * SEC, &to), WORKER_ROUTE_NO_VERSION);
    worker_names_free(n);
}

static void test_names_are_bounded(void **state)
{
    (void)state;
    struct store s = {.rc = 0};
    struct worker_routed to;
    struct worker_names *n = make(&s);
    char name[32];
    uint64_t now = base_clock_mono_ns();
    for (int i = 0; i < 3 * WORKER_NAMES_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(ask(n, name, "", now, &to), WORKER_ROUTE_WAIT);
    }
    while (worker_names_serve_once(n, now))
        ;
    assert_int_equal(s.n_asked, WORKER_NAMES_MAX);
    assert_int_equal(ask(n, name, "", now, &to), WORKER_ROUTE_NONE);
    assert_int_equal(ask(n, "n0", "", now, &to), WORKER_ROUTE_WAIT);
    worker_names_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_answer),
        cmocka_unit_test(test_a_change_is_seen_when_it_is_due),
        cmocka_unit_test(test_a_version_that_was_made_just_now),
        cmocka_unit_test(test_a_store_that_is_away),
        cmocka_unit_test(test_names_are_bounded),
    };
    base_log_setup(getenv("ROUSE_TEST_LOG") ? BASE_LOG_DEBUG : BASE_LOG_OFF, BASE_LOG_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
