/* text_test - text that must be refused at parse, with the line that is to blame. */
#include "selftest.h"

namespace
{

const char *const head = ".version 9.0\n.target sm_80\n.address_size 64\n";

struct refused {
    const char *name, *body; /* of a kernel, on line 5 */
    const char *says;
};

const refused bodies[] = {
    {"an unknown instruction", "frobnicate.b32 %r1, %r2;", "line 5: unknown instruction frobnicate.b32"},
    {"an unknown type", "add.s33 %r1, %r2, %r3;", "unknown instruction add.s33"},
    {"an unknown modifier of a load", "ld.global.spicy.u32 %r1, [%rd1];", "unknown modifier .spicy"},
    {"an unknown modifier of a conversion", "cvt.rn.loud.f32.s32 %f1, %r1;", "unknown modifier .loud"},
    {"a conversion that needs a rounding", "cvt.f32.s32 %f1, %r1;", "needs a rounding"},
    {"a whole-number rounding of a narrowing", "cvt.rni.f32.f64 %f1, %fd1;", "does not belong"},
    {"a register of the wrong width", "add.s32 %r1, %rd1, %r2;", "wrong kind or width"},
    {"a predicate where a register belongs", "add.s32 %r1, %p1, %r2;", "wrong kind or width"},
    {"too few operands", "add.s32 %r1, %r2;", "wrong number of operands"},
    {"an unknown register", "mov.u32 %r1, %r99;", "unknown register '%r99'"},
    {"an unknown special register", "mov.u32 %r1, %smid;", "unknown register '%smid'"},
    {"an unknown label", "bra $nowhere;", "no label '$nowhere'"},
    {"a label that is there twice", "$L: $L: ret;", "defined twice"},
    {"a 32-bit address of global memory", "ld.global.u32 %r1, [%r2];", "32-bit address"},
    {"a vector of 32 bytes", "ld.global.v4.u64 {%rd1, %rd2, %rd1, %rd2}, [%rd1];", "of this width"},
    {"a vector with an element missing", "ld.global.v4.u32 {%r1, %r2, %r3}, [%rd1];", "number of elements"},
    {"a store to constant memory", "st.const.u32 [%rd1], %r1;", "only read"},
    {"an asynchronous copy of 12 bytes", "cp.async.ca.shared.global [%r1], [%rd1], 12;", "of this size"},
    {"an asynchronous copy of 8 bytes past L1", "cp.async.cg.shared.global [%r1], [%rd1], 8;", "of this size"},
    {"an atomic of a byte", "atom.global.add.u8 %r1, [%rd1], %r2;", "of this type"},
    {"a shuffle without a mask", "shfl.sync.bfly.b32 %r1|%p1, %r2, %r3, %r4;", "operands"},
    {"an unordered shuffle", "shfl.bfly.b32 %r1, %r2, %r3, %r4, %r5;", "expected .sync"},
    {"a matrix product of unknown shape",
     "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%f1}, {%r1}, {%r2}, {%f2};", "unknown instruction"},
    {"a call", "call.uni vprintf, (%r1);", "no calls"},
    {"a literal of the wrong width", "add.f64 %fd1, %fd2, 0f3F800000;", "wrong width"},
    {"no end", "add.s32 %r1, %r2, %r3;", nullptr},
};

std::string parse_error(const std::string &text)
{
    std::string error;
    auto m = ptx_parse(text.data(), text.size(), &error);
    return m ? "" : error;
}

std::string kernel_with(const char *body, const char *end)
{
    return std::string(head) +
           ".visible .entry k() {.reg .pred %p<3>; .reg .b32 %r<9>; .reg .f32 %f<3>; .reg .f64 %fd<3>; .reg .b64 "
           "%rd<3>;\n" +
           body + "\n" + end;
}

} // namespace

void text_test(selftest_count &count)
{
    for (const refused &r : bodies) {
        std::string error = parse_error(kernel_with(r.body, r.says ? "ret; }" : ""));
        const char *says = r.says ? r.says : "line 6: expected a word";
        count.check(error.find(says) != std::string::npos, r.name, "said: '" + error + "'");
    }
    count.check(parse_error(kernel_with("add.s32 %r1, %r2, 3;", "ret; }")).empty(), "a kernel that is in order");
    count.check(parse_error(".version 6.0\n.target sm_80\n").find(".version") != std::string::npos, "an old version");
    count.check(parse_error(".version 9.0\n.target sm_80\n.address_size 32\n").find("64") != std::string::npos,
                "32-bit addresses");
    count.check(parse_error(std::string(head) + ".visible .func f() { ret; }").find("not inlined") != std::string::npos,
                "a function");
    count.check(parse_error(std::string(head) + "/* no end").find("comment") != std::string::npos,
                "a comment without an end");
}
