/* f16 and bf16 against the definition, and the vector code against the plain one, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/float16.h"

static uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* What the bits of an f16 mean, by the book; NaN aside. */
static double f16_value(uint16_t h)
{
    int exponent = h >> 10 & 0x1f, mantissa = h & 0x3ff;
    double v = exponent == 0x1f ? (double)INFINITY
               : exponent == 0  ? ldexp(mantissa, -24)
                                : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -v : v;
}

static void test_f16_all_values(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = model_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00 && (h & 0x3ff)) {
            assert_true(isnan(f));
            assert_int_equal(model_f32_to_f16(f), h | 0x200); /* the payload survives, quiet */
            continue;
        }
        assert_int_equal(float_bits(f), float_bits((float)f16_value((uint16_t)h)));
        assert_int_equal(model_f32_to_f16(f), h);
    }
}

/* Rounding: for each two neighbouring f16 values the value half way between them, and the f32 on either side of it. */
static void test_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint16_t h = 0; h < 0x7c00; h++) {
        double up = h == 0x7bff ? 65536 : f16_value((uint16_t)(h + 1));
        float middle = (float)((f16_value(h) + up) / 2);
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        assert_int_equal(model_f32_to_f16(middle), even);
        assert_int_equal(model_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(model_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(model_f32_to_f16(-middle), even | 0x8000);
    }
    static const struct {
        float f;
        uint16_t h;
    } ends[] = {{65519.996f, 0x7bff}, {65520.0f, 0x7c00}, {3.4e38f, 0x7c00}, {INFINITY, 0x7c00},
                {-INFINITY, 0xfc00},  {0x1p-25f, 0},      {1e-40f, 0},       {-0.0f, 0x8000}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        assert_int_equal(model_f32_to_f16(ends[i].f), ends[i].h);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = model_bf16_to_f32((uint16_t)h);
        assert_int_equal(float_bits(f), h << 16);
        assert_int_equal(model_f32_to_bf16(f), isnan(f) ? h | 0x40 : h);
        if (isnan(f) || isinf(f))
            continue;
        assert_int_equal(model_f32_to_bf16(float_of(h << 16 | 0x7fff)), h);
        assert_int_equal(model_f32_to_bf16(float_of(h << 16 | 0x8000)), h & 1 ? h + 1 : h);
        assert_int_equal(model_f32_to_bf16(float_of(h << 16 | 0x8001)), h + 1);
    }
}

enum { N_ALL = 65536 };

/* Every value, then every short length and misalignment, then widening in place. */
static void test_many_equals_one_by_one(void **state)
{
    (void)state;
    typedef void many_fn(const void *from, float *to, size_t n);
    many_fn *const many[2] = {model_f16_to_f32_many, model_bf16_to_f32_many};
    uint16_t *all = malloc(N_ALL * sizeof *all);
    float *to = malloc(N_ALL * sizeof *to);
    assert_true(all && to);
    for (uint32_t h = 0; h < N_ALL; h++)
        all[h] = (uint16_t)h;
    for (int kind = 0; kind < 2; kind++) {
        many[kind](all, to, N_ALL);
        for (uint32_t h = 0; h < N_ALL; h++) {
            float one = kind == 0 ? model_f16_to_f32((uint16_t)h) : model_bf16_to_f32((uint16_t)h);
            assert_int_equal(float_bits(to[h]), float_bits(one));
        }
        for (size_t n = 0; n <= 40; n++) {
            uint8_t odd[1 + 80];
            memcpy(odd + 1, all + 15000, 2 * n);
            memset(to, 0x5a, 42 * sizeof *to);
            many[kind](odd + 1, to, n);
            assert_int_equal(float_bits(to[n]), 0x5a5a5a5a);
            float *same = malloc((n + 1) * sizeof *same);
            assert_non_null(same);
            memcpy((uint8_t *)same + 2 * n, all + 15000, 2 * n);
            many[kind]((uint8_t *)same + 2 * n, same, n);
            assert_memory_equal(same, to, n * sizeof *to);
            free(same);
        }
    }
    free(all);
    free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_all_values),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_many_equals_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
