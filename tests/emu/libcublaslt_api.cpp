/* The calls of libcublasLt.so.13. Values of enumerations are NVIDIA's. */
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_set>
#include <vector>

#include "libcublaslt.h"
#include "libcuda_emu.h"

constexpr size_t VERSION = 130002; /* 13.0.2 */

enum status {
    SUCCESS = 0,
    NOT_INITIALIZED = 1,
    INVALID_VALUE = 7,
    ARCH_MISMATCH = 8,
    EXECUTION_FAILED = 13,
    NOT_SUPPORTED = 15
};
enum { COMPUTE_32F = 68 };
enum { REDUCTION_NONE = 0, REDUCTION_COMPUTE_TYPE = 2, REDUCTION_OUTPUT_TYPE = 4 };
enum { DESC_TRANSA = 3, DESC_TRANSB = 4, DESC_EPILOGUE = 7, DESC_BIAS_POINTER = 8, DESC_BIAS_DATA_TYPE = 26 };
enum { LAYOUT_TYPE = 0, LAYOUT_ORDER = 1, LAYOUT_ROWS = 2, LAYOUT_COLS = 3, LAYOUT_LD = 4 };
enum { PREF_MAX_WORKSPACE = 1, PREF_REDUCTION_MASK = 3, PREF_MIN_ALIGNMENT_A = 5, PREF_MIN_ALIGNMENT_D = 8 };
enum {
    CONFIG_ID = 0,
    CONFIG_TILE = 1,
    CONFIG_SPLITK = 2,
    CONFIG_REDUCTION = 3,
    CONFIG_SWIZZLE = 4,
    CONFIG_CUSTOM = 5,
    CONFIG_STAGES = 6
};
enum {
    CAP_SPLITK = 0,
    CAP_REDUCTION_MASK = 1,
    CAP_EPILOGUE_MASK = 10,
    CAP_MIN_ALIGNMENT_A = 14,
    CAP_MIN_ALIGNMENT_D = 17
};

