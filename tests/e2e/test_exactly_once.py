"""The main job on real Kafka and Redis: each prompt is answered once, whoever joins or leaves, and as `rouse generate` answers."""
import random
import time

from conftest import PATIENCE, SHARE, generate

WORDS = ("In the beginning", "And God said", "Blessed", "The LORD", "Behold", "Fear not", "And it came to pass", "A wise man",
         "The king", "Thus saith", "Let us", "And he went", "The children of Israel", "Woe unto", "Hear, O")


def make_batches(n, seed):
    rng = random.Random(seed)
    batches = []
    for b in range(max(int(n * SHARE), 12)):
        prompts = []
        for i in range(rng.randint(1, 5)):
            p = {"id": f"p{i}", "text": f"{rng.choice(WORDS)} {rng.choice(WORDS).lower()}", "max_tokens": rng.randint(1, 32)}
            if rng.random() < 0.5:
                p.update(temperature=0.8, top_p=0.9, seed=rng.randint(0, 2**63 - 1))
            if rng.random() < 0.2:
                p["stop"] = [","]
            prompts.append(p)
        batches.append({"v": 1, "batch_id": f"batch-{b}", "prompts": prompts})
    return batches


def check(batches, completions, store):
    expected = [dict(p, id=f"{b['batch_id']}/{p['id']}") for b in batches for p in b["prompts"]]
    seen = [f"{c['batch_id']}/{c['id']}" for c in completions]
    assert len(seen) == len(set(seen)), "a prompt was answered twice"
    assert set(seen) == {p["id"] for p in expected}, "prompts are missing"
    by_generate, _ = generate(store, expected)
    for key, c in zip(seen, completions):
        g = by_generate[key]
        assert (c["text"], c["tokens"], c["finish_reason"]) == (g["text"], g["tokens"], g["finish_reason"]), key


def test_two_workers_a_third_joins_and_one_leaves(topics, start_worker, reader, oracle_store, redis):
    batches = make_batches(200, seed=20)
    n_prompts = sum(len(b["prompts"]) for b in batches)
    first = start_worker(store=oracle_store, redis=redis.url).wait_ready()
    second = start_worker(store=oracle_store, redis=redis.url)
    out = reader(topics.completions)
    half = len(batches) // 2
    topics.produce_batches(batches[:half])
    second.wait_ready()
    out.read(n_prompts // 8)

    third = start_worker(store=oracle_store, redis=redis.url)
    topics.produce_batches(batches[half:])
    out.read(n_prompts // 3)
    first.terminate()
    third.wait_ready()
    out.read(n_prompts, seconds=180)

    check(batches, out.values(), oracle_store)
    for w in (second, third):
        w.terminate()
    assert topics.lag() == 0, topics.committed()
    dead = reader(topics.dead)
    dead.settle(2)
    assert dead.messages == []


def test_drained_topic_has_no_lag(topics, start_worker, reader, oracle_store):
    worker = start_worker(store=oracle_store).wait_ready()
    batches = make_batches(12, seed=4)
    topics.produce_batches(batches)
    reader(topics.completions).read(sum(len(b["prompts"]) for b in batches))
    end = time.monotonic() + 10
    while topics.lag() and time.monotonic() < end:
        time.sleep(0.2)
    assert topics.lag() == 0
    worker.terminate()


def test_kill_loses_and_doubles_nothing(topics, start_worker, reader, oracle_store):
    """SIGKILL in the middle: the successor, with the same transactional id, redoes what was not committed."""
    batches = make_batches(60, seed=5)
    n_prompts = sum(len(b["prompts"]) for b in batches)
    out = reader(topics.completions)
    first = start_worker("--transactional-id", f"{topics.group}-slot-0", store=oracle_store)
    topics.produce_batches(batches)
    out.read(n_prompts // 4)
    first.process.kill()
    start_worker("--transactional-id", f"{topics.group}-slot-0", store=oracle_store)
    out.read(n_prompts, seconds=120)
    check(batches, out.values(), oracle_store)


def test_expired_prompts_are_answered_without_work(topics, start_worker, reader, oracle_store):
    start_worker(store=oracle_store).wait_ready()
    topics.produce_batches([{"v": 1, "batch_id": "late", "deadline_ms": 1000, "prompts": [{"id": "a", "text": "Amen"}]}])
    out = reader(topics.completions)
    out.read(1)
    (c,) = out.values()
    assert c["finish_reason"] == "expired" and c["usage"]["completion_tokens"] == 0


def test_a_queue_of_records_waits_for_the_model(topics, start_worker, reader, tmp_path):
    """Records are there before the worker is: they stand in line while it loads the model, and none gets lost in it."""
    n = int(200 * SHARE)
    topics.produce_batches([{"v": 1, "batch_id": f"b{i}", "prompts": [{"id": "a", "text": "And", "max_tokens": 1}]}
                            for i in range(n)])
    out = reader(topics.completions)
    for attempt in range(2):
        topics.group = f"{topics.group}-{attempt}"
        worker = start_worker("--no-snapshot", "--exit-after", n, "--threads", 2)
        out.read(n * (attempt + 1), seconds=60)
        assert worker.process.wait(30 * PATIENCE) == 0
    assert len(out.messages) == 2 * n
