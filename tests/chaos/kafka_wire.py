"""The one Kafka request that Python clients do not offer: which broker coordinates a group."""

import socket
import struct

FIND_COORDINATOR = 10


def _read(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise OSError("the connection was closed")
        data += more
    return data


def coordinator(addresses, group, seconds=2):
    """Node id of the group's coordinator, by the first "host:port" that knows; None: nobody does at the moment."""
    name = group.encode()
    request = struct.pack(">hhih", FIND_COORDINATOR, 0, 1, 5) + b"chaos" + struct.pack(">h", len(name)) + name
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), seconds) as s:
                s.settimeout(seconds)
                s.sendall(struct.pack(">i", len(request)) + request)
                (n,) = struct.unpack(">i", _read(s, 4))
                if not 10 <= n <= 4096:
                    raise ValueError(f"an answer of {n} bytes from {address}")
                _, error, node = struct.unpack_from(">ihi", _read(s, n))
        except OSError:
            continue
        if error == 0:
            return node
    return None
