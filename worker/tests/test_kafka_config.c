/* Our librdkafka settings, and what a user may and may not put over them. */
#include "worker/tests/test_worker.h"

#include "worker/kafka_config.h"

static int make_how(const char *rebalance, enum kafka_role role, const char *const *items, size_t n,
                    rd_kafka_conf_t **out_conf, struct base_error *err)
{
    const char *copy[8];
    for (size_t i = 0; i < n; i++)
        copy[i] = items[i];
    struct base_option_list list = {copy, n};
    struct kafka_config config = {.brokers = "localhost:1",
                                  .client_id = "test",
                                  .group = "g",
                                  .transactional_id = "t",
                                  .rebalance = rebalance,
                                  .properties = &list};
    return kafka_config_make(role, &config, out_conf, err);
}

static int make(enum kafka_role role, const char **items, size_t n, rd_kafka_conf_t **out_conf, struct base_error *err)
{
    return make_how(NULL, role, items, n, out_conf, err);
}

static void expect(rd_kafka_conf_t *conf, const char *key, const char *value)
{
    char got[256];
    kafka_config_get(conf, key, got, sizeof got);
    if (strcmp(got, value) != 0)
        fail_msg("%s is '%s', wanted '%s'", key, got, value);
}

static void test_defaults(void **state)
{
    (void)state;
    static const struct {
        enum kafka_role role;
        const char *key, *value;
    } cases[] = {
        {KAFKA_CONSUMER, "group.id", "g"},
        {KAFKA_CONSUMER, "bootstrap.servers", "localhost:1"},
        {KAFKA_CONSUMER, "enable.auto.commit", "false"},
        {KAFKA_CONSUMER, "isolation.level", "read_committed"},
        {KAFKA_CONSUMER, "auto.offset.reset", "smallest"}, /* earliest, by its older name */
        {KAFKA_CONSUMER, "session.timeout.ms", "8000"},
        {KAFKA_CONSUMER, "queued.min.messages", "512"},
        {KAFKA_CONSUMER, "allow.auto.create.topics", "false"},
        {KAFKA_PRODUCER, "transactional.id", "t"},
        {KAFKA_PRODUCER, "transaction.timeout.ms", "6000"},
        {KAFKA_PRODUCER, "retry.backoff.ms", "5"},
        {KAFKA_PRODUCER, "enable.idempotence", "true"},
        {KAFKA_PRODUCER, "partitioner", "murmur2_random"},
    };
    struct base_error err = {0};
    for (size_t i = 0; i < N_OF(cases); i++) {
        rd_kafka_conf_t *conf = NULL;
        assert_ok(make(cases[i].role, NULL, 0, &conf, &err), err);
        expect(conf, cases[i].key, cases[i].value);
        rd_kafka_conf_destroy(conf);
    }
}

static void test_properties_pass_through(void **state)
{
    (void)state;
    const char *items[] = {"security.protocol=sasl_ssl", "sasl.mechanisms=PLAIN", "sasl.username=u",
                           "sasl.password=a=b",          "fetch.wait.max.ms=20",  "fetch.wait.max.ms=30"};
    struct base_error err = {0};
    rd_kafka_conf_t *conf = NULL;
    assert_ok(make(KAFKA_CONSUMER, items, N_OF(items), &conf, &err), err);
    expect(conf, "security.protocol", "sasl_ssl");
    expect(conf, "sasl.password", "a=b");
    expect(conf, "fetch.wait.max.ms", "30");
    rd_kafka_conf_destroy(conf);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *name, *item, *text;
    } cases[] = {
        {"no such property", "no.such.thing=1", "No such configuration property"},
        {"not a value", "session.timeout.ms=soon", "session.timeout.ms"},
        {"no equals sign", "linger.ms", "KEY=VALUE"},
        {"no key", "=1", "KEY=VALUE"},
        {"ours: brokers", "bootstrap.servers=x:1", "--brokers"},
        {"ours: group", "group.id=x", "--group"},
        {"ours: transactional id", "transactional.id=x", "--transactional-id"},
        {"auto commit", "enable.auto.commit=true", "transaction"},
        {"isolation", "isolation.level=read_uncommitted", "aborted"},
        {"transaction outlives session", "transaction.timeout.ms=9000", "must be below session.timeout.ms, 8000"},
        {"session shorter than transaction", "session.timeout.ms=6000", "must be below session.timeout.ms, 6000"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        const char *items[] = {cases[i].item};
        rd_kafka_conf_t *conf = NULL;
        if (make(KAFKA_PRODUCER, items, 1, &conf, &err) != ERR_USAGE || !strstr(err.text, cases[i].text))
            fail_msg("%s: '%s' does not say '%s'", cases[i].name, err.text, cases[i].text);
    }
}

static void test_rebalance(void **state)
{
    (void)state;
    static const struct {
        const char *item, *how; /* a property, or the option */
        int since;
        const char *says, *key, *value;
    } cases[] = {
        {"partition.assignment.strategy=cooperative-sticky", NULL, 0x020601ff, "2.6.1", "partition.assignment.strategy",
         "cooperative-sticky"},
        {"group.protocol=consumer", NULL, 0x020c0000, "2.12", "group.protocol", "consumer"},
        {NULL, "cooperative", 0x020601ff, "2.6.1", "partition.assignment.strategy", "cooperative-sticky"},
        {NULL, "consumer", 0x020c0000, "2.12", "group.protocol", "consumer"},
        {NULL, "eager", 0, "", "partition.assignment.strategy", "range,roundrobin"},
        {"partition.assignment.strategy=roundrobin", "consumer", 0, "", "partition.assignment.strategy", "roundrobin"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        struct base_error err = {0};
        rd_kafka_conf_t *conf = NULL;
        int rc = make_how(cases[i].how, KAFKA_CONSUMER, &cases[i].item, cases[i].item != NULL, &conf, &err);
        if (rd_kafka_version() < cases[i].since) {
            assert_int_equal(rc, ERR_USAGE);
            assert_non_null(strstr(err.text, cases[i].says));
            continue;
        }
        assert_ok(rc, err);
        expect(conf, cases[i].key, cases[i].value);
        rd_kafka_conf_destroy(conf);
    }
}

static void test_rebalance_by_itself(void **state)
{
    (void)state;
    struct base_error err = {0};
    rd_kafka_conf_t *conf = NULL;
    assert_ok(make_how("auto", KAFKA_CONSUMER, NULL, 0, &conf, &err), err);
    expect(conf, "partition.assignment.strategy",
           rd_kafka_version() < 0x020a01ff ? "range,roundrobin" : "cooperative-sticky");
    rd_kafka_conf_destroy(conf);
}

static void test_secrets(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        bool secret;
    } cases[] = {
        {"sasl.password", true},           {"ssl.key.password", true},
        {"ssl.keystore.password", true},   {"ssl.key.pem", true},
        {"sasl.jaas.config", true},        {"sasl.oauthbearer.client.secret", true},
        {"sasl.oauthbearer.config", true}, {"ssl.ca.location", false},
        {"session.timeout.ms", false},
    };
    for (size_t i = 0; i < N_OF(cases); i++)
        if (kafka_config_is_secret(cases[i].key) != cases[i].secret)
            fail_msg("%s", cases[i].key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_properties_pass_through),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_rebalance),
        cmocka_unit_test(test_rebalance_by_itself),
        cmocka_unit_test(test_secrets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
