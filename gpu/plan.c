#include "gpu/plan.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

/* Bounds that keep every product below 2^63: L * n_blocks * 2 * E * 16 * 4 <= 2^8 * 2^31 * 2 * 2^16 * 2^6 = 2^62. */
#define LAYERS_MAX  256u
#define HIDDEN_MAX  65536u
#define ROWS_MAX    (1u << 24) /* F and V */
#define STEP_MAX    (1u << 18) /* tokens, sequences, rows of logits in one step; times 8192 heads fits 32 bits */
#define CONTEXT_MAX (1u << 24)
#define BLOCKS_MAX  (1u << 31)

static bool in_range(uint32_t v, uint32_t max)
{
    return v >= 1 && v <= max;
}

static int check_config(const struct model_config *c, struct base_error *err)
{
    if (!in_range(c->n_layers, LAYERS_MAX) || !in_range(c->hidden, HIDDEN_MAX) ||
        !in_range(c->intermediate, ROWS_MAX) || !in_range(c->vocab, ROWS_MAX) || !in_range(c->n_positions, CONTEXT_MAX))
        return base_fail(
            err, ERR_USAGE,
            "cannot plan a model of %u layers, hidden size %u, intermediate size %u, %u tokens, %u positions",
            c->n_layers, c->hidden, c->intermediate, c->vocab, c->n_positions);
    if (c->head_dim % 8 != 0 || !in_range(c->head_dim, 256) || c->n_heads == 0 ||
        (uint64_t)c->n_heads * c->head_dim != c->hidden)
        return base_fail(
            err, ERR_USAGE,
            "cannot plan %u heads of %u for a hidden size of %u: the head size must be a multiple of 8, at "
            "most 256, and heads * size the hidden size",
            c->n_heads, c->head_dim, c->hidden);
    if (c->rotary_dims % 2 != 0 || c->rotary_dims > c->head_dim)
        return base_fail(err, ERR_USAGE, "cannot plan %u rotary dimensions for heads of %u", c->rotary_dims,
                         c->head_dim);
    if (c->act != MODEL_ACT_GELU_ERF && c->act != MODEL_ACT_GELU_TANH)
        return base_fail(err, ERR_USAGE, "cannot plan activation %d", (int)c->act);
    return 0;
}

int gpu_plan_check(const struct model_config *config, enum model_dtype dtype, const struct gpu_limits *limits,
                   struct base_error *err)
{
    int rc = check_config(config, err);
    if (rc < 0)
        return rc;
    if ((unsigned)dtype > MODEL_Q8)
        return base_fail(err, ERR_USAGE, "cannot plan weights of dtype %d", (int)dtype);
    if (!in_range(limits->n_tokens_max, STEP_MAX) || !in_range(limits->n_seqs_max, STEP_MAX) ||
        !in_range(limits->n_logits_max, STEP_MAX))
        return base_fail(err, ERR_USAGE,
                         "cannot plan steps of %u tokens, %u sequences, %u rows of logits: each must be 1..%u",
                         limits->n_tokens_max, limits->n_seqs_max, limits->n_logits_max, STEP_MAX);
    if (!in_range(limits->n_ctx_max, config->n_positions))
        return base_fail(err, ERR_USAGE, "a context of %u tokens does not fit the model: it has %u positions",
                         limits->n_ctx_max, config->n_positions);
    if (!in_range(limits->n_blocks, BLOCKS_MAX))
        return base_fail(err, ERR_USAGE, "cannot plan %u KV blocks: at least 1, at most %u", limits->n_blocks,
                         BLOCKS_MAX);
    return 0;
}

