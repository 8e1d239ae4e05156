#include "cli/dlq_pace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/dlq_verbs.h"

#define LAG_POLL_MS 250
#define BUCKET_NS   1000000000u
#define SAY_NS      10000000000u

int dlq_pace_open(struct dlq_pace *p, uint64_t rate, uint64_t lag_max, const char *group, bool stop_at_lag,
                  struct base_error *err)
{
    *p = (struct dlq_pace){.rate = rate, .lag_max = lag_max, .group = group, .stop_at_lag = stop_at_lag};
    if (!lag_max)
        return 0;
    /* read_uncommitted: the markers of our own last transaction may still be on their way, its letters are there */
    const char *settings[] = {"group.id",         group, "enable.auto.commit", "false", "isolation.level",
                              "read_uncommitted", NULL};
    return cli_kafka_open(RD_KAFKA_CONSUMER, dlq_common.brokers, settings, &dlq_common.properties, NULL, &p->asker,
                          err);
}

void dlq_pace_close(struct dlq_pace *p)
{
    if (p->asker) {
        rd_kafka_consumer_close(p->asker);
        rd_kafka_destroy(p->asker);
    }
    *p = (struct dlq_pace){0};
}

void dlq_pace_begin(struct dlq_pace *p)
{
    p->began_ns = base_clock_mono_ns();
    p->n_sent = 0;
}

/* End of the topic less what the group has committed; what KEDA computes, too. */
static int lag_of(struct dlq_pace *p, const char *topic, uint64_t *out_lag, int32_t *out_n, struct base_error *err)
{
    int32_t n = 0;
    int timeout_ms = (int)dlq_common.timeout_s * 1000;
    int rc = cli_kafka_n_partitions(p->asker, topic, timeout_ms, &n, err);
    if (rc < 0)
        return rc;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
    for (int32_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, topic, i);
    rd_kafka_resp_err_t e = rd_kafka_committed(p->asker, list, timeout_ms);
    *out_lag = 0;
    *out_n = n;
    for (int32_t i = 0; !e && i < n; i++) {
        int64_t low, high, at = list->elems[i].offset;
        e = rd_kafka_query_watermark_offsets(p->asker, topic, list->elems[i].partition, &low, &high, timeout_ms);
        at = at >= low ? at : low;
        *out_lag += !e && high > at ? (uint64_t)(high - at) : 0;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return e ? base_fail(err, ERR_SERVICE, "lag of group '%s' on '%s': %s", p->group, topic, rd_kafka_err2str(e)) : 0;
}

/* That it waits, at once and then every ten seconds: a replay that stands still must say why. */
static void say_waiting(struct dlq_pace *p, const char *topic, uint64_t lag)
{
    uint64_t now_ns = base_clock_mono_ns();
    if (p->said_ns && now_ns - p->said_ns < SAY_NS)
        return;
    p->said_ns = now_ns;
    if (dlq_common.json)
        fprintf(stderr, "{\"waiting\":\"lag\",\"lag\":%" PRIu64 ",\"lag_max\":%" PRIu64 "}\n", lag, p->lag_max);
    else
        fprintf(stderr,
                "rouse dlq replay: waiting: group '%s' is %" PRIu64 " records behind on '%s' (--lag-max %" PRIu64 ")\n",
                p->group, lag, topic, p->lag_max);
}

/* Until a record more may be on the topic; how many. */
static int wait_for_lag(struct dlq_pace *p, const char *topic, size_t *out_room, struct base_error *err)
{
    for (;;) {
        uint64_t lag;
        int32_t n_markers; /* a transaction puts one on each partition, and it counts as a record */
        int rc = lag_of(p, topic, &lag, &n_markers, err);
        if (rc < 0)
            return rc;
        uint64_t used = lag + (uint64_t)n_markers;
        if (used < p->lag_max || lag == 0) {
            *out_room = used < p->lag_max ? p->lag_max - used : 1;
            return 0;
        }
        if (dlq_stop)
            return base_fail(err, ERR_STOPPED, "a signal came");
        if (p->stop_at_lag)
            return base_fail(err, ERR_STOPPED,
                             "group '%s' is %" PRIu64 " records behind on '%s' (--lag-max %" PRIu64 ")", p->group, lag,
                             topic, p->lag_max);
        say_waiting(p, topic, lag);
        base_clock_sleep_ms(LAG_POLL_MS);
    }
}

/* Until n letters more are due. The bucket holds a second's worth at most: after a time in which nothing could go, or nothing was found, the
 * workers get no flood. */
static int wait_for_rate(struct dlq_pace *p, size_t n, struct base_error *err)
{
    for (;;) {
        uint64_t due_ns = p->began_ns + (uint64_t)((double)(p->n_sent + n) / (double)p->rate * 1e9);
        uint64_t now_ns = base_clock_mono_ns();
        if (dlq_stop)
            return base_fail(err, ERR_STOPPED, "a signal came");
        if (now_ns > due_ns + BUCKET_NS)
            p->began_ns += now_ns - due_ns - BUCKET_NS;
        if (now_ns >= due_ns)
            return 0;
        uint64_t ms = (due_ns - now_ns) / 1000000 + 1;
        base_clock_sleep_ms((uint32_t)(ms < 200 ? ms : 200));
    }
}

int dlq_pace_wait(struct dlq_pace *p, const char *topic, size_t n, size_t *out_n, struct base_error *err)
{
    size_t room = n;
    int rc = p->lag_max ? wait_for_lag(p, topic, &room, err) : 0;
    n = room < n ? room : n;
    if (rc == 0 && p->rate)
        rc = wait_for_rate(p, n, err);
    if (rc == 0)
        *out_n = n;
    return rc;
}

void dlq_pace_sent(struct dlq_pace *p, size_t n)
{
    p->n_sent += n;
}
