/* Every kind of damage, at random places, on every way of a restore: none is accepted, each is named. The seed is fixed;
 * ROUSE_FAULTS sets how many (default 600).
 *
 * The file has been restored and marked as proven on this node before each fault: the mark must not cover up for what came after. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "snapshot/snap_restore.h"
#include "snapshot/tests/big_model.h"
#include "snapshot/tests/snapshot_fixture.h"

enum { FAULTS_DEFAULT = 600 };

static uint64_t random_state = 20261126;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

/* ---- the system calls, misbehaving on demand ---- */

static atomic_uint eio_at, n_reads; /* the how-manieth read of the restore fails; 0: none */
static atomic_bool hiccups;         /* EINTR and short reads, now and then */

ssize_t __real_pread(int fd, void *to, size_t n, off_t at);
ssize_t __real_pread64(int fd, void *to, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *to, size_t n, off_t at);
int __real_madvise(void *at, size_t n, int advice);
int __wrap_madvise(void *at, size_t n, int advice);

static bool fails_now(void)
{
    unsigned now = atomic_fetch_add(&n_reads, 1) + 1, at = atomic_load(&eio_at);
    return at != 0 && now >= at;
}

ssize_t __wrap_pread64(int fd, void *to, size_t n, off_t at)
{
    static atomic_uint turn;
    if (n > SNAP_PAGE_BYTES && fails_now()) {
        errno = EIO;
        return -1;
    }
    if (atomic_load(&hiccups) && n > SNAP_PAGE_BYTES) {
        unsigned t = atomic_fetch_add(&turn, 1) % 3;
        if (t == 0) {
            errno = EINTR;
            return -1;
        }
        if (t == 1)
            n = SNAP_PAGE_BYTES;
    }
    return __real_pread64(fd, to, n, at);
}

ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at)
{
    return __wrap_pread64(fd, to, n, at);
}

/* What populating a page that cannot be read comes to. */
int __wrap_madvise(void *at, size_t n, int advice)
{
    if (advice == 22 /* MADV_POPULATE_READ */ && atomic_load(&eio_at) != 0 && fails_now()) {
        errno = EFAULT;
        return -1;
    }
    return __real_madvise(at, n, advice);
}

/* ---- the bed ---- */

struct bed {
    struct gpu_device *device;
    struct snap_fingerprint wanted;
    struct snap_restore restore;
    struct snap_layout layout;
    char path[PATH_MAX], node_dir[PATH_MAX], id[SNAP_ID_CHARS + 1];
    uint8_t *good, *other; /* whole files: the one under test, and another model's of the same layout */
    uint64_t bytes;
};

static uint8_t *read_file(const char *path, uint64_t bytes)
{
    uint8_t *all = malloc(bytes);
    int fd = open(path, O_RDONLY);
    assert_true(all && fd >= 0);
    assert_int_equal(base_file_pread(fd, all, bytes, 0, path, NULL), 0);
    close(fd);
    return all;
}

static void write_at(const char *path, uint64_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(base_file_pwrite(fd, bytes, n, at, path, NULL), 0);
    close(fd);
}

static int restore(const struct bed *b, enum restore_way way, struct base_error *err)
{
    struct snap_restore r = b->restore;
    struct snap_restored restored = {.gpu = NULL};
    r.way = way;
    *err = (struct base_error){0};
    int rc = snap_restore_read(&r, &restored, err);
    if (rc == 0)
        snap_restored_done(&restored);
    return rc;
}

static void make_bed(const struct fixture *f, struct bed *b)
{
    struct snap_start_options o = fixture_options(f);
    struct snap_file *file = NULL;
    char other[PATH_MAX];
    *b = (struct bed){.device = fixture_device(NULL)};
    big_model_make(f);
    struct fixture_run second = fixture_start(&o);
    fixture_snapshot_path(f, second.id, ".snap", other);
    big_model_make(f);
    struct fixture_run first = fixture_start(&o);
    fixture_snapshot_path(f, first.id, ".snap", b->path);
    assert_string_not_equal(first.id, second.id);
    b->bytes = fixture_size(b->path);
    assert_true(b->bytes == fixture_size(other));
    b->good = read_file(b->path, b->bytes);
    b->other = read_file(other, b->bytes);
    assert_int_equal(snap_file_open(b->path, &file, NULL), 0);
    b->layout = file->layout;
    snap_file_close(file);
    memcpy(b->id, first.id, sizeof(b->id));
    snprintf(b->node_dir, sizeof(b->node_dir), "%s/node", f->root);
    assert_int_equal(snap_fingerprint_init(&b->wanted, gpu_device_info(b->device), "auto", "", NULL), 0);
    static struct gpu_limits limits;
    limits = o.limits;
    b->restore = (struct snap_restore){.device = b->device,
                                       .path = b->path,
                                       .id = b->id,
                                       .wanted = &b->wanted,
                                       .limits = &limits,
                                       .node_dir = b->node_dir};
    fixture_run_done(&first);
    fixture_run_done(&second);
}

