/* The clocks of threads, and how time goes from one to another.
 *
 * It goes through what makes one thread wait for another: creation, join, and mutexes (an unlock leaves its time in the mutex,
 * a lock takes it up). To see these, and reads of files, this library is to be preloaded: the functions at the end stand
 * before libc's.
 *
 * A thread that runs ahead in virtual time must not be seen too early by one that is behind: whoever has moved its clock waits,
 * in real time, until no other thread is behind it but those that are blocked. Threads that block where nobody sees it are left
 * out after PATIENCE, until their clock moves again. */
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <shared_mutex>
#include <sys/uio.h>
#include <unistd.h>

#include "libcuda_state.h"

constexpr auto PATIENCE = std::chrono::seconds(2); /* longer than a busy machine takes to parse the PTX */

struct thread_clock {
    std::atomic<double> now_ns{0};
    std::atomic<const void *> waits_for{nullptr}; /* a condition, a mutex, a thread */
    std::atomic<bool> left_out{false};
    bool moved = false; /* since its last turn */
};

struct thread_state {
    std::shared_mutex lock;
    std::set<thread_clock *> all;
    std::map<pthread_t, double> ended;
    std::atomic<int> n_mutex_waiters{0};
};

static thread_state &threads()
{
    static thread_state *state = new thread_state;
    return *state;
}

static thread_clock *clock_new(double now)
{
    auto *c = kept(new thread_clock);
    c->now_ns = now;
    std::lock_guard<std::shared_mutex> guard(threads().lock);
    threads().all.insert(c);
    return c;
}

/* Whoever waits for it could act now. */
static void could_act(const void *waited_for)
{
    std::lock_guard<std::shared_mutex> guard(threads().lock);
    for (thread_clock *c : threads().all)
        if (c->waits_for == waited_for)
            c->waits_for = nullptr;
}

/* Ends with its thread, however that ends. */
struct own_clock {
    thread_clock *clock = nullptr;
    ~own_clock()
    {
        if (!clock)
            return;
        {
            std::lock_guard<std::shared_mutex> guard(threads().lock);
            threads().ended[pthread_self()] = clock->now_ns;
            threads().all.erase(clock);
        }
        could_act((const void *)pthread_self());
        /* Not freed: what runs at the very end of the thread still asks for the time. */
    }
};

static thread_local own_clock own;

static thread_clock &me()
{
    if (!own.clock)
        own.clock = clock_new(0);
    return *own.clock;
}

double thread_now()
{
    return me().now_ns;
}

void thread_advance(double to)
{
    thread_clock &c = me();
    if (to <= c.now_ns)
        return;
    c.now_ns = to;
    c.moved = true;
    c.left_out = false;
}

void thread_spend(double ns)
{
    thread_advance(thread_now() + ns);
}

static bool is_preloaded()
{
    static bool preloaded = dlsym(RTLD_DEFAULT, "pthread_create") == (void *)pthread_create;
    return preloaded;
}

/* Whether somebody who could act is behind `now`; with leave_out: no more. */
static bool somebody_is_behind(double now, bool leave_out)
{
    bool found = false;
    std::lock_guard<std::shared_mutex> guard(threads().lock);
    for (thread_clock *c : threads().all)
        if (c != own.clock && c->now_ns < now && !c->waits_for && !c->left_out) {
            found = true;
            if (leave_out)
                c->left_out = true;
        }
    return found;
}

void thread_take_turn()
{
    thread_clock &c = me();
    if (!c.moved || !is_preloaded())
        return;
    auto until = std::chrono::steady_clock::now() + PATIENCE;
    while (somebody_is_behind(c.now_ns, false)) {
        if (std::chrono::steady_clock::now() > until)
            somebody_is_behind(c.now_ns, true);
        else
            sched_yield();
    }
    c.moved = false;
}

/* --- mutexes ------------------------------------------------------------------------------------------------------------- */

/* The clock of whoever unlocked a mutex last. A table of fixed size: two mutexes that share a place pass on each other's time,
 * which can only make somebody later. */
constexpr size_t N_PLACES = 1 << 16;
static std::atomic<double> left_at[N_PLACES];

static std::atomic<double> &place_of(const void *mutex)
{
    uint64_t h = (uint64_t)mutex * 0x9e3779b97f4a7c15ull;
    return left_at[h >> 48];
}

static void leave_time(const void *mutex)
{
    std::atomic<double> &place = place_of(mutex);
    double before = place.load(), now = thread_now();
    while (before < now && !place.compare_exchange_weak(before, now)) {
    }
}

static void take_time(const void *mutex)
{
    thread_advance(place_of(mutex).load());
}

/* --- standing before libc --------------------------------------------------------------------------------------------------- */

