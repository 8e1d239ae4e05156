/* ptx_lanes - what a handler of pure arithmetic sees of a warp, and the table of such handlers.
 *
 * The handlers are compiled twice, for any x86-64 of the last decade and for AVX2; ptx_alu_find takes the best that this
 * processor has. Their files hold no library templates: the linker would keep one instance for both. */
#ifndef ROUSE_EMU_PTX_LANES_H
#define ROUSE_EMU_PTX_LANES_H

#include "ptx_module.h"

struct ptx_lanes {
    uint8_t *base[2] = {nullptr, nullptr}; /* registers, constants */
    uint32_t mask = 0;                     /* lanes that execute this instruction */
    bool whole = false;                    /* no lane outside mask still lives: all 32 may be written */
    int jitter_ulps = 0;
    uint64_t noise = 1; /* state of the jitter's generator */
    uint64_t mma_flops = 0;
};

template <class T> inline T *ptx_row(ptx_lanes &w, uint32_t row)
{
    return reinterpret_cast<T *>(w.base[row >> 31] + (row & ~PTX_CONSTANT));
}

constexpr int8_t PTX_W_PRED = 0; /* a width in a signature: a predicate */

struct ptx_alu_entry {
    const char *name; /* "add.s32" */
    ptx_handler fn;
    int8_t n_dst, n_src;
    int8_t width[8];   /* bytes of each operand, destinations first */
    uint8_t fma_flops; /* a lane */
};

/* NULL: no such instruction. */
const ptx_alu_entry *ptx_alu_find(const std::string &name);
/* Of the family for which the parser fills ptx_inst.to, .from, .round, .flags. */
ptx_handler ptx_cvt_handler();

struct ptx_alu_table {
    const ptx_alu_entry *entries;
    size_t n;
    ptx_handler cvt;
};

namespace ptx_generic
{
ptx_alu_table alu_table();
ptx_alu_table mma_table();
} // namespace ptx_generic
namespace ptx_avx2
{
ptx_alu_table alu_table();
ptx_alu_table mma_table();
} // namespace ptx_avx2
#endif
