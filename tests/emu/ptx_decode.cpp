/* ptx_decode - one statement to instructions. Each family checks every modifier: an unknown one is an error, never ignored. */
#include <cstring>

#include "ptx_handlers.h"
#include "ptx_lanes.h"
#include "ptx_syntax.h"

/* --- the kernel under construction -------------------------------------------------------------------------------- */

uint32_t ptx_builder::new_row(uint8_t width)
{
    uint32_t bytes = width == PTX_W_PRED ? 4 : PTX_LANES * width;
    uint32_t align = bytes < 64 ? bytes : 64;
    uint32_t row = (k->register_bytes + align - 1) / align * align;
    k->register_bytes = row + bytes;
    return row;
}

uint32_t ptx_builder::constant(uint64_t value, uint8_t width)
{
    if (width < 8)
        value &= (1ull << (8 * width)) - 1;
    auto known = known_constants.find({value, width});
    if (known != known_constants.end())
        return known->second;
    uint32_t row = PTX_CONSTANT | static_cast<uint32_t>(constants.size() * 8);
    uint64_t word = value;
    for (int have = width; have < 8; have *= 2)
        word |= word << (8 * have);
    constants.insert(constants.end(), static_cast<size_t>(PTX_LANES) * width / 8, word);
    known_constants[{value, width}] = row;
    return row;
}

uint32_t ptx_builder::special(ptx_special which)
{
    auto known = known_specials.find(which);
    if (known != known_specials.end())
        return known->second;
    uint32_t row = new_row(4);
    k->specials.push_back({which, row});
    return known_specials[which] = row;
}

void ptx_builder::branch_to(ptx_inst *inst, const std::string &label)
{
    inst->kind = PTX_BRANCH;
    jumps.push_back({static_cast<uint32_t>(k->code.size()), 0, label});
}

void ptx_builder::append(const ptx_inst &inst, const ptx_statement &s)
{
    k->code.push_back(inst);
    k->code.back().index = static_cast<uint32_t>(k->code.size() - 1);
    k->lines.push_back({s.line, s.text});
}

void ptx_builder::define_label(const std::string &label, uint32_t line)
{
    if (!labels.emplace(label, static_cast<uint32_t>(k->code.size())).second)
        throw ptx_error(line, "label '" + label + "' is defined twice");
}

void ptx_builder::add_table(const std::string &name, const std::vector<std::string> &targets, uint32_t line)
{
    uint32_t n = static_cast<uint32_t>(k->tables.size());
    table_names[name] = n;
    k->tables.emplace_back();
    for (auto &label : targets)
        table_entries.push_back({n, line, label});
}

uint32_t ptx_builder::table(const std::string &name, uint32_t line) const
{
    auto it = table_names.find(name);
    if (it == table_names.end())
        throw ptx_error(line, "no table of branch targets '" + name + "'");
    return it->second;
}

uint32_t ptx_builder::resolve(const std::string &label, uint32_t line) const
{
    auto it = labels.find(label);
    if (it == labels.end())
        throw ptx_error(line, "no label '" + label + "'");
    return it->second;
}

void ptx_builder::finish()
{
    for (auto &j : jumps)
        k->code[j.inst].target = resolve(j.label, k->lines[j.inst].number);
    for (auto &e : table_entries)
        k->tables[e.inst].push_back(resolve(e.label, e.line));
    k->constants.resize(constants.size() * 8);
    if (!constants.empty())
        memcpy(k->constants.data(), constants.data(), constants.size() * 8);
}

/* --- statements --------------------------------------------------------------------------------------------------- */

