/* Names: references, records (hostile ones too), what changes them, and many writers at the same time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "snapshot/names.h"
#include "snapshot/snap_store.h"
#include "snapshot/tests/snapshot_fixture.h"

#define D(c)    c c c c c c c c c c c c c c c c
#define DIGEST1 D("d1d1")
#define DIGEST2 D("d2d2")
#define DIGEST3 D("d3d3")
#define HEAD    "rouse-name 1\nname oracle\nrevision 3\nnext 2\nprevious -\n"
#define V1      "version v1 " DIGEST1 " f16 1700000000000 0 -\n"
#define V2      "version v2 " DIGEST2 " f16 1700000000001 10 active,pinned\n"

static void test_references(void **state)
{
    (void)state;
    static const struct {
        const char *ref, *name, *version;
    } good[] = {{"a", "a", ""},
                {"pythia-12b@v3", "pythia-12b", "v3"},
                {"EleutherAI pythia@2026-11.rc_1", "EleutherAI pythia", "2026-11.rc_1"},
                {"\xc3\xa9@v1", "\xc3\xa9", "v1"},
                {"...@_", "...", "_"}};
    static const char *const bad[] = {"",  "@",  "@v1",  "a@",  "a@b@c", "a/b",   "a/b@v1", "a@../x", "a@v 1",
                                      ".", "..", "..@v", "a\n", "a@\n",  "a@.v1", "a@-v",   "\x7f",   "a@v\xc3\xa9"};
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1], ref[400];
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(snap_ref_parse(good[i].ref, name, version, NULL), 0);
        assert_string_equal(name, good[i].name);
        assert_string_equal(version, good[i].version);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (snap_ref_parse(bad[i], name, version, NULL) != ERR_USAGE)
            fail_msg("'%s' is taken for a reference", bad[i]);
    }
    snprintf(ref, sizeof(ref), "%0128d@%032d", 0, 0);
    assert_int_equal(snap_ref_parse(ref, name, version, NULL), 0);
    snprintf(ref, sizeof(ref), "%0129d", 0);
    assert_int_equal(snap_ref_parse(ref, name, version, NULL), ERR_USAGE);
    snprintf(ref, sizeof(ref), "a@%033d", 0);
    assert_int_equal(snap_ref_parse(ref, name, version, NULL), ERR_USAGE);
}

static void test_keys(void **state)
{
    (void)state;
    static const char *const names[] = {"a", "pythia 12b", "%41", "A", "...", "\xc3\xa9"};
    char keys[8][SNAP_OBJECT_KEY_MAX + 1], name[SNAP_NAME_MAX + 1];
    for (int i = 0; i < 6; i++)
        assert_int_equal(snap_name_key(names[i], keys[i], NULL), 0);
    memset(name, 0x80, SNAP_NAME_MAX); /* three bytes for each: longer than a key may be */
    name[SNAP_NAME_MAX] = '\0';
    assert_int_equal(snap_name_key(name, keys[6], NULL), 0);
    name[0]++;
    assert_int_equal(snap_name_key(name, keys[7], NULL), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(snap_object_key_check(keys[i], NULL), 0);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(keys[i], keys[k]);
    }
}

