/* selftest ISA.ptx BUGS.ptx COUNTERS.ptx FORMS.ptx - the interpreter against plain C++, and against planted bugs. */
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "selftest.h"

selftest_module selftest_parse(const char *path)
{
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    std::string source = text.str(), error = "cannot be read";
    selftest_module m = ptx_parse(source.data(), source.size(), &error);
    if (!m) {
        printf("%s: %s\n", path, error.c_str());
        exit(1);
    }
    return m;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: %s ISA.ptx BUGS.ptx COUNTERS.ptx FORMS.ptx\n", argv[0]);
        return 2;
    }
    selftest_count count;
    text_test(count);
    isa_test(selftest_parse(argv[1]).get(), count);
    bugs_test(selftest_parse(argv[2]).get(), count);
    counters_test(selftest_parse(argv[3]).get(), count);
    forms_test(selftest_parse(argv[4]).get(), count);
    printf("%u passed, %u failed\n", count.passed, count.failed);
    return count.failed ? 1 : 0;
}
