#include "bench/bench_restore.h"
#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/bench_pages.h"
#include "bench/bench_process.h"
#include "bench/bench_speed.h"

enum { ARGS_MAX = 64, START_SECONDS = 900, VOID_MAX = 10 };

#define PRIME_FACTOR 2.2 /* of the file: the page cache's copy, a private one, and something to spare */

const char *const bench_restore_phases[] = {"exec_s",    "config_s", "index_s",     "device_open_s", "restore_s",
                                            "choices_s", "verify_s", "tokenizer_s", "cold_load_s",   NULL};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

const char *bench_restore_limit_of(const char *case_name)
{
    return begins(case_name, "cached") ? "cached_s" : "cold_s";
}

/* ---- limits ---- */

static int fio_limit(struct bench_restore *b, uint32_t round, struct base_error *err)
{
    struct bench_disk disk;
    if (!b->o.fio || b->fio_note[0])
        return 0;
    int rc = bench_speed_fio(b->o.file, &disk, err);
    if (rc == ERR_NOTFOUND || rc == ERR_SERVICE) { /* a witness less; the round goes on */
        snprintf(b->fio_note, sizeof b->fio_note, "%s", rc == ERR_NOTFOUND ? "fio is not installed" : err->text);
        return 0;
    }
    if (rc == 0) {
        bench_samples_add(&b->samples, round, "limit", "fio_gbs", disk.gbs);
        bench_samples_add(&b->samples, round, "limit", "fio_depth", disk.depth);
    }
    return rc;
}

