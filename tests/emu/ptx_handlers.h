/* ptx_handlers - the handlers that need more of a warp than its rows: memory, and lanes that look at each other. */
#ifndef ROUSE_EMU_PTX_HANDLERS_H
#define ROUSE_EMU_PTX_HANDLERS_H

#include "ptx_module.h"

/* Places in ptx_inst.row that these handlers and the executor agree on. */
constexpr int PTX_AT_ADDRESS = 4; /* ld, st, atom; cp.async: the shared side */
constexpr int PTX_AT_SOURCE = 5;  /* cp.async: the global side */
constexpr int PTX_AT_SIZE = 6;    /* cp.async: bytes to read, or the predicate that ignores the source */
constexpr int PTX_AT_MASK = 8;    /* the lanes that take part, for PTX_WARP_SYNC */

enum ptx_atom_op : uint8_t {
    PTX_ATOM_ADD,
    PTX_ATOM_MIN,
    PTX_ATOM_MAX,
    PTX_ATOM_INC,
    PTX_ATOM_DEC,
    PTX_ATOM_AND,
    PTX_ATOM_OR,
    PTX_ATOM_XOR,
    PTX_ATOM_EXCH,
    PTX_ATOM_CAS
};
enum ptx_shfl_mode : uint8_t { PTX_SHFL_UP, PTX_SHFL_DOWN, PTX_SHFL_BFLY, PTX_SHFL_IDX };
enum ptx_vote_mode : uint8_t { PTX_VOTE_ALL, PTX_VOTE_ANY, PTX_VOTE_UNI, PTX_VOTE_BALLOT };
enum ptx_redux_op : uint8_t { PTX_REDUX_ADD, PTX_REDUX_MIN, PTX_REDUX_MAX, PTX_REDUX_AND, PTX_REDUX_OR, PTX_REDUX_XOR };
enum ptx_cp_form : uint8_t { PTX_CP_WHOLE, PTX_CP_BYTES, PTX_CP_IGNORE };
enum ptx_bar_reduce : uint8_t { PTX_BAR_PLAIN, PTX_BAR_POPC, PTX_BAR_AND, PTX_BAR_OR };

void ptx_do_nothing(ptx_lanes &, const ptx_inst &);
void ptx_do_ld(ptx_lanes &, const ptx_inst &);
void ptx_do_ld_param(ptx_lanes &, const ptx_inst &); /* at offset, checked when it was parsed */
void ptx_do_ld_param_by_register(ptx_lanes &, const ptx_inst &);
void ptx_do_st(ptx_lanes &, const ptx_inst &);
void ptx_do_atom(ptx_lanes &, const ptx_inst &);
void ptx_do_cp_async(ptx_lanes &, const ptx_inst &);
void ptx_do_cp_commit(ptx_lanes &, const ptx_inst &);
void ptx_do_cp_wait(ptx_lanes &, const ptx_inst &); /* offset: groups that may stay, -1: none, committed or not */
void ptx_do_ldmatrix(ptx_lanes &, const ptx_inst &);
void ptx_do_isspacep(ptx_lanes &, const ptx_inst &);
void ptx_do_shfl(ptx_lanes &, const ptx_inst &);
void ptx_do_vote(ptx_lanes &, const ptx_inst &);
void ptx_do_match_any(ptx_lanes &, const ptx_inst &);
void ptx_do_match_all(ptx_lanes &, const ptx_inst &);
void ptx_do_redux(ptx_lanes &, const ptx_inst &);
void ptx_do_activemask(ptx_lanes &, const ptx_inst &);
void ptx_do_warp_sync(ptx_lanes &, const ptx_inst &);

#endif
