#include "cli/sampling_options.h"

#include <math.h>
#include <string.h>

const struct cli_sampling_options cli_sampling_unset = {
    .max_tokens = UINT64_MAX,
    .top_k = UINT64_MAX,
    .seed = UINT64_MAX,
    .logprobs = UINT64_MAX,
    .temperature = NAN,
    .top_p = NAN,
    .min_p = NAN,
    .repetition_penalty = NAN,
};

int cli_sampling_make(struct cli_sampling_options *s, struct schema_sampling *out, struct base_error *err)
{
    *out = (struct schema_sampling){0};
    if (s->stop.n > CLI_SAMPLING_STOPS_MAX)
        return base_fail(err, ERR_USAGE, "--stop is given %zu times; at most %d are possible", s->stop.n,
                         CLI_SAMPLING_STOPS_MAX);
    for (size_t i = 0; i < s->stop.n; i++) {
        if (!s->stop.items[i][0])
            return base_fail(err, ERR_USAGE, "--stop is empty; leave it out instead");
        s->stops[i] = (struct schema_string){s->stop.items[i], strlen(s->stop.items[i])};
    }
#define GIVEN(given, bit, field, value)                                                                                \
    if (given) {                                                                                                       \
        out->has |= (bit);                                                                                             \
        out->field = (value);                                                                                          \
    }
    GIVEN(s->max_tokens != UINT64_MAX, SCHEMA_HAS_MAX_TOKENS, max_tokens, (uint32_t)s->max_tokens)
    GIVEN(!isnan(s->temperature), SCHEMA_HAS_TEMPERATURE, temperature, s->temperature)
    GIVEN(s->top_k != UINT64_MAX, SCHEMA_HAS_TOP_K, top_k, (uint32_t)s->top_k)
    GIVEN(!isnan(s->top_p), SCHEMA_HAS_TOP_P, top_p, s->top_p)
    GIVEN(!isnan(s->min_p), SCHEMA_HAS_MIN_P, min_p, s->min_p)
    GIVEN(!isnan(s->repetition_penalty), SCHEMA_HAS_REPETITION_PENALTY, repetition_penalty, s->repetition_penalty)
    GIVEN(s->seed != UINT64_MAX, SCHEMA_HAS_SEED, seed, s->seed)
    GIVEN(s->logprobs != UINT64_MAX, SCHEMA_HAS_LOGPROBS, logprobs, (uint32_t)s->logprobs)
    GIVEN(s->stop.n > 0, SCHEMA_HAS_STOP, n_stop, (uint32_t)s->stop.n)
    GIVEN(s->ignore_eos, SCHEMA_HAS_IGNORE_EOS, ignore_eos, true)
#undef GIVEN
    out->stop = s->stop.n ? s->stops : NULL;
    return 0;
}
