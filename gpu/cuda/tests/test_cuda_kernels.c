/* embed, norm, gelu, matmul, sample and hash: each against its twin at the edges of its shapes, and bit for bit where a result may
 * not depend on what else is in the launch. And rows of a weight to int8. */
#include <float.h>
#include <math.h>

#include "gpu/cuda/kernel_twins.h"
#include "gpu/cuda/quantise.h"
#include "gpu/cuda/tests/kernel_harness.h"
#include "model/sampler.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const enum model_dtype halves[] = {MODEL_F16, MODEL_BF16};

enum {
    NAN_HALF = 0x7fff, /* in both types */
    UNTOUCHED = 0xa5   /* every byte of what a kernel must not write */
};

static const char *half_name(enum model_dtype half)
{
    return half == MODEL_F16 ? "f16" : "bf16";
}

/* What one rounding may move a value by, relative to it; and by itself, where halves are subnormal. */
static double half_unit(enum model_dtype half)
{
    return half == MODEL_F16 ? 0x1p-11 : 0x1p-8;
}

static double half_least(enum model_dtype half)
{
    return half == MODEL_F16 ? 0x1p-25 : 0x1p-134;
}

/* Kernel and twin round the same value once each, and what their sums differ by comes on top. */
static double allowed_half(enum model_dtype half, double want, double sums)
{
    return 2 * half_unit(half) * fabs(want) + 2 * half_least(half) + sums;
}

static struct kernel_buffer counts_new(struct cuda_counts counts)
{
    struct kernel_buffer b = kernel_buffer_new(1, sizeof counts);
    memcpy(b.host, &counts, sizeof counts);
    kernel_buffer_upload(&b);
    return b;
}

static void fill_f32(const struct kernel_buffer *b, float offset, float size, uint64_t seed)
{
    float *to = b->host;
    for (size_t i = 0; i < b->bytes / sizeof *to; i++)
        to[i] = offset + size * kernel_uniform(&seed);
}

static void fill_half(enum model_dtype half, const struct kernel_buffer *b, float size, uint64_t seed)
{
    uint16_t *to = b->host;
    for (size_t i = 0; i < b->bytes / sizeof *to; i++)
        to[i] = cuda_twin_narrow(half, (double)(size * kernel_uniform(&seed)));
}

static void *downloaded(const struct kernel_buffer *b)
{
    void *bytes = malloc(b->bytes ? b->bytes : 1);
    assert_non_null(bytes);
    kernel_buffer_download(b, bytes);
    return bytes;
}

static void assert_untouched(const void *bytes, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++)
        if (((const uint8_t *)bytes)[i] != UNTOUCHED)
            fail_msg("byte %zu behind the last row was written", i - begin);
}

/* ---- embed ---- */

static void embed_case(enum model_dtype half, uint32_t e, uint32_t n_rows)
{
    enum { VOCAB = 5, SPARE = 2 };
    struct kernel_buffer counts = counts_new((struct cuda_counts){.n_rows = n_rows});
    struct kernel_buffer tokens = kernel_buffer_new(n_rows + SPARE, sizeof(int32_t));
    struct kernel_buffer embedding = kernel_buffer_new((size_t)VOCAB * e, sizeof(uint16_t));
    struct kernel_buffer x = kernel_buffer_new((size_t)(n_rows + SPARE) * e, sizeof(float));
    fill_half(half, &embedding, 3, e);
    for (uint32_t i = 0; i < n_rows + SPARE; i++)
        ((int32_t *)tokens.host)[i] = i < n_rows ? (int32_t)(VOCAB - 1 - i % VOCAB) : 1 << 30; /* far outside */
    memset(x.host, UNTOUCHED, x.bytes);
    kernel_buffer_upload(&tokens);
    kernel_buffer_upload(&embedding);
    kernel_buffer_upload(&x);
    for (int on_device = 0; on_device < 2; on_device++) {
        const struct cuda_embed_args args = {kernel_at(&counts, on_device), kernel_at(&tokens, on_device),
                                             kernel_at(&embedding, on_device), kernel_at(&x, on_device), e};
        if (on_device)
            kernel_run(kernel_name("embed_%s", half_name(half)), n_rows + SPARE, 1, 1, CUDA_ROW_THREADS, 0, &args);
        else
            cuda_twin_embed(half, &args);
    }
    void *got = downloaded(&x);
    assert_memory_equal(got, x.host, x.bytes);
    free(got);
    kernel_buffer_free(&counts);
    kernel_buffer_free(&tokens);
    kernel_buffer_free(&embedding);
    kernel_buffer_free(&x);
}

static void embed_is_exact(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {8, 136, 1024, 4104, 8192};
    for (size_t h = 0; h < COUNT(halves); h++)
        for (size_t i = 0; i < COUNT(sizes); i++)
            embed_case(halves[h], sizes[i], 1 + (uint32_t)i % 3 * 3);
}

/* A row that begins more than 4 Gi elements into the embedding. */
static void embed_reaches_far_rows(void **state)
{
    (void)state;
    enum { E = 8192 };
    const int32_t token = 600000;
    const size_t row_bytes = E * sizeof(uint16_t), at = (size_t)token * row_bytes, unit = kernel_granularity();
    const size_t begin = at / unit * unit, bytes = (at + row_bytes - begin + unit - 1) / unit * unit;
    const uint64_t reserved = kernel_reserve(begin + bytes);
    struct kernel_buffer counts = counts_new((struct cuda_counts){.n_rows = 1});
    struct kernel_buffer tokens = kernel_buffer_new(1, sizeof(int32_t)), x = kernel_buffer_new(E, sizeof(float));
    uint16_t row[E];
    for (uint32_t i = 0; i < E; i++)
        row[i] = cuda_twin_narrow(MODEL_F16, i);
    kernel_map(reserved + begin, bytes);
    kernel_copy_to(reserved + at, row, sizeof row);
    memcpy(tokens.host, &token, sizeof token);
    kernel_buffer_upload(&tokens);
    const struct cuda_embed_args args = {kernel_at(&counts, true), kernel_at(&tokens, true),
                                         (const uint16_t *)(uintptr_t)reserved, kernel_at(&x, true), E};
    kernel_run("embed_f16", 1, 1, 1, CUDA_ROW_THREADS, 0, &args);
    float *got = downloaded(&x);
    for (uint32_t i = 0; i < E; i++)
        assert_true(got[i] == cuda_twin_widen(MODEL_F16, row[i]));
    free(got);
    kernel_unmap(reserved + begin, bytes);
    kernel_unreserve(reserved, begin + bytes);
    kernel_buffer_free(&counts);
    kernel_buffer_free(&tokens);
    kernel_buffer_free(&x);
}

