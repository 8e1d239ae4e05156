/* ptx_lex - PTX text to tokens: words (with their dots), single marks, strings. */
#include <cctype>
#include <cstring>

#include "ptx_syntax.h"

namespace
{

bool in_word(char c)
{
    return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

class lexer
{
  public:
    explicit lexer(std::string_view source) : s(source) {}

    std::vector<ptx_token> run()
    {
        std::vector<ptx_token> out;
        for (skip_blank(); at < s.size(); skip_blank())
            out.push_back(next());
        out.push_back({PTX_END, line, {}});
        return out;
    }

  private:
    std::string_view s;
    size_t at = 0;
    uint32_t line = 1;

    bool ahead(const char *what) const { return s.compare(at, strlen(what), what) == 0; }

    void skip_to(const char *what, bool past)
    {
        while (at < s.size() && !ahead(what))
            line += s[at++] == '\n';
        if (at == s.size() && past)
            throw ptx_error(line, "a comment without an end");
        if (past)
            at += strlen(what);
    }

    void skip_blank()
    {
        while (at < s.size()) {
            if (ahead("//"))
                skip_to("\n", false);
            else if (ahead("/*"))
                skip_to("*/", true);
            else if (isspace(static_cast<unsigned char>(s[at])))
                line += s[at++] == '\n';
            else
                return;
        }
    }

    ptx_token next()
    {
        size_t from = at;
        if (s[at] == '"') {
            at = s.find('"', at + 1);
            if (at == std::string_view::npos)
                throw ptx_error(line, "a string without an end");
            at++;
            return {PTX_STRING, line, s.substr(from, at - from)};
        }
        if (!in_word(s[at])) {
            at++;
            return {PTX_MARK, line, s.substr(from, 1)};
        }
        while (at < s.size() && (in_word(s[at]) || ahead("::")))
            at += s[at] == ':' ? 2 : 1;
        return {PTX_WORD, line, s.substr(from, at - from)};
    }
};

} // namespace

std::vector<ptx_token> ptx_lex(std::string_view source)
{
    return lexer(source).run();
}
