/* ptx_alu - arithmetic of one warp instruction: rows in, a row out. Compiled once for each instruction set (PTX_ARCH). */
#include <type_traits>

#include "ptx_half.h"
#include "ptx_lanes.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace PTX_ARCH
{
namespace
{

using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

/* --- rows --------------------------------------------------------------------------------------------------------- */

/* d[l] = f(l) in the active lanes. f runs for the others too and must not mind. Rows alias only as a whole. */
template <class D, class F> inline void put(ptx_lanes &w, uint32_t row, F f)
{
    D *d = ptx_row<D>(w, row);
    if (w.whole) {
#pragma GCC ivdep
        for (int l = 0; l < PTX_LANES; l++)
            d[l] = f(l);
        return;
    }
    D t[PTX_LANES];
    for (int l = 0; l < PTX_LANES; l++)
        t[l] = f(l);
    for (int l = 0; l < PTX_LANES; l++)
        d[l] = w.mask >> l & 1 ? t[l] : d[l];
}

/* The same for what is slow or must not see garbage: f runs in active lanes alone. */
template <class D, class F> inline void put_active(ptx_lanes &w, uint32_t row, F f)
{
    D *d = ptx_row<D>(w, row);
    for (uint32_t m = w.mask; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        d[l] = f(l);
    }
}

template <class F> inline void put_predicate(ptx_lanes &w, uint32_t row, F f)
{
    uint32_t m = 0;
    for (int l = 0; l < PTX_LANES; l++)
        m |= static_cast<uint32_t>(f(l)) << l;
    uint32_t *p = ptx_row<uint32_t>(w, row);
    *p = (*p & ~w.mask) | (m & w.mask);
}

template <class Op, class D, class A> void unary(ptx_lanes &w, const ptx_inst &i)
{
    const A *a = ptx_row<A>(w, i.row[1]);
    put<D>(w, i.row[0], [=](int l) { return static_cast<D>(Op::of(a[l])); });
}

template <class Op, class D, class A, class B = A> void binary(ptx_lanes &w, const ptx_inst &i)
{
    const A *a = ptx_row<A>(w, i.row[1]);
    const B *b = ptx_row<B>(w, i.row[2]);
    put<D>(w, i.row[0], [=](int l) { return static_cast<D>(Op::of(a[l], b[l])); });
}

template <class Op, class D, class A, class B = A, class C = A> void ternary(ptx_lanes &w, const ptx_inst &i)
{
    const A *a = ptx_row<A>(w, i.row[1]);
    const B *b = ptx_row<B>(w, i.row[2]);
    const C *c = ptx_row<C>(w, i.row[3]);
    put<D>(w, i.row[0], [=](int l) { return static_cast<D>(Op::of(a[l], b[l], c[l])); });
}

/* What the processor rounds by, for one row. The rows are in memory, so the compiler cannot move work past the barrier. */
class rounding
{
  public:
#ifdef __SSE__
    explicit rounding(int how) : saved(_mm_getcsr())
    {
        static const unsigned modes[] = {0x0000, 0x6000, 0x2000, 0x4000};
        _mm_setcsr((saved & ~0x6000u) | modes[how]);
        asm volatile("" ::: "memory");
    }
    ~rounding()
    {
        asm volatile("" ::: "memory");
        _mm_setcsr(saved);
    }

  private:
    unsigned saved;
#else
#error "directed rounding is written for SSE"
#endif
};

/* --- integers ----------------------------------------------------------------------------------------------------- */

template <class T> struct wide_of;
template <> struct wide_of<u16> {
    using type = u32;
};
template <> struct wide_of<s16> {
    using type = s32;
};
template <> struct wide_of<u32> {
    using type = u64;
};
template <> struct wide_of<s32> {
    using type = s64;
};
template <> struct wide_of<u64> {
    using type = unsigned __int128;
};
template <> struct wide_of<s64> {
    using type = __int128;
};
template <class T> using wide = typename wide_of<T>::type;
template <class T> using bare = std::make_unsigned_t<T>; /* wraps without undefined behaviour */

template <class T> inline T high(wide<T> x)
{
    return static_cast<T>(x >> (8 * sizeof(T)));
}

template <class T> inline T wrap_mul(T a, T b)
{
    return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b));
}

template <class T> inline wide<T> mul_wide(T a, T b)
{
    return static_cast<wide<T>>(a) * static_cast<wide<T>>(b);
}

struct op_add {
    template <class T> static T of(T a, T b) { return static_cast<T>(bare<T>(a) + bare<T>(b)); }
};
struct op_sub {
    template <class T> static T of(T a, T b) { return static_cast<T>(bare<T>(a) - bare<T>(b)); }
};
struct op_mul_lo {
    template <class T> static T of(T a, T b) { return wrap_mul(a, b); }
};
struct op_mul_hi {
    template <class T> static T of(T a, T b) { return high<T>(mul_wide(a, b)); }
};
struct op_mul_wide {
    template <class T> static wide<T> of(T a, T b) { return mul_wide(a, b); }
};
struct op_mad_lo {
    template <class T> static T of(T a, T b, T c) { return op_add::of(wrap_mul(a, b), c); }
};
struct op_mad_hi {
    template <class T> static T of(T a, T b, T c) { return op_add::of(op_mul_hi::of(a, b), c); }
};
struct op_mad_wide {
    template <class T> static wide<T> of(T a, T b, wide<T> c) { return op_add::of(mul_wide(a, b), c); }
};
struct op_min {
    template <class T> static T of(T a, T b) { return a < b ? a : b; }
};
struct op_max {
    template <class T> static T of(T a, T b) { return a > b ? a : b; }
};
struct op_and {
    template <class T> static T of(T a, T b) { return a & b; }
};
struct op_or {
    template <class T> static T of(T a, T b) { return a | b; }
};
struct op_xor {
    template <class T> static T of(T a, T b) { return a ^ b; }
};
struct op_not {
    template <class T> static T of(T a) { return static_cast<T>(~a); }
};
struct op_cnot {
    template <class T> static T of(T a) { return a == 0; }
};
struct op_move {
    template <class T> static T of(T a) { return a; }
};
struct op_neg {
    template <class T> static T of(T a) { return static_cast<T>(0 - bare<T>(a)); }
};
struct op_abs {
    template <class T> static T of(T a) { return a < 0 ? op_neg::of(a) : a; }
};
struct op_popc {
    template <class T> static u32 of(T a) { return __builtin_popcountll(a); }
};
struct op_clz {
    static u32 of(u32 a) { return a ? __builtin_clz(a) : 32; }
    static u32 of(u64 a) { return a ? __builtin_clzll(a) : 64; }
};
/* The place of the highest bit that differs from the sign; all ones when there is none. */
struct op_bfind {
    template <class T> static u32 of(T a)
    {
        bare<T> u = a < 0 ? static_cast<bare<T>>(~a) : static_cast<bare<T>>(a);
        return u ? 8 * sizeof(T) - 1 - op_clz::of(u) : ~0u;
    }
};
struct op_bfind_shift {
    template <class T> static u32 of(T a)
    {
        u32 at = op_bfind::of(a);
        return at == ~0u ? at : 8 * sizeof(T) - 1 - at;
    }
};
struct op_brev {
    template <class T> static T of(T a)
    {
        T r = 0;
        for (unsigned b = 0; b < 8 * sizeof(T); b++)
            r |= (a >> b & 1) << (8 * sizeof(T) - 1 - b);
        return r;
    }
};
struct op_sad {
    template <class T> static T of(T a, T b, T c) { return op_add::of(c, a < b ? op_sub::of(b, a) : op_sub::of(a, b)); }
};
struct op_shl {
    template <class T> static T of(T a, u32 n) { return n < 8 * sizeof(T) ? static_cast<T>(a << n) : T(0); }
};
struct op_shr {
    template <class T> static T of(T a, u32 n)
    {
        const u32 most = 8 * sizeof(T) - 1;
        return n <= most ? static_cast<T>(a >> n) : a < T(0) ? static_cast<T>(~T(0)) : T(0);
    }
};
template <class T> inline s64 sign24(T a)
{
    return std::is_signed_v<T> ? static_cast<s32>(static_cast<u32>(a) << 8) >> 8 : static_cast<s64>(a & 0xffffff);
}
struct op_mul24_lo {
    template <class T> static T of(T a, T b) { return static_cast<T>(sign24(a) * sign24(b)); }
};
struct op_mul24_hi {
    template <class T> static T of(T a, T b) { return static_cast<T>((sign24(a) * sign24(b)) >> 16); }
};
struct op_mad24_lo {
    template <class T> static T of(T a, T b, T c) { return op_add::of(op_mul24_lo::of(a, b), c); }
};
struct op_add_sat {
    static s32 of(s32 a, s32 b)
    {
        s64 x = static_cast<s64>(a) + b;
        return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : static_cast<s32>(x);
    }
};
struct op_sub_sat {
    static s32 of(s32 a, s32 b)
    {
        s64 x = static_cast<s64>(a) - b;
        return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : static_cast<s32>(x);
    }
};

