"""Answers go out in any order, and whoever gets a partition next knows what was answered: after a kill only what was open is computed again,
and a record that workers die with is set aside."""
import re
import time

import msgpack
import pytest
from confluent_kafka import Consumer, TopicPartition

from conftest import ON_CARD, PATIENCE, Topics

N_LONG = 12  # at once, for what is short to have time


def long(i):
    return {"id": f"long{i}", "text": "In the beginning", "max_tokens": 480, "ignore_eos": True}


def batch(name, *prompts):
    return {"v": 1, "batch_id": name, "prompts": list(prompts)}


def short(name):
    return batch(name, {"id": "a", "text": "And God said", "max_tokens": 2})


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 1)


def metric(worker, name):
    found = re.search(rf"^rouse_{re.escape(name)} ([0-9.]+)$", worker.get("/metrics")[1], re.M)
    assert found, f"no rouse_{name}"
    return int(float(found.group(1)))


def committed(topics):
    c = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": topics.group})
    try:
        (p,) = c.committed([TopicPartition(topics.prompts, 0)], 20)
        try:
            return p.offset, p.metadata
        except UnicodeDecodeError as e:  # this client reads on behind the end of the text
            return p.offset, e.object.decode("latin1")
    finally:
        c.close()


def kill(worker):
    worker.process.kill()
    worker.process.wait()


def wait_for(worker, condition):
    worker.wait_ready()
    end = time.monotonic() + 60 * PATIENCE
    while not condition():
        assert time.monotonic() < end and worker.alive(), worker.log()[-3000:]
        time.sleep(0.005)


def slot(topics):
    return ("--transactional-id", f"{topics.group}-slot", "--kafka", "session.timeout.ms=6500")


def test_a_kill_repeats_only_what_was_open(topics, start_worker, reader, oracle_store):
    """Long prompts are at the head, in the middle of a batch; what finished around them stays answered."""
    amen = {"text": "Amen", "max_tokens": 1}
    records = [batch("head", {"id": "x", **amen}, *[long(i) for i in range(N_LONG)], {"id": "y", **amen})]
    records += [short(f"s{i}") for i in range(40)]
    topics.produce_batches(records)
    out = reader(topics.completions)
    first = start_worker(*slot(topics), store=oracle_store)
    out.read(42)
    kill(first)
    assert not [c["id"] for c in out.values() if c["id"].startswith("long")]
    offset, metadata = committed(topics)
    assert offset == 0 and metadata.startswith("r1:"), (offset, metadata)

    second = start_worker(*slot(topics), store=oracle_store)
    out.read(42 + N_LONG, seconds=60)
    keys = sorted((c["batch_id"], c["id"]) for c in out.values())
    assert keys == sorted((b["batch_id"], p["id"]) for b in records for p in b["prompts"])
    assert metric(second, 'records_dropped_total{reason="answered"}') == 40
    assert metric(second, 'prompts_dropped_total{reason="answered"}') == 2
    assert metric(second, "completion_tokens_total") == N_LONG * 480
    second.terminate()
    assert topics.lag() == 0


@pytest.mark.skipif(ON_CARD, reason="the interpreted device is too slow for the timing of kills")
def test_a_record_that_workers_die_with_is_set_aside(topics, start_worker, reader, oracle_store):
    """It is killed for three times, and the pool is well afterwards: nothing else is lost or set aside."""
    records = [short(f"s{i}") for i in range(10)] + [batch("poison", *[long(i) for i in range(N_LONG)])] + [short(f"t{i}") for i in range(10)]
    topics.produce_batches(records)
    out, dead = reader(topics.completions), reader(topics.dead)
    for _ in range(3):
        worker = start_worker(*slot(topics), store=oracle_store)
        out.read(20)  # so it is the only one that runs
        wait_for(worker, lambda: metric(worker, 'engine_sequences{state="running"}') == N_LONG)
        kill(worker)
    last = start_worker(*slot(topics), store=oracle_store)
    out.read(20 + N_LONG, seconds=60)
    refused = [c for c in out.values() if c["batch_id"] == "poison"]
    assert [(c["finish_reason"], c["error"]["code"]) for c in refused] == [("error", "poison")] * N_LONG
    (letter,) = dead.read(1)
    headers = {k: v.decode() for k, v in letter.headers()}
    assert headers["x-error-code"] == "poison" and headers["__dlq.errors.delivery.count"] == "4", headers
    assert msgpack.unpackb(letter.value())["batch_id"] == "poison"
    topics.produce_batches([short("afterwards")])
    out.read(21 + N_LONG)
    last.terminate()
    assert topics.lag() == 0
