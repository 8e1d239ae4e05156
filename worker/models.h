/* models - the models of one worker: which are loaded, which are wanted, and which makes room.
 *
 * A plain set behind one lock. What loads and closes a model is given by two functions, so that this file needs no device.
 *
 *   ABSENT  -> LOADING  worker_models_plan: wanted, and there is room       device thread
 *   LOADING -> READY    worker_models_serve: it was loaded                  loader thread
 *   LOADING -> ABSENT   the same: not now; tried again after a while (the store is away, others have the memory)
 *   LOADING -> FAILED   the same: for a reason of its own; the verdict holds for a while
 *   READY   -> CLOSING  worker_models_plan: it makes room                   device thread
 *   CLOSING -> ABSENT   worker_models_serve: its memory is given back       loader thread
 *
 * A model has a device of its own (threads, streams), so that one can be restored and proven while others step; the one that
 * the worker began with is on the worker's. The device thread alone drives engines of READY models, the loader thread alone
 * touches what is LOADING or CLOSING.
 *
 * (1) The bytes of all that is loaded, being loaded and being closed stay within bytes_max, but for a model that is alone and
 *     whose bound is none that somebody asked for. What a model takes is known exactly once it was loaded; before, its
 *     snapshot's size stands for it, and one that turns out not to fit is closed again.
 * (2) Only a model that has nothing in its engine, and that nobody tokenises with, makes room: the least recently used, when
 *     no prompt wants it. When all are wanted, one whose turn has lasted long enough stops taking prompts into its engine
 *     and makes room when it is empty; its prompts wait for its next turn.
 * (3) An entry stays as long as the worker, unless it is reused: one that is ABSENT or FAILED with no prompt that refers to it. */
#ifndef ROUSE_WORKER_MODELS_H
#define ROUSE_WORKER_MODELS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "schemas/codes.h"
#include "snapshot/names.h"

#define WORKER_MODELS_MAX       256  /* entries */
#define WORKER_MODEL_TURN_MS    1000 /* at least, before a model that is wanted makes room for another that is */
#define WORKER_MODEL_AGAIN_MS   500  /* after a load that failed for no fault of the model; doubles */
#define WORKER_MODEL_AGAIN_MAX  30000
#define WORKER_MODEL_VERDICT_MS 5000 /* how long one that failed is believed to fail */

struct gpu_device;
struct snap_model;
struct engine;
struct worker_prompt;

/* Who answered: outlives the model, for as long as a result speaks of it. */
struct worker_answerer {
    _Atomic uint32_t n_refs;
    char model[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1], snapshot[33];
};
struct worker_answerer *worker_answerer_new(const struct snap_model *model); /* NULL: no memory */
struct worker_answerer *worker_answerer_hold(struct worker_answerer *a);
void worker_answerer_drop(struct worker_answerer *a); /* NULL: nothing */

/* Which model: what a loader goes by. */
struct worker_model_ref {
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1]; /* version "": the one that the name leads to */
    bool is_default;
};

struct worker_loaded {
    struct gpu_device *device; /* its own; NULL: the worker's */
    struct snap_model *model;
    struct engine *engine;
    struct worker_answerer *answerer;
    uint64_t bytes; /* of its arena: weights (mapped ones too), workspace, KV */
};

enum worker_model_state {
    WORKER_MODEL_ABSENT,
    WORKER_MODEL_LOADING,
    WORKER_MODEL_READY,
    WORKER_MODEL_CLOSING,
    WORKER_MODEL_FAILED
};
const char *worker_model_state_name(enum worker_model_state state);

struct worker_model {
    /* lock */
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1],
        digest[SNAP_SHA256_CHARS + 1]; /* as asked for; "": not */
    enum worker_model_state state;
    struct worker_loaded loaded; /* READY, CLOSING */
    uint64_t bytes;              /* what it takes, or by its snapshot's size will take; 0: not known yet */
    uint64_t last_used_ns, ready_ns, wanted_ns, try_ns, load_ms;
    uint32_t n_pins;     /* the poll thread tokenises with it */
    uint32_t n_failures; /* in a row */
    bool yields;         /* its engine takes nothing more: another model's turn */
    bool needs_room;     /* there was no memory for it beside the others, whatever the bound says */
    bool is_default;
    struct base_error why; /* of the last failure */

    /* any thread: prompts that it has to answer and has not; those alone make it wanted */
    _Atomic uint32_t n_inside;

    /* device thread */
    struct worker_prompt *head, *tail; /* on their way into the engine */
    uint32_t n_in_engine, n_steps_bad;
};

