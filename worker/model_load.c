/* model_load - the two threads that wait for the store: one loads and closes models, the other asks what names stand for.
 *
 * A model that is loaded here gets a device of its own, so that its restore and its proof disturb none that steps meanwhile:
 * a pool of threads, or streams of a card, are driven by one thread at a time. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/admin.h"
#include "worker/engine.h"
#include "worker/model_load.h"
#include "worker/worker_state.h"

void worker_loaded_close(struct worker_loaded *loaded)
{
    engine_free(loaded->engine);
    snap_model_close(loaded->model);
    gpu_close(loaded->device);
    worker_answerer_drop(loaded->answerer);
    *loaded = (struct worker_loaded){.model = NULL};
}

int worker_loaded_finish(struct worker_loaded *loaded, struct base_error *err)
{
    loaded->bytes = gpu_model_plan(loaded->model->gpu)->arena_bytes;
    loaded->answerer = worker_answerer_new(loaded->model);
    if (!loaded->answerer)
        return base_fail(err, ERR_NOMEM, "models: out of memory");
    return engine_new(loaded->model->gpu, loaded->model->tokenizer, NULL, &loaded->engine, err);
}

static int start_as(const struct worker *w, const char *model, struct worker_loaded *loaded, struct base_error *err)
{
    struct snap_start_options start = w->options.start;
    start.model = model;
    start.trace = NULL;
    start.progress = false;
    return snap_start(loaded->device, &start, &loaded->model, err);
}

static void write_ref(const struct worker_model_ref *ref, char out[SNAP_REF_MAX + 1])
{
    snprintf(out, SNAP_REF_MAX + 1, "%s%s%s", ref->name, ref->version[0] ? "@" : "", ref->version);
}

/* The model that --model names may be a directory that the store has no snapshot of. */
static int start_ref(const struct worker *w, const struct worker_model_ref *ref, struct worker_loaded *loaded,
                     struct base_error *err)
{
    char text[SNAP_REF_MAX + 1];
    struct base_error why = {0};
    write_ref(ref, text);
    if (!ref->is_default)
        return start_as(w, text, loaded, err);
    int rc = ref->version[0] && w->options.start.store ? start_as(w, text, loaded, &why) : ERR_NOTFOUND;
    return rc < 0 ? start_as(w, w->options.start.model, loaded, err) : rc;
}

/* auto was decided when the worker began. */
static const char *which_device(const struct worker *w)
{
    return strcmp(w->options.device, "auto") == 0 ? w->device->kind : w->options.device;
}

static int load(void *context, const struct worker_model_ref *ref, struct worker_loaded *out, struct base_error *err)
{
    const struct worker *w = context;
    struct worker_loaded loaded = {.model = NULL};
    int rc = gpu_open(which_device(w), &w->options.open, &loaded.device, err);
    if (rc == 0)
        rc = start_ref(w, ref, &loaded, err);
    if (rc == 0)
        rc = worker_loaded_finish(&loaded, err);
    if (rc < 0) {
        worker_loaded_close(&loaded);
        return rc;
    }
    *out = loaded;
    return 0;
}

static void close_model(void *context, struct worker_loaded *loaded)
{
    (void)context;
    worker_loaded_close(loaded);
}

/* What its snapshot takes on disk: weights, for the most part. */
static uint64_t estimate(void *context, const struct worker_model_ref *ref)
{
    const struct worker *w = context;
    const struct snap_start_options *start = &w->options.start;
    struct schema_snapshot_record record = {.bytes = 0};
    struct snap_store *store = NULL;
    char text[SNAP_REF_MAX + 1];
    write_ref(ref, text);
    if (!start->store || snap_store_open(start->store, start->redis, &store, NULL) < 0)
        return 0;
    int rc = snap_admin_find(store, text, &record, NULL);
    snap_store_close(store);
    return rc < 0 ? 0 : record.bytes;
}

static void changed(void *context)
{
    struct worker *w = context;
    worker_queue_wake(&w->to_device);
}

struct worker_model_loader worker_model_loader(struct worker *w)
{
    return (struct worker_model_loader){
        .load = load, .close = close_model, .estimate = estimate, .context = w, .changed = changed};
}

void *worker_models_main(void *worker)
{
    struct worker *w = worker;
    while (!w->models_quit && !w->model_ready)
        base_clock_sleep_ms(5);
    if (w->model_ready)
        worker_models_serve(w->models, &w->models_quit);
    w->models_ended = true;
    return NULL;
}

/* Names */

int worker_names_ask(void *context, const char *name, struct snap_name *out, struct base_error *err)
{
    struct worker *w = context;
    const struct snap_start_options *start = &w->options.start;
    if (!start->store)
        return base_fail(err, ERR_NOTFOUND, "there is no store");
    int rc = w->names_store ? 0 : snap_store_open(start->store, start->redis, &w->names_store, err);
    if (rc == 0)
        rc = snap_names_get(w->names_store, name, out, err);
    if (rc < 0 && rc != ERR_NOTFOUND) { /* a connection that broke is made anew */
        snap_store_close(w->names_store);
        w->names_store = NULL;
    }
    return rc;
}

void *worker_names_main(void *worker)
{
    struct worker *w = worker;
    worker_names_serve(w->names, &w->models_quit);
    snap_store_close(w->names_store);
    w->names_store = NULL;
    w->names_ended = true;
    return NULL;
}
