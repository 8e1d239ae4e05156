#include "schemas/prompt_batch.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/msgpack_fields.h"

const struct schema_batch_limits schema_batch_limits_default = {
    .bytes_max = 8u << 20,
    .prompts_max = 1024,
    .text_bytes_max = 1u << 20,
    .tokens_max = 131072,
    .max_tokens_max = 32768,
    .stops_max = 16,
    .stop_bytes_max = 256,
    .id_bytes_max = 256,
};

/* Decoding */

static bool sampling_read_real(struct schema_fields *f, const char *key, bool above_zero, double max, double *out)
{
    double v;
    if (!schema_fields_real(f, key, 0, max, &v))
        return false;
    if (above_zero && v <= 0)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %g is not above 0", key, v);
    *out = v;
    return f->code == SCHEMA_OK;
}

/* Lays the fields that are given over what *s holds. */
static void sampling_read(struct schema_fields *f, const struct schema_batch_limits *limits, struct schema_sampling *s)
{
    uint64_t u;
    int64_t i;
    if (schema_fields_uint(f, "max_tokens", 1, limits->max_tokens_max, &u)) {
        s->max_tokens = (uint32_t)u;
        s->has |= SCHEMA_HAS_MAX_TOKENS;
    }
    if (sampling_read_real(f, "temperature", false, 100, &s->temperature))
        s->has |= SCHEMA_HAS_TEMPERATURE;
    if (schema_fields_uint(f, "top_k", 0, INT32_MAX, &u)) {
        s->top_k = (uint32_t)u;
        s->has |= SCHEMA_HAS_TOP_K;
    }
    if (sampling_read_real(f, "top_p", true, 1, &s->top_p))
        s->has |= SCHEMA_HAS_TOP_P;
    if (sampling_read_real(f, "min_p", false, 1, &s->min_p))
        s->has |= SCHEMA_HAS_MIN_P;
    if (sampling_read_real(f, "repetition_penalty", true, 100, &s->repetition_penalty))
        s->has |= SCHEMA_HAS_REPETITION_PENALTY;
    if (schema_fields_strings(f, "stop", limits->stops_max, 1, limits->stop_bytes_max, &s->stop, &s->n_stop))
        s->has |= SCHEMA_HAS_STOP;
    if (schema_fields_uint(f, "seed", 0, UINT64_MAX, &s->seed))
        s->has |= SCHEMA_HAS_SEED;
    if (schema_fields_uint(f, "logprobs", 0, 20, &u)) {
        s->logprobs = (uint32_t)u;
        s->has |= SCHEMA_HAS_LOGPROBS;
    }
    if (schema_fields_int(f, "priority", -1000, 1000, &i)) {
        s->priority = (int32_t)i;
        s->has |= SCHEMA_HAS_PRIORITY;
    }
    if (schema_fields_bool(f, "ignore_eos", &s->ignore_eos))
        s->has |= SCHEMA_HAS_IGNORE_EOS;
}

/* What all steps of one decode share. */
struct batch_reader {
    const struct schema_batch_limits *limits;
    struct schema_prompt_batch *batch;
    struct schema_sampling defaults;
    struct schema_fields fields; /* of the batch's own map */
};

/* "#3" for a prompt that cannot be called by an id of its own. */
static void prompt_id_from_index(struct batch_reader *r, uint32_t index)
{
    enum { N_MAX = 16 };
    char *text = schema_zone_alloc(&r->fields, N_MAX);
    if (text) {
        int n = snprintf(text, N_MAX, "#%" PRIu32, index);
        r->batch->prompts[index].id = (struct schema_string){.text = text, .n = (size_t)n};
    }
}

/* Only running out of memory is more than this prompt's own fault. */
static void prompt_refuse(struct batch_reader *r, uint32_t index, enum schema_code code, const struct base_error *err)
{
    struct schema_prompt *prompt = &r->batch->prompts[index];
    size_t n = strlen(err->text) + 1;
    char *text = code == SCHEMA_INTERNAL ? NULL : schema_zone_alloc(&r->fields, n);
    if (!text) {
        schema_fields_fail(&r->fields, SCHEMA_INTERNAL, "%s", err->text);
        return;
    }
    memcpy(text, err->text, n);
    prompt->error = code;
    prompt->error_text = text;
}

