/* fio, where it is installed: an outside witness for the disk's figure. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/bench_process.h"
#include "bench/bench_speed.h"

enum { FIO_SECONDS = 300 };

/* Bytes a second of the one job in fio's report; it may have words in front of the JSON. */
static int parse_report(const char *text, double *out_gbs, struct base_error *err)
{
    json_error_t why;
    const char *begin = strchr(text, '{');
    json_t *root = begin ? json_loads(begin, JSON_DISABLE_EOF_CHECK, &why) : NULL;
    json_t *read = json_object_get(json_array_get(json_object_get(root, "jobs"), 0), "read");
    double bytes = json_number_value(json_object_get(read, "bw_bytes"));
    json_decref(root);
    if (!(bytes > 0))
        return base_fail(err, ERR_SERVICE, "fio's report has no jobs[0].read.bw_bytes");
    *out_gbs = bytes / 1e9;
    return 0;
}

static int one_depth(const char *path, uint64_t bytes, uint32_t depth, double *out_gbs, struct base_error *err)
{
    char file[4096], size[48], deep[32];
    snprintf(file, sizeof file, "--filename=%s", path);
    snprintf(size, sizeof size, "--size=%" PRIu64, bytes);
    snprintf(deep, sizeof deep, "--iodepth=%" PRIu32, depth);
    const char *const argv[] = {"fio",
                                "--name=restore",
                                "--readonly",
                                "--allow_file_create=0",
                                "--direct=1",
                                "--rw=read",
                                "--bs=4M",
                                "--thread",
                                "--ioengine=io_uring",
                                "--numjobs=1",
                                file,
                                "--output-format=json",
                                size,
                                deep,
                                NULL};
    struct bench_process p;
    int rc = bench_process_start(argv, NULL, &p, err);
    if (rc < 0)
        return rc;
    rc = bench_process_end(&p, FIO_SECONDS, err);
    if (rc == 0)
        rc = parse_report(base_buffer_cstr(&p.text), out_gbs, err);
    bench_process_done(&p);
    return rc;
}

int bench_speed_fio(const char *path, struct bench_disk *out, struct base_error *err)
{
    struct stat st;
    struct bench_disk best = {0};
    if (strpbrk(path, ":\\")) /* fio splits names at colons */
        return base_fail(err, ERR_SERVICE, "fio cannot be given a path with a colon or a backslash: %s", path);
    if (stat(path, &st) < 0)
        return base_fail_errno(err, "%s", path);
    uint64_t bytes = (uint64_t)st.st_size < BENCH_SPEED_BYTES ? (uint64_t)st.st_size : BENCH_SPEED_BYTES;
    for (uint32_t depth = BENCH_DEPTH_MIN; depth <= BENCH_DEPTH_MAX; depth *= 2) {
        double gbs = 0;
        int rc = one_depth(path, bytes, depth, &gbs, err);
        if (rc < 0)
            return rc;
        if (gbs > best.gbs)
            best = (struct bench_disk){gbs, depth, true};
    }
    *out = best;
    return 0;
}
