#include "snapshot/snap_restore.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "snapshot/snap_fill.h"
#include "snapshot/snap_plan.h"
#include "snapshot/start.h"

enum { MAP_AHEAD_MS = 10, MAP_AHEAD_BYTES = 64 << 20, LOOKS_MAX = 50, LOOK_AGAIN_MS = 5 };

/* What a restore needs until the model stands. */
struct parts {
    struct snap_plan plan;
    struct restore_ground ground;
    struct restore_plan way; /* chosen on it */
    struct snap_node *node;  /* NULL: on its own */
    struct snap_proof proof; /* n_tokens 0: of a host snapshot */
    uint8_t *choices;
    struct snap_fill *fill;
};

static int read_plan(struct snap_file *f, struct snap_plan *out, struct base_error *err)
{
    uint8_t *bytes = NULL;
    int rc = snap_file_read_section(f, SNAP_PLAN, &bytes, err);
    if (rc == 0)
        rc = snap_plan_decode(bytes, f->layout.sections[SNAP_PLAN].bytes, out, err);
    free(bytes);
    return rc;
}

static int read_proof(struct snap_file *f, uint32_t vocab, struct snap_proof *out, struct base_error *err)
{
    uint8_t *bytes = NULL;
    if (f->manifest.kind == SNAP_KIND_HOST)
        return 0;
    int rc = snap_file_read_section(f, SNAP_PROOF, &bytes, err);
    if (rc == 0)
        rc = snap_proof_decode(bytes, f->layout.sections[SNAP_PROOF].bytes, vocab, out, err);
    free(bytes);
    return rc;
}

/* One that was renamed onto another's id is at fault; a sound one that an index took for something else is not. */
static int check_fits(const struct snap_file *f, const struct snap_restore *restore, struct base_error *err)
{
    char diff[320];
    const struct snap_fingerprint *have = &f->manifest.fingerprint;
    struct snap_fingerprint wanted = *restore->wanted;
    bool host = f->manifest.kind == SNAP_KIND_HOST && gpu_device_uploads(restore->device);
    if (host)
        wanted = snap_fingerprint_host(&wanted);
    if (restore->id && strcmp(restore->id, f->manifest.id) != 0)
        return base_fail(err, ERR_CORRUPT, "by its manifest it is another snapshot, %s", f->manifest.id);
    if (snap_fingerprint_diff(have, &wanted, diff, sizeof(diff)) > 0)
        return base_fail(err, ERR_INPUT, "it does not fit: %s", diff);
    const char *dtype = have->value[SNAP_FP_DTYPE];
    if (strcmp(wanted.value[SNAP_FP_DTYPE], "auto") == 0 &&
        strcmp(dtype, snap_auto_dtype(restore->device, f->manifest.file_dtype)) != 0)
        return base_fail(err, ERR_INPUT, "it does not fit: dtype is %s, the model's files are %s", dtype,
                         f->manifest.file_dtype);
    return 0;
}

static int check_plan(const struct snap_file *f, const struct snap_plan *plan, struct base_error *err)
{
    const char *dtype = f->manifest.fingerprint.value[SNAP_FP_DTYPE];
    if (strcmp(model_dtype_name(plan->dtype), dtype) != 0)
        return base_fail(err, ERR_CORRUPT, "plan: dtype %s, the manifest says %s", model_dtype_name(plan->dtype),
                         dtype);
    if (plan->weights_bytes != f->layout.sections[SNAP_WEIGHTS].bytes)
        return base_fail(err, ERR_CORRUPT, "plan: %" PRIu64 " bytes of weights, their section has %" PRIu64,
                         plan->weights_bytes, f->layout.sections[SNAP_WEIGHTS].bytes);
    return 0;
}

