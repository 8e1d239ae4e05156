/* The operations for AVX2, FMA and F16C. Compiled with those flags; entered only where cpu_kernels_pick found them.
 *
 * How sums are kept independent of tiling: an output of the matmul is always eight running sums, lane i over the
 * k = i (mod 8) in ascending order, one fused multiply-add each, folded in the end by one fixed tree (fold4). Tiles only
 * decide which outputs are computed side by side. A row's last K % 8 elements are widened with zeros to a whole vector.
 *
 * exp and the GELUs are our own polynomials (fit_polynomials.py), so that the answer does not depend on the libm. */
#include <assert.h>
#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "gpu/cpu/cpu_kernels.h"
#include "model/float16.h"

#define INLINE static inline __attribute__((always_inline))

/* ---- loading weights, eight at a time ---- */

INLINE size_t element_bytes(enum model_dtype dtype)
{
    return dtype == MODEL_F32 ? 4 : 2;
}

/* Elements [k, k + 8) of a row. */
INLINE __m256 load8(enum model_dtype dtype, const uint8_t *row, size_t k)
{
    if (dtype == MODEL_F32)
        return _mm256_loadu_ps((const float *)(const void *)(row + k * 4));
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(row + k * 2));
    if (dtype == MODEL_F16)
        return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

/* Elements [k, k + n), n < 8, and zeros behind them. */
INLINE __m256 load_rest(enum model_dtype dtype, const uint8_t *row, size_t k, size_t n)
{
    uint8_t rest[32] = {0};
    memcpy(rest, row + k * element_bytes(dtype), n * element_bytes(dtype));
    return load8(dtype, rest, 0);
}

static void avx2_widen(enum model_dtype dtype, const void *from, size_t n, float *to)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        switch (dtype) {
        case MODEL_F32:
            _mm256_storeu_ps(to + i, load8(MODEL_F32, from, i));
            break;
        case MODEL_F16:
            _mm256_storeu_ps(to + i, load8(MODEL_F16, from, i));
            break;
        case MODEL_BF16:
            _mm256_storeu_ps(to + i, load8(MODEL_BF16, from, i));
            break;
        case MODEL_Q8: /* cpu_check refuses it */
            assert(false);
            break;
        }
    }
    if (i < n) {
        float rest[8];
        _mm256_storeu_ps(rest, load_rest(dtype, from, i, n - i));
        memcpy(to + i, rest, (n - i) * sizeof *to);
    }
}

static void avx2_narrow(enum model_dtype dtype, const float *from, size_t n, void *to)
{
    uint16_t *h = to;
    size_t i = 0;
    if (dtype == MODEL_F32) {
        memcpy(to, from, n * sizeof *from);
        return;
    }
    if (dtype == MODEL_F16)
        for (; i + 8 <= n; i += 8)
            _mm_storeu_si128((__m128i *)(void *)(h + i),
                             _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; i++) /* bf16 is integer arithmetic, which the compiler turns into vectors by itself */
        h[i] = dtype == MODEL_F16 ? model_f32_to_f16(from[i]) : model_f32_to_bf16(from[i]);
}

/* ---- matmul ---- */

/* The four sums ((l0 + l1) + (l2 + l3)) + ((l4 + l5) + (l6 + l7)) of the lanes of a, b, c and d. */
INLINE __m128 fold4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

#define TILE_TOKENS  4
#define TILE_ROWS    3  /* 4 x 3 sums + 3 weights + 1 x: all 16 registers */
#define STREAM_ROWS  2  /* with a single token */
#define BLOCK_TOKENS 32 /* x of 32 tokens and K = 4096 is 512 KB */
#define LANES        8

/* Weights are read in the order they lie in memory, two or three rows side by side. The processor's own prefetching sees
 * short streams in that, so we ask for the lines ourselves: in one straight line, and into L2, since L1 would have lost
 * them again when they are used. (One thread, one token, rows of 8 KB, f16: 25 of the 27 GB/s that plain reading gets;
 * 17 without.) */
#define FETCH_AHEAD_BYTES 32768
#define LINE_BYTES        64

/* sums[t][n][8] = over k in [0, n_cols) of x[t][k] * w[n][k], lane by lane. dtype, n_t, n_n and fetch are constants: the
 * loops unroll and the sums stay in registers. fetch: the rows follow one another and come from memory. */
