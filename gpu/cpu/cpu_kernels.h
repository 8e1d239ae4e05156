/* cpu_kernels - the operations of the forward pass on a cpu, as a table; one table per instruction set.
 *
 * kernels_plain.c has the version to check against the paper, kernels_avx2.c the fast one; same arguments, same meaning,
 * compared in tests/test_kernels.c.
 *
 * (1) Every output element is computed by one fixed sequence of operations that depends on the operation's own sizes (K,
 *     the number of positions) and the table alone: not on how many tokens or rows share the call, on the thread, or on
 *     where things lie. gpu_model_forward's promise (same prompt, same bits) rests on this.
 * (2) No call allocates, and none reads or writes outside the extents given.
 * (3) Sums are in f32; weights in f16 and bf16 are widened exactly, element by element.
 *
 * Shapes: T tokens, N rows of a weight, K its columns, E hidden, H heads, D head dim (multiple of 8, <= 256), R rotary. */
#ifndef ROUSE_GPU_CPU_KERNELS_H
#define ROUSE_GPU_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "gpu/device.h"

/* y[t][n] = sum over k of x[t][k] * w[n][k], plus bias[n] */
struct cpu_matmul {
    const float *x;    /* [T][K] */
    const void *w;     /* [N][K] in dtype */
    const float *bias; /* [N], or NULL */
    float *y;          /* [T][N] */
    enum model_dtype dtype;
    uint32_t n_tokens, n_rows, n_cols; /* T, N, K; each >= 1 */
};

/* The KV of one layer: blocks of [2][H][16][D] f32, K before V, block_floats apart. */
struct cpu_kv {
    float *data;
    size_t block_floats;
    uint32_t n_heads, head_dim;
};

static inline float *cpu_kv_block(const struct cpu_kv *kv, uint32_t block, uint32_t is_v, uint32_t head)
{
    const size_t tile = (size_t)GPU_BLOCK_TOKENS * kv->head_dim; /* [16][D] of one head */
    return kv->data + block * kv->block_floats + ((size_t)is_v * kv->n_heads + head) * tile;
}

struct cpu_kernels {
    const char *name; /* "generic", "avx2" */
    const char *arch; /* gpu_info.arch */

    /* n elements of a weight to f32, exactly, and f32 to a weight, to nearest even. */
    void (*widen)(enum model_dtype dtype, const void *from, size_t n, float *to);
    void (*narrow)(enum model_dtype dtype, const float *from, size_t n, void *to);

    /* Rows [row_begin, row_end) of m's y, for all tokens. scratch: [cpu_scratch_floats]. */
    void (*matmul)(const struct cpu_matmul *m, uint32_t row_begin, uint32_t row_end, float *scratch);

    /* One token: y = (x - mean x) / sqrt(var x + eps) * gain + bias over E (a multiple of 8). y may be x. */
    void (*layernorm)(const float *x, const float *gain, const float *bias, float eps, uint32_t e, float *y);

    /* One head of one token, [D] in place, by the angles whose cos and sin [R/2] are given. NeoX pairs dim i with
     * i + R/2; pairing neighbours (GPT-J) is another model. Every version gives the same bits. */
    void (*rotary)(float *x, const float *cos, const float *sin, uint32_t r);

    /* K and V of one head of one token, [D] each, into slot position % 16 of block. */
    void (*kv_write)(const struct cpu_kv *kv, uint32_t block, uint32_t head, uint32_t position, const float *k,
                     const float *v);

    /* One head of one token: out[D] = softmax over p in 0..position of (q . k[p] / sqrt(D)), times v[p]. blocks: the
     * sequence's. scratch: [cpu_scratch_floats]. */
    void (*attention)(const struct cpu_kv *kv, const uint32_t *blocks, uint32_t head, uint32_t position, const float *q,
                      float *out, float *scratch);

    void (*gelu)(enum model_act act, float *x, size_t n); /* in place */
    void (*add)(float *x, const float *y, size_t n);      /* x += y */
};

/* The kv_write of every version: two copies, which memcpy does best. */
void cpu_kv_write(const struct cpu_kv *kv, uint32_t block, uint32_t head, uint32_t position, const float *k,
                  const float *v);

extern const struct cpu_kernels cpu_kernels_plain;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2; /* AVX2, FMA, F16C: ask cpu_kernels_pick first */
#endif

/* The table called name ("generic", "avx2"), or the best that this processor has for NULL and "auto". ERR_USAGE. */
int cpu_kernels_pick(const char *name, const struct cpu_kernels **out_kernels, struct base_error *err);

/* Floats of scratch that one thread needs for any call with K <= n_cols_max and position < n_positions_max; and at least
 * what loading wants. */
size_t cpu_scratch_floats(uint32_t n_cols_max, uint32_t n_positions_max);

#endif