static void prompt_read(struct batch_reader *r, const msgpack_object *object, uint32_t index)
{
    const struct schema_batch_limits *limits = r->limits;
    struct schema_prompt *prompt = &r->batch->prompts[index];
    struct schema_fields f;
    char where[sizeof(f.where)];
    snprintf(where, sizeof(where), "prompt %" PRIu32 ": ", index);
    schema_fields_init(&f, object, r->fields.zone, where);
    schema_fields_need(&f, "id");
    if (schema_fields_string(&f, "id", 1, limits->id_bytes_max, &prompt->id))
        snprintf(f.where, sizeof(f.where), "prompt %" PRIu32 " ('%s'): ", index,
                 schema_show(prompt->id.text, prompt->id.n).text);
    else
        prompt_id_from_index(r, index);

    bool has_text = schema_fields_string(&f, "text", 1, limits->text_bytes_max, &prompt->text);
    bool has_tokens = schema_fields_ids(&f, "tokens", 1, limits->tokens_max, &prompt->tokens, &prompt->n_tokens);
    if (has_text && has_tokens)
        schema_fields_fail(&f, SCHEMA_BAD_VALUE, "both text and tokens are given");
    if (!has_text && !has_tokens)
        schema_fields_fail(&f, SCHEMA_MISSING_KEY, "neither text nor tokens is given");
    prompt->sampling = r->defaults;
    sampling_read(&f, limits, &prompt->sampling);
    if (f.code != SCHEMA_OK)
        prompt_refuse(r, index, f.code, &f.err);
}

static int prompt_compare(const void *a, const void *b)
{
    const struct schema_prompt *x = *(const struct schema_prompt *const *)a,
                               *y = *(const struct schema_prompt *const *)b;
    if (x->id.n != y->id.n)
        return x->id.n < y->id.n ? -1 : 1;
    int order = memcmp(x->id.text, y->id.text, x->id.n);
    return order != 0 ? order : x < y ? -1 : x > y;
}

/* Of prompts with one id, the first keeps it. */
static void prompts_refuse_duplicates(struct batch_reader *r)
{
    struct schema_prompt_batch *batch = r->batch;
    const struct schema_prompt **sorted =
        schema_zone_alloc(&r->fields, batch->n_prompts * sizeof(struct schema_prompt *));
    if (!sorted)
        return;
    for (uint32_t i = 0; i < batch->n_prompts; i++)
        sorted[i] = &batch->prompts[i];
    qsort(sorted, batch->n_prompts, sizeof(sorted[0]), prompt_compare);
    const struct schema_prompt *first = sorted[0];
    struct schema_string first_id = first->id;
    for (uint32_t i = 1; i < batch->n_prompts; i++) {
        const struct schema_prompt *p = sorted[i];
        if (p->id.n != first_id.n || memcmp(p->id.text, first_id.text, first_id.n) != 0) {
            first = p;
            first_id = p->id;
        } else if (p->error == SCHEMA_OK) {
            uint32_t index = (uint32_t)(p - batch->prompts);
            struct base_error err;
            base_fail(&err, ERR_INPUT, "prompt %" PRIu32 ": id '%s' is already that of prompt %" PRIu32, index,
                      schema_show(first_id.text, first_id.n).text, (uint32_t)(first - batch->prompts));
            prompt_id_from_index(r, index);
            prompt_refuse(r, index, SCHEMA_BAD_VALUE, &err);
        }
    }
}

static void batch_read_defaults(struct batch_reader *r)
{
    const msgpack_object *object = schema_fields_find(&r->fields, "defaults");
    if (!object)
        return;
    struct schema_fields f;
    schema_fields_init(&f, object, r->fields.zone, "defaults: ");
    sampling_read(&f, r->limits, &r->defaults);
    if (f.code != SCHEMA_OK)
        schema_fields_fail(&r->fields, f.code, "%s", f.err.text);
}

