/* `rouse snapshot diff`: what two snapshots have in common, and what not. Contents are compared by the chunk tables, so that nothing but
 * headers and plans is read. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snapshot/admin.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_store.h"

struct side {
    struct snap_file *file;
    struct snap_plan plan;
};

struct shared {
    uint32_t n_same, n_moved, n_only_a, n_only_b; /* chunks: at the same place; elsewhere */
    uint64_t bytes, bytes_a, bytes_b;             /* in A that B has too, wherever; all */
};

static int side_open(struct snap_store *store, const char *which, struct side *s, struct base_error *err)
{
    struct schema_snapshot_record record;
    char path[PATH_MAX];
    uint8_t *plan = NULL;
    int rc = snap_store_resolve_here(store, which, &record, path, err);
    if (rc < 0)
        return rc;
    rc = snap_file_open(path, &s->file, err);
    if (rc == 0)
        rc = snap_file_read_section(s->file, SNAP_PLAN, &plan, err);
    if (rc == 0)
        rc = snap_plan_decode(plan, s->file->layout.sections[SNAP_PLAN].bytes, &s->plan, err);
    free(plan);
    return rc < 0 ? base_fail_in(err, "snapshot %s", path) : 0;
}

static void side_close(struct side *s)
{
    snap_plan_done(&s->plan);
    snap_file_close(s->file);
}

/* ---- chunks ---- */

static int by_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t count_missing(const struct snap_file *of, const uint64_t *sorted, uint32_t n,
                              uint64_t *out_shared_bytes)
{
    uint32_t n_missing = 0;
    for (uint32_t i = 0; i < of->layout.n_chunks; i++) {
        if (bsearch(&of->hashes[i], sorted, n, sizeof(*sorted), by_hash))
            *out_shared_bytes += snap_layout_chunk(&of->layout, i).bytes;
        else
            n_missing++;
    }
    return n_missing;
}

static uint64_t *sorted_hashes(const struct snap_file *f)
{
    uint64_t *sorted = malloc(f->layout.n_chunks * sizeof(*sorted));
    if (!sorted)
        return NULL;
    memcpy(sorted, f->hashes, f->layout.n_chunks * sizeof(*sorted));
    qsort(sorted, f->layout.n_chunks, sizeof(*sorted), by_hash);
    return sorted;
}

/* Chunk i of a section in both. */
static bool same_chunk(const struct snap_file *a, const struct snap_file *b, int kind, uint32_t i)
{
    const struct snap_section *x = &a->layout.sections[kind], *y = &b->layout.sections[kind];
    return i < x->n_chunks && i < y->n_chunks && a->hashes[x->first_chunk + i] == b->hashes[y->first_chunk + i];
}

static int compare_chunks(const struct snap_file *a, const struct snap_file *b, struct shared *out,
                          struct base_error *err)
{
    uint64_t *of_a = sorted_hashes(a), *of_b = sorted_hashes(b), back = 0;
    int rc = of_a && of_b ? 0 : base_fail(err, ERR_NOMEM, "compare chunks: out of memory");
    if (rc == 0) {
        out->n_only_a = count_missing(a, of_b, b->layout.n_chunks, &out->bytes);
        out->n_only_b = count_missing(b, of_a, a->layout.n_chunks, &back);
        for (int kind = 0; kind < SNAP_SECTION_N; kind++) {
            out->bytes_a += a->layout.sections[kind].stored_bytes;
            out->bytes_b += b->layout.sections[kind].stored_bytes;
            for (uint32_t i = 0; i < a->layout.sections[kind].n_chunks; i++)
                out->n_same += same_chunk(a, b, kind, i);
        }
        out->n_moved = a->layout.n_chunks - out->n_only_a - out->n_same;
    }
    free(of_a);
    free(of_b);
    return rc;
}

/* ---- tensors ---- */

static const struct gpu_tensor *find_tensor(const struct snap_plan *p, const char *name)
{
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        if (strcmp(p->tensors[i].name, name) == 0)
            return &p->tensors[i];
    }
    return NULL;
}

static bool same_shape(const struct gpu_tensor *x, const struct gpu_tensor *y)
{
    return x->dtype == y->dtype && x->rows == y->rows && x->cols == y->cols && x->bytes == y->bytes;
}

