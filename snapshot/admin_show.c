/* What a snapshot says of itself: once as JSON, once for people. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "snapshot/admin.h"
#include "snapshot/snap_file.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_proof.h"
#include "snapshot/snap_store.h"

struct shown {
    const struct gpu_device *device; /* of this machine; NULL: not compared with */
    struct snap_fingerprint own;     /* what a start on that device would want of this model */
    struct snap_file *file;
    struct schema_snapshot_record record;
    struct snap_plan plan;
    struct snap_proof proof; /* empty: of a host snapshot */
};

static int shown_read(struct shown *s, struct base_error *err)
{
    uint8_t *plan = NULL, *proof = NULL;
    const struct snap_section *sections = s->file->layout.sections;
    int rc = snap_file_read_section(s->file, SNAP_PLAN, &plan, err);
    if (rc == 0)
        rc = snap_plan_decode(plan, sections[SNAP_PLAN].bytes, &s->plan, err);
    bool proven = s->file->manifest.kind == SNAP_KIND_DEVICE;
    if (rc == 0 && proven)
        rc = snap_file_read_section(s->file, SNAP_PROOF, &proof, err);
    if (rc == 0 && proven)
        rc = snap_proof_decode(proof, sections[SNAP_PROOF].bytes, s->plan.config.vocab, &s->proof, err);
    free(plan);
    free(proof);
    return rc;
}

/* ---- would it fit here? ---- */

/* The same model, key and files, this program, this device. */
static int shown_compare(struct shown *s, struct base_error *err)
{
    const struct snap_manifest *m = &s->file->manifest;
    if (!s->device)
        return 0;
    int rc =
        snap_fingerprint_init(&s->own, gpu_device_info(s->device), snap_auto_dtype(s->device, m->file_dtype), "", err);
    snap_fingerprint_set(&s->own, SNAP_FP_MODEL, m->fingerprint.value[SNAP_FP_MODEL]);
    snap_fingerprint_set(&s->own, SNAP_FP_KEY, m->fingerprint.value[SNAP_FP_KEY]);
    if (m->kind == SNAP_KIND_HOST && gpu_device_uploads(s->device))
        s->own = snap_fingerprint_host(&s->own);
    return rc;
}

static bool differs_here(const struct shown *s, int field)
{
    return strcmp(s->file->manifest.fingerprint.value[field], s->own.value[field]) != 0;
}

static void json_here(const struct shown *s, struct base_json *j)
{
    bool fits = true;
    if (!s->device)
        return;
    base_json_key(j, "differs_here");
    base_json_object_begin(j);
    for (int i = 0; i < SNAP_FP_N; i++) {
        if (!differs_here(s, i))
            continue;
        fits = false;
        base_json_key(j, snap_fingerprint_field_name((enum snap_fingerprint_field)i));
        base_json_object_begin(j);
        base_json_kv_string(j, "snapshot", s->file->manifest.fingerprint.value[i]);
        base_json_kv_string(j, "here", s->own.value[i]);
        base_json_object_end(j);
    }
    base_json_object_end(j);
    base_json_kv_bool(j, "fits_here", fits);
}

static const char *or_dash(const char *text)
{
    return text[0] ? text : "-";
}

static void text_here(const struct shown *s, struct base_buffer *out)
{
    bool fits = true;
    if (!s->device)
        return;
    base_buffer_printf(out, "this machine (%s)\n", gpu_device_info(s->device)->kind);
    for (int i = 0; i < SNAP_FP_N; i++) {
        if (!differs_here(s, i))
            continue;
        fits = false;
        base_buffer_printf(out, "  %s: snapshot %s, this machine %s%s\n",
                           snap_fingerprint_field_name((enum snap_fingerprint_field)i),
                           or_dash(s->file->manifest.fingerprint.value[i]), or_dash(s->own.value[i]),
                           i == SNAP_FP_DTYPE ? " by --dtype auto -> --dtype asks for this one"
                                              : " -> another snapshot will be built");
    }
    if (fits)
        base_buffer_string(out, "  fits: a start here restores it\n");
}

/* ---- JSON ---- */

