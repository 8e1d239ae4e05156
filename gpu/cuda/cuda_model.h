/* cuda_model - one model on a card; private to gpu/cuda.
 *
 * Owns the arena, a block of pinned memory for what goes to the device and comes back in a step, the chosen algorithms and the
 * graphs; borrows the device. One thread drives it; uploads may come from others.
 *
 *   NEW -> PREPARED   cuda_model_prepare: kernels found, descriptors and graphs made. By the first step, warm-up or import;
 *                     nothing is allocated afterwards.
 *
 * Shapes: T rows of a step, B sequences, L layers, H heads, D head dim, E = H * D, F intermediate, V vocabulary, R rotary dims,
 * G rows of one pass over generated tokens. "half" is f16 or bf16. Pointers into the arena are the device's: computed with, never
 * followed. */
#ifndef ROUSE_GPU_CUDA_MODEL_H
#define ROUSE_GPU_CUDA_MODEL_H

#include <stdatomic.h>

#include "gpu/cuda/cuda_arena.h"
#include "gpu/cuda/cuda_gemm.h"
#include "gpu/cuda/cuda_graph.h"
#include "gpu/cuda/kernel_args.h"

enum {
    CUDA_GENERATED_ROWS_MAX = 64, /* G: more generated tokens in a step are several passes */
    CUDA_BUCKETS = 7              /* graphs for 1, 2, 4, .. 64 rows */
};

/* A matrix [rows][cols] of the weight range, and its bias. */
struct cuda_linear {
    enum cuda_product product;
    const void *w;       /* half, or int8 with scale */
    const float *scale;  /* [rows], or NULL */
    const float *bias;   /* [rows], or NULL */
    uint16_t *bias_half; /* [rows] the same, in the workspace, where the product's result is half; or NULL */
    uint32_t rows, cols;
};

struct cuda_norm {
    const float *gain, *bias; /* [E] */
};

struct cuda_layer {
    struct cuda_norm ln1, ln2;
    struct cuda_linear qkv;   /* [3E][E]: rows as [H][3][D] */
    struct cuda_linear dense; /* [E][E] */
    struct cuda_linear up;    /* [F][E] */
    struct cuda_linear down;  /* [E][F] */
};

/* What a pass is told: written by the host, copied up to the last used line of blocks in one piece. */
struct cuda_inputs {
    struct cuda_counts *counts;
    int32_t *tokens;         /* [rows] */
    uint32_t *positions;     /* [rows] */
    uint32_t *slots;         /* [rows] */
    uint32_t *logit_rows;    /* [n_logits] */
    struct cuda_draw *draws; /* [n_sample] */
    struct cuda_tile *tiles; /* prompts only */
    uint32_t *blocks;        /* [slots][blocks_stride]: the last */
    uint64_t blocks_at, bytes;
};

/* The workspace on the device. */
struct cuda_workspace {
    struct cuda_inputs prompt, generated;
    float *cos, *sin;        /* [n_ctx][R/2] */
    float *zeros;            /* [max(3E, F)] */
    uint16_t *biases;        /* [L][3E + F] half: cuda_linear.bias_half */
    float *x;                /* [T][E] the residual stream */
    uint16_t *normed;        /* [T][E] half, as all below but what is said to be f32 */
    uint16_t *normed_mlp;    /* [T][E] */
    uint16_t *qkv;           /* [T][H][3][D] */
    uint16_t *attended;      /* [T][H][D] */
    uint16_t *inner;         /* [T][F] */
    float *part_o, *part_ml; /* [G][H][n_splits][D], [2] f32 */
    uint16_t *last;          /* [n_logits][E] */
    float *logits;           /* [n_logits][V] f32 */
    int32_t *sampled;        /* [n_sample] */
    uint8_t *sample_scratch; /* [n_sample][cuda_sample_scratch_bytes] */
    uint8_t *gemm_scratch;
    uint32_t rows_max;      /* T */
    uint32_t generated_max; /* G */
    uint32_t sample_max;    /* sequences that can be drawn for in one pass */
    uint32_t tiles_max;
    uint32_t blocks_stride; /* blocks of one sequence */
    uint32_t n_splits;
};

/* A run of tokens of one sequence in a pass. */
struct cuda_member {
    uint32_t sequence, first, n, row; /* tokens [first, first + n) of it are rows [row, row + n) */
};

