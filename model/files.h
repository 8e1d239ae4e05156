/* files - which files make a model directory, what identifies them, and their digest.
 *
 * The digest (SHA-256 over weights, config and tokenizer) is the model's identity. It is never computed on a start that
 * can avoid it: the files' identity (size, mtime, ctime, inode) was recorded beside the digest when the snapshot was built. */
#ifndef ROUSE_MODEL_FILES_H
#define ROUSE_MODEL_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct model_file_digest {
    uint8_t bytes[32];
};

/* SHA-256 over (name, size, mtime ns, ctime ns, inode, device) of config.json, tokenizer.json and the weight files, in a
 * fixed order. Reads no file's content but the shard index. tokenizer.json may be absent (a model of bare token ids), which is
 * another identity. ERR_NOTFOUND when dir is no model directory. */
int model_files_identity(const char *dir, struct model_file_digest *out_identity, struct base_error *err);

/* SHA-256 over the files' names and contents. Reads everything: seconds per GB. progress may be NULL; it gets bytes so far. */
int model_files_digest(const char *dir, void (*progress)(void *context, uint64_t done, uint64_t total), void *context,
                       struct model_file_digest *out_digest, struct base_error *err);

#endif
