/* snap_manifest - what a snapshot says of itself, as text: the fingerprint, an empty line, then what is good to know.
 *
 * The fingerprint's lines are its canonical text, so their digest is the id. The rest informs people and lets an index
 * be rebuilt from the files alone; unknown fields there are skipped. */
#ifndef ROUSE_SNAPSHOT_SNAP_MANIFEST_H
#define ROUSE_SNAPSHOT_SNAP_MANIFEST_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "snapshot/snap_fingerprint.h"

/* A device snapshot was taken on the device, after its warm-up; a host one without it: proof and choices are left open. */
enum snap_kind { SNAP_KIND_DEVICE, SNAP_KIND_HOST };

struct snap_manifest {
    struct snap_fingerprint fingerprint;
    enum snap_kind kind; /* as the fingerprint's arch says */
    char id[SNAP_ID_CHARS + 1];
    char name[129];                    /* of the model when it was built; the index may know it under others too */
    char file_dtype[8];                /* of the model's own files: what "auto" meant */
    char files[SNAP_SHA256_CHARS + 1]; /* identity of those files (model/files.h) */
    int64_t created_ms;
    char builder[128]; /* host:pid */
    char program[32];  /* "rouse-0.1.0" */
};

const char *snap_kind_name(enum snap_kind kind); /* "device", "host" */

/* Sets kind (by the fingerprint), created_ms, builder and program; the caller fills the others. */
void snap_manifest_stamp(struct snap_manifest *m);
int snap_manifest_encode(const struct snap_manifest *m, struct base_buffer *out, struct base_error *err);

/* ERR_CORRUPT names the line. The id is checked against the fingerprint. */
int snap_manifest_decode(const void *text, size_t n, struct snap_manifest *out_m, struct base_error *err);

#endif
