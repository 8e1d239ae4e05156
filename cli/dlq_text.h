/* dlq_text - text from outside, made safe for a terminal: what is no UTF-8, and what would steer a terminal or end a line, is not passed
 * on as it is. */
#ifndef ROUSE_CLI_DLQ_TEXT_H
#define ROUSE_CLI_DLQ_TEXT_H

#include <stddef.h>

/* With '?' in its place; cut to size, never inside a character. */
void dlq_text_safe(const char *text, char *out, size_t size);
/* To stdout, as \xNN; of more than n_max bytes the first ones and how many there are. */
void dlq_text_put(const char *text, size_t n, size_t n_max);

#endif
