/* The forward pass: tokens to logits, for both kinds of tokens. Compare with gpu/cpu/neox_forward.c.
 *
 * x = embedding(tokens)
 * for every layer:
 *     attn = dense(attention(rotary(q), rotary(k), v)),  [q k v] = query_key_value(ln1(x))
 *     mlp  = down(gelu(up(ln2(x))))          parallel residual: both read the same x,   x += attn + mlp
 *                                            sequential:        x += attn, then mlp reads the new x, x += mlp
 * logits = output(final_norm(x))             for the rows that want them; then tokens are drawn from the first of those
 *
 * x is f32, all else between the kernels is half. What differs:
 *
 *               products                          attention                    launched
 *   prompts     cublasLt, or our matmul           prefill, a tile of 64 rows   one after the other
 *   generated   our matmul                        decode and merge             as one graph, by the number of rows
 *
 * In a graph each launch waits for the one before it, but for a parallel residual: `up` runs beside the attention. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "gpu/cuda/cuda_model.h"
#include "gpu/plan.h"

struct pass {
    struct cuda_model *m;
    const struct cuda_inputs *in;
    struct cuda_shape shape; /* recorded: the most there can be */
    bool generated, narrow;  /* narrow: bias_half is of other weights */

    struct cuda_topology *record;            /* NULL: launches run at once */
    uint32_t n_after, after[CUDA_AFTER_MAX]; /* what the next launch waits for, in a graph */

    int rc; /* the first failure stays: what follows does nothing */
    struct base_error *err;
};

static uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static const struct model_config *config_of(const struct pass *p)
{
    return &p->m->base.plan.config;
}

/* ---- launching ---- */

static void record_launch(struct pass *p, struct cuda_launch *launch)
{
    struct cuda_topology *t = p->record;
    assert(t->n < t->capacity);
    launch->n_after = p->n_after;
    memcpy(launch->after, p->after, sizeof launch->after);
    p->after[0] = t->n;
    p->n_after = 1;
    t->nodes[t->n++] = *launch;
}

static void launch(struct pass *p, enum cuda_kernel kernel, uint32_t x, uint32_t y, uint32_t z, uint32_t threads,
                   uint32_t shared_bytes, const void *args)
{
    struct cuda_launch l = {.kernel = kernel, .grid = {x, y, z}, .block = threads, .shared_bytes = shared_bytes};
    if (p->rc < 0)
        return;
    memcpy(l.args, args, cuda_kernel_args_bytes(kernel));
    if (p->record)
        record_launch(p, &l);
    else
        p->rc = cuda_launch_run(p->m->device, &p->m->functions, &l, p->err);
}

/* The launch that was recorded last. */
static uint32_t here(const struct pass *p)
{
    return p->after[0];
}

/* The next launch waits for that one alone / for that one as well. Without a graph they run in order anyway. */
static void fork_from(struct pass *p, uint32_t node)
{
    p->after[0] = node;
    p->n_after = 1;
}

static void join_with(struct pass *p, uint32_t node)
{
    p->after[p->n_after++] = node;
}

/* ---- the operations ---- */

static void neox_embed(struct pass *p)
{
    const struct cuda_embed_args args = {.counts = p->in->counts,
                                         .tokens = p->in->tokens,
                                         .embedding = p->m->embedding,
                                         .x = p->m->ws.x,
                                         .e = config_of(p)->hidden};
    launch(p, CUDA_EMBED, p->shape.n_rows, 1, 1, CUDA_ROW_THREADS, 0, &args);
}

/* y1 = n1(x) and, with n2, y2 = n2(x). rows: of x, or NULL for all. */
static void neox_norm(struct pass *p, uint32_t n, const uint32_t *rows, const struct cuda_norm *n1, uint16_t *y1,
                      const struct cuda_norm *n2, uint16_t *y2)
{
    const struct cuda_norm_args args = {.counts = p->in->counts,
                                        .rows = rows,
                                        .x = p->m->ws.x,
                                        .gain1 = n1->gain,
                                        .bias1 = n1->bias,
                                        .gain2 = n2 ? n2->gain : NULL,
                                        .bias2 = n2 ? n2->bias : NULL,
                                        .y1 = y1,
                                        .y2 = y2,
                                        .e = config_of(p)->hidden,
                                        .eps = config_of(p)->norm_eps};
    launch(p, CUDA_NORM, n, 1, 1, CUDA_ROW_THREADS, 0, &args);
}

