/* rotary, prefill, decode and merge: near their twins at the edges of their shapes, and the same bit for bit where a result may
 * not depend on tiles, chunks, neighbours, block numbers or the kernel that a row went through.
 *
 * test_cuda_attention [PATTERN]: of the tests' names. "near_*" hold with noise of some ulps on approximate instructions too. */
#include <math.h>

#include "gpu/cuda/kernel_twins.h"
#include "gpu/cuda/tests/kernel_harness.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const enum model_dtype halves[] = {MODEL_F16, MODEL_BF16};
static const uint32_t head_dims[] = {32, 64, 80, 96, 128, 256};

static const char *half_name(enum model_dtype half)
{
    return half == MODEL_F16 ? "f16" : "bf16";
}

/* Half the distance of two neighbours, relative to them: what one rounding may move a value by. */
static double half_unit(enum model_dtype half)
{
    return half == MODEL_F16 ? 0x1p-11 : 0x1p-8;
}

static double widen(enum model_dtype half, uint16_t h)
{
    return (double)cuda_twin_widen(half, h);
}

enum { NAN_HALF = 0x7fff }; /* in both types: what lies where nothing was written, and must not show in any sum */

/* ---- what a sequence holds, by its number and position alone, wherever it is put ---- */

enum part { PART_Q, PART_K, PART_V };

static void fill_part(enum model_dtype half, enum part part, uint32_t sequence, uint32_t position, uint32_t head,
                      uint32_t d, float size, uint16_t *to)
{
    uint64_t state = ((uint64_t)part << 56) ^ ((uint64_t)sequence << 40) ^ ((uint64_t)position << 12) ^ head;
    for (uint32_t i = 0; i < d; i++)
        to[i] = cuda_twin_narrow(half, (double)(size * kernel_uniform(&state)));
}

/* ---- rows of sequences over a cache ---- */

/* Rows of one tile: positions `position` to `position` + n_rows - 1. */
struct run {
    uint32_t sequence, position, n_rows;
};

enum { SEQUENCES_MAX = 4 };

/* How a world is built. */
struct layout {
    enum model_dtype half;
    uint32_t d, n_heads;
    const struct run *runs;
    uint32_t n_runs;
    uint64_t shuffle; /* of block numbers */
    float q_size;     /* K and V are in (-1, 1); 6 spreads scores so that weights differ by e^10 */
};

struct world {
    struct layout l;
    uint32_t n_rows, blocks_stride, n_blocks, n_splits;
    struct kernel_buffer counts, tiles, positions, slots; /* of rows in the order of the runs */
    struct kernel_buffer blocks, qkv, kv, out, part_o, part_ml;
};

static uint32_t sequence_end(const struct layout *l, uint32_t sequence)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < l->n_runs; i++)
        if (l->runs[i].sequence == sequence && l->runs[i].position + l->runs[i].n_rows > end)
            end = l->runs[i].position + l->runs[i].n_rows;
    return end;
}

static uint32_t blocks_of(uint32_t n_positions)
{
    return (n_positions + CUDA_BLOCK_TOKENS - 1) / CUDA_BLOCK_TOKENS;
}

/* Every sequence's blocks, some numbers left over; entries past a sequence's last block are never to be followed. */
static void world_blocks(struct world *w)
{
    uint64_t state = w->l.shuffle;
    uint32_t next = 0;
    uint32_t *order = calloc(w->n_blocks, sizeof *order), *blocks = w->blocks.host;
    assert_non_null(order);
    for (uint32_t i = 0; i < w->n_blocks; i++) {
        const uint32_t j = (uint32_t)((kernel_uniform(&state) + 1) / 2 * (float)(i + 1)) % (i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    memset(blocks, 0xff, w->blocks.bytes);
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++)
        for (uint32_t i = 0; i < blocks_of(sequence_end(&w->l, s)); i++)
            blocks[s * w->blocks_stride + i] = order[next++];
    free(order);
}

static uint16_t *world_kv(const struct world *w, enum part part, uint32_t sequence, uint32_t position, uint32_t head)
{
    const uint32_t *blocks = (const uint32_t *)w->blocks.host + sequence * w->blocks_stride;
    const size_t line = ((size_t)blocks[position / CUDA_BLOCK_TOKENS] * 2 + (part == PART_V)) * w->l.n_heads + head;
    return (uint16_t *)w->kv.host + (line * CUDA_BLOCK_TOKENS + position % CUDA_BLOCK_TOKENS) * w->l.d;
}

static void world_fill_kv(struct world *w)
{
    for (size_t i = 0; i < w->kv.bytes / sizeof(uint16_t); i++)
        ((uint16_t *)w->kv.host)[i] = NAN_HALF;
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++)
        for (uint32_t p = 0; p < sequence_end(&w->l, s); p++)
            for (uint32_t h = 0; h < w->l.n_heads; h++) {
                fill_part(w->l.half, PART_K, s, p, h, w->l.d, 1, world_kv(w, PART_K, s, p, h));
                fill_part(w->l.half, PART_V, s, p, h, w->l.d, 1, world_kv(w, PART_V, s, p, h));
            }
}

