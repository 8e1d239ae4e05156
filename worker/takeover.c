#include "worker/takeover.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "schemas/progress_map.h"
#include "worker/kafka_config.h"
#include "worker/kafka_producer.h"

#define ASK_FIRST_MS 100 /* markers of a transaction that ended in order are written sooner */
#define ASK_MS       500 /* for the group's offsets, once; asked until they are there */
#define LOOK_MS      2000
#define FENCE_MS     3000 /* for one writer; after it, the broker's own timeout has to do */
#define SAY_MS       15000
#define FENCED_MAX   64

/* Of one takeover. */
struct fenced {
    char *ids[FENCED_MAX];
    int n;
    rd_kafka_t *witness; /* NULL: not needed yet */
};

static bool is_needed(const struct worker *w, rd_kafka_t *consumer)
{
    return !w->abandon && !w->leaving && !rd_kafka_assignment_lost(consumer);
}

/* Fencing */

static int init_as(struct worker *w, const char *id, struct base_error *err)
{
    struct kafka_config config = worker_kafka_config(w, id);
    struct kafka_producer *p = NULL;
    uint64_t until = base_clock_mono_ns() + FENCE_MS * 1000000ull;
    int rc = kafka_producer_new(&config, &w->abandon, &p, err);
    if (rc < 0)
        return rc;
    do {
        w->poll_beat_ns = base_clock_mono_ns();
        rc = kafka_producer_ready(p, err);
    } while (rc == ERR_AGAIN && !w->leaving && base_clock_mono_ns() < until);
    kafka_producer_free(p);
    return rc;
}

static void fence(struct worker *w, const char *id, struct fenced *f)
{
    struct base_error err = {0};
    uint64_t began = base_clock_mono_ns();
    if (MUTANT(owner_not_fenced) || !*id || strcmp(id, w->transactional_id) == 0) /* our own producer has seen to it */
        return;
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->ids[i], id) == 0)
            return;
    if (f->n == FENCED_MAX || !(f->ids[f->n] = strdup(id)))
        return;
    f->n++;
    FAILPOINT(TAKEOVER_BEFORE_FENCE);
    if (init_as(w, id, &err) < 0) {
        base_log_warn("dead owner not fenced", LOG_STR("transactional_id", id), LOG_STR("reason", err.text));
        return;
    }
    FAILPOINT(TAKEOVER_AFTER_FENCE);
    metrics_add(&w->metrics.owners_fenced, 1);
    base_log_info("dead owner fenced", LOG_STR("transactional_id", id),
                  LOG_INT("ms", (base_clock_mono_ns() - began) / 1000000));
}

/* What cannot be read is reported by whoever needs it. */
static void fence_holder(struct worker *w, const rd_kafka_topic_partition_t *p, struct fenced *f)
{
    struct base_error err = {0};
    struct schema_progress *progress = NULL;
    if (p->err || p->offset < 0 || !p->metadata ||
        schema_progress_decode(p->metadata, p->metadata_size, p->offset, &progress, &err) < 0)
        return;
    if (progress->held)
        fence(w, progress->writer, f);
    schema_progress_free(progress);
}

static void fence_holders(struct worker *w, const rd_kafka_topic_partition_list_t *list, struct fenced *f)
{
    for (int i = 0; i < list->cnt; i++)
        fence_holder(w, &list->elems[i], f);
}

/* Offsets as they were before the transactions that are open. */

/* A client that reads uncommitted data, for this question alone: the admin request that could ask it too ends the process of
 * librdkafka 2.0.2 when the brokers are away (an assertion on a request that timed out twice). NULL: not now. */
static rd_kafka_t *open_witness(struct worker *w)
{
    struct kafka_config config = worker_kafka_config(w, NULL);
    struct base_error err = {0};
    rd_kafka_conf_t *conf = NULL;
    char why[256];
    if (kafka_config_make(KAFKA_CONSUMER, &config, &conf, &err) < 0)
        return NULL;
    rd_kafka_conf_set(conf, "isolation.level", "read_uncommitted", why, sizeof why);
    rd_kafka_t *witness = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!witness)
        rd_kafka_conf_destroy(conf);
    return witness;
}

static void fence_unstable(struct worker *w, const rd_kafka_topic_partition_list_t *list, struct fenced *f)
{
    if (!f->witness)
        f->witness = open_witness(w);
    if (!f->witness)
        return;
    rd_kafka_topic_partition_list_t *before = rd_kafka_topic_partition_list_copy(list);
    if (rd_kafka_committed(f->witness, before, LOOK_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
        fence_holders(w, before, f);
    rd_kafka_topic_partition_list_destroy(before);
}

/* Asking */

/* While a transaction of an earlier owner is open, the broker says so, and librdkafka asks again until the time is over. */
static int ask(rd_kafka_t *consumer, rd_kafka_topic_partition_list_t *list, int timeout_ms, struct base_error *err)
{
    rd_kafka_resp_err_t res = rd_kafka_committed(consumer, list, timeout_ms);
    for (int i = 0; !res && i < list->cnt; i++)
        res = list->elems[i].err;
    return res ? base_fail(err, ERR_AGAIN, "committed offsets of %d partitions: %s", list->cnt, rd_kafka_err2str(res))
               : 0;
}

/* Brokers were seen to leave a transaction without its last marker when they were restarted (4.3): nobody but an operator ends it. */
static void say_waiting(const struct base_error *why, uint64_t began_ns, uint64_t *said_ns)
{
    uint64_t now = base_clock_mono_ns();
    bool long_since = now - *said_ns > SAY_MS * 1000000ull;
    if (long_since)
        base_log_error("progress still not known", LOG_INT("seconds", (now - began_ns) / 1000000000),
                       LOG_STR("reason", why->text),
                       LOG_STR("hint", "if the brokers are there, a transaction hangs: "
                                       "kafka-transactions.sh find-hanging, then abort"));
    if (long_since)
        *said_ns = now;
}

static int ask_until(struct worker *w, rd_kafka_t *consumer, rd_kafka_topic_partition_list_t *list, struct fenced *f)
{
    struct base_error err = {0};
    uint64_t began = base_clock_mono_ns(), said = began;
    for (uint32_t n = 0; is_needed(w, consumer); n++) {
        w->poll_beat_ns = base_clock_mono_ns();
        if (ask(consumer, list, n == 0 ? ASK_FIRST_MS : ASK_MS, &err) == 0)
            return 0;
        base_log_write(n == 0 ? BASE_LOG_INFO : BASE_LOG_DEBUG, "progress not known yet",
                       (struct base_log_field[]){LOG_STR("reason", err.text)}, 1);
        say_waiting(&err, began, &said);
        fence_unstable(w, list, f);
        if (n)
            base_clock_sleep_ms(base_clock_backoff_ms(n < 8 ? n : 8, 10, 500));
    }
    return ERR_STOPPED;
}

int takeover_read(struct worker *w, rd_kafka_t *consumer, rd_kafka_topic_partition_list_t *list)
{
    struct fenced fenced = {.n = 0};
    int rc = ask_until(w, consumer, list, &fenced);
    if (rc == 0)
        fence_holders(w, list, &fenced);
    for (int i = 0; i < fenced.n; i++)
        free(fenced.ids[i]);
    if (fenced.witness)
        rd_kafka_destroy_flags(fenced.witness, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return rc;
}
