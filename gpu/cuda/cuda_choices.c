#include "gpu/cuda/cuda_choices.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "gpu/cuda/cuda_model.h"

static const char magic[8] = {'R', 'O', 'U', 'S', 'E', 'C', 'H', '1'};

enum {
    VERSION = 1,
    FLAG_CHOSEN = 1,
    FLAG_USABLE = 2,
    BLOCK_MAX = 1024,                /* threads */
    SHARED_MAX = 256 << 10,          /* more than any device has */
    LAUNCH_BYTES_MIN = 1 + 5 * 4 + 1 /* without what it waits for and its arguments */
};

/* ---- pointers in arguments ---- */

static uint64_t get_pointer(const struct cuda_launch *launch, uint16_t offset)
{
    uint64_t v;
    memcpy(&v, launch->args + offset, sizeof v);
    return v;
}

static void set_pointer(struct cuda_launch *launch, uint16_t offset, uint64_t v)
{
    memcpy(launch->args + offset, &v, sizeof v);
}

void cuda_topology_to_addresses(struct cuda_topology *t, CUdeviceptr base)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *at;
        const uint32_t n = cuda_kernel_pointers(t->nodes[i].kernel, &at);
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t v = get_pointer(&t->nodes[i], at[j]);
            set_pointer(&t->nodes[i], at[j], v == 0 ? 0 : base + (v - 1));
        }
    }
}

void cuda_topology_to_offsets(struct cuda_topology *t, CUdeviceptr base)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const uint16_t *at;
        const uint32_t n = cuda_kernel_pointers(t->nodes[i].kernel, &at);
        for (uint32_t j = 0; j < n; j++) {
            const uint64_t v = get_pointer(&t->nodes[i], at[j]);
            set_pointer(&t->nodes[i], at[j], v == 0 ? 0 : v - base + 1);
        }
    }
}

/* ---- bytes ---- */

static int corrupt(struct base_error *err, const char *what)
{
    return base_fail(err, ERR_CORRUPT, "choices: %s", what);
}

/* out: [size], NUL-terminated; the text is shorter and has no NUL inside. */
static bool read_text(struct base_bytes *in, char *out, size_t size)
{
    const size_t n = base_bytes_u8(in);
    const uint8_t *text = base_bytes_take(in, n);
    if (!text || n >= size || memchr(text, 0, n))
        return false;
    memcpy(out, text, n);
    out[n] = '\0';
    return true;
}

static void write_text(struct base_buffer *out, const char *text)
{
    const size_t n = strlen(text);
    assert(n < 256);
    base_buffer_byte(out, (uint8_t)n);
    base_buffer_append(out, text, n);
}

static int decode_gemms(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    if (base_bytes_u32(in) != CUDA_PRODUCTS)
        return corrupt(err, "not the products of this program");
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        c->n_classes[i] = base_bytes_u32(in);
        if (c->n_classes[i] > CUDA_ROW_CLASSES)
            return corrupt(err, "more classes of rows than there are");
        for (uint32_t j = 0; j < c->n_classes[i]; j++) {
            struct cuda_gemm_choice *choice = &c->gemms[i][j];
            const uint8_t flags = base_bytes_u8(in);
            if (flags != 0 && flags != FLAG_CHOSEN && flags != (FLAG_CHOSEN | FLAG_USABLE))
                return corrupt(err, "an algorithm that is neither chosen nor not");
            choice->chosen = (flags & FLAG_CHOSEN) != 0;
            choice->usable = (flags & FLAG_USABLE) != 0;
            for (uint32_t k = 0; k < 8 && choice->usable; k++)
                choice->algo.data[k] = base_bytes_u64(in);
        }
    }
    return in->failed ? corrupt(err, "cut among the algorithms") : 0;
}

