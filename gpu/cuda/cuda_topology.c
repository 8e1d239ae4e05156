#include "gpu/cuda/cuda_topology.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/cuda/kernel_args.h"

#define POINTER_AT(type, field) (uint16_t) offsetof(struct type, field)

static const uint16_t embed_pointers[] = {POINTER_AT(cuda_embed_args, counts), POINTER_AT(cuda_embed_args, tokens),
                                          POINTER_AT(cuda_embed_args, embedding), POINTER_AT(cuda_embed_args, x)};
static const uint16_t norm_pointers[] = {
    POINTER_AT(cuda_norm_args, counts), POINTER_AT(cuda_norm_args, rows),  POINTER_AT(cuda_norm_args, x),
    POINTER_AT(cuda_norm_args, gain1),  POINTER_AT(cuda_norm_args, bias1), POINTER_AT(cuda_norm_args, gain2),
    POINTER_AT(cuda_norm_args, bias2),  POINTER_AT(cuda_norm_args, y1),    POINTER_AT(cuda_norm_args, y2)};
static const uint16_t rotary_pointers[] = {
    POINTER_AT(cuda_rotary_args, counts), POINTER_AT(cuda_rotary_args, positions), POINTER_AT(cuda_rotary_args, slots),
    POINTER_AT(cuda_rotary_args, blocks), POINTER_AT(cuda_rotary_args, cos),       POINTER_AT(cuda_rotary_args, sin),
    POINTER_AT(cuda_rotary_args, qkv),    POINTER_AT(cuda_rotary_args, kv)};
static const uint16_t prefill_pointers[] = {POINTER_AT(cuda_prefill_args, tiles), POINTER_AT(cuda_prefill_args, blocks),
                                            POINTER_AT(cuda_prefill_args, qkv), POINTER_AT(cuda_prefill_args, kv),
                                            POINTER_AT(cuda_prefill_args, out)};
static const uint16_t decode_pointers[] = {
    POINTER_AT(cuda_decode_args, counts), POINTER_AT(cuda_decode_args, positions), POINTER_AT(cuda_decode_args, slots),
    POINTER_AT(cuda_decode_args, blocks), POINTER_AT(cuda_decode_args, qkv),       POINTER_AT(cuda_decode_args, kv),
    POINTER_AT(cuda_decode_args, part_o), POINTER_AT(cuda_decode_args, part_ml)};
static const uint16_t merge_pointers[] = {POINTER_AT(cuda_merge_args, counts), POINTER_AT(cuda_merge_args, positions),
                                          POINTER_AT(cuda_merge_args, part_o), POINTER_AT(cuda_merge_args, part_ml),
                                          POINTER_AT(cuda_merge_args, out)};
static const uint16_t gelu_pointers[] = {POINTER_AT(cuda_gelu_args, counts), POINTER_AT(cuda_gelu_args, x)};
static const uint16_t matmul_pointers[] = {POINTER_AT(cuda_matmul_args, counts), POINTER_AT(cuda_matmul_args, x),
                                           POINTER_AT(cuda_matmul_args, w),      POINTER_AT(cuda_matmul_args, scale),
                                           POINTER_AT(cuda_matmul_args, bias),   POINTER_AT(cuda_matmul_args, y)};
static const uint16_t sample_pointers[] = {POINTER_AT(cuda_sample_args, counts), POINTER_AT(cuda_sample_args, draws),
                                           POINTER_AT(cuda_sample_args, logits), POINTER_AT(cuda_sample_args, tokens),
                                           POINTER_AT(cuda_sample_args, scratch)};

/* What of the model is in a kernel's name, behind its base. */
enum variant { VARIANT_NONE, VARIANT_HALF, VARIANT_HALF_AND_HEAD, VARIANT_HALF_MATMUL, VARIANT_Q8_MATMUL };

struct kernel_info {
    const char *base;
    enum variant variant;
    uint32_t tokens; /* matmul: t */
    uint32_t args_bytes, n_pointers;
    const uint16_t *pointers;
};

#define FITS(type) _Static_assert(sizeof(struct type) <= CUDA_ARGS_BYTES, "room for its arguments")
FITS(cuda_embed_args);
FITS(cuda_norm_args);
FITS(cuda_rotary_args);
FITS(cuda_prefill_args);
FITS(cuda_decode_args);
FITS(cuda_merge_args);
FITS(cuda_gelu_args);
FITS(cuda_matmul_args);
FITS(cuda_sample_args);

#define POINTERS(list) .n_pointers = sizeof(list) / sizeof *(list), .pointers = (list)
#define MATMUL(variant_, t)                                                                                            \
    {                                                                                                                  \
        .base = "matmul", .variant = (variant_), .tokens = (t), .args_bytes = sizeof(struct cuda_matmul_args),         \
        POINTERS(matmul_pointers)                                                                                      \
    }

