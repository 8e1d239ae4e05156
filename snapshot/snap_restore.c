#include "snapshot/snap_restore.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/pool.h"
#include "base/progress.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_proof.h"
#include "snapshot/start.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum {
    /* Chunks in flight. More than cores: direct reads wait for the disk, and a disk wants several requests at once. */
    READERS = 8
};

/* Tokenizer and weights, which lie behind the small sections: chunk by chunk to where they stay. */
struct restore_job {
    struct snap_file *file;
    uint8_t *to[SNAP_SECTION_N];
    uint32_t first_chunk;
    uint64_t total;
    struct base_progress bar; /* drawn by the calling thread alone */
    atomic_uint_fast64_t done;
    atomic_bool failed;
    pthread_mutex_t lock; /* guards err */
    struct base_error err;
};

static void restore_fail(struct restore_job *job, const struct base_error *why)
{
    pthread_mutex_lock(&job->lock);
    if (!atomic_exchange(&job->failed, true))
        job->err = *why;
    pthread_mutex_unlock(&job->lock);
}

/* First touch by the reading thread: in parallel, in whole chunks, while other threads wait for the disk. Left to the
 * read itself, the kernel would take the faults one page at a time. Older kernels refuse; then that is what happens. */
static void populate(void *to, size_t n)
{
    (void)madvise(to, n, MADV_POPULATE_WRITE);
}

static void read_task(void *context, uint32_t task, uint32_t thread)
{
    struct restore_job *job = context;
    struct base_error err = {0};
    if (atomic_load_explicit(&job->failed, memory_order_relaxed))
        return;
    uint32_t chunk = job->first_chunk + task;
    struct snap_chunk c = snap_layout_chunk(&job->file->layout, chunk);
    uint8_t *to = job->to[c.kind] + c.at;
    populate(to, c.bytes);
    if (snap_file_read_chunk(job->file, chunk, to, &err) < 0)
        restore_fail(job, &err);
    atomic_fetch_add(&job->done, c.bytes);
    if (thread == 0)
        base_progress_set(&job->bar, atomic_load(&job->done));
}

static int read_all(struct restore_job *job, bool progress, struct base_error *err)
{
    struct base_pool *pool = NULL;
    int rc = base_pool_new(READERS, &pool, err);
    if (rc < 0)
        return rc;
    if (pthread_mutex_init(&job->lock, NULL) != 0) {
        base_pool_free(pool);
        return base_fail(err, ERR_NOMEM, "restore: no mutex");
    }
    if (progress)
        base_progress_begin(&job->bar, "restoring snapshot", "B", job->total);
    base_pool_run(pool, read_task, job, job->file->layout.n_chunks - job->first_chunk);
    base_progress_end(&job->bar);
    base_pool_free(pool);
    pthread_mutex_destroy(&job->lock);
    return atomic_load(&job->failed) ? base_fail(err, job->err.code, "%s", job->err.text) : 0;
}

/* The small sections, in new memory, until the model stands. */
struct parts {
    struct snap_plan plan;
    struct snap_proof proof;
};

static int read_plan(struct snap_file *f, struct snap_plan *out, struct base_error *err)
{
    uint8_t *bytes = NULL;
    int rc = snap_file_read_section(f, SNAP_PLAN, &bytes, err);
    if (rc == 0)
        rc = snap_plan_decode(bytes, f->layout.sections[SNAP_PLAN].bytes, out, err);
    free(bytes);
    return rc;
}

static int read_proof(struct snap_file *f, uint32_t vocab, struct snap_proof *out, struct base_error *err)
{
    uint8_t *bytes = NULL;
    int rc = snap_file_read_section(f, SNAP_PROOF, &bytes, err);
    if (rc == 0)
        rc = snap_proof_decode(bytes, f->layout.sections[SNAP_PROOF].bytes, vocab, out, err);
    free(bytes);
    return rc;
}

/* One that was renamed onto another's id is at fault; a sound one that an index took for something else is not. */
static int check_fits(const struct snap_file *f, const struct snap_restore *restore, struct base_error *err)
{
    char diff[320];
    const struct snap_fingerprint *have = &f->manifest.fingerprint;
    if (restore->id && strcmp(restore->id, f->manifest.id) != 0)
        return base_fail(err, ERR_CORRUPT, "by its manifest it is another snapshot, %s", f->manifest.id);
    if (snap_fingerprint_diff(have, restore->wanted, diff, sizeof(diff)) > 0)
        return base_fail(err, ERR_INPUT, "it does not fit: %s", diff);
    const char *dtype = have->value[SNAP_FP_DTYPE];
    if (strcmp(restore->wanted->value[SNAP_FP_DTYPE], "auto") == 0 && strcmp(dtype, f->manifest.file_dtype) != 0)
        return base_fail(err, ERR_INPUT, "it does not fit: dtype is %s, the model's files are %s", dtype,
                         f->manifest.file_dtype);
    return 0;
}