/* Division by zero gives all ones here, as it does on the cards that were looked at; the manual leaves it open. */
struct op_div {
    template <class T> static T of(T a, T b)
    {
        if (b == 0)
            return static_cast<T>(~T(0));
        return std::is_signed_v<T> && b == static_cast<T>(-1) ? op_neg::of(a) : static_cast<T>(a / b);
    }
};
struct op_rem {
    template <class T> static T of(T a, T b)
    {
        if (b == 0)
            return a;
        return std::is_signed_v<T> && b == static_cast<T>(-1) ? T(0) : static_cast<T>(a % b);
    }
};

template <class Op, class T> void divide(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    put_active<T>(w, i.row[0], [=](int l) { return Op::of(a[l], b[l]); });
}

struct op_shf_l_wrap {
    static u32 of(u32 a, u32 b, u32 n) { return static_cast<u32>(((u64(b) << 32 | a) << (n & 31)) >> 32); }
};
struct op_shf_r_wrap {
    static u32 of(u32 a, u32 b, u32 n) { return static_cast<u32>((u64(b) << 32 | a) >> (n & 31)); }
};
struct op_shf_l_clamp {
    static u32 of(u32 a, u32 b, u32 n) { return n >= 32 ? a : op_shf_l_wrap::of(a, b, n); }
};
struct op_shf_r_clamp {
    static u32 of(u32 a, u32 b, u32 n) { return n >= 32 ? b : op_shf_r_wrap::of(a, b, n); }
};

struct op_prmt {
    static u32 of(u32 a, u32 b, u32 c)
    {
        u64 bytes = static_cast<u64>(b) << 32 | a;
        u32 r = 0;
        for (int k = 0; k < 4; k++) {
            u32 pick = c >> (4 * k), byte = bytes >> (8 * (pick & 7)) & 255;
            r |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * k);
        }
        return r;
    }
};

template <class T> inline T low_bits(u32 n)
{
    return n >= 8 * sizeof(T) ? static_cast<T>(~T(0)) : static_cast<T>((T(1) << n) - 1);
}

struct op_bfe {
    template <class T> static T of(T a, u32 pos, u32 len)
    {
        const u32 most = 8 * sizeof(T) - 1;
        pos &= 255;
        len &= 255;
        bare<T> field = pos > most ? 0 : (static_cast<bare<T>>(a) >> pos) & low_bits<bare<T>>(len);
        if (!std::is_signed_v<T> || len == 0)
            return static_cast<T>(field);
        u32 sign_at = pos + len - 1 < most ? pos + len - 1 : most;
        if (!(static_cast<bare<T>>(a) >> sign_at & 1))
            return static_cast<T>(field);
        u32 have = pos > most ? 0 : (len < most + 1 - pos ? len : most + 1 - pos);
        return static_cast<T>(field | ~low_bits<bare<T>>(have));
    }
};

template <class T> void bit_insert(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    const u32 *pos = ptx_row<u32>(w, i.row[3]);
    const u32 *len = ptx_row<u32>(w, i.row[4]);
    put<T>(w, i.row[0], [=](int l) {
        u32 p = pos[l] & 255;
        T field = p >= 8 * sizeof(T) ? T(0) : static_cast<T>(low_bits<T>(len[l] & 255) << p);
        return static_cast<T>((b[l] & ~field) | (p >= 8 * sizeof(T) ? T(0) : ((a[l] << p) & field)));
    });
}

inline u32 either(u32 by, u32 one, u32 zero)
{
    return zero ^ (by & (one ^ zero));
}

void lop3(ptx_lanes &w, const ptx_inst &i)
{
    const u32 *a = ptx_row<u32>(w, i.row[1]);
    const u32 *b = ptx_row<u32>(w, i.row[2]);
    const u32 *c = ptx_row<u32>(w, i.row[3]);
    u32 t[8];
    for (int k = 0; k < 8; k++)
        t[k] = ptx_row<u32>(w, i.row[4])[0] >> k & 1 ? ~0u : 0u;
    put<u32>(w, i.row[0], [=](int l) {
        u32 without = either(b[l], either(c[l], t[3], t[2]), either(c[l], t[1], t[0]));
        u32 with = either(b[l], either(c[l], t[7], t[6]), either(c[l], t[5], t[4]));
        return either(a[l], with, without);
    });
}

template <class A, class B, class C> void dot4(ptx_lanes &w, const ptx_inst &i)
{
    const u32 *a = ptx_row<u32>(w, i.row[1]);
    const u32 *b = ptx_row<u32>(w, i.row[2]);
    const C *c = ptx_row<C>(w, i.row[3]);
    put<C>(w, i.row[0], [=](int l) {
        u32 sum = static_cast<u32>(c[l]);
        for (int k = 0; k < 4; k++)
            sum += static_cast<u32>(static_cast<A>(a[l] >> (8 * k)) * static_cast<B>(b[l] >> (8 * k)));
        return static_cast<C>(sum);
    });
}

/* --- predicates --------------------------------------------------------------------------------------------------- */

void store_predicate(ptx_lanes &w, uint32_t row, u32 value)
{
    u32 *p = ptx_row<u32>(w, row);
    *p = (*p & ~w.mask) | (value & w.mask);
}

void predicate_move(ptx_lanes &w, const ptx_inst &i)
{
    store_predicate(w, i.row[0], *ptx_row<u32>(w, i.row[1]));
}

void predicate_not(ptx_lanes &w, const ptx_inst &i)
{
    store_predicate(w, i.row[0], ~*ptx_row<u32>(w, i.row[1]));
}

template <class Op> void predicate_binary(ptx_lanes &w, const ptx_inst &i)
{
    store_predicate(w, i.row[0], Op::of(*ptx_row<u32>(w, i.row[1]), *ptx_row<u32>(w, i.row[2])));
}

struct cmp_eq {
    template <class T> static bool of(T a, T b) { return a == b; }
};
struct cmp_ne {
    template <class T> static bool of(T a, T b) { return a < b || a > b; }
};
struct cmp_lt {
    template <class T> static bool of(T a, T b) { return a < b; }
};
struct cmp_le {
    template <class T> static bool of(T a, T b) { return a <= b; }
};
struct cmp_gt {
    template <class T> static bool of(T a, T b) { return a > b; }
};
struct cmp_ge {
    template <class T> static bool of(T a, T b) { return a >= b; }
};
/* True of the unordered as well. */
struct cmp_equ {
    template <class T> static bool of(T a, T b) { return !(a < b || a > b); }
};
struct cmp_neu {
    template <class T> static bool of(T a, T b) { return !(a == b); }
};
struct cmp_ltu {
    template <class T> static bool of(T a, T b) { return !(a >= b); }
};
struct cmp_leu {
    template <class T> static bool of(T a, T b) { return !(a > b); }
};
struct cmp_gtu {
    template <class T> static bool of(T a, T b) { return !(a <= b); }
};
struct cmp_geu {
    template <class T> static bool of(T a, T b) { return !(a < b); }
};
struct cmp_num {
    template <class T> static bool of(T a, T b) { return a == a && b == b; }
};
struct cmp_nan {
    template <class T> static bool of(T a, T b) { return a != a || b != b; }
};

template <bool Ftz> inline float flush(float x)
{
    if (!Ftz)
        return x;
    u32 u = bits_of(x);
    return u & 0x7f800000 ? x : float_of(u & 0x80000000);
}

template <class Cmp, class T> void setp(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    put_predicate(w, i.row[0], [=](int l) { return Cmp::of(a[l], b[l]); });
}

template <class Cmp> void setp_ftz(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    const float *b = ptx_row<float>(w, i.row[2]);
    put_predicate(w, i.row[0], [=](int l) { return Cmp::of(flush<true>(a[l]), flush<true>(b[l])); });
}

/* setp.CMP.and p, a, b, c: p = (a CMP b) BOOL c. */
template <class Cmp, class T, class Bool> void setp_with(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    u32 c = *ptx_row<u32>(w, i.row[3]);
    put_predicate(w, i.row[0], [=](int l) { return Bool::of(u32(Cmp::of(a[l], b[l])), c >> l & 1); });
}

/* True is all ones, or 1.0 when the result is f32. */
template <class Cmp, class T, u32 True> void set(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    put<u32>(w, i.row[0], [=](int l) { return Cmp::of(a[l], b[l]) ? True : 0u; });
}

template <class T> void select(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    u32 c = *ptx_row<u32>(w, i.row[3]);
    put<T>(w, i.row[0], [=](int l) { return c >> l & 1 ? a[l] : b[l]; });
}

