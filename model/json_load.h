/* json_load - JSON text from outside into jansson's tree, with the memory bounded before it is taken.
 *
 * jansson makes some 60 bytes of every two ("[[[[", "0,0,0"), so what counts is the number of values, not of bytes.
 * Depth is bounded by jansson itself (2048). A key that comes twice is an error: readers differ on which one counts. */
#ifndef ROUSE_MODEL_JSON_LOAD_H
#define ROUSE_MODEL_JSON_LOAD_H

#include <stddef.h>

#include <jansson.h>

#include "base/error.h"

/* One JSON object of at most n_values_max values; json_decref it. path is for messages. ERR_INPUT, ERR_NOMEM. */
int model_json_load(const char *text, size_t n, size_t n_values_max, const char *path, json_t **out_object,
                    struct base_error *err);

/* Compact text of a value for a message, cut to size - 1 bytes. Returns out. */
const char *model_json_text(const json_t *value, char *out, size_t size);

#endif
