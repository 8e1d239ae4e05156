/* Objects in a directory: whole or not there, compare and swap among processes, keys that lead nowhere else. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/objects.h"
#include "snapshot/tests/snapshot_fixture.h"

static struct snap_objects *open_objects(const struct fixture *f)
{
    struct snap_objects *o = NULL;
    struct base_error err = {0};
    if (snap_objects_dir_open(f->store, &o, &err) < 0)
        fail_msg("%s", err.text);
    return o;
}

static int get(struct snap_objects *o, const char *key, char *out, size_t size, char *etag, struct base_error *err)
{
    struct base_buffer bytes;
    base_buffer_init(&bytes, 1 << 16);
    int rc = o->ops->get(o, key, size - 1, &bytes, etag, err);
    snprintf(out, size, "%s", rc == 0 ? base_buffer_cstr(&bytes) : "");
    base_buffer_done(&bytes);
    return rc;
}

static int put(struct snap_objects *o, const char *key, const char *text, const char *if_etag)
{
    return o->ops->put(o, key, text, strlen(text), if_etag, NULL);
}

static void test_put_get(void **state)
{
    struct snap_objects *o = open_objects(*state);
    struct base_error err = {0};
    char text[64], etag[SNAP_ETAG_MAX], second[SNAP_ETAG_MAX];
    assert_int_equal(get(o, "names/a", text, sizeof(text), etag, &err), ERR_NOTFOUND);
    assert_int_equal(o->ops->remove(o, "names/a", NULL), 0);
    assert_int_equal(put(o, "names/a", "one", SNAP_ETAG_NONE), 0);
    assert_int_equal(put(o, "names/a", "two", SNAP_ETAG_NONE), ERR_AGAIN);
    assert_int_equal(get(o, "names/a", text, sizeof(text), etag, &err), 0);
    assert_string_equal(text, "one");
    assert_int_equal(put(o, "names/a", "two", etag), 0);
    assert_int_equal(put(o, "names/a", "three", etag), ERR_AGAIN);
    assert_int_equal(get(o, "names/a", text, sizeof(text), second, &err), 0);
    assert_string_equal(text, "two");
    assert_string_not_equal(etag, second);
    assert_int_equal(put(o, "names/a", "whatever is there", NULL), 0);
    assert_int_equal(get(o, "names/a", text, 5, etag, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "longer than 4 bytes"));
    assert_int_equal(o->ops->remove(o, "names/a", NULL), 0);
    assert_int_equal(put(o, "names/a", "x", second), ERR_AGAIN);
    assert_int_equal(put(o, "empty", "", NULL), 0);
    assert_int_equal(get(o, "empty", text, sizeof(text), etag, &err), 0);
    assert_int_equal(put(o, "empty", "no more", etag), 0);
    o->ops->close(o);
}

static void test_keys(void **state)
{
    struct snap_objects *o = open_objects(*state);
    char text[64], etag[SNAP_ETAG_MAX], longest[SNAP_OBJECT_KEY_MAX + 2];
    static const char *const wrong[] = {"",        "/etc/passwd", "a//b",   "a/",   "..",       "../a",  "a/../../b",
                                        "a/.",     "./a",         "a b",    "a\nb", "\xc3\xa9", "a/..",  "locks",
                                        "locks/a", "a/\x7f",      "a/\t/b", "/",    "//",       "a/../a"};
    static const char *const right[] = {"a", "a/b", "...", ".a", "a..b/..c", "locksmith", "a/locks", "%2F", "~"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (put(o, wrong[i], "x", NULL) != ERR_INPUT || get(o, wrong[i], text, sizeof(text), etag, NULL) != ERR_INPUT ||
            o->ops->remove(o, wrong[i], NULL) != ERR_INPUT)
            fail_msg("'%s' is taken for a key", wrong[i]);
    }
    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        if (snap_object_key_check(right[i], NULL) != 0)
            fail_msg("'%s' is not taken for a key", right[i]);
    }
    memset(longest, 'k', sizeof(longest));
    longest[SNAP_OBJECT_KEY_MAX + 1] = '\0';
    assert_int_equal(snap_object_key_check(longest, NULL), ERR_INPUT);
    longest[SNAP_OBJECT_KEY_MAX] = '\0';
    assert_int_equal(snap_object_key_check(longest, NULL), 0);
    o->ops->close(o);
}

static void test_links_lead_nowhere(void **state)
{
    const struct fixture *f = *state;
    struct snap_objects *o = open_objects(f);
    char text[64], etag[SNAP_ETAG_MAX];
    assert_int_equal(put(o, "names/real", "x", NULL), 0);
    fixture_shell("mkdir '%s/outside' && echo secret > '%s/outside/a' && ln -s '%s/outside' '%s/away' && "
                  "ln -s '%s/outside/a' '%s/names/link' && mkfifo '%s/names/fifo' && mkdir '%s/names/dir'",
                  f->root, f->root, f->root, f->store, f->root, f->store, f->store, f->store);
    assert_int_equal(get(o, "away/a", text, sizeof(text), etag, NULL), ERR_IO);
    assert_int_equal(put(o, "away/b", "x", NULL), ERR_IO);
    assert_int_equal(get(o, "names/link", text, sizeof(text), etag, NULL), ERR_IO);
    assert_int_equal(get(o, "names/fifo", text, sizeof(text), etag, NULL), ERR_IO);
    assert_int_equal(get(o, "names/dir", text, sizeof(text), etag, NULL), ERR_IO);
    assert_int_equal(put(o, "names/link", "mine", NULL), 0); /* the link is replaced, not followed */
    assert_int_equal(get(o, "names/link", text, sizeof(text), etag, NULL), 0);
    assert_string_equal(text, "mine");
    fixture_shell("test \"$(cat '%s/outside/a')\" = secret && ! test -e '%s/outside/b'", f->root, f->root);
    o->ops->close(o);
}

