#include "snapshot/tests/fake_device.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "snapshot/snap_file.h"

enum { SLOTS_MAX = 64, CHUNK_BYTES = 4 << 20 };

static void misuse(const char *what)
{
    fprintf(stderr, "fake device: %s\n", what);
    abort();
}

static struct fake_device *fake_of(const struct gpu_device *device)
{
    union { /* the back end's own device, which the table hands out as const */
        const struct gpu_device *from;
        struct fake_device *to;
    } u = {.from = device};
    return u.to;
}

/* ---- models ---- */

struct fake_model {
    struct gpu_model base;
    struct gpu_model *cpu;     /* its weights are the device's memory */
    struct gpu_upload *upload; /* the last that put into it; NULL: none */
    bool asleep, used;
};

static struct fake_model *model_of(struct gpu_model *model)
{
    return (struct fake_model *)model;
}

static enum model_dtype fake_auto_dtype(enum model_dtype file_dtype)
{
    (void)file_dtype;
    return FAKE_AUTO_DTYPE;
}

static int fake_check(const struct gpu_device *device, const struct model_config *config, enum model_dtype dtype,
                      struct base_error *err)
{
    (void)device, (void)dtype;
    return config->head_dim % 8 == 0 ? 0 : base_fail(err, ERR_USAGE, "fake device: heads of %u", config->head_dim);
}

static void fake_measure(const struct gpu_device *device, const struct gpu_plan *plan, uint64_t *out_workspace_bytes,
                         uint64_t *out_kv_bytes)
{
    const struct gpu_device *cpu = fake_of(device)->cpu;
    cpu->backend->measure(cpu, plan, out_workspace_bytes, out_kv_bytes);
}

static int fake_model_new(struct gpu_device *device, const struct gpu_plan *plan, struct gpu_tensor *tensors,
                          struct gpu_model **out_model, struct base_error *err)
{
    struct fake_device *fake = fake_of(device);
    if (!fake->ready)
        base_clock_sleep_ms(fake->ready_ms);
    fake->ready = true;
    if (fake->fail_new)
        return base_fail(err, ERR_SERVICE, "fake device: no context");
    struct fake_model *m = calloc(1, sizeof(*m));
    if (!m)
        return base_fail(err, ERR_NOMEM, "fake device: out of memory");
    int rc = gpu_model_new(fake->cpu, &plan->config, plan->dtype, &plan->limits, &m->cpu, err);
    if (rc < 0) {
        free(m);
        return rc;
    }
    memset(gpu_model_host(m->cpu), 0xcb, plan->weights_bytes);
    m->base = (struct gpu_model){.device = device, .plan = *plan, .tensors = tensors};
    fake->n_models++;
    *out_model = &m->base;
    return 0;
}

static void fake_model_free(struct gpu_model *model)
{
    fake_of(model->device)->n_models--;
    gpu_model_free(model_of(model)->cpu);
    free(model);
}

static uint8_t *fake_model_host(struct gpu_model *model)
{
    (void)model;
    return NULL;
}

static int fake_model_read(struct gpu_model *model, uint64_t offset, uint64_t n_bytes, void *to, struct base_error *err)
{
    fake_of(model->device)->n_reads++;
    return gpu_model_read(model_of(model)->cpu, offset, n_bytes, to, err);
}

static int fake_model_load(struct gpu_model *model, const struct model_weights *weights,
                           void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                           struct base_error *err)
{
    return gpu_model_load(model_of(model)->cpu, weights, progress, context, err);
}

static void upload_drain(struct gpu_upload *upload);

/* What is put is on its way: a device's own streams wait for it. */
static int fake_gate(void *context, uint64_t end, struct base_error *err)
{
    struct fake_model *m = context;
    struct fake_device *fake = fake_of(m->base.device);
    int rc = gpu_gate_pass(&m->base, end, err);
    unsigned never = UINT32_MAX;
    if (rc == 0)
        atomic_compare_exchange_strong(&fake->puts_at_first_gate, &never, fake->n_puts);
    if (rc == 0 && m->upload)
        upload_drain(m->upload);
    return rc;
}

