/* config.json in both forms, every wrong key, and the binary form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/file.h"
#include "model/config.h"

/* As EleutherAI published pythia-70m. */
static const char published[] =
    "{\"architectures\": [\"GPTNeoXForCausalLM\"], \"bos_token_id\": 0, \"eos_token_id\": 0, \"hidden_act\": \"gelu\","
    " \"hidden_size\": 512, \"initializer_range\": 0.02, \"intermediate_size\": 2048, \"layer_norm_eps\": 1e-05,"
    " \"max_position_embeddings\": 2048, \"model_type\": \"gpt_neox\", \"num_attention_heads\": 8,"
    " \"num_hidden_layers\": 6, \"rotary_emb_base\": 10000, \"rotary_pct\": 0.25, \"tie_word_embeddings\": false,"
    " \"torch_dtype\": \"float16\", \"transformers_version\": \"4.24.0\", \"use_cache\": true,"
    " \"use_parallel_residual\": true, \"vocab_size\": 50304}";

/* As transformers 5 writes one. */
static const char transformers5[] =
    "{\"architectures\": [\"GPTNeoXForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0,"
    " \"bos_token_id\": 0, \"classifier_dropout\": 0.1, \"dtype\": \"bfloat16\", \"eos_token_id\": [2],"
    " \"hidden_act\": \"gelu_new\", \"hidden_dropout\": 0.0, \"hidden_size\": 320, \"initializer_range\": 0.02,"
    " \"intermediate_size\": 640, \"is_decoder\": false, \"layer_norm_eps\": 0.001, \"max_position_embeddings\": 256,"
    " \"model_type\": \"gpt_neox\", \"num_attention_heads\": 4, \"num_hidden_layers\": 2, \"pad_token_id\": null,"
    " \"rope_parameters\": {\"partial_rotary_factor\": 0.5, \"rope_theta\": 500000.0, \"rope_type\": \"default\"},"
    " \"tie_word_embeddings\": true, \"transformers_version\": \"5.23.0\", \"use_cache\": true,"
    " \"use_parallel_residual\": false, \"vocab_size\": 300}";

static struct model_config parsed(const char *json)
{
    struct model_config c;
    struct base_error err = {0};
    if (model_config_parse(json, strlen(json), "config.json", &c, &err) != 0)
        fail_msg("%s", err.text);
    return c;
}

static void test_published(void **state)
{
    (void)state;
    struct model_config c = parsed(published);
    assert_int_equal(c.n_layers, 6);
    assert_int_equal(c.hidden, 512);
    assert_int_equal(c.n_heads, 8);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.rotary_dims, 16);
    assert_int_equal(c.intermediate, 2048);
    assert_int_equal(c.vocab, 50304);
    assert_int_equal(c.n_positions, 2048);
    assert_true(c.rotary_base == 10000.0f && c.norm_eps == 1e-5f);
    assert_true(c.parallel_residual && !c.tied && c.attention_bias);
    assert_int_equal(c.act, MODEL_ACT_GELU_ERF);
    assert_int_equal(c.file_dtype, MODEL_F16);
    assert_int_equal(c.bos_id, 0);
    assert_int_equal(c.eos_id, 0);
    assert_int_equal(model_config_n_parameters(&c), 70426624); /* what transformers counts */
}

static void test_transformers5(void **state)
{
    (void)state;
    struct model_config c = parsed(transformers5);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.head_dim, 80);
    assert_int_equal(c.rotary_dims, 40);
    assert_true(c.rotary_base == 500000.0f && c.norm_eps == 1e-3f);
    assert_true(!c.parallel_residual && c.tied && !c.attention_bias);
    assert_int_equal(c.act, MODEL_ACT_GELU_TANH);
    assert_int_equal(c.file_dtype, MODEL_BF16);
    assert_int_equal(c.eos_id, 2);
    /* V E + L (4 E + 4 E E + 2 E F + F + E) + 2 E */
    assert_int_equal(model_config_n_parameters(&c),
                     300 * 320 + 2 * (4 * 320 + 4 * 320 * 320 + 2 * 320 * 640 + 640 + 320) + 2 * 320);
}

/* json with key set to the JSON text value, or without key when value is NULL. */
static char *edited(const char *json, const char *key, const char *value)
{
    json_t *o = json_loads(json, 0, NULL);
    assert_non_null(o);
    if (value) {
        json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
        if (!v)
            fail_msg("test bug: %s is not JSON", value);
        json_object_set_new(o, key, v);
    } else {
        json_object_del(o, key);
    }
    char *text = json_dumps(o, 0);
    json_decref(o);
    assert_non_null(text);
    return text;
}

