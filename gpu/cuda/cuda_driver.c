#include "gpu/cuda/cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

struct call {
    const char *name;
    void **to;
};

#define NAME_(function)           #function
#define NAME(function)            NAME_(function)
#define CALL_OF(table, field, fn) {NAME(fn), (void **)(void *)&(table).field},

/* The name of the first function that the library lacks; NULL: all are found. */
static const char *find_calls(void *library, const struct call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        *calls[i].to = dlsym(library, calls[i].name);
        if (!*calls[i].to)
            return calls[i].name;
    }
    return NULL;
}

/* ---- the driver ---- */

static struct cuda_driver driver;
static struct base_error driver_error;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

static void driver_open(void)
{
#define DRIVER_CALL(field, fn) CALL_OF(driver, field, fn)
    const struct call calls[] = {CUDA_DRIVER_CALLS(DRIVER_CALL)};
    CUresult (*get_version)(int *version);

    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        base_fail(&driver_error, ERR_SERVICE, "no NVIDIA driver here: %s", dlerror());
        return;
    }
    *(void **)(void *)&get_version = dlsym(library, "cuDriverGetVersion");
    const CUresult result = get_version ? get_version(&driver.version) : CUDA_ERROR_NOT_FOUND;
    if (result != CUDA_SUCCESS || driver.version < CUDA_DRIVER_VERSION_MIN) {
        base_fail(
            &driver_error, ERR_SERVICE,
            "the NVIDIA driver here is for CUDA %d.%d (cuDriverGetVersion: %d); needed is one for %d.%d or newer, "
            "that is driver 570",
            driver.version / 1000, driver.version % 1000 / 10, result, CUDA_DRIVER_VERSION_MIN / 1000,
            CUDA_DRIVER_VERSION_MIN % 1000 / 10);
        return;
    }
    const char *missing = find_calls(library, calls, sizeof calls / sizeof *calls);
    if (missing)
        base_fail(&driver_error, ERR_SERVICE, "the NVIDIA driver here (CUDA %d.%d) has no %s; driver 570 or newer has",
                  driver.version / 1000, driver.version % 1000 / 10, missing);
}

int cuda_driver_get(const struct cuda_driver **out_driver, struct base_error *err)
{
    pthread_once(&driver_once, driver_open);
    if (driver_error.code != 0) {
        if (err)
            *err = driver_error;
        return driver_error.code;
    }
    *out_driver = &driver;
    return 0;
}

/* What the caller can do about it: give back memory, use another machine, or nothing. */
static int error_code(CUresult result)
{
    switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
        return ERR_NOMEM;
    case CUDA_ERROR_NOT_INITIALIZED:
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_DEVICE_NOT_LICENSED:
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
    case CUDA_ERROR_SYSTEM_NOT_READY:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
    case CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
        return ERR_SERVICE;
    default:
        return ERR_INTERNAL;
    }
}

int cuda_driver_fail(const struct cuda_driver *cu, CUresult result, struct base_error *err, const char *fmt, ...)
{
    const char *name = NULL, *text = NULL;
    char what[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    cu->GetErrorName(result, &name);
    cu->GetErrorString(result, &text);
    return base_fail(err, error_code(result), "%s: %s %d (%s)", what, name ? name : "CUDA error", (int)result,
                     text ? text : "unknown to this driver");
}

/* ---- cublasLt ---- */

static struct cuda_lt lt;
static struct base_error lt_error;
static pthread_once_t lt_once = PTHREAD_ONCE_INIT;

static void lt_open(void)
{
#define LT_CALL(field, fn) CALL_OF(lt, field, fn)
    const struct call calls[] = {CUDA_LT_CALLS(LT_CALL)};
    void *library = dlopen("libcublasLt.so.13", RTLD_LAZY | RTLD_LOCAL);
    if (!library)
        library = dlopen("libcublasLt.so.12", RTLD_LAZY | RTLD_LOCAL);
    if (!library) {
        base_fail(&lt_error, ERR_SERVICE, "no cublasLt here: %s", dlerror());
        return;
    }
    const char *missing = find_calls(library, calls, sizeof calls / sizeof *calls);
    if (missing)
        base_fail(&lt_error, ERR_SERVICE, "the cublasLt here has no %s; 12.0 or newer has", missing);
    else
        lt.version = lt.GetVersion();
}

int cuda_lt_get(const struct cuda_lt **out_lt, struct base_error *err)
{
    pthread_once(&lt_once, lt_open);
    if (lt_error.code != 0) {
        if (err)
            *err = lt_error;
        return lt_error.code;
    }
    *out_lt = &lt;
    return 0;
}