static void world_fill_rows(struct world *w)
{
    uint32_t row = 0;
    for (uint32_t i = 0; i < w->l.n_runs; i++) {
        const struct run *run = &w->l.runs[i];
        ((struct cuda_tile *)w->tiles.host)[i] = (struct cuda_tile){row, run->n_rows, run->sequence, run->position};
        for (uint32_t j = 0; j < run->n_rows; j++, row++) {
            ((uint32_t *)w->positions.host)[row] = run->position + j;
            ((uint32_t *)w->slots.host)[row] = run->sequence;
            for (uint32_t h = 0; h < w->l.n_heads; h++)
                fill_part(w->l.half, PART_Q, run->sequence, run->position + j, h, w->l.d, w->l.q_size,
                          (uint16_t *)w->qkv.host + ((size_t)row * w->l.n_heads + h) * 3 * w->l.d);
        }
    }
}

static struct world world_new(const struct layout *l)
{
    struct world w = {.l = *l, .n_blocks = 3};
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++) {
        const uint32_t n = sequence_end(l, s);
        w.n_blocks += blocks_of(n);
        w.blocks_stride = blocks_of(n) > w.blocks_stride ? blocks_of(n) : w.blocks_stride;
    }
    for (uint32_t i = 0; i < l->n_runs; i++)
        w.n_rows += l->runs[i].n_rows;
    w.n_splits = (w.blocks_stride * CUDA_BLOCK_TOKENS - 1) / cuda_split_positions(l->d) + 1;
    const size_t row_heads = (size_t)w.n_rows * l->n_heads;
    w.counts = kernel_buffer_new(1, sizeof(struct cuda_counts));
    w.tiles = kernel_buffer_new(l->n_runs, sizeof(struct cuda_tile));
    w.positions = kernel_buffer_new(w.n_rows, sizeof(uint32_t));
    w.slots = kernel_buffer_new(w.n_rows, sizeof(uint32_t));
    w.blocks = kernel_buffer_new((size_t)SEQUENCES_MAX * w.blocks_stride, sizeof(uint32_t));
    w.qkv = kernel_buffer_new(row_heads * 3 * l->d, sizeof(uint16_t));
    w.kv = kernel_buffer_new((size_t)w.n_blocks * 2 * l->n_heads * CUDA_BLOCK_TOKENS * l->d, sizeof(uint16_t));
    w.out = kernel_buffer_new(row_heads * l->d, sizeof(uint16_t));
    w.part_o = kernel_buffer_new(row_heads * w.n_splits * l->d, sizeof(float));
    w.part_ml = kernel_buffer_new(row_heads * w.n_splits * 2, sizeof(float));
    ((struct cuda_counts *)w.counts.host)->n_rows = w.n_rows;
    world_blocks(&w);
    world_fill_kv(&w);
    world_fill_rows(&w);
    struct kernel_buffer *all[] = {&w.counts, &w.tiles, &w.positions, &w.slots,  &w.blocks,
                                   &w.qkv,    &w.kv,    &w.out,       &w.part_o, &w.part_ml};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_upload(all[i]);
    return w;
}

static void world_free(struct world *w)
{
    struct kernel_buffer *all[] = {&w->counts, &w->tiles, &w->positions, &w->slots,  &w->blocks,
                                   &w->qkv,    &w->kv,    &w->out,       &w->part_o, &w->part_ml};
    for (size_t i = 0; i < COUNT(all); i++)
        kernel_buffer_free(all[i]);
}

static struct cuda_prefill_args world_prefill(const struct world *w, bool on_device)
{
    return (struct cuda_prefill_args){.tiles = kernel_at(&w->tiles, on_device),
                                      .blocks = kernel_at(&w->blocks, on_device),
                                      .qkv = kernel_at(&w->qkv, on_device),
                                      .kv = kernel_at(&w->kv, on_device),
                                      .out = kernel_at(&w->out, on_device),
                                      .blocks_stride = w->blocks_stride,
                                      .n_heads = w->l.n_heads,
                                      .scale = 1 / sqrtf((float)w->l.d)};
}

static struct cuda_decode_args world_decode(const struct world *w, bool on_device)
{
    return (struct cuda_decode_args){.counts = kernel_at(&w->counts, on_device),
                                     .positions = kernel_at(&w->positions, on_device),
                                     .slots = kernel_at(&w->slots, on_device),
                                     .blocks = kernel_at(&w->blocks, on_device),
                                     .qkv = kernel_at(&w->qkv, on_device),
                                     .kv = kernel_at(&w->kv, on_device),
                                     .part_o = kernel_at(&w->part_o, on_device),
                                     .part_ml = kernel_at(&w->part_ml, on_device),
                                     .blocks_stride = w->blocks_stride,
                                     .n_heads = w->l.n_heads,
                                     .n_splits_max = w->n_splits,
                                     .scale = 1 / sqrtf((float)w->l.d)};
}

