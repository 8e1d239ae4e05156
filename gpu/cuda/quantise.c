#include "gpu/cuda/quantise.h"

#include <math.h>

bool cuda_quantise_row(const float *w, size_t n, int8_t *q, float *scale)
{
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        const float magnitude = fabsf(w[i]);
        finite &= magnitude < INFINITY;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (!finite)
        return false;
    /* In double: with a subnormal scale in f32 the quotient could pass 127. */
    const double step = (double)largest / 127;
    const float rounded = (float)step;
    for (size_t i = 0; i < n; i++)
        q[i] = rounded > 0 ? (int8_t)nearbyint((double)w[i] / step) : 0;
    *scale = rounded > 0 ? rounded : 0;
    return true;
}
