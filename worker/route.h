/* route - which model answers a prompt: what the batch asks for, what this worker may serve, what the name stands for.
 *
 * The key of a request is its batch_id, one zero byte, and the prompt's id: while a split stands, the same prompt goes to the
 * same version, in every worker. */
#ifndef ROUSE_WORKER_ROUTE_H
#define ROUSE_WORKER_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/names.h"
#include "worker/job.h"
#include "worker/models.h"
#include "worker/name_cache.h"

struct worker_route_rules {
    const char *allowed; /* "NAME,NAME@VERSION,...", "*"; NULL: the default's name alone */
    /* What answers when a batch names no model; name and version as --model says, set before any thread routes. */
    char name[SNAP_NAME_MAX + 1];
    char version[SNAP_VERSION_MAX + 1]; /* "": what the name leads to */
    /* The model that the worker began with: it answers to its name until somebody promotes a version of that, or splits it. */
    char own_version[SNAP_VERSION_MAX + 1], own_digest[SNAP_SHA256_CHARS + 1];
    bool has_store;
};

/* Sets name and version from --model, and checks the list. ERR_USAGE. */
int worker_route_rules_init(struct worker_route_rules *rules, const char *model, const char *allowed, bool has_store,
                            struct base_error *err);

/* Gives every prompt of the job its model. true: done, or the job is refused as a whole. false: not now, ask again; what was done
 * stays. Never waits. */
bool worker_route_job(const struct worker_route_rules *rules, struct worker_names *names, struct worker_models *models,
                      struct worker_job *job);

/* What the failure of a model means for its prompts. */
enum schema_code worker_route_failure(const struct base_error *why);

#endif
