/* Capture, graphs. */
#include <thread>

#include "hosttest.h"

constexpr uint32_t N = 256;

static void begin(CUstream s)
{
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
}

/* A capture on s that is over, good or not. */
static CUresult end(CUstream s)
{
    CUgraph graph = nullptr;
    CUresult rc = cuStreamEndCapture(s, &graph);
    CHECK((rc == CUDA_SUCCESS) == (graph != nullptr));
    if (graph)
        OK(cuGraphDestroy(graph));
    return rc;
}

static void allocation(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4), other;
    begin(s);
    f.fill(memory, 1, N, s);
    if (buggy)
        CHECK_RC(cuMemAlloc(&other, 64), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}

static void synchronise(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    begin(s);
    f.fill(memory, 1, N, s);
    if (buggy)
        CHECK_RC(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}

static void legacy_stream(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    begin(s);
    f.fill(memory, 1, N, s);
    if (buggy)
        CHECK_RC(cuMemsetD32Async(memory, 0, N, nullptr), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}

/* In relaxed mode the thread may do what it likes, but not with the captured stream. */
static void relaxed(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr other;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    if (!buggy)
        OK(cuThreadExchangeStreamCaptureMode(&mode));
    CUresult rc = cuMemAlloc(&other, 64);
    CHECK_RC(rc, buggy ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS);
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
    if (rc == CUDA_SUCCESS)
        OK(cuMemFree(other));
}

static void fork(bool buggy)
{
    fixture f;
    CUstream s = f.stream(), side = f.stream();
    CUevent forked = f.event(), joined = f.event();
    CUdeviceptr a = f.alloc(N * 4), b = f.alloc(N * 4);
    begin(s);
    f.fill(a, 1, N, s);
    OK(cuEventRecord(forked, s));
    OK(cuStreamWaitEvent(side, forked, 0));
    f.fill(b, 2, N, side);
    OK(cuEventRecord(joined, side));
    if (!buggy)
        OK(cuStreamWaitEvent(s, joined, 0));
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_UNJOINED : CUDA_SUCCESS);
}

static void outside_event(bool buggy)
{
    fixture f;
    CUstream s = f.stream(), other = f.stream();
    CUevent e = f.event();
    CUdeviceptr a = f.alloc(N * 4);
    OK(cuEventRecord(e, other));
    if (!buggy)
        OK(cuStreamWaitEvent(s, e, 0)); /* before the capture */
    begin(s);
    if (buggy)
        CHECK_RC(cuStreamWaitEvent(s, e, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    cuMemsetD32Async(a, 1, N, s);
    CHECK_RC(end(s), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}

static void captured_event(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUevent e = f.event();
    CUdeviceptr a = f.alloc(N * 4);
    begin(s);
    f.fill(a, 1, N, s);
    OK(cuEventRecord(e, s));
    OK(end(s));
    if (!buggy)
        OK(cuEventRecord(e, s));
    CHECK_RC(cuEventSynchronize(e), buggy ? CUDA_ERROR_CAPTURED_EVENT : CUDA_SUCCESS);
}

/* Two captures, and an event of one in the other. */
static void merge(bool buggy)
{
    fixture f;
    CUstream s = f.stream(), other = f.stream();
    CUevent e = f.event();
    CUdeviceptr a = f.alloc(N * 4), b = f.alloc(N * 4);
    begin(s);
    begin(other);
    f.fill(a, 1, N, s);
    f.fill(b, 1, N, other);
    OK(cuEventRecord(e, other));
    if (buggy)
        CHECK_RC(cuStreamWaitEvent(s, e, 0), CUDA_ERROR_STREAM_CAPTURE_MERGE);
    for (CUstream each : {s, other})
        CHECK_RC(end(each), buggy ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}

static void other_thread(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    begin(s);
    std::thread([&] {
        CUgraph graph;
        OK(cuCtxSetCurrent(f.context));
        if (buggy)
            CHECK_RC(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    }).join();
    OK(end(s));
}

static void end_twice(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    begin(s);
    OK(end(s));
    if (buggy)
        CHECK_RC(end(s), CUDA_ERROR_ILLEGAL_STATE);
}

static void pageable_in_capture(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr a = f.alloc(N * 4);
    std::vector<uint32_t> pageable(N);
    uint32_t *pinned = f.pinned(N);
    begin(s);
    OK(cuMemcpyHtoDAsync(a, buggy ? pageable.data() : pinned, N * 4, s));
    OK(end(s));
}

static CUgraphExec instantiate(CUgraph graph)
{
    CUgraphExec exec;
    OK(cuGraphInstantiate(&exec, graph, 0));
    return exec;
}

/* Upload, compute, download as one graph, launched again and again with other inputs. */
static void relaunch(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr in = f.alloc(N * 4), out = f.alloc(N * 4);
    uint32_t *host = f.pinned(2 * N);
    CUgraph graph;
    begin(s);
    OK(cuMemcpyHtoDAsync(in, host, N * 4, s));
    f.add_one(out, in, N, s);
    OK(cuMemcpyDtoHAsync(host + N, out, N * 4, s));
    OK(cuStreamEndCapture(s, &graph));
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphDestroy(graph));
    OK(cuGraphUpload(exec, s));
    for (uint32_t round = 0; round < 3; round++) {
        host[9] = 100 * round;
        OK(cuGraphLaunch(exec, s));
        OK(cuStreamSynchronize(s));
        CHECK(host[N + 9] == 100 * round + 1);
    }
    OK(cuGraphExecDestroy(exec));
}

static void stale_address(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory;
    CUgraph graph;
    OK(cuMemAlloc(&memory, N * 4));
    begin(s);
    f.fill(memory, 1, N, s);
    OK(cuStreamEndCapture(s, &graph));
    CUgraphExec exec = instantiate(graph);
    if (buggy)
        OK(cuMemFree(memory));
    OK(cuGraphLaunch(exec, s));
    CHECK_RC(cuStreamSynchronize(s), buggy ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS);
    if (buggy)
        return;
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
    OK(cuMemFree(memory));
}

static CUDA_KERNEL_NODE_PARAMS kernel_node(CUfunction function, void **params)
{
    CUDA_KERNEL_NODE_PARAMS p = {};
    p.func = function;
    p.gridDimX = N / 64;
    p.gridDimY = p.gridDimZ = 1;
    p.blockDimX = 64;
    p.blockDimY = p.blockDimZ = 1;
    p.kernelParams = params;
    return p;
}

static CUDA_MEMCPY3D download(void *host, CUdeviceptr from, size_t bytes)
{
    CUDA_MEMCPY3D p = {};
    p.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    p.srcDevice = from;
    p.dstMemoryType = CU_MEMORYTYPE_HOST;
    p.dstHost = host;
    p.WidthInBytes = bytes;
    p.Height = p.Depth = 1;
    return p;
}

/* fill -> add_one -> download, node by node. Without the first edge nothing puts the two kernels in order; without the second
 * the copy has none. */
static void nodes(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr in = f.alloc(N * 4), out = f.alloc(N * 4);
    uint32_t *host = f.pinned(N), value = 5, n = N;
    void *fill_params[] = {&in, &value, &n}, *add_params[] = {&out, &in, &n};
    CUDA_KERNEL_NODE_PARAMS fill = kernel_node(f.f_fill, fill_params), add = kernel_node(f.f_add_one, add_params);
    CUDA_MEMCPY3D copy = download(host, out, N * 4);
    CUDA_MEMSET_NODE_PARAMS clear = {out, 0, 0, 4, N, 1};
    CUgraph graph;
    CUgraphNode n_clear, n_fill, n_add, n_copy;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddMemsetNode(&n_clear, graph, nullptr, 0, &clear, f.context));
    OK(cuGraphAddKernelNode(&n_fill, graph, nullptr, 0, &fill));
    CUgraphNode both[] = {n_clear, n_fill};
    OK(cuGraphAddKernelNode(&n_add, graph, both, 2, &add));
    OK(cuGraphAddMemcpyNode(&n_copy, graph, nullptr, 0, &copy, f.context));
    if (!buggy)
        OK(cuGraphAddDependencies(graph, &n_add, &n_copy, nullptr, 1));
    size_t n_edges = 0, n_nodes = 0;
    OK(cuGraphGetEdges(graph, nullptr, nullptr, nullptr, &n_edges));
    OK(cuGraphGetNodes(graph, nullptr, &n_nodes));
    CHECK(n_edges == (buggy ? 2 : 3) && n_nodes == 4);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphLaunch(exec, s));
    cuStreamSynchronize(s);
    CHECK(buggy || host[N - 1] == 6);
    cuGraphExecDestroy(exec);
    cuGraphDestroy(graph);
}

/* A node's parameters, read back and changed in the executable. */
static void node_params(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    uint32_t value = 5, n = N;
    void *params[] = {&memory, &value, &n};
    CUDA_KERNEL_NODE_PARAMS given = kernel_node(f.f_fill, params), got;
    CUgraph graph;
    CUgraphNode node;
    CUgraphNodeType type;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddKernelNode(&node, graph, nullptr, 0, &given));
    value = 6; /* was copied */
    OK(cuGraphKernelNodeGetParams(node, &got));
    OK(cuGraphNodeGetType(node, &type));
    CHECK(type == CU_GRAPH_NODE_TYPE_KERNEL && got.func == f.f_fill && got.gridDimX == N / 64 && got.blockDimX == 64);
    CHECK(*(CUdeviceptr *)got.kernelParams[0] == memory && *(uint32_t *)got.kernelParams[1] == 5);
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphLaunch(exec, s));
    OK(cuGraphExecKernelNodeSetParams(exec, node, &given)); /* does not change what was launched */
    CHECK(f.words(memory, 1)[0] == 5);
    OK(cuGraphLaunch(exec, s));
    CHECK(f.words(memory, 1)[0] == 6);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static CUgraph one_fill(fixture &f, CUstream s, CUdeviceptr memory, uint32_t value, bool twice)
{
    CUgraph graph;
    begin(s);
    f.fill(memory, value, N, s);
    if (twice)
        f.fill(memory, value + 1, N, s);
    OK(cuStreamEndCapture(s, &graph));
    return graph;
}

static void exec_update(bool)
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N * 4);
    CUgraph first = one_fill(f, s, memory, 1, false), second = one_fill(f, s, memory, 2, false);
    CUgraph longer = one_fill(f, s, memory, 3, true);
    CUgraphExec exec = instantiate(first);
    CUgraphExecUpdateResultInfo info;
    OK(cuGraphExecUpdate(exec, second, &info));
    CHECK_RC(cuGraphExecUpdate(exec, longer, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    CHECK(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    OK(cuGraphLaunch(exec, s));
    CHECK(f.words(memory, 1)[0] == 2);
    OK(cuGraphExecDestroy(exec));
    for (CUgraph g : {first, second, longer})
        OK(cuGraphDestroy(g));
}

static void cycle(bool buggy)
{
    fixture f;
    CUdeviceptr memory = f.alloc(N * 4);
    CUDA_MEMSET_NODE_PARAMS clear = {memory, 0, 0, 4, N, 1};
    CUgraph graph;
    CUgraphNode a, b;
    CUgraphExec exec;
    OK(cuGraphCreate(&graph, 0));
    OK(cuGraphAddMemsetNode(&a, graph, nullptr, 0, &clear, f.context));
    OK(cuGraphAddMemsetNode(&b, graph, &a, 1, &clear, f.context));
    if (buggy)
        OK(cuGraphAddDependencies(graph, &b, &a, nullptr, 1));
    CHECK_RC(cuGraphInstantiate(&exec, graph, 0), buggy ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
    if (!buggy)
        OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static void leak_graph(bool buggy)
{
    fixture f;
    CUgraph graph;
    OK(cuGraphCreate(&graph, 0));
    if (!buggy)
        OK(cuGraphDestroy(graph));
}

static void leak_exec(bool buggy)
{
    fixture f;
    CUgraph graph;
    OK(cuGraphCreate(&graph, 0));
    CUgraphExec exec = instantiate(graph);
    OK(cuGraphDestroy(graph));
    if (!buggy)
        OK(cuGraphExecDestroy(exec));
}

static void leak_capture(bool buggy)
{
    fixture f;
    CUstream s = f.stream();
    begin(s);
    if (!buggy)
        OK(end(s));
}

const std::vector<hosttest_case> hosttest_capture = {
    {"allocation in a capture", "call-in-capture", allocation, nullptr, 0},
    {"synchronise in a capture", "call-in-capture", synchronise, nullptr, 0},
    {"legacy stream in a capture", "call-in-capture", legacy_stream, nullptr, 0},
    {"relaxed capture", "call-in-capture", relaxed, nullptr, 0},
    {"unjoined fork", "unjoined-fork", fork, nullptr, 0},
    {"event from outside a capture", "wait-outside-capture", outside_event, nullptr, 0},
    {"captured event", "captured-event", captured_event, nullptr, 0},
    {"two captures joined", "capture-merge", merge, nullptr, 0},
    {"capture ended by another thread", "capture-wrong-thread", other_thread, nullptr, 0},
    {"capture ended twice", "end-without-capture", end_twice, nullptr, 0},
    {"pageable memory in a capture", "pageable-in-capture", pageable_in_capture, nullptr, 0},
    {"graph, launched again", nullptr, relaunch, nullptr, 0},
    {"graph with a stale address", "use-after-free", stale_address, nullptr, 0},
    {"graph node by node", "stream-race", nodes, nullptr, 0},
    {"parameters of a node", nullptr, node_params, nullptr, 0},
    {"update of a graph", nullptr, exec_update, nullptr, 0},
    {"cycle", "graph-cycle", cycle, nullptr, 0},
    {"graph left over", "leak-graph", leak_graph, nullptr, 0},
    {"executable graph left over", "leak-graph-exec", leak_exec, nullptr, 0},
    {"capture left over", "leak-capture", leak_capture, nullptr, 0},
};
