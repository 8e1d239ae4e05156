/* dlq_place - where a letter lies, as text: "3/1207", or with its topic "rouse.dead-letters/3/1207", as ls, the audit and the headers of
 * a replayed record write it. */
#ifndef ROUSE_CLI_DLQ_PLACE_H
#define ROUSE_CLI_DLQ_PLACE_H

#include <stdbool.h>
#include <stdint.h>

/* Decimal digits alone: no sign, no space, no more than max. Moves *at behind them. */
bool dlq_number_parse(const char **at, uint64_t max, uint64_t *out);

/* The whole text is a place; one with a topic only if it is this topic. */
bool dlq_place_parse(const char *text, const char *topic, int32_t *out_partition, int64_t *out_offset);

#endif