/* Whether all chunks that the tensor lies in are the same; chunks hold more than one tensor, so "no" means "maybe not". */
static bool same_bytes(const struct side *a, const struct side *b, const struct gpu_tensor *x,
                       const struct gpu_tensor *y)
{
    if (x->offset != y->offset)
        return false;
    for (uint64_t at = x->offset / SNAP_CHUNK_BYTES; at <= (x->offset + x->bytes - 1) / SNAP_CHUNK_BYTES; at++) {
        if (!same_chunk(a->file, b->file, SNAP_WEIGHTS, (uint32_t)at))
            return false;
    }
    return true;
}

/* "only in A", ...; NULL: the same. */
static const char *tensor_differs(const struct side *a, const struct side *b, const struct gpu_tensor *x)
{
    const struct gpu_tensor *y = find_tensor(&b->plan, x->name);
    return !y                        ? "only in A"
           : !same_shape(x, y)       ? "another type or shape"
           : !same_bytes(a, b, x, y) ? "in chunks that differ"
                                     : NULL;
}

/* Calls for each tensor that differs; returns how many are the same. */
typedef void tensor_visit(void *context, const struct gpu_tensor *t, const char *how);

static uint32_t each_tensor(const struct side *a, const struct side *b, tensor_visit *visit, void *context)
{
    uint32_t n_same = 0;
    for (uint32_t i = 0; i < a->plan.n_tensors; i++) {
        const char *how = tensor_differs(a, b, &a->plan.tensors[i]);
        n_same += how == NULL;
        if (how)
            visit(context, &a->plan.tensors[i], how);
    }
    for (uint32_t i = 0; i < b->plan.n_tensors; i++) {
        if (!find_tensor(&a->plan, b->plan.tensors[i].name))
            visit(context, &b->plan.tensors[i], "only in B");
    }
    return n_same;
}

/* ---- JSON ---- */

static void json_tensor(void *context, const struct gpu_tensor *t, const char *how)
{
    struct base_json *j = context;
    base_json_object_begin(j);
    base_json_kv_string(j, "name", t->name);
    base_json_kv_string(j, "differs", how);
    base_json_object_end(j);
}

static void json_pair(struct base_json *j, const char *key, const char *a, const char *b)
{
    base_json_key(j, key);
    base_json_object_begin(j);
    base_json_kv_string(j, "a", a);
    base_json_kv_string(j, "b", b);
    base_json_object_end(j);
}

static void diff_json(const struct side *a, const struct side *b, const struct shared *s, struct base_json *j)
{
    base_json_object_begin(j);
    json_pair(j, "id", a->file->manifest.id, b->file->manifest.id);
    base_json_kv_bool(j, "same_bytes", strcmp(a->file->digest, b->file->digest) == 0);
    base_json_key(j, "fingerprint");
    base_json_object_begin(j);
    for (int i = 0; i < SNAP_FP_N; i++) {
        const char *x = a->file->manifest.fingerprint.value[i], *y = b->file->manifest.fingerprint.value[i];
        if (strcmp(x, y) != 0)
            json_pair(j, snap_fingerprint_field_name((enum snap_fingerprint_field)i), x, y);
    }
    base_json_object_end(j);
    base_json_key(j, "sections");
    base_json_array_begin(j);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *x = &a->file->layout.sections[i], *y = &b->file->layout.sections[i];
        uint32_t n_same = 0;
        for (uint32_t k = 0; k < x->n_chunks; k++)
            n_same += same_chunk(a->file, b->file, i, k);
        base_json_object_begin(j);
        base_json_kv_string(j, "name", snap_section_name((enum snap_section_kind)i));
        base_json_kv_uint(j, "bytes_a", x->bytes);
        base_json_kv_uint(j, "bytes_b", y->bytes);
        base_json_kv_uint(j, "chunks_a", x->n_chunks);
        base_json_kv_uint(j, "chunks_b", y->n_chunks);
        base_json_kv_uint(j, "chunks_same", n_same);
        base_json_object_end(j);
    }
    base_json_array_end(j);
    base_json_kv_uint(j, "chunks_same", s->n_same);
    base_json_kv_uint(j, "chunks_moved", s->n_moved);
    base_json_kv_uint(j, "chunks_only_a", s->n_only_a);
    base_json_kv_uint(j, "chunks_only_b", s->n_only_b);
    base_json_kv_uint(j, "shared_bytes", s->bytes);
    base_json_kv_uint(j, "bytes_a", s->bytes_a);
    base_json_kv_uint(j, "bytes_b", s->bytes_b);
    base_json_key(j, "tensors");
    base_json_array_begin(j);
    uint32_t n_same = each_tensor(a, b, json_tensor, j);
    base_json_array_end(j);
    base_json_kv_uint(j, "tensors_same", n_same);
    base_json_object_end(j);
}