enum kind { HANDLE, DESC, LAYOUT, PREFERENCE };
struct object {
    enum kind kind;
    virtual ~object() = default;
};
struct handle : object {
};
struct desc : object {
    int32_t trans_a = 0, trans_b = 0, bias_type = -1;
    uint32_t epilogue = GEMM_DEFAULT;
    uint64_t bias = 0;
};
struct layout : object {
    int32_t type = GEMM_F32;
    uint64_t rows = 0, cols = 0;
    int64_t ld = 0;
};
struct preference : object {
    uint64_t workspace_max = 0;
    uint32_t reduction_mask = 7;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

/* Plain bytes, as NVIDIA's are: they may be stored, and must be told apart from another version's when they come back. */
struct algo {
    uint32_t magic, version, capability, id;
    uint8_t types[4]; /* A B C D */
    uint32_t tile, splits, reduction, swizzle, custom, stages;
    uint64_t reserved;
    uint32_t unused, checksum;
};
struct algo_bytes {
    uint64_t data[8];
};
static_assert(sizeof(algo) == sizeof(algo_bytes), "an algorithm has 64 bytes");
constexpr uint32_t ALGO_MAGIC = 0x746c4d45;

struct heuristic_result {
    algo_bytes algo;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};

/* --- objects ------------------------------------------------------------------------------------------------------------- */

struct object_set {
    std::shared_mutex lock;
    std::unordered_set<object *> live;
};

static object_set &objects()
{
    static object_set *set = new object_set;
    return *set;
}

static const char *const kind_names[] = {"handle", "matmul descriptor", "matrix layout", "preference"};

template <class T> static T *object_new(enum kind kind)
{
    T *o = new T;
    o->kind = kind;
    std::lock_guard<std::shared_mutex> guard(objects().lock);
    objects().live.insert(o);
    return o;
}

template <class T> static T *object_of(void *given, enum kind kind, const char *call)
{
    std::lock_guard<std::shared_mutex> guard(objects().lock);
    auto it = objects().live.find((object *)given);
    if (it != objects().live.end() && (*it)->kind == kind)
        return static_cast<T *>(*it);
    emu_misuse("stale-handle", "%s: %p is not a live %s", call, given, kind_names[kind]);
    return nullptr;
}

static int object_free(void *given, enum kind kind, const char *call)
{
    object *o = object_of<object>(given, kind, call);
    if (!o)
        return INVALID_VALUE;
    std::lock_guard<std::shared_mutex> guard(objects().lock);
    objects().live.erase(o);
    delete o;
    return SUCCESS;
}

__attribute__((destructor)) static void report_leaks()
{
    if (emu_leaks_count())
        for (object *o : objects().live)
            emu_misuse("leak-cublaslt", "a %s was not destroyed", kind_names[o->kind]);
}

/* --- attributes ----------------------------------------------------------------------------------------------------------- */

template <class T> static int take(T *to, const void *value, size_t bytes)
{
    if (!value || bytes != sizeof(T))
        return INVALID_VALUE;
    memcpy(to, value, sizeof(T));
    return SUCCESS;
}

template <class T> static int give(T from, void *value, size_t room, size_t *written)
{
    if (written)
        *written = sizeof(T);
    if (!value || room < sizeof(T))
        return room == 0 && written ? SUCCESS : INVALID_VALUE;
    memcpy(value, &from, sizeof(T));
    return SUCCESS;
}

static int unknown_attribute(const char *call, int attribute)
{
    emu_misuse("not-emulated", "%s: attribute %d", call, attribute);
    return NOT_SUPPORTED;
}

static bool known_epilogue(uint32_t e)
{
    return e == GEMM_DEFAULT || e == GEMM_BIAS || e == GEMM_GELU_BIAS;
}

static int set_desc(desc *d, int attribute, const void *value, size_t bytes)
{
    switch (attribute) {
    case DESC_TRANSA:
        return take(&d->trans_a, value, bytes);
    case DESC_TRANSB:
        return take(&d->trans_b, value, bytes);
    case DESC_EPILOGUE:
        return take(&d->epilogue, value, bytes);
    case DESC_BIAS_POINTER:
        return take(&d->bias, value, bytes);
    case DESC_BIAS_DATA_TYPE:
        return take(&d->bias_type, value, bytes);
    default:
        return unknown_attribute("cublasLtMatmulDescSetAttribute", attribute);
    }
}

static int set_layout(layout *l, int attribute, const void *value, size_t bytes)
{
    switch (attribute) {
    case LAYOUT_TYPE:
        return take(&l->type, value, bytes);
    case LAYOUT_ROWS:
        return take(&l->rows, value, bytes);
    case LAYOUT_COLS:
        return take(&l->cols, value, bytes);
    case LAYOUT_LD:
        return take(&l->ld, value, bytes);
    default:
        return unknown_attribute("cublasLtMatrixLayoutSetAttribute", attribute);
    }
}

static int set_preference(preference *p, int attribute, const void *value, size_t bytes)
{
    if (attribute == PREF_MAX_WORKSPACE)
        return take(&p->workspace_max, value, bytes);
    if (attribute == PREF_REDUCTION_MASK)
        return take(&p->reduction_mask, value, bytes);
    if (attribute >= PREF_MIN_ALIGNMENT_A && attribute <= PREF_MIN_ALIGNMENT_D)
        return take(&p->alignment[attribute - PREF_MIN_ALIGNMENT_A], value, bytes);
    return unknown_attribute("cublasLtMatmulPreferenceSetAttribute", attribute);
}

/* --- algorithms ------------------------------------------------------------------------------------------------------------ */

/* What there is, in the order of preference for many columns. */
static const struct known_algo {
    uint32_t id;
    gemm_order order;
    uint32_t alignment; /* of pointers and columns, in bytes */
    bool splits;
    uint64_t n_min, k_min;
    float slow_few, slow_many; /* times the best time, with few and with many columns */
} known_algos[] = {
    {24, {16, 64, 1, false}, 16, false, 8, 64, 2.0f, 1.0f},
    {16, {16, 0, 1, false}, 16, false, 1, 1, 1.2f, 1.3f},
    {6, {8, 0, 1, false}, 4, false, 1, 1, 1.5f, 2.5f},
    {21, {16, 0, 4, false}, 16, true, 1, 256, 1.0f, 1.9f},
};
constexpr uint64_t FEW_COLUMNS = 32;

static const known_algo *algo_by_id(uint32_t id)
{
    for (const known_algo &k : known_algos)
        if (k.id == id)
            return &k;
    return nullptr;
}

static uint32_t checksum(const algo &a)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < offsetof(algo, checksum); i++)
        h = (h ^ ((const uint8_t *)&a)[i]) * 16777619u;
    return h;
}

