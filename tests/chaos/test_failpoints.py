"""A worker is killed at a step of its transaction and a successor finishes; and rules broken on purpose are noticed."""

import random
import time

import msgpack
import pytest
from check_history import DEAD, Output, check, read_history, summary
from confluent_kafka import Consumer, TopicPartition
from e2e import generate
from progress import decode

KILLED_AT = ["commit.after_collect", "commit.after_begin", "commit.between_sends", "commit.after_sends", "commit.after_offsets",
             "commit.before_end", "commit.after_end", "commit.before_settle", "commit.after_settle", "poll.after_take"]


def workload(topics, store, seed, n=24):
    """Batches on known offsets, one record in eight bad; returns what is to come of each record."""
    rng, records, prompts, asked, where = random.Random(seed), [], {}, [], {}
    for b in range(n):
        partition, offset = b % topics.partitions, b // topics.partitions
        name = f"batch-{b}"
        if b % 8 == 7:
            records.append((name, b"\xc1 not a batch", partition))
            prompts[partition, offset] = [DEAD]
            continue
        parts = [{"id": f"p{i}", "text": rng.choice(["And God said", "Behold", "The king"]), "max_tokens": rng.randint(1, 24),
                  "temperature": 0.8, "seed": rng.randint(0, 2**63 - 1)} for i in range(rng.randint(1, 5))]
        records.append((name, msgpack.packb({"v": 1, "batch_id": name, "prompts": parts}), partition))
        prompts[partition, offset] = [f"{name}/{p['id']}" for p in parts]
        asked += [dict(p, id=f"{name}/{p['id']}") for p in parts]
        where.update({(name, p["id"]): (partition, offset, i) for i, p in enumerate(parts)})
    answers, _ = generate(store, asked)
    prompts = {r: [DEAD if k == DEAD else answers[k]["text"] for k in keys] for r, keys in prompts.items()}
    topics.produce(records)
    return prompts, where


def dead_letter_of(message):
    headers = {name: value.decode() for name, value in message.headers()}
    return Output(int(headers["__dlq.errors.partition"]), int(headers["__dlq.errors.offset"]), 0, DEAD)


def sample(consumer, topics, prompts, progress):
    """Appends what is committed now."""
    for p in consumer.committed([TopicPartition(topics.prompts, i) for i in range(topics.partitions)], 20):
        if p.offset < 0:
            continue
        whole, partial = decode(p.metadata, p.offset)
        done = {(o, i) for o in whole for i in range(len(prompts.get((p.partition, o), [0])))}
        done |= {(o, i) for o, some in partial.items() for i in some}
        steps = progress.setdefault(p.partition, [])
        if not steps or steps[-1] != (p.offset, done):
            steps.append((p.offset, done))


def play(topics, start_worker, reader, store, folder, failpoint=None, mutant=None, seconds=60):
    """Victim, then successor with the same transactional id; returns the findings."""
    prompts, where = workload(topics, store, seed=11)
    slot = ("--transactional-id", f"{topics.group}-slot")
    env = {"ROUSE_MUTANT": mutant or ""}
    victim = start_worker(*slot, store=store, env=dict(env, ROUSE_HISTORY=str(folder / "1"), ROUSE_FAILPOINT=failpoint or ""))
    if failpoint:
        assert victim.process.wait(60) == -9, victim.log()[-2000:]
        start_worker(*slot, store=store, env=dict(env, ROUSE_HISTORY=str(folder / "2"), ROUSE_FAILPOINT=""))
    done, dead, progress = reader(topics.completions), reader(topics.dead), {}
    consumer = Consumer({"bootstrap.servers": topics.bootstrap, "group.id": topics.group})
    n, ends = sum(map(len, prompts.values())), {p: sum(r[0] == p for r in prompts) for p in range(topics.partitions)}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done.settle(0.1), dead.settle(0.1)
        sample(consumer, topics, prompts, progress)
        at_end = all(progress.get(p, [(-1, {})])[-1] == (end, set()) for p, end in ends.items())
        if at_end and len(done.messages) + len(dead.messages) >= n:
            break
    done.settle(), dead.settle()
    consumer.close()
    outputs = [Output(*where[c["batch_id"], c["id"]], c["text"]) for c in done.values()]
    outputs += [dead_letter_of(m) for m in dead.messages]
    return check(prompts, outputs, progress, ends, {p.name: read_history(p) for p in folder.iterdir() if p.name in "12"})


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_at(point, topics, start_worker, reader, oracle_store, tmp_path):
    assert play(topics, start_worker, reader, oracle_store, tmp_path, f"{point}:2:kill") == []


@pytest.mark.parametrize("mutant, failpoint, what", [
    ("offsets_left_out", "commit.after_settle:1:kill", "doubled"),
    ("base_too_far", None, "left"),
])
def test_broken_rule_is_noticed(mutant, failpoint, what, topics, start_worker, reader, oracle_store, tmp_path):
    found = play(topics, start_worker, reader, oracle_store, tmp_path, failpoint, mutant, seconds=15)
    assert summary(found)[what] > 0, summary(found)
