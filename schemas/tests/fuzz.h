/* fuzz - what the fuzz entries share. An entry is a libFuzzer target: with ROUSE_FUZZ (clang) it is a fuzzer, else it
 * replays its corpus. */
#ifndef ROUSE_SCHEMAS_TESTS_FUZZ_H
#define ROUSE_SCHEMAS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
