#include "worker/models.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/start.h"
#include "worker/wait.h"

#define LOOK_UP_MS 100

struct worker_models {
    struct worker_models_options options;
    pthread_mutex_t lock;
    pthread_cond_t work;                             /* for the loader thread */
    struct worker_model *entries[WORKER_MODELS_MAX]; /* lock: [n_entries] */
    uint32_t n_entries;
    struct worker_models_counts counts; /* lock; what happened */
};

/* Who answered */

struct worker_answerer *worker_answerer_new(const struct snap_model *model)
{
    struct worker_answerer *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->n_refs = 1;
    snprintf(a->model, sizeof a->model, "%s", model->name);
    snprintf(a->version, sizeof a->version, "%s", model->version);
    snprintf(a->snapshot, sizeof a->snapshot, "%s", model->snapshot_id);
    return a;
}

struct worker_answerer *worker_answerer_hold(struct worker_answerer *a)
{
    if (a)
        atomic_fetch_add(&a->n_refs, 1);
    return a;
}

void worker_answerer_drop(struct worker_answerer *a)
{
    if (a && atomic_fetch_sub(&a->n_refs, 1) == 1)
        free(a);
}

/* The set */

const char *worker_model_state_name(enum worker_model_state state)
{
    static const char *const names[] = {"absent", "loading", "ready", "closing", "failed"};
    return names[state];
}

int worker_models_new(const struct worker_models_options *options, struct worker_models **out_models,
                      struct base_error *err)
{
    struct worker_models *s = calloc(1, sizeof *s);
    if (!s)
        return base_fail(err, ERR_NOMEM, "models: out of memory");
    s->options = *options;
    pthread_mutex_init(&s->lock, NULL);
    worker_cond_init(&s->work);
    *out_models = s;
    return 0;
}

static void close_loaded(struct worker_models *s, struct worker_loaded *loaded)
{
    s->options.loader.close(s->options.loader.context, loaded);
    *loaded = (struct worker_loaded){.model = NULL};
}

void worker_models_close(struct worker_models *s)
{
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (m->loaded.model)
            close_loaded(s, &m->loaded);
        m->state = WORKER_MODEL_ABSENT;
    }
}

void worker_models_free(struct worker_models *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_entries; i++)
        free(s->entries[i]);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* Entries; lock held */

static bool is_held(const struct worker_model *m)
{
    return m->n_inside > 0;
}

/* Prompts in its line hold it too. */
static bool is_reusable(const struct worker_model *m)
{
    return (m->state == WORKER_MODEL_ABSENT || m->state == WORKER_MODEL_FAILED) && !is_held(m) && !m->is_default;
}

static bool is_same(const struct worker_model *m, const char *name, const char *version, const char *digest)
{
    if (strcmp(m->name, name) != 0)
        return false;
    if (digest[0] && m->state == WORKER_MODEL_READY && strcmp(m->loaded.model->model_digest, digest) == 0)
        return true; /* asked for by its name alone, and this is what it led to */
    if (digest[0] && m->digest[0])
        return strcmp(m->digest, digest) == 0;
    return strcmp(m->version, version) == 0 && digest[0] == m->digest[0];
}

static struct worker_model *find(struct worker_models *s, const char *name, const char *version, const char *digest)
{
    for (uint32_t i = 0; i < s->n_entries; i++)
        if (is_same(s->entries[i], name, version, digest))
            return s->entries[i];
    return NULL;
}

static struct worker_model *find_room(struct worker_models *s)
{
    struct worker_model *oldest = NULL;
    if (s->n_entries < WORKER_MODELS_MAX) {
        struct worker_model *m = calloc(1, sizeof *m);
        if (m)
            s->entries[s->n_entries++] = m;
        return m;
    }
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (is_reusable(m) && (!oldest || m->last_used_ns < oldest->last_used_ns))
            oldest = m;
    }
    if (oldest)
        memset(oldest, 0, sizeof *oldest);
    return oldest;
}

static struct worker_model *find_or_make(struct worker_models *s, const char *name, const char *version,
                                         const char *digest)
{
    struct worker_model *m = find(s, name, version, digest);
    if (m)
        return m;
    m = find_room(s);
    if (!m)
        return NULL;
    snprintf(m->name, sizeof m->name, "%s", name);
    snprintf(m->version, sizeof m->version, "%s", version);
    snprintf(m->digest, sizeof m->digest, "%s", digest);
    return m;
}

