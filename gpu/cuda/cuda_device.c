#include "gpu/cuda/cuda_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/pool.h"
#include "gpu/cuda/cuda_direct.h"
#include "gpu/cuda/cuda_model.h"
#include "gpu/cuda/cuda_module.h"
#include "gpu/cuda/cuda_upload.h"

enum { MAJOR_MIN = 8 }; /* cp.async, bf16, mma m16n8k16: what the kernels are made of */

/* ---- errors ---- */

/* After one of these the context answers every call with it: only a new process helps. */
static bool is_fault(CUresult result)
{
    switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_UNKNOWN:
        return true;
    default:
        return false;
    }
}

int cuda_check(struct cuda_device *d, CUresult result, struct base_error *err, const char *fmt, ...)
{
    if (result == CUDA_SUCCESS)
        return 0;
    struct base_error here;
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const int rc = cuda_driver_fail(d->cu, result, &here, "%s", what);
    if (is_fault(result)) {
        pthread_mutex_lock(&d->lock);
        if (d->fault.code == 0)
            d->fault = here;
        pthread_mutex_unlock(&d->lock);
    }
    if (err)
        *err = here;
    return rc;
}

int cuda_device_fault(struct cuda_device *d, struct base_error *err)
{
    pthread_mutex_lock(&d->lock);
    const int rc = d->fault.code;
    if (rc < 0 && err)
        *err = d->fault;
    pthread_mutex_unlock(&d->lock);
    return rc;
}

/* ---- coming up, in a thread of its own ---- */

