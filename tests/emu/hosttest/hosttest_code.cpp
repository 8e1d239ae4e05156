/* Modules, linking, launches, the device and its names. */
#include <cstring>
#include <dlfcn.h>

#include "hosttest.h"

constexpr uint32_t N = 256;

static CUresult launch(CUfunction function, unsigned grid_y, unsigned block, unsigned shared, void **params)
{
    return cuLaunchKernel(function, 1, grid_y, 1, block, 1, 1, shared, nullptr, params, nullptr);
}

static void dynamic_shared(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, &n};
    if (!buggy)
        OK(cuFuncSetAttribute(f.f_fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 64 << 10));
    CHECK_RC(launch(f.f_fill, 1, 64, 64 << 10, params), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

static void more_shared_than_there_is(bool buggy)
{
    fixture f;
    int bytes = buggy ? 164 << 10 : 163 << 10;
    CHECK_RC(cuFuncSetAttribute(f.f_fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes),
             buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void large_block(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, &n};
    CHECK_RC(launch(f.f_fill, 1, buggy ? 1056 : 1024, 0, params), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

static void tall_grid(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    void *params[] = {&memory};
    CHECK_RC(launch(f.f_limited, buggy ? 65536 : 1, 1, 0, params), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

static void more_than_maxntid(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    void *params[] = {&memory};
    int limit;
    OK(cuFuncGetAttribute(&limit, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f.f_limited));
    CHECK(limit == 64);
    CHECK_RC(launch(f.f_limited, 1, buggy ? 65 : 1, 0, params), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

static void missing_param(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, buggy ? nullptr : &n};
    CHECK_RC(launch(f.f_fill, 1, 64, 0, params), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
}

/* Parameters as one buffer, whose size must be right. */
static void param_buffer(bool buggy)
{
    fixture f;
    struct {
        CUdeviceptr to;
        uint32_t value, n;
    } args = {f.alloc(N * 4), 12, N};
    size_t bytes = buggy ? 12 : sizeof args;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    CHECK_RC(cuLaunchKernel(f.f_fill, N / 64, 1, 1, 64, 1, 1, 0, nullptr, nullptr, extra),
             buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    OK(cuCtxSynchronize());
    CHECK(buggy || f.words(args.to, N)[N - 1] == 12);
}

static void kernel_past_the_end(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    f.fill(memory, 1, buggy ? N + 1 : N, nullptr);
    CHECK_RC(cuCtxSynchronize(), buggy ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS);
}

static void uninitialised(bool buggy)
{
    fixture f;
    CUdeviceptr in = f.alloc(N * 4), out = f.alloc(N * 4);
    if (!buggy)
        OK(cuMemsetD32Async(in, 1, N, nullptr));
    f.add_one(out, in, N, nullptr);
    OK(cuCtxSynchronize());
}

static void after_unload(bool buggy)
{
    fixture f;
    CUmodule m;
    CUfunction function;
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, &n};
    OK(cuModuleLoadData(&m, HOSTTEST_PTX));
    OK(cuModuleGetFunction(&function, m, "fill"));
    if (buggy)
        OK(cuModuleUnload(m));
    CHECK_RC(launch(function, 1, 64, 0, params), buggy ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuModuleUnload(m));
}

/* A graph keeps the kernels' parameters, not their module. */
static void graph_after_unload(bool buggy)
{
    fixture f;
    CUmodule m;
    CUfunction function;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, &n};
    CUgraph graph;
    CUgraphExec exec;
    OK(cuModuleLoadData(&m, HOSTTEST_PTX));
    OK(cuModuleGetFunction(&function, m, "fill"));
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(cuLaunchKernel(function, 4, 1, 1, 64, 1, 1, 0, s, params, nullptr));
    OK(cuStreamEndCapture(s, &graph));
    OK(cuGraphInstantiate(&exec, graph, 0));
    OK(cuGraphDestroy(graph));
    if (buggy)
        OK(cuModuleUnload(m));
    OK(cuGraphLaunch(exec, s));
    CHECK_RC(cuStreamSynchronize(s), buggy ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS);
    if (buggy)
        return;
    OK(cuGraphExecDestroy(exec));
    OK(cuModuleUnload(m));
}

/* A module's variable: its value at first, and what a copy makes of it. */
static void variable(bool)
{
    fixture f;
    CUdeviceptr at;
    size_t bytes;
    uint32_t words[2] = {0, 0};
    OK(cuModuleGetGlobal(&at, &bytes, f.module, "counted"));
    CHECK(bytes == 8);
    OK(cuMemcpyDtoH(words, at, 8));
    CHECK(words[0] == 11 && words[1] == 22);
    words[1] = 33;
    OK(cuMemcpyHtoD(at, words, 8));
    CUfunction function;
    CUdeviceptr memory = f.alloc(4);
    void *params[] = {&memory};
    OK(cuModuleGetFunction(&function, f.module, "read_counted"));
    OK(launch(function, 1, 1, 0, params));
    CHECK(f.words(memory, 1)[0] == 33);
    CHECK_RC(cuModuleGetGlobal(&at, &bytes, f.module, "nobody"), CUDA_ERROR_NOT_FOUND);
}

/* Answers, no misuse: a cubin that does not fit, a name that is not there, PTX for a card that is newer. */
static void refusals(bool)
{
    fixture f;
    CUmodule m;
    CUfunction function;
    uint8_t cubin[64] = {0x7f, 'E', 'L', 'F'};
    CHECK_RC(cuModuleLoadData(&m, cubin), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CHECK_RC(cuModuleGetFunction(&function, f.module, "nobody"), CUDA_ERROR_NOT_FOUND);
    CHECK_RC(cuModuleLoadData(&m, ".version 8.7\n.target sm_120\n.address_size 64\n"), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CHECK_RC(cuModuleLoadData(&m, ".version 9.1\n.target sm_80\n.address_size 64\n"),
             CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
}

static void bad_ptx(bool buggy)
{
    fixture f;
    CUmodule m;
    std::string text = HOSTTEST_PTX;
    if (buggy)
        text.replace(text.find("mad.lo.s32"), 10, "mad.mad.ma");
    char log[200] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)sizeof log};
    CUresult rc = cuModuleLoadDataEx(&m, text.c_str(), 2, options, values);
    CHECK_RC(rc, buggy ? CUDA_ERROR_INVALID_PTX : CUDA_SUCCESS);
    CHECK(buggy == (log[0] != '\0'));
    if (rc == CUDA_SUCCESS)
        OK(cuModuleUnload(m));
}

/* PTX -> cubin -> module; the cubin is the link's own until it is destroyed, and knows when it is damaged. */
static void linking(bool buggy)
{
    fixture f;
    CUlinkState link;
    void *cubin;
    size_t bytes;
    OK(cuLinkCreate(0, nullptr, nullptr, &link));
    OK(cuLinkAddData(link, CU_JIT_INPUT_PTX, (void *)HOSTTEST_PTX, strlen(HOSTTEST_PTX) + 1, "hosttest", 0, nullptr,
                     nullptr));
    OK(cuLinkComplete(link, &cubin, &bytes));
    std::vector<uint8_t> kept((uint8_t *)cubin, (uint8_t *)cubin + bytes);
    if (!buggy)
        OK(cuLinkDestroy(link));
    CUmodule m;
    CUfunction function;
    OK(cuModuleLoadData(&m, kept.data()));
    OK(cuModuleGetFunction(&function, m, "fill"));
    OK(cuModuleUnload(m));
    kept[bytes / 2] ^= 1;
    CHECK_RC(cuModuleLoadData(&m, kept.data()), CUDA_ERROR_INVALID_IMAGE);
}

/* What nobody emulates is said, not guessed. */
static void not_emulated(bool buggy)
{
    fixture f;
    int value;
    CUdevice_attribute which = buggy ? CU_DEVICE_ATTRIBUTE_MAXIMUM_TEXTURE1D_WIDTH : CU_DEVICE_ATTRIBUTE_WARP_SIZE;
    CHECK_RC(cuDeviceGetAttribute(&value, which, 0), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}

static void leak_module(bool buggy)
{
    fixture f;
    CUmodule m;
    OK(cuModuleLoadData(&m, HOSTTEST_PTX));
    if (!buggy)
        OK(cuModuleUnload(m));
}

static void not_initialised(bool buggy)
{
    int count;
    if (!buggy)
        OK(cuInit(0));
    CHECK_RC(cuDeviceGetCount(&count), buggy ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS);
}

static void entry_points(bool)
{
    fixture f;
    CUdriverProcAddressQueryResult found;
    void *p = nullptr;
    OK(cuGetProcAddress("cuMemAlloc", &p, 13000, 0, &found));
    CHECK(p == (void *)cuMemAlloc && found == CU_GET_PROC_ADDRESS_SUCCESS);
    OK(cuGetProcAddress("cuEventElapsedTime", &p, 13000, 0, &found));
    CHECK(p == (void *)cuEventElapsedTime);
    CHECK_RC(cuGetProcAddress("cuMemAlloc_v2", &p, 13000, 0, &found), CUDA_ERROR_NOT_FOUND);
    CHECK(found == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    CHECK_RC(cuGetProcAddress("cuMemAlloc", &p, 99000, 0, &found), CUDA_ERROR_NOT_FOUND);
    CHECK(found == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    const char *name;
    OK(cuGetErrorName(CUDA_ERROR_NO_BINARY_FOR_GPU, &name));
    CHECK(!strcmp(name, "CUDA_ERROR_NO_BINARY_FOR_GPU"));
}

/* All that a program may ask for by name, as the libraries export it. */
static void exports(bool)
{
    static const char *const names[] = {"cuInit",
                                        "cuDriverGetVersion",
                                        "cuGetProcAddress_v2",
                                        "cuDeviceGetCount",
                                        "cuDeviceGet",
                                        "cuDeviceGetName",
                                        "cuDeviceGetUuid_v2",
                                        "cuDeviceGetPCIBusId",
                                        "cuDeviceGetAttribute",
                                        "cuDeviceTotalMem_v2",
                                        "cuDevicePrimaryCtxRetain",
                                        "cuDevicePrimaryCtxRelease_v2",
                                        "cuCtxSetCurrent",
                                        "cuCtxGetCurrent",
                                        "cuCtxGetDevice",
                                        "cuCtxSynchronize",
                                        "cuCtxGetStreamPriorityRange",
                                        "cuCtxPushCurrent_v2",
                                        "cuCtxPopCurrent_v2",
                                        "cuCtxGetApiVersion",
                                        "cuGetErrorName",
                                        "cuGetErrorString",
                                        "cuModuleLoadData",
                                        "cuModuleLoadDataEx",
                                        "cuModuleUnload",
                                        "cuModuleGetFunction",
                                        "cuModuleGetGlobal_v2",
                                        "cuFuncGetAttribute",
                                        "cuFuncSetAttribute",
                                        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                                        "cuLaunchKernel",
                                        "cuLaunchKernelEx",
                                        "cuLaunchHostFunc",
                                        "cuLinkCreate_v2",
                                        "cuLinkAddData_v2",
                                        "cuLinkComplete",
                                        "cuLinkDestroy",
                                        "cuMemGetInfo_v2",
                                        "cuMemAlloc_v2",
                                        "cuMemFree_v2",
                                        "cuMemHostAlloc",
                                        "cuMemAllocHost_v2",
                                        "cuMemFreeHost",
                                        "cuMemHostRegister_v2",
                                        "cuMemHostUnregister",
                                        "cuMemHostGetDevicePointer_v2",
                                        "cuPointerGetAttribute",
                                        "cuMemcpyHtoD_v2",
                                        "cuMemcpyDtoH_v2",
                                        "cuMemcpyDtoD_v2",
                                        "cuMemcpyHtoDAsync_v2",
                                        "cuMemcpyDtoHAsync_v2",
                                        "cuMemcpyDtoDAsync_v2",
                                        "cuMemsetD8_v2",
                                        "cuMemsetD8Async",
                                        "cuMemsetD32Async",
                                        "cuMemGetAllocationGranularity",
                                        "cuMemAddressReserve",
                                        "cuMemAddressFree",
                                        "cuMemCreate",
                                        "cuMemMap",
                                        "cuMemSetAccess",
                                        "cuMemUnmap",
                                        "cuMemRelease",
                                        "cuStreamCreate",
                                        "cuStreamCreateWithPriority",
                                        "cuStreamDestroy_v2",
                                        "cuStreamSynchronize",
                                        "cuStreamQuery",
                                        "cuStreamWaitEvent",
                                        "cuEventCreate",
                                        "cuEventDestroy_v2",
                                        "cuEventRecord",
                                        "cuEventQuery",
                                        "cuEventSynchronize",
                                        "cuEventElapsedTime",
                                        "cuEventElapsedTime_v2",
                                        "cuStreamBeginCapture_v2",
                                        "cuStreamEndCapture",
                                        "cuStreamIsCapturing",
                                        "cuThreadExchangeStreamCaptureMode",
                                        "cuGraphCreate",
                                        "cuGraphDestroy",
                                        "cuGraphAddKernelNode_v2",
                                        "cuGraphAddMemcpyNode",
                                        "cuGraphAddMemsetNode",
                                        "cuGraphAddDependencies",
                                        "cuGraphAddDependencies_v2",
                                        "cuGraphKernelNodeGetParams_v2",
                                        "cuGraphGetEdges",
                                        "cuGraphGetEdges_v2",
                                        "cuGraphGetNodes",
                                        "cuGraphNodeGetType",
                                        "cuGraphInstantiateWithFlags",
                                        "cuGraphUpload",
                                        "cuGraphLaunch",
                                        "cuGraphExecKernelNodeSetParams_v2",
                                        "cuGraphExecUpdate_v2",
                                        "cuGraphExecDestroy"};
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    CHECK(driver);
    for (const char *name : names)
        if (!dlsym(driver, name)) {
            fprintf(stderr, "no %s\n", name);
            _exit(1);
        }
    CHECK(!dlsym(driver, "ptx_parse")); /* and nothing of ours that the real one does not have, but for emu_ */
}

static void device(bool)
{
    fixture f;
    int version, major, minor, n_units;
    size_t total;
    char name[64];
    OK(cuDriverGetVersion(&version));
    OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    OK(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0));
    OK(cuDeviceGetAttribute(&n_units, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    OK(cuDeviceTotalMem(&total, 0));
    OK(cuDeviceGetName(name, sizeof name, 0));
    CHECK(version == 13000 && major == 8 && minor == 6 && n_units == 108 && total == 40ull << 30 && name[0]);
    CUdevice other;
    CHECK_RC(cuDeviceGet(&other, 1), CUDA_ERROR_INVALID_DEVICE);
}

const std::vector<hosttest_case> hosttest_code = {
    {"dynamic shared memory", "dynamic-shared", dynamic_shared, nullptr, 0},
    {"more shared memory than there is", "invalid-value", more_shared_than_there_is, nullptr, 0},
    {"block too large", "launch-too-large", large_block, nullptr, 0},
    {"grid too tall", "launch-too-large", tall_grid, nullptr, 0},
    {"more threads than .maxntid", "launch-too-large", more_than_maxntid, nullptr, 0},
    {"parameter missing", "kernel-params", missing_param, nullptr, 0},
    {"buffer of parameters", "kernel-params", param_buffer, nullptr, 0},
    {"kernel past the end", "global-bounds", kernel_past_the_end, nullptr, 0},
    {"kernel reads what nobody wrote", "global-uninitialised", uninitialised, nullptr, 0},
    {"launch after unload", "stale-handle", after_unload, nullptr, 0},
    {"graph after unload", "stale-handle", graph_after_unload, nullptr, 0},
    {"variable of a module", nullptr, variable, nullptr, 0},
    {"refusals", nullptr, refusals, nullptr, 0},
    {"PTX that is none", "ptx-error", bad_ptx, nullptr, 0},
    {"linking", "leak-link", linking, nullptr, 0},
    {"attribute that is not emulated", "not-emulated", not_emulated, nullptr, 0},
    {"module left over", "leak-module", leak_module, nullptr, 0},
    {"cuInit", "not-initialised", not_initialised, nullptr, 0},
    {"entry points by name", nullptr, entry_points, nullptr, 0},
    {"exports", nullptr, exports, nullptr, 0},
    {"the device", nullptr, device, "EMU_CC=8.6", 0},
};