static void test_defaults(void **state)
{
    (void)state;
    static const char *const optional[] = {"rotary_emb_base",       "rotary_pct",          "layer_norm_eps",
                                           "use_parallel_residual", "tie_word_embeddings", "hidden_act",
                                           "torch_dtype",           "bos_token_id",        "eos_token_id"};
    char *json = strdup(published);
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++) {
        char *less = edited(json, optional[i], NULL);
        free(json);
        json = less;
    }
    struct model_config c = parsed(json);
    free(json);
    assert_true(c.rotary_base == 10000.0f && c.rotary_dims == 16 && c.norm_eps == 1e-5f);
    assert_true(c.parallel_residual && !c.tied && c.act == MODEL_ACT_GELU_ERF && c.file_dtype == MODEL_F32);
    assert_true(c.bos_id == 0 && c.eos_id == 2);
}

static void test_spellings(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
        uint32_t rotary_dims;
        float base;
        int32_t eos;
    } cases[] = {
        {"rope_parameters", "{\"rope_theta\": 10000.0, \"partial_rotary_factor\": 0.25}", 16, 10000, 0},
        {"rope_parameters", "null", 16, 10000, 0},
        {"rope_scaling", "null", 16, 10000, 0},
        {"rope_theta", "10000", 16, 10000, 0},
        {"partial_rotary_factor", "0.25", 16, 10000, 0},
        {"rotary_pct", "1", 64, 10000, 0},
        {"rotary_pct", "0", 0, 10000, 0},
        {"rotary_emb_base", "25000.5", 16, 25000.5f, 0},
        {"eos_token_id", "null", 16, 10000, -1},
        {"eos_token_id", "[7]", 16, 10000, 7},
        {"head_dim", "64", 16, 10000, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = edited(published, cases[i].key, cases[i].value);
        struct model_config c = parsed(json);
        free(json);
        if (c.rotary_dims != cases[i].rotary_dims || c.rotary_base != cases[i].base || c.eos_id != cases[i].eos)
            fail_msg("%s %s: rotary_dims %u, base %g, eos %d", cases[i].key, cases[i].value, c.rotary_dims,
                     (double)c.rotary_base, c.eos_id);
    }
}

