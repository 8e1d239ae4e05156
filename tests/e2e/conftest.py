"""Fixtures of the end-to-end tests: real Kafka and Redis, the rouse binary, workers, topics, readers.

One broker and one Redis serve the whole session; every test has topics, a group and a store of its own.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid

import confluent_kafka
import msgpack
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "services"))
from services import Kafka, Redis, free_port  # noqa: E402

ROUSE = os.environ.get("ROUSE", os.path.join(ROOT, "build", "release", "bin", "rouse"))
ORACLE = os.path.join(ROOT, "models", "oracle")
EMU = os.path.join(os.path.dirname(os.path.dirname(ROUSE)), "tests", "emu")  # the emulated CUDA driver

# ROUSE_E2E_DEVICE=cuda: everything on the emulated driver, whose kernels are interpreted: less work, and more time for it.
ON_CARD = os.environ.get("ROUSE_E2E_DEVICE") == "cuda"
PATIENCE = 8 if ON_CARD else 1
SHARE = float(os.environ.get("ROUSE_E2E_SHARE", 0.15 if ON_CARD else 1))
if ON_CARD:
    os.environ.update({"ROUSE_DEVICE": "cuda", "LD_LIBRARY_PATH": EMU, "EMU_STRICT": "1"})


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    with Kafka(str(tmp_path_factory.mktemp("kafka"))) as k:
        yield k


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    with Redis(str(tmp_path_factory.mktemp("redis"))) as r:
        yield r


@pytest.fixture(scope="session")
def oracle_store(tmp_path_factory):
    """A store that holds the oracle's snapshot, for tests that are not about building one."""
    store = str(tmp_path_factory.mktemp("store"))
    rouse("snapshot", "build", "--model", ORACLE, "--store", store)
    return store