namespace
{

struct type_info {
    ptx_type type;
    uint8_t bytes;
    bool is_signed;
};

const type_info *type_of(const std::string &name)
{
    static const std::unordered_map<std::string, type_info> known = {
        {"b8", {PTX_B8, 1, false}},         {"b16", {PTX_B16, 2, false}},     {"b32", {PTX_B32, 4, false}},
        {"b64", {PTX_B64, 8, false}},       {"u8", {PTX_U8, 1, false}},       {"u16", {PTX_U16, 2, false}},
        {"u32", {PTX_U32, 4, false}},       {"u64", {PTX_U64, 8, false}},     {"s8", {PTX_S8, 1, true}},
        {"s16", {PTX_S16, 2, true}},        {"s32", {PTX_S32, 4, true}},      {"s64", {PTX_S64, 8, true}},
        {"f16", {PTX_F16, 2, false}},       {"f16x2", {PTX_F16X2, 4, false}}, {"bf16", {PTX_BF16, 2, false}},
        {"bf16x2", {PTX_BF16X2, 4, false}}, {"f32", {PTX_F32, 4, false}},     {"f64", {PTX_F64, 8, false}},
        {"pred", {PTX_PRED, 0, false}}};
    auto it = known.find(name);
    return it == known.end() ? nullptr : &it->second;
}

class decoder
{
  public:
    decoder(ptx_builder &builder, const ptx_statement &statement, uint32_t guard_row, uint8_t guard)
        : b(builder), s(statement)
    {
        inst.guard = guard;
        inst.guard_row = guard_row;
    }

    void run()
    {
        static const std::unordered_map<std::string, void (decoder::*)()> families = {
            {"ld", &decoder::load},           {"st", &decoder::store},         {"atom", &decoder::atomic},
            {"red", &decoder::atomic},        {"cp", &decoder::copy_async},    {"ldmatrix", &decoder::load_matrix},
            {"bra", &decoder::branch},        {"brx", &decoder::branch_table}, {"ret", &decoder::leave},
            {"exit", &decoder::leave},        {"trap", &decoder::trap},        {"call", &decoder::assert_failed},
            {"bar", &decoder::barrier},       {"barrier", &decoder::barrier},  {"membar", &decoder::fence},
            {"fence", &decoder::fence},       {"nanosleep", &decoder::pause},  {"prefetch", &decoder::pause},
            {"prefetchu", &decoder::pause},   {"shfl", &decoder::shuffle},     {"vote", &decoder::vote},
            {"match", &decoder::match},       {"redux", &decoder::redux},      {"activemask", &decoder::active_mask},
            {"mov", &decoder::move},          {"cvt", &decoder::convert},      {"cvta", &decoder::convert_address},
            {"isspacep", &decoder::is_space}, {"mma", &decoder::matrix},       {"movmatrix", &decoder::matrix}};
        auto family = families.find(s.op[0]);
        if (family == families.end())
            return arithmetic(full_name(), s.operands);
        (this->*family->second)();
    }

  private:
    ptx_builder &b;
    const ptx_statement &s;
    ptx_inst inst;
    size_t at = 1; /* the next modifier */

    [[noreturn]] void fail(const std::string &what) const { throw ptx_error(s.line, what + ": " + s.text); }
    void append() { b.append(inst, s); }

    /* --- modifiers --- */

    std::string full_name() const
    {
        std::string name = s.op[0];
        for (size_t i = 1; i < s.op.size(); i++)
            name += "." + s.op[i];
        return name;
    }

    bool accept(const char *modifier)
    {
        bool yes = at < s.op.size() && s.op[at] == modifier;
        at += yes;
        return yes;
    }

    bool accept_any(std::initializer_list<const char *> modifiers)
    {
        for (const char *m : modifiers)
            if (accept(m))
                return true;
        return false;
    }

    void expect(const char *modifier)
    {
        if (!accept(modifier))
            fail(std::string("expected .") + modifier);
    }

    /* One of a list, as its number. */
    uint8_t choice(std::initializer_list<const char *> names)
    {
        uint8_t n = 0;
        for (const char *name : names) {
            if (accept(name))
                return n;
            n++;
        }
        fail("unknown modifier ." + (at < s.op.size() ? s.op[at] : std::string("(missing)")));
    }

    const type_info &last_type()
    {
        const type_info *t = at < s.op.size() ? type_of(s.op[at]) : nullptr;
        if (!t || at + 1 != s.op.size())
            fail("unknown modifier ." + (at < s.op.size() ? s.op[at] : std::string("(missing)")));
        at++;
        return *t;
    }

