#include "base/options.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/buffer.h"

enum {
    OPTIONS_MAX = 128,
    OPTIONS_NAME_BYTES_MAX = 63,
    OPTIONS_HELP_COLUMN_MAX = 34, /* where help texts begin at most; longer options get a line of their own */
    OPTIONS_WIDTH_DEFAULT = 100,
    OPTIONS_WIDTH_MIN = 40,
    OPTIONS_WIDTH_MAX = 120
};

/* Who gave a value; the later ones replace what the earlier ones said. */
enum options_source { OPTIONS_UNSET, OPTIONS_DEFAULT, OPTIONS_ENVIRONMENT, OPTIONS_COMMAND_LINE };

/* One parse. */
struct options_parse {
    const struct base_options_usage *usage;
    const struct base_option *table;
    struct base_error *err;
    enum options_source given[OPTIONS_MAX];
};

/* ---- nearest name ---- */

static size_t options_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits between a and b: insert, delete, replace, swap of neighbours (optimal string alignment). */
static size_t options_edits(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t rows[3][OPTIONS_NAME_BYTES_MAX + 1]; /* the row before the last, the last, this one */
    size_t *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t k = 0; k <= n_b; k++)
        last[k] = k;
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (size_t k = 1; k <= n_b; k++) {
            row[k] = options_min(options_min(last[k], row[k - 1]) + 1, last[k - 1] + (a[i - 1] != b[k - 1]));
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
                row[k] = options_min(row[k], before[k - 2] + 1);
        }
        size_t *free_row = before;
        before = last;
        last = row;
        row = free_row;
    }
    return last[n_b];
}

const char *base_options_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    size_t n_word = strlen(word), best_edits = SIZE_MAX;
    if (n_word > OPTIONS_NAME_BYTES_MAX)
        return NULL;
    for (; *names; names++) {
        size_t n_name = strlen(*names);
        if (n_name > OPTIONS_NAME_BYTES_MAX)
            continue;
        size_t edits = options_edits(word, n_word, *names, n_name);
        if (edits < best_edits && edits <= (n_name + 1) / 3) {
            best = *names;
            best_edits = edits;
        }
    }
    return best;
}

/* ---- values ---- */

static const char *options_arg(const struct base_option *o)
{
    if (o->arg)
        return o->arg;
    return o->kind == BASE_OPTION_CHOICE ? o->choices : "VALUE";
}

static bool options_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"0", "false", "no", "off"};
    for (size_t i = 0; i < 4; i++) {
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *out = strcasecmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

/* Digits and a suffix, nothing else: strtoull would take a sign, blanks and an overflow. */
static bool options_uint(const char *text, uint64_t *out)
{
    uint64_t v = 0;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    }
    if (p == text)
        return false;
    static const char suffixes[] = "KMG";
    const char *suffix = *p ? strchr(suffixes, toupper((unsigned char)*p)) : NULL;
    if (suffix) {
        if (__builtin_mul_overflow(v, UINT64_C(1) << (10 * (suffix - suffixes + 1)), &v))
            return false;
        p++;
    }
    *out = v;
    return *p == '\0';
}

static bool options_double(const char *text, double *out)
{
    if (text[0] == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

static bool options_in_range(const struct base_option *o, double v)
{
    return v >= o->min && (o->max == 0 || v <= o->max);
}

static bool options_is_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; n > 0; p++) {
        size_t n_choice = strcspn(p, "|");
        if (n_choice == n && memcmp(p, text, n) == 0)
            return true;
        p += n_choice;
        if (*p == '\0')
            break;
    }
    return false;
}

static void options_range_text(const struct base_option *o, char *out, size_t size)
{
    if (o->max == 0)
        snprintf(out, size, "at least %.15g", o->min);
    else
        snprintf(out, size, "from %.15g to %.15g", o->min, o->max);
}

