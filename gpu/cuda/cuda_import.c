/* Choices of a model: out into bytes for a snapshot, and back in. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gpu/cuda/cuda_choices.h"
#include "gpu/cuda/cuda_model.h"

static void layout_of(const struct gpu_plan *p, uint64_t layout[CUDA_CHOICES_LAYOUT])
{
    const struct gpu_limits *max = &p->limits;
    const uint64_t numbers[CUDA_CHOICES_LAYOUT] = {
        p->workspace_offset, p->workspace_bytes, p->kv_offset,      p->kv_bytes,    p->arena_bytes,
        max->n_tokens_max,   max->n_seqs_max,    max->n_logits_max, max->n_ctx_max, max->n_blocks};
    memcpy(layout, numbers, sizeof numbers);
}

/* All but what the model has chosen. */
static void describe(const struct cuda_model *m, struct cuda_choices *c)
{
    const struct cuda_device *d = m->device;
    memset(c, 0, sizeof *c);
    strcpy(c->arch, d->arch);
    strcpy(c->driver, d->driver);
    c->kernels_id = cuda_module_kernels_id();
    c->lt_version = d->lt ? d->lt->version : 0;
    c->fastest = d->fastest_gemms;
    layout_of(&m->base.plan, c->layout);
    for (enum cuda_kernel k = 0; k < CUDA_KERNELS; k++)
        cuda_kernel_name(k, m->bf16, m->base.plan.config.head_dim, c->kernels[k]);
}

static int copy_graphs(const struct cuda_model *m, struct cuda_choices *c, struct base_error *err)
{
    for (uint32_t i = 0; i < m->n_buckets; i++) {
        const struct cuda_topology *from = &m->buckets[i].topology;
        struct cuda_topology *to = &c->graphs[i];
        const int rc = cuda_topology_init(to, from->n, err);
        if (rc < 0)
            return rc;
        c->n_graphs = i + 1;
        memcpy(to->nodes, from->nodes, from->n * sizeof *from->nodes);
        to->n = from->n;
        cuda_topology_to_offsets(to, m->arena.base);
    }
    return 0;
}

int cuda_model_choices_export(struct gpu_model *model, struct base_buffer *out, struct base_error *err)
{
    struct cuda_model *m = (struct cuda_model *)model;
    if (!m->prepared || !m->buckets[0].topology.nodes)
        return base_fail(err, ERR_USAGE, "choices: the model has not been warmed up");
    if (!m->device->lt &&
        strstr(m->device->driver, "cublasLt")) /* a snapshot that only a broken library could restore */
        return base_fail(err, ERR_SERVICE, "choices: cublasLt is there and does not work");
    struct cuda_choices *c = calloc(1, sizeof *c);
    if (!c)
        return base_fail(err, ERR_NOMEM, "no memory for choices");
    describe(m, c);
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        c->n_classes[i] = m->gemms.of[i].n_classes;
        memcpy(c->gemms[i], m->gemms.of[i].choices, sizeof c->gemms[i]);
    }
    c->image = m->device->module->image;
    c->image_bytes = m->device->module->image_bytes;
    int rc = copy_graphs(m, c, err);
    if (rc == 0)
        cuda_choices_encode(c, out);
    if (rc == 0 && out->failed)
        rc = base_fail(err, out->failed, "choices: they do not fit into %zu bytes", out->n_max);
    cuda_choices_done(c);
    free(c);
    return rc;
}

static int take_gemms(struct cuda_model *m, const struct cuda_choices *c, const struct cuda_choices *own,
                      struct base_error *err)
{
    /* By the driver's description they are equal, so that ours did not come up: no fault of the snapshot's. */
    if (c->lt_version != own->lt_version)
        return base_fail(err, ERR_SERVICE, "prompts were computed with cublasLt %d, which does not work here",
                         (int)c->lt_version);
    if (c->fastest != own->fastest)
        return base_fail(err, ERR_CORRUPT,
                         "choices: of another kind of GEMM algorithms than their driver's description");
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        /* other limits may have other classes: those that both have are the same */
        const uint32_t n = m->gemms.of[i].n_classes;
        for (uint32_t j = 0; j < n && j < c->n_classes[i]; j++) {
            const int rc = cuda_gemms_take(&m->gemms, i, j, &c->gemms[i][j], err);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static bool has_own_kernels(const struct cuda_choices *c, const struct cuda_choices *own)
{
    return c->kernels_id == own->kernels_id && memcmp(c->kernels, own->kernels, sizeof c->kernels) == 0;
}

/* The launches fit this model alone: the same kernels, the same arena, other limits have other graphs. */
static void take_graphs(struct cuda_model *m, struct cuda_choices *c, const struct cuda_choices *own)
{
    if (!has_own_kernels(c, own) || memcmp(c->layout, own->layout, sizeof c->layout) != 0 ||
        c->n_graphs != m->n_buckets) {
        base_log_info("graphs of the snapshot are not taken", LOG_STR("reason", "other kernels or limits"));
        return;
    }
    for (uint32_t i = 0; i < m->n_buckets; i++) {
        if (m->buckets[i].topology.nodes)
            continue;
        cuda_topology_to_addresses(&c->graphs[i], m->arena.base);
        m->buckets[i].topology = c->graphs[i];
        c->graphs[i] = (struct cuda_topology){0};
    }
}

static int import(struct cuda_model *m, struct cuda_choices *c, struct cuda_choices *own, struct base_error *err)
{
    int rc = cuda_device_ready(m->device, err); /* whose cublasLt is known from here on */
    if (rc < 0)
        return rc;
    describe(m, own);
    if (strcmp(c->arch, own->arch) != 0 || strcmp(c->driver, own->driver) != 0)
        return base_fail(err, ERR_CORRUPT, "choices: of %s, driver %s; this is %s, driver %s", c->arch, c->driver,
                         own->arch, own->driver);
    const bool same = has_own_kernels(c, own);
    rc = cuda_model_prepare(m, same ? c->image : NULL, same ? c->image_bytes : 0, err);
    if (rc == 0)
        rc = take_gemms(m, c, own, err);
    if (rc < 0)
        return rc;
    take_graphs(m, c, own);
    return cuda_model_build_graphs(m, err);
}

int cuda_model_choices_import(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err)
{
    struct cuda_choices *both = calloc(2, sizeof *both); /* theirs and ours: too large for a stack */
    if (!both)
        return base_fail(err, ERR_NOMEM, "no memory for choices");
    int rc = cuda_choices_decode(&both[0], bytes, n, err);
    if (rc == 0) {
        rc = import((struct cuda_model *)model, &both[0], &both[1], err);
        cuda_choices_done(&both[0]);
    }
    free(both);
    return rc;
}
