/* snap_fingerprint - what makes a snapshot fit: all fields equal, or it is another snapshot.
 *
 * Its canonical text is one `field value` line per field, in the order below; values are printable ASCII, anything
 * else is %XX. The id of a snapshot is the first half of that text's SHA-256. The env is the same over everything but
 * the model: what a worker knows of itself before it knows which weights a name stands for. */
#ifndef ROUSE_SNAPSHOT_SNAP_FINGERPRINT_H
#define ROUSE_SNAPSHOT_SNAP_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"
#include "gpu/device.h"
#include "snapshot/snap_digest.h"

enum snap_fingerprint_field {
    SNAP_FP_FORMAT, /* version of the file format */
    SNAP_FP_LAYOUT, /* GPU_LAYOUT_VERSION: of the weight range */
    SNAP_FP_MODEL,  /* SHA-256 of weights, config and tokenizer; "" in a wanted fingerprint: not known */
    SNAP_FP_DTYPE,  /* "auto" in a wanted fingerprint: as the model's files are */
    SNAP_FP_DEVICE,
    SNAP_FP_ARCH,   /* GPU_ARCH_HOST: of a host snapshot, for any arch of the device */
    SNAP_FP_DRIVER, /* "" for a host snapshot */
    SNAP_FP_KEY,    /* --snapshot-key */
    SNAP_FP_N
};

enum { SNAP_FP_VALUE_MAX = 400, SNAP_KEY_BYTES_MAX = 128 };

struct snap_fingerprint {
    char value[SNAP_FP_N][SNAP_FP_VALUE_MAX];
};

const char *snap_fingerprint_field_name(enum snap_fingerprint_field field); /* "arch" */

/* This program's own on that device, the model unknown. ERR_USAGE: key longer than SNAP_KEY_BYTES_MAX. */
int snap_fingerprint_init(struct snap_fingerprint *out, const struct gpu_info *info, const char *dtype, const char *key,
                          struct base_error *err);
/* The dtype that "auto" means on that device for files of that type. */
const char *snap_auto_dtype(const struct gpu_device *device, const char *file_dtype);
void snap_fingerprint_set(struct snap_fingerprint *f, enum snap_fingerprint_field field, const char *value);

/* The same but for a host snapshot. */
struct snap_fingerprint snap_fingerprint_host(const struct snap_fingerprint *f);
bool snap_fingerprint_is_host(const struct snap_fingerprint *f);

void snap_fingerprint_text(const struct snap_fingerprint *f, struct base_buffer *out);
int snap_fingerprint_id(const struct snap_fingerprint *f, char out_id[SNAP_ID_CHARS + 1], struct base_error *err);
/* With dtype in place of the fingerprint's own ("auto" is a dtype here). */
int snap_fingerprint_env(const struct snap_fingerprint *f, const char *dtype, char out_env[SNAP_ID_CHARS + 1],
                         struct base_error *err);

/* The fields that differ, as "arch is x86-64-avx2, wanted x86-64-generic; ..."; returns how many. A wanted model of ""
 * and a wanted dtype of "auto" fit anything. */
size_t snap_fingerprint_diff(const struct snap_fingerprint *have, const struct snap_fingerprint *wanted, char *out,
                             size_t size);

/* Printable ASCII without spaces and %, everything else as %XX; false when it does not fit. Unescape refuses what
 * escape does not write. */
bool snap_escape(const char *text, char *out, size_t size);
bool snap_unescape(const char *text, char *out, size_t size);

#endif