static int options_bad_value(const struct options_parse *ps, const struct base_option *o, const char *source,
                             const char *text)
{
    char want[256];
    switch (o->kind) {
    case BASE_OPTION_FLAG:
        snprintf(want, sizeof(want), "true or false");
        break;
    case BASE_OPTION_CHOICE:
        snprintf(want, sizeof(want), "one of %s", o->choices);
        break;
    default: {
        char range[128];
        options_range_text(o, range, sizeof(range));
        snprintf(want, sizeof(want), "%s %s", o->kind == BASE_OPTION_UINT ? "a whole number" : "a number", range);
        break;
    }
    }
    return base_fail(ps->err, ERR_USAGE, "%s: '%.80s' is not %s; see '%s --help'", source, text, want,
                     ps->usage->command);
}

static int options_no_memory(const struct options_parse *ps, const struct base_option *o)
{
    return base_fail(ps->err, ERR_NOMEM, "--%s: out of memory", o->name);
}

static int options_list_add(const struct options_parse *ps, const struct base_option *o, const char *text)
{
    struct base_option_list *list = o->target;
    const char **items = realloc(list->items, (list->n + 1) * sizeof(*items));
    if (!items)
        return options_no_memory(ps, o);
    items[list->n++] = text;
    list->items = items;
    return 0;
}

/* A newline-separated list. Its strings lie behind the array, in the same piece of memory, so that both are freed as one. */
static int options_list_split(const struct options_parse *ps, const struct base_option *o, const char *text)
{
    size_t n_items = 1, n_bytes = strlen(text) + 1;
    for (const char *p = text; *p; p++)
        n_items += *p == '\n';
    const char **items = malloc(n_items * sizeof(*items) + n_bytes);
    if (!items)
        return options_no_memory(ps, o);
    char *copy = (char *)(items + n_items), *state = NULL;
    memcpy(copy, text, n_bytes);
    struct base_option_list *list = o->target;
    list->items = items;
    list->n = 0;
    for (char *item = strtok_r(copy, "\n", &state); item; item = strtok_r(NULL, "\n", &state))
        list->items[list->n++] = item;
    return 0;
}

static void options_list_done(struct base_option_list *list)
{
    free(list->items);
    *list = (struct base_option_list){0};
}

static int options_list_set(struct options_parse *ps, const struct base_option *o, const char *text,
                            enum options_source source)
{
    if (source != OPTIONS_COMMAND_LINE)
        return options_list_split(ps, o, text);
    return options_list_add(ps, o, text);
}

/* name: what the user wrote to give the value, for the message. */
static int options_set(struct options_parse *ps, const struct base_option *o, const char *name, const char *text,
                       enum options_source source)
{
    enum options_source *given = &ps->given[o - ps->table];
    if (o->kind == BASE_OPTION_LIST && *given != source)
        options_list_done(o->target);
    *given = source;
    switch (o->kind) {
    case BASE_OPTION_FLAG:
        if (!options_bool(text, o->target))
            return options_bad_value(ps, o, name, text);
        return 0;
    case BASE_OPTION_UINT: {
        uint64_t v;
        if (!options_uint(text, &v) || !options_in_range(o, (double)v))
            return options_bad_value(ps, o, name, text);
        *(uint64_t *)o->target = v;
        return 0;
    }
    case BASE_OPTION_DOUBLE: {
        double v;
        if (!options_double(text, &v) || !options_in_range(o, v))
            return options_bad_value(ps, o, name, text);
        *(double *)o->target = v;
        return 0;
    }
    case BASE_OPTION_CHOICE:
        if (!options_is_choice(o->choices, text))
            return options_bad_value(ps, o, name, text);
        *(const char **)o->target = text;
        return 0;
    case BASE_OPTION_STRING:
        *(const char **)o->target = text;
        return 0;
    case BASE_OPTION_LIST:
        return options_list_set(ps, o, text, source);
    }
    return base_fail(ps->err, ERR_INTERNAL, "--%s: unknown kind of option", o->name);
}

/* ---- sources ---- */

static void options_env_name(const struct base_option *o, char out[OPTIONS_NAME_BYTES_MAX + 8])
{
    char *p = out;
    memcpy(p, "ROUSE_", 6);
    p += 6;
    for (const char *s = o->name; *s; s++)
        *p++ = *s == '-' ? '_' : (char)toupper((unsigned char)*s);
    *p = '\0';
}

