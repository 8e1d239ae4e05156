/* kernel_args - what the host hands to each kernel: one struct by value, the same in C and in CUDA C++.
 *
 * Every pointer is a device pointer; the host only computes with them. "half" is the type that the model computes in: f16 or
 * bf16, 16 bits either way; each kernel exists for both. Sums are in f32. Rows are tokens of this step, in any mix of
 * sequences; every buffer has room for the step's limit, and kernels read how many rows there are from `counts`, so that a
 * graph built once serves every step.
 *
 * (1) A row's result depends on its own row, its sequence's KV and the kernel alone, bit for bit: not on how many rows there
 *     are, which they are, or where they lie.
 * (2) Rows >= the count are neither read nor written.
 *
 * Shapes: T rows, E hidden, F intermediate, H heads, D head dim (32, 64, 80, 96, 128, 256), R rotary dims, V vocabulary, N x K
 * a weight. Each kernel's launch shape is stated with its struct; kernels.md has the reasoning. */
#ifndef ROUSE_GPU_CUDA_KERNEL_ARGS_H
#define ROUSE_GPU_CUDA_KERNEL_ARGS_H

#include <stdint.h>

#ifdef __CUDACC__
#define CUDA_BOTH static constexpr __host__ __device__ /* for the host and for kernels */
#else
#define CUDA_BOTH static inline
#endif

enum {
    CUDA_BLOCK_TOKENS = 16, /* GPU_BLOCK_TOKENS */
    CUDA_WARP = 32,
    CUDA_ROTARY_THREADS = 128,
    CUDA_DECODE_WARPS = 4,  /* each covers one split of the positions */
    CUDA_PREFILL_TILE = 64, /* query rows of one block of prefill attention, all of one sequence */
    CUDA_PREFILL_THREADS = 128,
    CUDA_MATMUL_WARPS = 8,  /* each takes an eighth of K */
    CUDA_ROW_THREADS = 256, /* threads of the kernels that give a row one block */
    CUDA_SAMPLE_THREADS = 1024,
    CUDA_HASH_BYTES = 4 << 20 /* a snapshot chunk */
};

/* In device memory, written by the host before each pass. */
struct cuda_counts {
    uint32_t n_rows;   /* T of this pass */
    uint32_t n_logits; /* rows of logits */
    uint32_t n_sample; /* of which are drawn from here: the first ones */
    uint32_t reserved;
};

/* embed_f16, embed_bf16: x[t] = embedding[tokens[t]]. Grid (T), CUDA_ROW_THREADS. E is a multiple of 8. */
struct cuda_embed_args {
    const struct cuda_counts *counts;
    const int32_t *tokens;     /* [T] */
    const uint16_t *embedding; /* [V][E] half */
    float *x;                  /* [T][E] */
    uint32_t e;
};

/* norm_f16, norm_bf16: one or two LayerNorms of one row in one pass over x: y1 = ln1(x), y2 = ln2(x). Grid (rows),
 * CUDA_ROW_THREADS. rows: NULL: row i of y is of row i of x, counts->n_rows of them; else of row rows[i], counts->n_logits. */
struct cuda_norm_args {
    const struct cuda_counts *counts;
    const uint32_t *rows;       /* [n_logits] or NULL */
    const float *x;             /* [T][E] */
    const float *gain1, *bias1; /* [E] */
    const float *gain2, *bias2; /* [E], or NULL with y2 */
    uint16_t *y1, *y2;          /* [.][E] half */
    uint32_t e;
    float eps;
};

/* rotary_f16, rotary_bf16: rotates q in place, writes rotated k and v into the row's KV block. Grid
 * (T, ceil(H / cuda_rotary_heads(D))), CUDA_ROTARY_THREADS. NeoX pairs dim i with i + R/2. */