template <class T, class C> void select_sign(ptx_lanes &w, const ptx_inst &i)
{
    const T *a = ptx_row<T>(w, i.row[1]);
    const T *b = ptx_row<T>(w, i.row[2]);
    const C *c = ptx_row<C>(w, i.row[3]);
    put<T>(w, i.row[0], [=](int l) { return c[l] >= 0 ? a[l] : b[l]; });
}

/* --- f32 and f64 -------------------------------------------------------------------------------------------------- */

/* Arithmetic on a card makes one NaN only. */
inline float canonical(float x)
{
    return x == x ? x : float_of(FLOAT_NAN);
}

inline double canonical(double x)
{
    return x;
}

template <bool Sat> inline float saturate(float x)
{
    return !Sat ? x : x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; /* NaN becomes 0 */
}

struct f_add {
    template <class T> static T of(T a, T b) { return a + b; }
};
struct f_sub {
    template <class T> static T of(T a, T b) { return a - b; }
};
struct f_mul {
    template <class T> static T of(T a, T b) { return a * b; }
};
struct f_div {
    template <class T> static T of(T a, T b) { return a / b; }
};
struct f_fma {
    static float of(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
    static double of(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct f_rcp {
    template <class T> static T of(T a) { return T(1) / a; }
};
struct f_sqrt {
    static float of(float a) { return __builtin_sqrtf(a); }
    static double of(double a) { return __builtin_sqrt(a); }
};
struct f_neg {
    static float of(float a) { return float_of(bits_of(a) ^ 0x80000000u); }
    static double of(double a) { return -a; }
};
struct f_abs {
    static float of(float a) { return float_of(bits_of(a) & 0x7fffffff); }
    static double of(double a) { return __builtin_fabs(a); }
};

template <class Op, bool Ftz, bool Sat, int Round> void float1(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    auto row = [&] {
        put<float>(w, i.row[0], [=](int l) { return saturate<Sat>(canonical(flush<Ftz>(Op::of(flush<Ftz>(a[l]))))); });
    };
    if (Round == PTX_RN)
        return row();
    rounding r(Round);
    row();
}

template <class Op, bool Ftz, bool Sat, int Round> void float2(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    const float *b = ptx_row<float>(w, i.row[2]);
    auto row = [&] {
        put<float>(w, i.row[0], [=](int l) {
            return saturate<Sat>(canonical(flush<Ftz>(Op::of(flush<Ftz>(a[l]), flush<Ftz>(b[l])))));
        });
    };
    if (Round == PTX_RN)
        return row();
    rounding r(Round);
    row();
}

template <class Op, bool Ftz, bool Sat, int Round> void float3(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    const float *b = ptx_row<float>(w, i.row[2]);
    const float *c = ptx_row<float>(w, i.row[3]);
    auto row = [&] {
        put<float>(w, i.row[0], [=](int l) {
            return saturate<Sat>(canonical(flush<Ftz>(Op::of(flush<Ftz>(a[l]), flush<Ftz>(b[l]), flush<Ftz>(c[l])))));
        });
    };
    if (Round == PTX_RN)
        return row();
    rounding r(Round);
    row();
}

template <class Op, int Round> void double1(ptx_lanes &w, const ptx_inst &i)
{
    rounding r(Round);
    unary<Op, double, double>(w, i);
}

template <class Op, int Round> void double2(ptx_lanes &w, const ptx_inst &i)
{
    rounding r(Round);
    binary<Op, double, double>(w, i);
}

template <class Op, int Round> void double3(ptx_lanes &w, const ptx_inst &i)
{
    rounding r(Round);
    ternary<Op, double, double>(w, i);
}

inline float both_bits(float a, float b)
{
    return float_of(bits_of(a) & bits_of(b));
}

inline float any_bits(float a, float b)
{
    return float_of(bits_of(a) | bits_of(b));
}

inline double both_bits(double a, double b)
{
    return __builtin_signbit(a) ? b : a;
}

inline double any_bits(double a, double b)
{
    return __builtin_signbit(a) ? a : b;
}

/* The number wins over a NaN; -0 is below +0, which the bits of equal numbers tell. */
struct f_min {
    template <class T> static T of(T a, T b)
    {
        T r = a < b ? a : b;
        r = a == b ? any_bits(a, b) : r;
        r = a != a ? b : r;
        return canonical(b != b ? a : r);
    }
};
struct f_max {
    template <class T> static T of(T a, T b)
    {
        T r = a > b ? a : b;
        r = a == b ? both_bits(a, b) : r;
        r = a != a ? b : r;
        return canonical(b != b ? a : r);
    }
};
struct f_min_nan {
    static float of(float a, float b) { return a != a || b != b ? float_of(FLOAT_NAN) : f_min::of(a, b); }
};
struct f_max_nan {
    static float of(float a, float b) { return a != a || b != b ? float_of(FLOAT_NAN) : f_max::of(a, b); }
};

/* copysign.f32 d, a, b: the sign of a on the magnitude of b. */
struct f_copysign {
    static float of(float a, float b) { return __builtin_copysignf(b, a); }
    static double of(double a, double b) { return __builtin_copysign(b, a); }
};

/* --- approximations: the value rounded to f32 once, then moved by at most jitter_ulps ------------------------------- */

/* Where 2^x is neither infinite nor zero in f32, and a little more. */
inline float exp2_range(float x)
{
    x = x > 200 ? 200 : x;
    return x < -200 ? -200 : x;
}

/* 2^x in double: x = n + f, e^(f ln 2) by its series up to f^11, below 2^-50 of the value. */
inline double exp2_close(double x)
{
    const double shift = 0x1.8p52;
    double shifted = x + shift, n = shifted - shift, f = (x - n) * 0x1.62e42fefa39efp-1;
    double sum = 1.0 / 39916800;
    sum = sum * f + 1.0 / 3628800;
    sum = sum * f + 1.0 / 362880;
    sum = sum * f + 1.0 / 40320;
    sum = sum * f + 1.0 / 5040;
    sum = sum * f + 1.0 / 720;
    sum = sum * f + 1.0 / 120;
    sum = sum * f + 1.0 / 24;
    sum = sum * f + 1.0 / 6;
    sum = sum * f + 0.5;
    sum = sum * f + 1.0;
    sum = sum * f + 1.0;
    u64 u, power;
    memcpy(&u, &shifted, 8);
    power = (u + 1023) << 52;
    double scale;
    memcpy(&scale, &power, 8);
    return sum * scale;
}

struct approx_ex2 {
    static float of(float a) { return static_cast<float>(exp2_close(exp2_range(a))); }
};
struct approx_lg2 {
    static float of(float a) { return static_cast<float>(__builtin_log2(a)); }
};
struct approx_rcp {
    static float of(float a) { return static_cast<float>(1.0 / a); }
};
struct approx_sqrt {
    static float of(float a) { return static_cast<float>(__builtin_sqrt(a)); }
};
struct approx_rsqrt {
    static float of(float a) { return static_cast<float>(1.0 / __builtin_sqrt(a)); }
};
struct approx_sin {
    static float of(float a) { return static_cast<float>(__builtin_sin(a)); }
};
struct approx_cos {
    static float of(float a) { return static_cast<float>(__builtin_cos(a)); }
};
struct approx_tanh {
    static float of(float a) { return static_cast<float>(__builtin_tanh(a)); }
};
/* For divisors between 2^126 and 2^128 the manual promises zero, and NaN for an infinite dividend. */
struct approx_div {
    static float of(float a, float b)
    {
        if (__builtin_fabsf(b) > 0x1p126f && !__builtin_isinf(b))
            return __builtin_isinf(a) ? float_of(FLOAT_NAN) : __builtin_copysignf(0.0f, b) * a;
        return a / b;
    }
};
struct approx_div_full {
    static float of(float a, float b) { return a / b; }
};

inline u32 noise(ptx_lanes &w)
{
    w.noise ^= w.noise << 13;
    w.noise ^= w.noise >> 7;
    w.noise ^= w.noise << 17;
    return static_cast<u32>(w.noise >> 32);
}

inline float jitter(ptx_lanes &w, float x)
{
    u32 u = bits_of(x), magnitude = u & 0x7fffffff;
    s32 step = static_cast<s32>(noise(w) % (2 * w.jitter_ulps + 1)) - w.jitter_ulps;
    if (magnitude < 0x00800000 + 64 || magnitude >= 0x7f800000 - 64 || x == 1.0f)
        return x;
    return float_of(u + step);
}

void jitter_row(ptx_lanes &w, uint32_t row)
{
    if (w.jitter_ulps > 0)
        put_active<float>(w, row, [&w, d = ptx_row<float>(w, row)](int l) { return jitter(w, d[l]); });
}

template <class Op, bool Ftz> void approx1(ptx_lanes &w, const ptx_inst &i)
{
    float1<Op, Ftz, false, PTX_RN>(w, i);
    jitter_row(w, i.row[0]);
}

/* In three loops: the compiler makes vectors of neither clamps nor conversions together with the series. */
template <bool Ftz> void approx_ex2_row(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    double x[PTX_LANES];
    for (int l = 0; l < PTX_LANES; l++)
        x[l] = exp2_range(flush<Ftz>(a[l]));
#pragma GCC ivdep
    for (int l = 0; l < PTX_LANES; l++)
        x[l] = exp2_close(x[l]);
    put<float>(w, i.row[0], [&x](int l) { return canonical(flush<Ftz>(static_cast<float>(x[l]))); });
    jitter_row(w, i.row[0]);
}

template <class Op, bool Ftz> void approx1_slow(ptx_lanes &w, const ptx_inst &i)
{
    const float *a = ptx_row<float>(w, i.row[1]);
    put_active<float>(w, i.row[0], [=](int l) { return canonical(flush<Ftz>(Op::of(flush<Ftz>(a[l])))); });
    jitter_row(w, i.row[0]);
}

template <class Op, bool Ftz> void approx2(ptx_lanes &w, const ptx_inst &i)
{
    float2<Op, Ftz, false, PTX_RN>(w, i);
    jitter_row(w, i.row[0]);
}

/* rcp.approx.ftz.f64 and rsqrt: 20 bits are promised, the low word is zero. */
template <class Op> void approx_f64(ptx_lanes &w, const ptx_inst &i)
{
    const double *a = ptx_row<double>(w, i.row[1]);
    put<u64>(w, i.row[0], [=](int l) {
        double x = Op::of(a[l]);
        u64 u;
        memcpy(&u, &x, 8);
        return u & ~0xffffffffull;
    });
}

/* --- f16, bf16 and pairs of them ---------------------------------------------------------------------------------- */

/* To odd: truncated, with the last bit set when anything was lost. What is then rounded to at most 22 bits is rounded once. */
inline float odd_float(double x)
{
    float f = static_cast<float>(x);
    u32 u = bits_of(f);
    bool inexact = x == x && f != x;
    bool above = __builtin_fabs(static_cast<double>(f)) > __builtin_fabs(x);
    return float_of(inexact ? (u - (above ? 1 : 0)) | 1 : u);
}

inline double odd_fma(double a, double b, double c)
{
    double p = a * b, s = p + c; /* p is exact: 22 bits at most */
    double back = s - p, lost = (p - (s - back)) + (c - back);
    u64 u;
    memcpy(&u, &s, 8);
    if (lost != 0 && s - s == 0) {
        bool above = (lost < 0) != (s < 0);
        u = (u - (above ? 1 : 0)) | 1;
    }
    memcpy(&s, &u, 8);
    return s;
}

/* The same for what is no subnormal f32: faster. */
inline float odd_normal_float(double x)
{
    const u64 lost = (1ull << 29) - 1;
    u64 u;
    memcpy(&u, &x, 8);
    u = (u & ~lost) | (u & lost ? lost + 1 : 0);
    memcpy(&x, &u, 8);
    return static_cast<float>(x);
}

struct fmt_f16 {
    /* When double rounds this sum, its larger term has no more digits than f16 has: the rest tips no tie. */
    static double fma(double a, double b, double c) { return a * b + c; }
    static float odd(double x) { return odd_normal_float(x); }
    static void values(const u16 *h, float *x, int n) { f16_row_values(h, x, n); }
    static void nearest(const float *x, u16 *h, int n) { f16_row_nearest(x, h, n); }
};
struct fmt_bf16 {
    static double fma(double a, double b, double c) { return odd_fma(a, b, c); }
    static float odd(double x) { return odd_float(x); }
    static void values(const u16 *h, float *x, int n) { bf16_row_values(h, x, n); }
    static void nearest(const float *x, u16 *h, int n) { bf16_row_nearest(x, h, n); }
};

template <class D, class F> inline void put_halves(ptx_lanes &w, uint32_t row, F fill)
{
    alignas(64) u16 h[2 * PTX_LANES];
    fill(h);
    put<D>(w, row, [&h](int l) { return reinterpret_cast<const D *>(h)[l]; });
}

template <class D> constexpr int halves = PTX_LANES *static_cast<int>(sizeof(D)) / 2;

/* Binary operations in f32: 24 bits are enough for one rounding of sums and products of 11. bf16 products may be
 * subnormal in f32, so products go through double. */
struct h_add {
    static double of(float a, float b) { return static_cast<double>(a) + b; }
};
struct h_sub {
    static double of(float a, float b) { return static_cast<double>(a) - b; }
};
struct h_mul {
    static double of(float a, float b) { return static_cast<double>(a) * b; }
};

template <class Fmt, class Op, class D, bool Sat> void half2(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float a[2 * PTX_LANES], b[2 * PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), a, halves<D>);
    Fmt::values(ptx_row<u16>(w, i.row[2]), b, halves<D>);
    for (int l = 0; l < halves<D>; l++)
        a[l] = saturate<Sat>(canonical(Fmt::odd(Op::of(a[l], b[l]))));
    put_halves<D>(w, i.row[0], [&](u16 *h) { Fmt::nearest(a, h, halves<D>); });
}

template <class Fmt, class D, bool Sat, bool Relu> void half_fma(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float a[2 * PTX_LANES], b[2 * PTX_LANES], c[2 * PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), a, halves<D>);
    Fmt::values(ptx_row<u16>(w, i.row[2]), b, halves<D>);
    Fmt::values(ptx_row<u16>(w, i.row[3]), c, halves<D>);
    for (int l = 0; l < halves<D>; l++) {
        float x = canonical(Fmt::odd(Fmt::fma(a[l], b[l], c[l])));
        a[l] = saturate<Sat>(Relu && x <= 0 ? 0.0f : x);
    }
    put_halves<D>(w, i.row[0], [&](u16 *h) { Fmt::nearest(a, h, halves<D>); });
}

/* Exact in f32, so one rounding either way. */
template <class Fmt, class Op, class D> void half_pick(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float a[2 * PTX_LANES], b[2 * PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), a, halves<D>);
    Fmt::values(ptx_row<u16>(w, i.row[2]), b, halves<D>);
    for (int l = 0; l < halves<D>; l++)
        a[l] = canonical(Op::of(a[l], b[l]));
    put_halves<D>(w, i.row[0], [&](u16 *h) { Fmt::nearest(a, h, halves<D>); });
}