INLINE void tile(enum model_dtype dtype, uint32_t n_t, uint32_t n_n, bool fetch, const float *const *x,
                 const uint8_t *const *w, size_t n_cols, float *sums)
{
    __m256 s[TILE_TOKENS * TILE_ROWS], wk[TILE_ROWS];
    size_t k = 0;
#pragma GCC unroll 12
    for (uint32_t i = 0; i < n_t * n_n; i++)
        s[i] = _mm256_setzero_ps();
    for (; k + 8 <= n_cols; k += 8) {
        const size_t step = n_n * 8 * element_bytes(dtype); /* bytes of weights that are used in one go */
        for (size_t i = 0; fetch && i < step; i += LINE_BYTES)
            _mm_prefetch((const char *)(w[0] + FETCH_AHEAD_BYTES + k / 8 * step + i), _MM_HINT_T1);
#pragma GCC unroll 4
        for (uint32_t n = 0; n < n_n; n++)
            wk[n] = load8(dtype, w[n], k);
#pragma GCC unroll 4
        for (uint32_t t = 0; t < n_t; t++) {
            const __m256 xk = _mm256_loadu_ps(x[t] + k);
#pragma GCC unroll 4
            for (uint32_t n = 0; n < n_n; n++)
                s[t * n_n + n] = _mm256_fmadd_ps(xk, wk[n], s[t * n_n + n]);
        }
    }
    if (k < n_cols) {
#pragma GCC unroll 4
        for (uint32_t n = 0; n < n_n; n++)
            wk[n] = load_rest(dtype, w[n], k, n_cols - k);
#pragma GCC unroll 4
        for (uint32_t t = 0; t < n_t; t++) {
            const __m256 xk = load_rest(MODEL_F32, (const uint8_t *)x[t], k, n_cols - k);
#pragma GCC unroll 4
            for (uint32_t n = 0; n < n_n; n++)
                s[t * n_n + n] = _mm256_fmadd_ps(xk, wk[n], s[t * n_n + n]);
        }
    }
#pragma GCC unroll 12
    for (uint32_t i = 0; i < n_t * n_n; i++)
        _mm256_storeu_ps(sums + i * LANES, s[i]);
}

/* Not inlined, so that each has all registers for itself. */
typedef void tile_fn(const float *const *x, const uint8_t *const *w, size_t n_cols, float *sums);

#define DEFINE_TILE(name, dtype, n_t, n_n, fetch)                                                                      \
    static __attribute__((noinline)) void name(const float *const *x, const uint8_t *const *w, size_t n_cols,          \
                                               float *sums)                                                            \
    {                                                                                                                  \
        tile(dtype, n_t, n_n, fetch, x, w, n_cols, sums);                                                              \
    }
DEFINE_TILE(tile_f32, MODEL_F32, TILE_TOKENS, TILE_ROWS, false)
DEFINE_TILE(tile_f16, MODEL_F16, TILE_TOKENS, TILE_ROWS, false)
DEFINE_TILE(tile_bf16, MODEL_BF16, TILE_TOKENS, TILE_ROWS, false)
DEFINE_TILE(tile_fetch_f32, MODEL_F32, TILE_TOKENS, TILE_ROWS, true)
DEFINE_TILE(tile_fetch_f16, MODEL_F16, TILE_TOKENS, TILE_ROWS, true)
DEFINE_TILE(tile_fetch_bf16, MODEL_BF16, TILE_TOKENS, TILE_ROWS, true)
DEFINE_TILE(stream_f32, MODEL_F32, 1, STREAM_ROWS, true)
DEFINE_TILE(stream_f16, MODEL_F16, 1, STREAM_ROWS, true)
DEFINE_TILE(stream_bf16, MODEL_BF16, 1, STREAM_ROWS, true)

/* [dtype]: F32, F16, BF16 */
static tile_fn *const tiles[] = {tile_f32, tile_f16, tile_bf16};
static tile_fn *const tiles_fetch[] = {tile_fetch_f32, tile_fetch_f16, tile_fetch_bf16};
static tile_fn *const streams[] = {stream_f32, stream_f16, stream_bf16};

INLINE uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Folds a tile's sums and stores what exists of it: y[token + t][row + n], t < n_t, n < n_n. */
static void store_tile(const struct cpu_matmul *m, const float *sums, uint32_t token, uint32_t n_t, uint32_t row,
                       uint32_t n_n)
{
    for (uint32_t n = 0; n < n_n; n++) {
        float y[TILE_TOKENS];
        __m256 s[TILE_TOKENS];
        for (uint32_t t = 0; t < TILE_TOKENS; t++)
            s[t] = _mm256_loadu_ps(sums + (t * TILE_ROWS + n) * LANES);
        _mm_storeu_ps(y, fold4(s[0], s[1], s[2], s[3]));
        for (uint32_t t = 0; t < n_t; t++)
            m->y[(size_t)(token + t) * m->n_rows + row + n] = m->bias ? y[t] + m->bias[row + n] : y[t];
    }
}

