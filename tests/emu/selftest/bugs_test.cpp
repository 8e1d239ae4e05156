/* bugs_test - each kernel of bugs.cu with a planted bug must be reported under its name, whatever the order of warps and
 * blocks; its correct twin must not be reported at all. */
#include "selftest.h"

namespace
{

struct planted {
    const char *name, *fault;
    uint32_t grid, block;
};

const planted bugs[] = {
    {"missing_barrier", "shared-race", 1, 64},
    {"missing_barrier_before_reuse", "shared-race", 1, 64},
    {"missing_syncwarp", "shared-race", 1, 32},
    {"shuffle_is_no_fence", "shared-race", 1, 32},
    {"half_warp_sync", "shared-race", 1, 32},
    {"named_barrier", "shared-race", 1, 128},
    {"race_in_block", "global-race", 1, 64},
    {"race_between_blocks", "global-race", 4, 32},
    {"reads_another_block", "global-race", 4, 64},
    {"overwrites_what_was_read", "global-race", 4, 64},
    {"plain_beside_atomic", "global-race", 2, 32},
    {"constant_load_of_written", "nc-read-of-written", 1, 64},
    {"shuffle_in_branch", "shuffle-divergence", 1, 32},
    {"shuffle_after_return", "shuffle-divergence", 1, 32},
    {"lane_not_in_its_mask", "mask-mismatch", 1, 32},
    {"masks_differ", "mask-mismatch", 1, 32},
    {"shuffle_from_nobody", "shuffle-inactive-source", 1, 32},
    {"early_return", "early-exit-barrier", 1, 64},
    {"early_return_of_a_warp", "early-exit-barrier", 1, 64},
    {"syncwarp_after_return", "early-exit-barrier", 1, 32},
    {"barrier_in_branch", "barrier-divergence", 1, 64},
    {"barrier_not_for_all", "barrier-divergence", 1, 64},
    {"barrier_counts_differ", "barrier-count", 1, 64},
    {"mma_in_branch", "aligned-divergence", 1, 32},
    {"shared_read_past_end", "shared-bounds", 1, 64},
    {"shared_write_past_end", "shared-bounds", 1, 64},
    {"dynamic_shared_too_small", "shared-bounds", 1, 64},
    {"global_read_past_end", "global-bounds", 2, 64},
    {"global_write_past_end", "global-bounds", 2, 64},
    {"vector_across_the_end", "global-bounds", 1, 32},
    {"index_wraps_at_32_bits", "global-bounds", 1, 32},
    {"block_table_one_too_far", "global-bounds", 1, 64},
    {"local_past_end", "local-bounds", 1, 32},
    {"misaligned_vector", "misaligned", 1, 32},
    {"misaligned_shared_vector", "misaligned", 1, 64},
    {"ldmatrix_misaligned_row", "misaligned", 1, 32},
    {"ldmatrix_past_end", "shared-bounds", 1, 32},
    {"use_after_unmap", "global-bounds", 1, 32},
    {"host_pointer", "global-bounds", 1, 32},
    {"null_pointer", "global-bounds", 1, 32},
    {"store_to_read_only", "read-only-store", 1, 32},
    {"shared_uninitialised", "shared-uninitialised", 1, 64},
    {"global_uninitialised", "global-uninitialised", 1, 64},
    {"local_uninitialised", "local-uninitialised", 1, 32},
    {"copy_unwaited", "cp-async-unwaited", 1, 64},
    {"copy_waited_for_too_few", "cp-async-unwaited", 1, 64},
    {"copy_not_committed", "cp-async-unwaited", 1, 64},
    {"copy_without_barrier", "shared-race", 1, 64},
    {"copy_over_what_is_read", "shared-race", 1, 64},
    {"never_ends", "budget", 1, 32},
    {"failed_assert", "assert", 1, 32},
    {"trapped", "trap", 1, 64},
};

struct bug_args {
    uint64_t in, out, exact, read_only, unmapped, host, table, word;
    uint32_t n;
};

bug_args make_args(selftest_machine &m)
{
    static float host_floats[64];
    std::vector<float> in(1024), read_only(64, 2);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = static_cast<float>(i) * 0.25f;
    bug_args a;
    a.in = m.upload(in);
    a.out = m.memory.alloc(4096);
    a.exact = m.upload(std::vector<float>(96, 1));
    a.read_only = m.memory.alloc(256, false);
    m.machine.host_wrote(a.read_only, 256);
    a.unmapped = m.upload(read_only);
    m.memory.unmap(a.unmapped);
    a.host = reinterpret_cast<uint64_t>(host_floats);
    a.table = m.upload(std::vector<uint32_t>{3, 1, 7, 0, 2, 5, 4, 6});
    a.word = m.upload(std::vector<uint32_t>(4, 0));
    a.n = 64;
    return a;
}

void run(const ptx_module *module, const planted &b, bool bug, uint64_t seed, selftest_count &count)
{
    ptx_options options;
    options.seed = seed;
    options.preempt = seed % 2;
    options.budget = 1000000;
    selftest_machine m(options);
    std::string name = std::string(bug ? "bug_" : "good_") + b.name;
    const ptx_kernel *k = ptx_find(module, name.c_str());
    if (!k)
        return count.check(false, name, "no such kernel");
    bool ended = m.launch(k, b.grid, b.block, make_args(m), 256);
    name += ", seed " + std::to_string(seed);
    if (!bug)
        return count.check(ended && m.reports.empty(), name, "is correct, but reported:" + m.said());
    bool named = false;
    for (auto &r : m.reports)
        named |= r.name == b.fault;
    count.check(named, name, std::string("expected ") + b.fault + ", reported:" + m.said());
    count.check(m.reports.empty() || ended != m.reports.back().sticky, name + ", how it ended", m.said());
}

/* A report must say where: the line of the instruction, the block and the thread. */
void place_test(const ptx_module *module, selftest_count &count)
{
    selftest_machine m({});
    m.launch(ptx_find(module, "bug_global_read_past_end"), 2, 64, make_args(m), 256);
    std::string text = m.reports.empty() ? "" : m.reports[0].text;
    bool whole =
        text.find("ld.global") != std::string::npos && text.find("block (1,0,0) thread (32,0,0)") != std::string::npos;
    count.check(whole && m.reports[0].kernel == "bug_global_read_past_end" && m.reports[0].sticky, "what a report says",
                text);
}

/* Shapes that no card launches. */
void shape_test(const ptx_module *module, selftest_count &count)
{
    const ptx_kernel *k = ptx_find(module, "good_trapped");
    const ptx_launch_args shapes[] = {{{1, 1, 1}, {1025, 1, 1}, 0, nullptr},
                                      {{0, 1, 1}, {32, 1, 1}, 0, nullptr},
                                      {{1, 1, 1}, {1, 1, 65}, 0, nullptr},
                                      {{1, 65536, 1}, {32, 1, 1}, 0, nullptr},
                                      {{1, 1, 1}, {0, 1, 1}, 0, nullptr}};
    for (const ptx_launch_args &a : shapes) {
        selftest_machine m({});
        bool refused =
            !m.machine.launch(k, a) && m.reports.size() == 1 && m.reports[0].name == std::string("launch-shape");
        count.check(refused, "a launch shape that must be refused", m.said());
    }
}

/* Memory that the host wrote or that was freed. */
void initialisation_test(const ptx_module *module, selftest_count &count)
{
    selftest_machine m({});
    bug_args a = make_args(m);
    const ptx_kernel *k = ptx_find(module, "bug_global_uninitialised");
    m.machine.host_wrote(a.out + 2048, 256);
    count.check(m.launch(k, 1, 64, a) && m.reports.empty(), "what the host wrote is initialised", m.said());
    count.check(m.machine.initialised(a.out, 256) && !m.machine.initialised(a.out, 257), "so is what a kernel wrote");
    m.machine.forget(a.out + 2048 + 128, 4);
    count.check(m.launch(k, 1, 64, a) && m.reports.size() == 1, "what was freed is not", m.said());
    m.machine.host_wrote(a.out, 3 << 20);
    count.check(m.machine.initialised(a.out, 3 << 20) && !m.machine.initialised(a.out, (3 << 20) + 1),
                "many pages at once");
    m.machine.forget(a.out + 5000, 1 << 20);
    count.check(m.machine.initialised(a.out, 5000) && !m.machine.initialised(a.out + 5000, 1) &&
                    !m.machine.initialised(a.out + 4999 + (1 << 20), 1) &&
                    m.machine.initialised(a.out + 5000 + (1 << 20), 1 << 20),
                "and forgotten, to the byte");
}

} // namespace

void bugs_test(const ptx_module *module, selftest_count &count)
{
    for (const planted &b : bugs)
        for (uint64_t seed = 0; seed < 6; seed++) {
            run(module, b, true, seed, count);
            run(module, b, false, seed, count);
        }
    place_test(module, count);
    shape_test(module, count);
    initialisation_test(module, count);
}
