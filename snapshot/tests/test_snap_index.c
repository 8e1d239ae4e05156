/* The indexes and the lease: files, and a real redis-server that is killed, flushed and filled with nonsense. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/snap_index.h"
#include "snapshot/snap_lease.h"
#include "snapshot/snap_lookup.h"
#include "snapshot/snap_store.h"
#include "snapshot/tests/snapshot_fixture.h"

#define ID_A   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define ID_B   "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define ENV_1  "11111111111111111111111111111111"
#define ENV_2  "22222222222222222222222222222222"
#define FILES  "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"
#define FILES2 "f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1"
#define DIGEST "d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0"

static struct schema_snapshot_record a_record(const char *id)
{
    struct schema_snapshot_record r = {
        .state = SCHEMA_SNAPSHOT_READY, .bytes = 12345678901, .created_ms = 1700000000000};
    snprintf(r.id, sizeof(r.id), "%s", id);
    snprintf(r.name, sizeof(r.name), "pythia 1.4b");
    snprintf(r.file, sizeof(r.file), "%s.snap", id);
    snprintf(r.model_digest, sizeof(r.model_digest), DIGEST);
    snprintf(r.file_digest, sizeof(r.file_digest), DIGEST);
    snprintf(r.device, sizeof(r.device), "cpu");
    snprintf(r.arch, sizeof(r.arch), "x86-64-avx2");
    snprintf(r.dtype, sizeof(r.dtype), "f16");
    snprintf(r.builder, sizeof(r.builder), "host:1");
    return r;
}

static struct snap_index_query by_name(const char *name, const char *env)
{
    return (struct snap_index_query){.name = name, .files = "", .env = env};
}

static struct snap_index_query by_files(const char *files, const char *env)
{
    return (struct snap_index_query){.name = "", .files = files, .env = env};
}

static struct snap_index_entry find(struct snap_index *ix, struct snap_index_query q)
{
    struct snap_index_entry e = {.id = ""};
    struct base_error err = {0};
    if (ix->ops->find(ix, &q, &e, &err) < 0)
        fail_msg("%s", err.text);
    return e;
}

static void put(struct snap_index *ix, const struct snap_index_change *c)
{
    struct base_error err = {0};
    if (ix->ops->put(ix, c, &err) < 0)
        fail_msg("%s", err.text);
}

/* What every kind of index must do. */
static void check_index(struct snap_index *ix)
{
    const char *name = "pythia 1.4b \xc3\xa9/*\n";
    struct schema_snapshot_record r = a_record(ID_A), r2 = a_record(ID_B), back;
    struct snap_index_change c = {.record = &r,
                                  .name = name,
                                  .files = FILES,
                                  .env = ENV_1,
                                  .env_auto = ENV_2,
                                  .model_digest = DIGEST,
                                  .file_dtype = "f16"};
    assert_string_equal(find(ix, by_name(name, ENV_1)).id, "");
    assert_string_equal(find(ix, by_files(FILES, ENV_1)).model_digest, "");
    assert_int_equal(ix->ops->record(ix, ID_A, &back, NULL), ERR_NOTFOUND);

    put(ix, &c);
    static const char *const envs[] = {ENV_1, ENV_2};
    for (int i = 0; i < 2; i++) {
        struct snap_index_entry e = find(ix, by_name(name, envs[i]));
        assert_string_equal(e.id, ID_A);
        assert_true(e.has_record);
        assert_memory_equal(&e.record, &r, sizeof(r));
        assert_string_equal(e.model_digest, ""); /* a name says nothing of a directory's files */
        e = find(ix, by_files(FILES, envs[i]));
        assert_string_equal(e.id, ID_A);
        assert_string_equal(e.model_digest, DIGEST);
        assert_string_equal(e.file_dtype, "f16");
    }
    assert_int_equal(ix->ops->record(ix, ID_A, &back, NULL), 0);
    assert_memory_equal(&back, &r, sizeof(r));
    assert_string_equal(find(ix, by_name("pythia", ENV_1)).id, "");
    assert_string_equal(find(ix, by_files(FILES2, ENV_1)).id, "");
    struct snap_index_entry other_env = find(ix, by_files(FILES, ID_B));
    assert_string_equal(other_env.id, "");
    assert_string_equal(other_env.model_digest, DIGEST); /* known for every kind of worker */

    c = (struct snap_index_change){.record = &r2,
                                   .name = name,
                                   .files = FILES2,
                                   .env = ENV_1,
                                   .env_auto = "",
                                   .model_digest = DIGEST,
                                   .file_dtype = "bf16"};
    put(ix, &c); /* a newer one of that name */
    assert_string_equal(find(ix, by_name(name, ENV_1)).id, ID_B);
    assert_string_equal(find(ix, by_name(name, ENV_2)).id, ID_A);
    assert_string_equal(find(ix, by_files(FILES, ENV_1)).id, ID_A);

    struct snap_index_query q = by_name(name, ENV_1);
    assert_int_equal(ix->ops->drop(ix, ID_A, &q, NULL), 0); /* q leads to B by now: B stays */
    assert_string_equal(find(ix, by_name(name, ENV_1)).id, ID_B);
    assert_int_equal(ix->ops->record(ix, ID_A, &back, NULL), ERR_NOTFOUND);
    assert_false(find(ix, by_name(name, ENV_2)).has_record);
    assert_int_equal(ix->ops->drop(ix, ID_B, &q, NULL), 0);
    assert_string_equal(find(ix, by_name(name, ENV_1)).id, "");
    assert_int_equal(ix->ops->drop(ix, ID_B, NULL, NULL), 0); /* twice is nothing */

    c = (struct snap_index_change){
        .name = "", .files = FILES2, .env = "", .env_auto = "", .model_digest = FILES, .file_dtype = "f32"};
    put(ix, &c); /* a digest alone */
    assert_string_equal(find(ix, by_files(FILES2, ENV_2)).model_digest, FILES);
    assert_string_equal(find(ix, by_files(FILES2, ENV_2)).file_dtype, "f32");
}

