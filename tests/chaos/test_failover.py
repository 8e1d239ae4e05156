"""A worker is killed with a transaction open: how long until the partitions that it held are answered again."""

import itertools
import os
import time

import msgpack
import pytest

SESSION_S = 8.0  # the worker's default
BOUND_S = 0.5
POINTS = ["commit.after_sends", "commit.after_offsets"]
if os.environ.get("ROUSE_LONG") == "true":
    POINTS += ["commit.before_end", "commit.after_end"]


def short(name):
    return {"v": 1, "batch_id": name, "prompts": [{"id": "a", "text": "Amen", "max_tokens": 1}]}


def feed_until_dead(topics, victim):
    """One record at a time; returns how many, and when the victim was seen dead."""
    for n in itertools.count(1):
        topics.produce_batches([short(f"before-{n}")])
        assert n < 3000, "the failpoint is never passed"
        if not victim.alive():
            return n, time.monotonic()


def wait_for_members(worker, n):
    """Until the worker has given some of its partitions to others."""
    end = time.monotonic() + 60
    while worker.log().count("partitions assigned") < n:
        assert worker.alive() and time.monotonic() < end, worker.log()[-2000:]
        time.sleep(0.05)


@pytest.mark.parametrize("point", POINTS)
def test_successor_answers_within_the_session_timeout(point, topics, start_worker, reader, oracle_store):
    """Transactional ids are of their own: nothing but the progress map tells the successor whose transaction is open."""
    victim = start_worker(store=oracle_store, env={"ROUSE_FAILPOINT": f"{point}:12:kill"})
    victim.wait_ready()
    successor = start_worker(store=oracle_store)
    successor.wait_ready()
    wait_for_members(successor, 1)
    out = reader(topics.completions)
    n, died = feed_until_dead(topics, victim)
    topics.produce([(f"after-{p}", msgpack.packb(short(f"after-{p}")), p) for p in range(topics.partitions)])
    wanted = {f"after-{p}" for p in range(topics.partitions)}
    while wanted and time.monotonic() < died + 60:
        m = out.poll(0.01)
        if m is not None:
            wanted.discard(m.key().decode())
    took = time.monotonic() - died
    print(f"{point}: {took:.2f} s until every partition is answered again, session timeout {SESSION_S} s")
    assert not wanted and took <= SESSION_S + BOUND_S, (took, successor.log()[-3000:])
    out.read(n + topics.partitions)
    assert len({m.key() for m in out.messages}) == len(out.messages) == n + topics.partitions
