/* The emulated cuBLASLt, through the declarations that the back end uses. */
#include <cmath>
#include <cstring>

#include "hosttest.h"

extern "C" {
#include "gpu/cuda/cublaslt_api.h"
cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t handle, int compute_type, int scale_type, int a, int b, int c,
                                      int d, int id, cublasLtMatmulAlgo_t *algo);
cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *algo, int attribute, const void *value,
                                                    size_t size);
}

enum { NOT_SUPPORTED = 15, INVALID_VALUE = 7, GELU_BIAS = 36 };

#define LT(call) CHECK((call) == CUBLAS_STATUS_SUCCESS)

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Values with 6 significant bits: exact in both half types. */
static float small_value(uint32_t i)
{
    return (float)((int)(i * 2654435761u >> 26) - 32) / 32.0f;
}

/* Exact for such values. */
static uint16_t half_of(float x, int type)
{
    if (type == CUDA_R_16BF)
        return (uint16_t)(bits_of(x) >> 16);
    if (x == 0)
        return 0;
    uint32_t b = bits_of(x);
    return (uint16_t)((b >> 16 & 0x8000) | (((b >> 23 & 255) - 112) << 10) | (b >> 13 & 0x3ff));
}

static float value_of(uint16_t h, int type)
{
    if (type == CUDA_R_16BF)
        return float_of((uint32_t)h << 16);
    float x = float_of((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    return h & 0x8000 ? -x : x;
}

struct shape {
    uint64_t m, n, k;
    int trans_a, trans_b;
    int half, d_type;
    uint32_t epilogue;
    float beta;
};

/* One product with its matrices on the device, filled; columns are `pad` elements apart from each other. */
struct problem {
    problem(fixture &f, const shape &s, uint64_t pad);
    ~problem();
    int find(cublasLtMatmulHeuristicResult_t *results, int wanted);
    cublasStatus_t run(const cublasLtMatmulAlgo_t *algo, void *space, size_t space_bytes, CUstream on);
    std::vector<float> result();
    double reference(uint64_t row, uint64_t col) const;

    fixture &fix;
    shape s;
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t la, lb, ld;
    cublasLtMatmulPreference_t preference;
    CUdeviceptr a, b, d, bias;
    uint64_t lda, ldb, ldd, cols_a, cols_b;
};

static void fill_matrix(CUdeviceptr to, uint64_t elements, int type, uint32_t seed)
{
    std::vector<uint8_t> bytes(elements * (type == CUDA_R_32F ? 4 : 2));
    for (uint64_t i = 0; i < elements; i++) {
        float x = small_value((uint32_t)i + seed);
        if (type == CUDA_R_32F)
            ((float *)bytes.data())[i] = x;
        else
            ((uint16_t *)bytes.data())[i] = half_of(x, type);
    }
    OK(cuMemcpyHtoD(to, bytes.data(), bytes.size()));
}

problem::problem(fixture &f, const shape &given, uint64_t pad) : fix(f), s(given)
{
    uint64_t rows_a = s.trans_a ? s.k : s.m, rows_b = s.trans_b ? s.n : s.k;
    cols_a = s.trans_a ? s.m : s.k;
    cols_b = s.trans_b ? s.k : s.n;
    lda = rows_a + pad;
    ldb = rows_b + pad;
    ldd = s.m + pad;
    a = f.alloc(lda * cols_a * 2 + 512);
    b = f.alloc(ldb * cols_b * 2 + 512);
    d = f.alloc(ldd * s.n * 4 + 512);
    bias = f.alloc(s.m * 4);
    fill_matrix(a, lda * cols_a, s.half, 1);
    fill_matrix(b, ldb * cols_b, s.half, 77);
    fill_matrix(d, ldd * s.n, s.d_type, 5);
    fill_matrix(bias, s.m, s.d_type, 9);
    LT(cublasLtCreate(&lt));
    LT(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &s.trans_a, 4));
    LT(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &s.trans_b, 4));
    LT(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &s.epilogue, 4));
    LT(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, 8));
    LT(cublasLtMatrixLayoutCreate(&la, s.half, rows_a, cols_a, (int64_t)lda));
    LT(cublasLtMatrixLayoutCreate(&lb, s.half, rows_b, cols_b, (int64_t)ldb));
    LT(cublasLtMatrixLayoutCreate(&ld, s.d_type, s.m, s.n, (int64_t)ldd));
    uint64_t room = 64 << 20;
    LT(cublasLtMatmulPreferenceCreate(&preference));
    LT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, 8));
}

