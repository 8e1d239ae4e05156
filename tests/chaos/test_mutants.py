"""The tests are tested: each rule is broken on purpose, and the checker has to notice; unbroken, it must have nothing to say."""

import os

import pytest
import scenarios
from nemesis import declared

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


def play(stage, scenario, mutant=""):
    on = stage(mutant)
    getattr(scenarios, scenario)(on)
    return on.findings()


def test_every_mutant_has_a_moment():
    assert sorted(m for names in MUTANTS for m in names.split(",")) == sorted(declared("BASE_MUTANTS"))


@pytest.mark.skipif(not LONG, reason="--long")
@pytest.mark.parametrize("mutant", ["group_after_collect", "owner_not_fenced"])
def test_one_lock_is_enough(mutant, stage):
    assert play(stage, "moved_while_collected", mutant) == []


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if LONG or s in {MUTANTS[m][0] for m in SMOKE}])
def test_unbroken(scenario, stage):
    assert play(stage, scenario) == []


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if LONG or m in SMOKE])
def test_broken(mutant, stage):
    scenario, what = MUTANTS[mutant]
    found = play(stage, scenario, mutant)
    assert what in {f.what for f in found}, found
