#include "cli/dlq_audit.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_writer.h"

int dlq_audit_open(struct dlq_audit *a, const char *path, const char *dlq, struct base_error *err)
{
    *a = (struct dlq_audit){.path = path, .dlq = dlq};
    base_buffer_init(&a->line, 1u << 16);
    if (!path)
        return 0;
    a->file = fopen(path, "a");
    if (!a->file)
        return base_fail_errno(err, "--audit %s", path);
    struct stat is;
    if (fstat(fileno(a->file), &is) < 0 || is.st_size > 0)
        fputc('\n', a->file); /* a killed run may have left half a line; readers skip empty ones */
    return 0;
}

void dlq_audit_close(struct dlq_audit *a)
{
    if (a->file)
        fclose(a->file);
    base_buffer_done(&a->line);
    *a = (struct dlq_audit){0};
}

static void line_end(struct dlq_audit *a, struct base_json *j)
{
    base_json_object_end(j);
    base_buffer_byte(&a->line, '\n');
    fwrite(a->line.data, 1, a->line.n, a->file);
}

void dlq_audit_letter(struct dlq_audit *a, int32_t partition, int64_t offset, const char *why, const char *to,
                      const char *token)
{
    struct base_json j;
    char of[320];
    if (!a->file)
        return;
    snprintf(of, sizeof of, "%s/%" PRId32 "/%" PRId64, a->dlq, partition, offset);
    base_buffer_clear(&a->line);
    base_json_init(&j, &a->line);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "letter", of);
    base_json_kv_string(&j, "outcome", why ? "skipped" : "sent");
    if (why) {
        base_json_kv_string(&j, "why", why);
    } else {
        base_json_kv_string(&j, "to", to);
        base_json_kv_string(&j, "transaction", token);
    }
    base_json_kv_int(&j, "time_ms", base_clock_unix_ms());
    line_end(a, &j);
}

void dlq_audit_committed(struct dlq_audit *a, const char *token, uint64_t n_letters, bool learned)
{
    struct base_json j;
    if (!a->file)
        return;
    base_buffer_clear(&a->line);
    base_json_init(&j, &a->line);
    base_json_object_begin(&j);
    base_json_kv_string(&j, "committed", token);
    if (learned) /* of an earlier run, from the group */
        base_json_kv_bool(&j, "learned", true);
    else
        base_json_kv_uint(&j, "letters", n_letters);
    base_json_kv_int(&j, "time_ms", base_clock_unix_ms());
    line_end(a, &j);
}

int dlq_audit_sync(struct dlq_audit *a, struct base_error *err)
{
    if (a->file && (fflush(a->file) != 0 || ferror(a->file) || fdatasync(fileno(a->file)) < 0))
        return base_fail_errno(err, "--audit %s", a->path);
    return 0;
}