static struct cuda_merge_args world_merge(const struct world *w, bool on_device)
{
    return (struct cuda_merge_args){.counts = kernel_at(&w->counts, on_device),
                                    .positions = kernel_at(&w->positions, on_device),
                                    .part_o = kernel_at(&w->part_o, on_device),
                                    .part_ml = kernel_at(&w->part_ml, on_device),
                                    .out = kernel_at(&w->out, on_device),
                                    .n_heads = w->l.n_heads,
                                    .n_splits_max = w->n_splits,
                                    .head_dim = w->l.d};
}

static void *download(const struct kernel_buffer *b)
{
    void *to = calloc(b->bytes ? b->bytes : 1, 1);
    assert_non_null(to);
    kernel_buffer_download(b, to);
    return to;
}

/* [T][H][D], the caller's. */
static uint16_t *run_prefill(const struct world *w)
{
    const struct cuda_prefill_args args = world_prefill(w, true);
    kernel_run(kernel_name("prefill_%s_d%u", half_name(w->l.half), w->l.d), w->l.n_runs, w->l.n_heads, 1,
               CUDA_PREFILL_THREADS, cuda_prefill_shared_bytes(w->l.d), &args);
    return download(&w->out);
}

static void run_decode_parts(const struct world *w)
{
    const struct cuda_decode_args args = world_decode(w, true);
    kernel_run(kernel_name("decode_%s_d%u", half_name(w->l.half), w->l.d),
               (w->n_splits + CUDA_DECODE_WARPS - 1) / CUDA_DECODE_WARPS, w->l.n_heads, w->n_rows,
               CUDA_DECODE_WARPS * CUDA_WARP, cuda_decode_shared_bytes(w->l.d), &args);
}

static uint16_t *run_merge(const struct world *w)
{
    const struct cuda_merge_args args = world_merge(w, true);
    kernel_run(kernel_name("merge_%s", half_name(w->l.half)), w->n_rows, w->l.n_heads, 1, CUDA_WARP, 0, &args);
    return download(&w->out);
}

static uint16_t *run_decode(const struct world *w)
{
    run_decode_parts(w);
    return run_merge(w);
}

/* ---- how far from the twins ---- */

/* The twin's answer with |V| in place of V, here alone, is the sum of magnitudes that errors are relative to. */
static void make_v_positive(const struct world *w)
{
    for (uint32_t s = 0; s < SEQUENCES_MAX; s++)
        for (uint32_t p = 0; p < sequence_end(&w->l, s); p++)
            for (uint32_t h = 0; h < w->l.n_heads; h++)
                for (uint32_t i = 0; i < w->l.d; i++)
                    world_kv(w, PART_V, s, p, h)[i] &= 0x7fff;
}

/* A score sums D products of at most q_size; tensor cores cut off below the last place of the largest term of 16, so each of
 * the D / 16 steps and the roundings around may lose 2^-22 of sum |q k| / sqrt(D), about q_size / 4 sqrt(D) here. A weight's
 * relative error is twice that (its own score and the largest), and 2^-20 for ex2, whose argument is up to 32. */
static double weight_error(const struct layout *l)
{
    const double score = (double)l->d / 16 * 0x1p-22 * (double)l->q_size / 4 * sqrt((double)l->d);
    return 2 * score + 0x1p-20;
}

/* Each weight is rounded to half before it meets V, and in f16 no closer than 2^-25; the sum is in f32. */
static double sum_error(const struct layout *l, double magnitude, uint32_t n)
{
    return (half_unit(l->half) + weight_error(l) + 0x1p-20) * magnitude +
           (l->half == MODEL_F16 ? 0x1p-25 * (double)n : 0);
}

static void check_against_twin(struct world *w, const uint16_t *got, const char *kernel)
{
    const struct layout *l = &w->l;
    const size_t n = (size_t)w->n_rows * l->n_heads * l->d;
    const struct cuda_prefill_args args = world_prefill(w, false);
    uint16_t *want = calloc(n, sizeof *want), *out = w->out.host;
    assert_non_null(want);
    cuda_twin_prefill(l->half, l->d, l->n_runs, &args);
    memcpy(want, out, n * sizeof *want);
    make_v_positive(w);
    cuda_twin_prefill(l->half, l->d, l->n_runs, &args);
    world_fill_kv(w);
    for (size_t i = 0; i < n; i++) {
        const size_t row = i / (l->n_heads * l->d);
        const uint32_t position = ((uint32_t *)w->positions.host)[row];
        const double ref = widen(l->half, want[i]), magnitude = widen(l->half, out[i]);
        /* both results are rounded to half at the end */
        const double allowed = sum_error(l, magnitude, position + 1) + 2 * half_unit(l->half) * fabs(ref) + 0x1p-24;
        kernel_close_to(widen(l->half, got[i]), ref, allowed, "%s_%s_d%u: out[%zu][%zu][%zu] at position %u", kernel,
                        half_name(l->half), l->d, row, i / l->d % l->n_heads, i % l->d, position);
    }
    free(want);
}