static algo_bytes seal(algo a)
{
    a.checksum = checksum(a);
    algo_bytes bytes;
    memcpy(&bytes, &a, sizeof bytes);
    return bytes;
}

static algo make_algo(const known_algo &k, const int types[4])
{
    algo a = {};
    a.magic = ALGO_MAGIC;
    a.version = VERSION / 10000;
    a.capability = (uint32_t)emu_compute_capability();
    a.id = k.id;
    for (int i = 0; i < 4; i++)
        a.types[i] = (uint8_t)types[i];
    a.splits = k.order.splits;
    a.reduction = k.splits ? REDUCTION_COMPUTE_TYPE : REDUCTION_NONE;
    return a;
}

/* Stored bytes that come from another version, another card, or from nowhere. */
static bool read_algo(const algo_bytes *bytes, algo *out)
{
    memcpy(out, bytes, sizeof *out);
    return out->magic == ALGO_MAGIC && out->version == VERSION / 10000 &&
           out->capability == (uint32_t)emu_compute_capability() && out->checksum == checksum(*out) &&
           algo_by_id(out->id);
}

/* --- problems --------------------------------------------------------------------------------------------------------------- */

struct problem {
    const desc *what;
    const layout *a, *b, *c, *d;
    uint64_t m, n, k;
};

static bool half_type(int type)
{
    return type == GEMM_F16 || type == GEMM_BF16;
}

static bool known_type(int type)
{
    return type == GEMM_F32 || half_type(type);
}

static bool layout_is_sound(const layout &l)
{
    return known_type(l.type) && l.rows > 0 && l.cols > 0 && l.ld >= (int64_t)l.rows;
}

static bool layout_is(const layout &l, uint64_t rows, uint64_t cols)
{
    return l.rows == rows && l.cols == cols;
}

/* Shapes that do not fit each other are the caller's mistake. */
static int check_problem(problem *p, const char *call)
{
    for (const layout *l : {p->a, p->b, p->c, p->d})
        if (!layout_is_sound(*l)) {
            emu_misuse("gemm-layout", "%s: a matrix of %llu x %llu with leading dimension %lld", call,
                       (unsigned long long)l->rows, (unsigned long long)l->cols, (long long)l->ld);
            return INVALID_VALUE;
        }
    p->m = p->what->trans_a ? p->a->cols : p->a->rows;
    p->k = p->what->trans_a ? p->a->rows : p->a->cols;
    p->n = p->what->trans_b ? p->b->rows : p->b->cols;
    uint64_t k_of_b = p->what->trans_b ? p->b->cols : p->b->rows;
    if (k_of_b != p->k || !layout_is(*p->c, p->m, p->n) || !layout_is(*p->d, p->m, p->n)) {
        emu_misuse("gemm-layout", "%s: op(A) is %llu x %llu, op(B) %llu x %llu, C %llu x %llu, D %llu x %llu", call,
                   (unsigned long long)p->m, (unsigned long long)p->k, (unsigned long long)k_of_b,
                   (unsigned long long)p->n, (unsigned long long)p->c->rows, (unsigned long long)p->c->cols,
                   (unsigned long long)p->d->rows, (unsigned long long)p->d->cols);
        return INVALID_VALUE;
    }
    return SUCCESS;
}

