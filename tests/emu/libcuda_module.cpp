/* Code: PTX text, what linking makes of it, and launches. */
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>

#include "libcuda_state.h"

/* What cuLinkComplete gives out and cuModuleLoadData takes: a "cubin" for this device alone.
 *   0  u8[8] magic     8  u32 compute capability     12  u32 checksum of the text     16  u64 bytes of text     24  the text */
struct image_header {
    char magic[8];
    uint32_t capability, checksum;
    uint64_t bytes;
};
static const char IMAGE_MAGIC[8] = {'E', 'M', 'U', 'C', 'U', 'B', 'I', 'N'};
constexpr uint64_t IMAGE_BYTES_MAX = 256ull << 20;

using module_ref = std::unique_ptr<ptx_module, void (*)(ptx_module *)>;

struct CUmod_st {
    module_ref parsed;
    std::map<std::string, CUfunction> functions;
    std::vector<uint64_t> variables; /* that were asked for */
};

struct CUfunc_st {
    CUmodule module;
    const ptx_kernel *kernel;
    std::string name;
    uint32_t dynamic_shared_max = DEVICE_SHARED_DEFAULT;
};

struct CUlinkState_st {
    std::string text;
    std::vector<uint8_t> image;
};

struct module_state {
    std::unordered_set<CUmodule> modules;
    std::unordered_set<CUfunction> functions;
    std::unordered_set<CUlinkState> links;
    /* Every module that was ever loaded: their kernels' counters are written at exit. */
    std::vector<CUmodule> all;
};

static module_state &state()
{
    static module_state *s = new module_state;
    return *s;
}

static uint32_t checksum(const std::string &text)
{
    uint32_t h = 2166136261u;
    for (char c : text)
        h = (h ^ (uint8_t)c) * 16777619u;
    return h;
}

static uint32_t capability()
{
    return (uint32_t)(settings().cc_major * 10 + settings().cc_minor);
}

static std::string read_file(const std::string &path)
{
    std::string text;
    FILE *f = fopen(path.c_str(), "re");
    if (!f) {
        misuse("settings", "EMU_PTX=%s: %m", path.c_str());
        return text;
    }
    char buffer[65536];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, f)) > 0)
        text.append(buffer, n);
    fclose(f);
    return text;
}