static int options_apply_defaults(struct options_parse *ps)
{
    for (const struct base_option *o = ps->table; o->name; o++) {
        assert(o - ps->table < OPTIONS_MAX && strlen(o->name) <= OPTIONS_NAME_BYTES_MAX);
        int rc = o->text ? options_set(ps, o, o->name, o->text, OPTIONS_DEFAULT) : 0;
        assert(rc != ERR_USAGE); /* a table whose own default it refuses */
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* An empty variable is an unset one: templates of charts and compose files leave such behind. */
static int options_apply_environment(struct options_parse *ps)
{
    for (const struct base_option *o = ps->table; o->name; o++) {
        char name[OPTIONS_NAME_BYTES_MAX + 8];
        options_env_name(o, name);
        const char *text = getenv(name);
        int rc = text && *text ? options_set(ps, o, name, text, OPTIONS_ENVIRONMENT) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

static const struct base_option *options_find(const struct base_option *table, const char *name, size_t n)
{
    for (const struct base_option *o = table; o->name; o++) {
        if (strlen(o->name) == n && memcmp(o->name, name, n) == 0)
            return o;
    }
    return NULL;
}

static int options_unknown(const struct options_parse *ps, const char *arg)
{
    const char *names[OPTIONS_MAX + 2];
    size_t n_names = 0;
    for (const struct base_option *o = ps->table; o->name; o++)
        names[n_names++] = o->name;
    names[n_names++] = "help";
    names[n_names] = NULL;
    char word[OPTIONS_NAME_BYTES_MAX + 2];
    const char *begin = arg + strspn(arg, "-");
    snprintf(word, sizeof(word), "%.*s", (int)options_min(strcspn(begin, "="), sizeof(word) - 1), begin);
    const char *nearest = base_options_nearest(word, names);
    int n_arg = (int)options_min(strcspn(arg, "="), 80);
    if (nearest)
        return base_fail(ps->err, ERR_USAGE, "unknown option '%.*s'; did you mean '--%s'?", n_arg, arg, nearest);
    return base_fail(ps->err, ERR_USAGE, "unknown option '%.*s'; see '%s --help'", n_arg, arg, ps->usage->command);
}

/* The value of o at argv[*io_i]: behind its "=", or the next argument. A next argument that is itself an option means that
 * the value was forgotten; "--name=--other" is there for those who mean it. */
static int options_value(const struct options_parse *ps, const struct base_option *o, int argc, char **argv, int *io_i,
                         const char **out_text)
{
    const char *equals = strchr(argv[*io_i], '=');
    if (equals) {
        *out_text = equals + 1;
        return 0;
    }
    if (o->kind == BASE_OPTION_FLAG) {
        *out_text = "true";
        return 0;
    }
    const char *next = *io_i + 1 < argc ? argv[*io_i + 1] : NULL;
    if (!next || (strncmp(next, "--", 2) == 0 && options_find(ps->table, next + 2, strcspn(next + 2, "="))))
        return base_fail(ps->err, ERR_USAGE, "--%s needs a value: --%s %s; see '%s --help'", o->name, o->name,
                         options_arg(o), ps->usage->command);
    *out_text = next;
    (*io_i)++;
    return 0;
}

static int options_apply_argument(struct options_parse *ps, int argc, char **argv, int *io_i)
{
    const char *arg = argv[*io_i];
    const struct base_option *o =
        strncmp(arg, "--", 2) == 0 ? options_find(ps->table, arg + 2, strcspn(arg + 2, "=")) : NULL;
    if (!o)
        return options_unknown(ps, arg);
    const char *text = NULL;
    int rc = options_value(ps, o, argc, argv, io_i, &text);
    if (rc < 0)
        return rc;
    char name[OPTIONS_NAME_BYTES_MAX + 3];
    snprintf(name, sizeof(name), "--%s", o->name);
    return options_set(ps, o, name, text, OPTIONS_COMMAND_LINE);
}

static bool options_is_positional(const char *arg)
{
    return arg[0] != '-' || arg[1] == '\0'; /* "-" is stdin */
}

static int options_apply_arguments(struct options_parse *ps, int argc, char **argv, int *out_n_args)
{
    int n_args = 0;
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        if (!options_over && strcmp(argv[i], "--") == 0) {
            options_over = true;
            continue;
        }
        if (!options_over && !options_is_positional(argv[i])) {
            int rc = options_apply_argument(ps, argc, argv, &i);
            if (rc < 0)
                return rc;
            continue;
        }
        if (!out_n_args)
            return base_fail(ps->err, ERR_USAGE, "unexpected argument '%.80s'; see '%s --help'", argv[i],
                             ps->usage->command);
        argv[1 + n_args++] = argv[i];
    }
    if (out_n_args)
        *out_n_args = n_args;
    return 0;
}

static int options_check_required(const struct options_parse *ps)
{
    for (const struct base_option *o = ps->table; o->name; o++) {
        if (!o->required || ps->given[o - ps->table] != OPTIONS_UNSET)
            continue;
        char env[OPTIONS_NAME_BYTES_MAX + 8];
        options_env_name(o, env);
        return base_fail(ps->err, ERR_USAGE, "--%s %s is required (or %s in the environment); see '%s --help'", o->name,
                         options_arg(o), env, ps->usage->command);
    }
    return 0;
}

/* Asked before anything else is looked at: help is what people call for when the rest is wrong. */
static bool options_wants_help(const struct base_option *table, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        const struct base_option *o = strncmp(argv[i], "--", 2) == 0 && !strchr(argv[i], '=')
                                          ? options_find(table, argv[i] + 2, strlen(argv[i] + 2))
                                          : NULL;
        /* The next argument is this option's value, even where it reads "-h" - but not a plain "--help". */
        if (o && o->kind != BASE_OPTION_FLAG && i + 1 < argc && strcmp(argv[i + 1], "--help") != 0)
            i++;
    }
    return false;
}

int base_options_parse(const struct base_options_usage *usage, const struct base_option *table, int argc, char **argv,
                       int *out_n_args, struct base_error *err)
{
    if (options_wants_help(table, argc, argv)) {
        base_options_help(usage, table, stdout);
        return 1;
    }
    struct options_parse ps = {.usage = usage, .table = table, .err = err};
    int rc = options_apply_defaults(&ps);
    if (rc == 0)
        rc = options_apply_environment(&ps);
    if (rc == 0)
        rc = options_apply_arguments(&ps, argc, argv, out_n_args);
    if (rc == 0)
        rc = options_check_required(&ps);
    if (rc < 0)
        base_options_done(table);
    return rc;
}

void base_options_done(const struct base_option *table)
{
    for (const struct base_option *o = table; o->name; o++) {
        if (o->kind == BASE_OPTION_LIST)
            options_list_done(o->target);
    }
}

/* ---- help ---- */

static int options_width(FILE *out)
{
    struct winsize ws = {0};
    const char *columns = getenv("COLUMNS");
    int width = columns ? atoi(columns) : 0;
    if (width <= 0 && ioctl(fileno(out), TIOCGWINSZ, &ws) == 0)
        width = ws.ws_col;
    if (width <= 0)
        return OPTIONS_WIDTH_DEFAULT;
    if (width < OPTIONS_WIDTH_MIN)
        return OPTIONS_WIDTH_MIN;
    return width < OPTIONS_WIDTH_MAX ? width : OPTIONS_WIDTH_MAX;
}

/* Words of text from column on, broken before width, each further line indented. */
static void options_wrap(FILE *out, const char *text, int column, int indent, int width)
{
    int at = column;
    bool first = true; /* of its line: no blank before it, and no place where it would fit better */
    for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " ")) {
        int n = (int)strcspn(p, " ");
        if (!first && at + 1 + n > width) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
            first = true;
        }
        fprintf(out, "%s%.*s", first ? "" : " ", n, p);
        at += n + (first ? 0 : 1);
        first = false;
        p += n;
    }
    fputc('\n', out);
}

