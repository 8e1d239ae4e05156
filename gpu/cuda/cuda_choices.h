/* cuda_choices - what a model found out on this device, as bytes for a snapshot; private to gpu/cuda.
 *
 *   u8[8] magic, u32 version
 *   text arch, text driver                      (text: u8 length, bytes)
 *   u64 kernels, u64 cublasLt version, u8 fastest
 *   u64[10] layout                              of the arena, to which addresses below are relative, and the limits behind it
 *   u32 n products: u32 n classes: u8 1 chosen | 2 usable, u64[8] algorithm if usable
 *   u32 n kernels: text name
 *   u32 n graphs: u32 n launches: u8 kernel, u32[3] grid, u32 block, u32 shared, u8 n, u32[n] after, arguments
 *   u64 n, machine code
 *
 * All little-endian. In arguments a pointer is its offset in the arena plus 1, and 0 for none. Whoever reads this trusts nothing:
 * every count is checked against the bytes left, every offset against the arena. */
#ifndef ROUSE_GPU_CUDA_CHOICES_H
#define ROUSE_GPU_CUDA_CHOICES_H

#include "base/buffer.h"
#include "gpu/cuda/cublaslt_api.h"
#include "gpu/cuda/cuda_topology.h"

/* The shapes of weights in a model; each has one kind of result. */
enum cuda_product {
    CUDA_QKV,    /* half, bias if the model has one */
    CUDA_DENSE,  /* added to x in f32 */
    CUDA_UP,     /* half, bias */
    CUDA_DOWN,   /* added to x */
    CUDA_OUTPUT, /* f32, no bias */
    CUDA_PRODUCTS
};

enum { CUDA_ROW_CLASSES = 19 }; /* 2^0 to 2^18 rows; deterministic: the first holds for all */

struct cuda_gemm_choice {
    bool chosen, usable; /* chosen and not usable: cublasLt has nothing for it */
    cublasLtMatmulAlgo_t algo;
};

enum {
    CUDA_CHOICES_GRAPHS_MAX = 16,
    CUDA_CHOICES_LAUNCHES_MAX = 4096, /* 9 a layer, 256 layers, and some */
    CUDA_CHOICES_TEXT_BYTES = 64,
    CUDA_CHOICES_LAYOUT = 10,
    CUDA_CHOICES_ARENA = 4 /* of these: bytes of the arena */
};

struct cuda_choices {
    char arch[CUDA_CHOICES_TEXT_BYTES], driver[CUDA_CHOICES_TEXT_BYTES];
    uint64_t kernels_id, lt_version;
    bool fastest;
    uint64_t layout[CUDA_CHOICES_LAYOUT]; /* workspace offset, bytes; KV offset, bytes; arena bytes; the five limits */
    uint32_t n_classes[CUDA_PRODUCTS];
    struct cuda_gemm_choice gemms[CUDA_PRODUCTS][CUDA_ROW_CLASSES];
    char kernels[CUDA_KERNELS][CUDA_KERNEL_NAME_BYTES];
    uint32_t n_graphs;
    struct cuda_topology graphs[CUDA_CHOICES_GRAPHS_MAX]; /* owned; pointers as in the file */
    const uint8_t *image;                                 /* lent by the bytes; NULL: none */
    size_t image_bytes;
};

/* ERR_CORRUPT; on an error nothing is left to free. */
int cuda_choices_decode(struct cuda_choices *c, const void *bytes, size_t n, struct base_error *err);
void cuda_choices_encode(const struct cuda_choices *c, struct base_buffer *out);
void cuda_choices_done(struct cuda_choices *c);

#endif
