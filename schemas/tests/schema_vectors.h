/* schema_vectors - the golden vectors of schemas/golden for the tests. What cannot be read ends the test. */
#ifndef ROUSE_SCHEMAS_TESTS_SCHEMA_VECTORS_H
#define ROUSE_SCHEMAS_TESTS_SCHEMA_VECTORS_H

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after these */
#include <cmocka.h>

#include "schemas/prompt_batch.h"

json_t *vectors_load(const char *record); /* schemas/golden/<record>.json; json_decref it */
/* "81a1*3 c0": hex digits, or hex*count. free() it: exactly n bytes, so that a sanitizer sees a read behind them. */
uint8_t *vectors_bytes(const char *hex, size_t *out_n);
uint8_t *vectors_bytes_of(const json_t *vector, size_t *out_n);

const char *vector_text(const json_t *vector, const char *key); /* NULL: no such key */
int64_t vector_int(const json_t *vector, const char *key);      /* 0: no such key */

/* Each prints `where` and both values when they differ, and ends the test. */
void check_string(const char *where, struct schema_string got, const json_t *want); /* want null or NULL: absent */
void check_ids(const char *where, const int32_t *got, uint32_t n, const json_t *want);
void check_bytes(const char *where, const void *got, size_t n_got, const void *want, size_t n_want);
void check_says(const char *where, const char *text, const json_t *vector); /* "says" is part of text */

#endif
