/* json_writer - JSON text into a buffer; commas and escapes are its business.
 *
 * Strings are written as UTF-8; bytes that are not valid UTF-8 become U+FFFD. NaN and infinities become null. */
#ifndef ROUSE_BASE_JSON_WRITER_H
#define ROUSE_BASE_JSON_WRITER_H

#include "base/buffer.h"

struct base_json {
    struct base_buffer *out; /* borrowed */
    uint32_t depth;          /* <= 31 */
    uint32_t has_items;      /* bit per depth */
    bool after_key;
};

void base_json_init(struct base_json *j, struct base_buffer *out);
void base_json_object_begin(struct base_json *j);
void base_json_object_end(struct base_json *j);
void base_json_array_begin(struct base_json *j);
void base_json_array_end(struct base_json *j);
void base_json_key(struct base_json *j, const char *key);
void base_json_string(struct base_json *j, const char *text);
void base_json_string_n(struct base_json *j, const char *text, size_t n);
void base_json_int(struct base_json *j, int64_t v);
void base_json_uint(struct base_json *j, uint64_t v);
void base_json_double(struct base_json *j, double v, int digits); /* %.<digits>g */
void base_json_fixed(struct base_json *j, uint64_t v, int decimals);   /* v / 10^decimals, every digit: ns as s is 9 */
void base_json_bool(struct base_json *j, bool v);
void base_json_null(struct base_json *j);

/* key and value in one call */
void base_json_kv_string(struct base_json *j, const char *key, const char *text); /* NULL text: null */
void base_json_kv_int(struct base_json *j, const char *key, int64_t v);
void base_json_kv_uint(struct base_json *j, const char *key, uint64_t v);
void base_json_kv_double(struct base_json *j, const char *key, double v, int digits);
void base_json_kv_bool(struct base_json *j, const char *key, bool v);

#endif
