"""A pool of workers under every fault there is; --long: three brokers, several seeds, both group protocols."""

import os

import pytest
import run_chaos

LONG = os.environ.get("ROUSE_LONG") == "true"
SMOKE = [("--seed", "21", "--faults", "25", "--prompts", "500")]
WHOLE = [("--seed", "1", "--faults", "150", "--prompts", "4000", "--brokers", "3"),
         ("--seed", "2", "--faults", "150", "--prompts", "4000", "--brokers", "3", "--newest"),
         ("--seed", "3", "--faults", "150", "--prompts", "4000", "--brokers", "3", "--protocol", "consumer"),
         ("--seed", "4", "--faults", "100", "--prompts", "3000", "--deaths-max", "3")]


@pytest.mark.parametrize("argv", WHOLE if LONG else SMOKE, ids=" ".join)
def test_every_prompt_is_answered_once(argv, tmp_path):
    verdict = run_chaos.go(run_chaos.arguments(argv), tmp_path)
    assert verdict["ok"], verdict
    assert verdict["outputs"] == verdict["prompts"] >= int(argv[5])
