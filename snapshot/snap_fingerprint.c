#include "snapshot/snap_fingerprint.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "snapshot/snap_format.h"

static const char *const field_names[SNAP_FP_N] = {
    [SNAP_FP_FORMAT] = "format", [SNAP_FP_LAYOUT] = "layout", [SNAP_FP_MODEL] = "model",   [SNAP_FP_DTYPE] = "dtype",
    [SNAP_FP_DEVICE] = "device", [SNAP_FP_ARCH] = "arch",     [SNAP_FP_DRIVER] = "driver", [SNAP_FP_KEY] = "key",
};

const char *snap_fingerprint_field_name(enum snap_fingerprint_field field)
{
    return field_names[field];
}

static bool is_plain(unsigned char c)
{
    return c > 0x20 && c < 0x7f && c != '%';
}

bool snap_escape(const char *text, char *out, size_t size)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        size_t need = is_plain(*p) ? 1 : 3;
        if (n + need >= size)
            return false;
        if (need == 1)
            out[n] = (char)*p;
        else
            snprintf(out + n, 4, "%%%02X", *p);
        n += need;
    }
    if (n >= size)
        return false;
    out[n] = '\0';
    return true;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that text begins with, escaped or not; -1 when escape would not have written it. */
static int unescape_one(const char *text, size_t *out_used)
{
    *out_used = 1;
    if (is_plain((unsigned char)text[0]))
        return (unsigned char)text[0];
    if (text[0] != '%')
        return -1;
    int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);
    int c = low < 0 ? -1 : high << 4 | low;
    *out_used = 3;
    return c <= 0 || is_plain((unsigned char)c) ? -1 : c;
}

bool snap_unescape(const char *text, char *out, size_t size)
{
    size_t n = 0, used;
    for (; *text; text += used) {
        int c = unescape_one(text, &used);
        if (c < 0 || n + 1 >= size)
            return false;
        out[n++] = (char)c;
    }
    if (n >= size)
        return false;
    out[n] = '\0';
    return true;
}

static int fingerprint_escape(struct snap_fingerprint *f, enum snap_fingerprint_field field, const char *text,
                              struct base_error *err)
{
    if (!snap_escape(text, f->value[field], SNAP_FP_VALUE_MAX))
        return base_fail(err, ERR_USAGE, "fingerprint: %s is too long", field_names[field]);
    return 0;
}

int snap_fingerprint_init(struct snap_fingerprint *out, const struct gpu_info *info, const char *dtype, const char *key,
                          struct base_error *err)
{
    struct snap_fingerprint f = {0};
    if (key && strlen(key) > SNAP_KEY_BYTES_MAX)
        return base_fail(err, ERR_USAGE, "--snapshot-key has %zu bytes, at most %d are allowed", strlen(key),
                         SNAP_KEY_BYTES_MAX);
    snprintf(f.value[SNAP_FP_FORMAT], SNAP_FP_VALUE_MAX, "%d", SNAP_FORMAT_VERSION);
    snprintf(f.value[SNAP_FP_LAYOUT], SNAP_FP_VALUE_MAX, "%d", GPU_LAYOUT_VERSION);
    int rc = fingerprint_escape(&f, SNAP_FP_DTYPE, dtype, err);
    if (rc == 0)
        rc = fingerprint_escape(&f, SNAP_FP_DEVICE, info->kind, err);
    if (rc == 0)
        rc = fingerprint_escape(&f, SNAP_FP_ARCH, info->arch, err);
    if (rc == 0)
        rc = fingerprint_escape(&f, SNAP_FP_DRIVER, info->driver, err);
    if (rc == 0)
        rc = fingerprint_escape(&f, SNAP_FP_KEY, key ? key : "", err);
    if (rc == 0)
        *out = f;
    return rc;
}

