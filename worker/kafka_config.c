#include "worker/kafka_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define VERSION_COOPERATIVE 0x020601ff /* 2.6.1: before it, the cooperative-sticky assignor can loop for ever */
#define VERSION_KEEPS                                                                                                  \
    0x020a01ff /* 2.10.1: a commit in the middle of a cooperative rebalance no longer loses the assignment */
#define VERSION_CONSUMER 0x020c0000 /* 2.12.0: the consumer group protocol (KIP-848) is more than a preview */

#define SESSION_TIMEOUT_MS 8000
#define TEXT_OF_(number)   #number
#define TEXT_OF(number)    TEXT_OF_(number)

enum { BOTH = -1 };

struct setting {
    int role; /* enum kafka_role, or BOTH */
    const char *key, *value;
    bool optional; /* older librdkafka do not know it */
};

static const struct setting settings[] = {
    {BOTH, "allow.auto.create.topics", "false", false}, /* the worker waits for topics, it never makes them */
    {BOTH, "socket.keepalive.enable", "true", false},
    {BOTH, "reconnect.backoff.ms", "50", false},
    {BOTH, "reconnect.backoff.max.ms", "2000", false},
    {BOTH, "topic.metadata.refresh.interval.ms", "10000", false}, /* how soon a topic made later is seen */
    {BOTH, "log.connection.close", "false", false},
    {BOTH, "metadata.recovery.strategy", "rebootstrap", true}, /* 2.11: a cluster that moved is found again */

    {KAFKA_CONSUMER, "socket.timeout.ms", "10000", false},
    {KAFKA_CONSUMER, "enable.auto.commit", "false", false}, /* offsets go with the transaction */
    {KAFKA_CONSUMER, "enable.auto.offset.store", "false", false},
    {KAFKA_CONSUMER, "isolation.level", "read_committed", false},
    {KAFKA_CONSUMER, "auto.offset.reset", "earliest", false}, /* a new group answers what is on the topic already */
    {KAFKA_CONSUMER, "check.crcs", "true", false},
    {KAFKA_CONSUMER, "enable.partition.eof", "false", false},
    /* A record is seconds of work: far less than the default of 100000 records and 64 MiB is enough to be fetched ahead. */
    {KAFKA_CONSUMER, "queued.min.messages", "512", false},
    {KAFKA_CONSUMER, "queued.max.messages.kbytes", "16384", false},
    /* A broker is asked one thing at a time: partitions that come or are resumed wait for the fetch that waits for records. */
    {KAFKA_CONSUMER, "fetch.wait.max.ms", "100", false},
    {KAFKA_CONSUMER, "fetch.error.backoff.ms", "100", false},
    {KAFKA_CONSUMER, "retry.backoff.ms", "20",
     false}, /* offsets that a transaction is about to settle are asked for again */

    /* With the default of 100 ms, one transaction after the other takes 90 ms longer: the coordinator asks to come again
     * while it still writes the markers of the one before. */
    {KAFKA_PRODUCER, "retry.backoff.ms", "5", false},
    {KAFKA_PRODUCER, "linger.ms", "1", false},
    {KAFKA_PRODUCER, "enable.idempotence", "true", false},
    {KAFKA_PRODUCER, "partitioner", "murmur2_random",
     false}, /* the same key, the same partition as from a Java producer */
};

/* The classic group protocol only: with the newer one these are the broker's business. A worker that died is missed after
 * 8 s; its transaction, after less: a commit that hangs must be over before the partitions have a new owner. */
static const struct setting classic_settings[] = {
    {KAFKA_CONSUMER, "session.timeout.ms", TEXT_OF(SESSION_TIMEOUT_MS), false},
    {KAFKA_CONSUMER, "heartbeat.interval.ms", "250", false}, /* how soon the others hear of it */
};
static const struct setting transaction_settings[] = {
    {KAFKA_PRODUCER, "transaction.timeout.ms", "6000", false},
    {KAFKA_PRODUCER, "socket.timeout.ms", "5000", false},
    {KAFKA_PRODUCER, "message.timeout.ms", "5000", false},
};
#define N_OF(table) (sizeof(table) / sizeof(table)[0])