/* ---- norm ---- */

struct norm_case {
    const char *name;
    uint32_t e;
    float offset, size; /* of x */
    bool both;          /* norms */
    bool chosen;        /* rows */
};

struct norm_world {
    struct kernel_buffer counts, rows, x, gain1, bias1, gain2, bias2, y1, y2;
};

enum { NORM_ROWS = 3, NORM_SPARE = 2 };

static struct norm_world norm_world_new(const struct norm_case *c)
{
    static const uint32_t chosen[NORM_ROWS + NORM_SPARE] = {4, 0, 4, 1u << 31, 1u << 31};
    const size_t n = NORM_ROWS + NORM_SPARE;
    struct norm_world w = {
        .counts = counts_new(c->chosen ? (struct cuda_counts){.n_rows = 1, .n_logits = NORM_ROWS}
                                       : (struct cuda_counts){.n_rows = NORM_ROWS, .n_logits = 1}),
        .rows = kernel_buffer_new(n, sizeof(uint32_t)),
        .x = kernel_buffer_new(n * c->e, sizeof(float)),
        .gain1 = kernel_buffer_new(c->e, sizeof(float)),
        .bias1 = kernel_buffer_new(c->e, sizeof(float)),
        .gain2 = kernel_buffer_new(c->e, sizeof(float)),
        .bias2 = kernel_buffer_new(c->e, sizeof(float)),
        .y1 = kernel_buffer_new(n * c->e, sizeof(uint16_t)),
        .y2 = kernel_buffer_new(n * c->e, sizeof(uint16_t)),
    };
    memcpy(w.rows.host, chosen, sizeof chosen);
    fill_f32(&w.x, c->offset, c->size, c->e);
    fill_f32(&w.gain1, 1, 0.5f, 1);
    fill_f32(&w.bias1, 0, 0.5f, 2);
    fill_f32(&w.gain2, 1, 0.5f, 3);
    fill_f32(&w.bias2, 0, 0.5f, 4);
    memset(w.y1.host, UNTOUCHED, w.y1.bytes);
    memset(w.y2.host, UNTOUCHED, w.y2.bytes);
    struct kernel_buffer *const all[] = {&w.rows, &w.x, &w.gain1, &w.bias1, &w.gain2, &w.bias2, &w.y1, &w.y2};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_upload(all[i]);
    return w;
}

static void norm_world_free(struct norm_world *w)
{
    struct kernel_buffer *const all[] = {&w->counts, &w->rows,  &w->x,  &w->gain1, &w->bias1,
                                         &w->gain2,  &w->bias2, &w->y1, &w->y2};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_free(all[i]);
}

static struct cuda_norm_args norm_args(const struct norm_world *w, const struct norm_case *c, bool on_device)
{
    return (struct cuda_norm_args){
        .counts = kernel_at(&w->counts, on_device),
        .rows = c->chosen ? kernel_at(&w->rows, on_device) : NULL,
        .x = kernel_at(&w->x, on_device),
        .gain1 = kernel_at(&w->gain1, on_device),
        .bias1 = kernel_at(&w->bias1, on_device),
        .gain2 = c->both ? kernel_at(&w->gain2, on_device) : NULL,
        .bias2 = c->both ? kernel_at(&w->bias2, on_device) : NULL,
        .y1 = kernel_at(&w->y1, on_device),
        .y2 = c->both ? kernel_at(&w->y2, on_device) : NULL,
        .e = c->e,
        .eps = 1e-5f,
    };
}

/* The mean is a sum in a tree of at most E / 1024 + 15 levels; what it is off by is multiplied by the scale, which is 1 / sqrt(eps) at
 * most, and by the gain. Scale and the products are off by a few units more. */
static void norm_compare(const struct norm_world *w, const struct norm_case *c, enum model_dtype half,
                         const struct kernel_buffer *y)
{
    uint16_t *got = downloaded(y);
    const uint16_t *want = y->host;
    const double largest = fabs((double)c->offset) + (double)c->size, depth = c->e / 1024 + 15;
    const double spread = (double)c->size / sqrt(3), scale = 1 / sqrt(spread * spread + 1e-5);
    (void)w;
    for (size_t i = 0; i < (size_t)NORM_ROWS * c->e; i++) {
        const double value = (double)cuda_twin_widen(half, want[i]);
        const double sums = 0x1p-24 * (1.5 * scale * largest * depth * 2 + (fabs(value) + 0.5) * (depth + 8));
        kernel_close_to((double)cuda_twin_widen(half, got[i]), value, allowed_half(half, value, sums),
                        "%s %s: y[%zu][%zu]", half_name(half), c->name, i / c->e, i % c->e);
    }
    assert_untouched(got, (size_t)NORM_ROWS * c->e * sizeof *got, y->bytes);
    free(got);
}

