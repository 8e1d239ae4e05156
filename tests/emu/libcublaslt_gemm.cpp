/* The products of libcublaslt.h: rows of op(A) and columns of op(B) are laid out along k as f32, then multiplied in tiles. */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "libcublaslt.h"

/* Lengths along k are padded with zeros to a multiple of this, so that no order has an end to care for. */
constexpr uint64_t K_UNIT = 16;
constexpr uint64_t PANEL_ROWS = 64; /* of op(A), converted at a time */

/* --- numbers ------------------------------------------------------------------------------------------------------------ */

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float f16_value(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31)
        return from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0)
        return from_bits(sign | to_bits((float)mantissa * 0x1p-24f));
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* To nearest even. */
static uint16_t f16_of(float x)
{
    uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7fff);
    if (rest >= 0x477ff000) /* 65520 and up */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000) /* below 2^-14: steps of 2^-24, which adding 0.5 leaves in the low bits */
        return (uint16_t)(sign | (to_bits(from_bits(rest) + 0.5f) - to_bits(0.5f)));
    rest += 0xfff + (rest >> 13 & 1);
    return (uint16_t)(sign | (rest - 0x38000000) >> 13);
}

static uint16_t bf16_of(float x)
{
    uint32_t bits = to_bits(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Every value of the two half types, so that conversion is a look-up. */
static const float *half_values(int type)
{
    static const std::vector<float> *tables = [] {
        auto *t = new std::vector<float>[2];
        for (uint32_t h = 0; h < 65536; h++) {
            t[0].push_back(f16_value((uint16_t)h));
            t[1].push_back(from_bits(h << 16));
        }
        return t;
    }();
    return tables[type == GEMM_BF16].data();
}

static float load(const uint8_t *bytes, int type, uint64_t i)
{
    if (type == GEMM_F32)
        return ((const float *)bytes)[i];
    return half_values(type)[((const uint16_t *)bytes)[i]];
}

static float rounded(float x, int type)
{
    return type == GEMM_F32 ? x : type == GEMM_F16 ? f16_value(f16_of(x)) : from_bits((uint32_t)bf16_of(x) << 16);
}

static void store(uint8_t *bytes, int type, uint64_t i, float x)
{
    if (type == GEMM_F32)
        ((float *)bytes)[i] = x;
    else
        ((uint16_t *)bytes)[i] = type == GEMM_F16 ? f16_of(x) : bf16_of(x);
}

/* --- laying out ---------------------------------------------------------------------------------------------------------- */

/* to[row][k_padded] for rows [first, first + n) of a matrix whose element (row, k) is at row * row_step + k * k_step. */
static void lay_out(const gemm_matrix &from, uint64_t row_step, uint64_t k_step, uint64_t first, uint64_t n, uint64_t k,
                    uint64_t k_padded, float *to)
{
    const float *values = from.type == GEMM_F32 ? nullptr : half_values(from.type);
    for (uint64_t row = 0; row < n; row++, to += k_padded) {
        uint64_t at = (first + row) * row_step;
        if (values)
            for (uint64_t i = 0; i < k; i++)
                to[i] = values[((const uint16_t *)from.bytes)[at + i * k_step]];
        else
            for (uint64_t i = 0; i < k; i++)
                to[i] = ((const float *)from.bytes)[at + i * k_step];
        std::fill(to + k, to + k_padded, 0.0f);
    }
}

/* --- sums ----------------------------------------------------------------------------------------------------------------- */

static float fold(const float *sums, uint64_t n)
{
    float v[16];
    memcpy(v, sums, n * sizeof *v);
    while (n /= 2)
        for (uint64_t i = 0; i < n; i++)
            v[i] += v[i + n];
    return v[0];
}

/* out[i][j] += a[i] . b[j], 2 x 4 of them, in LANES running sums. Multiplication and addition stay apart
 * (-ffp-contract=off): the same bits with and without FMA. */
#define DEFINE_DOTS(LANES)                                                                                             \
    typedef float vec##LANES __attribute__((vector_size(LANES * 4), aligned(4)));                                      \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) static void dots##LANES(             \
        const float *const a[2], const float *const b[4], uint64_t k, float out[2][4])                                 \
    {                                                                                                                  \
        vec##LANES sums[2][4] = {};                                                                                    \
        for (uint64_t i = 0; i < k; i += LANES) {                                                                      \
            const vec##LANES a0 = *(const vec##LANES *)(a[0] + i), a1 = *(const vec##LANES *)(a[1] + i);               \
            for (int j = 0; j < 4; j++) {                                                                              \
                const vec##LANES bj = *(const vec##LANES *)(b[j] + i);                                                 \
                sums[0][j] += a0 * bj;                                                                                 \
                sums[1][j] += a1 * bj;                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
        for (int i = 0; i < 2; i++)                                                                                    \
            for (int j = 0; j < 4; j++)                                                                                \
                out[i][j] += fold((const float *)&sums[i][j], LANES);                                                  \
    }

DEFINE_DOTS(8)
DEFINE_DOTS(16)

using dots_fn = void (*)(const float *const a[2], const float *const b[4], uint64_t k, float out[2][4]);

/* out += the products over [begin, end) of k, tile by tile. */
static void dots_range(const gemm_order &order, const float *const a[2], const float *const b[4], uint64_t begin,
                       uint64_t end, float out[2][4])
{
    dots_fn dots = order.lanes == 8 ? dots8 : dots16;
    uint64_t tile = order.tile_k ? order.tile_k : end - begin;
    for (uint64_t at = begin; at < end; at += tile) {
        const float *ak[2] = {a[0] + at, a[1] + at}, *bk[4] = {b[0] + at, b[1] + at, b[2] + at, b[3] + at};
        dots(ak, bk, std::min(tile, end - at), out);
    }
}

/* Where part s of the splits begins. */
static uint64_t split_begin(uint64_t k_padded, uint32_t splits, uint32_t s)
{
    uint64_t units = k_padded / K_UNIT;
    return units * s / splits * K_UNIT;
}

static float gelu_tanh(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

static void finish(const gemm &g, uint64_t row, uint64_t col, float sum)
{
    float x = g.alpha * sum;
    if (g.c.bytes)
        x += g.beta * load(g.c.bytes, g.c.type, col * (uint64_t)g.c.ld + row);
    if (g.bias)
        x += load(g.bias, g.bias_type, row);
    if (g.epilogue == GEMM_GELU_BIAS)
        x = gelu_tanh(x);
    store(g.d, g.d_type, col * (uint64_t)g.ldd + row, x);
}

/* One sum of 2 x 4, from all splits. */
static void tile(const gemm &g, const float *const a[2], const float *const b[4], uint64_t k_padded, uint64_t row,
                 uint64_t col)
{
    float parts[2][4], sums[2][4] = {};
    for (uint32_t s = 0; s < g.order.splits; s++) {
        memset(parts, 0, sizeof parts);
        dots_range(g.order, a, b, split_begin(k_padded, g.order.splits, s),
                   split_begin(k_padded, g.order.splits, s + 1), parts);
        for (uint64_t i = 0; i < 2; i++)
            for (uint64_t j = 0; j < 4; j++) {
                float part = g.order.round_parts ? rounded(parts[i][j], g.d_type) : parts[i][j];
                sums[i][j] = s == 0 ? part : sums[i][j] + part;
                if (g.order.splits > 1 && row + i < g.m && col + j < g.n)
                    g.workspace[(s * g.n + col + j) * g.m + row + i] = part;
            }
    }
    for (uint64_t i = 0; i < 2 && row + i < g.m; i++)
        for (uint64_t j = 0; j < 4 && col + j < g.n; j++)
            finish(g, row + i, col + j, sums[i][j]);
}

static void panel(const gemm &g, const float *a, uint64_t first, uint64_t n_rows, const float *b, uint64_t k_padded)
{
    for (uint64_t col = 0; col < g.n; col += 4) {
        const float *bs[4];
        for (uint64_t j = 0; j < 4; j++)
            bs[j] = b + std::min(col + j, g.n - 1) * k_padded;
        for (uint64_t row = 0; row < n_rows; row += 2) {
            const float *as[2] = {a + row * k_padded, a + std::min(row + 1, n_rows - 1) * k_padded};
            tile(g, as, bs, k_padded, first + row, col);
        }
    }
}

void gemm_run(const gemm &g)
{
    uint64_t k_padded = (g.k + K_UNIT - 1) / K_UNIT * K_UNIT;
    std::vector<float> a(PANEL_ROWS * k_padded), b(g.n * k_padded);
    uint64_t lda = (uint64_t)g.a.ld, ldb = (uint64_t)g.b.ld;
    lay_out(g.b, g.b.transposed ? 1 : ldb, g.b.transposed ? ldb : 1, 0, g.n, g.k, k_padded, b.data());
    for (uint64_t first = 0; first < g.m; first += PANEL_ROWS) {
        uint64_t n_rows = std::min(PANEL_ROWS, g.m - first);
        lay_out(g.a, g.a.transposed ? lda : 1, g.a.transposed ? 1 : lda, first, n_rows, g.k, k_padded, a.data());
        panel(g, a.data(), first, n_rows, b.data(), k_padded);
    }
}
