#include "model/exp_sum.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* x = k ln 2 + r with |r| <= ln 2 / 2; e^x = 2^k e^r.
 * Adding 1.5 * 2^52 rounds to a whole number and leaves k in the low bits; ln 2 comes in two parts, of which k times the
 * first is exact. e^r by Taylor's polynomial of degree 9, whose rest is 7e-12; 2^k by adding k to the exponent. */
#define EXP_LOWEST      (-708.0)
#define EXP_INVERSE_LN2 0x1.71547652b82fep+0
#define EXP_SHIFTER     0x1.8p52
#define EXP_LN2_HIGH    0x1.62e42fee00000p-1
#define EXP_LN2_LOW     0x1.a39ef35793c76p-33

enum { N_EXP_TERMS = 10, N_LANES = 8 };
static const double exp_terms[N_EXP_TERMS] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                              1.0 / 24,     1.0 / 6,     1.0 / 2,    1.0,       1.0};

double model_exp(double x)
{
    if (!(x >= EXP_LOWEST))
        return 0;
    double shifted = x * EXP_INVERSE_LN2 + EXP_SHIFTER, k = shifted - EXP_SHIFTER;
    double r = (x - k * EXP_LN2_HIGH) - k * EXP_LN2_LOW;
    double p = exp_terms[0];
#pragma GCC unroll 9
    for (int i = 1; i < N_EXP_TERMS; i++)
        p = p * r + exp_terms[i];
    uint64_t bits, k_bits;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&k_bits, &shifted, sizeof k_bits);
    bits += k_bits << 52;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* x = 2^k f, f in [sqrt(1/2), sqrt(2)), ln f = 2 atanh((f - 1) / (f + 1)) by its series. */
double model_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int k = (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    double f;
    memcpy(&f, &bits, sizeof f);
    if (f >= 0x1.6a09e667f3bcdp+0) {
        f *= 0.5;
        k++;
    }
    double s = (f - 1) / (f + 1), s2 = s * s, sum = 0;
    for (int odd = 23; odd >= 1; odd -= 2) /* |s| <= 0.1716: the next term is below 2^-60 */
        sum = sum * s2 + 1.0 / odd;
    return k * 0x1.62e42fefa39efp-1 + 2 * s * sum;
}

/* The partial sums and what is left over, in one order for both twins. */
static double exp_sum_finish(const double lanes[N_LANES], const float *scores, uint32_t i, uint32_t n, float max,
                             double scale)
{
    double low = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]), high = (lanes[4] + lanes[5]) + (lanes[6] + lanes[7]);
    double sum = low + high;
    for (; i < n; i++)
        sum += model_exp(((double)scores[i] - (double)max) * scale);
    return sum;
}

double model_exp_sum_plain(const float *scores, uint32_t n, float max, double scale)
{
    double lanes[N_LANES] = {0};
    uint32_t i = 0;
    for (; i + N_LANES <= n; i += N_LANES) {
        for (uint32_t j = 0; j < N_LANES; j++)
            lanes[j] += model_exp(((double)scores[i + j] - (double)max) * scale);
    }
    return exp_sum_finish(lanes, scores, i, n, max, scale);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static inline __m256d exp_avx2(__m256d x)
{
    const __m256d lowest = _mm256_set1_pd(EXP_LOWEST), shifter = _mm256_set1_pd(EXP_SHIFTER);
    __m256d in_range = _mm256_cmp_pd(x, lowest, _CMP_GE_OQ);
    x = _mm256_max_pd(x, lowest);
    __m256d shifted = _mm256_add_pd(_mm256_mul_pd(x, _mm256_set1_pd(EXP_INVERSE_LN2)), shifter);
    __m256d k = _mm256_sub_pd(shifted, shifter);
    __m256d r = _mm256_sub_pd(_mm256_sub_pd(x, _mm256_mul_pd(k, _mm256_set1_pd(EXP_LN2_HIGH))),
                              _mm256_mul_pd(k, _mm256_set1_pd(EXP_LN2_LOW)));
    __m256d p = _mm256_set1_pd(exp_terms[0]);
#pragma GCC unroll 9
    for (int i = 1; i < N_EXP_TERMS; i++)
        p = _mm256_add_pd(_mm256_mul_pd(p, r), _mm256_set1_pd(exp_terms[i]));
    __m256i bits = _mm256_add_epi64(_mm256_castpd_si256(p), _mm256_slli_epi64(_mm256_castpd_si256(shifted), 52));
    return _mm256_and_pd(_mm256_castsi256_pd(bits), in_range);
}

__attribute__((target("avx2"))) static double exp_sum_avx2(const float *scores, uint32_t n, float max, double scale)
{
    const __m256d max4 = _mm256_set1_pd((double)max), scale4 = _mm256_set1_pd(scale);
    __m256d low = _mm256_setzero_pd(), high = low;
    uint32_t i = 0;
    for (; i + N_LANES <= n; i += N_LANES) {
        __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(scores + i)), b = _mm256_cvtps_pd(_mm_loadu_ps(scores + i + 4));
        low = _mm256_add_pd(low, exp_avx2(_mm256_mul_pd(_mm256_sub_pd(a, max4), scale4)));
        high = _mm256_add_pd(high, exp_avx2(_mm256_mul_pd(_mm256_sub_pd(b, max4), scale4)));
    }
    double lanes[N_LANES];
    _mm256_storeu_pd(lanes, low);
    _mm256_storeu_pd(lanes + 4, high);
    /* gcc 12 leaves it out before a call of a static function; all SSE code behind us would run at a fourth of its speed. */
    _mm256_zeroupper();
    return exp_sum_finish(lanes, scores, i, n, max, scale);
}
#endif

double model_exp_sum(const float *scores, uint32_t n, float max, double scale)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return exp_sum_avx2(scores, n, max, scale);
#endif
    return model_exp_sum_plain(scores, n, max, scale);
}
