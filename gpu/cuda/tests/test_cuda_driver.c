/* The driver and what can go wrong with it: machines without one, cards that are too old, every call failing once; and the
 * upload ring.
 *
 * What needs another driver than the one here runs in a child, which is this program with a word. Only the emulated driver
 * (tests/emu) can be asked to be old or to fail. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "gpu/cuda/tests/cuda_testing.h"

static const struct model_config tiny = {.n_layers = 2,
                                         .hidden = 64,
                                         .n_heads = 2,
                                         .head_dim = 32,
                                         .rotary_dims = 8,
                                         .intermediate = 64,
                                         .vocab = 40,
                                         .n_positions = 64,
                                         .rotary_base = 10000,
                                         .norm_eps = 1e-5f,
                                         .parallel_residual = true,
                                         .attention_bias = true};
static const struct gpu_limits tiny_limits = {16, 2, 4, 32, 8};

/* ---- children: print one line, exit 0 ---- */

static int child_open(void)
{
    struct gpu_device *device = NULL;
    struct base_error err = {0};
    const uint64_t begin_ns = base_clock_mono_ns();
    const int rc = gpu_open("cuda", NULL, &device, &err);
    printf("%s after %.0f us: %s\n", base_error_name(rc), (double)(base_clock_mono_ns() - begin_ns) / 1e3, err.text);
    gpu_close(device);
    return 0;
}

static int upload_all(struct gpu_device *device, struct gpu_model *model, struct base_error *err)
{
    uint8_t *weights = cuda_testing_weights(gpu_model_plan(model), 3);
    const uint64_t total = gpu_model_plan(model)->weights_bytes;
    struct gpu_upload *upload = NULL;
    int rc = gpu_upload_open(device, 2, 64 << 10, &upload, err);
    for (uint64_t at = 0; at < total && rc == 0; at += 64 << 10) {
        const uint64_t n = total - at < 64 << 10 ? total - at : 64 << 10;
        uint32_t slot;
        uint8_t *buffer;
        rc = gpu_upload_take(upload, &slot, &buffer, err);
        if (rc < 0)
            break;
        memcpy(buffer, weights + at, n);
        rc = gpu_upload_put(upload, slot, model, at, n, err);
    }
    if (rc == 0)
        rc = gpu_upload_sync(upload, err);
    gpu_upload_close(upload);
    free(weights);
    return rc;
}

static int run_step(struct gpu_model *model, struct base_error *err)
{
    const int32_t tokens[] = {1, 2, 3, 4};
    const uint32_t blocks[] = {1, 0, 5, 3};
    const struct gpu_sequence s[] = {
        {.tokens = tokens, .n_tokens = 3, .blocks = blocks, .n_logits = 1},
        {.tokens = tokens + 3,
         .n_tokens = 1,
         .position = 3,
         .blocks = blocks,
         .n_logits = 1,
         .generated = true,
         .sampling = &model_sampling_default},
    };
    struct gpu_result result;
    return gpu_model_forward(model, s, 2, &result, err);
}

/* All that a model can do. Two steps: what fails in the first may be over in the second, or must be the same error again. */
static int live(struct gpu_device *device, struct gpu_model **model, struct base_error *err)
{
    struct base_buffer choices;
    uint8_t byte;
    int rc = gpu_model_new(device, &tiny, MODEL_F16, &tiny_limits, model, err);
    if (rc == 0)
        rc = upload_all(device, *model, err);
    if (rc == 0)
        rc = gpu_model_warm_up(*model, err);
    base_buffer_init(&choices, 64 << 20);
    if (rc == 0)
        rc = gpu_model_choices_export(*model, &choices, err);
    base_buffer_done(&choices);
    if (rc == 0) {
        rc = run_step(*model, err);
        struct base_error again = {0};
        const int second = run_step(*model, &again);
        if (rc < 0 && second < 0 && strcmp(err->text, again.text) != 0)
            printf("then another error: %s; ", again.text);
    }
    if (rc == 0)
        rc = gpu_model_read(*model, 0, 1, &byte, err);
    if (rc == 0)
        rc = gpu_model_sleep(*model, err);
    if (rc == 0)
        rc = gpu_model_wake(*model, err);
    return rc;
}

