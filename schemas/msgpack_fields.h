/* msgpack_fields - what the codecs of this folder share: reading a map key by key, and writing one. Private to schemas/.
 *
 * Reading: the first fault sticks with its code and text ("prompt 3 ('abc'): max_tokens 0 is below 1"); after it every
 * read answers false, so that a codec reads all its fields in a row and checks once. Values are touched on success
 * alone. Strings and arrays are copied into the zone.
 *
 * Writing: the shortest encoding of each value (msgpack-c's own choice for integers, lengths and counts; a float takes
 * 32 bits when that is exact, else 64). What fails, sticks; end() says so and takes back what was appended. */
#ifndef ROUSE_SCHEMAS_MSGPACK_FIELDS_H
#define ROUSE_SCHEMAS_MSGPACK_FIELDS_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "schemas/codes.h"
#include "schemas/prompt_batch.h"
#include "schemas/scan.h"

#define SCHEMA_TIME_MS_MAX 253402300799999 /* the end of the year 9999 */
#define SCHEMA_FLOAT_MAX   3.4e38          /* what a float of 32 bits holds; 64-bit ones on the wire are checked for it */

/* Scans the bytes and has msgpack-c unpack them. After success out_root->data is a map, which borrows from bytes; the
 * caller calls msgpack_unpacked_destroy. */
int schema_unpack(const void *bytes, size_t n, const struct schema_scan_limits *limits, msgpack_unpacked *out_root,
                  enum schema_code *out_code, struct base_error *err);

struct schema_fields {
    const msgpack_object *map; /* NULL: it was none */
    msgpack_zone *zone;        /* may be NULL when only numbers are read */
    char where[112];           /* put before every text: "prompt 3 ('abc'): " */
    enum schema_code code;     /* SCHEMA_OK, or the first fault: ... */
    struct base_error err;     /* ... ERR_INPUT; ERR_NOMEM comes with SCHEMA_INTERNAL */
};

/* object: what should be a map; if it is not, that is the first fault. where: "" or an object's name with ": ". */
void schema_fields_init(struct schema_fields *f, const msgpack_object *object, msgpack_zone *zone, const char *where);
void schema_fields_fail(struct schema_fields *f, enum schema_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
const msgpack_object *schema_fields_find(const struct schema_fields *f, const char *key); /* NULL: absent, or failed */

/* True: the key is there and its value is fine. False: absent (no fault), or a fault. */
bool schema_fields_uint(struct schema_fields *f, const char *key, uint64_t min, uint64_t max, uint64_t *out);
bool schema_fields_int(struct schema_fields *f, const char *key, int64_t min, int64_t max, int64_t *out);
bool schema_fields_real(struct schema_fields *f, const char *key, double min, double max, double *out); /* also takes integers */
bool schema_fields_bool(struct schema_fields *f, const char *key, bool *out);
bool schema_fields_string(struct schema_fields *f, const char *key, size_t n_min, size_t n_max, struct schema_string *out);
bool schema_fields_array(struct schema_fields *f, const char *key, uint32_t n_min, uint32_t n_max,
                         const msgpack_object_array **out);

/* Arrays of one kind of value. min of ids is 0. */
bool schema_fields_ids(struct schema_fields *f, const char *key, uint32_t n_min, uint32_t n_max, const int32_t **out,
                       uint32_t *out_n);
bool schema_fields_floats(struct schema_fields *f, const char *key, uint32_t n_max, const float **out, uint32_t *out_n);
bool schema_fields_strings(struct schema_fields *f, const char *key, uint32_t n_max, size_t bytes_min, size_t bytes_max,
                           const struct schema_string **out, uint32_t *out_n);

/* The same, and absence is a fault. */
void schema_fields_need(struct schema_fields *f, const char *key);  /* MISSING_KEY unless the key is there */
void schema_fields_version(struct schema_fields *f, uint32_t want); /* "v": present, an integer, and want */

void *schema_zone_alloc(struct schema_fields *f, size_t n); /* zeroed; NULL is a fault */
/* A name from outside for a message: whole characters, 64 bytes at most, "..." behind a cut. */
struct schema_shown {
    char text[72];
};
struct schema_shown schema_show(const char *text, size_t n);

struct schema_writer {
    msgpack_packer pk;
    struct base_buffer *out;
    size_t began; /* out->n at the start */
    struct base_error err;
};

void schema_writer_begin(struct schema_writer *w, struct base_buffer *out);
int schema_writer_end(struct schema_writer *w, struct base_error *err); /* 0, or the first failure */
void schema_writer_fail(struct schema_writer *w, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void schema_write_key(struct schema_writer *w, const char *key);
void schema_write_string(struct schema_writer *w, const char *key, struct schema_string s); /* no text: "" */
void schema_write_uint(struct schema_writer *w, const char *key, uint64_t v);
void schema_write_int(struct schema_writer *w, const char *key, int64_t v);
void schema_write_real(struct schema_writer *w, const char *key, double v);
void schema_write_ids(struct schema_writer *w, const char *key, const int32_t *ids, uint32_t n);

#endif
