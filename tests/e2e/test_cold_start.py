"""Starts: the first builds a snapshot, the next restore it, bit for bit, without the model's directory, and fall back when they must."""
import glob
import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import ORACLE, generate, rouse

PROMPTS = [{"id": "greedy", "text": "In the beginning", "max_tokens": 24, "logprobs": 3},
           {"id": "drawn", "text": "And God said", "max_tokens": 24, "temperature": 0.9, "seed": 7, "logprobs": 1},
           {"id": "ids", "tokens": [40, 41, 42], "max_tokens": 8, "ignore_eos": True}]


def answers(completions):
    """What must not change: text, tokens and every digit of the log-probabilities."""
    return {k: (c["text"], c["tokens"], c.get("logprobs"), c["finish_reason"]) for k, c in completions.items()}


def snapshot_file(store):
    (path,) = glob.glob(os.path.join(store, "*.snap"))
    return path


def test_first_start_builds_next_restores(tmp_path, copy_oracle):
    store, model = str(tmp_path / "store"), copy_oracle()
    cold, cold_end = generate(store, PROMPTS, model=model)
    assert cold_end["restored"] is False and "cold_load_s" in cold_end["cold_start"]
    warm, warm_end = generate(store, PROMPTS, model=model)
    assert warm_end["restored"] is True
    assert answers(warm) == answers(cold)
    # no parsing of weights or tokenizer: no cold load among the phases, and the tokenizer is pointed at
    assert "cold_load_s" not in warm_end["cold_start"] and "restore_s" in warm_end["cold_start"]
    assert warm_end["cold_start"].get("tokenizer_s", 0) < 0.02
    assert 0 < time.monotonic() - warm_end["first_token_at"] < 60

    shutil.rmtree(model)
    for name in (model, "oracle"):
        gone, gone_end = generate(store, PROMPTS, model=name)
        assert gone_end["restored"] is True and answers(gone) == answers(cold)


def test_no_snapshot_is_a_plain_load(tmp_path, oracle_store):
    plain, end = generate(str(tmp_path / "none"), PROMPTS, "--no-snapshot")
    assert end["restored"] is False and not os.path.exists(tmp_path / "none")
    restored, end = generate(oracle_store, PROMPTS)
    assert end["restored"] is True and answers(plain) == answers(restored)


def test_changed_model_gets_another_snapshot(tmp_path, copy_oracle):
    store, model = str(tmp_path / "store"), copy_oracle()
    generate(store, PROMPTS, model=model)
    config = json.load(open(f"{model}/config.json"))
    config["layer_norm_eps"] = 1e-3
    json.dump(config, open(f"{model}/config.json", "w"))
    changed, end = generate(store, PROMPTS, model=model)
    assert end["restored"] is False
    assert len(glob.glob(f"{store}/*.snap")) == 2
    again, end = generate(store, PROMPTS, model=model)
    assert end["restored"] is True and answers(again) == answers(changed)


def test_copied_model_finds_the_snapshot(tmp_path, copy_oracle, oracle_store):
    """Other files with the same content: the digest is computed once, and leads to the snapshot that is there."""
    _, end = generate(oracle_store, PROMPTS, model=copy_oracle("another-name"))
    assert end["restored"] is True


@pytest.mark.parametrize("where", [100, 4096 + 40, -1, "middle"])
def test_flipped_bit_is_refused_and_rebuilt(tmp_path, where):
    store = str(tmp_path / "store")
    cold, _ = generate(store, PROMPTS)
    path = snapshot_file(store)
    size = os.path.getsize(path)
    if where == "middle":  # a byte of the weights
        shown = json.loads(rouse("snapshot", "show", path, "--store", store, "--json").stdout)
        weights = next(s for s in shown["sections"] if s["name"] == "weights")
        at = weights["offset"] + weights["bytes"] // 2
    else:
        at = where % size
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 4]))
    done = rouse("snapshot", "verify", path, "--store", store, check=False)
    assert done.returncode == 3 and done.stderr.count("\n") == 1, done.stderr

    lines = "".join(json.dumps(p) + "\n" for p in PROMPTS)
    done = rouse("generate", "--model", ORACLE, "--store", store, "--in", "-", "--json", input=lines)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers({c["id"]: c for c in out[:-1]}) == answers(cold)
    assert out[-1]["restored"] is False
    assert "quarantine" in done.stderr and "snapshot created" in done.stderr, done.stderr
    _, end = generate(store, PROMPTS)
    assert end["restored"] is True


def test_truncated_snapshot_is_refused_and_rebuilt(tmp_path):
    store = str(tmp_path / "store")
    cold, _ = generate(store, PROMPTS)
    path = snapshot_file(store)
    os.truncate(path, os.path.getsize(path) - 4096)
    again, end = generate(store, PROMPTS)
    assert end["restored"] is False and answers(again) == answers(cold)
    _, end = generate(store, PROMPTS)
    assert end["restored"] is True