/* Ours alone: property -> what to use instead, or why not. */
static const struct {
    const char *key, *why;
} owned[] = {
    {"bootstrap.servers", "use --brokers"},
    {"metadata.broker.list", "use --brokers"},
    {"group.id", "use --group"},
    {"transactional.id", "use --transactional-id"},
    {"enable.auto.commit", "offsets are committed in the transaction that carries the completions"},
    {"auto.commit.enable", "offsets are committed in the transaction that carries the completions"},
    {"enable.auto.offset.store", "offsets are committed in the transaction that carries the completions"},
    {"enable.idempotence", "transactions need it"},
    {"isolation.level", "an aborted record must not be answered"},
    {"allow.auto.create.topics", "the worker never makes topics"},
};

static const char *owned_why(const char *key)
{
    for (size_t i = 0; i < N_OF(owned); i++)
        if (strcmp(key, owned[i].key) == 0)
            return owned[i].why;
    return NULL;
}

bool kafka_config_is_secret(const char *key)
{
    static const char *const parts[] = {"password", "secret",  "jaas",     "oauthbearer.config",
                                        ".pem",     "ssl_key", "username", "sasl.oauthbearer.assertion"};
    for (size_t i = 0; i < N_OF(parts); i++)
        if (strstr(key, parts[i]))
            return true;
    return false;
}

void kafka_config_get(const rd_kafka_conf_t *conf, const char *key, char *out, size_t size)
{
    char value[512];
    size_t n = sizeof value;
    bool known = rd_kafka_conf_get(conf, key, value, &n) == RD_KAFKA_CONF_OK && n <= sizeof value;
    snprintf(out, size, "%s", known ? value : "");
}

long kafka_config_get_number(const rd_kafka_conf_t *conf, const char *key, long otherwise)
{
    char value[32];
    kafka_config_get(conf, key, value, sizeof value);
    return value[0] ? strtol(value, NULL, 10) : otherwise;
}

static int set(rd_kafka_conf_t *conf, const char *key, const char *value, struct base_error *err)
{
    char why[256] = "";
    rd_kafka_conf_res_t res = rd_kafka_conf_set(conf, key, value, why, sizeof why);
    if (res == RD_KAFKA_CONF_OK)
        return 0;
    if (res == RD_KAFKA_CONF_INVALID && kafka_config_is_secret(key))
        return base_fail(err, ERR_USAGE, "Kafka property %s: invalid value", key);
    return base_fail(err, ERR_USAGE, "Kafka property %s: %s", key, why);
}

static int set_table(rd_kafka_conf_t *conf, const struct setting *table, size_t n, enum kafka_role role,
                     struct base_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (table[i].role != BOTH && table[i].role != (int)role)
            continue;
        struct base_error mine = {0};
        if (set(conf, table[i].key, table[i].value, &mine) < 0 && !table[i].optional)
            return base_fail(err, mine.code, "%s", mine.text);
    }
    return 0;
}

static const char *property_value(const struct base_option_list *properties, const char *key)
{
    size_t n_key = strlen(key);
    for (size_t i = properties ? properties->n : 0; i-- > 0;) /* the last one holds */
        if (strncmp(properties->items[i], key, n_key) == 0 && properties->items[i][n_key] == '=')
            return properties->items[i] + n_key + 1;
    return NULL;
}

static bool is(const char *text, const char *what)
{
    return text && strcmp(text, what) == 0;
}

/* A property says how partitions move. */
static bool says_how(const struct kafka_config *config)
{
    return property_value(config->properties, "group.protocol") ||
           property_value(config->properties, "partition.assignment.strategy");
}

static bool is_consumer_protocol(const struct kafka_config *config)
{
    const char *protocol = property_value(config->properties, "group.protocol");
    return protocol ? is(protocol, "consumer") : !says_how(config) && is(config->rebalance, "consumer");
}

static int check_version(const char *key, const char *value, struct base_error *err)
{
    if (strcmp(key, "partition.assignment.strategy") == 0 && strstr(value, "cooperative-sticky") &&
        rd_kafka_version() < VERSION_COOPERATIVE)
        return base_fail(
            err, ERR_USAGE,
            "Kafka property %s: cooperative-sticky can loop for ever in librdkafka %s; it takes 2.6.1 or newer", key,
            rd_kafka_version_str());
    if (strcmp(key, "group.protocol") == 0 && strcmp(value, "consumer") == 0 && rd_kafka_version() < VERSION_CONSUMER)
        return base_fail(err, ERR_USAGE,
                         "Kafka property %s: the consumer protocol takes librdkafka 2.12 or newer, this is %s", key,
                         rd_kafka_version_str());
    return 0;
}

