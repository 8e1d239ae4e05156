/* sample - the token that model_sampler_draw gives, bit for bit: its sums are IEEE doubles in a fixed order, so they are here.
 * No other kernel computes in double.
 *
 * A block is a row. 1: the largest score and its lowest id (greedy ends here). 2: unless top-k is on, the weight of all tokens,
 * in model_exp_sum's order: eight running sums, which eight lanes add up while the other warps compute the next weights. 3: the
 * most likely tokens: a histogram of the distance from the largest score says how far down they reach; those are gathered in
 * order of their ids and sorted by their keys, stably. 4: the sums of their weights from the first to each, one after the
 * other, as far as they decide. 5: where top-p, min-p and the random number fall, by all threads. When the ranked tokens do
 * not decide, sixteen times as many are ranked: what comes out does not depend on where one begins. */
#ifndef ROUSE_GPU_CUDA_SAMPLE_CUH
#define ROUSE_GPU_CUDA_SAMPLE_CUH

#include "half.cuh"

enum {
    SAMPLE_WARPS = CUDA_SAMPLE_THREADS / CUDA_WARP,
    SAMPLE_MAKERS = CUDA_SAMPLE_THREADS - CUDA_WARP, /* threads that compute weights while warp 0 adds */
    SAMPLE_CHUNK = 2 * SAMPLE_MAKERS,                /* weights in one half of the buffer; a multiple of the 8 sums */
    SAMPLE_RANKS = 1024,                             /* weights of ranked tokens at a time */
    SAMPLE_BINS = 2 * CUDA_SAMPLE_THREADS,           /* of 1/64: 32 below the largest score, and what is behind */
    SAMPLE_FIRST = 1024,                             /* tokens ranked at first, when top-k does not say */
    SAMPLE_GROWTH = 16,
    SAMPLE_DIGITS = 256 /* of a key, 8 bits each */
};

/* Each step's own; a barrier lies between any two. */
union alignas(16) sample_space {
    double weights[2][SAMPLE_CHUNK];
    double sums[SAMPLE_RANKS];
    uint32_t bins[SAMPLE_BINS];
    struct {
        uint32_t begin[SAMPLE_DIGITS], end[SAMPLE_DIGITS]; /* where this tile's first and the next tile's go */
        uint16_t before[SAMPLE_WARPS][SAMPLE_DIGITS];      /* of this tile, in earlier warps */
    } sort;
};

struct sample_shared {
    union sample_space space;
    uint64_t parts[SAMPLE_WARPS]; /* of the block's folds */
    double total;
    uint32_t bound;
};

/* One row. */
struct sample_row {
    const float *logits;
    uint32_t vocab;
    float max;
    double scale;     /* 1 / temperature */
    uint64_t *ranked; /* [V] key << 32 | id */
    uint64_t *spare;  /* [V] the sort's other half; then the sums of weights from the first rank to each */
};

/* ---- as model/sampler.c and model/exp_sum.c have them ---- */

static __device__ __forceinline__ double sample_uniform(uint64_t seed, uint64_t draw)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32), c0 = (uint32_t)draw, c1 = (uint32_t)(draw >> 32), c2 = 0,
             c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) { /* Philox4x32-10 */
        const uint64_t p0 = 0xd2511f53ull * c0, p1 = 0xcd9e8d57ull * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return __dmul_rn((double)(((uint64_t)c0 << 32 | c1) >> 11), 0x1p-53);
}

/* What e is raised to. The intrinsics are never fused into multiply-adds. */
static __device__ __forceinline__ double sample_exponent(float score, float max, double scale)
{
    return __dmul_rn(__dsub_rn((double)score, (double)max), scale);
}

#define SAMPLE_EXPONENT_LEAST (-708.0) /* below it a weight is 0 */