static void norm_at_edge_shapes(void **state)
{
    (void)state;
    static const struct norm_case cases[] = {
        {"the smallest row", 8, 0, 1, true, false},
        {"part of a block", 136, 0, 1, false, false},
        {"one piece a thread", 1024, 0, 1, true, true},
        {"a large mean", 1032, 100, 1, true, false},
        {"small values", 2048, 0, 1e-4f, false, true},
        {"all the same", 512, 3, 0, true, false},
        {"three pieces and some", 3080, 0, 1, false, false},
        {"four pieces and some", 4104, 1, 1, true, false},
        {"five pieces and some", 5128, 0, 1, true, true},
        {"the registers full", 6144, 0, 1, true, false},
        {"one more", 6152, 0, 1, true, false},
        {"much more", 9216, -7, 2, false, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t h = 0; h < COUNT(halves); h++) {
            struct norm_world w = norm_world_new(&cases[i]);
            const struct cuda_norm_args here = norm_args(&w, &cases[i], false), there = norm_args(&w, &cases[i], true);
            cuda_twin_norm(halves[h], &here);
            kernel_run(kernel_name("norm_%s", half_name(halves[h])), NORM_ROWS + NORM_SPARE, 1, 1, CUDA_ROW_THREADS, 0,
                       &there);
            norm_compare(&w, &cases[i], halves[h], &w.y1);
            if (cases[i].both)
                norm_compare(&w, &cases[i], halves[h], &w.y2);
            norm_world_free(&w);
        }
}

/* Row 4 is y's rows 0 and 2; and both norms are what each is alone. */
static void norm_does_not_depend_on_the_place(void **state)
{
    (void)state;
    const struct norm_case both = {"both", 1032, 1, 2, true, true};
    struct norm_world w = norm_world_new(&both);
    struct cuda_norm_args args = norm_args(&w, &both, true);
    kernel_run("norm_f16", NORM_ROWS, 1, 1, CUDA_ROW_THREADS, 0, &args);
    uint8_t *y1 = downloaded(&w.y1), *y2 = downloaded(&w.y2);
    const size_t row = both.e * sizeof(uint16_t);
    assert_memory_equal(y1, y1 + 2 * row, row);
    args.gain1 = args.gain2;
    args.bias1 = args.bias2;
    args.gain2 = args.bias2 = NULL;
    args.y2 = NULL;
    kernel_run("norm_f16", NORM_ROWS, 1, 1, CUDA_ROW_THREADS, 0, &args);
    uint8_t *alone = downloaded(&w.y1);
    assert_memory_equal(alone, y2, NORM_ROWS * row);
    free(y1);
    free(y2);
    free(alone);
    norm_world_free(&w);
}

/* ---- gelu ---- */

/* Every half there is. The kernel's erfc is off by 2e-5 of itself at most, 2e-6 where gelu is not small, and 0 behind 8, where
 * gelu is below 6e-15; 2^x gives 0 for what f32 holds as a subnormal. */
static void gelu_case(enum model_dtype half, enum cuda_act act)
{
    enum { ROWS = 2, F = 32768 };
    struct kernel_buffer counts = counts_new((struct cuda_counts){.n_rows = ROWS});
    struct kernel_buffer x = kernel_buffer_new((ROWS + 1) * F, sizeof(uint16_t));
    for (uint32_t i = 0; i < ROWS * F; i++)
        ((uint16_t *)x.host)[i] = (uint16_t)i;
    memset((uint16_t *)x.host + ROWS * F, UNTOUCHED, F * sizeof(uint16_t));
    kernel_buffer_upload(&x);
    const struct cuda_gelu_args there = {kernel_at(&counts, true), kernel_at(&x, true), F, act};
    kernel_run(kernel_name("gelu_%s", half_name(half)), ROWS + 1, 3, 1, CUDA_ROW_THREADS, 0, &there);
    uint16_t *got = downloaded(&x);
    for (uint32_t i = 0; i < ROWS * F; i++) {
        const double in = (double)cuda_twin_widen(half, (uint16_t)i), out = (double)cuda_twin_widen(half, got[i]);
        const double want = cuda_twin_gelu_of(act, in);
        if (isnan(want))
            assert_true(isnan(out));
        else if (isinf(want) || fabs(in) > 60000)
            assert_true(out == (in > 0 ? in : 0));
        else
            kernel_close_to(out, want, allowed_half(half, want, 2e-5 * fabs(want) + 6e-15), "%s gelu %d of %.9g",
                            half_name(half), act, in);
    }
    assert_untouched(got, ROWS * F * sizeof(uint16_t), x.bytes);
    free(got);
    kernel_buffer_free(&counts);
    kernel_buffer_free(&x);
}

static void gelu_of_every_half(void **state)
{
    (void)state;
    for (size_t h = 0; h < COUNT(halves); h++) {
        gelu_case(halves[h], CUDA_ACT_GELU_ERF);
        gelu_case(halves[h], CUDA_ACT_GELU_TANH);
    }
}

static void gelu_of_rows_smaller_than_a_block(void **state)
{
    (void)state;
    enum { ROWS = 3, F = 24 };
    for (size_t h = 0; h < COUNT(halves); h++) {
        struct kernel_buffer counts = counts_new((struct cuda_counts){.n_rows = ROWS});
        struct kernel_buffer x = kernel_buffer_new(ROWS * F, sizeof(uint16_t));
        fill_half(halves[h], &x, 4, 5);
        kernel_buffer_upload(&x);
        const struct cuda_gelu_args here = {kernel_at(&counts, false), kernel_at(&x, false), F, CUDA_ACT_GELU_ERF};
        const struct cuda_gelu_args there = {kernel_at(&counts, true), kernel_at(&x, true), F, CUDA_ACT_GELU_ERF};
        cuda_twin_gelu(halves[h], &here);
        kernel_run(kernel_name("gelu_%s", half_name(halves[h])), ROWS, 1, 1, CUDA_ROW_THREADS, 0, &there);
        uint16_t *got = downloaded(&x);
        for (uint32_t i = 0; i < ROWS * F; i++) {
            const double want = (double)cuda_twin_widen(halves[h], ((uint16_t *)x.host)[i]);
            kernel_close_to((double)cuda_twin_widen(halves[h], got[i]), want,
                            allowed_half(halves[h], want, 2e-5 * fabs(want)), "gelu %u", i);
        }
        free(got);
        kernel_buffer_free(&counts);
        kernel_buffer_free(&x);
    }
}

/* ---- matmul ---- */

static const uint32_t widths[] = {8, 16, 32, 64}; /* the t of matmul_*_t{t} */

struct product {
    enum model_dtype half;
    bool q8;
    uint32_t n_tokens, n, k;
    enum cuda_after after;
    enum cuda_act act;
    bool biased, logits;
    struct kernel_buffer counts, x, w, scale, bias, y;
};

enum { PRODUCT_SPARE = 3 }; /* rows behind the count */

static size_t product_y_bytes(const struct product *p)
{
    return p->after == CUDA_AFTER_HALF || p->after == CUDA_AFTER_GELU ? sizeof(uint16_t) : sizeof(float);
}

/* The rows of x behind the count are NaN here and unwritten there, those of y are not to be touched; w ends with its last row. */
static void product_new(struct product *p)
{
    const uint32_t rows = p->n_tokens + PRODUCT_SPARE;
    const struct cuda_counts counts = p->logits ? (struct cuda_counts){.n_rows = 1, .n_logits = p->n_tokens}
                                                : (struct cuda_counts){.n_rows = p->n_tokens, .n_logits = 1};
    uint64_t seed = ((uint64_t)p->k << 32) ^ p->n;
    p->counts = counts_new(counts);
    p->x = kernel_buffer_new((size_t)rows * p->k, sizeof(uint16_t));
    p->w = kernel_buffer_new((size_t)p->n * p->k, p->q8 ? 1 : sizeof(uint16_t));
    p->scale = kernel_buffer_new(p->n, sizeof(float));
    p->bias = kernel_buffer_new(p->n, sizeof(float));
    p->y = kernel_buffer_new((size_t)rows * p->n, product_y_bytes(p));
    fill_half(p->half, &p->x, 1, seed + 1);
    for (size_t i = (size_t)p->n_tokens * p->k; i < (size_t)rows * p->k; i++)
        ((uint16_t *)p->x.host)[i] = NAN_HALF;
    if (p->q8)
        for (size_t i = 0; i < p->w.bytes; i++)
            ((int8_t *)p->w.host)[i] = (int8_t)(128 * kernel_uniform(&seed));
    else
        fill_half(p->half, &p->w, 1, seed + 2);
    fill_f32(&p->scale, 0.01f, 0.005f, seed + 3);
    fill_f32(&p->bias, 0, 1, seed + 4);
    if (p->after == CUDA_AFTER_ADD)
        fill_f32(&p->y, 0, 2, seed + 5);
    memset((uint8_t *)p->y.host + (size_t)p->n_tokens * p->n * product_y_bytes(p), UNTOUCHED,
           (size_t)PRODUCT_SPARE * p->n * product_y_bytes(p));
    kernel_copy_to(p->x.device, p->x.host, (size_t)p->n_tokens * p->k * sizeof(uint16_t));
    kernel_buffer_upload(&p->w);
    kernel_buffer_upload(&p->scale);
    kernel_buffer_upload(&p->bias);
}

static void product_free(struct product *p)
{
    struct kernel_buffer *const all[] = {&p->counts, &p->x, &p->w, &p->scale, &p->bias, &p->y};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_free(all[i]);
}

static struct cuda_matmul_args product_args(const struct product *p, bool on_device)
{
    return (struct cuda_matmul_args){
        .counts = kernel_at(&p->counts, on_device),
        .x = kernel_at(&p->x, on_device),
        .w = kernel_at(&p->w, on_device),
        .scale = p->q8 ? kernel_at(&p->scale, on_device) : NULL,
        .bias = p->biased ? kernel_at(&p->bias, on_device) : NULL,
        .y = kernel_at(&p->y, on_device),
        .n = p->n,
        .k = p->k,
        .after = p->after,
        .act = p->act,
        .logits = p->logits,
    };
}

static const char *product_kernel(const struct product *p, uint32_t t)
{
    return kernel_name("matmul_%s_t%u", p->q8 ? "q8" : half_name(p->half), (unsigned)t);
}

/* y as the kernel for t tokens a block leaves it. The grid covers the rows behind the count as well. */
static void *product_run(const struct product *p, uint32_t t)
{
    const struct cuda_matmul_args args = product_args(p, true);
    const uint32_t block_rows = cuda_matmul_block_rows(t);
    kernel_buffer_upload(&p->y);
    kernel_run(product_kernel(p, t), (p->n + block_rows - 1) / block_rows, (p->n_tokens + PRODUCT_SPARE + t - 1) / t, 1,
               CUDA_MATMUL_WARPS * CUDA_WARP, 0, &args);
    return downloaded(&p->y);
}

/* An output's products are exact in f32. A warp adds them in mmas of 16, an eighth of K; a tensor core may cut off what lies 24 bits
 * below the largest of an mma's 17 terms, each time. Eight partial sums and the bias follow, and one multiplication by the scale. */
static double product_allowed(const struct product *p, uint32_t t, uint32_t n)
{
    const struct cuda_matmul_args a = product_args(p, false);
    const double n_mmas = ceil(p->k / 128.0) + 4, scale = p->q8 ? (double)a.scale[n] : 1;
    double magnitude = 0;
    for (uint32_t k = 0; k < p->k; k++) {
        const size_t at = (size_t)n * p->k + k;
        const double w =
            p->q8 ? ((const int8_t *)a.w)[at] : (double)cuda_twin_widen(p->half, ((const uint16_t *)a.w)[at]);
        magnitude += fabs(w * (double)cuda_twin_widen(p->half, a.x[(size_t)t * p->k + k])) * scale;
    }
    return 0x1p-23 * (17 * n_mmas / 8 + 10) * (magnitude + 4);
}

static void product_compare(const struct product *p, uint32_t width, const void *got)
{
    const bool is_half = product_y_bytes(p) == sizeof(uint16_t);
    for (uint32_t t = 0; t < p->n_tokens; t++)
        for (uint32_t n = 0; n < p->n; n++) {
            const size_t at = (size_t)t * p->n + n;
            const double value = is_half ? (double)cuda_twin_widen(p->half, ((const uint16_t *)got)[at])
                                         : (double)((const float *)got)[at];
            const double want = is_half ? (double)cuda_twin_widen(p->half, ((uint16_t *)p->y.host)[at])
                                        : (double)((float *)p->y.host)[at];
            const double sums = 1.2 * product_allowed(p, t, n); /* gelu's slope is 1.13 at most */
            kernel_close_to(value, want, is_half ? allowed_half(p->half, want, sums) : sums,
                            "%s, %u tokens, N %u, K %u, after %d: y[%u][%u]", product_kernel(p, width), p->n_tokens,
                            p->n, p->k, p->after, t, n);
        }
    assert_untouched(got, (size_t)p->n_tokens * p->n * product_y_bytes(p), p->y.bytes);
}

/* Against the twin by one width, and the same bits by all of them. */
static void product_case(const struct product *shape)
{
    struct product p = *shape;
    product_new(&p);
    void *first = product_run(&p, widths[0]);
    for (size_t i = 1; i < COUNT(widths); i++) {
        void *other = product_run(&p, widths[i]);
        if (memcmp(first, other, p.y.bytes) != 0)
            fail_msg("%s does not give the bits of t8: %u tokens, N %u, K %u", product_kernel(&p, widths[i]),
                     p.n_tokens, p.n, p.k);
        free(other);
    }
    const struct cuda_matmul_args here = product_args(&p, false);
    cuda_twin_matmul(p.half, p.q8, &here);
    product_compare(&p, widths[0], first);
    free(first);
    product_free(&p);
}

/* K around one run of a warp (32, int8: 64), all warps' (256, 512), all that is on its way (1024, 2048); N around the 16 and 32
 * rows of a block; tokens around the widths. */
static void matmul_at_edge_shapes(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_tokens, n, k;
    } shapes[] = {
        {1, 1, 16},   {2, 15, 32},   {3, 16, 48},   {5, 17, 64},   {7, 31, 80},   {8, 33, 256},
        {9, 8, 272},  {15, 40, 512}, {16, 24, 528}, {17, 9, 1024}, {31, 7, 1040}, {33, 5, 2048},
        {63, 18, 64}, {64, 3, 2064}, {65, 34, 112}, {1, 48, 4112},
    };
    for (uint32_t s = 0; s < COUNT(shapes); s++)
        for (size_t h = 0; h < COUNT(halves); h++)
            for (int q = 0; q <= (halves[h] == MODEL_F16 ? 1 : 0); q++) { /* int8 meets f16 alone */
                const struct product p = {.half = halves[h],
                                          .q8 = q,
                                          .n_tokens = shapes[s].n_tokens,
                                          .n = shapes[s].n,
                                          .k = shapes[s].k,
                                          .after = (enum cuda_after)(s % 4),
                                          .act = (enum cuda_act)(s / 4 % 2),
                                          .biased = s % 3 != 0,
                                          .logits = s % 5 == 0};
                product_case(&p);
            }
}

