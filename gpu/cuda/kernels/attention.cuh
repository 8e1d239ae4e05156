/* attention - prefill, decode and merge: softmax(q K^T / sqrt(D)) V over a paged cache, for any row the same bits.
 *
 * Positions are cut into splits, counted from position 0 (cuda_split_positions). A split has a softmax of its own; what it finds
 * (m, l, o) is folded into what the splits before it gave. prefill folds in registers, decode leaves the parts and merge folds
 * them: the same instructions on the same numbers in the same order, so that it does not matter which of the two a row went
 * through, nor what else was in its tile.
 *
 * (1) A position that a row may not see has the weight 0 exactly, whatever K is there; its V is multiplied by it, so V is finite
 *     in all rows that were written, and positions past the last of the tile are filled with zeros.
 * (2) A split that a row may not see at all has m = -infinity and leaves the row's fold as it was.
 * (3) Shared tiles are [rows][D] halves in 16-byte segments, swizzled so that the 8 rows of a matrix lie in different banks.
 *
 * Lane l of a warp has g = l / 4 and c = l % 4: row g (and g + 8) and columns 2c, 2c + 1 of each 8 columns (half.cuh). */
#ifndef ROUSE_GPU_CUDA_ATTENTION_CUH
#define ROUSE_GPU_CUDA_ATTENTION_CUH

#include "gpu/cuda/kernels/half.cuh"

extern __shared__ uint4 shared_bytes[]; /* the one dynamic array of all kernels */

/* What follows from the head size. Sizes in halves, segments (8 halves) or bytes. */
template <int D> struct attention_shape {
    static constexpr int row_bytes = 2 * D;
    static constexpr int segments = D / 8; /* of a row */
    static constexpr int split = cuda_split_positions(D);
    static constexpr int split_blocks = split / CUDA_BLOCK_TOKENS;
    static constexpr int split_bytes = split * row_bytes;
    static constexpr int block_segments =
        CUDA_BLOCK_TOKENS * segments; /* K or V of one head in one KV block, contiguous */
    static constexpr int block_bytes = CUDA_BLOCK_TOKENS * row_bytes;
    static constexpr int k_steps = D / 16;
    static constexpr bool keep_q_shared = D > 128; /* else in registers */
    /* Rows are an odd multiple of this many segments apart: xor with 0 to swizzle - 1, changing every 8 / swizzle rows, puts
     * 8 successive rows into 8 different groups of 4 banks. */
    static constexpr int swizzle = segments % 8 == 0 ? 8 : segments % 4 == 0 ? 4 : 2;

    static __device__ __forceinline__ uint32_t swizzle_of(uint32_t row) { return row / (8 / swizzle) % swizzle; }

    /* Of segment i of a tile, counted through its rows. */
    static __device__ __forceinline__ uint32_t tile_offset(uint32_t i) { return (i ^ swizzle_of(i / segments)) * 16; }
};

/* Where a lane finds its row of the four matrices of 16 rows x 16 halves, in the order that gives fragments in successive
 * registers. rows_first: of a, and of two b from V, which is transposed; else of two b from K. */
template <int D> struct matrix_rows {
    uint32_t row, column; /* in bytes; column to be xored with that of the 16 halves */

    __device__ __forceinline__ matrix_rows(uint32_t lane, bool rows_first)
    {
        const uint32_t r = rows_first ? lane % 16 : lane % 8 + lane / 16 * 8,
                       second = rows_first ? lane / 16 : lane / 8 % 2;
        row = r * attention_shape<D>::row_bytes;
        column = (second ^ attention_shape<D>::swizzle_of(r)) * 16;
        asm volatile(""
                     : "+r"(column)); /* the steps' addresses are made where they are used: kept, they cost registers */
    }

    __device__ __forceinline__ uint32_t at(uint32_t tile, int step) const
    {
        return tile + row + (column ^ (32u * step));
    }
};

/* ---- one split ---- */

