/* The program: options, the device, lines. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/options.h"
#include "bench/cuda/bench_cuda.h"

void bench_ok(int rc, const struct base_error *err)
{
    if (rc < 0) {
        fprintf(stderr, "bench_cuda: %s\n", err->text);
        exit(base_exit_code(rc));
    }
}

void bench_cu(const struct bench *b, CUresult result, const char *what)
{
    struct base_error err = {0};
    if (result != CUDA_SUCCESS)
        bench_ok(cuda_driver_fail(b->cu, result, &err, "%s", what), &err);
}

double bench_seconds_since(uint64_t ns)
{
    return (double)(base_clock_mono_ns() - ns) / 1e9;
}

/* cuda_driver_get has opened the library; this finds the same one again. */
static void find_calls(struct bench *b)
{
    struct base_error err = {0};
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
#define NAME_(function) #function
#define NAME(function)  NAME_(function)
#define FIND(field, function)                                                                                          \
    *(void **)(void *)&b->more.field = library ? dlsym(library, NAME(function)) : NULL;                                \
    if (!b->more.field)                                                                                                \
        bench_ok(base_fail(&err, ERR_SERVICE, "the NVIDIA driver here has no " NAME(function)), &err);
    BENCH_DRIVER_CALLS(FIND)
}

void bench_open(struct bench *b)
{
    struct base_error err = {0};
    bench_ok(gpu_open("cuda", NULL, &b->device, &err), &err);
    b->d = (struct cuda_device *)b->device;
    b->cu = b->d->cu;
    find_calls(b);
    bench_ok(cuda_device_ready(b->d, &err), &err);
}

void bench_close(struct bench *b)
{
    gpu_close(b->device);
    b->device = NULL;
}

/* ---- lines ---- */

void bench_line_begin(struct bench_line *line, const char *section)
{
    base_buffer_init(&line->buffer, 1 << 20);
    base_json_init(&line->json, &line->buffer);
    base_json_object_begin(&line->json);
    base_json_kv_string(&line->json, "section", section);
}

void bench_line_end(struct bench_line *line)
{
    base_json_object_end(&line->json);
    puts(base_buffer_cstr(&line->buffer));
    fflush(stdout); /* what was measured stays measured if the next thing fails */
    base_buffer_done(&line->buffer);
}

void bench_print(const char *section, uint32_t round, const char *name, double value, const char *unit)
{
    struct bench_line line;
    bench_line_begin(&line, section);
    base_json_kv_uint(&line.json, "round", round);
    base_json_kv_string(&line.json, "name", name);
    base_json_kv_double(&line.json, "value", value, 6);
    base_json_kv_string(&line.json, "unit", unit);
    bench_line_end(&line);
}

/* ---- the program ---- */

static uint64_t n_rounds;
static bool quick;
static const char *shape, *dtype;

static const struct base_options_usage usage = {
    .command = "bench_cuda",
    .synopsis = "record|limits|memory|model [options]",
    .summary = "Measures a card and the CUDA back end on it; prints JSON lines.",
};

static const struct base_option options[] = {
    {.name = "rounds",
     .kind = BASE_OPTION_UINT,
     .target = &n_rounds,
     .arg = "N",
     .text = "5",
     .min = 1,
     .max = 1000,
     .group = "Measuring",
     .help = "How often everything is measured, one after the other."},
    {.name = "quick",
     .kind = BASE_OPTION_FLAG,
     .target = &quick,
     .group = "Measuring",
     .help = "Sizes so small that figures mean nothing: for a look whether it runs."},
    {.name = "shape",
     .kind = BASE_OPTION_STRING,
     .target = &shape,
     .arg = "NAME",
     .text = "410m",
     .group = "Model",
     .help = "A Pythia size, 14m to 12b, or tiny."},
    {.name = "dtype",
     .kind = BASE_OPTION_STRING,
     .target = &dtype,
     .arg = "TYPE",
     .text = "f16",
     .group = "Model",
     .help = "f16, bf16 or q8."},
    {0},
};

int main(int argc, char **argv)
{
    struct base_error err = {0};
    int n_args = 0;
    int rc = base_options_parse(&usage, options, argc, argv, &n_args, &err);
    if (rc == 1)
        return 0;
    if (rc == 0 && n_args != 1)
        rc = base_fail(&err, ERR_USAGE, "give one section; see bench_cuda --help");
    bench_ok(rc, &err);

    struct bench b = {.n_rounds = (uint32_t)n_rounds, .quick = quick};
    if (strcmp(argv[1], "record") == 0)
        bench_record(&b);
    else if (strcmp(argv[1], "limits") == 0)
        bench_limits(&b);
    else if (strcmp(argv[1], "memory") == 0)
        bench_memory(&b);
    else if (strcmp(argv[1], "model") == 0)
        bench_model(&b, shape, dtype);
    else
        bench_ok(base_fail(&err, ERR_USAGE, "no section '%s'; see bench_cuda --help", argv[1]), &err);
    return 0;
}
