/* Initialisation, the one device (the size of an A100), its primary context, names of errors, entry points by name. */
#include <cstring>
#include <dlfcn.h>

#include "libcuda_state.h"

struct CUctx_st {
    uint32_t n_retained = 0;
};

static bool initialised;
static CUctx_st primary;
static thread_local std::vector<CUcontext> context_stack;

bool device_initialised()
{
    return initialised;
}

CUcontext device_current()
{
    CUcontext c = context_stack.empty() ? nullptr : context_stack.back();
    return c && c->n_retained > 0 ? c : nullptr;
}

CUresult cuInit(unsigned int Flags)
{
    ENTER(0);
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (!initialised) {
        memory_install_fault_handler();
        thread_spend(settings().init_ns);
    }
    initialised = true;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *driverVersion)
{
    ENTER(ALLOWED_AFTER_FAULT);
    if (!driverVersion)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = settings().driver_version;
    return CUDA_SUCCESS;
}

/* --- the device -------------------------------------------------------------------------------------------------------------------- */

CUresult cuDeviceGetCount(int *count)
{
    ENTER(NEEDS_INIT);
    if (!count)
        return CUDA_ERROR_INVALID_VALUE;
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    ENTER(NEEDS_INIT);
    if (!device)
        return CUDA_ERROR_INVALID_VALUE;
    if (ordinal != 0)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

static CUresult check_device(CUdevice dev, const void *out)
{
    return dev != 0 ? CUDA_ERROR_INVALID_DEVICE : !out ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult give_text(char *to, int room, const std::string &text)
{
    if (room <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(to, (size_t)room, "%s", text.c_str());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, name);
    return rc == CUDA_SUCCESS ? give_text(name, len, settings().device_name) : rc;
}

CUresult cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, pciBusId);
    return rc == CUDA_SUCCESS ? give_text(pciBusId, len, "0000:00:04.0") : rc;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, uuid);
    if (rc == CUDA_SUCCESS)
        memcpy(uuid->bytes, "emulated-device0", 16);
    return rc;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, bytes);
    if (rc == CUDA_SUCCESS)
        *bytes = settings().memory_bytes;
    return rc;
}

static const std::map<int, int> &attributes()
{
    static const auto *values = new std::map<int, int>{
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, (int)DEVICE_SHARED_DEFAULT},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, (int)DEVICE_SHARED_OPTIN},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 164 << 10},
        {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1024},
        {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1410000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1215000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 108},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 40 << 20},
        {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, CU_COMPUTEMODE_DEFAULT},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
        {CU_DEVICE_ATTRIBUTE_ECC_ENABLED, 1},
        {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 0},
        {CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 4},
        {CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 0},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0},
        {CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
        {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1},
        {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0},
        {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0},
        {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0},
    };
    return *values;
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, pi);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (attrib == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) {
        *pi = settings().cc_major;
        return CUDA_SUCCESS;
    }
    if (attrib == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) {
        *pi = settings().cc_minor;
        return CUDA_SUCCESS;
    }
    auto it = attributes().find(attrib);
    if (it == attributes().end()) {
        misuse("not-emulated", "cuDeviceGetAttribute(%d)", (int)attrib);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *pi = it->second;
    return CUDA_SUCCESS;
}

/* --- contexts ---------------------------------------------------------------------------------------------------------------------- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_device(dev, pctx);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (primary.n_retained++ == 0)
        thread_spend(settings().context_ns);
    *pctx = &primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev)
{
    ENTER(NEEDS_INIT);
    if (dev != 0)
        return CUDA_ERROR_INVALID_DEVICE;
    if (primary.n_retained == 0) {
        misuse("stale-handle", "cuDevicePrimaryCtxRelease: released more often than retained");
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    work_run_all();
    primary.n_retained--;
    return CUDA_SUCCESS;
}

static CUresult check_context(CUcontext ctx, const char *call)
{
    if (ctx == &primary && primary.n_retained > 0)
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: context %p was released, or never retained", call, (void *)ctx);
    return CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxSetCurrent(CUcontext ctx)
{
    ENTER(NEEDS_INIT);
    if (!ctx) {
        if (!context_stack.empty())
            context_stack.pop_back();
        return CUDA_SUCCESS;
    }
    CUresult rc = check_context(ctx, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (context_stack.empty())
        context_stack.push_back(ctx);
    context_stack.back() = ctx;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *pctx)
{
    ENTER(NEEDS_INIT);
    if (!pctx)
        return CUDA_ERROR_INVALID_VALUE;
    *pctx = device_current();
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext ctx)
{
    ENTER(NEEDS_INIT);
    CUresult rc = check_context(ctx, __func__);
    if (rc == CUDA_SUCCESS)
        context_stack.push_back(ctx);
    return rc;
}

CUresult cuCtxPopCurrent(CUcontext *pctx)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (pctx)
        *pctx = context_stack.back();
    context_stack.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!device)
        return CUDA_ERROR_INVALID_VALUE;
    *device = 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
    ENTER(NEEDS_INIT);
    CUresult rc = ctx ? check_context(ctx, __func__) : device_current() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
    if (rc != CUDA_SUCCESS || !version)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    *version = (unsigned)settings().driver_version;
    return CUDA_SUCCESS;
}

void device_report_leaks()
{
    if (primary.n_retained > 0)
        misuse("leak-context", "the primary context was retained %u times more than released", primary.n_retained);
}

/* --- names ------------------------------------------------------------------------------------------------------------------------- */

