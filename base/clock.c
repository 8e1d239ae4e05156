#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t base_clock_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

#ifdef ROUSE_CHAOS
/* ROUSE_CLOCK_OFFSET=FILE: what the file says, in ms, is added to the wall clock; the tests let it jump. */
static int64_t clock_offset_ms(void)
{
    const char *path = getenv("ROUSE_CLOCK_OFFSET");
    char text[32] = "";
    int fd = path && *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 ? strtoll(text, NULL, 10) : 0;
}
#else
static int64_t clock_offset_ms(void)
{
    return 0;
}
#endif

int64_t base_clock_unix_ms(void)
{
    return (int64_t)(clock_ns(CLOCK_REALTIME) / 1000000u) + clock_offset_ms();
}

void base_clock_sleep_ms(uint32_t ms)
{
    uint64_t until = base_clock_mono_ns() + (uint64_t)ms * 1000000u;
    struct timespec ts = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) {
    }
}

/* Field 22 of /proc/self/stat, in clock ticks since boot; 0 if it is not there. The second field, the program's name in
 * parentheses, may itself hold spaces and parentheses: counting starts behind the last one. */
static uint64_t clock_start_ticks(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    const char *p = strrchr(text, ')');
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    uint64_t ticks = 0;
    return p && sscanf(p, " %" SCNu64, &ticks) == 1 ? ticks : 0;
}

uint64_t base_clock_process_start_ns(void)
{
    uint64_t ticks = clock_start_ticks();
    long per_second = sysconf(_SC_CLK_TCK);
    if (ticks == 0 || per_second <= 0)
        return 0;
    /* The kernel counts from boot with suspended time included; CLOCK_MONOTONIC leaves that out. */
    uint64_t start = ticks * (1000000000u / (uint64_t)per_second);
    uint64_t suspended = UINT64_MAX, mono = 0;
    for (int i = 0; i < 5; i++) { /* whoever loses the processor between the two clocks takes that for suspended time */
        mono = clock_ns(CLOCK_MONOTONIC);
        uint64_t boot = clock_ns(CLOCK_BOOTTIME), apart = boot > mono ? boot - mono : 0;
        suspended = apart < suspended ? apart : suspended;
    }
    return start > suspended && start - suspended <= mono ? start - suspended : 0;
}

uint32_t base_clock_backoff_ms(uint32_t attempt, uint32_t base_ms, uint32_t max_ms)
{
    uint64_t full = (uint64_t)base_ms << (attempt < 32 ? attempt : 32);
    if (full > max_ms)
        full = max_ms;
    uint32_t random = (uint32_t)base_clock_mono_ns();
    (void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
    uint64_t half = full - full / 2;
    return (uint32_t)(half + random % (full / 2 + 1));
}
