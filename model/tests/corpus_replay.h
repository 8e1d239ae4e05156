/* corpus_replay - the seed corpus of a fuzz entry as a normal test: whatever once was found stays found. */
#ifndef ROUSE_MODEL_TESTS_CORPUS_REPLAY_H
#define ROUSE_MODEL_TESTS_CORPUS_REPLAY_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Every file of model/tests/corpus/<name>, and every prefix of the short ones; returns the number of files. */
size_t corpus_replay(const char *name);

#endif