static struct worker_model_ref ref_of(const struct worker_model *m)
{
    struct worker_model_ref ref = {.is_default = m->is_default};
    memcpy(ref.name, m->name, sizeof ref.name);
    memcpy(ref.version, m->version, sizeof ref.version);
    return ref;
}

/* Memory; lock held */

static bool has_memory(const struct worker_model *m)
{
    return m->state == WORKER_MODEL_LOADING || m->state == WORKER_MODEL_READY || m->state == WORKER_MODEL_CLOSING;
}

static uint64_t bytes_taken(const struct worker_models *s, const struct worker_model *but)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_entries; i++)
        if (s->entries[i] != but && has_memory(s->entries[i]))
            n += s->entries[i]->bytes;
    return n;
}

/* Whether m fits beside what is there; alone it always does, unless somebody asked for the bound. */
static bool fits(const struct worker_models *s, const struct worker_model *m)
{
    uint64_t others = bytes_taken(s, m);
    if (others == 0 && !s->options.bytes_asked_for)
        return true;
    return others <= s->options.bytes_max && m->bytes <= s->options.bytes_max - others;
}

static bool never_fits(const struct worker_models *s, const struct worker_model *m)
{
    return s->options.bytes_asked_for && m->bytes > s->options.bytes_max;
}

static int fail_bound(const struct worker_models *s, const struct worker_model *m, struct base_error *err)
{
    return base_fail(
        err, ERR_USAGE,
        "model '%.100s' takes %.1f MB (weights, workspace, KV); --models-bytes allows %.1f MB in all: raise "
        "it, or lower --kv-bytes",
        m->name, (double)m->bytes / 1e6, (double)s->options.bytes_max / 1e6);
}

static void set_loaded(struct worker_model *m, const struct worker_loaded *loaded, uint64_t now)
{
    m->loaded = *loaded;
    m->bytes = loaded->bytes;
    m->state = WORKER_MODEL_READY;
    m->ready_ns = m->last_used_ns = now;
    m->n_failures = m->n_steps_bad = m->n_in_engine = 0;
    m->yields = m->needs_room = false;
    m->why = (struct base_error){0};
}

