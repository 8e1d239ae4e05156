/* ptx_parse - declarations, labels and operands of a module; what an instruction means is ptx_decode's matter.
 *
 * Takes what nvcc emits and no more. Whatever is not understood is an error that names the line. */
#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "ptx_lanes.h"
#include "ptx_syntax.h"

namespace
{

constexpr uint32_t SHARED_GAP =
    256; /* forbidden bytes behind each shared variable; keeps every address mod 128 as it is */

uint8_t type_bytes(std::string_view type)
{
    static const std::unordered_map<std::string_view, uint8_t> known = {
        {".b8", 1},    {".u8", 1},     {".s8", 1},  {".b16", 2}, {".u16", 2}, {".s16", 2},
        {".f16", 2},   {".bf16", 2},   {".b32", 4}, {".u32", 4}, {".s32", 4}, {".f32", 4},
        {".f16x2", 4}, {".bf16x2", 4}, {".b64", 8}, {".u64", 8}, {".s64", 8}, {".f64", 8}};
    auto it = known.find(type);
    return it == known.end() ? 0 : it->second;
}

uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

ptx_special special_of(std::string_view name, bool *found)
{
    static const std::unordered_map<std::string_view, ptx_special> known = {
        {"%tid.x", PTX_TID_X},
        {"%tid.y", PTX_TID_Y},
        {"%tid.z", PTX_TID_Z},
        {"%ntid.x", PTX_NTID_X},
        {"%ntid.y", PTX_NTID_Y},
        {"%ntid.z", PTX_NTID_Z},
        {"%ctaid.x", PTX_CTAID_X},
        {"%ctaid.y", PTX_CTAID_Y},
        {"%ctaid.z", PTX_CTAID_Z},
        {"%nctaid.x", PTX_NCTAID_X},
        {"%nctaid.y", PTX_NCTAID_Y},
        {"%nctaid.z", PTX_NCTAID_Z},
        {"%laneid", PTX_LANEID},
        {"%warpid", PTX_WARPID},
        {"%nwarpid", PTX_NWARPID},
        {"%lanemask_eq", PTX_LANEMASK_EQ},
        {"%lanemask_lt", PTX_LANEMASK_LT},
        {"%lanemask_le", PTX_LANEMASK_LE},
        {"%lanemask_gt", PTX_LANEMASK_GT},
        {"%lanemask_ge", PTX_LANEMASK_GE},
        {"%dynamic_smem_size", PTX_DYNAMIC_SMEM_SIZE},
        {"%total_smem_size", PTX_TOTAL_SMEM_SIZE}};
    auto it = known.find(name);
    *found = it != known.end();
    return *found ? it->second : PTX_SPECIALS;
}

std::vector<std::string> split_dots(std::string_view word)
{
    std::vector<std::string> out;
    size_t from = 0;
    for (size_t dot; (dot = word.find('.', from)) != std::string_view::npos; from = dot + 1)
        out.emplace_back(word.substr(from, dot - from));
    out.emplace_back(word.substr(from));
    return out;
}

struct variable { /* as declared */
    ptx_space space;
    uint64_t align = 1, bytes = 0;
    uint8_t element = 0;
    bool external = false;
    std::string name;
};

class parser
{
  public:
    parser(std::string_view source, ptx_module *module) : t(ptx_lex(source)), m(module) { scopes.emplace_back(); }

    void run()
    {
        header();
        while (peek().kind != PTX_END)
            top_level();
    }

  private:
    std::vector<ptx_token> t;
    size_t at = 0;
    ptx_module *m;
    std::unique_ptr<ptx_builder> b;
    std::vector<std::unordered_map<std::string, ptx_name>> scopes;
    std::vector<variable> module_shared;
    uint64_t shared_natural = 0; /* bytes of static shared memory as a card would lay it out */
    uint64_t dynamic_align = 16;
    bool dynamic_used = false; /* its place is settled: no static variable may follow */

    /* --- tokens --- */

    const ptx_token &peek() const { return t[at]; }
    bool is(std::string_view text) const { return t[at].kind != PTX_END && t[at].text == text; }
    uint32_t line() const { return t[at].line; }
    [[noreturn]] void fail(const std::string &what) const { throw ptx_error(line(), what); }