/* The halves take K by 8, int8 by 16. */
static void matmul_of_k_by_eight(void **state)
{
    (void)state;
    static const uint32_t ks[] = {8, 24, 40, 264, 520, 1032};
    for (size_t i = 0; i < COUNT(ks); i++)
        for (size_t h = 0; h < COUNT(halves); h++) {
            const struct product p = {
                .half = halves[h], .n_tokens = 2 + (uint32_t)i * 3, .n = 20, .k = ks[i], .after = CUDA_AFTER_F32};
            product_case(&p);
        }
}

/* One token that is 1 at one k at a time reads every weight as it is: all 256 of int8 in every place of a word. */
static void matmul_converts_int8_exactly(void **state)
{
    (void)state;
    enum { T = 16, N = 256, K = 16 };
    struct product p = {.half = MODEL_F16, .q8 = true, .n_tokens = T, .n = N, .k = K, .after = CUDA_AFTER_F32};
    product_new(&p);
    for (uint32_t n = 0; n < N; n++)
        for (uint32_t k = 0; k < K; k++)
            ((int8_t *)p.w.host)[n * K + k] = (int8_t)(uint8_t)(n + 16 * k + k);
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t k = 0; k < K; k++)
            ((uint16_t *)p.x.host)[t * K + k] = cuda_twin_narrow(p.half, t == k);
    for (uint32_t n = 0; n < N; n++)
        ((float *)p.scale.host)[n] = 0.5f;
    kernel_buffer_upload(&p.w);
    kernel_buffer_upload(&p.x);
    kernel_buffer_upload(&p.scale);
    float *got = product_run(&p, 16);
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t n = 0; n < N; n++)
            assert_true(got[t * N + n] == 0.5f * ((int8_t *)p.w.host)[n * K + t]);
    free(got);
    product_free(&p);
}

