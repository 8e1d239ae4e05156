"""Bad input: one clear line, the right exit code or a dead letter, and the worker alive and working after it."""
import json
import os
import subprocess
import time

import msgpack
import pytest
from conftest import ORACLE, Topics, rouse
from services import Kafka, Redis, free_port


def batch(**fields):
    return msgpack.packb({"v": 1, "batch_id": "good", "prompts": [{"id": "a", "text": "In the beginning", "max_tokens": 4}],
                          **fields})


def prompt(**fields):
    p = {"id": "bad", "text": "And", "max_tokens": 4, **fields}
    return batch(prompts=[{k: v for k, v in p.items() if v is not None}])


def deep(n):
    return b"\x83\xa1v\x01\xa8batch_id\xa1b\xa7prompts" + b"\x91" * n + b"\xc0"


# name, bytes, x-error-code, fragment of the message, completions that say error
RECORDS = [
    ("not msgpack", b"\xc1 this is not msgpack", "malformed", "", 0),
    ("empty", b"", "malformed", "", 0),
    ("text", b"In the beginning", "malformed", "", 0),
    ("5 bytes that claim 2^32 prompts", b"\xdd\xff\xff\xff\xff", "malformed", "", 0),
    ("a map that claims 2^32 entries", b"\xdf\xff\xff\xff\xff", "malformed", "", 0),
    ("nested 10,000 deep", deep(10000), "too-deep", "", 0),
    ("cut in the middle", batch()[:20], None, "", 0),
    ("trailing bytes", batch() + b"\x00", "malformed", "", 0),
    ("version 2", batch(v=2), "unsupported-version", "2", 0),
    ("no prompts", msgpack.packb({"v": 1, "batch_id": "b"}), "missing-key", "prompts", 0),
    ("prompts is a string", batch(prompts="x"), "wrong-type", "prompts", 0),
    ("max_tokens 0", prompt(max_tokens=0), "bad-value", "max_tokens", 1),
    ("max_tokens negative", prompt(max_tokens=-5), "bad-value", "-5", 1),
    ("max_tokens huge", prompt(max_tokens=2**40), "bad-value", "max_tokens", 1),
    ("temperature NaN", prompt(temperature=float("nan")), "bad-value", "temperature", 1),
    ("neither text nor tokens", prompt(text=None), "missing-key", "text", 1),
    ("longer than the context", prompt(text="begat " * 3000), "prompt-too-long", "", 1),
    ("token outside the vocabulary", prompt(text=None, tokens=[5, 10**6]), "bad-value", "", 1),
    ("another model", batch(model="pythia-12b"), "unknown-model", "pythia-12b", 1),
]


def headers_of(message):
    return {k: (v or b"").decode() for k, v in message.headers() or []}


def test_records(topics, start_worker, reader, oracle_store):
    """Every bad record on one partition, with good ones before, between and behind."""
    worker = start_worker(store=oracle_store).wait_ready()
    records, n_good = [], 0
    for i, (name, value, *_) in enumerate(RECORDS):
        records.append((f"key-{i}", value, 0, [("origin", name.encode()), ("traceparent", b"00-ab-cd-01")]))
        if i % 4 == 0:
            records.append((f"good-{i}", batch(batch_id=f"good-{i}"), 0))
            n_good += 1
    topics.produce(records)

    dead, out = reader(topics.dead), reader(topics.completions)
    dead.read(len(RECORDS), 60)
    assert len(dead.messages) == len(RECORDS)
    by_key = {m.key().decode(): m for m in dead.messages}
    for i, (name, value, code, fragment, _) in enumerate(RECORDS):
        m = by_key[f"key-{i}"]
        h = headers_of(m)
        assert h["__dlq.errors.topic"] == topics.prompts and h["__dlq.errors.partition"] == "0", name
        assert h["__dlq.errors.offset"].isdigit() and h["__dlq.errors.group"] == topics.group, name
        assert h["origin"] == name and h["traceparent"] == "00-ab-cd-01", "headers of the original travel on"
        assert code is None or h["x-error-code"] == code, (name, h)
        assert fragment in h["__dlq.errors.message"], (name, h)
        if RECORDS[i][4] == 0:
            assert (m.value() or b"") == value, f"{name}: the original bytes"
        else:
            assert msgpack.unpackb(m.value())["batch_id"] == "good", name

    errors = sum(r[4] for r in RECORDS)
    out.read(n_good + errors)
    values = out.values()
    assert len(values) == n_good + errors
    assert sum(c["finish_reason"] == "error" for c in values) == errors
    assert all(c["error"]["code"] and c["error"]["message"] for c in values if c["finish_reason"] == "error")
    assert worker.alive() and worker.get("/livez")[0] == 200
    assert f"rouse_dead_letters_total" in worker.get("/metrics")[1]
    worker.terminate()
    assert topics.lag() == 0


