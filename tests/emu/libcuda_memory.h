/* libcuda_memory - the books on memory, for the files that keep them: addresses and allocations (libcuda_memory.cpp), virtual
 * memory management (libcuda_vmm.cpp), pinned host memory (libcuda_pinned.cpp). */
#ifndef ROUSE_EMU_LIBCUDA_MEMORY_H
#define ROUSE_EMU_LIBCUDA_MEMORY_H

#include "libcuda_state.h"

constexpr uint64_t PAGE = 4096;
constexpr uint64_t FIRST_ADDRESS = 0x200000000000ull;
/* Where a program may ask for an address: not among the lowest, and not where the interpreter has its own. */
constexpr uint64_t HINT_BEGIN = 0x1000000000ull, HINT_END = 0x7e0000000000ull;
constexpr uint64_t WINDOW_BEGIN = 0x7000000000ull, WINDOW_END = 0x8000000000ull;

struct reservation {
    uint64_t begin, bytes;
    uint8_t *mirror;
};

struct physical {
    uint64_t bytes;
    uint8_t *home;              /* its pages while it is not mapped */
    uint64_t mapped_at;         /* 0: nowhere */
    bool released, alive, used; /* used: was mapped before, so it may hold what was written then */
};

struct mapping {
    uint64_t begin, bytes;
    CUmemGenericAllocationHandle handle;
    bool readable, writable;
    uint64_t allocation;
};

struct allocation {
    uint64_t begin, bytes;
    uint8_t *host;
    uint64_t number;
};

struct pinned {
    uint64_t begin, bytes;
    uint8_t *alias;
    bool registered, shadowed;
    uint64_t number;
    std::vector<uint32_t> n_protected; /* per page */
};

/* A variable of a module: the interpreter keeps it, copies reach it. */
struct variable {
    uint64_t begin, bytes;
    uint8_t *host;
    bool writable;
};

struct grave {
    uint64_t end;
    const char *name;
    std::string text;
};

struct memory_state {
    std::map<uint64_t, reservation> reservations;
    std::unordered_map<CUmemGenericAllocationHandle, physical> handles;
    std::map<uint64_t, mapping> mappings;
    std::map<uint64_t, allocation> allocations;
    std::map<uint64_t, pinned> pins;
    std::map<uint64_t, variable> variables;
    std::map<uint64_t, grave> graves;
    uint64_t next_address = FIRST_ADDRESS, next_handle = 1, next_number = 1;
    uint64_t used_bytes = 0;
};

memory_state &mem();

/* The last entry that begins at or before address, if it reaches it. */
template <class T> T *around(std::map<uint64_t, T> &map, uint64_t address)
{
    auto it = map.upper_bound(address);
    if (it == map.begin())
        return nullptr;
    --it;
    return address < it->second.begin + it->second.bytes ? &it->second : nullptr;
}

template <class T> bool overlaps(const std::map<uint64_t, T> &map, uint64_t begin, uint64_t bytes)
{
    auto it = map.lower_bound(begin + bytes);
    if (it == map.begin())
        return false;
    --it;
    return it->second.begin + it->second.bytes > begin;
}

inline uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Pages of this process, fresh; without access; from one place to another, leaving such without access behind. NULL: no room. */
uint8_t *pages_new(uint64_t bytes);
uint8_t *pages_reserve(uint64_t bytes);
void pages_move(uint8_t *to, uint8_t *from, uint64_t bytes);

/* Keeps addresses of the device from being anything else in this process. False: they are. */
bool hold_addresses(uint64_t address, uint64_t bytes);
void let_go_of_addresses(uint64_t address, uint64_t bytes);
uint64_t new_addresses(uint64_t bytes, uint64_t alignment); /* 0: no room */
/* What is gone, and as what a later touch is reported. */
void bury(uint64_t begin, uint64_t bytes, const char *name, std::string text);
bool take_memory(uint64_t bytes); /* of the device's; false: there is not so much left */

#endif
