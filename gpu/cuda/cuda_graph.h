/* cuda_graph - the launches of one pass and who waits for whom, as a list of our own, and the CUDA graph made from it; private
 * to gpu/cuda.
 *
 * Graphs are built node by node from the list, never captured from a stream: what a snapshot carries is the list. */
#ifndef ROUSE_GPU_CUDA_GRAPH_H
#define ROUSE_GPU_CUDA_GRAPH_H

#include "gpu/cuda/cuda_launch.h"

struct cuda_topology {
    struct cuda_launch *nodes; /* [n], owned; in an order in which they may run */
    uint32_t n, capacity;
};

/* Room for n_max nodes. */
int cuda_topology_init(struct cuda_topology *t, uint32_t n_max, struct base_error *err);
void cuda_topology_done(struct cuda_topology *t);

/* An executable graph, uploaded to the device. */
int cuda_graph_build(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_topology *t,
                     CUgraphExec *out_exec, struct base_error *err);

#endif
