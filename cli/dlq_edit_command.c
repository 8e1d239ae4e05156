/* A command of the user's that edits one letter: bytes in, bytes out, within a time. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/dlq_edit.h"
#include "cli/dlq_verbs.h"

#define OUT_BYTES_MAX (8u << 20) /* a record's limit on the wire */

struct child {
    pid_t pid;
    int in, out; /* our ends; -1: closed */
};

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

#define N_OURS 4

/* What the command may know of the letter, before the environment that we have. NULL: out of memory. */
static char **environment_new(const struct dlq_letter *l)
{
    const char *const names[N_OURS] = {"LETTER", "CODE", "STAGE", "MESSAGE"};
    char place[40];
    snprintf(place, sizeof place, "%" PRId32 "/%" PRId64, l->m->partition, l->m->offset);
    const char *const values[N_OURS] = {place, l->code, l->stage, l->meta.message};
    size_t n = 0, n_text = 0;
    while (environ[n])
        n++;
    for (size_t i = 0; i < N_OURS; i++)
        n_text += sizeof "ROUSE_DLQ_=" + strlen(names[i]) + strlen(values[i]);
    char **list = malloc((N_OURS + n + 1) * sizeof *list + n_text);
    if (!list)
        return NULL;
    char *text = (char *)(list + N_OURS + n + 1);
    for (size_t i = 0; i < N_OURS; i++) {
        list[i] = text;
        text += sprintf(text, "ROUSE_DLQ_%s=%s", names[i], values[i]) + 1;
    }
    memcpy(list + N_OURS, environ, (n + 1) * sizeof *list);
    return list;
}

static int start(const char *command, char **environment, struct child *c, struct base_error *err)
{
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) < 0)
        return base_fail_errno(err, "--edit-command: pipe");
    if (pipe2(out, O_CLOEXEC) < 0) {
        close(in[0]), close(in[1]);
        return base_fail_errno(err, "--edit-command: pipe");
    }
    c->pid = fork();
    if (c->pid == 0) {
        setpgid(0, 0); /* so that what it starts ends with it */
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        signal(SIGPIPE, SIG_DFL);
        execle("/bin/sh", "sh", "-c", command, (char *)NULL, environment);
        _exit(127);
    }
    close(in[0]), close(out[1]);
    c->in = in[1];
    c->out = out[0];
    if (c->pid < 0) {
        close_end(&c->in), close_end(&c->out);
        return base_fail_errno(err, "--edit-command: fork");
    }
    setpgid(c->pid, c->pid);
    fcntl(c->in, F_SETFL, O_NONBLOCK);
    fcntl(c->out, F_SETFL, O_NONBLOCK);
    return 0;
}

/* Until its output ends. */
static int talk(struct child *c, const uint8_t *in, size_t n, uint64_t timeout_s, struct base_buffer *out,
                struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + timeout_s * 1000000000u;
    uint8_t bytes[65536];
    size_t n_written = 0;
    if (n == 0)
        close_end(&c->in);
    while (c->out >= 0) {
        struct pollfd fds[2] = {{.fd = c->out, .events = POLLIN}, {.fd = c->in, .events = POLLOUT}};
        if (dlq_stop)
            return base_fail(err, ERR_STOPPED, "stopped by a signal");
        if (base_clock_mono_ns() > until)
            return base_fail(err, ERR_INPUT, "the command took longer than --edit-timeout-s %" PRIu64, timeout_s);
        poll(fds, 2, 100);
        if (fds[1].fd >= 0 && fds[1].revents) {
            ssize_t k = write(c->in, in + n_written, n - n_written);
            n_written += k > 0 ? (size_t)k : 0;
            if (n_written == n || (k < 0 && errno != EAGAIN && errno != EINTR))
                close_end(&c->in); /* it need not read all */
        }
        if (fds[0].revents) {
            ssize_t k = read(c->out, bytes, sizeof bytes);
            if (k > 0)
                base_buffer_append(out, bytes, (size_t)k);
            if (out->n > OUT_BYTES_MAX || out->failed)
                return base_fail(err, ERR_INPUT, "the command wrote more than %u bytes", OUT_BYTES_MAX);
            if (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR))
                close_end(&c->out);
        }
    }
    return 0;
}

/* Ends it if it has to, and takes its status. A command may close its output and go on: it has the same time for that. */
static int finish(struct child *c, int rc, uint64_t timeout_s, struct base_error *err)
{
    int status = 0;
    pid_t got = 0;
    close_end(&c->in);
    close_end(&c->out);
    for (uint64_t waited = 0; rc == 0 && got == 0 && waited < timeout_s * 1000 && !dlq_stop; waited++) {
        got = waitpid(c->pid, &status, WNOHANG);
        if (got == 0)
            base_clock_sleep_ms(1);
    }
    if (got == 0) {
        kill(-c->pid, SIGKILL);
        while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    if (rc < 0)
        return rc;
    if (WIFSIGNALED(status))
        return base_fail(err, ERR_INPUT, "the command was ended by signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status))
        return base_fail(err, ERR_INPUT, "the command's exit code is %d", WEXITSTATUS(status));
    return 0;
}

int dlq_edit_command(const struct dlq_edit *e, const struct dlq_letter *l, const void *in, size_t n,
                     struct base_buffer *out, struct base_error *err)
{
    struct child c;
    char **environment = environment_new(l); /* made before the fork, behind which nothing may allocate */
    int rc = environment ? start(e->command, environment, &c, err)
                         : base_fail(err, ERR_NOMEM, "--edit-command: out of memory");
    free(environment);
    if (rc < 0)
        return rc;
    rc = talk(&c, in, n, e->timeout_s, out, err);
    return finish(&c, rc, e->timeout_s, err);
}