    void end_of_modifiers() const
    {
        if (at != s.op.size())
            fail("unknown modifier ." + s.op[at]);
    }

    /* --- operands --- */

    const ptx_operand &operand(size_t i) const
    {
        if (i >= s.operands.size())
            fail("too few operands");
        return s.operands[i];
    }

    void count(size_t least, size_t most) const
    {
        if (s.operands.size() < least || s.operands.size() > most)
            fail("expected " + std::to_string(least) + " to " + std::to_string(most) + " operands");
    }

    uint32_t target(const ptx_operand &o, uint8_t width) const
    {
        if (o.kind == ptx_operand::SINK)
            return b.new_row(width);
        if (o.kind != ptx_operand::REGISTER || o.width != width)
            fail("a destination of the wrong kind or width");
        return o.row;
    }

    /* `!p` as an operand is an instruction of its own. */
    uint32_t negated(const ptx_operand &o)
    {
        ptx_inst n;
        n.fn = ptx_alu_find("not.pred")->fn;
        n.row[0] = b.new_row(PTX_W_PRED);
        n.row[1] = o.row;
        b.append(n, s);
        return n.row[0];
    }

    uint32_t source(const ptx_operand &o, uint8_t width)
    {
        if (o.kind == ptx_operand::IMMEDIATE && width == PTX_W_PRED)
            return b.constant(number(o) ? PTX_ALL_LANES : 0, 4);
        if (o.kind == ptx_operand::IMMEDIATE)
            return b.constant(immediate(o, width), width);
        if (o.kind != ptx_operand::REGISTER || o.width != width)
            fail("an operand of the wrong kind or width");
        return o.negated ? negated(o) : o.row;
    }

    uint64_t immediate(const ptx_operand &o, uint8_t width) const
    {
        if ((o.literal == 'f' && width != 4) || (o.literal == 'd' && width != 8))
            fail("a literal of the wrong width");
        return o.value;
    }

    uint64_t number(const ptx_operand &o) const
    {
        if (o.kind != ptx_operand::IMMEDIATE || o.literal != 'i')
            fail("expected a number");
        return o.value;
    }

    /* An address: its register, or the constant that it is, with inst.offset added. */
    uint32_t address(const ptx_operand &o, bool *out_wide, int64_t *out_offset)
    {
        if (o.kind != ptx_operand::ADDRESS)
            fail("expected an address");
        if (!o.has_base) {
            *out_wide = true;
            *out_offset = 0;
            return b.constant(o.value, 8);
        }
        if (o.width != 4 && o.width != 8)
            fail("an address of the wrong width");
        *out_wide = o.width == 8;
        *out_offset = static_cast<int64_t>(o.value);
        return o.row;
    }

    void address_at(int place, const ptx_operand &o)
    {
        bool wide;
        inst.row[place] = address(o, &wide, &inst.offset);
        if (wide)
            inst.flags |= PTX_ADD64;
        if (!wide && (inst.space == PTX_GLOBAL || inst.space == PTX_GENERIC))
            fail("a 32-bit address of global memory");
    }

    /* --- arithmetic --- */

    void arithmetic(const std::string &name, const std::vector<ptx_operand> &operands)
    {
        const ptx_alu_entry *e = ptx_alu_find(name);
        if (!e)
            fail("unknown instruction " + name);
        if (operands.size() != static_cast<size_t>(e->n_dst + e->n_src))
            fail("wrong number of operands");
        inst.fn = e->fn;
        inst.fma_flops = e->fma_flops;
        for (size_t i = 0; i < operands.size(); i++) {
            uint8_t width = static_cast<uint8_t>(e->width[i]);
            inst.row[i] = static_cast<int>(i) < e->n_dst ? target(operands[i], width) : source(operands[i], width);
        }
        append();
    }

