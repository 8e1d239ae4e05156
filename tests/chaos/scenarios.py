"""Bad moments, each played the same way every time: with the rules as they are nothing comes of them."""

import json
import time

from check_history import check, read_history
from e2e import Topics, Worker
from workload import HASTY, Feed, Outcomes

PARTITIONS = 4
PATIENCE_S = 60
QUIET_S = 6  # nothing new for so long: nothing will come. A session, a transaction and a restart are shorter.


def until(condition, seconds=PATIENCE_S):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{condition.__name__} after {seconds} s")
        time.sleep(0.01)


class Stage:
    """One topic with its work, on a cluster that others use too."""

    def __init__(self, cluster, store, batches, folder, mutant=""):
        self.cluster, self.store, self.folder, self.mutant = cluster, store, folder, mutant
        self.topics = Topics(cluster.bootstrap, PARTITIONS, cluster.copies)
        self.feed, self.workers = Feed(self.topics), []
        for record in batches:
            self.feed.put(record)
        self.feed.flush()
        self.outcomes = Outcomes(self.topics, self.feed)

    def start(self, failpoint="", *args, name="slot"):
        history = self.folder / f"history-{len(self.workers)}"
        env = {"ROUSE_HISTORY": str(history), "ROUSE_FAILPOINT": failpoint, "ROUSE_MUTANT": self.mutant}
        args = ["--transactional-id", f"{self.topics.group}-{name}", *HASTY, *args]
        worker = Worker(str(self.folder), self.topics, self.cluster.worker_bootstrap, *args, store=self.store, env=env)
        worker.history = history
        self.workers.append(worker)
        return worker

    def events(self, worker, kind):
        """How many there were of a kind."""
        if not worker.history.exists():
            return 0
        return sum(json.loads(line)["event"] == kind for line in worker.history.read_bytes().split(b"\n")[:-1])

    def _seen(self):
        return self.outcomes.count() + len(self.outcomes.offsets)

    def findings(self, quiet_s=QUIET_S):
        """When all is done, or nothing moves any more."""
        n, moved, seen = sum(map(len, self.feed.prompts.values())), time.monotonic(), -1
        while time.monotonic() < moved + quiet_s and not (self.outcomes.drained() and self.outcomes.count() >= n):
            if self._seen() != seen:
                seen, moved = self._seen(), time.monotonic()
            time.sleep(0.05)
        time.sleep(0.5)  # one too many would show
        for w in self.workers:
            w.close()
        self.outcomes.close()
        return check(self.feed.prompts, self.outcomes.outputs(), self.outcomes.progress(), self.feed.ends(),
                     {w.history.name: read_history(w.history) for w in self.workers if w.history.exists()})

    def close(self):
        for w in self.workers:
            w.close()
        self.cluster.brokers[0].proxy.set("calm")
        self.outcomes.close()


def calm(stage):
    """Nothing happens."""
    stage.start()


def killed(stage, failpoint="commit.after_settle:4"):
    """What is long still runs, and what is short is answered and committed, when the worker is killed."""
    victim = stage.start(f"{failpoint}:kill")
    until(lambda: not victim.alive())
    stage.start()


def killed_between(stage):
    """Killed right behind the end of a transaction."""
    killed(stage, "commit.after_end:5")


def moved_while_collected(stage):
    """The group moves on between the collecting of a batch and its transaction."""
    victim = stage.start("commit.after_collect:3:sleep=6000", "--handover-ms", 0)
    until(lambda: stage.events(victim, "commit") >= 2)
    time.sleep(0.2)
    stage.start(name="other")


def moved_while_running(stage):
    """The group moves on while the device is slow."""
    victim = stage.start("device.after_step:12:sleep=5000", "--handover-ms", 0)
    until(lambda: stage.events(victim, "take") > 0)
    time.sleep(0.5)
    stage.start(name="other")


def timed_out(stage):
    """The transaction's time is over before its offsets are sent."""
    stage.start("commit.before_offsets:3:sleep=4000", "--kafka", "session.timeout.ms=10000")


def _cut_at_the_end(stage, mode):
    victim = stage.start("commit.before_end:3:sleep=1000", "--kafka", "session.timeout.ms=10000")
    until(lambda: stage.events(victim, "begin") >= 3)
    time.sleep(0.4)
    stage.cluster.brokers[0].proxy.set(mode)
    time.sleep(4)
    stage.cluster.brokers[0].proxy.set("calm")


def answer_lost(stage):
    """The commit is carried out, and nobody hears of it."""
    _cut_at_the_end(stage, "half-open")


def request_lost(stage):
    """The commit never arrives, and nobody hears of it."""
    _cut_at_the_end(stage, "blackhole")
