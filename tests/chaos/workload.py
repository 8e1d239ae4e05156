"""What the workers are given to do, and everything that came of it: records with known answers, and the reader of outcomes.

Answers come from a calm run: `rouse generate` over a palette of prompts, each with a seed of its own. Outcomes are what a
read_committed consumer sees; progress is read from the log of the group's offsets, where every commit is, in order."""

import dataclasses
import random
import struct
import threading
import time

import msgpack
from check_history import DEAD, Output
from confluent_kafka import Consumer, Producer, TopicPartition
from e2e import generate
from progress import decode

TEXTS = ["And God said", "Behold", "The king", "In the beginning God created the heaven and the earth", "Amen, I say:", "é ü 漢字"]
# A death is noticed after 2 s; a transaction lives shorter than that, as with the worker's own settings.
HASTY = [a for p in ("session.timeout.ms=2000", "transaction.timeout.ms=1500", "socket.timeout.ms=1500", "message.timeout.ms=1400")
         for a in ("--kafka", p)]
OFFSETS_TOPIC = "__consumer_offsets"


def palette(store, rng, n, tokens_max=24, tokens_long=160):
    """[(prompt, text of the answer)]; one in sixteen is long."""
    asked = [{"id": f"q{i}", "text": rng.choice(TEXTS), "max_tokens": tokens_long if i % 16 == 15 else rng.randint(1, tokens_max),
              "temperature": rng.choice([0, 0.8, 1.2]), "seed": rng.randint(0, 2**63 - 1)} for i in range(n)]
    answers, _ = generate(store, asked)
    return [(p, answers[p["id"]]["text"]) for p in asked]


@dataclasses.dataclass
class Record:
    name: str
    value: bytes
    partition: int
    answers: list  # by prompt; DEAD for a record that is refused as a whole


def records(colours, rng, n_partitions, n_prompts, bad_every=8, batch_max=6):
    """Records with n_prompts prompts in all, partitions in turn; one record in bad_every is no batch."""
    out, left = [], n_prompts
    while left > 0:
        name, partition = f"batch-{len(out)}", len(out) % n_partitions
        if bad_every and len(out) % bad_every == bad_every - 1:
            out.append(Record(name, b"\xc1 not a batch", partition, [DEAD]))
            left -= 1
            continue
        chosen = [rng.choice(colours) for _ in range(min(left, rng.randint(1, batch_max)))]
        parts = [dict(p, id=f"p{i}") for i, (p, _) in enumerate(chosen)]
        out.append(Record(name, msgpack.packb({"v": 1, "batch_id": name, "prompts": parts}), partition, [a for _, a in chosen]))
        left -= len(chosen)
    return out


class Feed:
    """Puts records on the topic; where each one is, is what the brokers say."""

    def __init__(self, topics):
        self.topics, self.failures = topics, []
        self.prompts, self.where = {}, {}  # {(partition, offset): answers}, {(batch, prompt id): (partition, offset, prompt)}
        self.lock = threading.Lock()
        self.producer = Producer({"bootstrap.servers": topics.bootstrap, "enable.idempotence": True, "linger.ms": 1,
                                  "message.timeout.ms": 300000})

    def put(self, record):
        self.producer.produce(self.topics.prompts, record.value, record.name, partition=record.partition,
                              on_delivery=lambda e, m: self._landed(record, e, m))
        self.producer.poll(0)

    def _landed(self, record, error, message):
        if error:
            self.failures.append(str(error))
            return
        at = message.partition(), message.offset()
        with self.lock:
            self.prompts[at] = record.answers
            self.where.update({(record.name, f"p{i}"): (*at, i) for i in range(len(record.answers))})

    def flush(self, seconds=120):
        left = self.producer.flush(seconds)
        if left or self.failures:
            raise RuntimeError(f"{left} records were not produced, errors: {self.failures[:3]}")

    def ends(self):
        with self.lock:
            return {p: 1 + max((o for q, o in self.prompts if q == p), default=-1) for p in range(self.topics.partitions)}


