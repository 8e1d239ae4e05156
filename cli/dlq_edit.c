#include "cli/dlq_edit.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/msgpack_fields.h"
#include "schemas/prompt_batch.h"

enum kind { UINT, INT, REAL, BOOL, TEXT };

/* Keys of the batch itself, and of the sampling, which are set in every prompt: there they hold against the defaults. */
static const struct edit_key {
    const char *name;
    bool of_batch;
    enum kind kind;
} keys[] = {
    {"model", true, TEXT},        {"deadline_ms", true, UINT}, {"max_tokens", false, UINT},
    {"temperature", false, REAL}, {"top_k", false, UINT},      {"top_p", false, REAL},
    {"min_p", false, REAL},       {"seed", false, UINT},       {"repetition_penalty", false, REAL},
    {"logprobs", false, UINT},    {"priority", false, INT},    {"ignore_eos", false, BOOL},
};
#define N_KEYS (sizeof keys / sizeof keys[0])

static const struct edit_key *key_of(const char *set)
{
    size_t n = strcspn(set, "=");
    for (size_t i = 0; i < N_KEYS; i++)
        if (set[n] == '=' && strlen(keys[i].name) == n && memcmp(keys[i].name, set, n) == 0)
            return &keys[i];
    return NULL;
}

static bool value_fits(const struct edit_key *key, const char *value)
{
    char *end = NULL;
    size_t n_digits = strspn(value, "0123456789"), n = strlen(value);
    errno = 0;
    if (!value[0] || key->kind == TEXT)
        return n <= 256;
    if (key->kind == BOOL)
        return strcmp(value, "true") == 0 || strcmp(value, "false") == 0;
    if (key->kind == REAL)
        return strspn(value, "0123456789+-.eE") == n && isfinite(strtod(value, &end)) && !*end;
    if (key->kind == INT && value[0] == '-')
        return n > 1 && strspn(value + 1, "0123456789") == n - 1 && strtoll(value, NULL, 10) < 0 && !errno;
    if (key->kind == INT)
        return n_digits == n && strtoll(value, NULL, 10) >= 0 && !errno;
    return n_digits == n && strtoull(value, NULL, 10) <= ULLONG_MAX && !errno;
}

static int check_set(const char *set, struct base_error *err)
{
    const struct edit_key *key = key_of(set);
    if (!key)
        return base_fail(err, ERR_USAGE,
                         "--set '%.60s': takes KEY=VALUE, KEY of model, deadline_ms, max_tokens, temperature, "
                         "top_k, top_p, min_p, seed, repetition_penalty, logprobs, priority, ignore_eos",
                         set);
    if (!value_fits(key, strchr(set, '=') + 1))
        return base_fail(err, ERR_USAGE, "--set '%.60s': this value does not fit %s", set, key->name);
    return 0;
}

bool dlq_edit_is_on(const struct dlq_edit *e)
{
    return e->sets->n > 0 || e->command;
}

static void pack_text(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str(pk, strlen(text));
    msgpack_pack_str_body(pk, text, strlen(text));
}

static void pack_value(msgpack_packer *pk, enum kind kind, const char *value)
{
    switch (kind) {
    case UINT:
        msgpack_pack_uint64(pk, strtoull(value, NULL, 10));
        break;
    case INT:
        msgpack_pack_int64(pk, strtoll(value, NULL, 10));
        break;
    case REAL:
        msgpack_pack_double(pk, strtod(value, NULL));
        break;
    case BOOL:
        if (strcmp(value, "true") == 0)
            msgpack_pack_true(pk);
        else
            msgpack_pack_false(pk);
        break;
    case TEXT:
        pack_text(pk, value);
        break;
    }
}

static bool is_set(const struct dlq_edit *e, const msgpack_object *name, bool of_batch)
{
    for (size_t i = 0; i < e->sets->n; i++) {
        const struct edit_key *key = key_of(e->sets->items[i]);
        if (key->of_batch == of_batch && name->type == MSGPACK_OBJECT_STR && name->via.str.size == strlen(key->name) &&
            memcmp(name->via.str.ptr, key->name, name->via.str.size) == 0)
            return true;
    }
    return false;
}

static bool is_last(const struct dlq_edit *e, size_t i) /* of one key, the last --set holds */
{
    for (size_t k = i + 1; k < e->sets->n; k++)
        if (key_of(e->sets->items[k]) == key_of(e->sets->items[i]))
            return false;
    return true;
}

static void pack_map(msgpack_packer *pk, const struct dlq_edit *e, const msgpack_object *map, bool of_batch);

static void pack_prompts(msgpack_packer *pk, const struct dlq_edit *e, const msgpack_object *prompts)
{
    msgpack_pack_array(pk, prompts->via.array.size);
    for (uint32_t i = 0; i < prompts->via.array.size; i++)
        if (prompts->via.array.ptr[i].type == MSGPACK_OBJECT_MAP)
            pack_map(pk, e, &prompts->via.array.ptr[i], false);
        else
            msgpack_pack_object(pk, prompts->via.array.ptr[i]);
}

