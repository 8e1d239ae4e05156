/* s3_config - which bucket, where and as whom: from a URL and the environment. Private to the S3 client. */
#ifndef ROUSE_SNAPSHOT_S3_CONFIG_H
#define ROUSE_SNAPSHOT_S3_CONFIG_H

#include "base/error.h"
#include "snapshot/s3_client.h"

enum { S3_BUCKET_MAX = 63, S3_BASE_MAX = 640, S3_REGION_MAX = 64, S3_SECRET_MAX = 4096 };

struct s3_config {
    char url[S3_PREFIX_MAX + 80]; /* as messages name it: "s3://bucket/prefix" */
    char endpoint[S3_BASE_MAX];   /* "https://host:port": for messages */
    char base[S3_BASE_MAX +
              80]; /* what a request's path is put behind: endpoint, and the bucket when it is addressed by path */
    char bucket[S3_BUCKET_MAX + 1];
    char prefix[S3_PREFIX_MAX + 2]; /* "" or with a slash at its end */
    char region[S3_REGION_MAX + 1];
    char key_id[256], secret[256];
    char token[S3_SECRET_MAX]; /* "": none */
};

/* ERR_USAGE names the part of the URL or the variable that is wrong, never its value where that is secret. */
int s3_config_read(const char *url, struct s3_config *out, struct base_error *err);

#endif
