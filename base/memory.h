/* memory - how much of it this process may use, and bringing ranges of it in at once. */
#ifndef ROUSE_BASE_MEMORY_H
#define ROUSE_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Bytes: the machine's memory, cut by the container's limit (cgroup v2, then v1). */
uint64_t base_memory_total(void);
/* Bytes that can be had without swapping (MemAvailable), cut by the same limit; 0: unknown. */
uint64_t base_memory_available(void);

/* Page table entries for a range at once, in the calling thread, instead of a fault a page later (Linux 5.14). at: page-aligned. -1
 * with errno: an older kernel, or a page that cannot be had.
 * read: what is mapped there is brought in. write: first touch of fresh memory. */
int base_memory_populate_read(void *at, size_t n);
int base_memory_populate_write(void *at, size_t n);

#endif
