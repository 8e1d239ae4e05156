/* worker_state - one running worker: what its threads share, and who owns which field.
 *
 *   poll    kafka_consumer.c, intake.c   owns the consumer's callbacks, the jobs that are not tokenised yet
 *   device  generate.c                   drives the models that are loaded and their engines; owns the jobs inside
 *   models  models.c, model_load.c       loads models, and gives their memory back
 *   names   name_cache.c                 asks the store what names stand for
 *   commit  commit.c, kafka_producer.c   owns the producer and the batch being published
 *   watch   kafka_watch.c                asks the brokers what may take a while: topics, lag
 *   main    worker.c                     starts, watches over and ends the others
 *   http    health.c                     reads, and wishes for sleep
 *
 * `lock` guards the ledger, the list of jobs and everything marked with it; nothing that waits is called while it is held. */
#ifndef ROUSE_WORKER_WORKER_STATE_H
#define ROUSE_WORKER_WORKER_STATE_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/trace.h"
#include "snapshot/start.h"
#include "worker/job.h"
#include "worker/kafka_config.h"
#include "worker/ledger.h"
#include "worker/metrics.h"
#include "worker/models.h"
#include "worker/name_cache.h"
#include "worker/prompt_request.h"
#include "worker/queue.h"
#include "worker/route.h"
#include "worker/worker.h"

enum worker_phase { WORKER_STARTING, WORKER_READY, WORKER_DRAINING, WORKER_PHASE_ASLEEP };

/* Whether the device's memory is ours. Each move has one owner:
 *
 *   AWAKE -> FALLING_ASLEEP   http: nothing more is taken
 *   FALLING_ASLEEP -> ASLEEP  device thread, when the poll thread has paused and nothing is in flight; -> AWAKE if that fails
 *   ASLEEP -> WAKING          http
 *   WAKING -> AWAKE           device thread, when the proof holds; -> ASLEEP if not */
enum worker_rest { WORKER_AWAKE, WORKER_FALLING_ASLEEP, WORKER_ASLEEP, WORKER_WAKING };

/* Kafka as one thread sees it; logged when it changes. */
struct worker_link {
    bool down;
    uint64_t since_ns;
    char why[256];
};

struct worker {
    struct worker_options options; /* with defaults filled in; what it points to is the caller's */
    struct base_trace *trace;
    char id[128]; /* "host:pid": in completions, dead letters, logs */
    char transactional_id[256];
    struct worker_metrics metrics;

    pthread_mutex_t lock;
    pthread_cond_t changed;                 /* wakes the commit thread, and the revoke callback that waits for it */
    struct ledger *ledger;                  /* lock */
    struct worker_job *jobs;                /* lock: all of them */
    uint64_t n_prompts, n_records, n_bytes; /* lock: in flight; sums over jobs */
    uint64_t n_on_device;                   /* lock: jobs that the device thread has prompts of */
    uint64_t flush_wanted, flush_done;      /* lock: publish what is finished, now; each wish has a number */
    bool publishing;                        /* lock: a batch is out */
    bool commit_quit;                       /* lock: the commit thread ends after what is finished now */
    bool commit_gone;                       /* lock: it has ended: nothing is published any more */
    struct worker_answerer *self;           /* lock to write; set once, by the device thread: the model it began with */
    const struct gpu_info *device;          /* the same */
    bool restored;                          /* the same */
    uint64_t snapshot_bytes;                /* the same */
    char no_sleep[256];                     /* the same, before model_ready: why this device cannot; "": it can */
    struct base_error failure;              /* lock: the first one; code 0: none */
    struct worker_link consumer_link, producer_link; /* lock */
    char topics_missing[800];                        /* lock: ""; or what to say of them */
    char halted_why[512];                            /* lock: "": taking; or why not */
    char asleep_why[512];                            /* lock: why it did not wake; "" */
    int64_t lag;                                     /* lock: -1 unknown */
    uint64_t n_published;                            /* lock: prompts */
    int64_t last_completion_ms;                      /* lock */

