/* scan - looks over msgpack bytes before anything is allocated for them.
 *
 * Iterative, O(n), allocates nothing. After it, msgpack-c may see the bytes: 5 bytes of array header would make it reserve
 * 8 GB, and it reports deep nesting as out of memory. Checked: depth, counts against the bytes left (an element takes one
 * byte at least), lengths, UTF-8 of strings, map keys (strings, none twice in one map), no ext types, no trailing bytes.
 * What is wrong with the form is MALFORMED, TOO_DEEP or TOO_LARGE; what is wrong with the content is for the codecs to say.
 * Format: https://github.com/msgpack/msgpack/blob/master/spec.md */
#ifndef ROUSE_SCHEMAS_SCAN_H
#define ROUSE_SCHEMAS_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "schemas/codes.h"

struct schema_scan_limits {
    size_t n_bytes_max;
    uint32_t depth_max;     /* containers inside containers; at most 16 */
    uint32_t n_keys_max;    /* of one map: duplicate keys are found by comparing, so this bounds the work; at most 64 */
    uint32_t key_bytes_max; /* of one key */
    uint32_t n_values_max;  /* in all: msgpack-c spends 24 bytes on each, however short it is on the wire */
};
extern const struct schema_scan_limits schema_scan_limits_default; /* 8 MiB, 8, 64, 64, 4 Mi */

/* 0, or ERR_INPUT with the offset in the text and *out_code set (may be NULL). The top value must be a map. */
int schema_scan(const void *bytes, size_t n, const struct schema_scan_limits *limits, enum schema_code *out_code,
                struct base_error *err);

/* For cutting up bytes that have passed schema_scan: what the value at bytes starts with, and how long it is in all. */
enum schema_scan_kind {
    SCHEMA_SCAN_SCALAR, /* nil, boolean, integer, float */
    SCHEMA_SCAN_STRING,
    SCHEMA_SCAN_BINARY,
    SCHEMA_SCAN_ARRAY,
    SCHEMA_SCAN_MAP,
    SCHEMA_SCAN_EXT,
    SCHEMA_SCAN_UNUSED, /* 0xc1, which the format never uses */
    SCHEMA_SCAN_CUT     /* the bytes end inside the head */
};

struct schema_scan_head {
    enum schema_scan_kind kind;
    uint32_t n_head;     /* bytes of type and length */
    uint32_t n_payload;  /* bytes behind them, which may be missing */
    uint64_t n_children; /* values behind them: an array's elements, a map's keys and values */
};

struct schema_scan_head schema_scan_head(const uint8_t *bytes, size_t n);
size_t schema_scan_value_bytes(const uint8_t *bytes, size_t n);

#endif
