#include "cli/dlq_sender.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/failpoint.h"

#define PAUSE_MS 100

size_t dlq_sender_bytes_max(const struct dlq_sender *s)
{
    return kafka_producer_n_bytes_max(s->producer);
}

void dlq_sender_token(const struct dlq_sender *s, char out[128])
{
    snprintf(out, 128, "%s/%" PRIu64, s->run_id, s->n_transactions + 1);
}

/* Until the producer is ready, --timeout-s at most. */
static int get_ready(struct dlq_sender *s, struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + dlq_common.timeout_s * 1000000000u;
    int rc;
    while ((rc = kafka_producer_ready(s->producer, err)) == ERR_AGAIN && base_clock_mono_ns() < until && !dlq_stop)
        base_clock_sleep_ms(PAUSE_MS);
    return rc == ERR_AGAIN ? base_fail(err, dlq_stop ? ERR_STOPPED : ERR_SERVICE, "%s", err->text) : rc;
}

/* The token that is committed. The broker answers once no transaction of the group is pending (read_committed asks for stable offsets). */
static int ask_token(struct dlq_sender *s, char out[128], struct base_error *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, s->dlq, 0);
    rd_kafka_resp_err_t e = rd_kafka_committed(s->asker, list, (int)dlq_common.timeout_s * 1000);
    if (!e)
        e = list->elems[0].err;
    memset(out, 0, 128);
    if (!e && list->elems[0].metadata)
        memcpy(out, list->elems[0].metadata, list->elems[0].metadata_size < 127 ? list->elems[0].metadata_size : 127);
    rd_kafka_topic_partition_list_destroy(list);
    return e ? base_fail(err, ERR_SERVICE, "what group '%s' has committed: %s", s->id, rd_kafka_err2str(e)) : 0;
}

static int open_asker(struct dlq_sender *s, struct base_error *err)
{
    const char *settings[] = {"group.id",       s->id, "enable.auto.commit", "false", "isolation.level",
                              "read_committed", NULL};
    return cli_kafka_open(RD_KAFKA_CONSUMER, dlq_common.brokers, settings, &dlq_common.properties, NULL, &s->asker,
                          err);
}

int dlq_sender_open(struct dlq_sender *s, struct dlq_ledger *ledger, const char *dlq, const char *ledger_topic,
                    const char *run_id, struct base_error *err)
{
    *s = (struct dlq_sender){.ledger = ledger, .dlq = dlq, .ledger_topic = ledger_topic, .run_id = run_id};
    snprintf(s->id, sizeof s->id, "rouse-dlq.%s", dlq);
    s->config = (struct kafka_config){.brokers = dlq_common.brokers,
                                      .client_id = "rouse",
                                      .transactional_id = s->id,
                                      .properties = &dlq_common.properties};
    s->group = rd_kafka_consumer_group_metadata_new(s->id);
    s->positions = malloc((size_t)ledger->n_partitions * sizeof *s->positions);
    if (!s->positions)
        return base_fail(err, ERR_NOMEM, "out of memory for %" PRId32 " partitions", ledger->n_partitions);
    for (int32_t p = 0; p < ledger->n_partitions; p++)
        s->positions[p] = -1;
    int rc = kafka_producer_new(&s->config, &dlq_stop, &s->producer, err);
    if (rc == 0)
        rc = open_asker(s, err);
    if (rc == 0)
        rc = get_ready(s, err);
    return rc < 0 ? rc : ask_token(s, s->token, err);
}

void dlq_sender_close(struct dlq_sender *s)
{
    kafka_producer_free(s->producer);
    if (s->asker) {
        rd_kafka_consumer_close(s->asker);
        rd_kafka_destroy(s->asker);
    }
    if (s->group)
        rd_kafka_consumer_group_metadata_destroy(s->group);
    free(s->positions);
    *s = (struct dlq_sender){0};
}

