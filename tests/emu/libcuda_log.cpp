/* What the environment asks for, what the program did wrong, and the gate that every driver call passes. */
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <shared_mutex>
#include <unistd.h>

#include "libcuda_state.h"

/* --- settings ------------------------------------------------------------------------------------------------------- */

static std::string env_text(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static double env_number(const char *name, double otherwise)
{
    const char *value = getenv(name);
    if (!value)
        return otherwise;
    char *end;
    double number = strtod(value, &end);
    if (*value == '\0' || *end != '\0') {
        fprintf(stderr, "emu: settings: %s=%s is not a number\n", name, value);
        _exit(2);
    }
    return number;
}

static emu_settings *settings_read()
{
    auto *s = new emu_settings;
    s->strict = env_number("EMU_STRICT", 0) != 0;
    std::string order = env_text("EMU_ORDER", "lazy");
    if (order != "lazy" && order != "random") {
        fprintf(stderr, "emu: settings: EMU_ORDER=%s is neither lazy nor random\n", order.c_str());
        _exit(2);
    }
    s->random_order = order == "random";
    s->seed = (uint64_t)env_number("EMU_SEED", 0);
    s->jitter_ulps = (int)env_number("EMU_JITTER", 0);
    s->budget = (uint64_t)env_number("EMU_BUDGET", 0);
    /* 11.0: no cubin of ours fits it, so that the PTX is used. */
    std::string cc = env_text("EMU_CC", "11.0");
    if (sscanf(cc.c_str(), "%d.%d", &s->cc_major, &s->cc_minor) != 2) {
        fprintf(stderr, "emu: settings: EMU_CC=%s is not like 8.0\n", cc.c_str());
        _exit(2);
    }
    s->driver_version = (int)env_number("EMU_DRIVER_VERSION", 13000);
    s->device_name = env_text("EMU_DEVICE_NAME", "Emulated CUDA device");
    s->ptx_file = env_text("EMU_PTX", "");
    s->coverage_file = env_text("EMU_COVERAGE", "");
    s->counters_file = env_text("EMU_COUNTERS", "");
    s->clock_file = env_text("EMU_CLOCK", "");
    s->disk_files = env_text("EMU_DISK_FILES", "");
    s->memory_bytes = (uint64_t)(env_number("EMU_MEMORY_MIB", 40960) * 1048576.0);
    s->link_bytes_per_ns = env_number("EMU_LINK_GBPS", 25);
    s->disk_bytes_per_ns = env_number("EMU_DISK_GBPS", 2);
    s->scale = env_number("EMU_SCALE", 1);
    s->link_latency_ns = env_number("EMU_LINK_LATENCY_US", 10) * 1e3;
    s->init_ns = env_number("EMU_INIT_MS", 0) * 1e6;
    s->context_ns = env_number("EMU_CTX_MS", 0) * 1e6;
    s->module_ns = env_number("EMU_MODULE_MS", 0) * 1e6;
    s->jit_ns = env_number("EMU_JIT_MS", 0) * 1e6;
    s->pin_ns_per_byte = env_number("EMU_PIN_MS_PER_GB", 0) * 1e6 / 1e9;
    return s;
}

const emu_settings &settings()
{
    static const emu_settings *s = settings_read();
    return *s;
}

struct kept_objects {
    std::shared_mutex lock;
    std::vector<const void *> all;
};

void keep(const void *object)
{
    static kept_objects *objects = new kept_objects;
    std::lock_guard<std::shared_mutex> guard(objects->lock);
    objects->all.push_back(object);
}

/* --- misuse --------------------------------------------------------------------------------------------------------- */

struct log_state {
    std::shared_mutex lock;
    int fd = 2;
    uint64_t n_misuses = 0;
};

static log_state &log_state_get()
{
    static log_state *state = [] {
        auto *l = new log_state;
        std::string path = env_text("EMU_LOG", "");
        if (!path.empty()) {
            l->fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
            if (l->fd < 0) {
                fprintf(stderr, "emu: settings: EMU_LOG=%s: %m\n", path.c_str());
                _exit(2);
            }
        }
        return l;
    }();
    return *state;
}

static std::string text_of_list(const char *format, va_list list)
{
    va_list again;
    va_copy(again, list);
    int n = vsnprintf(nullptr, 0, format, again);
    va_end(again);
    std::string text((size_t)n, '\0');
    vsnprintf(&text[0], (size_t)n + 1, format, list);
    return text;
}

std::string text_of(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    std::string text = text_of_list(format, list);
    va_end(list);
    return text;
}

static void misuse_list(const char *name, const char *format, va_list list)
{
    std::string line = text_of("emu: %s: ", name) + text_of_list(format, list);
    for (char &c : line)
        if (c == '\n')
            c = ' ';
    line += '\n';
    log_state &l = log_state_get();
    std::lock_guard<std::shared_mutex> guard(l.lock);
    l.n_misuses++;
    if (write(l.fd, line.data(), line.size()) < 0 && settings().strict)
        _exit(99);
}

void misuse(const char *name, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    misuse_list(name, format, list);
    va_end(list);
}

void emu_misuse(const char *name, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    misuse_list(name, format, list);
    va_end(list);
}

/* --- failing on request ----------------------------------------------------------------------------------------------- */

struct named_failure {
    std::string name;
    uint64_t number;
    int code;
};

struct call_state {
    std::shared_mutex lock;
    uint64_t n_calls = 0, fail_number = 0;
    int fail_code = 0;
    std::vector<named_failure> named;
    std::unordered_map<std::string, uint64_t> n_by_name;
    FILE *list = nullptr;
    bool release_failed = false; /* on request: then what is left over is the test's doing */
};

static void bad_setting(const char *name, const char *form)
{
    fprintf(stderr, "emu: settings: %s is not of the form %s\n", name, form);
    _exit(2);
}

/* "cuMemCreate:3:2,cuLaunchKernel:1:700" */
static void read_named_failures(const std::string &text, std::vector<named_failure> *out)
{
    size_t at = 0;
    while (at < text.size()) {
        size_t end = text.find(',', at);
        std::string part = text.substr(at, end == std::string::npos ? end : end - at);
        char name[128];
        unsigned long long number;
        int code;
        if (sscanf(part.c_str(), "%127[^:]:%llu:%d", name, &number, &code) != 3)
            bad_setting("EMU_FAIL_NAME", "NAME:N:CODE[,...]");
        out->push_back({name, number, code});
        at = end == std::string::npos ? text.size() : end + 1;
    }
}

static call_state &calls()
{
    static call_state *state = [] {
        auto *c = new call_state;
        std::string fail = env_text("EMU_FAIL", "");
        unsigned long long number;
        if (!fail.empty()) {
            if (sscanf(fail.c_str(), "%llu:%d", &number, &c->fail_code) != 2)
                bad_setting("EMU_FAIL", "N:CODE");
            c->fail_number = number;
        }
        read_named_failures(env_text("EMU_FAIL_NAME", ""), &c->named);
        std::string path = env_text("EMU_CALLS", "");
        if (!path.empty() && !(c->list = fopen(path.c_str(), "we")))
            bad_setting("EMU_CALLS", "a file that can be written");
        return c;
    }();
    return *state;
}

static bool gives_back(const std::string &name)
{
    for (const char *verb : {"Destroy", "Free", "Release", "Un"})
        if (name.find(verb) != std::string::npos)
            return true;
    return false;
}

static int code_for(const call_state &c, uint64_t number, const char *name, uint64_t of_name)
{
    if (number == c.fail_number)
        return c.fail_code;
    for (const named_failure &f : c.named)
        if (f.name == name && f.number == of_name)
            return f.code;
    return 0;
}

int count_call(const char *name)
{
    call_state &c = calls();
    std::lock_guard<std::shared_mutex> guard(c.lock);
    uint64_t number = ++c.n_calls, of_name = ++c.n_by_name[name];
    if (c.list)
        fprintf(c.list, "%llu %s\n", (unsigned long long)number, name);
    int code = code_for(c, number, name, of_name);
    c.release_failed |= code != 0 && gives_back(name);
    return code;
}

int emu_call(const char *name)
{
    return count_call(name);
}

/* --- the lock, and the gate ------------------------------------------------------------------------------------------- */

/* A std::mutex would carry virtual time from thread to thread (libcuda_clock.cpp); the driver's own locks must not. */
struct lock_state {
    std::shared_mutex lock;
    std::condition_variable_any changed;
};

static lock_state &the_lock()
{
    static lock_state *state = new lock_state;
    return *state;
}

static thread_local bool inside_host_function;

void lock_enter()
{
    the_lock().lock.lock();
}

void lock_leave()
{
    the_lock().lock.unlock();
}

void lock_wait()
{
    the_lock().changed.wait(the_lock().lock);
}

void lock_wake()
{
    the_lock().changed.notify_all();
}

bool in_host_function()
{
    return inside_host_function;
}

void run_unlocked(const std::function<void()> &fn)
{
    bool before = inside_host_function;
    inside_host_function = true;
    lock_leave();
    fn();
    lock_enter();
    inside_host_function = before;
}

/* What the real driver never recovers from. */
static bool is_sticky(int code)
{
    return (code >= 700 && code <= 703) || (code >= 714 && code <= 719) || code == CUDA_ERROR_ECC_UNCORRECTABLE;
}

entry::entry(const char *name, unsigned needs)
{
    lock_enter();
    int code = count_call(name);
    if (code != 0) {
        if (is_sticky(code))
            work_set_fault((CUresult)code);
        refused = (CUresult)code;
        return;
    }
    if (inside_host_function && !(needs & ALLOWED_AFTER_FAULT)) {
        misuse("call-in-host-function", "%s called inside a function given to cuLaunchHostFunc", name);
        refused = CUDA_ERROR_NOT_PERMITTED;
        return;
    }
    if ((needs & (NEEDS_INIT | NEEDS_CONTEXT)) && !device_initialised()) {
        misuse("not-initialised", "%s before cuInit", name);
        refused = CUDA_ERROR_NOT_INITIALIZED;
        return;
    }
    if (!(needs & ALLOWED_AFTER_FAULT) && work_fault() != CUDA_SUCCESS) {
        refused = work_fault();
        return;
    }
    if ((needs & NEEDS_CONTEXT) && !device_current()) {
        misuse("no-context", "%s on a thread without a current context", name);
        refused = CUDA_ERROR_INVALID_CONTEXT;
        return;
    }
    if (needs & UNSAFE_IN_CAPTURE)
        refused = capture_refuse_unsafe(name);
}

entry::~entry()
{
    lock_leave();
    thread_take_turn();
}

int emu_check_context()
{
    lock_enter();
    CUcontext context = device_current();
    CUresult fault = work_fault();
    lock_leave();
    return fault != CUDA_SUCCESS ? fault : context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

int emu_compute_capability()
{
    return settings().cc_major * 10 + settings().cc_minor;
}

/* --- the end ----------------------------------------------------------------------------------------------------------- */

/* Cleaning up after a fault is refused call by call. */
bool emu_leaks_count()
{
    return work_fault() == CUDA_SUCCESS && !calls().release_failed;
}

static void report_leaks()
{
    if (!emu_leaks_count())
        return;
    stream_report_leaks();
    graph_report_leaks();
    module_report_leaks();
    memory_report_leaks();
    device_report_leaks();
}

__attribute__((destructor)) static void at_exit()
{
    /* A thread that is stuck inside a call must not keep the process from ending. */
    bool held = the_lock().lock.try_lock();
    if (device_initialised()) {
        report_leaks();
        module_write_records();
    }
    clock_write();
    if (held)
        lock_leave();
    if (calls().list)
        fflush(calls().list);
    if (settings().strict && log_state_get().n_misuses > 0) {
        fflush(nullptr);
        _exit(99);
    }
}
