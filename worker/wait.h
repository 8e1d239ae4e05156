/* wait - condition variables on the monotonic clock: a wait does not stretch when somebody sets the wall clock. */
#ifndef ROUSE_WORKER_WAIT_H
#define ROUSE_WORKER_WAIT_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static inline void worker_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* For pthread_cond_timedwait on a condition of worker_cond_init. */
static inline struct timespec worker_deadline(uint32_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

#endif