problem::~problem()
{
    cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t l : {la, lb, ld})
        cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(lt);
}

int problem::find(cublasLtMatmulHeuristicResult_t *results, int wanted)
{
    int n = 0;
    cublasStatus_t rc = cublasLtMatmulAlgoGetHeuristic(lt, desc, la, lb, ld, ld, preference, wanted, results, &n);
    CHECK((rc == CUBLAS_STATUS_SUCCESS) == (n > 0) && (n > 0 || rc == NOT_SUPPORTED));
    return n;
}

cublasStatus_t problem::run(const cublasLtMatmulAlgo_t *algo, void *space, size_t space_bytes, CUstream on)
{
    float alpha = 0.5f;
    return cublasLtMatmul(lt, desc, &alpha, (void *)a, la, (void *)b, lb, &s.beta, (void *)d, ld, (void *)d, ld, algo,
                          space, space_bytes, on);
}

std::vector<float> problem::result()
{
    std::vector<uint8_t> bytes(ldd * s.n * 4);
    std::vector<float> out;
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH(bytes.data(), d, ldd * s.n * (s.d_type == CUDA_R_32F ? 4 : 2)));
    for (uint64_t col = 0; col < s.n; col++)
        for (uint64_t row = 0; row < s.m; row++) {
            uint64_t at = col * ldd + row;
            out.push_back(s.d_type == CUDA_R_32F ? ((float *)bytes.data())[at]
                                                 : value_of(((uint16_t *)bytes.data())[at], s.d_type));
        }
    return out;
}