/* The edges: of KV blocks (16), of splits (32 or 64), of tiles (16 rows a warp, 64 a block). */
static const struct run edges[] = {
    {0, 0, 1},  {1, 0, 15},  {2, 0, 16}, {3, 0, 17},  {0, 1, 14},   {0, 15, 1},  {0, 16, 15},
    {0, 31, 2}, {1, 15, 48}, {1, 63, 1}, {1, 64, 64}, {1, 128, 63}, {0, 33, 31}, {0, 64, 1},
};
static const struct run far_edges[] = {{2, 255, 1}, {2, 256, 1}, {2, 257, 2}, {3, 575, 33}};

static struct layout layout_of(enum model_dtype half, uint32_t d, const struct run *runs, size_t n_runs)
{
    return (struct layout){half, d, 2, runs, (uint32_t)n_runs, 1, 6};
}

static void near_prefill_at_the_edges(void **state)
{
    (void)state;
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            const struct layout l = layout_of(halves[t], head_dims[i], edges, COUNT(edges));
            struct world w = world_new(&l);
            uint16_t *got = run_prefill(&w);
            check_against_twin(&w, got, "prefill");
            free(got);
            world_free(&w);
        }
}

/* One to 64 positions: each KV block of a split ends everywhere. */
static void near_prefill_of_every_length(void **state)
{
    (void)state;
    struct run runs[64];
    for (uint32_t i = 0; i < COUNT(runs); i++)
        runs[i] = (struct run){i % SEQUENCES_MAX, i, 1};
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            struct layout l = layout_of(halves[t], head_dims[i], runs, COUNT(runs));
            l.n_heads = 1;
            struct world w = world_new(&l);
            uint16_t *got = run_prefill(&w), *decoded = run_decode(&w);
            check_against_twin(&w, got, "prefill");
            check_against_twin(&w, decoded, "decode");
            free(got);
            free(decoded);
            world_free(&w);
        }
}

static void near_prefill_of_long_contexts(void **state)
{
    (void)state;
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            struct layout l = layout_of(halves[t], head_dims[i], far_edges, COUNT(far_edges));
            l.n_heads = 1;
            struct world w = world_new(&l);
            uint16_t *got = run_prefill(&w);
            check_against_twin(&w, got, "prefill");
            free(got);
            world_free(&w);
        }
}

/* Scores of thousands: one weight is 1 and the others 0, whole splits count for nothing, before and after the one that does. */
static void near_prefill_of_extreme_scores(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 130, 40}, {1, 0, 64}};
    for (size_t t = 0; t < COUNT(halves); t++) {
        struct layout l = layout_of(halves[t], 64, runs, COUNT(runs));
        l.q_size = 20000;
        struct world w = world_new(&l);
        uint16_t *got = run_prefill(&w);
        for (size_t i = 0; i < w.out.bytes / sizeof *got; i++)
            if (!isfinite(widen(l.half, got[i])))
                fail_msg("prefill_%s_d64: out[%zu] is %g", half_name(l.half), i, widen(l.half, got[i]));
        check_against_twin(&w, got, "prefill");
        free(got);
        world_free(&w);
    }
}

/* ---- bit for bit ---- */

static void check_same(const struct layout *l, const uint16_t *got, const uint16_t *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("%s_d%u, %s: out[%zu] is %.9g (%04x), should be %.9g (%04x)", half_name(l->half), l->d, what, i,
                     widen(l->half, got[i]), got[i], widen(l->half, want[i]), want[i]);
}

static void same_by_decode_as_by_prefill(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 0, 2},   {0, 14, 4},  {1, 62, 4}, {2, 127, 2},
                                      {2, 255, 3}, {3, 575, 2}, {1, 31, 3}, {1, 95, 2}};
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            const struct layout l = layout_of(halves[t], head_dims[i], runs, COUNT(runs));
            struct world w = world_new(&l);
            uint16_t *prefilled = run_prefill(&w);
            memset(w.out.host, 0, w.out.bytes);
            kernel_buffer_upload(&w.out);
            uint16_t *decoded = run_decode(&w);
            check_same(&l, decoded, prefilled, w.out.bytes / sizeof *decoded, "decode against prefill");
            free(prefilled);
            free(decoded);
            world_free(&w);
        }
}

/* The rows of sequence 1 from position 23 to 160, in tiles of 64; and then otherwise. */
enum { CHUNKED_FROM = 23, CHUNKED_TO = 161 };

