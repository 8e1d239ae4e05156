/* planted_bugs NAME GRID BLOCK ... - launches kernels of tests/emu/selftest/bugs.cu (ROUSE_KERNELS_PTX names the compiled file), with
 * the arguments that its test on the interpreter gives them: so that compute-sanitizer can be asked what it finds in the same
 * kernels (suite_planted.py). */
#include "gpu/cuda/tests/kernel_harness.h"

struct bug_args {
    uint64_t in, out, exact, read_only, unmapped, host, table, word;
    uint32_t n;
};

enum { DYNAMIC_SHARED_BYTES = 256 };

static struct kernel_buffer floats(size_t n, float first, float step)
{
    struct kernel_buffer b = kernel_buffer_new(n, sizeof(float));
    for (size_t i = 0; i < n; i++)
        ((float *)b.host)[i] = first + (float)i * step;
    kernel_buffer_upload(&b);
    return b;
}

static struct kernel_buffer words(const uint32_t *values, size_t n)
{
    struct kernel_buffer b = kernel_buffer_new(n, sizeof *values);
    memcpy(b.host, values, n * sizeof *values);
    kernel_buffer_upload(&b);
    return b;
}

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
    static const uint32_t table[] = {3, 1, 7, 0, 2, 5, 4, 6}, zeros[4];
    static float host_floats[64];
    if (argc < 4 || argc % 3 != 1) {
        fprintf(stderr, "usage: planted_bugs NAME GRID BLOCK ...\n");
        return 2;
    }
    kernels_open();
    struct kernel_buffer gone = floats(64, 2, 0), out = kernel_buffer_new(1024, sizeof(float));
    struct kernel_buffer in = floats(1024, 0, 0.25f), exact = floats(96, 1, 0), read_only = floats(64, 2, 0);
    struct kernel_buffer blocks = words(table, 8), word = words(zeros, 4);
    const struct bug_args args = {in.device,        out.device,  exact.device,
                                  read_only.device, gone.device, (uint64_t)(uintptr_t)host_floats,
                                  blocks.device,    word.device, 64};
    kernel_buffer_free(&gone);
    for (int i = 1; i < argc; i += 3)
        kernel_run(argv[i], number(argv[i + 1]), 1, 1, number(argv[i + 2]), DYNAMIC_SHARED_BYTES, &args);
    struct kernel_buffer *all[] = {&in, &out, &exact, &read_only, &blocks, &word};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        kernel_buffer_free(all[i]);
    kernels_close();
    return 0;
}
