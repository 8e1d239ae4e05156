/* record_kernels DIR - every kernel on fixed inputs, what came out written down bit for bit (kernel_bed.h).
 *
 * Run on a card it makes the golden files in tests/gpu/golden; run on the emulated driver it makes what is compared with them
 * (compare_kernels.py). A card is rarely at hand, so a run that is here stays as it is, down to the numbers that it draws. */
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/kernel_bed.h"

static const struct half {
    const char *name;
    enum bed_type type;
} halves[] = {{"f16", BED_F16}, {"bf16", BED_BF16}};

static const uint32_t head_dims[] = {32, 64, 80, 96, 128, 256};

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* "norm_bf16", for the next bed_run. */
static const char *kernel_name(const char *base, const struct half *half)
{
    static char name[64];
    snprintf(name, sizeof name, "%s_%s", base, half->name);
    return name;
}

static const char *attention_name(const char *base, const struct half *half, uint32_t head_dim)
{
    static char name[64];
    snprintf(name, sizeof name, "%s_%s_d%u", base, half->name, head_dim);
    return name;
}

static void add_counts(struct bed *bed, struct cuda_counts counts)
{
    memcpy(bed_add(bed, "counts", BED_BYTES, sizeof counts), &counts, sizeof counts);
}

static void add_numbers(struct bed *bed, const char *name, enum bed_type type, size_t n, float around, float scale)
{
    bed_add(bed, name, type, n);
    bed_fill(bed, name, around, scale);
}

static void add_words(struct bed *bed, const char *name, const uint32_t *words, size_t n)
{
    memcpy(bed_add(bed, name, BED_I32, n), words, n * sizeof *words);
}

/* ---- one row a block ---- */

static void run_embed(struct bed *bed, const struct half *half)
{
    enum { T = 5, E = 192, V = 40 };
    add_counts(bed, (struct cuda_counts){.n_rows = T - 1}); /* the last row stays as it is */
    int32_t *tokens = bed_add(bed, "tokens", BED_I32, T);
    for (uint32_t t = 0; t < T; t++)
        tokens[t] = (int32_t)bed_random(bed, V);
    add_numbers(bed, "embedding", half->type, V * E, 0, 2);
    bed_add_output(bed, "x", BED_F32, T * E);
    const struct cuda_embed_args args = {bed_at(bed, "counts"), bed_at(bed, "tokens"), bed_at(bed, "embedding"),
                                         bed_at(bed, "x"), E};
    bed_run(bed, &(struct bed_launch){kernel_name("embed", half), {T, 1, 1}, CUDA_ROW_THREADS, 0, &args}, "T=%d E=%d",
            T, E);
}

static void run_norm(struct bed *bed, const struct half *half, uint32_t e, bool two, bool picks_rows)
{
    enum { T = 6, PICKED = 2 };
    static const uint32_t picked[PICKED] = {5, 2};
    const uint32_t n_out = picks_rows ? PICKED : T;
    add_counts(bed, (struct cuda_counts){.n_rows = T, .n_logits = PICKED});
    if (picks_rows)
        add_words(bed, "rows", picked, PICKED);
    add_numbers(bed, "x", BED_F32, (size_t)T * e, 0.3f, 4);
    add_numbers(bed, "gain1", BED_F32, e, 1, 0.5f);
    add_numbers(bed, "bias1", BED_F32, e, 0, 0.5f);
    bed_add_output(bed, "y1", half->type, (size_t)n_out * e);
    if (two) {
        add_numbers(bed, "gain2", BED_F32, e, 1, 0.5f);
        add_numbers(bed, "bias2", BED_F32, e, 0, 0.5f);
        bed_add_output(bed, "y2", half->type, (size_t)n_out * e);
    }
    const struct cuda_norm_args args = {.counts = bed_at(bed, "counts"),
                                        .rows = bed_at(bed, "rows"),
                                        .x = bed_at(bed, "x"),
                                        .gain1 = bed_at(bed, "gain1"),
                                        .bias1 = bed_at(bed, "bias1"),
                                        .gain2 = bed_at(bed, "gain2"),
                                        .bias2 = bed_at(bed, "bias2"),
                                        .y1 = bed_at(bed, "y1"),
                                        .y2 = bed_at(bed, "y2"),
                                        .e = e,
                                        .eps = 1e-5f};
    bed_run(bed, &(struct bed_launch){kernel_name("norm", half), {n_out, 1, 1}, CUDA_ROW_THREADS, 0, &args},
            "E=%u, %s, %s", e, two ? "two" : "one", picks_rows ? "picked rows" : "all rows");
}

