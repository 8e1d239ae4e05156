/* Runs every case of the tables, or the one that is named; prints "N passed, N failed". */
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hosttest.h"

/* --- what cases stand on ---------------------------------------------------------------------------------------------- */

const char HOSTTEST_PTX[] = R"(
.version 7.8
.target sm_80
.address_size 64

.visible .global .align 4 .u32 counted[2] = {11, 22};

.visible .entry read_counted(.param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [to];
    cvta.to.global.u64 %rd2, %rd1;
    ld.global.u32 %r1, [counted+4];
    st.global.u32 [%rd2], %r1;
    ret;
}

.visible .entry fill(.param .u64 to, .param .u32 value, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r2;
    @%p1 bra $L_end;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r1;
$L_end:
    ret;
}

.visible .entry add_one(.param .u64 to, .param .u64 from, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [to];
    ld.param.u64 %rd2, [from];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra $L_end;
    cvta.to.global.u64 %rd3, %rd1;
    cvta.to.global.u64 %rd4, %rd2;
    mul.wide.u32 %rd5, %r5, 4;
    add.s64 %rd6, %rd4, %rd5;
    ld.global.u32 %r6, [%rd6];
    add.s32 %r7, %r6, 1;
    add.s64 %rd7, %rd3, %rd5;
    st.global.u32 [%rd7], %r7;
$L_end:
    ret;
}

.visible .entry limited(.param .u64 to)
.maxntid 64, 1, 1
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [to];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, 1;
    st.global.u32 [%rd2], %r1;
    ret;
}
)";

fixture::fixture()
{
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, HOSTTEST_PTX));
    OK(cuModuleGetFunction(&f_fill, module, "fill"));
    OK(cuModuleGetFunction(&f_add_one, module, "add_one"));
    OK(cuModuleGetFunction(&f_limited, module, "limited"));
}

/* After a fault nothing can be given back, and nobody asks for it. */
fixture::~fixture()
{
    for (CUevent e : events)
        cuEventDestroy(e);
    for (CUstream s : streams)
        cuStreamDestroy(s);
    for (void *p : host)
        cuMemFreeHost(p);
    for (CUdeviceptr p : device)
        cuMemFree(p);
    cuModuleUnload(module);
    cuDevicePrimaryCtxRelease(0);
}

CUdeviceptr fixture::alloc(size_t bytes)
{
    CUdeviceptr p;
    OK(cuMemAlloc(&p, bytes));
    device.push_back(p);
    return p;
}

uint32_t *fixture::pinned(size_t n_words)
{
    void *p;
    OK(cuMemHostAlloc(&p, n_words * 4, 0));
    host.push_back(p);
    for (size_t i = 0; i < n_words; i++)
        ((uint32_t *)p)[i] = (uint32_t)i;
    return (uint32_t *)p;
}

CUstream fixture::stream()
{
    CUstream s;
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    streams.push_back(s);
    return s;
}

CUevent fixture::event()
{
    CUevent e;
    OK(cuEventCreate(&e, CU_EVENT_DEFAULT));
    events.push_back(e);
    return e;
}

void fixture::fill(CUdeviceptr to, uint32_t value, uint32_t n, CUstream on)
{
    void *params[] = {&to, &value, &n};
    OK(cuLaunchKernel(f_fill, (n + 63) / 64, 1, 1, 64, 1, 1, 0, on, params, nullptr));
}

void fixture::add_one(CUdeviceptr to, CUdeviceptr from, uint32_t n, CUstream on)
{
    void *params[] = {&to, &from, &n};
    OK(cuLaunchKernel(f_add_one, (n + 63) / 64, 1, 1, 64, 1, 1, 0, on, params, nullptr));
}

std::vector<uint32_t> fixture::words(CUdeviceptr from, size_t n)
{
    std::vector<uint32_t> got(n);
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH(got.data(), from, n * 4));
    return got;
}

/* --- processes ----------------------------------------------------------------------------------------------------------- */

static std::string folder; /* of this run's files */

