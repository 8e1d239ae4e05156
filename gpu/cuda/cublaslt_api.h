/* cublaslt_api - the part of cuBLASLt's interface that we call, written down from NVIDIA's documentation ("Using the cuBLASLt
 * API"), for its header comes only with the library's 600 MB. Names and values are NVIDIA's; the interface has been stable since
 * cuBLAS 11.4 but for additions. */
#ifndef ROUSE_GPU_CUBLASLT_API_H
#define ROUSE_GPU_CUBLASLT_API_H

#include <stddef.h>
#include <stdint.h>

struct CUstream_st; /* what a CUstream points to */

typedef int cublasStatus_t;
enum { CUBLAS_STATUS_SUCCESS = 0 };

enum { CUDA_R_32F = 0, CUDA_R_16F = 2, CUDA_R_16BF = 14 }; /* cudaDataType_t */
enum { CUBLAS_COMPUTE_32F = 68 };                          /* cublasComputeType_t */
enum { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };                 /* cublasOperation_t, an int32_t where it is an attribute */

/* cublasLtMatmulDescAttributes_t */
enum {
    CUBLASLT_MATMUL_DESC_TRANSA = 3,      /* int32_t */
    CUBLASLT_MATMUL_DESC_TRANSB = 4,      /* int32_t */
    CUBLASLT_MATMUL_DESC_EPILOGUE = 7,    /* uint32_t */
    CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8 /* const void *; of the type of D */
};
enum { CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_BIAS = 4 };

/* cublasLtMatrixLayoutAttribute_t */
enum { CUBLASLT_MATRIX_LAYOUT_COLS = 3 /* uint64_t */ };

/* cublasLtMatmulPreferenceAttributes_t */
enum {
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,  /* uint64_t */
    CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3 /* uint32_t */
};
enum { CUBLASLT_REDUCTION_SCHEME_NONE = 0, CUBLASLT_REDUCTION_SCHEME_MASK = 0x7 };

/* cublasLtMatmulAlgoConfigAttributes_t */
enum { CUBLASLT_ALGO_CONFIG_SPLITK_NUM = 2 /* uint32_t */ };

typedef struct cublasLtContext *cublasLtHandle_t;
typedef struct cublasLtMatmulDescOpaque *cublasLtMatmulDesc_t;
typedef struct cublasLtMatrixLayoutOpaque *cublasLtMatrixLayout_t;
typedef struct cublasLtMatmulPreferenceOpaque *cublasLtMatmulPreference_t;

/* Plain bytes, by intent of the interface: may be stored and used again with the same version of the library. */
typedef struct {
    uint64_t data[8];
} cublasLtMatmulAlgo_t;

typedef struct {
    cublasLtMatmulAlgo_t algo;
    size_t workspaceSize;
    cublasStatus_t state; /* SUCCESS: the rest is valid */
    float wavesCount;
    int reserved[4];
} cublasLtMatmulHeuristicResult_t;

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle);
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle);
size_t cublasLtGetVersion(void); /* major * 10000 + minor * 100 + patch */
const char *cublasLtGetStatusName(cublasStatus_t status);

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, int compute_type, int scale_type);
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, int attribute, const void *value, size_t size);
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc);

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, int type, uint64_t rows, uint64_t cols,
                                          int64_t ld);
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, int attribute, const void *value,
                                                size_t size);
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout);

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference);
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, int attribute,
                                                    const void *value, size_t size);
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference);

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *n_found);
/* Whether the algorithm can do this product, and with how much workspace. */
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result);
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo, int attribute, void *value,
                                                    size_t size, size_t *n_written);
/* D = alpha op(A) op(B) + beta C + bias, column-major; alpha and beta in this process's memory. C may be D. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a_bytes, cublasLtMatrixLayout_t a, const void *b_bytes,
                              cublasLtMatrixLayout_t b, const void *beta, const void *c_bytes, cublasLtMatrixLayout_t c,
                              void *d_bytes, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, struct CUstream_st *stream);

#endif
