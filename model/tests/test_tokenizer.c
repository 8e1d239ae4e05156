/* The tokenizer against the tokenizers library's answers, against hostile files, and against damaged tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/evp.h>

#include "base/clock.h"
#include "base/file.h"
#include "model/tests/tokenizer_fixture.h"
#include "model/tokenizer_internal.h"

enum { BLOB_BYTES_MAX = 64 << 20 };

static struct base_buffer pythia_blob;
static struct model_tokenizer *pythia;

static const char *source_path(const char *name)
{
    static char path[PATH_MAX];
    const char *root = getenv("ROUSE_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    return path;
}

static json_t *load_json(const char *name)
{
    json_error_t fault;
    json_t *root = json_load_file(source_path(name), JSON_ALLOW_NUL, &fault);
    if (!root)
        fail_msg("%s: %s", name, fault.text);
    return root;
}

static struct model_tokenizer *open_blob(const struct base_buffer *blob)
{
    struct model_tokenizer *t = NULL;
    struct base_error err = {0};
    if (model_tokenizer_open(blob->data, blob->n, &t, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

static int setup(void **state)
{
    (void)state;
    struct base_error err = {0};
    base_buffer_init(&pythia_blob, BLOB_BYTES_MAX);
    if (model_tokenizer_compile_file(source_path("tests/data/gpt-neox-tokenizer.json"), &pythia_blob, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    return model_tokenizer_open(pythia_blob.data, pythia_blob.n, &pythia, &err);
}

static int teardown(void **state)
{
    (void)state;
    model_tokenizer_close(pythia);
    base_buffer_done(&pythia_blob);
    return 0;
}

static int32_t *encode(const struct model_tokenizer *t, const char *text, size_t n, size_t *out_n)
{
    int32_t *ids = NULL;
    struct base_error err = {0};
    if (model_tokenizer_encode(t, text, n, SIZE_MAX, &ids, out_n, &err) < 0)
        fail_msg("%s", err.text);
    return ids;
}

/* --- golden */

static void print_ids(const char *title, const int32_t *ids, size_t n)
{
    fprintf(stderr, "  %s:", title);
    for (size_t i = 0; i < n && i < 60; i++)
        fprintf(stderr, " %d", ids[i]);
    fprintf(stderr, n > 60 ? " ... (%zu)\n" : " (%zu)\n", n);
}

static bool same_text(const char *name, const char *what, const json_t *expected, const struct base_buffer *got)
{
    size_t n = json_string_length(expected);
    bool same = got->n == n && memcmp(base_buffer_cstr(got), json_string_value(expected), n) == 0;
    if (!same)
        fprintf(stderr, "%s: %s '%s', expected '%s'\n", name, what, base_buffer_cstr(got), json_string_value(expected));
    return same;
}

