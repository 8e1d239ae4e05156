/* Operations in streams: what comes before what, when each runs, and what nothing puts in order.
 *
 * Every operation knows by a clock which operations of each stream come before it: by its stream, by events, by the rules of
 * the legacy stream, and because the program had waited for them before it submitted this one. Two that touch the same bytes,
 * one of them writing, with neither before the other, are a race: reported when the second is submitted, whatever order they
 * run in. What kernels touch is only seen when they run: then the copies that they race with are cut out of their memory.
 *
 * EMU_ORDER=lazy runs nothing before somebody waits for it, and then only what that needs. EMU_ORDER=random runs now and then
 * something that could run. */
#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>

#include "libcuda_state.h"

struct work_state {
    std::vector<op_ref> pending; /* not run */
    std::vector<op_ref> history; /* touches known bytes, and something may still race with it */
    std::vector<op_ref> unknown; /* not known to the program to have ended */
    order_clock host;            /* what the program has waited for */
    uint64_t tick = 0, random = 0;
    CUresult fault = CUDA_SUCCESS;
    op *running_kernel = nullptr;
    std::vector<span> touched_pinned; /* by the running kernel, whole blocks */
    ptx_machine *machine = nullptr;
    bool helper_started = false;
};

static work_state &work()
{
    static work_state *state = [] {
        auto *w = new work_state;
        w->random = settings().seed * 2 + 1;
        return w;
    }();
    return *state;
}

/* --- order ------------------------------------------------------------------------------------------------------------- */

void order_clock::join(const order_clock &other)
{
    if (at.size() < other.at.size())
        at.resize(other.at.size());
    for (size_t i = 0; i < other.at.size(); i++)
        at[i] = std::max(at[i], other.at[i]);
}

void order_clock::set(uint32_t stream, uint64_t sequence)
{
    if (at.size() <= stream)
        at.resize(stream + 1);
    at[stream] = std::max(at[stream], sequence);
}

bool order_clock::covers(uint32_t stream, uint64_t sequence) const
{
    return stream < at.size() && at[stream] >= sequence;
}

static bool comes_before(const op &a, const op &b)
{
    if (!a.launch)
        return b.clock.covers(a.stream, a.sequence);
    if (a.launch == b.launch)
        return (*a.launch->before)[a.node][b.node];
    return a.launch->end_sequence != 0 && b.clock.covers(a.launch->stream, a.launch->end_sequence);
}

static bool host_knows(const op &o)
{
    const order_clock &host = work().host;
    if (o.launch)
        return o.launch->end_sequence != 0 && host.covers(o.launch->stream, o.launch->end_sequence);
    return host.covers(o.stream, o.sequence);
}

static bool touch(const span &a, const span &b)
{
    return (a.write || b.write) && a.address < b.address + b.bytes && b.address < a.address + a.bytes;
}

static const span *find_conflict(const op &a, const op &b)
{
    for (const span &x : a.what.spans)
        for (const span &y : b.what.spans)
            if (touch(x, y))
                return &x;
    return nullptr;
}

static void check_races(const op &o)
{
    for (const op_ref &other : work().history) {
        if (other.get() == &o || comes_before(*other, o))
            continue;
        if (const span *s = find_conflict(*other, o))
            misuse("stream-race", "%s and %s both touch 0x%llx, and nothing puts one before the other",
                   other->what.what.c_str(), o.what.what.c_str(), (unsigned long long)s->address);
    }
}

/* Whatever is submitted from now on comes after what the program knows; what was submitted before may still run. */
static void forget_history()
{
    work_state &w = work();
    uint64_t oldest = w.tick + 1;
    for (const op_ref &o : w.pending)
        oldest = std::min(oldest, o->tick);
    auto gone = [&](const op_ref &o) { return o->known && o->known_tick < oldest; };
    w.history.erase(std::remove_if(w.history.begin(), w.history.end(), gone), w.history.end());
}

bool work_touches(uint64_t address, uint64_t bytes, std::string *what)
{
    span s = {address, bytes, true};
    for (const op_ref &o : work().unknown)
        for (const span &other : o->what.spans)
            if (touch(s, other)) {
                *what = o->what.what;
                return true;
            }
    return false;
}

/* --- what the program may not do to pinned memory meanwhile --------------------------------------------------------------- */

