#include "schemas/tests/schema_vectors.h"

#include <stdlib.h>
#include <string.h>

#include "schemas/scan.h"

static int scan(const void *bytes, size_t n, enum schema_code *out_code)
{
    return schema_scan(bytes, n, &schema_scan_limits_default, out_code, NULL);
}

/* Whatever the codec says of a record, the scan has to have let it through, unless its form is at fault. */
static void test_golden_records(void **state)
{
    (void)state;
    static const char *const records[] = {"prompt_batch", "completion", "snapshot_record"};
    for (size_t r = 0; r < sizeof(records) / sizeof(records[0]); r++) {
        json_t *vectors = vectors_load(records[r]), *vector;
        size_t i;
        json_array_foreach(vectors, i, vector)
        {
            size_t n;
            uint8_t *bytes = vectors_bytes_of(vector, &n);
            enum schema_code code = SCHEMA_OK;
            int rc = scan(bytes, n, &code);
            const char *want = vector_text(vector, "outcome");
            bool form = strcmp(want, "malformed") == 0 || strcmp(want, "too-deep") == 0;
            bool must_pass = !form && strcmp(want, "too-large") != 0;
            if (form ? rc != ERR_INPUT || strcmp(schema_code_name(code), want) != 0 : must_pass && rc != 0)
                fail_msg("%s: %s: the scan says %s, expected %s", records[r], vector_text(vector, "name"),
                         rc == 0 ? "ok" : schema_code_name(code), form ? want : "ok");
            if (rc == 0)
                assert_int_equal(schema_scan_value_bytes(bytes, n), n);
            free(bytes);
        }
        json_decref(vectors);
    }
}

static const struct {
    const char *name, *hex;
    enum schema_code code;
    const char *text;
} limit_cases[] = {
    {"8 bytes", "81a161c403000102", SCHEMA_OK, ""},
    {"9 bytes", "81a161c40400010203", SCHEMA_TOO_LARGE, "byte 0: a record of 9 bytes is longer than 8"},
    {"2 deep", "81a16190", SCHEMA_OK, ""},
    {"3 deep", "81a1619190", SCHEMA_TOO_DEEP, "byte 4: array at depth 3 is deeper than 2"},
    {"2 keys", "82a161c0a162c0", SCHEMA_OK, ""},
    {"3 keys", "83a0c0a161c080", SCHEMA_TOO_LARGE, "byte 0: a map of 3 keys has more than 2"},
    {"key of 3 bytes", "81a3616263c0", SCHEMA_OK, ""},
    {"key of 4 bytes", "81a461626364c0", SCHEMA_TOO_LARGE, "byte 1: a key of 4 bytes is longer than 3"},
    {"6 values", "81a16194c0c0c0c0", SCHEMA_OK, ""},
    {"7 values", "81a095c0c0c0c0c0", SCHEMA_TOO_LARGE, "byte 2: 7 values in all are more than 6"},
};

static void test_limits(void **state)
{
    (void)state;
    const struct schema_scan_limits limits = {
        .n_bytes_max = 8, .depth_max = 2, .n_keys_max = 2, .key_bytes_max = 3, .n_values_max = 6};
    for (size_t i = 0; i < sizeof(limit_cases) / sizeof(limit_cases[0]); i++) {
        size_t n;
        uint8_t *bytes = vectors_bytes(limit_cases[i].hex, &n);
        enum schema_code code = SCHEMA_OK;
        struct base_error err = {0};
        int rc = schema_scan(bytes, n, &limits, &code, &err);
        if (code != limit_cases[i].code || (rc == 0) != (code == SCHEMA_OK) ||
            strcmp(err.text, limit_cases[i].text) != 0)
            fail_msg("%s: %s '%s', expected %s '%s'", limit_cases[i].name, schema_code_name(code), err.text,
                     schema_code_name(limit_cases[i].code), limit_cases[i].text);
        free(bytes);
    }
}

/* Every power of two, as a count inside a record of ten bytes. */
static void test_claims_are_measured_against_the_bytes(void **state)
{
    (void)state;
    static const char *const heads[] = {"dd", "df"};
    for (size_t h = 0; h < 2; h++) {
        for (unsigned shift = 0; shift < 32; shift++) {
            char hex[64];
            snprintf(hex, sizeof(hex), "82a161%s%08xa16200", heads[h], 1u << shift);
            size_t n;
            uint8_t *bytes = vectors_bytes(hex, &n);
            enum schema_code code;
            assert_int_equal(scan(bytes, n, &code), ERR_INPUT);
            assert_int_equal(code, SCHEMA_MALFORMED);
            free(bytes);
        }
    }
}

