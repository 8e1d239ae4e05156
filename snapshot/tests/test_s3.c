/* The S3 parts that need no S3: parsers of outside bytes, the environment, the pace; and requests and fetches against a small server in
 * this process that answers as the tests tell it. */
#include <fcntl.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/node_cache.h"
#include "snapshot/objects_s3.h"
#include "snapshot/s3_config.h"
#include "snapshot/s3_xml.h"
#include "snapshot/snap_fetch.h"
#include "snapshot/snap_fetch_pace.h"
#include "snapshot/snap_store.h"
#include "snapshot_fixture.h"

/* ---- XML ---- */

struct seen {
    char text[2048];
};

static int take(void *context, const char *path, const char *text)
{
    struct seen *s = context;
    size_t n = strlen(s->text);
    snprintf(s->text + n, sizeof(s->text) - n, "%s=%s;", path, text);
    return strcmp(text, "stop") == 0 ? 7 : 0;
}

static void test_xml(void **state)
{
    (void)state;
    static const struct {
        const char *xml;
        int rc;
        const char *seen;
    } cases[] = {
        {"<Error><Code>A&amp;B</Code><Message> x </Message></Error>", 0, "Error/Code=A&B;Error/Message= x ;Error=;"},
        {"<a:b xmlns:a='u'><a:c>1</a:c></a:b>", 0, "b/c=1;b=;"},
        {"<?xml version='1.0'?><a/>", 0, "a=;"},
        {"<a><b>stop</b><c>2</c></a>", 7, "a/b=stop;"},
        {"", ERR_INPUT, ""},
        {"<a>", ERR_INPUT, ""},
        {"<a></b>", ERR_INPUT, ""},
        {"<a/><a/>", ERR_INPUT, "a=;"},
        {"not xml", ERR_INPUT, ""},
        {"<a>&#0;</a>", ERR_INPUT, ""},
        {"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", ERR_INPUT, ""},
        {"<a><a><a><a><a><a><a><a><a/></a></a></a></a></a></a></a></a>", ERR_INPUT, ""},
        {"<a>\xff</a>", ERR_INPUT, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct seen s = {.text = ""};
        struct base_error err = {0};
        print_message("%s\n", cases[i].xml);
        assert_int_equal(s3_xml_parse(cases[i].xml, strlen(cases[i].xml), take, &s, &err), cases[i].rc);
        assert_string_equal(s.text, cases[i].seen);
    }
}

/* A text and a name of any length: refused, not cut. */
static void test_xml_long(void **state)
{
    (void)state;
    char *xml = malloc(8192);
    struct seen s = {.text = ""};
    memset(xml, 'x', 8192);
    memcpy(xml, "<a>", 3);
    memcpy(xml + 4000, "</a>", 4);
    assert_int_equal(s3_xml_parse(xml, 4004, take, &s, NULL), ERR_INPUT);
    memset(xml, 'x', 8192);
    xml[0] = '<';
    memcpy(xml + 4000, "/>", 2);
    assert_int_equal(s3_xml_parse(xml, 4002, take, &s, NULL), ERR_INPUT);
    free(xml);
}

static void test_time(void **state)
{
    (void)state;
    assert_int_equal(s3_time_parse("2026-11-26T08:14:04.250Z"), 1795680844250);
    assert_int_equal(s3_time_parse("1970-01-01T00:00:01Z"), 1000);
    assert_int_equal(s3_time_parse(""), 0);
    assert_int_equal(s3_time_parse("yesterday"), 0);
}

/* ---- the environment ---- */

static const char *const variables[] = {"AWS_ENDPOINT_URL",   "AWS_ENDPOINT_URL_S3", "AWS_REGION",
                                        "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID",   "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN"};

static void environment(const char *endpoint)
{
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        unsetenv(variables[i]);
    setenv("AWS_ACCESS_KEY_ID", "id", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "the-secret", 1);
    if (endpoint)
        setenv("AWS_ENDPOINT_URL", endpoint, 1);
}

static void test_config(void **state)
{
    (void)state;
    static const struct {
        const char *url, *endpoint, *region;
        const char *base, *prefix; /* NULL: ERR_USAGE */
    } cases[] = {
        {"s3://bucket", NULL, NULL, "https://bucket.s3.us-east-1.amazonaws.com", ""},
        {"s3://bucket/", NULL, "eu-west-3", "https://bucket.s3.eu-west-3.amazonaws.com", ""},
        {"s3://bucket/a/b/", NULL, "cn-north-1", "https://bucket.s3.cn-north-1.amazonaws.com.cn", "a/b/"},
        {"s3://dotted.bucket/a", NULL, NULL, "https://s3.us-east-1.amazonaws.com/dotted.bucket", "a/"},
        {"s3://bucket/a", "http://minio:9000", NULL, "http://minio:9000/bucket", "a/"},
        {"s3://bucket", "https://host/below/", NULL, "https://host/below/bucket", ""},
        {"s3://", NULL, NULL, NULL, NULL},
        {"s3://ab", NULL, NULL, NULL, NULL},
        {"s3://Bucket", NULL, NULL, NULL, NULL},
        {"s3://bucket/a/../b", NULL, NULL, NULL, NULL},
        {"s3://bucket/a//b", NULL, NULL, NULL, NULL},
        {"s3://bucket/a b", NULL, NULL, NULL, NULL},
        {"s3://bucket", "ftp://host", NULL, NULL, NULL},
        {"s3://bucket", "http://user@host", NULL, NULL, NULL},
        {"s3://bucket", "http://host?x", NULL, NULL, NULL},
        {"s3://bucket", "http://host\r\nX-Evil: 1", NULL, NULL, NULL},
        {"s3://bucket", NULL, "a/b", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct s3_config c;
        struct base_error err = {0};
        environment(cases[i].endpoint);
        if (cases[i].region)
            setenv("AWS_REGION", cases[i].region, 1);
        print_message("%s\n", cases[i].url);
        assert_int_equal(s3_config_read(cases[i].url, &c, &err), cases[i].base ? 0 : ERR_USAGE);
        if (!cases[i].base)
            continue;
        assert_string_equal(c.base, cases[i].base);
        assert_string_equal(c.prefix, cases[i].prefix);
    }
}

/* What is wrong is named, what is secret is not shown. */
static void test_config_secrets(void **state)
{
    (void)state;
    for (size_t i = 4; i < sizeof(variables) / sizeof(variables[0]); i++) {
        struct s3_config c;
        struct base_error err = {0};
        environment(NULL);
        setenv(variables[i], "hidden\r\nX-Evil: 1", 1);
        assert_int_equal(s3_config_read("s3://bucket", &c, &err), ERR_USAGE);
        assert_non_null(strstr(err.text, variables[i]));
        assert_null(strstr(err.text, "hidden"));
    }
    struct s3_config c;
    struct base_error err = {0};
    environment(NULL);
    unsetenv("AWS_SECRET_ACCESS_KEY");
    assert_int_equal(s3_config_read("s3://bucket", &c, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "AWS_SECRET_ACCESS_KEY"));
}

/* ---- the pace ---- */

/* A network that gives `each` bytes a second to a range, up to `all` of them. */
static uint32_t pace_on(double each, double all, unsigned n_chunks)
{
    struct snap_fetch_pace p;
    double now = 1e9;
    snap_fetch_pace_init(&p, (uint64_t)now);
    for (unsigned i = 0; i < n_chunks; i++) {
        double rate = each * p.ranges < all ? each * p.ranges : all;
        now += SNAP_CHUNK_BYTES / rate * 1e9;
        snap_fetch_pace_tick(&p, SNAP_CHUNK_BYTES, (uint64_t)now);
        assert_in_range(p.ranges, SNAP_FETCH_RANGES_MIN, SNAP_FETCH_RANGES_MAX);
    }
    return p.ranges;
}

static void test_pace(void **state)
{
    (void)state;
    assert_int_equal(pace_on(50e6, 10e9, 2000), SNAP_FETCH_RANGES_MAX); /* more ranges always pay */
    unsigned least = 0, n = 0;
    for (unsigned chunks = 400; chunks < 800; chunks++, n++)
        least += pace_on(100e6, 300e6, chunks) ==
                 SNAP_FETCH_RANGES_MIN; /* three fill it: four are kept, more tried rarely */
    assert_true(least * 10 > n * 8);
}

/* ---- a server ---- */

struct server {
    struct MHD_Daemon *daemon;
    const uint8_t *object;
    atomic_size_t bytes, flip_at; /* SIZE_MAX: none */
    atomic_uint requests, chunks, chunks_max, fail_status, fails, flips, ignored, replaced;
};

static enum MHD_Result say(struct MHD_Connection *c, unsigned status, const void *bytes, size_t n, const char *range)
{
    union {
        const void *in;
        void *out;
    } body = {bytes};
    struct MHD_Response *r = MHD_create_response_from_buffer(n, body.out, MHD_RESPMEM_MUST_COPY);
    if (range)
        MHD_add_response_header(r, "Content-Range", range);
    MHD_add_response_header(r, "ETag", "\"one\"");
    enum MHD_Result done = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return done;
}

/* The front of the object, one bit of it wrong. */
static enum MHD_Result say_flipped(struct MHD_Connection *c, struct server *s, size_t n, const char *range)
{
    size_t at = atomic_load(&s->flip_at);
    uint8_t *copy = malloc(n);
    memcpy(copy, s->object, n);
    if (at < n)
        copy[at] ^= 1;
    enum MHD_Result done = say(c, 206, copy, n, range);
    free(copy);
    return done;
}

static bool take_one(atomic_uint *n)
{
    unsigned now = atomic_load(n);
    while (now && !atomic_compare_exchange_weak(n, &now, now - 1))
        ;
    return now > 0;
}

static enum MHD_Result answer(void *context, struct MHD_Connection *c, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_bytes, void **seen)
{
    struct server *s = context;
    (void)version, (void)upload, (void)method;
    if (!*seen) {
        *seen = s;
        return MHD_YES;
    }
    *upload_bytes = 0;
    atomic_fetch_add(&s->requests, 1);
    assert_non_null(MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization"));
    const char *range = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Range");
    const char *if_match = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "If-Match");
    size_t begin = 0, end = 0;
    if (take_one(&s->fails))
        return say(c, atomic_load(&s->fail_status), "<Error><Code>Told</Code><Message>to</Message></Error>", 53, NULL);
    if (!strstr(url, ".snap") || !range || sscanf(range, "bytes=%zu-%zu", &begin, &end) != 2)
        return say(c, 404, "<Error><Code>NoSuchKey</Code></Error>", 37, NULL);
    if (if_match && atomic_load(&s->replaced))
        return say(c, 412, "<Error><Code>PreconditionFailed</Code></Error>", 46, NULL);
    if (atomic_load(&s->ignored))
        return say(c, 200, s->object, s->bytes, NULL);
    if (end >= s->bytes)
        end = s->bytes - 1;
    char text[96];
    size_t n = end - begin + 1;
    snprintf(text, sizeof(text), "bytes %zu-%zu/%zu", begin, end, s->bytes);
    if (begin == 0)
        return say_flipped(c, s, n, text);
    if (atomic_fetch_add(&s->chunks, 1) >= atomic_load(&s->chunks_max))
        return say(c, 403, "<Error><Code>Enough</Code></Error>", 34, NULL);
    if (!take_one(&s->flips))
        return say(c, 206, s->object + begin, n, text);
    uint8_t *bad = malloc(n);
    memcpy(bad, s->object + begin, n);
    bad[n / 2] ^= 4;
    enum MHD_Result done = say(c, 206, bad, n, text);
    free(bad);
    return done;
}

static void server_start(struct server *s)
{
    char url[64];
    s->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, answer, s, MHD_OPTION_END);
    assert_non_null(s->daemon);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u", info->port);
    environment(url);
}

/* The oracle's snapshot, as bytes that the server has. */
static uint8_t *snapshot_bytes(struct fixture *f, char id[33], size_t *out_n)
{
    char path[PATH_MAX];
    struct snap_start_options options = fixture_options(f);
    struct fixture_run run = fixture_start(&options);
    assert_int_equal(run.rc, 0);
    memcpy(id, run.id, 33);
    fixture_run_done(&run);
    fixture_snapshot_path(f, id, ".snap", path);
    *out_n = fixture_size(path);
    uint8_t *bytes = malloc(*out_n);
    FILE *file = fopen(path, "rb");
    assert_int_equal(fread(bytes, 1, *out_n, file), *out_n);
    fclose(file);
    return bytes;
}

struct bed {
    struct server server;
    struct snap_store *store;
    uint8_t *bytes;
    char id[33], cache[PATH_MAX];
};

static void bed_open(struct bed *b, struct fixture *f)
{
    memset(b, 0, sizeof(*b));
    size_t n;
    b->bytes = snapshot_bytes(f, b->id, &n);
    b->server.object = b->bytes;
    b->server.bytes = n;
    atomic_store(&b->server.chunks_max, UINT32_MAX);
    atomic_store(&b->server.flip_at, SIZE_MAX);
    server_start(&b->server);
    snprintf(b->cache, sizeof(b->cache), "%s/cache", f->root);
    const struct snap_start_options options = {.store = "s3://bucket/pre", .cache = b->cache};
    assert_int_equal(snap_store_open_with(&options, &b->store, NULL), 0);
}

static void bed_close(struct bed *b)
{
    snap_store_close(b->store);
    MHD_stop_daemon(b->server.daemon);
    free(b->bytes);
}

static int fetch_all(struct bed *b, struct base_error *err)
{
    struct snap_fetch *fetch = NULL;
    int rc = snap_fetch_begin(b->store, b->id, &fetch, err);
    if (rc == 0)
        rc = snap_fetch_wait(fetch, b->server.bytes, err);
    if (rc == 0) {
        char *there = malloc(b->server.bytes);
        int fd = open(snap_fetch_path(fetch), O_RDONLY);
        assert_int_equal(pread(fd, there, b->server.bytes, 0), b->server.bytes);
        assert_memory_equal(there, b->bytes, b->server.bytes);
        close(fd);
        free(there);
    }
    int end = snap_fetch_end(fetch, rc < 0, rc < 0 ? NULL : err);
    return rc < 0 ? rc : end;
}

static void test_fetch(void **state)
{
    struct bed b;
    bed_open(&b, *state);
    assert_int_equal(fetch_all(&b, NULL), 0);
    assert_int_equal(fixture_count(b.cache, ".snap"), 1);
    assert_int_equal(fixture_count(b.cache, ".fetching") + fixture_count(b.cache, ".map"), 0);
    unsigned before = atomic_load(&b.server.requests);
    assert_int_equal(fetch_all(&b, NULL), 0); /* the copy */
    assert_int_equal(atomic_load(&b.server.requests), before);
    bed_close(&b);
}

/* What passes does not show; what does not is named, and leaves nothing. */
static void test_fetch_trouble(void **state)
{
    static const struct {
        unsigned status, fails, flips, ignored, replaced;
        int rc;
        const char *text;
    } cases[] = {
        {503, 3, 0, 0, 0, 0, ""},
        {429, 2, 0, 0, 0, 0, ""},
        {0, 0, 2, 0, 0, 0, ""},
        {0, 0, 1000, 0, 0, ERR_CORRUPT, "fetched 3 times"},
        {404, 1, 0, 0, 0, ERR_NOTFOUND, "404 Told: to"},
        {403, 1, 0, 0, 0, ERR_SERVICE, "403 Told: to"},
        {301, 1, 0, 0, 0, ERR_SERVICE, "redirections are not followed"},
        {0, 0, 0, 1, 0, ERR_INPUT, "not the range"},
        {0, 0, 0, 0, 1, ERR_AGAIN, "412"},
    };
    struct bed b;
    bed_open(&b, *state);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct base_error err = {0};
        print_message("case %zu: %u\n", i, cases[i].status);
        atomic_store(&b.server.fail_status, cases[i].status);
        atomic_store(&b.server.fails, cases[i].fails);
        atomic_store(&b.server.flips, cases[i].flips);
        atomic_store(&b.server.ignored, cases[i].ignored);
        atomic_store(&b.server.replaced, cases[i].replaced);
        assert_int_equal(fetch_all(&b, &err), cases[i].rc);
        assert_non_null(strstr(err.text, cases[i].text));
        assert_null(strstr(err.text, "the-secret"));
        assert_int_equal(fixture_count(b.cache, ".snap"), cases[i].rc == 0);
        if (cases[i].rc != ERR_AGAIN) /* that one goes on with what it has */
            assert_int_equal(fixture_count(b.cache, ".fetching"), 0);
        node_cache_drop(b.cache, b.id);
    }
    bed_close(&b);
}

