#!/usr/bin/env python3
"""Checks that a group of workers answered every prompt exactly once, whatever happened to them.

Input is plain data, so that the tests of this file can make it up:

  prompts    {(partition, offset): [expected, ...]}: one for each prompt of the record; DEAD: a dead letter for this prompt;
             None: not known. A record that can only be refused as a whole is [DEAD].
  outputs    what a read_committed reader saw, in order: Output(...). txn is (worker, number); None: not known
  progress   {partition: [(base, {(offset, prompt), ...} done beyond it), ...]}: committed offsets with maps, over time
  ends       {partition: end offset of the topic}
  histories  {worker: [event, ...]}: lines of worker/history.h

The rules:

  I1  every prompt has exactly one outcome: a completion or a dead letter
  I2  nothing that is committed was begun by an owner that had lost the partition before
  I3  what is done (offset and map) never becomes undone
  I4  outputs of one prompt are not split over transactions
  I5  completions say what a calm run says
  I6  in the end the committed offset is the end of the topic, with an empty map
"""

import collections
import dataclasses
import json
import pathlib
import sys

DEAD = "dead letter"


@dataclasses.dataclass(frozen=True)
class Output:
    partition: int
    offset: int
    prompt: int
    text: str  # DEAD: a dead letter
    txn: tuple | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    rule: str
    what: str  # lost, doubled, invented, fenced, undone, torn, wrong, left
    where: tuple
    detail: str = ""


def check_outcomes(prompts, outputs):
    """I1 and I4. Outputs of one transaction belong together; with a prompt in two, it was doubled or torn."""
    seen = collections.defaultdict(list)
    for o in outputs:
        seen[o.partition, o.offset, o.prompt].append(o)
    wanted = {(*record, i) for record, parts in prompts.items() for i in range(len(parts))}
    for where in sorted(wanted - seen.keys()):
        yield Finding("I1", "lost", where)
    for where in sorted(seen.keys() - wanted):
        yield Finding("I1", "invented", where, str(seen[where]))
    for where, found in sorted(seen.items()):
        if len(found) > 1:
            yield Finding("I1", "doubled", where, str(found))
        if len({o.txn for o in found}) > 1:
            yield Finding("I4", "torn", where, str(found))


def check_content(prompts, outputs):
    """I5."""
    for o in outputs:
        parts = prompts.get((o.partition, o.offset))
        want = parts[o.prompt] if parts and o.prompt < len(parts) else None
        if want is not None and o.text != want:
            yield Finding("I5", "wrong", (o.partition, o.offset, o.prompt), f"want {want!r}, found {o.text!r}")


def check_progress(progress):
    """I3: a base that falls, or a prompt that was done and is open again."""
    for partition, steps in sorted(progress.items()):
        for (base, done), (base_next, done_next) in zip(steps, steps[1:]):
            if base_next < base:
                yield Finding("I3", "undone", (partition, base), f"base fell to {base_next}")
            for offset, prompt in sorted(done - done_next):
                if offset >= base_next:
                    yield Finding("I3", "undone", (partition, offset, prompt), f"done at base {base}, open at {base_next}")


def check_end(progress, ends):
    """I6."""
    for partition, end in sorted(ends.items()):
        steps = progress.get(partition, [])
        base, done = steps[-1] if steps else (0, set())
        if base != end or done:
            yield Finding("I6", "left", (partition, base), f"end {end}, {len(done)} done beyond the committed offset")


def check_owners(histories):
    """I2, by a worker's own account: a transaction with an output of a partition begins while the partition is its own, and
    when it commits after the loss, it had begun before (the broker is the judge of that race, and I1 shows its verdict)."""
    for worker, events in sorted(histories.items()):
        owned, begun_with, sent, lost_at = set(), set(), [], {}
        for e in sorted(events, key=lambda e: (e["pid"], e["seq"])):
            kind, partition = e["event"], e["partition"]
            if kind == "assign":
                owned.add(partition)
                lost_at.pop(partition, None)
            elif kind in ("revoke", "lost"):
                owned.discard(partition)
                lost_at[partition] = e["seq"]
            elif kind == "begin":
                begun_with, sent = set(owned), []
            elif kind == "send":
                sent.append(e)
            elif kind == "commit":
                for s in sent:
                    if s["partition"] not in begun_with and lost_at.get(s["partition"], s["seq"]) < s["seq"]:
                        yield Finding("I2", "fenced", (s["partition"], s["offset"], s["prompt"]), f"by {worker}, txn {e['txn']}")
                sent = []


def check(prompts, outputs, progress, ends, histories):
    """Every finding, in the order of the rules."""
    found = [
        *check_outcomes(prompts, outputs),
        *check_content(prompts, outputs),
        *check_progress(progress),
        *check_end(progress, ends),
        *check_owners(histories),
    ]
    return sorted(found, key=lambda f: (f.rule, f.where))


def read_history(path):
    """Events of one file. The last line may be cut: its writer was killed. Others may not."""
    lines = pathlib.Path(path).read_bytes().split(b"\n")
    cut = lines.pop()  # empty, unless there is no newline at the end
    events = []
    for n, line in enumerate(lines, 1):
        try:
            e = json.loads(line)
            for name in ("seq", "pid", "partition", "offset", "prompt", "txn"):
                if not isinstance(e[name], int):
                    raise ValueError(f"{name} is not a number")
            if not isinstance(e["event"], str):
                raise ValueError("event is not a text")
        except (ValueError, KeyError, TypeError) as why:
            raise ValueError(f"{path}, line {n}: not a line of a history: {why!r}") from why
        events.append(e)
    if cut:
        print(f"{path}: the last line is cut after {len(cut)} bytes", file=sys.stderr)
    return events


def summary(findings):
    """Counts by what was found; all the words are there."""
    counts = collections.Counter(f.what for f in findings)
    return {word: counts[word] for word in ("lost", "doubled", "invented", "fenced", "undone", "torn", "wrong", "left")}