/* Infinities and NaN in one row, in one weight row: nowhere else. */
static void matmul_rows_do_not_meet(void **state)
{
    (void)state;
    enum { T = 9, N = 20, K = 72 };
    for (size_t h = 0; h < COUNT(halves); h++) {
        struct product p = {.half = halves[h], .n_tokens = T, .n = N, .k = K, .after = CUDA_AFTER_F32};
        product_new(&p);
        float *before = product_run(&p, 8);
        ((uint16_t *)p.x.host)[3 * K + 71] = NAN_HALF;
        ((uint16_t *)p.x.host)[5 * K] = cuda_twin_narrow(p.half, INFINITY);
        ((uint16_t *)p.w.host)[7 * K + 40] = NAN_HALF;
        kernel_buffer_upload(&p.x);
        kernel_buffer_upload(&p.w);
        float *after = product_run(&p, 8);
        for (uint32_t t = 0; t < T; t++)
            for (uint32_t n = 0; n < N; n++) {
                const float a = before[t * N + n], b = after[t * N + n];
                const bool poisoned = t == 3 || t == 5 || n == 7;
                if (poisoned ? isfinite(b) : memcmp(&a, &b, sizeof a) != 0)
                    fail_msg("y[%u][%u]: %g, was %g", t, n, (double)b, (double)a);
            }
        free(before);
        free(after);
        product_free(&p);
    }
}

/* Row 0 alone, and as row 21 of 40 others. */
static void matmul_does_not_depend_on_the_place(void **state)
{
    (void)state;
    enum { N = 35, K = 560, LAST = 21 };
    for (int q = 0; q < 2; q++) {
        struct product many = {.half = MODEL_F16, .q8 = q, .n_tokens = 40, .n = N, .k = K, .after = CUDA_AFTER_GELU};
        product_new(&many);
        memcpy((uint16_t *)many.x.host + LAST * K, many.x.host, K * sizeof(uint16_t));
        kernel_buffer_upload(&many.x);
        uint16_t *y = product_run(&many, 64);
        assert_memory_equal(y, y + LAST * N, N * sizeof *y);
        ((struct cuda_counts *)many.counts.host)->n_rows = 1;
        kernel_buffer_upload(&many.counts);
        uint16_t *alone = product_run(&many, 8);
        assert_memory_equal(y, alone, N * sizeof *y);
        free(y);
        free(alone);
        product_free(&many);
    }
}

/* ---- bytes moved: gates/check_bytes.py reads these lines, and beside them what the emulated driver counted ---- */

/* least: what must come from memory or go to it; requested_most: how many times that the kernel may ask its caches for. */
static void say_least_bytes(const char *kernel, size_t least, double requested_most)
{
    printf("least bytes of %s: %zu, requested at most %g times\n", kernel, least, requested_most);
}

static void bytes_of_one_norm(void **state)
{
    (void)state;
    enum { E = 5120 };
    struct kernel_buffer counts = counts_new((struct cuda_counts){.n_rows = 1});
    struct kernel_buffer x = kernel_buffer_new(E, sizeof(float)), weights = kernel_buffer_new(4 * E, sizeof(float));
    struct kernel_buffer y = kernel_buffer_new(2 * E, sizeof(uint16_t));
    fill_f32(&x, 0, 1, 1);
    fill_f32(&weights, 1, 1, 2);
    kernel_buffer_upload(&x);
    kernel_buffer_upload(&weights);
    const float *w = kernel_at(&weights, true);
    uint16_t *to = kernel_at(&y, true);
    const struct cuda_norm_args args = {
        kernel_at(&counts, true), NULL, kernel_at(&x, true), w, w + E, w + 2 * E, w + 3 * E, to, to + E, E, 1e-5f};
    kernel_run("norm_f16", 1, 1, 1, CUDA_ROW_THREADS, 0, &args);
    say_least_bytes("norm_f16", x.bytes + weights.bytes + y.bytes, 1.1);
    kernel_buffer_free(&counts);
    kernel_buffer_free(&x);
    kernel_buffer_free(&weights);
    kernel_buffer_free(&y);
}

