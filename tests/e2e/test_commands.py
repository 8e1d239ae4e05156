"""The commands as a user meets them: tokenize, eval, generate, produce, consume, demo, the worker's HTTP port, the examples."""
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata

import msgpack
import numpy as np
import pytest
from confluent_kafka import Producer
from conftest import ORACLE, ROOT, ROUSE, generate, rouse
from tokenizers import Tokenizer

NEOX = os.path.join(ROOT, "tests", "data", "gpt-neox-tokenizer.json")


def encode(tokenizer, text):
    return json.loads(rouse("tokenize", "--model", tokenizer, "--text", "-", "--json", input=text).stdout)["ids"]


@pytest.mark.parametrize("tokenizer", [NEOX, ORACLE])
def test_tokenize_equals_the_library(tokenizer, tmp_path):
    library = Tokenizer.from_file(tokenizer if tokenizer.endswith(".json") else tokenizer + "/tokenizer.json")
    text = "In the beginning<|endoftext|> God\u0301 \u212b 创造 天地 👩‍👩‍👧‍👦   \n\n\t  1234 don't\u00a0x" * 20
    ids = encode(tokenizer, text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"ids": ids}))
    back = json.loads(rouse("tokenize", "--model", tokenizer, "--decode", "--text", path, "--json").stdout)["text"]
    assert back == unicodedata.normalize("NFC", text)


def test_tokenize_by_name(oracle_store):
    done = rouse("tokenize", "--model", "oracle", "--store", oracle_store, "--text", "-", "--json", "--device", "cpu",
                 input="Amen")
    assert json.loads(done.stdout)["ids"] == encode(ORACLE, "Amen")


def test_long_run_of_one_letter_is_fast():
    text = "a" * 100_000
    assert encode(NEOX, text) == Tokenizer.from_file(NEOX).encode(text, add_special_tokens=False).ids


def test_eval_and_logits(tmp_path, oracle_store):
    text = open(os.path.join(ORACLE, "heldout.txt")).read()[:1500]
    (tmp_path / "t.txt").write_text(text)
    npy = tmp_path / "logits.npy"
    out = json.loads(rouse("eval", "--model", ORACLE, "--store", oracle_store, "--text", tmp_path / "t.txt", "--logits", npy,
                           "--json").stdout)
    logits = np.load(npy)
    ids = encode(ORACLE, text)
    assert out["n_tokens"] == len(ids) == logits.shape[0] and logits.dtype == np.float32
    context = json.load(open(f"{ORACLE}/config.json"))["max_position_embeddings"]
    nll = n = 0
    for at in range(0, len(ids), context):
        window = logits[at:at + context].astype(np.float64)
        target = ids[at + 1:at + context][:len(window) - 1]
        top = window.max(axis=1)
        log_sum = top + np.log(np.exp(window - top[:, None]).sum(axis=1))
        nll += sum(log_sum[i] - window[i, t] for i, t in enumerate(target))
        n += len(target)
    assert math.isclose(out["nll"], nll, rel_tol=1e-6)
    assert math.isclose(out["perplexity"], math.exp(nll / n), rel_tol=1e-6)
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    again = json.loads(rouse("eval", "--model", ORACLE, "--store", oracle_store, "--tokens", tmp_path / "ids.json",
                             "--json").stdout)
    assert again["nll"] == out["nll"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_eval_dtypes_agree(dtype, tmp_path):
    out = json.loads(rouse("eval", "--model", ORACLE, "--store", tmp_path, "--dtype", dtype, "--text",
                           f"{ORACLE}/heldout.txt", "--json").stdout)
    plain = json.loads(rouse("eval", "--model", ORACLE, "--store", tmp_path, "--dtype", "f32", "--text",
                             f"{ORACLE}/heldout.txt", "--json").stdout)
    assert out["dtype"] == dtype and abs(out["perplexity"] / plain["perplexity"] - 1) < 0.01


def test_same_prompt_same_answer_in_any_batch(oracle_store):
    """Alone, among others, on one thread or on two, in one chunk or in many: the same tokens and log-probabilities."""
    prompts = [{"id": str(i), "text": "And the LORD spake unto " * (1 + i % 5) + str(i), "max_tokens": 12, "temperature": 0.9,
                "seed": i, "logprobs": 2} for i in range(12)]
    together, _ = generate(oracle_store, prompts, "--threads", "2")
    for variant in (["--threads", "1", "--seqs", "3"], ["--threads", "2", "--step-tokens", "17"]):
        assert {k: (c["tokens"], c["logprobs"]) for k, c in generate(oracle_store, prompts, *variant)[0].items()} == \
               {k: (c["tokens"], c["logprobs"]) for k, c in together.items()}, variant
    for p in prompts[:3]:
        alone = generate(oracle_store, [p])[0][p["id"]]
        assert (alone["tokens"], alone["logprobs"]) == (together[p["id"]]["tokens"], together[p["id"]]["logprobs"])


def test_stop_strings_across_tokens(oracle_store):
    free = generate(oracle_store, [{"id": "a", "text": "In the beginning", "max_tokens": 40, "ignore_eos": True}])[0]["a"]
    stop = free["text"][7:11]
    cut = generate(oracle_store, [{"id": "a", "text": "In the beginning", "max_tokens": 40, "stop": [stop]}])[0]["a"]
    assert cut["finish_reason"] == "stop" and cut["text"] == free["text"][:free["text"].index(stop)]


def test_generate_text(oracle_store):
    done = rouse("generate", "--model", ORACLE, "--store", oracle_store, "--prompt", "In the beginning", "--max-tokens", 8)
    assert done.stdout.startswith("In the beginning") and "restored from a snapshot" in done.stderr


def test_produce_consume(topics, start_worker, oracle_store, tmp_path):
    start_worker(store=oracle_store).wait_ready()
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "In the beginning"}\n{"text": "And God said", "max_tokens": 3}\n'
                                       'Blessed are the\n')
    made = json.loads(rouse("produce", "--brokers", topics.bootstrap, "--topic", topics.prompts, "--in", tmp_path / "in.jsonl",
                            "--batch", 2, "--max-tokens", 5, "--batch-id", "mine", "--json").stdout)
    assert made["prompts"] == 3 and made["batches"] == 2
    done = rouse("consume", "--brokers", topics.bootstrap, "--topic", topics.completions, "--json", "--count", 3, "--batch",
                 "mine", "--timeout-s", 60)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted((c["batch_id"], c["id"]) for c in out) == [("mine-1", "2"), ("mine-1", "a"), ("mine-2", "3")]
    assert all(c["usage"]["completion_tokens"] <= 5 for c in out)
    text = rouse("consume", "--brokers", topics.bootstrap, "--topic", topics.completions, "--until-end").stdout
    assert text.count("\n") >= 3 and "[mine-1 a]" in text


