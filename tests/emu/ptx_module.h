/* ptx_module - what the parser makes of PTX text, and what the executor runs.
 *
 * An operand is a row: one value for each of the 32 lanes, of 2, 4 or 8 bytes, or one mask of 32 bits for a predicate.
 * Immediates, addresses of symbols and kernel-wide special registers are rows too, in the kernel's constants, so that a
 * handler never asks what kind of operand it has. A row is named by its byte offset, with the top bit set for constants. */
#ifndef ROUSE_EMU_PTX_MODULE_H
#define ROUSE_EMU_PTX_MODULE_H

#include <map>
#include <unordered_map>

#include "ptx.h"

constexpr int PTX_LANES = 32;
constexpr uint32_t PTX_ALL_LANES = ~0u;
constexpr uint32_t PTX_CONSTANT = 1u << 31; /* in a row's name */

/* Windows of the generic address space that are not device memory. */
constexpr uint64_t PTX_WINDOW_BYTES = 1ull << 30;
constexpr uint64_t PTX_LOCAL_WINDOW = PTX_SHARED_WINDOW + PTX_WINDOW_BYTES;
constexpr uint64_t PTX_DATA_WINDOW = PTX_LOCAL_WINDOW + PTX_WINDOW_BYTES; /* .global and .const of modules */
constexpr uint64_t PTX_DATA_END = 0x8000000000ull;
constexpr uint64_t PTX_MODULE_DATA_MAX = 1ull << 24;

struct ptx_lanes;
struct ptx_inst;
using ptx_handler = void (*)(ptx_lanes &, const ptx_inst &);

enum ptx_kind : uint8_t {
    PTX_PLAIN,     /* the handler does it for each active lane */
    PTX_WARP_SYNC, /* likewise, once all lanes of the mask operand are here */
    PTX_ALIGNED,   /* likewise, once the whole warp is here */
    PTX_BARRIER,
    PTX_BRANCH,
    PTX_BRANCH_TABLE,
    PTX_EXIT,
    PTX_TRAP,
    PTX_ASSERT
};

enum ptx_space : uint8_t { PTX_GENERIC, PTX_GLOBAL, PTX_SHARED, PTX_LOCAL, PTX_PARAM, PTX_CONST };

/* What the modifiers said; each handler documents by use which of these it reads. */
enum ptx_flag : uint16_t {
    PTX_SIGNED = 1,   /* ld: sign-extend */
    PTX_NC = 2,       /* ld.global.nc */
    PTX_STRONG = 4,   /* .relaxed, .acquire, .release: no race with its like */
    PTX_ADD64 = 8,    /* the address row has 8-byte elements */
    PTX_TRANS = 16,   /* ldmatrix */
    PTX_SECOND = 32,  /* an optional operand is there */
    PTX_FTZ = 64,     /* cvt */
    PTX_SAT = 128,    /* cvt */
    PTX_RELU = 256,   /* cvt */
    PTX_ARRIVE = 512, /* barrier that does not wait */
    PTX_UNIFORM = 1024
};

enum ptx_type : uint8_t {
    PTX_B8,
    PTX_B16,
    PTX_B32,
    PTX_B64,
    PTX_U8,
    PTX_U16,
    PTX_U32,
    PTX_U64,
    PTX_S8,
    PTX_S16,
    PTX_S32,
    PTX_S64,
    PTX_F16,
    PTX_F16X2,
    PTX_BF16,
    PTX_BF16X2,
    PTX_F32,
    PTX_F64,
    PTX_PRED,
    PTX_NO_TYPE
};

constexpr int PTX_OPERANDS_MAX = 16;

struct ptx_inst {
    ptx_handler fn = nullptr;
    ptx_kind kind = PTX_PLAIN;
    uint8_t guard = 0; /* 0: none, 1: @p, 2: @!p */
    ptx_space space = PTX_GENERIC;
    uint8_t bytes = 0;                   /* of one element in memory */
    uint8_t vector = 1;                  /* elements a lane */
    uint8_t row_bytes = 0;               /* of one element in its register; cvt: of the destination */
    uint8_t what = 0;                    /* sub-operation: enum of the handler's family */
    uint8_t fma_flops = 0;               /* a lane */
    uint8_t to = 0, from = 0, round = 0; /* cvt, atom: ptx_type; rounding */
    uint16_t flags = 0;
    uint32_t guard_row = 0;
    uint32_t target = 0;                 /* branch: instruction; brx: index of the table */
    uint32_t index = 0;                  /* of this instruction */
    int64_t offset = 0;                  /* address: + offset */
    uint32_t row[PTX_OPERANDS_MAX] = {}; /* destinations first */
};

struct ptx_symbol { /* a variable: offset from its space's window */
    std::string name;
    ptx_space space;
    uint64_t offset, bytes;
};

/* Special registers that differ between the lanes or warps of a block: rows that the executor fills when a warp starts. */
enum ptx_special : uint8_t {
    PTX_TID_X,
    PTX_TID_Y,
    PTX_TID_Z,
    PTX_NTID_X,
    PTX_NTID_Y,
    PTX_NTID_Z,
    PTX_CTAID_X,
    PTX_CTAID_Y,
    PTX_CTAID_Z,
    PTX_NCTAID_X,
    PTX_NCTAID_Y,
    PTX_NCTAID_Z,
    PTX_LANEID,
    PTX_WARPID,
    PTX_NWARPID,
    PTX_LANEMASK_EQ,
    PTX_LANEMASK_LT,
    PTX_LANEMASK_LE,
    PTX_LANEMASK_GT,
    PTX_LANEMASK_GE,
    PTX_DYNAMIC_SMEM_SIZE,
    PTX_TOTAL_SMEM_SIZE,
    PTX_SPECIALS
};

/* Rows in memory, on 64-byte borders. */
class ptx_row_space
{
  public:
    void resize(size_t n_bytes) { raw.resize(n_bytes / 8 + 8); }
    size_t size() const { return raw.size() < 8 ? 0 : (raw.size() - 8) * 8; }
    uint8_t *data() const
    {
        uintptr_t p = reinterpret_cast<uintptr_t>(raw.data());
        return reinterpret_cast<uint8_t *>((p + 63) / 64 * 64);
    }

  private:
    std::vector<uint64_t> raw;
};

struct ptx_line {
    uint32_t number;
    std::string text;
};

struct ptx_kernel {
    ptx_module *module = nullptr;
    ptx_kernel_info info;
    std::vector<ptx_inst> code;                /* ends with an exit */
    std::vector<ptx_line> lines;               /* [code] */
    std::vector<std::vector<uint32_t>> tables; /* of brx.idx */
    ptx_row_space constants;
    std::vector<std::pair<ptx_special, uint32_t>> specials; /* used ones, with their rows */
    uint32_t register_bytes = 0;
    uint32_t local_bytes = 0;
    uint32_t max_block[3] = {0, 0, 0};      /* .maxntid */
    uint32_t required_block[3] = {0, 0, 0}; /* .reqntid */
    /* Shared memory as the emulator lays it out: a forbidden gap follows each variable. */
    std::vector<ptx_symbol> shared;
    uint32_t dynamic_base = 0;
};

struct ptx_module {
    std::vector<std::unique_ptr<ptx_kernel>> kernels;
    std::vector<uint8_t> data; /* .global and .const variables */
    std::vector<ptx_symbol> symbols;
    uint64_t data_base = 0; /* its generic address: every module has its own */
};

#endif