    std::string_view take()
    {
        if (t[at].kind == PTX_END)
            fail("the text ends too early");
        return t[at++].text;
    }

    bool accept(std::string_view text)
    {
        bool yes = is(text);
        at += yes;
        return yes;
    }

    void expect(std::string_view text)
    {
        if (!accept(text))
            fail("expected '" + std::string(text) + "', found '" + std::string(t[at].text) + "'");
    }

    std::string word()
    {
        if (t[at].kind != PTX_WORD)
            fail("expected a word, found '" + std::string(t[at].text) + "'");
        return std::string(take());
    }

    void skip_line()
    {
        for (uint32_t here = line(); t[at].kind != PTX_END && t[at].line == here;)
            at++;
    }

    uint64_t number()
    {
        bool negative = accept("-");
        std::string w = word();
        char *end;
        uint64_t value = strtoull(w.c_str(), &end, 0);
        if (end == w.c_str() || (*end && strcmp(end, "U")))
            fail("expected a number, found '" + w + "'");
        return negative ? 0 - value : value;
    }

    /* --- the module --- */

    void header()
    {
        expect(".version");
        if (atof(word().c_str()) < 7.0)
            fail(".version before 7.0");
        expect(".target");
        if (word().compare(0, 3, "sm_") != 0)
            fail("expected a target sm_NN");
        expect(".address_size");
        if (number() != 64)
            fail(".address_size is not 64");
    }

    void top_level()
    {
        bool external = false;
        while (is(".visible") || is(".weak") || is(".extern"))
            external |= take() == ".extern";
        if (accept(".entry"))
            return entry();
        if (accept(".func"))
            return function(external);
        if (is(".file") || is(".loc"))
            return skip_line();
        ptx_space space;
        if (!accept_space(&space) || space == PTX_LOCAL || space == PTX_PARAM)
            fail("unknown directive '" + std::string(peek().text) + "'");
        variable v = declaration(space);
        v.external = external;
        if (space == PTX_SHARED)
            module_shared.push_back(v);
        else
            module_variable(v);
        expect(";");
    }

    bool accept_space(ptx_space *out)
    {
        static const std::pair<const char *, ptx_space> spaces[] = {{".global", PTX_GLOBAL},
                                                                    {".const", PTX_CONST},
                                                                    {".shared", PTX_SHARED},
                                                                    {".local", PTX_LOCAL},
                                                                    {".param", PTX_PARAM}};
        for (auto &s : spaces)
            if (accept(s.first)) {
                *out = s.second;
                return true;
            }
        return false;
    }

    /* [.align N] .type name[count][count]: behind the space. */
    variable declaration(ptx_space space)
    {
        variable v;
        v.space = space;
        uint64_t align = accept(".align") ? number() : 0;
        v.element = type_bytes(word());
        if (v.element == 0)
            fail("unknown type in a declaration");
        v.align = align ? align : v.element;
        v.name = word();
        v.bytes = v.element;
        while (accept("[")) {
            v.bytes *= is("]") ? 0 : number();
            expect("]");
        }
        return v;
    }

    void module_variable(const variable &v)
    {
        if (v.external)
            fail("'" + v.name + "' is defined in another module");
        uint64_t offset = round_up(m->data.size(), v.align);
        m->data.resize(offset + v.bytes);
        if (accept("="))
            initialise(v, offset);
        m->symbols.push_back({v.name, v.space, offset, v.bytes});
        ptx_name n;
        n.kind = ptx_name::VARIABLE;
        n.space = v.space;
        n.offset = m->data_base + offset;
        scopes[0][v.name] = n;
    }

    void initialise(const variable &v, uint64_t offset)
    {
        bool list = accept("{");
        uint64_t filled = 0;
        do {
            if (filled + v.element > v.bytes)
                fail("more values than '" + v.name + "' has room for");
            uint64_t value = constant_value().value;
            memcpy(&m->data[offset + filled], &value, v.element);
            filled += v.element;
        } while (list && accept(","));
        if (list)
            expect("}");
    }

    /* Functions that nvcc leaves in a module: only the one that reports a failed assert. */
    void function(bool external)
    {
        std::string name;
        while (!is(";") && !is("{")) {
            if (is("__assertfail"))
                name = peek().text;
            take();
        }
        if (!external || !accept(";") || name.empty())
            fail("a function that is not inlined");
    }

