/* rouse bench restore - how fast this machine starts from a snapshot, beside what its disk and memory can do at best. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "bench/bench_process.h"
#include "bench/bench_restore.h"
#include "cli/cli.h"
#include "cli/cmd_bench.h"
#include "snapshot/admin.h"
#include "snapshot/snap_file.h"

enum { BUILD_SECONDS = 3600, ARGS_MAX = 48 };

static struct cli_model_options model_options;
static uint64_t n_rounds, n_workers, seed;
static bool cold, cached, load, ways, verification, no_prime, no_fio;
static const char *csv_path, *svg_path;

const struct base_options_usage cmd_bench_restore_usage = {
    .command = "rouse bench restore",
    .synopsis = "--model DIR|NAME [options]",
    .summary =
        "Starts a model from its snapshot in fresh processes, again and again, with the file dropped from the page "
        "cache (proven by mincore) and with it cached, beside the limits of the same minutes. Needs no root. The "
        "snapshot is built first where there is none.",
    .examples = "  rouse bench restore --model models/pythia-410m --rounds 10 --workers 8 --csv restore.csv --svg "
                "restore.svg\n",
};

const struct base_option cmd_bench_restore_options[] = {
    CLI_OPTIONS_MODEL(&model_options),
    {"rounds", BASE_OPTION_UINT, &n_rounds, "N", "10", NULL, 1, BENCH_ROUNDS_MAX, "Bench",
     "Interleaved rounds: every case once in each, in an order drawn from --seed.", false},
    {"cold", BASE_OPTION_FLAG, &cold, NULL, NULL, NULL, 0, 0, "Bench",
     "Only with the snapshot dropped from the page cache. Neither this nor --cached: both.", false},
    {"cached", BASE_OPTION_FLAG, &cached, NULL, NULL, NULL, 0, 0, "Bench", "Only with the snapshot in the page cache.",
     false},
    {"workers", BASE_OPTION_UINT, &n_workers, "N", "0", NULL, 0, BENCH_WORKERS_MAX, "Bench",
     "Also N starts at once: their time, what they read and what memory each adds. 0: not.", false},
    {"ways", BASE_OPTION_FLAG, &ways, NULL, NULL, NULL, 0, 0, "Bench",
     "Also cold with --restore-plan attach and stream, to see whether auto chooses well.", false},
    {"verification", BASE_OPTION_FLAG, &verification, NULL, NULL, NULL, 0, 0, "Bench",
     "Also cold with checksums and without: what they cost.", false},
    {"load", BASE_OPTION_FLAG, &load, NULL, NULL, NULL, 0, 0, "Bench",
     "Also without a snapshot, from the model's files, dropped too. Takes a directory as --model.", false},
    {"no-prime", BASE_OPTION_FLAG, &no_prime, NULL, NULL, NULL, 0, 0, "Bench",
     "Do not touch and free memory before each run. On a virtual machine that hands free pages back to its host, runs "
     "then pay "
     "for that too, at random.",
     false},
    {"no-fio", BASE_OPTION_FLAG, &no_fio, NULL, NULL, NULL, 0, 0, "Bench",
     "Do not run fio beside our own measure of the disk.", false},
    {"seed", BASE_OPTION_UINT, &seed, "N", "1", NULL, 0, 0, "Bench", "For the order of cases within each round.",
     false},
    CLI_OPTION_JSON(&model_options),
    {"csv", BASE_OPTION_STRING, &csv_path, "FILE", NULL, NULL, 0, 0, "Output", "Write every single measurement.",
     false},
    {"svg", BASE_OPTION_STRING, &svg_path, "FILE", NULL, NULL, 0, 0, "Output",
     "Write a chart of phases against the limit.", false},
    CLI_OPTIONS_DEVICE(&model_options),
    CLI_OPTIONS_SNAPSHOT(&model_options),
    CLI_OPTIONS_END,
};

/* The argv of programs that are to see the model as we do. */
struct argv {
    const char *all[ARGS_MAX];
    size_t n;
    char numbers[8][24];
    size_t n_numbers;
    char self[4096];
};

static void arg(struct argv *a, const char *name, const char *value)
{
    if (!value || a->n + 3 > ARGS_MAX)
        return;
    a->all[a->n++] = name;
    a->all[a->n++] = value;
}

static void arg_number(struct argv *a, const char *name, uint64_t value)
{
    char *text = a->numbers[a->n_numbers++];
    snprintf(text, sizeof a->numbers[0], "%" PRIu64, value);
    arg(a, name, text);
}

static int model_argv(struct argv *a, const char *verb, const char *noun, struct base_error *err)
{
    const struct cli_model_options *o = &model_options;
    ssize_t n = readlink("/proc/self/exe", a->self, sizeof a->self - 1);
    if (n <= 0)
        return base_fail_errno(err, "/proc/self/exe");
    a->self[n] = '\0';
    a->n = a->n_numbers = 0;
    a->all[a->n++] = a->self;
    a->all[a->n++] = verb;
    a->all[a->n++] = noun;
    arg(a, "--model", o->model), arg(a, "--store", o->store), arg(a, "--redis", o->redis), arg(a, "--dtype", o->dtype);
    arg(a, "--device", o->device), arg(a, "--cpu-kernels", o->kernels), arg(a, "--deterministic", o->deterministic);
    arg(a, "--graphs", o->graphs), arg(a, "--snapshot-key", o->snapshot_key);
    arg(a, "--restore-plan", o->restore_plan);
    arg_number(a, "--threads", o->n_threads), arg_number(a, "--ctx", o->n_ctx), arg_number(a, "--seqs", o->n_seqs);
    arg_number(a, "--step-tokens", o->n_step_tokens), arg_number(a, "--kv-bytes", o->kv_bytes);
    a->all[a->n] = NULL;
    return 0;
}

