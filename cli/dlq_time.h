/* dlq_time - times as people give and read them. UTC throughout. */
#ifndef ROUSE_CLI_DLQ_TIME_H
#define ROUSE_CLI_DLQ_TIME_H

#include <stdint.h>

#include "base/error.h"

/* "2026-11-26", "2026-11-26T10:30[:15][Z]", milliseconds since 1970, or so long before now: "90s", "30m", "2h", "7d". ERR_USAGE. */
int dlq_time_parse(const char *text, int64_t now_ms, int64_t *out_ms, struct base_error *err);

void dlq_time_text(int64_t unix_ms, char out[32]); /* "-" for 0 and for what is no time */

#endif
