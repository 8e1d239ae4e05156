#include "cli/dlq_route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/dlq_verbs.h"

#define NEW_TOPIC_MS 2000 /* one that was just made may be unknown for a moment */

static size_t bytes_max_of(rd_kafka_event_t *event)
{
    size_t n = 0, n_entries = 0;
    const rd_kafka_ConfigResource_t **found =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);
    if (n != 1 || rd_kafka_ConfigResource_error(found[0]))
        return 0;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(found[0], &n_entries);
    for (size_t i = 0; i < n_entries; i++) {
        const char *value = rd_kafka_ConfigEntry_value(entries[i]);
        if (value && strcmp(rd_kafka_ConfigEntry_name(entries[i]), "max.message.bytes") == 0)
            return strtoul(value, NULL, 10);
    }
    return 0;
}

/* The topic's max.message.bytes; 0: not told, which some ACLs do. */
static size_t ask_bytes_max(rd_kafka_t *rk, const char *topic)
{
    char why[128];
    rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_set_request_timeout(options, (int)dlq_common.timeout_s * 1000, why, sizeof why);
    rd_kafka_DescribeConfigs(rk, &resource, 1, options, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, (int)dlq_common.timeout_s * 1000);
    size_t n = event && !rd_kafka_event_error(event) ? bytes_max_of(event) : 0;
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ConfigResource_destroy(resource);
    return n;
}

/* ERR_NOTFOUND too. */
static int ask(const struct dlq_route *r, const char *topic, struct base_error *err)
{
    uint64_t left_ms = dlq_common.timeout_s * 1000;
    int32_t n;
    int rc;
    do {
        rc = cli_kafka_n_partitions(r->rk, topic, NEW_TOPIC_MS, &n, err);
        left_ms -= left_ms < NEW_TOPIC_MS ? left_ms : NEW_TOPIC_MS;
    } while (rc == ERR_SERVICE && left_ms > 0 && !dlq_stop);
    if (rc < 0)
        return rc;
    size_t bytes_max = ask_bytes_max(r->rk, topic);
    if (bytes_max > 0 && bytes_max < r->n_bytes_max)
        return base_fail(err, ERR_USAGE,
                         "topic '%s' takes no more than %zu bytes at once (max.message.bytes), and we would send up to "
                         "%zu: give --kafka message.max.bytes=%zu",
                         topic, bytes_max, r->n_bytes_max, bytes_max);
    return 0;
}

int dlq_route_find(struct dlq_route *r, const char *topic, const char **out_name, struct base_error *err)
{
    *out_name = NULL;
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->targets[i].name, topic) == 0) {
            *out_name = r->targets[i].exists ? r->targets[i].name : NULL;
            return 0;
        }
    if (r->n == DLQ_TARGETS_MAX)
        return base_fail(err, ERR_USAGE,
                         "the letters come from more than %d topics; select fewer (dlq ls --by topic), or give --to",
                         DLQ_TARGETS_MAX);
    struct dlq_target *t = &r->targets[r->n];
    if (!topic[0] || strlen(topic) >= sizeof t->name)
        return 0;
    int rc = ask(r, topic, err);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    snprintf(t->name, sizeof t->name, "%s", topic);
    t->exists = rc == 0;
    *out_name = t->exists ? t->name : NULL;
    r->n++;
    return 0;
}
