#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* A number of bytes in a cgroup's file; UINT64_MAX for "max" and for no file. */
static uint64_t read_limit(const char *path)
{
    struct base_buffer text;
    base_buffer_init(&text, 64);
    uint64_t limit = UINT64_MAX;
    if (base_file_read(path, 64, &text, NULL) == 0) {
        char *end;
        const unsigned long long v = strtoull(base_buffer_cstr(&text), &end, 10);
        if (end != base_buffer_cstr(&text))
            limit = v;
    }
    base_buffer_done(&text);
    return limit;
}

static uint64_t cut_by_container(uint64_t bytes)
{
    const uint64_t v2 = read_limit("/sys/fs/cgroup/memory.max");
    const uint64_t v1 = read_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if (v2 < bytes)
        bytes = v2;
    return v1 < bytes ? v1 : bytes;
}

uint64_t base_memory_total(void)
{
    return cut_by_container((uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
}

uint64_t base_memory_available(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return cut_by_container((uint64_t)kib * 1024);
}

int base_memory_populate_read(void *at, size_t n)
{
    return madvise(at, n, MADV_POPULATE_READ);
}

int base_memory_populate_write(void *at, size_t n)
{
    return madvise(at, n, MADV_POPULATE_WRITE);
}