static void test_records(void **state)
{
    (void)state;
    static const struct {
        const char *what, *text;
    } bad[] = {
        {"nothing", ""},
        {"no newline", "rouse-name 1"},
        {"another program's", "rouse-name 2\nname oracle\nrevision 3\nnext 2\nprevious -\n"},
        {"something else", "id aaaaaaaa\n"},
        {"cut in the head", "rouse-name 1\nname oracle\nrevision 3\n"},
        {"no name", "rouse-name 1\nname \nrevision 3\nnext 2\nprevious -\n"},
        {"a name with a slash", "rouse-name 1\nname a/b\nrevision 3\nnext 2\nprevious -\n"},
        {"an escape that is none", "rouse-name 1\nname a%2\nrevision 3\nnext 2\nprevious -\n"},
        {"an escaped letter", "rouse-name 1\nname %41\nrevision 3\nnext 2\nprevious -\n"},
        {"an escaped NUL", "rouse-name 1\nname %00\nrevision 3\nnext 2\nprevious -\n"},
        {"a negative revision", "rouse-name 1\nname oracle\nrevision -3\nnext 2\nprevious -\n"},
        {"a revision beyond 63 bits", "rouse-name 1\nname oracle\nrevision 9999999999999999999\nnext 2\nprevious -\n"},
        {"a next of 0", "rouse-name 1\nname oracle\nrevision 3\nnext 0\nprevious -\n"},
        {"leading zeros", "rouse-name 1\nname oracle\nrevision 03\nnext 2\nprevious -\n"},
        {"a previous that is not there", "rouse-name 1\nname oracle\nrevision 3\nnext 2\nprevious v9\n" V1},
        {"an unknown line", HEAD "colour blue\n"},
        {"an empty line", HEAD "\n" V1},
        {"two spaces", HEAD "version  v1 " DIGEST1 " f16 1 0 -\n"},
        {"a word that is none", HEAD "version .. " DIGEST1 " f16 1 0 -\n"},
        {"a word with a slash", HEAD "version a/b " DIGEST1 " f16 1 0 -\n"},
        {"a short digest", HEAD "version v1 d1d1 f16 1 0 -\n"},
        {"a digest in capitals", HEAD "version v1 " D("D1D1") " f16 1 0 -\n"},
        {"a dtype with a dash", HEAD "version v1 " DIGEST1 " f-1 1 0 -\n"},
        {"a long dtype", HEAD "version v1 " DIGEST1 " float16x 1 0 -\n"},
        {"a time that is none", HEAD "version v1 " DIGEST1 " f16 now 0 -\n"},
        {"a weight beyond the limit", HEAD "version v1 " DIGEST1 " f16 1 1000001 -\n"},
        {"a weight of 20 digits", HEAD "version v1 " DIGEST1 " f16 1 00000000000000000001 -\n"},
        {"marks that are none", HEAD "version v1 " DIGEST1 " f16 1 0 pinned,active\n"},
        {"no marks", HEAD "version v1 " DIGEST1 " f16 1 0\n"},
        {"a line cut off", HEAD "version v1 " DIGEST1 " f16 1 0 -"},
        {"a version twice", HEAD V1 "version v1 " DIGEST2 " f16 1 0 -\n"},
        {"a model twice", HEAD V1 "version v2 " DIGEST1 " f16 1 0 -\n"},
        {"two active", HEAD V2 "version v3 " DIGEST3 " f16 1 0 active\n"},
        {"text behind", HEAD V1 "x"},
    };
    struct snap_name name;
    struct base_error err = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (snap_name_decode(bad[i].text, strlen(bad[i].text), &name, &err) != ERR_INPUT)
            fail_msg("%s: taken for a record", bad[i].what);
    }
    assert_int_equal(snap_name_decode(HEAD "\0", sizeof(HEAD), &name, &err), ERR_INPUT);
    char *many = calloc(1, 65 * 128 + 256);
    size_t n = (size_t)sprintf(many, HEAD);
    for (int i = 0; i < 64; i++)
        n += (size_t)sprintf(many + n, "version w%d %064x f16 1 0 -\n", i, i);
    assert_int_equal(snap_name_decode(many, n, &name, &err), 0);
    assert_int_equal(name.n_versions, 64);
    n += (size_t)sprintf(many + n, "version w64 %064x f16 1 0 -\n", 64);
    assert_int_equal(snap_name_decode(many, n, &name, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "line 70"));
    free(many);
    many = malloc(SNAP_NAME_BYTES_MAX + 1);
    memset(many, 'x', SNAP_NAME_BYTES_MAX + 1);
    assert_int_equal(snap_name_decode(many, SNAP_NAME_BYTES_MAX + 1, &name, &err), ERR_INPUT);
    free(many);

    static const char text[] = "rouse-name 1\nname oracle\nrevision 3\nnext 2\nprevious v1\n" V1 V2;
    struct base_buffer out;
    base_buffer_init(&out, SNAP_NAME_BYTES_MAX);
    assert_int_equal(snap_name_decode(text, strlen(text), &name, &err), 0);
    assert_int_equal(name.revision, 3);
    assert_string_equal(name.previous, "v1");
    assert_true(name.versions[1].active && name.versions[1].pinned && name.versions[1].weight == 10);
    assert_int_equal(snap_name_encode(&name, &out, &err), 0);
    assert_string_equal(base_buffer_cstr(&out), text);
    base_buffer_done(&out);
}