static int send_pages(struct dlq_sender *s, struct base_error *err)
{
    for (int32_t p = 0; p < s->ledger->n_partitions; p++) {
        for (size_t i = 0; i < s->ledger->partitions[p].n; i++) {
            const struct dlq_page *page = s->ledger->partitions[p].items[i];
            char key[160];
            if (!page->dirty)
                continue;
            dlq_ledger_key(s->ledger, p, page, key, sizeof key);
            struct publish_record r = {
                .key = key, .n_key = strlen(key), .value = page->mine, .n_value = dlq_ledger_value(page)};
            int rc = kafka_producer_send(s->producer, s->ledger_topic, &r, err);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

static void clean_pages(struct dlq_sender *s)
{
    for (int32_t p = 0; p < s->ledger->n_partitions; p++)
        for (size_t i = 0; i < s->ledger->partitions[p].n; i++)
            s->ledger->partitions[p].items[i]->dirty = false;
}

static rd_kafka_topic_partition_list_t *progress(struct dlq_sender *s, const struct dlq_record *records, size_t n)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(s->ledger->n_partitions);
    for (size_t i = 0; i < n; i++)
        s->positions[records[i].partition] = records[i].offset + 1;
    for (int32_t p = 0; p < s->ledger->n_partitions; p++) {
        if (p > 0 && s->positions[p] < 0)
            continue;
        rd_kafka_topic_partition_t *at = rd_kafka_topic_partition_list_add(list, s->dlq, p);
        at->offset = s->positions[p] < 0 ? 0 : s->positions[p];
        at->metadata = strdup(s->pending);
        at->metadata_size = at->metadata ? strlen(s->pending) : 0;
    }
    return list;
}

/* One try. ERR_AGAIN: it failed, and how it ended is to be asked. */
static int try_once(struct dlq_sender *s, const struct dlq_record *records, size_t n, struct base_error *err)
{
    bool unknown = false;
    const char *topics[KAFKA_PRODUCER_TOPICS] = {records[0].topic, s->ledger_topic};
    kafka_producer_learn(s->producer, topics);
    int rc = kafka_producer_begin(s->producer, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = kafka_producer_send(s->producer, records[i].topic, &records[i].record, err);
        if (rc == 0 && (i & 255) == 255)
            kafka_producer_serve(s->producer);
    }
    if (rc == 0)
        rc = send_pages(s, err);
    if (rc < 0) {
        kafka_producer_abort(s->producer);
        return rc;
    }
    rd_kafka_topic_partition_list_t *offsets = progress(s, records, n);
    rc = kafka_producer_commit(s->producer, offsets, s->group, &unknown, err);
    rd_kafka_topic_partition_list_destroy(offsets);
    if (rc < 0 && unknown)
        kafka_producer_replace(s->producer, err->text); /* only another producer makes the answer final */
    return rc;
}

/* 1: the transaction under way is committed; 0: it is not; (1) of the header. */
static int ask_outcome(struct dlq_sender *s, struct base_error *err)
{
    char token[128];
    int rc = ask_token(s, token, err);
    if (rc < 0)
        return rc;
    if (strcmp(token, s->pending) == 0)
        return 1;
    if (strcmp(token, s->token) == 0)
        return 0;
    return base_fail(err, ERR_SERVICE, "another replay of '%s' has taken over (transaction %s); this one ends", s->dlq,
                     token);
}

static bool any_refused(const struct dlq_record *records, size_t n, struct base_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (records[i].record.refused && *records[i].record.refused) {
            base_fail(err, ERR_INPUT,
                      "letter %" PRId32 "/%" PRId64 " is too large for topic '%s': its max.message.bytes is below ours",
                      records[i].partition, records[i].offset, records[i].topic);
            return true;
        }
    return false;
}

int dlq_sender_send(struct dlq_sender *s, const struct dlq_record *records, size_t n, struct base_error *err)
{
    uint64_t until = base_clock_mono_ns() + dlq_common.timeout_s * 1000000000u;
    dlq_sender_token(s, s->pending);
    for (;;) {
        int rc = get_ready(s, err);
        if (rc == 0 && s->n_replaced != kafka_producer_n_replaced(s->producer)) {
            rc = ask_outcome(s, err);
            if (rc == 0)
                s->n_replaced = kafka_producer_n_replaced(s->producer);
        }
        FAILPOINT(REPLAY_BEFORE_SEND);
        if (rc == 0)
            rc = try_once(s, records, n, err) == 0 ? 1 : 0;
        FAILPOINT(REPLAY_AFTER_SEND);
        if (rc < 0)
            return rc;
        if (rc == 1)
            break;
        if (any_refused(records, n, err))
            return ERR_INPUT;
        if (dlq_stop || base_clock_mono_ns() > until)
            return base_fail(err, dlq_stop ? ERR_STOPPED : ERR_SERVICE, "%s", err->text);
        base_clock_sleep_ms(PAUSE_MS);
    }
    memcpy(s->token, s->pending, sizeof s->token);
    s->n_transactions++;
    clean_pages(s);
    return 0;
}
