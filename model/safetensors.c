#include "model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_load.h"

enum { LENGTH_FIELD_BYTES = 8 };

static const struct dtype_info {
    const char *name;
    uint32_t bits;
    bool is_number; /* one that we compute with */
    enum model_dtype number;
} dtypes[] = {
    {"F32", 32, true, MODEL_F32}, {"F16", 16, true, MODEL_F16}, {"BF16", 16, true, MODEL_BF16},
    {"BOOL", 8, false, 0},        {"U8", 8, false, 0},          {"I8", 8, false, 0},
    {"I16", 16, false, 0},        {"U16", 16, false, 0},        {"I32", 32, false, 0},
    {"U32", 32, false, 0},        {"I64", 64, false, 0},        {"U64", 64, false, 0},
    {"F64", 64, false, 0},        {"C64", 64, false, 0},        {"F8_E4M3", 8, false, 0},
    {"F8_E5M2", 8, false, 0},     {"F8_E8M0", 8, false, 0},     {"F8_E4M3FNUZ", 8, false, 0},
    {"F8_E5M2FNUZ", 8, false, 0}, {"F6_E2M3", 6, false, 0},     {"F6_E3M2", 6, false, 0},
    {"F4", 4, false, 0},
};

static const struct dtype_info *dtype_find(const char *name)
{
    for (size_t i = 0; name && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    }
    return NULL;
}

int model_safetensors_check_length(uint64_t header_bytes, uint64_t file_bytes, const char *path, struct base_error *err)
{
    if (header_bytes > MODEL_JSON_HEADER_BYTES_MAX)
        return base_fail(err, ERR_INPUT, "%s: header of %" PRIu64 " bytes; the limit is %d: not a safetensors file?",
                         path, header_bytes, MODEL_JSON_HEADER_BYTES_MAX);
    if (file_bytes < LENGTH_FIELD_BYTES + header_bytes)
        return base_fail(err, ERR_INPUT,
                         "%s: truncated: the header ends at byte %" PRIu64 ", the file has %" PRIu64 " bytes", path,
                         LENGTH_FIELD_BYTES + header_bytes, file_bytes);
    return 0;
}

