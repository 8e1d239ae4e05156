/* rouse bench reader - a snapshot file into a few buffers that are used again, by the reader that restores it and checks it,
 * against the best that the disk gives. */
#include <stdio.h>
#include <string.h>

#include "bench/bench_pages.h"
#include "bench/bench_samples.h"
#include "bench/bench_speed.h"
#include "cli/cli.h"
#include "cli/cmd_bench.h"
#include "snapshot/chunk_scan.h"

enum { ROUNDS_MAX = 1000 };

static const char *file, *csv_path;
static uint64_t n_rounds;
static bool json;

const struct base_options_usage cmd_bench_reader_usage = {
    .command = "rouse bench reader",
    .synopsis = "--file FILE [options]",
    .summary =
        "Reads a snapshot, dropped from the page cache before each pass (proven by mincore), by the program's own "
        "reader: "
        "with io_uring and with threads, with checksums and without; and in the same round by the best of an O_DIRECT "
        "sweep that does nothing but read.",
    .examples = "  rouse bench reader --file ~/.cache/rouse/snapshots/ID.snap\n",
};

const struct base_option cmd_bench_reader_options[] = {
    {"file", BASE_OPTION_STRING, &file, "FILE", NULL, NULL, 0, 0, "Bench", "A snapshot.", true},
    {"rounds", BASE_OPTION_UINT, &n_rounds, "N", "10", NULL, 1, ROUNDS_MAX, "Bench", "Rounds; each measures all once.",
     false},
    {"json", BASE_OPTION_FLAG, &json, NULL, NULL, NULL, 0, 0, "Output", "Print JSON, one object a line, for programs.",
     false},
    {"csv", BASE_OPTION_STRING, &csv_path, "FILE", NULL, NULL, 0, 0, "Output", "Write every single measurement.",
     false},
    CLI_OPTIONS_END,
};

static const struct way {
    const char *name, *text;
    enum chunk_scan_reader reader;
    bool unhashed;
} ways[] = {
    {"reader", "reader, as it chooses", CHUNK_SCAN_AUTO, false},
    {"reader-unchecked", "the same, not checking", CHUNK_SCAN_AUTO, true},
    {"reader-uring", "with io_uring", CHUNK_SCAN_URING, false},
    {"reader-threads", "with threads", CHUNK_SCAN_THREADS, false},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

static int one_pass(const struct way *way, double *out_gbs, struct base_error *err)
{
    struct snap_file *f = NULL;
    struct chunk_scan_result result;
    double fraction;
    int rc = bench_pages_evict(file, &fraction, err);
    if (rc == 0)
        rc = snap_file_open(file, &f, err);
    if (rc < 0)
        return f ? rc : base_fail_in(err, "%s", file);
    f->unhashed = way->unhashed;
    struct chunk_scan scan = {.file = f, .reader = way->reader};
    rc = chunk_scan_run(&scan, &result, err);
    snap_file_close(f);
    if (rc == 0)
        *out_gbs = (double)result.bytes / 1e9 / result.seconds;
    return rc;
}

static int one_round(struct bench_samples *samples, uint32_t round, struct base_error *err)
{
    struct bench_disk disk;
    double fraction;
    int rc = bench_pages_evict(file, &fraction, err);
    if (rc == 0)
        rc = bench_speed_disk(file, &disk, err);
    if (rc == 0)
        bench_samples_add(samples, round, "limit", "gbs", disk.gbs);
    for (size_t i = 0; rc == 0 && i < N_WAYS; i++) {
        const struct way *way = &ways[(i + round) % N_WAYS]; /* each comes first in turn */
        double gbs = 0;
        rc = one_pass(way, &gbs, err);
        if (rc == 0)
            bench_samples_add(samples, round, way->name, "gbs", gbs);
    }
    return rc;
}

static void print(const struct bench_samples *samples)
{
    struct bench_summary disk = bench_samples_summary(samples, "limit", "gbs");
    if (json)
        printf("{\"rounds\":%u,\"disk_gbs\":%.4f", disk.n, disk.median);
    else
        printf("%u rounds, medians (min .. max)\n  %-32s %6.2f GB/s (%.2f .. %.2f)\n", disk.n,
               "disk, O_DIRECT, best depth", disk.median, disk.low, disk.high);
    for (size_t i = 0; i < N_WAYS; i++) {
        struct bench_summary s = bench_samples_summary(samples, ways[i].name, "gbs");
        struct bench_summary r = bench_samples_ratio(samples, ways[i].name, "gbs", "limit", "gbs");
        if (json)
            printf(",\"%s\":{\"gbs\":%.4f,\"of_disk\":%.4f,\"of_disk_min\":%.4f}", ways[i].name, s.median, r.median,
                   r.low);
        else
            printf("  %-32s %6.2f GB/s (%.2f .. %.2f)  %.2f (%.2f .. %.2f) of the disk\n", ways[i].text, s.median,
                   s.low, s.high, r.median, r.low, r.high);
    }
    puts(json ? "}" : "");
}

int cmd_bench_reader(struct base_error *err, struct base_trace *trace)
{
    struct bench_samples samples = {0};
    int rc = 0;
    (void)trace;
    for (uint32_t round = 1; rc == 0 && round <= n_rounds; round++)
        rc = one_round(&samples, round, err);
    if (rc == 0 && csv_path)
        rc = bench_samples_csv(&samples, csv_path, err);
    if (rc == 0)
        print(&samples);
    bench_samples_done(&samples);
    return rc;
}
