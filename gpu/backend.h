/* backend - what a back end implements; private to gpu/. device.c checks nothing twice and dispatches through this table.
 *
 * A back end's device and model begin with the structs below, so that device.c can reach the table and the plan. */
#ifndef ROUSE_GPU_BACKEND_H
#define ROUSE_GPU_BACKEND_H

#include "gpu/device.h"

struct gpu_backend {
    const char *kind; /* what gpu_open's `which` starts with: "cpu", "cuda" */

    /* index: N of "cuda:N", 0 without. ERR_SERVICE: no such device here; ERR_USAGE: options it cannot serve. */
    int (*open)(uint32_t index, const struct gpu_open_options *options, struct gpu_device **out_device,
                struct base_error *err);
    void (*close)(struct gpu_device *device);
    enum model_dtype (*auto_dtype)(enum model_dtype file_dtype);
    /* What this device cannot run of what plan.c admits: ERR_USAGE. device is NULL when it is planned for and not here. */
    int (*check)(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                 struct base_error *err);

    /* Bytes of workspace and KV that this device wants behind the weights of plan (whose weight range is laid out). */
    void (*measure)(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                    uint64_t *out_kv_bytes);
    /* plan is complete; the model takes it over, with plan->tensors as `tensors`, on success alone. */
    int (*model_new)(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                     struct gpu_model **out_model, struct base_error *err);
    void (*model_free)(struct gpu_model *model);
    uint8_t *(*model_host)(struct gpu_model *model);
    int (*model_read)(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err);
    int (*model_load)(struct gpu_model *model, const struct model_weights *weights,
                      void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                      struct base_error *err);
    /* The step has been checked against the plan (gpu_step_check). */
    int (*model_forward)(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                         struct gpu_result *out_result, struct base_error *err);
    bool (*model_samples)(const struct gpu_model *model, const struct model_sampling *sampling);

    /* The rest may be NULL: a device with nothing to choose, nothing to give back, and one way to be filled. */
    int (*model_warm_up)(struct gpu_model *model, struct base_error *err);
    int (*choices_export)(struct gpu_model *model, struct base_buffer *out, struct base_error *err);
    int (*choices_import)(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err);
    int (*upload_open)(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes, struct gpu_upload **out_upload,
                       struct base_error *err);
    int (*upload_take)(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err);
    int (*upload_put)(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset,
                      uint64_t n_bytes, struct base_error *err);
    int (*upload_sync)(struct gpu_upload *upload, struct base_error *err);
    void (*upload_close)(struct gpu_upload *upload);
    int (*direct_open)(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err);
    int (*direct_read)(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                       uint64_t file_offset, uint64_t *out_hash, struct base_error *err);
    void (*direct_close)(struct gpu_direct *direct);
    int (*model_map)(struct gpu_model *model, int fd, uint64_t file_offset, struct base_error *err);
    int (*model_sleep)(struct gpu_model *model, struct base_error *err);
    int (*model_wake)(struct gpu_model *model, struct base_error *err);
};

struct gpu_device {
    const struct gpu_backend *backend;
    struct gpu_info info;
};

struct gpu_model {
    struct gpu_device *device; /* borrowed, outlives the model */
    struct gpu_plan plan;
    struct gpu_tensor *tensors; /* [plan.n_tensors], owned; plan.tensors is the same memory */
    int (*gate)(void *context, uint64_t end, struct base_error *err); /* NULL: all weights are in place */
    void *gate_context;
};

/* A back end's upload begins with this. */
struct gpu_upload {
    struct gpu_device *device;
};

/* And so does its way from storage. */
struct gpu_direct {
    struct gpu_device *device;
};

/* The weights in [0, end) may be used: at once, or after waiting for them. */
static inline int gpu_gate_pass(struct gpu_model *model, uint64_t end, struct base_error *err)
{
    return model->gate ? model->gate(model->gate_context, end, err) : 0;
}

extern const struct gpu_backend gpu_cpu_backend;
extern const struct gpu_backend gpu_cuda_backend; /* in builds with ROUSE_CUDA */

/* gpu_open_planner for a back end's devices. */
int gpu_planner_open(const struct gpu_backend *target, const struct gpu_open_options *options,
                     struct gpu_device **out_device, struct base_error *err);

/* ERR_USAGE, ERR_INPUT as gpu_model_forward says. That no block is written by two sequences is the caller's promise. */
int gpu_step_check(const struct gpu_plan *plan, const struct gpu_sequence *sequences, uint32_t n_sequences,
                   struct base_error *err);

#endif
