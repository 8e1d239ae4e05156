#include "snapshot/snap_index.h"

#include <stdio.h>

#include "snapshot/snap_fingerprint.h"

int snap_index_selector(const struct snap_index_query *q, char out[SNAP_SELECTOR_MAX], struct base_error *err)
{
    if (q->files[0]) {
        snprintf(out, SNAP_SELECTOR_MAX, "files:%.*s", SNAP_SHA256_CHARS, q->files);
        return 0;
    }
    snprintf(out, SNAP_SELECTOR_MAX, "name:");
    if (!snap_escape(q->name, out + 5, SNAP_SELECTOR_MAX - 5))
        return base_fail(err, ERR_USAGE, "the model's name is too long");
    return 0;
}
