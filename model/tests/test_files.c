/* Identity and digest of a model directory: what changes them, what does not, and what they are over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "model/files.h"

static char dir[64];

static int dir_setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/rouse-files-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static const char *path_of(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int dir_teardown(void **state)
{
    (void)state;
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (entry->d_name[0] != '.')
            unlink(path_of(entry->d_name));
    }
    if (d)
        closedir(d);
    return rmdir(dir);
}

static struct model_file_digest identity(void)
{
    struct model_file_digest d;
    struct base_error err = {0};
    if (model_files_identity(dir, &d, &err) != 0)
        fail_msg("%s", err.text);
    return d;
}

static struct model_file_digest digest(void)
{
    struct model_file_digest d;
    struct base_error err = {0};
    if (model_files_digest(dir, NULL, NULL, &d, &err) != 0)
        fail_msg("%s", err.text);
    return d;
}

static bool same(struct model_file_digest a, struct model_file_digest b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

static void write_single(void)
{
    write_file("config.json", "{}");
    write_file("tokenizer.json", "{\"t\":1}");
    write_file("model.safetensors", "weights");
}

static void put(struct base_buffer *b, const char *name, const char *text)
{
    base_buffer_u32(b, (uint32_t)strlen(name));
    base_buffer_string(b, name);
    base_buffer_u64(b, text ? strlen(text) : UINT64_MAX);
    base_buffer_string(b, text ? text : "");
}

/* The digest is SHA-256 over (length, name, size, bytes) of each file: fixed, because snapshots carry it. */
static void expect_digest(const char *const files[][2], size_t n)
{
    struct base_buffer b;
    base_buffer_init(&b, 4096);
    for (size_t i = 0; i < n; i++)
        put(&b, files[i][0], files[i][1]);
    struct model_file_digest wanted, got = digest();
    assert_int_equal(EVP_Digest(b.data, b.n, wanted.bytes, NULL, EVP_sha256(), NULL), 1);
    assert_memory_equal(got.bytes, wanted.bytes, sizeof wanted.bytes);
    base_buffer_done(&b);
}

static void test_digest_is_over_names_and_bytes(void **state)
{
    (void)state;
    write_single();
    expect_digest((const char *const[][2]){{"config.json", "{}"},
                                           {"tokenizer.json", "{\"t\":1}"},
                                           {"model.safetensors", "weights"}},
                  3);
    unlink(path_of("tokenizer.json"));
    expect_digest(
        (const char *const[][2]){{"config.json", "{}"}, {"tokenizer.json", NULL}, {"model.safetensors", "weights"}}, 3);
    unlink(path_of("model.safetensors"));
    write_file("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"b\",\"y\":\"a\",\"z\":\"b\"}}");
    write_file("a", "first");
    write_file("b", "second");
    expect_digest(
        (const char *const[][2]){{"config.json", "{}"}, {"tokenizer.json", NULL}, {"a", "first"}, {"b", "second"}}, 4);
}

static void test_what_changes_them(void **state)
{
    (void)state;
    write_single();
    struct model_file_digest id = identity(), sum = digest();
    assert_true(same(id, identity()) && same(sum, digest()));
    write_file("README.md", "not part of the model");
    assert_true(same(id, identity()) && same(sum, digest()));

    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        struct stat st;
        assert_int_equal(stat(path_of(names[i]), &st), 0);
        /* The same size, and the old mtime put back: ctime still tells, once the kernel's clock has ticked. */
        base_clock_sleep_ms(20);
        write_file(names[i], i == 0 ? "[]" : i == 1 ? "{\"t\":2}" : "Weights");
        struct timespec times[2] = {st.st_atim, st.st_mtim};
        assert_int_equal(utimensat(AT_FDCWD, path_of(names[i]), times, 0), 0);
        assert_false(same(id, identity()));
        assert_false(same(sum, digest()));
        write_single();
        assert_true(same(sum, digest())); /* the digest knows only names and bytes */
        id = identity();
    }
    /* Another inode with the same bytes. */
    assert_int_equal(rename(path_of("config.json"), path_of("old")), 0);
    write_file("config.json", "{}");
    assert_false(same(id, identity()));
    assert_true(same(sum, digest()));
}

struct progress {
    uint64_t done, total, n_calls;
};

static void on_progress(void *context, uint64_t done, uint64_t total)
{
    struct progress *p = context;
    assert_true(done > p->done && done <= total);
    assert_true(p->n_calls == 0 || total == p->total);
    *p = (struct progress){done, total, p->n_calls + 1};
}

static void test_progress(void **state)
{
    (void)state;
    write_single();
    assert_int_equal(truncate(path_of("model.safetensors"), 9 << 20), 0); /* three reads of up to 4 MiB */
    struct progress p = {0};
    struct model_file_digest d;
    assert_int_equal(model_files_digest(dir, on_progress, &p, &d, NULL), 0);
    assert_int_equal(p.n_calls, 5);
    assert_int_equal(p.total, (9 << 20) + 9);
    assert_int_equal(p.done, p.total);
}

static void test_no_model_directory(void **state)
{
    (void)state;
    struct model_file_digest d, before;
    memset(&d, 0x5a, sizeof d);
    before = d;
    struct base_error err = {0};
    assert_int_equal(model_files_identity("/nonexistent", &d, &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "/nonexistent: no model directory"));
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_NOTFOUND);
    assert_int_equal(model_files_digest(dir, NULL, NULL, &d, &err), ERR_NOTFOUND);
    write_file("model.safetensors", "x");
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "config.json: no such file"));
    unlink(path_of("model.safetensors"));
    write_file("config.json", "{}");
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_NOTFOUND);
    write_file("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"../b\"}}");
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_INPUT);
    write_file("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"b\"}}");
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_NOTFOUND);
    assert_int_equal(mkdir(path_of("b"), 0700), 0);
    assert_int_equal(model_files_identity(dir, &d, &err), ERR_INPUT);
    assert_int_equal(model_files_digest(dir, NULL, NULL, &d, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "not a regular file"));
    rmdir(path_of("b"));
    assert_memory_equal(&d, &before, sizeof d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_digest_is_over_names_and_bytes, dir_setup, dir_teardown),
        cmocka_unit_test_setup_teardown(test_what_changes_them, dir_setup, dir_teardown),
        cmocka_unit_test_setup_teardown(test_progress, dir_setup, dir_teardown),
        cmocka_unit_test_setup_teardown(test_no_model_directory, dir_setup, dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
