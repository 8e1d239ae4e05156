"""Workers that come and go as planned: nothing is computed twice, whoever answers it."""
import collections
import re
import time

import pytest

from conftest import PATIENCE, Topics

TOKENS = 100
FEW = ("--inflight", 32)  # so that something is left for others


def batch(i):
    prompts = [{"id": name, "text": "In the beginning", "max_tokens": TOKENS, "ignore_eos": True} for name in "ab"]
    return {"v": 1, "batch_id": f"b{i}", "prompts": prompts}


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 4)


def name(worker):
    return worker.event("worker starting")["worker"]


def generated(worker):
    return int(re.search(r"^rouse_engine_generated_tokens_total (\d+)", worker.get("/metrics")[1], re.M).group(1))


def read_until(out, n, seconds=60):
    end = time.monotonic() + seconds * PATIENCE
    while len(out.messages) < n:
        out.poll(0.05)
        assert time.monotonic() < end, f"{len(out.messages)} of {n}"


def test_nothing_is_computed_twice(topics, start_worker, reader, oracle_store):
    """A second worker joins under load, the first one leaves under load, and a third one joins."""
    n = 240
    topics.produce_batches([batch(i) for i in range(n)])
    out = reader(topics.completions)
    first = start_worker(*FEW, store=oracle_store)
    read_until(out, 40)
    second = start_worker(*FEW, store=oracle_store).wait_ready()
    read_until(out, 160)
    first.terminate()
    third = start_worker(*FEW, store=oracle_store).wait_ready()
    out.read(2 * n, seconds=120)

    answered = collections.Counter(c["worker"] for c in out.values())
    assert len({(c["batch_id"], c["id"]) for c in out.values()}) == len(out.messages) == 2 * n
    assert answered[name(first)] > 0 and answered[name(second)] > 0 and answered[name(third)] > 0, answered
    for worker in (second, third):
        assert generated(worker) == answered[name(worker)] * TOKENS, (answered, worker.log()[-3000:])
    assert topics.lag() == 0
