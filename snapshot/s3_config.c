#include "snapshot/s3_config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *variable(const char *name, const char *other)
{
    const char *value = getenv(name);
    if ((!value || !value[0]) && other)
        value = getenv(other);
    return value && value[0] ? value : NULL;
}

/* Printable ASCII without spaces: nothing that could end a header's line. */
static bool is_word(const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c <= ' ' || *c > '~')
            return false;
    }
    return text[0] != '\0';
}

static int take_bucket(const char **rest, struct s3_config *c, struct base_error *err)
{
    size_t n = strcspn(*rest, "/");
    const char *allowed = "abcdefghijklmnopqrstuvwxyz0123456789.-";
    if (n < 3 || n > S3_BUCKET_MAX || strspn(*rest, allowed) < n || !isalnum((unsigned char)(*rest)[0]))
        return base_fail(err, ERR_USAGE,
                         "store s3://%.100s: a bucket's name has 3 to %d small letters, digits, dots and dashes", *rest,
                         S3_BUCKET_MAX);
    memcpy(c->bucket, *rest, n);
    c->bucket[n] = '\0';
    *rest += n;
    return 0;
}

/* Parts that a file system or a proxy would take for something else are refused: the same store may be copied to a directory. */
static bool is_prefix(const char *text, size_t n)
{
    size_t begin = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && text[i] != '/') {
            if (text[i] <= ' ' || text[i] > '~' || text[i] == '\\')
                return false;
            continue;
        }
        size_t part = i - begin;
        if (part == 0 || (part == 1 && text[begin] == '.') || (part == 2 && memcmp(text + begin, "..", 2) == 0))
            return false;
        begin = i + 1;
    }
    return true;
}

static int take_prefix(const char *rest, struct s3_config *c, struct base_error *err)
{
    while (*rest == '/')
        rest++;
    size_t n = strlen(rest);
    while (n && rest[n - 1] == '/')
        n--;
    if (n == 0)
        return 0;
    if (n > S3_PREFIX_MAX || !is_prefix(rest, n))
        return base_fail(
            err, ERR_USAGE,
            "store s3://%s/%.100s: a prefix has at most %d printable characters, and no empty, '.' or '..' parts",
            c->bucket, rest, S3_PREFIX_MAX);
    memcpy(c->prefix, rest, n);
    memcpy(c->prefix + n, "/", 2);
    return 0;
}

/* scheme://host[:port][/path], without the user, query or fragment that an address to sign for cannot have. */
static int take_endpoint(const char *name, const char *value, struct s3_config *c, struct base_error *err)
{
    size_t n = strlen(value);
    while (n && value[n - 1] == '/')
        n--;
    bool scheme = strncmp(value, "http://", 7) == 0 || strncmp(value, "https://", 8) == 0;
    if (!is_word(value) || !scheme || strpbrk(value, "@?#") || n >= sizeof(c->endpoint) || n < 8)
        return base_fail(err, ERR_USAGE, "%s: not an address like https://host:port", name);
    snprintf(c->endpoint, sizeof(c->endpoint), "%.*s", (int)n, value);
    snprintf(c->base, sizeof(c->base), "%s/%s", c->endpoint, c->bucket);
    return 0;
}

static int read_endpoint(struct s3_config *c, struct base_error *err)
{
    const char *name = variable("AWS_ENDPOINT_URL_S3", NULL) ? "AWS_ENDPOINT_URL_S3" : "AWS_ENDPOINT_URL";
    const char *value = variable(name, NULL);
    if (value)
        return take_endpoint(name, value, c, err);
    const char *end = strncmp(c->region, "cn-", 3) == 0 ? ".cn" : "";
    if (strchr(c->bucket, '.')) { /* a name with dots does not match the certificate's wildcard */
        snprintf(c->endpoint, sizeof(c->endpoint), "https://s3.%s.amazonaws.com%s", c->region, end);
        snprintf(c->base, sizeof(c->base), "%s/%s", c->endpoint, c->bucket);
        return 0;
    }
    snprintf(c->endpoint, sizeof(c->endpoint), "https://%s.s3.%s.amazonaws.com%s", c->bucket, c->region, end);
    snprintf(c->base, sizeof(c->base), "%s", c->endpoint);
    return 0;
}

static int read_word(const char *name, const char *value, char *out, size_t size, struct base_error *err)
{
    if (!value)
        return base_fail(err, ERR_USAGE, "an s3:// store needs credentials: %s is not set", name);
    size_t n = strlen(value);
    if (!is_word(value) || n >= size)
        return base_fail(err, ERR_USAGE, "%s: 1 to %zu printable characters without spaces are expected", name,
                         size - 1);
    memcpy(out, value, n + 1);
    return 0;
}

static int read_region(struct s3_config *c, struct base_error *err)
{
    const char *region = variable("AWS_REGION", "AWS_DEFAULT_REGION");
    if (!region)
        region = "us-east-1";
    size_t n = strlen(region);
    if (n > S3_REGION_MAX || strspn(region, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") < n)
        return base_fail(err, ERR_USAGE, "AWS_REGION: not the name of a region");
    memcpy(c->region, region, n + 1);
    return 0;
}

int s3_config_read(const char *url, struct s3_config *out, struct base_error *err)
{
    struct s3_config c = {.prefix = ""};
    if (strncmp(url, "s3://", 5) != 0)
        return base_fail(err, ERR_USAGE, "store %.100s: not s3://BUCKET[/PREFIX]", url);
    const char *rest = url + 5, *token = variable("AWS_SESSION_TOKEN", NULL);
    int rc = take_bucket(&rest, &c, err);
    if (rc == 0)
        rc = take_prefix(rest, &c, err);
    if (rc == 0)
        rc = read_region(&c, err);
    if (rc == 0)
        rc = read_endpoint(&c, err);
    if (rc == 0)
        rc = read_word("AWS_ACCESS_KEY_ID", variable("AWS_ACCESS_KEY_ID", NULL), c.key_id, sizeof(c.key_id), err);
    if (rc == 0)
        rc = read_word("AWS_SECRET_ACCESS_KEY", variable("AWS_SECRET_ACCESS_KEY", NULL), c.secret, sizeof(c.secret),
                       err);
    if (rc == 0 && token)
        rc = read_word("AWS_SESSION_TOKEN", token, c.token, sizeof(c.token), err);
    if (rc == 0) {
        snprintf(c.url, sizeof(c.url), "s3://%s%s%.*s", c.bucket, c.prefix[0] ? "/" : "",
                 c.prefix[0] ? (int)strlen(c.prefix) - 1 : 0, c.prefix);
        *out = c;
    }
    explicit_bzero(&c, sizeof(c));
    return rc;
}
