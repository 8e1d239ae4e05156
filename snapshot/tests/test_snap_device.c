/* Snapshots of a device whose memory cannot be addressed, on a fake one: built by reading back, restored through the ring while
 * the device is still being opened, proven while later chunks arrive; and everything that can break on the way. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/snap_fill.h"
#include "snapshot/snap_restore.h"
#include "snapshot/tests/big_model.h"
#include "snapshot/tests/fake_device.h"
#include "snapshot/tests/snapshot_fixture.h"

/* ---- starts ---- */

static void assert_started(const struct fixture_run *run, bool restored, bool built)
{
    if (run->rc < 0)
        fail_msg("start: %s", run->err.text);
    assert_int_equal(run->restored, restored);
    assert_int_equal(run->built, built);
}

/* A start on a fake that behaves as `like` does (NULL: well); *out_seen is what happened to it. */
static struct fixture_run start(const struct snap_start_options *o, const struct fake_device *like,
                                struct fake_device *out_seen)
{
    struct fake_device *fake = fake_open();
    if (like) {
        fake->ready_ms = like->ready_ms;
        fake->copy_ms = like->copy_ms;
        fake->take_ms = like->take_ms;
        fake->n_quick_takes = like->direct ? 0 : fake->n_quick_takes;
        fake->fail_put = like->fail_put;
        fake->fail_new = like->fail_new;
        fake->fail_warm_up = like->fail_warm_up;
        fake->direct = like->direct;
        fake->direct_fails = like->direct_fails;
        fake->direct_garbles = like->direct_garbles;
        fake->choices = like->choices ? like->choices : fake->choices;
    }
    struct fixture_run run = fixture_start_device(o, &fake->base);
    if (out_seen)
        memcpy(out_seen, fake, sizeof(*fake)); /* nobody uses it any more */
    fake_close(fake);
    return run;
}

static void test_build_then_restore(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct fake_device seen;
    struct fixture_run cold = start(&o, NULL, &seen);
    assert_started(&cold, false, true);
    assert_int_equal(seen.n_warm_ups, 1);
    assert_int_equal(seen.n_exports, 1);
    assert_true(seen.n_reads > 0);

    struct fixture_run warm = start(&o, NULL, &seen);
    assert_started(&warm, true, false);
    assert_string_equal(warm.id, cold.id);
    assert_int_equal(seen.n_imports, 1);
    assert_int_equal(seen.n_warm_ups, 0);
    assert_int_equal(seen.n_reads, 0);
    fixture_assert_same_answers(&cold, &warm);
    assert_non_null(strstr(warm.trace, "\"choices_s\""));
    assert_non_null(strstr(warm.trace, "\"verify_s\""));
    assert_null(strstr(warm.trace, "cold_load"));

    /* auto is the device's word, not the files'; and that leads to it by name too. */
    fixture_shell("rm -r '%s'", f->model);
    o.model = "oracle";
    struct fixture_run by_name = start(&o, NULL, NULL);
    assert_started(&by_name, true, false);
    o.dtype = model_dtype_name(FAKE_AUTO_DTYPE);
    struct fixture_run by_type = start(&o, NULL, NULL);
    assert_started(&by_type, true, false);
    assert_string_equal(by_type.id, cold.id);
    fixture_shell("rm -r '%s/index'", f->store);
    o.dtype = "auto";
    struct fixture_run by_file = start(&o, NULL, NULL);
    assert_started(&by_file, true, false);
    o.dtype = "f16";
    struct fixture_run other_type = start(&o, NULL, NULL);
    assert_int_equal(other_type.rc, ERR_NOTFOUND);
    struct fixture_run *all[] = {&cold, &warm, &by_name, &by_type, &by_file};
    for (int i = 0; i < 5; i++)
        fixture_run_done(all[i]);
}

