#include "gpu/device.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gpu/backend.h"
#include "gpu/plan.h"

/* The back ends of this build, the preferred ones first: auto takes the first that opens. */
static const struct gpu_backend *const backends[] = {
#ifdef ROUSE_CUDA
    &gpu_cuda_backend,
#endif
    &gpu_cpu_backend,
};

#define N_BACKENDS (sizeof backends / sizeof backends[0])

static const struct gpu_backend *find_backend(const char *kind, size_t n)
{
    for (size_t i = 0; i < N_BACKENDS; i++)
        if (strlen(backends[i]->kind) == n && memcmp(backends[i]->kind, kind, n) == 0)
            return backends[i];
    return NULL;
}

static int open_auto(const struct gpu_open_options *options, struct gpu_device **out_device, struct base_error *err)
{
    int rc = ERR_SERVICE;
    for (size_t i = 0; i < N_BACKENDS; i++) {
        struct base_error why = {0};
        rc = backends[i]->open(0, options, out_device, &why);
        if (rc != ERR_SERVICE || i + 1 == N_BACKENDS) {
            if (rc < 0 && err)
                *err = why;
            break;
        }
        base_log_info("device not used", LOG_STR("device", backends[i]->kind), LOG_STR("reason", why.text));
    }
    return rc;
}

/* ":N" behind a kind, or nothing (0). */
static bool parse_index(const char *text, uint32_t *out_index)
{
    uint32_t index = 0;
    if (*text == '\0') {
        *out_index = 0;
        return true;
    }
    if (*text++ != ':' || *text == '\0' || strlen(text) > 4)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        index = index * 10 + (uint32_t)(*text - '0');
    }
    *out_index = index;
    return true;
}

int gpu_open(const char *which, const struct gpu_open_options *options, struct gpu_device **out_device,
             struct base_error *err)
{
    const struct gpu_open_options defaults = {0};
    if (!options)
        options = &defaults;
    if (strcmp(which, "auto") == 0)
        return open_auto(options, out_device, err);

    const size_t n_kind = strcspn(which, ":");
    const bool cuda = n_kind == 4 && memcmp(which, "cuda", 4) == 0;
    const struct gpu_backend *backend = find_backend(which, n_kind);
    uint32_t index = 0;
    if ((!backend && !cuda) || !parse_index(which + n_kind, &index) || (!cuda && which[n_kind] != '\0'))
        return base_fail(err, ERR_USAGE, "no device '%.32s'; known are auto, cpu, cuda and cuda:N", which);
    if (!backend)
        return base_fail(err, ERR_SERVICE, "device %s: this build has no CUDA back end; use --device cpu or auto",
                         which);
    int rc = backend->open(index, options, out_device, err);
    if (rc == ERR_SERVICE && err)
        (void)base_fail_in(err, "device %s", which);
    return rc;
}

int gpu_open_planner(const char *kind, const struct gpu_open_options *options, struct gpu_device **out_device,
                     struct base_error *err)
{
    const struct gpu_open_options defaults = {0};
    const struct gpu_backend *target = find_backend(kind, strlen(kind));
    if (!target || !target->upload_open)
        return base_fail(err, target ? ERR_USAGE : ERR_SERVICE,
                         "nothing can be planned for a device '%.32s' that is not here%s", kind,
                         target ? ": it always is" : "; this build has no such back end");
    return gpu_planner_open(target, options ? options : &defaults, out_device, err);
}

void gpu_close(struct gpu_device *device)
{
    if (device)
        device->backend->close(device);
}

const struct gpu_info *gpu_device_info(const struct gpu_device *device)
{
    return &device->info;
}

enum model_dtype gpu_device_dtype(const struct gpu_device *device, enum model_dtype file_dtype)
{
    return device->backend->auto_dtype(file_dtype);
}

/* A whole plan in *out_plan, its tensors in *out_tensors (the caller frees them). */
static int plan_model(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                      const struct gpu_limits *limits, struct gpu_plan *out_plan, struct gpu_tensor **out_tensors,
                      struct base_error *err)
{
    uint64_t workspace_bytes, kv_bytes;
    struct gpu_plan plan;
    int rc = gpu_plan_check(config, dtype, limits, err);
    if (rc == 0)
        rc = device->backend->check(device, config, dtype, err);
    if (rc < 0)
        return rc;
    struct gpu_tensor *tensors = calloc(gpu_plan_n_tensors(config), sizeof *tensors);
    if (!tensors)
        return base_fail(err, ERR_NOMEM, "no memory for a plan of %u tensors", gpu_plan_n_tensors(config));
    gpu_plan_weights(&plan, config, dtype, limits, tensors);
    device->backend->measure(device, &plan, &workspace_bytes, &kv_bytes);
    rc = gpu_plan_ranges(&plan, workspace_bytes, kv_bytes, err);
    if (rc < 0) {
        free(tensors);
        return rc;
    }
    *out_plan = plan;
    *out_tensors = tensors;
    return 0;
}

