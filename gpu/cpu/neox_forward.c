/* The forward pass: tokens to logits. Compare with modeling_gpt_neox.py of Hugging Face transformers.
 *
 * x = embedding(tokens)
 * for every layer:
 *     attn = dense(attention(rotary(q), rotary(k), v)),  [q k v] = query_key_value(ln1(x))
 *     mlp  = down(gelu(up(ln2(x))))          parallel residual: both read the same x,   x += attn + mlp
 *                                            sequential:        x += attn, then mlp reads the new x, x += mlp
 * logits = output(final_norm(x))             for the tokens that want them
 *
 * Work is cut for the pool by output rows (matmul) or by tokens and heads (the rest). Every element is computed whole by
 * one kernel call whose result does not depend on the cut (cpu_kernels.h, (1)). */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "gpu/cpu/cpu_model.h"
#include "gpu/plan.h"

/* Below this many multiply-adds the caller's thread is done before others would have woken up. */
#define SERIAL_WORK 32768u

static uint32_t div_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void neox_run(const struct cpu_model *m, base_pool_fn *fn, void *context, uint32_t n_tasks, uint64_t work)
{
    if (work >= SERIAL_WORK) {
        base_pool_run(m->device->pool, fn, context, n_tasks);
        return;
    }
    for (uint32_t i = 0; i < n_tasks; i++)
        fn(context, i, 0);
}

/* ---- per token: embedding, norms, rotary ---- */

#define TOKENS_PER_TASK 8

struct token_job {
    struct cpu_model *m;
    uint32_t n_tokens;
    void (*fn)(const struct token_job *job, uint32_t t);
    const struct cpu_norm *norm; /* norm_token */
    float *to;
    uint32_t layer; /* rotate_token */
};

static void token_task(void *context, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct token_job *job = context;
    const uint32_t end = min_u32((task + 1) * TOKENS_PER_TASK, job->n_tokens);
    for (uint32_t t = task * TOKENS_PER_TASK; t < end; t++)
        job->fn(job, t);
}

static void run_tokens(struct token_job *job)
{
    /* some ten operations an element */
    const uint64_t work = (uint64_t)job->n_tokens * job->m->base.plan.config.hidden * 10;
    neox_run(job->m, token_task, job, div_up(job->n_tokens, TOKENS_PER_TASK), work);
}

/* x[t] = the token's row of the embedding; cos and sin of its angles, which all layers share. */
static void embed_token(const struct token_job *job, uint32_t t)
{
    const struct cpu_model *m = job->m;
    const struct gpu_plan *p = &m->base.plan;
    const struct cpu_token *token = &m->ws.tokens[t];
    const uint32_t e = p->config.hidden, half = p->config.rotary_dims / 2;

    const size_t row_bytes = e * model_dtype_bytes(p->dtype);
    const uint8_t *row = (const uint8_t *)m->embedding + (size_t)token->id * row_bytes;
    m->device->kernels->widen(p->dtype, row, e, m->ws.x + (size_t)t * e);
    for (uint32_t i = 0; i < half; i++) {
        const double angle = (double)((float)token->position * m->ws.inv_freq[i]); /* rounded to f32, as HF does */
        m->ws.cos[(size_t)t * half + i] = (float)cos(angle);
        m->ws.sin[(size_t)t * half + i] = (float)sin(angle);
    }
}

static void neox_embed(struct cpu_model *m, uint32_t n_tokens)
{
    struct token_job job = {.m = m, .n_tokens = n_tokens, .fn = embed_token};
    run_tokens(&job);
}

static void norm_token(const struct token_job *job, uint32_t t)
{
    const struct model_config *c = &job->m->base.plan.config;
    const size_t at = (size_t)t * c->hidden;
    job->m->device->kernels->layernorm(job->m->ws.x + at, job->norm->gain, job->norm->bias, c->norm_eps, c->hidden,
                                       job->to + at);
}

/* to [T][E] = norm(x) */
static void neox_norm(struct cpu_model *m, const struct cpu_norm *norm, uint32_t n_tokens, float *to)
{
    struct token_job job = {.m = m, .n_tokens = n_tokens, .fn = norm_token, .norm = norm, .to = to};
    run_tokens(&job);
}