/* Plans anew and compares before any memory is taken, then reserves. */
static int make_model(const struct snap_restore *r, const struct snap_plan *plan, struct gpu_model **out_model,
                      struct base_error *err)
{
    struct gpu_limits limits;
    struct gpu_model *model = NULL;
    uint64_t weights_bytes = 0, arena_bytes = 0;
    int rc = snap_limits_resolve(r->limits, r->device, r->kv_bytes_max, &plan->config, &limits, err);
    if (rc == 0)
        rc = gpu_plan_bytes(r->device, &plan->config, plan->dtype, &limits, &weights_bytes, &arena_bytes, err);
    if (rc < 0)
        return rc;
    if (weights_bytes != plan->weights_bytes)
        return base_fail(err, ERR_CORRUPT, "plan: %" PRIu64 " bytes of weights, this program plans %" PRIu64,
                         plan->weights_bytes, weights_bytes);
    rc = gpu_model_new(r->device, &plan->config, plan->dtype, &limits, &model, err);
    if (rc == 0)
        rc = snap_plan_check(plan, gpu_model_plan(model), err);
    if (rc < 0) {
        gpu_model_free(model);
        return rc;
    }
    *out_model = model;
    return 0;
}

static int open_tokenizer(const struct snap_file *f, struct snap_restored *out, struct base_error *err)
{
    struct base_error why = {0};
    int rc = model_tokenizer_open(out->tokenizer_blob, f->layout.sections[SNAP_TOKENIZER].bytes, &out->tokenizer, &why);
    if (rc < 0)
        return base_fail(err, rc == ERR_INPUT ? ERR_CORRUPT : rc, "section tokenizer: %s", why.text);
    return 0;
}

/* ---- which way ---- */

/* Once a process: it costs sharing between starts, nothing else. */
static void open_node(const struct snap_restore *r, const struct snap_file *f, struct parts *parts)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    struct base_error why = {0};
    if (r->unverified)
        return;
    if (snap_node_open(r->node_dir, f, gpu_device_info(r->device)->arch, &parts->node, &why) < 0 &&
        !atomic_flag_test_and_set(&said))
        base_log_info("starts on this node do not know of each other", LOG_STR("reason", why.text));
}

static void note_plan(const struct snap_restore *r, const struct parts *parts)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    const struct restore_plan *p = &parts->way;
    char text[32];
    base_trace_note(r->trace, "plan", restore_way_name(p->way));
    base_trace_note(r->trace, "plan_reason", p->reason);
    snprintf(text, sizeof(text), "%.3f", p->estimate_s);
    if (p->estimate_s >= 0)
        base_trace_note(r->trace, "estimate_s", text);
    if (p->way != RESTORE_ATTACH && (!parts->ground.uring || !parts->ground.direct) && !atomic_flag_test_and_set(&said))
        base_log_info("snapshots are read the slower way here",
                      LOG_STR("io_uring", parts->ground.uring ? "yes" : "refused"),
                      LOG_STR("past the page cache", parts->ground.direct ? "yes" : "no"));
}

static int choose(const struct snap_restore *r, const struct snap_file *f, struct parts *parts, struct base_error *err)
{
    restore_look(f, r->device, r->node_dir, parts->node, &parts->ground);
    return restore_choose(&parts->ground, r->way, &parts->way, err);
}

/* Of several starts on a node one reads the file, and the others map what it has read and proven. A mark may be older than the file's
 * stay in the page cache: who reads it again takes the mark away first, and who saw it before that looks again. */
static int await_turn(const struct snap_restore *r, const struct snap_file *f, struct parts *parts,
                      struct base_error *err)
{
    int rc = 0;
    enum snap_node_turn turn = SNAP_NODE_PROVEN;
    for (int i = 0; rc == 0 && turn == SNAP_NODE_PROVEN && !parts->way.trusted && i < LOOKS_MAX; i++) {
        if (i > 0)
            base_clock_sleep_ms(LOOK_AGAIN_MS);
        turn = snap_node_await(parts->node);
        rc = choose(r, f, parts, err);
    }
    if (rc == 0 && turn == SNAP_NODE_OURS && !parts->way.trusted)
        snap_node_clear_proven(parts->node);
    return rc;
}

static int choose_way(const struct snap_restore *r, const struct snap_file *f, struct parts *parts,
                      struct base_error *err)
{
    open_node(r, f, parts);
    int rc = choose(r, f, parts, err);
    if (rc == 0 && parts->node && parts->way.way == RESTORE_ATTACH && !parts->way.trusted)
        rc = await_turn(r, f, parts, err);
    if (rc == 0)
        note_plan(r, parts);
    return rc;
}