static bool types_are_supported(const problem &p)
{
    bool inputs = half_type(p.a->type) && p.b->type == p.a->type;
    bool result = p.c->type == p.d->type && (p.d->type == p.a->type || p.d->type == GEMM_F32);
    return inputs && result && known_epilogue(p.what->epilogue);
}

static bool columns_are_aligned(const problem &p, uint32_t alignment)
{
    for (const layout *l : {p.a, p.b, p.c, p.d})
        if ((uint64_t)l->ld * gemm_type_bytes(l->type) % alignment != 0)
            return false;
    return true;
}

static bool algo_can(const problem &p, const algo &a)
{
    const known_algo &k = *algo_by_id(a.id);
    const int types[4] = {p.a->type, p.b->type, p.c->type, p.d->type};
    for (int i = 0; i < 4; i++)
        if (a.types[i] != types[i])
            return false;
    bool splits_ok =
        a.splits == 1 || (k.splits && a.splits <= 16 && p.k >= 32ull * a.splits && a.reduction != REDUCTION_NONE);
    return types_are_supported(p) && columns_are_aligned(p, k.alignment) && p.n >= k.n_min && p.k >= k.k_min &&
           splits_ok;
}

static uint64_t algo_workspace(const problem &p, const algo &a)
{
    return a.splits > 1 ? a.splits * p.m * p.n * sizeof(float) : 0;
}

static heuristic_result result_of(const problem &p, const algo &a)
{
    heuristic_result r = {};
    r.algo = seal(a);
    r.workspace_bytes = algo_workspace(p, a);
    r.state = SUCCESS;
    r.waves = (float)((p.m + 127) / 128 * ((p.n + 127) / 128)) / 108;
    return r;
}

/* All algorithms that can, the best for so many columns first. */
static std::vector<heuristic_result> find_algos(const problem &p, const preference &pref)
{
    std::vector<std::pair<float, heuristic_result>> found;
    const int types[4] = {p.a->type, p.b->type, p.c->type, p.d->type};
    for (const known_algo &k : known_algos) {
        algo a = make_algo(k, types);
        bool aligned = *std::min_element(pref.alignment, pref.alignment + 4) >= k.alignment;
        bool allowed = a.splits == 1 || (pref.reduction_mask & a.reduction) != 0;
        if (aligned && allowed && algo_can(p, a) && algo_workspace(p, a) <= pref.workspace_max)
            found.push_back({p.n <= FEW_COLUMNS ? k.slow_few : k.slow_many, result_of(p, a)});
    }
    std::stable_sort(found.begin(), found.end(), [](const auto &x, const auto &y) { return x.first < y.first; });
    std::vector<heuristic_result> results;
    for (auto &f : found)
        results.push_back(f.second);
    return results;
}

static bool read_problem(void *desc_given, void *a, void *b, void *c, void *d, const char *call, problem *out)
{
    out->what = object_of<desc>(desc_given, DESC, call);
    out->a = object_of<layout>(a, LAYOUT, call);
    out->b = object_of<layout>(b, LAYOUT, call);
    out->c = object_of<layout>(c, LAYOUT, call);
    out->d = object_of<layout>(d, LAYOUT, call);
    return out->what && out->a && out->b && out->c && out->d;
}

/* --- running ------------------------------------------------------------------------------------------------------------------ */

/* A product as it waits in a stream: everything by value, addresses of the device. */
struct product {
    gemm g;
    uint64_t a, b, c, d, bias, workspace; /* c, bias, workspace: 0 when there is none */
    layout la, lb, lc, ld;
    size_t workspace_bytes;
};

