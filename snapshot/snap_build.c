#include "snapshot/snap_build.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/progress.h"
#include "snapshot/events.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_proof.h"

enum {
    WRITERS = 4,
    SECTION_BYTES_MAX = 256 << 20 /* of those that are made in memory here; the format's own limits are tighter */
};

/* What each section is made of, and the file it goes into. */
struct build_job {
    const uint8_t *content[SNAP_SECTION_N]; /* NULL for weights that are read back from the device, chunk by chunk */
    struct gpu_model *model;
    struct snap_layout layout;
    uint64_t *hashes; /* [layout.n_chunks], each written by the task of its chunk */
    const struct snap_building *file;
    struct base_progress bar; /* drawn by the calling thread alone */
    atomic_uint_fast64_t written;
    atomic_bool failed;
    pthread_mutex_t lock; /* guards err */
    pthread_mutex_t device_lock;
    struct base_error *err;
};

static void build_fail(struct build_job *job, const struct base_error *why)
{
    pthread_mutex_lock(&job->lock);
    if (!atomic_exchange(&job->failed, true))
        base_fail(job->err, why->code, "%s", why->text);
    pthread_mutex_unlock(&job->lock);
}

/* A model is driven by one thread at a time; hashing and writing are what the others do meanwhile. */
static int read_back(struct build_job *job, const struct snap_chunk *c, uint64_t n, uint8_t *to, struct base_error *err)
{
    pthread_mutex_lock(&job->device_lock);
    int rc = gpu_model_read(job->model, c->at, n, to, err);
    pthread_mutex_unlock(&job->device_lock);
    return rc;
}

/* The chunk's bytes: where they lie, or in *out_copy (free it) when they are on the device, or shorter than what is stored:
 * the last page of a section is filled up with zeros. */
static int chunk_bytes(struct build_job *job, const struct snap_chunk *c, const uint8_t **out_from, uint8_t **out_copy,
                       struct base_error *err)
{
    const uint8_t *content = job->content[c->kind];
    uint64_t left = job->layout.sections[c->kind].bytes - c->at;
    if (content && left >= c->bytes) {
        *out_from = content + c->at;
        return 0;
    }
    uint64_t n = left < c->bytes ? left : c->bytes;
    uint8_t *copy = calloc(1, c->bytes);
    if (!copy)
        return base_fail(err, ERR_NOMEM, "write %s: out of memory", job->file->path);
    *out_from = *out_copy = copy;
    if (!content)
        return read_back(job, c, n, copy, err);
    memcpy(copy, content + c->at, n);
    return 0;
}

static int write_chunk(struct build_job *job, uint32_t chunk, struct base_error *err)
{
    struct snap_chunk c = snap_layout_chunk(&job->layout, chunk);
    const uint8_t *from = NULL;
    uint8_t *copy = NULL;
    int rc = chunk_bytes(job, &c, &from, &copy, err);
    if (rc < 0) {
        free(copy);
        return rc;
    }
    job->hashes[chunk] = snap_chunk_hash(from, c.bytes);
    rc = base_file_pwrite(job->file->fd, from, c.bytes, c.offset, job->file->path, err);
    if (rc == 0) /* a hint: the disk works while the next chunks are hashed, and fsync has less to wait for */
        (void)sync_file_range(job->file->fd, (off64_t)c.offset, c.bytes, SYNC_FILE_RANGE_WRITE);
    free(copy);
    atomic_fetch_add(&job->written, c.bytes);
    return rc;
}

static void write_task(void *context, uint32_t task, uint32_t thread)
{
    struct build_job *job = context;
    struct base_error err = {0};
    if (atomic_load_explicit(&job->failed, memory_order_relaxed))
        return;
    if (write_chunk(job, task, &err) < 0)
        build_fail(job, &err);
    if (thread == 0)
        base_progress_set(&job->bar, atomic_load(&job->written));
}

static int disk_full(const struct build_job *job, struct base_error *err)
{
    struct statvfs fs;
    uint64_t needed = job->layout.front_bytes;
    for (int i = 0; i < SNAP_SECTION_N; i++)
        needed += job->layout.sections[i].stored_bytes;
    int why = errno;
    if (fstatvfs(job->file->fd, &fs) < 0)
        return base_fail(err, ERR_IO, "no room for %s: %" PRIu64 " bytes are needed: %s", job->file->path, needed,
                         strerror(why));
    return base_fail(err, ERR_IO, "no room for %s: %" PRIu64 " bytes are needed, %" PRIu64 " are free: %s",
                     job->file->path, needed, (uint64_t)fs.f_bavail * fs.f_frsize, strerror(why));
}