static int child_live(void)
{
    struct gpu_device *device = NULL;
    struct gpu_model *model = NULL;
    struct base_error err = {0};
    base_log_setup(BASE_LOG_OFF, BASE_LOG_TEXT);
    int rc = gpu_open("cuda", NULL, &device, &err);
    if (rc == 0)
        rc = live(device, &model, &err);
    gpu_model_free(model);
    gpu_close(device);
    printf("%s: %s\n", base_error_name(rc), err.text);
    return 0;
}

/* ---- running them ---- */

struct child {
    int status; /* of exit, -1: a signal */
    char text[2048];
};

/* Environment: NAME=VALUE, or NAME for none; up to a NULL. */
static struct child run_child(const char *what, const char *const *environment)
{
    struct child c = {0};
    int pipe_ends[2], status;
    assert_int_equal(pipe(pipe_ends), 0);
    fflush(stdout);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (; *environment; environment++) {
            if (strchr(*environment, '='))
                putenv((char *)(uintptr_t)*environment);
            else
                unsetenv(*environment);
        }
        dup2(pipe_ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "test_cuda_driver", what, (char *)NULL);
        _exit(127);
    }
    close(pipe_ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(pipe_ends[0], c.text + n, sizeof c.text - 1 - n)) > 0; n += (size_t)got)
        ;
    close(pipe_ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    c.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return c;
}

static bool is_emulated;

static void needs_the_emulated_driver(void)
{
    if (!is_emulated) {
        print_message("[  SKIPPED ] a card does what it does\n");
        skip();
    }
}

/* ---- opening ---- */

static void what_a_device_says_of_itself(void **state)
{
    (void)state;
    struct gpu_device *device = cuda_testing_open(NULL), *other;
    const struct gpu_info *info = gpu_device_info(device);
    uint32_t cc = 0, driver = 0, lt = 0;
    struct base_error err = {0};
    assert_string_equal(info->kind, "cuda");
    assert_int_equal(sscanf(info->arch, "sm_%u", &cc), 1);
    assert_true(cc >= 80);
    assert_int_equal(sscanf(info->driver, "%u cublasLt %u", &driver, &lt), 2);
    assert_true(driver >= 12 && lt >= 12);
    assert_true(strlen(info->name) > 0 && info->n_threads >= 1 && info->memory_bytes >= (1u << 30));
    assert_int_equal(info->kv_value_bytes, 2);
    testing_ok(gpu_open("cuda:0", NULL, &other, &err), &err); /* twice is no fault */
    gpu_close(other);
    assert_int_equal(gpu_open("cuda:77", NULL, &other, &err), ERR_SERVICE);
    assert_non_null(strstr(err.text, "no device cuda:77: the driver shows "));
    testing_ok(gpu_open("auto", NULL, &other, &err), &err);
    assert_string_equal(gpu_device_info(other)->kind, "cuda");
    gpu_close(other);
    gpu_close(device);
}

/* The emulated driver is found by LD_LIBRARY_PATH; without it there is none, as on a machine without a card. */
static void no_driver_is_an_answer_at_once(void **state)
{
    (void)state;
    static const char *const without[] = {"LD_LIBRARY_PATH", NULL};
    double us;
    needs_the_emulated_driver();
    const struct child c = run_child("open", without);
    assert_int_equal(c.status, 0);
    assert_int_equal(sscanf(c.text, "service after %lf us:", &us), 1);
    assert_non_null(strstr(c.text, "device cuda: no NVIDIA driver here: libcuda.so.1"));
    if (us > 50e3)
        fail_msg("%s", c.text);
}

static void what_is_too_old_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *environment[2], *text;
    } cases[] = {
        {{"EMU_DRIVER_VERSION=12040"}, "for CUDA 12.4 (cuDriverGetVersion: 0); needed is one for 12.8 or newer"},
        {{"EMU_CC=7.5"}, "Emulated CUDA device has compute capability 7.5; needed is 8.0 or newer"},
        {{"EMU_FAIL_NAME=cuInit:1:100"}, "cuInit: CUDA_ERROR_NO_DEVICE 100"},
        {{"EMU_FAIL_NAME=cuInit:1:803"}, " 803 ("},
    };
    needs_the_emulated_driver();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct child c = run_child("open", cases[i].environment);
        if (c.status != 0 || strncmp(c.text, "service ", 8) != 0 || !strstr(c.text, cases[i].text))
            fail_msg("%s: exit %d, %s", cases[i].environment[0], c.status, c.text);
    }
}

