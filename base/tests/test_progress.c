#include "base/tests/test_base.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "base/progress.h"

static int saved_stderr = -1, terminal = -1;

/* stderr becomes a terminal of our own with that many columns. */
static void terminal_begin(unsigned short columns)
{
    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0) {
        print_message("skipped: no pseudo-terminals here: %s\n", strerror(errno));
        skip();
    }
    int slave = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(slave >= 0);
    struct winsize ws = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(ioctl(slave, TIOCSWINSZ, &ws), 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    close(slave);
}

static const char *terminal_read(void)
{
    static char text[4096];
    size_t n = 0;
    struct pollfd p = {.fd = terminal, .events = POLLIN};
    while (poll(&p, 1, 50) == 1 && (p.revents & POLLIN) && n < sizeof(text) - 1) {
        ssize_t got = read(terminal, text + n, sizeof(text) - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = '\0';
    return text;
}

static void terminal_end(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(terminal);
}

/* As if the work had begun that long ago and nothing were drawn yet. */
static void age(struct base_progress *p, double seconds)
{
    p->began_ns -= (uint64_t)(seconds * 1e9);
    p->drawn_ns = 0;
}

static void test_lines(void **state)
{
    (void)state;
    static const struct {
        const char *name, *unit;
        uint64_t total, done;
        double seconds;
        const char *want; /* up to the rate, which depends on the clock */
    } cases[] = {
        {"bytes", "B", 2800000000, 1624000000, 1.5,
         "job  [=============>          ]  58 %  1.6 of 2.8 GB  1.1 GB/s  2 s left"},
        {"all done", "B", 2000, 2000, 2, "job  [========================] 100 %  2.0 of 2.0 kB"},
        {"small", "B", 900, 90, 2, "job  [==>                     ]  10 %  90 of 900 B"},
        {"words", "prompts", 10, 5, 2, "job  [============>           ]  50 %  5 of 10 prompts  2.5 prompts/s"},
        {"more than all", "prompts", 10, 20, 2, "job  [========================] 100 %  10 of 10 prompts"},
        {"total unknown", "B", 0, 3000000, 2, "job  3.0 MB  1.5 MB/s"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_progress p;
        terminal_begin(120);
        base_progress_begin(&p, "job", cases[i].unit, cases[i].total);
        age(&p, cases[i].seconds);
        base_progress_set(&p, cases[i].done);
        char text[4096];
        snprintf(text, sizeof(text), "%s", terminal_read());
        base_progress_end(&p);
        bool cleared = strcmp(terminal_read(), "\r\033[K") == 0;
        terminal_end();
        if (text[0] != '\r' || strncmp(text + 1, cases[i].want, strlen(cases[i].want)) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", cases[i].name, text, cases[i].want);
        if (!cleared)
            fail_msg("%s: the line was not cleared", cases[i].name);
    }
}

static void test_a_narrow_terminal_does_not_wrap(void **state)
{
    (void)state;
    struct base_progress p;
    terminal_begin(30);
    base_progress_begin(&p, "a label of some length", "B", 1000000);
    age(&p, 1);
    base_progress_set(&p, 500000);
    size_t n = strlen(terminal_read());
    base_progress_end(&p);
    terminal_end();
    assert_int_equal(n, 1 + 29 + 3); /* return, columns - 1, clear to the end */
}

static void test_quick_work_draws_nothing_and_slow_work_not_too_often(void **state)
{
    (void)state;
    struct base_progress p;
    terminal_begin(120);
    base_progress_begin(&p, "job", "B", 1000);
    base_progress_set(&p, 500);
    base_progress_end(&p);
    bool quiet = *terminal_read() == '\0';
    base_progress_begin(&p, "job", "B", 1000000);
    age(&p, 1);
    for (uint64_t i = 0; i < 10000; i++)
        base_progress_set(&p, i);
    int n_lines = 0;
    for (const char *c = terminal_read(); *c; c++)
        n_lines += *c == '\r';
    terminal_end();
    assert_true(quiet);
    assert_in_range(n_lines, 1, 10);
}

static void test_silent_without_a_terminal(void **state)
{
    (void)state;
    FILE *f = tmpfile();
    int saved = dup(STDERR_FILENO);
    dup2(fileno(f), STDERR_FILENO);
    struct base_progress p;
    base_progress_begin(&p, "job", "B", 1000);
    age(&p, 1);
    base_progress_set(&p, 500);
    base_progress_end(&p);
    dup2(saved, STDERR_FILENO);
    close(saved);
    struct stat st;
    fstat(fileno(f), &st);
    fclose(f);
    assert_int_equal(st.st_size, 0);
    assert_false(p.on);
    assert_int_equal(p.done, 500); /* counted all the same */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_a_narrow_terminal_does_not_wrap),
        cmocka_unit_test(test_quick_work_draws_nothing_and_slow_work_not_too_often),
        cmocka_unit_test(test_silent_without_a_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