int gpu_plan_bytes(struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                   const struct gpu_limits *limits, uint64_t *out_weights_bytes, uint64_t *out_arena_bytes,
                   struct base_error *err)
{
    struct gpu_plan plan;
    struct gpu_tensor *tensors;
    int rc = plan_model(device, config, dtype, limits, &plan, &tensors, err);
    if (rc < 0)
        return rc;
    free(tensors);
    *out_weights_bytes = plan.weights_bytes;
    *out_arena_bytes = plan.arena_bytes;
    return 0;
}

int gpu_model_new(struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                  const struct gpu_limits *limits, struct gpu_model **out_model, struct base_error *err)
{
    struct gpu_plan plan;
    struct gpu_tensor *tensors;
    int rc = plan_model(device, config, dtype, limits, &plan, &tensors, err);
    if (rc < 0)
        return rc;
    rc = device->backend->model_new(device, &plan, tensors, out_model, err);
    if (rc < 0)
        free(tensors);
    return rc;
}

void gpu_model_free(struct gpu_model *model)
{
    if (!model)
        return;
    struct gpu_tensor *tensors = model->tensors;
    model->device->backend->model_free(model);
    free(tensors);
}

const struct gpu_plan *gpu_model_plan(const struct gpu_model *model)
{
    return &model->plan;
}

uint8_t *gpu_model_host(struct gpu_model *model)
{
    return model->device->backend->model_host(model);
}

bool gpu_device_maps(const struct gpu_device *device)
{
    return device->backend->model_map != NULL;
}

int gpu_model_map(struct gpu_model *model, int fd, uint64_t file_offset, struct base_error *err)
{
    assert(gpu_device_maps(model->device) && file_offset % GPU_MAP_ALIGN == 0);
    return model->device->backend->model_map(model, fd, file_offset, err);
}

int gpu_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err)
{
    assert(offset <= model->plan.weights_bytes && n_bytes <= model->plan.weights_bytes - offset);
    return model->device->backend->model_read(model, offset, n_bytes, to, err);
}

int gpu_model_load(struct gpu_model *model, const struct model_weights *weights,
                   void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                   struct base_error *err)
{
    int rc = model_weights_check(weights, &model->plan.config, err);
    if (rc < 0)
        return rc;
    return model->device->backend->model_load(model, weights, progress, context, err);
}

static int check_sequence(const struct gpu_plan *plan, const struct gpu_sequence *s, uint32_t index,
                          struct base_error *err)
{
    if (s->n_tokens == 0 || s->n_logits > s->n_tokens)
        return base_fail(err, ERR_USAGE, "sequence %u of the step has %u tokens and wants %u rows of logits", index,
                         s->n_tokens, s->n_logits);
    const uint64_t end = (uint64_t)s->position + s->n_tokens;
    if (end > plan->limits.n_ctx_max)
        return base_fail(err, ERR_INPUT, "sequence %u of the step ends at position %llu, past the context of %u tokens",
                         index, (unsigned long long)end, plan->limits.n_ctx_max);
    for (uint32_t i = 0; i < s->n_tokens; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= plan->config.vocab)
            return base_fail(err, ERR_INPUT, "token %d at position %u is outside the vocabulary of %u", s->tokens[i],
                             s->position + i, plan->config.vocab);
    const uint64_t n_blocks = (end + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    for (uint64_t i = 0; i < n_blocks; i++)
        if (s->blocks[i] >= plan->limits.n_blocks)
            return base_fail(err, ERR_USAGE, "sequence %u of the step names KV block %u of %u", index, s->blocks[i],
                             plan->limits.n_blocks);
    return 0;
}

int gpu_step_check(const struct gpu_plan *plan, const struct gpu_sequence *sequences, uint32_t n_sequences,
                   struct base_error *err)
{
    const struct gpu_limits *max = &plan->limits;
    if (n_sequences == 0 || n_sequences > max->n_seqs_max)
        return base_fail(err, ERR_USAGE, "a step of %u sequences; the limit is %u", n_sequences, max->n_seqs_max);
    uint64_t n_tokens = 0, n_logits = 0;
    for (uint32_t i = 0; i < n_sequences; i++) {
        int rc = check_sequence(plan, &sequences[i], i, err);
        if (rc < 0)
            return rc;
        n_tokens += sequences[i].n_tokens;
        n_logits += sequences[i].n_logits;
    }
    if (n_tokens > max->n_tokens_max || n_logits > max->n_logits_max)
        return base_fail(err, ERR_USAGE, "a step of %llu tokens and %llu rows of logits; the limits are %u and %u",
                         (unsigned long long)n_tokens, (unsigned long long)n_logits, max->n_tokens_max,
                         max->n_logits_max);
    return 0;
}

int gpu_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                      struct gpu_result *out_result, struct base_error *err)
{
    int rc = gpu_step_check(&model->plan, sequences, n_sequences, err);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < n_sequences; i++)
        assert(!sequences[i].sampling ||
               (sequences[i].n_logits == 1 && gpu_model_samples(model, sequences[i].sampling)));
    return model->device->backend->model_forward(model, sequences, n_sequences, out_result, err);
}