const char *snap_auto_dtype(const struct gpu_device *device, const char *file_dtype)
{
    enum model_dtype dtype;
    if (model_dtype_parse(file_dtype, &dtype, NULL) < 0)
        return file_dtype;
    return model_dtype_name(gpu_device_dtype(device, dtype));
}

void snap_fingerprint_set(struct snap_fingerprint *f, enum snap_fingerprint_field field, const char *value)
{
    assert(strlen(value) < SNAP_FP_VALUE_MAX);
    memmove(f->value[field], value, strlen(value) + 1);
}

struct snap_fingerprint snap_fingerprint_host(const struct snap_fingerprint *f)
{
    struct snap_fingerprint host = *f;
    snap_fingerprint_set(&host, SNAP_FP_ARCH, GPU_ARCH_HOST);
    snap_fingerprint_set(&host, SNAP_FP_DRIVER, "");
    return host;
}

bool snap_fingerprint_is_host(const struct snap_fingerprint *f)
{
    return strcmp(f->value[SNAP_FP_ARCH], GPU_ARCH_HOST) == 0;
}

static void fingerprint_line(const struct snap_fingerprint *f, int field, const char *value, struct base_buffer *out)
{
    base_buffer_printf(out, "%s %s\n", field_names[field], value ? value : f->value[field]);
}

void snap_fingerprint_text(const struct snap_fingerprint *f, struct base_buffer *out)
{
    for (int i = 0; i < SNAP_FP_N; i++)
        fingerprint_line(f, i, NULL, out);
}

static int fingerprint_digest(struct base_buffer *text, char out[SNAP_ID_CHARS + 1], struct base_error *err)
{
    int rc = text->failed ? base_fail(err, text->failed, "fingerprint: out of memory")
                          : snap_digest_id(text->data, text->n, out, err);
    base_buffer_done(text);
    return rc;
}

int snap_fingerprint_id(const struct snap_fingerprint *f, char out_id[SNAP_ID_CHARS + 1], struct base_error *err)
{
    assert(f->value[SNAP_FP_MODEL][0] != '\0' && strcmp(f->value[SNAP_FP_DTYPE], "auto") != 0);
    struct base_buffer text;
    base_buffer_init(&text, SNAP_MANIFEST_BYTES_MAX);
    snap_fingerprint_text(f, &text);
    return fingerprint_digest(&text, out_id, err);
}

int snap_fingerprint_env(const struct snap_fingerprint *f, const char *dtype, char out_env[SNAP_ID_CHARS + 1],
                         struct base_error *err)
{
    struct base_buffer text;
    base_buffer_init(&text, SNAP_MANIFEST_BYTES_MAX);
    for (int i = 0; i < SNAP_FP_N; i++) {
        if (i != SNAP_FP_MODEL)
            fingerprint_line(f, i, i == SNAP_FP_DTYPE ? dtype : NULL, &text);
    }
    return fingerprint_digest(&text, out_env, err);
}

static bool field_fits(const struct snap_fingerprint *have, const struct snap_fingerprint *wanted, int field)
{
    const char *w = wanted->value[field];
    if ((field == SNAP_FP_MODEL && w[0] == '\0') || (field == SNAP_FP_DTYPE && strcmp(w, "auto") == 0))
        return true;
    return strcmp(have->value[field], w) == 0;
}

size_t snap_fingerprint_diff(const struct snap_fingerprint *have, const struct snap_fingerprint *wanted, char *out,
                             size_t size)
{
    size_t n_differ = 0, n = 0;
    assert(size > 0);
    out[0] = '\0';
    for (int i = 0; i < SNAP_FP_N; i++) {
        if (field_fits(have, wanted, i))
            continue;
        if (n < size) {
            int k = snprintf(out + n, size - n, "%s%s is '%.64s', wanted '%.64s'", n_differ ? "; " : "", field_names[i],
                             have->value[i], wanted->value[i]);
            n += k > 0 ? (size_t)k : 0;
        }
        n_differ++;
    }
    return n_differ;
}