static void test_files(void **state)
{
    struct fixture *f = *state;
    struct snap_index *ix = NULL;
    struct snap_objects *objects = NULL;
    assert_int_equal(snap_objects_dir_open(f->store, &objects, NULL), 0);
    assert_int_equal(snap_index_objects_open(objects, &ix, NULL), 0);
    check_index(ix);
    fixture_shell("for i in '%s'/index/*/*; do head -c 3000 /dev/urandom > \"$i\"; done", f->store);
    assert_string_equal(find(ix, by_files(FILES2, ENV_2)).model_digest, "");
    fixture_shell("for i in '%s'/index/*/*; do head -c 9000 /dev/zero > \"$i\"; done", f->store);
    assert_string_equal(find(ix, by_files(FILES2, ENV_2)).model_digest, "");
    fixture_shell("rm -r '%s'", f->store);
    check_index(ix);
    ix->ops->close(ix);
    objects->ops->close(objects);
}

struct redis_index {
    struct fixture_redis server;
    struct snap_redis *redis;
    struct snap_index *ix;
};

static void redis_open(struct redis_index *r, const char *url)
{
    assert_int_equal(snap_redis_open(url, &r->redis, NULL), 0);
    assert_int_equal(snap_index_redis_open(r->redis, &r->ix, NULL), 0);
}

static void redis_close(struct redis_index *r)
{
    r->ix->ops->close(r->ix);
    snap_redis_close(r->redis);
}

static void test_redis(void **state)
{
    struct redis_index r;
    fixture_redis_start(&r.server, *state, 0, NULL);
    redis_open(&r, r.server.url);
    check_index(r.ix);
    /* Nothing outside our prefix, nothing in another base, directories expire. */
    fixture_shell("test -z \"$(redis-cli -p %d -n 3 --scan | grep -v '^rouse:')\"", r.server.port);
    fixture_shell("test $(redis-cli -p %d -n 0 dbsize) = 0", r.server.port);
    fixture_shell("test $(redis-cli -p %d -n 3 ttl rouse:model:files:%s) -gt 7000000", r.server.port, FILES);
    fixture_redis_stop(&r.server);
    redis_close(&r);
}

/* One look-up is one command, whether the server knows the script or not, with AUTH and SELECT in the same packet. */
static void test_redis_round_trips(void **state)
{
    struct redis_index r;
    const char *root = ((struct fixture *)*state)->root;
    fixture_redis_start(&r.server, *state, 0, NULL);
    for (int warm = 0; warm < 2; warm++) {
        redis_open(&r, r.server.url);
        fixture_shell("redis-cli -p %d config resetstat >/dev/null", r.server.port);
        find(r.ix, by_name("x", ENV_1));
        fixture_shell("redis-cli -p %d info commandstats > '%s/stats'; grep -q 'cmdstat_eval:calls=1,' '%s/stats' && "
                      "! grep -qE 'cmdstat_(evalsha|script|scan|keys):' '%s/stats'",
                      r.server.port, root, root, root);
        redis_close(&r);
    }
    fixture_redis_stop(&r.server);
}

