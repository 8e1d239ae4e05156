#include "worker/intake.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "worker/prompt_request.h"

int worker_intake_decode(struct worker_job *job, struct base_error *err)
{
    struct base_error why = {0};
    struct schema_prompt_batch *batch = NULL;
    enum schema_code code = SCHEMA_MALFORMED;
    if (!job->value) {
        worker_job_refuse(job, SCHEMA_MALFORMED, SCHEMA_STAGE_DECODE, "the record has no value");
        return 0;
    }
    int rc = schema_prompt_batch_decode(job->value, job->n_value, NULL, &batch, &code, &why);
    if (rc == ERR_INPUT) {
        worker_job_refuse(job, code, SCHEMA_STAGE_DECODE, why.text);
        return 0;
    }
    if (rc < 0)
        return base_fail(err, rc, "decode: %s", why.text);
    rc = worker_job_set_batch(job, batch, err);
    if (rc < 0)
        schema_prompt_batch_free(batch);
    return rc;
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

void worker_intake_tokenise_prompt(struct worker_prompt *p, const struct snap_model *model)
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

bool worker_intake_expire(struct worker_prompt *p, int64_t now_ms)
{
    int64_t deadline_ms = p->job->batch->deadline_ms;
    if (deadline_ms == 0 || deadline_ms >= now_ms || p->job->batch->prompts[p->index].error != SCHEMA_OK)
        return false;
    worker_prompt_expire(p);
    return true;
}

/* What needs no model is answered without one. */
static void prepare(struct worker_prompt *p, struct worker_models *models, int64_t now_ms)
{
    const struct schema_prompt *prompt = &p->job->batch->prompts[p->index];
    if (prompt->error != SCHEMA_OK) {
        worker_prompt_refuse(p, prompt->error, SCHEMA_STAGE_DECODE, prompt->error_text);
        return;
    }
    if (worker_intake_expire(p, now_ms))
        return;
    struct worker_model *m = p->model; /* the prompt lets go of it when it is refused */
    const struct snap_model *model = worker_models_pin(models, m);
    if (!model)
        return;
    worker_intake_tokenise_prompt(p, model);
    worker_models_unpin(models, m);
}

bool worker_intake_tokenise(struct worker_job *job, struct worker_models *models, uint64_t until_ns)
{
    if (!job->batch || job->code != SCHEMA_OK)
        return true;
    int64_t now_ms = base_clock_unix_ms();
    for (; job->n_seen < job->n_prompts; job->n_seen++) {
        struct worker_prompt *p = &job->prompts[job->n_seen];
        if (p->state != WORKER_PROMPT_NEW) /* refused already, or the job had to wait for room in the queue */
            continue;
        prepare(p, models, now_ms);
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