static void test_wrong_keys(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *says; /* value NULL: without the key */
    } cases[] = {
        {"model_type", "\"llama\"", "config.json: model_type 'llama' is not gpt_neox"},
        {"model_type", NULL, "model_type '' is not gpt_neox"},
        {"model_type", "3", "model_type 3 is not a string"},
        {"hidden_size", NULL, "hidden_size is missing"},
        {"num_hidden_layers", NULL, "num_hidden_layers is missing"},
        {"vocab_size", "null", "vocab_size is missing"},
        {"hidden_size", "100", "config.json: hidden_size 100 is not a multiple of num_attention_heads 8"},
        {"hidden_size", "4", "hidden_size 4 is outside 8..65536"},
        {"hidden_size", "-512", "hidden_size -512 is outside 8..65536"},
        {"hidden_size", "4294967808", "hidden_size 4294967808 is outside 8..65536"},
        {"hidden_size", "512.0", "hidden_size 512.0 is not a whole number"},
        {"hidden_size", "\"512\"", "hidden_size \"512\" is not a whole number"},
        {"hidden_size", "{\"a\":[1,2,3]}", "hidden_size {\"a\":[1,2,3]} is not a whole number"},
        {"hidden_size", "8", "is 1; the head size must be a multiple of 8 up to 256"},
        {"hidden_size", "4096", "hidden_size 4096 / num_attention_heads 8 is 512; the head size must be"},
        {"num_attention_heads", "0", "num_attention_heads 0 is outside 1..8192"},
        {"num_attention_heads", "3", "hidden_size 512 is not a multiple of num_attention_heads 3"},
        {"num_attention_heads", "128", "is 4; the head size must be a multiple of 8"},
        {"num_hidden_layers", "0", "num_hidden_layers 0 is outside 1..256"},
        {"num_hidden_layers", "257", "num_hidden_layers 257 is outside 1..256"},
        {"intermediate_size", "0", "intermediate_size 0 is outside 1..262144"},
        {"intermediate_size", "262145", "intermediate_size 262145 is outside"},
        {"vocab_size", "0", "vocab_size 0 is outside 1..4194304"},
        {"max_position_embeddings", "0", "max_position_embeddings 0 is outside 1..1048576"},
        {"head_dim", "32", "head_dim 32 is not hidden_size / num_attention_heads, 64"},
        {"head_dim", "\"x\"", "head_dim \"x\" is not hidden_size / num_attention_heads, 64"},
        {"rotary_pct", "0.28", "rotary_pct rotates 17 of 64 dimensions; it must be an even number"},
        {"rotary_pct", "1.01", "rotary_pct 1.01 is outside 0..1"},
        {"rotary_pct", "-0.25", "rotary_pct -0.25 is outside 0..1"},
        {"rotary_pct", "true", "rotary_pct true is not a number"},
        {"rotary_emb_base", "0", "rotary_emb_base 0 is outside 1..1e+12"},
        {"rotary_emb_base", "1e300", "rotary_emb_base 1.0000000000000001e300 is outside 1..1e+12"},
        {"rope_theta", "20000", "rotary_emb_base 10000 and rope_theta 20000 contradict each other"},
        {"rope_parameters", "{\"rope_theta\": 500}", "rope_theta 500 and rotary_emb_base 10000 contradict each other"},
        {"rope_parameters", "{\"partial_rotary_factor\": 1}", "partial_rotary_factor 1 and rotary_pct 0.25 contradict"},
        {"rope_parameters", "{\"rope_type\": \"yarn\"}", "rope_type yarn is not supported; it must be default"},
        {"rope_parameters", "{\"type\": \"linear\"}", "rope_type linear is not supported"},
        {"rope_parameters", "[]", "rope_parameters [] is not an object"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "rope_scaling {\"type\":\"linear\",\"factor\":2} is"},
        {"quantization_config", "{\"bits\": 4}", "quantization_config {\"bits\":4} is not supported"},
        {"layer_norm_eps", "0", "layer_norm_eps 0 is outside"},
        {"layer_norm_eps", "2", "layer_norm_eps 2 is outside"},
        {"layer_norm_eps", "\"1e-5\"", "layer_norm_eps \"1e-5\" is not a number"},
        {"use_parallel_residual", "1", "use_parallel_residual 1 is not true or false"},
        {"tie_word_embeddings", "\"no\"", "tie_word_embeddings \"no\" is not true or false"},
        {"attention_bias", "0", "attention_bias 0 is not true or false"},
        {"hidden_act", "\"relu\"", "hidden_act relu is not one of gelu, gelu_new, gelu_fast"},
        {"hidden_act", "[]", "hidden_act [] is not a string"},
        {"torch_dtype", "\"int8\"", "torch_dtype int8 is not one of float32, float16, bfloat16"},
        {"dtype", "\"float64\"", "dtype float64 is not one of"},
        {"bos_token_id", "50304", "bos_token_id 50304 is not a token: vocab_size is 50304"},
        {"eos_token_id", "-1", "eos_token_id -1 is outside 0..2147483647"},
        {"eos_token_id", "4294967296", "eos_token_id 4294967296 is outside"},
        {"eos_token_id", "[0, 1]", "eos_token_id [0,1] is not one token id"},
        {"eos_token_id", "\"</s>\"", "eos_token_id \"</s>\" is not one token id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = edited(published, cases[i].key, cases[i].value);
        struct model_config c, before;
        memset(&c, 0x5a, sizeof c);
        before = c;
        struct base_error err = {0};
        int rc = model_config_parse(json, strlen(json), "config.json", &c, &err);
        if (rc != ERR_INPUT || err.code != ERR_INPUT || !strstr(err.text, cases[i].says))
            fail_msg("%s %s: rc %d, '%s', wanted '%s'", cases[i].key, cases[i].value ? cases[i].value : "(absent)", rc,
                     err.text, cases[i].says);
        assert_memory_equal(&c, &before, sizeof c);
        free(json);
    }
}

static void test_wrong_json(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } cases[] = {
        {"", "line 1, column 0"},
        {"[]", "not a JSON object"},
        {"{", "config.json: line 1"},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": 123456789012345678901234567890}", "too big integer"},
        {"{\"a\": \"\xff\"}", "unable to decode byte 0xff"},
    };
    struct model_config c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct base_error err = {0};
        int rc = model_config_parse(cases[i].json, strlen(cases[i].json), "config.json", &c, &err);
        if (rc != ERR_INPUT || !strstr(err.text, cases[i].says))
            fail_msg("%s: rc %d, '%s', wanted '%s'", cases[i].json, rc, err.text, cases[i].says);
    }
    /* Deep, wide and long. */
    static const struct {
        char byte;
        size_t n;
        const char *says;
    } floods[] = {{'[', 9000, "maximum parsing depth reached"},
                  {',', 20000, "JSON of up to 20001 values; the limit is 10000"},
                  {' ', (1 << 20) + 1, "1048577 bytes; the limit is 1048576"}};
    for (size_t i = 0; i < sizeof floods / sizeof *floods; i++) {
        char *text = malloc(floods[i].n);
        assert_non_null(text);
        memset(text, floods[i].byte, floods[i].n);
        struct base_error err = {0};
        assert_int_equal(model_config_parse(text, floods[i].n, "config.json", &c, &err), ERR_INPUT);
        if (!strstr(err.text, floods[i].says))
            fail_msg("'%s', wanted '%s'", err.text, floods[i].says);
        free(text);
    }
}

