#include "model/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/buffer.h"
#include "base/file.h"
#include "model/shard_index.h"

enum { DIGEST_STEP_BYTES = 4 << 20, IDENTITY_BYTES_MAX = 1 << 20 };

static const uint64_t bytes_absent = UINT64_MAX; /* a size that no file has */

/* The n-th file of the directory: config.json, tokenizer.json, then the weight files by name. */
enum { FILE_CONFIG, FILE_TOKENIZER, N_FILES_FIXED };
static const char *const fixed_names[N_FILES_FIXED] = {"config.json", "tokenizer.json"};

struct file_list {
    const char *dir;
    struct shard_index weights;
};

static int list_open(const char *dir, struct file_list *out_list, struct base_error *err)
{
    struct file_list list = {.dir = dir};
    int rc = model_shard_index_read(dir, &list.weights, err);
    if (rc == 0)
        *out_list = list;
    return rc;
}

static uint32_t list_n(const struct file_list *list)
{
    return N_FILES_FIXED + list->weights.n_files;
}

static const char *list_name(const struct file_list *list, uint32_t i)
{
    return i < N_FILES_FIXED ? fixed_names[i] : list->weights.files[i - N_FILES_FIXED];
}

/* path of PATH_MAX bytes. *out_there is false, and st zero, for an absent tokenizer: a model of token ids alone. */
static int list_stat(const struct file_list *list, uint32_t i, char *path, struct stat *st, bool *out_there,
                     struct base_error *err)
{
    int rc = base_file_join(path, PATH_MAX, list->dir, list_name(list, i), err);
    if (rc < 0)
        return rc;
    *out_there = stat(path, st) == 0;
    if (*out_there && S_ISREG(st->st_mode))
        return 0;
    if (*out_there)
        return base_fail(err, ERR_INPUT, "stat %s: not a regular file", path);
    if (errno != ENOENT)
        return base_fail_errno(err, "stat %s", path);
    memset(st, 0, sizeof *st);
    return i == FILE_TOKENIZER ? 0 : base_fail(err, ERR_NOTFOUND, "stat %s: no such file", path);
}

/* Length before text, so that no two lists of files are the same bytes. */
static void put_name(struct base_buffer *out, const char *name)
{
    base_buffer_u32(out, (uint32_t)strlen(name));
    base_buffer_string(out, name);
}

