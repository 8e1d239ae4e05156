/* renewal - a small thread that says again every so often what would otherwise run out: a lease, the note of a use.
 *
 * The caller's memory; all zeros is one that was never begun. One thread begins and ends it. */
#ifndef ROUSE_SNAPSHOT_RENEWAL_H
#define ROUSE_SNAPSHOT_RENEWAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct snap_renewal {
    bool begun, stopping;
    uint32_t period_s;
    void (*renew)(void *context);
    void *context;
    pthread_mutex_t lock; /* guards stopping */
    pthread_cond_t wake;
    pthread_t thread;
};

/* renew runs in the thread, first after period_s. Without a thread nothing is renewed: whoever relies on it checks anyway. */
void snap_renewal_begin(struct snap_renewal *r, uint32_t period_s, void (*renew)(void *context), void *context);
/* Waits for a renew that is under way; afterwards its context is the caller's alone. */
void snap_renewal_end(struct snap_renewal *r);

#endif
