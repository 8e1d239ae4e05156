/* trace - the cold start, phase by phase.
 *
 * A fixed table of spans and marks on the monotonic clock, filled by any thread. Every start writes it: as one log line,
 * as metrics, in --json output, and with --trace FILE in Chrome's trace event format (chrome://tracing, ui.perfetto.dev;
 * format: "Trace Event Format", complete events "X" and instants "i", microseconds).
 *
 * The phases of DESIGN's budget have fixed names, so that dashboards can rely on them. */
#ifndef ROUSE_BASE_TRACE_H
#define ROUSE_BASE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json_writer.h"

enum base_trace_phase {
    BASE_TRACE_EXEC,         /* kernel started the process -> main() */
    BASE_TRACE_CONFIG,       /* options, model configuration */
    BASE_TRACE_INDEX,        /* fingerprint and index look-up */
    BASE_TRACE_DEVICE_OPEN,
    BASE_TRACE_RESTORE,      /* bytes from the snapshot into the arena; verified on the way */
    BASE_TRACE_CHOICES,      /* what the device found out when the snapshot was built (algorithms, code), handed back to it */
    BASE_TRACE_VERIFY,       /* the proof; overlaps RESTORE where the device computes while weights still arrive */
    BASE_TRACE_COLD_LOAD,    /* only without a snapshot: digest, parse, convert, pack */
    BASE_TRACE_TOKENIZER,    /* compile (cold) or point at the tables (restored) */
    BASE_TRACE_BUILD,        /* only when this start wrote the snapshot */
    BASE_TRACE_GROUP_JOIN,
    BASE_TRACE_FIRST_RECORD, /* mark */
    BASE_TRACE_FIRST_TOKEN,  /* mark */
    BASE_TRACE_FIRST_COMMIT, /* mark */
    BASE_TRACE_READY,        /* mark */
    BASE_TRACE_N
};

struct base_trace;

struct base_trace *base_trace_new(void); /* NULL: out of memory. Starts the clock; records EXEC by itself. */
void base_trace_free(struct base_trace *t);

/* All take t == NULL and do nothing then. A second begin/mark of the same phase is ignored: the first start counts. */
void base_trace_begin(struct base_trace *t, enum base_trace_phase phase);
void base_trace_end(struct base_trace *t, enum base_trace_phase phase);
void base_trace_mark(struct base_trace *t, enum base_trace_phase phase);

/* Seconds a finished span took, or seconds from process start to a mark; negative when it has not happened. */
double base_trace_seconds(const struct base_trace *t, enum base_trace_phase phase);
/* The moment itself in CLOCK_MONOTONIC ns: a mark, or a span's end; 0 when it has not happened. */
uint64_t base_trace_at_ns(const struct base_trace *t, enum base_trace_phase phase);
const char *base_trace_phase_name(enum base_trace_phase phase); /* "index", "first_token", ... */
bool base_trace_phase_is_mark(enum base_trace_phase phase);

/* Key-value notes that explain the figures ("plan": "stream", "restored": "true"). Copied; a later value replaces. */
void base_trace_note(struct base_trace *t, const char *key, const char *value);
/* A note's value into out (size bytes, cut to fit); false, and "": there is none. */
bool base_trace_get_note(const struct base_trace *t, const char *key, char *out, size_t size);

void base_trace_log(const struct base_trace *t, const char *event);               /* one log line */
void base_trace_json(const struct base_trace *t, struct base_json *j);            /* an object: {"exec_s":..,"first_token_at":..} */
void base_trace_print(const struct base_trace *t, struct base_buffer *out);       /* a small bar chart for people */
int base_trace_write_chrome(const struct base_trace *t, const char *path, struct base_error *err);

#endif
