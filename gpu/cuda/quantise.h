/* quantise - rows of a weight to int8 with one scale each, when a model is loaded: w[k] is about q[k] * scale.
 *
 * scale = the largest magnitude / 127, q = w / scale to the nearest, ties to even: symmetric, no zero point, -128 is not used. The
 * error of an element is half a scale. The same bytes on every machine: IEEE divisions and nothing else. */
#ifndef ROUSE_GPU_CUDA_QUANTISE_H
#define ROUSE_GPU_CUDA_QUANTISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One row of n. False: an element is not finite, and q and scale are untouched. A row that is too small for a scale in f32
 * becomes zeros with scale 0. */
bool cuda_quantise_row(const float *w, size_t n, int8_t *q, float *scale);

#endif