/* Every bit pattern of the type. */
static void run_gelu(struct bed *bed, const struct half *half, enum cuda_act act)
{
    enum { T = 64, F = 1024 };
    add_counts(bed, (struct cuda_counts){.n_rows = T});
    uint16_t *x = bed_add_output(bed, "x", half->type, T * F);
    for (uint32_t i = 0; i < T * F; i++)
        x[i] = (uint16_t)i;
    const struct cuda_gelu_args args = {bed_at(bed, "counts"), bed_at(bed, "x"), F, act};
    bed_run(bed, &(struct bed_launch){kernel_name("gelu", half), {T, 1, 1}, CUDA_ROW_THREADS, 0, &args}, "every x, %s",
            act == CUDA_ACT_GELU_ERF ? "erf" : "tanh");
}

/* ---- attention: two sequences in a cache whose blocks lie in no order ---- */

enum { SLOTS = 2, STRIDE = 10, BLOCKS = SLOTS * STRIDE, HEADS = 2 };

static void add_blocks(struct bed *bed)
{
    uint32_t *blocks = bed_add(bed, "blocks", BED_I32, BLOCKS);
    for (uint32_t i = 0; i < BLOCKS; i++)
        blocks[i] = i;
    for (uint32_t i = BLOCKS - 1; i > 0; i--) {
        const uint32_t j = bed_random(bed, i + 1), other = blocks[j];
        blocks[j] = blocks[i];
        blocks[i] = other;
    }
}

static size_t kv_numbers(uint32_t head_dim)
{
    return (size_t)BLOCKS * 2 * HEADS * CUDA_BLOCK_TOKENS * head_dim;
}

static void run_rotary(struct bed *bed, const struct half *half, uint32_t d, uint32_t rotary_dims)
{
    static const uint32_t positions[] = {0, 17, 63, 64, 159}, slots[] = {0, 0, 1, 0, 1};
    enum { T = COUNT(positions), CTX = STRIDE * CUDA_BLOCK_TOKENS };
    add_counts(bed, (struct cuda_counts){.n_rows = T});
    add_words(bed, "positions", positions, T);
    add_words(bed, "slots", slots, T);
    add_blocks(bed);
    add_numbers(bed, "cos", BED_F32, (size_t)CTX * rotary_dims / 2, 0, 1);
    add_numbers(bed, "sin", BED_F32, (size_t)CTX * rotary_dims / 2, 0, 1);
    bed_add_output(bed, "qkv", half->type, (size_t)T * HEADS * 3 * d);
    bed_fill(bed, "qkv", 0, 3);
    bed_add_output(bed, "kv", half->type, kv_numbers(d));
    const struct cuda_rotary_args args = {.counts = bed_at(bed, "counts"),
                                          .positions = bed_at(bed, "positions"),
                                          .slots = bed_at(bed, "slots"),
                                          .blocks = bed_at(bed, "blocks"),
                                          .cos = bed_at(bed, "cos"),
                                          .sin = bed_at(bed, "sin"),
                                          .qkv = bed_at(bed, "qkv"),
                                          .kv = bed_at(bed, "kv"),
                                          .blocks_stride = STRIDE,
                                          .n_heads = HEADS,
                                          .head_dim = d,
                                          .rotary_dims = rotary_dims};
    const uint32_t heads = cuda_rotary_heads(d);
    bed_run(bed,
            &(struct bed_launch){
                kernel_name("rotary", half), {T, (HEADS + heads - 1) / heads, 1}, CUDA_ROTARY_THREADS, 0, &args},
            "D=%u R=%u", d, rotary_dims);
}