/* ---- for people ---- */

enum { TENSORS_SHOWN = 12 };

struct shown_tensors {
    struct base_buffer *out;
    uint32_t n;
};

static void text_tensor(void *context, const struct gpu_tensor *t, const char *how)
{
    struct shown_tensors *s = context;
    if (s->n++ < TENSORS_SHOWN)
        base_buffer_printf(s->out, "  %-48s %s\n", t->name, how);
}

static void text_sections(const struct side *a, const struct side *b, struct base_buffer *out)
{
    base_buffer_printf(out, "sections      %14s %14s  chunks that are the same\n", "bytes in A", "in B");
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *x = &a->file->layout.sections[i], *y = &b->file->layout.sections[i];
        uint32_t n_same = 0;
        for (uint32_t k = 0; k < x->n_chunks; k++)
            n_same += same_chunk(a->file, b->file, i, k);
        base_buffer_printf(out, "  %-10s  %14" PRIu64 " %14" PRIu64 "  %u of %u\n",
                           snap_section_name((enum snap_section_kind)i), x->bytes, y->bytes, n_same,
                           x->n_chunks > y->n_chunks ? x->n_chunks : y->n_chunks);
    }
}

static void diff_text(const struct side *a, const struct side *b, const struct shared *s, struct base_buffer *out)
{
    struct shown_tensors tensors = {.out = out};
    uint32_t n_fields = 0;
    base_buffer_printf(out, "A  %s  %s\nB  %s  %s\n", a->file->manifest.id, a->file->manifest.name,
                       b->file->manifest.id, b->file->manifest.name);
    base_buffer_string(out, "fingerprint\n");
    for (int i = 0; i < SNAP_FP_N; i++) {
        const char *x = a->file->manifest.fingerprint.value[i], *y = b->file->manifest.fingerprint.value[i];
        if (strcmp(x, y) == 0)
            continue;
        n_fields++;
        base_buffer_printf(out, "  %-8s  A %s\n            B %s\n",
                           snap_fingerprint_field_name((enum snap_fingerprint_field)i), x[0] ? x : "-", y[0] ? y : "-");
    }
    if (n_fields == 0)
        base_buffer_string(out, "  the same: B restores wherever A does\n");
    text_sections(a, b, out);
    base_buffer_printf(
        out, "chunks\n  %u at the same place, %u elsewhere, %u only in A, %u only in B; %.1f of %.1f MB shared\n",
        s->n_same, s->n_moved, s->n_only_a, s->n_only_b, (double)s->bytes / 1e6, (double)s->bytes_a / 1e6);
    base_buffer_string(out, "tensors\n");
    uint32_t n_same = each_tensor(a, b, text_tensor, &tensors);
    if (tensors.n > TENSORS_SHOWN)
        base_buffer_printf(out, "  and %u more; --json has them all\n", tensors.n - TENSORS_SHOWN);
    base_buffer_printf(out, "  %u the same, %u not", n_same, tensors.n);
}

int snap_admin_diff(struct snap_store *store, const char *a, const char *b, struct base_json *json,
                    struct base_buffer *text, struct base_error *err)
{
    struct side of_a = {.file = NULL}, of_b = {.file = NULL};
    struct shared shared = {.n_same = 0};
    int rc = side_open(store, a, &of_a, err);
    if (rc == 0)
        rc = side_open(store, b, &of_b, err);
    if (rc == 0)
        rc = compare_chunks(of_a.file, of_b.file, &shared, err);
    if (rc == 0 && json)
        diff_json(&of_a, &of_b, &shared, json);
    if (rc == 0 && text)
        diff_text(&of_a, &of_b, &shared, text);
    side_close(&of_a);
    side_close(&of_b);
    return rc;
}
