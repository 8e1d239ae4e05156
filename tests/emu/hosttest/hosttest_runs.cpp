/* Whole runs, looked at from outside: settings, records, failing on request, virtual time. */
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <thread>
#include <unistd.h>

#include "hosttest.h"

constexpr uint32_t N = 256;
constexpr size_t MIB = 1 << 20;

static std::string shared_file(const char *name)
{
    return std::string(getenv("HOSTTEST_FOLDER")) + "/" + name;
}

/* --- programs -------------------------------------------------------------------------------------------------------------- */

/* A few calls of every kind; ends at the first that fails, after giving back what it has. */
static std::string small_work()
{
    CUcontext context;
    CUmodule module = nullptr;
    CUfunction function;
    CUdeviceptr memory = 0;
    CUstream stream = nullptr;
    uint32_t words[N] = {}, value = 3, n = N;
    CUresult rc = cuInit(0);
    if (rc != CUDA_SUCCESS || (rc = cuDevicePrimaryCtxRetain(&context, 0)) != CUDA_SUCCESS)
        return "failed " + std::to_string(rc) + "\n";
    void *params[] = {&memory, &value, &n};
    (rc = cuCtxSetCurrent(context)) || (rc = cuModuleLoadData(&module, HOSTTEST_PTX)) ||
        (rc = cuModuleGetFunction(&function, module, "fill")) || (rc = cuMemAlloc(&memory, sizeof words)) ||
        (rc = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)) ||
        (rc = cuLaunchKernel(function, N / 64, 1, 1, 64, 1, 1, 0, stream, params, nullptr)) ||
        (rc = cuMemcpyDtoHAsync(words, memory, sizeof words, stream)) || (rc = cuStreamSynchronize(stream));
    if (stream)
        cuStreamDestroy(stream);
    if (memory)
        cuMemFree(memory);
    if (module)
        cuModuleUnload(module);
    cuDevicePrimaryCtxRelease(0);
    if (rc != CUDA_SUCCESS)
        return "failed " + std::to_string(rc) + "\n";
    return words[N - 1] == 3 ? "" : "filled with " + std::to_string(words[N - 1]) + "\n";
}

static std::string misuse_once()
{
    fixture f;
    CUdeviceptr p;
    return cuMemAlloc(&p, 0) == CUDA_ERROR_INVALID_VALUE ? "" : "an allocation of nothing succeeded";
}

static std::string write_image()
{
    fixture f;
    CUlinkState link;
    void *cubin;
    size_t bytes;
    OK(cuLinkCreate(0, nullptr, nullptr, &link));
    OK(cuLinkAddData(link, CU_JIT_INPUT_PTX, (void *)HOSTTEST_PTX, strlen(HOSTTEST_PTX), "hosttest", 0, nullptr,
                     nullptr));
    OK(cuLinkComplete(link, &cubin, &bytes));
    FILE *file = fopen(shared_file("image").c_str(), "we");
    CHECK(file && fwrite(cubin, 1, bytes, file) == bytes);
    fclose(file);
    OK(cuLinkDestroy(link));
    return "";
}

static std::string load_image()
{
    fixture f;
    CUmodule module;
    std::string image = hosttest_read(shared_file("image"));
    CUresult rc = cuModuleLoadData(&module, image.data());
    if (rc == CUDA_SUCCESS)
        OK(cuModuleUnload(module));
    return rc == CUDA_SUCCESS ? "" : std::to_string(rc);
}

/* Chunks from a file through a ring of two pinned buffers to the device: a reading thread, an uploading one. */
struct ring {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<int> free, full;
};

static int take(ring &r, std::deque<int> &from)
{
    std::unique_lock<std::mutex> held(r.lock);
    r.changed.wait(held, [&] { return !from.empty(); });
    int got = from.front();
    from.pop_front();
    return got;
}

static void put(ring &r, std::deque<int> &to, int i)
{
    std::lock_guard<std::mutex> held(r.lock);
    to.push_back(i);
    r.changed.notify_all();
}

constexpr int N_CHUNKS = 8;

