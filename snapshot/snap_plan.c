#include "snapshot/snap_plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

enum { TENSOR_BYTES = 96, TENSOR_ALIGN = 256, NAME_BYTES = 64 };
_Static_assert(sizeof(((struct gpu_tensor *)0)->name) == NAME_BYTES, "names are stored whole");

int snap_plan_encode(const struct gpu_plan *plan, struct base_buffer *out, struct base_error *err)
{
    struct base_buffer config;
    base_buffer_init(&config, 64u << 10);
    model_config_encode(&plan->config, &config);
    base_buffer_u32(out, (uint32_t)config.n);
    base_buffer_u32(out, (uint32_t)plan->dtype);
    base_buffer_u32(out, plan->n_tensors);
    base_buffer_u32(out, 0);
    base_buffer_u64(out, plan->weights_bytes);
    base_buffer_append(out, config.data, config.n);
    int failed = config.failed ? config.failed : out->failed;
    base_buffer_done(&config);
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct gpu_tensor *t = &plan->tensors[i];
        char name[NAME_BYTES] = "";
        memcpy(name, t->name, strnlen(t->name, NAME_BYTES - 1));
        base_buffer_append(out, name, sizeof(name));
        base_buffer_u32(out, (uint32_t)t->dtype);
        base_buffer_u32(out, t->rows);
        base_buffer_u32(out, t->cols);
        base_buffer_u32(out, 0);
        base_buffer_u64(out, t->offset);
        base_buffer_u64(out, t->bytes);
    }
    failed = failed ? failed : out->failed;
    return failed ? base_fail(err, failed, "plan of %u tensors: no room", plan->n_tensors) : 0;
}

/* One entry; *end is where the previous tensor ended. */
static int decode_tensor(struct base_bytes *r, uint64_t weights_bytes, uint64_t *end, struct gpu_tensor *out,
                         struct base_error *err)
{
    const uint8_t *name = base_bytes_take(r, NAME_BYTES);
    uint32_t dtype = base_bytes_u32(r);
    out->rows = base_bytes_u32(r);
    out->cols = base_bytes_u32(r);
    uint32_t reserved = base_bytes_u32(r);
    out->offset = base_bytes_u64(r);
    out->bytes = base_bytes_u64(r);
    if (!name || r->failed || !memchr(name, 0, NAME_BYTES))
        return base_fail(err, ERR_CORRUPT, "plan: a tensor's entry is cut off or its name has no end");
    memcpy(out->name, name, NAME_BYTES);
    out->dtype = (enum model_dtype)dtype;
    if (dtype > MODEL_Q8 || reserved != 0)
        return base_fail(err, ERR_CORRUPT, "plan: tensor %s: dtype %u", out->name, dtype);
    if (out->offset < *end || out->offset % TENSOR_ALIGN != 0 || out->offset > weights_bytes ||
        out->bytes > weights_bytes - out->offset)
        return base_fail(err, ERR_CORRUPT, "plan: tensor %s: %" PRIu64 " bytes at %" PRIu64 " do not fit", out->name,
                         out->bytes, out->offset);
    *end = out->offset + out->bytes;
    return 0;
}

static int decode_tensors(struct base_bytes *r, struct snap_plan *p, struct base_error *err)
{
    if (p->n_tensors != base_bytes_left(r) / TENSOR_BYTES || base_bytes_left(r) % TENSOR_BYTES != 0)
        return base_fail(err, ERR_CORRUPT, "plan: %u tensors in %zu bytes", p->n_tensors, base_bytes_left(r));
    p->tensors = calloc(p->n_tensors ? p->n_tensors : 1, sizeof(*p->tensors));
    if (!p->tensors)
        return base_fail(err, ERR_NOMEM, "plan: %u tensors: out of memory", p->n_tensors);
    uint64_t end = 0;
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        int rc = decode_tensor(r, p->weights_bytes, &end, &p->tensors[i], err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int decode_config(struct base_bytes *r, uint32_t n, struct model_config *out, struct base_error *err)
{
    const uint8_t *bytes = base_bytes_take(r, n);
    if (!bytes)
        return base_fail(err, ERR_CORRUPT, "plan: cut off inside the configuration");
    struct base_bytes config = base_bytes_of(bytes, n);
    struct base_error why = {0};
    if (model_config_decode(&config, out, &why) < 0)
        return base_fail(err, ERR_CORRUPT, "plan: %s", why.text);
    if (base_bytes_left(&config) != 0)
        return base_fail(err, ERR_CORRUPT, "plan: %zu bytes behind the configuration", base_bytes_left(&config));
    return 0;
}

int snap_plan_decode(const void *bytes, size_t n, struct snap_plan *out_plan, struct base_error *err)
{
    struct snap_plan p = {0};
    struct base_bytes r = base_bytes_of(bytes, n);
    uint32_t n_config = base_bytes_u32(&r);
    uint32_t dtype = base_bytes_u32(&r);
    p.n_tensors = base_bytes_u32(&r);
    uint32_t reserved = base_bytes_u32(&r);
    p.weights_bytes = base_bytes_u64(&r);
    p.dtype = (enum model_dtype)dtype;
    if (r.failed || dtype > MODEL_Q8 || reserved != 0)
        return base_fail(err, ERR_CORRUPT, "plan: cut off, or dtype %u", dtype);
    int rc = decode_config(&r, n_config, &p.config, err);
    if (rc == 0)
        rc = decode_tensors(&r, &p, err);
    if (rc < 0) {
        snap_plan_done(&p);
        return rc;
    }
    *out_plan = p;
    return 0;
}

void snap_plan_done(struct snap_plan *plan)
{
    free(plan->tensors);
    plan->tensors = NULL;
    plan->n_tensors = 0;
}

static bool tensor_equal(const struct gpu_tensor *a, const struct gpu_tensor *b)
{
    return strcmp(a->name, b->name) == 0 && a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols &&
           a->offset == b->offset && a->bytes == b->bytes;
}

int snap_plan_check(const struct snap_plan *stored, const struct gpu_plan *own, struct base_error *err)
{
    if (stored->dtype != own->dtype || stored->weights_bytes != own->weights_bytes ||
        stored->n_tensors != own->n_tensors)
        return base_fail(err, ERR_CORRUPT,
                         "plan: %s, %u tensors in %" PRIu64 " bytes; this program plans %s, %u in %" PRIu64,
                         model_dtype_name(stored->dtype), stored->n_tensors, stored->weights_bytes,
                         model_dtype_name(own->dtype), own->n_tensors, own->weights_bytes);
    for (uint32_t i = 0; i < own->n_tensors; i++) {
        const struct gpu_tensor *a = &stored->tensors[i], *b = &own->tensors[i];
        if (!tensor_equal(a, b))
            return base_fail(err, ERR_CORRUPT,
                             "plan: tensor %u is %s %s [%u][%u] at %" PRIu64
                             "; this program plans %s %s [%u][%u] at %" PRIu64,
                             i, a->name, model_dtype_name(a->dtype), a->rows, a->cols, a->offset, b->name,
                             model_dtype_name(b->dtype), b->rows, b->cols, b->offset);
    }
    return 0;
}
