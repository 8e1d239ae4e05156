#include "model/weights.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "model/float16.h"
#include "model/safetensors.h"
#include "model/shard_index.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data is used as it lies in the file");

struct weights_file {
    char *path;
    int fd; /* -1 until open */
    uint64_t bytes, data_at;
};

struct weights_tensor {
    struct model_tensor t;
    char *name;        /* owned; t.name lends it */
    const char *key;   /* what it is found by: without prefix, one name for the output matrix */
    const char *dtype; /* as the file says */
    bool readable;
};

struct model_weights {
    char *dir;
    struct weights_file *files;     /* [n_files] */
    struct weights_tensor *tensors; /* [n_tensors], sorted by key */
    uint32_t n_files;
    size_t n_tensors;
};

/* "gpt_neox.layers.0.x" -> "layers.0.x"; "lm_head.weight" -> "embed_out.weight" */
static const char *tensor_key(const char *name)
{
    static const char prefix[] = "gpt_neox.";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        name += sizeof prefix - 1;
    return strcmp(name, "lm_head.weight") == 0 ? "embed_out.weight" : name;
}

static int tensor_compare(const void *a, const void *b)
{
    const struct weights_tensor *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : strcmp(x->name, y->name);
}

static const struct weights_tensor *weights_lookup(const struct model_weights *w, const char *name)
{
    const char *key = tensor_key(name);
    size_t low = 0, high = w->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(w->tensors[middle].key, key);
        if (order == 0)
            return &w->tensors[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* O_NONBLOCK: a pipe in the place of a file is an error, not a wait. */
static int file_open(struct weights_file *f, struct base_error *err)
{
    struct stat st;
    f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 && errno == ENOENT)
        return base_fail(err, ERR_NOTFOUND, "open %s: no such file", f->path);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return base_fail_errno(err, "open %s", f->path);
    if (!S_ISREG(st.st_mode))
        return base_fail(err, ERR_INPUT, "open %s: not a regular file", f->path);
    f->bytes = (uint64_t)st.st_size;
    return 0;
}

static int file_read_header(struct weights_file *f, struct safetensors_header *out_header, struct base_error *err)
{
    uint8_t field[8];
    if (f->bytes < sizeof field)
        return base_fail(err, ERR_INPUT, "%s: truncated: a safetensors file has 8 bytes at least, this one %" PRIu64,
                         f->path, f->bytes);
    int rc = base_file_pread(f->fd, field, sizeof field, 0, f->path, err);
    if (rc < 0)
        return rc;
    struct base_bytes in = base_bytes_of(field, sizeof field);
    uint64_t n = base_bytes_u64(&in);
    rc = model_safetensors_check_length(n, f->bytes, f->path, err);
    if (rc < 0)
        return rc;
    char *json = malloc(n + 1);
    if (!json)
        return base_fail(err, ERR_NOMEM, "%s: no memory for a header of %" PRIu64 " bytes", f->path, n);
    rc = base_file_pread(f->fd, json, n, sizeof field, f->path, err);
    if (rc == 0)
        rc = model_safetensors_parse(json, n, f->bytes, f->path, out_header, err);
    free(json);
    f->data_at = sizeof field + n;
    return rc;
}

/* Takes the names over. */
static int weights_add(struct model_weights *w, uint32_t file, struct safetensors_header *h, struct base_error *err)
{
    struct weights_tensor *grown = realloc(w->tensors, (w->n_tensors + h->n + 1) * sizeof *grown);
    if (!grown)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", w->files[file].path);
    w->tensors = grown;
    for (size_t i = 0; i < h->n; i++) {
        struct safetensors_entry *e = &h->entries[i];
        struct weights_tensor *t = &w->tensors[w->n_tensors++];
        *t = (struct weights_tensor){.name = e->name, .key = tensor_key(e->name), .dtype = e->dtype};
        t->readable = e->readable;
        t->t = (struct model_tensor){.name = e->name,
                                     .dtype = e->number,
                                     .n_dims = e->n_dims,
                                     .file = file,
                                     .offset = w->files[file].data_at + e->begin,
                                     .bytes = e->end - e->begin};
        memcpy(t->t.shape, e->shape, sizeof t->t.shape);
        e->name = NULL;
    }
    return 0;
}

static int weights_check_names(const struct model_weights *w, struct base_error *err)
{
    for (size_t i = 1; i < w->n_tensors; i++) {
        const struct weights_tensor *a = &w->tensors[i - 1], *b = &w->tensors[i];
        if (strcmp(a->key, b->key) != 0)
            continue;
        return base_fail(err, ERR_INPUT, "tensor %s in %s and tensor %s in %s are the same one", a->name,
                         w->files[a->t.file].path, b->name, w->files[b->t.file].path);
    }
    return 0;
}

/* What the index promises is there. */
static int weights_check_index(const struct model_weights *w, const struct shard_index *x, struct base_error *err)
{
    for (size_t i = 0; i < x->n_entries; i++) {
        const struct weights_tensor *t = weights_lookup(w, x->entries[i].tensor);
        if (!t || strcmp(t->name, x->entries[i].tensor) != 0 || t->t.file != x->entries[i].file)
            return base_fail(err, ERR_INPUT, "%s: tensor %s is not there, though the index says so",
                             w->files[x->entries[i].file].path, x->entries[i].tensor);
    }
    return 0;
}

static int weights_open_file(struct model_weights *w, uint32_t file, const char *name, struct base_error *err)
{
    struct weights_file *f = &w->files[file];
    char path[PATH_MAX];
    int rc = base_file_join(path, sizeof path, w->dir, name, err);
    if (rc < 0)
        return rc;
    f->path = strdup(path);
    if (!f->path)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    rc = file_open(f, err);
    if (rc < 0)
        return rc;
    struct safetensors_header header = {0};
    rc = file_read_header(f, &header, err);
    if (rc == 0)
        rc = weights_add(w, file, &header, err);
    model_safetensors_done(&header);
    return rc;
}

static int weights_new(const char *dir, uint32_t n_files, struct model_weights **out_weights, struct base_error *err)
{
    struct model_weights *w = calloc(1, sizeof *w);
    if (w) {
        w->dir = strdup(dir);
        w->files = calloc(n_files, sizeof *w->files);
    }
    if (!w || !w->dir || !w->files) {
        model_weights_close(w);
        return base_fail(err, ERR_NOMEM, "%s: out of memory", dir);
    }
    w->n_files = n_files;
    for (uint32_t i = 0; i < n_files; i++)
        w->files[i].fd = -1;
    *out_weights = w;
    return 0;
}

int model_weights_open(const char *dir, struct model_weights **out_weights, struct base_error *err)
{
    struct model_weights *w = NULL;
    struct shard_index index;
    int rc = model_shard_index_read(dir, &index, err);
    if (rc < 0)
        return rc;
    rc = weights_new(dir, index.n_files, &w, err);
    for (uint32_t i = 0; rc == 0 && i < index.n_files; i++)
        rc = weights_open_file(w, i, index.files[i], err);
    if (rc == 0 && w->n_tensors > 0)
        qsort(w->tensors, w->n_tensors, sizeof *w->tensors, tensor_compare);
    if (rc == 0)
        rc = weights_check_names(w, err);
    if (rc == 0)
        rc = weights_check_index(w, &index, err);
    model_shard_index_done(&index);
    if (rc < 0)
        model_weights_close(w);
    else
        *out_weights = w;
    return rc;
}

void model_weights_close(struct model_weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_tensors; i++)
        free(w->tensors[i].name);
    for (uint32_t i = 0; i < w->n_files; i++) {
        if (w->files[i].fd >= 0)
            close(w->files[i].fd);
        free(w->files[i].path);
    }
    free(w->tensors);
    free(w->files);
    free(w->dir);
    free(w);
}