/* An array item as an unsigned number; false when it is none. */
static bool json_u64(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static int entry_dtype(struct safetensors_entry *e, const json_t *object, const char *path, uint32_t *out_bits,
                       struct base_error *err)
{
    const json_t *value = json_object_get(object, "dtype");
    const struct dtype_info *d = dtype_find(json_string_value(value));
    char text[32];
    if (!value)
        return base_fail(err, ERR_INPUT, "%s: tensor %s: dtype is missing", path, e->name);
    if (!d)
        return base_fail(err, ERR_INPUT, "%s: tensor %s: unknown dtype %s", path, e->name,
                         model_json_text(value, text, sizeof text));
    e->dtype = d->name;
    e->number = d->number;
    e->readable = d->is_number;
    *out_bits = d->bits;
    return 0;
}

/* Fills the shape and gives the bits that it takes. */
static int entry_shape(struct safetensors_entry *e, const json_t *object, const char *path, uint64_t *bits,
                       struct base_error *err)
{
    const json_t *shape = json_object_get(object, "shape");
    if (!json_is_array(shape))
        return base_fail(err, ERR_INPUT, "%s: tensor %s: shape is not a list", path, e->name);
    e->n_dims = (uint32_t)json_array_size(shape); /* at most MODEL_JSON_HEADER_VALUES_MAX */
    e->readable = e->readable && e->n_dims <= MODEL_SAFETENSORS_DIMS_MAX;
    for (uint32_t i = 0; i < e->n_dims; i++) {
        const json_t *value = json_array_get(shape, i);
        uint64_t dim;
        char text[32];
        if (!json_u64(value, &dim))
            return base_fail(err, ERR_INPUT, "%s: tensor %s: shape[%" PRIu32 "] is %s, not a size", path, e->name, i,
                             model_json_text(value, text, sizeof text));
        if (__builtin_mul_overflow(*bits, dim, bits))
            return base_fail(err, ERR_INPUT, "%s: tensor %s: a shape of more than 2^61 bytes", path, e->name);
        if (i < MODEL_SAFETENSORS_DIMS_MAX)
            e->shape[i] = dim;
    }
    return 0;
}

static int entry_span(struct safetensors_entry *e, const json_t *object, uint64_t bits, const char *path,
                      struct base_error *err)
{
    const json_t *span = json_object_get(object, "data_offsets");
    if (json_array_size(span) != 2 || !json_u64(json_array_get(span, 0), &e->begin) ||
        !json_u64(json_array_get(span, 1), &e->end))
        return base_fail(err, ERR_INPUT, "%s: tensor %s: data_offsets is not [begin, end]", path, e->name);
    if (e->begin > e->end)
        return base_fail(err, ERR_INPUT, "%s: tensor %s: data_offsets end at %" PRIu64 " before they begin at %" PRIu64,
                         path, e->name, e->end, e->begin);
    if (bits % 8 != 0 || e->end - e->begin != bits / 8)
        return base_fail(err, ERR_INPUT,
                         "%s: tensor %s: data_offsets span %" PRIu64 " bytes, shape and dtype %s need %" PRIu64, path,
                         e->name, e->end - e->begin, e->dtype, bits / 8 + (bits % 8 != 0));
    return 0;
}

static int entry_parse(struct safetensors_entry *e, const char *name, const json_t *object, const char *path,
                       struct base_error *err)
{
    uint32_t dtype_bits = 0;
    e->name = strdup(name);
    if (!e->name)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    if (!json_is_object(object))
        return base_fail(err, ERR_INPUT, "%s: tensor %s is not described by an object", path, name);
    int rc = entry_dtype(e, object, path, &dtype_bits, err);
    uint64_t bits = dtype_bits;
    if (rc == 0)
        rc = entry_shape(e, object, path, &bits, err);
    if (rc == 0)
        rc = entry_span(e, object, bits, path, err);
    return rc;
}

static int entry_compare(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) /* an empty tensor comes before the one that starts where it does */
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The sorted tensors cover the data and the data ends with the file. */
static int header_check_layout(const struct safetensors_header *h, uint64_t data_at, uint64_t file_bytes,
                               const char *path, struct base_error *err)
{
    uint64_t at = 0;
    const char *before = "the header";
    for (size_t i = 0; i < h->n; i++) {
        const struct safetensors_entry *e = &h->entries[i];
        if (e->begin != at)
            return base_fail(err, ERR_INPUT,
                             "%s: %s between %s and tensor %s: one ends at %" PRIu64 ", the other begins at %" PRIu64,
                             path, e->begin > at ? "hole" : "overlap", before, e->name, at, e->begin);
        at = e->end;
        before = e->name;
    }
    uint64_t data_bytes = file_bytes - data_at;
    if (at > data_bytes)
        return base_fail(err, ERR_INPUT,
                         "%s: truncated: tensor %s ends at byte %" PRIu64 ", the file has %" PRIu64 " bytes", path,
                         before, data_at + at, file_bytes);
    if (at < data_bytes)
        return base_fail(err, ERR_INPUT,
                         "%s: over-long: the last byte used, by %s, is %" PRIu64 ", the file has %" PRIu64 " bytes",
                         path, before, data_at + at, file_bytes);
    return 0;
}

static int metadata_check(json_t *metadata, const char *path, struct base_error *err)
{
    if (!json_is_object(metadata))
        return base_fail(err, ERR_INPUT, "%s: __metadata__ is not an object", path);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return base_fail(err, ERR_INPUT, "%s: __metadata__: %s is not a string", path, key);
    }
    return 0;
}

static int header_from_json(json_t *object, const char *path, struct safetensors_header *h, struct base_error *err)
{
    h->entries = calloc(json_object_size(object) + 1, sizeof *h->entries);
    if (!h->entries)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        int rc = strcmp(key, "__metadata__") == 0 ? metadata_check(value, path, err)
                                                  : entry_parse(&h->entries[h->n++], key, value, path, err);
        if (rc < 0)
            return rc;
    }
    qsort(h->entries, h->n, sizeof *h->entries, entry_compare);
    return 0;
}

int model_safetensors_parse(const char *json, size_t n, uint64_t file_bytes, const char *path,
                            struct safetensors_header *out_header, struct base_error *err)
{
    struct safetensors_header h = {0};
    json_t *object = NULL;
    int rc = model_safetensors_check_length(n, file_bytes, path, err);
    if (rc == 0 && (n == 0 || json[0] != '{'))
        rc = base_fail(err, ERR_INPUT, "%s: the header does not begin with '{': not a safetensors file", path);
    if (rc == 0)
        rc = model_json_load(json, n, MODEL_JSON_HEADER_VALUES_MAX, path, &object, err);
    if (rc == 0)
        rc = header_from_json(object, path, &h, err);
    if (rc == 0)
        rc = header_check_layout(&h, LENGTH_FIELD_BYTES + n, file_bytes, path, err);
    json_decref(object);
    if (rc < 0)
        model_safetensors_done(&h);
    else
        *out_header = h;
    return rc;
}

void model_safetensors_done(struct safetensors_header *h)
{
    for (size_t i = 0; i < h->n; i++)
        free(h->entries[i].name);
    free(h->entries);
    *h = (struct safetensors_header){0};
}