/* Objects that are no snapshot: told after their front was fetched, three times. */
static void test_fetch_foreign(void **state)
{
    struct bed b;
    struct base_error err = {0};
    bed_open(&b, *state);
    size_t whole = b.server.bytes;
    for (size_t n = 1; n < whole; n = n * 7 + 1) {
        b.server.bytes = n;
        assert_int_equal(fetch_all(&b, &err), ERR_CORRUPT);
    }
    b.server.bytes = whole;
    for (size_t at = 0; at < 8192; at += 97) {
        atomic_store(&b.server.flip_at, at);
        assert_int_equal(fetch_all(&b, &err), ERR_CORRUPT);
        assert_int_equal(fixture_count(b.cache, ".snap") + fixture_count(b.cache, ".fetching"), 0);
    }
    atomic_store(&b.server.flip_at, SIZE_MAX);
    bed_close(&b);
}

/* The marks of a fetch that failed in the middle, and how many there are. */
static unsigned marks_read(const struct bed *b, uint8_t *marks, uint32_t n_chunks)
{
    enum { MARKS_AT = 88 }; /* behind magic, number of chunks and digest */
    char path[PATH_MAX + 64];
    unsigned n = 0;
    snprintf(path, sizeof(path), "%s/%s.fetching.map", b->cache, b->id);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, marks, n_chunks, MARKS_AT), n_chunks);
    close(fd);
    for (uint32_t i = 0; i < n_chunks; i++)
        n += marks[i];
    return n;
}

