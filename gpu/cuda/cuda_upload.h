/* cuda_upload - a ring of pinned buffers on their way to the device; private to gpu/cuda. The contract is gpu_upload's.
 *
 * Buffers are plain memory at first, so that reading into them can start; a thread pins them as soon as the device has a
 * context, and the first put waits for that. Where pinning is refused, copies go through the driver's own buffers: slower.
 *
 *   FREE -> TAKEN     cuda_upload_take
 *   TAKEN -> ON_WAY   cuda_upload_put (or FREE, with 0 bytes)
 *   ON_WAY -> AWAITED cuda_upload_take, by the one thread that waits for its copy -> TAKEN */
#ifndef ROUSE_GPU_CUDA_UPLOAD_H
#define ROUSE_GPU_CUDA_UPLOAD_H

#include "gpu/cuda/cuda_device.h"

int cuda_upload_open(struct gpu_device *device, uint32_t n_slots, size_t slot_bytes, struct gpu_upload **out_upload,
                     struct base_error *err);
int cuda_upload_take(struct gpu_upload *upload, uint32_t *out_slot, uint8_t **out_buffer, struct base_error *err);
int cuda_upload_put(struct gpu_upload *upload, uint32_t slot, struct gpu_model *model, uint64_t offset,
                    uint64_t n_bytes, struct base_error *err);
int cuda_upload_sync(struct gpu_upload *upload, struct base_error *err);
void cuda_upload_close(struct gpu_upload *upload);

#endif