/* Ends with the page cache full of the file. */
static int limits(struct bench_restore *b, uint32_t round, struct base_error *err)
{
    const double gigabytes = (double)b->o.file_bytes / 1e9;
    struct bench_disk disk = {0};
    double touch = 0, mapped = 0, copied = 0, load = 0, fraction;
    int rc = bench_pages_evict(b->o.file, &fraction, err);
    if (rc == 0)
        rc = bench_speed_disk(b->o.file, &disk, err);
    if (rc == 0)
        rc = fio_limit(b, round, err);
    if (rc == 0 && b->o.prime)
        (void)bench_pages_prime((uint64_t)(PRIME_FACTOR * (double)b->o.file_bytes));
    if (rc == 0)
        rc = bench_speed_touch(b->o.file_bytes, &touch, err);
    if (rc == 0)
        rc = bench_pages_fill(b->o.file, &fraction, err);
    if (rc == 0)
        rc = bench_speed_cached(b->o.file, &mapped, &copied, err);
    if (rc < 0)
        return rc;
    if (getloadavg(&load, 1) == 1) {
        b->load_low = round == 1 || load < b->load_low ? load : b->load_low;
        b->load_high = load > b->load_high ? load : b->load_high;
    }
    double disk_s = gigabytes / disk.gbs, touch_s = gigabytes / touch, cold_s = disk_s > touch_s ? disk_s : touch_s;
    const struct {
        const char *metric;
        double value;
    } all[] = {{"disk_gbs", disk.gbs},
               {"disk_depth", disk.depth},
               {"disk_uring", disk.uring},
               {"touch_gbs", touch},
               {"mapped_gbs", mapped},
               {"copied_gbs", copied},
               {"load1", load},
               {"disk_s", disk_s},
               {"touch_s", touch_s},
               {"cold_s", cold_s},
               {"cached_s", gigabytes / mapped},
               {"budget_s", 1.1 * cold_s + 0.05}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        bench_samples_add(&b->samples, round, "limit", all[i].metric, all[i].value);
    return 0;
}

/* ---- one start ---- */

struct argv {
    const char *all[ARGS_MAX];
    size_t n;
};

static void arg(struct argv *a, const char *text)
{
    if (a->n + 1 < ARGS_MAX)
        a->all[a->n++] = text;
    a->all[a->n] = NULL;
}

static struct argv start_argv(const struct bench_restore *b, const char *name)
{
    struct argv a = {.n = 0};
    for (const char *const *p = b->o.start; *p; p++)
        arg(&a, *p);
    arg(&a, "--hold"), arg(&a, "--requests"), arg(&a, "2"), arg(&a, "--node-dir"), arg(&a, b->node_dir);
    if (strcmp(name, "cold-load") == 0)
        arg(&a, "--no-snapshot");
    if (strcmp(name, "cold-attach") == 0 || strcmp(name, "cold-stream") == 0)
        arg(&a, "--restore-plan"), arg(&a, name + strlen("cold-"));
    if (strcmp(name, "cold-checked") == 0 || strcmp(name, "cold-unchecked") == 0)
        arg(&a, "--file"), arg(&a, b->o.file);
    if (strcmp(name, "cold-unchecked") == 0)
        arg(&a, "--unverified");
    return a;
}

/* What one start said and held. */
struct start {
    double ready_s, first_token_s, requests_s[2];
    uint64_t peak, anonymous, storage, pss;
    json_t *phases; /* its trace: owned */
};

static uint64_t u64_of(const json_t *object, const char *key)
{
    return (uint64_t)json_number_value(json_object_get(object, key));
}

static int parse_start(struct bench_case *c, const struct bench_process *p, bool restores, struct start *out,
                       struct base_error *err)
{
    json_error_t why;
    json_t *root = json_loads(base_buffer_cstr(&p->text), JSON_DISABLE_EOF_CHECK, &why);
    json_t *trace = json_object_get(root, "start"), *memory = json_object_get(root, "memory_end");
    json_t *requests = json_object_get(root, "requests_s"), *notes = json_object_get(trace, "notes");
    double began = (double)p->began_ns / 1e9, ready = json_number_value(json_object_get(trace, "ready_at"));
    int rc = 0;
    if (!root)
        rc = base_fail(err, ERR_SERVICE, "it did not answer in JSON: %s", why.text);
    else if (!(ready > began) || json_array_size(requests) != 2)
        rc = base_fail(err, ERR_SERVICE, "its answer has no ready_at after its start, or not two requests");
    else if (json_is_true(json_object_get(root, "restored")) != restores)
        rc = base_fail(err, ERR_SERVICE,
                       restores ? "it did not restore the snapshot but loaded the model's files"
                                : "it restored a snapshot");
    if (rc == 0) {
        *out = (struct start){.ready_s = ready - began,
                              .first_token_s = json_number_value(json_object_get(trace, "first_token_at")) - began,
                              .peak = u64_of(memory, "peak"),
                              .anonymous = u64_of(memory, "anonymous"),
                              .storage = u64_of(root, "storage_bytes"),
                              .phases = json_incref(trace)};
        for (size_t i = 0; i < 2; i++)
            out->requests_s[i] = json_number_value(json_array_get(requests, i));
        /* the trace knows its process's start in steps of 10 ms; the moment before fork is exact */
        double main_s = ready - json_number_value(json_object_get(trace, "ready_s")) +
                        json_number_value(json_object_get(trace, "exec_s")) - began;
        json_object_set_new(trace, "exec_s", json_real(main_s));
        const char *way = json_string_value(json_object_get(notes, "plan"));
        const char *reason = json_string_value(json_object_get(notes, "plan_reason"));
        snprintf(c->note, sizeof c->note, "%s%s%s", way ? way : "", reason ? ": " : "", reason ? reason : "");
    }
    json_decref(root);
    return rc;
}

/* n starts at once, all held until every one has answered. */
static int start_all(const struct bench_restore *b, struct bench_case *c, uint32_t n, struct start *starts,
                     struct base_error *err)
{
    struct argv a = start_argv(b, c->name);
    struct bench_process *p = calloc(n, sizeof *p);
    if (!p)
        return base_fail(err, ERR_NOMEM, "out of memory for %u processes", n);
    int rc = 0;
    uint32_t n_begun = 0;
    for (; rc == 0 && n_begun < n; n_begun++)
        rc = bench_process_start(a.all, NULL, &p[n_begun], err);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = bench_process_line(&p[i], START_SECONDS, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = bench_process_pss(&p[i], &starts[i].pss, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        uint64_t pss = starts[i].pss;
        rc = parse_start(c, &p[i], strcmp(c->name, "cold-load") != 0, &starts[i], err);
        starts[i].pss = pss;
        /* when the first of them was started is when all were */
        starts[i].ready_s += (double)(p[i].began_ns - p[0].began_ns) / 1e9;
        starts[i].first_token_s += (double)(p[i].began_ns - p[0].began_ns) / 1e9;
    }
    for (uint32_t i = 0; i < n_begun; i++) {
        if (rc == 0)
            rc = bench_process_end(&p[i], START_SECONDS, err);
        bench_process_done(&p[i]);
    }
    free(p);
    return rc < 0 ? base_fail_in(err, "case %s: %s %s", c->name, a.all[0], a.all[1]) : 0;
}

/* ---- the state of the page cache ---- */

/* Of a directory, or of a path that is a file, which is dropped itself. */
static int evict_model(const char *dir, double *out_fraction, struct base_error *err)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    int rc = d ? 0 : base_fail_errno(err, "%s", dir);
    *out_fraction = 0;
    while (rc == 0 && (e = readdir(d)) != NULL) {
        char path[4096];
        const char *end = strrchr(e->d_name, '.');
        double fraction = 0;
        if (!end || strcmp(end, ".safetensors") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        rc = bench_pages_evict(path, &fraction, err);
        *out_fraction = fraction > *out_fraction ? fraction : *out_fraction;
    }
    if (d)
        closedir(d);
    return rc;
}

/* What starts told each other of the snapshot goes; what they learnt of the disk stays, unless all is to go. */
static void forget(const char *dir, bool all)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.' && (all || !begins(e->d_name, "rates")))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

/* Unmeasured: so that the snapshot is verified on this node. */
static int start_once(const struct bench_restore *b, struct bench_case *c, struct base_error *err)
{
    struct start one = {.pss = 0};
    int rc = start_all(b, c, 1, &one, err);
    json_decref(one.phases);
    return rc;
}

/* Brings cache and free memory into the state that the case is about. *out_fraction: of the file, cached, right before. */
static int prepare(struct bench_restore *b, struct bench_case *c, double *out_fraction, struct base_error *err)
{
    bool load = strcmp(c->name, "cold-load") == 0, cold = begins(c->name, "cold");
    int rc = 0;
    if (begins(c->name, "cold-again")) { /* verified here, and dropped after that */
        rc = bench_pages_fill(b->o.file, out_fraction, err);
        if (rc == 0)
            rc = start_once(b, c, err);
    }
    if (rc == 0)
        rc = load   ? evict_model(b->o.model, out_fraction, err)
             : cold ? bench_pages_evict(b->o.file, out_fraction, err)
                    : bench_pages_fill(b->o.file, out_fraction, err);
    if (rc == 0 && !cold && strcmp(c->name, "cached-first") != 0)
        rc = start_once(b, c, err);
    if (rc == 0 && b->o.prime)
        (void)bench_pages_prime((uint64_t)(PRIME_FACTOR * (double)b->o.file_bytes));
    if (rc == 0 && !load)
        rc = bench_pages_resident(b->o.file, out_fraction, err);
    if (rc == 0 && (cold ? *out_fraction >= BENCH_COLD_MAX : *out_fraction < BENCH_CACHED_MIN))
        rc = ERR_AGAIN;
    return rc;
}

/* ---- a case in a round ---- */

static void note_one(struct bench_restore *b, uint32_t round, const struct bench_case *c, const struct start *s,
                     double fraction)
{
    const char *what = bench_samples_name(&b->samples, c->name), *key;
    json_t *value;
    struct bench_samples *to = &b->samples;
    bench_samples_add(to, round, what, "ready_s", s->ready_s);
    bench_samples_add(to, round, what, "first_token_s", s->first_token_s);
    bench_samples_add(to, round, what, "request1_s", s->requests_s[0]);
    bench_samples_add(to, round, what, "request2_s", s->requests_s[1]);
    bench_samples_add(to, round, what, "peak_bytes", (double)s->peak);
    bench_samples_add(to, round, what, "peak_over_weights_bytes", (double)s->peak - (double)b->o.weights_bytes);
    bench_samples_add(to, round, what, "anonymous_bytes", (double)s->anonymous);
    bench_samples_add(to, round, what, "pss_bytes", (double)s->pss);
    bench_samples_add(to, round, what, "storage_bytes", (double)s->storage);
    bench_samples_add(to, round, what, "cached_before", fraction);
    json_object_foreach(s->phases, key, value) for (const char *const *p = bench_restore_phases; *p;
                                                    p++) if (strcmp(*p, key) == 0 && json_is_number(value))
        bench_samples_add(to, round, what, *p, json_number_value(value));
}

static void note_many(struct bench_restore *b, uint32_t round, const struct bench_case *c, const struct start *starts,
                      uint32_t n, double fraction)
{
    const char *what = bench_samples_name(&b->samples, c->name);
    double ready = 0, first = 0, storage = 0, pss = 0;
    for (uint32_t i = 0; i < n; i++) {
        ready = starts[i].ready_s > ready ? starts[i].ready_s : ready;
        first = starts[i].first_token_s > first ? starts[i].first_token_s : first;
        storage += (double)starts[i].storage;
        pss += (double)starts[i].pss;
    }
    bench_samples_add(&b->samples, round, what, "ready_s", ready); /* of the last one */
    bench_samples_add(&b->samples, round, what, "first_token_s", first);
    bench_samples_add(&b->samples, round, what, "storage_bytes", storage); /* of all */
    bench_samples_add(&b->samples, round, what, "pss_bytes", pss);
    bench_samples_add(&b->samples, round, what, "cached_before", fraction);
}

/* Whether n starts fit, going by what one of them keeps for itself. */
static bool fits(struct bench_restore *b, struct bench_case *c, uint32_t n)
{
    double one =
        bench_samples_summary(&b->samples, begins(c->name, "cold") ? "cold" : "cached", "anonymous_bytes").high;
    double free_now = (double)base_memory_available();
    if (n <= 1 || free_now == 0 || one * n < 0.9 * free_now)
        return true;
    snprintf(c->note, sizeof c->note, "left out: %u starts hold %.1f GB for themselves, %.1f GB are available", n,
             one * n / 1e9, free_now / 1e9);
    c->left_out = true;
    return false;
}

static int run_case(struct bench_restore *b, struct bench_case *c, uint32_t round, struct base_error *err)
{
    uint32_t n = strstr(c->name, "-x") ? b->o.n_workers : 1;
    double fraction = 0;
    if ((begins(c->name, "cold") && !begins(c->name, "cold-again")) || strcmp(c->name, "cached-first") == 0)
        forget(b->node_dir, false);
    if (c->left_out || !fits(b, c, n))
        return 0;
    int rc = ERR_AGAIN;
    for (uint32_t i = 0; rc == ERR_AGAIN && i < VOID_MAX; i++) {
        err->text[0] = '\0';
        rc = prepare(b, c, &fraction, err);
        b->n_void += rc == ERR_AGAIN;
    }
    if (rc == ERR_AGAIN && !err->text[0])
        rc = base_fail(err, ERR_AGAIN,
                       "case %s: %d times in a row %.1f %% of %s were in the page cache just before the start", c->name,
                       VOID_MAX, 100 * fraction, b->o.file);
    struct start *starts = rc == 0 ? calloc(n, sizeof *starts) : NULL;
    if (rc == 0 && !starts)
        rc = base_fail(err, ERR_NOMEM, "out of memory for %u starts", n);
    if (rc == 0)
        rc = start_all(b, c, n, starts, err);
    if (rc == ERR_SERVICE && (strcmp(c->name, "cold-attach") == 0 || strcmp(c->name, "cold-stream") == 0)) {
        snprintf(c->note, sizeof c->note, "left out: %.240s", err->text); /* no way of this device */
        c->left_out = true;
        free(starts);
        return 0;
    }
    if (rc == 0 && n > 1)
        note_many(b, round, c, starts, n, fraction);
    else if (rc == 0)
        note_one(b, round, c, &starts[0], fraction);
    for (uint32_t i = 0; starts && i < n; i++)
        json_decref(starts[i].phases);
    free(starts);
    return rc;
}

/* ---- rounds ---- */

static void add_case(struct bench_restore *b, const char *name, bool wanted)
{
    if (wanted)
        snprintf(b->cases[b->n_cases++].name, sizeof b->cases[0].name, "%s", name);
}

static void choose_cases(struct bench_restore *b)
{
    const struct bench_restore_options *o = &b->o;
    char name[32];
    add_case(b, "cold", o->cold);
    add_case(b, "cached", o->cached);
    add_case(b, "cached-first", o->cached);
    add_case(b, "cold-attach", o->ways && o->cold);
    add_case(b, "cold-stream", o->ways && o->cold);
    add_case(b, "cold-checked", o->verification && o->cold);
    add_case(b, "cold-unchecked", o->verification && o->cold);
    add_case(b, "cold-load", o->load);
    snprintf(name, sizeof name, "cold-x%u", o->n_workers);
    add_case(b, name, o->cold && o->n_workers > 1);
    snprintf(name, sizeof name, "cold-again-x%u", o->n_workers);
    add_case(b, name, o->cold && o->n_workers > 1);
    snprintf(name, sizeof name, "cached-x%u", o->n_workers);
    add_case(b, name, o->cached && o->n_workers > 1);
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int run_round(struct bench_restore *b, uint32_t round, uint64_t *state, struct base_error *err)
{
    uint32_t order[BENCH_CASES_MAX], n = 0;
    for (; n < b->n_cases; n++)
        order[n] = n;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(state) % i), swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
    fprintf(stderr, "round %u of %u: limits", round, b->o.n_rounds);
    int rc = limits(b, round, err);
    for (uint32_t many = 0; many < 2; many++) /* N at once come last: whether they fit is known from one */
        for (uint32_t i = 0; rc == 0 && i < n; i++) {
            struct bench_case *c = &b->cases[order[i]];
            if ((strstr(c->name, "-x") != NULL) != many)
                continue;
            fprintf(stderr, ", %s", c->name);
            rc = run_case(b, c, round, err);
        }
    fputc('\n', stderr);
    return rc;
}

/* Of this user's bench alone, mode 0700, as snapshot/node.h wants it; one at a time, because two would measure each other. What a
 * killed one left there is forgotten. */
static int make_node_dir(struct bench_restore *b, struct base_error *err)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    struct stat st;
    snprintf(b->node_dir, sizeof b->node_dir, "%s/rouse-bench-%u", base, (unsigned)geteuid());
    if (mkdir(b->node_dir, 0700) < 0 && errno != EEXIST)
        return base_fail_errno(err, "%s", b->node_dir);
    b->node_fd = open(b->node_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (b->node_fd < 0 || fstat(b->node_fd, &st) < 0)
        return base_fail_errno(err, "%s", b->node_dir);
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return base_fail(err, ERR_USAGE, "%s belongs to somebody else or lets others in; remove it", b->node_dir);
    if (flock(b->node_fd, LOCK_EX | LOCK_NB) < 0)
        return base_fail(err, ERR_AGAIN,
                         "another rouse bench restore is running (it holds %s); two would measure each other",
                         b->node_dir);
    forget(b->node_dir, true);
    return 0;
}

static void remove_node_dir(struct bench_restore *b, bool ours)
{
    if (ours) {
        forget(b->node_dir, true);
        (void)rmdir(b->node_dir);
    }
    if (b->node_fd >= 0)
        close(b->node_fd);
    b->node_fd = -1;
}

int bench_restore_run(const struct bench_restore_options *options, struct bench_restore *out, struct base_error *err)
{
    uint64_t state = options->seed;
    *out = (struct bench_restore){.o = *options, .node_fd = -1};
    choose_cases(out);
    int rc = make_node_dir(out, err);
    bool ours = rc == 0;
    for (uint32_t round = 1; rc == 0 && round <= options->n_rounds; round++)
        rc = run_round(out, round, &state, err);
    remove_node_dir(out, ours);
    if (rc == 0 && out->samples.failed)
        rc = base_fail(err, ERR_NOMEM, "out of memory for samples");
    if (rc < 0)
        bench_restore_done(out);
    return rc;
}

void bench_restore_done(struct bench_restore *b)
{
    bench_samples_done(&b->samples);
}
