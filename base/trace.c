#include "base/trace.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"

enum {
    TRACE_NOTES_MAX = 32, /* more are dropped: notes explain the figures, they are not worth a failed start */
    TRACE_KEY_BYTES = 32,
    TRACE_VALUE_BYTES = 160,
    TRACE_CHART_COLUMNS = 60,
    TRACE_LINE_COLUMNS = 100,
    TRACE_CHROME_BYTES_MAX = 256 * 1024
};

static const struct {
    const char *name, *seconds, *moment;
    bool mark;
} trace_phases[BASE_TRACE_N] = {
#define SPAN(name)                                                                                                     \
    {                                                                                                                  \
        name, name "_s", NULL, false                                                                                   \
    }
#define MARK(name)                                                                                                     \
    {                                                                                                                  \
        name, name "_s", name "_at", true                                                                              \
    }
    [BASE_TRACE_EXEC] = SPAN("exec"),
    [BASE_TRACE_CONFIG] = SPAN("config"),
    [BASE_TRACE_INDEX] = SPAN("index"),
    [BASE_TRACE_DEVICE_OPEN] = SPAN("device_open"),
    [BASE_TRACE_RESTORE] = SPAN("restore"),
    [BASE_TRACE_CHOICES] = SPAN("choices"),
    [BASE_TRACE_VERIFY] = SPAN("verify"),
    [BASE_TRACE_COLD_LOAD] = SPAN("cold_load"),
    [BASE_TRACE_TOKENIZER] = SPAN("tokenizer"),
    [BASE_TRACE_BUILD] = SPAN("build"),
    [BASE_TRACE_GROUP_JOIN] = SPAN("group_join"),
    [BASE_TRACE_FIRST_RECORD] = MARK("first_record"),
    [BASE_TRACE_FIRST_TOKEN] = MARK("first_token"),
    [BASE_TRACE_FIRST_COMMIT] = MARK("first_commit"),
    [BASE_TRACE_READY] = MARK("ready"),
#undef SPAN
#undef MARK
};

struct trace_note {
    char key[TRACE_KEY_BYTES];
    char value[TRACE_VALUE_BYTES];
};

struct base_trace {
    uint64_t origin_ns; /* process start, or the trace's own where the system does not tell */
    uint64_t begin_ns[BASE_TRACE_N], end_ns[BASE_TRACE_N]; /* 0: not yet; a mark has both, equal */
    struct trace_note notes[TRACE_NOTES_MAX];
    uint32_t n_notes;
};

/* Guards every trace. A start makes a few dozen calls, and readers take a copy. */
static pthread_mutex_t trace_lock = PTHREAD_MUTEX_INITIALIZER;

static struct base_trace trace_copy(const struct base_trace *t)
{
    pthread_mutex_lock(&trace_lock);
    struct base_trace copy = *t;
    pthread_mutex_unlock(&trace_lock);
    return copy;
}

struct base_trace *base_trace_new(void)
{
    struct base_trace *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    uint64_t now = base_clock_mono_ns(), start = base_clock_process_start_ns();
    t->origin_ns = start > 0 ? start : now;
    if (start > 0) {
        t->begin_ns[BASE_TRACE_EXEC] = start;
        t->end_ns[BASE_TRACE_EXEC] = now;
    }
    return t;
}

void base_trace_free(struct base_trace *t)
{
    free(t);
}

void base_trace_begin(struct base_trace *t, enum base_trace_phase phase)
{
    if (!t)
        return;
    assert(phase < BASE_TRACE_N && !trace_phases[phase].mark);
    uint64_t now = base_clock_mono_ns();
    pthread_mutex_lock(&trace_lock);
    if (t->begin_ns[phase] == 0)
        t->begin_ns[phase] = now;
    pthread_mutex_unlock(&trace_lock);
}