const struct model_tensor *model_weights_find(const struct model_weights *w, const char *name)
{
    const struct weights_tensor *t = weights_lookup(w, name);
    return t && t->readable ? &t->t : NULL;
}

/* "[512, 2048]" */
static const char *shape_text(char *out, size_t size, uint32_t n_dims, const uint64_t *shape)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_dims && i < MODEL_SAFETENSORS_DIMS_MAX && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%" PRIu64, i ? ", " : "[", shape[i]);
    if (n < size)
        snprintf(out + n, size - n, "%s", n_dims == 0 ? "[]" : n_dims > MODEL_SAFETENSORS_DIMS_MAX ? ", ...]" : "]");
    return out;
}

/* The tensor is there as [rows][columns], or as [rows] when columns is 0. */
static int weights_need(const struct model_weights *w, const char *name, uint64_t rows, uint64_t columns,
                        struct base_error *err)
{
    const struct weights_tensor *t = weights_lookup(w, name);
    if (!t)
        return base_fail(err, ERR_INPUT, "%s: tensor %s is missing", w->dir, name);
    const char *path = w->files[t->t.file].path;
    const uint64_t shape[2] = {rows, columns};
    uint32_t n_dims = columns ? 2 : 1;
    char has[96], needs[64];
    if (t->t.n_dims != n_dims || memcmp(t->t.shape, shape, n_dims * sizeof *shape) != 0)
        return base_fail(err, ERR_INPUT, "%s: tensor %s has shape %s; config.json asks for %s", path, t->name,
                         shape_text(has, sizeof has, t->t.n_dims, t->t.shape),
                         shape_text(needs, sizeof needs, n_dims, shape));
    if (!t->readable)
        return base_fail(err, ERR_INPUT, "%s: tensor %s has dtype %s; it must be F32, F16 or BF16", path, t->name,
                         t->dtype);
    return 0;
}

