/* shard_index - which weight files a model directory has: model.safetensors, else what model.safetensors.index.json
 * names. Reads no weights. */
#ifndef ROUSE_MODEL_SHARD_INDEX_H
#define ROUSE_MODEL_SHARD_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define MODEL_SHARDS_MAX 512 /* each is one open file */

struct shard_entry {
    char *tensor; /* owned */
    uint32_t file;
};

struct shard_index {
    char **files; /* [n_files], sorted; plain names within the directory, owned */
    uint32_t n_files;
    struct shard_entry *entries; /* [n_entries] of the index; none for a single file */
    size_t n_entries;
};

/* ERR_NOTFOUND: dir has neither file. ERR_INPUT. */
int model_shard_index_read(const char *dir, struct shard_index *out_index, struct base_error *err);
int model_shard_index_parse(const char *json, size_t n, const char *path, struct shard_index *out_index,
                            struct base_error *err);
void model_shard_index_done(struct shard_index *index);

#endif