/* model_exp of it. */
static __device__ __forceinline__ double sample_weight(float score, float max, double scale)
{
    const double terms[9] = {1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0};
    const double x = sample_exponent(score, max, scale);
    const double shifted = __dadd_rn(__dmul_rn(x, 0x1.71547652b82fep+0), 0x1.8p52), k = __dsub_rn(shifted, 0x1.8p52);
    const double r = __dsub_rn(__dsub_rn(x, __dmul_rn(k, 0x1.62e42fee00000p-1)), __dmul_rn(k, 0x1.a39ef35793c76p-33));
    double p = 1.0 / 362880;
#pragma unroll
    for (int i = 0; i < 9; i++)
        p = __dadd_rn(__dmul_rn(p, r), terms[i]);
    p = __longlong_as_double(__double_as_longlong(p) + (__double_as_longlong(shifted) << 52));
    return x >= SAMPLE_EXPONENT_LEAST ? p : 0.0;
}

/* The larger the score, the smaller the key; and back. */
static __device__ __forceinline__ uint32_t sample_key(float score)
{
    const uint32_t bits = __float_as_uint(score);
    return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

static __device__ __forceinline__ float sample_score(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key : ~key & 0x7fffffffu);
}

static __device__ __forceinline__ float sample_load(const struct sample_row &row, uint32_t id)
{
    return __ldg(row.logits + id) + 0.0f; /* -0 is 0 */
}

/* ---- the block together ---- */

/* The smallest v of all threads, in all of them. */
static __device__ __forceinline__ uint64_t sample_min(uint64_t v, struct sample_shared &s)
{
    for (int step = CUDA_WARP / 2; step > 0; step /= 2)
        v = min(v, __shfl_xor_sync(WARP_ALL, v, step));
    if (threadIdx.x % CUDA_WARP == 0)
        s.parts[threadIdx.x / CUDA_WARP] = v;
    __syncthreads();
    v = s.parts[threadIdx.x % CUDA_WARP];
    for (int step = CUDA_WARP / 2; step > 0; step /= 2)
        v = min(v, __shfl_xor_sync(WARP_ALL, v, step));
    __syncthreads();
    return v;
}

/* The sum of v over the lanes before this one; *out_all: over all. */
static __device__ __forceinline__ uint32_t sample_before_in_warp(uint32_t v, uint32_t *out_all)
{
    const uint32_t lane = threadIdx.x % CUDA_WARP;
    uint32_t sum = v;
    for (uint32_t step = 1; step < CUDA_WARP; step *= 2) {
        const uint32_t other = __shfl_up_sync(WARP_ALL, sum, step);
        sum += lane >= step ? other : 0;
    }
    *out_all = __shfl_sync(WARP_ALL, sum, CUDA_WARP - 1);
    return sum - v;
}

/* The sum of v over the threads before this one; *out_all: over all. */
static __device__ __forceinline__ uint32_t sample_before(uint32_t v, struct sample_shared &s, uint32_t *out_all)
{
    const uint32_t warp = threadIdx.x / CUDA_WARP;
    uint32_t of_warp;
    uint32_t before = sample_before_in_warp(v, &of_warp);
    if (threadIdx.x % CUDA_WARP == 0)
        s.parts[warp] = of_warp;
    __syncthreads();
    const uint32_t before_warp = sample_before_in_warp((uint32_t)s.parts[threadIdx.x % CUDA_WARP], out_all);
    before += __shfl_sync(WARP_ALL, before_warp, warp);
    __syncthreads();
    return before;
}

/* ---- 1: the largest score ---- */

/* Its key << 32 | lowest id; false: a logit is NaN or +infinity, or all are -infinity. */
static __device__ __forceinline__ bool sample_largest(const struct sample_row &row, struct sample_shared &s,
                                                      uint64_t *out_largest)
{
    uint64_t largest = UINT64_MAX;
    bool bad = false;
    for (uint32_t id = threadIdx.x; id < row.vocab; id += CUDA_SAMPLE_THREADS) {
        const float score = sample_load(row, id);
        bad |= !(score < -minus_infinity());
        largest = min(largest, (uint64_t)sample_key(score) << 32 | id);
    }
    bad = __syncthreads_or(bad);
    *out_largest = sample_min(largest, s);
    return !bad && sample_score((uint32_t)(*out_largest >> 32)) > minus_infinity();
}

/* ---- 2: the weight of all ---- */

