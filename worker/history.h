/* history - what a worker did, one JSON line an event, for the checker of tests/chaos. Only in a chaos build (ROUSE_CHAOS)
 * and with ROUSE_HISTORY=FILE; else HISTORY is nothing.
 *
 * Every line is one write to a file opened with O_APPEND: a SIGKILL loses at most the event it comes before. Any thread.
 *   {"t":unix ms,"seq":n,"pid":n,"event":"send","partition":0,"offset":7,"prompt":1,"epoch":0,"txn":3}
 * Fields that an event has no value for are -1. */
#ifndef ROUSE_WORKER_HISTORY_H
#define ROUSE_WORKER_HISTORY_H

#include <stdint.h>

#ifdef ROUSE_CHAOS
void history_write(const char *event, int64_t partition, int64_t offset, int64_t prompt, int64_t epoch);
void history_next_transaction(void); /* what follows belongs to the next one */
#define HISTORY(event, partition, offset, prompt, epoch)                                                               \
    history_write(event, partition, offset, prompt, (int64_t)(epoch))
#define HISTORY_NEXT() history_next_transaction()
#else
#define HISTORY(event, partition, offset, prompt, epoch) ((void)0)
#define HISTORY_NEXT()                                   ((void)0)
#endif

#endif