static uint64_t hash_of(const uint8_t *bytes, uint64_t n)
{
    uint64_t h[4] = {1, 2, 3, 4}, word[4];
    uint64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        memcpy(word, bytes + i, 32);
        for (int k = 0; k < 4; k++)
            h[k] = (h[k] ^ word[k]) * 0x9e3779b97f4a7c15ull + (h[k] >> 32);
    }
    for (; i < n; i++)
        h[i & 3] = (h[i & 3] ^ bytes[i]) * 0x9e3779b97f4a7c15ull;
    return h[0] ^ (h[1] << 1) ^ (h[2] << 2) ^ (h[3] << 3);
}

static uint8_t *host_place(uint64_t address, bool is_pinned)
{
    return is_pinned ? memory_pinned_alias(address) : (uint8_t *)address;
}

static void guard_begin(op &o)
{
    const job &j = o.what;
    if (j.kind != job_kind::copy)
        return;
    if (j.target_host && j.target_pinned)
        memory_protect(j.target, j.bytes);
    if (j.source_host && j.source_pinned && memory_pinned_alias(j.source))
        o.source_hash = hash_of(memory_pinned_alias(j.source), j.bytes);
}

static void guard_end(op &o)
{
    const job &j = o.what;
    if (j.kind != job_kind::copy)
        return;
    if (j.target_host && j.target_pinned)
        memory_unprotect(j.target, j.bytes);
    const uint8_t *source = j.source_host && j.source_pinned ? memory_pinned_alias(j.source) : nullptr;
    if (source && !o.source_open && memory_host_kind(j.source, j.bytes) == host_kind::pinned &&
        hash_of(source, j.bytes) != o.source_hash)
        misuse("pinned-source-changed", "the source of %s changed before the program had waited for it",
               j.what.c_str());
}

/* Pinned memory was written by what runs in streams: copies from it that wait may find it so. */
static void sources_written(const span &s)
{
    for (const op_ref &o : work().unknown)
        if (o->what.kind == job_kind::copy && o->what.source_host && touch(s, {o->what.source, o->what.bytes, false}))
            o->source_open = true;
}

/* What the host's clock covers is known to have ended. */
static void learn_by_clock()
{
    work_state &w = work();
    auto learn = [&](const op_ref &o) {
        if (!host_knows(*o))
            return false;
        o->known = true;
        o->known_tick = w.tick;
        guard_end(*o);
        return true;
    };
    w.unknown.erase(std::remove_if(w.unknown.begin(), w.unknown.end(), learn), w.unknown.end());
    forget_history();
}

static void host_learns(const op &target)
{
    work_state &w = work();
    w.host.join(target.clock);
    if (target.launch)
        return;
    w.host.set(target.stream, target.sequence);
    learn_by_clock();
}

/* --- running --------------------------------------------------------------------------------------------------------------- */

