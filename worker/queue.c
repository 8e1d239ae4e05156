#include "worker/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "worker/wait.h"

int worker_queue_init(struct worker_queue *q, uint32_t capacity, struct base_error *err)
{
    assert(capacity >= 1);
    *q = (struct worker_queue){.capacity = capacity};
    q->ring = calloc(capacity, sizeof(struct worker_job *));
    if (!q->ring)
        return base_fail(err, ERR_NOMEM, "out of memory for a queue of %u jobs", capacity);
    pthread_mutex_init(&q->lock, NULL);
    worker_cond_init(&q->not_empty);
    return 0;
}

void worker_queue_done(struct worker_queue *q)
{
    if (!q->ring)
        return;
    pthread_cond_destroy(&q->not_empty);
    pthread_mutex_destroy(&q->lock);
    free(q->ring);
    q->ring = NULL;
}

int worker_queue_push(struct worker_queue *q, struct worker_job *job)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    if (q->stopping)
        rc = ERR_STOPPED;
    else if (q->count == q->capacity)
        rc = ERR_AGAIN;
    else
        q->ring[(q->head + q->count++) % q->capacity] = job;
    if (rc == 0)
        pthread_cond_signal(&q->not_empty);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

struct worker_job *worker_queue_pop(struct worker_queue *q, uint32_t wait_ms)
{
    struct worker_job *job = NULL;
    struct timespec until = worker_deadline(wait_ms);
    pthread_mutex_lock(&q->lock);
    int rc = 0;
    while (q->count == 0 && !q->stopping && !q->woken && wait_ms && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&q->not_empty, &q->lock, &until);
    q->woken = false;
    if (q->count) {
        job = q->ring[q->head];
        q->head = (q->head + 1) % q->capacity;
        q->count--;
    }
    pthread_mutex_unlock(&q->lock);
    return job;
}

void worker_queue_wake(struct worker_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->woken = true;
    pthread_cond_signal(&q->not_empty);
    pthread_mutex_unlock(&q->lock);
}

void worker_queue_stop(struct worker_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->stopping = true;
    pthread_cond_broadcast(&q->not_empty);
    pthread_mutex_unlock(&q->lock);
}

uint32_t worker_queue_count(struct worker_queue *q)
{
    pthread_mutex_lock(&q->lock);
    uint32_t n = q->count;
    pthread_mutex_unlock(&q->lock);
    return n;
}
