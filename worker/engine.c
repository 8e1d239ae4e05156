#include "worker/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define N_WAITING_DEFAULT 1024
#define TOKEN_TEXT_BYTES                                                                                               \
    64 /* ceiling of a completion's text: this a token, and 64 KiB; far above any real vocabulary */

enum state { WAITING, PREFILL, DECODE, DONE };

/* One request on its way. Lists are singly linked, oldest first. */
struct sequence {
    struct sequence *next;
    struct engine_request request; /* its prompt has become ids */
    enum state state;
    int32_t *ids;     /* [n_prompt + max_tokens] */
    uint32_t n_ids;   /* prompt and what was generated */
    uint32_t n_fed;   /* tokens whose K and V are in the blocks, or will be after this step */
    uint32_t n_chunk; /* tokens in this step; 0: not in it */
    uint32_t *blocks; /* [n_blocks], taken at admission */
    uint32_t n_blocks;
    struct model_text_stream stream;
    uint32_t *text_ends;           /* [max_tokens] bytes of text after each generated token: where a stop string cuts */
    struct model_sampled *sampled; /* [max_tokens] or NULL */
    uint32_t n_generated;
    bool on_device; /* tokens are drawn there; nothing but the token comes back */
    bool leaving;   /* finished in this step, by `finish` */
    enum schema_finish finish;
    struct base_error error;
    uint64_t arrived_ns, admitted_ns, first_ns, done_ns;
};

struct list {
    struct sequence *head, *tail;
    uint32_t n;
};

struct engine {
    struct gpu_model *model;                 /* borrowed */
    const struct model_tokenizer *tokenizer; /* borrowed */
    struct model_sampler *sampler;
    struct gpu_limits limits;
    uint32_t vocab;
    int32_t eos_id;
    uint32_t n_waiting_max;
    struct list waiting; /* by priority, then age */
    struct list running; /* by admission; at most limits.n_seqs_max */
    struct list done;
    uint32_t *free_blocks; /* [limits.n_blocks] stack */
    uint32_t n_free_blocks;
    struct gpu_sequence *step; /* [limits.n_seqs_max] */
    struct sequence **in_step; /* [limits.n_seqs_max] */
    struct engine_counts counts;
};

static void list_append(struct list *list, struct sequence *s)
{
    s->next = NULL;
    if (list->tail)
        list->tail->next = s;
    else
        list->head = s;
    list->tail = s;
    list->n++;
}

/* Removes s, whose predecessor is before (NULL: it is the head). */
static void list_remove(struct list *list, struct sequence *before, struct sequence *s)
{
    if (before)
        before->next = s->next;
    else
        list->head = s->next;
    if (list->tail == s)
        list->tail = before;
    s->next = NULL;
    list->n--;
}

/* Behind everything of the same or a higher priority. */
static void list_insert_by_priority(struct list *list, struct sequence *s)
{
    struct sequence *before = NULL;
    if (list->tail && list->tail->request.priority >= s->request.priority) {
        list_append(list, s);
        return;
    }
    for (struct sequence *at = list->head; at && at->request.priority >= s->request.priority; at = at->next)
        before = at;
    s->next = before ? before->next : list->head;
    if (before)
        before->next = s;
    else
        list->head = s;
    if (!s->next)
        list->tail = s;
    list->n++;
}

static void sequence_free(struct sequence *s)
{
    if (!s)
        return;
    free(s->ids);
    free(s->blocks);
    free(s->text_ends);
    free(s->sampled);
    model_text_stream_done(&s->stream);
    free(s);
}

static void list_free(struct list *list)
{
    while (list->head) {
        struct sequence *s = list->head;
        list_remove(list, NULL, s);
        sequence_free(s);
    }
}

int engine_new(struct gpu_model *model, const struct model_tokenizer *tokenizer, const struct engine_limits *limits,
               struct engine **out_engine, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    struct engine *e = calloc(1, sizeof *e);
    if (!e)
        return base_fail(err, ERR_NOMEM, "engine: out of memory");
    e->model = model;
    e->tokenizer = tokenizer;
    e->limits = plan->limits;
    e->vocab = plan->config.vocab;
    e->eos_id = plan->config.eos_id;
    e->n_waiting_max = limits && limits->n_waiting_max ? limits->n_waiting_max : N_WAITING_DEFAULT;
    e->n_free_blocks = e->counts.blocks = plan->limits.n_blocks;
    e->free_blocks = malloc(e->n_free_blocks * sizeof *e->free_blocks);
    e->step = calloc(e->limits.n_seqs_max, sizeof *e->step);
    e->in_step = calloc(e->limits.n_seqs_max, sizeof *e->in_step);
    int rc = ERR_NOMEM;
    if (!e->free_blocks || !e->step || !e->in_step) {
        base_fail(err, ERR_NOMEM, "engine: out of memory for %u blocks", e->n_free_blocks);
        goto fail;
    }
    for (uint32_t i = 0; i < e->n_free_blocks; i++) /* lowest on top */
        e->free_blocks[i] = e->n_free_blocks - 1 - i;
    rc = model_sampler_new(e->vocab, &e->sampler, err);
    if (rc < 0)
        goto fail;
    *out_engine = e;
    return 0;
fail:
    engine_free(e);
    return rc;
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    list_free(&e->waiting);
    list_free(&e->running);
    list_free(&e->done);
    model_sampler_free(e->sampler);
    free(e->free_blocks);
    free(e->step);
    free(e->in_step);
    free(e);
}

