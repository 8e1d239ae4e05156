/* queue - a bounded queue of jobs between two threads.
 *
 * push never waits: a full queue is the caller's to act on (the poll thread must not block). pop waits up to a bound.
 * After stop, push refuses and pop hands out what is left. wake lets a waiting pop return empty-handed once: for news that
 * are not jobs. */
#ifndef ROUSE_WORKER_QUEUE_H
#define ROUSE_WORKER_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct worker_job;

struct worker_queue {
    pthread_mutex_t lock; /* guards head, count, stopping, woken; nothing is called while it is held */
    pthread_cond_t not_empty;
    struct worker_job **ring; /* [capacity], allocated in init, then read-only */
    uint32_t capacity, head, count;
    bool stopping, woken;
};

int worker_queue_init(struct worker_queue *q, uint32_t capacity, struct base_error *err);
void worker_queue_done(struct worker_queue *q); /* jobs inside are the caller's problem: drain first */

/* 0: the queue owns job now. ERR_AGAIN (full), ERR_STOPPED: the caller still does. Any thread. */
int worker_queue_push(struct worker_queue *q, struct worker_job *job);
/* The oldest job, or NULL after wait_ms, after wake, or when stopped and empty. */
struct worker_job *worker_queue_pop(struct worker_queue *q, uint32_t wait_ms);
void worker_queue_wake(struct worker_queue *q);
void worker_queue_stop(struct worker_queue *q);
uint32_t worker_queue_count(struct worker_queue *q);

#endif