static void test_redis_login(void **state)
{
    static const struct {
        const char *form; /* %d is the port */
        bool ok;
    } cases[] = {
        {"redis://:p%%40ss@127.0.0.1:%d", true},        {"redis://default:p%%40ss@127.0.0.1:%d/7", true},
        {"redis://:wrong@127.0.0.1:%d", false},         {"redis://127.0.0.1:%d", false},
        {"redis://nobody:p%%40ss@127.0.0.1:%d", false}, {"redis://:p%%40ss@127.0.0.1:%d/9999", false},
    };
    struct redis_index r;
    fixture_redis_start(&r.server, *state, 0, "p@ss");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char url[128];
        struct snap_index_entry e;
        struct base_error err = {0};
        struct schema_snapshot_record record = a_record(ID_A);
        const struct snap_index_query q = by_name("x", ENV_1);
        const struct snap_index_change c = {.record = &record,
                                            .name = "x",
                                            .files = "",
                                            .env = ENV_1,
                                            .env_auto = "",
                                            .model_digest = "",
                                            .file_dtype = ""};
        /* The forms above are ours; the compiler cannot see that. */
        const char *port = strstr(cases[i].form, "%d");
        int n =
            snprintf(url, sizeof(url), "%.*s%d%s", (int)(port - cases[i].form), cases[i].form, r.server.port, port + 2);
        assert_true(n > 0);
        for (char *p = url; (p = strstr(p, "%%")); p++)
            memmove(p, p + 1, strlen(p));
        redis_open(&r, url);
        int rc = r.ix->ops->find(r.ix, &q, &e, &err);
        if (cases[i].ok != (rc == 0))
            fail_msg("%s: %d %s", url, rc, err.text);
        if (!cases[i].ok)
            assert_int_equal(rc, ERR_SERVICE);
        assert_null(strstr(err.text, "p@ss"));
        rc = r.ix->ops->put(r.ix, &c, &err);
        assert_int_equal(rc, cases[i].ok ? 0 : ERR_SERVICE);
        redis_close(&r);
    }
    /* A base that cannot be selected: nothing was written into another. Base 0 has the first case's record and name. */
    fixture_shell("test $(redis-cli -p %d -a p@ss --no-auth-warning -n 0 dbsize) = 2", r.server.port);
    fixture_shell("test $(redis-cli -p %d -a p@ss --no-auth-warning -n 7 dbsize) = 2", r.server.port);
    fixture_redis_stop(&r.server);
}

static void test_redis_killed_and_back(void **state)
{
    struct redis_index r;
    struct snap_index_entry e;
    struct snap_index_query q = by_name("x", ENV_1);
    fixture_redis_start(&r.server, *state, 0, NULL);
    redis_open(&r, r.server.url);
    find(r.ix, q);
    int port = r.server.port;
    fixture_redis_stop(&r.server);
    uint64_t began = base_clock_mono_ns();
    for (int i = 0; i < 100; i++)
        assert_int_equal(r.ix->ops->find(r.ix, &q, &e, NULL), ERR_SERVICE);
    assert_true(base_clock_mono_ns() - began < UINT64_C(3000000000)); /* not a time-out for each */
    fixture_redis_start(&r.server, *state, port, NULL);
    base_clock_sleep_ms(1100);
    find(r.ix, q); /* a new connection, an unknown script */
    fixture_redis_stop(&r.server);
    fixture_redis_start(&r.server, *state, port, NULL);
    find(r.ix, q);               /* the old connection broke, the server is back: nobody notices */
    kill(r.server.pid, SIGSTOP); /* there, but silent */
    began = base_clock_mono_ns();
    for (int i = 0; i < 100; i++)
        assert_int_equal(r.ix->ops->find(r.ix, &q, &e, NULL), ERR_SERVICE);
    assert_true(base_clock_mono_ns() - began < UINT64_C(3000000000)); /* nor one for each here */
    kill(r.server.pid, SIGCONT);
    fixture_redis_stop(&r.server);
    redis_close(&r);
}