static int fake_model_forward(struct gpu_model *model, const struct gpu_sequence *sequences, uint32_t n_sequences,
                              struct gpu_result *out_result, struct base_error *err)
{
    struct fake_model *m = model_of(model);
    if (m->asleep)
        misuse("a forward pass of a model that sleeps");
    fake_of(model->device)->n_forwards++;
    m->used = true;
    gpu_model_gate(m->cpu, model->gate ? fake_gate : NULL, m);
    int rc = gpu_model_forward(m->cpu, sequences, n_sequences, out_result, err);
    gpu_model_gate(m->cpu, NULL, NULL);
    return rc;
}

static bool fake_model_samples(const struct gpu_model *model, const struct model_sampling *sampling)
{
    (void)model, (void)sampling;
    return false;
}

/* ---- choices ---- */

static int fake_warm_up(struct gpu_model *model, struct base_error *err)
{
    struct fake_device *fake = fake_of(model->device);
    fake->n_warm_ups++;
    return fake->fail_warm_up ? base_fail(err, ERR_SERVICE, "fake device: no warm-up") : 0;
}

static int fake_choices_export(struct gpu_model *model, struct base_buffer *out, struct base_error *err)
{
    struct fake_device *fake = fake_of(model->device);
    (void)err;
    if (fake->n_warm_ups == 0)
        misuse("choices exported before the warm-up");
    fake->n_exports++;
    base_buffer_string(out, fake->choices);
    return 0;
}

static int fake_choices_import(struct gpu_model *model, const void *bytes, size_t n, struct base_error *err)
{
    struct fake_device *fake = fake_of(model->device);
    if (model_of(model)->used)
        misuse("choices imported after a forward pass");
    fake->n_imports++;
    if (n != strlen(fake->choices) || memcmp(bytes, fake->choices, n) != 0)
        return base_fail(err, ERR_CORRUPT, "choices: not what the fake device exports");
    return 0;
}

/* ---- uploads ---- */

struct fake_put {
    struct gpu_model *model;
    uint32_t slot;
    uint64_t offset, n;
};

struct fake_upload {
    struct gpu_upload base;
    uint8_t *slots; /* [n_slots][slot_bytes] */
    size_t slot_bytes;
    pthread_t copier;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum { FREE, TAKEN, PUT } states[SLOTS_MAX];
    struct fake_put queue[SLOTS_MAX]; /* in order */
    uint32_t n_slots, n_queue;
    bool quit;
};

static struct fake_upload *upload_of(struct gpu_upload *upload)
{
    return (struct fake_upload *)upload;
}

