/* libcufile.so.0: from a file into device memory, as GPUDirect Storage's public interface has it. nvidia-fs is only "loaded" with
 * EMU_NVFS=1. Names and values are NVIDIA's; files must be open with O_DIRECT, as older versions ask for. */
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <shared_mutex>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "libcuda_emu.h"

enum {
    CU_FILE_SUCCESS = 0,
    CU_FILE_DRIVER_NOT_INITIALIZED = 5001,
    CU_FILE_CUDA_POINTER_INVALID = 5012,
    CU_FILE_INVALID_FILE_TYPE = 5018,
    CU_FILE_DIO_NOT_SET = 5020,
    CU_FILE_INVALID_VALUE = 5022,
    CU_FILE_MEMORY_ALREADY_REGISTERED = 5023,
    CU_FILE_MEMORY_NOT_REGISTERED = 5024,
    CU_FILE_HANDLE_NOT_REGISTERED = 5027
};
enum { CU_FILE_HANDLE_TYPE_OPAQUE_FD = 1 };

struct CUfileError_t {
    int err, cu_err;
};

struct CUfileDescr_t {
    int type;
    union {
        int fd;
        void *handle;
    } handle;
    const void *fs_ops;
};

struct CUfileDrvProps_t {
    struct {
        unsigned major_version, minor_version;
        size_t poll_thresh_size, max_direct_io_size;
        unsigned dstatusflags, dcontrolflags;
    } nvfs;
    unsigned fflags, max_device_cache_size, per_buffer_cache_size, max_device_pinned_mem_size;
    unsigned max_batch_io_size, max_batch_io_timeout_msecs;
};

/* Of a registered file: the program's descriptor, and our own, which reads through the page cache. */
struct file {
    int fd, own_fd;
};

struct cufile_state {
    std::shared_mutex lock;
    bool open = false;
    std::unordered_set<file *> files;
    std::unordered_map<const void *, size_t> buffers;
};

static cufile_state &state()
{
    static cufile_state *s = new cufile_state;
    return *s;
}

static bool file_is_live(void *given, const char *call)
{
    std::lock_guard<std::shared_mutex> guard(state().lock);
    if (state().files.count((file *)given))
        return true;
    emu_misuse("stale-handle", "%s: %p is not a registered file", call, given);
    return false;
}

__attribute__((destructor)) static void report_leaks()
{
    if (!emu_leaks_count())
        return;
    for (file *f : state().files)
        emu_misuse("leak-cufile", "file %d was not deregistered", f->fd);
    for (auto &b : state().buffers)
        emu_misuse("leak-cufile", "buffer %p was not deregistered", b.first);
}

/* In pieces through a buffer of ours; preadv2, since pread is charged to the disk (libcuda_threads.cpp) and this is already. */
static ssize_t read_to_device(const file &f, uint64_t to, size_t n, off_t offset, double since)
{
    std::vector<char> buffer(std::min<size_t>(n, 1 << 20));
    size_t at = 0;
    while (at < n) {
        struct iovec part = {buffer.data(), std::min(buffer.size(), n - at)};
        ssize_t got = preadv2(f.own_fd, &part, 1, offset + (off_t)at, 0);
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        if (emu_write_now(to + at, buffer.data(), (uint64_t)got, since) != 0)
            return -CU_FILE_CUDA_POINTER_INVALID;
        at += (size_t)got;
    }
    return (ssize_t)at;
}

static uint64_t bytes_there(const file &f, size_t n, off_t offset)
{
    struct stat s;
    if (fstat(f.own_fd, &s) != 0 || offset >= s.st_size)
        return 0;
    return std::min<uint64_t>(n, (uint64_t)(s.st_size - offset));
}

static CUfileError_t enter(const char *name)
{
    int code = emu_call(name);
    return {code != 0 ? code : state().open ? CU_FILE_SUCCESS : CU_FILE_DRIVER_NOT_INITIALIZED, 0};
}