static void check_chunks(const struct layout *whole, const uint16_t *want, const struct run *runs, uint32_t n_runs,
                         bool together, const char *what)
{
    const size_t row_halves = (size_t)whole->n_heads * whole->d;
    for (uint32_t first = 0; first < n_runs; first += together ? n_runs : 1) {
        struct layout l = *whole;
        l.runs = runs + first;
        l.n_runs = together ? n_runs : 1;
        l.shuffle = whole->shuffle + 1 + first;
        struct world w = world_new(&l);
        uint16_t *got = run_prefill(&w);
        for (uint32_t i = 0, row = 0; i < l.n_runs; row += l.runs[i++].n_rows)
            if (l.runs[i].sequence == 1)
                check_same(&l, got + row * row_halves, want + (l.runs[i].position - CHUNKED_FROM) * row_halves,
                           l.runs[i].n_rows * row_halves, what);
        free(got);
        world_free(&w);
    }
}

static void same_in_other_chunks_and_blocks(void **state)
{
    (void)state;
    static const struct run whole_runs[] = {{1, 23, 64}, {1, 87, 64}, {1, 151, 10}};
    static const struct run chunks[] = {{1, 23, 1}, {1, 24, 17}, {1, 41, 40}, {1, 81, 15}, {1, 96, 64}, {1, 160, 1}};
    static const struct run mixed[] = {{0, 5, 3}, {1, 23, 33}, {2, 0, 64}, {1, 56, 64}, {3, 100, 1}, {1, 120, 41}};
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            const struct layout l = layout_of(halves[t], head_dims[i], whole_runs, COUNT(whole_runs));
            struct world w = world_new(&l);
            uint16_t *want = run_prefill(&w);
            check_chunks(&l, want, chunks, COUNT(chunks), false, "one chunk after the other");
            check_chunks(&l, want, mixed, COUNT(mixed), true, "among other sequences");
            free(want);
            world_free(&w);
        }
}

/* ---- decode's parts, and what it leaves alone ---- */

static void check_parts(struct world *w, const float *got_o, const float *got_ml)
{
    const struct layout *l = &w->l;
    const struct cuda_decode_args args = world_decode(w, false);
    const size_t n = w->part_o.bytes / sizeof(float);
    float *want = calloc(n, sizeof *want), *o = w->part_o.host, *ml = w->part_ml.host;
    assert_non_null(want);
    cuda_twin_decode(l->half, l->d, &args);
    memcpy(want, o, n * sizeof *want);
    make_v_positive(w);
    cuda_twin_decode(l->half, l->d, &args);
    world_fill_kv(w);
    for (size_t i = 0; i < n; i++) {
        const size_t part = i / l->d;
        const double shift = exp2((double)(got_ml[2 * part] - ml[2 * part])); /* both are relative to their own m */
        kernel_close_to((double)got_o[i] * shift, (double)want[i],
                        sum_error(l, (double)o[i], cuda_split_positions(l->d)), "decode_%s_d%u: o[%zu] of part %zu",
                        half_name(l->half), l->d, i % l->d, part);
    }
    for (size_t part = 0; part < w->part_ml.bytes / sizeof(float) / 2; part++) {
        const double m = (double)ml[2 * part], l_sum = (double)ml[2 * part + 1];
        const double m_error = weight_error(l) + 0x1p-22 * fabs(m);
        kernel_close_to((double)got_ml[2 * part], m, m_error, "decode_%s_d%u: m of part %zu", half_name(l->half), l->d,
                        part);
        kernel_close_to((double)got_ml[2 * part + 1], l_sum, (weight_error(l) + 2 * m_error) * l_sum,
                        "decode_%s_d%u: l of part %zu", half_name(l->half), l->d, part);
    }
    free(want);
}

/* Parts that nobody should write hold this on both sides. */
static void fill_parts(struct world *w, float value)
{
    float *o = w->part_o.host, *ml = w->part_ml.host;
    for (size_t i = 0; i < w->part_o.bytes / sizeof *o; i++)
        o[i] = value;
    for (size_t i = 0; i < w->part_ml.bytes / sizeof *ml; i++)
        ml[i] = value;
    kernel_buffer_upload(&w->part_o);
    kernel_buffer_upload(&w->part_ml);
}

static void near_decode_parts(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 0, 1}, {1, 15, 2}, {2, 63, 2}, {3, 255, 2}, {0, 40, 1}};
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            const struct layout l = layout_of(halves[t], head_dims[i], runs, COUNT(runs));
            struct world w = world_new(&l);
            ((struct cuda_counts *)w.counts.host)->n_rows = w.n_rows - 1; /* the last row is not there */
            kernel_buffer_upload(&w.counts);
            fill_parts(&w, 1);
            run_decode_parts(&w);
            float *o = download(&w.part_o), *ml = download(&w.part_ml);
            check_parts(&w, o, ml);
            free(o);
            free(ml);
            world_free(&w);
        }
}

/* ---- merge ---- */

