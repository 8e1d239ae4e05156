/* forms_test - the kernels of forms.ptx, which is written by hand: what nvcc may write one day. */
#include <algorithm>

#include "selftest.h"

namespace
{

class formed
{
  public:
    formed(const ptx_module *module, const char *name, uint32_t block, uint64_t second = 0) : m(ptx_options())
    {
        out = m.memory.alloc(4096);
        uint64_t args[2] = {out, second};
        ended = m.machine.launch(ptx_find(module, name), {{1, 1, 1}, {block, 1, 1}, 32, args});
    }

    selftest_machine m;
    uint64_t out;
    bool ended;
};

void check_words(formed &f, const char *name, const std::vector<uint32_t> &want, selftest_count &count)
{
    std::vector<uint32_t> got = f.m.download<uint32_t>(f.out, want.size());
    std::string wrong = f.m.said();
    for (size_t k = 0; k < want.size(); k++)
        if (got[k] != want[k])
            wrong +=
                "\n    [" + std::to_string(k) + "] " + std::to_string(got[k]) + ", expected " + std::to_string(want[k]);
    count.check(f.ended && wrong.empty(), name, wrong);
}

void shape_test(const ptx_module *module, selftest_count &count)
{
    selftest_machine m({});
    uint64_t out = m.memory.alloc(8 * 24 * 4);
    m.machine.launch(ptx_find(module, "shape"), {{2, 2, 2}, {4, 3, 2}, 0, &out});
    std::vector<uint32_t> got = m.download<uint32_t>(out, 8 * 24);
    unsigned n_wrong = 0;
    for (uint32_t b = 0; b < 8; b++)
        for (uint32_t t = 0; t < 24; t++) {
            uint32_t digits = t % 4 * 100000 + t / 4 % 3 * 10000 + t / 12 * 1000 + b % 2 * 100 + b / 2 % 2 * 10 + b / 4;
            n_wrong += got[b * 24 + t] != digits + 2;
        }
    count.check(n_wrong == 0 && m.reports.empty(), "threads and blocks in three dimensions", m.said());
}

void specials_test(const ptx_module *module, selftest_count &count)
{
    formed f(module, "specials", 64);
    std::vector<uint32_t> want(64);
    for (uint32_t t = 0; t < 64; t++)
        want[t] = 32 * 1000000 + 2 * 10000 + t / 32 * 100 + t % 32 + 96 + (~0u ^ 1u << t % 32) + 32;
    bool raced = f.m.reports.size() == 1 && f.m.reports[0].name == std::string("shared-race"); /* all write one word */
    f.m.reports.clear();
    count.check(raced, "lanes that write one word of shared memory");
    check_words(f, "special registers", want, count);
}

void table_test(const ptx_module *module, selftest_count &count)
{
    formed f(module, "table", 32);
    std::vector<uint32_t> want(32, 40);
    for (uint32_t t = 0; t < 24; t++)
        want[t] = t % 3 * 10 + 10;
    check_words(f, "a table of branches", want, count);
    formed beyond(module, "table", 32, 1);
    count.check(!beyond.ended && beyond.m.reports[0].name == "branch-bounds", "an index beyond the table",
                beyond.m.said());
}

void spaces_test(const ptx_module *module, selftest_count &count)
{
    formed f(module, "spaces", 32);
    std::vector<uint32_t> want(32);
    for (uint32_t t = 0; t < 32; t++)
        want[t] = 1000 + t + (t > 15 ? 300000 : t % 2 ? 200000 : 100000);
    check_words(f, "generic addresses of three spaces", want, count);
}

void variables_test(ptx_module *module, selftest_count &count)
{
    formed f(module, "variables", 1, 50);
    check_words(f, "variables and a parameter by its address", {50 - 3 + 2 + 0, 0xcbcbcbcb, 7, 0}, count);
    ptx_range r;
    uint64_t value = 0;
    bool found = ptx_find_data(module, "counter", &r) && r.end - r.begin == 8 && r.writable;
    if (found)
        memcpy(&value, r.host, 8);
    count.check(found && value == 13, "a variable from outside", std::to_string(value));
    count.check(ptx_find_data(module, "tenths", &r) && !r.writable && !ptx_find_data(module, "none", &r),
                "constants and nothing");
    count.check(ptx_kernels(module).size() == 15 && !ptx_find(module, "none"), "what a module holds");
}

void producer_test(const ptx_module *module, selftest_count &count)
{
    formed f(module, "producer", 64);
    std::vector<uint32_t> want(64, 0xcbcbcbcb);
    for (uint32_t t = 32; t < 64; t++)
        want[t] = t % 16 + 100;
    check_words(f, "a warp that arrives and one that waits", want, count);
}

void bugs_of_text_test(const ptx_module *module, selftest_count &count)
{
    static const struct {
        const char *kernel, *fault;
        uint32_t block;
    } bugs[] = {
        {"bug_not_uniform", "branch-not-uniform", 32},
        {"bug_barrier_sixteen", "barrier-divergence", 32},
        {"bug_barrier_of_many_names", "barrier-divergence", 32},
        {"bug_barrier_of_forty", "barrier-count", 64},
        {"bug_barrier_of_two_places", "barrier-divergence", 64},
        {"bug_copy_of_twenty", "cp-async-size", 1},
        {"bug_parameter_past_end", "param-bounds", 1},
        {"at_most_64", "launch-shape", 65},
        {"exactly_8_by_4", "launch-shape", 32},
    };
    for (auto &b : bugs) {
        formed f(module, b.kernel, b.block);
        count.check(!f.m.reports.empty() && f.m.reports[0].name == b.fault, b.kernel, f.m.said());
    }
    formed allowed(module, "at_most_64", 64);
    count.check(allowed.ended && allowed.m.reports.empty(), "a block that .maxntid allows", allowed.m.said());
    bool listed = true;
    for (auto &b : bugs)
        listed &= std::count_if(ptx_fault_names.begin(), ptx_fault_names.end(),
                                [&](const char *n) { return !strcmp(n, b.fault); }) == 1;
    count.check(listed, "the names of faults");
}

} // namespace

void forms_test(ptx_module *module, selftest_count &count)
{
    shape_test(module, count);
    specials_test(module, count);
    table_test(module, count);
    spaces_test(module, count);
    variables_test(module, count);
    producer_test(module, count);
    bugs_of_text_test(module, count);
}
