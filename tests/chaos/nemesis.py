"""A pool of workers, and somebody who hurts it.

Everything comes from one random stream: a seed names the order of faults and the failpoints; when exactly they strike depends
on the machine. A fault that lasts is healed later, so faults overlap; brokers fall one at a time."""

import collections
import os
import pathlib
import re
import signal
import threading
import time

from e2e import ROOT, Worker
from kafka_wire import coordinator


def declared(macro):
    """Names in one of the lists of base/failpoint.h."""
    text = (pathlib.Path(ROOT) / "base" / "failpoint.h").read_text()
    body = re.search(rf"#define {macro}\(X\)(.*?)\n\n", text, re.S).group(1)
    return re.findall(r'X\([A-Z_0-9]+, "([a-z_.]+)"\)', body) or re.findall(r"X\((\w+)\)", body)


def is_stopped(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


class Member:
    """One worker process of the pool."""

    def __init__(self, pool, number, failpoint=""):
        self.number, self.failpoint = number, failpoint
        self.history = pool.folder / f"history-{number}"
        self.clock = pool.folder / f"clock-{number}"
        self.clock.write_text("0")
        self.asked_to_leave = False
        args = [*pool.args]
        if pool.rng.random() < 0.5:  # half of them take over a name, half have one of their own
            args += ["--transactional-id", f"{pool.topics.group}-name-{number}"]
        env = {"ROUSE_HISTORY": str(self.history), "ROUSE_FAILPOINT": failpoint, "ROUSE_CLOCK_OFFSET": str(self.clock), **pool.env}
        self.worker = Worker(str(pool.folder), pool.topics, pool.cluster.worker_bootstrap, *args, store=pool.store,
                             redis=pool.cluster.worker_redis, env=env)

    @property
    def process(self):
        return self.worker.process

    def signal(self, what):
        if self.worker.alive():
            self.process.send_signal(what)


class Pool:
    def __init__(self, cluster, topics, store, folder, rng, size, args=(), env=None, failpoint_share=0.8):
        self.cluster, self.topics, self.store, self.folder, self.rng = cluster, topics, store, pathlib.Path(folder), rng
        self.size, self.env, self.share = size, env or {}, failpoint_share
        self.args = ["--handover-ms", "1000", "--drain-s", "5", *args]
        self.members, self.gone, self.counts, self.calm = [], [], collections.Counter(), False
        self.points = [p for p in declared("BASE_FAILPOINTS") if not p.startswith("replay.")]
        self.resume_at = {}

    def start(self):
        failpoint = ""
        if not self.calm and self.rng.random() < self.share:
            action = self.rng.choice(["kill", "kill", "kill", "stop", "sleep=700"])
            failpoint = f"{self.rng.choice(self.points)}:{self.rng.choice([1, 1, 2, 3, 5, 8])}:{action}"
        self.members.append(Member(self, len(self.members) + len(self.gone), failpoint))
        return self.members[-1]

    def mend(self):
        """Counts what ended, lets go on what a failpoint stopped, and fills the pool up."""
        now = time.monotonic()
        for m in list(self.members):
            code = m.process.poll()
            if code is not None:
                self._ended(m, code)
            elif is_stopped(m.process.pid):
                if m not in self.resume_at:
                    self.resume_at[m] = now + self.rng.uniform(0.3, 4)
                    self.counts["failpoint stop"] += 1
                elif now > self.resume_at[m]:
                    del self.resume_at[m]
                    m.signal(signal.SIGCONT)
        while sum(not m.asked_to_leave for m in self.members) < self.size:
            self.start()

    def _ended(self, m, code):
        self.members.remove(m)
        self.gone.append(m)
        self.resume_at.pop(m, None)
        m.code = code
        if code == -signal.SIGKILL and m.failpoint.endswith("kill") and not getattr(m, "killed", False):
            self.counts["failpoint kill"] += 1

    def pick(self):
        able = [m for m in self.members if m not in self.resume_at and not m.asked_to_leave]
        return self.rng.choice(able) if able else None

    def odd_ends(self):
        """Workers that ended as nobody wanted them to: (number, exit code, failpoint, end of the log)."""

        def is_fine(m):
            too_soon = m.code == -signal.SIGTERM and not m.worker.log()  # told to leave before it could be told
            return m.code in (0, -signal.SIGKILL) or too_soon

        return [(m.number, m.code, m.failpoint, m.worker.log()[-1500:]) for m in self.gone if not is_fine(m)]

    def histories(self):
        return {m.history.name: m.history for m in self.gone + self.members if m.history.exists()}

    def close(self):
        for m in self.members:
            m.signal(signal.SIGKILL)
            m.process.wait()


class Nemesis:
    def __init__(self, cluster, pool, rng):
        self.cluster, self.pool, self.rng = cluster, pool, rng
        self.counts, self.heals, self.log = collections.Counter(), [], []
        self.starting, self.broken = [], []  # brokers
        self.began = time.monotonic()
        self.faults = [(self.kill, 6), (self.stop, 4), (self.leave, 3), (self.net_delay, 3), (self.net_blackhole, 3),
                       (self.net_half_open, 3), (self.net_reset, 4), (self.net_refuse, 2), (self.broker_pause, 2),
                       (self.redis_flush, 1), (self.redis_kill, 1), (self.redis_blackhole, 1), (self.clock_jump, 3), (self.storm, 2),
                       (self.scale, 2)]
        if len(cluster.brokers) > 1:
            # The only broker stays up: when it comes back and finds an open transaction, Apache Kafka 4.3.1 calls it aborted, but
            # writes no marker; readers of its partitions wait until an operator ends it (kafka-transactions.sh abort).
            self.faults += [(self.coordinator_kill, 2), (self.broker_kill, 2), (self.broker_restart, 1)]

    def total(self):
        return sum(self.counts.values()) + sum(self.pool.counts.values())

    def step(self):
        """One fault; True: it could be done."""
        fault = self.rng.choices([f for f, _ in self.faults], [w for _, w in self.faults])[0]
        detail = fault()
        if detail is None:
            return False
        name = fault.__name__.replace("_", " ")
        self.counts[name] += 1
        self.log.append((round(time.monotonic() - self.began, 2), name, str(detail)))
        return True

    def later(self, seconds, what):
        self.heals.append((time.monotonic() + seconds, what))

    def heal_due(self, everything=False):
        due = [h for h in self.heals if everything or h[0] <= time.monotonic()]
        self.heals = [h for h in self.heals if h not in due]
        for _, what in due:
            what()

    def heal(self):
        """Everything as on a calm day; workers stay as they are."""
        self.heal_due(everything=True)
        for thread in self.starting:
            thread.join(120)
        if self.broken:
            raise RuntimeError(self.broken[0])
        for m in self.pool.members:
            m.signal(signal.SIGCONT)
        self.pool.resume_at.clear()
        self.pool.calm = True
        self.pool.size = 2

    # Workers

    def kill(self):
        m = self.pool.pick()
        if m:
            m.killed = True
            m.signal(signal.SIGKILL)
        return m and m.number

    def stop(self):
        m = self.pool.pick()
        if not m:
            return None
        m.signal(signal.SIGSTOP)
        self.pool.resume_at[m] = time.monotonic() + self.rng.uniform(0.2, 5)  # often longer than a session
        return m.number

    def leave(self):
        m = self.pool.pick()
        if m:
            m.asked_to_leave = True
            m.signal(signal.SIGTERM)
        return m and m.number

    def clock_jump(self):
        m = self.pool.pick()
        if not m:
            return None
        ms = self.rng.choice([-1, 1]) * self.rng.choice([100, 5000, 3600_000, 86400_000])
        m.clock.write_text(str(ms))
        return f"{m.number}: {ms} ms"

    def storm(self):
        """Members that come and go again at once."""
        n = self.rng.randint(2, 3)
        for _ in range(n):
            m = self.pool.start()
            self.later(self.rng.uniform(0.5, 3), lambda m=m: (setattr(m, "asked_to_leave", True), m.signal(signal.SIGTERM)))
        return n

    def scale(self):
        self.pool.size = self.rng.choice([n for n in (1, 2, 3, 5) if n != self.pool.size])
        for m in self.pool.members[self.pool.size :]:
            m.asked_to_leave = True
            m.signal(signal.SIGTERM)
        return self.pool.size

    # Network

    def _hurt(self, proxy, mode, seconds, delay_ms=0):
        if proxy.mode != "calm":
            return None
        proxy.set(mode, delay_ms)
        self.later(seconds, lambda: proxy.set("calm"))
        return f"{proxy.name} for {seconds:.1f} s"

    def _broker(self):
        return self.rng.choice(self.cluster.brokers)

    def net_delay(self):
        return self._hurt(self._broker().proxy, "delay", self.rng.uniform(0.5, 4), self.rng.choice([5, 50, 300]))

    def net_blackhole(self):
        return self._hurt(self._broker().proxy, "blackhole", self.rng.uniform(0.5, 4))

    def net_half_open(self):
        return self._hurt(self._broker().proxy, "half-open", self.rng.uniform(0.5, 4))

    def net_refuse(self):
        return self._hurt(self._broker().proxy, "refuse", self.rng.uniform(0.2, 2))

    def net_reset(self):
        broker = self._broker()
        broker.proxy.reset()
        return broker.name

    # Services

    def _down(self, broker, down, up, seconds):
        if any(getattr(b, "is_down", False) for b in self.cluster.brokers):
            return None
        broker.is_down = True
        down()
        self.later(seconds, lambda: self._begin_up(broker, up))
        return f"{broker.name} for {seconds:.1f} s"

    def _begin_up(self, broker, up):
        """A broker takes seconds to come up: the others are hurt meanwhile."""
        def run():
            try:
                up()
                broker.is_down = False
            except RuntimeError as why:
                self.broken.append(str(why))
        self.starting.append(threading.Thread(target=run))
        self.starting[-1].start()

    def broker_restart(self):
        b = self._broker()
        return self._down(b, b.stop, b.start, self.rng.uniform(0.2, 2))

    def broker_kill(self):
        b = self._broker()
        return self._down(b, b.kill, b.start, self.rng.uniform(0.2, 2))

    def broker_pause(self):
        b = self._broker()
        return self._down(b, b.pause, b.resume, self.rng.uniform(0.3, 4))

    def coordinator_kill(self):
        node = coordinator(self.cluster.bootstrap.split(","), self.pool.topics.group)
        b = next((b for b in self.cluster.brokers if b.node == node), None)
        return b and self._down(b, b.kill, b.start, self.rng.uniform(1, 4))

    def redis_flush(self):
        try:
            self.cluster.redis.command_raw(b"FLUSHALL\r\n")
        except OSError:
            return None
        return "all keys"

    def redis_kill(self):
        redis = self.cluster.redis
        if redis.process is None:
            return None
        redis.kill()
        self.later(self.rng.uniform(0.5, 4), redis.start)
        return "killed"

    def redis_blackhole(self):
        return self._hurt(self.cluster.redis_proxy, "blackhole", self.rng.uniform(0.5, 4))


def log_of(nemesis, path):
    with open(path, "w") as f:
        for at, name, detail in nemesis.log:
            f.write(f"{at:8.2f} {name}: {detail}{os.linesep}")
