#include "gpu/cuda/cuda_gemm.h"

#include <assert.h>

uint64_t cuda_gemm_scratch_bytes(bool fastest)
{
    return (uint64_t)(fastest ? 32 : 4)
           << 20; /* what NVIDIA recommends for its newest; without split-K little is used */
}

uint32_t cuda_gemm_classes(bool fastest, uint32_t rows_max)
{
    uint32_t n = 1;
    while (fastest && 1u << (n - 1) < rows_max)
        n++;
    assert(n <= CUDA_ROW_CLASSES);
    return n;
}

/* The class of 2^c rows is for all numbers from 2^(c-1) + 1 on. */
static uint32_t class_of(const struct cuda_gemms *g, uint32_t n_rows)
{
    uint32_t c = 0;
    while (g->fastest && 1u << c < n_rows)
        c++;
    return c;
}

int cuda_gemm_check(const struct cuda_gemms *g, cublasStatus_t status, struct base_error *err, const char *what,
                    const struct cuda_gemm *p, uint32_t n_rows)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return base_fail(err, ERR_INTERNAL, "cublasLt: %s for %u x %u weights and %u rows: %s", what, p->n, p->k, n_rows,
                     g->lt->GetStatusName(status));
}

/* ---- descriptors ---- */

static cublasStatus_t make_desc(const struct cuda_gemms *g, struct cuda_gemm *p)
{
    const struct cuda_lt *lt = g->lt;
    const int32_t transposed = CUBLAS_OP_T;
    const uint32_t epilogue = p->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cublasStatus_t status = lt->MatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    /* its alignment counts in the search for algorithms; every run sets its own */
    if (status == CUBLAS_STATUS_SUCCESS && p->has_bias)
        status = lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->scratch, sizeof g->scratch);
    return status;
}

static int make_product(const struct cuda_gemms *g, struct cuda_gemm *p, int half, struct base_error *err)
{
    const struct cuda_lt *lt = g->lt;
    cublasStatus_t status = make_desc(g, p);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->w, half, p->k, p->n, p->k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->x, half, p->k, p->rows_max, p->k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->y, p->half ? half : CUDA_R_32F, p->n, p->rows_max, p->n);
    return cuda_gemm_check(g, status, err, "a descriptor", p, p->rows_max);
}

static int make_preference(struct cuda_gemms *g, struct base_error *err)
{
    const uint32_t schemes = g->fastest ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasStatus_t status = g->lt->MatmulPreferenceCreate(&g->preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = g->lt->MatmulPreferenceSetAttribute(g->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                     &g->scratch_bytes, sizeof g->scratch_bytes);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = g->lt->MatmulPreferenceSetAttribute(g->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                     &schemes, sizeof schemes);
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return base_fail(err, ERR_INTERNAL, "cublasLt: a preference: %s", g->lt->GetStatusName(status));
}

int cuda_gemms_init(struct cuda_gemms *g, struct cuda_device *d, bool bf16, void *scratch,
                    const struct cuda_gemm_shape shapes[CUDA_PRODUCTS], struct base_error *err)
{
    *g = (struct cuda_gemms){.device = d,
                             .lt = d->lt,
                             .fastest = d->fastest_gemms,
                             .scratch = scratch,
                             .scratch_bytes = cuda_gemm_scratch_bytes(d->fastest_gemms)};
    int rc = g->lt ? make_preference(g, err) : 0;
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS && rc == 0; i++) {
        const struct cuda_gemm_shape *s = &shapes[i];
        struct cuda_gemm *p = &g->of[i];
        *p = (struct cuda_gemm){.n = s->n,
                                .k = s->k,
                                .rows_max = s->rows_max,
                                .n_classes = cuda_gemm_classes(g->fastest, s->rows_max),
                                .has_bias = s->has_bias,
                                .adds = i == CUDA_DENSE || i == CUDA_DOWN,
                                .half = i == CUDA_QKV || i == CUDA_UP};
        if (g->lt && !s->unused)
            rc = make_product(g, p, bf16 ? CUDA_R_16BF : CUDA_R_16F, err);
        for (uint32_t c = 0; c < p->n_classes && (!g->lt || s->unused); c++)
            p->choices[c].chosen = true;
    }
    if (rc < 0)
        cuda_gemms_done(g);
    return rc;
}

void cuda_gemms_done(struct cuda_gemms *g)
{
    if (!g->lt)
        return;
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        struct cuda_gemm *p = &g->of[i];
        if (p->y)
            (void)g->lt->MatrixLayoutDestroy(p->y);
        if (p->x)
            (void)g->lt->MatrixLayoutDestroy(p->x);
        if (p->w)
            (void)g->lt->MatrixLayoutDestroy(p->w);
        if (p->desc)
            (void)g->lt->MatmulDescDestroy(p->desc);
    }
    if (g->preference)
        (void)g->lt->MatmulPreferenceDestroy(g->preference);
    *g = (struct cuda_gemms){0};
}

/* ---- running ---- */

cublasStatus_t cuda_gemm_set_rows(const struct cuda_gemms *g, const struct cuda_gemm *p, uint64_t n_rows)
{
    const cublasStatus_t status =
        g->lt->MatrixLayoutSetAttribute(p->x, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    return g->lt->MatrixLayoutSetAttribute(p->y, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows);
}

int cuda_gemm_run_algo(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                       const struct cuda_gemm_at *at, uint32_t n_rows, struct base_error *err)
{
    const float alpha = 1, beta = p->adds ? 1 : 0;
    cublasStatus_t status = cuda_gemm_set_rows(g, p, n_rows);
    if (status == CUBLAS_STATUS_SUCCESS && p->has_bias)
        status = g->lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at->bias, sizeof at->bias);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = g->lt->Matmul(g->device->lt_handle, p->desc, &alpha, at->w, p->w, at->x, p->x, &beta, at->y, p->y,
                               at->y, p->y, algo, g->scratch, g->scratch_bytes, g->device->compute);
    return cuda_gemm_check(g, status, err, "the product", p, n_rows);
}

bool cuda_gemm_usable(const struct cuda_gemms *g, enum cuda_product product, uint32_t n_rows)
{
    const struct cuda_gemm_choice *choice = &g->of[product].choices[class_of(g, n_rows)];
    assert(choice->chosen);
    return choice->usable;
}

int cuda_gemm_run(struct cuda_gemms *g, enum cuda_product product, const struct cuda_gemm_at *at, uint32_t n_rows,
                  struct base_error *err)
{
    const struct cuda_gemm *p = &g->of[product];
    assert(n_rows >= 1 && n_rows <= p->rows_max);
    return cuda_gemm_run_algo(g, p, &p->choices[class_of(g, n_rows)].algo, at, n_rows, err);
}