static float scale_of(uint32_t d)
{
    static const float scales[COUNT(head_dims)] = {0.17677669f, 0.125f, 0.1118034f, 0.10206208f, 0.088388346f, 0.0625f};
    size_t i = 0;
    while (head_dims[i] != d)
        i++;
    return scales[i]; /* 1 / sqrt(D), and not by this machine's libm */
}

static void run_prefill(struct bed *bed, const struct half *half, uint32_t d)
{
    static const struct cuda_tile tiles[] = {{0, 64, 0, 0}, {64, 6, 0, 64}, {70, 3, 1, 126}};
    enum { T = 73 };
    memcpy(bed_add(bed, "tiles", BED_BYTES, sizeof tiles), tiles, sizeof tiles);
    add_blocks(bed);
    add_numbers(bed, "qkv", half->type, (size_t)T * HEADS * 3 * d, 0, 3);
    add_numbers(bed, "kv", half->type, kv_numbers(d), 0, 2);
    bed_add_output(bed, "out", half->type, (size_t)T * HEADS * d);
    const struct cuda_prefill_args args = {bed_at(bed, "tiles"),
                                           bed_at(bed, "blocks"),
                                           bed_at(bed, "qkv"),
                                           bed_at(bed, "kv"),
                                           bed_at(bed, "out"),
                                           STRIDE,
                                           HEADS,
                                           scale_of(d)};
    bed_run(bed,
            &(struct bed_launch){attention_name("prefill", half, d),
                                 {COUNT(tiles), HEADS, 1},
                                 CUDA_PREFILL_THREADS,
                                 cuda_prefill_shared_bytes(d),
                                 &args},
            "70 from 0, 3 from 126");
}

static const uint32_t decode_positions[] = {0, 15, 16, 63, 64, 159}, decode_slots[] = {0, 1, 0, 1, 0, 1};
enum { DECODE_ROWS = COUNT(decode_positions) };

static uint32_t n_splits(uint32_t d)
{
    return (STRIDE * CUDA_BLOCK_TOKENS + cuda_split_positions(d) - 1) / cuda_split_positions(d);
}

static void run_decode(struct bed *bed, const struct half *half, uint32_t d)
{
    const uint32_t splits = n_splits(d);
    add_counts(bed, (struct cuda_counts){.n_rows = DECODE_ROWS});
    add_words(bed, "positions", decode_positions, DECODE_ROWS);
    add_words(bed, "slots", decode_slots, DECODE_ROWS);
    add_blocks(bed);
    add_numbers(bed, "qkv", half->type, (size_t)DECODE_ROWS * HEADS * 3 * d, 0, 3);
    add_numbers(bed, "kv", half->type, kv_numbers(d), 0, 2);
    bed_add_output(bed, "part_o", BED_F32, (size_t)DECODE_ROWS * HEADS * splits * d);
    bed_add_output(bed, "part_ml", BED_F32, (size_t)DECODE_ROWS * HEADS * splits * 2);
    const struct cuda_decode_args args = {.counts = bed_at(bed, "counts"),
                                          .positions = bed_at(bed, "positions"),
                                          .slots = bed_at(bed, "slots"),
                                          .blocks = bed_at(bed, "blocks"),
                                          .qkv = bed_at(bed, "qkv"),
                                          .kv = bed_at(bed, "kv"),
                                          .part_o = bed_at(bed, "part_o"),
                                          .part_ml = bed_at(bed, "part_ml"),
                                          .blocks_stride = STRIDE,
                                          .n_heads = HEADS,
                                          .n_splits_max = splits,
                                          .scale = scale_of(d)};
    bed_run(bed,
            &(struct bed_launch){attention_name("decode", half, d),
                                 {(splits + CUDA_DECODE_WARPS - 1) / CUDA_DECODE_WARPS, HEADS, DECODE_ROWS},
                                 CUDA_DECODE_WARPS * CUDA_WARP,
                                 cuda_decode_shared_bytes(d),
                                 &args},
            "positions 0 to 159");
}