/* In a process of its own, so that this one stays small. */
static int build(char out_id[33], struct base_error *err)
{
    struct argv a;
    struct bench_process p;
    int rc = model_argv(&a, "snapshot", "build", err);
    if (rc < 0)
        return rc;
    a.all[a.n++] = "--json";
    a.all[a.n] = NULL;
    rc = bench_process_start(a.all, NULL, &p, err);
    if (rc < 0)
        return rc;
    rc = bench_process_end(&p, BUILD_SECONDS, err);
    json_t *record = rc == 0 ? json_loads(base_buffer_cstr(&p.text), 0, NULL) : NULL;
    const char *id = json_string_value(json_object_get(record, "id"));
    if (rc == 0 && !id)
        rc = base_fail(err, ERR_INTERNAL, "rouse snapshot build --json printed no id");
    if (rc == 0)
        snprintf(out_id, 33, "%s", id);
    json_decref(record);
    bench_process_done(&p);
    return rc < 0 ? base_fail_in(err, "building the snapshot") : 0;
}

static int find(const char *which, struct schema_snapshot_record *out, struct base_error *err)
{
    struct snap_store *store = NULL;
    int rc = snap_store_open(model_options.store, model_options.redis, &store, err);
    if (rc == 0)
        rc = snap_admin_find(store, which, out, err);
    snap_store_close(store);
    return rc;
}

static int publish(const char *path, const struct base_buffer *bytes, struct base_error *err)
{
    if (bytes->failed)
        return base_fail(err, bytes->failed, "%s: out of memory", path);
    int rc = base_file_publish(path, bytes->data, bytes->n, err);
    if (rc == 0)
        fprintf(stderr, "written: %s\n", path);
    return rc;
}

static int report(const struct bench_restore *b, struct base_error *err)
{
    struct base_buffer out;
    struct base_json j;
    int rc = 0;
    base_buffer_init(&out, 64u << 20);
    base_json_init(&j, &out);
    if (model_options.json) {
        bench_restore_json(b, &j);
        base_buffer_byte(&out, '\n');
    } else {
        bench_restore_print(b, &out);
    }
    fputs(base_buffer_cstr(&out), stdout);
    if (csv_path && (rc = bench_samples_csv(&b->samples, csv_path, err)) == 0)
        fprintf(stderr, "written: %s\n", csv_path);
    if (rc == 0 && svg_path) {
        base_buffer_clear(&out);
        bench_restore_svg(b, &out);
        rc = publish(svg_path, &out, err);
    }
    base_buffer_done(&out);
    return rc;
}

static int weights_of(const char *path, uint64_t *out_bytes, struct base_error *err)
{
    struct snap_file *f = NULL;
    int rc = snap_file_open(path, &f, err);
    if (rc < 0)
        return base_fail_in(err, "%s", path);
    *out_bytes = f->layout.sections[SNAP_WEIGHTS].bytes;
    snap_file_close(f);
    return 0;
}

static int check_options(struct base_error *err)
{
    if (model_options.no_snapshot)
        return base_fail(err, ERR_USAGE,
                         "--no-snapshot leaves nothing to restore; --load adds such starts to the others");
    if (load && !base_file_is_dir(model_options.model))
        return base_fail(err, ERR_USAGE, "--load reads the model's files: give their directory as --model, not a name");
    if (model_options.node_dir)
        return base_fail(err, ERR_USAGE,
                         "--node-dir: this bench has one of its own, so that real workers do not vouch for its files");
    if (n_workers == 1)
        return base_fail(err, ERR_USAGE, "--workers 1 is what is measured anyway; give 2 or more");
    return 0;
}

int cmd_bench_restore(struct base_error *err, struct base_trace *trace)
{
    struct snap_start_options start;
    struct schema_snapshot_record record = {0};
    struct bench_restore b;
    struct argv a;
    char id[33] = "", path[4096];
    (void)trace;
    int rc = check_options(err);
    if (rc == 0)
        rc = cli_start_options(&model_options, NULL, &start, err); /* which fills in the default store */
    if (rc == 0 && base_file_is_dir(model_options.model))
        rc = build(id, err);
    if (rc == 0)
        rc = find(id[0] ? id : model_options.model, &record, err);
    if (rc == 0)
        rc = base_file_join(path, sizeof path, model_options.store, record.file, err);
    uint64_t weights_bytes = 0;
    if (rc == 0)
        rc = weights_of(path, &weights_bytes, err);
    if (rc == 0)
        rc = model_argv(&a, "bench", "start", err);
    if (rc < 0)
        return rc;
    const struct bench_restore_options options = {.start = a.all,
                                                  .model = model_options.model,
                                                  .snapshot = record.id,
                                                  .file = path,
                                                  .dtype = record.dtype,
                                                  .file_bytes = record.bytes,
                                                  .weights_bytes = weights_bytes,
                                                  .n_rounds = (uint32_t)n_rounds,
                                                  .n_workers = (uint32_t)n_workers,
                                                  .seed = seed,
                                                  .cold = cold || !cached,
                                                  .cached = cached || !cold,
                                                  .load = load,
                                                  .ways = ways,
                                                  .verification = verification,
                                                  .prime = !no_prime,
                                                  .fio = !no_fio};
    rc = bench_restore_run(&options, &b, err);
    if (rc < 0)
        return rc;
    rc = report(&b, err);
    bench_restore_done(&b);
    return rc;
}