/* The last sampled token is never fed, so a request fills at most this many positions. */
static uint32_t blocks_for(uint32_t n_prompt, uint32_t max_tokens)
{
    uint32_t n_positions = n_prompt + max_tokens - 1;
    return (n_positions + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
}

static int check_request(const struct engine *e, const struct engine_request *r, struct base_error *err)
{
    if (r->n_prompt == 0)
        return base_fail(err, ERR_INPUT, "the prompt has no tokens");
    if (r->max_tokens == 0)
        return base_fail(err, ERR_INPUT, "max_tokens 0 is below 1");
    if (r->n_prompt >= e->limits.n_ctx_max)
        return base_fail(err, ERR_INPUT, "the prompt has %u tokens; the context has room for %u and one to generate",
                         r->n_prompt, e->limits.n_ctx_max - 1);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (uint32_t)r->prompt[i] >= e->vocab)
            return base_fail(err, ERR_INPUT, "token %u of the prompt is %d; the vocabulary has %u", i, r->prompt[i],
                             e->vocab);
    return model_sampling_check(&r->sampling, err);
}

int engine_submit(struct engine *e, const struct engine_request *request, struct base_error *err)
{
    int rc = check_request(e, request, err);
    if (rc < 0)
        return rc;
    if (e->waiting.n >= e->n_waiting_max)
        return base_fail(err, ERR_AGAIN, "%u requests are waiting already", e->waiting.n);

    uint32_t room = e->limits.n_ctx_max - request->n_prompt;
    uint32_t max_tokens = request->max_tokens < room ? request->max_tokens : room;
    uint32_t n_blocks = blocks_for(request->n_prompt, max_tokens);
    if (n_blocks > e->limits.n_blocks)
        return base_fail(err, ERR_INPUT,
                         "%u prompt tokens and up to %u new ones need %u KV blocks; there are %u in all",
                         request->n_prompt, max_tokens, n_blocks, e->limits.n_blocks);

    struct sequence *s = calloc(1, sizeof *s);
    if (!s)
        return base_fail(err, ERR_NOMEM, "engine: out of memory");
    s->request = *request;
    s->request.max_tokens = max_tokens;
    s->request.prompt = NULL;
    s->n_ids = request->n_prompt;
    s->n_blocks = n_blocks;
    s->on_device = !request->logprobs && gpu_model_samples(e->model, &request->sampling);
    s->ids = malloc(((size_t)request->n_prompt + max_tokens) * sizeof *s->ids);
    s->blocks = malloc(n_blocks * sizeof *s->blocks);
    s->text_ends = malloc(max_tokens * sizeof *s->text_ends);
    s->sampled = request->logprobs ? calloc(max_tokens, sizeof *s->sampled) : NULL;
    if (!s->ids || !s->blocks || !s->text_ends || (request->logprobs && !s->sampled)) {
        sequence_free(s);
        return base_fail(err, ERR_NOMEM, "engine: out of memory for a request of %u tokens",
                         request->n_prompt + max_tokens);
    }
    memcpy(s->ids, request->prompt, request->n_prompt * sizeof *s->ids);
    model_text_stream_init(&s->stream, e->tokenizer, request->stops, request->n_stops,
                           (size_t)max_tokens * TOKEN_TEXT_BYTES + (64u << 10));
    s->arrived_ns = request->arrived_ns ? request->arrived_ns : base_clock_mono_ns();
    free(request->prompt);
    list_insert_by_priority(&e->waiting, s);
    return 0;
}

static void finish(struct engine *e, struct sequence *s, enum schema_finish how)
{
    s->finish = how;
    s->done_ns = base_clock_mono_ns();
    if (s->state == PREFILL || s->state == DECODE)
        for (uint32_t i = 0; i < s->n_blocks; i++)
            e->free_blocks[e->n_free_blocks++] = s->blocks[i];
    s->state = DONE;
    model_text_stream_finish(&s->stream);
    list_append(&e->done, s);
    e->counts.finished++;
}