void base_trace_end(struct base_trace *t, enum base_trace_phase phase)
{
    if (!t)
        return;
    assert(phase < BASE_TRACE_N && !trace_phases[phase].mark);
    uint64_t now = base_clock_mono_ns();
    pthread_mutex_lock(&trace_lock);
    if (t->begin_ns[phase] != 0 && t->end_ns[phase] == 0)
        t->end_ns[phase] = now;
    pthread_mutex_unlock(&trace_lock);
}

void base_trace_mark(struct base_trace *t, enum base_trace_phase phase)
{
    if (!t)
        return;
    assert(phase < BASE_TRACE_N && trace_phases[phase].mark);
    uint64_t now = base_clock_mono_ns();
    pthread_mutex_lock(&trace_lock);
    if (t->begin_ns[phase] == 0)
        t->begin_ns[phase] = t->end_ns[phase] = now;
    pthread_mutex_unlock(&trace_lock);
}

static double trace_seconds(const struct base_trace *t, enum base_trace_phase phase)
{
    if (t->end_ns[phase] == 0)
        return -1;
    uint64_t from = trace_phases[phase].mark ? t->origin_ns : t->begin_ns[phase];
    return (double)(t->end_ns[phase] - from) * 1e-9;
}

double base_trace_seconds(const struct base_trace *t, enum base_trace_phase phase)
{
    if (!t)
        return -1;
    struct base_trace copy = trace_copy(t);
    return trace_seconds(&copy, phase);
}

uint64_t base_trace_at_ns(const struct base_trace *t, enum base_trace_phase phase)
{
    return t ? trace_copy(t).end_ns[phase] : 0;
}

const char *base_trace_phase_name(enum base_trace_phase phase)
{
    assert(phase < BASE_TRACE_N);
    return trace_phases[phase].name;
}

bool base_trace_phase_is_mark(enum base_trace_phase phase)
{
    assert(phase < BASE_TRACE_N);
    return trace_phases[phase].mark;
}

/* Cut to fit, on one line. */
static void trace_copy_text(char *to, size_t size, const char *from)
{
    size_t n = strnlen(from, size);
    if (n == size)
        n = base_utf8_complete(from, size - 1);
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)from[i] < 0x20 || from[i] == 0x7f ? ' ' : from[i];
    to[n] = '\0';
}

void base_trace_note(struct base_trace *t, const char *key, const char *value)
{
    if (!t)
        return;
    struct trace_note note;
    trace_copy_text(note.key, sizeof(note.key), key);
    trace_copy_text(note.value, sizeof(note.value), value);
    pthread_mutex_lock(&trace_lock);
    uint32_t i = 0;
    while (i < t->n_notes && strcmp(t->notes[i].key, note.key) != 0)
        i++;
    if (i < TRACE_NOTES_MAX)
        t->notes[i] = note;
    if (i == t->n_notes && i < TRACE_NOTES_MAX)
        t->n_notes++;
    pthread_mutex_unlock(&trace_lock);
}

bool base_trace_get_note(const struct base_trace *t, const char *key, char *out, size_t size)
{
    bool found = false;
    out[0] = '\0';
    pthread_mutex_lock(&trace_lock);
    for (uint32_t i = 0; t && i < t->n_notes && !found; i++) {
        found = strcmp(t->notes[i].key, key) == 0;
        if (found)
            trace_copy_text(out, size, t->notes[i].value);
    }
    pthread_mutex_unlock(&trace_lock);
    return found;
}

void base_trace_log(const struct base_trace *t, const char *event)
{
    if (!t)
        return;
    struct base_trace copy = trace_copy(t);
    struct base_log_field fields[BASE_TRACE_N + TRACE_NOTES_MAX];
    size_t n = 0;
    for (int p = 0; p < BASE_TRACE_N; p++) {
        if (copy.end_ns[p] != 0)
            fields[n++] = LOG_F64(trace_phases[p].seconds, trace_seconds(&copy, (enum base_trace_phase)p));
    }
    for (uint32_t i = 0; i < copy.n_notes; i++)
        fields[n++] = LOG_STR(copy.notes[i].key, copy.notes[i].value);
    base_log_write(BASE_LOG_INFO, event, fields, n);
}

