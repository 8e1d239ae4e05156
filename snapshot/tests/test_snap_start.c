/* The cold path as a worker lives it: build, restore, damage, full disks, killed builders, Redis in every state. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/snap_file.h"
#include "snapshot/snap_restore.h"
#include "snapshot/snap_store.h"
#include "snapshot/tests/snapshot_fixture.h"

#define START(run, options) struct fixture_run run = fixture_start(options)

static void assert_started(const struct fixture_run *run, bool restored, bool built)
{
    if (run->rc < 0)
        fail_msg("start: %s", run->err.text);
    assert_int_equal(run->restored, restored);
    assert_int_equal(run->built, built);
}

static void assert_store_is_clean(const struct fixture *f, unsigned n_snapshots)
{
    assert_int_equal(fixture_count(f->store, ".building"), 0);
    assert_int_equal(fixture_count(f->store, ".snap"), n_snapshots);
}

/* ---- what must work ---- */

static void test_build_then_restore(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    fixture_capture_begin(f);
    START(cold, &o);
    fixture_capture_end(f);
    assert_started(&cold, false, true);
    assert_int_equal(fixture_captured(f, "snapshot created"), 1);
    assert_non_null(strstr(cold.trace, "\"start\":\"cold\""));
    assert_int_equal(strlen(cold.id), 32);
    assert_int_equal(strlen(cold.digest), 64);
    assert_store_is_clean(f, 1);

    START(warm, &o);
    assert_started(&warm, true, false);
    assert_string_equal(warm.id, cold.id);
    assert_string_equal(warm.digest, cold.digest);
    assert_int_equal(warm.bytes, cold.bytes);
    fixture_assert_same_answers(&cold, &warm);
    assert_non_null(strstr(warm.trace, "\"start\":\"restored\""));
    assert_null(strstr(warm.trace, "cold_load")); /* nothing was parsed, converted or packed */
    assert_null(strstr(warm.trace, "build"));

    /* The first tokens of a plain cold load are the same too, and it leaves the store alone. */
    o.build = SNAP_BUILD_NEVER;
    o.store = NULL;
    START(plain, &o);
    assert_started(&plain, false, false);
    assert_string_equal(plain.id, "");
    fixture_assert_same_answers(&cold, &plain);
    fixture_run_done(&cold);
    fixture_run_done(&warm);
    fixture_run_done(&plain);
}

static void test_directory_gone(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    START(cold, &o);
    assert_started(&cold, false, true);
    fixture_shell("mv '%s' '%s.away'", f->model, f->model);
    static const char *const dtypes[] = {"auto", "f16", NULL};
    for (int i = 0; i < 3; i++) {
        o.dtype = dtypes[i];
        o.model = f->model; /* the path, which leads nowhere now */
        START(by_path, &o);
        assert_started(&by_path, true, false);
        o.model = "oracle";
        START(by_name, &o);
        assert_started(&by_name, true, false);
        fixture_assert_same_answers(&cold, &by_path);
        fixture_assert_same_answers(&cold, &by_name);
        fixture_run_done(&by_path);
        fixture_run_done(&by_name);
    }
    static const struct {
        const char *model, *dtype, *key;
    } others[] = {{"oracle", "f32", NULL},
                  {"oracle", "auto", "blue"},
                  {"delphi", "auto", NULL},
                  {"oracle@v2", "auto", NULL},
                  {"delphi@v1", "auto", NULL}};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        o.model = others[i].model;
        o.dtype = others[i].dtype;
        o.snapshot_key = others[i].key;
        START(none, &o);
        assert_int_equal(none.rc, ERR_NOTFOUND);
        assert_non_null(strstr(none.err.text, others[i].model));
    }
    fixture_run_done(&cold);
}

/* The file alone, without any index, is enough; and the index is there again afterwards. */
static void test_index_gone(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char models[PATH_MAX + 32];
    START(cold, &o);
    assert_started(&cold, false, true);
    snprintf(models, sizeof(models), "%s/index/models", f->store);
    assert_int_equal(fixture_count(models, ""), 4 + 2); /* name and files, f16 and auto; . and .. */
    fixture_shell("rm -r '%s/index'", f->store);
    START(by_dir, &o);
    assert_started(&by_dir, true, false);
    assert_int_equal(fixture_count(models, ""), 4 + 2);
    fixture_shell("rm -r '%s/index' '%s'", f->store, f->model);
    o.model = "oracle";
    START(by_name, &o);
    assert_started(&by_name, true, false);
    fixture_shell("for i in '%s'/index/*/*; do echo garbage > \"$i\"; done", f->store);
    START(garbage, &o);
    assert_started(&garbage, true, false);
    fixture_assert_same_answers(&cold, &garbage);
    fixture_run_done(&cold);
    fixture_run_done(&by_dir);
    fixture_run_done(&by_name);
    fixture_run_done(&garbage);
}

