/* bench_pages - the two states a start depends on: which of a file's pages are cached, and whether free memory is backed.
 *
 * None of it needs root. Dropping works on pages that nobody maps and that are clean; whether it did is what
 * bench_pages_resident is for.
 *
 * On a virtual machine that hands free memory back to its host (free page reporting) the first touch of a page costs a fault
 * of the host's: 0.2-0.7 GB/s after an idle second, where 4-11 are seen while the pages are still backed. bench_pages_prime
 * touches and frees memory, so that what runs right after it finds backed pages; a figure has to say whether it ran. */
#ifndef ROUSE_BENCH_PAGES_H
#define ROUSE_BENCH_PAGES_H

#include <stdint.h>

#include "base/error.h"

#define BENCH_COLD_MAX   0.01 /* resident fraction: above, a cold run is void */
#define BENCH_CACHED_MIN 0.99 /* below, a cached one is */

/* The fraction of the file's pages that are in the page cache, by mincore: 0 .. 1. */
int bench_pages_resident(const char *path, double *out_fraction, struct base_error *err);

/* Drops the file from the page cache until less than BENCH_COLD_MAX of it is there; out_fraction: what is left. ERR_AGAIN: it
 * stays, because somebody has it mapped or keeps reading it. */
int bench_pages_evict(const char *path, double *out_fraction, struct base_error *err);

/* Reads all of it into the page cache. ERR_AGAIN: it does not stay there, so memory is short. */
int bench_pages_fill(const char *path, double *out_fraction, struct base_error *err);

/* Touches fresh memory in huge pages on all cores and gives it back. At most 70 % of what is available; returns the bytes. */
uint64_t bench_pages_prime(uint64_t bytes);

/* First touch of every page. memory: page-aligned. */
void bench_pages_touch(uint8_t *memory, uint64_t n);

#endif