/* The map without the keys that are set, then these; an empty value takes the key away. */
static void pack_map(msgpack_packer *pk, const struct dlq_edit *e, const msgpack_object *map, bool of_batch)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < map->via.map.size; i++)
        n += !is_set(e, &map->via.map.ptr[i].key, of_batch);
    for (size_t i = 0; i < e->sets->n; i++)
        n += key_of(e->sets->items[i])->of_batch == of_batch && is_last(e, i) &&
             strchr(e->sets->items[i], '=')[1] != '\0';
    msgpack_pack_map(pk, n);
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object_kv *kv = &map->via.map.ptr[i];
        if (is_set(e, &kv->key, of_batch))
            continue;
        msgpack_pack_object(pk, kv->key);
        if (of_batch && kv->key.type == MSGPACK_OBJECT_STR && kv->key.via.str.size == 7 &&
            memcmp(kv->key.via.str.ptr, "prompts", 7) == 0 && kv->val.type == MSGPACK_OBJECT_ARRAY)
            pack_prompts(pk, e, &kv->val);
        else
            msgpack_pack_object(pk, kv->val);
    }
    for (size_t i = 0; i < e->sets->n; i++) {
        const struct edit_key *key = key_of(e->sets->items[i]);
        const char *value = strchr(e->sets->items[i], '=') + 1;
        if (key->of_batch != of_batch || !is_last(e, i) || !value[0])
            continue;
        pack_text(pk, key->name);
        pack_value(pk, key->kind, value);
    }
}

int dlq_edit_sets(const struct dlq_edit *e, const void *value, size_t n, struct base_buffer *out,
                  struct base_error *err)
{
    msgpack_unpacked root;
    struct schema_writer w;
    int rc = schema_unpack(value, n, &schema_scan_limits_default, &root, NULL, err);
    if (rc < 0)
        return rc == ERR_INPUT ? base_fail_in(err, "--set takes a batch") : rc;
    if (root.data.type != MSGPACK_OBJECT_MAP) {
        msgpack_unpacked_destroy(&root);
        return base_fail(err, ERR_INPUT, "--set takes a batch, and this is no map");
    }
    schema_writer_begin(&w, out);
    pack_map(&w.pk, e, &root.data, true);
    rc = schema_writer_end(&w, err);
    msgpack_unpacked_destroy(&root);
    return rc;
}

/* Only what decodes goes back: an edit that does harm is the tool's fault. */
static int check_result(const struct base_buffer *out, struct base_error *err)
{
    struct schema_prompt_batch *batch = NULL;
    int rc = schema_prompt_batch_decode(out->data, out->n, NULL, &batch, NULL, err);
    if (rc < 0)
        return base_fail_in(err, "what the edit made is no batch");
    for (uint32_t i = 0; rc == 0 && i < batch->n_prompts; i++)
        if (batch->prompts[i].error != SCHEMA_OK)
            rc = base_fail(err, ERR_INPUT, "what the edit made would be refused again: %s",
                           batch->prompts[i].error_text);
    schema_prompt_batch_free(batch);
    return rc;
}

int dlq_edit_run(const struct dlq_edit *e, const struct dlq_letter *l, struct base_buffer *out, struct base_error *err)
{
    const rd_kafka_message_t *m = l->m;
    struct base_buffer middle;
    int rc = 0;
    base_buffer_init(&middle, 64u << 20);
    base_buffer_clear(out);
    if (!m->payload)
        rc = base_fail(err, ERR_INPUT, "the record has no value to edit");
    if (rc == 0 && e->sets->n > 0)
        rc = dlq_edit_sets(e, m->payload, m->len, e->command ? &middle : out, err);
    if (rc == 0 && e->command)
        rc = dlq_edit_command(e, l, e->sets->n ? middle.data : m->payload, e->sets->n ? middle.n : m->len, out, err);
    base_buffer_done(&middle);
    return rc < 0 ? rc : check_result(out, err);
}

/* What no batch may have would fail with each letter: once is enough. */
static int try_sets(const struct dlq_edit *e, struct base_error *err)
{
    static const char batch[] = "\x83\xa1v\x01\xa8"
                                "batch_id\xa1x\xa7prompts\x91\x82\xa2id\xa1x\xa4text\xa1x";
    struct base_buffer out;
    base_buffer_init(&out, 64u << 10);
    int rc = dlq_edit_sets(e, batch, sizeof batch - 1, &out, err);
    if (rc == 0)
        rc = check_result(&out, err);
    base_buffer_done(&out);
    return rc == ERR_INPUT ? base_fail(err, ERR_USAGE, "--set: %s", err ? err->text : "") : rc;
}

int dlq_edit_check(const struct dlq_edit *e, struct base_error *err)
{
    if (e->sets->n > DLQ_EDITS_MAX)
        return base_fail(err, ERR_USAGE, "--set is given %zu times; at most %d are possible", e->sets->n,
                         DLQ_EDITS_MAX);
    for (size_t i = 0; i < e->sets->n; i++) {
        int rc = check_set(e->sets->items[i], err);
        if (rc < 0)
            return rc;
    }
    return e->sets->n ? try_sets(e, err) : 0;
}