/* What a fetch left is gone on with: marked chunks are not fetched again, unless they are not what the mark says. */
static void test_fetch_resume(void **state)
{
    struct bed b;
    struct snap_layout layout;
    uint8_t marks[64];
    char path[PATH_MAX + 64];
    bed_open(&b, *state);
    assert_int_equal(snap_header_decode(b.bytes, b.server.bytes, &layout, NULL), 0);
    assert_in_range(layout.n_chunks, 5, sizeof(marks));
    atomic_store(&b.server.chunks_max, 3);
    assert_int_equal(fetch_all(&b, NULL), ERR_SERVICE);
    assert_int_equal(fixture_count(b.cache, ".fetching"), 1);
    unsigned n = marks_read(&b, marks, layout.n_chunks), first = 0;
    assert_in_range(n, 1, 3);
    while (!marks[first])
        first++;
    snprintf(path, sizeof(path), "%s/%s.fetching", b.cache, b.id);
    fixture_flip(path, snap_layout_chunk(&layout, first).offset + 1);
    atomic_store(&b.server.chunks_max, UINT32_MAX);
    atomic_store(&b.server.chunks, 0);
    assert_int_equal(fetch_all(&b, NULL), 0);
    assert_int_equal(atomic_load(&b.server.chunks), layout.n_chunks - n + 1);
    assert_int_equal(fixture_count(b.cache, ".fetching") + fixture_count(b.cache, ".map"), 0);
    bed_close(&b);
}