def test_redis_finds_what_redis_was_told(tmp_path, redis):
    store = str(tmp_path / "store")
    _, end = generate(store, PROMPTS, "--redis", redis.url)
    shutil.rmtree(os.path.join(store, "index"))  # only Redis knows now
    _, end = generate(store, PROMPTS, "--redis", redis.url)
    assert end["restored"] is True


def test_redis_away_is_no_obstacle(tmp_path):
    store = str(tmp_path / "store")
    generate(store, PROMPTS)
    lines = json.dumps(PROMPTS[0]) + "\n"
    done = rouse("generate", "--model", ORACLE, "--store", store, "--redis", "redis://127.0.0.1:1", "--in", "-", "--json",
                 input=lines)
    assert json.loads(done.stdout.splitlines()[-1])["restored"] is True
    assert done.stderr.lower().count("redis") >= 1


def test_index_gone_the_store_is_enough(tmp_path):
    store = str(tmp_path / "store")
    cold, _ = generate(store, PROMPTS)
    shutil.rmtree(os.path.join(store, "index"))
    again, end = generate(store, PROMPTS)
    assert end["restored"] is True and answers(again) == answers(cold)


def test_full_disk_while_building(tmp_path):
    """A store on a file system that is too small: the start goes on without a snapshot and leaves nothing behind."""
    store = tmp_path / "small"
    store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(store)], capture_output=True).returncode:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        done = rouse("generate", "--model", ORACLE, "--store", store, "--prompt", "In the beginning", "--max-tokens", 4)
        assert "In the beginning" in done.stdout
        assert "snapshot not created" in done.stderr and "space" in done.stderr.lower(), done.stderr
        assert not glob.glob(f"{store}/*.snap")
        left = sum(os.path.getsize(p) for p in glob.glob(f"{store}/**", recursive=True) if os.path.isfile(p))
        assert left < 65536
        done = rouse("snapshot", "build", "--model", ORACLE, "--store", store, check=False, env={"ROUSE_LOG": "warn"})
        assert done.returncode == 1 and done.stderr.strip().count("\n") == 0, done.stderr
    finally:
        subprocess.run(["umount", str(store)], check=True)


def test_snapshot_commands(tmp_path):
    store = str(tmp_path / "store")
    built = json.loads(rouse("snapshot", "build", "--model", ORACLE, "--store", store, "--json").stdout)
    assert built["state"] == "ready" and built["name"] == "oracle"
    again = rouse("snapshot", "build", "--model", ORACLE, "--store", store).stdout
    assert "already there" in again
    (listed,) = [json.loads(line) for line in rouse("snapshot", "ls", "--store", store, "--json").stdout.splitlines()]
    assert listed["id"] == built["id"]
    shown = json.loads(rouse("snapshot", "show", built["id"][:8], "--store", store, "--json").stdout)
    assert {s["name"] for s in shown["sections"]} >= {"manifest", "plan", "tokenizer", "proof", "weights"}
    assert all(s["offset"] % (2 << 20) == 0 for s in shown["sections"])
    assert json.loads(rouse("snapshot", "verify", "oracle", "--store", store, "--proof", "--json").stdout)["ok"] is True
    rouse("snapshot", "rm", "oracle", "--store", store)
    assert rouse("snapshot", "ls", "--store", store, "--json").stdout == ""
    assert not glob.glob(f"{store}/*.snap")
    done = rouse("snapshot", "show", "oracle", "--store", store, check=False)
    assert done.returncode != 0 and "oracle" in done.stderr


def test_unseeded_prompts_differ_between_starts(oracle_store):
    prompts = [{"id": "a", "text": "And", "max_tokens": 24, "temperature": 1.0}]
    texts = {generate(oracle_store, prompts)[0]["a"]["text"] for _ in range(4)}
    assert len(texts) > 1


def test_worker_restores_with_the_directory_gone(start_worker, topics, reader, tmp_path, copy_oracle, redis):
    store, model = str(tmp_path / "store"), copy_oracle()
    first = start_worker(model=model, store=store, redis=redis.url).wait_ready()
    assert first.event("snapshot created")
    first.terminate()
    shutil.rmtree(model)
    trace = str(tmp_path / "trace.json")
    second = start_worker("--trace", trace, model="oracle", store=store, redis=redis.url).wait_ready()
    topics.produce_batches([{"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "In the beginning", "max_tokens": 8}]}])
    out = reader(topics.completions)
    out.read(1)
    assert out.values()[0]["finish_reason"] in ("length", "eos")
    second.terminate()
    events = json.load(open(trace))
    names = {e["name"] for e in (events["traceEvents"] if isinstance(events, dict) else events)}
    assert {"exec", "index", "device_open", "restore", "verify", "group_join", "first_record", "first_token",
            "first_commit"} <= names, names
    assert "cold_load" not in names
    start = second.event("cold start")
    assert start["start"] == "restored" and start["restore_s"] > 0


