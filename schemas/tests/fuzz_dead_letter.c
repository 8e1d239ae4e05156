/* Headers of any record: [number of a name, length, value]*. What parses is written again, and reads back the same. */
#include <string.h>

#include "schemas/dead_letter.h"
#include "tests/fuzz.h"

static const char *const names[] = {
    /* in the order that golden/make_golden.py numbers them */
    "__dlq.errors.topic",
    "__dlq.errors.partition",
    "__dlq.errors.offset",
    "__dlq.errors.group",
    "__dlq.errors.delivery.count",
    "__dlq.errors.message",
    "x-error-code",
    "x-error-stage",
    "x-orig-timestamp-ms",
    "x-first-failed-ms",
    "x-last-failed-ms",
    "x-worker",
    "x-replay-id",
    "x-replay-count",
    "x-replay-of",
    "traceparent",
    "foreign",
};
enum { N_NAMES = sizeof(names) / sizeof(names[0]), N_HEADERS_MAX = 100 };

static uint32_t headers_of(const uint8_t *data, size_t n, struct schema_header out[N_HEADERS_MAX])
{
    uint32_t n_headers = 0;
    for (size_t at = 0; n - at >= 2 && n_headers < N_HEADERS_MAX;) {
        size_t name = data[at] % N_NAMES, n_value = data[at + 1];
        at += 2;
        n_value = n_value < n - at ? n_value : n - at;
        out[n_headers++] = (struct schema_header){names[name], data + at, n_value};
        at += n_value;
    }
    return n_headers;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct schema_header headers[N_HEADERS_MAX], out[SCHEMA_DEAD_LETTER_HEADERS_MAX];
    uint32_t n_headers = headers_of(data, n, headers);
    struct schema_dead_letter letter = {
        .topic = "prompts", .group = "g", .offset = 5, .delivery_count = 1, .last_failed_ms = 9};
    struct schema_dead_letter parsed, back;
    struct base_error err = {0};
    int rc = schema_dead_letter_parse(headers, n_headers, &parsed, &err);
    FUZZ_CHECK(rc == 0 || (rc == ERR_INPUT && err.text[0] != '\0'));
    letter.code = SCHEMA_DEVICE;
    struct base_buffer memory;
    base_buffer_init(&memory, SIZE_MAX);
    uint32_t n_out = schema_dead_letter_headers(&letter, headers, n_headers, &memory, out);
    size_t n_bytes = 0;
    for (uint32_t i = 0; i < n_out; i++)
        n_bytes += strlen(out[i].name) + out[i].n;
    FUZZ_CHECK(n_out > 0 && n_out <= SCHEMA_DEAD_LETTER_HEADERS_MAX && n_bytes <= SCHEMA_DEAD_LETTER_BYTES_MAX);
    FUZZ_CHECK(schema_dead_letter_parse(out, n_out, &back, NULL) == 0);
    FUZZ_CHECK(back.code == SCHEMA_DEVICE && back.last_failed_ms == 9);
    if (rc == 0 && parsed.topic[0] != '\0') /* the first origin stays */
        FUZZ_CHECK(strcmp(back.topic, parsed.topic) == 0 && back.offset == parsed.offset);
    else
        FUZZ_CHECK(strcmp(back.topic, "prompts") == 0 && back.offset == 5);
    base_buffer_done(&memory);
    return 0;
}