    /* Also {a, b} = whole and whole = {a, b}. */
    void move()
    {
        count(2, 2);
        const type_info &t = last_type();
        bool from_parts = operand(1).kind == ptx_operand::VECTOR, to_parts = operand(0).kind == ptx_operand::VECTOR;
        if (!from_parts && !to_parts)
            return arithmetic(full_name(), s.operands);
        std::vector<ptx_operand> flat;
        for (auto &o : s.operands)
            if (o.kind == ptx_operand::VECTOR)
                flat.insert(flat.end(), o.parts.begin(), o.parts.end());
            else
                flat.push_back(o);
        arithmetic(std::string(to_parts ? "unpack." : "pack.") + std::to_string(flat.size() - 1) + ".b" +
                       std::to_string(8 * t.bytes),
                   flat);
    }

    void matrix()
    {
        const ptx_alu_entry *e = ptx_alu_find(full_name());
        if (!e)
            fail("unknown instruction " + full_name());
        inst.kind = PTX_ALIGNED;
        inst.fn = e->fn;
        int n = 0;
        for (auto &o : s.operands)
            for (auto &part : o.kind == ptx_operand::VECTOR ? o.parts : std::vector<ptx_operand>{o}) {
                if (n == PTX_OPERANDS_MAX)
                    fail("too many operands");
                inst.row[n] = n < e->n_dst ? target(part, 4) : source(part, 4);
                n++;
            }
        if (n != e->n_dst + e->n_src)
            fail("wrong number of operands");
        append();
    }

    static bool is_real(ptx_type t) { return t == PTX_F16 || t == PTX_BF16 || t == PTX_F32 || t == PTX_F64; }

    /* A fast handler when there is one and the registers are as wide as the types; else the one for all. */
    void convert()
    {
        const ptx_alu_entry *e = ptx_alu_find(full_name());
        if (e && s.operands.size() == static_cast<size_t>(e->n_dst + e->n_src) && widths_fit(*e))
            return arithmetic(full_name(), s.operands);
        count(2, 2);
        rounding_of_convert();
        while (at + 2 < s.op.size())
            flag_of_convert();
        const type_info *to = at < s.op.size() ? type_of(s.op[at++]) : nullptr;
        if (!to || to->type == PTX_F16X2 || to->type == PTX_BF16X2 || to->type == PTX_PRED)
            fail("unknown type");
        const type_info &from = last_type();
        inst.fn = ptx_cvt_handler();
        inst.to = to->type;
        inst.from = from.type;
        inst.row_bytes = register_width(operand(0), to->bytes);
        inst.bytes = register_width(operand(1), from.bytes);
        inst.row[0] = target(operand(0), inst.row_bytes);
        inst.row[1] = source(operand(1), inst.bytes);
        check_rounding(*to, from);
        append();
    }

    bool whole_rounding = false, some_rounding = false;

    void flag_of_convert()
    {
        static const ptx_flag flags[] = {PTX_FTZ, PTX_SAT, PTX_RELU};
        inst.flags |= flags[choice({"ftz", "sat", "relu"})];
    }

    void rounding_of_convert()
    {
        static const std::pair<const char *, int> modes[] = {{"rn", 0},  {"rz", 1},  {"rm", 2},  {"rp", 3},
                                                             {"rni", 0}, {"rzi", 1}, {"rmi", 2}, {"rpi", 3}};
        for (auto &m : modes)
            if (accept(m.first)) {
                inst.round = static_cast<uint8_t>(m.second);
                some_rounding = true;
                whole_rounding = m.first[2] == 'i';
                return;
            }
    }

    /* .rni and its like belong to integers, and to floats that stay as wide as they are. */
    void check_rounding(const type_info &to, const type_info &from)
    {
        bool needs_whole = is_real(from.type) && (!is_real(to.type) || (whole_rounding && to.type == from.type));
        if (some_rounding && whole_rounding != needs_whole)
            fail("this rounding does not belong here");
        bool narrows = is_real(to.type) && (!is_real(from.type) || from.bytes > to.bytes);
        if ((narrows || (is_real(from.type) && !is_real(to.type))) && !some_rounding)
            fail("a conversion that needs a rounding");
        if (needs_whole && is_real(to.type))
            inst.flags |= PTX_SECOND;
    }

