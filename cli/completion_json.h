/* completion_json - a completion as one line of JSON, with the field names of completion/1. */
#ifndef ROUSE_CLI_COMPLETION_JSON_H
#define ROUSE_CLI_COMPLETION_JSON_H

#include "base/buffer.h"
#include "schemas/completion.h"

void cli_completion_json(const struct schema_completion *c, struct base_buffer *out); /* ends with a newline */

#endif
