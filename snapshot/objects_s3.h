/* objects_s3 - the small objects of a store in a bucket: conditional PUT, GET, DELETE, listing by pages.
 *
 * What an answer that got lost leaves open is looked up: a put that was carried out, but whose repetition was refused, succeeds. */
#ifndef ROUSE_SNAPSHOT_OBJECTS_S3_H
#define ROUSE_SNAPSHOT_OBJECTS_S3_H

#include "snapshot/objects.h"
#include "snapshot/s3_client.h"

/* Borrows the client. */
int snap_objects_s3_open(struct s3_client *client, struct snap_objects **out_objects, struct base_error *err);

#endif