static void test_redis_wrong_types(void **state)
{
    struct redis_index r;
    struct snap_index_entry e;
    struct snap_index_query q = by_name("x", ENV_1);
    struct schema_snapshot_record record = a_record(ID_A);
    const struct snap_index_change c = {.record = &record,
                                        .name = "x",
                                        .files = FILES,
                                        .env = ENV_1,
                                        .env_auto = "",
                                        .model_digest = DIGEST,
                                        .file_dtype = "f16"};
    fixture_redis_start(&r.server, *state, 0, NULL);
    redis_open(&r, r.server.url);
    static const char *const accidents[] = {"lpush rouse:model:name:x 1",
                                            "set rouse:model:name:x 1",
                                            "hset rouse:model:name:x " ENV_1 " nonsense",
                                            "hset rouse:model:name:x " ENV_1 " AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
                                            "set rouse:snapshot:" ID_A " nonsense",
                                            "lpush rouse:snapshot:" ID_A " 1"};
    for (size_t i = 0; i < sizeof(accidents) / sizeof(accidents[0]); i++) {
        put(r.ix, &c);
        assert_string_equal(find(r.ix, q).id, ID_A);
        fixture_shell("redis-cli -p %d -n 3 del rouse:%s >/dev/null; redis-cli -p %d -n 3 %s >/dev/null", r.server.port,
                      i < 2   ? "model:name:x"
                      : i > 3 ? "snapshot:" ID_A
                              : "none",
                      r.server.port, accidents[i]);
        assert_true(r.ix->ops->find(r.ix, &q, &e, NULL) < 0);
    }
    put(r.ix, &c); /* heals */
    assert_string_equal(find(r.ix, q).id, ID_A);
    fixture_redis_stop(&r.server);
    redis_close(&r);
}

static struct snap_store *open_store(const char *dir, const char *url)
{
    struct snap_store *s = NULL;
    struct base_error err = {0};
    if (snap_store_open(dir, url, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void test_lease_files(void **state)
{
    struct fixture *f = *state;
    struct snap_store *a = open_store(f->store, NULL), *b = open_store(f->store, NULL);
    struct snap_lease *la = NULL, *lb = NULL;
    assert_int_equal(snap_lease_take(a, ID_A, &la, NULL), 0);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), ERR_AGAIN);
    assert_int_equal(snap_lease_take(b, ID_B, &lb, NULL), 0);
    assert_int_equal(snap_lease_check(la, NULL), 0);
    snap_lease_release(la);
    snap_lease_release(lb);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    snap_lease_release(lb);
    snap_store_close(a);
    snap_store_close(b);
}

static void test_lease_redis(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    char other[PATH_MAX + 8];
    fixture_redis_start(&r, f, 0, NULL);
    snprintf(other, sizeof(other), "%s.b", f->store);
    struct snap_store *a = open_store(f->store, r.url), *b = open_store(other, r.url);
    struct snap_lease *la = NULL, *lb = NULL;
    assert_int_equal(snap_lease_take(a, ID_A, &la, NULL), 0);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), ERR_AGAIN); /* another node, another store */
    fixture_shell("test $(redis-cli -p %d -n 3 pttl rouse:lease:%s) -gt 10000", r.port, ID_A);

    /* The holder sleeps past its time; another takes it, and finishes: the sleeper must not publish. */
    fixture_shell("redis-cli -p %d -n 3 del rouse:lease:%s >/dev/null", r.port, ID_A);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    assert_int_equal(snap_lease_check(la, NULL), ERR_AGAIN);
    assert_int_equal(snap_lease_check(lb, NULL), 0);
    snap_lease_release(lb);
    assert_int_equal(snap_lease_check(la, NULL), ERR_AGAIN);
    snap_lease_release(la);

    /* Flushed meanwhile, nobody else came: still ours. Then somebody did. */
    assert_int_equal(snap_lease_take(a, ID_A, &la, NULL), 0);
    fixture_shell("redis-cli -p %d flushall >/dev/null", r.port);
    assert_int_equal(snap_lease_check(la, NULL), 0);
    fixture_shell("redis-cli -p %d flushall >/dev/null", r.port);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    assert_int_equal(snap_lease_check(la, NULL), ERR_AGAIN);
    snap_lease_release(la); /* releases nothing of b's */
    assert_int_equal(snap_lease_check(lb, NULL), 0);

    /* The same, and the other has finished: nothing of it is in Redis but the last token, which is larger than any before. */
    fixture_shell("redis-cli -p %d flushall >/dev/null", r.port);
    snap_lease_release(lb);
    assert_int_equal(snap_lease_take(a, ID_A, &la, NULL), 0);
    fixture_shell("redis-cli -p %d flushall >/dev/null", r.port);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    snap_lease_release(lb);
    assert_int_equal(snap_lease_check(la, NULL), ERR_AGAIN);
    snap_lease_release(la);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);

    /* The small thread renews: after 6 s there are still more than 10 left. */
    base_clock_sleep_ms(6000);
    fixture_shell("test $(redis-cli -p %d -n 3 pttl rouse:lease:%s) -gt 10000", r.port, ID_A);
    fixture_redis_stop(&r); /* away while building: the lock in the store decides */
    assert_int_equal(snap_lease_check(lb, NULL), 0);
    snap_lease_release(lb);
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    snap_lease_release(lb);
    snap_store_close(a);
    snap_store_close(b);
}

