/* route: which model a batch gets, for good names, hostile ones, and names whose versions share the work. */
#include "worker/tests/test_worker.h"

#include "base/clock.h"
#include "base/log.h"
#include "snapshot/start.h"
#include "worker/route.h"

/* "main" began as v1 and has v1 and v2; "side" has v1 alone; nobody else has a record. */
static struct snap_name main_name, side_name;

static int fetch(void *context, const char *name, struct snap_name *out, struct base_error *err)
{
    (void)context;
    if (strcmp(name, "main") == 0)
        *out = main_name;
    else if (strcmp(name, "side") == 0)
        *out = side_name;
    else
        return base_fail(err, ERR_NOTFOUND, "no name '%s'", name);
    return 0;
}

static void add_version(struct snap_name *name, const char *word, const char *digest, uint32_t weight, bool active)
{
    struct snap_version *v = &name->versions[name->n_versions++];
    snprintf(v->version, sizeof v->version, "%s", word);
    snprintf(v->model_digest, sizeof v->model_digest, "%s", digest);
    v->weight = weight;
    v->active = active;
}

struct fixture {
    struct worker_route_rules rules;
    struct worker_names *names;
    struct worker_models *models;
};

static void open_fixture(struct fixture *f, const char *allowed, uint32_t weight_1, uint32_t weight_2)
{
    struct base_error err = {0};
    const struct worker_models_options options = {.bytes_max = 1};
    memset(&main_name, 0, sizeof main_name);
    memset(&side_name, 0, sizeof side_name);
    strcpy(main_name.name, "main");
    strcpy(side_name.name, "side");
    add_version(&main_name, "v1", "d1", weight_1, false);
    add_version(&main_name, "v2", "d2", weight_2, false);
    add_version(&side_name, "v1", "s1", 0, true);
    assert_ok(worker_route_rules_init(&f->rules, "/nowhere/main", allowed, true, &err), err);
    strcpy(f->rules.name, "main");
    strcpy(f->rules.own_version, "v1");
    strcpy(f->rules.own_digest, "d1");
    assert_ok(worker_names_new(fetch, NULL, 60000, &f->names, &err), err);
    assert_ok(worker_models_new(&options, &f->models, &err), err);
}

static void close_fixture(struct fixture *f)
{
    worker_names_free(f->names);
    worker_models_free(f->models);
}

static struct worker_job *make_job(const char *batch_id, const char *model, size_t n_model, uint32_t n_prompts)
{
    static char ids[64][16];
    struct schema_prompt prompts[64] = {0};
    struct worker_record record = {.partition = 0};
    struct schema_prompt_batch batch = {
        .batch_id = {batch_id, strlen(batch_id)}, .prompts = prompts, .n_prompts = n_prompts};
    struct base_buffer bytes;
    struct base_error err = {0};
    struct worker_job *job = NULL;
    struct schema_prompt_batch *decoded = NULL;
    for (uint32_t i = 0; i < n_prompts; i++) {
        snprintf(ids[i], sizeof ids[i], "p%u", i);
        prompts[i].id = (struct schema_string){ids[i], strlen(ids[i])};
        prompts[i].text = (struct schema_string){"And", 3};
    }
    if (model)
        batch.model = (struct schema_string){model, n_model};
    base_buffer_init(&bytes, 1 << 20);
    assert_ok(schema_prompt_batch_encode(&batch, &bytes, &err), err);
    record.value = bytes.data;
    record.n_value = bytes.n;
    assert_ok(worker_job_new(&record, &job, &err), err);
    assert_ok(schema_prompt_batch_decode(job->value, job->n_value, NULL, &decoded, NULL, &err), err);
    assert_ok(worker_job_set_batch(job, decoded, &err), err);
    base_buffer_done(&bytes);
    return job;
}

/* As the poll thread does: again and again, while the names thread asks. */
static void route(struct fixture *f, struct worker_job *job)
{
    for (int i = 0; i < 10; i++) {
        if (worker_route_job(&f->rules, f->names, f->models, job))
            return;
        assert_true(worker_names_serve_once(f->names, base_clock_mono_ns()));
    }
    fail_msg("it waits for ever");
}

#define TEXT(s) s, sizeof(s) - 1

