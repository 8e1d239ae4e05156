#include "snapshot/snap_digest.h"

#include <openssl/evp.h>
#include <string.h>

static bool sha256_parts(EVP_MD_CTX *context, const struct snap_part *parts, size_t n_parts, uint8_t *out)
{
    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1)
        return false;
    for (size_t i = 0; i < n_parts; i++) {
        if (EVP_DigestUpdate(context, parts[i].bytes, parts[i].n) != 1)
            return false;
    }
    return EVP_DigestFinal_ex(context, out, NULL) == 1;
}

int snap_sha256(const struct snap_part *parts, size_t n_parts, uint8_t out[SNAP_SHA256_BYTES], struct base_error *err)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool ok = sha256_parts(context, parts, n_parts, out);
    EVP_MD_CTX_free(context);
    return ok ? 0 : base_fail(err, ERR_INTERNAL, "SHA-256: libcrypto failed");
}

int snap_digest_id(const void *text, size_t n, char out[SNAP_ID_CHARS + 1], struct base_error *err)
{
    uint8_t digest[SNAP_SHA256_BYTES];
    int rc = snap_sha256(&(struct snap_part){text, n}, 1, digest, err);
    if (rc == 0)
        snap_hex(digest, SNAP_ID_CHARS / 2, out);
    return rc;
}

void snap_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = '\0';
}

bool snap_is_hex(const char *text, size_t n_digits)
{
    return strspn(text, "0123456789abcdef") == n_digits && text[n_digits] == '\0';
}
