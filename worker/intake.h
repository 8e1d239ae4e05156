/* intake - bytes of a record become a job whose prompts the engine can take: decode, check, tokenise.
 *
 * Whatever is wrong with the bytes ends up in the job (a code, a stage, a sentence), for the dead letter; only a lack of
 * memory is an error. The poll thread calls this, a slice at a time: it must be back at Kafka soon. */
#ifndef ROUSE_WORKER_INTAKE_H
#define ROUSE_WORKER_INTAKE_H

#include "base/error.h"
#include "snapshot/start.h"
#include "worker/job.h"
#include "worker/models.h"

/* Sets job->batch, or job->code and why. ERR_NOMEM. */
int worker_intake_decode(struct worker_job *job, struct base_error *err);

/* Makes requests of the prompts of a routed job, until until_ns (monotonic) or the end. true: every prompt is READY or DONE, or its
 * model is not loaded: then it stays NEW, for the device thread. */
bool worker_intake_tokenise(struct worker_job *job, struct worker_models *models, uint64_t until_ns);
/* One prompt that is NEW, by the model's tokenizer: READY, or DONE. The model is the caller's to hold. */
void worker_intake_tokenise_prompt(struct worker_prompt *p, const struct snap_model *model);
/* true: past its deadline, and answered so. */
bool worker_intake_expire(struct worker_prompt *p, int64_t now_ms);

/* Stops the taking when one record after the other fails for the same reason: then it is not the records (a wrong model, a
 * producer of another version), and the topic must not be emptied into the dead letters. After a pause one record is tried. */
struct worker_intake_guard {
    enum schema_code code; /* of the last record; SCHEMA_OK: it was fine */
    uint32_t n_in_row;
    uint64_t halted_until_ns; /* 0: taking */
};
#define WORKER_GUARD_RECORDS  100
#define WORKER_GUARD_PAUSE_MS 60000

/* Counts a record; true when the taking stops with it. */
bool worker_intake_guard_note(struct worker_intake_guard *guard, enum schema_code code, uint64_t now_ns);
/* true when a halt is over now. */
bool worker_intake_guard_resume(struct worker_intake_guard *guard, uint64_t now_ns);

#endif
