#include "snapshot/snap_cold.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/progress.h"
#include "model/files.h"
#include "snapshot/snap_build.h"
#include "snapshot/snap_restore.h"

enum { TOKENIZER_BYTES_MAX = 1 << 30 };

/* As the files are: the type that the embedding is stored in, which the large matrices share. */
static enum model_dtype files_dtype(const struct snap_cold *cold)
{
    const struct model_tensor *t = model_weights_find(cold->weights, "embed_in.weight");
    return t ? t->dtype : cold->config.file_dtype;
}

int snap_cold_open(struct snap_cold *cold, const struct gpu_device *device, const char *dir, const char *dtype,
                   struct base_error *err)
{
    *cold = (struct snap_cold){.dir = dir};
    base_buffer_init(&cold->blob, TOKENIZER_BYTES_MAX);
    int rc = model_config_read(dir, &cold->config, err);
    if (rc == 0)
        rc = model_weights_open(dir, &cold->weights, err);
    if (rc == 0)
        rc = model_weights_check(cold->weights, &cold->config, err);
    if (rc < 0)
        goto fail;
    cold->file_dtype = files_dtype(cold);
    cold->dtype = gpu_device_dtype(device, cold->file_dtype);
    if (strcmp(dtype, "auto") != 0)
        rc = model_dtype_parse(dtype, &cold->dtype, err);
    if (rc == 0)
        return 0;
fail:
    snap_cold_done(cold);
    return rc;
}

static void show_progress(void *context, uint64_t done, uint64_t total)
{
    struct base_progress *bar = context;
    bar->total = total;
    base_progress_set(bar, done);
}

static int load_weights(struct snap_cold *cold, struct gpu_device *device, const struct snap_start_options *options,
                        struct base_error *err)
{
    struct gpu_limits limits;
    int rc = snap_limits_resolve(&options->limits, device, options->kv_bytes_max, &cold->config, &limits, err);
    if (rc == 0)
        rc = gpu_model_new(device, &cold->config, cold->dtype, &limits, &cold->gpu, err);
    if (rc < 0)
        return rc;
    struct base_progress bar = {.on = false};
    if (options->progress)
        base_progress_begin(&bar, "loading model", "B", 0);
    rc = gpu_model_load(cold->gpu, cold->weights, options->progress ? show_progress : NULL, &bar, err);
    if (options->progress)
        base_progress_end(&bar);
    return rc;
}

static int load_tokenizer(struct snap_cold *cold, struct base_error *err)
{
    char path[PATH_MAX];
    int rc = base_file_join(path, sizeof(path), cold->dir, "tokenizer.json", err);
    if (rc == 0)
        rc = model_tokenizer_compile_file(path, &cold->blob, err);
    if (rc == ERR_NOTFOUND)
        return base_fail(err, ERR_INPUT, "model %s has no tokenizer.json", cold->dir);
    return rc < 0 ? rc : model_tokenizer_open(cold->blob.data, cold->blob.n, &cold->tokenizer, err);
}

int snap_cold_load(struct snap_cold *cold, struct gpu_device *device, const struct snap_start_options *options,
                   struct base_error *err)
{
    base_trace_begin(options->trace, BASE_TRACE_TOKENIZER);
    int rc = load_tokenizer(cold, err); /* the cheap part first: what is wrong with it is said at once */
    base_trace_end(options->trace, BASE_TRACE_TOKENIZER);
    if (rc == 0)
        rc = load_weights(cold, device, options, err);
    if (rc < 0)
        return rc;
    base_trace_begin(options->trace, BASE_TRACE_CHOICES);
    rc = gpu_model_warm_up(cold->gpu, err);
    base_trace_end(options->trace, BASE_TRACE_CHOICES);
    return rc;
}

void snap_cold_done(struct snap_cold *cold)
{
    model_tokenizer_close(cold->tokenizer);
    base_buffer_done(&cold->blob);
    gpu_model_free(cold->gpu);
    model_weights_close(cold->weights);
    cold->tokenizer = NULL;
    cold->gpu = NULL;
    cold->weights = NULL;
}