    uint8_t register_width(const ptx_operand &o, uint8_t least) const
    {
        uint8_t floor = least < 2 ? 2 : least;
        if (o.kind != ptx_operand::REGISTER)
            return floor;
        if (o.width < floor)
            fail("a register that is narrower than its type");
        return o.width;
    }

    bool widths_fit(const ptx_alu_entry &e) const
    {
        for (size_t i = 0; i < s.operands.size(); i++)
            if (s.operands[i].kind == ptx_operand::REGISTER && s.operands[i].width != e.width[i])
                return false;
        return true;
    }

    /* Addresses of global memory and of variables in it are generic already; the others lie in windows. */
    void convert_address()
    {
        count(2, 2);
        bool to_space = accept("to");
        uint8_t which = choice({"global", "const", "shared", "local", "shared::cta"});
        if (last_type().bytes != 8)
            fail("an address that is not 64 bits wide");
        uint64_t window = which == 2 || which == 4 ? PTX_SHARED_WINDOW : which == 3 ? PTX_LOCAL_WINDOW : 0;
        inst.fn = ptx_alu_find(window == 0 ? "mov.b64" : to_space ? "sub.u64" : "add.u64")->fn;
        inst.row[0] = target(operand(0), 8);
        inst.row[1] = source(operand(1), 8);
        inst.row[2] = b.constant(window, 8);
        append();
    }

    void is_space()
    {
        count(2, 2);
        static const ptx_space spaces[] = {PTX_GLOBAL, PTX_SHARED, PTX_LOCAL, PTX_CONST};
        inst.fn = ptx_do_isspacep;
        inst.space = spaces[choice({"global", "shared", "local", "const"})];
        end_of_modifiers();
        inst.row[0] = target(operand(0), PTX_W_PRED);
        inst.row[1] = source(operand(1), 8);
        append();
    }

    /* --- memory --- */

    void space_of_access()
    {
        static const std::pair<const char *, ptx_space> spaces[] = {{"global", PTX_GLOBAL},      {"shared", PTX_SHARED},
                                                                    {"shared::cta", PTX_SHARED}, {"local", PTX_LOCAL},
                                                                    {"param", PTX_PARAM},        {"const", PTX_CONST}};
        for (auto &space : spaces)
            if (accept(space.first)) {
                inst.space = space.second;
                return;
            }
    }

    /* How strongly it is ordered, and of what scope: .volatile counts as ordinary here, for races. */
    void order_of_access()
    {
        if (accept_any({"weak", "volatile"}))
            return;
        if (!accept_any({"relaxed", "acquire", "release", "acq_rel"}))
            return;
        inst.flags |= PTX_STRONG;
        accept_any({"cta", "cluster", "gpu", "sys"});
    }

    /* Hints that change no value. */
    void cache_hints()
    {
        while (accept_any({"ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged",
                           "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"}))
            ;
    }

    void shape_of_access()
    {
        inst.vector = accept("v2") ? 2 : accept("v4") ? 4 : 1;
        const type_info &t = last_type();
        inst.bytes = t.bytes;
        if (t.bytes == 0 || inst.bytes * inst.vector > 16)
            fail("an access of this width");
        if (t.is_signed)
            inst.flags |= PTX_SIGNED;
    }

    void elements(const ptx_operand &o, bool to_registers)
    {
        std::vector<ptx_operand> parts = o.kind == ptx_operand::VECTOR ? o.parts : std::vector<ptx_operand>{o};
        if (parts.size() != inst.vector)
            fail("wrong number of elements");
        inst.row_bytes = 0;
        for (auto &p : parts)
            if (p.kind == ptx_operand::REGISTER)
                inst.row_bytes = register_width(p, inst.bytes);
        if (inst.row_bytes == 0)
            inst.row_bytes = register_width(parts[0], inst.bytes);
        for (size_t i = 0; i < parts.size(); i++)
            inst.row[i] = to_registers ? target(parts[i], inst.row_bytes) : source(parts[i], inst.row_bytes);
    }