/* Same bytes under another identity: the digest leads to the same snapshot. Other bytes: another snapshot. */
static void test_directory_changes(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    START(cold, &o);
    fixture_shell("touch '%s/config.json'", f->model);
    START(touched, &o);
    assert_started(&touched, true, false);
    assert_string_equal(touched.id, cold.id);
    START(again, &o); /* now its identity is known: nothing of the directory is read */
    assert_started(&again, true, false);
    assert_null(strstr(again.trace, "cold_load"));

    char weights[PATH_MAX + 32];
    snprintf(weights, sizeof(weights), "%s/model.safetensors", f->model);
    fixture_flip(weights, fixture_size(weights) - 11);
    START(changed, &o);
    assert_started(&changed, false, true);
    assert_string_not_equal(changed.id, cold.id);
    assert_store_is_clean(f, 2);
    START(changed_again, &o);
    assert_started(&changed_again, true, false);
    assert_string_equal(changed_again.id, changed.id);
    fixture_assert_same_answers(&changed, &changed_again);

    fixture_shell("rm -r '%s'", f->model); /* the name stands for the newest */
    o.model = "oracle";
    START(by_name, &o);
    assert_started(&by_name, true, false);
    assert_string_equal(by_name.id, changed.id);
    struct fixture_run *all[] = {&cold, &touched, &again, &changed, &changed_again, &by_name};
    for (int i = 0; i < 6; i++)
        fixture_run_done(all[i]);
}

static void test_copy_under_another_name(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char copy[PATH_MAX + 8];
    START(cold, &o);
    snprintf(copy, sizeof(copy), "%s/delphi/", f->root);
    fixture_shell("cp -r '%s' '%s'", f->model, copy);
    o.model = copy;
    START(other, &o);
    assert_started(&other, true, false);
    assert_string_equal(other.id, cold.id);
    fixture_shell("rm -r '%s'", copy);
    o.model = "delphi";
    START(by_name, &o);
    assert_started(&by_name, true, false);
    fixture_run_done(&cold);
    fixture_run_done(&other);
    fixture_run_done(&by_name);
}

/* Every field of the fingerprint that a user can turn makes another snapshot; all live side by side. */
static void test_other_fingerprints(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *dtype, *key, *kernels;
    } variants[] = {{"f16", NULL, "generic"},
                    {"f32", NULL, "generic"},
                    {"bf16", NULL, "generic"},
                    {"f16", "blue", "generic"},
                    {"f16", NULL, NULL}};
    enum { N = sizeof(variants) / sizeof(variants[0]) };
    struct fixture_run runs[N];
    struct snap_start_options o = fixture_options(f);
    for (int i = 0; i < N; i++) {
        o.dtype = variants[i].dtype;
        o.snapshot_key = variants[i].key;
        runs[i] = fixture_start_on(&o, variants[i].kernels);
        assert_int_equal(runs[i].rc, 0);
        if (i == N - 1 && runs[i].restored)
            continue; /* a processor whose best kernels are the generic ones */
        assert_started(&runs[i], false, true);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(runs[k].id, runs[i].id);
    }
    for (int i = 0; i < N; i++) {
        o.dtype = variants[i].dtype;
        o.snapshot_key = variants[i].key;
        struct fixture_run again = fixture_start_on(&o, variants[i].kernels);
        assert_started(&again, true, false);
        assert_string_equal(again.id, runs[i].id);
        fixture_assert_same_answers(&again, &runs[i]);
        fixture_run_done(&again);
        fixture_run_done(&runs[i]);
    }
}

static void test_bad_requests(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *model, *dtype, *redis;
        int rc;
    } cases[] = {
        {"", "auto", NULL, ERR_USAGE},
        {"/", "auto", NULL, ERR_USAGE},
        {"nobody", "auto", NULL, ERR_NOTFOUND},
        {"/nowhere/at/all", "auto", NULL, ERR_NOTFOUND},
        {NULL, "int4", NULL, ERR_USAGE},
        {NULL, "auto", "rediss://localhost", ERR_USAGE},
        {NULL, "auto", "http://localhost", ERR_USAGE},
        {NULL, "auto", "redis://secret@localhost", ERR_USAGE},
        {NULL, "auto", "redis://:secret@localhost:port", ERR_USAGE},
        {NULL, "auto", "redis://localhost/x", ERR_USAGE},
        {NULL, "auto", "redis://localhost?a=b", ERR_USAGE},
        {NULL, "auto", "redis://[::1", ERR_USAGE},
        {NULL, "auto", "redis://", ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct snap_start_options o = fixture_options(f);
        o.model = cases[i].model ? cases[i].model : f->model;
        o.dtype = cases[i].dtype;
        o.redis = cases[i].redis;
        START(run, &o);
        if (run.rc != cases[i].rc)
            fail_msg("case %zu: %d, expected %d: %s", i, run.rc, cases[i].rc, run.err.text);
        assert_null(strstr(run.err.text, "secret"));
    }
    struct snap_start_options o = fixture_options(f);
    o.limits.n_ctx_max = 8;
    START(short_context, &o);
    assert_int_equal(short_context.rc, ERR_USAGE);
    fixture_shell("rm '%s/tokenizer.json'", f->model);
    o = fixture_options(f);
    START(no_tokenizer, &o);
    assert_int_equal(no_tokenizer.rc, ERR_INPUT);
    fixture_shell("echo '{' > '%s/config.json'", f->model);
    START(bad_config, &o);
    assert_int_equal(bad_config.rc, ERR_INPUT);
}

