#include "gpu/cuda/cuda_upload.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/log.h"
#include "gpu/cuda/cuda_model.h"

enum slot_state { SLOT_FREE, SLOT_TAKEN, SLOT_ON_WAY, SLOT_AWAITED };

struct slot {
    enum slot_state state;
    uint64_t put_number; /* ON_WAY: the smallest is the oldest */
    CUevent arrived;
};

struct cuda_upload {
    struct gpu_upload base;
    struct cuda_device *device;
    uint8_t *memory; /* [n_slots][slot_bytes], page-aligned */
    size_t slot_bytes;
    uint32_t n_slots;

    pthread_t pinner;
    pthread_mutex_t lock; /* guards the rest; not held across calls of the driver that wait */
    pthread_cond_t changed;
    struct slot *slots; /* [n_slots] */
    uint64_t n_put;
    bool prepared; /* the pinner is through, with or without success */
    bool pinned;
    struct base_error unprepared; /* why nothing can be put; code 0: it can */
};

/* ---- getting ready, in a thread of its own ---- */

static int make_events(struct cuda_upload *u, struct base_error *err)
{
    struct cuda_device *d = u->device;
    int rc = 0;
    for (uint32_t i = 0; i < u->n_slots && rc == 0; i++)
        rc = cuda_check(d, d->cu->EventCreate(&u->slots[i].arrived, CU_EVENT_DISABLE_TIMING), err,
                        "an event of the upload ring");
    return rc;
}

static void *prepare(void *argument)
{
    struct cuda_upload *u = argument;
    struct cuda_device *d = u->device;
    struct base_error why = {0};
    bool pinned = false;
    int rc = cuda_device_context(d, &why);
    if (rc == 0)
        rc = make_events(u, &why);
    if (rc == 0) {
        struct base_error refused;
        pinned = cuda_check(d, d->cu->MemHostRegister(u->memory, u->n_slots * u->slot_bytes, 0), &refused,
                            "pinning %zu bytes", u->n_slots * u->slot_bytes) == 0;
        if (!pinned)
            base_log_warn("upload buffers are not pinned", LOG_STR("reason", refused.text));
    }
    pthread_mutex_lock(&u->lock);
    u->prepared = true;
    u->pinned = pinned;
    if (rc < 0)
        u->unprepared = why;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

static int await_prepared(struct cuda_upload *u, struct base_error *err)
{
    pthread_mutex_lock(&u->lock);
    while (!u->prepared)
        pthread_cond_wait(&u->changed, &u->lock);
    pthread_mutex_unlock(&u->lock);
    if (u->unprepared.code == 0)
        return cuda_device_context(u->device, err);
    if (err)
        *err = u->unprepared;
    return u->unprepared.code;
}

/* ---- open, close ---- */

static void upload_free(struct cuda_upload *u)
{
    if (u->memory && u->memory != MAP_FAILED)
        munmap(u->memory, u->n_slots * u->slot_bytes);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u->slots);
    free(u);
}

int cuda_upload_open(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes, struct gpu_upload **out_upload,
                     struct base_error *err)
{
    const size_t bytes = n_slots * slot_bytes;
    struct cuda_upload *u = calloc(1, sizeof *u);
    if (!u)
        return base_fail(err, ERR_NOMEM, "no memory for an upload ring");
    *u = (struct cuda_upload){.base = {.device = device},
                              .device = (struct cuda_device *)device,
                              .slot_bytes = slot_bytes,
                              .n_slots = n_slots};
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->changed, NULL);
    u->slots = calloc(n_slots, sizeof *u->slots);
    u->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!u->slots || u->memory == MAP_FAILED) {
        const int rc = base_fail(err, ERR_NOMEM, "no memory for %u upload buffers of %zu bytes", n_slots, slot_bytes);
        upload_free(u);
        return rc;
    }
    if (pthread_create(&u->pinner, NULL, prepare, u) != 0) {
        upload_free(u);
        return base_fail(err, ERR_NOMEM, "no thread to pin the upload buffers");
    }
    *out_upload = &u->base;
    return 0;
}

