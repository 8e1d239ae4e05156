/* Decode and prompts of one model, in every way that the back end offers, one after the other in each round. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/cuda/bench_cuda.h"
#include "bench/cuda/bench_weights.h"

enum { SEQUENCES_MAX = 32, STEP_TOKENS_MAX = 512, WAYS = 3 };

static const struct way {
    const char *name;
    struct gpu_open_options options;
} ways[WAYS] = {
    {"default", {0}},
    {"no graphs", {.no_graphs = true}},
    {"fastest GEMMs", {.fastest_gemms = true}},
};

/* Tokens of what is measured, by the size of the machine. */
struct sizes {
    uint32_t n_seqs;  /* that decode together at most */
    uint32_t prefix;  /* of each decoding sequence */
    uint32_t steps;   /* of decoding in one measurement */
    uint32_t prompt;  /* of the measured prompt */
    uint32_t context; /* of the one long sequence */
};

static const struct sizes full_sizes = {SEQUENCES_MAX, 128, 32, 512, 1920}, quick_sizes = {8, 20, 1, 40, 80};

/* One way's device and model. Sequence 0 may be as long as the context allows, the others hold prefix and steps. */
struct runner {
    const struct way *way;
    struct sizes sizes;
    struct gpu_device *device;
    struct gpu_model *model;
    uint32_t *blocks[SEQUENCES_MAX];
    int32_t tokens[STEP_TOKENS_MAX];
};

static uint32_t blocks_for(uint32_t n_tokens)
{
    return (n_tokens + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
}

static struct gpu_limits limits_for(const struct sizes *s)
{
    const uint32_t n_long = blocks_for(s->context + s->steps), n_short = blocks_for(s->prefix + s->steps);
    return (struct gpu_limits){.n_tokens_max = s->prompt > s->n_seqs ? s->prompt : s->n_seqs,
                               .n_seqs_max = s->n_seqs,
                               .n_logits_max = s->n_seqs,
                               .n_ctx_max = s->context + s->steps,
                               .n_blocks = n_long + (s->n_seqs - 1) * n_short};
}

static void runner_lay_out(struct runner *r, const struct gpu_limits *limits, uint32_t vocab)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < r->sizes.n_seqs; i++) {
        const uint32_t n = blocks_for(i == 0 ? limits->n_ctx_max : r->sizes.prefix + r->sizes.steps);
        r->blocks[i] = malloc(n * sizeof(uint32_t));
        if (!r->blocks[i])
            abort();
        for (uint32_t j = 0; j < n; j++)
            r->blocks[i][j] = next++;
    }
    for (uint32_t i = 0; i < STEP_TOKENS_MAX; i++)
        r->tokens[i] = (int32_t)(i * 31 % vocab);
}

static void runner_init(struct runner *r, const struct model_config *config, enum model_dtype dtype)
{
    struct base_error err = {0};
    const struct gpu_limits limits = limits_for(&r->sizes);
    bench_ok(gpu_open("cuda", &r->way->options, &r->device, &err), &err);
    bench_ok(gpu_model_new(r->device, config, dtype, &limits, &r->model, &err), &err);
    bench_ok(bench_weights_fill(r->device, r->model, &err), &err);
    bench_ok(gpu_model_warm_up(r->model, &err), &err);
    runner_lay_out(r, &limits, config->vocab);
}

static void runner_done(struct runner *r)
{
    gpu_model_free(r->model);
    gpu_close(r->device);
    for (uint32_t i = 0; i < SEQUENCES_MAX; i++)
        free(r->blocks[i]);
}

/* ---- steps ---- */

static void step(struct runner *r, uint32_t first, uint32_t n_seqs, uint32_t n_tokens, uint32_t position,
                 bool generated)
{
    struct gpu_sequence s[SEQUENCES_MAX];
    struct gpu_result result;
    struct base_error err = {0};
    for (uint32_t i = 0; i < n_seqs; i++)
        s[i] = (struct gpu_sequence){.tokens = r->tokens,
                                     .n_tokens = n_tokens,
                                     .position = position,
                                     .blocks = r->blocks[first + i],
                                     .n_logits = 1,
                                     .generated = generated,
                                     .sampling = &model_sampling_default};
    bench_ok(gpu_model_forward(r->model, s, n_seqs, &result, &err), &err);
}

/* A context that is there already, in as large steps as the limits allow. */
static void write_context(struct runner *r, uint32_t first, uint32_t n_seqs, uint32_t n_tokens)
{
    for (uint32_t i = 0; i < n_seqs; i++)
        for (uint32_t at = 0; at < n_tokens; at += r->sizes.prompt)
            step(r, first + i, 1, n_tokens - at < r->sizes.prompt ? n_tokens - at : r->sizes.prompt, at, false);
}

/* Seconds of one step of n_seqs sequences that go on from this position. */
static double decode_seconds(struct runner *r, uint32_t n_seqs, uint32_t position)
{
    step(r, 0, n_seqs, 1, position, true);
    const uint64_t began = base_clock_mono_ns();
    for (uint32_t i = 0; i < r->sizes.steps; i++)
        step(r, 0, n_seqs, 1, position + i, true);
    return bench_seconds_since(began) / r->sizes.steps;
}

static double prompt_seconds(struct runner *r)
{
    step(r, 0, 1, r->sizes.prompt, 0, false);
    const uint64_t began = base_clock_mono_ns();
    step(r, 0, 1, r->sizes.prompt, 0, false);
    return bench_seconds_since(began);
}

/* ---- lines ---- */

struct model_line {
    const char *shape, *dtype, *way;
    uint32_t round;
};