static void set_state(struct cuda_device *d, enum cuda_device_state state)
{
    pthread_mutex_lock(&d->lock);
    d->state = state;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static int make_context(struct cuda_device *d, struct base_error *err)
{
    const struct cuda_driver *cu = d->cu;
    int rc =
        cuda_check(d, cu->DevicePrimaryCtxRetain(&d->context, d->number), err, "a context on %s", d->base.info.name);
    if (rc < 0) {
        d->context = NULL;
        return rc;
    }
    rc = cuda_check(d, cu->CtxSetCurrent(d->context), err, "a context on %s", d->base.info.name);
    if (rc == 0)
        rc = cuda_check(d, cu->StreamCreate(&d->compute, CU_STREAM_NON_BLOCKING), err, "a stream for kernels");
    if (rc == 0)
        rc = cuda_check(d, cu->StreamCreate(&d->copy, CU_STREAM_NON_BLOCKING), err, "a stream for copies");
    return rc;
}

/* Without it everything works, prompts slower. */
static void make_lt(struct cuda_device *d)
{
    struct base_error why = {0};
    const struct cuda_lt *lt;
    int rc = cuda_lt_get(&lt, &why);
    if (rc == 0) {
        const cublasStatus_t status = lt->Create(&d->lt_handle);
        if (status != CUBLAS_STATUS_SUCCESS)
            rc = base_fail(&why, ERR_SERVICE, "cublasLtCreate: %s", lt->GetStatusName(status));
    }
    if (rc == 0)
        d->lt = lt;
    else
        base_log_warn("prompts are computed without cublasLt", LOG_STR("device", d->base.info.name),
                      LOG_STR("reason", why.text));
}

static void *bring_up(void *argument)
{
    struct cuda_device *d = argument;
    int rc = make_context(d, &d->failure);
    if (rc == 0) {
        set_state(d, CUDA_DEVICE_CONTEXT);
        rc = cuda_module_embedded(d, &d->module, &d->failure);
    }
    if (rc == 0)
        make_lt(d);
    set_state(d, rc == 0 ? CUDA_DEVICE_READY : CUDA_DEVICE_FAILED);
    return NULL;
}

static int device_await(struct cuda_device *d, enum cuda_device_state wanted, struct base_error *err)
{
    int rc = 0;
    pthread_mutex_lock(&d->lock);
    while (d->state < wanted)
        pthread_cond_wait(&d->changed, &d->lock);
    if (d->state == CUDA_DEVICE_FAILED) {
        rc = d->failure.code;
        if (err)
            *err = d->failure;
    }
    pthread_mutex_unlock(&d->lock);
    if (rc == 0)
        rc = cuda_check(d, d->cu->CtxSetCurrent(d->context), err, "the context of %s", d->base.info.name);
    return rc;
}

int cuda_device_context(struct cuda_device *d, struct base_error *err)
{
    return device_await(d, CUDA_DEVICE_CONTEXT, err);
}

int cuda_device_ready(struct cuda_device *d, struct base_error *err)
{
    return device_await(d, CUDA_DEVICE_READY, err);
}

/* ---- opening ---- */

static int read_attribute(struct cuda_device *d, CUdevice_attribute which, const char *what, int *out_value,
                          struct base_error *err)
{
    return cuda_check(d, d->cu->DeviceGetAttribute(out_value, which, d->number), err, "%s of cuda:%d", what, d->number);
}

static int find_card(struct cuda_device *d, uint32_t index, struct base_error *err)
{
    int n = 0;
    int rc = cuda_check(d, d->cu->Init(0), err, "cuInit");
    if (rc == 0)
        rc = cuda_check(d, d->cu->DeviceGetCount(&n), err, "counting devices");
    if (rc < 0)
        return rc;
    if (index >= (uint32_t)n)
        return base_fail(err, ERR_SERVICE, "no device cuda:%u: the driver shows %d", index, n);
    return cuda_check(d, d->cu->DeviceGet(&d->number, (int)index), err, "device cuda:%u", index);
}

/* Everything that gpu_info says, and that the card can do what we need. */
static int describe_card(struct cuda_device *d, struct base_error *err)
{
    struct gpu_info *info = &d->base.info;
    int major = 0, minor = 0, vmm = 0;
    size_t memory_bytes = 0;
    int rc = cuda_check(d, d->cu->DeviceGetName(info->name, sizeof info->name, d->number), err, "name of cuda:%d",
                        d->number);
    if (rc == 0)
        rc = read_attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, "compute capability", &major, err);
    if (rc == 0)
        rc = read_attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, "compute capability", &minor, err);
    if (rc == 0)
        rc = read_attribute(d, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, "virtual memory management",
                            &vmm, err);
    if (rc == 0)
        rc = cuda_check(d, d->cu->DeviceTotalMem(&memory_bytes, d->number), err, "memory of cuda:%d", d->number);
    if (rc < 0)
        return rc;
    if (major < MAJOR_MIN)
        return base_fail(err, ERR_SERVICE, "%s has compute capability %d.%d; needed is %d.0 or newer", info->name,
                         major, minor, MAJOR_MIN);
    if (!vmm)
        return base_fail(err, ERR_SERVICE, "%s has no virtual memory management (driver for CUDA %d.%d); it is needed",
                         info->name, d->cu->version / 1000, d->cu->version % 1000 / 10);
    d->major = (uint32_t)major;
    d->minor = (uint32_t)minor;
    snprintf(d->arch, sizeof d->arch, "sm_%d%d", major, minor);
    info->kind = "cuda";
    info->arch = d->arch;
    info->driver = d->driver;
    info->memory_bytes = memory_bytes;
    info->kv_value_bytes = sizeof(uint16_t);
    return 0;
}

static void *open_lt(void *argument)
{
    const struct cuda_lt *lt;
    (void)argument;
    (void)cuda_lt_get(&lt, NULL); /* make_lt says why not */
    return NULL;
}

/* All that a logit's last bits depend on: whoever has another of these needs another snapshot, and must not judge this one. */
static void describe_driver(struct cuda_device *d, const struct cuda_lt *lt)
{
    char library[40] = "";
    if (lt)
        snprintf(library, sizeof library, " cublasLt %u.%u.%u", (unsigned)(lt->version / 10000),
                 (unsigned)(lt->version / 100 % 100), (unsigned)(lt->version % 100));
    snprintf(d->driver, sizeof d->driver, "%d%s kernels %08x%s", d->cu->version / 1000, library,
             (unsigned)(uint32_t)cuda_module_kernels_id(), d->fastest_gemms ? " fastest" : "");
}

