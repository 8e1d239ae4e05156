#include "tests/gpu/kernel_bed.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "gpu/cpu/cpu_kernels.h"
#include "gpu/cuda/cuda_module.h"

enum { ARENA_BYTES = 64 << 20, FRESH = 0xCB };

static const struct {
    const char *name;
    size_t bytes;
} types[] = {[BED_F16] = {"f16", 2}, [BED_BF16] = {"bf16", 2}, [BED_F32] = {"f32", 4},    [BED_I32] = {"i32", 4},
             [BED_U64] = {"u64", 8}, [BED_I8] = {"i8", 1},     [BED_BYTES] = {"bytes", 1}};

static void must(int rc, const struct base_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "record_kernels: %s\n", err->text);
        exit(base_exit_code(rc));
    }
}

static void must_cu(const struct bed *bed, CUresult result, const char *what)
{
    struct base_error err = {0};
    must(cuda_check(bed->d, result, &err, "%s", what), &err);
}

static FILE *create(const char *dir, const char *name)
{
    struct base_error err = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f)
        must(base_fail_errno(&err, "%s", path), &err);
    return f;
}

static void begin_json(struct bed *bed)
{
    const struct gpu_info *info = gpu_device_info(bed->gpu);
    char id[32];
    base_buffer_init(&bed->text, (size_t)16 << 20);
    base_json_init(&bed->json, &bed->text);
    base_json_object_begin(&bed->json);
    base_json_kv_int(&bed->json, "v", 1);
    base_json_kv_string(&bed->json, "device", info->name);
    base_json_kv_string(&bed->json, "arch", info->arch);
    base_json_kv_int(&bed->json, "cuda_driver_version", bed->d->cu->version);
    snprintf(id, sizeof id, "%016llx", (unsigned long long)cuda_module_kernels_id());
    base_json_kv_string(&bed->json, "kernels_id", id);
    base_json_key(&bed->json, "runs");
    base_json_array_begin(&bed->json);
}

void bed_open(struct bed *bed, const char *dir)
{
    struct base_error err = {0};
    memset(bed, 0, sizeof *bed);
    must(gpu_open("cuda", NULL, &bed->gpu, &err), &err);
    bed->d = (struct cuda_device *)bed->gpu;
    must(cuda_device_ready(bed->d, &err), &err);
    must(cuda_module_need(bed->d, NULL, 0, &err), &err);
    must(cuda_arena_init(&bed->arena, bed->d, ARENA_BYTES, &err), &err);
    bed->bin = create(dir, "kernels.bin");
    bed->json_file = create(dir, "kernels.json");
    begin_json(bed);
}

static void write_all(FILE *f, const void *bytes, size_t n)
{
    struct base_error err = {0};
    if (n > 0 && fwrite(bytes, 1, n, f) != n)
        must(base_fail_errno(&err, "writing results"), &err);
}

static void close_file(FILE *f)
{
    struct base_error err = {0};
    if (fclose(f) != 0)
        must(base_fail_errno(&err, "writing results"), &err);
}

void bed_close(struct bed *bed)
{
    base_json_array_end(&bed->json);
    base_json_object_end(&bed->json);
    assert(!bed->text.failed);
    write_all(bed->json_file, bed->text.data, bed->text.n);
    write_all(bed->json_file, "\n", 1);
    close_file(bed->json_file);
    close_file(bed->bin);
    base_buffer_done(&bed->text);
    cuda_arena_done(&bed->arena);
    gpu_close(bed->gpu);
}

/* ---- buffers ---- */

static struct bed_buffer *find(const struct bed *bed, const char *name)
{
    for (uint32_t i = 0; i < bed->n_buffers; i++)
        if (strcmp(bed->buffers[i].name, name) == 0)
            return (struct bed_buffer *)(uintptr_t)&bed->buffers[i];
    return NULL;
}

void *bed_add(struct bed *bed, const char *name, enum bed_type type, size_t n)
{
    assert(bed->n_buffers < BED_BUFFERS_MAX && !find(bed, name));
    struct bed_buffer *b = &bed->buffers[bed->n_buffers++];
    *b = (struct bed_buffer){.name = name, .type = type, .bytes = n * types[type].bytes};
    b->device = (void *)(uintptr_t)(bed->arena.base + bed->used_bytes);
    bed->used_bytes += (b->bytes + 255) / 256 * 256;
    assert(bed->used_bytes <= bed->arena.bytes);
    b->host = malloc(b->bytes);
    if (!b->host)
        abort();
    memset(b->host, FRESH, b->bytes);
    return b->host;
}

void *bed_add_output(struct bed *bed, const char *name, enum bed_type type, size_t n)
{
    void *host = bed_add(bed, name, type, n);
    bed->buffers[bed->n_buffers - 1].is_output = true;
    return host;
}

void *bed_at(const struct bed *bed, const char *name)
{
    const struct bed_buffer *b = find(bed, name);
    return b ? b->device : NULL;
}

/* ---- numbers ---- */