/* ---- the steps ---- */

static int begin_fill(const struct snap_restore *r, struct snap_file *f, struct parts *parts, struct snap_restored *out,
                      struct base_error *err)
{
    out->tokenizer_blob = aligned_alloc(SNAP_PAGE_BYTES, f->layout.sections[SNAP_TOKENIZER].stored_bytes);
    if (!out->tokenizer_blob)
        return base_fail(err, ERR_NOMEM, "tokenizer: out of memory");
    const struct snap_fill_options options = {.device = r->device,
                                              .file = f,
                                              .plan = parts->way,
                                              .cold = parts->ground.cached < RESTORE_COLD_SHARE,
                                              .node_dir = r->node_dir,
                                              .node = parts->node,
                                              .tokenizer = out->tokenizer_blob,
                                              .trace = r->trace,
                                              .progress = r->progress};
    return snap_fill_begin(&options, &parts->fill, err);
}

/* The small sections, and the readers on their way with the large ones. Nothing of it needs a device that is ready. */
static int begin_reading(const struct snap_restore *r, struct snap_file *f, struct parts *parts,
                         struct snap_restored *out, struct base_error *err)
{
    int rc = check_fits(f, r, err);
    if (rc == 0)
        rc = read_plan(f, &parts->plan, err);
    if (rc == 0)
        rc = check_plan(f, &parts->plan, err);
    if (rc == 0)
        rc = read_proof(f, parts->plan.config.vocab, &parts->proof, err);
    if (rc < 0)
        return rc;
    rc = choose_way(r, f, parts, err);
    if (rc < 0)
        return rc;
    if (parts->way.trusted) {
        uint8_t *blob = NULL;
        rc = snap_file_read_section(f, SNAP_TOKENIZER, &blob, err);
        out->tokenizer_blob = blob;
    } else {
        rc = begin_fill(r, f, parts, out, err);
    }
    return rc < 0 ? rc : snap_file_read_section(f, SNAP_CHOICES, &parts->choices, err);
}

/* Page table entries for what is in the page cache: with huge pages all of it in a millisecond. With small ones the forward pass
 * takes the rest as it goes, and the start does not wait for it. */
static void map_ahead(struct gpu_model *model)
{
    const uint64_t bytes = gpu_model_plan(model)->weights_bytes,
                   until_ns = base_clock_mono_ns() + MAP_AHEAD_MS * UINT64_C(1000000);
    for (uint64_t at = 0; at < bytes && base_clock_mono_ns() < until_ns; at += MAP_AHEAD_BYTES)
        if (base_memory_populate_read(gpu_model_host(model) + at,
                                      bytes - at < MAP_AHEAD_BYTES ? bytes - at : MAP_AHEAD_BYTES) < 0)
            return;
}

/* The device's part that needs no weights: its memory, its code. Readers fill the ring meanwhile, then the arena. */
static int prepare_model(const struct snap_restore *r, const struct snap_file *f, struct parts *parts,
                         struct snap_restored *out, struct base_error *err)
{
    size_t n_choices = f->layout.sections[SNAP_CHOICES].bytes;
    int rc = make_model(r, &parts->plan, &out->gpu, err);
    if (rc == 0 && parts->way.way == RESTORE_ATTACH)
        rc = gpu_model_map(out->gpu, f->fd, f->layout.sections[SNAP_WEIGHTS].offset, err);
    if (rc < 0)
        return rc;
    if (parts->way.trusted) {
        map_ahead(out->gpu);
        base_trace_end(r->trace, BASE_TRACE_RESTORE);
        return 0;
    }
    snap_fill_model(parts->fill, out->gpu);
    if (n_choices > 0) {
        base_trace_begin(r->trace, BASE_TRACE_CHOICES);
        rc = gpu_model_choices_import(out->gpu, parts->choices, n_choices, err);
        base_trace_end(r->trace, BASE_TRACE_CHOICES);
    }
    if (rc == 0)
        snap_fill_direct(parts->fill);
    return rc;
}

