#include "gpu/cuda/cuda_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/plan.h"

/* ---- what can be run ---- */

enum model_dtype cuda_model_auto_dtype(enum model_dtype file_dtype)
{
    return file_dtype == MODEL_F32 ? MODEL_F16 : file_dtype;
}

int cuda_model_check(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                     struct base_error *err)
{
    static const uint32_t head_dims[] = {32, 64, 80, 96, 128, 256};
    const uint32_t multiple = dtype == MODEL_Q8 ? 16 : 8; /* 16 bytes of a row are read at once */
    bool known = false;
    (void)device;
    for (size_t i = 0; i < sizeof head_dims / sizeof *head_dims; i++)
        known |= head_dims[i] == config->head_dim;
    if (!known)
        return base_fail(err, ERR_USAGE,
                         "no CUDA kernels for heads of %u; there are for 32, 64, 80, 96, 128 and 256; use --device cpu",
                         config->head_dim);
    if (dtype == MODEL_F32)
        return base_fail(err, ERR_USAGE, "a CUDA device computes in f16 or bf16, not f32; use --dtype f16");
    if (config->hidden % multiple != 0 || config->intermediate % multiple != 0)
        return base_fail(err, ERR_USAGE,
                         "a CUDA device wants sizes that are multiples of %u, not %u and %u; use --device cpu",
                         multiple, config->hidden, config->intermediate);
    return 0;
}

bool cuda_model_samples(const struct gpu_model *model, const struct model_sampling *sampling)
{
    (void)model;
    /* the penalty wants the tokens so far, the probabilities want the sum over all */
    return sampling->repetition_penalty == 1 && sampling->n_logprobs == 0;
}

/* ---- the layout of the workspace, and of what is copied to it ---- */

/* Takes pieces of a range one after the other; with base 0 it only counts. */
struct carver {
    uintptr_t base, at;
};

