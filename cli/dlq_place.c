#include "cli/dlq_place.h"

#include <string.h>

bool dlq_number_parse(const char **at, uint64_t max, uint64_t *out)
{
    const char *c = *at;
    uint64_t n = 0;
    for (; *c >= '0' && *c <= '9'; c++) {
        uint64_t digit = (uint64_t)(*c - '0');
        if (digit > max || n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    if (c == *at)
        return false;
    *at = c;
    *out = n;
    return true;
}

bool dlq_place_parse(const char *text, const char *topic, int32_t *out_partition, int64_t *out_offset)
{
    size_t n_topic = strlen(topic);
    uint64_t partition, offset;
    const char *at = text;
    if (strncmp(at, topic, n_topic) == 0 && at[n_topic] == '/' && strchr(at + n_topic + 1, '/'))
        at += n_topic + 1;
    if (!dlq_number_parse(&at, INT32_MAX, &partition) || *at++ != '/')
        return false;
    if (!dlq_number_parse(&at, INT64_MAX, &offset) || *at)
        return false;
    *out_partition = (int32_t)partition;
    *out_offset = (int64_t)offset;
    return true;
}
