/* Listing a bucket: ListObjectsV2, page by page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "snapshot/s3_client.h"
#include "snapshot/s3_xml.h"

enum { TOKEN_MAX = 2048, QUERY_MAX = 8192, PAGES_MAX = 100000 };

int64_t s3_time_parse(const char *text)
{
    struct tm tm = {.tm_year = 0};
    unsigned ms = 0;
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest)
        return 0;
    if (*rest == '.')
        (void)sscanf(rest, ".%3u", &ms);
    return (int64_t)timegm(&tm) * 1000 + ms;
}

struct page {
    const struct s3_client *client;
    bool (*visit)(void *context, const struct s3_item *item);
    void *context;
    bool stopped, truncated;
    char key[S3_XML_TEXT_MAX + 1], etag[SNAP_ETAG_MAX], token[TOKEN_MAX];
    struct s3_item item;
};

static void page_item(struct page *p)
{
    const char *prefix = s3_client_prefix(p->client);
    size_t n = strlen(prefix);
    if (!p->stopped && strncmp(p->key, prefix, n) == 0 && p->key[n]) {
        p->item.key = p->key + n;
        p->item.etag = p->etag;
        p->stopped = !p->visit(p->context, &p->item);
    }
    p->item = (struct s3_item){.bytes = 0};
    p->key[0] = p->etag[0] = '\0';
}

static int page_element(void *context, const char *path, const char *text)
{
    struct page *p = context;
    if (strcmp(path, "ListBucketResult/Contents/Key") == 0)
        snprintf(p->key, sizeof(p->key), "%s", text);
    else if (strcmp(path, "ListBucketResult/Contents/ETag") == 0)
        snprintf(p->etag, sizeof(p->etag), "%.*s", SNAP_ETAG_MAX - 1, text);
    else if (strcmp(path, "ListBucketResult/Contents/Size") == 0)
        p->item.bytes = strtoull(text, NULL, 10);
    else if (strcmp(path, "ListBucketResult/Contents/LastModified") == 0)
        p->item.modified_ms = s3_time_parse(text);
    else if (strcmp(path, "ListBucketResult/Contents") == 0)
        page_item(p);
    else if (strcmp(path, "ListBucketResult/IsTruncated") == 0)
        p->truncated = strcmp(text, "true") == 0;
    else if (strcmp(path, "ListBucketResult/NextContinuationToken") == 0 && strlen(text) < sizeof(p->token))
        strcpy(p->token, text);
    return 0;
}

/* Sorted by name, as it is signed. */
static void page_query(const struct page *p, const char *prefix, bool flat, struct base_buffer *out)
{
    base_buffer_clear(out);
    if (p->token[0]) {
        base_buffer_string(out, "continuation-token=");
        s3_encode(out, p->token, false);
        base_buffer_byte(out, '&');
    }
    if (flat)
        base_buffer_string(out, "delimiter=%2F&");
    base_buffer_string(out, "list-type=2&prefix=");
    s3_encode(out, s3_client_prefix(p->client), false);
    s3_encode(out, prefix, false);
}

static int page_read(struct s3_client *client, struct page *p, const char *query, struct base_error *err)
{
    struct s3_answer answer;
    const struct s3_request request = {.method = "GET", .query = query};
    int rc = s3_request(client, &request, &answer, err);
    p->truncated = false;
    p->token[0] = '\0';
    if (rc == 0) {
        rc = s3_xml_parse(answer.body.data, answer.body.n, page_element, p, err);
        if (rc < 0)
            base_fail_in(err, "list %s", s3_client_url(client));
    }
    s3_answer_done(&answer);
    return rc;
}

int s3_list(struct s3_client *client, const char *prefix, bool flat,
            bool (*visit)(void *context, const struct s3_item *item), void *context, struct base_error *err)
{
    struct page *p = calloc(1, sizeof(*p));
    struct base_buffer query;
    if (!p)
        return base_fail(err, ERR_NOMEM, "list %s: out of memory", s3_client_url(client));
    p->client = client;
    p->visit = visit;
    p->context = context;
    base_buffer_init(&query, QUERY_MAX);
    int rc = 0;
    unsigned n_pages = 0;
    do {
        page_query(p, prefix, flat, &query);
        rc = query.failed ? base_fail(err, ERR_INPUT, "list %s: the request is too long", s3_client_url(client))
                          : page_read(client, p, base_buffer_cstr(&query), err);
        if (rc == 0 && p->truncated && !p->token[0])
            rc = base_fail(err, ERR_INPUT, "list %s: a page that is not the last names no next one",
                           s3_client_url(client));
        if (rc == 0 && ++n_pages == PAGES_MAX)
            rc = base_fail(err, ERR_INPUT, "list %s: more than %d pages", s3_client_url(client), PAGES_MAX);
    } while (rc == 0 && p->truncated && !p->stopped);
    base_buffer_done(&query);
    free(p);
    return rc;
}
