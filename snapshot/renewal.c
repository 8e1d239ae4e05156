#include "snapshot/renewal.h"

#include <time.h>

/* False: it ends. */
static bool wait_period(struct snap_renewal *r)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += r->period_s;
    pthread_mutex_lock(&r->lock);
    int rc = 0;
    while (!r->stopping && rc == 0)
        rc = pthread_cond_timedwait(&r->wake, &r->lock, &until);
    bool stopping = r->stopping;
    pthread_mutex_unlock(&r->lock);
    return !stopping;
}

static void *renewal_main(void *arg)
{
    struct snap_renewal *r = arg;
    while (wait_period(r))
        r->renew(r->context);
    return NULL;
}

void snap_renewal_begin(struct snap_renewal *r, uint32_t period_s, void (*renew)(void *context), void *context)
{
    pthread_condattr_t attr;
    *r = (struct snap_renewal){.period_s = period_s, .renew = renew, .context = context};
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    r->begun = pthread_create(&r->thread, NULL, renewal_main, r) == 0;
    if (!r->begun) {
        pthread_cond_destroy(&r->wake);
        pthread_mutex_destroy(&r->lock);
    }
}

void snap_renewal_end(struct snap_renewal *r)
{
    if (!r->begun)
        return;
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    r->begun = false;
}
