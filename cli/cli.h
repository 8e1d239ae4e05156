/* cli - what the subcommands share: the options that select model, store and device, and how a command ends.
 *
 * Each subcommand is one file, cmd_<name>.c, with one function; main.c holds the table of them. A command prints results on
 * stdout, everything else on stderr, and returns the program's exit code. */
#ifndef ROUSE_CLI_CLI_H
#define ROUSE_CLI_CLI_H

#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/options.h"
#include "base/trace.h"
#include "gpu/device.h"
#include "snapshot/start.h"

struct cli_model_options {
    const char *model, *store, *cache, *redis, *device, *kernels, *deterministic, *graphs, *dtype, *snapshot_key,
        *restore_plan, *node_dir;
    uint64_t n_threads, n_ctx, n_seqs, n_step_tokens, kv_bytes, cache_bytes;
    bool no_snapshot, json;
};

/* Rows for a command's option table. */
#define CLI_OPTION_JSON(o)                                                                                             \
    {                                                                                                                  \
        "json", BASE_OPTION_FLAG, &(o)->json, NULL, NULL, NULL, 0, 0, "Output",                                        \
            "Print JSON, one object a line, for programs.", false                                                      \
    }
#define CLI_OPTIONS_DEVICE(o)                                                                                          \
    {"device",                                                                                                         \
     BASE_OPTION_STRING,                                                                                               \
     &(o)->device,                                                                                                     \
     "auto|cpu|cuda[:N]",                                                                                              \
     "auto",                                                                                                           \
     NULL,                                                                                                             \
     0,                                                                                                                \
     0,                                                                                                                \
     "Device",                                                                                                         \
     "Where the model runs. auto takes a CUDA card when there is one, else the cpu.",                                  \
     false},                                                                                                           \
        {"threads",                                                                                                    \
         BASE_OPTION_UINT,                                                                                             \
         &(o)->n_threads,                                                                                              \
         "N",                                                                                                          \
         "0",                                                                                                          \
         NULL,                                                                                                         \
         0,                                                                                                            \
         4096,                                                                                                         \
         "Device",                                                                                                     \
         "Threads of the cpu device. 0: the cores this process may use, container limits included.",                   \
         false},                                                                                                       \
        {"deterministic",                                                                                              \
         BASE_OPTION_CHOICE,                                                                                           \
         &(o)->deterministic,                                                                                          \
         "on|off",                                                                                                     \
         "on",                                                                                                         \
         "on|off",                                                                                                     \
         0,                                                                                                            \
         0,                                                                                                            \
         "Device",                                                                                                     \
         "cuda: one GEMM algorithm for any number of rows, so that the same prompt gets the same answer in any "       \
         "batch. "                                                                                                     \
         "off: the fastest one for each; answers may then differ from batch to batch.",                                \
         false},                                                                                                       \
        {"graphs",                                                                                                     \
         BASE_OPTION_CHOICE,                                                                                           \
         &(o)->graphs,                                                                                                 \
         "on|off",                                                                                                     \
         "on",                                                                                                         \
         "on|off",                                                                                                     \
         0,                                                                                                            \
         0,                                                                                                            \
         "Device",                                                                                                     \
         "cuda: generated tokens by CUDA graphs. off: kernel by kernel, to compare with; slower.",                     \
         false},                                                                                                       \
    {                                                                                                                  \
        "cpu-kernels", BASE_OPTION_CHOICE, &(o)->kernels, "KIND", "auto", "auto|generic|avx2", 0, 0, "Device",         \
            "Force a kernel set of the cpu device; a snapshot belongs to one. auto: the best the processor has.",      \
            false                                                                                                      \
    }
