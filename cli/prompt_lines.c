#include "cli/prompt_lines.h"

#include <inttypes.h>
#include <jansson.h>
#include <msgpack.h>
#include <stdio.h>
#include <string.h>

static void pack_string(msgpack_packer *to, const char *text, size_t n)
{
    msgpack_pack_str(to, n);
    msgpack_pack_str_body(to, text, n);
}

/* Recursion is bounded: jansson refuses more than 2048 levels, and the decoder then refuses more than 8. */
static void pack_json(msgpack_packer *to, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        msgpack_pack_map(to, json_object_size(value));
        const char *key;
        json_t *member;
        json_object_foreach((json_t *)(uintptr_t)value, key, member)
        {
            pack_string(to, key, strlen(key));
            pack_json(to, member);
        }
        break;
    }
    case JSON_ARRAY: {
        msgpack_pack_array(to, json_array_size(value));
        for (size_t i = 0; i < json_array_size(value); i++)
            pack_json(to, json_array_get(value, i));
        break;
    }
    case JSON_STRING:
        pack_string(to, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        msgpack_pack_int64(to, json_integer_value(value));
        break;
    case JSON_REAL:
        msgpack_pack_double(to, json_real_value(value));
        break;
    case JSON_TRUE:
        msgpack_pack_true(to);
        break;
    case JSON_FALSE:
        msgpack_pack_false(to);
        break;
    case JSON_NULL:
        msgpack_pack_nil(to);
        break;
    }
}

static json_t *line_to_json(const char *line, size_t n, const char *path, uint64_t number, enum cli_line_kind kind,
                            struct base_error *err)
{
    json_t *prompt;
    if (kind == CLI_LINE_ANY && line[0] == '{') {
        json_error_t fault;
        prompt = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &fault);
        if (!prompt) {
            base_fail(err, ERR_INPUT, "%s:%" PRIu64 ": not JSON: %s at column %d", path, number, fault.text,
                      fault.column);
            return NULL;
        }
    } else {
        prompt = json_object();
        json_t *text = json_stringn(line, n);
        if (!prompt || !text || json_object_set_new(prompt, "text", text) < 0) {
            base_fail(err, ERR_INPUT, "%s:%" PRIu64 ": not valid UTF-8", path, number);
            json_decref(prompt);
            return NULL;
        }
    }
    if (!json_object_get(prompt, "id")) {
        char id[24];
        snprintf(id, sizeof id, "%" PRIu64, number);
        json_object_set_new(prompt, "id", json_string(id));
    }
    return prompt;
}

static void merge_defaults(struct schema_sampling *to, const struct schema_sampling *from)
{
    uint32_t missing = from->has & ~to->has;
#define MERGE(bit, field)                                                                                              \
    if (missing & (bit))                                                                                               \
    to->field = from->field
    MERGE(SCHEMA_HAS_MAX_TOKENS, max_tokens);
    MERGE(SCHEMA_HAS_TEMPERATURE, temperature);
    MERGE(SCHEMA_HAS_TOP_K, top_k);
    MERGE(SCHEMA_HAS_TOP_P, top_p);
    MERGE(SCHEMA_HAS_MIN_P, min_p);
    MERGE(SCHEMA_HAS_REPETITION_PENALTY, repetition_penalty);
    MERGE(SCHEMA_HAS_STOP, stop);
    MERGE(SCHEMA_HAS_STOP, n_stop);
    MERGE(SCHEMA_HAS_SEED, seed);
    MERGE(SCHEMA_HAS_LOGPROBS, logprobs);
    MERGE(SCHEMA_HAS_PRIORITY, priority);
    MERGE(SCHEMA_HAS_IGNORE_EOS, ignore_eos);
#undef MERGE
    to->has |= missing;
}

int cli_prompt_parse(const char *line, size_t n, const char *path, uint64_t number, enum cli_line_kind kind,
                     const struct schema_sampling *defaults, struct schema_prompt_batch **out_batch,
                     struct base_error *err)
{
    json_t *prompt = line_to_json(line, n, path, number, kind, err);
    if (!prompt)
        return ERR_INPUT;
    msgpack_sbuffer bytes;
    msgpack_packer to;
    msgpack_sbuffer_init(&bytes);
    msgpack_packer_init(&to, &bytes, msgpack_sbuffer_write);
    msgpack_pack_map(&to, 3);
    pack_string(&to, "v", 1);
    msgpack_pack_int(&to, 1);
    pack_string(&to, "batch_id", 8);
    pack_string(&to, "line", 4);
    pack_string(&to, "prompts", 7);
    msgpack_pack_array(&to, 1);
    pack_json(&to, prompt);
    json_decref(prompt);

    struct schema_prompt_batch *batch = NULL;
    int rc = schema_prompt_batch_decode(bytes.data, bytes.size, NULL, &batch, NULL, err);
    msgpack_sbuffer_destroy(&bytes);
    if (rc == 0 && batch->prompts[0].error != SCHEMA_OK)
        rc = base_fail(err, ERR_INPUT, "%s", batch->prompts[0].error_text);
    if (rc < 0) {
        schema_prompt_batch_free(batch);
        return base_fail_in(err, "%s:%" PRIu64, path, number);
    }
    merge_defaults(&batch->prompts[0].sampling, defaults);
    *out_batch = batch;
    return 0;
}
