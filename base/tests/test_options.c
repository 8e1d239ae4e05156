#include "base/tests/test_base.h"

#include "base/buffer.h"
#include "base/options.h"

static struct {
    bool verbose, deterministic;
    const char *model, *dtype;
    uint64_t lease_ms, bytes, any;
    double temperature;
    struct base_option_list kafka, tags;
} got;

static const struct base_option table[] = {
    {"model", BASE_OPTION_STRING, &got.model, "DIR|NAME", NULL, .group = "Model", .help = "What to run.",
     .required = true},
    {"dtype", BASE_OPTION_CHOICE, &got.dtype, NULL, "f32", "f32|f16|bf16", .group = "Model",
     .help = "How weights are kept in memory."},
    {"lease-ms", BASE_OPTION_UINT, &got.lease_ms, "N", "10000", .min = 100, .max = 3600000, .group = "Snapshot",
     .help =
         "How long a restore may hold its index entry. Longer survives slow disks, shorter frees a crashed worker's "
         "entry sooner."},
    {"bytes", BASE_OPTION_UINT, &got.bytes, "N", NULL, .group = "Snapshot", .help = "Bytes."},
    {"any", BASE_OPTION_UINT, &got.any, "N", "7", .group = "Model", .help = "Out of order in the table."},
    {"temperature", BASE_OPTION_DOUBLE, &got.temperature, "T", "0.5", .min = 0, .max = 2, .help = "Without a group."},
    {"verbose", BASE_OPTION_FLAG, &got.verbose, .help = "Say more."},
    {"deterministic", BASE_OPTION_FLAG, &got.deterministic, .text = "true", .help = "Same prompt, same answer."},
    {"kafka", BASE_OPTION_LIST, &got.kafka, "KEY=VALUE", NULL, .help = "Any librdkafka property."},
    {"tag", BASE_OPTION_LIST, &got.tags, "T", "x\ny", .help = "Tags."},
    {0},
};

static const struct base_options_usage usage = {
    .command = "rouse test",
    .synopsis = "--model DIR|NAME [options]",
    .summary = "Runs nothing at all. It is here so that the table above has somebody to describe, in a text that is "
               "longer than a line of a terminal usually is.",
    .examples = "  rouse test --model x\n",
};

static const char *const environment[] = {"ROUSE_MODEL",         "ROUSE_DTYPE", "ROUSE_LEASE_MS",
                                          "ROUSE_TEMPERATURE",   "ROUSE_KAFKA", "ROUSE_VERBOSE",
                                          "ROUSE_DETERMINISTIC", "ROUSE_TAG",   "COLUMNS"};

static int forget(void **state)
{
    (void)state;
    base_options_done(table);
    memset(&got, 0, sizeof(got));
    for (size_t i = 0; i < N_OF(environment); i++)
        unsetenv(environment[i]);
    return 0;
}

/* Words separated by '|' become argv[1...]; positionals are an error where n_args is NULL. */
static int parse(const char *words, int *n_args, char ***out_argv, struct base_error *err)
{
    static char copy[4096];
    static char *argv[64];
    static char program[] = "rouse";
    int argc = 1;
    argv[0] = program;
    snprintf(copy, sizeof(copy), "%s", words);
    for (char *p = copy, *word; *words && (word = strsep(&p, "|"));)
        argv[argc++] = word;
    argv[argc] = NULL;
    if (out_argv)
        *out_argv = argv;
    return base_options_parse(&usage, table, argc, argv, n_args, err);
}

static void parse_ok(const char *words)
{
    struct base_error err = {0};
    if (parse(words, NULL, NULL, &err) != 0)
        fail_msg("%s: %s", words, err.text);
}

static void test_defaults(void **state)
{
    (void)state;
    got.bytes = 99;
    parse_ok("--model|m");
    assert_string_equal(got.model, "m");
    assert_string_equal(got.dtype, "f32");
    assert_int_equal(got.lease_ms, 10000);
    assert_int_equal(got.bytes, 99); /* no default: the target keeps its value */
    assert_true(got.temperature == 0.5);
    assert_false(got.verbose);
    assert_true(got.deterministic);
    assert_int_equal(got.kafka.n, 0);
    assert_int_equal(got.tags.n, 2);
    assert_string_equal(got.tags.items[1], "y");
}

