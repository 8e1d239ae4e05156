/* bench_checkpoint [SHAPE [DTYPE]] - the driver's own way to a warm start, for comparison with restoring a snapshot: a process
 * that has a model on its card is locked, checkpointed (what is on the card goes to the process's memory), restored and
 * unlocked, from outside, by cuCheckpointProcess* (driver 570 or newer). One JSON line a step.
 *
 * Only the card's half of a start: a process that was written to disk would have to be read back first (CRIU), into host memory
 * as large as the model, where a snapshot needs a ring of buffers. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/cuda/bench_weights.h"
#include "gpu/cuda/cuda_driver.h"

#define CHECKPOINT_CALLS(X)                                                                                            \
    X(Lock, cuCheckpointProcessLock)                                                                                   \
    X(Checkpoint, cuCheckpointProcessCheckpoint)                                                                       \
    X(Restore, cuCheckpointProcessRestore)                                                                             \
    X(Unlock, cuCheckpointProcessUnlock)

struct checkpoint_driver {
    const struct cuda_driver *cu;
#define CHECKPOINT_FIELD(field, function) __typeof__(function) *field;
    CHECKPOINT_CALLS(CHECKPOINT_FIELD)
};

enum { LOCK_TIMEOUT_MS = 10000 };

static void must(int rc, const struct base_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "bench_checkpoint: %s\n", err->text);
        exit(base_exit_code(rc));
    }
}

/* ---- the process that is checkpointed ---- */

static int32_t next_token(struct gpu_model *model)
{
    static const int32_t tokens[] = {1, 2, 3, 4};
    static const uint32_t blocks[] = {0};
    const struct gpu_sequence s = {
        .tokens = tokens, .n_tokens = 4, .blocks = blocks, .n_logits = 1, .sampling = &model_sampling_default};
    struct gpu_result result;
    struct base_error err = {0};
    must(gpu_model_forward(model, &s, 1, &result, &err), &err);
    return result.sampled[0];
}

/* Tells the token it computes, once when it is ready and once more whenever it is asked to. */
static void serve(const char *shape, const char *dtype_name, int asked, int answer)
{
    struct base_error err = {0};
    struct model_config config;
    enum model_dtype dtype;
    const struct gpu_limits limits = {16, 1, 1, 16, 1};
    struct gpu_device *device;
    struct gpu_model *model;
    char byte;
    must(bench_shape_find(shape, &config, &err), &err);
    must(model_dtype_parse(dtype_name, &dtype, &err), &err);
    must(gpu_open("cuda", NULL, &device, &err), &err);
    must(gpu_model_new(device, &config, dtype, &limits, &model, &err), &err);
    must(bench_weights_fill(device, model, &err), &err);
    must(gpu_model_warm_up(model, &err), &err);
    do {
        const int32_t token = next_token(model);
        if (write(answer, &token, sizeof token) != sizeof token)
            break;
    } while (read(asked, &byte, 1) == 1);
    gpu_model_free(model);
    gpu_close(device);
}

/* ---- the process that does it ---- */

static void find_calls(struct checkpoint_driver *c)
{
    struct base_error err = {0};
    must(cuda_driver_get(&c->cu, &err), &err);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
#define FIND(field, function)                                                                                          \
    *(void **)(void *)&c->field = library ? dlsym(library, #function) : NULL;                                          \
    if (!c->field)                                                                                                     \
        must(base_fail(&err, ERR_SERVICE, "the NVIDIA driver here has no " #function "; 570 or newer has"), &err);
    CHECKPOINT_CALLS(FIND)
    const CUresult result = c->cu->Init(0);
    if (result != CUDA_SUCCESS)
        must(cuda_driver_fail(c->cu, result, &err, "cuInit"), &err);
}

static void print_step(const char *name, uint64_t began_ns)
{
    printf("{\"section\":\"checkpoint\",\"name\":\"%s\",\"value\":%.6f,\"unit\":\"s\"}\n", name,
           (double)(base_clock_mono_ns() - began_ns) / 1e9);
    fflush(stdout);
}

static void must_step(const struct checkpoint_driver *c, CUresult result, const char *name, uint64_t began_ns)
{
    struct base_error err = {0};
    if (result != CUDA_SUCCESS)
        must(cuda_driver_fail(c->cu, result, &err, "%s", name), &err);
    print_step(name, began_ns);
}

static void cycle(const struct checkpoint_driver *c, int pid)
{
    CUcheckpointLockArgs lock = {.timeoutMs = LOCK_TIMEOUT_MS};
    CUcheckpointCheckpointArgs checkpoint = {0};
    CUcheckpointRestoreArgs restore = {0};
    CUcheckpointUnlockArgs unlock = {0};
    uint64_t began = base_clock_mono_ns();
    must_step(c, c->Lock(pid, &lock), "lock", began);
    began = base_clock_mono_ns();
    must_step(c, c->Checkpoint(pid, &checkpoint), "checkpoint", began);
    began = base_clock_mono_ns();
    must_step(c, c->Restore(pid, &restore), "restore", began);
    began = base_clock_mono_ns();
    must_step(c, c->Unlock(pid, &unlock), "unlock", began);
}

static int32_t read_token(int answer)
{
    int32_t token;
    struct base_error err = {0};
    if (read(answer, &token, sizeof token) != sizeof token)
        must(base_fail(&err, ERR_SERVICE, "the process with the model ended"), &err);
    return token;
}

static void make_pipe(int ends[2])
{
    struct base_error err = {0};
    if (pipe(ends) < 0)
        must(base_fail_errno(&err, "a pipe"), &err);
}

int main(int argc, char **argv)
{
    const char *shape = argc > 1 ? argv[1] : "1.4b", *dtype = argc > 2 ? argv[2] : "f16";
    int ask[2], answer[2], status;
    struct base_error err = {0};
    make_pipe(ask);
    make_pipe(answer);
    const pid_t pid = fork(); /* before either of them knows the driver */
    if (pid < 0)
        must(base_fail_errno(&err, "fork"), &err);
    if (pid == 0) {
        close(ask[1]);
        close(answer[0]);
        serve(shape, dtype, ask[0], answer[1]);
        return 0;
    }
    close(ask[0]);
    close(answer[1]);

    uint64_t began = base_clock_mono_ns();
    const int32_t before = read_token(answer[0]);
    print_step("exec to a token, random weights", began);
    struct checkpoint_driver c;
    find_calls(&c);
    cycle(&c, pid);
    began = base_clock_mono_ns();
    if (write(ask[1], "", 1) != 1)
        must(base_fail_errno(&err, "asking the process with the model"), &err);
    const int32_t after = read_token(answer[0]);
    print_step("first token after", began);
    close(ask[1]);
    if (after != before)
        must(base_fail(&err, ERR_CORRUPT, "token %d before, %d after", before, after), &err);
    if (waitpid(pid, &status, 0) < 0 || status != 0)
        must(base_fail(&err, ERR_INTERNAL, "the process with the model ended with status %d", status), &err);
    return 0;
}
