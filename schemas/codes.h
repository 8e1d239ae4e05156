/* codes - the closed list of reasons: x-error-code of a dead letter, error.code of a completion, a metric's label. */
#ifndef ROUSE_SCHEMAS_CODES_H
#define ROUSE_SCHEMAS_CODES_H

enum schema_code {
    SCHEMA_OK = 0,
    SCHEMA_MALFORMED,        /* "malformed": not msgpack, trailing bytes, invalid UTF-8, a key twice */
    SCHEMA_TOO_DEEP,         /* "too-deep" */
    SCHEMA_TOO_LARGE,        /* "too-large": a count or length beyond a limit */
    SCHEMA_VERSION,          /* "unsupported-version" */
    SCHEMA_MISSING_KEY,      /* "missing-key" */
    SCHEMA_WRONG_TYPE,       /* "wrong-type" */
    SCHEMA_BAD_VALUE,        /* "bad-value": a field outside its range */
    SCHEMA_UNKNOWN_MODEL,    /* "unknown-model" */
    SCHEMA_PROMPT_TOO_LONG,  /* "prompt-too-long": no room in the context */
    SCHEMA_OUTPUT_TOO_LARGE, /* "output-too-large": the completion exceeds the broker's record size */
    SCHEMA_DEVICE,           /* "device": the forward pass failed */
    SCHEMA_POISON,           /* "poison": workers died with it, again and again */
    SCHEMA_INTERNAL,         /* "internal" */
    SCHEMA_CODE_N
};
const char *schema_code_name(enum schema_code code);
enum schema_code schema_code_find(const char *name); /* SCHEMA_CODE_N: no such */

/* x-error-stage: where on the data path it failed. */
enum schema_stage {
    SCHEMA_STAGE_DECODE,
    SCHEMA_STAGE_TOKENIZE,
    SCHEMA_STAGE_ADMIT,
    SCHEMA_STAGE_GENERATE,
    SCHEMA_STAGE_PUBLISH,
    SCHEMA_STAGE_N
};
const char *schema_stage_name(enum schema_stage stage);

#endif