static void test_both_forms(void **state)
{
    (void)state;
    parse_ok("--model=a=b|--lease-ms|200|--temperature=1.5e-1|--verbose|--deterministic=off|--kafka|a=1|--kafka=b=2");
    assert_string_equal(got.model, "a=b");
    assert_int_equal(got.lease_ms, 200);
    assert_true(got.temperature == 0.15);
    assert_true(got.verbose);
    assert_false(got.deterministic);
    assert_int_equal(got.kafka.n, 2);
    assert_string_equal(got.kafka.items[0], "a=1");
    assert_string_equal(got.kafka.items[1], "b=2");
    forget(NULL);
    parse_ok("--model|a|--model|b|--model=");
    assert_string_equal(got.model, ""); /* the last one counts, even when it is empty */
    forget(NULL);
    parse_ok("--model|-"); /* a value may begin with a dash */
    assert_string_equal(got.model, "-");
    forget(NULL);
    parse_ok("--model|--not-an-option");
    assert_string_equal(got.model, "--not-an-option");
    forget(NULL);
    parse_ok("--model=--dtype");
    assert_string_equal(got.model, "--dtype");
}

static void test_environment(void **state)
{
    (void)state;
    setenv("ROUSE_MODEL", "from-env", 1);
    setenv("ROUSE_LEASE_MS", "300", 1);
    setenv("ROUSE_DTYPE", "", 1); /* empty is unset */
    setenv("ROUSE_KAFKA", "a=1\nb=2 3\n", 1);
    setenv("ROUSE_VERBOSE", "Yes", 1);
    setenv("ROUSE_DETERMINISTIC", "0", 1);
    setenv("ROUSE_TAG", "z", 1);
    parse_ok("");
    assert_string_equal(got.model, "from-env");
    assert_int_equal(got.lease_ms, 300);
    assert_string_equal(got.dtype, "f32");
    assert_int_equal(got.kafka.n, 2);
    assert_string_equal(got.kafka.items[1], "b=2 3");
    assert_true(got.verbose);
    assert_false(got.deterministic);
    assert_int_equal(got.tags.n, 1); /* replaces the default, does not add to it */

    base_options_done(table);
    parse_ok("--lease-ms=400|--kafka|c=3|--verbose=false|--tag|p|--tag|q"); /* the command line beats the environment */
    assert_int_equal(got.lease_ms, 400);
    assert_int_equal(got.kafka.n, 1);
    assert_string_equal(got.kafka.items[0], "c=3");
    assert_false(got.verbose);
    assert_int_equal(got.tags.n, 2);
    assert_string_equal(got.tags.items[0], "p");
    assert_string_equal(getenv("ROUSE_KAFKA"), "a=1\nb=2 3\n"); /* children inherit it as it was */
}

static void test_positionals(void **state)
{
    (void)state;
    char **argv;
    int n = -1;
    assert_int_equal(parse("one|--model|m|two|-|--verbose|--|--three|-x", &n, &argv, NULL), 0);
    assert_int_equal(n, 5);
    static const char *const want[] = {"one", "two", "-", "--three", "-x"};
    for (size_t i = 0; i < N_OF(want); i++)
        assert_string_equal(argv[1 + i], want[i]);
    assert_string_equal(got.model, "m");
    assert_true(got.verbose);

    base_options_done(table);
    n = -1;
    assert_int_equal(parse("--model|m", &n, &argv, NULL), 0);
    assert_int_equal(n, 0);
}

static void test_uint(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        uint64_t want;
    } cases[] = {
        {"0", true, 0},
        {"18446744073709551615", true, UINT64_MAX},
        {"1K", true, 1024},
        {"1k", true, 1024},
        {"3M", true, 3u << 20},
        {"2G", true, UINT64_C(2) << 30},
        {"007", true, 7},
        {"18446744073709551616", false, 0},
        {"99999999999999999999999", false, 0},
        {"17179869184G", false, 0}, /* 2^64 */
        {"17179869183G", true, UINT64_C(17179869183) << 30},
        {"-1", false, 0},
        {"+1", false, 0},
        {" 1", false, 0},
        {"1 ", false, 0},
        {"", false, 0},
        {"K", false, 0},
        {"1KB", false, 0},
        {"1T", false, 0},
        {"0x10", false, 0},
        {"1.5", false, 0},
        {"1e3", false, 0},
        {"one", false, 0},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        char words[128];
        got.bytes = 5;
        snprintf(words, sizeof(words), "--model=m|--bytes=%s", cases[i].text);
        int rc = parse(words, NULL, NULL, &err);
        base_options_done(table);
        if (rc != (cases[i].ok ? 0 : ERR_USAGE) || got.bytes != (cases[i].ok ? cases[i].want : 5))
            fail_msg("'%s': %d %llu (%s)", cases[i].text, rc, (unsigned long long)got.bytes, err.text);
        if (!cases[i].ok && (!strstr(err.text, "--bytes") || !strstr(err.text, cases[i].text)))
            fail_msg("'%s': \"%s\" names neither option nor value", cases[i].text, err.text);
    }
}