int worker_models_begin(struct worker_models *s, const struct worker_loaded *loaded, struct worker_model **out_model,
                        struct base_error *err)
{
    const struct snap_model *model = loaded->model;
    pthread_mutex_lock(&s->lock);
    struct worker_model *m = find_or_make(s, model->name, model->version, model->model_digest);
    int rc = m ? 0 : base_fail(err, ERR_NOMEM, "models: out of memory");
    if (rc == 0) {
        m->bytes = loaded->bytes;
        m->is_default = true;
        rc = fits(s, m) ? 0 : fail_bound(s, m, err);
    }
    if (rc == 0) {
        set_loaded(m, loaded, base_clock_mono_ns());
        s->counts.loads++;
        *out_model = m;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

struct worker_model *worker_models_want(struct worker_models *s, const char *name, const char *version,
                                        const char *digest)
{
    pthread_mutex_lock(&s->lock);
    struct worker_model *m = find_or_make(s, name, version, digest);
    if (m)
        atomic_fetch_add(&m->n_inside, 1);
    pthread_mutex_unlock(&s->lock);
    return m;
}

void worker_model_let_go(struct worker_model *m)
{
    uint32_t before = atomic_fetch_sub(&m->n_inside, 1);
    assert(before > 0);
    (void)before;
}

static bool has_failed(struct worker_model *m, uint64_t now)
{
    if (m->state == WORKER_MODEL_FAILED && now >= m->try_ns) /* the verdict is old: it may have been built meanwhile */
        m->state = WORKER_MODEL_ABSENT;
    return m->state == WORKER_MODEL_FAILED;
}

bool worker_models_failed(struct worker_models *s, struct worker_model *m, struct base_error *out_why)
{
    pthread_mutex_lock(&s->lock);
    bool failed = has_failed(m, base_clock_mono_ns());
    if (failed)
        *out_why = m->why;
    pthread_mutex_unlock(&s->lock);
    return failed;
}

const struct snap_model *worker_models_pin(struct worker_models *s, struct worker_model *m)
{
    const struct snap_model *model = NULL;
    pthread_mutex_lock(&s->lock);
    if (m->state == WORKER_MODEL_READY) {
        model = m->loaded.model;
        m->n_pins++;
    }
    pthread_mutex_unlock(&s->lock);
    return model;
}

void worker_models_unpin(struct worker_models *s, struct worker_model *m)
{
    pthread_mutex_lock(&s->lock);
    assert(m->n_pins > 0);
    m->n_pins--;
    pthread_mutex_unlock(&s->lock);
}

/* Failing; lock held */

static bool is_own_fault(int rc)
{
    return rc == ERR_NOTFOUND || rc == ERR_INPUT || rc == ERR_CORRUPT || rc == ERR_USAGE;
}

/* It was tried and is not there; whether that is final follows from what failed. */
static void note_failure(struct worker_models *s, struct worker_model *m, const struct base_error *why)
{
    uint64_t now = base_clock_mono_ns();
    bool alone = bytes_taken(s, m) == 0, final = is_own_fault(why->code) || (why->code == ERR_NOMEM && alone);
    uint64_t pause_ms =
        base_clock_backoff_ms(m->n_failures < 16 ? m->n_failures : 16, WORKER_MODEL_AGAIN_MS, WORKER_MODEL_AGAIN_MAX);
    m->why = *why;
    m->n_failures++;
    m->state = final ? WORKER_MODEL_FAILED : WORKER_MODEL_ABSENT;
    m->try_ns = now + (final ? WORKER_MODEL_VERDICT_MS : pause_ms) * 1000000;
    s->counts.loads_failed++;
    base_log_warn("model not loaded", LOG_STR("model", m->name), LOG_STR("version", m->version),
                  LOG_STR("reason", why->text), LOG_STR("then", final ? "its prompts fail" : "tried again"));
}

/* Deciding; lock held */

static bool is_busy_loading(const struct worker_models *s)
{
    for (uint32_t i = 0; i < s->n_entries; i++)
        if (s->entries[i]->state == WORKER_MODEL_LOADING || s->entries[i]->state == WORKER_MODEL_CLOSING)
            return true;
    return false;
}

/* The one that has waited longest among those that may be tried now. */
static struct worker_model *next_wanted(struct worker_models *s, uint64_t now)
{
    struct worker_model *next = NULL;
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (m->state != WORKER_MODEL_ABSENT || !is_held(m)) {
            m->wanted_ns = 0;
            continue;
        }
        if (m->wanted_ns == 0)
            m->wanted_ns = now;
        if (m->try_ns <= now && (!next || m->wanted_ns < next->wanted_ns))
            next = m;
    }
    return next;
}

static bool can_make_room(const struct worker_model *m)
{
    return m->state == WORKER_MODEL_READY && m->n_pins == 0 && m->n_in_engine == 0 && (!is_held(m) || m->yields);
}

static struct worker_model *least_recently_used(struct worker_models *s, bool wanted_too)
{
    struct worker_model *lru = NULL;
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (m->state == WORKER_MODEL_READY && (wanted_too || can_make_room(m)) &&
            (!lru || m->last_used_ns < lru->last_used_ns))
            lru = m;
    }
    return lru;
}

static void begin_close(struct worker_models *s, struct worker_model *m)
{
    m->state = WORKER_MODEL_CLOSING;
    s->counts.evictions++;
    pthread_cond_signal(&s->work);
}

/* All that are loaded are wanted: one whose turn was long enough, for what loading costs, ends it. */
static void end_a_turn(struct worker_models *s, const struct worker_model *next, uint64_t now)
{
    uint64_t turn_ms = 4 * next->load_ms > WORKER_MODEL_TURN_MS ? 4 * next->load_ms : WORKER_MODEL_TURN_MS;
    struct worker_model *m = least_recently_used(s, true);
    for (uint32_t i = 0; i < s->n_entries; i++)
        if (s->entries[i]->state == WORKER_MODEL_READY && s->entries[i]->yields)
            return; /* on its way out already */
    uint64_t since = m ? (m->ready_ns > next->wanted_ns ? m->ready_ns : next->wanted_ns) : 0;
    if (m && now > since && now - since > turn_ms * 1000000)
        m->yields = true;
}