template <class Fmt, class Op, class D> void half_approx(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float a[2 * PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), a, halves<D>);
    for (int l = 0; l < halves<D>; l++)
        a[l] = Op::of(a[l]);
    put_halves<D>(w, i.row[0], [&](u16 *h) { Fmt::nearest(a, h, halves<D>); });
}

struct h_neg {
    static u16 of(u16 a) { return a ^ 0x8000; }
    static u32 of(u32 a) { return a ^ 0x80008000; }
};
struct h_abs {
    static u16 of(u16 a) { return a & 0x7fff; }
    static u32 of(u32 a) { return a & 0x7fff7fff; }
};

template <class Fmt, class Cmp> void half_setp(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float a[PTX_LANES], b[PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), a, PTX_LANES);
    Fmt::values(ptx_row<u16>(w, i.row[2]), b, PTX_LANES);
    put_predicate(w, i.row[0], [&](int l) { return Cmp::of(a[l], b[l]); });
}

/* --- moves of parts ----------------------------------------------------------------------------------------------- */

template <class D, class A, int N> void pack(ptx_lanes &w, const ptx_inst &i)
{
    D t[PTX_LANES] = {};
    for (int k = 0; k < N; k++) {
        const A *a = ptx_row<A>(w, i.row[1 + k]);
        for (int l = 0; l < PTX_LANES; l++)
            t[l] |= static_cast<D>(static_cast<D>(a[l]) << (8 * sizeof(A) * k));
    }
    put<D>(w, i.row[0], [&t](int l) { return t[l]; });
}

/* The whole comes last; a part may land in its own register. */
template <class D, class A, int N> void unpack(ptx_lanes &w, const ptx_inst &i)
{
    A t[PTX_LANES];
    memcpy(t, ptx_row<A>(w, i.row[N]), sizeof t);
    for (int k = 0; k < N; k++)
        put<D>(w, i.row[k], [&t, k](int l) { return static_cast<D>(t[l] >> (8 * sizeof(D) * k)); });
}

/* --- cvt ---------------------------------------------------------------------------------------------------------- */

template <class D, class A> void cvt_integer(ptx_lanes &w, const ptx_inst &i)
{
    const A *a = ptx_row<A>(w, i.row[1]);
    put<D>(w, i.row[0], [=](int l) { return static_cast<D>(a[l]); });
}

template <class A> void cvt_to_float(ptx_lanes &w, const ptx_inst &i)
{
    const A *a = ptx_row<A>(w, i.row[1]);
    put<float>(w, i.row[0], [=](int l) { return static_cast<float>(a[l]); });
}

