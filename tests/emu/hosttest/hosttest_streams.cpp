/* Order between streams, and between streams and the host. */
#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>
#include <unistd.h>

#include "hosttest.h"

constexpr uint32_t N = 1000;

/* A copy on one stream, a kernel that reads it on another. */
static void event_for_kernel(bool buggy)
{
    fixture f;
    CUstream copy = f.stream(), compute = f.stream();
    CUdeviceptr in = f.alloc(N * 4), out = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    CUevent done = f.event();
    OK(cuMemcpyHtoDAsync(in, host, N * 4, copy));
    OK(cuEventRecord(done, copy));
    if (!buggy)
        OK(cuStreamWaitEvent(compute, done, 0));
    f.add_one(out, in, N, compute);
    CUresult rc = cuStreamSynchronize(compute);
    CHECK(buggy || rc == CUDA_SUCCESS);
    if (!buggy)
        CHECK(f.words(out, N)[N - 1] == N);
}

/* The other way round: a copy overwrites what a kernel may still be reading. */
static void event_before_overwrite(bool buggy)
{
    fixture f;
    CUstream copy = f.stream(), compute = f.stream();
    CUdeviceptr in = f.alloc(N * 4), out = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    CUevent used = f.event();
    OK(cuMemcpyHtoD(in, host, N * 4));
    f.add_one(out, in, N, compute);
    OK(cuEventRecord(used, compute));
    if (!buggy)
        OK(cuStreamWaitEvent(copy, used, 0));
    OK(cuMemcpyHtoDAsync(in, host, N * 4, copy));
    cuStreamSynchronize(compute);
    cuStreamSynchronize(copy);
}

static void event_for_copy(bool buggy)
{
    fixture f;
    CUstream up = f.stream(), down = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(2 * N);
    CUevent done = f.event();
    OK(cuMemcpyHtoDAsync(memory, host, N * 4, up));
    OK(cuEventRecord(done, up));
    if (!buggy)
        OK(cuStreamWaitEvent(down, done, 0));
    OK(cuMemcpyDtoHAsync(host + N, memory, N * 4, down));
    OK(cuStreamSynchronize(down));
    OK(cuStreamSynchronize(up));
    CHECK(buggy || host[N + 17] == 17);
}

/* The host's own waiting is an order, too. */
static void host_is_an_order(bool)
{
    fixture f;
    CUstream up = f.stream(), down = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(2 * N);
    OK(cuMemcpyHtoDAsync(memory, host, N * 4, up));
    OK(cuStreamSynchronize(up));
    OK(cuMemcpyDtoHAsync(host + N, memory, N * 4, down));
    OK(cuStreamSynchronize(down));
    CHECK(host[N + 17] == 17);
}

static void read_pinned(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    f.fill(memory, 7, N, s);
    OK(cuMemcpyDtoHAsync(host + 8, memory, 400, s));
    CHECK(host[0] == 0); /* beside what is in flight, on the same page */
    if (!buggy)
        OK(cuStreamSynchronize(s));
    uint32_t got = *(volatile uint32_t *)&host[8];
    CHECK(buggy || got == 7);
    OK(cuStreamSynchronize(s));
}

static void write_pinned(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    f.fill(memory, 7, N, s);
    OK(cuMemcpyDtoHAsync(host, memory, N * 4, s));
    if (!buggy)
        OK(cuStreamSynchronize(s));
    host[3] = 1;
    OK(cuStreamSynchronize(s));
}

static void change_source(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    OK(cuMemcpyHtoDAsync(memory, host, N * 4, s));
    if (!buggy)
        OK(cuStreamSynchronize(s));
    host[5] = 99;
    OK(cuStreamSynchronize(s));
    CHECK(buggy || f.words(memory, N)[5] == 5);
}

/* Legal: a pageable source has been read when the call returns. */
static void change_pageable_source(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    std::vector<uint32_t> host(N, 5);
    OK(cuMemcpyHtoDAsync(memory, host.data(), N * 4, s));
    host[5] = 99;
    OK(cuStreamSynchronize(s));
    CHECK(f.words(memory, N)[5] == 5);
}

/* A pageable target is filled when the call returns. */
static void pageable_target(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    std::vector<uint32_t> host(N);
    f.fill(memory, 3, N, s);
    OK(cuMemcpyDtoHAsync(host.data(), memory, N * 4, s));
    CHECK(host[N - 1] == 3);
}

