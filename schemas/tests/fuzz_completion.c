/* Any bytes as a completion, and as a snapshot record; what decodes goes round: encode, decode, encode gives the same bytes. */
#include <string.h>

#include "schemas/completion.h"
#include "schemas/snapshot_record.h"
#include "tests/fuzz.h"

static void completion_round_trip(const uint8_t *data, size_t n)
{
    struct schema_completion *c = NULL, *back = NULL;
    struct base_error err = {0};
    int rc = schema_completion_decode(data, n, &c, &err);
    FUZZ_CHECK(rc == 0 || (rc == ERR_INPUT && err.text[0] != '\0'));
    if (rc != 0)
        return;
    struct base_buffer first, second;
    base_buffer_init(&first, SIZE_MAX);
    base_buffer_init(&second, SIZE_MAX);
    FUZZ_CHECK(schema_completion_encode(c, &first, NULL) == 0);
    FUZZ_CHECK(schema_completion_decode(first.data, first.n, &back, NULL) == 0);
    FUZZ_CHECK(schema_completion_encode(back, &second, NULL) == 0);
    FUZZ_CHECK(first.n == second.n && memcmp(first.data, second.data, first.n) == 0);
    schema_completion_free(c);
    schema_completion_free(back);
    base_buffer_done(&first);
    base_buffer_done(&second);
}

static void snapshot_record_round_trip(const uint8_t *data, size_t n)
{
    struct schema_snapshot_record r, back;
    struct base_error err = {0};
    int rc = schema_snapshot_record_decode(data, n, &r, &err);
    FUZZ_CHECK(rc == 0 || (rc == ERR_INPUT && err.text[0] != '\0'));
    if (rc != 0)
        return;
    struct base_buffer out;
    base_buffer_init(&out, SIZE_MAX);
    FUZZ_CHECK(schema_snapshot_record_encode(&r, &out, NULL) == 0);
    FUZZ_CHECK(schema_snapshot_record_decode(out.data, out.n, &back, NULL) == 0);
    FUZZ_CHECK(strcmp(r.file, back.file) == 0 && r.bytes == back.bytes);
    base_buffer_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    completion_round_trip(data, n);
    snapshot_record_round_trip(data, n);
    return 0;
}
