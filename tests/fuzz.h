/* fuzz - what the fuzz entries (tests/fuzz_*.c of each folder) share. One entry is linked in two ways: with libFuzzer it
 * looks for new inputs (run_fuzzers.py), with corpus_main.c it replays its corpus as a test (rouse_fuzz). */
#ifndef ROUSE_TESTS_FUZZ_H
#define ROUSE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* What must hold for every input, in every build type. */
#define FUZZ_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                              \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* data: [n], in a heap block of exactly that size. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#endif
