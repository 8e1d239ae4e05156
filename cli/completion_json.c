#include "cli/completion_json.h"

#include "base/json_writer.h"

static void put(struct base_json *j, const char *key, const struct schema_string *s)
{
    base_json_key(j, key);
    if (s->text)
        base_json_string_n(j, s->text, s->n);
    else
        base_json_null(j);
}

static void put_if(struct base_json *j, const char *key, const struct schema_string *s)
{
    if (s->text && s->n)
        put(j, key, s);
}

static void put_logprobs(struct base_json *j, const struct schema_completion *c)
{
    base_json_key(j, "logprobs");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < c->n_logprobs; i++) {
        const struct schema_token_logprob *l = &c->logprobs[i];
        base_json_object_begin(j);
        base_json_kv_int(j, "id", l->id);
        base_json_kv_double(j, "logprob", l->logprob, 9);
        base_json_key(j, "top");
        base_json_array_begin(j);
        for (uint32_t k = 0; k < l->n_top; k++) {
            base_json_object_begin(j);
            base_json_kv_int(j, "id", l->top_ids[k]);
            base_json_kv_double(j, "logprob", l->top_logprobs[k], 9);
            base_json_object_end(j);
        }
        base_json_array_end(j);
        base_json_object_end(j);
    }
    base_json_array_end(j);
}

void cli_completion_json(const struct schema_completion *c, struct base_buffer *out)
{
    struct base_json j;
    base_json_init(&j, out);
    base_json_object_begin(&j);
    put_if(&j, "batch_id", &c->batch_id);
    put(&j, "id", &c->id);
    base_json_kv_uint(&j, "index", c->index);
    base_json_kv_uint(&j, "n_prompts", c->n_prompts);
    put(&j, "model", &c->model);
    put_if(&j, "version", &c->version);
    put_if(&j, "snapshot", &c->snapshot);
    put(&j, "text", &c->text);
    base_json_key(&j, "tokens");
    base_json_array_begin(&j);
    for (uint32_t i = 0; i < c->n_tokens; i++)
        base_json_int(&j, c->tokens[i]);
    base_json_array_end(&j);
    base_json_kv_string(&j, "finish_reason", schema_finish_name(c->finish));
    if (c->error != SCHEMA_OK) {
        base_json_key(&j, "error");
        base_json_object_begin(&j);
        base_json_kv_string(&j, "code", schema_code_name(c->error));
        put(&j, "message", &c->error_text);
        base_json_object_end(&j);
    }
    base_json_key(&j, "usage");
    base_json_object_begin(&j);
    base_json_kv_uint(&j, "prompt_tokens", c->prompt_tokens);
    base_json_kv_uint(&j, "completion_tokens", c->completion_tokens);
    base_json_object_end(&j);
    if (c->logprobs)
        put_logprobs(&j, c);
    base_json_key(&j, "timing_us");
    base_json_object_begin(&j);
    base_json_kv_uint(&j, "queue", c->queue_us);
    base_json_kv_uint(&j, "prefill", c->prefill_us);
    base_json_kv_uint(&j, "decode", c->decode_us);
    base_json_kv_uint(&j, "total", c->total_us);
    base_json_object_end(&j);
    put_if(&j, "worker", &c->worker);
    base_json_object_end(&j);
    base_buffer_byte(out, '\n');
}
