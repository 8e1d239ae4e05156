/* Collection: what stays whatever is asked for, what goes and in which order, what is left of a collection that was killed. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/collect.h"
#include "snapshot/tests/snapshot_fixture.h"
#include "snapshot/use.h"

enum { MODELS = 4 };

struct made {
    struct snap_store *store;
    char ids[MODELS][SNAP_ID_CHARS + 1]; /* of v1, v2, ... */
};

/* Snapshots of MODELS versions of one name, then used in the order 2, 0, 3, 1. */
static struct made make_store(const struct fixture *f, const char *redis)
{
    static const int order[] = {2, 0, 3, 1};
    struct snap_start_options o = fixture_options(f);
    struct made m = {.store = NULL};
    struct base_error err = {0};
    for (int i = 0; i < MODELS; i++) {
        fixture_shell("sed -i 's/\"layer_norm_eps\": [^,]*/\"layer_norm_eps\": 0.00%d/' '%s/config.json'", i + 1,
                      f->model);
        struct fixture_run run = fixture_start(&o);
        if (run.rc < 0)
            fail_msg("%s", run.err.text);
        memcpy(m.ids[i], run.id, sizeof(m.ids[i]));
        fixture_run_done(&run);
    }
    for (int i = 0; i < MODELS; i++)
        fixture_shell("mkdir -p '%s/used' && touch '%s/used/%s' && sleep 0.01", f->store, f->store, m.ids[order[i]]);
    if (snap_store_open(f->store, redis, &m.store, &err) < 0)
        fail_msg("%s", err.text);
    return m;
}

struct seen {
    struct {
        char id[SNAP_ID_CHARS + 1], what[16], reason[256];
    } all[32];
    int n;
};

static void see(void *context, const struct snap_collected *c)
{
    struct seen *s = context;
    assert_true(s->n < 32);
    snprintf(s->all[s->n].id, sizeof(s->all[s->n].id), "%s", c->item ? c->item->record.id : "");
    snprintf(s->all[s->n].what, sizeof(s->all[s->n].what), "%s", c->what);
    snprintf(s->all[s->n++].reason, sizeof(s->all[0].reason), "%s", c->reason);
}

static struct snap_collect_sum collect(struct snap_store *store, const struct snap_collect *how, struct seen *seen)
{
    struct snap_collect_sum sum;
    struct base_error err = {0};
    *seen = (struct seen){.n = 0};
    if (snap_collect_run(store, how, see, seen, &sum, &err) < 0)
        fail_msg("%s", err.text);
    return sum;
}

/* "evicted: least recently ...", of one snapshot. */
static const char *said_of(const struct seen *s, const char *id, char out[300])
{
    snprintf(out, 300, "nothing");
    for (int i = 0; i < s->n; i++) {
        if (strcmp(s->all[i].id, id) == 0)
            snprintf(out, 300, "%s: %s", s->all[i].what, s->all[i].reason);
    }
    return out;
}

static void assert_said(const struct seen *s, const char *id, const char *begin)
{
    char said[300];
    if (strncmp(said_of(s, id, said), begin, strlen(begin)) != 0)
        fail_msg("%s: said '%s', expected '%s...'", id, said, begin);
}

static void change(const struct made *m, const char *what, const char *ref)
{
    struct snap_name name;
    struct base_error err = {0};
    const struct snap_split half[] = {{"v1", 1}, {"v2", 1}};
    int rc = strcmp(what, "promote") == 0    ? snap_admin_promote(m->store, ref, false, &name, &err)
             : strcmp(what, "rollback") == 0 ? snap_admin_rollback(m->store, ref, &name, &err)
             : strcmp(what, "split") == 0    ? snap_admin_split(m->store, ref, half, 2, &name, &err)
                                             : snap_admin_pin(m->store, ref, strcmp(what, "pin") == 0, &name, &err);
    if (rc < 0)
        fail_msg("%s %s: %s", what, ref, err.text);
}

static const struct snap_collect everything = {.max_bytes = 1, .quarantine_age_s = 3600};

/* Nothing of a snapshot is left under any name; what is there is accounted for. */
static void assert_gone(const struct fixture *f, const char *id)
{
    fixture_shell("test -z \"$(find '%s' -name '*%s*')\" && ! grep -rqs %s '%s/index/models'", f->store, id, id,
                  f->store);
}

