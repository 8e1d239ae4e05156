#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdbool.h>
#include <string.h>

#include "gpu/cpu/cpu_kernels.h"

static bool has_avx2(void)
{
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    __builtin_cpu_init();
    /* avx2 includes that the system saves the registers; clang has no name for f16c here */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C);
#else
    return false;
#endif
}

int cpu_kernels_pick(const char *name, const struct cpu_kernels **out_kernels, struct base_error *err)
{
    const bool best = !name || strcmp(name, "auto") == 0;
    const bool avx2 = name && strcmp(name, "avx2") == 0;
    if (!best && !avx2 && strcmp(name, "generic") != 0)
        return base_fail(err, ERR_USAGE, "no kernels '%.32s'; known are auto, generic and avx2", name);
    if (avx2 && !has_avx2())
        return base_fail(err, ERR_USAGE, "kernels avx2: this processor lacks AVX2, FMA or F16C; use auto or generic");
    *out_kernels = &cpu_kernels_plain;
#if defined(__x86_64__)
    if (avx2 || (best && has_avx2()))
        *out_kernels = &cpu_kernels_avx2;
#endif
    return 0;
}

size_t cpu_scratch_floats(uint32_t n_cols_max, uint32_t n_positions_max)
{
    const size_t row = n_cols_max; /* plain matmul: a row of weights in f32 */
    const size_t scores = ((size_t)n_positions_max / GPU_BLOCK_TOKENS + 1) * GPU_BLOCK_TOKENS; /* of whole KV blocks */
    size_t n =
        16384; /* loading reads and converts this many at a time: 64 KB, enough for a read, little enough for L2 */
    n = row > n ? row : n;
    n = scores > n ? scores : n;
    return (n + 63) / 64 * 64; /* threads do not share cache lines */
}
