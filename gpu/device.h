/* device - a device, a model's arena on it, and the forward pass: the whole contract between rouse and its back ends.
 *
 * gpu_device  an opened device: its kind, its kernels, its threads. Opened once, before anything is known of a model.
 * gpu_model   one model on a device: the plan (layout of the arena), the arena, the forward pass over it.
 *
 * A model is one arena: [weights, in the order the forward pass uses them | workspace | KV blocks]. gpu_model_new computes
 * the layout from the configuration and the limits and reserves the memory; nothing is allocated after that. The weight
 * range is filled either by gpu_model_load (convert and pack a model directory: slow, once) or byte for byte from a
 * snapshot. Its layout depends on configuration, dtype and GPU_LAYOUT_VERSION alone, not on the limits.
 *
 *   RESERVED -> LOADED   gpu_model_load, or the caller wrote the whole weight range, or mapped it; then gpu_model_forward may run
 *   LOADED   -> ASLEEP   gpu_model_sleep: the device memory is given back, addresses and choices stay
 *   ASLEEP   -> RESERVED gpu_model_wake: memory again, empty; the weight range must be filled anew
 *
 * One thread drives a model; uploads may be fed by others. Two models of one device take turns.
 *
 * Same prompt, same answer: the logits of a token depend on its sequence alone, bit for bit: not on the other sequences in
 * the step, on how a prompt was cut into chunks, on which blocks hold its KV, or on the number of threads. They do depend on
 * the kernels (gpu_info.arch), the dtype and the choices, and on which of the sequence's tokens were generated: a back end
 * may compute prompts and generated tokens by different (each by itself fixed) ways. */
#ifndef ROUSE_GPU_DEVICE_H
#define ROUSE_GPU_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "model/config.h"
#include "model/sampler.h"
#include "model/weights.h"

#define GPU_LAYOUT_VERSION 1      /* of the weight range; part of every fingerprint */
#define GPU_ARCH_HOST      "host" /* gpu_info.arch of a planner */
#define GPU_BLOCK_TOKENS   16     /* tokens in one KV block */

struct gpu_device;
struct gpu_model;

struct gpu_info {
    const char *kind;   /* "cpu", "cuda" */
    const char *arch;   /* what the kernels were chosen for: "x86-64-generic", "x86-64-avx2", "sm_80" */
    const char *driver; /* driver and library major versions that a snapshot depends on; "" for cpu */
    char name[96];      /* for people: the processor's or the card's name */
    uint32_t n_threads;
    uint64_t memory_bytes;
    uint32_t kv_value_bytes; /* of one number in the KV blocks */
};

struct gpu_open_options {
    uint32_t n_threads;  /* cpu: 0 for what this process may use */
    const char *kernels; /* cpu: NULL or "auto" for the best the processor has; "generic", "avx2" to force */
    bool fastest_gemms;  /* cuda: GEMM algorithms by shape and batch, at the price of "same prompt, same answer" */
    bool no_graphs;      /* cuda: every kernel launched by itself, to compare with */
};

/* which: "auto", "cpu", "cuda", "cuda:N". auto never fails for want of a card. ERR_SERVICE: the named device is not there;
 * ERR_USAGE: no such device or kernels, or the processor lacks them. options may be NULL. */
int gpu_open(const char *which, const struct gpu_open_options *options, struct gpu_device **out_device,
             struct base_error *err);
/* A device of that kind ("cuda") that is not here: its models are planned and packed as the device will want them, in memory that
 * gpu_model_host addresses, and compute nothing. arch is GPU_ARCH_HOST, driver "". ERR_SERVICE: not in this build. */
int gpu_open_planner(const char *kind, const struct gpu_open_options *options, struct gpu_device **out_device,
                     struct base_error *err);
void gpu_close(struct gpu_device *device); /* after its models */
const struct gpu_info *gpu_device_info(const struct gpu_device *device);

/* The type that "auto" means there for files of that type: the same, or the nearest that the device computes in. */
enum model_dtype gpu_device_dtype(const struct gpu_device *device, enum model_dtype file_dtype);