/* Where the tensor lies within its layer, counted from the layer's first; the two attention biases may be missing. */
static uint32_t layer_slot(const struct model_config *c, enum gpu_layer_tensor which)
{
    static const enum gpu_layer_tensor parallel[GPU_LAYER_TENSORS] = {
        GPU_LN1_GAIN, GPU_LN1_BIAS,   GPU_LN2_GAIN, GPU_LN2_BIAS, GPU_QKV,  GPU_QKV_BIAS,
        GPU_DENSE,    GPU_DENSE_BIAS, GPU_UP,       GPU_UP_BIAS,  GPU_DOWN, GPU_DOWN_BIAS};
    static const enum gpu_layer_tensor sequential[GPU_LAYER_TENSORS] = {
        GPU_LN1_GAIN, GPU_LN1_BIAS, GPU_QKV, GPU_QKV_BIAS, GPU_DENSE, GPU_DENSE_BIAS,
        GPU_LN2_GAIN, GPU_LN2_BIAS, GPU_UP,  GPU_UP_BIAS,  GPU_DOWN,  GPU_DOWN_BIAS};
    const enum gpu_layer_tensor *order = c->parallel_residual ? parallel : sequential;

    uint32_t slot = 0;
    for (uint32_t i = 0; order[i] != which; i++)
        if (c->attention_bias || (order[i] != GPU_QKV_BIAS && order[i] != GPU_DENSE_BIAS))
            slot++;
    return slot;
}

static uint32_t n_layer_tensors(const struct model_config *c)
{
    return c->attention_bias ? GPU_LAYER_TENSORS : GPU_LAYER_TENSORS - 2;
}

uint32_t gpu_plan_n_tensors(const struct model_config *config)
{
    return 1 + config->n_layers * n_layer_tensors(config) + 2 + (config->tied ? 0 : 1);
}

const struct gpu_tensor *gpu_plan_embedding(const struct gpu_plan *plan)
{
    return &plan->tensors[0];
}

const struct gpu_tensor *gpu_plan_layer(const struct gpu_plan *plan, uint32_t layer, enum gpu_layer_tensor which)
{
    const struct model_config *c = &plan->config;
    assert(layer < c->n_layers);
    if (!c->attention_bias && (which == GPU_QKV_BIAS || which == GPU_DENSE_BIAS))
        return NULL;
    return &plan->tensors[1 + layer * n_layer_tensors(c) + layer_slot(c, which)];
}

const struct gpu_tensor *gpu_plan_final_gain(const struct gpu_plan *plan)
{
    return &plan->tensors[1 + plan->config.n_layers * n_layer_tensors(&plan->config)];
}

const struct gpu_tensor *gpu_plan_final_bias(const struct gpu_plan *plan)
{
    return gpu_plan_final_gain(plan) + 1;
}

const struct gpu_tensor *gpu_plan_output(const struct gpu_plan *plan)
{
    return plan->config.tied ? gpu_plan_embedding(plan) : gpu_plan_final_gain(plan) + 2;
}

static uint64_t align_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) / to * to;
}

