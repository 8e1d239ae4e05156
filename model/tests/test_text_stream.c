/* Text from tokens: characters over several tokens, bytes that are none, stop strings over token borders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/tests/tokenizer_fixture.h"
#include "model/text_stream.h"

static struct base_buffer blob;
static struct model_tokenizer *t; /* bytes are tokens 0..255; 256 "ab", 257 "abc", 264 "th", 265 "the" */
static int32_t special;

static int setup(void **state)
{
    (void)state;
    struct base_error err = {0};
    base_buffer_init(&blob, 1 << 20);
    tokenizer_fixture_blob(false, &blob);
    if (model_tokenizer_open(blob.data, blob.n, &t, &err) < 0)
        return -1;
    special = model_tokenizer_find(t, "<|endoftext|>", 13);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    model_tokenizer_close(t);
    base_buffer_done(&blob);
    return 0;
}

enum { S = -2, END = -3 }; /* in the tables: the special token; end of the list */

struct stream_case {
    const char *name;
    int32_t ids[12];
    const char *stops[4];
    const char *after_push; /* text before finish */
    const char *text;       /* and after it */
    int stops_at;           /* index of the push that completes a stop string, or -1 */
};

static const struct stream_case cases[] = {
    {"letters", {'a', 256, 257, END}, {0}, "aababc", "aababc", -1},
    {"nothing", {END}, {0}, "", "", -1},
    {"a character over two tokens", {0xc3, 0xa9, END}, {0}, "\xc3\xa9", "\xc3\xa9", -1},
    {"half a character", {'a', 0xc3, END}, {0}, "a", "a\xef\xbf\xbd", -1},
    {"an emoji over four", {0xf0, 0x9f, 0x98, 0x80, END}, {0}, "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", -1},
    {"three of four", {0xf0, 0x9f, 0x98, END}, {0}, "", "\xef\xbf\xbd", -1},
    {"three of four, then a letter", {0xf0, 0x9f, 0x98, 'x', END}, {0}, "\xef\xbf\xbdx", "\xef\xbf\xbdx", -1},
    {"one beginning after another", {0xe4, 0xc3, 0xa9, END}, {0}, "\xef\xbf\xbd\xc3\xa9", "\xef\xbf\xbd\xc3\xa9", -1},
    {"never valid",
     {0xff, 0x80, 'a', END},
     {0},
     "\xef\xbf\xbd\xef\xbf\xbd"
     "a",
     "\xef\xbf\xbd\xef\xbf\xbd"
     "a",
     -1},
    {"special gives no text", {'a', S, 'b', END}, {0}, "ab", "ab", -1},
    {"special within a character", {0xc3, S, 0xa9, END}, {0}, "\xc3\xa9", "\xc3\xa9", -1},
    {"outside the vocabulary", {'a', 9999, -1, 'b', END}, {0}, "ab", "ab", -1},
    {"stop in one token", {'x', 257, 'y', END}, {"abc"}, "x", "x", 1},
    {"stop within a token", {'x', 257, 'y', END}, {"b"}, "xa", "xa", 1},
    {"stop over two tokens", {'x', 256, 'c', 'y', END}, {"bc"}, "xa", "xa", 2},
    {"stop over many tokens", {'a', 'b', 'c', 'd', 'e', END}, {"bcd"}, "a", "a", 3},
    {"begins again", {'a', 'a', 'a', 'b', END}, {"aab"}, "a", "a", 3},
    {"stop at the very start", {257, END}, {"a"}, "", "", 0},
    {"earliest of two in one token", {'x', 257, END}, {"c", "b"}, "xa", "xa", 1},
    {"one inside the other", {'x', 257, END}, {"b", "abc"}, "x", "x", 1},
    {"the shorter is complete first", {'a', 'b', 'c', END}, {"abc", "b"}, "a", "a", 1},
    {"overlapping, later one complete first", {'a', 'b', 'c', 'd', END}, {"abcd", "bc"}, "a", "a", 2},
    {"prefix of another", {'a', 'b', 'c', END}, {"abc", "ab"}, "", "", 1},
    {"almost", {'a', 'b', 'x', 'b', 'c', END}, {"abc"}, "abxbc", "abxbc", -1},
    {"stop is a character over two tokens", {'x', 0xc3, 0xa9, 'y', END}, {"\xc3\xa9"}, "x", "x", 2},
    {"stop after a bad byte",
     {0xff, 'a', 'b', END},
     {"b"},
     "\xef\xbf\xbd"
     "a",
     "\xef\xbf\xbd"
     "a",
     2},
    {"stop completed by a token that also begins a character", {'a', 'b', 0xc3, END}, {"ab"}, "", "", 1},
    {"replacement as stop, on finish", {'a', 0xc3, END}, {"\xef\xbf\xbd"}, "a", "a", -1},
    {"pushes after the stop", {'a', 'b', 'c', 'd', END}, {"b"}, "a", "a", 1},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct stream_case *c = &cases[i];
        struct model_stop stops[4];
        uint32_t n_stops = 0;
        for (; n_stops < 4 && c->stops[n_stops]; n_stops++)
            stops[n_stops] = (struct model_stop){c->stops[n_stops], strlen(c->stops[n_stops])};
        struct model_text_stream s;
        model_text_stream_init(&s, t, stops, n_stops, 1000);
        int stops_at = -1;
        for (int k = 0; c->ids[k] != END; k++) {
            bool stopped = model_text_stream_push(&s, c->ids[k] == S ? special : c->ids[k]);
            if (stopped && stops_at < 0)
                stops_at = k;
            if (stopped != (stops_at >= 0) || s.stopped != stopped || !base_utf8_valid(s.text.data, s.text.n))
                fail_msg("%s: after push %d", c->name, k);
        }
        if (stops_at != c->stops_at || strcmp(base_buffer_cstr(&s.text), c->after_push) != 0)
            fail_msg("%s: '%s', stops at %d; expected '%s', %d", c->name, base_buffer_cstr(&s.text), stops_at,
                     c->after_push, c->stops_at);
        model_text_stream_finish(&s);
        if (strcmp(base_buffer_cstr(&s.text), c->text) != 0)
            fail_msg("%s: finishes as '%s', expected '%s'", c->name, base_buffer_cstr(&s.text), c->text);
        model_text_stream_done(&s);
    }
}

