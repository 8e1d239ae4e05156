/* gpu_testing - what the tests of gpu/ share: reproducible random numbers, small models with random weights. */
#ifndef ROUSE_GPU_TESTING_H
#define ROUSE_GPU_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/cpu/cpu_kernels.h"
#include "gpu/device.h"

/* splitmix64 */
static inline uint64_t testing_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In (-1, 1), f32's full precision. */
static inline float testing_uniform(uint64_t *state)
{
    return (float)((double)(int64_t)testing_random(state) / 9223372036854775808.0);
}

static inline void *testing_alloc(size_t n, size_t element_bytes)
{
    void *p = calloc(n ? n : 1, element_bytes);
    assert_non_null(p);
    return p;
}

/* Prints the error's text before it fails: a code alone says too little. */
static inline void testing_ok(int rc, const struct base_error *err)
{
    if (rc != 0)
        fail_msg("%s: %s", base_error_name(rc), err->text);
}

/* Random weights of a size that keeps activations near 1, written where a restore would write them. */
static inline void testing_fill(struct gpu_model *model, uint64_t seed)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    float *row = testing_alloc(1 << 20, sizeof *row);
    memset(gpu_model_host(model), 0, plan->weights_bytes);
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct gpu_tensor *t = &plan->tensors[i];
        const bool gain = strstr(t->name, "norm.weight") != NULL;
        const float scale = t->rows == 1 || i == 0 ? 0.5f : 3.0f / __builtin_sqrtf((float)t->cols);
        assert_true(t->cols <= 1 << 20);
        for (uint32_t r = 0; r < t->rows; r++) {
            for (uint32_t c = 0; c < t->cols; c++)
                row[c] = (gain ? 1 : 0) + scale * testing_uniform(&seed);
            cpu_kernels_plain.narrow(t->dtype, row, t->cols,
                                     gpu_model_host(model) + t->offset +
                                         (size_t)r * t->cols * model_dtype_bytes(t->dtype));
        }
    }
    free(row);
}

static inline struct gpu_device *testing_open(const char *kernels, uint32_t n_threads)
{
    const struct gpu_open_options options = {.n_threads = n_threads, .kernels = kernels};
    struct gpu_device *device = NULL;
    struct base_error err = {0};
    testing_ok(gpu_open("cpu", &options, &device, &err), &err);
    return device;
}

static inline struct gpu_model *testing_model(struct gpu_device *device, const struct model_config *config,
                                              enum model_dtype dtype, const struct gpu_limits *limits)
{
    struct gpu_model *model = NULL;
    struct base_error err = {0};
    testing_ok(gpu_model_new(device, config, dtype, limits, &model, &err), &err);
    return model;
}

#endif
