/* A device that is not here: models are planned by its rules and packed for it, in this process's memory, by the cpu's loader. The
 * layout of a weight range does not depend on the device, so that is all there is to know of it. */
#include <stdlib.h>

#include "gpu/cpu/cpu_model.h"

/* Each planner has a table of its own: it carries the device that is planned for. */
struct planner {
    struct gpu_backend table; /* first: the device points here */
    const struct gpu_backend *target;
    struct planner *self; /* not const, for freeing */
};

static const struct planner *planner_of(const struct gpu_device *device)
{
    return (const struct planner *)device->backend;
}

static void planner_close(struct gpu_device *device)
{
    struct planner *p = planner_of(device)->self;
    gpu_cpu_backend.close(device);
    free(p);
}

static int planner_check(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                         struct base_error *err)
{
    if (dtype == MODEL_Q8)
        return base_fail(err, ERR_USAGE, "q8 weights are made on the device; plan f16 or bf16 without it");
    return planner_of(device)->target->check(NULL, config, dtype, err);
}

static int planner_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                           struct gpu_result *out_result, struct base_error *err)
{
    (void)sequences, (void)n_sequences, (void)out_result;
    return base_fail(err, ERR_USAGE, "a %s that is not here computes nothing", model->device->info.kind);
}

int gpu_planner_open(const struct gpu_backend *target, const struct gpu_open_options *options,
                     struct gpu_device **out_device, struct base_error *err)
{
    struct planner *p = calloc(1, sizeof *p);
    struct gpu_device *device = NULL;
    if (!p)
        return base_fail(err, ERR_NOMEM, "no memory for a device");
    int rc = gpu_cpu_backend.open(0, options, &device, err);
    if (rc < 0) {
        free(p);
        return rc;
    }
    p->table = gpu_cpu_backend;
    p->table.kind = target->kind;
    p->table.close = planner_close;
    p->table.auto_dtype = target->auto_dtype;
    p->table.check = planner_check;
    p->table.model_forward = planner_forward;
    p->target = target;
    p->self = p;
    device->backend = &p->table;
    device->info.kind = target->kind;
    device->info.arch = GPU_ARCH_HOST;
    *out_device = device;
    return 0;
}