static uint64_t layout_bytes(const layout &l)
{
    return ((l.cols - 1) * (uint64_t)l.ld + l.rows) * gemm_type_bytes(l.type);
}

static emu_span span_of(uint64_t address, const layout &l, bool write)
{
    size_t bytes = gemm_type_bytes(l.type);
    return {address, l.rows * bytes, (uint64_t)l.ld * bytes, (uint32_t)l.cols, write};
}

static bool resolve(uint64_t address, uint64_t bytes, bool write, uint8_t **out)
{
    *out = address ? (uint8_t *)emu_resolve(address, bytes, write) : nullptr;
    return *out || !address;
}

static void product_run(void *argument)
{
    const product &p = *(const product *)argument;
    gemm g = p.g;
    uint8_t *a, *b, *c, *d, *bias, *workspace;
    if (!resolve(p.a, layout_bytes(p.la), false, &a) || !resolve(p.b, layout_bytes(p.lb), false, &b) ||
        !resolve(p.c, layout_bytes(p.lc), false, &c) || !resolve(p.d, layout_bytes(p.ld), true, &d) ||
        !resolve(p.bias, g.m * gemm_type_bytes(g.bias_type), false, &bias) ||
        !resolve(p.workspace, p.workspace_bytes, true, &workspace))
        return;
    g.a.bytes = a;
    g.b.bytes = b;
    g.c.bytes = c;
    g.d = d;
    g.bias = bias;
    g.workspace = (float *)workspace;
    gemm_run(g);
}

static void product_free(void *argument)
{
    delete (product *)argument;
}

static int enqueue(product *p, double slow, void *stream)
{
    std::vector<emu_span> spans = {span_of(p->a, p->la, false), span_of(p->b, p->lb, false),
                                   span_of(p->d, p->ld, true)};
    if (p->c && p->c != p->d)
        spans.push_back(span_of(p->c, p->lc, false));
    auto plain = [&](uint64_t address, uint64_t bytes, bool write) {
        if (address)
            spans.push_back({address, bytes, bytes, 1, write});
    };
    plain(p->bias, p->g.m * gemm_type_bytes(p->g.bias_type), false);
    plain(p->workspace, p->workspace_bytes, true);
    char name[96];
    snprintf(name, sizeof name, "cublasLtMatmul of %llu x %llu x %llu", (unsigned long long)p->g.m,
             (unsigned long long)p->g.n, (unsigned long long)p->g.k);
    emu_work work = {name,
                     spans.data(),
                     spans.size(),
                     product_run,
                     product_free,
                     p,
                     (uint64_t)(2.0 * (double)(p->g.m * p->g.n) * (double)p->g.k * slow)};
    return emu_enqueue(stream, &work) == 0 ? SUCCESS : EXECUTION_FAILED;
}

static int check_pointers(const product &p, uint32_t alignment)
{
    for (uint64_t address : {p.a, p.b, p.c, p.d})
        if (address % alignment != 0) {
            emu_misuse("gemm-alignment", "cublasLtMatmul: 0x%llx, where the algorithm needs %u bytes of alignment",
                       (unsigned long long)address, alignment);
            return NOT_SUPPORTED;
        }
    if (p.bias % gemm_type_bytes(p.g.bias_type) == 0 && p.workspace % 16 == 0)
        return SUCCESS;
    emu_misuse("gemm-alignment", "cublasLtMatmul: bias at 0x%llx, workspace at 0x%llx", (unsigned long long)p.bias,
               (unsigned long long)p.workspace);
    return INVALID_VALUE;
}