static void test_least_recently_used_first(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct seen seen;
    char path[PATH_MAX];
    fixture_snapshot_path(f, m.ids[0], ".snap", path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    uint64_t one = (uint64_t)st.st_blocks * 512;

    struct snap_collect how = {.max_bytes = 2 * one + one / 2, .dry_run = true};
    struct snap_collect_sum sum = collect(m.store, &how, &seen);
    assert_int_equal(sum.n_removed, 2);
    assert_int_equal(sum.freed_bytes, 2 * one);
    assert_int_equal(fixture_count(f->store, ".snap"), MODELS); /* said, not done */
    how.dry_run = false;
    sum = collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "evicted: least recently used");
    assert_said(&seen, m.ids[0], "evicted: least recently used");
    assert_said(&seen, m.ids[1], "kept: within the bounds");
    assert_said(&seen, m.ids[3], "kept: newest version");
    assert_int_equal(sum.n_removed, 2);
    assert_int_equal(sum.left_bytes, 2 * one);
    assert_int_equal(sum.over_bytes, 0);
    assert_gone(f, m.ids[2]);
    assert_gone(f, m.ids[0]);
    sum = collect(m.store, &everything, &seen);
    assert_int_equal(sum.n_removed, 1);
    assert_int_equal(sum.over_bytes, one - 1); /* the newest stays: it answers */
    snap_store_close(m.store);
}

static void test_what_a_name_needs(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct seen seen;
    struct snap_collect how = everything;
    how.dry_run = true;
    change(&m, "promote", "oracle@v1");
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[0], "kept: active");
    assert_said(&seen, m.ids[3], "kept: what rollback goes to"); /* it answered, as the newest */
    assert_said(&seen, m.ids[1], "evicted");
    change(&m, "promote", "oracle@v2");
    change(&m, "pin", "oracle@v3");
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[1], "kept: active");
    assert_said(&seen, m.ids[0], "kept: what rollback goes to");
    assert_said(&seen, m.ids[2], "kept: pinned");
    assert_said(&seen, m.ids[3], "evicted");
    change(&m, "rollback", "oracle");
    change(&m, "unpin", "oracle@v3");
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[0], "kept: active");
    assert_said(&seen, m.ids[1], "evicted");
    assert_said(&seen, m.ids[2], "evicted");
    change(&m, "split", "oracle");
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[1], "kept: part of the split");

    /* Another name of the same model counts as well. */
    struct snap_version v = {.file_dtype = "f16"};
    struct snap_name name, oracle;
    assert_int_equal(snap_names_get(m.store, "oracle", &oracle, NULL), 0);
    memcpy(v.model_digest, snap_name_find(&oracle, "v4")->model_digest, sizeof(v.model_digest));
    assert_int_equal(snap_names_add(m.store, "delphi", &v, &name, NULL), 1);
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[3], "kept: newest");
    fixture_shell("echo nonsense > '%s/names/delphi'", f->store);
    collect(m.store, &how, &seen); /* what is it that the name needs? */
    assert_said(&seen, m.ids[2], "kept: a name's record cannot be read");
    assert_said(&seen, m.ids[3], "kept: a name's record cannot be read");
    snap_store_close(m.store);
}

static void test_bounds(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct seen seen;
    struct snap_collect how = {.max_age_s = 1, .dry_run = true};
    base_clock_sleep_ms(1100);
    fixture_shell("touch '%s/used/%s'", f->store, m.ids[0]);
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[0], "kept: within the bounds");
    assert_said(&seen, m.ids[2], "collected: not used for longer");
    how.max_age_s = 0;
    how.grace_s = 3600;
    how.max_bytes = 1;
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "kept: used or made a moment ago");
    how = (struct snap_collect){.keep_versions = 2, .dry_run = true};
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[0], "collected: older than the newest versions");
    assert_said(&seen, m.ids[1], "collected: older than the newest versions");
    assert_said(&seen, m.ids[2], "kept: among the newest versions");
    how.max_bytes = 1;
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "kept: among the newest versions");
    how.keep_versions = 0;
    how.max_bytes = 0;
    struct snap_collect_sum sum = collect(m.store, &how, &seen);
    assert_int_equal(sum.n_removed + sum.n_leftovers, 0);
    snap_store_close(m.store);
}

/* ---- uses ---- */

static pid_t hold(const struct fixture *f, const char *id, int *out_ready)
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct snap_store *s = NULL;
        struct snap_use *u = snap_store_open(f->store, NULL, &s, NULL) == 0 ? snap_use_begin(s, NULL, id) : NULL;
        (void)!write(ready[1], u ? "y" : "n", 1);
        pause();
    }
    close(ready[1]);
    *out_ready = ready[0];
    char answer = 0;
    assert_int_equal(read(ready[0], &answer, 1), 1);
    assert_int_equal(answer, 'y');
    return pid;
}