static const struct kernel_info kernels[CUDA_KERNELS] = {
    [CUDA_EMBED] = {"embed", VARIANT_HALF, 0, sizeof(struct cuda_embed_args), POINTERS(embed_pointers)},
    [CUDA_NORM] = {"norm", VARIANT_HALF, 0, sizeof(struct cuda_norm_args), POINTERS(norm_pointers)},
    [CUDA_ROTARY] = {"rotary", VARIANT_HALF, 0, sizeof(struct cuda_rotary_args), POINTERS(rotary_pointers)},
    [CUDA_PREFILL] = {"prefill", VARIANT_HALF_AND_HEAD, 0, sizeof(struct cuda_prefill_args),
                      POINTERS(prefill_pointers)},
    [CUDA_DECODE] = {"decode", VARIANT_HALF_AND_HEAD, 0, sizeof(struct cuda_decode_args), POINTERS(decode_pointers)},
    [CUDA_MERGE] = {"merge", VARIANT_HALF, 0, sizeof(struct cuda_merge_args), POINTERS(merge_pointers)},
    [CUDA_GELU] = {"gelu", VARIANT_HALF, 0, sizeof(struct cuda_gelu_args), POINTERS(gelu_pointers)},
    [CUDA_MATMUL_T8] = MATMUL(VARIANT_HALF_MATMUL, 8),
    [CUDA_MATMUL_T16] = MATMUL(VARIANT_HALF_MATMUL, 16),
    [CUDA_MATMUL_T32] = MATMUL(VARIANT_HALF_MATMUL, 32),
    [CUDA_MATMUL_T64] = MATMUL(VARIANT_HALF_MATMUL, 64),
    [CUDA_MATMUL_Q8_T8] = MATMUL(VARIANT_Q8_MATMUL, 8),
    [CUDA_MATMUL_Q8_T16] = MATMUL(VARIANT_Q8_MATMUL, 16),
    [CUDA_MATMUL_Q8_T32] = MATMUL(VARIANT_Q8_MATMUL, 32),
    [CUDA_MATMUL_Q8_T64] = MATMUL(VARIANT_Q8_MATMUL, 64),
    [CUDA_SAMPLE] = {"sample", VARIANT_NONE, 0, sizeof(struct cuda_sample_args), POINTERS(sample_pointers)},
};

const char *cuda_kernel_base(enum cuda_kernel kernel)
{
    return kernels[kernel].base;
}

void cuda_kernel_name(enum cuda_kernel kernel, bool bf16, uint32_t head_dim, char out[CUDA_KERNEL_NAME_BYTES])
{
    const struct kernel_info *k = &kernels[kernel];
    const char *half = bf16 ? "bf16" : "f16";
    int n = 0;
    switch (k->variant) {
    case VARIANT_NONE:
        n = snprintf(out, CUDA_KERNEL_NAME_BYTES, "%s", k->base);
        break;
    case VARIANT_HALF:
        n = snprintf(out, CUDA_KERNEL_NAME_BYTES, "%s_%s", k->base, half);
        break;
    case VARIANT_HALF_AND_HEAD:
        n = snprintf(out, CUDA_KERNEL_NAME_BYTES, "%s_%s_d%u", k->base, half, head_dim);
        break;
    case VARIANT_HALF_MATMUL:
        n = snprintf(out, CUDA_KERNEL_NAME_BYTES, "%s_%s_t%u", k->base, half, k->tokens);
        break;
    case VARIANT_Q8_MATMUL:
        n = snprintf(out, CUDA_KERNEL_NAME_BYTES, "%s_q8_t%u", k->base, k->tokens); /* beside f16 alone */
        break;
    }
    assert(n > 0 && n < CUDA_KERNEL_NAME_BYTES);
}

uint32_t cuda_kernel_args_bytes(enum cuda_kernel kernel)
{
    return kernels[kernel].args_bytes;
}

uint32_t cuda_kernel_pointers(enum cuda_kernel kernel, const uint16_t **out_offsets)
{
    *out_offsets = kernels[kernel].pointers;
    return kernels[kernel].n_pointers;
}

/* ---- pointers in arguments ---- */

uint64_t cuda_launch_pointer(const struct cuda_launch *launch, uint16_t offset)
{
    uint64_t v;
    memcpy(&v, launch->args + offset, sizeof v);
    return v;
}

static void set_pointer(struct cuda_launch *launch, uint16_t offset, uint64_t v)
{
    memcpy(launch->args + offset, &v, sizeof v);
}

void cuda_topology_to_addresses(struct cuda_topology *t, uint64_t base)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *at;
        const uint32_t n = cuda_kernel_pointers(t->nodes[i].kernel, &at);
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t v = cuda_launch_pointer(&t->nodes[i], at[j]);
            set_pointer(&t->nodes[i], at[j], v == 0 ? 0 : base + (v - 1));
        }
    }
}

void cuda_topology_to_offsets(struct cuda_topology *t, uint64_t base)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *at;
        const uint32_t n = cuda_kernel_pointers(t->nodes[i].kernel, &at);
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t v = cuda_launch_pointer(&t->nodes[i], at[j]);
            set_pointer(&t->nodes[i], at[j], v == 0 ? 0 : v - base + 1);
        }
    }
}

/* ---- lists ---- */

int cuda_topology_init(struct cuda_topology *t, uint32_t n_max, struct base_error *err)
{
    *t = (struct cuda_topology){.nodes = calloc(n_max, sizeof *t->nodes), .capacity = n_max};
    return t->nodes ? 0 : base_fail(err, ERR_NOMEM, "no memory for a graph of %u launches", n_max);
}

void cuda_topology_done(struct cuda_topology *t)
{
    free(t->nodes);
    *t = (struct cuda_topology){0};
}