/* Past their deadline: answered wherever they stand in the queue. */
static void expire_waiting(struct engine *e)
{
    int64_t now = 0;
    struct sequence *before = NULL, *next;
    for (struct sequence *s = e->waiting.head; s; s = next) {
        next = s->next;
        if (s->request.deadline_ms && !now)
            now = base_clock_unix_ms();
        if (s->request.deadline_ms && s->request.deadline_ms < now) {
            list_remove(&e->waiting, before, s);
            finish(e, s, SCHEMA_FINISH_EXPIRED);
        } else {
            before = s;
        }
    }
}

/* In order, and nobody overtakes: a large request at the head waits for its blocks and is not starved by small ones. */
static void admit(struct engine *e)
{
    while (e->waiting.head && e->running.n < e->limits.n_seqs_max) {
        struct sequence *s = e->waiting.head;
        if (s->n_blocks > e->n_free_blocks)
            return;
        list_remove(&e->waiting, NULL, s);
        for (uint32_t i = 0; i < s->n_blocks; i++)
            s->blocks[i] = e->free_blocks[--e->n_free_blocks];
        s->state = PREFILL;
        s->admitted_ns = base_clock_mono_ns();
        list_append(&e->running, s);
    }
}

static void step_add(struct engine *e, uint32_t *n, struct sequence *s, uint32_t n_tokens)
{
    const bool draws = s->n_fed + n_tokens == s->n_ids; /* the last of what we know: the next one is sampled from it */
    s->n_chunk = n_tokens;
    e->in_step[*n] = s;
    e->step[*n] = (struct gpu_sequence){
        .tokens = s->ids + s->n_fed,
        .n_tokens = n_tokens,
        .position = s->n_fed,
        .blocks = s->blocks,
        .n_logits = draws,
        .generated = s->n_fed >= s->request.n_prompt,
        .sampling = draws && s->on_device ? &s->request.sampling : NULL,
        .draw = s->n_generated,
    };
    (*n)++;
}

/* Decoding sequences first, a token each; what is left of the budget goes to prefill, oldest first. */
static uint32_t step_plan(struct engine *e)
{
    uint32_t n = 0, n_logits = 0, budget = e->limits.n_tokens_max;
    for (struct sequence *s = e->running.head; s; s = s->next)
        s->n_chunk = 0;
    for (struct sequence *s = e->running.head; s && budget; s = s->next) {
        if (s->state != DECODE || n_logits == e->limits.n_logits_max)
            continue;
        step_add(e, &n, s, 1);
        n_logits++;
        budget--;
    }
    for (struct sequence *s = e->running.head; s && budget; s = s->next) {
        if (s->state != PREFILL)
            continue;
        uint32_t left = s->request.n_prompt - s->n_fed;
        uint32_t chunk = left < budget ? left : budget;
        if (chunk == left && n_logits == e->limits.n_logits_max)
            continue;
        n_logits += chunk == left;
        step_add(e, &n, s, chunk);
        budget -= chunk;
    }
    return n;
}

/* Takes the sampled token; says whether the sequence is finished, and how. */
static bool accept_token(struct engine *e, struct sequence *s, const struct model_sampled *sampled,
                         enum schema_finish *out_how)
{
    uint32_t n = s->n_ids - s->request.n_prompt; /* kept so far */
    s->n_generated++;
    e->counts.generated_tokens++;
    if (!s->first_ns)
        s->first_ns = base_clock_mono_ns();
    if (sampled->id == e->eos_id && !s->request.ignore_eos) {
        *out_how = SCHEMA_FINISH_EOS;
        return true;
    }
    assert(n < s->request.max_tokens);
    s->ids[s->n_ids++] = sampled->id;
    if (s->sampled)
        s->sampled[n] = *sampled;
    bool stopped = model_text_stream_push(&s->stream, sampled->id);
    s->text_ends[n] = (uint32_t)s->stream.text.n;
    if (stopped) {
        *out_how = SCHEMA_FINISH_STOP;
        return true;
    }
    *out_how = SCHEMA_FINISH_LENGTH;
    return n + 1 == s->request.max_tokens;
}

static void step_results(struct engine *e, uint32_t n, const struct gpu_result *result)
{
    const float *logits = result->logits;
    for (uint32_t i = 0; i < n; i++) {
        struct sequence *s = e->in_step[i];
        s->n_fed += s->n_chunk;
        e->counts.prompt_tokens += s->state == PREFILL ? s->n_chunk : 0;
        if (e->step[i].n_logits == 0)
            continue;
        s->state = DECODE;
        struct model_sampled sampled = {.id = -1};
        enum schema_finish how = SCHEMA_FINISH_ERROR;
        int rc;
        if (e->step[i].sampling) {
            sampled.id = result->sampled[i];
            rc = sampled.id >= 0 ? 0 : base_fail(&s->error, ERR_INTERNAL, "sample: the logits are not finite");
        } else {
            rc = model_sampler_draw(e->sampler, &s->request.sampling, logits, s->ids, s->n_ids, s->n_generated,
                                    &sampled, &s->error);
            logits += e->vocab;
        }
        if (rc < 0 || accept_token(e, s, &sampled, &how)) {
            s->leaving = true;
            s->finish = how;
        }
    }
}

