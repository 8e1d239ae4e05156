#include "schemas/snapshot_record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "schemas/msgpack_fields.h"

enum { N_STATES = SCHEMA_SNAPSHOT_OBSOLETE + 1 };

static const char *const state_names[N_STATES] = {
    [SCHEMA_SNAPSHOT_BUILDING] = "building",
    [SCHEMA_SNAPSHOT_READY] = "ready",
    [SCHEMA_SNAPSHOT_QUARANTINED] = "quarantined",
    [SCHEMA_SNAPSHOT_OBSOLETE] = "obsolete",
};

const char *schema_snapshot_state_name(enum schema_snapshot_state state)
{
    return (unsigned)state < N_STATES ? state_names[state] : "unknown";
}

static void record_write_text(struct schema_writer *w, const char *key, const char *text)
{
    schema_write_string(w, key, (struct schema_string){.text = text, .n = strlen(text)});
}

int schema_snapshot_record_encode(const struct schema_snapshot_record *r, struct base_buffer *out,
                                  struct base_error *err)
{
    struct schema_writer w;
    schema_writer_begin(&w, out);
    msgpack_pack_map(&w.pk, 14);
    schema_write_uint(&w, "v", 1);
    record_write_text(&w, "id", r->id);
    record_write_text(&w, "state", schema_snapshot_state_name(r->state));
    record_write_text(&w, "name", r->name);
    record_write_text(&w, "file", r->file);
    schema_write_uint(&w, "bytes", r->bytes);
    record_write_text(&w, "model_digest", r->model_digest);
    record_write_text(&w, "device", r->device);
    record_write_text(&w, "arch", r->arch);
    record_write_text(&w, "dtype", r->dtype);
    record_write_text(&w, "file_digest", r->file_digest);
    schema_write_int(&w, "created_ms", r->created_ms);
    record_write_text(&w, "builder", r->builder);
    record_write_text(&w, "reason", r->reason);
    return schema_writer_end(&w, err);
}

/* Text that fits size bytes with its NUL and has none inside. */
static void record_read_text(struct schema_fields *f, const char *key, char *to, size_t size)
{
    struct schema_string s;
    schema_fields_need(f, key);
    if (!schema_fields_string(f, key, 0, size - 1, &s))
        return;
    if (strlen(s.text) != s.n)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s has a NUL inside", key);
    else
        memcpy(to, s.text, s.n + 1);
}

/* Lower-case hex that fills all of to; or nothing, where that is allowed (a digest not known yet). */
static void record_read_hex(struct schema_fields *f, const char *key, bool may_be_empty, char *to, size_t size)
{
    record_read_text(f, key, to, size);
    if (f->code != SCHEMA_OK || (may_be_empty && to[0] == '\0'))
        return;
    if (strspn(to, "0123456789abcdef") != size - 1)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "%s '%s' is not %zu hex digits", key, schema_show(to, strlen(to)).text,
                           size - 1);
}

/* The file is opened below the store: nothing that the index says may lead out of it. */
static void record_read_file(struct schema_fields *f, char *to, size_t size)
{
    record_read_text(f, "file", to, size);
    if (f->code != SCHEMA_OK)
        return;
    bool leads_out = to[0] == '/';
    for (const char *part = to; part && !leads_out; part = strchr(part, '/')) {
        part += *part == '/';
        leads_out = strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0');
    }
    if (leads_out)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "file '%s' is not a path below the store",
                           schema_show(to, strlen(to)).text);
}

static void record_read_state(struct schema_fields *f, enum schema_snapshot_state *out)
{
    char name[32] = "";
    record_read_text(f, "state", name, sizeof(name));
    unsigned state = 0;
    while (state < N_STATES && strcmp(state_names[state], name) != 0)
        state++;
    if (state == N_STATES)
        schema_fields_fail(f, SCHEMA_BAD_VALUE, "state '%s' is none of building, ready, quarantined, obsolete", name);
    else
        *out = (enum schema_snapshot_state)state;
}

static void record_read(struct schema_fields *f, struct schema_snapshot_record *r)
{
    uint64_t created_ms = 0;
    schema_fields_version(f, 1);
    record_read_hex(f, "id", false, r->id, sizeof(r->id));
    record_read_state(f, &r->state);
    record_read_text(f, "name", r->name, sizeof(r->name));
    record_read_file(f, r->file, sizeof(r->file));
    schema_fields_need(f, "bytes");
    schema_fields_uint(f, "bytes", 0, INT64_MAX, &r->bytes);
    record_read_hex(f, "model_digest", true, r->model_digest, sizeof(r->model_digest));
    record_read_text(f, "device", r->device, sizeof(r->device));
    record_read_text(f, "arch", r->arch, sizeof(r->arch));
    record_read_text(f, "dtype", r->dtype, sizeof(r->dtype));
    record_read_hex(f, "file_digest", true, r->file_digest, sizeof(r->file_digest));
    schema_fields_need(f, "created_ms");
    schema_fields_uint(f, "created_ms", 0, SCHEMA_TIME_MS_MAX, &created_ms);
    r->created_ms = (int64_t)created_ms;
    record_read_text(f, "builder", r->builder, sizeof(r->builder));
    record_read_text(f, "reason", r->reason, sizeof(r->reason));
}

int schema_snapshot_record_decode(const void *bytes, size_t n, struct schema_snapshot_record *out_r,
                                  struct base_error *err)
{
    enum schema_code code;
    msgpack_unpacked root;
    int rc = schema_unpack(bytes, n, &schema_scan_limits_default, &root, &code, err);
    if (rc < 0)
        return rc;
    struct schema_snapshot_record record = {0};
    struct schema_fields f;
    msgpack_zone *zone = msgpack_zone_new(n + 64);
    if (!zone) {
        rc = base_fail(err, ERR_NOMEM, "out of memory for a snapshot record of %zu bytes", n);
    } else {
        schema_fields_init(&f, &root.data, zone, "");
        record_read(&f, &record);
        if (f.code != SCHEMA_OK)
            rc = base_fail(err, f.err.code, "%s", f.err.text);
        else
            *out_r = record;
    }
    msgpack_zone_free(zone);
    msgpack_unpacked_destroy(&root);
    return rc;
}
