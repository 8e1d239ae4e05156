#include "gpu/cuda/cuda_module.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "gpu/cuda/cuda_images.h"

/* image: taken over on success. */
static int module_load(struct cuda_device *d, const void *code, void *image, size_t image_bytes,
                       struct cuda_module **out_module, CUresult *out_result, struct base_error *err)
{
    struct cuda_module *m = calloc(1, sizeof *m);
    if (!m)
        return base_fail(err, ERR_NOMEM, "no memory for a module");
    *m = (struct cuda_module){.device = d, .image = image, .image_bytes = image_bytes};
    *out_result = d->cu->ModuleLoadData(&m->module, code);
    if (*out_result != CUDA_SUCCESS) {
        free(m);
        return cuda_check(d, *out_result, err, "loading kernels for %s", d->arch);
    }
    *out_module = m;
    return 0;
}

/* The newest image of the device's own major version that is not newer than the device. */
static bool find_embedded(const struct cuda_device *d, struct cuda_image *out_image)
{
    struct cuda_image image;
    bool found = false;
    for (size_t i = 0; cuda_image_cubin(i, &image); i++)
        if (image.major == d->major && image.minor <= d->minor) {
            *out_image = image;
            found = true;
        }
    return found;
}

/* Refusals of an image that say nothing about the device: another one may do. */
static bool is_refused(CUresult result)
{
    return result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE ||
           result == CUDA_ERROR_INVALID_SOURCE || result == CUDA_ERROR_NOT_SUPPORTED;
}

int cuda_module_embedded(struct cuda_device *d, struct cuda_module **out_module, struct base_error *err)
{
    struct cuda_image image;
    CUresult result = CUDA_SUCCESS;
    *out_module = NULL;
    if (!find_embedded(d, &image))
        return 0;
    const int rc = module_load(d, image.bytes, NULL, 0, out_module, &result, err);
    return is_refused(result) ? 0 : rc;
}

/* Compiles the PTX; what comes out belongs to the linker until it is destroyed. */
static int compile(struct cuda_device *d, void **out_image, size_t *out_bytes, struct base_error *err)
{
    const struct cuda_driver *cu = d->cu;
    const struct cuda_image ptx = cuda_image_ptx();
    char log[256] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)sizeof log};
    CUlinkState state;
    void *code, *image = NULL;
    size_t bytes;

    int rc = cuda_check(d, cu->LinkCreate(2, options, values, &state), err, "compiling the kernels for %s", d->arch);
    if (rc < 0)
        return rc;
    /* the NUL behind the text is part of it */
    CUresult result = cu->LinkAddData(state, CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx.bytes, ptx.n_bytes + 1,
                                      "rouse.ptx", 0, NULL, NULL);
    if (result == CUDA_SUCCESS)
        result = cu->LinkComplete(state, &code, &bytes);
    rc = cuda_check(d, result, err, "compiling the kernels for %s: %s", d->arch, log);
    if (rc == 0) {
        image = malloc(bytes);
        if (image)
            memcpy(image, code, bytes);
        else
            rc = base_fail(err, ERR_NOMEM, "no memory for %zu bytes of kernels", bytes);
    }
    (void)cu->LinkDestroy(state); /* what it holds is copied or given up */
    if (rc == 0) {
        *out_image = image;
        *out_bytes = bytes;
    }
    return rc;
}

static int load_compiled(struct cuda_device *d, struct base_error *err)
{
    void *image = NULL;
    size_t bytes = 0;
    CUresult result;
    const uint64_t begin_ns = base_clock_mono_ns();
    int rc = compile(d, &image, &bytes, err);
    if (rc < 0)
        return rc;
    rc = module_load(d, image, image, bytes, &d->module, &result, err);
    if (rc < 0) {
        free(image);
        return rc;
    }
    base_log_info("kernels compiled by the driver", LOG_STR("arch", d->arch),
                  LOG_F64("seconds", (double)(base_clock_mono_ns() - begin_ns) / 1e9));
    return 0;
}

static int load_image(struct cuda_device *d, const void *image, size_t bytes, struct base_error *err)
{
    CUresult result;
    void *copy = malloc(bytes);
    if (!copy)
        return base_fail(err, ERR_NOMEM, "no memory for %zu bytes of kernels", bytes);
    memcpy(copy, image, bytes);
    const int rc = module_load(d, copy, copy, bytes, &d->module, &result, err);
    if (rc < 0)
        free(copy);
    return rc;
}

int cuda_module_need(struct cuda_device *d, const void *image, size_t image_bytes, struct base_error *err)
{
    if (d->module)
        return 0;
    return image ? load_image(d, image, image_bytes, err) : load_compiled(d, err);
}

void cuda_module_free(struct cuda_module *m)
{
    if (!m)
        return;
    (void)m->device->cu->ModuleUnload(m->module); /* fails when the device has: then it is gone anyway */
    free(m->image);
    free(m);
}

int cuda_module_function(struct cuda_module *m, const char *name, CUfunction *out_function, struct base_error *err)
{
    return cuda_check(m->device, m->device->cu->ModuleGetFunction(out_function, m->module, name), err, "kernel %s",
                      name);
}

uint64_t cuda_module_kernels_id(void)
{
    const struct cuda_image ptx = cuda_image_ptx();
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, a word at a time: names a version, guards nothing */
    size_t i = 0;
    for (uint64_t word; i + sizeof word <= ptx.n_bytes; i += sizeof word) {
        memcpy(&word, ptx.bytes + i, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    for (; i < ptx.n_bytes; i++)
        hash = (hash ^ ptx.bytes[i]) * 0x100000001b3u;
    return hash;
}