/* While the device is being opened the ring fills; the first layer computes before the last chunk was read. */
static void test_overlap(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct fake_device seen;
    big_model_make(f);
    struct fixture_run cold = start(&o, NULL, NULL);
    assert_started(&cold, false, true);
    const struct fake_device slow_device = {.ready_ms = 300};
    struct fixture_run warm = start(&o, &slow_device, &seen);
    assert_started(&warm, true, false);
    assert_int_equal(seen.n_early_takes, BIG_MODEL_CHUNKS);
    assert_int_equal(seen.n_puts, BIG_MODEL_CHUNKS);
    fixture_assert_same_answers(&cold, &warm);

    const struct fake_device slow_disk = {.take_ms = 1000, .copy_ms = 2};
    struct fixture_run late = start(&o, &slow_disk, &seen);
    assert_started(&late, true, false);
    assert_int_equal(seen.n_puts, BIG_MODEL_CHUNKS);
    if (seen.puts_at_first_gate >= BIG_MODEL_CHUNKS)
        fail_msg("the first layer waited for all chunks");
    fixture_assert_same_answers(&cold, &late);
    fixture_run_done(&cold);
    fixture_run_done(&warm);
    fixture_run_done(&late);
}

/* A ring that is smaller than the file, and a device that comes late: no slot is missing, no chunk twice. */
static void test_small_rings(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    char path[PATH_MAX];
    big_model_make(f);
    struct fixture_run cold = start(&o, NULL, NULL);
    assert_started(&cold, false, true);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    for (uint32_t slots = 1; slots <= 5; slots++) {
        struct fake_device *fake = fake_open();
        struct snap_file *file = NULL;
        struct snap_fill *fill = NULL;
        struct gpu_model *model = NULL;
        struct model_config config;
        const struct gpu_limits limits = {
            .n_tokens_max = 16, .n_seqs_max = 1, .n_logits_max = 1, .n_ctx_max = 16, .n_blocks = 1};
        fake->ready_ms = 50;
        fake->copy_ms = 1;
        assert_int_equal(snap_file_open(path, &file, NULL), 0);
        assert_int_equal(model_config_read(f->model, &config, NULL), 0);
        uint8_t *tokenizer = aligned_alloc(SNAP_PAGE_BYTES, file->layout.sections[SNAP_TOKENIZER].stored_bytes);
        const struct snap_fill_options options = {
            .device = &fake->base,
            .file = file,
            .plan = {.way = RESTORE_RING, .direct = true, .uring = slots % 3 != 0, .depth = slots % 3 != 0 ? 16 : 8},
            .tokenizer = tokenizer,
            .ring_slots = slots};
        assert_int_equal(snap_fill_begin(&options, &fill, NULL), 0);
        assert_int_equal(gpu_model_new(&fake->base, &config, FAKE_AUTO_DTYPE, &limits, &model, NULL), 0);
        snap_fill_model(fill, model);
        assert_int_equal(snap_fill_wait_tokenizer(fill, NULL), 0);
        assert_int_equal(snap_fill_gate(fill, gpu_model_plan(model)->weights_bytes, NULL), 0);
        assert_int_equal(snap_fill_end(fill, slots % 2, NULL), 0); /* giving up comes too late to matter */
        assert_true(fake->n_early_takes <= slots);
        assert_int_equal(fake->n_puts, BIG_MODEL_CHUNKS);
        assert_int_equal(fake->put_mask, (1 << BIG_MODEL_CHUNKS) - 1);
        for (uint32_t i = file->layout.sections[SNAP_WEIGHTS].first_chunk; i < file->layout.n_chunks; i++) {
            struct snap_chunk c = snap_layout_chunk(&file->layout, i);
            uint8_t *bytes = malloc(c.bytes);
            assert_int_equal(gpu_model_read(model, c.at, c.bytes, bytes, NULL), 0);
            assert_true(snap_chunk_hash(bytes, c.bytes) == file->hashes[i]);
            free(bytes);
        }
        gpu_model_free(model);
        free(tokenizer);
        snap_file_close(file);
        fake_close(fake);
    }
    fixture_run_done(&cold);
}

/* The file's pages leave the page cache: else it is copied from there. False: they do not (tmpfs). */
static bool drop_cache(const char *path)
{
    struct snap_file *file = NULL;
    bool cached = false;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    fsync(fd);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
    assert_int_equal(snap_file_open(path, &file, NULL), 0);
    for (uint32_t i = file->layout.sections[SNAP_WEIGHTS].first_chunk; i < file->layout.n_chunks; i++)
        cached = cached || snap_file_is_cached(file, i);
    bool direct = file->fd_direct >= 0;
    snap_file_close(file);
    return direct && !cached;
}

/* Straight from storage: verified by the device, and what it cannot bring comes through the ring. A file is condemned by that one
 * alone. */