/* cublasLt adds to half results only biases in half; ours are f32. The LayerNorm of zeros is its bias, in half. */
static void neox_narrow_bias(struct pass *p, const struct cuda_linear *w)
{
    const struct cuda_norm_args args = {.counts = p->in->counts,
                                        .x = p->m->ws.zeros,
                                        .gain1 = w->bias,
                                        .bias1 = w->bias,
                                        .y1 = w->bias_half,
                                        .e = w->rows,
                                        .eps = 1};
    launch(p, CUDA_NORM, 1, 1, 1, CUDA_ROW_THREADS, 0, &args);
}

static void neox_gelu(struct pass *p)
{
    const struct model_config *c = config_of(p);
    const struct cuda_gelu_args args = {
        .counts = p->in->counts, .x = p->m->ws.inner, .f = c->intermediate, .act = (uint32_t)c->act};
    launch(p, CUDA_GELU, p->shape.n_rows, div_up(c->intermediate, 8 * CUDA_ROW_THREADS), 1, CUDA_ROW_THREADS, 0, &args);
}

/* Our own kernel of so many rows at once. */
static void neox_matmul(struct pass *p, const struct cuda_linear *w, const uint16_t *x, void *y, uint32_t n_rows)
{
    static const enum cuda_after after[CUDA_PRODUCTS] = {
        [CUDA_QKV] = CUDA_AFTER_HALF, [CUDA_DENSE] = CUDA_AFTER_ADD,  [CUDA_UP] = CUDA_AFTER_GELU,
        [CUDA_DOWN] = CUDA_AFTER_ADD, [CUDA_OUTPUT] = CUDA_AFTER_F32,
    };
    const struct cuda_matmul_args args = {.counts = p->in->counts,
                                          .x = x,
                                          .w = w->w,
                                          .scale = w->scale,
                                          .bias = w->bias,
                                          .y = y,
                                          .n = w->rows,
                                          .k = w->cols,
                                          .after = after[w->product],
                                          .act = (uint32_t)config_of(p)->act,
                                          .logits = w->product == CUDA_OUTPUT};
    uint32_t t = 8, step = 0;
    while (t < 64 && t < n_rows) {
        t *= 2;
        step++;
    }
    launch(p, (enum cuda_kernel)((w->scale ? CUDA_MATMUL_Q8_T8 : CUDA_MATMUL_T8) + step),
           div_up(w->rows, cuda_matmul_block_rows(t)), div_up(n_rows, t), 1, CUDA_MATMUL_WARPS * CUDA_WARP, 0, &args);
}

static void neox_gemm(struct pass *p, const struct cuda_linear *w, const uint16_t *x, void *y, uint32_t n_rows)
{
    const bool half = w->product == CUDA_QKV || w->product == CUDA_UP;
    const struct cuda_gemm_at at = {w->w, x, half ? (const void *)w->bias_half : w->bias, y};
    if (p->rc == 0)
        p->rc = cuda_gemm_run(&p->m->gemms, w->product, &at, n_rows, p->err);
    if (w->product == CUDA_UP)
        neox_gelu(p);
}

/* y = x w^T + bias; then gelu (up), or added to y (dense, down) */
static void neox_linear(struct pass *p, const struct cuda_linear *w, const uint16_t *x, void *y)
{
    const uint32_t n_rows = w->product == CUDA_OUTPUT ? p->shape.n_logits : p->shape.n_rows;
    if (!p->generated && p->narrow && p->m->gemms.lt && w->bias_half && !w->scale)
        neox_narrow_bias(p, w);
    if (!p->generated && cuda_gemm_usable(&p->m->gemms, w->product, n_rows))
        neox_gemm(p, w, x, y, n_rows);
    else
        neox_matmul(p, w, x, y, n_rows);
}