static void batch_read(struct batch_reader *r)
{
    struct schema_fields *f = &r->fields;
    struct schema_prompt_batch *batch = r->batch;
    uint64_t ms;
    schema_fields_version(f, 1);
    schema_fields_need(f, "batch_id");
    schema_fields_string(f, "batch_id", 1, r->limits->id_bytes_max, &batch->batch_id);
    schema_fields_string(f, "model", 1, r->limits->id_bytes_max, &batch->model);
    if (schema_fields_uint(f, "created_ms", 0, SCHEMA_TIME_MS_MAX, &ms))
        batch->created_ms = (int64_t)ms;
    if (schema_fields_uint(f, "deadline_ms", 0, SCHEMA_TIME_MS_MAX, &ms))
        batch->deadline_ms = (int64_t)ms;
    batch_read_defaults(r);

    const msgpack_object_array *prompts;
    schema_fields_need(f, "prompts");
    if (!schema_fields_array(f, "prompts", 1, r->limits->prompts_max, &prompts))
        return;
    batch->prompts = schema_zone_alloc(f, prompts->size * sizeof(*batch->prompts));
    if (!batch->prompts)
        return;
    batch->n_prompts = prompts->size;
    for (uint32_t i = 0; i < prompts->size && f->code == SCHEMA_OK; i++)
        prompt_read(r, &prompts->ptr[i], i);
    if (f->code == SCHEMA_OK)
        prompts_refuse_duplicates(r);
}

static int batch_decode(const msgpack_object *root, size_t n, const struct schema_batch_limits *limits,
                        struct schema_prompt_batch **out_batch, enum schema_code *out_code, struct base_error *err)
{
    msgpack_zone *zone = msgpack_zone_new(n + 1024); /* the strings, and some prompts; it grows for many */
    if (!zone)
        return base_fail(err, ERR_NOMEM, "out of memory for a batch of %zu bytes", n);
    struct batch_reader r = {.limits = limits};
    schema_fields_init(&r.fields, root, zone, "");
    r.batch = schema_zone_alloc(&r.fields, sizeof(*r.batch));
    if (r.batch) {
        r.batch->memory = zone;
        batch_read(&r);
    }
    if (r.fields.code != SCHEMA_OK) {
        msgpack_zone_free(zone);
        *out_code = r.fields.code;
        return base_fail(err, r.fields.err.code, "%s", r.fields.err.text);
    }
    *out_batch = r.batch;
    return 0;
}

int schema_prompt_batch_decode(const void *bytes, size_t n, const struct schema_batch_limits *limits,
                               struct schema_prompt_batch **out_batch, enum schema_code *out_code,
                               struct base_error *err)
{
    if (!limits)
        limits = &schema_batch_limits_default;
    struct schema_scan_limits scan = schema_scan_limits_default;
    scan.n_bytes_max = limits->bytes_max;
    enum schema_code code = SCHEMA_INTERNAL;
    msgpack_unpacked root;
    int rc = schema_unpack(bytes, n, &scan, &root, &code, err);
    if (rc == 0) {
        rc = batch_decode(&root.data, n, limits, out_batch, &code, err);
        msgpack_unpacked_destroy(&root);
    }
    if (rc < 0 && out_code)
        *out_code = code;
    return rc;
}

void schema_prompt_batch_free(struct schema_prompt_batch *batch)
{
    if (batch)
        msgpack_zone_free(batch->memory); /* the batch itself lies in it */
}

/* Encoding */

static uint32_t sampling_n_keys(const struct schema_sampling *s)
{
    return (uint32_t)__builtin_popcount(s->has);
}

static void sampling_write(struct schema_writer *w, const struct schema_sampling *s)
{
    if (s->has & SCHEMA_HAS_MAX_TOKENS)
        schema_write_uint(w, "max_tokens", s->max_tokens);
    if (s->has & SCHEMA_HAS_TEMPERATURE)
        schema_write_real(w, "temperature", s->temperature);
    if (s->has & SCHEMA_HAS_TOP_K)
        schema_write_uint(w, "top_k", s->top_k);
    if (s->has & SCHEMA_HAS_TOP_P)
        schema_write_real(w, "top_p", s->top_p);
    if (s->has & SCHEMA_HAS_MIN_P)
        schema_write_real(w, "min_p", s->min_p);
    if (s->has & SCHEMA_HAS_REPETITION_PENALTY)
        schema_write_real(w, "repetition_penalty", s->repetition_penalty);
    if (s->has & SCHEMA_HAS_STOP) {
        schema_write_key(w, "stop");
        msgpack_pack_array(&w->pk, s->n_stop);
        for (uint32_t i = 0; i < s->n_stop; i++)
            schema_write_string(w, NULL, s->stop[i]);
    }
    if (s->has & SCHEMA_HAS_SEED)
        schema_write_uint(w, "seed", s->seed);
    if (s->has & SCHEMA_HAS_LOGPROBS)
        schema_write_uint(w, "logprobs", s->logprobs);
    if (s->has & SCHEMA_HAS_PRIORITY)
        schema_write_int(w, "priority", s->priority);
    if (s->has & SCHEMA_HAS_IGNORE_EOS) {
        schema_write_key(w, "ignore_eos");
        if (s->ignore_eos)
            msgpack_pack_true(&w->pk);
        else
            msgpack_pack_false(&w->pk);
    }
}

