"""The checker finds each broken rule, and nothing in a good run."""

import copy
import json

import pytest
from check_history import DEAD, Output, check, read_history, summary


def event(seq, kind, partition=-1, offset=-1, prompt=-1, txn=0, pid=1):
    return {"t": 0, "seq": seq, "pid": pid, "event": kind, "partition": partition, "offset": offset, "prompt": prompt,
            "epoch": -1, "txn": txn}


def good():
    """Two partitions, a batch whose prompts finish the wrong way round, a dead letter, a partition that moves."""
    return {
        "prompts": {(0, 0): ["a", "b"], (0, 1): [DEAD], (1, 0): ["c"]},
        "outputs": [Output(0, 0, 1, "b", ("w1", 1)), Output(0, 1, 0, DEAD, ("w1", 1)), Output(0, 0, 0, "a", ("w2", 1)),
                    Output(1, 0, 0, "c", ("w2", 1))],
        "progress": {0: [(0, {(0, 1), (1, 0)}), (2, set())], 1: [(1, set())]},
        "ends": {0: 2, 1: 1},
        "histories": {
            "w1": [event(0, "assign", 0), event(1, "begin", txn=1), event(2, "send", 0, 0, 1, 1), event(3, "send", 0, 1, 0, 1),
                   event(4, "revoke", 0), event(5, "commit", txn=1)],
            "w2": [event(0, "assign", 0, pid=2), event(1, "assign", 1, pid=2), event(2, "begin", txn=1, pid=2),
                   event(3, "send", 0, 0, 0, 1, 2), event(4, "send", 1, 0, 0, 1, 2), event(5, "commit", txn=1, pid=2)],
        },
    }


def lose(run):
    run["outputs"].pop()


def double_in_one_transaction(run):
    run["outputs"].append(run["outputs"][-1])


def invent(run):
    run["outputs"].append(Output(1, 7, 0, "x", ("w2", 9)))


def letter_and_completion(run):
    run["outputs"].append(Output(1, 0, 0, DEAD, ("w2", 1)))


def begin_after_the_loss(run):
    run["histories"]["w1"] += [event(6, "begin", txn=2), event(7, "send", 0, 0, 0, 2), event(8, "commit", txn=2)]


def base_falls(run):
    run["progress"][0][1:1] = [(2, set()), (1, set())]


def map_is_forgotten(run):
    run["progress"][0].insert(1, (0, {(1, 0)}))


def split(run):
    run["outputs"].append(Output(0, 0, 1, "b", ("w2", 2)))


def other_words(run):
    run["outputs"][0] = Output(0, 0, 1, "B", ("w1", 1))


def lag(run):
    run["ends"][1] = 2


def map_at_the_end(run):
    run["progress"][1].append((1, {(3, 0)}))


BAD = [
    (lose, {"I1"}, "lost"),
    (double_in_one_transaction, {"I1"}, "doubled"),
    (invent, {"I1"}, "invented"),
    (letter_and_completion, {"I1", "I5"}, "doubled"),
    (begin_after_the_loss, {"I2"}, "fenced"),
    (base_falls, {"I3"}, "undone"),
    (map_is_forgotten, {"I3"}, "undone"),
    (split, {"I1", "I4"}, "torn"),
    (other_words, {"I5"}, "wrong"),
    (lag, {"I6"}, "left"),
    (map_at_the_end, {"I6"}, "left"),
]


def test_a_good_run_is_good():
    assert check(**good()) == []


def test_an_aborted_transaction_of_a_lost_partition_is_no_fault():
    run = good()
    run["histories"]["w1"] += [event(6, "begin", txn=2), event(7, "send", 0, 0, 0, 2), event(8, "abort", txn=2)]
    assert check(**run) == []


@pytest.mark.parametrize("breaks, rules, what", BAD, ids=lambda v: getattr(v, "__name__", None))
def test_each_broken_rule_is_found(breaks, rules, what):
    run = copy.deepcopy(good())
    breaks(run)
    found = check(**run)
    assert {f.rule for f in found} == rules
    assert summary(found)[what] == 1


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path):
    path = tmp_path / "h"
    path.write_text(json.dumps(event(0, "assign", 0)) + "\n" + '{"t":1,"se')
    assert [e["event"] for e in read_history(path)] == ["assign"]


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '"x"', '{"seq":"1"}', "\0", json.dumps(event("1", "begin")), "1" * 5000])
def test_any_other_bad_line_is_named(tmp_path, line):
    path = tmp_path / "h"
    path.write_text(json.dumps(event(0, "assign", 0)) + "\n" + line + "\n" + json.dumps(event(1, "begin")) + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)
