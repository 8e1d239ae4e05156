/* ptx_mma - the tensor core's matrix products of one warp. Compiled once for each instruction set (PTX_ARCH).
 *
 * D[16][8] = A[16][K] B[K][8] + C[16][8]. The lane of a fragment is 4 * group + t: register r of A holds row group (+ 8 when r
 * is odd), columns 2t, 2t + 1 (+ 8 when r >= 2), so that one register of the warp is an 8 x 8 tile, row by row. B is held by
 * columns in the same way, C and D by rows with two columns a register.
 *
 * Sums run over k in order, each step rounded once. A card keeps products exact and truncates sums in a way that NVIDIA does
 * not publish: results agree to a few units in the last place of the largest term, no further. */
#include "ptx_half.h"
#include "ptx_lanes.h"

namespace PTX_ARCH
{
namespace
{

constexpr int M = 16, N = 8, TILE = 8;

struct of_f16 {
    static void values(const uint16_t *h, float *x, int n) { f16_row_values(h, x, n); }
};
struct of_bf16 {
    static void values(const uint16_t *h, float *x, int n) { bf16_row_values(h, x, n); }
};

#ifdef __AVX2__

using v8 = __m256;

/* Rows for columns, of 8 x 8. */
inline void transpose(const float (*from)[TILE], float (*to)[TILE])
{
    v8 r[TILE], t[TILE];
    for (int i = 0; i < TILE; i++)
        r[i] = _mm256_load_ps(from[i]);
    for (int i = 0; i < TILE; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < TILE; i += 4)
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0x44);
            r[i + 2 * k + 1] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0xee);
        }
    for (int i = 0; i < TILE / 2; i++) {
        _mm256_store_ps(to[i], _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_store_ps(to[i + 4], _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* Two rows from 8 lanes of the register of even columns and 8 of the odd ones; and back. */
inline void interleave(const float *even, const float *odd, float (*rows)[N])
{
    v8 a = _mm256_loadu_ps(even), b = _mm256_loadu_ps(odd), low = _mm256_unpacklo_ps(a, b),
       high = _mm256_unpackhi_ps(a, b);
    _mm256_store_ps(rows[0], _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_store_ps(rows[1], _mm256_permute2f128_ps(low, high, 0x31));
}

inline void separate(const float (*rows)[N], float *even, float *odd)
{
    v8 a = _mm256_load_ps(rows[0]), b = _mm256_load_ps(rows[1]);
    v8 low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    _mm256_storeu_ps(even, _mm256_shuffle_ps(low, high, 0x88));
    _mm256_storeu_ps(odd, _mm256_shuffle_ps(low, high, 0xdd));
}

template <int K> inline void multiply(const float (*a)[K], const float (*b)[N], float (*c)[N])
{
    for (int m = 0; m < M; m += TILE) {
        v8 sum[TILE];
        for (int i = 0; i < TILE; i++)
            sum[i] = _mm256_load_ps(c[m + i]);
        for (int k = 0; k < K; k++) {
            v8 row = _mm256_load_ps(b[k]);
            for (int i = 0; i < TILE; i++)
                sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[m + i][k]), row, sum[i]);
        }
        for (int i = 0; i < TILE; i++)
            _mm256_store_ps(c[m + i], sum[i]);
    }
}

#else

inline void transpose(const float (*from)[TILE], float (*to)[TILE])
{
    for (int i = 0; i < TILE; i++)
        for (int k = 0; k < TILE; k++)
            to[k][i] = from[i][k];
}

inline void interleave(const float *even, const float *odd, float (*rows)[N])
{
    for (int l = 0; l < TILE; l++) {
        rows[l / 4][l % 4 * 2] = even[l];
        rows[l / 4][l % 4 * 2 + 1] = odd[l];
    }
}

inline void separate(const float (*rows)[N], float *even, float *odd)
{
    for (int l = 0; l < TILE; l++) {
        even[l] = rows[l / 4][l % 4 * 2];
        odd[l] = rows[l / 4][l % 4 * 2 + 1];
    }
}

template <int K> inline void multiply(const float (*a)[K], const float (*b)[N], float (*c)[N])
{
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++)
            for (int n = 0; n < N; n++)
                c[m][n] = __builtin_fmaf(a[m][k], b[k][n], c[m][n]);
}

#endif

template <class Half, int K> struct operands {
    alignas(64) float a[M][K];
    alignas(64) float b[K][N];

    operands(ptx_lanes &w, const uint32_t *a_rows, const uint32_t *b_rows)
    {
        alignas(64) float tile[TILE][TILE];
        for (int r = 0; r < M * K / (TILE * TILE); r++) {
            Half::values(ptx_row<uint16_t>(w, a_rows[r]), tile[0], TILE * TILE);
            for (int i = 0; i < TILE; i++)
                memcpy(&a[i + (r & 1) * TILE][r / 2 * TILE], tile[i], sizeof tile[i]);
        }
        for (int r = 0; r < K / TILE; r++) {
            Half::values(ptx_row<uint16_t>(w, b_rows[r]), tile[0], TILE * TILE);
            transpose(tile, b + r * TILE);
        }
    }
};

struct accumulator {
    alignas(64) float at[M][N];

    void load_f32(ptx_lanes &w, const uint32_t *rows)
    {
        for (int m = 0; m < M; m += 2) {
            int lane = m % TILE * 4, r = m / TILE * 2;
            interleave(ptx_row<float>(w, rows[r]) + lane, ptx_row<float>(w, rows[r + 1]) + lane, at + m);
        }
    }

    void store_f32(ptx_lanes &w, const uint32_t *rows)
    {
        for (float *x = at[0]; x < at[0] + M * N; x++)
            *x = *x == *x ? *x : float_of(FLOAT_NAN);
        for (int m = 0; m < M; m += 2) {
            int lane = m % TILE * 4, r = m / TILE * 2;
            separate(at + m, ptx_row<float>(w, rows[r]) + lane, ptx_row<float>(w, rows[r + 1]) + lane);
        }
    }

    void load_f16(ptx_lanes &w, const uint32_t *rows)
    {
        for (int r = 0; r < 2; r++)
            f16_row_values(ptx_row<uint16_t>(w, rows[r]), at[r * TILE], TILE * TILE);
    }

    void store_f16(ptx_lanes &w, const uint32_t *rows) const
    {
        for (int r = 0; r < 2; r++)
            f16_row_nearest(at[r * TILE], ptx_row<uint16_t>(w, rows[r]), TILE * TILE);
    }
};

/* Operands: D, A, B, C. */
template <class Half, int K, bool Sum32> void mma(ptx_lanes &w, const ptx_inst &i)
{
    constexpr int n_c = Sum32 ? 4 : 2, n_a = M * K / (TILE * TILE), n_b = K / TILE;
    const uint32_t *d = i.row, *a = d + n_c, *b = a + n_a, *c = b + n_b;
    operands<Half, K> o(w, a, b);
    accumulator acc;
    Sum32 ? acc.load_f32(w, c) : acc.load_f16(w, c);
    multiply<K>(o.a, o.b, acc.at);
    Sum32 ? acc.store_f32(w, d) : acc.store_f16(w, d);
    w.mma_flops += 2ull * M * N * K;
}

/* Four bytes a register where the others have two halves; sums are exact. */
void mma_s8(ptx_lanes &w, const ptx_inst &i)
{
    constexpr int K = 32;
    int32_t acc[M][N];
    int8_t a[M][K], b[N][K];
    for (int r = 0; r < 4; r++) {
        const int32_t *c = ptx_row<int32_t>(w, i.row[10 + r]);
        for (int l = 0; l < PTX_LANES; l++) {
            acc[l / 4 + r / 2 * TILE][l % 4 * 2 + r % 2] = c[l];
            memcpy(&a[l / 4 + (r & 1) * TILE][l % 4 * 4 + r / 2 * 16], &ptx_row<uint32_t>(w, i.row[4 + r])[l], 4);
        }
    }
    for (int r = 0; r < 2; r++)
        for (int l = 0; l < PTX_LANES; l++)
            memcpy(&b[l / 4][l % 4 * 4 + r * 16], &ptx_row<uint32_t>(w, i.row[8 + r])[l], 4);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            for (int k = 0; k < K; k++)
                acc[m][n] += a[m][k] * b[n][k];
    for (int r = 0; r < 4; r++) {
        int32_t *d = ptx_row<int32_t>(w, i.row[r]);
        for (int l = 0; l < PTX_LANES; l++)
            d[l] = acc[l / 4 + r / 2 * TILE][l % 4 * 2 + r % 2];
    }
    w.mma_flops += 2ull * M * N * K;
}

/* movmatrix.trans: an 8 x 8 tile of halves, columns for rows. */
void movmatrix(ptx_lanes &w, const ptx_inst &i)
{
    uint16_t from[TILE][TILE];
    memcpy(from, ptx_row<uint16_t>(w, i.row[1]), sizeof from);
    uint16_t *to = ptx_row<uint16_t>(w, i.row[0]);
    for (int r = 0; r < TILE; r++)
        for (int c = 0; c < TILE; c++)
            to[c * TILE + r] = from[r][c];
}

/* All operands are 4 bytes wide. */
#define MMA(name, fn, n_dst, n_src)                                                                                    \
    {                                                                                                                  \
        "mma.sync.aligned." name, fn, n_dst, n_src, {4, 4, 4, 4, 4, 4, 4, 4}, 0                                        \
    }

const ptx_alu_entry entries[] = {
    MMA("m16n8k16.row.col.f32.f16.f16.f32", (mma<of_f16, 16, true>), 4, 10),
    MMA("m16n8k16.row.col.f32.bf16.bf16.f32", (mma<of_bf16, 16, true>), 4, 10),
    MMA("m16n8k16.row.col.f16.f16.f16.f16", (mma<of_f16, 16, false>), 2, 8),
    MMA("m16n8k8.row.col.f32.f16.f16.f32", (mma<of_f16, 8, true>), 4, 7),
    MMA("m16n8k8.row.col.f32.bf16.bf16.f32", (mma<of_bf16, 8, true>), 4, 7),
    MMA("m16n8k8.row.col.f16.f16.f16.f16", (mma<of_f16, 8, false>), 2, 5),
    MMA("m16n8k32.row.col.s32.s8.s8.s32", mma_s8, 4, 10),
    {"movmatrix.sync.aligned.m8n8.trans.b16", movmatrix, 1, 1, {4, 4}, 0},
};

} // namespace

ptx_alu_table mma_table()
{
    return {entries, sizeof entries / sizeof entries[0], nullptr};
}

} // namespace PTX_ARCH
