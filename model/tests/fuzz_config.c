/* Fuzz entry: config.json, then its binary form. What parses must survive a round trip; anything may come as plan bytes. */
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "tests/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_config config, again;
    struct base_error err = {0};
    struct base_buffer plan;
    base_buffer_init(&plan, 4096);
    if (model_config_parse((const char *)data, n, "fuzz", &config, &err) == 0) {
        model_config_encode(&config, &plan);
        struct base_bytes in = base_bytes_of(plan.data, plan.n);
        FUZZ_CHECK(model_config_decode(&in, &again, &err) == 0);
        FUZZ_CHECK(again.hidden == config.hidden && again.vocab == config.vocab);
    }
    base_buffer_clear(&plan);
    struct base_bytes in = base_bytes_of(data, n);
    if (model_config_decode(&in, &config, &err) == 0) {
        model_config_encode(&config, &plan);
        FUZZ_CHECK(plan.n <= n && memcmp(plan.data, data, plan.n) == 0);
        FUZZ_CHECK(model_config_n_parameters(&config) > 0);
    }
    base_buffer_done(&plan);
    return 0;
}
