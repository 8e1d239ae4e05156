/* snap_digest - SHA-256 and hex: for what names a snapshot and for what proves its header. Chunks use XXH3. */
#ifndef ROUSE_SNAPSHOT_SNAP_DIGEST_H
#define ROUSE_SNAPSHOT_SNAP_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SNAP_SHA256_BYTES 32
#define SNAP_SHA256_CHARS 64 /* in hex */
#define SNAP_ID_CHARS     32 /* 128 bits in hex: ids of snapshots, keys of the index */

struct snap_part {
    const void *bytes;
    size_t n;
};

/* Over the parts one after the other. */
int snap_sha256(const struct snap_part *parts, size_t n_parts, uint8_t out[SNAP_SHA256_BYTES], struct base_error *err);

/* The first 128 bits of SHA-256 over text, in hex. */
int snap_digest_id(const void *text, size_t n, char out[SNAP_ID_CHARS + 1], struct base_error *err);

void snap_hex(const uint8_t *bytes, size_t n, char *out); /* 2 n digits and a NUL */
bool snap_is_hex(const char *text, size_t n_digits);      /* exactly n_digits of 0-9a-f, then the NUL */

#endif
