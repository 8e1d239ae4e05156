/* selftest - shared by the parts of the interpreter's own test: counting, device memory, and a machine that keeps what it said.
 *
 *   isa_test.cpp    instructions against plain C++
 *   bugs_test.cpp   kernels with a planted bug, which must be reported by name, and their correct twins, which must not
 *   counters_test.cpp, forms_test.cpp, text_test.cpp   traffic that can be told by hand; PTX by hand; text to be refused */
#ifndef ROUSE_EMU_SELFTEST_H
#define ROUSE_EMU_SELFTEST_H

#include <cstdio>
#include <cstring>
#include <list>

#include "ptx.h"

struct selftest_count {
    unsigned passed = 0, failed = 0;

    /* Says what failed; the name alone when detail is empty. */
    void check(bool ok, const std::string &name, const std::string &detail = "")
    {
        (ok ? passed : failed)++;
        if (!ok)
            printf("FAILED %s%s%s\n", name.c_str(), detail.empty() ? "" : ": ", detail.c_str());
    }
};

/* Allocations 2 MiB apart, so that whatever leaves one meets nothing. */
class selftest_memory : public ptx_memory
{
  public:
    uint64_t alloc(uint64_t bytes, bool writable = true)
    {
        ranges.push_back({next, std::vector<uint8_t>(bytes, 0xcb), writable, true});
        next += (bytes / GAP + 2) * GAP;
        return ranges.back().begin;
    }

    void unmap(uint64_t begin) { around(begin)->mapped = false; }
    uint8_t *host(uint64_t addr)
    {
        block *b = around(addr);
        return b->bytes.data() + (addr - b->begin);
    }

    bool find(uint64_t addr, ptx_range *out, std::string *why) override
    {
        block *b = around(addr);
        if (!b || !b->mapped) {
            *why = b ? "unmapped" : addr >= 0x550000000000 ? "a host pointer" : "never allocated";
            return false;
        }
        *out = {b->begin, b->begin + b->bytes.size(), b->bytes.data(), true, b->writable, b->begin};
        return true;
    }

  private:
    static constexpr uint64_t GAP = 2 << 20;
    struct block {
        uint64_t begin;
        std::vector<uint8_t> bytes;
        bool writable, mapped;
    };
    std::list<block> ranges;
    uint64_t next = 1ull << 45; /* above the windows of ptx.h, where drivers have it */

    block *around(uint64_t addr)
    {
        for (block &b : ranges)
            if (addr >= b.begin && addr < b.begin + b.bytes.size())
                return &b;
        return nullptr;
    }
};

class selftest_machine
{
  public:
    selftest_memory memory;
    ptx_machine machine;
    std::vector<ptx_report> reports;

    explicit selftest_machine(const ptx_options &options) : machine(&memory, options)
    {
        machine.report = [this](const ptx_report &r) { reports.push_back(r); };
    }

    template <class T> uint64_t upload(const std::vector<T> &values)
    {
        uint64_t addr = memory.alloc(values.size() * sizeof(T));
        memcpy(memory.host(addr), values.data(), values.size() * sizeof(T));
        machine.host_wrote(addr, values.size() * sizeof(T));
        return addr;
    }

    template <class T> std::vector<T> download(uint64_t addr, size_t n)
    {
        std::vector<T> out(n);
        memcpy(out.data(), memory.host(addr), n * sizeof(T));
        return out;
    }

    template <class Args>
    bool launch(const ptx_kernel *k, uint32_t grid, uint32_t block, const Args &args, uint32_t dynamic = 0)
    {
        return machine.launch(k, {{grid, 1, 1}, {block, 1, 1}, dynamic, &args});
    }

    std::string said() const
    {
        std::string all;
        for (auto &r : reports)
            all += "\n    " + r.name + ": " + r.text;
        return all;
    }
};

using selftest_module = std::unique_ptr<ptx_module, void (*)(ptx_module *)>;
selftest_module selftest_parse(const char *path); /* exits when the file does not parse */

void isa_test(const ptx_module *module, selftest_count &count);
void bugs_test(const ptx_module *module, selftest_count &count);
void counters_test(const ptx_module *module, selftest_count &count);
void forms_test(ptx_module *module, selftest_count &count);
void text_test(selftest_count &count); /* what must be refused at parse */

#endif
