#include "snapshot/s3_xml.h"

#include <expat.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

struct reader {
    XML_Parser parser;
    s3_xml_fn *fn;
    void *context;
    int rc;
    const char *why; /* of a refusal of ours */
    char path[S3_XML_PATH_MAX];
    size_t n_path;
    size_t ends[S3_XML_DEPTH_MAX]; /* n_path before each open element */
    unsigned depth;
    char text[S3_XML_TEXT_MAX + 1];
    size_t n_text;
};

/* A stopped parser may still call: the end of an empty element comes with its beginning. */
static bool is_over(const struct reader *r)
{
    return r->why || r->rc != 0;
}

static void refuse(struct reader *r, const char *why)
{
    r->why = why;
    XML_StopParser(r->parser, XML_FALSE);
}

static void on_doctype(void *user, const char *name, const char *system_id, const char *public_id, int has_subset)
{
    (void)name, (void)system_id, (void)public_id, (void)has_subset;
    refuse(user, "it has a document type");
}

static void on_start(void *user, const char *name, const char **attributes)
{
    struct reader *r = user;
    (void)attributes;
    if (is_over(r))
        return;
    const char *colon = strrchr(name, ':');
    const char *local = colon ? colon + 1 : name;
    size_t n = strlen(local);
    if (r->depth == S3_XML_DEPTH_MAX) {
        refuse(r, "it is nested too deeply");
        return;
    }
    if (r->n_path + n + 2 > sizeof(r->path)) {
        refuse(r, "its names are too long");
        return;
    }
    r->ends[r->depth++] = r->n_path;
    if (r->n_path)
        r->path[r->n_path++] = '/';
    memcpy(r->path + r->n_path, local, n + 1);
    r->n_path += n;
    r->n_text = 0;
}

static void on_text(void *user, const char *text, int n)
{
    struct reader *r = user;
    if (is_over(r))
        return;
    if ((size_t)n > S3_XML_TEXT_MAX - r->n_text) {
        refuse(r, "a text is too long");
        return;
    }
    memcpy(r->text + r->n_text, text, (size_t)n);
    r->n_text += (size_t)n;
}

static void on_end(void *user, const char *name)
{
    struct reader *r = user;
    (void)name;
    if (is_over(r))
        return;
    r->text[r->n_text] = '\0';
    r->rc = r->fn(r->context, r->path, r->text);
    r->n_text = 0; /* what stands between children is no text of theirs */
    r->n_path = r->ends[--r->depth];
    r->path[r->n_path] = '\0';
    if (r->rc != 0)
        XML_StopParser(r->parser, XML_FALSE);
}

int s3_xml_parse(const void *bytes, size_t n, s3_xml_fn *fn, void *context, struct base_error *err)
{
    struct reader r = {.fn = fn, .context = context};
    if (n > INT_MAX)
        return base_fail(err, ERR_INPUT, "XML of %zu bytes: too long", n);
    r.parser = XML_ParserCreate(NULL);
    if (!r.parser)
        return base_fail(err, ERR_NOMEM, "XML: out of memory");
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_start, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    bool ok = XML_Parse(r.parser, bytes, (int)n, XML_TRUE) == XML_STATUS_OK;
    const char *why = r.why ? r.why : XML_ErrorString(XML_GetErrorCode(r.parser));
    int rc = r.rc;
    if (!ok && rc == 0)
        rc = base_fail(err, ERR_INPUT, "XML of %zu bytes: %s", n, why);
    XML_ParserFree(r.parser);
    return rc;
}
