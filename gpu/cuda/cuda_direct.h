/* cuda_direct - from a file to the card without passing through this process (GPUDirect Storage, libcufile.so.0); private to
 * gpu/cuda. The contract is gpu_direct's.
 *
 * Only where nvidia-fs is loaded: without it libcufile copies through memory of its own, which the upload ring does as well, with
 * the checksum on the way. What came is hashed where it lies, by a kernel, in a stream of the reading thread's own. */
#ifndef ROUSE_GPU_CUDA_DIRECT_H
#define ROUSE_GPU_CUDA_DIRECT_H

#include "gpu/cuda/cuda_device.h"

int cuda_direct_open(struct gpu_device *device, int fd, struct gpu_direct **out_direct, struct base_error *err);
int cuda_direct_read(struct gpu_direct *direct, struct gpu_model *model, uint64_t offset, uint32_t n_bytes,
                     uint64_t file_offset, uint64_t *out_hash, struct base_error *err);
void cuda_direct_close(struct gpu_direct *direct);

#endif
