/* kafka_watch - the watch thread: asks the brokers what may take a while, so that nobody else has to wait for it.
 *
 * Whether the three topics exist (nothing is published before: a produce request could make one), how far behind the
 * partitions are, and, by the way, whether the brokers answer. Uses the consumer's handle, which is thread-safe. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "worker/worker_state.h"

#define ASK_MS         1000 /* for one answer */
#define TOPICS_MS      100  /* the first wait between two looks at missing topics; grows to */
#define TOPICS_MAX_MS  3000
#define LAG_MS         5000
#define LOOK_UP_MS     20
#define PARTITIONS_MAX 1024 /* whose lag is asked for */

enum { N_TOPICS = 3 };

struct watcher {
    struct worker *w;
    const char *names[N_TOPICS];
    rd_kafka_topic_t *topics[N_TOPICS];
    uint32_t n_looks;
    bool said_missing;
};

static bool ended(const struct watcher *c)
{
    return c->w->leaving || c->w->abandon;
}

static void wait_ms(const struct watcher *c, uint32_t ms)
{
    uint64_t until = base_clock_mono_ns() + ms * 1000000ull;
    while (!ended(c) && base_clock_mono_ns() < until)
        base_clock_sleep_ms(LOOK_UP_MS);
}

/* An answer is an answer, whatever it says; only silence means that the brokers are away. */
static void note_answer(struct watcher *c, rd_kafka_resp_err_t res)
{
    bool silent = res == RD_KAFKA_RESP_ERR__TIMED_OUT || res == RD_KAFKA_RESP_ERR__TRANSPORT ||
                  res == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
    worker_link_set(c->w, &c->w->consumer_link, "consumer", silent ? rd_kafka_err2str(res) : NULL);
}

static bool topic_exists(struct watcher *c, rd_kafka_topic_t *topic, rd_kafka_resp_err_t *out_res)
{
    const struct rd_kafka_metadata *metadata = NULL;
    *out_res = rd_kafka_metadata(c->w->consumer, 0, topic, &metadata, ASK_MS);
    note_answer(c, *out_res);
    if (*out_res)
        return false;
    if (metadata->topic_cnt == 1)
        *out_res = metadata->topics[0].err;
    bool exists = metadata->topic_cnt == 1 && !metadata->topics[0].err && metadata->topics[0].partition_cnt > 0;
    rd_kafka_metadata_destroy(metadata);
    return exists;
}

static void look_for_topics(struct watcher *c)
{
    struct worker *w = c->w;
    char missing[sizeof w->topics_missing];
    size_t n = 0;
    missing[0] = '\0';
    for (int i = 0; i < N_TOPICS && !ended(c); i++) {
        rd_kafka_resp_err_t res;
        if (topic_exists(c, c->topics[i], &res))
            continue;
        if (w->consumer_link.down)
            return;
        n += (size_t)snprintf(missing + n, sizeof missing - n, "%stopic '%.200s': %.40s", n ? ", " : "", c->names[i],
                              res ? rd_kafka_err2name(res) : "no partitions");
    }
    if (n && !c->said_missing)
        base_log_warn("topics missing", LOG_STR("topics", missing));
    if (!n && c->said_missing)
        base_log_info("topics found", LOG_STR("in", c->names[0]), LOG_STR("out", c->names[1]),
                      LOG_STR("dlq", c->names[2]));
    c->said_missing = n > 0;
    pthread_mutex_lock(&w->lock);
    memcpy(w->topics_missing, missing, sizeof missing);
    if (!n) {
        w->topics_known = true;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
}

/* Lag */

static int64_t committed_by_group(struct watcher *c, int32_t partition)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, c->names[0], partition);
    rd_kafka_resp_err_t res = rd_kafka_committed(c->w->consumer, list, ASK_MS);
    int64_t offset = res || list->elems[0].err ? -1 : list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    return offset;
}

/* -1: not known. */
static int64_t lag_of(struct watcher *c, int32_t partition)
{
    int64_t low = 0, high = 0;
    rd_kafka_resp_err_t res =
        rd_kafka_query_watermark_offsets(c->w->consumer, c->names[0], partition, &low, &high, ASK_MS);
    note_answer(c, res);
    if (res)
        return -1;
    pthread_mutex_lock(&c->w->lock);
    int64_t committed = ledger_committed(c->w->ledger, partition);
    pthread_mutex_unlock(&c->w->lock);
    if (committed < 0)
        committed = committed_by_group(c, partition);
    if (committed < low)
        committed = low; /* nothing committed, or deleted since */
    return high > committed ? high - committed : 0;
}

static void look_at_lag(struct watcher *c)
{
    static const int64_t unknown = -1;
    struct worker *w = c->w;
    int32_t partitions[PARTITIONS_MAX];
    pthread_mutex_lock(&w->lock);
    uint32_t n = ledger_partitions(w->ledger, partitions, PARTITIONS_MAX);
    pthread_mutex_unlock(&w->lock);
    if (n == 0) { /* nobody's lag, but are the brokers there? */
        rd_kafka_resp_err_t res;
        topic_exists(c, c->topics[0], &res);
    }
    int64_t sum = 0;
    for (uint32_t i = 0; i < n && i < PARTITIONS_MAX && sum >= 0 && !ended(c); i++) {
        int64_t lag = lag_of(c, partitions[i]);
        sum = lag < 0 ? unknown : sum + lag;
    }
    pthread_mutex_lock(&w->lock);
    w->lag = n ? sum : unknown;
    pthread_mutex_unlock(&w->lock);
}

void *worker_watch_main(void *worker)
{
    struct watcher c = {.w = worker};
    const struct worker_options *o = &c.w->options;
    c.names[0] = o->topic_in;
    c.names[1] = o->topic_out;
    c.names[2] = o->topic_dlq;
    while (!ended(&c) && !c.w->consumer_made)
        base_clock_sleep_ms(1);
    for (int i = 0; i < N_TOPICS && c.w->consumer_made; i++)
        c.topics[i] = rd_kafka_topic_new(c.w->consumer, c.names[i], NULL);
    while (!ended(&c)) {
        if (!c.w->topics_known) {
            look_for_topics(&c);
            if (!c.w->topics_known)
                wait_ms(&c, base_clock_backoff_ms(c.n_looks < 8 ? c.n_looks++ : 8, TOPICS_MS, TOPICS_MAX_MS));
        } else {
            look_at_lag(&c);
            wait_ms(&c, LAG_MS);
        }
    }
    for (int i = 0; i < N_TOPICS; i++)
        if (c.topics[i])
            rd_kafka_topic_destroy(c.topics[i]);
    c.w->watch_ended = true;
    return NULL;
}