/* s += q K^T over 16 dims, for the 16 positions of one KV block: the first 8 in s0, the others in s1. */
template <typename T, int D>
static __device__ __forceinline__ void score_block(float (&s0)[4], float (&s1)[4], const uint32_t (&q)[4],
                                                   uint32_t k_tile, int step, const matrix_rows<D> &rows)
{
    uint32_t k[4];
    load_matrices(k, rows.at(k_tile, step));
    T::mma(s0, q, k[0], k[1]);
    T::mma(s1, q, k[2], k[3]);
}

/* Scores of positions more than n_after the split's first become -infinity. */
template <int D>
static __device__ __forceinline__ void mask_row(float (&s)[attention_shape<D>::split / 8][4], int half, int n_after,
                                                uint32_t lane)
{
    n_after -= lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < attention_shape<D>::split / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (8 * j + i > n_after)
                s[j][2 * half + i] = minus_infinity();
}

struct row_softmax {
    float m, l;
};

static __device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(WARP_ALL, x, 2));
}

static __device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(WARP_ALL, x, 1);
    return x + __shfl_xor_sync(WARP_ALL, x, 2);
}

/* -infinity cannot be subtracted from itself; 0 gives the weights 2^(-infinity - 0) = 0 that are wanted. */
static __device__ __forceinline__ float finite_or_0(float m)
{
    return m == minus_infinity() ? 0.0f : m;
}

