#include "schemas/completion.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "schemas/msgpack_fields.h"

enum { N_FINISH = SCHEMA_FINISH_ERROR + 1 };

static const char *const finish_names[N_FINISH] = {
    [SCHEMA_FINISH_EOS] = "eos",         [SCHEMA_FINISH_STOP] = "stop",   [SCHEMA_FINISH_LENGTH] = "length",
    [SCHEMA_FINISH_EXPIRED] = "expired", [SCHEMA_FINISH_ERROR] = "error",
};

const char *schema_finish_name(enum schema_finish finish)
{
    return (unsigned)finish < N_FINISH ? finish_names[finish] : "unknown";
}

/* Encoding */

static double logprob_finite(float logprob)
{
    return isfinite(logprob) ? (double)logprob : (double)SCHEMA_LOGPROB_MIN;
}

static void completion_write_logprobs(struct schema_writer *w, const struct schema_completion *c)
{
    schema_write_key(w, "logprobs");
    msgpack_pack_array(&w->pk, c->n_logprobs);
    for (uint32_t i = 0; i < c->n_logprobs; i++) {
        const struct schema_token_logprob *l = &c->logprobs[i];
        msgpack_pack_map(&w->pk, 4);
        schema_write_int(w, "id", l->id);
        schema_write_real(w, "logprob", logprob_finite(l->logprob));
        schema_write_ids(w, "top_ids", l->top_ids, l->n_top);
        schema_write_key(w, "top_logprobs");
        msgpack_pack_array(&w->pk, l->n_top);
        for (uint32_t k = 0; k < l->n_top; k++)
            schema_write_real(w, NULL, logprob_finite(l->top_logprobs[k]));
    }
}

static void completion_write(struct schema_writer *w, const struct schema_completion *c)
{
    bool has_error = c->error != SCHEMA_OK, has_logprobs = c->n_logprobs > 0;
    msgpack_pack_map(&w->pk, (size_t)14 + has_error + has_logprobs);
    schema_write_uint(w, "v", 1);
    schema_write_string(w, "batch_id", c->batch_id);
    schema_write_string(w, "id", c->id);
    schema_write_uint(w, "index", c->index);
    schema_write_uint(w, "n_prompts", c->n_prompts);
    schema_write_string(w, "model", c->model);
    schema_write_string(w, "version", c->version);
    schema_write_string(w, "snapshot", c->snapshot);
    schema_write_string(w, "text", c->text);
    schema_write_ids(w, "tokens", c->tokens, c->n_tokens);
    const char *finish = schema_finish_name(c->finish), *code = schema_code_name(c->error);
    schema_write_string(w, "finish_reason", (struct schema_string){finish, strlen(finish)});
    if (has_error) {
        schema_write_key(w, "error");
        msgpack_pack_map(&w->pk, 2);
        schema_write_string(w, "code", (struct schema_string){code, strlen(code)});
        schema_write_string(w, "message", c->error_text);
    }
    schema_write_key(w, "usage");
    msgpack_pack_map(&w->pk, 2);
    schema_write_uint(w, "prompt_tokens", c->prompt_tokens);
    schema_write_uint(w, "completion_tokens", c->completion_tokens);
    if (has_logprobs)
        completion_write_logprobs(w, c);
    schema_write_key(w, "timing_us");
    msgpack_pack_map(&w->pk, 4);
    schema_write_uint(w, "queue", c->queue_us);
    schema_write_uint(w, "prefill", c->prefill_us);
    schema_write_uint(w, "decode", c->decode_us);
    schema_write_uint(w, "total", c->total_us);
    schema_write_string(w, "worker", c->worker);
}

int schema_completion_encode(const struct schema_completion *c, struct base_buffer *out, struct base_error *err)
{
    if ((c->finish == SCHEMA_FINISH_ERROR) != (c->error != SCHEMA_OK))
        return base_fail(err, ERR_INTERNAL, "a completion that finished with '%s' carries the error code '%s'",
                         schema_finish_name(c->finish), schema_code_name(c->error));
    struct schema_writer w;
    schema_writer_begin(&w, out);
    completion_write(&w, c);
    return schema_writer_end(&w, err);
}