static void test_in_use(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct seen seen;
    struct schema_snapshot_record record;
    struct base_error err = {0};
    int ready;
    pid_t holder = hold(f, m.ids[2], &ready);
    collect(m.store, &everything, &seen);
    assert_said(&seen, m.ids[2], "kept: in use by a process of this machine");
    assert_said(&seen, m.ids[0], "evicted");
    assert_int_equal(snap_admin_remove(m.store, m.ids[2], false, &record, &err), ERR_AGAIN);
    kill(holder, SIGSTOP); /* stopped is not dead */
    collect(m.store, &everything, &seen);
    assert_said(&seen, m.ids[2], "kept: in use");
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    close(ready);
    collect(m.store, &everything, &seen);
    assert_said(&seen, m.ids[2], "evicted");
    assert_gone(f, m.ids[2]);
    assert_null(snap_use_begin(m.store, NULL, m.ids[2])); /* nothing to hold, and no note of it */
    collect(m.store, &everything, &seen);
    assert_gone(f, m.ids[2]);
    snap_store_close(m.store);
}

static const struct fixture *racing;
static const char *racing_id;

/* A builder publishes another file under the name, between the look and the removal. */
static bool publish_meanwhile(void *context)
{
    fixture_shell("cp '%s/%s.snap' '%s/new' && mv '%s/new' '%s/%s.snap'", racing->store, racing_id, racing->store,
                  racing->store, racing->store, racing_id);
    return *(bool *)context;
}

static void test_replaced_meanwhile(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct base_error err = {0};
    bool yes = true, no = false;
    char path[PATH_MAX];
    racing = f;
    racing_id = m.ids[0];
    fixture_snapshot_path(f, m.ids[0], ".snap", path);
    assert_int_equal(snap_collect_remove(m.store, m.ids[0], path, publish_meanwhile, &yes, &err), ERR_AGAIN);
    assert_non_null(strstr(err.text, "replaced"));
    assert_int_equal(snap_admin_verify(m.store, path, NULL, false, NULL, NULL), 0);
    assert_int_equal(fixture_count(f->store, ".building"), 0);
    assert_int_equal(snap_collect_remove(m.store, m.ids[0], path, publish_meanwhile, &no, &err), ERR_AGAIN);
    assert_int_equal(snap_admin_verify(m.store, path, NULL, false, NULL, NULL), 0);
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_SH), 0);
    assert_int_equal(snap_collect_remove(m.store, m.ids[0], path, NULL, NULL, &err), ERR_AGAIN);
    close(fd);
    assert_int_equal(snap_collect_remove(m.store, m.ids[0], path, NULL, NULL, &err), 0);
    assert_gone(f, m.ids[0]);
    snap_store_close(m.store);
}

/* ---- leftovers ---- */

static void test_leftovers(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct seen seen;
    struct snap_collect how = {.quarantine_age_s = 3600, .dry_run = true};
    char aside[PATH_MAX];
    fixture_shell(
        "cd '%s' && head -c 100000 /dev/zero > '%s.0123456789abcdef.building' && touch '%s.fedcba9876543210.building'"
        " && touch -d '-2 hours' names/x.tmp-0123456789abcdef index/records/y.tmp-0123456789abcdef"
        " && touch names/young.tmp-0123456789abcdef used/ffffffffffffffffffffffffffffffff stranger.snap"
        " && echo x > index/files/$(printf '%%064d' 1) && touch -d '-91 days' index/files/$(printf '%%064d' 1)"
        " && echo 'id eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee' > index/models/dddddddddddddddddddddddddddddddd"
        " && mv '%s.snap' '%s.quarantined.snap'",
        f->store, m.ids[0], m.ids[1], m.ids[0], m.ids[0]);
    char path[PATH_MAX];
    fixture_snapshot_path(f, m.ids[1], ".fedcba9876543210.building", path);
    int builder = open(path, O_RDWR);
    assert_int_equal(flock(builder, LOCK_EX), 0);
    struct snap_collect_sum sum = collect(m.store, &how, &seen);
    assert_int_equal(sum.n_leftovers, 6);
    how.dry_run = false;
    sum = collect(m.store, &how, &seen);
    assert_int_equal(sum.n_leftovers, 6);
    assert_true(sum.freed_bytes >= 100000);
    assert_said(&seen, m.ids[0], "kept: quarantined");
    fixture_shell("cd '%s' && test -e stranger.snap && test -e names/young.tmp-0123456789abcdef && test $(ls | grep -c "
                  "building) = 1"
                  " && ! test -e names/x.tmp-0123456789abcdef && ! test -e used/ffffffffffffffffffffffffffffffff",
                  f->store);
    sum = collect(m.store, &how, &seen);
    assert_int_equal(sum.n_leftovers, 0);
    how.quarantine_age_s = 0;
    sum = collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[0], "collected: quarantined");
    fixture_snapshot_path(f, m.ids[0], ".quarantined.snap", aside);
    assert_int_not_equal(access(aside, F_OK), 0);
    close(builder);
    snap_store_close(m.store);
}