static void bed_done(struct bed *b)
{
    gpu_close(b->device);
    free(b->good);
    free(b->other);
}

/* ---- the faults ---- */

struct fault {
    const char *kind;
    uint64_t at, n; /* what of the file is other than it should be */
    char place[64];
};

static struct snap_chunk any_chunk(const struct bed *b)
{
    return snap_layout_chunk(&b->layout, (uint32_t)random_below(b->layout.n_chunks));
}

/* One bit of the front or of any section, small ones as often as large ones. */
static struct fault flip_bit(const struct bed *b)
{
    struct fault f = {.kind = "bit flip", .n = 1};
    uint64_t section = random_below(SNAP_SECTION_N + 2);
    if (section >= SNAP_SECTION_N || b->layout.sections[section].stored_bytes == 0) {
        f.at = random_below(section == SNAP_SECTION_N ? SNAP_HEADER_BYTES : b->layout.front_bytes);
        snprintf(f.place, sizeof(f.place), "header");
    } else {
        f.at = b->layout.sections[section].offset + random_below(b->layout.sections[section].stored_bytes);
        snprintf(f.place, sizeof(f.place), "section %s", snap_section_name((enum snap_section_kind)section));
    }
    uint8_t byte = b->good[f.at] ^ (uint8_t)(1u << random_below(8));
    write_at(b->path, f.at, &byte, 1);
    return f;
}

static struct fault truncate_file(const struct bed *b)
{
    struct fault f = {.kind = "truncation", .place = "the file has"};
    f.at = random_below(b->bytes);
    f.n = b->bytes - f.at;
    if (f.at < SNAP_HEADER_BYTES)
        snprintf(f.place, sizeof(f.place), "shorter than a header");
    assert_int_equal(truncate(b->path, (off_t)f.at), 0);
    return f;
}

/* Two whole chunks in each other's place: every byte of the file is sound. */
static struct fault swap_chunks(const struct bed *b)
{
    const struct snap_section *w = &b->layout.sections[SNAP_WEIGHTS];
    uint32_t one = (uint32_t)random_below(w->n_chunks - 2),
             two = one + 1 + (uint32_t)random_below(w->n_chunks - 2 - one);
    struct snap_chunk x = snap_layout_chunk(&b->layout, w->first_chunk + one),
                      y = snap_layout_chunk(&b->layout, w->first_chunk + two);
    struct fault f = {
        .kind = "chunks swapped", .at = x.offset, .n = y.offset + y.bytes - x.offset, .place = "section weights"};
    write_at(b->path, x.offset, b->good + y.offset, x.bytes);
    write_at(b->path, y.offset, b->good + x.offset, y.bytes);
    return f;
}

/* What an overwrite of another version in place would leave. */
static struct fault stale_chunk(const struct bed *b)
{
    struct snap_chunk c;
    do
        c = any_chunk(b);
    while (memcmp(b->good + c.offset, b->other + c.offset, c.bytes) == 0);
    struct fault f = {.kind = "stale chunk", .at = c.offset, .n = c.bytes};
    snprintf(f.place, sizeof(f.place), "section %s", snap_section_name(c.kind));
    write_at(b->path, c.offset, b->other + c.offset, c.bytes);
    return f;
}

static struct fault foreign_front(const struct bed *b)
{
    struct fault f = {.kind = "foreign header", .n = b->layout.front_bytes, .place = "section manifest"};
    write_at(b->path, 0, b->other, b->layout.front_bytes);
    return f;
}

static struct fault foreign_file(const struct bed *b)
{
    struct fault f = {.kind = "foreign file", .n = b->bytes, .place = "another snapshot"};
    write_at(b->path, 0, b->other, b->bytes);
    return f;
}