/* One row's softmax within a split: its scores become weights. half: 0 for row g, 1 for g + 8. */
template <int D>
static __device__ __forceinline__ row_softmax softmax_row(float (&s)[attention_shape<D>::split / 8][4], int half,
                                                          float scale_log2)
{
    float largest = minus_infinity(), sum = 0;
#pragma unroll
    for (int j = 0; j < attention_shape<D>::split / 8; j++)
        largest = fmaxf(largest, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    const float m = __fmul_rn(quad_max(largest), scale_log2);
    const float minus_m = -finite_or_0(m);
#pragma unroll
    for (int j = 0; j < attention_shape<D>::split / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float &x = s[j][2 * half + i];
            x = exp2_fast(__fmaf_rn(x, scale_log2, minus_m));
            sum = __fadd_rn(sum, x);
        }
    return {m, quad_sum(sum)};
}

/* o += weights V for the 16 positions of one KV block and 16 of the D dims. */
template <typename T, int D>
static __device__ __forceinline__ void weigh_block(float (&o0)[4], float (&o1)[4], const uint32_t (&weights)[4],
                                                   uint32_t v_tile, int step, const matrix_rows<D> &rows)
{
    uint32_t v[4];
    load_matrices_transposed(v, rows.at(v_tile, step));
    T::mma(o0, weights, v[0], v[1]);
    T::mma(o1, weights, v[2], v[3]);
}

/* ---- the fold ---- */

struct fold_weights {
    float before, part;
};

static __device__ __forceinline__ fold_weights fold_weigh(float m_before, float m_part)
{
    const float m = finite_or_0(fmaxf(m_before, m_part));
    return {exp2_fast(m_before - m), exp2_fast(m_part - m)};
}

static __device__ __forceinline__ float fold(float before, float part, const fold_weights &w)
{
    return __fmaf_rn(part, w.part, __fmul_rn(before, w.before));
}

/* + 0: a split that changes nothing may have changed the sign of a zero. */
static __device__ __forceinline__ float fold_end(float o, float l_inverse)
{
    return __fmaf_rn(o, l_inverse, 0.0f);
}

/* ---- the cache ---- */

/* Where K (V when `is_v`) of one head is in a KV block. [n_blocks][2][H][16][D] halves. */
template <int D>
static __device__ __forceinline__ const uint16_t *cache_at(const uint16_t *kv, uint32_t block, bool is_v,
                                                           uint32_t n_heads, uint32_t head)
{
    return kv + ((block * 2ull + is_v) * n_heads + head) * (CUDA_BLOCK_TOKENS * D);
}

/* K or V of one KV block, by one warp; or, with n_parts, one of as many parts of it. Rows >= n_wanted become zeros. */
template <int D, int n_parts>
static __device__ __forceinline__ void cache_copy(uint32_t to, const uint16_t *from, uint32_t part, int n_wanted,
                                                  uint32_t lane)
{
    using shape = attention_shape<D>;
    constexpr int segments = shape::block_segments / n_parts; /* whole groups of 8 rows: the same swizzle */
    const int wanted = (n_wanted - (int)part * (CUDA_BLOCK_TOKENS / n_parts)) * shape::segments - (int)lane;
    to += part * segments * 16;
    from += part * segments * 8 + lane * 8;
    asm("" : "+l"(from)); /* one address, and what is added below is part of the instruction */
#pragma unroll
    for (int j = 0; j < segments / CUDA_WARP; j++) {
        const int i = j * CUDA_WARP;
        const uint32_t offset = CUDA_WARP % shape::segments == 0
                                    ? i * 16 + (shape::tile_offset(lane) ^ shape::swizzle_of(i / shape::segments) * 16)
                                    : shape::tile_offset(i + lane);
        copy_16(to + offset, from + i * 8, i < wanted);
    }
}

/* ---- prefill: one block for 64 query rows of one head, 16 to a warp ---- */

template <int D>
static __device__ __forceinline__ void prefill_copy_q(const cuda_prefill_args &a, const cuda_tile &tile, uint32_t to)
{
    constexpr int segments = attention_shape<D>::segments;
    const uint64_t row_halves = (uint64_t)a.n_heads * 3 * D;
    const uint16_t *q = a.qkv + tile.row * row_halves + blockIdx.y * 3 * D;
#pragma unroll
    for (int j = 0; j < CUDA_PREFILL_TILE * segments / CUDA_PREFILL_THREADS; j++) {
        const uint32_t i = threadIdx.x + j * CUDA_PREFILL_THREADS, row = i / segments;
        const bool wanted = row < tile.n_rows;
        copy_16(to + attention_shape<D>::tile_offset(i), q + (wanted ? row : 0) * row_halves + i % segments * 8,
                wanted);
    }
}

/* A warp's share of K or V of a split: a KV block, or half of one. */
template <int D> struct prefill_share {
    static constexpr int n_parts = CUDA_PREFILL_THREADS / CUDA_WARP / attention_shape<D>::split_blocks;
    const uint32_t *blocks; /* of the sequence */
    uint32_t n_keys;        /* that the tile's last row sees */
    uint32_t warp, lane;

    /* Its KV block of the split that begins with position `first`; past the last position, the last there is. */
    __device__ __forceinline__ uint32_t look_up(uint32_t first) const
    {
        return blocks[min(first / CUDA_BLOCK_TOKENS + warp / n_parts, (n_keys - 1) / CUDA_BLOCK_TOKENS)];
    }

    __device__ __forceinline__ void copy(uint32_t tile, const uint16_t *from, uint32_t first) const
    {
        const uint32_t b = warp / n_parts;
        cache_copy<D, n_parts>(tile + b * attention_shape<D>::block_bytes, from, warp % n_parts,
                               (int)(n_keys - first - b * CUDA_BLOCK_TOKENS), lane);
    }
};

/* What a warp knows of its 16 rows; [2]: rows g and g + 8. */
template <int D> struct prefill_rows {
    float o[D / 8][4]; /* folded so far */
    float m[2], l[2];
};

template <typename T, int D>
static __device__ __forceinline__ void
prefill_score(float (&s)[attention_shape<D>::split / 8][4],
              uint32_t (&q)[attention_shape<D>::keep_q_shared ? 1 : attention_shape<D>::k_steps][4], uint32_t q_tile,
              uint32_t k_tile, uint32_t lane)
{
    using shape = attention_shape<D>;
    const matrix_rows<D> q_rows(lane, true), k_rows(lane, false);
#pragma unroll
    for (int j = 0; j < shape::split / 8; j++)
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
    for (int step = 0; step < shape::k_steps; step++) {
        if (shape::keep_q_shared)
            load_matrices(q[0], q_rows.at(q_tile, step));
#pragma unroll
        for (int b = 0; b < shape::split_blocks; b++)
            score_block<T, D>(s[2 * b], s[2 * b + 1], q[shape::keep_q_shared ? 0 : step],
                              k_tile + b * shape::block_bytes, step, k_rows);
    }
}

/* Scores to weights in halves, and the split's m and l into the fold; out_w: what o is to be folded with. */
template <typename T, int D>
static __device__ __forceinline__ void
prefill_soften(float (&s)[attention_shape<D>::split / 8][4], float scale_log2, prefill_rows<D> &rows,
               uint32_t (&out_weights)[attention_shape<D>::split_blocks][4], fold_weights (&out_w)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const row_softmax part = softmax_row<D>(s, half, scale_log2);
        out_w[half] = fold_weigh(rows.m[half], part.m);
        rows.m[half] = fmaxf(rows.m[half], part.m);
        rows.l[half] = fold(rows.l[half], part.l, out_w[half]);
    }
#pragma unroll
    for (int b = 0; b < attention_shape<D>::split_blocks; b++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            out_weights[b][i] = T::narrow2(s[2 * b + i / 2][i % 2 * 2], s[2 * b + i / 2][i % 2 * 2 + 1]);
}

template <typename T, int D>
static __device__ __forceinline__ void prefill_weigh(prefill_rows<D> &rows,
                                                     const uint32_t (&weights)[attention_shape<D>::split_blocks][4],
                                                     const fold_weights (&w)[2], uint32_t v_tile, uint32_t lane)
{
    using shape = attention_shape<D>;
    const matrix_rows<D> v_rows(lane, true);
#pragma unroll
    for (int step = 0; step < shape::k_steps; step++) {
        float part[2][4] = {};
#pragma unroll
        for (int b = 0; b < shape::split_blocks; b++)
            weigh_block<T, D>(part[0], part[1], weights[b], v_tile + b * shape::block_bytes, step, v_rows);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float &o = rows.o[2 * step + i / 4][i % 4];
            o = fold(o, part[i / 4][i % 4], w[i % 4 / 2]);
        }
    }
}