template <class Fmt> void cvt_half_to_float(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float t[PTX_LANES];
    Fmt::values(ptx_row<u16>(w, i.row[1]), t, PTX_LANES);
    put<float>(w, i.row[0], [&t](int l) { return t[l]; });
}

template <class Fmt> void cvt_float_to_half(ptx_lanes &w, const ptx_inst &i)
{
    put_halves<u16>(w, i.row[0], [&](u16 *h) { Fmt::nearest(ptx_row<float>(w, i.row[1]), h, PTX_LANES); });
}

/* cvt.rn.f16x2.f32 d, a, b: a goes to the upper half. */
template <class Fmt, bool Relu> void cvt_floats_to_pair(ptx_lanes &w, const ptx_inst &i)
{
    alignas(64) float t[PTX_LANES];
    alignas(64) u16 half[2][PTX_LANES];
    for (int k = 0; k < 2; k++) {
        const float *a = ptx_row<float>(w, i.row[2 - k]);
        for (int l = 0; l < PTX_LANES; l++)
            t[l] = Relu && a[l] <= 0 ? 0.0f : a[l];
        Fmt::nearest(t, half[k], PTX_LANES);
    }
    put<u32>(w, i.row[0], [&half](int l) { return static_cast<u32>(half[1][l]) << 16 | half[0][l]; });
}

/* Any value that can be converted: integers up to 64 bits, and doubles, which hold all smaller floats. */
struct cvt_value {
    bool real, negative_wraps;
    double d;
    s64 i;
};

template <class T> inline T row_at(ptx_lanes &w, uint32_t row, int l)
{
    return ptx_row<T>(w, row)[l];
}

/* Registers may be wider than the type: the low bytes count. */
inline u64 cvt_bits(ptx_lanes &w, const ptx_inst &i, int l)
{
    switch (i.bytes) {
    case 2:
        return row_at<u16>(w, i.row[1], l);
    case 4:
        return row_at<u32>(w, i.row[1], l);
    default:
        return row_at<u64>(w, i.row[1], l);
    }
}

inline cvt_value cvt_read(const ptx_inst &i, u64 u)
{
    double d;
    switch (i.from) {
    case PTX_U8:
        return {false, false, 0, static_cast<uint8_t>(u)};
    case PTX_S8:
        return {false, false, 0, static_cast<int8_t>(u)};
    case PTX_U16:
        return {false, false, 0, static_cast<u16>(u)};
    case PTX_S16:
        return {false, false, 0, static_cast<s16>(u)};
    case PTX_U32:
        return {false, false, 0, static_cast<u32>(u)};
    case PTX_S32:
        return {false, false, 0, static_cast<s32>(u)};
    case PTX_U64:
        return {false, true, 0, static_cast<s64>(u)};
    case PTX_S64:
        return {false, false, 0, static_cast<s64>(u)};
    case PTX_F16:
        return {true, false, f16_value(static_cast<u16>(u)), 0};
    case PTX_BF16:
        return {true, false, bf16_value(static_cast<u16>(u)), 0};
    case PTX_F32:
        d = float_of(static_cast<u32>(u));
        return {true, false, i.flags & PTX_FTZ ? flush<true>(static_cast<float>(d)) : d, 0};
    default:
        memcpy(&d, &u, 8);
        return {true, false, d, 0};
    }
}

inline double whole_number(double d, int round)
{
    switch (round) {
    case PTX_RZ:
        return __builtin_trunc(d);
    case PTX_RM:
        return __builtin_floor(d);
    case PTX_RP:
        return __builtin_ceil(d);
    default:
        return __builtin_nearbyint(d);
    }
}

struct cvt_limits {
    bool is_signed;
    int bits;
};

inline cvt_limits cvt_limits_of(int type)
{
    switch (type) {
    case PTX_U8:
        return {false, 8};
    case PTX_S8:
        return {true, 8};
    case PTX_U16:
        return {false, 16};
    case PTX_S16:
        return {true, 16};
    case PTX_U32:
        return {false, 32};
    case PTX_S32:
        return {true, 32};
    case PTX_U64:
        return {false, 64};
    default:
        return {true, 64};
    }
}

/* From a float to an integer clamps; NaN is 0, in 64 bits the top bit. */
inline u64 cvt_real_to_integer(const ptx_inst &i, double d)
{
    cvt_limits t = cvt_limits_of(i.to);
    if (d != d)
        return t.bits == 64 ? 1ull << 63 : 0;
    d = whole_number(d, i.round);
    double low = t.is_signed ? -__builtin_ldexp(1, t.bits - 1) : 0;
    double above = __builtin_ldexp(1, t.is_signed ? t.bits - 1 : t.bits);
    if (d < low)
        return t.is_signed ? ~0ull << (t.bits - 1) : 0;
    if (d >= above)
        return t.is_signed ? (1ull << (t.bits - 1)) - 1 : ~0ull >> (64 - t.bits);
    return t.is_signed ? static_cast<u64>(static_cast<s64>(d)) : static_cast<u64>(d);
}

/* Truncates, or clamps with .sat. */
inline u64 cvt_integer_to_integer(const ptx_inst &i, const cvt_value &v)
{
    cvt_limits t = cvt_limits_of(i.to);
    __int128 x = v.negative_wraps ? static_cast<__int128>(static_cast<u64>(v.i)) : static_cast<__int128>(v.i);
    if (i.flags & PTX_SAT) {
        __int128 low = t.is_signed ? -(static_cast<__int128>(1) << (t.bits - 1)) : 0;
        __int128 most = (static_cast<__int128>(1) << (t.is_signed ? t.bits - 1 : t.bits)) - 1;
        x = x < low ? low : x > most ? most : x;
    }
    u64 u = static_cast<u64>(x);
    int drop = 64 - t.bits;
    return t.is_signed ? static_cast<u64>(static_cast<s64>(u << drop) >> drop) : u << drop >> drop;
}

inline u64 cvt_pack_real(const ptx_inst &i, double d)
{
    if (i.flags & PTX_SAT)
        d = d > 0 ? (d < 1 ? d : 1.0) : 0.0;
    if (i.flags & PTX_RELU && d <= 0)
        d = 0;
    ptx_round how = static_cast<ptx_round>(i.round);
    u64 u;
    switch (i.to) {
    case PTX_F16:
        return f16_from(d, how);
    case PTX_BF16:
        return bf16_from(d, how);
    case PTX_F32: {
        float f = static_cast<float>(round_to_format(d, 24, -126, 127, how));
        return bits_of(canonical(i.flags & PTX_FTZ ? flush<true>(f) : f));
    }
    default:
        memcpy(&u, &d, 8);
        return u;
    }
}

/* Integers have more bits than a double: what does not fit becomes a sticky last bit, and the next rounding is the only one. */
inline double cvt_sticky_double(const cvt_value &v)
{
    bool negative = v.i < 0 && !v.negative_wraps;
    u64 u = negative ? 0 - static_cast<u64>(v.i) : static_cast<u64>(v.i);
    if (u >> 53)
        u = (u >> 11 | ((u & 0x7ff) != 0)) << 11;
    return negative ? -static_cast<double>(u) : static_cast<double>(u);
}

inline double cvt_integer_to_double(const ptx_inst &i, const cvt_value &v)
{
    rounding r(i.round);
    volatile u64 u = static_cast<u64>(v.i);
    return v.negative_wraps ? static_cast<double>(u) : static_cast<double>(static_cast<s64>(u));
}

/* Between floats of one size, .rni and its like round to a whole number. */
inline u64 cvt_one(const ptx_inst &i, u64 bits)
{
    cvt_value v = cvt_read(i, bits);
    bool to_real = i.to == PTX_F16 || i.to == PTX_BF16 || i.to == PTX_F32 || i.to == PTX_F64;
    if (!to_real)
        return v.real ? cvt_real_to_integer(i, v.d) : cvt_integer_to_integer(i, v);
    if (!v.real)
        v.d = i.to == PTX_F64 ? cvt_integer_to_double(i, v) : cvt_sticky_double(v);
    else if (i.flags & PTX_SECOND)
        v.d = whole_number(v.d, i.round);
    return cvt_pack_real(i, v.d);
}