    /* --- one kernel --- */

    void entry()
    {
        auto kernel = std::make_unique<ptx_kernel>();
        kernel->module = m;
        kernel->info = {word(), {}, 0, 0, 0, 0};
        b = std::make_unique<ptx_builder>(kernel.get());
        scopes.emplace_back();
        shared_natural = 0;
        dynamic_align = 16;
        dynamic_used = false;
        if (accept("("))
            parameters(kernel.get());
        while (!is("{"))
            kernel_directive(kernel.get());
        for (auto &v : module_shared)
            shared_variable(v);
        expect("{");
        body();
        finish(kernel.get());
        scopes.pop_back();
        m->kernels.push_back(std::move(kernel));
    }

    void parameters(ptx_kernel *k)
    {
        while (!accept(")")) {
            expect(".param");
            variable v = declaration(PTX_PARAM);
            uint32_t offset = static_cast<uint32_t>(round_up(k->info.param_bytes, v.align));
            k->info.params.push_back({offset, static_cast<uint32_t>(v.bytes), static_cast<uint32_t>(v.align)});
            k->info.param_bytes = offset + static_cast<uint32_t>(v.bytes);
            ptx_name n;
            n.kind = ptx_name::PARAMETER;
            n.space = PTX_PARAM;
            n.offset = offset;
            scopes.back()[v.name] = n;
            accept(",");
        }
    }

    void kernel_directive(ptx_kernel *k)
    {
        std::string d = word();
        if (d == ".maxntid" || d == ".reqntid") {
            uint32_t *shape = d == ".maxntid" ? k->max_block : k->required_block;
            shape[0] = shape[1] = shape[2] = 1;
            for (int i = 0; i == 0 || accept(","); i++)
                shape[i < 3 ? i : 2] = static_cast<uint32_t>(number());
            k->info.max_threads = shape[0] * shape[1] * shape[2];
        } else if (d == ".minnctapersm" || d == ".maxnreg") {
            number();
        } else {
            fail("unknown directive '" + d + "'");
        }
    }

    void finish(ptx_kernel *k)
    {
        if (k->code.empty() || k->code.back().kind != PTX_EXIT || k->code.back().guard) {
            ptx_inst end;
            end.kind = PTX_EXIT;
            b->append(end, {line(), "(end of the kernel)", {}, {}});
        }
        b->finish();
        k->info.static_shared_bytes = static_cast<uint32_t>(shared_natural);
        k->info.n_instructions = static_cast<uint32_t>(k->code.size());
        k->dynamic_base = static_cast<uint32_t>(dynamic_offset());
    }

    void body()
    {
        for (int depth = 1; depth > 0;) {
            if (accept("{")) {
                scopes.emplace_back();
                depth++;
            } else if (accept("}")) {
                depth--;
                if (depth > 0)
                    scopes.pop_back();
            } else {
                line_of_body();
            }
        }
    }

    void line_of_body()
    {
        if (is(".loc") || is(".file"))
            return skip_line();
        if (accept(".pragma")) {
            take();
            return expect(";");
        }
        if (accept(".reg"))
            return registers();
        ptx_space space;
        if (accept_space(&space)) {
            local_declaration(space);
            return expect(";");
        }
        if (t[at].kind == PTX_WORD && t[at + 1].text == ":")
            return label();
        statement();
    }

    void registers()
    {
        std::string type = word();
        uint8_t width = type == ".pred" ? PTX_W_PRED : type_bytes(type);
        if (type != ".pred" && width == 0)
            fail("unknown register type '" + type + "'");
        if (width == 1)
            fail("registers of 8 bits");
        do {
            std::string name = word();
            if (!accept("<")) {
                add_register(name, width);
                continue;
            }
            uint64_t n = number();
            expect(">");
            for (uint64_t i = 0; i < n; i++)
                add_register(name + std::to_string(i), width);
        } while (accept(","));
        expect(";");
    }

    void add_register(const std::string &name, uint8_t width)
    {
        ptx_name n;
        n.kind = ptx_name::REGISTER;
        n.width = width;
        n.row = b->new_row(width);
        scopes.back()[name] = n;
    }