/* One token. A block asks for x once for its 16 rows of weights; int8 in halves of sectors, so twice. */
static void bytes_of_one_product(void **state)
{
    (void)state;
    for (int q8 = 0; q8 < 2; q8++) {
        struct product p = {
            .half = MODEL_F16, .q8 = q8, .n_tokens = 1, .n = 256, .k = 4096, .after = CUDA_AFTER_F32, .biased = true};
        product_new(&p);
        free(product_run(&p, 8));
        say_least_bytes(product_kernel(&p, 8), p.w.bytes + p.k * sizeof(uint16_t) + p.n * sizeof(float) * (q8 ? 3 : 2),
                        q8 ? 1.3 : 1.1);
        product_free(&p);
    }
}

/* ---- int8 ---- */

static void quantised_rows_come_back(void **state)
{
    (void)state;
    enum { N = 1000 };
    static const float sizes[] = {1, 1e-30f, 1e30f, 3e38f, 0.02f};
    float w[N], scale;
    int8_t q[N];
    for (size_t s = 0; s < COUNT(sizes); s++) {
        uint64_t seed = s;
        float largest = 0;
        for (size_t i = 0; i < N; i++) {
            w[i] = sizes[s] * kernel_uniform(&seed);
            largest = fmaxf(largest, fabsf(w[i]));
        }
        assert_true(cuda_quantise_row(w, N, q, &scale));
        kernel_close_to((double)scale, (double)largest / 127, (double)largest / 127 * 0x1p-24, "scale");
        for (size_t i = 0; i < N; i++) /* half a step, and scale's own rounding 127 times */
            kernel_close_to(q[i] * (double)scale, (double)w[i], (double)scale * (0.5 + 127 * 0x1p-23), "w[%zu]", i);
    }
}

static void quantising_rounds_to_even_and_uses_127(void **state)
{
    (void)state;
    const float w[] = {127, -127, 0.5f, 1.5f, -0.5f, -2.5f, 0.49f, -0.0f};
    const int8_t want[] = {127, -127, 0, 2, 0, -2, 0, 0};
    int8_t q[COUNT(w)];
    float scale;
    assert_true(cuda_quantise_row(w, COUNT(w), q, &scale));
    assert_true(scale == 1);
    assert_memory_equal(q, want, sizeof q);
}

static void quantising_what_has_no_scale(void **state)
{
    (void)state;
    const float zeros[] = {0, -0.0f}, tiny[] = {FLT_TRUE_MIN, -FLT_TRUE_MIN}, infinite[] = {1, INFINITY},
                nans[] = {NAN, 1};
    int8_t q[2] = {5, 5};
    float scale = 5;
    assert_false(cuda_quantise_row(infinite, 2, q, &scale));
    assert_false(cuda_quantise_row(nans, 2, q, &scale));
    assert_true(q[0] == 5 && scale == 5);
    assert_true(cuda_quantise_row(zeros, 2, q, &scale));
    assert_true(q[0] == 0 && q[1] == 0 && scale == 0);
    q[0] = 5;
    assert_true(cuda_quantise_row(tiny, 2, q, &scale));
    assert_true(q[0] == 0 && scale == 0);
}

/* ---- sample ---- */

enum logits_kind {
    LOGITS_UNIFORM,
    LOGITS_BELL,   /* as models have them */
    LOGITS_PEAKED, /* one far above */
    LOGITS_FLAT,   /* zeros of both signs */
    LOGITS_TIES,   /* five values */
    LOGITS_HOLES,  /* half of them -infinity */
    LOGITS_LONE,   /* one that is not */
    LOGITS_HUGE,   /* all over f32 */
    LOGITS_CLOSE,  /* neighbours of f32 */
    LOGITS_FAR,    /* a few, and a thousand below */
    LOGITS_NAN,
    LOGITS_INFINITE,
    LOGITS_NONE, /* all -infinity */
    LOGITS_N
};

static float logit_of(enum logits_kind kind, uint32_t i, uint32_t special, uint64_t *seed)
{
    const float u = kernel_uniform(seed), v = kernel_uniform(seed), w = kernel_uniform(seed);
    switch (kind) {
    case LOGITS_BELL:
        return (u + v + w) * 3;
    case LOGITS_PEAKED:
        return i == special ? 40 : u;
    case LOGITS_FLAT:
        return u < 0 ? -0.0f : 0.0f;
    case LOGITS_TIES:
        return truncf(u * 3);
    case LOGITS_HOLES:
        return v < 0 ? -INFINITY : 5 * u;
    case LOGITS_LONE:
        return i == special ? -3 : -INFINITY;
    case LOGITS_HUGE:
        return u * 3e38f;
    case LOGITS_CLOSE:
        return nextafterf(1, u < 0 ? 0 : 2);
    case LOGITS_FAR:
        return v < -0.9f ? u : u - 1000;
    case LOGITS_NAN:
        return i == special ? NAN : u;
    case LOGITS_INFINITE:
        return i == special ? INFINITY : u;
    case LOGITS_NONE:
        return -INFINITY;
    default:
        return 12 * u;
    }
}

static struct cuda_draw draw_of(uint32_t vocab, uint64_t *seed)
{
    static const float temperatures[] = {0, 0.25f, 0.7f, 1, 1, 1, 2.5f, 100},
                       top_ps[] = {1, 1, 0.9f, 0.5f, 0.01f, 1e-6f, 0.99999f},
                       min_ps[] = {0, 0, 0, 0.05f, 0.5f, 1, 1e-4f};
    const uint32_t top_ks[] = {0, 0, 0, 1, 2, 50, vocab > 1 ? vocab - 1 : 1, vocab, vocab + 5, vocab / 2};
#define PICK(values) values[(size_t)((kernel_uniform(seed) + 1) / 2 * (float)COUNT(values)) % COUNT(values)]
    struct cuda_draw d = {
        .temperature = PICK(temperatures), .top_k = PICK(top_ks), .top_p = PICK(top_ps), .min_p = PICK(min_ps)};
#undef PICK
    memcpy(&d.seed, seed, sizeof d.seed);
    d.draw = (uint64_t)((kernel_uniform(seed) + 1) * 1e6f);
    return d;
}