static void test_direct(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct fake_device seen;
    char path[PATH_MAX];
    big_model_make(f);
    struct fixture_run cold = start(&o, NULL, NULL);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    if (!drop_cache(path)) {
        printf("skipped: /tmp keeps a file's pages, or knows no direct reads\n");
        fixture_run_done(&cold);
        skip();
    }
    static const struct {
        const char *name;
        struct fake_device like;
        unsigned n_warnings;
    } cases[] = {{"all of it", {.direct = true, .take_ms = 300}, 0},
                 {"a read fails", {.direct = true, .take_ms = 300, .direct_fails = 2}, 1},
                 {"a byte changes", {.direct = true, .take_ms = 300, .direct_garbles = 1}, 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_true(drop_cache(path));
        fixture_capture_begin(f);
        struct fixture_run warm = start(&o, &cases[i].like, &seen);
        fixture_capture_end(f);
        assert_started(&warm, true, false);
        fixture_assert_same_answers(&cold, &warm);
        assert_int_equal(fixture_captured(f, "read through memory"), cases[i].n_warnings);
        assert_true(seen.n_direct > 0 && seen.n_puts > 0); /* the first chunks were on their way to the ring */
        if (cases[i].n_warnings == 0)
            assert_int_equal(seen.n_direct + seen.n_puts, BIG_MODEL_CHUNKS);
        fixture_run_done(&warm);
    }
    fixture_flip(path, fixture_size(path) - 5000);
    assert_true(drop_cache(path));
    fixture_capture_begin(f);
    struct fixture_run damaged = start(&o, &cases[0].like, NULL);
    fixture_capture_end(f);
    assert_started(&damaged, false, true);
    assert_int_equal(fixture_captured(f, "snapshot quarantined"), 1);
    assert_int_equal(fixture_captured(f, "section weights: the chunk at"), 1);
    fixture_run_done(&damaged);
    fixture_run_done(&cold);
}

/* ---- damage ---- */

static void test_damaged_chunk(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct fake_device seen;
    char path[PATH_MAX];
    big_model_make(f);
    struct fixture_run cold = start(&o, NULL, NULL);
    fixture_snapshot_path(f, cold.id, ".snap", path);
    static const struct {
        const char *name;
        uint32_t chunk;
        struct fake_device like;
    } cases[] = {{"first", 0, {.copy_ms = 1}},
                 {"in the middle", 5, {.copy_ms = 1}},
                 {"last", BIG_MODEL_CHUNKS - 1, {.copy_ms = 1}},
                 {"last, while the first layers compute", BIG_MODEL_CHUNKS - 1, {.take_ms = 100}},
                 {"while the device is not ready", 2, {.ready_ms = 200}}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct snap_file *file = NULL;
        assert_int_equal(snap_file_open(path, &file, NULL), 0);
        uint64_t at = file->layout.sections[SNAP_WEIGHTS].offset + (uint64_t)cases[i].chunk * SNAP_CHUNK_BYTES;
        snap_file_close(file);
        fixture_flip(path, at + 77);
        o.model = "oracle"; /* no way back to the directory: what comes is the restore's own answer */
        fixture_capture_begin(f);
        struct fixture_run run = start(&o, &cases[i].like, &seen);
        fixture_capture_end(f);
        if (run.rc != ERR_CORRUPT || !strstr(run.err.text, "section weights: the chunk at"))
            fail_msg("%s: %d %s", cases[i].name, run.rc, run.err.text);
        assert_int_equal(fixture_captured(f, "snapshot quarantined"), 1);
        assert_int_equal(seen.put_mask >> cases[i].chunk & 1, 0);
        assert_int_equal(seen.n_models, 0);
        fixture_shell("rm '%s'/*.quarantined.snap", f->store);
        o.model = f->model;
        struct fixture_run rebuilt = start(&o, NULL, NULL);
        assert_started(&rebuilt, false, true);
        fixture_assert_same_answers(&cold, &rebuilt);
        fixture_run_done(&rebuilt);
    }
    fixture_run_done(&cold);
}

/* What is the device's fault leaves the file alone; what it says of its choices does not. */
static void test_device_fails(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    static const struct {
        const char *name, *said;
        struct fake_device like;
        int rc;
    } cases[] = {{"no context", "no context", {.fail_new = true}, ERR_SERVICE},
                 {"first copy", "the link is down", {.fail_put = 1}, ERR_SERVICE},
                 {"first copy of those that waited", "the link is down", {.fail_put = 1, .ready_ms = 100}, ERR_SERVICE},
                 {"a copy in the middle", "the link is down", {.fail_put = 5, .take_ms = 20}, ERR_SERVICE},
                 {"last copy", "the link is down", {.fail_put = BIG_MODEL_CHUNKS}, ERR_SERVICE},
                 {"choices of another build", "choices", {.choices = "other choices"}, ERR_CORRUPT}};
    big_model_make(f);
    struct fixture_run cold = start(&o, NULL, NULL);
    o.model = "oracle";
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fake_device seen;
        fixture_capture_begin(f);
        struct fixture_run run = start(&o, &cases[i].like, &seen);
        fixture_capture_end(f);
        if (run.rc != cases[i].rc || !strstr(run.err.text, cases[i].said))
            fail_msg("%s: %d %s", cases[i].name, run.rc, run.err.text);
        assert_int_equal(fixture_captured(f, "snapshot quarantined"), cases[i].rc == ERR_CORRUPT);
        assert_int_equal(fixture_captured(f, "warn"), 1);
        assert_int_equal(seen.n_models, 0);
        assert_int_equal(fixture_count(f->store, ".quarantined.snap"), cases[i].rc == ERR_CORRUPT);
    }
    /* With the directory there, each of them is answered by a cold load, or by the device's own error. */
    o.model = f->model;
    const struct fake_device no_warm_up = {.fail_warm_up = true, .fail_put = 1};
    struct fixture_run run = start(&o, &no_warm_up, NULL);
    assert_int_equal(run.rc, ERR_SERVICE);
    assert_non_null(strstr(run.err.text, "no warm-up"));
    fixture_run_done(&cold);
}

