#include "schemas/msgpack_fields.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

int schema_unpack(const void *bytes, size_t n, const struct schema_scan_limits *limits, msgpack_unpacked *out_root,
                  enum schema_code *out_code, struct base_error *err)
{
    int rc = schema_scan(bytes, n, limits, out_code, err);
    if (rc < 0)
        return rc;
    msgpack_unpacked_init(out_root);
    size_t end = 0;
    msgpack_unpack_return r = msgpack_unpack_next(out_root, bytes, n, &end);
    if (r == MSGPACK_UNPACK_SUCCESS && end == n && out_root->data.type == MSGPACK_OBJECT_MAP)
        return 0;
    msgpack_unpacked_destroy(out_root);
    *out_code = SCHEMA_INTERNAL;
    if (r == MSGPACK_UNPACK_NOMEM_ERROR)
        return base_fail(err, ERR_NOMEM, "unpacking a record of %zu bytes: out of memory", n);
    return base_fail(err, ERR_INTERNAL, "msgpack-c answers %d to a record that passed the scan", (int)r);
}

/* What a value is, for messages. */
static const char *fields_kind(const msgpack_object *o)
{
    switch (o->type) {
    case MSGPACK_OBJECT_NIL:
        return "nil";
    case MSGPACK_OBJECT_BOOLEAN:
        return "a boolean";
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        return "an integer";
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        return "a float";
    case MSGPACK_OBJECT_STR:
        return "a string";
    case MSGPACK_OBJECT_ARRAY:
        return "an array";
    case MSGPACK_OBJECT_MAP:
        return "a map";
    case MSGPACK_OBJECT_BIN:
        return "binary";
    default:
        return "an ext type";
    }
}

void schema_fields_init(struct schema_fields *f, const msgpack_object *object, msgpack_zone *zone, const char *where)
{
    f->map = object->type == MSGPACK_OBJECT_MAP ? object : NULL;
    f->zone = zone;
    f->code = SCHEMA_OK;
    f->err.code = 0;
    f->err.text[0] = '\0';
    snprintf(f->where, sizeof(f->where), "%s", where);
    if (!f->map)
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s, not a map", fields_kind(object));
}

void schema_fields_fail(struct schema_fields *f, enum schema_code code, const char *fmt, ...)
{
    if (f->code != SCHEMA_OK)
        return;
    char text[384];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    f->code = code;
    base_fail(&f->err, code == SCHEMA_INTERNAL ? ERR_NOMEM : ERR_INPUT, "%s%s", f->where, text);
}

const msgpack_object *schema_fields_find(const struct schema_fields *f, const char *key)
{
    if (f->code != SCHEMA_OK)
        return NULL;
    size_t n = strlen(key);
    const msgpack_object_map *map = &f->map->via.map;
    for (uint32_t i = 0; i < map->size; i++) {
        const msgpack_object_str *name = &map->ptr[i].key.via.str;
        if (name->size == n && memcmp(name->ptr, key, n) == 0)
            return &map->ptr[i].val;
    }
    return NULL;
}

void schema_fields_need(struct schema_fields *f, const char *key)
{
    if (f->code == SCHEMA_OK && !schema_fields_find(f, key))
        schema_fields_fail(f, SCHEMA_MISSING_KEY, "the key %s is missing", key);
}

void schema_fields_version(struct schema_fields *f, uint32_t want)
{
    uint64_t v = 0;
    schema_fields_need(f, "v");
    if (schema_fields_uint(f, "v", 0, UINT64_MAX, &v) && v != want)
        schema_fields_fail(f, SCHEMA_VERSION, "v is %" PRIu64 ", and this program knows %u", v, want);
}

void *schema_zone_alloc(struct schema_fields *f, size_t n)
{
    void *p = msgpack_zone_malloc(f->zone, n > 0 ? n : 1);
    if (!p)
        schema_fields_fail(f, SCHEMA_INTERNAL, "out of memory for %zu bytes", n);
    else
        memset(p, 0, n);
    return p;
}

struct schema_shown schema_show(const char *text, size_t n)
{
    struct schema_shown shown;
    bool cut = n > 64;
    size_t n_shown = cut ? base_utf8_complete(text, 64) : n;
    snprintf(shown.text, sizeof(shown.text), "%.*s%s", (int)n_shown, text, cut ? "..." : "");
    return shown;
}

/* The values themselves; `key` is a name for messages: "stop[2]" */

static bool value_uint(struct schema_fields *f, const char *key, const msgpack_object *o, uint64_t min, uint64_t max,
                       uint64_t *out)
{
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %" PRId64 " is below %" PRIu64, key, o->via.i64, min);
    else if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s is %s, not an integer", key, fields_kind(o));
    else if (o->via.u64 < min)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %" PRIu64 " is below %" PRIu64, key, o->via.u64, min);
    else if (o->via.u64 > max)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %" PRIu64 " is above %" PRIu64, key, o->via.u64, max);
    else
        *out = o->via.u64;
    return f->code == SCHEMA_OK;
}