/* One token: bound by reading the weights. Past the last row, and in the tiles below, the last one is computed again and
 * dropped: one shape of tile is enough. */
static void matmul_one(const struct cpu_matmul *m, uint32_t row_begin, uint32_t row_end)
{
    const size_t row_bytes = (size_t)m->n_cols * element_bytes(m->dtype);
    for (uint32_t row = row_begin; row < row_end; row += STREAM_ROWS) {
        const uint32_t n_n = min_u32(STREAM_ROWS, row_end - row);
        const uint8_t *first = (const uint8_t *)m->w + row * row_bytes;
        const uint8_t *const w[STREAM_ROWS] = {first, first + (n_n - 1) * row_bytes};
        float sums[STREAM_ROWS * LANES], y[4];
        streams[m->dtype](&m->x, w, m->n_cols, sums);
        const __m256 a = _mm256_loadu_ps(sums), b = _mm256_loadu_ps(sums + LANES);
        _mm_storeu_ps(y, fold4(a, b, a, b));
        for (uint32_t n = 0; n < n_n; n++)
            m->y[row + n] = m->bias ? y[n] + m->bias[row + n] : y[n];
    }
}

/* Tokens [token, token + n_t) times rows [row, row + n_n), n_t and n_n within one tile. */
static void matmul_tile(const struct cpu_matmul *m, tile_fn *fn, uint32_t token, uint32_t n_t, uint32_t row,
                        uint32_t n_n)
{
    const size_t row_bytes = (size_t)m->n_cols * element_bytes(m->dtype);
    const uint8_t *w[TILE_ROWS];
    const float *x[TILE_TOKENS];
    float sums[TILE_TOKENS * TILE_ROWS * LANES];
    for (uint32_t n = 0; n < TILE_ROWS; n++)
        w[n] = (const uint8_t *)m->w + (row + min_u32(n, n_n - 1)) * row_bytes;
    for (uint32_t t = 0; t < TILE_TOKENS; t++)
        x[t] = m->x + (size_t)(token + min_u32(t, n_t - 1)) * m->n_cols;
    fn(x, w, m->n_cols, sums);
    store_tile(m, sums, token, n_t, row, n_n);
}

/* Several tokens: bound by multiplying. Tiles of 4 tokens x 3 rows; the rows stay in L1 while up to 32 tokens' x pass by,
 * which stay in L2 while all rows pass by. The first tile brings its rows in from memory. */
static void matmul_many(const struct cpu_matmul *m, uint32_t row_begin, uint32_t row_end)
{
    for (uint32_t block = 0; block < m->n_tokens; block += BLOCK_TOKENS) {
        const uint32_t block_end = min_u32(block + BLOCK_TOKENS, m->n_tokens);
        for (uint32_t row = row_begin; row < row_end; row += TILE_ROWS) {
            const uint32_t n_n = min_u32(TILE_ROWS, row_end - row);
            for (uint32_t token = block; token < block_end; token += TILE_TOKENS)
                matmul_tile(m, (token == block ? tiles_fetch : tiles)[m->dtype], token,
                            min_u32(TILE_TOKENS, block_end - token), row, n_n);
        }
    }
}

static void avx2_matmul(const struct cpu_matmul *m, uint32_t row_begin, uint32_t row_end, float *scratch)
{
    (void)scratch;
    if (m->n_tokens == 1)
        matmul_one(m, row_begin, row_end);
    else
        matmul_many(m, row_begin, row_end);
}

/* ---- functions of a vector ---- */

INLINE float fold(__m256 v)
{
    return _mm_cvtss_f32(fold4(v, v, v, v));
}

INLINE float fold_max(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* e^x within 2 units in the last place; 0 below -87.33, where f32 has no normal numbers left; e^88 above 88. NaN stays.
 * x = n ln 2 + r, |r| <= ln(2)/2;  e^x = 2^n (1 + r + r^2 P(r)). */
INLINE __m256 exp8(__m256 x)
{
    const __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.33f), _CMP_LT_OQ);
    x = _mm256_min_ps(_mm256_set1_ps(88.0f), x); /* in this order a NaN in x comes through */
    x = _mm256_max_ps(_mm256_set1_ps(-87.33f), x);
    const __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    /* ln 2 in two parts: the first has 9 bits, so that n times it is exact */
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(0.00138145988f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.00836871658f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.041668389f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.166665211f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.49999994f));
    p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    const __m256i two_n = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(p, _mm256_castsi256_ps(two_n)));
}