/* What the set is told of loading. load: ERR_NOTFOUND, ERR_INPUT, ERR_CORRUPT, ERR_USAGE: the model's own fault; ERR_NOMEM: no room;
 * anything else is none of it. estimate: bytes that it will take, about; 0: not known. */
struct worker_model_loader {
    int (*load)(void *context, const struct worker_model_ref *ref, struct worker_loaded *out, struct base_error *err);
    void (*close)(void *context, struct worker_loaded *loaded);
    uint64_t (*estimate)(void *context, const struct worker_model_ref *ref);
    void *context;
    void (*changed)(void *context); /* loader thread, no lock held: there is news for the device thread */
};

struct worker_models;

struct worker_models_options {
    uint64_t bytes_max;
    bool bytes_asked_for; /* the user's own bound: a model alone must keep it too */
    struct worker_model_loader loader;
};
int worker_models_new(const struct worker_models_options *options, struct worker_models **out_models,
                      struct base_error *err);
/* Gives all memory back; the other threads have ended. The entries stay, for prompts that refer to them. */
void worker_models_close(struct worker_models *s);
void worker_models_free(struct worker_models *s); /* after close, where anything was loaded */

/* The model that the worker begins with, loaded already; taken over. ERR_USAGE: beyond the bound; then it is still the caller's. */
int worker_models_begin(struct worker_models *s, const struct worker_loaded *loaded, struct worker_model **out_model,
                        struct base_error *err);

/* The entry of a model, made when there is none; it is held (n_inside + 1) when it comes back. digest: "" or the model's, which is
 * the same model under whatever version. NULL: WORKER_MODELS_MAX are in use. */
struct worker_model *worker_models_want(struct worker_models *s, const char *name, const char *version,
                                        const char *digest);
void worker_model_let_go(struct worker_model *m); /* one n_inside less; any thread */
/* Whether it has failed by a verdict that still holds; out: why. */
bool worker_models_failed(struct worker_models *s, struct worker_model *m, struct base_error *out_why);

/* For tokenising outside the device thread: lent until unpin; NULL: it is not loaded. */
const struct snap_model *worker_models_pin(struct worker_models *s, struct worker_model *m);
void worker_models_unpin(struct worker_models *s, struct worker_model *m);

/* Device thread: looks at what is wanted, and decides what is loaded and what makes room. Cheap when nothing is. */
void worker_models_plan(struct worker_models *s, uint64_t now_ns);
/* Device thread: all entries with their states, at most n_max; the pointers stay good. */
uint32_t worker_models_list(struct worker_models *s, struct worker_model **out, uint32_t n_max);
/* Device thread: whether it may drive the model's engine; used: it has just done so with something to do. */
bool worker_models_drives(struct worker_models *s, struct worker_model *m, bool *out_yields);
void worker_models_used(struct worker_models *s, struct worker_model *m, uint32_t n_in_engine, uint64_t now_ns);
/* Device thread, nothing is wanted: all but the worker's own device's are closed. true: they are, and nothing is on its way. */
bool worker_models_rest(struct worker_models *s);

/* Loader thread: does what plan decided, until quit. */
void worker_models_serve(struct worker_models *s, const _Atomic bool *quit);
/* One piece of that work, if there is any: for tests. */
bool worker_models_serve_once(struct worker_models *s);

/* For people. */
struct worker_model_view {
    char name[SNAP_NAME_MAX + 1], version[SNAP_VERSION_MAX + 1], snapshot[33], why[200];
    enum worker_model_state state;
    bool is_default;
    uint64_t bytes, last_used_ns; /* monotonic; 0: never */
    uint32_t n_prompts;
};
struct worker_models_counts {
    uint64_t bytes, bytes_max;
    uint64_t loads, loads_failed, evictions, load_ms; /* since the start */
    uint32_t states[WORKER_MODEL_FAILED + 1];
};
uint32_t worker_models_view(struct worker_models *s, struct worker_model_view *out, uint32_t n_max);
void worker_models_count(struct worker_models *s, struct worker_models_counts *out);

#endif
