/* hosttest - programs that misuse the driver in one way each, and their clean twins.
 *
 * Every case runs in a process of its own, buggy and clean, in both orders of the emulator. A buggy twin must be reported by the
 * name that the case states; a clean one must report nothing, and leave nothing behind. */
#ifndef ROUSE_EMU_HOSTTEST_H
#define ROUSE_EMU_HOSTTEST_H

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>
#include <vector>

#include <cuda.h>

struct hosttest_case {
    const char *name;
    const char *expected;    /* what the buggy twin is reported as; NULL: there is none */
    void (*run)(bool buggy); /* checks what it sees itself */
    const char *setting;     /* "NAME=VALUE" for the environment, or NULL */
    int signal;              /* that the buggy twin ends by; 0: it exits */
};

extern const std::vector<hosttest_case> hosttest_streams, hosttest_memory, hosttest_capture, hosttest_code,
    hosttest_gemm, hosttest_file_cases;
/* What looks at a whole run from outside, not at one twin. Each returns "" or what is wrong. */
struct hosttest_outside {
    const char *name;
    std::string (*run)();
};
extern const std::vector<hosttest_outside> hosttest_runs;
/* The programs that those run: "" or what is wrong. */
extern std::string hosttest_program(const std::string &name);
extern std::string hosttest_direct_read();

/* Runs this program with the arguments and settings; -> exit status, or 128 + signal. */
int hosttest_spawn(const std::vector<std::string> &arguments, const std::vector<std::string> &settings);
std::string hosttest_file(const char *name); /* a path of this run's own */
std::string hosttest_read(const std::string &path);

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                                                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)
#define CHECK_RC(call, wanted)                                                                                         \
    do {                                                                                                               \
        CUresult rc_ = (call);                                                                                         \
        if (rc_ != (wanted)) {                                                                                         \
            fprintf(stderr, "%s:%d: %s: %d, not %d\n", __FILE__, __LINE__, #call, (int)rc_, (int)(wanted));            \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK_RC(call, CUDA_SUCCESS)

/* An open device with a stream, some memory and the kernels of HOSTTEST_PTX; leaves nothing behind. */
struct fixture {
    fixture();
    ~fixture();
    CUdeviceptr alloc(size_t bytes);
    uint32_t *pinned(size_t n_words);
    CUstream stream();
    CUevent event();
    /* Words [0, n) of `to` become value. */
    void fill(CUdeviceptr to, uint32_t value, uint32_t n, CUstream on);
    /* to[i] = from[i] + 1 */
    void add_one(CUdeviceptr to, CUdeviceptr from, uint32_t n, CUstream on);
    std::vector<uint32_t> words(CUdeviceptr from, size_t n); /* waits for everything */

    CUcontext context;
    CUmodule module;
    CUfunction f_fill, f_add_one, f_limited;

  private:
    std::vector<CUdeviceptr> device;
    std::vector<void *> host;
    std::vector<CUstream> streams;
    std::vector<CUevent> events;
};

extern const char HOSTTEST_PTX[];

#endif