    struct worker_route_rules rules; /* read-only once threads run; its default is set with self */
    struct worker_names *names;
    struct snap_store *names_store; /* the names thread's; NULL: not open */
    struct worker_models *models;   /* made by the device thread, before model_ready */
    struct worker_queue to_device;
    rd_kafka_t *consumer;      /* made by the poll thread, freed by main after all threads have ended */
    struct ledger_batch batch; /* the commit thread's */

    _Atomic bool consumer_made;      /* consumer may be used by other threads */
    _Atomic bool topics_known;       /* all three topics exist */
    _Atomic bool model_ready;        /* models, self and device are set */
    _Atomic bool joined;             /* the group has given us an assignment, be it empty */
    _Atomic bool ready, ready_noted; /* both of these, and it has been said */
    _Atomic bool draining;           /* take nothing more */
    _Atomic bool leaving;            /* poll thread: leave the group and end */
    _Atomic bool models_quit;        /* models and names threads: end */
    _Atomic bool device_quit;        /* device thread: end */
    _Atomic bool abandon;            /* everybody: end as soon as you look up */
    _Atomic bool cancel;             /* device thread: some jobs have gone with their partition */
    _Atomic bool paused;             /* partitions are paused: for want of room, or to rest */
    _Atomic int rest;                /* enum worker_rest */
    _Atomic uint64_t rest_wish;      /* number of the last wish for sleep */
    _Atomic uint64_t rest_quiet;     /* the wish for which the poll thread has paused: nothing is taken any more */
    _Atomic uint64_t poll_beat_ns;   /* when the poll loop came round last */
    _Atomic uint64_t step_began_ns;  /* 0: the device thread is not inside a step */
    _Atomic uint64_t engine_waiting, engine_running, engine_blocks_used, engine_blocks, engine_steps, engine_step_ns,
        engine_generated;
    _Atomic uint64_t http_requests;
    _Atomic bool poll_ended, commit_ended, device_ended, watch_ended, models_ended, names_ended;
};

/* Threads. Each ends by itself after worker_fail, and when main says so. */
void *worker_poll_main(void *worker);
void *worker_device_main(void *worker);
void *worker_commit_main(void *worker);
void *worker_watch_main(void *worker);
void *worker_models_main(void *worker); /* model_load.c */
void *worker_names_main(void *worker);

/* The first failure holds; the worker stops. Any thread. */
void worker_fail(struct worker *w, const struct base_error *why);

/* Jobs: in the list from add on, with two references: the ledger's and that of the hand that has its prompts. lock held by the
 * caller of _locked. */
void worker_jobs_add_locked(struct worker *w, struct worker_job *job);
void worker_job_hold_locked(struct worker_job *job);
void worker_job_let_go_locked(struct worker *w, struct worker_job *job);  /* the last one frees it */
void worker_job_settled_locked(struct worker *w, struct worker_job *job); /* one part counts no more in n_prompts */
/* Said of DONE prompts by the hand that has them; with the last one it has nothing of the job any more. */
void worker_prompt_finished(struct worker *w, struct worker_prompt *p);
void worker_prompt_dropped_locked(struct worker *w, struct worker_prompt *p); /* ends it, too */
/* The record was refused as a whole: to the ledger with it; the hand has nothing of it any more. */
void worker_job_finished(struct worker *w, struct worker_job *job);
/* Its partition has gone before the hand did anything with it. */
void worker_job_dropped_locked(struct worker *w, struct worker_job *job);

/* down or up again; logs changes alone. which: for the log, "consumer" or "producer". */
void worker_link_set(struct worker *w, struct worker_link *link, const char *which, const char *why_down);

/* Once both halves are there: READY in the trace, the log line, the flag. For the threads that bring the halves. */
void worker_note_ready(struct worker *w);
/* Ready: the model is restored and proven, and the group was joined. */
enum worker_phase worker_phase(const struct worker *w);
const char *worker_phase_name(enum worker_phase phase);
/* Why readyz says no, into out; false: it says yes. */
bool worker_not_ready(struct worker *w, char *out, size_t size);

/* Of every client of this worker's. transactional_id: NULL for one that is no producer. */
struct kafka_config worker_kafka_config(const struct worker *w, const char *transactional_id);

#endif