/* Parts past a row's last split are NaN, and not to be read. */
static void fill_random_parts(struct world *w)
{
    const uint32_t d = w->l.d;
    uint64_t random = 7;
    float *ml = w->part_ml.host, *o = w->part_o.host;
    for (uint32_t row = 0; row < w->n_rows; row++) {
        const uint32_t n = ((uint32_t *)w->positions.host)[row] / cuda_split_positions(d) + 1;
        for (uint32_t i = 0; i < w->n_splits; i++) {
            const size_t part = (size_t)row * w->n_splits + i;
            ml[2 * part] = i < n ? 8 * kernel_uniform(&random) : NAN;
            ml[2 * part + 1] = i < n ? 2 + kernel_uniform(&random) : NAN;
            for (uint32_t k = 0; k < d; k++)
                o[part * d + k] = i < n ? kernel_uniform(&random) : NAN;
        }
    }
    ml[0] = 300; /* beyond what 2^m could hold */
}

static void near_merge(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 0, 1},    {1, 64, 2},   {2, 130, 1},  {2, 200, 1}, {2, 260, 1},
                                      {2, 330, 1},  {2, 400, 1},  {2, 511, 2},  {2, 640, 2}, {3, 991, 1},
                                      {3, 1023, 2}, {3, 2047, 2}, {3, 2112, 1}, {0, 9, 1}};
    for (size_t t = 0; t < COUNT(halves); t++)
        for (size_t i = 0; i < COUNT(head_dims); i++) {
            struct layout l = layout_of(halves[t], head_dims[i], runs, COUNT(runs));
            l.n_heads = 1;
            struct world w = world_new(&l);
            fill_random_parts(&w);
            ((struct cuda_counts *)w.counts.host)->n_rows = w.n_rows - 1;
            memset(w.out.host, 0x55, w.out.bytes);
            kernel_buffer_upload(&w.counts);
            kernel_buffer_upload(&w.part_ml);
            kernel_buffer_upload(&w.part_o);
            kernel_buffer_upload(&w.out);
            uint16_t *got = run_merge(&w), *want = w.out.host;
            const struct cuda_merge_args args = world_merge(&w, false);
            cuda_twin_merge(l.half, &args);
            for (size_t k = 0; k < w.out.bytes / sizeof *got; k++) {
                const double ref = widen(l.half, want[k]);
                /* |o| <= 1, so that out is a mean of at most 1 of as many parts; each fold rounds twice in f32 */
                const double allowed = 2 * half_unit(l.half) * fabs(ref) + (double)w.n_splits * 0x1p-22 + 0x1p-24;
                kernel_close_to(widen(l.half, got[k]), ref, allowed, "merge_%s: out[%zu] of D=%u", half_name(l.half), k,
                                l.d);
            }
            free(got);
            world_free(&w);
        }
}

/* ---- bytes moved: gates/check_bytes.py reads these lines, and beside them what the emulated driver counted ---- */

/* least: what must come from memory or go to it; requested_most: how many times that the caches may be asked for; shared_bytes: what
 * is written to and read from shared memory. */
static void say_least_bytes(const char *kernel, size_t least, double requested_most, size_t shared_bytes)
{
    printf("least bytes of %s: %zu, requested at most %g times, %zu wavefronts\n", kernel, least, requested_most,
           shared_bytes / 128);
}

/* One row of each head sees 1024 positions: K and V once, the rest is little. */
static void bytes_of_decode(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 1023, 1}};
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        const uint32_t d = head_dims[i];
        const struct layout l = layout_of(MODEL_F16, d, runs, COUNT(runs));
        struct world w = world_new(&l);
        const size_t kv_bytes = (size_t)l.n_heads * 1024 * 2 * d * sizeof(uint16_t),
                     row_bytes = l.n_heads * d * sizeof(uint16_t);
        run_decode_parts(&w);
        float *o = download(&w.part_o), *ml = download(&w.part_ml);
        check_parts(&w, o, ml);
        /* in by cp.async, out by ldmatrix; each warp asks for q */
        say_least_bytes(kernel_name("decode_f16_d%u", d), kv_bytes + row_bytes, 1.15, 2 * kv_bytes);
        world_free(&w);
        free(o);
        free(ml);
    }
}

static void bytes_of_prefill(void **state)
{
    (void)state;
    static const struct run runs[] = {{0, 0, 64}, {0, 64, 64}, {0, 128, 64}, {0, 192, 64}};
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        const uint32_t d = head_dims[i], split = cuda_split_positions(d), n_splits = (64 + 128 + 192 + 256) / split;
        const struct layout l = layout_of(MODEL_F16, d, runs, COUNT(runs));
        struct world w = world_new(&l);
        uint16_t *got = run_prefill(&w);
        check_against_twin(&w, got, "prefill");
        /* K and V in once and out by each of 4 warps; q in once and out once, or for each split; out in once and out once */
        const size_t tile_bytes = 64 * d * sizeof(uint16_t), split_bytes = 2 * split * d * sizeof(uint16_t);
        const size_t shared_bytes =
            n_splits * split_bytes * 5 + 4 * tile_bytes * 3 + (d > 128 ? n_splits : 4) * tile_bytes;
        const double requested =
            (2.5 * 2 + 2) / 4; /* K and V of 640 positions for 256, q and out once; and numbers of KV blocks */
        say_least_bytes(kernel_name("prefill_f16_d%u", d), (size_t)l.n_heads * 256 * 4 * d * sizeof(uint16_t),
                        requested + 0.1, l.n_heads * shared_bytes);
        free(got);
        world_free(&w);
    }
}

