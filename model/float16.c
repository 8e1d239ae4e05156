#include "model/float16.h"

#include <stdbool.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* f16: sign, 5 bits of exponent (bias 15), 10 of mantissa.  f32: sign, 8 (bias 127), 23. */

float model_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, mantissa = h & 0x3ffu;
    uint32_t bits;
    float f;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in f32 */
        f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 0x1f) /* infinity, or a NaN: made quiet, as the hardware does */
        bits = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u);
    else
        bits = sign | (exponent + 112u) << 23 | mantissa << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t model_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN: quiet, the upper payload kept */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* from 65520 on, half way past the largest f16, all is infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude >= 0x38800000u) /* normal in f16: drop 13 bits, ties to even; the carry may raise the exponent */
        return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
    if (magnitude <= 0x33000000u) /* up to 2^-25, half of the smallest subnormal: zero (the tie goes to even) */
        return (uint16_t)sign;
    uint32_t shift = 126u - (magnitude >> 23); /* 14..24: from units of 2^(exponent - 150) to units of 2^-24 */
    uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | (mantissa + (1u << (shift - 1u)) - 1u + (mantissa >> shift & 1u)) >> shift);
}

/* In place: element i is read at to + 2n + 2i bytes and written at to + 4i, which never passes what is still unread;
 * neither does a step of 8, whose bytes are all read before any is written. */

static void f16_to_f32_from(const uint8_t *from, float *to, size_t i, size_t n)
{
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, sizeof h);
        to[i] = model_f16_to_f32(h);
    }
}

static void bf16_to_f32_from(const uint8_t *from, float *to, size_t i, size_t n)
{
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, sizeof h);
        to[i] = model_bf16_to_f32(h);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2,f16c"))) static size_t f16_to_f32_f16c(const uint8_t *from, float *to, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(from + 2 * i));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(h));
    }
    return i;
}

/* clang 14 does not know "f16c" in __builtin_cpu_supports. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

__attribute__((target("avx2"))) static size_t bf16_to_f32_avx2(const uint8_t *from, float *to, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(from + 2 * i));
        _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)));
    }
    return i;
}
#endif

void model_f16_to_f32_many(const void *from, float *to, size_t n)
{
    size_t done = 0;
#if defined(__x86_64__)
    if (has_f16c())
        done = f16_to_f32_f16c(from, to, n);
#endif
    f16_to_f32_from(from, to, done, n);
}

void model_bf16_to_f32_many(const void *from, float *to, size_t n)
{
    size_t done = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        done = bf16_to_f32_avx2(from, to, n);
#endif
    bf16_to_f32_from(from, to, done, n);
}