static void registered_memory(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    std::vector<uint32_t> host(N, 5);
    OK(cuMemHostRegister(host.data(), N * 4, 0));
    OK(cuMemcpyHtoDAsync(memory, host.data(), N * 4, s));
    if (buggy)
        host[0] = 6;
    OK(cuStreamSynchronize(s));
    OK(cuMemHostUnregister(host.data()));
    CHECK(buggy || f.words(memory, 1)[0] == 5);
}

static void free_in_flight(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    void *host;
    OK(cuMemHostAlloc(&host, N * 4, 0));
    memset(host, 0, N * 4);
    OK(cuMemcpyHtoDAsync(memory, host, N * 4, s));
    if (!buggy)
        OK(cuStreamSynchronize(s));
    OK(cuMemFreeHost(host));
    OK(cuStreamSynchronize(s));
}

/* The legacy stream and blocking streams wait for each other; a non-blocking stream is left out of it. */
static void legacy_order(bool buggy)
{
    fixture f;
    CUstream s;
    OK(cuStreamCreate(&s, buggy ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    OK(cuMemcpyHtoDAsync(memory, host, N * 4, s));
    OK(cuMemsetD32Async(memory, 1, N, nullptr));
    OK(cuCtxSynchronize());
    OK(cuStreamDestroy(s));
    CHECK(buggy || f.words(memory, 1)[0] == 1);
}

static void params_at_launch(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 4, n = N;
    void *params[] = {&memory, &value, &n};
    OK(cuLaunchKernel(f.f_fill, 16, 1, 1, 64, 1, 1, 0, s, params, nullptr));
    value = 5;
    CHECK(f.words(memory, 1)[0] == 4);
}

static void queries(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUevent e = f.event();
    CUdeviceptr memory = f.alloc(N * 4);
    f.fill(memory, 4, N, s);
    OK(cuEventRecord(e, s));
    CHECK_RC(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CUresult rc;
    while ((rc = cuEventQuery(e)) == CUDA_ERROR_NOT_READY) {
    }
    CHECK_RC(rc, CUDA_SUCCESS);
    CHECK_RC(cuStreamQuery(s), CUDA_SUCCESS);
}

static std::atomic<int> n_called;

static void CUDA_CB called(void *host)
{
    n_called += *(uint32_t *)host == 9; /* what the stream copied before */
}

static void CUDA_CB calls_driver(void *host)
{
    cuStreamQuery(nullptr);
    called(host);
}

/* A host function runs some time, also when nobody asks the driver again. */
static void host_function(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    f.fill(memory, 9, N, s);
    OK(cuMemcpyDtoHAsync(host, memory, N * 4, s));
    OK(cuStreamSynchronize(s));
    OK(cuLaunchHostFunc(s, buggy ? calls_driver : called, host));
    while (n_called == 0)
        usleep(1000);
    CHECK(n_called == 1);
    OK(cuStreamSynchronize(s));
}

/* A host function is the host's own reading and writing, in the stream's order. */
static void CUDA_CB doubles(void *host)
{
    uint32_t *words = (uint32_t *)host;
    for (uint32_t i = 0; i < N; i++)
        words[i] *= 2;
    n_called++;
}

static void host_function_in_order(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4), other = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    f.fill(memory, 9, N, s);
    OK(cuMemcpyDtoHAsync(host, memory, N * 4, s));
    OK(cuLaunchHostFunc(s, doubles, host));
    OK(cuMemcpyHtoDAsync(other, host, N * 4, s));
    OK(cuStreamSynchronize(s));
    CHECK(f.words(other, N)[N - 1] == 18);
}

/* Down and up again through the same pinned memory, and a kernel that writes it: all in one stream's order. */
static void through_pinned(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4), other = f.alloc(N * 4), third = f.alloc(N * 4);
    uint32_t *host = f.pinned(N);
    f.fill(memory, 5, N, s);
    OK(cuMemcpyDtoHAsync(host, memory, N * 4, s));
    OK(cuMemcpyHtoDAsync(other, host, N * 4, s));
    f.fill((CUdeviceptr)host, 6, N, s);
    OK(cuMemcpyHtoDAsync(third, host, N * 4, s));
    OK(cuStreamSynchronize(s));
    CHECK(f.words(other, N)[N - 1] == 5 && f.words(third, N)[N - 1] == 6);
}

/* Four threads, each with its stream, its memory and its context made current. */
static void threads(bool buggy)
{
    fixture f;
    std::vector<std::thread> all;
    std::vector<uint32_t *> host;
    std::vector<CUdeviceptr> memory;
    for (int i = 0; i < 4; i++) {
        host.push_back(f.pinned(N));
        memory.push_back(f.alloc(N * 4));
    }
    for (int i = 0; i < 4; i++)
        all.emplace_back([&, i] {
            CUstream s;
            if (!buggy)
                OK(cuCtxSetCurrent(f.context));
            if (cuStreamCreate(&s, CU_STREAM_NON_BLOCKING) != CUDA_SUCCESS)
                return;
            for (uint32_t round = 0; round < 20; round++) {
                host[i][0] = round;
                OK(cuMemcpyHtoDAsync(memory[i], host[i], N * 4, s));
                OK(cuStreamSynchronize(s));
            }
            OK(cuStreamDestroy(s));
        });
    for (std::thread &t : all)
        t.join();
    if (!buggy)
        for (int i = 0; i < 4; i++)
            CHECK(f.words(memory[i], 1)[0] == 19);
}

static void destroyed_stream(bool buggy)
{
    fixture f;
    CUstream s;
    CUdeviceptr memory = f.alloc(N * 4);
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    f.fill(memory, 3, N, s);
    OK(cuStreamDestroy(s)); /* its work still happens */
    CHECK(f.words(memory, 1)[0] == 3);
    if (buggy)
        CHECK_RC(cuStreamSynchronize(s), CUDA_ERROR_INVALID_HANDLE);
}

static void elapsed_time(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUevent begin = f.event(), end = f.event();
    CUdeviceptr memory = f.alloc(1 << 20);
    uint32_t *host = f.pinned(1 << 18);
    float ms = 0;
    OK(cuEventRecord(begin, s));
    OK(cuMemcpyHtoDAsync(memory, host, 1 << 20, s));
    if (!buggy)
        OK(cuEventRecord(end, s));
    OK(cuStreamSynchronize(s));
    CHECK_RC(cuEventElapsedTime(&ms, begin, end), buggy ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS);
    /* 1 MiB at 1 GB/s, and 10 us of latency */
    CHECK(buggy || (ms > 1.0585f && ms < 1.0587f));
}

static void leak_stream(bool buggy)
{
    fixture f;
    CUstream s;
    OK(cuStreamCreate(&s, 0));
    if (!buggy)
        OK(cuStreamDestroy(s));
}

static void leak_event(bool buggy)
{
    fixture f;
    CUevent e;
    OK(cuEventCreate(&e, 0));
    if (!buggy)
        OK(cuEventDestroy(e));
}

const std::vector<hosttest_case> hosttest_streams = {
    {"event for a kernel", "stream-race", event_for_kernel, nullptr, 0},
    {"event before an overwrite", "stream-race", event_before_overwrite, nullptr, 0},
    {"event for a copy", "stream-race", event_for_copy, nullptr, 0},
    {"waiting is an order", nullptr, host_is_an_order, nullptr, 0},
    {"pinned memory read early", "pinned-read-early", read_pinned, nullptr, 0},
    {"pinned memory written early", "pinned-write-early", write_pinned, nullptr, 0},
    {"pinned source changed", "pinned-source-changed", change_source, nullptr, 0},
    {"pageable source changed", nullptr, change_pageable_source, nullptr, 0},
    {"pageable target", nullptr, pageable_target, nullptr, 0},
    {"registered memory changed", "pinned-source-changed", registered_memory, nullptr, 0},
    {"pinned memory freed in flight", "pinned-freed-in-flight", free_in_flight, nullptr, 0},
    {"legacy stream's order", "stream-race", legacy_order, nullptr, 0},
    {"parameters at launch", nullptr, params_at_launch, nullptr, 0},
    {"queries", nullptr, queries, nullptr, 0},
    {"host function", "call-in-host-function", host_function, nullptr, 0},
    {"host function in order", nullptr, host_function_in_order, nullptr, 0},
    {"through pinned memory", nullptr, through_pinned, nullptr, 0},
    {"threads, context on each", "no-context", threads, nullptr, 0},
    {"stream destroyed", "stale-handle", destroyed_stream, nullptr, 0},
    {"elapsed time", "event-without-time", elapsed_time, "EMU_LINK_GBPS=1", 0},
    {"stream left over", "leak-stream", leak_stream, nullptr, 0},
    {"event left over", "leak-event", leak_event, nullptr, 0},
};