def test_examples_in_python(topics, start_worker, oracle_store):
    start_worker(store=oracle_store).wait_ready()
    examples = os.path.join(ROOT, "docs", "examples")
    subprocess.run([sys.executable, f"{examples}/produce.py", "--brokers", topics.bootstrap, "--topic", topics.prompts,
                    "--prompt", "In the beginning", "--prompt", "And God said"], check=True, timeout=60)
    done = subprocess.run([sys.executable, f"{examples}/consume.py", "--brokers", topics.bootstrap, "--topic",
                           topics.completions, "--count", "2"], check=True, timeout=60, capture_output=True, text=True)
    assert len(done.stdout.strip().splitlines()) >= 2


def test_http_port(topics, start_worker, reader, oracle_store):
    worker = start_worker(store=oracle_store).wait_ready()
    topics.produce_batches([{"v": 1, "batch_id": "b", "prompts": [{"id": "a", "text": "And", "max_tokens": 5}]}])
    reader(topics.completions).read(1)
    for path in ("/startupz", "/livez", "/readyz"):
        assert worker.get(path)[0] == 200, path
    assert worker.get("/nothing")[0] == 404
    health = json.loads(worker.get("/healthz")[1])
    assert health["state"] == "ready" and health["model"] == "oracle" and health["restored"] is True
    code, metrics = worker.get("/metrics")
    assert code == 200
    line = re.compile(r'^(#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="[^"]*",?)*\})? [-+0-9.eEinfNa]+)$')
    assert all(line.match(x) for x in metrics.splitlines()), [x for x in metrics.splitlines() if not line.match(x)]
    names = set(re.findall(r"^# TYPE (\S+)", metrics, re.M))
    assert len(names) > 15 and all(n.startswith("rouse_") for n in names), names
    assert re.search(r'rouse_prompts_total\{.*\} 1', metrics), metrics


def test_sigterm_drains(topics, start_worker, reader, oracle_store):
    """What was taken is finished and committed before the worker leaves with 0."""
    worker = start_worker(store=oracle_store).wait_ready()
    topics.produce_batches([{"v": 1, "batch_id": f"b{i}", "prompts": [{"id": "a", "text": "And", "max_tokens": 200,
                                                                     "ignore_eos": True}]} for i in range(30)])
    out = reader(topics.completions)
    out.read(2)
    worker.terminate()
    out.settle()
    done = len(out.messages)
    assert 2 <= done <= 30
    assert sum(max(0, o) for o in topics.committed()) >= done
    start_worker(store=oracle_store)
    out.read(30)
    assert len({m["batch_id"] for m in out.values()}) == 30 == len(out.messages)


def test_demo(tmp_path):
    first = rouse("demo", "--store", tmp_path)
    assert "snapshot created" in first.stderr and "from the snapshot" in first.stdout
    second = rouse("demo", "--store", tmp_path, timeout=30)
    assert "snapshot created" not in second.stderr
    assert "In the beginning" in second.stdout and "restore" in second.stdout


