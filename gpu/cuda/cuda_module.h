/* cuda_module - the kernels, loaded onto a device; private to gpu/cuda.
 *
 * Machine code runs on the architecture it was compiled for, so there are three ways to it: the image compiled with rouse, if
 * there is one for this architecture; the image that a snapshot carries; or the driver compiles the PTX text, which takes
 * seconds, and what comes out is kept for the next snapshot. */
#ifndef ROUSE_GPU_CUDA_MODULE_H
#define ROUSE_GPU_CUDA_MODULE_H

#include "gpu/cuda/cuda_device.h"

struct cuda_module {
    struct cuda_device *device;
    CUmodule module;
    void *image; /* [image_bytes] machine code that is not compiled into rouse, owned; NULL: it is */
    size_t image_bytes;
};

/* The embedded image, as the device comes up. *out_module NULL: there is none that this device takes. */
int cuda_module_embedded(struct cuda_device *d, struct cuda_module **out_module, struct base_error *err);
/* The device's module, found by the other two ways if need be. image: of a snapshot, copied, or NULL. Drivers of models. */
int cuda_module_need(struct cuda_device *d, const void *image, size_t image_bytes, struct base_error *err);
void cuda_module_free(struct cuda_module *m);

int cuda_module_function(struct cuda_module *m, const char *name, CUfunction *out_function, struct base_error *err);

/* Names what was compiled into rouse: images and launches of another rouse may not fit these kernels' arguments. */
uint64_t cuda_module_kernels_id(void);

#endif