struct gpu_limits {
    uint32_t n_tokens_max; /* T: tokens in one step, all sequences together */
    uint32_t n_seqs_max;   /* B: sequences in one step */
    uint32_t n_logits_max; /* rows of logits in one step, >= n_seqs_max for generation */
    uint32_t n_ctx_max;    /* tokens of one sequence, <= config.n_positions */
    uint32_t n_blocks;     /* KV blocks in all */
};

/* One matrix or vector of the weight range. Matrices are [rows][cols] = [out][in], as published. A q8 matrix is int8
 * [rows][cols], and at the next multiple of 256 its scales, f32 [rows]: gpu_tensor_scales. */
struct gpu_tensor {
    char name[64]; /* as in the model's files, without the "gpt_neox." prefix: "layers.3.mlp.dense_4h_to_h.weight" */
    enum model_dtype dtype; /* matrices in the model's dtype here (q8: the embedding in f16), vectors always f32 */
    uint32_t rows, cols;
    uint64_t offset, bytes; /* in the arena; offset is a multiple of 256 */
};

/* Bytes from a q8 tensor's beginning to its scales. */
static inline uint64_t gpu_tensor_scales(const struct gpu_tensor *tensor)
{
    return ((uint64_t)tensor->rows * tensor->cols + 255) / 256 * 256;
}

struct gpu_plan {
    struct model_config config;
    enum model_dtype dtype;
    struct gpu_limits limits;
    const struct gpu_tensor *tensors; /* [n_tensors] in order of offset = order of execution */
    uint32_t n_tensors;
    uint64_t weights_bytes; /* [0, weights_bytes): multiple of 4096 */
    uint64_t workspace_offset, workspace_bytes;
    uint64_t kv_offset, kv_bytes;
    uint64_t arena_bytes;
};

/* Plans and reserves. ERR_NOMEM says how much was asked for and for what; ERR_USAGE: limits that do not fit the config. */
int gpu_model_new(struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                  const struct gpu_limits *limits, struct gpu_model **out_model, struct base_error *err);
void gpu_model_free(struct gpu_model *model);
const struct gpu_plan *gpu_model_plan(const struct gpu_model *model);

/* Where the arena lies in this process's memory (page-aligned); NULL when the device's memory is not addressable here: then
 * gpu_upload fills it and gpu_model_read reads it. */
uint8_t *gpu_model_host(struct gpu_model *model);

/* Whether the weight range may be a file's own pages (gpu_model_map): where it is memory that this process addresses. */
bool gpu_device_maps(const struct gpu_device *device);
/* The weight range becomes the page cache's pages of the file, from file_offset (a multiple of 2 MiB) on, for reading: shared by all
 * processes that map it, in huge pages where the file system keeps such. Nothing is read yet, and the file may be closed. Once, of a
 * model that is RESERVED. The file must stay as it is: where it is cut short, using the weights ends the process (SIGBUS). */
int gpu_model_map(struct gpu_model *model, int fd, uint64_t file_offset, struct base_error *err);

/* Bytes of the weight range back to the host, whatever the device. */
int gpu_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err);

/* Fills the weight range from a model's files: read, convert to the plan's dtype, pack. progress may be NULL. */
int gpu_model_load(struct gpu_model *model, const struct model_weights *weights,
                   void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                   struct base_error *err);

/* What one sequence contributes to a step: the next n_tokens tokens, of which the first has this position. Their K and V
 * are written into its blocks; attention reads all positions up to each token's own. */
struct gpu_sequence {
    const int32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;     /* >= 1 */
    uint32_t position;
    /* [ceil((position + n_tokens) / GPU_BLOCK_TOKENS)], each < limits.n_blocks, none shared for writing */
    const uint32_t *blocks;
    uint32_t n_logits; /* logits wanted for its last n_logits tokens, <= n_tokens */
    bool generated;    /* these tokens were sampled from this model, not given as a prompt */
    /* NULL, or: draw the next token on the device, as model_sampler_draw does with that draw number. Only what
     * gpu_model_samples admits; n_logits is 1. Such a sequence takes no row of out_logits. */
    const struct model_sampling *sampling;
    uint64_t draw;
};

/* What a step gives, lent until the next call. */
struct gpu_result {
    const float *logits; /* [sum of n_logits of the sequences without sampling][V], sequences in order */
    const int32_t
        *sampled; /* [n_sequences] of those with sampling; -1: a logit was NaN or +infinity, or all -infinity */
};

