"""A successor that is in the middle of finding out what a dead worker left outlives brokers that go away."""

import time

import pytest
import scenarios
from cluster import Cluster
from workload import plan


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(str(tmp_path_factory.mktemp("cluster")), 1) as c:
        yield c


def test_brokers_go_away_during_a_takeover(cluster, oracle_store, tmp_path):
    stage = scenarios.Stage(cluster, oracle_store, plan(oracle_store, 3, scenarios.PARTITIONS, 80), tmp_path)
    try:
        # The dead one's transaction lives longer than its session, so that the successor has to ask what is open.
        victim = stage.start("commit.after_offsets:3:kill", "--kafka", "session.timeout.ms=4000", "--kafka", "transaction.timeout.ms=3900")
        scenarios.until(lambda: not victim.alive())
        proxy = cluster.brokers[0].proxy
        successor = stage.start("takeover.before_fence:*:sleep=200", name="other")
        for _ in range(3):
            scenarios.until(lambda: "progress not known yet" in successor.log() or "partitions assigned" in successor.log())
            proxy.set("blackhole")
            time.sleep(2.5)
            proxy.set("refuse")
            time.sleep(1.5)
            proxy.set("calm")
            time.sleep(0.5)
            assert successor.alive(), successor.log()[-2000:]
        assert stage.findings() == []
    finally:
        stage.close()