static void test_what_a_batch_may_ask_for(void **state)
{
    (void)state;
    static const char long_name[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const struct {
        const char *allowed, *model;
        size_t n;
        const char *name, *version; /* NULL: unknown-model */
    } cases[] = {
        {NULL, NULL, 0, "main", "v1"}, /* nobody chose a version: what the worker began with */
        {NULL, TEXT("main"), "main", "v1"},
        {NULL, TEXT("main@v1"), "main", "v1"},
        {NULL, TEXT("main@v2"), "main", "v2"},
        {NULL, TEXT("main@v3"), NULL, NULL},
        {NULL, TEXT("side"), NULL, NULL},
        {NULL, TEXT("Main"), NULL, NULL},
        {"side", TEXT("side"), "side", "v1"},
        {"side", TEXT("main@v2"), "main", "v2"}, /* the default's name is always allowed */
        {"side", TEXT("other"), NULL, NULL},
        {"side@v1,x", TEXT("side"), "side", "v1"},
        {"x,side@v2", TEXT("side@v2"), NULL, NULL}, /* listed, but not there */
        {"*", TEXT("side@v1"), "side", "v1"},
        {"*", TEXT("other"), "other", ""}, /* a snapshot without a name's record, perhaps: loading will tell */
        {"*", TEXT("other@v1"), NULL, NULL},
        {"*", TEXT("@"), NULL, NULL},
        {"*", TEXT("@v1"), NULL, NULL},
        {"*", TEXT("side@"), NULL, NULL},
        {"*", TEXT("side@v1@v1"), NULL, NULL},
        {"*", TEXT("."), NULL, NULL},
        {"*", TEXT(".."), NULL, NULL},
        {"*", TEXT("../main"), NULL, NULL},
        {"*", TEXT("/etc"), NULL, NULL},
        {"*", TEXT("si\0de"), NULL, NULL},
        {"*", TEXT("side\n"), NULL, NULL},
        {"*", TEXT(long_name), NULL, NULL},
        {"*", TEXT("side@aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f;
        open_fixture(&f, cases[i].allowed, 0, 0);
        struct worker_job *job = make_job("b", cases[i].model, cases[i].n, 2);
        route(&f, job);
        if (!cases[i].name) {
            if (job->code != SCHEMA_UNKNOWN_MODEL || job->n_open || job->stage != SCHEMA_STAGE_ADMIT || !job->why[0])
                fail_msg("case %zu: %s, %u open, '%s'", i, schema_code_name(job->code), job->n_open, job->why);
        } else {
            if (job->code != SCHEMA_OK || !job->prompts[0].model)
                fail_msg("case %zu: '%s'", i, job->why);
            assert_string_equal(job->prompts[0].model->name, cases[i].name);
            assert_string_equal(job->prompts[0].model->version, cases[i].version);
            assert_int_equal(job->prompts[0].model->n_inside, 2);
        }
        worker_job_free(job);
        close_fixture(&f);
    }
}

/* The documented key, and nothing else, decides. */
static void test_a_split_goes_by_batch_and_prompt(void **state)
{
    (void)state;
    struct fixture f;
    uint32_t n_second = 0;
    open_fixture(&f, NULL, 70, 30);
    for (int b = 0; b < 20; b++) {
        char batch_id[16], key[64];
        snprintf(batch_id, sizeof batch_id, "batch-%d", b);
        struct worker_job *job = make_job(batch_id, NULL, 0, 50);
        route(&f, job);
        for (uint32_t i = 0; i < 50; i++) {
            int n = snprintf(key, sizeof key, "%s", batch_id) + 1;
            n += snprintf(key + n, sizeof key - (size_t)n, "p%u", i);
            const struct snap_version *v = snap_name_route(&main_name, "", key, (size_t)n);
            assert_string_equal(job->prompts[i].model->version, v->version);
            n_second += v == &main_name.versions[1];
        }
        worker_job_free(job);
    }
    assert_in_range(n_second, 240, 360); /* of 1000 at 0.3: the deviation is 14.5 */
    close_fixture(&f);
}

static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *list, *model;
        bool has_store;
        int rc;
    } cases[] = {
        {NULL, "m", true, 0},           {"a,b@v2", "m", true, 0},      {"*", "m@v1", true, 0},
        {"a,*", "m", true, ERR_USAGE},  {"a/b", "m", true, ERR_USAGE}, {"a@", "m", true, ERR_USAGE},
        {"a,,b", "m", true, ERR_USAGE}, {"a", "m", false, ERR_USAGE},  {NULL, "m@", true, ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct worker_route_rules rules;
        struct base_error err = {0};
        int rc = worker_route_rules_init(&rules, cases[i].model, cases[i].list, cases[i].has_store, &err);
        if (rc != cases[i].rc)
            fail_msg("case %zu: %d %s", i, rc, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_batch_may_ask_for),
        cmocka_unit_test(test_a_split_goes_by_batch_and_prompt),
        cmocka_unit_test(test_lists),
    };
    base_log_setup(getenv("ROUSE_TEST_LOG") ? BASE_LOG_DEBUG : BASE_LOG_OFF, BASE_LOG_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