static void make_room(struct worker_models *s, struct worker_model *next, uint64_t now)
{
    struct worker_model *m = least_recently_used(s, false);
    if (m) {
        begin_close(s, m);
        next->needs_room = false;
    } else {
        end_a_turn(s, next, now);
    }
}

static void begin_load(struct worker_models *s, struct worker_model *m)
{
    m->state = WORKER_MODEL_LOADING;
    for (uint32_t i = 0; i < s->n_entries; i++)
        s->entries[i]->yields = false;
    pthread_cond_signal(&s->work);
}

void worker_models_plan(struct worker_models *s, uint64_t now)
{
    pthread_mutex_lock(&s->lock);
    struct worker_model *next = next_wanted(s, now);
    if (next && !is_busy_loading(s)) {
        struct base_error why = {0};
        if (never_fits(s, next)) {
            fail_bound(s, next, &why);
            note_failure(s, next, &why);
        } else if (fits(s, next) && !(next->needs_room && bytes_taken(s, next)))
            begin_load(s, next);
        else
            make_room(s, next, now);
    } else if (!next) {
        for (uint32_t i = 0; i < s->n_entries; i++)
            s->entries[i]->yields = false; /* who wanted the room has gone */
    }
    pthread_mutex_unlock(&s->lock);
}

uint32_t worker_models_list(struct worker_models *s, struct worker_model **out, uint32_t n_max)
{
    pthread_mutex_lock(&s->lock);
    uint32_t n = s->n_entries < n_max ? s->n_entries : n_max;
    memcpy(out, s->entries, n * sizeof(*out));
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool worker_models_drives(struct worker_models *s, struct worker_model *m, bool *out_yields)
{
    pthread_mutex_lock(&s->lock);
    bool drives = m->state == WORKER_MODEL_READY;
    *out_yields = m->yields;
    pthread_mutex_unlock(&s->lock);
    return drives;
}

void worker_models_used(struct worker_models *s, struct worker_model *m, uint32_t n_in_engine, uint64_t now)
{
    pthread_mutex_lock(&s->lock);
    m->n_in_engine = n_in_engine;
    m->last_used_ns = now;
    pthread_mutex_unlock(&s->lock);
}

bool worker_models_rest(struct worker_models *s)
{
    bool settled = true;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        bool own = m->state == WORKER_MODEL_READY && !m->loaded.device;
        if (m->state == WORKER_MODEL_READY && !own && can_make_room(m))
            begin_close(s, m);
        settled = settled && (own || !has_memory(m));
    }
    pthread_mutex_unlock(&s->lock);
    return settled;
}

/* Loading; the lock is let go while it lasts */

/* lock held. Loaded, and now what it takes is known: true when it may stay. */
static bool finds_room(struct worker_models *s, struct worker_model *m, struct worker_loaded *loaded)
{
    m->bytes = loaded->bytes;
    if (fits(s, m))
        return true;
    pthread_mutex_unlock(&s->lock);
    close_loaded(s, loaded);
    pthread_mutex_lock(&s->lock);
    m->state = WORKER_MODEL_ABSENT; /* the next plan knows what it takes, and makes room, or says that it never fits */
    return false;
}

/* lock held. ERR_NOMEM with others there: one of them makes room as if the bound had been lower. */
static void load(struct worker_models *s, struct worker_model *m)
{
    struct worker_model_ref what = ref_of(m);
    struct worker_loaded loaded = {.model = NULL};
    struct base_error why = {0};
    uint64_t began = base_clock_mono_ns();
    pthread_mutex_unlock(&s->lock);
    base_log_info("model loading", LOG_STR("model", what.name), LOG_STR("version", what.version));
    int rc = s->options.loader.load(s->options.loader.context, &what, &loaded, &why);
    pthread_mutex_lock(&s->lock);
    m->load_ms = (base_clock_mono_ns() - began) / 1000000;
    if (rc < 0) {
        why.code = rc;
        note_failure(s, m, &why);
        m->needs_room = rc == ERR_NOMEM;
        return;
    }
    if (!finds_room(s, m, &loaded))
        return;
    set_loaded(m, &loaded, base_clock_mono_ns());
    s->counts.loads++;
    s->counts.load_ms += m->load_ms;
    base_log_info("model ready", LOG_STR("model", m->name), LOG_STR("version", m->version),
                  LOG_STR("snapshot", loaded.model->snapshot_id),
                  LOG_STR("restored", loaded.model->restored ? "true" : "false"), LOG_INT("bytes", m->bytes),
                  LOG_INT("load_ms", m->load_ms));
}