static void set_name(struct gpu_tensor *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void set_name(struct gpu_tensor *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    assert(n > 0 && (size_t)n < sizeof t->name);
}

static void set_shape(struct gpu_tensor *t, enum model_dtype dtype, uint32_t rows, uint32_t cols)
{
    t->dtype = dtype;
    t->rows = rows;
    t->cols = cols;
    t->bytes = (uint64_t)rows * cols * model_dtype_bytes(dtype);
    if (dtype == MODEL_Q8)
        t->bytes = gpu_tensor_scales(t) + rows * sizeof(float);
}

/* Names and shapes of one layer, each in its slot. layer: its first tensor. */
static void describe_layer(struct gpu_tensor *layer, const struct model_config *c, enum model_dtype dtype, uint32_t l)
{
    const uint32_t e = c->hidden, f = c->intermediate;
    const struct {
        enum gpu_layer_tensor which;
        const char *name;
        enum model_dtype dtype;
        uint32_t rows, cols;
    } table[GPU_LAYER_TENSORS] = {
        {GPU_LN1_GAIN, "input_layernorm.weight", MODEL_F32, 1, e},
        {GPU_LN1_BIAS, "input_layernorm.bias", MODEL_F32, 1, e},
        {GPU_LN2_GAIN, "post_attention_layernorm.weight", MODEL_F32, 1, e},
        {GPU_LN2_BIAS, "post_attention_layernorm.bias", MODEL_F32, 1, e},
        {GPU_QKV, "attention.query_key_value.weight", dtype, 3 * e, e},
        {GPU_QKV_BIAS, "attention.query_key_value.bias", MODEL_F32, 1, 3 * e},
        {GPU_DENSE, "attention.dense.weight", dtype, e, e},
        {GPU_DENSE_BIAS, "attention.dense.bias", MODEL_F32, 1, e},
        {GPU_UP, "mlp.dense_h_to_4h.weight", dtype, f, e},
        {GPU_UP_BIAS, "mlp.dense_h_to_4h.bias", MODEL_F32, 1, f},
        {GPU_DOWN, "mlp.dense_4h_to_h.weight", dtype, e, f},
        {GPU_DOWN_BIAS, "mlp.dense_4h_to_h.bias", MODEL_F32, 1, e},
    };
    for (uint32_t i = 0; i < GPU_LAYER_TENSORS; i++) {
        if (!c->attention_bias && (table[i].which == GPU_QKV_BIAS || table[i].which == GPU_DENSE_BIAS))
            continue;
        struct gpu_tensor *t = &layer[layer_slot(c, table[i].which)];
        set_name(t, "layers.%u.%s", l, table[i].name);
        set_shape(t, table[i].dtype, table[i].rows, table[i].cols);
    }
}

void gpu_plan_weights(struct gpu_plan *plan, const struct model_config *config, enum model_dtype dtype,
                      const struct gpu_limits *limits, struct gpu_tensor *tensors)
{
    const struct model_config *c = config;
    *plan = (struct gpu_plan){.config = *config, .dtype = dtype, .limits = *limits, .tensors = tensors};
    plan->n_tensors = gpu_plan_n_tensors(config);

    struct gpu_tensor *t = tensors;
    set_name(t, "embed_in.weight");
    set_shape(t, dtype == MODEL_Q8 ? MODEL_F16 : dtype, c->vocab, c->hidden); /* rows are looked up, not multiplied */
    t++;
    for (uint32_t l = 0; l < c->n_layers; l++, t += n_layer_tensors(c))
        describe_layer(t, c, dtype, l);
    set_name(t, "final_layer_norm.weight");
    set_shape(t, MODEL_F32, 1, c->hidden);
    t++;
    set_name(t, "final_layer_norm.bias");
    set_shape(t, MODEL_F32, 1, c->hidden);
    t++;
    if (!c->tied) {
        set_name(t, "embed_out.weight");
        set_shape(t, dtype, c->vocab, c->hidden);
        t++;
    }
    assert(t == tensors + plan->n_tensors);

    uint64_t at = 0;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        tensors[i].offset = at;
        at = align_up(at + tensors[i].bytes, GPU_TENSOR_ALIGN);
    }
    plan->weights_bytes = align_up(at, GPU_RANGE_ALIGN);
}

int gpu_plan_ranges(struct gpu_plan *plan, uint64_t workspace_bytes, uint64_t kv_bytes, struct base_error *err)
{
    const uint64_t max = (uint64_t)INT64_MAX - 2 * GPU_RANGE_ALIGN;
    if (plan->weights_bytes > max || workspace_bytes > max - plan->weights_bytes ||
        kv_bytes > max - plan->weights_bytes - workspace_bytes)
        return base_fail(err, ERR_NOMEM, "a model of %.1f GB weights, %.1f GB workspace and %.1f GB KV has no address",
                         (double)plan->weights_bytes / 1e9, (double)workspace_bytes / 1e9, (double)kv_bytes / 1e9);
    plan->workspace_offset = plan->weights_bytes;
    plan->workspace_bytes = workspace_bytes;
    plan->kv_offset = align_up(plan->workspace_offset + workspace_bytes, GPU_RANGE_ALIGN);
    plan->kv_bytes = kv_bytes;
    plan->arena_bytes = align_up(plan->kv_offset + kv_bytes, GPU_RANGE_ALIGN);
    return 0;
}