static int weights_check_layer(const struct model_weights *w, const struct model_config *c, uint32_t layer,
                               struct base_error *err)
{
    const uint64_t E = c->hidden, F = c->intermediate;
    const struct {
        const char *name;
        uint64_t rows, columns;
        bool needed;
    } tensors[] = {
        {"input_layernorm.weight", E, 0, true},
        {"input_layernorm.bias", E, 0, true},
        {"post_attention_layernorm.weight", E, 0, true},
        {"post_attention_layernorm.bias", E, 0, true},
        {"attention.query_key_value.weight", 3 * E, E, true},
        {"attention.query_key_value.bias", 3 * E, 0, c->attention_bias},
        {"attention.dense.weight", E, E, true},
        {"attention.dense.bias", E, 0, c->attention_bias},
        {"mlp.dense_h_to_4h.weight", F, E, true},
        {"mlp.dense_h_to_4h.bias", F, 0, true},
        {"mlp.dense_4h_to_h.weight", E, F, true},
        {"mlp.dense_4h_to_h.bias", E, 0, true},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        char name[80];
        snprintf(name, sizeof name, "layers.%" PRIu32 ".%s", layer, tensors[i].name);
        int rc = tensors[i].needed ? weights_need(w, name, tensors[i].rows, tensors[i].columns, err) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

int model_weights_check(const struct model_weights *w, const struct model_config *c, struct base_error *err)
{
    const uint64_t E = c->hidden, V = c->vocab;
    int rc = weights_need(w, "embed_in.weight", V, E, err);
    for (uint32_t layer = 0; rc == 0 && layer < c->n_layers; layer++)
        rc = weights_check_layer(w, c, layer, err);
    if (rc == 0)
        rc = weights_need(w, "final_layer_norm.weight", E, 0, err);
    if (rc == 0)
        rc = weights_need(w, "final_layer_norm.bias", E, 0, err);
    if (rc < 0 || c->tied) /* tied: an output matrix in the file is a copy, and not used */
        return rc;
    if (!weights_lookup(w, "embed_out.weight"))
        return base_fail(err, ERR_INPUT,
                         "%s: tensor embed_out.weight (or lm_head.weight) is missing, and config.json does not set "
                         "tie_word_embeddings",
                         w->dir);
    return weights_need(w, "embed_out.weight", V, E, err);
}

int model_weights_read_raw(const struct model_weights *w, const struct model_tensor *t, uint64_t first, uint64_t n,
                           void *out, struct base_error *err)
{
    uint64_t element = model_dtype_bytes(t->dtype);
    assert(first <= t->bytes / element && n <= t->bytes / element - first);
    const struct weights_file *f = &w->files[t->file];
    return base_file_pread(f->fd, out, n * element, t->offset + first * element, f->path, err);
}

int model_weights_read_f32(const struct model_weights *w, const struct model_tensor *t, uint64_t first, uint64_t n,
                           float *out, struct base_error *err)
{
    if (t->dtype == MODEL_F32)
        return model_weights_read_raw(w, t, first, n, out, err);
    uint8_t *half = (uint8_t *)out + 2 * n; /* the last half, widened from there to the front */
    int rc = model_weights_read_raw(w, t, first, n, half, err);
    if (rc < 0)
        return rc;
    if (t->dtype == MODEL_F16)
        model_f16_to_f32_many(half, out, n);
    else
        model_bf16_to_f32_many(half, out, n);
    return 0;
}
