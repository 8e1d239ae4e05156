/* The emulated cuFile: from a file into device memory. */
#include <cstring>
#include <fcntl.h>

#include "hosttest.h"

/* As NVIDIA documents them. */
extern "C" {
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
CUfileError_t cuFileDriverOpen(void);
CUfileError_t cuFileDriverClose(void);
CUfileError_t cuFileDriverGetProperties(void *properties);
CUfileError_t cuFileHandleRegister(void **handle, CUfileDescr_t *descr);
void cuFileHandleDeregister(void *handle);
CUfileError_t cuFileBufRegister(const void *base, size_t bytes, int flags);
CUfileError_t cuFileBufDeregister(const void *base);
ssize_t cuFileRead(void *handle, void *base, size_t n, off_t file_offset, off_t base_offset);
}

enum { NOT_INITIALIZED = 5001, POINTER_INVALID = 5012, DIO_NOT_SET = 5020, NOT_REGISTERED = 5027 };
constexpr size_t BYTES = 3 << 20;

/* A file of counted words, registered. */
struct direct {
    direct()
    {
        OK(cuCtxSynchronize());
        std::string path = std::string(getenv("HOSTTEST_FOLDER")) + "/direct.snap";
        std::vector<uint32_t> words(BYTES / 4);
        for (uint32_t i = 0; i < words.size(); i++)
            words[i] = i;
        FILE *f = fopen(path.c_str(), "we");
        CHECK(f && fwrite(words.data(), 1, BYTES, f) == BYTES);
        fclose(f);
        fd = open(path.c_str(), O_RDONLY | O_DIRECT);
        CHECK(fd >= 0);
        CHECK(cuFileDriverOpen().err == 0);
        CUfileDescr_t descr = {1, {fd}, nullptr};
        CHECK(cuFileHandleRegister(&handle, &descr).err == 0);
    }
    ~direct()
    {
        if (handle)
            cuFileHandleDeregister(handle);
        close(fd);
    }
    int fd;
    void *handle;
};

static void reads(bool)
{
    fixture f;
    direct d;
    CUdeviceptr memory = f.alloc(BYTES);
    unsigned properties[64];
    CHECK(cuFileDriverGetProperties(properties).err == 0 && properties[0] == 0);
    CHECK(cuFileBufRegister((void *)memory, BYTES, 0).err == 0);
    CHECK(cuFileRead(d.handle, (void *)memory, 2 << 20, 0, 0) == 2 << 20);
    CHECK(cuFileRead(d.handle, (void *)memory, 4000, 8, 1 << 20) == 4000);
    CHECK(cuFileBufDeregister((void *)memory).err == 0);
    std::vector<uint32_t> got = f.words(memory, (2 << 20) / 4);
    CHECK(got[7] == 7 && got[(1 << 18) - 1] == (1 << 18) - 1 && got[1 << 18] == 2 && got[(1 << 18) + 999] == 1001);
    CHECK(got[(1 << 18) + 1000] == (1 << 18) + 1000);
    CHECK(cuFileRead(d.handle, (void *)memory, 4096, BYTES - 100, 0) == 100); /* the file ends */
}

static void not_direct(bool)
{
    fixture f;
    direct d;
    int fd = open("/proc/self/exe", O_RDONLY);
    void *handle;
    CUfileDescr_t descr = {1, {fd}, nullptr};
    CHECK(cuFileHandleRegister(&handle, &descr).err == DIO_NOT_SET);
    close(fd);
    CHECK(cuFileDriverClose().err == 0);
    CHECK(cuFileRead(d.handle, nullptr, 1, 0, 0) == -NOT_INITIALIZED);
    CHECK(cuFileDriverOpen().err == 0);
}

static void to_the_host(bool buggy)
{
    fixture f;
    direct d;
    CUdeviceptr memory = f.alloc(BYTES);
    std::vector<uint32_t> words(BYTES / 4);
    void *to = buggy ? words.data() : (void *)memory;
    CHECK(cuFileRead(d.handle, to, 4096, 0, 0) == (buggy ? -POINTER_INVALID : 4096));
}

static void past_the_end(bool buggy)
{
    fixture f;
    direct d;
    CUdeviceptr memory = f.alloc(8192);
    CHECK(cuFileRead(d.handle, (void *)memory, 4096, 0, buggy ? 4608 : 4096) == (buggy ? -POINTER_INVALID : 4096));
}

/* It knows nothing of streams: only waiting keeps it from what is in flight. */
static void over_a_copy(bool buggy)
{
    fixture f;
    direct d;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(8192);
    uint32_t *host = f.pinned(1024);
    OK(cuMemcpyDtoHAsync(host, memory, 4096, s));
    if (!buggy)
        OK(cuStreamSynchronize(s));
    CHECK(cuFileRead(d.handle, (void *)memory, 4096, 0, 0) == 4096);
    OK(cuStreamSynchronize(s));
}

static void under_a_kernel(bool buggy)
{
    fixture f;
    direct d;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(8192);
    f.fill(memory, 1, 100, s);
    if (!buggy)
        OK(cuStreamSynchronize(s));
    CHECK(cuFileRead(d.handle, (void *)memory, 4096, 0, 0) == 4096);
    cuStreamSynchronize(s);
}

static void deregistered(bool buggy)
{
    fixture f;
    direct d;
    CUdeviceptr memory = f.alloc(8192);
    void *handle = d.handle;
    if (buggy) {
        cuFileHandleDeregister(handle);
        d.handle = nullptr;
    }
    CHECK(cuFileRead(handle, (void *)memory, 4096, 0, 0) == (buggy ? -NOT_REGISTERED : 4096));
}

static void leak(bool buggy)
{
    fixture f;
    direct d;
    if (buggy)
        d.handle = nullptr;
}

const std::vector<hosttest_case> hosttest_file_cases = {
    {"file to device", nullptr, reads, nullptr, 0},
    {"file without O_DIRECT", nullptr, not_direct, nullptr, 0},
    {"file to the host", "host-pointer", to_the_host, nullptr, 0},
    {"file past the end", "host-pointer", past_the_end, nullptr, 0},
    {"file over a copy", "stream-race", over_a_copy, nullptr, 0},
    {"file under a kernel", "stream-race", under_a_kernel, "EMU_ORDER=lazy", 0},
    {"file deregistered", "stale-handle", deregistered, nullptr, 0},
    {"file left over", "leak-cufile", leak, nullptr, 0},
};

/* 2 MiB while nobody else reads: as long as the slower of disk and link takes. */
std::string hosttest_direct_read()
{
    fixture f;
    direct d;
    CUdeviceptr memory = f.alloc(BYTES);
    CHECK(cuFileRead(d.handle, (void *)memory, 2 << 20, 0, 0) == 2 << 20);
    return "";
}