static void options_label(const struct base_option *o, char *out, size_t size)
{
    if (o->kind == BASE_OPTION_FLAG)
        snprintf(out, size, "  --%s", o->name);
    else
        snprintf(out, size, "  --%s %s", o->name, options_arg(o));
}

/* The items of a list stand in lines; in a sentence they are separated by commas. */
static void options_default_text(const char *text, struct base_buffer *out)
{
    base_buffer_string(out, " Default: ");
    for (const char *p = text; *p; p++)
        base_buffer_string(out, *p == '\n' ? ", " : (char[]){*p, '\0'});
}

static void options_help_text(const struct base_option *o, struct base_buffer *out)
{
    base_buffer_string(out, o->help ? o->help : "");
    if (o->kind == BASE_OPTION_CHOICE && o->arg)
        base_buffer_printf(out, " One of %s.", o->choices);
    if (o->kind == BASE_OPTION_LIST)
        base_buffer_string(out, " May be given again.");
    bool on = false;
    if (o->required)
        base_buffer_string(out, " Required.");
    else if (o->kind == BASE_OPTION_FLAG && o->text && options_bool(o->text, &on) && on)
        base_buffer_printf(out, " Default: on; --%s=off turns it off", o->name);
    else if (o->kind != BASE_OPTION_FLAG && o->text && *o->text)
        options_default_text(o->text, out);
}

