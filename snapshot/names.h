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
 * The same key always gives the same version while the split is the same.
 *
 *   names_text.c   the record as text, bounded          names_rules.c  pure: references, routing, what changes a name
 *   names.c        in the store, by compare and swap */
#ifndef ROUSE_SNAPSHOT_NAMES_H
#define ROUSE_SNAPSHOT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "snapshot/objects.h"
#include "snapshot/snap_digest.h"

struct snap_store;

enum {
    SNAP_NAME_MAX = 128,
    SNAP_VERSION_MAX = 32,
    SNAP_VERSIONS_MAX = 64, /* of one name: older ones that nothing points at are forgotten */
    SNAP_REF_MAX = SNAP_NAME_MAX + 1 + SNAP_VERSION_MAX, /* "NAME@VERSION" */
    SNAP_WEIGHT_MAX = 1000000,
    SNAP_NAME_BYTES_MAX = 16384 /* of a record */
};

struct snap_version {
    char version[SNAP_VERSION_MAX + 1]; /* "v3": given by the store, ascending; or the operator's own word */
    char model_digest[SNAP_SHA256_CHARS + 1];
    char file_dtype[8]; /* of the model's own files: what --dtype auto goes by */
    int64_t created_ms;
    uint32_t weight; /* in the split; 0: none of it */
    bool active, pinned;
};

struct snap_name {
    char name[SNAP_NAME_MAX + 1];
    char previous[SNAP_VERSION_MAX + 1]; /* what rollback makes active; "" */
    uint64_t revision;                   /* one more with every change: of two copies the higher one is right */
    uint32_t next;                       /* N of the next vN */
    uint32_t n_versions;
    struct snap_version versions[SNAP_VERSIONS_MAX]; /* oldest first */
};

/* "NAME[@VERSION]" taken apart. ERR_USAGE: neither; the text says what is allowed. */
int snap_ref_parse(const char *ref, char out_name[SNAP_NAME_MAX + 1], char out_version[SNAP_VERSION_MAX + 1],
                   struct base_error *err);
/* The words of a reference on their own. ERR_USAGE. */
int snap_name_check(const char *name, struct base_error *err);
int snap_version_check(const char *version, struct base_error *err);

/* What the store (or Redis) knows of a name. ERR_NOTFOUND. */
int snap_names_get(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err);
/* The store alone: no question to Redis. ERR_NOTFOUND; ERR_INPUT: a record that cannot be read. */
int snap_names_read(struct snap_store *store, const char *name, struct snap_name *out, struct base_error *err);
/* Every name of the store whose record can be read; visit returns false to stop. Of one that cannot it warns, and counts it in
 * out_unreadable (may be NULL). */
int snap_names_each(struct snap_store *store, bool (*visit)(void *context, const struct snap_name *name), void *context,
                    uint32_t *out_unreadable, struct base_error *err);

/* Which version answers: a pure function of the name's state, the version asked for ("" for none) and the key. NULL: no such
 * version.
 *
 * A split takes XXH3-64 (seed 0) of the key modulo the sum of all weights, and the first version, oldest first, at which the
 * running sum of weights exceeds that. Without a key (NULL) a split has nothing to go by: the active version, or the heaviest. */
const struct snap_version *snap_name_route(const struct snap_name *name, const char *version, const void *key,
                                           size_t n_key);

/* ---- what changes a name; pure. 1: changed, 0: it was so already, negative: refused, and nothing changed ---- */

const struct snap_version *snap_name_find(const struct snap_name *name, const char *version);
const struct snap_version *snap_name_find_digest(const struct snap_name *name, const char *model_digest);
/* It answers something: active, part of a split, what rollback goes to; or, while nothing was promoted, the newest. */
bool snap_name_serves(const struct snap_name *name, const struct snap_version *version);

/* The model that was built becomes a version: the one that it is already, else one more, called `word` or the next vN. ERR_USAGE: the
 * word stands for another model, or the model has another word; ERR_INPUT: 64 versions, all in use. */
int snap_name_add(struct snap_name *name, const struct snap_version *made, struct base_error *err);
/* It answers alone: a split ends. What answered before is what rollback goes to. ERR_NOTFOUND. */
int snap_name_promote(struct snap_name *name, const char *version, struct base_error *err);
/* Undoes the last step: a split ends and the active version answers alone; without a split the previous one becomes active,
 * once. ERR_USAGE: nothing to go back to. */
int snap_name_rollback(struct snap_name *name, struct base_error *err);
/* Weights of the named versions, 0 for all others. n 0: no split any more. ERR_NOTFOUND, ERR_USAGE. */
struct snap_split {
    char version[SNAP_VERSION_MAX + 1];
    uint32_t weight;
};
int snap_name_split(struct snap_name *name, const struct snap_split *parts, size_t n, struct base_error *err);
int snap_name_pin(struct snap_name *name, const char *version, bool pinned, struct base_error *err);
/* Forgets a version. ERR_USAGE: it serves, or is pinned. */
int snap_name_forget(struct snap_name *name, const char *version, struct base_error *err);

/* ---- changes in the store ---- */

/* Reads the record, lets `step` (one of the above) work on it, writes it if nobody else wrote meanwhile, else begins again; then
 * tells Redis. `make`: a name that has no record begins empty, else ERR_NOTFOUND. out (may be NULL): the name afterwards.
 * Returns what `step` does; ERR_AGAIN: others were faster for seconds. */
typedef int snap_names_step(struct snap_name *name, const void *context, struct base_error *err);
int snap_names_change(struct snap_store *store, const char *name, bool make, snap_names_step *step, const void *context,
                      struct snap_name *out, struct base_error *err);

/* snap_name_add in the store; Redis is not told: who built tells it with the index, in one change. out: as it is afterwards. */
int snap_names_add(struct snap_store *store, const char *name, const struct snap_version *made, struct snap_name *out,
                   struct base_error *err);

/* Gives Redis its copy; warns when that fails. */
void snap_names_tell(struct snap_store *store, const struct snap_name *name);

/* ---- as text ---- */

/* "names/<escaped name>": the key of its record. */
int snap_name_key(const char *name, char out[SNAP_OBJECT_KEY_MAX + 1], struct base_error *err);
int snap_name_encode(const struct snap_name *name, struct base_buffer *out, struct base_error *err);
/* ERR_INPUT names the line. Any bytes. */
int snap_name_decode(const void *bytes, size_t n, struct snap_name *out, struct base_error *err);

#endif