struct lottery {
    uint32_t vocab, n_rows;
    struct kernel_buffer counts, draws, logits, tokens, scratch;
};

enum { LOTTERY_SPARE = 1 };

static struct lottery lottery_new(uint32_t vocab, uint32_t n_rows)
{
    const size_t rows = n_rows + LOTTERY_SPARE;
    return (struct lottery){
        .vocab = vocab,
        .n_rows = n_rows,
        .counts = counts_new((struct cuda_counts){.n_rows = 7, .n_logits = 9, .n_sample = n_rows}),
        .draws = kernel_buffer_new(rows, sizeof(struct cuda_draw)),
        .logits = kernel_buffer_new(rows * vocab, sizeof(float)),
        .tokens = kernel_buffer_new(rows, sizeof(int32_t)),
        .scratch = kernel_buffer_new(rows, cuda_sample_scratch_bytes(vocab)),
    };
}

static void lottery_free(struct lottery *l)
{
    struct kernel_buffer *const all[] = {&l->counts, &l->draws, &l->logits, &l->tokens, &l->scratch};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_free(all[i]);
}

static struct cuda_sample_args lottery_args(const struct lottery *l, bool on_device)
{
    return (struct cuda_sample_args){
        .counts = kernel_at(&l->counts, on_device),
        .draws = kernel_at(&l->draws, on_device),
        .logits = kernel_at(&l->logits, on_device),
        .tokens = kernel_at(&l->tokens, on_device),
        .scratch = kernel_at(&l->scratch, on_device),
        .scratch_stride = cuda_sample_scratch_bytes(l->vocab),
        .vocab = l->vocab,
    };
}

static void lottery_fill(const struct lottery *l, uint32_t row, enum logits_kind kind, struct cuda_draw draw,
                         uint64_t *seed)
{
    const uint32_t special = (uint32_t)((kernel_uniform(seed) + 1) / 2 * (float)l->vocab) % l->vocab;
    ((struct cuda_draw *)l->draws.host)[row] = draw;
    for (uint32_t i = 0; i < l->vocab; i++)
        ((float *)l->logits.host)[(size_t)row * l->vocab + i] = logit_of(kind, i, special, seed);
}

static void lottery_check(const struct lottery *l)
{
    const struct cuda_sample_args here = lottery_args(l, false), there = lottery_args(l, true);
    struct base_error err = {0};
    memset(l->tokens.host, UNTOUCHED, l->tokens.bytes);
    kernel_buffer_upload(&l->tokens);
    kernel_buffer_upload(&l->draws);
    kernel_buffer_upload(&l->logits);
    kernel_run("sample", l->n_rows + LOTTERY_SPARE, 1, 1, CUDA_SAMPLE_THREADS, 0, &there);
    int32_t *got = downloaded(&l->tokens);
    assert_int_equal(cuda_twin_sample(&here, &err), 0);
    for (uint32_t i = 0; i < l->n_rows + LOTTERY_SPARE; i++) {
        const struct cuda_draw *d = (const struct cuda_draw *)l->draws.host + i;
        const int32_t want = ((const int32_t *)l->tokens.host)[i];
        if (got[i] != want)
            fail_msg("row %u of V %u: token %d, should be %d (temperature %g, top_k %u, top_p %g, min_p %g, seed %llu, "
                     "draw %llu)",
                     i, l->vocab, got[i], want, (double)d->temperature, d->top_k, (double)d->top_p, (double)d->min_p,
                     (unsigned long long)d->seed, (unsigned long long)d->draw);
    }
    free(got);
}

static void sample_like_the_sampler(uint32_t vocab, uint32_t n_rows, uint64_t seed)
{
    struct lottery l = lottery_new(vocab, n_rows);
    for (uint32_t i = 0; i < n_rows; i++)
        lottery_fill(&l, i, (enum logits_kind)(i % LOGITS_N), draw_of(vocab, &seed), &seed);
    lottery_check(&l);
    lottery_free(&l);
}

static void sample_of_small_vocabularies(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 7, 8, 9, 31, 33, 100, 257};
    const char *long_run = getenv("ROUSE_LONG");
    const uint64_t n_seeds = long_run && strcmp(long_run, "true") == 0 ? 40 : 2;
    for (size_t i = 0; i < COUNT(vocabs); i++)
        for (uint64_t seed = 0; seed < n_seeds; seed++)
            sample_like_the_sampler(vocabs[i], 5 * LOGITS_N, vocabs[i] * 100 + seed);
}

/* Around the block, the weights of one half of the buffer (1984), the ranks of a first try and of a second (1024, 16384). */
static void sample_of_larger_vocabularies(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {1023, 1025, 1985, 3001, 5003};
    for (size_t i = 0; i < COUNT(vocabs); i++)
        sample_like_the_sampler(vocabs[i], 2 * LOGITS_N, vocabs[i]);
}

static void sample_of_a_models_vocabulary(void **state)
{
    (void)state;
    sample_like_the_sampler(50304, LOGITS_N, 77);
}

/* Nothing but temperature: the draw may fall far behind the tokens that were ranked first. */
static void sample_that_ranks_again(void **state)
{
    (void)state;
    static const enum logits_kind kinds[] = {LOGITS_FLAT, LOGITS_BELL, LOGITS_CLOSE, LOGITS_UNIFORM};
    struct lottery l = lottery_new(20001, COUNT(kinds) * 2);
    uint64_t seed = 5;
    for (uint32_t i = 0; i < l.n_rows; i++) {
        const struct cuda_draw draw = {.temperature = 3, .top_p = i < COUNT(kinds) ? 1 : 0.98f, .seed = i, .draw = i};
        lottery_fill(&l, i, kinds[i % COUNT(kinds)], draw, &seed);
    }
    lottery_check(&l);
    lottery_free(&l);
}