/* ---- damage ---- */

/* One start on a damaged snapshot: refused, set aside, said once, answered by a cold load, built anew. */
static void expect_quarantine(struct fixture *f, const struct fixture_run *cold, const char *damage, const char *said)
{
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX];
    fixture_capture_begin(f);
    START(run, &o);
    fixture_capture_end(f);
    if (run.rc < 0 || run.restored || !run.built)
        fail_msg("%s: rc %d, restored %d, built %d: %s", damage, run.rc, run.restored, run.built, run.err.text);
    if (fixture_captured(f, "snapshot quarantined") != 1 || fixture_captured(f, "warn") != 1)
        fail_msg("%s: quarantined is logged %u times, warnings %u", damage, fixture_captured(f, "snapshot quarantined"),
                 fixture_captured(f, "warn"));
    if (said && fixture_captured(f, said) != 1)
        fail_msg("%s: the log does not say '%s'", damage, said);
    fixture_assert_same_answers(cold, &run);
    fixture_snapshot_path(f, cold->id, ".quarantined.snap", path);
    assert_true(base_file_exists(path));
    fixture_shell("rm -r '%s'", path);
    START(again, &o);
    assert_started(&again, true, false);
    fixture_run_done(&run);
    fixture_run_done(&again);
}

static struct snap_layout layout_of(const char *path)
{
    struct snap_file *file = NULL;
    assert_int_equal(snap_file_open(path, &file, NULL), 0);
    struct snap_layout l = file->layout;
    snap_file_close(file);
    return l;
}

static void test_one_bit_in_every_section(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX], damage[64], said[64];
    START(cold, &o);
    assert_started(&cold, false, true);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    struct snap_layout l = layout_of(path);
    fixture_flip(path, 9);
    expect_quarantine(f, &cold, "format version", "header: format version");
    fixture_flip(path, 50);
    expect_quarantine(f, &cold, "digest", "digest");
    fixture_flip(path, SNAP_HEADER_BYTES + 9);
    expect_quarantine(f, &cold, "chunk table", "digest");
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *s = &l.sections[i];
        if (s->bytes == 0)
            continue; /* choices: a cpu has none */
        const uint64_t at[] = {0, s->bytes / 2, s->bytes - 1, s->stored_bytes - 1};
        snprintf(said, sizeof(said), "section %s: the chunk at", snap_section_name((enum snap_section_kind)i));
        for (int k = 0; k < 4; k++) {
            snprintf(damage, sizeof(damage), "bit in %s", snap_section_name((enum snap_section_kind)i));
            fixture_flip(path, s->offset + at[k]);
            expect_quarantine(f, &cold, damage, said);
        }
    }
    fixture_run_done(&cold);
}

static void test_lengths(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX];
    START(cold, &o);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    const uint64_t bytes = fixture_size(path);
    const uint64_t lengths[] = {0,         1,         4095,        4096, 8192, 2u << 20, bytes / 2, bytes - 4096,
                                bytes - 1, bytes + 1, bytes + 4096};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        assert_int_equal(truncate(path, (off_t)lengths[i]), 0);
        expect_quarantine(f, &cold, "length", NULL);
    }
    fixture_shell("rm '%s' && mkdir '%s'", path, path);
    expect_quarantine(f, &cold, "a directory", "not a regular file");
    fixture_shell("rm '%s' && mkfifo '%s'", path, path);
    expect_quarantine(f, &cold, "a FIFO", "not a regular file");
    fixture_shell("head -c %llu /dev/urandom > '%s'", (unsigned long long)bytes, path);
    expect_quarantine(f, &cold, "noise", "magic");
    fixture_run_done(&cold);
}

