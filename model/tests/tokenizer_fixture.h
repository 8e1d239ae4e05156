/* tokenizer_fixture - a small byte-level tokenizer.json with every kind of added token, for tests and fuzzing. In a header,
 * so that a fuzz entry stays one file. */
#ifndef ROUSE_MODEL_TESTS_TOKENIZER_FIXTURE_H
#define ROUSE_MODEL_TESTS_TOKENIZER_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_writer.h"
#include "base/utf8.h"
#include "model/tokenizer.h"

static const char *const fixture_merges[][2] = {
    {"a", "b"}, {"ab", "c"},  {"b", "c"},           {"a", "bc"}, {"\u0120", "a"}, {"\u0120", "\u0120"},
    {"a", "a"}, {"aa", "aa"}, {"\u00c3", "\u00a9"}, {"t", "h"},  {"th", "e"},     {"\u00cc", "\u0123"},
};
enum { FIXTURE_MERGES = sizeof fixture_merges / sizeof fixture_merges[0] };

/* content, then whether special, normalized, lstrip, rstrip, single_word */
static const struct {
    const char *content, *flags;
} fixture_added_tokens[] = {
    {"<|endoftext|>", "10000"}, {"<l>", "00100"}, {"<r>", "10010"}, {"<w>", "00001"},          {"<lr", "00110"},
    {"   ", "01000"},           {"  ", "01000"},  {"the", "01001"}, {"\u304b\u3099", "01000"},
};

static inline void fixture_vocabulary(struct base_json *j)
{
    uint32_t id = 0, next = 0x100;
    base_json_key(j, "vocab");
    base_json_object_begin(j);
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        char character[5] = {0};
        base_utf8_encode(printable ? byte : next++, (uint8_t *)character);
        base_json_kv_uint(j, character, id++);
    }
    for (int i = 0; i < FIXTURE_MERGES; i++) {
        char token[64];
        snprintf(token, sizeof token, "%s%s", fixture_merges[i][0], fixture_merges[i][1]);
        if (i != 3) /* "abc" comes out of two merges */
            base_json_kv_uint(j, token, id++);
    }
    base_json_object_end(j);
}

static inline void fixture_added(struct base_json *j)
{
    static const char *const keys[] = {"special", "normalized", "lstrip", "rstrip", "single_word"};
    uint32_t next = 256 + FIXTURE_MERGES - 1;
    base_json_key(j, "added_tokens");
    base_json_array_begin(j);
    for (size_t i = 0; i < sizeof fixture_added_tokens / sizeof fixture_added_tokens[0]; i++) {
        base_json_object_begin(j);
        base_json_kv_uint(j, "id", strcmp(fixture_added_tokens[i].content, "the") == 0 ? 256 + 9 : next++);
        base_json_kv_string(j, "content", fixture_added_tokens[i].content);
        for (int k = 0; k < 5; k++)
            base_json_kv_bool(j, keys[k], fixture_added_tokens[i].flags[k] == '1');
        base_json_object_end(j);
    }
    base_json_array_end(j);
}

static inline void fixture_step(struct base_json *j, const char *key, const char *type)
{
    base_json_key(j, key);
    base_json_object_begin(j);
    base_json_kv_string(j, "type", type);
    base_json_kv_bool(j, "add_prefix_space", false);
    base_json_object_end(j);
}

/* Ids: byte b is b'th of the alphabet; then merges; added tokens last. whole_words: ignore_merges. */
static inline void tokenizer_fixture_json(bool whole_words, struct base_buffer *out)
{
    struct base_json j;
    base_json_init(&j, out);
    base_json_object_begin(&j);
    fixture_step(&j, "normalizer", "NFC");
    fixture_step(&j, "pre_tokenizer", "ByteLevel");
    fixture_step(&j, "decoder", "ByteLevel");
    fixture_added(&j);
    base_json_key(&j, "model");
    base_json_object_begin(&j);
    base_json_kv_bool(&j, "ignore_merges", whole_words);
    fixture_vocabulary(&j);
    base_json_key(&j, "merges");
    base_json_array_begin(&j);
    for (int i = 0; i < FIXTURE_MERGES; i++) {
        base_json_array_begin(&j);
        base_json_string(&j, fixture_merges[i][0]);
        base_json_string(&j, fixture_merges[i][1]);
        base_json_array_end(&j);
    }
    base_json_array_end(&j);
    base_json_object_end(&j);
    base_json_object_end(&j);
}

/* The same, compiled; aborts when that fails. */
static inline void tokenizer_fixture_blob(bool whole_words, struct base_buffer *out)
{
    struct base_buffer json;
    struct base_error err = {0};
    base_buffer_init(&json, 1 << 20);
    tokenizer_fixture_json(whole_words, &json);
    if (model_tokenizer_compile(base_buffer_cstr(&json), json.n, "fixture", out, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    base_buffer_done(&json);
}

#endif