/* m around 0, l a positive sum of weights, o of the size of l. */
static void run_merge(struct bed *bed, const struct half *half, uint32_t d)
{
    const uint32_t splits = n_splits(d);
    add_counts(bed, (struct cuda_counts){.n_rows = DECODE_ROWS});
    add_words(bed, "positions", decode_positions, DECODE_ROWS);
    add_numbers(bed, "part_o", BED_F32, (size_t)DECODE_ROWS * HEADS * splits * d, 0, 20);
    const size_t n = (size_t)DECODE_ROWS * HEADS * splits * 2;
    float *ml = bed_add(bed, "part_ml", BED_F32, n);
    bed_fill(bed, "part_ml", 0, 8);
    for (size_t i = 1; i < n; i += 2)
        ml[i] = 1 + ml[i] * ml[i];
    bed_add_output(bed, "out", half->type, (size_t)DECODE_ROWS * HEADS * d);
    const struct cuda_merge_args args = {.counts = bed_at(bed, "counts"),
                                         .positions = bed_at(bed, "positions"),
                                         .part_o = bed_at(bed, "part_o"),
                                         .part_ml = bed_at(bed, "part_ml"),
                                         .out = bed_at(bed, "out"),
                                         .n_heads = HEADS,
                                         .n_splits_max = splits,
                                         .head_dim = d};
    bed_run(bed, &(struct bed_launch){kernel_name("merge", half), {DECODE_ROWS, HEADS, 1}, CUDA_WARP, 0, &args}, "D=%u",
            d);
}

/* ---- products ---- */

static const uint32_t matmul_tokens[] = {8, 16, 32, 64};
static const char *const after_names[] = {"half", "gelu", "add", "f32"};

/* y's number before the product: CUDA_AFTER_ADD adds to it. */
static void add_y(struct bed *bed, const struct half *half, enum cuda_after after, size_t n)
{
    const bool in_f32 = after == CUDA_AFTER_ADD || after == CUDA_AFTER_F32;
    bed_add_output(bed, "y", in_f32 ? BED_F32 : half->type, n);
    if (after == CUDA_AFTER_ADD)
        bed_fill(bed, "y", 0, 1);
}

static void run_matmul(struct bed *bed, const struct half *half, bool q8, uint32_t t, enum cuda_after after)
{
    enum { N = 70, K = 336 };
    const uint32_t n_rows = t + 3, rows = cuda_matmul_block_rows(t);
    char name[64];
    add_counts(bed, (struct cuda_counts){.n_rows = n_rows});
    add_numbers(bed, "x", half->type, (size_t)n_rows * K, 0, 1);
    add_numbers(bed, "w", q8 ? BED_I8 : half->type, N * K, 0, q8 ? 127 : 0.2f);
    if (q8)
        add_numbers(bed, "scale", BED_F32, N, 0.002f, 0.001f);
    add_numbers(bed, "bias", BED_F32, N, 0, 1);
    add_y(bed, half, after, (size_t)n_rows * N);
    const struct cuda_matmul_args args = {.counts = bed_at(bed, "counts"),
                                          .x = bed_at(bed, "x"),
                                          .w = bed_at(bed, "w"),
                                          .scale = bed_at(bed, "scale"),
                                          .bias = bed_at(bed, "bias"),
                                          .y = bed_at(bed, "y"),
                                          .n = N,
                                          .k = K,
                                          .after = after,
                                          .act = CUDA_ACT_GELU_ERF};
    if (q8)
        snprintf(name, sizeof name, "matmul_q8_t%u", t);
    else
        snprintf(name, sizeof name, "matmul_%s_t%u", half->name, t);
    bed_run(bed,
            &(struct bed_launch){
                name, {(N + rows - 1) / rows, (n_rows + t - 1) / t, 1}, CUDA_MATMUL_WARPS * CUDA_WARP, 0, &args},
            "T=%u N=%d K=%d, %s", n_rows, N, K, after_names[after]);
}

/* ---- what must be exact ---- */