/* PTX for an architecture is good for that one and all newer ones. */
static CUresult check_target(const std::string &text)
{
    size_t at = text.find(".target");
    unsigned target = 0;
    if (at == std::string::npos || sscanf(text.c_str() + at, ".target sm_%u", &target) != 1)
        return CUDA_ERROR_INVALID_PTX;
    return target <= capability() ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

/* The newest version of PTX that came with a version of CUDA, times ten: 7.x with 11.x, 8.x with 12.x but for a gap, 9.x with 13.x. */
static unsigned ptx_version_of(int driver_version)
{
    unsigned major = (unsigned)driver_version / 1000, minor = (unsigned)driver_version / 10 % 100;
    if (major == 12 && minor > 5)
        minor--; /* 12.6 still has 8.5 */
    return (major - 4) * 10 + minor;
}

static CUresult check_version(const std::string &text)
{
    size_t at = text.find(".version");
    unsigned major = 0, minor = 0;
    if (at == std::string::npos || sscanf(text.c_str() + at, ".version %u.%u", &major, &minor) != 2)
        return CUDA_ERROR_INVALID_PTX;
    return major * 10 + minor <= ptx_version_of(settings().driver_version) ? CUDA_SUCCESS
                                                                           : CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
}

static CUresult parse(const std::string &text, module_ref *out, std::string *error)
{
    CUresult rc = check_version(text);
    if (rc == CUDA_SUCCESS)
        rc = check_target(text);
    if (rc != CUDA_SUCCESS) {
        *error = "no .version or .target, or one that is newer than driver or device";
        return rc;
    }
    *out = ptx_parse(text.data(), text.size(), error);
    if (*out)
        return CUDA_SUCCESS;
    misuse("ptx-error", "%s", error->c_str());
    return CUDA_ERROR_INVALID_PTX;
}

static std::string ptx_given(const char *text)
{
    return settings().ptx_file.empty() ? std::string(text) : read_file(settings().ptx_file);
}

/* --- options: logs alone mean something here ---------------------------------------------------------------------------------- */

static void *option(unsigned n, const CUjit_option *options, void *const *values, CUjit_option which)
{
    for (unsigned i = 0; i < n; i++)
        if (options[i] == which)
            return values[i];
    return nullptr;
}

static void write_log(unsigned n, const CUjit_option *options, void *const *values, const std::string &error)
{
    char *buffer = (char *)option(n, options, values, CU_JIT_ERROR_LOG_BUFFER);
    size_t room = (size_t)option(n, options, values, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
    if (buffer && room > 0)
        snprintf(buffer, room, "%s", error.c_str());
}

/* --- modules --------------------------------------------------------------------------------------------------------------------- */

static CUresult image_text(const void *image, std::string *out)
{
    image_header h;
    memcpy(&h, image, sizeof h);
    if (h.capability != capability())
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (h.bytes > IMAGE_BYTES_MAX)
        return CUDA_ERROR_INVALID_IMAGE;
    out->assign((const char *)image + sizeof h, h.bytes);
    return checksum(*out) == h.checksum ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}

/* Compiled code for a real card cannot run here, whatever card it is for. */
static bool is_real_binary(const void *image)
{
    static const uint8_t elf[4] = {0x7f, 'E', 'L', 'F'}, fatbin[4] = {0x50, 0xed, 0x55, 0xba};
    return memcmp(image, elf, 4) == 0 || memcmp(image, fatbin, 4) == 0;
}

static CUresult load_text(const void *image, std::string *out)
{
    if (is_real_binary(image))
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (memcmp(image, IMAGE_MAGIC, sizeof IMAGE_MAGIC) == 0)
        return image_text(image, out);
    unsigned char first = *(const unsigned char *)image;
    if (!isprint(first) && !isspace(first))
        return CUDA_ERROR_INVALID_IMAGE;
    *out = ptx_given((const char *)image);
    thread_spend(settings().jit_ns);
    return CUDA_SUCCESS;
}

static CUresult module_load(CUmodule *out, const void *image, unsigned n, CUjit_option *options, void **values)
{
    if (!out || !image)
        return CUDA_ERROR_INVALID_VALUE;
    std::string text, error;
    module_ref parsed(nullptr, nullptr);
    CUresult rc = load_text(image, &text);
    if (rc == CUDA_SUCCESS)
        rc = parse(text, &parsed, &error);
    write_log(n, options, values, error);
    if (rc != CUDA_SUCCESS)
        return rc;
    thread_spend(settings().module_ns);
    auto *m = kept(new CUmod_st{std::move(parsed), {}, {}});
    state().modules.insert(m);
    state().all.push_back(m);
    *out = m;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return module_load(module, image, 0, nullptr, nullptr);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options,
                            void **optionValues)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return module_load(module, image, numOptions, options, optionValues);
}

CUresult cuModuleUnload(CUmodule hmod)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    if (!state().modules.count(hmod)) {
        misuse("stale-handle", "cuModuleUnload(%p): unloaded before, or never loaded", (void *)hmod);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    work_run_all();
    for (auto &f : hmod->functions)
        state().functions.erase(f.second);
    for (uint64_t v : hmod->variables)
        memory_remove_variable(v);
    state().modules.erase(hmod);
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!hfunc || !name || !state().modules.count(hmod)) {
        misuse("stale-handle", "cuModuleGetFunction of a module that is not loaded");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    CUfunction &f = hmod->functions[name];
    if (!f) {
        const ptx_kernel *kernel = ptx_find(hmod->parsed.get(), name);
        if (!kernel) {
            hmod->functions.erase(name);
            return CUDA_ERROR_NOT_FOUND;
        }
        f = kept(new CUfunc_st{hmod, kernel, name});
        state().functions.insert(f);
    }
    *hfunc = f;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!name || !state().modules.count(hmod)) {
        misuse("stale-handle", "cuModuleGetGlobal of a module that is not loaded");
        return CUDA_ERROR_INVALID_HANDLE;
    }
    ptx_range r;
    if (!ptx_find_data(hmod->parsed.get(), name, &r))
        return CUDA_ERROR_NOT_FOUND;
    memory_add_variable(r);
    hmod->variables.push_back(r.begin);
    if (dptr)
        *dptr = r.begin;
    if (bytes)
        *bytes = r.end - r.begin;
    return CUDA_SUCCESS;
}