/* lock held. */
static void unload(struct worker_models *s, struct worker_model *m)
{
    struct worker_loaded loaded = m->loaded;
    uint64_t now = base_clock_mono_ns(), idle_ms = (now - m->last_used_ns) / 1000000;
    m->loaded = (struct worker_loaded){.model = NULL};
    pthread_mutex_unlock(&s->lock);
    close_loaded(s, &loaded);
    pthread_mutex_lock(&s->lock);
    m->state = WORKER_MODEL_ABSENT;
    m->yields = false;
    m->try_ns = 0;
    base_log_info("model evicted", LOG_STR("model", m->name), LOG_STR("version", m->version),
                  LOG_INT("bytes", m->bytes), LOG_INT("idle_ms", idle_ms),
                  LOG_INT("close_ms", (base_clock_mono_ns() - now) / 1000000));
}

/* lock held. */
static void estimate(struct worker_models *s, struct worker_model *m)
{
    struct worker_model_ref what = ref_of(m);
    pthread_mutex_unlock(&s->lock);
    uint64_t bytes = s->options.loader.estimate(s->options.loader.context, &what);
    pthread_mutex_lock(&s->lock);
    m->bytes = bytes;
}

static bool work_once_locked(struct worker_models *s)
{
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (m->state == WORKER_MODEL_CLOSING) {
            unload(s, m);
            return true;
        }
    }
    for (uint32_t i = 0; i < s->n_entries; i++) {
        struct worker_model *m = s->entries[i];
        if (m->state != WORKER_MODEL_LOADING)
            continue;
        if (m->bytes == 0 && s->options.loader.estimate)
            estimate(s, m);
        if (fits(s, m))
            load(s, m);
        else
            m->state = WORKER_MODEL_ABSENT; /* not even by its size on disk: room first */
        return true;
    }
    return false;
}

bool worker_models_serve_once(struct worker_models *s)
{
    pthread_mutex_lock(&s->lock);
    bool worked = work_once_locked(s);
    pthread_mutex_unlock(&s->lock);
    if (worked && s->options.loader.changed)
        s->options.loader.changed(s->options.loader.context);
    return worked;
}

void worker_models_serve(struct worker_models *s, const _Atomic bool *quit)
{
    while (!*quit) {
        if (worker_models_serve_once(s))
            continue;
        struct timespec until = worker_deadline(LOOK_UP_MS);
        pthread_mutex_lock(&s->lock);
        if (!is_busy_loading(s))
            pthread_cond_timedwait(&s->work, &s->lock, &until);
        pthread_mutex_unlock(&s->lock);
    }
}

/* For people */

uint32_t worker_models_view(struct worker_models *s, struct worker_model_view *out, uint32_t n_max)
{
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_entries && n < n_max; i++) {
        const struct worker_model *m = s->entries[i];
        if (m->state == WORKER_MODEL_ABSENT && !is_held(m) && m->bytes == 0)
            continue;
        struct worker_model_view *v = &out[n++];
        *v = (struct worker_model_view){.state = m->state,
                                        .is_default = m->is_default,
                                        .bytes = m->bytes,
                                        .last_used_ns = m->last_used_ns,
                                        .n_prompts = m->n_inside};
        memcpy(v->name, m->name, sizeof v->name);
        memcpy(v->version, m->version, sizeof v->version);
        snprintf(v->why, sizeof v->why, "%.199s", m->why.text);
        if (m->state == WORKER_MODEL_READY && m->loaded.answerer) {
            memcpy(v->snapshot, m->loaded.answerer->snapshot, sizeof v->snapshot);
            memcpy(v->version, m->loaded.answerer->version, sizeof v->version);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

void worker_models_count(struct worker_models *s, struct worker_models_counts *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    out->bytes = bytes_taken(s, NULL);
    out->bytes_max = s->options.bytes_max;
    memset(out->states, 0, sizeof out->states);
    for (uint32_t i = 0; i < s->n_entries; i++)
        out->states[s->entries[i]->state]++;
    pthread_mutex_unlock(&s->lock);
}
