#include "gpu/cuda/tests/kernel_harness.h"

#include <dlfcn.h>
#include <math.h>

#include <cuda.h>

#include "gpu/cuda/cuda_images.h"

#define EXPORTED(function)      EXPORTED_NAME(function) /* cuda.h renames functions to their versions */
#define EXPORTED_NAME(function) #function

#define CALLS(X)                                                                                                       \
    X(cuInit)                                                                                                          \
    X(cuGetErrorName)                                                                                                  \
    X(cuDeviceGetCount)                                                                                                \
    X(cuDeviceGet)                                                                                                     \
    X(cuDeviceGetAttribute)                                                                                            \
    X(cuDevicePrimaryCtxRetain)                                                                                        \
    X(cuDevicePrimaryCtxRelease)                                                                                       \
    X(cuCtxSetCurrent)                                                                                                 \
    X(cuCtxSynchronize)                                                                                                \
    X(cuModuleLoadData)                                                                                                \
    X(cuModuleUnload)                                                                                                  \
    X(cuModuleGetFunction)                                                                                             \
    X(cuFuncSetAttribute)                                                                                              \
    X(cuLaunchKernel)                                                                                                  \
    X(cuMemAlloc)                                                                                                      \
    X(cuMemFree)                                                                                                       \
    X(cuMemcpyHtoDAsync)                                                                                               \
    X(cuMemcpyDtoHAsync)                                                                                               \
    X(cuMemGetAllocationGranularity)                                                                                   \
    X(cuMemAddressReserve)                                                                                             \
    X(cuMemAddressFree)                                                                                                \
    X(cuMemCreate)                                                                                                     \
    X(cuMemMap)                                                                                                        \
    X(cuMemSetAccess)                                                                                                  \
    X(cuMemUnmap)                                                                                                      \
    X(cuMemRelease)

static struct {
#define FIELD(function) __typeof__(function) *p_##function;
    CALLS(FIELD)
    CUdevice device;
    CUmodule module;
    uint8_t *image; /* of ROUSE_KERNELS_PTX, NUL behind it */
} cu;

#define OK(function, ...) check(#function, cu.p_##function(__VA_ARGS__))

static void check(const char *call, CUresult result)
{
    const char *text = "unknown error";
    if (result == CUDA_SUCCESS)
        return;
    cu.p_cuGetErrorName(result, &text);
    fail_msg("%s: %s", call, text);
}

static void kernels_skip(const char *why)
{
    printf("skipped: %s\n", why);
    exit(77);
}

