/* Virtual time: nobody sleeps, but every thread knows what time it would be.
 *
 * Each thread has a clock. What takes time on a link or the disk is given a place in that resource's calendar, not before the
 * clock of whoever asked; waiting moves the waiter's clock to the end of what it waited for. Time flows from thread to thread
 * through what makes one wait for the other: creation, join, and mutexes (an unlock leaves its time in the mutex, a lock takes
 * it up). For that, and for reads of files, this library is to be preloaded: the functions at the end stand before libc's. */
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <mutex>
#include <pthread.h>
#include <shared_mutex>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "libcuda_state.h"

double calendar::take(double from, double length)
{
    busy_ns += length;
    double at = from;
    auto it = intervals.upper_bound(from);
    if (it != intervals.begin() && std::prev(it)->second > at)
        at = std::prev(it)->second;
    for (; it != intervals.end() && it->first < at + length; ++it)
        at = std::max(at, it->second);
    double end = at + length;
    if (length <= 0)
        return end;
    auto after = intervals.lower_bound(at);
    if (after != intervals.begin() && std::prev(after)->second >= at) {
        at = std::prev(after)->first;
        intervals.erase(std::prev(after));
    }
    if (after != intervals.end() && after->first <= end) {
        intervals[at] = after->second;
        intervals.erase(after);
    } else {
        intervals[at] = end;
    }
    return end;
}

/* Bytes of one file that were announced or read: [begin, end) and when they are there. */
struct cached_range {
    uint64_t end;
    double ready_ns;
};

struct clock_state {
    std::shared_mutex lock;
    calendar links[4], disk;
    uint64_t link_bytes[4] = {0, 0, 0, 0}, disk_bytes = 0;
    int64_t pinned_bytes = 0, pinned_peak = 0;
    double first_launch_ns = -1, synchronised_ns = 0;
    std::map<std::pair<dev_t, ino_t>, std::map<uint64_t, cached_range>> cached;
};

static clock_state &clocks()
{
    static clock_state *state = new clock_state;
    return *state;
}

static thread_local double now_ns;

double thread_now()
{
    return now_ns;
}

void thread_advance(double to)
{
    now_ns = std::max(now_ns, to);
}

void thread_spend(double ns)
{
    now_ns += ns;
}

double link_ns(uint64_t bytes)
{
    return (double)bytes * settings().scale / settings().link_bytes_per_ns + settings().link_latency_ns;
}

double link_take(enum link link, double from, double ns, uint64_t bytes)
{
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    c.link_bytes[link] += bytes;
    return c.links[link].take(from, ns);
}

void clock_launch(double at)
{
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    if (c.first_launch_ns < 0)
        c.first_launch_ns = at;
}

void clock_synchronised(double at)
{
    thread_advance(at);
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    c.synchronised_ns = std::max(c.synchronised_ns, thread_now());
}

void clock_pinned(int64_t bytes)
{
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    c.pinned_bytes += bytes;
    c.pinned_peak = std::max(c.pinned_peak, c.pinned_bytes);
    if (bytes > 0)
        thread_spend((double)bytes * settings().scale * settings().pin_ns_per_byte);
}

/* --- disk --------------------------------------------------------------------------------------------------------------- */

static bool on_disk(int fd, struct stat *out)
{
    if (settings().disk_files.empty())
        return false;
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    return fnmatch(settings().disk_files.c_str(), path, 0) == 0 && fstat(fd, out) == 0 && S_ISREG(out->st_mode);
}

/* Reads what of [begin, end) is not there yet, from `from` on, and says when all of it is. */
static double disk_fetch(std::map<uint64_t, cached_range> *cached, uint64_t begin, uint64_t end, double from)
{
    clock_state &c = clocks();
    double ready = from;
    while (begin < end) {
        auto it = cached->upper_bound(begin);
        if (it != cached->begin() && std::prev(it)->second.end > begin) {
            ready = std::max(ready, std::prev(it)->second.ready_ns);
            begin = std::prev(it)->second.end;
            continue;
        }
        uint64_t stop = it == cached->end() ? end : std::min(end, it->first);
        c.disk_bytes += stop - begin;
        double done = c.disk.take(from, (double)(stop - begin) * settings().scale / settings().disk_bytes_per_ns);
        (*cached)[begin] = {stop, done};
        ready = std::max(ready, done);
        begin = stop;
    }
    return ready;
}

