#include "worker/intake.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "worker/prompt_request.h"

static void refuse_record(struct worker_job *job, enum schema_code code, enum schema_stage stage, const char *why)
{
    job->code = code;
    job->stage = stage;
    snprintf(job->why, sizeof job->why, "%s", why);
    job->n_open = 0;
}

int worker_intake_decode(struct worker_job *job, struct base_error *err)
{
    struct base_error why = {0};
    struct schema_prompt_batch *batch = NULL;
    enum schema_code code = SCHEMA_MALFORMED;
    if (!job->value) {
        refuse_record(job, SCHEMA_MALFORMED, SCHEMA_STAGE_DECODE, "the record has no value");
        return 0;
    }
    int rc = schema_prompt_batch_decode(job->value, job->n_value, NULL, &batch, &code, &why);
    if (rc == ERR_INPUT) {
        refuse_record(job, code, SCHEMA_STAGE_DECODE, why.text);
        return 0;
    }
    if (rc < 0)
        return base_fail(err, rc, "decode: %s", why.text);
    rc = worker_job_set_batch(job, batch, err);
    if (rc < 0)
        schema_prompt_batch_free(batch);
    return rc;
}

/* NAME or NAME@VERSION: which version answers is ours to choose for now. */
static bool model_matches(const struct schema_string *wanted, const char *name)
{
    if (!wanted->text)
        return true;
    const char *at = memchr(wanted->text, '@', wanted->n);
    size_t n = at ? (size_t)(at - wanted->text) : wanted->n;
    return n == strlen(name) && memcmp(wanted->text, name, n) == 0;
}

static bool tokens_known(const struct worker_prompt *p, const struct gpu_plan *plan, struct base_error *why)
{
    for (uint32_t i = 0; i < p->request.n_prompt; i++) {
        int32_t id = p->request.prompt[i];
        if (id < 0 || (uint32_t)id >= plan->config.vocab) {
            base_fail(why, ERR_INPUT, "token %u is %d; the model's vocabulary is 0..%u", i, id, plan->config.vocab - 1);
            return false;
        }
    }
    return true;
}

static void tokenise(struct worker_prompt *p, const struct snap_model *model)
{
    const struct schema_prompt *prompt = &p->job->batch->prompts[p->index];
    const struct gpu_plan *plan = gpu_model_plan(model->gpu);
    struct base_error why = {0};
    enum schema_code code = SCHEMA_INTERNAL;
    enum schema_stage stage = SCHEMA_STAGE_TOKENIZE;
    int rc = worker_request_make(prompt, model->tokenizer, plan, &p->request, &code, &stage, &why);
    if (rc < 0) {
        worker_prompt_refuse(p, code == SCHEMA_OK ? SCHEMA_INTERNAL : code, stage, why.text);
        return;
    }
    if (!tokens_known(p, plan, &why)) {
        worker_prompt_refuse(p, SCHEMA_BAD_VALUE, SCHEMA_STAGE_ADMIT, why.text);
        return;
    }
    p->request.tag = p;
    p->request.deadline_ms = p->job->batch->deadline_ms;
    p->request.arrived_ns = p->job->taken_ns;
    p->state = WORKER_PROMPT_READY;
}

bool worker_intake_tokenise(struct worker_job *job, const struct snap_model *model, uint64_t until_ns)
{
    if (!job->batch || job->code != SCHEMA_OK)
        return true;
    const struct schema_prompt_batch *batch = job->batch;
    if (!model_matches(&batch->model, model->name)) {
        char why[480];
        snprintf(why, sizeof why, "the batch is for model '%.128s'; this worker runs '%.128s'", batch->model.text,
                 model->name);
        refuse_record(job, SCHEMA_UNKNOWN_MODEL, SCHEMA_STAGE_ADMIT, why);
        return true;
    }
    bool expired = batch->deadline_ms && batch->deadline_ms < base_clock_unix_ms();
    for (; job->n_seen < job->n_prompts; job->n_seen++) {
        struct worker_prompt *p = &job->prompts[job->n_seen];
        if (p->state != WORKER_PROMPT_NEW) /* the job had to wait for room in the queue */
            continue;
        if (expired && batch->prompts[p->index].error == SCHEMA_OK)
            worker_prompt_expire(p);
        else
            tokenise(p, model);
        if (base_clock_mono_ns() > until_ns) {
            job->n_seen++;
            break;
        }
    }
    if (job->n_seen < job->n_prompts)
        return false;
    job->n_seen = 0;
    return true;
}

bool worker_intake_guard_note(struct worker_intake_guard *guard, enum schema_code code, uint64_t now_ns)
{
    guard->n_in_row = code == SCHEMA_OK ? 0 : code == guard->code ? guard->n_in_row + 1 : 1;
    guard->code = code;
    if (guard->n_in_row < WORKER_GUARD_RECORDS || guard->halted_until_ns)
        return false;
    guard->halted_until_ns = now_ns + (uint64_t)WORKER_GUARD_PAUSE_MS * 1000000;
    return true;
}

bool worker_intake_guard_resume(struct worker_intake_guard *guard, uint64_t now_ns)
{
    if (guard->halted_until_ns == 0 || now_ns < guard->halted_until_ns)
        return false;
    guard->halted_until_ns = 0;
    guard->n_in_row = WORKER_GUARD_RECORDS - 1; /* the next one decides */
    return true;
}