/* Through shared memory, each warp its own rows, so that 16 bytes of a row are stored at once. */
template <typename T, int D>
static __device__ __forceinline__ void prefill_store(const cuda_prefill_args &a, const prefill_rows<D> &rows,
                                                     uint32_t warp, uint32_t lane)
{
    using shape = attention_shape<D>;
    const cuda_tile tile = a.tiles[blockIdx.x]; /* again: registers are short in between */
    uint8_t *staged = (uint8_t *)shared_bytes + warp * 16 * shape::row_bytes;
    const float inverse[2] = {1.0f / rows.l[0], 1.0f / rows.l[1]};
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t i = (lane / 4 + 8 * half) * shape::segments + j;
            *(uint32_t *)(staged + shape::tile_offset(i) + lane % 4 * 4) = T::narrow2(
                fold_end(rows.o[j][2 * half], inverse[half]), fold_end(rows.o[j][2 * half + 1], inverse[half]));
        }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < shape::k_steps; j++) {
        const uint32_t i = lane + j * CUDA_WARP, row = warp * 16 + i / shape::segments;
        const uint64_t to = ((uint64_t)(tile.row + row) * a.n_heads + blockIdx.y) * D + i % shape::segments * 8;
        if (row < tile.n_rows)
            store_16(a.out + to, *(const uint4 *)(staged + shape::tile_offset(i)));
    }
}

/* K and V come alternately through a ring of three tiles: the next two are on their way while one is used. All threads keep
 * step through it; a warp whose rows are all past the tile's end only copies. */