/* The largest record that there can be has room. */
static void test_largest_record(void **state)
{
    (void)state;
    struct snap_name name = {.revision = INT64_MAX, .next = INT32_MAX, .n_versions = SNAP_VERSIONS_MAX}, back;
    struct base_buffer out;
    struct base_error err = {0};
    memset(name.name, 0x80, SNAP_NAME_MAX);
    for (uint32_t i = 0; i < SNAP_VERSIONS_MAX; i++) {
        struct snap_version *v = &name.versions[i];
        snprintf(v->version, sizeof(v->version), "%032u", i);
        snprintf(v->model_digest, sizeof(v->model_digest), "%064x", i);
        snprintf(v->file_dtype, sizeof(v->file_dtype), "float16");
        v->created_ms = INT64_MAX;
        v->weight = SNAP_WEIGHT_MAX;
        v->pinned = true;
        v->active = i == 5;
    }
    memcpy(name.previous, name.versions[7].version, sizeof(name.previous));
    base_buffer_init(&out, SNAP_NAME_BYTES_MAX);
    assert_int_equal(snap_name_encode(&name, &out, &err), 0);
    if (snap_name_decode(out.data, out.n, &back, &err) < 0)
        fail_msg("%s", err.text);
    assert_memory_equal(&name, &back, sizeof(name));
    base_buffer_done(&out);
}

static int add(struct snap_name *name, const char *word, const char *digest, int64_t created_ms)
{
    struct snap_version v = {.file_dtype = "f16", .created_ms = created_ms};
    snprintf(v.version, sizeof(v.version), "%s", word);
    snprintf(v.model_digest, sizeof(v.model_digest), "%s", digest);
    return snap_name_add(name, &v, NULL);
}

static const char *answer(const struct snap_name *name)
{
    const struct snap_version *v = snap_name_route(name, "", NULL, 0);
    return v ? v->version : "";
}

static void test_life(void **state)
{
    (void)state;
    struct snap_name name = {.name = "oracle", .next = 1};
    struct base_error err = {0};
    assert_string_equal(answer(&name), "");
    assert_int_equal(add(&name, "", DIGEST1, 100), 1);
    assert_string_equal(answer(&name), "v1");
    assert_int_equal(add(&name, "", DIGEST1, 200), 0); /* the same model again */
    assert_int_equal(add(&name, "", DIGEST2, 300), 1);
    assert_string_equal(answer(&name), "v2"); /* nothing was promoted: the newest */
    assert_int_equal(add(&name, "late", DIGEST3, 200), 1);
    assert_string_equal(answer(&name), "v2"); /* made before v2, published after it */
    assert_int_equal(add(&name, "other", DIGEST1, 1), ERR_USAGE);
    assert_int_equal(add(&name, "v1", D("aaaa"), 1), ERR_USAGE);
    assert_int_equal(add(&name, "v1", DIGEST1, 1), 0);
    assert_int_equal(snap_name_rollback(&name, &err), ERR_USAGE);

    assert_int_equal(snap_name_promote(&name, "v1", &err), 1);
    assert_int_equal(snap_name_promote(&name, "v1", &err), 0);
    assert_string_equal(name.previous, "v2"); /* what answered, if only as the newest */
    assert_string_equal(answer(&name), "v1");
    assert_int_equal(add(&name, "", D("4444"), 400), 1);
    assert_string_equal(answer(&name), "v1"); /* a build does not become active by itself any more */
    assert_int_equal(snap_name_promote(&name, "v9", &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "it has v3, v2, late, v1"));
    assert_int_equal(snap_name_promote(&name, "v3", &err), 1);
    assert_string_equal(answer(&name), "v3");
    assert_int_equal(snap_name_rollback(&name, &err), 1);
    assert_string_equal(answer(&name), "v1");
    assert_int_equal(snap_name_rollback(&name, &err), ERR_USAGE); /* not there and back again */
    assert_string_equal(answer(&name), "v1");

    const struct snap_split parts[] = {{"v1", 90}, {"v2", 10}}, twice[] = {{"v1", 1}, {"v1", 2}}, none[] = {{"v1", 0}};
    assert_int_equal(snap_name_split(&name, twice, 2, &err), ERR_USAGE);
    assert_int_equal(snap_name_split(&name, none, 1, &err), ERR_USAGE);
    assert_int_equal(snap_name_split(&name, &(struct snap_split){"v7", 1}, 1, &err), ERR_NOTFOUND);
    assert_int_equal(snap_name_split(&name, &(struct snap_split){"v1", 1000001}, 1, &err), ERR_USAGE);
    assert_int_equal(snap_name_split(&name, parts, 2, &err), 1);
    assert_int_equal(snap_name_split(&name, parts, 2, &err), 0);
    assert_string_equal(answer(&name), "v1"); /* without a key the active one */
    assert_int_equal(snap_name_forget(&name, "v2", &err), ERR_USAGE);
    assert_int_equal(snap_name_rollback(&name, &err), 1); /* the last step was the split */
    assert_int_equal(name.versions[0].weight, 0);
    assert_string_equal(answer(&name), "v1");
    assert_int_equal(snap_name_split(&name, parts, 2, &err), 1);
    assert_int_equal(snap_name_promote(&name, "v2", &err), 1);
    assert_int_equal(name.versions[0].weight + name.versions[2].weight, 0);

    assert_int_equal(snap_name_pin(&name, "late", true, &err), 1);
    assert_int_equal(snap_name_pin(&name, "late", true, &err), 0);
    assert_int_equal(snap_name_forget(&name, "late", &err), ERR_USAGE);
    assert_int_equal(snap_name_pin(&name, "late", false, &err), 1);
    assert_int_equal(snap_name_forget(&name, "late", &err), 1);
    assert_null(snap_name_find(&name, "late"));
    assert_int_equal(snap_name_forget(&name, "v1", &err), ERR_USAGE); /* what rollback goes to */
    assert_int_equal(snap_name_forget(&name, "v2", &err), ERR_USAGE); /* active */
}

