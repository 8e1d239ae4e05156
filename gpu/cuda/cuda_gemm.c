#include "gpu/cuda/cuda_gemm.h"

#include <assert.h>
#include <string.h>

enum {
    CANDIDATES_ASKED = 8, /* of the heuristic, for one number of rows */
    SAMPLES_MAX = 3,      /* numbers of rows that are tried */
    CANDIDATES_MAX = CANDIDATES_ASKED * SAMPLES_MAX,
    TIMED_RUNS = 3
};

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

static int lt_check(const struct cuda_gemms *g, cublasStatus_t status, struct base_error *err, const char *what,
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

static int make_product(const struct cuda_gemms *g, struct cuda_gemm *p, int half, bool half_result,
                        struct base_error *err)
{
    const struct cuda_lt *lt = g->lt;
    cublasStatus_t status = make_desc(g, p);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->w, half, p->k, p->n, p->k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->x, half, p->k, p->rows_max, p->k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->MatrixLayoutCreate(&p->y, half_result ? half : CUDA_R_32F, p->n, p->rows_max, p->n);
    return lt_check(g, status, err, "a descriptor", p, p->rows_max);
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
                                .adds = i == CUDA_DENSE || i == CUDA_DOWN};
        if (g->lt && !s->unused)
            rc = make_product(g, p, bf16 ? CUDA_R_16BF : CUDA_R_16F, i == CUDA_QKV || i == CUDA_UP, err);
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

static cublasStatus_t set_rows(const struct cuda_gemms *g, const struct cuda_gemm *p, uint64_t n_rows)
{
    const cublasStatus_t status =
        g->lt->MatrixLayoutSetAttribute(p->x, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    return g->lt->MatrixLayoutSetAttribute(p->y, CUBLASLT_MATRIX_LAYOUT_COLS, &n_rows, sizeof n_rows);
}

static int run_algo(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                    const struct cuda_gemm_at *at, uint32_t n_rows, struct base_error *err)
{
    const float alpha = 1, beta = p->adds ? 1 : 0;
    cublasStatus_t status = set_rows(g, p, n_rows);
    if (status == CUBLAS_STATUS_SUCCESS && p->has_bias)
        status = g->lt->MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &at->bias, sizeof at->bias);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = g->lt->Matmul(g->device->lt_handle, p->desc, &alpha, at->w, p->w, at->x, p->x, &beta, at->y, p->y,
                               at->y, p->y, algo, g->scratch, g->scratch_bytes, g->device->compute);
    return lt_check(g, status, err, "the product", p, n_rows);
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
    return run_algo(g, p, &p->choices[class_of(g, n_rows)].algo, at, n_rows, err);
}

/* ---- choosing ---- */

struct candidates {
    uint32_t n, n_samples;
    uint32_t rows[SAMPLES_MAX];
    cublasLtMatmulAlgo_t algos[CANDIDATES_MAX];
    float ms[CANDIDATES_MAX][SAMPLES_MAX];
};

static bool is_split(const struct cuda_gemms *g, const cublasLtMatmulAlgo_t *algo)
{
    uint32_t parts = 0;
    size_t n = 0;
    const cublasStatus_t status =
        g->lt->MatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts, &n);
    return status != CUBLAS_STATUS_SUCCESS || parts > 1;
}

static bool is_valid(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                     uint32_t n_rows)
{
    cublasLtMatmulHeuristicResult_t result = {0};
    return set_rows(g, p, n_rows) == CUBLAS_STATUS_SUCCESS &&
           g->lt->MatmulAlgoCheck(g->device->lt_handle, p->desc, p->w, p->x, p->y, p->y, algo, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= g->scratch_bytes;
}

/* For all numbers of rows that the class stands for, as far as powers of two tell. */
static bool is_valid_for_class(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                               uint32_t row_class)
{
    if (!g->fastest && is_split(g, algo))
        return false;
    for (uint32_t rows = g->fastest ? 1u << row_class : 1; rows < p->rows_max; rows *= 2) {
        if (!is_valid(g, p, algo, rows))
            return false;
        if (g->fastest)
            return true;
    }
    return is_valid(g, p, algo, p->rows_max);
}

static bool is_known(const struct candidates *c, const cublasLtMatmulAlgo_t *algo)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (memcmp(&c->algos[i], algo, sizeof *algo) == 0)
            return true;
    return false;
}

static void add_rows(struct candidates *c, uint32_t rows, uint32_t rows_max)
{
    rows = rows < rows_max ? rows : rows_max;
    for (uint32_t i = 0; i < c->n_samples; i++)
        if (c->rows[i] == rows)
            return;
    c->rows[c->n_samples++] = rows;
}

/* Numbers of rows to look at: a long prompt, a usual one, a short one; or the class's own. */
static void choose_samples(const struct cuda_gemms *g, const struct cuda_gemm *p, uint32_t row_class,
                           struct candidates *c)
{
    if (g->fastest) {
        add_rows(c, 1u << row_class, p->rows_max);
        return;
    }
    add_rows(c, p->rows_max, p->rows_max);
    add_rows(c, 256, p->rows_max);
    add_rows(c, 32, p->rows_max);
}

