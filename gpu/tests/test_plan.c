#include "gpu/plan.h"

#include "gpu/tests/gpu_testing.h"

static struct model_config config_410m(void)
{
    return (struct model_config){.n_layers = 24,
                                 .hidden = 1024,
                                 .n_heads = 16,
                                 .head_dim = 64,
                                 .rotary_dims = 16,
                                 .intermediate = 4096,
                                 .vocab = 50304,
                                 .n_positions = 2048,
                                 .rotary_base = 10000,
                                 .norm_eps = 1e-5f,
                                 .parallel_residual = true,
                                 .attention_bias = true};
}

static const struct gpu_limits limits_usual = {512, 16, 16, 2048, 256};

static struct gpu_plan plan_of(const struct model_config *c, enum model_dtype dtype, struct gpu_tensor **out_tensors)
{
    struct gpu_plan plan;
    struct base_error err = {0};
    testing_ok(gpu_plan_check(c, dtype, &limits_usual, &err), &err);
    *out_tensors = testing_alloc(gpu_plan_n_tensors(c), sizeof **out_tensors);
    gpu_plan_weights(&plan, c, dtype, &limits_usual, *out_tensors);
    return plan;
}

static void check_layout(const struct gpu_plan *plan)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct gpu_tensor *t = &plan->tensors[i];
        const bool vector = t->rows == 1;
        assert_int_equal(t->dtype, vector ? MODEL_F32 : plan->dtype);
        assert_int_equal(t->bytes, (uint64_t)t->rows * t->cols * model_dtype_bytes(t->dtype));
        assert_int_equal(t->offset % 256, 0);
        assert_true(t->offset >= end && t->offset < end + 256);
        end = t->offset + t->bytes;
        for (uint32_t j = 0; j < i; j++)
            assert_string_not_equal(plan->tensors[j].name, t->name);
    }
    assert_int_equal(plan->weights_bytes % 4096, 0);
    assert_true(plan->weights_bytes >= end && plan->weights_bytes < end + 4096 + 256);
}

static void a_parallel_model_in_order_of_execution(void **state)
{
    (void)state;
    static const char *const names[] = {"embed_in.weight",
                                        "layers.0.input_layernorm.weight",
                                        "layers.0.input_layernorm.bias",
                                        "layers.0.post_attention_layernorm.weight",
                                        "layers.0.post_attention_layernorm.bias",
                                        "layers.0.attention.query_key_value.weight",
                                        "layers.0.attention.query_key_value.bias",
                                        "layers.0.attention.dense.weight",
                                        "layers.0.attention.dense.bias",
                                        "layers.0.mlp.dense_h_to_4h.weight",
                                        "layers.0.mlp.dense_h_to_4h.bias",
                                        "layers.0.mlp.dense_4h_to_h.weight",
                                        "layers.0.mlp.dense_4h_to_h.bias",
                                        "layers.1.input_layernorm.weight"};
    struct gpu_tensor *tensors;
    const struct model_config c = config_410m();
    const struct gpu_plan plan = plan_of(&c, MODEL_F16, &tensors);
    check_layout(&plan);
    assert_int_equal(plan.n_tensors, 1 + 24 * 12 + 3);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_string_equal(plan.tensors[i].name, names[i]);
    assert_string_equal(plan.tensors[plan.n_tensors - 3].name, "final_layer_norm.weight");
    assert_string_equal(plan.tensors[plan.n_tensors - 1].name, "embed_out.weight");
    assert_ptr_equal(gpu_plan_layer(&plan, 1, GPU_LN1_GAIN), &plan.tensors[13]);
    assert_string_equal(gpu_plan_layer(&plan, 23, GPU_DOWN)->name, "layers.23.mlp.dense_4h_to_h.weight");
    assert_int_equal(gpu_plan_layer(&plan, 5, GPU_QKV)->rows, 3072);
    assert_int_equal(gpu_plan_layer(&plan, 5, GPU_DOWN)->cols, 4096);
    assert_ptr_equal(gpu_plan_output(&plan), &plan.tensors[plan.n_tensors - 1]);
    free(tensors);
}

static void a_sequential_tied_model_without_attention_bias(void **state)
{
    (void)state;
    struct gpu_tensor *tensors;
    struct model_config c = config_410m();
    c.parallel_residual = false;
    c.attention_bias = false;
    c.tied = true;
    c.head_dim = 80;
    c.hidden = 1280;
    c.intermediate = 1001; /* rows that no alignment divides */
    const struct gpu_plan plan = plan_of(&c, MODEL_BF16, &tensors);
    check_layout(&plan);
    assert_int_equal(plan.n_tensors, 1 + 24 * 10 + 2);
    assert_string_equal(plan.tensors[3].name, "layers.0.attention.query_key_value.weight");
    assert_string_equal(plan.tensors[4].name, "layers.0.attention.dense.weight");
    assert_string_equal(plan.tensors[5].name, "layers.0.post_attention_layernorm.weight");
    assert_null(gpu_plan_layer(&plan, 3, GPU_QKV_BIAS));
    assert_null(gpu_plan_layer(&plan, 3, GPU_DENSE_BIAS));
    assert_string_equal(gpu_plan_layer(&plan, 3, GPU_LN2_BIAS)->name, "layers.3.post_attention_layernorm.bias");
    assert_ptr_equal(gpu_plan_output(&plan), &plan.tensors[0]);
    assert_string_equal(gpu_plan_final_bias(&plan)->name, "final_layer_norm.bias");
    free(tensors);
}