void cvt_any(ptx_lanes &w, const ptx_inst &i)
{
    auto one = [&](int l) { return cvt_one(i, cvt_bits(w, i, l)); };
    if (i.row_bytes == 2)
        put_active<u16>(w, i.row[0], one);
    else if (i.row_bytes == 4)
        put_active<u32>(w, i.row[0], one);
    else
        put_active<u64>(w, i.row[0], one);
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

constexpr int8_t P = PTX_W_PRED;

#define E(name, fn, n_dst, n_src, ...)                                                                                 \
    {                                                                                                                  \
        name, fn, n_dst, n_src, {__VA_ARGS__}, 0                                                                       \
    }
#define E_FMA(name, fn, w, flops)                                                                                      \
    {                                                                                                                  \
        name, fn, 1, 3, {w, w, w, w}, flops                                                                            \
    }

#define INT2(op, name, t, T) E(name "." t, (binary<op, T, T>), 1, 2, sizeof(T), sizeof(T), sizeof(T))
#define INT2_ALL(op, name)                                                                                             \
    INT2(op, name, "s16", s16), INT2(op, name, "u16", u16), INT2(op, name, "s32", s32), INT2(op, name, "u32", u32),    \
        INT2(op, name, "s64", s64), INT2(op, name, "u64", u64)
#define BITS2(op, name)                                                                                                \
    INT2(op, name, "b16", u16), INT2(op, name, "b32", u32), INT2(op, name, "b64", u64),                                \
        E(name ".pred", predicate_binary<op>, 1, 2, P, P, P)
#define INT1(op, name, t, T)   E(name "." t, (unary<op, T, T>), 1, 1, sizeof(T), sizeof(T))
#define COUNT1(op, name, t, T) E(name "." t, (unary<op, u32, T>), 1, 1, 4, sizeof(T))
#define DIV2(op, name, t, T)   E(name "." t, (divide<op, T>), 1, 2, sizeof(T), sizeof(T), sizeof(T))
#define SHIFT(op, name, t, T)  E(name "." t, (binary<op, T, T, u32>), 1, 2, sizeof(T), sizeof(T), 4)
#define WIDE(t, T)                                                                                                     \
    E("mul.wide." t, (binary<op_mul_wide, wide<T>, T>), 1, 2, 2 * sizeof(T), sizeof(T), sizeof(T)),                    \
        E("mad.wide." t, (ternary<op_mad_wide, wide<T>, T, T, wide<T>>), 1, 3, 2 * sizeof(T), sizeof(T), sizeof(T),    \
          2 * sizeof(T))
#define MAD(op, name, t, T) E(name "." t, (ternary<op, T, T>), 1, 3, sizeof(T), sizeof(T), sizeof(T), sizeof(T))
#define MAD_ALL(op, name)                                                                                              \
    MAD(op, name, "s16", s16), MAD(op, name, "u16", u16), MAD(op, name, "s32", s32), MAD(op, name, "u32", u32),        \
        MAD(op, name, "s64", s64), MAD(op, name, "u64", u64)
#define SHF(op, name)    E(name ".b32", (ternary<op, u32, u32>), 1, 3, 4, 4, 4, 4)
#define BFE(t, T)        E("bfe." t, (ternary<op_bfe, T, T, u32, u32>), 1, 3, sizeof(T), sizeof(T), 4, 4)
#define BFI(t, T)        E("bfi." t, bit_insert<T>, 1, 4, sizeof(T), sizeof(T), sizeof(T), 4, 4)
#define SELECT(t, T)     E("selp." t, select<T>, 1, 3, sizeof(T), sizeof(T), sizeof(T), P)
#define SLCT(t, T, c, C) E("slct." t "." c, (select_sign<T, C>), 1, 3, sizeof(T), sizeof(T), sizeof(T), sizeof(C))

#define SETP_ONE(cmp, name, t, T)                                                                                      \
    E("setp." name "." t, (setp<cmp, T>), 1, 2, P, sizeof(T), sizeof(T)),                                              \
        E("setp." name ".and." t, (setp_with<cmp, T, op_and>), 1, 3, P, sizeof(T), sizeof(T), P),                      \
        E("setp." name ".or." t, (setp_with<cmp, T, op_or>), 1, 3, P, sizeof(T), sizeof(T), P),                        \
        E("set." name ".u32." t, (set<cmp, T, ~0u>), 1, 2, 4, sizeof(T), sizeof(T)),                                   \
        E("set." name ".f32." t, (set<cmp, T, 0x3f800000>), 1, 2, 4, sizeof(T), sizeof(T))
#define SETP_INT(cmp, name)                                                                                            \
    SETP_ONE(cmp, name, "s16", s16), SETP_ONE(cmp, name, "u16", u16), SETP_ONE(cmp, name, "s32", s32),                 \
        SETP_ONE(cmp, name, "u32", u32), SETP_ONE(cmp, name, "s64", s64), SETP_ONE(cmp, name, "u64", u64)
#define SETP_BITS(cmp, name)                                                                                           \
    SETP_ONE(cmp, name, "b16", u16), SETP_ONE(cmp, name, "b32", u32), SETP_ONE(cmp, name, "b64", u64)
#define SETP_REAL(cmp, name)                                                                                           \
    SETP_ONE(cmp, name, "f32", float), SETP_ONE(cmp, name, "f64", double),                                             \
        E("setp." name ".ftz.f32", setp_ftz<cmp>, 1, 2, P, 4, 4),                                                      \
        E("setp." name ".f16", (half_setp<fmt_f16, cmp>), 1, 2, P, 2, 2),                                              \
        E("setp." name ".bf16", (half_setp<fmt_bf16, cmp>), 1, 2, P, 2, 2)

#define FLOAT2_R(op, name, round, how)                                                                                 \
    E(name round ".f32", (float2<op, false, false, how>), 1, 2, 4, 4, 4),                                              \
        E(name round ".ftz.f32", (float2<op, true, false, how>), 1, 2, 4, 4, 4),                                       \
        E(name round ".sat.f32", (float2<op, false, true, how>), 1, 2, 4, 4, 4),                                       \
        E(name round ".ftz.sat.f32", (float2<op, true, true, how>), 1, 2, 4, 4, 4),                                    \
        E(name round ".f64", (double2<op, how>), 1, 2, 8, 8, 8)
#define FLOAT2(op, name)                                                                                               \
    FLOAT2_R(op, name, "", PTX_RN), FLOAT2_R(op, name, ".rn", PTX_RN), FLOAT2_R(op, name, ".rz", PTX_RZ),              \
        FLOAT2_R(op, name, ".rm", PTX_RM), FLOAT2_R(op, name, ".rp", PTX_RP)
#define FMA_R(name, round, how)                                                                                        \
    E_FMA(name round ".f32", (float3<f_fma, false, false, how>), 4, 2),                                                \
        E_FMA(name round ".ftz.f32", (float3<f_fma, true, false, how>), 4, 2),                                         \
        E_FMA(name round ".sat.f32", (float3<f_fma, false, true, how>), 4, 2),                                         \
        E_FMA(name round ".ftz.sat.f32", (float3<f_fma, true, true, how>), 4, 2),                                      \
        E_FMA(name round ".f64", (double3<f_fma, how>), 8, 2)
#define FMA(name)                                                                                                      \
    FMA_R(name, ".rn", PTX_RN), FMA_R(name, ".rz", PTX_RZ), FMA_R(name, ".rm", PTX_RM), FMA_R(name, ".rp", PTX_RP)
#define ROOT_R(op, name, round, how)                                                                                   \
    E(name round ".f32", (float1<op, false, false, how>), 1, 1, 4, 4),                                                 \
        E(name round ".ftz.f32", (float1<op, true, false, how>), 1, 1, 4, 4),                                          \
        E(name round ".f64", (double1<op, how>), 1, 1, 8, 8)
#define ROOT(op, name)                                                                                                 \
    ROOT_R(op, name, ".rn", PTX_RN), ROOT_R(op, name, ".rz", PTX_RZ), ROOT_R(op, name, ".rm", PTX_RM),                 \
        ROOT_R(op, name, ".rp", PTX_RP)
#define DIV_R(round, how)                                                                                              \
    E("div" round ".f32", (float2<f_div, false, false, how>), 1, 2, 4, 4, 4),                                          \
        E("div" round ".ftz.f32", (float2<f_div, true, false, how>), 1, 2, 4, 4, 4),                                   \
        E("div" round ".f64", (double2<f_div, how>), 1, 2, 8, 8, 8)
#define SIGN1(op, name)                                                                                                \
    E(name ".f32", (unary<op, float, float>), 1, 1, 4, 4),                                                             \
        E(name ".ftz.f32", (float1<op, true, false, PTX_RN>), 1, 1, 4, 4),                                             \
        E(name ".f64", (unary<op, double, double>), 1, 1, 8, 8)
#define MINMAX(op, name)                                                                                               \
    E(name ".f32", (binary<op, float, float>), 1, 2, 4, 4, 4),                                                         \
        E(name ".ftz.f32", (float2<op, true, false, PTX_RN>), 1, 2, 4, 4, 4),                                          \
        E(name ".f64", (binary<op, double, double>), 1, 2, 8, 8, 8)
#define MINMAX_NAN(op, name)                                                                                           \
    E(name ".NaN.f32", (binary<op, float, float>), 1, 2, 4, 4, 4),                                                     \
        E(name ".ftz.NaN.f32", (float2<op, true, false, PTX_RN>), 1, 2, 4, 4, 4)
#define APPROX1(op, name, how)                                                                                         \
    E(name ".approx.f32", (how<op, false>), 1, 1, 4, 4), E(name ".approx.ftz.f32", (how<op, true>), 1, 1, 4, 4)
#define APPROX2(op, name)                                                                                              \
    E(name ".f32", (approx2<op, false>), 1, 2, 4, 4, 4), E(name ".ftz.f32", (approx2<op, true>), 1, 2, 4, 4, 4)

#define HALF2(op, name, t, Fmt)                                                                                        \
    E(name "." t, (half2<Fmt, op, u16, false>), 1, 2, 2, 2, 2),                                                        \
        E(name "." t "x2", (half2<Fmt, op, u32, false>), 1, 2, 4, 4, 4),                                               \
        E(name ".rn." t, (half2<Fmt, op, u16, false>), 1, 2, 2, 2, 2),                                                 \
        E(name ".rn." t "x2", (half2<Fmt, op, u32, false>), 1, 2, 4, 4, 4),                                            \
        E(name ".sat." t, (half2<Fmt, op, u16, true>), 1, 2, 2, 2, 2),                                                 \
        E(name ".sat." t "x2", (half2<Fmt, op, u32, true>), 1, 2, 4, 4, 4)
#define HALF_FMA(t, Fmt)                                                                                               \
    E_FMA("fma.rn." t, (half_fma<Fmt, u16, false, false>), 2, 2),                                                      \
        E_FMA("fma.rn." t "x2", (half_fma<Fmt, u32, false, false>), 4, 4),                                             \
        E_FMA("fma.rn.relu." t, (half_fma<Fmt, u16, false, true>), 2, 2),                                              \
        E_FMA("fma.rn.relu." t "x2", (half_fma<Fmt, u32, false, true>), 4, 4),                                         \
        E_FMA("fma.rn.sat." t, (half_fma<Fmt, u16, true, false>), 2, 2),                                               \
        E_FMA("fma.rn.sat." t "x2", (half_fma<Fmt, u32, true, false>), 4, 4)
#define HALF_PICK(op, name, t, Fmt)                                                                                    \
    E(name "." t, (half_pick<Fmt, op, u16>), 1, 2, 2, 2, 2),                                                           \
        E(name "." t "x2", (half_pick<Fmt, op, u32>), 1, 2, 4, 4, 4)
#define HALF_SIGN(op, name, t)                                                                                         \
    E(name "." t, (unary<op, u16, u16>), 1, 1, 2, 2), E(name "." t "x2", (unary<op, u32, u32>), 1, 1, 4, 4)
#define HALF_APPROX(op, name, t, Fmt)                                                                                  \
    E(name "." t, (half_approx<Fmt, op, u16>), 1, 1, 2, 2), E(name "." t "x2", (half_approx<Fmt, op, u32>), 1, 1, 4, 4)

#define MOVE(t, T)          E("mov." t, (unary<op_move, T, T>), 1, 1, sizeof(T), sizeof(T))
#define CVT_INT(d, D, a, A) E("cvt." d "." a, (cvt_integer<D, A>), 1, 1, sizeof(D), sizeof(A))
#define CVT_INT_FROM(a, A)                                                                                             \
    CVT_INT("u16", u16, a, A), CVT_INT("s16", u16, a, A), CVT_INT("u32", u32, a, A), CVT_INT("s32", u32, a, A),        \
        CVT_INT("u64", u64, a, A), CVT_INT("s64", u64, a, A)

const ptx_alu_entry entries[] = {
    INT2_ALL(op_add, "add"),
    INT2_ALL(op_sub, "sub"),
    INT2_ALL(op_mul_lo, "mul.lo"),
    INT2_ALL(op_mul_hi, "mul.hi"),
    INT2_ALL(op_min, "min"),
    INT2_ALL(op_max, "max"),
    BITS2(op_and, "and"),
    BITS2(op_or, "or"),
    BITS2(op_xor, "xor"),
    E("add.sat.s32", (binary<op_add_sat, s32, s32>), 1, 2, 4, 4, 4),
    E("sub.sat.s32", (binary<op_sub_sat, s32, s32>), 1, 2, 4, 4, 4),
    INT1(op_not, "not", "b16", u16),
    INT1(op_not, "not", "b32", u32),
    INT1(op_not, "not", "b64", u64),
    E("not.pred", predicate_not, 1, 1, P, P),
    INT1(op_cnot, "cnot", "b16", u16),
    INT1(op_cnot, "cnot", "b32", u32),
    INT1(op_cnot, "cnot", "b64", u64),
    INT1(op_neg, "neg", "s16", s16),
    INT1(op_neg, "neg", "s32", s32),
    INT1(op_neg, "neg", "s64", s64),
    INT1(op_abs, "abs", "s16", s16),
    INT1(op_abs, "abs", "s32", s32),
    INT1(op_abs, "abs", "s64", s64),
    COUNT1(op_popc, "popc", "b32", u32),
    COUNT1(op_popc, "popc", "b64", u64),
    COUNT1(op_clz, "clz", "b32", u32),
    COUNT1(op_clz, "clz", "b64", u64),
    COUNT1(op_bfind, "bfind", "u32", u32),
    COUNT1(op_bfind, "bfind", "s32", s32),
    COUNT1(op_bfind, "bfind", "u64", u64),
    COUNT1(op_bfind, "bfind", "s64", s64),
    COUNT1(op_bfind_shift, "bfind.shiftamt", "u32", u32),
    COUNT1(op_bfind_shift, "bfind.shiftamt", "s32", s32),
    COUNT1(op_bfind_shift, "bfind.shiftamt", "u64", u64),
    COUNT1(op_bfind_shift, "bfind.shiftamt", "s64", s64),
    INT1(op_brev, "brev", "b32", u32),
    INT1(op_brev, "brev", "b64", u64),
    DIV2(op_div, "div", "s16", s16),
    DIV2(op_div, "div", "u16", u16),
    DIV2(op_div, "div", "s32", s32),
    DIV2(op_div, "div", "u32", u32),
    DIV2(op_div, "div", "s64", s64),
    DIV2(op_div, "div", "u64", u64),
    DIV2(op_rem, "rem", "s16", s16),
    DIV2(op_rem, "rem", "u16", u16),
    DIV2(op_rem, "rem", "s32", s32),
    DIV2(op_rem, "rem", "u32", u32),
    DIV2(op_rem, "rem", "s64", s64),
    DIV2(op_rem, "rem", "u64", u64),
    SHIFT(op_shl, "shl", "b16", u16),
    SHIFT(op_shl, "shl", "b32", u32),
    SHIFT(op_shl, "shl", "b64", u64),
    SHIFT(op_shr, "shr", "b16", u16),
    SHIFT(op_shr, "shr", "b32", u32),
    SHIFT(op_shr, "shr", "b64", u64),
    SHIFT(op_shr, "shr", "u16", u16),
    SHIFT(op_shr, "shr", "u32", u32),
    SHIFT(op_shr, "shr", "u64", u64),
    SHIFT(op_shr, "shr", "s16", s16),
    SHIFT(op_shr, "shr", "s32", s32),
    SHIFT(op_shr, "shr", "s64", s64),
    WIDE("u16", u16),
    WIDE("s16", s16),
    WIDE("u32", u32),
    WIDE("s32", s32),
    MAD_ALL(op_mad_lo, "mad.lo"),
    MAD_ALL(op_mad_hi, "mad.hi"),
    MAD(op_sad, "sad", "u32", u32),
    MAD(op_sad, "sad", "s32", s32),
    INT2(op_mul24_lo, "mul24.lo", "u32", u32),
    INT2(op_mul24_lo, "mul24.lo", "s32", s32),
    INT2(op_mul24_hi, "mul24.hi", "u32", u32),
    INT2(op_mul24_hi, "mul24.hi", "s32", s32),
    MAD(op_mad24_lo, "mad24.lo", "u32", u32),
    MAD(op_mad24_lo, "mad24.lo", "s32", s32),
    SHF(op_shf_l_wrap, "shf.l.wrap"),
    SHF(op_shf_r_wrap, "shf.r.wrap"),
    SHF(op_shf_l_clamp, "shf.l.clamp"),
    SHF(op_shf_r_clamp, "shf.r.clamp"),
    SHF(op_prmt, "prmt"),
    E("lop3.b32", lop3, 1, 4, 4, 4, 4, 4, 4),
    BFE("u32", u32),
    BFE("s32", s32),
    BFE("u64", u64),
    BFE("s64", s64),
    BFI("b32", u32),
    BFI("b64", u64),
    E("dp4a.u32.u32", (dot4<uint8_t, uint8_t, u32>), 1, 3, 4, 4, 4, 4),
    E("dp4a.s32.s32", (dot4<int8_t, int8_t, s32>), 1, 3, 4, 4, 4, 4),
    E("dp4a.u32.s32", (dot4<uint8_t, int8_t, s32>), 1, 3, 4, 4, 4, 4),
    E("dp4a.s32.u32", (dot4<int8_t, uint8_t, s32>), 1, 3, 4, 4, 4, 4),

    SETP_INT(cmp_eq, "eq"),
    SETP_INT(cmp_ne, "ne"),
    SETP_INT(cmp_lt, "lt"),
    SETP_INT(cmp_le, "le"),
    SETP_INT(cmp_gt, "gt"),
    SETP_INT(cmp_ge, "ge"),
    SETP_BITS(cmp_eq, "eq"),
    SETP_BITS(cmp_ne, "ne"),
    SETP_REAL(cmp_eq, "eq"),
    SETP_REAL(cmp_ne, "ne"),
    SETP_REAL(cmp_lt, "lt"),
    SETP_REAL(cmp_le, "le"),
    SETP_REAL(cmp_gt, "gt"),
    SETP_REAL(cmp_ge, "ge"),
    SETP_REAL(cmp_equ, "equ"),
    SETP_REAL(cmp_neu, "neu"),
    SETP_REAL(cmp_ltu, "ltu"),
    SETP_REAL(cmp_leu, "leu"),
    SETP_REAL(cmp_gtu, "gtu"),
    SETP_REAL(cmp_geu, "geu"),
    SETP_REAL(cmp_num, "num"),
    SETP_REAL(cmp_nan, "nan"),
    SELECT("b16", u16),
    SELECT("b32", u32),
    SELECT("b64", u64),
    SELECT("u16", u16),
    SELECT("u32", u32),
    SELECT("u64", u64),
    SELECT("s16", u16),
    SELECT("s32", u32),
    SELECT("s64", u64),
    SELECT("f32", u32),
    SELECT("f64", u64),
    SLCT("b32", u32, "s32", s32),
    SLCT("u32", u32, "s32", s32),
    SLCT("s32", u32, "s32", s32),
    SLCT("f32", u32, "s32", s32),
    SLCT("f32", u32, "f32", float),
    SLCT("b64", u64, "s32", s32),
    SLCT("u64", u64, "s32", s32),
    SLCT("f64", u64, "s32", s32),

    FLOAT2(f_add, "add"),
    FLOAT2(f_sub, "sub"),
    FLOAT2(f_mul, "mul"),
    FMA("fma"),
    FMA("mad"),
    ROOT(f_rcp, "rcp"),
    ROOT(f_sqrt, "sqrt"),
    DIV_R(".rn", PTX_RN),
    DIV_R(".rz", PTX_RZ),
    DIV_R(".rm", PTX_RM),
    DIV_R(".rp", PTX_RP),
    SIGN1(f_neg, "neg"),
    SIGN1(f_abs, "abs"),
    MINMAX(f_min, "min"),
    MINMAX(f_max, "max"),
    MINMAX_NAN(f_min_nan, "min"),
    MINMAX_NAN(f_max_nan, "max"),
    E("copysign.f32", (binary<f_copysign, float, float>), 1, 2, 4, 4, 4),
    E("copysign.f64", (binary<f_copysign, double, double>), 1, 2, 8, 8, 8),
    E("ex2.approx.f32", approx_ex2_row<false>, 1, 1, 4, 4),
    E("ex2.approx.ftz.f32", approx_ex2_row<true>, 1, 1, 4, 4),
    APPROX1(approx_rcp, "rcp", approx1),
    APPROX1(approx_sqrt, "sqrt", approx1),
    APPROX1(approx_rsqrt, "rsqrt", approx1),
    APPROX1(approx_lg2, "lg2", approx1_slow),
    APPROX1(approx_sin, "sin", approx1_slow),
    APPROX1(approx_cos, "cos", approx1_slow),
    E("tanh.approx.f32", (approx1_slow<approx_tanh, false>), 1, 1, 4, 4),
    APPROX2(approx_div, "div.approx"),
    APPROX2(approx_div_full, "div.full"),
    E("rcp.approx.ftz.f64", approx_f64<f_rcp>, 1, 1, 8, 8),

    HALF2(h_add, "add", "f16", fmt_f16),
    HALF2(h_sub, "sub", "f16", fmt_f16),
    HALF2(h_mul, "mul", "f16", fmt_f16),
    HALF2(h_add, "add", "bf16", fmt_bf16),
    HALF2(h_sub, "sub", "bf16", fmt_bf16),
    HALF2(h_mul, "mul", "bf16", fmt_bf16),
    HALF_FMA("f16", fmt_f16),
    HALF_FMA("bf16", fmt_bf16),
    HALF_PICK(f_min, "min", "f16", fmt_f16),
    HALF_PICK(f_max, "max", "f16", fmt_f16),
    HALF_PICK(f_min_nan, "min.NaN", "f16", fmt_f16),
    HALF_PICK(f_max_nan, "max.NaN", "f16", fmt_f16),
    HALF_PICK(f_min, "min", "bf16", fmt_bf16),
    HALF_PICK(f_max, "max", "bf16", fmt_bf16),
    HALF_PICK(f_min_nan, "min.NaN", "bf16", fmt_bf16),
    HALF_PICK(f_max_nan, "max.NaN", "bf16", fmt_bf16),
    HALF_SIGN(h_neg, "neg", "f16"),
    HALF_SIGN(h_abs, "abs", "f16"),
    HALF_SIGN(h_neg, "neg", "bf16"),
    HALF_SIGN(h_abs, "abs", "bf16"),
    HALF_APPROX(approx_ex2, "ex2.approx", "f16", fmt_f16),
    HALF_APPROX(approx_tanh, "tanh.approx", "f16", fmt_f16),
    HALF_APPROX(approx_ex2, "ex2.approx.ftz", "bf16", fmt_bf16),
    HALF_APPROX(approx_tanh, "tanh.approx", "bf16", fmt_bf16),

    MOVE("b16", u16),
    MOVE("b32", u32),
    MOVE("b64", u64),
    MOVE("u16", u16),
    MOVE("u32", u32),
    MOVE("u64", u64),
    MOVE("s16", u16),
    MOVE("s32", u32),
    MOVE("s64", u64),
    MOVE("f32", u32),
    MOVE("f64", u64),
    E("mov.pred", predicate_move, 1, 1, P, P),
    E("pack.2.b32", (pack<u32, u16, 2>), 1, 2, 4, 2, 2),
    E("pack.2.b64", (pack<u64, u32, 2>), 1, 2, 8, 4, 4),
    E("pack.4.b64", (pack<u64, u16, 4>), 1, 4, 8, 2, 2, 2, 2),
    E("unpack.2.b32", (unpack<u16, u32, 2>), 2, 1, 2, 2, 4),
    E("unpack.2.b64", (unpack<u32, u64, 2>), 2, 1, 4, 4, 8),
    E("unpack.4.b64", (unpack<u16, u64, 4>), 4, 1, 2, 2, 2, 2, 8),

    CVT_INT_FROM("u16", u16),
    CVT_INT_FROM("s16", s16),
    CVT_INT_FROM("u32", u32),
    CVT_INT_FROM("s32", s32),
    CVT_INT_FROM("u64", u64),
    CVT_INT_FROM("s64", s64),
    E("cvt.rn.f32.u16", cvt_to_float<u16>, 1, 1, 4, 2),
    E("cvt.rn.f32.s16", cvt_to_float<s16>, 1, 1, 4, 2),
    E("cvt.rn.f32.u32", cvt_to_float<u32>, 1, 1, 4, 4),
    E("cvt.rn.f32.s32", cvt_to_float<s32>, 1, 1, 4, 4),
    E("cvt.f32.f16", cvt_half_to_float<fmt_f16>, 1, 1, 4, 2),
    E("cvt.f32.bf16", cvt_half_to_float<fmt_bf16>, 1, 1, 4, 2),
    E("cvt.rn.f16.f32", cvt_float_to_half<fmt_f16>, 1, 1, 2, 4),
    E("cvt.rn.bf16.f32", cvt_float_to_half<fmt_bf16>, 1, 1, 2, 4),
    E("cvt.rn.f16x2.f32", (cvt_floats_to_pair<fmt_f16, false>), 1, 2, 4, 4, 4),
    E("cvt.rn.bf16x2.f32", (cvt_floats_to_pair<fmt_bf16, false>), 1, 2, 4, 4, 4),
    E("cvt.rn.relu.f16x2.f32", (cvt_floats_to_pair<fmt_f16, true>), 1, 2, 4, 4, 4),
    E("cvt.rn.relu.bf16x2.f32", (cvt_floats_to_pair<fmt_bf16, true>), 1, 2, 4, 4, 4),
};

} // namespace

ptx_alu_table alu_table()
{
    return {entries, sizeof entries / sizeof entries[0], cvt_any};
}

} // namespace PTX_ARCH
