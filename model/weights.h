/* weights - the tensors of a model directory: model.safetensors, or shards named by model.safetensors.index.json.
 *
 * Opening reads and checks every header (length, JSON, dtypes, shapes, offsets: in range, without holes or overlaps, file
 * size exact) and no data. Data is read with pread, so that a file cut behind our back is an error, not a signal.
 * Format: https://github.com/huggingface/safetensors, "Format". Reads may come from any thread. */
#ifndef ROUSE_MODEL_WEIGHTS_H
#define ROUSE_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/config.h"

struct model_weights;

struct model_tensor {
    const char *name; /* lent by the model_weights */
    enum model_dtype dtype;
    uint32_t n_dims;   /* 1 or 2 for the tensors we use */
    uint64_t shape[4]; /* outermost first */
    uint32_t file;
    uint64_t offset, bytes; /* of the data in that file */
};

int model_weights_open(const char *dir, struct model_weights **out_weights, struct base_error *err);
void model_weights_close(struct model_weights *w);

/* Every tensor that the configuration needs is there with its shape and a float dtype (else ERR_INPUT names the tensor).
 * Buffers of published files (attention.bias, attention.masked_bias, rotary_emb.inv_freq) and other extras are ignored. */
int model_weights_check(const struct model_weights *w, const struct model_config *config, struct base_error *err);

/* The tensor of this name (with or without the "gpt_neox." prefix); "lm_head.weight" and "embed_out.weight" stand for each
 * other. NULL: not there, or not readable (neither F32, F16 nor BF16, or of more than 4 dimensions). Lent. */
const struct model_tensor *model_weights_find(const struct model_weights *w, const char *name);

/* Elements [first, first + n) of t, converted to f32 / copied as stored. ERR_IO, ERR_INPUT (file cut). */
int model_weights_read_f32(const struct model_weights *w, const struct model_tensor *t, uint64_t first, uint64_t n,
                           float *out, struct base_error *err);
int model_weights_read_raw(const struct model_weights *w, const struct model_tensor *t, uint64_t first, uint64_t n,
                           void *out, struct base_error *err);

#endif