/* model_exp_sum. */
static __device__ __forceinline__ double sample_total(const struct sample_row &row, struct sample_shared &s)
{
    const uint32_t n = row.vocab / 8 * 8, n_chunks = (n + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK, lane = threadIdx.x;
    double sum = 0;
    for (uint32_t chunk = 0; chunk <= n_chunks; chunk++) {
        if (threadIdx.x >= CUDA_WARP && chunk < n_chunks) {
#pragma unroll
            for (uint32_t j = 0; j < SAMPLE_CHUNK / SAMPLE_MAKERS; j++) {
                const uint32_t at = threadIdx.x - CUDA_WARP + j * SAMPLE_MAKERS, id = chunk * SAMPLE_CHUNK + at;
                if (id < n)
                    s.space.weights[chunk % 2][at] = sample_weight(sample_load(row, id), row.max, row.scale);
            }
        }
        if (lane < 8 && chunk > 0) {
            const uint32_t end = min((uint32_t)SAMPLE_CHUNK, n - (chunk - 1) * SAMPLE_CHUNK);
#pragma unroll 8
            for (uint32_t at = lane; at < end; at += 8)
                sum = __dadd_rn(sum, s.space.weights[(chunk - 1) % 2][at]);
        }
        __syncthreads();
    }
    if (threadIdx.x < CUDA_WARP) { /* (0 + 1) + (2 + 3), (4 + 5) + (6 + 7), both; then what is left over */
        for (int step = 1; step < 8; step *= 2)
            sum = __dadd_rn(sum, __shfl_xor_sync(WARP_ALL, sum, step));
        for (uint32_t id = n; id < row.vocab; id++)
            sum = __dadd_rn(sum, sample_weight(sample_load(row, id), row.max, row.scale));
        if (lane == 0)
            s.total = sum;
    }
    __syncthreads();
    return s.total;
}

/* ---- 3: the most likely, in order ---- */

/* Rises with the distance from the largest score, and never falls: subtraction and product of floats do not. */
static __device__ __forceinline__ uint32_t sample_bin(float score, float max)
{
    return (uint32_t)fminf((max - score) * 64.0f, SAMPLE_BINS - 1);
}

/* The first bin that at least n tokens do not lie behind, n <= V. */
static __device__ __forceinline__ uint32_t sample_bound(const struct sample_row &row, uint32_t n,
                                                        struct sample_shared &s)
{
    s.space.bins[threadIdx.x] = s.space.bins[threadIdx.x + CUDA_SAMPLE_THREADS] = 0;
    __syncthreads();
    for (uint32_t id = threadIdx.x; id < row.vocab; id += CUDA_SAMPLE_THREADS)
        atomicAdd(&s.space.bins[sample_bin(sample_load(row, id), row.max)], 1u);
    __syncthreads();
    const uint2 pair = ((const uint2 *)s.space.bins)[threadIdx.x];
    const uint32_t first = pair.x, both = pair.x + pair.y;
    uint32_t all;
    const uint32_t before = sample_before(both, s, &all);
    if (before < n && before + both >= n)
        s.bound = 2 * threadIdx.x + (before + first < n);
    __syncthreads();
    return s.bound;
}

/* Tokens up to bin `bound` into ranked, by their ids; how many. Each warp has a run of ids of its own. */
static __device__ __forceinline__ uint32_t sample_gather(const struct sample_row &row, uint32_t bound,
                                                         struct sample_shared &s)
{
    const uint32_t lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const uint32_t run = (row.vocab + CUDA_SAMPLE_THREADS - 1) / CUDA_SAMPLE_THREADS * CUDA_WARP;
    uint32_t n = 0, n_warp = 0;
    for (uint32_t id = warp * run + lane; id < min((warp + 1) * run, row.vocab); id += CUDA_WARP)
        n_warp += sample_bin(sample_load(row, id), row.max) <= bound;
    uint32_t at = sample_before(n_warp, s, &n);
    at = __shfl_sync(WARP_ALL, at, 0);
    for (uint32_t begin = warp * run; begin < min((warp + 1) * run, row.vocab); begin += CUDA_WARP) {
        const uint32_t id = begin + lane;
        const float score = id < row.vocab ? sample_load(row, id) : minus_infinity();
        const bool taken = id < row.vocab && sample_bin(score, row.max) <= bound;
        const uint32_t taken_lanes = __ballot_sync(WARP_ALL, taken);
        if (taken)
            row.ranked[at + __popc(taken_lanes & ((1u << lane) - 1))] = (uint64_t)sample_key(score) << 32 | id;
        at += __popc(taken_lanes);
    }
    __syncthreads();
    return n;
}

/* Lanes that have this lane's digit, of those in `present`. */
static __device__ __forceinline__ uint32_t sample_peers(uint32_t digit, uint32_t present)
{
#pragma unroll
    for (uint32_t bit = 1; bit < SAMPLE_DIGITS; bit *= 2) {
        const uint32_t set = __ballot_sync(WARP_ALL, digit & bit);
        present &= digit & bit ? set : ~set;
    }
    return present;
}

/* Where each digit's first goes, from how many there are; false: all have the same. */
static __device__ __forceinline__ bool sample_sort_begin(const uint64_t *from, uint32_t n, uint32_t shift,
                                                         struct sample_shared &s)
{
    if (threadIdx.x < SAMPLE_DIGITS)
        s.space.sort.end[threadIdx.x] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += CUDA_SAMPLE_THREADS)
        atomicAdd(&s.space.sort.end[from[i] >> shift & (SAMPLE_DIGITS - 1)], 1u);
    __syncthreads();
    const uint32_t count = threadIdx.x < SAMPLE_DIGITS ? s.space.sort.end[threadIdx.x] : 0;
    if (__syncthreads_or(count == n))
        return false;
    uint32_t all;
    const uint32_t before = sample_before(count, s, &all);
    if (threadIdx.x < SAMPLE_DIGITS)
        s.space.sort.end[threadIdx.x] = before;
    return true;
}

