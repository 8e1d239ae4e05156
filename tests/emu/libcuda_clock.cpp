/* Virtual time: nobody sleeps, but every thread knows what time it would be.
 *
 * Each thread has a clock (libcuda_threads.cpp). What takes time on a link or the disk is given a place in that resource's
 * calendar, not before the clock of whoever asked; waiting moves the waiter's clock to the end of what it waited for. */
#include <algorithm>
#include <cstdio>
#include <fcntl.h>
#include <fnmatch.h>
#include <mutex>
#include <shared_mutex>
#include <sys/stat.h>
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
        thread_spend((double)bytes * settings().pin_ns_per_byte); /* a ring is as large for every model: no scale */
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

static void charge(int fd, const struct stat &file, uint64_t offset, uint64_t bytes)
{
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

void emu_charge_disk(int fd, uint64_t offset, uint64_t bytes)
{
    struct stat file;
    if (bytes == 0 || !on_disk(fd, &file))
        return;
    charge(fd, file, offset, bytes);
    thread_take_turn();
}

void disk_announce(int fd, uint64_t offset, uint64_t bytes)
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
    /* Preloading reaches every program on the way to the one that is meant. */
    if (settings().clock_file.empty() || (!device_initialised() && clocks().disk_bytes == 0))
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
