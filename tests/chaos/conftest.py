"""The services and workers of tests/e2e, with the binary of the chaos build and a broker that lets sessions be short."""

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
oracle_store, topics, start_worker, reader = e2e.oracle_store, e2e.topics, e2e.start_worker, e2e.reader


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    with e2e.Kafka(str(tmp_path_factory.mktemp("kafka")), ["group.min.session.timeout.ms=1000"]) as k:
        yield k
