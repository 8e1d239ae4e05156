/* Any bytes: decode, and what decodes goes round: encode, decode, encode gives the same bytes; each prompt can be cut out. */
#include <stdlib.h>
#include <string.h>

#include "schemas/prompt_batch.h"
#include "tests/fuzz.h"

static bool has_refused_prompt(const struct schema_prompt_batch *batch)
{
    for (uint32_t i = 0; i < batch->n_prompts; i++) {
        if (batch->prompts[i].error != SCHEMA_OK)
            return true;
    }
    return false;
}

static void encode(const struct schema_prompt_batch *batch, struct base_buffer *out)
{
    base_buffer_init(out, SIZE_MAX);
    FUZZ_CHECK(schema_prompt_batch_encode(batch, out, NULL) == 0);
}

static void round_trip(const struct schema_prompt_batch *batch)
{
    struct base_buffer first, second;
    struct schema_prompt_batch *back = NULL;
    encode(batch, &first);
    FUZZ_CHECK(schema_prompt_batch_decode(first.data, first.n, NULL, &back, NULL, NULL) == 0);
    encode(back, &second);
    FUZZ_CHECK(first.n == second.n && memcmp(first.data, second.data, first.n) == 0);
    schema_prompt_batch_free(back);
    base_buffer_done(&first);
    base_buffer_done(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct schema_prompt_batch *batch = NULL, *single = NULL;
    enum schema_code code = SCHEMA_OK;
    struct base_error err = {0};
    int rc = schema_prompt_batch_decode(data, n, NULL, &batch, &code, &err);
    FUZZ_CHECK(rc == 0 || (rc == ERR_INPUT && code != SCHEMA_OK && err.text[0] != '\0'));
    if (rc != 0)
        return 0;
    if (!has_refused_prompt(batch))
        round_trip(batch);
    for (uint32_t i = 0; i < batch->n_prompts && i < 4; i++) {
        struct base_buffer one;
        base_buffer_init(&one, SIZE_MAX);
        FUZZ_CHECK(schema_prompt_batch_single(data, n, i, &one, NULL) == 0);
        FUZZ_CHECK(schema_prompt_batch_decode(one.data, one.n, NULL, &single, NULL, NULL) == 0);
        FUZZ_CHECK(single->n_prompts == 1 && single->prompts[0].n_tokens == batch->prompts[i].n_tokens);
        schema_prompt_batch_free(single);
        base_buffer_done(&one);
    }
    schema_prompt_batch_free(batch);
    return 0;
}
