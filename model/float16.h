/* float16 - f16 and bf16 to f32 and back, round to nearest even, one value at a time; the plain twin of the vector code. */
#ifndef ROUSE_MODEL_FLOAT16_H
#define ROUSE_MODEL_FLOAT16_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float model_bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint16_t model_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN stays a NaN: keep it quiet */
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float model_f16_to_f32(uint16_t h);
uint16_t model_f32_to_f16(float f);

/* n values at once, for whole tensors: the same bits, by vector instructions where the cpu has them. from needs no
 * alignment and may be the last half of to's own bytes, so that a read can be widened in place. */
void model_f16_to_f32_many(const void *from, float *to, size_t n);
void model_bf16_to_f32_many(const void *from, float *to, size_t n);

#endif
