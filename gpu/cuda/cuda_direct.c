#include "gpu/cuda/cuda_direct.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "gpu/cuda/cuda_model.h"

/* ---- libcufile, by its public interface ---- */

struct cufile_error {
    int err;         /* 0: success */
    CUresult cu_err; /* when err says that CUDA failed */
};

struct cufile_file {
    int type; /* CUFILE_FD */
    union {
        int fd;
        void *handle;
    } handle;
    const void *fs_ops;
};

struct cufile_properties {
    unsigned nvfs_major, nvfs_minor; /* 0: nvidia-fs is not loaded */
    uint8_t rest[248];               /* more than any version has; not looked at */
};

enum { CUFILE_FD = 1 };

struct cufile {
    struct cufile_error (*driver_open)(void);
    struct cufile_error (*properties)(struct cufile_properties *out);
    struct cufile_error (*file_register)(void **out_handle, struct cufile_file *file);
    void (*file_deregister)(void *handle);
    ssize_t (*read)(void *handle, void *base, size_t n, off_t file_offset, off_t base_offset);
};

static struct cufile cufile;
static struct base_error cufile_error;
static pthread_once_t cufile_once = PTHREAD_ONCE_INIT;

/* Asked first: opening libcufile where the module is missing takes half a second to say so (measured on an H100, driver 580). */
static bool module_is_loaded(void)
{
    return access("/proc/driver/nvidia-fs", F_OK) == 0 || access("/sys/module/nvidia_fs", F_OK) == 0;
}

static void find_calls(void)
{
    const struct {
        const char *name;
        void **to;
    } calls[] = {{"cuFileDriverOpen", (void **)(void *)&cufile.driver_open},
                 {"cuFileDriverGetProperties", (void **)(void *)&cufile.properties},
                 {"cuFileHandleRegister", (void **)(void *)&cufile.file_register},
                 {"cuFileHandleDeregister", (void **)(void *)&cufile.file_deregister},
                 {"cuFileRead", (void **)(void *)&cufile.read}};
    void *library = dlopen("libcufile.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        base_fail(&cufile_error, ERR_NOTFOUND, "no GPUDirect Storage here: %s", dlerror());
    for (size_t i = 0; library && cufile_error.code == 0 && i < sizeof calls / sizeof *calls; i++) {
        *calls[i].to = dlsym(library, calls[i].name);
        if (!*calls[i].to)
            base_fail(&cufile_error, ERR_SERVICE, "libcufile.so.0 has no %s", calls[i].name);
    }
}

/* With a context current. Never closed. */
static void cufile_open(void)
{
    struct cufile_properties properties = {0};
    if (!module_is_loaded())
        base_fail(&cufile_error, ERR_NOTFOUND, "no GPUDirect Storage here: nvidia-fs is not loaded");
    else
        find_calls();
    if (cufile_error.code)
        return;
    struct cufile_error e = cufile.driver_open();
    if (e.err == 0)
        e = cufile.properties(&properties);
    if (e.err)
        base_fail(&cufile_error, ERR_SERVICE, "GPUDirect Storage does not start: cuFile error %d", e.err);
    else if (properties.nvfs_major == 0)
        base_fail(&cufile_error, ERR_SERVICE, "no GPUDirect Storage here: nvidia-fs is not loaded");
}

static int cufile_get(struct base_error *err)
{
    pthread_once(&cufile_once, cufile_open);
    if (cufile_error.code && err)
        *err = cufile_error;
    return cufile_error.code;
}

/* ---- one file ---- */

enum { LANES = 8, LANE_BYTES = 256 /* apart on the device, each for one hash */ };

/* What one read at a time needs. */
struct lane {
    CUstream stream;
    uint64_t *hash; /* pinned */
    bool busy;      /* guarded by the lock */
};

struct cuda_direct {
    struct gpu_direct base;
    struct cuda_device *device;
    void *file; /* cuFile's handle; NULL: not registered */
    CUfunction function;
    struct cuda_arena hashes; /* [LANES] LANE_BYTES apart; base 0: not there */
    uint64_t *pinned;         /* [LANES] */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct lane lanes[LANES];
};

static struct cuda_direct *direct_of(struct gpu_direct *direct)
{
    return (struct cuda_direct *)direct;
}

void cuda_direct_close(struct gpu_direct *direct)
{
    struct cuda_direct *x = direct_of(direct);
    const struct cuda_driver *cu = x->device->cu;
    (void)cuda_device_context(x->device, NULL);
    for (int i = 0; i < LANES; i++)
        if (x->lanes[i].stream)
            (void)cu->StreamDestroy(x->lanes[i].stream);
    if (x->pinned)
        (void)cu->MemFreeHost(x->pinned);
    if (x->hashes.base)
        cuda_arena_done(&x->hashes);
    if (x->file)
        cufile.file_deregister(x->file);
    pthread_mutex_destroy(&x->lock);
    pthread_cond_destroy(&x->changed);
    free(x);
}

static int make_lanes(struct cuda_direct *x, struct base_error *err)
{
    struct cuda_device *d = x->device;
    void *pinned = NULL;
    int rc = cuda_arena_init(&x->hashes, d, LANES * LANE_BYTES, err);
    if (rc < 0) {
        x->hashes.base = 0;
        return rc;
    }
    rc = cuda_check(d, d->cu->MemHostAlloc(&pinned, LANES * sizeof(uint64_t), 0), err, "memory for hashes");
    x->pinned = pinned;
    for (int i = 0; i < LANES && rc == 0; i++) {
        x->lanes[i].hash = x->pinned + i;
        rc =
            cuda_check(d, d->cu->StreamCreate(&x->lanes[i].stream, CU_STREAM_NON_BLOCKING), err, "a stream for hashes");
    }
    return rc;
}

int cuda_direct_open(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err)
{
    struct cuda_device *d = (struct cuda_device *)device;
    struct cufile_file file = {.type = CUFILE_FD, .handle = {.fd = fd}};
    int rc = cuda_device_ready(d, err);
    if (rc == 0)
        rc = cufile_get(err);
    if (rc < 0)
        return rc;
    struct cuda_direct *x = calloc(1, sizeof *x);
    if (!x)
        return base_fail(err, ERR_NOMEM, "no memory for reading directly");
    x->base.device = device;
    x->device = d;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->changed, NULL);
    rc = d->module ? cuda_module_function(d->module, "hash", &x->function, err)
                   : base_fail(err, ERR_SERVICE, "%s has no kernels yet", d->base.info.name);
    const struct cufile_error e = rc == 0 ? cufile.file_register(&x->file, &file) : (struct cufile_error){0};
    if (e.err) {
        x->file = NULL;
        rc = base_fail(err, ERR_SERVICE, "GPUDirect Storage does not take this file: cuFile error %d", e.err);
    }
    if (rc == 0)
        rc = make_lanes(x, err);
    if (rc < 0) {
        cuda_direct_close(&x->base);
        return rc;
    }
    *out_direct = &x->base;
    return 0;
}