/* This process's side. */
struct cuda_host {
    uint8_t *pinned; /* owned; the four below lie in it */
    struct cuda_inputs prompt;
    struct cuda_inputs *generated; /* [passes of a step] */
    float *logits;                 /* [n_logits][V] */
    int32_t *sampled;              /* [B] in the order of drawing */
    uint32_t n_generated;          /* passes of a step at most */
    struct cuda_member *members;   /* [B] of the pass being made */
    uint32_t *first_logit;         /* [B] row of the result where a sequence's logits begin */
    uint32_t *drawn_for;           /* [B] the sequence of host.sampled[i] */
    int32_t *result_sampled;       /* [B] by sequence */
};

struct cuda_bucket {
    struct cuda_topology topology;
    CUgraphExec exec; /* NULL with no_graphs */
};

struct cuda_model {
    struct gpu_model base;
    struct cuda_device *device;
    struct cuda_arena arena;
    bool asleep, prepared;
    bool bf16; /* else f16 */
    /* Set by whoever has put copies into the copy stream: kernels have to wait for them, and bias_half is not of these weights. */
    atomic_bool copies_put, biases_stale;
    struct cuda_functions functions;
    const uint16_t *embedding; /* [V][E] half */
    struct cuda_layer *layers; /* [L] */
    struct cuda_norm final_norm;
    struct cuda_linear output; /* [V][E] */
    uint16_t *kv;              /* [L][n_blocks][2][H][16][D] half */
    struct cuda_workspace ws;
    struct cuda_host host;
    struct cuda_gemms gemms;
    struct cuda_bucket buckets[CUDA_BUCKETS];
    uint32_t n_buckets;
    CUevent copies, done;
};

/* The KV of layer l. */
static inline uint16_t *cuda_model_kv(const struct cuda_model *m, uint32_t l)
{
    const struct gpu_plan *p = &m->base.plan;
    return m->kv + (size_t)l * p->limits.n_blocks * 2 * p->config.hidden * GPU_BLOCK_TOKENS;
}

/* Copies to the weight range have been put into the copy stream. Any thread. */
static inline void cuda_model_note_copies(struct cuda_model *m)
{
    atomic_store(&m->biases_stale, true);
    atomic_store(&m->copies_put, true);
}

/* What comes next in the compute stream waits for the copies noted so far. */
int cuda_model_await_copies(struct cuda_model *m, struct base_error *err);

/* cuda_model.c: the table's functions (gpu/backend.h). */
enum model_dtype cuda_model_auto_dtype(enum model_dtype file_dtype);
int cuda_model_check(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                     struct base_error *err);
void cuda_model_measure(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                        uint64_t *out_kv_bytes);
int cuda_model_new(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                   struct gpu_model **out_model, struct base_error *err);
void cuda_model_free(struct gpu_model *model);
uint8_t *cuda_model_host(struct gpu_model *model);
int cuda_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err);
bool cuda_model_samples(const struct gpu_model *model, const struct model_sampling *sampling);
int cuda_model_warm_up(struct gpu_model *model, struct base_error *err);
int cuda_model_sleep(struct gpu_model *model, struct base_error *err);
int cuda_model_wake(struct gpu_model *model, struct base_error *err);

/* Kernels, descriptors; the snapshot's image, or NULL. Graphs that are not there yet. */
int cuda_model_prepare(struct cuda_model *m, const void *image, size_t image_bytes, struct base_error *err);
int cuda_model_build_graphs(struct cuda_model *m, struct base_error *err);

/* cuda_load.c */
int cuda_model_load(struct gpu_model *model, const struct model_weights *weights,
                    void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                    struct base_error *err);

/* cuda_import.c */
int cuda_model_choices_export(struct gpu_model *model, struct base_buffer *out, struct base_error *err);
int cuda_model_choices_import(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err);

/* cuda_step.c */
int cuda_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                       struct gpu_result *out_result, struct base_error *err);

/* cuda_forward.c. What a pass is about is in the inputs on the device: tokens to logits, rows for logit_rows, and tokens drawn
 * from the first n_sample of them. KV of all rows is written. */
struct cuda_shape {
    uint32_t n_rows, n_logits, n_sample, n_tiles;
};
int cuda_forward_prompt(struct cuda_model *m, const struct cuda_shape *shape, struct base_error *err);
int cuda_forward_generated(struct cuda_model *m, uint32_t n_rows, struct base_error *err);
/* The launches of a pass over up to n_rows generated tokens. */
int cuda_forward_record(struct cuda_model *m, uint32_t n_rows, struct cuda_topology *out_topology,
                        struct base_error *err);

#endif