/* q and k turned to the row's position, k and v put away. */
static void neox_rotate_and_store(struct pass *p, uint32_t layer)
{
    const struct model_config *c = config_of(p);
    const struct cuda_workspace *ws = &p->m->ws;
    const struct cuda_rotary_args args = {.counts = p->in->counts,
                                          .positions = p->in->positions,
                                          .slots = p->in->slots,
                                          .blocks = p->in->blocks,
                                          .cos = ws->cos,
                                          .sin = ws->sin,
                                          .qkv = ws->qkv,
                                          .kv = cuda_model_kv(p->m, layer),
                                          .blocks_stride = ws->blocks_stride,
                                          .n_heads = c->n_heads,
                                          .head_dim = c->head_dim,
                                          .rotary_dims = c->rotary_dims};
    launch(p, CUDA_ROTARY, p->shape.n_rows, div_up(c->n_heads, cuda_rotary_heads(c->head_dim)), 1, CUDA_ROTARY_THREADS,
           0, &args);
}

static float attention_scale(const struct model_config *c)
{
    return (float)(1 / sqrt((double)c->head_dim));
}

static void neox_prefill(struct pass *p, uint32_t layer)
{
    const struct model_config *c = config_of(p);
    const struct cuda_workspace *ws = &p->m->ws;
    const struct cuda_prefill_args args = {.tiles = p->in->tiles,
                                           .blocks = p->in->blocks,
                                           .qkv = ws->qkv,
                                           .kv = cuda_model_kv(p->m, layer),
                                           .out = ws->attended,
                                           .blocks_stride = ws->blocks_stride,
                                           .n_heads = c->n_heads,
                                           .scale = attention_scale(c)};
    launch(p, CUDA_PREFILL, p->shape.n_tiles, c->n_heads, 1, CUDA_PREFILL_THREADS,
           cuda_prefill_shared_bytes(c->head_dim), &args);
}

static void neox_decode(struct pass *p, uint32_t layer)
{
    const struct model_config *c = config_of(p);
    const struct cuda_workspace *ws = &p->m->ws;
    const struct cuda_decode_args parts = {.counts = p->in->counts,
                                           .positions = p->in->positions,
                                           .slots = p->in->slots,
                                           .blocks = p->in->blocks,
                                           .qkv = ws->qkv,
                                           .kv = cuda_model_kv(p->m, layer),
                                           .part_o = ws->part_o,
                                           .part_ml = ws->part_ml,
                                           .blocks_stride = ws->blocks_stride,
                                           .n_heads = c->n_heads,
                                           .n_splits_max = ws->n_splits,
                                           .scale = attention_scale(c)};
    const struct cuda_merge_args merge = {.counts = p->in->counts,
                                          .positions = p->in->positions,
                                          .part_o = ws->part_o,
                                          .part_ml = ws->part_ml,
                                          .out = ws->attended,
                                          .n_heads = c->n_heads,
                                          .n_splits_max = ws->n_splits,
                                          .head_dim = c->head_dim};
    launch(p, CUDA_DECODE, div_up(ws->n_splits, CUDA_DECODE_WARPS), c->n_heads, p->shape.n_rows,
           CUDA_DECODE_WARPS * CUDA_WARP, cuda_decode_shared_bytes(c->head_dim), &parts);
    launch(p, CUDA_MERGE, p->shape.n_rows, c->n_heads, 1, CUDA_WARP, 0, &merge);
}

static void neox_attend(struct pass *p, uint32_t layer)
{
    if (p->generated)
        neox_decode(p, layer);
    else
        neox_prefill(p, layer);
}

static void neox_draw(struct pass *p)
{
    const struct cuda_workspace *ws = &p->m->ws;
    const struct cuda_sample_args args = {.counts = p->in->counts,
                                          .draws = p->in->draws,
                                          .logits = ws->logits,
                                          .tokens = ws->sampled,
                                          .scratch = ws->sample_scratch,
                                          .scratch_stride = cuda_sample_scratch_bytes(config_of(p)->vocab),
                                          .vocab = config_of(p)->vocab};
    launch(p, CUDA_SAMPLE, p->shape.n_sample, 1, 1, CUDA_SAMPLE_THREADS, 0, &args);
}

/* ---- the pass ---- */

/* Weights in [0, end) are there, or on a way that the compute stream waits for. Graphs are launched when all are. */
static void neox_await(struct pass *p, uint64_t end)
{
    if (p->rc < 0 || p->record)
        return;
    p->rc = gpu_gate_pass(&p->m->base, end, p->err);
    if (p->rc == 0)
        p->rc = cuda_model_await_copies(p->m, p->err);
    p->narrow |= atomic_load(&p->m->biases_stale); /* the gate may have put new ones */
}