template <typename T, int D> static __device__ __forceinline__ void prefill_kernel(const cuda_prefill_args &a)
{
    using shape = attention_shape<D>;
    const cuda_tile tile = a.tiles[blockIdx.x];
    const uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const uint32_t n_keys = tile.position + tile.n_rows;
    const prefill_share<D> share = {a.blocks + (uint64_t)tile.slot * a.blocks_stride, n_keys, warp, lane};
    const float scale_log2 = a.scale * 1.44269504f;
    const bool has_rows = warp * 16 < tile.n_rows;
    const uint32_t position = tile.position + warp * 16; /* of the warp's first row */

    const uint32_t ring =
        shared_address(shared_bytes) + (shape::keep_q_shared ? CUDA_PREFILL_TILE * shape::row_bytes : 0);
    uint32_t k_tile = ring, v_tile = ring + shape::split_bytes;
    const uint32_t q_block = shape::keep_q_shared ? shared_address(shared_bytes) : ring + 2 * shape::split_bytes;
    const uint32_t q_tile = q_block + warp * 16 * shape::row_bytes;

    uint32_t block = share.look_up(0);
    prefill_copy_q<D>(a, tile, q_block);
    share.copy(k_tile, cache_at<D>(a.kv, block, false, a.n_heads, blockIdx.y), 0);
    copy_commit();
    share.copy(v_tile, cache_at<D>(a.kv, block, true, a.n_heads, blockIdx.y), 0);
    copy_commit();
    block = share.look_up(shape::split);

    uint32_t q[shape::keep_q_shared ? 1 : shape::k_steps][4];
    copy_wait<1>();
    __syncthreads();
    if (!shape::keep_q_shared) {
        const matrix_rows<D> q_rows(lane, true);
#pragma unroll
        for (int step = 0; step < shape::k_steps; step++)
            load_matrices(q[step], q_rows.at(q_tile, step));
    }

    prefill_rows<D> rows = {{}, {minus_infinity(), minus_infinity()}, {}};
    uint32_t first = 0;
    do {
        const uint32_t next = first + shape::split;
        const uint32_t free_tile = 3 * ring + 3 * shape::split_bytes - k_tile - v_tile;
        uint32_t weights[shape::split_blocks][4];
        fold_weights w[2];
        copy_wait<1>();
        __syncthreads(); /* K of this split is there; nobody uses the V before it any more */
        if (next < n_keys)
            share.copy(free_tile, cache_at<D>(a.kv, block, false, a.n_heads, blockIdx.y), next);
        copy_commit();
        if (has_rows) {
            float s[shape::split / 8][4];
            prefill_score<T, D>(s, q, q_tile, k_tile, lane);
            if (next > tile.position) { /* for some rows at least */
                mask_row<D>(s, 0, (int)(position - first + lane / 4), lane);
                mask_row<D>(s, 1, (int)(position - first + lane / 4 + 8), lane);
            }
            prefill_soften<T, D>(s, scale_log2, rows, weights, w);
        }
        copy_wait<1>();
        __syncthreads(); /* V of this split is there; nobody uses its K any more */
        if (next < n_keys)
            share.copy(k_tile, cache_at<D>(a.kv, block, true, a.n_heads, blockIdx.y), next);
        copy_commit();
        block = share.look_up(next + shape::split);
        if (has_rows)
            prefill_weigh<T, D>(rows, weights, w, v_tile, lane);
        v_tile = k_tile;
        k_tile = free_tile;
        first = next;
    } while (first < n_keys);
    __syncthreads();
    prefill_store<T, D>(a, rows, warp, lane);
}

/* ---- decode: one warp for one split of one head of one row ---- */

/* Fragments in which every row is q, so that all lanes find the same. */
template <int D>
static __device__ __forceinline__ void decode_load_q(uint32_t (&q)[attention_shape<D>::k_steps][4],
                                                     const uint16_t *from, uint32_t lane)
{
#pragma unroll
    for (int step = 0; step < attention_shape<D>::k_steps; step++) {
        const uint32_t *pair = (const uint32_t *)(from + 16 * step) + lane % 4;
        q[step][0] = q[step][1] = pair[0];
        q[step][2] = q[step][3] = pair[4];
    }
}

/* All rows of o are the same; of 8 times 8 dims, g writes the g-th 8. */
template <int D>
static __device__ __forceinline__ void decode_store(float *to, const float (&o)[D / 8][4], uint32_t lane)
{
#pragma unroll
    for (int j = 0; j < D / 8; j += 8) {
        const uint32_t g = lane / 4;
        float2 mine = make_float2(o[j][0], o[j][1]);
#pragma unroll
        for (int i = 1; i < 8 && j + i < D / 8; i++)
            if (g == i)
                mine = make_float2(o[j + i][0], o[j + i][1]);
        if (j + g < D / 8)
            *(float2 *)(to + (j + g) * 8 + lane % 4 * 2) = mine;
    }
}