static void run_sample(struct bed *bed, uint32_t vocab)
{
    static const struct cuda_draw draws[] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 0.8f, .top_p = 1, .seed = 7, .draw = 3},
        {.temperature = 1, .top_k = 40, .top_p = 1, .seed = 8},
        {.temperature = 1.3f, .top_p = 0.9f, .seed = 9, .draw = 100},
        {.temperature = 1, .top_p = 1, .min_p = 0.05f, .seed = 10},
        {.temperature = 0.5f, .top_k = 100, .top_p = 0.95f, .min_p = 0.01f, .seed = 11},
    };
    enum { ROWS = COUNT(draws) };
    add_counts(bed, (struct cuda_counts){.n_rows = ROWS, .n_logits = ROWS, .n_sample = ROWS});
    memcpy(bed_add(bed, "draws", BED_BYTES, sizeof draws), draws, sizeof draws);
    add_numbers(bed, "logits", BED_F32, (size_t)ROWS * vocab, 0, 8);
    bed_add_output(bed, "tokens", BED_I32, ROWS);
    bed_add(bed, "scratch", BED_BYTES, (size_t)ROWS * cuda_sample_scratch_bytes(vocab));
    const struct cuda_sample_args args = {.counts = bed_at(bed, "counts"),
                                          .draws = bed_at(bed, "draws"),
                                          .logits = bed_at(bed, "logits"),
                                          .tokens = bed_at(bed, "tokens"),
                                          .scratch = bed_at(bed, "scratch"),
                                          .scratch_stride = cuda_sample_scratch_bytes(vocab),
                                          .vocab = vocab};
    bed_run(bed, &(struct bed_launch){"sample", {ROWS, 1, 1}, CUDA_SAMPLE_THREADS, 0, &args}, "V=%u", vocab);
}

static void run_hash(struct bed *bed)
{
    enum { BYTES = CUDA_HASH_BYTES + 4096 + 8 };
    uint32_t *words = bed_add(bed, "bytes", BED_BYTES, BYTES);
    for (uint32_t i = 0; i < BYTES / sizeof *words; i++)
        words[i] = bed_random(bed, UINT32_MAX);
    bed_add_output(bed, "hashes", BED_U64, 2);
    const struct cuda_hash_args args = {bed_at(bed, "bytes"), BYTES, bed_at(bed, "hashes")};
    bed_run(bed, &(struct bed_launch){"hash", {2, 1, 1}, CUDA_WARP, 0, &args}, "a whole chunk and a short one");
}

static void run_half(struct bed *bed, const struct half *half)
{
    run_embed(bed, half);
    run_norm(bed, half, 320, true, false);
    run_norm(bed, half, 2560, false, true);
    run_gelu(bed, half, CUDA_ACT_GELU_ERF);
    run_gelu(bed, half, CUDA_ACT_GELU_TANH);
    for (size_t i = 0; i < COUNT(head_dims); i++) {
        const uint32_t d = head_dims[i];
        run_rotary(bed, half, d, d == 64 ? d : d / 4);
        run_prefill(bed, half, d);
        run_decode(bed, half, d);
        run_merge(bed, half, d);
    }
    for (size_t i = 0; i < COUNT(matmul_tokens); i++)
        for (enum cuda_after after = CUDA_AFTER_HALF; after <= CUDA_AFTER_F32; after++) {
            run_matmul(bed, half, false, matmul_tokens[i], after);
            if (half->type == BED_F16) /* what is computed beside 8-bit weights is f16 */
                run_matmul(bed, half, true, matmul_tokens[i], after);
        }
}

int main(int argc, char **argv)
{
    struct bed bed;
    if (argc != 2) {
        fprintf(stderr, "usage: record_kernels DIR\n");
        return 2;
    }
    bed_open(&bed, argv[1]);
    for (size_t i = 0; i < COUNT(halves); i++)
        run_half(&bed, &halves[i]);
    run_sample(&bed, 1003);
    run_sample(&bed, 50304);
    run_hash(&bed);
    bed_close(&bed);
    return 0;
}
