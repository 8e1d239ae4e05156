"""Snapshots in a bucket: a real S3 server, caches as of several nodes, and a proxy in between that counts and does harm."""
import glob
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import ORACLE, ROUSE, generate, rouse
from services import S3
from s3_proxy import S3Proxy
from test_cold_start import PROMPTS, answers

CHUNK = 4 << 20


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with S3(str(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture
def bucket(s3, request):
    return s3.bucket("b-" + str(abs(hash(request.node.name)) % 10**9))


@pytest.fixture
def proxy(s3):
    p = S3Proxy(s3.port)
    yield p
    p.close()


def make_model(folder, layers, hidden=512):
    """A model like the oracle, but of several chunks: small random weights, so that nothing overflows."""
    os.makedirs(folder)
    config = dict(json.load(open(f"{ORACLE}/config.json")), hidden_size=hidden, intermediate_size=4 * hidden,
                  num_attention_heads=8, num_hidden_layers=layers, tie_word_embeddings=True)
    json.dump(config, open(f"{folder}/config.json", "w"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{ORACLE}/{name}", folder)
    shapes = {"gpt_neox.embed_in.weight": (config["vocab_size"], hidden), "gpt_neox.final_layer_norm.weight": (hidden,),
              "gpt_neox.final_layer_norm.bias": (hidden,)}
    for i in range(layers):
        for name, shape in {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
                            "attention.query_key_value": (3 * hidden, hidden), "attention.dense": (hidden, hidden),
                            "mlp.dense_h_to_4h": (4 * hidden, hidden), "mlp.dense_4h_to_h": (hidden, 4 * hidden)}.items():
            shapes[f"gpt_neox.layers.{i}.{name}.weight"] = shape
            shapes[f"gpt_neox.layers.{i}.{name}.bias"] = (shape[0],)
    rng, header, blobs, at = np.random.default_rng(7), {}, [], 0
    for name, shape in shapes.items():
        blob = (rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(np.float16).tobytes()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return folder


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """About 50 MB: a dozen chunks."""
    return make_model(str(tmp_path_factory.mktemp("models") / "large"), layers=8)


class Node:
    """A machine: a cache of its own, and how it reaches the bucket."""

    def __init__(self, folder, bucket, env, *args):
        self.cache, self.store, self.env = str(folder), f"s3://{bucket}/snapshots", env
        self.args = ["--cache", self.cache, *args]

    def generate(self, model, *args):
        return generate(self.store, PROMPTS, *self.args, *args, model=model, env=self.env)

    def snapshot(self, verb, *args, **kwargs):
        return rouse("snapshot", verb, *args, "--store", self.store, *self.args, env=self.env, **kwargs)

    def start(self, model, *args, **kwargs):
        """rouse generate, not waited for."""
        argv = [ROUSE, "generate", "--model", model, "--store", self.store, *self.args, "--prompt", "In the beginning",
                "--max-tokens", "4", "--json", *args]
        return subprocess.Popen(argv, env=dict(os.environ, **self.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, **kwargs)

    def files(self, suffix=".snap"):
        return sorted(os.path.basename(p) for p in glob.glob(f"{self.cache}/*{suffix}"))


def outcome(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1]), err


def disk_bytes(path):
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("with_redis", [False, True])
def test_one_node_builds_another_restores(tmp_path, s3, bucket, copy_oracle, redis, with_redis):
    args = ["--redis", redis.url] if with_redis else []
    model = copy_oracle()
    a, b = (Node(tmp_path / name, bucket, s3.env(), *args) for name in "ab")
    cold, end = a.generate(model)
    assert end["restored"] is False and len(a.files()) == 1
    key, = [k for k in s3.keys(bucket) if k.endswith(".snap")]
    assert key == f"snapshots/{a.files()[0]}"
    with open(f"{s3.data}/{bucket}/{key}", "rb") as there, open(f"{a.cache}/{a.files()[0]}", "rb") as here:
        assert there.read() == here.read()
    shutil.rmtree(model)
    warm, end = b.generate("oracle")
    assert end["restored"] is True and answers(warm) == answers(cold)
    assert b.files() == a.files() and b.files(".fetching*") == []
    listed = [json.loads(line) for line in b.snapshot("ls", "--json").stdout.splitlines()]
    assert [r["state"] for r in listed] == ["ready"]


def test_without_an_index_the_objects_are_enough(tmp_path, s3, bucket):
    Node(tmp_path / "a", bucket, s3.env()).snapshot("build", "--model", ORACLE)
    shutil.rmtree(f"{s3.data}/{bucket}/snapshots/index")
    _, end = Node(tmp_path / "b", bucket, s3.env()).generate("oracle")
    assert end["restored"] is True
    assert any("index/" in k for k in s3.keys(bucket)), "what was found is recorded"


def test_removed_is_gone_from_bucket_and_cache(tmp_path, s3, bucket):
    a = Node(tmp_path / "a", bucket, s3.env())
    a.snapshot("build", "--model", ORACLE)
    a.snapshot("show", "oracle")
    a.snapshot("verify", "oracle", "--proof")
    a.snapshot("rm", "oracle", "--force")
    assert a.files() == [] and not [k for k in s3.keys(bucket) if k.endswith(".snap")]
    assert a.snapshot("ls", "--json").stdout == ""


def test_eight_processes_fetch_once(tmp_path, s3, bucket, proxy, large):
    a = Node(tmp_path / "a", bucket, s3.env())
    a.snapshot("build", "--model", large)
    size = disk_bytes(f"{a.cache}/{a.files()[0]}")
    proxy.rules.append(lambda r: {"delay_s": 0.05} if r.is_chunk() else None)
    b = Node(tmp_path / "b", bucket, s3.env(proxy.url))
    processes = [b.start("large") for _ in range(8)]
    texts = {json.dumps(outcome(p)[0]["restored"]) for p in processes}
    assert texts == {"true"}
    print(f"{proxy.chunk_bytes} bytes fetched for {size} of the snapshot, by 8 processes")
    assert proxy.chunk_bytes <= 1.05 * size
    assert b.files(".fetching*") == []


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def test_killed_fetch_is_gone_on_with(tmp_path, s3, bucket, proxy, large):
    a = Node(tmp_path / "a", bucket, s3.env())
    a.snapshot("build", "--model", large)
    size = disk_bytes(f"{a.cache}/{a.files()[0]}")
    proxy.rules.append(lambda r: {"delay_s": 0.2} if r.is_chunk() else None)
    b = Node(tmp_path / "b", bucket, s3.env(proxy.url))
    first = b.start("large")
    wait_for(lambda: proxy.chunk_bytes >= 6 * CHUNK)
    first.kill()
    first.communicate()
    assert b.files() == [] and len(b.files(".fetching")) == 1
    end, _ = outcome(b.start("large"))
    assert end["restored"] is True
    print(f"{proxy.chunk_bytes} bytes fetched for {size} of the snapshot, killed once")
    assert proxy.chunk_bytes <= size + 6 * CHUNK, "at most the ranges that were on their way, twice"
    assert len(b.files()) == 1 and b.files(".fetching*") == []


def test_follower_takes_over(tmp_path, s3, bucket, proxy, large):
    Node(tmp_path / "a", bucket, s3.env()).snapshot("build", "--model", large)
    proxy.rules.append(lambda r: {"delay_s": 0.2} if r.is_chunk() else None)
    b = Node(tmp_path / "b", bucket, s3.env(proxy.url))
    first = b.start("large")
    wait_for(lambda: len(proxy.chunks()) >= 2)
    others = [b.start("large") for _ in range(2)]
    wait_for(lambda: len(proxy.chunks()) >= 7)
    first.kill()
    first.communicate()
    ends = [outcome(p) for p in others]
    assert [e["restored"] for e, _ in ends] == [True, True]
    assert sum("going on with what a dead process fetched" in err for _, err in ends) == 1
    assert len(b.files()) == 1


@pytest.mark.parametrize("harm", [{"status": 503}, {"status": 500}, {"cut": 100000}, {"flip": 12345}, {"stall_s": 0.2}])
def test_trouble_that_passes(tmp_path, s3, bucket, proxy, large, harm):
    """The first request for every third range meets it."""
    a = Node(tmp_path / "a", bucket, s3.env())
    cold, _ = a.generate(large)
    ranges = []

    def rule(r):
        if r.is_chunk() and r.range not in ranges:
            ranges.append(r.range)
            return harm if len(ranges) % 3 == 2 else None

    proxy.rules.append(rule)
    warm, end = Node(tmp_path / "b", bucket, s3.env(proxy.url)).generate("large")
    assert end["restored"] is True and answers(warm) == answers(cold)
    assert len(ranges) >= 12


def test_object_at_fault_is_quarantined(tmp_path, s3, bucket, large):
    a = Node(tmp_path / "a", bucket, s3.env())
    cold, _ = a.generate(large)
    path = f"{s3.data}/{bucket}/snapshots/{a.files()[0]}"
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))
    b = Node(tmp_path / "b", bucket, s3.env())
    refused = rouse("generate", "--model", "large", "--store", b.store, *b.args, "--prompt", "x", env=b.env, check=False)
    assert refused.returncode == 3 and "does not match its checksum, fetched 3 times" in refused.stderr
    assert b.files() == [] and b.files(".fetching*") == []
    assert any("quarantine/" in k for k in s3.keys(bucket)) and os.path.exists(path), "told, and kept"
    again = rouse("generate", "--model", "large", "--store", b.store, *b.args, "--prompt", "x", env=b.env, check=False)
    assert again.returncode == 3 and "it was quarantined" in again.stderr and "the chunk at" in again.stderr
    rebuilt, end = b.generate(large)  # loads cold, builds it anew, and with that the quarantine ends
    assert end["restored"] is False and answers(rebuilt) == answers(cold)
    assert not any("quarantine/" in k for k in s3.keys(bucket))
    warm, end = Node(tmp_path / "c", bucket, s3.env()).generate("large")
    assert end["restored"] is True and answers(warm) == answers(cold)


def test_copy_at_fault_is_fetched_anew(tmp_path, s3, bucket):
    a = Node(tmp_path / "a", bucket, s3.env())
    cold, _ = a.generate(ORACLE)
    path = f"{a.cache}/{a.files()[0]}"
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) - 100000)
        f.write(b"\x55" * 8)
    warm, end = a.generate(ORACLE)
    assert end["restored"] is True and answers(warm) == answers(cold)
    assert len(a.files(".quarantined.snap")) == 1 and not any("quarantine/" in k for k in s3.keys(bucket))


def test_bucket_away(tmp_path, s3, bucket):
    a = Node(tmp_path / "a", bucket, s3.env())
    cold, _ = a.generate(ORACLE)
    nobody = "http://127.0.0.1:9"
    began = time.monotonic()
    warm, end = Node(tmp_path / "a", bucket, s3.env(nobody)).generate("oracle")
    assert end["restored"] is True and answers(warm) == answers(cold), "the copy on the node serves"
    plain, end = Node(tmp_path / "b", bucket, s3.env(nobody)).generate(ORACLE)
    assert end["restored"] is False and answers(plain) == answers(cold), "without one, the directory does"
    assert time.monotonic() - began < 45
    failed = Node(tmp_path / "b", bucket, s3.env(nobody)).snapshot("ls", check=False)
    assert failed.returncode == 4 and nobody in failed.stderr and bucket in failed.stderr


def test_wrong_credentials_are_named_not_shown(tmp_path, s3, bucket):
    failed = Node(tmp_path / "a", bucket, s3.env(secret="not-the-secret-at-all")).snapshot("ls", check=False)
    assert failed.returncode == 4
    assert "SignatureDoesNotMatch" in failed.stderr and "AWS_SECRET_ACCESS_KEY" in failed.stderr
    assert "not-the-secret-at-all" not in failed.stderr and s3.key not in failed.stderr
    missing = Node(tmp_path / "a", "no-such-bucket", s3.env()).snapshot("ls", check=False)
    assert missing.returncode == 4 and "NoSuchBucket" in missing.stderr
    plain, end = Node(tmp_path / "b", bucket, s3.env(secret="not-the-secret-at-all")).generate(ORACLE)
    assert end["restored"] is False


def test_cache_keeps_its_bound(tmp_path, s3, bucket):
    a = Node(tmp_path / "a", bucket, s3.env())
    for key in "xyz":
        a.snapshot("build", "--model", ORACLE, "--snapshot-key", key)
    size = disk_bytes(f"{a.cache}/{a.files()[0]}")
    b = Node(tmp_path / "b", bucket, s3.env(), "--cache-bytes", str(5 * size // 2))
    file_of = {}
    for key in "xyxz":
        before = set(b.files())
        b.generate("oracle", "--snapshot-key", key)
        file_of.setdefault(key, next(iter(set(b.files()) - before), None))
        assert sum(disk_bytes(f"{b.cache}/{f}") for f in b.files()) <= 5 * size // 2
    assert b.files() == sorted([file_of["x"], file_of["z"]]), "the least recently used one went"
    b.generate(ORACLE, "--snapshot-key", "built here")
    assert len(b.files()) == 2 and file_of["x"] not in b.files(), "what is built counts too"


def test_full_disk_is_an_error_that_leaves_nothing(tmp_path, s3, bucket, large):
    a = Node(tmp_path / "a", bucket, s3.env())
    a.snapshot("build", "--model", large)
    b = Node(tmp_path / "b", bucket, s3.env())

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))

    p = b.start("large", preexec_fn=limit, restore_signals=False)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 1 and "no room for snapshot" in err and "bytes are needed" in err
    assert b.files() == [] and b.files(".fetching*") == [] and b.files(".used") == []


def test_killed_upload_shows_nothing(tmp_path, s3, bucket, proxy, large):
    proxy.rules.append(lambda r: {"delay_s": 1.0} if r.is_part() else None)
    a = Node(tmp_path / "a", bucket, s3.env(proxy.url))
    builder = a.start(large)
    wait_for(lambda: any(r.is_part() for r in list(proxy.requests)))
    builder.kill()
    builder.communicate()
    assert not [k for k in s3.keys(bucket) if k.endswith(".snap")] and a.files() == []
    proxy.rules.clear()
    _, end = a.generate(large)
    assert end["restored"] is False and len([k for k in s3.keys(bucket) if k.endswith(".snap")]) == 1
    ended = [r for r in proxy.requests if r.method == "DELETE" and "uploadId=" in r.path]
    assert len(ended) == 1, "the next builder ended the dead one's upload"
    assert a.files(".building") == []


def test_failed_upload_leaves_nothing(tmp_path, s3, bucket, proxy):
    proxy.rules.append(lambda r: {"status": 403} if r.is_part() else None)
    a = Node(tmp_path / "a", bucket, s3.env(proxy.url))
    _, end = a.generate(ORACLE)
    assert end["restored"] is False and a.files() == [] and a.files(".building") == []
    assert not [k for k in s3.keys(bucket) if k.endswith(".snap")]
    assert any(r.method == "DELETE" and "uploadId=" in r.path for r in proxy.requests)
