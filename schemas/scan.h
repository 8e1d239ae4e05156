/* scan - looks over msgpack bytes before anything is allocated for them.
 *
 * Iterative, O(n), allocates nothing. After it, msgpack-c may see the bytes: 5 bytes of array header would make it reserve
 * 8 GB, and it reports deep nesting as out of memory. Checked: depth, counts against the bytes left (an element takes one
 * byte at least), lengths, UTF-8 of strings, map keys (strings, none twice in one map), no ext types, no trailing bytes.
 * Format: https://github.com/msgpack/msgpack/blob/master/spec.md */
#ifndef ROUSE_SCHEMAS_SCAN_H
#define ROUSE_SCHEMAS_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "schemas/codes.h"

struct schema_scan_limits {
    size_t n_bytes_max;
    uint32_t depth_max;     /* containers inside containers */
    uint32_t n_keys_max;    /* of one map: duplicate keys are found by comparing, so this bounds the work */
    uint32_t key_bytes_max; /* of one key */
};
extern const struct schema_scan_limits schema_scan_limits_default; /* 8 MiB, 8, 64, 64 */

/* 0, or ERR_INPUT with the offset in the text and *out_code set (may be NULL). The top value must be a map. */
int schema_scan(const void *bytes, size_t n, const struct schema_scan_limits *limits, enum schema_code *out_code,
                struct base_error *err);

#endif
