#include "worker/publish.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "worker/models.h"

#define RECORD_OVERHEAD 512 /* what the protocol adds to key, value and headers, generously */
#define VALUE_BYTES_MAX (256u << 20)

void publish_init(struct publisher *p, const struct worker_identity *identity, const char *topic, const char *group,
                  size_t n_bytes_max, publish_fn *send, void *context)
{
    *p = (struct publisher){
        .identity = identity,
        .topic = topic,
        .group = group,
        .n_bytes_max = n_bytes_max > RECORD_OVERHEAD ? n_bytes_max - RECORD_OVERHEAD : 0,
        .send = send,
        .context = context,
    };
    base_buffer_init(&p->value, VALUE_BYTES_MAX);
    base_buffer_init(&p->header_text, 4 * SCHEMA_DEAD_LETTER_BYTES_MAX);
}

void publish_done(struct publisher *p)
{
    base_buffer_done(&p->value);
    base_buffer_done(&p->header_text);
}

/* Dead letters */

static void letter_make(const struct publisher *p, const struct worker_job *job, enum schema_code code,
                        enum schema_stage stage, const char *why, struct schema_dead_letter *out)
{
    *out = (struct schema_dead_letter){
        .partition = job->partition,
        .offset = job->offset,
        .delivery_count = 1 + job->deaths,
        .code = code,
        .stage = stage,
        .orig_timestamp_ms = job->timestamp_ms,
        .last_failed_ms = base_clock_unix_ms(),
    };
    snprintf(out->topic, sizeof out->topic, "%s", p->topic);
    snprintf(out->group, sizeof out->group, "%s", p->group);
    snprintf(out->worker, sizeof out->worker, "%s", p->identity->worker);
    snprintf(out->message, sizeof out->message, "%s", why);
}

static size_t record_bytes(const struct publish_record *r)
{
    size_t n = r->n_key + r->n_value;
    for (uint32_t i = 0; i < r->n_headers; i++)
        n += strlen(r->headers[i].name) + r->headers[i].n + 8;
    return n;
}

static int letter_send(struct publisher *p, const struct worker_job *job, enum schema_code code,
                       enum schema_stage stage, const char *why, const void *value, size_t n_value, bool *too_large,
                       struct base_error *err)
{
    struct schema_header headers[SCHEMA_DEAD_LETTER_HEADERS_MAX];
    struct schema_dead_letter letter;
    struct publish_record r = {.is_dead_letter = true,
                               .key = job->key,
                               .n_key = job->n_key,
                               .value = value,
                               .n_value = n_value,
                               .headers = headers,
                               .refused = too_large};
    letter_make(p, job, code, stage, why, &letter);
    base_buffer_clear(&p->header_text);
    r.n_headers = schema_dead_letter_headers(&letter, job->headers, job->n_headers, &p->header_text, headers);
    if (!*too_large && record_bytes(&r) <= p->n_bytes_max)
        return p->send(p->context, &r, err);

    /* The record was taken from a topic that allows more than this one: the headers lead to it. */
    int n = (int)(sizeof letter.message - 96);
    snprintf(letter.message, sizeof letter.message, "%.*s (the value of %zu bytes is too large to be carried)", n, why,
             n_value);
    base_buffer_clear(&p->header_text);
    r.n_headers = schema_dead_letter_headers(&letter, job->headers, job->n_headers, &p->header_text, headers);
    r.value = NULL;
    r.n_value = 0;
    r.refused = NULL;
    if (record_bytes(&r) > p->n_bytes_max) {
        r.key = NULL;
        r.n_key = 0;
    }
    return p->send(p->context, &r, err);
}

static int letter_send_prompt(struct publisher *p, struct worker_prompt *prompt, enum schema_code code,
                              enum schema_stage stage, const char *why, struct base_error *err)
{
    const struct worker_job *job = prompt->job;
    const void *value = job->value;
    size_t n_value = job->n_value;
    base_buffer_clear(&p->value);
    if (job->n_prompts > 1 && !prompt->letter_too_large) {
        int rc = schema_prompt_batch_single(job->value, job->n_value, prompt->index, &p->value, err);
        if (rc < 0)
            return base_fail_in(err, "dead letter of prompt %u", prompt->index);
        value = p->value.data;
        n_value = p->value.n;
    }
    return letter_send(p, job, code, stage, why, value, n_value, &prompt->letter_too_large, err);
}

/* Completions */

/* refused: set when it is too large, by us now or by the broker later; NULL: it goes out whatever its size. */
static int completion_send(struct publisher *p, const struct schema_completion *c, bool *refused,
                           struct base_error *err)
{
    base_buffer_clear(&p->value);
    int rc = schema_completion_encode(c, &p->value, err);
    if (rc < 0)
        return rc;
    struct publish_record r = {.key = c->batch_id.text,
                               .n_key = c->batch_id.n,
                               .value = p->value.data,
                               .n_value = p->value.n,
                               .refused = refused};
    if (refused && record_bytes(&r) > p->n_bytes_max) {
        *refused = true;
        return 0;
    }
    return p->send(p->context, &r, err);
}

