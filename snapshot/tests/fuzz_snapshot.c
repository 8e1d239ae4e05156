/* Fuzz entry: what a snapshot file says of itself, and the record of a name. The first byte chooses the parser; headers are tried as they come
 * and with their digest made right, for a checksum keeps a fuzzer out as well as it does damage. */
#include <stdlib.h>
#include <string.h>

#include "snapshot/names.h"
#include "snapshot/snap_format.h"
#include "snapshot/snap_manifest.h"
#include "snapshot/snap_plan.h"
#include "snapshot/snap_proof.h"
#include "tests/fuzz.h"

enum { FRONT_MAX = SNAP_HEADER_BYTES + 4 * SNAP_PAGE_BYTES };

static void fuzz_header(const uint8_t *data, size_t n, bool seal)
{
    static uint8_t front[FRONT_MAX];
    static uint64_t hashes[(FRONT_MAX - SNAP_HEADER_BYTES) / sizeof(uint64_t)];
    struct snap_layout l;
    char digest[65];
    struct base_error err = {0};
    uint64_t file_bytes;
    memset(front, 0, sizeof(front));
    memcpy(front, data, n < sizeof(front) ? n : sizeof(front));
    memcpy(&file_bytes, front + 16, sizeof(file_bytes));
    if (snap_header_decode(front, file_bytes, &l, &err) < 0) {
        FUZZ_CHECK(err.code == ERR_CORRUPT);
        return;
    }
    for (int i = 0; i < SNAP_SECTION_N; i++)
        FUZZ_CHECK(l.sections[i].offset >= l.front_bytes &&
                   l.sections[i].offset + l.sections[i].stored_bytes <= file_bytes);
    struct snap_chunk last = snap_layout_chunk(&l, l.n_chunks - 1);
    FUZZ_CHECK(last.offset + last.bytes == file_bytes);
    if (l.front_bytes > sizeof(front))
        return;
    if (seal) {
        uint8_t made[32];
        memset(front + 48, 0, 32);
        FUZZ_CHECK(snap_sha256(&(struct snap_part){front, l.front_bytes}, 1, made, NULL) == 0);
        memcpy(front + 48, made, 32);
        FUZZ_CHECK(snap_front_check(&l, front, hashes, digest, &err) == 0);
    } else {
        snap_front_check(&l, front, hashes, digest, &err);
    }
}

static void fuzz_manifest(const uint8_t *data, size_t n)
{
    struct snap_manifest m, again;
    struct base_buffer text;
    if (snap_manifest_decode(data, n, &m, NULL) < 0)
        return;
    base_buffer_init(&text, 1 << 20);
    FUZZ_CHECK(snap_manifest_encode(&m, &text, NULL) == 0);
    FUZZ_CHECK(snap_manifest_decode(text.data, text.n, &again, NULL) == 0);
    FUZZ_CHECK(strcmp(m.id, again.id) == 0 && strcmp(m.name, again.name) == 0 && m.created_ms == again.created_ms);
    base_buffer_done(&text);
}

/* A fingerprint never has its id right by chance: the lines of it are taken as they are, the rest is made fit. */
static void fuzz_manifest_fields(const uint8_t *data, size_t n)
{
    struct base_buffer text;
    char id[33];
    base_buffer_init(&text, 1 << 20);
    base_buffer_append(&text, data, n);
    const char *end = n ? memmem(text.data, text.n, "\n\n", 2) : NULL;
    if (end && snap_digest_id(text.data, (size_t)(end + 1 - (const char *)text.data), id, NULL) == 0) {
        base_buffer_printf(&text, "id %s\nname x\nfile-dtype f16\nfiles %064d\n", id, 0);
        fuzz_manifest(text.data, text.n);
    }
    base_buffer_done(&text);
}

static void fuzz_plan(const uint8_t *data, size_t n)
{
    struct snap_plan p;
    if (snap_plan_decode(data, n, &p, NULL) < 0)
        return;
    struct gpu_plan as_own = {.config = p.config,
                              .dtype = p.dtype,
                              .tensors = p.tensors,
                              .n_tensors = p.n_tensors,
                              .weights_bytes = p.weights_bytes};
    FUZZ_CHECK(snap_plan_check(&p, &as_own, NULL) == 0);
    snap_plan_done(&p);
}

static void fuzz_proof(const uint8_t *data, size_t n)
{
    struct snap_proof p;
    struct base_buffer bytes;
    if (snap_proof_decode(data, n, 50304, &p, NULL) < 0)
        return;
    base_buffer_init(&bytes, 1000);
    snap_proof_encode(&p, &bytes);
    FUZZ_CHECK(bytes.n == n && memcmp(bytes.data, data, n) == 0);
    base_buffer_done(&bytes);
}

/* What is taken for a record is written again as it was. */
static void fuzz_name(const uint8_t *data, size_t n)
{
    struct snap_name name;
    struct base_buffer text;
    if (snap_name_decode(data, n, &name, NULL) < 0)
        return;
    base_buffer_init(&text, SNAP_NAME_BYTES_MAX);
    FUZZ_CHECK(snap_name_encode(&name, &text, NULL) == 0);
    FUZZ_CHECK(text.n == n && memcmp(text.data, data, n) == 0);
    FUZZ_CHECK(name.n_versions == 0 || snap_name_route(&name, "", data, n) != NULL);
    base_buffer_done(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    uint8_t which = data[0];
    uint8_t *copy = malloc(n > 1 ? n - 1 : 1); /* of exactly this size: a byte too far is seen */
    if (!copy)
        return 0;
    memcpy(copy, data + 1, n - 1);
    switch (which % 7) {
    case 0:
        fuzz_header(copy, n - 1, false);
        break;
    case 1:
        fuzz_header(copy, n - 1, true);
        break;
    case 2:
        fuzz_manifest(copy, n - 1);
        break;
    case 3:
        fuzz_manifest_fields(copy, n - 1);
        break;
    case 4:
        fuzz_plan(copy, n - 1);
        break;
    case 5:
        fuzz_proof(copy, n - 1);
        break;
    default:
        fuzz_name(copy, n - 1);
        break;
    }
    free(copy);
    return 0;
}
