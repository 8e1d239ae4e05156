"""SIGTERM under load: the worker leaves within its grace, at once when it is told twice, and the next one answers the rest, each once."""
import signal
import time

import pytest

from conftest import ON_CARD, PATIENCE, Topics

RECORDS, TOKENS = 120, 100


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 4)


def load(topics):
    prompts = [{"id": p, "text": "In the beginning", "max_tokens": TOKENS, "ignore_eos": True} for p in "ab"]
    topics.produce_batches([{"v": 1, "batch_id": f"b{i}", "prompts": prompts} for i in range(RECORDS)])


def start_loaded(start_worker, out, *args, **kwargs):
    worker, end = start_worker(*args, **kwargs), time.monotonic() + 60 * PATIENCE
    while len(out.messages) < 30:
        out.poll(0.05)
        assert time.monotonic() < end and worker.alive()
    return worker


def leave(worker, n_signals, within):
    """The exit code, and how long it took."""
    began = time.monotonic()
    for i in range(n_signals):
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.2 if i + 1 < n_signals else 0)
    code = worker.process.wait(within + 20)
    return code, time.monotonic() - began


def rest_is_answered_once(topics, start_worker, out, oracle_store):
    seen = len(out.messages)
    assert seen < 2 * RECORDS  # or it was no load
    last = start_worker(store=oracle_store)
    out.read(2 * RECORDS, seconds=90)
    assert len({(c["batch_id"], c["id"]) for c in out.values()}) == len(out.messages) == 2 * RECORDS
    last.terminate()
    assert topics.lag() == 0


@pytest.mark.skipif(ON_CARD, reason="the interpreted device takes longer than any grace")
def test_leaves_within_the_grace(topics, start_worker, reader, oracle_store):
    """What was taken fits into it, and is finished."""
    load(topics)
    out = reader(topics.completions)
    worker = start_loaded(start_worker, out, "--inflight", 32, "--drain-s", 15, store=oracle_store)
    code, took = leave(worker, 1, 15)
    assert code == 0 and took < 15, (code, took, worker.log()[-2000:])
    assert worker.event("worker stopped")["unfinished"] == 0
    rest_is_answered_once(topics, start_worker, out, oracle_store)


@pytest.mark.skipif(ON_CARD, reason="the interpreted device takes longer than any grace")
@pytest.mark.parametrize("grace, signals", [(1, 1), (60, 2)], ids=["grace too short", "told twice"])
def test_leaves_with_work_open(grace, signals, topics, start_worker, reader, oracle_store):
    """The grace is over, or nobody wants to wait: what is open is the next one's."""
    load(topics)
    out = reader(topics.completions)
    worker = start_loaded(start_worker, out, "--inflight", 200, "--drain-s", grace, store=oracle_store)
    code, took = leave(worker, signals, 1)
    print(f"left with {code} after {took:.2f} s")
    assert took < (grace if signals == 1 else 0.2) + 2.5, (took, worker.log()[-2000:])
    rest_is_answered_once(topics, start_worker, out, oracle_store)