static gemm gemm_of(const problem &p, const algo &a, float alpha, float beta)
{
    gemm g = {};
    g.a = {nullptr, p.a->type, p.a->ld, p.what->trans_a != 0};
    g.b = {nullptr, p.b->type, p.b->ld, p.what->trans_b != 0};
    g.c = {nullptr, p.c->type, p.c->ld, false};
    g.d_type = p.d->type;
    g.ldd = p.d->ld;
    g.bias_type = p.what->bias_type >= 0 ? p.what->bias_type : p.d->type;
    g.m = p.m;
    g.n = p.n;
    g.k = p.k;
    g.alpha = alpha;
    g.beta = beta;
    g.epilogue = (int)p.what->epilogue;
    g.order = algo_by_id(a.id)->order;
    g.order.splits = a.splits;
    g.order.round_parts = a.reduction == REDUCTION_OUTPUT_TYPE;
    return g;
}

static bool has_bias(const problem &p)
{
    return p.what->epilogue == GEMM_BIAS || p.what->epilogue == GEMM_GELU_BIAS;
}

/* Without an algorithm given it asks itself. */
static int choose_algo(const problem &p, const algo_bytes *given, size_t workspace_bytes, algo *out)
{
    if (given)
        return read_algo(given, out) && algo_can(p, *out) ? SUCCESS : NOT_SUPPORTED;
    preference pref;
    pref.workspace_max = workspace_bytes;
    std::vector<heuristic_result> found = find_algos(p, pref);
    return !found.empty() && read_algo(&found[0].algo, out) ? SUCCESS : NOT_SUPPORTED;
}

static int check_extras(const problem &p, const algo &chosen, const void *workspace, size_t workspace_bytes)
{
    uint64_t needed = algo_workspace(p, chosen);
    if (needed > workspace_bytes || (needed > 0 && !workspace)) {
        emu_misuse("gemm-workspace", "cublasLtMatmul: the algorithm needs %llu bytes, %zu are given",
                   (unsigned long long)needed, workspace_bytes);
        return INVALID_VALUE;
    }
    if (has_bias(p) && !p.what->bias) {
        emu_misuse("gemm-bias", "cublasLtMatmul: an epilogue with bias, and no bias");
        return INVALID_VALUE;
    }
    return SUCCESS;
}

/* --- the interface -------------------------------------------------------------------------------------------------------------- */

#define ENTER()                                                                                                        \
    if (int code = emu_call(__func__))                                                                                 \
    return code

#pragma GCC visibility push(default)
extern "C" {

size_t cublasLtGetVersion(void)
{
    return VERSION;
}

const char *cublasLtGetStatusName(int status)
{
    switch (status) {
    case SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_UNKNOWN";
    }
}

const char *cublasLtGetStatusString(int status)
{
    return status == SUCCESS ? "success" : cublasLtGetStatusName(status);
}

int cublasLtCreate(void **out)
{
    ENTER();
    if (!out)
        return INVALID_VALUE;
    if (emu_check_context() != 0) {
        emu_misuse("no-context", "cublasLtCreate on a thread without a current context");
        return NOT_INITIALIZED;
    }
    *out = object_new<handle>(HANDLE);
    return SUCCESS;
}

int cublasLtDestroy(void *given)
{
    ENTER();
    return object_free(given, HANDLE, __func__);
}

int cublasLtMatmulDescCreate(void **out, int compute_type, int scale_type)
{
    ENTER();
    if (!out || compute_type != COMPUTE_32F || scale_type != GEMM_F32) {
        emu_misuse("not-emulated", "cublasLtMatmulDescCreate: compute type %d, scale type %d", compute_type,
                   scale_type);
        return NOT_SUPPORTED;
    }
    *out = object_new<desc>(DESC);
    return SUCCESS;
}

int cublasLtMatmulDescSetAttribute(void *given, int attribute, const void *value, size_t bytes)
{
    ENTER();
    desc *d = object_of<desc>(given, DESC, __func__);
    return d ? set_desc(d, attribute, value, bytes) : INVALID_VALUE;
}

int cublasLtMatmulDescDestroy(void *given)
{
    ENTER();
    return object_free(given, DESC, __func__);
}

int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    ENTER();
    if (!out || !known_type(type))
        return INVALID_VALUE;
    layout *l = object_new<layout>(LAYOUT);
    l->type = type;
    l->rows = rows;
    l->cols = cols;
    l->ld = ld;
    *out = l;
    return SUCCESS;
}

