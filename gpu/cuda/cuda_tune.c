/* Choosing the algorithms of products: what the heuristic offers, what of it is valid for all numbers of rows that it will have
 * to serve, what is fastest, and whether a row's bits depend on the number of rows after all. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gpu/cuda/cuda_gemm.h"

enum {
    CANDIDATES_ASKED = 8, /* of the heuristic, for one number of rows */
    SAMPLES_MAX = 3,      /* numbers of rows that are tried */
    CANDIDATES_MAX = CANDIDATES_ASKED * SAMPLES_MAX,
    TIMED_RUNS = 3,
    SAME_BYTE = 0x3c /* a half of such bytes: 1.06 in f16, 0.0115 in bf16 */
};

/* ---- what there is ---- */

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
    return cuda_gemm_set_rows(g, p, n_rows) == CUBLAS_STATUS_SUCCESS &&
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
        int rc = cuda_gemm_check(g, cuda_gemm_set_rows(g, p, c->rows[s]), err, "a layout", p, c->rows[s]);
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

/* ---- how fast ---- */

static int time_one(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                    const struct cuda_gemm_at *at, uint32_t n_rows, const CUevent events[2], float *out_ms,
                    struct base_error *err)
{
    struct cuda_device *d = g->device;
    int rc = cuda_gemm_run_algo(g, p, algo, at, n_rows, err); /* the first run loads it */
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventRecord(events[0], d->compute), err, "timing a product");
    for (int i = 0; i < TIMED_RUNS && rc == 0; i++)
        rc = cuda_gemm_run_algo(g, p, algo, at, n_rows, err);
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

/* ---- whether rows are independent ---- */

/* The first and the last row of y. */
static int read_rows(const struct cuda_gemms *g, const struct cuda_gemm *p, const struct cuda_gemm_at *at,
                     uint32_t n_rows, uint8_t *first, uint8_t *last, struct base_error *err)
{
    struct cuda_device *d = g->device;
    const size_t row_bytes = p->n * (p->half ? sizeof(uint16_t) : sizeof(float));
    const CUdeviceptr y = (CUdeviceptr)(uintptr_t)at->y;
    CUresult result = d->cu->MemcpyDtoHAsync(first, y, row_bytes, d->compute);
    if (result == CUDA_SUCCESS)
        result = d->cu->MemcpyDtoHAsync(last, y + (n_rows - 1) * row_bytes, row_bytes, d->compute);
    if (result == CUDA_SUCCESS)
        result = d->cu->StreamSynchronize(d->compute);
    return cuda_check(d, result, err, "reading a product");
}

static int run_with_same_rows(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                              const struct cuda_gemm_at *at, uint32_t n_rows, struct base_error *err)
{
    struct cuda_device *d = g->device;
    CUresult result = d->cu->MemsetD8Async((CUdeviceptr)(uintptr_t)at->x, SAME_BYTE,
                                           (size_t)n_rows * p->k * sizeof(uint16_t), d->compute);
    if (result == CUDA_SUCCESS && p->adds)
        result =
            d->cu->MemsetD8Async((CUdeviceptr)(uintptr_t)at->y, 0, (size_t)n_rows * p->n * sizeof(float), d->compute);
    const int rc = cuda_check(d, result, err, "filling the rows of a product");
    return rc < 0 ? rc : cuda_gemm_run_algo(g, p, algo, at, n_rows, err);
}

/* Whether a row has the same bits alone, among a few, among many, and first or last of them. All rows of x are the same, so all
 * of y must be. The interface promises nothing of the kind, and our answers rest on it. */
static int rows_agree(const struct cuda_gemms *g, const struct cuda_gemm *p, const cublasLtMatmulAlgo_t *algo,
                      const struct cuda_gemm_at *at, bool *out_agree, struct base_error *err)
{
    const uint32_t counts[] = {p->rows_max, 256, 32, 17, 1};
    const size_t row_bytes = p->n * (p->half ? sizeof(uint16_t) : sizeof(float));
    uint8_t *rows = malloc(3 * row_bytes), *want = rows, *first = rows + row_bytes, *last = rows + 2 * row_bytes;
    bool agree = true;
    int rc = rows ? 0 : base_fail(err, ERR_NOMEM, "no memory for rows of %u", p->n);
    for (size_t i = 0; i < sizeof counts / sizeof *counts && rc == 0; i++) {
        if (counts[i] > p->rows_max)
            continue;
        rc = run_with_same_rows(g, p, algo, at, counts[i], err);
        if (rc == 0)
            rc = read_rows(g, p, at, counts[i], first, last, err);
        if (rc == 0 && i == 0)
            memcpy(want, first, row_bytes);
        agree = agree && rc == 0 && memcmp(want, first, row_bytes) == 0 && memcmp(want, last, row_bytes) == 0;
    }
    free(rows);
    *out_agree = agree;
    return rc;
}

/* ---- choosing ---- */

static void drop(struct candidates *c, uint32_t i)
{
    c->n--;
    c->algos[i] = c->algos[c->n];
    memcpy(c->ms[i], c->ms[c->n], sizeof c->ms[i]);
}

/* The fastest; of the deterministic ones, the fastest that is. Those that are not leave the candidates. */
static int choose_best(const struct cuda_gemms *g, const struct cuda_gemm *p, struct candidates *c,
                       const struct cuda_gemm_at *at, uint32_t *out_best, struct base_error *err)
{
    while (c->n > 0) {
        const uint32_t best = best_of(c);
        bool agree = true;
        const int rc = at && !g->fastest ? rows_agree(g, p, &c->algos[best], at, &agree, err) : 0;
        if (rc < 0)
            return rc;
        *out_best = best;
        if (agree)
            return 0;
        base_log_info("an algorithm of cublasLt is not used", LOG_INT("weight_rows", p->n),
                      LOG_INT("weight_columns", p->k), LOG_STR("reason", "a row's bits depend on the number of rows"));
        drop(c, best);
    }
    return 0;
}

static int choose_one(struct cuda_gemms *g, struct cuda_gemm *p, uint32_t row_class, const struct cuda_gemm_at *at,
                      const CUevent events[2], struct base_error *err)
{
    struct candidates c = {0};
    struct cuda_gemm_choice *choice = &p->choices[row_class];
    uint32_t best = 0;
    int rc = find_candidates(g, p, row_class, &c, err);
    for (uint32_t i = 0; i < c.n && at && c.n > 1 && rc == 0; i++)
        for (uint32_t s = 0; s < c.n_samples && rc == 0; s++)
            rc = time_one(g, p, &c.algos[i], at, c.rows[s], events, &c.ms[i][s], err);
    if (rc == 0)
        rc = choose_best(g, p, &c, at, &best, err);
    if (rc < 0)
        return rc;
    *choice = (struct cuda_gemm_choice){.chosen = true, .usable = c.n > 0};
    if (c.n > 0)
        choice->algo = c.algos[best];
    else
        base_log_info("a product of prompts is computed without cublasLt", LOG_INT("weight_rows", p->n),
                      LOG_INT("weight_columns", p->k), LOG_STR("reason", "it offers no algorithm"));
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
        return base_fail(err, ERR_SERVICE, "cublasLt does not admit the algorithm chosen for %u x %u weights", p->n,
                         p->k); /* the library's doing: the choices' bytes have been verified */
    *own = *choice;
    return 0;
}