/* As soon as a KV block of K is used, the same one of V is on its way to its place. */
template <typename T, int D> static __device__ __forceinline__ void decode_kernel(const cuda_decode_args &a)
{
    using shape = attention_shape<D>;
    constexpr int n_blocks = shape::split_blocks;
    const uint32_t warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const uint32_t split = blockIdx.x * CUDA_DECODE_WARPS + warp, head = blockIdx.y, row = blockIdx.z;
    if (row >= a.counts->n_rows)
        return;
    const uint32_t last = a.positions[row], first = split * shape::split;
    if (first > last)
        return; /* the whole warp; nothing here waits for the others */

    const uint32_t *blocks = a.blocks + (uint64_t)a.slots[row] * a.blocks_stride;
    const uint32_t tile = shared_address(shared_bytes) + warp * shape::split_bytes, n_keys = last + 1 - first;
    uint32_t block[n_blocks];
#pragma unroll
    for (int b = 0; b < n_blocks; b++)
        block[b] = blocks[min(split * n_blocks + b, last / CUDA_BLOCK_TOKENS)]; /* past the last: of no consequence */
#pragma unroll
    for (int b = 0; b < n_blocks; b++) {
        cache_copy<D, 1>(tile + b * shape::block_bytes, cache_at<D>(a.kv, block[b], false, a.n_heads, head), 0,
                         (int)n_keys - 16 * b, lane);
        copy_commit();
    }

    const matrix_rows<D> k_rows(lane, false), v_rows(lane, true);
    const uint64_t row_head = (uint64_t)row * a.n_heads + head;
    uint32_t q[shape::k_steps][4];
    decode_load_q<D>(q, a.qkv + row_head * 3 * D, lane);
    float s[shape::split / 8][4] = {};
#pragma unroll
    for (int b = 0; b < n_blocks; b++) {
        copy_wait<n_blocks - 1>();
        __syncwarp();
#pragma unroll
        for (int step = 0; step < shape::k_steps; step++)
            score_block<T, D>(s[2 * b], s[2 * b + 1], q[step], tile + b * shape::block_bytes, step, k_rows);
        __syncwarp();
        cache_copy<D, 1>(tile + b * shape::block_bytes, cache_at<D>(a.kv, block[b], true, a.n_heads, head), 0,
                         (int)n_keys - 16 * b, lane);
        copy_commit();
    }

    if (first + shape::split > last + 1)
        mask_row<D>(s, 0, (int)(last - first), lane);
    const row_softmax part = softmax_row<D>(s, 0, a.scale * 1.44269504f);
    float o[D / 8][4] = {};
#pragma unroll
    for (int b = 0; b < n_blocks; b++) {
        const uint32_t even = T::narrow2(s[2 * b][0], s[2 * b][1]), odd = T::narrow2(s[2 * b + 1][0], s[2 * b + 1][1]);
        const uint32_t weights[4] = {even, even, odd, odd};
        copy_wait<n_blocks - 1>();
        __syncwarp();
#pragma unroll
        for (int step = 0; step < shape::k_steps; step++)
            weigh_block<T, D>(o[2 * step], o[2 * step + 1], weights, tile + b * shape::block_bytes, step, v_rows);
        copy_commit(); /* an empty group keeps the count */
    }

    const uint64_t to = row_head * a.n_splits_max + split;
    decode_store<D>(a.part_o + to * D, o, lane);
    if (lane == 0)
        *(float2 *)(a.part_ml + to * 2) = make_float2(part.m, part.l);
}

/* ---- merge: one warp for one head of one row, 4 dims to a lane, twice when D > 128 ---- */

/* Lane i has what the fold needs of split i: the m before it is the largest of all m before it, and largest is the same in
 * any order, so that only the sums themselves go from split to split. */
static __device__ __forceinline__ fold_weights merge_weigh(float m_before, float m_part, uint32_t lane, float *out_m)
{
    float m = m_part;
#pragma unroll
    for (int distance = 1; distance < CUDA_WARP; distance *= 2) {
        const float earlier = __shfl_up_sync(WARP_ALL, m, distance);
        if ((int)lane >= distance)
            m = fmaxf(m, earlier);
    }
    m = fmaxf(m, m_before);
    float before = __shfl_up_sync(WARP_ALL, m, 1);
    if (lane == 0)
        before = m_before;
    *out_m = __shfl_sync(WARP_ALL, m, CUDA_WARP - 1);
    return fold_weigh(before, m_part);
}

