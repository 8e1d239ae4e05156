"""A worker is killed at each of the places in base/failpoint.h, and another one finishes: every prompt is answered once."""

import json
import os
import signal
import subprocess
import time

import pytest
import scenarios
from e2e import ROUSE, Reader, rouse
from nemesis import declared
from scenarios import until
from workload import HASTY

LONG = os.environ.get("ROUSE_LONG") == "true"
PATIENT = ("--kafka", "session.timeout.ms=10000")  # stays a member while its connection is cut


def works(on, failpoint):
    """The worker has work, and passes there."""
    return on.start(failpoint)


def leaves(on, failpoint):
    """It is told to stop, in the middle of its work."""
    victim = on.start(failpoint)
    until(lambda: on.events(victim, "commit") >= 2)
    victim.process.send_signal(signal.SIGTERM)
    return victim


def shares(on, failpoint):
    """Another one joins, and gets half of the partitions; the device is slow, so that something runs."""
    victim = on.start(f"device.after_step:12:sleep=1500,{failpoint}", "--handover-ms", 500)
    until(lambda: on.events(victim, "take") > 0)
    on.start(name="other")
    return victim


def is_full(on, failpoint):
    """More records than it may hold."""
    return on.start(failpoint, "--inflight", 8)


def is_cut(on, failpoint):
    """The answer to its commit is lost."""
    victim = on.start(f"commit.before_end:3:sleep=1000,{failpoint}", *PATIENT)
    until(lambda: on.events(victim, "begin") >= 3)
    time.sleep(0.4)
    on.cluster.brokers[0].proxy.set("half-open")
    time.sleep(4)
    on.cluster.brokers[0].proxy.set("calm")
    return victim


def is_late(on, failpoint):
    """The group goes on without the batch that it has collected: the offsets are refused."""
    on.mutant = "owner_not_fenced"  # else its producer is fenced, and there is nothing to abort
    victim = on.start(f"commit.after_collect:3:sleep=5000,{failpoint}", "--handover-ms", 0)
    until(lambda: on.events(victim, "commit") >= 2)
    on.start(name="other")
    on.mutant = ""
    return victim


def takes_over(on, failpoint):
    """Its predecessor was killed with offsets that are not committed."""
    first = on.start("commit.after_offsets:3:kill")
    until(lambda: not first.alive())
    return on.start(failpoint, name="second")


CUT = ["commit.in_doubt", "commit.resolved", "producer.before_replace", "producer.after_replace"]
SHARED = ["poll.before_handover", "poll.handover_publish", "poll.before_lose", "poll.after_lose", "device.before_cancel"]
REPLAY = ["replay.before_send", "replay.after_send"]
MOMENTS = {**dict.fromkeys(CUT, is_cut), **dict.fromkeys(SHARED, shares), "poll.before_flow": is_full, "commit.before_abort": is_late,
           "drain.begun": leaves, "drain.over": leaves, "poll.before_leave": leaves,
           "takeover.before_fence": takes_over, "takeover.after_fence": takes_over}
ONCE = {"poll.before_progress", "poll.after_progress", "poll.after_gain", "producer.before_init", "producer.after_init", *MOMENTS}
SMOKE = ["commit.before_offsets", "commit.after_end", "device.after_step", "poll.before_lose", "takeover.after_fence"]
POINTS = [p for p in declared("BASE_FAILPOINTS") if p not in REPLAY]


@pytest.mark.parametrize("point", POINTS if LONG else SMOKE)
def test_killed_at(point, stage):
    on = stage()
    victim = MOMENTS.get(point, works)(on, f"{point}:{1 if point in ONCE else 2}:kill")
    until(lambda: not victim.alive(), 30)
    assert victim.process.returncode == -signal.SIGKILL, victim.log()[-2000:]
    on.start(name="last")
    assert on.findings(quiet_s=15 if point in CUT else scenarios.QUIET_S) == []


@pytest.mark.parametrize("point", REPLAY)
def test_replay_killed_at(point, stage):
    """Letters come back to the prompts once, however often the one who does it is killed."""
    on = stage()
    scenarios.calm(on)
    assert on.findings() == []
    argv = ["dlq", "replay", "--brokers", on.topics.bootstrap, "--dlq", on.topics.dead]
    killed = subprocess.run([ROUSE, *argv], env=dict(os.environ, ROUSE_FAILPOINT=f"{point}:1:kill"), capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first, second = (json.loads(rouse(*argv, "--json").stdout.splitlines()[-1]) for _ in range(2))
    letters = sum(answers == ["dead letter"] for answers in on.feed.prompts.values())
    assert (first["sent"], second["sent"]) == (0 if point == "replay.after_send" else letters, 0), (first, second)
    reader = Reader(on.topics.bootstrap, on.topics.prompts, scenarios.PARTITIONS)
    try:
        assert len(reader.read(len(on.feed.prompts) + letters)) == len(on.feed.prompts) + letters
    finally:
        reader.close()


def test_hasty_settings_are_the_rule():
    """The tests' workers notice deaths sooner, but transactions still end before sessions do."""
    given = dict(a.split("=") for a in HASTY if "=" in a)
    assert int(given["message.timeout.ms"]) < int(given["transaction.timeout.ms"]) < int(given["session.timeout.ms"])