static void *carve(struct carver *c, uint64_t n, size_t element_bytes)
{
    void *piece = c->base ? (void *)(c->base + c->at) : NULL;
    const uint64_t bytes = n * element_bytes;
    c->at += (bytes + GPU_TENSOR_ALIGN - 1) / GPU_TENSOR_ALIGN * GPU_TENSOR_ALIGN;
    return piece;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

struct inputs_shape {
    uint32_t rows, logits, draws, tiles, slots, blocks_stride;
};

static struct cuda_inputs inputs_lay_out(uintptr_t base, const struct inputs_shape *s)
{
    struct carver a = {.base = base};
    struct cuda_inputs in;
    in.counts = carve(&a, 1, sizeof *in.counts);
    in.tokens = carve(&a, s->rows, sizeof *in.tokens);
    in.positions = carve(&a, s->rows, sizeof *in.positions);
    in.slots = carve(&a, s->rows, sizeof *in.slots);
    in.logit_rows = carve(&a, s->logits, sizeof *in.logit_rows);
    in.draws = carve(&a, s->draws, sizeof *in.draws);
    in.tiles = carve(&a, s->tiles, sizeof *in.tiles);
    in.blocks_at = a.at;
    in.blocks = carve(&a, (uint64_t)s->slots * s->blocks_stride, sizeof *in.blocks);
    in.bytes = a.at;
    return in;
}

/* Shapes of the inputs of both kinds of passes. */
static void inputs_shapes(const struct gpu_plan *plan, struct inputs_shape *prompt, struct inputs_shape *generated)
{
    const struct gpu_limits *max = &plan->limits;
    const uint32_t rows = (uint32_t)min_u64(max->n_tokens_max, CUDA_GENERATED_ROWS_MAX);
    const uint32_t stride = (max->n_ctx_max + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    const uint32_t draws = (uint32_t)min_u64(max->n_seqs_max, max->n_logits_max);
    *prompt = (struct inputs_shape){.rows = max->n_tokens_max,
                                    .logits = max->n_logits_max,
                                    .draws = draws,
                                    .tiles = max->n_tokens_max / CUDA_PREFILL_TILE + max->n_seqs_max,
                                    .slots = max->n_seqs_max,
                                    .blocks_stride = stride};
    *generated = (struct inputs_shape){.rows = rows,
                                       .logits = (uint32_t)min_u64(rows, max->n_logits_max),
                                       .draws = (uint32_t)min_u64(rows, draws),
                                       .slots = (uint32_t)min_u64(rows, max->n_seqs_max),
                                       .blocks_stride = stride};
}

static void *carve_inputs(struct carver *a, const struct inputs_shape *shape, struct cuda_inputs *out)
{
    const uintptr_t here = a->base ? a->base + a->at : 0;
    *out = inputs_lay_out(here, shape);
    return carve(a, out->bytes, 1);
}

/* The one list of what is in the workspace; returns its size. base: where it lies, or 0 to measure. */
static uint64_t workspace_lay_out(struct cuda_workspace *ws, uintptr_t base, const struct gpu_plan *plan, bool fastest)
{
    const struct model_config *c = &plan->config;
    const uint64_t t = plan->limits.n_tokens_max, n_logits = plan->limits.n_logits_max, e = c->hidden,
                   f = c->intermediate;
    const uint64_t half = c->rotary_dims / 2;
    const uint32_t split = cuda_split_positions(c->head_dim);
    struct inputs_shape prompt, generated;
    struct carver a = {.base = base};

    inputs_shapes(plan, &prompt, &generated);
    *ws = (struct cuda_workspace){.rows_max = prompt.rows,
                                  .generated_max = generated.rows,
                                  .sample_max = prompt.draws,
                                  .tiles_max = prompt.tiles,
                                  .blocks_stride = prompt.blocks_stride,
                                  .n_splits = (plan->limits.n_ctx_max + split - 1) / split};
    carve_inputs(&a, &prompt, &ws->prompt);
    carve_inputs(&a, &generated, &ws->generated);
    ws->cos = carve(&a, plan->limits.n_ctx_max * half, sizeof(float));
    ws->sin = carve(&a, plan->limits.n_ctx_max * half, sizeof(float));
    ws->zeros = carve(&a, 3 * e > f ? 3 * e : f, sizeof(float));
    ws->biases = carve(&a, c->n_layers * (3 * e + f), sizeof(uint16_t));
    ws->x = carve(&a, t * e, sizeof(float));
    ws->normed = carve(&a, t * e, sizeof(uint16_t));
    ws->normed_mlp = carve(&a, t * e, sizeof(uint16_t));
    ws->qkv = carve(&a, t * e * 3, sizeof(uint16_t));
    ws->attended = carve(&a, t * e, sizeof(uint16_t));
    ws->inner = carve(&a, t * f, sizeof(uint16_t));
    ws->part_o = carve(&a, ws->generated_max * e * ws->n_splits, sizeof(float));
    ws->part_ml = carve(&a, (uint64_t)ws->generated_max * c->n_heads * ws->n_splits * 2, sizeof(float));
    ws->last = carve(&a, n_logits * e, sizeof(uint16_t));
    ws->logits = carve(&a, n_logits * c->vocab, sizeof(float));
    ws->sampled = carve(&a, ws->sample_max, sizeof *ws->sampled);
    ws->sample_scratch = carve(&a, ws->sample_max * cuda_sample_scratch_bytes(c->vocab), 1);
    ws->gemm_scratch = carve(&a, cuda_gemm_scratch_bytes(fastest), 1);
    return a.at;
}

void cuda_model_measure(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                        uint64_t *out_kv_bytes)
{
    struct cuda_workspace ws;
    *out_workspace_bytes = workspace_lay_out(&ws, 0, plan, ((const struct cuda_device *)device)->fastest_gemms);
    *out_kv_bytes = (uint64_t)plan->config.n_layers * plan->limits.n_blocks * 2 * plan->config.hidden *
                    GPU_BLOCK_TOKENS * sizeof(uint16_t);
}

/* ---- pointing at the weights ---- */

static const void *address_of(const struct cuda_model *m, const struct gpu_tensor *t)
{
    return (const void *)(uintptr_t)(m->arena.base + t->offset);
}

static struct cuda_linear bind_linear(const struct cuda_model *m, enum cuda_product product, const struct gpu_tensor *w,
                                      const struct gpu_tensor *bias, uint16_t *bias_half)
{
    struct cuda_linear linear = {.product = product, .w = address_of(m, w), .rows = w->rows, .cols = w->cols};
    if (w->dtype == MODEL_Q8)
        linear.scale = (const float *)(uintptr_t)(m->arena.base + w->offset + gpu_tensor_scales(w));
    if (bias) {
        linear.bias = address_of(m, bias);
        linear.bias_half = bias_half;
    }
    return linear;
}

static struct cuda_norm bind_norm(const struct cuda_model *m, const struct gpu_tensor *gain,
                                  const struct gpu_tensor *bias)
{
    return (struct cuda_norm){address_of(m, gain), address_of(m, bias)};
}

static void bind_weights(struct cuda_model *m)
{
    const struct gpu_plan *p = &m->base.plan;
    const uint64_t e = p->config.hidden, f = p->config.intermediate;
    m->embedding = address_of(m, gpu_plan_embedding(p));
    for (uint32_t l = 0; l < p->config.n_layers; l++) {
        struct cuda_layer *y = &m->layers[l];
        uint16_t *biases = m->ws.biases + l * (3 * e + f);
        y->ln1 = bind_norm(m, gpu_plan_layer(p, l, GPU_LN1_GAIN), gpu_plan_layer(p, l, GPU_LN1_BIAS));
        y->ln2 = bind_norm(m, gpu_plan_layer(p, l, GPU_LN2_GAIN), gpu_plan_layer(p, l, GPU_LN2_BIAS));
        y->qkv = bind_linear(m, CUDA_QKV, gpu_plan_layer(p, l, GPU_QKV), gpu_plan_layer(p, l, GPU_QKV_BIAS), biases);
        y->dense =
            bind_linear(m, CUDA_DENSE, gpu_plan_layer(p, l, GPU_DENSE), gpu_plan_layer(p, l, GPU_DENSE_BIAS), NULL);
        y->up =
            bind_linear(m, CUDA_UP, gpu_plan_layer(p, l, GPU_UP), gpu_plan_layer(p, l, GPU_UP_BIAS), biases + 3 * e);
        y->down = bind_linear(m, CUDA_DOWN, gpu_plan_layer(p, l, GPU_DOWN), gpu_plan_layer(p, l, GPU_DOWN_BIAS), NULL);
    }
    m->final_norm = bind_norm(m, gpu_plan_final_gain(p), gpu_plan_final_bias(p));
    m->output = bind_linear(m, CUDA_OUTPUT, gpu_plan_output(p), NULL, NULL);
}

/* ---- constants of the workspace ---- */

/* Angles are rounded to f32 where Hugging Face rounds, and everything else is computed in double: libm versions differ in a
 * double's last bit, which survives the rounding to f32 once in 2^28 values. The same numbers as on the cpu. */
static void fill_angles(const struct model_config *c, uint32_t n_ctx, float *cos_table, float *sin_table)
{
    const uint32_t half = c->rotary_dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        const float exponent = (float)(2 * i) / (float)c->rotary_dims;
        const float inv_freq = 1.0f / (float)pow((double)c->rotary_base, (double)exponent);
        for (uint32_t p = 0; p < n_ctx; p++) {
            const double angle = (double)((float)p * inv_freq);
            cos_table[(size_t)p * half + i] = (float)cos(angle);
            sin_table[(size_t)p * half + i] = (float)sin(angle);
        }
    }
}

static int copy_constant(struct cuda_model *m, const void *to, const void *from, uint64_t n_bytes,
                         struct base_error *err)
{
    struct cuda_device *d = m->device;
    if (n_bytes == 0)
        return 0;
    return cuda_check(d, d->cu->MemcpyHtoDAsync((CUdeviceptr)(uintptr_t)to, from, n_bytes, d->compute), err,
                      "copying the tables of angles");
}

/* Written when the memory is new: at first and after sleep. */
static int write_constants(struct cuda_model *m, struct base_error *err)
{
    struct cuda_device *d = m->device;
    const struct gpu_plan *p = &m->base.plan;
    const uint64_t n_angles = (uint64_t)p->limits.n_ctx_max * (p->config.rotary_dims / 2);
    const uint64_t e = p->config.hidden, f = p->config.intermediate, n_zeros = 3 * e > f ? 3 * e : f;
    float *angles = calloc(2 * n_angles + n_zeros, sizeof *angles);
    if (!angles)
        return base_fail(err, ERR_NOMEM, "no memory for a table of angles");
    fill_angles(&p->config, p->limits.n_ctx_max, angles, angles + n_angles);
    int rc = copy_constant(m, m->ws.cos, angles, n_angles * sizeof *angles, err);
    if (rc == 0)
        rc = copy_constant(m, m->ws.sin, angles + n_angles, n_angles * sizeof *angles, err);
    if (rc == 0)
        rc = copy_constant(m, m->ws.zeros, angles + 2 * n_angles, n_zeros * sizeof *angles, err);
    if (rc == 0)
        rc = cuda_check(d, d->cu->StreamSynchronize(d->compute), err, "copying the tables of angles");
    free(angles);
    return rc;
}

/* ---- this process's side ---- */

/* Pages of their own for each piece: what is on its way must not share one with what is being written. */
static void *carve_pages(struct carver *a, uint64_t n_bytes)
{
    a->at = (a->at + GPU_RANGE_ALIGN - 1) / GPU_RANGE_ALIGN * GPU_RANGE_ALIGN;
    return carve(a, n_bytes, 1);
}

/* Returns the size of the pinned block. base: where it lies, or 0 to measure. */
static uint64_t host_lay_out(struct cuda_host *h, uintptr_t base, const struct gpu_plan *plan)
{
    struct inputs_shape prompt, generated;
    struct carver a = {.base = base};
    inputs_shapes(plan, &prompt, &generated);
    h->prompt = inputs_lay_out(base, &prompt);
    carve_pages(&a, h->prompt.bytes);
    for (uint32_t i = 0; i < h->n_generated; i++) {
        a.at = (a.at + GPU_RANGE_ALIGN - 1) / GPU_RANGE_ALIGN * GPU_RANGE_ALIGN;
        carve_inputs(&a, &generated, &h->generated[i]);
    }
    h->logits = carve_pages(&a, (uint64_t)plan->limits.n_logits_max * plan->config.vocab * sizeof(float));
    h->sampled = carve_pages(&a, plan->limits.n_seqs_max * sizeof *h->sampled);
    return a.at;
}

static int host_init(struct cuda_model *m, struct base_error *err)
{
    struct cuda_device *d = m->device;
    struct cuda_host *h = &m->host;
    const struct gpu_plan *plan = &m->base.plan;
    const uint32_t n_seqs = plan->limits.n_seqs_max, g = m->ws.generated_max;
    h->n_generated = (plan->limits.n_tokens_max + g - 1) / g;
    h->generated = calloc(h->n_generated, sizeof *h->generated);
    h->members = calloc(n_seqs, sizeof *h->members);
    h->first_logit = calloc(n_seqs, sizeof *h->first_logit);
    h->drawn_for = calloc(n_seqs, sizeof *h->drawn_for);
    h->result_sampled = calloc(n_seqs, sizeof *h->result_sampled);
    if (!h->generated || !h->members || !h->first_logit || !h->drawn_for || !h->result_sampled)
        return base_fail(err, ERR_NOMEM, "no memory for steps of %u sequences", n_seqs);
    const uint64_t bytes = host_lay_out(h, 0, plan);
    const int rc = cuda_check(d, d->cu->MemHostAlloc((void **)&h->pinned, bytes, 0), err,
                              "%llu bytes of pinned memory for steps", (unsigned long long)bytes);
    if (rc < 0) {
        h->pinned = NULL;
        return rc;
    }
    (void)host_lay_out(h, (uintptr_t)h->pinned, plan);
    return 0;
}

static void host_done(struct cuda_model *m)
{
    struct cuda_host *h = &m->host;
    if (h->pinned)
        (void)m->device->cu->MemFreeHost(h->pinned);
    free(h->generated);
    free(h->members);
    free(h->first_logit);
    free(h->drawn_for);
    free(h->result_sampled);
}

/* ---- new, free ---- */

static int fail_memory(const struct gpu_plan *plan, const struct gpu_info *info, struct base_error *err)
{
    return base_fail(
        err, ERR_NOMEM,
        "no memory for a model of %.2f GB (weights %.2f, workspace %.2f, KV %.2f in %u blocks of %u tokens); "
        "%s has %.2f GB",
        (double)plan->arena_bytes / 1e9, (double)plan->weights_bytes / 1e9, (double)plan->workspace_bytes / 1e9,
        (double)plan->kv_bytes / 1e9, plan->limits.n_blocks, GPU_BLOCK_TOKENS, info->name,
        (double)info->memory_bytes / 1e9);
}

/* Puts what the memory was for before the driver's own text. */
static int explain_memory(const struct gpu_plan *plan, struct base_error *err)
{
    if (!err)
        return 0;
    return base_fail_in(err, "a model of %.2f GB (weights %.2f, workspace %.2f, KV %.2f in %u blocks of %u tokens)",
                        (double)plan->arena_bytes / 1e9, (double)plan->weights_bytes / 1e9,
                        (double)plan->workspace_bytes / 1e9, (double)plan->kv_bytes / 1e9, plan->limits.n_blocks,
                        GPU_BLOCK_TOKENS);
}

static uint32_t count_buckets(const struct cuda_model *m)
{
    uint32_t n = 1;
    while (1u << (n - 1) < m->ws.generated_max)
        n++;
    return n;
}

static int make_events(struct cuda_model *m, struct base_error *err)
{
    struct cuda_device *d = m->device;
    int rc = cuda_check(d, d->cu->EventCreate(&m->copies, CU_EVENT_DISABLE_TIMING), err, "an event for copies");
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventCreate(&m->done, CU_EVENT_DISABLE_TIMING), err, "an event for steps");
    return rc;
}