/* The proof, by layers as they arrive. On a cpu the forward pass and the readers share the cores, and it is no loss: 719 MB
 * on 2 cores with neighbours, restore and proof together, medians of runs in turn: from the page cache 243 ms this way and
 * 290 ms one after the other (12 runs each), from the disk 432 and 659 ms (5 runs each). */
static int check_proof(struct gpu_model *model, const struct snap_proof *proof, struct snap_fill *fill,
                       struct base_error *err)
{
    gpu_model_gate(model, snap_fill_gate, fill);
    int rc = snap_proof_check(model, proof, err);
    gpu_model_gate(model, NULL, NULL);
    return rc;
}

/* Of the two that may fail at once, reading is the cause and the forward pass, which waited for it, the effect. */
static int end_reading(struct snap_fill **fill, int rc, struct base_error *err)
{
    struct base_error why = {0};
    int filled = snap_fill_end(*fill, rc < 0, &why);
    *fill = NULL;
    if (filled == 0 || (rc < 0 && filled == ERR_STOPPED))
        return rc;
    return base_fail(err, why.code, "%s", why.text);
}

/* What a host snapshot left open. */
static int finish_host(const struct snap_restore *r, struct parts *parts, struct snap_restored *out,
                       struct base_error *err)
{
    int rc = end_reading(&parts->fill, 0, err);
    if (rc < 0)
        return rc;
    base_trace_begin(r->trace, BASE_TRACE_CHOICES);
    rc = gpu_model_warm_up(out->gpu, err);
    base_trace_end(r->trace, BASE_TRACE_CHOICES);
    return rc;
}

static int restore_phases(const struct snap_restore *r, struct snap_file *f, struct parts *parts,
                          struct snap_restored *out, struct base_error *err)
{
    base_trace_begin(r->trace, BASE_TRACE_RESTORE); /* ended by the reader of the last chunk */
    int rc = begin_reading(r, f, parts, out, err);
    if (rc == 0)
        rc = prepare_model(r, f, parts, out, err);
    if (rc == 0 && parts->fill)
        rc = snap_fill_wait_tokenizer(parts->fill, err);
    if (rc < 0)
        return rc;

    base_trace_begin(r->trace, BASE_TRACE_TOKENIZER);
    rc = open_tokenizer(f, out, err);
    base_trace_end(r->trace, BASE_TRACE_TOKENIZER);
    if (rc < 0)
        return rc;

    if (f->manifest.kind == SNAP_KIND_HOST)
        return finish_host(r, parts, out, err);
    if (parts->way.trusted)
        return 0;
    base_trace_begin(r->trace, BASE_TRACE_VERIFY);
    rc = check_proof(out->gpu, &parts->proof, parts->fill, err);
    base_trace_end(r->trace, BASE_TRACE_VERIFY);
    return rc;
}

int snap_restore_read(const struct snap_restore *restore, struct snap_restored *out, struct base_error *err)
{
    struct snap_restored done = {.gpu = NULL};
    struct parts parts = {.plan = {.tensors = NULL}};
    struct snap_file *f = NULL;
    char name[SNAP_ID_CHARS + 8];
    int rc = snap_file_open(restore->path, &f, err);
    if (rc < 0)
        return rc;
    done.manifest = f->manifest;
    done.file_bytes = f->layout.file_bytes;
    done.tokenizer_bytes = f->layout.sections[SNAP_TOKENIZER].bytes;
    snprintf(name, sizeof(name), "%s.snap", f->manifest.id);
    snap_file_record(f, name, &done.record);
    f->unhashed = restore->unverified;
    rc = restore_phases(restore, f, &parts, &done, err);
    rc = end_reading(&parts.fill, rc, err);
    if (rc == 0 && parts.node && parts.way.way == RESTORE_ATTACH)
        snap_node_set_proven(parts.node);
    snap_node_close(parts.node);
    done.proof = parts.proof;
    done.plan = parts.way;
    free(parts.choices);
    snap_file_close(f);
    snap_plan_done(&parts.plan);
    if (rc < 0) {
        snap_restored_done(&done);
        return rc;
    }
    *out = done;
    return 0;
}

