"""A successor that is in the middle of finding out what a dead worker left outlives brokers that go away."""

import time

import scenarios


def test_brokers_go_away_during_a_takeover(cluster, stage):
    on = stage()
    # The dead one's transaction lives about as long as its session, so that the successor has to ask what is open.
    victim = on.start("commit.after_offsets:3:kill", "--kafka", "session.timeout.ms=4000", "--kafka", "transaction.timeout.ms=3900")
    scenarios.until(lambda: not victim.alive())
    proxy = cluster.brokers[0].proxy
    successor = on.start("takeover.before_fence:*:sleep=200", name="other")
    for _ in range(3):
        scenarios.until(lambda: "progress not known yet" in successor.log() or "partitions assigned" in successor.log())
        proxy.set("blackhole")
        time.sleep(2.5)
        proxy.set("refuse")
        time.sleep(1.5)
        proxy.set("calm")
        time.sleep(0.5)
        assert successor.alive(), successor.log()[-2000:]
    assert on.findings() == []
