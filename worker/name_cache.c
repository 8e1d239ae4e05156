#include "worker/name_cache.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/wait.h"

#define LOOK_UP_MS 100
#define AGAIN_MS   500 /* after the store could not tell */
#define FORGOTTEN  20  /* refreshes without a question: nobody uses the name */
#define MS_NS      1000000ull

enum known { NOT_YET, KNOWN, NO_NAME, CANNOT_TELL };

struct name_entry {
    enum known known;
    bool wanted;       /* now, not when it is due */
    uint64_t asked_ns; /* when the question began whose answer this is; 0: never */
    uint64_t next_ns, used_ns;
    char why[200];
    struct snap_name name; /* its record, KNOWN; of the others only the word */
};

struct worker_names {
    worker_names_fetch *fetch;
    void *context;
    uint64_t refresh_ns;
    pthread_mutex_t lock; /* not held while fetch is called */
    pthread_cond_t wanted;
    struct name_entry *entries[WORKER_NAMES_MAX]; /* lock */
    uint32_t n_entries;
    struct snap_name fetched; /* the serving thread's */
};

int worker_names_new(worker_names_fetch *fetch, void *context, uint32_t refresh_ms, struct worker_names **out_names,
                     struct base_error *err)
{
    struct worker_names *n = calloc(1, sizeof *n);
    if (!n)
        return base_fail(err, ERR_NOMEM, "names: out of memory");
    n->fetch = fetch;
    n->context = context;
    n->refresh_ns = refresh_ms * MS_NS;
    pthread_mutex_init(&n->lock, NULL);
    worker_cond_init(&n->wanted);
    *out_names = n;
    return 0;
}

void worker_names_free(struct worker_names *n)
{
    if (!n)
        return;
    for (uint32_t i = 0; i < n->n_entries; i++)
        free(n->entries[i]);
    pthread_cond_destroy(&n->wanted);
    pthread_mutex_destroy(&n->lock);
    free(n);
}

/* lock held in all of these */

static struct name_entry *find(struct worker_names *n, const char *name)
{
    for (uint32_t i = 0; i < n->n_entries; i++)
        if (strcmp(n->entries[i]->name.name, name) == 0)
            return n->entries[i];
    return NULL;
}

static struct name_entry *make(struct worker_names *n, const char *name)
{
    struct name_entry *e = NULL;
    if (n->n_entries < WORKER_NAMES_MAX) {
        e = malloc(sizeof *e);
        if (!e)
            return NULL;
        n->entries[n->n_entries++] = e;
    } else {
        e = n->entries[0];
        for (uint32_t i = 1; i < n->n_entries; i++)
            if (n->entries[i]->used_ns < e->used_ns)
                e = n->entries[i];
    }
    *e = (struct name_entry){.known = NOT_YET, .wanted = true};
    snprintf(e->name.name, sizeof e->name.name, "%s", name);
    pthread_cond_signal(&n->wanted);
    return e;
}

static void want(struct worker_names *n, struct name_entry *e)
{
    e->wanted = true;
    pthread_cond_signal(&n->wanted);
}

static bool was_chosen(const struct snap_name *name)
{
    for (uint32_t i = 0; i < name->n_versions; i++)
        if (name->versions[i].active || name->versions[i].weight)
            return true;
    return false;
}

static enum worker_route route(struct worker_names *n, struct name_entry *e, const char *version, const void *key,
                               size_t n_key, uint64_t since_ns, struct worker_routed *out)
{
    if (e->known == NOT_YET)
        return WORKER_ROUTE_WAIT;
    if (e->known == CANNOT_TELL) {
        memcpy(out->why, e->why, sizeof out->why);
        return WORKER_ROUTE_AWAY;
    }
    const struct snap_version *v = e->known == KNOWN ? snap_name_route(&e->name, version, key, n_key) : NULL;
    if (v) {
        memcpy(out->version, v->version, sizeof out->version);
        memcpy(out->digest, v->model_digest, sizeof out->digest);
        out->chosen = version[0] || was_chosen(&e->name);
        return WORKER_ROUTE_OK;
    }
    /* Made after we looked, perhaps; but a store that is away is not waited for. */
    if (version[0] && e->asked_ns < since_ns && e->why[0] == '\0') {
        want(n, e);
        return WORKER_ROUTE_WAIT;
    }
    return e->known == NO_NAME ? WORKER_ROUTE_NONE : WORKER_ROUTE_NO_VERSION;
}