static void trace_json_notes(const struct base_trace *t, struct base_json *j)
{
    base_json_object_begin(j);
    for (uint32_t i = 0; i < t->n_notes; i++)
        base_json_kv_string(j, t->notes[i].key, t->notes[i].value);
    base_json_object_end(j);
}

void base_trace_json(const struct base_trace *t, struct base_json *j)
{
    base_json_object_begin(j);
    if (t) {
        struct base_trace copy = trace_copy(t);
        for (int p = 0; p < BASE_TRACE_N; p++) {
            if (copy.end_ns[p] == 0)
                continue;
            base_json_key(j, trace_phases[p].seconds);
            base_json_fixed(j, copy.end_ns[p] - (trace_phases[p].mark ? copy.origin_ns : copy.begin_ns[p]), 9);
            if (trace_phases[p].mark) {
                base_json_key(j, trace_phases[p].moment);
                base_json_fixed(j, copy.end_ns[p], 9);
            }
        }
        base_json_key(j, "notes");
        trace_json_notes(&copy, j);
    }
    base_json_object_end(j);
}

/* The phases that have begun, the earliest first; phases that began together stay in the budget's order. */
static uint32_t trace_order(const struct base_trace *t, uint32_t order[BASE_TRACE_N])
{
    uint32_t n = 0;
    for (uint32_t p = 0; p < BASE_TRACE_N; p++) {
        if (t->begin_ns[p] == 0)
            continue;
        uint32_t i = n++;
        for (; i > 0 && t->begin_ns[order[i - 1]] > t->begin_ns[p]; i--)
            order[i] = order[i - 1];
        order[i] = p;
    }
    return n;
}

static void trace_repeat(struct base_buffer *out, const char *text, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        base_buffer_string(out, text);
}

/* One row: a span is drawn from its begin to its end (at least one cell), a mark as a single sign. */
static void trace_print_row(const struct base_trace *t, uint32_t p, uint64_t now, uint64_t total,
                            struct base_buffer *out)
{
    bool mark = trace_phases[p].mark, running = t->end_ns[p] == 0;
    uint64_t begin = t->begin_ns[p] - t->origin_ns, end = (running ? now : t->end_ns[p]) - t->origin_ns;
    uint64_t first = begin * TRACE_CHART_COLUMNS / total, last = (end * TRACE_CHART_COLUMNS + total - 1) / total;
    if (first >= TRACE_CHART_COLUMNS)
        first = TRACE_CHART_COLUMNS - 1;
    if (last <= first)
        last = first + 1;

    base_buffer_printf(out, "  %-13s %10.1f ", trace_phases[p].name, (double)begin * 1e-6);
    if (mark)
        base_buffer_string(out, "         ");
    else
        base_buffer_printf(out, "%8.1f%c", (double)(end - begin) * 1e-6, running ? '+' : ' ');
    base_buffer_byte(out, ' ');
    trace_repeat(out, " ", first);
    if (mark)
        base_buffer_string(out, "\u25c6"); /* black diamond */
    else
        trace_repeat(out, running ? "\u2591" : "\u2588", last - first); /* light shade, full block */
    base_buffer_byte(out, '\n');
}

static void trace_print_notes(const struct base_trace *t, struct base_buffer *out)
{
    size_t column = 0;
    for (uint32_t i = 0; i < t->n_notes; i++) {
        size_t n = strlen(t->notes[i].key) + 1 + strlen(t->notes[i].value);
        if (column > 0 && column + 2 + n > TRACE_LINE_COLUMNS) {
            base_buffer_byte(out, '\n');
            column = 0;
        }
        base_buffer_printf(out, "  %s=%s", t->notes[i].key, t->notes[i].value);
        column += 2 + n;
    }
    if (column > 0)
        base_buffer_byte(out, '\n');
}