/* ---- reading ---- */

static uint32_t take_lane(struct cuda_direct *x)
{
    uint32_t i = 0;
    pthread_mutex_lock(&x->lock);
    while (x->lanes[i].busy) {
        if (++i == LANES) {
            pthread_cond_wait(&x->changed, &x->lock);
            i = 0;
        }
    }
    x->lanes[i].busy = true;
    pthread_mutex_unlock(&x->lock);
    return i;
}

static void give_lane(struct cuda_direct *x, uint32_t i)
{
    pthread_mutex_lock(&x->lock);
    x->lanes[i].busy = false;
    pthread_cond_signal(&x->changed);
    pthread_mutex_unlock(&x->lock);
}

/* -1: the system's error; below: one of cuFile's. */
static int read_failed(ssize_t got, uint32_t n_bytes, uint64_t file_offset, struct base_error *err)
{
    if (got == -1)
        return base_fail_errno(err, "cuFileRead at %llu", (unsigned long long)file_offset);
    return base_fail(err, ERR_IO, "cuFileRead of %u bytes at %llu: %s %zd", n_bytes, (unsigned long long)file_offset,
                     got < 0 ? "error" : "only", got < 0 ? -got : got);
}

static int hash_there(struct cuda_direct *x, uint32_t lane, CUdeviceptr bytes, uint32_t n_bytes, uint64_t *out_hash,
                      struct base_error *err)
{
    struct cuda_device *d = x->device;
    const struct lane *l = &x->lanes[lane];
    const CUdeviceptr to = x->hashes.base + lane * LANE_BYTES;
    struct cuda_hash_args args = {
        .bytes = (const uint8_t *)(uintptr_t)bytes, .n_bytes = n_bytes, .hashes = (uint64_t *)(uintptr_t)to};
    void *arguments[] = {&args};
    int rc = cuda_check(d, d->cu->LaunchKernel(x->function, 1, 1, 1, CUDA_WARP, 1, 1, 0, l->stream, arguments, NULL),
                        err, "launching hash");
    if (rc == 0)
        rc = cuda_check(d, d->cu->MemcpyDtoHAsync(l->hash, to, sizeof *l->hash, l->stream), err, "reading a hash");
    if (rc == 0)
        rc = cuda_check(d, d->cu->StreamSynchronize(l->stream), err, "hashing %u bytes", n_bytes);
    if (rc == 0)
        *out_hash = *l->hash;
    return rc;
}

int cuda_direct_read(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                     uint64_t file_offset, uint64_t *out_hash, struct base_error *err)
{
    struct cuda_direct *x = direct_of(direct);
    struct cuda_model *m = (struct cuda_model *)model;
    const CUdeviceptr to = m->arena.base + offset;
    assert(n_bytes <= CUDA_HASH_BYTES);
    int rc = cuda_device_context(x->device, err);
    if (rc < 0)
        return rc;
    cuda_model_note_copies(m);
    const ssize_t got = cufile.read(x->file, (void *)(uintptr_t)to, n_bytes, (off_t)file_offset, 0);
    if (got != (ssize_t)n_bytes)
        return read_failed(got, n_bytes, file_offset, err);
    const uint32_t lane = take_lane(x);
    rc = hash_there(x, lane, to, n_bytes, out_hash, err);
    give_lane(x, lane);
    return rc;
}
