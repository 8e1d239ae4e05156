/* cuda_gemm - the products of prompts, by cublasLt with pinned algorithms; private to gpu/cuda.
 *
 * y [T][N] = x [T][K] w [N][K]^T + bias; seen by cublasLt, which is column-major: D (N x T) = op_T(w, K x N) (x, K x T).
 *
 * Which algorithm computes a product is chosen once and then fixed, for the order of its sums is part of every answer:
 * deterministic (the default): one for each shape of weights, whatever the number of rows, without split-K; fastest: one for
 * each power of two of rows, split-K allowed. A product for which cublasLt has nothing is left to our own kernels. */
#ifndef ROUSE_GPU_CUDA_GEMM_H
#define ROUSE_GPU_CUDA_GEMM_H

#include "gpu/cuda/cuda_choices.h"
#include "gpu/cuda/cuda_device.h"

struct cuda_gemm {
    uint32_t n, k, rows_max, n_classes;
    bool has_bias, adds, half; /* half: the result */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    struct cuda_gemm_choice choices[CUDA_ROW_CLASSES];
};

struct cuda_gemms {
    struct cuda_device *device;
    const struct cuda_lt *lt; /* NULL: not here; then nothing else is used */
    bool fastest;
    void *scratch; /* on the device */
    uint64_t scratch_bytes;
    cublasLtMatmulPreference_t preference;
    struct cuda_gemm of[CUDA_PRODUCTS];
};

struct cuda_gemm_shape {
    uint32_t n, k, rows_max;
    bool has_bias, unused; /* unused: 8-bit weights are for our own kernels */
};

/* Where a product's numbers lie, on the device. bias: of the type of y. */
struct cuda_gemm_at {
    const void *w, *x, *bias;
    void *y;
};

uint64_t cuda_gemm_scratch_bytes(bool fastest);
uint32_t cuda_gemm_classes(bool fastest, uint32_t rows_max);

/* No memory is allocated after this. */
int cuda_gemms_init(struct cuda_gemms *g, struct cuda_device *d, bool bf16, void *scratch,
                    const struct cuda_gemm_shape shapes[CUDA_PRODUCTS], struct base_error *err);
void cuda_gemms_done(struct cuda_gemms *g);

/* Whether cublasLt computes the product; it has been chosen. */
bool cuda_gemm_usable(const struct cuda_gemms *g, enum cuda_product product, uint32_t n_rows);
/* Onto the compute stream; CUDA_DENSE, CUDA_DOWN: y += */
int cuda_gemm_run(struct cuda_gemms *g, enum cuda_product product, const struct cuda_gemm_at *at, uint32_t n_rows,
                  struct base_error *err);

/* ---- for cuda_tune.c ---- */

int cuda_gemm_check(const struct cuda_gemms *g, cublasStatus_t status, struct base_error *err, const char *what,
                    const struct cuda_gemm *p, uint32_t n_rows);
cublasStatus_t cuda_gemm_set_rows(const struct cuda_gemms *g, const struct cuda_gemm *p, uint64_t n_rows);
int cuda_gemm_run_algo(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                       const struct cuda_gemm_at *at, uint32_t n_rows, struct base_error *err);

/* ---- cuda_tune.c: which algorithm ---- */

/* Chooses what is not chosen yet: by time on the device, with the weights at `at` (x and y are overwritten), or, without `at`,
 * what the heuristic names first. */
int cuda_gemms_choose(struct cuda_gemms *g, const struct cuda_gemm_at at[CUDA_PRODUCTS], struct base_error *err);

/* Takes a choice from a snapshot. ERR_CORRUPT: cublasLt does not admit it. */
int cuda_gemms_take(struct cuda_gemms *g, enum cuda_product product, uint32_t row_class,
                    const struct cuda_gemm_choice *choice, struct base_error *err);

#endif