def parse_offset(key, value):
    """(group, topic, partition, offset, metadata) of a record of the offsets topic; None: something else's."""
    def text(data, at):
        (n,) = struct.unpack_from(">h", data, at)
        return data[at + 2 : at + 2 + n].decode(), at + 2 + n

    if key is None or value is None or struct.unpack_from(">h", key)[0] not in (0, 1):
        return None
    group, at = text(key, 2)
    topic, at = text(key, at)
    (partition,) = struct.unpack_from(">i", key, at)
    version, offset = struct.unpack_from(">hq", value)
    at = 10 + (4 if version >= 3 else 0)
    if version >= 4:  # a compact string: its length and one, as a varint
        n = shift = 0
        while True:
            n |= (value[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not value[at - 1] & 128:
                break
        metadata = value[at : at + n - 1].decode()
    else:
        metadata, _ = text(value, at)
    return group, topic, partition, offset, metadata


class Outcomes:
    """Reads what is committed, in threads of its own, until closed: completions, dead letters and the group's offsets."""

    def __init__(self, topics, feed):
        self.topics, self.feed = topics, feed
        self.completions, self.letters, self.offsets = [], [], []
        self.lock, self.quit, self.broken = threading.Lock(), threading.Event(), []
        self.threads = [threading.Thread(target=self._read, args=a, daemon=True) for a in (
            (topics.completions, self.completions), (topics.dead, self.letters), (OFFSETS_TOPIC, self.offsets))]
        for t in self.threads:
            t.start()

    def _read(self, topic, into):
        consumer = Consumer({"bootstrap.servers": self.topics.bootstrap, "group.id": "outcomes", "isolation.level": "read_committed",
                             "enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50})
        try:
            n = 0
            while not n and not self.quit.is_set():
                found = consumer.list_topics(topic, 10).topics[topic]
                n = 0 if found.error else len(found.partitions)
                if not n:
                    self.quit.wait(0.1)
            consumer.assign([TopicPartition(topic, i, 0) for i in range(n)])
            while not self.quit.is_set():
                fresh = [m for m in consumer.consume(500, 0.05) if not m.error()]
                if topic == OFFSETS_TOPIC:
                    fresh = [o[2:] for m in fresh if (o := parse_offset(m.key(), m.value())) and o[:2] == (self.topics.group, self.topics.prompts)]
                with self.lock:
                    into.extend(fresh)
        except Exception as why:  # noqa: BLE001 - told by whoever waits
            self.broken.append(f"{topic}: {why!r}")
        finally:
            consumer.close()

    def count(self):
        with self.lock:
            return len(self.completions) + len(self.letters)

    def committed(self):
        """{partition: (offset, metadata)}, the last one."""
        with self.lock:
            return {p: (o, m) for p, o, m in self.offsets}

    def drained(self):
        if self.broken:
            raise RuntimeError(self.broken[0])
        last = self.committed()
        for partition, end in self.feed.ends().items():
            offset, metadata = last.get(partition, (0, ""))
            if end and (offset != end or any(decode(metadata, offset))):
                return False
        return True

    def wait(self, seconds, settle=1.0):
        """Until everything is answered and committed; then a little longer, so that one too many would show. False: it is not."""
        until = time.monotonic() + seconds
        n = sum(map(len, self.feed.prompts.values()))
        while not (done := self.drained() and self.count() >= n) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(settle)
        return done

    def close(self):
        self.quit.set()
        for t in self.threads:
            t.join(30)

    def outputs(self, poison_is_fine=False):
        """In the checker's terms. poison_is_fine: a letter for a record that workers died with says nothing of the answer."""
        found = [self._completion(msgpack.unpackb(m.value())) for m in self.completions]
        for m in self.letters:
            found += self._letter(m, poison_is_fine)
        return [o for o in found if o]

    def _completion(self, c):
        at = self.feed.where.get((c["batch_id"], c["id"]))
        if at is None:
            return Output(-1, -1, 0, f"nobody asked: {c['batch_id']}/{c['id']}")
        return None if c["finish_reason"] == "error" else Output(*at, c["text"])  # its dead letter is the outcome

    def _letter(self, m, poison_is_fine):
        headers = {name: value.decode() for name, value in m.headers()}
        at = int(headers["__dlq.errors.partition"]), int(headers["__dlq.errors.offset"])
        answers = self.feed.prompts.get(at, [DEAD])
        if answers == [DEAD]:
            return [Output(*at, 0, DEAD)]
        batch = msgpack.unpackb(m.value())
        parts = [int(p["id"][1:]) for p in batch["prompts"]]
        fine = poison_is_fine and headers["x-error-code"] == "poison"
        return [Output(*at, i, answers[i] if fine else f"dead letter: {headers['x-error-code']}: {headers['__dlq.errors.message']}")
                for i in parts]

    def progress(self):
        """{partition: [(base, {(offset, prompt)} done beyond it)]}: every commit there was."""
        steps = {}
        for partition, offset, metadata in self.offsets:
            whole, partial = decode(metadata, offset)
            done = {(o, i) for o in whole for i in range(len(self.feed.prompts.get((partition, o), [0])))}
            done |= {(o, i) for o, some in partial.items() for i in some}
            found = steps.setdefault(partition, [])
            if not found or found[-1] != (offset, done):
                found.append((offset, done))
        return steps


def plan(store, seed, n_partitions, n_prompts, colours=64, **kwargs):
    rng = random.Random(seed)
    return records(palette(store, rng, colours), rng, n_partitions, n_prompts, **kwargs)


def with_long_heads(store, rng, n_partitions, n_prompts=120):
    """Records whose partitions begin with a long prompt between short ones, so that much is answered out of order."""
    colours = palette(store, rng, 48, tokens_max=4, tokens_long=420)
    short, long = [c for c in colours if c[0]["max_tokens"] <= 4], [c for c in colours if c[0]["max_tokens"] > 4]
    heads = []
    for partition in range(n_partitions):
        chosen = [rng.choice(short), rng.choice(long), rng.choice(short)]
        name, parts = f"head-{partition}", [dict(p, id=f"p{i}") for i, (p, _) in enumerate(chosen)]
        heads.append(Record(name, msgpack.packb({"v": 1, "batch_id": name, "prompts": parts}), partition, [a for _, a in chosen]))
    return heads + records(short, rng, n_partitions, n_prompts, batch_max=3)