/* x Phi(x), with Phi by erfc(t) = e^(-t G(t)), t = |x| / sqrt 2: no cancellation in either tail. */
INLINE __m256 gelu_erf8(__m256 x)
{
    const __m256 t = _mm256_mul_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), _mm256_set1_ps(0.70710678f));
    __m256 g = _mm256_set1_ps(-6.26970905e-06f);
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(8.77606144e-05f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(-0.000511023973f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(0.00140511885f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(0.000160778538f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(-0.0193797164f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(0.102865949f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(0.63660264f));
    g = _mm256_fmadd_ps(g, t, _mm256_set1_ps(1.1283803f));
    const __m256 far = _mm256_cmp_ps(t, _mm256_set1_ps(5.5f), _CMP_GT_OQ); /* erfc < 1e-14 */
    const __m256 erfc = _mm256_andnot_ps(far, exp8(_mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), t), g)));
    const __m256 half = _mm256_mul_ps(erfc, _mm256_set1_ps(0.5f));
    const __m256 phi = _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(1.0f), half), half, x); /* by the sign of x */
    return _mm256_mul_ps(x, phi);
}

/* x (1 + tanh u) / 2 = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
INLINE __m256 gelu_tanh8(__m256 x)
{
    const __m256 x2 = _mm256_mul_ps(x, x);
    const __m256 minus_2u = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(-2 * 0.79788456f)),
                                          _mm256_fmadd_ps(x2, _mm256_set1_ps(0.044715f), _mm256_set1_ps(1.0f)));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp8(minus_2u)));
}

INLINE __m256 gelu8(enum model_act act, __m256 x)
{
    return act == MODEL_ACT_GELU_ERF ? gelu_erf8(x) : gelu_tanh8(x);
}

static void avx2_gelu(enum model_act act, float *x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, gelu8(act, _mm256_loadu_ps(x + i)));
    if (i < n) {
        float rest[8] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *x);
        _mm256_storeu_ps(rest, gelu8(act, _mm256_loadu_ps(rest)));
        memcpy(x + i, rest, (n - i) * sizeof *x);
    }
}

static void avx2_add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

static void avx2_layernorm(const float *x, const float *gain, const float *bias, float eps, uint32_t e, float *y)
{
    assert(e % 8 == 0);
    __m256 sum = _mm256_setzero_ps(), square = _mm256_setzero_ps();
    for (uint32_t i = 0; i < e; i += 8)
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(x + i));
    const __m256 mean = _mm256_set1_ps(fold(sum) / (float)e);
    for (uint32_t i = 0; i < e; i += 8) {
        const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(x + i), mean);
        square = _mm256_fmadd_ps(d, d, square);
    }
    const __m128 var = _mm_set_ss(fold(square) / (float)e + eps);
    const __m256 scale = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(var)));
    for (uint32_t i = 0; i < e; i += 8) {
        const __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), mean), scale);
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(d, _mm256_loadu_ps(gain + i), _mm256_loadu_ps(bias + i)));
    }
}

/* Products are rounded before they are added, as in the plain version: vector or remainder, the bits are the same. */
static void avx2_rotary(float *x, const float *cos, const float *sin, uint32_t r)
{
    const uint32_t half = r / 2;
    uint32_t i = 0;
    for (; i + 8 <= half; i += 8) {
        const __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + half + i);
        const __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i);
        _mm256_storeu_ps(x + i, _mm256_sub_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
        _mm256_storeu_ps(x + half + i, _mm256_add_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

/* ---- attention ---- */

/* q . k[j] of eight consecutive slots k [8][D]: one running sum of eight lanes each, folded as in fold4. */
INLINE __m256 dot8(const float *q, const float *k, uint32_t d)
{
    __m256 s[8];
#pragma GCC unroll 8
    for (uint32_t j = 0; j < 8; j++)
        s[j] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < d; i += 8) {
        const __m256 qi = _mm256_loadu_ps(q + i);
#pragma GCC unroll 8
        for (uint32_t j = 0; j < 8; j++)
            s[j] = _mm256_fmadd_ps(qi, _mm256_loadu_ps(k + (size_t)j * d + i), s[j]);
    }
    return _mm256_set_m128(fold4(s[4], s[5], s[6], s[7]), fold4(s[0], s[1], s[2], s[3]));
}

/* score[p] = scale * q . k[p] for p < n, -infinity for the rest of the last eight; returns the largest. */
static float attention_scores(const struct cpu_kv *kv, const uint32_t *blocks, uint32_t head, uint32_t n,
                              const float *q, float *score)
{
    const __m128 d = _mm_set_ss((float)kv->head_dim);
    const __m256 scale = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(d)));
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 minus_infinity = _mm256_set1_ps(-__builtin_inff());
    __m256 max = minus_infinity;

    for (uint32_t p = 0; p < n; p += 8) {
        const float *k = cpu_kv_block(kv, blocks[p / GPU_BLOCK_TOKENS], 0, head);
        k += (size_t)(p % GPU_BLOCK_TOKENS) * kv->head_dim;
        __m256 s = _mm256_mul_ps(dot8(q, k, kv->head_dim), scale);
        /* slots past the token hold whatever was there: they are read, being in the block, and dropped */
        const __m256i here = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - p)), lane);
        s = _mm256_blendv_ps(minus_infinity, s, _mm256_castsi256_ps(here));
        _mm256_storeu_ps(score + p, s);
        max = _mm256_max_ps(max, s);
    }
    return fold_max(max);
}

