#include "model/shard_index.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/json_load.h"
#include "model/safetensors.h"

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

void model_shard_index_done(struct shard_index *x)
{
    for (uint32_t i = 0; i < x->n_files; i++)
        free(x->files[i]);
    for (size_t i = 0; i < x->n_entries; i++)
        free(x->entries[i].tensor);
    free(x->files);
    free(x->entries);
    *x = (struct shard_index){0};
}

/* The index must not lead out of its directory. */
static bool name_is_plain(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= NAME_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 && !strstr(name, "..");
}

/* Where name is, or belongs, among the sorted files. */
static uint32_t file_position(const struct shard_index *x, const char *name)
{
    uint32_t low = 0, high = x->n_files;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (strcmp(x->files[middle], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool file_is_at(const struct shard_index *x, uint32_t at, const char *name)
{
    return at < x->n_files && strcmp(x->files[at], name) == 0;
}

static int file_add(struct shard_index *x, const char *name, const char *path, struct base_error *err)
{
    uint32_t at = file_position(x, name);
    if (file_is_at(x, at, name))
        return 0;
    if (x->n_files == MODEL_SHARDS_MAX)
        return base_fail(err, ERR_INPUT, "%s: more than %d files", path, MODEL_SHARDS_MAX);
    char *copy = strdup(name);
    if (!copy)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    memmove(x->files + at + 1, x->files + at, (x->n_files - at) * sizeof *x->files);
    x->files[at] = copy;
    x->n_files++;
    return 0;
}

static int index_collect_files(struct shard_index *x, json_t *map, const char *path, struct base_error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        const char *name = json_string_value(value);
        char text[64];
        if (!name || !name_is_plain(name))
            return base_fail(err, ERR_INPUT, "%s: weight_map: tensor %s: %s is not a file name in this directory", path,
                             tensor, model_json_text(value, text, sizeof text));
        int rc = file_add(x, name, path, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* After the files are all known, so that their numbers stay. */
static int index_collect_entries(struct shard_index *x, json_t *map, const char *path, struct base_error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value)
    {
        struct shard_entry *e = &x->entries[x->n_entries];
        e->tensor = strdup(tensor);
        if (!e->tensor)
            return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
        e->file = file_position(x, json_string_value(value));
        x->n_entries++;
    }
    return 0;
}

static int index_from_json(json_t *object, const char *path, struct shard_index *x, struct base_error *err)
{
    json_t *map = json_object_get(object, "weight_map");
    if (!json_is_object(map))
        return base_fail(err, ERR_INPUT, "%s: weight_map is not an object", path);
    if (json_object_size(map) == 0)
        return base_fail(err, ERR_INPUT, "%s: weight_map is empty", path);
    x->files = calloc(MODEL_SHARDS_MAX, sizeof *x->files);
    x->entries = calloc(json_object_size(map), sizeof *x->entries);
    if (!x->files || !x->entries)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    int rc = index_collect_files(x, map, path, err);
    return rc < 0 ? rc : index_collect_entries(x, map, path, err);
}

int model_shard_index_parse(const char *json, size_t n, const char *path, struct shard_index *out_index,
                            struct base_error *err)
{
    json_t *object = NULL;
    struct shard_index x = {0};
    int rc = model_json_load(json, n, MODEL_JSON_HEADER_VALUES_MAX, path, &object, err);
    if (rc == 0)
        rc = index_from_json(object, path, &x, err);
    json_decref(object);
    if (rc < 0)
        model_shard_index_done(&x);
    else
        *out_index = x;
    return rc;
}

static int index_of_single(struct shard_index *out_index, struct base_error *err)
{
    struct shard_index x = {.files = calloc(1, sizeof *x.files)};
    if (x.files)
        x.files[0] = strdup(single_name);
    if (!x.files || !x.files[0]) {
        free(x.files);
        return base_fail(err, ERR_NOMEM, "%s: out of memory", single_name);
    }
    x.n_files = 1;
    *out_index = x;
    return 0;
}

int model_shard_index_read(const char *dir, struct shard_index *out_index, struct base_error *err)
{
    char single[PATH_MAX], path[PATH_MAX];
    int rc = base_file_join(single, sizeof single, dir, single_name, err);
    if (rc == 0)
        rc = base_file_join(path, sizeof path, dir, index_name, err);
    if (rc < 0)
        return rc;
    if (base_file_exists(single)) /* as transformers: the single file goes first */
        return index_of_single(out_index, err);
    if (!base_file_exists(path))
        return base_fail(err, ERR_NOTFOUND, "%s: no model directory: neither %s nor %s is there", dir, single_name,
                         index_name);
    struct base_buffer text;
    base_buffer_init(&text, MODEL_JSON_HEADER_BYTES_MAX);
    rc = base_file_read(path, MODEL_JSON_HEADER_BYTES_MAX, &text, err);
    if (rc == 0)
        rc = model_shard_index_parse(base_buffer_cstr(&text), text.n, path, out_index, err);
    base_buffer_done(&text);
    return rc;
}