/* --- linking --------------------------------------------------------------------------------------------------------------------- */

CUresult cuLinkCreate(unsigned int numOptions, CUjit_option *options, void **optionValues, CUlinkState *stateOut)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    (void)options;
    (void)optionValues;
    if (!stateOut || (numOptions > 0 && !options))
        return CUDA_ERROR_INVALID_VALUE;
    *stateOut = kept(new CUlinkState_st);
    state().links.insert(*stateOut);
    return CUDA_SUCCESS;
}

static CUresult link_of(CUlinkState link, const char *call)
{
    if (state().links.count(link))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: link state %p was destroyed, or never created", call, (void *)link);
    return CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuLinkAddData(CUlinkState link, CUjitInputType type, void *data, size_t size, const char *name,
                       unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    (void)name;
    CUresult rc = link_of(link, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (!data || size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (type == CU_JIT_INPUT_CUBIN || type == CU_JIT_INPUT_FATBINARY)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (type != CU_JIT_INPUT_PTX || !link->text.empty()) {
        misuse("not-emulated", "cuLinkAddData of anything but one PTX");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    link->text = ptx_given(std::string((const char *)data, strnlen((const char *)data, size)).c_str());
    std::string error;
    module_ref parsed(nullptr, nullptr);
    rc = parse(link->text, &parsed, &error);
    write_log(numOptions, options, optionValues, error);
    if (rc != CUDA_SUCCESS)
        link->text.clear();
    return rc;
}

CUresult cuLinkComplete(CUlinkState link, void **cubinOut, size_t *sizeOut)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = link_of(link, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (!cubinOut || link->text.empty())
        return CUDA_ERROR_INVALID_VALUE;
    image_header h = {};
    memcpy(h.magic, IMAGE_MAGIC, sizeof h.magic);
    h.capability = capability();
    h.checksum = checksum(link->text);
    h.bytes = link->text.size();
    link->image.assign((uint8_t *)&h, (uint8_t *)&h + sizeof h);
    link->image.insert(link->image.end(), link->text.begin(), link->text.end());
    thread_spend(settings().jit_ns);
    *cubinOut = link->image.data();
    if (sizeOut)
        *sizeOut = link->image.size();
    return CUDA_SUCCESS;
}

CUresult cuLinkDestroy(CUlinkState link)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = link_of(link, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    state().links.erase(link);
    /* The image belonged to the link: whoever kept a pointer to it reads this. */
    std::fill(link->image.begin(), link->image.end(), 0xDD);
    return CUDA_SUCCESS;
}

/* --- functions ------------------------------------------------------------------------------------------------------------------- */

static CUresult function_of(CUfunction f, const char *call)
{
    if (state().functions.count(f))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: function %p is not of a module that is loaded", call, (void *)f);
    return CUDA_ERROR_INVALID_HANDLE;
}

std::vector<ptx_param> kernel_params(CUfunction f)
{
    return ptx_info(f->kernel).params;
}

static uint32_t max_threads(CUfunction f)
{
    uint32_t limit = ptx_info(f->kernel).max_threads;
    return limit ? limit : 1024;
}

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = function_of(hfunc, __func__);
    if (rc != CUDA_SUCCESS || !pi)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    switch (attrib) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *pi = (int)max_threads(hfunc);
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *pi = (int)ptx_info(hfunc->kernel).static_shared_bytes;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *pi = 0;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *pi = 64; /* nobody has assigned registers */
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *pi = (int)capability();
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *pi = (int)hfunc->dynamic_shared_max;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = function_of(hfunc, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (attrib == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)
        return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    uint32_t room = DEVICE_SHARED_OPTIN - ptx_info(hfunc->kernel).static_shared_bytes;
    if (attrib != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || (uint32_t)value > room) {
        misuse("invalid-value", "cuFuncSetAttribute(%s, %d, %d)", hfunc->name.c_str(), (int)attrib, value);
        return CUDA_ERROR_INVALID_VALUE;
    }
    hfunc->dynamic_shared_max = (uint32_t)value;
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func, int blockSize,
                                                     size_t dynamicSMemSize)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = function_of(func, __func__);
    if (rc != CUDA_SUCCESS || !numBlocks || blockSize <= 0)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    uint64_t shared = ptx_info(func->kernel).static_shared_bytes + dynamicSMemSize + 1024;
    uint64_t by_threads = 2048 / (uint64_t)blockSize, by_shared = (164 << 10) / shared;
    *numBlocks = blockSize > (int)max_threads(func) ? 0 : (int)std::min<uint64_t>({32, by_threads, by_shared});
    return CUDA_SUCCESS;
}

/* --- launches -------------------------------------------------------------------------------------------------------------------- */

static CUresult refuse_shape(CUfunction f, const uint32_t grid[3], const uint32_t block[3])
{
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    bool grid_ok =
        grid[0] >= 1 && grid[0] <= 0x7fffffff && grid[1] >= 1 && grid[1] <= 65535 && grid[2] >= 1 && grid[2] <= 65535;
    bool block_ok = threads >= 1 && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && threads <= 1024;
    if (grid_ok && block_ok && threads <= max_threads(f))
        return CUDA_SUCCESS;
    misuse("launch-too-large", "%s: grid %u x %u x %u, block %u x %u x %u; at most %u threads a block", f->name.c_str(),
           grid[0], grid[1], grid[2], block[0], block[1], block[2], max_threads(f));
    return CUDA_ERROR_INVALID_VALUE;
}

static CUresult refuse_shared(CUfunction f, uint32_t dynamic_bytes)
{
    if (dynamic_bytes <= f->dynamic_shared_max && dynamic_bytes + ptx_info(f->kernel).static_shared_bytes <=
                                                      std::max(f->dynamic_shared_max, DEVICE_SHARED_DEFAULT))
        return CUDA_SUCCESS;
    misuse("dynamic-shared",
           "%s: %u bytes of dynamic shared memory beside %u static ones; %u were asked for by attribute",
           f->name.c_str(), dynamic_bytes, ptx_info(f->kernel).static_shared_bytes, f->dynamic_shared_max);
    return CUDA_ERROR_INVALID_VALUE;
}

static CUresult take_extra(void **extra, std::vector<uint8_t> *out)
{
    const void *buffer = nullptr;
    size_t bytes = 0;
    for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            buffer = extra[i + 1];
        else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            bytes = *(size_t *)extra[i + 1];
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (!buffer || bytes != out->size())
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(out->data(), buffer, bytes);
    return CUDA_SUCCESS;
}

/* Parameters are copied here, at the call. */
static CUresult take_params(CUfunction f, void **params, void **extra, std::vector<uint8_t> *out)
{
    const ptx_kernel_info &info = ptx_info(f->kernel);
    out->assign(info.param_bytes, 0xCB);
    if (extra) {
        CUresult rc = params ? CUDA_ERROR_INVALID_VALUE : take_extra(extra, out);
        if (rc != CUDA_SUCCESS)
            misuse("kernel-params", "%s: the parameter buffer is not of %u bytes, or comes beside kernelParams",
                   f->name.c_str(), info.param_bytes);
        return rc;
    }
    for (size_t i = 0; i < info.params.size(); i++) {
        if (!params || !params[i]) {
            misuse("kernel-params", "%s: parameter %zu of %zu is not given", f->name.c_str(), i, info.params.size());
            return CUDA_ERROR_INVALID_VALUE;
        }
        memcpy(out->data() + info.params[i].offset, params[i], info.params[i].bytes);
    }
    return CUDA_SUCCESS;
}

CUresult launch_job(CUfunction f, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes, void **params,
                    void **extra, job *out)
{
    CUresult rc = function_of(f, "a launch");
    if (rc == CUDA_SUCCESS)
        rc = refuse_shape(f, grid, block);
    if (rc == CUDA_SUCCESS)
        rc = refuse_shared(f, shared_bytes);
    if (rc == CUDA_SUCCESS)
        rc = take_params(f, params, extra, &out->params);
    if (rc != CUDA_SUCCESS)
        return rc;
    out->kind = job_kind::kernel;
    out->what = "kernel " + f->name;
    out->link = LINK_COMPUTE;
    out->function = f;
    std::copy(grid, grid + 3, out->grid);
    std::copy(block, block + 3, out->block);
    out->shared_bytes = shared_bytes;
    return CUDA_SUCCESS;
}

static CUresult launch(CUfunction f, const uint32_t grid[3], const uint32_t block[3], uint32_t shared_bytes,
                       CUstream handle, void **params, void **extra)
{
    CUstream stream;
    CUresult rc = stream_of(handle, &stream);
    job j;
    if (rc == CUDA_SUCCESS)
        rc = launch_job(f, grid, block, shared_bytes, params, extra, &j);
    return rc == CUDA_SUCCESS ? work_submit(stream, std::move(j)) : rc;
}

CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
                        unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
                        unsigned int sharedMemBytes, CUstream hStream, void **kernelParams, void **extra)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    const uint32_t grid[3] = {gridDimX, gridDimY, gridDimZ}, block[3] = {blockDimX, blockDimY, blockDimZ};
    return launch(f, grid, block, sharedMemBytes, hStream, kernelParams, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    if (config->numAttrs > 0) {
        misuse("not-emulated", "cuLaunchKernelEx with attributes");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    const uint32_t grid[3] = {config->gridDimX, config->gridDimY, config->gridDimZ};
    const uint32_t block[3] = {config->blockDimX, config->blockDimY, config->blockDimZ};
    return launch(f, grid, block, config->sharedMemBytes, config->hStream, kernelParams, extra);
}

/* What the driver says of what the interpreter found. */
static CUresult code_of(const std::string &name)
{
    if (name == "misaligned")
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    if (name == "budget")
        return CUDA_ERROR_LAUNCH_TIMEOUT;
    if (name == "unknown-opcode")
        return CUDA_ERROR_ILLEGAL_INSTRUCTION;
    return name.find("bounds") != std::string::npos ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED;
}

/* Nominal: an A100's memory, units and launch. */
static double kernel_ns(const ptx_counters &before, const ptx_counters &after)
{
    uint64_t bytes =
        after.unique_load_bytes + after.unique_store_bytes - before.unique_load_bytes - before.unique_store_bytes;
    uint64_t flops = after.fma_flops - before.fma_flops, mma = after.mma_flops - before.mma_flops;
    double by_memory = (double)bytes / 1555, by_units = (double)flops / 19500 + (double)mma / 312000;
    return 2000 + settings().scale * std::max(by_memory, by_units);
}

CUresult kernel_run(const job &j, double *out_ns)
{
    *out_ns = 0;
    if (!state().functions.count(j.function)) {
        misuse("stale-handle", "%s runs, of a module that was unloaded", j.what.c_str());
        return CUDA_ERROR_LAUNCH_FAILED;
    }
    ptx_machine *machine = work_machine();
    CUresult code = CUDA_SUCCESS;
    machine->report = [&](const ptx_report &r) {
        /* What memory_find knew comes behind the interpreter's own words, with its own name in front. */
        std::string name = r.name;
        for (const char *known : {"use-after-free", "use-after-unmap", "no-access", "unmapped", "host-pointer",
                                  "stream-race", "wild-address"})
            if (r.text.find(std::string(known) + ": ") != std::string::npos)
                name = known;
        misuse(name.c_str(), "kernel %s: %s", r.kernel.c_str(), r.text.c_str());
        if (r.sticky && code == CUDA_SUCCESS)
            code = code_of(r.name);
    };
    ptx_launch_args args;
    std::copy(j.grid, j.grid + 3, args.grid);
    std::copy(j.block, j.block + 3, args.block);
    args.dynamic_shared_bytes = j.shared_bytes;
    args.params = j.params.data();
    const ptx_kernel *kernel = j.function->kernel;
    ptx_counters before = machine->counters(kernel);
    bool ended = machine->launch(kernel, args);
    *out_ns = kernel_ns(before, machine->counters(kernel));
    machine->report = nullptr;
    if (!ended && code == CUDA_SUCCESS)
        code = CUDA_ERROR_LAUNCH_FAILED;
    return code;
}

/* --- the end ----------------------------------------------------------------------------------------------------------------------- */

void module_report_leaks()
{
    for (CUmodule m : state().modules)
        misuse("leak-module", "a module with %zu functions was not unloaded", m->functions.size());
    if (!state().links.empty())
        misuse("leak-link", "%zu link states were not destroyed", state().links.size());
}

static FILE *open_record(const std::string &path)
{
    if (path.empty())
        return nullptr;
    FILE *f = fopen(path.c_str(), "ae");
    if (!f)
        misuse("settings", "%s: %m", path.c_str());
    return f;
}

static void write_counters(FILE *f, const char *name, const ptx_counters &c)
{
    fprintf(f,
            "{\"kernel\": \"%s\", \"launches\": %llu, \"blocks\": %llu, \"warp_instructions\": %llu, "
            "\"lane_instructions\": %llu, "
            "\"global_load_requests\": %llu, \"global_load_sectors\": %llu, \"global_load_bytes\": %llu, "
            "\"global_store_requests\": %llu, \"global_store_sectors\": %llu, \"global_store_bytes\": %llu, "
            "\"unique_load_bytes\": %llu, \"unique_store_bytes\": %llu, \"shared_requests\": %llu, "
            "\"shared_wavefronts\": %llu, "
            "\"barriers\": %llu, \"mma_flops\": %llu, \"fma_flops\": %llu}\n",
            name, (unsigned long long)c.launches, (unsigned long long)c.blocks, (unsigned long long)c.warp_instructions,
            (unsigned long long)c.lane_instructions, (unsigned long long)c.global_load_requests,
            (unsigned long long)c.global_load_sectors, (unsigned long long)c.global_load_bytes,
            (unsigned long long)c.global_store_requests, (unsigned long long)c.global_store_sectors,
            (unsigned long long)c.global_store_bytes, (unsigned long long)c.unique_load_bytes,
            (unsigned long long)c.unique_store_bytes, (unsigned long long)c.shared_requests,
            (unsigned long long)c.shared_wavefronts, (unsigned long long)c.barriers, (unsigned long long)c.mma_flops,
            (unsigned long long)c.fma_flops);
}

static std::string escaped(const std::string &text)
{
    std::string out;
    for (char c : text) {
        if (c == '"' || c == '\\')
            out += '\\';
        out += (unsigned char)c < ' ' ? ' ' : c;
    }
    return out;
}

/* {"kernel": name, "instructions": [[times, "text"], ...]} */
static void write_coverage(FILE *f, const ptx_kernel *kernel)
{
    const std::vector<uint64_t> &times = work_machine()->coverage(kernel);
    fprintf(f, "{\"kernel\": \"%s\", \"instructions\": [", ptx_info(kernel).name.c_str());
    for (uint32_t i = 0; i < times.size(); i++)
        fprintf(f, "%s[%llu, \"%s\"]", i ? ", " : "", (unsigned long long)times[i],
                escaped(ptx_machine::instruction_text(kernel, i)).c_str());
    fprintf(f, "]}\n");
}

void module_write_records()
{
    FILE *coverage = open_record(settings().coverage_file), *counters = open_record(settings().counters_file);
    for (CUmodule m : state().all)
        for (const ptx_kernel *k : ptx_kernels(m->parsed.get())) {
            const ptx_counters &c = work_machine()->counters(k);
            if (c.launches == 0)
                continue;
            if (counters)
                write_counters(counters, ptx_info(k).name.c_str(), c);
            if (coverage)
                write_coverage(coverage, k);
        }
    if (coverage)
        fclose(coverage);
    if (counters)
        fclose(counters);
}
