#!/usr/bin/env python3
"""Hurts a pool of workers while it works, and judges what came of it (check_history.py).

  run_chaos.py --seed 7 --faults 100 --prompts 3000 --brokers 3 --protocol classic --json

Exit 0: every rule held. 1: one was broken; the folder with logs, histories and the order of faults stays. The binary is
build/chaos/bin/rouse, or what ROUSE names.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import conftest  # noqa: F401 - names the fixtures of tests/e2e as the module e2e
from check_history import check, read_history, summary
from cluster import Cluster
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from e2e import ORACLE, Topics, newest_librdkafka, rouse
from nemesis import Nemesis, Pool, log_of
from workload import HASTY, OFFSETS_TOPIC, Feed, Outcomes, palette, records

PARTITIONS = 6
DRAIN_S = 90  # from the end of the faults: a session, a restart, and the work that is left


class Feeder(threading.Thread):
    """Puts its share of the records for the share of faults that happened."""

    def __init__(self, feed, batches, share):
        super().__init__(daemon=True)
        self.feed, self.batches, self.share, self.broken = feed, batches, share, None

    def run(self):
        try:
            for i, record in enumerate(self.batches):
                while i >= (self.share() + 0.05) * len(self.batches):
                    time.sleep(0.02)
                    self.feed.producer.poll(0)
                self.feed.put(record)
            self.feed.flush()
        except Exception as why:  # noqa: BLE001 - told by join_it
            self.broken = why

    def join_it(self):
        self.join(180)
        if self.broken or self.is_alive():
            raise RuntimeError(f"records could not be produced: {self.broken or 'still waiting'}")


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=1, help="of the faults, the work and the failpoints")
    p.add_argument("--faults", type=int, default=50, help="how many before the pool may recover (50)")
    p.add_argument("--prompts", type=int, default=1500, help="in all, spread over the faults (1500)")
    p.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    p.add_argument("--workers", type=int, default=3, help="of the pool at the beginning (3)")
    p.add_argument("--protocol", choices=("classic", "consumer"), default="classic", help="of the group; consumer wants librdkafka >= 2.12")
    p.add_argument("--newest", action="store_true", help="workers run on the newest librdkafka at hand; always with --protocol consumer")
    p.add_argument("--pause", type=float, default=1.2, metavar="S", help="between faults, on average (1.2)")
    p.add_argument("--deaths-max", type=int, default=0, help="as the worker's; dead letters 'poison' are fine then (0)")
    p.add_argument("--mutant", default="", help="one of base/failpoint.h: the rule that is broken on purpose")
    p.add_argument("--folder", help="for everything that is written; it stays. Default: a new one, which stays after a failure")
    p.add_argument("--json", action="store_true", help="the verdict as one line of JSON")
    return p.parse_args(argv)


def protocol_args(protocol):
    """The session of the consumer protocol is the brokers' business."""
    if protocol == "classic":
        return HASTY
    pairs = [("--kafka", a) for a in HASTY if "=" in a and not a.startswith("session.")]
    return ["--kafka", "group.protocol=consumer", *(a for pair in pairs for a in pair)]


def unreadable(cluster, topics):
    """Partitions whose readers wait for a transaction that nobody ends: {"topic/partition": (last stable offset, end)}."""
    admin, found = AdminClient({"bootstrap.servers": cluster.bootstrap}), {}
    for topic in (topics.completions, topics.dead, OFFSETS_TOPIC):
        parts = [TopicPartition(topic, i) for i in admin.list_topics(topic, 10).topics[topic].partitions]
        ends = [{p: f.result().offset for p, f in admin.list_offsets({p: OffsetSpec.latest() for p in parts}, isolation_level=level).items()}
                for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED)]
        found.update({f"{topic}/{p.partition}": (ends[0][p], ends[1][p]) for p in parts if ends[0][p] != ends[1][p]})
    return found


def go(args, folder):
    rng = random.Random(args.seed)
    store = str(folder / "store")
    rouse("snapshot", "build", "--model", ORACLE, "--store", store)
    batches = records(palette(store, rng, 64), rng, PARTITIONS, args.prompts)
    with Cluster(str(folder / "cluster"), args.brokers) as cluster:
        topics = Topics(cluster.bootstrap, PARTITIONS, cluster.copies)
        feed = Feed(topics)
        outcomes = Outcomes(topics, feed)
        pool = Pool(cluster, topics, store, folder, rng, args.workers, [*protocol_args(args.protocol), "--deaths-max", args.deaths_max],
                    {"ROUSE_MUTANT": args.mutant, **(newest_librdkafka(folder) if args.newest or args.protocol == "consumer" else {})})
        nemesis = Nemesis(cluster, pool, rng)
        began = time.monotonic()
        try:
            feeder = Feeder(feed, batches, lambda: nemesis.total() / args.faults)
            feeder.start()
            until = 0
            while nemesis.total() < args.faults:
                pool.mend()
                nemesis.heal_due()
                if time.monotonic() > until and nemesis.step():
                    until = time.monotonic() + rng.uniform(0, 2 * args.pause)
                time.sleep(0.02)
            took = time.monotonic() - began
            nemesis.heal()
            feeder.join_it()
            calm = time.monotonic()
            while time.monotonic() < calm + DRAIN_S and not outcomes.drained():
                pool.mend()
                time.sleep(0.1)
            drained_s = time.monotonic() - calm
            outcomes.wait(10)
            stuck = unreadable(cluster, topics)
        finally:
            pool.close()
            log_of(nemesis, folder / "faults")
        outcomes.close()
        histories = {name: read_history(path) for name, path in pool.histories().items()}
        outputs = outcomes.outputs(poison_is_fine=args.deaths_max > 0)
        findings = check(feed.prompts, outputs, outcomes.progress(), feed.ends(), histories)
    odd = pool.odd_ends()
    return {
        "seed": args.seed, "protocol": args.protocol, "brokers": args.brokers, "mutant": args.mutant,
        "faults": nemesis.total(), "faults_a_minute": round(60 * nemesis.total() / took, 1),
        "by_name": dict(sorted((nemesis.counts + pool.counts).items())), "workers": len(pool.gone) + len(pool.members),
        "prompts": sum(map(len, feed.prompts.values())), "outputs": len(outputs), "commits": len(outcomes.offsets),
        "drained_s": round(drained_s, 1), "found": summary(findings), "findings": [str(f) for f in findings[:20]],
        "unreadable": stuck, "odd_ends": [(n, code, failpoint, log[-300:]) for n, code, failpoint, log in odd],
        "ok": not findings and not stuck and all(code >= 0 for _, code, _, _ in odd),
    }


def main():
    args = arguments()
    folder = pathlib.Path(args.folder or tempfile.mkdtemp(prefix="chaos-"))
    os.makedirs(folder, exist_ok=True)
    verdict = go(args, folder)
    if verdict["ok"] and not args.folder:
        shutil.rmtree(folder)
    else:
        print(f"logs and histories: {folder}", file=sys.stderr)
    print(json.dumps(verdict) if args.json else json.dumps(verdict, indent=1))
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