static std::string pipeline()
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(N_CHUNKS * MIB);
    uint32_t *buffers[2] = {f.pinned(MIB / 4), f.pinned(MIB / 4)};
    CUevent done[2] = {f.event(), f.event()};
    int fd = open(shared_file("chunks.snap").c_str(), O_RDONLY);
    CHECK(fd >= 0);
    ring r;
    r.free = {0, 1};
    std::thread reader([&] {
        for (int i = 0; i < N_CHUNKS; i++) {
            int b = take(r, r.free);
            CHECK(pread(fd, buffers[b], MIB, (off_t)(i * MIB)) == (ssize_t)MIB);
            put(r, r.full, b);
        }
    });
    int before = -1;
    for (int i = 0; i < N_CHUNKS; i++) {
        int b = take(r, r.full);
        OK(cuMemcpyHtoDAsync(memory + i * MIB, buffers[b], MIB, s));
        OK(cuEventRecord(done[b], s));
        if (before >= 0) {
            OK(cuEventSynchronize(done[before]));
            put(r, r.free, before);
        }
        before = b;
    }
    OK(cuStreamSynchronize(s));
    reader.join();
    close(fd);
    CHECK(f.words(memory + 7 * MIB, 1)[0] == 7);
    return "";
}

/* A read that was announced goes on while the program waits for a copy. */
static std::string announced()
{
    fixture f;
    CUdeviceptr memory = f.alloc(8 * MIB);
    std::vector<uint8_t> bytes(8 * MIB);
    int fd = open(shared_file("chunks.snap").c_str(), O_RDONLY);
    CHECK(fd >= 0 && posix_fadvise(fd, 0, 4 * MIB, POSIX_FADV_WILLNEED) == 0);
    OK(cuMemcpyHtoD(memory, bytes.data(), 8 * MIB));
    CHECK(pread(fd, bytes.data(), 4 * MIB, 0) == (ssize_t)(4 * MIB));
    CHECK(pread(fd, bytes.data(), 4 * MIB, 0) == (ssize_t)(4 * MIB));
    close(fd);
    return "";
}

/* Two readers share one disk; who joins them is as late as the later one. */
static std::string readers()
{
    fixture f;
    int fd = open(shared_file("chunks.snap").c_str(), O_RDONLY);
    std::vector<std::thread> all;
    for (int i = 0; i < 2; i++)
        all.emplace_back([fd, i] {
            std::vector<uint8_t> bytes(2 * MIB);
            CHECK(pread(fd, bytes.data(), 2 * MIB, (off_t)(2 * i * MIB)) == (ssize_t)(2 * MIB));
        });
    for (std::thread &t : all)
        t.join();
    close(fd);
    return "";
}

/* A file is read into pinned memory that a copy still fills: the system sees that it cannot. */
static std::string early_read()
{
    fixture f;
    CUstream s = f.stream();
    CUdeviceptr memory = f.alloc(4096);
    uint32_t *host = f.pinned(1024);
    int fd = open(shared_file("chunks.snap").c_str(), O_RDONLY);
    f.fill(memory, 3, 1024, s);
    OK(cuMemcpyDtoHAsync(host, memory, 4096, s));
    CHECK(pread(fd, host, 4096, 0) == -1 && errno == EFAULT);
    OK(cuStreamSynchronize(s));
    CHECK(pread(fd, host, 4096, MIB) == 4096 && host[0] == 1);
    close(fd);
    return "";
}

std::string hosttest_program(const std::string &name)
{
    if (name == "early_read")
        return early_read();
    if (name == "small_work")
        return small_work();
    if (name == "misuse_once")
        return misuse_once();
    if (name == "write_image")
        return write_image();
    if (name == "load_image")
        return load_image();
    if (name == "pipeline")
        return pipeline();
    if (name == "announced")
        return announced();
    if (name == "direct_read")
        return hosttest_direct_read();
    return name == "readers" ? readers() : "no such program";
}

/* --- looking at them ----------------------------------------------------------------------------------------------------------- */

static std::string wrong_status(const char *what, int got, int wanted)
{
    return got == wanted
               ? ""
               : std::string(what) + ": status " + std::to_string(got) + ", not " + std::to_string(wanted) + "; ";
}

static int spawn_quiet(const char *program, std::vector<std::string> settings)
{
    settings.push_back("EMU_LOG=" + shared_file("log"));
    int null = open("/dev/null", O_WRONLY), kept = dup(2);
    dup2(null, 2); /* what the programs say of failures that were asked for */
    int status = hosttest_spawn({"program", program}, settings);
    dup2(kept, 2);
    close(kept);
    close(null);
    return status;
}

static std::string strictness()
{
    std::string wrong = wrong_status("lenient", spawn_quiet("misuse_once", {}), 0);
    wrong += wrong_status("strict", spawn_quiet("misuse_once", {"EMU_STRICT=1"}), 99);
    wrong += wrong_status("a setting that is none", spawn_quiet("misuse_once", {"EMU_ORDER=fair"}), 2);
    wrong += wrong_status("a record that cannot be written",
                          spawn_quiet("small_work", {"EMU_STRICT=1", "EMU_CLOCK=/nowhere/x"}), 99);
    bool said = hosttest_read(shared_file("log")).find("emu: settings: EMU_CLOCK=/nowhere/x: No such file") !=
                std::string::npos;
    return wrong + (said ? "" : "the record that cannot be written is not reported");
}

