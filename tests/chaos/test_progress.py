"""The reader of maps agrees with the golden texts of the C."""

import json
import pathlib

import pytest
from progress import decode

GOLDEN = json.loads((pathlib.Path(__file__).parents[2] / "schemas" / "golden" / "progress_map.json").read_text())


@pytest.mark.parametrize("case", [c for c in GOLDEN if "expect" in c and c["expect"]], ids=lambda c: c["name"])
def test_golden(case):
    if any(b - a > 1 << 24 for a, b in case["expect"]["runs"]):
        with pytest.raises(ValueError, match="a span of"):  # offsets are listed one by one here: no tests are that long
            decode(case["text"], case["base"])
        return
    records, partial = decode(case["text"], case["base"])
    assert records == {o for a, b in case["expect"]["runs"] for o in range(a, b)}
    bits = [int.from_bytes(bytes.fromhex(p[2]), "little") for p in case["expect"]["partials"]]
    assert [sum(1 << i for i in done) for done in partial.values()] == bits
    assert list(partial) == [p[0] for p in case["expect"]["partials"]]


@pytest.mark.parametrize("text", [None, "", "mine", "r2:AAAA"])
def test_nothing_of_ours(text):
    assert decode(text, 3) == (set(), {})


@pytest.mark.parametrize("text", ["r1:", "r1:AA", "r1:gICA", "r1:AAAAAA==", "r1:AAAAAAAAAA==", "r1:AQAAACA="])
def test_damage_is_an_error(text):
    with pytest.raises((ValueError, IndexError)):
        decode(text, 0)