/* One {text, ids, decoded, skipped?}. */
static bool check_case(const struct model_tokenizer *t, const char *name, const json_t *v)
{
    const json_t *text = json_object_get(v, "text"), *ids = json_object_get(v, "ids"),
                 *skipped = json_object_get(v, "skipped");
    size_t n = 0, n_expected = json_array_size(ids);
    int32_t *got = encode(t, json_string_value(text), json_string_length(text), &n);
    int32_t *expected = calloc(n_expected + 1, sizeof *expected);
    assert_non_null(expected);
    for (size_t i = 0; i < n_expected; i++)
        expected[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    bool good = n == n_expected && (n == 0 ? got == NULL : memcmp(got, expected, n * sizeof *got) == 0);
    if (!good) {
        fprintf(stderr, "%s: text '%s'\n", name, json_string_value(text));
        print_ids("got     ", got, n);
        print_ids("expected", expected, n_expected);
    }
    struct base_buffer out;
    base_buffer_init(&out, BLOB_BYTES_MAX);
    model_tokenizer_decode(t, expected, n_expected, false, &out);
    good &= same_text(name, "decodes to", json_object_get(v, "decoded"), &out);
    base_buffer_clear(&out);
    model_tokenizer_decode(t, expected, n_expected, true, &out);
    good &= !skipped || same_text(name, "without special tokens decodes to", skipped, &out);
    base_buffer_done(&out);
    free(expected);
    free(got);
    return good;
}

static bool check_nfc(const char *name, const json_t *v)
{
    const json_t *text = json_object_get(v, "text");
    struct base_buffer out;
    base_buffer_init(&out, BLOB_BYTES_MAX);
    struct base_error err = {0};
    int rc = model_tokenizer_nfc((const uint8_t *)json_string_value(text), json_string_length(text), &out, &err);
    bool good = rc == 0 && same_text(name, "normalises to", json_object_get(v, "nfc"), &out);
    base_buffer_done(&out);
    return good;
}

static void test_golden_ids(void **state)
{
    (void)state;
    json_t *root = load_json("tests/golden/token_ids.json"), *v;
    size_t i, n_bad = 0;
    json_array_foreach(json_object_get(root, "cases"), i, v)
    {
        const char *name = json_string_value(json_object_get(v, "name"));
        n_bad += !(check_case(pythia, name, v) & check_nfc(name, v));
    }
    assert_true(i > 400);
    json_decref(root);
    assert_int_equal(n_bad, 0);
}

static void sha256_hex(const void *bytes, size_t n, char out[65])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n_digest = 0;
    assert_int_equal(EVP_Digest(bytes, n, digest, &n_digest, EVP_sha256(), NULL), 1);
    for (unsigned int i = 0; i < n_digest; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static void test_golden_long(void **state)
{
    (void)state;
    json_t *root = load_json("tests/golden/token_ids.json"), *v;
    size_t i;
    json_array_foreach(json_object_get(root, "long"), i, v)
    {
        struct base_buffer text;
        base_buffer_init(&text, BLOB_BYTES_MAX);
        for (json_int_t k = 0; k < json_integer_value(json_object_get(v, "count")); k++)
            base_buffer_string(&text, json_string_value(json_object_get(v, "unit")));
        size_t n = 0;
        uint64_t began_ns = base_clock_mono_ns();
        int32_t *ids = encode(pythia, base_buffer_cstr(&text), text.n, &n);
        double seconds = (double)(base_clock_mono_ns() - began_ns) / 1e9;
        char hex[65];
        sha256_hex(ids, n * sizeof *ids, hex);
        assert_int_equal(n, json_integer_value(json_object_get(v, "n_ids")));
        assert_string_equal(hex, json_string_value(json_object_get(v, "sha256")));
        if (seconds >= 1)
            fail_msg("%s: %zu bytes took %.3f s", json_string_value(json_object_get(v, "name")), text.n, seconds);
        free(ids);
        base_buffer_done(&text);
    }
    assert_true(i > 0);
    json_decref(root);
}

/* Every option, each in a tokenizer of its own. */
static void test_golden_options(void **state)
{
    (void)state;
    json_t *root = load_json("model/tests/small_tokenizers.json"), *v, *text;
    size_t i, k, n_bad = 0;
    json_array_foreach(json_object_get(root, "cases"), i, v)
    {
        const char *name = json_string_value(json_object_get(v, "name"));
        char *json = json_dumps(json_object_get(v, "tokenizer"), 0);
        struct base_buffer blob;
        struct base_error err = {0};
        base_buffer_init(&blob, BLOB_BYTES_MAX);
        if (model_tokenizer_compile(json, strlen(json), name, &blob, &err) < 0)
            fail_msg("%s", err.text);
        struct model_tokenizer *t = open_blob(&blob);
        json_array_foreach(json_object_get(v, "texts"), k, text) n_bad += !check_case(t, name, text);
        model_tokenizer_close(t);
        base_buffer_done(&blob);
        free(json);
    }
    assert_true(i > 20);
    json_decref(root);
    assert_int_equal(n_bad, 0);
}

/* --- what the functions promise */

static void test_looking(void **state)
{
    (void)state;
    size_t n = 77;
    assert_int_equal(model_tokenizer_n_ids(pythia), 50277);
    assert_int_equal(model_tokenizer_find(pythia, "<|endoftext|>", 13), 0);
    assert_int_equal(model_tokenizer_find(pythia, "  ", 2), 50276);
    assert_int_equal(model_tokenizer_find(pythia, " the", 4), -1); /* not an added one */
    assert_true(model_tokenizer_is_special(pythia, 0));
    assert_false(model_tokenizer_is_special(pythia, 50276));
    assert_false(model_tokenizer_is_special(pythia, -1));
    assert_memory_equal(model_tokenizer_bytes(pythia, 253, &n), " the", 4);
    assert_int_equal(n, 4);
    static const int32_t outside[] = {-1, INT32_MIN, 50277, 50303, INT32_MAX};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        model_tokenizer_bytes(pythia, outside[i], &n);
        assert_int_equal(n, 0);
    }
}

static void test_bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *expected;
    } cases[] = {
        {"\xff", 1, "byte 0"},
        {"a\xc3", 2, "byte 1"},
        {"ab\xed\xa0\x80", 5, "byte 2"},
        {"abc\xc0\x80", 5, "byte 3"},
        {"\xf4\x90\x80\x80", 4, "byte 0"},
        {"\xc3\xa9\x80", 3, "byte 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t *ids = (int32_t *)&ids;
        size_t n_ids = 5;
        struct base_error err = {0};
        assert_int_equal(model_tokenizer_encode(pythia, cases[i].text, cases[i].n, 100, &ids, &n_ids, &err), ERR_INPUT);
        assert_non_null(strstr(err.text, cases[i].expected));
        assert_ptr_equal(ids, &ids); /* untouched */
        assert_int_equal(n_ids, 5);
    }
}

