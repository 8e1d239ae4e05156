#include "worker/history.h"

#ifdef ROUSE_CHAOS

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int fd = -1; /* open until the process ends */
static atomic_ullong seq;
static atomic_llong transaction;

static void open_file(void)
{
    const char *path = getenv("ROUSE_HISTORY");
    if (!path || !*path)
        return;
    fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        perror(path);
        exit(2);
    }
}

void history_write(const char *event, int64_t partition, int64_t offset, int64_t prompt, int64_t epoch)
{
    pthread_once(&once, open_file);
    if (fd < 0)
        return;
    char line[320];
    int n = snprintf(line, sizeof line,
                     "{\"t\":%" PRId64 ",\"seq\":%llu,\"pid\":%d,\"event\":\"%s\",\"partition\":%" PRId64
                     ",\"offset\":%" PRId64 ",\"prompt\":%" PRId64 ",\"epoch\":%" PRId64 ",\"txn\":%lld}\n",
                     base_clock_unix_ms(), (unsigned long long)atomic_fetch_add(&seq, 1), (int)getpid(), event,
                     partition, offset, prompt, epoch, (long long)atomic_load(&transaction));
    if (write(fd, line, (size_t)n) != n) { /* a history with holes proves nothing */
        perror("ROUSE_HISTORY");
        abort();
    }
}

void history_next_transaction(void)
{
    atomic_fetch_add(&transaction, 1);
}

#else
typedef int history_is_empty; /* ISO C wants a declaration in every file */
#endif
