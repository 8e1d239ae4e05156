/* cpu_model - one model in this process's memory; private to gpu/cpu.
 *
 * Owns the arena (one anonymous mapping) and the table of pointers into it; borrows the device with its threads and
 * kernels. One thread drives it; inside a step the pool's threads write disjoint parts of the workspace and the KV.
 *
 * Shapes: T tokens and B sequences of a step, L layers, H heads, D head dim, E = H * D, F intermediate, V vocabulary,
 * R rotary dims. All activations are f32. */
#ifndef ROUSE_GPU_CPU_MODEL_H
#define ROUSE_GPU_CPU_MODEL_H

#include "base/pool.h"
#include "gpu/backend.h"
#include "gpu/cpu/cpu_kernels.h"

struct cpu_device {
    struct gpu_device base;
    struct base_pool *pool;
    const struct cpu_kernels *kernels;
};

/* A matrix [rows][cols] of the weight range, in the plan's dtype, and its bias. */
struct cpu_linear {
    const void *w;
    const float *bias; /* [rows], or NULL */
    uint32_t rows, cols;
};

struct cpu_norm {
    const float *gain, *bias; /* [E] */
};

struct cpu_layer {
    struct cpu_norm ln1, ln2;
    struct cpu_linear qkv;   /* [3E][E]: rows as [H][3][D] */
    struct cpu_linear dense; /* [E][E] */
    struct cpu_linear up;    /* [F][E] */
    struct cpu_linear down;  /* [E][F] */
};

/* One token of the step. */
struct cpu_token {
    int32_t id;
    uint32_t position;
    const uint32_t *blocks; /* of its sequence; lent by the caller of gpu_model_forward */
};

/* The workspace. Sized by the limits: T, B and the rows of logits here are the largest there may be. */
struct cpu_workspace {
    struct cpu_token *tokens; /* [T] */
    uint32_t *logit_tokens;   /* [n_logits] index of the token that each row of logits belongs to */
    float *inv_freq;          /* [R/2] angle per position; written once, when the model is made */
    float *cos, *sin;         /* [T][R/2] */
    float *x;                 /* [T][E] the residual stream */
    float *normed;            /* [T][E] input of the attention */
    float *normed_mlp;        /* [T][E] input of the mlp */
    float *qkv;               /* [T][H][3][D] */
    float *attended;          /* [T][H][D] */
    float *inner;             /* [T][F] */
    float *delta;             /* [T][E] what attention or mlp add to x */
    float *last;              /* [n_logits][E] normed rows of the tokens that want logits */
    float *logits;            /* [n_logits][V] */
    float *scratch;           /* [n_threads][scratch_floats] */
    size_t scratch_floats;
};

struct cpu_model {
    struct gpu_model base;
    struct cpu_device *device;
    uint8_t *arena;           /* [plan.arena_bytes], page-aligned; NULL until mapped */
    const void *embedding;    /* [V][E] in the plan's dtype */
    struct cpu_layer *layers; /* [L] */
    struct cpu_norm final_norm;
    struct cpu_linear output; /* [V][E] */
    float *kv;                /* [n_blocks][L][2][H][16][D]: a short sequence touches few pages */
    struct cpu_workspace ws;
};

/* The KV of layer l. */
static inline struct cpu_kv cpu_model_kv(const struct cpu_model *m, uint32_t l)
{
    const struct model_config *c = &m->base.plan.config;
    const size_t of_layer = (size_t)2 * c->hidden * GPU_BLOCK_TOKENS;
    return (struct cpu_kv){m->kv + l * of_layer, c->n_layers * of_layer, c->n_heads, c->head_dim};
}

/* cpu_model.c: the table's functions (gpu/backend.h). */
void cpu_model_measure(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                       uint64_t *out_kv_bytes);
int cpu_model_new(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                  struct gpu_model **out_model, struct base_error *err);
void cpu_model_free(struct gpu_model *model);
uint8_t *cpu_model_host(struct gpu_model *model);
int cpu_model_map(struct gpu_model *model, int fd, uint64_t file_offset, struct base_error *err);
int cpu_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err);
bool cpu_model_samples(const struct gpu_model *model, const struct model_sampling *sampling);
int cpu_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                      struct gpu_result *out_result, struct base_error *err);

/* cpu_load.c */
int cpu_model_load(struct gpu_model *model, const struct model_weights *weights,
                   void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                   struct base_error *err);

/* neox_forward.c: ws.tokens [n_tokens] -> ws.logits [n_logits][V], rows for ws.logit_tokens. KV of all tokens is written.
 * Fails only when the gate does. */
int neox_forward(struct cpu_model *m, uint32_t n_tokens, uint32_t n_logits, struct base_error *err);

#endif
