/* isa_expect - what the cases of isa_cases.h expect, in plain C++ that knows nothing of the interpreter. */
#ifndef ROUSE_EMU_ISA_EXPECT_H
#define ROUSE_EMU_ISA_EXPECT_H

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

/* --- integers ----------------------------------------------------------------------------------------------------- */

template <class T> using U = std::make_unsigned_t<T>;
template <class T> using W = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;

template <class T> T divide(T x, T y)
{
    if (y == 0)
        return T(~T(0));
    return std::is_signed_v<T> && y == T(-1) ? T(0 - U<T>(x)) : T(x / y);
}

template <class T> T remainder_of(T x, T y)
{
    if (y == 0)
        return x;
    return std::is_signed_v<T> && y == T(-1) ? T(0) : T(x % y);
}

template <class T> T shift_right(T x, uint32_t n)
{
    for (uint32_t k = 0; k < std::min(n, 64u); k++) /* one at a time: no shift by the width or more */
        x = T(x >> 1);
    return x;
}

template <class T> uint32_t popcount(T x)
{
    uint32_t n = 0;
    for (; x; x &= T(x - 1))
        n++;
    return n;
}

template <class T> uint32_t leading_zeros(T x)
{
    uint32_t n = 0;
    for (int b = 8 * int(sizeof(T)) - 1; b >= 0 && !(x >> b & 1); b--)
        n++;
    return n;
}

template <class T> T reverse_bits(T x)
{
    T r = 0;
    for (size_t b = 0; b < 8 * sizeof(T); b++)
        r = T(r << 1 | (x >> b & 1));
    return r;
}

template <class T> uint32_t find_bit(T x, bool as_shift)
{
    if (x == 0)
        return ~0u;
    return as_shift ? leading_zeros(x) : uint32_t(8 * sizeof(T) - 1 - leading_zeros(x));
}

/* Bit by bit, as the manual writes it. */
template <class T> T extract_field(T x, uint32_t pos, uint32_t len, bool is_signed)
{
    const uint32_t most = 8 * sizeof(T) - 1;
    pos &= 255;
    len &= 255;
    bool sign = is_signed && len != 0 && (x >> std::min(pos + len - 1, most) & 1);
    T r = 0;
    for (uint32_t i = 0; i <= most; i++) {
        bool bit = i < len && pos + i <= most ? x >> (pos + i) & 1 : sign;
        r |= T(bit) << i;
    }
    return r;
}

template <class T> T insert_field(T a, T b, uint32_t pos, uint32_t len)
{
    const uint32_t most = 8 * sizeof(T) - 1;
    pos &= 255;
    len &= 255;
    for (uint32_t i = 0; i < len && pos + i <= most; i++)
        b = T((b & ~(T(1) << (pos + i))) | (a >> i & 1) << (pos + i));
    return b;
}

inline uint32_t funnel(uint32_t low, uint32_t high, uint32_t n, bool left)
{
    uint64_t both = uint64_t(high) << 32 | low;
    return uint32_t(left ? (both << n) >> 32 : both >> n);
}

inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t c)
{
    uint8_t bytes[8], r[4];
    memcpy(bytes, &a, 4);
    memcpy(bytes + 4, &b, 4);
    for (int k = 0; k < 4; k++) {
        uint32_t pick = c >> 4 * k & 15;
        r[k] = pick & 8 ? (bytes[pick & 7] & 128 ? 255 : 0) : bytes[pick];
    }
    uint32_t out;
    memcpy(&out, r, 4);
    return out;
}

inline int32_t low24(int32_t x)
{
    x &= 0xffffff;
    return x & 0x800000 ? x - 0x1000000 : x;
}

template <class A, class B> uint32_t dot_bytes(uint32_t x, uint32_t y)
{
    A a[4];
    B b[4];
    memcpy(a, &x, 4);
    memcpy(b, &y, 4);
    return uint32_t(a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]);
}

inline int32_t clamp_s32(int64_t x)
{
    return int32_t(std::clamp<int64_t>(x, INT32_MIN, INT32_MAX));
}

/* --- floats ------------------------------------------------------------------------------------------------------- */

enum mode { NEAREST = FE_TONEAREST, ZERO = FE_TOWARDZERO, DOWN = FE_DOWNWARD, UP = FE_UPWARD };

/* A value that the compiler does not know, read where the rounding is set. */
template <class T> class V
{
  public:
    explicit V(T x) : v(x) {}
    operator T() const { return v; }

  private:
    volatile T v;
};

template <class F> __attribute__((noinline)) auto with_rounding(mode how, F f)
{
    std::fesetround(how);
    volatile auto r = f();
    std::fesetround(FE_TONEAREST);
    return r;
}

__attribute__((noinline)) inline float fused(float x, float y, float z)
{
    return std::fma(x, y, z);
}

__attribute__((noinline)) inline double fused(double x, double y, double z)
{
    return std::fma(x, y, z);
}

__attribute__((noinline)) inline float square_root(float x)
{
    return std::sqrt(x);
}

