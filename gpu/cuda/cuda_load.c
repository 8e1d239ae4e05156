/* Filling the weight range from a model's files: the slow way, once. The range is cut into pieces; each is put together in an
 * upload buffer - read, widened, narrowed to the plan's dtype, with zeros between the tensors - and sent on its way, on as many
 * threads as the device was given. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "gpu/cpu/cpu_kernels.h"
#include "gpu/cuda/cuda_model.h"
#include "gpu/cuda/cuda_upload.h"
#include "gpu/cuda/quantise.h"

enum {
    PIECE_BYTES = 1 << 20,
    WAVE_PIECES = 16,            /* between two calls of progress */
    STAGING_ELEMENTS = 64 << 10, /* widened at once by a thread */
    SPARE_SLOTS = 2              /* on their way while every thread fills one */
};

struct load_staging {
    float *elements; /* [n_elements], at least a row */
    int8_t *row;     /* [cols] of the widest 8-bit matrix */
};

struct load_job {
    struct gpu_model *model;
    const struct model_weights *weights;
    const struct model_tensor **from; /* [n_tensors] */
    const struct cpu_kernels *kernels;
    struct gpu_upload *upload;
    struct load_staging *staging; /* [n_threads] */
    uint64_t first_piece;

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

/* ---- one piece ---- */

/* An f16 has all exponent bits set only for infinities and NaNs. */
static bool f16_all_finite(const uint16_t *h, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((h[i] & 0x7c00) == 0x7c00)
            return false;
    return true;
}

/* Elements [first, first + n) of a tensor to where they belong in the buffer. */
static int fill_elements(struct load_job *job, uint32_t index, uint64_t first, uint64_t n, uint8_t *to,
                         const struct load_staging *staging, struct base_error *err)
{
    const struct gpu_tensor *t = &job->model->plan.tensors[index];
    const struct model_tensor *from = job->from[index];
    if (from->dtype == t->dtype) /* as the file has it */
        return model_weights_read_raw(job->weights, from, first, n, to, err);
    const size_t element_bytes = model_dtype_bytes(t->dtype);
    for (uint64_t at = 0, here; at < n; at += here) {
        here = n - at < STAGING_ELEMENTS ? n - at : STAGING_ELEMENTS;
        const int rc = model_weights_read_f32(job->weights, from, first + at, here, staging->elements, err);
        if (rc < 0)
            return rc;
        uint8_t *narrowed = to + at * element_bytes;
        job->kernels->narrow(t->dtype, staging->elements, here, narrowed);
        if (t->dtype == MODEL_F16 && !f16_all_finite((const uint16_t *)(const void *)narrowed, here))
            return base_fail(err, ERR_INPUT, "tensor %s has values beyond the range of f16 (65504); use bf16",
                             from->name);
    }
    return 0;
}

static int quantise(struct load_job *job, uint32_t index, uint64_t row, const struct load_staging *staging,
                    float *out_scale, struct base_error *err)
{
    const struct gpu_tensor *t = &job->model->plan.tensors[index];
    const int rc =
        model_weights_read_f32(job->weights, job->from[index], row * t->cols, t->cols, staging->elements, err);
    if (rc < 0)
        return rc;
    if (!cuda_quantise_row(staging->elements, t->cols, staging->row, out_scale))
        return base_fail(err, ERR_INPUT, "tensor %s has values that are not finite", t->name);
    return 0;
}

/* Bytes [from, to) of an 8-bit matrix and its scales. A row that lies on a border of pieces, and every row whose scale lies in
 * another piece, is quantised once more there. */
static int fill_quantised(struct load_job *job, uint32_t index, uint64_t from, uint64_t to, uint8_t *buffer,
                          const struct load_staging *staging, struct base_error *err)
{
    const struct gpu_tensor *t = &job->model->plan.tensors[index];
    const uint64_t n_values = (uint64_t)t->rows * t->cols, scales = gpu_tensor_scales(t);
    float scale;
    int rc = 0;
    for (uint64_t at = from, end; at < to && at < n_values && rc == 0; at = end) {
        const uint64_t row = at / t->cols, in_row = at % t->cols;
        end = (row + 1) * t->cols < to ? (row + 1) * t->cols : to;
        rc = quantise(job, index, row, staging, &scale, err);
        if (rc == 0)
            memcpy(buffer + (at - from), staging->row + in_row, end - at);
    }
    for (uint64_t at = from > scales ? from : scales; at < to && rc == 0; at += sizeof scale) {
        rc = quantise(job, index, (at - scales) / sizeof scale, staging, &scale, err);
        if (rc == 0)
            memcpy(buffer + (at - from), &scale, sizeof scale);
    }
    return rc;
}

/* What of a tensor lies in bytes [begin, end) of the range. */
static int fill_tensor(struct load_job *job, uint32_t index, uint64_t begin, uint64_t end, uint8_t *buffer,
                       const struct load_staging *staging, struct base_error *err)
{
    const struct gpu_tensor *t = &job->model->plan.tensors[index];
    const size_t element_bytes = model_dtype_bytes(t->dtype);
    const uint64_t from = t->offset > begin ? t->offset : begin;
    const uint64_t to = t->offset + t->bytes < end ? t->offset + t->bytes : end;
    if (from >= to)
        return 0;
    buffer += from - begin;
    if (t->dtype == MODEL_Q8)
        return fill_quantised(job, index, from - t->offset, to - t->offset, buffer, staging, err);
    /* pieces and tensors begin at multiples of every element size */
    return fill_elements(job, index, (from - t->offset) / element_bytes, (to - from) / element_bytes, buffer, staging,
                         err);
}

static int load_piece(struct load_job *job, uint64_t piece, const struct load_staging *staging, struct base_error *err)
{
    const struct gpu_plan *plan = &job->model->plan;
    const uint64_t begin = piece * PIECE_BYTES, left = plan->weights_bytes - begin;
    const uint64_t n_bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    uint32_t slot;
    uint8_t *buffer;
    int rc = cuda_upload_take(job->upload, &slot, &buffer, err);
    if (rc < 0)
        return rc;
    memset(buffer, 0, n_bytes);
    for (uint32_t i = 0; i < plan->n_tensors && rc == 0; i++)
        rc = fill_tensor(job, i, begin, begin + n_bytes, buffer, staging, err);
    /* a slot goes back in any case; the first error is the one to tell */
    const int put = cuda_upload_put(job->upload, slot, job->model, begin, rc == 0 ? n_bytes : 0, rc == 0 ? err : NULL);
    return rc < 0 ? rc : put;
}

static void load_task(void *context, uint32_t task, uint32_t thread)
{
    struct load_job *job = context;
    struct base_error err = {0};
    if (atomic_load(&job->failed))
        return;
    const int rc = load_piece(job, job->first_piece + task, &job->staging[thread], &err);
    if (rc < 0)
        load_fail(job, rc, &err);
}

/* ---- all of them ---- */

static int find_tensor(struct load_job *job, uint32_t index, struct base_error *err)
{
    const struct gpu_tensor *to = &job->model->plan.tensors[index];
    const struct model_tensor *from = model_weights_find(job->weights, to->name);
    if (!from)
        return base_fail(err, ERR_INPUT, "tensor %s is not in the model's files", to->name);
    uint64_t n = 1;
    for (uint32_t i = 0; i < from->n_dims; i++)
        n = from->shape[i] > UINT64_MAX / (n ? n : 1) ? UINT64_MAX : n * from->shape[i];
    if (n != (uint64_t)to->rows * to->cols)
        return base_fail(err, ERR_INPUT, "tensor %s has %" PRIu64 " elements; the configuration says %u x %u", to->name,
                         n, to->rows, to->cols);
    job->from[index] = from;
    return 0;
}

static void free_staging(struct load_staging *staging, uint32_t n_threads)
{
    for (uint32_t i = 0; staging && i < n_threads; i++) {
        free(staging[i].elements);
        free(staging[i].row);
    }
    free(staging);
}

static int make_staging(struct load_job *job, uint32_t n_threads, struct base_error *err)
{
    const struct gpu_plan *plan = &job->model->plan;
    size_t cols = 1;
    for (uint32_t i = 0; i < plan->n_tensors; i++)
        if (plan->tensors[i].dtype == MODEL_Q8 && plan->tensors[i].cols > cols)
            cols = plan->tensors[i].cols;
    job->from = calloc(plan->n_tensors, sizeof *job->from);
    job->staging = calloc(n_threads, sizeof *job->staging);
    bool all = job->from && job->staging;
    for (uint32_t i = 0; i < n_threads && all; i++) {
        job->staging[i].elements = calloc(cols > STAGING_ELEMENTS ? cols : STAGING_ELEMENTS, sizeof(float));
        job->staging[i].row = calloc(cols, 1);
        all = job->staging[i].elements && job->staging[i].row;
    }
    return all ? 0 : base_fail(err, ERR_NOMEM, "no memory to load on %u threads", n_threads);
}

static int load_all(struct load_job *job, struct base_pool *pool,
                    void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                    struct base_error *err)
{
    const uint64_t total = job->model->plan.weights_bytes, n_pieces = (total + PIECE_BYTES - 1) / PIECE_BYTES;
    for (uint64_t i = 0; i < n_pieces; i += WAVE_PIECES) {
        const uint64_t wave = n_pieces - i < WAVE_PIECES ? n_pieces - i : WAVE_PIECES, done = (i + wave) * PIECE_BYTES;
        job->first_piece = i;
        base_pool_run(pool, load_task, job, (uint32_t)wave);
        if (job->rc < 0) {
            if (err)
                *err = job->err;
            return job->rc;
        }
        if (progress)
            progress(context, done < total ? done : total, total);
    }
    return cuda_upload_sync(job->upload, err);
}

int cuda_model_load(struct gpu_model *model, const struct model_weights *weights,
                    void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                    struct base_error *err)
{
    struct load_job job = {.model = model, .weights = weights, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct base_pool *pool = NULL;
    int rc = base_pool_new(model->device->info.n_threads, &pool, err);
    if (rc < 0)
        return rc;
    const uint32_t n_threads = base_pool_n_threads(pool);
    rc = make_staging(&job, n_threads, err);
    for (uint32_t i = 0; i < model->plan.n_tensors && rc == 0; i++)
        rc = find_tensor(&job, i, err);
    if (rc == 0)
        rc = cpu_kernels_pick(NULL, &job.kernels, err);
    if (rc == 0)
        rc = cuda_upload_open(model->device, n_threads + SPARE_SLOTS, PIECE_BYTES, &job.upload, err);
    if (rc == 0)
        rc = load_all(&job, pool, progress, context, err);
    if (job.upload)
        cuda_upload_close(job.upload);
    free_staging(job.staging, n_threads);
    free(job.from);
    base_pool_free(pool);
    return rc;
}