/* score[p] = e^(score[p] - max) for p < n rounded up to 8; returns the sum. */
static float attention_exp(float *score, uint32_t n, float max)
{
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t p = 0; p < n; p += 8) {
        const __m256 e = exp8(_mm256_sub_ps(_mm256_loadu_ps(score + p), _mm256_set1_ps(max)));
        _mm256_storeu_ps(score + p, e);
        sum = _mm256_add_ps(sum, e);
    }
    return fold(sum);
}

/* out[i] = scale * sum over p of weight[p] * v[p][i] for the n_v vectors of dims from i on; p in ascending order. */
INLINE void mix(uint32_t n_v, const struct cpu_kv *kv, const uint32_t *blocks, uint32_t head, uint32_t n,
                const float *weight, float scale, uint32_t i, float *out)
{
    __m256 s[8];
#pragma GCC unroll 8
    for (uint32_t j = 0; j < n_v; j++)
        s[j] = _mm256_setzero_ps();
    for (uint32_t p = 0; p < n; p += GPU_BLOCK_TOKENS) {
        const float *v = cpu_kv_block(kv, blocks[p / GPU_BLOCK_TOKENS], 1, head) + i;
        const uint32_t n_here = min_u32(GPU_BLOCK_TOKENS, n - p);
        for (uint32_t slot = 0; slot < n_here; slot++, v += kv->head_dim) {
            const __m256 w = _mm256_set1_ps(weight[p + slot]);
#pragma GCC unroll 8
            for (uint32_t j = 0; j < n_v; j++)
                s[j] = _mm256_fmadd_ps(w, _mm256_loadu_ps(v + j * 8), s[j]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t j = 0; j < n_v; j++)
        _mm256_storeu_ps(out + i + j * 8, _mm256_mul_ps(s[j], _mm256_set1_ps(scale)));
}

static void avx2_attention(const struct cpu_kv *kv, const uint32_t *blocks, uint32_t head, uint32_t position,
                           const float *q, float *out, float *scratch)
{
    const uint32_t d = kv->head_dim, n = position + 1;
    const float max = attention_scores(kv, blocks, head, n, q, scratch);
    const float scale = 1.0f / attention_exp(scratch, n, max);
    uint32_t i = 0;
    for (; i + 64 <= d; i += 64)
        mix(8, kv, blocks, head, n, scratch, scale, i, out);
    for (; i + 32 <= d; i += 32)
        mix(4, kv, blocks, head, n, scratch, scale, i, out);
    for (; i + 16 <= d; i += 16)
        mix(2, kv, blocks, head, n, scratch, scale, i, out);
    for (; i < d; i += 8)
        mix(1, kv, blocks, head, n, scratch, scale, i, out);
}

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .arch = "x86-64-avx2",
    .widen = avx2_widen,
    .narrow = avx2_narrow,
    .matmul = avx2_matmul,
    .layernorm = avx2_layernorm,
    .rotary = avx2_rotary,
    .kv_write = cpu_kv_write,
    .attention = avx2_attention,
    .gelu = avx2_gelu,
    .add = avx2_add,
};
