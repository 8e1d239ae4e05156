#include "snapshot/tests/big_model.h"

#include <stdio.h>

#include "base/file.h"

enum { HIDDEN = 640, LAYERS = 4, VOCAB = 2048 };

/* A tensor's line of the header, its values into data: small numbers of either sign. */
static void tensor(struct base_buffer *header, struct base_buffer *data, const char *name, uint32_t rows, uint32_t cols)
{
    static uint32_t random = 1;
    size_t begin = data->n;
    for (uint64_t i = 0; i < (uint64_t)rows * cols; i++) {
        random = random * 1664525 + 1013904223;
        /* f16 of 2^-7 to 2^-5 */
        base_buffer_u16(data, (uint16_t)((random >> 16 & 0x83ff) | (8 + (random >> 10) % 2) << 10));
    }
    base_buffer_printf(header, "%s\"%s\":{\"dtype\":\"F16\",\"shape\":[%u", header->n > 1 ? "," : "", name, rows);
    if (cols > 1)
        base_buffer_printf(header, ",%u", cols);
    base_buffer_printf(header, "],\"data_offsets\":[%zu,%zu]}", begin, data->n);
}

static void layer(struct base_buffer *header, struct base_buffer *data, int l)
{
    static const struct {
        const char *name;
        uint32_t rows, cols;
    } parts[] = {{"input_layernorm", HIDDEN, 1},
                 {"post_attention_layernorm", HIDDEN, 1},
                 {"attention.query_key_value", 3 * HIDDEN, HIDDEN},
                 {"attention.dense", HIDDEN, HIDDEN},
                 {"mlp.dense_h_to_4h", 4 * HIDDEN, HIDDEN},
                 {"mlp.dense_4h_to_h", HIDDEN, 4 * HIDDEN}};
    char name[96];
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(name, sizeof(name), "gpt_neox.layers.%d.%s.weight", l, parts[i].name);
        tensor(header, data, name, parts[i].rows, parts[i].cols);
        snprintf(name, sizeof(name), "gpt_neox.layers.%d.%s.bias", l, parts[i].name);
        tensor(header, data, name, parts[i].rows, 1);
    }
}

void big_model_make(const struct fixture *f)
{
    char path[PATH_MAX + 32];
    struct base_buffer header, data, file;
    base_buffer_init(&header, 1 << 20);
    base_buffer_init(&data, 128 << 20);
    base_buffer_init(&file, 128 << 20);
    base_buffer_string(&header, "{");
    tensor(&header, &data, "gpt_neox.embed_in.weight", VOCAB, HIDDEN);
    for (int l = 0; l < LAYERS; l++)
        layer(&header, &data, l);
    tensor(&header, &data, "gpt_neox.final_layer_norm.weight", HIDDEN, 1);
    tensor(&header, &data, "gpt_neox.final_layer_norm.bias", HIDDEN, 1);
    base_buffer_string(&header, "}");
    base_buffer_u64(&file, header.n);
    base_buffer_append(&file, header.data, header.n);
    base_buffer_append(&file, data.data, data.n);
    assert_int_equal(file.failed, 0);
    snprintf(path, sizeof(path), "%s/model.safetensors", f->model);
    assert_int_equal(base_file_publish(path, file.data, file.n, NULL), 0);
    fixture_shell("cd '%s' && sed -i 's/\"hidden_size\": 160/\"hidden_size\": %d/; s/\"intermediate_size\": 640/"
                  "\"intermediate_size\": %d/; s/\"num_attention_heads\": 5/\"num_attention_heads\": 10/; "
                  "s/\"num_hidden_layers\": 5/\"num_hidden_layers\": %d/' config.json",
                  f->model, HIDDEN, 4 * HIDDEN, LAYERS);
    base_buffer_done(&header);
    base_buffer_done(&data);
    base_buffer_done(&file);
}
