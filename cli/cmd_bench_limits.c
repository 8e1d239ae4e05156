/* rouse bench limits - what bounds a restore of this file on this machine, once: for other benches to divide by. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "bench/bench_pages.h"
#include "bench/bench_speed.h"
#include "cli/cli.h"
#include "cli/cmd_bench.h"

static const char *file;
static bool json, no_fio, no_prime;

const struct base_options_usage cmd_bench_limits_usage = {
    .command = "rouse bench limits",
    .synopsis = "--file FILE [options]",
    .summary =
        "How fast this machine reads the file with O_DIRECT (best of 4 to 32 reads of 4 MiB in flight), touches fresh "
        "memory, and reads the file's cached pages. Leaves the file cached.",
};

const struct base_option cmd_bench_limits_options[] = {
    {"file", BASE_OPTION_STRING, &file, "FILE", NULL, NULL, 0, 0, "Bench", "Any file, best a large one.", true},
    {"no-fio", BASE_OPTION_FLAG, &no_fio, NULL, NULL, NULL, 0, 0, "Bench", "Do not run fio beside.", false},
    {"no-prime", BASE_OPTION_FLAG, &no_prime, NULL, NULL, NULL, 0, 0, "Bench",
     "Measure first touch without having touched and freed memory before.", false},
    {"json", BASE_OPTION_FLAG, &json, NULL, NULL, NULL, 0, 0, "Output", "Print JSON, one object a line, for programs.",
     false},
    CLI_OPTIONS_END,
};

int cmd_bench_limits(struct base_error *err, struct base_trace *trace)
{
    struct bench_disk disk = {0}, fio = {0};
    struct stat st;
    double fraction, touch = 0, mapped = 0, copied = 0, load = 0;
    (void)trace;
    if (stat(file, &st) < 0)
        return base_fail_errno(err, "%s", file);
    int rc = bench_pages_evict(file, &fraction, err);
    if (rc == 0)
        rc = bench_speed_disk(file, &disk, err);
    if (rc == 0 && !no_fio && bench_speed_fio(file, &fio, err) < 0)
        fprintf(stderr, "no figure of fio's: %s\n", err->text);
    if (rc == 0 && !no_prime)
        (void)bench_pages_prime((uint64_t)st.st_size);
    if (rc == 0)
        rc = bench_speed_touch((uint64_t)st.st_size, &touch, err);
    if (rc == 0)
        rc = bench_pages_fill(file, &fraction, err);
    if (rc == 0)
        rc = bench_speed_cached(file, &mapped, &copied, err);
    if (rc < 0)
        return rc;
    (void)getloadavg(&load, 1);
    if (json)
        printf("{\"disk_gbs\":%.4f,\"disk_depth\":%u,\"fio_gbs\":%.4f,\"touch_gbs\":%.4f,\"mapped_gbs\":%.4f,"
               "\"copied_gbs\":%.4f,\"load1\":%.2f}\n",
               disk.gbs, disk.depth, fio.gbs, touch, mapped, copied, load);
    else
        printf("disk, O_DIRECT      %6.2f GB/s, %u in flight%s\ndisk, fio           %6.2f GB/s\nfirst touch         "
               "%6.2f GB/s\n"
               "cached, in place    %6.2f GB/s\ncached, copied      %6.2f GB/s\nload average        %6.2f\n",
               disk.gbs, disk.depth, disk.uring ? ", io_uring" : ", threads", fio.gbs, touch, mapped, copied, load);
    return 0;
}
