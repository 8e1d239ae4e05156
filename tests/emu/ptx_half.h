/* ptx_half - f16 and bf16 in integer arithmetic, for every rounding; and whole rows of them at speed.
 *
 * Included by the files that are compiled once for each instruction set: everything lies in their namespace. */
#ifndef ROUSE_EMU_PTX_HALF_H
#define ROUSE_EMU_PTX_HALF_H

#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __F16C__
#include <immintrin.h>
#endif

enum ptx_round : uint8_t { PTX_RN, PTX_RZ, PTX_RM, PTX_RP };

namespace PTX_ARCH
{

inline uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

inline float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

constexpr uint16_t HALF_NAN = 0x7fff;
constexpr uint32_t FLOAT_NAN = 0x7fffffff;

/* Rounds x to a binary format of `digits` significant bits (the leading one counted) whose smallest normal exponent is
 * e_min and whose largest is e_max; the result is a double that the format can hold, or an infinity. */
inline double round_to_format(double x, int digits, int e_min, int e_max, ptx_round how)
{
    if (x == 0 || !__builtin_isfinite(x))
        return x;
    int e = std::ilogb(x);
    int quantum = (e < e_min ? e_min : e) - (digits - 1);
    double scaled = std::scalbn(x, -quantum), whole;
    switch (how) {
    case PTX_RZ:
        whole = std::trunc(scaled);
        break;
    case PTX_RM:
        whole = std::floor(scaled);
        break;
    case PTX_RP:
        whole = std::ceil(scaled);
        break;
    default:
        whole = std::nearbyint(scaled);
    }
    double y = std::scalbn(whole, quantum);
    double limit = std::scalbn(2.0 - std::scalbn(1.0, 1 - digits), e_max);
    if (std::fabs(y) <= limit)
        return std::copysign(y, x);
    bool stays = how == PTX_RZ || (how == PTX_RM && x > 0) || (how == PTX_RP && x < 0);
    return std::copysign(stays ? limit : HUGE_VAL, x);
}

/* x is a value that f16 holds, or not finite. */
inline uint16_t f16_pack(double x)
{
    uint16_t sign = __builtin_signbit(x) ? 0x8000 : 0;
    if (__builtin_isnan(x))
        return HALF_NAN;
    double a = std::fabs(x);
    if (a > 65504)
        return sign | 0x7c00;
    if (a < 0x1p-14)
        return sign | static_cast<uint16_t>(a * 0x1p24);
    int e = std::ilogb(a);
    return sign | static_cast<uint16_t>((e + 15) << 10 | (static_cast<int>(std::scalbn(a, 10 - e)) - 1024));
}

inline uint16_t f16_from(double x, ptx_round how)
{
    return f16_pack(round_to_format(x, 11, -14, 15, how));
}

inline float f16_value(uint16_t h)
{
    uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31)
        return float_of(fraction ? FLOAT_NAN : sign | 0x7f800000);
    if (exponent == 0)
        return float_of(sign | bits_of(static_cast<float>(fraction) * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

inline float bf16_value(uint16_t h)
{
    return float_of(static_cast<uint32_t>(h) << 16);
}

inline uint16_t bf16_from(double x, ptx_round how)
{
    if (__builtin_isnan(x))
        return HALF_NAN;
    return bits_of(static_cast<float>(round_to_format(x, 8, -126, 127, how))) >> 16;
}

inline uint16_t bf16_nearest(float x)
{
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (u & 0x7fffffff) > 0x7f800000 ? HALF_NAN : rounded;
}

/* n is a multiple of 8 in the four below. */
inline void f16_row_values(const uint16_t *h, float *out, int n)
{
#ifdef __F16C__
    for (int l = 0; l < n; l += 8)
        _mm256_storeu_ps(out + l, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(h + l))));
#else
    for (int l = 0; l < n; l++)
        out[l] = f16_value(h[l]);
#endif
}

inline void f16_row_nearest(const float *x, uint16_t *out, int n)
{
#ifdef __F16C__
    for (int l = 0; l < n; l += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + l), _mm256_cvtps_ph(_mm256_loadu_ps(x + l), 0));
    for (int l = 0; l < n; l++)
        out[l] = (out[l] & 0x7fff) > 0x7c00 ? HALF_NAN : out[l];
#else
    for (int l = 0; l < n; l++)
        out[l] = f16_from(x[l], PTX_RN);
#endif
}

inline void bf16_row_values(const uint16_t *h, float *out, int n)
{
    for (int l = 0; l < n; l++)
        out[l] = bf16_value(h[l]);
}

inline void bf16_row_nearest(const float *x, uint16_t *out, int n)
{
    for (int l = 0; l < n; l++)
        out[l] = bf16_nearest(x[l]);
}

} // namespace PTX_ARCH

#endif
