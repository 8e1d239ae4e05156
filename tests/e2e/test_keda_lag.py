"""What KEDA's Kafka scaler makes of a pool: never inactive while work is open, 0 as soon as it is done.

The formula is written from the scaler's documentation: the lag of a partition is its end offset less the committed offset; without a
committed offset it is the whole partition (offsetResetPolicy earliest) ; the scaler is active while the sum exceeds activationLagThreshold,
0 by default.
"""
import os
import time

import msgpack
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from conftest import ON_CARD, Topics

ROUNDS = 100 if os.environ.get("ROUSE_LONG") == "true" else 10
COMMIT_S = 0.05  # --commit-ms, by default
ASKING_S = 0.15  # a round trip of the question, on a machine that is busy
MARKERS_S = 0.2  # positions that moved over a marker alone are looked at, and committed, each 100 ms


class Keda:
    def __init__(self, topics):
        self.topics = topics
        self.client = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": topics.group,
                                "isolation.level": "read_uncommitted", "enable.auto.commit": False})

    def lag(self):
        partitions = [TopicPartition(self.topics.prompts, p) for p in range(self.topics.partitions)]
        total = 0
        for p in self.client.committed(partitions, 10):
            low, high = self.client.get_watermark_offsets(p, 10, cached=False)
            total += high - (p.offset if p.offset >= 0 else low)
        return total

    def is_active(self):
        return self.lag() > 0


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 4)


def read_to(out, n):
    end = time.monotonic() + 60
    while len(out.messages) < n:
        out.poll(0.01)
        assert time.monotonic() < end, f"{len(out.messages)} of {n}"


def batches(tag, long_one):
    short = [{"v": 1, "batch_id": f"{tag}-{i}", "prompts": [{"id": "a", "text": "Amen", "max_tokens": 2}]} for i in range(12)]
    head = {"v": 1, "batch_id": f"{tag}-head", "prompts": [{"id": "a", "text": "Amen", "max_tokens": 200, "ignore_eos": True}]}
    return ([head] if long_one else []) + short


@pytest.mark.skipif(ON_CARD, reason="it is about time")
@pytest.mark.parametrize("transactional", [False, True], ids=["plain", "transactional"])
def test_active_until_done_then_zero(transactional, topics, start_worker, reader, oracle_store):
    start_worker(store=oracle_store).wait_ready()
    out, keda, after = reader(topics.completions), Keda(topics), []
    producer = Producer({"bootstrap.servers": topics.bootstrap, **({"transactional.id": f"{topics.group}-p"} if transactional else {})})
    if transactional:
        producer.init_transactions()
    for i in range(ROUNDS):
        records = batches(str(i), long_one=i % 2 == 0)
        seen, wanted = len(out.messages), len(out.messages) + len(records)
        if transactional:
            producer.begin_transaction()
        for n, b in enumerate(records):
            producer.produce(topics.prompts, msgpack.packb(b), b["batch_id"], partition=n % topics.partitions)
        producer.flush(10)
        if transactional:
            producer.commit_transaction()
        asked_ms, active = time.time() * 1000, keda.is_active()
        while len(out.messages) < wanted and active:
            out.poll(0.005)
            while len(out.messages) < wanted and out.poll(0) is not None:
                pass
            asked_ms, active = time.time() * 1000, keda.is_active()
        read_to(out, wanted)
        if not active:  # then all of it had been written: answers and offsets are one transaction
            assert max(m.timestamp()[1] for m in out.messages[seen:]) <= asked_ms + ASKING_S * 1000
        done = time.monotonic()
        while keda.is_active():
            assert time.monotonic() < done + 5, (i, keda.lag())
        after.append(time.monotonic() - done)
    keda.client.close()
    bound = COMMIT_S + ASKING_S + (MARKERS_S if transactional else 0)
    print(f"lag 0 after the last answer: {max(after) * 1e3:.0f} ms at most, {sum(a <= bound for a in after)} of {ROUNDS} within {bound} s")
    assert max(after) <= bound, after
