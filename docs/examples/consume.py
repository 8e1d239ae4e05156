#!/usr/bin/env python3
"""Print completions as they are committed.

    consume.py --topic completions --count 6
    consume.py --topic completions --json | jq .text

Needs confluent-kafka and msgpack. The record is described in docs/wire.md, the keys by schemas/completion.cddl.
"""
import argparse
import json
import sys
import time
import uuid

import msgpack
from confluent_kafka import Consumer


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--brokers", default="127.0.0.1:9092", help="host:port,... (default: %(default)s)")
    p.add_argument("--topic", required=True, help="topic of the completions")
    p.add_argument("--group", default=f"consume-{uuid.uuid4().hex[:8]}", help="consumer group (default: a new one, from the start)")
    p.add_argument("--count", type=int, default=0, help="stop after so many completions; 0: never (default)")
    p.add_argument("--timeout", type=float, default=0, help="stop, with exit code 1, after so many seconds; 0: never (default)")
    p.add_argument("--json", action="store_true", help="one line of JSON for each completion")
    args = p.parse_args()

    consumer = Consumer({
        "bootstrap.servers": args.brokers,
        "group.id": args.group,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",    # what a worker did not commit was never said
    })
    consumer.subscribe([args.topic])
    deadline = time.monotonic() + args.timeout if args.timeout else float("inf")
    n = 0
    try:
        while (not args.count or n < args.count) and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                print(message.error(), file=sys.stderr)
                continue
            c = msgpack.unpackb(message.value())
            why = f"error {c['error']['code']}: {c['error']['message']}" if "error" in c else c["finish_reason"]
            line = json.dumps(c, ensure_ascii=False) if args.json else f"{c['batch_id']}/{c['id']} ({why}): {c['text']}"
            print(line, flush=True)
            n += 1
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()
    sys.exit(1 if n < args.count else 0)


if __name__ == "__main__":
    main()
