/* ptx_alu_pick - which of the two compilations of the arithmetic this processor gets. EMU_GENERIC=1 takes the plain one. */
#include <cstdlib>
#include <unordered_map>

#include "ptx_lanes.h"

namespace
{

struct picked {
    std::unordered_map<std::string, const ptx_alu_entry *> by_name;
    ptx_handler cvt;

    void add(const ptx_alu_table &t)
    {
        for (size_t k = 0; k < t.n; k++)
            by_name[t.entries[k].name] = &t.entries[k];
    }

    picked()
    {
        bool avx2 = !getenv("EMU_GENERIC") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
        ptx_alu_table t = avx2 ? ptx_avx2::alu_table() : ptx_generic::alu_table();
        cvt = t.cvt;
        add(t);
        add(avx2 ? ptx_avx2::mma_table() : ptx_generic::mma_table());
    }
};

const picked &table()
{
    static const picked p;
    return p;
}

} // namespace

const ptx_alu_entry *ptx_alu_find(const std::string &name)
{
    auto it = table().by_name.find(name);
    return it == table().by_name.end() ? nullptr : it->second;
}

ptx_handler ptx_cvt_handler()
{
    return table().cvt;
}