static int find_candidates(const struct cuda_gemms *g, const struct cuda_gemm *p, uint32_t row_class,
                           struct candidates *c, struct base_error *err)
{
    choose_samples(g, p, row_class, c);
    for (uint32_t s = 0; s < c->n_samples; s++) {
        cublasLtMatmulHeuristicResult_t found[CANDIDATES_ASKED];
        int n = 0;
        int rc = lt_check(g, set_rows(g, p, c->rows[s]), err, "a layout", p, c->rows[s]);
        if (rc < 0)
            return rc;
        /* NOT_SUPPORTED is its way of saying none */
        if (g->lt->MatmulAlgoGetHeuristic(g->device->lt_handle, p->desc, p->w, p->x, p->y, p->y, g->preference,
                                          CANDIDATES_ASKED, found, &n) != CUBLAS_STATUS_SUCCESS)
            n = 0;
        for (int i = 0; i < n; i++)
            if (found[i].state == CUBLAS_STATUS_SUCCESS && !is_known(c, &found[i].algo) &&
                is_valid_for_class(g, p, &found[i].algo, row_class))
                c->algos[c->n++] = found[i].algo;
    }
    return 0;
}

static int time_one(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                    const struct cuda_gemm_at *at, uint32_t n_rows, const CUevent events[2], float *out_ms,
                    struct base_error *err)
{
    struct cuda_device *d = g->device;
    int rc = run_algo(g, p, algo, at, n_rows, err); /* the first run loads it */
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventRecord(events[0], d->compute), err, "timing a product");
    for (int i = 0; i < TIMED_RUNS && rc == 0; i++)
        rc = run_algo(g, p, algo, at, n_rows, err);
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventRecord(events[1], d->compute), err, "timing a product");
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventSynchronize(events[1]), err, "timing a product");
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventElapsedTime(out_ms, events[0], events[1]), err, "timing a product");
    return rc;
}

/* Of all sample sizes alike: the smallest sum of how many times slower it is than the fastest of that size. */
static uint32_t best_of(const struct candidates *c)
{
    uint32_t best = 0;
    float best_score = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        float score = 0;
        for (uint32_t s = 0; s < c->n_samples; s++) {
            float fastest = c->ms[0][s];
            for (uint32_t j = 1; j < c->n; j++)
                fastest = c->ms[j][s] < fastest ? c->ms[j][s] : fastest;
            score += fastest > 0 ? c->ms[i][s] / fastest : 1;
        }
        if (i == 0 || score < best_score) {
            best = i;
            best_score = score;
        }
    }
    return best;
}

static int choose_one(struct cuda_gemms *g, struct cuda_gemm *p, uint32_t row_class, const struct cuda_gemm_at *at,
                      const CUevent events[2], struct base_error *err)
{
    struct candidates c = {0};
    struct cuda_gemm_choice *choice = &p->choices[row_class];
    int rc = find_candidates(g, p, row_class, &c, err);
    for (uint32_t i = 0; i < c.n && at && c.n > 1 && rc == 0; i++)
        for (uint32_t s = 0; s < c.n_samples && rc == 0; s++)
            rc = time_one(g, p, &c.algos[i], at, c.rows[s], events, &c.ms[i][s], err);
    if (rc < 0)
        return rc;
    *choice = (struct cuda_gemm_choice){.chosen = true, .usable = c.n > 0};
    if (c.n > 0)
        choice->algo = c.algos[best_of(&c)];
    return 0;
}

int cuda_gemms_choose(struct cuda_gemms *g, const struct cuda_gemm_at at[CUDA_PRODUCTS], struct base_error *err)
{
    struct cuda_device *d = g->device;
    CUevent events[2] = {0};
    int rc = 0;
    for (int i = 0; i < 2 && at && rc == 0; i++)
        rc = cuda_check(d, d->cu->EventCreate(&events[i], CU_EVENT_DEFAULT), err, "an event for timing");
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++)
        for (uint32_t c = 0; c < g->of[i].n_classes && rc == 0; c++)
            if (!g->of[i].choices[c].chosen)
                rc = choose_one(g, &g->of[i], c, at ? &at[i] : NULL, events, err);
    for (int i = 0; i < 2; i++)
        if (events[i])
            (void)d->cu->EventDestroy(events[i]);
    return rc;
}

int cuda_gemms_take(struct cuda_gemms *g, enum cuda_product product, uint32_t row_class,
                    const struct cuda_gemm_choice *choice, struct base_error *err)
{
    struct cuda_gemm *p = &g->of[product];
    struct cuda_gemm_choice *own = &p->choices[row_class];
    if (!choice->chosen || own->chosen)
        return 0;
    if (choice->usable && !is_valid_for_class(g, p, &choice->algo, row_class))
        return base_fail(err, ERR_CORRUPT, "choices: cublasLt does not admit the algorithm for %u x %u weights", p->n,
                         p->k);
    *own = *choice;
    return 0;
}