/* ---- every call fails once ---- */

/* Calls that give something back: a failure there leaves it, and nobody can do more about it. */
static bool gives_back(const char *name)
{
    static const char *const words[] = {"Free", "Destroy", "Release", "Unmap", "Unload", "Unregister"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(name, words[i]))
            return true;
    return false;
}

/* These may fail without a loss: pinning, and cublasLt. */
static bool may_fail(const char *name)
{
    return strstr(name, "cuMemHostRegister") || strncmp(name, "cublasLt", 8) == 0 || gives_back(name);
}

static void check_failure(const char *name, int code, bool is_driver)
{
    char fail[128];
    snprintf(fail, sizeof fail, "EMU_FAIL_NAME=%s:1:%d", name, code);
    const char *const environment[] = {fail, gives_back(name) ? "EMU_STRICT=0" : "EMU_STRICT=1", NULL};
    const struct child c = run_child("live", environment);
    const bool ok = strncmp(c.text, "internal: ", 10) != 0 || strstr(c.text, "CUDA_ERROR_") || !is_driver;
    if (c.status != 0 || (!strchr(c.text, ':')) || !ok || strstr(c.text, "then another error") ||
        (strncmp(c.text, "none: ", 6) == 0 && !may_fail(name)))
        fail_msg("%s fails with %d: exit %d, '%s'", name, code, c.status, c.text);
}

/* The names of all calls of a good run, each once. */
static size_t read_calls(const char *path, char names[][64], size_t max)
{
    struct base_buffer text;
    struct base_error err = {0};
    size_t n = 0;
    base_buffer_init(&text, 16 << 20);
    testing_ok(base_file_read(path, 16 << 20, &text, &err), &err);
    for (char *line = strtok((char *)text.data, "\n"); line; line = strtok(NULL, "\n")) {
        char name[64];
        size_t i = 0;
        if (sscanf(line, "%*u %63s", name) != 1)
            continue;
        while (i < n && strcmp(names[i], name) != 0)
            i++;
        if (i == n && n < max)
            strcpy(names[n++], name);
    }
    base_buffer_done(&text);
    return n;
}

static void every_call_may_fail(void **state)
{
    enum { N_MAX = 128 };
    static char names[N_MAX][64];
    char path[] = "/tmp/test_cuda_driver.XXXXXX", calls[64];
    (void)state;
    needs_the_emulated_driver();
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(calls, sizeof calls, "EMU_CALLS=%s", path);
    const struct child good = run_child("live", (const char *const[]){calls, NULL});
    if (good.status != 0 || strcmp(good.text, "none: \n") != 0)
        fail_msg("nothing fails: exit %d, '%s'", good.status, good.text);
    const size_t n = read_calls(path, names, N_MAX);
    unlink(path);
    assert_true(n > 50);
    for (size_t i = 0; i < n; i++) {
        const bool lt = strncmp(names[i], "cublasLt", 8) == 0;
        if (strcmp(names[i], "cuGetErrorName") == 0 || strcmp(names[i], "cuGetErrorString") == 0)
            continue;
        check_failure(names[i], lt ? 13 : 2, !lt); /* EXECUTION_FAILED; out of memory */
    }
    print_message("%zu calls\n", n);
}

/* A kernel's fault, seen by whoever waits next: all later steps say the same. */
static void a_fault_stays(void **state)
{
    (void)state;
    static const char *const codes[] = {"EMU_FAIL_NAME=cuEventSynchronize:2:719", "EMU_FAIL_NAME=cuLaunchKernel:5:700"};
    needs_the_emulated_driver();
    for (size_t i = 0; i < 2; i++) {
        const struct child c = run_child("live", (const char *const[]){codes[i], "EMU_STRICT=0", NULL});
        if (c.status != 0 || strncmp(c.text, "internal: ", 10) != 0 || strstr(c.text, "another"))
            fail_msg("%s: exit %d, '%s'", codes[i], c.status, c.text);
    }
}

/* ---- the upload ring ---- */

enum { SLOTS = 3, SLOT_BYTES = 8192 };

struct feeding {
    struct gpu_upload *upload;
    struct gpu_model *model;
    const uint8_t *weights;
    pthread_mutex_t lock;
    uint64_t next; /* guarded by lock */
};

