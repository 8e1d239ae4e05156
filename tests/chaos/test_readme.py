"""The tables of README.md name what base/failpoint.h has, and nothing else."""

import pathlib
import re

import pytest
from nemesis import declared

README = (pathlib.Path(__file__).parent / "README.md").read_text()


@pytest.mark.parametrize("heading, macro, at_least", [("Broken rules", "BASE_MUTANTS", 12), ("Failpoints", "BASE_FAILPOINTS", 30)])
def test_tables(heading, macro, at_least):
    rows = re.findall(r"^\| .*", README.split(f"## {heading}")[1].split("\n## ")[0], re.M)
    cells = [row.split("|")[1 if macro == "BASE_MUTANTS" else 2] for row in rows]
    names = re.findall(r"`([a-z_.]+)`", " ".join(cells))
    assert sorted(names) == sorted(declared(macro)) and len(names) >= at_least