std::string hosttest_file(const char *name)
{
    return folder + "/" + name;
}

std::string hosttest_read(const std::string &path)
{
    std::string text;
    FILE *f = fopen(path.c_str(), "re");
    char buffer[4096];
    size_t n;
    while (f && (n = fread(buffer, 1, sizeof buffer, f)) > 0)
        text.append(buffer, n);
    if (f)
        fclose(f);
    return text;
}

int hosttest_spawn(const std::vector<std::string> &arguments, const std::vector<std::string> &settings)
{
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        for (const std::string &s : settings)
            putenv(const_cast<char *>(s.c_str()));
        std::vector<char *> argv = {const_cast<char *>("hosttest")};
        for (const std::string &a : arguments)
            argv.push_back(const_cast<char *>(a.c_str()));
        argv.push_back(nullptr);
        alarm(60); /* a hang is a failure */
        execv("/proc/self/exe", argv.data());
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* --- twins ----------------------------------------------------------------------------------------------------------------- */

static std::string judge(const hosttest_case &c, bool buggy, const char *order)
{
    std::string log = hosttest_file("log");
    unlink(log.c_str());
    std::vector<std::string> settings = {"EMU_STRICT=1", "EMU_LOG=" + log, std::string("EMU_ORDER=") + order,
                                         "EMU_SEED=5"};
    if (c.setting)
        settings.push_back(c.setting);
    int status = hosttest_spawn({"twin", c.name, buggy ? "buggy" : "clean"}, settings);
    std::string said = hosttest_read(log);
    if (!buggy)
        return status == 0 && said.empty() ? "" : "status " + std::to_string(status) + ": " + said;
    int wanted = c.signal ? 128 + c.signal : 99;
    bool named = said.find(std::string("emu: ") + c.expected + ": ") != std::string::npos;
    if (status == wanted && named)
        return "";
    return "status " + std::to_string(status) + ", not " + std::to_string(wanted) + "; wanted " + c.expected +
           ", got: " + said;
}

static std::vector<const hosttest_case *> all_cases()
{
    std::vector<const hosttest_case *> all;
    for (const auto *table :
         {&hosttest_streams, &hosttest_memory, &hosttest_capture, &hosttest_code, &hosttest_gemm, &hosttest_file_cases})
        for (const hosttest_case &c : *table)
            all.push_back(&c);
    return all;
}

static int n_passed, n_failed;

static void count(const std::string &name, const std::string &wrong)
{
    if (wrong.empty()) {
        n_passed++;
        return;
    }
    n_failed++;
    printf("FAILED %s: %s\n", name.c_str(), wrong.c_str());
}

static void run_tables(const char *only)
{
    for (const hosttest_case *c : all_cases())
        for (const char *order : {"lazy", "random"})
            for (bool buggy : {false, true})
                if ((!buggy || c->expected) && (!only || !strcmp(only, c->name)))
                    count(std::string(c->name) + (buggy ? " buggy " : " clean ") + order, judge(*c, buggy, order));
    for (const hosttest_outside &o : hosttest_runs)
        if (!only || !strcmp(only, o.name))
            count(o.name, o.run());
}

static int run_twin(const char *name, bool buggy)
{
    for (const hosttest_case *c : all_cases())
        if (!strcmp(name, c->name)) {
            c->run(buggy);
            return 0;
        }
    return 127;
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "twin"))
        return run_twin(argv[2], !strcmp(argv[3], "buggy"));
    if (argc == 3 && !strcmp(argv[1], "program")) {
        std::string wrong = hosttest_program(argv[2]);
        fprintf(stderr, "%s", wrong.c_str());
        return wrong.empty() ? 0 : 1;
    }
    char name[] = "/tmp/hosttest-XXXXXX";
    folder = mkdtemp(name);
    setenv("HOSTTEST_FOLDER", folder.c_str(), 1);
    run_tables(argc == 2 ? argv[1] : nullptr);
    std::string remove = "rm -rf " + folder;
    if (system(remove.c_str()) != 0)
        n_failed++;
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed > 0 || n_passed == 0;
}