/* Who lost the lease changes nothing of the index, not even between its last check and its word. */
static void test_fenced_put(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    char other[PATH_MAX + 8];
    fixture_redis_start(&r, f, 0, NULL);
    snprintf(other, sizeof(other), "%s.b", f->store);
    struct snap_store *a = open_store(f->store, r.url), *b = open_store(other, r.url);
    struct snap_index *of_a = a->indexes[SNAP_STORE_REDIS], *of_b = b->indexes[SNAP_STORE_REDIS];
    struct snap_lease *la = NULL, *lb = NULL;
    struct schema_snapshot_record ra = a_record(ID_A), rb = a_record(ID_B);
    struct base_error err = {0};
    struct snap_index_change change = {.record = &ra,
                                       .name = "x",
                                       .files = FILES,
                                       .env = ENV_1,
                                       .env_auto = "",
                                       .model_digest = DIGEST,
                                       .file_dtype = "f16"};
    assert_int_equal(snap_lease_take(a, ID_A, &la, NULL), 0);
    change.fence = snap_lease_fence(la);
    assert_non_null(change.fence);
    put(of_a, &change);
    assert_string_equal(find(of_a, by_name("x", ENV_1)).id, ID_A);
    assert_int_equal(snap_lease_check(la, NULL), 0);
    fixture_shell("redis-cli -p %d -n 3 del rouse:lease:%s >/dev/null", r.port, ID_A); /* it ran out */
    put(of_a, &change);                                                                /* nobody else had it since */
    assert_int_equal(snap_lease_take(b, ID_A, &lb, NULL), 0);
    change.record = &rb;
    change.fence = snap_lease_fence(lb);
    put(of_b, &change);
    for (int finished = 0; finished < 2; finished++) {
        change.record = &ra;
        change.fence = snap_lease_fence(la);
        change.files = FILES2;
        assert_int_equal(of_a->ops->put(of_a, &change, &err), ERR_AGAIN);
        assert_string_equal(find(of_a, by_name("x", ENV_1)).id, ID_B);
        assert_string_equal(find(of_a, by_files(FILES2, ENV_1)).model_digest, "");
        snap_lease_release(lb);
        lb = NULL;
    }
    snap_lease_release(la);
    snap_store_close(a);
    snap_store_close(b);
    fixture_redis_stop(&r);
}

static int promote(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_promote(name, context, err);
}

/* Redis has a copy of a name: the newest, whoever comes late; with the answer of a look-up; and never in the way of it. */
static void test_names_in_redis(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_name name, copy;
    struct snap_version v = {.model_digest = DIGEST, .file_dtype = "f16"};
    fixture_redis_start(&r, f, 0, NULL);
    struct snap_store *s = open_store(f->store, r.url);
    struct snap_index *ix = s->indexes[SNAP_STORE_REDIS];
    struct snap_index_query q = by_name("pythia 12b", ENV_1);
    q.known_as = "pythia 12b";
    assert_int_equal(snap_names_add(s, "pythia 12b", &v, &name, NULL), 1);
    assert_int_equal(snap_index_redis_name(s->redis, "pythia 12b", &copy, NULL),
                     ERR_NOTFOUND); /* told with the index */
    assert_int_equal(find(ix, q).known.n_versions, 0);
    assert_int_equal(snap_names_change(s, "pythia 12b", false, promote, "v1", &name, NULL), 1);
    assert_int_equal(snap_index_redis_name(s->redis, "pythia 12b", &copy, NULL), 0);
    assert_memory_equal(&copy, &name, sizeof(copy));
    copy = find(ix, q).known;
    assert_memory_equal(&copy, &name, sizeof(copy));
    assert_int_equal(find(ix, by_name("pythia 12b", ENV_1)).known.n_versions, 0); /* not asked for */

    copy.revision = 1;
    copy.versions[0].active = false;
    assert_int_equal(snap_index_redis_name_put(s->redis, &copy, false, NULL), 0); /* late: leaves the newer one */
    assert_true(find(ix, q).known.versions[0].active);
    assert_int_equal(snap_index_redis_name_put(s->redis, &copy, true, NULL), 0);
    assert_false(find(ix, q).known.versions[0].active);

    static const char *const accidents[] = {"set rouse:name:pythia%%2012b nonsense", "lpush rouse:name:pythia%%2012b 1",
                                            "hset rouse:name:pythia%%2012b a 1"};
    for (size_t i = 0; i < sizeof(accidents) / sizeof(accidents[0]); i++) {
        char command[96];
        snprintf(command, sizeof(command), "%s", accidents[i]);
        memmove(strstr(command, "%%"), strstr(command, "%%") + 1, strlen(strstr(command, "%%")));
        fixture_shell(
            "redis-cli -p %d -n 3 del 'rouse:name:pythia%%2012b' >/dev/null; redis-cli -p %d -n 3 %s >/dev/null",
            r.port, r.port, command);
        assert_int_equal(find(ix, q).known.n_versions, 0); /* and the rest of the answer is there */
        assert_int_equal(snap_index_redis_name_put(s->redis, &name, false, NULL), 0);
        assert_int_equal(find(ix, q).known.revision, name.revision);
    }
    snap_store_close(s);
    fixture_redis_stop(&r);
}