bool gpu_model_samples(const struct gpu_model *model, const struct model_sampling *sampling)
{
    return model->device->backend->model_samples(model, sampling);
}

void gpu_model_gate(struct gpu_model *model, int (*wait)(void *context, uint64_t end, struct base_error *err),
                    void *context)
{
    model->gate = wait;
    model->gate_context = context;
}

/* ---- what only a device with memory of its own has ---- */

int gpu_model_warm_up(struct gpu_model *model, struct base_error *err)
{
    const struct gpu_backend *b = model->device->backend;
    return b->model_warm_up ? b->model_warm_up(model, err) : 0;
}

int gpu_model_choices_export(struct gpu_model *model, struct base_buffer *out, struct base_error *err)
{
    const struct gpu_backend *b = model->device->backend;
    return b->choices_export ? b->choices_export(model, out, err) : 0;
}

int gpu_model_choices_import(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err)
{
    const struct gpu_backend *b = model->device->backend;
    if (b->choices_import)
        return b->choices_import(model, bytes, n, err);
    return n == 0 ? 0 : base_fail(err, ERR_CORRUPT, "choices: %zu bytes, a %s has nothing to choose", n, b->kind);
}

bool gpu_device_uploads(const struct gpu_device *device)
{
    return device->backend->upload_open != NULL;
}

int gpu_upload_open(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes, struct gpu_upload **out_upload,
                    struct base_error *err)
{
    assert(device->backend->upload_open && n_slots > 0 && slot_bytes % GPU_RANGE_ALIGN == 0);
    return device->backend->upload_open(device, n_slots, slot_bytes, out_upload, err);
}

int gpu_upload_take(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err)
{
    return upload->device->backend->upload_take(upload, out_slot, out_buffer, err);
}

int gpu_upload_put(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset, uint64_t n_bytes,
                   struct base_error *err)
{
    assert(n_bytes == 0 || (offset <= model->plan.weights_bytes && n_bytes <= model->plan.weights_bytes - offset));
    return upload->device->backend->upload_put(upload, slot, model, offset, n_bytes, err);
}

int gpu_upload_sync(struct gpu_upload *upload, struct base_error *err)
{
    return upload->device->backend->upload_sync(upload, err);
}

void gpu_upload_close(struct gpu_upload *upload)
{
    if (upload)
        upload->device->backend->upload_close(upload);
}

int gpu_direct_open(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err)
{
    const struct gpu_backend *b = device->backend;
    if (!b->direct_open)
        return base_fail(err, ERR_NOTFOUND, "a %s is not filled from storage directly", b->kind);
    return b->direct_open(device, fd, out_direct, err);
}

int gpu_direct_read(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                    uint64_t file_offset, uint64_t *out_hash, struct base_error *err)
{
    assert(offset <= model->plan.weights_bytes && n_bytes <= model->plan.weights_bytes - offset);
    assert(n_bytes % GPU_RANGE_ALIGN == 0 && offset % GPU_RANGE_ALIGN == 0 && file_offset % GPU_RANGE_ALIGN == 0);
    return direct->device->backend->direct_read(direct, model, offset, n_bytes, file_offset, out_hash, err);
}

void gpu_direct_close(struct gpu_direct *direct)
{
    if (direct)
        direct->device->backend->direct_close(direct);
}

static int no_sleep(const struct gpu_model *model, struct base_error *err)
{
    return base_fail(err, ERR_USAGE, "a %s has no memory of its own to give back", model->device->backend->kind);
}

int gpu_model_sleep(struct gpu_model *model, struct base_error *err)
{
    const struct gpu_backend *b = model->device->backend;
    return b->model_sleep ? b->model_sleep(model, err) : no_sleep(model, err);
}

int gpu_model_wake(struct gpu_model *model, struct base_error *err)
{
    const struct gpu_backend *b = model->device->backend;
    return b->model_wake ? b->model_wake(model, err) : no_sleep(model, err);
}
