/* cuda_testing - what the tests of gpu/cuda share: a card or the emulated driver, weights through the upload ring, steps. */
#ifndef ROUSE_CUDA_TESTING_H
#define ROUSE_CUDA_TESTING_H

#include "gpu/tests/gpu_testing.h"

/* Ends the program with 77 and the reason where there is no driver or no card. */
static inline struct gpu_device *cuda_testing_open(const struct gpu_open_options *options)
{
    struct gpu_device *device = NULL;
    struct base_error err = {0};
    const int rc = gpu_open("cuda", options, &device, &err);
    if (rc == ERR_SERVICE) {
        printf("skipped: %s\n", err.text);
        exit(77);
    }
    testing_ok(rc, &err);
    return device;
}

static inline bool cuda_testing_is_emulated(const struct gpu_device *device)
{
    return strncmp(gpu_device_info(device)->name, "Emulated", 8) == 0;
}

/* Random weights of a size that keeps activations near 1: the whole weight range, as a restore would bring it. */
static inline uint8_t *cuda_testing_weights(const struct gpu_plan *plan, uint64_t seed)
{
    uint8_t *bytes = testing_alloc(plan->weights_bytes, 1);
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct gpu_tensor *t = &plan->tensors[i];
        const bool gain = strstr(t->name, "norm.weight") != NULL;
        const float scale = t->rows == 1 || i == 0 ? 0.5f : 3.0f / __builtin_sqrtf((float)t->cols);
        for (uint64_t j = 0; j < (uint64_t)t->rows * t->cols; j++) {
            const float v = (gain ? 1 : 0) + scale * testing_uniform(&seed);
            if (t->dtype == MODEL_Q8)
                bytes[t->offset + j] = (uint8_t)(int8_t)(127 * v / scale);
            else
                cpu_kernels_plain.narrow(t->dtype, &v, 1, bytes + t->offset + j * model_dtype_bytes(t->dtype));
        }
        for (uint32_t r = 0; t->dtype == MODEL_Q8 && r < t->rows; r++) {
            const float step = scale / 127;
            memcpy(bytes + t->offset + gpu_tensor_scales(t) + r * sizeof step, &step, sizeof step);
        }
    }
    return bytes;
}

static inline void cuda_testing_upload(struct gpu_device *device, struct gpu_model *model, const uint8_t *bytes)
{
    enum { SLOTS = 3, SLOT_BYTES = 64 << 10 };
    const uint64_t total = gpu_model_plan(model)->weights_bytes;
    struct gpu_upload *upload;
    struct base_error err = {0};
    testing_ok(gpu_upload_open(device, SLOTS, SLOT_BYTES, &upload, &err), &err);
    for (uint64_t at = 0; at < total; at += SLOT_BYTES) {
        const uint64_t n = total - at < SLOT_BYTES ? total - at : SLOT_BYTES;
        uint32_t slot;
        uint8_t *buffer;
        testing_ok(gpu_upload_take(upload, &slot, &buffer, &err), &err);
        memcpy(buffer, bytes + at, n);
        testing_ok(gpu_upload_put(upload, slot, model, at, n, &err), &err);
    }
    testing_ok(gpu_upload_sync(upload, &err), &err);
    gpu_upload_close(upload);
}

#endif