/* Decoding */

static uint32_t completion_read_u32(struct schema_fields *f, const char *key, uint64_t min)
{
    uint64_t v = 0;
    schema_fields_need(f, key);
    schema_fields_uint(f, key, min, UINT32_MAX, &v);
    return (uint32_t)v;
}

static void completion_read_string(struct schema_fields *f, const char *key, size_t n_min, struct schema_string *out)
{
    schema_fields_need(f, key);
    schema_fields_string(f, key, n_min, SIZE_MAX, out);
}

/* A map inside the completion; false: absent, or already failed. */
static bool completion_open_map(struct schema_fields *f, const char *key, struct schema_fields *out_inner)
{
    const msgpack_object *object = schema_fields_find(f, key);
    if (!object)
        return false;
    char where[sizeof(f->where)];
    snprintf(where, sizeof(where), "%s: ", key);
    schema_fields_init(out_inner, object, f->zone, where);
    return true;
}

static void completion_close_map(struct schema_fields *f, const struct schema_fields *inner)
{
    if (inner->code != SCHEMA_OK)
        schema_fields_fail(f, inner->code, "%s", inner->err.text);
}

static void completion_read_finish(struct schema_fields *f, struct schema_completion *c)
{
    struct schema_string name = {.text = ""};
    completion_read_string(f, "finish_reason", 1, &name);
    unsigned finish = 0;
    while (finish < N_FINISH && (strlen(name.text) != name.n || strcmp(finish_names[finish], name.text) != 0))
        finish++;
    if (finish == N_FINISH)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "finish_reason '%s' is none of eos, stop, length, expired, error",
                           schema_show(name.text, name.n).text);
    c->finish = (enum schema_finish)finish;
}

static void completion_read_error(struct schema_fields *f, struct schema_completion *c)
{
    struct schema_fields error;
    bool expected = c->finish == SCHEMA_FINISH_ERROR;
    if (expected)
        schema_fields_need(f, "error");
    if (!completion_open_map(f, "error", &error))
        return;
    struct schema_string code = {.text = ""};
    completion_read_string(&error, "code", 1, &code);
    completion_read_string(&error, "message", 0, &c->error_text);
    c->error = schema_code_find(code.text);
    if (c->error == SCHEMA_CODE_N || c->error == SCHEMA_OK) /* the list may grow: wire.md, "Evolution" */
        c->error = SCHEMA_INTERNAL;
    if (!expected)
        schema_fields_fail(&error, SCHEMA_BAD_VALUE, "given with finish_reason '%s'", schema_finish_name(c->finish));
    completion_close_map(f, &error);
}

static void completion_read_usage(struct schema_fields *f, struct schema_completion *c)
{
    struct schema_fields usage;
    schema_fields_need(f, "usage");
    if (!completion_open_map(f, "usage", &usage))
        return;
    c->prompt_tokens = completion_read_u32(&usage, "prompt_tokens", 0);
    c->completion_tokens = completion_read_u32(&usage, "completion_tokens", 0);
    completion_close_map(f, &usage);
}

static void completion_read_timing(struct schema_fields *f, struct schema_completion *c)
{
    const struct {
        const char *key;
        uint64_t *out;
    } spans[] = {
        {"queue", &c->queue_us}, {"prefill", &c->prefill_us}, {"decode", &c->decode_us}, {"total", &c->total_us}};
    struct schema_fields timing;
    schema_fields_need(f, "timing_us");
    if (!completion_open_map(f, "timing_us", &timing))
        return;
    for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
        schema_fields_need(&timing, spans[i].key);
        schema_fields_uint(&timing, spans[i].key, 0, UINT64_MAX, spans[i].out);
    }
    completion_close_map(f, &timing);
}

