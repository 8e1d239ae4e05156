/* snap_fill - a snapshot's tokenizer and weights on their way to where they stay, read by threads of its own.
 *
 * Owns those threads and the ring of buffers that a device with memory of its own is filled through; borrows the file, the
 * memory for the tokenizer and the model, which must all outlive it. One thread drives it.
 *
 *   READING -> FILLING  snap_fill_model: before, a device's ring is filled, and when it is full the rest of the file is
 *                       announced to the kernel, so that the disk does not wait for a device that is still being opened
 *   FILLING -> gone     snap_fill_end: everything is in place, or the first failure
 *
 * (1) A chunk is put on its way to a device after its checksum matched, never before. In memory that is addressable or mapped, and when
 *     it comes from storage directly, it lies in place before; but no gate opens for it.
 * (2) Staging takes SNAP_RING_SLOTS chunks, whatever the size of the model. */
#ifndef ROUSE_SNAPSHOT_SNAP_FILL_H
#define ROUSE_SNAPSHOT_SNAP_FILL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/trace.h"
#include "gpu/device.h"
#include "snapshot/restore_plan.h"

enum {
    SNAP_RING_SLOTS = 32
}; /* of SNAP_CHUNK_BYTES: 128 MiB; half of them being read, the others on their way over the link */

struct snap_fill;

struct snap_fill_options {
    struct gpu_device *device;
    struct snap_file *file;
    struct restore_plan plan; /* not trusted: then there is nothing to do here */
    bool cold;                /* so far as was seen: what it takes is a measurement of the disk */
    const char *node_dir;     /* where that is remembered */
    struct snap_node *node;   /* hears how it gets on; may be NULL */
    uint32_t ring_slots;      /* 0: SNAP_RING_SLOTS, which is also the most */
    uint8_t *tokenizer;       /* stored_bytes of its section; NULL: the weights alone */
    struct base_trace *trace; /* BASE_TRACE_RESTORE ends with the last chunk; may be NULL */
    bool progress;            /* a bar on stderr, drawn while the driving thread waits */
};

int snap_fill_begin(const struct snap_fill_options *options, struct snap_fill **out_fill, struct base_error *err);

/* The model whose plan the file's weights follow; to attach, already mapped. Once. */
void snap_fill_model(struct snap_fill *fill, struct gpu_model *model);

/* From here on chunks that are not in the page cache go from storage to the device directly, where that works; it is said once
 * where it does not. After the model's choices. A chunk that does not arrive so, or not whole, is read again through the ring: it
 * is the ring's checksum that judges the file. */
void snap_fill_direct(struct snap_fill *fill);

/* Until the tokenizer is in place, or something failed. */
int snap_fill_wait_tokenizer(struct snap_fill *fill, struct base_error *err);
/* For gpu_model_gate: until the weights in [0, end) are in place or on their way there. */
int snap_fill_gate(void *fill, uint64_t end, struct base_error *err);

/* Until all is in place; then, or after the first failure, the threads and the ring are gone. `give_up`: without waiting for what
 * is not read yet, which is ERR_STOPPED unless something had failed before. NULL is 0. */
int snap_fill_end(struct snap_fill *fill, bool give_up, struct base_error *err);

#endif