/* A list of marks that is something else is not believed. */
static void test_fetch_bad_marks(void **state)
{
    static const char *const harm[] = {"head -c 3 /dev/zero > %s", "truncate -s 100M %s",
                                       "head -c 5000 /dev/urandom > %s", "rm %s",
                                       "printf X | dd of=%s bs=1 seek=20 conv=notrunc 2>/dev/null"};
    struct bed b;
    bed_open(&b, *state);
    for (size_t i = 0; i < sizeof(harm) / sizeof(harm[0]); i++) {
        char path[PATH_MAX + 64], command[2 * PATH_MAX];
        atomic_store(&b.server.chunks, 0);
        atomic_store(&b.server.chunks_max, 3);
        assert_int_equal(fetch_all(&b, NULL), ERR_SERVICE);
        snprintf(path, sizeof(path), "%s/%s.fetching.map", b.cache, b.id);
        const char *mark = strstr(harm[i], "%s");
        snprintf(command, sizeof(command), "%.*s'%s'%s", (int)(mark - harm[i]), harm[i], path, mark + 2);
        fixture_shell("%s", command);
        atomic_store(&b.server.chunks_max, UINT32_MAX);
        assert_int_equal(fetch_all(&b, NULL), 0);
        node_cache_drop(b.cache, b.id);
    }
    bed_close(&b);
}

