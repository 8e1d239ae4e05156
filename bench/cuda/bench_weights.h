/* bench_weights - models of real shapes, and random weights for them made in memory: benches need no files. */
#ifndef ROUSE_BENCH_WEIGHTS_H
#define ROUSE_BENCH_WEIGHTS_H

#include "gpu/device.h"

/* The published Pythia shapes by size, and "tiny". ERR_USAGE: another name. */
int bench_shape_find(const char *name, struct model_config *out_config, struct base_error *err);

/* Fills the weight range of a model on a device that uploads: of a size that keeps activations near 1, since what the
 * numbers are decides how much power their products draw. */
int bench_weights_fill(struct gpu_device *device, struct gpu_model *model, struct base_error *err);

#endif