static struct fault hole(const struct bed *b)
{
    const struct snap_section *w = &b->layout.sections[SNAP_WEIGHTS];
    struct fault f = {.kind = "page of zeros", .n = SNAP_PAGE_BYTES, .place = "section weights"};
    static const uint8_t zeros[SNAP_PAGE_BYTES];
    do
        f.at = w->offset + random_below(w->stored_bytes / SNAP_PAGE_BYTES) * SNAP_PAGE_BYTES;
    while (memcmp(b->good + f.at, zeros, sizeof(zeros)) == 0);
    write_at(b->path, f.at, zeros, sizeof(zeros));
    return f;
}

static struct fault make_fault(const struct bed *b)
{
    static struct fault (*const kinds[])(const struct bed *b) = {swap_chunks, stale_chunk, hole, truncate_file};
    uint64_t dice = random_below(200);
    if (dice < 3)
        return dice == 0 ? foreign_file(b) : foreign_front(b);
    return dice < 110 ? flip_bit(b) : kinds[random_below(sizeof(kinds) / sizeof(kinds[0]))](b);
}

static void mend(const struct bed *b, const struct fault *f)
{
    if (fixture_size(b->path) < b->bytes)
        assert_int_equal(truncate(b->path, (off_t)b->bytes), 0);
    write_at(b->path, f->at, b->good + f->at, f->n);
}

static void test_faults(void **state)
{
    const char *text = getenv("ROUSE_FAULTS");
    const long n = text ? atol(text) : FAULTS_DEFAULT;
    static const enum restore_way ways[] = {RESTORE_AUTO, RESTORE_ATTACH, RESTORE_STREAM};
    struct bed b;
    struct base_error err;
    make_bed(*state, &b);
    printf("%ld faults, seed %llu\n", n, (unsigned long long)random_state);
    for (long i = 0; i < n; i++) {
        if (i % 50 == 0) { /* proven, and marked so */
            base_clock_sleep_ms(60);
            if (restore(&b, RESTORE_AUTO, &err) < 0)
                fail_msg("fault %ld: the sound file: %s", i, err.text);
        }
        struct fault f = make_fault(&b);
        int rc = restore(&b, ways[i % 3], &err);
        if (rc != ERR_CORRUPT || !strstr(err.text, f.place))
            fail_msg("fault %ld, %s at %llu of %llu bytes, by %s: %s, wanted %s", i, f.kind, (unsigned long long)f.at,
                     (unsigned long long)f.n, restore_way_name(ways[i % 3]), rc == 0 ? "ACCEPTED" : err.text, f.place);
        mend(&b, &f);
    }
    bed_done(&b);
}

/* The medium's word that bytes are gone, at each read in turn; and reads that are cut short or interrupted, which mean nothing. */
static void test_reads(void **state)
{
    static const enum restore_way ways[] = {RESTORE_ATTACH, RESTORE_STREAM};
    struct bed b;
    struct base_error err;
    make_bed(*state, &b);
    for (size_t w = 0; w < 2; w++) {
        unsigned n_failed = 0;
        for (unsigned at = 1;; at++) {
            atomic_store(&n_reads, 0);
            atomic_store(&eio_at, at);
            b.restore.unverified = false;
            struct snap_restore r = b.restore;
            r.node_dir = "/nonexistent/place"; /* on its own: nothing is known of the file */
            r.way = ways[w];
            struct snap_restored restored = {.gpu = NULL};
            err = (struct base_error){0};
            int rc = snap_restore_read(&r, &restored, &err);
            atomic_store(&eio_at, 0);
            if (rc == 0) {
                snap_restored_done(&restored);
                break; /* past the last read */
            }
            if (rc != ERR_CORRUPT || !strstr(err.text, strerror(EIO)))
                fail_msg("%s, read %u: %s", restore_way_name(ways[w]), at, err.text);
            n_failed++;
        }
        assert_true(n_failed >= BIG_MODEL_CHUNKS);
        atomic_store(&hiccups, true);
        int rc = restore(&b, ways[w], &err);
        atomic_store(&hiccups, false);
        if (rc < 0)
            fail_msg("%s, with short and interrupted reads: %s", restore_way_name(ways[w]), err.text);
    }
    bed_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_faults, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_reads, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
