#include "snapshot/objects.h"

#include <stdio.h>
#include <string.h>

static const char *part_wrong(const char *part, size_t n)
{
    if (n == 0)
        return "an empty part";
    if (part[0] == '.' && (n == 1 || (n == 2 && part[1] == '.')))
        return "a part '.' or '..'";
    for (size_t i = 0; i < n; i++) {
        if (part[i] < 0x21 || part[i] > 0x7e)
            return "a byte that is not printable ASCII";
    }
    return NULL;
}

int snap_object_key_check(const char *key, struct base_error *err)
{
    size_t n = strnlen(key, SNAP_OBJECT_KEY_MAX + 1);
    const char *wrong = n > SNAP_OBJECT_KEY_MAX ? "more than 255 bytes" : NULL;
    for (size_t at = 0; !wrong && at <= n;) {
        size_t n_part = strcspn(key + at, "/");
        wrong = part_wrong(key + at, n_part);
        if (!wrong && at == 0 && n_part == strlen(SNAP_OBJECTS_LOCKS) && strncmp(key, SNAP_OBJECTS_LOCKS, n_part) == 0)
            wrong = "a first part that is the store's own";
        at += n_part + 1;
    }
    return wrong ? base_fail(err, ERR_INPUT, "object '%.80s': a key with %s", key, wrong) : 0;
}