/* What a snapshot holds must not depend on how it is going to be served. */
static void weights_do_not_depend_on_the_limits(void **state)
{
    (void)state;
    struct gpu_tensor *a, *b;
    const struct model_config c = config_410m();
    const struct gpu_plan plan = plan_of(&c, MODEL_F16, &a);
    const struct gpu_limits small = {1, 1, 1, 1, 1};
    struct gpu_plan other;
    b = testing_alloc(gpu_plan_n_tensors(&c), sizeof *b);
    gpu_plan_weights(&other, &c, MODEL_F16, &small, b);
    assert_int_equal(plan.weights_bytes, other.weights_bytes);
    assert_memory_equal(a, b, plan.n_tensors * sizeof *a);
    free(a);
    free(b);
}

static void ranges_follow_one_another(void **state)
{
    (void)state;
    struct gpu_tensor *tensors;
    struct base_error err = {0};
    const struct model_config c = config_410m();
    struct gpu_plan plan = plan_of(&c, MODEL_F16, &tensors);
    testing_ok(gpu_plan_ranges(&plan, 5000, 4097, &err), &err);
    assert_int_equal(plan.workspace_offset, plan.weights_bytes);
    assert_int_equal(plan.kv_offset, plan.weights_bytes + 8192);
    assert_int_equal(plan.arena_bytes, plan.kv_offset + 8192);
    assert_int_equal(gpu_plan_ranges(&plan, UINT64_MAX - 100, 10, &err), ERR_NOMEM);
    assert_int_equal(gpu_plan_ranges(&plan, 10, UINT64_MAX - 100, &err), ERR_NOMEM);
    assert_int_equal(gpu_plan_ranges(&plan, INT64_MAX, INT64_MAX, &err), ERR_NOMEM);
    free(tensors);
}

/* One field wrong at a time. */
struct broken {
    const char *name;
    size_t offset;
    uint32_t value;
};

/* A byte a weight, and behind them one scale a row; rows that are looked up stay as they are. */
static void eight_bit_matrices_carry_their_scales(void **state)
{
    (void)state;
    const struct model_config c = config_410m();
    struct gpu_tensor *tensors;
    const struct gpu_plan plan = plan_of(&c, MODEL_Q8, &tensors);
    const struct gpu_tensor *up = gpu_plan_layer(&plan, 3, GPU_UP), *out = gpu_plan_output(&plan);
    assert_int_equal(gpu_plan_embedding(&plan)->dtype, MODEL_F16);
    assert_int_equal(gpu_plan_layer(&plan, 3, GPU_UP_BIAS)->dtype, MODEL_F32);
    assert_int_equal(up->dtype, MODEL_Q8);
    assert_int_equal(gpu_tensor_scales(up), 4096 * 1024);
    assert_int_equal(up->bytes, 4096 * 1024 + 4096 * 4);
    assert_int_equal(out->bytes, gpu_tensor_scales(out) + 4 * (uint64_t)c.vocab);
    for (uint32_t i = 1; i < plan.n_tensors; i++)
        assert_true(plan.tensors[i].offset >= plan.tensors[i - 1].offset + plan.tensors[i - 1].bytes);
    free(tensors);
}

static void what_cannot_be_planned_is_refused(void **state)
{
    (void)state;
#define C(field) #field, offsetof(struct model_config, field)
    static const struct broken configs[] = {
        {C(n_layers), 0},     {C(n_layers), 257},
        {C(hidden), 0},       {C(hidden), 1032},
        {C(n_heads), 0},      {C(n_heads), 0x4000010},
        {C(n_heads), 15},     {C(head_dim), 0},
        {C(head_dim), 60},    {C(head_dim), 264},
        {C(rotary_dims), 15}, {C(rotary_dims), 66},
        {C(intermediate), 0}, {C(vocab), 0},
        {C(vocab), 1u << 31}, {C(intermediate), 1u << 30},
        {C(n_positions), 0},  {C(act), 7},
    };
#define L(field) #field, offsetof(struct gpu_limits, field)
    static const struct broken limits[] = {
        {L(n_tokens_max), 0},        {L(n_tokens_max), UINT32_MAX},
        {L(n_seqs_max), 0},          {L(n_logits_max), 0},
        {L(n_logits_max), 1u << 30}, {L(n_ctx_max), 0},
        {L(n_ctx_max), 2049},        {L(n_blocks), 0},
        {L(n_blocks), UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct model_config c = config_410m();
        struct base_error err = {0};
        memcpy((char *)&c + configs[i].offset, &configs[i].value, sizeof configs[i].value);
        if (gpu_plan_check(&c, MODEL_F16, &limits_usual, &err) != ERR_USAGE)
            fail_msg("a config with %s %u was planned", configs[i].name, configs[i].value);
        assert_true(err.text[0] != '\0');
    }
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const struct model_config c = config_410m();
        struct gpu_limits l = limits_usual;
        struct base_error err = {0};
        memcpy((char *)&l + limits[i].offset, &limits[i].value, sizeof limits[i].value);
        if (gpu_plan_check(&c, MODEL_F16, &l, &err) != ERR_USAGE)
            fail_msg("limits with %s %u were planned", limits[i].name, limits[i].value);
    }
    const struct model_config c = config_410m();
    assert_int_equal(gpu_plan_check(&c, (enum model_dtype)4, &limits_usual, NULL), ERR_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parallel_model_in_order_of_execution),
        cmocka_unit_test(a_sequential_tied_model_without_attention_bias),
        cmocka_unit_test(weights_do_not_depend_on_the_limits),
        cmocka_unit_test(ranges_follow_one_another),
        cmocka_unit_test(eight_bit_matrices_carry_their_scales),
        cmocka_unit_test(what_cannot_be_planned_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
