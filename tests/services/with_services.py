#!/usr/bin/env python3
"""Runs a command with a real Kafka and a real Redis up: with_services.py -- COMMAND ... {brokers} ... {redis} ...

Ends both when the command ends, and with its exit code.
"""
import signal
import subprocess
import sys
import tempfile

from services import Kafka, Redis


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="rouse-services-") as folder:
        with Redis(folder + "/redis") as redis, Kafka(folder + "/kafka") as kafka:
            argv = [a.format(brokers=kafka.bootstrap, redis=redis.url) if "{" in a else a for a in sys.argv[2:]]
            child = subprocess.Popen(argv)
            try:
                return child.wait()
            except KeyboardInterrupt:  # the child got it too, and drains
                return child.wait()


if __name__ == "__main__":
    sys.exit(main())