struct error_name {
    CUresult code;
    const char *name, *text;
};

#define NAMED(code, text)                                                                                              \
    {                                                                                                                  \
        code, #code, text                                                                                              \
    }
static const error_name error_names[] = {
    NAMED(CUDA_SUCCESS, "no error"),
    NAMED(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    NAMED(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    NAMED(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    NAMED(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    NAMED(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    NAMED(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    NAMED(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    NAMED(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    NAMED(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    NAMED(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    NAMED(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    NAMED(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain."),
    NAMED(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    NAMED(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    NAMED(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    NAMED(CUDA_ERROR_NOT_READY, "device not ready"),
    NAMED(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    NAMED(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    NAMED(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    NAMED(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"),
    NAMED(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
    NAMED(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    NAMED(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    NAMED(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    NAMED(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    NAMED(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    NAMED(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    NAMED(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
          "attempt to terminate a thread-local capture sequence from another thread"),
    NAMED(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
          "the graph update was not performed because it included changes which violated constraints"),
    NAMED(CUDA_ERROR_UNKNOWN, "unknown error"),
};

static CUresult error_find(CUresult error, const char **out, const char *error_name::*field)
{
    if (!out)
        return CUDA_ERROR_INVALID_VALUE;
    *out = nullptr;
    for (const error_name &n : error_names)
        if (n.code == error)
            *out = n.*field;
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorName(CUresult error, const char **pStr)
{
    ENTER(ALLOWED_AFTER_FAULT);
    return error_find(error, pStr, &error_name::name);
}

CUresult cuGetErrorString(CUresult error, const char **pStr)
{
    ENTER(ALLOWED_AFTER_FAULT);
    return error_find(error, pStr, &error_name::text);
}

/* --- entry points by name ----------------------------------------------------------------------------------------------------------- */

/* Base names whose newest form came with a version that the caller may be too old for. */
static const struct {
    const char *name;
    int version;
    const char *suffix;
} newest_forms[] = {
    {"cuEventElapsedTime", 12080, "_v2"},
    {"cuGraphAddDependencies", 12030, "_v2"},
    {"cuGraphGetEdges", 12030, "_v2"},
};

static void *find_symbol(const char *name, int version)
{
    static void *self = [] {
        Dl_info info;
        return dladdr((void *)find_symbol, &info) ? dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : nullptr;
    }();
    std::string base = name;
    if (base.compare(0, 2, "cu") != 0 || base.find("_v") != std::string::npos)
        return nullptr; /* base names only */
    for (auto &n : newest_forms)
        if (base == n.name)
            return dlsym(self, (base + (version >= n.version ? n.suffix : "")).c_str());
    for (const char *suffix : {"_v2", ""})
        if (void *found = dlsym(self, (base + suffix).c_str()))
            return found;
    return nullptr;
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                          CUdriverProcAddressQueryResult *symbolStatus)
{
    ENTER(ALLOWED_AFTER_FAULT);
    if (!symbol || !pfn || flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    *pfn = cudaVersion <= settings().driver_version ? find_symbol(symbol, cudaVersion) : nullptr;
    if (symbolStatus)
        *symbolStatus = *pfn                                       ? CU_GET_PROC_ADDRESS_SUCCESS
                        : cudaVersion <= settings().driver_version ? CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND
                                                                   : CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
    return *pfn ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* The form of this name from before 12.8: the same but for what it does with unrecorded events. */
#undef cuEventElapsedTime
#pragma GCC visibility push(default)
extern "C" CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);
#pragma GCC visibility pop

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