double problem::reference(uint64_t row, uint64_t col) const
{
    double sum = 0;
    for (uint64_t i = 0; i < s.k; i++) {
        uint64_t at_a = s.trans_a ? row * lda + i : i * lda + row, at_b = s.trans_b ? i * ldb + col : col * ldb + i;
        sum += (double)small_value((uint32_t)at_a + 1) * (double)small_value((uint32_t)at_b + 77);
    }
    double x = 0.5 * sum + (double)s.beta * (double)small_value((uint32_t)(col * ldd + row) + 5);
    if (s.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        x += (double)small_value((uint32_t)row + 9);
    if (s.epilogue == GELU_BIAS)
        x = 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    return x;
}

/* Every algorithm there is for a shape, against sums in double. Sums are in f32 and exact here (products have 12 bits, sums
 * of up to 512 of them 21); D in a half type is rounded once: 2^-11 or 2^-8 of the value; tanhf is good to 1e-6. */
static void check_shape(const shape &s, uint64_t pad)
{
    fixture f;
    CUstream stream = f.stream();
    problem p(f, s, pad);
    cublasLtMatmulHeuristicResult_t found[8];
    int n = p.find(found, 8);
    CHECK(n > 0);
    CUdeviceptr space = f.alloc(64 << 20);
    double relative = s.d_type == CUDA_R_32F ? 1e-6 : s.d_type == CUDA_R_16F ? 0x1p-11 : 0x1p-8;
    for (int i = 0; i < n; i++) {
        fill_matrix(p.d, p.ldd * s.n, s.d_type, 5);
        LT(p.run(&found[i].algo, (void *)space, found[i].workspaceSize, stream));
        std::vector<float> got = p.result();
        for (uint64_t col = 0; col < s.n; col++)
            for (uint64_t row = 0; row < s.m; row++) {
                double wanted = p.reference(row, col), off = std::fabs((double)got[col * s.m + row] - wanted);
                CHECK(off <= 1e-6 + relative * std::fabs(wanted));
            }
    }
}

static void shapes(bool)
{
    check_shape({48, 5, 80, 1, 0, CUDA_R_16F, CUDA_R_16F, CUBLASLT_EPILOGUE_BIAS, 0}, 0);
    check_shape({48, 40, 512, 1, 0, CUDA_R_16BF, CUDA_R_16BF, CUBLASLT_EPILOGUE_DEFAULT, 0}, 8);
    check_shape({64, 33, 264, 1, 0, CUDA_R_16F, CUDA_R_32F, CUBLASLT_EPILOGUE_BIAS, 1}, 0);
    check_shape({40, 24, 72, 0, 0, CUDA_R_16BF, CUDA_R_32F, CUBLASLT_EPILOGUE_DEFAULT, 0.5f}, 8);
    check_shape({16, 16, 16, 0, 1, CUDA_R_16F, CUDA_R_16F, CUBLASLT_EPILOGUE_DEFAULT, 0}, 16);
    check_shape({10, 3, 6, 1, 0, CUDA_R_16F, CUDA_R_32F, CUBLASLT_EPILOGUE_DEFAULT, 0}, 2);
    check_shape({24, 8, 64, 1, 0, CUDA_R_16F, CUDA_R_16F, GELU_BIAS, 0}, 0);
}

static uint32_t config(const cublasLtMatmulAlgo_t &algo, int attribute)
{
    uint32_t value;
    size_t n;
    LT(cublasLtMatmulAlgoConfigGetAttribute(&algo, attribute, &value, sizeof value, &n));
    CHECK(n == sizeof value);
    return value;
}

/* What is first depends on the number of columns; rows whose length is odd have none; without split-K allowed there is none. */
static void heuristics(bool)
{
    fixture f;
    cublasLtMatmulHeuristicResult_t few[8], many[8];
    problem p(f, {64, 4, 512, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0),
        q(f, {64, 300, 512, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    problem odd(f, {64, 4, 511, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    int n_few = p.find(few, 8), n_many = q.find(many, 8);
    CHECK(n_few >= 2 && n_many >= 2 && config(few[0].algo, 0) != config(many[0].algo, 0));
    CHECK(config(few[0].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) > 1 && few[0].workspaceSize > 0);
    CHECK(odd.find(few, 8) == 0);
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    LT(cublasLtMatmulPreferenceSetAttribute(p.preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, 4));
    n_few = p.find(few, 8);
    for (int i = 0; i < n_few; i++)
        CHECK(config(few[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) == 1 && few[i].workspaceSize == 0);
    /* what is good for many columns is not for one */
    cublasLtMatmulHeuristicResult_t result;
    uint64_t one = 1;
    LT(cublasLtMatrixLayoutSetAttribute(q.lb, CUBLASLT_MATRIX_LAYOUT_COLS, &one, 8));
    LT(cublasLtMatrixLayoutSetAttribute(q.ld, CUBLASLT_MATRIX_LAYOUT_COLS, &one, 8));
    CHECK(cublasLtMatmulAlgoCheck(q.lt, q.desc, q.la, q.lb, q.ld, q.ld, &many[0].algo, &result) == NOT_SUPPORTED);
    CHECK(q.find(many, 1) == 1);
}

/* Values that do not sum exactly: each algorithm gives its own bits, always the same, whoever the neighbours are. */
static void bits_of_algorithms(bool)
{
    fixture f;
    CUstream s = f.stream();
    problem p(f, {16, 40, 1024, 1, 0, CUDA_R_16BF, CUDA_R_32F, 1, 0}, 0);
    std::vector<uint16_t> ragged(1024 * 40); /* bf16 of 8 significant bits, over 2^16 */
    for (uint32_t i = 0; i < ragged.size(); i++)
        ragged[i] = (uint16_t)(0x3b80 + (i * 2654435761u >> 21));
    OK(cuMemcpyHtoD(p.a, ragged.data(), 1024 * 16 * 2));
    OK(cuMemcpyHtoD(p.b, ragged.data(), 1024 * 40 * 2));
    cublasLtMatmulHeuristicResult_t found[8];
    int n = p.find(found, 8), n_different = 0;
    CUdeviceptr space = f.alloc(1 << 20);
    std::vector<std::vector<float>> results;
    for (int i = 0; i < n; i++) {
        LT(p.run(&found[i].algo, (void *)space, 1 << 20, s));
        results.push_back(p.result());
        LT(p.run(&found[i].algo, (void *)space, 1 << 20, s));
        CHECK(p.result() == results.back());
        n_different += i > 0 && results[i] != results[0];
    }
    CHECK(n == 4 && n_different == 3);
    uint64_t one = 1;
    LT(cublasLtMatrixLayoutSetAttribute(p.lb, CUBLASLT_MATRIX_LAYOUT_COLS, &one, 8));
    LT(cublasLtMatrixLayoutSetAttribute(p.ld, CUBLASLT_MATRIX_LAYOUT_COLS, &one, 8));
    for (int i = 0; i < n; i++)
        if (config(found[i].algo, 0) == 16) {
            LT(p.run(&found[i].algo, (void *)space, 1 << 20, s));
            std::vector<float> alone = p.result();
            CHECK(std::equal(alone.begin(), alone.begin() + 16, results[i].begin()));
        }
}

/* Bytes that were stored: good as they were, refused when they were not made by this version for this card. */
static void stored_algorithm(bool)
{
    fixture f;
    problem p(f, {64, 4, 512, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulAlgo_t algo, copy;
    LT(cublasLtMatmulAlgoInit(p.lt, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16F, CUDA_R_16F, CUDA_R_16F, CUDA_R_16F, 21,
                              &algo));
    uint32_t splits = 8;
    LT(cublasLtMatmulAlgoConfigSetAttribute(&algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, 4));
    memcpy(&copy, &algo, sizeof copy);
    LT(cublasLtMatmulAlgoCheck(p.lt, p.desc, p.la, p.lb, p.ld, p.ld, &copy, &result));
    CHECK(result.workspaceSize == 8 * 64 * 4 * 4);
    CUdeviceptr space = f.alloc(8 * 64 * 4 * 4);
    LT(p.run(&copy, (void *)space, 8 * 64 * 4 * 4, nullptr));
    p.result();
    for (size_t i = 0; i < sizeof copy; i++) {
        memcpy(&copy, &algo, sizeof copy);
        ((uint8_t *)&copy)[i] ^= 1;
        CHECK(cublasLtMatmulAlgoCheck(p.lt, p.desc, p.la, p.lb, p.ld, p.ld, &copy, &result) == NOT_SUPPORTED);
        CHECK(p.run(&copy, (void *)space, 8 * 64 * 4 * 4, nullptr) == NOT_SUPPORTED);
    }
}

/* Captured with everything around it, and replayed over other inputs. */
static void in_a_graph(bool)
{
    fixture f;
    CUstream s = f.stream();
    problem p(f, {16, 4, 64, 1, 0, CUDA_R_16F, CUDA_R_32F, 1, 1}, 0);
    CUgraph graph;
    CUgraphExec exec;
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuMemsetD32Async(p.d, 0x3f800000, 64, s)); /* 1.0 */
    LT(p.run(nullptr, nullptr, 0, s));
    OK(cuStreamEndCapture(s, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 2; round++) {
        OK(cuMemsetD8Async(p.b, 0, p.ldb * p.cols_b * 2, s));
        OK(cuGraphLaunch(exec, s));
        for (float x : p.result())
            CHECK(x == 1.0f);
    }
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static void without_event(bool buggy)
{
    fixture f;
    CUstream copy = f.stream(), compute = f.stream();
    CUevent done = f.event();
    problem p(f, {16, 4, 64, 1, 0, CUDA_R_16F, CUDA_R_32F, 1, 0}, 0);
    uint32_t *host = f.pinned(1024);
    OK(cuMemcpyHtoDAsync(p.b, host, 512, copy));
    OK(cuEventRecord(done, copy));
    if (!buggy)
        OK(cuStreamWaitEvent(compute, done, 0));
    LT(p.run(nullptr, nullptr, 0, compute));
    OK(cuCtxSynchronize());
}

static void wrong_shape(bool buggy)
{
    fixture f;
    problem p(f, {16, 4, 64, 1, 0, CUDA_R_16F, CUDA_R_32F, 1, 0}, 0);
    uint64_t cols = buggy ? 5 : 4;
    LT(cublasLtMatrixLayoutSetAttribute(p.ld, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, 8));
    CHECK(p.run(nullptr, nullptr, 0, nullptr) == (buggy ? INVALID_VALUE : 0));
    OK(cuCtxSynchronize());
}

static void little_workspace(bool buggy)
{
    fixture f;
    problem p(f, {64, 4, 512, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    cublasLtMatmulHeuristicResult_t found;
    CHECK(p.find(&found, 1) == 1 && found.workspaceSize > 0);
    CUdeviceptr space = f.alloc(found.workspaceSize);
    size_t bytes = found.workspaceSize - (buggy ? 1 : 0);
    CHECK(p.run(&found.algo, (void *)space, bytes, nullptr) == (buggy ? INVALID_VALUE : 0));
    OK(cuCtxSynchronize());
}

static void unaligned(bool buggy)
{
    fixture f;
    problem p(f, {64, 4, 128, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    p.b += buggy ? 8 : 16;
    CHECK(p.run(nullptr, nullptr, 0, nullptr) == (buggy ? NOT_SUPPORTED : 0));
    OK(cuCtxSynchronize());
}

static void past_the_end(bool buggy)
{
    fixture f;
    problem p(f, {64, 4, 128, 1, 0, CUDA_R_16F, CUDA_R_16F, 1, 0}, 0);
    p.d += buggy ? 64 * 4 * 4 : 0;
    LT(p.run(nullptr, nullptr, 0, nullptr));
    CHECK_RC(cuCtxSynchronize(), CUDA_SUCCESS);
    if (buggy) {
        p.d += 512;
        cublasStatus_t rc = p.run(nullptr, nullptr, 0, nullptr);
        CHECK(rc != 0 || cuCtxSynchronize() == CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

static void without_bias(bool buggy)
{
    fixture f;
    problem p(f, {16, 4, 64, 1, 0, CUDA_R_16F, CUDA_R_32F, CUBLASLT_EPILOGUE_BIAS, 0}, 0);
    CUdeviceptr none = 0;
    if (buggy)
        LT(cublasLtMatmulDescSetAttribute(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &none, 8));
    CHECK(p.run(nullptr, nullptr, 0, nullptr) == (buggy ? INVALID_VALUE : 0));
    OK(cuCtxSynchronize());
}

static void destroyed(bool buggy)
{
    fixture f;
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t desc;
    LT(cublasLtCreate(&lt));
    LT(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescDestroy(desc));
    if (buggy)
        CHECK(cublasLtMatmulDescDestroy(desc) == INVALID_VALUE);
    LT(cublasLtDestroy(lt));
}

static void leak(bool buggy)
{
    fixture f;
    cublasLtHandle_t lt;
    LT(cublasLtCreate(&lt));
    if (!buggy)
        LT(cublasLtDestroy(lt));
}

const std::vector<hosttest_case> hosttest_gemm = {
    {"products of every shape", nullptr, shapes, nullptr, 0},
    {"heuristics", nullptr, heuristics, nullptr, 0},
    {"bits of algorithms", nullptr, bits_of_algorithms, nullptr, 0},
    {"stored algorithm", nullptr, stored_algorithm, nullptr, 0},
    {"product in a graph", nullptr, in_a_graph, nullptr, 0},
    {"product without an event", "stream-race", without_event, nullptr, 0},
    {"product of a wrong shape", "gemm-layout", wrong_shape, nullptr, 0},
    {"product with little workspace", "gemm-workspace", little_workspace, nullptr, 0},
    {"product of unaligned matrices", "gemm-alignment", unaligned, nullptr, 0},
    {"product past the end", "out-of-bounds", past_the_end, nullptr, 0},
    {"product without its bias", "gemm-bias", without_bias, nullptr, 0},
    {"descriptor destroyed twice", "stale-handle", destroyed, nullptr, 0},
    {"handle of cublasLt left over", "leak-cublaslt", leak, nullptr, 0},
};