#define CLI_OPTIONS_MODEL(o)                                                                                           \
    {"model",                                                                                                          \
     BASE_OPTION_STRING,                                                                                               \
     &(o)->model,                                                                                                      \
     "DIR|NAME[@VERSION]",                                                                                             \
     NULL,                                                                                                             \
     NULL,                                                                                                             \
     0,                                                                                                                \
     0,                                                                                                                \
     "Model",                                                                                                          \
     "A model directory (config.json, tokenizer.json, *.safetensors) or the name of one that has a snapshot in the "   \
     "store.",                                                                                                         \
     true},                                                                                                            \
        {"dtype",                                                                                                      \
         BASE_OPTION_CHOICE,                                                                                           \
         &(o)->dtype,                                                                                                  \
         "TYPE",                                                                                                       \
         "auto",                                                                                                       \
         "auto|f32|f16|bf16|q8",                                                                                       \
         0,                                                                                                            \
         0,                                                                                                            \
         "Model",                                                                                                      \
         "Type the weights are kept in; sums are f32. auto: as in the model's files. q8: 8-bit weights, "              \
         "on a card only.",                                                                                            \
         false},                                                                                                       \
        {"ctx",       BASE_OPTION_UINT,                                                                                \
         &(o)->n_ctx, "TOKENS",                                                                                        \
         "0",         NULL,                                                                                            \
         0,           1048576,                                                                                         \
         "Model",     "Longest sequence, prompt and completion. 0: the model's own limit, at most 4096.",              \
         false},                                                                                                       \
        {"seqs",                                                                                                       \
         BASE_OPTION_UINT,                                                                                             \
         &(o)->n_seqs,                                                                                                 \
         "N",                                                                                                          \
         "0",                                                                                                          \
         NULL,                                                                                                         \
         0,                                                                                                            \
         4096,                                                                                                         \
         "Model",                                                                                                      \
         "Sequences generated at the same time. 0: 16.",                                                               \
         false},                                                                                                       \
        {"step-tokens",                                                                                                \
         BASE_OPTION_UINT,                                                                                             \
         &(o)->n_step_tokens,                                                                                          \
         "N",                                                                                                          \
         "0",                                                                                                          \
         NULL,                                                                                                         \
         0,                                                                                                            \
         65536,                                                                                                        \
         "Model",                                                                                                      \
         "Tokens in one step: bounds how long a long prompt holds up the others. 0: 512.",                             \
         false},                                                                                                       \
    {                                                                                                                  \
        "kv-bytes", BASE_OPTION_UINT, &(o)->kv_bytes, "BYTES", "1G", NULL, 0, 0, "Model",                              \
            "Memory for keys and values at most; more sequences fit at once with more.", false                         \
    }
#define CLI_OPTIONS_STORE(o)                                                                                           \
    {"store",                                                                                                          \
     BASE_OPTION_STRING,                                                                                               \
     &(o)->store,                                                                                                      \
     "DIR|s3://BUCKET[/PREFIX]",                                                                                       \
     NULL,                                                                                                             \
     NULL,                                                                                                             \
     0,                                                                                                                \
     0,                                                                                                                \
     "Snapshot",                                                                                                       \
     "Where snapshots live. A bucket is found and opened as the AWS_ variables of the environment say: "               \
     "AWS_ENDPOINT_URL, AWS_REGION, "                                                                                  \
     "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. Default: $XDG_CACHE_HOME/rouse, else "              \
     "~/.cache/rouse.",                                                                                                \
     false},                                                                                                           \
        {"cache",                                                                                                      \
         BASE_OPTION_STRING,                                                                                           \
         &(o)->cache,                                                                                                  \
         "DIR",                                                                                                        \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         "Snapshot",                                                                                                   \
         "With a bucket: where this node keeps copies of its snapshots, shared by all processes. Default: "            \
         "$XDG_CACHE_HOME/rouse, else "                                                                                \
         "~/.cache/rouse.",                                                                                            \
         false},                                                                                                       \
    {                                                                                                                  \
        "cache-bytes", BASE_OPTION_UINT, &(o)->cache_bytes, "N", "0", NULL, 0, 0, "Snapshot",                          \
            "Bound of those copies, K, M or G behind it: the least recently used ones that no process reads are "      \
            "removed for a new one. "                                                                                  \
            "0: none are, as long as the disk has room.",                                                              \
            false                                                                                                      \
    }