def test_one_bad_prompt_spares_its_batch(topics, start_worker, reader, oracle_store):
    start_worker(store=oracle_store).wait_ready()
    prompts = [{"id": "a", "text": "Blessed", "max_tokens": 3}, {"id": "b", "text": "Woe", "max_tokens": 0, "note": "kept"},
               {"id": "c", "text": "Behold", "max_tokens": 3}]
    topics.produce([("k", batch(batch_id="mixed", prompts=prompts, extra=[1, {"x": 2}]))])
    out, dead = reader(topics.completions), reader(topics.dead)
    out.read(3)
    reasons = {c["id"]: c["finish_reason"] for c in out.values()}
    assert reasons["b"] == "error" and reasons["a"] != "error" and reasons["c"] != "error"
    assert all(c["n_prompts"] == 3 for c in out.values())
    (letter,) = dead.read(1)
    single = msgpack.unpackb(letter.value())
    assert single["batch_id"] == "mixed" and single["prompts"] == [prompts[1]] and single["extra"] == [1, {"x": 2}]
    assert letter.key() == b"k"


def start_and_expect(argv, code, *fragments, seconds=60, env=None):
    done = rouse(*argv, check=False, timeout=seconds, env=env)
    assert done.returncode == code, f"exit {done.returncode}, expected {code}:\n{done.stderr[-2000:]}"
    lines = [line for line in done.stderr.splitlines() if line.startswith("rouse ")]
    assert len(lines) == 1, done.stderr
    for f in fragments:
        assert f in lines[0], f"{f!r} is not in {lines[0]!r}"
    return lines[0]


def patch_config(model, **changes):
    path = os.path.join(model, "config.json")
    config = json.load(open(path))
    config.update(changes)
    json.dump(config, open(path, "w"))


def truncate(model):
    path = os.path.join(model, "model.safetensors")
    os.truncate(path, os.path.getsize(path) - 100)


def lengthen(model):
    with open(os.path.join(model, "model.safetensors"), "ab") as f:
        f.write(b"\0" * 100)


def flip_header_bit(model):
    with open(os.path.join(model, "model.safetensors"), "r+b") as f:
        f.seek(2)
        b = f.read(1)[0]
        f.seek(2)
        f.write(bytes([b ^ 0x40]))


def bad_merge(model):
    path = os.path.join(model, "tokenizer.json")
    t = json.load(open(path))
    t["model"]["merges"].append(["zq", "qz"])
    json.dump(t, open(path, "w"))


MODELS = [
    ("truncated weights", truncate, ["model.safetensors"]),
    ("over-long weights", lengthen, ["model.safetensors"]),
    ("a flipped bit in the weights' header", flip_header_bit, ["model.safetensors"]),
    ("sizes that do not divide", lambda m: patch_config(m, hidden_size=100, num_attention_heads=7), ["hidden_size", "100", "7"]),
    ("another shape than the weights", lambda m: patch_config(m, intermediate_size=64), ["mlp"]),
    ("another kind of model", lambda m: patch_config(m, model_type="llama"), ["model_type", "llama"]),
    ("config.json is not JSON", lambda m: open(m + "/config.json", "w").write("{"), ["config.json"]),
    ("a merge to nowhere", bad_merge, ["tokenizer.json", "merge"]),
    ("no tokenizer", lambda m: os.unlink(m + "/tokenizer.json"), ["tokenizer.json"]),
]