enum worker_route worker_names_route(struct worker_names *n, const char *name, const char *version, const void *key,
                                     size_t n_key, uint64_t since_ns, struct worker_routed *out)
{
    enum worker_route way = WORKER_ROUTE_WAIT;
    *out = (struct worker_routed){.chosen = false};
    pthread_mutex_lock(&n->lock);
    struct name_entry *e = find(n, name);
    if (!e)
        e = make(n, name);
    if (e) {
        e->used_ns = base_clock_mono_ns();
        way = route(n, e, version, key, n_key, since_ns, out);
    }
    pthread_mutex_unlock(&n->lock);
    return way;
}

/* Asking */

static struct name_entry *next_due(struct worker_names *n, uint64_t now)
{
    struct name_entry *due = NULL;
    for (uint32_t i = 0; i < n->n_entries; i++) {
        struct name_entry *e = n->entries[i];
        bool used = now < e->used_ns + FORGOTTEN * n->refresh_ns + AGAIN_MS * MS_NS;
        bool is_due = (e->wanted && (e->why[0] == '\0' || e->next_ns <= now)) || (used && e->next_ns <= now);
        if (is_due && (!due || e->next_ns < due->next_ns))
            due = e;
    }
    return due;
}

static void note_answer(struct worker_names *n, struct name_entry *e, int rc, const struct base_error *why,
                        uint64_t now)
{
    bool told = rc == 0 || rc == ERR_NOTFOUND, was_away = e->why[0] != '\0';
    e->wanted = false;
    e->next_ns = now + (told || n->refresh_ns < AGAIN_MS * MS_NS ? n->refresh_ns : AGAIN_MS * MS_NS);
    if (!told) {
        snprintf(e->why, sizeof e->why, "%.199s", why->text[0] ? why->text : "no reason was given");
        e->known = e->known == NOT_YET ? CANNOT_TELL : e->known;
        if (!was_away)
            base_log_warn("name not refreshed", LOG_STR("name", e->name.name), LOG_STR("reason", e->why),
                          LOG_STR("then", e->known == CANNOT_TELL ? "asked again" : "what was known holds"));
        return;
    }
    e->why[0] = '\0';
    e->asked_ns = now;
    if (rc == 0 && e->known == KNOWN && e->name.revision != n->fetched.revision)
        base_log_info("name changed", LOG_STR("name", e->name.name), LOG_INT("revision", n->fetched.revision));
    e->known = rc == 0 ? KNOWN : NO_NAME;
    if (rc == 0)
        e->name = n->fetched;
}

bool worker_names_serve_once(struct worker_names *n, uint64_t now_ns)
{
    char name[SNAP_NAME_MAX + 1] = "";
    struct base_error why = {0};
    pthread_mutex_lock(&n->lock);
    struct name_entry *e = next_due(n, now_ns);
    if (e)
        memcpy(name, e->name.name, sizeof name);
    pthread_mutex_unlock(&n->lock);
    if (!e)
        return false;
    int rc = n->fetch(n->context, name, &n->fetched, &why);
    pthread_mutex_lock(&n->lock);
    e = find(n, name);
    if (e)
        note_answer(n, e, rc, &why, now_ns);
    pthread_mutex_unlock(&n->lock);
    return true;
}

void worker_names_serve(struct worker_names *n, const _Atomic bool *quit)
{
    while (!*quit) {
        if (worker_names_serve_once(n, base_clock_mono_ns()))
            continue;
        struct timespec until = worker_deadline(LOOK_UP_MS);
        pthread_mutex_lock(&n->lock);
        bool any = false;
        for (uint32_t i = 0; i < n->n_entries; i++)
            any = any || (n->entries[i]->wanted && n->entries[i]->why[0] == '\0');
        if (!any)
            pthread_cond_timedwait(&n->wanted, &n->lock, &until);
        pthread_mutex_unlock(&n->lock);
    }
}