static uint32_t random_below(uint64_t *seed, uint32_t n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33) % n;
}

static int32_t random_id(uint64_t *seed)
{
    static const int32_t likely[] = {'a', 'b', 'c', 0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xe4, 256, 257, 258, 265};
    if (random_below(seed, 4) == 0)
        return (int32_t)random_below(seed, 300);
    return likely[random_below(seed, sizeof likely / sizeof likely[0])];
}

/* Without stops the stream is decode(); with them it is the text at the first push whose text holds one, cut there. */
static void test_same_as_decode(void **state)
{
    (void)state;
    static const struct model_stop stops[] = {{"abca", 4},
                                              {"\xc3\xa9"
                                               "b",
                                               3},
                                              {"caa", 3},
                                              {"\xf0\x9f\x98\x80", 4}};
    uint64_t seed = 5;
    struct base_buffer whole;
    base_buffer_init(&whole, 1 << 16);
    for (int round = 0; round < 3000; round++) {
        struct model_text_stream plain, stopping;
        model_text_stream_init(&plain, t, NULL, 0, 1 << 16);
        model_text_stream_init(&stopping, t, stops, 4, 1 << 16);
        int32_t ids[60];
        uint32_t n = random_below(&seed, 60);
        bool stopped = false;
        for (uint32_t i = 0; i < n; i++) {
            ids[i] = random_id(&seed);
            model_text_stream_push(&plain, ids[i]);
            model_text_stream_push(&stopping, ids[i]);
            const char *earliest = NULL, *text = base_buffer_cstr(&plain.text); /* no NUL byte matters here */
            for (int k = 0; k < 4 && !stopped; k++) {
                const char *at = memmem(text, plain.text.n, stops[k].text, stops[k].n);
                earliest = at && (!earliest || at < earliest) ? at : earliest;
            }
            if (earliest) {
                stopped = true;
                assert_int_equal(stopping.text.n, (size_t)(earliest - text));
            }
            assert_int_equal(stopping.stopped, stopped);
        }
        model_text_stream_finish(&plain);
        base_buffer_clear(&whole);
        model_tokenizer_decode(t, ids, n, true, &whole);
        assert_int_equal(whole.n, plain.text.n);
        if (whole.n > 0)
            assert_memory_equal(whole.data, plain.text.data, whole.n);
        model_text_stream_done(&plain);
        model_text_stream_done(&stopping);
    }
    base_buffer_done(&whole);
}

static void test_ceiling(void **state)
{
    (void)state;
    struct model_text_stream s;
    model_text_stream_init(&s, t, NULL, 0, 5);
    for (int i = 0; i < 4; i++)
        model_text_stream_push(&s, 256);
    assert_string_equal(base_buffer_cstr(&s.text), "abab");
    assert_int_equal(s.text.failed, ERR_INPUT);
    model_text_stream_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_same_as_decode),
        cmocka_unit_test(test_ceiling),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
