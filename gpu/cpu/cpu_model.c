#include "gpu/cpu/cpu_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gpu/plan.h"

#define HUGE_PAGE ((uint64_t)2 << 20)

/* Takes pieces of a range one after the other; without a base it only counts. */
struct carver {
    uint8_t *base;
    uint64_t at;
};

static void *carve(struct carver *c, uint64_t n, size_t element_bytes)
{
    void *piece = c->base ? c->base + c->at : NULL;
    const uint64_t bytes = n * element_bytes;
    c->at += (bytes + GPU_TENSOR_ALIGN - 1) / GPU_TENSOR_ALIGN * GPU_TENSOR_ALIGN;
    return piece;
}

/* The one list of what is in the workspace; returns its size. base: where it lies, or NULL to measure. The plan's bounds
 * (gpu_plan_check) keep each term below 2^47. */
static uint64_t workspace_lay_out(struct cpu_workspace *ws, uint8_t *base, const struct gpu_plan *plan,
                                  uint32_t n_threads)
{
    const struct model_config *c = &plan->config;
    const uint64_t t = plan->limits.n_tokens_max, n_logits = plan->limits.n_logits_max, e = c->hidden;
    const uint64_t half = c->rotary_dims / 2;
    const uint32_t cols_max = c->hidden > c->intermediate ? c->hidden : c->intermediate;
    struct carver a = {.base = base};

    *ws = (struct cpu_workspace){.scratch_floats = cpu_scratch_floats(cols_max, plan->limits.n_ctx_max)};
    ws->tokens = carve(&a, t, sizeof *ws->tokens);
    ws->logit_tokens = carve(&a, n_logits, sizeof *ws->logit_tokens);
    ws->inv_freq = carve(&a, half, sizeof(float));
    ws->cos = carve(&a, t * half, sizeof(float));
    ws->sin = carve(&a, t * half, sizeof(float));
    ws->x = carve(&a, t * e, sizeof(float));
    ws->normed = carve(&a, t * e, sizeof(float));
    ws->normed_mlp = carve(&a, t * e, sizeof(float));
    ws->qkv = carve(&a, t * e * 3, sizeof(float));
    ws->attended = carve(&a, t * e, sizeof(float));
    ws->inner = carve(&a, t * c->intermediate, sizeof(float));
    ws->delta = carve(&a, t * e, sizeof(float));
    ws->last = carve(&a, n_logits * e, sizeof(float));
    ws->logits = carve(&a, n_logits * c->vocab, sizeof(float));
    ws->scratch = carve(&a, n_threads * ws->scratch_floats, sizeof(float));
    return a.at;
}

void cpu_model_measure(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                       uint64_t *out_kv_bytes)
{
    struct cpu_workspace ws;
    *out_workspace_bytes = workspace_lay_out(&ws, NULL, plan, device->info.n_threads);
    /* K and V, f32 */
    *out_kv_bytes = (uint64_t)plan->config.n_layers * plan->limits.n_blocks * 2 * plan->config.hidden *
                    GPU_BLOCK_TOKENS * sizeof(float);
}

static int fail_memory(const struct gpu_plan *plan, uint64_t memory_bytes, struct base_error *err)
{
    return base_fail(
        err, ERR_NOMEM,
        "no memory for a model of %.2f GB (weights %.2f, workspace %.2f, KV %.2f in %u blocks of %u tokens); "
        "this machine has %.2f GB",
        (double)plan->arena_bytes / 1e9, (double)plan->weights_bytes / 1e9, (double)plan->workspace_bytes / 1e9,
        (double)plan->kv_bytes / 1e9, plan->limits.n_blocks, GPU_BLOCK_TOKENS, (double)memory_bytes / 1e9);
}

/* One mapping, aligned for huge pages: they save most of the cost of first touch, and of walking page tables later. Not for the
 * workspace: a request of a few tokens would touch the beginning of each of its arrays, and pay for clearing megabytes around it. */