static bool looks_up(struct snap_store *s, const struct fixture *f, const char *model, struct snap_found *out)
{
    struct snap_start_options o = fixture_options(f);
    struct gpu_device *device = fixture_device(NULL);
    struct snap_request request;
    o.model = model;
    assert_int_equal(snap_request_init(&request, device, &o, NULL), 0);
    bool leads = snap_look_up(s, &request, out);
    gpu_close(device);
    return leads;
}

/* A store behind a network is asked for a name only when Redis does not know it; one that is near answers itself, whatever Redis
 * remembers. */
static void test_names_of_a_far_store(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_found found;
    struct snap_name name;
    fixture_redis_start(&r, f, 0, NULL);
    struct snap_start_options o = fixture_options(f);
    o.redis = r.url;
    struct fixture_run built = fixture_start(&o);
    assert_int_equal(built.rc, 0);
    struct snap_store *s = open_store(f->store, r.url);
    s->objects->far = true;
    fixture_shell("mv '%s/names' '%s/away'", f->store, f->root);
    assert_true(looks_up(s, f, "oracle@v1", &found)); /* nothing but Redis can know */
    assert_string_equal(found.id, built.id);
    assert_string_equal(found.version, "v1");
    assert_int_equal(found.untold, 0);
    assert_int_equal(snap_names_get(s, "oracle", &name, NULL), 0);
    fixture_shell("redis-cli -p %d flushall >/dev/null", r.port);
    assert_false(looks_up(s, f, "oracle@v1", &found));
    fixture_shell("mv '%s/away' '%s/names'", f->root, f->store);
    assert_true(looks_up(s, f, "oracle@v1", &found));
    assert_true(found.untold & 1u << SNAP_STORE_REDIS);

    s->objects->far = false;
    name.revision = 100; /* another store's, under the same name */
    memset(name.versions[0].model_digest, 'e', SNAP_SHA256_CHARS);
    name.versions[0].active = true;
    assert_int_equal(snap_index_redis_name_put(s->redis, &name, false, NULL), 0);
    assert_true(looks_up(s, f, "oracle@v1", &found));
    assert_string_equal(found.id, built.id);
    assert_int_equal(snap_names_get(s, "oracle", &name, NULL), 0);
    assert_int_equal(name.revision, 1);
    fixture_run_done(&built);
    snap_store_close(s);
    fixture_redis_stop(&r);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {T(test_files), T(test_lease_files)};
    const struct CMUnitTest redis_tests[] = {T(test_redis),
                                             T(test_redis_round_trips),
                                             T(test_redis_login),
                                             T(test_redis_killed_and_back),
                                             T(test_redis_wrong_types),
                                             T(test_lease_redis),
                                             T(test_fenced_put),
                                             T(test_names_in_redis),
                                             T(test_names_of_a_far_store)};
    if (argc > 1 && strcmp(argv[1], "redis") == 0) {
        fixture_redis_require();
        return cmocka_run_group_tests_name("snap_index in redis-server", redis_tests, NULL, NULL);
    }
    return cmocka_run_group_tests_name("snap_index", tests, NULL, NULL);
}