static void test_old_ones_are_forgotten(void **state)
{
    (void)state;
    struct snap_name name = {.name = "oracle", .next = 1};
    char digest[SNAP_SHA256_CHARS + 1];
    for (int i = 0; i < SNAP_VERSIONS_MAX; i++) {
        snprintf(digest, sizeof(digest), "%064x", i);
        assert_int_equal(add(&name, "", digest, i), 1);
    }
    snap_name_promote(&name, "v1", NULL);
    snap_name_pin(&name, "v2", true, NULL);
    assert_int_equal(add(&name, "", DIGEST1, 1000), 1);
    assert_int_equal(name.n_versions, SNAP_VERSIONS_MAX);
    assert_non_null(snap_name_find(&name, "v1"));
    assert_non_null(snap_name_find(&name, "v2"));
    assert_null(snap_name_find(&name, "v3"));
    assert_non_null(snap_name_find(&name, "v65"));
    for (uint32_t i = 0; i < name.n_versions; i++)
        name.versions[i].pinned = true;
    assert_int_equal(add(&name, "", DIGEST2, 2000), ERR_INPUT);
    assert_int_equal(name.n_versions, SNAP_VERSIONS_MAX);
}

/* The documented function, computed here a second way; shares within 3 standard deviations; the same key, the same version; a weight
 * that moves by a tenth moves a tenth of the keys. */
static void test_split_by_key(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    struct snap_name name = {.name = "oracle", .next = 1};
    const struct snap_split parts[] = {{"v1", 70}, {"v2", 20}, {"v3", 10}},
                            later[] = {{"v1", 60}, {"v2", 30}, {"v3", 10}};
    int counts[3] = {0}, moved = 0;
    add(&name, "", DIGEST1, 1);
    add(&name, "", DIGEST2, 2);
    add(&name, "", DIGEST3, 3);
    snap_name_split(&name, parts, 3, NULL);
    struct snap_name other = name;
    snap_name_split(&other, later, 3, NULL);
    for (int i = 0; i < KEYS; i++) {
        char key[32];
        size_t n = (size_t)snprintf(key, sizeof(key), "user-%d", i);
        const struct snap_version *v = snap_name_route(&name, "", key, n);
        uint64_t at = XXH3_64bits(key, n) % 100;
        assert_string_equal(v->version, at < 70 ? "v1" : at < 90 ? "v2" : "v3");
        assert_ptr_equal(v, snap_name_route(&name, "", key, n));
        counts[v - name.versions]++;
        moved += strcmp(v->version, snap_name_route(&other, "", key, n)->version) != 0;
        assert_string_equal(snap_name_route(&name, "v2", key, n)->version, "v2");
    }
    assert_true(abs(counts[0] - 14000) < 195 && abs(counts[1] - 4000) < 170 && abs(counts[2] - 2000) < 128);
    assert_true(abs(moved - 2000) < 128);
    assert_non_null(snap_name_route(&name, "", "", 0)); /* an empty key is a key */
    assert_null(snap_name_route(&name, "v4", "x", 1));
    assert_string_equal(answer(&name), "v1"); /* nothing active, no key: the heaviest */
}