def rouse(*args, check=True, input=None, timeout=120, env=None):
    """Runs the binary; returns the CompletedProcess. check: the exit code must be 0."""
    done = subprocess.run([ROUSE, *map(str, args)], capture_output=True, text=True, input=input, timeout=timeout * PATIENCE,
                          env=dict(os.environ, **(env or {})))
    if check and done.returncode:
        raise AssertionError(f"rouse {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done


def cuda_env(**settings):
    """The environment for a program on the emulated driver, where misuse of the driver is exit status 99; settings as in
    tests/emu/README.md: cuda_env(seed=3, fail="7:2")."""
    return dict({"LD_LIBRARY_PATH": EMU, "EMU_STRICT": "1"}, **{f"EMU_{k.upper()}": str(v) for k, v in settings.items()})


def generate(store, prompts, *args, model=ORACLE, env=None):
    """Completions by `rouse generate`, as {id: completion}, and its last line."""
    lines = "".join(json.dumps(p) + "\n" for p in prompts)
    done = rouse("generate", "--model", model, "--store", store, "--in", "-", "--json", *args, input=lines, env=env)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    return {c["id"]: c for c in out[:-1]}, out[-1]


class Topics:
    """The three topics of one test."""

    def __init__(self, bootstrap, partitions, copies=1):
        self.bootstrap, self.partitions = bootstrap, partitions
        tag = uuid.uuid4().hex[:8]
        self.group = f"group-{tag}"
        self.prompts, self.completions, self.dead = f"prompts-{tag}", f"completions-{tag}", f"dead-{tag}"
        admin = AdminClient({"bootstrap.servers": bootstrap})
        made = admin.create_topics([NewTopic(t, partitions, copies) for t in (self.prompts, self.completions, self.dead)])
        for future in made.values():
            future.result(30)

    def produce(self, records):
        """records: (key, value bytes[, partition[, headers]])."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        failures = []
        for key, value, *rest in records:
            producer.produce(self.prompts, value, key, partition=rest[0] if rest and rest[0] is not None else -1,
                             headers=rest[1] if len(rest) > 1 else None,
                             on_delivery=lambda e, _: failures.append(e) if e else None)
            producer.poll(0)
        assert producer.flush(60) == 0 and not failures, failures

    def produce_batches(self, batches):
        self.produce([(b["batch_id"], msgpack.packb(b)) for b in batches])

    def committed(self):
        """Committed offset of each partition of the prompt topic; -1001: none."""
        c = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            return [p.offset for p in c.committed([TopicPartition(self.prompts, i) for i in range(self.partitions)], 20)]
        finally:
            c.close()

    def lag(self):
        """What KEDA computes: end of the topic less what is committed, over all partitions."""
        c = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        try:
            total = 0
            for p in c.committed([TopicPartition(self.prompts, i) for i in range(self.partitions)], 20):
                low, high = c.get_watermark_offsets(TopicPartition(self.prompts, p.partition), 20)
                total += high - (p.offset if p.offset >= 0 else low)
            return total
        finally:
            c.close()


@pytest.fixture
def topics(kafka):
    return Topics(kafka.bootstrap, 6)


class Reader:
    """All committed records of a topic from its beginning, like any downstream consumer sees them."""

    def __init__(self, bootstrap, topic, partitions):
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "isolation.level": "read_committed",
                                  "enable.auto.commit": False, "auto.offset.reset": "earliest"})
        self.consumer.assign([TopicPartition(topic, i, 0) for i in range(partitions)])
        self.messages = []

    def poll(self, seconds):
        m = self.consumer.poll(seconds)
        if m is not None and m.error():
            raise KafkaException(m.error())
        if m is not None:
            self.messages.append(m)
        return m

    def read(self, n, seconds=60):
        """Until n records are there in all; then a little longer, so that one too many would show."""
        end = time.monotonic() + seconds * PATIENCE
        while len(self.messages) < n and time.monotonic() < end:
            self.poll(0.2)
        assert len(self.messages) >= n, f"{len(self.messages)} of {n} records after {seconds} s"
        self.settle()
        return self.messages

    def settle(self, seconds=1.0):
        while self.poll(seconds) is not None:
            pass

    def values(self):
        return [msgpack.unpackb(m.value()) for m in self.messages]

    def close(self):
        self.consumer.close()


class Worker:
    """One `rouse worker` process, its log and its HTTP port."""

    def __init__(self, folder, topics, brokers, *args, model=ORACLE, store=None, redis=None, env=None):
        self.port = free_port()
        self.log_path = os.path.join(folder, f"worker-{self.port}.log")
        argv = [ROUSE, "worker", "--model", model, "--brokers", brokers, "--group", topics.group, "--in", topics.prompts,
                "--out", topics.completions, "--dlq", topics.dead, "--http", f"127.0.0.1:{self.port}", "--json",
                "--threads", "1"]
        argv += ["--store", store] if store else []
        argv += ["--redis", redis] if redis else []
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(argv + list(map(str, args)), stderr=log, stdout=log, stdin=subprocess.DEVNULL,
                                            env=dict(os.environ, **(env or {})))

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def events(self):
        out = []
        for line in self.log().splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                out.append({"event": None, "text": line})
        return out

    def event(self, name):
        return next((e for e in self.events() if e.get("event") == name), None)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()
        except OSError:
            return 0, ""

    def alive(self):
        return self.process.poll() is None

    def wait_ready(self, seconds=60):
        end = time.monotonic() + seconds * PATIENCE
        while self.get("/readyz")[0] != 200:
            assert self.alive(), f"the worker ended with {self.process.returncode}:\n{self.log()[-3000:]}"
            assert time.monotonic() < end, f"not ready after {seconds} s: {self.get('/readyz')}\n{self.log()[-3000:]}"
            time.sleep(0.05)
        return self

    def wait_log(self, text, seconds=30):
        end = time.monotonic() + seconds * PATIENCE
        while text not in self.log():
            assert time.monotonic() < end, f"{text!r} is not in the log after {seconds} s:\n{self.log()[-3000:]}"
            time.sleep(0.05)

    def terminate(self, seconds=40):
        """SIGTERM: drains and leaves with 0."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds * PATIENCE)
        assert code == 0, f"exit {code}:\n{self.log()[-3000:]}"

    def close(self):
        if self.alive():
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start_worker(tmp_path, topics, kafka, request):
    """start_worker(*args, store=..., redis=..., model=...) -> Worker; ended with the test."""
    workers = []

    def start(*args, **kwargs):
        workers.append(Worker(str(tmp_path), topics, kwargs.pop("brokers", kafka.bootstrap), *args, **kwargs))
        return workers[-1]

    yield start
    for w in workers:
        w.close()


@pytest.fixture
def reader(topics):
    readers = []

    def open_reader(topic):
        readers.append(Reader(topics.bootstrap, topic, topics.partitions))
        return readers[-1]

    yield open_reader
    for r in readers:
        r.close()


@pytest.fixture
def copy_oracle(tmp_path):
    """A copy of the oracle's directory that a test may damage."""

    def copy(name="oracle"):
        target = os.path.join(str(tmp_path), name)
        shutil.copytree(ORACLE, target)
        return target

    return copy


def newest_librdkafka(folder):
    """Environment with the librdkafka that comes with the Python client, for a worker that was linked with an older one."""
    libs = pathlib.Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (found,) = libs.glob("librdkafka-*.so.1")
    lib = pathlib.Path(folder) / "lib"
    lib.mkdir(exist_ok=True)
    (lib / "librdkafka.so.1").symlink_to(found)
    return {"LD_LIBRARY_PATH": f"{lib}:{libs}"}
