/* Graphs: made node by node or by capturing streams, instantiated, launched. */
#include <algorithm>
#include <cstring>
#include <pthread.h>

#include "libcuda_state.h"

struct capture {
    CUgraph graph;
    CUstreamCaptureMode mode;
    pthread_t owner;
    CUstream origin;
    bool dead = false, ended = false;
    std::set<CUstream> streams;
};

struct CUgraphNode_st {
    CUgraph graph;
    job what;
    std::vector<CUgraphNode> before;
    std::vector<void *> param_pointers; /* as lent by cuGraphKernelNodeGetParams */
};

struct CUgraph_st {
    std::vector<CUgraphNode> nodes;
};

struct exec_node {
    CUgraphNode origin;
    job what;
    std::vector<size_t> before;
};

struct CUgraphExec_st {
    std::vector<exec_node> nodes;
    std::shared_ptr<const std::vector<std::vector<bool>>> before;
    op_ref last_end; /* a graph does not run twice at once */
};

struct graph_state {
    std::vector<std::shared_ptr<capture>> captures; /* under way */
    std::unordered_set<CUgraph> graphs;
    std::unordered_set<CUgraphNode> nodes;
    std::unordered_set<CUgraphExec> execs;
};

static graph_state &state()
{
    static graph_state *s = new graph_state;
    return *s;
}

static thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

static CUgraph graph_new()
{
    auto *g = kept(new CUgraph_st);
    state().graphs.insert(g);
    return g;
}

static CUgraphNode node_new(CUgraph graph, job &&j, const std::vector<CUgraphNode> &before)
{
    auto *n = kept(new CUgraphNode_st{graph, std::move(j), before, {}});
    graph->nodes.push_back(n);
    state().nodes.insert(n);
    return n;
}

/* --- capture ------------------------------------------------------------------------------------------------------------- */

bool capture_active(CUstream stream)
{
    return stream->capturing != nullptr;
}

static void kill_capture(capture &c, const char *name, const char *why)
{
    c.dead = true;
    misuse("call-in-capture", "%s %s; the capture is dead", name, why);
}

void capture_kill(CUstream stream, const char *name)
{
    if (stream->capturing && !stream->capturing->dead)
        kill_capture(*stream->capturing, name, "on a stream that is being captured");
}