/* q and k of all heads turned to the token's position, k and v put away. */
static void rotate_token(const struct token_job *job, uint32_t t)
{
    const struct cpu_model *m = job->m;
    const struct model_config *c = &m->base.plan.config;
    const struct cpu_kernels *kernels = m->device->kernels;
    const struct cpu_kv kv = cpu_model_kv(m, job->layer);
    const struct cpu_token *token = &m->ws.tokens[t];
    const uint32_t d = c->head_dim, r = c->rotary_dims;
    const float *cos = m->ws.cos + (size_t)t * (r / 2), *sin = m->ws.sin + (size_t)t * (r / 2);

    for (uint32_t h = 0; h < c->n_heads; h++) {
        float *q = m->ws.qkv + ((size_t)t * c->n_heads + h) * 3 * d, *k = q + d, *v = k + d;
        kernels->rotary(q, cos, sin, r);
        kernels->rotary(k, cos, sin, r);
        kernels->kv_write(&kv, token->blocks[token->position / GPU_BLOCK_TOKENS], h, token->position, k, v);
    }
}

static void neox_rotate_and_store(struct cpu_model *m, uint32_t layer, uint32_t n_tokens)
{
    struct token_job job = {.m = m, .n_tokens = n_tokens, .fn = rotate_token, .layer = layer};
    run_tokens(&job);
}

/* ---- matmul ---- */

enum neox_after { AFTER_NOTHING, AFTER_GELU, AFTER_ADD };

struct matmul_job {
    struct cpu_model *m;
    struct cpu_matmul matmul;
    uint32_t rows_per_task;
    enum neox_after after;
};

/* Some rows of y for all tokens, and what is done to them while they are in the cache. */
static void matmul_task(void *context, uint32_t task, uint32_t thread)
{
    const struct matmul_job *job = context;
    const struct cpu_model *m = job->m;
    const struct cpu_kernels *kernels = m->device->kernels;
    const uint32_t n_rows = job->matmul.n_rows, begin = task * job->rows_per_task;
    const uint32_t end = min_u32(begin + job->rows_per_task, n_rows);

    kernels->matmul(&job->matmul, begin, end, m->ws.scratch + thread * m->ws.scratch_floats);
    for (uint32_t t = 0; t < job->matmul.n_tokens; t++) {
        const size_t at = (size_t)t * n_rows + begin;
        if (job->after == AFTER_GELU)
            kernels->gelu(m->base.plan.config.act, job->matmul.y + at, end - begin);
        else if (job->after == AFTER_ADD)
            kernels->add(m->ws.x + at, job->matmul.y + at, end - begin);
    }
}

#define TASK_ROWS_STEP 12 /* whole tiles, whichever kernels */
#define TASK_ROWS_MAX  48 /* f16 weights of one task and K = 4096: 393 KB, which stay in L2 for all tokens */

/* Tasks small enough that all threads end together, large enough that claiming one is nothing beside doing it. */
static uint32_t rows_per_task(uint32_t n_rows, uint64_t work, uint32_t n_threads)
{
    const uint64_t by_work = work / SERIAL_WORK + 1, by_threads = 4 * (uint64_t)n_threads;
    const uint64_t n_tasks = by_work < by_threads ? by_work : by_threads;
    const uint32_t rows = div_up((uint32_t)((n_rows + n_tasks - 1) / n_tasks), TASK_ROWS_STEP) * TASK_ROWS_STEP;
    return min_u32(rows, TASK_ROWS_MAX);
}

/* y [T][N] = x [T][K] * w [N][K]^T + bias, then as `after` says; AFTER_ADD: ws.x += y */
static void neox_linear(struct cpu_model *m, const struct cpu_linear *w, const float *x, uint32_t n_tokens, float *y,
                        enum neox_after after)
{
    const uint64_t work = (uint64_t)n_tokens * w->rows * w->cols;
    struct matmul_job job = {.m = m, .after = after};
    job.matmul = (struct cpu_matmul){.x = x,
                                     .w = w->w,
                                     .bias = w->bias,
                                     .y = y,
                                     .dtype = m->base.plan.dtype,
                                     .n_tokens = n_tokens,
                                     .n_rows = w->rows,
                                     .n_cols = w->cols};
    job.rows_per_task = rows_per_task(w->rows, work, m->device->base.info.n_threads);
    neox_run(m, matmul_task, &job, div_up(w->rows, job.rows_per_task), work);
}

/* ---- attention ---- */

struct attention_job {
    struct cpu_model *m;
    struct cpu_kv kv;
    uint32_t n_tokens;
};