/* ---- caches of more than 2^31 halves ---- */

/* 40 heads of 128: a KV block has 320 KiB, and these block numbers lie on both sides of 2^31 and 2^32 halves. */
static void same_in_a_large_cache(void **state)
{
    (void)state;
    static const uint32_t numbers[] = {26300, 13106, 0, 13108, 6553};
    static const struct run runs[] = {{0, 70, 3}};
    struct layout l = layout_of(MODEL_F16, 128, runs, COUNT(runs));
    l.n_heads = 40;
    struct world w = world_new(&l);
    uint16_t *want = run_prefill(&w);
    const size_t block_bytes = (size_t)2 * l.n_heads * CUDA_BLOCK_TOKENS * l.d * sizeof(uint16_t);
    const size_t page = kernel_granularity(), reserved = (26301 * block_bytes / page + 1) * page;
    const uint64_t base = kernel_reserve(reserved);
    uint32_t *blocks = w.blocks.host;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const uint64_t at = numbers[i] * block_bytes, from = at / page * page;
        kernel_map(base + from, (at + block_bytes - from + page - 1) / page * page);
        kernel_copy_to(base + at, (uint8_t *)w.kv.host + blocks[i] * block_bytes, block_bytes);
        blocks[i] = numbers[i];
    }
    kernel_buffer_upload(&w.blocks);
    const uint64_t small = w.kv.device;
    w.kv.device = base;
    uint16_t *prefilled = run_prefill(&w), *decoded = run_decode(&w);
    check_same(&l, prefilled, want, w.out.bytes / sizeof *want, "prefill from a large cache");
    check_same(&l, decoded, want, w.out.bytes / sizeof *want, "decode from a large cache");
    w.kv.device = small;
    for (size_t i = 0; i < COUNT(numbers); i++) {
        const uint64_t at = numbers[i] * block_bytes, from = at / page * page;
        kernel_unmap(base + from, (at + block_bytes - from + page - 1) / page * page);
    }
    kernel_unreserve(base, reserved);
    free(prefilled);
    free(decoded);
    free(want);
    world_free(&w);
}

/* ---- rotary ---- */

struct turned {
    enum model_dtype half;
    uint32_t d, rotary_dims, n_heads, n_rows, n_ctx;
    struct kernel_buffer counts, positions, slots, blocks, cos, sin, qkv, kv;
};

/* Positions at both ends of KV blocks, and one far out; the last row is not counted. */
static const uint32_t turned_positions[] = {0, 1, 15, 16, 63, 64, 255, 257, 700, 3};
enum { TURNED_STRIDE = 44, TURNED_BLOCKS = 50 };

static struct kernel_buffer *turned_buffers(struct turned *t, size_t i)
{
    struct kernel_buffer *all[] = {&t->counts, &t->positions, &t->slots, &t->blocks, &t->cos, &t->sin, &t->qkv, &t->kv};
    return i < COUNT(all) ? all[i] : NULL;
}

static struct turned turned_new(enum model_dtype half, uint32_t d, uint32_t rotary_dims, uint32_t n_heads)
{
    struct turned t = {half, d, rotary_dims, n_heads, COUNT(turned_positions), 701};
    uint64_t state = d * 1000 + rotary_dims;
    t.counts = kernel_buffer_new(1, sizeof(struct cuda_counts));
    t.positions = kernel_buffer_new(t.n_rows, sizeof(uint32_t));
    t.slots = kernel_buffer_new(t.n_rows, sizeof(uint32_t));
    t.blocks = kernel_buffer_new(2 * TURNED_STRIDE, sizeof(uint32_t));
    t.cos = kernel_buffer_new((size_t)t.n_ctx * (rotary_dims / 2), sizeof(float));
    t.sin = kernel_buffer_new((size_t)t.n_ctx * (rotary_dims / 2), sizeof(float));
    t.qkv = kernel_buffer_new((size_t)t.n_rows * n_heads * 3 * d, sizeof(uint16_t));
    t.kv = kernel_buffer_new((size_t)TURNED_BLOCKS * 2 * n_heads * CUDA_BLOCK_TOKENS * d, sizeof(uint16_t));
    ((struct cuda_counts *)t.counts.host)->n_rows = t.n_rows - 1;
    memcpy(t.positions.host, turned_positions, sizeof turned_positions);
    for (uint32_t i = 0; i < t.n_rows; i++)
        ((uint32_t *)t.slots.host)[i] = 1;
    for (uint32_t i = 0; i < TURNED_STRIDE; i++)
        ((uint32_t *)t.blocks.host)[TURNED_STRIDE + i] = TURNED_BLOCKS - 1 - i;
    for (size_t i = 0; i < t.cos.bytes / sizeof(float); i++) {
        const float angle = 3 * kernel_uniform(&state);
        ((float *)t.cos.host)[i] = cosf(angle);
        ((float *)t.sin.host)[i] = sinf(angle);
    }
    for (size_t i = 0; i < t.qkv.bytes / sizeof(uint16_t); i++)
        ((uint16_t *)t.qkv.host)[i] = cuda_twin_narrow(half, (double)(4 * kernel_uniform(&state)));
    memset(t.kv.host, 0x3c, t.kv.bytes); /* what is not written stays so, on both sides */
    for (size_t i = 0; turned_buffers(&t, i); i++)
        kernel_buffer_upload(turned_buffers(&t, i));
    return t;
}

