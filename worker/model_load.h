/* model_load - how the worker's models are loaded and closed (models.h), and how the store is asked for names (name_cache.h). */
#ifndef ROUSE_WORKER_MODEL_LOAD_H
#define ROUSE_WORKER_MODEL_LOAD_H

#include "base/error.h"
#include "snapshot/names.h"
#include "worker/models.h"

struct worker;

struct worker_model_loader worker_model_loader(struct worker *w);

/* A model that snap_start gave, made ready to answer: engine, answerer, bytes. On failure it is as far as it came. */
int worker_loaded_finish(struct worker_loaded *loaded, struct base_error *err);
void worker_loaded_close(struct worker_loaded *loaded);

/* A worker_names_fetch; context is the struct worker. The names thread alone. */
int worker_names_ask(void *context, const char *name, struct snap_name *out, struct base_error *err);

#endif
