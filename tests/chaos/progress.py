"""Reads the progress map of schemas/progress_map.h, written independently of the C."""

import base64


def _varint(data, at):
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"the number at byte {at} does not end")
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 128:
            return value, at


def _bits(data, at, n):
    end = at + (n + 7) // 8
    if end > len(data):
        raise ValueError(f"{n} bits at byte {at} of {len(data)}")
    return [i for i in range(n) if data[at + i // 8] >> i % 8 & 1], end


def decode(text, base):
    """(offsets that are done, {offset: prompts that are done}); empty for a text that is not one of ours."""
    if not text or not text.startswith("r1:"):
        return set(), {}
    try:
        data = base64.b64decode(text[3:], validate=True)
    except ValueError as why:
        raise ValueError(f"{text!r} is not base64: {why}") from why
    flags, at = _varint(data, 0)
    for _ in range(2):
        _, at = _varint(data, at)
    n, at = _varint(data, at)
    at += n
    span, at = _varint(data, at)
    if span > 1 << 24:  # offsets are listed one by one: no test is that long
        raise ValueError(f"a span of {span}")
    records = set()
    if flags & 1:
        bits, at = _bits(data, at, span)
        records = {base + i for i in bits}
    else:
        done, position = False, 0
        while position < span:
            n, at = _varint(data, at)
            if position + n > span:
                raise ValueError(f"runs beyond the span of {span}")
            if done:
                records |= set(range(base + position, base + position + n))
            position, done = position + n, not done
    n_partial, at = _varint(data, at)
    partial, offset = {}, base
    for _ in range(n_partial):
        delta, at = _varint(data, at)
        n, at = _varint(data, at)
        bits, at = _bits(data, at, n)
        offset += delta
        partial[offset] = set(bits)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes behind the end")
    return records, partial
