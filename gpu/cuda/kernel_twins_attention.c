/* Rotary and attention as the paper has them. A split's softmax is decode's business alone; prefill has none here: what its
 * kernel folds is one softmax over all positions. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "gpu/cuda/kernel_twins.h"

/* ---- rotary ---- */

/* Dims i and i + R/2 are the coordinates of a point, which is turned by the position's i-th angle. */
static void rotary_turn(enum model_dtype half, uint16_t *x, const float *cos, const float *sin, uint32_t rotary_dims)
{
    const uint32_t n = rotary_dims / 2;
    for (uint32_t i = 0; i < n; i++) {
        const double a = (double)cuda_twin_widen(half, x[i]), b = (double)cuda_twin_widen(half, x[i + n]);
        x[i] = cuda_twin_narrow(half, a * (double)cos[i] - b * (double)sin[i]);
        x[i + n] = cuda_twin_narrow(half, b * (double)cos[i] + a * (double)sin[i]);
    }
}

/* Where a position's K (V when is_v) lies. kv: [n_blocks][2][H][16][D] */
static size_t cache_at(const uint32_t *blocks, uint32_t position, bool is_v, uint32_t n_heads, uint32_t head,
                       uint32_t d)
{
    const size_t line = ((size_t)blocks[position / CUDA_BLOCK_TOKENS] * 2 + is_v) * n_heads + head;
    return (line * CUDA_BLOCK_TOKENS + position % CUDA_BLOCK_TOKENS) * d;
}

void cuda_twin_rotary(enum model_dtype half, const struct cuda_rotary_args *a)
{
    const uint32_t d = a->head_dim;
    for (uint32_t t = 0; t < a->counts->n_rows; t++) {
        const uint32_t position = a->positions[t];
        const uint32_t *blocks = a->blocks + (size_t)a->slots[t] * a->blocks_stride;
        const float *cos = a->cos + (size_t)position * (a->rotary_dims / 2);
        const float *sin = a->sin + (size_t)position * (a->rotary_dims / 2);
        for (uint32_t h = 0; h < a->n_heads; h++) {
            uint16_t *q = a->qkv + ((size_t)t * a->n_heads + h) * 3 * d, *k = q + d, *v = k + d;
            uint16_t *cached_k = a->kv + cache_at(blocks, position, false, a->n_heads, h, d);
            rotary_turn(half, q, cos, sin, a->rotary_dims);
            memcpy(cached_k, k, d * sizeof *k); /* the row's own k stays as it was */
            rotary_turn(half, cached_k, cos, sin, a->rotary_dims);
            memcpy(a->kv + cache_at(blocks, position, true, a->n_heads, h, d), v, d * sizeof *v);
        }
    }
}

/* ---- attention ---- */

/* One head of one row's view of the cache. */
struct attention {
    enum model_dtype half;
    const uint16_t *q, *kv;
    const uint32_t *blocks; /* of its sequence */
    uint32_t n_heads, head, d;
    double scale;
};

static double attention_dot(const struct attention *at, uint32_t position)
{
    const uint16_t *k = at->kv + cache_at(at->blocks, position, false, at->n_heads, at->head, at->d);
    double sum = 0;
    for (uint32_t i = 0; i < at->d; i++)
        sum += (double)cuda_twin_widen(at->half, at->q[i]) * (double)cuda_twin_widen(at->half, k[i]);
    return sum * at->scale;
}

/* Softmax over positions begin to end - 1 and the sum of V by it: out_o, not divided by out_l. */
static void attention_sum(const struct attention *at, uint32_t begin, uint32_t end, double *out_max, double *out_l,
                          double *out_o)
{
    double max = -INFINITY, l = 0;
    for (uint32_t p = begin; p < end; p++)
        max = fmax(max, attention_dot(at, p));
    memset(out_o, 0, at->d * sizeof *out_o);
    for (uint32_t p = begin; p < end; p++) {
        const double weight = exp(attention_dot(at, p) - max);
        const uint16_t *v = at->kv + cache_at(at->blocks, p, true, at->n_heads, at->head, at->d);
        l += weight;
        for (uint32_t i = 0; i < at->d; i++)
            out_o[i] += weight * (double)cuda_twin_widen(at->half, v[i]);
    }
    *out_max = max;
    *out_l = l;
}