static void logprob_read(struct schema_fields *f, struct schema_token_logprob *out)
{
    uint64_t id = 0;
    double logprob = 0;
    uint32_t n_top_logprobs = 0;
    schema_fields_need(f, "id");
    schema_fields_uint(f, "id", 0, INT32_MAX, &id);
    schema_fields_need(f, "logprob");
    schema_fields_real(f, "logprob", -SCHEMA_FLOAT_MAX, SCHEMA_FLOAT_MAX, &logprob);
    schema_fields_need(f, "top_ids");
    schema_fields_ids(f, "top_ids", 0, UINT32_MAX, &out->top_ids, &out->n_top);
    schema_fields_need(f, "top_logprobs");
    schema_fields_floats(f, "top_logprobs", UINT32_MAX, &out->top_logprobs, &n_top_logprobs);
    if (f->code == SCHEMA_OK && n_top_logprobs != out->n_top)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%" PRIu32 " top_ids with %" PRIu32 " top_logprobs", out->n_top,
                           n_top_logprobs);
    out->id = (int32_t)id;
    out->logprob = (float)logprob;
}

static void completion_read_logprobs(struct schema_fields *f, struct schema_completion *c)
{
    const msgpack_object_array *array;
    if (!schema_fields_array(f, "logprobs", 0, UINT32_MAX, &array))
        return;
    struct schema_token_logprob *logprobs = schema_zone_alloc(f, array->size * sizeof(*logprobs));
    if (!logprobs)
        return;
    for (uint32_t i = 0; i < array->size && f->code == SCHEMA_OK; i++) {
        struct schema_fields inner;
        char where[sizeof(inner.where)];
        snprintf(where, sizeof(where), "logprobs[%" PRIu32 "]: ", i);
        schema_fields_init(&inner, &array->ptr[i], f->zone, where);
        logprob_read(&inner, &logprobs[i]);
        completion_close_map(f, &inner);
    }
    c->logprobs = logprobs;
    c->n_logprobs = array->size;
}

static void completion_read(struct schema_fields *f, struct schema_completion *c)
{
    schema_fields_version(f, 1);
    completion_read_string(f, "batch_id", 1, &c->batch_id);
    completion_read_string(f, "id", 1, &c->id);
    c->index = completion_read_u32(f, "index", 0);
    c->n_prompts = completion_read_u32(f, "n_prompts", 1);
    if (f->code == SCHEMA_OK && c->index >= c->n_prompts)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "index %" PRIu32 " is not below n_prompts %" PRIu32, c->index,
                           c->n_prompts);
    completion_read_string(f, "model", 0, &c->model);
    completion_read_string(f, "version", 0, &c->version);
    completion_read_string(f, "snapshot", 0, &c->snapshot);
    completion_read_string(f, "text", 0, &c->text);
    schema_fields_need(f, "tokens");
    schema_fields_ids(f, "tokens", 0, UINT32_MAX, &c->tokens, &c->n_tokens);
    completion_read_finish(f, c);
    completion_read_error(f, c);
    completion_read_usage(f, c);
    completion_read_logprobs(f, c);
    completion_read_timing(f, c);
    completion_read_string(f, "worker", 0, &c->worker);
}

int schema_completion_decode(const void *bytes, size_t n, struct schema_completion **out_c, struct base_error *err)
{
    enum schema_code code;
    msgpack_unpacked root;
    int rc = schema_unpack(bytes, n, &schema_scan_limits_default, &root, &code, err);
    if (rc < 0)
        return rc;
    msgpack_zone *zone = msgpack_zone_new(n + 1024);
    if (!zone) {
        msgpack_unpacked_destroy(&root);
        return base_fail(err, ERR_NOMEM, "out of memory for a completion of %zu bytes", n);
    }
    struct schema_fields f;
    schema_fields_init(&f, &root.data, zone, "");
    struct schema_completion *c = schema_zone_alloc(&f, sizeof(*c));
    if (c)
        completion_read(&f, c);
    msgpack_unpacked_destroy(&root);
    if (f.code != SCHEMA_OK) {
        msgpack_zone_free(zone);
        return base_fail(err, f.err.code, "%s", f.err.text);
    }
    c->memory = zone;
    *out_c = c;
    return 0;
}

void schema_completion_free(struct schema_completion *c)
{
    if (c)
        msgpack_zone_free(c->memory); /* the completion itself lies in it */
}
