/* safetensors - the header of one .safetensors file, checked.
 *
 *   0  u64  H, length of the header        8  H bytes of JSON, "{" first, spaces behind        8 + H  data
 *   {"__metadata__": {text: text}, NAME: {"dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Offsets count from the start of the data, which the tensors cover without holes or overlaps.
 * https://github.com/huggingface/safetensors, "Format". */
#ifndef ROUSE_MODEL_SAFETENSORS_H
#define ROUSE_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/config.h"

#define MODEL_SAFETENSORS_DIMS_MAX   4
#define MODEL_JSON_HEADER_BYTES_MAX  100000000  /* the format's own limit; an index gets the same */
#define MODEL_JSON_HEADER_VALUES_MAX (1u << 20) /* eight or so a tensor */

struct safetensors_entry {
    char *name;              /* owned */
    const char *dtype;       /* as the file says; static */
    enum model_dtype number; /* if readable */
    bool readable;           /* F32, F16 or BF16 of at most 4 dimensions; the others are only checked */
    uint32_t n_dims;
    uint64_t shape[MODEL_SAFETENSORS_DIMS_MAX]; /* outermost first; the first 4 */
    uint64_t begin, end;                        /* bytes of the data */
};

struct safetensors_header {
    struct safetensors_entry *entries; /* [n], in the order of their data */
    size_t n;
};

/* The 8-byte length field of a file of file_bytes: within the limits? */
int model_safetensors_check_length(uint64_t header_bytes, uint64_t file_bytes, const char *path,
                                   struct base_error *err);

/* The JSON, n bytes, of a file of file_bytes. ERR_INPUT names path, tensor and numbers; ERR_NOMEM. */
int model_safetensors_parse(const char *json, size_t n, uint64_t file_bytes, const char *path,
                            struct safetensors_header *out_header, struct base_error *err);
void model_safetensors_done(struct safetensors_header *header);

#endif