static int compute_digest(const struct snap_cold *cold, struct snap_request *request, bool progress,
                          struct base_error *err)
{
    struct model_file_digest digest;
    char hex[SNAP_SHA256_CHARS + 1];
    struct base_progress bar = {.on = false};
    if (progress)
        base_progress_begin(&bar, "digest of the model's files", "B", 0);
    int rc = model_files_digest(cold->dir, progress ? show_progress : NULL, &bar, &digest, err);
    if (progress)
        base_progress_end(&bar);
    if (rc < 0)
        return rc;
    snap_hex(digest.bytes, sizeof(digest.bytes), hex);
    snap_fingerprint_set(&request->wanted, SNAP_FP_MODEL, hex);
    return 0;
}

/* The files are still the ones of that identity: else digest, weights and identity may not belong together. */
static int check_unchanged(const char *dir, const char *files, struct base_error *err)
{
    struct model_file_digest identity;
    char hex[SNAP_SHA256_CHARS + 1];
    int rc = model_files_identity(dir, &identity, err);
    if (rc < 0)
        return rc;
    snap_hex(identity.bytes, sizeof(identity.bytes), hex);
    if (strcmp(hex, files) != 0)
        return base_fail(err, ERR_INPUT, "the files of %s have changed since they were read", dir);
    return 0;
}

int snap_cold_identify(const struct snap_cold *cold, struct snap_store *store, struct snap_request *request,
                       bool progress, char out_id[SNAP_ID_CHARS + 1], struct base_error *err)
{
    int rc = 0;
    snprintf(request->file_dtype, sizeof(request->file_dtype), "%s", model_dtype_name(cold->file_dtype));
    if (request->wanted.value[SNAP_FP_MODEL][0] == '\0') {
        rc = compute_digest(cold, request, progress, err);
        if (rc == 0)
            rc = check_unchanged(cold->dir, request->files, err);
        if (rc < 0) {
            snap_fingerprint_set(&request->wanted, SNAP_FP_MODEL, "");
            return rc;
        }
        const struct snap_index_change learnt = {.name = "",
                                                 .files = request->files,
                                                 .env = "",
                                                 .env_auto = "",
                                                 .model_digest = request->wanted.value[SNAP_FP_MODEL],
                                                 .file_dtype = request->file_dtype};
        snap_store_put(store, &learnt, SNAP_STORE_ALL);
    }
    struct snap_fingerprint f = request->wanted;
    snap_fingerprint_set(&f, SNAP_FP_DTYPE, model_dtype_name(cold->dtype));
    return snap_fingerprint_id(&f, out_id, err);
}

int snap_cold_build(struct snap_cold *cold, struct snap_store *store, struct snap_lease *lease,
                    const struct snap_request *request, bool progress, struct schema_snapshot_record *out_record,
                    struct base_error *err)
{
    assert(request->wanted.value[SNAP_FP_MODEL][0] && cold->tokenizer);
    struct snap_build build = {.store = store,
                               .lease = lease,
                               .model = cold->gpu,
                               .tokenizer = cold->blob.data,
                               .tokenizer_bytes = cold->blob.n,
                               .progress = progress};
    struct snap_manifest *m = &build.manifest;
    m->fingerprint = request->wanted;
    snap_fingerprint_set(&m->fingerprint, SNAP_FP_DTYPE, model_dtype_name(cold->dtype));
    memcpy(m->name, request->name, sizeof(m->name));
    memcpy(m->files, request->files, sizeof(m->files));
    snprintf(m->file_dtype, sizeof(m->file_dtype), "%s", model_dtype_name(cold->file_dtype));
    int rc = check_unchanged(cold->dir, request->files, err);
    return rc < 0 ? rc : snap_build_publish(&build, request, out_record, err);
}

int snap_cold_refill(const char *dir, const char *files, struct gpu_model *model, struct base_error *err)
{
    struct model_weights *weights = NULL;
    int rc = model_weights_open(dir, &weights, err);
    if (rc == 0)
        rc = gpu_model_load(model, weights, NULL, NULL, err);
    if (rc == 0)
        rc = check_unchanged(dir, files, err);
    model_weights_close(weights);
    return rc;
}
