/* cuda_images - the kernels as they were compiled: machine code by architecture, and PTX for every other one. */
#ifndef ROUSE_GPU_CUDA_IMAGES_H
#define ROUSE_GPU_CUDA_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cuda_image {
    uint32_t major, minor; /* compute capability it was compiled for: runs on the same major and any minor from there */
    const uint8_t *bytes;
    size_t n_bytes;
};

/* The i-th cubin, by rising compute capability; false past the last. */
bool cuda_image_cubin(size_t i, struct cuda_image *out_image);
/* The PTX text, for 8.0 and everything newer; a NUL behind it is not counted. */
struct cuda_image cuda_image_ptx(void);

#endif
