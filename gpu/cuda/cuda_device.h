/* cuda_device - one card; private to gpu/cuda.
 *
 * Opening asks the driver for names and numbers alone. What takes long - the context, the kernels, cublasLt - comes up in a
 * thread of its own while the caller goes on, and whoever needs it first waits for it:
 *
 *   OPENED -> CONTEXT   memory can be reserved, copies can run       cuda_device_context
 *          -> READY     kernels can be launched                      cuda_device_ready
 *          -> FAILED    with the error that every waiter gets
 *
 * A fault of a kernel or of the card spoils the context for good: it is noted once, and every later step of every model on
 * this device gets the same error. */
#ifndef ROUSE_GPU_CUDA_DEVICE_H
#define ROUSE_GPU_CUDA_DEVICE_H

#include <pthread.h>

#include "gpu/backend.h"
#include "gpu/cuda/cuda_driver.h"

struct cuda_module;

enum cuda_device_state { CUDA_DEVICE_OPENED, CUDA_DEVICE_CONTEXT, CUDA_DEVICE_READY, CUDA_DEVICE_FAILED };

struct cuda_device {
    struct gpu_device base;
    const struct cuda_driver *cu;
    CUdevice number;
    uint32_t major, minor; /* compute capability */
    char arch[16];         /* "sm_80" */
    char driver[64];       /* "13 cublasLt 13.0.2 kernels 1f0e5a33" */
    bool fastest_gemms, no_graphs;

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock; /* guards the next four */
    pthread_cond_t changed;
    enum cuda_device_state state;
    struct base_error failure; /* why state is FAILED */
    struct base_error fault;   /* code 0: none */

    /* From CONTEXT on. Any thread may put work on a stream. */
    CUcontext context;
    CUstream compute, copy;

    /* From READY on. */
    struct cuda_module *module; /* NULL: nothing embedded fits this device, cuda_module_need finds another way */
    const struct cuda_lt *lt;   /* NULL: not on this machine */
    cublasLtHandle_t lt_handle;
};

/* Waits for the state and makes the context current on this thread. */
int cuda_device_context(struct cuda_device *d, struct base_error *err);
int cuda_device_ready(struct cuda_device *d, struct base_error *err);

/* 0 for CUDA_SUCCESS; else the error, and the fault is noted if it is one. fmt: the operation and its object. */
int cuda_check(struct cuda_device *d, CUresult result, struct base_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* The noted fault, or 0. */
int cuda_device_fault(struct cuda_device *d, struct base_error *err);

#endif