static int map_arena(struct cpu_model *m, struct base_error *err)
{
    const uint64_t bytes = m->base.plan.arena_bytes, memory_bytes = m->device->base.info.memory_bytes;
    if (bytes > memory_bytes)
        return fail_memory(&m->base.plan, memory_bytes, err);
    uint8_t *mapping = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return fail_memory(&m->base.plan, memory_bytes, err);
    const uint64_t before = (HUGE_PAGE - (uintptr_t)mapping % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        munmap(mapping, before);
    munmap(mapping + before + bytes, HUGE_PAGE - before);
    m->arena = mapping + before;
    /* without it everything works, a little slower */
    (void)madvise(m->arena, m->base.plan.weights_bytes, MADV_HUGEPAGE);
    (void)madvise(m->arena + m->base.plan.kv_offset, m->base.plan.kv_bytes, MADV_HUGEPAGE);
    return 0;
}

static struct cpu_linear bind_linear(const struct cpu_model *m, const struct gpu_tensor *w,
                                     const struct gpu_tensor *bias)
{
    return (struct cpu_linear){
        .w = m->arena + w->offset,
        .bias = bias ? (const float *)(const void *)(m->arena + bias->offset) : NULL,
        .rows = w->rows,
        .cols = w->cols,
    };
}

static struct cpu_norm bind_norm(const struct cpu_model *m, const struct gpu_tensor *gain,
                                 const struct gpu_tensor *bias)
{
    return (struct cpu_norm){(const float *)(const void *)(m->arena + gain->offset),
                             (const float *)(const void *)(m->arena + bias->offset)};
}

static void bind_weights(struct cpu_model *m)
{
    const struct gpu_plan *p = &m->base.plan;
    m->embedding = m->arena + gpu_plan_embedding(p)->offset;
    for (uint32_t l = 0; l < p->config.n_layers; l++) {
        struct cpu_layer *y = &m->layers[l];
        y->ln1 = bind_norm(m, gpu_plan_layer(p, l, GPU_LN1_GAIN), gpu_plan_layer(p, l, GPU_LN1_BIAS));
        y->ln2 = bind_norm(m, gpu_plan_layer(p, l, GPU_LN2_GAIN), gpu_plan_layer(p, l, GPU_LN2_BIAS));
        y->qkv = bind_linear(m, gpu_plan_layer(p, l, GPU_QKV), gpu_plan_layer(p, l, GPU_QKV_BIAS));
        y->dense = bind_linear(m, gpu_plan_layer(p, l, GPU_DENSE), gpu_plan_layer(p, l, GPU_DENSE_BIAS));
        y->up = bind_linear(m, gpu_plan_layer(p, l, GPU_UP), gpu_plan_layer(p, l, GPU_UP_BIAS));
        y->down = bind_linear(m, gpu_plan_layer(p, l, GPU_DOWN), gpu_plan_layer(p, l, GPU_DOWN_BIAS));
    }
    m->final_norm = bind_norm(m, gpu_plan_final_gain(p), gpu_plan_final_bias(p));
    m->output = bind_linear(m, gpu_plan_output(p), NULL);
}

/* base^(-2i/R), rounded where Hugging Face rounds. Computed in double: libm versions differ in a double's last bit, which
 * survives the rounding to f32 once in 2^28 values. The same goes for cos and sin in neox_forward.c. */
static void set_inv_freq(struct cpu_model *m)
{
    const struct model_config *c = &m->base.plan.config;
    for (uint32_t i = 0; i < c->rotary_dims / 2; i++) {
        const float exponent = (float)(2 * i) / (float)c->rotary_dims;
        m->ws.inv_freq[i] = 1.0f / (float)pow((double)c->rotary_base, (double)exponent);
    }
}

int cpu_model_new(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                  struct gpu_model **out_model, struct base_error *err)
{
    int rc;
    struct cpu_model *m = calloc(1, sizeof *m);
    struct cpu_layer *layers = calloc(plan->config.n_layers, sizeof *layers);
    if (!m || !layers) {
        rc = base_fail(err, ERR_NOMEM, "no memory for a model of %u layers", plan->config.n_layers);
        goto fail;
    }
    m->device = (struct cpu_device *)device;
    m->layers = layers;
    m->base = (struct gpu_model){.device = device, .plan = *plan, .tensors = tensors};
    rc = map_arena(m, err);
    if (rc < 0)
        goto fail;
    bind_weights(m);
    const uint64_t bytes = workspace_lay_out(&m->ws, m->arena + plan->workspace_offset, plan, device->info.n_threads);
    assert(bytes == plan->workspace_bytes);
    m->kv = (float *)(void *)(m->arena + plan->kv_offset);
    set_inv_freq(m);
    *out_model = &m->base;
    return 0;
fail:
    free(layers);
    free(m);
    return rc;
}

void cpu_model_free(struct gpu_model *model)
{
    struct cpu_model *m = (struct cpu_model *)model;
    munmap(m->arena, m->base.plan.arena_bytes);
    free(m->layers);
    free(m);
}

uint8_t *cpu_model_host(struct gpu_model *model)
{
    return ((struct cpu_model *)model)->arena;
}

/* In the place of the arena's own pages, which have not been touched. Huge pages need the same alignment in memory and in the
 * file; a file system that keeps 4 KiB pages costs a little more per page, now and at each walk of the page table. */
int cpu_model_map(struct gpu_model *model, int fd, uint64_t file_offset, struct base_error *err)
{
    struct cpu_model *m = (struct cpu_model *)model;
    const uint64_t bytes = m->base.plan.weights_bytes;
    if (mmap(m->arena, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)file_offset) == MAP_FAILED)
        return base_fail_errno(err, "map %.2f GB of weights", (double)bytes / 1e9);
    (void)madvise(m->arena, bytes, MADV_HUGEPAGE);
    return 0;
}

int cpu_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err)
{
    (void)err;
    memcpy(to, ((struct cpu_model *)model)->arena + offset, n_bytes);
    return 0;
}

bool cpu_model_samples(const struct gpu_model *model, const struct model_sampling *sampling)
{
    (void)model, (void)sampling; /* logits are where the sampler runs: there is nothing to gain */
    return false;
}

int cpu_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                      struct gpu_result *out_result, struct base_error *err)
{
    struct cpu_model *m = (struct cpu_model *)model;
    uint32_t n_tokens = 0, n_logits = 0;
    for (uint32_t i = 0; i < n_sequences; i++) {
        const struct gpu_sequence *s = &sequences[i];
        for (uint32_t j = 0; j < s->n_tokens; j++)
            m->ws.tokens[n_tokens + j] = (struct cpu_token){s->tokens[j], s->position + j, s->blocks};
        n_tokens += s->n_tokens;
        for (uint32_t j = 0; j < s->n_logits; j++)
            m->ws.logit_tokens[n_logits++] = n_tokens - s->n_logits + j;
    }
    int rc = neox_forward(m, n_tokens, n_logits, err);
    if (rc == 0)
        *out_result = (struct gpu_result){.logits = m->ws.logits};
    return rc;
}
