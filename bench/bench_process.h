/* bench_process - a program in a fresh process: what it prints and what it held.
 *
 * Started by fork and exec, and the moment before fork is the start of every figure. The parent keeps little memory resident,
 * so the copy of its page tables is no part of them. */
#ifndef ROUSE_BENCH_PROCESS_H
#define ROUSE_BENCH_PROCESS_H

#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"

#define BENCH_OUTPUT_MAX ((size_t)4 << 20) /* stdout and stderr of a program, each */

struct bench_process {
    pid_t pid;           /* 0: none */
    int in, out, errors; /* pipes to its standard streams; in is what it waits on while it is held; -1: closed */
    uint64_t began_ns;   /* monotonic, just before fork */
    struct base_buffer text, complaint; /* what came out so far */
};

/* argv[0] is a path, or a name to be found in PATH. env: "NAME=VALUE" put into its environment, or NULL. ERR_NOTFOUND: no such
 * program. The caller ends it: bench_process_end. */
int bench_process_start(const char *const argv[], const char *env, struct bench_process *p, struct base_error *err);

/* Until it has printed a line (which stays in text, with its newline), or ended, which is ERR_SERVICE with its own words.
 * ERR_AGAIN: not within seconds. */
int bench_process_line(struct bench_process *p, uint32_t seconds, struct base_error *err);

/* Takes what it has printed, so that it never waits for us. ERR_SERVICE: it has ended, with its own words. */
int bench_process_check(struct bench_process *p, struct base_error *err);

/* Closes its standard input, reads the rest and waits for it: killed when that takes longer than seconds. ERR_SERVICE: it ended
 * with another code than 0, with its own words. text and complaint stay the caller's: bench_process_done. */
int bench_process_end(struct bench_process *p, uint32_t seconds, struct base_error *err);
void bench_process_done(struct bench_process *p); /* kills what still runs, frees */

/* Proportional set size from /proc/PID/smaps_rollup: its own pages and its share of those that it maps with others. */
int bench_process_pss(const struct bench_process *p, uint64_t *out_bytes, struct base_error *err);

#endif