#pragma GCC visibility push(default)
extern "C" {

CUfileError_t cuFileDriverOpen(void)
{
    if (int code = emu_call(__func__))
        return {code, 0};
    state().open = true;
    return {CU_FILE_SUCCESS, 0};
}

CUfileError_t cuFileDriverClose(void)
{
    CUfileError_t e = enter(__func__);
    if (e.err)
        return e;
    state().open = false;
    return {CU_FILE_SUCCESS, 0};
}

CUfileError_t cuFileDriverGetProperties(CUfileDrvProps_t *out)
{
    CUfileError_t e = enter(__func__);
    if (e.err)
        return e;
    if (!out)
        return {CU_FILE_INVALID_VALUE, 0};
    const char *nvfs = getenv("EMU_NVFS");
    *out = {};
    if (nvfs && strcmp(nvfs, "0") != 0) {
        out->nvfs.major_version = 2;
        out->nvfs.minor_version = 26;
        out->nvfs.max_direct_io_size = 16384;
    }
    return {CU_FILE_SUCCESS, 0};
}

CUfileError_t cuFileHandleRegister(void **out, CUfileDescr_t *descr)
{
    CUfileError_t e = enter(__func__);
    if (e.err)
        return e;
    if (!out || !descr || descr->type != CU_FILE_HANDLE_TYPE_OPAQUE_FD)
        return {CU_FILE_INVALID_FILE_TYPE, 0};
    int flags = fcntl(descr->handle.fd, F_GETFL);
    if (flags < 0 || !(flags & O_DIRECT))
        return {flags < 0 ? CU_FILE_INVALID_FILE_TYPE : CU_FILE_DIO_NOT_SET, 0};
    std::string path = "/proc/self/fd/" + std::to_string(descr->handle.fd);
    int own_fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (own_fd < 0)
        return {CU_FILE_INVALID_FILE_TYPE, 0};
    auto *f = new file{descr->handle.fd, own_fd};
    std::lock_guard<std::shared_mutex> guard(state().lock);
    state().files.insert(f);
    *out = f;
    return {CU_FILE_SUCCESS, 0};
}

void cuFileHandleDeregister(void *given)
{
    emu_call(__func__);
    if (!file_is_live(given, __func__))
        return;
    std::lock_guard<std::shared_mutex> guard(state().lock);
    state().files.erase((file *)given);
    close(((file *)given)->own_fd);
    delete (file *)given;
}

CUfileError_t cuFileBufRegister(const void *base, size_t bytes, int flags)
{
    CUfileError_t e = enter(__func__);
    if (e.err)
        return e;
    std::lock_guard<std::shared_mutex> guard(state().lock);
    if (!base || bytes == 0 || flags != 0)
        return {CU_FILE_INVALID_VALUE, 0};
    if (!emu_is_device((uint64_t)base, bytes))
        return {CU_FILE_CUDA_POINTER_INVALID, 0};
    bool fresh = state().buffers.emplace(base, bytes).second;
    return {fresh ? CU_FILE_SUCCESS : CU_FILE_MEMORY_ALREADY_REGISTERED, 0};
}

CUfileError_t cuFileBufDeregister(const void *base)
{
    CUfileError_t e = enter(__func__);
    if (e.err)
        return e;
    std::lock_guard<std::shared_mutex> guard(state().lock);
    return {state().buffers.erase(base) ? CU_FILE_SUCCESS : CU_FILE_MEMORY_NOT_REGISTERED, 0};
}

/* Bytes read; -1: errno says why; below: minus an error of cuFile's. */
ssize_t cuFileRead(void *given, void *base, size_t n, off_t file_offset, off_t base_offset)
{
    if (int code = emu_call(__func__))
        return -code;
    if (!state().open)
        return -CU_FILE_DRIVER_NOT_INITIALIZED;
    if (!file_is_live(given, __func__))
        return -CU_FILE_HANDLE_NOT_REGISTERED;
    const file &f = *(file *)given;
    uint64_t to = (uint64_t)base + (uint64_t)base_offset;
    if (!emu_is_device(to, n)) {
        emu_misuse("host-pointer", "cuFileRead of %zu bytes to 0x%llx, which is not all memory of the device", n,
                   (unsigned long long)to);
        return -CU_FILE_CUDA_POINTER_INVALID;
    }
    double since = emu_time(); /* of both, the disk and the link */
    emu_charge_disk(f.fd, (uint64_t)file_offset, bytes_there(f, n, file_offset));
    return read_to_device(f, to, n, file_offset, since);
}
}
#pragma GCC visibility pop