template <class F> static F real(const char *name)
{
    return (F)dlsym(RTLD_NEXT, name);
}
#define REAL(name)                                                                                                     \
    ([] {                                                                                                              \
        static auto fn = real<decltype(&::name)>(#name);                                                               \
        return fn;                                                                                                     \
    }())

struct thread_start {
    void *(*run)(void *);
    void *argument;
    thread_clock *clock;
};

static void *thread_run(void *argument)
{
    thread_start start = *(thread_start *)argument;
    delete (thread_start *)argument;
    own.clock = start.clock;
    return start.run(start.argument);
}

/* A read into pinned memory that a copy is still about: the system sees that the pages are closed, and nothing else. */
static ssize_t after_read(int fd, const void *to, ssize_t got, off_t offset)
{
    std::string what;
    if (got < 0 && errno == EFAULT) {
        lock_enter();
        if (work_touches((uint64_t)to, 1, &what))
            misuse("pinned-write-early", "a read of a file into pinned memory at %p without having waited for %s", to,
                   what.c_str());
        lock_leave();
        errno = EFAULT;
    }
    if (got > 0)
        emu_charge_disk(fd, (uint64_t)offset, (uint64_t)got);
    return got;
}

#pragma GCC visibility push(default)
extern "C" {

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) noexcept
{
    auto *start = new thread_start{run, argument, clock_new(thread_now())};
    int rc = REAL(pthread_create)(thread, attributes, thread_run, start);
    if (rc != 0) {
        std::lock_guard<std::shared_mutex> guard(threads().lock);
        threads().all.erase(start->clock);
        delete start;
    }
    return rc;
}

int pthread_join(pthread_t thread, void **result)
{
    thread_clock &c = me();
    {
        std::lock_guard<std::shared_mutex> guard(threads().lock);
        if (!threads().ended.count(thread))
            c.waits_for = (const void *)thread;
    }
    int rc = REAL(pthread_join)(thread, result);
    c.waits_for = nullptr;
    if (rc != 0)
        return rc;
    std::lock_guard<std::shared_mutex> guard(threads().lock);
    auto it = threads().ended.find(thread);
    if (it != threads().ended.end()) {
        thread_advance(it->second);
        threads().ended.erase(it);
    }
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept
{
    int rc = REAL(pthread_mutex_trylock)(mutex);
    if (rc == EBUSY) {
        thread_clock &c = me();
        threads().n_mutex_waiters++;
        c.waits_for = mutex;
        rc = REAL(pthread_mutex_lock)(mutex);
        c.waits_for = nullptr;
        threads().n_mutex_waiters--;
    }
    take_time(mutex);
    return rc;
}

int pthread_mutex_trylock(pthread_mutex_t *mutex) noexcept
{
    int rc = REAL(pthread_mutex_trylock)(mutex);
    if (rc == 0)
        take_time(mutex);
    return rc;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept
{
    leave_time(mutex);
    if (threads().n_mutex_waiters > 0)
        could_act(mutex);
    return REAL(pthread_mutex_unlock)(mutex);
}

/* Who signals has unlocked the mutex since, or is about to: its time comes with the mutex. */
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    leave_time(mutex);
    me().waits_for = condition;
    int rc = REAL(pthread_cond_wait)(condition, mutex);
    me().waits_for = nullptr;
    take_time(mutex);
    return rc;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    leave_time(mutex);
    me().waits_for = condition;
    int rc = REAL(pthread_cond_timedwait)(condition, mutex, until);
    me().waits_for = nullptr;
    take_time(mutex);
    return rc;
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *until)
{
    leave_time(mutex);
    me().waits_for = condition;
    int rc = REAL(pthread_cond_clockwait)(condition, mutex, clock, until);
    me().waits_for = nullptr;
    take_time(mutex);
    return rc;
}

int pthread_cond_broadcast(pthread_cond_t *condition) noexcept
{
    could_act(condition);
    return REAL(pthread_cond_broadcast)(condition);
}

/* Wakes all, for nobody knows whom libc would choose, and then who could act; the others find nothing and wait again. */
int pthread_cond_signal(pthread_cond_t *condition) noexcept
{
    return pthread_cond_broadcast(condition);
}

ssize_t pread(int fd, void *to, size_t n, off_t offset)
{
    return after_read(fd, to, REAL(pread)(fd, to, n, offset), offset);
}

ssize_t pread64(int fd, void *to, size_t n, off64_t offset)
{
    return after_read(fd, to, REAL(pread64)(fd, to, n, offset), offset);
}

ssize_t __pread_chk(int fd, void *to, size_t n, off_t offset, size_t room);
ssize_t __pread64_chk(int fd, void *to, size_t n, off64_t offset, size_t room);

ssize_t __pread_chk(int fd, void *to, size_t n, off_t offset, size_t room)
{
    return after_read(fd, to, REAL(__pread_chk)(fd, to, n, offset, room), offset);
}

ssize_t __pread64_chk(int fd, void *to, size_t n, off64_t offset, size_t room)
{
    return after_read(fd, to, REAL(__pread64_chk)(fd, to, n, offset, room), offset);
}

ssize_t preadv(int fd, const struct iovec *to, int n, off_t offset)
{
    return after_read(fd, to->iov_base, REAL(preadv)(fd, to, n, offset), offset);
}

int posix_fadvise(int fd, off_t offset, off_t n, int advice) noexcept
{
    if (advice == POSIX_FADV_WILLNEED)
        disk_announce(fd, (uint64_t)offset, (uint64_t)n);
    return REAL(posix_fadvise)(fd, offset, n, advice);
}

int posix_fadvise64(int fd, off64_t offset, off64_t n, int advice) noexcept
{
    if (advice == POSIX_FADV_WILLNEED)
        disk_announce(fd, (uint64_t)offset, (uint64_t)n);
    return REAL(posix_fadvise64)(fd, offset, n, advice);
}

ssize_t preadv64(int fd, const struct iovec *to, int n, off64_t offset)
{
    return after_read(fd, to->iov_base, REAL(preadv64)(fd, to, n, offset), offset);
}

ssize_t readahead(int fd, off64_t offset, size_t n) noexcept
{
    disk_announce(fd, (uint64_t)offset, n);
    return REAL(readahead)(fd, offset, n);
}
}
#pragma GCC visibility pop