/* ---- host snapshots ---- */

static void build_host(const struct snap_start_options *o, struct schema_snapshot_record *out_record)
{
    struct gpu_device *planner = fake_open_planner();
    struct base_error err = {0};
    struct snap_admin_built made;
    for (int i = 0; i < 2; i++) {
        if (snap_admin_build(planner, o, &(struct snap_admin_build){.force = false}, &made, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(made.built, i == 0);
        assert_string_equal(made.version, "v1");
    }
    *out_record = made.record;
    assert_string_equal(out_record->arch, "host");
    gpu_close(planner);
}

/* Built without the device; the first worker on one finishes it, the next finds the device's own. */
static void test_host_snapshot(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct schema_snapshot_record host;
    struct fake_device seen;
    struct fixture_run plain = start(
        &(struct snap_start_options){.model = f->model, .dtype = "auto", .build = SNAP_BUILD_NEVER, .limits = o.limits},
        NULL, NULL);
    build_host(&o, &host);
    fixture_shell("mv '%s' '%s.away'", f->model, f->model);
    static const char *const names[] = {"oracle", NULL};
    for (int i = 0; i < 2; i++) { /* by name, through the index and without one; and by the directory */
        o.model = names[i] ? names[i] : f->model;
        if (i == 1)
            fixture_shell("mv '%s.away' '%s'; rm -r '%s/index'", f->model, f->model, f->store);
        struct fixture_run first = start(&o, NULL, &seen);
        assert_started(&first, true, true);
        assert_int_equal(seen.n_warm_ups, 1);
        assert_int_equal(seen.n_imports, 0);
        assert_string_not_equal(first.id, host.id);
        fixture_assert_same_answers(&plain, &first);
        struct fixture_run second = start(&o, NULL, &seen);
        assert_started(&second, true, false);
        assert_string_equal(second.id, first.id);
        assert_int_equal(seen.n_warm_ups, 0);
        assert_int_equal(seen.n_imports, 1);
        fixture_assert_same_answers(&plain, &second);
        assert_int_equal(fixture_count(f->store, ".snap"), 2);
        fixture_shell("rm '%s/%s.snap'", f->store, first.id);
        fixture_run_done(&first);
        fixture_run_done(&second);
    }

    /* Damaged: set aside, and the directory is loaded; its snapshot is the device's. */
    char path[PATH_MAX];
    fixture_snapshot_path(f, host.id, ".snap", path);
    fixture_flip(path, fixture_size(path) - 5000);
    fixture_capture_begin(f);
    struct fixture_run cold = start(&o, NULL, &seen);
    fixture_capture_end(f);
    assert_started(&cold, false, true);
    assert_int_equal(fixture_captured(f, "snapshot quarantined"), 1);
    fixture_assert_same_answers(&plain, &cold);
    fixture_run_done(&cold);
    fixture_run_done(&plain);
}

/* An index that knows the host snapshot alone does not hide the device's own; a cpu takes neither. */
static void test_host_comes_second(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct schema_snapshot_record host;
    char models[PATH_MAX + 32];
    struct fixture_run cold = start(&o, NULL, NULL);
    assert_started(&cold, false, true);
    fixture_shell("rm -r '%s/index'", f->store);
    build_host(&o, &host);
    snprintf(models, sizeof(models), "%s/index/models", f->store);
    assert_int_equal(fixture_count(models, ""), 4 + 2); /* of the host snapshot alone; . and .. */
    fixture_shell("mv '%s' '%s.away'", f->model, f->model);
    o.model = "oracle";
    for (int i = 0; i < 2; i++) {
        struct fixture_run warm = start(&o, NULL, NULL);
        assert_started(&warm, true, false);
        assert_string_equal(warm.id, cold.id);
        fixture_run_done(&warm);
        fixture_shell("rm -r '%s/index'", f->store); /* and by the files themselves */
    }
    struct fixture_run on_cpu = fixture_start(&o);
    assert_int_equal(on_cpu.rc, ERR_NOTFOUND);
    fixture_run_done(&cold);
}

/* What a warm-up cannot do is no fault of the file. And what is said of such a file. */
static void test_host_fails(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct schema_snapshot_record host;
    const struct fake_device no_warm_up = {.fail_warm_up = true};
    char path[PATH_MAX];
    build_host(&o, &host);
    fixture_snapshot_path(f, host.id, ".snap", path);
    o.model = "oracle";
    fixture_capture_begin(f);
    struct fixture_run run = start(&o, &no_warm_up, NULL);
    fixture_capture_end(f);
    assert_int_equal(run.rc, ERR_SERVICE);
    assert_non_null(strstr(run.err.text, "no warm-up"));
    assert_true(base_file_exists(path));

    struct snap_store *store = NULL;
    struct base_buffer text, json_text;
    struct base_json json;
    base_buffer_init(&text, 1 << 20);
    base_buffer_init(&json_text, 1 << 20);
    base_json_init(&json, &json_text);
    assert_int_equal(snap_store_open(f->store, NULL, &store, NULL), 0);
    assert_int_equal(snap_admin_verify(store, host.id, NULL, false, NULL, NULL), 0);
    assert_int_equal(snap_admin_show(store, host.id, NULL, &json, &text, NULL), 0);
    assert_non_null(strstr(base_buffer_cstr(&text), "kind      host"));
    assert_non_null(strstr(base_buffer_cstr(&json_text), "\"kind\":\"host\""));
    snap_store_close(store);
    base_buffer_done(&text);
    base_buffer_done(&json_text);
}

/* ---- sleep ---- */

struct sleeper {
    struct fake_device *fake;
    struct snap_model *model;
    struct fixture_run before; /* its logits */
};

static void sleeper_open(struct sleeper *s, const struct snap_start_options *o)
{
    struct base_error err = {0};
    *s = (struct sleeper){.fake = fake_open()};
    if (snap_start(&s->fake->base, o, &s->model, &err) < 0)
        fail_msg("%s", err.text);
    fixture_take_logits(s->model, &s->before);
}

static void sleeper_close(struct sleeper *s)
{
    snap_model_close(s->model);
    fixture_run_done(&s->before);
    fake_close(s->fake);
}

static void fall_asleep(struct sleeper *s)
{
    struct base_error err = {0};
    if (snap_model_sleep(s->model, &err) < 0)
        fail_msg("sleep: %s", err.text);
}

static void wake_well(struct sleeper *s)
{
    struct base_error err = {0};
    struct fixture_run after = {.rc = 0};
    if (snap_model_wake(s->model, &err) < 0)
        fail_msg("wake: %s", err.text);
    fixture_take_logits(s->model, &after);
    fixture_assert_same_answers(&s->before, &after);
    fixture_run_done(&after);
}

static void wake_badly(struct sleeper *s, int rc, const char *said)
{
    struct base_error err = {0};
    int is = snap_model_wake(s->model, &err);
    if (is != rc || !strstr(err.text, said))
        fail_msg("wake: %d '%s', expected %d '%s'", is, err.text, rc, said);
}

static void test_sleep(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct sleeper s;
    char path[PATH_MAX];
    big_model_make(f);
    sleeper_open(&s, &o); /* built */
    fall_asleep(&s);
    wake_well(&s);
    assert_int_equal(s.fake->n_puts, BIG_MODEL_CHUNKS);
    sleeper_close(&s);

    sleeper_open(&s, &o);
    assert_true(s.model->restored);
    fixture_snapshot_path(f, s.model->snapshot_id, ".snap", path);
    for (int i = 0; i < 3; i++) {
        fall_asleep(&s);
        s.fake->take_ms = i == 2 ? 20 : 0;
        wake_well(&s);
    }
    assert_int_equal(s.fake->n_imports, 1); /* choices stay */
    s.fake->take_ms = 0;

    fall_asleep(&s);
    s.fake->fail_new = true;
    wake_badly(&s, ERR_NOMEM, "no memory");
    s.fake->fail_new = false;
    s.fake->fail_put = s.fake->n_puts + 3;
    fixture_capture_begin(f);
    wake_well(&s); /* the link was down; the directory is there */
    fixture_capture_end(f);
    assert_int_equal(fixture_captured(f, "the link is down"), 1);
    assert_true(base_file_exists(path));

    fixture_shell("mv '%s' '%s.away'", path, path);
    fall_asleep(&s);
    wake_well(&s);
    fixture_shell("mv '%s' '%s.away'", f->model, f->model);
    fall_asleep(&s);
    wake_badly(&s, ERR_NOTFOUND, "not there");
    wake_badly(&s, ERR_NOTFOUND, "not there"); /* it sleeps on, and can be asked again */
    fixture_shell("mv '%s.away' '%s'", path, path);
    wake_well(&s);

    /* Damaged while it slept: set aside; without a directory it sleeps on, with a changed one too. */
    fall_asleep(&s);
    fixture_flip(path, fixture_size(path) - 5000);
    fixture_capture_begin(f);
    wake_badly(&s, ERR_CORRUPT, "section weights: the chunk at");
    fixture_capture_end(f);
    assert_int_equal(fixture_captured(f, "snapshot quarantined"), 1);
    fixture_shell("mv '%s.away' '%s' && touch '%s/config.json'", f->model, f->model, f->model);
    wake_badly(&s, ERR_INPUT, "have changed");
    sleeper_close(&s);
}

/* Loaded cold and never built: the directory is all there is, and what it computed before must come again. */
static void test_sleep_without_snapshot(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct sleeper s;
    o.build = SNAP_BUILD_NEVER;
    sleeper_open(&s, &o);
    fall_asleep(&s);
    wake_well(&s);
    fall_asleep(&s);
    fixture_shell("rm -r '%s'", f->model);
    wake_badly(&s, ERR_NOTFOUND, "directory");
    sleeper_close(&s);
}

static void test_cpu_does_not_sleep(void **state)
{
    struct fixture *f = *state;
    struct snap_start_options o = fixture_options(f);
    struct gpu_device *device = fixture_device(NULL);
    struct fixture_run before = {.rc = 0}, after = {.rc = 0};
    struct snap_model *m = NULL;
    struct base_error err = {0};
    assert_int_equal(snap_start(device, &o, &m, NULL), 0);
    fixture_take_logits(m, &before);
    assert_int_equal(snap_model_sleep(m, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "no memory of its own"));
    fixture_take_logits(m, &after);
    fixture_assert_same_answers(&before, &after);
    fixture_run_done(&before);
    fixture_run_done(&after);
    snap_model_close(m);
    gpu_close(device);
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_build_then_restore),
                                       T(test_overlap),
                                       T(test_small_rings),
                                       T(test_direct),
                                       T(test_damaged_chunk),
                                       T(test_device_fails),
                                       T(test_host_snapshot),
                                       T(test_host_comes_second),
                                       T(test_host_fails),
                                       T(test_sleep),
                                       T(test_sleep_without_snapshot),
                                       T(test_cpu_does_not_sleep)};
    return cmocka_run_group_tests_name("snap_device", tests, NULL, NULL);
}