/* One step: any mix of prefill chunks and decoding sequences. A sequence may stand in a step twice, prompt first, then
 * tokens generated behind it. ERR_INPUT for a token outside the vocabulary, a position past n_ctx_max; ERR_USAGE for a step
 * larger than the limits. On an error the KV of the step's tokens is undefined, everything before them is intact. */
int gpu_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                      struct gpu_result *out_result, struct base_error *err);

/* Whether the device draws such tokens itself. */
bool gpu_model_samples(const struct gpu_model *model, const struct model_sampling *sampling);

/* ---- choices: what a device finds out by warming up (GEMM algorithms, code compiled for it), carried by a snapshot ---- */

/* Chooses what is not chosen yet; the model is LOADED, its KV is overwritten. A cpu has nothing to choose. */
int gpu_model_warm_up(struct gpu_model *model, struct base_error *err);
/* Appends the choices, bytes that only the same arch and driver can use; nothing on a cpu. */
int gpu_model_choices_export(struct gpu_model *model, struct base_buffer *out, struct base_error *err);
/* Before the first forward; afterwards gpu_model_warm_up has nothing to do. ERR_CORRUPT: not what export wrote. */
int gpu_model_choices_import(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err);

/* ---- filling memory that is not addressable from here: a ring of buffers, each on its way while others are read into ---- */

struct gpu_upload;

/* Whether models of this device are filled so; else gpu_model_host is where they lie. */
bool gpu_device_uploads(const struct gpu_device *device);

/* n_slots buffers of slot_bytes (a multiple of 4096) each, page-aligned, pinned when the device is ready for it. Needs no
 * ready device: gpu_upload_take works at once, so that reading starts while the device is still being opened. */
int gpu_upload_open(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes, struct gpu_upload **out_upload,
                    struct base_error *err);
/* A free buffer: waits for one. Any thread. */
int gpu_upload_take(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err);
/* The first n_bytes of the buffer to [offset, offset + n_bytes) of model's weight range, asynchronously; the buffer is free
 * again when they are there. n_bytes 0 gives it back unused, and model may be NULL then. Any thread. */
int gpu_upload_put(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset, uint64_t n_bytes,
                   struct base_error *err);
/* Waits until all that was put is in place. Taken buffers must have been put. */
int gpu_upload_sync(struct gpu_upload *upload, struct base_error *err);
void gpu_upload_close(struct gpu_upload *upload);

/* ---- filling it from storage, past this process's memory ---- */

struct gpu_direct;

/* For reading the file fd (opened with O_DIRECT, borrowed) into the device's models. ERR_NOTFOUND: nothing of the kind is
 * installed; any other code says why not here. Then there is the ring. After choices were imported, where there are any. */
int gpu_direct_open(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err);
/* [file_offset, + n_bytes) of the file to [offset, + n_bytes) of model's weight range, at once, and the XXH3-64 of what lies there
 * then, computed by the device: it is the caller's to compare. At most 4 MiB, multiples of 4096. Any thread. */
int gpu_direct_read(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                    uint64_t file_offset, uint64_t *out_hash, struct base_error *err);
void gpu_direct_close(struct gpu_direct *direct);

/* While set, gpu_model_forward calls wait before it uses the weights in [0, end): 0 once they are in place or put. So the
 * first layers compute while the last ones arrive. wait = NULL takes it away. */
void gpu_model_gate(struct gpu_model *model, int (*wait)(void *context, uint64_t end, struct base_error *err),
                    void *context);

/* ---- device memory of an idle worker ---- */

/* ERR_USAGE where there is nothing to give back (cpu). The caller has no step under way; all KV is lost. */
int gpu_model_sleep(struct gpu_model *model, struct base_error *err);
int gpu_model_wake(struct gpu_model *model, struct base_error *err);

/* Bytes of arena that gpu_model_new would reserve, without reserving: for sizing and for messages. */
int gpu_plan_bytes(struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                   const struct gpu_limits *limits, uint64_t *out_weights_bytes, uint64_t *out_arena_bytes,
                   struct base_error *err);

#endif