static int send_answer(struct publisher *p, struct worker_prompt *prompt, struct base_error *err)
{
    const struct schema_prompt_batch *batch = prompt->job->batch;
    const struct engine_result *result = &prompt->result;
    struct worker_identity identity = *p->identity;
    struct schema_token_logprob *logprobs = NULL;
    struct schema_completion c;
    if (prompt->answerer) {
        identity.model = prompt->answerer->model;
        identity.version = prompt->answerer->version;
        identity.snapshot = prompt->answerer->snapshot;
    }
    if (result->sampled) {
        logprobs = malloc(((size_t)result->n_tokens + 1) * sizeof *logprobs);
        if (!logprobs)
            return base_fail(err, ERR_NOMEM, "out of memory for %u logprobs", result->n_tokens);
    }
    worker_completion_make(&batch->batch_id, &batch->prompts[prompt->index], prompt->index, batch->n_prompts, &identity,
                           result, logprobs, &c);
    int rc = completion_send(p, &c, &prompt->output_too_large, err);
    free(logprobs);
    return rc;
}

static int send_refusal(struct publisher *p, const struct worker_job *job, uint32_t index, enum schema_code code,
                        const char *why, struct base_error *err)
{
    struct schema_completion c;
    bool *refused = &job->prompts[index].refusal_too_large;
    worker_completion_refuse(&job->batch->batch_id, &job->batch->prompts[index], index, job->batch->n_prompts,
                             p->identity, code, why, &c);
    int rc = *refused ? 0 : completion_send(p, &c, refused, err);
    if (rc < 0 || !*refused)
        return rc;
    c.error_text = (struct schema_string){"", 0};
    return completion_send(p, &c, NULL, err);
}

/* Prompts and records */

static int publish_prompt(struct publisher *p, struct worker_prompt *prompt, struct base_error *err)
{
    if (prompt->code != SCHEMA_OK) {
        const char *why = prompt->why ? prompt->why : schema_code_name(prompt->code);
        int rc = letter_send_prompt(p, prompt, prompt->code, prompt->stage, why, err);
        return rc < 0 ? rc : send_refusal(p, prompt->job, prompt->index, prompt->code, why, err);
    }
    if (prompt->result.text_too_long)
        prompt->output_too_large = true;
    int rc = prompt->output_too_large ? 0 : send_answer(p, prompt, err);
    if (rc < 0 || !prompt->output_too_large)
        return rc;

    char why[160];
    snprintf(why, sizeof why, "the completion of %u tokens does not fit into a record of %zu bytes",
             prompt->result.n_tokens, p->n_bytes_max);
    rc = letter_send_prompt(p, prompt, SCHEMA_OUTPUT_TOO_LARGE, SCHEMA_STAGE_PUBLISH, why, err);
    return rc < 0 ? rc : send_refusal(p, prompt->job, prompt->index, SCHEMA_OUTPUT_TOO_LARGE, why, err);
}

static int publish_refused(struct publisher *p, struct worker_job *job, struct base_error *err)
{
    int rc =
        letter_send(p, job, job->code, job->stage, job->why, job->value, job->n_value, &job->letter_too_large, err);
    for (uint32_t i = 0; rc == 0 && i < job->n_prompts; i++)
        rc = send_refusal(p, job, i, job->code, job->why, err);
    return rc;
}

int publish_part(struct publisher *p, struct worker_job *job, uint32_t part, struct base_error *err)
{
    if (job->code != SCHEMA_OK)
        return part == 0 ? publish_refused(p, job, err) : 0;
    return part < job->n_prompts ? publish_prompt(p, &job->prompts[part], err) : 0;
}

static void count_prompt(const struct worker_prompt *p, struct worker_metrics *m)
{
    metrics_add(&m->prompts[worker_prompt_outcome(p)], 1);
    metrics_add(&m->prompt_tokens, p->result.n_prompt);
    metrics_add(&m->completion_tokens, p->result.n_generated);
    if (p->code != SCHEMA_OK)
        metrics_add(&m->dead_letters[p->code][p->stage], 1);
    else if (p->output_too_large)
        metrics_add(&m->dead_letters[SCHEMA_OUTPUT_TOO_LARGE][SCHEMA_STAGE_PUBLISH], 1);
    if (p->code == SCHEMA_OK && p->result.finish != SCHEMA_FINISH_EXPIRED) {
        metrics_observe_us(&m->queue, p->result.queue_us);
        metrics_observe_us(&m->total, p->result.total_us);
    }
}

uint32_t publish_count(const struct worker_job *job, uint32_t part, struct worker_metrics *m)
{
    if (job->code != SCHEMA_OK) {
        if (part > 0)
            return 0;
        metrics_add(&m->dead_letters[job->code][job->stage], 1);
        metrics_add(&m->prompts[SCHEMA_FINISH_ERROR], job->n_prompts);
        return job->n_prompts;
    }
    if (part >= job->n_prompts)
        return 0;
    count_prompt(&job->prompts[part], m);
    return 1;
}