    void local_declaration(ptx_space space)
    {
        variable v = declaration(space);
        if (space == PTX_SHARED)
            return shared_variable(v);
        if (space == PTX_PARAM) /* an argument of a call, see call_statement */
            return;
        if (space != PTX_LOCAL)
            fail("a variable of this space within a kernel");
        ptx_name n;
        n.kind = ptx_name::VARIABLE;
        n.space = PTX_LOCAL;
        n.offset = round_up(b->k->local_bytes, v.align);
        b->k->local_bytes = static_cast<uint32_t>(n.offset + v.bytes);
        scopes.back()[v.name] = n;
    }

    void shared_variable(const variable &v)
    {
        ptx_name n;
        n.kind = ptx_name::VARIABLE;
        n.space = PTX_SHARED;
        if (v.bytes == 0) {
            n.dynamic = true;
            dynamic_align = std::max(dynamic_align, v.align);
        } else {
            if (dynamic_used)
                fail("shared variable '" + v.name + "' is declared too late");
            shared_natural = round_up(shared_natural, v.align);
            n.offset = shared_natural + b->k->shared.size() * SHARED_GAP;
            b->k->shared.push_back({v.name, PTX_SHARED, n.offset, v.bytes});
            shared_natural += v.bytes;
        }
        scopes.back()[v.name] = n;
    }

    uint64_t dynamic_offset() const
    {
        return round_up(shared_natural, dynamic_align) + b->k->shared.size() * SHARED_GAP;
    }

    /* `name: .branchtargets a, b;` is a table, any other a place in the code. */
    void label()
    {
        std::string name = word();
        expect(":");
        if (!accept(".branchtargets"))
            return b->define_label(name, line());
        std::vector<std::string> targets;
        do
            targets.push_back(word());
        while (accept(","));
        b->add_table(name, targets, line());
        expect(";");
    }

    /* --- instructions --- */

    void statement()
    {
        size_t from = at;
        ptx_statement s;
        s.line = line();
        uint32_t guard_row = 0;
        uint8_t guard = 0;
        if (accept("@")) {
            guard = accept("!") ? 2 : 1;
            const ptx_name *p = find(word());
            if (!p || p->kind != ptx_name::REGISTER || p->width != PTX_W_PRED)
                fail("the guard is not a predicate");
            guard_row = p->row;
        }
        s.op = split_dots(word());
        if (s.op[0] == "call")
            call_rest();
        else if (s.op[0] == "st" && s.op.size() > 1 && s.op[1] == "param")
            skip_to_semicolon(); /* an argument of a call */
        else
            while (!is(";")) {
                s.operands.push_back(operand());
                if (!accept(","))
                    break;
            }
        expect(";");
        s.text = text_between(from, at);
        if (s.op[0] == "st" && s.op.size() > 1 && s.op[1] == "param")
            return;
        ptx_decode(*b, s, guard_row, guard);
    }

    void skip_to_semicolon()
    {
        while (!is(";"))
            take();
    }

    /* The only call that is understood: a failed assert, which ends the launch whatever its arguments are. */
    void call_rest()
    {
        if (!is("__assertfail"))
            fail("a call of '" + std::string(peek().text) + "': no calls but of __assertfail");
        skip_to_semicolon();
    }

    std::string text_between(size_t from, size_t to) const
    {
        std::string out;
        const char *end = nullptr;
        for (size_t i = from; i < to; i++) {
            if (end && t[i].text.data() != end)
                out += ' ';
            out += t[i].text;
            end = t[i].text.data() + t[i].text.size();
        }
        return out;
    }

    const ptx_name *find(const std::string &name) const
    {
        for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
            auto it = scope->find(name);
            if (it != scope->end())
                return &it->second;
        }
        return nullptr;
    }

    ptx_operand operand()
    {
        ptx_operand o = one_operand();
        if (!accept("|"))
            return o;
        ptx_operand both(ptx_operand::VECTOR);
        both.parts = {o, one_operand()};
        return both;
    }

    ptx_operand one_operand()
    {
        if (accept("["))
            return address();
        if (accept("{"))
            return vector();
        if (accept("!")) {
            ptx_operand o = named(word());
            o.negated = true;
            return o;
        }
        if (is("-") || isdigit(static_cast<unsigned char>(peek().text[0])))
            return constant_value();
        return named(word());
    }