/* Rewrites one section's first bytes and makes every checksum right again: what remains is the meaning. */
static void reseal(const char *path, enum snap_section_kind kind, uint64_t at, const void *bytes, size_t n)
{
    struct snap_file *file = NULL;
    assert_int_equal(snap_file_open(path, &file, NULL), 0);
    struct snap_layout l = file->layout;
    uint64_t *hashes = malloc(l.n_chunks * sizeof(*hashes));
    assert_non_null(hashes);
    memcpy(hashes, file->hashes, l.n_chunks * sizeof(*hashes));
    snap_file_close(file);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)(l.sections[kind].offset + at)), n);
    uint8_t *chunk = malloc(SNAP_CHUNK_BYTES);
    assert_non_null(chunk);
    for (uint32_t i = 0; i < l.n_chunks; i++) {
        struct snap_chunk c = snap_layout_chunk(&l, i);
        assert_int_equal(pread(fd, chunk, c.bytes, (off_t)c.offset), c.bytes);
        hashes[i] = snap_chunk_hash(chunk, c.bytes);
    }
    struct base_buffer front;
    char digest[65];
    base_buffer_init(&front, l.front_bytes);
    assert_int_equal(snap_front_encode(&l, hashes, &front, digest, NULL), 0);
    assert_int_equal(pwrite(fd, front.data, front.n, 0), front.n);
    base_buffer_done(&front);
    free(chunk);
    free(hashes);
    close(fd);
}

/* Checksums right, contents wrong: the plan, the proof, the tokenizer and the manifest are checked for what they say. */
static void test_wrong_but_sealed(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX];
    START(cold, &o);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    static const uint8_t junk[64] = {0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10, 1, 2, 3, 4, 5, 6, 7, 8};
    static const struct {
        const char *name;
        enum snap_section_kind kind;
        uint64_t at;
        size_t n;
        const char *said;
    } cases[] = {
        {"manifest", SNAP_MANIFEST, 0, 16, "manifest"},
        {"plan head", SNAP_PLAN, 0, 16, "plan"},
        {"plan tensors", SNAP_PLAN, 2000, 16, "plan"},
        {"proof counts", SNAP_PROOF, 0, 8, "proof"},
        {"proof logprob", SNAP_PROOF, 8 + 4 * 4 + 4, 2, "proof: token 0"},
        {"tokenizer head", SNAP_TOKENIZER, 0, 16, "tokenizer"},
        {"weights", SNAP_WEIGHTS, 0, 64, "proof"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        reseal(path, cases[i].kind, cases[i].at, junk, cases[i].n);
        expect_quarantine(f, &cold, cases[i].name, cases[i].said);
    }
    fixture_run_done(&cold);
}

/* Another snapshot under this one's id; and an index that leads to a sound snapshot of something else. */
static void test_wrong_snapshot(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX], other_path[PATH_MAX];
    START(cold, &o);
    o.dtype = "f32";
    START(other, &o);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    fixture_snapshot_path(f, other.id, ".snap", other_path);
    fixture_shell("cp '%s' '%s'", other_path, path);
    expect_quarantine(f, &cold, "another's file", "another snapshot");

    fixture_shell("cd '%s/index/models' && for i in *; do echo 'id %s' > $i; done", f->store, other.id);
    o.dtype = "auto";
    fixture_capture_begin(f);
    START(misled, &o);
    fixture_capture_end(f);
    assert_started(&misled, true, false); /* by the digest, which it learnt from the same index */
    assert_string_equal(misled.id, cold.id);
    assert_int_equal(fixture_captured(f, "quarantined"), 0);
    assert_int_equal(fixture_captured(f, "does not fit: dtype is 'f32'"), 0); /* auto: told by the files' dtype */
    assert_int_equal(fixture_captured(f, "dtype is f32, the model's files are f16"), 1);
    assert_true(base_file_exists(other_path));
    fixture_run_done(&cold);
    fixture_run_done(&other);
    fixture_run_done(&misled);
}

/* With the directory gone there is nothing to fall back on: the answer says why, and not an older model under that
 * name. */
static void test_damaged_and_directory_gone(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX], weights[PATH_MAX + 32];
    START(old, &o);
    snprintf(weights, sizeof(weights), "%s/model.safetensors", f->model);
    fixture_flip(weights, fixture_size(weights) - 11);
    START(new, &o);
    assert_started(&new, false, true);
    fixture_shell("rm -r '%s'", f->model);
    fixture_snapshot_path(f, new.id, ".snap", path);
    fixture_flip(path, fixture_size(path) - 5000);
    START(first, &o);
    assert_int_equal(first.rc, ERR_CORRUPT);
    assert_non_null(strstr(first.err.text, "checksum"));
    START(second, &o);
    assert_int_equal(second.rc, ERR_NOTFOUND);
    assert_non_null(strstr(second.err.text, "quarantined"));
    fixture_run_done(&old);
    fixture_run_done(&new);
}

/* ---- disks ---- */

static void expect_not_created(struct fixture *f, const struct snap_start_options *o, const char *said)
{
    fixture_capture_begin(f);
    START(run, o);
    fixture_capture_end(f);
    assert_started(&run, false, false);
    assert_string_equal(run.id, "");
    assert_int_equal(fixture_captured(f, "snapshot not created"), 1);
    if (fixture_captured(f, said) != 1)
        fail_msg("the log does not say '%s'", said);
    fixture_run_done(&run);
    assert_store_is_clean(f, 0);
}