/* Takes the disk blocks first, so that a full disk is found before minutes of writing. The gaps between sections stay
 * holes. fallocate rather than posix_fallocate: where a file system cannot, that one would write every block twice. */
static int build_reserve(const struct build_job *job, struct base_error *err)
{
    if (ftruncate(job->file->fd, (off_t)job->layout.file_bytes) < 0)
        return errno == EFBIG || errno == ENOSPC ? disk_full(job, err)
                                                 : base_fail_errno(err, "size %s", job->file->path);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *s = &job->layout.sections[i];
        int rc = 0;
        do
            rc = s->n_chunks == 0 ? 0 : fallocate(job->file->fd, 0, (off_t)s->offset, (off_t)s->stored_bytes);
        while (rc < 0 && errno == EINTR);
        if (rc < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
            return disk_full(job, err);
        if (rc < 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return base_fail_errno(err, "reserve %" PRIu64 " bytes for %s", s->stored_bytes, job->file->path);
    }
    return 0;
}

static int write_chunks(struct build_job *job, bool progress, struct base_error *err)
{
    struct base_pool *pool = NULL;
    int rc = base_pool_new(WRITERS, &pool, err);
    if (rc < 0)
        return rc;
    pthread_mutex_init(&job->lock, NULL);
    pthread_mutex_init(&job->device_lock, NULL);
    struct base_error why = {0};
    job->err = &why;
    if (progress)
        base_progress_begin(&job->bar, "building snapshot", "B", (uint64_t)job->layout.n_chunks * SNAP_CHUNK_BYTES);
    base_pool_run(pool, write_task, job, job->layout.n_chunks);
    base_progress_end(&job->bar);
    base_pool_free(pool);
    pthread_mutex_destroy(&job->lock);
    pthread_mutex_destroy(&job->device_lock);
    return why.code ? base_fail(err, why.code, "%s", why.text) : 0;
}

static int write_front(struct build_job *job, char out_digest[SNAP_SHA256_CHARS + 1], struct base_error *err)
{
    struct base_buffer front;
    base_buffer_init(&front, job->layout.front_bytes);
    int rc = snap_front_encode(&job->layout, job->hashes, &front, out_digest, err);
    if (rc == 0)
        rc = base_file_pwrite(job->file->fd, front.data, front.n, 0, job->file->path, err);
    base_buffer_done(&front);
    return rc;
}

/* The file's bytes, behind its temporary name. */
static int write_file(struct snap_build *b, struct build_job *job, char out_digest[SNAP_SHA256_CHARS + 1],
                      struct base_error *err)
{
    job->hashes = calloc(job->layout.n_chunks, sizeof(*job->hashes));
    if (!job->hashes)
        return base_fail(err, ERR_NOMEM, "write %s: out of memory", job->file->path);
    int rc = build_reserve(job, err);
    if (rc == 0)
        rc = write_chunks(job, b->progress, err);
    if (rc == 0)
        rc = write_front(job, out_digest, err);
    free(job->hashes);
    return rc;
}

static int write_and_publish(struct snap_build *b, struct build_job *job, char out_digest[SNAP_SHA256_CHARS + 1],
                             struct base_error *err)
{
    struct snap_building file;
    int rc = snap_store_build_begin(b->store, b->manifest.id, &file, err);
    if (rc < 0)
        return rc;
    job->file = &file;
    file.progress = b->progress;
    rc = write_file(b, job, out_digest, err);
    if (rc == 0)
        rc = snap_store_build_sync(&file, err);
    if (rc == 0)
        rc = snap_lease_check(b->lease, err);
    if (rc < 0) {
        snap_store_build_abort(&file);
        return rc;
    }
    return snap_store_build_publish(b->store, b->manifest.id, &file, err);
}

static int make_proof(struct snap_build *b, struct base_buffer *out, struct base_error *err)
{
    struct snap_proof proof;
    int rc = snap_proof_make(b->model, &proof, err);
    if (rc == 0)
        snap_proof_encode(&proof, out);
    return rc == 0 && out->failed ? base_fail(err, out->failed, "proof: no room") : rc;
}

static void build_record(const struct snap_build *b, const struct build_job *job, const char *digest,
                         struct schema_snapshot_record *out)
{
    struct snap_file as_file = {.layout = job->layout, .manifest = b->manifest};
    char name[SNAP_ID_CHARS + 8];
    memcpy(as_file.digest, digest, sizeof(as_file.digest));
    snprintf(name, sizeof(name), "%s.snap", b->manifest.id);
    snap_file_record(&as_file, name, out);
}

static int build_sections(struct snap_build *b, struct base_buffer sections[SNAP_SECTION_N], struct build_job *job,
                          struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(b->model);
    bool open = b->manifest.kind == SNAP_KIND_HOST; /* choices and proof are left to who restores it */
    int rc = open ? 0 : gpu_model_choices_export(b->model, &sections[SNAP_CHOICES], err);
    if (rc == 0 && sections[SNAP_CHOICES].failed)
        rc = base_fail(err, sections[SNAP_CHOICES].failed, "choices: no room");
    if (rc == 0 && !open)
        rc = make_proof(b, &sections[SNAP_PROOF], err);
    if (rc == 0)
        rc = snap_plan_encode(plan, &sections[SNAP_PLAN], err);
    if (rc == 0)
        rc = snap_manifest_encode(&b->manifest, &sections[SNAP_MANIFEST], err);
    if (rc < 0)
        return rc;
    uint64_t bytes[SNAP_SECTION_N];
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        job->content[i] = sections[i].data;
        bytes[i] = sections[i].n;
    }
    job->content[SNAP_TOKENIZER] = b->tokenizer;
    bytes[SNAP_TOKENIZER] = b->tokenizer_bytes;
    job->content[SNAP_WEIGHTS] = gpu_model_host(b->model);
    job->model = b->model;
    bytes[SNAP_WEIGHTS] = plan->weights_bytes;
    return snap_layout_plan(bytes, &job->layout, err);
}

