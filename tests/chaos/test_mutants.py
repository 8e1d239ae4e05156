"""The tests are tested: each rule is broken on purpose, and the checker has to notice; unbroken, it must have nothing to say."""

import os
import random

import pytest
import scenarios
from cluster import Cluster
from nemesis import declared
from workload import palette, records

LONG = os.environ.get("ROUSE_LONG") == "true"
# mutant: the moment at which it shows, and what is found then
MUTANTS = {
    "map_dropped": ("killed", "doubled"),
    "map_of_another": ("killed", "doubled"),
    "map_not_read": ("killed", "doubled"),
    "record_not_skipped": ("killed", "doubled"),
    "parts_ignored": ("killed", "doubled"),
    "base_too_far": ("killed", "lost"),
    "base_too_short": ("killed", "left"),
    "position_committed": ("killed", "lost"),
    "offsets_left_out": ("killed", "doubled"),
    "outputs_first": ("killed_between", "doubled"),
    "offsets_first": ("killed_between", "lost"),
    # Two locks on one door: either one alone keeps it shut.
    "group_after_collect,owner_not_fenced": ("moved_while_collected", "doubled"),
    "revoke_ignored": ("moved_while_running", "doubled"),
    "results_dropped": ("timed_out", "lost"),
    "doubt_is_aborted": ("answer_lost", "doubled"),
    "doubt_is_committed": ("request_lost", "lost"),
    "letter_forgotten": ("calm", "lost"),
    "seed_ignored": ("calm", "wrong"),
}
SMOKE = ["map_not_read", "group_after_collect,owner_not_fenced", "doubt_is_aborted", "results_dropped"]
SCENARIOS = sorted({scenario for scenario, _ in MUTANTS.values()})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(str(tmp_path_factory.mktemp("cluster")), 1) as c:
        yield c


@pytest.fixture(scope="module")
def batches(oracle_store):
    """Each partition begins with a long prompt among short ones; many short ones are behind it."""
    rng = random.Random(5)
    colours = palette(oracle_store, rng, 48, tokens_max=4, tokens_long=420)
    short, long = [c for c in colours if c[0]["max_tokens"] <= 4], [c for c in colours if c[0]["max_tokens"] > 4]
    heads = records(long, rng, scenarios.PARTITIONS, scenarios.PARTITIONS, bad_every=0, batch_max=1)
    return [*records_with_heads(heads, short, rng)]


def records_with_heads(heads, short, rng):
    import msgpack

    for head in heads:
        batch, extra = msgpack.unpackb(head.value), [rng.choice(short) for _ in range(2)]
        batch["prompts"] = [dict(extra[0][0], id="p0"), dict(batch["prompts"][0], id="p1"), dict(extra[1][0], id="p2")]
        head.name = batch["batch_id"] = f"head-{head.partition}"
        head.value, head.answers = msgpack.packb(batch), [extra[0][1], head.answers[0], extra[1][1]]
        yield head
    yield from records(short, rng, scenarios.PARTITIONS, 120, batch_max=3)


@pytest.fixture
def play(cluster, oracle_store, batches, tmp_path):
    stages = []

    def run(scenario, mutant=""):
        stages.append(scenarios.Stage(cluster, oracle_store, batches, tmp_path, mutant))
        getattr(scenarios, scenario)(stages[-1])
        return stages[-1].findings()

    yield run
    for stage in stages:
        stage.close()


def test_every_mutant_has_a_moment():
    assert sorted(m for names in MUTANTS for m in names.split(",")) == sorted(declared("BASE_MUTANTS"))


@pytest.mark.skipif(not LONG, reason="--long")
@pytest.mark.parametrize("mutant", ["group_after_collect", "owner_not_fenced"])
def test_one_lock_is_enough(mutant, play):
    assert play("moved_while_collected", mutant) == []


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if LONG or s in {MUTANTS[m][0] for m in SMOKE}])
def test_unbroken(scenario, play):
    assert play(scenario) == []


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if LONG or m in SMOKE])
def test_broken(mutant, play):
    scenario, what = MUTANTS[mutant]
    found = play(scenario, mutant)
    assert what in {f.what for f in found}, found