static void encode_gemms(const struct cuda_choices *c, struct base_buffer *out)
{
    base_buffer_u32(out, CUDA_PRODUCTS);
    for (enum cuda_product i = 0; i < CUDA_PRODUCTS; i++) {
        base_buffer_u32(out, c->n_classes[i]);
        for (uint32_t j = 0; j < c->n_classes[i]; j++) {
            const struct cuda_gemm_choice *choice = &c->gemms[i][j];
            base_buffer_byte(out, (uint8_t)((choice->chosen ? FLAG_CHOSEN : 0) | (choice->usable ? FLAG_USABLE : 0)));
            for (uint32_t k = 0; k < 8 && choice->usable; k++)
                base_buffer_u64(out, choice->algo.data[k]);
        }
    }
}

static int decode_launch(struct base_bytes *in, const struct cuda_choices *c, uint32_t index,
                         struct cuda_launch *launch, struct base_error *err)
{
    const uint8_t kernel = base_bytes_u8(in);
    if (kernel >= CUDA_KERNELS)
        return corrupt(err, "a launch of no kernel");
    launch->kernel = (enum cuda_kernel)kernel;
    for (uint32_t i = 0; i < 3; i++)
        launch->grid[i] = base_bytes_u32(in);
    launch->block = base_bytes_u32(in);
    launch->shared_bytes = base_bytes_u32(in);
    launch->n_after = base_bytes_u8(in);
    if (launch->n_after > CUDA_AFTER_MAX)
        return corrupt(err, "a launch that waits for too many");
    for (uint32_t i = 0; i < launch->n_after; i++)
        launch->after[i] = base_bytes_u32(in);
    const uint8_t *args = base_bytes_take(in, cuda_kernel_args_bytes(launch->kernel));
    if (!args)
        return corrupt(err, "cut inside a launch");
    memcpy(launch->args, args, cuda_kernel_args_bytes(launch->kernel));

    if (launch->grid[0] == 0 || launch->grid[0] > INT32_MAX || launch->grid[1] == 0 || launch->grid[1] > UINT16_MAX ||
        launch->grid[2] == 0 || launch->grid[2] > UINT16_MAX || launch->block == 0 || launch->block > BLOCK_MAX ||
        launch->shared_bytes > SHARED_MAX)
        return corrupt(err, "a launch of an impossible shape");
    for (uint32_t i = 0; i < launch->n_after; i++)
        if (launch->after[i] >= index)
            return corrupt(err, "a launch that waits for one behind it");
    const uint16_t *at;
    const uint32_t n = cuda_kernel_pointers(launch->kernel, &at);
    for (uint32_t i = 0; i < n; i++)
        if (get_pointer(launch, at[i]) > c->layout[CUDA_CHOICES_ARENA])
            return corrupt(err, "an address outside the arena");
    return 0;
}

static int decode_graph(struct base_bytes *in, const struct cuda_choices *c, struct cuda_topology *t,
                        struct base_error *err)
{
    const uint32_t n = base_bytes_u32(in);
    if (n == 0 || n > CUDA_CHOICES_LAUNCHES_MAX || n > base_bytes_left(in) / LAUNCH_BYTES_MIN)
        return corrupt(err, "more launches than bytes, or none");
    int rc = cuda_topology_init(t, n, err);
    for (uint32_t i = 0; i < n && rc == 0; i++, t->n++)
        rc = decode_launch(in, c, i, &t->nodes[i], err);
    return rc;
}

static int decode_graphs(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint32_t n = base_bytes_u32(in);
    if (n > CUDA_CHOICES_GRAPHS_MAX)
        return corrupt(err, "more graphs than there are");
    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++)
        rc = decode_graph(in, c, &c->graphs[c->n_graphs++], err);
    return rc;
}

static void encode_graph(const struct cuda_topology *t, struct base_buffer *out)
{
    base_buffer_u32(out, t->n);
    for (uint32_t i = 0; i < t->n; i++) {
        const struct cuda_launch *launch = &t->nodes[i];
        base_buffer_byte(out, (uint8_t)launch->kernel);
        for (uint32_t j = 0; j < 3; j++)
            base_buffer_u32(out, launch->grid[j]);
        base_buffer_u32(out, launch->block);
        base_buffer_u32(out, launch->shared_bytes);
        base_buffer_byte(out, (uint8_t)launch->n_after);
        for (uint32_t j = 0; j < launch->n_after; j++)
            base_buffer_u32(out, launch->after[j]);
        base_buffer_append(out, launch->args, cuda_kernel_args_bytes(launch->kernel));
    }
}