/* By one digit, stably, from `from` to `to`: a tile of 1024 at a time, in it by warps, in a warp by lanes. */
static __device__ __forceinline__ void sample_sort_digit(const uint64_t *from, uint64_t *to, uint32_t n, uint32_t shift,
                                                         struct sample_shared &s)
{
    const uint32_t lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    uint4 *cleared = (uint4 *)s.space.sort.before;
#pragma unroll 1
    for (uint32_t tile = 0; tile < n; tile += CUDA_SAMPLE_THREADS) {
        cleared[threadIdx.x] = make_uint4(0, 0, 0, 0); /* 1024 times 8 counts: all */
        __syncthreads();
        const uint32_t i = tile + threadIdx.x;
        const uint64_t v = i < n ? from[i] : 0;
        const uint32_t digit = (uint32_t)(v >> shift) & (SAMPLE_DIGITS - 1);
        const uint32_t peers = sample_peers(digit, __ballot_sync(WARP_ALL, i < n));
        const uint32_t rank = __popc(peers & ((1u << lane) - 1));
        if (i < n && rank == 0)
            s.space.sort.before[warp][digit] = (uint16_t)__popc(peers);
        __syncthreads();
        if (threadIdx.x < SAMPLE_DIGITS) {
            uint32_t sum = 0;
#pragma unroll
            for (uint32_t w = 0; w < SAMPLE_WARPS; w++) {
                const uint32_t count = s.space.sort.before[w][threadIdx.x];
                s.space.sort.before[w][threadIdx.x] = (uint16_t)sum;
                sum += count;
            }
            s.space.sort.begin[threadIdx.x] = s.space.sort.end[threadIdx.x];
            s.space.sort.end[threadIdx.x] += sum;
        }
        __syncthreads();
        if (i < n)
            to[s.space.sort.begin[digit] + s.space.sort.before[warp][digit] + rank] = v;
        __syncthreads();
    }
}

/* Ranks the n most likely tokens, and whatever shares a bin with the last of them; returns how many those are. */
static __device__ __forceinline__ uint32_t sample_rank(struct sample_row &row, uint32_t n, struct sample_shared &s)
{
    const uint32_t bound = n < row.vocab ? sample_bound(row, n, s) : SAMPLE_BINS - 1;
    const uint32_t n_ranked = sample_gather(row, bound, s);
#pragma unroll 1
    for (uint32_t shift = 32; shift < 64; shift += 8) {
        if (!sample_sort_begin(row.ranked, n_ranked, shift, s))
            continue; /* as most of the upper ones do */
        sample_sort_digit(row.ranked, row.spare, n_ranked, shift, s);
        uint64_t *sorted = row.spare;
        row.spare = row.ranked;
        row.ranked = sorted;
    }
    return n_ranked;
}