static void *copier_main(void *arg)
{
    struct fake_upload *u = arg;
    struct fake_device *fake = fake_of(u->base.device);
    pthread_mutex_lock(&u->lock);
    for (;;) {
        while (u->n_queue == 0 && !u->quit)
            pthread_cond_wait(&u->changed, &u->lock);
        if (u->n_queue == 0)
            break;
        const struct fake_put p = u->queue[0];
        pthread_mutex_unlock(&u->lock);
        if (fake->copy_ms)
            base_clock_sleep_ms(fake->copy_ms);
        memcpy(gpu_model_host(model_of(p.model)->cpu) + p.offset, u->slots + p.slot * u->slot_bytes, p.n);
        memset(u->slots + p.slot * u->slot_bytes, 0xdd, p.n);
        pthread_mutex_lock(&u->lock);
        memmove(u->queue, u->queue + 1, --u->n_queue * sizeof(*u->queue));
        u->states[p.slot] = FREE;
        pthread_cond_broadcast(&u->changed);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

static void upload_drain(struct gpu_upload *upload)
{
    struct fake_upload *u = upload_of(upload);
    pthread_mutex_lock(&u->lock);
    while (u->n_queue > 0)
        pthread_cond_wait(&u->changed, &u->lock);
    pthread_mutex_unlock(&u->lock);
}

static int fake_upload_open(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes,
                            struct gpu_upload **out_upload, struct base_error *err)
{
    struct fake_upload *u = calloc(1, sizeof(*u));
    if (!u || n_slots > SLOTS_MAX || !(u->slots = aligned_alloc(4096, n_slots * slot_bytes))) {
        free(u);
        return base_fail(err, ERR_NOMEM, "fake device: no ring");
    }
    u->base.device = device;
    u->n_slots = n_slots;
    u->slot_bytes = slot_bytes;
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->changed, NULL);
    if (pthread_create(&u->copier, NULL, copier_main, u) != 0)
        abort();
    fake_of(device)->put_mask = 0;
    *out_upload = &u->base;
    return 0;
}

static int fake_upload_take(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err)
{
    struct fake_upload *u = upload_of(upload);
    struct fake_device *fake = fake_of(upload->device);
    (void)err;
    if (++fake->n_takes > fake->n_quick_takes && fake->take_ms)
        base_clock_sleep_ms(fake->take_ms);
    if (!fake->ready)
        fake->n_early_takes++;
    pthread_mutex_lock(&u->lock);
    for (uint32_t i = 0;; i = (i + 1) % u->n_slots) {
        if (u->states[i] == FREE) {
            u->states[i] = TAKEN;
            *out_slot = i;
            *out_buffer = u->slots + i * u->slot_bytes;
            break;
        }
        if (i + 1 == u->n_slots)
            pthread_cond_wait(&u->changed, &u->lock);
    }
    pthread_mutex_unlock(&u->lock);
    return 0;
}

static int fake_upload_put(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset,
                           uint64_t n_bytes, struct base_error *err)
{
    struct fake_upload *u = upload_of(upload);
    struct fake_device *fake = fake_of(upload->device);
    int rc = 0;
    pthread_mutex_lock(&u->lock);
    if (slot >= u->n_slots || u->states[slot] != TAKEN)
        misuse("a slot is put that was not taken");
    if (n_bytes > 0 && ++fake->n_puts == fake->fail_put)
        rc = base_fail(err, ERR_SERVICE, "fake device: the link is down");
    if (n_bytes == 0 || rc < 0) {
        u->states[slot] = FREE;
    } else {
        u->states[slot] = PUT;
        fake->put_mask |= UINT64_C(1) << offset / CHUNK_BYTES;
        model_of(model)->upload = upload;
        u->queue[u->n_queue++] = (struct fake_put){model, slot, offset, n_bytes};
    }
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    return rc;
}

static int fake_upload_sync(struct gpu_upload *upload, struct base_error *err)
{
    (void)err;
    upload_drain(upload);
    return 0;
}

static void fake_upload_close(struct gpu_upload *upload)
{
    struct fake_upload *u = upload_of(upload);
    pthread_mutex_lock(&u->lock);
    u->quit = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    pthread_join(u->copier, NULL);
    for (uint32_t i = 0; i < u->n_slots; i++)
        if (u->states[i] != FREE)
            misuse("the ring is closed with a slot taken");
    pthread_mutex_destroy(&u->lock);
    pthread_cond_destroy(&u->changed);
    free(u->slots);
    free(u);
}

/* ---- from storage ---- */

struct fake_direct {
    struct gpu_direct base;
    int fd;
};

static int fake_direct_open(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err)
{
    struct fake_direct *x = calloc(1, sizeof(*x));
    if (!fake_of(device)->direct || !x) {
        free(x);
        return base_fail(err, ERR_NOTFOUND, "fake device: not from storage");
    }
    x->base.device = device;
    x->fd = fd;
    *out_direct = &x->base;
    return 0;
}

static int fake_direct_read(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                            uint64_t file_offset, uint64_t *out_hash, struct base_error *err)
{
    struct fake_device *fake = fake_of(direct->device);
    uint8_t *to = gpu_model_host(model_of(model)->cpu) + offset;
    unsigned n = ++fake->n_direct;
    if (n == fake->direct_fails)
        return base_fail(err, ERR_IO, "fake device: storage does not answer");
    if (pread(((struct fake_direct *)direct)->fd, to, n_bytes, (off_t)file_offset) != (ssize_t)n_bytes)
        misuse("a direct read of what is not there");
    if (n == fake->direct_garbles)
        to[n_bytes / 2] ^= 1;
    *out_hash = snap_chunk_hash(to, n_bytes);
    return 0;
}

static void fake_direct_close(struct gpu_direct *direct)
{
    free(direct);
}

/* ---- sleep ---- */

static int fake_sleep(struct gpu_model *model, struct base_error *err)
{
    struct fake_model *m = model_of(model);
    (void)err;
    if (m->asleep)
        misuse("a model that sleeps is put to sleep");
    m->asleep = true;
    memset(gpu_model_host(m->cpu), 0xdd, model->plan.weights_bytes);
    return 0;
}

static int fake_wake(struct gpu_model *model, struct base_error *err)
{
    struct fake_model *m = model_of(model);
    if (!m->asleep)
        misuse("a model that is awake is woken");
    if (fake_of(model->device)->fail_new)
        return base_fail(err, ERR_NOMEM, "fake device: no memory");
    m->asleep = false;
    memset(gpu_model_host(m->cpu), 0xcb, model->plan.weights_bytes);
    return 0;
}

static void close_device(struct gpu_device *device)
{
    struct fake_device *fake = fake_of(device);
    if (fake->n_models > 0)
        misuse("closed before its models");
    gpu_close(fake->cpu);
    free(fake);
}

static const struct gpu_backend fake_backend = {
    .kind = "fake",
    .close = close_device,
    .auto_dtype = fake_auto_dtype,
    .check = fake_check,
    .measure = fake_measure,
    .model_new = fake_model_new,
    .model_free = fake_model_free,
    .model_host = fake_model_host,
    .model_read = fake_model_read,
    .model_load = fake_model_load,
    .model_forward = fake_model_forward,
    .model_samples = fake_model_samples,
    .model_warm_up = fake_warm_up,
    .choices_export = fake_choices_export,
    .choices_import = fake_choices_import,
    .upload_open = fake_upload_open,
    .upload_take = fake_upload_take,
    .upload_put = fake_upload_put,
    .upload_sync = fake_upload_sync,
    .upload_close = fake_upload_close,
    .direct_open = fake_direct_open,
    .direct_read = fake_direct_read,
    .direct_close = fake_direct_close,
    .model_sleep = fake_sleep,
    .model_wake = fake_wake,
};

struct fake_device *fake_open(void)
{
    const struct gpu_open_options options = {.n_threads = 2};
    struct fake_device *fake = calloc(1, sizeof(*fake));
    struct base_error err = {0};
    if (!fake || gpu_open("cpu", &options, &fake->cpu, &err) < 0)
        misuse(err.text);
    fake->base.backend = &fake_backend;
    fake->base.info = *gpu_device_info(fake->cpu);
    fake->base.info.kind = "fake";
    fake->base.info.arch = "fake-1";
    fake->base.info.driver = "fake-7";
    fake->n_quick_takes = 8;
    fake->choices = "fake choices";
    fake->puts_at_first_gate = UINT32_MAX;
    return fake;
}

void fake_close(struct fake_device *fake)
{
    gpu_close(&fake->base);
}

struct gpu_device *fake_open_planner(void)
{
    const struct gpu_open_options options = {.n_threads = 2};
    struct gpu_device *planner = NULL;
    struct base_error err = {0};
    if (gpu_planner_open(&fake_backend, &options, &planner, &err) < 0)
        misuse(err.text);
    return planner;
}
