/* progress - a bar on stderr for long work, when stderr is a terminal; silent otherwise.
 *
 *   building snapshot  [=============>          ]  58 %  1.6 of 2.8 GB  1.1 GB/s  1 s left */
#ifndef ROUSE_BASE_PROGRESS_H
#define ROUSE_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct base_progress {
    const char *label; /* borrowed */
    const char *unit;  /* "B" prints kB/MB/GB; anything else as a word: "prompts" */
    uint64_t total;    /* 0: unknown, prints count and rate only */
    uint64_t done;
    uint64_t began_ns, drawn_ns;
    bool on;
};

void base_progress_begin(struct base_progress *p, const char *label, const char *unit, uint64_t total);
void base_progress_set(struct base_progress *p, uint64_t done); /* draws at most ten times a second; one thread */
void base_progress_end(struct base_progress *p);                /* clears the line */

#endif