/* cuInit takes a while, and so does mapping cublasLt, whose version is part of info.driver: both at once. */
static int find_libraries_and_card(struct cuda_device *d, uint32_t index, struct base_error *err)
{
    pthread_t thread;
    const struct cuda_lt *lt;
    const bool started = pthread_create(&thread, NULL, open_lt, NULL) == 0;
    int rc = find_card(d, index, err);
    if (rc == 0)
        rc = describe_card(d, err);
    if (started)
        pthread_join(thread, NULL);
    if (rc < 0)
        return rc;
    describe_driver(d, cuda_lt_get(&lt, NULL) == 0 ? lt : NULL);
    return 0;
}

static void cuda_close(struct gpu_device *device)
{
    struct cuda_device *d = (struct cuda_device *)device;
    if (d->thread_started)
        pthread_join(d->thread, NULL);
    if (d->context) {
        const struct cuda_driver *cu = d->cu;
        (void)cu->CtxSetCurrent(d->context); /* here and below: what fails now is gone already */
        if (d->lt)
            (void)d->lt->Destroy(d->lt_handle);
        cuda_module_free(d->module);
        if (d->copy)
            (void)cu->StreamDestroy(d->copy);
        if (d->compute)
            (void)cu->StreamDestroy(d->compute);
        (void)cu->CtxSetCurrent(NULL);
        (void)cu->DevicePrimaryCtxRelease(d->number);
    }
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static int cuda_open(uint32_t index, const struct gpu_open_options *options, struct gpu_device **out_device,
                     struct base_error *err)
{
    const struct cuda_driver *cu;
    if (options->kernels && strcmp(options->kernels, "auto") != 0) /* so that auto goes on to the cpu, which knows */
        return base_fail(err, ERR_SERVICE, "kernels '%.32s' are not for a CUDA device", options->kernels);
    int rc = cuda_driver_get(&cu, err);
    if (rc < 0)
        return rc;
    struct cuda_device *d = calloc(1, sizeof *d);
    if (!d)
        return base_fail(err, ERR_NOMEM, "no memory for a device");
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->base.backend = &gpu_cuda_backend;
    d->cu = cu;
    d->fastest_gemms = options->fastest_gemms;
    d->no_graphs = options->no_graphs;
    d->base.info.n_threads = options->n_threads > 0 ? options->n_threads : base_pool_default_threads();
    rc = find_libraries_and_card(d, index, err);
    if (rc < 0)
        goto fail;
    if (pthread_create(&d->thread, NULL, bring_up, d) != 0) {
        rc = base_fail(err, ERR_NOMEM, "no thread to bring %s up", d->base.info.name);
        goto fail;
    }
    d->thread_started = true;
    *out_device = &d->base;
    return 0;
fail:
    cuda_close(&d->base);
    return rc;
}

const struct gpu_backend gpu_cuda_backend = {
    .kind = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .auto_dtype = cuda_model_auto_dtype,
    .check = cuda_model_check,
    .measure = cuda_model_measure,
    .model_new = cuda_model_new,
    .model_free = cuda_model_free,
    .model_host = cuda_model_host,
    .model_read = cuda_model_read,
    .model_load = cuda_model_load,
    .model_forward = cuda_model_forward,
    .model_samples = cuda_model_samples,
    .model_warm_up = cuda_model_warm_up,
    .choices_export = cuda_model_choices_export,
    .choices_import = cuda_model_choices_import,
    .upload_open = cuda_upload_open,
    .upload_take = cuda_upload_take,
    .upload_put = cuda_upload_put,
    .upload_sync = cuda_upload_sync,
    .upload_close = cuda_upload_close,
    .direct_open = cuda_direct_open,
    .direct_read = cuda_direct_read,
    .direct_close = cuda_direct_close,
    .model_sleep = cuda_model_sleep,
    .model_wake = cuda_model_wake,
};
