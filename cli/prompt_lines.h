/* prompt_lines - prompts from lines of JSON ({"id", "text" | "tokens", "max_tokens", ..., "ignore_eos"}: the field names of
 * prompt-batch/1) or from lines of plain text, for `rouse generate` and `rouse produce`.
 *
 * A line becomes a prompt batch of one and goes through the same decoder as a record from Kafka: the same rules, the same
 * words for what breaks them. */
#ifndef ROUSE_CLI_PROMPT_LINES_H
#define ROUSE_CLI_PROMPT_LINES_H

#include "base/error.h"
#include "schemas/prompt_batch.h"

enum cli_line_kind { CLI_LINE_ANY, CLI_LINE_TEXT };

/* ANY: a line that begins with '{' is JSON, else text. TEXT: text, whatever it begins with. Fields that it leaves out come from defaults (borrowed by the result); an
 * id that it leaves out is the number. The batch has one prompt, without error; schema_prompt_batch_free it. ERR_INPUT names
 * file, line, field, value and limit. */
int cli_prompt_parse(const char *line, size_t n, const char *path, uint64_t number, enum cli_line_kind kind,
                     const struct schema_sampling *defaults, struct schema_prompt_batch **out_batch,
                     struct base_error *err);

#endif
