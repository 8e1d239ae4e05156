/* pool - a fork-join thread pool: run f over [0, n_tasks) on all threads, the caller's included, and return when done.
 *
 * One thread drives a pool (calls run); workers spin briefly, then sleep. Tasks are claimed in order from one atomic
 * counter, so which thread runs a task is not fixed: results must not depend on it. */
#ifndef ROUSE_BASE_POOL_H
#define ROUSE_BASE_POOL_H

#include <stdint.h>

#include "base/error.h"

struct base_pool;
typedef void base_pool_fn(void *context, uint32_t task, uint32_t thread); /* thread < n_threads */

/* n_threads 0: base_pool_default_threads(). 1 is allowed and creates no thread. */
int base_pool_new(uint32_t n_threads, struct base_pool **out_pool, struct base_error *err);
void base_pool_free(struct base_pool *pool);
uint32_t base_pool_n_threads(const struct base_pool *pool);
void base_pool_run(struct base_pool *pool, base_pool_fn *fn, void *context, uint32_t n_tasks);

/* Cores this process may use: sched_getaffinity, cut by the cgroup's CPU quota (v2 cpu.max, v1 cfs_quota); at least 1. */
uint32_t base_pool_default_threads(void);
/* The cgroup's part of it, from the files below root ("" for the real ones; tests lay out their own): whole cores, rounded
 * up; 0: no limit. */
uint32_t base_pool_quota(const char *root);

#endif
