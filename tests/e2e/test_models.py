"""Several models in one worker: each prompt is answered once and by the model that it asked for, whatever room there is."""
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from conftest import ON_CARD, ORACLE, ROOT, generate, rouse

WORDS = ("In the beginning", "And God said", "Blessed", "The LORD", "Behold", "Fear not", "A wise man", "The king")


def change(model, eps):
    """Another model under the same name: only the norms differ, and so does every answer."""
    path = os.path.join(model, "config.json")
    config = json.load(open(path))
    config["layer_norm_eps"] = eps
    json.dump(config, open(path, "w"))


@pytest.fixture(scope="module")
def pythia(tmp_path_factory):
    """A model with another shape, another tokenizer, and noise for weights."""
    if ON_CARD:
        pytest.skip("interpreted kernels take minutes for a vocabulary of 50304")
    out = str(tmp_path_factory.mktemp("models"))
    subprocess.run([sys.executable, os.path.join(ROOT, "tools", "make_model.py"), "--out", out, "--std", "0.2", "14m"],
                   check=True, stdout=subprocess.DEVNULL)
    return os.path.join(out, "pythia-14m")


@pytest.fixture(scope="module")
def two_store(tmp_path_factory, pythia):
    """A store with snapshots of both."""
    store = str(tmp_path_factory.mktemp("store"))
    for model in (ORACLE, pythia):
        rouse("snapshot", "build", "--model", model, "--store", store)
    return store


def make_batches(n, models, seed, max_tokens=12):
    rng = random.Random(seed)
    batches = []
    for b in range(n):
        prompts = [{"id": f"p{i}", "text": f"{rng.choice(WORDS)} {rng.choice(WORDS).lower()}",
                    "max_tokens": rng.randint(1, max_tokens)} for i in range(rng.randint(1, 3))]
        batch = {"v": 1, "batch_id": f"batch-{b}", "prompts": prompts}
        if models[b % len(models)]:
            batch["model"] = models[b % len(models)]
        batches.append(batch)
    return batches


def check(batches, completions, by_model, store):
    """by_model: what a batch asks for -> (the name that answers, what `rouse generate` calls it)."""
    asked = {b["batch_id"]: b.get("model") for b in batches}
    expected = {f"{b['batch_id']}/{p['id']}": p for b in batches for p in b["prompts"]}
    seen = {}
    for c in completions:
        key = f"{c['batch_id']}/{c['id']}"
        assert key not in seen, f"{key} was answered twice"
        seen[key] = c
    assert set(seen) == set(expected), "prompts are missing"
    for model, (name, ref) in by_model.items():
        keys = [k for k in expected if asked[k.split("/")[0]] == model]
        answers, _ = generate(store, [dict(expected[k], id=k) for k in keys], model=ref)
        for k in keys:
            c, g = seen[k], answers[k]
            assert c["model"] == name and c["snapshot"], (k, c)
            assert (c["text"], c["tokens"], c["finish_reason"]) == (g["text"], g["tokens"], g["finish_reason"]), k


def n_prompts(batches):
    return sum(len(b["prompts"]) for b in batches)


def healthz(worker):
    return json.loads(worker.get("/healthz")[1])


