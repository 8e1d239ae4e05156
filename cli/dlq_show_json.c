#include "cli/dlq_show.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/json_writer.h"
#include "cli/cli.h"

static void json_hex(struct base_json *j, const char *key, const uint8_t *bytes, size_t n)
{
    char *text = malloc(2 * n + 1);
    if (!text)
        return;
    text[0] = '\0';
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    base_json_kv_string(j, key, text);
    free(text);
}

static void json_batch(struct base_json *j, const struct schema_prompt_batch *b)
{
    base_json_key(j, "batch");
    base_json_object_begin(j);
    base_json_key(j, "batch_id");
    base_json_string_n(j, b->batch_id.text, b->batch_id.n);
    if (b->model.text) {
        base_json_key(j, "model");
        base_json_string_n(j, b->model.text, b->model.n);
    }
    if (b->deadline_ms)
        base_json_kv_int(j, "deadline_ms", b->deadline_ms);
    base_json_key(j, "prompts");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < b->n_prompts; i++) {
        const struct schema_prompt *p = &b->prompts[i];
        base_json_object_begin(j);
        base_json_key(j, "id");
        base_json_string_n(j, p->id.text ? p->id.text : "", p->id.n);
        if (p->text.text) {
            base_json_key(j, "text");
            base_json_string_n(j, p->text.text, p->text.n);
        }
        if (p->n_tokens)
            base_json_kv_uint(j, "n_tokens", p->n_tokens);
        if (p->sampling.has & SCHEMA_HAS_MAX_TOKENS)
            base_json_kv_uint(j, "max_tokens", p->sampling.max_tokens);
        if (p->error != SCHEMA_OK) {
            base_json_kv_string(j, "error", schema_code_name(p->error));
            base_json_kv_string(j, "error_text", p->error_text);
        }
        base_json_object_end(j);
    }
    base_json_array_end(j);
    base_json_object_end(j);
}

int dlq_show_json(struct dlq_letter *l, bool replayed, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    base_buffer_init(&out, 256u << 20);
    base_json_init(&j, &out);
    base_json_object_begin(&j);
    base_json_kv_int(&j, "partition", l->m->partition);
    base_json_kv_int(&j, "offset", l->m->offset);
    base_json_kv_string(&j, "code", l->code);
    base_json_kv_string(&j, "stage", l->stage);
    base_json_kv_int(&j, "failed_ms", l->when_ms);
    base_json_kv_bool(&j, "replayed", replayed);
    if (l->unreadable[0])
        base_json_kv_string(&j, "unreadable_headers", l->unreadable);
    base_json_key(&j, "headers");
    base_json_array_begin(&j); /* a name may be there twice */
    for (uint32_t i = 0; i < l->n_headers; i++) {
        base_json_object_begin(&j);
        base_json_kv_string(&j, "name", l->headers[i].name);
        base_json_key(&j, "value");
        base_json_string_n(&j, l->headers[i].value ? l->headers[i].value : "", l->headers[i].n);
        base_json_object_end(&j);
    }
    base_json_array_end(&j);
    base_json_key(&j, "key");
    if (l->m->key)
        base_json_string_n(&j, l->m->key, l->m->key_len);
    else
        base_json_null(&j);
    base_json_kv_uint(&j, "value_bytes", l->m->len);
    const struct schema_prompt_batch *b = dlq_letter_batch(l);
    if (b) {
        json_batch(&j, b);
    } else {
        base_json_kv_string(&j, "no_batch", l->no_batch);
        json_hex(&j, "value_hex", l->m->payload, l->m->payload ? l->m->len : 0);
    }
    base_json_object_end(&j);
    int rc = out.failed ? base_fail(err, out.failed, "JSON: no room") : 0;
    if (rc == 0)
        puts(base_buffer_cstr(&out));
    base_buffer_done(&out);
    return rc < 0 ? rc : cli_flush(err);
}