static int set_checked(rd_kafka_conf_t *conf, const char *key, const char *value, struct base_error *err)
{
    int rc = check_version(key, value, err);
    return rc < 0 ? rc : set(conf, key, value, err);
}

static int set_rebalance(rd_kafka_conf_t *conf, const char *how, struct base_error *err)
{
    bool by_itself = !how || is(how, "auto");
    bool cooperative = is(how, "cooperative") || (by_itself && rd_kafka_version() >= VERSION_KEEPS);
    if (is(how, "consumer"))
        return set_checked(conf, "group.protocol", "consumer", err);
    return cooperative ? set_checked(conf, "partition.assignment.strategy", "cooperative-sticky", err) : 0;
}

static int set_property(rd_kafka_conf_t *conf, const char *item, struct base_error *err)
{
    char key[128];
    const char *equals = strchr(item, '=');
    if (!equals || equals == item || (size_t)(equals - item) >= sizeof key)
        return base_fail(err, ERR_USAGE, "--kafka wants KEY=VALUE, as in --kafka security.protocol=ssl");
    snprintf(key, sizeof key, "%.*s", (int)(equals - item), item);
    const char *why = owned_why(key);
    if (why)
        return base_fail(err, ERR_USAGE, "Kafka property %s cannot be set: %s", key, why);
    return set_checked(conf, key, equals + 1, err);
}

/* A transaction that hangs must end before the group gives its partitions to somebody else. */
static int check_timeouts(const rd_kafka_conf_t *conf, const struct base_option_list *properties,
                          struct base_error *err)
{
    const char *given = property_value(properties, "session.timeout.ms");
    long session = given ? strtol(given, NULL, 10) : SESSION_TIMEOUT_MS;
    long transaction = kafka_config_get_number(conf, "transaction.timeout.ms", session);
    if (transaction >= session)
        return base_fail(err, ERR_USAGE,
                         "Kafka property transaction.timeout.ms: %ld must be below session.timeout.ms, %ld",
                         transaction, session);
    return 0;
}

static int set_names(enum kafka_role role, rd_kafka_conf_t *conf, const struct kafka_config *config,
                     struct base_error *err)
{
    int rc = set(conf, "bootstrap.servers", config->brokers, err);
    if (rc == 0 && config->client_id)
        rc = set(conf, "client.id", config->client_id, err);
    if (rc == 0 && role == KAFKA_CONSUMER)
        rc = set(conf, "group.id", config->group, err);
    if (rc == 0 && role == KAFKA_PRODUCER && config->transactional_id)
        rc = set(conf, "transactional.id", config->transactional_id, err);
    return rc;
}

int kafka_config_make(enum kafka_role role, const struct kafka_config *config, rd_kafka_conf_t **out_conf,
                      struct base_error *err)
{
    bool classic = !is_consumer_protocol(config);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (!conf)
        return base_fail(err, ERR_NOMEM, "Kafka configuration: out of memory");
    rd_kafka_conf_set_log_cb(conf, kafka_config_log);
    int rc = set_table(conf, settings, N_OF(settings), role, err);
    if (rc == 0 && classic)
        rc = set_table(conf, classic_settings, N_OF(classic_settings), role, err);
    if (rc == 0 && config->transactional_id)
        rc = set_table(conf, transaction_settings, N_OF(transaction_settings), role, err);
    if (rc == 0)
        rc = set_names(role, conf, config, err);
    if (rc == 0 && role == KAFKA_CONSUMER && !says_how(config))
        rc = set_rebalance(conf, config->rebalance, err);
    for (size_t i = 0; rc == 0 && config->properties && i < config->properties->n; i++)
        rc = set_property(conf, config->properties->items[i], err);
    if (rc == 0 && classic && role == KAFKA_PRODUCER && config->transactional_id)
        rc = check_timeouts(conf, config->properties, err);
    if (rc < 0) {
        rd_kafka_conf_destroy(conf);
        return rc;
    }
    *out_conf = conf;
    return 0;
}

void kafka_config_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    static const char *const noise[] = {"FAIL", "ERROR", "CONFWARN", "AUTOCREATE"};
    bool is_noise = false;
    for (size_t i = 0; i < N_OF(noise); i++)
        is_noise = is_noise || strcmp(facility, noise[i]) == 0;
    enum base_log_level at = is_noise || level > 5 ? BASE_LOG_DEBUG : BASE_LOG_WARN;
    if (base_log_enabled(at))
        BASE_LOG_(at, "librdkafka", LOG_STR("facility", facility), LOG_STR("text", text));
}
