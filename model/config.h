/* config - config.json of a GPT-NeoX model, checked.
 *
 * Reads both the form of the published Pythia files (rotary_pct, rotary_emb_base, torch_dtype) and the one transformers 5
 * writes (rope_parameters {rope_theta, partial_rotary_factor}, dtype). Every size is bounded and every division checked
 * here, once: the rest of the program trusts this struct. */
#ifndef ROUSE_MODEL_CONFIG_H
#define ROUSE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/bytes.h"
#include "base/error.h"

/* Files hold the first three; MODEL_Q8 is made from them: int8 rows, each with one f32 scale. */
enum model_dtype { MODEL_F32 = 0, MODEL_F16 = 1, MODEL_BF16 = 2, MODEL_Q8 = 3 };
enum model_act { MODEL_ACT_GELU_ERF = 0, MODEL_ACT_GELU_TANH = 1 }; /* "gelu"; "gelu_fast", "gelu_new" (GPT-NeoX-20b) */

struct model_config {
    uint32_t n_layers;     /* L, 1..256 */
    uint32_t hidden;       /* E = H * D, <= 65536 */
    uint32_t n_heads;      /* H */
    uint32_t head_dim;     /* D: 32, 64, 80, 96, 128 or 256 (any multiple of 8 up to 256) */
    uint32_t rotary_dims;  /* R, even, 0..D: the first R of D are rotated; int(D * rotary_pct) */
    uint32_t intermediate; /* F */
    uint32_t vocab;        /* V: rows of the embedding, padding included */
    uint32_t n_positions;  /* the longest context */
    float rotary_base;
    float norm_eps;
    bool parallel_residual; /* x + attn(ln1 x) + mlp(ln2 x); else x += attn(ln1 x), x += mlp(ln2 x) */
    bool tied;              /* logits use the embedding matrix */
    bool attention_bias;    /* query_key_value and dense carry a bias */
    enum model_act act;
    enum model_dtype file_dtype; /* as config.json says; the files' own headers decide */
    int32_t bos_id, eos_id;      /* -1: none */
};

/* dir/config.json. ERR_INPUT names the key, its value and the limit. */
int model_config_read(const char *dir, struct model_config *out_config, struct base_error *err);
int model_config_parse(const char *json, size_t n, const char *path, struct model_config *out_config, struct base_error *err);

/* Fixed binary form for a snapshot's plan; decode checks all that parse checks. */
void model_config_encode(const struct model_config *config, struct base_buffer *out);
int model_config_decode(struct base_bytes *in, struct model_config *out_config, struct base_error *err);

uint64_t model_config_n_parameters(const struct model_config *config);
size_t model_dtype_bytes(enum model_dtype dtype); /* of one number, without its share of a scale */
const char *model_dtype_name(enum model_dtype dtype); /* "f32", "f16", "bf16", "q8" */
int model_dtype_parse(const char *name, enum model_dtype *out_dtype, struct base_error *err);

#endif
