/* s3_xml - the few XML answers of S3, read element by element.
 *
 * Bounded: S3_XML_DEPTH_MAX levels, names and texts of S3_XML_TEXT_MAX bytes; a document type is refused, so no entity can grow. */
#ifndef ROUSE_SNAPSHOT_S3_XML_H
#define ROUSE_SNAPSHOT_S3_XML_H

#include <stddef.h>

#include "base/error.h"

enum {
    S3_XML_DEPTH_MAX = 8,
    S3_XML_TEXT_MAX = 2048, /* a key has 1024 bytes at most, an ETag or an upload id less */
    S3_XML_PATH_MAX = 512
};

/* Called at the end of each element: its path from the root, without namespaces ("ListBucketResult/Contents/Key"), and the text
 * that it holds itself ("" where it has children alone). A value other than 0 ends the parse and is its result. */
typedef int s3_xml_fn(void *context, const char *path, const char *text);

/* ERR_INPUT: not such a document. */
int s3_xml_parse(const void *bytes, size_t n, s3_xml_fn *fn, void *context, struct base_error *err);

#endif
