/* libcuda_emu - what the emulated driver offers to the emulated libraries beside it (libcublasLt, libcufile), and nobody else.
 *
 * They count as callers of the driver: their calls can be made to fail, their work goes through the same streams, captures and
 * checks as kernels do. */
#ifndef ROUSE_EMU_LIBCUDA_EMU_H
#define ROUSE_EMU_LIBCUDA_EMU_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

/* Device memory that a piece of work reads or writes. A matrix is many rows: `rows` pieces of `bytes`, `stride` apart. */
struct emu_span {
    uint64_t address, bytes, stride;
    uint32_t rows;
    bool write;
};

struct emu_work {
    const char *name; /* for messages */
    const struct emu_span *spans;
    size_t n_spans;
    void (*run)(
        void *argument); /* when the stream's turn comes, maybe several times (graphs); never calls the driver */
    void (*free)(void *argument);
    void *argument; /* owned from the call on, also when it fails */
    uint64_t flops; /* for the virtual clock */
};

/* Every exported function of a library calls this first. 0, or the code that the test asked this call to fail with. */
int emu_call(const char *name);
/* A CUresult. */
int emu_enqueue(void *stream, const struct emu_work *work);
/* The bytes behind a device address, inside `run` only; NULL: outside of any allocation, reported, and the fault is sticky. */
void *emu_resolve(uint64_t address, uint64_t bytes, bool write);
/* Bytes written to device memory by somebody who knows nothing of streams, over the link from virtual time `since` on: checked
 * like a copy that nothing orders but the program's own waiting. A CUresult. */
int emu_write_now(uint64_t device, const void *from, uint64_t bytes, double since);
/* All of it is memory that the device may write. */
bool emu_is_device(uint64_t address, uint64_t bytes);
double emu_time(void); /* the calling thread's, in ns */
/* One line `emu: NAME: TEXT`, counted as misuse. */
void emu_misuse(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Compute capability as major * 10 + minor. */
int emu_compute_capability(void);
/* 0: a context is current on this thread; else the CUresult for that. */
int emu_check_context(void);
/* Whether what is left over at exit says something of the program: no fault kept it from giving things back. */
bool emu_leaks_count(void);
/* The calling thread's virtual time moves to where reading these bytes of a file has ended. */
void emu_charge_disk(int fd, uint64_t offset, uint64_t bytes);
}
#pragma GCC visibility pop

#endif