void base_trace_print(const struct base_trace *t, struct base_buffer *out)
{
    if (!t)
        return;
    struct base_trace copy = trace_copy(t);
    uint64_t now = base_clock_mono_ns(), last = copy.origin_ns;
    uint32_t order[BASE_TRACE_N], n = trace_order(&copy, order);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t end = copy.end_ns[order[i]] ? copy.end_ns[order[i]] : now;
        last = end > last ? end : last;
    }
    base_buffer_string(out, "  phase            start ms  took ms\n");
    uint64_t total = last > copy.origin_ns ? last - copy.origin_ns : 1;
    for (uint32_t i = 0; i < n; i++)
        trace_print_row(&copy, order[i], now, total, out);
    trace_print_notes(&copy, out);
}

static void trace_chrome_event(struct base_json *j, const char *name, const char *ph, uint64_t lane)
{
    base_json_object_begin(j);
    base_json_kv_string(j, "name", name);
    base_json_kv_string(j, "cat", "cold_start");
    base_json_kv_string(j, "ph", ph);
    base_json_kv_int(j, "pid", getpid());
    base_json_kv_uint(j, "tid", lane);
}

/* Complete events of one tid must nest, and phases that overlap need not: each goes to the first lane that is free. */
static uint64_t trace_chrome_lane(uint64_t lane_end_ns[BASE_TRACE_N], uint64_t begin_ns, uint64_t end_ns)
{
    uint64_t lane = 0;
    while (lane_end_ns[lane] > begin_ns)
        lane++;
    lane_end_ns[lane] = end_ns;
    return lane;
}

static void trace_chrome(const struct base_trace *t, struct base_json *j)
{
    uint32_t order[BASE_TRACE_N], n = trace_order(t, order);
    uint64_t lane_end_ns[BASE_TRACE_N] = {0};
    base_json_object_begin(j);
    base_json_kv_string(j, "displayTimeUnit", "ms");
    base_json_key(j, "otherData");
    trace_json_notes(t, j);
    base_json_key(j, "traceEvents");
    base_json_array_begin(j);
    trace_chrome_event(j, "process_name", "M", 0);
    base_json_key(j, "args");
    base_json_object_begin(j);
    base_json_kv_string(j, "name", "rouse");
    base_json_object_end(j);
    base_json_object_end(j);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t p = order[i];
        if (t->end_ns[p] == 0)
            continue;
        bool mark = trace_phases[p].mark;
        trace_chrome_event(j, trace_phases[p].name, mark ? "i" : "X",
                           mark ? 0 : trace_chrome_lane(lane_end_ns, t->begin_ns[p], t->end_ns[p]));
        base_json_key(j, "ts");
        base_json_fixed(j, t->begin_ns[p] - t->origin_ns, 3); /* microseconds since process start */
        if (mark) {
            base_json_kv_string(j, "s", "p"); /* a line through the whole process */
        } else {
            base_json_key(j, "dur");
            base_json_fixed(j, t->end_ns[p] - t->begin_ns[p], 3);
        }
        base_json_object_end(j);
    }
    base_json_array_end(j);
    base_json_object_end(j);
}

int base_trace_write_chrome(const struct base_trace *t, const char *path, struct base_error *err)
{
    if (!t)
        return 0;
    struct base_trace copy = trace_copy(t);
    struct base_buffer text;
    struct base_json j;
    base_buffer_init(&text, TRACE_CHROME_BYTES_MAX);
    base_json_init(&j, &text);
    trace_chrome(&copy, &j);
    base_buffer_byte(&text, '\n');
    int rc = text.failed ? base_fail(err, text.failed, "trace %s: out of memory", path)
                         : base_file_publish(path, text.data, text.n, err);
    base_buffer_done(&text);
    return rc;
}