static void put_time(struct base_buffer *out, struct timespec t)
{
    base_buffer_u64(out, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
}

static int identity_collect(const struct file_list *list, struct base_buffer *out, struct base_error *err)
{
    for (uint32_t i = 0; i < list_n(list); i++) {
        char path[PATH_MAX];
        struct stat st;
        bool there;
        int rc = list_stat(list, i, path, &st, &there, err);
        if (rc < 0)
            return rc;
        put_name(out, list_name(list, i));
        base_buffer_u64(out, there ? (uint64_t)st.st_size : bytes_absent);
        put_time(out, st.st_mtim);
        put_time(out, st.st_ctim);
        base_buffer_u64(out, st.st_ino);
        base_buffer_u64(out, st.st_dev);
    }
    return out->failed ? base_fail(err, out->failed, "%s: its list of files does not fit", list->dir) : 0;
}

int model_files_identity(const char *dir, struct model_file_digest *out_identity, struct base_error *err)
{
    struct file_list list;
    int rc = list_open(dir, &list, err);
    if (rc < 0)
        return rc;
    struct base_buffer bytes;
    base_buffer_init(&bytes, IDENTITY_BYTES_MAX);
    rc = identity_collect(&list, &bytes, err);
    struct model_file_digest identity;
    if (rc == 0 && EVP_Digest(bytes.data, bytes.n, identity.bytes, NULL, EVP_sha256(), NULL) != 1)
        rc = base_fail(err, ERR_INTERNAL, "%s: SHA-256 failed", dir);
    if (rc == 0)
        *out_identity = identity;
    base_buffer_done(&bytes);
    model_shard_index_done(&list.weights);
    return rc;
}

struct digest_run {
    EVP_MD_CTX *sha;
    uint8_t *step; /* [DIGEST_STEP_BYTES] */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
    uint64_t done, total;
};

static int run_update(struct digest_run *run, const void *bytes, size_t n, const char *path, struct base_error *err)
{
    if (EVP_DigestUpdate(run->sha, bytes, n) != 1)
        return base_fail(err, ERR_INTERNAL, "%s: SHA-256 failed", path);
    return 0;
}

static int run_header(struct digest_run *run, const char *name, uint64_t bytes, struct base_error *err)
{
    struct base_buffer header;
    base_buffer_init(&header, IDENTITY_BYTES_MAX);
    put_name(&header, name);
    base_buffer_u64(&header, bytes);
    int rc = header.failed ? base_fail(err, header.failed, "%s: name too long", name)
                           : run_update(run, header.data, header.n, name, err);
    base_buffer_done(&header);
    return rc;
}

static int run_content(struct digest_run *run, int fd, uint64_t bytes, const char *path, struct base_error *err)
{
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* a hint; reading works without it */
    for (uint64_t at = 0; at < bytes;) {
        size_t n = bytes - at < DIGEST_STEP_BYTES ? (size_t)(bytes - at) : DIGEST_STEP_BYTES;
        int rc = base_file_pread(fd, run->step, n, at, path, err);
        if (rc == 0)
            rc = run_update(run, run->step, n, path, err);
        if (rc < 0)
            return rc;
        at += n;
        run->done += n;
        if (run->progress)
            run->progress(run->context, run->done, run->total);
    }
    return 0;
}

static int run_file(struct digest_run *run, const struct file_list *list, uint32_t i, struct base_error *err)
{
    char path[PATH_MAX];
    struct stat st;
    bool there;
    int rc = list_stat(list, i, path, &st, &there, err);
    if (rc < 0)
        return rc;
    uint64_t bytes = there ? (uint64_t)st.st_size : bytes_absent;
    rc = run_header(run, list_name(list, i), bytes, err);
    if (rc < 0 || !there)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return base_fail_errno(err, "open %s", path);
    rc = run_content(run, fd, bytes, path, err);
    close(fd);
    return rc;
}

static int run_total(struct digest_run *run, const struct file_list *list, struct base_error *err)
{
    for (uint32_t i = 0; i < list_n(list); i++) {
        char path[PATH_MAX];
        struct stat st;
        bool there;
        int rc = list_stat(list, i, path, &st, &there, err);
        if (rc < 0)
            return rc;
        run->total += (uint64_t)st.st_size;
    }
    return 0;
}

static int run_all(struct digest_run *run, const struct file_list *list, struct model_file_digest *out_digest,
                   struct base_error *err)
{
    if (!run->sha || !run->step || EVP_DigestInit_ex(run->sha, EVP_sha256(), NULL) != 1)
        return base_fail(err, ERR_NOMEM, "%s: no memory for its digest", list->dir);
    int rc = run_total(run, list, err);
    for (uint32_t i = 0; rc == 0 && i < list_n(list); i++)
        rc = run_file(run, list, i, err);
    struct model_file_digest digest;
    if (rc == 0 && EVP_DigestFinal_ex(run->sha, digest.bytes, NULL) != 1)
        rc = base_fail(err, ERR_INTERNAL, "%s: SHA-256 failed", list->dir);
    if (rc == 0)
        *out_digest = digest;
    return rc;
}

int model_files_digest(const char *dir, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                       struct model_file_digest *out_digest, struct base_error *err)
{
    struct file_list list;
    int rc = list_open(dir, &list, err);
    if (rc < 0)
        return rc;
    struct digest_run run = {
        .sha = EVP_MD_CTX_new(), .step = malloc(DIGEST_STEP_BYTES), .progress = progress, .context = context};
    rc = run_all(&run, &list, out_digest, err);
    EVP_MD_CTX_free(run.sha);
    free(run.step);
    model_shard_index_done(&list.weights);
    return rc;
}
