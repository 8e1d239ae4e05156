/* clock - the two clocks: monotonic for durations, wall for what other machines read. */
#ifndef ROUSE_BASE_CLOCK_H
#define ROUSE_BASE_CLOCK_H

#include <stdint.h>

uint64_t base_clock_mono_ns(void); /* CLOCK_MONOTONIC */
int64_t base_clock_unix_ms(void);  /* CLOCK_REALTIME */
void base_clock_sleep_ms(uint32_t ms);

/* When the kernel started this process, on CLOCK_MONOTONIC, from /proc/self/stat (10 ms steps); 0 if unknown.
 * Not moved by exec: a shell that execs us lends us its own start. */
uint64_t base_clock_process_start_ns(void);

/* Exponential back-off with jitter: the wait before attempt n (0-based), between half and all of min(base << n, max). */
uint32_t base_clock_backoff_ms(uint32_t attempt, uint32_t base_ms, uint32_t max_ms);

#endif