static void test_one_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct snap_collect_sum sum;
    char path[PATH_MAX + 32];
    snprintf(path, sizeof(path), "%s/locks/gc.lock", f->store);
    int other = open(path, O_RDWR | O_CREAT, 0644);
    assert_int_equal(flock(other, LOCK_EX), 0);
    assert_int_equal(snap_collect_run(m.store, &everything, NULL, NULL, &sum, NULL), ERR_AGAIN);
    close(other);
    assert_int_equal(snap_collect_run(m.store, &everything, NULL, NULL, &sum, NULL), 0);
    snap_store_close(m.store);
}

/* ---- reindex ---- */

static void test_reindex(void **state)
{
    struct fixture *f = *state;
    struct made m = make_store(f, NULL);
    struct snap_admin_reindexed r;
    struct base_error err = {0};
    change(&m, "promote", "oracle@v2");
    fixture_shell("cp -r '%s/index/models' '%s/before' && rm -r '%s/index'", f->store, f->root, f->store);
    assert_int_equal(snap_admin_reindex(m.store, false, &r, &err), 0);
    assert_int_equal(r.n_snapshots, MODELS);
    assert_int_equal(r.n_versions, 0);
    fixture_shell("diff -r '%s/index/models' '%s/before'", f->store, f->root);
    fixture_shell("rm -r '%s/names' && truncate -s 5000000 '%s/%s.snap'", f->store, f->store, m.ids[3]);
    assert_int_equal(snap_admin_reindex(m.store, false, &r, &err), 0);
    assert_int_equal(r.n_snapshots, MODELS - 1);
    assert_int_equal(r.n_versions, MODELS - 1); /* in the order in which they were built */
    assert_int_equal(r.n_unreadable, 1);
    struct snap_name name;
    assert_int_equal(snap_names_get(m.store, "oracle", &name, NULL), 0);
    assert_string_equal(snap_name_route(&name, "", NULL, 0)->version, "v3");
    snap_store_close(m.store);
}

/* ---- with Redis ---- */

static void test_uses_in_redis(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct seen seen;
    struct snap_collect how = everything;
    fixture_redis_start(&r, f, 0, NULL);
    struct made m = make_store(f, r.url);
    fixture_shell("redis-cli -p %d -n 3 zadd rouse:use:%s $(($(date +%%s) * 1000 + 30000)) other:1:a "
                  "$(($(date +%%s) * 1000 - 1)) dead:2:b >/dev/null; redis-cli -p %d -n 3 zadd rouse:use:%s 1000 "
                  "dead:3:c >/dev/null",
                  r.port, m.ids[2], r.port, m.ids[0]);
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "kept: in use, by Redis");
    assert_said(&seen, m.ids[0], "evicted");
    fixture_shell("redis-cli -p %d -n 3 xrange rouse:events - + | grep -q evicted", r.port);
    fixture_shell("redis-cli -p %d -n 3 hvals rouse:model:name:oracle | grep -vq %s", r.port, m.ids[0]);
    kill(r.pid, SIGSTOP); /* it does not say whether somebody uses it: nothing goes */
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "kept: Redis does not say");
    kill(r.pid, SIGCONT);
    base_clock_sleep_ms(1100);
    fixture_shell("redis-cli -p %d -n 3 del rouse:use:%s >/dev/null", r.port, m.ids[2]);
    collect(m.store, &how, &seen);
    assert_said(&seen, m.ids[2], "evicted");
    snap_store_close(m.store);
    fixture_redis_stop(&r);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_least_recently_used_first), T(test_what_a_name_needs), T(test_bounds),        T(test_in_use),
        T(test_replaced_meanwhile),        T(test_leftovers),         T(test_one_at_a_time), T(test_reindex)};
    const struct CMUnitTest redis_tests[] = {T(test_uses_in_redis)};
    if (argc > 1 && strcmp(argv[1], "redis") == 0) {
        fixture_redis_require();
        return cmocka_run_group_tests_name("collect with redis-server", redis_tests, NULL, NULL);
    }
    return cmocka_run_group_tests_name("collect", tests, NULL, NULL);
}