struct cuda_rotary_args {
    const struct cuda_counts *counts;
    const uint32_t *positions; /* [T] */
    const uint32_t *slots;     /* [T] which line of `blocks` */
    const uint32_t *blocks;    /* [B][blocks_stride] KV blocks of each sequence */
    const float *cos, *sin;    /* [n_ctx][R/2] */
    uint16_t *qkv;             /* [T][H][3][D] half */
    uint16_t *kv;              /* of this layer: [n_blocks][2][H][16][D] half, K before V */
    uint32_t blocks_stride, n_heads, head_dim, rotary_dims;
};

/* Heads of one row that one block of rotary takes: each thread has 8 dims of q, k or v. */
CUDA_BOTH uint32_t cuda_rotary_heads(uint32_t head_dim)
{
    return CUDA_ROTARY_THREADS / (3 * head_dim / 8);
}

/* Attention, in both its kernels, cuts the positions of a sequence into splits of this many, from position 0. Each split has its
 * own softmax: m its largest score (times scale and log2 e), l the sum of its weights 2^(score - m), o the weighted sum of its V. The
 * splits are folded from the first to the last: M' = max(M, m); L = L 2^(M - M') + l 2^(m - M'), O likewise; out = O / L. */
CUDA_BOTH uint32_t cuda_split_positions(uint32_t head_dim)
{
    return head_dim > 128 ? 32 : 64;
}

/* A run of query rows of one sequence. */
struct cuda_tile {
    uint32_t row, n_rows; /* 1 to CUDA_PREFILL_TILE */
    uint32_t slot;        /* line of `blocks` */
    uint32_t position;    /* of its first row; the others follow */
};

/* prefill_{f16,bf16}_d{D}: out[t][h] = softmax over p in 0..positions[t] of (q . k[p] / sqrt(D)) times v[p], by tensor cores,
 * K and V through shared memory by cp.async. Grid (n_tiles, H), CUDA_PREFILL_THREADS, cuda_prefill_shared_bytes(D) of dynamic
 * shared memory. Blocks start in order of tiles: those with the most positions first finish soonest. */
struct cuda_prefill_args {
    const struct cuda_tile *tiles;
    const uint32_t *blocks;
    const uint16_t *qkv; /* rotated */
    const uint16_t *kv;
    uint16_t *out; /* [T][H][D] half */
    uint32_t blocks_stride, n_heads;
    float scale; /* 1 / sqrt(D) */
};

/* 64 query rows, kept while D > 128, and a ring of three tiles of K or V. */
CUDA_BOTH uint32_t cuda_prefill_shared_bytes(uint32_t head_dim)
{
    const uint32_t row_bytes = head_dim * 2;
    return (head_dim > 128 ? CUDA_PREFILL_TILE * row_bytes : 0) + 3 * cuda_split_positions(head_dim) * row_bytes;
}

/* decode_{f16,bf16}_d{D}: the same for rows that stand alone, one warp for each split of their positions; what it finds is left
 * for merge. Grid (ceil(n_splits_max / CUDA_DECODE_WARPS), H, T), CUDA_DECODE_WARPS warps, cuda_decode_shared_bytes(D) of dynamic
 * shared memory. n_splits_max: of the positions that any row may have, ceil(n_ctx / cuda_split_positions(D)); warps past the
 * row's position leave at once. The result is that of prefill, bit for bit. */
struct cuda_decode_args {
    const struct cuda_counts *counts;
    const uint32_t *positions, *slots, *blocks;
    const uint16_t *qkv;
    const uint16_t *kv;
    float *part_o;  /* [T][H][n_splits_max][D] o */
    float *part_ml; /* [T][H][n_splits_max][2] m, l */
    uint32_t blocks_stride, n_heads, n_splits_max;
    float scale;
};

/* Each warp: one tile of K, whose KV blocks are replaced by those of V as they are used. */
CUDA_BOTH uint32_t cuda_decode_shared_bytes(uint32_t head_dim)
{
    return CUDA_DECODE_WARPS * cuda_split_positions(head_dim) * head_dim * 2;
}

/* merge_f16, merge_bf16: folds the splits of each row. Grid (T, H), one warp, D a multiple of 4 and <= 256. */
struct cuda_merge_args {
    const struct cuda_counts *counts;
    const uint32_t *positions;
    const float *part_o, *part_ml;
    uint16_t *out; /* [T][H][D] half */
    uint32_t n_heads, n_splits_max, head_dim;
};