    void load()
    {
        count(2, 2);
        order_of_access();
        space_of_access();
        cache_hints();
        if (accept("nc"))
            inst.flags |= PTX_NC;
        cache_hints();
        shape_of_access();
        elements(operand(0), true);
        inst.fn = inst.space == PTX_PARAM ? ptx_do_ld_param : ptx_do_ld;
        if (inst.space != PTX_PARAM)
            address_at(PTX_AT_ADDRESS, operand(1));
        else
            parameter(operand(1));
        append();
    }

    /* By name, or by a register that got the name's address. */
    void parameter(const ptx_operand &o)
    {
        if (o.kind != ptx_operand::ADDRESS || (!o.has_base && o.space != PTX_PARAM))
            fail("a parameter that is not read by its name");
        if (o.has_base) {
            inst.fn = ptx_do_ld_param_by_register;
            return address_at(PTX_AT_ADDRESS, o);
        }
        unsigned bytes = inst.bytes * inst.vector;
        if (o.value + bytes > b.k->info.param_bytes || o.value % bytes)
            fail("a read outside the parameters");
        inst.offset = static_cast<int64_t>(o.value);
    }

    void store()
    {
        count(2, 2);
        order_of_access();
        space_of_access();
        cache_hints();
        shape_of_access();
        if (inst.space == PTX_PARAM || inst.space == PTX_CONST)
            fail("a store to a space that is only read");
        elements(operand(1), false);
        inst.fn = ptx_do_st;
        address_at(PTX_AT_ADDRESS, operand(0));
        append();
    }

    /* atom d, [a], b{, c} and red [a], b. */
    void atomic()
    {
        bool returns = s.op[0] == "atom";
        size_t first = returns ? 1 : 0;
        accept_any({"relaxed", "acquire", "release", "acq_rel"});
        accept_any({"cta", "cluster", "gpu", "sys"});
        space_of_access();
        inst.what = choice({"add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"});
        accept("noftz");
        const type_info &t = last_type();
        if (t.bytes < 2 || (inst.space != PTX_GLOBAL && inst.space != PTX_SHARED && inst.space != PTX_GENERIC))
            fail("an atomic of this type or space");
        count(first + 2, first + 2 + (inst.what == PTX_ATOM_CAS));
        inst.fn = ptx_do_atom;
        inst.bytes = inst.row_bytes = t.bytes;
        inst.to = t.type;
        inst.row[0] = returns ? target(operand(0), t.bytes) : b.new_row(t.bytes);
        inst.row[1] = source(operand(first + 1), t.bytes);
        if (inst.what == PTX_ATOM_CAS)
            inst.row[2] = source(operand(first + 2), t.bytes);
        address_at(PTX_AT_ADDRESS, operand(first));
        append();
    }

    void copy_async()
    {
        expect("async");
        if (accept("commit_group")) {
            count(0, 0);
            inst.fn = ptx_do_cp_commit;
        } else if (accept("wait_all")) {
            count(0, 0);
            inst.fn = ptx_do_cp_wait;
            inst.offset = -1;
        } else if (accept("wait_group")) {
            count(1, 1);
            inst.fn = ptx_do_cp_wait;
            inst.offset = static_cast<int64_t>(number(operand(0)));
        } else {
            return copy_async_bytes();
        }
        end_of_modifiers();
        append();
    }

    void copy_async_bytes()
    {
        count(3, 4);
        bool l2_only = accept("cg");
        if (!l2_only)
            expect("ca");
        if (!accept("shared::cta"))
            expect("shared");
        expect("global");
        accept_any({"L2::64B", "L2::128B", "L2::256B"});
        end_of_modifiers();
        uint64_t bytes = number(operand(2));
        if (bytes != 16 && (l2_only || (bytes != 4 && bytes != 8)))
            fail("a copy of this size");
        inst.fn = ptx_do_cp_async;
        inst.bytes = static_cast<uint8_t>(bytes);
        inst.space = PTX_SHARED;
        bool to_wide, from_wide;
        int64_t to_offset, from_offset;
        inst.row[PTX_AT_ADDRESS] = address(operand(0), &to_wide, &to_offset);
        inst.row[PTX_AT_SOURCE] = address(operand(1), &from_wide, &from_offset);
        if (!from_wide)
            fail("a 32-bit address of global memory");
        inst.flags |= to_wide ? PTX_ADD64 : 0;
        inst.offset = from_offset;
        inst.target = static_cast<uint32_t>(to_offset);
        inst.what = PTX_CP_WHOLE;
        if (s.operands.size() == 4)
            copy_async_size(operand(3));
        append();
    }

