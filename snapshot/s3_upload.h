/* s3_upload - one file becomes one object, whole or not at all.
 *
 *   s3_upload_begin (CreateMultipartUpload) -> s3_upload_parts, in parallel -> s3_upload_complete: the object appears
 *   any -> s3_upload_abort: nothing is left in the bucket
 *
 * The digest of every part is signed and checked by the service. Whoever dies in between leaves an upload that no reader sees; the
 * next builder of that snapshot ends it (s3_upload_begin), and any builder one that is a day old (s3_upload_clean). */
#ifndef ROUSE_SNAPSHOT_S3_UPLOAD_H
#define ROUSE_SNAPSHOT_S3_UPLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/s3_client.h"

struct s3_upload;

/* Borrows the client. Remembers what the object is now, so that completing replaces that and nothing newer. */
int s3_upload_begin(struct s3_client *client, const char *key, struct s3_upload **out_upload, struct base_error *err);
/* All of the file, read from fd. progress: a bar on stderr. */
int s3_upload_parts(struct s3_upload *u, int fd, uint64_t bytes, bool progress, struct base_error *err);
/* ERR_AGAIN: another builder published the object meanwhile. The upload is over either way. */
int s3_upload_complete(struct s3_upload *u, struct base_error *err);
void s3_upload_abort(struct s3_upload *u); /* NULL is fine */

/* Ends uploads of "<key>" (NULL: of any snapshot) that began before that time (Unix ms). Returns how many, or an error. */
int s3_upload_clean(struct s3_client *client, const char *key, int64_t before_ms, struct base_error *err);

#endif