/* Moves what step_results marked from running to done. */
static void collect_finished(struct engine *e)
{
    struct sequence *before = NULL, *next;
    for (struct sequence *s = e->running.head; s; s = next) {
        next = s->next;
        if (!s->leaving) {
            before = s;
            continue;
        }
        list_remove(&e->running, before, s);
        finish(e, s, s->finish);
    }
}

int engine_step(struct engine *e, bool *out_busy, struct base_error *err)
{
    expire_waiting(e);
    admit(e);
    int rc = 0;
    uint32_t n = step_plan(e);
    if (n) {
        struct gpu_result result;
        uint64_t began = base_clock_mono_ns();
        rc = gpu_model_forward(e->model, e->step, n, &result, err);
        if (rc == 0)
            step_results(e, n, &result);
        e->counts.steps++;
        e->counts.step_ns += base_clock_mono_ns() - began;
        collect_finished(e);
    }
    *out_busy = e->running.n || e->waiting.n;
    return rc;
}

static uint64_t microseconds(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
}

/* A stop string ends the text; tokens that only brought text behind that end go too. */
static uint32_t tokens_kept(const struct sequence *s)
{
    uint32_t n = s->n_ids - s->request.n_prompt;
    if (s->finish == SCHEMA_FINISH_STOP)
        while (n > 1 && s->text_ends[n - 2] >= s->stream.text.n)
            n--;
    if (s->finish == SCHEMA_FINISH_STOP && s->stream.text.n == 0)
        n = 0;
    return n;
}

bool engine_take(struct engine *e, struct engine_result *out)
{
    struct sequence *s = e->done.head;
    if (!s)
        return false;
    list_remove(&e->done, NULL, s);

    uint32_t n = tokens_kept(s);
    memmove(s->ids, s->ids + s->request.n_prompt, n * sizeof *s->ids);
    *out = (struct engine_result){
        .tag = s->request.tag,
        .finish = s->finish,
        .error = s->error,
        .text = s->stream.text,
        .tokens = s->ids,
        .n_tokens = n,
        .n_prompt = s->request.n_prompt,
        .n_generated = s->n_generated,
        .sampled = s->sampled,
        .queue_us = microseconds(s->arrived_ns, s->admitted_ns ? s->admitted_ns : s->done_ns),
        .prefill_us = microseconds(s->admitted_ns, s->first_ns),
        .decode_us = microseconds(s->first_ns, s->done_ns),
        .total_us = microseconds(s->arrived_ns, s->done_ns),
        .first_token_ns = s->first_ns,
        .text_too_long = s->stream.text.failed != 0,
    };
    s->ids = NULL; /* the result owns these now */
    s->sampled = NULL;
    base_buffer_init(&s->stream.text, 0);
    sequence_free(s);
    return true;
}

void engine_result_done(struct engine_result *r)
{
    base_buffer_done(&r->text);
    free(r->tokens);
    free(r->sampled);
    r->tokens = NULL;
    r->sampled = NULL;
}

static uint32_t cancel_in(struct engine *e, struct list *list, bool (*match)(void *context, void *tag), void *context)
{
    uint32_t n = 0;
    struct sequence *before = NULL, *next;
    for (struct sequence *s = list->head; s; s = next) {
        next = s->next;
        if (!match(context, s->request.tag)) {
            before = s;
            continue;
        }
        list_remove(list, before, s);
        if (s->state == PREFILL || s->state == DECODE)
            for (uint32_t i = 0; i < s->n_blocks; i++)
                e->free_blocks[e->n_free_blocks++] = s->blocks[i];
        sequence_free(s);
        n++;
    }
    return n;
}

uint32_t engine_cancel(struct engine *e, bool (*match)(void *context, void *tag), void *context)
{
    return cancel_in(e, &e->waiting, match, context) + cancel_in(e, &e->running, match, context) +
           cancel_in(e, &e->done, match, context);
}

uint32_t engine_cancel_waiting(struct engine *e, bool (*match)(void *context, void *tag), void *context)
{
    return cancel_in(e, &e->waiting, match, context);
}

void engine_counts(const struct engine *e, struct engine_counts *out)
{
    *out = e->counts;
    out->waiting = e->waiting.n;
    out->running = e->running.n;
    out->blocks = e->limits.n_blocks;
    out->blocks_used = e->limits.n_blocks - e->n_free_blocks;
}
