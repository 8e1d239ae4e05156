/* name_cache - what the store says of names (snapshot/names.h), remembered: no record waits for the store, and none asks it.
 *
 * A thread of its own asks (worker_names_serve): at once for a name that is new, then every refresh_ms for names in use. What it
 * learned last holds until it learns something else: a store that is away changes nothing for names that are known. */
#ifndef ROUSE_WORKER_NAME_CACHE_H
#define ROUSE_WORKER_NAME_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "snapshot/names.h"

#define WORKER_NAMES_MAX 256 /* the one that was not asked for longest makes room */

struct worker_names;

/* As snap_names_get: 0, ERR_NOTFOUND, or anything else for "cannot be told now". Called by the serving thread alone. */
typedef int worker_names_fetch(void *context, const char *name, struct snap_name *out, struct base_error *err);

int worker_names_new(worker_names_fetch *fetch, void *context, uint32_t refresh_ms, struct worker_names **out_names,
                     struct base_error *err);
void worker_names_free(struct worker_names *n);

enum worker_route {
    WORKER_ROUTE_OK,        /* version and digest are set */
    WORKER_ROUTE_WAIT,      /* nobody has answered yet: ask again */
    WORKER_ROUTE_AWAY,      /* the store cannot tell, and never could: ask again, or go on without */
    WORKER_ROUTE_NONE,      /* the name has no versions */
    WORKER_ROUTE_NO_VERSION /* it has, but not this one */
};

struct worker_routed {
    char version[SNAP_VERSION_MAX + 1], digest[SNAP_SHA256_CHARS + 1];
    bool chosen;   /* by somebody: a version was promoted, a split was made, or this version was asked for */
    char why[200]; /* AWAY */
};

/* Which version of the name answers a request with that key (snap_name_route). since_ns: when the request came; that there is no
 * such version is believed only of what was learned after that. Any thread; never waits. */
enum worker_route worker_names_route(struct worker_names *n, const char *name, const char *version, const void *key,
                                     size_t n_key, uint64_t since_ns, struct worker_routed *out);

/* Asks, until quit. */
void worker_names_serve(struct worker_names *n, const _Atomic bool *quit);
/* Asks for one name that is due, if any: for tests. */
bool worker_names_serve_once(struct worker_names *n, uint64_t now_ns);

#endif
