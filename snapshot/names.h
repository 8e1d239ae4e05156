/* names - what a model's name stands for: versions, which of them is active, how requests are split between them.
 *
 * A version is a model (the digest of weights, configuration and tokenizer), not a file: for each kind of worker it has a
 * snapshot of its own, whose id follows from digest and fingerprint. Names live in the store (objects.h, "names/<escaped
 * name>"), and Redis holds a copy: with Redis empty or away the store alone answers.
 *
 *   NAME            the version that the name's split gives for the request's key; without a split the active one; when nothing was
 *                   promoted yet, the newest
 *   NAME@VERSION    that version
 *
 * The same key always gives the same version while the split is the same. */
#ifndef ROUSE_SNAPSHOT_NAMES_H
#define ROUSE_SNAPSHOT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/snap_digest.h"

struct snap_store;

enum {
    SNAP_NAME_MAX = 128,
    SNAP_VERSION_MAX = 32,
    SNAP_VERSIONS_MAX = 64, /* of one name: older ones that nothing points at are forgotten */
    SNAP_REF_MAX = SNAP_NAME_MAX + 1 + SNAP_VERSION_MAX /* "NAME@VERSION" */
};

struct snap_version {
    char version[SNAP_VERSION_MAX + 1]; /* "v3": given by the store, ascending; or the operator's own word */
    char model_digest[SNAP_SHA256_CHARS + 1];
    int64_t created_ms;
    uint32_t weight; /* in the split; 0: none of it */
    bool active, pinned;
};

struct snap_name {
    char name[SNAP_NAME_MAX + 1];
    char previous[SNAP_VERSION_MAX + 1]; /* what rollback makes active; "" */
    uint32_t n_versions;
    struct snap_version versions[SNAP_VERSIONS_MAX]; /* oldest first */
};

/* "NAME[@VERSION]" taken apart. ERR_USAGE: neither; the text says what is allowed. */
int snap_ref_parse(const char *ref, char out_name[SNAP_NAME_MAX + 1], char out_version[SNAP_VERSION_MAX + 1],
                   struct base_error *err);

/* What the store (or Redis) knows of a name. ERR_NOTFOUND. */
int snap_names_get(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err);

/* Which version answers: a pure function of the name's state, the version asked for ("" for none) and the key. NULL: no such
 * version. */
const struct snap_version *snap_name_route(const struct snap_name *name, const char *version, const void *key,
                                           size_t n_key);

#endif