uint64_t work_random()
{
    uint64_t &x = work().random;
    x += 0x9e3779b97f4a7c15ull;
    uint64_t z = x;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

CUresult work_fault()
{
    return work().fault;
}

void work_set_fault(CUresult code)
{
    if (work().fault == CUDA_SUCCESS)
        work().fault = code;
}

/* Calls fn with the pieces of device memory that make up the range; a hole is a fault that ends the context. */
static bool each_piece(uint64_t address, uint64_t bytes, bool write, const std::string &what,
                       const std::function<void(uint8_t *, uint64_t)> &fn)
{
    while (bytes > 0) {
        place p = memory_place(address, write);
        if (!p.host) {
            memory_report("illegal-address", p.why, what);
            work_set_fault(CUDA_ERROR_ILLEGAL_ADDRESS);
            return false;
        }
        uint64_t n = std::min(bytes, p.bytes);
        fn(p.host, n);
        address += n;
        bytes -= n;
    }
    return true;
}

void *emu_resolve(uint64_t address, uint64_t bytes, bool write)
{
    place p = memory_place(address, write);
    if (p.host && p.bytes >= bytes)
        return p.host;
    std::string why = p.host
                          ? text_of("out-of-bounds: %llu bytes from 0x%llx, where %llu are", (unsigned long long)bytes,
                                    (unsigned long long)address, (unsigned long long)p.bytes)
                          : p.why;
    memory_report("illegal-address", why, "a library's matrix");
    work_set_fault(CUDA_ERROR_ILLEGAL_ADDRESS);
    return nullptr;
}

static void copy_out(const job &j, uint8_t *to)
{
    auto out = [&](uint8_t *from, uint64_t n) {
        memcpy(to, from, n);
        to += n;
    };
    each_piece(j.source, j.bytes, false, j.what, out);
}

static void copy_in(const job &j, const uint8_t *from)
{
    auto in = [&](uint8_t *to, uint64_t n) {
        memcpy(to, from, n);
        from += n;
    };
    if (each_piece(j.target, j.bytes, true, j.what, in) && memory_is_device(j.target))
        work_machine()->host_wrote(j.target, j.bytes);
}

static void run_copy(const job &j)
{
    if (j.target_host) {
        copy_out(j, host_place(j.target, j.target_pinned));
        sources_written({j.target, j.bytes, true});
        return;
    }
    if (j.source_host) {
        copy_in(j, j.staged ? j.staged->data() : host_place(j.source, j.source_pinned));
        return;
    }
    std::vector<uint8_t> bytes(j.bytes);
    copy_out(j, bytes.data());
    if (work().fault == CUDA_SUCCESS)
        copy_in(j, bytes.data());
}

static void run_fill(const job &j)
{
    uint64_t at = 0;
    auto fill = [&](uint8_t *to, uint64_t n) {
        for (uint64_t i = 0; i < n; i++, at++)
            to[i] = (uint8_t)(j.pattern >> 8 * (at % j.pattern_bytes));
    };
    if (each_piece(j.target, j.bytes, true, j.what, fill) && memory_is_device(j.target))
        work_machine()->host_wrote(j.target, j.bytes);
}

static void run_library(const job &j)
{
    j.run(j.argument.get());
    for (const span &s : j.spans)
        if (s.write && work().fault == CUDA_SUCCESS)
            work_machine()->host_wrote(s.address, s.bytes);
}

static double run_kernel(op &o)
{
    work_state &w = work();
    double ns = 0;
    w.running_kernel = &o;
    w.touched_pinned.clear();
    memory_host_wrote_pinned(work_machine());
    work_set_fault(kernel_run(o.what, &ns));
    w.running_kernel = nullptr;
    for (const span &s : w.touched_pinned)
        sources_written(s);
    return ns;
}

/* It is the host's own code, called when all before it has ended: what it sees of that is no accident, and what it writes is
 * in order for what comes after. */
static void run_host(const op &o)
{
    work().host.join(o.clock);
    learn_by_clock();
    for (const op_ref &later : work().unknown)
        if (comes_before(o, *later))
            later->source_open = true;
    CUhostFn fn = o.what.host_function;
    void *data = o.what.host_data;
    run_unlocked([&] { fn(data); });
}

/* -> how long it keeps its resource, in ns. */
static double run_job(op &o)
{
    const job &j = o.what;
    double ns = 0;
    switch (j.kind) {
    case job_kind::marker:
        break;
    case job_kind::kernel:
        ns = run_kernel(o);
        break;
    case job_kind::copy:
        run_copy(j);
        ns = j.link == LINK_COMPUTE ? (double)j.bytes * settings().scale / 700 : link_ns(j.bytes);
        break;
    case job_kind::fill:
        run_fill(j);
        ns = (double)j.bytes * settings().scale / 1400;
        break;
    case job_kind::library:
        run_library(j);
        ns = 3000 + (double)j.flops * settings().scale / 200e3;
        break;
    case job_kind::host:
        run_host(o);
        break;
    }
    return ns;
}

static void run_one(const op_ref &o)
{
    work_state &w = work();
    o->state = op::RUNNING;
    double from = o->ready_ns, ns = 0;
    for (const op_ref &before : o->after)
        from = std::max(from, before->end_ns);
    if (w.fault == CUDA_SUCCESS)
        ns = run_job(*o);
    if (o->what.kind == job_kind::kernel)
        clock_launch(from);
    o->end_ns = o->what.link == LINK_NONE ? from : link_take(o->what.link, from, ns, o->what.bytes);
    o->state = op::DONE;
    o->what.staged.reset();
    o->after.clear();
    for (op *n : o->next)
        n->n_waiting--;
    o->next.clear();
    w.pending.erase(std::find(w.pending.begin(), w.pending.end(), o));
    lock_wake();
}

static void run_or_wait(const op_ref &o)
{
    while (o->state == op::RUNNING)
        lock_wait();
    if (o->state == op::PENDING)
        run_one(o);
}

/* One node of a graph launch that could run now, any of them. */
static bool run_batch(op &end)
{
    std::vector<op_ref> ready;
    for (const op_ref &o : end.batch)
        if (o->state == op::PENDING && o->n_waiting == 0)
            ready.push_back(o);
    if (ready.empty())
        return false;
    run_one(ready[work_random() % ready.size()]);
    return true;
}

/* What the target needs, and the target: in an order that an explicit stack finds, since streams can be long. */
static void run_needed(const op_ref &target)
{
    std::vector<op_ref> stack = {target};
    while (!stack.empty()) {
        op_ref o = stack.back();
        auto missing =
            std::find_if(o->after.begin(), o->after.end(), [](const op_ref &b) { return b->state != op::DONE; });
        if (o->state != op::PENDING || missing == o->after.end()) {
            stack.pop_back();
            run_or_wait(o);
        } else if (!run_batch(*o)) {
            stack.push_back(*missing);
        }
    }
}

static bool run_some_ready()
{
    work_state &w = work();
    std::vector<op_ref> ready;
    for (const op_ref &o : w.pending)
        if (o->state == op::PENDING && o->n_waiting == 0)
            ready.push_back(o);
    if (ready.empty())
        return false;
    run_one(ready[work_random() % ready.size()]);
    return true;
}

static void run_until(const op_ref &target)
{
    while (settings().random_order && target->state == op::PENDING && run_some_ready()) {
    }
    run_needed(target);
}

CUresult work_wait(const op_ref &target)
{
    if (target) {
        run_until(target);
        host_learns(*target);
        clock_synchronised(target->end_ns);
    }
    return work().fault;
}

void work_finish()
{
    work_run_all();
    /* Nothing is left that could race with what comes now. */
    work().history.clear();
}

void work_run_all()
{
    while (!work().pending.empty()) {
        op_ref o = work().pending[settings().random_order ? work_random() % work().pending.size() : 0];
        run_until(o);
    }
}

CUresult work_wait_all()
{
    work_run_all();
    for (CUstream s : streams_all())
        work_wait(s->tail);
    return work_wait(stream_legacy()->tail);
}

/* A host function may be all that another thread waits for: it runs some time, whether or not the driver is called again. */
static void helper_run()
{
    for (;;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        lock_enter();
        for (size_t i = 0; i < work().pending.size(); i++) {
            op_ref o = work().pending[i];
            if (o->what.kind == job_kind::host && o->state == op::PENDING) {
                run_needed(o);
                break;
            }
        }
        lock_leave();
    }
}

static void helper_start()
{
    if (!work().helper_started)
        std::thread(helper_run).detach();
    work().helper_started = true;
}

ptx_machine *work_machine()
{
    struct memory : ptx_memory {
        bool find(uint64_t address, ptx_range *out, std::string *why) override
        {
            span block;
            if (memory_pinned_block(address, &block))
                work().touched_pinned.push_back(block);
            return memory_find(address, out, why) && work_cut_hazards(address, out, why);
        }
    };
    work_state &w = work();
    if (!w.machine) {
        ptx_options options;
        options.seed = settings().seed;
        options.preempt = settings().random_order;
        options.jitter_ulps = settings().jitter_ulps;
        options.budget = settings().budget;
        w.machine = new ptx_machine(new memory, options);
    }
    return w.machine;
}

bool work_cut_hazards(uint64_t address, ptx_range *range, std::string *why)
{
    const op *kernel = work().running_kernel;
    for (const op_ref &o : work().history) {
        if (!kernel || o->what.kind == job_kind::kernel || comes_before(*o, *kernel) || comes_before(*kernel, *o))
            continue;
        for (const span &s : o->what.spans) {
            uint64_t end = s.address + s.bytes;
            if (address >= s.address && address < end) {
                if (s.write) {
                    *why = text_of("stream-race: 0x%llx is written by %s, and nothing puts one before the other",
                                   (unsigned long long)address, o->what.what.c_str());
                    return false;
                }
                range->writable = false;
                range->host += std::max(range->begin, s.address) - range->begin;
                range->begin = std::max(range->begin, s.address);
                range->end = std::min(range->end, end);
            } else if (s.address > address) {
                range->end = std::min(range->end, s.address);
            } else if (end > range->begin) {
                range->host += end - range->begin;
                range->begin = end;
            }
        }
    }
    return true;
}

/* --- submitting ------------------------------------------------------------------------------------------------------------ */

static void add_before(op &o, const op_ref &before)
{
    if (!before)
        return;
    o.clock.join(before->clock);
    if (before->launch)
        return; /* nodes are told apart by their launch */
    o.clock.set(before->stream, before->sequence);
}

static void depend(const op_ref &o, const op_ref &before)
{
    if (!before)
        return;
    add_before(*o, before);
    o->ready_ns = std::max(o->ready_ns, before->state == op::DONE ? before->end_ns : 0);
    if (before->state == op::DONE)
        return;
    o->after.push_back(before);
    before->next.push_back(o.get());
    o->n_waiting++;
}

static void enter_books(const op_ref &o)
{
    work_state &w = work();
    o->tick = ++w.tick;
    o->ready_ns = std::max(o->ready_ns, thread_now());
    check_races(*o);
    w.pending.push_back(o);
    w.unknown.push_back(o);
    if (!o->what.spans.empty())
        w.history.push_back(o);
    guard_begin(*o);
    if (o->what.kind == job_kind::host)
        helper_start();
}

void work_run_now_and_then()
{
    while (settings().random_order && work_random() % 3 == 0 && run_some_ready()) {
    }
}

op_ref work_push(CUstream stream, job &&j, const std::vector<op_ref> &more_after)
{
    work_state &w = work();
    auto o = std::make_shared<op>();
    o->what = std::move(j);
    o->stream = stream->id;
    o->clock.join(w.host);
    depend(o, stream->tail);
    if (stream->legacy) {
        for (CUstream s : streams_all())
            if (s->blocking)
                depend(o, s->tail);
    } else if (stream->blocking) {
        depend(o, stream_legacy()->tail);
    }
    for (const op_ref &before : more_after)
        depend(o, before);
    o->sequence = ++stream->sequence;
    enter_books(o);
    stream->tail = o;
    work_run_now_and_then();
    return o;
}

op_ref work_push_node(CUstream stream, const job &j, const std::vector<op_ref> &after, const order_clock &clock,
                      const std::shared_ptr<launch_order> &launch, size_t node)
{
    auto o = std::make_shared<op>();
    o->what = j;
    o->stream = stream->id;
    o->clock = clock;
    o->launch = launch;
    o->node = node;
    for (const op_ref &before : after)
        depend(o, before);
    enter_books(o);
    return o;
}

CUresult work_submit(CUstream stream, job &&j, op_ref *out)
{
    CUresult rc = capture_refuse_legacy(stream, j.what.c_str());
    if (rc != CUDA_SUCCESS)
        return rc;
    if (capture_active(stream))
        return capture_add(stream, std::move(j));
    op_ref o = work_push(stream, std::move(j), {});
    if (out)
        *out = o;
    return CUDA_SUCCESS; /* what goes wrong in it is for later calls to tell */
}

static void add_spans(std::vector<span> *out, const emu_span &s)
{
    if (s.stride == s.bytes) {
        out->push_back({s.address, s.bytes * s.rows, s.write});
        return;
    }
    for (uint32_t row = 0; row < s.rows; row++)
        out->push_back({s.address + row * s.stride, s.bytes, s.write});
}

int emu_enqueue(void *handle, const struct emu_work *from)
{
    std::shared_ptr<void> argument(from->argument, from->free);
    lock_enter();
    CUstream stream;
    CUresult rc = stream_of((CUstream)handle, &stream);
    if (rc == CUDA_SUCCESS && (rc = work().fault) == CUDA_SUCCESS) {
        job j;
        j.kind = job_kind::library;
        j.what = from->name;
        j.link = LINK_COMPUTE;
        j.run = from->run;
        j.argument = argument;
        j.flops = from->flops;
        for (size_t i = 0; i < from->n_spans; i++)
            add_spans(&j.spans, from->spans[i]);
        rc = work_submit(stream, std::move(j));
    }
    lock_leave();
    return rc;
}

CUresult work_write_now(job &&j, const void *from)
{
    static CUstream_st *nobodys = [] {
        auto *s = kept(new CUstream_st);
        s->id = stream_new_id();
        return s;
    }();
    work_state &w = work();
    auto o = std::make_shared<op>();
    o->what = std::move(j);
    o->clock = w.host;
    o->stream = nobodys->id;
    o->sequence = ++nobodys->sequence;
    o->tick = ++w.tick;
    check_races(*o);
    copy_in(o->what, (const uint8_t *)from);
    /* Done, and known to be: what comes after it is submitted later; what was submitted and has not run may race with it. */
    o->state = op::DONE;
    w.host.set(o->stream, o->sequence);
    o->known = true;
    o->known_tick = w.tick;
    w.history.push_back(o);
    return w.fault;
}