static void model_free(struct cuda_model *m)
{
    const struct cuda_driver *cu = m->device->cu;
    for (uint32_t i = 0; i < CUDA_BUCKETS; i++) {
        if (m->buckets[i].exec)
            (void)cu->GraphExecDestroy(m->buckets[i].exec);
        cuda_topology_done(&m->buckets[i].topology);
    }
    cuda_gemms_done(&m->gemms);
    if (m->done)
        (void)cu->EventDestroy(m->done);
    if (m->copies)
        (void)cu->EventDestroy(m->copies);
    host_done(m);
    if (m->arena.pieces)
        cuda_arena_done(&m->arena);
    free(m->layers);
    free(m);
}

int cuda_model_new(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                   struct gpu_model **out_model, struct base_error *err)
{
    struct cuda_device *d = (struct cuda_device *)device;
    if (plan->arena_bytes > device->info.memory_bytes)
        return fail_memory(plan, &device->info, err);
    struct cuda_model *m = calloc(1, sizeof *m);
    if (!m)
        return base_fail(err, ERR_NOMEM, "no memory for a model");
    *m = (struct cuda_model){
        .base = {.device = device, .plan = *plan, .tensors = tensors}, .device = d, .bf16 = plan->dtype == MODEL_BF16};
    int rc = cuda_device_context(d, err);
    if (rc < 0)
        goto fail;
    m->layers = calloc(plan->config.n_layers, sizeof *m->layers);
    if (!m->layers) {
        rc = base_fail(err, ERR_NOMEM, "no memory for a model of %u layers", plan->config.n_layers);
        goto fail;
    }
    rc = cuda_arena_init(&m->arena, d, plan->arena_bytes, err);
    if (rc < 0) {
        (void)explain_memory(plan, err);
        goto fail;
    }
    const uint64_t bytes =
        workspace_lay_out(&m->ws, (uintptr_t)(m->arena.base + plan->workspace_offset), plan, d->fastest_gemms);
    assert(bytes == plan->workspace_bytes);
    m->kv = (uint16_t *)(uintptr_t)(m->arena.base + plan->kv_offset);
    m->n_buckets = count_buckets(m);
    bind_weights(m);
    rc = host_init(m, err);
    if (rc == 0)
        rc = make_events(m, err);
    if (rc == 0)
        rc = write_constants(m, err);
    if (rc < 0)
        goto fail;
    *out_model = &m->base;
    return 0;
fail:
    model_free(m);
    return rc;
}

