/* worker - one worker: consume, generate, publish, commit. The data path, in order, is in worker.c:
 *
 *   poll -> decode -> tokenise -> admit -> step (forward, sample, detokenise) -> encode -> publish + commit
 *
 * Threads: poll (owns the consumer, never blocks on anything but poll), device (drives all models and their engines), commit
 * (owns the transactional producer), models (loads and closes them), names (asks the store), and libmicrohttpd's. Work moves by
 * bounded queues: poll -> device -> commit.
 *
 * Promises here: completions, dead letters and offsets of one publish go out in one transaction; a partition's offset
 * advances over its finished prefix only; results of a partition that moved away are dropped, not published (the ledger's
 * epochs); whatever cannot be computed becomes a dead letter and an `error` completion; a service that is away is waited for. */
#ifndef ROUSE_WORKER_WORKER_H
#define ROUSE_WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/options.h"
#include "base/trace.h"
#include "snapshot/start.h"

struct worker_options {
    const char *brokers, *group, *topic_in, *topic_out, *topic_dlq;
    const char *transactional_id;  /* NULL: "<group>-<host>-<pid>" */
    const char *rebalance;         /* worker/kafka_config.h; NULL: "auto" */
    struct base_option_list kafka; /* KEY=VALUE, passed to librdkafka, over our own settings */
    const char *http;              /* "ADDR:PORT", port 0 for a free one; NULL: no HTTP */
    bool http_admin;               /* POST /sleep and /wake also where http is not a loopback address */
    const char *device;            /* "auto", "cpu", "cuda[:N]" */
    struct gpu_open_options open;
    struct snap_start_options start; /* model, store, redis, dtype, limits; its trace is set by worker_run */
    const char *models; /* what else may be asked for: "NAME,NAME@VERSION,...", "*"; NULL: start.model's name alone */
    uint64_t models_bytes;     /* for all loaded models: weights, workspace, KV; 0: 80 % of the device's memory */
    uint32_t names_refresh_ms; /* how old what is known of names may be; 0: 2000 */
    const char *trace_file;    /* NULL: none */
    uint32_t n_inflight_max;   /* prompts taken and not yet published: bounds memory; pauses partitions above */
    uint32_t deaths_max;       /* a record that this many workers died with is a dead letter; 0: never */
    uint32_t commit_ms;        /* group commit: a publish at most this long after the first finished prompt */
    uint32_t handover_ms;      /* a partition that moves away: what runs of it may finish for so long; 0: no time */
    uint32_t drain_ms;         /* SIGTERM: finish what fits into this, then leave */
    uint64_t exit_after;       /* 0: run until stopped; else stop after this many prompts are published (demo, tests) */
    struct base_trace *trace;  /* may be NULL: worker_run makes one */
};

/* Runs until stopped; returns 0 after a clean drain. Blocks. Installs no signal handlers. */
int worker_run(const struct worker_options *options, struct base_error *err);

/* First call: drain and leave. Second: leave now. Any thread, async-signal-safe. Takes effect on every running worker of the process. */
void worker_request_stop(void);

#endif
