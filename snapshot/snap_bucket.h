/* snap_bucket - what a store in a bucket does otherwise than one in a directory. Private to the store. */
#ifndef ROUSE_SNAPSHOT_SNAP_BUCKET_H
#define ROUSE_SNAPSHOT_SNAP_BUCKET_H

#include "snapshot/snap_store.h"

/* The object is there and not quarantined. A bucket that does not answer has nothing. */
bool snap_bucket_has(const struct snap_store *store, const char *id);

/* The file's bytes, as parts of an upload that is not complete. */
int snap_bucket_send(struct snap_building *b, struct base_error *err);
/* The object appears; a quarantine of the one before it ends. */
int snap_bucket_publish(struct snap_building *b, struct base_error *err);
/* Uploads whose builders died. */
void snap_bucket_clean(struct snap_store *store);

typedef bool snap_store_visit(void *context, const struct snap_store_item *item);
/* The files of the cache by `files`, then the objects. */
int snap_bucket_each(struct snap_store *store,
                     int (*files)(struct snap_store *, snap_store_visit *, void *, struct base_error *),
                     snap_store_visit *visit, void *context, struct base_error *err);

void snap_bucket_quarantine_reason(struct snap_store *store, const char *id, char out_reason[256]);

/* In the indexes. */
void snap_store_record_quarantine(struct snap_store *store, const char *id, const char *reason);

#endif