/* bytes, flop: what one step has to read and multiply at least, whoever does it. */
static void print_line(const struct model_line *m, const char *name, double tokens_per_s, double seconds, double bytes,
                       double flop)
{
    struct bench_line line;
    bench_line_begin(&line, "model");
    base_json_kv_string(&line.json, "shape", m->shape);
    base_json_kv_string(&line.json, "dtype", m->dtype);
    base_json_kv_string(&line.json, "way", m->way);
    base_json_kv_uint(&line.json, "round", m->round);
    base_json_kv_string(&line.json, "name", name);
    base_json_kv_double(&line.json, "value", tokens_per_s, 6);
    base_json_kv_string(&line.json, "unit", "tokens/s");
    base_json_kv_double(&line.json, "seconds", seconds, 6);
    base_json_kv_double(&line.json, "bytes", bytes, 12);
    base_json_kv_double(&line.json, "flop", flop, 12);
    bench_line_end(&line);
}

static void print_skipped(const char *shape, const char *dtype, const char *way, const char *why)
{
    struct bench_line line;
    bench_line_begin(&line, "model");
    base_json_kv_string(&line.json, "shape", shape);
    base_json_kv_string(&line.json, "dtype", dtype);
    base_json_kv_string(&line.json, "way", way);
    base_json_kv_string(&line.json, "skipped", why);
    bench_line_end(&line);
}

/* The embedding is looked up; all other weights are read once in a step, K and V of each sequence as well. */
static double decode_bytes(const struct gpu_plan *plan, uint32_t n_seqs, uint32_t position)
{
    const struct model_config *c = &plan->config;
    const double kv = 2.0 * c->n_layers * c->hidden * sizeof(uint16_t) * position * n_seqs;
    return (double)(plan->weights_bytes - plan->tensors[0].bytes) + kv;
}

/* Two for each weight of a matrix and token (the output: of the last token), and causal attention. */
static double prompt_flop(const struct model_config *c, double n_tokens)
{
    const double output = (double)c->vocab * c->hidden;
    const double layers = (double)c->n_layers * c->hidden * (4.0 * c->hidden + 2.0 * c->intermediate);
    return 2 * (n_tokens * layers + output) + 2.0 * c->n_layers * c->hidden * n_tokens * n_tokens;
}

static void measure_round(struct runner *r, struct model_line m)
{
    const struct gpu_plan *plan = gpu_model_plan(r->model);
    const struct sizes *s = &r->sizes;
    static const uint32_t batches[] = {1, 8, 32};
    char name[64];
    m.way = r->way->name;
    write_context(r, 0, s->n_seqs, s->prefix);
    for (size_t i = 0; i < sizeof batches / sizeof *batches && batches[i] <= s->n_seqs; i++) {
        const double seconds = decode_seconds(r, batches[i], s->prefix);
        snprintf(name, sizeof name, "decode, %u sequences", batches[i]);
        print_line(&m, name, batches[i] / seconds, seconds, decode_bytes(plan, batches[i], s->prefix), 0);
    }
    write_context(r, 0, 1, s->context);
    double seconds = decode_seconds(r, 1, s->context);
    snprintf(name, sizeof name, "decode, 1 sequence at %u", s->context);
    print_line(&m, name, 1 / seconds, seconds, decode_bytes(plan, 1, s->context), 0);
    seconds = prompt_seconds(r);
    snprintf(name, sizeof name, "prompt of %u tokens", s->prompt);
    print_line(&m, name, s->prompt / seconds, seconds, 0, prompt_flop(&plan->config, s->prompt));
}

/* How many ways fit into the device's memory at once. */
static uint32_t count_ways(struct bench *b, const struct model_config *config, enum model_dtype dtype,
                           const struct sizes *sizes)
{
    struct base_error err = {0};
    uint64_t weights_bytes, arena_bytes;
    size_t free_bytes = 0, bytes = 0;
    const struct gpu_limits limits = limits_for(sizes);
    bench_ok(gpu_plan_bytes(b->device, config, dtype, &limits, &weights_bytes, &arena_bytes, &err), &err);
    bench_cu(b, b->more.MemGetInfo(&free_bytes, &bytes), "cuMemGetInfo");
    const uint64_t n = free_bytes / 10 * 9 / arena_bytes; /* a tenth for contexts, modules and cublasLt */
    return n < WAYS ? (uint32_t)n : WAYS;
}

void bench_model(struct bench *b, const char *shape, const char *dtype_name)
{
    struct base_error err = {0};
    struct model_config config;
    enum model_dtype dtype;
    struct runner *runners = calloc(WAYS, sizeof *runners);
    if (!runners)
        abort();
    bench_ok(bench_shape_find(shape, &config, &err), &err);
    bench_ok(model_dtype_parse(dtype_name, &dtype, &err), &err);
    const struct sizes *sizes = b->quick ? &quick_sizes : &full_sizes;
    bench_open(b);
    const uint32_t n_ways = count_ways(b, &config, dtype, sizes);
    bench_close(b);
    for (uint32_t i = 0; i < WAYS; i++) {
        runners[i] = (struct runner){.way = &ways[i], .sizes = *sizes};
        if (i < n_ways)
            runner_init(&runners[i], &config, dtype);
        else
            print_skipped(shape, dtype_name, ways[i].name,
                          "the device's memory does not hold another copy of the model");
    }
    for (uint32_t round = 0; round < b->n_rounds; round++)
        for (uint32_t i = 0; i < n_ways; i++)
            measure_round(&runners[i], (struct model_line){.shape = shape, .dtype = dtype_name, .round = round});
    for (uint32_t i = 0; i < n_ways; i++)
        runner_done(&runners[i]);
    free(runners);
}