static void prompt_write(struct schema_writer *w, const struct schema_prompt *prompt)
{
    msgpack_pack_map(&w->pk, 2 + sampling_n_keys(&prompt->sampling));
    schema_write_string(w, "id", prompt->id);
    if (prompt->text.text)
        schema_write_string(w, "text", prompt->text);
    else
        schema_write_ids(w, "tokens", prompt->tokens, prompt->n_tokens);
    sampling_write(w, &prompt->sampling);
}

int schema_prompt_batch_encode(const struct schema_prompt_batch *batch, struct base_buffer *out, struct base_error *err)
{
    struct schema_writer w;
    schema_writer_begin(&w, out);
    msgpack_pack_map(&w.pk,
                     (size_t)3 + (batch->model.text != NULL) + (batch->created_ms != 0) + (batch->deadline_ms != 0));
    schema_write_uint(&w, "v", 1);
    schema_write_string(&w, "batch_id", batch->batch_id);
    if (batch->model.text)
        schema_write_string(&w, "model", batch->model);
    if (batch->created_ms != 0)
        schema_write_int(&w, "created_ms", batch->created_ms);
    if (batch->deadline_ms != 0)
        schema_write_int(&w, "deadline_ms", batch->deadline_ms);
    schema_write_key(&w, "prompts");
    msgpack_pack_array(&w.pk, batch->n_prompts);
    for (uint32_t i = 0; i < batch->n_prompts; i++)
        prompt_write(&w, &batch->prompts[i]);
    return schema_writer_end(&w, err);
}

/* Cutting one prompt out */

/* Where the value of the top map's key lies: [*out_at, *out_at + its bytes). The bytes have passed the scan. */
static bool batch_find_value(const uint8_t *bytes, size_t n, const char *key, size_t *out_at)
{
    struct schema_scan_head map = schema_scan_head(bytes, n);
    size_t at = map.n_head;
    for (uint64_t i = 0; i < map.n_children; i += 2) {
        struct schema_scan_head name = schema_scan_head(bytes + at, n - at);
        bool found = name.n_payload == strlen(key) && memcmp(bytes + at + name.n_head, key, name.n_payload) == 0;
        at += name.n_head + (size_t)name.n_payload;
        if (found) {
            *out_at = at;
            return true;
        }
        at += schema_scan_value_bytes(bytes + at, n - at);
    }
    return false;
}

int schema_prompt_batch_single(const void *bytes, size_t n, uint32_t index, struct base_buffer *out,
                               struct base_error *err)
{
    const uint8_t *p = bytes;
    struct schema_scan_limits limits = schema_scan_limits_default;
    limits.n_bytes_max = SIZE_MAX; /* whatever limit the caller decoded it under */
    int rc = schema_scan(bytes, n, &limits, NULL, err);
    if (rc < 0)
        return rc;
    size_t begin = 0;
    if (!batch_find_value(p, n, "prompts", &begin) || schema_scan_head(p + begin, n - begin).kind != SCHEMA_SCAN_ARRAY)
        return base_fail(err, ERR_INPUT, "no array of prompts in a record of %zu bytes", n);
    struct schema_scan_head prompts = schema_scan_head(p + begin, n - begin);
    if (index >= prompts.n_children)
        return base_fail(err, ERR_INPUT, "no prompt %" PRIu32 " in a batch of %" PRIu64, index, prompts.n_children);
    size_t end = begin + schema_scan_value_bytes(p + begin, n - begin), at = begin + prompts.n_head;
    for (uint32_t i = 0; i < index; i++)
        at += schema_scan_value_bytes(p + at, n - at);

    struct schema_writer w;
    schema_writer_begin(&w, out);
    base_buffer_append(out, p, begin);
    msgpack_pack_array(&w.pk, 1);
    base_buffer_append(out, p + at, schema_scan_value_bytes(p + at, n - at));
    base_buffer_append(out, p + end, n - end);
    return schema_writer_end(&w, err);
}