#define CLI_OPTION_REDIS(o)                                                                                            \
    {                                                                                                                  \
        "redis", BASE_OPTION_STRING, &(o)->redis, "URL", NULL, NULL, 0, 0, "Snapshot",                                 \
            "redis://[user:password@]host[:port][/db]: index of snapshots shared by workers. Without it, a file "      \
            "index in the store.",                                                                                     \
            false                                                                                                      \
    }
#define CLI_OPTIONS_SNAPSHOT(o)                                                                                        \
    CLI_OPTIONS_STORE(o), CLI_OPTION_REDIS(o),                                                                         \
        {"snapshot-key",                                                                                               \
         BASE_OPTION_STRING,                                                                                           \
         &(o)->snapshot_key,                                                                                           \
         "TEXT",                                                                                                       \
         "",                                                                                                           \
         NULL,                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         "Snapshot",                                                                                                   \
         "Part of the fingerprint: another key makes other snapshots of the same model.",                              \
         false},                                                                                                       \
        {"restore-plan",                                                                                               \
         BASE_OPTION_CHOICE,                                                                                           \
         &(o)->restore_plan,                                                                                           \
         "WAY",                                                                                                        \
         "auto",                                                                                                       \
         "auto|attach|stream|ring",                                                                                    \
         0,                                                                                                            \
         0,                                                                                                            \
         "Snapshot",                                                                                                   \
         "How weights take their place: attach maps the file's pages, shared by all workers of a node; stream reads "  \
         "them into memory of this worker; ring sends them to a device. auto looks, and chooses.",                     \
         false},                                                                                                       \
        {"node-dir",                                                                                                   \
         BASE_OPTION_STRING,                                                                                           \
         &(o)->node_dir,                                                                                               \
         "DIR",                                                                                                        \
         NULL,                                                                                                         \
         NULL,                                                                                                         \
         0,                                                                                                            \
         0,                                                                                                            \
         "Snapshot",                                                                                                   \
         "Where workers of one machine say to each other what is verified and who reads. Default: "                    \
         "/dev/shm/rouse-UID.",                                                                                        \
         false},                                                                                                       \
    {                                                                                                                  \
        "no-snapshot", BASE_OPTION_FLAG, &(o)->no_snapshot, NULL, NULL, NULL, 0, 0, "Snapshot",                        \
            "Load the model's files the slow way; neither use nor build a snapshot.", false                            \
    }
#define CLI_OPTIONS_END                                                                                                \
    {                                                                                                                  \
        NULL, BASE_OPTION_FLAG, NULL, NULL, NULL, NULL, 0, 0, NULL, NULL, false                                        \
    }

/* Fills what options left open (the default store) and translates. trace may be NULL; the result borrows from o. */
int cli_start_options(struct cli_model_options *o, struct base_trace *trace, struct snap_start_options *out,
                      struct base_error *err);
struct gpu_open_options cli_open_options(const struct cli_model_options *o);

/* device -> model in one call, for the commands that only compute. Both are the caller's. min_logits: rows of logits a
 * step needs at least. */
int cli_open_model(struct cli_model_options *o, uint32_t min_logits, struct base_trace *trace,
                   struct gpu_device **out_device, struct snap_model **out_model, struct base_error *err);

/* What ROUSE_LOG asked for; set by main. */
extern enum base_log_level cli_log_level;

/* Prints "rouse COMMAND: text" and returns the exit code for rc. */
int cli_fail(const char *command, int rc, const struct base_error *err);

/* What was printed so far is out. ERR_IO: it cannot be written (a full disk, a reader that went away): time to stop. */
int cli_flush(struct base_error *err);

/* Lines of a file or of stdin ("-"), bounded. */
struct cli_lines {
    FILE *file;
    const char *path;
    char *line;
    size_t capacity;
    uint64_t number; /* of the last line read, from 1 */
};
int cli_lines_open(struct cli_lines *l, const char *path, struct base_error *err);
/* 1: a line without its newline, lent; 0: the end; ERR_INPUT: longer than 16 MiB. */
int cli_lines_next(struct cli_lines *l, char **out_line, size_t *out_n, struct base_error *err);
void cli_lines_close(struct cli_lines *l);

/* All of a file or of stdin ("-"). */
int cli_read_all(const char *path, struct base_buffer *out, struct base_error *err);

#endif