static bool value_real(struct schema_fields *f, const char *key, const msgpack_object *o, double min, double max,
                       double *out)
{
    double v = 0;
    if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
        v = o->via.f64;
    else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        v = (double)o->via.u64;
    else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        v = (double)o->via.i64;
    else
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s is %s, not a number", key, fields_kind(o));
    if (!isfinite(v))
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %g is not a finite number", key, v);
    else if (v < min)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %g is below %g", key, v, min);
    else if (v > max)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %g is above %g", key, v, max);
    else if (f->code == SCHEMA_OK)
        *out = v;
    return f->code == SCHEMA_OK;
}

static bool value_string(struct schema_fields *f, const char *key, const msgpack_object *o, size_t n_min, size_t n_max,
                         struct schema_string *out)
{
    if (o->type != MSGPACK_OBJECT_STR)
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s is %s, not a string", key, fields_kind(o));
    else if (o->via.str.size < n_min)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s is empty", key);
    else if (o->via.str.size > n_max)
        schema_fields_fail(f, SCHEMA_TOO_LARGE, "%s of %u bytes is longer than %zu", key, o->via.str.size, n_max);
    if (f->code != SCHEMA_OK)
        return false;
    size_t n = o->via.str.size;
    char *copy = msgpack_zone_malloc_no_align(f->zone, n + 1);
    if (!copy) {
        schema_fields_fail(f, SCHEMA_INTERNAL, "out of memory for %zu bytes", n);
        return false;
    }
    memcpy(copy, o->via.str.ptr, n);
    copy[n] = '\0';
    *out = (struct schema_string){.text = copy, .n = n};
    return true;
}

bool schema_fields_uint(struct schema_fields *f, const char *key, uint64_t min, uint64_t max, uint64_t *out)
{
    const msgpack_object *o = schema_fields_find(f, key);
    return o && value_uint(f, key, o, min, max, out);
}

bool schema_fields_int(struct schema_fields *f, const char *key, int64_t min, int64_t max, int64_t *out)
{
    assert(min <= 0 && max >= 0);
    const msgpack_object *o = schema_fields_find(f, key);
    if (!o)
        return false;
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        if (o->via.i64 < min) {
            schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s %" PRId64 " is below %" PRId64, key, o->via.i64, min);
            return false;
        }
        *out = o->via.i64;
        return true;
    }
    uint64_t u = 0;
    if (!value_uint(f, key, o, 0, (uint64_t)max, &u))
        return false;
    *out = (int64_t)u;
    return true;
}

bool schema_fields_real(struct schema_fields *f, const char *key, double min, double max, double *out)
{
    const msgpack_object *o = schema_fields_find(f, key);
    return o && value_real(f, key, o, min, max, out);
}

bool schema_fields_bool(struct schema_fields *f, const char *key, bool *out)
{
    const msgpack_object *o = schema_fields_find(f, key);
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_BOOLEAN) {
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s is %s, not a boolean", key, fields_kind(o));
        return false;
    }
    *out = o->via.boolean;
    return true;
}

bool schema_fields_string(struct schema_fields *f, const char *key, size_t n_min, size_t n_max,
                          struct schema_string *out)
{
    const msgpack_object *o = schema_fields_find(f, key);
    return o && value_string(f, key, o, n_min, n_max, out);
}

bool schema_fields_array(struct schema_fields *f, const char *key, uint32_t n_min, uint32_t n_max,
                         const msgpack_object_array **out)
{
    const msgpack_object *o = schema_fields_find(f, key);
    if (!o)
        return false;
    if (o->type != MSGPACK_OBJECT_ARRAY)
        schema_fields_fail(f, SCHEMA_WRONG_TYPE, "%s is %s, not an array", key, fields_kind(o));
    else if (o->via.array.size < n_min)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s is empty", key);
    else if (o->via.array.size > n_max)
        schema_fields_fail(f, SCHEMA_TOO_LARGE, "%s has %u elements, more than %u", key, o->via.array.size, n_max);
    else
        *out = &o->via.array;
    return f->code == SCHEMA_OK;
}

/* "key[i]" */
struct element_name {
    char text[64];
};

static struct element_name element_name_of(const char *key, uint32_t i)
{
    struct element_name name;
    snprintf(name.text, sizeof(name.text), "%s[%u]", key, i);
    return name;
}