static int check_plan(const struct snap_file *f, const struct snap_plan *plan, struct base_error *err)
{
    const char *dtype = f->manifest.fingerprint.value[SNAP_FP_DTYPE];
    if (strcmp(model_dtype_name(plan->dtype), dtype) != 0)
        return base_fail(err, ERR_CORRUPT, "plan: dtype %s, the manifest says %s", model_dtype_name(plan->dtype),
                         dtype);
    if (plan->weights_bytes != f->layout.sections[SNAP_WEIGHTS].bytes)
        return base_fail(err, ERR_CORRUPT, "plan: %" PRIu64 " bytes of weights, their section has %" PRIu64,
                         plan->weights_bytes, f->layout.sections[SNAP_WEIGHTS].bytes);
    return 0;
}

/* Plans anew and compares before any memory is taken, then reserves. */
static int make_model(const struct snap_restore *r, const struct snap_plan *plan, struct gpu_model **out_model,
                      struct base_error *err)
{
    struct gpu_limits limits;
    struct gpu_model *model = NULL;
    uint64_t weights_bytes = 0, arena_bytes = 0;
    int rc = snap_limits_resolve(r->limits, r->device, r->kv_bytes_max, &plan->config, &limits, err);
    if (rc == 0)
        rc = gpu_plan_bytes(r->device, &plan->config, plan->dtype, &limits, &weights_bytes, &arena_bytes, err);
    if (rc < 0)
        return rc;
    if (weights_bytes != plan->weights_bytes)
        return base_fail(err, ERR_CORRUPT, "plan: %" PRIu64 " bytes of weights, this program plans %" PRIu64,
                         plan->weights_bytes, weights_bytes);
    rc = gpu_model_new(r->device, &plan->config, plan->dtype, &limits, &model, err);
    if (rc == 0)
        rc = snap_plan_check(plan, gpu_model_plan(model), err);
    if (rc == 0 && !gpu_model_host(model))
        rc = base_fail(err, ERR_SERVICE, "this device's memory cannot be written from here");
    if (rc < 0) {
        gpu_model_free(model);
        return rc;
    }
    *out_model = model;
    return 0;
}

static void note_rate(struct base_trace *trace, uint64_t bytes, uint64_t began_ns)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRIu64, bytes);
    base_trace_note(trace, "bytes", text);
    uint64_t ns = base_clock_mono_ns() - began_ns;
    snprintf(text, sizeof(text), "%.2f", ns ? (double)bytes / (double)ns : 0.0);
    base_trace_note(trace, "GB/s", text);
}

static int fill(const struct snap_restore *r, struct snap_file *f, struct snap_restored *out, struct base_error *err)
{
    struct restore_job job = {.file = f, .first_chunk = f->layout.sections[SNAP_TOKENIZER].first_chunk};
    const struct snap_section *tokenizer = &f->layout.sections[SNAP_TOKENIZER];
    uint64_t began_ns = base_clock_mono_ns();
    out->tokenizer_blob = aligned_alloc(SNAP_PAGE_BYTES, tokenizer->stored_bytes);
    job.to[SNAP_TOKENIZER] = out->tokenizer_blob;
    job.to[SNAP_WEIGHTS] = gpu_model_host(out->gpu);
    for (int i = SNAP_TOKENIZER; i < SNAP_SECTION_N; i++)
        job.total += f->layout.sections[i].stored_bytes;
    int rc =
        out->tokenizer_blob ? read_all(&job, r->progress, err) : base_fail(err, ERR_NOMEM, "tokenizer: out of memory");
    if (rc == 0)
        note_rate(r->trace, job.total, began_ns);
    return rc;
}

static int open_tokenizer(const struct snap_file *f, struct snap_restored *out, struct base_error *err)
{
    struct base_error why = {0};
    int rc = model_tokenizer_open(out->tokenizer_blob, f->layout.sections[SNAP_TOKENIZER].bytes, &out->tokenizer, &why);
    if (rc < 0)
        return base_fail(err, rc == ERR_INPUT ? ERR_CORRUPT : rc, "section tokenizer: %s", why.text);
    return 0;
}

