/* A step: which of its tokens go into which pass, what each pass is told, and what comes back.
 *
 * Prompts are one pass; tokens that were generated are another, or several when there are more than a graph is made for. In a
 * pass rows of logits to draw from come first, then those that the caller wants: the sampler reads a prefix. */
#include <assert.h>
#include <string.h>

#include "gpu/cuda/cuda_model.h"

struct step {
    struct cuda_model *m;
    const struct gpu_sequence *sequences;
    uint32_t n_sequences;
    uint32_t n_generated; /* passes used so far */
    uint32_t n_drawn;     /* of host.sampled */
    struct base_error *err;
};

/* The pass being made. */
struct making {
    const struct cuda_inputs *in;
    CUdeviceptr to; /* the inputs on the device */
    struct cuda_shape shape;
    uint32_t n_members;
};

/* ---- what a pass is told ---- */

static void begin_pass(struct making *k, const struct cuda_inputs *host, const struct cuda_inputs *device)
{
    *k = (struct making){.in = host, .to = (CUdeviceptr)(uintptr_t)device->counts};
}

/* Tokens [first, first + n) of a sequence become rows. */
static void add_rows(struct step *s, struct making *k, uint32_t sequence, uint32_t first, uint32_t n)
{
    const struct gpu_sequence *q = &s->sequences[sequence];
    const uint32_t slot = k->n_members++, row = k->shape.n_rows;
    const uint32_t n_blocks = (q->position + first + n + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    s->m->host.members[slot] = (struct cuda_member){sequence, first, n, row};
    for (uint32_t i = 0; i < n; i++) {
        k->in->tokens[row + i] = q->tokens[first + i];
        k->in->positions[row + i] = q->position + first + i;
        k->in->slots[row + i] = slot;
    }
    memcpy(k->in->blocks + (size_t)slot * s->m->ws.blocks_stride, q->blocks, n_blocks * sizeof *q->blocks);
    k->shape.n_rows += n;
}

/* The last rows of a prompt first: they attend to most, and blocks start in order. */
static void add_tiles(struct making *k, const struct cuda_member *member, uint32_t slot, uint32_t position)
{
    const uint32_t n_tiles = (member->n + CUDA_PREFILL_TILE - 1) / CUDA_PREFILL_TILE;
    for (uint32_t i = n_tiles; i-- > 0;) {
        const uint32_t at = i * CUDA_PREFILL_TILE, left = member->n - at;
        k->in->tiles[k->shape.n_tiles++] =
            (struct cuda_tile){.row = member->row + at,
                               .n_rows = left < CUDA_PREFILL_TILE ? left : CUDA_PREFILL_TILE,
                               .slot = slot,
                               .position = position + member->first + at};
    }
}

static bool has_last_token(const struct gpu_sequence *q, const struct cuda_member *member)
{
    return member->first + member->n == q->n_tokens;
}

static void add_draws(struct step *s, struct making *k)
{
    for (uint32_t i = 0; i < k->n_members; i++) {
        const struct cuda_member *member = &s->m->host.members[i];
        const struct gpu_sequence *q = &s->sequences[member->sequence];
        if (!q->sampling || !has_last_token(q, member))
            continue;
        k->in->draws[k->shape.n_sample] = (struct cuda_draw){.temperature = q->sampling->temperature,
                                                             .top_k = q->sampling->top_k,
                                                             .top_p = q->sampling->top_p,
                                                             .min_p = q->sampling->min_p,
                                                             .seed = q->sampling->seed,
                                                             .draw = q->draw};
        k->in->logit_rows[k->shape.n_logits++] = member->row + member->n - 1;
        s->m->host.drawn_for[s->n_drawn + k->shape.n_sample++] = member->sequence;
    }
}

/* Rows of a member whose logits the caller wants: [*out_first, member->n). */
static uint32_t wanted_rows(const struct gpu_sequence *q, const struct cuda_member *member, uint32_t *out_first)
{
    const uint32_t begin = q->n_tokens - q->n_logits; /* token of the sequence */
    const uint32_t first = begin > member->first ? begin - member->first : 0;
    *out_first = first;
    return q->sampling || first >= member->n ? 0 : member->n - first;
}

static void add_logits(struct step *s, struct making *k)
{
    for (uint32_t i = 0; i < k->n_members; i++) {
        const struct cuda_member *member = &s->m->host.members[i];
        uint32_t first;
        const uint32_t n = wanted_rows(&s->sequences[member->sequence], member, &first);
        for (uint32_t j = 0; j < n; j++)
            k->in->logit_rows[k->shape.n_logits++] = member->row + first + j;
    }
}

/* ---- running it ---- */

static int copy_inputs(struct step *s, const struct making *k)
{
    struct cuda_device *d = s->m->device;
    const uint64_t bytes = k->in->blocks_at + (uint64_t)k->n_members * s->m->ws.blocks_stride * sizeof *k->in->blocks;
    return cuda_check(d, d->cu->MemcpyHtoDAsync(k->to, k->in->counts, bytes, d->compute), s->err,
                      "copying a step's inputs");
}

static int fetch(struct step *s, void *to, const void *from, uint64_t n_bytes)
{
    struct cuda_device *d = s->m->device;
    return cuda_check(d, d->cu->MemcpyDtoHAsync(to, (CUdeviceptr)(uintptr_t)from, n_bytes, d->compute), s->err,
                      "copying a step's results");
}

/* The wanted rows behind the drawn ones, each run of rows that are neighbours on both sides in one copy. */
static int fetch_logits(struct step *s, const struct making *k)
{
    const struct cuda_model *m = s->m;
    const size_t vocab = m->base.plan.config.vocab;
    uint32_t from = k->shape.n_sample, n_run = 0, to_run = 0;
    int rc = 0;
    for (uint32_t i = 0; i < k->n_members && rc == 0; i++) {
        const struct cuda_member *member = &m->host.members[i];
        const struct gpu_sequence *q = &s->sequences[member->sequence];
        uint32_t first;
        const uint32_t n = wanted_rows(q, member, &first);
        const uint32_t to = m->host.first_logit[member->sequence] + member->first + first - (q->n_tokens - q->n_logits);
        if (n == 0)
            continue;
        if (n_run > 0 && to != to_run + n_run) {
            rc = fetch(s, m->host.logits + to_run * vocab, m->ws.logits + from * vocab, n_run * vocab * sizeof(float));
            from += n_run;
            n_run = 0;
        }
        if (n_run == 0)
            to_run = to;
        n_run += n;
    }
    if (rc == 0 && n_run > 0)
        rc = fetch(s, m->host.logits + to_run * vocab, m->ws.logits + from * vocab, n_run * vocab * sizeof(float));
    return rc;
}

static int run_pass(struct step *s, struct making *k, bool generated)
{
    struct cuda_model *m = s->m;
    add_draws(s, k);
    add_logits(s, k);
    *k->in->counts = (struct cuda_counts){k->shape.n_rows, k->shape.n_logits, k->shape.n_sample, 0};
    int rc = copy_inputs(s, k);
    if (rc == 0)
        rc = generated ? cuda_forward_generated(m, k->shape.n_rows, s->err) : cuda_forward_prompt(m, &k->shape, s->err);
    if (rc == 0 && k->shape.n_sample > 0)
        rc = fetch(s, m->host.sampled + s->n_drawn, m->ws.sampled, k->shape.n_sample * sizeof *m->ws.sampled);
    s->n_drawn += k->shape.n_sample;
    if (rc == 0)
        rc = fetch_logits(s, k);
    return rc;
}

static int run_prompts(struct step *s)
{
    struct making k;
    begin_pass(&k, &s->m->host.prompt, &s->m->ws.prompt);
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        if (s->sequences[i].generated)
            continue;
        add_rows(s, &k, i, 0, s->sequences[i].n_tokens);
        add_tiles(&k, &s->m->host.members[k.n_members - 1], k.n_members - 1, s->sequences[i].position);
    }
    return k.n_members > 0 ? run_pass(s, &k, false) : 0;
}