static void json_config(const struct model_config *c, struct base_json *j)
{
    base_json_key(j, "config");
    base_json_object_begin(j);
    base_json_kv_uint(j, "n_layers", c->n_layers);
    base_json_kv_uint(j, "hidden", c->hidden);
    base_json_kv_uint(j, "n_heads", c->n_heads);
    base_json_kv_uint(j, "head_dim", c->head_dim);
    base_json_kv_uint(j, "rotary_dims", c->rotary_dims);
    base_json_kv_uint(j, "intermediate", c->intermediate);
    base_json_kv_uint(j, "vocab", c->vocab);
    base_json_kv_uint(j, "n_positions", c->n_positions);
    base_json_kv_bool(j, "parallel_residual", c->parallel_residual);
    base_json_kv_bool(j, "tied", c->tied);
    base_json_kv_uint(j, "n_parameters", model_config_n_parameters(c));
    base_json_object_end(j);
}

static void json_sections(const struct shown *s, struct base_json *j)
{
    base_json_kv_uint(j, "chunk_bytes", SNAP_CHUNK_BYTES);
    base_json_kv_uint(j, "chunks", s->file->layout.n_chunks);
    base_json_key(j, "sections");
    base_json_array_begin(j);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *x = &s->file->layout.sections[i];
        base_json_object_begin(j);
        base_json_kv_string(j, "name", snap_section_name((enum snap_section_kind)i));
        base_json_kv_uint(j, "offset", x->offset);
        base_json_kv_uint(j, "bytes", x->bytes);
        base_json_kv_uint(j, "first_chunk", x->first_chunk);
        base_json_kv_uint(j, "chunks", x->n_chunks);
        base_json_object_end(j);
    }
    base_json_array_end(j);
}

static void json_tensors(const struct snap_plan *p, struct base_json *j)
{
    base_json_key(j, "tensors");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        const struct gpu_tensor *t = &p->tensors[i];
        base_json_object_begin(j);
        base_json_kv_string(j, "name", t->name);
        base_json_kv_string(j, "dtype", model_dtype_name(t->dtype));
        base_json_kv_uint(j, "rows", t->rows);
        base_json_kv_uint(j, "cols", t->cols);
        base_json_kv_uint(j, "offset", t->offset);
        base_json_kv_uint(j, "bytes", t->bytes);
        base_json_object_end(j);
    }
    base_json_array_end(j);
}

static void json_ids(const char *key, const int32_t *ids, uint32_t n, struct base_json *j)
{
    base_json_key(j, key);
    base_json_array_begin(j);
    for (uint32_t i = 0; i < n; i++)
        base_json_int(j, ids[i]);
    base_json_array_end(j);
}

static void json_proof(const struct snap_proof *p, struct base_json *j)
{
    base_json_key(j, "proof");
    base_json_object_begin(j);
    json_ids("prompt", p->prompt, p->n_prompt, j);
    json_ids("tokens", p->tokens, p->n_tokens, j);
    base_json_key(j, "logprobs");
    base_json_array_begin(j);
    for (uint32_t i = 0; i < p->n_tokens; i++)
        base_json_double(j, (double)p->logprobs[i], 9);
    base_json_array_end(j);
    base_json_object_end(j);
}

static void show_json(const struct shown *s, struct base_json *j)
{
    const struct snap_manifest *m = &s->file->manifest;
    base_json_object_begin(j);
    base_json_kv_string(j, "id", m->id);
    base_json_kv_string(j, "kind", snap_kind_name(m->kind));
    base_json_kv_string(j, "name", m->name);
    base_json_kv_string(j, "state", schema_snapshot_state_name(s->record.state));
    base_json_kv_string(j, "path", s->file->path);
    base_json_kv_uint(j, "bytes", s->file->layout.file_bytes);
    base_json_kv_string(j, "digest", s->file->digest);
    base_json_kv_int(j, "created_ms", m->created_ms);
    base_json_kv_string(j, "builder", m->builder);
    base_json_kv_string(j, "program", m->program);
    base_json_kv_string(j, "file_dtype", m->file_dtype);
    base_json_kv_string(j, "files", m->files);
    base_json_key(j, "fingerprint");
    base_json_object_begin(j);
    for (int i = 0; i < SNAP_FP_N; i++)
        base_json_kv_string(j, snap_fingerprint_field_name((enum snap_fingerprint_field)i), m->fingerprint.value[i]);
    base_json_object_end(j);
    json_here(s, j);
    json_config(&s->plan.config, j);
    json_sections(s, j);
    json_proof(&s->proof, j);
    json_tensors(&s->plan, j);
    base_json_object_end(j);
}

/* ---- for people ---- */

