#include "base/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

enum { PROGRESS_DRAW_NS = 100 * 1000 * 1000, PROGRESS_BAR_CELLS = 24, PROGRESS_LINE_BYTES = 256 };

/* "1.6" and "2.8" in one unit read better than two units, so the unit is picked by the larger of the two. */
static double progress_scale(const struct base_progress *p, uint64_t amount, const char **out_unit)
{
    if (strcmp(p->unit, "B") != 0) {
        *out_unit = p->unit;
        return 1;
    }
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double scale = 1;
    size_t i = 0;
    while (i + 1 < sizeof(units) / sizeof(units[0]) && (double)amount >= 1000 * scale) {
        scale *= 1000;
        i++;
    }
    *out_unit = units[i];
    return scale;
}

static int progress_amount_decimals(double scale)
{
    return scale > 1 ? 1 : 0;
}

static void progress_bar(const struct base_progress *p, char out[PROGRESS_BAR_CELLS + 1])
{
    size_t full = (size_t)((double)p->done / (double)p->total * PROGRESS_BAR_CELLS);
    memset(out, ' ', PROGRESS_BAR_CELLS);
    memset(out, '=', full);
    if (full < PROGRESS_BAR_CELLS)
        out[full] = '>';
    out[PROGRESS_BAR_CELLS] = '\0';
}

static void progress_line(const struct base_progress *p, double seconds, char *out, size_t size)
{
    const char *unit, *rate_unit;
    double scale = progress_scale(p, p->total > p->done ? p->total : p->done, &unit);
    double rate = seconds > 0 ? (double)p->done / seconds : 0;
    double rate_scale = progress_scale(p, (uint64_t)rate, &rate_unit);
    int decimals = progress_amount_decimals(scale);
    if (p->total == 0) {
        snprintf(out, size, "%s  %.*f %s  %.1f %s/s", p->label, decimals, (double)p->done / scale, unit,
                 rate / rate_scale, rate_unit);
        return;
    }
    char bar[PROGRESS_BAR_CELLS + 1], left[32] = "";
    progress_bar(p, bar);
    if (rate > 0 && p->done < p->total)
        snprintf(left, sizeof(left), "  %.0f s left", (double)(p->total - p->done) / rate + 0.5);
    snprintf(out, size, "%s  [%s] %3.0f %%  %.*f of %.*f %s  %.1f %s/s%s", p->label, bar,
             100 * (double)p->done / (double)p->total, decimals, (double)p->done / scale, decimals,
             (double)p->total / scale, unit, rate / rate_scale, rate_unit, left);
}

/* What is drawn on top of: \r goes to the line's begin, \e[K clears what an earlier, longer line left. A line that the
 * terminal would wrap could not be cleared again, so it is cut. */
static void progress_put(const char *line)
{
    struct winsize ws = {0};
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 1 ? ws.ws_col - 1 : 79;
    char text[PROGRESS_LINE_BYTES + 8];
    int n = snprintf(text, sizeof(text), "\r%.*s\033[K", columns < PROGRESS_LINE_BYTES ? columns : PROGRESS_LINE_BYTES,
                     line);
    (void)!write(STDERR_FILENO, text, (size_t)n);
}

void base_progress_begin(struct base_progress *p, const char *label, const char *unit, uint64_t total)
{
    *p = (struct base_progress){.label = label, .unit = unit, .total = total, .began_ns = base_clock_mono_ns()};
    p->on = isatty(STDERR_FILENO) == 1;
}

void base_progress_set(struct base_progress *p, uint64_t done)
{
    p->done = p->total > 0 && done > p->total ? p->total : done;
    if (!p->on)
        return;
    uint64_t now = base_clock_mono_ns();
    /* Work that is over within a moment needs no bar. */
    if (now - (p->drawn_ns ? p->drawn_ns : p->began_ns) < PROGRESS_DRAW_NS)
        return;
    char line[PROGRESS_LINE_BYTES];
    progress_line(p, (double)(now - p->began_ns) * 1e-9, line, sizeof(line));
    progress_put(line);
    p->drawn_ns = now;
}

void base_progress_end(struct base_progress *p)
{
    if (p->on && p->drawn_ns)
        progress_put("");
    p->on = false;
}