static void test_full_disk(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    fixture_shell("mkdir '%s'", f->store);
    if (mount("none", f->store, "tmpfs", 0, "size=2m") < 0) {
        printf("not on a real full disk: tmpfs cannot be mounted (%s)\n", strerror(errno));
        skip();
    }
    expect_not_created(f, &o, "bytes are needed");
    fixture_shell("mount -o remount,size=64m '%s'", f->store);
    START(room, &o);
    umount2(f->store, MNT_DETACH);
    assert_started(&room, false, true);
    fixture_run_done(&room);
}

static void test_file_size_limit(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct rlimit before, small = {.rlim_cur = 3u << 20};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_not_created(f, &o, "bytes are needed");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    START(run, &o);
    assert_started(&run, false, true);
    fixture_run_done(&run);
}

static void test_store_is_no_directory(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    fixture_shell("touch '%s'", f->store);
    fixture_capture_begin(f);
    START(run, &o);
    fixture_capture_end(f);
    assert_started(&run, false, false);
    assert_int_equal(fixture_captured(f, "store not usable"), 1);
    fixture_run_done(&run);
}

/* ---- several builders ---- */

/* In a child process: exits with 1 built, 2 restored, 3 served cold, 4 failed. */
static pid_t start_in_child(const struct snap_start_options *o)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 2);
    START(run, o);
    _exit(run.rc < 0 ? 4 : run.built ? 1 : run.restored ? 2 : 3);
}