static int count_lines(const std::string &text)
{
    int n = 0;
    for (char c : text)
        n += c == '\n';
    return n;
}

/* Every call is counted, and each of them can be made to fail: the program says so, and nothing is reported, for it did nothing
 * wrong. */
static std::string failing_calls()
{
    std::string list = shared_file("calls"), log = shared_file("log"), wrong;
    wrong = wrong_status("without failure", spawn_quiet("small_work", {"EMU_STRICT=1", "EMU_CALLS=" + list}), 0);
    std::string calls = hosttest_read(list);
    int n = count_lines(calls);
    if (n != 14 || calls.find("\n6 cuMemAlloc_v2\n") == std::string::npos)
        return wrong + "list of calls: " + calls;
    for (int i = 1; i <= n; i++)
        for (int code : {2, 700, 999}) {
            bool cleaning = i > 10; /* failures of these are not looked at */
            wrong += wrong_status(("call " + std::to_string(i)).c_str(),
                                  spawn_quiet("small_work", {"EMU_STRICT=1", "EMU_FAIL=" + std::to_string(i) + ":" +
                                                                                 std::to_string(code)}),
                                  cleaning ? 0 : 1);
        }
    wrong += wrong_status("by name", spawn_quiet("small_work", {"EMU_FAIL_NAME=cuLaunchKernel:1:719"}), 1);
    wrong +=
        wrong_status("by name, never reached", spawn_quiet("small_work", {"EMU_FAIL_NAME=cuLaunchKernel:2:719"}), 0);
    return wrong;
}

static std::string substituted_ptx()
{
    std::string text = HOSTTEST_PTX, path = shared_file("other.ptx");
    text.replace(text.find("st.global.u32 [%rd4], %r1"), 25, "st.global.u32 [%rd4], %r2");
    FILE *f = fopen(path.c_str(), "we");
    CHECK(f && fwrite(text.data(), 1, text.size(), f) == text.size());
    fclose(f);
    return wrong_status("a mutant", spawn_quiet("small_work", {"EMU_PTX=" + path}), 1);
}

static std::string records()
{
    std::string coverage = shared_file("coverage"), counters = shared_file("counters");
    std::string wrong =
        wrong_status("run", spawn_quiet("small_work", {"EMU_COVERAGE=" + coverage, "EMU_COUNTERS=" + counters}), 0);
    std::string covered = hosttest_read(coverage), counted = hosttest_read(counters);
    if (count_lines(covered) != 1 || covered.find("{\"kernel\": \"fill\", \"instructions\": [[") != 0 ||
        covered.find("st.global.u32") == std::string::npos)
        wrong += "coverage: " + covered;
    if (count_lines(counted) != 1 ||
        counted.find("\"kernel\": \"fill\", \"launches\": 1, \"blocks\": 4,") == std::string::npos ||
        counted.find("\"global_store_bytes\": 1024,") == std::string::npos)
        wrong += "counters: " + counted;
    return wrong;
}

static std::string images()
{
    std::string wrong = wrong_status("linking", spawn_quiet("write_image", {"EMU_CC=8.9"}), 0);
    wrong += wrong_status("the same card", spawn_quiet("load_image", {"EMU_CC=8.9"}), 0);
    return wrong + wrong_status("another card", spawn_quiet("load_image", {"EMU_CC=9.0"}), 1);
}

/* --- virtual time ----------------------------------------------------------------------------------------------------------------- */

static void write_chunks()
{
    FILE *f = fopen(shared_file("chunks.snap").c_str(), "we");
    CHECK(f);
    std::vector<uint32_t> words(MIB / 4);
    for (uint32_t i = 0; i < N_CHUNKS; i++) {
        words.assign(MIB / 4, i);
        CHECK(fwrite(words.data(), 1, MIB, f) == MIB);
    }
    fclose(f);
}

static double field(const std::string &json, const char *name)
{
    size_t at = json.find(std::string("\"") + name + "\": ");
    return at == std::string::npos ? -1 : atof(json.c_str() + at + strlen(name) + 4);
}