static void test_read(void **state)
{
    (void)state;
    char dir[] = "/tmp/rouse-config-XXXXXX";
    assert_non_null(mkdtemp(dir));
    struct model_config c;
    struct base_error err = {0};
    assert_int_equal(model_config_read(dir, &c, &err), ERR_NOTFOUND);
    assert_non_null(strstr(err.text, "config.json"));
    char path[64];
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(base_file_publish(path, published, sizeof published - 1, &err), 0);
    assert_int_equal(model_config_read(dir, &c, &err), 0);
    assert_int_equal(c.hidden, 512);
    unlink(path);
    rmdir(dir);
}

static void test_binary_form(void **state)
{
    (void)state;
    const char *const both[] = {published, transformers5};
    for (int i = 0; i < 2; i++) {
        struct model_config c = parsed(both[i]), again;
        c.bos_id = i == 0 ? -1 : 5;
        struct base_buffer out;
        base_buffer_init(&out, 4096);
        model_config_encode(&c, &out);
        assert_int_equal(out.n, 56);
        struct base_error err = {0};
        struct base_bytes in = base_bytes_of(out.data, out.n);
        if (model_config_decode(&in, &again, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(base_bytes_left(&in), 0);
        struct base_buffer twice;
        base_buffer_init(&twice, 4096);
        model_config_encode(&again, &twice);
        assert_memory_equal(out.data, twice.data, 56);
        assert_int_equal(again.bos_id, c.bos_id);
        assert_int_equal(again.act, c.act);
        assert_true(again.tied == c.tied && again.rotary_base == c.rotary_base);
        for (size_t n = 0; n < out.n; n++) {
            in = base_bytes_of(out.data, n);
            assert_int_equal(model_config_decode(&in, &again, &err), ERR_CORRUPT);
        }
        base_buffer_done(&out);
        base_buffer_done(&twice);
    }
}

static void test_binary_form_is_checked(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint32_t value; /* little-endian, over 4 bytes */
        const char *says;
    } cases[] = {
        {0, 0, "num_hidden_layers 0 is outside"},
        {0, 257, "num_hidden_layers 257 is outside"},
        {4, 513, "hidden_size 513 is not a multiple"},
        {8, 0, "num_attention_heads 0 is outside"},
        {12, 32, "head_dim 32 is not"},
        {16, 66, "rotates 66 of 64"},
        {16, 15, "rotates 15 of 64"},
        {20, 0xffffffff, "intermediate_size 4294967295 is outside"},
        {24, 0, "vocab_size 0 is outside"},
        {28, 0, "max_position_embeddings 0"},
        {32, 0x7fc00000, "rotary base nan is outside"},
        {36, 0, "layer_norm_eps 0 is outside"},
        {36, 0x7f800000, "layer_norm_eps inf is outside"},
        {40, 2, "byte 40 is 2"},
        {40, 3u << 24, "byte 43 is 3"},
        {44, 3, "byte 44 is 3"},
        {44, 1u << 24, "byte 47 is 1"},
        {48, (uint32_t)-2, "bos_token_id -2 is not a token"},
        {52, 50304, "eos_token_id 50304 is not a token"},
    };
    struct model_config c = parsed(published), again;
    struct base_buffer out;
    base_buffer_init(&out, 4096);
    model_config_encode(&c, &out);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[56];
        memcpy(bytes, out.data, sizeof bytes);
        for (int b = 0; b < 4; b++)
            bytes[cases[i].at + b] = (uint8_t)(cases[i].value >> 8 * b);
        struct base_error err = {0};
        struct base_bytes in = base_bytes_of(bytes, sizeof bytes);
        int rc = model_config_decode(&in, &again, &err);
        if (rc != ERR_CORRUPT || !strstr(err.text, cases[i].says))
            fail_msg("byte %zu: rc %d, '%s', wanted '%s'", cases[i].at, rc, err.text, cases[i].says);
    }
    base_buffer_done(&out);
}

static void test_dtypes(void **state)
{
    (void)state;
    for (int d = MODEL_F32; d <= MODEL_BF16; d++) {
        enum model_dtype dtype;
        assert_int_equal(model_dtype_parse(model_dtype_name((enum model_dtype)d), &dtype, NULL), 0);
        assert_int_equal(dtype, d);
        assert_int_equal(model_dtype_bytes(dtype), d == MODEL_F32 ? 4 : 2);
    }
    struct base_error err = {0};
    enum model_dtype dtype;
    assert_int_equal(model_dtype_parse("fp16", &dtype, &err), ERR_USAGE);
    assert_string_equal(err.text, "dtype 'fp16' is not one of f32, f16, bf16, q8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_transformers5),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_wrong_keys),
        cmocka_unit_test(test_wrong_json),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_binary_form),
        cmocka_unit_test(test_binary_form_is_checked),
        cmocka_unit_test(test_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
