"""One or three real brokers and a Redis, each behind a proxy for the workers, and with a way of its own for the tests.

Every broker is a controller too. The workers see the addresses of proxies only; brokers talk to each other, and tests to
them, directly: what is measured is not hurt."""

import concurrent.futures
import contextlib
import os
import random
import signal
import socket

from e2e import Kafka, Redis
from proxy import Proxies

_given = set()


def free_port():
    """Below the ports that outgoing connections get: a service that is down for a while finds it free when it comes back."""
    while True:
        port = random.randint(10000, 32000)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Broker(Kafka):
    """address: for tests; proxy: for workers."""

    def __init__(self, folder, node, voters, n, proxies):
        super().__init__(folder)
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.name, self.node = f"broker-{node}", node
        self.inner_port, self.worker_port = free_port(), free_port()
        self.controller_port = voters[node]
        self.proxy = proxies.add(self.worker_port, self.name)
        copies, quorum = (3, 2) if n == 3 else (1, 1)
        self.lines = [
            "process.roles=broker,controller", f"node.id={node}",
            "controller.quorum.voters=" + ",".join(f"{i}@127.0.0.1:{p}" for i, p in voters.items()),
            f"listeners=TESTS://127.0.0.1:{self.port},INNER://127.0.0.1:{self.inner_port},WORKERS://127.0.0.1:{self.worker_port},"
            f"CONTROLLER://127.0.0.1:{self.controller_port}",
            f"advertised.listeners=TESTS://127.0.0.1:{self.port},INNER://127.0.0.1:{self.inner_port},WORKERS://127.0.0.1:{self.proxy.port}",
            "listener.security.protocol.map=" + ",".join(f"{name}:PLAINTEXT" for name in ("TESTS", "INNER", "WORKERS", "CONTROLLER")),
            "inter.broker.listener.name=INNER", "controller.listener.names=CONTROLLER", f"log.dirs={folder}/data",
            "auto.create.topics.enable=false", f"min.insync.replicas={quorum}", f"default.replication.factor={copies}",
            f"offsets.topic.replication.factor={copies}", "offsets.topic.num.partitions=3",
            f"transaction.state.log.replication.factor={copies}", f"transaction.state.log.min.isr={quorum}",
            "transaction.state.log.num.partitions=3", f"share.coordinator.state.topic.replication.factor={copies}",
            f"share.coordinator.state.topic.min.isr={quorum}", "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=1000", "group.consumer.min.session.timeout.ms=1000", "group.consumer.session.timeout.ms=2000",
            "group.consumer.min.heartbeat.interval.ms=200", "group.consumer.heartbeat.interval.ms=300",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
            "broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500", "controlled.shutdown.enable=false",
            "replica.lag.time.max.ms=3000", "controller.quorum.election.timeout.ms=500", "controller.quorum.fetch.timeout.ms=1500",
            "log.cleaner.enable=false",  # the log of offsets is read as a history: nothing of it may go
        ]

    def format(self):
        self.write_and_format(self.lines)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self, how=signal.SIGTERM, seconds=15):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        super().stop(how, seconds)


class Cluster:
    def __init__(self, folder, n_brokers):
        self.proxies = Proxies()
        voters = {i: free_port() for i in range(1, n_brokers + 1)}
        self.brokers = [Broker(os.path.join(folder, f"broker-{i}"), i, voters, n_brokers, self.proxies) for i in voters]
        self.redis = Redis(os.path.join(folder, "redis"))
        self.redis.port = free_port()
        self.redis_proxy = self.proxies.add(self.redis.port, "redis")
        self.copies = 3 if n_brokers == 3 else 1
        self.bootstrap = ",".join(b.bootstrap for b in self.brokers)
        self.worker_bootstrap = ",".join(f"127.0.0.1:{b.proxy.port}" for b in self.brokers)
        self.worker_redis = f"redis://127.0.0.1:{self.redis_proxy.port}"

    def __enter__(self):
        self.redis.start()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda b: b.start(), self.brokers))
        return self

    def __exit__(self, *exc):
        for broker in self.brokers:
            broker.kill()
        self.redis.kill()
        self.proxies.close()