static __device__ __forceinline__ void merge_fold(float4 &o, const float4 &part, const fold_weights &w)
{
    o.x = fold(o.x, part.x, w);
    o.y = fold(o.y, part.y, w);
    o.z = fold(o.z, part.z, w);
    o.w = fold(o.w, part.w, w);
}

/* The 4 dims from `dim` on of splits `first` to `first` + 7; zeros past n and past D. */
static __device__ __forceinline__ void merge_load(float4 (&part)[8], const float *part_o, uint32_t first, uint32_t n,
                                                  uint32_t dim, uint32_t d)
{
    const float *from = part_o + (uint64_t)first * d + dim;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        part[i] = make_float4(0, 0, 0, 0);
        if (first + i < n && dim < d)
            part[i] = *(const float4 *)(from + i * d);
    }
}

template <typename T> static __device__ __forceinline__ uint2 merge_end(const float4 &o, float l_inverse)
{
    return make_uint2(T::narrow2(fold_end(o.x, l_inverse), fold_end(o.y, l_inverse)),
                      T::narrow2(fold_end(o.z, l_inverse), fold_end(o.w, l_inverse)));
}

template <typename T> static __device__ __forceinline__ void merge_kernel(const cuda_merge_args &a)
{
    const uint32_t row = blockIdx.x, lane = threadIdx.x, d = a.head_dim;
    if (row >= a.counts->n_rows)
        return;
    const uint32_t n_splits = a.positions[row] / cuda_split_positions(d) + 1;
    const uint64_t row_head = (uint64_t)row * a.n_heads + blockIdx.y;
    const float2 *part_ml = (const float2 *)a.part_ml + row_head * a.n_splits_max;
    const float *part_o = a.part_o + row_head * a.n_splits_max * d;
    const uint32_t dim = lane * 4;

    float4 o0 = make_float4(0, 0, 0, 0), o1 = o0;
    float m = minus_infinity(), l = 0;
    uint32_t first = 0;
    do {
        const bool has = first + lane < n_splits; /* those that are not there have m = -infinity: they change nothing */
        const float2 mine = has ? part_ml[first + lane] : make_float2(minus_infinity(), 0);
        const fold_weights mine_w = merge_weigh(m, mine.x, lane, &m);
        uint32_t i = 0;
        do {
            float4 part0[8], part1[8];
            merge_load(part0, part_o, first + i, n_splits, dim, d);
            merge_load(part1, part_o, first + i, n_splits, dim + 128, d);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const fold_weights w = {__shfl_sync(WARP_ALL, mine_w.before, (int)i + k),
                                        __shfl_sync(WARP_ALL, mine_w.part, (int)i + k)};
                l = fold(l, __shfl_sync(WARP_ALL, mine.y, (int)i + k), w);
                merge_fold(o0, part0[k], w);
                merge_fold(o1, part1[k], w);
            }
            i += 8;
        } while (i < CUDA_WARP && first + i < n_splits);
        first += CUDA_WARP;
    } while (first < n_splits);
    if (dim < d)
        *(uint2 *)(a.out + row_head * d + dim) = merge_end<T>(o0, 1.0f / l);
    if (dim + 128 < d)
        *(uint2 *)(a.out + row_head * d + dim + 128) = merge_end<T>(o1, 1.0f / l);
}

/* ---- registers ----
 *
 * Of prefill and decode: as many blocks to a multiprocessor as its shared memory has room for, but not more than `wanted`, which
 * leaves each thread the registers that its sums and fragments need. */

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#define ATTENTION_SHARED_BYTES (100 << 10) /* of a multiprocessor */
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ATTENTION_SHARED_BYTES (228 << 10)
#else
#define ATTENTION_SHARED_BYTES (164 << 10)
#endif

static constexpr __host__ __device__ int attention_blocks(int shared_bytes_of_block, int wanted)
{
    const int room = ATTENTION_SHARED_BYTES / (shared_bytes_of_block + 1024); /* 1 KiB of each block is the driver's */
    return room < wanted ? room : wanted;
}

#endif
