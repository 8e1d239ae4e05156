/* snap_model - what snap_start hands out, with what its caller need not see; private to snapshot/.
 *
 * The weights can come again from where they came from, whatever became of it meanwhile: names here are looked up anew, and what
 * they lead to is checked as if it were new. */
#ifndef ROUSE_SNAPSHOT_SNAP_MODEL_H
#define ROUSE_SNAPSHOT_SNAP_MODEL_H

#include <limits.h>

#include "snapshot/snap_digest.h"
#include "snapshot/snap_proof.h"
#include "snapshot/start.h"

struct snap_model_owned {
    struct snap_model model;           /* first: the caller's pointer is ours */
    struct gpu_device *device;         /* borrowed */
    void *tokenizer_blob;              /* malloc'ed; the tokenizer stands on it */
    struct snap_proof proof;           /* n_tokens 0: not made yet; made when it first sleeps */
    struct snap_use *use;              /* of its snapshot's file (use.h); NULL: none */
    char store[PATH_MAX];              /* "": none */
    char cache[PATH_MAX];              /* of a store in a bucket; "": the default one */
    char path[PATH_MAX];               /* of its snapshot; "": none */
    char dir[PATH_MAX];                /* the model's directory; "": none */
    char files[SNAP_SHA256_CHARS + 1]; /* identity of its files */
};

#endif