static int decode_front(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint8_t *first = base_bytes_take(in, sizeof magic);
    if (!first || memcmp(first, magic, sizeof magic) != 0)
        return corrupt(err, "no choices of a CUDA device");
    if (base_bytes_u32(in) != VERSION)
        return corrupt(err, "of another version");
    if (!read_text(in, c->arch, sizeof c->arch) || !read_text(in, c->driver, sizeof c->driver))
        return corrupt(err, "no name of a device");
    c->kernels_id = base_bytes_u64(in);
    c->lt_version = base_bytes_u64(in);
    c->fastest = base_bytes_u8(in) != 0;
    for (uint32_t i = 0; i < CUDA_CHOICES_LAYOUT; i++)
        c->layout[i] = base_bytes_u64(in);
    return in->failed ? corrupt(err, "cut in the front") : 0;
}

static int decode_names(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    if (base_bytes_u32(in) != CUDA_KERNELS)
        return corrupt(err, "not the kernels of this program");
    for (uint32_t i = 0; i < CUDA_KERNELS; i++)
        if (!read_text(in, c->kernels[i], sizeof c->kernels[i]))
            return corrupt(err, "no name of a kernel");
    return 0;
}

static int decode_image(struct base_bytes *in, struct cuda_choices *c, struct base_error *err)
{
    const uint64_t n = base_bytes_u64(in);
    if (in->failed || n != base_bytes_left(in))
        return corrupt(err, "the machine code does not end where the bytes do");
    c->image = n > 0 ? base_bytes_take(in, n) : NULL;
    c->image_bytes = n;
    return 0;
}

int cuda_choices_decode(struct cuda_choices *c, const void *bytes, size_t n, struct base_error *err)
{
    struct base_bytes in = base_bytes_of(bytes, n);
    memset(c, 0, sizeof *c);
    int rc = decode_front(&in, c, err);
    if (rc == 0)
        rc = decode_gemms(&in, c, err);
    if (rc == 0)
        rc = decode_names(&in, c, err);
    if (rc == 0)
        rc = decode_graphs(&in, c, err);
    if (rc == 0)
        rc = decode_image(&in, c, err);
    if (rc < 0)
        cuda_choices_done(c);
    return rc;
}

void cuda_choices_encode(const struct cuda_choices *c, struct base_buffer *out)
{
    base_buffer_append(out, magic, sizeof magic);
    base_buffer_u32(out, VERSION);
    write_text(out, c->arch);
    write_text(out, c->driver);
    base_buffer_u64(out, c->kernels_id);
    base_buffer_u64(out, c->lt_version);
    base_buffer_byte(out, c->fastest);
    for (uint32_t i = 0; i < CUDA_CHOICES_LAYOUT; i++)
        base_buffer_u64(out, c->layout[i]);
    encode_gemms(c, out);
    base_buffer_u32(out, CUDA_KERNELS);
    for (uint32_t i = 0; i < CUDA_KERNELS; i++)
        write_text(out, c->kernels[i]);
    base_buffer_u32(out, c->n_graphs);
    for (uint32_t i = 0; i < c->n_graphs; i++)
        encode_graph(&c->graphs[i], out);
    base_buffer_u64(out, c->image_bytes);
    base_buffer_append(out, c->image, c->image_bytes);
}

void cuda_choices_done(struct cuda_choices *c)
{
    for (uint32_t i = 0; i < c->n_graphs; i++)
        cuda_topology_done(&c->graphs[i]);
    c->n_graphs = 0;
}

/* ---- of a model ---- */

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
    if (c->lt_version != own->lt_version || c->fastest != own->fastest) {
        base_log_info("algorithms of the snapshot are not taken", LOG_INT("their_cublaslt", c->lt_version),
                      LOG_INT("cublaslt", own->lt_version));
        return 0;
    }
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
