"""A worker is killed at a step of its transaction and a successor finishes: every prompt is answered once, with the right words."""

import pytest
from check_history import check, read_history
from workload import HASTY, Feed, Outcomes, plan

KILLED_AT = ["commit.after_collect", "commit.after_begin", "commit.between_sends", "commit.after_sends", "commit.after_offsets",
             "commit.before_end", "commit.after_end", "commit.before_settle", "commit.after_settle", "poll.after_take"]


@pytest.fixture(scope="session")
def batches(oracle_store):
    return plan(oracle_store, seed=11, n_partitions=6, n_prompts=60)


def play(topics, batches, start_worker, store, folder, failpoint, env=None, seconds=60):
    """Victim, then successor with the same transactional id; returns the findings."""
    feed = Feed(topics)
    for record in batches:
        feed.put(record)
    feed.flush()
    outcomes = Outcomes(topics, feed)
    slot = ("--transactional-id", f"{topics.group}-slot", *HASTY)
    victim = start_worker(*slot, store=store, env={"ROUSE_HISTORY": str(folder / "1"), "ROUSE_FAILPOINT": failpoint, **(env or {})})
    assert victim.process.wait(60) == -9, victim.log()[-2000:]
    start_worker(*slot, store=store, env={"ROUSE_HISTORY": str(folder / "2"), **(env or {})})
    outcomes.wait(seconds)
    outcomes.close()
    return check(feed.prompts, outcomes.outputs(), outcomes.progress(), feed.ends(),
                 {n: read_history(folder / n) for n in ("1", "2") if (folder / n).exists()})


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_at(point, topics, batches, start_worker, oracle_store, tmp_path):
    assert play(topics, batches, start_worker, oracle_store, tmp_path, f"{point}:2:kill") == []