static void options_help_row(FILE *out, const char *label, const char *text, int column, int width)
{
    int n = (int)strlen(label);
    fputs(label, out);
    if (n + 2 > column)
        fprintf(out, "\n%*s", column, "");
    else
        fprintf(out, "%*s", column - n, "");
    options_wrap(out, text, column, column, width);
}

static void options_help_option(FILE *out, const struct base_option *o, int column, int width)
{
    char label[160];
    struct base_buffer text;
    base_buffer_init(&text, 4096);
    options_label(o, label, sizeof(label));
    options_help_text(o, &text);
    options_help_row(out, label, base_buffer_cstr(&text), column, width);
    base_buffer_done(&text);
}

/* Wide enough for the longest label that fits the limit. */
static int options_help_column(const struct base_option *table)
{
    int column = (int)strlen("  --help") + 2;
    for (const struct base_option *o = table; o->name; o++) {
        char label[160];
        options_label(o, label, sizeof(label));
        int n = (int)strlen(label) + 2;
        if (n > column && n <= OPTIONS_HELP_COLUMN_MAX)
            column = n;
    }
    return column;
}

static const char *options_group(const struct base_option *o)
{
    return o->group ? o->group : "Options";
}

static bool options_group_is_new(const struct base_option *table, const struct base_option *o)
{
    for (const struct base_option *before = table; before < o; before++) {
        if (strcmp(options_group(before), options_group(o)) == 0)
            return false;
    }
    return true;
}

void base_options_help(const struct base_options_usage *usage, const struct base_option *table, FILE *out)
{
    int width = options_width(out), column = options_help_column(table);
    if (column > width / 2)
        column = width / 2;
    int indent = fprintf(out, "Usage: %s ", usage->command);
    options_wrap(out, usage->synopsis, indent, indent < width / 2 ? indent : 4, width);
    fputc('\n', out);
    options_wrap(out, usage->summary, 0, 0, width);
    for (const struct base_option *head = table; head->name; head++) {
        if (!options_group_is_new(table, head))
            continue;
        fprintf(out, "\n%s:\n", options_group(head));
        for (const struct base_option *o = head; o->name; o++) {
            if (strcmp(options_group(o), options_group(head)) == 0)
                options_help_option(out, o, column, width);
        }
    }
    fputc('\n', out);
    options_help_row(out, "  --help", "Print this text.", column, width);
    if (table->name) {
        char env[OPTIONS_NAME_BYTES_MAX + 8], text[256];
        options_env_name(table, env);
        snprintf(text, sizeof(text), "Every option can also be set in the environment: --%s is %s.", table->name, env);
        fputc('\n', out);
        options_wrap(out, text, 0, 0, width);
    }
    if (usage->examples)
        fprintf(out, "\nExamples:\n%s%s", usage->examples,
                usage->examples[strlen(usage->examples) - 1] == '\n' ? "" : "\n");
}