    void copy_async_size(const ptx_operand &o)
    {
        bool ignore = o.kind == ptx_operand::REGISTER && o.width == PTX_W_PRED;
        inst.what = ignore ? PTX_CP_IGNORE : PTX_CP_BYTES;
        inst.row[PTX_AT_SIZE] = source(o, ignore ? PTX_W_PRED : 4);
    }

    void load_matrix()
    {
        count(2, 2);
        expect("sync");
        expect("aligned");
        expect("m8n8");
        inst.vector = static_cast<uint8_t>(1 << choice({"x1", "x2", "x4"}));
        if (accept("trans"))
            inst.flags |= PTX_TRANS;
        if (!accept("shared::cta"))
            expect("shared");
        expect("b16");
        end_of_modifiers();
        inst.fn = ptx_do_ldmatrix;
        inst.kind = PTX_ALIGNED;
        inst.space = PTX_SHARED;
        inst.bytes = 16;
        std::vector<ptx_operand> parts =
            operand(0).kind == ptx_operand::VECTOR ? operand(0).parts : std::vector<ptx_operand>{operand(0)};
        if (parts.size() != inst.vector)
            fail("wrong number of elements");
        for (size_t i = 0; i < parts.size(); i++)
            inst.row[i] = target(parts[i], 4);
        address_at(PTX_AT_ADDRESS, operand(1));
        append();
    }

    /* --- control --- */

    void branch()
    {
        count(1, 1);
        if (accept("uni"))
            inst.flags |= PTX_UNIFORM;
        end_of_modifiers();
        if (operand(0).kind != ptx_operand::LABEL)
            fail("expected a label");
        b.branch_to(&inst, operand(0).label);
        append();
    }

    void branch_table()
    {
        count(2, 2);
        expect("idx");
        if (accept("uni"))
            inst.flags |= PTX_UNIFORM;
        end_of_modifiers();
        inst.kind = PTX_BRANCH_TABLE;
        inst.row[0] = source(operand(0), 4);
        inst.target = b.table(operand(1).label, s.line);
        append();
    }

    void plain_end(ptx_kind kind)
    {
        count(0, 0);
        inst.kind = kind;
        append();
    }

    void leave()
    {
        accept("uni");
        end_of_modifiers();
        plain_end(PTX_EXIT);
    }

    void trap()
    {
        end_of_modifiers();
        plain_end(PTX_TRAP);
    }

    void assert_failed() { plain_end(PTX_ASSERT); }

    /* Lanes run one instruction at a time: nothing is to be ordered. Blocks are ordered by no fence, see ptx_shadow.h. */
    void fence()
    {
        count(0, 0);
        accept_any({"sc", "acq_rel"});
        choice({"cta", "gpu", "sys", "gl", "cluster"});
        end_of_modifiers();
        inst.fn = ptx_do_nothing;
        append();
    }

    void pause()
    {
        inst.fn = ptx_do_nothing;
        append();
    }

    /* --- lanes that wait for each other --- */

    void member_mask(const ptx_operand &o)
    {
        inst.kind = PTX_WARP_SYNC;
        inst.row[PTX_AT_MASK] = source(o, 4);
    }

    void shuffle()
    {
        count(5, 5);
        expect("sync");
        inst.what = choice({"up", "down", "bfly", "idx"});
        expect("b32");
        end_of_modifiers();
        const ptx_operand &d = operand(0);
        bool pair = d.kind == ptx_operand::VECTOR;
        inst.fn = ptx_do_shfl;
        inst.row[0] = target(pair ? d.parts[0] : d, 4);
        if (pair) {
            inst.row[1] = target(d.parts[1], PTX_W_PRED);
            inst.flags |= PTX_SECOND;
        }
        for (int i = 1; i <= 3; i++)
            inst.row[1 + i] = source(operand(i), 4);
        member_mask(operand(4));
        append();
    }

