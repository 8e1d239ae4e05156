/* isa_cases - one instruction a case, with what it must give: compiled by nvcc into a kernel (isa.cu), by g++ into the
 * expectation (isa_test.cpp). No include guard: it is a list.
 *
 *   CASE1(name, result, x, compare, instruction, expectation)    CASE2: also y    CASE3: also z
 *
 * The instruction assigns r; the expectation is an expression of x, y, z over isa_expect.h. compare: EXACT, or of what the
 * bits are (F32, F64, F16, BF16, F16X2, BF16X2), so that any NaN equals any NaN, or ULP(n). */

/* --- integers, of each width and sign ----------------------------------------------------------------------------- */

#define SAME2(op, t, T, c, expect)                                                                                     \
    CASE2(op##_##t, T, T, T, EXACT, ASM(#op "." #t " %0, %1, %2;", "=" c(r) : c(x), c(y)), expect)
#define DOT2(id, op, t, T, c, expect)                                                                                  \
    CASE2(id##_##t, T, T, T, EXACT, ASM(op "." #t " %0, %1, %2;", "=" c(r) : c(x), c(y)), expect)
#define DOT3(id, op, t, T, c, expect)                                                                                  \
    CASE3(id##_##t, T, T, T, T, EXACT, ASM(op "." #t " %0, %1, %2, %3;", "=" c(r) : c(x), c(y), c(z)), expect)
#define INTEGERS(t, T, c)                                                                                              \
    SAME2(add, t, T, c, T(U<T>(x) + U<T>(y)))                                                                          \
    SAME2(sub, t, T, c, T(U<T>(x) - U<T>(y)))                                                                          \
    SAME2(min, t, T, c, x < y ? x : y)                                                                                 \
    SAME2(max, t, T, c, x > y ? x : y)                                                                                 \
    SAME2(div, t, T, c, divide(x, y))                                                                                  \
    SAME2(rem, t, T, c, remainder_of(x, y))                                                                            \
    DOT2(mul_lo, "mul.lo", t, T, c, T(W<T>(x) * W<T>(y)))                                                              \
    DOT2(mul_hi, "mul.hi", t, T, c, T((W<T>(x) * W<T>(y)) >> (8 * sizeof(T))))                                         \
    DOT3(mad_lo, "mad.lo", t, T, c, T(U<T>(T(W<T>(x) * W<T>(y))) + U<T>(z)))                                           \
    DOT3(mad_hi, "mad.hi", t, T, c, T(U<T>(T((W<T>(x) * W<T>(y)) >> (8 * sizeof(T)))) + U<T>(z)))                      \
    CASE2(shr_##t, T, T, uint32_t, EXACT, ASM("shr." #t " %0, %1, %2;", "=" c(r) : c(x), "r"(y)), shift_right(x, y))   \
    COMPARE(eq, ==, t, T, c)                                                                                           \
    COMPARE(ne, !=, t, T, c)                                                                                           \
    COMPARE(lt, <, t, T, c)                                                                                            \
    COMPARE(le, <=, t, T, c)                                                                                           \
    COMPARE(gt, >, t, T, c)                                                                                            \
    COMPARE(ge, >=, t, T, c)                                                                                           \
    CASE2(setp_and_##t, uint32_t, T, T, EXACT,                                                                         \
          ASM("{ .reg .pred p, q; setp.lt." #t " p, %1, %2; setp.ne.and." #t " q, %1, 7, p; selp.u32 %0, 1, 2, q; }",  \
              "=r"(r)                                                                                                  \
              : c(x), c(y)),                                                                                           \
          x != 7 && x < y ? 1 : 2)                                                                                     \
    CASE2(setp_or_##t, uint32_t, T, T, EXACT,                                                                          \
          ASM("{ .reg .pred p, q; setp.lt." #t " p, %1, %2; setp.eq.or." #t " q, %1, 7, !p; selp.u32 %0, 1, 2, q; }",  \
              "=r"(r)                                                                                                  \
              : c(x), c(y)),                                                                                           \
          x == 7 || !(x < y) ? 1 : 2)
#define COMPARE(op, sign, t, T, c)                                                                                     \
    CASE2(setp_##op##_##t, uint32_t, T, T, EXACT,                                                                      \
          ASM("{ .reg .pred p; setp." #op "." #t " p, %1, %2; selp.u32 %0, 1, 0, p; }", "=r"(r)                        \
              : c(x), c(y)),                                                                                           \
          x sign y)

INTEGERS(s16, int16_t, "h")
INTEGERS(u16, uint16_t, "h")
INTEGERS(s32, int32_t, "r")
INTEGERS(u32, uint32_t, "r")
INTEGERS(s64, int64_t, "l")
INTEGERS(u64, uint64_t, "l")

#define SIGNED(t, T, c)                                                                                                \
    CASE1(neg_##t, T, T, EXACT, ASM("neg." #t " %0, %1;", "=" c(r) : c(x)), T(0 - U<T>(x)))                            \
    CASE1(abs_##t, T, T, EXACT, ASM("abs." #t " %0, %1;", "=" c(r) : c(x)), T(x < 0 ? 0 - U<T>(x) : U<T>(x)))
SIGNED(s16, int16_t, "h")
SIGNED(s32, int32_t, "r")
SIGNED(s64, int64_t, "l")

#define BITS(t, T, c)                                                                                                  \
    SAME2(and, t, T, c, T(x &y))                                                                                       \
    SAME2(or, t, T, c, T(x | y))                                                                                       \
    SAME2(xor, t, T, c, T(x ^ y))                                                                                      \
    CASE1(not_##t, T, T, EXACT, ASM("not." #t " %0, %1;", "=" c(r) : c(x)), T(~x))                                     \
    CASE1(cnot_##t, T, T, EXACT, ASM("cnot." #t " %0, %1;", "=" c(r) : c(x)), T(x == 0))                               \
    CASE2(shl_##t, T, T, uint32_t, EXACT,                                                                              \
          ASM("shl." #t " %0, %1, %2;", "=" c(r)                                                                       \
              : c(x), "r"(y)),                                                                                         \
          y < 8 * sizeof(T) ? T(x << y) : T(0))
BITS(b16, uint16_t, "h")
BITS(b32, uint32_t, "r")
BITS(b64, uint64_t, "l")

#define WIDE(t, T, c, R, cr)                                                                                           \
    CASE2(mul_wide_##t, R, T, T, EXACT, ASM("mul.wide." #t " %0, %1, %2;", "=" cr(r) : c(x), c(y)), R(x) * R(y))       \
    CASE3(mad_wide_##t, R, T, T, R, EXACT,                                                                             \
          ASM("mad.wide." #t " %0, %1, %2, %3;", "=" cr(r)                                                             \
              : c(x), c(y), cr(z)),                                                                                    \
          R(U<R>(R(x) * R(y)) + U<R>(z)))
WIDE(u16, uint16_t, "h", uint32_t, "r")
WIDE(s16, int16_t, "h", int32_t, "r")
WIDE(u32, uint32_t, "r", uint64_t, "l")
WIDE(s32, int32_t, "r", int64_t, "l")

#define COUNTS(b, u, T, c)                                                                                             \
    CASE1(popc_##b, uint32_t, T, EXACT, ASM("popc." #b " %0, %1;", "=r"(r) : c(x)), popcount(x))                       \
    CASE1(clz_##b, uint32_t, T, EXACT, ASM("clz." #b " %0, %1;", "=r"(r) : c(x)), leading_zeros(x))                    \
    CASE1(brev_##b, T, T, EXACT, ASM("brev." #b " %0, %1;", "=" c(r) : c(x)), reverse_bits(x))                         \
    CASE1(bfind_##u, uint32_t, T, EXACT, ASM("bfind." #u " %0, %1;", "=r"(r) : c(x)), find_bit(x, false))              \
    CASE1(bfind_shift_##u, uint32_t, T, EXACT, ASM("bfind.shiftamt." #u " %0, %1;", "=r"(r) : c(x)), find_bit(x, true))
COUNTS(b32, u32, uint32_t, "r")
COUNTS(b64, u64, uint64_t, "l")
#define FIND_SIGNED(t, T, c)                                                                                           \
    CASE1(bfind_##t, uint32_t, T, EXACT,                                                                               \
          ASM("bfind." #t " %0, %1;", "=r"(r)                                                                          \
              : c(x)),                                                                                                 \
          find_bit(U<T>(x < 0 ? ~x : x), false))                                                                       \
    CASE1(bfind_shift_##t, uint32_t, T, EXACT,                                                                         \
          ASM("bfind.shiftamt." #t " %0, %1;", "=r"(r)                                                                 \
              : c(x)),                                                                                                 \
          find_bit(U<T>(x < 0 ? ~x : x), true))
FIND_SIGNED(s32, int32_t, "r")
FIND_SIGNED(s64, int64_t, "l")

#define FIELDS(u, s, b, T, S, c)                                                                                       \
    CASE3(bfe_##u, T, T, uint32_t, uint32_t, EXACT,                                                                    \
          ASM("bfe." #u " %0, %1, %2, %3;", "=" c(r)                                                                   \
              : c(x), "r"(y), "r"(z)),                                                                                 \
          extract_field(x, y, z, false))                                                                               \
    CASE3(bfe_##s, T, T, uint32_t, uint32_t, EXACT,                                                                    \
          ASM("bfe." #s " %0, %1, %2, %3;", "=" c(r)                                                                   \
              : c(x), "r"(y), "r"(z)),                                                                                 \
          extract_field(x, y, z, true))                                                                                \
    CASE3(bfi_##b, T, T, uint32_t, uint32_t, EXACT,                                                                    \
          ASM("bfi." #b " %0, %1, 0x1234567, %2, %3;", "=" c(r)                                                        \
              : c(x), "r"(y), "r"(z)),                                                                                 \
          insert_field(x, T(0x1234567), y, z))
FIELDS(u32, s32, b32, uint32_t, int32_t, "r")
FIELDS(u64, s64, b64, uint64_t, int64_t, "l")

#define THREE(id, op, T, expect)                                                                                       \
    CASE3(id, T, T, T, T, EXACT, ASM(op " %0, %1, %2, %3;", "=r"(r) : "r"(x), "r"(y), "r"(z)), expect)
THREE(shf_l_wrap, "shf.l.wrap.b32", uint32_t, funnel(x, y, z & 31, true))
THREE(shf_r_wrap, "shf.r.wrap.b32", uint32_t, funnel(x, y, z & 31, false))
THREE(shf_l_clamp, "shf.l.clamp.b32", uint32_t, funnel(x, y, z > 32 ? 32 : z, true))
THREE(shf_r_clamp, "shf.r.clamp.b32", uint32_t, funnel(x, y, z > 32 ? 32 : z, false))
THREE(prmt, "prmt.b32", uint32_t, permute_bytes(x, y, z))
CASE3(lop3_96, uint32_t, uint32_t, uint32_t, uint32_t, EXACT,
      ASM("lop3.b32 %0, %1, %2, %3, 0x96;", "=r"(r)
          : "r"(x), "r"(y), "r"(z)),
      x ^ y ^ z)
CASE3(lop3_e8, uint32_t, uint32_t, uint32_t, uint32_t, EXACT,
      ASM("lop3.b32 %0, %1, %2, %3, 0xe8;", "=r"(r)
          : "r"(x), "r"(y), "r"(z)),
      (x & y) | (y & z) | (x & z))
CASE3(lop3_2a, uint32_t, uint32_t, uint32_t, uint32_t, EXACT,
      ASM("lop3.b32 %0, %1, %2, %3, 0x2a;", "=r"(r)
          : "r"(x), "r"(y), "r"(z)),
      (~x & z) | (~y & z))
THREE(sad_u32, "sad.u32", uint32_t, z + (x < y ? y - x : x - y))
THREE(sad_s32, "sad.s32", int32_t,
      int32_t(U<int32_t>(z) + (x < y ? U<int32_t>(y) - U<int32_t>(x) : U<int32_t>(x) - U<int32_t>(y))))
THREE(mad24_u32, "mad24.lo.u32", uint32_t, z + uint32_t(uint64_t(x & 0xffffff) * (y & 0xffffff)))
THREE(mad24_s32, "mad24.lo.s32", int32_t, int32_t(U<int32_t>(z) + uint32_t(int64_t(low24(x)) * low24(y))))
THREE(dp4a_u32, "dp4a.u32.u32", uint32_t, uint32_t(z + dot_bytes<uint8_t, uint8_t>(x, y)))
THREE(dp4a_s32, "dp4a.s32.s32", uint32_t, uint32_t(z + dot_bytes<int8_t, int8_t>(x, y)))
THREE(dp4a_us, "dp4a.u32.s32", uint32_t, uint32_t(z + dot_bytes<uint8_t, int8_t>(x, y)))
THREE(dp4a_su, "dp4a.s32.u32", uint32_t, uint32_t(z + dot_bytes<int8_t, uint8_t>(x, y)))
THREE(slct_s32, "slct.s32.s32", int32_t, z >= 0 ? x : y)
DOT2(mul24_lo, "mul24.lo", u32, uint32_t, "r", uint32_t(uint64_t(x & 0xffffff) * (y & 0xffffff)))
DOT2(mul24_hi, "mul24.hi", u32, uint32_t, "r", uint32_t((uint64_t(x & 0xffffff) * (y & 0xffffff)) >> 16))
DOT2(mul24_lo, "mul24.lo", s32, int32_t, "r", int32_t(int64_t(low24(x)) * low24(y)))
DOT2(mul24_hi, "mul24.hi", s32, int32_t, "r", int32_t((int64_t(low24(x)) * low24(y)) >> 16))
DOT2(add_sat, "add.sat", s32, int32_t, "r", clamp_s32(int64_t(x) + y))
DOT2(sub_sat, "sub.sat", s32, int32_t, "r", clamp_s32(int64_t(x) - y))
CASE2(pack_b32, uint32_t, uint16_t, uint16_t, EXACT,
      ASM("mov.b32 %0, {%1, %2};", "=r"(r)
          : "h"(x), "h"(y)),
      x | uint32_t(y) << 16)
CASE2(pack_b64, uint64_t, uint32_t, uint32_t, EXACT,
      ASM("mov.b64 %0, {%1, %2};", "=l"(r)
          : "r"(x), "r"(y)),
      x | uint64_t(y) << 32)
CASE2(pack4_b64, uint64_t, uint16_t, uint16_t, EXACT,
      ASM("mov.b64 %0, {%1, %2, %2, %1};", "=l"(r)
          : "h"(x), "h"(y)),
      x | uint64_t(y) << 16 | uint64_t(y) << 32 | uint64_t(x) << 48)
CASE1(unpack_b32, uint16_t, uint32_t, EXACT,
      ASM("{ .reg .b16 low; mov.b32 {low, %0}, %1; xor.b16 %0, %0, low; }", "=h"(r)
          : "r"(x)),
      uint16_t(x >> 16 ^ x))
CASE1(unpack_b64, uint32_t, uint64_t, EXACT,
      ASM("{ .reg .b32 low; mov.b64 {low, %0}, %1; sub.u32 %0, %0, low; }", "=r"(r)
          : "l"(x)),
      uint32_t(x >> 32) - uint32_t(x))
CASE1(unpack4_b64, uint16_t, uint64_t, EXACT,
      ASM("{ .reg .b16 a, b, c; mov.b64 {a, b, c, %0}, %1; sub.u16 a, a, b; sub.u16 c, c, a; xor.b16 %0, %0, c; }",
          "=h"(r)
          : "l"(x)),
      uint16_t(x >> 48 ^ uint16_t(uint16_t(x >> 32) - uint16_t(uint16_t(x) - uint16_t(x >> 16)))))
CASE2(predicates, uint32_t, uint32_t, uint32_t, EXACT,
      ASM("{ .reg .pred p, q, o; setp.lt.u32 p, %1, %2; setp.gt.u32 q, %1, 99; or.pred o, p, q; and.pred q, p, q; "
          "xor.pred p, o, q; "
          "not.pred o, p; mov.pred q, o; @!p mov.pred q, 0; @p mov.pred q, -1; selp.b32 %0, 5, 9, q; }",
          "=r"(r)
          : "r"(x), "r"(y)),
      (x < y) != (x > 99) ? 5 : 9)
CASE2(set_u32, uint32_t, uint32_t, uint32_t, EXACT,
      ASM("set.gt.u32.u32 %0, %1, %2;", "=r"(r)
          : "r"(x), "r"(y)),
      x > y ? ~0u : 0)

/* --- conversions between integers --------------------------------------------------------------------------------- */

#define CVT(d, R, cr, s, X, cx)                                                                                        \
    CASE1(cvt_##d##_##s, R, X, EXACT, ASM("cvt." #d "." #s " %0, %1;", "=" cr(r) : cx(x)), R(x))
#define CVT_FROM(s, X, cx)                                                                                             \
    CVT(s16, int16_t, "h", s, X, cx)                                                                                   \
    CVT(u16, uint16_t, "h", s, X, cx)                                                                                  \
    CVT(s32, int32_t, "r", s, X, cx)                                                                                   \
    CVT(u32, uint32_t, "r", s, X, cx)                                                                                  \
    CVT(s64, int64_t, "l", s, X, cx)                                                                                   \
    CVT(u64, uint64_t, "l", s, X, cx)
CVT_FROM(s16, int16_t, "h")
CVT_FROM(u16, uint16_t, "h")
CVT_FROM(s32, int32_t, "r")
CVT_FROM(u32, uint32_t, "r")
CVT_FROM(s64, int64_t, "l")
CVT_FROM(u64, uint64_t, "l")
CASE1(cvt_u32_u8, uint32_t, uint32_t, EXACT, ASM("cvt.u32.u8 %0, %1;", "=r"(r) : "r"(x)), x & 255)
CASE1(cvt_s32_s8, int32_t, int32_t, EXACT, ASM("cvt.s32.s8 %0, %1;", "=r"(r) : "r"(x)), int8_t(x))
CASE1(cvt_s16_s8, int16_t, uint32_t, EXACT, ASM("cvt.s16.s8 %0, %1;", "=h"(r) : "r"(x)), int8_t(x))
CASE1(cvt_u16_u8, uint16_t, uint16_t, EXACT, ASM("cvt.u16.u8 %0, %1;", "=h"(r) : "h"(x)), x & 255)
CASE1(cvt_s8_s32, int32_t, int32_t, EXACT, ASM("cvt.s8.s32 %0, %1;", "=r"(r) : "r"(x)), int8_t(x))
CASE1(cvt_u8_u32, uint32_t, uint32_t, EXACT, ASM("cvt.u8.u32 %0, %1;", "=r"(r) : "r"(x)), x & 255)
CASE1(cvt_sat_s8_s32, int32_t, int32_t, EXACT,
      ASM("cvt.sat.s8.s32 %0, %1;", "=r"(r)
          : "r"(x)),
      x<-128 ? -128 : x> 127 ? 127 : x)
CASE1(cvt_sat_u8_s32, int32_t, int32_t, EXACT,
      ASM("cvt.sat.u8.s32 %0, %1;", "=r"(r)
          : "r"(x)),
      x<0 ? 0 : x> 255 ? 255 : x)
CASE1(cvt_sat_s32_s64, int32_t, int64_t, EXACT, ASM("cvt.sat.s32.s64 %0, %1;", "=r"(r) : "l"(x)), clamp_s32(x))
CASE1(cvt_sat_u32_s32, uint32_t, int32_t, EXACT,
      ASM("cvt.sat.u32.s32 %0, %1;", "=r"(r)
          : "r"(x)),
      x < 0 ? 0 : uint32_t(x))

/* --- f32 and f64 -------------------------------------------------------------------------------------------------- */

#define REAL2(id, op, t, T, c, cmp, expect)                                                                            \
    CASE2(id, T, T, T, cmp, ASM(op "." #t " %0, %1, %2;", "=" c(r) : c(x), c(y)), expect)
#define ROUNDED(mode, how)                                                                                             \
    REAL2(add_##mode##_f32, "add." #mode, f32, float, "f", F32, with_rounding(how, [=] { return V(x) + V(y); }))       \
    REAL2(sub_##mode##_f32, "sub." #mode, f32, float, "f", F32, with_rounding(how, [=] { return V(x) - V(y); }))       \
    REAL2(mul_##mode##_f32, "mul." #mode, f32, float, "f", F32, with_rounding(how, [=] { return V(x) * V(y); }))       \
    REAL2(div_##mode##_f32, "div." #mode, f32, float, "f", F32, with_rounding(how, [=] { return V(x) / V(y); }))       \
    CASE3(fma_##mode##_f32, float, float, float, float, F32,                                                           \
          ASM("fma." #mode ".f32 %0, %1, %2, %3;", "=f"(r)                                                             \
              : "f"(x), "f"(y), "f"(z)),                                                                               \
          with_rounding(how, [=] { return fused(V(x), V(y), V(z)); }))                                                 \
    CASE1(rcp_##mode##_f32, float, float, F32,                                                                         \
          ASM("rcp." #mode ".f32 %0, %1;", "=f"(r)                                                                     \
              : "f"(x)),                                                                                               \
          with_rounding(how, [=] { return V(1.0f) / V(x); }))                                                          \
    CASE1(sqrt_##mode##_f32, float, float, F32,                                                                        \
          ASM("sqrt." #mode ".f32 %0, %1;", "=f"(r)                                                                    \
              : "f"(x)),                                                                                               \
          with_rounding(how, [=] { return square_root(V(x)); }))                                                       \
    REAL2(add_##mode##_f64, "add." #mode, f64, double, "d", F64, with_rounding(how, [=] { return V(x) + V(y); }))      \
    REAL2(mul_##mode##_f64, "mul." #mode, f64, double, "d", F64, with_rounding(how, [=] { return V(x) * V(y); }))      \
    REAL2(div_##mode##_f64, "div." #mode, f64, double, "d", F64, with_rounding(how, [=] { return V(x) / V(y); }))      \
    CASE3(fma_##mode##_f64, double, double, double, double, F64,                                                       \
          ASM("fma." #mode ".f64 %0, %1, %2, %3;", "=d"(r)                                                             \
              : "d"(x), "d"(y), "d"(z)),                                                                               \
          with_rounding(how, [=] { return fused(V(x), V(y), V(z)); }))
ROUNDED(rn, NEAREST)
ROUNDED(rz, ZERO)
ROUNDED(rm, DOWN)
ROUNDED(rp, UP)

REAL2(add_f32, "add", f32, float, "f", F32, x + y)
REAL2(sub_f32, "sub", f32, float, "f", F32, x - y)
REAL2(mul_f32, "mul", f32, float, "f", F32, x *y)
REAL2(add_ftz_f32, "add.ftz", f32, float, "f", F32, flush(flush(x) + flush(y)))
REAL2(mul_ftz_f32, "mul.ftz", f32, float, "f", F32, flush(flush(x) * flush(y)))
REAL2(add_sat_f32, "add.sat", f32, float, "f", F32, saturate(x + y))
REAL2(mul_ftz_sat_f32, "mul.ftz.sat", f32, float, "f", F32, saturate(flush(flush(x) * flush(y))))
REAL2(min_f32, "min", f32, float, "f", F32, smaller(x, y))
REAL2(max_f32, "max", f32, float, "f", F32, larger(x, y))
REAL2(min_nan_f32, "min.NaN", f32, float, "f", F32, x != x || y != y ? NAN : smaller(x, y))
REAL2(max_nan_f32, "max.NaN", f32, float, "f", F32, x != x || y != y ? NAN : larger(x, y))
REAL2(min_f64, "min", f64, double, "d", F64, smaller(x, y))
REAL2(max_f64, "max", f64, double, "d", F64, larger(x, y))
REAL2(copysign_f32, "copysign", f32, float, "f", F32, std::copysign(y, x))
REAL2(copysign_f64, "copysign", f64, double, "d", F64, std::copysign(y, x))
CASE3(fma_ftz_f32, float, float, float, float, F32,
      ASM("fma.rn.ftz.f32 %0, %1, %2, %3;", "=f"(r)
          : "f"(x), "f"(y), "f"(z)),
      flush(fused(flush(x), flush(y), flush(z))))
CASE3(fma_sat_f32, float, float, float, float, F32,
      ASM("fma.rn.sat.f32 %0, %1, %2, %3;", "=f"(r)
          : "f"(x), "f"(y), "f"(z)),
      saturate(fused(x, y, z)))
CASE1(neg_f32, float, float, F32, ASM("neg.f32 %0, %1;", "=f"(r) : "f"(x)), -x)
CASE1(abs_f32, float, float, F32, ASM("abs.f32 %0, %1;", "=f"(r) : "f"(x)), std::fabs(x))
CASE1(neg_f64, double, double, F64, ASM("neg.f64 %0, %1;", "=d"(r) : "d"(x)), -x)
CASE1(abs_f64, double, double, F64, ASM("abs.f64 %0, %1;", "=d"(r) : "d"(x)), std::fabs(x))
CASE1(sqrt_f64, double, double, F64, ASM("sqrt.rn.f64 %0, %1;", "=d"(r) : "d"(x)), std::sqrt(x))
CASE1(rcp_f64, double, double, F64, ASM("rcp.rn.f64 %0, %1;", "=d"(r) : "d"(x)), 1 / x)

#define ORDER(op, expect)                                                                                              \
    CASE2(setp_##op##_f32, uint32_t, float, float, EXACT,                                                              \
          ASM("{ .reg .pred p; setp." #op ".f32 p, %1, %2; selp.u32 %0, 1, 0, p; }", "=r"(r)                           \
              : "f"(x), "f"(y)),                                                                                       \
          expect)                                                                                                      \
    CASE2(setp_##op##_f64, uint32_t, double, double, EXACT,                                                            \
          ASM("{ .reg .pred p; setp." #op ".f64 p, %1, %2; selp.u32 %0, 1, 0, p; }", "=r"(r)                           \
              : "d"(x), "d"(y)),                                                                                       \
          expect)
#define NAN_AMONG (x != x || y != y)
ORDER(eq, x == y)
ORDER(ne, !NAN_AMONG && x != y)
ORDER(lt, x < y)
ORDER(le, x <= y)
ORDER(gt, x > y)
ORDER(ge, x >= y)
ORDER(equ, NAN_AMONG || x == y)
ORDER(neu, NAN_AMONG || x != y)
ORDER(ltu, NAN_AMONG || x < y)
ORDER(leu, NAN_AMONG || x <= y)
ORDER(gtu, NAN_AMONG || x > y)
ORDER(geu, NAN_AMONG || x >= y)
ORDER(num, !NAN_AMONG)
ORDER(nan, NAN_AMONG)
CASE2(setp_lt_ftz_f32, uint32_t, float, float, EXACT,
      ASM("{ .reg .pred p; setp.lt.ftz.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }", "=r"(r)
          : "f"(x), "f"(y)),
      flush(x) < flush(y))
CASE2(set_f32_f32, float, float, float, F32,
      ASM("set.gtu.f32.f32 %0, %1, %2;", "=f"(r)
          : "f"(x), "f"(y)),
      !(x <= y) ? 1 : 0)
CASE2(selp_f32, float, float, float, F32,
      ASM("{ .reg .pred p; setp.gt.f32 p, %1, 0f3F800000; selp.f32 %0, %1, %2, p; }", "=f"(r)
          : "f"(x), "f"(y)),
      x > 1 ? x : y)
CASE3(slct_f32, float, float, float, float, F32,
      ASM("slct.f32.f32 %0, %1, %2, %3;", "=f"(r)
          : "f"(x), "f"(y), "f"(z)),
      z >= 0 ? x : y)

/* --- approximations ----------------------------------------------------------------------------------------------- */

#define APPROX(op, n, f)                                                                                               \
    CASE1(op##_approx, float, float, ULP(n), ASM(#op ".approx.f32 %0, %1;", "=f"(r) : "f"(x)), float(f(x)))            \
    CASE1(op##_approx_ftz, float, float, ULP(n),                                                                       \
          ASM(#op ".approx.ftz.f32 %0, %1;", "=f"(r)                                                                   \
              : "f"(x)),                                                                                               \
          flush(float(f(flush(x)))))
APPROX(ex2, 1, in_double::exp2)
APPROX(lg2, 1, in_double::log2)
APPROX(rcp, 1, in_double::reciprocal)
APPROX(sqrt, 1, in_double::root)
APPROX(rsqrt, 1, in_double::inverse_root)
APPROX(sin, 1, in_double::sin)
APPROX(cos, 1, in_double::cos)
CASE1(tanh_approx, float, float, ULP(1), ASM("tanh.approx.f32 %0, %1;", "=f"(r) : "f"(x)), float(std::tanh(double(x))))
CASE2(div_full, float, float, float, ULP(2), ASM("div.full.f32 %0, %1, %2;", "=f"(r) : "f"(x), "f"(y)), x / y)
CASE2(div_approx, float, float, float, ULP(2),
      ASM("div.approx.f32 %0, %1, %2;", "=f"(r)
          : "f"(x), "f"(y)),
      divide_approx(x, y))
/* From libdevice, many instructions each; the ulps are those of the CUDA programming guide, plus one for the approximations. */
CASE1(device_expf, float, float, ULP(3), r = expf(x), float(std::exp(double(x))))
CASE1(device_erff, float, float, ULP(3), r = erff(x), float(std::erf(double(x))))
CASE1(device_tanhf, float, float, ULP(3), r = tanhf(x), float(std::tanh(double(x))))
CASE1(device_logf, float, float, ULP(2), r = logf(x), float(std::log(double(x))))
CASE1(device_sinf, float, float, ULP(3), r = sinf(x), float(std::sin(double(x))))
CASE1(device_exp, double, double, ULP(2), r = exp(x), std::exp(x))
CASE1(device_erf, double, double, ULP(3), r = erf(x), std::erf(x))
CASE2(device_fmod, float, float, float, F32, r = fmodf(x, y), std::fmod(x, y))

/* --- f16 and bf16 ------------------------------------------------------------------------------------------------- */

#define HALVES(t, F)                                                                                                   \
    CASE1(cvt_f32_##t##_bits, float, uint16_t, F32, r = F##_TO_FLOAT(x), value(F(), x))                                \
    CASE1(cvt_rn_##t##_f32, uint16_t, float, F, ASM("cvt.rn." #t ".f32 %0, %1;", "=h"(r) : "f"(x)), nearest(F(), x))   \
    CASE1(cvt_rz_##t##_f32, uint16_t, float, F,                                                                        \
          ASM("cvt.rz." #t ".f32 %0, %1;", "=h"(r)                                                                     \
              : "f"(x)),                                                                                               \
          rounded(F(), x, ZERO))                                                                                       \
    CASE2(cvt_rn_##t##x2_f32, uint32_t, float, float, F##X2,                                                           \
          ASM("cvt.rn." #t "x2.f32 %0, %1, %2;", "=r"(r)                                                               \
              : "f"(x), "f"(y)),                                                                                       \
          nearest(F(), y) | uint32_t(nearest(F(), x)) << 16)                                                           \
    CASE2(cvt_rn_relu_##t##x2_f32, uint32_t, float, float, F##X2,                                                      \
          ASM("cvt.rn.relu." #t "x2.f32 %0, %1, %2;", "=r"(r)                                                          \
              : "f"(x), "f"(y)),                                                                                       \
          nearest(F(), y <= 0 ? 0 : y) | uint32_t(nearest(F(), x <= 0 ? 0 : x)) << 16)                                 \
    CASE3(fma_##t, uint16_t, uint16_t, uint16_t, uint16_t, F,                                                          \
          ASM("fma.rn." #t " %0, %1, %2, %3;", "=h"(r)                                                                 \
              : "h"(x), "h"(y), "h"(z)),                                                                               \
          fused(F(), x, y, z))                                                                                         \
    CASE3(fma_relu_##t, uint16_t, uint16_t, uint16_t, uint16_t, F,                                                     \
          ASM("fma.rn.relu." #t " %0, %1, %2, %3;", "=h"(r)                                                            \
              : "h"(x), "h"(y), "h"(z)),                                                                               \
          relu(F(), fused(F(), x, y, z)))                                                                              \
    CASE3(fma_##t##x2, uint32_t, uint32_t, uint32_t, uint32_t, F##X2,                                                  \
          ASM("fma.rn." #t "x2 %0, %1, %2, %3;", "=r"(r)                                                               \
              : "r"(x), "r"(y), "r"(z)),                                                                               \
          fused2(F(), x, y, z))                                                                                        \
    CASE1(neg_##t, uint16_t, uint16_t, F, ASM("neg." #t " %0, %1;", "=h"(r) : "h"(x)), x ^ 0x8000)                     \
    CASE1(abs_##t, uint16_t, uint16_t, F, ASM("abs." #t " %0, %1;", "=h"(r) : "h"(x)), x & 0x7fff)                     \
    CASE2(min_##t, uint16_t, uint16_t, uint16_t, F,                                                                    \
          ASM("min." #t " %0, %1, %2;", "=h"(r)                                                                        \
              : "h"(x), "h"(y)),                                                                                       \
          nearest(F(), smaller(value(F(), x), value(F(), y))))                                                         \
    CASE2(max_##t, uint16_t, uint16_t, uint16_t, F,                                                                    \
          ASM("max." #t " %0, %1, %2;", "=h"(r)                                                                        \
              : "h"(x), "h"(y)),                                                                                       \
          nearest(F(), larger(value(F(), x), value(F(), y))))                                                          \
    CASE2(max_nan_##t, uint16_t, uint16_t, uint16_t, F,                                                                \
          ASM("max.NaN." #t " %0, %1, %2;", "=h"(r)                                                                    \
              : "h"(x), "h"(y)),                                                                                       \
          is_nan(F(), x) || is_nan(F(), y) ? 0x7fff : nearest(F(), larger(value(F(), x), value(F(), y))))              \
    CASE2(max_##t##x2, uint32_t, uint32_t, uint32_t, F##X2,                                                            \
          ASM("max." #t "x2 %0, %1, %2;", "=r"(r)                                                                      \
              : "r"(x), "r"(y)),                                                                                       \
          larger2(F(), x, y))
HALVES(f16, F16)
HALVES(bf16, BF16)

#define HALF_OP(op, sign)                                                                                              \
    CASE2(op##_f16, uint16_t, uint16_t, uint16_t, F16,                                                                 \
          ASM(#op ".f16 %0, %1, %2;", "=h"(r)                                                                          \
              : "h"(x), "h"(y)),                                                                                       \
          nearest(F16(), double(value(F16(), x)) sign double(value(F16(), y))))                                        \
    CASE2(op##_f16x2, uint32_t, uint32_t, uint32_t, F16X2,                                                             \
          ASM(#op ".f16x2 %0, %1, %2;", "=r"(r)                                                                        \
              : "r"(x), "r"(y)),                                                                                       \
          nearest(F16(), double(value(F16(), uint16_t(x))) sign double(value(F16(), uint16_t(y)))) |                   \
              uint32_t(nearest(F16(), double(value(F16(), x >> 16)) sign double(value(F16(), y >> 16)))) << 16)
HALF_OP(add, +)
HALF_OP(sub, -)
HALF_OP(mul, *)
CASE2(add_sat_f16, uint16_t, uint16_t, uint16_t, F16,
      ASM("add.sat.f16 %0, %1, %2;", "=h"(r)
          : "h"(x), "h"(y)),
      nearest(F16(), saturate(value(F16(), x) + value(F16(), y))))
CASE2(setp_gt_f16, uint32_t, uint16_t, uint16_t, EXACT,
      ASM("{ .reg .pred p; setp.gt.f16 p, %1, %2; selp.u32 %0, 1, 0, p; }", "=r"(r)
          : "h"(x), "h"(y)),
      value(F16(), x) > value(F16(), y))
CASE2(setp_neu_bf16, uint32_t, uint16_t, uint16_t, EXACT,
      r = __nv_bfloat16(__nv_bfloat16_raw{x}) != __nv_bfloat16(__nv_bfloat16_raw{y}),
      !(value(BF16(), x) == value(BF16(), y)))
CASE1(ex2_f16, uint16_t, uint16_t, F16,
      ASM("ex2.approx.f16 %0, %1;", "=h"(r)
          : "h"(x)),
      nearest(F16(), float(std::exp2(double(value(F16(), x))))))
CASE1(tanh_f16, uint16_t, uint16_t, F16,
      ASM("tanh.approx.f16 %0, %1;", "=h"(r)
          : "h"(x)),
      nearest(F16(), float(std::tanh(double(value(F16(), x))))))
CASE1(cvt_rz_f16_f64, uint16_t, double, F16, ASM("cvt.rz.f16.f64 %0, %1;", "=h"(r) : "d"(x)), rounded(F16(), x, ZERO))
CASE1(cvt_rm_f16_f32, uint16_t, float, F16, ASM("cvt.rm.f16.f32 %0, %1;", "=h"(r) : "f"(x)), rounded(F16(), x, DOWN))
CASE1(cvt_rp_f16_f32, uint16_t, float, F16, ASM("cvt.rp.f16.f32 %0, %1;", "=h"(r) : "f"(x)), rounded(F16(), x, UP))
CASE1(cvt_rn_f16_s32, uint16_t, int32_t, F16, ASM("cvt.rn.f16.s32 %0, %1;", "=h"(r) : "r"(x)), nearest(F16(), x))
CASE1(cvt_rn_f16_u64, uint16_t, uint64_t, F16, ASM("cvt.rn.f16.u64 %0, %1;", "=h"(r) : "l"(x)), nearest(F16(), x))
CASE1(cvt_rzi_s32_f16, int32_t, uint16_t, EXACT,
      ASM("cvt.rzi.s32.f16 %0, %1;", "=r"(r)
          : "h"(x)),
      to_integer<int32_t>(value(F16(), x), ZERO))
CASE1(cvt_rni_s32_f16, int32_t, uint16_t, EXACT,
      ASM("cvt.rni.s32.f16 %0, %1;", "=r"(r)
          : "h"(x)),
      to_integer<int32_t>(value(F16(), x), NEAREST))
CASE1(cvt_f64_f16, double, uint16_t, F64, ASM("cvt.f64.f16 %0, %1;", "=d"(r) : "h"(x)), value(F16(), x))

/* --- conversions between floats and integers ---------------------------------------------------------------------- */

#define TO_INTEGER(mode, how, s, X, cx, K)                                                                             \
    CASE1(cvt_##mode##_s32_##s, int32_t, X, EXACT,                                                                     \
          ASM("cvt." #mode ".s32." #s " %0, %1;", "=r"(r)                                                              \
              : cx(x)),                                                                                                \
          to_integer<int32_t>(x, how))                                                                                 \
    CASE1(cvt_##mode##_u32_##s, uint32_t, X, EXACT,                                                                    \
          ASM("cvt." #mode ".u32." #s " %0, %1;", "=r"(r)                                                              \
              : cx(x)),                                                                                                \
          to_integer<uint32_t>(x, how))                                                                                \
    CASE1(cvt_##mode##_s64_##s, int64_t, X, EXACT,                                                                     \
          ASM("cvt." #mode ".s64." #s " %0, %1;", "=l"(r)                                                              \
              : cx(x)),                                                                                                \
          to_integer<int64_t>(x, how))                                                                                 \
    CASE1(cvt_##mode##_u64_##s, uint64_t, X, EXACT,                                                                    \
          ASM("cvt." #mode ".u64." #s " %0, %1;", "=l"(r)                                                              \
              : cx(x)),                                                                                                \
          to_integer<uint64_t>(x, how))                                                                                \
    CASE1(cvt_##mode##_##s##_##s, X, X, K,                                                                             \
          ASM("cvt." #mode "." #s "." #s " %0, %1;", "=" cx(r)                                                         \
              : cx(x)),                                                                                                \
          to_whole(x, how))
#define TO_INTEGERS(s, X, cx, K)                                                                                       \
    TO_INTEGER(rni, NEAREST, s, X, cx, K)                                                                              \
    TO_INTEGER(rzi, ZERO, s, X, cx, K)                                                                                 \
    TO_INTEGER(rmi, DOWN, s, X, cx, K)                                                                                 \
    TO_INTEGER(rpi, UP, s, X, cx, K)
TO_INTEGERS(f32, float, "f", F32)
TO_INTEGERS(f64, double, "d", F64)
#define TO_REAL(mode, how, s, X, cx)                                                                                   \
    CASE1(cvt_##mode##_f32_##s, float, X, F32,                                                                         \
          ASM("cvt." #mode ".f32." #s " %0, %1;", "=f"(r)                                                              \
              : cx(x)),                                                                                                \
          with_rounding(how, [=] { return float(V(x)); }))
#define TO_REALS(s, X, cx)                                                                                             \
    TO_REAL(rn, NEAREST, s, X, cx)                                                                                     \
    TO_REAL(rz, ZERO, s, X, cx)                                                                                        \
    TO_REAL(rm, DOWN, s, X, cx)                                                                                        \
    TO_REAL(rp, UP, s, X, cx)                                                                                          \
    CASE1(cvt_rn_f64_##s, double, X, F64, ASM("cvt.rn.f64." #s " %0, %1;", "=d"(r) : cx(x)), double(x))
TO_REALS(s32, int32_t, "r")
TO_REALS(u32, uint32_t, "r")
TO_REALS(s64, int64_t, "l")
TO_REALS(u64, uint64_t, "l")
TO_REAL(rn, NEAREST, f64, double, "d")
TO_REAL(rz, ZERO, f64, double, "d")
TO_REAL(rm, DOWN, f64, double, "d")
TO_REAL(rp, UP, f64, double, "d")
CASE1(cvt_rn_f32_s16, float, int16_t, F32, ASM("cvt.rn.f32.s16 %0, %1;", "=f"(r) : "h"(x)), float(x))
CASE1(cvt_rn_f32_u16, float, uint16_t, F32, ASM("cvt.rn.f32.u16 %0, %1;", "=f"(r) : "h"(x)), float(x))
CASE1(cvt_rn_f32_s8, float, int32_t, F32, ASM("cvt.rn.f32.s8 %0, %1;", "=f"(r) : "r"(x)), float(int8_t(x)))
CASE1(cvt_f64_f32, double, float, F64, ASM("cvt.f64.f32 %0, %1;", "=d"(r) : "f"(x)), double(x))
CASE1(cvt_sat_f32_f32, float, float, F32, ASM("cvt.sat.f32.f32 %0, %1;", "=f"(r) : "f"(x)), saturate(x))
CASE1(cvt_ftz_f32_f32, float, float, F32, ASM("cvt.ftz.f32.f32 %0, %1;", "=f"(r) : "f"(x)), flush(x))