int snap_build_write(struct snap_build *build, struct schema_snapshot_record *out_record, struct base_error *err)
{
    struct build_job job = {.file = NULL};
    struct base_buffer sections[SNAP_SECTION_N];
    char digest[SNAP_SHA256_CHARS + 1], path[PATH_MAX];
    uint64_t began_ns = base_clock_mono_ns();
    for (int i = 0; i < SNAP_SECTION_N; i++)
        base_buffer_init(&sections[i], SECTION_BYTES_MAX);
    snap_manifest_stamp(&build->manifest);
    int rc = snap_fingerprint_id(&build->manifest.fingerprint, build->manifest.id, err);
    if (rc == 0)
        rc = snap_store_path(build->store, build->manifest.id, path, err);
    if (rc == 0)
        rc = build_sections(build, sections, &job, err);
    if (rc == 0)
        rc = write_and_publish(build, &job, digest, err);
    for (int i = 0; i < SNAP_SECTION_N; i++)
        base_buffer_done(&sections[i]);
    if (rc < 0) {
        base_fail_in(err, "build snapshot of %s", build->manifest.name);
        return rc;
    }
    build_record(build, &job, digest, out_record);
    base_log_info("snapshot created", LOG_STR("id", build->manifest.id), LOG_STR("model", build->manifest.name),
                  LOG_STR("path", path), LOG_INT("bytes", job.layout.file_bytes),
                  LOG_F64("seconds", (double)(base_clock_mono_ns() - began_ns) * 1e-9));
    return 0;
}

int snap_build_lease(struct snap_store *store, const struct snap_request *request, const char *dtype,
                     struct snap_lease **out_lease, struct base_error *err)
{
    char env[SNAP_ID_CHARS + 1], key[SNAP_ID_CHARS + 1];
    int rc = snap_fingerprint_env(&request->wanted, dtype, env, err);
    if (rc == 0)
        rc = snap_lease_key(request->name, env, key, err);
    return rc < 0 ? rc : snap_lease_take(store, key, out_lease, err);
}

int snap_build_publish(struct snap_build *build, const struct snap_request *request,
                       struct schema_snapshot_record *out_record, struct base_error *err)
{
    snap_store_clean(build->store, false, NULL, NULL);
    int rc = snap_build_write(build, out_record, err);
    if (rc == 0)
        snap_look_up_tell(build->store, request, &build->manifest, out_record, snap_lease_fence(build->lease),
                          SNAP_STORE_ALL);
    if (rc == 0) {
        const struct snap_manifest *m = &build->manifest;
        char version[SNAP_VERSION_MAX + 1];
        snap_look_up_version(build->store, request, m->fingerprint.value[SNAP_FP_MODEL], version);
        snap_event_tell(
            build->store,
            &(struct snap_event){
                .what = "created", .id = m->id, .name = m->name, .version = version, .bytes = out_record->bytes});
    }
    return rc;
}