struct seen {
    char keys[512];
    uint64_t bytes;
    int n, n_max;
};

static bool see(void *context, const struct snap_object *object)
{
    struct seen *s = context;
    size_t n = strlen(s->keys);
    snprintf(s->keys + n, sizeof(s->keys) - n, "%s;", object->key);
    s->bytes += object->bytes;
    assert_true(llabs(base_clock_unix_ms() - object->modified_ms) < 60000);
    return ++s->n < s->n_max;
}

static struct seen list(struct snap_objects *o, const char *prefix, int n_max)
{
    struct seen s = {.n_max = n_max};
    struct base_error err = {0};
    if (o->ops->list(o, prefix, see, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void test_list(void **state)
{
    const struct fixture *f = *state;
    struct snap_objects *o = open_objects(f);
    assert_int_equal(list(o, "", 99).n, 0);
    put(o, "names/a", "123", NULL);
    put(o, "names/deep/er/b", "4567", NULL);
    put(o, "namesake", "8", NULL);
    put(o, "used/c", "9", NULL);
    fixture_shell("touch '%s/names/a.tmp-0123456789abcdef' '%s/names/a b' && ln -s a '%s/names/link'", f->store,
                  f->store, f->store);
    struct seen s = list(o, "names/", 99);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.bytes, 7);
    assert_non_null(strstr(s.keys, "names/a;"));
    assert_non_null(strstr(s.keys, "names/deep/er/b;"));
    assert_int_equal(list(o, "names", 99).n, 3);
    assert_int_equal(list(o, "names/deep", 99).n, 1);
    assert_int_equal(list(o, "names/deep/x", 99).n, 0);
    assert_int_equal(list(o, "", 99).n, 4);
    assert_int_equal(list(o, "", 2).n, 2);
    o->ops->close(o);
}

/* Adds 1 to the number in an object, again and again, as `n_writers` processes: none is lost. Returns the attempts that lost. */
static int count_up(struct snap_objects *o, int times)
{
    int lost = 0;
    for (int i = 0; i < times;) {
        char text[32], etag[SNAP_ETAG_MAX] = SNAP_ETAG_NONE;
        int rc = get(o, "counter", text, sizeof(text), etag, NULL);
        if (rc < 0 && rc != ERR_NOTFOUND)
            exit(3);
        snprintf(text, sizeof(text), "%ld", strtol(text, NULL, 10) + 1);
        rc = put(o, "counter", text, etag);
        if (rc < 0 && rc != ERR_AGAIN)
            exit(4);
        i += rc == 0;
        lost += rc < 0;
    }
    return lost;
}

static void test_concurrent_swaps(void **state)
{
    enum { WRITERS = 6, TIMES = 40 };
    const struct fixture *f = *state;
    int any_lost = 0;
    pid_t writers[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = fork();
        if (writers[i] == 0)
            _exit(count_up(open_objects(f), TIMES) > 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        int status;
        assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        any_lost += WEXITSTATUS(status);
    }
    struct snap_objects *o = open_objects(f);
    char text[32], etag[SNAP_ETAG_MAX];
    assert_int_equal(get(o, "counter", text, sizeof(text), etag, NULL), 0);
    assert_int_equal(strtol(text, NULL, 10), WRITERS * TIMES);
    assert_true(any_lost > 0); /* or nobody met anybody, and this shows nothing */
    o->ops->close(o);
}

/* Writers that are killed at any moment: what is there is whole, and the next one is not held up. */
static void test_killed_writers(void **state)
{
    const struct fixture *f = *state;
    struct snap_objects *o = open_objects(f);
    unsigned seed = 20;
    for (int i = 0; i < 40; i++) {
        pid_t writer = fork();
        if (writer == 0) {
            for (char c = 'a';; c = c == 'z' ? 'a' : (char)(c + 1)) {
                char text[3001];
                memset(text, c, 3000);
                text[3000] = '\0';
                put(o, "letters", text, NULL);
            }
        }
        usleep((useconds_t)(rand_r(&seed) % 4000));
        kill(writer, SIGKILL);
        waitpid(writer, NULL, 0);
        char text[4000], etag[SNAP_ETAG_MAX];
        int rc = get(o, "letters", text, sizeof(text), etag, NULL);
        assert_true(rc == 0 || rc == ERR_NOTFOUND);
        if (rc == ERR_NOTFOUND) { /* killed before its first one */
            memset(text, 'A', 3000);
            text[3000] = '\0';
        } else {
            char one[2] = {text[0], '\0'};
            assert_int_equal(strlen(text), 3000);
            assert_int_equal(strspn(text, one), 3000);
        }
        uint64_t began = base_clock_mono_ns();
        assert_int_equal(put(o, "letters", text, NULL), 0);
        assert_true(base_clock_mono_ns() - began < 5000000000u);
    }
    o->ops->close(o);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_put_get),          T(test_keys),          T(test_links_lead_nowhere), T(test_list),
        T(test_concurrent_swaps), T(test_killed_writers)};
    return cmocka_run_group_tests_name("objects", tests, NULL, NULL);
}