static int restore_phases(const struct snap_restore *r, struct snap_file *f, struct parts *parts,
                          struct snap_restored *out, struct base_error *err)
{
    base_trace_begin(r->trace, BASE_TRACE_RESTORE);
    int rc = check_fits(f, r, err);
    if (rc == 0)
        rc = read_plan(f, &parts->plan, err);
    if (rc == 0)
        rc = check_plan(f, &parts->plan, err);
    if (rc == 0)
        rc = read_proof(f, parts->plan.config.vocab, &parts->proof, err);
    if (rc == 0)
        rc = make_model(r, &parts->plan, &out->gpu, err);
    if (rc == 0)
        rc = fill(r, f, out, err);
    base_trace_end(r->trace, BASE_TRACE_RESTORE);
    if (rc < 0)
        return rc;

    base_trace_begin(r->trace, BASE_TRACE_TOKENIZER);
    rc = open_tokenizer(f, out, err);
    base_trace_end(r->trace, BASE_TRACE_TOKENIZER);
    if (rc < 0)
        return rc;

    base_trace_begin(r->trace, BASE_TRACE_VERIFY);
    rc = snap_proof_check(out->gpu, &parts->proof, err);
    base_trace_end(r->trace, BASE_TRACE_VERIFY);
    return rc;
}

int snap_restore_read(const struct snap_restore *restore, struct snap_restored *out, struct base_error *err)
{
    struct snap_restored done = {.gpu = NULL};
    struct parts parts = {.plan = {.tensors = NULL}};
    struct snap_file *f = NULL;
    char name[SNAP_ID_CHARS + 8];
    int rc = snap_file_open(restore->path, &f, err);
    if (rc < 0)
        return rc;
    done.manifest = f->manifest;
    done.file_bytes = f->layout.file_bytes;
    snprintf(name, sizeof(name), "%s.snap", f->manifest.id);
    snap_file_record(f, name, &done.record);
    rc = restore_phases(restore, f, &parts, &done, err);
    snap_file_close(f);
    snap_plan_done(&parts.plan);
    if (rc < 0) {
        snap_restored_done(&done);
        return rc;
    }
    *out = done;
    return 0;
}

void snap_restored_done(struct snap_restored *restored)
{
    model_tokenizer_close(restored->tokenizer);
    free(restored->tokenizer_blob);
    gpu_model_free(restored->gpu);
    *restored = (struct snap_restored){.gpu = NULL};
}

static void limit_default(uint32_t *field, uint64_t value)
{
    if (*field == 0)
        *field = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

void snap_limits_default(struct gpu_limits *limits, const struct model_config *config, uint32_t kv_value_bytes,
                         uint64_t kv_bytes_max)
{
    limit_default(&limits->n_ctx_max, config->n_positions < 4096 ? config->n_positions : 4096);
    limit_default(&limits->n_seqs_max, 16);
    limit_default(&limits->n_tokens_max, 512);
    limit_default(&limits->n_logits_max, limits->n_seqs_max);
    if (kv_bytes_max == 0)
        kv_bytes_max = 1u << 30;
    uint64_t per_sequence = ((uint64_t)limits->n_ctx_max + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    /* K and V, E of each for every layer and token of a block */
    uint64_t block_bytes = (uint64_t)config->n_layers * 2 * config->hidden * GPU_BLOCK_TOKENS * kv_value_bytes;
    uint64_t n_blocks = per_sequence * limits->n_seqs_max;
    if (n_blocks > kv_bytes_max / block_bytes)
        n_blocks = kv_bytes_max / block_bytes;
    limit_default(&limits->n_blocks, n_blocks > per_sequence ? n_blocks : per_sequence);
}

int snap_limits_resolve(const struct gpu_limits *given, const struct gpu_device *device, uint64_t kv_bytes_max,
                        const struct model_config *config, struct gpu_limits *out_limits, struct base_error *err)
{
    uint32_t least = config->n_positions < SNAP_PROOF_CTX ? config->n_positions : SNAP_PROOF_CTX;
    struct gpu_limits limits = *given;
    snap_limits_default(&limits, config, gpu_device_info(device)->kv_value_bytes, kv_bytes_max);
    if (limits.n_ctx_max < least)
        return base_fail(err, ERR_USAGE, "a context of %u tokens: the proof alone takes %u", limits.n_ctx_max, least);
    /* Room for the proof in one step: one pass over the weights instead of one a token, for 1.6 MB of logits. */
    if (limits.n_logits_max < SNAP_PROOF_TOKENS_MAX)
        limits.n_logits_max = SNAP_PROOF_TOKENS_MAX;
    if (limits.n_tokens_max < SNAP_PROOF_CTX)
        limits.n_tokens_max = SNAP_PROOF_CTX;
    *out_limits = limits;
    return 0;
}
