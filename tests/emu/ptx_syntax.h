/* ptx_syntax - between text and instructions: tokens, operands as written, and the kernel under construction. */
#ifndef ROUSE_EMU_PTX_SYNTAX_H
#define ROUSE_EMU_PTX_SYNTAX_H

#include <stdexcept>
#include <string_view>

#include "ptx_module.h"

struct ptx_error : std::runtime_error {
    ptx_error(uint32_t line, const std::string &what) : std::runtime_error("line " + std::to_string(line) + ": " + what)
    {
    }
};

enum ptx_token_kind : uint8_t { PTX_WORD, PTX_MARK, PTX_STRING, PTX_END };

struct ptx_token {
    ptx_token_kind kind;
    uint32_t line;
    std::string_view text; /* of the source, which must outlive it */
};

std::vector<ptx_token> ptx_lex(std::string_view source);

/* What a name stands for. */
struct ptx_name {
    enum { REGISTER, VARIABLE, PARAMETER, TABLE } kind;
    uint32_t row = 0;  /* register */
    uint8_t width = 0; /* register: bytes of an element, PTX_W_PRED for a predicate */
    ptx_space space = PTX_GENERIC;
    bool dynamic = false; /* variable: the shared memory behind all others */
    uint64_t offset = 0;  /* variable: in its space; parameter: in the parameter block */
};

struct ptx_operand {
    enum shape { REGISTER, IMMEDIATE, VECTOR, ADDRESS, LABEL, SINK };
    explicit ptx_operand(shape of) : kind(of) {}

    shape kind;
    uint32_t row = 0;
    uint8_t width = 0;
    bool negated = false;
    char literal = 'i';            /* immediate: 'i' integer, 'f' f32 bits, 'd' f64 bits */
    uint64_t value = 0;            /* immediate; address: offset */
    bool has_base = false;         /* address: row and width are of its register */
    ptx_space space = PTX_GENERIC; /* of a variable or parameter in an address, or as an immediate */
    std::string label;
    std::vector<ptx_operand> parts; /* vector; or the two of d|p */
};

struct ptx_statement {
    uint32_t line;
    std::string text;

    std::vector<std::string> op; /* split at the dots: {"ld", "global", "f32"} */
    std::vector<ptx_operand> operands;
};

/* Hands out rows, and keeps what is appended to the kernel. */
class ptx_builder
{
  public:
    explicit ptx_builder(ptx_kernel *kernel) : k(kernel) {}
    uint32_t new_row(uint8_t width);
    uint32_t constant(uint64_t value, uint8_t width);
    uint32_t special(ptx_special which);
    void branch_to(ptx_inst *inst, const std::string &label);
    void append(const ptx_inst &inst, const ptx_statement &s);
    void define_label(const std::string &label, uint32_t line);
    void add_table(const std::string &name, const std::vector<std::string> &targets, uint32_t line);
    uint32_t table(const std::string &name, uint32_t line) const;
    void finish(); /* resolves labels */

    ptx_kernel *k;

  private:
    struct jump {
        uint32_t inst, line;
        std::string label;
    };
    std::unordered_map<std::string, uint32_t> labels, table_names;
    std::vector<jump> jumps;
    std::vector<jump> table_entries; /* inst: the table */
    std::vector<uint64_t> constants; /* rows, one behind the other */
    std::map<std::pair<uint64_t, uint8_t>, uint32_t> known_constants;
    std::map<ptx_special, uint32_t> known_specials;
    uint32_t resolve(const std::string &label, uint32_t line) const;
};

/* Makes one statement into instructions. Throws ptx_error for whatever it does not know. */
void ptx_decode(ptx_builder &b, const ptx_statement &s, uint32_t guard_row, uint8_t guard);

#endif