void cuda_model_free(struct gpu_model *model)
{
    struct cuda_model *m = (struct cuda_model *)model;
    (void)cuda_device_context(m->device, NULL); /* fails when the device has; then all below does and may */
    (void)m->device->cu->StreamSynchronize(m->device->copy);
    (void)m->device->cu->StreamSynchronize(m->device->compute);
    model_free(m);
}

uint8_t *cuda_model_host(struct gpu_model *model)
{
    (void)model; /* a card's memory is not this process's */
    return NULL;
}

int cuda_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    struct cuda_device *d = m->device;
    assert(!m->asleep);
    int rc = cuda_device_context(d, err);
    if (rc == 0 && n_bytes > 0)
        rc = cuda_check(d, d->cu->MemcpyDtoHAsync(to, m->arena.base + offset, n_bytes, d->copy), err,
                        "reading %llu bytes from %s", (unsigned long long)n_bytes, d->base.info.name);
    if (rc == 0)
        rc = cuda_check(d, d->cu->StreamSynchronize(d->copy), err, "reading from %s", d->base.info.name);
    return rc;
}

int cuda_model_await_copies(struct cuda_model *m, struct base_error *err)
{
    struct cuda_device *d = m->device;
    if (!atomic_exchange(&m->copies_put, false))
        return 0;
    CUresult result = d->cu->EventRecord(m->copies, d->copy);
    if (result == CUDA_SUCCESS)
        result = d->cu->StreamWaitEvent(d->compute, m->copies, 0);
    return cuda_check(d, result, err, "waiting for weights on their way to %s", d->base.info.name);
}

