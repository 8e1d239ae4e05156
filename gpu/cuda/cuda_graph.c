#include "gpu/cuda/cuda_graph.h"

#include <assert.h>
#include <stdlib.h>

static int add_nodes(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_topology *t,
                     CUgraph graph, CUgraphNode *nodes, struct base_error *err)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct cuda_launch *launch = &t->nodes[i];
        CUgraphNode after[CUDA_AFTER_MAX];
        void *pointer;
        for (uint32_t j = 0; j < launch->n_after; j++) {
            assert(launch->after[j] < i);
            after[j] = nodes[launch->after[j]];
        }
        const CUDA_KERNEL_NODE_PARAMS params = cuda_launch_params(f, launch, &pointer);
        const int rc = cuda_check(d, d->cu->GraphAddKernelNode(&nodes[i], graph, after, launch->n_after, &params), err,
                                  "node %u of a graph of %u launches", i, t->n);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int cuda_graph_build(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_topology *t,
                     CUgraphExec *out_exec, struct base_error *err)
{
    CUgraphExec exec = NULL;
    CUgraph graph;
    CUgraphNode *nodes = calloc(t->n, sizeof *nodes);
    if (!nodes)
        return base_fail(err, ERR_NOMEM, "no memory for a graph of %u launches", t->n);
    int rc = cuda_check(d, d->cu->GraphCreate(&graph, 0), err, "a graph");
    if (rc < 0) {
        free(nodes);
        return rc;
    }
    rc = add_nodes(d, f, t, graph, nodes, err);
    if (rc == 0)
        rc = cuda_check(d, d->cu->GraphInstantiateWithFlags(&exec, graph, 0), err, "a graph of %u launches", t->n);
    if (rc == 0)
        rc = cuda_check(d, d->cu->GraphUpload(exec, d->compute), err, "a graph of %u launches", t->n);
    (void)d->cu->GraphDestroy(graph); /* the recipe; exec lives without it */
    free(nodes);
    if (rc == 0)
        *out_exec = exec;
    else if (exec)
        (void)d->cu->GraphExecDestroy(exec);
    return rc;
}