def test_two_models_with_room_for_one_and_a_kill(topics, start_worker, reader, two_store):
    """Interleaved batches for both; kill -9 in the middle; the successor goes on."""
    batches = make_batches(200, [None, "pythia-14m"], seed=1)
    args = ("--transactional-id", f"{topics.group}-0", "--models", "pythia-14m", "--models-bytes", "250M")
    out = reader(topics.completions)
    topics.produce_batches(batches)
    first = start_worker(*args, store=two_store)
    out.read(n_prompts(batches) // 3, seconds=120)
    assert first.event("model evicted"), "there was room for both: the bound does nothing"
    first.process.kill()
    second = start_worker(*args, store=two_store)
    out.read(n_prompts(batches), seconds=240)
    check(batches, out.values(), {None: ("oracle", ORACLE), "pythia-14m": ("pythia-14m", "pythia-14m")}, two_store)
    second.terminate()
    assert topics.lag() == 0
    dead = reader(topics.dead)
    dead.settle(2)
    assert dead.messages == []


def test_what_this_worker_does_not_serve(topics, start_worker, reader, two_store):
    """A name that is not listed, a version and a name that do not exist: dead letters, and the rest goes on."""
    start_worker("--models", "pythia-14m,nobody", store=two_store).wait_ready()
    prompts = [{"id": "a", "text": "And", "max_tokens": 2}]
    wrong = ["stranger", "nobody", "oracle@v77", "pythia-14m@v77", "../oracle", "oracle@"]
    topics.produce_batches([{"v": 1, "batch_id": m, "model": m, "prompts": prompts} for m in wrong + ["pythia-14m", "oracle@v1"]])
    out = reader(topics.completions)
    out.read(len(wrong) + 2)
    by_batch = {c["batch_id"]: c for c in out.values()}
    assert len(by_batch) == len(out.messages)
    for m in wrong:
        assert by_batch[m]["finish_reason"] == "error" and by_batch[m]["error"]["code"] == "unknown-model", by_batch[m]
    for m in ("pythia-14m", "oracle@v1"):
        assert by_batch[m]["finish_reason"] == "length" and by_batch[m]["model"] == m.split("@")[0]
    dead = reader(topics.dead)
    dead.read(len(wrong))
    for m in dead.messages:
        headers = {k: v.decode() for k, v in m.headers()}
        assert headers["x-error-code"] == "unknown-model" and headers["x-error-stage"] == "admit"


def test_a_broken_snapshot_stops_nobody_else(tmp_path, topics, start_worker, reader, pythia):
    store = str(tmp_path / "store")
    rouse("snapshot", "build", "--model", ORACLE, "--store", store)
    built = json.loads(rouse("snapshot", "build", "--model", pythia, "--store", store, "--json").stdout)
    with open(os.path.join(store, built["file"]), "r+b") as f:
        f.seek(os.path.getsize(f.name) // 2)
        f.write(b"\xff" * 64)
    worker = start_worker("--models", "*", store=store).wait_ready()
    batches = make_batches(20, [None, "pythia-14m"], seed=3)
    topics.produce_batches(batches)
    out = reader(topics.completions)
    out.read(n_prompts(batches))
    for c in out.values():
        if int(c["batch_id"].split("-")[1]) % 2 == 0:
            assert c["model"] == "oracle" and c["finish_reason"] != "error"
        else:
            assert c["finish_reason"] == "error" and c["error"]["code"] in ("device", "unknown-model"), c
    assert "pythia-14m" in [m["name"] for m in healthz(worker)["models"] if m["state"] == "failed"]
    assert worker.get("/readyz")[0] == 200
    worker.terminate()
    assert topics.lag() == 0


@pytest.fixture
def versions(tmp_path):
    """A store with oracle@v1 and oracle@v2, which differ; v1 active."""
    store, model = str(tmp_path / "store"), str(tmp_path / "oracle")
    shutil.copytree(ORACLE, model)
    rouse("snapshot", "build", "--model", model, "--store", store, "--promote")
    change(model, 0.5)
    rouse("snapshot", "build", "--model", model, "--store", store)
    shutil.rmtree(model)
    return store


def versions_of(completions):
    assert len({(c["batch_id"], c["id"]) for c in completions}) == len(completions)
    return {(c["batch_id"], c["id"]): c["version"] for c in completions}


def test_a_split_is_the_same_in_every_worker(topics, start_worker, reader, versions):
    rouse("snapshot", "split", "oracle", "v1=70", "v2=30", "--store", versions)
    n = 60
    prompts = [{"id": f"p{i}", "text": "In the beginning", "max_tokens": 4} for i in range(10)]
    batches = [{"v": 1, "batch_id": f"b{i}", "prompts": prompts} for i in range(n)]
    out = reader(topics.completions)
    shares = []
    for i in range(2):  # a worker after the other answers the same batches, in groups of their own
        topics.group = f"{topics.group}-{i}"
        worker = start_worker("--kafka", "auto.offset.reset=earliest", store=versions, model="oracle")
        if i == 0:
            topics.produce_batches(batches)
        out.read(n * 10 * (i + 1), seconds=120)
        worker.terminate()
        shares.append(versions_of(out.values()[n * 10 * i:]))
    assert shares[0] == shares[1]
    share = sum(v == "v2" for v in shares[0].values()) / len(shares[0])
    assert 0.23 < share < 0.37, share  # 600 draws at 0.3: the deviation is 0.019
    texts = {v: {c["text"] for c in out.values() if c["version"] == v} for v in ("v1", "v2")}
    for v, seen in texts.items():
        answers, _ = generate(versions, [{"id": "a", "text": "In the beginning", "max_tokens": 4}], model=f"oracle@{v}")
        assert seen == {answers["a"]["text"]}
    assert texts["v1"] != texts["v2"], "the versions answer alike: the test sees nothing"


def test_a_promotion_is_followed(topics, start_worker, reader, versions):
    """New prompts go to the promoted version within the refresh; the old one makes room for it."""
    worker = start_worker("--names-refresh", 200, "--models-bytes", "60M", store=versions, model="oracle").wait_ready()
    out = reader(topics.completions)
    prompts = [{"id": "a", "text": "And God said", "max_tokens": 3}]
    topics.produce_batches([{"v": 1, "batch_id": "before", "prompts": prompts}])
    out.read(1)
    rouse("snapshot", "promote", "oracle@v2", "--store", versions)
    worker.wait_log("name changed")
    topics.produce_batches([{"v": 1, "batch_id": "after", "prompts": prompts},
                            {"v": 1, "batch_id": "old", "model": "oracle@v1", "prompts": prompts}])
    out.read(3)
    assert versions_of(out.values()) == {("before", "a"): "v1", ("after", "a"): "v2", ("old", "a"): "v1"}
    assert worker.event("model evicted")
    metrics = worker.get("/metrics")[1]
    assert 'rouse_model_bytes{model="oracle",version="v' in metrics and "\nrouse_model_evictions_total " in metrics
    loaded = [m for m in healthz(worker)["models"] if m["state"] == "ready"]
    assert len(loaded) == 1 and healthz(worker)["models_bytes"] == loaded[0]["bytes"] <= 60 << 20