@pytest.mark.parametrize("damage,fragments", [m[1:] for m in MODELS], ids=[m[0] for m in MODELS])
def test_models(tmp_path, copy_oracle, damage, fragments):
    model = copy_oracle()
    damage(model)
    start_and_expect(["generate", "--model", model, "--store", tmp_path / "store", "--prompt", "x"], 3, *fragments)
    start_and_expect(["worker", "--model", model, "--store", tmp_path / "store", "--brokers", f"127.0.0.1:{free_port()}",
                      "--http", "off"], 3, *fragments)
    assert not [f for f in os.listdir(tmp_path / "store") if f.endswith(".snap")] if os.path.isdir(tmp_path / "store") else True


USAGE = [
    (["generate", "--model", ORACLE], 2, ["--prompt", "--in"]),
    (["generate", "--prompt", "x"], 2, ["--model"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--max-tokens", "0"], 2, ["--max-tokens", "0"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--max-tokens", "-3"], 2, ["--max-tokens", "-3"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--temprature", "1"], 2, ["--temprature", "--temperature"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--dtype", "f8"], 2, ["f8", "f16"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--device", "tpu"], 2, ["tpu"]),
    (["generate", "--model", ORACLE, "--prompt", "x", "--device", "cuda"], 4, ["cuda"]),
    (["generate", "--model", "/no/such/dir", "--prompt", "x"], 3, ["/no/such/dir"]),
    (["generate", "--model", "no-such-name", "--prompt", "x"], 3, ["no-such-name"]),
    (["generate", "--model", ORACLE, "--in", "/no/such/file"], 3, ["/no/such/file"]),
    (["worker", "--model", ORACLE], 2, ["--brokers"]),
    (["worker", "--model", ORACLE, "--brokers", "127.0.0.1:1", "--kafka", "no.such.property=1"], 2, ["no.such.property"]),
    (["worker", "--model", ORACLE, "--brokers", "127.0.0.1:1", "--http", "nonsense"], 2, ["nonsense"]),
    (["worker", "--model", ORACLE, "--brokers", "127.0.0.1:1", "--redis", "mysql://x"], 2, ["redis"]),
    (["eval", "--model", ORACLE], 2, ["--text"]),
    (["tokenize", "--model", ORACLE, "--text", "/no/such/file"], 3, ["/no/such/file"]),
    (["snapshot", "show", "nothing-like-it"], 3, ["nothing-like-it"]),
    (["consume", "--brokers", "127.0.0.1:1", "--timeout-s", "2"], 4, ["broker"]),
    (["produce", "--brokers", "127.0.0.1:1", "--timeout-s", "2", "--prompt", "x"], 4, ["broker"]),
]


@pytest.mark.parametrize("argv,code,fragments", USAGE, ids=[" ".join(u[0][:1] + u[0][-2:]) for u in USAGE])
def test_command_lines(tmp_path, argv, code, fragments):
    start_and_expect(argv, code, *fragments, env={"XDG_CACHE_HOME": str(tmp_path)})


def test_unknown_command_suggests():
    done = rouse("wroker", check=False)
    assert done.returncode == 2 and "worker" in done.stderr


def test_generate_goes_on_after_a_bad_line(oracle_store):
    lines = '{"id": "long", "text": "' + "begat " * 3000 + '"}\n{"id": "ok", "text": "Amen", "max_tokens": 2}\n'
    done = rouse("generate", "--model", ORACLE, "--store", oracle_store, "--in", "-", "--json", input=lines, check=False)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3
    assert {c["id"]: c["finish_reason"] for c in out[:-1]}["long"] == "error"
    assert {c["id"]: c["finish_reason"] for c in out[:-1]}["ok"] in ("length", "eos")


def test_brokers_away_at_start_and_for_a_while(tmp_path, oracle_store, start_worker, reader):
    """The worker starts before its broker, works, loses it for a while, and works again."""
    with Kafka(str(tmp_path / "kafka")) as kafka:
        topics = Topics(kafka.bootstrap, 2)
        kafka.stop()
        from conftest import Worker
        worker = Worker(str(tmp_path), topics, kafka.bootstrap, store=oracle_store)
        try:
            time.sleep(3)
            assert worker.alive() and worker.get("/livez")[0] == 200
            code, text = worker.get("/readyz")
            assert code == 503 and text.strip(), (code, text)
            kafka.start()
            worker.wait_ready(90)
            topics.produce([("k", batch(batch_id="one"))])
            from conftest import Reader
            out = Reader(kafka.bootstrap, topics.completions, topics.partitions)
            out.read(1)

            kafka.stop()
            time.sleep(4)
            assert worker.alive() and worker.get("/livez")[0] == 200
            kafka.start()
            topics.produce([("k", batch(batch_id="two"))])
            out.read(2, 90)
            assert sorted(c["batch_id"] for c in out.values()) == ["one", "two"]
            out.close()
            worker.terminate()
        finally:
            worker.close()


def test_redis_away_at_start_comes_back(tmp_path, topics, start_worker, reader, copy_oracle):
    folder = Redis(str(tmp_path / "redis"))
    worker = start_worker(store=str(tmp_path / "store"), redis=folder.url, model=copy_oracle()).wait_ready()
    assert worker.event("snapshot created"), worker.log()
    topics.produce([("k", batch(batch_id="one"))])
    reader(topics.completions).read(1)
    with folder:
        second = start_worker(store=str(tmp_path / "store"), redis=folder.url).wait_ready()
        assert second.event("cold start")["start"] == "restored"
    assert worker.alive() and second.alive()


def test_redis_with_a_password(tmp_path, topics, start_worker):
    with Redis(str(tmp_path / "redis"), password="not-in-the-log") as r:
        worker = start_worker(store=str(tmp_path / "store"), redis=r.url).wait_ready()
        assert "not-in-the-log" not in worker.log()
        assert worker.event("snapshot created")
        wrong = r.url.replace("not-in-the-log", "wrong-password")
        second = start_worker(store=str(tmp_path / "store"), redis=wrong).wait_ready()
        assert second.event("cold start")["start"] == "restored"
        assert "wrong-password" not in second.log()


def test_topics_that_are_not_there_yet(topics, kafka, start_worker, oracle_store, tmp_path):
    from conftest import NewTopic, AdminClient, Reader, Worker
    late = Topics.__new__(Topics)
    late.__dict__.update(topics.__dict__)
    late.prompts, late.completions, late.dead = (t + "-late" for t in (topics.prompts, topics.completions, topics.dead))
    worker = Worker(str(tmp_path), late, kafka.bootstrap, store=oracle_store)
    try:
        time.sleep(2)
        assert worker.alive()
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for f in admin.create_topics([NewTopic(t, 6, 1) for t in (late.prompts, late.completions, late.dead)]).values():
            f.result(30)
        late.produce([("k", batch(batch_id="one"))])
        out = Reader(kafka.bootstrap, late.completions, 6)
        out.read(1, 60)
        out.close()
        worker.terminate()
    finally:
        worker.close()


def test_worker_process_gone_mid_restore_leaves_nothing(tmp_path, oracle_store):
    """A start that is killed leaves the store as it was: nothing half-written, the next one restores."""
    before = sorted(os.listdir(oracle_store))
    from conftest import ROUSE
    for delay in (0.005, 0.02, 0.05):
        p = subprocess.Popen([ROUSE, "generate", "--model", "oracle", "--store", oracle_store, "--prompt", "x"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        p.kill()
        p.wait()
    assert sorted(os.listdir(oracle_store)) == before