static void prefill_row(enum model_dtype half, uint32_t d, const struct cuda_prefill_args *a,
                        const struct cuda_tile *tile, uint32_t row, uint32_t head)
{
    const size_t row_head = (size_t)(tile->row + row) * a->n_heads + head;
    const struct attention at = {.half = half,
                                 .q = a->qkv + row_head * 3 * d,
                                 .kv = a->kv,
                                 .blocks = a->blocks + (size_t)tile->slot * a->blocks_stride,
                                 .n_heads = a->n_heads,
                                 .head = head,
                                 .d = d,
                                 .scale = (double)a->scale};
    double max, l, o[256];
    attention_sum(&at, 0, tile->position + row + 1, &max, &l, o);
    for (uint32_t i = 0; i < d; i++)
        a->out[row_head * d + i] = cuda_twin_narrow(half, o[i] / l);
}

void cuda_twin_prefill(enum model_dtype half, uint32_t head_dim, uint32_t n_tiles, const struct cuda_prefill_args *a)
{
    assert(head_dim <= 256);
    for (uint32_t i = 0; i < n_tiles; i++)
        for (uint32_t row = 0; row < a->tiles[i].n_rows; row++)
            for (uint32_t h = 0; h < a->n_heads; h++)
                prefill_row(half, head_dim, a, &a->tiles[i], row, h);
}

static void decode_row(enum model_dtype half, uint32_t d, const struct cuda_decode_args *a, uint32_t row, uint32_t head)
{
    const double log2_e = 1.4426950408889634;
    const size_t row_head = (size_t)row * a->n_heads + head;
    const struct attention at = {.half = half,
                                 .q = a->qkv + row_head * 3 * d,
                                 .kv = a->kv,
                                 .blocks = a->blocks + (size_t)a->slots[row] * a->blocks_stride,
                                 .n_heads = a->n_heads,
                                 .head = head,
                                 .d = d,
                                 .scale = (double)a->scale};
    const uint32_t n = a->positions[row] + 1, split_positions = cuda_split_positions(d);
    for (uint32_t split = 0; split * split_positions < n; split++) {
        const uint32_t begin = split * split_positions, end = begin + split_positions;
        const size_t to = row_head * a->n_splits_max + split;
        double max, l, o[256];
        attention_sum(&at, begin, end < n ? end : n, &max, &l, o);
        a->part_ml[to * 2] = (float)(max * log2_e);
        a->part_ml[to * 2 + 1] = (float)l;
        for (uint32_t i = 0; i < d; i++)
            a->part_o[to * d + i] = (float)o[i];
    }
}

void cuda_twin_decode(enum model_dtype half, uint32_t head_dim, const struct cuda_decode_args *a)
{
    assert(head_dim <= 256);
    for (uint32_t t = 0; t < a->counts->n_rows; t++)
        for (uint32_t h = 0; h < a->n_heads; h++)
            decode_row(half, head_dim, a, t, h);
}

/* ---- merge ---- */

void cuda_twin_merge(enum model_dtype half, const struct cuda_merge_args *a)
{
    for (uint32_t t = 0; t < a->counts->n_rows; t++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            const size_t row_head = (size_t)t * a->n_heads + h;
            const float *ml = a->part_ml + row_head * a->n_splits_max * 2;
            const float *o = a->part_o + row_head * a->n_splits_max * a->head_dim;
            const uint32_t n = a->positions[t] / cuda_split_positions(a->head_dim) + 1;
            double max = -INFINITY, l = 0;
            for (uint32_t i = 0; i < n; i++)
                max = fmax(max, (double)ml[2 * i]);
            for (uint32_t i = 0; i < n; i++)
                l += exp2((double)ml[2 * i] - max) * (double)ml[2 * i + 1];
            for (uint32_t k = 0; k < a->head_dim; k++) {
                double sum = 0;
                for (uint32_t i = 0; i < n; i++)
                    sum += exp2((double)ml[2 * i] - max) * (double)o[(size_t)i * a->head_dim + k];
                a->out[row_head * a->head_dim + k] = cuda_twin_narrow(half, sum / l);
            }
        }
}
