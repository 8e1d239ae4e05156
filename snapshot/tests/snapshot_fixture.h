/* snapshot_fixture - what the snapshot tests share: a folder of their own, a copy of the oracle model, starts,
 * captured logs, a real redis-server. Every helper fails the running test by itself. */
#ifndef ROUSE_SNAPSHOT_TESTS_SNAPSHOT_FIXTURE_H
#define ROUSE_SNAPSHOT_TESTS_SNAPSHOT_FIXTURE_H

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "base/buffer.h"
#include "gpu/device.h"
#include "snapshot/admin.h"
#include "snapshot/start.h"

struct fixture {
    char root[PATH_MAX - 64]; /* a new folder under /tmp */
    char model[PATH_MAX];     /* root/oracle: a copy that a test may change */
    char store[PATH_MAX];     /* root/store, not made yet */
};

int fixture_setup(void **state);
int fixture_teardown(void **state);

/* Runs /bin/sh -c; the test fails unless it exits with 0. */
void fixture_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

struct snap_start_options fixture_options(const struct fixture *f);
struct gpu_device *fixture_device(const char *kernels);

/* Starts on a device of its own, takes the logits of a fixed prompt, closes all. 0 or the start's error. */
struct fixture_run {
    int rc;
    struct base_error err;
    bool restored, built;
    char id[33], digest[65];
    uint64_t bytes;
    uint32_t n_logits;
    float *logits; /* [n_logits], malloc'ed: of every position of the prompt */
    int32_t *ids;  /* of a fixed text */
    size_t n_ids;
    char trace[4096]; /* as JSON */
};
struct fixture_run fixture_start(const struct snap_start_options *options);
struct fixture_run fixture_start_device(const struct snap_start_options *options,
                                        struct gpu_device *device); /* left open */
struct fixture_run fixture_start_on(const struct snap_start_options *options, const char *kernels);
void fixture_take_logits(struct snap_model *m, struct fixture_run *run);
void fixture_run_done(struct fixture_run *run);
void fixture_assert_same_answers(const struct fixture_run *a, const struct fixture_run *b);

/* stderr into a file and back; how many lines hold the text. */
void fixture_capture_begin(const struct fixture *f);
void fixture_capture_end(const struct fixture *f);
unsigned fixture_captured(const struct fixture *f, const char *text);

unsigned fixture_count(const char *dir, const char *suffix); /* files whose names end so */
void fixture_snapshot_path(const struct fixture *f, const char *id, const char *suffix, char out[PATH_MAX]);
void fixture_flip(const char *path, uint64_t offset);
uint64_t fixture_size(const char *path);

/* A redis-server on a free loopback port. Skips the test program (exit 77) where there is none. */
struct fixture_redis {
    pid_t pid;
    int port;
    char url[128];
};
void fixture_redis_require(void);
void fixture_redis_start(struct fixture_redis *r, const struct fixture *f, int port,
                         const char *password); /* port 0: a free one */
void fixture_redis_stop(struct fixture_redis *r);

#endif