void cuda_upload_close(struct gpu_upload *upload)
{
    struct cuda_upload *u = (struct cuda_upload *)upload;
    const struct cuda_driver *cu = u->device->cu;
    pthread_join(u->pinner, NULL);
    if (cuda_device_context(u->device, NULL) == 0)
        (void)cu->StreamSynchronize(
            u->device->copy); /* an error was told to whoever put, or is to whoever runs a step */
    if (u->pinned)
        (void)cu->MemHostUnregister(u->memory);
    for (uint32_t i = 0; i < u->n_slots; i++)
        if (u->slots[i].arrived)
            (void)cu->EventDestroy(u->slots[i].arrived);
    upload_free(u);
}

/* ---- the ring ---- */

/* A free slot; else the one that was put first. NULL: all are in the hands of others. */
static struct slot *choose(struct cuda_upload *u)
{
    struct slot *oldest = NULL;
    for (uint32_t i = 0; i < u->n_slots; i++) {
        struct slot *s = &u->slots[i];
        if (s->state == SLOT_FREE)
            return s;
        if (s->state == SLOT_ON_WAY && (!oldest || s->put_number < oldest->put_number))
            oldest = s;
    }
    return oldest;
}

static void set_slot(struct cuda_upload *u, struct slot *s, enum slot_state state)
{
    pthread_mutex_lock(&u->lock);
    s->state = state;
    s->put_number = u->n_put++;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static int await_arrival(struct cuda_upload *u, struct slot *s, struct base_error *err)
{
    int rc = cuda_device_context(u->device, err);
    if (rc == 0)
        rc = cuda_check(u->device, u->device->cu->EventSynchronize(s->arrived), err, "copying to %s",
                        u->device->base.info.name);
    return rc;
}

int cuda_upload_take(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err)
{
    struct cuda_upload *u = (struct cuda_upload *)upload;
    struct slot *s;
    pthread_mutex_lock(&u->lock);
    while (!(s = choose(u)))
        pthread_cond_wait(&u->changed, &u->lock);
    const bool on_way = s->state == SLOT_ON_WAY;
    s->state = on_way ? SLOT_AWAITED : SLOT_TAKEN;
    pthread_mutex_unlock(&u->lock);
    if (on_way) {
        const int rc = await_arrival(u, s, err);
        set_slot(u, s, rc == 0 ? SLOT_TAKEN : SLOT_FREE);
        if (rc < 0)
            return rc;
    }
    *out_slot = (uint32_t)(s - u->slots);
    *out_buffer = u->memory + *out_slot * u->slot_bytes;
    return 0;
}

static int start_copy(struct cuda_upload *u, struct slot *s, struct cuda_model *m, uint64_t offset, uint64_t n_bytes,
                      struct base_error *err)
{
    struct cuda_device *d = u->device;
    const uint8_t *from = u->memory + (size_t)(s - u->slots) * u->slot_bytes;
    int rc = await_prepared(u, err);
    assert(!m->asleep);
    if (rc < 0)
        return rc;
    rc = cuda_check(d, d->cu->MemcpyHtoDAsync(m->arena.base + offset, from, n_bytes, d->copy), err,
                    "copying %llu bytes to %s", (unsigned long long)n_bytes, d->base.info.name);
    if (rc == 0)
        rc = cuda_check(d, d->cu->EventRecord(s->arrived, d->copy), err, "copying to %s", d->base.info.name);
    cuda_model_note_copies(m);
    return rc;
}

int cuda_upload_put(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset,
                    uint64_t n_bytes, struct base_error *err)
{
    struct cuda_upload *u = (struct cuda_upload *)upload;
    struct slot *s = &u->slots[slot];
    assert(slot < u->n_slots && n_bytes <= u->slot_bytes);
    if (n_bytes == 0) {
        set_slot(u, s, SLOT_FREE);
        return 0;
    }
    const int rc = start_copy(u, s, (struct cuda_model *)model, offset, n_bytes, err);
    set_slot(u, s, rc == 0 ? SLOT_ON_WAY : SLOT_FREE);
    return rc;
}

int cuda_upload_sync(struct gpu_upload *upload, struct base_error *err)
{
    struct cuda_upload *u = (struct cuda_upload *)upload;
    int rc = 0;
    for (uint32_t i = 0; i < u->n_slots && rc == 0; i++) {
        struct slot *s = &u->slots[i];
        pthread_mutex_lock(&u->lock);
        const bool on_way = s->state == SLOT_ON_WAY;
        if (on_way)
            s->state = SLOT_AWAITED;
        pthread_mutex_unlock(&u->lock);
        if (on_way) {
            rc = await_arrival(u, s, err);
            set_slot(u, s, SLOT_FREE);
        }
    }
    return rc;
}
