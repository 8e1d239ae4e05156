/* cuda_graph - a CUDA graph from a topology, node by node and never captured from a stream; private to gpu/cuda. */
#ifndef ROUSE_GPU_CUDA_GRAPH_H
#define ROUSE_GPU_CUDA_GRAPH_H

#include "gpu/cuda/cuda_launch.h"

/* An executable graph, uploaded to the device. */
int cuda_graph_build(struct cuda_device *d, const struct cuda_functions *f, const struct cuda_topology *t,
                     CUgraphExec *out_exec, struct base_error *err);

#endif