void emu_charge_disk(int fd, uint64_t offset, uint64_t bytes)
{
    struct stat file;
    if (bytes == 0 || !on_disk(fd, &file))
        return;
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    /* O_DIRECT leaves nothing behind, but finds what was announced. */
    auto &cached = c.cached[{file.st_dev, file.st_ino}];
    bool direct = (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
    std::map<uint64_t, cached_range> copy;
    if (direct)
        copy = cached;
    thread_advance(disk_fetch(direct ? &copy : &cached, offset, offset + bytes, thread_now()));
}

static void disk_announce(int fd, uint64_t offset, uint64_t bytes)
{
    struct stat file;
    if (!on_disk(fd, &file) || offset >= (uint64_t)file.st_size)
        return;
    uint64_t end = bytes == 0 ? (uint64_t)file.st_size : std::min((uint64_t)file.st_size, offset + bytes);
    clock_state &c = clocks();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    disk_fetch(&c.cached[{file.st_dev, file.st_ino}], offset, end, thread_now());
}

void clock_write()
{
    if (settings().clock_file.empty())
        return;
    FILE *f = fopen(settings().clock_file.c_str(), "we");
    if (!f) {
        misuse("settings", "EMU_CLOCK=%s: %m", settings().clock_file.c_str());
        return;
    }
    clock_state &c = clocks();
    fprintf(f,
            "{\"main_us\": %.3f, \"synchronised_us\": %.3f, \"first_launch_us\": %.3f, \"disk_busy_us\": %.3f, "
            "\"link_in_busy_us\": %.3f, \"link_out_busy_us\": %.3f, \"compute_busy_us\": %.3f, \"disk_bytes\": %llu, "
            "\"link_in_bytes\": %llu, \"link_out_bytes\": %llu, \"pinned_peak_bytes\": %lld}\n",
            thread_now() / 1e3, c.synchronised_ns / 1e3, c.first_launch_ns < 0 ? -1 : c.first_launch_ns / 1e3,
            c.disk.busy() / 1e3, c.links[LINK_IN].busy() / 1e3, c.links[LINK_OUT].busy() / 1e3,
            c.links[LINK_COMPUTE].busy() / 1e3, (unsigned long long)c.disk_bytes,
            (unsigned long long)c.link_bytes[LINK_IN], (unsigned long long)c.link_bytes[LINK_OUT],
            (long long)c.pinned_peak);
    fclose(f);
}

/* --- standing before libc ------------------------------------------------------------------------------------------------ */

template <class F> static F real(const char *name)
{
    return (F)dlsym(RTLD_NEXT, name);
}
#define REAL(name)                                                                                                     \
    ([] {                                                                                                              \
        static auto fn = real<decltype(&::name)>(#name);                                                               \
        return fn;                                                                                                     \
    }())

/* The clock of whoever unlocked a mutex last. A table of fixed size: two mutexes that share a place pass on each other's time,
 * which can only make somebody later. */
constexpr size_t N_PLACES = 1 << 16;
static std::atomic<double> left_at[N_PLACES];

static std::atomic<double> &place_of(const void *mutex)
{
    uint64_t h = (uint64_t)mutex * 0x9e3779b97f4a7c15ull;
    return left_at[h >> 48];
}

static void clock_leave(const void *mutex)
{
    std::atomic<double> &place = place_of(mutex);
    double before = place.load(std::memory_order_relaxed);
    while (before < now_ns && !place.compare_exchange_weak(before, now_ns, std::memory_order_relaxed)) {
    }
}

static void clock_take_up(const void *mutex)
{
    thread_advance(place_of(mutex).load(std::memory_order_relaxed));
}

struct thread_start {
    void *(*run)(void *);
    void *argument;
    double now;
};

struct thread_ends {
    std::shared_mutex lock;
    std::map<pthread_t, double> at;
};

static thread_ends &ends()
{
    static thread_ends *e = new thread_ends;
    return *e;
}

/* Also when a thread leaves by pthread_exit or is cancelled. */
struct thread_end {
    ~thread_end()
    {
        std::lock_guard<std::shared_mutex> guard(ends().lock);
        ends().at[pthread_self()] = now_ns;
    }
};

static void *thread_run(void *argument)
{
    thread_start start = *(thread_start *)argument;
    delete (thread_start *)argument;
    now_ns = start.now;
    thread_end end;
    return start.run(start.argument);
}

#pragma GCC visibility push(default)
extern "C" {

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) noexcept
{
    auto *start = new thread_start{run, argument, now_ns};
    int rc = REAL(pthread_create)(thread, attributes, thread_run, start);
    if (rc != 0)
        delete start;
    return rc;
}

int pthread_join(pthread_t thread, void **result)
{
    int rc = REAL(pthread_join)(thread, result);
    if (rc != 0)
        return rc;
    std::lock_guard<std::shared_mutex> guard(ends().lock);
    auto it = ends().at.find(thread);
    if (it != ends().at.end()) {
        thread_advance(it->second);
        ends().at.erase(it);
    }
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
{
    int rc = REAL(pthread_mutex_lock)(mutex);
    clock_take_up(mutex);
    return rc;
}

int pthread_mutex_trylock(pthread_mutex_t *mutex) noexcept
{
    int rc = REAL(pthread_mutex_trylock)(mutex);
    if (rc == 0)
        clock_take_up(mutex);
    return rc;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept
{
    clock_leave(mutex);
    return REAL(pthread_mutex_unlock)(mutex);
}

/* Who signals has unlocked the mutex since, or is about to: its time comes with the mutex. */
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    clock_leave(mutex);
    int rc = REAL(pthread_cond_wait)(condition, mutex);
    clock_take_up(mutex);
    return rc;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    clock_leave(mutex);
    int rc = REAL(pthread_cond_timedwait)(condition, mutex, until);
    clock_take_up(mutex);
    return rc;
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until)
{
    clock_leave(mutex);
    int rc = REAL(pthread_cond_clockwait)(condition, mutex, clock, until);
    clock_take_up(mutex);
    return rc;
}

ssize_t pread(int fd, void *to, size_t n, off_t offset)
{
    ssize_t got = REAL(pread)(fd, to, n, offset);
    if (got > 0)
        emu_charge_disk(fd, (uint64_t)offset, (uint64_t)got);
    return got;
}

ssize_t pread64(int fd, void *to, size_t n, off64_t offset)
{
    ssize_t got = REAL(pread64)(fd, to, n, offset);
    if (got > 0)
        emu_charge_disk(fd, (uint64_t)offset, (uint64_t)got);
    return got;
}

ssize_t preadv(int fd, const struct iovec *to, int n, off_t offset)
{
    ssize_t got = REAL(preadv)(fd, to, n, offset);
    if (got > 0)
        emu_charge_disk(fd, (uint64_t)offset, (uint64_t)got);
    return got;
}

int posix_fadvise(int fd, off_t offset, off_t n, int advice) noexcept
{
    if (advice == POSIX_FADV_WILLNEED)
        disk_announce(fd, (uint64_t)offset, (uint64_t)n);
    return REAL(posix_fadvise)(fd, offset, n, advice);
}

ssize_t readahead(int fd, off64_t offset, size_t n) noexcept
{
    disk_announce(fd, (uint64_t)offset, n);
    return REAL(readahead)(fd, offset, n);
}
}
#pragma GCC visibility pop