/* ---- getting ready to run ---- */

static int init_gemms(struct cuda_model *m, struct base_error *err)
{
    const struct gpu_limits *max = &m->base.plan.limits;
    const struct cuda_layer *layer = &m->layers[0];
    const struct cuda_linear *linears[CUDA_PRODUCTS] = {
        [CUDA_QKV] = &layer->qkv,   [CUDA_DENSE] = &layer->dense, [CUDA_UP] = &layer->up,
        [CUDA_DOWN] = &layer->down, [CUDA_OUTPUT] = &m->output,
    };
    struct cuda_gemm_shape shapes[CUDA_PRODUCTS];
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++)
        shapes[i] = (struct cuda_gemm_shape){.n = linears[i]->rows,
                                             .k = linears[i]->cols,
                                             .rows_max = i == CUDA_OUTPUT ? max->n_logits_max : max->n_tokens_max,
                                             .has_bias = linears[i]->bias != NULL,
                                             .unused = linears[i]->scale != NULL};
    return cuda_gemms_init(&m->gemms, m->device, m->bf16, m->ws.gemm_scratch, shapes, err);
}

int cuda_model_prepare(struct cuda_model *m, const void *image, size_t image_bytes, struct base_error *err)
{
    struct cuda_device *d = m->device;
    int rc = cuda_device_ready(d, err);
    if (rc < 0 || m->prepared)
        return rc;
    rc = cuda_module_need(d, image, image_bytes, err);
    if (rc == 0)
        rc = cuda_functions_find(&m->functions, d->module, m->bf16, m->base.plan.config.head_dim, err);
    if (rc == 0)
        rc = init_gemms(m, err);
    m->prepared = rc == 0;
    return rc;
}