static int refill(struct gpu_device *device, struct snap_file *f, const char *id, struct gpu_model *model,
                  const struct snap_proof *proof, struct base_error *err)
{
    struct snap_plan plan;
    struct snap_fill *fill = NULL;
    struct snap_fill_options options = {.device = device, .file = f};
    struct restore_ground ground;
    if (strcmp(f->manifest.id, id) != 0)
        return base_fail(err, ERR_CORRUPT, "by its manifest it is another snapshot, %s", f->manifest.id);
    int rc = read_plan(f, &plan, err);
    if (rc < 0)
        return rc;
    rc = snap_plan_check(&plan, gpu_model_plan(model), err);
    snap_plan_done(&plan);
    restore_look(f, device, NULL, NULL, &ground);
    options.cold = ground.cached < RESTORE_COLD_SHARE;
    if (rc == 0)
        rc = restore_choose(&ground, RESTORE_AUTO, &options.plan, err);
    if (rc == 0)
        rc = snap_fill_begin(&options, &fill, err);
    if (rc < 0)
        return rc;
    snap_fill_model(fill, model);
    snap_fill_direct(fill);
    rc = check_proof(model, proof, fill, err);
    return end_reading(&fill, rc, err);
}

int snap_restore_refill(struct gpu_device *device, const char *path, const char *id, struct gpu_model *model,
                        const struct snap_proof *proof, struct base_error *err)
{
    struct snap_file *f = NULL;
    int rc = snap_file_open(path, &f, err);
    if (rc < 0)
        return rc;
    rc = refill(device, f, id, model, proof, err);
    snap_file_close(f);
    return rc;
}

void snap_restored_done(struct snap_restored *restored)
{
    model_tokenizer_close(restored->tokenizer);
    free(restored->tokenizer_blob);
    gpu_model_free(restored->gpu);
    *restored = (struct snap_restored){.gpu = NULL};
}

static void limit_default(uint32_t *field, uint64_t value)
{
    if (*field == 0)
        *field = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

void snap_limits_default(struct gpu_limits *limits, const struct model_config *config, uint32_t kv_value_bytes,
                         uint64_t kv_bytes_max)
{
    limit_default(&limits->n_ctx_max, config->n_positions < 4096 ? config->n_positions : 4096);
    limit_default(&limits->n_seqs_max, 16);
    limit_default(&limits->n_tokens_max, 512);
    limit_default(&limits->n_logits_max, limits->n_seqs_max);
    if (kv_bytes_max == 0)
        kv_bytes_max = 1u << 30;
    uint64_t per_sequence = ((uint64_t)limits->n_ctx_max + GPU_BLOCK_TOKENS - 1) / GPU_BLOCK_TOKENS;
    /* K and V, E of each for every layer and token of a block */
    uint64_t block_bytes = (uint64_t)config->n_layers * 2 * config->hidden * GPU_BLOCK_TOKENS * kv_value_bytes;
    uint64_t n_blocks = per_sequence * limits->n_seqs_max;
    if (n_blocks > kv_bytes_max / block_bytes)
        n_blocks = kv_bytes_max / block_bytes;
    limit_default(&limits->n_blocks, n_blocks > per_sequence ? n_blocks : per_sequence);
}

int snap_limits_resolve(const struct gpu_limits *given, const struct gpu_device *device, uint64_t kv_bytes_max,
                        const struct model_config *config, struct gpu_limits *out_limits, struct base_error *err)
{
    uint32_t least = config->n_positions < SNAP_PROOF_CTX ? config->n_positions : SNAP_PROOF_CTX;
    struct gpu_limits limits = *given;
    snap_limits_default(&limits, config, gpu_device_info(device)->kv_value_bytes, kv_bytes_max);
    if (limits.n_ctx_max < least)
        return base_fail(err, ERR_USAGE, "a context of %u tokens: the proof alone takes %u", limits.n_ctx_max, least);
    /* Room for the proof in one step: one pass over the weights instead of one a token, for 1.6 MB of logits. */
    if (limits.n_logits_max < SNAP_PROOF_TOKENS_MAX)
        limits.n_logits_max = SNAP_PROOF_TOKENS_MAX;
    if (limits.n_tokens_max < SNAP_PROOF_CTX)
        limits.n_tokens_max = SNAP_PROOF_CTX;
    *out_limits = limits;
    return 0;
}
