/* job - one record with its prompts and their results, from the moment it is taken until its last transaction is committed.
 *
 * A prompt is in one hand at a time: the poll thread's (decode, tokenise), the device thread's (generate), then the ledger's
 * and, while its transaction runs, the commit thread's. The job lives while anybody refers to it (refs): the ledger, until all
 * of it is done or its partition has gone; whoever has prompts in hand, until the last of them is DONE and said to be; the
 * commit thread, for each prompt that it publishes. Each prompt:
 *
 *   NEW -> READY      worker_intake_tokenise        any but RUNNING -> DONE   worker_prompt_refuse, worker_prompt_drop
 *   READY -> RUNNING  the engine took it            RUNNING -> DONE           worker_prompt_finish, worker_prompt_drop
 *
 *   NEW -> DONE       worker_job_skip: an earlier owner of the partition has answered it
 *
 * (1) n_open counts the prompts that are not DONE; n_in_hand those that the ledger has not been told of.
 * (2) The original bytes stay untouched until the end: a dead letter carries them. */
#ifndef ROUSE_WORKER_JOB_H
#define ROUSE_WORKER_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "schemas/dead_letter.h"
#include "schemas/prompt_batch.h"
#include "worker/engine.h"

#define WORKER_JOB_HEADERS_MAX                                                                                         \
    256 /* kept of one record; a dead letter carries SCHEMA_DEAD_LETTER_HEADERS_MAX at most */

enum worker_prompt_state { WORKER_PROMPT_NEW, WORKER_PROMPT_READY, WORKER_PROMPT_RUNNING, WORKER_PROMPT_DONE };

struct worker_job;
struct worker_model;
struct worker_answerer;

struct worker_prompt {
    struct worker_job *job;
    struct worker_prompt *behind; /* in its model's line: the device thread's */
    uint32_t index;
    enum worker_prompt_state state;
    struct worker_model *model;       /* that has to answer, from routing until it is DONE; counted in its n_inside */
    struct worker_answerer *answerer; /* RUNNING and DONE: held; NULL: nobody generated anything */
    struct engine_request request;    /* its prompt is NULL once the engine has it; stops are ours to the end */
    struct engine_result result;      /* DONE and code SCHEMA_OK: has the completion */
    enum schema_code code;            /* DONE: SCHEMA_OK, or why it becomes a dead letter and an error completion */
    enum schema_stage stage;
    char *why; /* owned; NULL: none, or no memory for it */
    bool said; /* the ledger knows that it is DONE */
    bool
        output_too_large; /* for the broker: an error completion and a dead letter take its place on the next attempt */
    bool refusal_too_large; /* the error completion: sent without its text */
    bool letter_too_large;  /* the dead letter: sent without its value */
};

/* A record as the consumer hands it over; everything borrowed. */
struct worker_record {
    int32_t partition;
    int64_t offset, timestamp_ms; /* timestamp 0: unknown */
    const void *key, *value;      /* NULL: absent */
    size_t n_key, n_value;
    const struct schema_header *headers; /* [n_headers] */
    uint32_t n_headers;
};

struct worker_job {
    struct worker_job *next, *before; /* all jobs of a worker: its lock guards the list */
    struct worker_job *behind;        /* in the line of the thread that holds the job */
    int32_t partition;
    uint64_t epoch;
    int64_t offset, timestamp_ms, taken_ms; /* wall clock */
    uint64_t taken_ns;                      /* monotonic */
    const uint8_t *key, *value;             /* in memory, below; NULL: absent */
    size_t n_key, n_value;
    struct schema_header *headers; /* [n_headers] in memory */
    uint32_t n_headers;
    void *memory;                      /* the record's own bytes, one block */
    struct schema_prompt_batch *batch; /* NULL: could not be decoded */
    enum schema_code code;             /* SCHEMA_OK, or why the record as a whole is a dead letter */
    enum schema_stage stage;
    char why[480];
    bool letter_too_large;         /* as in a prompt, for the record's own dead letter */
    struct worker_prompt *prompts; /* [n_prompts] */
    uint32_t n_prompts, n_open, n_in_hand;
    uint32_t n_seen;    /* the poll thread's cursor over prompts */
    uint32_t n_skipped; /* answered by an earlier owner */
    bool routed;        /* every prompt has its model, or is DONE */
    uint32_t deaths;    /* workers that died with it, as far as is known */
    bool on_device;     /* the worker's lock: handed to the device thread, and not all back */
    uint32_t refs;      /* the worker's lock */
    uint32_t
        weight; /* the worker's lock: what it counts for in n_inflight_max; prompts that are not done, 1 at least at first */
    size_t bytes; /* what it holds, about: record and decoded batch */
};

/* Copies the record. */
int worker_job_new(const struct worker_record *record, struct worker_job **out_job, struct base_error *err);
void worker_job_free(struct worker_job *job);
/* Takes the batch over, allocates the prompts. On failure batch is still the caller's. */
int worker_job_set_batch(struct worker_job *job, struct schema_prompt_batch *batch, struct base_error *err);

uint32_t worker_job_n_parts(const struct worker_job *job); /* for the ledger: prompts, 1 at least */
/* These are answered already: bits of [n_prompts]. Before any other prompt of it is touched. */
void worker_job_skip(struct worker_job *job, const uint8_t *answered);

/* The prompt's end without the engine: a dead letter and an error completion come of it. */
void worker_prompt_refuse(struct worker_prompt *p, enum schema_code code, enum schema_stage stage, const char *why);
void worker_prompt_expire(struct worker_prompt *p); /* past its deadline before it reached the engine */
void worker_prompt_finish(struct worker_prompt *p, const struct engine_result *result); /* result is taken over */
/* Nobody wants its answer any more: its partition has gone. */
void worker_prompt_drop(struct worker_prompt *p);
/* The record as a whole becomes a dead letter; none of its prompts is RUNNING or in a line. When some of it is answered
 * already, each of the others does. */
void worker_job_refuse(struct worker_job *job, enum schema_code code, enum schema_stage stage, const char *why);
/* What the reader will see as finish_reason. */
enum schema_finish worker_prompt_outcome(const struct worker_prompt *p);

#endif
