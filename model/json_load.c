#include "model/json_load.h"

#include <stdio.h>
#include <stdlib.h>

/* Every value but the first follows one of these; those inside strings only make the bound tighter. */
static size_t json_count_values(const char *text, size_t n)
{
    size_t n_values = 1;
    for (size_t i = 0; i < n; i++)
        n_values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return n_values;
}

int model_json_load(const char *text, size_t n, size_t n_values_max, const char *path, json_t **out_object,
                    struct base_error *err)
{
    size_t n_values = json_count_values(text, n);
    if (n_values > n_values_max)
        return base_fail(err, ERR_INPUT, "%s: JSON of up to %zu values; the limit is %zu", path, n_values,
                         n_values_max);
    json_error_t fault;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &fault);
    if (!root && json_error_code(&fault) == json_error_out_of_memory)
        return base_fail(err, ERR_NOMEM, "%s: out of memory", path);
    if (!root)
        return base_fail(err, ERR_INPUT, "%s: line %d, column %d: %s", path, fault.line, fault.column, fault.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return base_fail(err, ERR_INPUT, "%s: not a JSON object", path);
    }
    *out_object = root;
    return 0;
}

const char *model_json_text(const json_t *value, char *out, size_t size)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    snprintf(out, size, "%s", text ? text : "?");
    free(text);
    return out;
}