CUresult capture_refuse_unsafe(const char *name)
{
    CUresult rc = CUDA_SUCCESS;
    for (auto &c : state().captures) {
        bool own = pthread_equal(c->owner, pthread_self());
        bool refused = own ? c->mode != CU_STREAM_CAPTURE_MODE_RELAXED
                           : c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (!refused || thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
            continue;
        if (!c->dead)
            kill_capture(*c, name, "while a stream is being captured");
        rc = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return rc;
}

CUresult capture_refuse_legacy(CUstream stream, const char *name)
{
    if (!stream->legacy || state().captures.empty())
        return CUDA_SUCCESS;
    for (auto &c : state().captures)
        if (!c->dead)
            kill_capture(*c, name, "on the legacy stream, which waits for the stream that is being captured");
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

CUresult capture_add(CUstream stream, job &&j)
{
    capture &c = *stream->capturing;
    if (c.dead)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    std::vector<CUgraphNode> before(stream->capture_tail.begin(), stream->capture_tail.end());
    stream->capture_tail = {node_new(c.graph, std::move(j), before)};
    return CUDA_SUCCESS;
}

CUresult capture_wait(CUstream stream, CUevent event)
{
    std::shared_ptr<capture> mine = stream->capturing, theirs = event->captured;
    if (theirs && theirs->ended) {
        misuse("captured-event", "cuStreamWaitEvent: the event was last recorded in a capture that has ended");
        return CUDA_ERROR_CAPTURED_EVENT;
    }
    if ((mine && mine->dead) || (theirs && theirs->dead))
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!theirs) {
        if (!event->recorded)
            return CUDA_SUCCESS;
        misuse("wait-outside-capture", "cuStreamWaitEvent in a capture, for an event that was recorded outside of it");
        mine->dead = true;
        return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (mine && mine != theirs) {
        misuse("capture-merge", "cuStreamWaitEvent would join two captures");
        mine->dead = theirs->dead = true;
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    }
    stream->capturing = theirs;
    theirs->streams.insert(stream);
    stream->capture_tail.insert(event->captured_nodes.begin(), event->captured_nodes.end());
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream hStream, CUstreamCaptureMode mode)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (stream->legacy || mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        misuse("call-in-capture", "cuStreamBeginCapture on the legacy stream");
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (stream->capturing) {
        capture_kill(stream, __func__);
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    auto c = std::make_shared<capture>();
    c->graph = graph_new();
    c->mode = mode;
    c->owner = pthread_self();
    c->origin = stream;
    c->streams = {stream};
    stream->capturing = c;
    stream->capture_tail.clear();
    state().captures.push_back(c);
    return CUDA_SUCCESS;
}

/* All nodes that come before those of `tail`, and these. */
static std::set<CUgraphNode> ancestors(const std::set<CUgraphNode> &tail)
{
    std::set<CUgraphNode> found;
    std::vector<CUgraphNode> todo(tail.begin(), tail.end());
    while (!todo.empty()) {
        CUgraphNode n = todo.back();
        todo.pop_back();
        if (found.insert(n).second)
            todo.insert(todo.end(), n->before.begin(), n->before.end());
    }
    return found;
}

static CUresult check_joined(const capture &c)
{
    std::set<CUgraphNode> joined = ancestors(c.origin->capture_tail);
    for (CUstream s : c.streams)
        for (CUgraphNode n : s->capture_tail)
            if (!joined.count(n)) {
                misuse("unjoined-fork",
                       "cuStreamEndCapture: %s on stream %p was not joined into the stream that began the capture",
                       n->what.what.c_str(), (void *)s);
                return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
            }
    return CUDA_SUCCESS;
}

static void graph_free(CUgraph graph)
{
    for (CUgraphNode n : graph->nodes)
        state().nodes.erase(n);
    state().graphs.erase(graph);
}

static void capture_end(const std::shared_ptr<capture> &c)
{
    for (CUstream s : c->streams) {
        s->capturing.reset();
        s->capture_tail.clear();
    }
    c->ended = true;
    auto &all = state().captures;
    all.erase(std::find(all.begin(), all.end(), c));
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc != CUDA_SUCCESS)
        return rc;
    std::shared_ptr<capture> c = stream->capturing;
    if (!phGraph || !c) {
        misuse("end-without-capture", "cuStreamEndCapture on a stream that is not being captured");
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    if (c->origin != stream) {
        misuse("end-without-capture", "cuStreamEndCapture on a stream that only joined the capture");
        c->dead = true;
        return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    }
    if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(c->owner, pthread_self())) {
        misuse("capture-wrong-thread", "cuStreamEndCapture on another thread than cuStreamBeginCapture");
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    rc = c->dead ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : check_joined(*c);
    capture_end(c);
    *phGraph = rc == CUDA_SUCCESS ? c->graph : nullptr;
    if (rc != CUDA_SUCCESS)
        graph_free(c->graph);
    return rc;
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_legacy(stream, __func__);
    if (rc != CUDA_SUCCESS || !captureStatus)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    *captureStatus = !stream->capturing        ? CU_STREAM_CAPTURE_STATUS_NONE
                     : stream->capturing->dead ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                               : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    ENTER(0);
    if (!mode || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    std::swap(*mode, thread_mode);
    return CUDA_SUCCESS;
}

/* --- graphs, node by node ---------------------------------------------------------------------------------------------------- */

static CUresult graph_of(CUgraph graph, const char *call)
{
    if (state().graphs.count(graph))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: graph %p was destroyed, or never created", call, (void *)graph);
    return CUDA_ERROR_INVALID_HANDLE;
}

static CUresult node_of(CUgraphNode node, const char *call)
{
    if (state().nodes.count(node))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: node %p is not of a live graph", call, (void *)node);
    return CUDA_ERROR_INVALID_HANDLE;
}

static CUresult exec_of(CUgraphExec exec, const char *call)
{
    if (state().execs.count(exec))
        return CUDA_SUCCESS;
    misuse("stale-handle", "%s: executable graph %p was destroyed, or never created", call, (void *)exec);
    return CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
    ENTER(NEEDS_INIT);
    if (!phGraph || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    *phGraph = graph_new();
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph hGraph)
{
    ENTER(NEEDS_INIT);
    CUresult rc = graph_of(hGraph, __func__);
    if (rc == CUDA_SUCCESS)
        graph_free(hGraph);
    return rc;
}

static CUresult add_node(const char *call, CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t n_before,
                         job &&j)
{
    CUresult rc = graph_of(graph, call);
    for (size_t i = 0; rc == CUDA_SUCCESS && i < n_before; i++) {
        rc = node_of(before[i], call);
        if (rc == CUDA_SUCCESS && before[i]->graph != graph) {
            misuse("stale-handle", "%s: a dependency on a node of another graph", call);
            rc = CUDA_ERROR_INVALID_VALUE;
        }
    }
    if (rc == CUDA_SUCCESS)
        *out = node_new(graph, std::move(j), std::vector<CUgraphNode>(before, before + n_before));
    return rc;
}

static CUresult kernel_node_job(const CUDA_KERNEL_NODE_PARAMS *p, job *out)
{
    const uint32_t grid[3] = {p->gridDimX, p->gridDimY, p->gridDimZ},
                   block[3] = {p->blockDimX, p->blockDimY, p->blockDimZ};
    return launch_job(p->func, grid, block, p->sharedMemBytes, p->kernelParams, p->extra, out);
}

CUresult cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                              size_t numDependencies, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    if (!phGraphNode || !nodeParams)
        return CUDA_ERROR_INVALID_VALUE;
    job j;
    CUresult rc = kernel_node_job(nodeParams, &j);
    return rc == CUDA_SUCCESS ? add_node(__func__, phGraphNode, hGraph, dependencies, numDependencies, std::move(j))
                              : rc;
}

static uint64_t copy_address(CUmemorytype type, const void *host, CUdeviceptr device, size_t x)
{
    return (type == CU_MEMORYTYPE_HOST ? (uint64_t)host : device) + x;
}

/* One run of bytes; the emulator knows no pitched copies. */
static CUresult copy_node_job(const CUDA_MEMCPY3D *p, job *out)
{
    bool arrays = p->srcMemoryType == CU_MEMORYTYPE_ARRAY || p->dstMemoryType == CU_MEMORYTYPE_ARRAY;
    if (p->Height != 1 || p->Depth != 1 || arrays || p->srcY || p->srcZ || p->dstY || p->dstZ || p->WidthInBytes == 0) {
        misuse("not-emulated", "cuGraphAddMemcpyNode of more than one row");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    out->source = copy_address(p->srcMemoryType, p->srcHost, p->srcDevice, p->srcXInBytes);
    out->target = copy_address(p->dstMemoryType, p->dstHost, p->dstDevice, p->dstXInBytes);
    out->bytes = p->WidthInBytes;
    out->source_host = p->srcMemoryType == CU_MEMORYTYPE_HOST;
    out->target_host = p->dstMemoryType == CU_MEMORYTYPE_HOST;
    if (out->source_host && out->target_host)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult rc = copy_job("memcpy node", out);
    if (rc == CUDA_SUCCESS && ((out->source_host && !out->source_pinned) || (out->target_host && !out->target_pinned)))
        misuse("pageable-in-capture", "%s: host memory of a graph's copy must stay where it is, so pin it",
               out->what.c_str());
    return rc;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                              size_t numDependencies, const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    (void)ctx;
    if (!phGraphNode || !copyParams)
        return CUDA_ERROR_INVALID_VALUE;
    job j;
    CUresult rc = copy_node_job(copyParams, &j);
    return rc == CUDA_SUCCESS ? add_node(__func__, phGraphNode, hGraph, dependencies, numDependencies, std::move(j))
                              : rc;
}

CUresult cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                              size_t numDependencies, const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    (void)ctx;
    const CUDA_MEMSET_NODE_PARAMS *p = memsetParams;
    if (!phGraphNode || !p || (p->elementSize != 1 && p->elementSize != 2 && p->elementSize != 4) || p->width == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (p->height != 1) {
        misuse("not-emulated", "cuGraphAddMemsetNode of more than one row");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    job j = fill_job("memset node", p->dst, p->value, p->elementSize, p->width);
    return add_node(__func__, phGraphNode, hGraph, dependencies, numDependencies, std::move(j));
}

static CUresult add_edges(const char *call, CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t n)
{
    CUresult rc = graph_of(graph, call);
    for (size_t i = 0; rc == CUDA_SUCCESS && i < n; i++) {
        rc = node_of(from[i], call);
        if (rc == CUDA_SUCCESS)
            rc = node_of(to[i], call);
        if (rc != CUDA_SUCCESS)
            break;
        auto &before = to[i]->before;
        if (from[i] == to[i] || std::find(before.begin(), before.end(), from[i]) != before.end()) {
            misuse("invalid-value", "%s: an edge that is there, or leads to its own node", call);
            return CUDA_ERROR_INVALID_VALUE;
        }
        before.push_back(from[i]);
    }
    return rc;
}

CUresult cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
                                const CUgraphEdgeData *edgeData, size_t numDependencies)
{
    ENTER(NEEDS_INIT);
    if (edgeData) {
        misuse("not-emulated", "cuGraphAddDependencies with edge data");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return add_edges(__func__, hGraph, from, to, numDependencies);
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
    ENTER(NEEDS_INIT);
    CUresult rc = graph_of(hGraph, __func__);
    if (rc != CUDA_SUCCESS || !numNodes)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; nodes && i < *numNodes; i++)
        nodes[i] = i < hGraph->nodes.size() ? hGraph->nodes[i] : nullptr;
    *numNodes = nodes ? std::min(*numNodes, hGraph->nodes.size()) : hGraph->nodes.size();
    return CUDA_SUCCESS;
}

static CUresult get_edges(const char *call, CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *n)
{
    CUresult rc = graph_of(graph, call);
    if (rc != CUDA_SUCCESS || !n || !from != !to)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    size_t at = 0;
    for (CUgraphNode node : graph->nodes)
        for (CUgraphNode before : node->before) {
            if (from && at < *n) {
                from[at] = before;
                to[at] = node;
            }
            at++;
        }
    *n = from ? std::min(*n, at) : at;
    return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edgeData,
                         size_t *numEdges)
{
    ENTER(NEEDS_INIT);
    size_t room = numEdges ? *numEdges : 0;
    CUresult rc = get_edges(__func__, hGraph, from, to, numEdges);
    if (rc == CUDA_SUCCESS && edgeData)
        memset(edgeData, 0, std::min(room, *numEdges) * sizeof *edgeData);
    return rc;
}

/* The forms that driver 12 has under these names. */
#undef cuGraphAddDependencies
#undef cuGraphGetEdges
#pragma GCC visibility push(default)
extern "C" {
CUresult CUDAAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t n);
CUresult CUDAAPI cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *n);
}
#pragma GCC visibility pop

CUresult cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t n)
{
    ENTER(NEEDS_INIT);
    return add_edges(__func__, graph, from, to, n);
}

CUresult cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *n)
{
    ENTER(NEEDS_INIT);
    return get_edges(__func__, graph, from, to, n);
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
    ENTER(NEEDS_INIT);
    CUresult rc = node_of(hNode, __func__);
    if (rc != CUDA_SUCCESS || !type)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    switch (hNode->what.kind) {
    case job_kind::kernel:
    case job_kind::library:
        *type = CU_GRAPH_NODE_TYPE_KERNEL;
        break;
    case job_kind::copy:
        *type = CU_GRAPH_NODE_TYPE_MEMCPY;
        break;
    case job_kind::fill:
        *type = CU_GRAPH_NODE_TYPE_MEMSET;
        break;
    case job_kind::host:
        *type = CU_GRAPH_NODE_TYPE_HOST;
        break;
    case job_kind::marker:
        *type = CU_GRAPH_NODE_TYPE_EMPTY;
        break;
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    ENTER(NEEDS_INIT);
    CUresult rc = node_of(hNode, __func__);
    if (rc != CUDA_SUCCESS || !nodeParams)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    job &j = hNode->what;
    if (j.kind != job_kind::kernel)
        return CUDA_ERROR_INVALID_VALUE; /* a library's node: nobody but the library knows its parameters */
    hNode->param_pointers.clear();
    for (const ptx_param &p : kernel_params(j.function))
        hNode->param_pointers.push_back(j.params.data() + p.offset);
    *nodeParams = {};
    nodeParams->func = j.function;
    nodeParams->gridDimX = j.grid[0];
    nodeParams->gridDimY = j.grid[1];
    nodeParams->gridDimZ = j.grid[2];
    nodeParams->blockDimX = j.block[0];
    nodeParams->blockDimY = j.block[1];
    nodeParams->blockDimZ = j.block[2];
    nodeParams->sharedMemBytes = j.shared_bytes;
    nodeParams->kernelParams = hNode->param_pointers.data();
    return CUDA_SUCCESS;
}

/* --- executable graphs ----------------------------------------------------------------------------------------------------- */

static std::vector<exec_node> exec_nodes(CUgraph graph)
{
    std::unordered_map<CUgraphNode, size_t> index;
    for (size_t i = 0; i < graph->nodes.size(); i++)
        index[graph->nodes[i]] = i;
    std::vector<exec_node> nodes;
    for (CUgraphNode n : graph->nodes) {
        exec_node e{n, n->what, {}};
        for (CUgraphNode before : n->before)
            e.before.push_back(index.at(before));
        nodes.push_back(std::move(e));
    }
    return nodes;
}

/* An order in which every node follows those before it; shorter than `nodes` when there is a cycle. */
static std::vector<size_t> some_order(const std::vector<exec_node> &nodes)
{
    std::vector<size_t> order, n_missing(nodes.size());
    std::vector<std::vector<size_t>> next(nodes.size());
    for (size_t i = 0; i < nodes.size(); i++) {
        n_missing[i] = nodes[i].before.size();
        for (size_t before : nodes[i].before)
            next[before].push_back(i);
    }
    for (size_t i = 0; i < nodes.size(); i++)
        if (n_missing[i] == 0)
            order.push_back(i);
    for (size_t at = 0; at < order.size(); at++)
        for (size_t n : next[order[at]])
            if (--n_missing[n] == 0)
                order.push_back(n);
    return order;
}

static std::shared_ptr<std::vector<std::vector<bool>>> reachable(const std::vector<exec_node> &nodes,
                                                                 const std::vector<size_t> &order)
{
    auto before = std::make_shared<std::vector<std::vector<bool>>>(nodes.size(), std::vector<bool>(nodes.size()));
    for (size_t to : order)
        for (size_t from : nodes[to].before) {
            (*before)[from][to] = true;
            for (size_t earlier = 0; earlier < nodes.size(); earlier++)
                if ((*before)[earlier][from])
                    (*before)[earlier][to] = true;
        }
    return before;
}

CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = graph_of(hGraph, __func__);
    if (rc != CUDA_SUCCESS || !phGraphExec)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    if (flags & ~(unsigned long long)(CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                      CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY)) {
        misuse("not-emulated", "cuGraphInstantiateWithFlags: flags 0x%llx", flags);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    std::vector<exec_node> nodes = exec_nodes(hGraph);
    std::vector<size_t> order = some_order(nodes);
    if (order.size() != nodes.size()) {
        misuse("graph-cycle", "cuGraphInstantiateWithFlags: the graph has a cycle");
        return CUDA_ERROR_INVALID_VALUE;
    }
    auto *e = kept(new CUgraphExec_st);
    e->before = reachable(nodes, order);
    e->nodes = std::move(nodes);
    state().execs.insert(e);
    *phGraphExec = e;
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    ENTER(NEEDS_INIT);
    CUresult rc = exec_of(hGraphExec, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    state().execs.erase(hGraphExec);
    hGraphExec->nodes.clear();
    return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec hGraphExec, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = exec_of(hGraphExec, __func__);
    if (rc == CUDA_SUCCESS)
        rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_legacy(stream, __func__);
    return rc;
}

static job marker(const char *what)
{
    job j;
    j.what = what;
    return j;
}

static void launch(CUgraphExec exec, CUstream stream)
{
    op_ref begin = work_push(stream, marker("a graph's begin"), {exec->last_end});
    order_clock clock = begin->clock;
    clock.set(begin->stream, begin->sequence);
    auto order = std::make_shared<launch_order>();
    order->stream = stream->id;
    order->before = exec->before;
    std::vector<op_ref> ops(exec->nodes.size());
    for (size_t i : some_order(exec->nodes)) {
        std::vector<op_ref> after = {begin};
        for (size_t before : exec->nodes[i].before)
            after.push_back(ops[before]);
        ops[i] = work_push_node(stream, exec->nodes[i].what, after, clock, order, i);
    }
    op_ref end = work_push(stream, marker("a graph's end"), ops);
    order->end_sequence = end->sequence;
    end->batch = std::move(ops);
    exec->last_end = end;
}

CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUstream stream;
    CUresult rc = exec_of(hGraphExec, __func__);
    if (rc == CUDA_SUCCESS)
        rc = stream_of(hStream, &stream);
    if (rc == CUDA_SUCCESS)
        rc = capture_refuse_legacy(stream, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    if (capture_active(stream)) {
        misuse("not-emulated", "cuGraphLaunch into a stream that is being captured");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    launch(hGraphExec, stream);
    return CUDA_SUCCESS;
}

static exec_node *exec_node_of(CUgraphExec exec, CUgraphNode node)
{
    for (exec_node &n : exec->nodes)
        if (n.origin == node)
            return &n;
    return nullptr;
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = exec_of(hGraphExec, __func__);
    if (rc != CUDA_SUCCESS)
        return rc;
    exec_node *n = exec_node_of(hGraphExec, hNode);
    if (!n || !nodeParams || n->what.kind != job_kind::kernel) {
        misuse("stale-handle", "cuGraphExecKernelNodeSetParams: not a kernel node of this graph");
        return CUDA_ERROR_INVALID_VALUE;
    }
    job j;
    rc = kernel_node_job(nodeParams, &j);
    if (rc == CUDA_SUCCESS)
        n->what = std::move(j);
    return rc;
}

static CUgraphExecUpdateResult compare(const std::vector<exec_node> &old_nodes, const std::vector<exec_node> &new_nodes,
                                       size_t *at)
{
    if (old_nodes.size() != new_nodes.size())
        return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (*at = 0; *at < old_nodes.size(); ++*at) {
        if (old_nodes[*at].what.kind != new_nodes[*at].what.kind)
            return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        if (old_nodes[*at].before != new_nodes[*at].before)
            return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    }
    return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
    ENTER(NEEDS_INIT | NEEDS_CONTEXT);
    CUresult rc = exec_of(hGraphExec, __func__);
    if (rc == CUDA_SUCCESS)
        rc = graph_of(hGraph, __func__);
    if (rc != CUDA_SUCCESS || !resultInfo)
        return rc != CUDA_SUCCESS ? rc : CUDA_ERROR_INVALID_VALUE;
    std::vector<exec_node> nodes = exec_nodes(hGraph);
    size_t at = 0;
    *resultInfo = {};
    resultInfo->result = compare(hGraphExec->nodes, nodes, &at);
    if (resultInfo->result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        resultInfo->errorNode = at < nodes.size() ? nodes[at].origin : nullptr;
        return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    }
    /* Handles of the first graph's nodes keep naming the executable's. */
    for (size_t i = 0; i < nodes.size(); i++)
        hGraphExec->nodes[i].what = std::move(nodes[i].what);
    return CUDA_SUCCESS;
}

void graph_report_leaks()
{
    for (auto &c : state().captures)
        misuse("leak-capture", "a capture on stream %p was not ended", (void *)c->origin);
    for (CUgraphExec e : state().execs)
        misuse("leak-graph-exec", "an executable graph of %zu nodes was not destroyed", e->nodes.size());
    for (CUgraph g : state().graphs)
        misuse("leak-graph", "a graph of %zu nodes was not destroyed", g->nodes.size());
}
