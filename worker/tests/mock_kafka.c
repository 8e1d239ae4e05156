#include "worker/tests/mock_kafka.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static rd_kafka_t *client(rd_kafka_type_t type, const char *brokers)
{
    static const char *const settings[][2] = {{"log_level", "0"},
                                              {"auto.offset.reset", "earliest"},
                                              {"linger.ms", "0"},
                                              {"allow.auto.create.topics", "false"}};
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (size_t i = 0; i < N_OF(settings); i++)
        assert_int_equal(rd_kafka_conf_set(conf, settings[i][0], settings[i][1], why, sizeof why), RD_KAFKA_CONF_OK);
    if (brokers)
        assert_int_equal(rd_kafka_conf_set(conf, "bootstrap.servers", brokers, why, sizeof why), RD_KAFKA_CONF_OK);
    if (type == RD_KAFKA_CONSUMER)
        assert_int_equal(rd_kafka_conf_set(conf, "group.id", "reader", why, sizeof why), RD_KAFKA_CONF_OK);
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (!rk)
        fail_msg("%s", why);
    return rk;
}

void mock_kafka_open(struct mock_kafka *k)
{
    k->owner = client(RD_KAFKA_PRODUCER, NULL);
    k->cluster = rd_kafka_mock_cluster_new(k->owner, 1);
    assert_non_null(k->cluster);
    snprintf(k->brokers, sizeof k->brokers, "%s", rd_kafka_mock_cluster_bootstraps(k->cluster));
    k->producer = client(RD_KAFKA_PRODUCER, k->brokers);
}

void mock_kafka_close(struct mock_kafka *k)
{
    rd_kafka_destroy(k->producer);
    rd_kafka_mock_cluster_destroy(k->cluster);
    rd_kafka_destroy(k->owner);
}

void mock_kafka_topic(struct mock_kafka *k, const char *name, int n_partitions)
{
    assert_int_equal(rd_kafka_mock_topic_create(k->cluster, name, n_partitions, 1), RD_KAFKA_RESP_ERR_NO_ERROR);
}

void mock_kafka_put(struct mock_kafka *k, const char *topic, const void *key, size_t n_key, const void *value,
                    size_t n_value, const char *header, const char *header_value)
{
    union {
        const void *from;
        void *to;
    } key_bytes = {.from = key}, value_bytes = {.from = value};
    rd_kafka_headers_t *headers = rd_kafka_headers_new(1);
    if (header)
        rd_kafka_header_add(headers, header, -1, header_value, -1);
    rd_kafka_resp_err_t res =
        rd_kafka_producev(k->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key_bytes.to, n_key),
                          RD_KAFKA_V_VALUE(value_bytes.to, n_value), RD_KAFKA_V_HEADERS(headers),
                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    assert_int_equal(res, RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_int_equal(rd_kafka_flush(k->producer, 20000), RD_KAFKA_RESP_ERR_NO_ERROR);
}

void mock_reader_open(struct mock_reader *r, struct mock_kafka *k, const char *topic, int n_partitions)
{
    r->rk = client(RD_KAFKA_CONSUMER, k->brokers);
    rd_kafka_poll_set_consumer(r->rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n_partitions);
    for (int i = 0; i < n_partitions; i++)
        rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
    assert_int_equal(rd_kafka_assign(r->rk, list), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_topic_partition_list_destroy(list);
}

void mock_reader_close(struct mock_reader *r)
{
    rd_kafka_consumer_close(r->rk);
    rd_kafka_destroy(r->rk);
}

rd_kafka_message_t *mock_reader_next(struct mock_reader *r, int wait_ms)
{
    rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, wait_ms);
    if (!m || !m->err)
        return m;
    rd_kafka_message_destroy(m); /* a broker that was away for a while is not an end */
    return NULL;
}

uint32_t mock_headers(rd_kafka_message_t *m, struct schema_header *out, uint32_t n_max)
{
    rd_kafka_headers_t *headers = NULL;
    uint32_t n = 0;
    if (rd_kafka_message_headers(m, &headers))
        return 0;
    while (n < n_max && !rd_kafka_header_get_all(headers, n, &out[n].name, &out[n].value, &out[n].n))
        n++;
    return n;
}

static int dial(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

unsigned mock_http(uint16_t port, const char *method, const char *path, struct base_buffer *head,
                   struct base_buffer *body)
{
    char request[512], bytes[4096];
    struct base_buffer all;
    unsigned status = 0;
    base_buffer_clear(head);
    base_buffer_clear(body);
    int fd = dial(port);
    if (fd < 0)
        return 0;
    int n = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
    assert_int_equal(write(fd, request, (size_t)n), n);
    base_buffer_init(&all, 8u << 20);
    for (ssize_t got; (got = read(fd, bytes, sizeof bytes)) > 0;)
        base_buffer_append(&all, bytes, (size_t)got);
    close(fd);
    const char *text = base_buffer_cstr(&all), *end = strstr(text, "\r\n\r\n");
    if (end && sscanf(text, "HTTP/1.1 %u", &status) == 1) {
        base_buffer_append(head, text, (size_t)(end - text));
        base_buffer_append(body, end + 4, all.n - (size_t)(end + 4 - text));
    }
    base_buffer_done(&all);
    return status;
}

uint16_t mock_free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    close(fd);
    return ntohs(at.sin_port);
}
