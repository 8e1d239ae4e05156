#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/memory.h"
#include "gpu/cpu/cpu_model.h"

enum { TEXT_BYTES_MAX = 4 << 20 /* /proc/cpuinfo of a large machine has 1 MB */ };

/* "model name : AMD EPYC 7B13" of /proc/cpuinfo; "cpu" where it says nothing. */
static void read_name(char *name, size_t size)
{
    struct base_buffer text;
    base_buffer_init(&text, TEXT_BYTES_MAX);
    const char *at = NULL;
    if (base_file_read("/proc/cpuinfo", TEXT_BYTES_MAX, &text, NULL) == 0)
        at = strstr(base_buffer_cstr(&text), "model name");
    if (at)
        at = strchr(at, ':');
    if (at) {
        at += 1 + strspn(at + 1, " \t");
        snprintf(name, size, "%.*s", (int)strcspn(at, "\n"), at);
    } else {
        snprintf(name, size, "cpu");
    }
    base_buffer_done(&text);
}

static void cpu_close(struct gpu_device *device)
{
    struct cpu_device *d = (struct cpu_device *)device;
    base_pool_free(d->pool);
    free(d);
}

static int cpu_open(uint32_t index, const struct gpu_open_options *options, struct gpu_device **out_device,
                    struct base_error *err)
{
    (void)index;
    struct cpu_device *d = calloc(1, sizeof *d);
    if (!d)
        return base_fail(err, ERR_NOMEM, "no memory for a device");
    int rc = cpu_kernels_pick(options->kernels, &d->kernels, err);
    if (rc < 0)
        goto fail;
    rc = base_pool_new(options->n_threads, &d->pool, err);
    if (rc < 0)
        goto fail;
    d->base.backend = &gpu_cpu_backend;
    d->base.info = (struct gpu_info){.kind = "cpu", .arch = d->kernels->arch, .driver = ""};
    d->base.info.n_threads = base_pool_n_threads(d->pool);
    d->base.info.memory_bytes = base_memory_total();
    d->base.info.kv_value_bytes = sizeof(float);
    read_name(d->base.info.name, sizeof d->base.info.name);
    *out_device = &d->base;
    return 0;
fail:
    cpu_close(&d->base);
    return rc;
}

static enum model_dtype cpu_auto_dtype(enum model_dtype file_dtype)
{
    return file_dtype;
}

static int cpu_check(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                     struct base_error *err)
{
    (void)device, (void)config;
    return dtype == MODEL_Q8 ? base_fail(err, ERR_USAGE, "the cpu has no kernels for q8; use --dtype f16, bf16 or f32")
                             : 0;
}

const struct gpu_backend gpu_cpu_backend = {
    .kind = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .auto_dtype = cpu_auto_dtype,
    .check = cpu_check,
    .measure = cpu_model_measure,
    .model_new = cpu_model_new,
    .model_free = cpu_model_free,
    .model_host = cpu_model_host,
    .model_read = cpu_model_read,
    .model_load = cpu_model_load,
    .model_map = cpu_model_map,
    .model_forward = cpu_model_forward,
    .model_samples = cpu_model_samples,
};
