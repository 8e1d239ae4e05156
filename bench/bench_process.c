#include "bench/bench_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { NO_SUCH_PROGRAM = 127, WAIT_MS = 5 };

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* In the child. It ends with the parent, however that ends. */
static void become(const char *const argv[], const char *env, const int ends[3], pid_t parent)
{
    for (int i = 0; i < 3; i++)
        if (dup2(ends[i], i) < 0)
            _exit(NO_SUCH_PROGRAM);
    if (env && putenv((char *)(uintptr_t)env) != 0)
        _exit(NO_SUCH_PROGRAM);
    signal(SIGPIPE, SIG_DFL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent)
        execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(NO_SUCH_PROGRAM);
}

int bench_process_start(const char *const argv[], const char *env, struct bench_process *p, struct base_error *err)
{
    int pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    *p = (struct bench_process){.in = -1, .out = -1, .errors = -1};
    base_buffer_init(&p->text, BENCH_OUTPUT_MAX);
    base_buffer_init(&p->complaint, BENCH_OUTPUT_MAX);
    int rc = 0;
    for (int i = 0; i < 3 && rc == 0; i++)
        if (pipe2(pipes[i], O_CLOEXEC) < 0)
            rc = base_fail_errno(err, "%s: pipe", argv[0]);
    if (rc == 0) {
        pid_t parent = getpid();
        p->began_ns = base_clock_mono_ns();
        p->pid = fork();
        if (p->pid == 0)
            become(argv, env, (const int[3]){pipes[0][0], pipes[1][1], pipes[2][1]}, parent);
        if (p->pid < 0) {
            p->pid = 0;
            rc = base_fail_errno(err, "%s: fork", argv[0]);
        }
    }
    close_fd(&pipes[0][0]), close_fd(&pipes[1][1]), close_fd(&pipes[2][1]);
    p->in = pipes[0][1], p->out = pipes[1][0], p->errors = pipes[2][0];
    if (rc < 0)
        bench_process_done(p);
    return rc;
}

static void drain(int *fd, struct base_buffer *to)
{
    char bytes[4096];
    ssize_t n = read(*fd, bytes, sizeof bytes);
    if (n > 0)
        base_buffer_append(to, bytes, (size_t)n); /* past the ceiling the rest is dropped */
    else if (n == 0 || errno != EINTR)
        close_fd(fd);
}

/* Takes what comes within ms. False: both streams are at their end. */
static bool listen_ms(struct bench_process *p, int ms)
{
    struct pollfd fds[2] = {{.fd = p->out, .events = POLLIN}, {.fd = p->errors, .events = POLLIN}};
    if (p->out < 0 && p->errors < 0)
        return false;
    if (poll(fds, 2, ms) > 0) {
        if (fds[0].revents)
            drain(&p->out, &p->text);
        if (fds[1].revents)
            drain(&p->errors, &p->complaint);
    }
    return true;
}

/* The last line that it wrote to stderr. */
static int fail_in_its_words(struct bench_process *p, int status, struct base_error *err)
{
    char how[48];
    const char *all = base_buffer_cstr(&p->complaint);
    size_t end = strlen(all);
    while (end && all[end - 1] == '\n')
        end--;
    size_t start = end;
    while (start && all[start - 1] != '\n')
        start--;
    if (WIFEXITED(status))
        snprintf(how, sizeof how, "exit code %d", WEXITSTATUS(status));
    else
        snprintf(how, sizeof how, "signal %d", WTERMSIG(status));
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SUCH_PROGRAM && end == 0)
        return base_fail(err, ERR_NOTFOUND, "no such program");
    return base_fail(err, ERR_SERVICE, "%s: %.*s", how, (int)(end - start > 300 ? 300 : end - start), all + start);
}

/* Waits for its end until `until` ns, then kills it. */
static int reap(struct bench_process *p, uint64_t until_ns)
{
    int status = 0;
    bool killed = false;
    while (waitpid(p->pid, &status, killed ? 0 : WNOHANG) == 0) {
        if (base_clock_mono_ns() > until_ns) {
            kill(p->pid, SIGKILL);
            killed = true;
        } else {
            base_clock_sleep_ms(WAIT_MS);
        }
    }
    p->pid = 0;
    return status;
}

int bench_process_line(struct bench_process *p, uint32_t seconds, struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + (uint64_t)seconds * 1000000000u;
    while (!memchr(base_buffer_cstr(&p->text), '\n', p->text.n)) {
        uint64_t now = base_clock_mono_ns();
        if (now > until)
            return base_fail(err, ERR_AGAIN, "no answer within %u s", seconds);
        if (!listen_ms(p, (int)((until - now) / 1000000) + 1))
            return fail_in_its_words(p, reap(p, until), err);
    }
    return 0;
}

int bench_process_check(struct bench_process *p, struct base_error *err)
{
    return listen_ms(p, 0) ? 0 : fail_in_its_words(p, reap(p, base_clock_mono_ns() + 1000000000u), err);
}

int bench_process_end(struct bench_process *p, uint32_t seconds, struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + (uint64_t)seconds * 1000000000u;
    close_fd(&p->in);
    while (base_clock_mono_ns() < until && listen_ms(p, 100))
        ;
    int status = reap(p, until);
    return status == 0 ? 0 : fail_in_its_words(p, status, err);
}

void bench_process_done(struct bench_process *p)
{
    close_fd(&p->in), close_fd(&p->out), close_fd(&p->errors);
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        (void)reap(p, 0);
    }
    base_buffer_done(&p->text);
    base_buffer_done(&p->complaint);
}

int bench_process_pss(const struct bench_process *p, uint64_t *out_bytes, struct base_error *err)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)p->pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return base_fail_errno(err, "%s", path);
    while (!found && fgets(line, sizeof line, f))
        found = sscanf(line, "Pss: %llu kB", &kib) == 1;
    fclose(f);
    if (!found)
        return base_fail(err, ERR_NOTFOUND, "%s has no line \"Pss:\"", path);
    *out_bytes = kib * 1024;
    return 0;
}
