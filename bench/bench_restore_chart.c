/* The chart: for each case its phases as bars on one time axis of its own, and a line where the limit is. Plain SVG 1.1. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "bench/bench_restore.h"

enum { WIDTH = 960, LEFT = 210, BARS = 560, ROW = 20, GROUP_GAP = 46, TOP = 74 };

struct bars {
    struct base_buffer *out;
    double scale; /* pixels a second */
    int y;
};

/* Names come from models and file systems. */
static void escaped(struct base_buffer *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '>' || *text == '&' || *text == '"')
            base_buffer_printf(out, "&#%d;", *text);
        else if ((unsigned char)*text >= 0x20)
            base_buffer_byte(out, (uint8_t)*text);
    }
}

static void bar(struct bars *b, const char *name, const char *colour, struct bench_summary s)
{
    if (!s.n)
        return;
    double x0 = LEFT + s.low * b->scale, x1 = LEFT + s.high * b->scale;
    base_buffer_printf(b->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", LEFT - 8, b->y + 14, name);
    base_buffer_printf(b->out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", LEFT, b->y + 3,
                       s.median * b->scale > 1 ? s.median * b->scale : 1, ROW - 6, colour);
    base_buffer_printf(b->out, "<path d=\"M%.1f %dH%.1fM%.1f %dv6M%.1f %dv6\" stroke=\"#222\" fill=\"none\"/>\n", x0,
                       b->y + ROW / 2, x1, x0, b->y + ROW / 2 - 3, x1, b->y + ROW / 2 - 3);
    base_buffer_printf(b->out, "<text x=\"%.1f\" y=\"%d\">%.*f ms</text>\n", x1 + 6, b->y + 14, s.median < 0.01 ? 2 : 1,
                       1e3 * s.median);
    b->y += ROW;
}

static int rows_of(const struct bench_restore *r, const struct bench_case *c)
{
    int n = 0;
    for (const char *const *p = bench_restore_phases; *p; p++)
        n += bench_samples_summary(&r->samples, c->name, *p).n > 0;
    return n + 3; /* limit, ready, first token */
}

static bool shown(const struct bench_restore *r, const struct bench_case *c)
{
    return bench_samples_summary(&r->samples, c->name, "ready_s").n > 0;
}

static void group(const struct bench_restore *r, const struct bench_case *c, struct bars *b)
{
    const struct bench_samples *s = &r->samples;
    struct bench_summary limit = bench_samples_summary(s, "limit", bench_restore_limit_of(c->name));
    struct bench_summary ready = bench_samples_summary(s, c->name, "ready_s");
    struct bench_summary first = bench_samples_summary(s, c->name, "first_token_s");
    struct bench_summary ratio = bench_samples_ratio(s, c->name, "ready_s", "limit", bench_restore_limit_of(c->name));
    char way[16]; /* the reason is in the table: here it would not fit */
    snprintf(way, sizeof way, "%.*s", (int)(strcspn(c->note, ":") & 15), c->note);
    double most = first.high > ready.high ? first.high : ready.high;
    b->scale = BARS / (most > limit.high ? most : limit.high);
    base_buffer_printf(b->out, "<text x=\"20\" y=\"%d\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", b->y + 2,
                       c->name);
    base_buffer_printf(b->out, "<text x=\"%d\" y=\"%d\" fill=\"#555\">ready after %.2f x the limit%s", LEFT, b->y + 2,
                       ratio.median, c->note[0] ? "; " : "");
    escaped(b->out, way);
    base_buffer_string(b->out, "</text>\n");
    b->y += 10;
    int top = b->y;
    bar(b, "limit", "#bbbbbb", limit);
    bar(b, "exec to ready", "#4477aa", ready);
    bar(b, "exec to first token", "#4477aa", first);
    for (const char *const *p = bench_restore_phases; *p; p++) {
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)strlen(*p) - 2, *p);
        bar(b, name, "#aaccee", bench_samples_summary(s, c->name, *p));
    }
    base_buffer_printf(b->out, "<path d=\"M%.1f %dV%d\" stroke=\"#cc3311\" stroke-dasharray=\"4 3\"/>\n",
                       LEFT + limit.median * b->scale, top, b->y);
    b->y += GROUP_GAP - 10;
}

void bench_restore_svg(const struct bench_restore *r, struct base_buffer *out)
{
    int height = TOP + 10;
    for (uint32_t i = 0; i < r->n_cases; i++)
        if (shown(r, &r->cases[i]))
            height += rows_of(r, &r->cases[i]) * ROW + GROUP_GAP;
    base_buffer_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n<text x=\"20\" y=\"28\" "
        "font-size=\"17\">Starts from a snapshot: ",
        WIDTH, height, WIDTH, height);
    size_t n_name;
    escaped(out, base_file_name(r->o.model, &n_name)); /* where it lies is nobody's business */
    base_buffer_printf(
        out,
        " %s, %.3f GB</text>\n<text x=\"20\" y=\"46\" fill=\"#555\">medians of %u rounds, min and max as "
        "whiskers; dashed: the limit of the same minutes; memory %s; each group has its own scale</text>\n",
        r->o.dtype, (double)r->o.file_bytes / 1e9, r->o.n_rounds, r->o.prime ? "primed" : "not primed");
    struct bars b = {.out = out, .y = TOP};
    for (uint32_t i = 0; i < r->n_cases; i++)
        if (shown(r, &r->cases[i]))
            group(r, &r->cases[i], &b);
    base_buffer_string(out, "</svg>\n");
}
