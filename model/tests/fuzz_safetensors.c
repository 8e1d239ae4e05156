/* Fuzz entry: a whole .safetensors file; then the same bytes as an index. What is accepted must keep its promises. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "model/safetensors.h"
#include "model/shard_index.h"
#include "tests/fuzz.h"

static void check_header(const struct safetensors_header *h, uint64_t data_bytes)
{
    uint64_t at = 0;
    for (size_t i = 0; i < h->n; i++) {
        const struct safetensors_entry *e = &h->entries[i];
        FUZZ_CHECK(e->begin == at && e->end >= e->begin);
        uint64_t n = e->end - e->begin;
        at = e->end;
        if (!e->readable)
            continue;
        uint64_t need = model_dtype_bytes(e->number);
        for (uint32_t d = 0; d < e->n_dims; d++)
            need *= e->shape[d];
        FUZZ_CHECK(need == n);
    }
    FUZZ_CHECK(at == data_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct base_error err = {0};
    struct base_bytes in = base_bytes_of(data, n);
    uint64_t header_bytes = base_bytes_u64(&in);
    struct safetensors_header header;
    if (!in.failed && model_safetensors_check_length(header_bytes, n, "fuzz", &err) == 0 &&
        model_safetensors_parse((const char *)data + 8, header_bytes, n, "fuzz", &header, &err) == 0) {
        check_header(&header, n - 8 - header_bytes);
        model_safetensors_done(&header);
    }
    struct shard_index index;
    if (model_shard_index_parse((const char *)data, n, "fuzz", &index, &err) == 0) {
        for (size_t i = 0; i < index.n_entries; i++) {
            FUZZ_CHECK(index.entries[i].file < index.n_files);
            FUZZ_CHECK(!strchr(index.files[index.entries[i].file], '/'));
        }
        model_shard_index_done(&index);
    }
    return 0;
}
