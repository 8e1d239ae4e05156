/* big_model - in the place of the fixture's model: its tokenizer, and weights of several chunks. */
#ifndef ROUSE_SNAPSHOT_TESTS_BIG_MODEL_H
#define ROUSE_SNAPSHOT_TESTS_BIG_MODEL_H

#include "snapshot/tests/snapshot_fixture.h"

enum { BIG_MODEL_CHUNKS = 11 }; /* of weights */

/* Each call's numbers are others than the last one's. */
void big_model_make(const struct fixture *f);

#endif