    void vote()
    {
        count(3, 3);
        expect("sync");
        inst.what = choice({"all", "any", "uni", "ballot"});
        expect(inst.what == PTX_VOTE_BALLOT ? "b32" : "pred");
        end_of_modifiers();
        inst.fn = ptx_do_vote;
        inst.row[0] = target(operand(0), inst.what == PTX_VOTE_BALLOT ? 4 : PTX_W_PRED);
        inst.row[1] = source(operand(1), PTX_W_PRED);
        member_mask(operand(2));
        append();
    }

    void match()
    {
        count(3, 3);
        bool all = choice({"any", "all"}) == 1;
        expect("sync");
        inst.bytes = last_type().bytes;
        inst.fn = all ? ptx_do_match_all : ptx_do_match_any;
        const ptx_operand &d = operand(0);
        bool pair = d.kind == ptx_operand::VECTOR;
        inst.row[0] = target(pair ? d.parts[0] : d, 4);
        inst.row[2] = pair ? target(d.parts[1], PTX_W_PRED) : b.new_row(PTX_W_PRED);
        inst.row[1] = source(operand(1), inst.bytes);
        member_mask(operand(2));
        append();
    }

    void redux()
    {
        count(3, 3);
        expect("sync");
        inst.what = choice({"add", "min", "max", "and", "or", "xor"});
        const type_info &t = last_type();
        if (t.bytes != 4 || t.type == PTX_F32)
            fail("a reduction of this type");
        if (t.is_signed)
            inst.flags |= PTX_SIGNED;
        inst.fn = ptx_do_redux;
        inst.row[0] = target(operand(0), 4);
        inst.row[1] = source(operand(1), 4);
        member_mask(operand(2));
        append();
    }

    void active_mask()
    {
        count(1, 1);
        expect("b32");
        inst.fn = ptx_do_activemask;
        inst.row[0] = target(operand(0), 4);
        append();
    }

    void barrier()
    {
        bool short_form = s.op[0] == "bar"; /* bar.x is barrier.x.aligned */
        if (short_form && accept("warp"))
            return warp_barrier();
        accept("cta");
        uint8_t form = choice({"sync", "arrive", "red"});
        inst.kind = PTX_BARRIER;
        size_t first = 0;
        if (form == 2) {
            inst.what = static_cast<uint8_t>(1 + choice({"popc", "and", "or"}));
            first = 1;
        }
        bool aligned = accept("aligned") || short_form;
        if (!aligned)
            fail("a barrier that is not .aligned");
        if (form == 1)
            inst.flags |= PTX_ARRIVE;
        size_t n_counts = s.operands.size() - first;
        if (form == 2)
            n_counts = reduce_operands(s.operands.size());
        end_of_modifiers();
        barrier_counts(first, n_counts);
        append();
    }

    size_t reduce_operands(size_t n)
    {
        bool sum = inst.what == PTX_BAR_POPC;
        expect(sum ? "u32" : "pred");
        if (n < 3)
            fail("too few operands");
        inst.row[2] = target(operand(0), sum ? 4 : PTX_W_PRED);
        inst.row[3] = source(operand(n - 1), PTX_W_PRED);
        return n - 2;
    }

    void barrier_counts(size_t first, size_t n)
    {
        if (n < 1 || n > 2 || (inst.flags & PTX_ARRIVE && n != 2))
            fail("wrong number of operands");
        inst.row[0] = source(operand(first), 4);
        if (n == 2) {
            inst.row[1] = source(operand(first + 1), 4);
            inst.flags |= PTX_SECOND;
        }
    }

    void warp_barrier()
    {
        count(1, 1);
        expect("sync");
        end_of_modifiers();
        inst.fn = ptx_do_warp_sync;
        member_mask(operand(0));
        append();
    }
};

} // namespace

void ptx_decode(ptx_builder &b, const ptx_statement &s, uint32_t guard_row, uint8_t guard)
{
    decoder(b, s, guard_row, guard).run();
}
