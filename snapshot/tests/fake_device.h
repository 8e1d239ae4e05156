/* fake_device - a device whose memory cannot be addressed, for the paths that only such a one takes: a cpu model behind a wall.
 *
 * Its arena is the cpu's, but gpu_model_host says NULL; it is filled by a thread of the fake's own that copies what was put,
 * some time later, in order. It gets ready some time after it was opened. It has choices: a few bytes that name the fake. What it
 * was asked to do is counted in struct fake_device, and what it should do wrong is set there. Misuse of the contract (a slot put
 * twice, a slot kept, a model used before its weights were there) fails the process. */
#ifndef ROUSE_SNAPSHOT_TESTS_FAKE_DEVICE_H
#define ROUSE_SNAPSHOT_TESTS_FAKE_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "gpu/backend.h"

#define FAKE_AUTO_DTYPE MODEL_BF16 /* what "auto" means here, whatever the files hold */

struct fake_device {
    struct gpu_device base; /* first: what gpu_open would have given */
    struct gpu_device *cpu;

    /* how it behaves */
    uint32_t ready_ms;      /* gpu_model_new waits for it, as for a context that is still coming up */
    uint32_t copy_ms;       /* a slot on its way over the link */
    uint32_t take_ms;       /* a slow disk: every take after the first n_quick_takes comes so much later */
    uint32_t n_quick_takes; /* 8, as many as there are readers */
    uint32_t fail_put;      /* 1: the first put fails, ...; 0: none */
    bool fail_new, fail_warm_up;
    bool direct;             /* reads from storage by itself */
    uint32_t direct_fails;   /* 1: its first read fails, ... */
    uint32_t direct_garbles; /* 1: its first read brings another byte */
    const char *choices;     /* what it exports; "fake choices" */

    /* what happened */
    atomic_uint n_models; /* alive */
    atomic_uint n_takes, n_puts, n_early_takes /* before it was ready */;
    atomic_uint n_warm_ups, n_imports, n_exports, n_reads, n_forwards;
    atomic_uint puts_at_first_gate; /* when the first layer was let through; UINT32_MAX: never */
    atomic_uint n_direct;           /* reads */
    atomic_bool ready;
    _Atomic uint64_t put_mask; /* chunks, by offset / 4 MiB, of the last upload */
};

struct fake_device *fake_open(void);
void fake_close(struct fake_device *fake);

/* For host snapshots of fake devices. */
struct gpu_device *fake_open_planner(void);

#endif