static int wait_for(pid_t pid)
{
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_builders_at_once(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    enum { N = 5 };
    for (int round = 0; round < 4; round++) {
        pid_t pids[N];
        int n_built = 0;
        fixture_shell("rm -rf '%s'", f->store);
        for (int i = 0; i < N; i++)
            pids[i] = start_in_child(&o);
        for (int i = 0; i < N; i++) {
            int how = wait_for(pids[i]);
            assert_in_range(how, 1, 3);
            n_built += how == 1;
        }
        assert_int_equal(n_built, 1);
        assert_store_is_clean(f, 1);
        assert_int_equal(wait_for(start_in_child(&o)), 2);
    }
}

static bool seen_lock(const struct fixture *f)
{
    char dir[PATH_MAX + 16];
    snprintf(dir, sizeof(dir), "%s/locks", f->store);
    return fixture_count(dir, ".lock") > 0;
}
static bool seen_building(const struct fixture *f)
{
    return fixture_count(f->store, ".building") > 0;
}
static bool seen_snapshot(const struct fixture *f)
{
    return fixture_count(f->store, ".snap") > 0;
}
static bool seen_index(const struct fixture *f)
{
    char dir[PATH_MAX + 16];
    snprintf(dir, sizeof(dir), "%s/index/models", f->store);
    return fixture_count(dir, "") > 2;
}

/* kill -9 when it has come so far: what is visible is whole, the next start cleans up and goes on. */
static void test_builder_killed(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    static bool (*const points[])(const struct fixture *) = {seen_lock, seen_building, seen_snapshot, seen_index};
    unsigned n_leftovers = 0;
    for (int round = 0; round < 40; round++) {
        fixture_shell("rm -rf '%s'", f->store);
        pid_t pid = start_in_child(&o);
        while (!points[round % 4](f) && waitpid(pid, NULL, WNOHANG) == 0)
            usleep(100);
        usleep((useconds_t)(round / 4) * 300);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        n_leftovers += fixture_count(f->store, ".building");
        unsigned n_whole = fixture_count(f->store, ".snap");
        START(next, &o);
        assert_started(&next, n_whole == 1, n_whole == 0);
        if (next.built)
            assert_store_is_clean(f, 1);
        fixture_run_done(&next);
    }
    assert_true(n_leftovers > 0); /* else this test met no builder in the middle */
}

/* ---- Redis ---- */

static void redis_cli(const struct fixture_redis *r, const char *command)
{
    fixture_shell("redis-cli -p %d -n 3 %s >/dev/null", r->port, command);
}

static void test_redis(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_start_options o = fixture_options(f);
    fixture_redis_start(&r, f, 0, NULL);
    o.redis = r.url;
    fixture_capture_begin(f);
    START(cold, &o);
    START(warm, &o);
    fixture_capture_end(f);
    assert_started(&cold, false, true);
    assert_started(&warm, true, false);
    assert_int_equal(fixture_captured(f, "warn"), 0);
    fixture_assert_same_answers(&cold, &warm);
    fixture_shell("test $(redis-cli -p %d -n 3 exists rouse:snapshot:%s) = 1", r.port, cold.id);
    fixture_shell("test -z \"$(redis-cli -p %d -n 3 keys 'rouse:lease:*')\"", r.port); /* given back */

    /* By name, with the file index gone: Redis alone leads there. */
    fixture_shell("rm -r '%s/index'; mv '%s' '%s.away'", f->store, f->model, f->model);
    START(by_redis, &o);
    assert_started(&by_redis, true, false);
    assert_int_equal(fixture_count(f->store, "index"), 0); /* it was told: no need to look further, or to repair */

    static const char *const accidents[] = {
        "flushall",
        "eval \"for _, k in ipairs(redis.call('keys', 'rouse:*')) do redis.call('del', k) redis.call('lpush', k, 'x') "
        "end\" 0",
        "eval \"for _, k in ipairs(redis.call('keys', 'rouse:model:*')) do redis.call('del', k) redis.call('set', k, "
        "'x') end\" 0",
        "eval \"for _, k in ipairs(redis.call('keys', 'rouse:snapshot:*')) do redis.call('set', k, 'x') end\" 0",
        "eval \"for _, k in ipairs(redis.call('keys', 'rouse:model:*')) do for _, h in ipairs(redis.call('hkeys', k)) "
        "do "
        "redis.call('hset', k, h, 'ffffffffffffffffffffffffffffffff') end end\" 0",
        "eval \"for _, k in ipairs(redis.call('keys', 'rouse:model:*')) do for _, h in ipairs(redis.call('hkeys', k)) "
        "do "
        "redis.call('hset', k, h, '../../../etc/passwd') end end\" 0",
        "script flush",
    };
    for (size_t i = 0; i < sizeof(accidents) / sizeof(accidents[0]); i++) {
        redis_cli(&r, accidents[i]);
        fixture_capture_begin(f);
        START(after, &o);
        fixture_capture_end(f);
        if (after.rc < 0 || !after.restored)
            fail_msg("accident %zu: %s", i, after.err.text);
        assert_true(fixture_captured(f, "warn") <= 1);
        fixture_assert_same_answers(&cold, &after);
        fixture_run_done(&after);
        fixture_capture_begin(f);
        START(repaired, &o);
        fixture_capture_end(f);
        assert_started(&repaired, true, false);
        if (fixture_captured(f, "warn") != 0)
            fail_msg("accident %zu: not repaired", i);
        fixture_run_done(&repaired);
    }

    fixture_redis_stop(&r);
    fixture_capture_begin(f);
    uint64_t began = base_clock_mono_ns();
    START(away, &o);
    uint64_t took_ms = (base_clock_mono_ns() - began) / 1000000;
    fixture_capture_end(f);
    assert_started(&away, true, false);
    assert_int_equal(fixture_captured(f, "warn"), 1);
    assert_int_equal(fixture_captured(f, "index=redis"), 1);
    assert_true(took_ms < 5000);

    fixture_shell("rm -r '%s' && mv '%s.away' '%s'", f->store, f->model, f->model); /* away at the first start */
    fixture_capture_begin(f);
    START(first, &o);
    fixture_capture_end(f);
    assert_started(&first, false, true);
    assert_int_equal(fixture_captured(f, "warn"), 1);
    struct fixture_run *all[] = {&cold, &warm, &by_redis, &away, &first};
    for (int i = 0; i < 5; i++)
        fixture_run_done(all[i]);
}

/* Two nodes, that is two stores, one Redis: one builds at a time, each ends with its own file. */
static void test_redis_lease(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_start_options a = fixture_options(f), b = a;
    char other_store[PATH_MAX + 8];
    snprintf(other_store, sizeof(other_store), "%s.b", f->store);
    fixture_redis_start(&r, f, 0, "open sesame");
    a.redis = b.redis = r.url;
    b.store = other_store;
    snprintf(r.url, sizeof(r.url), "redis://default:open%%20sesame@127.0.0.1:%d", r.port);
    int how_a = 0, how_b = 0;
    for (int round = 0; round < 3 && how_a + how_b != 4; round++) {
        fixture_shell("rm -rf '%s' '%s'; redis-cli -p %d -a 'open sesame' --no-auth-warning flushall >/dev/null",
                      f->store, other_store, r.port);
        pid_t pid_a = start_in_child(&a), pid_b = start_in_child(&b);
        how_a = wait_for(pid_a);
        how_b = wait_for(pid_b);
        assert_true(how_a == 1 || how_a == 3);
        assert_true(how_b == 1 || how_b == 3);
        assert_true(how_a == 1 || how_b == 1);
    }
    assert_int_equal(how_a + how_b, 4); /* one built, one served meanwhile */
    wait_for(start_in_child(how_a == 1 ? &b : &a));
    assert_int_equal(wait_for(start_in_child(&a)), 2);
    assert_int_equal(wait_for(start_in_child(&b)), 2);
    fixture_redis_stop(&r);
}

/* A restore asks once and tells once, on a server that knows nothing, not even the scripts. */
static void test_redis_round_trips(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_start_options o = fixture_options(f);
    START(cold, &o);
    assert_started(&cold, false, true);
    fixture_redis_start(&r, f, 0, NULL);
    o.redis = r.url;
    for (unsigned calls = 2; calls > 0; calls--) { /* 2: empty; 1: told by the first */
        redis_cli(&r, "config resetstat");
        START(warm, &o);
        assert_started(&warm, true, false);
        fixture_run_done(&warm);
        fixture_shell("redis-cli -p %d info commandstats > '%s/stats'; grep -q 'cmdstat_eval:calls=%u,' '%s/stats' && "
                      "! grep -qE 'cmdstat_(evalsha|script|scan|keys):' '%s/stats'",
                      r.port, f->root, calls, f->root, f->root);
    }
    fixture_redis_stop(&r);
    fixture_run_done(&cold);
}

/* A server that accepts and says nothing: one wait, not one for the question and one for the telling. */
static void test_redis_silent(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_start_options o = fixture_options(f);
    START(cold, &o);
    fixture_redis_start(&r, f, 0, NULL);
    struct snap_store *store = NULL;
    struct snap_index_entry entry;
    const struct snap_index_query q = {.name = "oracle", .files = "", .env = "00000000000000000000000000000000"};
    assert_int_equal(snap_store_open(f->store, r.url, &store, NULL), 0);
    kill(r.pid, SIGSTOP);
    assert_false(snap_store_find(store, SNAP_STORE_REDIS, &q, &entry));
    assert_true(snap_store_index_away(store, SNAP_STORE_REDIS));
    assert_false(snap_store_index_away(store, SNAP_STORE_FILES));
    o.redis = r.url;
    START(warm, &o);
    assert_started(&warm, true, false);
    kill(r.pid, SIGCONT);
    base_clock_sleep_ms(1100);
    assert_false(snap_store_find(store, SNAP_STORE_REDIS, &q, &entry));
    assert_false(snap_store_index_away(store, SNAP_STORE_REDIS));
    snap_store_close(store);
    fixture_shell("test $(redis-cli -p %d -n 3 dbsize) = 0", r.port); /* not told: it would have been waited for */
    fixture_redis_stop(&r);
    fixture_run_done(&cold);
    fixture_run_done(&warm);
}

/* In the place of libc's: while a snapshot is synced, somebody else takes the lease. */
static int thief_port;

int fsync(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = '\0';
    if (thief_port && strstr(path, ".building"))
        fixture_shell("redis-cli -p %d -n 3 eval \"for _, k in ipairs(redis.call('keys', 'rouse:lease:*')) do "
                      "redis.call('set', k, '99:thief', 'px', 60000) end\" 0 >/dev/null",
                      thief_port);
    return (int)syscall(SYS_fsync, fd);
}

static void test_redis_lease_lost(void **state)
{
    struct fixture *f = *state;
    struct fixture_redis r;
    struct snap_start_options o = fixture_options(f);
    fixture_redis_start(&r, f, 0, NULL);
    o.redis = r.url;
    thief_port = r.port;
    fixture_capture_begin(f);
    START(robbed, &o);
    fixture_capture_end(f);
    thief_port = 0;
    assert_started(&robbed, false, false);
    assert_int_equal(fixture_captured(f, "was lost: another worker builds"), 1);
    assert_store_is_clean(f, 0);
    fixture_shell("test $(redis-cli -p %d -n 3 --raw keys 'rouse:lease:*' | wc -l) = 1", r.port); /* the thief's */
    fixture_redis_stop(&r);
    fixture_run_done(&robbed);
}

/* ---- tools ---- */

static int build(struct gpu_device *device, const struct snap_start_options *o, bool force,
                 struct schema_snapshot_record *out_record, bool *out_built)
{
    struct snap_admin_built made;
    int rc = snap_admin_build(device, o, &(struct snap_admin_build){.force = force}, &made, NULL);
    if (rc == 0) {
        *out_record = made.record;
        *out_built = made.built;
    }
    return rc;
}

static void test_admin(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct gpu_device *device = fixture_device(NULL);
    struct schema_snapshot_record record, found, *list = NULL;
    struct snap_store *store = NULL;
    struct base_error err = {0};
    bool built = false;
    size_t n = 0;
    uint64_t bytes = 0;
    assert_int_equal(build(device, &o, false, &record, &built), 0);
    assert_true(built);
    assert_int_equal(build(device, &o, false, &record, &built), 0);
    assert_false(built);
    assert_int_equal(build(device, &o, true, &record, &built), 0);
    assert_true(built);
    START(warm, &o);
    assert_started(&warm, true, false);
    assert_string_equal(warm.id, record.id);
    fixture_run_done(&warm);
    o.dtype = "f32";
    base_clock_sleep_ms(5);
    struct schema_snapshot_record newer;
    assert_int_equal(build(device, &o, false, &newer, &built), 0);

    assert_int_equal(snap_store_open(f->store, NULL, &store, NULL), 0);
    assert_int_equal(snap_admin_list(store, &list, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_string_equal(list[0].id, newer.id);
    assert_string_equal(list[1].id, record.id);
    assert_int_equal(list[1].state, SCHEMA_SNAPSHOT_READY);
    assert_string_equal(list[1].name, "oracle");
    assert_int_equal(list[1].bytes, record.bytes);
    free(list);

    char path[PATH_MAX], copy[PATH_MAX + 32], prefix[9] = "";
    fixture_snapshot_path(f, record.id, ".snap", path);
    memcpy(prefix, record.id, 8);
    static const char *const unknown[] = {"", "ora", "zzzz", "../oracle", "/nowhere/x.snap"};
    const char *const known[] = {record.id, prefix, path};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(snap_admin_find(store, known[i], &found, NULL), 0);
        assert_string_equal(found.id, record.id);
    }
    assert_int_equal(snap_admin_find(store, "oracle", &found, NULL), 0);
    assert_string_equal(found.id, newer.id);
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
        assert_int_equal(snap_admin_find(store, unknown[i], &found, NULL), ERR_NOTFOUND);

    struct base_buffer text, json_text;
    struct base_json json;
    base_buffer_init(&text, 1 << 20);
    base_buffer_init(&json_text, 1 << 20);
    base_json_init(&json, &json_text);
    assert_int_equal(snap_admin_show(store, record.id, device, &json, &text, NULL), 0);
    assert_non_null(strstr(base_buffer_cstr(&text), "x86-64"));
    assert_non_null(strstr(base_buffer_cstr(&json_text), "\"layers.4.mlp.dense_4h_to_h.weight\""));
    base_buffer_done(&text);
    base_buffer_done(&json_text);

    assert_int_equal(snap_admin_verify(store, record.id, device, false, &bytes, NULL), 0);
    assert_true(bytes > 3000000);
    snprintf(copy, sizeof(copy), "%s/copy.snap", f->root);
    fixture_shell("cp '%s' '%s'", path, copy);
    assert_int_equal(snap_admin_verify(store, copy, device, false, &bytes, NULL), 0);
    struct gpu_device *generic = fixture_device("generic");
    int rc = snap_admin_verify(store, copy, generic, false, &bytes, &err);
    if (rc < 0) {
        assert_int_equal(rc, ERR_INPUT);
        assert_non_null(strstr(err.text, "arch is"));
    }
    gpu_close(generic);
    fixture_flip(copy, fixture_size(copy) - 4096);
    assert_int_equal(snap_admin_verify(store, copy, NULL, false, &bytes, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "section weights: the chunk at"));
    assert_int_equal(snap_admin_remove(store, copy, false, &found, NULL), ERR_USAGE);

    fixture_flip(path, fixture_size(path) - 4096);
    o.dtype = "f16";
    START(rebuilt, &o);
    assert_started(&rebuilt, false, true);
    fixture_run_done(&rebuilt);
    assert_int_equal(snap_admin_list(store, &list, &n, NULL), 0);
    assert_int_equal(n, 3);
    free(list);
    assert_int_equal(snap_admin_remove(store, record.id, false, &found, NULL), 0);
    assert_int_equal(found.state, SCHEMA_SNAPSHOT_READY);
    assert_int_equal(snap_admin_remove(store, record.id, false, &found, NULL), 0);
    assert_int_equal(found.state, SCHEMA_SNAPSHOT_QUARANTINED);
    assert_int_equal(snap_admin_remove(store, record.id, false, &found, NULL), ERR_NOTFOUND);
    assert_int_equal(snap_admin_remove(store, "oracle", false, &found, NULL), 0);
    char index[PATH_MAX + 32];
    snprintf(index, sizeof(index), "%s/index/models", f->store);
    assert_int_equal(fixture_count(index, ""), 2);
    snprintf(index, sizeof(index), "%s/index/records", f->store);
    assert_int_equal(fixture_count(index, ""), 2);
    snap_store_close(store);
    gpu_close(device);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_build_then_restore), T(test_directory_gone),           T(test_index_gone),
        T(test_directory_changes),  T(test_copy_under_another_name),  T(test_other_fingerprints),
        T(test_bad_requests),       T(test_one_bit_in_every_section), T(test_lengths),
        T(test_wrong_but_sealed),   T(test_wrong_snapshot),           T(test_damaged_and_directory_gone),
        T(test_full_disk),          T(test_file_size_limit),          T(test_store_is_no_directory),
        T(test_builders_at_once),   T(test_builder_killed),           T(test_admin),
    };
    const struct CMUnitTest redis_tests[] = {T(test_redis), T(test_redis_lease), T(test_redis_round_trips),
                                             T(test_redis_silent), T(test_redis_lease_lost)};
    if (argc > 1 && strcmp(argv[1], "redis") == 0) {
        fixture_redis_require();
        return cmocka_run_group_tests_name("snap_start on redis-server", redis_tests, NULL, NULL);
    }
    return cmocka_run_group_tests_name("snap_start", tests, NULL, NULL);
}