static std::string timed(const char *program, std::vector<std::string> settings, std::string *json)
{
    write_chunks();
    std::string clock = shared_file("clock");
    Dl_info library;
    CHECK(dladdr((void *)cuInit, &library));
    settings.insert(settings.end(), {"EMU_STRICT=1", std::string("LD_PRELOAD=") + library.dli_fname,
                                     "EMU_CLOCK=" + clock, "EMU_DISK_FILES=*.snap", "EMU_LINK_LATENCY_US=0"});
    std::string wrong = wrong_status(program, spawn_quiet(program, settings), 0);
    *json = hosttest_read(clock);
    return wrong.empty() ? "" : wrong + hosttest_read(shared_file("log"));
}

static std::string expect_us(const std::string &json, const char *name, double wanted)
{
    double got = field(json, name);
    return std::fabs(got - wanted) < 0.01
               ? ""
               : std::string(name) + " " + std::to_string(got) + ", not " + std::to_string(wanted) + "; ";
}

/* A chunk takes d on the disk and l on the link; whichever is slower decides, and the other shows once. The first word read
 * back at the end takes 4 bytes' time. */
static std::string pipeline_time(const char *disk, const char *link, double d, double l)
{
    std::string json,
        wrong = timed("pipeline", {std::string("EMU_DISK_GBPS=") + disk, std::string("EMU_LINK_GBPS=") + link}, &json);
    double total = d > l ? N_CHUNKS * d + l : d + N_CHUNKS * l, word = l / (double)MIB * 4;
    return wrong + expect_us(json, "synchronised_us", total + word) + expect_us(json, "main_us", total + word) +
           expect_us(json, "disk_busy_us", N_CHUNKS * d) + expect_us(json, "link_in_busy_us", N_CHUNKS * l) +
           (field(json, "disk_bytes") == 8 * MIB && field(json, "pinned_peak_bytes") == 2 * MIB ? ""
                                                                                                : "bytes: " + json);
}

static std::string disk_bound()
{
    return pipeline_time("1", "2", 1048.576, 524.288);
}

static std::string link_bound()
{
    return pipeline_time("4", "1", 262.144, 1048.576);
}

static std::string scaled()
{
    std::string json,
        wrong =
            timed("pipeline",
                  {"EMU_DISK_GBPS=1", "EMU_LINK_GBPS=2", "EMU_SCALE=1000", "EMU_INIT_MS=500", "EMU_PIN_MS_PER_GB=1000"},
                  &json);
    return wrong + expect_us(json, "disk_busy_us", 8388608) +
           expect_us(json, "synchronised_us", 500000 + 2 * 1048.576 + 8388608 + 524288 + 2);
}

static std::string read_ahead()
{
    std::string json, wrong = timed("announced", {"EMU_DISK_GBPS=1", "EMU_LINK_GBPS=1"}, &json);
    return wrong + expect_us(json, "main_us", 8388.608) + expect_us(json, "disk_busy_us", 4194.304);
}

static std::string shared_disk()
{
    std::string json, wrong = timed("readers", {"EMU_DISK_GBPS=1"}, &json);
    return wrong + expect_us(json, "main_us", 4194.304) + expect_us(json, "disk_busy_us", 4194.304);
}

static std::string read_into_flight()
{
    std::string json, wrong = timed("early_read", {"EMU_STRICT=1"}, &json);
    return wrong.find("status 99") != std::string::npos && wrong.find("emu: pinned-write-early: ") != std::string::npos
               ? ""
               : "not reported: " + wrong;
}

static std::string direct_disk()
{
    std::string json, wrong = timed("direct_read", {"EMU_DISK_GBPS=1", "EMU_LINK_GBPS=4"}, &json);
    return wrong + expect_us(json, "main_us", 2097.152) + expect_us(json, "link_in_busy_us", 524.288);
}

static std::string direct_link()
{
    std::string json, wrong = timed("direct_read", {"EMU_DISK_GBPS=4", "EMU_LINK_GBPS=1"}, &json);
    return wrong + expect_us(json, "main_us", 2097.152) + expect_us(json, "disk_busy_us", 524.288);
}

const std::vector<hosttest_outside> hosttest_runs = {
    {"strictness", strictness},
    {"failing calls", failing_calls},
    {"substituted PTX", substituted_ptx},
    {"coverage and counters", records},
    {"images are for one card", images},
    {"pipeline bound by the disk", disk_bound},
    {"pipeline bound by the link", link_bound},
    {"scaled time", scaled},
    {"announced reads", read_ahead},
    {"readers share the disk", shared_disk},
    {"file read into what is in flight", read_into_flight},
    {"direct read bound by the disk", direct_disk},
    {"direct read bound by the link", direct_link},
};