int cublasLtMatrixLayoutSetAttribute(void *given, int attribute, const void *value, size_t bytes)
{
    ENTER();
    layout *l = object_of<layout>(given, LAYOUT, __func__);
    return l ? set_layout(l, attribute, value, bytes) : INVALID_VALUE;
}

int cublasLtMatrixLayoutDestroy(void *given)
{
    ENTER();
    return object_free(given, LAYOUT, __func__);
}

int cublasLtMatmulPreferenceCreate(void **out)
{
    ENTER();
    if (!out)
        return INVALID_VALUE;
    *out = object_new<preference>(PREFERENCE);
    return SUCCESS;
}

int cublasLtMatmulPreferenceSetAttribute(void *given, int attribute, const void *value, size_t bytes)
{
    ENTER();
    preference *p = object_of<preference>(given, PREFERENCE, __func__);
    return p ? set_preference(p, attribute, value, bytes) : INVALID_VALUE;
}

int cublasLtMatmulPreferenceDestroy(void *given)
{
    ENTER();
    return object_free(given, PREFERENCE, __func__);
}

int cublasLtMatmulAlgoGetHeuristic(void *lt, void *desc_given, void *a, void *b, void *c, void *d, void *pref,
                                   int n_wanted, heuristic_result *results, int *n_found)
{
    ENTER();
    problem p;
    const preference *prefers = object_of<preference>(pref, PREFERENCE, __func__);
    if (!object_of<handle>(lt, HANDLE, __func__) || !prefers || !read_problem(desc_given, a, b, c, d, __func__, &p) ||
        n_wanted < 1 || !results || !n_found)
        return INVALID_VALUE;
    int rc = check_problem(&p, __func__);
    if (rc != SUCCESS)
        return rc;
    std::vector<heuristic_result> found = find_algos(p, *prefers);
    *n_found = std::min(n_wanted, (int)found.size());
    std::copy(found.begin(), found.begin() + *n_found, results);
    return *n_found > 0 ? SUCCESS : NOT_SUPPORTED;
}

int cublasLtMatmulAlgoInit(void *lt, int compute_type, int scale_type, int a_type, int b_type, int c_type, int d_type,
                           int id, algo_bytes *out)
{
    ENTER();
    const known_algo *k = algo_by_id((uint32_t)id);
    if (!object_of<handle>(lt, HANDLE, __func__) || !out)
        return INVALID_VALUE;
    if (!k || compute_type != COMPUTE_32F || scale_type != GEMM_F32)
        return NOT_SUPPORTED;
    const int types[4] = {a_type, b_type, c_type, d_type};
    *out = seal(make_algo(*k, types));
    return SUCCESS;
}

int cublasLtMatmulAlgoCheck(void *lt, void *desc_given, void *a, void *b, void *c, void *d, const algo_bytes *given,
                            heuristic_result *result)
{
    ENTER();
    problem p;
    algo chosen;
    if (!object_of<handle>(lt, HANDLE, __func__) || !read_problem(desc_given, a, b, c, d, __func__, &p) || !given ||
        !result)
        return INVALID_VALUE;
    int rc = check_problem(&p, __func__);
    if (rc != SUCCESS)
        return rc;
    if (!read_algo(given, &chosen) || !algo_can(p, chosen))
        return NOT_SUPPORTED;
    *result = result_of(p, chosen);
    return SUCCESS;
}