    ptx_operand vector()
    {
        ptx_operand o(ptx_operand::VECTOR);
        do
            o.parts.push_back(one_operand());
        while (accept(","));
        expect("}");
        return o;
    }

    ptx_operand constant_value()
    {
        ptx_operand o(ptx_operand::IMMEDIATE);
        std::string_view w = peek().text;
        if (w.size() > 2 && w[0] == '0' && (w[1] == 'f' || w[1] == 'F' || w[1] == 'd' || w[1] == 'D')) {
            o.literal = static_cast<char>(tolower(w[1]));
            o.value = strtoull(word().c_str() + 2, nullptr, 16);
            return o;
        }
        o.value = number();
        return o;
    }

    ptx_operand named(const std::string &name)
    {
        if (name == "_")
            return ptx_operand(ptx_operand::SINK);
        bool is_special;
        ptx_special which = special_of(name, &is_special);
        ptx_operand o(ptx_operand::REGISTER);
        if (is_special) {
            o.row = b->special(which);
            o.width = 4;
            return o;
        }
        if (name == "WARP_SZ") {
            o = ptx_operand(ptx_operand::IMMEDIATE);
            o.value = PTX_LANES;
            return o;
        }
        const ptx_name *n = find(name);
        if (!n && name[0] == '%')
            fail("unknown register '" + name + "'");
        if (!n) {
            o = ptx_operand(ptx_operand::LABEL);
            o.label = name;
            return o;
        }
        if (n->kind == ptx_name::REGISTER) {
            o.row = n->row;
            o.width = n->width;
            return o;
        }
        o = ptx_operand(ptx_operand::IMMEDIATE);
        o.space = n->space;
        o.value = variable_offset(*n);
        return o;
    }

    uint64_t variable_offset(const ptx_name &n)
    {
        dynamic_used |= n.dynamic;
        return n.dynamic ? dynamic_offset() : n.offset;
    }

    ptx_operand address()
    {
        ptx_operand o(ptx_operand::ADDRESS);
        if (peek().kind == PTX_WORD && !isdigit(static_cast<unsigned char>(peek().text[0]))) {
            ptx_operand base = named(word());
            if (base.kind == ptx_operand::LABEL)
                fail("unknown name '" + base.label + "' in an address");
            o.has_base = base.kind == ptx_operand::REGISTER;
            o.row = base.row;
            o.width = base.width;
            o.space = base.space;
            o.value = base.value;
        } else {
            o.value = number();
        }
        while (accept("+"))
            o.value += number();
        if (is("-"))
            o.value += number();
        expect("]");
        return o;
    }
};

std::atomic<uint64_t> next_data_base{PTX_DATA_WINDOW};

} // namespace

std::unique_ptr<ptx_module, void (*)(ptx_module *)> ptx_parse(const char *text, size_t n, std::string *out_error)
{
    std::unique_ptr<ptx_module, void (*)(ptx_module *)> m(new ptx_module, [](ptx_module *p) { delete p; });
    m->data_base = next_data_base.fetch_add(PTX_MODULE_DATA_MAX);
    while (n > 0 && text[n - 1] == '\0') /* embedded text carries its end */
        n--;
    try {
        parser(std::string_view(text, n), m.get()).run();
    } catch (const ptx_error &e) {
        *out_error = e.what();
        m.reset();
    }
    return m;
}

const ptx_kernel *ptx_find(const ptx_module *module, const char *name)
{
    for (auto &k : module->kernels)
        if (k->info.name == name)
            return k.get();
    return nullptr;
}

const ptx_kernel_info &ptx_info(const ptx_kernel *kernel)
{
    return kernel->info;
}

std::vector<const ptx_kernel *> ptx_kernels(const ptx_module *module)
{
    std::vector<const ptx_kernel *> out;
    for (auto &k : module->kernels)
        out.push_back(k.get());
    return out;
}

bool ptx_find_data(ptx_module *module, const char *name, ptx_range *out)
{
    for (auto &s : module->symbols)
        if (s.name == name) {
            *out = {module->data_base + s.offset, module->data_base + s.offset + s.bytes,
                    &module->data[s.offset],      true,
                    s.space == PTX_GLOBAL,        0};
            return true;
        }
    return false;
}
