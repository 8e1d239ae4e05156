/* dlq_groups - counts of letters by what they have in common: the table of `ls`, and of a dry run. */
#ifndef ROUSE_CLI_DLQ_GROUPS_H
#define ROUSE_CLI_DLQ_GROUPS_H

#include "base/error.h"
#include "cli/dlq_letter.h"

#define DLQ_GROUP_FIELDS_MAX 4
#define DLQ_GROUPS_MAX       100000 /* letters of further groups are counted together */
#define DLQ_GROUP_WORD       96

struct dlq_group {
    char words[DLQ_GROUP_FIELDS_MAX][DLQ_GROUP_WORD];
    uint64_t n, n_replayed, n_bytes;
    int64_t oldest_ms, newest_ms; /* 0: no time is known */
};

struct dlq_groups {
    int fields[DLQ_GROUP_FIELDS_MAX];
    int n_fields;
    struct dlq_group *items;
    uint32_t *slots; /* [n_slots] index + 1 into items, by hash */
    size_t n, capacity, n_slots;
};

/* by: "code,stage,hour": of code, stage, day, hour, model, topic, partition, attempts, worker, replays. ERR_USAGE. */
int dlq_groups_init(struct dlq_groups *g, const char *by, struct base_error *err);
void dlq_groups_done(struct dlq_groups *g);
int dlq_groups_add(struct dlq_groups *g, struct dlq_letter *l, bool replayed, struct base_error *err);
int dlq_groups_print(struct dlq_groups *g, bool json, struct base_error *err); /* most first */

#endif