static void neox_layer(struct pass *p, uint32_t l)
{
    const struct cuda_layer *layer = &p->m->layers[l];
    const struct cuda_workspace *ws = &p->m->ws;
    const bool parallel = config_of(p)->parallel_residual;
    const uint32_t n = p->shape.n_rows;

    neox_norm(p, n, NULL, &layer->ln1, ws->normed, parallel ? &layer->ln2 : NULL, parallel ? ws->normed_mlp : NULL);
    const uint32_t normed = here(p);
    neox_linear(p, &layer->qkv, ws->normed, ws->qkv);
    neox_rotate_and_store(p, l);
    neox_attend(p, l);
    neox_linear(p, &layer->dense, ws->attended, ws->x);
    const uint32_t attended = here(p);
    if (parallel)
        fork_from(p, normed);
    else
        neox_norm(p, n, NULL, &layer->ln2, ws->normed_mlp, NULL, NULL);
    neox_linear(p, &layer->up, ws->normed_mlp, ws->inner);
    if (parallel)
        join_with(p, attended);
    neox_linear(p, &layer->down, ws->inner, ws->x);
}

static void neox_forward(struct pass *p)
{
    const struct gpu_plan *plan = &p->m->base.plan;
    const struct cuda_workspace *ws = &p->m->ws;
    const struct gpu_tensor *embedding = gpu_plan_embedding(plan);

    neox_await(p, embedding->offset + embedding->bytes);
    neox_embed(p);
    for (uint32_t l = 0; l < plan->config.n_layers && p->rc == 0; l++) {
        const struct gpu_tensor *last = gpu_plan_layer(plan, l, GPU_DOWN_BIAS);
        neox_await(p, last->offset + last->bytes);
        neox_layer(p, l);
    }
    if (p->shape.n_logits > 0) {
        neox_await(p, plan->weights_bytes);
        neox_norm(p, p->shape.n_logits, p->in->logit_rows, &p->m->final_norm, ws->last, NULL, NULL);
        neox_linear(p, &p->m->output, ws->last, ws->logits);
    }
    if (p->shape.n_sample > 0)
        neox_draw(p);
}

int cuda_forward_prompt(struct cuda_model *m, const struct cuda_shape *shape, struct base_error *err)
{
    struct pass p = {.m = m, .in = &m->ws.prompt, .shape = *shape, .err = err};
    assert(shape->n_rows >= 1 && shape->n_rows <= m->ws.rows_max && shape->n_tiles <= m->ws.tiles_max);
    neox_forward(&p);
    if (p.rc == 0)
        atomic_store(&m->biases_stale, false); /* all layers have been awaited and narrowed */
    return p.rc;
}

static uint32_t launches_max(const struct model_config *c)
{
    return 9 * c->n_layers + 4;
}

int cuda_forward_record(struct cuda_model *m, uint32_t n_rows, struct cuda_topology *out_topology,
                        struct base_error *err)
{
    const uint32_t n_logits = min_u32(n_rows, m->base.plan.limits.n_logits_max);
    int rc = cuda_topology_init(out_topology, launches_max(&m->base.plan.config), err);
    if (rc < 0)
        return rc;
    struct pass p = {.m = m,
                     .in = &m->ws.generated,
                     .shape = {.n_rows = n_rows, .n_logits = n_logits, .n_sample = min_u32(n_rows, m->ws.sample_max)},
                     .generated = true,
                     .record = out_topology,
                     .err = err};
    neox_forward(&p);
    assert(p.rc == 0); /* nothing was launched */
    return 0;
}

int cuda_forward_generated(struct cuda_model *m, uint32_t n_rows, struct base_error *err)
{
    struct cuda_device *d = m->device;
    uint32_t bucket = 0;
    while (1u << bucket < n_rows)
        bucket++;
    assert(n_rows >= 1 && bucket < m->n_buckets);
    int rc = gpu_gate_pass(&m->base, m->base.plan.weights_bytes, err);
    if (rc == 0)
        rc = cuda_model_await_copies(m, err);
    const struct cuda_bucket *b = &m->buckets[bucket];
    if (rc == 0 && b->exec)
        return cuda_check(d, d->cu->GraphLaunch(b->exec, d->compute), err, "launching the graph of %u rows",
                          1u << bucket);
    for (uint32_t i = 0; i < b->topology.n && rc == 0; i++)
        rc = cuda_launch_run(d, &m->functions, &b->topology.nodes[i], err);
    return rc;
}
