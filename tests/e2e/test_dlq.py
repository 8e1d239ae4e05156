"""rouse dlq on real Kafka: what is there, what it says, put back exactly once through kill -9, deleted as far as Kafka can.

ROUSE_DLQ_KILLS and ROUSE_DLQ_LETTERS make the kill test longer (100 and 10000 for the full one).
"""
import collections
import json
import os
import random
import subprocess
import time

import msgpack
import pytest
from confluent_kafka import Producer
from conftest import ROUSE, Reader, rouse

KILLS = int(os.environ.get("ROUSE_DLQ_KILLS", 10))
LETTERS = int(os.environ.get("ROUSE_DLQ_LETTERS", 2000))
T0 = 1_700_000_000_000


def batch(i, **more):
    return msgpack.packb({"v": 1, "batch_id": f"b{i}", "later": [1, {"x": i}],
                          "prompts": [{"id": f"p{i}", "text": "And God said", "max_tokens": 8}], **more})


def letter(topics, i, code="device", stage="generate", attempts=1, more=(), failed_ms=None):
    return [("__dlq.errors.topic", topics.prompts), ("__dlq.errors.partition", "0"), ("__dlq.errors.offset", str(i)),
            ("__dlq.errors.group", topics.group), ("__dlq.errors.delivery.count", str(attempts)),
            ("__dlq.errors.message", "the forward pass failed"), ("x-error-code", code), ("x-error-stage", stage),
            ("x-last-failed-ms", str(failed_ms or T0 + i)), *more]


def put(topics, records):
    """records: (key, value, headers[, partition]) onto the dead letter topic."""
    producer = Producer({"bootstrap.servers": topics.bootstrap, "linger.ms": 5})
    for key, value, headers, *where in records:
        while True:
            try:
                producer.produce(topics.dead, value, key, headers=headers, partition=where[0] if where else -1)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0


def put_many(topics, n, **how):
    put(topics, [(f"k{i}", batch(i), letter(topics, i, **how), i % topics.partitions) for i in range(n)])


def dlq(topics, verb, *args, check=True, **how):
    return rouse("dlq", verb, "--brokers", topics.bootstrap, "--dlq", topics.dead, *args, check=check, **how)


def dlq_json(topics, verb, *args):
    return [json.loads(line) for line in dlq(topics, verb, "--json", *args).stdout.splitlines()]


def replay(topics, *args):
    return dlq_json(topics, "replay", *args)[-1]


def on_prompts(topics, n):
    r = Reader(topics.bootstrap, topics.prompts, topics.partitions)
    try:
        return list(r.read(n)) if n else (r.settle(2), list(r.messages))[1]
    finally:
        r.close()


