/* libcublaslt - what of cuBLASLt's interface the emulated library has, from NVIDIA's documentation, and its arithmetic.
 *
 *   libcublaslt_api    descriptors, heuristics, checks; a product becomes work in a stream of the emulated driver
 *   libcublaslt_gemm   the products
 *
 * Sums are in f32, without fused multiply-adds, the same bits on every processor. Which bits depends on the algorithm: each has
 * its own order, given by the length of the sum alone. */
#ifndef ROUSE_EMU_LIBCUBLASLT_H
#define ROUSE_EMU_LIBCUBLASLT_H

#include <cstddef>
#include <cstdint>

enum gemm_type { GEMM_F32 = 0, GEMM_F16 = 2, GEMM_BF16 = 14 }; /* cudaDataType_t */

inline size_t gemm_type_bytes(int type)
{
    return type == GEMM_F32 ? 4 : 2;
}

/* lanes running sums over k, folded by a tree; with a tile of k (0: none) the sums start anew at each tile and are added up;
 * with more than one split each part of k does so on its own, and the parts are added in order, rounded to D's type first
 * when round_parts. */
struct gemm_order {
    uint32_t lanes; /* 8, 16 */
    uint32_t tile_k;
    uint32_t splits;
    bool round_parts;
};

enum gemm_epilogue { GEMM_DEFAULT = 1, GEMM_BIAS = 4, GEMM_GELU_BIAS = 36 };

struct gemm_matrix {
    const uint8_t *bytes;
    int type;
    int64_t ld;
    bool transposed;
};

/* D[m x n] = epilogue(alpha op(A) op(B) + beta C + bias[m]), column-major. */
struct gemm {
    gemm_matrix a, b, c; /* c.bytes: NULL when beta is 0 */
    uint8_t *d;
    int d_type;
    int64_t ldd;
    const uint8_t *bias;
    int bias_type;
    float *workspace; /* [splits][n][m] when there is more than one */
    uint64_t m, n, k;
    float alpha, beta;
    int epilogue;
    gemm_order order;
};

void gemm_run(const gemm &g);

#endif
