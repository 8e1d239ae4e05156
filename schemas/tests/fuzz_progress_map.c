/* Any text as a progress map; what decodes goes round, and into no more characters. */
#include <string.h>

#include "schemas/progress_map.h"
#include "tests/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char first[SCHEMA_PROGRESS_CHARS_MAX + 1], second[SCHEMA_PROGRESS_CHARS_MAX + 1];
    struct schema_progress *p = NULL, *back = NULL;
    struct base_error err = {0};
    int64_t base = n ? data[0] : 0;
    int rc = schema_progress_decode((const char *)data, n, base, &p, &err);
    FUZZ_CHECK(rc == 0 || ((rc == ERR_INPUT || rc == ERR_NOTFOUND) && err.text[0] != '\0'));
    if (rc != 0)
        return 0;
    FUZZ_CHECK(schema_progress_encode(p, first, NULL) == 0 && strlen(first) <= n);
    FUZZ_CHECK(schema_progress_decode(first, strlen(first), base, &back, NULL) == 0);
    FUZZ_CHECK(schema_progress_encode(back, second, NULL) == 0 && strcmp(first, second) == 0);
    schema_progress_free(p);
    schema_progress_free(back);
    return 0;
}