static void test_double(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        double want;
    } cases[] = {
        {"0", true, 0},     {"2", true, 2},      {".5", true, 0.5}, {"1e-3", true, 1e-3}, {"2.0001", false, 0},
        {"-0.1", false, 0}, {"nan", false, 0},   {"inf", false, 0}, {"0x1", false, 0},    {"1e999", false, 0},
        {"", false, 0},     {"1.2.3", false, 0}, {" 1", false, 0},  {"1,5", false, 0},    {"e", false, 0},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        char words[128];
        snprintf(words, sizeof(words), "--model=m|--temperature=%s", cases[i].text);
        int rc = parse(words, NULL, NULL, &err);
        base_options_done(table);
        if (rc != (cases[i].ok ? 0 : ERR_USAGE) || (cases[i].ok && got.temperature != cases[i].want))
            fail_msg("'%s': %d %g (%s)", cases[i].text, rc, got.temperature, err.text);
    }
}

static void test_errors_end_in_a_hint(void **state)
{
    (void)state;
    static const struct {
        const char *words, *want;
    } cases[] = {
        {"", "--model DIR|NAME is required (or ROUSE_MODEL in the environment); see 'rouse test --help'"},
        {"--lease|1", "unknown option '--lease'; did you mean '--lease-ms'?"},
        {"--modle=x", "unknown option '--modle'; did you mean '--model'?"},
        {"-model", "unknown option '-model'; did you mean '--model'?"},
        {"--halp", "unknown option '--halp'; did you mean '--help'?"},
        {"--frobnicate=7", "unknown option '--frobnicate'; see 'rouse test --help'"},
        {"-x", "unknown option '-x'; see 'rouse test --help'"},
        {"--=x", "unknown option '--'; see 'rouse test --help'"},
        {"--model", "--model needs a value: --model DIR|NAME; see 'rouse test --help'"},
        {"--model|--dtype|f16", "--model needs a value: --model DIR|NAME; see 'rouse test --help'"},
        {"--model|m|--dtype", "--dtype needs a value: --dtype f32|f16|bf16; see 'rouse test --help'"},
        {"--model|m|--dtype|f64", "--dtype: 'f64' is not one of f32|f16|bf16; see 'rouse test --help'"},
        {"--model|m|--dtype|f", "--dtype: 'f' is not one of f32|f16|bf16; see 'rouse test --help'"},
        {"--model|m|--dtype=", "--dtype: '' is not one of f32|f16|bf16; see 'rouse test --help'"},
        {"--model|m|--lease-ms|99",
         "--lease-ms: '99' is not a whole number from 100 to 3600000; see 'rouse test --help'"},
        {"--model|m|--lease-ms|3600001",
         "--lease-ms: '3600001' is not a whole number from 100 to 3600000; see 'rouse test --help'"},
        {"--model|m|--bytes|-1", "--bytes: '-1' is not a whole number at least 0; see 'rouse test --help'"},
        {"--model|m|--temperature|3", "--temperature: '3' is not a number from 0 to 2; see 'rouse test --help'"},
        {"--model|m|--verbose=maybe", "--verbose: 'maybe' is not true or false; see 'rouse test --help'"},
        {"--model|m|stray", "unexpected argument 'stray'; see 'rouse test --help'"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        assert_int_equal(parse(cases[i].words, NULL, NULL, &err), ERR_USAGE);
        if (strcmp(err.text, cases[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", cases[i].words, err.text, cases[i].want);
        assert_null(got.tags.items); /* nothing is left to free after a failure */
    }
    setenv("ROUSE_LEASE_MS", "soon", 1);
    struct base_error err = {0};
    assert_int_equal(parse("--model|m", NULL, NULL, &err), ERR_USAGE);
    assert_string_equal(err.text,
                        "ROUSE_LEASE_MS: 'soon' is not a whole number from 100 to 3600000; see 'rouse test --help'");
}

static void test_long_words_are_survived(void **state)
{
    (void)state;
    char words[3000];
    struct base_error err = {0};
    memset(words, 'x', sizeof(words) - 1);
    words[sizeof(words) - 1] = '\0';
    words[0] = words[1] = '-';
    assert_int_equal(parse(words, NULL, NULL, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "--help"));
    memcpy(words, "--bytes=", 8);
    assert_int_equal(parse(words, NULL, NULL, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "--help"));
    words[0] = 'x';
    assert_int_equal(parse(words, NULL, NULL, &err), ERR_USAGE);
    assert_non_null(strstr(err.text, "--help"));
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"in", "out", "brokers", "lease-ms", "max-tokens", "temperature", NULL};
    static const struct {
        const char *word, *want;
    } cases[] = {
        {"brokers", "brokers"},
        {"broker", "brokers"},
        {"borkers", "brokers"},
        {"leasems", "lease-ms"},
        {"lease", "lease-ms"},
        {"tempratur", "temperature"},
        {"max_tokens", "max-tokens"},
        {"on", "in"},
        {"ot", "out"},
        {"", NULL},
        {"x", NULL},
        {"completely-else", NULL},
        {"tokens", NULL},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        const char *nearest = base_options_nearest(cases[i].word, names);
        if (nearest != cases[i].want && (!nearest || !cases[i].want || strcmp(nearest, cases[i].want) != 0))
            fail_msg("%s: %s, want %s", cases[i].word, nearest ? nearest : "nothing",
                     cases[i].want ? cases[i].want : "nothing");
    }
    assert_null(base_options_nearest("x", (const char *const[]){NULL}));
}

/* ---- help ---- */

static char *help_text(void)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    base_options_help(&usage, table, f);
    fclose(f);
    return text;
}

static void test_help_fits_the_terminal(void **state)
{
    (void)state;
    static const struct {
        const char *columns;
        size_t width;
    } cases[] = {{"60", 60}, {"80", 80}, {"100", 100}, {"1000", 120}, {"1", 40}, {"nonsense", 100}, {NULL, 100}};
    for (size_t i = 0; i < N_OF(cases); i++) {
        if (cases[i].columns)
            setenv("COLUMNS", cases[i].columns, 1);
        else
            unsetenv("COLUMNS");
        char *text = help_text();
        for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
            size_t n = strcspn(line, "\n");
            if (n > cases[i].width && strchr(line + cases[i].width / 2, ' ') < line + n)
                fail_msg("%zu columns, not %zu: %.*s", n, cases[i].width, (int)n, line);
            if (n > 0 && line[n - 1] == ' ')
                fail_msg("blank at the end of: %.*s", (int)n, line);
        }
        free(text);
    }
}

static void test_help_shows_what_there_is(void **state)
{
    (void)state;
    setenv("COLUMNS", "80", 1);
    char *text = help_text();
    print_message("%s", text);
    static const char *const want[] = {
        "Usage: rouse test --model DIR|NAME [options]\n\nRuns nothing",
        "\n\nModel:\n  --model DIR|NAME",
        "What to run. Required.\n",
        "  --dtype f32|f16|bf16  How weights are kept in memory. Default: f32\n",
        "  --any N ",
        "\n\nSnapshot:\n  --lease-ms N",
        "Default: 10000\n",
        "\n\nOptions:\n  --temperature T",
        "  --verbose  ",
        "--deterministic=off turns it off",
        "--kafka KEY=VALUE",
        "May be given again.",
        "Default: x, y\n",
        "  --help  ",
        "--model is ROUSE_MODEL",
        "Examples:\n  rouse test --model x\n",
    };
    const char *at = text;
    for (size_t i = 0; i < N_OF(want); i++) {
        const char *found = strstr(at, want[i]);
        if (!found)
            fail_msg("\"%s\" is missing behind \"%.60s\"", want[i], at);
        at = found;
    }
    free(text);
}

static void test_help_is_answered_first(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int rc;
    } cases[] = {
        {"--help", 1},           {"-h", 1},
        {"--unknown|--help", 1}, {"--lease-ms|x|--help", 1},
        {"--model|--help", 1},   {"--model|m|--|--help", ERR_USAGE},
        {"--model|-h", 0},       {"--model=--help", 0},
    };
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    for (size_t i = 0; i < N_OF(cases); i++) {
        FILE *f = tmpfile();
        dup2(fileno(f), STDOUT_FILENO);
        int rc = parse(cases[i].words, NULL, NULL, NULL);
        fflush(stdout);
        dup2(saved, STDOUT_FILENO);
        struct stat st;
        fstat(fileno(f), &st);
        fclose(f);
        base_options_done(table);
        if (rc != cases[i].rc || (st.st_size > 0) != (rc == 1))
            fail_msg("%s: %d and %lld bytes, want %d", cases[i].words, rc, (long long)st.st_size, cases[i].rc);
    }
    close(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, forget, forget),
        cmocka_unit_test_setup_teardown(test_both_forms, forget, forget),
        cmocka_unit_test_setup_teardown(test_environment, forget, forget),
        cmocka_unit_test_setup_teardown(test_positionals, forget, forget),
        cmocka_unit_test_setup_teardown(test_uint, forget, forget),
        cmocka_unit_test_setup_teardown(test_double, forget, forget),
        cmocka_unit_test_setup_teardown(test_errors_end_in_a_hint, forget, forget),
        cmocka_unit_test_setup_teardown(test_long_words_are_survived, forget, forget),
        cmocka_unit_test_setup_teardown(test_nearest, forget, forget),
        cmocka_unit_test_setup_teardown(test_help_fits_the_terminal, forget, forget),
        cmocka_unit_test_setup_teardown(test_help_shows_what_there_is, forget, forget),
        cmocka_unit_test_setup_teardown(test_help_is_answered_first, forget, forget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