int cuda_model_build_graphs(struct cuda_model *m, struct base_error *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < m->n_buckets && rc == 0; i++) {
        struct cuda_bucket *b = &m->buckets[i];
        if (!b->topology.nodes)
            rc = cuda_forward_record(m, 1u << i, &b->topology, err);
        if (rc == 0 && !b->exec && !m->device->no_graphs)
            rc = cuda_graph_build(m->device, &m->functions, &b->topology, &b->exec, err);
    }
    return rc;
}

int cuda_model_warm_up(struct gpu_model *model, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    const struct cuda_layer *layer = &m->layers[0];
    const struct cuda_workspace *ws = &m->ws;
    const struct cuda_gemm_at at[CUDA_PRODUCTS] = {
        [CUDA_QKV] = {layer->qkv.w, ws->normed, layer->qkv.bias_half, ws->qkv},
        [CUDA_DENSE] = {layer->dense.w, ws->attended, layer->dense.bias, ws->x},
        [CUDA_UP] = {layer->up.w, ws->normed_mlp, layer->up.bias_half, ws->inner},
        [CUDA_DOWN] = {layer->down.w, ws->inner, layer->down.bias, ws->x},
        [CUDA_OUTPUT] = {m->output.w, ws->last, NULL, ws->logits},
    };
    assert(!m->asleep);
    int rc = cuda_device_fault(m->device, err);
    if (rc == 0)
        rc = cuda_model_prepare(m, NULL, 0, err);
    if (rc == 0)
        rc = cuda_model_await_copies(m, err);
    if (rc == 0)
        rc = cuda_gemms_choose(&m->gemms, at, err);
    if (rc == 0)
        rc = cuda_model_build_graphs(m, err);
    return rc;
}

/* ---- sleep, wake ---- */

int cuda_model_sleep(struct gpu_model *model, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    struct cuda_device *d = m->device;
    assert(!m->asleep);
    int rc = cuda_device_context(d, err);
    if (rc == 0)
        rc = cuda_check(d, d->cu->StreamSynchronize(d->copy), err, "waiting for copies before sleep");
    if (rc == 0)
        rc = cuda_check(d, d->cu->StreamSynchronize(d->compute), err, "waiting for kernels before sleep");
    if (rc == 0)
        rc = cuda_arena_unmap(&m->arena, err);
    m->asleep = rc == 0;
    return rc;
}

int cuda_model_wake(struct gpu_model *model, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    assert(m->asleep);
    int rc = cuda_device_context(m->device, err);
    if (rc == 0)
        rc = cuda_arena_map(&m->arena, err);
    if (rc < 0)
        return rc;
    rc = write_constants(m, err);
    if (rc < 0) {
        (void)cuda_arena_unmap(&m->arena, NULL);
        return rc;
    }
    atomic_store(&m->biases_stale, true);
    m->asleep = false;
    return 0;
}