bool schema_fields_ids(struct schema_fields *f, const char *key, uint32_t n_min, uint32_t n_max, const int32_t **out,
                       uint32_t *out_n)
{
    const msgpack_object_array *array;
    if (!schema_fields_array(f, key, n_min, n_max, &array))
        return false;
    int32_t *ids = schema_zone_alloc(f, array->size * sizeof(*ids));
    if (!ids)
        return false;
    for (uint32_t i = 0; i < array->size; i++) {
        const msgpack_object *o = &array->ptr[i];
        uint64_t id = o->via.u64;
        if ((o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || id > INT32_MAX) &&
            !value_uint(f, element_name_of(key, i).text, o, 0, INT32_MAX, &id))
            return false;
        ids[i] = (int32_t)id;
    }
    *out = ids;
    *out_n = array->size;
    return true;
}

bool schema_fields_floats(struct schema_fields *f, const char *key, uint32_t n_max, const float **out, uint32_t *out_n)
{
    const msgpack_object_array *array;
    if (!schema_fields_array(f, key, 0, n_max, &array))
        return false;
    float *values = schema_zone_alloc(f, array->size * sizeof(*values));
    if (!values)
        return false;
    for (uint32_t i = 0; i < array->size; i++) {
        double v = 0;
        if (!value_real(f, element_name_of(key, i).text, &array->ptr[i], -SCHEMA_FLOAT_MAX, SCHEMA_FLOAT_MAX, &v))
            return false;
        values[i] = (float)v;
    }
    *out = values;
    *out_n = array->size;
    return true;
}

bool schema_fields_strings(struct schema_fields *f, const char *key, uint32_t n_max, size_t bytes_min, size_t bytes_max,
                           const struct schema_string **out, uint32_t *out_n)
{
    const msgpack_object_array *array;
    if (!schema_fields_array(f, key, 0, n_max, &array))
        return false;
    struct schema_string *strings = schema_zone_alloc(f, array->size * sizeof(*strings));
    if (!strings)
        return false;
    for (uint32_t i = 0; i < array->size; i++) {
        if (!value_string(f, element_name_of(key, i).text, &array->ptr[i], bytes_min, bytes_max, &strings[i]))
            return false;
    }
    *out = strings;
    *out_n = array->size;
    return true;
}

static int writer_append(void *data, const char *bytes, size_t n)
{
    struct base_buffer *out = data;
    base_buffer_append(out, bytes, n);
    return out->failed;
}

void schema_writer_begin(struct schema_writer *w, struct base_buffer *out)
{
    msgpack_packer_init(&w->pk, out, writer_append);
    w->out = out;
    w->began = out->n;
    w->err.code = 0;
}

void schema_writer_fail(struct schema_writer *w, int code, const char *fmt, ...)
{
    if (w->err.code != 0)
        return;
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    base_fail(&w->err, code, "%s", text);
}

int schema_writer_end(struct schema_writer *w, struct base_error *err)
{
    if (w->out->failed == ERR_NOMEM)
        schema_writer_fail(w, ERR_NOMEM, "out of memory while encoding");
    else if (w->out->failed)
        schema_writer_fail(w, ERR_INPUT, "the record is longer than %zu bytes", w->out->n_max);
    if (w->err.code == 0)
        return 0;
    base_buffer_truncate(w->out, w->began);
    return base_fail(err, w->err.code, "%s", w->err.text);
}

static void write_text(struct schema_writer *w, const char *text, size_t n)
{
    msgpack_pack_str(&w->pk, n);
    msgpack_pack_str_body(&w->pk, text, n);
}

void schema_write_key(struct schema_writer *w, const char *key)
{
    write_text(w, key, strlen(key));
}

void schema_write_string(struct schema_writer *w, const char *key, struct schema_string s)
{
    if (key)
        schema_write_key(w, key);
    if (s.text && !base_utf8_valid(s.text, s.n))
        schema_writer_fail(w, ERR_INTERNAL, "%s is not UTF-8", key ? key : "a string");
    write_text(w, s.text ? s.text : "", s.text ? s.n : 0);
}

void schema_write_uint(struct schema_writer *w, const char *key, uint64_t v)
{
    schema_write_key(w, key);
    msgpack_pack_uint64(&w->pk, v);
}

void schema_write_int(struct schema_writer *w, const char *key, int64_t v)
{
    schema_write_key(w, key);
    msgpack_pack_int64(&w->pk, v);
}

void schema_write_real(struct schema_writer *w, const char *key, double v)
{
    if (key)
        schema_write_key(w, key);
    if (!isfinite(v))
        schema_writer_fail(w, ERR_INTERNAL, "%s %g is not a finite number", key ? key : "a value", v);
    if (fabs(v) <= (double)FLT_MAX && (double)(float)v == v)
        msgpack_pack_float(&w->pk, (float)v);
    else
        msgpack_pack_double(&w->pk, v);
}

void schema_write_ids(struct schema_writer *w, const char *key, const int32_t *ids, uint32_t n)
{
    schema_write_key(w, key);
    msgpack_pack_array(&w->pk, n);
    for (uint32_t i = 0; i < n; i++)
        msgpack_pack_int32(&w->pk, ids[i]);
}
