#include "bench/cuda/bench_weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/cpu/cpu_kernels.h"

int bench_shape_find(const char *name, struct model_config *out_config, struct base_error *err)
{
    static const struct {
        const char *name;
        uint32_t hidden, n_layers, n_heads, vocab;
    } shapes[] = {
        {"tiny", 128, 2, 2, 512},      {"14m", 128, 6, 4, 50304},     {"31m", 256, 6, 8, 50304},
        {"70m", 512, 6, 8, 50304},     {"160m", 768, 12, 12, 50304},  {"410m", 1024, 24, 16, 50304},
        {"1b", 2048, 16, 8, 50304},    {"1.4b", 2048, 24, 16, 50304}, {"2.8b", 2560, 32, 32, 50304},
        {"6.9b", 4096, 32, 32, 50432}, {"12b", 5120, 36, 40, 50688},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(name, shapes[i].name) == 0) {
            const uint32_t head_dim = shapes[i].hidden / shapes[i].n_heads;
            *out_config = (struct model_config){.n_layers = shapes[i].n_layers,
                                                .hidden = shapes[i].hidden,
                                                .n_heads = shapes[i].n_heads,
                                                .head_dim = head_dim,
                                                .rotary_dims = head_dim / 4,
                                                .intermediate = shapes[i].hidden * 4,
                                                .vocab = shapes[i].vocab,
                                                .n_positions = 2048,
                                                .rotary_base = 10000,
                                                .norm_eps = 1e-5f,
                                                .parallel_residual = true,
                                                .attention_bias = true};
            return 0;
        }
    return base_fail(err, ERR_USAGE, "no Pythia shape '%.32s'", name);
}

/* ---- weights ---- */

enum { PATTERN = 1 << 20, SLOTS = 8, SLOT_BYTES = 8 << 20 };

struct filler {
    struct gpu_upload *upload;
    struct gpu_model *model;
    float *uniform; /* [PATTERN] in (-1, 1) */
    float *scaled;  /* [PATTERN] */
    uint8_t *bytes; /* scaled, in the tensor's type; repeated until the tensor is full */
};

static float next_uniform(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((double)(int64_t)(z ^ (z >> 31)) / 9223372036854775808.0);
}

static int filler_init(struct filler *f, struct gpu_device *device, struct gpu_model *model, struct base_error *err)
{
    uint64_t state = 1;
    *f = (struct filler){.model = model,
                         .uniform = malloc(PATTERN * sizeof(float)),
                         .scaled = malloc(PATTERN * sizeof(float)),
                         .bytes = malloc(PATTERN * sizeof(float))};
    if (!f->uniform || !f->scaled || !f->bytes)
        return base_fail(err, ERR_NOMEM, "no memory for random weights");
    for (uint32_t i = 0; i < PATTERN; i++)
        f->uniform[i] = next_uniform(&state);
    return gpu_upload_open(device, SLOTS, SLOT_BYTES, &f->upload, err);
}

static void filler_done(struct filler *f)
{
    gpu_upload_close(f->upload);
    free(f->uniform);
    free(f->scaled);
    free(f->bytes);
}

/* The pattern, over and over, into [offset, offset + n) of the model. */
static int put_pattern(struct filler *f, uint64_t offset, uint64_t n, size_t pattern_bytes, struct base_error *err)
{
    while (n > 0) {
        uint32_t slot;
        uint8_t *buffer;
        const size_t piece = n < SLOT_BYTES ? (size_t)n : SLOT_BYTES;
        int rc = gpu_upload_take(f->upload, &slot, &buffer, err);
        if (rc < 0)
            return rc;
        for (size_t at = 0; at < piece; at += pattern_bytes)
            memcpy(buffer + at, f->bytes, piece - at < pattern_bytes ? piece - at : pattern_bytes);
        rc = gpu_upload_put(f->upload, slot, f->model, offset, piece, err);
        if (rc < 0)
            return rc;
        offset += piece;
        n -= piece;
    }
    return 0;
}

static int fill_tensor(struct filler *f, const struct gpu_tensor *t, bool embedding, struct base_error *err)
{
    const bool gain = strstr(t->name, "norm.weight") != NULL;
    const float scale = t->rows == 1 || embedding ? 0.5f : 3.0f / sqrtf((float)t->cols);
    const uint64_t n = (uint64_t)t->rows * t->cols;
    if (t->dtype == MODEL_Q8) {
        for (uint32_t i = 0; i < PATTERN; i++)
            f->bytes[i] = (uint8_t)(int8_t)lrintf(127 * f->uniform[i]);
        int rc = put_pattern(f, t->offset, n, PATTERN, err);
        if (rc < 0)
            return rc;
        for (uint32_t i = 0; i < PATTERN; i++)
            f->scaled[i] = scale / 127;
        cpu_kernels_plain.narrow(MODEL_F32, f->scaled, PATTERN, f->bytes);
        return put_pattern(f, t->offset + gpu_tensor_scales(t), t->rows * sizeof(float), PATTERN * sizeof(float), err);
    }
    for (uint32_t i = 0; i < PATTERN; i++)
        f->scaled[i] = (gain ? 1 : 0) + scale * f->uniform[i];
    cpu_kernels_plain.narrow(t->dtype, f->scaled, PATTERN, f->bytes);
    const size_t element_bytes = model_dtype_bytes(t->dtype);
    return put_pattern(f, t->offset, n * element_bytes, PATTERN * element_bytes, err);
}

int bench_weights_fill(struct gpu_device *device, struct gpu_model *model, struct base_error *err)
{
    const struct gpu_plan *plan = gpu_model_plan(model);
    struct filler f;
    int rc = filler_init(&f, device, model, err);
    for (uint32_t i = 0; rc == 0 && i < plan->n_tensors; i++)
        rc = fill_tensor(&f, &plan->tensors[i], i == 0, err);
    if (rc == 0)
        rc = gpu_upload_sync(f.upload, err);
    filler_done(&f);
    return rc;
}
