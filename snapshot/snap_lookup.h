/* snap_lookup - what is asked for, and the snapshot that answers it.
 *
 * A directory is asked for by the identity of its files, and when it is gone by its last part as a reference NAME[@VERSION]. The
 * indexes are asked in order (Redis, files), then the store's own files are read. Whatever an index says, the file decides: an
 * entry whose file is not there is dropped, and an index that did not know is told after the restore.
 *
 * A reference to a name that has versions (names.h) leads to a version, that is to a model, whose snapshot's id follows; so no
 * index can lead it to another model. Without a version asked for, and while nothing of the name was promoted, an older version
 * answers where the newest has no snapshot for such a worker; one that was quarantined is never passed over. */
#ifndef ROUSE_SNAPSHOT_SNAP_LOOKUP_H
#define ROUSE_SNAPSHOT_SNAP_LOOKUP_H

#include "snapshot/snap_fingerprint.h"
#include "snapshot/snap_manifest.h"
#include "snapshot/snap_store.h"
#include "snapshot/start.h"

struct snap_request {
    const struct gpu_device *device; /* borrowed */
    char name[SNAP_NAME_MAX + 1];
    char version[SNAP_VERSION_MAX + 1]; /* asked for; "" */
    char word[SNAP_VERSION_MAX + 1];    /* what a build's version is to be called; "": the next vN */
    struct snap_name known;             /* the name's versions; n_versions 0: not known, or none */
    char name_wrong[160];               /* why its record cannot be read; "": it can, or there is none */
    const char *dir;                    /* NULL: no model directory under that path (any more) */
    char no_dir[200];                   /* why, for messages */
    char files[SNAP_SHA256_CHARS + 1];  /* identity of the directory's files; "" without one */
    const char *dtype;                  /* as asked for, "auto" included */
    struct snap_fingerprint wanted;     /* of a device snapshot; its model is "" until an index or a digest tells it */
    char file_dtype[8];                 /* "" until then */
};

/* ERR_USAGE: a name, dtype or key that cannot be; ERR_INPUT: a model directory whose files are wrong. */
int snap_request_init(struct snap_request *out, const struct gpu_device *device,
                      const struct snap_start_options *options, struct base_error *err);

struct snap_found {
    char id[SNAP_ID_CHARS + 1];
    unsigned untold;                    /* the indexes that answered and did not lead here: a bit each */
    char reason[256];                   /* when nothing was found: of a quarantine, if that is why */
    char version[SNAP_VERSION_MAX + 1]; /* that the reference led to; "" */
};

/* True: the file is there. False: nothing in the store answers (an unreadable store included). Learns the model's
 * digest and its files' dtype for the request, when an index knows them. */
bool snap_look_up(struct snap_store *store, struct snap_request *request, struct snap_found *out_found);

/* Why a look-up found nothing, for people. Always ERR_NOTFOUND. */
int snap_look_up_failed(const struct snap_store *store, const struct snap_request *request,
                        const struct snap_found *found, struct base_error *err);

/* The version of the request's name that this model is; "" when it is none. Asks the store when the request does not know. */
void snap_look_up_version(struct snap_store *store, const struct snap_request *request, const char *model_digest,
                          char out_version[SNAP_VERSION_MAX + 1]);

/* The host snapshot of what is wanted (its model is known), with that dtype, if the store has one that would do. */
bool snap_look_up_host(const struct snap_store *store, const struct snap_request *request, const char *dtype,
                       char out_id[SNAP_ID_CHARS + 1]);

/* Tells the indexes in `which` what leads to the snapshot with this manifest and record; what came from a directory becomes a version of
 * its name, unless it is one. fence: of the builder's lease; NULL: not built here. */
void snap_look_up_tell(struct snap_store *store, const struct snap_request *request,
                       const struct snap_manifest *manifest, const struct schema_snapshot_record *record,
                       const struct snap_index_fence *fence, unsigned which);
/* An entry led to something that does not fit. */
void snap_look_up_forget(struct snap_store *store, const struct snap_request *request, const char *id);

#endif
