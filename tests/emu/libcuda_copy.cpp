/* Copies, fills and host functions: what is checked at the call, and what becomes of it in a stream. */
#include "libcuda_state.h"

/* Host memory that a copy names: on the device's side of the fence, or half pinned, it is refused. */
static CUresult classify_host(const char *call, uint64_t address, uint64_t bytes, bool *out_pinned)
{
    if (memory_is_device(address)) {
        misuse("device-pointer-as-host", "%s: 0x%llx is an address of the device", call, (unsigned long long)address);
        return CUDA_ERROR_INVALID_VALUE;
    }
    host_kind kind = memory_host_kind(address, bytes);
    if (kind == host_kind::mixed) {
        misuse("half-pinned", "%s: of the %llu bytes at 0x%llx only some are pinned", call, (unsigned long long)bytes,
               (unsigned long long)address);
        return CUDA_ERROR_INVALID_VALUE;
    }
    *out_pinned = kind == host_kind::pinned;
    return CUDA_SUCCESS;
}

/* The real driver looks addresses up at the call, and refuses those that it does not know. */
static CUresult classify_device(const std::string &what, uint64_t address, uint64_t bytes, bool write)
{
    std::string why;
    if (memory_check(address, bytes, write, &why))
        return CUDA_SUCCESS;
    memory_report("illegal-address", why, what);
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult copy_job(const char *call, job *j)
{
    j->kind = job_kind::copy;
    j->what = text_of("%s(0x%llx, 0x%llx, %llu)", call, (unsigned long long)j->target, (unsigned long long)j->source,
                      (unsigned long long)j->bytes);
    CUresult rc = CUDA_SUCCESS;
    if (j->source_host)
        rc = classify_host(call, j->source, j->bytes, &j->source_pinned);
    if (rc == CUDA_SUCCESS && j->target_host)
        rc = classify_host(call, j->target, j->bytes, &j->target_pinned);
    if (rc == CUDA_SUCCESS && !j->source_host)
        rc = classify_device(j->what, j->source, j->bytes, false);
    if (rc == CUDA_SUCCESS && !j->target_host)
        rc = classify_device(j->what, j->target, j->bytes, true);
    j->link = j->source_host ? LINK_IN : j->target_host ? LINK_OUT : LINK_COMPUTE;
    if (!j->source_host || j->source_pinned)
        j->spans.push_back({j->source, j->bytes, false});
    if (!j->target_host || j->target_pinned)
        j->spans.push_back({j->target, j->bytes, true});
    return rc;
}

/* Pageable memory is read at the call, and written before the call returns. */
static CUresult copy_async(const char *call, job &&j, CUstream handle)
{
    CUstream stream;
    CUresult rc = stream_of(handle, &stream);
    if (rc == CUDA_SUCCESS && j.bytes > 0)
        rc = copy_job(call, &j);
    if (rc != CUDA_SUCCESS || j.bytes == 0)
        return rc;
    bool pageable_target = j.target_host && !j.target_pinned;
    bool pageable_source = j.source_host && !j.source_pinned;
    if (capture_active(stream) && (pageable_source || pageable_target)) {
        misuse("pageable-in-capture", "%s: host memory of a graph's copy must stay where it is, so pin it",
               j.what.c_str());
        pageable_source = pageable_target = false;
    }
    if (pageable_source)
        j.staged = std::make_shared<std::vector<uint8_t>>((uint8_t *)j.source, (uint8_t *)j.source + j.bytes);
    op_ref o;
    rc = work_submit(stream, std::move(j), &o);
    return rc == CUDA_SUCCESS && pageable_target ? work_wait(o) : rc;
}

static CUresult copy_now(const char *call, job &&j)
{
    if (j.bytes == 0)
        return CUDA_SUCCESS;
    CUresult rc = copy_job(call, &j);
    op_ref o;
    if (rc == CUDA_SUCCESS)
        rc = work_submit(stream_legacy(), std::move(j), &o);
    return rc == CUDA_SUCCESS ? work_wait(o) : rc;
}

static job copy_of(CUdeviceptr target, bool target_host, CUdeviceptr source, bool source_host, size_t bytes)
{
    job j;
    j.target = target;
    j.target_host = target_host;
    j.source = source;
    j.source_host = source_host;
    j.bytes = bytes;
    return j;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return copy_async(__func__, copy_of(dstDevice, false, (CUdeviceptr)srcHost, true, ByteCount), hStream);
}

CUresult cuMemcpyDtoHAsync(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return copy_async(__func__, copy_of((CUdeviceptr)dstHost, true, srcDevice, false, ByteCount), hStream);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return copy_async(__func__, copy_of(dstDevice, false, srcDevice, false, ByteCount), hStream);
}

CUresult cuMemcpyHtoD(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return copy_now(__func__, copy_of(dstDevice, false, (CUdeviceptr)srcHost, true, ByteCount));
}

CUresult cuMemcpyDtoH(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return copy_now(__func__, copy_of((CUdeviceptr)dstHost, true, srcDevice, false, ByteCount));
}

CUresult cuMemcpyDtoD(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return copy_now(__func__, copy_of(dstDevice, false, srcDevice, false, ByteCount));
}

int emu_write_now(uint64_t device, const void *from, uint64_t bytes, double since)
{
    lock_enter();
    job j;
    j.kind = job_kind::copy;
    j.what =
        text_of("a read of %llu bytes from a file to 0x%llx", (unsigned long long)bytes, (unsigned long long)device);
    j.target = device;
    j.bytes = bytes;
    j.spans = {{device, bytes, true}};
    CUresult rc = work_fault() != CUDA_SUCCESS ? work_fault() : work_write_now(std::move(j), from);
    thread_advance(link_take(LINK_IN, since, link_ns(bytes), bytes));
    lock_leave();
    thread_take_turn();
    return rc;
}

bool emu_is_device(uint64_t address, uint64_t bytes)
{
    std::string why;
    lock_enter();
    bool is = memory_is_device(address) && memory_check(address, bytes, true, &why);
    lock_leave();
    return is;
}

double emu_time()
{
    return thread_now();
}

job fill_job(const char *call, CUdeviceptr target, uint32_t pattern, uint32_t pattern_bytes, uint64_t n)
{
    job j;
    j.kind = job_kind::fill;
    j.link = LINK_COMPUTE;
    j.what = text_of("%s(0x%llx, 0x%x, %llu)", call, target, pattern, (unsigned long long)n);
    j.target = target;
    j.bytes = n * pattern_bytes;
    j.pattern = pattern;
    j.pattern_bytes = pattern_bytes;
    j.spans = {{target, j.bytes, true}};
    return j;
}

static CUresult fill_async(const char *call, CUdeviceptr target, uint32_t pattern, uint32_t pattern_bytes, uint64_t n,
                           CUstream handle, bool wait)
{
    CUstream stream;
    CUresult rc = stream_of(handle, &stream);
    if (rc != CUDA_SUCCESS || n == 0)
        return rc;
    job j = fill_job(call, target, pattern, pattern_bytes, n);
    if (target % pattern_bytes != 0) {
        misuse("misaligned", "%s", j.what.c_str());
        return CUDA_ERROR_INVALID_VALUE;
    }
    rc = classify_device(j.what, target, j.bytes, true);
    op_ref o;
    if (rc == CUDA_SUCCESS)
        rc = work_submit(stream, std::move(j), &o);
    return rc == CUDA_SUCCESS && wait ? work_wait(o) : rc;
}

CUresult cuMemsetD8(CUdeviceptr dstDevice, unsigned char uc, size_t N)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT | UNSAFE_IN_CAPTURE);
    return fill_async(__func__, dstDevice, uc, 1, N, nullptr, true);
}

CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return fill_async(__func__, dstDevice, uc, 1, N, hStream, false);
}

CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    return fill_async(__func__, dstDevice, ui, 4, N, hStream, false);
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc != CUDA_SUCCESS || !fn)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    job j;
    j.kind = job_kind::host;
    j.what = "cuLaunchHostFunc";
    j.host_function = fn;
    j.host_data = userData;
    return work_submit(stream, std::move(j));
}