/* splitmix64 and the mutations, as in golden/make_golden.py */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static size_t random_below(uint64_t *state, size_t n)
{
    return (size_t)(random_next(state) % n);
}

static const char special_hex[] =
    "00017f8081828f9091929fa0a1a2bfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d8d9dadbdcdddedfe0edf0f4ff";

static size_t insert(uint8_t *data, size_t n, size_t at, const uint8_t *what, size_t n_what)
{
    memmove(data + at + n_what, data + at, n - at);
    memcpy(data + at, what, n_what);
    return n + n_what;
}

static size_t mutate(uint64_t *state, uint8_t *data, size_t n, const uint8_t *special, size_t n_special)
{
    for (size_t round = 1 + random_below(state, 2); round > 0; round--) {
        size_t op = n > 0 ? random_below(state, 6) : 3, at, n_part, to;
        uint8_t part[16];
        switch (op) {
        case 0:
            at = random_below(state, n * 8);
            data[at / 8] = (uint8_t)(data[at / 8] ^ 1u << at % 8);
            break;
        case 1:
            at = random_below(state, n);
            data[at] = special[random_below(state, n_special)];
            break;
        case 2:
            at = random_below(state, n);
            n_part = 1 + random_below(state, 8);
            n_part = n_part < n - at ? n_part : n - at;
            memmove(data + at, data + at + n_part, n - at - n_part);
            n -= n_part;
            break;
        case 3:
            at = random_below(state, n + 1);
            n_part = 1 + random_below(state, 8);
            for (size_t i = 0; i < n_part; i++)
                part[i] = special[random_below(state, n_special)];
            n = insert(data, n, at, part, n_part);
            break;
        case 4:
            at = random_below(state, n);
            n_part = 1 + random_below(state, 16);
            n_part = n_part < n - at ? n_part : n - at;
            to = random_below(state, n + 1);
            memcpy(part, data + at, n_part);
            n = insert(data, n, to, part, n_part);
            break;
        default:
            n = random_below(state, n);
        }
    }
    return n;
}

/* Another parser's verdict on each of many mutated records. ROUSE_MUTATIONS=FILE takes those of make_golden.py --mutations. */
static void test_mutations(void **state)
{
    (void)state;
    const char *longer = getenv("ROUSE_MUTATIONS");
    json_t *run = longer ? json_load_file(longer, 0, NULL) : vectors_load("mutations");
    assert_non_null(run);
    json_t *bases = json_object_get(run, "bases");
    size_t n_special, n_accepted, count = (size_t)vector_int(run, "count"), n_wrong = 0;
    uint8_t *special = vectors_bytes(special_hex, &n_special);
    uint8_t *accepted = vectors_bytes(vector_text(run, "accepted"), &n_accepted);
    assert_int_equal(n_accepted, (count + 7) / 8);
    uint64_t random = strtoull(vector_text(run, "seed"), NULL, 10);
    for (size_t i = 0; i < count; i++) {
        size_t n;
        size_t which = random_below(&random, json_array_size(bases));
        uint8_t *base = vectors_bytes(json_string_value(json_array_get(bases, which)), &n);
        uint8_t room[1024];
        assert_true(n + 64 < sizeof(room));
        memcpy(room, base, n);
        n = mutate(&random, room, n, special, n_special);
        uint8_t *exact = malloc(n > 0 ? n : 1);
        assert_non_null(exact);
        memcpy(exact, room, n);
        bool want = accepted[i / 8] >> i % 8 & 1, got = scan(exact, n, NULL) == 0;
        if (want != got) {
            print_error("mutation %zu: the scan says %d, Python %d:", i, got, want);
            for (size_t k = 0; k < n; k++)
                print_error(" %02x", exact[k]);
            print_error("\n");
            n_wrong++;
        }
        free(exact);
        free(base);
    }
    free(special);
    free(accepted);
    json_decref(run);
    assert_int_equal(n_wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_records),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_claims_are_measured_against_the_bytes),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
