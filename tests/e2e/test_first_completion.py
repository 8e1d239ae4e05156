"""From exec to the first answer that a reader sees, beside a bare client that joins the same group, answers and commits."""
import statistics
import threading
import time

import msgpack
import pytest
from confluent_kafka import Consumer, Producer

from conftest import ON_CARD, Topics

ROUNDS = 5
CONSUMER = {"isolation.level": "read_committed", "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": 8000, "heartbeat.interval.ms": 250, "fetch.wait.max.ms": 100}  # as the worker's


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 2)


def record(name):
    return {"v": 1, "batch_id": name, "prompts": [{"id": "a", "text": "Amen", "max_tokens": 1}]}


def until_seen(out, name, began):
    while time.monotonic() < began + 60:
        m = out.poll(0.002)
        if m is not None and m.key() == name.encode():
            return time.monotonic() - began
    raise AssertionError(f"no answer to {name}")


def bare_client(topics, seen):
    """Joins, answers the first record that is not done, commits; its producer starts meanwhile. Leaves when `seen` is set."""
    producer = Producer({"bootstrap.servers": topics.bootstrap, "transactional.id": f"{topics.group}-bare", "linger.ms": 1,
                         "retry.backoff.ms": 5})
    starting = threading.Thread(target=producer.init_transactions)
    starting.start()
    consumer = Consumer(dict(CONSUMER, **{"bootstrap.servers": topics.bootstrap, "group.id": topics.group}))
    consumer.subscribe([topics.prompts])
    m = None
    while m is None or m.error():
        m = consumer.poll(0.01)
    starting.join()
    producer.begin_transaction()
    producer.produce(topics.completions, msgpack.packb({"worker": "bare"}), m.key())
    producer.send_offsets_to_transaction(consumer.position(consumer.assignment()), consumer.consumer_group_metadata())
    producer.commit_transaction()
    seen.wait(60)
    consumer.close()


def bare(topics, out, name):
    seen, began = threading.Event(), time.monotonic()
    client = threading.Thread(target=bare_client, args=(topics, seen))
    client.start()
    took = until_seen(out, name, began)
    seen.set()
    client.join()
    return took


@pytest.mark.skipif(ON_CARD, reason="the interpreted device says nothing about time")
def test_from_zero(topics, start_worker, reader, oracle_store):
    """Nobody is in the group and a record waits: interleaved rounds, medians."""
    out, ours, theirs = reader(topics.completions), [], []
    start_worker(store=oracle_store).wait_ready().terminate()  # the snapshot is in the cache, the group has a coordinator
    out.poll(0.1)
    for i in range(ROUNDS):
        topics.produce_batches([record(f"bare-{i}")])
        theirs.append(bare(topics, out, f"bare-{i}"))
        topics.produce_batches([record(f"ours-{i}")])
        began = time.monotonic()
        worker = start_worker(store=oracle_store)
        ours.append(until_seen(out, f"ours-{i}", began))
        worker.terminate()
    print("bare", [f"{t:.3f}" for t in theirs], "rouse", [f"{t:.3f}" for t in ours])
    over = statistics.median(ours) - statistics.median(theirs)
    print(f"exec to first completion visible: {statistics.median(ours):.3f} s, {over * 1e3:+.0f} ms beside the bare client")
    assert over < 0.25


class Feed(threading.Thread):
    """A record to each partition every 10 ms, until it is left."""

    def __init__(self, topics):
        super().__init__()
        self.topics, self.over = topics, threading.Event()
        self.producer = Producer({"bootstrap.servers": topics.bootstrap, "linger.ms": 0})

    def run(self):
        n = 0
        while not self.over.wait(0.01):
            for p in range(self.topics.partitions):
                self.producer.produce(self.topics.prompts, msgpack.packb(record(f"feed-{n}")), b"feed", p)
            self.producer.poll(0)
            n += 1
        self.producer.flush(10)

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()


class BareMember(threading.Thread):
    def __init__(self, topics):
        super().__init__()
        self.over = threading.Event()
        self.consumer = Consumer(dict(CONSUMER, **{"bootstrap.servers": topics.bootstrap, "group.id": topics.group}))
        self.consumer.subscribe([topics.prompts])

    def run(self):
        while not self.over.is_set():
            self.consumer.poll(0.005)
        self.consumer.close()


def until_answered_by(out, who, began):
    """who: of the completion's worker, the name or the end of it."""
    while time.monotonic() < began + 60:
        m = out.poll(0.002)
        if m is not None and msgpack.unpackb(m.value())["worker"].endswith(who):
            return time.monotonic() - began
    raise AssertionError(f"no answer by {who}")


@pytest.mark.skipif(ON_CARD, reason="the interpreted device says nothing about time")
def test_into_a_running_group(kafka, topics, start_worker, reader, oracle_store):
    """A member works already, under load; a bare one likewise, in a group of its own."""
    out, ours, theirs, beside = reader(topics.completions), [], [], Topics(kafka.bootstrap, 2)
    theirs_out = type(out)(beside.bootstrap, beside.completions, beside.partitions)
    member = BareMember(beside)
    member.start()
    start_worker(store=oracle_store).wait_ready()
    with Feed(topics), Feed(beside):
        time.sleep(1)
        for _ in range(ROUNDS):
            seen, began = threading.Event(), time.monotonic()
            client = threading.Thread(target=bare_client, args=(beside, seen))
            client.start()
            theirs.append(until_answered_by(theirs_out, "bare", began))
            seen.set()
            client.join()
            began = time.monotonic()
            worker = start_worker(store=oracle_store)
            ours.append(until_answered_by(out, f":{worker.process.pid}", began))
            worker.terminate()
            time.sleep(0.5)  # the others have all partitions again
    member.over.set()
    member.join()
    theirs_out.close()
    print("bare", [f"{t:.3f}" for t in theirs], "rouse", [f"{t:.3f}" for t in ours])
    over = statistics.median(ours) - statistics.median(theirs)
    print(f"exec to first completion visible: {statistics.median(ours):.3f} s, {over * 1e3:+.0f} ms beside the bare client")
    assert over < 0.25