static void begin_generated(struct step *s, struct making *k)
{
    assert(s->n_generated < s->m->host.n_generated);
    begin_pass(k, &s->m->host.generated[s->n_generated++], &s->m->ws.generated);
}

/* Tokens in order, cut where a pass is full: earlier ones of a sequence are in the same pass or in one before. */
static int run_generated(struct step *s)
{
    const uint32_t rows_max = s->m->ws.generated_max;
    struct making k = {0};
    int rc = 0;
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        const struct gpu_sequence *q = &s->sequences[i];
        for (uint32_t at = 0, n; q->generated && at < q->n_tokens && rc == 0; at += n) {
            if (k.n_members == 0)
                begin_generated(s, &k);
            n = q->n_tokens - at;
            if (n > rows_max - k.shape.n_rows)
                n = rows_max - k.shape.n_rows;
            add_rows(s, &k, i, at, n);
            if (k.shape.n_rows == rows_max) {
                rc = run_pass(s, &k, true);
                k.n_members = 0;
            }
        }
    }
    return rc == 0 && k.n_members > 0 ? run_pass(s, &k, true) : rc;
}

/* ---- the step ---- */

static int get_ready(struct cuda_model *m, struct base_error *err)
{
    int rc = cuda_device_fault(m->device, err);
    if (rc == 0)
        rc = cuda_model_prepare(m, NULL, 0, err);
    if (rc == 0)
        rc = cuda_gemms_choose(&m->gemms, NULL, err); /* nothing left to choose after a warm-up or an import */
    if (rc == 0)
        rc = cuda_model_build_graphs(m, err);
    return rc;
}

static void find_logits(struct step *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_sequences; i++) {
        s->m->host.first_logit[i] = n;
        n += s->sequences[i].sampling ? 0 : s->sequences[i].n_logits;
    }
}

static int await_results(struct step *s)
{
    struct cuda_device *d = s->m->device;
    CUresult result = d->cu->EventRecord(s->m->done, d->compute);
    if (result == CUDA_SUCCESS)
        result = d->cu->EventSynchronize(s->m->done);
    return cuda_check(d, result, s->err, "a step of %u sequences on %s", s->n_sequences, d->base.info.name);
}

int cuda_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                       struct gpu_result *out_result, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    struct step s = {.m = m, .sequences = sequences, .n_sequences = n_sequences, .err = err};
    assert(!m->asleep);
    int rc = get_ready(m, err);
    if (rc < 0)
        return rc;
    find_logits(&s);
    rc = run_prompts(&s);
    if (rc == 0)
        rc = run_generated(&s);
    if (rc < 0) {
        /* what has been started still writes to our memory; the error to tell is the first one */
        (void)m->device->cu->StreamSynchronize(m->device->compute);
        return rc;
    }
    rc = await_results(&s);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < s.n_drawn; i++)
        m->host.result_sampled[m->host.drawn_for[i]] = m->host.sampled[i];
    *out_result = (struct gpu_result){.logits = m->host.logits, .sampled = m->host.result_sampled};
    return 0;
}