/* One head of one token. Neighbouring tasks are neighbouring tokens of the same head: they read the same K and V. */
static void attention_task(void *context, uint32_t task, uint32_t thread)
{
    const struct attention_job *job = context;
    const struct cpu_model *m = job->m;
    const uint32_t h = task / job->n_tokens, t = task % job->n_tokens;
    const uint32_t n_heads = job->kv.n_heads, d = job->kv.head_dim;
    const struct cpu_token *token = &m->ws.tokens[t];
    const float *q = m->ws.qkv + ((size_t)t * n_heads + h) * 3 * d;
    float *out = m->ws.attended + ((size_t)t * n_heads + h) * d;

    m->device->kernels->attention(&job->kv, token->blocks, h, token->position, q, out,
                                  m->ws.scratch + thread * m->ws.scratch_floats);
}

static void neox_attend(struct cpu_model *m, uint32_t layer, uint32_t n_tokens)
{
    struct attention_job job = {.m = m, .kv = cpu_model_kv(m, layer), .n_tokens = n_tokens};
    uint64_t n_positions = 0;
    for (uint32_t t = 0; t < n_tokens; t++)
        n_positions += m->ws.tokens[t].position + 1;
    neox_run(m, attention_task, &job, n_tokens * m->base.plan.config.n_heads,
             n_positions * m->base.plan.config.hidden * 2);
}

/* ---- the pass ---- */

static void neox_layer(struct cpu_model *m, uint32_t l, uint32_t n_tokens)
{
    const struct cpu_layer *layer = &m->layers[l];
    const bool parallel = m->base.plan.config.parallel_residual;
    struct cpu_workspace *ws = &m->ws;

    neox_norm(m, &layer->ln1, n_tokens, ws->normed);
    if (parallel)
        neox_norm(m, &layer->ln2, n_tokens, ws->normed_mlp);
    neox_linear(m, &layer->qkv, ws->normed, n_tokens, ws->qkv, AFTER_NOTHING);
    neox_rotate_and_store(m, l, n_tokens);
    neox_attend(m, l, n_tokens);
    neox_linear(m, &layer->dense, ws->attended, n_tokens, ws->delta, AFTER_ADD);
    if (!parallel)
        neox_norm(m, &layer->ln2, n_tokens, ws->normed_mlp);
    neox_linear(m, &layer->up, ws->normed_mlp, n_tokens, ws->inner, AFTER_GELU);
    neox_linear(m, &layer->down, ws->inner, n_tokens, ws->delta, AFTER_ADD);
}

/* last [n_logits][E] = final_norm(x) of the tokens that want logits */
static void neox_final_norm(struct cpu_model *m, uint32_t n_logits)
{
    const struct model_config *c = &m->base.plan.config;
    for (uint32_t i = 0; i < n_logits; i++)
        m->device->kernels->layernorm(m->ws.x + (size_t)m->ws.logit_tokens[i] * c->hidden, m->final_norm.gain,
                                      m->final_norm.bias, c->norm_eps, c->hidden, m->ws.last + (size_t)i * c->hidden);
}

/* Waits for the weights up to and with this tensor, while a restore is still filling the arena. */
static int neox_await(struct cpu_model *m, const struct gpu_tensor *last, struct base_error *err)
{
    return gpu_gate_pass(&m->base, last->offset + last->bytes, err);
}

int neox_forward(struct cpu_model *m, uint32_t n_tokens, uint32_t n_logits, struct base_error *err)
{
    const struct gpu_plan *plan = &m->base.plan;
    assert(n_tokens >= 1 && n_tokens <= m->base.plan.limits.n_tokens_max);
    assert(n_logits <= m->base.plan.limits.n_logits_max);

    int rc = neox_await(m, gpu_plan_embedding(plan), err);
    if (rc < 0)
        return rc;
    neox_embed(m, n_tokens);
    for (uint32_t l = 0; l < plan->config.n_layers; l++) {
        rc = neox_await(m, gpu_plan_layer(plan, l, GPU_DOWN_BIAS), err);
        if (rc < 0)
            return rc;
        neox_layer(m, l, n_tokens);
    }
    if (n_logits == 0)
        return 0;
    rc = gpu_gate_pass(&m->base, plan->weights_bytes, err);
    if (rc < 0)
        return rc;
    neox_final_norm(m, n_logits);
    neox_linear(m, &m->output, m->ws.last, n_logits, m->ws.logits, AFTER_NOTHING);
    return 0;
}
