"""How partitions move, with the librdkafka of the system and the newest one: members join, leave and die under load."""
import os

import pytest

from conftest import ON_CARD, Topics, newest_librdkafka

LONG = os.environ.get("ROUSE_LONG") == "true"
PARTITIONS, RECORDS, TOKENS = 6, 150, 60
STATIC = "static"  # with group.instance.id
MATRIX = [("system", "eager"), ("newest", "cooperative"), ("newest", "consumer")]
if LONG:
    MATRIX += [("newest", "eager"), ("system", "eager", STATIC), ("newest", "cooperative", STATIC), ("newest", "consumer", STATIC)]


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, PARTITIONS)


def moved(worker, event="partitions revoked"):
    return [len(e["partitions"].split(",")) for e in worker.events() if e.get("event") == event]


@pytest.mark.skipif(ON_CARD, reason="it is about the group alone")
@pytest.mark.parametrize("library, how, kind", [(*m, "")[:3] for m in MATRIX])
def test_members_come_go_and_die(library, how, kind, topics, start_worker, reader, oracle_store, tmp_path):
    env = newest_librdkafka(tmp_path) if library == "newest" else {}
    prompts = [{"id": p, "text": "And God said", "max_tokens": TOKENS, "ignore_eos": True} for p in "ab"]
    topics.produce_batches([{"v": 1, "batch_id": f"b{i}", "prompts": prompts} for i in range(RECORDS)])
    out = reader(topics.completions)

    def start(n):
        args = ["--rebalance", how, "--inflight", 32] + (["--kafka", f"group.instance.id=member-{n}"] if kind else [])
        return start_worker(*args, store=oracle_store, env=env)

    first = start(1)
    while len(out.messages) < 20:
        out.poll(0.1)
    second = start(2).wait_ready()
    while len(out.messages) < 100:
        out.poll(0.1)
    if how != "eager":  # what stays where it is does not stop
        assert moved(first) and max(moved(first)) <= PARTITIONS // 2, moved(first)
    first.process.kill()
    first.process.wait()
    third = start(3).wait_ready()
    second.process.terminate()
    assert second.process.wait(40) == 0 or kind, second.log()[-3000:]  # docs/guarantees.md, (1)
    out.read(2 * RECORDS, seconds=90)
    assert len({(c["batch_id"], c["id"]) for c in out.values()}) == len(out.messages) == 2 * RECORDS
    assert first.event("group join")["protocol"] == ("consumer" if how == "consumer" else "classic")
    third.terminate()
    assert topics.lag() == 0


def test_what_the_library_cannot_do_is_refused(topics, start_worker, oracle_store):
    """With its version, and the one that can."""
    eager = start_worker("--rebalance", "eager", store=oracle_store).wait_ready()
    version = tuple(map(int, eager.event("group join")["librdkafka"].split(".")[:2]))
    for how, since in (("cooperative", (2, 6)), ("consumer", (2, 12))):
        if version < since:
            worker = start_worker("--rebalance", how, store=oracle_store)
            assert worker.process.wait(20) == 2
            assert ".".join(map(str, since)) in worker.log() and "librdkafka" in worker.log(), worker.log()