int cublasLtMatmulAlgoCapGetAttribute(const algo_bytes *given, int attribute, void *value, size_t room, size_t *written)
{
    ENTER();
    algo a;
    if (!given || !read_algo(given, &a))
        return INVALID_VALUE;
    const known_algo &k = *algo_by_id(a.id);
    if (attribute >= CAP_MIN_ALIGNMENT_A && attribute <= CAP_MIN_ALIGNMENT_D)
        return give<uint32_t>(k.alignment, value, room, written);
    switch (attribute) {
    case CAP_SPLITK:
        return give<int32_t>(k.splits, value, room, written);
    case CAP_REDUCTION_MASK:
        return give<uint32_t>(k.splits ? REDUCTION_COMPUTE_TYPE | REDUCTION_OUTPUT_TYPE : REDUCTION_NONE, value, room,
                              written);
    case CAP_EPILOGUE_MASK:
        return give<uint32_t>(GEMM_DEFAULT | GEMM_BIAS | GEMM_GELU_BIAS, value, room, written);
    default:
        return unknown_attribute(__func__, attribute);
    }
}

int cublasLtMatmulAlgoConfigSetAttribute(algo_bytes *given, int attribute, const void *value, size_t bytes)
{
    ENTER();
    algo a;
    if (!given || !read_algo(given, &a))
        return INVALID_VALUE;
    uint32_t *const fields[] = {nullptr, &a.tile, &a.splits, &a.reduction, &a.swizzle, &a.custom, &a.stages};
    if (attribute < CONFIG_TILE || attribute > CONFIG_STAGES)
        return INVALID_VALUE;
    int rc = take(fields[attribute], value, bytes);
    if (rc == SUCCESS)
        *given = seal(a);
    return rc;
}

int cublasLtMatmulAlgoConfigGetAttribute(const algo_bytes *given, int attribute, void *value, size_t room,
                                         size_t *written)
{
    ENTER();
    algo a;
    if (!given || !read_algo(given, &a))
        return INVALID_VALUE;
    const uint32_t fields[] = {a.id, a.tile, a.splits, a.reduction, a.swizzle, a.custom, a.stages};
    if (attribute < CONFIG_ID || attribute > CONFIG_STAGES)
        return INVALID_VALUE;
    return give(fields[attribute], value, room, written);
}

int cublasLtMatmul(void *lt, void *desc_given, const void *alpha, const void *a_bytes, void *a, const void *b_bytes,
                   void *b, const void *beta, const void *c_bytes, void *c, void *d_bytes, void *d,
                   const algo_bytes *given, void *workspace, size_t workspace_bytes, void *stream)
{
    ENTER();
    problem p;
    algo chosen;
    if (!object_of<handle>(lt, HANDLE, __func__) || !read_problem(desc_given, a, b, c, d, __func__, &p) || !alpha ||
        !beta || !a_bytes || !b_bytes || !d_bytes)
        return INVALID_VALUE;
    int rc = check_problem(&p, __func__);
    if (rc == SUCCESS)
        rc = choose_algo(p, given, workspace_bytes, &chosen);
    if (rc == SUCCESS)
        rc = check_extras(p, chosen, workspace, workspace_bytes);
    if (rc != SUCCESS)
        return rc;
    auto work = std::make_unique<product>();
    work->g = gemm_of(p, chosen, *(const float *)alpha, *(const float *)beta);
    work->a = (uint64_t)a_bytes;
    work->b = (uint64_t)b_bytes;
    work->c = work->g.beta != 0 ? (uint64_t)c_bytes : 0;
    work->d = (uint64_t)d_bytes;
    work->bias = has_bias(p) ? p.what->bias : 0;
    work->workspace_bytes = algo_workspace(p, chosen);
    work->workspace = work->workspace_bytes > 0 ? (uint64_t)workspace : 0;
    work->la = *p.a;
    work->lb = *p.b;
    work->lc = *p.c;
    work->ld = *p.d;
    const known_algo &k = *algo_by_id(chosen.id);
    rc = check_pointers(*work, k.alignment);
    if (rc != SUCCESS)
        return rc;
    return enqueue(work.release(), p.n <= FEW_COLUMNS ? k.slow_few : k.slow_many, stream);
}
}
#pragma GCC visibility pop