inline float flush(float x)
{
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

inline float saturate(float x)
{
    return std::isnan(x) ? 0 : std::clamp(x, 0.0f, 1.0f);
}

template <class T> T smaller(T x, T y)
{
    if (std::isnan(x) || std::isnan(y))
        return std::isnan(x) ? y : x;
    return x < y || (x == y && std::signbit(x)) ? x : y;
}

template <class T> T larger(T x, T y)
{
    if (std::isnan(x) || std::isnan(y))
        return std::isnan(x) ? y : x;
    return x > y || (x == y && std::signbit(y)) ? x : y;
}

namespace in_double
{
inline double exp2(double x)
{
    return std::exp2(x);
}
inline double log2(double x)
{
    return std::log2(x);
}
inline double reciprocal(double x)
{
    return 1 / x;
}
inline double root(double x)
{
    return std::sqrt(x);
}
inline double inverse_root(double x)
{
    return 1 / std::sqrt(x);
}
inline double sin(double x)
{
    return std::sin(x);
}
inline double cos(double x)
{
    return std::cos(x);
}
} // namespace in_double

inline float divide_approx(float x, float y)
{
    if (std::fabs(y) > 0x1p126f && !std::isinf(y))
        return std::isinf(x) ? NAN : std::copysign(0.0f, y) * x;
    return x / y;
}

template <class T> T to_whole(T x, mode how)
{
    return how == NEAREST ? std::nearbyint(x)
           : how == ZERO  ? std::trunc(x)
           : how == DOWN  ? std::floor(x)
                          : std::ceil(x);
}

/* Out of range clamps; NaN is 0, in 64 bits the top bit alone. */
template <class R> R to_integer(double x, mode how)
{
    if (std::isnan(x))
        return sizeof(R) == 8 ? R(1ull << 63) : R(0);
    x = to_whole(x, how);
    if (x < double(std::numeric_limits<R>::min()))
        return std::numeric_limits<R>::min();
    return x >= std::ldexp(1.0, std::numeric_limits<R>::digits) ? std::numeric_limits<R>::max() : R(x);
}

/* --- f16 and bf16, by the list of all their values ----------------------------------------------------------------- */

struct F16 {
};
struct BF16 {
};

inline double positive_value(F16, uint32_t h)
{
    return h < 1024 ? h * 0x1p-24 : std::ldexp(1024.0 + h % 1024, int(h / 1024) - 25);
}

inline double positive_value(BF16, uint32_t h)
{
    uint32_t u = h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

inline uint16_t infinity(F16)
{
    return 0x7c00;
}

inline uint16_t infinity(BF16)
{
    return 0x7f80;
}

template <class F> bool is_nan(F f, uint16_t h)
{
    return (h & 0x7fff) > infinity(f);
}

template <class F> float value(F f, uint16_t h)
{
    uint16_t m = h & 0x7fff;
    double x = m > infinity(f) ? NAN : m == infinity(f) ? HUGE_VAL : positive_value(f, m);
    return float(h & 0x8000 ? -x : x);
}

/* The finite values, and what the next one would be, for the rounding to infinity. */
template <class F> const std::vector<double> &all_values(F f)
{
    static const std::vector<double> values = [f] {
        std::vector<double> v;
        for (uint32_t h = 0; h < infinity(f); h++)
            v.push_back(positive_value(f, h));
        v.push_back(2 * v[v.size() - 1] - v[v.size() - 2]);
        return v;
    }();
    return values;
}

/* x may have more digits than a double. */
template <class F> uint16_t rounded(F f, __float128 x, mode how)
{
    if (x != x)
        return 0x7fff;
    bool negative = x < 0 || (x == 0 && std::signbit(double(x)));
    uint16_t sign = negative ? 0x8000 : 0;
    __float128 a = negative ? -x : x;
    const std::vector<double> &v = all_values(f);
    size_t above =
        size_t(std::lower_bound(v.begin(), v.end(), a, [](double e, __float128 y) { return e < y; }) - v.begin());
    bool away = how == (negative ? DOWN : UP), toward = how == ZERO || how == (negative ? UP : DOWN);
    if (a >= v.back())
        return sign | (toward && !std::isinf(double(a)) ? infinity(f) - 1 : infinity(f));
    if (v[above] == a)
        return sign | uint16_t(above);
    __float128 low = a - v[above - 1], high = v[above] - a;
    bool up = away || (!toward && (high < low || (high == low && above % 2 == 0)));
    return sign | uint16_t(up ? above : above - 1);
}

template <class F> uint16_t nearest(F f, __float128 x)
{
    return rounded(f, x, NEAREST);
}

template <class F> uint16_t relu(F f, uint16_t h)
{
    return is_nan(f, h) || !(h & 0x8000) ? h : 0;
}

/* The product is exact; of a sum that 113 digits do not hold, the far term only tips a tie. */
template <class F> uint16_t fused(F f, uint16_t x, uint16_t y, uint16_t z)
{
    __float128 p = __float128(value(f, x)) * value(f, y), c = value(f, z), s = p + c;
    if (p - p != 0 || c - c != 0)
        return nearest(f, s);
    __float128 back = s - p, lost = (p - (s - back)) + (c - back);
    if (lost != 0)
        s += s * (((lost > 0) == (s > 0)) ? __float128(0x1p-100) : -__float128(0x1p-100));
    return nearest(f, s);
}

template <class F> uint32_t fused2(F f, uint32_t x, uint32_t y, uint32_t z)
{
    return fused(f, uint16_t(x), uint16_t(y), uint16_t(z)) | uint32_t(fused(f, x >> 16, y >> 16, z >> 16)) << 16;
}

template <class F> uint32_t larger2(F f, uint32_t x, uint32_t y)
{
    return nearest(f, larger(value(f, uint16_t(x)), value(f, uint16_t(y)))) |
           uint32_t(nearest(f, larger(value(f, x >> 16), value(f, y >> 16)))) << 16;
}

#endif