static void text_manifest(const struct shown *s, struct base_buffer *out)
{
    const struct snap_manifest *m = &s->file->manifest;
    char when[32] = "-";
    time_t seconds = (time_t)(m->created_ms / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%SZ", &tm);
    base_buffer_printf(out, "snapshot %s (%s)\n", m->id, schema_snapshot_state_name(s->record.state));
    base_buffer_printf(out, "  name      %s\n  kind      %s\n  path      %s\n", m->name, snap_kind_name(m->kind),
                       s->file->path);
    base_buffer_printf(out, "  size      %.1f MB (%" PRIu64 " bytes)\n", (double)s->file->layout.file_bytes / 1e6,
                       s->file->layout.file_bytes);
    base_buffer_printf(out, "  created   %s by %s, %s\n", when, m->builder, m->program);
    base_buffer_printf(out, "  digest    %s (header, tables, order: matches)\n", s->file->digest);
    base_buffer_string(out, "fingerprint\n");
    for (int i = 0; i < SNAP_FP_N; i++)
        base_buffer_printf(out, "  %-8s  %s\n", snap_fingerprint_field_name((enum snap_fingerprint_field)i),
                           m->fingerprint.value[i][0] ? m->fingerprint.value[i] : "-");
    base_buffer_printf(out, "source\n  files     %s\n  dtype     %s\n", m->files, m->file_dtype);
}

static void text_layout(const struct shown *s, struct base_buffer *out)
{
    const struct model_config *c = &s->plan.config;
    base_buffer_printf(
        out,
        "model\n  %u layers, hidden %u, %u heads of %u, %u of them rotated, intermediate %u, vocabulary %u, "
        "%u positions, %.1f M parameters\n",
        c->n_layers, c->hidden, c->n_heads, c->head_dim, c->rotary_dims, c->intermediate, c->vocab, c->n_positions,
        (double)model_config_n_parameters(c) / 1e6);
    base_buffer_printf(out, "sections (%u chunks of up to %d bytes)\n", s->file->layout.n_chunks, SNAP_CHUNK_BYTES);
    for (int i = 0; i < SNAP_SECTION_N; i++) {
        const struct snap_section *x = &s->file->layout.sections[i];
        base_buffer_printf(out, "  %-9s  %12" PRIu64 " bytes at %12" PRIu64 ", %u chunks\n",
                           snap_section_name((enum snap_section_kind)i), x->bytes, x->offset, x->n_chunks);
    }
}

static void text_proof(const struct snap_proof *p, struct base_buffer *out)
{
    if (p->n_tokens == 0) {
        base_buffer_string(out, "proof\n  none: made by the first worker that restores this host snapshot\n");
        return;
    }
    base_buffer_string(out, "proof\n  prompt   ");
    for (uint32_t i = 0; i < p->n_prompt; i++)
        base_buffer_printf(out, " %d", p->prompt[i]);
    base_buffer_string(out, "\n  tokens   ");
    for (uint32_t i = 0; i < p->n_tokens; i++)
        base_buffer_printf(out, " %d (%.4f)", p->tokens[i], (double)p->logprobs[i]);
    base_buffer_string(out, "\n");
}

static void text_tensors(const struct snap_plan *p, struct base_buffer *out)
{
    base_buffer_printf(out, "tensors (%u)", p->n_tensors);
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        const struct gpu_tensor *t = &p->tensors[i];
        base_buffer_printf(out, "\n  %-48s %-4s [%u][%u] at %" PRIu64, t->name, model_dtype_name(t->dtype), t->rows,
                           t->cols, t->offset);
    }
}

int snap_admin_show(struct snap_store *store, const char *which, const struct gpu_device *device,
                    struct base_json *json, struct base_buffer *text, struct base_error *err)
{
    struct shown s = {.device = device};
    char path[PATH_MAX];
    int rc = snap_store_resolve_here(store, which, &s.record, path, err);
    if (rc < 0)
        return rc;
    rc = snap_file_open(path, &s.file, err);
    if (rc == 0)
        rc = shown_read(&s, err);
    if (rc == 0)
        rc = shown_compare(&s, err);
    if (rc < 0)
        base_fail_in(err, "snapshot %s", path);
    if (rc == 0 && json)
        show_json(&s, json);
    if (rc == 0 && text) {
        text_manifest(&s, text);
        text_here(&s, text);
        text_layout(&s, text);
        text_proof(&s.proof, text);
        text_tensors(&s.plan, text);
    }
    snap_plan_done(&s.plan);
    snap_file_close(s.file);
    return rc;
}