static void *feed(void *argument)
{
    struct feeding *f = argument;
    const uint64_t total = gpu_model_plan(f->model)->weights_bytes;
    struct base_error err = {0};
    for (uint32_t round = 0;; round++) {
        uint32_t slot;
        uint8_t *buffer;
        if (gpu_upload_take(f->upload, &slot, &buffer, &err) < 0)
            return f;
        pthread_mutex_lock(&f->lock);
        const uint64_t at = f->next;
        f->next += SLOT_BYTES;
        pthread_mutex_unlock(&f->lock);
        const uint64_t left = at < total ? total - at : 0, n = left < SLOT_BYTES ? left : SLOT_BYTES;
        memcpy(buffer, f->weights + (n ? at : 0), n);
        if (round % 3 == 2) { /* back unused, and another one */
            if (gpu_upload_put(f->upload, slot, f->model, 0, 0, &err) < 0 ||
                gpu_upload_take(f->upload, &slot, &buffer, &err) < 0)
                return f;
            memcpy(buffer, f->weights + (n ? at : 0), n);
        }
        if (gpu_upload_put(f->upload, slot, f->model, at, n, &err) < 0)
            return f;
        if (n == 0)
            return NULL;
    }
}

/* More threads than buffers, more pieces than both: every byte arrives where it belongs. */
static void bytes_arrive_from_many_threads(void **state)
{
    enum { THREADS = 5 };
    (void)state;
    struct gpu_device *device = cuda_testing_open(NULL);
    struct feeding f = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct base_error err = {0};
    pthread_t threads[THREADS];
    testing_ok(gpu_upload_open(device, SLOTS, SLOT_BYTES, &f.upload, &err), &err);
    f.model = testing_model(device, &tiny, MODEL_F16, &tiny_limits);
    const uint64_t total = gpu_model_plan(f.model)->weights_bytes;
    uint8_t *weights = cuda_testing_weights(gpu_model_plan(f.model), 11), *back = testing_alloc(total, 1);
    f.weights = weights;
    for (uint32_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, feed, &f), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    testing_ok(gpu_upload_sync(f.upload, &err), &err);
    testing_ok(gpu_model_read(f.model, 0, total, back, &err), &err);
    assert_memory_equal(back, weights, total);
    testing_ok(gpu_model_read(f.model, 4097, 1003, back, &err), &err);
    assert_memory_equal(back, weights + 4097, 1003);
    assert_null(gpu_model_host(f.model));
    gpu_upload_close(f.upload);
    free(back);
    free(weights);
    gpu_model_free(f.model);
    gpu_close(device);
}

/* Buffers at once, while the device is still coming up; and a ring that nobody used. */
static void a_ring_is_there_before_the_device(void **state)
{
    (void)state;
    struct gpu_device *device = cuda_testing_open(NULL);
    struct gpu_upload *upload;
    struct base_error err = {0};
    uint32_t slots[SLOTS];
    uint8_t *buffers[SLOTS];
    testing_ok(gpu_upload_open(device, SLOTS, SLOT_BYTES, &upload, &err), &err);
    for (uint32_t i = 0; i < SLOTS; i++) {
        testing_ok(gpu_upload_take(upload, &slots[i], &buffers[i], &err), &err);
        assert_int_equal((uintptr_t)buffers[i] % 4096, 0);
        memset(buffers[i], (int)i, SLOT_BYTES);
    }
    for (uint32_t i = 0; i < SLOTS; i++)
        testing_ok(gpu_upload_put(upload, slots[i], NULL, 0, 0, &err), &err);
    testing_ok(gpu_upload_sync(upload, &err), &err);
    gpu_upload_close(upload);
    gpu_close(device);
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return strcmp(argv[1], "live") == 0 ? child_live() : child_open();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_device_says_of_itself),
        cmocka_unit_test(no_driver_is_an_answer_at_once),
        cmocka_unit_test(what_is_too_old_is_told),
        cmocka_unit_test(a_ring_is_there_before_the_device),
        cmocka_unit_test(bytes_arrive_from_many_threads),
        cmocka_unit_test(a_fault_stays),
        cmocka_unit_test(every_call_may_fail),
    };
    struct gpu_device *device = cuda_testing_open(NULL);
    is_emulated = cuda_testing_is_emulated(device);
    gpu_close(device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