/* ---- the cache ---- */

static void cache_file(const char *dir, unsigned i, const char *suffix, size_t n)
{
    fixture_shell("mkdir -p '%s/locks'; head -c %zu /dev/zero > '%s/%032x%s'; touch -d @%u '%s/%032x%s'", dir, n, dir,
                  i, suffix, 1000 + i, dir, i, suffix);
}

static void test_cache(void **state)
{
    struct fixture *f = *state;
    char dir[PATH_MAX + 16], path[PATH_MAX + 64];
    snprintf(dir, sizeof(dir), "%s/lru", f->root);
    for (unsigned i = 1; i <= 5; i++) {
        cache_file(dir, i, ".snap", 1 << 20);
        cache_file(dir, i, ".used", 0);
    }
    cache_file(dir, 9, ".snap", 1 << 20); /* another store's: no note */
    snprintf(path, sizeof(path), "%s/%032x.snap", dir, 2);
    struct stat before, after;
    stat(path, &before);
    node_cache_use(dir, "00000000000000000000000000000001"); /* the oldest, used now */
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_SH), 0); /* the second is being read */
    node_cache_make_room(dir, 4 << 20, 1 << 20, "none");
    assert_int_equal(fixture_count(dir, ".snap"), 4);
    snprintf(path, sizeof(path), "%s/%032x.snap", dir, 3);
    assert_int_equal(access(path, F_OK), -1); /* 3 and 4 went: 1 was used, 2 is in use */
    snprintf(path, sizeof(path), "%s/%032x.snap", dir, 2);
    node_cache_use(dir, "00000000000000000000000000000002");
    stat(path, &after);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec); /* its identity stays */
    node_cache_make_room(dir, 1, 1 << 20, "00000000000000000000000000000005");
    assert_int_equal(fixture_count(dir, ".snap"), 3); /* 2 in use, 5 kept, 9 not ours */
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xml),
        cmocka_unit_test(test_xml_long),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_secrets),
        cmocka_unit_test(test_pace),
        cmocka_unit_test_setup_teardown(test_fetch, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_fetch_trouble, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_fetch_foreign, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_fetch_resume, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_fetch_bad_marks, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_cache, fixture_setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