static struct cuda_rotary_args turned_args(const struct turned *t, bool on_device)
{
    return (struct cuda_rotary_args){.counts = kernel_at(&t->counts, on_device),
                                     .positions = kernel_at(&t->positions, on_device),
                                     .slots = kernel_at(&t->slots, on_device),
                                     .blocks = kernel_at(&t->blocks, on_device),
                                     .cos = kernel_at(&t->cos, on_device),
                                     .sin = kernel_at(&t->sin, on_device),
                                     .qkv = kernel_at(&t->qkv, on_device),
                                     .kv = kernel_at(&t->kv, on_device),
                                     .blocks_stride = TURNED_STRIDE,
                                     .n_heads = t->n_heads,
                                     .head_dim = t->d,
                                     .rotary_dims = t->rotary_dims};
}

static void check_turned(const struct turned *t, const struct kernel_buffer *b, const char *what)
{
    uint16_t *got = download(b);
    const uint16_t *want = b->host;
    for (size_t i = 0; i < b->bytes / sizeof *got; i++) {
        const double ref = widen(t->half, want[i]);
        /* values are below 4, so that f32 loses 2^-22 of them; then f32 and double may round to neighbours; what is not
         * turned is the same */
        const bool turns = got[i] != want[i] && i % t->d < t->rotary_dims;
        const double allowed = turns ? 2 * half_unit(t->half) * fabs(ref) + 0x1p-20 : 0;
        kernel_close_to(widen(t->half, got[i]), ref, allowed, "rotary_%s: %s[%zu] of D=%u R=%u H=%u",
                        half_name(t->half), what, i, t->d, t->rotary_dims, t->n_heads);
    }
    free(got);
}

static void near_rotary(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {/* D, R, H */
                                         {32, 8, 4},   {32, 0, 11},  {32, 32, 10}, {64, 16, 6},   {64, 6, 5},
                                         {64, 64, 1},  {80, 20, 5},  {80, 80, 4},  {96, 24, 4},   {96, 2, 3},
                                         {128, 32, 3}, {128, 90, 2}, {256, 64, 2}, {256, 256, 1}, {256, 254, 1}};
    for (size_t h = 0; h < COUNT(halves); h++)
        for (size_t i = 0; i < COUNT(shapes); i++) {
            struct turned t = turned_new(halves[h], shapes[i][0], shapes[i][1], shapes[i][2]);
            const struct cuda_rotary_args device = turned_args(&t, true), host = turned_args(&t, false);
            const uint32_t heads = cuda_rotary_heads(t.d);
            kernel_run(kernel_name("rotary_%s", half_name(t.half)), t.n_rows, (t.n_heads + heads - 1) / heads, 1,
                       CUDA_ROTARY_THREADS, 0, &device);
            cuda_twin_rotary(t.half, &host);
            check_turned(&t, &t.qkv, "qkv");
            check_turned(&t, &t.kv, "kv");
            for (size_t k = 0; turned_buffers(&t, k); k++)
                kernel_buffer_free(turned_buffers(&t, k));
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_rotary),
        cmocka_unit_test(near_prefill_at_the_edges),
        cmocka_unit_test(near_prefill_of_every_length),
        cmocka_unit_test(near_prefill_of_long_contexts),
        cmocka_unit_test(near_prefill_of_extreme_scores),
        cmocka_unit_test(near_decode_parts),
        cmocka_unit_test(near_merge),
        cmocka_unit_test(bytes_of_decode),
        cmocka_unit_test(bytes_of_prefill),
        cmocka_unit_test(same_by_decode_as_by_prefill),
        cmocka_unit_test(same_in_other_chunks_and_blocks),
        cmocka_unit_test(same_in_a_large_cache),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    kernels_open();
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    kernels_close();
    return rc;
}