def test_demo_on_real_services(tmp_path, kafka, redis):
    done = rouse("demo", "--store", tmp_path, "--brokers", kafka.bootstrap, "--redis", redis.url)
    assert "In the beginning" in done.stdout and "published once" in done.stdout


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_demo_leaves_no_worker_behind(tmp_path, end):
    demo = subprocess.Popen([ROUSE, "demo", "--store", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    children = f"/proc/{demo.pid}/task/{demo.pid}/children"
    deadline = time.monotonic() + 20
    while not open(children).read() and time.monotonic() < deadline:
        time.sleep(0.01)
    (worker,) = map(int, open(children).read().split())
    time.sleep(0.2)
    demo.send_signal(end)
    assert demo.wait(10) == (-end if end == signal.SIGKILL else 1)
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < deadline:
        time.sleep(0.05)
    if os.path.exists(f"/proc/{worker}"):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlives the demo")
    demo.communicate()


@pytest.mark.parametrize("text", ["1\0 2", "1 -2", "1 2x", "99999999999999999999", "\0"])
def test_ids_that_are_none(text):
    done = rouse("tokenize", "--model", ORACLE, "--decode", input=text, check=False, timeout=10)
    assert done.returncode == 3 and done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_output_that_cannot_be_written(oracle_store):
    args = ["--model", ORACLE, "--store", oracle_store]
    for command in (["tokenize", "--model", ORACLE, "--text", __file__], ["generate", *args, "--prompt", "And", "--json"],
                    ["eval", *args, "--text", f"{ORACLE}/heldout.txt"], ["snapshot", "ls", "--store", oracle_store]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([ROUSE, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 1 and "stdout" in done.stderr, (command, done)


def test_consume_ends_with_its_reader(topics, kafka):
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for i in range(5000):
        producer.produce(topics.completions, msgpack.packb({
            "v": 1, "batch_id": "b", "id": str(i), "index": 0, "n_prompts": 1, "model": "m", "version": "", "snapshot": "",
            "text": "nul \0 inside", "tokens": [], "finish_reason": "eos", "worker": "w",
            "usage": {"prompt_tokens": 1, "completion_tokens": 0},
            "timing_us": {"queue": 0, "prefill": 0, "decode": 0, "total": 0}}))
    assert producer.flush(30) == 0
    consume = f"{ROUSE} consume --brokers {kafka.bootstrap} --topic {topics.completions}"
    done = subprocess.run(["bash", "-c", f"{consume} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 1 and "stdout" in done.stderr and "nul \0 inside" in done.stdout, done
    whole = rouse("consume", "--brokers", kafka.bootstrap, "--topic", topics.completions, "--until-end").stdout
    assert len(whole.splitlines()) == 5000


def test_every_command_has_help():
    for command in ("worker", "generate", "produce", "consume", "tokenize", "eval", "demo", "snapshot build", "snapshot ls",
                    "snapshot show", "snapshot verify", "snapshot diff", "snapshot promote", "snapshot rollback", "snapshot split",
                    "snapshot pin", "snapshot unpin", "snapshot rm", "snapshot gc", "snapshot reindex"):
        text = rouse(*command.split(), "--help").stdout
        assert "usage" in text.lower() and "--json" in text, command


def test_options_from_the_environment(oracle_store):
    done = subprocess.run([ROUSE, "generate", "--prompt", "And"], capture_output=True, text=True, timeout=60,
                          env=dict(os.environ, ROUSE_MODEL=ORACLE, ROUSE_STORE=oracle_store, ROUSE_MAX_TOKENS="2"))
    assert done.returncode == 0 and done.stdout.startswith("And")


def test_msgpack_of_a_completion(topics, start_worker, reader, oracle_store):
    start_worker(store=oracle_store).wait_ready()
    topics.produce_batches([{"v": 1, "batch_id": "b", "prompts": [
        {"id": "a", "text": "In the beginning", "max_tokens": 5, "logprobs": 2, "ignore_eos": True}]}])
    (m,) = reader(topics.completions).read(1)
    c = msgpack.unpackb(m.value())
    assert m.key() == b"b"
    assert c["v"] == 1 and c["id"] == "a" and c["index"] == 0 and c["n_prompts"] == 1
    assert len(c["tokens"]) == 5 == len(c["logprobs"]) and c["usage"] == {"prompt_tokens": c["usage"]["prompt_tokens"],
                                                                          "completion_tokens": 5}
    assert set(c["timing_us"]) == {"queue", "prefill", "decode", "total"} and c["snapshot"] and c["worker"]
    assert c["model"] == "oracle" and c["version"] == "v1"


def test_oracle_completes_as_transformers_does(tmp_path):
    """From text to text with f32 weights: the same ids, greedy tokens, text and log-probabilities."""
    golden = json.load(open(os.path.join(ROOT, "tests", "golden", "oracle.json")))["completions"]
    ours, _ = generate(tmp_path, [{"id": str(i), "text": g["prompt"], "max_tokens": 40, "logprobs": 1}
                                  for i, g in enumerate(golden)], "--dtype", "f32")
    for i, g in enumerate(golden):
        c = ours[str(i)]
        expected = g["tokens"][:-1] if g["finish_reason"] == "eos" else g["tokens"]
        assert c["tokens"] == expected and c["text"] == g["text"], g["prompt"]
        assert c["finish_reason"] == g["finish_reason"] and c["usage"]["prompt_tokens"] == len(g["ids"])
        assert np.allclose([t["logprob"] for t in c["logprobs"]], g["logprobs"][:len(expected)], atol=2e-3)