/* ---- in a store ---- */

static struct snap_store *open_store(const struct fixture *f)
{
    struct snap_store *s = NULL;
    struct base_error err = {0};
    if (snap_store_open(f->store, NULL, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static int step_promote(struct snap_name *name, const void *context, struct base_error *err)
{
    return snap_name_promote(name, context, err);
}

static void test_in_a_store(void **state)
{
    const struct fixture *f = *state;
    struct snap_store *s = open_store(f);
    struct snap_name name;
    struct base_error err = {0};
    struct snap_version made = {.file_dtype = "f16", .created_ms = 5, .model_digest = DIGEST1};
    assert_int_equal(snap_names_get(s, "oracle", &name, &err), ERR_NOTFOUND);
    assert_int_equal(snap_names_change(s, "oracle", false, step_promote, "v1", NULL, &err), ERR_NOTFOUND);
    assert_int_equal(snap_names_add(s, "oracle", &made, &name, &err), 1);
    assert_int_equal(snap_names_add(s, "oracle", &made, &name, &err), 0);
    assert_int_equal(snap_names_change(s, "oracle", false, step_promote, "v1", &name, &err), 1);
    assert_int_equal(name.revision, 2);
    assert_int_equal(snap_names_get(s, "oracle", &name, &err), 0);
    assert_true(name.versions[0].active);
    assert_int_equal(snap_names_get(s, "../x", &name, &err), ERR_USAGE);
    /* What cannot be read is not overwritten. */
    fixture_shell("echo nonsense > '%s/names/oracle'", f->store);
    assert_int_equal(snap_names_get(s, "oracle", &name, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "names/oracle"));
    assert_int_equal(snap_names_add(s, "oracle", &made, &name, &err), ERR_INPUT);
    fixture_shell("grep -q nonsense '%s/names/oracle'", f->store);
    snap_store_close(s);
}

/* Builders of different models publish at the same time: every model is a version once, every word is one model's. */
static void test_many_builders(void **state)
{
    enum { BUILDERS = 6, MODELS = 8 };
    const struct fixture *f = *state;
    for (int b = 0; b < BUILDERS; b++) {
        if (fork() > 0)
            continue;
        struct snap_store *s = open_store(f);
        struct snap_name name;
        struct base_error err = {0};
        int failed = 0;
        for (int i = 0; i < MODELS; i++) {
            struct snap_version made = {.file_dtype = "f16", .created_ms = i};
            snprintf(made.model_digest, sizeof(made.model_digest), "%064x",
                     b / 2 * MODELS + i); /* two build the same */
            failed += snap_names_add(s, "oracle", &made, &name, &err) < 0;
        }
        if (failed)
            fprintf(stderr, "%s\n", err.text);
        _exit(failed != 0);
    }
    for (int b = 0, status; b < BUILDERS; b++) {
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    struct snap_store *s = open_store(f);
    struct snap_name name;
    assert_int_equal(snap_names_get(s, "oracle", &name, NULL), 0); /* decoding finds doubles */
    assert_int_equal(name.n_versions, BUILDERS / 2 * MODELS);
    assert_int_equal(name.next, BUILDERS / 2 * MODELS + 1);
    snap_store_close(s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_references),
                                       cmocka_unit_test(test_keys),
                                       cmocka_unit_test(test_records),
                                       cmocka_unit_test(test_largest_record),
                                       cmocka_unit_test(test_life),
                                       cmocka_unit_test(test_old_ones_are_forgotten),
                                       cmocka_unit_test(test_split_by_key),
                                       T(test_in_a_store),
                                       T(test_many_builders)};
    return cmocka_run_group_tests_name("names", tests, NULL, NULL);
}
