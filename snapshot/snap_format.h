/* snap_format - the fixed part of a snapshot file: header, section table, chunk table. Byte tables: FORMAT.md.
 *
 * The sizes of the six sections decide everything else: offsets, chunks, the file's length. So a header is checked by
 * planning it again from its section sizes and comparing every field; nothing in it can point outside or overlap.
 * Pure functions over bytes. */
#ifndef ROUSE_SNAPSHOT_SNAP_FORMAT_H
#define ROUSE_SNAPSHOT_SNAP_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "snapshot/snap_digest.h"

#define SNAP_FORMAT_VERSION 2

enum {
    SNAP_PAGE_BYTES = 4096, /* unit of every read: O_DIRECT never meets a ragged end */
    SNAP_HEADER_BYTES = 4096,
    SNAP_SECTION_ALIGN = 2 << 20, /* a huge page: sections can be mapped as such */
    SNAP_CHUNK_BYTES = 4 << 20,   /* what is read and verified at once */
    SNAP_MANIFEST_BYTES_MAX = 64 << 10
};

enum snap_section_kind { /* in the order they lie in the file */
                         SNAP_MANIFEST,
                         SNAP_PLAN,
                         SNAP_PROOF,   /* empty in a host snapshot */
                         SNAP_CHOICES, /* empty too, and where the device has nothing to choose */
                         SNAP_TOKENIZER,
                         SNAP_WEIGHTS,
                         SNAP_SECTION_N
};
const char *snap_section_name(enum snap_section_kind kind); /* "manifest" */

struct snap_section {
    uint64_t offset;       /* multiple of SNAP_SECTION_ALIGN */
    uint64_t bytes;        /* of content */
    uint64_t stored_bytes; /* with the zeros up to a whole page: what the chunks cover */
    uint32_t first_chunk, n_chunks;
};

struct snap_layout {
    struct snap_section sections[SNAP_SECTION_N];
    uint32_t n_chunks;    /* of all sections */
    uint64_t front_bytes; /* header and chunk table, in whole pages: what is read first */
    uint64_t file_bytes;
};

struct snap_chunk {
    enum snap_section_kind kind;
    uint64_t offset; /* in the file */
    uint64_t at;     /* in the section */
    uint32_t bytes;  /* stored bytes, a multiple of SNAP_PAGE_BYTES */
};

/* ERR_INPUT names a section that is larger than a snapshot may hold, or empty and must not be. */
int snap_layout_plan(const uint64_t bytes[SNAP_SECTION_N], struct snap_layout *out_layout, struct base_error *err);
struct snap_chunk snap_layout_chunk(const struct snap_layout *layout, uint32_t chunk); /* chunk < n_chunks */

/* Appends layout->front_bytes bytes: header with its digest, and the chunk table. hashes: [n_chunks]. */
int snap_front_encode(const struct snap_layout *layout, const uint64_t *hashes, struct base_buffer *out,
                      char out_digest[SNAP_SHA256_CHARS + 1], struct base_error *err);

/* The first SNAP_HEADER_BYTES of a file of file_bytes -> the layout. ERR_CORRUPT names the field. Says nothing of the
 * digest yet: read layout->front_bytes, then snap_front_check. */
int snap_header_decode(const uint8_t header[SNAP_HEADER_BYTES], uint64_t file_bytes, struct snap_layout *out_layout,
                       struct base_error *err);

/* front: [layout->front_bytes], as read. Checks the digest over header, table and order; fills hashes [n_chunks]. */
int snap_front_check(const struct snap_layout *layout, const uint8_t *front, uint64_t *out_hashes,
                     char out_digest[SNAP_SHA256_CHARS + 1], struct base_error *err);

#endif
