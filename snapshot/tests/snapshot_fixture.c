#include "snapshot/tests/snapshot_fixture.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/trace.h"

void fixture_shell(const char *fmt, ...)
{
    char command[4 * PATH_MAX];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(command, sizeof(command), fmt, args);
    va_end(args);
    assert_true(n > 0 && (size_t)n < sizeof(command));
    int rc = system(command);
    if (rc != 0)
        fail_msg("%s: exit %d", command, rc);
}

int fixture_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const char *source = getenv("ROUSE_SOURCE_DIR");
    char root[] = "/tmp/rouse-test-XXXXXX";
    if (!f || !mkdtemp(root))
        return -1;
    snprintf(f->root, sizeof(f->root), "%s", root);
    snprintf(f->model, sizeof(f->model), "%s/oracle", f->root);
    snprintf(f->store, sizeof(f->store), "%s/store", f->root);
    fixture_shell("mkdir '%s' && cp '%s/models/oracle/'*.json '%s/models/oracle/'*.safetensors '%s/'", f->model,
                  source ? source : ".", source ? source : ".", f->model);
    *state = f;
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    fixture_shell("rm -rf '%s'", f->root);
    free(f);
    return 0;
}

struct snap_start_options fixture_options(const struct fixture *f)
{
    return (struct snap_start_options){
        .model = f->model,
        .store = f->store,
        .dtype = "auto",
        .build = SNAP_BUILD_AUTO,
        .limits = {.n_ctx_max = 128, .n_seqs_max = 2, .n_tokens_max = 64, .n_logits_max = 64}};
}

struct gpu_device *fixture_device(const char *kernels)
{
    struct gpu_device *device = NULL;
    struct base_error err = {0};
    const struct gpu_open_options options = {.n_threads = 2, .kernels = kernels};
    if (gpu_open("cpu", &options, &device, &err) < 0)
        fail_msg("%s", err.text);
    return device;
}

void fixture_take_logits(struct snap_model *m, struct fixture_run *run)
{
    enum { N = 24 };
    int32_t tokens[N];
    static const uint32_t blocks[] = {0, 1};
    const struct gpu_plan *plan = gpu_model_plan(m->gpu);
    for (int i = 0; i < N; i++)
        tokens[i] = (i * 77 + 5) % (int32_t)plan->config.vocab;
    const struct gpu_sequence s = {.tokens = tokens, .n_tokens = N, .blocks = blocks, .n_logits = N};
    struct gpu_result result;
    assert_int_equal(gpu_model_forward(m->gpu, &s, 1, &result, NULL), 0);
    run->n_logits = N * plan->config.vocab;
    run->logits = malloc(run->n_logits * sizeof(float));
    assert_non_null(run->logits);
    memcpy(run->logits, result.logits, run->n_logits * sizeof(float));
}

static void take_all(struct snap_model *m, struct fixture_run *run)
{
    static const char text[] = "In the beginning  was the Word\n\n\xc3\xa9";
    run->restored = m->restored;
    run->built = m->built;
    run->bytes = m->snapshot_bytes;
    memcpy(run->id, m->snapshot_id, sizeof(run->id));
    memcpy(run->digest, m->model_digest, sizeof(run->digest));
    fixture_take_logits(m, run);
    assert_int_equal(model_tokenizer_encode(m->tokenizer, text, sizeof(text) - 1, 1000, &run->ids, &run->n_ids, NULL),
                     0);
}

struct fixture_run fixture_start_device(const struct snap_start_options *options, struct gpu_device *device)
{
    struct fixture_run run = {.rc = 0};
    struct snap_model *m = NULL;
    struct base_trace *trace = base_trace_new();
    struct snap_start_options with_trace = *options;
    with_trace.trace = trace;
    run.rc = snap_start(device, &with_trace, &m, &run.err);
    if (run.rc == 0)
        take_all(m, &run);
    struct base_buffer json;
    struct base_json j;
    base_buffer_init(&json, sizeof(run.trace) - 1);
    base_json_init(&j, &json);
    base_trace_json(trace, &j);
    snprintf(run.trace, sizeof(run.trace), "%s", base_buffer_cstr(&json));
    base_buffer_done(&json);
    base_trace_free(trace);
    snap_model_close(m);
    return run;
}