def test_killed_at_random_each_letter_is_sent_once(topics):
    """One selection, replayed by runs of which all but the last are killed somewhere."""
    rng = random.Random(7)
    put_many(topics, LETTERS)
    began = time.monotonic()
    assert dlq_json(topics, "replay", "--dry-run")[-1]["would_send"] == LETTERS
    rate = max(100, 2 * LETTERS // KILLS)  # slow enough that letters are left when the last of them is killed
    spent = 0
    for i in range(KILLS):
        p = subprocess.Popen([ROUSE, "dlq", "replay", "--brokers", topics.bootstrap, "--dlq", topics.dead, "--rate", str(rate)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.02, 1.2))
        spent += p.poll() is None
        p.kill()
        p.wait()
    before = sum(g["replayed"] for g in dlq_json(topics, "ls"))
    last = dlq_json(topics, "replay", "--verify")
    assert last[0]["sent"] == LETTERS - before and last[1]["missing"] == last[1]["doubled"] == last[1]["different"] == 0
    assert replay(topics)["sent"] == 0
    seen = collections.Counter()
    for m in on_prompts(topics, LETTERS):
        seen[dict(m.headers())["x-replay-of"]] += 1
    assert len(seen) == LETTERS and set(seen.values()) == {1}
    print(f"{KILLS} kills, {spent} of them while it ran, {before} of {LETTERS} letters sent by killed runs, in {time.monotonic() - began:.0f} s")
    assert spent >= KILLS * 3 // 4 and 0 < before


def test_filters_dry_run_and_other_selections(topics):
    put(topics, [(f"k{i}", batch(i, **({"model": "m1"} if i % 5 == 0 else {})),
                  letter(topics, i, code="device" if i % 2 else "internal", attempts=1 + i % 3,
                         more=[("tenant", "a" if i % 4 else "b")]), i % topics.partitions) for i in range(120)])
    cases = [
        (["--code", "device"], 60), (["--code", "device", "--code", "internal"], 120), (["--stage", "decode"], 0),
        (["--since", str(T0 + 100)], 20), (["--until", "2023-11-14T22:13:21Z"], 120), (["--key", "k7"], 1),
        (["--request", "b9"], 1), (["--request", "p9"], 1), (["--model", "m1"], 24), (["--attempts-min", "3"], 40),
        (["--header", "tenant=b"], 30), (["--header", "tenant"], 120), (["--partition", "2"], 20),
        (["--partition", "2", "--from", "5", "--to-offset", "9"], 5), (["--model", "m1", "--code", "device"], 12),
    ]
    for args, n in cases:
        assert sum(g["letters"] for g in dlq_json(topics, "ls", *args)) == n, args
        *groups, plan = dlq_json(topics, "replay", "--dry-run", *args)
        assert plan["would_send"] == n == sum(g["letters"] for g in groups), args
    assert on_prompts(topics, 0) == []
    assert replay(topics, "--code", "device", "--limit", "10")["sent"] == 10
    done = replay(topics, "--code", "device")
    assert (done["sent"], done["skipped"]["replayed-already"]) == (50, 10)
    done = replay(topics, "--header", "tenant=a", "--verify")  # another selection, half of it sent already
    assert done["missing"] == done["doubled"] == done["different"] == 0
    done = replay(topics)
    assert done["sent"] + done["skipped"]["replayed-already"] == 120
    assert replay(topics)["sent"] == 0
    assert replay(topics, "--again", "two", "--key", "k7")["sent"] == 1
    assert replay(topics, "--again", "two", "--key", "k7")["sent"] == 0
    messages = on_prompts(topics, 121)
    assert len(messages) == 121
    by_key = {m.key(): m for m in messages}
    assert by_key[b"k11"].value() == batch(11)
    headers = dict(by_key[b"k11"].headers())
    assert headers["x-replay-count"] == b"1" and headers["x-error-code"] == b"device" and headers["tenant"] == b"a"
    assert sum(g["replayed"] for g in dlq_json(topics, "ls", "--by", "code")) == 120


def test_edits(topics):
    put(topics, [("a", batch(1), letter(topics, 1)), ("b", b"\xc1 no batch", letter(topics, 2, code="malformed"))])
    done = replay(topics, "--set", "max_tokens=3", "--set", "model=other", "--set", "temperature=0.5")
    assert (done["sent"], done["skipped"]["edit-failed"]) == (1, 1)
    fix = "cat > /dev/null; printf '\\203\\241v\\001\\250batch_id\\241z\\247prompts\\221\\202\\242id\\241a\\244text\\242hi'"
    assert replay(topics, "--edit-command", "exit 3")["skipped"]["edit-failed"] == 1
    assert replay(topics, "--edit-command", "sleep 9", "--edit-timeout-s", "1")["skipped"]["edit-failed"] == 1
    assert replay(topics, "--edit-command", fix)["sent"] == 1
    values = {m.key(): msgpack.unpackb(m.value()) for m in on_prompts(topics, 2)}
    assert values[b"a"]["model"] == "other" and values[b"a"]["later"] == [1, {"x": 1}]
    assert values[b"a"]["prompts"] == [{"id": "p1", "text": "And God said", "max_tokens": 3, "temperature": 0.5}]
    assert values[b"b"] == {"v": 1, "batch_id": "z", "prompts": [{"id": "a", "text": "hi"}]}
    assert dlq(topics, "replay", "--set", "max_tokens=many", check=False).returncode == 2


def test_loops_end_and_the_audit_says_so(topics, tmp_path):
    put(topics, [("a", batch(1), letter(topics, 1, more=[("x-replay-count", "3")])),
                 ("b", batch(2), letter(topics, 2, more=[("x-replay-count", "2"), ("x-replay-of", "x/0/0")]))])
    audit = tmp_path / "audit.jsonl"
    done = replay(topics, "--audit", audit)
    assert (done["sent"], done["skipped"]["replayed-too-often"]) == (1, 1)
    lines = [json.loads(line) for line in audit.read_text().splitlines() if line]
    sent = [x for x in lines if x.get("outcome") == "sent"]
    assert len(sent) == 1 and sent[0]["transaction"] in [x.get("committed") for x in lines]
    assert [x["why"] for x in lines if x.get("outcome") == "skipped"] == ["replayed-too-often"]
    (m,) = on_prompts(topics, 1)
    assert [v for k, v in m.headers() if k == "x-replay-count"] == [b"3"]
    assert len([1 for k, _ in m.headers() if k == "x-replay-of"]) == 1


def test_hostile_letters_are_shown_and_left(topics):
    rng = random.Random(3)
    junk = [(None, None, []), (b"", b"", [("x-error-code", None)]), (b"\x00\xff", rng.randbytes(5000), [("x-error-code", b"\xff")]),
            ("k", b"\xdd\x10\x00\x00\x00", letter(topics, 1)), ("k", batch(1), [("__dlq.errors.partition", "x" * 5000)]),
            ("k", batch(2), [(f"h{i}", rng.randbytes(40)) for i in range(300)]),
            ("k", batch(3), letter(topics, 3, code="a b\x1b[31m", stage="")), ("k", batch(4), [("x-replay-count", "-1")]),
            ("k", batch(5), [("__dlq.errors.topic", "no-such-topic-\xe9")])]
    for _ in range(200):
        junk.append((rng.randbytes(9), rng.randbytes(rng.randint(0, 60)),
                     [(rng.choice(["x-error-code", "x-error-stage", "__dlq.errors.topic", "x-replay-of", "x-last-failed-ms"]),
                       rng.randbytes(rng.randint(0, 12)))]))
    put(topics, junk)
    assert sum(g["letters"] for g in dlq_json(topics, "ls", "--by", "code,stage,model,worker")) == len(junk)
    shown = dlq_json(topics, "show", "--limit", "0")
    assert len(shown) == len(junk)
    assert all("batch" in s or s["no_batch"] for s in shown)
    text = dlq(topics, "show", "--limit", "0").stdout
    assert "\x1b" not in text
    done = replay(topics)
    assert done["sent"] == 1 and done["selected"] == len(junk)  # the one whose headers are whole
    assert dlq(topics, "show", "0/99999999", check=False).returncode != 0


def test_rate(topics):
    put_many(topics, 1500)
    done = replay(topics, "--rate", "300")
    assert done["sent"] == 1500
    assert abs(1500 / done["seconds"] / 300 - 1) < 0.02, done


def test_lag_bound(topics):
    put_many(topics, 300)
    done = dlq(topics, "replay", "--json", "--lag-max", "100", "--group", topics.group, "--on-lag", "stop", check=False)
    assert "behind" in done.stderr or "stopped" in done.stderr
    assert 0 < topics.lag() <= 100 + topics.partitions


def test_purge_deletes_prefixes(topics):
    put(topics, [("k", batch(i), letter(topics, i, code="device" if i < 6 or i > 8 else "internal"), 0) for i in range(12)])
    assert dlq(topics, "purge", "--code", "device", check=False).returncode == 2  # no terminal, no --yes
    plan = dlq(topics, "purge", "--code", "device", "--dry-run")
    assert "6 letters would be deleted" in plan.stdout and "3 selected letters stay" in plan.stderr
    dlq(topics, "purge", "--code", "device", "--yes")
    assert {g["code"]: g["letters"] for g in dlq_json(topics, "ls", "--by", "code")} == {"internal": 3, "device": 3}


def test_one_replay_at_a_time(topics):
    """Two at once: the letters are sent once all the same, and one of both gives up or finds nothing left."""
    put_many(topics, 1200)
    argv = [ROUSE, "dlq", "replay", "--brokers", topics.bootstrap, "--dlq", topics.dead, "--rate", "400"]
    runs = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for r in runs:
        r.communicate(timeout=60)
    replay(topics)
    seen = collections.Counter(dict(m.headers())["x-replay-of"] for m in on_prompts(topics, 1200))
    assert len(seen) == 1200 and set(seen.values()) == {1}
    assert any(r.returncode == 0 for r in runs)


@pytest.mark.skipif(not os.environ.get("ROUSE_DLQ_SPEED"), reason="a measurement: ROUSE_DLQ_SPEED=1")
def test_speed(topics):
    put_many(topics, 300000)
    done = replay(topics)
    print(done, done["sent"] / done["seconds"])
    assert done["sent"] / done["seconds"] > 50000


def test_audit_of_killed_runs_is_whole(topics, tmp_path):
    """What the file says was sent, by the rule of docs/dead-letters.md, is what is on the topic."""
    rng = random.Random(11)
    audit = tmp_path / "audit.jsonl"
    put_many(topics, 600)
    for _ in range(6):
        p = subprocess.Popen([ROUSE, "dlq", "replay", "--brokers", topics.bootstrap, "--dlq", topics.dead, "--rate", "200",
                              "--audit", audit], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 0.9))
        p.kill()
        p.wait()
    replay(topics, "--audit", audit)
    lines = []
    for line in audit.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            assert not line or line.startswith("{")  # empty, or cut by a kill
    committed = {x["committed"] for x in lines if "committed" in x}
    said = collections.Counter(x["letter"] for x in lines if x.get("outcome") == "sent" and x["transaction"] in committed)
    there = collections.Counter(dict(m.headers())["x-replay-of"].decode() for m in on_prompts(topics, 600))
    assert said == there and len(there) == 600
