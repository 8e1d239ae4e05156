/* snapshot_record - snapshot-record/1: what the index (Redis or the file index) knows of one snapshot.
 * CDDL: schemas/snapshot_record.cddl. Everything here can be rebuilt from the snapshot's own manifest. */
#ifndef ROUSE_SCHEMAS_SNAPSHOT_RECORD_H
#define ROUSE_SCHEMAS_SNAPSHOT_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

enum schema_snapshot_state {
    SCHEMA_SNAPSHOT_BUILDING,
    SCHEMA_SNAPSHOT_READY,
    SCHEMA_SNAPSHOT_QUARANTINED,
    SCHEMA_SNAPSHOT_OBSOLETE
};
const char *schema_snapshot_state_name(enum schema_snapshot_state state);

struct schema_snapshot_record {
    char id[33];           /* 128 bits of the fingerprint's digest in hex */
    enum schema_snapshot_state state;
    char name[129];        /* the model's name */
    char file[256];        /* relative to the store */
    uint64_t bytes;        /* of the file */
    char model_digest[65]; /* hex */
    char device[32], arch[64], dtype[8];
    char file_digest[65];  /* of header, tables and order: the one the file itself carries */
    int64_t created_ms;
    char builder[128]; /* host:pid */
    char reason[256];  /* of a quarantine; "" otherwise */
};

int schema_snapshot_record_encode(const struct schema_snapshot_record *r, struct base_buffer *out, struct base_error *err);
int schema_snapshot_record_decode(const void *bytes, size_t n, struct schema_snapshot_record *out_r, struct base_error *err);

#endif
