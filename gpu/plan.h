/* plan - the layout of an arena, shared by the back ends: weights in the order the forward pass uses them, then
 * workspace, then KV. Private to gpu/ (struct gpu_plan itself is public, in device.h).
 *
 *   0                weights_bytes = workspace_offset          kv_offset           arena_bytes
 *   | tensor | .. | tensor | pad |  workspace  | pad |  KV blocks  | pad |
 *   every tensor on a multiple of 256, every range on a multiple of 4096 bytes
 *
 * (1) The weight range depends on config, dtype and GPU_LAYOUT_VERSION alone.
 * (2) Tensors are dense [rows][cols], q8 with their scales behind; the bytes between them are zero. */
#ifndef ROUSE_GPU_PLAN_H
#define ROUSE_GPU_PLAN_H

#include "gpu/device.h"

#define GPU_TENSOR_ALIGN 256
#define GPU_RANGE_ALIGN  4096
#define GPU_MAP_ALIGN    (2u << 20) /* of what is mapped into a weight range: a huge page */

/* What a layer holds. In the arena they lie in this order, except that the second norm of a sequential layer comes after
 * the attention, where it is used. */
enum gpu_layer_tensor {
    GPU_LN1_GAIN, /* input_layernorm            [E] */
    GPU_LN1_BIAS,
    GPU_LN2_GAIN, /* post_attention_layernorm   [E] */
    GPU_LN2_BIAS,
    GPU_QKV,      /* attention.query_key_value  [3E][E], rows as [H][3][D] */
    GPU_QKV_BIAS, /* [3E] */
    GPU_DENSE,    /* attention.dense            [E][E] */
    GPU_DENSE_BIAS,
    GPU_UP, /* mlp.dense_h_to_4h          [F][E] */
    GPU_UP_BIAS,
    GPU_DOWN, /* mlp.dense_4h_to_h          [E][F] */
    GPU_DOWN_BIAS,
    GPU_LAYER_TENSORS
};

/* Sizes that the layout can hold and the limits fit: ERR_USAGE otherwise. Afterwards no sum of sizes overflows 64 bits. */
int gpu_plan_check(const struct model_config *config, enum model_dtype dtype, const struct gpu_limits *limits,
                   struct base_error *err);

/* Tensors of a checked config. */
uint32_t gpu_plan_n_tensors(const struct model_config *config);

/* Lays the weight range out. tensors: [gpu_plan_n_tensors], filled, and lent to the plan. Inputs are checked. */
void gpu_plan_weights(struct gpu_plan *plan, const struct model_config *config, enum model_dtype dtype,
                      const struct gpu_limits *limits, struct gpu_tensor *tensors);

/* Puts workspace and KV behind the weights. ERR_NOMEM when the sum is past what an address can hold. */
int gpu_plan_ranges(struct gpu_plan *plan, uint64_t workspace_bytes, uint64_t kv_bytes, struct base_error *err);

const struct gpu_tensor *gpu_plan_embedding(const struct gpu_plan *plan); /* [V][E] */
const struct gpu_tensor *gpu_plan_layer(const struct gpu_plan *plan, uint32_t layer, enum gpu_layer_tensor which);
const struct gpu_tensor *gpu_plan_final_gain(const struct gpu_plan *plan); /* [E] */
const struct gpu_tensor *gpu_plan_final_bias(const struct gpu_plan *plan); /* [E] */
const struct gpu_tensor *gpu_plan_output(const struct gpu_plan *plan);     /* [V][E]; the embedding when tied */

#endif
