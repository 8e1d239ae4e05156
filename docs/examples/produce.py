#!/usr/bin/env python3
"""Put prompt batches on the topic.

    produce.py --topic prompts --prompt "In the beginning" --prompt "And God said" --count 3

Needs confluent-kafka and msgpack. The record is described in docs/wire.md, the keys by schemas/prompt_batch.cddl.
"""
import argparse
import sys
import time
import uuid

import msgpack
from confluent_kafka import Producer


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--brokers", default="127.0.0.1:9092", help="host:port,... (default: %(default)s)")
    p.add_argument("--topic", required=True, help="topic of the prompts")
    p.add_argument("--prompt", action="append", required=True, help="text; give it again for more prompts in each batch")
    p.add_argument("--count", type=int, default=1, help="batches to send (default: %(default)s)")
    p.add_argument("--batch-id", default=uuid.uuid4().hex[:8], help="batches are named so, with -0, -1, ... (default: random)")
    p.add_argument("--model", help="name or name@version (default: the worker's own)")
    p.add_argument("--max-tokens", type=int, default=32, help="new tokens for each prompt (default: %(default)s)")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    args = p.parse_args()

    undelivered = []

    def delivered(error, _message):
        if error is not None:
            undelivered.append(error)

    producer = Producer({"bootstrap.servers": args.brokers, "enable.idempotence": True})    # no doubles on a retry
    for i in range(args.count):
        batch = {
            "v": 1,
            "batch_id": f"{args.batch_id}-{i}",
            "created_ms": time.time_ns() // 1_000_000,
            "defaults": {"max_tokens": args.max_tokens, "temperature": args.temperature},
            "prompts": [{"id": f"p{k}", "text": text} for k, text in enumerate(args.prompt)],
        }
        if args.model:
            batch["model"] = args.model
        while len(producer) >= 10_000:    # the client's own queue ends at 100,000, and then produce() raises
            producer.poll(0.1)
        producer.produce(args.topic, key=batch["batch_id"], value=msgpack.packb(batch), on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(30)
    if left or undelivered:
        sys.exit(f"{left + len(undelivered)} of {args.count} batches were not delivered: {(undelivered or ['timed out'])[0]}")
    print(f"sent {args.count} batches, {args.count * len(args.prompt)} prompts")


if __name__ == "__main__":
    main()