static void test_limit(void **state)
{
    (void)state;
    int32_t *ids = NULL;
    size_t n = 0;
    struct base_error err = {0};
    assert_int_equal(model_tokenizer_encode(pythia, "a b c", 5, 2, &ids, &n, &err), ERR_INPUT);
    assert_non_null(strstr(err.text, "more than 2 tokens"));
    assert_int_equal(model_tokenizer_encode(pythia, "a b c", 5, 3, &ids, &n, &err), 0);
    assert_int_equal(n, 3);
    free(ids);
    assert_int_equal(model_tokenizer_encode(pythia, "", 0, 0, &ids, &n, &err), 0);
    assert_null(ids);
    assert_int_equal(n, 0);
}

static void test_decode_lossy(void **state)
{
    (void)state;
    /* Tokens of single bytes: the alphabet's U+00F0.. come first in the fixture. */
    struct base_buffer blob, out;
    base_buffer_init(&blob, BLOB_BYTES_MAX);
    base_buffer_init(&out, 1000);
    tokenizer_fixture_blob(false, &blob);
    struct model_tokenizer *t = open_blob(&blob);
    static const struct {
        const char *name, *bytes, *expected;
    } cases[] = {
        {"a whole emoji", "f09f9880", "\xf0\x9f\x98\x80"},
        {"an emoji cut by a letter", "f09f9861",
         "\xef\xbf\xbd"
         "a"},
        {"cut by another beginning", "f09fc3a9", "\xef\xbf\xbd\xc3\xa9"},
        {"cut twice", "f09ff09f", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"continuations alone", "8080", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"surrogate", "eda080", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"never a byte", "c061ff",
         "\xef\xbf\xbd"
         "a\xef\xbf\xbd"},
        {"cut at the end", "61e4b8", "a\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t ids[8];
        size_t n = strlen(cases[i].bytes) / 2;
        for (size_t k = 0; k < n; k++)
            sscanf(cases[i].bytes + 2 * k, "%2x", (unsigned *)&ids[k]);
        base_buffer_clear(&out);
        model_tokenizer_decode(t, ids, n, false, &out);
        if (strcmp(base_buffer_cstr(&out), cases[i].expected) != 0)
            fail_msg("%s: '%s', expected '%s'", cases[i].name, base_buffer_cstr(&out), cases[i].expected);
    }
    model_tokenizer_close(t);
    base_buffer_done(&out);
    base_buffer_done(&blob);
}

/* Texts that a careless implementation takes quadratic time for. Generous bound: sanitizers are slow. */
static void test_hostile_lengths(void **state)
{
    (void)state;
    static const struct {
        const char *name, *unit;
        size_t n_units;
    } cases[] = {
        {"marks of falling class", "\xcc\x81\xcc\xa3\xcc\xa7\xcc\xb4", 30000},
        {"marks that come apart", "\xe0\xbd\xb3", 60000},
        {"spaces and a letter", "       a", 30000},
        {"newlines", "\n", 300000},
        {"Hangul vowels", "\xe1\x85\xa1", 80000},
        {"no word border", "ab", 150000},
        {"almost special", "<|endoftext|", 20000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct base_buffer text, back, nfc;
        struct base_error err = {0};
        base_buffer_init(&text, BLOB_BYTES_MAX);
        base_buffer_init(&back, BLOB_BYTES_MAX);
        base_buffer_init(&nfc, BLOB_BYTES_MAX);
        for (size_t k = 0; k < cases[i].n_units; k++)
            base_buffer_string(&text, cases[i].unit);
        size_t n = 0;
        uint64_t began_ns = base_clock_mono_ns();
        int32_t *ids = encode(pythia, base_buffer_cstr(&text), text.n, &n);
        double seconds = (double)(base_clock_mono_ns() - began_ns) / 1e9;
        if (seconds > 3)
            fail_msg("%s: %zu bytes took %.1f s", cases[i].name, text.n, seconds);
        model_tokenizer_decode(pythia, ids, n, false, &back);
        assert_int_equal(model_tokenizer_nfc(text.data, text.n, &nfc, &err), 0);
        assert_int_equal(back.n, nfc.n);
        assert_memory_equal(back.data, nfc.data, nfc.n);
        free(ids);
        base_buffer_done(&text);
        base_buffer_done(&back);
        base_buffer_done(&nfc);
    }
}

static uint64_t random_next(uint64_t *seed)
{
    uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static void random_text(uint64_t *seed, struct base_buffer *out)
{
    static const char *const pieces[] = {"a",
                                         "the",
                                         " ",
                                         "  ",
                                         "\n",
                                         "'s",
                                         "e\xcc\x81",
                                         "\xcc\xa3",
                                         "\xe4\xb8\xad",
                                         "7",
                                         ".",
                                         "\xf0\x9f\x98\x80",
                                         "\xc3\xa9",
                                         "\xe1\x84\x80\xe1\x85\xa1",
                                         "\t",
                                         "Word",
                                         "\xc2\xa0"};
    base_buffer_clear(out);
    for (uint64_t n = 1 + random_next(seed) % 40; n > 0; n--) {
        uint64_t pick = random_next(seed);
        uint8_t bytes[4];
        if (pick % 3 > 0) {
            base_buffer_string(out, pieces[pick / 3 % (sizeof pieces / sizeof pieces[0])]);
        } else {
            size_t k = base_utf8_encode((uint32_t)(pick / 3 % (pick & 64 ? 0x110000 : 0x3000)), bytes);
            base_buffer_append(out, bytes, k); /* nothing for a surrogate */
        }
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    uint64_t seed = 1;
    struct base_buffer text, back, nfc;
    base_buffer_init(&text, 1 << 16);
    base_buffer_init(&back, 1 << 16);
    base_buffer_init(&nfc, 1 << 16);
    for (int i = 0; i < 5000; i++) {
        struct base_error err = {0};
        random_text(&seed, &text);
        base_buffer_clear(&back);
        base_buffer_clear(&nfc);
        size_t n = 0;
        int32_t *ids = encode(pythia, base_buffer_cstr(&text), text.n, &n);
        model_tokenizer_decode(pythia, ids, n, false, &back);
        assert_int_equal(model_tokenizer_nfc((const uint8_t *)base_buffer_cstr(&text), text.n, &nfc, &err), 0);
        if (strcmp(base_buffer_cstr(&back), base_buffer_cstr(&nfc)) != 0)
            fail_msg("'%s' comes back as '%s'", base_buffer_cstr(&nfc), base_buffer_cstr(&back));
        free(ids);
    }
    base_buffer_done(&text);
    base_buffer_done(&back);
    base_buffer_done(&nfc);
}

struct thread_work {
    pthread_t thread;
    const char *text;
    int32_t *ids;
    size_t n_ids;
};

static void *thread_encode(void *context)
{
    struct thread_work *w = context;
    for (int i = 0; i < 50; i++) {
        struct base_error err = {0};
        free(w->ids);
        w->ids = NULL;
        if (model_tokenizer_encode(pythia, w->text, strlen(w->text), 10000, &w->ids, &w->n_ids, &err) < 0)
            abort();
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    static const char text[] =
        "It was a dark and stormy night; e\xcc\x81<|endoftext|>   the rain fell in torrents\xe2\x80\x94";
    struct thread_work work[4] = {0};
    for (int i = 0; i < 4; i++) {
        work[i].text = text;
        assert_int_equal(pthread_create(&work[i].thread, NULL, thread_encode, &work[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(work[i].thread, NULL), 0);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(work[i].n_ids, work[0].n_ids);
        assert_memory_equal(work[i].ids, work[0].ids, work[0].n_ids * sizeof(int32_t));
    }
    for (int i = 0; i < 4; i++)
        free(work[i].ids);
}

/* --- files that are wrong */

#define FIXED              "'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false},'decoder':{'type':'ByteLevel'}"
#define VOCAB              "'vocab':{'a':0,'b':1,'ab':2}"
#define MODEL              "'model':{" VOCAB ",'merges':['a b']}"
#define FLAGS              "'special':false,'normalized':false,'lstrip':false,'rstrip':false,'single_word':false"
#define ADDED(id, content) "{'id':" #id ",'content':" content "," FLAGS "}"

static const struct bad_file {
    const char *name, *json, *expected; /* ' stands for " */
} bad_files[] = {
    {"not JSON", "hello", "bad.json: line 1"},
    {"empty", "", "bad.json: line"},
    {"cut", "{" FIXED, "bad.json: line 1"},
    {"an array", "[1]", "not a JSON object"},
    {"a key twice", "{'version':'1.0','version':'1.0'}", "duplicate object key"},
    {"no model", "{" FIXED "}", "model is not an object"},
    {"version 2", "{" FIXED ",'version':'2.0'," MODEL "}", "version \"2.0\" is not supported; \"1.0\" is"},
    {"truncation", "{" FIXED ",'truncation':{'max_length':5}," MODEL "}",
     "truncation {\"max_length\":5} is not supported"},
    {"padding", "{" FIXED ",'padding':{}," MODEL "}", "padding {} is not supported"},
    {"another normaliser", "{" FIXED ",'normalizer':{'type':'NFKC'}," MODEL "}",
     "normalizer {\"type\":\"NFKC\"} is not"},
    {"a sequence of normalisers", "{" FIXED ",'normalizer':{'type':'Sequence','normalizers':[]}," MODEL "}",
     "NFC or null is"},
    {"no pre-tokenizer", "{'decoder':{'type':'ByteLevel'}," MODEL "}",
     "pre_tokenizer null is not supported; ByteLevel is"},
    {"another pre-tokenizer", "{'decoder':{'type':'ByteLevel'},'pre_tokenizer':{'type':'Whitespace'}," MODEL "}",
     "pre_tokenizer {\"type\":\"Whitespace\"} is not supported"},
    {"prefix space of another type",
     "{'decoder':{'type':'ByteLevel'},'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':1}," MODEL "}",
     "pre_tokenizer.add_prefix_space is not true or false"},
    {"no decoder", "{'pre_tokenizer':{'type':'ByteLevel'}," MODEL "}", "decoder null is not supported; ByteLevel is"},
    {"template with a token",
     "{" FIXED ",'post_processor':{'type':'TemplateProcessing','special_tokens':{'<s>':{}}}," MODEL "}",
     "adds no tokens is"},
    {"another post-processor", "{" FIXED ",'post_processor':{'type':'BertProcessing'}," MODEL "}", "post_processor"},
    {"another model", "{" FIXED ",'model':{'type':'WordPiece'," VOCAB ",'merges':[]}}",
     "model.type \"WordPiece\" is not"},
    {"dropout", "{" FIXED ",'model':{'dropout':0.1," VOCAB ",'merges':[]}}", "model.dropout 0.1"},
    {"subword prefix", "{" FIXED ",'model':{'continuing_subword_prefix':'##'," VOCAB ",'merges':[]}}",
     "continuing_subword_prefix \"##\" is not supported"},
    {"word suffix", "{" FIXED ",'model':{'end_of_word_suffix':'</w>'," VOCAB ",'merges':[]}}", "end_of_word_suffix"},
    {"fuse_unk of another type", "{" FIXED ",'model':{'fuse_unk':'no'," VOCAB ",'merges':[]}}",
     "model.fuse_unk is not true"},
    {"no vocabulary", "{" FIXED ",'model':{'merges':[]}}", "model.vocab is not an object with tokens"},
    {"empty vocabulary", "{" FIXED ",'model':{'vocab':{},'merges':[]}}", "model.vocab is not an object with tokens"},
    {"an id twice", "{" FIXED ",'model':{'vocab':{'a':0,'b':0},'merges':[]}}", "id 0 belongs to 'a' and to 'b'"},
    {"a token twice", "{" FIXED ",'model':{'vocab':{'a':0,'a':1},'merges':[]}}", "duplicate object key"},
    {"a negative id", "{" FIXED ",'model':{'vocab':{'a':-1},'merges':[]}}",
     "token 'a' has id -1, not one of 0..1048576"},
    {"a huge id", "{" FIXED ",'model':{'vocab':{'a':1048577},'merges':[]}}", "token 'a' has id 1048577"},
    {"an id of another type", "{" FIXED ",'model':{'vocab':{'a\\n':'1'},'merges':[]}}", "token 'a\\x0a' has id \"1\""},
    {"a fraction as id", "{" FIXED ",'model':{'vocab':{'a':0.5},'merges':[]}}", "token 'a' has id 0.5"},
    {"no merges", "{" FIXED ",'model':{" VOCAB "}}", "model.merges is not an array"},
    {"merge to nowhere", "{" FIXED ",'model':{" VOCAB ",'merges':['a b','b a']}}",
     "merge 1 'b a': 'ba' is not in the vocabulary"},
    {"merge of a stranger", "{" FIXED ",'model':{" VOCAB ",'merges':['a x']}}",
     "merge 0 'a x': 'x' is not in the vocabulary"},
    {"merge of a stranger on the left", "{" FIXED ",'model':{" VOCAB ",'merges':[['x','a']]}}",
     "'x' is not in the vocabulary"},
    {"merge without a space", "{" FIXED ",'model':{" VOCAB ",'merges':['ab']}}", "merge 0 is neither"},
    {"merge of three", "{" FIXED ",'model':{" VOCAB ",'merges':['a b b']}}", "merge 0 is neither"},
    {"pair of three", "{" FIXED ",'model':{" VOCAB ",'merges':[['a','b','b']]}}", "merge 0 is neither"},
    {"pair of numbers", "{" FIXED ",'model':{" VOCAB ",'merges':[[0,1]]}}", "merge 0 is neither"},
    {"merge twice", "{" FIXED ",'model':{" VOCAB ",'merges':['a b','a b']}}", "merge 1 'a b': is there twice"},
    {"unk nowhere", "{" FIXED ",'model':{'unk_token':'<unk>'," VOCAB ",'merges':[]}}",
     "unk_token '<unk>' is not in the vocabulary, and byte 0x21 needs it"},
    {"unk of another type", "{" FIXED ",'model':{'unk_token':7," VOCAB ",'merges':[]}}", "unk_token is not a string"},
    {"added tokens of another type", "{" FIXED ",'added_tokens':{}," MODEL "}", "added_tokens is not an array"},
    {"added token of another type", "{" FIXED ",'added_tokens':[3]," MODEL "}", "added_tokens[0].content is not"},
    {"added token without text", "{" FIXED ",'added_tokens':[" ADDED(3, "''") "]," MODEL "}",
     "added_tokens[0].content is not"},
    {"added token without flags", "{" FIXED ",'added_tokens':[{'id':3,'content':'<s>'}]," MODEL "}",
     "added_tokens[0].special is not true or false"},
    {"added token without id", "{" FIXED ",'added_tokens':[{'content':'<s>'," FLAGS "}]," MODEL "}",
     "'<s>' has id null"},
    {"added token at another id", "{" FIXED ",'added_tokens':[" ADDED(7, "'<s>'") "]," MODEL "}",
     "added token '<s>' has id 7; the vocabulary makes it 3"},
    {"added token of the vocabulary at another id", "{" FIXED ",'added_tokens':[" ADDED(3, "'ab'") "]," MODEL "}",
     "added token 'ab' has id 3; the vocabulary makes it 2"},
    {"added token on a taken id",
     "{" FIXED ",'added_tokens':[" ADDED(1, "'<s>'") "],'model':{'vocab':{'b':1},'merges':[]}}",
     "id 1 belongs to 'b' and to '<s>'"},
    {"added token twice", "{" FIXED ",'added_tokens':[" ADDED(3, "'<s>'") "," ADDED(4, "'<s>'") "]," MODEL "}",
     "added token '<s>' is there twice"},
    {"added tokens with one normal form",
     "{" FIXED ",'normalizer':{'type':'NFC'},'added_tokens':["
     "{'id':3,'content':'e\xcc\x81','special':false,'normalized':true,'lstrip':false,'rstrip':false,'single_word':"
     "false},"
     "{'id':4,'content':'\xc3\xa9','special':false,'normalized':true,'lstrip':false,'rstrip':false,'single_word':false}"
     "]," MODEL "}",
     "are the same text"},
    {"a NUL in a token", "{" FIXED ",'added_tokens':[" ADDED(3, "'a\\u0000b'") "]," MODEL "}", "bad.json: line 1"},
    {"text that is not UTF-8", "{" FIXED ",'added_tokens':[" ADDED(3, "'\xff'") "]," MODEL "}", "bad.json: line 1"},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        const struct bad_file *c = &bad_files[i];
        char json[2000];
        snprintf(json, sizeof json, "%s", c->json);
        for (char *quote = strchr(json, '\''); strcmp(c->name, "not JSON") != 0 && quote; quote = strchr(quote, '\''))
            *quote = '"';
        struct base_buffer out;
        struct base_error err = {0};
        base_buffer_init(&out, BLOB_BYTES_MAX);
        base_buffer_string(&out, "kept");
        int rc = model_tokenizer_compile(json, strlen(json), "bad.json", &out, &err);
        if (rc != ERR_INPUT || !strstr(err.text, c->expected) || strncmp(err.text, "bad.json: ", 10) != 0)
            fail_msg("%s: %d '%s', expected '%s'", c->name, rc, err.text, c->expected);
        assert_string_equal(base_buffer_cstr(&out), "kept");
        assert_null(strchr(err.text, '\n'));
        assert_int_equal(model_tokenizer_compile(json, strlen(json), "bad.json", &out, NULL), ERR_INPUT);
        base_buffer_done(&out);
    }
}

static void test_missing_file(void **state)
{
    (void)state;
    struct base_buffer out;
    struct base_error err = {0};
    base_buffer_init(&out, 1000);
    assert_int_equal(model_tokenizer_compile_file("/nowhere/tokenizer.json", &out, &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/tokenizer.json"));
    assert_int_equal(model_tokenizer_compile_file(source_path("tests/data/gpt-neox-tokenizer.json"), &out, &err),
                     ERR_INPUT);
    assert_non_null(strstr(err.text, "no room for")); /* the caller's ceiling */
    assert_int_equal(out.n, 0);
    base_buffer_done(&out);
}

/* --- compiled tables */

static void test_deterministic(void **state)
{
    (void)state;
    struct base_buffer again;
    struct base_error err = {0};
    base_buffer_init(&again, BLOB_BYTES_MAX);
    assert_int_equal(model_tokenizer_compile_file(source_path("tests/data/gpt-neox-tokenizer.json"), &again, &err), 0);
    assert_int_equal(again.n, pythia_blob.n);
    assert_memory_equal(again.data, pythia_blob.data, again.n);
    assert_int_equal(again.n % 8, 0);
    base_buffer_done(&again);
}

static void test_moved(void **state)
{
    (void)state;
    uint8_t *moved = malloc(pythia_blob.n + 16);
    assert_non_null(moved);
    memcpy(moved + 8, pythia_blob.data, pythia_blob.n);
    struct model_tokenizer *t = NULL;
    struct base_error err = {0};
    assert_int_equal(model_tokenizer_open(moved + 8, pythia_blob.n + 8, &t, &err),
                     0); /* bytes behind are not its business */
    size_t n = 0;
    int32_t *ids = encode(t, "Hello", 5, &n);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 12092);
    free(ids);
    model_tokenizer_close(t);
    assert_int_equal(model_tokenizer_open(moved + 9, pythia_blob.n, &t, &err), ERR_INTERNAL);
    free(moved);
}

static void test_not_ours(void **state)
{
    (void)state;
    struct tok_header h;
    struct model_tokenizer *t = NULL;
    struct base_error err = {0};
    for (size_t n = 0; n < sizeof h; n++)
        assert_int_equal(model_tokenizer_open(pythia_blob.data, n, &t, &err), ERR_CORRUPT);
    assert_int_equal(model_tokenizer_open(pythia_blob.data, pythia_blob.n - 1, &t, &err), ERR_CORRUPT);
    memcpy(&h, pythia_blob.data, sizeof h);
    h.version++;
    assert_int_equal(model_tokenizer_open(&h, sizeof h, &t, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "version 2"));
    h.magic[0]++;
    assert_int_equal(model_tokenizer_open(&h, sizeof h, &t, &err), ERR_CORRUPT);
    assert_null(t);
}

/* Flips, overwrites and cuts: opening may fail, nothing may be read outside (the address sanitizer watches). */
static void damage_and_use(const struct base_buffer *blob, uint64_t *seed)
{
    static const char text[] = "abc  the\xc3\xa9"
                               "e\xcc\x81 <|endoftext|>  <r> 'll aaaaaa\n\n \xe4\xb8\xad<l>   <w>12";
    size_t n = random_next(seed) % 8 == 0 ? random_next(seed) % (blob->n + 1) : blob->n;
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, blob->data, n);
    for (uint64_t edits = random_next(seed) % 5; n > 0 && edits > 0; edits--) {
        size_t within = random_next(seed) % 4 == 0 && n > sizeof(struct tok_header) ? sizeof(struct tok_header) : n;
        copy[random_next(seed) % within] ^= (uint8_t)(1u << random_next(seed) % 8);
    }
    struct model_tokenizer *t = NULL;
    struct base_error err = {0};
    struct base_buffer out;
    base_buffer_init(&out, 1 << 20);
    int32_t *ids = NULL;
    size_t n_ids = 0;
    if (model_tokenizer_open(copy, n, &t, &err) == 0) {
        if (model_tokenizer_encode(t, text, sizeof text - 1, 10000, &ids, &n_ids, &err) == 0)
            model_tokenizer_decode(t, ids, n_ids, false, &out);
        for (int32_t id = -1; id < 400; id++)
            model_tokenizer_decode(t, &id, 1, true, &out);
        model_tokenizer_find(t, "<r>", 3);
    }
    for (size_t i = 0; i < n_ids; i++)
        assert_true(ids[i] >= 0 && (uint32_t)ids[i] < model_tokenizer_n_ids(t));
    free(ids);
    base_buffer_done(&out);
    model_tokenizer_close(t);
    free(copy);
}

static void test_damaged(void **state)
{
    (void)state;
    for (int whole_words = 0; whole_words < 2; whole_words++) {
        struct base_buffer blob;
        uint64_t seed = 3 + (uint64_t)whole_words;
        base_buffer_init(&blob, BLOB_BYTES_MAX);
        tokenizer_fixture_blob(whole_words, &blob);
        for (int i = 0; i < 10000; i++)
            damage_and_use(&blob, &seed);
        base_buffer_done(&blob);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_ids),     cmocka_unit_test(test_golden_long),
        cmocka_unit_test(test_golden_options), cmocka_unit_test(test_looking),
        cmocka_unit_test(test_bad_text),       cmocka_unit_test(test_limit),
        cmocka_unit_test(test_decode_lossy),   cmocka_unit_test(test_hostile_lengths),
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bad_files),      cmocka_unit_test(test_missing_file),
        cmocka_unit_test(test_deterministic),  cmocka_unit_test(test_moved),
        cmocka_unit_test(test_not_ours),       cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