static __device__ __forceinline__ uint32_t sample_ranked_key(const struct sample_row &row, uint32_t rank)
{
    return (uint32_t)(row.ranked[rank] >> 32);
}

static __device__ __forceinline__ double sample_ranked_weight(const struct sample_row &row, uint32_t rank)
{
    return sample_weight(sample_score(sample_ranked_key(row, rank)), row.max, row.scale);
}

/* How many of n ranked tokens top-k keeps: k, and all that equal the k-th. */
static __device__ __forceinline__ uint32_t sample_top_k(const struct sample_row &row, uint32_t n, uint32_t k,
                                                        struct sample_shared &s)
{
    const uint32_t last = sample_ranked_key(row, k - 1);
    uint32_t end = n;
    for (uint32_t i = k + threadIdx.x; i < n && end == n; i += CUDA_SAMPLE_THREADS)
        end = sample_ranked_key(row, i) == last ? n : i;
    return (uint32_t)sample_min(end, s);
}

/* ---- 4: the sums of weights ---- */

/* When a sum is enough: the tokens behind it do not matter. */
struct sample_limits {
    double sum_at_least, sum_above; /* +infinity: no sum is */
    double weight_below;            /* nor any weight: 0 */
};

/* The sums over ranks 0..i, i < n, as far as the limits ask for; how many ranks those are. */
static __device__ __forceinline__ uint32_t sample_sums(const struct sample_row &row, uint32_t n,
                                                       const struct sample_limits &limits, struct sample_shared &s)
{
    double sum = 0;
    uint32_t begin = 0;
    for (bool enough = false; begin < n && !enough; begin += SAMPLE_RANKS) {
        const uint32_t m = min((uint32_t)SAMPLE_RANKS, n - begin), i = threadIdx.x;
        const double weight = i < m ? sample_ranked_weight(row, begin + i) : 0.0;
        s.space.sums[i] = weight;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (uint32_t at = 0; at < m; at += 8) { /* loads, one chain, stores: nothing in between to wait for */
                double v[8];
#pragma unroll
                for (uint32_t j = 0; j < 8; j++)
                    v[j] = s.space.sums[at + j];
#pragma unroll
                for (uint32_t j = 0; j < 8; j++)
                    v[j] = sum = __dadd_rn(sum, v[j]);
#pragma unroll
                for (uint32_t j = 0; j < 8; j++)
                    s.space.sums[at + j] = v[j];
            }
        }
        __syncthreads();
        if (i < m)
            ((double *)row.spare)[begin + i] = s.space.sums[i];
        const double last = s.space.sums[m - 1];
        enough = __syncthreads_or(last >= limits.sum_at_least || last > limits.sum_above ||
                                  (i == m - 1 && weight < limits.weight_below));
    }
    return min(begin, n);
}

/* ---- 5: where the draw falls ---- */

/* How many of n ranked tokens top-p and min-p leave; UINT32_MAX: these do not tell. */
static __device__ __forceinline__ uint32_t sample_cut(const struct sample_row &row, uint32_t n,
                                                      const struct sample_limits &limits, struct sample_shared &s)
{
    const double *sums = (const double *)row.spare;
    uint32_t cut = UINT32_MAX;
    for (uint32_t i = 1 + threadIdx.x; i <= n && cut == UINT32_MAX; i += CUDA_SAMPLE_THREADS) {
        if (sums[i - 1] >= limits.sum_at_least || (i < n && sample_ranked_weight(row, i) < limits.weight_below))
            cut = i;
    }
    return (uint32_t)sample_min(cut, s);
}

/* The first of n ranks whose sum exceeds target. all: no more can; when rounding made even the last sum fall short of the target, it
 * is the last rank that has a weight at all. UINT32_MAX: none. */
