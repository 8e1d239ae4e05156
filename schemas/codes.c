#include "schemas/codes.h"

#include <stddef.h>
#include <string.h>

static const char *const code_names[SCHEMA_CODE_N] = {
    [SCHEMA_OK] = "ok",
    [SCHEMA_MALFORMED] = "malformed",
    [SCHEMA_TOO_DEEP] = "too-deep",
    [SCHEMA_TOO_LARGE] = "too-large",
    [SCHEMA_VERSION] = "unsupported-version",
    [SCHEMA_MISSING_KEY] = "missing-key",
    [SCHEMA_WRONG_TYPE] = "wrong-type",
    [SCHEMA_BAD_VALUE] = "bad-value",
    [SCHEMA_UNKNOWN_MODEL] = "unknown-model",
    [SCHEMA_PROMPT_TOO_LONG] = "prompt-too-long",
    [SCHEMA_OUTPUT_TOO_LARGE] = "output-too-large",
    [SCHEMA_DEVICE] = "device",
    [SCHEMA_POISON] = "poison",
    [SCHEMA_INTERNAL] = "internal",
};

static const char *const stage_names[SCHEMA_STAGE_N] = {
    [SCHEMA_STAGE_DECODE] = "decode",     [SCHEMA_STAGE_TOKENIZE] = "tokenize", [SCHEMA_STAGE_ADMIT] = "admit",
    [SCHEMA_STAGE_GENERATE] = "generate", [SCHEMA_STAGE_PUBLISH] = "publish",
};

const char *schema_code_name(enum schema_code code)
{
    return (unsigned)code < SCHEMA_CODE_N ? code_names[code] : "unknown";
}

enum schema_code schema_code_find(const char *name)
{
    unsigned code = 0;
    while (code < SCHEMA_CODE_N && strcmp(code_names[code], name) != 0)
        code++;
    return (enum schema_code)code;
}

const char *schema_stage_name(enum schema_stage stage)
{
    return (unsigned)stage < SCHEMA_STAGE_N ? stage_names[stage] : "unknown";
}
