/* What is measured on. */
#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "base/clock.h"
#include "bench/cuda/bench_cuda.h"
#include "gpu/cuda/cuda_images.h"
#include "gpu/cuda/cuda_module.h"

static void print_attribute(struct bench *b, struct base_json *j, const char *key, CUdevice_attribute which)
{
    int value = 0;
    bench_cu(b, b->cu->DeviceGetAttribute(&value, which, b->d->number), key);
    base_json_kv_int(j, key, value);
}

static void print_device(struct bench *b, struct base_json *j)
{
    const struct gpu_info *info = gpu_device_info(b->device);
    base_json_key(j, "device");
    base_json_object_begin(j);
    base_json_kv_string(j, "name", info->name);
    base_json_kv_string(j, "arch", info->arch);
    base_json_kv_uint(j, "memory_bytes", info->memory_bytes);
    print_attribute(b, j, "multiprocessors", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    print_attribute(b, j, "l2_bytes", CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
    print_attribute(b, j, "clock_khz", CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
    print_attribute(b, j, "memory_clock_khz", CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
    print_attribute(b, j, "memory_bus_bits", CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    print_attribute(b, j, "copy_engines", CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
    print_attribute(b, j, "ecc", CU_DEVICE_ATTRIBUTE_ECC_ENABLED);
    base_json_object_end(j);
}

static void print_libraries(struct bench *b, struct base_json *j)
{
    struct base_error why = {0};
    const struct cuda_lt *lt;
    base_json_kv_int(j, "cuda_driver_version", b->cu->version);
    if (cuda_lt_get(&lt, &why) == 0)
        base_json_kv_uint(j, "cublaslt_version", lt->version);
    else
        base_json_kv_string(j, "cublaslt_missing", why.text);
    base_json_kv_string(j, "fingerprint_driver", gpu_device_info(b->device)->driver);
}

static void print_image(struct base_json *j, const char *kind, const struct cuda_image *image)
{
    char text[32];
    base_json_object_begin(j);
    base_json_kv_string(j, "kind", kind);
    snprintf(text, sizeof text, "%u.%u", image->major, image->minor);
    base_json_kv_string(j, "for", text);
    base_json_kv_uint(j, "bytes", image->n_bytes);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)XXH3_64bits(image->bytes, image->n_bytes));
    base_json_kv_string(j, "xxh3", text);
    base_json_object_end(j);
}

/* What a card without machine code of its own waits for at its first start. */
static double compile_seconds(struct bench *b)
{
    const struct cuda_image ptx = cuda_image_ptx();
    CUlinkState state;
    void *code;
    size_t bytes;
    const uint64_t began = base_clock_mono_ns();
    bench_cu(b, b->cu->LinkCreate(0, NULL, NULL, &state), "cuLinkCreate");
    bench_cu(b,
             b->cu->LinkAddData(state, CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx.bytes, ptx.n_bytes + 1, "rouse.ptx", 0,
                                NULL, NULL),
             "compiling the kernels");
    bench_cu(b, b->cu->LinkComplete(state, &code, &bytes), "compiling the kernels");
    const double seconds = bench_seconds_since(began);
    bench_cu(b, b->cu->LinkDestroy(state), "cuLinkDestroy");
    return seconds;
}

static void print_kernels(struct bench *b, struct base_json *j, double ready_s)
{
    struct base_error err = {0};
    struct cuda_image image;
    char id[32];
    base_json_key(j, "images");
    base_json_array_begin(j);
    for (size_t i = 0; cuda_image_cubin(i, &image); i++)
        print_image(j, "machine code", &image);
    image = cuda_image_ptx();
    print_image(j, "ptx", &image);
    base_json_array_end(j);
    snprintf(id, sizeof id, "%016llx", (unsigned long long)cuda_module_kernels_id());
    base_json_kv_string(j, "kernels_id", id);

    const uint64_t began = base_clock_mono_ns();
    bench_ok(cuda_module_need(b->d, NULL, 0, &err), &err);
    const double need_s = bench_seconds_since(began);
    base_json_kv_string(j, "image_used", b->d->module->image ? "ptx, compiled at start" : "machine code");
    base_json_kv_double(j, "ready_ms", ready_s * 1e3, 6);
    base_json_kv_double(j, "image_ms", need_s * 1e3, 6);
    base_json_kv_double(j, "compile_ms", compile_seconds(b) * 1e3, 6);
}

void bench_record(struct bench *b)
{
    struct bench_line line;
    setenv("CUDA_CACHE_DISABLE", "1", 1); /* the driver keeps what it compiled; a new pod has nothing kept */
    const uint64_t began = base_clock_mono_ns();
    bench_open(b);
    const double ready_s = bench_seconds_since(began);
    bench_line_begin(&line, "record");
    print_device(b, &line.json);
    print_libraries(b, &line.json);
    print_kernels(b, &line.json, ready_s);
    bench_line_end(&line);
    bench_close(b);
}