static void open_driver(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        kernels_skip(dlerror());
#define FIND(function)                                                                                                 \
    cu.p_##function = (__typeof__(function) *)dlsym(library, EXPORTED(function));                                      \
    if (!cu.p_##function)                                                                                              \
        kernels_skip("libcuda.so.1 has no " EXPORTED(function));
    CALLS(FIND)
}

/* ---- the image ---- */

static const void *image_from(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    const long bytes = ftell(file);
    rewind(file);
    cu.image = bytes < 0 ? NULL : calloc((size_t)bytes + 1, 1);
    if (!cu.image || fread(cu.image, 1, (size_t)bytes, file) != (size_t)bytes)
        fail_msg("cannot read %s", path);
    fclose(file);
    return cu.image;
}

/* The cubin of this architecture, else the newest of its major version that is not newer than it. */
static const void *image_for_device(void)
{
    int major = 0, minor = 0;
    struct cuda_image image;
    const void *found = NULL;
    OK(cuDeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, cu.device);
    OK(cuDeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, cu.device);
    for (size_t i = 0; cuda_image_cubin(i, &image); i++)
        if (image.major == (uint32_t)major && image.minor <= (uint32_t)minor)
            found = image.bytes;
    return found;
}

static void load_image(void)
{
    const char *path = getenv("ROUSE_KERNELS_PTX");
    const void *image = path ? image_from(path) : image_for_device();
    if (image && (path || cu.p_cuModuleLoadData(&cu.module, image) == CUDA_SUCCESS)) {
        if (path)
            OK(cuModuleLoadData, &cu.module, image);
        return;
    }
    OK(cuModuleLoadData, &cu.module, cuda_image_ptx().bytes);
}

void kernels_open(void)
{
    int n_devices = 0;
    CUcontext context;
    open_driver();
    if (cu.p_cuInit(0) != CUDA_SUCCESS || cu.p_cuDeviceGetCount(&n_devices) != CUDA_SUCCESS || n_devices == 0)
        kernels_skip("no CUDA device");
    OK(cuDeviceGet, &cu.device, 0);
    OK(cuDevicePrimaryCtxRetain, &context, cu.device);
    OK(cuCtxSetCurrent, context);
    load_image();
}

void kernels_close(void)
{
    OK(cuModuleUnload, cu.module);
    OK(cuCtxSetCurrent, NULL);
    OK(cuDevicePrimaryCtxRelease, cu.device);
    free(cu.image);
}

/* ---- buffers ---- */

struct kernel_buffer kernel_buffer_new(size_t n, size_t element_bytes)
{
    struct kernel_buffer b = {.bytes = n * element_bytes};
    CUdeviceptr device = 0;
    b.host = calloc(n ? n : 1, element_bytes);
    assert_non_null(b.host);
    OK(cuMemAlloc, &device, b.bytes ? b.bytes : 1);
    b.device = device;
    return b;
}

void kernel_buffer_free(struct kernel_buffer *b)
{
    if (b->host)
        OK(cuMemFree, b->device);
    free(b->host);
    *b = (struct kernel_buffer){0};
}

void kernel_copy_to(uint64_t device, const void *from, size_t bytes)
{
    OK(cuMemcpyHtoDAsync, device, from, bytes, NULL);
    OK(cuCtxSynchronize);
}

void kernel_copy_from(void *to, uint64_t device, size_t bytes)
{
    OK(cuMemcpyDtoHAsync, to, device, bytes, NULL);
    OK(cuCtxSynchronize);
}

void kernel_buffer_upload(const struct kernel_buffer *b)
{
    kernel_copy_to(b->device, b->host, b->bytes);
}

void kernel_buffer_download(const struct kernel_buffer *b, void *to)
{
    kernel_copy_from(to, b->device, b->bytes);
}

/* ---- launches ---- */

const char *kernel_name(const char *fmt, ...)
{
    static char name[64];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    return name;
}

void kernel_run(const char *name, uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t n_threads,
                uint32_t shared_bytes, const void *args)
{
    CUfunction function;
    void *params[] = {(void *)(uintptr_t)args};
    check(name, cu.p_cuModuleGetFunction(&function, cu.module, name));
    if (shared_bytes > 48 << 10)
        OK(cuFuncSetAttribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared_bytes);
    check(name,
          cu.p_cuLaunchKernel(function, grid_x, grid_y, grid_z, n_threads, 1, 1, shared_bytes, NULL, params, NULL));
    check(name, cu.p_cuCtxSynchronize());
}

/* ---- sparse memory ---- */

static CUmemAllocationProp pinned_here(void)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cu.device}};
}

size_t kernel_granularity(void)
{
    const CUmemAllocationProp prop = pinned_here();
    size_t bytes = 0;
    OK(cuMemGetAllocationGranularity, &bytes, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    return bytes;
}

uint64_t kernel_reserve(size_t bytes)
{
    CUdeviceptr at = 0;
    OK(cuMemAddressReserve, &at, bytes, 0, 0, 0);
    return at;
}

void kernel_unreserve(uint64_t at, size_t bytes)
{
    OK(cuMemAddressFree, at, bytes);
}

void kernel_map(uint64_t at, size_t bytes)
{
    const CUmemAllocationProp prop = pinned_here();
    const CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    OK(cuMemCreate, &handle, bytes, &prop, 0);
    OK(cuMemMap, at, bytes, 0, handle, 0);
    OK(cuMemRelease, handle); /* lives until it is unmapped */
    OK(cuMemSetAccess, at, bytes, &access, 1);
    void *zeros = calloc(bytes, 1);
    assert_non_null(zeros);
    kernel_copy_to(at, zeros, bytes);
    free(zeros);
}

void kernel_unmap(uint64_t at, size_t bytes)
{
    OK(cuMemUnmap, at, bytes);
}

/* ---- comparing ---- */

void kernel_close_to(double got, double want, double allowed, const char *fmt, ...)
{
    char of[256];
    va_list args;
    if (fabs(got - want) <= allowed)
        return;
    va_start(args, fmt);
    vsnprintf(of, sizeof of, fmt, args);
    va_end(args);
    fail_msg("%s is %.9g, should be %.9g +- %.2g", of, got, want, allowed);
}
