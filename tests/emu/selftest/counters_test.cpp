/* counters_test - sectors, wavefronts, distinct bytes and work of kernels whose traffic can be told by hand; coverage; jitter. */
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "selftest.h"

namespace
{

struct counter_args {
    uint64_t in, out;
    uint32_t stride;
};

class counted
{
  public:
    counted(const ptx_module *module, const char *name, uint32_t stride, uint32_t grid = 1, uint32_t block = 32)
        : m(ptx_options()), k(ptx_find(module, name))
    {
        args = {m.upload(std::vector<float>(1024, 1)), m.memory.alloc(4096), stride};
        ok = m.launch(k, grid, block, args) && m.reports.empty();
    }
    const ptx_counters &counters() const { return m.machine.counters(k); }

    selftest_machine m;
    const ptx_kernel *k;
    counter_args args;
    bool ok;
};

struct expected {
    const char *kernel;
    uint32_t stride, grid;
    uint64_t ptx_counters::*what;
    uint64_t value;
};

using c = ptx_counters;
const expected table[] = {
    {"count_loads", 1, 1, &c::global_load_requests, 1},
    {"count_loads", 1, 1, &c::global_load_sectors, 4},
    {"count_loads", 1, 1, &c::global_load_bytes, 128},
    {"count_loads", 2, 1, &c::global_load_sectors, 8},
    {"count_loads", 32, 1, &c::global_load_sectors, 32},
    {"count_loads", 0, 1, &c::global_load_sectors, 1},
    {"count_loads", 0, 1, &c::global_load_bytes, 128},
    {"count_loads", 1, 4, &c::global_load_sectors, 16},
    {"count_loads", 1, 4, &c::unique_load_bytes, 128}, /* the same for every block */
    {"count_loads", 32, 1, &c::unique_load_bytes, 1024},
    {"count_loads", 1, 4, &c::global_store_requests, 4},
    {"count_loads", 1, 4, &c::unique_store_bytes, 512},
    {"count_loads", 1, 4, &c::blocks, 4},
    {"count_vector_loads", 1, 1, &c::global_load_sectors, 16},
    {"count_vector_loads", 1, 1, &c::global_load_bytes, 512},
    {"count_few_lanes", 1, 1, &c::global_load_bytes, 44},
    {"count_few_lanes", 1, 1, &c::global_load_sectors, 4},
    {"count_banks", 1, 1, &c::shared_requests, 2},
    {"count_banks", 1, 1, &c::shared_wavefronts, 2},
    {"count_banks", 2, 1, &c::shared_wavefronts, 4},
    {"count_banks", 32, 1, &c::shared_wavefronts, 64},
    {"count_banks", 33, 1, &c::shared_wavefronts, 2},
    {"count_banks", 32, 1, &c::shared_wavefronts_min, 2},
    {"count_matrix_banks", 1, 1, &c::shared_wavefronts, 8},
    {"count_matrix_banks", 1, 1, &c::shared_wavefronts_min, 8},
    {"count_matrix_banks", 8, 1, &c::shared_wavefronts, 64},
    {"count_matrix_banks", 9, 1, &c::shared_wavefronts, 8},
    {"count_work", 5, 2, &c::mma_flops, 5 * 2 * 4096},
    {"count_work", 5, 2, &c::fma_flops, 5 * 2 * 64},
    {"count_work", 5, 2, &c::barriers, 10},
};

void table_test(const ptx_module *module, selftest_count &count)
{
    for (const expected &e : table) {
        counted run(module, e.kernel, e.stride, e.grid);
        uint64_t got = run.counters().*e.what;
        count.check(run.ok && got == e.value, std::string(e.kernel) + ", stride " + std::to_string(e.stride),
                    "counted " + std::to_string(got) + ", expected " + std::to_string(e.value) + run.m.said());
    }
}

void partial_warp_test(const ptx_module *module, selftest_count &count)
{
    counted run(module, "count_loads", 1, 1, 7);
    count.check(run.counters().lane_instructions == 7 * run.counters().warp_instructions, "lanes that are not there");
}

void coverage_test(const ptx_module *module, selftest_count &count)
{
    counted run(module, "count_few_lanes", 1, 3);
    const std::vector<uint64_t> &times = run.m.machine.coverage(run.k);
    bool all = times.size() == ptx_info(run.k).n_instructions;
    for (uint32_t i = 0; i < times.size(); i++)
        all &= times[i] == 3;
    count.check(all, "coverage of a kernel that runs three times from end to end");
    std::string last = ptx_machine::instruction_text(run.k, ptx_info(run.k).n_instructions - 1);
    count.check(last.find(": ret;") != std::string::npos, "the text of an instruction", last);
}

void jitter_test(const ptx_module *module, selftest_count &count)
{
    ptx_options options;
    options.jitter_ulps = 2;
    selftest_machine m(options);
    std::vector<float> x(32);
    for (size_t l = 0; l < 32; l++)
        x[l] = static_cast<float>(l) * 0.37f + 0.1f;
    counter_args args = {m.upload(x), m.memory.alloc(4096), 0};
    m.launch(ptx_find(module, "approximate"), 1, 32, args);
    std::vector<float> y = m.download<float>(args.out, 32);
    int moved = 0, furthest = 0;
    for (size_t l = 0; l < 32; l++) {
        float exact = static_cast<float>(std::exp2(static_cast<double>(x[l])));
        int32_t a, b;
        memcpy(&a, &exact, 4);
        memcpy(&b, &y[l], 4);
        moved += a != b;
        furthest = std::max(furthest, std::abs(a - b));
    }
    count.check(moved > 10 && furthest == 2, "jitter",
                std::to_string(moved) + " moved, by " + std::to_string(furthest));
}

} // namespace

void counters_test(const ptx_module *module, selftest_count &count)
{
    table_test(module, count);
    partial_warp_test(module, count);
    coverage_test(module, count);
    jitter_test(module, count);
}
