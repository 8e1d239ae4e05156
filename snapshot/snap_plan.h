/* snap_plan - the plan section: the model's configuration and where each tensor lies in the weight range.
 *
 * At restore the plan is computed anew from the configuration, and the stored one must equal it, tensor by tensor: the
 * weight range is only meaningful under the layout it was written with. */
#ifndef ROUSE_SNAPSHOT_SNAP_PLAN_H
#define ROUSE_SNAPSHOT_SNAP_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "gpu/device.h"

struct snap_plan {
    struct model_config config;
    enum model_dtype dtype;
    uint64_t weights_bytes;
    struct gpu_tensor *tensors; /* [n_tensors], malloc'ed */
    uint32_t n_tensors;
};

int snap_plan_encode(const struct gpu_plan *plan, struct base_buffer *out, struct base_error *err);

/* ERR_CORRUPT. Tensors are in range, in order and do not overlap; whether they are the right ones: snap_plan_check. */
int snap_plan_decode(const void *bytes, size_t n, struct snap_plan *out_plan, struct base_error *err);
void snap_plan_done(struct snap_plan *plan);

/* ERR_CORRUPT names the first tensor that differs from this program's own plan. */
int snap_plan_check(const struct snap_plan *stored, const struct gpu_plan *own, struct base_error *err);

#endif