static __device__ __forceinline__ uint32_t sample_find(const struct sample_row &row, uint32_t n, double target,
                                                       bool all, struct sample_shared &s)
{
    const double *sums = (const double *)row.spare;
    uint32_t rank = UINT32_MAX;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n && rank == UINT32_MAX; i += CUDA_SAMPLE_THREADS) {
        const float next = i + 1 < n ? sample_score(sample_ranked_key(row, i + 1)) : minus_infinity();
        const bool last = !(sample_exponent(next, row.max, row.scale) >= SAMPLE_EXPONENT_LEAST);
        rank = sums[i] > target || (all && last) ? i : UINT32_MAX;
    }
    return (uint32_t)sample_min(rank, s);
}

/* The rank that is drawn; UINT32_MAX: more must be ranked to tell. n are ranked, and no other matters when complete. total: of all
 * weights, unless top-k is on, whose total is that of the n. */
static __device__ __forceinline__ uint32_t sample_draw_rank(const struct sample_row &row, const struct cuda_draw &how,
                                                            uint32_t n, bool top_k, double total, bool complete,
                                                            struct sample_shared &s)
{
    const double infinity = -(double)minus_infinity(), u = sample_uniform(how.seed, how.draw);
    const bool cuts = how.top_p < 1.0f || how.min_p > 0.0f;
    struct sample_limits limits = {infinity, infinity, how.min_p > 0.0f ? (double)how.min_p : 0.0};
    if (top_k) {
        const struct sample_limits none = {infinity, infinity, 0.0};
        sample_sums(row, n, none, s);
        total = ((const double *)row.spare)[n - 1];
    }
    if (how.top_p < 1.0f)
        limits.sum_at_least = __dmul_rn((double)how.top_p, total);
    if (!cuts)
        limits.sum_above = __dmul_rn(u, total);
    const uint32_t n_summed = top_k ? n : sample_sums(row, n, limits, s);
    uint32_t n_kept = n;
    if (cuts) {
        const uint32_t cut = sample_cut(row, n_summed, limits, s);
        if (cut == UINT32_MAX && !complete)
            return UINT32_MAX;
        n_kept = cut == UINT32_MAX ? n : cut;
        total = ((const double *)row.spare)[n_kept - 1];
    }
    /* Fewer were summed than are kept only when the last of those sums exceeds the target. */
    return sample_find(row, min(n_kept, n_summed), __dmul_rn(u, total), cuts || complete, s);
}

static __device__ __forceinline__ int32_t sample_draw(struct sample_row &row, const struct cuda_draw &how,
                                                      struct sample_shared &s)
{
    const bool top_k = how.top_k > 0 && how.top_k < row.vocab;
    const double total = top_k ? 0.0 : sample_total(row, s);
    uint32_t n_wanted = top_k ? how.top_k : SAMPLE_FIRST;
    for (;;) {
        uint32_t n = sample_rank(row, n_wanted, s);
        if (top_k)
            n = sample_top_k(row, n, how.top_k, s);
        const uint32_t rank = sample_draw_rank(row, how, n, top_k, total, top_k || n == row.vocab, s);
        if (rank != UINT32_MAX)
            return (int32_t)(uint32_t)row.ranked[rank];
        n_wanted = n_wanted < row.vocab / SAMPLE_GROWTH ? n_wanted * SAMPLE_GROWTH : row.vocab;
        __syncthreads(); /* the sums have been read: their place is the sort's again */
    }
}

static __device__ __forceinline__ void sample_kernel(const struct cuda_sample_args &a)
{
    __shared__ struct sample_shared s;
    if (blockIdx.x >= a.counts->n_sample)
        return;
    const struct cuda_draw how = a.draws[blockIdx.x];
    struct sample_row row = {};
    row.logits = a.logits + (size_t)blockIdx.x * a.vocab;
    row.vocab = a.vocab;
    row.ranked = (uint64_t *)((uint8_t *)a.scratch + blockIdx.x * a.scratch_stride);
    row.spare = row.ranked + a.vocab;
    uint64_t largest;
    int32_t token = -1;
    if (sample_largest(row, s, &largest)) {
        token = (int32_t)(uint32_t)largest;
        if (how.temperature > 0.0f) {
            row.max = sample_score((uint32_t)(largest >> 32));
            row.scale = __ddiv_rn(1.0, (double)how.temperature);
            token = sample_draw(row, how, s);
        }
    }
    if (threadIdx.x == 0)
        a.tokens[blockIdx.x] = token;
}

#endif
