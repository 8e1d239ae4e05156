/* Filling the weight range from a model's files: read, widen, narrow to the plan's dtype, on all threads.
 *
 * Nothing but the arena is used: what is converted passes through the workspace's scratch, which no step needs now. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "gpu/cpu/cpu_model.h"

#define CHUNK_ELEMENTS (1u << 20) /* a task: long enough to be a sequential read */
#define WAVE_CHUNKS    64u        /* tasks between two calls of progress */

struct load_job {
    struct cpu_model *m;
    const struct model_weights *weights;
    const struct gpu_tensor *to;
    const struct model_tensor *from;
    uint64_t first_chunk;

    atomic_bool failed;   /* later tasks do nothing */
    pthread_mutex_t lock; /* guards rc and err: the first failure stays */
    int rc;
    struct base_error err;
};

static void load_fail(struct load_job *job, int rc, const struct base_error *err)
{
    pthread_mutex_lock(&job->lock);
    if (job->rc == 0) {
        job->rc = rc;
        job->err = *err;
    }
    pthread_mutex_unlock(&job->lock);
    atomic_store(&job->failed, true);
}

/* An f16 has all exponent bits set only for infinities and NaNs. */
static bool f16_all_finite(const uint16_t *h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((h[i] & 0x7c00) == 0x7c00)
            return false;
    return true;
}

/* Elements [first, first + n), n <= scratch_floats, through staging. */
static int convert(const struct load_job *job, uint64_t first, size_t n, float *staging, struct base_error *err)
{
    uint8_t *to = job->m->arena + job->to->offset + first * model_dtype_bytes(job->to->dtype);
    int rc = model_weights_read_f32(job->weights, job->from, first, n, staging, err);
    if (rc < 0)
        return rc;
    job->m->device->kernels->narrow(job->to->dtype, staging, n, to);
    if (job->to->dtype == MODEL_F16 && !f16_all_finite((const uint16_t *)(const void *)to, n))
        return base_fail(err, ERR_INPUT, "tensor %s has values beyond the range of f16 (65504); use bf16 or f32",
                         job->from->name);
    return 0;
}

static void load_task(void *context, uint32_t task, uint32_t thread)
{
    struct load_job *job = context;
    const struct cpu_workspace *ws = &job->m->ws;
    const uint64_t total = (uint64_t)job->to->rows * job->to->cols;
    uint64_t at = (job->first_chunk + task) * CHUNK_ELEMENTS;
    const uint64_t end = at + CHUNK_ELEMENTS < total ? at + CHUNK_ELEMENTS : total;
    struct base_error err = {0};
    int rc = 0;

    if (atomic_load(&job->failed))
        return;
    if (job->from->dtype == job->to->dtype) { /* as the file has it: straight to its place */
        uint8_t *to = job->m->arena + job->to->offset + at * model_dtype_bytes(job->to->dtype);
        rc = model_weights_read_raw(job->weights, job->from, at, end - at, to, &err);
        at = end;
    }
    while (rc == 0 && at < end) {
        const uint64_t n = end - at < ws->scratch_floats ? end - at : ws->scratch_floats;
        rc = convert(job, at, n, ws->scratch + thread * ws->scratch_floats, &err);
        at += n;
    }
    if (rc < 0)
        load_fail(job, rc, &err);
}

static int find_tensor(struct load_job *job, struct base_error *err)
{
    const struct gpu_tensor *to = job->to;
    job->from = model_weights_find(job->weights, to->name);
    if (!job->from)
        return base_fail(err, ERR_INPUT, "tensor %s is not in the model's files", to->name);
    uint64_t n = 1;
    for (uint32_t i = 0; i < job->from->n_dims; i++)
        n = job->from->shape[i] > UINT64_MAX / (n ? n : 1) ? UINT64_MAX : n * job->from->shape[i];
    if (n != (uint64_t)to->rows * to->cols)
        return base_fail(err, ERR_INPUT, "tensor %s has %" PRIu64 " elements; the configuration says %u x %u", to->name,
                         n, to->rows, to->cols);
    return 0;
}

static int load_tensor(struct load_job *job, void (*progress)(void *context, uint64_t done, uint64_t total),
                       void *context, uint64_t done, struct base_error *err)
{
    const uint64_t n = (uint64_t)job->to->rows * job->to->cols;
    const uint64_t n_chunks = (n + CHUNK_ELEMENTS - 1) / CHUNK_ELEMENTS;
    int rc = find_tensor(job, err);
    if (rc < 0)
        return rc;
    for (uint64_t i = 0; i < n_chunks; i += WAVE_CHUNKS) {
        const uint64_t wave = n_chunks - i < WAVE_CHUNKS ? n_chunks - i : WAVE_CHUNKS;
        job->first_chunk = i;
        base_pool_run(job->m->device->pool, load_task, job, (uint32_t)wave);
        if (job->rc < 0) {
            if (err)
                *err = job->err;
            return job->rc;
        }
        if (progress)
            progress(context, done + job->to->bytes / n_chunks * (i + wave), job->m->base.plan.weights_bytes);
    }
    return 0;
}

int cpu_model_load(struct gpu_model *model, const struct model_weights *weights,
                   void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                   struct base_error *err)
{
    const struct gpu_plan *plan = &model->plan;
    struct load_job job = {.m = (struct cpu_model *)model, .weights = weights, .lock = PTHREAD_MUTEX_INITIALIZER};
    uint64_t end = 0; /* of the tensor before */
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        job.to = &plan->tensors[i];
        /* the gaps too: the range must be the same bytes whatever was there before */
        memset(job.m->arena + end, 0, job.to->offset - end);
        int rc = load_tensor(&job, progress, context, job.to->offset, err);
        if (rc < 0)
            return rc;
        end = job.to->offset + job.to->bytes;
    }
    memset(job.m->arena + end, 0, plan->weights_bytes - end);
    if (progress)
        progress(context, plan->weights_bytes, plan->weights_bytes);
    return 0;
}