static double uniform_of(uint64_t seed, uint64_t draw)
{
    uint32_t r[4];
    model_philox(seed, draw, r);
    return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

/* A logit and a temperature whose quotient is `want` as closely as may be: the last bits of e^x and of the sums decide then. */
static float logit_at_border(double want, uint64_t *seed, float *out_temperature)
{
    double best = INFINITY;
    float logit = -1;
    for (int i = 0; i < 20000; i++) {
        const float x = -1 - fabsf(kernel_uniform(seed)) * 20, temperature = (float)((double)x / want);
        const double off = fabs((double)x / (double)temperature - want);
        if (off < best && temperature > 0 && temperature <= 100) {
            best = off;
            logit = x;
            *out_temperature = temperature;
        }
    }
    return logit;
}

/* Two tokens, all others at -infinity: the draw falls between them, 1 / (1 + e^want) = u; or, by turns, the second has just min_p of
 * the first's probability or a bit less, and the draw is its if it is there. */
static void lottery_border(const struct lottery *l, uint32_t row, uint64_t *seed, uint64_t *draw)
{
    const bool by_min_p = row % 4 == 3;
    const float min_p = 0.3f; /* no power of 2: e^x is more than its exponent */
    while (uniform_of(row, *draw) <= (by_min_p ? 0.81 : 0.5))
        ++*draw;
    const double u = uniform_of(row, *draw);
    struct cuda_draw how = {.temperature = 1,
                            .top_k = row % 4 == 2 && l->vocab > 2 ? 2 : 0,
                            .top_p = row % 4 == 1 ? 0.999f : 1,
                            .min_p = by_min_p ? min_p : 0,
                            .seed = row,
                            .draw = (*draw)++};
    const float logit = logit_at_border(by_min_p ? log((double)min_p) : log(1 / u - 1), seed, &how.temperature);
    lottery_fill(l, row, LOGITS_NONE, how, seed);
    float *logits = (float *)l->logits.host + (size_t)row * l->vocab;
    const uint32_t first = row / 2 % 2 ? l->vocab - 1 : 0;
    logits[first] = 0;
    logits[l->vocab - 1 - first] = logit;
}

/* The places are summed up in different ways. */
static void sample_on_the_border(void **state)
{
    (void)state;
    static const uint32_t vocabs[] = {2, 9, 17};
    enum { ROWS = 60 };
    uint64_t seed = 11;
    for (size_t v = 0; v < COUNT(vocabs); v++) {
        struct lottery l = lottery_new(vocabs[v], ROWS);
        uint64_t draw = 0;
        for (uint32_t i = 0; i < ROWS; i++)
            lottery_border(&l, i, &seed, &draw);
        lottery_check(&l);
        lottery_free(&l);
    }
}

/* The same row and draw in every place. */
static void sample_does_not_depend_on_the_place(void **state)
{
    (void)state;
    enum { V = 300, ROWS = 5 };
    struct lottery l = lottery_new(V, ROWS);
    for (uint32_t i = 0; i < ROWS; i++) {
        uint64_t seed = 9;
        lottery_fill(&l, i, LOGITS_BELL, (struct cuda_draw){.temperature = 1, .top_p = 0.95f, .seed = 3, .draw = 4},
                     &seed);
    }
    lottery_check(&l);
    for (uint32_t i = 1; i < ROWS; i++)
        assert_int_equal(((int32_t *)l.tokens.host)[i], ((int32_t *)l.tokens.host)[0]);
    lottery_free(&l);
}

/* ---- hash ---- */

static void hash_case(uint64_t n_bytes)
{
    const uint32_t n_chunks = (uint32_t)((n_bytes + CUDA_HASH_BYTES - 1) / CUDA_HASH_BYTES);
    struct kernel_buffer bytes = kernel_buffer_new(n_bytes, 1), hashes = kernel_buffer_new(n_chunks, sizeof(uint64_t));
    uint64_t seed = n_bytes;
    for (uint64_t i = 0; i < n_bytes; i++)
        ((uint8_t *)bytes.host)[i] = (uint8_t)(int)(128 * kernel_uniform(&seed));
    kernel_buffer_upload(&bytes);
    const struct cuda_hash_args here = {kernel_at(&bytes, false), n_bytes, kernel_at(&hashes, false)};
    const struct cuda_hash_args there = {kernel_at(&bytes, true), n_bytes, kernel_at(&hashes, true)};
    cuda_twin_hash(&here);
    kernel_run("hash", n_chunks, 1, 1, CUDA_WARP, 0, &there);
    uint64_t *got = downloaded(&hashes);
    for (uint32_t i = 0; i < n_chunks; i++)
        if (got[i] != ((uint64_t *)hashes.host)[i])
            fail_msg("chunk %u of %llu bytes: %016llx, should be %016llx", i, (unsigned long long)n_bytes,
                     (unsigned long long)got[i], (unsigned long long)((uint64_t *)hashes.host)[i]);
    free(got);
    kernel_buffer_free(&bytes);
    kernel_buffer_free(&hashes);
}

/* Around blocks of 1024 bytes, stripes of 64, the four blocks that are on their way; every alignment of the last stripe. */
static void hash_is_xxh3(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {4096,  4097,  4103,  4159,  4160,  4161,  4608,  4609,  5119,  5120,
                                     5121,  6144,  6145,  7168,  7169,  8192,  8193,  8200,  9217,  12345,
                                     65536, 65537, 70001, 70002, 70003, 70004, 70005, 70006, 70007, 70008};
    for (size_t i = 0; i < COUNT(sizes); i++)
        hash_case(sizes[i]);
}

static void hash_of_whole_chunks(void **state)
{
    (void)state;
    hash_case(CUDA_HASH_BYTES + 4096);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_rows_come_back),
        cmocka_unit_test(quantising_rounds_to_even_and_uses_127),
        cmocka_unit_test(quantising_what_has_no_scale),
        cmocka_unit_test(embed_is_exact),
        cmocka_unit_test(embed_reaches_far_rows),
        cmocka_unit_test(norm_at_edge_shapes),
        cmocka_unit_test(norm_does_not_depend_on_the_place),
        cmocka_unit_test(gelu_of_every_half),
        cmocka_unit_test(gelu_of_rows_smaller_than_a_block),
        cmocka_unit_test(matmul_at_edge_shapes),
        cmocka_unit_test(matmul_of_k_by_eight),
        cmocka_unit_test(matmul_converts_int8_exactly),
        cmocka_unit_test(matmul_rows_do_not_meet),
        cmocka_unit_test(matmul_does_not_depend_on_the_place),
        cmocka_unit_test(bytes_of_one_norm),
        cmocka_unit_test(bytes_of_one_product),
        cmocka_unit_test(sample_of_small_vocabularies),
        cmocka_unit_test(sample_of_larger_vocabularies),
        cmocka_unit_test(sample_of_a_models_vocabulary),
        cmocka_unit_test(sample_that_ranks_again),
        cmocka_unit_test(sample_on_the_border),
        cmocka_unit_test(sample_does_not_depend_on_the_place),
        cmocka_unit_test(hash_is_xxh3),
        cmocka_unit_test(hash_of_whole_chunks),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    kernels_open();
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kernels_close();
    return failed;
}