enum cuda_act { CUDA_ACT_GELU_ERF = 0, CUDA_ACT_GELU_TANH = 1 }; /* enum model_act */

/* gelu_f16, gelu_bf16: in place over n_rows * F. Grid (T, some), CUDA_ROW_THREADS. */
struct cuda_gelu_args {
    const struct cuda_counts *counts;
    uint16_t *x; /* [T][F] half */
    uint32_t f;
    uint32_t act;
};

enum cuda_after {
    CUDA_AFTER_HALF, /* y half = sum + bias */
    CUDA_AFTER_GELU, /* y half = gelu(sum + bias) */
    CUDA_AFTER_ADD,  /* x f32 += sum + bias */
    CUDA_AFTER_F32   /* y f32 = sum (+ bias) */
};

/* matmul_{f16,bf16,q8}_t{8,16,32,64}: y[t][n] = sum over k of x[t][k] w[n][k], then as `after` says; for few rows: the weights are
 * read once, by 16-byte loads, straight into tensor-core fragments (weights are the 16-side, tokens the 8-side). Grid
 * (ceil(N / cuda_matmul_block_rows(t)), ceil(T / t)), CUDA_MATMUL_WARPS warps that split K and are summed in order in shared memory.
 * K is a multiple of 8 (q8: 16); K and N need not be multiples of a tile. Rows are counts->n_rows, or counts->n_logits when
 * `logits`. q8: w int8 [N][K], scale f32 [N], x is f16; the sum is scaled once at its end. x, w: 16-byte
 * aligned. Every t gives a row the same bits. */
struct cuda_matmul_args {
    const struct cuda_counts *counts;
    const uint16_t *x;  /* [T][K] half */
    const void *w;      /* [N][K] half or int8 */
    const float *scale; /* [N], q8 only */
    const float *bias;  /* [N] or NULL */
    void *y;            /* [T][N] half or f32 */
    uint32_t n, k;      /* N, K */
    uint32_t after;     /* enum cuda_after */
    uint32_t act;       /* enum cuda_act */
    uint32_t logits;    /* rows are rows of logits */
};

/* Weight rows (outputs) of one block of matmul_*_t{t}: with many tokens, x is read as often as there are blocks, from L2. */
CUDA_BOTH uint32_t cuda_matmul_block_rows(uint32_t t)
{
    return t <= 16 ? 16 : 32;
}

/* What one drawn row wants. The token is the one that model_sampler_draw gives for the same logits, sampling and draw. */
struct cuda_draw {
    float temperature; /* 0: greedy, the lowest id among the largest */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint64_t seed, draw;
};

/* sample: tokens[i] = drawn from logits[i], i < counts->n_sample; -1 when a logit is NaN or +infinity or all are -infinity.
 * Grid (n_sample), CUDA_SAMPLE_THREADS. */
struct cuda_sample_args {
    const struct cuda_counts *counts;
    const struct cuda_draw *draws; /* [n_sample] */
    const float *logits;           /* [n_sample][V] */
    int32_t *tokens;               /* [n_sample] */
    void *scratch;
    uint64_t scratch_stride; /* bytes from row to row: cuda_sample_scratch_bytes(V), a multiple of 16 */
    uint32_t vocab;
};

/* The ranked tokens, and the sort's other half that becomes the sums of their weights. */
CUDA_BOTH uint64_t cuda_sample_scratch_bytes(uint32_t vocab)
{
    return (uint64_t)16 * vocab;
}

/* hash: XXH3-64, seed 0, of each chunk, bit for bit what libxxhash gives. Grid (n_chunks), one warp each. For bytes that came
 * to the device without passing through this process's memory. */
struct cuda_hash_args {
    const uint8_t *bytes; /* chunk i begins at i * CUDA_HASH_BYTES; 16-byte aligned */
    uint64_t n_bytes;     /* of all; the last chunk may be shorter, >= 4096 */
    uint64_t *hashes;     /* [n_chunks] */
};

#endif
