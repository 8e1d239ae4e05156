"""The services and workers of tests/e2e, with the binary of the chaos build, and one cluster for what is played on it."""

import importlib.util
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("ROUSE", str(ROOT / "build" / "chaos" / "bin" / "rouse"))
_spec = importlib.util.spec_from_file_location("e2e", ROOT / "tests" / "e2e" / "conftest.py")
e2e = importlib.util.module_from_spec(_spec)
sys.modules["e2e"] = e2e
_spec.loader.exec_module(e2e)
kafka, oracle_store, topics, start_worker, reader = e2e.kafka, e2e.oracle_store, e2e.topics, e2e.start_worker, e2e.reader


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    from cluster import Cluster

    with Cluster(str(tmp_path_factory.mktemp("cluster")), 1) as c:
        yield c


@pytest.fixture(scope="session")
def batches(oracle_store):
    """Each partition begins with a long prompt among short ones; many short ones are behind it."""
    import random

    import scenarios
    from workload import with_long_heads

    return with_long_heads(oracle_store, random.Random(5), scenarios.PARTITIONS)


@pytest.fixture
def stage(cluster, oracle_store, batches, tmp_path):
    """stage(mutant="") -> scenarios.Stage; ended with the test."""
    from scenarios import Stage

    stages = []

    def make(mutant=""):
        stages.append(Stage(cluster, oracle_store, batches, tmp_path, mutant))
        return stages[-1]

    yield make
    for s in stages:
        s.close()
