#include "worker/job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "schemas/progress_map.h"
#include "worker/models.h"
#include "worker/prompt_request.h"

#define DECODED_PER_BYTE 3 /* memory of a decoded batch to its bytes, roughly: structs, strings, tokens */

/* Headers that can never fit into a dead letter are not kept. */
static bool header_fits(const struct schema_header *h)
{
    return strlen(h->name) + h->n <= SCHEMA_DEAD_LETTER_BYTES_MAX;
}

static uint8_t *put(uint8_t **at, const void *bytes, size_t n)
{
    uint8_t *to = *at;
    if (n)
        memcpy(to, bytes, n);
    *at += n;
    return to;
}

/* One block: [headers | key | value | names and values of headers]. */
static int copy_record(const struct worker_record *r, struct worker_job *job, struct base_error *err)
{
    uint32_t n_headers = 0;
    size_t n_bytes = r->n_key + r->n_value;
    for (uint32_t i = 0; i < r->n_headers && n_headers < WORKER_JOB_HEADERS_MAX; i++) {
        if (!header_fits(&r->headers[i]))
            continue;
        n_headers++;
        n_bytes += strlen(r->headers[i].name) + 1 + r->headers[i].n;
    }
    n_bytes += n_headers * sizeof(struct schema_header);
    job->memory = malloc(n_bytes + 1);
    if (!job->memory)
        return base_fail(err, ERR_NOMEM, "out of memory for a record of %zu bytes", n_bytes);
    job->headers = job->memory;
    uint8_t *at = (uint8_t *)job->memory + n_headers * sizeof(struct schema_header);
    job->key = r->key ? put(&at, r->key, r->n_key) : NULL;
    job->n_key = r->n_key;
    job->value = r->value ? put(&at, r->value, r->n_value) : NULL;
    job->n_value = r->n_value;
    for (uint32_t i = 0; i < r->n_headers && job->n_headers < n_headers; i++) {
        const struct schema_header *h = &r->headers[i];
        if (!header_fits(h))
            continue;
        const char *name = (const char *)put(&at, h->name, strlen(h->name) + 1);
        const void *value = h->value ? put(&at, h->value, h->n) : NULL;
        job->headers[job->n_headers++] = (struct schema_header){name, value, h->n};
    }
    job->bytes = n_bytes;
    return 0;
}

int worker_job_new(const struct worker_record *record, struct worker_job **out_job, struct base_error *err)
{
    struct worker_job *job = calloc(1, sizeof *job);
    if (!job)
        return base_fail(err, ERR_NOMEM, "out of memory for a job");
    int rc = copy_record(record, job, err);
    if (rc < 0) {
        free(job);
        return rc;
    }
    job->partition = record->partition;
    job->offset = record->offset;
    job->timestamp_ms = record->timestamp_ms;
    job->taken_ms = base_clock_unix_ms();
    job->taken_ns = base_clock_mono_ns();
    job->weight = 1;
    *out_job = job;
    return 0;
}

static void leave_model(struct worker_prompt *p)
{
    if (p->model)
        worker_model_let_go(p->model);
    p->model = NULL;
}

static void prompt_done(struct worker_prompt *p)
{
    leave_model(p);
    worker_answerer_drop(p->answerer);
    worker_request_done(&p->request);
    engine_result_done(&p->result);
    free(p->why);
}

void worker_job_free(struct worker_job *job)
{
    if (!job)
        return;
    for (uint32_t i = 0; i < job->n_prompts; i++)
        prompt_done(&job->prompts[i]);
    free(job->prompts);
    schema_prompt_batch_free(job->batch);
    free(job->memory);
    free(job);
}

int worker_job_set_batch(struct worker_job *job, struct schema_prompt_batch *batch, struct base_error *err)
{
    job->prompts = calloc(batch->n_prompts ? batch->n_prompts : 1, sizeof *job->prompts);
    if (!job->prompts)
        return base_fail(err, ERR_NOMEM, "out of memory for %u prompts", batch->n_prompts);
    job->batch = batch;
    job->n_prompts = job->n_open = job->n_in_hand = batch->n_prompts;
    job->weight = batch->n_prompts ? batch->n_prompts : 1;
    job->bytes += DECODED_PER_BYTE * job->n_value + job->n_prompts * sizeof *job->prompts;
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        job->prompts[i].job = job;
        job->prompts[i].index = i;
    }
    return 0;
}

uint32_t worker_job_n_parts(const struct worker_job *job)
{
    return job->n_prompts ? job->n_prompts : 1;
}

static void prompt_close(struct worker_prompt *p)
{
    assert(p->state != WORKER_PROMPT_DONE && p->job->n_open > 0);
    free(p->request.prompt);
    p->request.prompt = NULL;
    p->state = WORKER_PROMPT_DONE;
    p->job->n_open--;
    leave_model(p);
}

void worker_job_skip(struct worker_job *job, const uint8_t *answered)
{
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        struct worker_prompt *p = &job->prompts[i];
        if (!schema_progress_bit(answered, i))
            continue;
        assert(p->state == WORKER_PROMPT_NEW);
        prompt_close(p);
        p->said = true;
        job->n_in_hand--;
        job->n_skipped++;
        job->weight--;
    }
}

void worker_prompt_drop(struct worker_prompt *p)
{
    prompt_close(p);
}

void worker_job_refuse(struct worker_job *job, enum schema_code code, enum schema_stage stage, const char *why)
{
    for (uint32_t i = 0; i < job->n_prompts; i++) {
        leave_model(&job->prompts[i]);
        if (job->n_skipped && job->prompts[i].state != WORKER_PROMPT_DONE)
            worker_prompt_refuse(&job->prompts[i], code, stage, why);
    }
    if (job->n_skipped)
        return;
    job->code = code;
    job->stage = stage;
    snprintf(job->why, sizeof job->why, "%s", why);
    job->n_open = 0;
}

void worker_prompt_refuse(struct worker_prompt *p, enum schema_code code, enum schema_stage stage, const char *why)
{
    assert(code != SCHEMA_OK && p->state != WORKER_PROMPT_RUNNING);
    prompt_close(p);
    p->code = code;
    p->stage = stage;
    p->why = strdup(why);
}

void worker_prompt_expire(struct worker_prompt *p)
{
    assert(p->state != WORKER_PROMPT_RUNNING);
    prompt_close(p);
    p->result.finish = SCHEMA_FINISH_EXPIRED;
    p->result.queue_us = p->result.total_us = (base_clock_mono_ns() - p->job->taken_ns) / 1000;
}

void worker_prompt_finish(struct worker_prompt *p, const struct engine_result *result)
{
    assert(p->state == WORKER_PROMPT_RUNNING);
    prompt_close(p);
    p->result = *result;
    if (result->finish == SCHEMA_FINISH_ERROR) {
        p->code = SCHEMA_DEVICE;
        p->stage = SCHEMA_STAGE_GENERATE;
        p->why = strdup(result->error.text);
    }
}

enum schema_finish worker_prompt_outcome(const struct worker_prompt *p)
{
    return p->code != SCHEMA_OK || p->output_too_large ? SCHEMA_FINISH_ERROR : p->result.finish;
}