static uint64_t next_random(struct bed *bed)
{
    uint64_t z = bed->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t bed_random(struct bed *bed, uint32_t below)
{
    return (uint32_t)((next_random(bed) >> 32) * below >> 32);
}

static void put_number(const struct bed_buffer *b, size_t i, float x)
{
    switch (b->type) {
    case BED_F16:
        cpu_kernels_plain.narrow(MODEL_F16, &x, 1, b->host + i * 2);
        break;
    case BED_BF16:
        cpu_kernels_plain.narrow(MODEL_BF16, &x, 1, b->host + i * 2);
        break;
    case BED_F32:
        memcpy(b->host + i * 4, &x, 4);
        break;
    default:
        assert(b->type == BED_I8);
        b->host[i] = (uint8_t)(int8_t)lrintf(x);
    }
}

void bed_fill(struct bed *bed, const char *name, float around, float scale)
{
    const struct bed_buffer *b = find(bed, name);
    assert(b);
    for (size_t i = 0; i < b->bytes / types[b->type].bytes; i++) {
        const int32_t r = (int32_t)(next_random(bed) >> 32);
        put_number(b, i, around + scale * ((float)r / 2147483648.0f));
    }
}

/* ---- running ---- */

static void json_buffer(struct bed *bed, const struct bed_buffer *b)
{
    char hash[32];
    base_json_object_begin(&bed->json);
    base_json_kv_string(&bed->json, "name", b->name);
    base_json_kv_string(&bed->json, "type", types[b->type].name);
    base_json_kv_uint(&bed->json, "bytes", b->bytes);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)XXH3_64bits(b->host, b->bytes));
    base_json_kv_string(&bed->json, "xxh3", hash);
    if (b->is_output)
        base_json_kv_uint(&bed->json, "offset", bed->bin_bytes);
    base_json_object_end(&bed->json);
}

static void json_inputs(struct bed *bed)
{
    base_json_key(&bed->json, "inputs");
    base_json_array_begin(&bed->json);
    for (uint32_t i = 0; i < bed->n_buffers; i++) {
        struct bed_buffer b = bed->buffers[i];
        b.is_output = false; /* what it held before */
        json_buffer(bed, &b);
    }
    base_json_array_end(&bed->json);
}

static void json_outputs(struct bed *bed)
{
    base_json_key(&bed->json, "outputs");
    base_json_array_begin(&bed->json);
    for (uint32_t i = 0; i < bed->n_buffers; i++) {
        const struct bed_buffer *b = &bed->buffers[i];
        if (!b->is_output)
            continue;
        json_buffer(bed, b);
        write_all(bed->bin, b->host, b->bytes);
        bed->bin_bytes += b->bytes;
    }
    base_json_array_end(&bed->json);
}

static void copy_buffers(struct bed *bed, bool to_device)
{
    const struct cuda_driver *cu = bed->d->cu;
    for (uint32_t i = 0; i < bed->n_buffers; i++) {
        const struct bed_buffer *b = &bed->buffers[i];
        const CUdeviceptr at = (CUdeviceptr)(uintptr_t)b->device;
        if (to_device)
            must_cu(bed, cu->MemcpyHtoDAsync(at, b->host, b->bytes, bed->d->compute), b->name);
        else if (b->is_output)
            must_cu(bed, cu->MemcpyDtoHAsync(b->host, at, b->bytes, bed->d->compute), b->name);
    }
}

static void launch_kernel(struct bed *bed, const struct bed_launch *l)
{
    const struct cuda_driver *cu = bed->d->cu;
    struct base_error err = {0};
    CUfunction function;
    void *args = (void *)(uintptr_t)l->args; /* the driver only reads them */
    must(cuda_module_function(bed->d->module, l->kernel, &function, &err), &err);
    if (l->shared_bytes > 0)
        must_cu(bed,
                cu->FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)l->shared_bytes),
                l->kernel);
    must_cu(bed,
            cu->LaunchKernel(function, l->grid[0], l->grid[1], l->grid[2], l->block, 1, 1, l->shared_bytes,
                             bed->d->compute, &args, NULL),
            l->kernel);
}

static void forget_buffers(struct bed *bed)
{
    for (uint32_t i = 0; i < bed->n_buffers; i++)
        free(bed->buffers[i].host);
    bed->n_buffers = 0;
    bed->used_bytes = 0;
    bed->random = 0;
}

void bed_run(struct bed *bed, const struct bed_launch *launch, const char *shape, ...)
{
    char text[BED_SHAPE_BYTES];
    va_list ap;
    va_start(ap, shape);
    vsnprintf(text, sizeof text, shape, ap);
    va_end(ap);
    base_json_object_begin(&bed->json);
    base_json_kv_string(&bed->json, "kernel", launch->kernel);
    base_json_kv_string(&bed->json, "shape", text);
    json_inputs(bed);
    copy_buffers(bed, true);
    launch_kernel(bed, launch);
    copy_buffers(bed, false);
    must_cu(bed, bed->d->cu->StreamSynchronize(bed->d->compute), launch->kernel);
    json_outputs(bed);
    base_json_object_end(&bed->json);
    forget_buffers(bed);
}