struct fixture_run fixture_start_on(const struct snap_start_options *options, const char *kernels)
{
    struct gpu_device *device = fixture_device(kernels);
    struct fixture_run run = fixture_start_device(options, device);
    gpu_close(device);
    return run;
}

struct fixture_run fixture_start(const struct snap_start_options *options)
{
    return fixture_start_on(options, NULL);
}

void fixture_run_done(struct fixture_run *run)
{
    free(run->logits);
    free(run->ids);
    run->logits = NULL;
    run->ids = NULL;
}

void fixture_assert_same_answers(const struct fixture_run *a, const struct fixture_run *b)
{
    assert_int_equal(a->rc, 0);
    assert_int_equal(b->rc, 0);
    assert_int_equal(a->n_logits, b->n_logits);
    assert_memory_equal(a->logits, b->logits, a->n_logits * sizeof(float));
    assert_int_equal(a->n_ids, b->n_ids);
    assert_memory_equal(a->ids, b->ids, a->n_ids * sizeof(int32_t));
}

static int stderr_before = -1;

static void capture_path(const struct fixture *f, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/stderr", f->root);
}

void fixture_capture_begin(const struct fixture *f)
{
    char path[PATH_MAX];
    capture_path(f, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    stderr_before = dup(2);
    dup2(fd, 2);
    close(fd);
}

void fixture_capture_end(const struct fixture *f)
{
    (void)f;
    dup2(stderr_before, 2);
    close(stderr_before);
    stderr_before = -1;
}

unsigned fixture_captured(const struct fixture *f, const char *text)
{
    char path[PATH_MAX];
    unsigned n = 0;
    struct base_buffer all;
    base_buffer_init(&all, 16u << 20);
    capture_path(f, path);
    assert_int_equal(base_file_read(path, 16u << 20, &all, NULL), 0);
    for (const char *at = base_buffer_cstr(&all); (at = strstr(at, text)); at += strcspn(at, "\n"))
        n++;
    base_buffer_done(&all);
    return n;
}

unsigned fixture_count(const char *dir, const char *suffix)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t k = strlen(e->d_name), s = strlen(suffix);
        n += k >= s && strcmp(e->d_name + k - s, suffix) == 0;
    }
    if (d)
        closedir(d);
    return n;
}

void fixture_snapshot_path(const struct fixture *f, const char *id, const char *suffix, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s/%s%s", f->store, id, suffix);
    assert_true(n > 0 && n < PATH_MAX);
}

void fixture_flip(const char *path, uint64_t offset)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

uint64_t fixture_size(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* ---- redis-server ---- */

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static bool answers(int port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    char reply[64];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && write(fd, "PING\r\n", 6) == 6 &&
              read(fd, reply, sizeof(reply)) > 4;
    close(fd);
    return ok;
}

void fixture_redis_require(void)
{
    if (system("command -v redis-server >/dev/null 2>&1") != 0) {
        printf("skipped: redis-server is not installed\n");
        exit(77);
    }
}

void fixture_redis_start(struct fixture_redis *r, const struct fixture *f, int port, const char *password)
{
    char port_text[12];
    r->port = port ? port : free_port();
    snprintf(port_text, sizeof(port_text), "%d", r->port);
    if (password)
        snprintf(r->url, sizeof(r->url), "redis://:%s@127.0.0.1:%d", password, r->port);
    else
        snprintf(r->url, sizeof(r->url), "redis://127.0.0.1:%d/3", r->port);
    r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        execlp("redis-server", "redis-server", "--port", port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly",
               "no", "--dir", f->root, "--requirepass", password ? password : "", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 200 && !answers(r->port); i++)
        base_clock_sleep_ms(20);
    assert_true(answers(r->port));
}

void fixture_redis_stop(struct fixture_redis *r)
{
    if (r->pid <= 0)
        return;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
}
